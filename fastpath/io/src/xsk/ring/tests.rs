use super::*;
use std::os::fd::AsFd;

const SIZE: u32 = 8;

fn fake() -> std::fs::File {
    let file = tempfile::tempfile().expect("temporary file");
    file.set_len(4096).expect("sparse file");
    file
}

fn shared(file: &std::fs::File) -> Shared<u64> {
    let at = xdp_ring_offset {
        producer: 0,
        consumer: 64,
        flags: 128,
        desc: 192,
    };
    Shared::map(file.as_fd(), SIZE, &at, 0).expect("mapping")
}

#[test]
fn entries_cross_in_order_and_cursors_wrap() {
    let file = fake();
    let start = u32::MAX - 2;
    let init = shared(&file);
    init.producer().store(start, Ordering::Relaxed);
    init.consumer().store(start, Ordering::Relaxed);
    let (mut producer, mut consumer) = (Producer::new(shared(&file)), Consumer::new(shared(&file)));
    let mut next = 0u64;
    for round in 0..20u64 {
        assert_eq!(producer.room(SIZE), SIZE);
        for i in 0..=round % 8 {
            producer.push(round * 100 + i);
        }
        assert_eq!(
            consumer.available(),
            0,
            "nothing is visible before it is published"
        );
        producer.publish();
        assert_eq!(u64::from(producer.pending()), round % 8 + 1);
        for i in 0..=round % 8 {
            assert_eq!(consumer.pop(), Some(round * 100 + i));
            next += 1;
        }
        assert_eq!(consumer.pop(), None);
        assert_eq!(
            u64::from(producer.room(SIZE)),
            8 - (round % 8 + 1),
            "not given back yet"
        );
        consumer.release();
    }
    assert_eq!(producer.next, start.wrapping_add(next as u32));
}

#[test]
fn a_second_mapping_goes_on_where_the_first_stopped() {
    let file = fake();
    let (mut producer, mut consumer) = (Producer::new(shared(&file)), Consumer::new(shared(&file)));
    assert_eq!(producer.room(1), SIZE);
    (0..5).for_each(|i| producer.push(i));
    producer.publish();
    assert_eq!((consumer.pop(), consumer.pop()), (Some(0), Some(1)));
    consumer.release();
    drop((producer, consumer));
    let (mut producer, mut consumer) = (Producer::new(shared(&file)), Consumer::new(shared(&file)));
    assert_eq!((producer.room(SIZE), consumer.pop()), (5, Some(2)));
}

#[test]
fn cursors_that_make_no_sense_mean_full_or_empty() {
    let file = fake();
    let ring = shared(&file);
    ring.consumer().store(5000, Ordering::Relaxed);
    assert_eq!(Producer::new(shared(&file)).room(1), 0);
    ring.consumer().store(0, Ordering::Relaxed);
    ring.producer().store(SIZE + 1, Ordering::Relaxed);
    assert_eq!(Consumer::new(shared(&file)).pop(), None);
}

#[test]
fn offsets_outside_the_mapping_are_refused() {
    let file = fake();
    for at in [
        xdp_ring_offset {
            producer: 4096,
            consumer: 64,
            flags: 128,
            desc: 192,
        },
        xdp_ring_offset {
            producer: 0,
            consumer: 66,
            flags: 128,
            desc: 192,
        },
        xdp_ring_offset {
            producer: 0,
            consumer: 64,
            flags: u64::MAX - 2,
            desc: 192,
        },
    ] {
        assert!(Shared::<u64>::map(file.as_fd(), SIZE, &at, 0).is_err());
    }
    let at = xdp_ring_offset {
        producer: 0,
        consumer: 64,
        flags: 128,
        desc: 192,
    };
    assert!(
        Shared::<u64>::map(file.as_fd(), 7, &at, 0).is_err(),
        "not a power of two"
    );
}

/// What a successor process does: it has the socket and the memfd, maps both, registers nothing, and the
/// next frame it reads is the one after the last that its predecessor read.
#[test]
fn a_successor_maps_socket_and_memory_and_reads_on() {
    use crate::*;
    if !support::fresh_netns() {
        return;
    }
    support::veth("far", "near", 1500);
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks: 1024,
        huge_pages: HugePages::Off,
    };
    let umem = Umem::new(geometry).expect("memory");
    let mut pools = PoolSet::new();
    pools.add(&umem);
    let near = Interface::find("near").expect("near");
    let config = QueueConfig {
        rings: RingSizes { rx: 128, tx: 128 },
        ..QueueConfig::for_queues(1)
    };
    let mut port = UmemGroup::new(umem.clone())
        .open(&near, 0, &config)
        .expect("port");
    let mut program = XdpProgram::load(Steering::Exclusive).expect("program");
    program.register(0, port.socket()).expect("register");
    program.attach(&near, ModeRequest::Auto, false).expect("attach");
    let wire = support::Wire::open("far");

    // The predecessor reads the first 500 frames; 20 more arrive before the successor is there.
    let mut batch = FrameBatch::new();
    for number in 0..500 {
        port.reclaim(&mut pools);
        wire.send(&support::frame(number, 100));
        let one = || (port.rx_batch(&mut pools, &mut batch) > 0).then_some(());
        support::within(support::PATIENCE, one).expect("a frame");
        for frame in batch.drain(..) {
            assert_eq!(frame.bytes(), support::frame(number, 100));
            pools.free(frame);
        }
    }
    port.reclaim(&mut pools);
    (500..520).for_each(|number| wire.send(&support::frame(number, 100)));

    let socket = port.socket().try_clone_to_owned().expect("dup");
    let mut rings = Rings::map(socket.as_fd(), config.rings).expect("rings");
    let memory = Mapping::new(umem.fd(), umem.bytes(), 0).expect("memory");
    for number in 500..1000 {
        if number >= 520 {
            wire.send(&support::frame(number, 100));
        }
        let desc = support::within(support::PATIENCE, || rings.rx.pop()).expect("a descriptor");
        let bytes: NonNull<[u8; 100]> = memory.at(desc.addr, 1).expect("inside the UMEM");
        // SAFETY: `at` checked the bounds; the kernel wrote the frame before it published the descriptor.
        let bytes = unsafe { bytes.read() };
        assert_eq!((desc.len, &bytes[..]), (100, &support::frame(number, 100)[..]));
        rings.rx.release();
        assert!(rings.fill.room(1) > 0);
        rings.fill.push(desc.addr & !2047);
        rings.fill.publish();
    }
    assert!(rings.rx.is_empty());
    drop((rings, socket, program, port, pools));
    assert_eq!(umem.depot_chunks(), 1024, "chunks are lost");
}
