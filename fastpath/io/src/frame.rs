//! The owned handle of a packet's bytes.
//!
//! ```text
//!   chunk:  │ headroom │▒▒▒ bytes() ▒▒▒│ tailroom │   next segment: another chunk, linked in the region
//!                      ▲ data          ▲ data + len
//! ```
//!
//! Guarantees: a frame is the only handle to its chunks, is not `Clone`, and always points inside one chunk;
//! no method panics, whatever the length asked for. An empty frame (`Frame::default()`) owns nothing. Left to
//! the caller: give it to a port or back to a pool; it has no `Drop`, since dropping packets one by one is
//! not what a fast path does.

use crate::pool::FramePool;
use crate::umem::{NO_CHUNK, Region, Segment};
use crate::{HEADROOM, RegionId};
use std::ptr::NonNull;

/// Most segments of a chained frame: the kernel's limit for a multi-buffer AF_XDP packet in copy mode
/// (`CONFIG_MAX_SKB_FRAGS` + 1; af_xdp.rst, "Multi-Buffer Support").
pub const MAX_SEGMENTS: usize = 18;

/// A packet: bytes in a chunk of a UMEM, perhaps continued in further chunks.
#[must_use = "a frame that is dropped loses its chunks: give it to a port or free it to a pool"]
pub struct Frame {
    data: NonNull<u8>,
    region: Option<NonNull<Region>>,
    /// Bytes in the first segment.
    head: u32,
    /// Bytes in all segments.
    total: u32,
    chunk: u32,
    next: u32,
}

const _: () = assert!(size_of::<Frame>() == 32);

// SAFETY: a frame owns its chunks alone; its region is Sync and outlives it (see Umem's Drop).
unsafe impl Send for Frame {}
// SAFETY: through a shared reference a frame's bytes can only be read.
unsafe impl Sync for Frame {}

impl Default for Frame {
    /// The frame that owns nothing: no region, no bytes.
    #[inline(always)]
    fn default() -> Self {
        Self {
            data: NonNull::dangling(),
            region: None,
            head: 0,
            total: 0,
            chunk: NO_CHUNK,
            next: NO_CHUNK,
        }
    }
}

impl Frame {
    /// Takes ownership of a chunk. The caller owned it alone; offset and length are clamped to the chunk.
    #[inline(always)]
    pub(crate) fn from_chunk(region: &Region, chunk: u32, offset: u32, len: u32) -> Self {
        let size = region.chunk_size();
        let offset = offset.min(size);
        let len = len.min(size - offset);
        let data = region.chunk_at(chunk, offset);
        Self {
            data,
            region: Some(NonNull::from(region)),
            head: len,
            total: len,
            chunk,
            next: NO_CHUNK,
        }
    }

    #[inline(always)]
    fn region_ref(&self) -> Option<&Region> {
        // SAFETY: the region outlives all its frames (it is unmapped only when every chunk is home).
        self.region.map(|region| unsafe { region.as_ref() })
    }

    /// The region that its chunks are of; none for an empty frame.
    #[inline(always)]
    #[must_use]
    pub fn region(&self) -> Option<RegionId> {
        self.region_ref().map(|region| region.id)
    }

    /// Number of the first chunk in its region.
    #[inline(always)]
    pub(crate) fn chunk(&self) -> u32 {
        self.chunk
    }

    #[inline(always)]
    pub(crate) fn next_chunk(&self) -> u32 {
        self.next
    }

    /// Offset of the first byte in the whole region: the address in an AF_XDP descriptor.
    #[inline(always)]
    pub(crate) fn address(&self) -> u64 {
        match self.region_ref() {
            Some(region) => (self.data.as_ptr() as u64) - (region.base.as_ptr() as u64),
            None => 0,
        }
    }

    /// Bytes of the whole packet, over all segments.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.total
    }

    /// Whether it holds no byte.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Whether all bytes lie in one chunk.
    #[inline(always)]
    #[must_use]
    pub fn is_linear(&self) -> bool {
        self.next == NO_CHUNK
    }

    /// The bytes of the first segment: all of them if the frame is linear, else at least the headers that
    /// fit a chunk.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: data..data+len lies in a chunk that this frame owns alone, in memory that is mapped as
        // long as the frame lives; for an empty frame the pointer is dangling and head is 0.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.head as usize) }
    }

    /// The bytes of the first segment, to change.
    #[inline(always)]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and &mut self makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.head as usize) }
    }

    /// Bytes free in front.
    #[inline(always)]
    #[must_use]
    pub fn headroom(&self) -> u32 {
        match self.region_ref() {
            // Not the address modulo the chunk size: a frame whose bytes were all pulled may point one past its
            // chunk's end, which is the next chunk's start.
            Some(region) => (self.address() - (u64::from(self.chunk) << region.shift)) as u32,
            None => 0,
        }
    }

    /// Extends the frame by `n` bytes to the front (their content is undefined, but initialised memory).
    /// False, and nothing changed, if the headroom is smaller.
    #[inline(always)]
    #[must_use]
    pub fn push_front(&mut self, n: u32) -> bool {
        if n > self.headroom() {
            return false;
        }
        // SAFETY: n ≤ headroom, so the pointer stays in the chunk.
        self.data = unsafe { self.data.sub(n as usize) };
        self.head += n;
        self.total += n;
        true
    }

    /// Removes `n` bytes at the front: an offset moves, no byte is copied. False, and nothing changed, if
    /// the first segment is shorter.
    #[inline(always)]
    #[must_use]
    pub fn advance(&mut self, n: u32) -> bool {
        if n > self.head {
            return false;
        }
        // SAFETY: n ≤ len, so the pointer stays in the chunk or one past its end.
        self.data = unsafe { self.data.add(n as usize) };
        self.head -= n;
        self.total -= n;
        true
    }

    /// Cuts a linear frame to `n` bytes (Ethernet padding behind an inner frame); longer asks change nothing.
    /// A chained frame keeps its bytes: its length is real, since padding never reaches a second chunk.
    #[inline]
    pub fn truncate(&mut self, n: u32) {
        if self.is_linear() && n < self.head {
            self.head = n;
            self.total = n;
        }
    }

    /// Appends bytes, in further chunks of `pool` where needed. False if chunks run out; the frame then holds
    /// part of them and is good only to be freed. `pool` must be of the frame's own region.
    #[must_use]
    pub fn append(&mut self, pool: &mut FramePool, bytes: &[u8]) -> bool {
        if self.region() != Some(pool.umem().id()) {
            return false;
        }
        let size = pool.umem().chunk_size();
        let mut rest = bytes;
        // The last segment's room first.
        let mut last = self.last_segment();
        loop {
            let (chunk, Segment { offset, len, .. }) = last;
            let take = rest.len().min((size - offset - len) as usize);
            let (now, later) = rest.split_at(take);
            let start = pool.umem().region().chunk_at(chunk, offset + len);
            // SAFETY: offset + len + take ≤ chunk size, and the frame owns the chunk alone.
            let target = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), take) };
            target.copy_from_slice(now);
            self.set_last_len(chunk, len + take as u32);
            self.total += take as u32;
            rest = later;
            if rest.is_empty() {
                return true;
            }
            let Some(chunk) = pool.take_chunk() else {
                return false;
            };
            self.link(chunk, HEADROOM, 0);
            last = self.last_segment();
        }
    }

    /// Adds a chunk that the caller owns, of the same region, as the last segment.
    pub(crate) fn link(&mut self, chunk: u32, offset: u32, len: u32) {
        let (last, segment) = self.last_segment();
        let Some(region) = self.region else { return };
        // SAFETY: the region outlives the frame.
        let region = unsafe { region.as_ref() };
        region.set_segment(
            chunk,
            Segment {
                offset,
                len,
                next: NO_CHUNK,
            },
        );
        if last == self.chunk {
            self.next = chunk;
        } else {
            region.set_segment(
                last,
                Segment {
                    next: chunk,
                    ..segment
                },
            );
        }
        self.total += len;
    }

    fn last_segment(&self) -> (u32, Segment) {
        let first = Segment {
            offset: self.headroom(),
            len: self.head,
            next: self.next,
        };
        let mut last = (self.chunk, first);
        if let Some(region) = self.region_ref() {
            while last.1.next != NO_CHUNK {
                last = (last.1.next, region.segment(last.1.next));
            }
        }
        last
    }

    fn set_last_len(&mut self, chunk: u32, len: u32) {
        if chunk == self.chunk {
            self.head = len;
        } else if let Some(region) = self.region_ref() {
            region.set_segment(
                chunk,
                Segment {
                    len,
                    ..region.segment(chunk)
                },
            );
        }
    }

    /// The bytes of each segment, in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.next;
        std::iter::once(self.bytes()).chain(std::iter::from_fn(move || {
            let region = self.region_ref()?;
            if next == NO_CHUNK {
                return None;
            }
            let Segment {
                offset,
                len,
                next: following,
            } = region.segment(next);
            let start = region.chunk_at(next, offset);
            // SAFETY: the link was made by `link`/`append` with offset + len inside the chunk, which this
            // frame owns alone.
            let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), len as usize) };
            next = following;
            Some(bytes)
        }))
    }

    /// Chunk, offset in the chunk and length of each segment after the first: what a ring sends.
    pub(crate) fn links(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let mut next = self.next;
        std::iter::from_fn(move || {
            let region = self.region_ref()?;
            if next == NO_CHUNK {
                return None;
            }
            let segment = region.segment(next);
            let chunk = std::mem::replace(&mut next, segment.next);
            Some((chunk, segment.offset, segment.len))
        })
    }

    /// Number of segments: 1 for a linear frame.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        1 + self.links().count()
    }

    /// Gives the chunks to the region's depot. For threads without a pool of that region.
    pub fn free_to_depot(self) {
        let Some(region) = self.region_ref() else { return };
        for (chunk, ..) in self.links() {
            region.depot.put_one(chunk);
        }
        region.depot.put_one(self.chunk);
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let region = self.region().map(RegionId::index);
        write!(
            f,
            "Frame({} bytes, chunk {} of region {region:?})",
            self.total, self.chunk
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HugePages, PoolSet, Umem, UmemGeometry};
    use proptest::prelude::*;

    fn setup(chunks: u32) -> (Umem, PoolSet) {
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks,
            huge_pages: HugePages::Off,
        };
        let umem = Umem::new(geometry).expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        (umem, pools)
    }

    #[test]
    fn an_empty_frame_owns_nothing_and_refuses_everything() {
        let mut frame = Frame::default();
        assert_eq!((frame.len(), frame.headroom(), frame.region()), (0, 0, None));
        assert!(!frame.push_front(1) && !frame.advance(1));
        assert_eq!(frame.bytes(), b"");
        frame.free_to_depot();
    }

    #[test]
    fn headers_are_pushed_and_pulled_in_place() {
        let (umem, mut pools) = setup(64);
        let mut frame = pools.frame_from(umem.id(), &[7; 60]).expect("chunk");
        assert_eq!(frame.headroom(), HEADROOM);
        assert!(frame.push_front(50));
        frame.bytes_mut()[..50].fill(9);
        assert_eq!((frame.len(), frame.headroom()), (110, HEADROOM - 50));
        assert!(!frame.push_front(HEADROOM - 49), "headroom is a hard limit");
        assert!(frame.advance(50));
        assert_eq!(frame.bytes(), [7; 60]);
        assert!(!frame.advance(61));
        frame.truncate(40);
        frame.truncate(4000);
        assert_eq!(frame.bytes(), [7; 40]);
        pools.free(frame);
        drop(pools);
        assert_eq!(umem.depot_chunks(), 64);
    }

    #[test]
    fn a_frame_pulled_to_the_end_of_its_chunk_stays_in_it() {
        let (umem, mut pools) = setup(64);
        let mut frame = pools.frame_from(umem.id(), &[7; 1792]).expect("chunk");
        let mut neighbour: Vec<Frame> = std::iter::from_fn(|| pools.alloc(umem.id())).collect();
        assert!(frame.advance(1792));
        assert_eq!((frame.len(), frame.headroom()), (0, 2048));
        assert!(frame.push_front(1792));
        assert_eq!((frame.bytes(), frame.headroom()), (&[7; 1792][..], 256));
        assert!(frame.advance(1792));
        pools.free(neighbour.pop().expect("63 of them"));
        assert!(frame.append(pools.get(umem.id()).expect("pool"), &[1, 2, 3]));
        assert_eq!(frame.segments().collect::<Vec<_>>(), [&[][..], &[1, 2, 3]]);
        neighbour
            .into_iter()
            .chain([frame])
            .for_each(|frame| pools.free(frame));
        drop(pools);
        assert_eq!(umem.depot_chunks(), 64);
    }

    proptest! {
        #[test]
        fn push_pull_and_append_are_a_byte_deque(ops in prop::collection::vec((0u8..3, 0usize..3000), 1..20)) {
            let (umem, mut pools) = setup(256);
            let mut frame = pools.alloc(umem.id()).expect("chunk");
            let mut model: std::collections::VecDeque<u8> = Default::default();
            let mut first = 0usize; // bytes in the first chunk
            let mut room = HEADROOM as usize;
            for (op, n) in ops {
                match op {
                    0 => {
                        let bytes: Vec<u8> = (0..n).map(|i| i as u8).collect();
                        let pool = pools.get(umem.id()).expect("pool");
                        if frame.is_linear() { first = (first + n).min(2048 - room); }
                        prop_assert!(frame.append(pool, &bytes));
                        model.extend(bytes);
                    }
                    1 => {
                        let ok = frame.advance(n as u32);
                        prop_assert_eq!(ok, n <= first);
                        if ok { first -= n; room += n; model.drain(..n); }
                    }
                    _ => {
                        let ok = frame.push_front(n as u32);
                        prop_assert_eq!(ok, n <= room);
                        if ok {
                            first += n; room -= n;
                            frame.bytes_mut()[..n].fill(3);
                            for _ in 0..n { model.push_front(3); }
                        }
                    }
                }
                prop_assert_eq!(frame.len() as usize, model.len());
                prop_assert_eq!(frame.segments().flatten().copied().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            }
            pools.free(frame);
            drop(pools);
            prop_assert_eq!(umem.depot_chunks(), 256);
        }
    }
}
