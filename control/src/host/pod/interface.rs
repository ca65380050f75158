//! A pod's interface through a netlink socket of its namespace: addresses and routes, given, looked at, repaired.

use std::fs;
use std::net::IpAddr;

use clearway_config::attach::{Addresses, Route};
use clearway_wire::MacAddr;
use ipnet::IpNet;
use nix::errno::Errno;

use super::settings::{self, MAIN};
use super::{Difference, PodError, PodNetns, PodRoute, Wanted, differences};
use crate::host::links::{self, ADDRESS, IFF_UP, IfIndex, Link, MTU, OperState, by_name, flags_request};
use crate::host::netlink::{CREATE, DUMP, EXCL, Message, Netlink, REPLACE, Refusal, Reply, family, ip_bytes};
use crate::host::routes::{
    IFA_ADDRESS, IFA_LOCAL, IFADDR_LEN, RTA_DST, RTA_GATEWAY, RTA_METRICS, RTA_OIF, RTA_VIA, RTAX_MTU,
    RTM_GETADDR, RTM_GETROUTE, RTMSG_LEN, RTN_UNICAST, via,
};
use crate::host::unlink::Unlinker;

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// `IFA_BROADCAST`.
const IFA_BROADCAST: u16 = 4;
/// `IFA_F_NODAD`: usable at once. Whoever gives the addresses out sees to it that they are given once.
const NO_DAD: u8 = 0x02;
/// `RTA_*`.
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
/// `RTAX_ADVMSS`.
const RTAX_ADVMSS: u16 = 8;
/// `RTPROT_STATIC`.
const BY_ADMINISTRATOR: u8 = 4;
/// `RTNH_F_ONLINK`.
const ON_LINK: u32 = 4;
/// More entries than any pod has use for. One that fills its tables to keep us busy is not looked at.
const MOST: usize = 65_536;

/// A pod's namespace as seen through a socket that was opened there, on whatever thread it is used.
///
/// To be dropped soon: while it is open, the namespace of a pod that has ended does not go away.
pub(crate) struct Pod {
    pub(super) netns: PodNetns,
    pub(super) rtnl: Netlink,
}

/// An interface of a pod as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodInterface {
    /// Its number in the pod.
    pub(crate) ifindex: IfIndex,
    /// Its MAC address, if it is an Ethernet interface.
    pub(crate) mac: Option<MacAddr>,
    /// Bytes of its largest L3 packet.
    pub(crate) mtu: u32,
    /// Administratively up.
    pub(crate) up: bool,
    /// The kind of a virtual interface: veth, tun, …
    pub(crate) kind: Option<String>,
    /// Its addresses with the length of their subnets, also those that others gave it and link-local ones.
    pub(crate) addresses: Vec<IpNet>,
    /// The unicast routes through it alone, in all tables, also those that others added.
    pub(crate) routes: Vec<PodRoute>,
}

impl PodNetns {
    /// Opens a socket in the namespace, if it is still the one that was entered before.
    pub(crate) fn enter(&self) -> Result<Pod, PodError> {
        let rtnl = self.run(|| Ok(Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?.guarded(MOST)?))?;
        let cookie = rtnl.netns_cookie()?;
        if self.cookie.is_some_and(|known| Some(known) != cookie) {
            return Err(PodError::Replaced(self.path.clone()));
        }
        let netns = Self {
            cookie,
            ..self.clone()
        };
        Ok(Pod { netns, rtnl })
    }
}

impl Pod {
    /// Sets an interface up and gives it addresses and routes. What is there already with the same content is fine; what
    /// stands in the way is an error. A failure leaves what was done before.
    pub(crate) fn set_up(&mut self, interface: &str, addresses: &Addresses) -> Result<(), PodError> {
        let link = self.link(interface)?;
        // First: the kernel takes no route through an interface that is down.
        self.change(flags_request(link.ifindex, IFF_UP), || {
            format!("setting {interface} up")
        })?;
        for ip in &addresses.ips {
            self.add_address(&link, ip.address)?;
        }
        for route in settings::routes(addresses) {
            self.add_route(link.ifindex, &route, EXCL)?;
        }
        Ok(())
    }

    /// Those routes whose place is that of a route through another interface: the kernel would not take them.
    pub(crate) fn taken_routes(
        &mut self,
        interface: &str,
        addresses: &Addresses,
    ) -> Result<Vec<Route>, PodError> {
        let ifindex = self.link(interface)?.ifindex;
        let there = self.routes(None)?;
        let taken = |wanted: &PodRoute| {
            let mut others = there.iter().filter(|(through, _)| *through != ifindex);
            others.any(|(_, route)| route.is_in_place_of(wanted))
        };
        let wanted = settings::routes(addresses);
        let both = addresses.routes.iter().zip(&wanted);
        Ok(both
            .filter(|(_, wanted)| taken(wanted))
            .map(|(route, _)| route.clone())
            .collect())
    }

    /// Whether an interface has a link, and its queue takes frames: without one they are lost, and nobody is told.
    pub(crate) fn has_link(&mut self, interface: &str) -> Result<bool, PodError> {
        let link = self.link(interface)?;
        Ok(link.carrier && matches!(link.oper_state, OperState::Up | OperState::Unknown))
    }

    /// The namespace, as it can be told from any later one.
    pub(crate) fn netns(&self) -> &PodNetns {
        &self.netns
    }

    /// Whether nothing has this name: what is there already is somebody else's.
    pub(crate) fn name_is_free(&mut self, interface: &str) -> Result<(), PodError> {
        let taken = || PodError::PodNameTaken {
            name: interface.to_owned(),
            netns: self.netns.path().to_owned(),
        };
        match by_name(&mut self.rtnl, interface)? {
            Some(_) => Err(taken()),
            None => Ok(()),
        }
    }

    /// An interface as it is, `None` if it is not there.
    pub(crate) fn look(&mut self, interface: &str) -> Result<Option<PodInterface>, PodError> {
        let Some(link) = self.find(interface)? else {
            return Ok(None);
        };
        let routes = self.routes(Some(link.ifindex))?;
        Ok(Some(PodInterface {
            ifindex: link.ifindex,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            addresses: self.addresses(link.ifindex)?,
            kind: link.kind,
            routes: routes.into_iter().map(|(_, route)| route).collect(),
        }))
    }

    /// Gives an interface back what it lacks, and returns what that was. Nothing that others added is removed.
    pub(crate) fn repair(
        &mut self,
        interface: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Difference>, PodError> {
        let differences = differences(wanted, self.look(interface)?.as_ref());
        if differences.is_empty() {
            return Ok(differences);
        }
        let link = self.link(interface)?;
        // In their order: link, addresses, routes.
        for difference in &differences {
            let ifindex = link.ifindex;
            match difference {
                Difference::Missing => return Err(self.no_interface(interface)),
                Difference::Kind { found, wanted } => {
                    return Err(PodError::OtherKind {
                        name: interface.to_owned(),
                        netns: self.netns.path().to_owned(),
                        found: found.clone(),
                        wanted: wanted.clone(),
                    });
                }
                Difference::Mac { wanted, .. } => {
                    let message = flags_request(ifindex, 0).attr(ADDRESS, &wanted.0);
                    self.change(message, || format!("giving {interface} the MAC {wanted}"))?;
                }
                Difference::Mtu { wanted, .. } => {
                    let message = flags_request(ifindex, 0).attr(MTU, &wanted.to_ne_bytes());
                    self.change(message, || format!("giving {interface} the MTU {wanted}"))?;
                }
                Difference::Down => self.change(flags_request(ifindex, IFF_UP), || {
                    format!("setting {interface} up")
                })?,
                Difference::Address(address) => self.add_address(&link, *address)?,
                Difference::Route { found, wanted } => {
                    let flag = if found.is_some() { REPLACE } else { EXCL };
                    self.add_route(ifindex, wanted, flag)?;
                }
            }
        }
        Ok(differences)
    }

    /// Deletes a TAP of the pod's. Returns whether it was there; another interface of the name stays.
    pub(crate) fn delete_tap(&mut self, interface: &str) -> Result<bool, PodError> {
        match self.find(interface)? {
            Some(link) if link.kind.as_deref() == Some("tun") => {
                let unlinker = self.netns.run(|| Ok(Unlinker::open()?))?;
                Ok(unlinker.delete(link.ifindex)?)
            }
            _ => Ok(false),
        }
    }

    /// An interface that should be there.
    pub(super) fn link(&mut self, interface: &str) -> Result<Link, PodError> {
        self.find(interface)?.ok_or_else(|| self.no_interface(interface))
    }

    fn find(&mut self, interface: &str) -> Result<Option<Link>, PodError> {
        let reply = by_name(&mut self.rtnl, interface)?;
        Ok(reply.as_ref().and_then(Link::parse))
    }

    fn no_interface(&self, interface: &str) -> PodError {
        PodError::NoInterface {
            name: interface.to_owned(),
            netns: self.netns.path().to_owned(),
        }
    }

    pub(super) fn change(
        &mut self,
        message: Message,
        attempt: impl FnOnce() -> String,
    ) -> Result<(), PodError> {
        let place = || {
            format!(
                "{} in network namespace {}",
                attempt(),
                self.netns.path().display()
            )
        };
        let answer = self.rtnl.transact(message);
        Ok(answer.map(drop).map_err(|refusal| refusal.during(place()))?)
    }

    fn add_address(&mut self, link: &Link, address: IpNet) -> Result<(), PodError> {
        match self.rtnl.transact(new_address(link.ifindex, address)) {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.is(Errno::EEXIST) => return self.has_address(link, address),
            // How the kernel says that IPv6 is off here. A pod that is given an IPv6 address is to have IPv6.
            Err(refusal) if refusal.is(Errno::EACCES) && address.addr().is_ipv6() => {
                self.turn_ipv6_on(&link.name)?;
            }
            Err(refusal) => return Err(self.address_refused(link, address, refusal)),
        }
        match self.rtnl.transact(new_address(link.ifindex, address)) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.address_refused(link, address, refusal)),
        }
    }

    fn address_refused(&self, link: &Link, address: IpNet, refusal: Refusal) -> PodError {
        let (name, path) = (&link.name, self.netns.path().display());
        refusal
            .during(format!(
                "giving {name} in network namespace {path} the address {address}"
            ))
            .into()
    }

    /// The kernel says that the address exists: fine, if it is the same (IPv6 does not look at the length).
    fn has_address(&mut self, link: &Link, wanted: IpNet) -> Result<(), PodError> {
        let there = self.addresses(link.ifindex)?;
        let other = there
            .iter()
            .find(|address| address.addr() == wanted.addr() && **address != wanted);
        match other {
            Some(found) if !there.contains(&wanted) => Err(PodError::AddressTaken {
                interface: link.name.clone(),
                netns: self.netns.path().to_owned(),
                found: *found,
                wanted,
            }),
            _ => Ok(()),
        }
    }

    fn turn_ipv6_on(&self, interface: &str) -> Result<(), PodError> {
        let sysctl = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        // /proc/sys/net is that of the thread's namespace.
        self.netns.run(|| {
            fs::write(&sysctl, "0").map_err(|source| PodError::Ipv6Off {
                interface: interface.to_owned(),
                netns: self.netns.path().to_owned(),
                sysctl: sysctl.clone(),
                source,
            })
        })
    }

    fn addresses(&mut self, ifindex: IfIndex) -> Result<Vec<IpNet>, PodError> {
        let mut fixed = [0; IFADDR_LEN];
        fixed[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
        let listed = self.rtnl.transact(Message::new(RTM_GETADDR, DUMP, &fixed));
        let replies = listed.map_err(|refusal| {
            let path = self.netns.path().display();
            refusal.during(format!("listing the addresses in network namespace {path}"))
        })?;
        let of_it = |reply: &&Reply| {
            let fixed = reply.fixed::<IFADDR_LEN>().unwrap_or_default();
            fixed[4..8] == ifindex.0.to_ne_bytes()
        };
        Ok(replies.iter().filter(of_it).filter_map(parse_address).collect())
    }

    /// Adds a route, with `EXCL` or in place of the one that is there, with `REPLACE`.
    fn add_route(&mut self, ifindex: IfIndex, route: &PodRoute, how: u16) -> Result<(), PodError> {
        match self.rtnl.transact(new_route(ifindex, route, how)) {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is(Errno::EEXIST) => self.has_route(ifindex, route),
            Err(refusal) => {
                let path = self.netns.path().display();
                Err(refusal
                    .during(format!("adding the route {route} in network namespace {path}"))
                    .into())
            }
        }
    }

    /// The kernel says that the route exists: fine, if it is the same.
    fn has_route(&mut self, ifindex: IfIndex, wanted: &PodRoute) -> Result<(), PodError> {
        let routes = self.routes(None)?;
        let rivals = || routes.iter().filter(|(_, route)| route.is_in_place_of(wanted));
        if rivals().any(|(through, route)| *through == ifindex && route.serves(wanted)) {
            return Ok(());
        }
        let found = match rivals().next() {
            Some((through, route)) => {
                let link = links::get(&mut self.rtnl, *through)?;
                let name = link.map_or_else(|| through.to_string(), |link| link.name);
                format!("{route} dev {name}")
            }
            None => "one that is no plain unicast route".to_owned(),
        };
        Err(PodError::RouteTaken {
            netns: self.netns.path().to_owned(),
            found,
            wanted: wanted.to_string(),
        })
    }

    /// The unicast routes of both families in all tables, through this interface or all.
    fn routes(&mut self, through: Option<IfIndex>) -> Result<Vec<(IfIndex, PodRoute)>, PodError> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let mut fixed = [0; RTMSG_LEN];
            fixed[0] = family;
            let mut message = Message::new(RTM_GETROUTE, DUMP, &fixed);
            if let Some(ifindex) = through {
                message = message.attr(RTA_OIF, &ifindex.0.to_ne_bytes());
            }
            let listed = self.rtnl.transact(message);
            let replies = listed.map_err(|refusal| {
                let path = self.netns.path().display();
                refusal.during(format!("listing the routes in network namespace {path}"))
            })?;
            found.extend(replies.iter().filter_map(parse_route));
        }
        found.retain(|(ifindex, _)| through.is_none_or(|through| through == *ifindex));
        Ok(found)
    }
}

fn new_address(ifindex: IfIndex, address: IpNet) -> Message {
    let mut fixed = [0; IFADDR_LEN];
    fixed[0] = family(address.addr());
    fixed[1] = address.prefix_len();
    if address.addr().is_ipv6() {
        fixed[2] = NO_DAD;
    }
    fixed[4..8].copy_from_slice(&ifindex.0.to_ne_bytes());
    let bytes = ip_bytes(address.addr());
    let message = Message::new(RTM_NEWADDR, CREATE | EXCL, &fixed)
        .attr(IFA_LOCAL, &bytes)
        .attr(IFA_ADDRESS, &bytes);
    match address {
        // A /31 has none (RFC 3021), and neither has a single address.
        IpNet::V4(net) if net.prefix_len() < 31 => message.attr(IFA_BROADCAST, &net.broadcast().octets()),
        _ => message,
    }
}

fn parse_address(reply: &Reply) -> Option<IpNet> {
    let prefix_len = reply.fixed::<IFADDR_LEN>()?[1];
    let attrs = reply.attrs(IFADDR_LEN);
    // Of a point-to-point IPv4 address, IFA_ADDRESS is the far end and IFA_LOCAL ours.
    let address = attrs.ip(IFA_LOCAL).or_else(|| attrs.ip(IFA_ADDRESS))?;
    IpNet::new(address, prefix_len).ok()
}

fn new_route(ifindex: IfIndex, route: &PodRoute, how: u16) -> Message {
    let mut fixed = [0; RTMSG_LEN];
    fixed[0] = family(route.dst.addr());
    fixed[1] = route.dst.prefix_len();
    // The byte of the table stays 0: its number is an attribute.
    fixed[5] = BY_ADMINISTRATOR;
    fixed[6] = route.scope;
    fixed[7] = RTN_UNICAST;
    if route.on_link {
        fixed[8..12].copy_from_slice(&ON_LINK.to_ne_bytes());
    }
    let mut message = Message::new(RTM_NEWROUTE, CREATE | how, &fixed)
        .attr(RTA_DST, &ip_bytes(route.dst.addr()))
        .attr(RTA_OIF, &ifindex.0.to_ne_bytes())
        .attr(RTA_PRIORITY, &route.priority.to_ne_bytes())
        .attr(RTA_TABLE, &route.table.to_ne_bytes());
    if let Some(gateway) = route.gateway {
        message = match gateway.is_ipv4() == route.dst.addr().is_ipv4() {
            true => message.attr(RTA_GATEWAY, &ip_bytes(gateway)),
            // struct rtvia: a gateway of the other family (RFC 8950).
            false => {
                let mut bytes = u16::from(family(gateway)).to_ne_bytes().to_vec();
                bytes.extend(ip_bytes(gateway));
                message.attr(RTA_VIA, &bytes)
            }
        };
    }
    let metrics = [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)];
    if metrics.iter().all(|(_, value)| value.is_none()) {
        return message;
    }
    message.nested(RTA_METRICS, |m| {
        metrics.into_iter().fold(m, |m, (kind, value)| match value {
            Some(value) => m.attr(kind, &value.to_ne_bytes()),
            None => m,
        })
    })
}

/// A unicast route through one interface, and which.
fn parse_route(reply: &Reply) -> Option<(IfIndex, PodRoute)> {
    let fixed = reply.fixed::<RTMSG_LEN>()?;
    if fixed[7] != RTN_UNICAST {
        return None;
    }
    let attrs = reply.attrs(RTMSG_LEN);
    let any = match i32::from(fixed[0]) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let metrics = attrs.nested(RTA_METRICS);
    let flags = u32::from_ne_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]);
    let route = PodRoute {
        // A default route has no destination.
        dst: IpNet::new(attrs.ip(RTA_DST).unwrap_or(any), fixed[1]).ok()?,
        gateway: attrs.ip(RTA_GATEWAY).or_else(|| via(attrs)),
        on_link: flags & ON_LINK != 0,
        mtu: metrics.u32(RTAX_MTU).filter(|mtu| *mtu != 0),
        advmss: metrics.u32(RTAX_ADVMSS).filter(|mss| *mss != 0),
        priority: attrs.u32(RTA_PRIORITY).unwrap_or(0),
        table: attrs.u32(RTA_TABLE).unwrap_or(MAIN),
        scope: fixed[6],
    };
    Some((IfIndex(attrs.u32(RTA_OIF)?), route))
}
