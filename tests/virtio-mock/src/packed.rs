//! A packed ring as the driver sees it (virtio 1.2 §2.8).
//!
//! ```text
//!   ring         16·n   addr u64 │ len u32 │ id u16 │ flags u16: AVAIL and USED against a wrap counter
//!   driver area  4      off_wrap u16 │ flags u16       device area  the same
//! ```

use crate::ring::{Offered, descriptor, need_event, write_flag};
use crate::{Calls, GuestRam, Raw, RingOptions, Segment, Used, desc_flag};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// A place in the ring and the wrap counter there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: u16,
    wrap: bool,
}

impl Place {
    fn forward(self, by: u16, size: u16) -> Self {
        let at = u32::from(self.at) + u32::from(by);
        if at >= size.into() {
            Self {
                at: (at - u32::from(size)) as u16,
                wrap: !self.wrap,
            }
        } else {
            Self {
                at: at as u16,
                wrap: self.wrap,
            }
        }
    }

    fn word(self) -> u16 {
        self.at | u16::from(self.wrap) << 15
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct PackedRing {
    ram: Arc<GuestRam>,
    options: RingOptions,
    ring: u64,
    driver: u64,
    device: u64,
    ids: VecDeque<u16>,
    offered: HashMap<u16, Offered>,
    order: VecDeque<u16>,
    free: u16,
    next: Place,
    seen: Place,
    /// Heads that the device does not see yet: where, and the upper eight bytes of their descriptors.
    hidden: Vec<(u16, [u8; 8])>,
    added: u16,
    batch: Option<(u16, u32)>,
}

impl PackedRing {
    /// A ring in the guest's memory, with nothing in it.
    #[must_use]
    pub fn new(ram: &Arc<GuestRam>, options: RingOptions) -> Self {
        Self::at(ram, options, 0, true)
    }

    /// The same with both sides at a place, as after some rounds.
    #[must_use]
    pub fn at(ram: &Arc<GuestRam>, options: RingOptions, at: u16, wrap: bool) -> Self {
        let n = u64::from(options.size);
        let ring = ram.take(16 * n, 16);
        let driver = ram.take(8, 8);
        let device = ram.take(8, 8);
        // Behind the place, descriptors are used ones of the round before; before it, of this round.
        for i in 0..options.size {
            let used = (i < at) == wrap;
            let flags = if used {
                desc_flag::AVAIL | desc_flag::USED
            } else {
                0
            };
            ram.write(ring + 16 * u64::from(i), &descriptor(0, 0, [0, flags]));
        }
        ram.write(driver, &[0; 8]);
        ram.write(device, &[0; 8]);
        let place = Place { at, wrap };
        Self {
            ram: ram.clone(),
            options,
            ring,
            driver,
            device,
            // Ids need not be in order, and here they are not.
            ids: (0..options.size).rev().collect(),
            offered: HashMap::new(),
            order: VecDeque::new(),
            free: options.size,
            next: place,
            seen: place,
            hidden: Vec::new(),
            added: 0,
            batch: None,
        }
    }

    pub(crate) fn size(&self) -> u16 {
        self.options.size
    }

    pub(crate) fn free(&self) -> usize {
        self.free.into()
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.order.len()
    }

    /// Guest addresses of the descriptors, the driver's and the device's part.
    #[must_use]
    pub fn parts(&self) -> [u64; 3] {
        [self.ring, self.driver, self.device]
    }

    /// Index and wrap counter of the driver in the lower half, of the device in the upper (vhost-user.rst, "Vring
    /// state description").
    pub(crate) fn base(&self) -> u32 {
        let word = u32::from(self.next.word());
        word | word << 16
    }

    pub(crate) fn add(&mut self, segments: &[Segment], indirect: bool) -> Option<u16> {
        let needed = if indirect { 1 } else { segments.len() };
        if usize::from(self.free) < needed {
            return None;
        }
        let id = self.ids.pop_front()?;
        let mut table = None;
        if indirect {
            let bytes = 16 * segments.len() as u64;
            let at = self.ram.alloc(bytes);
            for (i, segment) in segments.iter().enumerate() {
                // Only WRITE means anything here, ids nothing (§2.8.7).
                let bytes = descriptor(segment.addr, segment.len, [0x5a5a, write_flag(segment)]);
                self.ram.write(at + 16 * i as u64, &bytes);
            }
            table = Some((at, bytes));
            let raw = Raw {
                addr: at,
                len: bytes as u32,
                flags: desc_flag::INDIRECT,
            };
            self.put_chain(&[raw], id);
        } else {
            let last = segments.len() - 1;
            let chain: Vec<Raw> = segments
                .iter()
                .enumerate()
                .map(|(i, segment)| Raw {
                    addr: segment.addr,
                    len: segment.len,
                    flags: write_flag(segment) | if i < last { desc_flag::NEXT } else { 0 },
                })
                .collect();
            self.put_chain(&chain, id);
        }
        self.free -= needed as u16;
        let offered = Offered {
            segments: segments.to_vec(),
            descriptors: vec![0; needed],
            table,
            raw: false,
        };
        self.offered.insert(id, offered);
        self.order.push_back(id);
        Some(id)
    }

    /// Writes descriptors in ring order, all but the first one's flags. The id counts in the last only (§2.8.6).
    fn put_chain(&mut self, chain: &[Raw], id: u16) {
        for (i, raw) in chain.iter().enumerate() {
            let place = self.next;
            let turn = if place.wrap {
                desc_flag::AVAIL
            } else {
                desc_flag::USED
            };
            let id = if i + 1 == chain.len() { id } else { 0xdead };
            let bytes = descriptor(raw.addr, raw.len, [id, raw.flags | turn]);
            let at = self.ring + 16 * u64::from(place.at);
            self.ram.write(at, &bytes[..8]);
            let mut upper = [0; 8];
            upper.copy_from_slice(&bytes[8..]);
            if i == 0 {
                self.hidden.push((place.at, upper));
            } else {
                self.ram.write(at + 8, &upper);
            }
            self.next = place.forward(1, self.options.size);
        }
        self.added += chain.len() as u16;
    }

    /// Writes a descriptor, with whatever flags.
    pub fn put_descriptor(&self, index: u16, addr: u64, len: u32, id: u16, flags: u16) {
        let bytes = descriptor(addr, len, [id, flags]);
        let at = self.ring + 16 * u64::from(index);
        self.ram.write(at, &bytes[..8]);
        self.ram.write(at + 8, &bytes[8..]);
    }

    /// Where the next descriptor goes: its index and the wrap counter.
    #[must_use]
    pub fn place(&self) -> (u16, bool) {
        (self.next.at, self.next.wrap)
    }

    /// The flags that make a descriptor available in a round with this wrap counter.
    #[must_use]
    pub fn available(wrap: bool) -> u16 {
        if wrap { desc_flag::AVAIL } else { desc_flag::USED }
    }

    pub(crate) fn publish(&mut self) -> bool {
        fence(Ordering::SeqCst);
        for (at, upper) in std::mem::take(&mut self.hidden) {
            self.ram.write(self.ring + 16 * u64::from(at) + 8, &upper);
        }
        fence(Ordering::SeqCst);
        let added = std::mem::take(&mut self.added);
        added > 0 && self.wants_kick(added)
    }

    /// §2.8.10 and the C code of §2.8.21.3.1.
    fn wants_kick(&self, added: u16) -> bool {
        let (off_wrap, flags) = self.device_event();
        match flags {
            1 => false,
            2 if self.options.event_idx => {
                let mut event = off_wrap & 0x7fff;
                if (off_wrap >> 15 == 1) != self.next.wrap {
                    event = event.wrapping_sub(self.options.size);
                }
                need_event(event, self.next.at, self.next.at.wrapping_sub(added))
            }
            // What a driver does not know it takes for a yes.
            _ => true,
        }
    }

    /// The device's event suppression: off_wrap and flags.
    #[must_use]
    pub fn device_event(&self) -> (u16, u16) {
        let word = self.ram.word(self.device);
        (
            u16::from_le_bytes([word[0], word[1]]),
            u16::from_le_bytes([word[2], word[3]]),
        )
    }

    /// Writes the driver's event suppression.
    pub fn set_driver_event(&self, off_wrap: u16, flags: u16) {
        let mut word = [0; 8];
        word[..2].copy_from_slice(&off_wrap.to_le_bytes());
        word[2..4].copy_from_slice(&flags.to_le_bytes());
        fence(Ordering::SeqCst);
        self.ram.write(self.driver, &word);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn used(&mut self) -> Option<Used> {
        if let Some((id, len)) = self.batch.take() {
            return Some(self.used_in_order(id, len));
        }
        let at = self.ring + 16 * u64::from(self.seen.at) + 8;
        let upper = self.ram.word(at);
        let word = |i: usize| u16::from_le_bytes([upper[i], upper[i + 1]]);
        let flags = word(6);
        let is = |flag: u16| flags & flag != 0;
        if self.order.is_empty()
            || is(desc_flag::AVAIL) != self.seen.wrap
            || is(desc_flag::USED) != self.seen.wrap
        {
            return None;
        }
        fence(Ordering::SeqCst);
        let id = word(4);
        // Bytes are meant only where the device wrote some (§2.8.5).
        let len = if is(desc_flag::WRITE) {
            u32::from_le_bytes([upper[0], upper[1], upper[2], upper[3]])
        } else {
            0
        };
        if self.options.in_order {
            return Some(self.used_in_order(id, len));
        }
        self.order.retain(|&other| other != id);
        Some(self.give_back(id, len))
    }

    /// One used descriptor may stand for several buffers, of which it names the last (§2.8.9).
    fn used_in_order(&mut self, id: u16, len: u32) -> Used {
        assert!(
            self.order.contains(&id),
            "the device used {id}, not one of {:?}",
            self.order
        );
        let first = self.order.pop_front().expect("it has one");
        if first == id {
            return self.give_back(id, len);
        }
        self.batch = Some((id, len));
        let room = self.offered[&first].room();
        self.give_back(first, room)
    }

    fn give_back(&mut self, id: u16, len: u32) -> Used {
        let Some(offered) = self.offered.remove(&id) else {
            panic!("the device used {id}, which it has not");
        };
        let n = offered.descriptors.len() as u16;
        self.seen = self.seen.forward(n, self.options.size);
        self.free += n;
        self.ids.push_back(id);
        offered.finish(&self.ram, id, len)
    }

    pub(crate) fn calls(&mut self, when: Calls) {
        match when {
            Calls::Always => self.set_driver_event(0, 0),
            Calls::Never => self.set_driver_event(0, 1),
            Calls::After(n) => {
                assert!(self.options.event_idx, "this needs EVENT_IDX");
                let place = self.seen.forward(n - 1, self.options.size);
                self.set_driver_event(place.word(), 2);
            }
        }
    }

    pub(crate) fn offer_raw(&mut self, chain: &[Raw]) -> Vec<u16> {
        let n = chain.len() as u16;
        assert!(n <= self.free, "free descriptors");
        let id = self.ids.pop_front().expect("an id");
        let first = self.next;
        let places = (0..n).map(|i| first.forward(i, self.options.size).at).collect();
        self.put_chain(chain, id);
        self.free -= n;
        let offered = Offered {
            segments: Vec::new(),
            descriptors: vec![0; n.into()],
            table: None,
            raw: true,
        };
        self.offered.insert(id, offered);
        self.order.push_back(id);
        let _ = self.publish();
        places
    }

    pub(crate) fn rewrite(&self, index: u16, raw: Raw) {
        let at = self.ring + 16 * u64::from(index);
        let word = self.ram.word(at + 8);
        let (id, old) = (
            u16::from_le_bytes([word[4], word[5]]),
            u16::from_le_bytes([word[6], word[7]]),
        );
        let turn = old & (desc_flag::AVAIL | desc_flag::USED);
        self.put_descriptor(index, raw.addr, raw.len, id, raw.flags | turn);
    }
}
