//! IPv6 (RFC 8200).
//!
//! ```text
//!  0                        4         6      7      8      24     40
//!  | 6|traffic class|label  | payload | next | hops | src  | dst  | extension headers, payload …
//! ```

use core::fmt;
use core::net::Ipv6Addr;

use crate::bytes::{be16, be32, get, need, put, put16, put32};
use crate::{Dscp, WireError};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Whether a next-header value announces an extension header (IANA "IPv6 Extension Header Types") rather than an upper
/// layer. ESP counts: what is behind it can't be read.
#[inline]
pub const fn is_extension_header(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | 50 | 51 | DESTINATION_OPTIONS | 135 | 139 | 140 | 253 | 254
    )
}

view! {
    /// An IPv6 packet, possibly followed by padding.
    Ipv6Packet
}

impl<T: AsRef<[u8]>> Ipv6Packet<T> {
    /// Whether it is version 6 and the payload length fits the bytes. A jumbogram (RFC 2675) reads as having no payload.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        let have = self.bytes().len();
        need("IPv6 header", HEADER_LEN, have)?;
        if self.version() != 6 {
            let value = self.version().into();
            return Err(WireError::Malformed {
                layer: "IPv6",
                field: "version",
                value,
                expected: "6",
            });
        }
        need("IPv6 packet", HEADER_LEN + usize::from(self.payload_len()), have)
    }

    /// Version, 6.
    #[inline]
    pub fn version(&self) -> u8 {
        self.bytes()[0] >> 4
    }

    /// DSCP and ECN in one byte.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (be16(self.bytes(), 0) >> 4) as u8
    }

    /// Differentiated services code point.
    #[inline]
    pub fn dscp(&self) -> Dscp {
        Dscp::from_low_bits(self.traffic_class() >> 2)
    }

    /// The two bits of explicit congestion notification.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class() & 3
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        be32(self.bytes(), 0) & 0xf_ffff
    }

    /// Bytes after the fixed header.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        be16(self.bytes(), 4)
    }

    /// What follows the fixed header: see [`is_extension_header`] and [`protocol`](crate::ip::protocol).
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.bytes()[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes()[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from(get::<16>(self.bytes(), 8))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from(get::<16>(self.bytes(), 24))
    }

    /// What the payload length encloses, extension headers included; without padding.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.bytes()
            .get(HEADER_LEN..HEADER_LEN + usize::from(self.payload_len()))
            .unwrap_or_default()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6Packet<T> {
    /// Sets version 6, traffic class and flow label (its low 20 bits).
    #[inline]
    pub fn set_version_class_label(&mut self, traffic_class: u8, flow_label: u32) {
        let word = 6 << 28 | u32::from(traffic_class) << 20 | flow_label & 0xf_ffff;
        put32(self.buffer.as_mut(), 0, word);
    }

    /// Sets DSCP and ECN in one byte, leaves the flow label.
    #[inline]
    pub fn set_traffic_class(&mut self, traffic_class: u8) {
        self.set_version_class_label(traffic_class, self.flow_label());
    }

    /// Sets the bytes after the fixed header.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        put16(self.buffer.as_mut(), 4, len);
    }

    /// Sets what follows the fixed header.
    #[inline]
    pub fn set_next_header(&mut self, next_header: u8) {
        self.buffer.as_mut()[6] = next_header;
    }

    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        self.buffer.as_mut()[7] = hop_limit;
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, address: Ipv6Addr) {
        put(self.buffer.as_mut(), 8, address.octets());
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv6Addr) {
        put(self.buffer.as_mut(), 24, address.octets());
    }

    /// What the payload length encloses, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = HEADER_LEN..HEADER_LEN + usize::from(self.payload_len());
        self.buffer.as_mut().get_mut(range).unwrap_or_default()
    }
}

impl<T: AsRef<[u8]>> fmt::Display for Ipv6Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(e) = self.check_len() {
            return write!(f, "({e})");
        }
        write!(
            f,
            "IPv6 {} > {} next {} hops {}",
            self.src(),
            self.dst(),
            self.next_header(),
            self.hop_limit()
        )?;
        write!(
            f,
            " dscp {} ecn {} label {:#x}",
            self.dscp(),
            self.ecn(),
            self.flow_label()
        )?;
        write!(f, " len {}", self.payload_len())
    }
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings, reason = "literals are grouped by field")]
mod tests {
    use super::*;

    fn packet() -> Ipv6Packet<[u8; 44]> {
        let mut packet = Ipv6Packet::new_unchecked([7; 44]);
        packet.set_version_class_label(0b101110_10, 0xfff1_2345);
        packet.set_payload_len(3);
        packet.set_next_header(17);
        packet.set_hop_limit(64);
        packet.set_src("2001:db8::1".parse().unwrap());
        packet.set_dst("2001:db8::2".parse().unwrap());
        packet
    }

    #[test]
    fn the_first_word_is_laid_out_as_in_rfc_8200() {
        assert_eq!(packet().into_inner()[..8], [0x6b, 0xa1, 0x23, 0x45, 0, 3, 17, 64]);
    }

    #[test]
    fn fields_round_trip() {
        let mut packet = packet();
        packet.check_len().unwrap();
        assert_eq!(
            (packet.dscp().get(), packet.ecn(), packet.flow_label()),
            (46, 2, 0x1_2345)
        );
        assert_eq!((packet.next_header(), packet.hop_limit()), (17, 64));
        assert_eq!(packet.payload(), [7, 7, 7]);
        assert_eq!(
            packet.to_string(),
            "IPv6 2001:db8::1 > 2001:db8::2 next 17 hops 64 dscp 46 ecn 2 label 0x12345 len 3"
        );
        packet.set_traffic_class(0);
        assert_eq!((packet.traffic_class(), packet.flow_label()), (0, 0x1_2345));
        packet.set_payload_len(900);
        assert_eq!(packet.payload().len(), 0);
        assert_eq!(packet.payload_mut().len(), 0);
    }

    #[test]
    fn refuses_what_is_not_a_packet() {
        let mut bytes = packet().into_inner();
        bytes[5] = 5;
        assert_eq!(
            Ipv6Packet::new_checked(&bytes),
            Err(WireError::Truncated {
                layer: "IPv6 packet",
                need: 45,
                have: 44
            })
        );
        bytes[0] = 0x45;
        assert!(matches!(
            Ipv6Packet::new_checked(&bytes),
            Err(WireError::Malformed { field: "version", .. })
        ));
        assert!(Ipv6Packet::new_checked(&bytes[..39]).is_err());
    }

    #[test]
    fn extension_headers_are_told_from_upper_layers() {
        for next in [0, 43, 44, 50, 51, 60] {
            assert!(is_extension_header(next), "{next}");
        }
        for next in [1, 6, 17, 58, 59, 132] {
            assert!(!is_extension_header(next), "{next}");
        }
    }
}
