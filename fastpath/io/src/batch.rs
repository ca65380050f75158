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

/// Moves all frames of a batch to the end of a list.
#[inline]
pub fn append(batch: &mut FrameBatch, list: &mut Vec<Frame>) {
    let n = batch.len();
    list.reserve(n);
    move_out(batch, &mut list.spare_capacity_mut()[..n]);
    let len = list.len() + n;
    // SAFETY: the slots up to len were written just now.
    unsafe { list.set_len(len) };
    // SAFETY: 0 is never too long; the frames live on in the list, and a Frame has no Drop.
    unsafe { batch.set_len(0) };
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
