//! A worker: one thread, pinned to one core, that owns its queues, pools and counters and runs the loop.
//!
//! ```text
//!   turn:  commands → for each active queue: rx_batch → stages → tx_batch → frames from other workers → end
//!                                                                                    (turn boundary)
//! ```
//!
//! Thread rules: everything here belongs to the worker's thread. It shares the FDB with the other workers,
//! its [`WorkerStatus`] with control (relaxed counters), and queues with one writer and one reader. Nothing
//! on a packet's way takes a lock, allocates, makes a system call other than the port's own, or reads a clock
//! (once a turn). What control wants is applied between two turns, so the world is constant during one.

mod commands;
mod idle;

use crate::counters::Ledger;
use crate::fdb::Grace;
use crate::message::{Command, Event};
use crate::packet::Batch;
use crate::police::Policer;
use crate::stages::{Cx, Now, egress};
use crate::tx::{Route, TxQueues};
use crate::{DropReason, Fdb, PortConf, PortCounters, PortId, Snapshot, WorkerId, pipeline};
use clearway_io::{AnyPort, BATCH, EventFd, Frame, PoolSet, Port, RegionId};
use idle::TURNS_BETWEEN_LOOKS;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rtrb::{Consumer, Producer};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// What a worker does when nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
    /// Poll on: the shortest reaction, a whole core.
    Spin,
    /// After [`SPIN_BEFORE_SLEEP`] without a frame, sleep until one arrives.
    #[default]
    Adaptive,
}

/// An adaptive worker polls this long without a frame before it sleeps: longer than the gap between the
/// packets of a ping-pong, shorter than anything an idle core is charged for.
pub const SPIN_BEFORE_SLEEP: Duration = Duration::from_micros(100);

const WAKE: Token = Token(usize::MAX);

/// A frame on its way to the worker that has its port.
pub(crate) type Handed = (PortId, Frame);

/// What control and other workers see of a worker.
#[derive(Debug)]
pub(crate) struct WorkerStatus {
    /// Epoch of the tables in use.
    pub(crate) epoch: AtomicU64,
    /// Commands that were carried out.
    pub(crate) applied: AtomicU64,
    /// Turns begun.
    pub(crate) turns: AtomicU64,
    /// Nanoseconds in turns that moved frames.
    pub(crate) busy_ns: AtomicU64,
    /// Times it went to sleep.
    pub(crate) sleeps: AtomicU64,
    pub(crate) sleeping: AtomicBool,
    /// What it may still hold of the FDB.
    pub(crate) grace: Grace,
    pub(crate) wake: EventFd,
}

impl WorkerStatus {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoch: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            sleeping: AtomicBool::new(false),
            grace: Grace::default(),
            wake: EventFd::new()?,
        })
    }

    /// Wakes the worker if it sleeps, after something was put into one of its queues.
    pub(crate) fn wake(&self) {
        // Pairs with the fence in `sleep`: either we see the flag or it sees what we put.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.wake.signal();
        }
    }
}

/// One queue of a port, with all that belongs to it on this worker.
struct Queue {
    port: PortId,
    number: u16,
    io: Box<AnyPort>,
    region: Option<RegionId>,
    conf: Arc<PortConf>,
    counters: Arc<PortCounters>,
    idle_turns: u32,
    active: bool,
    faulted: bool,
    /// Registered with epoll. Only while nobody polls it: a socket with a waiter wakes it for every frame
    /// that the kernel has sent, which cost 6 % of a busy AF_XDP worker's time.
    watched: bool,
}

/// The queues between two workers, from one's point of view.
pub(crate) struct PeerLink {
    pub(crate) to: Producer<Handed>,
    pub(crate) from: Consumer<Handed>,
    pub(crate) status: Arc<WorkerStatus>,
}

/// See the module's text.
pub struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) idle: Idle,
    pub(crate) commands: Consumer<Command>,
    pub(crate) events: Producer<Event>,
    /// Events that the queue had no room for.
    pub(crate) backlog: VecDeque<Event>,
    pub(crate) status: Arc<WorkerStatus>,
    pub(crate) fdb: Arc<Fdb>,
    /// By worker; none for ourselves.
    pub(crate) peers: Vec<Option<PeerLink>>,
    pub(crate) started: Instant,
    queues: Vec<Option<Queue>>,
    active: Vec<usize>,
    /// Queues that are there and have no fault: active or parked.
    working: usize,
    /// The next queue to ask for what it lost.
    losses_of: usize,
    /// Queues of ours that send for a port, by port, in the order of their numbers.
    outlets: Vec<Vec<usize>>,
    /// Workers that send for ports without a queue here, by port.
    remotes: Vec<Option<WorkerId>>,
    snapshot: Arc<Snapshot>,
    pools: PoolSet,
    tx: TxQueues,
    ledger: Ledger,
    /// Drops that belong to no port of this worker.
    counters: Arc<PortCounters>,
    batch: Batch,
    poll: Poll,
    poll_events: Events,
    now: Now,
    moved_last: bool,
    stopping: bool,
    default_conf: Arc<PortConf>,
}

/// What a worker is made of.
pub(crate) struct Parts {
    pub(crate) id: WorkerId,
    pub(crate) idle: Idle,
    pub(crate) commands: Consumer<Command>,
    pub(crate) events: Producer<Event>,
    pub(crate) status: Arc<WorkerStatus>,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) peers: Vec<Option<PeerLink>>,
    pub(crate) counters: Arc<PortCounters>,
    pub(crate) started: Instant,
}

/// All that stages may use, for frames that come in with this configuration, these counters and of this region. No
/// method, which would borrow the queues as well.
macro_rules! cx {
    ($worker:ident, $conf:expr, $counters:expr, $region:expr) => {
        Cx {
            snapshot: &$worker.snapshot,
            fdb: &$worker.fdb,
            pools: &mut $worker.pools,
            tx: &mut $worker.tx,
            ledger: &mut $worker.ledger,
            now: $worker.now,
            conf: $conf,
            counters: $counters,
            region: $region,
        }
    };
}

impl Worker {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts {
            id,
            idle,
            commands,
            events,
            status,
            fdb,
            peers,
            counters,
            started,
        } = parts;
        let poll = Poll::new()?;
        let wake = status.wake.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&wake), WAKE, Interest::READABLE)?;
        Ok(Self {
            id,
            idle,
            commands,
            events,
            backlog: VecDeque::new(),
            status,
            fdb,
            peers,
            started,
            queues: Vec::new(),
            active: Vec::new(),
            working: 0,
            losses_of: 0,
            outlets: Vec::new(),
            remotes: Vec::new(),
            snapshot: Arc::default(),
            pools: PoolSet::new(),
            tx: TxQueues::default(),
            ledger: Ledger::default(),
            counters,
            batch: Batch::default(),
            poll,
            poll_events: Events::with_capacity(256),
            now: Now::default(),
            moved_last: false,
            stopping: false,
            default_conf: Arc::default(),
        })
    }

    /// Runs until control says stop.
    pub fn run(mut self) {
        let mut idle_since: Option<u64> = None;
        while !self.stopping {
            if self.turn() > 0 {
                idle_since = None;
                continue;
            }
            let since = *idle_since.get_or_insert(self.now.ns);
            match self.idle {
                Idle::Spin => std::hint::spin_loop(),
                Idle::Adaptive if self.now.ns - since >= SPIN_BEFORE_SLEEP.as_nanos() as u64 => {
                    self.sleep();
                    idle_since = None;
                }
                Idle::Adaptive => std::hint::spin_loop(),
            }
        }
    }

    /// One turn; gives the number of frames that moved. For tests and benches that run a worker on their own
    /// thread; others call [`Worker::run`].
    pub fn turn(&mut self) -> usize {
        self.read_clock();
        self.status.grace.begin_turn();
        if !self.commands.is_empty() || !self.backlog.is_empty() {
            self.apply_commands();
        }
        let mut moved = 0;
        let mut i = 0;
        while let Some(&index) = self.active.get(i) {
            moved += self.serve(index);
            // A queue that was parked gave its place in the list to the last one.
            i += usize::from(self.active.get(i) == Some(&index));
        }
        moved += self.take_handed();
        if self.losses_of < self.queues.len() {
            self.read_losses(1);
        }
        let turns = self.status.turns.load(Ordering::Relaxed) + 1;
        if self.active.len() < self.working && turns.is_multiple_of(TURNS_BETWEEN_LOOKS) {
            self.look_at_parked(Some(Duration::ZERO));
        }
        self.moved_last = moved > 0;
        // Release: who sees the new number sees all that this turn did.
        self.status.turns.store(turns, Ordering::Release);
        moved
    }

    fn read_clock(&mut self) {
        let ns = self.started.elapsed().as_nanos() as u64;
        if self.moved_last {
            let busy = &self.status.busy_ns;
            busy.store(busy.load(Ordering::Relaxed) + ns - self.now.ns, Ordering::Relaxed);
        }
        let s = (ns / 1_000_000_000) as u16;
        if s != self.now.s {
            self.losses_of = 0;
        }
        self.now = Now { ns, s };
    }

    /// Once a second and queue: what the rings lost by themselves. Of the next `n` queues: asking takes system calls,
    /// and hundreds in one turn would be felt on every port.
    fn read_losses(&mut self, n: usize) {
        let from = self.losses_of.min(self.queues.len());
        let to = from.saturating_add(n).min(self.queues.len());
        self.losses_of = to;
        for index in from..to {
            let Some(queue) = self.queues[index].as_mut() else {
                continue;
            };
            let lost = queue.io.rx_lost();
            queue.counters.rx_missed.set(lost.missed);
            queue.counters.rx_invalid.set(lost.invalid);
            // Asking is how a port that nobody polls finds out that it is dead.
            if queue.io.fault().is_some() && !queue.faulted {
                self.fault(index);
            }
        }
    }

    /// One batch from one queue.
    #[inline]
    fn serve(&mut self, index: usize) -> usize {
        let Some(queue) = self.queues[index].as_mut() else {
            return 0;
        };
        queue.io.reclaim(&mut self.pools);
        let n = queue.io.rx_batch(&mut self.pools, &mut self.batch.frames);
        if n == 0 {
            self.nothing_there(index);
            return 0;
        }
        queue.idle_turns = 0;
        let bytes: u64 = self.batch.frames.iter().map(|frame| u64::from(frame.len())).sum();
        queue.counters.rx_packets.add(n as u64);
        queue.counters.rx_bytes.add(bytes);
        self.ledger.received += n as u64;
        let mut cx = cx!(self, &queue.conf, &queue.counters, queue.region);
        let number = queue.number;
        pipeline::run(&mut cx, &mut self.batch);
        self.flush(number);
        if let Some(queue) = self.queues[index].as_mut() {
            queue.io.rx_done();
        }
        n
    }

    #[cold]
    fn fault(&mut self, index: usize) {
        let Some(queue) = self.queues[index].as_mut() else {
            return;
        };
        queue.faulted = true;
        self.working -= 1;
        let reason = queue.io.fault().map(ToString::to_string).unwrap_or_default();
        let (port, queue) = (queue.port, queue.number);
        self.park(index);
        self.route(port);
        self.tell(Event::Fault { port, queue, reason });
    }

    /// Sends what waits for its ports; what they refuse is dropped, counted and freed at once. Of several queues of a port
    /// the one that goes with the queue that the frames are `from`: so a flow stays in order, and guests with several
    /// queues are served on all of them.
    #[inline]
    fn flush(&mut self, from: u16) {
        while let Some((port, route, frames)) = self.tx.next_dirty() {
            let route = match (route, self.outlets.get(port.index())) {
                (Route::Local(_), Some(all)) if all.len() > 1 => {
                    Route::Local(all[usize::from(from) % all.len()])
                }
                (route, _) => route,
            };
            let (counters, reason) = match route {
                Route::Local(index) => match self.queues.get_mut(index).and_then(Option::as_mut) {
                    Some(queue) => {
                        if let Some(policer) = &queue.conf.police_transmit {
                            let over = police(policer, &mut self.pools, frames, self.now.ns);
                            self.ledger.drops[DropReason::PoliceTransmit as usize] += over;
                            queue.counters.drops.of(DropReason::PoliceTransmit).add(over);
                        }
                        let sent = queue.io.tx_batch(&mut self.pools, frames);
                        queue.counters.tx_packets.add(sent.packets);
                        queue.counters.tx_bytes.add(sent.bytes);
                        self.ledger.sent += sent.packets;
                        if !queue.active && !queue.faulted {
                            // Parked, but now it has frames to see off: what its ring or the kernel has not taken
                            // yet needs `reclaim`.
                            queue.active = true;
                            queue.idle_turns = 0;
                            queue.unwatch(&self.poll);
                            self.active.push(index);
                        }
                        if sent.unsendable > 0 {
                            self.ledger.drops[DropReason::TxUnsendable as usize] += sent.unsendable;
                            queue
                                .counters
                                .drops
                                .of(DropReason::TxUnsendable)
                                .add(sent.unsendable);
                        }
                        let down = !frames.is_empty() && queue.io.is_down();
                        let reason = if down {
                            DropReason::TxDown
                        } else {
                            DropReason::TxFull
                        };
                        (&queue.counters, reason)
                    }
                    None => (&self.counters, DropReason::TxDown),
                },
                Route::Remote(worker) => match self.peers.get_mut(usize::from(worker.0)) {
                    Some(Some(peer)) => {
                        let lost = make_own(&mut self.pools, frames);
                        self.ledger.drops[DropReason::NoChunks as usize] += lost;
                        self.counters.drops.of(DropReason::NoChunks).add(lost);
                        self.ledger.handed_out += hand_over(peer, port, frames);
                        (&self.counters, DropReason::HandoffFull)
                    }
                    _ => (&self.counters, DropReason::TxDown),
                },
                Route::None => (&self.counters, DropReason::TxDown),
            };
            if !frames.is_empty() {
                let refused = frames.len() as u64;
                self.ledger.drops[reason as usize] += refused;
                counters.drops.of(reason).add(refused);
                frames.drain(..).for_each(|frame| self.pools.free(frame));
            }
        }
    }

    /// Frames that other workers have for our ports.
    #[inline]
    fn take_handed(&mut self) -> usize {
        let mut all = 0;
        for worker in 0..self.peers.len() {
            let Some(peer) = &mut self.peers[worker] else {
                continue;
            };
            let mut taken = 0;
            let mut cx = cx!(self, &self.default_conf, &self.counters, None);
            for _ in 0..BATCH {
                let Ok((port, frame)) = peer.from.pop() else { break };
                taken += 1;
                match cx.tx.route(port) {
                    Route::Local(_) => egress::queue(&mut cx, frame, port),
                    // It moved on: handing it about could go round in circles.
                    Route::Remote(_) | Route::None => cx.drop(frame, DropReason::TxDown),
                }
            }
            // One worker's frames at a time: a port's list holds those, not those of many workers.
            if taken > 0 {
                all += taken;
                self.ledger.handed_in += taken as u64;
                self.flush(worker as u16);
            }
        }
        all
    }

    fn tell(&mut self, event: Event) {
        self.backlog.push_back(event);
        while let Some(event) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(event)) = self.events.push(event) {
                self.backlog.push_front(event);
                break;
            }
        }
    }
}

/// Makes frames whole that are to outlive the turn; gives the number of those for which there was no chunk: they are gone.
fn make_own(pools: &mut PoolSet, frames: &mut Vec<Frame>) -> u64 {
    let before = frames.len();
    frames.retain_mut(|frame| {
        let whole = pools.make_own(frame);
        if !whole {
            pools.free(std::mem::take(frame));
        }
        whole
    });
    (before - frames.len()) as u64
}

/// Frees what is above a port's rate; gives its number.
#[inline(never)]
fn police(policer: &Policer, pools: &mut PoolSet, frames: &mut Vec<Frame>, now_ns: u64) -> u64 {
    let pass = policer.admit(frames, now_ns);
    let over = frames.len() - pass;
    frames.drain(pass..).for_each(|frame| pools.free(frame));
    over as u64
}

/// Passes frames to another worker; gives their number, the rest stays in `frames`.
fn hand_over(peer: &mut PeerLink, port: PortId, frames: &mut Vec<Frame>) -> u64 {
    let n = frames.len().min(peer.to.slots());
    let handed = match peer.to.write_chunk_uninit(n) {
        Ok(chunk) => chunk.fill_from_iter(frames.drain(..n).map(|frame| (port, frame))),
        Err(_) => 0,
    };
    peer.status.wake();
    handed as u64
}

impl Drop for Worker {
    fn drop(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            while let Ok((_, frame)) = peer.from.pop() {
                self.pools.free(frame);
            }
        }
    }
}
