//! ICMP for IPv4 (RFC 792) and the error that path MTU discovery lives on (RFC 1191).
//!
//! ```text
//!  0      1      2      4               8
//!  | type | code | csum | rest of header | data …        echo: id, sequence · fragmentation needed: 0, next-hop MTU
//! ```

use core::fmt;
use core::net::Ipv4Addr;

use crate::WireError;
use crate::bytes::{be16, need, put16};
use crate::checksum;
use crate::ip::protocol;
use crate::ipv4::{self, DONT_FRAGMENT, Ipv4Packet};

/// Bytes of an ICMP header.
pub const HEADER_LEN: usize = 8;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Code of "destination unreachable": fragmentation needed and DF set.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// The most bytes of an error packet, IP header included (RFC 1812 §4.3.2.3).
pub const MAX_ERROR_LEN: usize = 576;

view! {
    /// An ICMP message for IPv4: the payload of an IPv4 packet.
    Icmpv4Packet
}

impl<T: AsRef<[u8]>> Icmpv4Packet<T> {
    /// Whether the header is there.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        need("ICMP", HEADER_LEN, self.bytes().len())
    }

    /// Type.
    #[inline]
    pub fn icmp_type(&self) -> u8 {
        self.bytes()[0]
    }

    /// Code, by type.
    #[inline]
    pub fn code(&self) -> u8 {
        self.bytes()[1]
    }

    /// Checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), 2)
    }

    /// Whether the checksum over all bytes is correct; the bytes must not include padding.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum::sum(self.bytes()).fold() == 0xffff
    }

    /// Identifier of an echo message.
    #[inline]
    pub fn echo_id(&self) -> u16 {
        be16(self.bytes(), 4)
    }

    /// Sequence number of an echo message.
    #[inline]
    pub fn echo_sequence(&self) -> u16 {
        be16(self.bytes(), 6)
    }

    /// The MTU of the next hop in "fragmentation needed"; 0 from routers older than RFC 1191.
    #[inline]
    pub fn next_hop_mtu(&self) -> u16 {
        be16(self.bytes(), 6)
    }

    /// All after the header: echo data, or the packet that an error quotes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv4Packet<T> {
    /// Sets type and code.
    #[inline]
    pub fn set_type_and_code(&mut self, icmp_type: u8, code: u8) {
        self.buffer.as_mut()[..2].copy_from_slice(&[icmp_type, code]);
    }

    /// Sets identifier and sequence number of an echo message.
    #[inline]
    pub fn set_echo(&mut self, id: u16, sequence: u16) {
        put16(self.buffer.as_mut(), 4, id);
        put16(self.buffer.as_mut(), 6, sequence);
    }

    /// Sets the next-hop MTU of "fragmentation needed".
    #[inline]
    pub fn set_next_hop_mtu(&mut self, mtu: u16) {
        put16(self.buffer.as_mut(), 4, 0);
        put16(self.buffer.as_mut(), 6, mtu);
    }

    /// Computes the checksum over all bytes and writes it.
    #[inline]
    pub fn fill_checksum(&mut self) {
        put16(self.buffer.as_mut(), 2, 0);
        let checksum = checksum::checksum(self.bytes());
        put16(self.buffer.as_mut(), 2, checksum);
    }
}

impl<T: AsRef<[u8]>> fmt::Display for Icmpv4Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(e) = self.check_len() {
            return write!(f, "({e})");
        }
        match (self.icmp_type(), self.code()) {
            (ECHO_REQUEST, 0) => write!(f, "ICMP echo request {}/{}", self.echo_id(), self.echo_sequence()),
            (ECHO_REPLY, 0) => write!(f, "ICMP echo reply {}/{}", self.echo_id(), self.echo_sequence()),
            (UNREACHABLE, FRAGMENTATION_NEEDED) => {
                write!(f, "ICMP fragmentation needed mtu {}", self.next_hop_mtu())
            }
            (icmp_type, code) => write!(f, "ICMP type {icmp_type} code {code}"),
        }
    }
}

/// Whether an IPv4 packet may be answered with an error (RFC 1122 §3.2.2): never an error about an error, about a later
/// fragment, or to somebody who is not one host.
pub fn may_be_answered_with_error(packet: &[u8]) -> bool {
    let Ok(ip) = Ipv4Packet::new_checked(packet) else {
        return false;
    };
    let one_host = |a: Ipv4Addr| !a.is_multicast() && !a.is_broadcast();
    let (src, dst) = (ip.src(), ip.dst());
    if !one_host(src)
        || src.is_unspecified()
        || src.is_loopback()
        || !one_host(dst)
        || ip.fragment_offset() != 0
    {
        return false;
    }
    // The ICMP messages that are queries, by IANA's list; an unknown type counts as an error.
    ip.protocol() != protocol::ICMP || matches!(ip.payload().first(), Some(0 | 8..=10 | 13..=18 | 42 | 43))
}

/// Writes the IPv4 packet "fragmentation needed" (RFC 1191 §4) that answers `original`, with its addresses exchanged
/// and the start of it quoted. Returns the packet's length.
///
/// `original` begins with its IPv4 header; bytes after its total length are not quoted. `out` holds as much as is to
/// be quoted, at least 28 bytes more than the quoted header with 8 bytes of payload; [`MAX_ERROR_LEN`] is the most
/// that is used. Ask [`may_be_answered_with_error`], and the original's DF bit, first.
pub fn emit_fragmentation_needed(out: &mut [u8], original: &[u8], mtu: u16) -> Result<usize, WireError> {
    let original = Ipv4Packet::new_checked(original)?;
    let total_len = usize::from(original.total_len());
    let headers = ipv4::HEADER_LEN + HEADER_LEN;
    need(
        "ICMP error",
        headers + total_len.min(original.header_len() + 8),
        out.len(),
    )?;
    let len = out.len().min(MAX_ERROR_LEN).min(headers + total_len);
    let out = &mut out[..len];
    let (header, message) = out.split_at_mut(ipv4::HEADER_LEN);
    message[HEADER_LEN..].copy_from_slice(&original.into_inner()[..len - headers]);
    let mut icmp = Icmpv4Packet::new_unchecked(message);
    icmp.set_type_and_code(UNREACHABLE, FRAGMENTATION_NEEDED);
    icmp.set_next_hop_mtu(mtu);
    icmp.fill_checksum();

    header.fill(0);
    let mut ip = Ipv4Packet::new_unchecked(header);
    ip.set_version_and_header_len(ipv4::HEADER_LEN);
    // Internetwork control, as RFC 1812 §4.3.2.5 asks for errors.
    ip.set_tos(0xc0);
    ip.set_total_len(len as u16);
    ip.set_flags_and_offset(DONT_FRAGMENT);
    ip.set_ttl(64);
    ip.set_protocol(protocol::ICMP);
    ip.set_src(original.dst());
    ip.set_dst(original.src());
    ip.fill_checksum();
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet of 1000 bytes, 10.0.0.1 → 10.0.0.2.
    fn original(protocol: u8) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.set_version_and_header_len(20);
        ip.set_total_len(1000);
        ip.set_flags_and_offset(DONT_FRAGMENT);
        ip.set_protocol(protocol);
        ip.set_src(Ipv4Addr::new(10, 0, 0, 1));
        ip.set_dst(Ipv4Addr::new(10, 0, 0, 2));
        ip.fill_checksum();
        bytes
    }

    #[test]
    fn echo_round_trips() {
        let mut icmp = Icmpv4Packet::new_checked([0; 10]).unwrap();
        icmp.set_type_and_code(ECHO_REQUEST, 0);
        icmp.set_echo(7, 9);
        icmp.fill_checksum();
        assert!(icmp.verify_checksum());
        assert_eq!(
            (icmp.echo_id(), icmp.echo_sequence(), icmp.payload()),
            (7, 9, &[0, 0][..])
        );
        // 0x0800 + 7 + 9 = 0x0810
        assert_eq!(icmp.checksum(), !0x0810);
        assert_eq!(icmp.to_string(), "ICMP echo request 7/9");
    }

    #[test]
    fn fragmentation_needed_quotes_the_original() {
        let original = original(17);
        let mut out = [0xee; 1500];
        let len = emit_fragmentation_needed(&mut out, &original, 1450).unwrap();
        assert_eq!(len, 576);
        assert!(out[len..].iter().all(|&b| b == 0xee));
        let ip = Ipv4Packet::new_checked(&out[..]).unwrap();
        assert!(ip.verify_checksum() && ip.dont_fragment());
        assert_eq!(
            (ip.src(), ip.dst()),
            (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1))
        );
        assert_eq!((ip.protocol(), ip.ttl(), ip.total_len()), (1, 64, 576));
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum());
        assert_eq!((icmp.icmp_type(), icmp.code(), icmp.next_hop_mtu()), (3, 4, 1450));
        assert_eq!(icmp.payload(), &original[..548]);
        assert_eq!(icmp.to_string(), "ICMP fragmentation needed mtu 1450");
    }

    #[test]
    fn the_least_quote_is_the_header_and_eight_bytes() {
        let original = original(17);
        assert_eq!(emit_fragmentation_needed(&mut [0; 56], &original, 1450), Ok(56));
        assert_eq!(
            emit_fragmentation_needed(&mut [0; 55], &original, 1450),
            Err(WireError::Truncated {
                layer: "ICMP error",
                need: 56,
                have: 55
            })
        );
    }

    #[test]
    fn some_packets_are_never_answered() {
        assert!(may_be_answered_with_error(&original(17)));
        let with = |at: usize, value: u8| {
            let mut packet = original(17);
            packet[at] = value;
            may_be_answered_with_error(&packet)
        };
        assert!(!with(7, 1), "later fragment");
        assert!(!with(12, 224), "from multicast");
        assert!(!with(12, 127), "from loopback");
        assert!(!with(16, 239), "to multicast");
        let mut icmp = original(1);
        icmp[20] = ECHO_REQUEST;
        assert!(may_be_answered_with_error(&icmp));
        icmp[20] = UNREACHABLE;
        assert!(!may_be_answered_with_error(&icmp));
        let mut unspecified = original(17);
        unspecified[12..16].fill(0);
        assert!(!may_be_answered_with_error(&unspecified));
        unspecified[12..16].fill(255);
        assert!(!may_be_answered_with_error(&unspecified));
        assert!(!may_be_answered_with_error(&[]));
    }
}
