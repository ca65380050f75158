//! Bridge domains.

use std::collections::{BTreeMap, BTreeSet};

use clearway_wire::{MacAddr, Vid, Vni};

use super::{BRIDGE_DOMAIN, Findings, PORT, VTEP, entry};
use crate::path::Path;
use crate::problem::Problem;
use crate::values::{Damping, MoveDamping, Period};
use crate::{BridgeDomain, Carried, Name, Spec, StaticMac, Vtep};

pub(super) fn check(spec: &Spec, findings: &mut Findings) {
    let mut vlans: BTreeMap<Vid, &Name> = BTreeMap::new();
    let mut vnis: BTreeMap<(&Name, Vni), &Name> = BTreeMap::new();
    let mut carried = Carries::default();
    for (name, domain) in &spec.bridge_domains {
        let path = entry(BRIDGE_DOMAIN, name);
        if let Some(vlan) = domain.vlan {
            if let Some(&other) = vlans.get(&vlan) {
                findings.add(
                    path.at("vlan"),
                    Problem::VlanTwice {
                        vlan,
                        other: other.clone(),
                    },
                );
            } else {
                vlans.insert(vlan, name);
            }
        }
        overlay(spec, domain, &path, findings);
        let vtep = spec.vtep_of(domain);
        if let (Some(vni), Some((vtep, _))) = (domain.vni, vtep) {
            if let Some(&other) = vnis.get(&(vtep, vni)) {
                let problem = Problem::VniTwice {
                    vni,
                    vtep: vtep.clone(),
                    other: other.clone(),
                };
                findings.add(path.at("vni"), problem);
            } else {
                vnis.insert((vtep, vni), name);
            }
        }
        remotes(spec, domain, vtep, &path, findings);
        statics(spec, (name, domain), vtep, &mut carried, (&path, findings));
        hosts(domain, &path, findings);
        limits(spec, domain, &path, findings);
    }
}

/// `vni` and `vtep`: whether they are there together, and which VTEP is meant.
fn overlay(spec: &Spec, domain: &BridgeDomain, path: &Path, findings: &mut Findings) {
    if let Some(vtep) = &domain.vtep {
        findings.exists(path.at("vtep"), vtep, VTEP, &spec.vteps);
    }
    match domain.vni {
        Some(_) if domain.vtep.is_none() && spec.vteps.is_empty() => {
            findings.add(path.at("vni"), Problem::NoVtep);
        }
        Some(_) if domain.vtep.is_none() && spec.vteps.len() > 1 => {
            let vteps = spec.vteps.keys().cloned().collect();
            findings.add(path.at("vni"), Problem::WhichVtep { vteps });
        }
        None if domain.vtep.is_some() => findings.add(path.at("vtep"), Problem::Without { other: "vni" }),
        None if !domain.remotes.is_empty() => {
            findings.add(path.at("remotes"), Problem::Without { other: "vni" });
        }
        _ => {}
    }
}

/// One address of a remote VTEP.
fn remote(
    spec: &Spec,
    remote: std::net::IpAddr,
    vtep: Option<(&Name, &Vtep)>,
    path: &Path,
    findings: &mut Findings,
) {
    findings.unicast_ip(path.clone(), remote);
    let own = vtep.filter(|(_, vtep)| vtep.local == remote);
    let own = own.or_else(|| spec.vteps.iter().find(|(_, vtep)| vtep.local == remote));
    if let Some((name, _)) = own {
        findings.add(
            path.clone(),
            Problem::RemoteLocal {
                remote,
                vtep: name.clone(),
            },
        );
    }
    if let Some((name, vtep)) = vtep.filter(|(_, vtep)| vtep.local.is_ipv4() != remote.is_ipv4()) {
        let problem = Problem::RemoteFamily {
            remote,
            vtep: name.clone(),
            local: vtep.local,
        };
        findings.add(path.clone(), problem);
    }
}

fn remotes(
    spec: &Spec,
    domain: &BridgeDomain,
    vtep: Option<(&Name, &Vtep)>,
    path: &Path,
    findings: &mut Findings,
) {
    let mut seen = BTreeSet::new();
    for (i, &address) in domain.remotes.iter().enumerate() {
        let path = path.at("remotes").at(i);
        remote(spec, address, vtep, &path, findings);
        if !seen.insert(address) {
            findings.add(path, Problem::RemoteTwice { remote: address });
        }
    }
}

/// What ports carry, worked out once for each port that a static MAC names.
type Carries<'a> = BTreeMap<&'a Name, Vec<Carried<'a>>>;

fn statics<'a>(
    spec: &'a Spec,
    (name, domain): (&Name, &'a BridgeDomain),
    vtep: Option<(&Name, &Vtep)>,
    carries: &mut Carries<'a>,
    (path, findings): (&Path, &mut Findings),
) {
    let path = path.at("static");
    let mut first: BTreeMap<MacAddr, usize> = BTreeMap::new();
    for (i, entry) in domain.statics.iter().enumerate() {
        let (mac, at) = (entry.mac, path.at(i));
        findings.unicast_mac(at.at("mac"), mac);
        if let Some(&other) = first.get(&mac) {
            findings.add(
                at.at("mac"),
                Problem::MacTwice {
                    mac,
                    other: path.at(other),
                },
            );
        } else {
            first.insert(mac, i);
        }
        match (&entry.port, entry.remote) {
            (None, None) => findings.add(at.clone(), Problem::StaticNowhere),
            (Some(_), Some(_)) => findings.add(at.clone(), Problem::StaticTwoPlaces),
            (Some(port), None) => {
                if findings.exists(at.at("port"), port, PORT, &spec.ports)
                    && let Some(found) = spec.ports.get(port)
                {
                    let carried = carries.entry(port).or_insert_with(|| spec.carried(found));
                    static_port(carried, name, entry, port, &at, findings);
                }
            }
            (None, Some(_)) if domain.vni.is_none() => {
                findings.add(at.at("remote"), Problem::Without { other: "vni" });
            }
            (None, Some(address)) => remote(spec, address, vtep, &at.at("remote"), findings),
        }
        if entry.vlan.is_some() && entry.port.is_none() {
            findings.add(at.at("vlan"), Problem::Without { other: "port" });
        }
    }
}

/// A static MAC behind a local port: does the port carry the domain, and how often?
fn static_port(
    carried: &[Carried<'_>],
    domain: &Name,
    entry: &StaticMac,
    port: &Name,
    path: &Path,
    findings: &mut Findings,
) {
    let vlans: Vec<Option<Vid>> = carried
        .iter()
        .filter(|c| c.domain == domain)
        .map(|c| c.frames.vlan())
        .collect();
    let words = |vlans: &[Option<Vid>]| {
        let words = vlans
            .iter()
            .map(|vlan| vlan.map_or("untagged".to_string(), |vid| vid.to_string()));
        words.collect::<Vec<_>>().join(", ")
    };
    let (port, domain) = (port.clone(), domain.clone());
    match (vlans.as_slice(), entry.vlan) {
        ([], _) => findings.add(path.at("port"), Problem::StaticElsewhere { port, domain }),
        (vlans, Some(vlan)) if !vlans.contains(&Some(vlan)) => {
            let carried = format!("it carries it as: {}", words(vlans));
            findings.add(
                path.at("vlan"),
                Problem::StaticVlan {
                    port,
                    domain,
                    vlan,
                    carried,
                },
            );
        }
        (vlans @ [_, _, ..], None) => {
            findings.add(
                path.clone(),
                Problem::StaticWhichVlan {
                    port,
                    domain,
                    carried: words(vlans),
                },
            );
        }
        _ => {}
    }
}

fn hosts(domain: &BridgeDomain, path: &Path, findings: &mut Findings) {
    let path = path.at("hosts");
    let mut first: BTreeMap<_, usize> = BTreeMap::new();
    for (i, host) in domain.hosts.iter().enumerate() {
        findings.unicast_ip(path.at(i).at("ip"), host.ip);
        findings.unicast_mac(path.at(i).at("mac"), host.mac);
        if let Some(&other) = first.get(&host.ip) {
            findings.add(
                path.at(i).at("ip"),
                Problem::HostTwice {
                    ip: host.ip,
                    other: path.at(other),
                },
            );
        } else {
            first.insert(host.ip, i);
        }
    }
}

fn limits(spec: &Spec, domain: &BridgeDomain, path: &Path, findings: &mut Findings) {
    if domain.aging().is_some() {
        let (shortest, longest) = (*BridgeDomain::AGING.start(), *BridgeDomain::AGING.end());
        findings.range(
            path.at("aging"),
            &domain.aging,
            &(Period::from(shortest)..=Period::from(longest)),
        );
    }
    let (limit, capacity) = (domain.learn_limit, spec.engine.fdb_capacity);
    findings.range(path.at("learn-limit"), &limit, &BridgeDomain::LEARN_LIMIT);
    // The default limit is no promise; only a limit that somebody wrote must fit the table.
    let written = limit != BridgeDomain::default().learn_limit;
    if written && limit > capacity && BridgeDomain::LEARN_LIMIT.contains(&limit) {
        findings.add(
            path.at("learn-limit"),
            Problem::LimitOverCapacity { limit, capacity },
        );
    }
    if let MoveDamping::On(damping) = &domain.move_damping {
        let path = path.at("move-damping");
        let time = Period::from(*Damping::TIME.start())..=Period::from(*Damping::TIME.end());
        findings.range(path.at("moves"), &damping.moves, &Damping::MOVES);
        findings.range(path.at("window"), &damping.window, &time);
        findings.range(path.at("hold"), &damping.hold, &time);
    }
}
