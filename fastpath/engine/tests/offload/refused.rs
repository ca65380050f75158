//! What contradicts itself, is too much, or has no memory: dropped and counted, exactly.

use crate::common::packet::Packet;
use crate::common::*;
use crate::{ALL, MSS, NONE, bed, large, payload, since};
use clearway_io::{Frame, Offload, Offloads};

type Damage = fn(&mut Vec<u8>, &mut Offload);

/// What a sender says about a packet, and how that or the packet is then made wrong.
fn contradictions() -> Vec<(&'static str, Packet, Offloads, Damage)> {
    vec![
        ("no size", Packet::tcp(false), Offloads::TSO4, |_, o| {
            o.gso_size = 0
        }),
        (
            "fragments of less than 8 bytes",
            Packet::udp(false),
            Offloads::UFO,
            |_, o| o.gso_size = 7,
        ),
        (
            "two kinds",
            Packet::udp(false),
            Offloads::USO4 | Offloads::UFO,
            |_, _| {},
        ),
        ("no checksum", Packet::tcp(false), Offloads::TSO4, |_, o| {
            o.needs.remove(Offloads::CHECKSUM)
        }),
        (
            "IPv6 in IPv4's name",
            Packet::tcp(true),
            Offloads::TSO4,
            |_, _| {},
        ),
        (
            "IPv4 in IPv6's name",
            Packet::udp(false),
            Offloads::USO6,
            |_, _| {},
        ),
        (
            "another version inside",
            Packet::tcp(false),
            Offloads::TSO4,
            |b, _| b[14] = 0x65,
        ),
        ("UDP for TCP", Packet::udp(false), Offloads::TSO4, |_, o| {
            o.field = 16
        }),
        ("TCP for UDP", Packet::tcp(true), Offloads::USO6, |_, o| {
            o.field = 6
        }),
        ("another start", Packet::tcp(false), Offloads::TSO4, |_, o| {
            o.start += 1
        }),
        (
            "a start in front of IP",
            Packet::tcp(false),
            Offloads::TSO4,
            |_, o| o.start = 10,
        ),
        ("another field", Packet::tcp(false), Offloads::TSO4, |_, o| {
            o.field = 18
        }),
        ("an IHL of 4", Packet::tcp(false), Offloads::TSO4, |b, _| {
            b[14] = 0x44
        }),
        (
            "a length of its own",
            Packet::tcp(false),
            Offloads::TSO4,
            |b, _| b[17] ^= 1,
        ),
        ("a fragment already", Packet::udp(false), Offloads::UFO, |b, _| {
            b[20] |= 0x20
        }),
        (
            "a TCP header of 16 bytes",
            Packet::tcp(false),
            Offloads::TSO4,
            |b, _| b[46] = 0x40,
        ),
        (
            "an extension header that leads nowhere",
            Packet::tcp(true),
            Offloads::TSO6,
            |b, _| b[20] = 43,
        ),
        ("no IP", Packet::tcp(false), Offloads::TSO4, |b, _| b[12] = 9),
        (
            "pieces longer than a packet",
            Packet::tcp(false),
            Offloads::TSO4,
            |b, o| {
                b.resize(65_600, 0);
                b[16..18].fill(0);
                o.gso_size = 65_535;
            },
        ),
        (
            "a datagram longer than a packet",
            Packet::udp(false),
            Offloads::UFO,
            |b, _| {
                b.resize(65_600, 0);
                b[16..18].fill(0);
            },
        ),
    ]
}

#[test]
fn what_contradicts_its_headers_is_dropped_for_everyone() {
    let wrong = contradictions();
    for offloads in [ALL, NONE] {
        let mut bed = bed(&[NONE, offloads]);
        for (i, (what, packet, kind, damage)) in wrong.iter().enumerate() {
            let mut bytes = packet.undone(&payload(5000));
            let mut offload = packet.offload(*kind, MSS);
            damage(&mut bytes, &mut offload);
            bed.send_undone(0, &bytes, Some(offload), (i % 2 == 0).then_some(120));
            bed.turn();
            assert!(bed.recv_undone(1).is_empty(), "{what}");
            assert_eq!(
                bed.drops(),
                [("offload_malformed", i as u64 + 1)].into(),
                "{what}"
            );
        }
        // The TCP header ends behind the first segment.
        let packet = Packet::tcp(false);
        bed.send_undone(
            0,
            &packet.undone(&payload(5000)),
            Some(packet.offload(packet.tso(), MSS)),
            Some(60),
        );
        bed.turn();
        assert!(bed.recv_undone(1).is_empty());
        assert_eq!(
            bed.drops(),
            [("offload_malformed", wrong.len() as u64 + 1)].into()
        );
        bed.finish();
    }
}

#[test]
fn pieces_without_a_chunk_are_counted() {
    let mut bed = bed(&[NONE, NONE]);
    let (packet, payload, pieces) = large();
    // Asking takes turns.
    let before = bed.ledger();
    bed.send_undone(
        0,
        &packet.undone(&payload),
        Some(packet.offload(packet.tso(), MSS)),
        Some(200),
    );
    // All chunks but those of the worker's own pool and ten.
    let region = bed.umem.id();
    let mut kept: Vec<Frame> = std::iter::from_fn(|| bed.pools.alloc(region)).collect();
    kept.drain(..10).for_each(Frame::free_to_depot);
    bed.turn();
    let sent = bed.recv(1);
    assert!((10..pieces as usize).contains(&sent.len()), "{}", sent.len());
    assert_eq!(sent, packet.cut(&payload, MSS.into())[..sent.len()]);
    let (sent, lost) = (sent.len() as u64, pieces - sent.len() as u64);
    assert_eq!(since(&mut bed, &before), [1, 0, pieces, sent, 1, lost]);
    assert_eq!(bed.drops(), [("no_chunks", lost)].into());
    kept.into_iter().for_each(|frame| bed.pools.free(frame));
    bed.finish();
}

/// What cannot be made whole is dropped where that was needed, and not sent in parts.
#[test]
fn held_frames_without_a_chunk_are_counted() {
    // To another worker; to two members.
    for (workers, ports, expected) in [(2, 2, [1, 0, 0, 0, 0, 1]), (1, 3, [1, 0, 0, 0, 0, 1])] {
        let mut bed = Bed::with_offloads(workers, &vec![ALL; ports]).one_domain();
        let before = bed.ledger();
        let (packet, payload, _) = large();
        bed.send_undone(
            0,
            &packet.undone(&payload),
            Some(packet.offload(packet.tso(), MSS)),
            Some(200),
        );
        let region = bed.umem.id();
        let kept: Vec<Frame> = std::iter::from_fn(|| bed.pools.alloc(region)).collect();
        bed.turn();
        assert_eq!(since(&mut bed, &before), expected);
        assert_eq!(
            (bed.drops(), bed.ledger().handed_out),
            ([("no_chunks", 1)].into(), 0)
        );
        kept.into_iter().for_each(|frame| bed.pools.free(frame));
        bed.finish();
    }
}

/// The ring of the other end takes 512 frames, the list before it some thousands: what is above is not even made.
#[test]
fn a_guest_that_asks_for_thousands_of_pieces_gets_what_fits() {
    let mut bed = bed(&[NONE, NONE]);
    let (packet, payload, _) = large();
    let pieces = packet.cut(&payload, 128);
    let (each, frames) = (pieces.len() as u64, 10);
    assert_eq!(each, 508);
    let before = bed.ledger();
    for _ in 0..frames {
        let offload = packet.offload(packet.tso(), 128);
        bed.send_undone(0, &packet.undone(&payload), Some(offload), Some(200));
    }
    bed.turn();
    let sent = bed.recv(1);
    assert_eq!((&sent[..508], &sent[508..]), (&pieces[..], &pieces[..4]));
    // The list is full within the ninth; the tenth is not cut up.
    let dropped = 9 * each - 512 + 1;
    assert_eq!(since(&mut bed, &before), [frames, 0, 9 * each, 512, 9, dropped]);
    assert_eq!(bed.drops(), [("tx_full", dropped)].into());
    bed.finish();
}

/// A guest may name any size of pieces. No sender makes more than some hundreds of a packet.
#[test]
fn a_packet_is_cut_into_512_pieces_at_most() {
    let (packet, payload) = (Packet::tcp(false), payload(65_000));
    for (len, size, dropped) in [
        (512 * 100, 100, false),
        (512 * 100 + 1, 100, true),
        (65_000, 1, true),
    ] {
        let bytes = packet.undone(&payload[..len]);
        let offload = packet.offload(packet.tso(), size);
        // To a port that does not cut it up, and to a guest that does, whatever comes of it.
        for receiver in [NONE, ALL] {
            let mut bed = bed(&[NONE, receiver]);
            let before = bed.ledger();
            bed.send_undone(0, &bytes, Some(offload), Some(200));
            bed.turn();
            if receiver == ALL {
                assert_eq!(bed.recv_undone(1), [(bytes.clone(), Some(offload))]);
                assert_eq!(since(&mut bed, &before), [1, 0, 0, 1, 0, 0]);
            } else if dropped {
                assert!(bed.recv(1).is_empty());
                assert_eq!(since(&mut bed, &before), [1, 0, 0, 0, 0, 1]);
                assert_eq!(bed.drops(), [("offload_too_many", 1)].into());
            } else {
                assert_eq!(bed.recv(1), packet.cut(&payload[..len], size.into()));
                assert_eq!(since(&mut bed, &before), [1, 0, 512, 512, 1, 0]);
            }
            bed.finish();
        }
    }
}
