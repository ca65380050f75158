//! Frames through both kinds of rings, byte by byte.

use super::bed::{Bed, GuestOptions, WHOLE, frame, kinds, plain_frames, received};
use clearway_io::{Frame, FrameBatch, Port};
use clearway_virtio_mock::{GuestRam, RamRegion, Ring, Shape, desc_flag, feature};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

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

/// Mergeable buffers, each of which is an indirect table: a frame's buffers may have more parts than the ring has
/// entries, which no chain may.
#[test]
fn many_buffers_of_many_parts_are_no_violation() {
    let shape = Shape {
        header: 1,
        data: 50,
        indirect: true,
    };
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(64);
        let features = feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | packed;
        let options = GuestOptions {
            features,
            rx_size: 16,
            ..GuestOptions::default()
        };
        let (mut guest, mut port) = bed.guest(&options);
        assert_eq!(guest.rx().fill(100, shape), 16);
        guest.rx().flush();
        let (counts, left) = bed.transmit(&mut port, &[frame(1, 500), frame(2, 1100)]);
        assert_eq!(port.fault(), None);
        assert_eq!((counts.packets, counts.unsendable, left), (1, 1, 0));
        assert_eq!(plain_frames(guest.rx()), [frame(1, 500)]);
        drop(port);
        bed.finish();
    }
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

/// Memory of a guest's as its other cores see it: a system call for each look would be too slow to see anything.
struct Mapped {
    base: *mut libc::c_void,
    offset: usize,
    bytes: usize,
}

// SAFETY: it is read by atomics alone.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(ram: &GuestRam, at: u64, len: usize) -> Self {
        let inside = |r: &&RamRegion| (r.guest..r.guest + r.size).contains(&at);
        let region = ram.regions().iter().find(inside).expect("memory");
        let at = (region.offset + at - region.guest) as usize;
        let offset = at % 4096;
        let bytes = offset + len;
        let (read, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let start = (at - offset) as libc::off_t;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                read,
                shared,
                region.fd().as_raw_fd(),
                start,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self { base, offset, bytes }
    }

    fn u16(&self, at: usize) -> u16 {
        assert!(self.offset + at + 2 <= self.bytes);
        // SAFETY: inside the mapping.
        let at = unsafe { self.base.cast::<u8>().add(self.offset + at) };
        // SAFETY: aligned, mapped as long as we live, and everybody's accesses are atomic.
        let atom = unsafe { AtomicU16::from_ptr(at.cast()) };
        atom.load(Ordering::Acquire)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody looks at it any more.
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}

/// A frame in all the buffers of a packed ring, each of two descriptors, again and again: another core of the guest that
/// sees the first one used must find the last one used (§5.1.6.4: all buffers of a frame are made visible at once).
#[test]
fn a_driver_that_sees_a_frames_first_buffer_sees_them_all() {
    const BUFFERS: u16 = 64;
    const ROUNDS: usize = 300;
    let mut bed = Bed::new(64);
    let options = GuestOptions {
        features: feature::VERSION_1 | feature::MRG_RXBUF | feature::RING_PACKED,
        rx_size: 2 * BUFFERS,
        ..GuestOptions::default()
    };
    let (mut guest, mut port) = bed.guest(&options);
    let shape = Shape { header: 12, ..WHOLE };
    let at = guest.rx().ring.parts()[0];
    let ring = Mapped::new(&guest.ram, at, 32 * usize::from(BUFFERS));
    let seen = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let watcher = scope.spawn({
            let (seen, ring) = (&seen, &ring);
            move || {
                let used = [desc_flag::AVAIL | desc_flag::USED, 0];
                let flags = |index: u16| ring.u16(16 * usize::from(index) + 14) & used[0];
                let mut early = 0;
                for round in 0..ROUNDS {
                    // Used descriptors have the lap's bit twice; new ones of this lap differ in it.
                    while flags(0) != used[round % 2] {
                        std::hint::spin_loop();
                    }
                    early += usize::from(flags(2 * BUFFERS - 2) != used[round % 2]);
                    seen.store(round + 1, Ordering::Release);
                }
                early
            }
        });
        for round in 0..ROUNDS {
            assert_eq!(guest.rx().fill(500, shape), BUFFERS.into());
            guest.rx().flush();
            let sent = frame(round, usize::from(BUFFERS) * 512 - 12);
            assert_eq!(bed.transmit(&mut port, std::slice::from_ref(&sent)).0.packets, 1);
            while seen.load(Ordering::Acquire) <= round {
                std::thread::yield_now();
            }
            assert!(plain_frames(guest.rx()) == [sent]);
        }
        let early = watcher.join().expect("the watcher");
        assert_eq!(early, 0, "frames of which a part was seen");
    });
    drop(port);
    bed.finish();
}
