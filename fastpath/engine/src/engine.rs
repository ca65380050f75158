//! Control's handle to the workers: starts them, gives them ports and tables, takes back what they no longer
//! need. Never called from a worker's thread.

mod aging;

use crate::counters::Ledger;
use crate::message::{Command, Event};
use crate::worker::{Handed, Parts, PeerLink, Worker, WorkerStatus};
use crate::{Fdb, Idle, PortCounters, PortId, Reaper, Snapshot, WorkerId};
use clearway_io::{AnyPort, RegionId, Umem};
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Frames that fit between two workers.
const HANDOFF: usize = 1024;
const COMMANDS: usize = 1024;
const EVENTS: usize = 4096;
/// A worker that does not answer for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// How to start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// One worker each, pinned to this core if named.
    pub cores: Vec<Option<usize>>,
    /// What workers do when nothing arrives.
    pub idle: Idle,
    /// Most dynamic FDB entries.
    pub fdb_capacity: u32,
    /// Seed of the FDB's hash: random in production, fixed in tests.
    pub fdb_seed: u64,
}

/// What went wrong with a worker.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No worker was asked for, or too many.
    #[error("cannot start {0} workers: 1 to 64 are possible")]
    Workers(usize),
    /// Its thread or its wake-up could not be made.
    #[error(
        "cannot start worker {worker}: {source}; check the limits of processes and open files (ulimit -u, -n)"
    )]
    Start {
        /// Which.
        worker: u8,
        /// What the kernel said.
        source: io::Error,
    },
    /// The core is not there or not ours.
    #[error(
        "cannot pin worker {worker} to core {core}: the core is offline or outside this process's CPU set; see `taskset -p` and `clearway doctor`"
    )]
    Pin {
        /// Which.
        worker: u8,
        /// The core.
        core: usize,
    },
    /// No such worker.
    #[error("there is no worker {0}")]
    NoWorker(u8),
    /// It does not take commands or does not answer.
    #[error("worker {worker} did not {what} within {seconds} s: its thread is stuck or gone")]
    Stuck {
        /// Which.
        worker: u8,
        /// What was asked of it.
        what: &'static str,
        /// How long we waited.
        seconds: u64,
    },
}

/// A queue that a worker gave back or that failed.
pub enum QueueEvent {
    /// No longer polled: close it.
    Retired {
        /// The port.
        port: PortId,
        /// The queue's number.
        queue: u16,
        /// The queue itself.
        io: Box<AnyPort>,
    },
    /// Stopped by itself; remove it and, when its cause is gone, add it anew.
    Fault {
        /// The port.
        port: PortId,
        /// The queue's number.
        queue: u16,
        /// Why.
        reason: String,
    },
}

/// One worker's figures.
#[derive(Clone, Copy, Debug)]
pub struct WorkerReport {
    /// Which.
    pub id: WorkerId,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Turns begun.
    pub turns: u64,
    /// Nanoseconds spent in turns that moved frames.
    pub busy_ns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Whether it sleeps now.
    pub sleeping: bool,
    /// Epoch of the tables in use.
    pub epoch: u64,
}

/// Where a port's queue is polled, with its counters.
#[derive(Clone)]
pub struct QueueHome {
    /// The port.
    pub port: PortId,
    /// The queue's number.
    pub queue: u16,
    /// The worker.
    pub worker: WorkerId,
    /// Its counters.
    pub counters: Arc<PortCounters>,
}

struct Handle {
    core: Option<usize>,
    commands: Producer<Command>,
    /// Commands that were put there.
    sent: u64,
    events: Consumer<Event>,
    status: Arc<WorkerStatus>,
    /// Drops that belong to no port of the worker.
    counters: Arc<PortCounters>,
    thread: Option<JoinHandle<()>>,
    ledger: Option<Box<Ledger>>,
}

/// All workers and what they share.
pub struct Engine {
    workers: Vec<Handle>,
    fdb: Arc<Fdb>,
    reaper: Reaper,
    /// Sweeps of the FDB so far.
    sweeps: u64,
    snapshot: Arc<Snapshot>,
    homes: Vec<QueueHome>,
    waiting: Vec<QueueEvent>,
    started: Instant,
}

impl Engine {
    /// Starts the workers' threads.
    ///
    /// # Errors
    /// [`EngineError`] if one can't be started or pinned; those that were started stop again.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        let (mut engine, workers) = Self::manual(config)?;
        for (worker, handle) in workers.into_iter().zip(&mut engine.workers) {
            let (id, core) = (worker.id.0, handle.core);
            let (tell, told) = std::sync::mpsc::channel();
            let run = move || {
                let pinned =
                    core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
                // The starter waits for this; if it is gone, so are we.
                let _ = tell.send(pinned);
                if pinned {
                    worker.run();
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{id}"))
                .spawn(run)
                .map_err(|source| EngineError::Start { worker: id, source })?;
            handle.thread = Some(thread);
            if !told.recv().unwrap_or(false) {
                return Err(EngineError::Pin {
                    worker: id,
                    core: core.unwrap_or_default(),
                });
            }
        }
        Ok(engine)
    }

    /// The same without threads: the caller turns the workers. For tests and benches.
    ///
    /// # Errors
    /// [`EngineError`] when descriptors are short.
    pub fn manual(config: &EngineConfig) -> Result<(Self, Vec<Worker>), EngineError> {
        let n = config.cores.len();
        if !(1..=64).contains(&n) {
            return Err(EngineError::Workers(n));
        }
        let start = |worker: usize| {
            move |source| EngineError::Start {
                worker: worker as u8,
                source,
            }
        };
        let started = Instant::now();
        let fdb = Arc::new(Fdb::new(config.fdb_capacity, config.fdb_seed));
        let statuses = (0..n)
            .map(|w| WorkerStatus::new().map(Arc::new).map_err(start(w)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut links = links(&statuses);
        let (mut handles, mut workers) = (Vec::new(), Vec::new());
        for (w, status) in statuses.iter().enumerate() {
            let (commands, worker_commands) = RingBuffer::new(COMMANDS);
            let (worker_events, events) = RingBuffer::new(EVENTS);
            let counters = Arc::<PortCounters>::default();
            workers.push(
                Worker::new(Parts {
                    id: WorkerId(w as u8),
                    idle: config.idle,
                    commands: worker_commands,
                    events: worker_events,
                    status: status.clone(),
                    fdb: fdb.clone(),
                    peers: std::mem::take(&mut links[w]),
                    counters: counters.clone(),
                    started,
                })
                .map_err(start(w))?,
            );
            handles.push(Handle {
                core: config.cores[w],
                commands,
                sent: 0,
                events,
                status: status.clone(),
                counters,
                thread: None,
                ledger: None,
            });
        }
        let engine = Self {
            workers: handles,
            fdb,
            reaper: Reaper::default(),
            sweeps: 0,
            snapshot: Arc::default(),
            homes: Vec::new(),
            waiting: Vec::new(),
            started,
        };
        Ok((engine, workers))
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    fn send(&mut self, worker: WorkerId, command: Command) -> Result<(), EngineError> {
        let id = worker.0;
        let handle = self
            .workers
            .get_mut(usize::from(id))
            .ok_or(EngineError::NoWorker(id))?;
        let deadline = Instant::now() + PATIENCE;
        let mut command = command;
        loop {
            match handle.commands.push(command) {
                Ok(()) => {
                    handle.sent += 1;
                    handle.status.wake();
                    return Ok(());
                }
                Err(rtrb::PushError::Full(back)) => command = back,
            }
            if Instant::now() > deadline {
                return Err(stuck(id, "take a command"));
            }
            handle.status.wake();
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn send_all(&mut self, command: impl Fn() -> Command) -> Result<(), EngineError> {
        (0..self.workers.len()).try_for_each(|w| self.send(WorkerId(w as u8), command()))
    }

    /// Makes a UMEM known to all workers: before its first port is added.
    ///
    /// # Errors
    /// [`EngineError::Stuck`].
    pub fn add_region(&mut self, umem: &Umem) -> Result<(), EngineError> {
        self.send_all(|| Command::AddRegion(umem.clone()))
    }

    /// Takes a UMEM away from all workers: after its last port was removed.
    ///
    /// # Errors
    /// [`EngineError::Stuck`].
    pub fn remove_region(&mut self, region: RegionId) -> Result<(), EngineError> {
        self.send_all(|| Command::RemoveRegion(region))
    }

    /// Has a worker poll a queue of a port. The first queue of a port also says through which worker those
    /// without one send. `region`: whose frames it sends without a copy.
    ///
    /// # Errors
    /// [`EngineError`] if there is no such worker or it is stuck.
    pub fn add_queue(
        &mut self,
        worker: WorkerId,
        port: PortId,
        queue: u16,
        io: AnyPort,
        region: Option<RegionId>,
    ) -> Result<Arc<PortCounters>, EngineError> {
        let counters = Arc::<PortCounters>::default();
        let command = Command::AddQueue {
            port,
            queue,
            io: Box::new(io),
            region,
            counters: counters.clone(),
        };
        self.send(worker, command)?;
        self.homes.push(QueueHome {
            port,
            queue,
            worker,
            counters: counters.clone(),
        });
        self.name_sender(port)?;
        Ok(counters)
    }

    /// Takes a queue away from its worker; it comes back as [`QueueEvent::Retired`].
    ///
    /// # Errors
    /// [`EngineError::Stuck`].
    pub fn remove_queue(&mut self, port: PortId, queue: u16) -> Result<(), EngineError> {
        let Some(at) = self
            .homes
            .iter()
            .position(|home| (home.port, home.queue) == (port, queue))
        else {
            return Ok(());
        };
        let home = self.homes.remove(at);
        // First nobody sends to it any more, then it goes.
        self.name_sender(port)?;
        self.send(home.worker, Command::RemoveQueue { port, queue })
    }

    /// Tells all workers who sends for a port: the worker of its first queue.
    fn name_sender(&mut self, port: PortId) -> Result<(), EngineError> {
        let worker = self
            .homes
            .iter()
            .find(|home| home.port == port)
            .map(|home| home.worker);
        self.send_all(|| Command::SetRemote { port, worker })
    }

    /// Removes a queue and waits for it.
    ///
    /// # Errors
    /// [`EngineError::Stuck`] if it does not come within five seconds.
    pub fn take_queue(&mut self, port: PortId, queue: u16) -> Result<Option<Box<AnyPort>>, EngineError> {
        let Some(home) = self
            .homes
            .iter()
            .find(|home| (home.port, home.queue) == (port, queue))
        else {
            return Ok(None);
        };
        let worker = home.worker.0;
        self.remove_queue(port, queue)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            self.collect();
            let mine = |event: &QueueEvent| matches!(event, QueueEvent::Retired { port: p, queue: q, .. } if (*p, *q) == (port, queue));
            if let Some(at) = self.waiting.iter().position(mine)
                && let QueueEvent::Retired { io, .. } = self.waiting.remove(at)
            {
                return Ok(Some(io));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Err(stuck(worker, "give back a queue"))
    }

    /// Has all workers use new tables. Old ones are freed on this thread when the last worker has let go.
    ///
    /// # Errors
    /// [`EngineError::Stuck`].
    pub fn publish(&mut self, snapshot: Snapshot) -> Result<(), EngineError> {
        let mut snapshot = snapshot;
        snapshot.epoch = self.snapshot.epoch + 1;
        self.snapshot = Arc::new(snapshot);
        let snapshot = self.snapshot.clone();
        self.send_all(|| Command::Swap(snapshot.clone()))
    }

    /// The tables published last.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The epoch that every worker has reached.
    #[must_use]
    pub fn applied_epoch(&self) -> u64 {
        self.workers
            .iter()
            .map(|w| w.status.epoch.load(Ordering::Acquire))
            .min()
            .unwrap_or(0)
    }

    /// Waits until every worker has done all that it was told: uses the tables published last, so that what they replace
    /// is out of use, and polls, and sends to, the queues that were added.
    ///
    /// # Errors
    /// [`EngineError::Stuck`].
    pub fn wait_applied(&mut self) -> Result<(), EngineError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let late = |w: &Handle| w.status.applied.load(Ordering::Acquire) < w.sent;
            let Some(worker) = self.workers.iter().position(late) else {
                return Ok(());
            };
            if Instant::now() > deadline {
                return Err(stuck(worker as u8, "do what it was told"));
            }
            self.collect();
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// What happened to queues since the last call. Also frees what workers gave back.
    pub fn events(&mut self) -> Vec<QueueEvent> {
        self.collect();
        std::mem::take(&mut self.waiting)
    }

    fn collect(&mut self) {
        for handle in &mut self.workers {
            while let Ok(event) = handle.events.pop() {
                match event {
                    Event::Retired { port, queue, io } => {
                        self.waiting.push(QueueEvent::Retired { port, queue, io });
                    }
                    Event::Fault { port, queue, reason } => {
                        self.waiting.push(QueueEvent::Fault { port, queue, reason });
                    }
                    Event::Ledger(ledger) => handle.ledger = Some(ledger),
                    Event::RetiredSnapshot(old) => drop(old),
                    Event::RetiredPool(pool) => drop(pool),
                }
            }
        }
    }

    /// Every worker's ledger, each exact at one of its turn boundaries.
    ///
    /// # Errors
    /// [`EngineError::Stuck`].
    pub fn ledgers(&mut self) -> Result<Vec<Ledger>, EngineError> {
        self.collect();
        self.workers.iter_mut().for_each(|w| w.ledger = None);
        self.send_all(|| Command::Ledger)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.collect();
            let Some(missing) = self.workers.iter().position(|w| w.ledger.is_none()) else {
                return Ok(self
                    .workers
                    .iter()
                    .filter_map(|w| w.ledger.as_deref().copied())
                    .collect());
            };
            if Instant::now() > deadline {
                return Err(stuck(missing as u8, "report its ledger"));
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Where queues are polled, with their counters.
    #[must_use]
    pub fn homes(&self) -> &[QueueHome] {
        &self.homes
    }

    /// Drops of a worker that belong to none of its ports.
    #[must_use]
    pub fn worker_counters(&self, worker: WorkerId) -> Option<&Arc<PortCounters>> {
        self.workers.get(usize::from(worker.0)).map(|w| &w.counters)
    }

    /// Figures of all workers.
    #[must_use]
    pub fn reports(&self) -> Vec<WorkerReport> {
        let report = |(i, w): (usize, &Handle)| WorkerReport {
            id: WorkerId(i as u8),
            core: w.core,
            turns: w.status.turns.load(Ordering::Relaxed),
            busy_ns: w.status.busy_ns.load(Ordering::Relaxed),
            sleeps: w.status.sleeps.load(Ordering::Relaxed),
            sleeping: w.status.sleeping.load(Ordering::Relaxed),
            epoch: w.status.epoch.load(Ordering::Relaxed),
        };
        self.workers.iter().enumerate().map(report).collect()
    }

    /// Stops all workers; gives back the queues that they had.
    ///
    /// # Errors
    /// [`EngineError::Stuck`] if one does not answer.
    pub fn stop(mut self) -> Result<Vec<QueueEvent>, EngineError> {
        let homes = self.homes.clone();
        // Queues first: once nothing arrives, nothing is on its way between workers either.
        for home in &homes {
            self.remove_queue(home.port, home.queue)?;
        }
        let deadline = Instant::now() + PATIENCE;
        let retired = |e: &&QueueEvent| matches!(e, QueueEvent::Retired { .. });
        while self.waiting.iter().filter(retired).count() < homes.len() && Instant::now() < deadline {
            self.collect();
            std::thread::sleep(Duration::from_micros(50));
        }
        self.send_all(|| Command::Stop)?;
        for (w, handle) in self.workers.iter_mut().enumerate() {
            if let Some(thread) = handle.thread.take() {
                thread.join().map_err(|_| stuck(w as u8, "end without a panic"))?;
            }
        }
        self.collect();
        Ok(std::mem::take(&mut self.waiting))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // After `stop` the threads are gone and this does nothing. All are told before the first is waited for.
        let mut threads = Vec::new();
        for handle in &mut self.workers {
            if let Some(thread) = handle.thread.take()
                && handle.commands.push(Command::Stop).is_ok()
            {
                handle.status.wake();
                threads.push(thread);
            }
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn stuck(worker: u8, what: &'static str) -> EngineError {
    EngineError::Stuck {
        worker,
        what,
        seconds: PATIENCE.as_secs(),
    }
}

/// The queues between every two workers.
fn links(statuses: &[Arc<WorkerStatus>]) -> Vec<Vec<Option<PeerLink>>> {
    let n = statuses.len();
    let mut to: HashMap<(usize, usize), Producer<Handed>> = HashMap::new();
    let mut from: HashMap<(usize, usize), Consumer<Handed>> = HashMap::new();
    for pair in (0..n)
        .flat_map(|a| (0..n).map(move |b| (a, b)))
        .filter(|(a, b)| a != b)
    {
        let (producer, consumer) = RingBuffer::new(HANDOFF);
        to.insert(pair, producer);
        from.insert(pair, consumer);
    }
    let mut link = |me: usize, other: usize| {
        let (to, from) = (to.remove(&(me, other))?, from.remove(&(other, me))?);
        Some(PeerLink {
            to,
            from,
            status: statuses[other].clone(),
        })
    };
    (0..n)
        .map(|me| (0..n).map(|other| link(me, other)).collect())
        .collect()
}

#[cfg(test)]
mod tests;
