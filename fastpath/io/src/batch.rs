//! What travels through the engine in one go, and moving it in bulk.
//!
//! A frame is 32 bytes that move four times between ring and ring. One by one, with the checks of a safe
//! container each time, that was half of what a cross-connect cost.

use crate::Frame;
use arrayvec::ArrayVec;
use std::mem::MaybeUninit;

/// Most frames that one receive call hands over.
pub const BATCH: usize = 128;

/// The frames of one batch, in order of arrival.
pub type FrameBatch = ArrayVec<Frame, BATCH>;

// What is moved by copying and then left behind must not be dropped there.
const _: () = assert!(!std::mem::needs_drop::<Frame>());

/// The frames of a batch on their way out of it, first to last. What is not taken is lost.
pub struct Leaving<'a> {
    /// Not in the batch any more, and handed out once: the batch says that it is empty.
    frames: &'a [Frame],
}

impl<'a> Leaving<'a> {
    /// Empties a batch.
    #[inline(always)]
    pub fn new(batch: &'a mut FrameBatch) -> Self {
        let n = batch.len();
        // SAFETY: 0 is never too long, and a Frame has no Drop.
        unsafe { batch.set_len(0) };
        // SAFETY: n frames are there; as long as the batch is borrowed nobody else can reach or overwrite them.
        let frames = unsafe { std::slice::from_raw_parts(batch.as_ptr(), n) };
        Self { frames }
    }

    /// Those that are still to be taken.
    #[inline(always)]
    pub fn frames(&self) -> &[Frame] {
        self.frames
    }

    /// Moves the next `n` frames, or what is left, to the end of a list.
    #[inline(always)]
    pub fn move_to(&mut self, n: usize, list: &mut Vec<Frame>) {
        let (now, later) = self.frames.split_at(n.min(self.frames.len()));
        list.reserve(now.len());
        move_out(now, &mut list.spare_capacity_mut()[..now.len()]);
        let len = list.len() + now.len();
        // SAFETY: the slots up to len were written just now.
        unsafe { list.set_len(len) };
        self.frames = later;
    }
}

impl Iterator for Leaving<'_> {
    type Item = Frame;

    #[inline(always)]
    fn next(&mut self) -> Option<Frame> {
        let (frame, later) = self.frames.split_first()?;
        self.frames = later;
        // SAFETY: a valid frame, which is reachable from nowhere else now.
        Some(unsafe { std::ptr::read(frame) })
    }
}

/// Moves frames into slots, as many as both have. The caller forgets the originals.
#[inline(always)]
pub(crate) fn move_out(from: &[Frame], to: &mut [MaybeUninit<Frame>]) {
    debug_assert_eq!(from.len(), to.len());
    let n = from.len().min(to.len());
    // SAFETY: both have n elements and don't overlap; MaybeUninit<Frame> has the layout of Frame.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast::<Frame>(), n) };
}

/// Removes the first n frames, which were moved elsewhere.
#[inline(always)]
pub(crate) fn forget_front(frames: &mut Vec<Frame>, n: usize) {
    if n == frames.len() {
        // SAFETY: 0 is never too long; the frames live on elsewhere, and a Frame has no Drop.
        unsafe { frames.set_len(0) };
    } else {
        frames.drain(..n).for_each(std::mem::forget);
    }
}
