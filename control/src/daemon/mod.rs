//! The daemon: one control thread that owns the engine, the ports and the configuration in use.
//!
//! ```text
//!   API thread ── Request ──┐                     ┌─► engine: queues, tables     (workers: threads of their own)
//!   signals ────────────────┼─► control thread ───┼─► host: interfaces, journal
//!   netlink poller ─────────┘   (control.rs)      └─► compile · reconcile         (pure)
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `arrivals` | what comes to the control thread, and in which order it is dealt with |
//! | `control` | the loop, what it does when something happens, and the tables that it publishes |
//! | `ports` | the ports as they are, and how they come and go |
//! | `apply` | from one configuration to another: all or nothing |
//! | `attached` | the ports of attachments beside those of the configuration |
//! | `leaving` | ports of pods that are gone, until their interfaces are |
//! | `open` `groups` | opening ports; which of them share frame memory |
//! | `taps` | ports that are TAPs, in whichever network namespace |
//! | `vhost` `guests` | vhost-user: the threads that speak with front-ends; what they ask of the control thread |
//! | `underlay` | VTEPs and next hops |
//! | `stations` | the forwarding database: by hand, by configuration, flushed |
//! | `views` | what the API says of all that |
//!
//! Guarantees: whatever ends the daemon, every interface gets back what it had: at a clean end here, after a crash by
//! the next start (`host::restore`), and the XDP programs by the kernel in either case. Nothing here is on a packet's
//! way: a slow answer of the kernel delays a change, never a frame.

mod apply;
mod arrivals;
mod attached;
mod control;
mod counters;
mod groups;
mod guests;
mod leaving;
mod need;
mod open;
mod ports;
mod signals;
mod stations;
mod taps;
mod underlay;
mod vhost;
mod views;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use clearway_config::{HostFacts, SemanticError, Spec};
use clearway_engine::{Engine, EngineConfig, EngineError, Idle};

use crate::api::{Attachments, Server, SocketError};
use crate::attach::{HostGround, Manager, Watch};
use crate::handle::{Handle, Request};
use crate::host::HostError;
use crate::objects::Objects;
use crate::store::{FileStore, Owner, now_s};
use arrivals::Arrivals;
pub(crate) use attached::{AttachedPort, Standing};
use control::Control;
pub(crate) use vhost::remove_stale_socket;

/// What the daemon is started with.
#[derive(Debug)]
pub(crate) struct Options {
    /// The configuration.
    pub(crate) spec: Spec,
    /// The file that it is from: what was applied since that was read counts more.
    pub(crate) file: Option<PathBuf>,
    /// Where the API listens, whatever the configuration says.
    pub(crate) socket: PathBuf,
    /// Where the journals of changed interfaces are kept.
    pub(crate) state_dir: PathBuf,
    /// Where attachments are kept.
    pub(crate) store: PathBuf,
}

/// Why the daemon does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// The configuration does not fit this host.
    #[error("the configuration does not fit this host: {}", findings(.0))]
    Spec(Vec<SemanticError>),
    /// The API's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The workers.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The host's netlink, or the journals.
    #[error(transparent)]
    Host(#[from] HostError),
    /// More of something than there can be.
    #[error(transparent)]
    TooMany(#[from] crate::compile::TooMany),
    /// A port that can't be opened, and waiting would not help.
    #[error("port {port} can't be opened: {reason}")]
    Port {
        /// The port.
        port: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A thread or signal handler could not be made.
    #[error("{attempt} failed: {source}; check the limit of processes (ulimit -u)")]
    Thread {
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn findings(errors: &[SemanticError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// What comes to the control thread.
enum Message {
    /// Somebody asks.
    Request(Request),
    /// Netlink has news; the poller waits until they were read.
    Host,
    /// The thread of a vhost-user port asks.
    Guest(vhost::Question),
    /// The sockets of a pod that is gone were closed.
    Closed(leaving::Closed),
    /// A signal: end.
    Stop(&'static str),
}

/// Runs the daemon until it is told to stop. `ready` is called once, when every port of the configuration forwards.
pub(crate) fn run(options: Options, ready: fn()) -> Result<(), DaemonError> {
    let Options {
        mut spec,
        file,
        socket,
        state_dir,
        store,
    } = options;
    // Signals first: one that comes during the start must not leave an interface half done.
    let (send, messages) = mpsc::channel();
    let _signals = signals::listen(send.clone())?;
    let wants = {
        let send = send.clone();
        Handle::new(move |request| send.send(Message::Request(request)).is_ok())
    };
    let vhost = state_dir.parent().unwrap_or(&state_dir).join("vhost");
    let cores = allowed_cores();
    let facts = HostFacts {
        cores: Some(cores.iter().filter_map(|core| (*core).try_into().ok()).collect()),
    };
    spec.validate_on(&facts).map_err(DaemonError::Spec)?;
    let server = Server::bind(&socket)?;
    let attachments = attachments(&store, vhost, &wants);
    let objects;
    (spec, objects) = match (&file, &attachments) {
        (Some(_), Ok(manager)) => resume(manager, spec, &facts),
        _ => {
            let objects = Objects::first(&spec, Owner::File, now_s());
            (spec, objects)
        }
    };
    let workers = worker_cores(&spec, &cores);
    let engine = Engine::start(&engine_config(&spec, &workers))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?workers, "started");
    let mut control = Control::new(&spec, engine, state_dir, facts, objects)?;
    control.watch(send)?;
    if let Ok(manager) = &attachments {
        control.attached = manager.ports();
    }
    let api = server.start(wants, attachments.clone(), file)?;
    let started = control.start(std::mem::take(&mut spec));
    let mut messages = Arrivals::new(messages);
    let ended = started.and_then(|()| {
        // It asks the control thread, which has to serve until it has ended.
        let watch = attachments.ok().map(Watch::start).transpose();
        let watch = watch.map_err(|source| DaemonError::Thread {
            attempt: "starting the thread that looks after attachments",
            source,
        })?;
        control.serve(&mut messages, ready);
        Ok(watch)
    });
    let shut = control.shut_down();
    // Who waits for the control thread now waits in vain.
    drop(messages);
    let ended = ended.map(drop);
    api.stop();
    ended.and(shut)
}

fn engine_config(spec: &Spec, workers: &[usize]) -> EngineConfig {
    EngineConfig {
        cores: workers.iter().copied().map(Some).collect(),
        idle: match spec.engine.idle {
            clearway_config::Idle::Adaptive => Idle::Adaptive,
            clearway_config::Idle::Spin => Idle::Spin,
        },
        fdb_capacity: spec.engine.fdb_capacity,
        fdb_seed: seed(),
    }
}

/// The attachments of a store. Without one the daemon forwards all the same.
fn attachments(store: &Path, vhost: PathBuf, handle: &Handle) -> Attachments {
    let ground = Box::new(HostGround::new(handle.clone(), vhost));
    let manager = FileStore::open(store).and_then(|store| Manager::open(Box::new(store), ground));
    manager.map(Arc::new).map_err(|error| {
        tracing::warn!(%error, "no attachments are kept: pods can't be attached");
        error.to_string()
    })
}

/// What was applied since the file was read last, if the file has not changed since and this host can still do it.
fn resume(manager: &Manager, file: Spec, facts: &HostFacts) -> (Spec, Objects) {
    let fits = |spec: &Spec| spec.validate_on(facts).map_err(|errors| findings(&errors));
    let (used, objects) = manager.resume(&file, fits);
    if objects.configuration.owner == Owner::Apply {
        tracing::info!(
            generation = objects.configuration.generation,
            "going on with what was applied: the configuration file has not changed since; `clearway apply --file FILE` goes back to it"
        );
    }
    (used, objects)
}

/// The cores on which this process may run.
fn allowed_cores() -> Vec<usize> {
    core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect()
}

/// The core of each worker: as configured; else one on every core that was isolated from the scheduler (for whom
/// else?); else one, on the last core, far from core 0 where interrupts and housekeeping are.
fn worker_cores(spec: &Spec, allowed: &[usize]) -> Vec<usize> {
    if !spec.engine.workers.is_empty() {
        return spec
            .engine
            .workers
            .iter()
            .map(|worker| usize::from(worker.core))
            .collect();
    }
    let isolated = std::fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let isolated = cores_in(isolated.trim());
    let ours: Vec<_> = allowed
        .iter()
        .copied()
        .filter(|core| isolated.contains(core))
        .take(clearway_config::Engine::MAX_WORKERS)
        .collect();
    if ours.is_empty() {
        vec![allowed.last().copied().unwrap_or(0)]
    } else {
        ours
    }
}

/// `0-2,8`
fn cores_in(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// MAC addresses are chosen by attackers, so the table's hash is theirs to guess: the standard library's keys come
/// from the kernel's random numbers.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_takes_as_many_workers_as_the_engine() {
        let refused = |workers: usize| {
            let start = Engine::manual(&EngineConfig {
                cores: vec![None; workers],
                idle: Idle::Adaptive,
                fdb_capacity: 1024,
                fdb_seed: 1,
            });
            start.is_err()
        };
        let most = clearway_config::Engine::MAX_WORKERS;
        assert_eq!((refused(most), refused(most + 1)), (false, true));
    }

    #[test]
    fn workers_go_where_they_are_told() {
        let mut spec = Spec::default();
        assert_eq!(worker_cores(&spec, &[0, 1, 5]).len(), 1);
        spec.engine.workers = vec![
            clearway_config::Worker { core: 1 },
            clearway_config::Worker { core: 0 },
        ];
        assert_eq!(worker_cores(&spec, &[0, 1, 5]), [1, 0]);
        assert_eq!(cores_in("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(cores_in(""), Vec::<usize>::new());
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(seed(), seed());
    }
}
