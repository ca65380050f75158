//! Fuzz targets: any bytes, and good frames with some bytes changed, never panic anything, and what is read keeps its
//! promises. Each runs briefly as a test; under a fuzzer (`cargo bolero test`) each runs as long as one likes.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;

use std::hint::black_box;

use clearway_wire::checksum::{L4Checksum, fill_l4_checksum, l4_checksum, l4_checksum_is_partial};
use clearway_wire::udp::udp_datagram_of;
use clearway_wire::{
    Arp, ArpPacket, EtherType, EthernetFrame, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet, MacAddr,
    Ndp, Outer, OuterError, Pretty, Tag, Tci, TcpPacket, UdpPacket, Vni, VxlanPacket, flow_hash, icmpv4,
    icmpv6, ip, ndp, parse_tags, source_port, tcp, udp_datagram, vlan, vxlan_datagram,
};

/// A good frame (which one: `kind`), with single bytes changed and the end cut off.
fn mutated(kind: u8, changes: &[(u8, u8)], cut: u8) -> Vec<u8> {
    let inner = common::inner();
    let mut frame = match kind % 8 {
        0 => common::udp_v4(50000, 4789, &common::vxlan(&inner)),
        1 => common::udp_v6(50000, 4789, &common::vxlan(&inner)),
        2 => [&[0xff; 12][..], &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1], &[9; 20]].concat(),
        3 => {
            let mut frame = [&[0; 8][..], &inner].concat();
            assert!(vlan::push_tag(&mut frame[4..], Tag::customer(Tci(7))));
            assert!(vlan::push_tag(&mut frame, Tag::service(Tci(100))));
            frame
        }
        4 => {
            let target = "2001:db8::2".parse().unwrap();
            let message = ndp::Message::Solicitation {
                source_mac: Some(MacAddr::ZERO),
            };
            let solicitation = Ndp {
                src: target,
                dst: ndp::solicited_node(target),
                target,
                message,
            };
            let mut frame = [&[0; 12][..], &[0x86, 0xdd], &[0; ndp::MAX_PACKET_LEN]].concat();
            solicitation.emit(&mut frame[14..]).unwrap();
            frame
        }
        5 => {
            let mut frame = vec![0; 14 + 100];
            frame[12..14].copy_from_slice(&[8, 0]);
            icmpv4::emit_fragmentation_needed(&mut frame[14..], &inner[14..], 1400).unwrap();
            frame
        }
        6 => {
            let mut frame = vec![0; 14 + 120];
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            let original = common::udp_v6(1, 2, &[0; 30]);
            icmpv6::emit_packet_too_big(&mut frame[14..], &original[14..], 1400, None).unwrap();
            frame
        }
        _ => inner,
    };
    for &(at, value) in changes {
        if let Some(byte) = frame.get_mut(usize::from(at)) {
            *byte = value;
        }
    }
    frame.truncate(frame.len().saturating_sub(usize::from(cut) / 2));
    frame
}

type Mutation = (u8, Vec<(u8, u8)>, u8);

/// Runs a check over raw bytes and over mutated frames. (A macro, because bolero names the target by its place.)
macro_rules! fuzz {
    ($raw:ident, $mutated:ident, $check:expr) => {
        #[test]
        fn $raw() {
            bolero::check!()
                .with_iterations(20_000)
                .for_each(|bytes: &[u8]| $check(bytes));
        }

        #[test]
        fn $mutated() {
            bolero::check!()
                .with_type::<Mutation>()
                .with_iterations(20_000)
                .for_each(|(kind, changes, cut)| {
                    $check(&mutated(*kind, changes, *cut));
                });
        }
    };
}

fuzz!(fuzz_views, fuzz_views_mutated, |bytes: &[u8]| {
    for at in [0, 14, 18, 22, 34, 42, 50, 54, 62] {
        if let Some(bytes) = bytes.get(at..) {
            views(bytes);
        }
    }
});

fuzz!(fuzz_setters, fuzz_setters_mutated, setters);

fuzz!(fuzz_pretty, fuzz_pretty_mutated, |bytes: &[u8]| {
    black_box(Pretty::new(bytes).to_string());
});

fuzz!(
    fuzz_vxlan_datagram,
    fuzz_vxlan_datagram_mutated,
    |bytes: &[u8]| {
        for l3_offset in [0, 14, 18, 22, bytes.len(), usize::MAX] {
            if let Ok(datagram) = udp_datagram(bytes, l3_offset) {
                let end = datagram.payload_offset + datagram.payload_len;
                assert!(datagram.payload_offset >= l3_offset + 28 && end <= bytes.len());
                black_box(datagram.verify_udp_checksum(bytes));
            }
            // The first segment of a chained frame gives what the whole does, or is too short for the headers.
            let whole = udp_datagram(bytes, l3_offset);
            for head in [0, 33, 34, 42, 54, 62, 100] {
                let head = &bytes[..head.min(bytes.len())];
                let of_head = udp_datagram_of(head, l3_offset, bytes.len());
                assert!(
                    of_head == whole || of_head == Err(OuterError::Truncated),
                    "{of_head:?} {whole:?}"
                );
                if let Ok(datagram) = of_head {
                    black_box(datagram.verify_udp_checksum(head));
                    let _ = black_box(Outer::from_datagram(head, datagram));
                }
            }
            if let Ok(outer) = vxlan_datagram(bytes, l3_offset) {
                assert!(outer.inner_offset >= l3_offset + 36 && outer.inner_len >= 14);
                assert!(outer.inner_offset + outer.inner_len <= bytes.len());
                assert_eq!(
                    outer.inner_offset + outer.inner_len,
                    outer.payload_offset + outer.payload_len
                );
            }
        }
    }
);

fuzz!(fuzz_parse_tags, fuzz_parse_tags_mutated, |bytes: &[u8]| {
    let tags = parse_tags(bytes);
    assert_eq!(
        tags.count,
        u8::from(tags.outer.is_some()) + u8::from(tags.inner.is_some())
    );
    assert!(tags.l3_offset <= bytes.len());
    if !tags.truncated {
        assert_eq!(tags.l3_offset, 14 + 4 * usize::from(tags.count));
    }
    let mut buffer = [&[0; 4][..], bytes].concat();
    let new = Tag::customer(Tci(7));
    if vlan::push_tag(&mut buffer, new) {
        assert_eq!(parse_tags(&buffer).outer, Some(new));
        assert!(vlan::rewrite_tag(&mut buffer, Tag::service(Tci(8))));
        assert_eq!(vlan::pop_tag(&mut buffer), Some(Tag::service(Tci(8))));
        assert_eq!(&buffer[4..], bytes);
    }
    let popped = vlan::pop_tag(&mut buffer[4..]);
    assert_eq!(popped, tags.outer);
});

fuzz!(fuzz_flow_hash, fuzz_flow_hash_mutated, |bytes: &[u8]| {
    let hash = flow_hash(bytes);
    assert!(source_port(hash) >= 49152);
    let tags = parse_tags(bytes);
    let mut tagged = [&[0; 4][..], bytes].concat();
    if !tags.truncated && tags.count < 2 && vlan::push_tag(&mut tagged, Tag::customer(Tci(7))) {
        assert_eq!(hash, flow_hash(&tagged));
    }
});

fuzz!(fuzz_checksums, fuzz_checksums_mutated, |bytes: &[u8]| {
    for at in [0, 14, 22] {
        let Some(packet) = bytes.get(at..) else { continue };
        let mut filled = packet.to_vec();
        let (before, partial) = (l4_checksum(packet), l4_checksum_is_partial(packet));
        assert_eq!(fill_l4_checksum(&mut filled), before.is_some());
        if let Some(before) = before {
            assert_eq!(l4_checksum(&filled), Some(L4Checksum::Correct));
            if before == L4Checksum::Partial {
                assert!(partial);
            }
        } else {
            assert_eq!(filled, packet);
            assert!(!partial);
        }
    }
});

fuzz!(fuzz_icmp_errors, fuzz_icmp_errors_mutated, |bytes: &[u8]| {
    for at in [0, 14] {
        let Some(packet) = bytes.get(at..) else { continue };
        for room in [0, 60, 100, 600, 1500] {
            let mut out = vec![0; room];
            if let Ok(len) = icmpv4::emit_fragmentation_needed(&mut out, packet, 1400) {
                let error = Ipv4Packet::new_checked(&out[..len]).unwrap();
                assert!(error.verify_checksum() && len <= icmpv4::MAX_ERROR_LEN);
                assert!(
                    Icmpv4Packet::new_checked(error.payload())
                        .unwrap()
                        .verify_checksum()
                );
                assert!(
                    !icmpv4::may_be_answered_with_error(&out[..len]),
                    "an error about an error"
                );
            }
            if let Ok(len) = icmpv6::emit_packet_too_big(&mut out, packet, 1400, None) {
                let error = Ipv6Packet::new_checked(&out[..len]).unwrap();
                assert!(len <= icmpv6::MAX_ERROR_LEN);
                let icmp = Icmpv6Packet::new_checked(error.payload()).unwrap();
                assert!(icmp.verify_checksum(error.src(), error.dst()));
                assert!(
                    !icmpv6::may_be_answered_with_too_big(&out[..len]),
                    "an error about an error"
                );
            }
        }
        black_box(icmpv4::may_be_answered_with_error(packet));
        black_box(icmpv6::may_be_answered_with_too_big(packet));
        if let Ok(message) = Ndp::parse(packet) {
            let mut out = [0; ndp::MAX_PACKET_LEN];
            let len = message.emit(&mut out).unwrap();
            assert_eq!(Ndp::parse(&out[..len]), Ok(message));
        }
        if let Ok(arp) = Arp::parse(packet) {
            assert_eq!(Arp::parse(&arp.to_bytes()), Ok(arp));
        }
    }
});

/// Every getter of every view that accepts the bytes.
fn views(bytes: &[u8]) {
    if let Ok(v) = EthernetFrame::new_checked(bytes) {
        black_box((v.dst(), v.src(), v.ethertype(), v.payload()));
    }
    if let Ok(v) = ArpPacket::new_checked(bytes) {
        black_box((v.operation(), v.sha(), v.spa(), v.tha(), v.tpa()));
    }
    if let Ok(v) = Ipv4Packet::new_checked(bytes) {
        ipv4(&v);
        assert_eq!(v.header().len() + v.payload().len(), usize::from(v.total_len()));
    }
    if let Ok(v) = Ipv6Packet::new_checked(bytes) {
        ipv6(&v);
        assert_eq!(v.payload().len(), usize::from(v.payload_len()));
    }
    if let Ok(v) = UdpPacket::new_checked(bytes) {
        black_box((v.src_port(), v.dst_port(), v.checksum()));
        assert_eq!(v.payload().len() + 8, usize::from(v.len()));
    }
    if let Ok(v) = TcpPacket::new_checked(bytes) {
        black_box((
            v.src_port(),
            v.dst_port(),
            v.seq(),
            v.ack(),
            v.flags(),
            v.window(),
            v.checksum(),
        ));
        assert_eq!(v.header_len() + v.payload().len(), bytes.len());
    }
    if let Ok(v) = VxlanPacket::new_checked(bytes) {
        black_box((v.vni(), v.payload()));
    }
    if let Ok(v) = Icmpv4Packet::new_checked(bytes) {
        black_box((v.icmp_type(), v.code(), v.checksum(), v.verify_checksum()));
        black_box((v.echo_id(), v.echo_sequence(), v.next_hop_mtu(), v.payload()));
    }
    if let Ok(v) = Icmpv6Packet::new_checked(bytes) {
        black_box((v.icmp_type(), v.code(), v.checksum(), v.mtu(), v.payload()));
        black_box(v.verify_checksum(ndp::ALL_NODES, ndp::ALL_NODES));
    }
    if let Some(upper) = ip::upper_layer(bytes) {
        assert!(upper.offset + upper.len <= bytes.len());
    }
}

fn ipv4<T: AsRef<[u8]>>(v: &Ipv4Packet<T>) {
    black_box((
        v.version(),
        v.header_len(),
        v.tos(),
        v.dscp(),
        v.ecn(),
        v.total_len(),
        v.identification(),
    ));
    black_box((
        v.dont_fragment(),
        v.more_fragments(),
        v.fragment_offset(),
        v.is_fragment(),
        v.ttl(),
        v.protocol(),
    ));
    black_box((
        v.checksum(),
        v.verify_checksum(),
        v.src(),
        v.src_u32(),
        v.dst(),
        v.dst_u32(),
    ));
    black_box((v.header(), v.options(), v.payload()));
}

fn ipv6<T: AsRef<[u8]>>(v: &Ipv6Packet<T>) {
    black_box((
        v.version(),
        v.traffic_class(),
        v.dscp(),
        v.ecn(),
        v.flow_label(),
        v.payload_len(),
    ));
    black_box((v.next_header(), v.hop_limit(), v.src(), v.dst(), v.payload()));
}

/// Every setter with values taken from the bytes: what is set is read back, and no accessor panics after it, even when
/// a length field now lies.
fn setters(bytes: &[u8]) {
    let b = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let w = |at: usize| u16::from_be_bytes([b(at), b(at + 1)]);
    let mac = MacAddr([b(0), b(1), b(2), b(3), b(4), b(5)]);
    if let Ok(mut v) = EthernetFrame::new_checked(bytes.to_vec()) {
        v.set_dst(mac);
        v.set_src(mac);
        v.set_ethertype(EtherType(w(3)));
        assert_eq!((v.dst(), v.src(), v.ethertype()), (mac, mac, EtherType(w(3))));
        v.payload_mut().fill(0);
    }
    for at in [0, 14] {
        let Some(packet) = bytes.get(at..) else { return };
        if let Ok(mut v) = Ipv4Packet::new_checked(packet.to_vec()) {
            v.set_total_len(w(1));
            v.set_version_and_header_len(usize::from(b(2)) % 61);
            v.set_tos(b(3));
            v.set_ttl(b(4));
            v.set_protocol(b(5));
            v.set_src([b(6); 4].into());
            assert_eq!(
                (v.total_len(), v.tos(), v.ttl(), v.protocol()),
                (w(1), b(3), b(4), b(5))
            );
            v.fill_checksum();
            v.payload_mut().fill(0);
            ipv4(&v);
        }
        if let Ok(mut v) = Ipv6Packet::new_checked(packet.to_vec()) {
            v.set_payload_len(w(1));
            v.set_traffic_class(b(3));
            v.set_next_header(b(4));
            assert_eq!(
                (v.payload_len(), v.traffic_class(), v.next_header()),
                (w(1), b(3), b(4))
            );
            v.payload_mut().fill(0);
            ipv6(&v);
        }
        if let Ok(mut v) = UdpPacket::new_checked(packet.to_vec()) {
            v.set_len(w(0));
            v.payload_mut().fill(0);
            black_box(v.payload());
        }
        if let Ok(mut v) = TcpPacket::new_checked(packet.to_vec()) {
            v.set_header_len(usize::from(b(0)) % 61);
            v.set_flags(tcp::Flags(b(1)));
            assert_eq!(v.flags(), tcp::Flags(b(1)));
            black_box((v.payload(), v.to_string()));
        }
        if let Ok(mut v) = VxlanPacket::new_checked(packet.to_vec()) {
            let vni = Vni::from_be_bytes([b(0), b(1), b(2)]);
            v.set_vni(vni);
            assert_eq!((v.vni(), v.check_len()), (vni, Ok(())));
            v.payload_mut().fill(0);
        }
    }
}

/// A frame that is nearly the usual VXLAN: the quick look says what the thorough one says, or nothing.
#[test]
fn fuzz_plain_outer() {
    bolero::check!()
        .with_type::<(Vec<(u8, u8)>, u8, u8)>()
        .with_iterations(50_000)
        .for_each(|(changes, cut, inner)| {
            let inner_len = 14 + usize::from(*inner);
            let mut frame = vec![2; 14];
            frame[12..].copy_from_slice(&[8, 0]);
            let total = (36 + inner_len) as u16;
            frame.extend([0x45, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([
                0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1, 0xc0, 1, 0x12, 0xb5,
            ]);
            frame.extend((total - 20).to_be_bytes());
            frame.extend([0, 0, 8, 0, 0, 0, 0, 1, 2, 0]);
            frame.extend(vec![7; inner_len]);
            for (at, value) in changes.iter().take(2) {
                frame[usize::from(at % 50)] = *value;
            }
            // Half of the changed headers get a checksum that fits.
            if changes.len() % 2 == 0 {
                frame[24..26].fill(0);
                let sum = clearway_wire::checksum::checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            frame.truncate(frame.len() - usize::from(cut % 4));
            let Some(plain) = clearway_wire::PlainOuter::parse(&frame, frame.len()) else {
                return;
            };
            let full = clearway_wire::vxlan_datagram(&frame, 14).expect("what is plain is valid");
            assert_eq!(
                (plain.src, plain.dst, plain.dst_port),
                (full.src, full.dst, full.dst_port)
            );
            assert_eq!((plain.vni, plain.inner_len), (full.vni, full.inner_len));
            assert_eq!(full.inner_offset, clearway_wire::PlainOuter::LEN);
        });
}
