//! Which address somebody gets. Nothing changes here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use clearway_config::attach::Pod;
use clearway_config::{AddressPool, AddressRange, Name, PoolSubnet, Reservation, next_address};

use super::{Holder, IpamError, Key, Leases};

/// An address for an attachment, and whether it was its turn.
pub(super) type Choice = (IpAddr, bool);

impl Leases {
    /// An address of each subnet, or exactly those that are wanted.
    pub(super) fn choices(
        &self,
        name: &Name,
        pool: &AddressPool,
        holder: &Holder,
        wanted: &[IpAddr],
    ) -> Result<Vec<Choice>, IpamError> {
        if wanted.is_empty() {
            let choose = |subnet| self.choose(name, pool, subnet, Some(holder));
            return pool.subnets.iter().map(choose).collect();
        }
        self.check_wanted(name, pool, holder, wanted)?;
        Ok(wanted.iter().map(|ip| (*ip, false)).collect())
    }

    /// The address of a subnet for somebody, or for nobody that is known.
    pub(super) fn choose(
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
            let is_own =
                |pod: &Pod, one: &Reservation| one.is_for(&pod.namespace, &pod.name, &holder.id.interface);
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
}
