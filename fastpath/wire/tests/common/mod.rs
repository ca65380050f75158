//! Frames for the tests, built by etherparse: by code that is not ours.
#![allow(dead_code, reason = "each test program uses a part")]

use etherparse::{PacketBuilder, PacketBuilderStep, UdpHeader};

/// MAC addresses of the frames.
pub(crate) const SRC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const DST: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) fn finish(builder: PacketBuilderStep<UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// UDP over IPv4, TTL 42.
pub(crate) fn udp_v4(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2(SRC, DST).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 42);
    finish(ip.udp(src_port, dst_port), payload)
}

/// UDP over IPv6, hop limit 42.
pub(crate) fn udp_v6(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let (mut src, mut dst) = ([0; 16], [0; 16]);
    src[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    dst[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    (src[15], dst[15]) = (1, 2);
    let ip = PacketBuilder::ethernet2(SRC, DST).ipv6(src, dst, 42);
    finish(ip.udp(src_port, dst_port), payload)
}

/// A VXLAN payload: header for VNI 0x123456 and an inner frame.
pub(crate) fn vxlan(inner: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0x12, 0x34, 0x56, 0][..], inner].concat()
}

/// An inner frame of 60 bytes.
pub(crate) fn inner() -> Vec<u8> {
    udp_v4(1000, 2000, &[0xaa; 18])
}

/// Recomputes the IPv4 header checksum of an untagged frame, so that a test sees the fault that it has made and
/// no other.
pub(crate) fn fix_ipv4_checksum(frame: &mut [u8]) {
    let len = usize::from(frame[14] & 0xf) * 4;
    frame[24..26].fill(0);
    let mut sum = frame[14..14 + len]
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
}
