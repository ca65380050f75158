//! vhost-user: the device side of virtio-net, over rings in memory that a guest shares (virtio 1.2 §2.6–2.8, §5.1; QEMU's
//! docs/interop/vhost-user.rst).
//!
//! ```text
//!   control's connection: memory table, features, rings ──► VhostPort::new ──► a worker polls it
//!                         GET_VRING_BASE, changes ◄── VhostPort::into_config ◄── the worker gives it back
//! ```
//!
//! A [`VhostPort`] is one queue pair of a connection whose rings are started. It never changes its shape: for whatever a
//! front-end changes, control takes it from its worker and makes another. Knows no messages.

mod call;
mod copy;
mod inflight;
mod log;
mod map;
mod memory;
mod packed;
mod port;
mod receive;
mod record;
mod ring;
mod share;
mod sigbus;
mod split;
mod transmit;

pub use call::{CallError, NoEvent, call, calls_never_wait, check_event};
pub use inflight::{Inflight, InflightRegion};
pub use log::DirtyLog;
pub use memory::{GuestMemory, GuestMemoryError, MAX_REGIONS, RegionSpec};
pub use port::{VhostConfig, VhostPort, VringConfig, VringError};
pub use record::{RingFile, RingRecord};
pub use share::{GuestShare, NoShare};
