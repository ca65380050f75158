//! A split ring as the driver sees it (virtio 1.2 §2.7).
//!
//! ```text
//!   descriptors  16·n    addr u64 │ len u32 │ flags u16 │ next u16
//!   driver area  6 + 2·n flags │ idx │ ring[n] │ used_event
//!   device area  6 + 8·n flags │ idx │ ring[n] {id u32, len u32} │ avail_event
//! ```

use crate::ring::{Offered, descriptor, need_event, write_flag};
use crate::{Calls, GuestRam, Raw, RingOptions, Segment, Used, desc_flag};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// See the module's text.
#[derive(Debug)]
pub struct SplitRing {
    ram: Arc<GuestRam>,
    options: RingOptions,
    table: u64,
    avail: u64,
    used: u64,
    free: VecDeque<u16>,
    offered: HashMap<u16, Offered>,
    /// Heads as they were offered, for a device that uses them in this order.
    order: VecDeque<u16>,
    /// Where the next head goes, and up to where the device may look.
    next: u16,
    published: u16,
    seen: u16,
    /// In order: the used entry that stands for several buffers (§2.7.9).
    batch: Option<(u16, u32)>,
}

impl SplitRing {
    /// A ring in the guest's memory, with nothing in it.
    #[must_use]
    pub fn new(ram: &Arc<GuestRam>, options: RingOptions) -> Self {
        let n = u64::from(options.size);
        // Alignments of §2.7; driver and device area 8, so that they share no word.
        let table = ram.take(16 * n, 16);
        let avail = ram.take((6 + 2 * n).next_multiple_of(8), 8);
        let used = ram.take((6 + 8 * n).next_multiple_of(8), 8);
        ram.write(avail, &vec![0; 6 + 2 * n as usize]);
        ram.write(used, &vec![0; 6 + 8 * n as usize]);
        let mut ring = Self {
            ram: ram.clone(),
            options,
            table,
            avail,
            used,
            free: (0..options.size).collect(),
            offered: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            published: 0,
            seen: 0,
            batch: None,
        };
        ring.calls(Calls::Always);
        ring
    }

    /// The same with all indices at `index`, as after that many buffers.
    #[must_use]
    pub fn at_index(ram: &Arc<GuestRam>, options: RingOptions, index: u16) -> Self {
        let mut ring = Self::new(ram, options);
        (ring.next, ring.published, ring.seen) = (index, index, index);
        ring.set_avail_index(index);
        ram.set_u16(ring.used + 2, index);
        // In order, descriptors are taken in ring order from 0 on (§2.7.9): an index of the ring, as the head.
        ring.free.rotate_left(usize::from(index % options.size));
        ring.calls(Calls::Always);
        ring
    }

    pub(crate) fn size(&self) -> u16 {
        self.options.size
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.order.len()
    }

    /// Guest addresses of the descriptors, the driver's and the device's part.
    #[must_use]
    pub fn parts(&self) -> [u64; 3] {
        [self.table, self.avail, self.used]
    }

    pub(crate) fn base(&self) -> u32 {
        self.published.into()
    }

    /// Free descriptors in ring order for a device that counts on it, else from the end, so that chains wander.
    fn take(&mut self) -> Option<u16> {
        if self.options.in_order {
            self.free.pop_front()
        } else {
            self.free.pop_back()
        }
    }

    pub(crate) fn add(&mut self, segments: &[Segment], indirect: bool) -> Option<u16> {
        let needed = if indirect { 1 } else { segments.len() };
        if self.free.len() < needed {
            return None;
        }
        let descriptors: Vec<u16> = (0..needed).filter_map(|_| self.take()).collect();
        let links = |i: usize, all: usize, next: u16| {
            if i + 1 < all {
                (desc_flag::NEXT, next)
            } else {
                (0, 0)
            }
        };
        let mut table = None;
        if indirect {
            let bytes = 16 * segments.len() as u64;
            let at = self.ram.alloc(bytes);
            for (i, segment) in segments.iter().enumerate() {
                let (flag, next) = links(i, segments.len(), i as u16 + 1);
                let bytes = descriptor(segment.addr, segment.len, [flag | write_flag(segment), next]);
                self.ram.write(at + 16 * i as u64, &bytes);
            }
            table = Some((at, bytes));
            self.put_descriptor(descriptors[0], at, bytes as u32, desc_flag::INDIRECT, 0);
        } else {
            for (i, segment) in segments.iter().enumerate() {
                let next = descriptors.get(i + 1).copied().unwrap_or(0);
                let (flag, next) = links(i, segments.len(), next);
                self.put_descriptor(
                    descriptors[i],
                    segment.addr,
                    segment.len,
                    flag | write_flag(segment),
                    next,
                );
            }
        }
        let head = descriptors[0];
        let segments = segments.to_vec();
        self.offered.insert(
            head,
            Offered {
                segments,
                descriptors,
                table,
                raw: false,
            },
        );
        self.order.push_back(head);
        self.put_head(head);
        Some(head)
    }

    /// Writes a descriptor.
    pub fn put_descriptor(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let bytes = descriptor(addr, len, [flags, next]);
        self.ram.write(self.table + 16 * u64::from(index), &bytes);
    }

    /// Writes the next entry of the avail ring, which `SplitRing::publish` shows.
    pub fn put_head(&mut self, head: u16) {
        let slot = u64::from(self.next % self.options.size);
        self.ram.set_u16(self.avail + 4 + 2 * slot, head);
        self.next = self.next.wrapping_add(1);
    }

    /// Sets the avail ring's index, whatever is in the ring.
    pub fn set_avail_index(&self, index: u16) {
        fence(Ordering::SeqCst);
        self.ram.set_u16(self.avail + 2, index);
        fence(Ordering::SeqCst);
    }

    /// Sets the avail ring's flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.ram.set_u16(self.avail, flags);
    }

    /// Sets the driver's event index.
    pub fn set_used_event(&self, index: u16) {
        let at = self.avail + 4 + 2 * u64::from(self.options.size);
        self.ram.set_u16(at, index);
        fence(Ordering::SeqCst);
    }

    /// The device's event index.
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        self.ram.u16(self.used + 4 + 8 * u64::from(self.options.size))
    }

    /// The device's flags: 1 asks for no kicks.
    #[must_use]
    pub fn used_flags(&self) -> u16 {
        self.ram.u16(self.used)
    }

    /// The device's index.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.ram.u16(self.used + 2)
    }

    /// Where `SplitRing::publish` was last.
    #[must_use]
    pub fn published(&self) -> u16 {
        self.published
    }

    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.next);
        self.set_avail_index(new);
        self.published = new;
        if old == new {
            return false;
        }
        if self.options.event_idx {
            need_event(self.avail_event(), new, old)
        } else {
            self.used_flags() & 1 == 0
        }
    }

    pub(crate) fn used(&mut self) -> Option<Used> {
        let ready = self.used_index().wrapping_sub(self.seen);
        let shown = self.published.wrapping_sub(self.seen);
        assert!(ready <= shown, "the device used {ready} buffers of {shown}");
        if ready == 0 {
            return None;
        }
        fence(Ordering::SeqCst);
        let (id, len) = self.batch.take().unwrap_or_else(|| {
            let slot = u64::from(self.seen % self.options.size);
            let entry = self.ram.bytes(self.used + 4 + 8 * slot, 8);
            let number = |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
            let id = u16::try_from(number(0)).expect("a used id of 16 bits");
            (id, number(4))
        });
        self.seen = self.seen.wrapping_add(1);
        if self.options.in_order {
            return Some(self.used_in_order(id, len, ready));
        }
        let offered = self.offered.remove(&id);
        let Some(offered) = offered else {
            panic!("the device used {id}, which it has not")
        };
        self.order.retain(|&head| head != id);
        Some(self.give_back(id, offered, len))
    }

    /// One entry may stand for several buffers, of which it names the last (§2.7.9); those before it were used whole.
    fn used_in_order(&mut self, id: u16, len: u32, ready: u16) -> Used {
        let at = self.order.iter().position(|&head| head == id);
        let Some(at) = at.filter(|&at| at < usize::from(ready)) else {
            panic!(
                "the device used {id}, which is not among the next {ready} of {:?}",
                self.order
            );
        };
        let head = self.order.pop_front().expect("it has one");
        let offered = self.offered.remove(&head).expect("offered");
        if at > 0 {
            self.batch = Some((id, len));
            let room = offered.room();
            return self.give_back(head, offered, room);
        }
        self.give_back(head, offered, len)
    }

    fn give_back(&mut self, id: u16, offered: Offered, len: u32) -> Used {
        self.free.extend(&offered.descriptors);
        offered.finish(&self.ram, id, len)
    }

    pub(crate) fn calls(&mut self, when: Calls) {
        let event = match when {
            Calls::Always => self.seen,
            Calls::After(n) => self.seen.wrapping_add(n).wrapping_sub(1),
            Calls::Never => self.seen.wrapping_sub(1),
        };
        if self.options.event_idx {
            self.set_used_event(event);
        } else {
            assert!(!matches!(when, Calls::After(_)), "this needs EVENT_IDX");
            self.set_avail_flags(u16::from(when == Calls::Never));
        }
    }

    pub(crate) fn offer_raw(&mut self, chain: &[Raw]) -> Vec<u16> {
        let places: Vec<u16> = chain.iter().filter_map(|_| self.take()).collect();
        assert_eq!(places.len(), chain.len(), "free descriptors");
        for (i, raw) in chain.iter().enumerate() {
            let next = places.get(i + 1).copied().unwrap_or(0);
            self.put_descriptor(places[i], raw.addr, raw.len, raw.flags, next);
        }
        let head = places[0];
        let offered = Offered {
            segments: Vec::new(),
            descriptors: places.clone(),
            table: None,
            raw: true,
        };
        self.offered.insert(head, offered);
        self.order.push_back(head);
        self.put_head(head);
        let _ = self.publish();
        places
    }

    pub(crate) fn rewrite(&self, index: u16, raw: Raw) {
        let at = self.table + 16 * u64::from(index);
        let word = self.ram.word(at + 8);
        let next = u16::from_le_bytes([word[6], word[7]]);
        self.put_descriptor(index, raw.addr, raw.len, raw.flags, next);
    }
}
