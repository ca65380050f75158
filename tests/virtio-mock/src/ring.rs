//! What both formats of rings have in common.

use crate::{GuestRam, PackedRing, SplitRing};
use std::sync::Arc;

/// Flags of a descriptor (virtio 1.2 §2.7.5, §2.8.1).
#[expect(missing_docs, reason = "named as in the specification")]
pub mod desc_flag {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
    /// Packed rings only, as the next.
    pub const AVAIL: u16 = 1 << 7;
    pub const USED: u16 = 1 << 15;
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it, else it reads it.
    pub writable: bool,
}

/// A descriptor as a guest that means harm writes it.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`desc_flag`]s, but those that a packed ring needs to be read at all.
    pub flags: u16,
}

/// A buffer that the device gave back.
#[derive(Clone, Debug)]
pub struct Used {
    /// What [`Ring::add`] gave.
    pub id: u16,
    /// Bytes that the device wrote.
    pub len: u32,
    /// What was offered.
    pub segments: Vec<Segment>,
}

/// When the device is to signal that it used buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// For each time it used some.
    Always,
    /// Not at all.
    Never,
    /// When it has used so many more buffers (split) or descriptors (packed) from where it is now. Needs EVENT_IDX.
    After(u16),
}

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Entries.
    pub size: u16,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
}

/// A buffer that the device has.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) segments: Vec<Segment>,
    /// Descriptors of the ring that it takes.
    pub(crate) descriptors: Vec<u16>,
    /// The indirect table's address and bytes.
    pub(crate) table: Option<(u64, u64)>,
    /// Nobody knows what the device makes of it.
    pub(crate) raw: bool,
}

impl Offered {
    pub(crate) fn finish(self, ram: &GuestRam, id: u16, len: u32) -> Used {
        if let Some((at, bytes)) = self.table {
            ram.free(at, bytes);
        }
        let room = self.room();
        assert!(
            self.raw || len <= room,
            "the device wrote {len} bytes into a buffer of {room}"
        );
        Used {
            id,
            len,
            segments: self.segments,
        }
    }

    /// Bytes that the device may write.
    pub(crate) fn room(&self) -> u32 {
        let writable = self.segments.iter().filter(|segment| segment.writable);
        writable.map(|segment| segment.len).sum()
    }
}

/// The bytes of a descriptor. `last` holds flags and next of a split ring's, id and flags of a packed ring's.
pub(crate) fn descriptor(addr: u64, len: u32, last: [u16; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&last[0].to_le_bytes());
    bytes[14..].copy_from_slice(&last[1].to_le_bytes());
    bytes
}

pub(crate) fn write_flag(segment: &Segment) -> u16 {
    if segment.writable { desc_flag::WRITE } else { 0 }
}

/// The device's or the driver's turn to be told (virtio 1.2 §2.7.7.2 and its C code).
pub(crate) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A ring of either format.
#[derive(Debug)]
pub enum Ring {
    /// virtio 1.2 §2.7.
    Split(SplitRing),
    /// virtio 1.2 §2.8.
    Packed(PackedRing),
}

macro_rules! each {
    ($self:ident, $ring:ident => $call:expr) => {
        match $self {
            Ring::Split($ring) => $call,
            Ring::Packed($ring) => $call,
        }
    };
}

impl Ring {
    /// A ring in the guest's memory, with nothing in it.
    #[must_use]
    pub fn new(ram: &Arc<GuestRam>, packed: bool, options: RingOptions) -> Self {
        if packed {
            Self::Packed(PackedRing::new(ram, options))
        } else {
            Self::Split(SplitRing::new(ram, options))
        }
    }

    /// Puts a buffer in, which [`Ring::publish`] shows to the device. None if there are too few descriptors.
    pub fn add(&mut self, segments: &[Segment], indirect: bool) -> Option<u16> {
        each!(self, ring => ring.add(segments, indirect))
    }

    /// Shows what was added; says whether the device wants a kick.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        each!(self, ring => ring.publish())
    }

    /// The next buffer that the device gave back.
    ///
    /// # Panics
    /// When the device did what it must not.
    pub fn used(&mut self) -> Option<Used> {
        each!(self, ring => ring.used())
    }

    /// Says when the device is to call.
    pub fn calls(&mut self, when: Calls) {
        each!(self, ring => ring.calls(when));
    }

    /// Descriptors that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        each!(self, ring => ring.free())
    }

    /// Buffers that the device has, as far as was looked.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        each!(self, ring => ring.outstanding())
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        each!(self, ring => ring.size())
    }

    /// Guest addresses of the descriptors, the driver's and the device's part.
    #[must_use]
    pub fn parts(&self) -> [u64; 3] {
        each!(self, ring => ring.parts())
    }

    /// What SET_VRING_BASE says of a ring whose buffers the device all gave back.
    #[must_use]
    pub fn base(&self) -> u32 {
        each!(self, ring => ring.base())
    }

    /// Offers these very descriptors as one chain: flags are written as given, links go to the next one. Gives their
    /// places in the ring.
    ///
    /// # Panics
    /// When there are too few descriptors.
    pub fn offer_raw(&mut self, chain: &[Raw]) -> Vec<u16> {
        each!(self, ring => ring.offer_raw(chain))
    }

    /// Writes a descriptor that was offered anew, link or id as they were.
    pub fn rewrite(&self, index: u16, raw: Raw) {
        each!(self, ring => ring.rewrite(index, raw));
    }
}
