//! The contract of `Port`: every kind goes through the same tests.
//!
//! A kind is opened with the frames that are to arrive on it and gives the port and its far end. The AF_XDP
//! kind needs root and runs over a veth pair in a network namespace of the test's thread.

mod support;

use clearway_io::{
    AnyPort, BATCH, Frame, FrameBatch, HugePages, Interface, MemoryPeer, MemoryPort, ModeRequest,
    PcapngConfig, PcapngPort, PodProgram, PoolSet, Port, QueueConfig, RegionId, RingSizes, Steering,
    TapDevice, TapPort, TxCounts, Umem, UmemGeometry, UmemGroup, XdpProgram, memory_port,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use std::any::Any;
use std::collections::VecDeque;
use std::time::Duration;
use support::{PATIENCE, Wire, frame, fresh_netns, held, readable, up, veth};

/// Frames that the rings of the kinds with rings hold.
const RING: u32 = 64;

/// What is at the other end of the port under test.
trait Far {
    /// Sends some more of the frames that are to arrive, as many as may be under way at a time.
    fn pump(&mut self) {}
    /// What the port has sent.
    fn received(&mut self) -> Vec<Vec<u8>>;
}

trait Kind {
    /// Frames that a `tx_batch` takes at most; none: all.
    const CAPACITY: Option<usize>;
    /// Whether arrivals come from `Far::pump` and not by themselves.
    const PUMPED: bool;
    /// None: this user can't have it (the reason is printed).
    fn open(umem: &Umem, arrivals: Vec<Vec<u8>>) -> Option<(AnyPort, impl Far)>;
}

struct Memory;

struct MemoryFar {
    peer: MemoryPeer,
    pools: PoolSet,
    region: RegionId,
    arrivals: VecDeque<Vec<u8>>,
}

impl Kind for Memory {
    const CAPACITY: Option<usize> = Some(RING as usize);
    const PUMPED: bool = true;

    fn open(_: &Umem, arrivals: Vec<Vec<u8>>) -> Option<(AnyPort, impl Far)> {
        let (port, peer): (MemoryPort, _) = memory_port(RING as usize).expect("eventfd");
        let own = umem(1024);
        let mut pools = PoolSet::new();
        pools.add(&own);
        let far = MemoryFar {
            peer,
            pools,
            region: own.id(),
            arrivals: arrivals.into(),
        };
        Some((AnyPort::Memory(port), far))
    }
}

impl Far for MemoryFar {
    fn pump(&mut self) {
        for bytes in self.arrivals.drain(..self.arrivals.len().min(10)) {
            let frame = self.pools.frame_from(self.region, &bytes).expect("chunks");
            self.peer.send(frame).expect("the port reads");
        }
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.peer.recv())
            .map(|frame| {
                let bytes = bytes_of(&frame);
                self.pools.free(frame);
                bytes
            })
            .collect()
    }
}

struct Capture;

struct CaptureFar {
    folder: tempfile::TempDir,
    seen: usize,
}

impl Kind for Capture {
    const CAPACITY: Option<usize> = None;
    const PUMPED: bool = false;

    fn open(umem: &Umem, arrivals: Vec<Vec<u8>>) -> Option<(AnyPort, impl Far)> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (input, output) = (folder.path().join("in.pcapng"), folder.path().join("out.pcapng"));
        // A port of the same kind writes the input; its reader is the pcap-file crate's in `received`.
        let write = PcapngConfig {
            output: Some(input.clone()),
            ..PcapngConfig::default()
        };
        let mut writer = PcapngPort::open(&write, umem).expect("writer");
        let mut pools = PoolSet::new();
        pools.add(umem);
        let mut frames = frames_of(&mut pools, umem, &arrivals);
        writer.tx_batch(&mut pools, &mut frames);
        drop(writer);
        let config = PcapngConfig {
            input: Some(input),
            output: Some(output),
            ..PcapngConfig::default()
        };
        let port = PcapngPort::open(&config, umem).expect("port");
        Some((AnyPort::Pcapng(Box::new(port)), CaptureFar { folder, seen: 0 }))
    }
}

impl Far for CaptureFar {
    fn received(&mut self) -> Vec<Vec<u8>> {
        let file = std::fs::File::open(self.folder.path().join("out.pcapng")).expect("output");
        let mut reader = PcapNgReader::new(file).expect("pcapng");
        let mut all = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.expect("a whole block") {
                all.push(packet.data.into_owned());
            }
        }
        let new = all.split_off(self.seen);
        self.seen += new.len();
        new
    }
}

struct AfXdp<const GENERIC: bool, const POD: bool>;

struct AfXdpFar {
    wire: Wire,
    arrivals: VecDeque<Vec<u8>>,
    /// What gives it the interface's frames: a program of its own, or its part of the one of pods.
    _program: Box<dyn Any>,
}

impl<const GENERIC: bool, const POD: bool> Kind for AfXdp<GENERIC, POD> {
    const CAPACITY: Option<usize> = Some(RING as usize);
    const PUMPED: bool = true;

    fn open(umem: &Umem, arrivals: Vec<Vec<u8>>) -> Option<(AnyPort, impl Far)> {
        if !fresh_netns() {
            return None;
        }
        veth("far", "near", 9000);
        let mode = if GENERIC {
            ModeRequest::Generic
        } else {
            ModeRequest::Auto
        };
        let rings = RingSizes { rx: RING, tx: RING };
        let config = QueueConfig {
            rings,
            mode,
            busy_poll: None,
            tx_budget: RING,
        };
        let near = Interface::find("near").expect("near");
        let port = UmemGroup::new(umem.clone())
            .open(&near, 0, &config)
            .expect("port");
        let program: Box<dyn Any> = if POD {
            let program = PodProgram::load().expect("program");
            Box::new(program.attach(&port, mode).expect("attach").expect("a slot"))
        } else {
            let mut program = XdpProgram::load(Steering::Exclusive).expect("program");
            program.register(0, port.socket()).expect("register");
            program.attach(&near, mode, false).expect("attach");
            Box::new(program)
        };
        let far = AfXdpFar {
            wire: Wire::open("far"),
            arrivals: arrivals.into(),
            _program: program,
        };
        Some((AnyPort::AfXdp(Box::new(port)), far))
    }
}

impl Far for AfXdpFar {
    fn pump(&mut self) {
        // A packet of 9000 bytes takes six buffers of a ring of 64.
        for bytes in self.arrivals.drain(..self.arrivals.len().min(8)) {
            self.wire.send(&bytes);
        }
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        waiting(&self.wire)
    }
}

struct Tap<const QUEUES: u16>;

struct TapFar {
    wire: Wire,
    arrivals: VecDeque<Vec<u8>>,
    /// Further queues of the device, which the kernel gives nothing.
    _others: Vec<TapPort>,
}

impl<const QUEUES: u16> Kind for Tap<QUEUES> {
    const CAPACITY: Option<usize> = None;
    const PUMPED: bool = true;

    fn open(umem: &Umem, arrivals: Vec<Vec<u8>>) -> Option<(AnyPort, impl Far)> {
        if !fresh_netns() {
            return None;
        }
        let device = TapDevice::open("far", QUEUES).expect("a TAP");
        up(&["far"], 9000);
        let mut ports = device.ports(umem);
        let port = ports.remove(0);
        let far = TapFar {
            wire: Wire::open("far"),
            arrivals: arrivals.into(),
            _others: ports,
        };
        Some((AnyPort::Tap(Box::new(port)), far))
    }
}

impl Far for TapFar {
    fn pump(&mut self) {
        for bytes in self.arrivals.drain(..self.arrivals.len().min(20)) {
            self.wire.send(&bytes);
        }
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        waiting(&self.wire)
    }
}

/// What is on a wire by now, once something is.
fn waiting(wire: &Wire) -> Vec<Vec<u8>> {
    let others = std::iter::from_fn(|| wire.try_recv());
    wire.recv().into_iter().chain(others).collect()
}

fn umem(chunks: u32) -> Umem {
    Umem::new(UmemGeometry {
        chunk_size: 2048,
        chunks,
        huge_pages: HugePages::Off,
    })
    .expect("memory")
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len() as usize];
    assert_eq!(frame.reader().read(&mut bytes), bytes.len());
    bytes
}

fn frames_of(pools: &mut PoolSet, umem: &Umem, all: &[Vec<u8>]) -> Vec<Frame> {
    all.iter()
        .map(|bytes| pools.frame_from(umem.id(), bytes).expect("chunks"))
        .collect()
}

fn numbered(count: u32, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| frame(number, len)).collect()
}

/// Everything that arrives until `count` frames did or nothing comes for a while.
fn arrived(port: &mut AnyPort, far: &mut impl Far, pools: &mut PoolSet, count: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    support::within(PATIENCE, || {
        port.reclaim(pools);
        far.pump();
        let mut batch = FrameBatch::new();
        let n = port.rx_batch(pools, &mut batch);
        assert_eq!(n, batch.len());
        for frame in batch {
            all.push(bytes_of(&frame));
            pools.free(frame);
        }
        port.rx_done();
        assert_eq!(port.fault(), None);
        (all.len() >= count).then_some(())
    });
    all
}

fn frames_arrive_in_order<K: Kind>() {
    let umem = umem(1024);
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let sent: Vec<_> = numbered(500, 60).into_iter().chain(numbered(20, 9000)).collect();
    let Some((mut port, mut far)) = K::open(&umem, sent.clone()) else {
        return;
    };
    let got = arrived(&mut port, &mut far, &mut pools, sent.len());
    assert_eq!(got.len(), sent.len());
    assert!(got == sent, "order or content differ");
    assert_eq!(port.rx_lost(), Default::default());
    drop((port, far, pools));
    assert_eq!(umem.depot_chunks(), 1024, "chunks are lost");
}

fn a_batch_that_has_room_for_little_gets_little<K: Kind>() {
    let umem = umem(1024);
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let Some((mut port, mut far)) = K::open(&umem, numbered(8, 60)) else {
        return;
    };
    port.reclaim(&mut pools);
    far.pump();
    let mut batch = FrameBatch::new();
    (0..BATCH - 3).for_each(|_| batch.push(Frame::default()));
    let added = support::within(PATIENCE, || {
        Some(port.rx_batch(&mut pools, &mut batch)).filter(|n| *n > 0)
    });
    assert_eq!((added, batch.len()), (Some(3), BATCH));
    assert_eq!(
        port.rx_batch(&mut pools, &mut batch),
        0,
        "a full batch takes nothing"
    );
    let numbers: Vec<u8> = batch[BATCH - 3..].iter().map(|frame| frame.bytes()[17]).collect();
    assert_eq!(numbers, [0, 1, 2]);
    batch.drain(..).for_each(|frame| pools.free(frame));
    assert_eq!(arrived(&mut port, &mut far, &mut pools, 5), numbered(8, 60)[3..]);
    drop((port, far, pools));
    assert_eq!(umem.depot_chunks(), 1024, "chunks are lost");
}

fn frames_are_sent_in_order_and_a_full_ring_refuses_the_rest<K: Kind>() {
    let umem = umem(1024);
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let Some((mut port, mut far)) = K::open(&umem, Vec::new()) else {
        return;
    };
    let sent = numbered(100, 60);
    let mut frames = frames_of(&mut pools, &umem, &sent);
    let mut got = Vec::new();
    let mut calls = 0;
    while !frames.is_empty() {
        let before = frames.len();
        let counts = port.tx_batch(&mut pools, &mut frames);
        let taken = before.min(K::CAPACITY.unwrap_or(usize::MAX));
        assert_eq!(
            counts,
            TxCounts {
                packets: taken as u64,
                bytes: 60 * taken as u64,
                unsendable: 0
            }
        );
        assert_eq!(frames.len(), before - taken);
        // What is refused is what comes next.
        assert!(
            frames
                .first()
                .is_none_or(|frame| frame.bytes()[17] == 100 - frames.len() as u8)
        );
        let expected = got.len() + taken;
        while got.len() < expected {
            port.reclaim(&mut pools);
            let more = far.received();
            assert!(!more.is_empty(), "only {} of {expected} arrived", got.len());
            got.extend(more);
        }
        calls += 1;
    }
    assert_eq!(
        calls,
        K::CAPACITY.map_or(1, |capacity| 100usize.div_ceil(capacity))
    );
    assert!(got == sent, "order or content differ");
    drop((port, far, pools));
    assert_eq!(umem.depot_chunks(), 1024, "chunks are lost");
}

fn long_frames_and_frames_of_other_regions_are_sent<K: Kind>() {
    let (own, other) = (umem(1024), umem(256));
    let mut pools = PoolSet::new();
    pools.add(&own);
    pools.add(&other);
    let Some((mut port, mut far)) = K::open(&own, Vec::new()) else {
        return;
    };
    let long = numbered(8, 9000);
    let mut frames = frames_of(&mut pools, &own, &long[..4]);
    frames.extend(frames_of(&mut pools, &other, &long[4..]));
    frames.extend(frames_of(&mut pools, &other, &numbered(3, 100)));
    let counts = port.tx_batch(&mut pools, &mut frames);
    assert_eq!(
        (counts.packets, counts.bytes, frames.len()),
        (11, 8 * 9000 + 300, 0)
    );
    port.reclaim(&mut pools);
    let mut got = far.received();
    while got.len() < 11 {
        let more = far.received();
        assert!(!more.is_empty(), "only {} of 11 arrived", got.len());
        got.extend(more);
    }
    assert!(
        got[..8] == long && got[8..] == numbered(3, 100),
        "order or content differ"
    );
    drop((port, far, pools));
    assert_eq!(
        (own.depot_chunks(), other.depot_chunks()),
        (1024, 256),
        "chunks are lost"
    );
}

/// What is in a guest's memory is copied within the call: nothing that is sent points there.
fn held_frames_are_sent_whole<K: Kind>() {
    let umem = umem(1024);
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let Some((mut port, mut far)) = K::open(&umem, Vec::new()) else {
        return;
    };
    let sent: Vec<_> = [100, 300, 1514, 9000]
        .into_iter()
        .flat_map(|len| numbered(2, len))
        .collect();
    let mut frames: Vec<Frame> = sent
        .iter()
        .map(|bytes| held(&mut pools, umem.id(), bytes, bytes.len().min(256) - 20))
        .collect();
    let counts = port.tx_batch(&mut pools, &mut frames);
    assert_eq!(
        (counts.packets, counts.bytes, frames.len()),
        (8, 2 * (100 + 300 + 1514 + 9000), 0)
    );
    port.reclaim(&mut pools);
    let mut got = far.received();
    while got.len() < sent.len() {
        let more = far.received();
        assert!(!more.is_empty(), "only {} of {} arrived", got.len(), sent.len());
        got.extend(more);
    }
    assert!(got == sent, "order or content differ");
    drop((port, far, pools));
    assert_eq!(umem.depot_chunks(), 1024, "chunks are lost");
}

fn a_sleeper_is_woken<K: Kind>() {
    let umem = umem(1024);
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let Some((mut port, mut far)) = K::open(&umem, numbered(1, 60)) else {
        return;
    };
    port.reclaim(&mut pools);
    if K::PUMPED {
        assert!(!port.arm(), "nothing has arrived");
        assert!(!readable(
            port.wait_fd().expect("can be slept on"),
            Duration::ZERO
        ));
        far.pump();
        assert!(
            readable(port.wait_fd().expect("can be slept on"), PATIENCE),
            "nobody woke us"
        );
    }
    assert!(port.arm(), "a frame waits");
    assert_eq!(arrived(&mut port, &mut far, &mut pools, 1), numbered(1, 60));
    assert!(!port.arm(), "nothing waits any more");
    drop((port, far, pools));
    assert_eq!(umem.depot_chunks(), 1024, "chunks are lost");
}

/// Frames that wait in the port when it goes must not take their chunks with them.
fn frames_that_nobody_took_come_home<K: Kind>() {
    let umem = umem(1024);
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let Some((mut port, mut far)) = K::open(&umem, numbered(8, 60)) else {
        return;
    };
    port.reclaim(&mut pools);
    far.pump();
    let mut frames = frames_of(&mut pools, &umem, &numbered(8, 60));
    port.tx_batch(&mut pools, &mut frames);
    drop((port, far, pools));
    assert_eq!((frames.len(), umem.depot_chunks()), (0, 1024), "chunks are lost");
}

macro_rules! contract {
    ($($kind:ident: $type:ty),*) => {$(
        mod $kind {
            use super::*;
            #[test] fn frames_arrive_in_order() { super::frames_arrive_in_order::<$type>(); }
            #[test] fn a_batch_that_has_room_for_little_gets_little() { super::a_batch_that_has_room_for_little_gets_little::<$type>(); }
            #[test] fn frames_are_sent_in_order() { super::frames_are_sent_in_order_and_a_full_ring_refuses_the_rest::<$type>(); }
            #[test] fn long_and_foreign_frames_are_sent() { super::long_frames_and_frames_of_other_regions_are_sent::<$type>(); }
            #[test] fn held_frames_are_sent_whole() { super::held_frames_are_sent_whole::<$type>(); }
            #[test] fn a_sleeper_is_woken() { super::a_sleeper_is_woken::<$type>(); }
            #[test] fn frames_that_nobody_took_come_home() { super::frames_that_nobody_took_come_home::<$type>(); }
        }
    )*};
}

contract!(memory: Memory, capture: Capture, af_xdp: AfXdp<false, false>, af_xdp_generic: AfXdp<true, false>,
    af_xdp_pod: AfXdp<false, true>, af_xdp_pod_generic: AfXdp<true, true>, tap: Tap<1>);
