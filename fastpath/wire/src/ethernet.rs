//! Ethernet II frames (IEEE 802.3 §3, without preamble and FCS).
//!
//! ```text
//!  0           6           12    14
//!  | dst MAC   | src MAC   | type | payload … |
//! ```

use core::fmt;

use crate::bytes::{be16, get, need, put, put16};
use crate::{MacAddr, WireError};

/// Bytes of an Ethernet header without tags.
pub const HEADER_LEN: usize = 14;

/// What follows an Ethernet header or a VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// Reverse ARP (RFC 903), which QEMU sends for a guest that has migrated.
    pub const RARP: Self = Self(0x8035);
    /// A customer tag follows (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
    /// A service tag follows (IEEE 802.1ad).
    pub const QINQ: Self = Self(0x88a8);
    /// A service tag follows, in the notation from before 802.1ad.
    pub const QINQ_OLD: Self = Self(0x9100);

    /// Whether it is a tag protocol identifier: a VLAN tag follows.
    #[inline]
    pub const fn is_tag(self) -> bool {
        // One comparison tells for IPv4 and ARP, most of what arrives.
        self.0 >= Self::VLAN.0 && matches!(self, Self::VLAN | Self::QINQ | Self::QINQ_OLD)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4 => f.write_str("IPv4"),
            Self::IPV6 => f.write_str("IPv6"),
            Self::ARP => f.write_str("ARP"),
            Self::RARP => f.write_str("RARP"),
            Self::VLAN => f.write_str("802.1Q"),
            Self::QINQ => f.write_str("802.1ad"),
            Self(other) => write!(f, "{other:#06x}"),
        }
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtherType({:#06x})", self.0)
    }
}

/// Destination and source of a frame as numbers in the form of [`MacAddr::to_u64`]: two loads and a shift each.
/// `None` when the frame is shorter than an Ethernet header.
#[inline]
pub fn addresses(frame: &[u8]) -> Option<(u64, u64)> {
    let header = frame.first_chunk::<HEADER_LEN>()?;
    let dst = u64::from_be_bytes(get(header, 0)) >> 16;
    // Loaded from byte 4: the two bytes before the source fall out of the mask.
    let src = u64::from_be_bytes(get(header, 4)) & 0xffff_ffff_ffff;
    Some((dst, src))
}

view! {
    /// An Ethernet frame.
    EthernetFrame
}

impl<T: AsRef<[u8]>> EthernetFrame<T> {
    /// Whether the header is there.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        need("Ethernet", HEADER_LEN, self.bytes().len())
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        MacAddr(get(self.bytes(), 0))
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> MacAddr {
        MacAddr(get(self.bytes(), 6))
    }

    /// What bytes 12 and 13 say: a protocol, or the TPID of the outermost tag.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(be16(self.bytes(), 12))
    }

    /// All after the header; begins with the rest of the outermost tag when there is one.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> EthernetFrame<T> {
    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, mac: MacAddr) {
        put(self.buffer.as_mut(), 0, mac.0);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, mac: MacAddr) {
        put(self.buffer.as_mut(), 6, mac.0);
    }

    /// Sets bytes 12 and 13.
    #[inline]
    pub fn set_ethertype(&mut self, ethertype: EtherType) {
        put16(self.buffer.as_mut(), 12, ethertype.0);
    }

    /// All after the header, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]>> fmt::Display for EthernetFrame<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.check_len() {
            Ok(()) => write!(f, "Ethernet {} > {} {}", self.src(), self.dst(), self.ethertype()),
            Err(e) => write!(f, "({e})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 16] = [
        1, 2, 3, 4, 5, 6, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf, 0x08, 0x00, 0x45, 0x00,
    ];

    #[test]
    fn reads_fields() {
        let frame = EthernetFrame::new_checked(&FRAME[..]).unwrap();
        assert_eq!(frame.dst(), MacAddr([1, 2, 3, 4, 5, 6]));
        assert_eq!(frame.src(), MacAddr([0xa, 0xb, 0xc, 0xd, 0xe, 0xf]));
        assert_eq!(frame.ethertype(), EtherType::IPV4);
        assert_eq!(frame.payload(), [0x45, 0]);
        assert_eq!(
            frame.to_string(),
            "Ethernet 0a:0b:0c:0d:0e:0f > 01:02:03:04:05:06 IPv4"
        );
    }

    #[test]
    fn writes_fields() {
        let mut frame = EthernetFrame::new_checked([0; 16]).unwrap();
        frame.set_dst(MacAddr([1, 2, 3, 4, 5, 6]));
        frame.set_src(MacAddr([0xa, 0xb, 0xc, 0xd, 0xe, 0xf]));
        frame.set_ethertype(EtherType::IPV4);
        frame.payload_mut()[0] = 0x45;
        assert_eq!(frame.into_inner(), FRAME);
    }

    #[test]
    fn thirteen_bytes_are_too_few() {
        assert_eq!(
            EthernetFrame::new_checked(&FRAME[..13]),
            Err(WireError::Truncated {
                layer: "Ethernet",
                need: 14,
                have: 13
            })
        );
        assert!(EthernetFrame::new_checked(&FRAME[..14]).is_ok());
        assert_eq!(addresses(&FRAME[..13]), None);
    }

    #[test]
    fn address_numbers_are_those_of_the_views() {
        assert_eq!(addresses(&FRAME), Some((0x0102_0304_0506, 0x0a0b_0c0d_0e0f)));
    }
}
