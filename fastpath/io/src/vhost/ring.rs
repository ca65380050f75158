//! What split and packed rings have in common.
//!
//! ```text
//!   fetch: look at what is available ─► take: it is ours ─► complete: it is the driver's again ─► must_call: tell it
//! ```

use super::map::GuestMap;
use super::memory::{GuestMemory, MAX_REGIONS};
use crate::BATCH;
use crate::frame::Piece;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// What a driver did that no driver may do: it ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("the available index jumped from {from} to {to}, further than the ring of {size} entries")]
    IndexJump { from: u16, to: u16, size: u16 },
    #[error("the available ring names descriptor {id} of a ring of {size} entries")]
    HeadOutOfRange { id: u16, size: u16 },
    #[error("a descriptor chain goes on at {next} in a table of {size} entries")]
    NextOutOfRange { next: u16, size: u16 },
    #[error("a descriptor chain is longer than the ring's {size} entries, or goes round in circles")]
    ChainTooLong { size: u16 },
    #[error("a descriptor points to {len} bytes at {address:#x}, which are not in the guest's memory")]
    Address { address: u64, len: u32 },
    #[error("an indirect table of {len} bytes: it must be of 16 bytes for each of at least one entry")]
    IndirectLength { len: u32 },
    #[error("an indirect descriptor within an indirect table")]
    NestedIndirect,
    #[error("an indirect descriptor that has a next one")]
    IndirectNext,
    #[error("an indirect descriptor, which was not negotiated")]
    IndirectNotNegotiated,
    #[error("a buffer to transmit that the device is to write")]
    WritableTransmit,
    #[error("a buffer to receive into that the device must not write")]
    ReadableReceive,
    #[error("a buffer to receive into of {len} bytes: not even the header fits")]
    ReceiveTooSmall { len: u32 },
    #[error(
        "the guest's memory is backed by a file that became shorter, or by a tmpfs or huge pages of which none is left"
    )]
    TornMemory,
}

/// A descriptor's flags (virtio 1.2 §2.7.5, §2.8.1).
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 1 << 1;
pub(super) const INDIRECT: u16 = 1 << 2;

/// Features (virtio 1.2 §6).
pub(super) const F_INDIRECT_DESC: u64 = 1 << 28;
pub(super) const F_EVENT_IDX: u64 = 1 << 29;
pub(super) const F_RING_PACKED: u64 = 1 << 34;
pub(super) const F_IN_ORDER: u64 = 1 << 35;

/// A buffer that the driver has made available: its first descriptor, as it was when it was read, once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// What `complete` names it by.
    pub(super) id: u16,
    /// Descriptors of the ring that it takes up.
    pub(super) descriptors: u16,
    /// Split: the next descriptor. Packed: the place of this one.
    pub(super) next: u16,
}

/// Most descriptors of a buffer: no driver has chains of more, however long its ring is (QEMU's limit for any queue).
pub(super) const MAX_CHAIN: u16 = 1024;

/// Buffers that were looked at in one go.
pub(super) type Slots = [Slot; BATCH];

/// A buffer that goes back to the driver.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) id: u16,
    pub(super) descriptors: u16,
    /// Bytes that the device wrote.
    pub(super) len: u32,
}

impl Used {
    #[inline(always)]
    pub(super) fn new(slot: &Slot, len: u32) -> Self {
        Self {
            id: slot.id,
            descriptors: slot.descriptors,
            len,
        }
    }
}

/// Which way a queue's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The guest transmits: the device reads.
    Transmit,
    /// The guest receives: the device writes.
    Receive,
}

/// The device's side of a virtqueue.
pub(super) trait Vring {
    /// Looks at up to `want` buffers that are available, in order, and takes none.
    fn fetch(&mut self, want: usize, slots: &mut Slots) -> Result<usize, Violation>;

    /// Buffers available, at most `most`: cheap to ask again and again.
    fn available(&mut self, most: usize) -> usize;

    /// All parts of a buffer, in order: adds them to `pieces`.
    fn walk(
        &self,
        slot: &Slot,
        map: &mut GuestMap,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Violation>;

    /// Takes the buffers that were looked at first.
    fn take(&mut self, slots: &[Slot]);

    /// Gives buffers that were taken back to the driver, in the order in which they were taken.
    fn complete(&mut self, used: &[Used]);

    /// The same for buffers of a transmit queue, of which nothing was written.
    fn complete_transmitted(&mut self, used: &[Used]) {
        self.complete(used);
    }

    /// Whether the driver wants to be told of what was completed since it was last asked.
    fn must_call(&mut self) -> bool;

    /// Asks for (or does without) notifications of what is made available.
    fn ask_for_kicks(&mut self, yes: bool);

    /// Where it is: what GET_VRING_BASE replies.
    fn base(&self) -> u32;
}

/// Adds a descriptor's bytes to `pieces`: several where they cross from one region into the next.
pub(super) fn add_pieces(
    map: &mut GuestMap,
    address: u64,
    len: u32,
    pieces: &mut Vec<Piece>,
    size: u16,
) -> Result<(), Violation> {
    // A chain is no longer than the ring; a region's end may cut a piece in two.
    let most = usize::from(size.min(MAX_CHAIN)) + MAX_REGIONS;
    let (mut at, mut rest) = (address, len);
    if len == 0 {
        // It counts: looking at nothing takes time too.
        let data = std::ptr::dangling();
        pieces.push(Piece { data, len });
    }
    if pieces.len() > most {
        return Err(Violation::ChainTooLong { size });
    }
    while rest > 0 {
        let (data, n) = map.part(at, rest).ok_or(Violation::Address { address, len })?;
        if pieces.len() >= most {
            return Err(Violation::ChainTooLong { size });
        }
        pieces.push(Piece { data, len: n });
        at += u64::from(n);
        rest -= n;
    }
    Ok(())
}

/// Whether a descriptor is for the way that its queue goes.
pub(super) fn check_direction(slot: &Slot, direction: Direction) -> Result<(), Violation> {
    match (direction, slot.flags & WRITE != 0) {
        (Direction::Transmit, true) => Err(Violation::WritableTransmit),
        (Direction::Receive, false) => Err(Violation::ReadableReceive),
        _ => Ok(()),
    }
}

/// Entries of an indirect table, if the descriptor that points to it is a proper one.
pub(super) fn indirect_entries(slot: &Slot, negotiated: bool, size: u16) -> Result<u16, Violation> {
    if !negotiated {
        return Err(Violation::IndirectNotNegotiated);
    }
    if slot.flags & NEXT != 0 {
        return Err(Violation::IndirectNext);
    }
    if slot.len == 0 || !slot.len.is_multiple_of(16) {
        return Err(Violation::IndirectLength { len: slot.len });
    }
    // §2.7.5.3.1: no chain is longer than the queue.
    let entries = u16::try_from(slot.len / 16)
        .ok()
        .filter(|entries| *entries <= size);
    entries.ok_or(Violation::ChainTooLong { size })
}

/// A part of a ring in the guest's memory, checked when the ring was set up.
#[derive(Clone, Copy)]
pub(super) struct RingPart {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it leads to memory that is mapped as long as the port is there, on whatever thread; access is atomic.
unsafe impl Send for RingPart {}
// SAFETY: as above.
unsafe impl Sync for RingPart {}

impl RingPart {
    /// Finds a part of a ring. None if it is not in one region of the memory, or not aligned.
    pub(super) fn find(memory: &GuestMemory, address: u64, bytes: usize, align: usize) -> Option<Self> {
        let base = memory.at_user(address, bytes as u64)?;
        (base.as_ptr() as usize)
            .is_multiple_of(align)
            .then_some(Self { base, bytes })
    }

    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        debug_assert!(offset + len <= self.bytes && offset.is_multiple_of(len));
        let _ = len;
        // SAFETY: rings ask only for what lies in the bytes that `find` checked, which stay mapped as long as the
        // port, which holds the memory, lives.
        unsafe { self.base.as_ptr().add(offset) }
    }

    #[inline(always)]
    pub(super) fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    #[inline(always)]
    pub(super) fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside and aligned (see `at`); whatever others do to it, a 16-bit atomic access is one access.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    #[inline(always)]
    pub(super) fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    #[inline(always)]
    pub(super) fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `u16`.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }
}
