//! The flow hash of a frame, and the VXLAN source port that it chooses (RFC 7348 §5).
//!
//! Frames of one flow get one hash, so that the underlay's ECMP and a receiver's RSS keep them in order. The hash is
//! not seeded: who sends the frames can choose flows that collide, which costs that sender its own spread. Don't
//! use it for tables that must resist an attacker.

use crate::bytes::{be16, be32, get};
use crate::ethernet::EtherType;
use crate::ip::protocol;
use crate::vlan::parse_tags;
use crate::{ethernet, ipv4, ipv6};

/// The first port of the dynamic range (RFC 6335 §6), which RFC 7348 §5 recommends for VXLAN sources.
const FIRST_PORT: u16 = 49152;

// Odd, with half of the bits set and no structure: the fractional digits of the square roots of 2, 3, 5 and 7.
const K: [u64; 4] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
];

/// One step: both halves of the 128-bit product, so that every input bit reaches every output bit.
#[inline(always)]
const fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// The hash of the flow that a frame belongs to:
///
/// * IPv4 and IPv6 behind up to two tags: addresses and protocol, with the ports of TCP, UDP, SCTP, DCCP and UDP-Lite;
/// * fragments and packets with IPv6 extension headers: without ports, because not every part of them has ports;
/// * everything else: MAC addresses and EtherType.
///
/// Tags don't count, directions do: a flow and its answer hash differently.
#[inline]
pub fn flow_hash(frame: &[u8]) -> u32 {
    flow_hash_and_tos(frame).0
}

/// The same, with the DSCP and ECN byte of the packet: what encapsulation needs to know of a frame, in one look. The
/// byte is 0 for what is no IP packet.
#[inline(always)]
pub fn flow_hash_and_tos(frame: &[u8]) -> (u32, u8) {
    match plain_ipv4(frame) {
        Some((hash, tos)) => (fold(hash), tos),
        None => any_hash_and_tos(frame),
    }
}

#[inline(always)]
const fn fold(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

/// The usual case at fixed offsets: IPv4 without tags, options and fragments, of a protocol that has ports.
#[inline(always)]
fn plain_ipv4(frame: &[u8]) -> Option<(u64, u8)> {
    const L3: usize = ethernet::HEADER_LEN;
    let head = frame.first_chunk::<{ L3 + ipv4::HEADER_LEN + 4 }>()?;
    let protocol = head[L3 + 9];
    let usual = be32(head, 12) >> 8 == 0x08_0045 && be16(head, L3 + 6) & 0x3fff == 0 && has_ports(protocol);
    usual.then(|| {
        let (addresses, ports) = (u64::from_le_bytes(get(head, L3 + 12)), be32(head, L3 + 20));
        (mix_ipv4(addresses, ports.into(), protocol), head[L3 + 1])
    })
}

#[inline(never)]
fn any_hash_and_tos(frame: &[u8]) -> (u32, u8) {
    let tags = parse_tags(frame);
    let l3 = frame.get(tags.l3_offset..).unwrap_or_default();
    let hash = match tags.ethertype {
        EtherType::IPV4 => hash_ipv4(l3),
        EtherType::IPV6 => hash_ipv6(l3),
        _ => None,
    };
    let (hash, tos) = match hash {
        Some((hash, tos)) => (hash, tos),
        None => (hash_ethernet(frame, tags.ethertype), 0),
    };
    (fold(hash), tos)
}

/// The source port for an encapsulated flow: 49152 to 65535.
#[inline]
pub const fn source_port(hash: u32) -> u16 {
    FIRST_PORT | (hash >> 18) as u16
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    // Nearly all packets are the first two; a bit test tells of the rest.
    protocol == protocol::TCP
        || protocol == protocol::UDP
        || matches!(protocol, protocol::SCTP | protocol::DCCP | protocol::UDP_LITE)
}

#[inline(always)]
fn ports(l4: Option<&[u8]>) -> u64 {
    l4.and_then(|l4| l4.first_chunk::<4>())
        .map_or(0, |ports| u64::from(u32::from_be_bytes(*ports)))
}

#[inline(always)]
const fn mix_ports(ports: u64, protocol: u8) -> u64 {
    mix((ports << 8 | protocol as u64) ^ K[2], K[3])
}

#[inline(always)]
fn hash_ipv4(packet: &[u8]) -> Option<(u64, u8)> {
    let header = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
    let addresses = u64::from_le_bytes(get(header, 12));
    let protocol = header[9];
    let is_fragment = be16(header, 6) & 0x3fff != 0;
    let ports = if is_fragment || !has_ports(protocol) {
        0
    } else if header[0] == 0x45 {
        ports(packet.get(ipv4::HEADER_LEN..))
    } else {
        ports(packet.get(usize::from(header[0] & 0x0f) * 4..))
    };
    Some((mix_ipv4(addresses, ports, protocol), header[1]))
}

/// One product of both halves, each masked so that what people number from zero is no zero.
#[inline(always)]
const fn mix_ipv4(addresses: u64, ports: u64, protocol: u8) -> u64 {
    mix(addresses ^ K[0], (ports << 8 | protocol as u64) ^ K[1])
}

#[inline(always)]
fn hash_ipv6(packet: &[u8]) -> Option<(u64, u8)> {
    let header = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
    let word = |at| u64::from_be_bytes(get(header, at));
    let protocol = header[6];
    let ports = if has_ports(protocol) {
        ports(packet.get(ipv6::HEADER_LEN..))
    } else {
        0
    };
    // One product for each address, of its prefix and its interface identifier.
    let src = mix(word(8) ^ K[0], word(16) ^ K[1]);
    let dst = mix(word(24) ^ K[2], word(32) ^ K[3]);
    let hash = src ^ dst.rotate_left(32) ^ mix_ports(ports, protocol);
    Some((mix(hash, K[2]), (be16(header, 0) >> 4) as u8))
}

/// Frames shorter than a header hash as if padded with zeros.
#[inline(always)]
fn hash_ethernet(frame: &[u8], ethertype: EtherType) -> u64 {
    let (dst, src) = ethernet::addresses(frame).unwrap_or_else(|| {
        let mut padded = [0; ethernet::HEADER_LEN];
        padded[..frame.len()].copy_from_slice(frame);
        (u64::from_be_bytes(get(&padded, 0)), u64::from(be32(&padded, 8)))
    });
    let hash = mix(dst << 16 ^ u64::from(ethertype.0) ^ K[0], K[1]);
    mix(hash ^ src, K[2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlan::{Tag, Tci, push_tag};

    fn ipv4_frame(protocol: u8, flags: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend_from_slice(&[
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame[20..22].copy_from_slice(&flags.to_be_bytes());
        frame.extend_from_slice(&[0x12, 0x34, 0x00, 0x50, 0, 8, 0, 0]);
        frame
    }

    fn ipv6_frame(protocol: u8) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        frame.extend_from_slice(&[0x60, 0, 0, 0, 0, 8, protocol, 64]);
        frame.extend_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        frame.extend_from_slice(&[0x12, 0x34, 0x00, 0x50, 0, 8, 0, 0]);
        frame
    }

    /// The bytes of `frame` whose change changes its hash.
    fn significant(frame: &[u8]) -> Vec<usize> {
        (0..frame.len())
            .filter(|&at| {
                let mut other = frame.to_vec();
                other[at] ^= 1;
                flow_hash(&other) != flow_hash(frame)
            })
            .collect()
    }

    #[test]
    fn exactly_the_flow_counts() {
        // Flipping bits of the EtherType or IHL changes what the frame is, so these show too.
        assert_eq!(
            significant(&ipv4_frame(17, 0)),
            [&[12, 13, 14][..], &[20, 21, 23], &(26..38).collect::<Vec<_>>()].concat()
        );
        assert_eq!(
            significant(&ipv4_frame(1, 0)),
            [&[12, 13][..], &[23], &(26..34).collect::<Vec<_>>()].concat()
        );
        assert_eq!(
            significant(&ipv6_frame(6)),
            [&[12, 13][..], &[20], &(22..58).collect::<Vec<_>>()].concat()
        );
        let mut arp = ipv4_frame(1, 0);
        arp[13] = 6;
        assert_eq!(significant(&arp), (0..14).collect::<Vec<_>>());
    }

    #[test]
    fn fragments_hash_without_ports() {
        let (first, later) = (ipv4_frame(17, 0x2000), ipv4_frame(17, 0x0003));
        assert_eq!(flow_hash(&first), flow_hash(&later));
        let mut other_ports = later.clone();
        other_ports[35] ^= 0xff;
        assert_eq!(flow_hash(&later), flow_hash(&other_ports));
    }

    #[test]
    fn tags_do_not_count() {
        for frame in [ipv4_frame(17, 0), ipv6_frame(6)] {
            let mut tagged = [&[0; 8][..], &frame].concat();
            assert!(push_tag(&mut tagged[4..], Tag::customer(Tci(7))));
            assert_eq!(flow_hash(&tagged[4..]), flow_hash(&frame));
            assert!(push_tag(&mut tagged, Tag::service(Tci(100))));
            assert_eq!(flow_hash(&tagged), flow_hash(&frame));
        }
    }

    #[test]
    fn direction_counts() {
        let frame = ipv4_frame(17, 0);
        let mut answer = frame.clone();
        answer[26..30].copy_from_slice(&frame[30..34]);
        answer[30..34].copy_from_slice(&frame[26..30]);
        answer[34..36].copy_from_slice(&frame[36..38]);
        answer[36..38].copy_from_slice(&frame[34..36]);
        assert_ne!(flow_hash(&frame), flow_hash(&answer));
    }

    #[test]
    fn short_frames_have_a_hash() {
        let frame = ipv4_frame(17, 0);
        for len in 0..frame.len() {
            flow_hash(&frame[..len]);
        }
        assert_eq!(
            flow_hash(&frame[..20]),
            flow_hash(&[&frame[..14], &[9, 9]].concat()),
            "a cut IP header falls back"
        );
    }

    #[test]
    fn ports_are_the_dynamic_range() {
        assert_eq!((source_port(0), source_port(u32::MAX)), (49152, 65535));
    }

    /// Every input bit turns every bit of the source port in about half of the cases.
    #[test]
    fn avalanche() {
        for (frame, bytes) in [(ipv4_frame(17, 0), 26..38), (ipv6_frame(6), 22..58)] {
            const ROUNDS: u64 = 2000;
            let mut state = 1u64;
            for bit in bytes.start * 8..bytes.end * 8 {
                let mut flips = [0u64; 14];
                for _ in 0..ROUNDS {
                    let mut a = frame.clone();
                    for byte in &mut a[bytes.clone()] {
                        state = state
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        *byte = (state >> 56) as u8;
                    }
                    let mut b = a.clone();
                    b[bit / 8] ^= 1 << (bit % 8);
                    let difference = source_port(flow_hash(&a)) ^ source_port(flow_hash(&b));
                    for (i, flips) in flips.iter_mut().enumerate() {
                        *flips += u64::from(difference >> i & 1);
                    }
                }
                // 2000 fair coins leave 40..60 % with a probability of 10^-18.
                for (i, flips) in flips.iter().enumerate() {
                    assert!(
                        (ROUNDS * 2 / 5..=ROUNDS * 3 / 5).contains(flips),
                        "input bit {bit} → port bit {i}: {flips}"
                    );
                }
            }
        }
    }

    /// Neighbouring flows, as pods and load generators make them, spread over ports like random ones.
    #[test]
    fn consecutive_flows_spread() {
        let mut frame = ipv4_frame(17, 0);
        let mut ports = std::collections::HashSet::new();
        for i in 0u16..4096 {
            frame[34..36].copy_from_slice(&(10000 + i).to_be_bytes());
            ports.insert(source_port(flow_hash(&frame)));
        }
        // 4096 random draws of 16384 give 3624 distinct ones, standard deviation about 19.
        assert!(
            (3500..3750).contains(&ports.len()),
            "{} distinct ports",
            ports.len()
        );
    }
}
