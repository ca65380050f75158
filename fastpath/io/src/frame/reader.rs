//! Reading a frame, wherever its parts are.

use super::{Frame, Piece};
use crate::umem::{NO_CHUNK, Segment};

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

impl Frame {
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
}
