//! The owned handle of a packet's bytes.
//!
//! ```text
//!   chunk:  │ headroom │▒▒▒ bytes() ▒▒▒│ tailroom │   next segment: another chunk, linked in the region
//!                      ▲ data          ▲ data + len
//! ```
//!
//! A frame from a guest may be *held*: its headers are in a chunk, the rest is where the guest put it, and is copied
//! from there straight to where it goes. Such a frame lives no longer than the turn that received it, and nobody gets
//! a reference to the part outside: the guest can change it at any time.
//!
//! ```text
//!   chunk:  │offload│ headroom │▒▒ bytes() ▒▒│ … │ pieces: address, length │      the guest's memory: ▒▒▒▒▒▒ ▒▒▒▒
//! ```
//!
//! Guarantees: a frame is the only handle to its chunks, is not `Clone`, and always points inside one chunk;
//! no method panics, whatever the length asked for. An empty frame (`Frame::default()`) owns nothing. Left to
//! the caller: give it to a port or back to a pool; it has no `Drop`, since dropping packets one by one is
//! not what a fast path does.

use crate::pool::FramePool;
use crate::umem::{NO_CHUNK, Region, Segment};
use crate::{HEADROOM, Offload, Offloads, RegionId};
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

/// `next` from here on, but for [`NO_CHUNK`], says that the rest is held.
const HELD: u32 = 0xffff_ff00;

/// Most pieces of a held frame: as many as fit a small chunk behind headroom and [`HELD_HEAD`], and a byte counts.
pub(crate) const MAX_PIECES: usize = 80;

/// Most bytes of a held frame that are in its chunk: all headers.
pub(crate) const HELD_HEAD: u32 = 256;

/// A part of a frame that is in a guest's memory. It was checked to be in a mapping that outlives the turn.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Piece {
    pub(crate) data: *const u8,
    pub(crate) len: u32,
}

const _: () = assert!(size_of::<Piece>() == 16);
const _: () = assert!((HEADROOM + HELD_HEAD) as usize + MAX_PIECES * size_of::<Piece>() <= 2048);

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

    /// Whether a part of it is in a guest's memory.
    #[inline(always)]
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.next >= HELD && self.next != NO_CHUNK
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

    /// To more bytes than are in its chunk, and fewer than it has.
    #[cold]
    fn truncate_held(&mut self, n: u32) {
        let mut left = n - u32::from(self.head);
        let mut kept = arrayvec::ArrayVec::<Piece, MAX_PIECES>::new();
        for piece in self.pieces() {
            let len = piece.len.min(left);
            kept.push(Piece { len, ..*piece });
            left -= len;
            if left == 0 {
                break;
            }
        }
        self.put_pieces(&kept);
        self.total = n;
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

    /// Has the frame go on in a guest's memory. The frame is linear, has at most [`HELD_HEAD`] bytes from [`HEADROOM`]
    /// on, and there are 1 to [`MAX_PIECES`] pieces, each of which can be read until the frame is gone.
    pub(crate) fn hold(&mut self, pieces: &[Piece]) {
        debug_assert!(
            self.is_linear() && self.headroom() == HEADROOM && self.bytes().len() <= HELD_HEAD as usize
        );
        let pieces = &pieces[..pieces.len().min(MAX_PIECES)];
        self.put_pieces(pieces);
        self.total += pieces.iter().map(|piece| piece.len).sum::<u32>();
    }

    /// Writes what is held: at most [`MAX_PIECES`] pieces, at the end of the chunk.
    fn put_pieces(&mut self, pieces: &[Piece]) {
        let Some(region) = self.region_ref() else { return };
        let n = pieces.len();
        let at = region.chunk_at(self.chunk, region.chunk_size() - size_of_val(pieces) as u32);
        // SAFETY: n pieces end at the chunk's end and begin behind the frame's bytes (see the assertion on MAX_PIECES),
        // aligned since a chunk's end is; the chunk is ours alone.
        unsafe { std::ptr::copy_nonoverlapping(pieces.as_ptr(), at.cast::<Piece>().as_ptr(), n) };
        if n > 0 {
            self.next = HELD + n as u32 - 1;
        }
    }

    /// Has the frame go on in memory that nobody gives back: how tests of other crates make a held frame. False, and
    /// nothing changed, unless the frame is linear, at most 256 bytes long and has its headroom, and there are 1 to 80
    /// parts.
    #[doc(hidden)]
    #[must_use]
    pub fn hold_static(&mut self, parts: &[&'static [u8]]) -> bool {
        let fresh =
            self.is_linear() && self.headroom() == HEADROOM && self.bytes().len() <= HELD_HEAD as usize;
        if !fresh || self.region.is_none() || !(1..=MAX_PIECES).contains(&parts.len()) {
            return false;
        }
        let pieces: arrayvec::ArrayVec<Piece, MAX_PIECES> = parts
            .iter()
            .map(|part| Piece {
                data: part.as_ptr(),
                len: part.len() as u32,
            })
            .collect();
        self.hold(&pieces);
        true
    }

    /// The parts in a guest's memory.
    #[inline]
    pub(crate) fn pieces(&self) -> &[Piece] {
        match self.region_ref() {
            Some(region) if self.is_held() => {
                let n = (self.next - HELD + 1) as usize;
                let at = region.chunk_at(self.chunk, region.chunk_size() - (n * size_of::<Piece>()) as u32);
                // SAFETY: `hold` wrote n pieces there, in the chunk that this frame owns alone; nothing else is written
                // behind a held frame's bytes.
                unsafe { std::slice::from_raw_parts(at.cast::<Piece>().as_ptr(), n) }
            }
            _ => &[],
        }
    }

    /// Reads the frame from its first byte, wherever its parts are.
    #[must_use]
    pub fn reader(&self) -> FrameReader<'_> {
        FrameReader {
            frame: self,
            now: Piece {
                data: self.data.as_ptr(),
                len: self.head.into(),
            },
            piece: 0,
            next: self.next_chunk(),
        }
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

/// Reads a frame from front to end, every byte once. What is held is copied as it is at that moment.
pub struct FrameReader<'f> {
    frame: &'f Frame,
    /// What is left of the part that is being read.
    now: Piece,
    /// The next part that is held.
    piece: usize,
    /// The next part that is in a chunk.
    next: u32,
}

impl FrameReader<'_> {
    /// The next bytes, as many as `to` takes; gives their number, which is less only at the frame's end.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let n = (self.now.len as usize).min(to.len() - done);
            // SAFETY: `now` is what is left of a part of the frame: of a chunk that the frame owns, or of a held piece,
            // which can be read as long as the frame lives. A guest may change that meanwhile: bytes are bytes.
            unsafe { std::ptr::copy_nonoverlapping(self.now.data, to[done..].as_mut_ptr(), n) };
            self.advance(n as u32);
            done += n;
            if self.now.len == 0 && !self.go_on() {
                break;
            }
        }
        done
    }

    /// Passes over bytes; gives their number, which is less only at the frame's end.
    pub fn skip(&mut self, bytes: usize) -> usize {
        let mut done = 0;
        while done < bytes {
            let n = (self.now.len as usize).min(bytes - done);
            self.advance(n as u32);
            done += n;
            if self.now.len == 0 && !self.go_on() {
                break;
            }
        }
        done
    }

    fn advance(&mut self, n: u32) {
        self.now.len -= n;
        // SAFETY: n bytes of the part were left.
        self.now.data = unsafe { self.now.data.add(n as usize) };
    }

    /// Takes the next part; false at the end.
    fn go_on(&mut self) -> bool {
        if let Some(piece) = self.frame.pieces().get(self.piece) {
            self.now = *piece;
            self.piece += 1;
            return true;
        }
        let (Some(region), true) = (self.frame.region_ref(), self.next != NO_CHUNK) else {
            return false;
        };
        let Segment { offset, len, next } = region.segment(self.next);
        self.now = Piece {
            data: region.chunk_at(self.next, offset).as_ptr(),
            len,
        };
        self.next = next;
        true
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
    fn a_held_frame_is_cut_wherever_that_is() {
        const REST: [&[u8]; 4] = [&[1; 100], &[], &[2; 50], &[3; 7]];
        let whole = [&[7; 90][..], &[1; 100], &[2; 50], &[3; 7]].concat();
        let (umem, mut pools) = setup(64);
        for n in 0..=300 {
            let mut frame = pools.frame_from(umem.id(), &[7; 100]).expect("chunk");
            assert!(frame.hold_static(&REST));
            // As decapsulation does it.
            assert!(frame.advance(10));
            frame.truncate(n);
            let expected = &whole[..whole.len().min(n as usize)];
            assert_eq!((frame.len() as usize, frame.is_held()), (expected.len(), n > 90));
            let mut bytes = vec![0; 300];
            let read = frame.reader().read(&mut bytes);
            assert_eq!(&bytes[..read], expected);
            // Once more, and what was given up is not there any more.
            frame.truncate(n / 2);
            assert_eq!(
                frame.reader().read(&mut bytes),
                expected.len().min(n as usize / 2)
            );
            pools.free(frame);
        }
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
