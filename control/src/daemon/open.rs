//! Opening and closing the ports: sockets, XDP program, and all that the interface must let go of meanwhile.
//!
//! ```text
//!   claim: link there and up? → queues → lock → nobody else's program?                        nothing is changed yet
//!   open: UMEM group → sockets → offloads, napi → program → attach
//!   close: detach → give the interface back → queues out of the workers → sockets
//! ```
//!
//! What [`Opener::open`] leaves behind when it fails is what it found. An error says whether waiting helps
//! ([`OpenError::Wait`]) or somebody has to do something.

mod error;
mod pods;

pub(super) use error::OpenError;
pub(super) use pods::Pods;

use std::num::NonZeroU64;
use std::path::Path;

use clearway_config::{BusyPoll as BusyPollWish, Checksum, Idle, Port, PortKind, Steering as Wish};
use clearway_engine::{Engine, EngineError};
use clearway_io::{
    AfXdpPort, AnyPort, AttachMode, BusyPoll, CallError, Interface, MemoryPeer, ModeRequest, PcapngConfig,
    PcapngPort, QueueConfig, Steering, VlanFilter, VtepFilter, XdpError, XdpProgram, XskError, memory_port,
};

use self::pods::Program;
use super::groups::{Groups, Need, Place};
use super::need::{Found, need};
use super::vhost::Guest;
use crate::host::links::{Link, LinkState};
use crate::host::napi::NapiKnobs;
use crate::host::promisc::Promiscuous;
use crate::host::restore::Changes;
use crate::host::tap::Tap;
use crate::host::{Host, offload};

/// SO_BUSY_POLL: for AF_XDP every poll is one pass, whatever the value.
const BUSY_POLL_MICROS: u32 = 20;
/// What af_xdp.rst suggests for preferred busy polling.
const BUSY_POLL_BUDGET: u32 = 64;
/// Frames between the daemon and a memory port.
const MEMORY_RING: usize = 1024;

/// A port that is open. Its queues are the engine's once they were added.
pub(super) struct Open {
    /// Queues that are not the engine's yet.
    pub(super) pending: Vec<(u16, AnyPort)>,
    /// Their numbers.
    pub(super) queues: Vec<u16>,
    /// Its place in the frame memory; none for a port without a UMEM of its own.
    pub(super) place: Option<Place>,
    /// The way that frames take: `zero-copy`, `copy`, `generic`.
    pub(super) mode: Option<&'static str>,
    /// What works, but not as well as it could.
    pub(super) warnings: Vec<String>,
    /// A veth's peer may leave checksums unfinished.
    pub(super) unfinished_checksums: bool,
    /// The interface, for ports that have one.
    pub(super) wire: Option<Wire>,
    /// The interface of a TAP.
    pub(super) tap: Option<Tap>,
    /// Who serves its guests, for vhost-user ports: queues come and go with them.
    pub(super) guest: Option<Guest>,
    /// The other end of a memory port: nobody else has it.
    _peer: Option<MemoryPeer>,
}

/// The interface of an open port, and what was done to it.
pub(super) struct Wire {
    pub(super) state: LinkState,
    program: Program,
    changes: Changes,
    _promiscuous: Option<Promiscuous>,
}

/// What is steered to a shared port.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Ours {
    pub(super) vlans: Vec<VlanFilter>,
    pub(super) vteps: Vec<VtepFilter>,
}

impl Wire {
    /// Changes what is steered to the port, live.
    pub(super) fn steer(&mut self, port: &Port, ours: &Ours) -> Result<(), XdpError> {
        self.program.steer(port, ours)
    }
}

fn steering(port: &Port) -> Steering {
    match port.steering {
        Wish::Exclusive => Steering::Exclusive,
        Wish::Shared => Steering::Shared,
    }
}

/// An interface that is ready, with our program on it.
struct Attached {
    program: Program,
    mode: AttachMode,
    warnings: Vec<String>,
    /// A veth's peer may leave checksums unfinished.
    unfinished: bool,
    promiscuous: Option<Promiscuous>,
}

/// A port on an interface that is to be opened.
struct Wanted<'a> {
    port: &'a Port,
    found: &'a Found,
    interface: &'a Interface,
    need: &'a Need,
    busy_poll: Option<BusyPoll>,
    has_service: bool,
    ours: &'a Ours,
}

/// Its sockets by queue, where their memory is, and the program.
type Ready = (Place, Vec<(u16, AfXdpPort)>, Attached);

/// Whatever opening needs.
pub(super) struct Opener<'a> {
    pub(super) host: &'a mut Host,
    pub(super) engine: &'a mut Engine,
    pub(super) groups: &'a mut Groups,
    pub(super) pods: &'a mut Pods,
    pub(super) state_dir: &'a Path,
    pub(super) idle: Idle,
}

/// What a port needs, and its interface, which nobody else has and which is as it was found, or as a daemon that crashed left it. For
/// [`Opener::open`] or [`Opener::abandon`]; dropped, it is only free.
pub(super) struct Claim {
    need: Need,
    interface: Option<(Found, Changes)>,
}

impl Opener<'_> {
    /// Makes sure that a port can be opened as far as that can be known without touching anything.
    pub(super) fn claim(&mut self, port: &Port) -> Result<Claim, OpenError> {
        let (need, found) = need(self.host, port)?;
        let Some(found) = found else {
            return Ok(Claim {
                need,
                interface: None,
            });
        };
        let link = &found.link;
        if !link.up {
            return Err(OpenError::Wait(format!(
                "interface {0} is down; waiting for it (`ip link set {0} up`)",
                link.name
            )));
        }
        let changes = Changes::begin(self.state_dir, self.host, link)?;
        // Asking what program it is costs a listing of all interfaces; that there is one, the link says.
        if !link.xdp.is_empty() && !port.replace {
            let interface = interface(link);
            if let Some(program) = XdpProgram::on_interface(&interface)? {
                give_back(self.host, changes, &link.name);
                let interface = interface.name;
                return Err(XdpError::Foreign { interface, program }.into());
            }
        }
        Ok(Claim {
            need,
            interface: Some((found, changes)),
        })
    }

    /// Gives a claim up: the interface is as it was found before whoever changed it crashed.
    pub(super) fn abandon(&mut self, claim: Claim) {
        if let Some((found, changes)) = claim.interface {
            give_back(self.host, changes, &found.link.name);
        }
    }

    /// Opens a port that was claimed. Its queues are in [`Open::pending`]: nobody polls them yet.
    pub(super) fn open(
        &mut self,
        port: &Port,
        claim: Claim,
        has_service: bool,
        ours: &Ours,
    ) -> Result<Open, OpenError> {
        match port.kind {
            PortKind::AfXdp => self.af_xdp(port, claim, has_service, ours),
            PortKind::Pcapng => self.pcapng(port, &claim.need),
            PortKind::Memory => memory(),
            PortKind::Tap => self.tap(port, &claim.need),
            PortKind::VhostUser => self.vhost_user(port, &claim.need),
        }
    }

    fn af_xdp(
        &mut self,
        port: &Port,
        claim: Claim,
        has_service: bool,
        ours: &Ours,
    ) -> Result<Open, OpenError> {
        let Claim {
            need,
            interface: found,
        } = claim;
        let Some((found, mut changes)) = found else {
            return Err(OpenError::Fatal("an af-xdp port without an interface".to_owned()));
        };
        let link = &found.link;
        let interface = interface(link);
        let wanted = Wanted {
            port,
            found: &found,
            interface: &interface,
            need: &need,
            busy_poll: self.busy_poll(port, link),
            has_service,
            ours,
        };
        let result = self.on_interface(&wanted, &mut changes);
        match result {
            Ok((open, program, promiscuous)) => Ok(Open {
                wire: Some(Wire {
                    state: link.state(),
                    program,
                    changes,
                    _promiscuous: promiscuous,
                }),
                ..open
            }),
            Err(error) => {
                give_back(self.host, changes, &link.name);
                Err(error)
            }
        }
    }

    fn on_interface(
        &mut self,
        wanted: &Wanted<'_>,
        changes: &mut Changes,
    ) -> Result<(Open, Program, Option<Promiscuous>), OpenError> {
        let (place, sockets, attached) = match self.in_mode(wanted, changes, wanted.found.mode)? {
            Some(ready) => ready,
            // Without zero copy there is always an answer.
            None => self
                .in_mode(wanted, changes, ModeRequest::AnyCopy)?
                .ok_or_else(|| OpenError::Fatal("neither zero copy nor copying worked".to_owned()))?,
        };
        let Attached {
            program,
            mode,
            warnings,
            unfinished,
            promiscuous,
        } = attached;
        let zero_copy = sockets.iter().all(|(_, socket)| socket.report().zero_copy);
        let open = Open {
            queues: wanted.found.queues.clone(),
            place: Some(place),
            mode: Some(match (zero_copy, mode) {
                (true, _) => "zero-copy",
                (false, AttachMode::Native) => "copy",
                (false, AttachMode::Generic) => "generic",
            }),
            warnings,
            unfinished_checksums: unfinished,
            wire: None,
            tap: None,
            guest: None,
            pending: sockets
                .into_iter()
                .map(|(queue, socket)| (queue, AnyPort::AfXdp(Box::new(socket))))
                .collect(),
            _peer: None,
        };
        Ok((open, program, promiscuous))
    }

    /// Sockets and program in a mode. None if only another will do: zero copy needs the program in the driver, and
    /// `auto` does without both where a driver takes the sockets but not the program.
    fn in_mode(
        &mut self,
        wanted: &Wanted<'_>,
        changes: &mut Changes,
        mode: ModeRequest,
    ) -> Result<Option<Ready>, OpenError> {
        let (place, sockets) = self.sockets(wanted, mode)?;
        let zero_copy = sockets.iter().any(|(_, socket)| socket.report().zero_copy);
        let attached = self.attach(wanted, changes, &sockets, mode);
        let native = matches!(&attached, Ok(attached) if attached.mode == AttachMode::Native);
        let other = mode == ModeRequest::Auto && zero_copy && !native;
        match attached {
            Ok(attached) if !other => Ok(Some((place, sockets, attached))),
            attached => {
                // A program that was attached goes before its sockets.
                let refusal = attached.err();
                drop(sockets);
                if let Err(error) = self.groups.leave(self.engine, &place, wanted.found.queues.len()) {
                    tracing::error!(%error, "frame memory was not freed");
                }
                refusal.filter(|_| !other).map_or(Ok(None), Err)
            }
        }
    }

    fn busy_poll(&self, port: &Port, link: &Link) -> Option<BusyPoll> {
        let on = match port.busy_poll {
            BusyPollWish::On => true,
            BusyPollWish::Off => false,
            // It helps where interrupts are: on a device, under a worker that never sleeps.
            BusyPollWish::Auto => link.bus.is_some() && self.idle == Idle::Spin,
        };
        on.then(|| BusyPoll {
            micros: BUSY_POLL_MICROS,
            budget: port.busy_poll_budget.map_or(BUSY_POLL_BUDGET, u32::from),
        })
    }

    /// The sockets of all queues, in a group that takes them.
    fn sockets(
        &mut self,
        wanted: &Wanted<'_>,
        mode: ModeRequest,
    ) -> Result<(Place, Vec<(u16, AfXdpPort)>), OpenError> {
        let Wanted {
            interface,
            need,
            busy_poll,
            ..
        } = *wanted;
        let queues = &wanted.found.queues;
        let mut second_try = false;
        loop {
            let place = self.groups.enter(self.engine, need)?;
            let config = QueueConfig {
                rings: place.rings,
                mode,
                busy_poll,
                tx_budget: place.rings.tx,
            };
            let Some(group) = self.groups.sockets(&place) else {
                return Err(OpenError::Fatal("the group of the port is gone".to_owned()));
            };
            let fresh = group.sockets() == 0;
            let opened: Result<Vec<_>, _> = queues
                .iter()
                .map(|queue| Ok((*queue, group.open(interface, u32::from(*queue), &config)?)))
                .collect();
            let error: XskError = match opened {
                Ok(sockets) => return Ok((place, sockets)),
                Err(error) => error,
            };
            // The group may be in a mode that this interface can't do: then one of its own is tried.
            let other_mode = matches!(error, XskError::GroupMode { .. })
                || matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL));
            let again = other_mode && !fresh && !second_try;
            if again {
                self.groups.close(&place);
            }
            let left = self.groups.leave(self.engine, &place, queues.len());
            left.map_err(|error: EngineError| OpenError::Fatal(error.to_string()))?;
            if !again {
                return Err(error.into());
            }
            second_try = true;
        }
    }

    /// Makes the interface ready and attaches the program.
    fn attach(
        &mut self,
        wanted: &Wanted<'_>,
        changes: &mut Changes,
        sockets: &[(u16, AfXdpPort)],
        mode: ModeRequest,
    ) -> Result<Attached, OpenError> {
        let Wanted {
            busy_poll,
            has_service,
            ..
        } = *wanted;
        let link = &wanted.found.link;
        let found = offload::prepare(self.host, changes, link)?;
        let unfinished = found.iter().any(|w| {
            matches!(
                w,
                offload::Warning::PeerNotFound { .. } | offload::Warning::PeerRefused { .. }
            )
        });
        let mut warnings: Vec<String> = found.iter().map(ToString::to_string).collect();
        if busy_poll.is_some()
            && let Err(error) = changes.set_napi_knobs(self.host, NapiKnobs::BUSY_POLL)
        {
            warnings.push(error.to_string());
        }
        let (program, mode) = self.program(wanted, sockets, mode, &mut warnings)?;
        // A NIC drops what is not for its own address; a veth has no such filter.
        let bridges = has_service && link.kind.as_deref() != Some("veth");
        let promiscuous = bridges.then(|| Promiscuous::hold(link.ifindex)).transpose()?;
        Ok(Attached {
            program,
            mode,
            warnings,
            unfinished,
            promiscuous,
        })
    }

    /// Attaches the program that pods share, or one of the port's own.
    fn program(
        &mut self,
        wanted: &Wanted<'_>,
        sockets: &[(u16, AfXdpPort)],
        mode: ModeRequest,
        warnings: &mut Vec<String>,
    ) -> Result<(Program, AttachMode), OpenError> {
        let Wanted {
            port,
            found,
            interface,
            ours,
            ..
        } = *wanted;
        if let [(_, socket)] = sockets
            && Pods::suit(port, &found.link, &found.queues)
            && let Some((link, mode)) = self.pods.attach(socket, mode)?
        {
            return Ok((Program::Shared(link), mode));
        }
        let mut program = Program::own(steering(port), ours, sockets)?;
        let mode = program.attach(interface, mode, port.replace)?;
        for replaced in program.replaced() {
            warnings.push(format!(
                "{} took the place of the XDP program {:?} (id {})",
                interface.name, replaced.name, replaced.id
            ));
        }
        Ok((Program::Own(program), mode))
    }

    fn pcapng(&mut self, port: &Port, need: &Need) -> Result<Open, OpenError> {
        let place = self.groups.enter(self.engine, need)?;
        let config = PcapngConfig {
            input: port.read.clone(),
            output: port.write.clone(),
            repeat: port.repeat,
            rate: port.rate.and_then(|rate| NonZeroU64::new(rate.into())),
        };
        let umem = self.groups.sockets(&place).map(|group| group.umem().clone());
        let Some(umem) = umem else {
            return Err(OpenError::Fatal("the group of the port is gone".to_owned()));
        };
        match PcapngPort::open(&config, &umem) {
            Ok(capture) => Ok(Open {
                pending: vec![(0, AnyPort::Pcapng(Box::new(capture)))],
                ..plain(Some(place))
            }),
            Err(error) => {
                let left = self.groups.leave(self.engine, &place, 1);
                left.map_err(|error| OpenError::Fatal(error.to_string()))?;
                Err(error.into())
            }
        }
    }

    fn vhost_user(&mut self, port: &Port, need: &Need) -> Result<Open, OpenError> {
        let place = self.groups.enter(self.engine, need)?;
        let umem = self.groups.sockets(&place).map(|group| group.umem().clone());
        let Some(umem) = umem else {
            return Err(OpenError::Fatal("the group of the port is gone".to_owned()));
        };
        let warnings = warnings_of_calls(clearway_io::calls_never_wait());
        match Guest::new(port, umem, self.state_dir) {
            Ok(guest) => Ok(Open {
                queues: Vec::new(),
                warnings,
                guest: Some(guest),
                ..plain(Some(place))
            }),
            Err(error) => {
                let left = self.groups.leave(self.engine, &place, need.queues);
                left.map_err(|error| OpenError::Fatal(error.to_string()))?;
                Err(error)
            }
        }
    }

    /// Closes a port whose queues the engine does not have any more.
    pub(super) fn close(&mut self, open: Open) {
        if let Some(wire) = open.wire {
            wire.give_back(self.host);
        }
        let queues = if open.guest.is_some() {
            0
        } else {
            open.queues.len()
        };
        drop(open.guest);
        drop(open.pending);
        if let Some(place) = open.place {
            self.leave(&place, queues);
        }
    }

    /// Gives the place of a port back whose sockets are closed.
    pub(super) fn leave(&mut self, place: &Place, queues: usize) {
        if let Err(error) = self.groups.leave(self.engine, place, queues) {
            tracing::error!(%error, "frame memory was not freed");
        }
    }
}

/// What holds an interface that is about to be deleted: no frame of it reaches the host while this is there.
pub(super) struct Doomed {
    _program: Program,
    _promiscuous: Option<Promiscuous>,
}

impl Wire {
    /// For an interface that is about to be deleted, and needs its settings no more.
    pub(super) fn doom(self) -> Doomed {
        if let Err(error) = self.changes.discard() {
            // It is dropped when it is next looked at: its interface is gone then.
            tracing::warn!(interface = %self.state.name, %error, "a journal is left");
        }
        Doomed {
            _program: self.program,
            _promiscuous: self._promiscuous,
        }
    }

    /// Detaches the program and gives the interface back as it was found: all of it, if true.
    pub(super) fn give_back(self, host: &mut Host) -> bool {
        let Self {
            state,
            program,
            changes,
            _promiscuous,
            ..
        } = self;
        drop(program);
        give_back(host, changes, &state.name)
    }
}

fn give_back(host: &mut Host, changes: Changes, interface: &str) -> bool {
    let failures = changes.restore(host);
    for error in &failures {
        tracing::warn!(interface, %error, "the interface was not given back entirely");
    }
    failures.is_empty()
}

fn interface(link: &Link) -> Interface {
    Interface {
        name: link.name.clone(),
        index: link.ifindex.0,
    }
}

/// What a host means for vhost-user ports on which calls can be nothing better than writes.
fn warnings_of_calls(ready: Result<(), &CallError>) -> Vec<String> {
    let text = |why| {
        format!(
            "a front-end that means harm can make its worker wait, since calls are writes to its eventfd: {why}"
        )
    };
    ready.err().map(text).into_iter().collect()
}

fn memory() -> Result<Open, OpenError> {
    let (port, peer) = memory_port(MEMORY_RING).map_err(|error| {
        OpenError::Fatal(format!("making a memory port failed: {error}; raise `ulimit -n`"))
    })?;
    Ok(Open {
        pending: vec![(0, AnyPort::Memory(port))],
        _peer: Some(peer),
        ..plain(None)
    })
}

pub(super) fn plain(place: Option<Place>) -> Open {
    Open {
        pending: Vec::new(),
        queues: vec![0],
        place,
        mode: None,
        warnings: Vec::new(),
        unfinished_checksums: false,
        wire: None,
        tap: None,
        guest: None,
        _peer: None,
    }
}

/// Whether frames of a port may have checksums that are to be finished.
pub(super) fn finish_checksums(port: &Port, open: Option<&Open>) -> bool {
    match port.checksum {
        Checksum::Finish => true,
        Checksum::Trust => false,
        Checksum::Auto => open.is_some_and(|open| open.unfinished_checksums),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error;

    #[test]
    fn a_host_without_aio_is_a_warning_that_says_what_to_do() {
        assert!(warnings_of_calls(Ok(())).is_empty());
        let no_room = CallError::Setup(Error::from_raw_os_error(libc::EAGAIN));
        let [warning] = &warnings_of_calls(Err(&no_room))[..] else {
            panic!("one warning");
        };
        for part in ["can make its worker wait", "io_setup failed", "fs.aio-max-nr"] {
            assert!(warning.contains(part), "{warning}");
        }
    }
}
