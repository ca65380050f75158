//! Frames that their sender left undone: who gets them as they are, who does not, and what is refused. Exact counts.

mod common;

use clearway_engine::*;
use clearway_io::{Frame, Offload, Offloads};
use clearway_wire::checksum::{L4Checksum, l4_checksum};
use clearway_wire::{EtherType, Ipv4Packet, MacAddr, MappedIp, icmpv4, vxlan_datagram};
use common::packet::Packet;
use common::*;
use std::net::IpAddr;
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

/// Port 0 is in a domain with a remote, port 1 is the uplink, whose frames may be this much undone.
fn tunnel(offloads: Offloads, max_inner: u32) -> Bed {
    let mut bed = Bed::with_offloads(1, &[ALL, offloads]);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    bed.port(1, |p| {
        p.vteps = Box::new([VtepId(0)]);
        p.mtu = 1550;
    });
    bed.domain(
        1,
        Domain {
            members: vec![Some(member(0))],
            remotes: Box::new([TunnelId(0)]),
            vni: Some(vni(5001)),
            ..Domain::default()
        },
    );
    let (local, remote) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let mut vnis = VniTable::default();
    vnis.insert(vni(5001), bd(1));
    let mut remotes = Remotes::default();
    remotes.insert(MappedIp::from(remote), TunnelId(0));
    bed.conf.vteps = vec![Some(Arc::new(Vtep {
        local: local.into(),
        mac: mac(8).to_u64(),
        udp_port: 4789,
        vid: None,
        answers: None,
        vnis,
        remotes,
    }))];
    bed.conf.tunnels = vec![Some(Arc::new(Tunnel {
        port: PortId(1),
        generation: 0,
        max_inner,
        rewrite: Rewrite::new(&outer(8, 9, local, remote)),
    }))];
    bed.publish();
    bed
}

fn outer(src: u8, dst: u8, local: IpAddr, remote: IpAddr) -> OuterSpec {
    OuterSpec {
        src_mac: mac(src),
        dst_mac: mac(dst),
        vid: None,
        local,
        remote,
        udp_port: 4789,
        ttl: 64,
        dscp: OuterDscp::Copy,
        checksum: false,
    }
}

#[test]
fn into_a_tunnel_all_is_finished_whatever_the_uplink_takes() {
    let mut bed = tunnel(ALL, 1500);
    let (packet, payload, pieces) = large();
    bed.send_undone(
        0,
        &packet.undone(&payload),
        Some(packet.offload(packet.tso(), MSS)),
        Some(90),
    );
    bed.send_undone(
        0,
        &packet.undone(&payload[..90]),
        Some(packet.offload(NONE, 0)),
        Some(90),
    );
    bed.turn();
    let mut expected = packet.cut(&payload, MSS.into());
    expected.push(packet.whole(&payload[..90]));
    let got = bed.recv_undone(1);
    assert_eq!(got.len(), expected.len());
    for ((frame, undone), expected) in got.into_iter().zip(expected) {
        let outer = vxlan_datagram(&frame, 14).expect("VXLAN");
        assert_eq!((&frame[outer.inner_offset..], undone), (&expected[..], None));
    }
    assert_eq!(
        since(&mut bed, &Ledger::default()),
        [2, 0, pieces, 1 + pieces, 1, 0]
    );
    bed.finish();
}

#[test]
fn a_sender_of_pieces_that_do_not_fit_a_tunnel_is_told_once() {
    let mut bed = tunnel(NONE, 1450);
    let (packet, payload, _) = large();
    // 14 + 20 + 32 + 1384 = 1450.
    let mut bytes = packet.undone(&payload);
    bytes[20] |= 0x40; // DF: it wants to know
    bytes[24..26].fill(0);
    let sum = clearway_wire::checksum::checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bed.send_undone(0, &bytes, Some(packet.offload(packet.tso(), 1384)), Some(256));
    bed.turn();
    assert_eq!(bed.recv(1).len(), 65_000usize.div_ceil(1384));
    assert!(bed.recv(0).is_empty());
    bed.send_undone(0, &bytes, Some(packet.offload(packet.tso(), 1385)), Some(256));
    bed.turn();
    assert!(bed.recv(1).is_empty());
    let told = bed.recv(0);
    assert_eq!(told.len(), 1);
    let ip = Ipv4Packet::new_checked(&told[0][14..]).expect("IPv4");
    let icmp = clearway_wire::Icmpv4Packet::new_checked(ip.payload()).expect("ICMP");
    assert!(icmp.verify_checksum());
    assert_eq!((ip.payload()[0], ip.payload()[1]), (3, 4), "fragmentation needed");
    assert_eq!(u16::from_be_bytes([ip.payload()[6], ip.payload()[7]]), 1436);
    assert!(icmpv4::may_be_answered_with_error(&bytes[14..]));
    assert_eq!(
        (bed.drops(), bed.ledger().generated),
        ([("tunnel_mtu", 1)].into(), 1)
    );
    bed.finish();
}

/// What arrives in VXLAN, as a guest with an uplink of its own (or a peer on this host) leaves it.
#[test]
fn out_of_a_tunnel_what_was_undone_outside_is_forgotten() {
    let mut bed = tunnel(NONE, 1450);
    let inner = Packet::udp(false);
    let rewrite = Rewrite::new(&outer(
        9,
        8,
        IpAddr::from([10, 0, 0, 2]),
        IpAddr::from([10, 0, 0, 1]),
    ));
    let wrap = |bed: &mut Bed, inner: &[u8]| {
        let region = bed.umem.id();
        let mut frame = bed.pools.frame_from(region, inner).expect("chunk");
        assert!(rewrite.as_ref().expect("one family").push(&mut frame, vni(5001)));
        let bytes: Vec<u8> = frame.segments().flatten().copied().collect();
        bed.pools.free(frame);
        bytes
    };
    let payload = payload(600);
    let needs = Offloads::CHECKSUM;
    let undone = |start, kind: Offloads| Offload {
        needs: needs | kind,
        start,
        field: 6,
        gso_size: 500,
    };
    for held in [None, Some(160)] {
        let whole = inner.whole(&payload);
        let bytes = wrap(&mut bed, &whole);
        // The outer UDP checksum: it goes with its header.
        bed.send_undone(1, &bytes, Some(undone(34, NONE)), held);
        bed.turn();
        assert_eq!(bed.recv_undone(0), [(whole, None)]);
        // The inner one is still to be done.
        let partial = inner.undone(&payload);
        let bytes = wrap(&mut bed, &partial);
        bed.send_undone(1, &bytes, Some(undone(50 + 34, NONE)), held);
        bed.turn();
        assert_eq!(bed.recv_undone(0), [(partial, Some(undone(34, NONE)))]);
        // An outer datagram to be cut up is no frame in VXLAN.
        for kind in [Offloads::USO4, Offloads::UFO] {
            bed.send_undone(1, &bytes, Some(undone(34, kind)), held);
        }
        bed.turn();
        assert!(bed.recv_undone(0).is_empty());
    }
    assert_eq!(bed.drops(), [("vxlan_malformed", 4)].into());
    bed.finish();
}

type Damage = fn(&mut Vec<u8>, &mut Offload);

#[test]
fn what_contradicts_its_headers_is_dropped_for_everyone() {
    let wrong: &[(&str, Packet, Offloads, Damage)] = &[
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
    ];
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

/// The checksum of any protocol can be left undone: here of what a guest has put into a tunnel of its own.
#[test]
fn a_checksum_inside_a_guests_own_tunnel_is_finished() {
    let mut bed = bed(&[NONE, NONE]);
    let inner = Packet::tcp(true);
    let mut bytes = Packet::udp(false).whole(&inner.undone(&payload(301)));
    bytes[40..42].fill(0);
    let before = 14 + 20 + 8;
    let mut offload = inner.offload(NONE, 0);
    offload.start += before;
    bed.send_undone(0, &bytes, Some(offload), Some(250));
    bed.turn();
    let got = bed.recv(1);
    let inside = &got[0][usize::from(before)..];
    assert_eq!(inside, inner.whole(&payload(301)));
    assert_eq!(l4_checksum(&inside[14..]), Some(L4Checksum::Correct));
    bed.finish();
}
