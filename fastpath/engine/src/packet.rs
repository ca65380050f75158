//! A packet on its way through the stages: the frame, what we know of it, and what will become of it.

use crate::ids::PackedDest;
use crate::{BdId, DropReason};
use clearway_io::{BATCH, Frame, FrameBatch};

/// What becomes of a packet. Stages skip packets that are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not yet known: the next stage goes on with it.
    Next,
    /// To all members of its domain.
    Flood,
    /// To one member or tunnel of its domain.
    Forward(PackedDest),
    /// Given up; counted and freed by the egress stage.
    Drop(DropReason),
    /// Answered by us; freed by the egress stage.
    Consumed,
}

/// What is known of a packet. Offsets count from the first byte of the frame as it is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    /// Destination MAC address, in the low 48 bits.
    pub(crate) dst: u64,
    /// Source MAC address, in the low 48 bits.
    pub(crate) src: u64,
    /// FDB line of (domain, source): computed and prefetched ahead of use.
    pub(crate) src_line: u32,
    /// FDB line of (domain, destination).
    pub(crate) dst_line: u32,
    /// What becomes of it.
    pub(crate) verdict: Verdict,
    /// Where it came from inside its domain.
    pub(crate) source: PackedDest,
    /// Its bridge domain.
    pub(crate) bd: BdId,
    /// TCI of the outer tag that was removed, for its priority.
    pub(crate) outer_tci: u16,
    /// TCI of the second tag that was removed.
    pub(crate) inner_tci: u16,
}

const _: () = assert!(size_of::<Meta>() <= 56);

impl Meta {
    /// Whether no stage has decided about it.
    #[inline(always)]
    pub(crate) fn undecided(&self) -> bool {
        matches!(self.verdict, Verdict::Next)
    }

    /// A packet of which nothing is known.
    pub(crate) const UNKNOWN: Self = Self {
        dst: 0,
        src: 0,
        src_line: 0,
        dst_line: 0,
        verdict: Verdict::Next,
        source: PackedDest::NONE,
        bd: BdId(0),
        outer_tci: 0,
        inner_tci: 0,
    };

    /// The key of the source address.
    #[inline(always)]
    pub(crate) fn src_key(&self) -> crate::FdbKey {
        crate::FdbKey::new(self.bd, self.src)
    }

    /// The key of the destination address.
    #[inline(always)]
    pub(crate) fn dst_key(&self) -> crate::FdbKey {
        crate::FdbKey::new(self.bd, self.dst)
    }
}

/// The packets of one receive call: frames and what is known of them, side by side.
pub(crate) struct Batch {
    /// The frames, as the port gave them.
    pub(crate) frames: FrameBatch,
    /// Entry `i` is about frame `i`.
    pub(crate) meta: Box<[Meta; BATCH]>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            frames: FrameBatch::new(),
            meta: Box::new([Meta::UNKNOWN; BATCH]),
        }
    }
}

impl Batch {
    /// All packets: frames and metas of the same number, so that a loop over both needs no bounds check.
    #[inline(always)]
    pub(crate) fn split(&mut self) -> (&mut [Frame], &mut [Meta]) {
        let n = self.frames.len().min(BATCH);
        (&mut self.frames[..n], &mut self.meta[..n])
    }
}
