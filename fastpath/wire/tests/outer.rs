//! `udp_datagram` and `vxlan_datagram`: what they give for a good frame, and one named error for each fault.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;

use clearway_wire::{OuterError, udp_datagram, vxlan_datagram};
use common::{fix_ipv4_checksum, inner, udp_v4, udp_v6, vxlan};

#[test]
fn ipv4() {
    let inner = inner();
    let mut frame = udp_v4(50000, 4789, &vxlan(&inner));
    frame[15] = 46 << 2 | 2;
    fix_ipv4_checksum(&mut frame);
    let outer = vxlan_datagram(&frame, 14).unwrap();
    assert_eq!(
        (outer.src.to_string(), outer.dst.to_string()),
        ("192.0.2.1".to_owned(), "192.0.2.2".to_owned())
    );
    assert_eq!((outer.src_port, outer.dst_port, outer.ttl), (50000, 4789, 42));
    assert_eq!((outer.dscp().get(), outer.ecn()), (46, 2));
    assert_eq!(
        (outer.vni.get(), outer.inner_offset, outer.inner_len),
        (0x12_3456, 50, 60)
    );
    assert_eq!(frame[outer.inner_offset..][..outer.inner_len], inner);
}

#[test]
fn ipv6() {
    let inner = inner();
    let mut frame = udp_v6(50000, 4789, &vxlan(&inner));
    frame[14..16].copy_from_slice(&[0x6b, 0xa0]);
    let outer = vxlan_datagram(&frame, 14).unwrap();
    assert_eq!(
        (outer.src.to_string(), outer.dst.to_string()),
        ("2001:db8::1".to_owned(), "2001:db8::2".to_owned())
    );
    assert_eq!((outer.src_port, outer.dst_port, outer.ttl), (50000, 4789, 42));
    assert_eq!((outer.dscp().get(), outer.ecn()), (46, 2));
    assert_eq!(
        (outer.vni.get(), outer.inner_offset, outer.inner_len),
        (0x12_3456, 70, 60)
    );
    assert_eq!(frame[outer.inner_offset..][..outer.inner_len], inner);
}

#[test]
fn padding_is_not_inner_frame() {
    for frame in [
        udp_v4(1, 4789, &vxlan(&inner())),
        udp_v6(1, 4789, &vxlan(&inner())),
    ] {
        let padded = [&frame[..], &[0; 30]].concat();
        assert_eq!(vxlan_datagram(&padded, 14), vxlan_datagram(&frame, 14));
        assert_eq!(vxlan_datagram(&padded, 14).unwrap().inner_len, 60);
    }
}

#[test]
fn udp_length_below_ip_length_rules() {
    let mut frame = udp_v4(1, 4789, &vxlan(&inner()));
    frame[38..40].copy_from_slice(&(8u16 + 8 + 50).to_be_bytes());
    assert_eq!(vxlan_datagram(&frame, 14).unwrap().inner_len, 50);
}

#[test]
fn ipv4_options_are_skipped() {
    let frame = udp_v4(1, 4789, &vxlan(&inner()));
    let mut frame = [&frame[..34], &[1, 1, 1, 0], &frame[34..]].concat();
    let total_len = frame.len() as u16 - 14;
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&total_len.to_be_bytes());
    fix_ipv4_checksum(&mut frame);
    let outer = vxlan_datagram(&frame, 14).unwrap();
    assert_eq!((outer.inner_offset, outer.inner_len), (54, 60));
    frame[35] ^= 1;
    assert_eq!(vxlan_datagram(&frame, 14), Err(OuterError::BadIpChecksum));
}

#[test]
fn udp_checksums() {
    for frame in [
        udp_v4(1, 4789, &vxlan(&inner())),
        udp_v6(1, 4789, &vxlan(&inner())),
    ] {
        let l4 = frame.len() - 60 - 16;
        assert!(vxlan_datagram(&frame, 14).unwrap().verify_udp_checksum(&frame));
        let mut wrong = frame.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(!vxlan_datagram(&wrong, 14).unwrap().verify_udp_checksum(&wrong));
        wrong[l4 + 6..l4 + 8].fill(0);
        let outer = vxlan_datagram(&wrong, 14).unwrap();
        assert_eq!(outer.udp_checksum, 0);
        assert!(outer.verify_udp_checksum(&wrong));
        assert!(
            !vxlan_datagram(&frame, 14)
                .unwrap()
                .verify_udp_checksum(&frame[..60]),
            "another frame"
        );
    }
}

/// Applies a fault to a good frame (the IPv4 checksum is made correct again) and gives the error.
fn fault(frame: &[u8], fault: impl FnOnce(&mut Vec<u8>)) -> OuterError {
    let mut frame = frame.to_vec();
    fault(&mut frame);
    if frame.len() >= 34 && frame[14] >> 4 == 4 && frame[14] & 0xf >= 5 {
        fix_ipv4_checksum(&mut frame);
    }
    vxlan_datagram(&frame, 14).unwrap_err()
}

#[test]
fn every_fault_over_ipv4_has_its_name() {
    let frame = udp_v4(50000, 4789, &vxlan(&inner()));
    assert_eq!(fault(&frame, |f| f.truncate(14)), OuterError::Truncated);
    assert_eq!(fault(&frame, |f| f.truncate(33)), OuterError::Truncated);
    assert_eq!(fault(&frame, |f| f[14] = 0x55), OuterError::BadVersion);
    assert_eq!(fault(&frame, |f| f[14] = 0x44), OuterError::BadIpLength);
    assert_eq!(
        fault(&frame, |f| f[16..18].copy_from_slice(&[0, 19])),
        OuterError::BadIpLength
    );
    assert_eq!(
        fault(&frame, |f| f.truncate(109)),
        OuterError::IpLengthBeyondFrame
    );
    assert_eq!(fault(&frame, |f| f[20] = 0x20), OuterError::Fragment);
    assert_eq!(fault(&frame, |f| f[21] = 1), OuterError::Fragment);
    assert_eq!(fault(&frame, |f| f[23] = 6), OuterError::NotUdp);
    assert_eq!(
        fault(&frame, |f| f[16..18].copy_from_slice(&[0, 27])),
        OuterError::Truncated
    );
    assert_eq!(
        fault(&frame, |f| f[38..40].copy_from_slice(&[0, 7])),
        OuterError::BadUdpLength
    );
    assert_eq!(
        fault(&frame, |f| f[38..40].copy_from_slice(&[0, 77])),
        OuterError::BadUdpLength
    );
    assert_eq!(
        fault(&frame, |f| f[38..40].copy_from_slice(&[0, 15])),
        OuterError::VxlanTruncated
    );
    assert_eq!(fault(&frame, |f| f[42] = 0xf7), OuterError::NoVni);
    assert_eq!(
        fault(&frame, |f| f[38..40].copy_from_slice(&[0, 29])),
        OuterError::InnerTruncated
    );
    let mut wrong = frame.clone();
    wrong[22] -= 1;
    assert_eq!(vxlan_datagram(&wrong, 14), Err(OuterError::BadIpChecksum));
    assert_eq!(vxlan_datagram(&frame, 1000), Err(OuterError::Truncated));
    assert_eq!(vxlan_datagram(&frame, usize::MAX), Err(OuterError::Truncated));
}

#[test]
fn every_fault_over_ipv6_has_its_name() {
    let frame = udp_v6(50000, 4789, &vxlan(&inner()));
    assert_eq!(fault(&frame, |f| f.truncate(53)), OuterError::Truncated);
    assert_eq!(
        fault(&frame, |f| f.truncate(129)),
        OuterError::IpLengthBeyondFrame
    );
    assert_eq!(fault(&frame, |f| f[20] = 44), OuterError::Fragment);
    assert_eq!(fault(&frame, |f| f[20] = 0), OuterError::ExtensionHeader);
    assert_eq!(fault(&frame, |f| f[20] = 59), OuterError::NotUdp);
    assert_eq!(
        fault(&frame, |f| f[18..20].copy_from_slice(&[0, 7])),
        OuterError::Truncated
    );
    assert_eq!(
        fault(&frame, |f| f[58..60].copy_from_slice(&[0, 0])),
        OuterError::BadUdpLength
    );
    assert_eq!(fault(&frame, |f| f[62] = 0), OuterError::NoVni);
}

#[test]
fn reserved_bits_are_ignored() {
    let mut frame = udp_v4(50000, 4789, &vxlan(&inner()));
    frame[42..46].fill(0xff);
    frame[49] = 0xff;
    assert_eq!(vxlan_datagram(&frame, 14).unwrap().vni.get(), 0x12_3456);
}

#[test]
fn other_traffic_is_told_from_broken_vxlan() {
    let frame = udp_v4(50000, 53, b"a query");
    let datagram = udp_datagram(&frame, 14).unwrap();
    assert_eq!(
        (datagram.dst_port, datagram.payload_offset, datagram.payload_len),
        (53, 42, 7)
    );
    assert_eq!(vxlan_datagram(&frame, 14), Err(OuterError::VxlanTruncated));
}
