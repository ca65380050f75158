//! The split virtqueue (virtio 1.2 §2.7).
//!
//! ```text
//!   descriptors: 16 bytes each    available: flags, idx, ring[size], used_event     used: flags, idx, {id, len}[size], avail_event
//! ```

use super::inflight::SplitInflight;
use super::log::RingLog;
use super::map::GuestMap;
use super::memory::GuestMemory;
use super::port::{VringConfig, VringError};
use super::ring::{
    Direction, F_EVENT_IDX, F_IN_ORDER, F_INDIRECT_DESC, INDIRECT, NEXT, RingPart, Slot, Slots, Used,
    Violation, Vring, add_pieces, check_direction, indirect_entries,
};
use crate::DirtyLog;
use crate::frame::Piece;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

const IDX: usize = 2;
const RING: usize = 4;
const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;

pub(super) struct SplitRing {
    descriptors: RingPart,
    available: RingPart,
    used: RingPart,
    size: u16,
    /// The next entry of the available ring to take.
    next: u16,
    /// The available index as it was last seen.
    seen: u16,
    /// The next entry of the used ring to write.
    used_next: u16,
    /// `used_next` when the driver was last told.
    told: u16,
    event_idx: bool,
    in_order: bool,
    indirect: bool,
    log: Option<RingLog>,
    inflight: Option<SplitInflight>,
}

impl SplitRing {
    pub(super) fn new(config: &VringConfig, memory: &GuestMemory, features: u64) -> Result<Self, VringError> {
        let size = config.size;
        if !size.is_power_of_two() || size > 32768 {
            return Err(VringError::Size(size));
        }
        let n = usize::from(size);
        let part = |part, address, bytes: usize, align| {
            RingPart::find(memory, address, bytes, align).ok_or(VringError::Address {
                part,
                address,
                bytes: bytes as u64,
            })
        };
        let used = part("used ring", config.device, 6 + 8 * n, 4)?;
        // All that was ever taken was also completed when we stopped, or were killed: so the used index is where to go
        // on, whatever the front-end remembers.
        let next = used.u16(IDX).load(Acquire);
        let mut ring = Self {
            descriptors: part("descriptor table", config.descriptors, 16 * n, 16)?,
            available: part("available ring", config.driver, 6 + 2 * n, 2)?,
            used,
            size,
            next,
            seen: next,
            used_next: next,
            told: next,
            event_idx: features & F_EVENT_IDX != 0,
            in_order: features & F_IN_ORDER != 0,
            indirect: features & F_INDIRECT_DESC != 0,
            log: None,
            inflight: None,
        };
        ring.open_inflight(config)?;
        Ok(ring)
    }

    /// Has what is written marked in a dirty log.
    pub(super) fn log_to(&mut self, log: Arc<DirtyLog>, address: u64) -> &RingLog {
        let used = (address, 6 + 8 * u64::from(self.size));
        self.log.insert(RingLog {
            log,
            used,
            event: used,
        })
    }

    fn open_inflight(&mut self, config: &VringConfig) -> Result<(), VringError> {
        let Some(region) = &config.inflight else {
            return Ok(());
        };
        let (inflight, left) =
            SplitInflight::open(region, self.size, self.used_next).ok_or(VringError::Inflight(self.size))?;
        self.inflight = Some(inflight);
        self.next = self.next.wrapping_add(left.len() as u16);
        self.seen = self.next;
        if !left.is_empty() {
            self.complete(&left);
        }
        Ok(())
    }

    #[inline(always)]
    fn mask(&self) -> u16 {
        self.size - 1
    }

    /// How many entries are available by now.
    #[inline(always)]
    fn look(&mut self) -> Result<usize, Violation> {
        let seen = self.available.u16(IDX).load(Acquire);
        let n = seen.wrapping_sub(self.next);
        if n > self.size {
            return Err(Violation::IndexJump {
                from: self.next,
                to: seen,
                size: self.size,
            });
        }
        self.seen = seen;
        Ok(usize::from(n))
    }

    /// A descriptor of the ring's table or of an indirect one: address, and length, flags and next.
    #[inline(always)]
    fn descriptor(table: &RingPart, index: u16) -> (u64, u64) {
        let at = usize::from(index) * 16;
        (table.u64(at).load(Relaxed), table.u64(at + 8).load(Relaxed))
    }

    #[inline(always)]
    fn slot(id: u16, (address, rest): (u64, u64)) -> Slot {
        Slot {
            address,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
            id,
            descriptors: 1,
        }
    }

    #[inline(always)]
    fn write_used(&self, index: u16, id: u16, len: u32) {
        let at = RING + usize::from(index & self.mask()) * 8;
        let (id_at, len_at) = (self.used.u32(at), self.used.u32(at + 4));
        // What is there already is not written: the line stays shared with the driver's core.
        if id_at.load(Relaxed) != u32::from(id) {
            id_at.store(id.into(), Relaxed);
        }
        if len_at.load(Relaxed) != len {
            len_at.store(len, Relaxed);
        }
    }

    #[inline(always)]
    fn publish(&mut self, n: usize) {
        self.used_next = self.used_next.wrapping_add(n as u16);
        self.used.u16(IDX).store(self.used_next, Release);
        if let Some(inflight) = &self.inflight {
            inflight.used(self.used_next);
        }
        if let Some(log) = &self.log {
            log.used();
        }
    }
}

impl Vring for SplitRing {
    #[inline(always)]
    fn fetch(&mut self, want: usize, slots: &mut Slots) -> Result<usize, Violation> {
        let mut n = usize::from(self.seen.wrapping_sub(self.next));
        if n < want {
            n = self.look()?;
        }
        let n = n.min(want).min(slots.len());
        for (i, slot) in slots[..n].iter_mut().enumerate() {
            let at = self.next.wrapping_add(i as u16) & self.mask();
            let id = self.available.u16(RING + usize::from(at) * 2).load(Relaxed);
            if id >= self.size {
                return Err(Violation::HeadOutOfRange { id, size: self.size });
            }
            *slot = Self::slot(id, Self::descriptor(&self.descriptors, id));
        }
        Ok(n)
    }

    #[inline(always)]
    fn available(&mut self, _: usize) -> usize {
        // What jumps is found when it is fetched.
        self.look().unwrap_or(usize::from(self.size))
    }

    fn walk(
        &self,
        slot: &Slot,
        map: &mut GuestMap,
        direction: Direction,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Violation> {
        let mut slot = *slot;
        // The indirect table that we are in: its address and entries.
        let mut indirect: Option<(u64, u16)> = None;
        for _ in 0..=self.size {
            if slot.flags & INDIRECT != 0 {
                if indirect.is_some() {
                    return Err(Violation::NestedIndirect);
                }
                let entries = indirect_entries(&slot, self.indirect, self.size)?;
                indirect = Some((slot.address, entries));
                slot = Self::slot(slot.id, map.descriptor(slot.address, 0)?);
                continue;
            }
            check_direction(&slot, direction)?;
            add_pieces(map, slot.address, slot.len, pieces, self.size)?;
            if slot.flags & NEXT == 0 {
                return Ok(());
            }
            let next = slot.next;
            let size = indirect.map_or(self.size, |(_, entries)| entries);
            if next >= size {
                return Err(Violation::NextOutOfRange { next, size });
            }
            let descriptor = match indirect {
                None => Self::descriptor(&self.descriptors, next),
                Some((table, _)) => map.descriptor(table, next)?,
            };
            slot = Self::slot(slot.id, descriptor);
        }
        Err(Violation::ChainTooLong { size: self.size })
    }

    #[inline(always)]
    fn take(&mut self, slots: &[Slot]) {
        self.next = self.next.wrapping_add(slots.len() as u16);
    }

    #[inline(always)]
    fn complete(&mut self, used: &[Used]) {
        // An index that stays is not written either: the driver's core would have to load it again.
        if used.is_empty() {
            return;
        }
        for (i, buffer) in used.iter().enumerate() {
            self.write_used(self.used_next.wrapping_add(i as u16), buffer.id, buffer.len);
        }
        self.publish(used.len());
    }

    #[inline(always)]
    fn complete_transmitted(&mut self, used: &[Used]) {
        // §2.7.9, in order: one entry, at the batch's first place and with the last one's id, stands for the batch.
        match used.last() {
            Some(last) if self.in_order => {
                self.write_used(self.used_next, last.id, last.len);
                self.publish(used.len());
            }
            _ => self.complete(used),
        }
    }

    #[inline(always)]
    fn must_call(&mut self) -> bool {
        let told = std::mem::replace(&mut self.told, self.used_next);
        // The index must be out before we look at what the driver wants: it does the two in the opposite order.
        fence(SeqCst);
        if self.event_idx {
            let event = self
                .available
                .u16(RING + usize::from(self.size) * 2)
                .load(Relaxed);
            // §2.7.10.1
            self.used_next.wrapping_sub(event).wrapping_sub(1) < self.used_next.wrapping_sub(told)
        } else {
            told != self.used_next && self.available.u16(0).load(Relaxed) & NO_INTERRUPT == 0
        }
    }

    fn ask_for_kicks(&mut self, yes: bool) {
        if self.event_idx {
            // §2.7.10: a kick when the entry at this index is made available. Not asking is leaving it behind.
            if yes {
                let at = RING + usize::from(self.size) * 8;
                self.used.u16(at).store(self.next, Relaxed);
            }
        } else {
            self.used.u16(0).store(if yes { 0 } else { NO_NOTIFY }, Relaxed);
        }
        fence(SeqCst);
        if let Some(log) = &self.log {
            log.event();
        }
    }

    fn base(&self) -> u32 {
        self.next.into()
    }
}
