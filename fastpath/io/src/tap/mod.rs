//! TAP: an interface of the kernel whose other end is us (Documentation/networking/tuntap.rst).
//!
//! ```text
//!   TapDevice::open ──► one descriptor for each queue ──► TapDevice::ports ──► a worker polls each
//!   kernel's stack ══ tx ring ══ readv ──► header, chunk, arena ──► frames
//!   frames ──► header, segments, pieces ── writev ══ kernel's stack
//! ```
//!
//! A frame has a virtio-net header in front ([`crate::vnet`]), by which checksums may stay unfinished and packets of
//! 64 KiB whole, both ways. A call moves one frame: the kernel takes several at a time only from vhost-net.

mod device;
mod port;
mod sys;

pub use device::{TapDevice, TapError};
pub use port::TapPort;
