//! The header that a guest or a TAP puts before a frame: what its sender left undone (virtio 1.2 §5.1.6,
//! `struct virtio_net_hdr`; the kernel's linux/virtio_net.h).
//!
//! ```text
//!   0 flags │ 1 gso_type │ 2 hdr_len │ 4 gso_size │ 6 csum_start │ 8 csum_offset │ 10 num_buffers      little-endian
//! ```
//!
//! It comes from whom we don't trust: [`decode`] refuses what contradicts itself or the frame behind it, and what it
//! lets through has a checksum field inside the headers and says which IP it is. Whether lengths inside the packet
//! are right is for whoever cuts it up.

use crate::{Offload, Offloads};

/// The header with `num_buffers`, as with VIRTIO_F_VERSION_1 or VIRTIO_NET_F_MRG_RXBUF; the legacy one lacks the last two bytes.
pub(crate) type VnetHeader = [u8; 12];

/// A header that contradicts itself or its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Offsets of the checksum in TCP's and UDP's headers, and their shortest lengths.
const TCP: (u16, u16) = (16, 20);
const UDP: (u16, u16) = (6, 8);

/// What the header says is left undone on a frame that begins with `head`: its first 256 bytes, or all if it is shorter.
/// Flags other than NEEDS_CSUM (DATA_VALID, or unknown ones) leave nothing undone (§5.1.6.2.2: to be ignored).
#[inline(always)]
pub(crate) fn decode(header: &VnetHeader, head: &[u8]) -> Result<Option<Offload>, Malformed> {
    if (header[0] & NEEDS_CSUM) | header[1] == 0 {
        return Ok(None);
    }
    undone(header, head).map(Some)
}

fn undone(header: &VnetHeader, head: &[u8]) -> Result<Offload, Malformed> {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (gso_size, start, field) = (word(4), word(6), word(8));
    let end = usize::from(start) + usize::from(field) + 2;
    // A large packet without the start of its L4 header is nothing that anybody can cut up (§5.1.6.2.1).
    if header[0] & NEEDS_CSUM == 0 || start < 14 || end > head.len() {
        return Err(Malformed);
    }
    let (kind, (at, length)) = match header[1] & !GSO_ECN {
        GSO_NONE if header[1] == GSO_NONE => {
            let needs = Offloads::CHECKSUM;
            return Ok(Offload {
                needs,
                start,
                field,
                gso_size: 0,
            });
        }
        GSO_TCPV4 if is_ip(head, start, 4) => (Offloads::TSO4, TCP),
        GSO_TCPV6 if is_ip(head, start, 6) => (Offloads::TSO6, TCP),
        GSO_UDP if is_ip(head, start, 4) || is_ip(head, start, 6) => (Offloads::UFO, UDP),
        GSO_UDP_L4 if is_ip(head, start, 4) => (Offloads::USO4, UDP),
        GSO_UDP_L4 if is_ip(head, start, 6) => (Offloads::USO6, UDP),
        _ => return Err(Malformed),
    };
    let mark = match header[1] & GSO_ECN {
        0 => Offloads::empty(),
        _ if at == TCP.0 => Offloads::ECN,
        _ => return Err(Malformed),
    };
    // 0xffff means something else inside the kernel, which refuses it (GSO_BY_FRAGS).
    let whole = usize::from(start) + usize::from(length) <= head.len();
    if field != at || !whole || gso_size == 0 || gso_size == u16::MAX {
        return Err(Malformed);
    }
    let needs = Offloads::CHECKSUM | kind | mark;
    Ok(Offload {
        needs,
        start,
        field,
        gso_size,
    })
}

/// Whether an IP header of this version, behind at most two VLAN tags, ends at or before `start`.
fn is_ip(head: &[u8], start: u16, version: u8) -> bool {
    let ether_type = |at: usize| Some(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
    let mut at = 12;
    while at < 20 && matches!(ether_type(at), Some(0x8100 | 0x88a8)) {
        at += 4;
    }
    let (wanted, shortest) = if version == 4 { (0x0800, 20) } else { (0x86dd, 40) };
    let version_is = head.get(at + 2).is_some_and(|byte| byte >> 4 == version);
    ether_type(at) == Some(wanted) && version_is && at + 2 + shortest <= usize::from(start)
}

/// The header for a frame that begins with `head`, which has at least its L4 header.
#[inline(always)]
pub(crate) fn encode(offload: Option<Offload>, head: &[u8]) -> VnetHeader {
    match offload {
        None => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        Some(offload) => header(offload, head),
    }
}

fn header(
    Offload {
        needs,
        start,
        field,
        gso_size,
    }: Offload,
    head: &[u8],
) -> VnetHeader {
    let mut gso_type = match needs & Offloads::GSO {
        Offloads::TSO4 => GSO_TCPV4,
        Offloads::TSO6 => GSO_TCPV6,
        Offloads::UFO => GSO_UDP,
        Offloads::USO4 | Offloads::USO6 => GSO_UDP_L4,
        _ => GSO_NONE,
    };
    if needs.contains(Offloads::ECN) {
        gso_type |= GSO_ECN;
    }
    let hdr_len = match gso_type {
        GSO_NONE => 0,
        GSO_UDP | GSO_UDP_L4 => start.saturating_add(UDP.1),
        // TCP's data offset, in words, is the upper half of its byte 12 (RFC 9293 §3.1).
        _ => {
            let words = head.get(usize::from(start) + 12).map_or(5, |byte| byte >> 4);
            start.saturating_add(u16::from(words) * 4)
        }
    };
    let [h0, h1] = hdr_len.to_le_bytes();
    let [g0, g1] = gso_size.to_le_bytes();
    let [s0, s1] = start.to_le_bytes();
    let [f0, f1] = field.to_le_bytes();
    [NEEDS_CSUM, gso_type, h0, h1, g0, g1, s0, s1, f0, f1, 1, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first 128 bytes of a packet: Ethernet, `tags` VLAN tags, IP of that version, and where L4 starts.
    fn packet(tags: usize, version: u8) -> (Vec<u8>, u16) {
        let mut head = vec![0; 12];
        for _ in 0..tags {
            head.extend([0x81, 0, 0, 7]);
        }
        head.extend(if version == 4 { [8, 0] } else { [0x86, 0xdd] });
        let start = head.len() + if version == 4 { 20 } else { 40 };
        head.push(version << 4);
        head.resize(128, 0);
        head[start + 12] = 8 << 4;
        (head, start as u16)
    }

    fn bytes(flags: u8, gso_type: u8, gso_size: u16, start: u16, field: u16) -> VnetHeader {
        let mut header = [0; 12];
        header[..2].copy_from_slice(&[flags, gso_type]);
        header[4..6].copy_from_slice(&gso_size.to_le_bytes());
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&field.to_le_bytes());
        header
    }

    #[test]
    fn every_kind_of_work_goes_there_and_back() {
        let kinds = [
            (GSO_TCPV4, 4, Offloads::TSO4, TCP.0, 32),
            (GSO_TCPV6, 6, Offloads::TSO6, TCP.0, 32),
            (GSO_TCPV4 | GSO_ECN, 4, Offloads::TSO4 | Offloads::ECN, TCP.0, 32),
            (GSO_UDP, 4, Offloads::UFO, UDP.0, 8),
            (GSO_UDP, 6, Offloads::UFO, UDP.0, 8),
            (GSO_UDP_L4, 4, Offloads::USO4, UDP.0, 8),
            (GSO_UDP_L4, 6, Offloads::USO6, UDP.0, 8),
        ];
        for (gso_type, version, kind, field, l4) in kinds {
            for tags in 0..3 {
                let (head, start) = packet(tags, version);
                let mut header = bytes(NEEDS_CSUM, gso_type, 1400, start, field);
                let offload = decode(&header, &head).expect("well formed").expect("work");
                let needs = Offloads::CHECKSUM | kind;
                assert_eq!(
                    offload,
                    Offload {
                        needs,
                        start,
                        field,
                        gso_size: 1400
                    }
                );
                header[2..4].copy_from_slice(&(start + l4).to_le_bytes());
                header[10] = 1;
                assert_eq!(
                    encode(Some(offload), &head),
                    header,
                    "{gso_type} with {tags} tags"
                );
            }
        }
    }

    #[test]
    fn a_checksum_alone_may_be_anywhere_in_the_headers() {
        let (head, _) = packet(0, 4);
        let offload = decode(&bytes(NEEDS_CSUM, 0, 77, 84, 16), &head).expect("well formed");
        let needs = Offloads::CHECKSUM;
        assert_eq!(
            offload,
            Some(Offload {
                needs,
                start: 84,
                field: 16,
                gso_size: 0
            })
        );
        let header = encode(offload, &head);
        assert_eq!(header, [1, 0, 0, 0, 0, 0, 84, 0, 16, 0, 1, 0]);
    }

    #[test]
    fn without_work_the_offsets_mean_nothing() {
        for flags in [0, 2, 4, 0xfe] {
            assert_eq!(decode(&bytes(flags, 0, 9, 9, 9), &[]), Ok(None));
        }
        assert_eq!(encode(None, &[]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_contradicts_itself_or_the_frame_is_refused() {
        let (v4, start) = packet(0, 4);
        let (v6, start6) = packet(0, 6);
        let good = bytes(NEEDS_CSUM, GSO_TCPV4, 1400, start, 16);
        assert!(decode(&good, &v4).is_ok());
        let wrong = [
            (
                "large without a checksum",
                bytes(0, GSO_TCPV4, 1400, start, 16),
                &v4[..],
            ),
            ("IPv4 that is IPv6", bytes(1, GSO_TCPV4, 1400, start6, 16), &v6),
            ("IPv6 that is IPv4", bytes(1, GSO_TCPV6, 1400, start, 16), &v4),
            ("no such kind", bytes(1, 2, 1400, start, 16), &v4),
            ("a later kind", bytes(1, 0x20 | GSO_TCPV4, 1400, start, 16), &v4),
            ("ECN of nothing", bytes(1, GSO_ECN, 0, start, 16), &v4),
            ("ECN of UDP", bytes(1, GSO_ECN | GSO_UDP_L4, 1400, start, 6), &v4),
            ("no size", bytes(1, GSO_TCPV4, 0, start, 16), &v4),
            (
                "a size that the kernel refuses",
                bytes(1, GSO_TCPV4, 0xffff, start, 16),
                &v4,
            ),
            ("UDP's field in TCP", bytes(1, GSO_TCPV4, 1400, start, 6), &v4),
            ("TCP's field in UDP", bytes(1, GSO_UDP_L4, 1400, start, 16), &v4),
            ("L4 in IP", bytes(1, GSO_TCPV4, 1400, start - 1, 16), &v4),
            ("L4 in Ethernet", bytes(1, 0, 0, 13, 16), &v4),
            ("behind the head", bytes(1, 0, 0, 128 - 17, 16), &v4),
            ("far behind the head", bytes(1, 0, 0, 0xffff, 0xffff), &v4),
            (
                "half a TCP header",
                bytes(1, GSO_TCPV4, 1400, start, 16),
                &v4[..53],
            ),
            ("an empty frame", bytes(1, GSO_UDP_L4, 1400, start, 6), &[]),
        ];
        for (what, header, head) in wrong {
            assert_eq!(decode(&header, head), Err(Malformed), "{what}");
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_refused_or_inside(
            flags: u8, kind in prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81, 0x84, 7]), size: u16,
            shape in (0usize..3, prop::sample::select(vec![4u8, 6])), moved in -2i32..3, field in prop::sample::select(vec![0u16, 6, 16, 60000]),
            noise in prop::collection::vec((0usize..128, any::<u8>()), 0..3), len in 0usize..=128,
        ) {
            let (mut head, start) = packet(shape.0, shape.1);
            noise.into_iter().for_each(|(at, byte)| head[at] = byte);
            head.truncate(len);
            let start = start.saturating_add_signed((moved / 2) as i16);
            if let Ok(Some(offload)) = decode(&bytes(flags, kind, size, start, field), &head) {
                prop_assert!(usize::from(offload.start) + usize::from(offload.field) + 2 <= head.len());
                prop_assert_eq!(offload.needs.intersects(Offloads::GSO), offload.gso_size > 0);
                prop_assert!((offload.needs & Offloads::GSO).iter().count() <= 1);
                let again = decode(&encode(Some(offload), &head), &head);
                prop_assert_eq!(again, Ok(Some(offload)));
            }
        }
    }
}
