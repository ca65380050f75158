//! The XDP program of a port: its own, or the one that pods share.
//!
//! The kernel waits for all its CPUs, with the network lock held, when a program gets on its first interface or leaves
//! its last (docs/decisions/0016). So the shared one is also kept on an interface that nobody sees, from the first pod on
//! until the daemon ends.

use std::sync::{Arc, OnceLock};
use std::thread;

use clearway_config::Port;
use clearway_io::{
    AfXdpPort, AttachMode, Interface, ModeRequest, Parked, PodLink, PodProgram, Steering, XdpError,
    XdpProgram,
};

use super::{Ours, steering};
use crate::host::HostError;
use crate::host::links::Link;
use crate::host::spare::SpareVeth;

/// What gives a port its interface's frames. Dropped, it is detached; any thread may do that.
pub(super) enum Program {
    /// A program of its own.
    Own(Box<XdpProgram>),
    /// Its part of the program that pods share.
    Shared(PodLink),
}

impl Program {
    /// A program of a port's own, which knows the port's sockets; attached nowhere.
    pub(super) fn own(
        steering: Steering,
        ours: &Ours,
        sockets: &[(u16, AfXdpPort)],
    ) -> Result<Box<XdpProgram>, XdpError> {
        let program = Box::new(XdpProgram::load(steering)?);
        for (queue, socket) in sockets {
            program.register(u32::from(*queue), socket.socket())?;
        }
        program.set_vteps(&ours.vteps)?;
        program.set_vlans(&ours.vlans)?;
        Ok(program)
    }

    /// Changes what is steered to the port, live.
    pub(super) fn steer(&mut self, port: &Port, ours: &Ours) -> Result<(), XdpError> {
        let steering = steering(port);
        if let Self::Shared(link) = self {
            if steering == Steering::Exclusive {
                return Ok(());
            }
            // As it was, until it has taken over.
            let mut own = Self::own(Steering::Exclusive, ours, &[])?;
            link.hand_over(&mut own)?;
            *self = Self::Own(own);
        }
        if let Self::Own(program) = self {
            // What is ours first: a shared port must not blink when it becomes shared.
            program.set_vteps(&ours.vteps)?;
            program.set_vlans(&ours.vlans)?;
            program.set_steering(steering)?;
        }
        Ok(())
    }
}

/// The program that pods share, loaded when the first comes.
#[derive(Default)]
pub(in crate::daemon) struct Pods {
    program: Option<PodProgram>,
    parking: Option<Arc<OnceLock<Parking>>>,
}

/// Keeps the program in use while there is no pod.
struct Parking {
    _parked: Parked,
    _veth: SpareVeth,
}

impl Pods {
    /// Whether a port on this interface is such that it can be served.
    pub(super) fn suit(port: &Port, link: &Link, queues: &[u16]) -> bool {
        steering(port) == Steering::Exclusive
            && !port.replace
            && link.kind.as_deref() == Some("veth")
            && queues == [0]
    }

    /// Gives a port its interface's frames. None: its place is taken, it needs a program of its own.
    pub(super) fn attach(
        &mut self,
        socket: &AfXdpPort,
        mode: ModeRequest,
    ) -> Result<Option<(PodLink, AttachMode)>, XdpError> {
        let program = match &self.program {
            Some(program) => program,
            None => self.program.insert(PodProgram::load()?),
        };
        let link = program.attach(socket, mode)?;
        if self.parking.is_none() {
            let place = self.parking.insert(Arc::default());
            park(program.clone(), Arc::clone(place));
        }
        Ok(link.and_then(|link| link.mode().map(|mode| (link, mode))))
    }
}

/// Parks the program on a thread of its own: nobody waits for it. Without it ports come and go as well, but not as fast.
fn park(program: PodProgram, place: Arc<OnceLock<Parking>>) {
    let work = move || match try_park(&program) {
        Ok(Ok(parking)) => drop(place.set(parking)),
        Ok(Err(error)) => tracing::debug!(%error, "the XDP program of pods is not kept in use"),
        Err(error) => tracing::debug!(%error, "the XDP program of pods is not kept in use"),
    };
    if let Err(error) = thread::Builder::new().name("park".into()).spawn(work) {
        tracing::debug!(%error, "the XDP program of pods is not kept in use");
    }
}

fn try_park(program: &PodProgram) -> Result<Result<Parking, XdpError>, HostError> {
    let veth = SpareVeth::make()?;
    let parked = veth.run(|link| {
        program.park(&Interface {
            name: link.name.clone(),
            index: link.ifindex.0,
        })
    })?;
    Ok(parked.map(|parked| Parking {
        _parked: parked,
        _veth: veth,
    }))
}
