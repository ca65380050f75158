//! Frames through both kinds of rings, byte by byte.

use super::bed::{Bed, Guest, GuestOptions, WHOLE, config, frame, kinds, plain_frames, received};
use clearway_io::{Frame, FrameBatch, Port, VhostPort, VringError};
use clearway_virtio_mock::{Ring, Shape, feature};

/// The sizes of the issue, around every limit that a ring or a frame has, and a GSO packet of 64 KiB.
const SIZES: [usize; 24] = [
    60, 61, 64, 127, 128, 129, 255, 256, 257, 258, 511, 512, 1000, 1514, 1518, 1780, 1792, 2036, 2048, 4096,
    8999, 9000, 9018, 65_549,
];

/// Buffers that take any frame of [`SIZES`], as many as fit a guest's memory.
const LARGE: usize = 65_549;

fn shapes(indirect: bool) -> Vec<Shape> {
    let all = [
        WHOLE,
        Shape { header: 12, ..WHOLE },
        Shape { header: 1, ..WHOLE },
        Shape {
            header: 5,
            data: 1000,
            ..WHOLE
        },
        Shape { data: 4096, ..WHOLE },
    ];
    let both = |shape: Shape| {
        [
            shape,
            Shape {
                indirect: true,
                ..shape
            },
        ]
    };
    all.into_iter()
        .flat_map(both)
        .filter(|shape| indirect || !shape.indirect)
        .collect()
}

#[test]
fn frames_of_all_sizes_and_shapes_cross_from_guest_to_guest() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        let options = GuestOptions {
            features,
            tx_size: 128,
            rx_size: 512,
            ..GuestOptions::default()
        };
        let (mut a, mut from) = bed.guest(&options);
        let (mut b, mut to) = bed.guest(&options);
        let mergeable = features & feature::MRG_RXBUF != 0;
        let indirect = features & feature::INDIRECT_DESC != 0;
        let mut number = 0;
        for shape in shapes(indirect) {
            for size in SIZES {
                // Buffers of an odd size for mergeable ones, of three descriptors for others.
                while b.rx().ring.outstanding() < if mergeable { 128 } else { 4 } {
                    let posted = if mergeable {
                        b.rx().post(
                            701,
                            Shape {
                                indirect: false,
                                ..WHOLE
                            },
                        )
                    } else {
                        b.rx().post(
                            LARGE,
                            Shape {
                                header: 12,
                                data: LARGE / 2 + 1,
                                ..shape
                            },
                        )
                    };
                    assert!(posted);
                }
                b.rx().flush();
                number += 1;
                let sent = frame(number, size);
                assert!(a.tx().send(Default::default(), &sent, shape));
                a.tx().flush();
                let (n, counts, left) = bed.forward(&mut from, &mut to);
                let what = format!("features {features:#x}, {shape:?}, {size} bytes");
                assert_eq!(
                    (n, counts.packets, counts.unsendable, left),
                    (1, 1, 0, 0),
                    "{what}"
                );
                assert_eq!(counts.bytes, size as u64, "{what}");
                assert_eq!(a.tx().reap(), 1, "{what}");
                let got = received(b.rx());
                assert_eq!(got.len(), 1, "{what}");
                assert!(got[0].frame == sent, "{what}: other bytes");
                let buffers = if mergeable { (size + 12).div_ceil(713) } else { 1 };
                assert_eq!(got[0].buffers, buffers, "{what}");
            }
        }
        assert_eq!((from.fault(), to.fault()), (None, None));
        assert_eq!((from.rx_lost(), to.rx_lost()), Default::default());
        assert!(a.ram.canaries_live() && b.ram.canaries_live());
        drop((from, to));
        bed.finish();
    }
}

/// Bursts that fill rings, and more than a batch, from a guest to itself.
fn bursts(options: &GuestOptions, rounds: usize) {
    let mut bed = Bed::new(512);
    let (mut a, mut from) = bed.guest(options);
    let (mut b, mut to) = bed.guest(options);
    let what = format!("{options:?}");
    let mut number = 0;
    for round in 0..rounds {
        b.rx().fill(200, WHOLE);
        b.rx().flush();
        // Another number each time, so that every place of the ring is once the first.
        let burst = 1 + (round * 7 + round / 3) % usize::from(options.tx_size.min(options.rx_size));
        let sent: Vec<Vec<u8>> = (0..burst).map(|i| frame(number + i, 60 + i % 140)).collect();
        number += burst;
        for one in &sent {
            assert!(a.tx().send(Default::default(), one, WHOLE), "{what}");
        }
        a.tx().flush();
        let mut done = 0;
        while done < burst {
            let (n, counts, left) = bed.forward(&mut from, &mut to);
            assert_eq!(
                n,
                (burst - done).min(128),
                "{what}: a batch of {burst} after {done}"
            );
            assert_eq!((counts.packets, left), (n as u64, 0), "{what}");
            done += n;
        }
        assert_eq!(bed.forward(&mut from, &mut to).0, 0, "{what}");
        assert_eq!(a.tx().reap(), burst, "{what}");
        assert!(plain_frames(b.rx()) == sent, "{what}: other frames");
    }
    assert_eq!((from.fault(), to.fault()), (None, None), "{what}");
    drop((from, to));
    bed.finish();
}

#[test]
fn split_rings_of_every_size_wrap_around() {
    for shift in 0..=15 {
        let size = 1 << shift;
        let in_order = if shift % 2 == 0 { feature::IN_ORDER } else { 0 };
        let options = GuestOptions {
            features: feature::VERSION_1 | feature::MRG_RXBUF | in_order,
            tx_size: size,
            rx_size: size,
            // Indices of 16 bits wrap around soon.
            start: (65_500, true),
            ram: vec![64 << 20],
            ..GuestOptions::default()
        };
        bursts(&options, if shift < 10 { 60 } else { 5 });
    }
}

#[test]
fn packed_rings_of_any_size_wrap_around() {
    for (i, size) in [1, 2, 3, 5, 7, 100, 127, 129, 255, 1000, 4099, 32_767, 32_768]
        .into_iter()
        .enumerate()
    {
        let in_order = if i % 2 == 0 { feature::IN_ORDER } else { 0 };
        for start in [(0, true), (size / 2, false), (size - 1, true)] {
            let options = GuestOptions {
                features: feature::VERSION_1 | feature::RING_PACKED | in_order,
                tx_size: size,
                rx_size: size,
                start,
                ram: vec![64 << 20],
                ..GuestOptions::default()
            };
            bursts(&options, if size < 1000 { 40 } else { 4 });
        }
    }
}

#[test]
fn chains_of_a_whole_ring_are_frames() {
    for features in [feature::VERSION_1, feature::VERSION_1 | feature::RING_PACKED] {
        for size in [2u16, 8, 16, 256] {
            let mut bed = Bed::new(256);
            let options = GuestOptions {
                features,
                tx_size: size,
                rx_size: size,
                ..GuestOptions::default()
            };
            let (mut a, mut from) = bed.guest(&options);
            let (mut b, mut to) = bed.guest(&options);
            for round in 0..5 {
                // As many descriptors as the ring has, on either side.
                let sent = frame(round, 1000 + usize::from(size));
                let bytes = [&[0; 12][..], &sent].concat();
                let by = bytes.len() / usize::from(size);
                let mut sizes = vec![by; usize::from(size)];
                *sizes.last_mut().expect("some") += bytes.len() - by * usize::from(size);
                assert!(a.tx().send_bytes(&bytes, &sizes, false));
                a.tx().flush();
                let piece = bytes.len().div_ceil(usize::from(size));
                assert!(
                    b.rx()
                        .post(piece * usize::from(size) - 12, Shape { data: piece, ..WHOLE })
                );
                assert_eq!(b.rx().ring.free(), 0);
                b.rx().flush();
                let (n, counts, left) = bed.forward(&mut from, &mut to);
                assert_eq!((n, counts.packets, left), (1, 1, 0), "{features:#x}, {size}");
                assert_eq!(a.tx().reap(), 1);
                assert_eq!(plain_frames(b.rx()), [sent]);
            }
            drop((from, to));
            bed.finish();
        }
    }
}

#[test]
fn frames_of_our_own_go_to_guests() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        let options = GuestOptions {
            features,
            rx_size: 64,
            ..GuestOptions::default()
        };
        let (mut guest, mut port) = bed.guest(&options);
        let mergeable = features & feature::MRG_RXBUF != 0;
        let buffer = if mergeable { 1514 } else { 9018 };
        let mut sent = Vec::new();
        for number in 0..40 {
            guest.rx().fill(buffer, WHOLE);
            guest.rx().flush();
            // Some of one chunk, some of many.
            let frames: Vec<Vec<u8>> = (0..5)
                .map(|i| frame(number, [60, 9018, 300, 1792, 1514][i]))
                .collect();
            let (counts, left) = bed.transmit(&mut port, &frames);
            assert_eq!((counts.packets, counts.unsendable, left), (5, 0, 0));
            sent.extend(frames);
            let got = plain_frames(guest.rx());
            assert_eq!(got.len(), 5);
            assert!(got == sent[sent.len() - 5..], "{features:#x}: other bytes");
        }
        drop(port);
        bed.finish();
    }
}

#[test]
fn a_legacy_header_has_ten_bytes() {
    let mut bed = Bed::new(64);
    let options = GuestOptions {
        features: 0,
        ..GuestOptions::default()
    };
    let (mut a, mut from) = bed.guest(&options);
    let (mut b, mut to) = bed.guest(&options);
    for shape in [
        WHOLE,
        Shape { header: 10, ..WHOLE },
        Shape {
            header: 3,
            data: 50,
            ..WHOLE
        },
    ] {
        assert!(b.rx().post(1514, shape));
        b.rx().flush();
        assert!(a.tx().send(Default::default(), &frame(1, 700), shape));
        a.tx().flush();
        assert_eq!(bed.forward(&mut from, &mut to).1.packets, 1);
        assert_eq!((a.tx().reap(), plain_frames(b.rx())), (1, vec![frame(1, 700)]));
    }
    drop((from, to));
    bed.finish();
}

#[test]
fn buffers_stay_ours_until_the_batch_is_done() {
    for features in kinds() {
        let mut bed = Bed::new(512);
        let (mut guest, mut port) = bed.guest(&GuestOptions {
            features,
            ..GuestOptions::default()
        });
        let sent: Vec<Vec<u8>> = (0..200).map(|n| frame(n, 1000)).collect();
        for one in &sent {
            assert!(guest.tx().send(Default::default(), one, WHOLE));
        }
        guest.tx().flush();
        let mut got = Vec::new();
        for expected in [128, 72] {
            let mut batch = FrameBatch::new();
            assert_eq!(port.rx_batch(&mut bed.pools, &mut batch), expected);
            assert_eq!(guest.tx().reap(), 0, "frames are still looked at");
            got.extend(batch.iter().map(super::bed::bytes));
            batch.drain(..).for_each(|frame| bed.pools.free(frame));
            port.rx_done();
            assert_eq!(guest.tx().reap(), expected);
        }
        assert!(got == sent);
        drop(port);
        bed.finish();
    }
}

#[test]
fn what_does_not_fit_now_stays_the_callers() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        let (mut guest, mut port) = bed.guest(&GuestOptions {
            features,
            ..GuestOptions::default()
        });
        let mut list: Vec<Frame> = (0..10)
            .map(|n| {
                bed.pools
                    .frame_from(bed.umem.id(), &frame(n, 600))
                    .expect("chunks")
            })
            .collect();
        assert_eq!(port.tx_batch(&mut bed.pools, &mut list), Default::default());
        assert_eq!(list.len(), 10, "no buffers, no frames");
        for _ in 0..3 {
            assert!(guest.rx().post(700, WHOLE));
        }
        guest.rx().flush();
        let counts = port.tx_batch(&mut bed.pools, &mut list);
        assert_eq!((counts.packets, counts.bytes, list.len()), (3, 1800, 7));
        assert_eq!(port.tx_batch(&mut bed.pools, &mut list), Default::default());
        guest.rx().fill(700, WHOLE);
        guest.rx().flush();
        assert_eq!(port.tx_batch(&mut bed.pools, &mut list).packets, 7);
        let expected: Vec<Vec<u8>> = (0..10).map(|n| frame(n, 600)).collect();
        assert!(plain_frames(guest.rx()) == expected, "in order");
        drop(port);
        bed.finish();
    }
}

#[test]
fn a_frame_for_which_no_buffer_is_large_enough_is_unsendable() {
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(64);
        let features = feature::VERSION_1 | packed;
        let (mut guest, mut port) = bed.guest(&GuestOptions {
            features,
            ..GuestOptions::default()
        });
        assert!(guest.rx().post(300, WHOLE) && guest.rx().post(300, WHOLE));
        guest.rx().flush();
        let (counts, left) = bed.transmit(&mut port, &[frame(1, 301), frame(2, 300), frame(3, 60)]);
        assert_eq!(
            (counts.packets, counts.bytes, counts.unsendable, left),
            (2, 360, 1, 0)
        );
        assert_eq!(plain_frames(guest.rx()), [frame(2, 300), frame(3, 60)]);
        assert_eq!(port.fault(), None);
        drop(port);
        bed.finish();
    }
}

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
        clearway_io::VhostConfig {
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
        clearway_io::VhostConfig {
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

#[test]
fn in_order_a_batch_may_be_one_used_entry() {
    // The mock checks what it finds; here, that it finds it where Linux looks: at the batch's first place.
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(64);
        let features = feature::VERSION_1 | feature::IN_ORDER | packed;
        let (mut guest, mut port) = bed.guest(&GuestOptions {
            features,
            ..GuestOptions::default()
        });
        for n in 0..5 {
            assert!(guest.tx().send(Default::default(), &frame(n, 60), WHOLE));
        }
        guest.tx().flush();
        assert_eq!(bed.receive(&mut port).len(), 5);
        match &guest.pairs[0].tx.ring {
            Ring::Split(ring) => assert_eq!(ring.used_index(), 5),
            Ring::Packed(_) => {}
        }
        assert_eq!(guest.tx().reap(), 5);
        drop(port);
        bed.finish();
    }
}
