//! Finishing and cutting against a model: what etherparse builds of the same payload, byte by byte, on every way out.

mod common;

use clearway_engine::*;
use clearway_io::Offloads;
use clearway_wire::checksum::{L4Checksum, l4_checksum};
use clearway_wire::{EtherType, Tag, Tci, parse_tags, vxlan_datagram};
use common::packet::{DST, Packet, SRC, Tcp};
use common::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

/// How frames leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    /// With two tags pushed.
    QinQ,
    /// In VXLAN over IPv4, or over IPv6 with a UDP checksum.
    Vxlan(bool),
    /// By a port of another worker.
    Handed,
}

/// Port 0 sends, port 1 is the way out and does nothing itself.
fn bed(way: Way) -> Bed {
    let mut bed = Bed::new(if way == Way::Handed { 2 } else { 1 }, 2);
    bed.port(0, |p| p.service = Service::Tunnel(place(1, 0)));
    bed.port(1, |p| p.mtu = 9500);
    if !matches!(way, Way::Vxlan(_)) {
        bed.port(1, |p| p.service = Service::Tunnel(place(1, 1)));
    }
    let mut out = member(1);
    if way == Way::QinQ {
        out.tags.outer = Some((EtherType::QINQ, vid(200)));
        out.tags.inner = Some(vid(7));
    }
    let mut domain = Domain {
        members: vec![Some(member(0)), Some(out)],
        ..Domain::default()
    };
    if let Way::Vxlan(v6) = way {
        let ip = |n| match v6 {
            false => IpAddr::from([10, 0, 0, n]),
            true => IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]),
        };
        domain.members.pop();
        domain.remotes = Box::new([TunnelId(0)]);
        domain.vni = Some(vni(5001));
        let spec = OuterSpec {
            src_mac: mac(8),
            dst_mac: mac(9),
            vid: None,
            local: ip(1),
            remote: ip(2),
            udp_port: 4789,
            ttl: 64,
            dscp: OuterDscp::Copy,
            checksum: v6,
        };
        bed.conf.tunnels = vec![Some(Arc::new(Tunnel {
            port: PortId(1),
            generation: 0,
            max_inner: 9400,
            rewrite: Rewrite::new(&spec),
        }))];
    }
    bed.domain(1, domain);
    bed.publish();
    bed
}

/// What came out, without what the way put in front.
fn bare(way: Way, frame: &[u8]) -> Vec<u8> {
    match way {
        Way::Plain | Way::Handed => frame.to_vec(),
        Way::QinQ => {
            let tags = parse_tags(frame);
            assert_eq!(tags.outer, Some(Tag::service(Tci(200))));
            assert_eq!(tags.inner, Some(Tag::customer(Tci(7))));
            [&frame[..12], &frame[20..]].concat()
        }
        Way::Vxlan(v6) => {
            let outer = vxlan_datagram(frame, 14).expect("VXLAN");
            assert_eq!((outer.vni.get(), outer.udp_checksum != 0), (5001, v6));
            assert!(outer.verify_udp_checksum(frame));
            assert_eq!(outer.inner_offset + outer.inner_len, frame.len());
            frame[outer.inner_offset..].to_vec()
        }
    }
}

prop_compose! {
    fn any_packet()(
        v6: bool, options in 0u8..=4, id: u16, tags in prop::collection::vec(0u16..4095, 0..=3),
        tcp in prop::option::of((any::<u32>(), any::<[bool; 3]>(), 0u8..=10)),
    ) -> Packet {
        Packet {
            v6,
            tags: tags.into_iter().map(|tci| (0x8100, tci)).collect(),
            options,
            id,
            tcp: tcp.map(|(seq, flags, options)| Tcp { seq, flags, options }),
        }
    }
}

/// Payload by its length and a seed; packets of 64 KiB and small ones.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0usize..3000, 0usize..65_300];
    (len, any::<u32>()).prop_map(|(len, seed)| {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    })
}

/// How much is left undone: nothing, the checksum, segments of this size, or fragments.
#[derive(Clone, Copy, Debug)]
enum Undone {
    Nothing,
    Checksum,
    Segments(u16),
    Fragments(u16),
}

fn any_undone() -> impl Strategy<Value = Undone> {
    // Not more pieces than the ring of the other end takes.
    prop_oneof![
        1 => Just(Undone::Nothing),
        1 => Just(Undone::Checksum),
        3 => (200u16..9000).prop_map(Undone::Segments),
        1 => (200u16..9000).prop_map(Undone::Fragments),
    ]
}

fn check(
    bed: &mut Bed,
    way: Way,
    packet: &Packet,
    payload: &[u8],
    undone: Undone,
    held: Option<usize>,
) -> Result<(), TestCaseError> {
    let mut packet = packet.clone();
    let payload = match undone {
        // What goes out whole fits the port.
        Undone::Nothing | Undone::Checksum => &payload[..payload.len().min(9000)],
        _ => payload,
    };
    let kind = match undone {
        Undone::Nothing | Undone::Checksum => Offloads::empty(),
        Undone::Segments(_) if packet.tcp.is_some() => packet.tso() | Offloads::ECN,
        Undone::Segments(_) => packet.uso(),
        Undone::Fragments(_) => {
            packet.tcp = None;
            Offloads::UFO
        }
    };
    let size = match undone {
        Undone::Nothing | Undone::Checksum => 0,
        Undone::Segments(size) | Undone::Fragments(size) => size,
    };
    let (bytes, offload) = match undone {
        Undone::Nothing => (packet.whole(payload), None),
        _ => (packet.undone(payload), Some(packet.offload(kind, size))),
    };
    let least = packet.l4() + packet.l4_header();
    let held = held.map(|extra| (least + extra).min(256).min(bytes.len()));
    let before = bed.ledger();
    bed.send_undone(0, &bytes, offload, held);
    bed.turn();
    let got: Vec<Vec<u8>> = bed
        .recv_undone(1)
        .into_iter()
        .map(|(frame, undone)| {
            assert_eq!(undone, None, "nothing is left undone");
            bare(way, &frame)
        })
        .collect();
    let expected = match undone {
        Undone::Nothing | Undone::Checksum => vec![packet.whole(payload)],
        Undone::Segments(size) => packet.cut(payload, size.into()),
        Undone::Fragments(size) => {
            // Whatever the identification is: that of the first part.
            let at = packet.l4() + 4;
            let id = got[0]
                .get(at..at + 4)
                .map_or(0, |id| u32::from_be_bytes([id[0], id[1], id[2], id[3]]));
            packet.fragments(payload, size.into(), id)
        }
    };
    prop_assert_eq!(got.len(), expected.len());
    for (i, (got, mut expected)) in got.iter().zip(expected).enumerate() {
        let l3 = parse_tags(got).l3_offset;
        let field = packet.l4() + packet.offload(kind, size).field as usize;
        if matches!(undone, Undone::Checksum) && expected[field..field + 2] == [0, 0] {
            // Either zero of ones' complement is right.
            expected[field..field + 2].fill(0xff);
        }
        prop_assert!(*got == expected, "piece {} differs", i);
        if packet.tags.len() < 3 && !matches!(undone, Undone::Fragments(_)) {
            prop_assert_eq!(l4_checksum(&got[l3..]), Some(L4Checksum::Correct));
        }
    }
    let after = bed.ledger();
    let cut = u64::from(matches!(undone, Undone::Segments(_) | Undone::Fragments(_)));
    prop_assert_eq!(after.received - before.received, 1);
    prop_assert_eq!(after.sent - before.sent, got.len() as u64);
    prop_assert_eq!(after.consumed - before.consumed, cut);
    prop_assert_eq!(after.segments - before.segments, cut * got.len() as u64);
    prop_assert_eq!(after.dropped(), before.dropped());
    Ok(())
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn every_packet_comes_out_as_the_model_says(way: Way) {
    let bed = RefCell::new(bed(way));
    // The destination is known to be behind port 1; into tunnels, all is flooded to one remote.
    if !matches!(way, Way::Vxlan(_)) {
        bed.borrow_mut().send(1, &frame(mac(SRC), mac(DST)));
        bed.borrow_mut().turn();
        bed.borrow_mut().recv(0);
    }
    let config = cases(100);
    proptest!(config, |(
        packet in any_packet(), payload in any_payload(), undone in any_undone(),
        held in prop::option::of(0usize..200),
    )| {
        check(&mut bed.borrow_mut(), way, &packet, &payload, undone, held)?;
    });
    bed.into_inner().finish();
}

#[test]
fn by_a_plain_port() {
    every_packet_comes_out_as_the_model_says(Way::Plain);
}

#[test]
fn with_two_tags_pushed() {
    every_packet_comes_out_as_the_model_says(Way::QinQ);
}

#[test]
fn in_vxlan_over_ipv4() {
    every_packet_comes_out_as_the_model_says(Way::Vxlan(false));
}

#[test]
fn in_vxlan_over_ipv6_with_a_checksum() {
    every_packet_comes_out_as_the_model_says(Way::Vxlan(true));
}

#[test]
fn by_a_port_of_another_worker() {
    every_packet_comes_out_as_the_model_says(Way::Handed);
}

/// Headers that were damaged and offload states that were made up: nothing panics, every frame is accounted for.
#[test]
fn damaged_packets_are_dropped_or_cut_somehow() {
    let beds = RefCell::new([Way::Plain, Way::QinQ, Way::Vxlan(true), Way::Handed].map(bed));
    let config = cases(300);
    proptest!(config, |(
        packet in any_packet(), payload in any_payload(), way in 0usize..4,
        (kind, start, field, gso_size) in (0u16..128, -20i32..20, 0u16..20, prop_oneof![0u16..20, any::<u16>()]),
        damage in prop::collection::vec((0usize..100, any::<u8>()), 0..4),
        right: bool, held in prop::option::of(0usize..200),
    )| {
        let bed = &mut beds.borrow_mut()[way];
        let mut bytes = packet.undone(&payload);
        for (at, value) in damage {
            if let Some(byte) = bytes.get_mut(14 + at) {
                *byte = value;
            }
        }
        let mut offload = packet.offload(Offloads::from_bits_truncate(kind), gso_size);
        if !right {
            offload.start = (i32::from(offload.start) + start) as u16;
            offload.field = field;
        }
        let end = usize::from(offload.start + offload.field) + 2;
        if end <= bytes.len().min(256) {
            let held = held.map(|extra| (end + extra).min(256).min(bytes.len()));
            bed.send_undone(0, &bytes, Some(offload), held);
            bed.turn();
            bed.recv_undone(1);
            prop_assert_eq!(bed.ledger().in_flight(), 0);
        }
    });
    beds.into_inner().into_iter().for_each(Bed::finish);
}
