//! The underlay's next hops, as the host's own kernel would choose them.
//!
//! ```text
//!   (remote, local, UDP port) ─ RTM_GETROUTE ─► interface, gateway ─ RTM_GETNEIGH ─► destination MAC ─► NextHop
//! ```
//!
//! The kernel makes the choice (longest prefix, policy rules, metrics, multipath, path MTU), so tunnels go where
//! the host's other packets go, and FRR or BIRD steer them without knowing of us. A remote without a next hop is
//! not an error but an [`Unresolved`] with its reason. These are single questions; [`super::watch`] follows them.

use std::fmt;
use std::net::IpAddr;

use clearway_wire::MacAddr;
use nix::errno::Errno;
use serde::Serialize;

use super::links::{IfIndex, Link};
use super::netlink::{Attrs, CREATE, DUMP, Message, Refusal, Reply, family, ip_bytes, parse_ip};
use super::{Host, HostError};

pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `struct rtmsg`, `struct ndmsg`, `struct ifaddrmsg`.
pub(super) const RTMSG_LEN: usize = 12;
pub(super) const NDMSG_LEN: usize = 12;
pub(super) const IFADDR_LEN: usize = 8;
/// `RTA_*`.
pub(super) const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_METRICS: u16 = 8;
pub(super) const RTA_VIA: u16 = 18;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;
/// `RTAX_MTU`.
pub(super) const RTAX_MTU: u16 = 2;
/// `RTN_*`.
pub(super) const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
/// `NDA_*`.
pub(super) const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `NTF_USE`: behave as if a packet had been sent to it.
const NTF_USE: u8 = 1;
/// `IFA_*`.
pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
const IPPROTO_UDP: u8 = 17;

/// A tunnel's end points, as the underlay sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Wanted {
    /// The remote VTEP.
    pub(crate) remote: IpAddr,
    /// The local VTEP; `None` lets the kernel choose.
    pub(crate) local: Option<IpAddr>,
    /// Destination port: policy rules may look at it.
    pub(crate) udp_port: u16,
}

/// Where and how a packet leaves for its remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NextHop {
    /// The interface's number.
    pub(crate) ifindex: IfIndex,
    /// Its name.
    pub(crate) interface: String,
    /// Its MAC address.
    pub(crate) src_mac: MacAddr,
    /// The MAC address of the gateway, or of the remote if it is on link.
    pub(crate) dst_mac: MacAddr,
    /// Bytes of the largest IP packet on this path: the interface's, the route's and the discovered MTU.
    pub(crate) mtu: u32,
    /// The gateway; `None`: the remote is on link.
    pub(crate) gateway: Option<IpAddr>,
}

/// Why there is no next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub(crate) enum Unresolved {
    /// The tables have no route to it.
    NoRoute,
    /// A route says: no (blackhole, unreachable, prohibit).
    Rejected,
    /// No interface has the local address, so the kernel would not send from it.
    LocalAddressMissing {
        /// The address.
        local: IpAddr,
    },
    /// The remote's address is our own, a broadcast or a multicast one.
    NotUnicast,
    /// The route's interface is down or lacks a carrier.
    LinkDown {
        /// The interface.
        interface: String,
    },
    /// The route leads out of an interface without MAC addresses.
    NotEthernet {
        /// The interface.
        interface: String,
    },
    /// The kernel is asking for the MAC address.
    Resolving {
        /// The interface.
        interface: String,
        /// Whose MAC address.
        neighbour: IpAddr,
    },
    /// Nobody answered; it is asked again and again.
    NoAnswer {
        /// The interface.
        interface: String,
        /// Whose MAC address.
        neighbour: IpAddr,
    },
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => write!(f, "no route: add one (`ip route get` shows the kernel's choice)"),
            Self::Rejected => write!(f, "a blackhole, unreachable or prohibit route covers it"),
            Self::LocalAddressMissing { local } => {
                write!(
                    f,
                    "no interface has the local address {local}: add it with `ip address add`"
                )
            }
            Self::NotUnicast => write!(
                f,
                "the address is not a remote host's: it is local, broadcast or multicast"
            ),
            Self::LinkDown { interface } => write!(f, "interface {interface} is down or has no carrier"),
            Self::NotEthernet { interface } => {
                write!(f, "interface {interface} is not an Ethernet interface")
            }
            Self::Resolving { interface, neighbour } => {
                write!(f, "asking for the MAC address of {neighbour} on {interface}")
            }
            Self::NoAnswer { interface, neighbour } => {
                write!(
                    f,
                    "{neighbour} does not answer for its MAC address on {interface}"
                )
            }
        }
    }
}

/// A remote's present state.
pub(crate) type Resolution = Result<NextHop, Unresolved>;

/// What a look-up found besides the answer: what to probe and what to watch.
pub(super) struct Lookup {
    pub(super) resolution: Resolution,
    /// Interface and address of the neighbour, if it got that far.
    pub(super) via: Option<(IfIndex, IpAddr)>,
    /// The neighbour's state calls for a probe.
    pub(super) probe: Probe,
}

/// Whether the kernel needs a nudge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// It knows, or is asking already.
    No,
    /// It knows but has not verified lately: it does not see our traffic, so we must ask it to.
    WhenIdle,
    /// It does not know.
    Now,
}

struct Route {
    ifindex: IfIndex,
    gateway: Option<IpAddr>,
    mtu: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Neighbour {
    state: NeighbourState,
    mac: Option<MacAddr>,
}

/// `NUD_*`, folded to what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NeighbourState {
    Unknown,
    Incomplete,
    Failed,
    Stale,
    Valid,
}

impl NeighbourState {
    fn from_kernel(bits: u16) -> Self {
        match bits {
            0x01 => Self::Incomplete,
            0x04 => Self::Stale,
            0x20 => Self::Failed,
            // REACHABLE, DELAY, PROBE, NOARP, PERMANENT
            0x02 | 0x08 | 0x10 | 0x40 | 0x80 => Self::Valid,
            _ => Self::Unknown,
        }
    }
}

impl Host {
    #[cfg(test)]
    /// The next hop as of now. Does not probe and does not wait.
    pub(crate) fn next_hop(&mut self, wanted: Wanted) -> Result<Resolution, HostError> {
        self.look_up(wanted).map(|found| found.resolution)
    }

    pub(super) fn look_up(&mut self, wanted: Wanted) -> Result<Lookup, HostError> {
        let nowhere = |reason| Lookup {
            resolution: Err(reason),
            via: None,
            probe: Probe::No,
        };
        let route = match self.route(wanted)? {
            Ok(route) => route,
            Err(reason) => return Ok(nowhere(reason)),
        };
        let Some(link) = self.link_by_index(route.ifindex)? else {
            return Ok(nowhere(Unresolved::NoRoute));
        };
        let interface = link.name.clone();
        if !link.up || !link.carrier {
            return Ok(nowhere(Unresolved::LinkDown { interface }));
        }
        let Some(src_mac) = link.mac else {
            return Ok(nowhere(Unresolved::NotEthernet { interface }));
        };
        let address = route.gateway.unwrap_or(wanted.remote);
        let neighbour = self.neighbour(link.ifindex, address)?;
        let via = Some((link.ifindex, address));
        let (resolution, probe) = match (neighbour.state, neighbour.mac) {
            (state @ (NeighbourState::Valid | NeighbourState::Stale), Some(dst_mac)) => {
                let next_hop = NextHop {
                    ifindex: link.ifindex,
                    interface,
                    src_mac,
                    dst_mac,
                    mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
                    gateway: route.gateway,
                };
                (
                    Ok(next_hop),
                    if state == NeighbourState::Stale {
                        Probe::WhenIdle
                    } else {
                        Probe::No
                    },
                )
            }
            (NeighbourState::Failed, _) => (
                Err(Unresolved::NoAnswer {
                    interface,
                    neighbour: address,
                }),
                Probe::Now,
            ),
            (NeighbourState::Incomplete, _) => (
                Err(Unresolved::Resolving {
                    interface,
                    neighbour: address,
                }),
                Probe::No,
            ),
            _ => (
                Err(Unresolved::Resolving {
                    interface,
                    neighbour: address,
                }),
                Probe::Now,
            ),
        };
        Ok(Lookup {
            resolution,
            via,
            probe,
        })
    }

    /// Makes the kernel ask for a neighbour's MAC address, or verify the one that it has, as a packet of its own
    /// to that neighbour would (`ip neigh add … use`). Returns at once: the answer is an event.
    pub(super) fn probe(&mut self, ifindex: IfIndex, neighbour: IpAddr) -> Result<(), HostError> {
        let message = Message::new(RTM_NEWNEIGH, CREATE, &ndmsg(ifindex, neighbour, NTF_USE))
            .attr(NDA_DST, &ip_bytes(neighbour));
        self.rtnl.transact(message).map(drop).map_err(|r| {
            r.during(format!(
                "asking for the MAC address of {neighbour} on interface {ifindex}"
            ))
        })
    }

    /// The interface that has this address.
    pub(crate) fn local_address_owner(&mut self, ip: IpAddr) -> Result<Option<String>, HostError> {
        let mut fixed = [0; IFADDR_LEN];
        fixed[0] = family(ip);
        let message = Message::new(RTM_GETADDR, DUMP, &fixed);
        let replies = self
            .rtnl
            .transact(message)
            .map_err(|r| r.during("listing the host's addresses"))?;
        let owner = replies.iter().find_map(|reply| {
            let attrs = reply.attrs(IFADDR_LEN);
            // Of a point-to-point IPv4 address, IFA_ADDRESS is the far end and IFA_LOCAL ours.
            let address = attrs.ip(IFA_LOCAL).or_else(|| attrs.ip(IFA_ADDRESS))?;
            let fixed = reply.fixed::<IFADDR_LEN>()?;
            (address == ip).then(|| IfIndex(u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]])))
        });
        let Some(ifindex) = owner else { return Ok(None) };
        Ok(self.link_by_index(ifindex)?.map(|link| link.name))
    }

    fn route(&mut self, wanted: Wanted) -> Result<Result<Route, Unresolved>, HostError> {
        let bits = |ip| if family(ip) == 2 { 32 } else { 128 };
        let mut fixed = [0; RTMSG_LEN];
        fixed[0] = family(wanted.remote);
        fixed[1] = bits(wanted.remote);
        fixed[2] = wanted.local.map_or(0, bits);
        let mut message = Message::new(RTM_GETROUTE, 0, &fixed)
            .attr(RTA_DST, &ip_bytes(wanted.remote))
            .attr(RTA_IP_PROTO, &[IPPROTO_UDP])
            .attr(RTA_DPORT, &wanted.udp_port.to_be_bytes());
        if let Some(local) = wanted.local {
            message = message.attr(RTA_SRC, &ip_bytes(local));
        }
        let replies = match self.rtnl.transact(message) {
            Ok(replies) => replies,
            Err(refusal) => return self.route_refused(wanted, refusal).map(Err),
        };
        if let Some(local) = wanted.local
            && self.local_address_owner(local)?.is_none()
        {
            // IPv6 looks up routes from addresses that the host does not have, IPv4 does not: treat both alike.
            return Ok(Err(Unresolved::LocalAddressMissing { local }));
        }
        Ok(replies.first().map_or(Err(Unresolved::NoRoute), parse_route))
    }

    /// Tells a remote without a route from a look-up that went wrong.
    fn route_refused(&mut self, wanted: Wanted, refusal: Refusal) -> Result<Unresolved, HostError> {
        if let Some(local) = wanted.local
            && self.local_address_owner(local)?.is_none()
        {
            return Ok(Unresolved::LocalAddressMissing { local });
        }
        if refusal.is(Errno::ENETUNREACH) {
            return Ok(Unresolved::NoRoute);
        }
        // What unreachable, prohibit and blackhole routes answer.
        if [Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL]
            .into_iter()
            .any(|errno| refusal.is(errno))
        {
            return Ok(Unresolved::Rejected);
        }
        Err(refusal.during(format!("looking up the route to {}", wanted.remote)))
    }

    fn neighbour(&mut self, ifindex: IfIndex, address: IpAddr) -> Result<Neighbour, HostError> {
        const NONE: Neighbour = Neighbour {
            state: NeighbourState::Unknown,
            mac: None,
        };
        let message =
            Message::new(RTM_GETNEIGH, 0, &ndmsg(ifindex, address, 0)).attr(NDA_DST, &ip_bytes(address));
        match self.rtnl.transact(message) {
            Ok(replies) => Ok(replies.first().and_then(parse_neighbour).unwrap_or(NONE)),
            Err(refusal) if refusal.is(Errno::ENOENT) || refusal.is(Errno::ENODEV) => Ok(NONE),
            Err(refusal) => {
                Err(refusal.during(format!("looking up neighbour {address} on interface {ifindex}")))
            }
        }
    }

    /// The interface of this number, if there is one.
    pub(crate) fn link_by_index(&mut self, ifindex: IfIndex) -> Result<Option<Link>, HostError> {
        super::links::get(&mut self.rtnl, ifindex)
    }
}

fn ndmsg(ifindex: IfIndex, address: IpAddr, flags: u8) -> [u8; NDMSG_LEN] {
    let mut fixed = [0; NDMSG_LEN];
    fixed[0] = family(address);
    fixed[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

fn parse_route(reply: &Reply) -> Result<Route, Unresolved> {
    let kind = reply.fixed::<RTMSG_LEN>().map_or(0, |fixed| fixed[7]);
    let attrs = reply.attrs(RTMSG_LEN);
    match kind {
        RTN_UNICAST => {}
        RTN_BLACKHOLE | RTN_UNREACHABLE | RTN_PROHIBIT => return Err(Unresolved::Rejected),
        _ => return Err(Unresolved::NotUnicast),
    }
    let ifindex = attrs.u32(RTA_OIF).map(IfIndex).ok_or(Unresolved::NoRoute)?;
    let mtu = attrs.nested(RTA_METRICS).u32(RTAX_MTU).filter(|mtu| *mtu != 0);
    Ok(Route {
        ifindex,
        gateway: attrs.ip(RTA_GATEWAY).or_else(|| via(attrs)),
        mtu,
    })
}

/// `struct rtvia`: a gateway of the other address family (RFC 8950).
pub(super) fn via(attrs: Attrs<'_>) -> Option<IpAddr> {
    parse_ip(attrs.get(RTA_VIA)?.get(2..)?)
}

fn parse_neighbour(reply: &Reply) -> Option<Neighbour> {
    let fixed = reply.fixed::<NDMSG_LEN>()?;
    let state = NeighbourState::from_kernel(u16::from_ne_bytes([fixed[8], fixed[9]]));
    let mac = reply
        .attrs(NDMSG_LEN)
        .get(NDA_LLADDR)
        .and_then(|a| <[u8; 6]>::try_from(a).ok())
        .map(MacAddr);
    Some(Neighbour { state, mac })
}
