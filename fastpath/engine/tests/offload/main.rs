//! Frames that their sender left undone: who gets them as they are, who does not, and what is refused. Exact counts.

#[path = "../common/mod.rs"]
mod common;
mod refused;
mod tunnels;

use clearway_engine::*;
use clearway_io::Offloads;
use clearway_wire::{EtherType, MacAddr};
use common::packet::Packet;
use common::*;
use std::sync::Arc;

const ALL: Offloads = Offloads::all();
const NONE: Offloads = Offloads::empty();
const MSS: u16 = 1400;

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 / 3) as u8).collect()
}

/// The packet of 64 KiB that a guest sends at most, and how many it becomes.
fn large() -> (Packet, Vec<u8>, u64) {
    let (packet, payload) = (Packet::tcp(false), payload(65_000));
    let pieces = payload.len().div_ceil(MSS.into()) as u64;
    (packet, payload, pieces)
}

/// One domain with an access port for each entry; all know one another's addresses, which end in their numbers + 1.
fn bed(offloads: &[Offloads]) -> Bed {
    let mut bed = Bed::with_offloads(1, offloads).one_domain();
    meet(&mut bed);
    bed
}

fn meet(bed: &mut Bed) {
    let ports = bed.peers.len() as u16;
    for port in 0..ports {
        bed.send(port, &frame(MacAddr::BROADCAST, mac(port as u8 + 1)));
        bed.turn();
    }
    (0..ports).for_each(|port| drop(bed.recv(port)));
}

/// What changed in the ledger.
fn since(bed: &mut Bed, before: &Ledger) -> [u64; 6] {
    let now = bed.ledger();
    [
        now.received - before.received,
        now.replicated - before.replicated,
        now.segments - before.segments,
        now.sent - before.sent,
        now.consumed - before.consumed,
        now.dropped() - before.dropped(),
    ]
}

#[test]
fn a_port_that_takes_it_gets_64_kib_untouched() {
    for held in [None, Some(256), Some(100)] {
        let mut bed = bed(&[NONE, ALL]);
        let (packet, payload, _) = large();
        let (bytes, offload) = (packet.undone(&payload), packet.offload(packet.tso(), MSS));
        let before = bed.ledger();
        bed.send_undone(0, &bytes, Some(offload), held);
        bed.turn();
        assert_eq!(bed.recv_undone(1), [(bytes, Some(offload))]);
        assert_eq!(since(&mut bed, &before), [1, 0, 0, 1, 0, 0]);
        bed.finish();
    }
}

#[test]
fn what_a_port_does_not_take_is_done_for_it_and_no_more() {
    let (packet, payload, pieces) = large();
    let (bytes, offload) = (packet.undone(&payload), packet.offload(packet.tso(), MSS));
    let short = packet.undone(&payload[..77]);
    let finished = (packet.whole(&payload[..77]), None);
    let checksum = packet.offload(NONE, 0);
    // A receiver that finishes checksums but has no TSO; one with another TSO; one without ECN; one with nothing.
    for offloads in [
        Offloads::CHECKSUM,
        ALL.difference(Offloads::TSO4),
        ALL.difference(Offloads::ECN),
        NONE,
    ] {
        let mut bed = bed(&[NONE, offloads]);
        let before = bed.ledger();
        let mut marked = offload;
        marked.needs |= Offloads::ECN;
        bed.send_undone(0, &short, Some(checksum), None);
        bed.send_undone(0, &bytes, Some(marked), None);
        bed.turn();
        let mut got = bed.recv_undone(1).into_iter();
        if offloads == NONE {
            assert_eq!(got.next().as_ref(), Some(&finished));
        } else {
            assert_eq!(got.next(), Some((short.clone(), Some(checksum))));
        }
        let expected = packet.cut(&payload, MSS.into());
        assert!(
            got.eq(expected.into_iter().map(|piece| (piece, None))),
            "{offloads:?}"
        );
        assert_eq!(since(&mut bed, &before), [2, 0, pieces, 1 + pieces, 1, 0]);
        bed.finish();
    }
}

#[test]
fn tags_on_the_way_in_and_out_move_what_is_undone() {
    for offloads in [ALL, NONE] {
        let mut bed = Bed::with_offloads(1, &[NONE, offloads]);
        let mut vids = VidTable::default();
        vids.entry_mut(EtherType::VLAN, vid(100)).single = Some(place(1, 0));
        bed.port(0, |p| {
            p.service = Service::Trunk {
                native: None,
                vids: Arc::new(vids),
            };
        });
        let mut out = member(1);
        out.tags.outer = Some((EtherType::QINQ, vid(200)));
        out.tags.inner = Some(vid(7));
        bed.domain(
            1,
            Domain {
                members: vec![Some(member(0)), Some(out)],
                ..Domain::default()
            },
        );
        bed.publish();
        let mut packet = Packet::udp(true);
        packet.tags = vec![(0x8100, 100)];
        let payload = payload(4000);
        bed.send_undone(
            0,
            &packet.undone(&payload),
            Some(packet.offload(packet.uso(), 1000)),
            Some(150),
        );
        bed.turn();
        packet.tags = vec![(0x88a8, 200), (0x8100, 7)];
        let got = bed.recv_undone(1);
        if offloads == ALL {
            let offload = packet.offload(packet.uso(), 1000);
            assert_eq!(got, [(packet.undone(&payload), Some(offload))]);
        } else {
            let pieces = packet.cut(&payload, 1000).into_iter().map(|piece| (piece, None));
            assert_eq!(got, pieces.collect::<Vec<_>>());
        }
        bed.finish();
    }
}

#[test]
fn frames_leave_in_the_order_in_which_they_came() {
    for offloads in [ALL, Offloads::CHECKSUM, NONE] {
        let mut bed = bed(&[NONE, offloads]);
        let mut packet = Packet::udp(false);
        let (plain, mut expected) = (payload(100), Vec::new());
        for i in 0..40u16 {
            packet.id = i * 256;
            let (kind, bytes) = match i % 4 {
                0 | 3 => (None, packet.whole(&plain)),
                1 => (Some(NONE), packet.undone(&plain)),
                _ => (Some(packet.uso()), packet.undone(&payload(3000))),
            };
            let offload = kind.map(|kind| packet.offload(kind, 1000));
            bed.send_undone(0, &bytes, offload, (i % 3 == 0).then_some(64));
            let n = if i % 4 == 2 && offloads != ALL { 3 } else { 1 };
            expected.extend((0..n).map(|piece| i * 256 + piece));
        }
        bed.turn();
        let ids = |(frame, _): (Vec<u8>, _)| u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(
            bed.recv_undone(1).into_iter().map(ids).collect::<Vec<_>>(),
            expected
        );
        bed.finish();
    }
}

#[test]
fn a_flood_gives_to_each_what_it_takes() {
    let mut bed = Bed::with_offloads(1, &[NONE, ALL, NONE, ALL]).one_domain();
    let (packet, payload, pieces) = large();
    let (bytes, offload) = (packet.undone(&payload), packet.offload(packet.tso(), MSS));
    for held in [None, Some(200)] {
        let before = bed.ledger();
        bed.send_undone(0, &bytes, Some(offload), held);
        bed.turn();
        for port in [1, 3] {
            assert_eq!(bed.recv_undone(port), [(bytes.clone(), Some(offload))]);
        }
        assert_eq!(bed.recv(2), packet.cut(&payload, MSS.into()));
        assert_eq!(since(&mut bed, &before), [1, 2, pieces, 2 + pieces, 1, 0]);
    }
    bed.finish();
}

#[test]
fn a_cross_connect_asks_its_other_end_too() {
    for offloads in [ALL, NONE] {
        let mut bed = Bed::with_offloads(1, &[NONE, offloads]);
        bed.port(0, |p| p.service = Service::CrossConnect(PortId(1)));
        bed.publish();
        let (packet, payload, pieces) = large();
        let (bytes, offload) = (packet.undone(&payload), packet.offload(packet.tso(), MSS));
        let before = bed.ledger();
        bed.send_undone(
            0,
            &packet.undone(&payload[..50]),
            Some(packet.offload(NONE, 0)),
            Some(80),
        );
        bed.send_undone(0, &bytes, Some(offload), Some(80));
        bed.turn();
        let got = bed.recv_undone(1);
        if offloads == ALL {
            assert_eq!(got[1], (bytes, Some(offload)));
            assert_eq!(since(&mut bed, &before), [2, 0, 0, 2, 0, 0]);
            // Also a short one is looked at, before it goes to a guest that might not.
            let wrong = packet.offload(Offloads::TSO6, MSS);
            bed.send_undone(0, &packet.undone(&payload[..500]), Some(wrong), None);
            bed.turn();
            assert_eq!(bed.drops(), [("offload_malformed", 1)].into());
        } else {
            assert_eq!(got[0], (packet.whole(&payload[..50]), None));
            assert_eq!(got.len() as u64, 1 + pieces);
            assert_eq!(since(&mut bed, &before), [2, 0, pieces, 1 + pieces, 1, 0]);
        }
        bed.finish();
    }
}

/// What another worker's port takes is found out there: frames are whole by then, and cut there.
#[test]
fn held_frames_for_another_workers_port_are_made_whole() {
    for offloads in [ALL, NONE] {
        let mut bed = Bed::with_offloads(2, &[NONE, offloads]).one_domain();
        meet(&mut bed);
        let (packet, payload, pieces) = large();
        let (bytes, offload) = (packet.undone(&payload), packet.offload(packet.tso(), MSS));
        let before = bed.ledger();
        bed.send_undone(0, &bytes, Some(offload), Some(256));
        bed.turn();
        let got = bed.recv_undone(1);
        let now = bed.ledger();
        assert_eq!(
            (now.handed_out, now.handed_in),
            (before.handed_out + 1, before.handed_in + 1)
        );
        if offloads == ALL {
            assert_eq!(got, [(bytes, Some(offload))]);
            assert_eq!(since(&mut bed, &before), [1, 0, 0, 1, 0, 0]);
        } else {
            assert_eq!(got.len() as u64, pieces);
            assert_eq!(since(&mut bed, &before), [1, 0, pieces, pieces, 1, 0]);
        }
        bed.finish();
    }
}

/// A large packet is as long as its pieces, for ports that take it and for others.
#[test]
fn the_mtu_is_for_the_pieces() {
    for offloads in [ALL, NONE] {
        let mut bed = bed(&[NONE, offloads]);
        let mut packet = Packet::tcp(false);
        packet.tcp.as_mut().expect("TCP").options = 3;
        // 1518 bytes go out at most: 14 + 20 + 32 and 1452.
        let payload = payload(10_000);
        for (size, fits) in [(1452, true), (1453, false)] {
            let before = bed.ledger();
            bed.send_undone(
                0,
                &packet.undone(&payload),
                Some(packet.offload(packet.tso(), size)),
                None,
            );
            bed.turn();
            assert_eq!(bed.recv_undone(1).is_empty(), !fits);
            assert_eq!(since(&mut bed, &before)[5], u64::from(!fits));
        }
        // Short of one piece it is as long as it is.
        bed.send_undone(
            0,
            &packet.undone(&payload[..900]),
            Some(packet.offload(packet.tso(), 9000)),
            None,
        );
        // An unfinished checksum makes nothing shorter.
        bed.send_undone(0, &packet.undone(&payload), Some(packet.offload(NONE, 0)), None);
        bed.turn();
        assert_eq!(bed.recv_undone(1).len(), 1);
        assert_eq!(bed.drops(), [("port_mtu", 2)].into());
        bed.finish();
    }
}
