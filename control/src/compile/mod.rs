//! Spec → tables: what the configuration says, in the engine's numbers.
//!
//! ```text
//!   Spec (names) ─┐
//!   Facts (host) ─┼─► Compiler::compile ─► Tables { Snapshot, static stations } ─► publish ─► Compiler::commit
//!   Tables before ┘        │
//!                          └ ids.rs: names → numbers that stay
//! ```
//!
//! Guarantees: a name keeps its number for as long as it exists; what did not change shares its `Arc` with the
//! tables before, so a change costs the workers' caches nothing elsewhere; tables that are
//! not published are as if they had never been made. Left to the caller: a valid spec, and
//! [`Compiler::settle`] after each sweep of the forwarding database.

mod domains;
mod ids;
mod ports;
#[cfg(test)]
mod tests;
mod underlay;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use clearway_config::{Frames, Name, Spec, StaticMac, TagProtocol};
use clearway_engine::{BdId, Dest, FdbKey, MemberId, OuterSpec, Place, PortId, Snapshot, TunnelId, VtepId};
use clearway_wire::{MacAddr, Vni};

pub(crate) use ids::TooMany;
use ids::{IdMap, Slots};
pub(crate) use ports::{describe, tpid};

/// What tables need to know of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// By port; one that is missing here has defaults.
    pub(crate) ports: BTreeMap<Name, PortFacts>,
    /// By VTEP; one that is missing here is not reachable yet.
    pub(crate) vteps: BTreeMap<Name, VtepFacts>,
    /// Next hops that are known, by VTEP and remote.
    pub(crate) paths: BTreeMap<(Name, IpAddr), Path>,
    /// Stations that were added by hand, by domain and address.
    pub(crate) manual: BTreeMap<(Name, MacAddr), StaticMac>,
}

/// What the host says of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortFacts {
    /// Bytes of the interface's largest L3 packet; none: it has no limit.
    pub(crate) mtu: Option<u32>,
    /// Frames may arrive with unfinished checksums.
    pub(crate) finish_checksums: bool,
}

/// What the host says of a VTEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VtepFacts {
    /// The port that carries it.
    pub(crate) port: Name,
    /// The MAC address of the interface that has its IP address, or the configured one.
    pub(crate) mac: MacAddr,
    /// Nobody else on that port has its IP address: ARP and ND for it are answered by us.
    pub(crate) answers: bool,
}

/// The way to a remote VTEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    /// Our MAC address on it.
    pub(crate) src_mac: MacAddr,
    /// The next hop's.
    pub(crate) dst_mac: MacAddr,
    /// Bytes of the largest IP packet.
    pub(crate) mtu: u32,
}

/// How frames of a domain are told from others on a port: what makes a member, together with the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TagKey {
    /// No tag.
    Untagged,
    /// Every frame, tags are payload.
    Every,
    /// One tag or two.
    Tagged(TagProtocol, u16, Option<u16>),
}

impl From<Frames> for TagKey {
    fn from(frames: Frames) -> Self {
        match frames {
            Frames::Untagged => Self::Untagged,
            Frames::Every => Self::Every,
            Frames::Tagged {
                protocol,
                vlan,
                inner,
            } => Self::Tagged(protocol, vlan.get(), inner.map(|vid| vid.get())),
        }
    }
}

impl TagKey {
    /// `100`, `400.20`; none for untagged and every frame.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Untagged | Self::Every => None,
            Self::Tagged(_, vlan, None) => Some(vlan.to_string()),
            Self::Tagged(_, vlan, Some(inner)) => Some(format!("{vlan}.{inner}")),
        }
    }

    /// The VID of the outer tag.
    pub(crate) fn vlan(self) -> Option<u16> {
        match self {
            Self::Untagged | Self::Every => None,
            Self::Tagged(_, vlan, _) => Some(vlan),
        }
    }
}

/// A station whose place is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Station {
    /// Where it is.
    pub(crate) dest: Dest,
    /// The generation of that place.
    pub(crate) generation: u16,
    /// Added by hand, not by the configuration.
    pub(crate) manual: bool,
}

/// What the workers and the forwarding database are to hold.
#[derive(Clone, Default)]
pub(crate) struct Tables {
    /// For the workers.
    pub(crate) snapshot: Snapshot,
    /// For the forwarding database.
    pub(crate) stations: BTreeMap<FdbKey, Station>,
    /// What was compiled from: a later compilation compares with it.
    inputs: Inputs,
}

/// What the parts of a snapshot were made of, where it cannot be seen in them.
#[derive(Clone, Default)]
struct Inputs {
    /// By port: where its frames belong.
    places: BTreeMap<PortId, Arc<Vec<(TagKey, Place)>>>,
    /// By VTEP: VNI → domain.
    vnis: BTreeMap<VtepId, Arc<BTreeMap<Vni, BdId>>>,
    /// By tunnel: its outer headers.
    outer: BTreeMap<TunnelId, OuterSpec>,
}

/// Compiles one spec after another; keeps the numbers of names.
pub(crate) struct Compiler {
    ports: IdMap<Name>,
    domains: IdMap<Name>,
    vteps: IdMap<Name>,
    tunnels: IdMap<(VtepId, IpAddr)>,
    /// By tunnel number; grows each time a number is used anew.
    tunnel_generations: Vec<u16>,
    members: BTreeMap<BdId, Slots<(PortId, TagKey)>>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self {
            ports: IdMap::new("ports", 0),
            // An FDB key of 0 means "empty", so no domain has the number 0.
            domains: IdMap::new("bridge domains", 1),
            vteps: IdMap::new("VTEPs", 0),
            tunnels: IdMap::new("tunnels", 0),
            tunnel_generations: Vec::new(),
            members: BTreeMap::new(),
        }
    }
}

impl Compiler {
    /// The tables of a spec. What equals its counterpart in `before` is shared with it.
    pub(crate) fn compile(&mut self, spec: &Spec, facts: &Facts, before: &Tables) -> Result<Tables, TooMany> {
        for name in spec.ports.keys() {
            self.ports.assign(name)?;
        }
        for name in spec.bridge_domains.keys() {
            self.domains.assign(name)?;
        }
        for name in spec.vteps.keys() {
            self.vteps.assign(name)?;
        }
        let mut tables = Tables::default();
        let members = self.port_tables(spec, facts, before, &mut tables)?;
        self.underlay_tables(spec, facts, before, &mut tables)?;
        self.domain_tables(spec, facts, before, &mut tables, members)?;
        Ok(tables)
    }

    /// These tables are published: numbers of names that the spec does not have any more become free.
    pub(crate) fn commit(&mut self, spec: &Spec, tables: &Tables) {
        let snapshot = &tables.snapshot;
        for id in self
            .domains
            .retain(|name, _| spec.bridge_domains.contains_key(name))
        {
            self.members.remove(&BdId(id));
        }
        for (bd, slots) in &mut self.members {
            let domain = snapshot.domain(*bd);
            slots.retain(|slot| domain.is_some_and(|domain| domain.member(MemberId(slot)).is_some()));
        }
        self.ports.retain(|name, _| spec.ports.contains_key(name));
        self.tunnels
            .retain(|_, id| snapshot.tunnel(TunnelId(id)).is_some());
        self.vteps.retain(|name, _| spec.vteps.contains_key(name));
    }

    /// The forwarding database was swept since the last commit.
    pub(crate) fn settle(&mut self) {
        self.ports.settle();
        self.domains.settle();
        self.vteps.settle();
        self.tunnels.settle();
    }

    /// The number of a port.
    pub(crate) fn port(&self, name: &Name) -> Option<PortId> {
        self.ports.get(name).map(PortId)
    }

    /// The number of a port, a new one if it has none: for a port that is built before its tables are published.
    pub(crate) fn assign_port(&mut self, name: &Name) -> Result<PortId, TooMany> {
        self.ports.assign(name).map(|(id, _)| PortId(id))
    }

    /// The port of a number.
    pub(crate) fn port_name(&self, id: PortId) -> Option<&Name> {
        self.ports.name(id.0)
    }

    /// The number of a bridge domain.
    pub(crate) fn domain(&self, name: &Name) -> Option<BdId> {
        self.domains.get(name).map(BdId)
    }

    /// The bridge domain of a number.
    pub(crate) fn domain_name(&self, id: BdId) -> Option<&Name> {
        self.domains.name(id.0)
    }

    /// Port and tags of a member.
    pub(crate) fn member(&self, bd: BdId, id: MemberId) -> Option<(PortId, TagKey)> {
        self.members.get(&bd)?.key(id.0).copied()
    }

    /// VTEP and remote address of a tunnel.
    pub(crate) fn tunnel(&self, id: TunnelId) -> Option<(&Name, IpAddr)> {
        let (vtep, remote) = self.tunnels.name(id.0)?;
        Some((self.vteps.name(vtep.0)?, *remote))
    }

    /// All tunnels, in the order of their VTEPs' numbers and their remotes.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = (TunnelId, &Name, IpAddr)> {
        self.tunnels
            .iter()
            .filter_map(|((vtep, remote), id)| Some((TunnelId(id), self.vteps.name(vtep.0)?, *remote)))
    }
}

/// Puts an item into a table by number.
fn put<T>(table: &mut Vec<Option<Arc<T>>>, index: usize, item: Arc<T>) {
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(item);
}

/// The old item where the new one is equal to it.
fn shared<T>(old: Option<&Option<Arc<T>>>, new: T, same: impl Fn(&T, &T) -> bool) -> Arc<T> {
    match old {
        Some(Some(old)) if same(old, &new) => old.clone(),
        _ => Arc::new(new),
    }
}
