//! Precomputed outer headers of a tunnel: Ethernet, an optional tag, IPv4 or IPv6, UDP, VXLAN.
//!
//! ```text
//!   0        12     14|18           34|38..58        42|46..66        50|54..78
//!   │ MACs │ (tag) │ IPv4 20 │ IPv6 40 │ UDP 8        │ VXLAN 8       │ inner frame
//! ```
//!
//! Per packet only lengths, source port, VNI, DSCP and the IPv4 checksum (from the template's sum, RFC 1624)
//! are written.

use crate::OuterDscp;
use clearway_io::Frame;
use clearway_wire::checksum::{self, Sum};
use clearway_wire::{
    EtherType, MacAddr, PlainOuter, Tag, Tci, Vid, Vni, flow_hash_and_tos, source_port, vlan, vxlan,
};
use std::net::IpAddr;

const MAX_LEN: usize = 14 + vlan::TAG_LEN + 40 + 8 + vxlan::HEADER_LEN;

/// What a tunnel's outer headers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterSpec {
    /// MAC address of our interface.
    pub src_mac: MacAddr,
    /// MAC address of the next hop.
    pub dst_mac: MacAddr,
    /// VLAN of the underlay.
    pub vid: Option<Vid>,
    /// Our address.
    pub local: IpAddr,
    /// The remote's address, of the same family.
    pub remote: IpAddr,
    /// UDP port of the remote.
    pub udp_port: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP of the outer header.
    pub dscp: OuterDscp,
    /// Whether the UDP checksum is computed; else it is zero (RFC 7348 §5, RFC 6935).
    pub checksum: bool,
}

/// The outer headers of a tunnel, ready but for what differs by packet.
#[derive(Clone, Debug)]
pub struct Rewrite {
    bytes: [u8; MAX_LEN],
    len: u8,
    l3: u8,
    /// IPv4, no tag, no UDP checksum.
    is_plain: bool,
    ipv6: bool,
    checksum: bool,
    /// The outer DSCP and ECN byte: these bits of the inner packet's, and these.
    tos_mask: u8,
    tos_fixed: u8,
    /// IPv4: sum of the header with length and DSCP zero. Either: sum of the addresses.
    ip_sum: u16,
    address_sum: Sum,
}

impl Rewrite {
    /// Headers for a tunnel. None if the addresses are of different families.
    #[must_use]
    pub fn new(spec: &OuterSpec) -> Option<Self> {
        let mut bytes = Vec::with_capacity(MAX_LEN);
        bytes.extend_from_slice(&spec.dst_mac.0);
        bytes.extend_from_slice(&spec.src_mac.0);
        if let Some(vid) = spec.vid {
            bytes.extend_from_slice(&Tag::customer(Tci(0).with_vid(vid)).to_bytes());
        }
        let ethertype = if spec.local.is_ipv6() {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        };
        bytes.extend_from_slice(&ethertype.0.to_be_bytes());
        let l3 = bytes.len();
        let address_sum = match (spec.local, spec.remote) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                // Version and IHL, DSCP, length (later), no identification, DF, TTL, UDP, checksum (later).
                bytes.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, spec.ttl, 17, 0, 0]);
                bytes.extend_from_slice(&src.octets());
                bytes.extend_from_slice(&dst.octets());
                checksum::sum(&bytes[l3 + 12..])
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                // Version, class and label, length (later), UDP, hop limit.
                bytes.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, 17, spec.ttl]);
                bytes.extend_from_slice(&src.octets());
                bytes.extend_from_slice(&dst.octets());
                checksum::sum(&bytes[l3 + 8..])
            }
            _ => return None,
        };
        let ip_sum = checksum::sum(&bytes[l3..]).fold();
        let (tos_mask, tos_fixed) = match spec.dscp {
            // Without the ECN bits: we do not decapsulate congestion marks (RFC 6040 would have both ends do
            // it), so we must not promise ECN to the underlay.
            OuterDscp::Copy => (0xfc, 0),
            OuterDscp::Fixed(dscp) => (0, dscp.get() << 2),
        };
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&spec.udp_port.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&vxlan::header(Vni::MIN));
        let len = bytes.len();
        bytes.resize(MAX_LEN, 0);
        Some(Self {
            bytes: bytes.try_into().ok()?,
            len: len as u8,
            l3: l3 as u8,
            is_plain: len == PlainOuter::LEN && !spec.checksum,
            ipv6: spec.local.is_ipv6(),
            checksum: spec.checksum,
            tos_mask,
            tos_fixed,
            ip_sum,
            address_sum,
        })
    }

    /// Bytes that it puts in front of a frame.
    #[must_use]
    pub fn overhead(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether [`Rewrite::push`] reads all of a frame: it must not be held then.
    #[inline(always)]
    #[must_use]
    pub fn reads_payload(&self) -> bool {
        self.checksum
    }

    /// Puts the outer headers in front of a frame. False, and nothing changed, without headroom.
    #[inline(always)]
    #[must_use]
    pub fn push(&self, frame: &mut Frame, vni: Vni) -> bool {
        let (hash, inner_tos) = flow_hash_and_tos(frame.bytes());
        let fields = Fields {
            port: source_port(hash),
            tos: inner_tos & self.tos_mask | self.tos_fixed,
            // A frame is at most 64 KiB and some headers: what does not fit the field was refused by its MTU.
            l4_len: (frame.len() as usize + 8 + vxlan::HEADER_LEN) as u16,
            vni,
        };
        if self.is_plain {
            self.push_plain(frame, fields)
        } else {
            self.push_any(frame, fields)
        }
    }

    /// Tagged, IPv6 or with a UDP checksum.
    #[inline(never)]
    fn push_any(&self, frame: &mut Frame, fields: Fields) -> bool {
        let Fields {
            port,
            tos,
            l4_len,
            vni,
        } = fields;
        let inner_sum = if self.checksum {
            segments_sum(frame, 0)
        } else {
            Sum::ZERO
        };
        let len = self.overhead();
        if !frame.push_front(len as u32) {
            return false;
        }
        let bytes = frame.bytes_mut();
        bytes[..len].copy_from_slice(&self.bytes[..len]);
        let Some(ip) = bytes.get_mut(usize::from(self.l3)..len) else {
            return true;
        };
        let udp = if self.ipv6 {
            ip[0] = 0x60 | tos >> 4;
            ip[1] = tos << 4;
            ip[4..6].copy_from_slice(&l4_len.to_be_bytes());
            &mut ip[40..]
        } else {
            let total = l4_len.wrapping_add(20);
            ip[1] = tos;
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[10..12].copy_from_slice(&self.ip_checksum(total, tos).to_be_bytes());
            &mut ip[20..]
        };
        udp[..2].copy_from_slice(&port.to_be_bytes());
        udp[4..6].copy_from_slice(&l4_len.to_be_bytes());
        udp[12..15].copy_from_slice(&vni.to_be_bytes());
        if self.checksum {
            // RFC 768: pseudo header, header, data; a result of 0 is sent as 0xffff.
            let pseudo = self.address_sum + Sum::of_word(17) + Sum::of_word(l4_len);
            let sum = (pseudo + checksum::sum(udp) + inner_sum).finish();
            let sum = if sum == 0 { 0xffff } else { sum };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        true
    }

    /// The IPv4 header's checksum: the template's with what was left out.
    #[inline(always)]
    fn ip_checksum(&self, total: u16, tos: u8) -> u16 {
        let sum = u32::from(self.ip_sum) + u32::from(total) + u32::from(tos);
        // Three words carry at most 2, and adding that carries at most once more.
        let sum = (sum >> 16) + (sum & 0xffff);
        !((sum >> 16) + sum) as u16
    }

    /// The usual case, IPv4 without tag and UDP checksum, at fixed offsets.
    #[inline(always)]
    fn push_plain(&self, frame: &mut Frame, fields: Fields) -> bool {
        let Fields {
            port,
            tos,
            l4_len,
            vni,
        } = fields;
        const LEN: usize = PlainOuter::LEN;
        if !frame.push_front(LEN as u32) {
            return false;
        }
        let Some(to) = frame.bytes_mut().first_chunk_mut::<LEN>() else {
            return true;
        };
        let Some(from) = self.bytes.first_chunk::<LEN>() else {
            return true;
        };
        *to = *from;
        let total = l4_len.wrapping_add(20);
        to[15] = tos;
        to[16..18].copy_from_slice(&total.to_be_bytes());
        to[24..26].copy_from_slice(&self.ip_checksum(total, tos).to_be_bytes());
        to[34..36].copy_from_slice(&port.to_be_bytes());
        to[38..40].copy_from_slice(&l4_len.to_be_bytes());
        // With the reserved byte behind it.
        to[46..50].copy_from_slice(&(vni.get() << 8).to_be_bytes());
        true
    }
}

/// What differs by packet.
#[derive(Clone, Copy)]
struct Fields {
    port: u16,
    tos: u8,
    l4_len: u16,
    vni: Vni,
}

/// Sum over a frame's bytes from `start` on, which lies in the first of its segments.
pub(crate) fn segments_sum(frame: &Frame, start: usize) -> Sum {
    let (mut sum, mut odd) = (Sum::ZERO, false);
    let mut skip = start;
    for part in frame.segments() {
        let part = part.get(std::mem::take(&mut skip)..).unwrap_or_default();
        let part_sum = checksum::sum(part);
        sum += if odd { part_sum.swapped() } else { part_sum };
        odd ^= part.len() % 2 == 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use clearway_io::{HugePages, PoolSet, Umem, UmemGeometry};
    use clearway_wire::{Ipv4Packet, vxlan_datagram};
    use proptest::prelude::*;

    fn spec(local: &str, remote: &str, vid: Option<u16>, checksum: bool) -> OuterSpec {
        OuterSpec {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            vid: vid.and_then(Vid::new),
            local: local.parse().expect("address"),
            remote: remote.parse().expect("address"),
            udp_port: 4789,
            ttl: 64,
            dscp: OuterDscp::Copy,
            checksum,
        }
    }

    #[test]
    fn families_must_agree() {
        assert!(Rewrite::new(&spec("10.0.0.1", "2001:db8::1", None, false)).is_none());
    }

    #[test]
    fn the_dscp_of_either_family_behind_tags_is_copied_and_ecn_is_not() {
        let umem = Umem::new(UmemGeometry {
            chunk_size: 2048,
            chunks: 64,
            huge_pages: HugePages::Off,
        })
        .expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        let rewrite = Rewrite::new(&spec("10.0.0.1", "10.0.0.2", None, false)).expect("one family");
        for packet in [&[0x08u8, 0, 0x45, 0xb9][..], &[0x86, 0xdd, 0x6b, 0x9f]] {
            let mut bytes = vec![0; 12];
            bytes.extend([0x81, 0, 0, 5]);
            bytes.extend(packet);
            bytes.resize(80, 0);
            let mut frame = pools.frame_from(umem.id(), &bytes).expect("chunk");
            assert!(rewrite.push(&mut frame, Vni::MIN));
            assert_eq!(frame.bytes()[15], 0xb8);
            pools.free(frame);
        }
    }

    proptest! {
        #[test]
        fn what_is_pushed_is_a_valid_datagram_around_the_same_frame(
            inner in prop::collection::vec(any::<u8>(), 14..9000),
            vni in 0u32..1 << 24, v6: bool, tagged: bool, checksum: bool,
        ) {
            let umem = Umem::new(UmemGeometry { chunk_size: 2048, chunks: 64, huge_pages: HugePages::Off }).expect("memory");
            let mut pools = PoolSet::new();
            pools.add(&umem);
            let mut frame = pools.frame_from(umem.id(), &inner).expect("chunks");
            let (local, remote) = if v6 { ("2001:db8::1", "2001:db8::2") } else { ("10.0.0.1", "10.0.0.2") };
            let spec = spec(local, remote, tagged.then_some(7), checksum);
            let rewrite = Rewrite::new(&spec).expect("one family");
            prop_assert!(rewrite.push(&mut frame, Vni::new(vni).expect("24 bits")));
            let outer: Vec<u8> = frame.segments().flatten().copied().collect();
            prop_assert_eq!(&outer[rewrite.overhead()..], &inner[..]);
            let l3 = if tagged { 18 } else { 14 };
            let read = vxlan_datagram(&outer, l3).expect("valid");
            prop_assert_eq!((read.src.to_ip(), read.dst.to_ip()), (spec.local, spec.remote));
            prop_assert_eq!((read.vni.get(), read.dst_port, read.ttl), (vni, 4789, 64));
            prop_assert_eq!((read.inner_offset, read.inner_len), (rewrite.overhead(), inner.len()));
            prop_assert!((49152..=65535).contains(&read.src_port));
            prop_assert_eq!(read.udp_checksum != 0, checksum);
            prop_assert!(read.verify_udp_checksum(&outer));
            if !v6 {
                prop_assert!(Ipv4Packet::new_checked(&outer[l3..]).expect("valid").dont_fragment());
            }
            pools.free(frame);
        }
    }
}
