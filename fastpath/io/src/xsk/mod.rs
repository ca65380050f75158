//! AF_XDP: sockets of interface queues, and the XDP program that steers frames to them.
//!
//! ```text
//!            interface queue ── XDP program ── XSKMAP[queue] ──► socket (one AfXdpPort)
//!   Umem ── UmemGroup::open(interface, queue) ──────────────────► bound to that queue
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `uapi` `sys` | the kernel's ABI and its system calls |
//! | `ring` | the four rings, mapped from a descriptor |
//! | `socket` | [`UmemGroup`]: making and binding sockets, and what it says when that fails |
//! | `port` | [`AfXdpPort`]: the `Port` of one queue |
//! | `release` | waiting until a driver has let go of a closed queue's memory |
//! | `object` `link` | loading a compiled program, and what keeps one on an interface |
//! | `program` | [`XdpProgram`]: loading, attaching and feeding the XDP program of one interface |
//! | `pods` | [`PodProgram`]: one program for all interfaces that are ours alone and have one queue |

mod lent;
mod link;
mod object;
mod pods;
mod port;
mod program;
mod release;
mod ring;
mod socket;
mod sys;
mod uapi;

pub use pods::{Parked, PodLink, PodProgram};
pub use port::{AfXdpPort, AfXdpReport};
pub use program::{
    AttachMode, ForeignProgram, Steering, SteeringCounts, VlanFilter, VtepFilter, XdpError, XdpProgram,
};
pub use ring::RingSizes;
pub use socket::{BusyPoll, Interface, ModeRequest, QueueConfig, UmemGroup, XskError, XskMode};
