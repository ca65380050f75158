//! Free chunks: a depot per UMEM, a pool per worker and UMEM.
//!
//! A pool is a LIFO of a few hundred chunk numbers that one thread owns. It trades whole magazines of
//! [`MAGAZINE`] chunks with the depot, so a frame received by one worker and sent by another comes home
//! without a lock and without a shared cache line per frame.

use crate::umem::{HEADROOM, NO_CHUNK, Segment};
use crate::{Frame, RegionId, Umem};
use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Chunks that move between a pool and the depot at a time.
pub const MAGAZINE: usize = 64;

/// A pool keeps at most this many chunks.
const POOL: usize = 8 * MAGAZINE;

type Magazine = ArrayVec<u32, MAGAZINE>;

/// The free chunks of a UMEM that no pool holds.
pub(crate) struct Depot {
    magazines: ArrayQueue<Magazine>,
    /// Overflow of `magazines` (parts of magazines from closed pools and ports). Cold.
    strays: Mutex<Vec<u32>>,
    chunks: AtomicU32,
}

impl Depot {
    pub(crate) fn full(chunks: u32) -> Self {
        let depot = Self {
            magazines: ArrayQueue::new(chunks as usize / MAGAZINE + 64),
            strays: Mutex::new(Vec::new()),
            chunks: AtomicU32::new(0),
        };
        let mut magazine = Magazine::new();
        // Highest first, so that a young pool hands out low addresses: nicer to debug, same speed.
        for chunk in (0..chunks).rev() {
            magazine.push(chunk);
            if magazine.is_full() {
                depot.put(std::mem::take(&mut magazine));
            }
        }
        depot.put(magazine);
        depot
    }

    fn put(&self, magazine: Magazine) {
        let n = magazine.len() as u32;
        if n == 0 {
            return;
        }
        // Release: whoever takes the chunks sees what their last owner wrote (queue and mutex do the same).
        if let Err(magazine) = self.magazines.push(magazine) {
            self.lock_strays().extend_from_slice(&magazine);
        }
        self.chunks.fetch_add(n, Ordering::Release);
    }

    pub(crate) fn put_one(&self, chunk: u32) {
        self.lock_strays().push(chunk);
        self.chunks.fetch_add(1, Ordering::Release);
    }

    fn take(&self) -> Option<Magazine> {
        if self.chunks.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let magazine = self.magazines.pop().or_else(|| {
            let mut strays = self.lock_strays();
            let from = strays.len() - strays.len().min(MAGAZINE);
            let magazine: Magazine = strays.drain(from..).collect();
            (!magazine.is_empty()).then_some(magazine)
        })?;
        self.chunks.fetch_sub(magazine.len() as u32, Ordering::Relaxed);
        Some(magazine)
    }

    fn lock_strays(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        // A panic while pushing numbers leaves the list whole: the poison carries no information.
        self.strays
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.chunks.load(Ordering::Acquire)
    }
}

/// One worker's free chunks of one UMEM.
pub struct FramePool {
    free: Vec<u32>,
    umem: Umem,
}

impl FramePool {
    /// An empty pool; it fills itself from the UMEM's depot.
    #[must_use]
    pub fn new(umem: &Umem) -> Self {
        Self {
            free: Vec::with_capacity(POOL),
            umem: umem.clone(),
        }
    }

    /// The UMEM whose chunks it holds.
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Chunks in this pool.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.free.len() as u32
    }

    /// A chunk of our own, or none if pool and depot are empty.
    #[inline]
    pub(crate) fn take_chunk(&mut self) -> Option<u32> {
        match self.free.pop() {
            Some(chunk) => Some(chunk),
            None => self.refill(),
        }
    }

    #[cold]
    fn refill(&mut self) -> Option<u32> {
        self.free.extend_from_slice(&self.umem.region().depot.take()?);
        self.free.pop()
    }

    /// Takes back a chunk that the caller owned.
    #[inline]
    pub(crate) fn put_chunk(&mut self, chunk: u32) {
        if self.free.len() == POOL {
            self.spill();
        }
        self.free.push(chunk);
    }

    #[cold]
    fn spill(&mut self) {
        // The oldest go: the youngest are warm in this core's cache.
        for _ in 0..POOL / MAGAZINE / 2 {
            self.umem
                .region()
                .depot
                .put(self.free.drain(..MAGAZINE).collect());
        }
    }

    /// An empty frame with [`HEADROOM`] bytes in front of it.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.take_chunk()?;
        Some(Frame::from_chunk(self.umem.region(), chunk, HEADROOM, 0))
    }

    /// Gives back a frame of this pool's UMEM with all its segments.
    #[inline]
    pub(crate) fn free(&mut self, frame: Frame) {
        debug_assert_eq!(frame.region(), Some(self.umem.id()));
        let mut next = frame.next_chunk();
        self.put_chunk(frame.chunk());
        while next != NO_CHUNK {
            let Segment { next: following, .. } = self.umem.region().segment(next);
            self.put_chunk(next);
            next = following;
        }
    }
}

impl Drop for FramePool {
    fn drop(&mut self) {
        for magazine in self.free.chunks(MAGAZINE) {
            self.umem.region().depot.put(magazine.iter().copied().collect());
        }
    }
}

/// All pools of a worker, by region.
#[derive(Default)]
pub struct PoolSet {
    pools: Vec<Option<FramePool>>,
}

impl PoolSet {
    /// A set without pools.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pool for `umem` unless there is one.
    pub fn add(&mut self, umem: &Umem) {
        let index = umem.id().index();
        if self.pools.len() <= index {
            self.pools.resize_with(index + 1, || None);
        }
        self.pools[index].get_or_insert_with(|| FramePool::new(umem));
    }

    /// Removes the pool of a region; its chunks go to the depot when it is dropped.
    pub fn remove(&mut self, region: RegionId) -> Option<FramePool> {
        self.pools.get_mut(region.index())?.take()
    }

    /// The pool of a region.
    #[inline]
    pub fn get(&mut self, region: RegionId) -> Option<&mut FramePool> {
        self.pools.get_mut(region.index())?.as_mut()
    }

    /// An empty frame of a region, with headroom; none when its chunks are all in use.
    #[inline]
    pub fn alloc(&mut self, region: RegionId) -> Option<Frame> {
        self.get(region)?.alloc()
    }

    /// Gives a frame back. One from a region without a pool here goes to its depot.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        let Some(region) = frame.region() else { return };
        match self.get(region) {
            Some(pool) => pool.free(frame),
            None => frame.free_to_depot(),
        }
    }

    /// Gives back the first `n` frames of a list, most of one region.
    #[inline]
    pub(crate) fn free_front(&mut self, frames: &mut Vec<Frame>, n: usize) {
        frames.drain(..n).for_each(|frame| self.free(frame));
    }

    /// A copy of `frame` in `region`, linear or chained as the sizes demand; none when chunks are short.
    #[must_use]
    pub fn copy(&mut self, frame: &Frame, region: RegionId) -> Option<Frame> {
        let pool = self.get(region)?;
        let mut copy = pool.alloc()?;
        let mut reader = frame.reader();
        let whole = copy.append_with(pool, frame.len() as usize, |target| {
            reader.read(target);
        });
        if !whole || !frame.offload().is_none_or(|offload| copy.set_offload(offload)) {
            pool.free(copy);
            return None;
        }
        Some(copy)
    }

    /// Makes a frame that may be held one that is its own: it can outlive the turn, and its bytes do not change any
    /// more. False when chunks are short: the frame is as it was.
    #[must_use]
    pub fn make_own(&mut self, frame: &mut Frame) -> bool {
        if !frame.is_held() {
            return true;
        }
        let Some(copy) = frame.region().and_then(|region| self.copy(frame, region)) else {
            return false;
        };
        self.free(std::mem::replace(frame, copy));
        true
    }

    /// A frame of `region` that holds `bytes`.
    #[must_use]
    pub fn frame_from(&mut self, region: RegionId, bytes: &[u8]) -> Option<Frame> {
        let pool = self.get(region)?;
        let mut frame = pool.alloc()?;
        if frame.append(pool, bytes) {
            Some(frame)
        } else {
            pool.free(frame);
            None
        }
    }

    /// Chunks in the pools of this set, over all regions.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.pools.iter().flatten().map(FramePool::chunks).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HugePages, UmemGeometry};

    fn umem(chunks: u32) -> Umem {
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks,
            huge_pages: HugePages::Off,
        };
        Umem::new(geometry).expect("memory")
    }

    #[test]
    fn every_chunk_is_handed_out_once_and_comes_home() {
        let umem = umem(1000);
        let mut pool = FramePool::new(&umem);
        let frames: Vec<Frame> = std::iter::from_fn(|| pool.alloc()).collect();
        let chunks: std::collections::BTreeSet<u32> = frames.iter().map(Frame::chunk).collect();
        assert_eq!((frames.len(), chunks.len()), (1000, 1000));
        assert_eq!(umem.depot_chunks() + pool.chunks(), 0);
        frames.into_iter().for_each(|frame| pool.free(frame));
        assert!(pool.chunks() <= POOL as u32);
        drop(pool);
        assert_eq!(umem.depot_chunks(), 1000);
    }

    #[test]
    fn copies_chain_when_a_chunk_is_too_small_and_fail_whole() {
        let (big, small) = (umem(256), umem(64));
        let mut pools = PoolSet::new();
        pools.add(&big);
        pools.add(&small);
        let bytes: Vec<u8> = (0..9018u32).map(|i| i as u8).collect();
        let frame = pools.frame_from(big.id(), &bytes).expect("chunks");
        assert_eq!((frame.len(), frame.segment_count()), (9018, 6));
        let copy = pools.copy(&frame, small.id()).expect("chunks");
        assert_eq!(copy.segments().flatten().copied().collect::<Vec<u8>>(), bytes);
        // 64 chunks hold ten such frames; the eleventh copy fails and leaks nothing.
        let more: Vec<Frame> = std::iter::from_fn(|| pools.copy(&frame, small.id())).collect();
        assert_eq!(more.len(), 9);
        more.into_iter().chain([copy, frame]).for_each(|f| pools.free(f));
        drop(pools);
        assert_eq!((big.depot_chunks(), small.depot_chunks()), (256, 64));
    }

    #[test]
    fn two_threads_exchange_frames_without_losing_a_chunk() {
        let umem = umem(4096);
        let (mut to, mut from) = rtrb::RingBuffer::<Frame>::new(512);
        let taker = {
            let umem = umem.clone();
            std::thread::spawn(move || {
                let mut pool = FramePool::new(&umem);
                let mut taken = 0u64;
                while taken < 100_000 {
                    if let Ok(frame) = from.pop() {
                        pool.free(frame);
                        taken += 1;
                    }
                }
            })
        };
        let mut pool = FramePool::new(&umem);
        let mut sent = 0u64;
        while sent < 100_000 {
            let Some(frame) = pool.alloc() else { continue };
            match to.push(frame) {
                Ok(()) => sent += 1,
                Err(rtrb::PushError::Full(frame)) => pool.free(frame),
            }
        }
        taker.join().expect("taker");
        drop(pool);
        assert_eq!(umem.depot_chunks(), 4096);
    }
}
