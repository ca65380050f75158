//! What a guest transmits: from its queue into frames.
//!
//! ```text
//!   buffer: │ header 12 │ frame ………………………… │      short: all of it is copied into a chunk
//!                       │◄─ 256 ─►│◄─ held ─►│      long: the headers are; the rest stays until the turn's end
//! ```

use super::copy::copy;
use super::map::GuestMap;
use super::ring::{Direction, INDIRECT, NEXT, Slot, Slots, Used, Violation, Vring, WRITE};
use crate::frame::{HELD_HEAD, MAX_PIECES, Piece};
use crate::prefetch::prefetch_address;
use crate::vnet::{self, VnetHeader};
use crate::{BATCH, Frame, FrameBatch, FramePool, HEADROOM};
use arrayvec::ArrayVec;

/// Longest frame: a GSO packet of 64 KiB with its Ethernet header and two tags.
pub(super) const MAX_FRAME: u32 = 65_535 + 14 + 8;

/// A queue that gave so many frames last time is busy: then it is worth waiting for more.
const BUSY: usize = 16;

/// Bytes that a port gives in one turn of a worker, more or less: of small and full-size frames a whole batch, of packets of 64 KiB a
/// few, so that the other ports of the worker need not wait for megabytes to be copied.
const BUDGET: u32 = 256 << 10;

/// Frames that a queue gives in any case, if it has them: smaller batches cost more a frame.
const LEAST: usize = 32;

/// Of frames of more than two lines, the others are loaded so many frames before their turn: those of a whole batch
/// would push each other out of the first-level cache.
const AHEAD: usize = 4;

/// How often a busy queue is asked again before its frames are taken.
const PATIENCE: usize = 64;

/// What receiving from a guest needs beside the ring.
pub(super) struct Transmit {
    pub(super) map: GuestMap,
    pub(super) slots: Box<Slots>,
    /// Where each buffer is here, if it is a plain one: one descriptor, in one region, for the device to read.
    places: Box<[*const u8; BATCH]>,
    pub(super) pieces: Vec<Piece>,
    /// Buffers taken that go back when their frames are gone.
    pub(super) taken: ArrayVec<Used, BATCH>,
    /// Bytes of the header before each frame.
    pub(super) header: u32,
    /// Frames and bytes that it gives in one turn: all that its port does, or its share of that.
    most: usize,
    budget: u32,
    /// Frames of the last batch.
    last: usize,
    /// Frames that were no frames.
    pub(super) invalid: u64,
}

// SAFETY: the places lead to memory that `map` keeps mapped, on whatever thread.
unsafe impl Send for Transmit {}

/// What became of a buffer.
enum Taken {
    Frame,
    Invalid,
    NoChunk,
}

impl Transmit {
    pub(super) fn new(map: GuestMap, header: u32, ring_size: u16) -> Self {
        Self {
            map,
            slots: Box::new([Slot::default(); BATCH]),
            places: Box::new([std::ptr::null(); BATCH]),
            pieces: Vec::with_capacity(usize::from(ring_size) + super::memory::MAX_REGIONS),
            taken: ArrayVec::new(),
            header,
            most: BATCH,
            budget: BUDGET,
            last: 0,
            invalid: 0,
        }
    }

    /// Gives as many queues as there are each the same part of what their port may give. Each gives
    /// [`LEAST`] frames, or one of any length, all the same: more than four queues go beyond.
    pub(super) fn share_turn(&mut self, queues: usize) {
        let queues = queues.clamp(1, BATCH);
        self.most = (BATCH / queues).max(LEAST);
        self.budget = BUDGET / queues as u32;
    }

    /// Takes what is available into `batch`. On a violation, what came before it is there all the same.
    #[inline(always)]
    pub(super) fn receive<R: Vring>(
        &mut self,
        ring: &mut R,
        pool: &mut FramePool,
        batch: &mut FrameBatch,
    ) -> Result<usize, Violation> {
        let room = (BATCH - batch.len()).min(BATCH - self.taken.len()).min(self.most);
        if self.last >= BUSY {
            self.gather(ring, room);
        }
        let n = ring.fetch(room, &mut self.slots)?;
        if n == 0 {
            self.last = 0;
            return Ok(0);
        }
        self.look_ahead(n);
        let before = batch.len();
        let mut result = Ok(());
        let mut done = 0;
        let mut bytes = 0u32;
        while done < n && bytes < self.budget {
            self.prefetch_rest(done + AHEAD);
            let slot = self.slots[done];
            // What most of them are; made where it stays: moving a frame that was just written would wait for the writes.
            let taken = match self.plain(self.places[done], slot.len, pool) {
                Some(frame) => {
                    bytes += frame.len();
                    batch.push(frame);
                    Ok(Taken::Frame)
                }
                None => {
                    let taken = self.other(ring, done, pool, batch);
                    // Also what is no frame, and parts that are empty, take their time.
                    bytes += self
                        .pieces
                        .iter()
                        .map(|piece| piece.len.max(64))
                        .fold(0, u32::saturating_add)
                        .min(BUDGET);
                    taken
                }
            };
            match taken {
                Ok(Taken::Frame) => {}
                Ok(Taken::Invalid) => self.invalid += 1,
                Ok(Taken::NoChunk) => break,
                Err(violation) => {
                    result = Err(violation);
                    break;
                }
            }
            self.taken.push(Used::new(&slot, 0));
            done += 1;
        }
        ring.take(&self.slots[..done]);
        self.last = batch.len() - before;
        result.map(|()| self.last)
    }

    /// A guest that is busy is about to have more: larger batches cost less a frame. One that is not is not waited for.
    #[inline(always)]
    fn gather<R: Vring>(&self, ring: &mut R, room: usize) {
        for _ in 0..PATIENCE {
            if ring.available(room) >= room {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Finds the plain buffers, and starts loading what will be read of them first.
    #[inline(always)]
    fn look_ahead(&mut self, n: usize) {
        for (slot, place) in self.slots[..n].iter().zip(self.places.iter_mut()) {
            *place = std::ptr::null();
            if slot.flags & (NEXT | INDIRECT | WRITE) == 0
                && let Some(at) = self.map.at(slot.address, slot.len)
            {
                prefetch_address(at);
                prefetch_address(at.wrapping_add(64));
                *place = at;
            }
        }
    }

    /// Starts loading what else will be copied of a frame a few further on.
    #[inline(always)]
    fn prefetch_rest(&self, index: usize) {
        if let (Some(slot), Some(at)) = (self.slots.get(index), self.places.get(index))
            && slot.len > 128
        {
            prefetch_address(at.wrapping_add(128));
            prefetch_address(at.wrapping_add(192));
            prefetch_address(at.wrapping_add(256));
        }
    }

    /// A frame with nothing left undone, short enough to be copied whole, in a buffer in one piece.
    #[inline(always)]
    fn plain(&self, at: *const u8, len: u32, pool: &mut FramePool) -> Option<Frame> {
        let frame_len = len.wrapping_sub(self.header);
        if at.is_null() || frame_len.wrapping_sub(1) >= MAX_FRAME {
            return None;
        }
        // SAFETY: at least `header` bytes are there, which is 10 or more.
        if unsafe { at.cast::<u16>().read_unaligned() } != 0 {
            return None;
        }
        let chunk = pool.take_chunk()?;
        let head = frame_len.min(HELD_HEAD);
        let region = pool.umem().region();
        let to = region.chunk_at(chunk, HEADROOM).as_ptr();
        // SAFETY: the frame begins behind the header, inside the buffer.
        let from = unsafe { at.add(self.header as usize) };
        // SAFETY: head <= frame_len bytes are there (`GuestMap::at` checked them), and a chunk of our own has room.
        unsafe { copy(from, to, head as usize) };
        let mut frame = Frame::from_chunk(region, chunk, HEADROOM, head);
        if frame_len > head {
            frame.hold(&[Piece {
                // SAFETY: head < frame_len: inside the buffer.
                data: unsafe { from.add(head as usize) },
                len: frame_len - head,
            }]);
        }
        Some(frame)
    }

    /// Any other buffer.
    #[inline(never)]
    fn other<R: Vring>(
        &mut self,
        ring: &R,
        index: usize,
        pool: &mut FramePool,
        batch: &mut FrameBatch,
    ) -> Result<Taken, Violation> {
        self.pieces.clear();
        let slot = self.slots[index];
        ring.walk(&slot, &mut self.map, Direction::Transmit, &mut self.pieces)?;
        Ok(self.pieced(pool, batch))
    }

    /// A frame of a buffer in `pieces`.
    fn pieced(&mut self, pool: &mut FramePool, batch: &mut FrameBatch) -> Taken {
        let Self { pieces, .. } = self;
        let total: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
        let header_len = self.header;
        let frame_len = match u32::try_from(total) {
            Ok(total) if total > header_len && total - header_len <= MAX_FRAME => total - header_len,
            _ => return Taken::Invalid,
        };
        let mut header: VnetHeader = [0; 12];
        let mut source = Source { pieces, at: 0 };
        source.read(&mut header[..header_len as usize]);
        let Some(mut frame) = pool.alloc() else {
            return Taken::NoChunk;
        };
        let head = frame_len.min(HELD_HEAD) as usize;
        // One segment, in which there is room: it can't fail.
        let mut whole = frame.append_with(pool, head, |target| source.read(target));
        let held = source.rest();
        if held.len() <= MAX_PIECES {
            frame.hold(held);
        } else {
            whole &= frame.append_with(pool, frame_len as usize - head, |target| source.read(target));
        }
        if !whole {
            pool.free(frame);
            return Taken::NoChunk;
        }
        if set_undone(&mut frame, &header) {
            batch.push(frame);
            return Taken::Frame;
        }
        pool.free(frame);
        Taken::Invalid
    }
}

/// Whether the header makes sense for the frame, whose bytes are ours by now.
fn set_undone(frame: &mut Frame, header: &VnetHeader) -> bool {
    match vnet::decode(header, frame.bytes()) {
        Ok(None) => true,
        Ok(Some(offload)) => frame.set_offload(offload),
        Err(vnet::Malformed) => false,
    }
}

/// Reads pieces from front to back.
struct Source<'p> {
    pieces: &'p mut Vec<Piece>,
    at: usize,
}

impl Source<'_> {
    /// As many bytes as `to` takes; the caller knows that they are there.
    fn read(&mut self, to: &mut [u8]) {
        let mut done = 0;
        while done < to.len() {
            let Some(piece) = self.pieces.get_mut(self.at) else {
                return;
            };
            let n = (piece.len as usize).min(to.len() - done);
            let target = to[done..].as_mut_ptr();
            // SAFETY: n bytes are left of the piece, which was checked to be in the guest's memory, and of the target.
            unsafe { copy(piece.data, target, n) };
            // SAFETY: as above.
            piece.data = unsafe { piece.data.add(n) };
            piece.len -= n as u32;
            done += n;
            self.at += usize::from(piece.len == 0);
        }
    }

    /// What was not read yet.
    fn rest(&self) -> &[Piece] {
        self.pieces.get(self.at..).unwrap_or_default()
    }
}
