//! Guests whose memory comes in parts.

use super::bed::{Bed, Guest, GuestOptions, WHOLE, config, frame, memory, plain_frames, region, vring};
use clearway_io::{
    FrameBatch, GuestMemory, GuestMemoryError, GuestShare, Port, VhostConfig, VhostPort, VringError,
};
use clearway_virtio_mock::{Segment, feature};

/// Three regions in three files, in another order in the front-end's addresses than in the guest's.
fn options(features: u64) -> GuestOptions {
    GuestOptions {
        features,
        ram: vec![1 << 20, 1 << 20, 1 << 20],
        ..GuestOptions::default()
    }
}

fn segments(at: u64, cuts: &[u32], writable: bool) -> Vec<Segment> {
    let mut addr = at;
    let mut one = |&len: &u32| {
        let segment = Segment { addr, len, writable };
        addr += u64::from(len);
        segment
    };
    cuts.iter().map(&mut one).collect()
}

#[test]
fn buffers_may_cross_from_one_region_into_the_next() {
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(256);
        let options = options(feature::VERSION_1 | feature::INDIRECT_DESC | packed);
        let (mut a, mut from) = bed.guest(&options);
        let (mut b, mut to) = bed.guest(&options);
        let edge = a.ram.regions()[2].guest;
        let sent = frame(1, 1400);
        // The boundary in the header, in the part that is copied, at its end, in the part that is held, behind the frame.
        for before in [1u64, 11, 12, 13, 100, 267, 268, 269, 1000, 1411] {
            for cuts in [&[1412][..], &[12, 1400], &[5, 7, 1000, 400], &[712, 700]] {
                for indirect in [false, true] {
                    let out = segments(edge - before, cuts, false);
                    a.ram.write(edge - before, &[&[0; 12][..], &sent].concat());
                    a.tx().ring.add(&out, indirect).expect("room");
                    a.tx().flush();
                    b.ram.write(edge - before, &[0xee; 1500]);
                    let into = segments(edge - before, cuts, true);
                    b.rx().ring.add(&into, indirect).expect("room");
                    b.rx().flush();
                    let what = format!("{before} bytes before the edge, {cuts:?}, indirect {indirect}");
                    let (n, counts, left) = bed.forward(&mut from, &mut to);
                    assert_eq!((n, counts.packets, left), (1, 1, 0), "{what}");
                    assert_eq!(a.tx().ring.used().map(|used| used.len), Some(0), "{what}");
                    assert_eq!(b.rx().ring.used().map(|used| used.len), Some(1412), "{what}");
                    let got = b.ram.bytes(edge - before, 1420);
                    assert!(got[12..1412] == sent, "{what}");
                    assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "{what}");
                    assert_eq!(got[1412..], [0xee; 8], "{what}: behind the frame");
                }
            }
        }
        assert!(a.ram.canaries_live() && b.ram.canaries_live());
        assert_eq!((from.fault(), to.fault()), (None, None));
        drop((from, to));
        bed.finish();
    }
}

#[test]
fn a_frame_may_lie_in_all_regions() {
    let mut bed = Bed::new(256);
    let small = GuestOptions {
        ram: vec![4 << 20, 4096, 4096, 4096, 1 << 20],
        ..GuestOptions::default()
    };
    let (mut a, mut from) = bed.guest(&small);
    let (mut b, mut to) = bed.guest(&small);
    let start = a.ram.regions()[1].guest - 20;
    let sent = frame(9, 3 * 4096 + 100);
    a.ram.write(start, &[&[0; 12][..], &sent].concat());
    a.tx()
        .ring
        .add(&segments(start, &[12 + sent.len() as u32], false), false)
        .expect("room");
    a.tx().flush();
    b.rx().fill(1514, WHOLE);
    b.rx().flush();
    assert_eq!(bed.forward(&mut from, &mut to).1.packets, 1);
    let got = plain_frames(b.rx());
    assert!(got == [sent]);
    drop((from, to));
    bed.finish();
}

#[test]
fn rings_lie_in_whatever_region() {
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(64);
        let options = options(feature::VERSION_1 | packed);
        let mut guest = Guest::new(&options);
        // Push the rings of a second driver into other regions.
        let _ = guest.ram.take(900 << 10, 8);
        let mut second = Guest::in_memory(guest.ram.clone(), &options);
        let _ = guest.ram.take(900 << 10, 8);
        let third = Guest::in_memory(guest.ram.clone(), &options);
        guest.pairs[0].rx = third.pairs.into_iter().next().expect("a pair").rx;
        let config = VhostConfig {
            memory: memory(&guest.ram),
            features: guest.features,
            log: None,
            transmit: Some(vring(&guest.ram, &second.pairs[0].tx)),
            receive: Some(vring(&guest.ram, &guest.pairs[0].rx)),
        };
        let mut port = VhostPort::new(config, &bed.umem).expect("a port");
        assert!(second.tx().send(Default::default(), &frame(1, 600), WHOLE));
        second.tx().flush();
        assert!(guest.rx().post(700, WHOLE));
        guest.rx().flush();
        assert_eq!(bed.receive(&mut port), [frame(1, 600)]);
        assert_eq!(bed.transmit(&mut port, &[frame(2, 700)]).0.packets, 1);
        assert_eq!(
            (second.tx().reap(), plain_frames(guest.rx())),
            (1, vec![frame(2, 700)])
        );
        drop(port);
        bed.finish();
    }
}

#[test]
fn rings_outside_the_memory_or_unaligned_are_refused() {
    let bed = Bed::new(64);
    for packed in [0, feature::RING_PACKED] {
        let guest = Guest::new(&options(feature::VERSION_1 | packed));
        let last = guest.ram.regions()[2].user + (1 << 20);
        type Part = fn(&mut clearway_io::VringConfig) -> &mut u64;
        let parts: [Part; 3] = [|r| &mut r.descriptors, |r| &mut r.driver, |r| &mut r.device];
        for part in parts {
            // Nowhere, a bit behind the end, ending behind the end, at the end of all, and odd.
            for place in [0, last, last - 2, u64::MAX - 1, u64::MAX, last - 8191] {
                let mut config = config(&guest);
                for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
                    *part(ring) = place;
                    let error = VhostPort::new(
                        VhostConfig {
                            memory: config.memory.clone(),
                            features: guest.features,
                            log: None,
                            transmit: None,
                            receive: Some(vring(&guest.ram, &guest.pairs[0].rx)),
                        },
                        &bed.umem,
                    );
                    assert!(error.is_ok(), "the others are fine");
                }
                match VhostPort::new(config, &bed.umem) {
                    Err(VringError::Address { address, .. }) => assert_eq!(address, place),
                    other => panic!("a ring at {place:#x}: {:?}", other.err()),
                }
            }
        }
    }
    bed.finish();
}

#[test]
fn regions_come_and_go() {
    let guest = Guest::new(&options(feature::VERSION_1));
    let [first, second, third] = guest.ram.regions() else {
        panic!("three")
    };
    let one = GuestMemory::map(&GuestShare::new(), [(region(first), first.fd())]).expect("memory");
    let two = one.with(region(third), third.fd()).expect("memory");
    let three = two.with(region(second), second.fd()).expect("memory");
    assert_eq!((one.regions(), two.regions(), three.regions()), (1, 2, 3));
    assert_eq!(
        three.without(region(third)).map(|memory| memory.regions()),
        Some(2)
    );
    assert!(two.without(region(second)).is_none());
    // Overlaps, by guest or by user address, by one byte.
    let wrong = [
        clearway_io::RegionSpec {
            guest_address: first.guest + first.size - 1,
            user_address: 1 << 40,
            ..region(second)
        },
        clearway_io::RegionSpec {
            guest_address: 1 << 50,
            user_address: first.user - second.size + 1,
            ..region(second)
        },
    ];
    for spec in wrong {
        assert!(matches!(
            one.with(spec, second.fd()),
            Err(GuestMemoryError::Region { .. })
        ));
    }
    let long = clearway_io::RegionSpec {
        size: 1 << 30,
        guest_address: 1 << 50,
        user_address: 1 << 51,
        ..region(second)
    };
    assert!(matches!(
        one.with(long, second.fd()),
        Err(GuestMemoryError::Short { .. })
    ));
}

#[test]
fn a_guest_whose_memory_grew_goes_on() {
    let mut bed = Bed::new(64);
    let mut guest = Guest::new(&options(feature::VERSION_1));
    let edge = guest.ram.regions()[2].guest;
    let [first, second, third] = guest.ram.regions() else {
        panic!("three")
    };
    let two = GuestMemory::map(
        &GuestShare::new(),
        [(region(first), first.fd()), (region(second), second.fd())],
    )
    .expect("memory");
    let three = two.with(region(third), third.fd()).expect("memory");
    let mut whole = config(&guest);
    whole.memory = std::sync::Arc::new(two);
    let mut port = VhostPort::new(whole, &bed.umem).expect("a port");
    assert!(guest.tx().send(Default::default(), &frame(1, 60), WHOLE));
    guest.tx().flush();
    assert_eq!(bed.receive(&mut port), [frame(1, 60)]);
    let whole = VhostConfig {
        memory: std::sync::Arc::new(three),
        ..port.into_config()
    };
    let mut port = VhostPort::new(whole, &bed.umem).expect("a port");
    guest.ram.write(edge - 6, &[&[0; 12][..], &frame(2, 60)].concat());
    guest
        .tx()
        .ring
        .add(&segments(edge - 6, &[72], false), false)
        .expect("room");
    guest.tx().flush();
    assert_eq!(bed.receive(&mut port), [frame(2, 60)]);
    let mut batch = FrameBatch::new();
    assert_eq!(
        (port.rx_batch(&mut bed.pools, &mut batch), port.fault()),
        (0, None)
    );
    drop(port);
    bed.finish();
}

/// A file of so many bytes of which nothing is there: it costs who shares it nothing.
fn sparse(bytes: u64) -> std::os::fd::OwnedFd {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create(c"sparse", MFdFlags::empty()).expect("memfd");
    nix::unistd::ftruncate(&file, bytes as i64).expect("size");
    file
}

/// `count` regions of `size` bytes, one behind the other.
fn regions(count: u64, size: u64) -> impl Iterator<Item = clearway_io::RegionSpec> {
    (0..count).map(move |i| clearway_io::RegionSpec {
        guest_address: i * size,
        user_address: i * size,
        size,
        mmap_offset: 0,
    })
}

#[test]
fn guests_that_take_all_they_get_leave_something_to_each_other_port() {
    let huge = sparse(16 << 40);
    // Each takes the most that it gets, by halves.
    let greedy: Vec<_> = (0..100)
        .map(|_| {
            let mut memory = GuestMemory::new(&GuestShare::new());
            for (i, shift) in (20..=44).rev().enumerate() {
                let spec = clearway_io::RegionSpec {
                    guest_address: (i as u64) << 48,
                    user_address: (i as u64) << 48,
                    size: 1 << shift,
                    mmap_offset: 0,
                };
                if let Ok(more) = memory.with(spec, huge.try_clone().expect("fd")) {
                    memory = more;
                }
            }
            memory
        })
        .collect();
    let next = regions(8, 4 << 30).map(|spec| (spec, huge.try_clone().expect("fd")));
    GuestMemory::map(&GuestShare::new(), next).expect("32 GiB for the next port");
    drop(greedy);
}

#[test]
fn guests_of_many_regions_leave_some_to_each_other_port() {
    let file = sparse(1 << 30);
    let many: Vec<_> = (0..400)
        .map(|_| {
            let mut memory = GuestMemory::new(&GuestShare::new());
            for spec in regions(64, 4096) {
                if let Ok(more) = memory.with(spec, file.try_clone().expect("fd")) {
                    memory = more;
                }
            }
            memory
        })
        .collect();
    let next = regions(8, 4096).map(|spec| (spec, file.try_clone().expect("fd")));
    GuestMemory::map(&GuestShare::new(), next).expect("8 regions for the next port");
    drop(many);
}
