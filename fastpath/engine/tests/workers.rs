//! Workers as threads, and several of them: sleeping, waking, frames for another worker's port.

mod common;

use clearway_engine::*;
use clearway_io::{AnyPort, HugePages, MemoryPeer, PoolSet, Umem, UmemGeometry, memory_port};
use common::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn umem() -> Umem {
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks: CHUNKS,
        huge_pages: HugePages::Off,
    };
    Umem::new(geometry).expect("memory")
}

fn cross_connect(to: u16) -> Option<Arc<PortConf>> {
    Some(Arc::new(PortConf {
        service: Service::CrossConnect(PortId(to)),
        ..PortConf::default()
    }))
}

fn add(engine: &mut Engine, worker: u8, port: u16, ring: usize, umem: &Umem) -> MemoryPeer {
    let (io, peer) = memory_port(ring).expect("eventfd");
    engine
        .add_queue(
            WorkerId(worker),
            PortId(port),
            0,
            AnyPort::Memory(io),
            Some(umem.id()),
        )
        .expect("queue");
    peer
}

/// More ports than are polled always, so that most are parked and their worker sleeps between frames. The
/// second frame of each pair arrives about when the worker falls asleep.
#[test]
fn a_frame_on_a_parked_port_never_waits_for_another_one() {
    const PORTS: u16 = 40;
    let config = EngineConfig {
        cores: vec![None],
        idle: Idle::Adaptive,
        fdb_capacity: 64,
        fdb_seed: 1,
    };
    let mut engine = Engine::start(&config).expect("engine");
    let umem = umem();
    let mut pools = PoolSet::new();
    pools.add(&umem);
    engine.add_region(&umem).expect("region");
    let mut peers: Vec<_> = (0..PORTS)
        .map(|port| add(&mut engine, 0, port, 64, &umem))
        .collect();
    engine
        .publish(Snapshot {
            ports: (0..PORTS).map(|port| cross_connect(port ^ 1)).collect(),
            ..Snapshot::default()
        })
        .expect("publish");
    engine.wait_applied().expect("applied");
    for round in 0..300u16 {
        let port = round % (PORTS - 2) + 2;
        for (from, pause) in [(0, 90 + u64::from(round % 40)), (port, 0)] {
            let frame = pools.frame_from(umem.id(), &[7; 60]).expect("chunk");
            peers[usize::from(from)].send(frame).expect("room");
            let sent = Instant::now();
            while sent.elapsed() < Duration::from_micros(pause) {
                std::hint::spin_loop();
            }
        }
        for to in [1, port ^ 1] {
            let sent = Instant::now();
            let frame = loop {
                if let Some(frame) = peers[usize::from(to)].recv() {
                    break frame;
                }
                let waited = sent.elapsed();
                assert!(
                    waited < Duration::from_secs(10),
                    "round {round}: nothing came out of port {to}"
                );
                std::thread::yield_now();
            };
            pools.free(frame);
        }
    }
    drop(engine.stop().expect("stopped"));
    drop((peers, pools));
    assert_eq!(umem.depot_chunks(), CHUNKS, "a chunk was lost");
}

#[test]
fn the_frames_of_many_workers_for_one_port_all_reach_its_ring() {
    const WORKERS: u8 = 6;
    let config = EngineConfig {
        cores: vec![None; usize::from(WORKERS)],
        idle: Idle::Spin,
        fdb_capacity: 64,
        fdb_seed: 1,
    };
    let (mut engine, mut workers) = Engine::manual(&config).expect("engine");
    let umem = umem();
    let mut pools = PoolSet::new();
    pools.add(&umem);
    engine.add_region(&umem).expect("region");
    let mut peers: Vec<_> = (0..WORKERS)
        .map(|w| add(&mut engine, w, w.into(), 1024, &umem))
        .collect();
    engine
        .publish(Snapshot {
            ports: (0..WORKERS).map(|_| cross_connect(0)).collect(),
            ..Snapshot::default()
        })
        .expect("publish");
    workers.iter_mut().for_each(|w| {
        w.turn();
    });
    for peer in &mut peers[1..] {
        for _ in 0..128 {
            let frame = pools.frame_from(umem.id(), &[7; 60]).expect("chunk");
            peer.send(frame).expect("room");
        }
    }
    // The others first: the owner of port 0 then finds five full batches at once.
    workers.iter_mut().rev().for_each(|w| {
        w.turn();
    });
    let frames: Vec<_> = std::iter::from_fn(|| peers[0].recv()).collect();
    assert_eq!(frames.len(), 5 * 128);
    frames.into_iter().for_each(|frame| pools.free(frame));
    drop((workers, engine, peers, pools));
    assert_eq!(umem.depot_chunks(), CHUNKS, "a chunk was lost");
}

/// A port with several queues on one worker sends on the one that goes with the queue that the frames came from.
#[test]
fn queues_of_a_port_share_the_work_and_keep_flows_in_order() {
    let config = EngineConfig {
        cores: vec![None],
        idle: Idle::Spin,
        fdb_capacity: 64,
        fdb_seed: 1,
    };
    let (mut engine, mut workers) = Engine::manual(&config).expect("engine");
    let umem = umem();
    let mut pools = PoolSet::new();
    pools.add(&umem);
    engine.add_region(&umem).expect("region");
    let mut peers = Vec::new();
    for (port, queue) in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 0)] {
        let (io, peer) = memory_port(64).expect("eventfd");
        let (port, region) = (PortId(port), Some(umem.id()));
        engine
            .add_queue(WorkerId(0), port, queue, AnyPort::Memory(io), region)
            .expect("queue");
        peers.push(peer);
    }
    let snapshot = Snapshot {
        ports: vec![cross_connect(1), cross_connect(0)],
        ..Snapshot::default()
    };
    engine.publish(snapshot).expect("publish");
    for queue in 0..3u8 {
        for n in 0..10 {
            let frame = pools.frame_from(umem.id(), &[queue, n, 0]).expect("chunk");
            peers[usize::from(queue)].send(frame).expect("room");
        }
    }
    workers[0].turn();
    workers[0].turn();
    // Of port 1, queue 1 was added first. Queues 0 and 2 of port 0 go to its queue 0.
    for (peer, from) in [(3, &[1u8][..]), (4, &[0, 2])] {
        let mut got = Vec::new();
        while let Some(frame) = peers[peer].recv() {
            got.push((frame.bytes()[0], frame.bytes()[1]));
            pools.free(frame);
        }
        let wanted: Vec<_> = from
            .iter()
            .flat_map(|queue| (0..10).map(move |n| (*queue, n)))
            .collect();
        assert_eq!(got, wanted);
    }
}
