//! What the API says of ports, workers, domains, stations, tunnels and drops.

use std::collections::BTreeMap;

use clearway_config::Name;
use clearway_engine::{Dest, DropReason, FdbEntry, FdbKey, Ledger, Member, MemberId};
use clearway_wire::MacAddr;

use super::control::Control;
use super::underlay::Way;
use crate::api::types::{
    BridgeDomainView, CounterView, DropView, DropsView, FdbOrigin, FdbView, HealthView, LedgerView,
    ObjectView, PortView, QueueView, State, TunnelView, WorkerView,
};
use crate::compile;
use crate::handle::{ApiError, FdbFilter};
use crate::objects::{self, Key, Part, Version};
use crate::store::ObjectKind;

impl Control {
    /// Who has said an object as it is, and how often it has changed.
    fn version(&self, kind: ObjectKind, name: &str) -> Version {
        match kind {
            ObjectKind::Port if self.attached.contains_key(name) => Version::CNI,
            // All that is in use and no attachment's is of the configuration.
            _ => self.objects.get(kind, name).unwrap_or(self.objects.configuration),
        }
    }

    pub(super) fn object_views(&self) -> Vec<ObjectView> {
        let parts = objects::parts(&self.spec);
        let view = |((kind, name), part): (&Key, &Part<'_>)| {
            let version = self.version(*kind, name);
            ObjectView {
                kind: *kind,
                name: name.clone(),
                owner: version.owner,
                generation: version.generation,
                changed_s: Some(version.changed_s).filter(|seconds| *seconds > 0),
                // Structs with names for keys, which JSON always takes.
                spec: serde_json::to_value(part).unwrap_or_default(),
            }
        };
        parts.iter().map(view).collect()
    }

    pub(super) fn port_views(&self) -> Vec<PortView> {
        self.ports.keys().map(|name| self.port_view(name)).collect()
    }

    fn port_view(&self, name: &Name) -> PortView {
        let entry = &self.ports[name];
        let port = self.spec.ports.get(name);
        let open = entry.opened();
        let reason = entry.why_down();
        let conf = self.tables.snapshot.port(entry.id);
        let place = open.and_then(|open| open.place.as_ref());
        let queues = open.map(|open| open.queues.as_slice()).unwrap_or_default();
        let totals = &entry.totals;
        let guest = open.and_then(|open| Some(open.guest.as_ref()?.view(!queues.is_empty())));
        let guest_there = guest.is_some();
        let version = self.version(ObjectKind::Port, name.as_str());
        PortView {
            name: name.to_string(),
            owner: version.owner,
            generation: version.generation,
            kind: port.map(|port| port.kind.to_string()).unwrap_or_default(),
            interface: port.and_then(|port| port.interface.clone()),
            state: if reason.is_none() { State::Up } else { State::Down },
            reason,
            mode: match &guest {
                Some(guest) => Some(guest.state.to_string()),
                None => open.and_then(|open| open.mode).map(str::to_owned),
            },
            guest,
            backing: place
                .and_then(|place| self.groups.backing(place))
                .map(str::to_owned),
            umem_group: place.map(|place| place.group.to_string()),
            queues: queues
                .iter()
                .zip(&entry.workers)
                .map(|(queue, worker)| QueueView {
                    queue: *queue,
                    worker: worker.0,
                })
                .collect(),
            mac: entry.shown().and_then(|link| link.mac),
            mtu: entry.shown().map(|link| link.mtu).or_else(|| {
                let conf = guest_there.then_some(conf).flatten();
                conf.map(|conf| conf.mtu)
            }),
            service: compile::describe(&self.spec, name, &self.underlay.carried_by(name)),
            rx_packets: totals.sum(|c| c.rx_packets.get()),
            rx_bytes: totals.sum(|c| c.rx_bytes.get()),
            tx_packets: totals.sum(|c| c.tx_packets.get()),
            tx_bytes: totals.sum(|c| c.tx_bytes.get()),
            drops: totals.all_drops(),
            learned_macs: conf.map_or(0, |conf| conf.entries.load(std::sync::atomic::Ordering::Relaxed)),
            warnings: open.map(|open| open.warnings.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn worker_views(&mut self) -> Result<Vec<WorkerView>, ApiError> {
        let ledgers = self.engine.ledgers().map_err(ApiError::failed)?;
        let idle = match self.spec.engine.idle {
            clearway_config::Idle::Adaptive => "adaptive",
            clearway_config::Idle::Spin => "spin",
        };
        let view =
            |((report, ledger), load): ((clearway_engine::WorkerReport, &Ledger), &super::control::Load)| {
                let mut queues: BTreeMap<String, Vec<u16>> = BTreeMap::new();
                for home in self.engine.homes().iter().filter(|home| home.worker == report.id) {
                    let name = self.compiler.port_name(home.port).map(ToString::to_string);
                    queues
                        .entry(name.unwrap_or_default())
                        .or_default()
                        .push(home.queue);
                }
                WorkerView {
                    id: report.id.0,
                    core: report.core.and_then(|core| u32::try_from(core).ok()),
                    idle: idle.to_owned(),
                    load_percent: load.percent,
                    turns: report.turns,
                    sleeps: report.sleeps,
                    sleeping: report.sleeping,
                    queues,
                    received: ledger.received,
                    handed_out: ledger.handed_out,
                    epoch: report.epoch,
                }
            };
        let reports = self.engine.reports().into_iter();
        Ok(reports.zip(&ledgers).zip(&self.loads).map(view).collect())
    }

    pub(super) fn domain_views(&self) -> Vec<BridgeDomainView> {
        let mut macs: BTreeMap<u16, u32> = BTreeMap::new();
        for (key, entry) in self.engine.fdb().entries() {
            if self.engine.is_current(key, &entry) {
                *macs.entry(key.bd().0).or_default() += 1;
            }
        }
        let domains = self.spec.bridge_domains.iter();
        domains
            .map(|(name, domain)| {
                let bd = self.compiler.domain(name).unwrap_or_default();
                let table = self.tables.snapshot.domain(bd);
                let members = table.map(|table| table.members.as_slice()).unwrap_or_default();
                let mut members: Vec<_> = members
                    .iter()
                    .enumerate()
                    .filter(|(_, member)| member.is_some())
                    .filter_map(|(slot, _)| {
                        let (port, key) = self.compiler.member(bd, MemberId(u16::try_from(slot).ok()?))?;
                        let port = self.compiler.port_name(port)?;
                        Some(match key.text() {
                            Some(vlan) => format!("{port}:{vlan}"),
                            None => port.to_string(),
                        })
                    })
                    .collect();
                members.sort();
                let version = self.version(ObjectKind::BridgeDomain, name.as_str());
                BridgeDomainView {
                    name: name.to_string(),
                    owner: version.owner,
                    generation: version.generation,
                    vlan: domain.vlan.map(|vid| vid.get()),
                    vni: domain.vni.map(|vni| vni.get()),
                    vtep: self.spec.vtep_of(domain).map(|(name, _)| name.to_string()),
                    members,
                    remotes: domain.remotes.clone(),
                    learning: domain.learning,
                    aging_s: domain.aging().map_or(0, |time| time.as_secs()),
                    macs: macs.get(&bd.0).copied().unwrap_or(0),
                    learn_limit: Some(domain.learn_limit),
                }
            })
            .collect()
    }

    pub(super) fn fdb_views(&self, filter: &FdbFilter) -> Result<Vec<FdbView>, ApiError> {
        let entries = self.entries(filter)?;
        let mut views: Vec<_> = entries
            .iter()
            .map(|(key, entry)| self.fdb_view(*key, entry))
            .collect();
        views.sort_by(|a, b| (&a.bridge_domain, a.mac.0).cmp(&(&b.bridge_domain, b.mac.0)));
        Ok(views)
    }

    pub(super) fn fdb_view(&self, key: FdbKey, entry: &FdbEntry) -> FdbView {
        let (mut port, mut vlan, mut remote) = (None, None, None);
        match entry.dest {
            Dest::Member(id) => {
                // The member's own table decides: its slot may have been given to another since.
                let member: Option<&Member> =
                    self.tables.snapshot.domain(key.bd()).and_then(|d| d.member(id));
                port = member
                    .and_then(|member| self.compiler.port_name(member.port))
                    .map(ToString::to_string);
                vlan = self.compiler.member(key.bd(), id).and_then(|(_, key)| key.text());
            }
            Dest::Tunnel(id) => remote = self.compiler.tunnel(id).map(|(_, remote)| remote),
        }
        let origin = match (entry.is_static, self.tables.stations.get(&key)) {
            (false, _) => FdbOrigin::Dynamic,
            (true, Some(station)) if station.manual => FdbOrigin::Manual,
            (true, _) => FdbOrigin::Static,
        };
        // A worker's clock may be a second ahead of ours.
        let age = self.engine.now_s().wrapping_sub(entry.seen);
        let age = if age > u16::MAX - 2 { 0 } else { age };
        FdbView {
            bridge_domain: self
                .compiler
                .domain_name(key.bd())
                .map(ToString::to_string)
                .unwrap_or_default(),
            mac: MacAddr::from_u64(key.mac()),
            port,
            vlan,
            remote,
            origin,
            age_s: (origin == FdbOrigin::Dynamic).then(|| age.into()),
        }
    }

    pub(super) fn tunnel_views(&self) -> Vec<TunnelView> {
        let mut users: BTreeMap<_, BTreeMap<String, u32>> = BTreeMap::new();
        for (name, domain) in &self.spec.bridge_domains {
            let (Some((vtep, _)), Some(vni)) = (self.spec.vtep_of(domain), domain.vni) else {
                continue;
            };
            let stations = domain.statics.iter().filter_map(|station| station.remote);
            for remote in domain.remotes.iter().copied().chain(stations) {
                users
                    .entry((vtep, remote))
                    .or_default()
                    .insert(name.to_string(), vni.get());
            }
        }
        let mut views: Vec<_> = self
            .compiler
            .tunnels()
            .filter_map(|(id, name, remote)| {
                let vtep = self.spec.vteps.get(name)?;
                let table = self.tables.snapshot.tunnel(id)?;
                let Way {
                    port,
                    next_hop,
                    path,
                    reason,
                } = self.underlay.tunnel(name, remote);
                let down = port.and_then(|port| self.ports.get(port)?.why_down().map(|why| (port, why)));
                let reason = reason.or_else(|| down.map(|(port, why)| format!("port {port} is down: {why}")));
                let up = table.rewrite.is_some() && reason.is_none();
                let version = self.version(ObjectKind::Vtep, name.as_str());
                Some(TunnelView {
                    name: format!("{name}/{remote}"),
                    owner: version.owner,
                    generation: version.generation,
                    vtep: name.to_string(),
                    local: vtep.local,
                    remote,
                    state: if up { State::Up } else { State::Down },
                    reason: reason.or_else(|| (!up).then(|| "its next hop is not known".to_owned())),
                    port: port.map(ToString::to_string),
                    next_hop,
                    next_hop_mac: path.map(|path| path.dst_mac),
                    mtu: path.map(|path| vtep.mtu.map_or(path.mtu, u32::from)),
                    bridge_domains: users.get(&(name, remote)).cloned().unwrap_or_default(),
                })
            })
            .collect();
        views.sort_by(|a, b| (&a.vtep, a.remote).cmp(&(&b.vtep, b.remote)));
        views
    }

    pub(super) fn drop_views(&mut self) -> Result<DropsView, ApiError> {
        let ledgers = self.engine.ledgers().map_err(ApiError::failed)?;
        let mut sum = Ledger::default();
        ledgers.iter().for_each(|ledger| sum.add(ledger));
        let view = |reason: DropReason| {
            let packets = sum.drops[reason as usize];
            let mut ports: BTreeMap<String, u64> = self
                .ports
                .iter()
                .map(|(name, entry)| (name.to_string(), entry.totals.dropped(reason)))
                .filter(|(_, n)| *n > 0)
                .collect();
            // Ports that are gone took their counters along; the workers' ledgers remember.
            let rest = packets.saturating_sub(ports.values().sum());
            if rest > 0 {
                ports.insert("-".to_owned(), rest);
            }
            DropView {
                reason: reason.name().to_owned(),
                packets,
                text: reason.text().to_owned(),
                advice: reason.advice().to_owned(),
                ports,
            }
        };
        let occurred = DropReason::ALL
            .into_iter()
            .filter(|reason| sum.drops[*reason as usize] > 0);
        let mut drops: Vec<_> = occurred.map(view).collect();
        drops.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.reason.cmp(&b.reason)));
        Ok(DropsView {
            drops,
            ledger: LedgerView::new(None, &sum),
            workers: ledgers
                .iter()
                .zip(0..)
                .map(|(ledger, worker)| LedgerView::new(Some(worker), ledger))
                .collect(),
        })
    }

    pub(super) fn counter_views(&self) -> Vec<CounterView> {
        let ports = self.ports.iter();
        ports
            .map(|(name, entry)| CounterView::of(name.as_str(), entry.totals.blocks()))
            .collect()
    }

    pub(super) fn health(&self) -> HealthView {
        let up = self
            .ports
            .values()
            .filter(|entry| entry.why_down().is_none())
            .count();
        HealthView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            ready: self.all_forward(),
            ports_up: u32::try_from(up).unwrap_or(u32::MAX),
            ports: u32::try_from(self.ports.len()).unwrap_or(u32::MAX),
            epoch: self.engine.snapshot().epoch,
        }
    }
}
