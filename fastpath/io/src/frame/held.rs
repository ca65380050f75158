//! Frames of which a part stays in a guest's memory.
//!
//! ```text
//!   chunk:  │offload│ headroom │▒▒ bytes() ▒▒│ … │ pieces: address, length │      the guest's memory: ▒▒▒▒▒▒ ▒▒▒▒
//! ```

use super::Frame;
use crate::HEADROOM;
use crate::umem::NO_CHUNK;

/// `next` from here on, but for [`NO_CHUNK`], says that the rest is held.
pub(super) const HELD: u32 = 0xffff_ff00;

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

impl Frame {
    /// Whether a part of it is in a guest's memory.
    #[inline(always)]
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.next >= HELD && self.next != NO_CHUNK
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
    #[inline(always)]
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

    /// To more bytes than are in its chunk, and fewer than it has.
    #[cold]
    pub(super) fn truncate_held(&mut self, n: u32) {
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
}
