//! One XDP program for all interfaces that are ours alone and have one queue, as those of pods are.
//!
//! ```text
//!   interface A ─┐                    ┌─ slot A % 4096 ──► socket of A
//!   interface B ─┼─ clearway_pod ── pods: XSKMAP           (one AfXdpPort each)
//!   interface C ─┘                    └─ slot C % 4096 ──► socket of C
//! ```
//!
//! A program that gets on its first interface, or leaves its last, makes the kernel wait for all its CPUs: milliseconds
//! each time, while the network lock is held (docs/decisions/0016). All others come and go at once. So pods share one,
//! and [`PodProgram::park`] keeps it in use while there is none.
//!
//! Guarantees: a frame never gets to the socket of another interface, whatever is in the map: the kernel drops one of
//! another device or queue than the socket is bound to (net/xdp/xsk.c, `xsk_rcv_check`). Nor does it get to the host's own stack
//! while the program is attached: without a socket it is dropped. A slot has one interface at a time. Someone else's program is never
//! touched. The program goes with its last descriptor, as [`super::XdpProgram`] does.
//!
//! For control threads; a [`PodLink`] may be dropped on any thread.

use super::link::{Link, is_taken};
use super::object;
use super::port::AfXdpPort;
use super::program::{AttachMode, XdpError, XdpProgram, bpf};
use super::socket::{Interface, ModeRequest};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// See the module's description. A clone is the same program.
#[derive(Clone)]
pub struct PodProgram(Arc<Shared>);

struct Shared {
    program: OwnedFd,
    pods: MapHandle,
    /// Slots that have an interface.
    taken: Mutex<BTreeSet<u32>>,
}

impl Shared {
    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodProgram {
    /// Loads the program and makes its map; nothing is attached.
    ///
    /// # Errors
    /// [`XdpError::Bpf`].
    pub fn load() -> Result<Self, XdpError> {
        let object = object::load("clearway_pod", &["pods"])?;
        Ok(Self(Arc::new(Shared {
            program: object.program()?,
            pods: object.map("pods")?,
            taken: Mutex::default(),
        })))
    }

    /// Gives all frames of a port's interface to the port, which must be queue 0 and not be attached yet. `Auto` and
    /// `AnyCopy` take the driver, else the network stack. None: it can't be served here, because it is another
    /// queue or its slot is another interface's; it needs an [`XdpProgram`] of its own.
    ///
    /// # Errors
    /// [`XdpError::Foreign`], [`XdpError::Attach`], [`XdpError::Bpf`]; nothing is left behind then.
    pub fn attach(&self, port: &AfXdpPort, mode: ModeRequest) -> Result<Option<PodLink>, XdpError> {
        let report = port.report();
        let interface = &report.interface;
        let slot = interface.index % self.0.pods.max_entries();
        if report.queue != 0 || !self.0.taken().insert(slot) {
            return Ok(None);
        }
        // From here on it gives back the slot when it is dropped.
        let mut pod = PodLink {
            shared: Arc::clone(&self.0),
            slot,
            link: None,
            socket: port.descriptor(),
        };
        let socket = port.socket().as_raw_fd().to_ne_bytes();
        let entered = self.0.pods.update(&slot.to_ne_bytes(), &socket, MapFlags::ANY);
        entered.map_err(bpf("give the frames of an interface to its socket"))?;
        let program = self.0.program.as_fd();
        let link = match Link::attach(program, interface, mode) {
            Err(XdpError::Attach { source, .. }) if is_taken(&source) => {
                XdpProgram::refuse_others(interface)?;
                Link::attach(program, interface, mode)
            }
            result => result,
        };
        pod.link = Some(link?);
        Ok(Some(pod))
    }

    /// Keeps the program in use, without a socket, on an interface of the calling thread's network namespace that
    /// nobody else uses and whose driver does XDP: what [`PodProgram::attach`] does is quick while this is held.
    ///
    /// # Errors
    /// [`XdpError::Attach`].
    pub fn park(&self, interface: &Interface) -> Result<Parked, XdpError> {
        let link = Link::attach(self.0.program.as_fd(), interface, ModeRequest::Native)?;
        Ok(Parked { _link: link })
    }
}

/// Keeps a [`PodProgram`] in use, as long as the interface is there.
pub struct Parked {
    _link: Link,
}

/// The interface of a port that a [`PodProgram`] serves, for as long as this is held. It does not keep the socket open.
/// Dropped when the interface is gone it is as good; it may have to wait for the kernel's network lock either way.
pub struct PodLink {
    shared: Arc<Shared>,
    slot: u32,
    /// None: not attached yet, or handed over.
    link: Option<Link>,
    socket: Weak<OwnedFd>,
}

impl PodLink {
    /// How the program was attached; none once it was handed over.
    #[must_use]
    pub fn mode(&self) -> Option<AttachMode> {
        self.link.as_ref().map(|link| link.mode)
    }

    /// Has a program of the interface's own, which is attached nowhere, take over; not a frame is lost or goes another way
    /// in between, if it is exclusive. This is to be dropped then.
    ///
    /// # Errors
    /// [`XdpError::Bpf`]; all is as it was then.
    pub fn hand_over(&mut self, program: &mut XdpProgram) -> Result<(), XdpError> {
        if let Some(socket) = self.socket.upgrade() {
            program.register(0, socket.as_fd())?;
        }
        program.adopt(&mut self.link)
    }
}

impl Drop for PodLink {
    fn drop(&mut self) {
        // The entry may have gone with the socket. While the program is attached without it, frames are dropped.
        let _ = self.shared.pods.delete(&self.slot.to_ne_bytes());
        self.link = None;
        // Last: nobody else may have the slot while frames come to it.
        self.shared.taken().remove(&self.slot);
    }
}
