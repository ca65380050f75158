//! The forwarding database: stations of the configuration and by hand, and forgetting what was learned.

use std::collections::BTreeSet;

use clearway_config::{Name, StaticMac};
use clearway_engine::{Dest, FdbEntry, FdbKey};
use clearway_wire::{MacAddr, Vid};

use super::control::Control;
use crate::api::types::{FdbAdd, FdbView, FlushReport};
use crate::compile::Tables;
use crate::handle::{ApiError, ErrorCode, FdbFilter};

impl Control {
    /// Brings the database's configured stations from the tables in use to these.
    pub(super) fn set_stations(&mut self, tables: &Tables) {
        let fdb = self.engine.fdb();
        for key in self.tables.stations.keys() {
            if !tables.stations.contains_key(key) {
                fdb.remove(*key);
            }
        }
        for (key, station) in &tables.stations {
            let before = self.tables.stations.get(key);
            let same =
                before.is_some_and(|old| (old.dest, old.generation) == (station.dest, station.generation));
            if !same && !fdb.set_static(*key, station.dest, station.generation) {
                tracing::error!(
                    mac = %MacAddr::from_u64(key.mac()),
                    "no slot is free for a configured station; raise engine.fdb-capacity"
                );
            }
        }
    }

    /// Forgets what was learned behind a port.
    pub(super) fn flush_port(&mut self, name: &Name) -> u64 {
        let filter = FdbFilter {
            bridge_domain: None,
            port: Some(name.clone()),
        };
        self.fdb_flush(&filter).map_or(0, |report| report.removed)
    }

    /// The entries that a filter means.
    pub(super) fn entries(&self, filter: &FdbFilter) -> Result<Vec<(FdbKey, FdbEntry)>, ApiError> {
        let bd = match &filter.bridge_domain {
            None => None,
            Some(name) => {
                let id = self
                    .compiler
                    .domain(name)
                    .filter(|_| self.spec.bridge_domains.contains_key(name));
                Some(id.ok_or_else(|| no_domain(name))?)
            }
        };
        let port = match &filter.port {
            None => None,
            Some(name) => Some(self.compiler.port(name).ok_or_else(|| {
                ApiError::not_found(format!(
                    "there is no port {name}; `clearway get ports` lists them"
                ))
            })?),
        };
        let snapshot = self.engine.snapshot();
        let behind = |key: FdbKey, entry: &FdbEntry| match entry.dest {
            Dest::Member(id) => snapshot.domain(key.bd())?.member(id).map(|member| member.port),
            Dest::Tunnel(_) => None,
        };
        // An address that two workers learn at one moment may be there twice.
        let mut seen = BTreeSet::new();
        Ok(self
            .engine
            .fdb()
            .entries()
            .filter(|(key, entry)| {
                bd.is_none_or(|bd| key.bd() == bd)
                    && self.engine.is_current(*key, entry)
                    && (port.is_none() || behind(*key, entry) == port)
                    && seen.insert(*key)
            })
            .collect())
    }

    pub(super) fn fdb_flush(&mut self, filter: &FdbFilter) -> Result<FlushReport, ApiError> {
        let entries = self.entries(filter)?;
        let fdb = self.engine.fdb();
        let dynamic = entries.iter().filter(|(_, entry)| !entry.is_static);
        let removed = dynamic.filter(|(key, _)| fdb.remove(*key).is_some()).count();
        Ok(FlushReport {
            removed: removed as u64,
        })
    }

    pub(super) fn fdb_add(
        &mut self,
        domain: &Name,
        mac: MacAddr,
        place: &FdbAdd,
    ) -> Result<FdbView, ApiError> {
        let bd = self.existing_domain(domain)?;
        if !mac.is_unicast() || mac.is_zero() {
            return Err(ApiError::new(
                ErrorCode::BadRequest,
                format!("{mac} is no station's address: give a unicast one"),
            ));
        }
        let key = FdbKey::new(bd, mac.to_u64());
        if self
            .tables
            .stations
            .get(&key)
            .is_some_and(|station| !station.manual)
        {
            return Err(in_the_configuration(domain, mac));
        }
        let station = self.station(domain, mac, place)?;
        let at = (domain.clone(), mac);
        let before = self.facts.manual.insert(at.clone(), station);
        self.republish_always();
        if self.tables.stations.contains_key(&key) {
            let found = self.engine.fdb().get(key).map(|entry| self.fdb_view(key, &entry));
            return found.ok_or_else(|| {
                ApiError::conflict(
                    "no slot is free in the forwarding database: raise engine.fdb-capacity and restart",
                )
            });
        }
        match before {
            Some(before) => self.facts.manual.insert(at, before),
            None => self.facts.manual.remove(&at),
        };
        self.republish_always();
        Err(ApiError::conflict(format!(
            "bridge domain {domain} is not there: not on that port and VLAN, or it has no `vni` for a remote; `clearway get bridge-domains {domain}` shows its members"
        )))
    }

    /// Checks a place and makes it a station.
    fn station(&self, domain: &Name, mac: MacAddr, place: &FdbAdd) -> Result<StaticMac, ApiError> {
        let bad = |message: String| ApiError::new(ErrorCode::BadRequest, message);
        let port = match &place.port {
            None => None,
            Some(name) => {
                let found = self.spec.ports.keys().find(|port| port.as_str() == name);
                Some(found.cloned().ok_or_else(|| {
                    ApiError::not_found(format!(
                        "there is no port {name}; `clearway get ports` lists them"
                    ))
                })?)
            }
        };
        let vlan = match place.vlan {
            None => None,
            Some(vlan) => {
                Some(Vid::new(vlan).ok_or_else(|| bad(format!("{vlan} is no VLAN id: 1 to 4094")))?)
            }
        };
        if let (Some(remote), Some(vtep)) = (
            place.remote,
            self.spec
                .bridge_domains
                .get(domain)
                .and_then(|domain| self.spec.vtep_of(domain)),
        ) && remote.is_ipv4() != vtep.1.local.is_ipv4()
        {
            return Err(bad(format!(
                "{remote} is not of the address family of VTEP {} ({})",
                vtep.0, vtep.1.local
            )));
        }
        Ok(StaticMac {
            mac,
            port,
            vlan,
            remote: place.remote,
        })
    }

    pub(super) fn fdb_del(&mut self, domain: &Name, mac: MacAddr) -> Result<(), ApiError> {
        let bd = self.existing_domain(domain)?;
        let key = FdbKey::new(bd, mac.to_u64());
        match self.tables.stations.get(&key) {
            Some(station) if station.manual => {
                self.facts.manual.remove(&(domain.clone(), mac));
                self.republish_always();
                Ok(())
            }
            Some(_) => Err(in_the_configuration(domain, mac)),
            None => match self.engine.fdb().remove(key) {
                Some(_) => Ok(()),
                None => Err(ApiError::not_found(format!(
                    "bridge domain {domain} knows no station {mac}; `clearway get fdb {domain}` lists them"
                ))),
            },
        }
    }

    fn existing_domain(&self, name: &Name) -> Result<clearway_engine::BdId, ApiError> {
        let id = self.compiler.domain(name);
        id.filter(|_| self.spec.bridge_domains.contains_key(name))
            .ok_or_else(|| no_domain(name))
    }

    /// Publishes anew: the stations added by hand are different.
    fn republish_always(&mut self) {
        let spec = std::mem::take(&mut self.spec);
        let result = self.publish(&spec, true);
        self.spec = spec;
        if let Err(error) = result {
            tracing::error!(%error, "the tables could not be made anew; the old ones stay");
        }
    }
}

fn no_domain(name: &Name) -> ApiError {
    ApiError::not_found(format!(
        "there is no bridge domain {name}; `clearway get bridge-domains` lists them"
    ))
}

fn in_the_configuration(domain: &Name, mac: MacAddr) -> ApiError {
    ApiError::conflict(format!(
        "the place of {mac} is in the configuration (bridge-domains.{domain}.static): change it there and apply"
    ))
}
