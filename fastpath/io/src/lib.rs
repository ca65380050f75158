//! Packet I/O: UMEMs, frames, rings and ports. The only crate with `unsafe` code; it knows no VLAN.
//!
//! ```text
//!   Umem ── chunks ──► Depot ◄─64 at a time─► FramePool (one per worker and UMEM, all in a PoolSet)
//!                                                │ alloc / free
//!             Port::rx_batch ──► Frame ──► engine ──► Frame ──► Port::tx_batch
//! ```
//!
//! Guarantees: a [`Frame`] is the only handle to its chunks, and every chunk is at any time in exactly one
//! place (pool, depot, fill, rx, batch, hand-off, tx, completion); memory of a UMEM is unmapped only when
//! all its chunks are home. Left to the caller: a frame that is not handed to a port must be given back to
//! a [`PoolSet`]; dropping it leaks its chunks (the ledger tests find that).

// Unit tests share the helpers of tests/, which name the crate from outside.
#[cfg(test)]
extern crate self as clearway_io;

mod batch;
mod eventfd;
mod frame;
mod memory;
mod netns;
mod offload;
mod packet;
mod pcapng;
mod pool;
mod port;
mod prefetch;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
mod table;
mod tap;
mod timer;
mod umem;
mod vhost;
mod vnet;
mod xsk;

pub use batch::{BATCH, FrameBatch, Leaving};
pub use eventfd::EventFd;
pub use frame::{Frame, FrameReader, MAX_SEGMENTS};
pub use memory::{MemoryPeer, MemoryPort, memory_port};
pub use netns::netns_cookie;
pub use offload::{Offload, Offloads};
pub use packet::PacketSocket;
pub use pcapng::{PcapngConfig, PcapngError, PcapngPort};
pub use pool::{FramePool, MAGAZINE, PoolSet};
pub use port::{AnyPort, Fault, Port, RxCounts, TxCounts};
pub use prefetch::{prefetch_read, prefetch_write};
pub use table::TableMemory;
pub use tap::{TapDevice, TapError, TapPort};
pub use umem::{Backing, HEADROOM, HugePages, RegionId, Umem, UmemError, UmemGeometry};
pub use vhost::{
    CallError, DirtyLog, GuestMemory, GuestMemoryError, GuestShare, Inflight, InflightRegion, MAX_REGIONS,
    NoEvent, NoShare, RegionSpec, RingFile, RingRecord, VhostConfig, VhostPort, VringConfig, VringError,
    call, calls_never_wait, check_event,
};
pub use xsk::{
    AfXdpPort, AfXdpReport, AttachMode, BusyPoll, ForeignProgram, Interface, ModeRequest, Parked, PodLink,
    PodProgram, QueueConfig, RingSizes, Steering, SteeringCounts, UmemGroup, VlanFilter, VtepFilter,
    XdpError, XdpProgram, XskError, XskMode,
};
