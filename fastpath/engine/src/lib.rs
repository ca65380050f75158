//! The engine: workers, pipeline, forwarding tables. It knows neither configuration nor sockets.
//!
//! ```text
//!   control ── Command ──► ┌ Worker (one thread, one core) ───────────────────────────────┐
//!           ◄── Event ──── │ rx → parse decap vlan learn lookup flood encap egress → tx   │ × n
//!                          └── Snapshot (immutable) ── Fdb (shared, lock-free) ───────────┘
//! ```
//!
//! Guarantees: a packet is forwarded, consumed or dropped for a counted reason, and the [`Ledger`] proves it;
//! a change of the tables costs no packet of a port that it does not touch; the packet path neither
//! allocates, locks nor makes a system call of its own. Left to the caller: one control thread that owns the
//! [`Engine`], calls [`Engine::age`] every second and closes the queues that come back.
//!
//! Reading order: `worker.rs` (the loop), `pipeline.rs` (the stages in order), `stages/`, `fdb.rs`.
#![forbid(unsafe_code)]

mod counters;
mod drops;
mod engine;
mod fdb;
#[cfg(all(test, feature = "loom"))]
mod fdb_model;
mod ids;
mod message;
mod packet;
mod pipeline;
mod police;
mod rewrite;
mod segment;
mod snapshot;
mod stages;
mod storm;
mod tx;
mod worker;

pub use counters::{Counter, Ledger, PortCounters, REASONS, Reasons};
pub use drops::DropReason;
pub use engine::{Engine, EngineConfig, EngineError, QueueEvent, QueueHome, WorkerReport};
pub use fdb::{Fdb, FdbEntry, FdbKey, LearnRules, Learned, MOST_MOVES, Reaper};
pub use ids::{BdId, Dest, MemberId, PortId, TunnelId, VtepId, WorkerId};
pub use police::{Policer, RateLimit};
pub use rewrite::{OuterSpec, Rewrite};
pub use snapshot::{
    Domain, Member, OuterDscp, Place, PortConf, Remotes, Service, Snapshot, StormLimits, TagRule, Tunnel,
    VidEntry, VidTable, VniTable, Vtep,
};
pub use storm::Storm;
pub use worker::{Idle, SPIN_BEFORE_SLEEP, Worker};
