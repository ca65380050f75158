//! The XDP program of one interface: load it, feed its maps, attach it through a BPF link.
//!
//! ```text
//!   load(steering) → register(queue, socket) … → set_vteps/set_vlans → attach(interface)     live: the middle two
//! ```
//!
//! Guarantees: the program goes when its link's last descriptor goes, hence with the process, however it ends;
//! someone else's program is never touched unless `replace` is asked for; entries that stay in a set never
//! blink. Everything is held as descriptors (program, link, maps), so that they can be handed to a successor.
//! For control threads.

use super::link::{Link, is_taken};
use super::object;
use super::socket::{Interface, ModeRequest};
use libbpf_rs::libbpf_sys;
use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo, ProgInfoIter};
use libbpf_rs::{ErrorExt, MapCore, MapFlags, MapHandle, Xdp, XdpFlags};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Sockets of one program: the XSKMAP's size.
const MAX_QUEUES: u32 = 256;

/// Whose the frames of an interface are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// All ours. A queue without a socket drops.
    Exclusive,
    /// Ours are our VTEPs' UDP and our VLANs; all else, and a queue without a socket, is the kernel's.
    Shared,
}

/// The way the program was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

/// A VTEP whose UDP is taken from a shared interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VtepFilter {
    /// Its address: the outer destination.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// The VLAN (802.1Q) of the underlay that it is in; none: untagged.
    pub vid: Option<u16>,
}

impl VtepFilter {
    /// `struct vtep` of clearway.bpf.c.
    fn key(&self) -> [u8; 24] {
        let mut key = [0; 24];
        key[2..4].copy_from_slice(&self.vid.unwrap_or(0).to_be_bytes());
        key[4..6].copy_from_slice(&self.port.to_be_bytes());
        match self.address {
            IpAddr::V4(address) => {
                key[0] = 4;
                key[8..12].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                key[0] = 6;
                key[8..].copy_from_slice(&address.octets());
            }
        }
        key
    }
}

/// A VLAN whose frames are taken from a shared interface: what their outer tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanFilter {
    /// The TPID: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// The VID.
    pub vid: u16,
}

impl VlanFilter {
    /// `struct vlan` of clearway.bpf.c.
    fn key(&self) -> [u8; 4] {
        let [[a, b], [c, d]] = [self.tpid.to_be_bytes(), self.vid.to_be_bytes()];
        [a, b, c, d]
    }
}

/// An XDP program that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProgram {
    /// Its id, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// What the program did with frames, since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringCounts {
    /// Given to our sockets.
    pub redirected: u64,
    /// Given to the kernel because they are not ours (or, shared, their queue had no socket).
    pub passed: u64,
    /// Given to the kernel because they could not be parsed.
    pub unparsable: u64,
    /// Dropped because their queue had no socket (exclusive).
    pub dropped: u64,
}

/// Why the program could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The interface has someone else's program.
    #[error("{interface} already carries the XDP program {:?} (id {}): remove it (`ip link set {interface} xdp off`, or stop what owns it), or let Clearway take over with `replace: true`", .program.name, .program.id)]
    Foreign {
        /// The interface.
        interface: String,
        /// The program.
        program: ForeignProgram,
    },
    /// A queue that the program has no room for.
    #[error(
        "queue {queue} is beyond the {MAX_QUEUES} queues that one interface can have here: reduce them with `ethtool -L`"
    )]
    Queue {
        /// The queue asked for.
        queue: u32,
    },
    /// The kernel refused the program or a map.
    #[error("cannot {what}: {source}; root or CAP_BPF and CAP_NET_ADMIN are needed, and Linux 6.1 or later")]
    Bpf {
        /// The step that failed.
        what: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// The kernel refused to attach it.
    #[error("cannot attach the XDP program to {interface} in {mode} mode: {source}; {advice}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode tried.
        mode: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
}

pub(super) fn bpf(what: &'static str) -> impl Fn(libbpf_rs::Error) -> XdpError {
    move |source| XdpError::Bpf { what, source }
}

/// A program that we took the place of: held, so that it can be given back.
struct Displaced {
    program: OwnedFd,
    interface: i32,
    flags: u32,
}

/// See the module's description.
pub struct XdpProgram {
    program: OwnedFd,
    xsks: MapHandle,
    settings: MapHandle,
    vlans: MapHandle,
    vteps: MapHandle,
    counts: MapHandle,
    link: Option<Link>,
    replaced: Vec<ForeignProgram>,
    displaced: Vec<Displaced>,
}

impl XdpProgram {
    /// Loads the program and makes its maps; nothing is attached.
    ///
    /// # Errors
    /// [`XdpError::Bpf`].
    pub fn load(steering: Steering) -> Result<Self, XdpError> {
        let object = object::load("clearway", &["xsks", "settings", "vlans", "vteps", "counts"])?;
        let loaded = Self {
            program: object.program()?,
            xsks: object.map("xsks")?,
            settings: object.map("settings")?,
            vlans: object.map("vlans")?,
            vteps: object.map("vteps")?,
            counts: object.map("counts")?,
            link: None,
            replaced: Vec::new(),
            displaced: Vec::new(),
        };
        loaded.set_steering(steering)?;
        Ok(loaded)
    }

    /// Changes the steering, live.
    ///
    /// # Errors
    /// [`XdpError::Bpf`].
    pub fn set_steering(&self, steering: Steering) -> Result<(), XdpError> {
        let value = u32::from(steering == Steering::Exclusive);
        self.settings
            .update(&0u32.to_ne_bytes(), &value.to_ne_bytes(), MapFlags::ANY)
            .map_err(bpf("set the steering of the XDP program"))
    }

    /// Attaches it. Whatever program the interface has is refused, or taken off first with `replace`.
    /// `Auto` and `AnyCopy` take the driver, else the network stack. Sockets may be registered before or after;
    /// before is better, since an exclusive interface drops until they are.
    ///
    /// # Errors
    /// [`XdpError::Foreign`], [`XdpError::Attach`].
    pub fn attach(
        &mut self,
        interface: &Interface,
        mode: ModeRequest,
        replace: bool,
    ) -> Result<AttachMode, XdpError> {
        self.detach();
        // The kernel lists all interfaces to tell of one's program, so it is only asked if there is reason to.
        if replace {
            self.make_room(interface, true)?;
        }
        let link = match Link::attach(self.program.as_fd(), interface, mode) {
            Err(XdpError::Attach { source, .. }) if is_taken(&source) => {
                self.make_room(interface, replace)?;
                Link::attach(self.program.as_fd(), interface, mode)
            }
            result => result,
        }?;
        let mode = link.mode;
        self.link = Some(link);
        Ok(mode)
    }

    /// Detaches it, if it is attached and the link has not been handed over, and attaches again what it took the
    /// place of. (Through netlink: a link that held it is its owner's, and stays detached.)
    pub fn detach(&mut self) {
        self.link = None;
        for displaced in self.displaced.drain(..) {
            // The interface may be gone, or carry another program by now: then there is nothing to give back.
            let _ = Xdp::new(displaced.program.as_fd())
                .attach(displaced.interface, XdpFlags::from_bits_retain(displaced.flags));
        }
    }

    /// Replaces another program of ours where that is attached, between two frames, and has its link from then on.
    pub(super) fn adopt(&mut self, from: &mut Option<Link>) -> Result<(), XdpError> {
        if let Some(link) = from {
            link.update(self.program.as_fd())?;
        }
        self.detach();
        self.link = from.take();
        Ok(())
    }

    /// How it is attached, if it is.
    #[must_use]
    pub fn mode(&self) -> Option<AttachMode> {
        self.link.as_ref().map(|link| link.mode)
    }

    /// Programs that it took the place of.
    #[must_use]
    pub fn replaced(&self) -> &[ForeignProgram] {
        &self.replaced
    }

    /// The program that an interface carries now, whoever's.
    ///
    /// # Errors
    /// [`XdpError::Bpf`] if the kernel does not tell.
    pub fn on_interface(interface: &Interface) -> Result<Option<ForeignProgram>, XdpError> {
        Ok(attached(interface)?.first().map(|&(id, _)| name_of(id)))
    }

    /// Fails, by its name, if the interface carries a program.
    pub(super) fn refuse_others(interface: &Interface) -> Result<(), XdpError> {
        let program = Self::on_interface(interface)?;
        program.map_or(Ok(()), |program| Err(refused(interface, program)))
    }

    fn make_room(&mut self, interface: &Interface, replace: bool) -> Result<(), XdpError> {
        if !replace {
            return Self::refuse_others(interface);
        }
        for (id, flags) in attached(interface)? {
            let program = name_of(id);
            let (held, bits) = (hold(id), flags.bits());
            // A BPF link can't be attached over a program that netlink attached, and netlink can't remove one
            // that a link holds (net/core/dev.c, dev_xdp_attach): so each is removed by its own means. Whether
            // that worked is seen by asking again.
            let there = || Ok::<_, XdpError>(attached(interface)?.iter().any(|&(now, _)| now == id));
            detach_links(interface, id);
            if there()? {
                let _ = Xdp::new(self.program.as_fd()).detach(interface.index as i32, flags);
            }
            if there()? {
                return Err(refused(interface, program));
            }
            self.replaced.push(program);
            self.displaced.extend(held.map(|program| Displaced {
                program,
                interface: interface.index as i32,
                flags: bits,
            }));
        }
        Ok(())
    }

    /// Gives a queue's frames to a socket; replaces the queue's former one. A socket that is closed leaves by
    /// itself.
    ///
    /// # Errors
    /// [`XdpError`]; a queue beyond 255 has no room.
    pub fn register(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        if queue >= MAX_QUEUES {
            return Err(XdpError::Queue { queue });
        }
        self.xsks
            .update(
                &queue.to_ne_bytes(),
                &socket.as_raw_fd().to_ne_bytes(),
                MapFlags::ANY,
            )
            .map_err(bpf("give a queue's frames to its socket"))
    }

    /// Sets the VTEPs whose UDP is ours (shared steering). New ones come before old ones go.
    ///
    /// # Errors
    /// [`XdpError::Bpf`]; the set is then between old and new.
    pub fn set_vteps(&self, vteps: &[VtepFilter]) -> Result<(), XdpError> {
        let wanted = vteps.iter().map(|vtep| vtep.key().to_vec()).collect();
        replace_keys(&self.vteps, wanted).map_err(bpf("tell the XDP program its VTEPs"))
    }

    /// Sets the VLANs (outer tag) that are ours (shared steering).
    ///
    /// # Errors
    /// [`XdpError::Bpf`]; the set is then between old and new.
    pub fn set_vlans(&self, vlans: &[VlanFilter]) -> Result<(), XdpError> {
        let wanted = vlans.iter().map(|vlan| vlan.key().to_vec()).collect();
        replace_keys(&self.vlans, wanted).map_err(bpf("tell the XDP program its VLANs"))
    }

    /// What it did with frames so far.
    ///
    /// # Errors
    /// [`XdpError::Bpf`] if the map can't be read.
    pub fn counts(&self) -> Result<SteeringCounts, XdpError> {
        let read = |what: u32| -> Result<u64, XdpError> {
            let per_cpu = self
                .counts
                .lookup_percpu(&what.to_ne_bytes(), MapFlags::ANY)
                .map_err(bpf("read the counters of the XDP program"))?;
            let number = |bytes: &Vec<u8>| {
                bytes
                    .first_chunk::<8>()
                    .map_or(0, |bytes| u64::from_ne_bytes(*bytes))
            };
            Ok(per_cpu.iter().flatten().map(number).sum())
        };
        Ok(SteeringCounts {
            redirected: read(0)?,
            passed: read(1)?,
            unparsable: read(2)?,
            dropped: read(3)?,
        })
    }

    /// The link, for hand-over to a successor or pinning; none while nothing is attached.
    #[must_use]
    pub fn link(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.fd.as_fd())
    }

    /// The program and its maps by name, for hand-over to a successor.
    #[must_use]
    pub fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 6] {
        [
            ("program", self.program.as_fd()),
            ("xsks", self.xsks.as_fd()),
            ("settings", self.settings.as_fd()),
            ("vlans", self.vlans.as_fd()),
            ("vteps", self.vteps.as_fd()),
            ("counts", self.counts.as_fd()),
        ]
    }
}

impl Drop for XdpProgram {
    fn drop(&mut self) {
        self.detach();
    }
}

fn refused(interface: &Interface, program: ForeignProgram) -> XdpError {
    XdpError::Foreign {
        interface: interface.name.clone(),
        program,
    }
}

/// Ids of the programs on an interface, with the flags to remove them by.
fn attached(interface: &Interface) -> Result<Vec<(u32, XdpFlags)>, XdpError> {
    // The query needs no program, but the wrapper wants some descriptor.
    let none = std::io::stderr();
    let programs = Xdp::new(none.as_fd())
        .query(interface.index as i32, XdpFlags::NONE)
        .map_err(bpf("ask for the XDP program of an interface"))?;
    let modes = [
        (programs.drv_prog_id, XdpFlags::DRV_MODE),
        (programs.skb_prog_id, XdpFlags::SKB_MODE),
        (programs.hw_prog_id, XdpFlags::HW_MODE),
    ];
    Ok(modes.into_iter().filter(|&(id, _)| id != 0).collect())
}

fn name_of(id: u32) -> ForeignProgram {
    let program = ProgInfoIter::default().find(|program| program.id == id);
    let name = program.map_or_else(
        || "?".to_owned(),
        |program| program.name.to_string_lossy().into_owned(),
    );
    ForeignProgram { id, name }
}

/// A descriptor of a program, so that it lives on when it is detached; none without CAP_SYS_ADMIN.
fn hold(id: u32) -> Option<OwnedFd> {
    // SAFETY: no pointers are involved.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
    // SAFETY: the call returned a new descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches every link that holds `program` on the interface.
fn detach_links(interface: &Interface, program: u32) {
    let ours = |info: &LinkTypeInfo| matches!(info, LinkTypeInfo::Xdp(xdp) if xdp.ifindex == interface.index);
    for link in LinkInfoIter::default().filter(|link| link.prog_id == program && ours(&link.info)) {
        // SAFETY: no pointers are involved.
        let fd = unsafe { libbpf_sys::bpf_link_get_fd_by_id(link.id) };
        if fd < 0 {
            continue;
        }
        // SAFETY: the call returned a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: no pointers are involved.
        unsafe { libbpf_sys::bpf_link_detach(fd.as_raw_fd()) };
    }
}

/// Makes the keys of a set `wanted`, touching none that stay.
fn replace_keys(map: &MapHandle, wanted: BTreeSet<Vec<u8>>) -> Result<(), libbpf_rs::Error> {
    let present: BTreeSet<Vec<u8>> = map.keys().collect();
    for key in wanted.difference(&present) {
        map.update(key, &[1], MapFlags::ANY)
            .context("cannot add an entry")?;
    }
    for key in present.difference(&wanted) {
        map.delete(key).context("cannot remove an entry")?;
    }
    Ok(())
}
