//! The verbs of the protocol: what is asked of whom, in which order, and what is taken back when a step fails.

mod add;
mod check;
mod del;
mod gc;
mod status;

use std::path::PathBuf;

use serde_json::Value;

use crate::conf::Conf;
use crate::daemon::Daemon;
use crate::delegate::Delegate;
use crate::environment::{self, Lookup, Target, Verb};
use crate::error::{CniError, Code};
use crate::log::Log;
use crate::turn::{Turn, TurnError};
use crate::version::CniVersion;

/// A call of this program.
pub struct Call<'a> {
    /// What is asked for.
    pub verb: Verb,
    /// The environment.
    pub lookup: Lookup<'a>,
    /// The network's configuration.
    pub stdin: &'a [u8],
}

/// What goes to stdout.
#[derive(Debug)]
pub struct Outcome {
    /// The version of an error object.
    pub version: CniVersion,
    /// A result, nothing, or an error.
    pub answer: Result<Option<Value>, CniError>,
}

impl Outcome {
    /// A failure before the network's version is known.
    pub fn failed(error: CniError) -> Self {
        Self {
            version: CniVersion::NEWEST,
            answer: Err(error),
        }
    }
}

/// What each verb works with.
struct Context<'a> {
    conf: &'a Conf,
    daemon: Daemon,
    delegate: Option<Delegate<'a>>,
    log: &'a Log,
}

impl Context<'_> {
    /// The IPAM plugin speaks through the interface.
    fn needs_interface(&self) -> bool {
        self.delegate.as_ref().is_some_and(Delegate::needs_interface)
    }

    /// Waits for another ADD or DEL of this interface, where that may be at an IPAM plugin before the daemon knows of it; else
    /// the daemon takes care.
    fn turn(&self, target: &Target) -> Result<Option<Turn>, CniError> {
        if self.delegate.is_none() || self.needs_interface() {
            return Ok(None);
        }
        let socket = self.conf.daemon_socket();
        match Turn::wait(socket.parent().unwrap_or(&socket), &target.id) {
            Ok(turn) => Ok(Some(turn)),
            // Without the daemon's folder there is no daemon, and that is the error to be told.
            Err(error @ TurnError::File { .. }) => {
                self.log
                    .warning(&format!("two calls for this interface may meet: {error}"));
                Ok(None)
            }
            Err(error @ TurnError::Busy) => Err(CniError::new(
                Code::TryAgainLater,
                about("clearway-cni could not begin with", target),
                format!("{error}; its IPAM plugin may not answer; the runtime may try again"),
            )),
        }
    }

    /// Has the IPAM plugin do its part of a verb, if there is one.
    fn ask_delegate(&self, verb: Verb) -> Result<(), CniError> {
        let delegate = self.delegate.as_ref();
        delegate.map_or(Ok(()), |delegate| delegate.ask(verb))
    }
}

/// Serves a call other than VERSION.
pub fn call(call: &Call) -> Outcome {
    let read = Conf::object(call.stdin)
        .map_err(CniError::from)
        .and_then(|map| CniVersion::of(&map).map(|version| (map, version)));
    let (map, version) = match read {
        Ok(read) => read,
        Err(error) => return Outcome::failed(error),
    };
    let answer = Conf::read(map, version)
        .map_err(CniError::from)
        .and_then(|conf| serve(call, &conf));
    Outcome { version, answer }
}

fn serve(call: &Call, conf: &Conf) -> Result<Option<Value>, CniError> {
    let about = ["CNI_CONTAINERID", "CNI_IFNAME"].map(|name| {
        let value = (call.lookup)(name).unwrap_or_default();
        value.to_string_lossy().into_owned()
    });
    let about = format!("{} {} {}", call.verb.as_str(), conf.name, about.join("/"));
    let log = Log::open(conf.log_level(), conf.log_file().as_deref(), about);
    log.debug(&String::from_utf8_lossy(call.stdin));
    let answer = dispatch(call, conf, &log);
    match &answer {
        Ok(Some(result)) => log.info(&format!("done: {result}")),
        Ok(None) => log.info("done"),
        Err(error) => log.error(&error.to_string()),
    }
    answer
}

fn dispatch(call: &Call, conf: &Conf, log: &Log) -> Result<Option<Value>, CniError> {
    let verb = call.verb;
    if conf.version < verb.since() {
        return Err(CniError::new(
            Code::IncompatibleVersion,
            format!("CNI {} has no {}", conf.version, verb.as_str()),
            format!(
                "{} came with CNI {}; write that as the network's cniVersion",
                verb.as_str(),
                verb.since()
            ),
        ));
    }
    let folders: Vec<PathBuf> = environment::plugin_folders(call.lookup);
    let context = Context {
        conf,
        daemon: Daemon::new(&conf.daemon_socket()),
        delegate: conf.delegate()?.map(|name| Delegate {
            name,
            folders: &folders,
            stdin: call.stdin,
            version: conf.version,
        }),
        log,
    };
    let target = || environment::target(verb, call.lookup).map_err(CniError::from);
    match verb {
        Verb::Add => {
            let target = target()?;
            let _turn = context.turn(&target)?;
            add::add(&context, &target).map(Some)
        }
        Verb::Del => {
            let target = target()?;
            let _turn = context.turn(&target)?;
            del::del(&context, &target).map(|()| None)
        }
        Verb::Check => check::check(&context, &target()?).map(|()| None),
        Verb::Gc => gc::gc(&context).map(|()| None),
        Verb::Status => status::status(&context).map(|()| None),
        Verb::Version => Ok(Some(crate::version::answer(call.stdin))),
    }
}

/// What is being done, for errors.
fn about(what: &str, target: &Target) -> String {
    format!(
        "{what} interface {} of container {}",
        target.id.interface, target.id.container
    )
}
