//! VTEPs and tunnels: VNI → domain, remote address → tunnel, and the outer headers of each tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use clearway_config::{BridgeDomain, DscpPolicy, Name, Spec, UdpChecksum, Vtep as VtepSpec};
use clearway_engine::{
    BdId, OuterDscp, OuterSpec, PortId, Remotes, Rewrite, Tunnel, TunnelId, VniTable, Vtep, VtepId,
};
use clearway_wire::Vni;

use super::{Compiler, Facts, Path, Tables, TooMany, put};

/// The remotes of each VTEP.
type Ends = BTreeMap<VtepId, BTreeSet<IpAddr>>;
/// The VNIs of each VTEP.
type Segments = BTreeMap<VtepId, BTreeMap<Vni, BdId>>;

/// Bytes of UDP and VXLAN.
const UDP_VXLAN: u32 = 8 + 8;

impl Compiler {
    pub(super) fn underlay_tables(
        &mut self,
        spec: &Spec,
        facts: &Facts,
        before: &Tables,
        tables: &mut Tables,
    ) -> Result<(), TooMany> {
        let (mut remotes, vnis) = self.overlay(spec);
        for ((domain, _), station) in &facts.manual {
            let vtep = spec
                .bridge_domains
                .get(domain)
                .and_then(|domain| self.vtep_of(spec, domain));
            if let (Some(vtep), Some(remote)) = (vtep, station.remote) {
                remotes.entry(vtep).or_default().insert(remote);
            }
        }
        for (name, vtep) in &spec.vteps {
            let Some(id) = self.vteps.get(name).map(VtepId) else {
                continue;
            };
            let mut table = Remotes::default();
            for remote in remotes.remove(&id).unwrap_or_default() {
                let tunnel = self.assign_tunnel(id, remote)?;
                table.insert(remote.into(), tunnel);
                self.tunnel_table(spec, facts, before, tables, (tunnel, name, vtep, remote));
            }
            self.vtep_table(facts, before, tables, (id, name, vtep, table, vnis.get(&id)));
        }
        Ok(())
    }

    /// The remotes and VNIs of each VTEP, as the domains name them.
    fn overlay(&self, spec: &Spec) -> (Ends, Segments) {
        let (mut remotes, mut vnis) = (Ends::new(), Segments::new());
        for (name, domain) in &spec.bridge_domains {
            let (Some(bd), Some(vni), Some(vtep)) =
                (self.domain(name), domain.vni, self.vtep_of(spec, domain))
            else {
                continue;
            };
            vnis.entry(vtep).or_default().insert(vni, bd);
            let stations = domain.statics.iter().filter_map(|station| station.remote);
            remotes
                .entry(vtep)
                .or_default()
                .extend(domain.remotes.iter().copied().chain(stations));
        }
        (remotes, vnis)
    }

    /// The number of a domain's VTEP.
    pub(super) fn vtep_of(&self, spec: &Spec, domain: &BridgeDomain) -> Option<VtepId> {
        let (name, _) = spec.vtep_of(domain)?;
        self.vteps.get(name).map(VtepId)
    }

    /// The number of the tunnel to a remote.
    pub(super) fn tunnel_to(&self, vtep: VtepId, remote: IpAddr) -> Option<TunnelId> {
        self.tunnels.get(&(vtep, remote)).map(TunnelId)
    }

    fn assign_tunnel(&mut self, vtep: VtepId, remote: IpAddr) -> Result<TunnelId, TooMany> {
        let (id, new) = self.tunnels.assign(&(vtep, remote))?;
        let index = usize::from(id);
        if self.tunnel_generations.len() <= index {
            self.tunnel_generations.resize(index + 1, 0);
        } else if new {
            let generation = &mut self.tunnel_generations[index];
            *generation = generation.wrapping_add(1);
        }
        Ok(TunnelId(id))
    }

    fn tunnel_table(
        &self,
        spec: &Spec,
        facts: &Facts,
        before: &Tables,
        tables: &mut Tables,
        (id, name, vtep, remote): (TunnelId, &Name, &VtepSpec, IpAddr),
    ) {
        let port = facts.vteps.get(name).and_then(|vtep| self.port(&vtep.port));
        let path = facts
            .paths
            .get(&(name.clone(), remote))
            .filter(|_| port.is_some());
        let generation = self.tunnel_generations[id.index()];
        let max_inner = max_inner(spec, facts, name, vtep, path);
        let outer = path.map(|path| outer(vtep, remote, path));
        // Without a port there are no headers either, so nothing is ever sent to the placeholder.
        let port = port.unwrap_or(PortId(u16::MAX));
        let old = before.snapshot.tunnels.get(id.index()).and_then(Option::as_ref);
        let same = |old: &&Arc<Tunnel>| {
            (old.port, old.generation, old.max_inner) == (port, generation, max_inner)
                && before.inputs.outer.get(&id) == outer.as_ref()
        };
        let tunnel = old.filter(same).cloned().unwrap_or_else(|| {
            Arc::new(Tunnel {
                port,
                generation,
                max_inner,
                rewrite: outer.as_ref().and_then(Rewrite::new),
            })
        });
        put(&mut tables.snapshot.tunnels, id.index(), tunnel);
        if let Some(outer) = outer {
            tables.inputs.outer.insert(id, outer);
        }
    }

    fn vtep_table(
        &self,
        facts: &Facts,
        before: &Tables,
        tables: &mut Tables,
        (id, name, vtep, remotes, vnis): (VtepId, &Name, &VtepSpec, Remotes, Option<&BTreeMap<Vni, BdId>>),
    ) {
        let empty = BTreeMap::new();
        let vnis = vnis.unwrap_or(&empty);
        let old_vnis = before.inputs.vnis.get(&id);
        let shared_vnis = match old_vnis {
            Some(old) if **old == *vnis => old.clone(),
            _ => Arc::new(vnis.clone()),
        };
        let old = before.snapshot.vteps.get(id.index()).and_then(Option::as_ref);
        // Until its address is on an interface, nothing can be addressed to it.
        if let Some(found) = facts.vteps.get(name) {
            let (local, mac) = (vtep.local.into(), found.mac.to_u64());
            let answers = self.port(&found.port).filter(|_| found.answers);
            let same = |old: &&Arc<Vtep>| {
                old_vnis.is_some_and(|old| Arc::ptr_eq(old, &shared_vnis))
                    && (old.local, old.mac, old.udp_port, old.vid) == (local, mac, vtep.udp_port, vtep.vlan)
                    && old.answers == answers
                    && old.remotes == remotes
            };
            let table = old.filter(same).cloned().unwrap_or_else(|| {
                Arc::new(Vtep {
                    local,
                    mac,
                    udp_port: vtep.udp_port,
                    vid: vtep.vlan,
                    answers,
                    vnis: vni_table(old.map(|old| &old.vnis).zip(old_vnis.map(Arc::as_ref)), vnis),
                    remotes,
                })
            });
            put(&mut tables.snapshot.vteps, id.index(), table);
            tables.inputs.vnis.insert(id, shared_vnis);
        }
    }
}

/// The table of these VNIs. Pages of the old table in which nothing changes are shared with it.
fn vni_table(old: Option<(&VniTable, &BTreeMap<Vni, BdId>)>, vnis: &BTreeMap<Vni, BdId>) -> VniTable {
    let empty = BTreeMap::new();
    let (mut table, before) = match old {
        Some((table, before)) => (table.clone(), before),
        None => (VniTable::default(), &empty),
    };
    for vni in before.keys().filter(|vni| !vnis.contains_key(vni)) {
        // Domain 0 does not exist: it stands for none.
        table.insert(*vni, BdId(0));
    }
    for (vni, bd) in vnis.iter().filter(|(vni, bd)| before.get(vni) != Some(bd)) {
        table.insert(*vni, *bd);
    }
    table
}

/// Bytes of the largest inner frame, its Ethernet header included: what the underlay takes less the outer IP, UDP
/// and VXLAN headers (the outer Ethernet header does not count towards an MTU).
fn max_inner(spec: &Spec, facts: &Facts, name: &Name, vtep: &VtepSpec, path: Option<&Path>) -> u32 {
    let port = facts.vteps.get(name).and_then(|vtep| {
        let configured = spec.ports.get(&vtep.port)?.mtu.map(u32::from);
        configured.or_else(|| facts.ports.get(&vtep.port)?.mtu)
    });
    let mtu = match (vtep.mtu, path) {
        (Some(mtu), _) => u32::from(mtu),
        (None, Some(path)) => port.map_or(path.mtu, |port| port.min(path.mtu)),
        (None, None) => port.unwrap_or(1500),
    };
    mtu.saturating_sub(if vtep.local.is_ipv4() { 20 } else { 40 } + UDP_VXLAN)
}

fn outer(vtep: &VtepSpec, remote: IpAddr, path: &Path) -> OuterSpec {
    OuterSpec {
        src_mac: path.src_mac,
        dst_mac: path.dst_mac,
        vid: vtep.vlan,
        local: vtep.local,
        remote,
        udp_port: vtep.udp_port,
        ttl: vtep.ttl,
        dscp: match vtep.dscp {
            DscpPolicy::Copy => OuterDscp::Copy,
            DscpPolicy::Set(dscp) => OuterDscp::Fixed(dscp),
        },
        checksum: match vtep.udp_checksum {
            UdpChecksum::Auto => vtep.local.is_ipv6(),
            UdpChecksum::On => true,
            UdpChecksum::Off => false,
        },
    }
}
