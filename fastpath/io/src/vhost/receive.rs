//! What a guest receives: from frames into the buffers that it made available.
//!
//! A line of the guest's memory that we write is one that its core must fetch again: so the header is written only
//! where it differs from what is there, which it hardly ever does, and used entries likewise.

use super::copy::copy;
use super::map::GuestMap;
use super::ring::{Direction, INDIRECT, NEXT, Slot, Slots, Used, Violation, Vring, WRITE};
use crate::frame::Piece;
use crate::prefetch::{prefetch_address, prefetch_address_write};
use crate::vnet::{self, VnetHeader};
use crate::{BATCH, DirtyLog, Frame, TxCounts};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// What sending to a guest needs beside the ring.
pub(super) struct Receive {
    pub(super) map: GuestMap,
    slots: Box<Slots>,
    /// Where each buffer is here, if it is a plain one: one descriptor, in one region, for the device to write.
    places: Box<[*mut u8; BATCH]>,
    pieces: Vec<Piece>,
    used: ArrayVec<Used, BATCH>,
    /// Bytes of the header before each frame.
    header: u32,
    /// Descriptors that were looked at in this call.
    effort: usize,
    /// Frames may take several buffers (VIRTIO_NET_F_MRG_RXBUF).
    mergeable: bool,
    /// While the guest migrates: then every frame takes the way of those that are not plain.
    pub(super) log: Option<Arc<DirtyLog>>,
}

// SAFETY: the places lead to memory that `map` keeps mapped, on whatever thread.
unsafe impl Send for Receive {}

/// Most descriptors that are looked at for one list of frames, more or less: a batch of packets of 64 KiB takes some 6,000.
/// A guest whose buffers have many small or empty parts must not stop the worker; the rest finds no room.
const EFFORT: usize = 16 << 10;

/// Long frames are loaded, and their buffers asked for, so many frames before their turn.
const AHEAD: usize = 2;

/// Starts loading what a frame has beyond its first line, and the lines that it will be written to.
#[inline(always)]
fn prefetch_rest(frame: &Frame, to: *mut u8, header: u32) {
    // Beyond that the processor's own prefetching has long begun.
    let end = (header + frame.len()).min(2048) as usize;
    if end <= 128 || to.is_null() {
        return;
    }
    // Every other line: the processor fetches the one beside it (measured better than all and than none).
    for piece in frame.pieces() {
        for at in (0..piece.len.min(2048) as usize).step_by(128) {
            prefetch_address(piece.data.wrapping_add(at));
        }
    }
    for at in (128..end).step_by(64) {
        prefetch_address_write(to.wrapping_add(at));
    }
}

/// What became of a frame.
enum Sent {
    /// It took so many buffers.
    Into(usize),
    /// There are not enough buffers for it now.
    NoRoom,
    /// It will never fit.
    Never,
}

impl Receive {
    pub(super) fn new(map: GuestMap, header: u32, mergeable: bool, ring_size: u16) -> Self {
        Self {
            map,
            slots: Box::new([Slot::default(); BATCH]),
            places: Box::new([std::ptr::null_mut(); BATCH]),
            pieces: Vec::with_capacity(usize::from(ring_size) + super::memory::MAX_REGIONS),
            used: ArrayVec::new(),
            header,
            effort: 0,
            mergeable,
            log: None,
        }
    }

    /// Sends from the front of `frames`. Gives what was sent and the number of frames that are done with: those, and
    /// those that can't be sent at all.
    #[inline(always)]
    pub(super) fn send<R: Vring>(
        &mut self,
        ring: &mut R,
        frames: &[Frame],
    ) -> (TxCounts, usize, Result<(), Violation>) {
        let mut counts = TxCounts::default();
        let mut done = 0;
        let mut want = frames.len().min(BATCH);
        self.effort = 0;
        while done < frames.len() && self.effort < EFFORT {
            let n = match ring.fetch(want, &mut self.slots) {
                Ok(n) => n,
                Err(violation) => return (counts, done, Err(violation)),
            };
            self.effort += self.slots[..n]
                .iter()
                .map(|slot| usize::from(slot.descriptors))
                .sum::<usize>();
            self.look_ahead(n, &frames[done..]);
            let before = done;
            let (frames_done, taken, violation) = self.fill(ring, &frames[done..], n, &mut counts);
            done += frames_done;
            ring.take(&self.slots[..taken]);
            ring.complete(&self.used);
            self.used.clear();
            if let Some(violation) = violation {
                return (counts, done, Err(violation));
            }
            if done > before {
                want = (frames.len() - done).min(BATCH);
            } else if want < BATCH {
                // A frame that needs more buffers than one.
                want = BATCH;
            } else {
                break;
            }
        }
        (counts, done, Ok(()))
    }

    /// Finds the plain buffers, and starts loading what will be written of them.
    #[inline(always)]
    fn look_ahead(&mut self, n: usize, frames: &[Frame]) {
        for (i, slot) in self.slots[..n].iter().enumerate() {
            self.places[i] = std::ptr::null_mut();
            let Some(frame) = frames.get(i) else {
                continue;
            };
            if slot.flags & (NEXT | INDIRECT | WRITE) == WRITE
                && self.log.is_none()
                && let Some(at) = self.map.at(slot.address, slot.len)
            {
                // The header is only read, as a rule.
                prefetch_address(at);
                if self.header + frame.len() > 64 {
                    prefetch_address_write(at.wrapping_add(64));
                }
                self.places[i] = at;
            }
        }
    }

    /// Puts frames into the first `n` buffers that were fetched. Gives frames done, buffers taken and what was wrong.
    #[inline(always)]
    fn fill<R: Vring>(
        &mut self,
        ring: &R,
        frames: &[Frame],
        n: usize,
        counts: &mut TxCounts,
    ) -> (usize, usize, Option<Violation>) {
        let mut buffer = 0;
        for (i, frame) in frames.iter().enumerate() {
            if buffer >= n || self.effort >= EFFORT {
                return (i, buffer, None);
            }
            let slot = self.slots[buffer];
            let place = self.places[buffer];
            if let (Some(later), Some(to)) = (frames.get(i + AHEAD), self.places.get(buffer + AHEAD)) {
                prefetch_rest(later, *to, self.header);
            }
            let whole = self.header + frame.len();
            if !place.is_null() && whole <= slot.len && frame.needs().is_empty() && frame.next_is_plain() {
                self.plain(place, frame);
                self.used.push(Used::new(&slot, whole));
                buffer += 1;
            } else {
                let used = self.used.len();
                match self.pieces(ring, frame, buffer, n) {
                    Ok(Sent::Into(buffers)) => buffer += buffers,
                    Ok(Sent::NoRoom) => return (i, buffer, None),
                    Ok(Sent::Never) => {
                        counts.unsendable += 1;
                        continue;
                    }
                    Err(violation) => {
                        // Nothing was written into the buffers before the bad one.
                        self.used.truncate(used);
                        return (i, buffer, Some(violation));
                    }
                }
            }
            counts.packets += 1;
            counts.bytes += u64::from(frame.len());
        }
        (frames.len(), buffer, None)
    }

    /// A frame with nothing left undone into a buffer in one piece with room for it.
    #[inline(always)]
    fn plain(&self, at: *mut u8, frame: &Frame) {
        // SAFETY: `GuestMap::at` checked the buffer, which is at least a header and the frame long.
        unsafe { write_plain_header(at, self.header) };
        let head = frame.bytes();
        // SAFETY: as above.
        let mut to = unsafe { at.add(self.header as usize) };
        // SAFETY: as above.
        unsafe { copy(head.as_ptr(), to, head.len()) };
        if frame.is_held() {
            // SAFETY: as above.
            to = unsafe { to.add(head.len()) };
            for piece in frame.pieces() {
                // SAFETY: the pieces were checked when the frame was received, and add up to the frame's length.
                unsafe { copy(piece.data, to, piece.len as usize) };
                // SAFETY: as above.
                to = unsafe { to.add(piece.len as usize) };
            }
        }
    }

    /// Any frame into whatever buffers there are from the one with this index on.
    #[cold]
    fn pieces<R: Vring>(
        &mut self,
        ring: &R,
        frame: &Frame,
        first: usize,
        n: usize,
    ) -> Result<Sent, Violation> {
        let whole = self.header + frame.len();
        self.pieces.clear();
        // Room that each buffer has, of what the frame needs.
        let mut room = 0u32;
        let mut buffers = 0;
        let start = self.used.len();
        while room < whole {
            if buffers == BATCH || (buffers == 1 && !self.mergeable) {
                self.used.truncate(start);
                return Ok(Sent::Never);
            }
            let Some(slot) = self.slots[..n].get(first + buffers) else {
                self.used.truncate(start);
                // Fewer than were asked for are there: more may come. If all of a full look do not do, none ever will.
                return Ok(if first == 0 && n == BATCH {
                    Sent::Never
                } else {
                    Sent::NoRoom
                });
            };
            let before = self.pieces.len();
            match ring.walk(slot, &mut self.map, Direction::Receive, &mut self.pieces) {
                // Each buffer is fine, but together they are in more parts than we look at.
                Err(Violation::ChainTooLong { .. }) if before > 0 => {
                    self.used.truncate(start);
                    return Ok(Sent::Never);
                }
                result => result?,
            }
            self.effort += self.pieces.len() - before;
            let size: u64 = self.pieces[before..]
                .iter()
                .map(|piece| u64::from(piece.len))
                .sum();
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            if size < self.header || size == 0 {
                return Err(Violation::ReceiveTooSmall { len: size });
            }
            let used = size.min(whole - room);
            self.used.push(Used::new(slot, used));
            room += used;
            buffers += 1;
        }
        let mut header = vnet::encode(frame.offload(), frame.bytes());
        header[10..].copy_from_slice(&(buffers as u16).to_le_bytes());
        self.write(&header, frame);
        if self.log.is_some() {
            self.mark(whole);
        }
        Ok(Sent::Into(buffers))
    }

    /// Marks the first bytes of `pieces` as written.
    #[cold]
    fn mark(&self, mut bytes: u32) {
        let Some(log) = &self.log else { return };
        for piece in &self.pieces {
            let n = piece.len.min(bytes);
            // `walk` found the place in the guest's memory.
            if let Some(address) = self.map.guest_address(piece.data) {
                log.mark(address, n.into());
            }
            bytes -= n;
        }
    }

    /// Header and frame into `pieces`, which have room for them.
    fn write(&self, header: &VnetHeader, frame: &Frame) {
        let mut target = Target {
            pieces: &self.pieces,
            at: 0,
            offset: 0,
        };
        target.write(header.as_ptr(), self.header as usize);
        for part in frame.segments() {
            target.write(part.as_ptr(), part.len());
        }
        for piece in frame.pieces() {
            target.write(piece.data, piece.len as usize);
        }
    }
}

/// Writes to pieces from front to back.
struct Target<'p> {
    pieces: &'p [Piece],
    at: usize,
    offset: usize,
}

impl Target<'_> {
    /// `len` bytes that can be read at `from`: of our own, or checked ones of a guest's.
    fn write(&mut self, mut from: *const u8, mut len: usize) {
        while len > 0 {
            let Some(piece) = self.pieces.get(self.at) else {
                return;
            };
            let n = (piece.len as usize - self.offset).min(len);
            // SAFETY: offset + n <= the piece's length, all of which was checked to be in the guest's memory.
            let to = unsafe { piece.data.cast_mut().add(self.offset) };
            // SAFETY: as above, and n <= len.
            unsafe { copy(from, to, n) };
            self.offset += n;
            if self.offset == piece.len as usize {
                self.at += 1;
                self.offset = 0;
            }
            // SAFETY: n <= len.
            from = unsafe { from.add(n) };
            len -= n;
        }
    }
}

/// The header that says nothing, in one buffer: written only where it differs.
///
/// # Safety
/// `len` bytes at `at`, 10 or 12, can be read and written.
#[inline(always)]
unsafe fn write_plain_header(at: *mut u8, len: u32) {
    // SAFETY: 8 bytes are there.
    let first = unsafe { at.cast::<u64>().read_unaligned() };
    if first != 0 {
        // SAFETY: as above.
        unsafe { at.cast::<u64>().write_unaligned(0) };
    }
    // The end of csum_offset, and num_buffers, which is 1.
    // SAFETY: 2 more bytes are there.
    let field = unsafe { at.add(8).cast::<u16>() };
    // SAFETY: as above.
    if unsafe { field.read_unaligned() } != 0 {
        // SAFETY: as above.
        unsafe { field.write_unaligned(0) };
    }
    if len == 12 {
        // SAFETY: 2 more bytes are there.
        let buffers = unsafe { at.add(10).cast::<u16>() };
        // SAFETY: as above.
        if unsafe { buffers.read_unaligned() } != 1 {
            // SAFETY: as above.
            unsafe { buffers.write_unaligned(1) };
        }
    }
}
