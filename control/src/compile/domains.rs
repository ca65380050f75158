//! Bridge domains: members, flood list, learning rules, known hosts, and the stations with a configured place.

use std::collections::HashMap;
use std::sync::Arc;

use clearway_config::{BridgeDomain, MoveDamping, Name, Spec, StaticMac};
use clearway_engine::{BdId, Dest, Domain, FdbKey, LearnRules, MOST_MOVES, MemberId, Snapshot, TunnelId};

use super::ports::Members;
use super::{Compiler, Facts, Station, Tables, TooMany, put, shared};

impl Compiler {
    pub(super) fn domain_tables(
        &mut self,
        spec: &Spec,
        facts: &Facts,
        before: &Tables,
        tables: &mut Tables,
        mut members: Members,
    ) -> Result<(), TooMany> {
        for (name, domain) in &spec.bridge_domains {
            let Some(bd) = self.domain(name) else { continue };
            let old = before.snapshot.domains.get(bd.index());
            let mut slots = Vec::new();
            for (slot, member) in members.remove(&bd).unwrap_or_default() {
                if slots.len() <= slot.index() {
                    slots.resize(slot.index() + 1, None);
                }
                slots[slot.index()] = Some(member);
            }
            let table = Domain {
                members: slots,
                remotes: self.flood_list(spec, domain),
                vni: domain.vni,
                learning: domain.learning,
                rules: rules(domain),
                // Validation keeps it within what the clock of seconds can tell.
                aging: domain
                    .aging()
                    .map_or(0, |time| u16::try_from(time.as_secs()).unwrap_or(u16::MAX)),
                hosts: hosts(domain, old.and_then(|old| old.as_ref()?.hosts.as_ref())),
            };
            put(&mut tables.snapshot.domains, bd.index(), shared(old, table, same));
            for station in &domain.statics {
                self.station(spec, tables, (bd, domain), station, false);
            }
        }
        for ((name, _), station) in &facts.manual {
            if let (Some(bd), Some(domain)) = (self.domain(name), spec.bridge_domains.get(name)) {
                self.station(spec, tables, (bd, domain), station, true);
            }
        }
        Ok(())
    }

    fn flood_list(&self, spec: &Spec, domain: &BridgeDomain) -> Box<[TunnelId]> {
        let Some(vtep) = self.vtep_of(spec, domain) else {
            return Box::default();
        };
        let remotes = domain.remotes.iter();
        remotes
            .filter_map(|remote| self.tunnel_to(vtep, *remote))
            .collect()
    }

    /// Enters a station. One whose place does not exist now is left out; the configuration's win over manual ones.
    fn station(
        &self,
        spec: &Spec,
        tables: &mut Tables,
        (bd, domain): (BdId, &BridgeDomain),
        station: &StaticMac,
        manual: bool,
    ) {
        let dest = match (&station.port, station.remote) {
            (Some(port), _) => self
                .member_of(&tables.snapshot, bd, port, station)
                .map(Dest::Member),
            (None, Some(remote)) => {
                let vtep = self.vtep_of(spec, domain);
                vtep.and_then(|vtep| self.tunnel_to(vtep, remote))
                    .map(Dest::Tunnel)
            }
            (None, None) => None,
        };
        let Some(dest) = dest else { return };
        let Some(generation) = generation(&tables.snapshot, bd, dest) else {
            return;
        };
        tables
            .stations
            .entry(FdbKey::new(bd, station.mac.to_u64()))
            .or_insert(Station {
                dest,
                generation,
                manual,
            });
    }

    /// The member by which a port carries a domain; with several, the one of the station's VLAN.
    fn member_of(&self, snapshot: &Snapshot, bd: BdId, port: &Name, station: &StaticMac) -> Option<MemberId> {
        let domain = snapshot.domain(bd)?;
        let id = self.port(port)?;
        let slots = self.members.get(&bd)?.iter();
        let mut members =
            slots.filter(|((port, _), slot)| *port == id && domain.member(MemberId(*slot)).is_some());
        let found = match station.vlan {
            Some(vlan) => members.find(|((_, key), _)| key.vlan() == Some(vlan.get())),
            None => members.next(),
        };
        found.map(|(_, slot)| MemberId(slot))
    }
}

/// The generation of a place, if it exists.
fn generation(snapshot: &Snapshot, bd: BdId, dest: Dest) -> Option<u16> {
    match dest {
        Dest::Member(id) => Some(snapshot.domain(bd)?.member(id)?.generation),
        Dest::Tunnel(id) => Some(snapshot.tunnel(id)?.generation),
    }
}

fn rules(domain: &BridgeDomain) -> LearnRules {
    let seconds = |time: std::time::Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
    let (moves, move_window, hold) = match &domain.move_damping {
        MoveDamping::Off => (0, 0, 0),
        MoveDamping::On(limits) => (
            limits.moves.min(MOST_MOVES.into()) as u8,
            seconds(limits.window.get()),
            seconds(limits.hold.get()),
        ),
    };
    LearnRules {
        domain_limit: domain.learn_limit,
        // The port's own limit is added on its way through the stages.
        port_limit: u32::MAX,
        moves,
        move_window,
        hold,
    }
}

type Hosts = Arc<HashMap<std::net::IpAddr, u64>>;

fn hosts(domain: &BridgeDomain, old: Option<&Hosts>) -> Option<Hosts> {
    if !domain.suppress_neighbours {
        return None;
    }
    let hosts: HashMap<_, _> = domain
        .hosts
        .iter()
        .map(|host| (host.ip, host.mac.to_u64()))
        .collect();
    match old {
        Some(old) if **old == hosts => Some(old.clone()),
        _ => Some(Arc::new(hosts)),
    }
}

fn same(a: &Domain, b: &Domain) -> bool {
    let member = |m: &clearway_engine::Member| (m.port, m.generation, m.tags, m.isolated);
    let rules = |r: &LearnRules| (r.domain_limit, r.port_limit, r.moves, r.move_window, r.hold);
    let hosts = match (&a.hosts, &b.hosts) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    hosts
        && (&a.remotes, a.vni, a.learning, a.aging) == (&b.remotes, b.vni, b.learning, b.aging)
        && rules(&a.rules) == rules(&b.rules)
        && a.members
            .iter()
            .map(|m| m.as_ref().map(member))
            .eq(b.members.iter().map(|m| m.as_ref().map(member)))
}
