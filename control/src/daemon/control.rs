//! The control thread: the loop, what is done when something happens on the host or in the engine, and the tables.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use clearway_config::{Frames, HostFacts, Name, PortKind, Spec, Steering};
use clearway_engine::{Engine, QueueEvent};
use clearway_io::VlanFilter;

use super::arrivals::Arrivals;
use super::attached::AttachedPort;
use super::groups::Groups;
use super::leaving::Leaving;
use super::open::{self, Open, OpenError, Ours, Pods};
use super::ports::{Entry, PortState, close_all};
use super::signals::Poller;
use super::underlay::Underlay;
use super::{DaemonError, Message, vhost};
use crate::compile::{Compiler, Facts, PortFacts, Tables, TooMany, tpid};
use crate::handle::Request;
use crate::host::links::{LinkEvent, LinkState, LinkWatch};
use crate::host::restore::{self, Leftover};
use crate::host::{Host, HostError};
use crate::objects::Objects;

/// Faults of queues are looked for this often.
const LOOK: Duration = Duration::from_millis(100);
/// The forwarding database ages this often.
const TICK: Duration = Duration::from_secs(1);

/// The MTU of a guest that says nothing.
const GUEST_MTU: u32 = 1500;

/// How busy a worker was lately.
#[derive(Clone, Copy, Default)]
pub(super) struct Load {
    busy_ns: u64,
    pub(super) percent: f64,
}

/// Everything that the control thread owns.
pub(super) struct Control {
    pub(super) spec: Spec,
    /// The versions of the configuration's part of it.
    pub(super) objects: Arc<Objects>,
    /// What attachments ask for; their ports are in `spec`.
    pub(super) attached: BTreeMap<Name, AttachedPort>,
    pub(super) host: Host,
    pub(super) host_facts: HostFacts,
    pub(super) engine: Engine,
    pub(super) groups: Groups,
    pub(super) pods: Pods,
    pub(super) compiler: Compiler,
    pub(super) tables: Tables,
    pub(super) facts: Facts,
    pub(super) ports: BTreeMap<Name, Entry>,
    /// Ports of pods whose interfaces are being deleted.
    pub(super) leaving: Vec<Leaving>,
    pub(super) underlay: Underlay,
    pub(super) state_dir: PathBuf,
    pub(super) started: Instant,
    pub(super) is_ready: bool,
    /// The ports are being opened for the first time.
    pub(super) starting: bool,
    pub(super) loads: Vec<Load>,
    loads_at: Instant,
    next_tick: Instant,
    links: LinkWatch,
    poller: Option<Poller>,
    /// For threads that have something to say to this one.
    pub(super) inbox: Option<Sender<Message>>,
    /// The engine's news that were read in passing.
    pub(super) unread: Vec<QueueEvent>,
}

impl Control {
    /// A control thread without ports, for the workers and the API of this spec.
    pub(super) fn new(
        spec: &Spec,
        engine: Engine,
        state_dir: PathBuf,
        host_facts: HostFacts,
        objects: Objects,
    ) -> Result<Self, DaemonError> {
        let (links, _) = LinkWatch::open()?;
        let now = Instant::now();
        Ok(Self {
            spec: Spec {
                engine: spec.engine.clone(),
                api: spec.api.clone(),
                ..Spec::default()
            },
            objects: Arc::new(objects),
            attached: BTreeMap::new(),
            host: Host::open()?,
            host_facts,
            groups: Groups::new(spec.engine.hugepages, engine.workers()),
            pods: Pods::default(),
            compiler: Compiler::default(),
            tables: Tables::default(),
            facts: Facts::default(),
            ports: BTreeMap::new(),
            leaving: Vec::new(),
            underlay: Underlay::open()?,
            state_dir,
            started: now,
            is_ready: false,
            starting: false,
            loads: vec![Load::default(); engine.workers()],
            loads_at: now,
            next_tick: now + TICK,
            links,
            poller: None,
            inbox: None,
            unread: Vec::new(),
            engine,
        })
    }

    /// Has netlink's news, and those of guests, reported to `to`.
    pub(super) fn watch(&mut self, to: Sender<Message>) -> Result<(), DaemonError> {
        let own = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned().map_err(|source| DaemonError::Thread {
                attempt: "duplicating a netlink socket",
                source,
            })
        };
        let watched = vec![own(self.links.as_fd())?, own(self.underlay.as_fd())?];
        self.inbox = Some(to.clone());
        self.poller = Some(Poller::start(watched, to)?);
        Ok(())
    }

    /// Opens all ports of the configuration. One whose interface is missing is waited for later; one that can't be
    /// opened for another reason ends the start.
    pub(super) fn start(&mut self, spec: Spec) -> Result<(), DaemonError> {
        let spec = self.with_attached_or_waiting(spec);
        let wanted = |name: &str| {
            spec.ports
                .values()
                .any(|port| port.interface.as_deref() == Some(name))
        };
        for leftover in restore::restore_leftovers(&self.state_dir, &mut self.host, wanted)? {
            log_leftover(&leftover);
        }
        vhost::remove_old_records(&self.state_dir);
        self.starting = true;
        let switched = self.switch(spec);
        self.starting = false;
        switched
    }

    /// Whether every port of the configuration forwards. Those of attachments are not waited for: after a restart of the
    /// node their pods are gone, and the runtime needs a daemon that is ready to remove them.
    pub(super) fn all_forward(&self) -> bool {
        let mut configured = self
            .ports
            .iter()
            .filter(|(name, _)| !self.attached.contains_key(*name));
        configured.all(|(_, entry)| entry.why_down().is_none())
    }

    /// The loop, until a signal.
    pub(super) fn serve(&mut self, messages: &mut Arrivals, ready: fn()) {
        loop {
            if !self.is_ready && self.all_forward() {
                self.is_ready = true;
                tracing::info!(ports = self.ports.len(), after = ?self.started.elapsed(), "every port forwards");
                ready();
            }
            let until = self.deadline();
            match messages.next(until) {
                Ok(Message::Stop(signal)) => {
                    tracing::info!(signal, "ending");
                    return;
                }
                Ok(Message::Request(request)) => self.answer(request),
                Ok(Message::Host) => self.host_news(),
                Ok(Message::Guest(question)) => self.guest_asks(question),
                Ok(Message::Closed(closed)) => self.closed(&closed),
                Err(RecvTimeoutError::Timeout) => {}
                // Only when nobody can reach us any more: nothing is left to do.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.engine_news();
            self.what_is_due();
        }
    }

    fn deadline(&self) -> Instant {
        let retries = self.ports.values().filter_map(Entry::retry_at);
        retries
            .chain([self.next_tick, self.underlay.deadline()])
            .fold(Instant::now() + LOOK, Instant::min)
    }

    fn what_is_due(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        if now >= self.underlay.deadline() {
            self.underlay_news();
        }
        self.retry_ports(now);
    }

    fn tick(&mut self, now: Instant) {
        self.engine.age();
        self.compiler.settle();
        self.look_at_taps();
        self.look_after_leaving();
        let elapsed = now.duration_since(self.loads_at).as_nanos().max(1) as f64;
        self.loads_at = now;
        for (load, report) in self.loads.iter_mut().zip(self.engine.reports()) {
            let busy = report.busy_ns.saturating_sub(load.busy_ns) as f64;
            load.percent = (busy * 100.0 / elapsed).clamp(0.0, 100.0);
            load.busy_ns = report.busy_ns;
        }
    }

    fn host_news(&mut self) {
        let news = self.links.process();
        if let Some(poller) = &self.poller {
            poller.done();
        }
        match news {
            Ok(events) => events.into_iter().for_each(|event| self.link_event(event)),
            Err(error) => tracing::error!(%error, "following the interfaces failed"),
        }
        self.underlay_news();
    }

    fn link_event(&mut self, event: LinkEvent) {
        let (interface, state) = match event {
            LinkEvent::Changed(state) => (state.name.clone(), Some(state)),
            LinkEvent::Gone { name, ifindex } => {
                self.close_left(ifindex);
                // One of the same name may be there already.
                let ours = |entry: &Entry| entry.link().is_some_and(|link| link.ifindex == ifindex);
                for port in self.names(ours) {
                    self.take_down(&port, &OpenError::from(HostError::NoInterface(name.clone())));
                }
                return;
            }
        };
        let Some(state) = state else { return };
        let ports: Vec<_> = self
            .spec
            .ports
            .iter()
            .filter(|(_, port)| port.interface.as_ref() == Some(&interface))
            .map(|(name, _)| name.clone())
            .collect();
        for port in ports {
            self.link_changed(&port, &state);
        }
    }

    fn link_changed(&mut self, name: &Name, now: &LinkState) {
        let Some(entry) = self.ports.get_mut(name) else {
            return;
        };
        match &mut entry.state {
            PortState::Down { .. } if now.up => entry.try_soon(),
            PortState::Down { .. } => {}
            PortState::Open(open) => {
                let Some(wire) = open.wire.as_mut() else { return };
                if wire.state.ifindex != now.ifindex || !now.up {
                    let reason = format!(
                        "interface {0} is down; waiting for it (`ip link set {0} up`)",
                        now.name
                    );
                    return self.take_down(name, &OpenError::Wait(reason));
                }
                if wire.state.carrier != now.carrier {
                    tracing::info!(port = %name, carrier = now.carrier, "the carrier changed");
                }
                wire.state = now.clone();
                if !now.carrier {
                    self.flush_port(name);
                }
                self.republish();
            }
        }
    }

    fn engine_news(&mut self) {
        let unread = std::mem::take(&mut self.unread);
        for event in unread.into_iter().chain(self.engine.events()) {
            match event {
                // Of a removal that was not waited for: nothing asks for it any more.
                QueueEvent::Retired { io, .. } => drop(io),
                QueueEvent::Fault { port, reason, .. } => {
                    let Some(name) = self.compiler.port_name(port).cloned() else {
                        continue;
                    };
                    match self.guest(&name) {
                        // Its connection ends, the port stays: the next guest may be better.
                        Some(guest) => guest.fault(reason),
                        None => self.take_down(&name, &OpenError::Wait(reason)),
                    }
                }
            }
        }
    }

    /// What the host says now, of these ports and VTEPs.
    pub(super) fn gather(&mut self, spec: &Spec) -> Facts {
        let ports = spec.ports.iter().filter_map(|(name, port)| {
            let entry = self.ports.get(name)?;
            // A port that is down keeps what is known of it: its tables need not change twice.
            let known = self.facts.ports.get(name);
            let mtu = match entry.opened() {
                Some(Open {
                    guest: Some(guest), ..
                }) => Some(guest.status().mtu.map_or(GUEST_MTU, u32::from)),
                Some(_) => entry.shown().map(|link| link.mtu),
                None => known.and_then(|known| known.mtu),
            };
            let facts = PortFacts {
                mtu,
                finish_checksums: open::finish_checksums(port, entry.opened()),
            };
            Some((name.clone(), facts))
        });
        let mut facts = Facts {
            ports: ports.collect(),
            manual: std::mem::take(&mut self.facts.manual),
            ..Facts::default()
        };
        self.facts.manual.clone_from(&facts.manual);
        self.underlay_facts(spec, &mut facts);
        facts
    }

    /// Publishes tables if what the host says has changed.
    pub(super) fn republish(&mut self) {
        let spec = std::mem::take(&mut self.spec);
        let result = self.publish(&spec, false);
        self.spec = spec;
        if let Err(error) = result {
            tracing::error!(%error, "the tables could not be made anew; the old ones stay");
        }
    }

    /// Publishes the tables of a spec; unless `always`, only if what the host says has changed.
    pub(super) fn publish(&mut self, spec: &Spec, always: bool) -> Result<(), TooMany> {
        let facts = self.gather(spec);
        if facts == self.facts && !always {
            return Ok(());
        }
        let tables = self.compiler.compile(spec, &facts, &self.tables)?;
        let published = self
            .engine
            .publish(tables.snapshot.clone())
            .and_then(|()| self.engine.wait_applied());
        if let Err(error) = published {
            tracing::error!(%error, "new tables");
        }
        self.set_stations(&tables);
        self.compiler.commit(spec, &tables);
        self.tables = tables;
        self.facts = facts;
        self.steer(spec);
        for (name, port) in &spec.ports {
            if let Some(guest) = self.guest(name) {
                guest.limit_mtu(port.mtu);
                guest.limit_memory(spec.guest_memory_limit(port));
            }
        }
        Ok(())
    }

    /// Tells the programs of shared ports what is ours, where that has changed.
    fn steer(&mut self, spec: &Spec) {
        for name in self.names(|_| true) {
            let Some(port) = spec.ports.get(&name) else {
                continue;
            };
            let ours = self.ours(spec, &name);
            let Some(entry) = self.ports.get_mut(&name) else {
                continue;
            };
            let same = entry.ours == ours
                && self
                    .spec
                    .ports
                    .get(&name)
                    .is_none_or(|old| old.steering == port.steering);
            if same {
                continue;
            }
            let wire = match &mut entry.state {
                PortState::Open(open) => open.wire.as_mut(),
                PortState::Down { .. } => None,
            };
            if let Some(Err(error)) = wire.map(|wire| wire.steer(port, &ours)) {
                // As noted before, so that the next change tries again.
                tracing::error!(port = %name, %error, "its XDP program was not told what is ours");
                continue;
            }
            entry.ours = ours;
        }
    }

    /// What is steered to a shared port.
    pub(super) fn ours(&self, spec: &Spec, name: &Name) -> Ours {
        let Some(port) = spec.ports.get(name) else {
            return Ours::default();
        };
        if port.kind != PortKind::AfXdp || port.steering != Steering::Shared {
            return Ours::default();
        }
        let mut vlans: Vec<_> = spec
            .carried(port)
            .iter()
            .filter_map(|carried| match carried.frames {
                Frames::Tagged { protocol, vlan, .. } => Some(VlanFilter {
                    tpid: tpid(protocol).0,
                    vid: vlan.get(),
                }),
                Frames::Untagged | Frames::Every => None,
            })
            .collect();
        vlans.sort_unstable();
        vlans.dedup();
        Ours {
            vlans,
            vteps: self.underlay.filters(spec, name),
        }
    }

    /// Gives everything back: the interfaces, then the workers, then the sockets.
    pub(super) fn shut_down(mut self) -> Result<(), DaemonError> {
        let ports = std::mem::take(&mut self.ports);
        let mut rest = Vec::new();
        let mut all = true;
        for entry in ports.into_values() {
            if let PortState::Open(mut open) = entry.state {
                if let Some(wire) = open.wire.take() {
                    all &= wire.give_back(&mut self.host);
                }
                rest.push(open);
            }
        }
        let events = self.engine.stop()?;
        let queues = events.into_iter().filter_map(|event| match event {
            QueueEvent::Retired { io, .. } => Some(*io),
            QueueEvent::Fault { .. } => None,
        });
        close_all(queues.collect());
        drop(rest);
        match all {
            true => tracing::info!("ended; every interface has its settings back"),
            false => tracing::warn!("ended; the next start gives back what an interface has not back yet"),
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Apply {
                spec,
                dry_run,
                by,
                only_if,
                reply,
            } => reply.send(self.apply(*spec, dry_run, by, only_if)),
            Request::FdbAdd {
                bridge_domain,
                mac,
                place,
                reply,
            } => reply.send(self.fdb_add(&bridge_domain, mac, &place)),
            Request::FdbDel {
                bridge_domain,
                mac,
                reply,
            } => reply.send(self.fdb_del(&bridge_domain, mac)),
            Request::FdbFlush(filter, reply) => reply.send(self.fdb_flush(&filter)),
            Request::Ports(reply) => reply.send(Ok(self.port_views())),
            Request::Workers(reply) => reply.send(self.worker_views()),
            Request::BridgeDomains(reply) => reply.send(Ok(self.domain_views())),
            Request::Fdb(filter, reply) => reply.send(self.fdb_views(&filter)),
            Request::Tunnels(reply) => reply.send(Ok(self.tunnel_views())),
            Request::Drops(reply) => reply.send(self.drop_views()),
            Request::Counters(reply) => reply.send(Ok(self.counter_views())),
            Request::Config(reply) => reply.send(Ok((self.configured(), self.objects.configuration))),
            Request::Objects(reply) => reply.send(Ok(self.object_views())),
            Request::Standing { segment, reply } => reply.send(self.standing(&segment)),
            Request::Attach { name, wanted, reply } => reply.send(self.attach(name, *wanted)),
            Request::Detach { name, socket, reply } => {
                reply.send(self.detach(&name, socket.as_deref()));
            }
            Request::WhyDown { name, reply } => reply.send(Ok(self.why_down(&name))),
            Request::Health(reply) => reply.send(Ok(self.health())),
        }
    }
}

fn log_leftover(leftover: &Leftover) {
    match leftover {
        Leftover::Kept(name) => tracing::info!(
            interface = name,
            "taken over from a daemon that ended without giving it back"
        ),
        Leftover::Restored(name) => tracing::info!(
            interface = name,
            "given back for a daemon that ended without doing so"
        ),
        Leftover::Dropped(name) => tracing::info!(interface = name, "is gone; its journal was dropped"),
        Leftover::Failed(name, errors) => {
            for error in errors {
                tracing::warn!(interface = name, %error, "was not given back entirely");
            }
        }
    }
}
