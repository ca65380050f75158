//! A guest with a virtio-net device of one or more queue pairs.

use crate::{Calls, GuestRam, NetHeader, PackedRing, Ring, RingOptions, Segment, SplitRing, Used, feature};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// How a guest is made.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// What driver and device agreed on.
    pub features: u64,
    /// Entries of each transmit ring.
    pub tx_size: u16,
    /// Entries of each receive ring.
    pub rx_size: u16,
    /// Queue pairs.
    pub pairs: usize,
    /// Bytes of each region of memory, multiples of 4096.
    pub ram: Vec<u64>,
    /// Where all indices stand at the beginning; the wrap counter matters to packed rings.
    pub start: (u16, bool),
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            features: feature::VERSION_1 | feature::MRG_RXBUF,
            tx_size: 256,
            rx_size: 256,
            pairs: 1,
            ram: vec![16 << 20],
            start: (0, true),
        }
    }
}

/// How a buffer is cut into descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of each descriptor of the header; 0: the header is in front of the frame.
    pub header: usize,
    /// Bytes of each descriptor of the frame; 0: one for all of it.
    pub data: usize,
    /// The descriptors are in an indirect table.
    pub indirect: bool,
}

impl Shape {
    /// The lengths of the descriptors of a buffer.
    #[must_use]
    pub fn cut(&self, header: usize, data: usize) -> Vec<usize> {
        let pieces = |all: usize, by: usize| {
            let by = if by == 0 { all.max(1) } else { by };
            (0..all.div_ceil(by)).map(move |i| by.min(all - i * by))
        };
        if self.header == 0 {
            pieces(header + data, self.data).collect()
        } else {
            pieces(header, self.header)
                .chain(pieces(data, self.data))
                .collect()
        }
    }
}

/// A frame that the guest received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What was in front of it.
    pub header: NetHeader,
    /// Its bytes.
    pub frame: Vec<u8>,
    /// Buffers that it took.
    pub buffers: usize,
}

/// One queue: a ring, its notifications and the guest's buffers for it.
#[derive(Debug)]
pub struct Queue {
    /// The ring.
    pub ring: Ring,
    /// To tell the device.
    pub kick: EventFd,
    /// To be told by the device.
    pub call: EventFd,
    ram: Arc<GuestRam>,
    features: u64,
}

fn eventfd() -> EventFd {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).expect("eventfd")
}

fn duplicate(event: &EventFd) -> OwnedFd {
    event.as_fd().try_clone_to_owned().expect("a descriptor")
}

impl Queue {
    fn new(ram: &Arc<GuestRam>, features: u64, size: u16, start: (u16, bool)) -> Self {
        let options = RingOptions {
            size,
            in_order: features & feature::IN_ORDER != 0,
            event_idx: features & feature::EVENT_IDX != 0,
        };
        let ring = if features & feature::RING_PACKED != 0 {
            Ring::Packed(PackedRing::at(ram, options, start.0, start.1))
        } else {
            Ring::Split(SplitRing::at_index(ram, options, start.0))
        };
        Self {
            ring,
            kick: eventfd(),
            call: eventfd(),
            ram: ram.clone(),
            features,
        }
    }

    /// The kick's descriptor, for the device.
    #[must_use]
    pub fn kick_fd(&self) -> OwnedFd {
        duplicate(&self.kick)
    }

    /// The call's descriptor, for the device.
    #[must_use]
    pub fn call_fd(&self) -> OwnedFd {
        duplicate(&self.call)
    }

    /// Calls since the last look.
    #[must_use]
    pub fn called(&self) -> u64 {
        self.call.read().unwrap_or(0)
    }

    /// Says when the device is to call.
    pub fn calls(&mut self, when: Calls) {
        self.ring.calls(when);
    }

    /// Shows the device what was added, and kicks it if it wants that; says whether.
    pub fn flush(&mut self) -> bool {
        let wanted = self.ring.publish();
        if wanted {
            self.kick.write(1).expect("a kick");
        }
        wanted
    }

    /// Bytes of the header in front of frames.
    #[must_use]
    pub fn header_len(&self) -> usize {
        NetHeader::len(self.features)
    }

    fn free(&self, segments: &[Segment]) {
        for segment in segments {
            self.ram.free(segment.addr, segment.len.into());
        }
    }

    fn offer(&mut self, sizes: &[usize], writable: bool, indirect: bool) -> Option<Vec<Segment>> {
        let segments: Vec<Segment> = sizes
            .iter()
            .map(|&len| Segment {
                addr: self.ram.alloc(len as u64),
                len: len as u32,
                writable,
            })
            .collect();
        if self.ring.add(&segments, indirect).is_none() {
            self.free(&segments);
            return None;
        }
        Some(segments)
    }

    /// Adds a frame to a transmit queue; false if there is no room. [`Queue::flush`] sends it.
    #[must_use]
    pub fn send(&mut self, header: NetHeader, frame: &[u8], shape: Shape) -> bool {
        let n = self.header_len();
        let bytes = [&header.to_bytes()[..n], frame].concat();
        self.send_bytes(&bytes, &shape.cut(n, frame.len()), shape.indirect)
    }

    /// Adds any bytes to a transmit queue, in descriptors of these sizes; false if there is no room.
    #[must_use]
    pub fn send_bytes(&mut self, bytes: &[u8], sizes: &[usize], indirect: bool) -> bool {
        let Some(segments) = self.offer(sizes, false, indirect) else {
            return false;
        };
        let mut rest = bytes;
        for segment in segments {
            let (now, later) = rest.split_at((segment.len as usize).min(rest.len()));
            self.ram.write(segment.addr, now);
            rest = later;
        }
        true
    }

    /// Takes back buffers whose frames were sent; gives their number.
    pub fn reap(&mut self) -> usize {
        let mut n = 0;
        while let Some(used) = self.ring.used() {
            assert_eq!(used.len, 0, "nothing is to be written into what is sent");
            self.free(&used.segments);
            n += 1;
        }
        n
    }

    /// Adds a buffer for a frame of `data` bytes to a receive queue; false if there is no room.
    #[must_use]
    pub fn post(&mut self, data: usize, shape: Shape) -> bool {
        let n = self.header_len();
        self.offer(&shape.cut(n, data), true, shape.indirect).is_some()
    }

    /// Fills a receive queue; gives the number of buffers.
    pub fn fill(&mut self, data: usize, shape: Shape) -> usize {
        std::iter::from_fn(|| self.post(data, shape).then_some(())).count()
    }

    fn take_used(&mut self) -> Option<(Used, Vec<u8>)> {
        let used = self.ring.used()?;
        let mut bytes = Vec::new();
        for segment in &used.segments {
            let n = (segment.len as usize).min(used.len as usize - bytes.len());
            bytes.extend(self.ram.bytes(segment.addr, n));
        }
        self.free(&used.segments);
        Some((used, bytes))
    }

    /// The next frame that arrived.
    ///
    /// # Panics
    /// When the header makes no sense for what was agreed.
    pub fn receive(&mut self) -> Option<Received> {
        let (_, mut bytes) = self.take_used()?;
        let n = self.header_len();
        assert!(bytes.len() >= n, "{} bytes hold no header", bytes.len());
        let header = NetHeader::from_bytes(&bytes[..n]);
        let mut buffers = 1;
        if self.features & feature::MRG_RXBUF != 0 {
            while buffers < header.num_buffers {
                // All of a frame's buffers are shown at once (§5.1.6.4).
                let (_, more) = self.take_used().expect("another buffer of the frame");
                bytes.extend(more);
                buffers += 1;
            }
        }
        if n == 12 {
            assert_eq!(header.num_buffers, buffers, "num_buffers (§5.1.6.4.1)");
        }
        let frame = bytes.split_off(n);
        Some(Received {
            header,
            frame,
            buffers: buffers.into(),
        })
    }
}

/// The queues of one pair.
#[derive(Debug)]
pub struct Pair {
    /// What the guest receives from: queue 2·i.
    pub rx: Queue,
    /// What the guest sends on: queue 2·i + 1.
    pub tx: Queue,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// What driver and device agreed on.
    pub features: u64,
    /// Its queues.
    pub pairs: Vec<Pair>,
}

impl Guest {
    /// A guest whose rings are empty.
    #[must_use]
    pub fn new(options: &GuestOptions) -> Self {
        let ram = Arc::new(GuestRam::new(&options.ram));
        Self::in_memory(ram, options)
    }

    /// The same, in memory that is there: a driver that starts anew.
    #[must_use]
    pub fn in_memory(ram: Arc<GuestRam>, options: &GuestOptions) -> Self {
        let queue = |size| Queue::new(&ram, options.features, size, options.start);
        let pairs = (0..options.pairs)
            .map(|_| Pair {
                rx: queue(options.rx_size),
                tx: queue(options.tx_size),
            })
            .collect();
        Self {
            ram: ram.clone(),
            features: options.features,
            pairs,
        }
    }

    /// The first pair's receive queue.
    pub fn rx(&mut self) -> &mut Queue {
        &mut self.pairs[0].rx
    }

    /// The first pair's transmit queue.
    pub fn tx(&mut self) -> &mut Queue {
        &mut self.pairs[0].tx
    }
}
