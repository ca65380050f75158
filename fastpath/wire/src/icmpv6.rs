//! ICMP for IPv6 (RFC 4443). Neighbour discovery has its own file: [`ndp`](crate::ndp).
//!
//! ```text
//!  0      1      2      4               8
//!  | type | code | csum | rest of header | data …        echo: id, sequence · packet too big: MTU
//! ```

use core::fmt;
use core::net::Ipv6Addr;

use crate::WireError;
use crate::bytes::{be16, be32, need, put16, put32};
use crate::checksum;
use crate::ip::{self, Chain, protocol};
use crate::ipv6::{self, Ipv6Packet};

/// Bytes of an ICMPv6 header.
pub const HEADER_LEN: usize = 8;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: redirect (RFC 4861 §4.5), which like an error is never answered with one.
pub const REDIRECT: u8 = 137;
/// The most bytes of an error packet, IP header included: the least IPv6 MTU (RFC 4443 §2.4 c).
pub const MAX_ERROR_LEN: usize = 1280;

view! {
    /// An ICMPv6 message: the payload of an IPv6 packet.
    Icmpv6Packet
}

impl<T: AsRef<[u8]>> Icmpv6Packet<T> {
    /// Whether the header is there.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        need("ICMPv6", HEADER_LEN, self.bytes().len())
    }

    /// Type; below 128 for errors.
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

    /// Whether the checksum over pseudo header and all bytes is correct; the bytes must not include padding.
    #[inline]
    pub fn verify_checksum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        self.sum(src, dst).fold() == 0xffff
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

    /// The MTU in "packet too big".
    #[inline]
    pub fn mtu(&self) -> u32 {
        be32(self.bytes(), 4)
    }

    /// All after the header: echo data, or the packet that an error quotes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..]
    }

    fn sum(&self, src: Ipv6Addr, dst: Ipv6Addr) -> checksum::Sum {
        let len = self.bytes().len() as u32;
        checksum::pseudo_header_v6(src, dst, protocol::ICMPV6, len) + checksum::sum(self.bytes())
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Icmpv6Packet<T> {
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

    /// Sets the MTU of "packet too big".
    #[inline]
    pub fn set_mtu(&mut self, mtu: u32) {
        put32(self.buffer.as_mut(), 4, mtu);
    }

    /// Computes the checksum over pseudo header and all bytes and writes it.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv6Addr, dst: Ipv6Addr) {
        put16(self.buffer.as_mut(), 2, 0);
        let checksum = self.sum(src, dst).finish();
        put16(self.buffer.as_mut(), 2, checksum);
    }
}

impl<T: AsRef<[u8]>> fmt::Display for Icmpv6Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(e) = self.check_len() {
            return write!(f, "({e})");
        }
        match (self.icmp_type(), self.code()) {
            (ECHO_REQUEST, 0) => write!(
                f,
                "ICMPv6 echo request {}/{}",
                self.echo_id(),
                self.echo_sequence()
            ),
            (ECHO_REPLY, 0) => write!(f, "ICMPv6 echo reply {}/{}", self.echo_id(), self.echo_sequence()),
            (PACKET_TOO_BIG, 0) => write!(f, "ICMPv6 packet too big mtu {}", self.mtu()),
            (icmp_type, code) => write!(f, "ICMPv6 type {icmp_type} code {code}"),
        }
    }
}

/// Whether an IPv6 packet may be answered with "packet too big" (RFC 4443 §2.4 e): never an error or a redirect, never
/// a sender that is not one host. Unlike other errors this one also answers packets to multicast addresses (exception e.3).
/// A packet whose upper layer can't be found may be an error, so it is not answered.
pub fn may_be_answered_with_too_big(packet: &[u8]) -> bool {
    let Ok(ip) = Ipv6Packet::new_checked(packet) else {
        return false;
    };
    let src = ip.src();
    if src.is_unspecified() || src.is_multicast() || src.is_loopback() {
        return false;
    }
    match ip::follow_ipv6(packet) {
        // A later fragment doesn't show the type: it may be an error.
        Some(Chain {
            protocol: protocol::ICMPV6,
            fragment: Some(1..),
            ..
        }) => false,
        Some(Chain {
            protocol: protocol::ICMPV6,
            offset,
            len,
            ..
        }) => packet[offset..][..len]
            .first()
            .is_some_and(|&kind| kind >= 128 && kind != REDIRECT),
        Some(_) => true,
        None => false,
    }
}

/// Writes the IPv6 packet "packet too big" (RFC 4443 §3.2) that answers `original`, with its addresses exchanged and as
/// much of it quoted as fits. Returns the packet's length. Addressed to a multicast group, `original` can't lend its
/// destination as a source: pass `src` then, and always when the answer is to come from another address.
///
/// `original` begins with its IPv6 header; bytes after its payload length are not quoted. `out` holds at least 88 bytes
/// (the quoted fixed header) and 8 of its payload; [`MAX_ERROR_LEN`] is the most that is used. Ask
/// [`may_be_answered_with_too_big`] first.
pub fn emit_packet_too_big(
    out: &mut [u8],
    original: &[u8],
    mtu: u32,
    src: Option<Ipv6Addr>,
) -> Result<usize, WireError> {
    let original = Ipv6Packet::new_checked(original)?;
    let total_len = ipv6::HEADER_LEN + usize::from(original.payload_len());
    let headers = ipv6::HEADER_LEN + HEADER_LEN;
    need(
        "ICMPv6 error",
        headers + total_len.min(ipv6::HEADER_LEN + 8),
        out.len(),
    )?;
    let len = out.len().min(MAX_ERROR_LEN).min(headers + total_len);
    let out = &mut out[..len];
    let (src, dst) = (src.unwrap_or(original.dst()), original.src());
    let (header, message) = out.split_at_mut(ipv6::HEADER_LEN);
    message[HEADER_LEN..].copy_from_slice(&original.into_inner()[..len - headers]);
    let mut icmp = Icmpv6Packet::new_unchecked(message);
    icmp.set_type_and_code(PACKET_TOO_BIG, 0);
    icmp.set_mtu(mtu);
    icmp.fill_checksum(src, dst);

    let mut ip = Ipv6Packet::new_unchecked(header);
    ip.set_version_class_label(0, 0);
    ip.set_payload_len((len - ipv6::HEADER_LEN) as u16);
    ip.set_next_header(protocol::ICMPV6);
    ip.set_hop_limit(64);
    ip.set_src(src);
    ip.set_dst(dst);
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
    }

    /// A packet of 2040 bytes, ::1 → ::2 of the documentation prefix.
    fn original(next_header: u8) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..2040u32).map(|i| i as u8).collect();
        let mut ip = Ipv6Packet::new_unchecked(&mut bytes[..]);
        ip.set_version_class_label(0, 0);
        ip.set_payload_len(2000);
        ip.set_next_header(next_header);
        ip.set_src(address(1));
        ip.set_dst(address(2));
        bytes
    }

    #[test]
    fn echo_round_trips() {
        let mut icmp = Icmpv6Packet::new_checked([0; 9]).unwrap();
        icmp.set_type_and_code(ECHO_REPLY, 0);
        icmp.set_echo(7, 9);
        icmp.fill_checksum(address(1), address(2));
        assert!(icmp.verify_checksum(address(1), address(2)));
        assert!(!icmp.verify_checksum(address(1), address(3)));
        assert_eq!(
            (icmp.echo_id(), icmp.echo_sequence(), icmp.payload()),
            (7, 9, &[0][..])
        );
        assert_eq!(icmp.to_string(), "ICMPv6 echo reply 7/9");
    }

    #[test]
    fn packet_too_big_quotes_what_fits_the_least_mtu() {
        let original = original(17);
        let mut out = [0xee; 1500];
        let len = emit_packet_too_big(&mut out, &original, 1430, None).unwrap();
        assert_eq!(len, 1280);
        assert!(out[len..].iter().all(|&b| b == 0xee));
        let ip = Ipv6Packet::new_checked(&out[..]).unwrap();
        assert_eq!(
            (ip.src(), ip.dst(), ip.next_header(), ip.payload_len()),
            (address(2), address(1), 58, 1240)
        );
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum(ip.src(), ip.dst()));
        assert_eq!((icmp.icmp_type(), icmp.code(), icmp.mtu()), (2, 0, 1430));
        assert_eq!(icmp.payload(), &original[..1232]);
        assert_eq!(icmp.to_string(), "ICMPv6 packet too big mtu 1430");
        emit_packet_too_big(&mut out, &original, 1430, Some(address(9))).unwrap();
        assert_eq!(Ipv6Packet::new_checked(&out[..]).unwrap().src(), address(9));
        assert_eq!(emit_packet_too_big(&mut [0; 96], &original, 1430, None), Ok(96));
        assert!(emit_packet_too_big(&mut [0; 95], &original, 1430, None).is_err());
    }

    #[test]
    fn some_packets_are_never_answered() {
        assert!(may_be_answered_with_too_big(&original(17)));
        let mut icmp = original(58);
        for (kind, answered) in [
            (ECHO_REQUEST, true),
            (PACKET_TOO_BIG, false),
            (REDIRECT, false),
            (135, true),
        ] {
            icmp[40] = kind;
            assert_eq!(may_be_answered_with_too_big(&icmp), answered, "type {kind}");
        }
        let mut behind_options = original(0);
        behind_options[40..49].copy_from_slice(&[58, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(!may_be_answered_with_too_big(&behind_options));
        let mut fragment = original(44);
        fragment[40..49].copy_from_slice(&[17, 0, 0x10, 0x01, 0, 0, 0, 0, 1]);
        assert!(may_be_answered_with_too_big(&fragment), "a later fragment of UDP");
        fragment[40] = 58;
        fragment[48] = ECHO_REQUEST;
        assert!(
            !may_be_answered_with_too_big(&fragment),
            "a later fragment of something in ICMPv6"
        );
        fragment[42..44].copy_from_slice(&[0, 1]);
        fragment[48] = PACKET_TOO_BIG;
        assert!(
            !may_be_answered_with_too_big(&fragment),
            "the first fragment of an ICMPv6 error"
        );
        fragment[48] = ECHO_REQUEST;
        assert!(
            may_be_answered_with_too_big(&fragment),
            "the first fragment of an echo request"
        );
        let mut from_nobody = original(17);
        from_nobody[8..24].fill(0);
        assert!(!may_be_answered_with_too_big(&from_nobody));
        let mut to_group = original(17);
        to_group[24] = 0xff;
        assert!(may_be_answered_with_too_big(&to_group));
    }
}
