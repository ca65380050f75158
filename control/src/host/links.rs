//! The host's interfaces: who is there, what they are, and what becomes of them.
//!
//! [`Host::links`] lists them as netlink tells; [`Host::hardware`] adds what only ethtool and sysfs know.
//! [`LinkWatch`] follows them: it reports every change that matters to a port and every deletion, and reads the
//! whole list anew when the kernel had to drop events (ENOBUFS), so that a change may be late but is never lost.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::time::Duration;

use clearway_wire::MacAddr;
use serde::{Deserialize, Serialize};

use super::ethtool::Queues;
use super::netlink::{Attrs, DUMP, Events, Message, Netlink, Received, Reply};
use super::{Host, HostError};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
/// `struct ifinfomsg`.
pub(super) const IFINFO_LEN: usize = 16;
/// `RTNLGRP_LINK`.
pub(super) const GROUP_LINK: u32 = 1;
const AF_UNSPEC: u8 = 0;
const ARPHRD_ETHER: u16 = 1;
pub(super) const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
/// `RTEXT_FILTER_SKIP_STATS`: counters would make up most of a listing.
pub(super) const SKIP_STATS: u32 = 1 << 3;
/// `IFLA_*`.
pub(super) const ADDRESS: u16 = 1;
pub(super) const IFNAME: u16 = 3;
pub(super) const MTU: u16 = 4;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const OPERSTATE: u16 = 16;
pub(super) const LINKINFO: u16 = 18;
pub(super) const EXT_MASK: u16 = 29;
const PROMISCUITY: u16 = 30;
pub(super) const NUM_TX_QUEUES: u16 = 31;
pub(super) const NUM_RX_QUEUES: u16 = 32;
const LINK_NETNSID: u16 = 37;
const XDP: u16 = 43;
const PARENT_DEV_NAME: u16 = 56;
const PARENT_DEV_BUS_NAME: u16 = 57;
/// `IFLA_INFO_KIND`, `IFLA_INFO_DATA`.
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
/// `IFLA_XDP_*`.
const XDP_ATTACHED: u16 = 2;
const XDP_PROG_ID: u16 = 4;
const XDP_DRV_PROG_ID: u16 = 5;
const XDP_SKB_PROG_ID: u16 = 6;
const XDP_HW_PROG_ID: u16 = 7;

/// The kernel's number of an interface; never reused while the namespace has one of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct IfIndex(pub(crate) u32);

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// RFC 2863 operational state (`IF_OPER_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OperState {
    /// The driver does not say.
    Unknown,
    /// Not in use.
    NotPresent,
    /// Cannot pass frames.
    Down,
    /// What it stands upon is down.
    LowerLayerDown,
    /// In a test mode.
    Testing,
    /// Waiting for an external event, e.g. 802.1X.
    Dormant,
    /// Passes frames.
    Up,
}

impl OperState {
    fn from_kernel(value: u64) -> Self {
        match value {
            1 => Self::NotPresent,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            4 => Self::Testing,
            5 => Self::Dormant,
            6 => Self::Up,
            _ => Self::Unknown,
        }
    }
}

/// Where an XDP program hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum XdpMode {
    /// In the driver.
    Native,
    /// Behind the driver, on socket buffers.
    Generic,
    /// In the NIC.
    Offloaded,
}

/// An XDP program that is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct XdpProgram {
    /// Where.
    pub(crate) mode: XdpMode,
    /// The kernel's number of the program (`bpftool prog show id N`).
    pub(crate) id: u32,
}

/// Where the device behind an interface sits, e.g. `pci` and `0000:03:00.0`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BusAddress {
    /// The bus.
    pub(crate) bus: String,
    /// The address on it.
    pub(crate) device: String,
}

/// The far end of a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its number in its namespace.
    pub(crate) ifindex: IfIndex,
    /// Our number for its namespace; `None`: it is in ours.
    pub(crate) netnsid: Option<i32>,
}

/// An interface as netlink describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Link {
    /// Its name.
    pub(crate) name: String,
    /// Its number.
    pub(crate) ifindex: IfIndex,
    /// Its MAC address, if it is an Ethernet interface.
    pub(crate) mac: Option<MacAddr>,
    /// Carries Ethernet frames (`ARPHRD_ETHER`).
    pub(crate) ethernet: bool,
    /// Bytes of the largest L3 packet.
    pub(crate) mtu: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// Has a carrier.
    pub(crate) carrier: bool,
    /// Operational state.
    pub(crate) oper_state: OperState,
    /// The kind of a virtual interface: veth, vxlan, bridge, …
    pub(crate) kind: Option<String>,
    /// Queues that were allocated; how many are in use says [`Hardware::queues`].
    pub(crate) allocated: Queues,
    /// The bus address of a physical one.
    pub(crate) bus: Option<BusAddress>,
    /// The bridge, bond or VRF that it belongs to.
    pub(crate) master: Option<IfIndex>,
    /// The interface below it (VLAN, macvlan), or the far end of a veth.
    pub(crate) lower: Option<IfIndex>,
    /// Our number for the namespace in which `lower` is, if that is another one.
    pub(crate) lower_netnsid: Option<i32>,
    /// How many users want it promiscuous.
    pub(crate) promiscuity: u32,
    /// The XDP programs attached.
    pub(crate) xdp: Vec<XdpProgram>,
}

impl Link {
    /// The far end, if this is a veth. The kernel names it while it exists, wherever it is.
    pub(crate) fn veth_peer(&self) -> Option<Peer> {
        let ifindex = (self.kind.as_deref() == Some("veth")).then_some(self.lower)??;
        Some(Peer {
            ifindex,
            netnsid: self.lower_netnsid,
        })
    }

    /// Reads an `RTM_NEWLINK` message; `None` for one that lacks a name or is about a bridge's view of a port.
    pub(super) fn parse(reply: &Reply) -> Option<Self> {
        let (ifindex, flags, arphrd) = header(reply)?;
        let attrs = reply.attrs(IFINFO_LEN);
        let number = |kind| attrs.u32(kind).unwrap_or(0);
        let ethernet = arphrd == ARPHRD_ETHER;
        let mac = attrs
            .get(ADDRESS)
            .and_then(|a| <[u8; 6]>::try_from(a).ok())
            .map(MacAddr);
        let bus = attrs.text(PARENT_DEV_BUS_NAME).zip(attrs.text(PARENT_DEV_NAME));
        Some(Self {
            name: attrs.text(IFNAME)?,
            ifindex,
            mac: mac.filter(|_| ethernet),
            ethernet,
            mtu: number(MTU),
            up: flags & IFF_UP != 0,
            carrier: flags & IFF_LOWER_UP != 0,
            oper_state: OperState::from_kernel(attrs.uint(OPERSTATE).unwrap_or(0)),
            kind: attrs.nested(LINKINFO).text(INFO_KIND),
            allocated: Queues {
                rx: number(NUM_RX_QUEUES),
                tx: number(NUM_TX_QUEUES),
            },
            bus: bus.map(|(bus, device)| BusAddress { bus, device }),
            master: attrs.u32(MASTER).map(IfIndex),
            lower: attrs.u32(LINK).filter(|index| *index != 0).map(IfIndex),
            lower_netnsid: attrs.i32(LINK_NETNSID),
            promiscuity: number(PROMISCUITY),
            xdp: parse_xdp(attrs.nested(XDP)),
        })
    }

    /// The part that a port follows.
    pub(crate) fn state(&self) -> LinkState {
        LinkState {
            name: self.name.clone(),
            ifindex: self.ifindex,
            up: self.up,
            carrier: self.carrier,
            mac: self.mac,
            mtu: self.mtu,
        }
    }
}

/// Number, flags and hardware type; `None` for another family's message: bridges report their ports as
/// `AF_BRIDGE`, and an `RTM_DELLINK` of that family means "left the bridge", not "deleted".
pub(super) fn header(reply: &Reply) -> Option<(IfIndex, u32, u16)> {
    let fixed = reply.fixed::<IFINFO_LEN>()?;
    if fixed[0] != AF_UNSPEC {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    Some((
        IfIndex(word(4)),
        word(8),
        u16::from_ne_bytes([fixed[2], fixed[3]]),
    ))
}

fn parse_xdp(attrs: Attrs<'_>) -> Vec<XdpProgram> {
    let several = [
        (XDP_DRV_PROG_ID, XdpMode::Native),
        (XDP_SKB_PROG_ID, XdpMode::Generic),
        (XDP_HW_PROG_ID, XdpMode::Offloaded),
    ];
    let mut programs: Vec<_> = several
        .into_iter()
        .filter_map(|(kind, mode)| attrs.u32(kind).map(|id| XdpProgram { mode, id }))
        .collect();
    if programs.is_empty()
        && let Some(id) = attrs.u32(XDP_PROG_ID)
    {
        // XDP_ATTACHED_DRV 1, _SKB 2, _HW 3.
        let mode = match attrs.uint(XDP_ATTACHED) {
            Some(2) => XdpMode::Generic,
            Some(3) => XdpMode::Offloaded,
            _ => XdpMode::Native,
        };
        programs.push(XdpProgram { mode, id });
    }
    programs
}

pub(super) fn request(kind: u16, flags: u16, ifindex: u32) -> Message {
    let mut fixed = [0; IFINFO_LEN];
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    Message::new(kind, flags, &fixed)
}

/// Sets these flags of an interface and no others.
pub(super) fn flags_request(ifindex: IfIndex, flags: u32) -> Message {
    let mut fixed = [0; IFINFO_LEN];
    fixed[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    // Which of the flags are meant.
    fixed[12..16].copy_from_slice(&flags.to_ne_bytes());
    Message::new(RTM_NEWLINK, 0, &fixed)
}

pub(super) fn list(rtnl: &mut Netlink) -> Result<Vec<Link>, HostError> {
    let message = request(RTM_GETLINK, DUMP, 0).attr(EXT_MASK, &SKIP_STATS.to_ne_bytes());
    let replies = rtnl
        .transact(message)
        .map_err(|r| r.during("listing the interfaces"))?;
    Ok(replies.iter().filter_map(Link::parse).collect())
}

/// The interface of this number, if there is one.
pub(super) fn get(rtnl: &mut Netlink, ifindex: IfIndex) -> Result<Option<Link>, HostError> {
    let message = request(RTM_GETLINK, 0, ifindex.0).attr(EXT_MASK, &SKIP_STATS.to_ne_bytes());
    match rtnl.transact(message) {
        Ok(replies) => Ok(replies.iter().find_map(Link::parse)),
        Err(refusal) if refusal.is(nix::errno::Errno::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal.during(format!("looking up interface {ifindex}"))),
    }
}

/// What the kernel says of the interface of this name, if there is one.
pub(super) fn by_name(rtnl: &mut Netlink, name: &str) -> Result<Option<Reply>, HostError> {
    use nix::errno::Errno;
    let message = request(RTM_GETLINK, 0, 0)
        .attr(EXT_MASK, &SKIP_STATS.to_ne_bytes())
        .text(IFNAME, name);
    match rtnl.transact(message) {
        Ok(replies) => Ok(replies.into_iter().next()),
        // EINVAL and ERANGE: no interface can have such a name.
        Err(refusal)
            if [Errno::ENODEV, Errno::EINVAL, Errno::ERANGE]
                .into_iter()
                .any(|errno| refusal.is(errno)) =>
        {
            Ok(None)
        }
        Err(refusal) => Err(refusal.during(format!("looking up interface {name}"))),
    }
}

/// What lies behind an interface: what only ethtool and sysfs know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Hardware {
    /// The driver; of a virtual interface its kind.
    pub(crate) driver: Option<String>,
    /// Queues in use.
    pub(crate) queues: Queues,
    /// The NUMA node that its device hangs on.
    pub(crate) numa_node: Option<u32>,
}

impl Host {
    /// All interfaces of the namespace.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, HostError> {
        list(&mut self.rtnl)
    }

    /// The interface of this name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Link, HostError> {
        by_name(&mut self.rtnl, name)?
            .as_ref()
            .and_then(Link::parse)
            .ok_or_else(|| HostError::NoInterface(name.to_owned()))
    }

    /// Driver, queues in use and NUMA node of an interface.
    pub(crate) fn hardware(&mut self, link: &Link) -> Result<Hardware, HostError> {
        // /sys/bus is the same in every namespace, unlike /sys/class/net.
        let device = link
            .bus
            .as_ref()
            .map(|at| PathBuf::from(format!("/sys/bus/{}/devices/{}", at.bus, at.device)));
        let driver = device
            .as_deref()
            .and_then(|path| fs::read_link(path.join("driver")).ok())
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Hardware {
            driver: driver.or_else(|| link.kind.clone()),
            queues: self.ethtool.queues(link.ifindex)?.unwrap_or(link.allocated),
            numa_node: device.as_deref().and_then(numa_node),
        })
    }

    /// Gives an interface another MAC address. Through [`super::restore::Changes`] only.
    pub(super) fn set_mac(&mut self, ifindex: IfIndex, mac: MacAddr) -> Result<(), HostError> {
        self.change(
            ifindex,
            |m| m.attr(ADDRESS, &mac.0),
            || format!("giving interface {ifindex} the MAC {mac}"),
        )
    }

    /// Gives an interface another MTU. Through [`super::restore::Changes`] only.
    pub(super) fn set_mtu(&mut self, ifindex: IfIndex, mtu: u32) -> Result<(), HostError> {
        self.change(
            ifindex,
            |m| m.attr(MTU, &mtu.to_ne_bytes()),
            || format!("giving interface {ifindex} the MTU {mtu}"),
        )
    }

    fn change(
        &mut self,
        ifindex: IfIndex,
        fill: impl FnOnce(Message) -> Message,
        attempt: impl FnOnce() -> String,
    ) -> Result<(), HostError> {
        let message = fill(request(RTM_NEWLINK, 0, ifindex.0));
        self.rtnl
            .transact(message)
            .map(drop)
            .map_err(|r| r.during(attempt()))
    }
}

/// The node of a device or of the nearest device above it that has one; -1 in sysfs means none.
fn numa_node(device: &Path) -> Option<u32> {
    let device = device.canonicalize().ok()?;
    device
        .ancestors()
        .find_map(|path| fs::read_to_string(path.join("numa_node")).ok())?
        .trim()
        .parse()
        .ok()
}

/// What a port follows of its interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LinkState {
    /// Its name.
    pub(crate) name: String,
    /// Its number.
    pub(crate) ifindex: IfIndex,
    /// Administratively up.
    pub(crate) up: bool,
    /// Has a carrier.
    pub(crate) carrier: bool,
    /// Its MAC address.
    pub(crate) mac: Option<MacAddr>,
    /// Its MTU.
    pub(crate) mtu: u32,
}

/// Something happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// It is new, or one of these fields changed.
    Changed(LinkState),
    /// No interface has this number and name any more: deleted, renamed, or moved to another namespace.
    Gone {
        /// The name it had.
        name: String,
        /// The number it had.
        ifindex: IfIndex,
    },
}

/// Follows the interfaces of the namespace in which it was opened.
///
/// Becomes readable (its [`AsFd`]) when [`LinkWatch::process`] has something to do: for mio or poll.
pub(crate) struct LinkWatch {
    events: Events,
    rtnl: Netlink,
    known: BTreeMap<IfIndex, LinkState>,
}

impl LinkWatch {
    /// Starts watching and reports what is there now. No change after this call escapes.
    pub(crate) fn open() -> Result<(Self, Vec<LinkState>), HostError> {
        let events = Events::join(&[GROUP_LINK])?;
        let mut rtnl = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
        let known: BTreeMap<_, _> = list(&mut rtnl)?
            .iter()
            .map(|link| (link.ifindex, link.state()))
            .collect();
        let states = known.values().cloned().collect();
        Ok((Self { events, rtnl, known }, states))
    }

    /// Reports what has happened since the last call. Does not wait.
    pub(crate) fn process(&mut self) -> Result<Vec<LinkEvent>, HostError> {
        let mut out = Vec::new();
        let mut overrun = false;
        loop {
            match self.events.receive()? {
                Received::Empty => break,
                Received::Overrun => overrun = true,
                Received::Messages(messages) => messages.iter().for_each(|m| self.apply(m, &mut out)),
            }
        }
        if overrun {
            self.resync(&mut out)?;
        }
        Ok(out)
    }

    #[cfg(test)]
    /// Waits for something to happen, at most this long.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Vec<LinkEvent>, HostError> {
        wait_readable(self.events.as_fd(), timeout);
        self.process()
    }

    /// Makes the event socket too small, so that a test can overrun it.
    #[cfg(test)]
    pub(super) fn shrink(&self) {
        self.events
            .shrink()
            .expect("the buffer of our own socket can be made smaller");
    }

    fn apply(&mut self, message: &Reply, out: &mut Vec<LinkEvent>) {
        match message.kind {
            RTM_NEWLINK => {
                if let Some(link) = Link::parse(message) {
                    self.update(link.state(), out);
                }
            }
            RTM_DELLINK => {
                if let Some((ifindex, _, _)) = header(message) {
                    self.forget(ifindex, out);
                }
            }
            _ => {}
        }
    }

    fn update(&mut self, state: LinkState, out: &mut Vec<LinkEvent>) {
        match self.known.get(&state.ifindex) {
            Some(before) if *before == state => return,
            Some(before) if before.name != state.name => self.forget(state.ifindex, out),
            _ => {}
        }
        self.known.insert(state.ifindex, state.clone());
        out.push(LinkEvent::Changed(state));
    }

    fn forget(&mut self, ifindex: IfIndex, out: &mut Vec<LinkEvent>) {
        if let Some(LinkState { name, ifindex, .. }) = self.known.remove(&ifindex) {
            out.push(LinkEvent::Gone { name, ifindex });
        }
    }

    fn resync(&mut self, out: &mut Vec<LinkEvent>) -> Result<(), HostError> {
        let now: BTreeMap<_, _> = list(&mut self.rtnl)?
            .iter()
            .map(|link| (link.ifindex, link.state()))
            .collect();
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|index| !now.contains_key(index))
            .copied()
            .collect();
        gone.into_iter().for_each(|index| self.forget(index, out));
        now.into_values().for_each(|state| self.update(state, out));
        Ok(())
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

#[cfg(test)]
/// Waits until a descriptor is readable; a signal ends the wait early, which callers cannot tell from a timeout.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let millis = timeout.as_micros().div_ceil(1000);
    let timeout = i32::try_from(millis)
        .ok()
        .and_then(|t| PollTimeout::try_from(t).ok())
        .unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout);
}
