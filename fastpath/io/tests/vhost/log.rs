//! A guest that migrates: what is written to its memory is marked, and it is announced where it went.

use crate::bed::*;
use clearway_io::{DirtyLog, Port, TxCounts, VhostConfig, VhostPort, VringError};
use clearway_virtio_mock::{RamRegion, feature};
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const PAGE: u64 = 4096;
const LOG_ALL: u64 = 1 << 26;

fn options(features: u64) -> GuestOptions {
    GuestOptions {
        features,
        ram: vec![1 << 20, 8 << 20],
        ..GuestOptions::default()
    }
}

/// A log for all of a guest's memory, beginning somewhere in its file.
fn log(guest: &Guest) -> RamRegion {
    RamRegion::new(0, 0, guest.ram.end().div_ceil(8 * PAGE).next_multiple_of(PAGE))
}

fn logged(guest: &Guest, log: &RamRegion) -> VhostConfig {
    let mut config = config(guest);
    config.features |= LOG_ALL;
    let map = DirtyLog::map(&clearway_io::GuestShare::new(), log.size, log.offset, log.fd()).expect("a log");
    config.log = Some(Arc::new(map));
    let pair = &guest.pairs[0];
    for (ring, queue) in [(&mut config.receive, &pair.rx), (&mut config.transmit, &pair.tx)] {
        ring.as_mut().expect("a ring").log_address = Some(queue.ring.parts()[2]);
    }
    config
}

fn pages(guest: &Guest) -> Vec<(u64, Vec<u8>)> {
    let of = |r: &RamRegion| (r.guest / PAGE..(r.guest + r.size) / PAGE).collect::<Vec<_>>();
    let all = guest.ram.regions().iter().flat_map(of);
    all.map(|page| (page, guest.ram.bytes(page * PAGE, PAGE as usize)))
        .collect()
}

fn marked(log: &RamRegion) -> BTreeSet<u64> {
    let mut bits = vec![0; log.size as usize];
    log.file.read_exact_at(&mut bits, log.offset).expect("the log");
    let all = 0..log.size * 8;
    all.filter(|page| bits[(page / 8) as usize] >> (page % 8) & 1 == 1)
        .collect()
}

/// Pages of those parts of the rings that a device writes.
fn ring_pages(guest: &Guest, packed: bool) -> BTreeSet<u64> {
    let pair = &guest.pairs[0];
    let mut pages = BTreeSet::new();
    for ring in [&pair.rx.ring, &pair.tx.ring] {
        let size = u64::from(ring.size());
        let [descriptors, _, device] = ring.parts();
        let written = if packed {
            vec![(descriptors, 16 * size), (device, 4)]
        } else {
            vec![(device, 6 + 8 * size)]
        };
        for (at, len) in written {
            pages.extend(at / PAGE..=(at + len - 1) / PAGE);
        }
    }
    pages
}

#[test]
fn every_page_that_was_written_is_marked_and_no_other() {
    for features in kinds() {
        for buffer in [1514, 9000] {
            let mut bed = Bed::new(256);
            let mut guest = Guest::new(&options(features));
            let log = log(&guest);
            // Before anything is sent: that is where a device begins.
            let config = logged(&guest, &log);
            assert!(guest.tx().send(Default::default(), &frame(1, 300), WHOLE));
            guest.tx().flush();
            guest.rx().fill(buffer, WHOLE);
            guest.rx().flush();
            let before = pages(&guest);
            let mut port = VhostPort::new(config, &bed.umem).expect("a port");
            let got = bed.receive(&mut port);
            assert_eq!(got, [frame(1, 300)], "{features:#x} {buffer}: {:?}", port.fault());
            let sizes = [60, 1514, 700, 1000, 64];
            let frames: Vec<_> = sizes.iter().map(|len| frame(*len, *len)).collect();
            assert_eq!(bed.transmit(&mut port, &frames).0.packets, 5);
            let changed: BTreeSet<u64> = pages(&guest)
                .into_iter()
                .zip(before)
                .filter(|(now, then)| now != then)
                .map(|((page, _), _)| page)
                .collect();
            let marked = marked(&log);
            let missing: Vec<_> = changed.difference(&marked).collect();
            assert!(missing.is_empty(), "{features:#x}: {missing:x?} were written");
            let rings = ring_pages(&guest, features & feature::RING_PACKED != 0);
            let spurious: Vec<_> = marked
                .difference(&changed)
                .filter(|p| !rings.contains(p))
                .collect();
            assert!(spurious.is_empty(), "{features:#x}: {spurious:x?} were not");
            assert!(
                changed.difference(&rings).count() > 1,
                "buffers are not in the rings' pages"
            );
            // All is there, and goes on without a log.
            assert_eq!(plain_frames(guest.rx()), frames);
            let config = VhostConfig {
                log: None,
                ..port.into_config()
            };
            let mut port = VhostPort::new(config, &bed.umem).expect("a port");
            assert_eq!(bed.transmit(&mut port, &[frame(2, 99)]).0.packets, 1);
            assert_eq!(plain_frames(guest.rx()), [frame(2, 99)]);
            drop(port);
            bed.finish();
        }
    }
}

#[test]
fn what_a_guest_has_no_room_for_marks_nothing() {
    for features in kinds() {
        let mut bed = Bed::new(64);
        let guest = Guest::new(&options(features));
        let log = log(&guest);
        let mut port = VhostPort::new(logged(&guest, &log), &bed.umem).expect("a port");
        // The rings are when they start.
        let none = vec![0; log.size as usize];
        log.file.write_all_at(&none, log.offset).expect("the log");
        assert_eq!(bed.transmit(&mut port, &[frame(1, 60)]), (TxCounts::default(), 1));
        assert_eq!(marked(&log), BTreeSet::new(), "{features:#x}");
    }
}

#[test]
fn nothing_is_marked_before_it_is_asked_for() {
    let mut bed = Bed::new(64);
    let mut guest = Guest::new(&options(feature::VERSION_1));
    let log = log(&guest);
    let mut config = logged(&guest, &log);
    config.features &= !LOG_ALL;
    let mut port = VhostPort::new(config, &bed.umem).expect("a port");
    guest.rx().fill(1514, WHOLE);
    guest.rx().flush();
    assert_eq!(bed.transmit(&mut port, &[frame(1, 60)]).0.packets, 1);
    assert_eq!(marked(&log), BTreeSet::new());
    // Rings whose log address was not given are not marked, their buffers are.
    let config = VhostConfig {
        features: guest.features | LOG_ALL,
        ..port.into_config()
    };
    let unlogged = |ring: Option<clearway_io::VringConfig>| {
        ring.map(|ring| clearway_io::VringConfig {
            log_address: None,
            ..ring
        })
    };
    let config = VhostConfig {
        transmit: unlogged(config.transmit),
        receive: unlogged(config.receive),
        ..config
    };
    let mut port = VhostPort::new(config, &bed.umem).expect("a port");
    assert_eq!(bed.transmit(&mut port, &[frame(2, 60)]).0.packets, 1);
    assert_eq!(marked(&log).len(), 1);
    drop(port);
    bed.finish();
}

#[test]
fn a_log_without_room_is_refused() {
    let bed = Bed::new(64);
    let guest = Guest::new(&options(feature::VERSION_1));
    let log = log(&guest);
    let mut short = logged(&guest, &log);
    let bytes = guest.ram.end() / PAGE / 8 - 1;
    let map = DirtyLog::map(&clearway_io::GuestShare::new(), bytes, log.offset, log.fd()).expect("a log");
    short.log = Some(Arc::new(map));
    let error = VhostPort::new(short, &bed.umem).err();
    assert!(matches!(error, Some(VringError::Log { .. })), "{error:?}");
    for address in [1 << 50, u64::MAX] {
        let mut config = logged(&guest, &log);
        config.receive.as_mut().expect("a ring").log_address = Some(address);
        let error = VhostPort::new(config, &bed.umem).err();
        assert!(matches!(error, Some(VringError::Log { .. })), "{error:?}");
    }
    assert!(
        DirtyLog::map(
            &clearway_io::GuestShare::new(),
            log.size + 2 * PAGE,
            log.offset,
            log.fd()
        )
        .is_err()
    );
}

#[test]
fn a_guest_is_announced_once() {
    let mut bed = Bed::new(64);
    let (mut guest, mut port) = bed.guest(&options(feature::VERSION_1));
    assert!(guest.tx().send(Default::default(), &frame(1, 70), WHOLE));
    guest.tx().flush();
    let mac = [2, 0, 0, 0, 0, 9];
    port.announce(mac);
    let got = bed.receive(&mut port);
    // RFC 903: to all, type 0x8035, operation 3, both hardware addresses the guest's.
    let mut rarp = [&[0xff; 6][..], &mac, &[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]].concat();
    rarp.extend([&mac[..], &[0; 4], &mac, &[0; 4]].concat());
    rarp.resize(60, 0);
    assert_eq!(got, [rarp]);
    assert_eq!(bed.receive(&mut port), [frame(1, 70)]);
    assert_eq!(bed.receive(&mut port), Vec::<Vec<u8>>::new());
    assert_eq!(guest.tx().reap(), 1);
    drop(port);
    bed.finish();
}
