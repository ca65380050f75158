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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use clearway_config::attach::{Addresses, AttachmentId, InterfaceAddress, Pod, Route};
use clearway_config::{AddressPool, AddressRange, Name, PodName, PoolSubnet, next_address};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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

/// Why there are no addresses for an attachment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpamError {
    /// No such pool.
    #[error("there is no address pool `{pool}`; there {}: add it under `address-pools` or correct the name", listed(.there))]
    NoSuchPool {
        /// Its name.
        pool: Name,
        /// Those that there are.
        there: Vec<Name>,
    },
    /// No pool at all.
    #[error(
        "there is no address pool; add one under `address-pools`, or name another IPAM plugin in the network's configuration"
    )]
    NoPool,
    /// Several pools, and none is named.
    #[error("there are several address pools; name one in the network's configuration: {}", names(.there))]
    WhichPool {
        /// Those that there are.
        there: Vec<Name>,
    },
    /// It has addresses.
    #[error("attachment {id} already has addresses of the pool `{pool}`; remove it first (CNI DEL)")]
    Leased {
        /// The attachment.
        id: AttachmentId,
        /// The pool.
        pool: Name,
    },
    /// An address that is not the pool's.
    #[error(
        "{ip} is no address that the pool `{pool}` gives out: it has {has}; ask for one of these, or change the pool's `ranges`"
    )]
    NotInPool {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// What it gives out.
        has: String,
    },
    /// Two addresses of one family for one interface.
    #[error("{ip} and {other} are of one family; ask for at most one IPv4 and one IPv6 address")]
    FamilyTwice {
        /// The second.
        ip: IpAddr,
        /// The first.
        other: IpAddr,
    },
    /// An address that is kept for another pod.
    #[error(
        "{ip} is reserved in the pool `{pool}` for the pod {pod}; ask for another one, or remove the reservation"
    )]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// For whom.
        pod: PodName,
    },
    /// An address that somebody has.
    #[error("{ip} of the pool `{pool}` is taken by {by}; it is free again when that is removed")]
    Taken {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// Who has it.
        by: String,
    },
    /// All addresses are taken.
    #[error(
        "the pool `{pool}` is exhausted: of the {count} addresses of {net} that it gives out, {leased} are leased and {reserved} are \
         reserved for pods that have others or are not here; make its `ranges` or the subnet larger, or remove attachments \
         (`clearway get attachments`)"
    )]
    Exhausted {
        /// The pool.
        pool: Name,
        /// The subnet of which none is left.
        net: IpNet,
        /// How many addresses it gives out.
        count: u128,
        /// How many of them are leased.
        leased: usize,
        /// How many of the others are reserved.
        reserved: usize,
    },
    /// A configuration that takes a leased address away.
    #[error(
        "{ip} of the pool `{pool}` is taken by {by}, and the new configuration has no such address there; remove that first, or keep the address"
    )]
    InUse {
        /// The address.
        ip: IpAddr,
        /// The pool.
        pool: Name,
        /// Who has it.
        by: String,
    },
}

impl IpamError {
    /// Whether what was asked for does not exist, rather than being in use.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::NoSuchPool { .. } | Self::NoPool | Self::WhichPool { .. } | Self::NotInPool { .. }
        )
    }
}

fn names(names: &[Name]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn listed(there: &[Name]) -> String {
    match there {
        [] => "is none".to_owned(),
        [one] => format!("is `{one}`"),
        all => format!("are {}", names(all)),
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

/// An address for an attachment, and whether it was its turn.
type Choice = (IpAddr, bool);

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
        let choices: Vec<Choice> = if wanted.is_empty() {
            let choose = |subnet| self.choose(name, pool, subnet, Some(holder));
            pool.subnets.iter().map(choose).collect::<Result<_, _>>()?
        } else {
            self.check_wanted(name, pool, holder, wanted)?;
            wanted.iter().map(|ip| (*ip, false)).collect()
        };
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

    /// The address of a subnet for somebody, or for nobody that is known.
    fn choose(
        &self,
        name: &Name,
        pool: &AddressPool,
        subnet: &PoolSubnet,
        holder: Option<&Holder>,
    ) -> Result<Choice, IpamError> {
        let of_subnet = |ip: &&IpAddr| ip.is_ipv4() == subnet.is_ipv4();
        if let Some(holder) = holder {
            if let Some(ip) = self.reserved_for(name, pool, subnet, holder)? {
                return Ok((ip, false));
            }
            let sticky = Key::of(name, holder).and_then(|key| self.sticky.get(&key));
            let had = sticky.and_then(|sticky| sticky.addresses.iter().find(of_subnet));
            if let Some(ip) = had.filter(|ip| self.is_free(pool, **ip)) {
                return Ok((*ip, false));
            }
        }
        if let Some(ip) = self.next(name, pool, subnet) {
            return Ok((ip, true));
        }
        let away = self.away.get(name).into_iter().flat_map(BTreeMap::values);
        let mut away = away
            .filter_map(|key| self.sticky.get(key))
            .flat_map(|sticky| &sticky.addresses);
        if let Some(ip) = away.find(|ip| of_subnet(ip) && self.is_free(pool, **ip)) {
            return Ok((*ip, false));
        }
        Err(self.exhausted(name, pool, subnet))
    }

    /// Whether the pool gives this address to anybody, and nobody has it.
    fn is_free(&self, pool: &AddressPool, ip: IpAddr) -> bool {
        !self.taken.contains_key(&ip) && pool.contains(ip) && pool.reserved(ip).is_none()
    }

    /// The address that is kept for a pod, those for this interface first. None, if there is none, or if another interface
    /// of the pod has it and may.
    fn reserved_for(
        &self,
        name: &Name,
        pool: &AddressPool,
        subnet: &PoolSubnet,
        holder: &Holder,
    ) -> Result<Option<IpAddr>, IpamError> {
        let Some(pod) = &holder.pod else { return Ok(None) };
        let interface = &holder.id.interface;
        let own = pool
            .reservations
            .iter()
            .filter(|one| one.is_for(&pod.namespace, &pod.name, interface));
        let with_ip = own.filter_map(|one| {
            let ip = one.addresses.iter().find(|ip| ip.is_ipv4() == subnet.is_ipv4())?;
            Some((one.interface.is_none(), *ip))
        });
        let Some((any_interface, ip)) = with_ip.min() else {
            return Ok(None);
        };
        let Some(by) = self.taken.get(&ip) else {
            return Ok(Some(ip));
        };
        let its_pod = self.leases.get(by).and_then(|lease| lease.pod.as_ref());
        let same_pod = its_pod.is_some_and(|its| its.namespace == pod.namespace && its.name == pod.name);
        if any_interface && same_pod && by.interface != *interface {
            return Ok(None);
        }
        Err(self.taken_by(name, ip))
    }

    /// The next address after the last one that was given in turn, of those that nobody has, remembers, or has reserved.
    fn next(&self, name: &Name, pool: &AddressPool, subnet: &PoolSubnet) -> Option<IpAddr> {
        let reserved: BTreeSet<_> = pool.reservations.iter().flat_map(|one| &one.addresses).collect();
        let occupied = |ip: &IpAddr| {
            self.taken.contains_key(ip) || self.remembered.contains_key(ip) || reserved.contains(ip)
        };
        let ranges = subnet.available();
        let first_in = |range: AddressRange| {
            let mut ip = range.first();
            while occupied(&ip) {
                ip = next_address(ip).filter(|ip| range.contains(*ip))?;
            }
            Some(ip)
        };
        let last = self.last.get(&(name.clone(), subnet.is_ipv4()));
        let start = last.and_then(|last| next_address(*last));
        let after = start.and_then(|start| {
            let rest = |range: &AddressRange| AddressRange::new(range.first().max(start), range.last());
            ranges.iter().filter_map(rest).find_map(first_in)
        });
        after.or_else(|| ranges.iter().copied().find_map(first_in))
    }

    /// Whether all of the addresses that somebody asks for are there for it.
    fn check_wanted(
        &self,
        name: &Name,
        pool: &AddressPool,
        holder: &Holder,
        wanted: &[IpAddr],
    ) -> Result<(), IpamError> {
        for (i, &ip) in wanted.iter().enumerate() {
            if let Some(other) = wanted
                .iter()
                .take(i)
                .find(|other| other.is_ipv4() == ip.is_ipv4())
            {
                return Err(IpamError::FamilyTwice { ip, other: *other });
            }
            if !pool.contains(ip) {
                let ranges = pool.subnets.iter().flat_map(PoolSubnet::available);
                let ranges: Vec<_> = ranges.map(|range| range.to_string()).collect();
                return Err(IpamError::NotInPool {
                    ip,
                    pool: name.clone(),
                    has: ranges.join(", "),
                });
            }
            let is_own = |pod: &Pod, one: &clearway_config::Reservation| {
                one.is_for(&pod.namespace, &pod.name, &holder.id.interface)
            };
            if let Some(one) = pool.reserved(ip)
                && !holder.pod.as_ref().is_some_and(|pod| is_own(pod, one))
            {
                return Err(IpamError::Reserved {
                    ip,
                    pool: name.clone(),
                    pod: one.pod.clone(),
                });
            }
            if self.taken.contains_key(&ip) {
                return Err(self.taken_by(name, ip));
            }
        }
        Ok(())
    }

    fn exhausted(&self, name: &Name, pool: &AddressPool, subnet: &PoolSubnet) -> IpamError {
        let ranges = subnet.available();
        let count = ranges
            .iter()
            .fold(0, |sum: u128, range| sum.saturating_add(range.count()));
        let ours = |ip: &IpAddr| ranges.iter().any(|range| range.contains(*ip));
        let reserved = pool.reservations.iter().flat_map(|one| &one.addresses);
        IpamError::Exhausted {
            pool: name.clone(),
            net: subnet.subnet,
            count,
            leased: self.taken.keys().filter(|ip| ours(ip)).count(),
            reserved: reserved
                .filter(|ip| ours(ip) && !self.taken.contains_key(ip))
                .count(),
        }
    }

    fn taken_by(&self, name: &Name, ip: IpAddr) -> IpamError {
        let by = self.taken.get(&ip).map(|id| self.who(id));
        IpamError::Taken {
            ip,
            pool: name.clone(),
            by: by.unwrap_or_default(),
        }
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
            gw: route.via.or_else(|| pool.gateway(ipv4)),
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        });
    Addresses {
        ips: ips.collect(),
        routes: routes.collect(),
    }
}

#[cfg(test)]
mod tests;
