//! IPv4 (RFC 791; DSCP and ECN: RFC 2474, RFC 3168).
//!
//! ```text
//!  0       1      2            4     6              8     9       10      12     16     20
//!  | 4|IHL | TOS  | total len  | id  | flags|offset | TTL | proto | csum  | src  | dst  | options … | payload …
//! ```

use core::fmt;
use core::net::Ipv4Addr;

use crate::bytes::{be16, be32, get, need, put, put16};
use crate::checksum;
use crate::{Dscp, WireError};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// "Don't fragment" in the flags and offset word.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in the flags and offset word.
pub const MORE_FRAGMENTS: u16 = 0x2000;

view! {
    /// An IPv4 packet, possibly followed by padding.
    Ipv4Packet
}

impl<T: AsRef<[u8]>> Ipv4Packet<T> {
    /// Whether it is version 4 and header length ≤ total length ≤ bytes. The checksum is not looked at.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        let have = self.bytes().len();
        need("IPv4 header", HEADER_LEN, have)?;
        let malformed = |field, value, expected| WireError::Malformed {
            layer: "IPv4",
            field,
            value,
            expected,
        };
        if self.version() != 4 {
            return Err(malformed("version", self.version().into(), "4"));
        }
        let (header_len, total_len) = (self.header_len(), usize::from(self.total_len()));
        if header_len < HEADER_LEN {
            return Err(malformed("IHL", header_len as u32 / 4, "5 to 15"));
        }
        if total_len < header_len {
            return Err(malformed(
                "total length",
                total_len as u32,
                "at least the header length",
            ));
        }
        need("IPv4 packet", total_len, have)
    }

    /// Version, 4.
    #[inline]
    pub fn version(&self) -> u8 {
        self.bytes()[0] >> 4
    }

    /// Bytes of the header with options.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[0] & 0x0f) * 4
    }

    /// The former TOS byte: DSCP and ECN.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.bytes()[1]
    }

    /// Differentiated services code point.
    #[inline]
    pub fn dscp(&self) -> Dscp {
        Dscp::from_low_bits(self.tos() >> 2)
    }

    /// The two bits of explicit congestion notification.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.tos() & 3
    }

    /// Bytes of header and payload.
    #[inline]
    pub fn total_len(&self) -> u16 {
        be16(self.bytes(), 2)
    }

    /// Identification.
    #[inline]
    pub fn identification(&self) -> u16 {
        be16(self.bytes(), 4)
    }

    /// The "don't fragment" bit.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        be16(self.bytes(), 6) & DONT_FRAGMENT != 0
    }

    /// The "more fragments" bit.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        be16(self.bytes(), 6) & MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in the original payload, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (be16(self.bytes(), 6) & 0x1fff) << 3
    }

    /// Whether the packet is a part of a larger one, the first part included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        be16(self.bytes(), 6) & 0x3fff != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes()[8]
    }

    /// Protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes()[9]
    }

    /// Header checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), 10)
    }

    /// Whether the header checksum is correct.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum::sum(self.header()).fold() == 0xffff
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<4>(self.bytes(), 12))
    }

    /// Source address, first byte most significant.
    #[inline]
    pub fn src_u32(&self) -> u32 {
        be32(self.bytes(), 12)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<4>(self.bytes(), 16))
    }

    /// Destination address, first byte most significant.
    #[inline]
    pub fn dst_u32(&self) -> u32 {
        be32(self.bytes(), 16)
    }

    /// The header with its options.
    #[inline]
    pub fn header(&self) -> &[u8] {
        self.bytes().get(..self.header_len()).unwrap_or_default()
    }

    /// The options, padded to a multiple of four bytes.
    #[inline]
    pub fn options(&self) -> &[u8] {
        self.bytes()
            .get(HEADER_LEN..self.header_len())
            .unwrap_or_default()
    }

    /// What the header's lengths enclose; without padding.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.bytes()
            .get(self.header_len()..usize::from(self.total_len()))
            .unwrap_or_default()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4Packet<T> {
    /// Sets version 4 and the header length in bytes, a multiple of four up to 60.
    #[inline]
    pub fn set_version_and_header_len(&mut self, len: usize) {
        self.buffer.as_mut()[0] = 0x40 | (len / 4) as u8 & 0x0f;
    }

    /// Sets DSCP and ECN in one byte.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        self.buffer.as_mut()[1] = tos;
    }

    /// Sets the DSCP, leaves ECN.
    #[inline]
    pub fn set_dscp(&mut self, dscp: Dscp) {
        self.set_tos(dscp.get() << 2 | self.ecn());
    }

    /// Sets the bytes of header and payload.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        put16(self.buffer.as_mut(), 2, len);
    }

    /// Sets the identification.
    #[inline]
    pub fn set_identification(&mut self, id: u16) {
        put16(self.buffer.as_mut(), 4, id);
    }

    /// Sets flags and offset in one word: [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`], offset in units of 8 bytes.
    #[inline]
    pub fn set_flags_and_offset(&mut self, word: u16) {
        put16(self.buffer.as_mut(), 6, word);
    }

    /// Sets the time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.buffer.as_mut()[8] = ttl;
    }

    /// Sets the protocol number.
    #[inline]
    pub fn set_protocol(&mut self, protocol: u8) {
        self.buffer.as_mut()[9] = protocol;
    }

    /// Sets the checksum field to a value that the caller has computed.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.buffer.as_mut(), 10, checksum);
    }

    /// Computes the header checksum and writes it.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = checksum::checksum(self.header());
        self.set_checksum(checksum);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, address: Ipv4Addr) {
        put(self.buffer.as_mut(), 12, address.octets());
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv4Addr) {
        put(self.buffer.as_mut(), 16, address.octets());
    }

    /// What the header's lengths enclose, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.header_len()..usize::from(self.total_len());
        self.buffer.as_mut().get_mut(range).unwrap_or_default()
    }
}

impl<T: AsRef<[u8]>> fmt::Display for Ipv4Packet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(e) = self.check_len() {
            return write!(f, "({e})");
        }
        write!(
            f,
            "IPv4 {} > {} proto {} ttl {}",
            self.src(),
            self.dst(),
            self.protocol(),
            self.ttl()
        )?;
        write!(
            f,
            " dscp {} ecn {} len {}",
            self.dscp(),
            self.ecn(),
            self.total_len()
        )?;
        if self.is_fragment() {
            let more = if self.more_fragments() { "+" } else { "" };
            write!(
                f,
                " frag {}@{}{more}",
                self.identification(),
                self.fragment_offset()
            )?;
        }
        if !self.verify_checksum() {
            write!(f, " (wrong checksum {:#06x})", self.checksum())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings, reason = "literals are grouped by field")]
mod tests {
    use super::*;

    /// The example of Wikipedia's "Internet checksum" article: 172.16.10.99 → 172.16.10.12, checksum 0xb1e6.
    const PACKET: [u8; 24] = [
        0x45, 0x00, 0x00, 0x18, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0x00, 0x00, 0xac, 0x10, 0x0a, 0x63, 0xac,
        0x10, 0x0a, 0x0c, 1, 2, 3, 4,
    ];

    fn packet() -> Ipv4Packet<[u8; 24]> {
        let mut packet = Ipv4Packet::new_checked(PACKET).unwrap();
        packet.fill_checksum();
        packet
    }

    #[test]
    fn reads_fields() {
        let packet = packet();
        assert!(packet.verify_checksum());
        assert_eq!(
            (packet.version(), packet.header_len(), packet.total_len()),
            (4, 20, 24)
        );
        assert_eq!(
            (packet.identification(), packet.ttl(), packet.protocol()),
            (0x1c46, 64, 6)
        );
        assert_eq!(
            (
                packet.dont_fragment(),
                packet.more_fragments(),
                packet.is_fragment()
            ),
            (true, false, false)
        );
        assert_eq!(packet.src(), Ipv4Addr::new(172, 16, 10, 99));
        assert_eq!(packet.dst_u32(), 0xac10_0a0c);
        assert_eq!((packet.options(), packet.payload()), (&[][..], &[1, 2, 3, 4][..]));
        assert_eq!(
            packet.to_string(),
            "IPv4 172.16.10.99 > 172.16.10.12 proto 6 ttl 64 dscp 0 ecn 0 len 24"
        );
    }

    #[test]
    fn writes_fields() {
        let mut packet = Ipv4Packet::new_unchecked([0; 24]);
        packet.set_version_and_header_len(24);
        packet.set_tos(0b101110_01);
        packet.set_total_len(24);
        packet.set_identification(7);
        packet.set_flags_and_offset(MORE_FRAGMENTS | 3);
        packet.set_ttl(9);
        packet.set_protocol(17);
        packet.set_src(Ipv4Addr::new(10, 0, 0, 1));
        packet.set_dst(Ipv4Addr::new(10, 0, 0, 2));
        packet.fill_checksum();
        packet.check_len().unwrap();
        assert!(packet.verify_checksum() && packet.is_fragment() && packet.more_fragments());
        assert_eq!(
            (packet.dscp().get(), packet.ecn(), packet.fragment_offset()),
            (46, 1, 24)
        );
        assert_eq!((packet.options().len(), packet.payload().len()), (4, 0));
        packet.set_dscp(Dscp::MIN);
        assert_eq!(packet.tos(), 1);
        assert!(!packet.verify_checksum());
    }

    #[test]
    fn padding_is_not_payload() {
        let padded = [&packet().into_inner()[..], &[0; 22]].concat();
        assert_eq!(Ipv4Packet::new_checked(padded).unwrap().payload(), [1, 2, 3, 4]);
    }

    #[test]
    fn refuses_what_is_not_a_packet() {
        let with = |at: usize, value: u8| {
            let mut bytes = PACKET;
            bytes[at] = value;
            Ipv4Packet::new_checked(bytes).unwrap_err().to_string()
        };
        assert_eq!(
            with(0, 0x65),
            "IPv4 field version is 6, which is not valid: it must be 4"
        );
        assert_eq!(
            with(0, 0x44),
            "IPv4 field IHL is 4, which is not valid: it must be 5 to 15"
        );
        assert_eq!(
            with(0, 0x47),
            "IPv4 field total length is 24, which is not valid: it must be at least the header length"
        );
        assert_eq!(
            with(3, 25),
            "IPv4 packet needs 25 bytes but only 24 are there: the packet was cut short or a length field lies"
        );
        assert!(Ipv4Packet::new_checked(&PACKET[..19]).is_err());
    }

    #[test]
    fn a_length_that_lies_after_the_check_reads_as_empty() {
        let mut packet = packet();
        packet.set_total_len(1000);
        assert_eq!(packet.payload().len(), 0);
        assert_eq!(packet.payload_mut().len(), 0);
        packet.set_version_and_header_len(60);
        assert_eq!((packet.header().len(), packet.options().len()), (0, 0));
    }
}
