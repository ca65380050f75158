//! UDP (RFC 768), and the way from an Ethernet frame's IP header to a UDP payload in one call.
//!
//! ```text
//!  0          2          4        6      8
//!  | src port | dst port | length | csum | payload …
//! ```

use core::fmt;
use core::net::Ipv6Addr;

use crate::bytes::{be16, be32, get, need, put16};
use crate::checksum::{self, Sum};
use crate::ip::{MappedIp, protocol};
use crate::{Dscp, WireError, ipv4, ipv6};

/// Bytes of a UDP header.
pub const HEADER_LEN: usize = 8;

view! {
    /// A UDP packet, possibly followed by padding.
    UdpPacket
}

impl<T: AsRef<[u8]>> UdpPacket<T> {
    /// Whether header ≤ length ≤ bytes.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        need("UDP header", HEADER_LEN, self.bytes().len())?;
        let len = usize::from(self.len());
        if len < HEADER_LEN {
            let value = len as u32;
            return Err(WireError::Malformed {
                layer: "UDP",
                field: "length",
                value,
                expected: "at least 8",
            });
        }
        need("UDP packet", len, self.bytes().len())
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

    /// Bytes of header and payload.
    #[inline]
    #[allow(
        clippy::len_without_is_empty,
        reason = "a header field; a UDP packet is never empty"
    )]
    pub fn len(&self) -> u16 {
        be16(self.bytes(), 4)
    }

    /// Checksum as it stands; 0 means none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), 6)
    }

    /// What the length encloses; without padding.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.bytes()
            .get(HEADER_LEN..usize::from(self.len()))
            .unwrap_or_default()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> UdpPacket<T> {
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

    /// Sets the bytes of header and payload.
    #[inline]
    pub fn set_len(&mut self, len: u16) {
        put16(self.buffer.as_mut(), 4, len);
    }

    /// Sets the checksum: a value that the caller has computed, or 0 for none. See
    /// [`fill_l4_checksum`](crate::checksum::fill_l4_checksum).
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.buffer.as_mut(), 6, checksum);
    }

    /// What the length encloses, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = HEADER_LEN..usize::from(self.len());
        self.buffer.as_mut().get_mut(range).unwrap_or_default()
    }
}

impl<T: AsRef<[u8]>> fmt::Display for UdpPacket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.check_len() {
            Ok(()) => write!(
                f,
                "UDP {} > {} len {}",
                self.src_port(),
                self.dst_port(),
                self.len()
            ),
            Err(e) => write!(f, "({e})"),
        }
    }
}

/// Why the bytes after an Ethernet header are not a UDP datagram, or not a VXLAN packet, that can be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OuterError {
    /// The frame ends before its IP or UDP header does.
    #[error("the frame ends within its IP or UDP header")]
    Truncated,
    /// The version is neither 4 nor 6.
    #[error("the IP version is neither 4 nor 6")]
    BadVersion,
    /// IHL below 5, or a length field smaller than its own header.
    #[error("an IP length field is smaller than the headers that it covers")]
    BadIpLength,
    /// The IP length exceeds the bytes of the frame.
    #[error("the IP length exceeds the frame: it was cut short on the way")]
    IpLengthBeyondFrame,
    /// The IPv4 header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    BadIpChecksum,
    /// A fragment; reassembly is the kernel's.
    #[error("the packet is a fragment: raise the underlay MTU")]
    Fragment,
    /// An IPv6 extension header other than a fragment header.
    #[error("the packet has an IPv6 extension header")]
    ExtensionHeader,
    /// Some other protocol than UDP.
    #[error("the packet is not UDP")]
    NotUdp,
    /// The UDP length is below 8 or exceeds the IP payload.
    #[error("the UDP length does not fit the IP length")]
    BadUdpLength,
    /// The UDP payload is shorter than a VXLAN header.
    #[error("the UDP payload is shorter than a VXLAN header")]
    VxlanTruncated,
    /// The I flag is clear: no valid VNI (RFC 7348 §5).
    #[error("the VXLAN header has no valid VNI (I flag clear)")]
    NoVni,
    /// The inner frame is shorter than an Ethernet header.
    #[error("the encapsulated frame is shorter than an Ethernet header")]
    InnerTruncated,
}

/// A UDP datagram within a frame. Offsets count from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Source address.
    pub src: MappedIp,
    /// Destination address.
    pub dst: MappedIp,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// DSCP and ECN in one byte.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// UDP checksum as it stands, not verified; 0 means none.
    pub udp_checksum: u16,
    /// Where the payload begins; the UDP header is the 8 bytes before.
    pub payload_offset: usize,
    /// Bytes of payload by the UDP length; padding is not among them.
    pub payload_len: usize,
}

impl Datagram {
    /// Differentiated services code point.
    #[inline]
    pub const fn dscp(&self) -> Dscp {
        Dscp::from_low_bits(self.tos >> 2)
    }

    /// The two bits of explicit congestion notification.
    #[inline]
    pub const fn ecn(&self) -> u8 {
        self.tos & 3
    }

    /// Whether the UDP checksum is correct; also true when there is none. `frame` is what the datagram was found in.
    pub fn verify_udp_checksum(&self, frame: &[u8]) -> bool {
        if self.udp_checksum == 0 {
            return true;
        }
        let len = HEADER_LEN + self.payload_len;
        let Some(udp) = self
            .payload_offset
            .checked_sub(HEADER_LEN)
            .and_then(|at| frame.get(at..at + len))
        else {
            return false;
        };
        let address = |ip: MappedIp| match ip.is_ipv4() {
            true => Sum::of_u32(ip.to_bits() as u32),
            false => checksum::sum(&ip.to_bits().to_be_bytes()),
        };
        // The length came from a 16-bit field.
        let pseudo_header = Sum::of_word(len as u16) + Sum::of_word(protocol::UDP.into());
        (address(self.src) + address(self.dst) + pseudo_header + checksum::sum(udp)).fold() == 0xffff
    }
}

/// Finds the UDP datagram behind the IP header at `l3_offset` of an Ethernet frame and checks every length on the way,
/// the IPv4 header checksum, and that it is no fragment. The frame may end with padding. The UDP checksum is left to
/// [`Datagram::verify_udp_checksum`], addresses and ports to the caller.
///
/// Always inlined: out of line, the result of about 100 bytes goes through memory, which costs as much as the parsing.
#[inline(always)]
pub fn udp_datagram(frame: &[u8], l3_offset: usize) -> Result<Datagram, OuterError> {
    udp_datagram_of(frame, l3_offset, frame.len())
}

/// The same for a frame of which only the first bytes are at hand (the first segment of a chained one): all headers
/// must be in `head`, lengths are checked against `frame_len`.
#[inline(always)]
pub fn udp_datagram_of(head: &[u8], l3_offset: usize, frame_len: usize) -> Result<Datagram, OuterError> {
    let packet = head.get(l3_offset..).ok_or(OuterError::Truncated)?;
    let packet_len = frame_len.saturating_sub(l3_offset);
    match packet.first().ok_or(OuterError::Truncated)? >> 4 {
        4 => over_ipv4(packet, packet_len, l3_offset),
        6 => over_ipv6(packet, packet_len, l3_offset),
        _ => Err(OuterError::BadVersion),
    }
}

#[inline(always)]
fn over_ipv4(packet: &[u8], packet_len: usize, l3_offset: usize) -> Result<Datagram, OuterError> {
    let header = packet
        .first_chunk::<{ ipv4::HEADER_LEN }>()
        .ok_or(OuterError::Truncated)?;
    let total_len = usize::from(be16(header, 2));
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < ipv4::HEADER_LEN || total_len < header_len {
        return Err(OuterError::BadIpLength);
    }
    if total_len > packet_len {
        return Err(OuterError::IpLengthBeyondFrame);
    }
    let header_sum = if header_len == ipv4::HEADER_LEN {
        // Five loads of a fixed header: no loop, no bounds check. In the machine's byte order, because the sum that
        // a correct header has, 0xffff, reads the same in both.
        (0..5).fold(Sum::ZERO, |sum, i| {
            sum + Sum::of_u32(u32::from_ne_bytes(get(header, 4 * i)))
        })
    } else {
        checksum::sum(packet.get(..header_len).ok_or(OuterError::Truncated)?)
    };
    if header_sum.fold() != 0xffff {
        return Err(OuterError::BadIpChecksum);
    }
    if be16(header, 6) & 0x3fff != 0 {
        return Err(OuterError::Fragment);
    }
    if header[9] != protocol::UDP {
        return Err(OuterError::NotUdp);
    }
    let payload = packet.get(header_len..).ok_or(OuterError::Truncated)?;
    udp(payload, total_len - header_len, l3_offset + header_len, || Ips {
        src: MappedIp::from_v4_bits(be32(header, 12)),
        dst: MappedIp::from_v4_bits(be32(header, 16)),
        tos: header[1],
        ttl: header[8],
    })
}

#[inline(always)]
fn over_ipv6(packet: &[u8], packet_len: usize, l3_offset: usize) -> Result<Datagram, OuterError> {
    let header = packet
        .first_chunk::<{ ipv6::HEADER_LEN }>()
        .ok_or(OuterError::Truncated)?;
    let payload_len = usize::from(be16(header, 4));
    if ipv6::HEADER_LEN + payload_len > packet_len {
        return Err(OuterError::IpLengthBeyondFrame);
    }
    let payload = &packet[ipv6::HEADER_LEN..];
    match header[6] {
        protocol::UDP => {}
        ipv6::FRAGMENT => return Err(OuterError::Fragment),
        next if ipv6::is_extension_header(next) => return Err(OuterError::ExtensionHeader),
        _ => return Err(OuterError::NotUdp),
    }
    udp(payload, payload_len, l3_offset + ipv6::HEADER_LEN, || Ips {
        src: Ipv6Addr::from(get::<16>(header, 8)).into(),
        dst: Ipv6Addr::from(get::<16>(header, 24)).into(),
        tos: (be16(header, 0) >> 4) as u8,
        ttl: header[7],
    })
}

/// What a datagram takes from its IP header.
struct Ips {
    src: MappedIp,
    dst: MappedIp,
    tos: u8,
    ttl: u8,
}

#[inline(always)]
fn udp(
    packet: &[u8],
    packet_len: usize,
    offset: usize,
    ips: impl FnOnce() -> Ips,
) -> Result<Datagram, OuterError> {
    if packet_len < HEADER_LEN {
        return Err(OuterError::Truncated);
    }
    let header = packet.first_chunk::<HEADER_LEN>().ok_or(OuterError::Truncated)?;
    let len = usize::from(be16(header, 4));
    if len < HEADER_LEN || len > packet_len {
        return Err(OuterError::BadUdpLength);
    }
    let Ips { src, dst, tos, ttl } = ips();
    Ok(Datagram {
        src,
        dst,
        src_port: be16(header, 0),
        dst_port: be16(header, 2),
        tos,
        ttl,
        udp_checksum: be16(header, 6),
        payload_offset: offset + HEADER_LEN,
        payload_len: len - HEADER_LEN,
    })
}
