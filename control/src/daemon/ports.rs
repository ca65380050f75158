//! The ports as they are: open or waiting, each with its counters, and how they come and go.
//!
//! ```text
//!   Down ── claim, open ──► installed: in the tables ── plug ──► polled by workers
//!     ▲                                                            │
//!     └──── take_down, shut: unplug, give the interface back ◄─────┘
//! ```

use std::time::{Duration, Instant};

use clearway_config::{Name, Port, Spec};
use clearway_engine::{PortId, QueueEvent, WorkerId};
use clearway_io::AnyPort;

use super::control::Control;
use super::counters::Totals;
use super::open::{Open, OpenError, Opener, Ours};
use crate::host::links::LinkState;
use crate::host::tap::Tap;

/// A port that does not open is tried again after this time, and then twice as long each time …
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// … up to this.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A port, open or not.
pub(super) struct Entry {
    pub(super) id: PortId,
    pub(super) state: PortState,
    pub(super) totals: Totals,
    /// What is steered to it, as its program was told.
    pub(super) ours: Ours,
    /// By position in `Open::queues`.
    pub(super) workers: Vec<WorkerId>,
}

/// Whether a port is open.
pub(super) enum PortState {
    Open(Box<Open>),
    Down {
        reason: String,
        retry_at: Instant,
        backoff: Duration,
    },
}

impl Entry {
    pub(super) fn down(id: PortId, reason: String) -> Self {
        Self {
            id,
            state: PortState::Down {
                reason,
                retry_at: Instant::now() + FIRST_RETRY,
                backoff: FIRST_RETRY,
            },
            totals: Totals::default(),
            ours: Ours::default(),
            workers: Vec::new(),
        }
    }

    pub(super) fn opened(&self) -> Option<&Open> {
        match &self.state {
            PortState::Open(open) => Some(open),
            PortState::Down { .. } => None,
        }
    }

    /// When it is tried again; none: it is open.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            PortState::Down { retry_at, .. } => Some(retry_at),
            PortState::Open(_) => None,
        }
    }

    /// Something has changed that may help: it is tried at once, if it is down.
    pub(super) fn try_soon(&mut self) {
        if let PortState::Down {
            retry_at, backoff, ..
        } = &mut self.state
        {
            *retry_at = Instant::now();
            *backoff = FIRST_RETRY;
        }
    }

    /// The interface as it was last seen.
    pub(super) fn link(&self) -> Option<&LinkState> {
        Some(&self.opened()?.wire.as_ref()?.state)
    }

    /// The interface as it was last seen, also of a TAP, which may be in another network namespace.
    pub(super) fn shown(&self) -> Option<&LinkState> {
        let tap = || Some(&self.opened()?.tap.as_ref()?.state);
        self.link().or_else(tap)
    }

    /// Why it does not forward; none: it does.
    pub(super) fn why_down(&self) -> Option<String> {
        match &self.state {
            PortState::Down { reason, .. } => Some(reason.clone()),
            PortState::Open(open) if open.tap.is_some() => open.tap.as_ref().and_then(Tap::why_down),
            PortState::Open(_) => self.link().filter(|link| !link.carrier).map(|link| {
                format!(
                    "interface {} has no carrier: its other end is down or unplugged",
                    link.name
                )
            }),
        }
    }
}

impl Control {
    /// Tries the ports that are down and due once more.
    pub(super) fn retry_ports(&mut self, now: Instant) {
        let is_due = |entry: &Entry| entry.retry_at().is_some_and(|at| at <= now);
        for name in self.names(is_due) {
            self.retry(&name);
        }
    }

    /// The names of these ports.
    pub(super) fn names(&self, which: impl Fn(&Entry) -> bool) -> Vec<Name> {
        let these = self.ports.iter().filter(|(_, entry)| which(entry));
        these.map(|(name, _)| name.clone()).collect()
    }

    /// Closes an open port that does not work any more; it is tried again by and by.
    pub(super) fn take_down(&mut self, name: &Name, why: &OpenError) {
        let Some(entry) = self.ports.get_mut(name) else {
            return;
        };
        if matches!(entry.state, PortState::Down { .. }) {
            return;
        }
        tracing::warn!(port = %name, reason = why.reason(), "down");
        let down = PortState::Down {
            reason: why.reason().to_owned(),
            retry_at: Instant::now() + FIRST_RETRY,
            backoff: FIRST_RETRY,
        };
        let PortState::Open(open) = std::mem::replace(&mut entry.state, down) else {
            return;
        };
        self.unplug(name, *open);
        self.flush_port(name);
        self.republish();
    }

    /// Takes a port's queues from the workers, gives its interface back, closes its sockets.
    pub(super) fn unplug(&mut self, name: &Name, mut open: Open) {
        // First the interface: then nothing arrives any more for queues that nobody polls.
        if let Some(wire) = open.wire.take() {
            wire.give_back(&mut self.host);
        }
        let Some(entry) = self.ports.get_mut(name) else {
            return;
        };
        let queues = std::mem::take(&mut open.queues);
        for queue in &queues {
            match self.engine.take_queue(entry.id, *queue) {
                Ok(io) => drop(io),
                Err(error) => tracing::error!(port = %name, queue, %error, "the queue was not given back"),
            }
        }
        entry.totals.retire();
        entry.workers.clear();
        // A fault of a queue that is gone must not be taken for one of its successor.
        let id = entry.id;
        let stale = |event: &QueueEvent| matches!(event, QueueEvent::Fault { port, .. } if *port == id);
        self.unread
            .extend(self.engine.events().into_iter().filter(|event| !stale(event)));
        open.queues = queues;
        self.opener().close(open);
    }

    /// Tries once more to open a port that is down.
    fn retry(&mut self, name: &Name) {
        let Some(port) = self.spec.ports.get(name).cloned() else {
            return;
        };
        let ours = self.ours(&self.spec, name);
        let has_service = has_service(&self.spec, name);
        let there = self.pod_is_there(name);
        let mut opener = self.opener();
        let claim = there.and_then(|()| opener.claim(&port));
        match claim.and_then(|claim| opener.open(&port, claim, has_service, &ours)) {
            Ok(open) => {
                self.install(name, &port, open, ours);
                self.republish();
                self.plug(name);
                self.announce([name]);
                // The next hops of tunnels may lead through it.
                self.underlay_news();
            }
            Err(error) => self.still_down(name, &error),
        }
    }

    fn still_down(&mut self, name: &Name, error: &OpenError) {
        let Some(entry) = self.ports.get_mut(name) else {
            return;
        };
        if let PortState::Down {
            reason,
            retry_at,
            backoff,
        } = &mut entry.state
        {
            if reason != error.reason() {
                tracing::warn!(port = %name, reason = error.reason(), "still down");
                error.reason().clone_into(reason);
            }
            *retry_at = Instant::now() + *backoff;
            *backoff = (*backoff * 2).min(LAST_RETRY);
        }
    }

    /// Enters a port that was opened; nobody polls it yet.
    pub(super) fn install(&mut self, name: &Name, port: &Port, open: Open, ours: Ours) {
        let workers = self.assign(port, &open.queues);
        if let Some(entry) = self.ports.get_mut(name) {
            entry.workers = workers;
            entry.ours = ours;
            entry.state = PortState::Open(Box::new(open));
        }
    }

    /// Has workers poll a port that was installed; it is not up before it was announced.
    pub(super) fn plug(&mut self, name: &Name) {
        let Some(entry) = self.ports.get_mut(name) else {
            return;
        };
        let PortState::Open(open) = &mut entry.state else {
            return;
        };
        for (queue, io) in std::mem::take(&mut open.pending) {
            let region = io.region();
            let at = open.queues.iter().position(|q| *q == queue).unwrap_or(0);
            let worker = entry.workers.get(at).copied().unwrap_or_default();
            match self.engine.add_queue(worker, entry.id, queue, io, region) {
                Ok(counters) => entry.totals.add(counters),
                Err(error) => tracing::error!(port = %name, queue, %error, "the queue is not polled"),
            }
        }
        if let (Some(guest), Some(inbox)) = (&open.guest, &self.inbox) {
            if let Some(port) = self.spec.ports.get(name) {
                guest.limit_memory(self.spec.guest_memory_limit(port));
            }
            if let Err(error) = guest.start(name, inbox.clone()) {
                tracing::error!(port = %name, %error, "its guests are not served: its thread could not be started");
            }
        }
    }

    /// Waits until every worker knows the ports that were plugged, and says that they are up.
    pub(super) fn announce<'a>(&mut self, names: impl IntoIterator<Item = &'a Name>) {
        if let Err(error) = self.engine.wait_applied() {
            tracing::error!(%error, "ports that are new");
        }
        for name in names {
            let Some((entry, open)) = self
                .ports
                .get(name)
                .and_then(|entry| Some((entry, entry.opened()?)))
            else {
                continue;
            };
            let mode = open.mode.unwrap_or("-");
            tracing::info!(port = %name, mode, queues = ?open.queues, workers = ?entry.workers.iter().map(|w| w.0).collect::<Vec<_>>(), "up");
            for warning in &open.warnings {
                tracing::warn!(port = %name, "{warning}");
            }
        }
    }

    /// The worker of each queue: as configured, else the one with the fewest.
    pub(super) fn assign(&self, port: &Port, queues: &[u16]) -> Vec<WorkerId> {
        let mut busy = vec![0u32; self.engine.workers()];
        for worker in self.ports.values().flat_map(|entry| &entry.workers) {
            busy[usize::from(worker.0)] += 1;
        }
        spread(&mut busy, port, queues)
    }

    pub(super) fn opener(&mut self) -> Opener<'_> {
        Opener {
            host: &mut self.host,
            engine: &mut self.engine,
            groups: &mut self.groups,
            pods: &mut self.pods,
            state_dir: &self.state_dir,
            idle: self.spec.engine.idle,
        }
    }
}

/// The worker of each queue, given how many queues each worker has.
fn spread(busy: &mut [u32], port: &Port, queues: &[u16]) -> Vec<WorkerId> {
    let mut workers = Vec::with_capacity(queues.len());
    for queue in queues {
        let configured = port.workers.get(queue).map(|worker| usize::from(*worker));
        let idlest = (0..busy.len()).min_by_key(|worker| busy[*worker]).unwrap_or(0);
        // Validation knows the number of workers only where the configuration names them.
        let worker = configured.filter(|worker| *worker < busy.len()).unwrap_or(idlest);
        busy[worker] += 1;
        workers.push(WorkerId(worker as u8));
    }
    workers
}

/// Whether frames of other stations than the interface's own pass a port.
pub(super) fn has_service(spec: &Spec, name: &Name) -> bool {
    let layer_2 = |port: &Port| port.service() != clearway_config::Service::None;
    spec.ports.get(name).is_some_and(layer_2)
        || spec
            .cross_connects
            .iter()
            .any(|pair| pair.0 == *name || pair.1 == *name)
}

/// Closing a socket waits for the network stack to let go of it; many at a time wait together.
pub(super) fn close_all(queues: Vec<AnyPort>) {
    const THREADS: usize = 16;
    let mut shares: Vec<Vec<AnyPort>> = (0..THREADS).map(|_| Vec::new()).collect();
    for (at, queue) in queues.into_iter().enumerate() {
        shares[at % THREADS].push(queue);
    }
    std::thread::scope(|scope| {
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            scope.spawn(move || drop(share));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_go_to_the_idlest_worker_unless_told_otherwise() {
        let mut port = Port::af_xdp("e0");
        assert_eq!(
            spread(&mut [2, 0, 1], &port, &[0, 1, 2, 3])
                .iter()
                .map(|w| w.0)
                .collect::<Vec<_>>(),
            [1, 1, 2, 0]
        );
        port.workers.insert(1, 0);
        port.workers.insert(2, 9);
        assert_eq!(
            spread(&mut [5, 0], &port, &[0, 1, 2])
                .iter()
                .map(|w| w.0)
                .collect::<Vec<_>>(),
            [1, 0, 1]
        );
    }
}
