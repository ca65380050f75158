//! Rings that are started, stopped, taken up again, disabled, impossible.

use super::bed::{Bed, Guest, GuestOptions, WHOLE, config, frame, kinds, plain_frames};
use clearway_io::{Frame, FrameBatch, Port, VhostConfig, VhostPort, VringError};
use clearway_virtio_mock::feature;

#[test]
fn bases_are_given_back_and_taken_up_again() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        let options = GuestOptions {
            features,
            tx_size: if features & feature::RING_PACKED != 0 {
                13
            } else {
                16
            },
            rx_size: 32,
            ..GuestOptions::default()
        };
        let mut guest = Guest::new(&options);
        let mut next = config(&guest);
        let mut number = 0;
        for round in 0..50 {
            let mut port = VhostPort::new(next, &bed.umem).expect("a port");
            let burst = 1 + round % 11;
            guest.rx().fill(500, WHOLE);
            guest.rx().flush();
            let frames: Vec<Vec<u8>> = (0..burst).map(|i| frame(number + i, 400)).collect();
            number += burst;
            for one in &frames {
                assert!(guest.tx().send(Default::default(), one, WHOLE));
            }
            guest.tx().flush();
            // In every other round the port is taken away while its frames are under way.
            let mut batch = FrameBatch::new();
            assert_eq!(port.rx_batch(&mut bed.pools, &mut batch), burst);
            assert!(batch.iter().map(super::bed::bytes).eq(frames.clone()));
            batch.drain(..).for_each(|frame| bed.pools.free(frame));
            if round % 2 == 0 {
                port.rx_done();
            }
            assert_eq!(bed.transmit(&mut port, &frames).0.packets, burst as u64);
            next = port.into_config();
            assert_eq!(guest.tx().reap(), burst);
            assert!(plain_frames(guest.rx()) == frames);
            let base = next.transmit.as_ref().map(|ring| ring.base);
            assert_eq!(base, Some(guest.tx().ring.base()), "{features:#x}");
            // Buffers of the receive queue are still out: the base says how far the device got.
            let base = next.receive.as_ref().map_or(0, |ring| ring.base);
            if features & feature::RING_PACKED == 0 {
                assert_eq!(base, number as u32 % 65_536);
            } else {
                let (laps, at) = (number / 32, number % 32);
                let word = at as u32 | if laps % 2 == 0 { 0x8000 } else { 0 };
                assert_eq!(base, word | word << 16);
            }
        }
        bed.finish();
    }
}

#[test]
fn a_packed_ring_starts_as_virtio_user_says_it_too() {
    // DPDK's virtio_user sets the wrap counter of the lower half only.
    let mut bed = Bed::new(64);
    let options = GuestOptions {
        features: feature::VERSION_1 | feature::RING_PACKED,
        ..GuestOptions::default()
    };
    let mut guest = Guest::new(&options);
    let mut config = config(&guest);
    for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
        ring.base = 0x8000;
    }
    let mut port = VhostPort::new(config, &bed.umem).expect("a port");
    assert!(guest.tx().send(Default::default(), &frame(1, 60), WHOLE) && guest.rx().post(100, WHOLE));
    guest.tx().flush();
    guest.rx().flush();
    assert_eq!(bed.receive(&mut port), [frame(1, 60)]);
    assert_eq!(bed.transmit(&mut port, &[frame(2, 70)]).0.packets, 1);
    assert_eq!(
        (guest.tx().reap(), plain_frames(guest.rx())),
        (1, vec![frame(2, 70)])
    );
    drop(port);
    bed.finish();
}

#[test]
fn a_disabled_ring_supplies_nothing_and_discards_what_is_sent() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        let mut guest = Guest::new(&GuestOptions {
            features,
            ..GuestOptions::default()
        });
        let mut config = config(&guest);
        for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
            ring.enabled = false;
        }
        let mut port = VhostPort::new(config, &bed.umem).expect("a port");
        guest.rx().fill(1514, WHOLE);
        guest.rx().flush();
        for n in 0..200 {
            assert!(guest.tx().send(Default::default(), &frame(n, 1000), WHOLE));
        }
        guest.tx().flush();
        let mut batch = FrameBatch::new();
        batch.push(
            bed.pools
                .frame_from(bed.umem.id(), b"somebody else's")
                .expect("a chunk"),
        );
        for _ in 0..3 {
            assert_eq!(port.rx_batch(&mut bed.pools, &mut batch), 0);
            port.rx_done();
        }
        assert_eq!(batch.len(), 1, "{features:#x}: what others received stays");
        batch.drain(..).for_each(|frame| bed.pools.free(frame));
        assert_eq!(guest.tx().reap(), 200, "{features:#x}: taken and discarded");
        let (counts, left) = bed.transmit(&mut port, &[frame(1, 60)]);
        assert_eq!((counts, left), (Default::default(), 1));
        assert!(port.is_down(), "{features:#x}: refused, and not for want of room");
        assert!(guest.rx().receive().is_none());
        // Enabled, as a port anew.
        let mut config = port.into_config();
        for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
            ring.enabled = true;
        }
        let mut port = VhostPort::new(config, &bed.umem).expect("a port");
        assert!(guest.tx().send(Default::default(), &frame(7, 99), WHOLE));
        guest.tx().flush();
        assert_eq!(bed.receive(&mut port), [frame(7, 99)]);
        assert_eq!(bed.transmit(&mut port, &[frame(8, 88)]).0.packets, 1);
        assert_eq!(plain_frames(guest.rx()), [frame(8, 88)]);
        // Without a buffer it is full.
        assert_eq!(guest.rx().ring.outstanding(), 255);
        let many: Vec<Vec<u8>> = (0..100).map(|n| frame(n, 60)).collect();
        let refused: usize = (0..3).map(|_| bed.transmit(&mut port, &many).1).sum();
        assert_eq!((refused, port.is_down()), (45, false), "{features:#x}");
        drop(port);
        bed.finish();
    }
}

#[test]
fn one_direction_alone_is_a_port_too() {
    let mut bed = Bed::new(64);
    let mut guest = Guest::new(&GuestOptions::default());
    let both = config(&guest);
    let mut port = VhostPort::new(
        VhostConfig {
            receive: None,
            ..both
        },
        &bed.umem,
    )
    .expect("a port");
    assert!(guest.tx().send(Default::default(), &frame(1, 60), WHOLE));
    guest.tx().flush();
    assert_eq!(bed.receive(&mut port), [frame(1, 60)]);
    assert_eq!(bed.transmit(&mut port, &[frame(1, 60)]).1, 1);
    drop(port);
    let both = config(&guest);
    let mut port = VhostPort::new(
        VhostConfig {
            transmit: None,
            ..both
        },
        &bed.umem,
    )
    .expect("a port");
    assert!(guest.rx().post(100, WHOLE));
    guest.rx().flush();
    assert!(bed.receive(&mut port).is_empty() && port.wait_fd().is_none());
    assert_eq!(bed.transmit(&mut port, &[frame(1, 60)]).0.packets, 1);
    drop(port);
    bed.finish();
}

#[test]
fn a_queue_without_chunks_loses_nothing() {
    // 64 chunks, all of which somebody else has for a while.
    let mut bed = Bed::new(64);
    let (mut guest, mut port) = bed.guest(&GuestOptions::default());
    let mut others: Vec<Frame> = std::iter::from_fn(|| bed.pools.alloc(bed.umem.id())).collect();
    let sent: Vec<Vec<u8>> = (0..20).map(|n| frame(n, 300)).collect();
    for one in &sent {
        assert!(guest.tx().send(Default::default(), one, WHOLE));
    }
    guest.tx().flush();
    assert!(bed.receive(&mut port).is_empty());
    assert_eq!(
        guest.tx().reap(),
        0,
        "what was not taken is still the guest's to be sent"
    );
    others.drain(..5).for_each(|frame| bed.pools.free(frame));
    assert_eq!(bed.receive(&mut port), sent[..5]);
    others.drain(..).for_each(|frame| bed.pools.free(frame));
    assert_eq!(bed.receive(&mut port), sent[5..]);
    assert_eq!(guest.tx().reap(), 20);
    drop(port);
    bed.finish();
}

#[test]
fn sizes_that_no_ring_has_are_refused() {
    let bed = Bed::new(64);
    for (features, size) in [
        (0, 0),
        (0, 3),
        (0, 100),
        (0, 65_535),
        (feature::RING_PACKED, 0),
        (feature::RING_PACKED, 32_769),
    ] {
        let guest = Guest::new(&GuestOptions {
            features: features | feature::VERSION_1,
            ..GuestOptions::default()
        });
        let mut config = config(&guest);
        if let Some(ring) = &mut config.transmit {
            ring.size = size;
        }
        match VhostPort::new(config, &bed.umem) {
            Err(VringError::Size(n)) => assert_eq!(n, size),
            other => panic!("{size} entries: {:?}", other.err()),
        }
    }
    bed.finish();
}
