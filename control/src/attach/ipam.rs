//! Who has which address: the daemon's own IPAM.
//!
//! ```text
//!   reserved for the pod ─► had before ─► next one that nobody remembers ─► the one that was given back longest ago ─► full
//! ```
//!
//! Pure and in memory. What changes is returned as [`Change`]s, for the caller to write down in one commit with what else
//! belongs to it; if that fails, [`Leases::undo`] takes the last call back.
//!
//! Guarantees: an address has one holder; only those that [`AddressPool::contains`] are given, reserved ones to their pods
//! alone; an attachment gets an address of each of the pool's subnets, or none. A pod that comes back gets what it had,
//! unless somebody needed it meanwhile: others get a remembered address only when no other is left. Addresses are given in
//! turn, so one that was just given back rests. No step goes through the addresses of a subnet: what counts is how many
//! are leased or remembered.

mod choose;
mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use clearway_config::attach::{Addresses, AttachmentId, InterfaceAddress, Pod, Route};
use clearway_config::{AddressPool, Name, RouteScope};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use self::error::IpamError;
use crate::store::{Change, ObjectKind, Owner, Record};

/// The most pods of a pool that are remembered while they are not there. Pods of a Deployment never come back under their
/// name: without a limit, a pool of IPv6 would remember all that there ever were.
const REMEMBERED: usize = 4096;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// The attachment.
    pub(crate) id: AttachmentId,
    /// Whose it is. Without it nothing is reserved or remembered for it.
    pub(crate) pod: Option<Pod>,
}

/// The addresses of an attachment: a record's value in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LeaseRecord {
    id: AttachmentId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
    pool: Name,
    addresses: Vec<IpAddr>,
    /// When it was given, in calls that gave or took back addresses.
    given: u64,
}

/// The addresses that an interface of a pod has or had: a record's value in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StickyRecord {
    #[serde(flatten)]
    key: Key,
    addresses: Vec<IpAddr>,
    given: u64,
    /// When they were given back. Absent: they are held, or were when the host stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released: Option<u64>,
}

/// What addresses are remembered for. A pod of the same name is the same pod: that is what a StatefulSet means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Key {
    pool: Name,
    namespace: String,
    name: String,
    interface: String,
}

impl Key {
    fn of(pool: &Name, holder: &Holder) -> Option<Self> {
        let pod = holder.pod.as_ref()?;
        Some(Self {
            pool: pool.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            interface: holder.id.interface.clone(),
        })
    }
}

/// The key in the store: no two are the same, whatever a runtime takes for a name.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &str| text.replace('%', "%25").replace('/', "%2f");
        let (namespace, name) = (part(&self.namespace), part(&self.name));
        write!(f, "{}/{namespace}/{name}/{}", self.pool, part(&self.interface))
    }
}

/// All leases, and what is remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    leases: BTreeMap<AttachmentId, LeaseRecord>,
    sticky: BTreeMap<Key, StickyRecord>,
    /// Who has an address.
    taken: BTreeMap<IpAddr, AttachmentId>,
    /// For whom an address is remembered, whether it is taken or not.
    remembered: BTreeMap<IpAddr, Key>,
    /// Who is remembered and not there, by when that began.
    away: BTreeMap<Name, BTreeMap<u64, Key>>,
    /// The last address that was given in turn, by pool and whether it is of IPv4.
    last: BTreeMap<(Name, bool), IpAddr>,
    /// Calls that gave or took back addresses.
    clock: u64,
    /// How it was before the last call.
    before: Vec<Before>,
}

#[derive(Clone, Debug)]
enum Before {
    Lease(AttachmentId, Option<LeaseRecord>),
    Sticky(Key, Option<StickyRecord>),
    Last((Name, bool), Option<IpAddr>),
}

impl Leases {
    /// What records say. Pods that were there when the host stopped are the ones that left last.
    pub(crate) fn restore(leases: Vec<LeaseRecord>, sticky: Vec<StickyRecord>) -> Self {
        let mut all = Self::default();
        let given = leases
            .iter()
            .map(|lease| (lease.given, &lease.pool, &lease.addresses));
        let mut given: Vec<_> = given
            .chain(
                sticky
                    .iter()
                    .map(|sticky| (sticky.given, &sticky.key.pool, &sticky.addresses)),
            )
            .collect();
        given.sort();
        for (_, pool, addresses) in given {
            for ip in addresses {
                all.last.insert((pool.clone(), ip.is_ipv4()), *ip);
            }
        }
        let times = sticky
            .iter()
            .map(|sticky| sticky.given.max(sticky.released.unwrap_or_default()));
        all.clock = times
            .chain(leases.iter().map(|lease| lease.given))
            .max()
            .unwrap_or_default();
        for lease in leases {
            all.set_lease(&lease.id.clone(), Some(lease));
        }
        for mut sticky in sticky {
            let held = sticky.addresses.iter().any(|ip| all.taken.contains_key(ip));
            if sticky.released.is_none() && !held {
                all.clock += 1;
                sticky.released = Some(all.clock);
            }
            all.set_sticky(&sticky.key.clone(), Some(sticky));
        }
        all.before.clear();
        all
    }

    /// Gives an attachment an address of each subnet of a pool, or exactly those that are `wanted`. `pool` may be left out
    /// where there is one. Returns them, and what is to be written down.
    pub(crate) fn allocate(
        &mut self,
        pools: &BTreeMap<Name, AddressPool>,
        pool: Option<&Name>,
        holder: &Holder,
        wanted: &[IpAddr],
    ) -> Result<(Addresses, Vec<Change>), IpamError> {
        // A call that fails has nothing to be taken back.
        self.before.clear();
        let (name, pool) = find(pools, pool)?;
        if let Some(lease) = self.leases.get(&holder.id) {
            return Err(IpamError::Leased {
                id: holder.id.clone(),
                pool: lease.pool.clone(),
            });
        }
        let choices = self.choices(name, pool, holder, wanted)?;
        self.clock += 1;
        let mut changes = Vec::new();
        let own = Key::of(name, holder);
        for &(ip, in_turn) in &choices {
            let other = self.remembered.get(&ip).filter(|key| own.as_ref() != Some(key));
            if let Some(other) = other.cloned() {
                changes.push(self.set_sticky(&other, None));
            }
            if in_turn {
                let at = (name.clone(), ip.is_ipv4());
                let before = self.last.insert(at.clone(), ip);
                self.before.push(Before::Last(at, before));
            }
        }
        let addresses: Vec<_> = choices.into_iter().map(|(ip, _)| ip).collect();
        let settings = settings(pool, &addresses);
        if let Some(key) = own {
            let sticky = StickyRecord {
                key: key.clone(),
                addresses: addresses.clone(),
                given: self.clock,
                released: None,
            };
            changes.push(self.set_sticky(&key, Some(sticky)));
        }
        let lease = LeaseRecord {
            id: holder.id.clone(),
            pod: holder.pod.clone(),
            pool: name.clone(),
            addresses,
            given: self.clock,
        };
        changes.push(self.set_lease(&holder.id, Some(lease)));
        Ok((settings, changes))
    }

    /// Takes the addresses of an attachment back; it may have none. Returns what is to be written down.
    pub(crate) fn release(&mut self, id: &AttachmentId) -> Vec<Change> {
        self.before.clear();
        let Some(lease) = self.leases.get(id).cloned() else {
            return Vec::new();
        };
        self.clock += 1;
        let mut changes = vec![self.set_lease(id, None)];
        let holder = Holder {
            id: id.clone(),
            pod: lease.pod,
        };
        if let Some(key) = Key::of(&lease.pool, &holder) {
            let newer = self
                .sticky
                .get(&key)
                .is_some_and(|sticky| sticky.given > lease.given);
            // The pod may have been given others meanwhile, in another container.
            if !newer {
                let sticky = StickyRecord {
                    key: key.clone(),
                    addresses: lease.addresses,
                    given: lease.given,
                    released: Some(self.clock),
                };
                changes.push(self.set_sticky(&key, Some(sticky)));
            }
        }
        let away = self.away.get(&lease.pool);
        if let Some(first) = away
            .filter(|away| away.len() > REMEMBERED)
            .and_then(|away| away.values().next())
        {
            changes.push(self.set_sticky(&first.clone(), None));
        }
        changes
    }

    /// Takes the last [`Leases::allocate`] or [`Leases::release`] back, for when it could not be written down.
    pub(crate) fn undo(&mut self) {
        for before in std::mem::take(&mut self.before).into_iter().rev() {
            match before {
                Before::Lease(id, lease) => drop(self.set_lease(&id, lease)),
                Before::Sticky(key, sticky) => drop(self.set_sticky(&key, sticky)),
                Before::Last(at, Some(ip)) => drop(self.last.insert(at, ip)),
                Before::Last(at, None) => drop(self.last.remove(&at)),
            }
        }
        self.before.clear();
    }

    /// Whether an attachment could be given addresses now.
    pub(crate) fn has_room(
        &self,
        pools: &BTreeMap<Name, AddressPool>,
        pool: Option<&Name>,
    ) -> Result<(), IpamError> {
        let (name, pool) = find(pools, pool)?;
        let choose = |subnet| self.choose(name, pool, subnet, None).map(drop);
        pool.subnets.iter().try_for_each(choose)
    }

    /// Whether these pools have a place for every address that is leased.
    pub(crate) fn check(&self, pools: &BTreeMap<Name, AddressPool>) -> Result<(), IpamError> {
        for lease in self.leases.values() {
            let pool = pools.get(&lease.pool);
            let gone = |ip: &&IpAddr| !pool.is_some_and(|pool| pool.contains(**ip));
            if let Some(ip) = lease.addresses.iter().find(gone) {
                return Err(IpamError::InUse {
                    ip: *ip,
                    pool: lease.pool.clone(),
                    by: self.who(&lease.id),
                });
            }
        }
        Ok(())
    }

    /// An attachment in words.
    fn who(&self, id: &AttachmentId) -> String {
        match self.leases.get(id).and_then(|lease| lease.pod.as_ref()) {
            Some(pod) => format!("attachment {id} (pod {pod})"),
            None => format!("attachment {id}"),
        }
    }

    fn set_lease(&mut self, id: &AttachmentId, lease: Option<LeaseRecord>) -> Change {
        let change = change(ObjectKind::Lease, id.to_string(), self.clock, lease.as_ref());
        let before = self.leases.remove(id);
        for ip in before.iter().flat_map(|lease| &lease.addresses) {
            self.taken.remove(ip);
        }
        if let Some(lease) = lease {
            let ips = lease.addresses.iter();
            self.taken.extend(ips.map(|ip| (*ip, id.clone())));
            self.leases.insert(id.clone(), lease);
        }
        self.before.push(Before::Lease(id.clone(), before));
        change
    }

    fn set_sticky(&mut self, key: &Key, sticky: Option<StickyRecord>) -> Change {
        let change = change(ObjectKind::Sticky, key.to_string(), self.clock, sticky.as_ref());
        let before = self.sticky.remove(key);
        if let Some(before) = &before {
            for ip in &before.addresses {
                self.remembered.remove(ip);
            }
            if let (Some(at), Some(away)) = (before.released, self.away.get_mut(&key.pool)) {
                away.remove(&at);
            }
        }
        if let Some(sticky) = sticky {
            let ips = sticky.addresses.iter();
            self.remembered.extend(ips.map(|ip| (*ip, key.clone())));
            if let Some(at) = sticky.released {
                self.away
                    .entry(key.pool.clone())
                    .or_default()
                    .insert(at, key.clone());
            }
            self.sticky.insert(key.clone(), sticky);
        }
        self.before.push(Before::Sticky(key.clone(), before));
        change
    }
}

fn change(kind: ObjectKind, key: String, generation: u64, value: Option<&impl Serialize>) -> Change {
    match value {
        Some(value) => Change::Put(Record::new(kind, key, Owner::Cni, generation, value)),
        None => Change::Delete { kind, key },
    }
}

fn find<'a>(
    pools: &'a BTreeMap<Name, AddressPool>,
    pool: Option<&Name>,
) -> Result<(&'a Name, &'a AddressPool), IpamError> {
    let there = || pools.keys().cloned().collect();
    match (pool, pools.len()) {
        (Some(pool), _) => pools.get_key_value(pool).ok_or_else(|| IpamError::NoSuchPool {
            pool: pool.clone(),
            there: there(),
        }),
        (None, 0 | 1) => pools.iter().next().ok_or(IpamError::NoPool),
        (None, _) => Err(IpamError::WhichPool { there: there() }),
    }
}

/// What an interface with these addresses is set to.
fn settings(pool: &AddressPool, addresses: &[IpAddr]) -> Addresses {
    let ips = addresses.iter().filter_map(|ip| {
        let subnet = pool.subnet_of(*ip)?;
        Some(InterfaceAddress {
            address: IpNet::new(*ip, subnet.subnet.prefix_len()).ok()?,
            gateway: subnet.gateway,
        })
    });
    let of_family = |ipv4| addresses.iter().any(|ip| ip.is_ipv4() == ipv4);
    let routes = pool
        .routes
        .iter()
        .map(|route| (route, route.to.network().is_ipv4()));
    let routes = routes
        .filter(|(_, ipv4)| of_family(*ipv4))
        .map(|(route, ipv4)| Route {
            dst: route.to,
            gw: match route.ends_on_the_link() {
                true => None,
                false => route.via.or_else(|| pool.gateway(ipv4)),
            },
            mtu: route.mtu,
            advmss: route.advmss,
            priority: route.priority,
            table: route.table,
            scope: route.scope.map(RouteScope::number),
        });
    Addresses {
        ips: ips.collect(),
        routes: routes.collect(),
    }
}

#[cfg(test)]
mod tests;
