//! The packed virtqueue (virtio 1.2 §2.8).
//!
//! ```text
//!   ring: {address, len, id, flags}[size]: available when AVAIL is the lap's bit and USED is not; used when both are it
//!   event suppression of driver and device: {offset and wrap, flags}
//! ```

use super::inflight::PackedInflight;
use super::log::RingLog;
use super::map::GuestMap;
use super::memory::GuestMemory;
use super::port::{VringConfig, VringError};
use super::record::RingRecord;
use super::ring::{
    Direction, F_EVENT_IDX, F_IN_ORDER, F_INDIRECT_DESC, INDIRECT, MAX_CHAIN, NEXT, RingPart, Slot, Slots,
    Used, Violation, Vring, WRITE, add_pieces, check_direction, indirect_entries,
};
use crate::DirtyLog;
use crate::frame::Piece;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Where the flags are in a descriptor's second half.
const FLAGS: u32 = 48;
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const DESC: u16 = 2;
const WRAP: u16 = 1 << 15;

/// A place in the ring: which descriptor, on an odd or an even lap.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    #[inline(always)]
    fn plus(self, n: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(n);
        if index < u32::from(size) {
            Self {
                index: index as u16,
                ..self
            }
        } else {
            // n is at most the size.
            Self {
                index: (index - u32::from(size)) as u16,
                wrap: !self.wrap,
            }
        }
    }

    /// Where `plus(n, size)` leads here.
    #[inline(always)]
    fn minus(self, n: u16, size: u16) -> Self {
        match self.index.checked_sub(n) {
            Some(index) => Self { index, ..self },
            // n is at most the size.
            None => Self {
                index: self.index + (size - n),
                wrap: !self.wrap,
            },
        }
    }

    fn from_bits(bits: u16) -> Self {
        Self {
            index: bits & !WRAP,
            wrap: bits & WRAP != 0,
        }
    }

    fn to_bits(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }
}

pub(super) struct PackedRing {
    ring: RingPart,
    driver_event: RingPart,
    device_event: RingPart,
    size: u16,
    next: Position,
    used_next: Position,
    /// `used_next` when the driver was last told.
    told: u16,
    event_idx: bool,
    in_order: bool,
    indirect: bool,
    log: Option<RingLog>,
    inflight: Option<PackedInflight>,
    record: Option<RingRecord>,
}

impl PackedRing {
    pub(super) fn new(config: &VringConfig, memory: &GuestMemory, features: u64) -> Result<Self, VringError> {
        let size = config.size;
        let next = Position::from_bits(config.base as u16);
        if size == 0 || size > 32768 || next.index >= size {
            return Err(VringError::Size(size));
        }
        let part = |part, address, bytes: usize, align| {
            RingPart::find(memory, address, bytes, align).ok_or(VringError::Address {
                part,
                address,
                bytes: bytes as u64,
            })
        };
        let mut ring = Self {
            ring: part("descriptor ring", config.descriptors, 16 * usize::from(size), 16)?,
            driver_event: part("driver's event suppression", config.driver, 4, 4)?,
            device_event: part("device's event suppression", config.device, 4, 4)?,
            size,
            next,
            // All that was taken was also completed when we stopped.
            used_next: next,
            told: next.index,
            event_idx: features & F_EVENT_IDX != 0,
            in_order: features & F_IN_ORDER != 0,
            indirect: features & F_INDIRECT_DESC != 0,
            record: config.record.clone(),
            log: None,
            inflight: None,
        };
        ring.open_inflight(config)?;
        Ok(ring)
    }

    /// Has what is written marked in a dirty log. The log address is the device's event suppression's; where the descriptor
    /// ring is, the memory table says.
    pub(super) fn log_to(&mut self, log: Arc<DirtyLog>, address: u64, descriptors: u64) -> &RingLog {
        self.log.insert(RingLog {
            log,
            used: (descriptors, 16 * u64::from(self.size)),
            event: (address, 4),
        })
    }

    /// Goes on where the front-end's buffer says.
    fn open_inflight(&mut self, config: &VringConfig) -> Result<(), VringError> {
        let Some(region) = &config.inflight else {
            return Ok(());
        };
        let wrong = || VringError::Inflight(self.size);
        let opened = PackedInflight::open(region, self.size, self.next.to_bits()).ok_or_else(wrong)?;
        let (old, new) = (Position::from_bits(opened.old), Position::from_bits(opened.new));
        let descriptors = if old.wrap == new.wrap {
            new.index.checked_sub(old.index).ok_or_else(wrong)?
        } else {
            // Behind the end, and not further than where it began.
            let lap = (new.index <= old.index).then(|| new.index + (self.size - old.index));
            lap.ok_or_else(wrong)?
        };
        (self.next, self.used_next) = (old, old);
        self.settle(descriptors);
        self.told = self.used_next.index;
        opened.inflight.given(self.used_next.to_bits());
        self.inflight = Some(opened.inflight);
        self.complete(&opened.left);
        self.next = self.used_next;
        Ok(())
    }

    /// Whether the descriptor there was given back. The driver may have made it available again since.
    fn is_marked(&self, at: Position) -> bool {
        ((self.rest(at.index) >> FLAGS) as u16 & USED != 0) == at.wrap
    }

    /// Whether a device has ever given something back on it: no driver sets USED on the first lap of a ring, and later
    /// some descriptor always has it.
    pub(super) fn is_used(&self) -> bool {
        (0..self.size).any(|index| (self.rest(index) >> FLAGS) as u16 & USED != 0)
    }

    /// Finishes giving back the buffers in so many descriptors, in which a device was interrupted. The driver sees them when
    /// the first is marked as used, which is done last. If none is, they are left to be taken again. If some are, what
    /// their descriptors said before is lost: then all are given back with nothing in them.
    pub(super) fn settle(&mut self, descriptors: u16) {
        let start = self.next;
        if descriptors == 0 || descriptors > self.size {
            return;
        }
        if !self.is_marked(start) {
            if !(1..descriptors).any(|n| self.is_marked(start.plus(n, self.size))) {
                return;
            }
            self.give_back_empty(start, descriptors);
        }
        self.next = start.plus(descriptors, self.size);
        self.used_next = self.next;
    }

    /// Marks all buffers in so many descriptors, of which the last ones are marked already.
    fn give_back_empty(&self, start: Position, descriptors: u16) {
        let id_of = |at: Position| (self.rest(at.index) >> 32) as u16;
        let mut firsts = Vec::new();
        let mut n = 0;
        // Chains that are not marked are still as the driver made them.
        while n < descriptors && !self.is_marked(start.plus(n, self.size)) {
            let at = start.plus(n, self.size);
            let continues = (self.rest(at.index) >> FLAGS) as u16 & NEXT != 0;
            let (len, id) = match self.extent(at) {
                Ok(extent) if continues => extent,
                _ => (1, id_of(at)),
            };
            firsts.push((at, id));
            n += len;
        }
        // Of those that are, only the first descriptor is.
        let marked = (n..descriptors).map(|n| start.plus(n, self.size));
        firsts.extend(marked.filter(|at| self.is_marked(*at)).map(|at| (at, id_of(at))));
        for (at, id) in firsts.into_iter().rev() {
            self.write_used(at, id, 0);
        }
    }

    fn here(&self) -> u32 {
        self.used_next.to_bits().into()
    }

    /// Gives back buffers of which the driver sees all or none, because one mark tells it: `give_back` makes it last. It is
    /// told where the next batch begins.
    #[inline(always)]
    fn recorded(&mut self, buffers: &[Used], give_back: impl FnOnce(&Self, Position)) {
        // One by one: a driver that lies may have chains that add up to more than the ring.
        let after = buffers.iter().fold(self.used_next, |at, buffer| {
            at.plus(buffer.descriptors, self.size)
        });
        if let Some(record) = &self.record {
            let descriptors = buffers
                .iter()
                .fold(0, |sum: u16, buffer| sum.saturating_add(buffer.descriptors));
            record.begin(self.here(), descriptors);
        }
        if let Some(inflight) = &self.inflight {
            inflight.giving(self.used_next.to_bits(), after.to_bits());
        }
        give_back(self, after);
        self.used_next = after;
        if let Some(record) = &self.record {
            record.commit(self.here());
        }
        if let Some(inflight) = &self.inflight {
            inflight.given(self.used_next.to_bits());
        }
        if let Some(log) = &self.log {
            log.used();
        }
    }

    /// The second half of a descriptor: length, id, flags. Whoever reads it before the address, as here, gets what the
    /// driver wrote together.
    #[inline(always)]
    fn rest(&self, index: u16) -> u64 {
        self.ring.u64(usize::from(index) * 16 + 8).load(Acquire)
    }

    #[inline(always)]
    fn is_available(rest: u64, wrap: bool) -> bool {
        let flags = (rest >> FLAGS) as u16;
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
    }

    #[inline(always)]
    fn slot(&self, index: u16, rest: u64) -> Slot {
        Slot {
            address: self.ring.u64(usize::from(index) * 16).load(Relaxed),
            len: rest as u32,
            flags: (rest >> FLAGS) as u16,
            id: (rest >> 32) as u16,
            descriptors: 1,
            next: index,
        }
    }

    /// How many descriptors a chain takes up, and its id: that of the last (§2.8.6).
    #[cold]
    fn extent(&self, first: Position) -> Result<(u16, u16), Violation> {
        for n in 1..self.size.min(MAX_CHAIN) {
            let rest = self.rest(first.plus(n, self.size).index);
            if (rest >> FLAGS) as u16 & NEXT == 0 {
                return Ok((n + 1, (rest >> 32) as u16));
            }
        }
        Err(Violation::ChainTooLong { size: self.size })
    }

    /// The second half of a used descriptor. A length says that something was written (§2.8.5).
    #[inline(always)]
    fn used(&self, at: Position, id: u16, len: u32) -> u64 {
        let lap = if at.wrap { AVAIL | USED } else { 0 };
        let flags = lap | if len > 0 { WRITE } else { 0 };
        u64::from(flags) << FLAGS | u64::from(id) << 32 | u64::from(len)
    }

    #[inline(always)]
    fn write_used(&self, at: Position, id: u16, len: u32) {
        let place = self.ring.u64(usize::from(at.index) * 16 + 8);
        place.store(self.used(at, id, len), Release);
    }
}

impl Vring for PackedRing {
    #[inline(always)]
    fn fetch(&mut self, want: usize, slots: &mut Slots) -> Result<usize, Violation> {
        let mut at = self.next;
        for (n, slot) in slots.iter_mut().enumerate().take(want) {
            let rest = self.rest(at.index);
            if !Self::is_available(rest, at.wrap) {
                return Ok(n);
            }
            *slot = self.slot(at.index, rest);
            if slot.flags & NEXT != 0 {
                (slot.descriptors, slot.id) = self.extent(at)?;
            }
            at = at.plus(slot.descriptors, self.size);
            // A ring that is wholly available, looked through once.
            if at.index == self.next.index {
                return Ok(n + 1);
            }
        }
        Ok(want.min(slots.len()))
    }

    #[inline(always)]
    fn available(&mut self, most: usize) -> usize {
        let most = most.clamp(1, usize::from(self.size)) as u16;
        let last = self.next.plus(most - 1, self.size);
        if Self::is_available(self.rest(last.index), last.wrap) {
            return most.into();
        }
        usize::from(Self::is_available(self.rest(self.next.index), self.next.wrap))
    }

    fn walk(
        &self,
        slot: &Slot,
        map: &mut GuestMap,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Violation> {
        let mut part = *slot;
        for n in 1..=slot.descriptors {
            if part.flags & INDIRECT != 0 {
                if slot.descriptors > 1 {
                    return Err(Violation::IndirectNext);
                }
                let entries = indirect_entries(&part, self.indirect, self.size)?;
                // In a packed ring's table entries follow one another; only WRITE counts (§2.8.7).
                for index in 0..entries {
                    let (address, rest) = map.descriptor(part.address, index)?;
                    let entry = Slot {
                        address,
                        len: rest as u32,
                        flags: (rest >> FLAGS) as u16,
                        ..part
                    };
                    if entry.flags & INDIRECT != 0 {
                        return Err(Violation::NestedIndirect);
                    }
                    // DPDK's virtio_user (22.11) calls the header of what it transmits writable here. Reading harms nobody.
                    if direction == Direction::Receive {
                        check_direction(&entry, direction)?;
                    }
                    add_pieces(map, entry.address, entry.len, pieces, self.size)?;
                }
            } else {
                check_direction(&part, direction)?;
                add_pieces(map, part.address, part.len, pieces, self.size)?;
            }
            let first = Position {
                index: slot.next,
                wrap: false,
            };
            if n < slot.descriptors {
                let index = first.plus(n, self.size).index;
                part = self.slot(index, self.rest(index));
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self, slots: &[Slot]) {
        for slot in slots {
            self.next = self.next.plus(slot.descriptors, self.size);
        }
    }

    #[inline(always)]
    fn complete(&mut self, used: &[Used]) {
        if used.is_empty() {
            return;
        }
        // The last one first, the first one last: the driver, which waits there, then finds them all, and all buffers of a
        // frame (§5.1.6.4), however many descriptors each has. Who is killed in between leaves the last ones marked.
        self.recorded(used, |ring, after| {
            let mut at = after;
            for buffer in used.iter().rev() {
                at = at.minus(buffer.descriptors, ring.size);
                ring.write_used(at, buffer.id, buffer.len);
            }
        });
    }

    #[inline(always)]
    fn complete_transmitted(&mut self, used: &[Used]) {
        match used.last() {
            // §2.8.9, in order: one used descriptor, with the last one's id, stands for the batch.
            Some(last) if self.in_order => {
                self.recorded(used, |ring, _| ring.write_used(ring.used_next, last.id, 0));
            }
            _ => self.complete(used),
        }
    }

    #[inline(always)]
    fn must_call(&mut self) -> bool {
        let new = self.used_next.index;
        let mut old = std::mem::replace(&mut self.told, new);
        // What is used must be out before we look at what the driver wants: it does the two in the opposite order.
        fence(SeqCst);
        match self.driver_event.u16(2).load(Acquire) {
            DISABLE => false,
            DESC if self.event_idx => {
                let event = self.driver_event.u16(0).load(Relaxed);
                let mut offset = event & !WRAP;
                if new <= old {
                    old = old.wrapping_sub(self.size);
                }
                if (event & WRAP != 0) != self.used_next.wrap {
                    offset = offset.wrapping_sub(self.size);
                }
                new.wrapping_sub(offset).wrapping_sub(1) < new.wrapping_sub(old)
            }
            _ => true,
        }
    }

    fn ask_for_kicks(&mut self, yes: bool) {
        let flags = match (yes, self.event_idx) {
            (false, _) => DISABLE,
            (true, false) => ENABLE,
            (true, true) => {
                self.device_event.u16(0).store(self.next.to_bits(), Relaxed);
                DESC
            }
        };
        self.device_event.u16(2).store(flags, Release);
        fence(SeqCst);
        if let Some(log) = &self.log {
            log.event();
        }
    }

    fn base(&self) -> u32 {
        // The device's two positions (vhost-user, "Vring base for packed virtqueues").
        u32::from(self.next.to_bits()) | u32::from(self.used_next.to_bits()) << 16
    }
}
