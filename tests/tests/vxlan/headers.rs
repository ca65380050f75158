//! The outer headers, as they are sent and as they are accepted.

use crate::{BOTH, station};
use clearway_tests::frame::{self, Mac};
use clearway_tests::{Daemon, Overlay, Ping, Pods, RawPort, Underlay, ready, tcp_echo};
use etherparse::{SlicedPacket, TransportSlice};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// The outer headers of a VXLAN frame, read by etherparse.
#[derive(Debug, PartialEq, Eq)]
struct Outer {
    dst_mac: [u8; 6],
    src_mac: [u8; 6],
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    dscp: u8,
    src_port: u16,
    dst_port: u16,
    checksum: Checksum,
    vxlan: [u8; 8],
    inner: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Checksum {
    Zero,
    Right,
    Wrong,
}

fn outer(frame: &[u8]) -> Option<Outer> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else {
        return None;
    };
    let ip = sliced.net.as_ref()?;
    let (src, dst, ttl, dscp, right) = if let Some(v4) = ip.ipv4_ref() {
        let h = v4.header();
        let right = udp
            .to_header()
            .calc_checksum_ipv4_raw(h.source(), h.destination(), udp.payload())
            .ok()?;
        (
            h.source_addr().into(),
            h.destination_addr().into(),
            h.ttl(),
            h.dcp().value(),
            right,
        )
    } else {
        let h = ip.ipv6_ref()?.header();
        let right = udp
            .to_header()
            .calc_checksum_ipv6_raw(h.source(), h.destination(), udp.payload())
            .ok()?;
        (
            h.source_addr().into(),
            h.destination_addr().into(),
            h.hop_limit(),
            h.traffic_class() >> 2,
            right,
        )
    };
    let checksum = match udp.checksum() {
        0 => Checksum::Zero,
        c if c == right => Checksum::Right,
        _ => Checksum::Wrong,
    };
    Some(Outer {
        dst_mac: *frame.first_chunk()?,
        src_mac: *frame.get(6..)?.first_chunk()?,
        src,
        dst,
        ttl,
        dscp,
        src_port: udp.source_port(),
        dst_port: udp.destination_port(),
        checksum,
        vxlan: *udp.payload().first_chunk()?,
        inner: udp.payload().get(8..)?.to_vec(),
    })
}

#[test]
fn outer_headers_are_as_the_rfc_says() {
    if !ready() {
        return;
    }
    for underlay in BOTH {
        let scene = Overlay::new(Pods::quiet(1), 1, underlay, 1600);
        let mut wire = RawPort::open(scene.remote(0), "eth0");
        let vtep = ", udp-port: 4790, ttl: 17, dscp: copy";
        let daemon = Daemon::start(&scene.pods.fwd, &scene.config(1, "", vtep));
        let mut pod = scene.pods.raw().remove(0);

        let datagram = |port: u16, dscp: u8| {
            let (src, dst) = ("10.0.0.1".parse(), "10.0.0.100".parse());
            let mut packet = frame::udp(
                (src.expect("a literal"), port),
                (dst.expect("a literal"), 9),
                &[7; 40],
            );
            packet[1] = dscp << 2;
            packet[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            frame::ethernet(station(0), Pods::mac(0), &[], frame::IPV4, &packet)
        };
        let mut seen = |sent: &[u8]| {
            pod.send(sent);
            let is_ours = |f: &[u8]| outer(f).is_some_and(|o| o.dst_port == 4790 && o.inner == sent);
            outer(&wire.find("the encapsulated frame", is_ours)).expect("found just now")
        };
        let mut ports = BTreeSet::new();
        let mut first = None;
        // The first frames may find the next hop unresolved.
        Ping::new(underlay.local()).all(scene.remote(0));
        for flow in 0..32 {
            let sent = datagram(1000 + flow, 46);
            let got = seen(&sent);
            let want = Outer {
                dst_mac: Overlay::remote_mac(0).0,
                src_mac: Mac::local(0x400).0,
                src: underlay.local().parse().expect("a literal"),
                dst: underlay.remote(0).parse().expect("a literal"),
                ttl: 17,
                dscp: 46,
                src_port: got.src_port,
                dst_port: 4790,
                // RFC 7348 §5: zero over IPv4; RFC 8200 §8.1: not over IPv6.
                checksum: if underlay == Underlay::V4 {
                    Checksum::Zero
                } else {
                    Checksum::Right
                },
                // The I flag, the VNI, and nothing else.
                vxlan: [8, 0, 0, 0, 0, 0, 100, 0],
                inner: sent,
            };
            assert_eq!(got, want);
            // The dynamic range (RFC 6335 §6), as RFC 7348 §5 recommends.
            assert!(got.src_port >= 49152, "source port {}", got.src_port);
            ports.insert(got.src_port);
            first.get_or_insert(got.src_port);
        }
        // The source port follows the inner flow: many flows, many ports; the same flow, the same port.
        assert!(ports.len() > 16, "32 flows over {} source ports", ports.len());
        assert_eq!(Some(seen(&datagram(1000, 46)).src_port), first);
        assert_eq!(seen(&datagram(1000, 0)).dscp, 0);
        daemon.assert_ledger();
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn either_checksum_is_accepted() {
    if !ready() {
        return;
    }
    for (underlay, args, key) in [
        (Underlay::V4, "udpcsum", "on"),
        (Underlay::V4, "noudpcsum", "off"),
        (Underlay::V6, "noudp6zerocsumtx noudp6zerocsumrx", "on"),
        (Underlay::V6, "udp6zerocsumtx udp6zerocsumrx", "off"),
    ] {
        let scene = Overlay::new(Pods::new(1), 1, underlay, 1600);
        scene.vxlan(0, "vx0", 100, station(0), args);
        let daemon = Daemon::start(
            &scene.pods.fwd,
            &scene.config(1, "", &format!(", udp-checksum: '{key}'")),
        );
        Ping::new(&Overlay::ip4(0)).until(scene.pods.pod(0), Duration::from_secs(5));
        Ping::new(&Overlay::ip4(0)).args("-s 1401").all(scene.pods.pod(0));
        tcp_echo(scene.remote(0), scene.pods.pod(0), &Pods::ip6(0), 200_000);
        daemon.assert_ledger();
    }
}
