use super::super::ring::FakeKernel;
use super::*;
use crate::{HugePages, UmemGeometry};

const SIZES: RingSizes = RingSizes { rx: 32, tx: 32 };
const CHUNK: u32 = 2048;

struct Setup {
    umem: Umem,
    pools: PoolSet,
    port: AfXdpPort,
    kernel: FakeKernel,
}

/// A port whose rings are shared with the test instead of a kernel. It claims zero copy, in which no system
/// call is needed unless a ring's need_wakeup flag is set.
fn setup() -> Setup {
    let geometry = UmemGeometry {
        chunk_size: CHUNK,
        chunks: 256,
        huge_pages: HugePages::Off,
    };
    let umem = Umem::new(geometry).expect("memory");
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let (rings, kernel, file) = FakeKernel::new(SIZES);
    let parts = Parts {
        rings,
        fd: Arc::new(file.into()),
        umem: umem.clone(),
        interface: Interface {
            name: "fake".into(),
            index: 0,
        },
        queue: 0,
        zero_copy: true,
        multi_buffer: true,
        busy_poll: None,
        tx_budget: 32,
    };
    let mut port = AfXdpPort::new(parts);
    port.reclaim(&mut pools);
    Setup {
        umem,
        pools,
        port,
        kernel,
    }
}

impl Setup {
    fn rx(&mut self) -> Vec<u32> {
        let mut batch = FrameBatch::new();
        self.port.rx_batch(&mut self.pools, &mut batch);
        batch
            .into_iter()
            .map(|frame| {
                let len = frame.len();
                self.pools.free(frame);
                len
            })
            .collect()
    }

    fn finish(self) {
        drop((self.port, self.pools));
        assert_eq!(self.umem.depot_chunks(), 256, "chunks are lost");
    }
}

#[test]
fn descriptors_that_make_no_sense_touch_nothing_and_are_counted() {
    let mut s = setup();
    let lent: Vec<u64> = std::iter::from_fn(|| s.kernel.take_fill()).collect();
    assert_eq!(lent.len(), 32);
    // Beyond the UMEM, far beyond, not lent.
    for address in [256 * u64::from(CHUNK), u64::MAX, 255 * u64::from(CHUNK)] {
        s.kernel.give_rx(address, 60, false);
    }
    // Too long for what is left of the chunk: the chunk comes home all the same.
    s.kernel.give_rx(lent[0] + 256, CHUNK - 255, false);
    s.kernel.give_rx(lent[1] + 256, u32::MAX, false);
    // The same chunk twice.
    s.kernel.give_rx(lent[2] + 256, 61, false);
    s.kernel.give_rx(lent[2] + 256, 62, false);
    s.kernel.give_rx(lent[3] + 256, CHUNK - 256, false);
    assert_eq!(s.rx(), [61, CHUNK - 256]);
    assert_eq!(s.port.invalid, 6);
    assert_eq!(s.port.received_into.count(), 28);
    // Completions of what was never sent.
    let frame = s.pools.frame_from(s.umem.id(), &[0; 60]).expect("chunk");
    assert_eq!(s.port.tx_batch(&mut s.pools, &mut vec![frame]).packets, 1);
    let (address, 60, false) = s.kernel.take_tx().expect("a frame") else {
        panic!("another frame")
    };
    for address in [lent[4], u64::MAX, address, address] {
        s.kernel.give_completion(address);
    }
    s.port.reclaim(&mut s.pools);
    assert_eq!((s.port.invalid, s.port.sent_from.count()), (6 + 3, 0));
    s.finish();
}

#[test]
fn a_packet_of_several_buffers_is_handed_over_whole_or_not_at_all() {
    let mut s = setup();
    let mut lent = std::iter::from_fn({
        let mut all: std::collections::VecDeque<u64> = std::iter::from_fn(|| s.kernel.take_fill()).collect();
        move || all.pop_front()
    });
    let mut next = || lent.next().expect("32 were lent") + 256;
    // Half a packet: nothing is handed over until the rest is there.
    s.kernel.give_rx(next(), 1000, true);
    s.kernel.give_rx(next(), 1000, true);
    assert_eq!(s.rx(), [0u32; 0]);
    s.kernel.give_rx(next(), 5, false);
    s.kernel.give_rx(next(), 60, false);
    assert_eq!(s.rx(), [2005, 60]);
    // A bad buffer in the middle takes its packet along, and only that.
    s.kernel.give_rx(next(), 1000, true);
    s.kernel.give_rx(u64::MAX, 1000, true);
    s.kernel.give_rx(next(), 1000, true);
    s.kernel.give_rx(next(), 1000, false);
    s.kernel.give_rx(next(), 61, false);
    assert_eq!((s.rx(), s.port.invalid), (vec![61], 1));
    // A bad buffer at the end.
    s.kernel.give_rx(next(), 1000, true);
    s.kernel.give_rx(u64::MAX, 1000, false);
    s.kernel.give_rx(next(), 62, false);
    assert_eq!((s.rx(), s.port.invalid), (vec![62], 2));
    s.port.reclaim(&mut s.pools);
    s.finish();
}

#[test]
fn a_packet_of_too_many_buffers_is_thrown_away() {
    let mut s = setup();
    let lent: Vec<u64> = std::iter::from_fn(|| s.kernel.take_fill()).collect();
    for (i, address) in lent.iter().take(MAX_SEGMENTS + 1).enumerate() {
        s.kernel.give_rx(address + 256, 100, i < MAX_SEGMENTS);
    }
    s.kernel.give_rx(lent[31] + 256, 60, false);
    assert_eq!((s.rx(), s.port.invalid), (vec![60], 1));
    s.port.reclaim(&mut s.pools);
    assert_eq!(s.port.received_into.count(), 32);
    // As many as are allowed.
    let again: Vec<u64> = std::iter::from_fn(|| s.kernel.take_fill()).collect();
    for (i, address) in again.iter().take(MAX_SEGMENTS).enumerate() {
        s.kernel.give_rx(address + 256, 100, i + 1 < MAX_SEGMENTS);
    }
    assert_eq!(s.rx(), [100 * MAX_SEGMENTS as u32]);
    s.finish();
}

#[test]
fn half_a_packet_is_freed_when_the_port_closes() {
    let mut s = setup();
    let address = s.kernel.take_fill().expect("lent");
    s.kernel.give_rx(address + 256, 100, true);
    assert_eq!(s.rx(), [0u32; 0]);
    s.finish();
}

#[test]
fn a_chained_frame_is_sent_whole_or_not_at_all() {
    let mut s = setup();
    let long = vec![7; 9000];
    let mut frames: Vec<Frame> = (0..7)
        .map(|_| s.pools.frame_from(s.umem.id(), &long).expect("chunks"))
        .collect();
    // Six chunks each: five fit into a ring of 32.
    assert_eq!(s.port.tx_batch(&mut s.pools, &mut frames).packets, 5);
    assert_eq!(frames.len(), 2);
    for _ in 0..5 {
        let descriptors: Vec<_> = (0..6)
            .map(|_| s.kernel.take_tx().expect("a descriptor"))
            .collect();
        assert_eq!(descriptors.iter().map(|&(_, len, _)| len).sum::<u32>(), 9000);
        assert_eq!(
            descriptors.iter().map(|d| d.2).collect::<Vec<_>>(),
            [true, true, true, true, true, false]
        );
        descriptors.iter().for_each(|d| s.kernel.give_completion(d.0));
    }
    assert_eq!(s.kernel.take_tx(), None);
    assert_eq!(s.port.tx_batch(&mut s.pools, &mut frames).packets, 2);
    s.finish();
}

#[test]
fn without_multi_buffer_long_frames_are_freed_and_counted() {
    let mut s = setup();
    s.port.report.multi_buffer = false;
    let mut frames: Vec<Frame> = [9000, 1792, 1793]
        .map(|len| s.pools.frame_from(s.umem.id(), &vec![7; len]).expect("chunks"))
        .into();
    // Pulled headers leave a frame of two segments that one chunk can hold.
    let mut pulled = s.pools.frame_from(s.umem.id(), &[7; 1800]).expect("chunks");
    assert!(pulled.advance(100));
    frames.push(pulled);
    let counts = s.port.tx_batch(&mut s.pools, &mut frames);
    let (packets, bytes, unsendable) = (2, 1792 + 1700, 2);
    assert_eq!(
        counts,
        TxCounts {
            packets,
            bytes,
            unsendable
        }
    );
    assert!(frames.is_empty());
    assert_eq!(s.kernel.take_tx().map(|d| (d.1, d.2)), Some((1792, false)));
    assert_eq!(s.kernel.take_tx().map(|d| (d.1, d.2)), Some((1700, false)));
    assert_eq!(s.kernel.take_tx(), None);
    s.finish();
}

#[test]
fn receiving_leaves_chunks_for_sending() {
    let mut s = setup();
    let mut hoard: Vec<Frame> = std::iter::from_fn(|| s.pools.alloc(s.umem.id())).collect();
    assert_eq!(hoard.len(), 256 - 32);
    let lent: Vec<u64> = std::iter::from_fn(|| s.kernel.take_fill()).collect();
    lent.iter()
        .for_each(|address| s.kernel.give_rx(address + 256, 60, false));
    let mut batch = FrameBatch::new();
    s.port.rx_batch(&mut s.pools, &mut batch);
    // 40 chunks are free, 32 of them (an eighth of the UMEM) are not for the fill ring.
    hoard.drain(..40).for_each(|frame| s.pools.free(frame));
    s.port.reclaim(&mut s.pools);
    assert_eq!(s.port.received_into.count(), 8);
    hoard
        .into_iter()
        .chain(batch)
        .for_each(|frame| s.pools.free(frame));
    s.finish();
}
