//! VXLAN tunnel endpoints.

use std::collections::BTreeMap;

use super::ports::is_underlay;
use super::{Findings, PORT, VTEP, entry};
use crate::path::Path;
use crate::port::Steering;
use crate::problem::Problem;
use crate::values::PortKind;
use crate::{Name, Port, Spec, Vtep};

pub(super) fn check(spec: &Spec, findings: &mut Findings) {
    let mut endpoints = BTreeMap::new();
    for (name, vtep) in &spec.vteps {
        let path = entry(VTEP, name);
        findings.unicast_ip(path.at("local"), vtep.local);
        findings.range(path.at("udp-port"), &vtep.udp_port, &(1..=u16::MAX));
        findings.range(path.at("ttl"), &vtep.ttl, &(1..=u8::MAX));
        if let Some(mtu) = vtep.mtu {
            findings.range(path.at("mtu"), &mtu, &Vtep::mtu_range(vtep.local));
        }
        let (local, udp_port) = (vtep.local, vtep.udp_port);
        if let Some(&other) = endpoints.get(&(local, udp_port)) {
            let other = Name::clone(other);
            findings.add(
                path.at("local"),
                Problem::VtepTwice {
                    local,
                    udp_port,
                    other,
                },
            );
        } else {
            endpoints.insert((local, udp_port), name);
        }
        if let Some(port) = &vtep.port
            && findings.exists(path.at("port"), port, PORT, &spec.ports)
            && let Some(found) = spec.ports.get(port)
        {
            underlay(spec, vtep, (port, found), &path, findings);
        }
        next_hop(vtep, &path, findings);
    }
}

/// A next hop that is not the kernel's: where it is, our address there and its own belong together.
fn next_hop(vtep: &Vtep, path: &Path, findings: &mut Findings) {
    for (key, mac, other) in [
        ("mac", vtep.mac, ("next-hop", vtep.next_hop)),
        ("next-hop", vtep.next_hop, ("mac", vtep.mac)),
    ] {
        let Some(mac) = mac else { continue };
        findings.unicast_mac(path.at(key), mac);
        let (other, there) = (other.0, other.1.is_some());
        for (other, there) in [(other, there), ("port", vtep.port.is_some())] {
            if !there {
                findings.add(path.at(key), Problem::Without { other });
            }
        }
    }
    if let Some(mac) = vtep.mac.filter(|mac| vtep.next_hop == Some(*mac)) {
        findings.add(path.at("next-hop"), Problem::VtepNextHopIsOurs { mac });
    }
}

/// Whether the port can carry the tunnels: the kernel must see ARP there, and no bridge domain may own the frames.
fn underlay(spec: &Spec, vtep: &Vtep, (name, port): (&Name, &Port), path: &Path, findings: &mut Findings) {
    if port.kind == PortKind::AfXdp && port.steering == Steering::Exclusive {
        findings.add(path.at("port"), Problem::VtepExclusive { port: name.clone() });
    }
    if port.kind != PortKind::AfXdp && vtep.mac.is_none() && vtep.next_hop.is_none() {
        let (port, kind) = (name.clone(), port.kind);
        findings.add(path.at("port"), Problem::VtepNoInterface { port, kind });
    }
    let carried = spec.carried(port);
    if let Some(taken) = carried
        .iter()
        .find(|carried| is_underlay(carried.frames, vtep.vlan))
    {
        let (key, frames) = match vtep.vlan {
            Some(vlan) => ("vlan", format!("the frames of VLAN {vlan}")),
            None => ("port", "the untagged frames".to_string()),
        };
        let (port, domain) = (name.clone(), taken.domain.clone());
        findings.add(path.at(key), Problem::VtepInDomain { frames, port, domain });
    }
}
