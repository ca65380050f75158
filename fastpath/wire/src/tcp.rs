//! TCP headers (RFC 9293 §3.1): what checksums, hashing and segmentation need.
//!
//! ```text
//!  0          2          4     8     12             14       16     18       20
//!  | src port | dst port | seq | ack | offset|flags | window | csum | urgent | options … | payload …
//! ```

use core::fmt;

use crate::WireError;
use crate::bytes::{be16, be32, need, put16, put32};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Offset of the checksum field from the start of the TCP header.
pub const CHECKSUM_OFFSET: usize = 16;

/// The eight control bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether all flags of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags without those of `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for Flags {
    /// One letter for each flag that is set, in tcpdump's manner.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in "FSRP.UEW".chars().enumerate() {
            if self.0 >> bit & 1 != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({self})")
    }
}

view! {
    /// A TCP segment.
    TcpPacket
}

impl<T: AsRef<[u8]>> TcpPacket<T> {
    /// Whether the header with its options is there.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        let have = self.bytes().len();
        need("TCP header", HEADER_LEN, have)?;
        let header_len = self.header_len();
        if header_len < HEADER_LEN {
            let value = header_len as u32 / 4;
            return Err(WireError::Malformed {
                layer: "TCP",
                field: "data offset",
                value,
                expected: "5 to 15",
            });
        }
        need("TCP header with options", header_len, have)
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16(self.bytes(), 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16(self.bytes(), 2)
    }

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        be32(self.bytes(), 4)
    }

    /// Acknowledgment number.
    #[inline]
    pub fn ack(&self) -> u32 {
        be32(self.bytes(), 8)
    }

    /// Bytes of the header with options.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[12] >> 4) * 4
    }

    /// Control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.bytes()[13])
    }

    /// Window, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        be16(self.bytes(), 14)
    }

    /// Checksum as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), CHECKSUM_OFFSET)
    }

    /// All after the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.bytes().get(self.header_len()..).unwrap_or_default()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> TcpPacket<T> {
    /// Sets the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        put16(self.buffer.as_mut(), 0, port);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        put16(self.buffer.as_mut(), 2, port);
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_seq(&mut self, seq: u32) {
        put32(self.buffer.as_mut(), 4, seq);
    }

    /// Sets the acknowledgment number.
    #[inline]
    pub fn set_ack(&mut self, ack: u32) {
        put32(self.buffer.as_mut(), 8, ack);
    }

    /// Sets the header length in bytes, a multiple of four up to 60; the reserved bits become zero.
    #[inline]
    pub fn set_header_len(&mut self, len: usize) {
        self.buffer.as_mut()[12] = ((len / 4) as u8) << 4;
    }

    /// Sets the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        self.buffer.as_mut()[13] = flags.0;
    }

    /// Sets the window.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        put16(self.buffer.as_mut(), 14, window);
    }

    /// Sets the checksum to a value that the caller has computed; see
    /// [`fill_l4_checksum`](crate::checksum::fill_l4_checksum).
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.buffer.as_mut(), CHECKSUM_OFFSET, checksum);
    }
}

impl<T: AsRef<[u8]>> fmt::Display for TcpPacket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Err(e) = self.check_len() {
            return write!(f, "({e})");
        }
        write!(
            f,
            "TCP {} > {} [{}]",
            self.src_port(),
            self.dst_port(),
            self.flags()
        )?;
        write!(
            f,
            " seq {} ack {} win {} len {}",
            self.seq(),
            self.ack(),
            self.window(),
            self.payload().len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip() {
        let mut packet = TcpPacket::new_unchecked([0; 26]);
        packet.set_src_port(1234);
        packet.set_dst_port(80);
        packet.set_seq(0x0102_0304);
        packet.set_ack(5);
        packet.set_header_len(24);
        packet.set_flags(Flags(Flags::SYN.0 | Flags::ACK.0));
        packet.set_window(6);
        packet.set_checksum(0xabcd);
        packet.check_len().unwrap();
        assert_eq!(
            (packet.checksum(), packet.header_len(), packet.payload()),
            (0xabcd, 24, &[0, 0][..])
        );
        assert_eq!(
            packet.to_string(),
            "TCP 1234 > 80 [S.] seq 16909060 ack 5 win 6 len 2"
        );
        assert!(packet.flags().contains(Flags::ACK) && !packet.flags().contains(Flags::FIN));
        assert_eq!(packet.flags().without(Flags::ACK), Flags::SYN);
        assert_eq!(
            packet.into_inner()[..16],
            [4, 0xd2, 0, 80, 1, 2, 3, 4, 0, 0, 0, 5, 0x60, 0x12, 0, 6]
        );
    }

    #[test]
    fn refuses_what_is_not_a_header() {
        assert!(TcpPacket::new_checked([0x50; 19]).is_err());
        assert!(matches!(
            TcpPacket::new_checked([0x40; 40]),
            Err(WireError::Malformed {
                field: "data offset",
                value: 4,
                ..
            })
        ));
        assert!(matches!(
            TcpPacket::new_checked([0xf0; 59]),
            Err(WireError::Truncated { need: 60, .. })
        ));
        let mut packet = TcpPacket::new_checked([0x50; 20]).unwrap();
        packet.set_header_len(60);
        assert!(packet.payload().is_empty());
    }
}
