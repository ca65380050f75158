//! Making AF_XDP sockets: the UMEM group, binding to a queue in the best mode, and the errors.
//!
//! A group is the sockets that share one [`Umem`]. The first registers it; the others bind with
//! `XDP_SHARED_UMEM` to any of the group that is still bound, and inherit copy or zero-copy mode, need_wakeup
//! and multi-buffer from the first (net/xdp/xsk_buff_pool.c, `xp_assign_dev_shared`). Every queue has fill
//! and completion rings of its own.
//!
//! For control threads: opening sleeps while a queue is busy, up to two seconds.

use super::port::AfXdpPort;
use super::program::AttachMode;
use super::ring::{RingSizes, Rings};
use super::sys;
use super::uapi::{self, UmemReg, sockaddr_xdp, xdp_options};
use crate::{BATCH, Umem};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long a queue may stay busy after its last owner closed it: the kernel frees it in the background.
const BUSY: Duration = Duration::from_secs(2);

/// A network interface of the calling thread's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, for people.
    pub name: String,
    /// Its index, what the kernel is asked by.
    pub index: u32,
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    /// [`XskError::NoInterface`] if there is none.
    pub fn find(name: &str) -> Result<Self, XskError> {
        let missing = || XskError::NoInterface {
            name: name.to_owned(),
        };
        let c_name = CString::new(name).map_err(|_| missing())?;
        // SAFETY: c_name is NUL-terminated and lives through the call.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            Err(missing())
        } else {
            Ok(Self {
                name: name.to_owned(),
                index,
            })
        }
    }
}

/// The way between driver and socket that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ModeRequest {
    /// The best that works: zero copy, else native copy, else generic.
    #[default]
    Auto,
    /// Native copy, else generic: `Auto` for a driver that is known to have no zero copy, or not for frames as long
    /// as this interface's. It spares the attempts.
    AnyCopy,
    /// The driver receives into the UMEM; fail where it can't.
    ZeroCopy,
    /// The driver runs the XDP program, the kernel copies frames into the UMEM.
    Native,
    /// The network stack runs the XDP program and copies: any interface can.
    Generic,
}

/// The way between driver and socket that was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XskMode {
    /// The driver receives into the UMEM.
    ZeroCopy,
    /// The driver runs the XDP program, the kernel copies.
    NativeCopy,
    /// The network stack runs the XDP program and copies.
    Generic,
}

impl XskMode {
    /// The mode of a port, from what its socket and its interface's program got.
    #[must_use]
    pub fn of(zero_copy: bool, attached: AttachMode) -> Self {
        match (zero_copy, attached) {
            (true, _) => Self::ZeroCopy,
            (false, AttachMode::Native) => Self::NativeCopy,
            (false, AttachMode::Generic) => Self::Generic,
        }
    }

    /// As in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::NativeCopy => "native",
            Self::Generic => "generic",
        }
    }
}

/// Preferred busy polling: the worker drives the queue's NAPI from its own system calls, interrupts stay off.
/// It takes effect together with the interface's `napi_defer_hard_irqs` and `gro_flush_timeout`
/// (af_xdp.rst, "busy poll"; napi.rst), which are the caller's to set and to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// SO_BUSY_POLL, microseconds. Non-zero; for AF_XDP every poll is one pass, whatever the value.
    pub micros: u32,
    /// SO_BUSY_POLL_BUDGET: packets that one pass may process.
    pub budget: u32,
}

/// How to open a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Ring sizes.
    pub rings: RingSizes,
    /// The mode wanted.
    pub mode: ModeRequest,
    /// Busy polling, if wanted.
    pub busy_poll: Option<BusyPoll>,
    /// Descriptors that one system call may send in copy mode, where the kernel has that knob (6.18): clamped
    /// to 32 … tx ring. See docs/decisions/0002-af-xdp-settings.md.
    pub tx_budget: u32,
}

impl QueueConfig {
    /// The defaults for an engine that opens `queues` queues in all: see [`RingSizes::for_queues`].
    #[must_use]
    pub fn for_queues(queues: usize) -> Self {
        let rings = RingSizes::for_queues(queues);
        Self {
            rings,
            mode: ModeRequest::Auto,
            busy_poll: None,
            tx_budget: rings.tx,
        }
    }
}

impl RingSizes {
    /// Ring sizes for an engine with `queues` queues in all. Big rings ride out bursts, but every chunk costs
    /// its own size and 128 bytes of kernel memory **per socket bound to its UMEM**, so they shrink as queues
    /// become many: 2048 up to 4 queues (uplinks), 1024 up to 16, 512 up to 64, else 256.
    #[must_use]
    pub fn for_queues(queues: usize) -> Self {
        let size = match queues {
            0..=4 => 2048,
            5..=16 => 1024,
            17..=64 => 512,
            _ => 256,
        };
        Self { rx: size, tx: size }
    }

    /// Chunks that a UMEM needs for these queues and `workers` workers. A port never lends more than `rx`
    /// chunks for receiving nor more than `tx` for sending; a worker's pool caches up to 512 and a turn
    /// holds two batches.
    #[must_use]
    pub fn chunks(queues: &[Self], workers: usize) -> u32 {
        let rings: u32 = queues.iter().map(|sizes| sizes.rx + sizes.tx).sum();
        let workers = workers.max(1) as u32 * (512 + 2 * BATCH as u32);
        (rings + workers).next_multiple_of(64)
    }
}

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum XskError {
    /// No such interface here.
    #[error("there is no interface {name} in this network namespace: check the name with `ip link`")]
    NoInterface {
        /// The name asked for.
        name: String,
    },
    /// A ring size that the kernel does not take.
    #[error("a ring of {size} entries is not possible for {interface}: take a power of two from 64 to 32768")]
    RingSize {
        /// The interface.
        interface: String,
        /// The size asked for.
        size: u32,
    },
    /// The group's first socket decides the mode of all.
    #[error(
        "cannot open {interface} queue {queue} in {wanted} mode: its UMEM is already used in {has} mode, and sockets that share a UMEM share the mode; give it a UMEM of its own"
    )]
    GroupMode {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The mode asked for.
        wanted: &'static str,
        /// The mode of the group.
        has: &'static str,
    },
    /// A system call failed.
    #[error("cannot {what} for {interface} queue {queue}: {source}; {advice}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
}

impl XskError {
    /// The kernel's error number, if a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn advice(what: &str, error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "run as root or with the capabilities CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
        }
        Some(libc::EAFNOSUPPORT) => "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        Some(libc::ENOBUFS) => {
            "the limit of locked memory is too small for the UMEM: raise it (LimitMEMLOCK=infinity, `ulimit -l`) or give CAP_IPC_LOCK"
        }
        Some(libc::ENOMEM) => "memory is short: use smaller rings or fewer queues",
        Some(libc::EBUSY) => {
            "another program has an AF_XDP socket on this queue: stop it, or choose another queue"
        }
        Some(libc::ENODEV) => "the interface is gone",
        Some(libc::ENETDOWN) => "the interface is down: bring it up",
        Some(libc::EOPNOTSUPP) => NO_ZERO_COPY,
        Some(libc::EINVAL) if what == BIND => {
            "the queue does not exist (see `ethtool -l`), or the driver refuses this mode or MTU"
        }
        Some(libc::EINVAL) => "the kernel refuses the value: it may be older than 6.1",
        Some(libc::EMFILE | libc::ENFILE) => {
            "too many open files: raise the limit (LimitNOFILE, `ulimit -n`)"
        }
        _ => "see `clearway doctor`",
    }
}

const BIND: &str = "bind an AF_XDP socket";
const NO_ZERO_COPY: &str = "the driver can't do zero copy on this device or queue, or at this MTU: use mode `auto`, `copy` or `generic`";

/// What all sockets of a group have in common, once the first is bound.
#[derive(Clone, Copy)]
struct Shape {
    zero_copy: bool,
    multi_buffer: bool,
}

/// A port whose socket is bound, and what it turned out to be.
type Bound = (AfXdpPort, Shape);

/// The sockets that share a UMEM. See the module's description.
pub struct UmemGroup {
    umem: Umem,
    members: Vec<Weak<OwnedFd>>,
    shape: Option<Shape>,
}

impl UmemGroup {
    /// A group without sockets.
    #[must_use]
    pub fn new(umem: Umem) -> Self {
        Self {
            umem,
            members: Vec::new(),
            shape: None,
        }
    }

    /// The UMEM that it shares.
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Sockets that are open.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.members
            .iter()
            .filter(|member| member.strong_count() > 0)
            .count()
    }

    /// Whether its sockets work in zero-copy mode; unknown before the first one.
    #[must_use]
    pub fn zero_copy(&self) -> Option<bool> {
        (self.sockets() > 0).then_some(self.shape?.zero_copy)
    }

    /// Opens a queue of an interface. Frames arrive once an [`super::XdpProgram`] that knows the socket is
    /// attached. Retries up to two seconds while the queue is busy (its last socket may just have closed).
    ///
    /// # Errors
    /// [`XskError`]; nothing is left behind then.
    pub fn open(
        &mut self,
        interface: &Interface,
        queue: u32,
        config: &QueueConfig,
    ) -> Result<AfXdpPort, XskError> {
        for size in [config.rings.rx, config.rings.tx] {
            if !size.is_power_of_two() || !(64..=32768).contains(&size) {
                return Err(XskError::RingSize {
                    interface: interface.name.clone(),
                    size,
                });
            }
        }
        let opening = Opening {
            group: self,
            interface,
            queue,
            config,
        };
        let started = Instant::now();
        let (port, shape) = loop {
            match opening.attempt() {
                Err(error) if error.errno() == Some(libc::EBUSY) && started.elapsed() < BUSY => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                result => break result?,
            }
        };
        self.shape = Some(shape);
        self.members.retain(|member| member.strong_count() > 0);
        self.members.push(port.descriptor());
        Ok(port)
    }
}

/// One call of [`UmemGroup::open`].
struct Opening<'a> {
    group: &'a UmemGroup,
    interface: &'a Interface,
    queue: u32,
    config: &'a QueueConfig,
}

impl Opening<'_> {
    fn error(&self, what: &'static str, source: io::Error) -> XskError {
        let interface = self.interface.name.clone();
        // Drivers say this too of a device that can't (virtio_net without the kernel's DMA interface).
        let zero_copy = self.config.mode == ModeRequest::ZeroCopy;
        let advice = match source.raw_os_error() {
            Some(libc::EINVAL | libc::ENOENT) if what == BIND && zero_copy => NO_ZERO_COPY,
            _ => advice(what, &source),
        };
        XskError::System {
            what,
            interface,
            queue: self.queue,
            advice,
            source,
        }
    }

    /// A bound socket, sharing the UMEM with a member if there is one that is bound.
    fn attempt(&self) -> Result<Bound, XskError> {
        for member in self.group.members.iter().filter_map(Weak::upgrade) {
            match self.bind_shared(&member) {
                // The member is no longer bound (its interface is gone): ask the next.
                Err(error) if error.errno() == Some(libc::EBADF) => {}
                result => return result,
            }
        }
        self.bind_first()
    }

    fn bind_shared(&self, member: &OwnedFd) -> Result<Bound, XskError> {
        let Some(shape) = self.group.shape else {
            return Err(self.error(BIND, io::Error::from_raw_os_error(libc::EBADF)));
        };
        let has = if shape.zero_copy { "zero-copy" } else { "copy" };
        let wanted = match self.config.mode {
            ModeRequest::ZeroCopy if !shape.zero_copy => Some("zero-copy"),
            ModeRequest::AnyCopy | ModeRequest::Native if shape.zero_copy => Some("copy"),
            ModeRequest::Generic if shape.zero_copy => Some("generic"),
            _ => None,
        };
        if let Some(wanted) = wanted {
            let interface = self.interface.name.clone();
            return Err(XskError::GroupMode {
                interface,
                queue: self.queue,
                wanted,
                has,
            });
        }
        let mut address = self.address(libc::XDP_SHARED_UMEM);
        address.sxdp_shared_umem_fd = member.as_raw_fd() as u32;
        self.bind(self.port()?, &address, Some(shape))
    }

    fn bind_first(&self) -> Result<Bound, XskError> {
        let region = self.group.umem.region();
        let umem = UmemReg {
            addr: region.base.as_ptr() as u64,
            len: u64::from(region.chunks) << region.shift,
            chunk_size: region.chunk_size(),
            headroom: 0,
            flags: 0,
        };
        let mut refusal = None;
        for flags in self.ways() {
            let port = self.port()?;
            sys::set_option(port.socket(), libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
                .map_err(|source| self.error("register the UMEM", source))?;
            match self.bind(port, &self.address(flags | libc::XDP_USE_NEED_WAKEUP), None) {
                Err(error) if error.errno() != Some(libc::EBUSY) => refusal = Some(error),
                result => return result,
            }
        }
        // The last way is the least; why that did not work is what matters. `ways` is never empty.
        Err(refusal.unwrap_or_else(|| self.error(BIND, io::Error::from_raw_os_error(libc::EINVAL))))
    }

    /// The ways to bind the first socket of a group, the best first. Zero copy is asked for by name, since the
    /// kernel's own choice (no flag) falls back to copying when it is only packets of several buffers
    /// (`XDP_USE_SG`) that a driver can't receive without a copy (net/xdp/xsk_buff_pool.c, `xp_assign_dev`).
    /// Kernels before 6.6 don't know `XDP_USE_SG`.
    fn ways(&self) -> Vec<u16> {
        const ZERO_COPY: [u16; 2] = [libc::XDP_ZEROCOPY | libc::XDP_USE_SG, libc::XDP_ZEROCOPY];
        const COPY: [u16; 2] = [libc::XDP_COPY | libc::XDP_USE_SG, libc::XDP_COPY];
        match self.config.mode {
            ModeRequest::Auto => [ZERO_COPY, COPY].concat(),
            ModeRequest::ZeroCopy => ZERO_COPY.to_vec(),
            ModeRequest::AnyCopy | ModeRequest::Native | ModeRequest::Generic => COPY.to_vec(),
        }
    }

    /// Binds; the shape is the group's, or what the first socket of one finds out.
    fn bind(
        &self,
        mut port: AfXdpPort,
        address: &sockaddr_xdp,
        shape: Option<Shape>,
    ) -> Result<Bound, XskError> {
        sys::bind(port.socket(), address).map_err(|source| self.error(BIND, source))?;
        let shape = match shape {
            Some(shape) => shape,
            None => {
                let options: xdp_options =
                    sys::get_option(port.socket(), libc::SOL_XDP, libc::XDP_OPTIONS)
                        .map_err(|source| self.error("read the mode of an AF_XDP socket", source))?;
                Shape {
                    zero_copy: options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0,
                    multi_buffer: address.sxdp_flags & libc::XDP_USE_SG != 0,
                }
            }
        };
        port.bound(shape.zero_copy, shape.multi_buffer);
        Ok((port, shape))
    }

    fn address(&self, flags: u16) -> sockaddr_xdp {
        sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: self.interface.index,
            sxdp_queue_id: self.queue,
            sxdp_shared_umem_fd: 0,
        }
    }

    /// A port that is not bound, with chunks to receive into. They must be there before the driver looks: one
    /// that finds none when it starts the queue (at the bind, or when XDP is attached) waits for an interrupt that
    /// no frame will cause, and never looks again (seen with igb of Linux 6.18).
    fn port(&self) -> Result<AfXdpPort, XskError> {
        let fd = self.socket()?;
        let rings = Rings::map(fd.as_fd(), self.config.rings)
            .map_err(|source| self.error("map the rings of an AF_XDP socket", source))?;
        let tx_budget = self.set_tx_budget(&fd);
        let mut port = AfXdpPort::new(super::port::Parts {
            rings,
            fd: Arc::new(fd),
            umem: self.group.umem.clone(),
            interface: self.interface.clone(),
            queue: self.queue,
            zero_copy: false,
            multi_buffer: false,
            busy_poll: self.config.busy_poll,
            tx_budget,
        });
        port.fill();
        Ok(port)
    }

    /// A socket with its rings and options, not bound.
    fn socket(&self) -> Result<OwnedFd, XskError> {
        let fd = sys::socket().map_err(|source| self.error("make an AF_XDP socket", source))?;
        let RingSizes { rx, tx } = self.config.rings;
        let rings = [
            (libc::XDP_UMEM_FILL_RING, rx),
            (libc::XDP_UMEM_COMPLETION_RING, tx),
            (libc::XDP_RX_RING, rx),
            (libc::XDP_TX_RING, tx),
        ];
        for (name, size) in rings {
            sys::set_option(fd.as_fd(), libc::SOL_XDP, name, &size)
                .map_err(|source| self.error("make a ring", source))?;
        }
        if let Some(busy_poll) = self.config.busy_poll {
            let options = [
                (uapi::SO_PREFER_BUSY_POLL, 1),
                (libc::SO_BUSY_POLL, busy_poll.micros),
                (uapi::SO_BUSY_POLL_BUDGET, busy_poll.budget),
            ];
            for (name, value) in options {
                sys::set_option(fd.as_fd(), libc::SOL_SOCKET, name, &value)
                    .map_err(|source| self.error("set up busy polling", source))?;
            }
        }
        // In copy mode every frame that the receiver has not freed counts against the send buffer, whose
        // default holds fewer frames than the ring. The ring is the limit, so let it be the only one. Without
        // CAP_NET_ADMIN the plain option is capped, which costs only speed.
        let bytes = tx * 4096;
        if sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
            let _ = sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
        }
        Ok(fd)
    }

    /// The number of descriptors that a system call sends: 32 on kernels without the knob.
    fn set_tx_budget(&self, fd: &OwnedFd) -> u32 {
        let budget = self.config.tx_budget.clamp(32, self.config.rings.tx.max(32));
        match sys::set_option(fd.as_fd(), libc::SOL_XDP, uapi::XDP_MAX_TX_SKB_BUDGET, &budget) {
            Ok(()) => budget,
            Err(_) => 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_rings_pools_and_batches() {
        let uplinks = [RingSizes::for_queues(2); 2];
        assert_eq!(RingSizes::chunks(&uplinks, 1), 2 * 4096 + 768);
        assert_eq!(
            RingSizes::chunks(&[RingSizes::for_queues(1000); 16], 2),
            16 * 512 + 2 * 768
        );
    }

    #[test]
    fn errors_say_what_where_why_and_what_to_do() {
        let source = io::Error::from_raw_os_error(libc::EBUSY);
        let error = XskError::System {
            what: BIND,
            interface: "eth1".into(),
            queue: 3,
            advice: advice(BIND, &source),
            source,
        };
        let expected = "cannot bind an AF_XDP socket for eth1 queue 3: Device or resource busy (os error 16); \
                        another program has an AF_XDP socket on this queue: stop it, or choose another queue";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.errno(), Some(libc::EBUSY));
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = Interface::find("clearway-none0").expect_err("no such interface");
        assert!(
            error
                .to_string()
                .starts_with("there is no interface clearway-none0"),
            "{error}"
        );
        assert!(Interface::find("lo\0").is_err());
    }
}
