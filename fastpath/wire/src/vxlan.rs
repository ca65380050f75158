//! VXLAN (RFC 7348).
//!
//! ```text
//!  0                4     7          8
//!  | flags|reserved | VNI | reserved | inner Ethernet frame …       flags: 0x08 = I, "the VNI is valid"
//! ```

use core::fmt;
use core::ops::Deref;

use crate::bytes::{be16, be32, get, need, put};
use crate::checksum;
use crate::ip::protocol;
use crate::udp::{self, Datagram, OuterError, udp_datagram};
use crate::{MappedIp, Vni, WireError, ethernet, ipv4};

/// Bytes of a VXLAN header.
pub const HEADER_LEN: usize = 8;
/// The UDP port that IANA assigned.
pub const PORT: u16 = 4789;
/// The I flag.
const VNI_VALID: u8 = 0x08;

/// The header for a VNI, reserved bits zero as a sender must have them (RFC 7348 §5).
#[inline]
pub const fn header(vni: Vni) -> [u8; HEADER_LEN] {
    let [a, b, c] = vni.to_be_bytes();
    [VNI_VALID, 0, 0, 0, a, b, c, 0]
}

view! {
    /// A VXLAN packet: the payload of a UDP datagram.
    VxlanPacket
}

impl<T: AsRef<[u8]>> VxlanPacket<T> {
    /// Whether the header is there and has its I flag set. Reserved bits are ignored (RFC 7348 §5).
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        need("VXLAN", HEADER_LEN, self.bytes().len())?;
        let flags = self.bytes()[0];
        if flags & VNI_VALID == 0 {
            let value = flags.into();
            return Err(WireError::Malformed {
                layer: "VXLAN",
                field: "flags",
                value,
                expected: "with I (0x08) set",
            });
        }
        Ok(())
    }

    /// VXLAN network identifier.
    #[inline]
    pub fn vni(&self) -> Vni {
        Vni::from_be_bytes(get(self.bytes(), 4))
    }

    /// The encapsulated Ethernet frame.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> VxlanPacket<T> {
    /// Writes the whole header.
    #[inline]
    pub fn set_vni(&mut self, vni: Vni) {
        put(self.buffer.as_mut(), 0, header(vni));
    }

    /// The encapsulated Ethernet frame, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.as_mut()[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]>> fmt::Display for VxlanPacket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.check_len() {
            Ok(()) => write!(f, "VXLAN vni {}", self.vni()),
            Err(e) => write!(f, "({e})"),
        }
    }
}

/// A VXLAN packet within a frame. Offsets count from the start of the frame. Dereferences to its [`Datagram`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The datagram that carries it.
    pub datagram: Datagram,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Where the encapsulated Ethernet frame begins.
    pub inner_offset: usize,
    /// Its length by the UDP length, at least an Ethernet header; padding of the outer frame is not part of it.
    pub inner_len: usize,
}

impl Deref for Outer {
    type Target = Datagram;

    #[inline]
    fn deref(&self) -> &Datagram {
        &self.datagram
    }
}

/// Takes apart the VXLAN packet behind the IP header at `l3_offset` of a frame: [`udp_datagram`], then the VXLAN header.
/// Which UDP port is VXLAN is for the caller to know: to tell other traffic from broken VXLAN, call [`udp_datagram`],
/// look at the port, then [`Outer::from_datagram`].
#[inline(always)]
pub fn vxlan_datagram(frame: &[u8], l3_offset: usize) -> Result<Outer, OuterError> {
    Outer::from_datagram(frame, udp_datagram(frame, l3_offset)?)
}

/// A VXLAN packet of the usual shape: its frame is untagged and its IPv4 header has no options. The encapsulated frame
/// begins at [`PlainOuter::LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainOuter {
    /// Source address.
    pub src: MappedIp,
    /// Destination address.
    pub dst: MappedIp,
    /// Destination port.
    pub dst_port: u16,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Bytes of the encapsulated frame, at least an Ethernet header.
    pub inner_len: usize,
}

impl PlainOuter {
    /// Bytes of Ethernet, IPv4, UDP and VXLAN headers.
    pub const LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;

    /// Makes all the checks of [`vxlan_datagram`] at fixed offsets: a third of its instructions. None means only that
    /// the packet is not of this shape: [`udp_datagram_of`](crate::udp::udp_datagram_of) tells what it is.
    /// `frame_len` is the whole frame's, of which `head` may be the first segment.
    #[inline(always)]
    pub fn parse(head: &[u8], frame_len: usize) -> Option<Self> {
        let h = head.first_chunk::<{ Self::LEN }>()?;
        // EtherType, version and IHL; then flags, offset and protocol.
        let shape = be32(h, 12) & 0xffff_ff00 == 0x0800_4500
            && be16(h, 20) & 0x3fff == 0
            && h[23] == protocol::UDP
            && h[42] & VNI_VALID != 0;
        let (ip_len, udp_len) = (usize::from(be16(h, 16)), usize::from(be16(h, 38)));
        let headers = udp::HEADER_LEN + HEADER_LEN;
        let lengths = ethernet::HEADER_LEN + ip_len <= frame_len
            && ipv4::HEADER_LEN + udp_len <= ip_len
            && headers + ethernet::HEADER_LEN <= udp_len;
        (shape && lengths && checksum::ipv4_header_sums_up(&get(h, 14))).then(|| Self {
            src: MappedIp::from_v4_bits(be32(h, 26)),
            dst: MappedIp::from_v4_bits(be32(h, 30)),
            dst_port: be16(h, 36),
            vni: Vni::from_be_bytes(get(h, 46)),
            inner_len: udp_len - headers,
        })
    }
}

impl Outer {
    /// Reads the VXLAN header in the payload of a datagram that [`udp_datagram`] found in `frame`, or
    /// [`udp_datagram_of`](crate::udp::udp_datagram_of) in its first bytes.
    #[inline(always)]
    pub fn from_datagram(frame: &[u8], datagram: Datagram) -> Result<Self, OuterError> {
        let payload = frame
            .get(datagram.payload_offset..)
            .ok_or(OuterError::Truncated)?;
        if datagram.payload_len < HEADER_LEN {
            return Err(OuterError::VxlanTruncated);
        }
        let header = payload
            .first_chunk::<HEADER_LEN>()
            .ok_or(OuterError::VxlanTruncated)?;
        if header[0] & VNI_VALID == 0 {
            return Err(OuterError::NoVni);
        }
        let inner_len = datagram.payload_len - HEADER_LEN;
        if inner_len < ethernet::HEADER_LEN {
            return Err(OuterError::InnerTruncated);
        }
        let vni = Vni::from_be_bytes(get(header, 4));
        Ok(Self {
            datagram,
            vni,
            inner_offset: datagram.payload_offset + HEADER_LEN,
            inner_len,
        })
    }
}
