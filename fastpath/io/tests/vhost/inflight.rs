//! Back-ends that die while they have a guest's buffers: their successor takes them again, by the position that is kept in
//! the front-end's buffer. QEMU agrees to that and asks for no buffer where the device is a network card, so only this
//! driver tests it.

use crate::bed::*;
use clearway_io::{FrameBatch, Inflight, InflightRegion, Port, VhostConfig, VhostPort, VringError};
use clearway_virtio_mock::{RamRegion, Segment, Shape, desc_flag, feature};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

fn buffer() -> RamRegion {
    RamRegion::new(0, 0, Inflight::bytes(2, 256).next_multiple_of(4096))
}

/// A back-end that was just started, and is told where the rings began long ago.
fn tracked(guest: &Guest, buffer: &RamRegion, bases: [u32; 2]) -> VhostConfig {
    let map = Inflight::map(
        &clearway_io::GuestShare::new(),
        buffer.size,
        buffer.offset,
        2,
        256,
        buffer.fd(),
    )
    .expect("a buffer");
    let map = Arc::new(map);
    let mut config = config(guest);
    for (index, ring) in [&mut config.receive, &mut config.transmit]
        .into_iter()
        .enumerate()
    {
        let ring = ring.as_mut().expect("a ring");
        ring.base = bases[index];
        ring.inflight = Some(InflightRegion {
            buffer: map.clone(),
            index: index as u16,
        });
    }
    config
}

fn bases(guest: &Guest) -> [u32; 2] {
    let pair = &guest.pairs[0];
    [pair.rx.ring.base(), pair.tx.ring.base()]
}

fn send(guest: &mut Guest, numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let frames: Vec<_> = numbers.map(|n| frame(n, 64 + 13 * n)).collect();
    for frame in &frames {
        assert!(guest.tx().send(Default::default(), frame, WHOLE));
    }
    guest.tx().flush();
    frames
}

/// Takes a batch and dies.
fn die_in_mid_turn(bed: &mut Bed, mut port: VhostPort, frames: usize) {
    let mut batch = FrameBatch::new();
    assert_eq!(port.rx_batch(&mut bed.pools, &mut batch), frames);
    batch.drain(..).for_each(|frame| bed.pools.free(frame));
    drop(port);
}

#[test]
fn what_was_not_given_back_is_taken_again() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        // Rings that wrap around in the course of it.
        let options = GuestOptions {
            features,
            tx_size: 64,
            rx_size: 64,
            ..GuestOptions::default()
        };
        let mut guest = Guest::new(&options);
        let (buffer, bases) = (buffer(), bases(&guest));
        for round in 0..8 {
            let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
            assert!(
                bed.receive(&mut port).is_empty(),
                "{features:#x}: nothing is left"
            );
            let first = send(&mut guest, 0..11);
            assert_eq!(bed.receive(&mut port), first);
            guest.rx().fill(1514, WHOLE);
            guest.rx().flush();
            let there = [frame(round, 300), frame(round, 200)];
            assert_eq!(bed.transmit(&mut port, &there).0.packets, 2);
            let second = send(&mut guest, 11..20);
            die_in_mid_turn(&mut bed, port, 9);
            // In the meantime the guest goes on.
            assert_eq!(guest.tx().reap(), 11, "{features:#x}");
            let third = send(&mut guest, 20..25);
            let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
            assert_eq!(bed.receive(&mut port), [second, third].concat(), "{features:#x}");
            assert_eq!(bed.transmit(&mut port, &there).0.packets, 2);
            assert_eq!(plain_frames(guest.rx()), [there.clone(), there].concat());
            assert_eq!(guest.tx().reap(), 14);
            assert_eq!(port.fault(), None);
        }
        bed.finish();
    }
}

/// Where `used_idx`, `old_used_idx` and their wrap counters of the second ring are in the buffer's file.
fn position(buffer: &RamRegion) -> u64 {
    buffer.offset + Inflight::bytes(1, 256) + 16
}

#[test]
fn a_crash_while_giving_back_is_told_by_the_first_descriptor() {
    let mut bed = Bed::new(256);
    let mut guest = Guest::new(&GuestOptions {
        features: feature::VERSION_1 | feature::RING_PACKED,
        tx_size: 64,
        ..GuestOptions::default()
    });
    let (buffer, bases) = (buffer(), bases(&guest));
    let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
    let first = send(&mut guest, 0..5);
    assert_eq!(bed.receive(&mut port), first);
    drop(port);
    let mut word = [0; 8];
    let at = position(&buffer);
    buffer.file.read_exact_at(&mut word, at).expect("the buffer");
    assert_eq!(word, [5, 0, 5, 0, 1, 1, 0, 0], "positions and wrap counters");
    // It died behind the last write to the ring.
    buffer
        .file
        .write_all_at(&[5, 0, 0, 0, 1, 1], at)
        .expect("the buffer");
    let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
    let second = send(&mut guest, 5..8);
    assert_eq!(bed.receive(&mut port), second, "those are not taken twice");
    drop(port);
    // It died before the first descriptor was written.
    let third = send(&mut guest, 8..12);
    buffer
        .file
        .write_all_at(&[12, 0, 8, 0, 1, 1], at)
        .expect("the buffer");
    let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
    assert_eq!(bed.receive(&mut port), third, "those are taken again");
    assert_eq!(guest.tx().reap(), 12);
    drop(port);
    // It died when all but the first were written: what these descriptors said before is lost, and so are the frames.
    send(&mut guest, 12..16);
    let descriptors = guest.tx().ring.parts()[0];
    for index in 13..16 {
        let at = descriptors + 16 * index + 14;
        guest.ram.set_u16(at, guest.ram.u16(at) | desc_flag::USED);
    }
    buffer
        .file
        .write_all_at(&[16, 0, 12, 0, 1, 1], at)
        .expect("the buffer");
    let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
    assert_eq!(guest.tx().reap(), 4);
    let fifth = send(&mut guest, 16..20);
    assert_eq!(bed.receive(&mut port), fifth);
    // It died behind the last write, and the driver has used the first descriptor again since.
    assert_eq!(guest.tx().reap(), 4);
    let sixth = send(&mut guest, 0..60);
    buffer
        .file
        .write_all_at(&[20, 0, 16, 0, 1, 1], at)
        .expect("the buffer");
    drop(port);
    let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
    assert_eq!(bed.receive(&mut port), sixth);
    assert_eq!(guest.tx().reap(), 60);
    drop(port);
    bed.finish();
}

/// The same with buffers of several descriptors, of which the first says that it was used.
#[test]
fn a_crash_while_giving_back_chains_loses_those_frames_and_no_place() {
    // How many of four buffers were marked, from the last one on.
    for marked in 0..=4 {
        let mut bed = Bed::new(256);
        let mut guest = Guest::new(&GuestOptions {
            features: feature::VERSION_1 | feature::RING_PACKED,
            tx_size: 16,
            ..GuestOptions::default()
        });
        let (buffer, bases) = (buffer(), bases(&guest));
        drop(VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port"));
        // Chains of 2, 3, 4 and 1 descriptors.
        let frames: Vec<_> = (0..4).map(|n| frame(n, 88)).collect();
        for (frame, data) in frames.iter().zip([0, 44, 30, 100]) {
            let shape = if data == 100 {
                WHOLE
            } else {
                Shape {
                    header: 12,
                    data,
                    ..WHOLE
                }
            };
            assert!(guest.tx().send(Default::default(), frame, shape));
        }
        guest.tx().flush();
        let descriptors = guest.tx().ring.parts()[0];
        // The id of a chain is in its last descriptor, that of a used one in its first.
        for (first, last) in [(9, 9), (5, 8), (2, 4), (0, 1)].into_iter().take(marked) {
            let id = guest.ram.u16(descriptors + 16 * last + 12);
            guest.ram.set_u16(descriptors + 16 * first + 12, id);
            let used = desc_flag::AVAIL | desc_flag::USED;
            guest.ram.set_u16(descriptors + 16 * first + 14, used);
        }
        buffer
            .file
            .write_all_at(&[10, 0, 0, 0, 1, 1], position(&buffer))
            .expect("the buffer");
        let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
        if marked == 0 {
            assert_eq!(bed.receive(&mut port), frames, "taken again");
        }
        assert_eq!(guest.tx().reap(), 4, "{marked} were marked");
        for round in 0..5 {
            let next = send(&mut guest, round..round + 7);
            assert_eq!(bed.receive(&mut port), next, "{marked} were marked");
            assert_eq!(guest.tx().reap(), 7);
        }
        drop(port);
        bed.finish();
    }
}

#[test]
fn what_another_back_end_had_is_given_back() {
    for packed in [false, true] {
        let mut bed = Bed::new(256);
        let format = if packed { feature::RING_PACKED } else { 0 };
        let mut guest = Guest::new(&GuestOptions {
            features: feature::VERSION_1 | format,
            ..GuestOptions::default()
        });
        let (buffer, bases) = (buffer(), bases(&guest));
        drop(VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port"));
        let mut ids = Vec::new();
        for number in 0..3 {
            let bytes = [&[0; 12][..], &frame(number, 100)].concat();
            let segment = Segment {
                addr: guest.ram.alloc(112),
                len: 112,
                writable: false,
            };
            guest.ram.write(segment.addr, &bytes);
            ids.push(guest.tx().ring.add(&[segment], false).expect("room"));
        }
        guest.tx().flush();
        // The other one took two, and neither came back.
        let (header, entry) = if packed { (32, 32) } else { (16, 16) };
        let region = buffer.offset + (header + entry * 256u64).next_multiple_of(64);
        for (counter, id) in ids.iter().take(2).enumerate() {
            let mut state = vec![0; entry as usize];
            state[0] = 1;
            state[8] = counter as u8;
            if packed {
                state[6] = 1;
                state[16..18].copy_from_slice(&id.to_le_bytes());
            }
            let at = region + header + entry * u64::from(*id);
            buffer.file.write_all_at(&state, at).expect("the buffer");
        }
        let mut port = VhostPort::new(tracked(&guest, &buffer, bases), &bed.umem).expect("a port");
        assert_eq!(guest.tx().reap(), 2, "packed: {packed}");
        assert_eq!(bed.receive(&mut port), [frame(2, 100)]);
        assert_eq!(guest.tx().reap(), 1);
        drop(port);
        bed.finish();
    }
}

#[test]
fn a_buffer_that_does_not_fit_is_refused() {
    let bed = Bed::new(64);
    for packed in [false, true] {
        let format = if packed { feature::RING_PACKED } else { 0 };
        let guest = Guest::new(&GuestOptions {
            features: feature::VERSION_1 | format,
            tx_size: 128,
            ..GuestOptions::default()
        });
        let refused = |buffer: &RamRegion, queues: u16, entries: u16| {
            let mut config = tracked(&guest, buffer, bases(&guest));
            let map = Inflight::map(
                &clearway_io::GuestShare::new(),
                buffer.size,
                buffer.offset,
                queues,
                entries,
                buffer.fd(),
            )
            .expect("mapped");
            let map = Arc::new(map);
            for ring in [&mut config.receive, &mut config.transmit].into_iter().flatten() {
                let index = ring.inflight.take().map_or(0, |region| region.index);
                let buffer = map.clone();
                ring.inflight = Some(InflightRegion { buffer, index });
            }
            match VhostPort::new(config, &bed.umem) {
                Err(VringError::Inflight(_)) => true,
                other => panic!("{:?}", other.err()),
            }
        };
        // One ring only, rings of fewer entries, less memory than that takes.
        assert!(refused(&buffer(), 1, 256));
        assert!(refused(&buffer(), 2, 64));
        assert!(refused(&RamRegion::new(0, 0, 4096), 2, 256));
        // A region of a ring of another size, and positions outside.
        let used = buffer();
        let mut region = [0; 24];
        region[8] = 1;
        region[10] = 77;
        used.file.write_all_at(&region, used.offset).expect("the buffer");
        assert!(refused(&used, 2, 256));
        if packed {
            region[10..12].copy_from_slice(&256u16.to_le_bytes());
            region[16..18].copy_from_slice(&256u16.to_le_bytes());
            used.file.write_all_at(&region, used.offset).expect("the buffer");
            assert!(refused(&used, 2, 256));
        }
    }
}
