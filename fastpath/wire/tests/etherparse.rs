//! Cross-checks with etherparse: what it builds, our views read alike; what we write, it reads alike.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;

use clearway_wire::arp::Operation;
use clearway_wire::checksum::{L4Checksum, fill_l4_checksum, l4_checksum, l4_checksum_is_partial};
use clearway_wire::{
    Arp, EtherType, EthernetFrame, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet, MacAddr, Ndp, Pcp,
    Tag, Tci, TcpPacket, UdpPacket, Vid, flow_hash, icmpv4, icmpv6, ndp, parse_tags, udp_datagram, vlan,
};
use common::{DST, SRC, finish, udp_v4, udp_v6};
use etherparse::{
    ArpHardwareId, ArpOperation, Icmpv4Type, Icmpv6Type, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice, VlanId, icmpv4::DestUnreachableHeader,
};
use proptest::prelude::*;

proptest! {
    #[test]
    fn ipv4_and_udp(
        src: [u8; 4], dst: [u8; 4], ttl: u8, sport: u16, dport: u16, dscp in 0u8..64, ecn in 0u8..4, id: u16,
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut header = Ipv4Header::new(0, ttl, etherparse::IpNumber::UDP, src, dst).unwrap();
        header.dscp = dscp.try_into().unwrap();
        header.ecn = ecn.try_into().unwrap();
        header.identification = id;
        let ip = etherparse::IpHeaders::Ipv4(header, Default::default());
        let frame = finish(PacketBuilder::ethernet2(SRC, DST).ip(ip).udp(sport, dport), &payload);

        let eth = EthernetFrame::new_checked(&frame[..]).unwrap();
        prop_assert_eq!((eth.src(), eth.dst(), eth.ethertype()), (MacAddr(SRC), MacAddr(DST), EtherType::IPV4));
        let ip = Ipv4Packet::new_checked(eth.payload()).unwrap();
        prop_assert_eq!((ip.src().octets(), ip.dst().octets(), ip.ttl(), ip.protocol()), (src, dst, ttl, 17));
        prop_assert_eq!((ip.dscp().get(), ip.ecn(), ip.identification()), (dscp, ecn, id));
        prop_assert!(ip.verify_checksum() && ip.dont_fragment() && !ip.is_fragment());
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        prop_assert_eq!((udp.src_port(), udp.dst_port(), udp.payload()), (sport, dport, &payload[..]));
        prop_assert_eq!(l4_checksum(eth.payload()), Some(L4Checksum::Correct));

        let datagram = udp_datagram(&frame, 14).unwrap();
        prop_assert_eq!((datagram.src.to_ip(), datagram.dst.to_ip()), (src.into(), dst.into()));
        prop_assert_eq!((datagram.src_port, datagram.dst_port, datagram.ttl), (sport, dport, ttl));
        prop_assert_eq!(&frame[datagram.payload_offset..][..datagram.payload_len], &payload[..]);
        prop_assert!(datagram.verify_udp_checksum(&frame));
    }

    #[test]
    fn ipv6_and_tcp(
        src: [u8; 16], dst: [u8; 16], hops: u8, sport: u16, dport: u16, seq: u32, window: u16,
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let builder = PacketBuilder::ethernet2(SRC, DST).ipv6(src, dst, hops);
        let builder = builder.tcp(sport, dport, seq, window).syn().ack(77);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();

        let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
        prop_assert_eq!((ip.src().octets(), ip.dst().octets(), ip.hop_limit(), ip.next_header()), (src, dst, hops, 6));
        let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
        prop_assert_eq!((tcp.src_port(), tcp.dst_port(), tcp.seq(), tcp.ack()), (sport, dport, seq, 77));
        prop_assert_eq!((tcp.window(), tcp.flags().0, tcp.payload()), (window, 0x12, &payload[..]));
        prop_assert_eq!(l4_checksum(&frame[14..]), Some(L4Checksum::Correct));
    }

    #[test]
    fn two_tags(outer in 1u16..4095, inner in 1u16..4095) {
        let id = |id| VlanId::try_new(id).unwrap();
        let builder = PacketBuilder::ethernet2(SRC, DST).double_vlan(id(outer), id(inner));
        let frame = finish(builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2), &[]);
        let tags = parse_tags(&frame);
        let vids = |tag: Option<Tag>| tag.and_then(|tag| tag.tci.vid());
        prop_assert_eq!((vids(tags.outer), vids(tags.inner)), (Vid::new(outer), Vid::new(inner)));
        prop_assert_eq!((tags.count, tags.truncated, tags.l3_offset, tags.ethertype), (2, false, 22, EtherType::IPV4));
        prop_assert_eq!(tags.outer.map(|tag| tag.tpid), Some(EtherType::QINQ));
    }

    #[test]
    fn pushed_tags_are_read_alike(outer in 1u16..4095, inner in 1u16..4095, pcp in 0u8..8, dei: bool) {
        let plain = udp_v4(1, 2, b"abc");
        let mut frame = [&[0; 8][..], &plain].concat();
        let tci = |vid| Tci::new(Pcp::new(pcp).unwrap(), dei, Vid::new(vid));
        prop_assert!(vlan::push_tag(&mut frame[4..], Tag::customer(tci(inner))));
        prop_assert!(vlan::push_tag(&mut frame, Tag::service(tci(outer))));
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::VlanSlice::DoubleVlan(vlan)) = sliced.vlan() else { panic!("no two tags: {sliced:?}") };
        let (first, second) = (vlan.outer.to_header(), vlan.inner.to_header());
        prop_assert_eq!((first.vlan_id.value(), second.vlan_id.value()), (outer, inner));
        prop_assert_eq!((first.pcp.value(), first.drop_eligible_indicator), (pcp, dei));
        prop_assert!(matches!(&sliced.transport, Some(TransportSlice::Udp(udp)) if udp.payload() == b"abc"));
        drop(sliced);
        prop_assert_eq!(vlan::pop_tag(&mut frame), Some(Tag::service(tci(outer))));
        prop_assert_eq!(vlan::pop_tag(&mut frame[4..]), Some(Tag::customer(tci(inner))));
        prop_assert_eq!(&frame[8..], &plain[..]);
    }

    #[test]
    fn filled_checksums_are_etherparse_s(v6: bool, payload in prop::collection::vec(any::<u8>(), 0..300), padding in 0usize..20) {
        let frame = if v6 { udp_v6(1, 2, &payload) } else { udp_v4(1, 2, &payload) };
        let field = if v6 { 60 } else { 40 };
        // The state that Linux leaves with CHECKSUM_PARTIAL: the sum of the pseudo header, not complemented.
        let len = (payload.len() + 8) as u64;
        let addresses = if v6 { 22..54 } else { 26..34 };
        let words = frame[addresses].chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(w[1]));
        let mut pseudo = words.sum::<u64>() + len + 17;
        while pseudo > 0xffff {
            pseudo = (pseudo >> 16) + (pseudo & 0xffff);
        }
        let mut partial = [&frame[..], &vec![0x55; padding]].concat();
        partial[field..field + 2].copy_from_slice(&(pseudo as u16).to_be_bytes());
        prop_assert!(l4_checksum_is_partial(&partial[14..]));
        prop_assert!(fill_l4_checksum(&mut partial[14..]));
        prop_assert_eq!(&partial[..frame.len()], &frame[..]);
        prop_assert!(fill_l4_checksum(&mut partial[14..]), "filling twice changes nothing");
        prop_assert_eq!(&partial[..frame.len()], &frame[..]);
    }

    #[test]
    fn our_headers_are_read_alike(src: [u8; 4], dst: [u8; 4], ttl: u8, tos: u8, id: u16, ports: (u16, u16), len in 0usize..200) {
        let mut frame = vec![0; 42 + len];
        let mut eth = EthernetFrame::new_checked(&mut frame[..]).unwrap();
        eth.set_src(MacAddr(SRC));
        eth.set_dst(MacAddr(DST));
        eth.set_ethertype(EtherType::IPV4);
        let mut ip = Ipv4Packet::new_unchecked(eth.payload_mut());
        ip.set_version_and_header_len(20);
        ip.set_total_len(28 + len as u16);
        ip.set_tos(tos);
        ip.set_identification(id);
        ip.set_ttl(ttl);
        ip.set_protocol(17);
        ip.set_src(src.into());
        ip.set_dst(dst.into());
        ip.fill_checksum();
        let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
        udp.set_src_port(ports.0);
        udp.set_dst_port(ports.1);
        udp.set_len(8 + len as u16);
        udp.payload_mut().fill(0x77);
        prop_assert!(fill_l4_checksum(&mut frame[14..]));

        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(net)) = &sliced.net else { panic!("no IPv4: {sliced:?}") };
        let header = net.header().to_header();
        prop_assert_eq!((header.source, header.destination, header.time_to_live), (src, dst, ttl));
        prop_assert_eq!((header.dscp.value() << 2 | header.ecn.value(), header.identification), (tos, id));
        prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP: {sliced:?}") };
        prop_assert_eq!((udp.source_port(), udp.destination_port(), udp.payload().len()), (ports.0, ports.1, len));
        let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
        prop_assert_eq!(udp.checksum(), expected);
    }
}

#[test]
fn a_wrong_and_an_absent_checksum() {
    let mut frame = udp_v4(1, 2, b"abcd");
    frame[45] ^= 1;
    assert_eq!(l4_checksum(&frame[14..]), Some(L4Checksum::Wrong));
    frame[40..42].fill(0);
    assert_eq!(l4_checksum(&frame[14..]), Some(L4Checksum::Absent));
    assert!(!l4_checksum_is_partial(&frame[14..]));
    frame[20] = 0x20;
    assert_eq!(l4_checksum(&frame[14..]), None, "a fragment");
    assert!(!fill_l4_checksum(&mut frame[14..]));
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    // With this payload the words add up to 0xffff, so the checksum would be zero, which means none.
    let mut frame = udp_v4(1, 2, &[0, 0]);
    let rest = u16::from_be_bytes([frame[40], frame[41]]);
    frame[42..44].copy_from_slice(&rest.to_be_bytes());
    assert!(fill_l4_checksum(&mut frame[14..]));
    assert_eq!(frame[40..42], [0xff, 0xff]);
    assert_eq!(l4_checksum(&frame[14..]), Some(L4Checksum::Correct));
    assert!(udp_datagram(&frame, 14).unwrap().verify_udp_checksum(&frame));
}

#[test]
fn arp() {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(SRC, [0xff; 6]).arp(
        etherparse::ArpPacket::new(
            ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            ArpOperation::REQUEST,
            &SRC,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 2],
        )
        .unwrap(),
    );
    builder.write(&mut packet).unwrap();
    let request = Arp::parse(&packet[14..]).unwrap();
    assert_eq!(
        (request.operation, request.sha, request.tha),
        (Operation::REQUEST, MacAddr(SRC), MacAddr::ZERO)
    );
    assert_eq!(
        (request.spa.octets(), request.tpa.octets()),
        ([10, 0, 0, 1], [10, 0, 0, 2])
    );
    let reply = request.reply(MacAddr(DST)).to_bytes();
    let read = etherparse::ArpPacketSlice::from_slice(&reply)
        .unwrap()
        .to_packet();
    assert_eq!(read.operation, ArpOperation::REPLY);
    assert_eq!(
        (read.sender_hw_addr(), read.sender_protocol_addr()),
        (&DST[..], &[10, 0, 0, 2][..])
    );
    assert_eq!(
        (read.target_hw_addr(), read.target_protocol_addr()),
        (&SRC[..], &[10, 0, 0, 1][..])
    );
}

#[test]
fn fragmentation_needed() {
    let original = udp_v4(1, 2, &[7; 1400]);
    let mut out = [0; 600];
    let len = icmpv4::emit_fragmentation_needed(&mut out, &original[14..], 1350).unwrap();
    let sliced = SlicedPacket::from_ip(&out[..len]).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else {
        panic!("no ICMP: {sliced:?}")
    };
    let wanted = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1350 };
    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(wanted));
    assert_eq!(icmp.payload(), &original[14..][..548]);
    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
}

#[test]
fn packet_too_big() {
    let original = udp_v6(1, 2, &[7; 1400]);
    let mut out = [0; 1500];
    let len = icmpv6::emit_packet_too_big(&mut out, &original[14..], 1350, None).unwrap();
    let sliced = SlicedPacket::from_ip(&out[..len]).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else {
        panic!("no ICMPv6: {sliced:?}")
    };
    let Some(NetSlice::Ipv6(ip)) = &sliced.net else {
        panic!("no IPv6: {sliced:?}")
    };
    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1350 });
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
}

#[test]
fn echo() {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(SRC, DST).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    ip.icmpv4_echo_request(7, 9).write(&mut frame, b"abc").unwrap();
    let icmp = Icmpv4Packet::new_checked(&frame[34..]).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!(
        (
            icmp.icmp_type(),
            icmp.echo_id(),
            icmp.echo_sequence(),
            icmp.payload()
        ),
        (8, 7, 9, &b"abc"[..])
    );

    let (src, dst) = ([1; 16], [2; 16]);
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(SRC, DST).ipv6(src, dst, 64);
    ip.icmpv6_echo_request(7, 9).write(&mut frame, b"abc").unwrap();
    let icmp = Icmpv6Packet::new_checked(&frame[54..]).unwrap();
    assert!(icmp.verify_checksum(src.into(), dst.into()));
    assert_eq!(
        (
            icmp.icmp_type(),
            icmp.echo_id(),
            icmp.echo_sequence(),
            icmp.payload()
        ),
        (128, 7, 9, &b"abc"[..])
    );
}

#[test]
fn neighbour_discovery() {
    let target = "2001:db8::2".parse().unwrap();
    let solicitation = Ndp {
        src: "2001:db8::1".parse().unwrap(),
        dst: ndp::solicited_node(target),
        target,
        message: ndp::Message::Solicitation {
            source_mac: Some(MacAddr(SRC)),
        },
    };
    let advertisement = solicitation.advertisement(MacAddr(DST), false).unwrap();
    for (message, wanted) in [(solicitation, 135), (advertisement, 136)] {
        let mut out = [0; ndp::MAX_PACKET_LEN];
        let len = message.emit(&mut out).unwrap();
        let sliced = SlicedPacket::from_ip(&out[..len]).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else {
            panic!("no ICMPv6: {sliced:?}")
        };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (wanted, 0));
        assert!(icmp.is_checksum_valid(message.src.octets(), message.dst.octets()));
    }
}

#[test]
fn flow_hash_follows_etherparse_s_5_tuple() {
    assert_eq!(
        flow_hash(&udp_v4(1, 2, b"a")),
        flow_hash(&udp_v4(1, 2, b"longer"))
    );
    assert_ne!(flow_hash(&udp_v4(1, 2, b"a")), flow_hash(&udp_v4(1, 3, b"a")));
    assert_eq!(
        flow_hash(&udp_v6(1, 2, b"a")),
        flow_hash(&udp_v6(1, 2, b"longer"))
    );
    assert_ne!(flow_hash(&udp_v6(1, 2, b"a")), flow_hash(&udp_v6(2, 2, b"a")));
}
