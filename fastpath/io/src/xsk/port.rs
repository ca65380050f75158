//! A port that is one queue of an interface, through an AF_XDP socket.
//!
//! ```text
//!   pool ──► fill ring ══ kernel ══► rx ring ──► rx_batch ──► frames
//!   frames ──► tx_batch ──► tx ring ══ kernel ══► completion ring ──► reclaim ──► pool
//! ```
//!
//! Guarantees: a chunk that the kernel gives back becomes ours only if it was lent to that very ring and the
//! bytes lie inside it; anything else is counted invalid and touches no memory. A packet of several buffers
//! is handed over whole or not at all, and sent whole or not at all. When the port is closed every chunk that
//! the kernel still had is home again. Left to the caller: the XDP program that steers frames to the socket,
//! the napi knobs of busy polling, and a new port after a fault.

use super::lent::LentChunks;
use super::ring::{RingSizes, Rings};
use super::socket::{BusyPoll, Interface};
use super::{release, sys, uapi};
use crate::pool::FramePool;
use crate::prefetch::{prefetch_lines, prefetch_read};
use crate::{BATCH, Fault, Frame, FrameBatch, MAX_SEGMENTS, PoolSet, Port, RxCounts, TxCounts, Umem};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Frames shorter than an Ethernet header are not sent: the kernel would drop them, or refuse the descriptor
/// without ever completing it.
const ETHERNET_HEADER: u32 = 14;

/// What [`super::UmemGroup::open`] makes a port of.
pub(super) struct Parts {
    pub(super) rings: Rings,
    pub(super) fd: Arc<OwnedFd>,
    pub(super) umem: Umem,
    pub(super) interface: Interface,
    pub(super) queue: u32,
    pub(super) zero_copy: bool,
    pub(super) multi_buffer: bool,
    pub(super) busy_poll: Option<BusyPoll>,
    pub(super) tx_budget: u32,
}

/// What a port turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfXdpReport {
    /// The interface.
    pub interface: Interface,
    /// Its queue.
    pub queue: u32,
    /// Whether the driver receives into the UMEM. (Native or generic is the XDP program's mode.)
    pub zero_copy: bool,
    /// Whether packets may span several chunks.
    pub multi_buffer: bool,
    /// Ring sizes.
    pub rings: RingSizes,
    /// Busy polling, if on.
    pub busy_poll: Option<BusyPoll>,
    /// Descriptors that one system call sends in copy mode.
    pub tx_budget: u32,
}

/// What became of a frame that was to be sent.
enum Taken {
    /// It is in the tx ring.
    Sent,
    /// It was freed.
    Unsendable,
}

/// A packet of several buffers that is not complete yet.
#[derive(Default)]
enum Assembly {
    /// The next descriptor starts a packet.
    #[default]
    None,
    /// Its buffers so far, and their number.
    Partial(Frame, usize),
    /// One of its buffers was not usable: the rest is thrown away up to its end.
    Broken,
}

/// See the module's description.
pub struct AfXdpPort {
    /// Unmapped by `drop`, which needs that done in the middle.
    rings: ManuallyDrop<Rings>,
    umem: Umem,
    received_into: LentChunks,
    sent_from: LentChunks,
    assembly: Assembly,
    invalid: u64,
    fault: Option<Fault>,
    /// Some until the port is closed.
    fd: Option<Arc<OwnedFd>>,
    /// Chunks that the fill ring leaves in pool and depot.
    reserve: u32,
    report: AfXdpReport,
}

impl AfXdpPort {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            rings,
            fd,
            umem,
            interface,
            queue,
            zero_copy,
            multi_buffer,
            busy_poll,
            tx_budget,
        } = parts;
        let chunks = umem.chunks();
        Self {
            received_into: LentChunks::new(chunks),
            sent_from: LentChunks::new(chunks),
            assembly: Assembly::None,
            invalid: 0,
            fault: None,
            fd: Some(fd),
            reserve: (BATCH as u32).min(chunks / 8),
            report: AfXdpReport {
                interface,
                queue,
                zero_copy,
                multi_buffer,
                rings: rings.sizes,
                busy_poll,
                tx_budget,
            },
            rings: ManuallyDrop::new(rings),
            umem,
        }
    }

    /// Fills the fill ring from the depot, for a port that no worker has yet.
    pub(super) fn fill(&mut self) {
        let mut pools = PoolSet::new();
        pools.add(&self.umem);
        self.refill(&mut pools);
    }

    /// The socket is bound, and turned out to be this.
    pub(super) fn bound(&mut self, zero_copy: bool, multi_buffer: bool) {
        self.report.zero_copy = zero_copy;
        self.report.multi_buffer = multi_buffer;
    }

    /// The socket, for binding others by it while it is open.
    pub(super) fn descriptor(&self) -> Weak<OwnedFd> {
        self.fd.as_ref().map_or_else(Weak::new, Arc::downgrade)
    }

    /// What it turned out to be.
    #[must_use]
    pub fn report(&self) -> &AfXdpReport {
        &self.report
    }

    /// The UMEM that it receives into.
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// The NAPI instance that its frames come from, once one has come; the kernel does not know it for every
    /// kind of interface. Busy polling polls this one, so without it `napi_defer_hard_irqs` would only delay.
    #[must_use]
    pub fn napi_id(&self) -> Option<u32> {
        let id = sys::get_option::<libc::c_int>(self.socket(), libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID);
        id.ok()
            .and_then(|id| u32::try_from(id).ok())
            .filter(|&id| id != 0)
    }

    /// The socket: for the XSKMAP, and for hand-over to a successor. Whoever duplicates it keeps the kernel
    /// receiving into our chunks, so a port whose socket was handed over must not be closed by this process.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            None => unreachable!("the descriptor is taken only by close, which consumes the port"),
        }
    }

    /// Closes the socket; every chunk that the kernel had is in the UMEM's depot afterwards. Waits for that, in
    /// zero-copy mode some milliseconds: for control threads. Dropping the port does the same.
    pub fn close(self) {
        drop(self);
    }

    /// Offset in the chunk and number of the chunk that holds an address.
    #[inline(always)]
    fn split(&self, address: u64) -> (u32, u32) {
        let region = self.umem.region();
        let chunk = u32::try_from(address >> region.shift).unwrap_or(u32::MAX);
        (chunk, address as u32 & (region.chunk_size() - 1))
    }

    /// What a received descriptor stands for. None, and counted, if it makes no sense.
    #[inline(always)]
    fn receive(&mut self, pools: &mut PoolSet, desc: &uapi::xdp_desc) -> Option<Frame> {
        let (chunk, offset) = self.split(desc.addr);
        if !self.received_into.take_back(chunk) {
            self.invalid += 1;
            return None;
        }
        if desc.len > self.umem.chunk_size() - offset {
            self.invalid += 1;
            self.put_chunk(pools.get(self.umem.id()), chunk);
            return None;
        }
        let frame = Frame::from_chunk(self.umem.region(), chunk, offset, desc.len);
        // Another core or the device wrote the headers: they are on their way while the rest of the batch is read.
        prefetch_read(frame.bytes());
        if !self.report.zero_copy {
            // The kernel will copy all of it when it is sent, and waits for each line that is not here by then.
            prefetch_lines(frame.bytes());
        }
        Some(frame)
    }

    #[inline(always)]
    fn put_chunk(&self, pool: Option<&mut FramePool>, chunk: u32) {
        match pool {
            Some(pool) => pool.put_chunk(chunk),
            None => self.umem.region().depot.put_one(chunk),
        }
    }

    /// Takes a buffer of a packet of several; gives the packet when it is complete.
    #[cold]
    fn assemble(&mut self, pools: &mut PoolSet, buffer: Option<Frame>, more: bool) -> Option<Frame> {
        let state = match (std::mem::take(&mut self.assembly), buffer) {
            (Assembly::None, Some(buffer)) => Assembly::Partial(buffer, 1),
            (Assembly::Partial(mut packet, n), Some(buffer)) if n < MAX_SEGMENTS => {
                packet.link(buffer.chunk(), buffer.headroom(), buffer.len());
                Assembly::Partial(packet, n + 1)
            }
            (assembly, buffer) => {
                if let Assembly::Partial(packet, _) = assembly {
                    // Too long; a buffer that was not usable has been counted.
                    self.invalid += u64::from(buffer.is_some());
                    pools.free(packet);
                }
                if let Some(buffer) = buffer {
                    pools.free(buffer);
                }
                Assembly::Broken
            }
        };
        match state {
            Assembly::Partial(packet, _) if !more => Some(packet),
            state if more => {
                self.assembly = state;
                None
            }
            _ => None,
        }
    }

    /// Completion ring → pool.
    #[inline]
    fn complete(&mut self, pools: &mut PoolSet) {
        if self.sent_from.count() == 0 {
            return;
        }
        let mut pool = pools.get(self.umem.id());
        while let Some(address) = self.rings.completion.pop() {
            let (chunk, _) = self.split(address);
            if self.sent_from.take_back(chunk) {
                self.put_chunk(pool.as_deref_mut(), chunk);
            } else {
                self.invalid += 1;
            }
        }
        self.rings.completion.release();
    }

    /// Pool → fill ring. Never more than the rx ring holds, so that the port's share of the UMEM is bounded, and
    /// never the last chunks, which sending and flooding need.
    #[inline]
    fn refill(&mut self, pools: &mut PoolSet) {
        let missing = self.rings.sizes.rx - self.received_into.count().min(self.rings.sizes.rx);
        if missing == 0 {
            return;
        }
        let Some(pool) = pools.get(self.umem.id()) else {
            return;
        };
        let spare = (pool.chunks() + self.umem.depot_chunks()).saturating_sub(self.reserve);
        let n = missing.min(spare).min(self.rings.fill.room(missing));
        let region = self.umem.region();
        for _ in 0..n {
            let Some(chunk) = pool.take_chunk() else { break };
            self.received_into.lend(chunk);
            self.rings.fill.push(u64::from(chunk) << region.shift);
        }
        self.rings.fill.publish();
    }

    /// Makes the kernel send what is in the tx ring. In copy mode it takes the tx budget's number of descriptors
    /// at a time and says EAGAIN when there is more, or when the device can't take more now: then a later turn
    /// tries again.
    #[inline]
    fn kick(&mut self) {
        if self.report.zero_copy {
            let busy_poll = self.report.busy_poll.is_some();
            if self.rings.tx.need_wakeup() || busy_poll {
                let result = sys::kick_tx(self.socket());
                self.judge(result, "sending");
            }
            // A socket that prefers busy polling wakes nobody by that (net/xdp/xsk.c, xsk_no_wakeup): it polls the
            // NAPI of its receive queue, which sends too in most drivers, but not where sending has a NAPI of its
            // own (virtio_net, igb with few queues). poll(2) wakes that.
            if busy_poll && self.rings.tx.need_wakeup() && self.rings.tx.pending() != 0 {
                sys::poll(self.socket());
            }
            return;
        }
        let mut pending = self.rings.tx.pending();
        while pending != 0 {
            let result = sys::kick_tx(self.socket());
            self.judge(result, "sending");
            let left = self.rings.tx.pending();
            if left >= pending || self.fault.is_some() {
                break;
            }
            pending = left;
        }
    }

    /// Sets the fault if an error means that the socket will not work again.
    #[inline]
    fn judge(&mut self, result: Result<(), i32>, what: &str) {
        match result {
            // The kernel's ways to say "later": budget spent, device or memory busy, or one packet dropped.
            Ok(())
            | Err(
                libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::EOVERFLOW,
            ) => {}
            Err(errno) => self.fail(errno, what),
        }
    }

    #[cold]
    fn fail(&mut self, errno: i32, what: &str) {
        let why = match errno {
            libc::ENETDOWN => "the interface is down".to_owned(),
            libc::ENXIO | libc::ENODEV => "the interface is gone".to_owned(),
            errno => std::io::Error::from_raw_os_error(errno).to_string(),
        };
        let AfXdpReport { interface, queue, .. } = &self.report;
        self.fault
            .get_or_insert_with(|| Fault(format!("{} queue {queue}: {what}: {why}", interface.name)));
    }

    /// Puts one frame into the tx ring, or frees it if it can't be sent at all. Err gives it back: no room, or
    /// no chunk for a copy.
    #[inline(always)]
    fn enqueue(&mut self, pools: &mut PoolSet, frame: Frame) -> Result<Taken, Frame> {
        if frame.region() == Some(self.umem.id()) && frame.is_linear() && frame.len() >= ETHERNET_HEADER {
            if self.tx_room(1) {
                self.sent_from.lend(frame.chunk());
                self.rings.tx.push(frame.address(), frame.len(), false);
                return Ok(Taken::Sent);
            }
            return Err(frame);
        }
        self.enqueue_other(pools, frame)
    }

    /// Frames of several segments, of other regions, held ones, or that can't be sent: shorter than an Ethernet header, or
    /// longer than a chunk where the kernel does not take packets of several buffers.
    fn enqueue_other(&mut self, pools: &mut PoolSet, frame: Frame) -> Result<Taken, Frame> {
        let per_chunk = self.umem.chunk_size() - crate::HEADROOM;
        let copied_segments = frame.len().div_ceil(per_chunk);
        let most = if self.report.multi_buffer { MAX_SEGMENTS } else { 1 };
        let fits = |frame: &Frame| {
            frame.segment_count() <= most && frame.segments().all(|segment| !segment.is_empty())
        };
        let copy = frame.region() != Some(self.umem.id()) || frame.is_held() || !fits(&frame);
        if frame.len() < ETHERNET_HEADER || (copy && copied_segments as usize > most) {
            pools.free(frame);
            return Ok(Taken::Unsendable);
        }
        if !copy {
            return if self.tx_room(frame.segment_count() as u32) {
                self.push_segments(&frame);
                Ok(Taken::Sent)
            } else {
                Err(frame)
            };
        }
        if !self.tx_room(copied_segments) {
            return Err(frame);
        }
        let Some(copy) = pools.copy(&frame, self.umem.id()) else {
            return Err(frame);
        };
        self.push_segments(&copy);
        pools.free(frame);
        Ok(Taken::Sent)
    }

    /// Whether `n` descriptors fit into the tx ring, and later into the completion ring.
    #[inline(always)]
    fn tx_room(&mut self, n: u32) -> bool {
        self.sent_from.count() + n <= self.rings.sizes.tx && self.rings.tx.room(n) >= n
    }

    fn push_segments(&mut self, frame: &Frame) {
        let shift = self.umem.region().shift;
        self.sent_from.lend(frame.chunk());
        self.rings
            .tx
            .push(frame.address(), frame.bytes().len() as u32, !frame.is_linear());
        let mut links = frame.links().peekable();
        while let Some((chunk, offset, len)) = links.next() {
            self.sent_from.lend(chunk);
            let address = (u64::from(chunk) << shift) + u64::from(offset);
            self.rings.tx.push(address, len, links.peek().is_some());
        }
    }
}

impl Port for AfXdpPort {
    #[inline]
    fn rx_batch(&mut self, pools: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        if self.fault.is_some() {
            return 0;
        }
        let before = batch.len();
        if self.rings.rx.is_empty() && (self.report.busy_poll.is_some() || self.rings.fill.need_wakeup()) {
            let result = sys::kick_rx(self.socket());
            self.judge(result, "receiving");
        }
        while !batch.is_full() {
            let Some(desc) = self.rings.rx.pop() else { break };
            let more = desc.options & libc::XDP_PKT_CONTD != 0;
            let frame = self.receive(pools, &desc);
            let frame = match (&self.assembly, more) {
                (Assembly::None, false) => frame,
                _ => self.assemble(pools, frame, more),
            };
            batch.extend(frame);
        }
        self.rings.rx.release();
        batch.len() - before
    }

    #[inline]
    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts {
        let mut counts = TxCounts::default();
        if self.fault.is_some() || frames.is_empty() {
            return counts;
        }
        self.complete(pools);
        let mut taken = 0;
        for slot in frames.iter_mut() {
            let bytes = u64::from(slot.len());
            match self.enqueue(pools, std::mem::take(slot)) {
                Ok(Taken::Sent) => counts.bytes += bytes,
                Ok(Taken::Unsendable) => counts.unsendable += 1,
                Err(frame) => {
                    *slot = frame;
                    break;
                }
            }
            taken += 1;
        }
        frames.drain(..taken);
        counts.packets = taken as u64 - counts.unsendable;
        self.rings.tx.publish();
        self.kick();
        counts
    }

    #[inline]
    fn reclaim(&mut self, pools: &mut PoolSet) {
        if self.fault.is_some() {
            return;
        }
        if self.sent_from.count() != 0 {
            if self.rings.tx.pending() != 0 {
                self.kick();
            }
            self.complete(pools);
        }
        self.refill(pools);
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fault.is_none().then(|| self.socket())
    }

    /// The kernel wakes a sleeper for every frame that it puts into an empty or non-empty rx ring, so nothing
    /// needs to be asked for; frames that it has not taken from the tx ring yet keep the worker awake.
    fn arm(&mut self) -> bool {
        self.fault.is_some() || !self.rings.rx.is_empty() || self.rings.tx.pending() != 0
    }

    /// Asks the kernel, so about once a second is often enough. Also finds out that an interface without
    /// traffic is down or gone.
    fn rx_lost(&mut self) -> RxCounts {
        if self.fault.is_none() {
            let result = sys::kick_rx(self.socket());
            self.judge(result, "receiving");
        }
        // rx_dropped counts a packet without a chunk to receive into too; rx_fill_ring_empty_descs is the same
        // event seen from the fill ring, so adding it would count those twice (net/xdp/xsk.c).
        let missed =
            sys::get_option::<uapi::xdp_statistics>(self.socket(), libc::SOL_XDP, libc::XDP_STATISTICS)
                .map_or(0, |statistics| statistics.rx_dropped + statistics.rx_ring_full);
        RxCounts {
            missed,
            invalid: self.invalid,
        }
    }
}

impl Drop for AfXdpPort {
    fn drop(&mut self) {
        let Some(mut fd) = self.fd.take() else { return };
        // A group that is just binding another socket by this one holds it for some milliseconds. The chunks
        // may go home only when the kernel has stopped writing, which is when the last reference goes.
        let fd = loop {
            match Arc::try_unwrap(fd) {
                Ok(fd) => break fd,
                Err(shared) => fd = shared,
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // A mapping is a reference to the socket like a descriptor is: the kernel would go on while there is one.
        // SAFETY: here alone, and nothing below or after drop uses the rings.
        unsafe { ManuallyDrop::drop(&mut self.rings) };
        // close waits until the network stack has let go of the socket (net/xdp/xsk.c, xsk_unbind_dev).
        drop(fd);
        if self.report.zero_copy {
            // Only the socket: the device may still write into chunks that it was given.
            release::wait(&self.umem, &self.report.interface, self.report.queue);
        }
        if let Assembly::Partial(frame, _) = std::mem::take(&mut self.assembly) {
            frame.free_to_depot();
        }
        let depot = &self.umem.region().depot;
        self.received_into.drain().for_each(|chunk| depot.put_one(chunk));
        self.sent_from.drain().for_each(|chunk| depot.put_one(chunk));
    }
}

#[cfg(test)]
mod tests;
