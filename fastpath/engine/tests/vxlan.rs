//! VXLAN: encapsulation, decapsulation, replication, and what is refused.

mod common;

use clearway_engine::*;
use clearway_wire::{Arp, MacAddr, MappedIp, Ndp, arp, icmpv4, ndp, vxlan_datagram};
use common::*;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

const UPLINK: u16 = 3;
const OUR_MAC: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 1]);
const NEXT_HOP: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 2]);

fn ip(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => IpAddr::from([10, 0, 0, n]),
        true => IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]),
    }
}

fn rewrite(v6: bool, remote: u8) -> Rewrite {
    Rewrite::new(&OuterSpec {
        src_mac: OUR_MAC,
        dst_mac: NEXT_HOP,
        vid: None,
        local: ip(v6, 1),
        remote: ip(v6, remote),
        udp_port: 4789,
        ttl: 64,
        dscp: OuterDscp::Copy,
        checksum: v6,
    })
    .expect("one family")
}

/// Ports 0 and 1: access to domain 1 (VNI 5001); port 2: access to domain 2 (VNI 5002); port 3: the uplink.
/// Remotes .2 and .3 in domain 1, .2 in domain 2.
fn bed(v6: bool) -> Bed {
    let mut bed = Bed::new(1, 4);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    bed.port(1, |p| p.service = Service::Access(place(1, 1)));
    bed.port(2, |p| p.service = Service::Access(place(2, 0)));
    bed.port(UPLINK, |p| {
        p.vteps = Box::new([VtepId(0)]);
        p.mtu = 1500;
    });
    let remotes = |n: u16| (0..n).map(TunnelId).collect();
    let domain = |members, n, id| Domain {
        members,
        remotes: remotes(n),
        vni: Some(vni(id)),
        ..Domain::default()
    };
    bed.domain(1, domain(vec![Some(member(0)), Some(member(1))], 2, 5001));
    bed.domain(2, domain(vec![Some(member(2))], 1, 5002));
    let mut vnis = VniTable::default();
    vnis.insert(vni(5001), bd(1));
    vnis.insert(vni(5002), bd(2));
    let mut known = Remotes::default();
    known.insert(MappedIp::from(ip(v6, 2)), TunnelId(0));
    known.insert(MappedIp::from(ip(v6, 3)), TunnelId(1));
    let vtep = Vtep {
        local: ip(v6, 1).into(),
        mac: OUR_MAC.to_u64(),
        udp_port: 4789,
        vid: None,
        answers: None,
        vnis,
        remotes: known,
    };
    bed.conf.vteps = vec![Some(Arc::new(vtep))];
    let tunnel = |remote| Tunnel {
        port: PortId(UPLINK),
        generation: 0,
        max_inner: 1450,
        rewrite: Some(rewrite(v6, remote)),
    };
    bed.conf.tunnels = vec![Some(Arc::new(tunnel(2))), Some(Arc::new(tunnel(3)))];
    bed.publish();
    bed
}

/// What a remote sends to us.
fn from_remote(bed: &mut Bed, v6: bool, remote: u8, id: u32, inner: &[u8]) -> Vec<u8> {
    let rewrite = Rewrite::new(&OuterSpec {
        src_mac: NEXT_HOP,
        dst_mac: OUR_MAC,
        vid: None,
        local: ip(v6, remote),
        remote: ip(v6, 1),
        udp_port: 4789,
        ttl: 9,
        dscp: OuterDscp::Copy,
        checksum: false,
    })
    .expect("one family");
    let region = bed.umem.id();
    let mut frame = bed.pools.frame_from(region, inner).expect("chunk");
    assert!(rewrite.push(&mut frame, vni(id)));
    let bytes = frame.segments().flatten().copied().collect();
    bed.pools.free(frame);
    bytes
}

#[test]
fn broadcast_goes_to_every_member_and_remote_with_the_domains_vni() {
    for v6 in [false, true] {
        let mut bed = bed(v6);
        let broadcast = frame(MacAddr::BROADCAST, mac(1));
        let out = bed.cross(0, &broadcast);
        assert_eq!(out.keys().copied().collect::<Vec<_>>(), [1, UPLINK]);
        assert_eq!(out[&1], std::slice::from_ref(&broadcast));
        let outers: Vec<_> = out[&UPLINK]
            .iter()
            .map(|f| (vxlan_datagram(f, 14).expect("vxlan"), f))
            .collect();
        assert_eq!(
            outers.iter().map(|(o, _)| o.dst.to_ip()).collect::<Vec<_>>(),
            [ip(v6, 2), ip(v6, 3)]
        );
        for (outer, bytes) in outers {
            assert_eq!((outer.vni.get(), outer.src.to_ip()), (5001, ip(v6, 1)));
            assert_eq!(&bytes[outer.inner_offset..], &broadcast[..]);
            assert_eq!(&bytes[..12], &[NEXT_HOP.0, OUR_MAC.0].concat()[..]);
            assert!(outer.verify_udp_checksum(bytes));
            assert_eq!(outer.udp_checksum != 0, v6, "computed for IPv6, zero for IPv4");
        }
        assert_eq!(bed.ledger().replicated, 2);
        bed.finish();
    }
}

#[test]
fn remotes_are_learned_from_what_they_send_and_split_horizon_holds() {
    for v6 in [false, true] {
        let mut bed = bed(v6);
        let inner = frame(MacAddr::BROADCAST, mac(50));
        let outer = from_remote(&mut bed, v6, 3, 5001, &inner);
        let out = bed.cross(UPLINK, &outer);
        assert_eq!(
            out.into_iter().collect::<Vec<_>>(),
            [(0, vec![inner.clone()]), (1, vec![inner])]
        );
        // Known now: one copy, to remote 3.
        let out = bed.cross(0, &frame(mac(50), mac(1)));
        assert_eq!(out.len(), 1);
        let outer = vxlan_datagram(&out[&UPLINK][0], 14).expect("vxlan");
        assert_eq!((out[&UPLINK].len(), outer.dst.to_ip()), (1, ip(v6, 3)));
        // From remote 2 to remote 3: they reach one another themselves.
        let inner = frame(mac(50), mac(60));
        let outer = from_remote(&mut bed, v6, 2, 5001, &inner);
        assert!(bed.cross(UPLINK, &outer).is_empty());
        assert_eq!(
            bed.drops().into_iter().collect::<Vec<_>>(),
            [("split_horizon", 1)]
        );
        bed.finish();
    }
}

#[test]
fn the_vni_decides_the_domain_padding_is_cut_and_both_checksums_are_taken() {
    let mut bed = bed(false);
    let inner = frame(MacAddr::BROADCAST, mac(50));
    let mut outer = from_remote(&mut bed, false, 2, 5002, &inner);
    outer.extend([0xaa; 20]);
    let out = bed.cross(UPLINK, &outer);
    assert_eq!(out.into_iter().collect::<Vec<_>>(), [(2, vec![inner])]);
    bed.finish();
}

#[test]
fn what_is_not_for_us_or_not_known_is_refused_by_name() {
    let mut bed = bed(false);
    let inner = frame(MacAddr::BROADCAST, mac(50));
    let good = from_remote(&mut bed, false, 2, 5001, &inner);
    let unknown_vni = from_remote(&mut bed, false, 2, 9999, &inner);
    let unknown_remote = from_remote(&mut bed, false, 9, 5001, &inner);
    let mut no_flag = good.clone();
    no_flag[42] = 0;
    let mut bad_sum = good.clone();
    bad_sum[24] ^= 1;
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    let mut other_port = good.clone();
    other_port[37] = 1;
    let mut other_mac = good.clone();
    other_mac[5] = 9;
    for bytes in [
        unknown_vni,
        unknown_remote,
        no_flag,
        bad_sum,
        fragment,
        other_port,
        other_mac,
    ] {
        assert!(bed.cross(UPLINK, &bytes).is_empty());
    }
    let drops: Vec<_> = bed.drops().into_iter().collect();
    let expected = [
        ("no_service", 2),
        ("unknown_remote", 1),
        ("unknown_vni", 1),
        ("vxlan_malformed", 3),
    ];
    assert_eq!(drops, expected);
    bed.finish();
}

#[test]
fn an_unresolved_tunnel_drops_by_name_until_it_is_resolved() {
    let mut bed = bed(false);
    let resolved = bed.conf.tunnels[0].clone();
    let mut tunnel = Tunnel::clone(resolved.as_ref().expect("tunnel"));
    tunnel.rewrite = None;
    bed.conf.tunnels[0] = Some(Arc::new(tunnel));
    bed.publish();
    bed.cross(2, &frame(mac(9), mac(1)));
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("tunnel_unresolved", 1)]
    );
    bed.conf.tunnels[0] = resolved;
    bed.publish();
    assert_eq!(bed.cross(2, &frame(mac(9), mac(1)))[&UPLINK].len(), 1);
    bed.finish();
}

/// An IPv4 packet in an Ethernet frame of `len` bytes.
fn ipv4_frame(dst: MacAddr, src: MacAddr, len: usize, df: bool) -> Vec<u8> {
    let mut bytes = frame(dst, src);
    bytes.resize(len, 0x5a);
    bytes[12..14].copy_from_slice(&[8, 0]);
    let mut ip = clearway_wire::Ipv4Packet::new_unchecked(&mut bytes[14..]);
    ip.set_version_and_header_len(20);
    ip.set_tos(0xb8);
    ip.set_total_len((len - 14) as u16);
    ip.set_identification(1);
    ip.set_flags_and_offset(if df { 0x4000 } else { 0 });
    ip.set_ttl(5);
    ip.set_protocol(17);
    ip.set_src([192, 168, 0, 1].into());
    ip.set_dst([192, 168, 0, 2].into());
    ip.fill_checksum();
    bytes
}

#[test]
fn what_does_not_fit_the_underlay_is_dropped_and_its_sender_told() {
    let mut bed = bed(false);
    let fits = ipv4_frame(mac(9), mac(1), 1450, true);
    let out = bed.cross(2, &fits);
    let outer = vxlan_datagram(&out[&UPLINK][0], 14).expect("vxlan");
    assert_eq!(
        (out[&UPLINK][0].len(), outer.tos),
        (1500, 0xb8),
        "and the DSCP is the inner one's"
    );
    // One byte more, with DF: told. (Jumbo, over several chunks: told as well.)
    for len in [1451, 9000] {
        bed.port(2, |p| p.mtu = 9000).publish();
        let out = bed.cross(2, &ipv4_frame(mac(9), mac(1), len, true));
        let [(2, replies)] = &out.into_iter().collect::<Vec<_>>()[..] else {
            panic!("no reply")
        };
        let reply = &replies[0];
        assert_eq!(&reply[..12], &[mac(1).0, mac(9).0].concat()[..]);
        let ip = clearway_wire::Ipv4Packet::new_checked(&reply[14..]).expect("ip");
        assert_eq!(
            (ip.src(), ip.dst()),
            ([192, 168, 0, 2].into(), [192, 168, 0, 1].into())
        );
        assert!(ip.verify_checksum());
        let icmp = clearway_wire::Icmpv4Packet::new_checked(ip.payload()).expect("icmp");
        assert_eq!(
            (icmp.icmp_type(), icmp.code(), icmp.next_hop_mtu()),
            (icmpv4::UNREACHABLE, 4, 1436)
        );
        assert!(icmp.verify_checksum());
        // The header is quoted as it was.
        assert_eq!(
            u16::from_be_bytes([icmp.payload()[2], icmp.payload()[3]]),
            (len - 14) as u16
        );
    }
    // Without DF its sender did not ask.
    assert!(bed.cross(2, &ipv4_frame(mac(9), mac(1), 1451, false)).is_empty());
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("tunnel_mtu", 3)]);
    assert_eq!(bed.ledger().generated, 2);
    bed.finish();
}

#[test]
fn jumbo_frames_cross_whole_in_both_directions() {
    let mut bed = bed(false);
    for port in 0..4 {
        bed.port(port, |p| p.mtu = 9000);
    }
    let mut tunnel = Tunnel::clone(bed.conf.tunnels[0].as_ref().expect("tunnel"));
    tunnel.max_inner = 8950;
    bed.conf.tunnels[0] = Some(Arc::new(tunnel));
    bed.publish();
    let inner = ipv4_frame(mac(9), mac(1), 8950, true);
    let out = bed.cross(2, &inner);
    let bytes = &out[&UPLINK][0];
    let outer = vxlan_datagram(bytes, 14).expect("vxlan");
    assert_eq!(&bytes[outer.inner_offset..], &inner[..]);
    let back = ipv4_frame(mac(1), mac(9), 8950, true);
    let outer = from_remote(&mut bed, false, 2, 5002, &back);
    assert_eq!(
        bed.cross(UPLINK, &outer).into_iter().collect::<Vec<_>>(),
        [(2, vec![back])]
    );
    bed.finish();
}

#[test]
fn known_hosts_are_answered_here_and_others_are_asked() {
    let mut bed = bed(false);
    let (v4, v6) = (
        IpAddr::from([192, 168, 0, 9]),
        "fe80::9".parse::<IpAddr>().expect("address"),
    );
    let hosts = HashMap::from([(v4, mac(9).to_u64()), (v6, mac(9).to_u64())]);
    let mut domain = Domain::clone(bed.conf.domains[2].as_ref().expect("domain"));
    domain.hosts = Some(Arc::new(hosts));
    bed.domain(2, domain).publish();
    let request = |last: u8| {
        let arp = Arp {
            operation: arp::Operation::REQUEST,
            sha: mac(1),
            spa: [192, 168, 0, 1].into(),
            tha: MacAddr::ZERO,
            tpa: [192, 168, 0, last].into(),
        };
        let mut bytes = frame(MacAddr::BROADCAST, mac(1));
        bytes[12..14].copy_from_slice(&[8, 6]);
        bytes[14..42].copy_from_slice(&arp.to_bytes());
        bytes
    };
    let out = bed.cross(2, &request(9));
    let [(2, replies)] = &out.into_iter().collect::<Vec<_>>()[..] else {
        panic!("no reply")
    };
    let reply = Arp::parse(&replies[0][14..]).expect("arp");
    assert_eq!(
        (reply.operation, reply.sha, reply.spa),
        (arp::Operation::REPLY, mac(9), [192, 168, 0, 9].into())
    );
    assert_eq!((&replies[0][..6], replies[0].len()), (&mac(1).0[..], 60));
    assert_eq!(
        bed.cross(2, &request(8)).into_keys().collect::<Vec<_>>(),
        [UPLINK],
        "unknown: flooded"
    );

    let solicitation = Ndp {
        src: "fe80::1".parse().expect("address"),
        dst: ndp::solicited_node("fe80::9".parse().expect("address")),
        target: "fe80::9".parse().expect("address"),
        message: ndp::Message::Solicitation {
            source_mac: Some(mac(1)),
        },
    };
    let mut bytes = frame(ndp::multicast_mac(solicitation.dst), mac(1));
    bytes.resize(14 + ndp::MAX_PACKET_LEN, 0);
    bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    let len = solicitation.emit(&mut bytes[14..]).expect("room");
    bytes.truncate(14 + len);
    let out = bed.cross(2, &bytes);
    let [(2, replies)] = &out.into_iter().collect::<Vec<_>>()[..] else {
        panic!("no reply")
    };
    let reply = Ndp::parse(&replies[0][14..]).expect("valid advertisement");
    assert!(matches!(reply.message, ndp::Message::Advertisement { target_mac: Some(m), .. } if m == mac(9)));
    let ledger = bed.ledger();
    assert_eq!((ledger.consumed, ledger.generated), (2, 2));
    bed.finish();
}

#[test]
fn addresses_behind_tunnels_count_for_the_uplink_also_after_a_sweep() {
    let mut bed = bed(false);
    bed.port(UPLINK, |p| p.learn_limit = 2);
    bed.publish();
    let entries = bed.conf.ports[usize::from(UPLINK)]
        .clone()
        .expect("port")
        .entries
        .clone();
    let mut learned = Vec::new();
    for source in [101, 102, 103, 104] {
        let outer = from_remote(&mut bed, false, 2, 5001, &frame(mac(1), mac(source)));
        bed.cross(UPLINK, &outer);
        bed.engine.age();
        learned.push(entries.load(std::sync::atomic::Ordering::Relaxed));
    }
    assert_eq!(learned, [1, 2, 2, 2]);
    bed.finish();
}
