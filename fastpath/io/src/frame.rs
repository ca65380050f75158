//! The owned handle of a packet's bytes.
//!
//! ```text
//!   chunk:  │ headroom │▒▒▒ bytes() ▒▒▒│ tailroom │   next segment: another chunk, linked in the region
//!                      ▲ data          ▲ data + len
//! ```
//!
//! A frame from a guest may be *held*: its headers are in a chunk, the rest is where the guest put it, and is copied
//! from there straight to where it goes. Such a frame lives no longer than the turn that received it, and nobody gets
//! a reference to the part outside: the guest can change it at any time (`frame/held.rs`).
//!
//! Guarantees: a frame is the only handle to its chunks, is not `Clone`, and always points inside one chunk;
//! no method panics, whatever the length asked for. An empty frame (`Frame::default()`) owns nothing. Left to
//! the caller: give it to a port or back to a pool; it has no `Drop`, since dropping packets one by one is
//! not what a fast path does.

mod held;
mod reader;

pub(crate) use held::{HELD_HEAD, MAX_PIECES, Piece};
pub use reader::FrameReader;

use crate::pool::FramePool;
use crate::umem::{NO_CHUNK, Region, Segment};
use crate::{HEADROOM, Offload, Offloads, RegionId};
use held::HELD;
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
    head: u16,
    /// What the sender left undone; if anything, [`Undone`] says the rest at the start of the chunk.
    needs: Offloads,
    /// Bytes in all segments.
    total: u32,
    chunk: u32,
    /// The next segment's chunk, [`NO_CHUNK`], or [`HELD`] plus the number of pieces outside.
    next: u32,
}

/// What [`Offload`] says, with the start counted from the chunk's: so it stays where it is when headers are pushed and
/// pulled.
#[derive(Clone, Copy)]
#[repr(C)]
struct Undone {
    start: u16,
    field: u16,
    gso_size: u16,
}

/// Bytes at the start of a chunk that are kept for [`Undone`] when there is any.
const UNDONE: u32 = 16;

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
            needs: Offloads::empty(),
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
            head: len as u16,
            needs: Offloads::empty(),
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
        if self.next >= HELD { NO_CHUNK } else { self.next }
    }

    /// Whether it needs no chunk beyond its first: it is linear, or the rest is held.
    #[inline(always)]
    pub(crate) fn next_is_plain(&self) -> bool {
        self.next >= HELD
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
        let kept = if self.needs.is_empty() { 0 } else { UNDONE };
        if n.saturating_add(kept) > self.headroom() {
            return false;
        }
        // SAFETY: n ≤ headroom, so the pointer stays in the chunk.
        self.data = unsafe { self.data.sub(n as usize) };
        self.head += n as u16;
        self.total += n;
        true
    }

    /// Removes `n` bytes at the front: an offset moves, no byte is copied. False, and nothing changed, if
    /// the first segment is shorter.
    #[inline(always)]
    #[must_use]
    pub fn advance(&mut self, n: u32) -> bool {
        if n > u32::from(self.head) {
            return false;
        }
        // SAFETY: n ≤ len, so the pointer stays in the chunk or one past its end.
        self.data = unsafe { self.data.add(n as usize) };
        self.head -= n as u16;
        self.total -= n;
        true
    }

    /// Cuts a frame to `n` bytes (what Ethernet or somebody else put behind an inner frame); longer asks change nothing.
    /// A chained frame keeps its bytes: its length is real, since padding never reaches a second chunk.
    #[inline]
    pub fn truncate(&mut self, n: u32) {
        if n >= self.total {
            return;
        }
        if n <= u32::from(self.head) && self.next_is_plain() {
            self.head = n as u16;
            self.total = n;
            self.next = NO_CHUNK;
        } else if self.is_held() {
            self.truncate_held(n);
        }
    }

    /// The kinds of work that its sender left undone.
    #[inline(always)]
    #[must_use]
    pub fn needs(&self) -> Offloads {
        self.needs
    }

    /// What its sender left undone, if anything; what lies in front of the frame by now does not count.
    #[must_use]
    pub fn offload(&self) -> Option<Offload> {
        if self.needs.is_empty() {
            return None;
        }
        let region = self.region_ref()?;
        let at = region.chunk_at(self.chunk, 0).cast::<Undone>();
        // SAFETY: `set_offload` wrote it, and `push_front` stays behind it while `needs` says so; chunks are aligned.
        let undone = unsafe { at.read() };
        Some(Offload {
            needs: self.needs,
            start: undone.start.checked_sub(self.headroom() as u16)?,
            field: undone.field,
            gso_size: undone.gso_size,
        })
    }

    /// Says what is left undone. False, and nothing changed, if the checksum field is not in the first segment or the
    /// frame's first byte is at the very start of its chunk.
    #[must_use]
    pub fn set_offload(&mut self, offload: Offload) -> bool {
        let Some(region) = self.region_ref() else {
            return false;
        };
        let end = u32::from(offload.start) + u32::from(offload.field) + 2;
        if self.headroom() < UNDONE || end > u32::from(self.head) {
            return false;
        }
        let undone = Undone {
            start: offload.start + self.headroom() as u16,
            field: offload.field,
            gso_size: offload.gso_size,
        };
        let at = region.chunk_at(self.chunk, 0).cast::<Undone>();
        // SAFETY: the chunk is ours alone, aligned, and its first bytes are headroom.
        unsafe { at.write(undone) };
        self.needs = offload.needs;
        true
    }

    /// Says that nothing is left undone.
    #[inline(always)]
    pub fn clear_offload(&mut self) {
        self.needs = Offloads::empty();
    }

    /// Appends bytes, in further chunks of `pool` where needed. False if chunks run out; the frame then holds
    /// part of them and is good only to be freed. `pool` must be of the frame's own region.
    #[must_use]
    pub fn append(&mut self, pool: &mut FramePool, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.append_with(pool, bytes.len(), |target| {
            let (now, later) = rest.split_at(target.len());
            target.copy_from_slice(now);
            rest = later;
        })
    }

    /// [`Frame::append`] for `len` bytes that `fill` writes, piece by piece.
    #[must_use]
    pub fn append_with(&mut self, pool: &mut FramePool, len: usize, mut fill: impl FnMut(&mut [u8])) -> bool {
        if self.region() != Some(pool.umem().id()) || self.is_held() {
            return false;
        }
        let size = pool.umem().chunk_size();
        let mut rest = len;
        // The last segment's room first.
        let mut last = self.last_segment();
        loop {
            let (chunk, Segment { offset, len, .. }) = last;
            let take = rest.min((size - offset - len) as usize);
            let start = pool.umem().region().chunk_at(chunk, offset + len);
            // SAFETY: offset + len + take ≤ chunk size, and the frame owns the chunk alone.
            let target = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), take) };
            fill(target);
            self.set_last_len(chunk, len + take as u32);
            self.total += take as u32;
            rest -= take;
            if rest == 0 {
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
            len: self.head.into(),
            next: self.next_chunk(),
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
            self.head = len as u16;
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

    /// The bytes of each segment, in order; not what is held ([`Frame::reader`] reads that too).
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let mut next = self.next_chunk();
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
        let mut next = self.next_chunk();
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
mod tests;
