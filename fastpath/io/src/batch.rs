//! What travels through the engine in one go.

use crate::Frame;
use arrayvec::ArrayVec;

/// Most frames that one receive call hands over.
pub const BATCH: usize = 128;

/// The frames of one batch, in order of arrival.
pub type FrameBatch = ArrayVec<Frame, BATCH>;
