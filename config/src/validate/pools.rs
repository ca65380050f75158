//! Address pools.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::ports::interface_name;
use super::{ADDRESS_POOL, Findings, entry};
use crate::addresses::AddressRange;
use crate::path::Path;
use crate::pool::{AddressPool, PodName, PoolRoute, PoolSubnet};
use crate::problem::PoolProblem;
use crate::values::PortKind;
use crate::{Name, Spec};

pub(super) fn check(spec: &Spec, findings: &mut Findings) {
    for (name, pool) in &spec.address_pools {
        let path = entry(ADDRESS_POOL, name);
        subnets(pool, &path.at("subnets"), findings);
        routes(pool, &path.at("routes"), findings);
        reservations(pool, &path.at("reservations"), findings);
    }
    between_pools(spec, findings);
}

fn subnets(pool: &AddressPool, path: &Path, findings: &mut Findings) {
    if pool.subnets.is_empty() {
        findings.add(path.clone(), PoolProblem::Empty);
    }
    let mut families: BTreeMap<bool, usize> = BTreeMap::new();
    for (i, subnet) in pool.subnets.iter().enumerate() {
        let path = path.at(i);
        let first = *families.entry(subnet.is_ipv4()).or_insert(i);
        if first != i {
            let (subnet, other) = (subnet.subnet, pool.subnets[first].subnet);
            findings.add(path.at("subnet"), PoolProblem::FamilyTwice { subnet, other });
        }
        if whole(subnet.subnet, &path.at("subnet"), findings) {
            self::subnet(pool, subnet, &path, findings);
        }
    }
}

/// Whether a subnet is one, and as small as one of a pool may be.
fn is_fit(net: IpNet) -> bool {
    net.trunc() == net && PoolSubnet::lengths(net).contains(&net.prefix_len())
}

/// Whether a subnet is one, and its addresses are those of single hosts.
fn whole(net: IpNet, path: &Path, findings: &mut Findings) -> bool {
    let found = findings.0.len();
    if net.trunc() != net {
        findings.add(path.clone(), PoolProblem::SubnetBits { net });
    } else if !PoolSubnet::lengths(net).contains(&net.prefix_len()) {
        let lengths = PoolSubnet::lengths(net);
        findings.add(
            path.clone(),
            PoolProblem::SubnetLength {
                net,
                min: *lengths.start(),
                max: *lengths.end(),
            },
        );
    } else {
        findings.unicast_ip(path.clone(), net.network());
    }
    findings.0.len() == found
}

fn subnet(pool: &AddressPool, subnet: &PoolSubnet, path: &Path, findings: &mut Findings) {
    let net = subnet.subnet;
    let found = findings.0.len();
    if let Some(gateway) = subnet.gateway
        && !is_link_local(gateway, net)
    {
        host(gateway, net, &path.at("gateway"), findings);
    }
    let ranges = path.at("ranges");
    for (i, range) in subnet.ranges.iter().enumerate() {
        inside(*range, net, &ranges.at(i), findings);
        let other = subnet.ranges[..i]
            .iter()
            .position(|other| other.both(range).is_some());
        if let Some(other) = other {
            let (range, other) = (*range, ranges.at(other));
            findings.add(ranges.at(i), PoolProblem::RangeOverlap { range, other });
        }
    }
    for (i, range) in subnet.exclude.iter().enumerate() {
        if !AddressRange::of(net).contains_range(range) {
            let range = *range;
            findings.add(path.at("exclude").at(i), PoolProblem::RangeOutside { range, net });
        }
    }
    let reserved = pool
        .reservations
        .iter()
        .flat_map(|reservation| &reservation.addresses);
    let nothing = subnet.available().is_empty() && !reserved.into_iter().any(|ip| net.contains(ip));
    if nothing && findings.0.len() == found {
        findings.add(path.clone(), PoolProblem::NothingLeft { net });
    }
}

/// A router of IPv6 is reached by its link-local address as well (RFC 4861 §4.2).
fn is_link_local(ip: IpAddr, net: IpNet) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) && !net.network().is_ipv4()
}

/// Reports an address that no host of the subnet can have.
fn host(ip: IpAddr, net: IpNet, path: &Path, findings: &mut Findings) {
    if !net.contains(&ip) {
        findings.add(path.clone(), PoolProblem::AddressOutside { ip, net });
    } else if let Some(what) = no_host(AddressRange::one(ip), net) {
        findings.add(path.clone(), PoolProblem::NoHost { ip, net, what });
    }
}

/// Reports a range with addresses that no host of the subnet can have.
fn inside(range: AddressRange, net: IpNet, path: &Path, findings: &mut Findings) {
    if !AddressRange::of(net).contains_range(&range) {
        findings.add(path.clone(), PoolProblem::RangeOutside { range, net });
    } else if let Some(what) = no_host(range, net) {
        let ip = if range.contains(net.network()) {
            net.network()
        } else {
            net.broadcast()
        };
        findings.add(path.clone(), PoolProblem::NoHost { ip, net, what });
    }
}

/// Which address of the subnet is in the range and no host's.
fn no_host(range: AddressRange, net: IpNet) -> Option<&'static str> {
    let hosts = AddressRange::hosts(net);
    if range.contains(net.network()) && !hosts.contains(net.network()) {
        return Some(if net.network().is_ipv4() {
            "the network address"
        } else {
            "the subnet-router anycast address"
        });
    }
    (range.contains(net.broadcast()) && !hosts.contains(net.broadcast())).then_some("the broadcast address")
}

fn routes(pool: &AddressPool, routes: &Path, findings: &mut Findings) {
    let mut first: BTreeMap<(IpNet, u32, u32), usize> = BTreeMap::new();
    for (i, route) in pool.routes.iter().enumerate() {
        let (to, path) = (route.to, routes.at(i));
        if to.trunc() != to {
            findings.add(path.at("to"), PoolProblem::SubnetBits { net: to });
        }
        let numbers = [
            ("mtu", route.mtu, PoolRoute::MTU),
            ("advmss", route.advmss, PoolRoute::ADVMSS),
            ("priority", route.priority, PoolRoute::NUMBERS),
            ("table", route.table, PoolRoute::NUMBERS),
        ];
        for (key, number, range) in numbers {
            if let Some(number) = number {
                findings.range(path.at(key), &number, &range);
            }
        }
        let other = *first.entry(route.place()).or_insert(i);
        if other != i {
            let other = routes.at(other);
            findings.add(path.at("to"), PoolProblem::RouteTwice { to, other });
        }
        let ipv4 = to.network().is_ipv4();
        let subnet = pool.subnets.iter().find(|subnet| subnet.is_ipv4() == ipv4);
        match (subnet, route.via) {
            (None, _) if pool.subnets.is_empty() => {}
            (None, _) => findings.add(path.at("to"), PoolProblem::RouteNoSubnet { to }),
            (Some(_), Some(_)) if route.ends_on_the_link() => {
                findings.add(path.at("via"), PoolProblem::RouteOnLink { to });
            }
            (Some(subnet), None) if subnet.gateway.is_none() && !route.ends_on_the_link() => {
                let net = subnet.subnet;
                findings.add(path, PoolProblem::RouteNoGateway { net });
            }
            (Some(_), None) => {}
            (Some(_), Some(via)) if via.is_ipv4() != ipv4 => {
                findings.add(path.at("via"), PoolProblem::RouteFamily { to, via });
            }
            (Some(subnet), Some(via)) if is_link_local(via, subnet.subnet) => {}
            (Some(subnet), Some(via)) => host(via, subnet.subnet, &path.at("via"), findings),
        }
    }
}

fn reservations(pool: &AddressPool, path: &Path, findings: &mut Findings) {
    let mut pods: BTreeMap<(&PodName, Option<&str>), usize> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (i, reservation) in pool.reservations.iter().enumerate() {
        let path_of = |i: usize| path.at(i);
        let at = (&reservation.pod, reservation.interface.as_deref());
        let other = *pods.entry(at).or_insert(i);
        if other != i {
            let (pod, other) = (reservation.pod.clone(), path_of(other));
            findings.add(path_of(i).at("pod"), PoolProblem::ReservationTwice { pod, other });
        }
        if let Some(interface) = &reservation.interface {
            // In the pod it may be made as a TAP: of all kinds, these have the most rules.
            let path = path_of(i).at("interface");
            interface_name(interface, PortKind::Tap, path, findings);
        }
        let path = path_of(i).at("addresses");
        if reservation.addresses.is_empty() {
            findings.add(path.clone(), PoolProblem::ReservesNothing);
        }
        let mut families: BTreeMap<bool, usize> = BTreeMap::new();
        for (j, &ip) in reservation.addresses.iter().enumerate() {
            let path = path.at(j);
            match pool
                .subnets
                .iter()
                .find(|subnet| subnet.is_ipv4() == ip.is_ipv4())
            {
                Some(subnet) if subnet.gateway == Some(ip) => {
                    findings.add(path.clone(), PoolProblem::ReservedGateway { ip });
                }
                Some(subnet) => host(ip, subnet.subnet, &path, findings),
                None if pool.subnets.is_empty() => {}
                None => findings.add(path.clone(), PoolProblem::ReservedNoSubnet { ip }),
            }
            let first = *families.entry(ip.is_ipv4()).or_insert(j);
            let other = *addresses.entry(ip).or_insert(i);
            if other != i {
                let other = path_of(other);
                findings.add(path, PoolProblem::ReservedTwice { ip, other });
            } else if first != j {
                let other = reservation.addresses[first];
                findings.add(path, PoolProblem::ReservedFamilyTwice { ip, other });
            }
        }
    }
}

/// What pools give out, so that no address is given out by two.
fn between_pools(spec: &Spec, findings: &mut Findings) {
    let mut given: Vec<(AddressRange, &Name, Path)> = Vec::new();
    for (name, pool) in &spec.address_pools {
        let path = entry(ADDRESS_POOL, name);
        let subnets = pool.subnets.iter().enumerate();
        for (i, subnet) in subnets.filter(|(_, subnet)| is_fit(subnet.subnet)) {
            let path = path.at("subnets").at(i);
            given.extend(
                subnet
                    .available()
                    .into_iter()
                    .map(|range| (range, name, path.clone())),
            );
        }
        for (i, reservation) in pool.reservations.iter().enumerate() {
            let path = path.at("reservations").at(i).at("addresses");
            let one = |(j, ip): (usize, &IpAddr)| (AddressRange::one(*ip), name, path.at(j));
            given.extend(reservation.addresses.iter().enumerate().map(one));
        }
    }
    given.sort_by_key(|(range, ..)| *range);
    let mut widest: Option<&(AddressRange, &Name, Path)> = None;
    let mut reported = Vec::new();
    for one in &given {
        if let Some(other) = widest
            && other.1 != one.1
            && let Some(range) = one.0.both(&other.0)
            && !reported.contains(&(&one.2, other.1))
        {
            reported.push((&one.2, other.1));
            let pool = other.1.clone();
            findings.add(one.2.clone(), PoolProblem::Overlap { range, pool });
        }
        if widest.is_none_or(|other| other.0.last() < one.0.last() || other.0.both(&one.0).is_none()) {
            widest = Some(one);
        }
    }
    for (name, pool) in &spec.address_pools {
        for (i, subnet) in pool.subnets.iter().enumerate() {
            let Some(gateway) = subnet.gateway else { continue };
            let other = given
                .iter()
                .find(|(range, other, _)| *other != name && range.contains(gateway));
            if let Some((_, other, _)) = other {
                let path = entry(ADDRESS_POOL, name).at("subnets").at(i).at("gateway");
                let pool = Name::clone(other);
                findings.add(path, PoolProblem::GatewayGiven { gateway, pool });
            }
        }
    }
}
