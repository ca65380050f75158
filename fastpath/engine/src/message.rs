//! What control and workers tell one another, over bounded queues with one writer and one reader.

use crate::{Ledger, PortCounters, PortId, Snapshot, WorkerId};
use clearway_io::{AnyPort, RegionId, Umem};
use std::sync::Arc;

/// Control → worker; applied at the top of a turn.
pub(crate) enum Command {
    /// Use these tables from now on.
    Swap(Arc<Snapshot>),
    /// A UMEM whose frames may appear from now on.
    AddRegion(Umem),
    /// The last port of a UMEM is gone.
    RemoveRegion(RegionId),
    /// Poll this queue of a port.
    AddQueue {
        port: PortId,
        queue: u16,
        io: Box<AnyPort>,
        region: Option<RegionId>,
        counters: Arc<PortCounters>,
    },
    /// Give a queue back.
    RemoveQueue { port: PortId, queue: u16 },
    /// Where to send for a port without a queue here; none: nowhere.
    SetRemote { port: PortId, worker: Option<WorkerId> },
    /// Report the ledger.
    Ledger,
    /// End the thread; everything is given back.
    Stop,
}

/// Worker → control.
pub(crate) enum Event {
    /// A queue that is no longer polled, to be closed.
    Retired {
        port: PortId,
        queue: u16,
        io: Box<AnyPort>,
    },
    /// Tables that are no longer used, to be freed.
    RetiredSnapshot(Arc<Snapshot>),
    /// A pool that is no longer used, to be freed.
    RetiredPool(clearway_io::FramePool),
    /// The ledger at a turn boundary.
    Ledger(Box<Ledger>),
    /// A port stopped by itself.
    Fault {
        port: PortId,
        queue: u16,
        reason: String,
    },
}
