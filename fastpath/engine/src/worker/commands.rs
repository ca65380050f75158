//! What control tells a worker to change, applied between two turns.

use super::{Queue, Worker};
use crate::message::{Command, Event};
use crate::tx::Route;
use crate::{PortConf, PortCounters, PortId, Snapshot};
use clearway_io::{AnyPort, Offloads, Port, RegionId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Worker {
    #[cold]
    pub(super) fn apply_commands(&mut self) {
        if let Some(event) = self.backlog.pop_front() {
            self.tell_first(event);
        }
        let mut applied = self.status.applied.load(Ordering::Relaxed);
        while let Ok(command) = self.commands.pop() {
            self.apply(command);
            applied += 1;
        }
        // Pairs with control's wait: every frame that is looked at from here on meets what was asked for.
        self.status.applied.store(applied, Ordering::Release);
    }

    fn tell_first(&mut self, event: Event) {
        self.backlog.push_front(event);
        while let Some(event) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(event)) = self.events.push(event) {
                return self.backlog.push_front(event);
            }
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Swap(snapshot) => self.swap(snapshot),
            Command::AddRegion(umem) => self.pools.add(&umem),
            Command::RemoveRegion(region) => {
                if let Some(pool) = self.pools.remove(region) {
                    self.tell(Event::RetiredPool(pool));
                }
            }
            Command::AddQueue {
                port,
                queue,
                io,
                region,
                counters,
            } => {
                self.add_queue(port, queue, io, region, counters);
            }
            Command::RemoveQueue { port, queue } => self.remove_queue(port, queue),
            Command::SetRemote { port, worker } => {
                if self.remotes.len() <= port.index() {
                    self.remotes.resize(port.index() + 1, None);
                }
                self.remotes[port.index()] = worker;
                self.route(port);
            }
            Command::Ledger => self.tell(Event::Ledger(Box::new(self.ledger))),
            Command::Stop => self.stopping = true,
        }
    }

    fn swap(&mut self, snapshot: Arc<Snapshot>) {
        for (index, conf) in snapshot.ports.iter().enumerate() {
            if let Some(conf) = conf {
                self.tx.set_mtu(PortId(index as u16), conf.mtu);
            }
        }
        for queue in self.queues.iter_mut().flatten() {
            queue.conf = Self::conf_of(&snapshot, queue.port, &self.default_conf);
        }
        // Relaxed would do for the tables (the queue synchronises); Release pairs with control's wait.
        self.status.epoch.store(snapshot.epoch, Ordering::Release);
        let old = std::mem::replace(&mut self.snapshot, snapshot);
        self.tell(Event::RetiredSnapshot(old));
    }

    fn conf_of(snapshot: &Snapshot, port: PortId, default: &Arc<PortConf>) -> Arc<PortConf> {
        snapshot
            .ports
            .get(port.index())
            .and_then(Clone::clone)
            .unwrap_or_else(|| default.clone())
    }

    fn add_queue(
        &mut self,
        port: PortId,
        number: u16,
        io: Box<AnyPort>,
        region: Option<RegionId>,
        counters: Arc<PortCounters>,
    ) {
        let conf = Self::conf_of(&self.snapshot, port, &self.default_conf);
        let index = self.queues.iter().position(Option::is_none).unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() - 1
        });
        self.queues[index] = Some(Queue {
            port,
            number,
            io,
            region,
            conf,
            counters,
            idle_turns: 0,
            active: true,
            faulted: false,
            watched: false,
        });
        self.active.push(index);
        self.working += 1;
        self.route(port);
    }

    fn remove_queue(&mut self, port: PortId, number: u16) {
        let is_it = |q: &Option<Queue>| q.as_ref().is_some_and(|q| q.port == port && q.number == number);
        let Some(index) = self.queues.iter().position(is_it) else {
            return;
        };
        self.park(index);
        let Some(mut queue) = self.queues[index].take() else {
            return;
        };
        queue.unwatch(&self.poll);
        self.working -= usize::from(!queue.faulted);
        self.route(port);
        self.tell(Event::Retired {
            port,
            queue: number,
            io: queue.io,
        });
    }

    /// Queues of one port that we serve share its part of a turn.
    fn share_turn(&mut self, port: PortId) {
        let is_its = |queue: &&mut Queue| queue.port == port && !queue.faulted;
        let all = self.queues.iter_mut().flatten().filter(is_its).count();
        let queues = self.queues.iter_mut().flatten().filter(is_its);
        queues.for_each(|queue| queue.io.share_turn(all));
    }

    /// Works out how a port is reached now: a queue of our own, else the worker that control named.
    pub(super) fn route(&mut self, port: PortId) {
        self.share_turn(port);
        let mut outlets: Vec<(u16, usize)> = Vec::new();
        for (index, queue) in self.queues.iter().enumerate() {
            if let Some(queue) = queue
                && queue.port == port
                && !queue.faulted
                && queue.io.sends()
            {
                outlets.push((queue.number, index));
            }
        }
        outlets.sort_unstable();
        let first = outlets.first().map(|(_, index)| *index);
        let own = first.and_then(|index| Some((index, self.queues[index].as_ref()?)));
        let remote = self
            .remotes
            .get(port.index())
            .copied()
            .flatten()
            .filter(|w| *w != self.id);
        let (route, region, offloads) = match (own, remote) {
            (Some((index, queue)), _) => (Route::Local(index), queue.region, queue.io.offloads()),
            // What the other worker's queue takes it knows itself.
            (None, Some(worker)) => (Route::Remote(worker), None, Offloads::all()),
            (None, None) => (Route::None, None, Offloads::empty()),
        };
        if let Some(conf) = self.snapshot.port(port) {
            self.tx.set_mtu(port, conf.mtu);
        }
        self.tx.set_route(port, route, region, offloads);
        if self.outlets.len() <= port.index() {
            self.outlets.resize_with(port.index() + 1, Vec::new);
        }
        self.outlets[port.index()] = outlets.into_iter().map(|(_, index)| index).collect();
    }
}
