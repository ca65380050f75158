//! What tests of vhost-user ports stand on: guests of the mock driver, a worker's pools, and loops like a worker's.

// Not every test file uses all of it.
#![allow(dead_code, unreachable_pub)]

use clearway_io::{
    Frame, FrameBatch, GuestMemory, GuestShare, HugePages, PoolSet, Port, RegionSpec, TxCounts, Umem,
    UmemGeometry, VhostConfig, VhostPort, VringConfig,
};
use clearway_virtio_mock::{GuestRam, NetHeader, Queue, RamRegion, Received, Shape, feature};
use std::sync::Arc;

pub use clearway_virtio_mock::{Guest, GuestOptions};

/// How a buffer of a driver that is not special looks.
pub const WHOLE: Shape = Shape {
    header: 0,
    data: 0,
    indirect: false,
};

/// How a region looks in the messages.
pub fn region(region: &RamRegion) -> RegionSpec {
    RegionSpec {
        guest_address: region.guest,
        size: region.size,
        user_address: region.user,
        mmap_offset: region.offset,
    }
}

/// A guest's memory, mapped.
pub fn memory(ram: &GuestRam) -> Arc<GuestMemory> {
    let regions = ram.regions().iter().map(|r| (region(r), r.fd()));
    Arc::new(GuestMemory::map(&GuestShare::new(), regions).expect("memory"))
}

/// A ring of a guest that has just started.
pub fn vring(ram: &GuestRam, queue: &Queue) -> VringConfig {
    let [descriptors, driver, device] = queue.ring.parts().map(|part| ram.user(part));
    VringConfig {
        size: queue.ring.size(),
        descriptors,
        driver,
        device,
        base: queue.ring.base(),
        enabled: true,
        kick: Some(queue.kick_fd()),
        call: Some(queue.call_fd()),
        record: None,
        log_address: None,
        inflight: None,
    }
}

/// A guest's first queue pair.
pub fn config(guest: &Guest) -> VhostConfig {
    let pair = &guest.pairs[0];
    VhostConfig {
        memory: memory(&guest.ram),
        features: guest.features,
        log: None,
        transmit: Some(vring(&guest.ram, &pair.tx)),
        receive: Some(vring(&guest.ram, &pair.rx)),
    }
}

/// A worker's share: pools of one UMEM.
pub struct Bed {
    pub umem: Umem,
    pub pools: PoolSet,
    chunks: u32,
}

impl Bed {
    pub fn new(chunks: u32) -> Self {
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks,
            huge_pages: HugePages::Off,
        };
        let umem = Umem::new(geometry).expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        Self { umem, pools, chunks }
    }

    pub fn port(&self, guest: &Guest) -> VhostPort {
        VhostPort::new(config(guest), &self.umem).expect("a port")
    }

    pub fn guest(&self, options: &GuestOptions) -> (Guest, VhostPort) {
        let guest = Guest::new(options);
        let port = self.port(&guest);
        (guest, port)
    }

    /// One batch of what a port has, read to the last byte.
    pub fn receive(&mut self, port: &mut impl Port) -> Vec<Vec<u8>> {
        let mut batch = FrameBatch::new();
        let n = port.rx_batch(&mut self.pools, &mut batch);
        assert_eq!(n, batch.len(), "the number of frames added");
        let frames = batch.iter().map(bytes).collect();
        batch.drain(..).for_each(|frame| self.pools.free(frame));
        port.rx_done();
        frames
    }

    /// Frames of these bytes, sent in one go; gives the counts and how many were refused.
    pub fn transmit(&mut self, port: &mut impl Port, frames: &[Vec<u8>]) -> (TxCounts, usize) {
        let mut list: Vec<Frame> = frames
            .iter()
            .map(|bytes| self.pools.frame_from(self.umem.id(), bytes).expect("chunks"))
            .collect();
        let counts = port.tx_batch(&mut self.pools, &mut list);
        let left = list.len();
        list.drain(..).for_each(|frame| self.pools.free(frame));
        (counts, left)
    }

    /// One batch from a port to another, as a worker does it with a cross-connect. What is refused is dropped. Gives
    /// frames received, what was sent, and frames refused.
    pub fn forward(&mut self, from: &mut impl Port, to: &mut impl Port) -> (usize, TxCounts, usize) {
        let mut batch = FrameBatch::new();
        let n = from.rx_batch(&mut self.pools, &mut batch);
        assert_eq!(n, batch.len(), "the number of frames added");
        let mut list: Vec<Frame> = batch.drain(..).collect();
        let counts = if list.is_empty() {
            TxCounts::default()
        } else {
            to.tx_batch(&mut self.pools, &mut list)
        };
        let left = list.len();
        list.drain(..).for_each(|frame| self.pools.free(frame));
        from.rx_done();
        from.reclaim(&mut self.pools);
        to.reclaim(&mut self.pools);
        (n, counts, left)
    }

    /// Every chunk must be home when the ports are gone.
    pub fn finish(self) {
        drop(self.pools);
        assert_eq!(self.umem.depot_chunks(), self.chunks, "chunks that came home");
    }
}

/// All bytes of a frame, also those in a guest's memory.
pub fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len() as usize];
    let mut reader = frame.reader();
    let (first, rest) = bytes.split_at_mut((frame.len() / 3) as usize);
    assert_eq!(reader.read(first) + reader.read(rest), frame.len() as usize);
    assert_eq!(reader.read(&mut [0]), 0, "the frame's end");
    bytes
}

/// A frame of `len` bytes, different for every number.
pub fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut frame: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect();
    let head = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    let n = head.len().min(len);
    frame[..n].copy_from_slice(&head[..n]);
    frame
}

/// All that a guest has received.
pub fn received(queue: &mut Queue) -> Vec<Received> {
    std::iter::from_fn(|| queue.receive()).collect()
}

/// The frames among them; none has anything left undone.
pub fn plain_frames(queue: &mut Queue) -> Vec<Vec<u8>> {
    received(queue)
        .into_iter()
        .map(|one| {
            let buffers = one.header.num_buffers;
            let plain = NetHeader {
                num_buffers: buffers,
                ..NetHeader::default()
            };
            assert_eq!(one.header, plain);
            one.frame
        })
        .collect()
}

/// Features of every kind of ring: split and packed, in order or not, with EVENT_IDX or not, indirect or not, mergeable
/// or not.
pub fn kinds() -> impl Iterator<Item = u64> {
    let bits = [
        feature::RING_PACKED,
        feature::IN_ORDER,
        feature::EVENT_IDX,
        feature::INDIRECT_DESC,
        feature::MRG_RXBUF,
    ];
    (0..32u32).map(move |mask| {
        let chosen = bits.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
        chosen.fold(feature::VERSION_1, |all, (_, bit)| all | bit)
    })
}
