//! A guest for tests: the driver's side of virtio-net (virtio 1.2 §2.7, §2.8, §5.1) and the front-end's side of
//! vhost-user, written from the specifications and independent of Clearway's rings and messages.
//!
//! ```text
//!   Guest ── tx, rx: Queue ── Ring: SplitRing │ PackedRing ── GuestRam: memfds ◄── mapped ── the device under test
//!     └────────────────────── FrontEnd ── messages ── unix socket ──────────────────────────────┘
//! ```
//!
//! It is strict: a device that uses what it was not offered, or reports more bytes than it was given, makes it panic,
//! which is a failed test. And it can lie: every ring has raw operations for a guest that means harm.
//!
//! Memory is read and written with read_at(2) and write_at(2), which are coherent with every mapping of the file: slow,
//! without any unsafe code. Indices are written 8 aligned bytes at a time and read twice, since nothing promises that
//! smaller copies of the kernel are not seen by halves.
#![forbid(unsafe_code)]

mod front;
mod guest;
mod header;
mod packed;
mod ram;
mod ring;
mod split;

pub use front::{FrontEnd, Message, NO_FD, addresses, memory_table, protocol, region, request, state, words};
pub use guest::{Guest, GuestOptions, Pair, Queue, Received, Shape};
pub use header::{NetHeader, feature, gso, header_flag};
pub use packed::PackedRing;
pub use ram::{GuestRam, RamRegion};
pub use ring::{Calls, Raw, Ring, RingOptions, Segment, Used, desc_flag};
pub use split::SplitRing;
