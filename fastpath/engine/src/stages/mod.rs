//! The steps of a packet's way, in order: one file each. A stage says what happens to one packet; the loops
//! over a batch are in `pipeline.rs`.
//!
//! ```text
//!   parse → decap → vlan → learn → lookup → flood → encap → egress
//! ```
//!
//! A stage decides about a packet (its [`Verdict`](crate::packet::Verdict)); a decided one skips the stages that
//! are left. `egress` takes the frames out of the batch; what is dropped is counted and freed there.

pub(crate) mod decap;
pub(crate) mod egress;
pub(crate) mod encap;
pub(crate) mod finish;
pub(crate) mod flood;
pub(crate) mod learn;
pub(crate) mod lookup;
pub(crate) mod parse;
pub(crate) mod suppress;
pub(crate) mod too_big;
pub(crate) mod vlan;

use crate::tx::TxQueues;
use crate::{DropReason, Fdb, Ledger, PortConf, PortCounters, Snapshot};
use clearway_io::{Frame, PoolSet, RegionId};

/// The clock of a turn: read once, constant for all its packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Nanoseconds since the engine started.
    pub(crate) ns: u64,
    /// Seconds since the engine started, wrapping: the FDB's clock.
    pub(crate) s: u16,
}

/// What the stages work with during one batch: the world, constant for the turn, and the worker's own things.
pub(crate) struct Cx<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) fdb: &'a Fdb,
    pub(crate) pools: &'a mut PoolSet,
    pub(crate) tx: &'a mut TxQueues,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) now: Now,
    /// The port that the batch came from.
    pub(crate) conf: &'a PortConf,
    pub(crate) counters: &'a PortCounters,
    /// The region of that port's frames.
    pub(crate) region: Option<RegionId>,
}

impl Cx<'_> {
    /// Counts a drop and frees the frame.
    #[inline]
    pub(crate) fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.count_drops(reason, 1);
        self.pools.free(frame);
    }

    /// Counts drops of frames that are gone, or were never made.
    #[inline]
    pub(crate) fn count_drops(&mut self, reason: DropReason, n: u64) {
        self.ledger.drops[reason as usize] += n;
        self.counters.drops.of(reason).add(n);
    }
}
