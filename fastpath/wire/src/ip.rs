//! What IPv4 and IPv6 have in common: protocol numbers, one address type, the way to the upper layer.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::be16;
use crate::ipv4::{self, Ipv4Packet};
use crate::ipv6::{self, Ipv6Packet};

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that this crate speaks.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// An IPv4 or IPv6 address in 128 bits, IPv4 in its mapped form `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2): one
/// compare, one hash, no branch on the family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappedIp(u128);

impl MappedIp {
    const V4_PREFIX: u128 = 0xffff << 32;

    /// An IPv4 address from its 32 bits.
    #[inline]
    pub const fn from_v4_bits(bits: u32) -> Self {
        Self(Self::V4_PREFIX | bits as u128)
    }

    /// An IPv6 address from its 128 bits.
    #[inline]
    pub const fn from_v6_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The 128 bits.
    #[inline]
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    /// Whether it is an IPv4 address.
    #[inline]
    pub const fn is_ipv4(self) -> bool {
        self.0 >> 32 == 0xffff
    }

    /// The address in the standard library's form.
    #[inline]
    pub const fn to_ip(self) -> IpAddr {
        if self.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from_bits(self.0 as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.0))
        }
    }
}

impl From<Ipv4Addr> for MappedIp {
    #[inline]
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_bits(address.to_bits())
    }
}

impl From<Ipv6Addr> for MappedIp {
    #[inline]
    fn from(address: Ipv6Addr) -> Self {
        Self::from_v6_bits(address.to_bits())
    }
}

impl From<IpAddr> for MappedIp {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl fmt::Display for MappedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

impl fmt::Debug for MappedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_ip().fmt(f)
    }
}

/// Where the upper layer of an IP packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpperLayer {
    /// Whether the packet is IPv6.
    pub is_ipv6: bool,
    /// Protocol number.
    pub protocol: u8,
    /// Offset of the upper-layer header from the start of the IP header.
    pub offset: usize,
    /// Bytes from there to the end of the IP packet, padding excluded.
    pub len: usize,
}

/// Finds the upper layer of a whole IP packet, past IPv4 options and IPv6 extension headers. `None` for a fragment,
/// a broken packet, and an IPv6 packet whose chain of headers can't be followed.
///
/// An IPv6 routing header with segments left is not followed: the checksum of what lies behind it is computed with
/// another destination (RFC 8200 §8.1).
pub fn upper_layer(packet: &[u8]) -> Option<UpperLayer> {
    match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            let offset = ip.header_len();
            let len = usize::from(ip.total_len()) - offset;
            (!ip.is_fragment()).then_some(UpperLayer {
                is_ipv6: false,
                protocol: ip.protocol(),
                offset,
                len,
            })
        }
        6 => {
            let chain = follow_ipv6(packet)?;
            let Chain {
                protocol,
                offset,
                len,
                fragment,
            } = chain;
            fragment.is_none().then_some(UpperLayer {
                is_ipv6: true,
                protocol,
                offset,
                len,
            })
        }
        _ => None,
    }
}

/// Where a chain of IPv6 headers ends.
pub(crate) struct Chain {
    /// The upper layer's protocol number.
    pub(crate) protocol: u8,
    /// Offset from the IPv6 header of what follows the last header.
    pub(crate) offset: usize,
    /// Bytes from there to the end of the packet.
    pub(crate) len: usize,
    /// In a fragment, the offset of its part in the whole; the chain ends there unless that is 0.
    pub(crate) fragment: Option<u16>,
}

/// Follows the headers of an IPv6 packet to its upper layer, or to the end of the headers of a later fragment.
pub(crate) fn follow_ipv6(packet: &[u8]) -> Option<Chain> {
    let ip = Ipv6Packet::new_checked(packet).ok()?;
    let end = ipv6::HEADER_LEN + usize::from(ip.payload_len());
    let walk = Walk::over(&packet[..end])?;
    Some(Chain {
        protocol: walk.protocol,
        offset: walk.offset,
        len: end - walk.offset,
        fragment: walk.fragment,
    })
}

/// Where the walk along a chain of IPv6 headers ended.
struct Walk {
    protocol: u8,
    /// Offset of the byte that says so.
    protocol_at: usize,
    offset: usize,
    fragment: Option<u16>,
}

impl Walk {
    /// `packet` has at least the fixed header.
    fn over(packet: &[u8]) -> Option<Self> {
        let (mut protocol_at, mut offset, mut fragment) = (6, ipv6::HEADER_LEN, None);
        // RFC 8200 §4.1 has no bound on the chain; each kind occurs once or twice, so eight is more than is legal.
        for _ in 0..8 {
            let next = packet[protocol_at];
            if !ipv6::is_extension_header(next) || fragment.is_some_and(|at| at > 0) {
                return Some(Self {
                    protocol: next,
                    protocol_at,
                    offset,
                    fragment,
                });
            }
            let header = packet.get(offset..)?.first_chunk::<8>()?;
            let len = match next {
                ipv6::HOP_BY_HOP | ipv6::DESTINATION_OPTIONS => 8 + 8 * usize::from(header[1]),
                ipv6::ROUTING if header[3] == 0 => 8 + 8 * usize::from(header[1]),
                ipv6::FRAGMENT => {
                    let word = be16(header, 2);
                    // An atomic fragment (RFC 6946), offset 0 and no more to come, is a whole packet.
                    fragment = (word & 0xfff9 != 0).then_some(word & 0xfff8);
                    8
                }
                _ => return None,
            };
            (protocol_at, offset) = (offset, offset + len);
            if offset > packet.len() {
                return None;
            }
        }
        None
    }
}

/// The headers before the upper layer of a packet of which only the first bytes are at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Whether the packet is IPv6.
    pub is_ipv6: bool,
    /// Protocol number of the upper layer.
    pub protocol: u8,
    /// Offset of the byte that holds it, from the start of the IP header.
    pub protocol_at: usize,
    /// Bytes of the IP header, with options and extension headers.
    pub len: usize,
    /// Bytes of the whole packet by its length field; none if that is zero, as a sender may leave it on a packet that
    /// its device is to cut up.
    pub packet_len: Option<usize>,
}

impl Headers {
    /// Finds them in the first bytes of a packet. `None` where [`upper_layer`] finds nothing, but for lengths: those
    /// are not compared with anything.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Self> {
        match head.first()? >> 4 {
            4 => {
                let header = head.first_chunk::<{ ipv4::HEADER_LEN }>()?;
                let len = usize::from(header[0] & 0x0f) * 4;
                let is_fragment = be16(header, 6) & 0x3fff != 0;
                let whole = (ipv4::HEADER_LEN..=head.len()).contains(&len) && !is_fragment;
                whole.then(|| Self {
                    is_ipv6: false,
                    protocol: header[9],
                    protocol_at: 9,
                    len,
                    packet_len: Some(usize::from(be16(header, 2))).filter(|len| *len > 0),
                })
            }
            6 => {
                let payload_len = be16(head.first_chunk::<{ ipv6::HEADER_LEN }>()?, 4);
                let walk = Walk::over(head)?;
                walk.fragment.is_none().then(|| Self {
                    is_ipv6: true,
                    protocol: walk.protocol,
                    protocol_at: walk.protocol_at,
                    len: walk.offset,
                    packet_len: (payload_len > 0).then(|| ipv6::HEADER_LEN + usize::from(payload_len)),
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_keep_their_family() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(MappedIp::from(v4).to_bits(), 0xffff_c000_0201);
        assert_eq!((MappedIp::from(v4).to_ip(), MappedIp::from(v6).to_ip()), (v4, v6));
        assert_eq!(MappedIp::from(v4).to_string(), "192.0.2.1");
        assert!(MappedIp::from(v4).is_ipv4() && !MappedIp::from(v6).is_ipv4());
    }

    /// An IPv6 header for `payload`, beginning with next header `next`.
    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[5] = payload.len() as u8;
        packet[6] = next;
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn extension_headers_are_followed() {
        let hop_by_hop = [43, 0, 0, 0, 0, 0, 0, 0];
        let routing = [60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let destination = [44, 0, 0, 0, 0, 0, 0, 0];
        let atomic_fragment = [17, 0, 0, 0, 1, 2, 3, 4];
        let packet = ipv6(
            0,
            &[&hop_by_hop[..], &routing, &destination, &atomic_fragment, &[9; 5]].concat(),
        );
        assert_eq!(
            upper_layer(&packet),
            Some(UpperLayer {
                is_ipv6: true,
                protocol: 17,
                offset: 80,
                len: 5
            })
        );
    }

    #[test]
    fn headers_are_found_without_the_rest_of_the_packet() {
        let destination = [6, 0, 0, 0, 0, 0, 0, 0];
        let mut packet = ipv6(60, &destination);
        let headers = |packet: &[u8]| Headers::find(packet).unwrap();
        let mut expected = Headers {
            is_ipv6: true,
            protocol: 6,
            protocol_at: 40,
            len: 48,
            packet_len: Some(48),
        };
        assert_eq!(headers(&packet), expected);
        packet[4..6].fill(0);
        expected.packet_len = None;
        assert_eq!(headers(&packet), expected);
        assert_eq!(Headers::find(&packet[..47]), None, "cut");
        let mut packet = vec![0x46, 0, 0x50, 0, 0, 0, 0x40, 0, 64, 17];
        packet.resize(24, 0);
        let expected = Headers {
            is_ipv6: false,
            protocol: 17,
            protocol_at: 9,
            len: 24,
            packet_len: Some(0x5000),
        };
        assert_eq!(headers(&packet), expected);
        assert_eq!(Headers::find(&packet[..23]), None, "cut in its options");
        packet[6] = 0x20;
        assert_eq!(Headers::find(&packet), None, "a fragment");
        packet[..7].copy_from_slice(&[0x44, 0, 0, 24, 0, 0, 0]);
        assert_eq!(Headers::find(&packet), None, "IHL 4");
    }

    #[test]
    fn what_cannot_be_followed_is_none() {
        assert_eq!(
            upper_layer(&ipv6(44, &[17, 0, 0, 1, 0, 0, 0, 0, 9, 9])),
            None,
            "more fragments"
        );
        assert_eq!(
            upper_layer(&ipv6(44, &[17, 0, 0, 8, 0, 0, 0, 0, 9, 9])),
            None,
            "later fragment"
        );
        assert_eq!(
            upper_layer(&ipv6(43, &[17, 0, 0, 1, 0, 0, 0, 0, 9, 9])),
            None,
            "segments left"
        );
        assert_eq!(
            upper_layer(&ipv6(0, &[17, 1, 0, 0, 0, 0, 0, 0, 9, 9])),
            None,
            "length past the end"
        );
        assert_eq!(upper_layer(&ipv6(0, &[17, 0, 0, 0])), None, "cut");
        assert_eq!(
            upper_layer(&ipv6(0, &[0, 0, 0, 0, 0, 0, 0, 0].repeat(20))),
            None,
            "endless chain"
        );
        assert_eq!(upper_layer(&[0x50; 60]), None, "version 5");
        assert_eq!(upper_layer(&[]), None);
    }
}
