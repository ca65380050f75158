//! Ports: their service, tags and limits; and which members that makes in which domains.

use std::collections::{BTreeMap, HashMap};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use clearway_config::{Name, PcpPolicy, Port, Rate, Service as PortService, Spec, TagProtocol};
use clearway_engine::{
    BdId, Member, MemberId, Place, Policer, PortConf, PortId, RateLimit, Service, StormLimits, TagRule,
    VidTable, VtepId,
};
use clearway_wire::{EtherType, Vid};

use super::{Compiler, Facts, PortFacts, Tables, TagKey, TooMany, put, shared};

/// Members by domain and slot.
pub(super) type Members = BTreeMap<BdId, BTreeMap<MemberId, Member>>;

const DEFAULT: PortFacts = PortFacts {
    mtu: None,
    finish_checksums: false,
};
/// Longer packets do not exist (RFC 791, RFC 8200 without jumbograms).
const LONGEST: u32 = 65535;

impl Compiler {
    pub(super) fn port_tables(
        &mut self,
        spec: &Spec,
        facts: &Facts,
        before: &Tables,
        tables: &mut Tables,
    ) -> Result<Members, TooMany> {
        let by_vlan = spec.domains_by_vlan();
        let crossed = self.crossed(spec);
        let carriers = self.carriers(spec, facts);
        let mut members = Members::new();
        for (name, port) in &spec.ports {
            let Some(id) = self.port(name) else { continue };
            let mut places = Vec::new();
            for carried in spec.carried_by(port, &by_vlan) {
                let Some(bd) = self.domain(carried.domain) else {
                    continue;
                };
                let key = TagKey::from(carried.frames);
                let (slot, generation) = self.members.entry(bd).or_default().assign(&(id, key))?;
                let member = Member {
                    port: id,
                    generation,
                    tags: tags(key, port),
                    isolated: port.isolated,
                };
                let slot = MemberId(slot);
                members.entry(bd).or_default().insert(slot, member);
                places.push((key, Place { bd, member: slot }));
            }
            let old = before.snapshot.ports.get(id.index());
            let old_conf = old.and_then(Option::as_deref);
            let (places, reusable) = match before.inputs.places.get(&id) {
                Some(before) if **before == places => (before.clone(), old_conf),
                _ => (Arc::new(places), None),
            };
            let service = match crossed.get(&id) {
                Some(other) => Service::CrossConnect(*other),
                None => service(port, &places, reusable),
            };
            let conf = conf(
                port,
                facts.ports.get(name).unwrap_or(&DEFAULT),
                service,
                carriers.get(&id),
                old_conf,
            );
            put(&mut tables.snapshot.ports, id.index(), shared(old, conf, same));
            tables.inputs.places.insert(id, places);
        }
        Ok(members)
    }

    /// Which port goes straight to which.
    fn crossed(&self, spec: &Spec) -> BTreeMap<PortId, PortId> {
        let pairs = spec.cross_connects.iter();
        pairs
            .filter_map(|pair| Some((self.port(&pair.0)?, self.port(&pair.1)?)))
            .flat_map(|(a, b)| [(a, b), (b, a)])
            .collect()
    }

    /// Which VTEPs a port carries.
    fn carriers(&self, spec: &Spec, facts: &Facts) -> BTreeMap<PortId, Vec<VtepId>> {
        let mut carriers: BTreeMap<PortId, Vec<VtepId>> = BTreeMap::new();
        for name in spec.vteps.keys() {
            let port = facts.vteps.get(name).and_then(|vtep| self.port(&vtep.port));
            if let (Some(port), Some(id)) = (port, self.vteps.get(name)) {
                carriers.entry(port).or_default().push(VtepId(id));
            }
        }
        carriers
    }
}

fn conf(
    port: &Port,
    facts: &PortFacts,
    service: Service,
    vteps: Option<&Vec<VtepId>>,
    old: Option<&PortConf>,
) -> PortConf {
    let mut allowed: Vec<u64> = port.allowed_macs.iter().map(|mac| mac.to_u64()).collect();
    allowed.sort_unstable();
    let (storm, rates) = (&port.storm_control, &port.rate_limit);
    PortConf {
        service,
        vteps: vteps.map(|ids| ids.as_slice().into()).unwrap_or_default(),
        allowed_macs: allowed.into(),
        storm: StormLimits {
            broadcast: storm.broadcast,
            multicast: storm.multicast,
            unknown: storm.unknown,
        },
        storm_buckets: old.map(|old| old.storm_buckets.clone()).unwrap_or_default(),
        police_receive: policer(
            rates.receive.as_ref(),
            old.and_then(|old| old.police_receive.as_ref()),
        ),
        police_transmit: policer(
            rates.transmit.as_ref(),
            old.and_then(|old| old.police_transmit.as_ref()),
        ),
        learning: port.learning,
        learn_limit: port.learn_limit.unwrap_or(u32::MAX),
        entries: old.map(|old| old.entries.clone()).unwrap_or_default(),
        mtu: port.mtu.map(u32::from).or(facts.mtu).unwrap_or(LONGEST),
        finish_checksums: facts.finish_checksums,
    }
}

/// The policer of a rate: the one that is there, with what is spent of it, if the rate is still the same.
fn policer(rate: Option<&Rate>, old: Option<&Arc<Policer>>) -> Option<Arc<Policer>> {
    let rate = rate?;
    let limit = RateLimit {
        packets: rate.packets.and_then(NonZeroU32::new),
        bits: rate.bits.and_then(NonZeroU64::new),
        burst_ns: u64::try_from(rate.burst.get().as_nanos()).unwrap_or(u64::MAX),
    };
    let same = old.filter(|old| old.limit() == limit).cloned();
    Some(same.unwrap_or_else(|| Arc::new(Policer::new(limit))))
}

/// The engine's form of a port's service. `old` is the port's former table, if its places are the same: a table of
/// VIDs is big, and is not built twice.
fn service(port: &Port, places: &[(TagKey, Place)], old: Option<&PortConf>) -> Service {
    let only = places.first().map(|(_, place)| *place);
    match (port.service(), only) {
        (PortService::Access(_), Some(place)) => Service::Access(place),
        (PortService::Tunnel(_), Some(place)) => Service::Tunnel(place),
        (PortService::Trunk { .. }, _) => {
            let of = |key| places.iter().find(|(k, _)| *k == key).map(|(_, place)| *place);
            let vids = match old.map(|old| &old.service) {
                Some(Service::Trunk { vids, .. }) => vids.clone(),
                _ => Arc::new(vid_table(places)),
            };
            Service::Trunk {
                native: of(TagKey::Untagged),
                vids,
            }
        }
        (PortService::Access(_) | PortService::Tunnel(_), None) | (PortService::None, _) => Service::None,
    }
}

fn vid_table(places: &[(TagKey, Place)]) -> VidTable {
    let mut table = VidTable::default();
    let mut inner: BTreeMap<(TagProtocol, u16), HashMap<u16, Place>> = BTreeMap::new();
    for (key, place) in places {
        match *key {
            TagKey::Tagged(protocol, vlan, None) => {
                if let Some(vid) = Vid::new(vlan) {
                    table.entry_mut(tpid(protocol), vid).single = Some(*place);
                }
            }
            TagKey::Tagged(protocol, vlan, Some(second)) => {
                inner.entry((protocol, vlan)).or_default().insert(second, *place);
            }
            TagKey::Untagged | TagKey::Every => {}
        }
    }
    for ((protocol, vlan), places) in inner {
        if let Some(vid) = Vid::new(vlan) {
            table.entry_mut(tpid(protocol), vid).inner = Some(Arc::new(places));
        }
    }
    table
}

pub(crate) fn tpid(protocol: TagProtocol) -> EtherType {
    match protocol {
        TagProtocol::Dot1q => EtherType::VLAN,
        TagProtocol::Dot1ad => EtherType::QINQ,
    }
}

fn tags(key: TagKey, port: &Port) -> TagRule {
    let (outer, inner) = match key {
        TagKey::Untagged | TagKey::Every => (None, None),
        TagKey::Tagged(protocol, vlan, inner) => (
            Vid::new(vlan).map(|vid| (tpid(protocol), vid)),
            inner.and_then(Vid::new),
        ),
    };
    let pcp = match port.pcp {
        PcpPolicy::Keep => None,
        PcpPolicy::Set(pcp) => Some(pcp),
    };
    TagRule {
        outer,
        inner,
        pcp,
        native: key == TagKey::Untagged && matches!(port.service(), PortService::Trunk { .. }),
    }
}

fn same(a: &PortConf, b: &PortConf) -> bool {
    let service = match (&a.service, &b.service) {
        (Service::None, Service::None) => true,
        (Service::Access(a), Service::Access(b)) | (Service::Tunnel(a), Service::Tunnel(b)) => a == b,
        (Service::CrossConnect(a), Service::CrossConnect(b)) => a == b,
        (
            Service::Trunk { native, vids },
            Service::Trunk {
                native: other_native,
                vids: other_vids,
            },
        ) => native == other_native && Arc::ptr_eq(vids, other_vids),
        _ => false,
    };
    service
        && Arc::ptr_eq(&a.entries, &b.entries)
        && Arc::ptr_eq(&a.storm_buckets, &b.storm_buckets)
        && same_policer(&a.police_receive, &b.police_receive)
        && same_policer(&a.police_transmit, &b.police_transmit)
        && (&a.vteps, &a.allowed_macs, a.storm, a.learning, a.learn_limit)
            == (&b.vteps, &b.allowed_macs, b.storm, b.learning, b.learn_limit)
        && (a.mtu, a.finish_checksums) == (b.mtu, b.finish_checksums)
}

fn same_policer(a: &Option<Arc<Policer>>, b: &Option<Arc<Policer>>) -> bool {
    a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
}

/// A port's service in words: `access red`, `trunk 100,200-299 native red`, `cross-connect right`, `underlay v0`.
pub(crate) fn describe(spec: &Spec, name: &Name, vteps: &[Name]) -> String {
    let Some(port) = spec.ports.get(name) else {
        return String::new();
    };
    match port.service() {
        PortService::Access(domain) => format!("access {domain}"),
        PortService::Tunnel(domain) => format!("tunnel {domain}"),
        PortService::Trunk { items, native } => {
            let items: Vec<_> = items.iter().map(ToString::to_string).collect();
            let native = native.map(|name| format!(" native {name}")).unwrap_or_default();
            format!("trunk {}{native}", items.join(","))
        }
        PortService::None => {
            let other = spec.cross_connects.iter().find_map(|pair| match pair {
                pair if pair.0 == *name => Some(&pair.1),
                pair if pair.1 == *name => Some(&pair.0),
                _ => None,
            });
            match other {
                Some(other) => format!("cross-connect {other}"),
                None if vteps.is_empty() => "none".to_owned(),
                None => {
                    let names: Vec<_> = vteps.iter().map(Name::as_str).collect();
                    format!("underlay {}", names.join(","))
                }
            }
        }
    }
}
