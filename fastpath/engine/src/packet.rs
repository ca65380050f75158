//! A packet on its way through the stages: the frame, what we know of it, and what will become of it.

use crate::ids::PackedDest;
use crate::{BdId, DropReason, FdbKey, PortId};
use clearway_io::{BATCH, Frame, FrameBatch, Leaving};

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
    /// Asks for the address of a VTEP that nobody else has; answered and freed by the egress stage.
    Question,
}

/// A bridge domain and a place in it: in one word, since nearly all packets of a batch have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u64);

impl Origin {
    /// No domain.
    pub(crate) const UNKNOWN: Self = Self(0);

    #[inline(always)]
    pub(crate) fn new(bd: BdId, source: PackedDest) -> Self {
        Self(u64::from(source.0) << 16 | u64::from(bd.0))
    }

    #[inline(always)]
    pub(crate) fn bd(self) -> BdId {
        BdId(self.0 as u16)
    }

    #[inline(always)]
    pub(crate) fn source(self) -> PackedDest {
        PackedDest((self.0 >> 16) as u32)
    }
}

/// What is known of a packet. Offsets count from the first byte of the frame as it is now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    /// Destination MAC address, with its domain once that is known.
    pub(crate) dst: FdbKey,
    /// Source MAC address, likewise.
    pub(crate) src: FdbKey,
    /// FDB line of (domain, source): computed and prefetched ahead of use.
    pub(crate) src_line: u32,
    /// FDB line of (domain, destination).
    pub(crate) dst_line: u32,
    /// What becomes of it.
    pub(crate) verdict: Verdict,
    /// Its bridge domain, and where it came from inside.
    pub(crate) origin: Origin,
    /// The port that it leaves by, if it is to be forwarded and ready to go.
    pub(crate) out: PortId,
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
        dst: FdbKey(0),
        src: FdbKey(0),
        src_line: 0,
        dst_line: 0,
        verdict: Verdict::Next,
        origin: Origin::UNKNOWN,
        out: PortId::NONE,
        outer_tci: 0,
        inner_tci: 0,
    };
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

    /// Empties the batch: the frames, and what is known of each.
    #[inline(always)]
    pub(crate) fn leave(&mut self) -> (Leaving<'_>, &[Meta]) {
        let n = self.frames.len().min(BATCH);
        (Leaving::new(&mut self.frames), &self.meta[..n])
    }
}
