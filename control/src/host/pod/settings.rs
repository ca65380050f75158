//! What a pod's interface should be, what it is, and how the two differ. Pure: nothing here asks the kernel.

use std::fmt;
use std::net::IpAddr;

use clearway_config::attach::{Addresses, Route};
use clearway_wire::MacAddr;
use ipnet::IpNet;

use super::PodInterface;

/// `RT_TABLE_MAIN`.
pub(super) const MAIN: u32 = 254;
/// `RT_SCOPE_UNIVERSE`, `RT_SCOPE_LINK`.
const UNIVERSE: u8 = 0;
const LINK: u8 = 253;
/// `IP6_RT_PRIO_USER`: the metric of an IPv6 route that names none.
const IPV6_PRIORITY: u32 = 1024;

/// A pod's interface as it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Its kind as the kernel calls it: `veth`, `tun`.
    pub(crate) kind: &'a str,
    /// Its MAC address.
    pub(crate) mac: MacAddr,
    /// Bytes of its largest L3 packet.
    pub(crate) mtu: u32,
    /// Its addresses and routes.
    pub(crate) addresses: &'a Addresses,
}

/// A route through a pod's interface, as the kernel keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodRoute {
    /// The destination.
    pub(crate) dst: IpNet,
    /// The next hop; `None`: on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// The gateway is on the link although no subnet of the interface has it (`RTNH_F_ONLINK`).
    pub(crate) on_link: bool,
    /// The MTU along it, in bytes.
    pub(crate) mtu: Option<u32>,
    /// The TCP maximal segment size to advertise, in bytes.
    pub(crate) advmss: Option<u32>,
    /// The metric.
    pub(crate) priority: u32,
    /// The routing table.
    pub(crate) table: u32,
    /// The scope; of IPv6 always 0.
    pub(crate) scope: u8,
}

impl PodRoute {
    /// Whether it does what `wanted` asks for. Metrics that are not asked for are anybody's.
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        self.is_in_place_of(wanted)
            && self.gateway == wanted.gateway
            && self.scope == wanted.scope
            && (wanted.mtu.is_none() || self.mtu == wanted.mtu)
            && (wanted.advmss.is_none() || self.advmss == wanted.advmss)
    }

    /// Whether the kernel would not take both.
    pub(super) fn is_in_place_of(&self, wanted: &Self) -> bool {
        (self.dst, self.priority, self.table) == (wanted.dst, wanted.priority, wanted.table)
    }
}

impl fmt::Display for PodRoute {
    /// As `ip route` would say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        let usual = match self.dst {
            IpNet::V4(_) => 0,
            IpNet::V6(_) => IPV6_PRIORITY,
        };
        let numbers = [
            ("metric", Some(self.priority).filter(|metric| *metric != usual)),
            ("table", Some(self.table).filter(|table| *table != MAIN)),
            ("mtu", self.mtu),
            ("advmss", self.advmss),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, " {name} {number}")?;
            }
        }
        match self.scope {
            UNIVERSE => Ok(()),
            LINK => f.write_str(" scope link"),
            254 => f.write_str(" scope host"),
            other => write!(f, " scope {other}"),
        }
    }
}

/// The routes that are wanted, with everything that may be left out filled in.
pub(super) fn routes(addresses: &Addresses) -> Vec<PodRoute> {
    addresses
        .routes
        .iter()
        .map(|route| complete(addresses, route))
        .collect()
}

fn complete(addresses: &Addresses, route: &Route) -> PodRoute {
    let v4 = matches!(route.dst, IpNet::V4(_));
    // A route that is said to end on the link has no gateway to fill in.
    let ends_here = route.scope.is_some_and(|scope| scope >= LINK);
    let gateway = route
        .gw
        .or_else(|| (!ends_here).then(|| default_gateway(addresses, v4)).flatten());
    let scope = match (v4, route.scope, gateway) {
        (false, _, _) => UNIVERSE,
        (true, Some(scope), _) => scope,
        (true, None, Some(_)) => UNIVERSE,
        (true, None, None) => LINK,
    };
    PodRoute {
        // The kernel refuses a destination with bits behind its length.
        dst: route.dst.trunc(),
        gateway,
        on_link: gateway.is_some_and(|gateway| is_outside(addresses, gateway)),
        mtu: route.mtu,
        advmss: route.advmss,
        priority: match route.priority {
            None | Some(0) if !v4 => IPV6_PRIORITY,
            priority => priority.unwrap_or(0),
        },
        table: route.table.filter(|table| *table != 0).unwrap_or(MAIN),
        scope,
    }
}

/// The gateway of the first address of the family that has one.
fn default_gateway(addresses: &Addresses, v4: bool) -> Option<IpAddr> {
    let mut gateways = addresses.ips.iter().filter_map(|ip| ip.gateway);
    gateways.find(|gateway| gateway.is_ipv4() == v4)
}

/// Whether no subnet of the interface has this gateway. IPv6 link-local ones are always on the link.
fn is_outside(addresses: &Addresses, gateway: IpAddr) -> bool {
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    !link_local && !addresses.ips.iter().any(|ip| ip.address.contains(&gateway))
}

/// Something about an interface that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Difference {
    /// It is not there.
    Missing,
    /// Another interface has its name.
    Kind {
        /// The kind of that one.
        found: String,
        /// The kind it should be.
        wanted: String,
    },
    /// Its MAC address.
    Mac {
        /// What it is; `None`: it has none.
        found: Option<MacAddr>,
        /// What it should be.
        wanted: MacAddr,
    },
    /// Its MTU, in bytes.
    Mtu {
        /// What it is.
        found: u32,
        /// What it should be.
        wanted: u32,
    },
    /// It is down.
    Down,
    /// An address is missing.
    Address(IpNet),
    /// A route is missing, or is another one.
    Route {
        /// What is in its place.
        found: Option<PodRoute>,
        /// What it should be.
        wanted: PodRoute,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "its interface is not in the pod any more"),
            Self::Kind { found, wanted } => {
                write!(
                    f,
                    "the interface of its name is a {found}, not the {wanted} that it was"
                )
            }
            Self::Mac {
                found: Some(found),
                wanted,
            } => {
                write!(f, "its MAC address is {found}, it should be {wanted}")
            }
            Self::Mac { found: None, wanted } => write!(f, "it has no MAC address, it should be {wanted}"),
            Self::Mtu { found, wanted } => write!(f, "its MTU is {found}, it should be {wanted}"),
            Self::Down => write!(f, "it is down, it should be up"),
            Self::Address(address) => write!(f, "its address {address} is missing"),
            Self::Route { found: None, wanted } => write!(f, "its route {wanted} is missing"),
            Self::Route {
                found: Some(found),
                wanted,
            } => {
                write!(f, "its route {wanted} is another one, {found}")
            }
        }
    }
}

/// How an interface differs from what it should be; nothing that it has besides counts.
pub(crate) fn differences(wanted: &Wanted<'_>, found: Option<&PodInterface>) -> Vec<Difference> {
    let Some(found) = found else {
        return vec![Difference::Missing];
    };
    let kind = found.kind.as_deref().unwrap_or("device");
    if kind != wanted.kind {
        return vec![Difference::Kind {
            found: kind.to_owned(),
            wanted: wanted.kind.to_owned(),
        }];
    }
    let mac = (found.mac != Some(wanted.mac)).then_some(Difference::Mac {
        found: found.mac,
        wanted: wanted.mac,
    });
    let mtu = (found.mtu != wanted.mtu).then_some(Difference::Mtu {
        found: found.mtu,
        wanted: wanted.mtu,
    });
    let down = (!found.up).then_some(Difference::Down);
    let ips = wanted.addresses.ips.iter().map(|ip| ip.address);
    let addresses = ips
        .filter(|address| !found.addresses.contains(address))
        .map(Difference::Address);
    let routes = routes(wanted.addresses).into_iter().filter_map(|wanted| {
        let rival = |route: &&PodRoute| route.is_in_place_of(&wanted);
        let mut rivals = found.routes.iter().filter(rival);
        if rivals.clone().any(|route| route.serves(&wanted)) {
            return None;
        }
        let found = rivals.next().cloned();
        Some(Difference::Route { found, wanted })
    });
    mac.into_iter()
        .chain(mtu)
        .chain(down)
        .chain(addresses)
        .chain(routes)
        .collect()
}
