//! The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the checksums of TCP and UDP.
//!
//! A [`Sum`] is the ones' complement sum of 16-bit words before the final complement. Sums of parts add up to
//! the sum of the whole; a part that begins at an odd offset is turned with [`Sum::swapped`] first (RFC 1071 §2 B).

use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::{Add, AddAssign};

use crate::bytes::{be16, get, put16};
use crate::ip::{self, protocol};
use crate::{ipv4, ipv6};

/// A ones' complement sum of big-endian 16-bit words, not yet complemented.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of one word.
    #[inline]
    pub const fn of_word(word: u16) -> Self {
        Self(word as u64)
    }

    /// The sum of the two words of a 32-bit field.
    #[inline]
    pub const fn of_u32(value: u32) -> Self {
        Self(value as u64)
    }

    /// What the same bytes add up to when they begin at an odd offset of the whole.
    #[inline]
    pub const fn swapped(self) -> Self {
        Self(self.fold().swap_bytes() as u64)
    }

    /// The sum in 16 bits, carries added back in. Zero only when every word that went in was zero.
    #[inline]
    pub const fn fold(self) -> u16 {
        let s = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let s = (s >> 32) + (s & 0xffff_ffff);
        let s = (s >> 16) + (s & 0xffff);
        ((s >> 16) + (s & 0xffff)) as u16
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub const fn finish(self) -> u16 {
        !self.fold()
    }
}

impl Add for Sum {
    type Output = Self;

    /// Parts stay far from overflow: what [`sum`] returns is 16 bits wide, so 2^31 additions of 32-bit
    /// fields fit.
    #[inline]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Sum {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Sums bytes as big-endian words; an odd last byte counts as the high half of a word.
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    // Byte order doesn't matter to a ones' complement sum (RFC 1071 §2 B): add words as the machine loads
    // them, turn the 16-bit result. Both 32-bit halves of a load go into a 64-bit lane, so no carry is lost.
    let halves = |word: [u8; 8]| {
        let word = u64::from_ne_bytes(word);
        (word >> 32) + (word & 0xffff_ffff)
    };
    let mut total = 0;
    let (blocks, rest) = bytes.as_chunks::<64>();
    if !blocks.is_empty() {
        let mut lanes = [0u64; 8];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane += halves(*word);
            }
        }
        total += lanes.iter().sum::<u64>();
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        total += halves(*word);
    }
    // Not one copy of variable length: that would be a call to memcpy, dearer than a header's whole sum.
    let mut rest = rest;
    if let Some((word, tail)) = rest.split_first_chunk::<4>() {
        total += u64::from(u32::from_ne_bytes(*word));
        rest = tail;
    }
    if let Some((word, tail)) = rest.split_first_chunk::<2>() {
        total += u64::from(u16::from_ne_bytes(*word));
        rest = tail;
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    Sum(u64::from(u16::from_be_bytes(Sum(total).fold().to_ne_bytes())))
}

/// Whether the checksum of an IPv4 header without options is right: what [`sum`] tells, in as few steps as 20 bytes need.
#[inline(always)]
pub(crate) fn ipv4_header_sums_up(header: &[u8; 20]) -> bool {
    // In the machine's byte order: all ones are all ones in either (RFC 1071 §2 B).
    let words = header.as_chunks::<4>().0.iter();
    let sum: u64 = words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff) == 0xffff
}

/// The checksum of bytes: the complement of their folded sum.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    sum(bytes).finish()
}

/// The sum of the IPv4 pseudo header (RFC 9293 §3.1, RFC 768). `len` is that of the upper-layer packet.
#[inline]
pub fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    Sum::of_u32(src.to_bits()) + Sum::of_u32(dst.to_bits()) + Sum(u64::from(protocol) + u64::from(len))
}

/// The sum of the IPv6 pseudo header (RFC 8200 §8.1). `len` is that of the upper-layer packet.
#[inline]
pub fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> Sum {
    sum(&src.octets()) + sum(&dst.octets()) + Sum::of_u32(len) + Sum::of_word(u16::from(protocol))
}

/// A checksum after the words behind `old` became those behind `new` (RFC 1624 eqn. 3, which is right in
/// the corner case that RFC 1141 gets wrong). Both must begin at an even offset of the checksummed bytes.
#[inline]
pub const fn update(checksum: u16, old: Sum, new: Sum) -> u16 {
    Sum(!checksum as u64 + !old.fold() as u64 + new.fold() as u64).finish()
}

/// [`update`] for one 16-bit field.
#[inline]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    update(checksum, Sum::of_word(old), Sum::of_word(new))
}

/// [`update`] for one 32-bit field.
#[inline]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    update(checksum, Sum::of_u32(old), Sum::of_u32(new))
}

/// Where the checksum of a TCP or UDP packet is and what goes into it.
struct L4 {
    protocol: u8,
    start: usize,
    len: usize,
    /// Offset of the checksum field from the start of the IP header.
    field: usize,
    pseudo_header: Sum,
}

impl L4 {
    /// `packet` begins with the IP header; bytes after its total length are padding and don't count.
    fn locate(packet: &[u8]) -> Option<Self> {
        let upper = ip::upper_layer(packet)?;
        let (field, len) = match upper.protocol {
            protocol::TCP => (16, upper.len),
            protocol::UDP => (
                6,
                usize::from(be16(packet.get(upper.offset..upper.offset + 8)?, 4)),
            ),
            _ => return None,
        };
        let minimum = if upper.protocol == protocol::TCP { 20 } else { 8 };
        if len < minimum || len > upper.len {
            return None;
        }
        Some(Self {
            protocol: upper.protocol,
            start: upper.offset,
            len,
            field: upper.offset + field,
            pseudo_header: pseudo_header(packet, upper.protocol, len)?,
        })
    }

    fn sum(&self, packet: &[u8]) -> Sum {
        self.pseudo_header + sum(&packet[self.start..self.start + self.len])
    }
}

/// The sum of the pseudo header of an IP packet for an upper layer of `len` bytes. None if the fixed header is not
/// there, or `len` is more than a packet has.
#[must_use]
pub fn pseudo_header(packet: &[u8], protocol: u8, len: usize) -> Option<Sum> {
    Some(if packet.first()? >> 4 == 6 {
        let packet = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let (src, dst) = (
            Ipv6Addr::from(get::<16>(packet, 8)),
            Ipv6Addr::from(get::<16>(packet, 24)),
        );
        pseudo_header_v6(src, dst, protocol, u32::try_from(len).ok()?)
    } else {
        let packet = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let (src, dst) = (
            Ipv4Addr::from(get::<4>(packet, 12)),
            Ipv4Addr::from(get::<4>(packet, 16)),
        );
        pseudo_header_v4(src, dst, protocol, u16::try_from(len).ok()?)
    })
}

/// Where the unfinished checksum of a packet is whose bytes are not in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Offset of the TCP or UDP header from the IP header.
    pub start: usize,
    /// Offset of the checksum field from the IP header.
    pub field: usize,
    /// UDP: a checksum of zero is sent as 0xffff (RFC 768).
    pub is_udp: bool,
}

impl Unfinished {
    /// Finds it in the first bytes of an IP packet of `len` bytes: [`l4_checksum_is_partial`] for IPv4 and for IPv6
    /// without extension headers.
    #[must_use]
    pub fn find(head: &[u8], len: usize) -> Option<Self> {
        let (protocol, start, ip_len) = match head.first()? >> 4 {
            4 => {
                let header = head.first_chunk::<{ ipv4::HEADER_LEN }>()?;
                let is_fragment = be16(header, 6) & 0x3fff != 0;
                let start = usize::from(header[0] & 0x0f) * 4;
                (!is_fragment).then(|| (header[9], start, usize::from(be16(header, 2))))?
            }
            6 => {
                let header = head.first_chunk::<{ ipv6::HEADER_LEN }>()?;
                let start = ipv6::HEADER_LEN;
                (header[6], start, start + usize::from(be16(header, 4)))
            }
            _ => return None,
        };
        let l4_len = len.checked_sub(start).filter(|_| start >= ipv4::HEADER_LEN)?;
        let field = match protocol {
            protocol::TCP => start + 16,
            protocol::UDP if usize::from(be16(head.get(start..start + 8)?, 4)) == l4_len => start + 6,
            _ => return None,
        };
        let whole = ip_len == len && head.len() >= field + 2;
        let unfinished = whole && be16(head, field) == pseudo_header(head, protocol, l4_len)?.fold();
        unfinished.then_some(Self {
            start,
            field,
            is_udp: protocol == protocol::UDP,
        })
    }

    /// The checksum, from the sum of all bytes from `start` to the end: with the sum of the pseudo header that is in
    /// the field already, that is the whole sum.
    #[must_use]
    pub const fn checksum(self, sum: Sum) -> u16 {
        match sum.finish() {
            0 if self.is_udp => 0xffff,
            checksum => checksum,
        }
    }
}

/// What the checksum field of a TCP or UDP packet holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4Checksum {
    /// It is correct.
    Correct,
    /// UDP says that there is none (RFC 768).
    Absent,
    /// It holds the sum of the pseudo header: the sender left the rest to an offload.
    Partial,
    /// It is wrong.
    Wrong,
}

/// Looks at the TCP or UDP checksum of an IP packet, all of its bytes. `None` when the packet is not a whole,
/// unfragmented TCP or UDP packet.
pub fn l4_checksum(packet: &[u8]) -> Option<L4Checksum> {
    let l4 = L4::locate(packet)?;
    let field = be16(packet, l4.field);
    Some(if l4.protocol == protocol::UDP && field == 0 {
        L4Checksum::Absent
    } else if l4.sum(packet).fold() == 0xffff {
        L4Checksum::Correct
    } else if field == l4.pseudo_header.fold() {
        L4Checksum::Partial
    } else {
        L4Checksum::Wrong
    })
}

/// Whether the TCP or UDP checksum of an IP packet is in the state that Linux calls `CHECKSUM_PARTIAL`
/// (`include/linux/skbuff.h`): the field holds the folded, not complemented sum of the pseudo header.
///
/// Reads headers only. One complete checksum in 65536 looks the same; [`fill_l4_checksum`] gives such a packet
/// the value that it has already, so filling what this function reports is safe.
#[inline]
pub fn l4_checksum_is_partial(packet: &[u8]) -> bool {
    L4::locate(packet).is_some_and(|l4| be16(packet, l4.field) == l4.pseudo_header.fold())
}

/// Computes the TCP or UDP checksum of an IP packet in full and writes it. `packet` begins with the IP header and may
/// end with padding. A UDP checksum that was absent becomes present. `false`, and nothing changed, when the
/// packet is not a whole, unfragmented TCP or UDP packet.
pub fn fill_l4_checksum(packet: &mut [u8]) -> bool {
    let Some(l4) = L4::locate(packet) else {
        return false;
    };
    put16(packet, l4.field, 0);
    let checksum = l4.sum(packet).finish();
    // RFC 768: zero means "none", so UDP sends the other zero of ones' complement.
    let checksum = if l4.protocol == protocol::UDP && checksum == 0 {
        0xffff
    } else {
        checksum
    };
    put16(packet, l4.field, checksum);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §4.1, in the plainest form.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    #[test]
    fn rfc_1071_section_3_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(),
            0xddf2
        );
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285: eqn. 3 gives 0x0000 where RFC 1141 gave 0xFFFF.
        assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn extremes_agree_with_the_reference() {
        for len in [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 128, 1500, 9000, 65535] {
            for byte in [0x00, 0x01, 0x80, 0xff] {
                let bytes = vec![byte; len];
                assert_eq!(sum(&bytes).fold(), reference(&bytes), "{len} bytes {byte:#x}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn sum_is_the_reference(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            proptest::prop_assert_eq!(sum(&bytes).fold(), reference(&bytes));
        }

        /// In one piece and in two, the same packet is finished the same way.
        #[test]
        fn pieces_are_finished_like_the_whole(
            v6: bool, udp: bool, payload in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut: u16,
        ) {
            let (l3, l4) = (if v6 { 40 } else { 20 }, if udp { 8 } else { 20 });
            let mut packet = vec![7u8; l3 + l4];
            packet.extend(&payload);
            let len = packet.len();
            if v6 {
                packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, if udp { 17 } else { 6 }, 64]);
                put16(&mut packet, 4, (len - 40) as u16);
            } else {
                packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, if udp { 17 } else { 6 }, 0, 0]);
                put16(&mut packet, 2, len as u16);
            }
            if udp {
                put16(&mut packet, l3 + 4, (len - l3) as u16);
            }
            let field = l3 + if udp { 6 } else { 16 };
            let pseudo = pseudo_header(&packet, if udp { 17 } else { 6 }, len - l3).expect("short").fold();
            put16(&mut packet, field, pseudo);
            let cut = (field + 2 + usize::from(cut) % (payload.len() + 1)).min(len);
            let found = Unfinished::find(&packet[..cut], len).expect("unfinished");
            proptest::prop_assert_eq!((found.start, found.field), (l3, field));
            let ours = found.checksum(sum(&packet[l3..]));
            proptest::prop_assert_eq!(Unfinished::find(&packet[..cut], len + 1), None);
            proptest::prop_assert!(fill_l4_checksum(&mut packet));
            proptest::prop_assert_eq!(ours, be16(&packet, field));
        }

        #[test]
        fn a_header_sums_up_as_its_sum_says(mut header: [u8; 20], right: bool) {
            if right {
                header[10..12].fill(0);
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            proptest::prop_assert_eq!(ipv4_header_sums_up(&header), sum(&header).fold() == 0xffff);
            proptest::prop_assert!(!right || ipv4_header_sums_up(&header));
        }

        #[test]
        fn parts_add_up(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), cut: u16) {
            let (head, tail) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
            let tail = if head.len() % 2 == 1 { sum(tail).swapped() } else { sum(tail) };
            proptest::prop_assert_eq!((sum(head) + tail).fold(), reference(&bytes));
        }

        #[test]
        fn incremental_is_full_recompute(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 8..200),
            at: u16,
            new: u32,
        ) {
            bytes.truncate(bytes.len() & !1);
            bytes[0] |= 1; // An IP or TCP header is never all zero, the one case where the two may differ.
            let at = 2 + usize::from(at) % (bytes.len() - 5) / 2 * 2;
            let before = checksum(&bytes);
            let old = crate::bytes::be32(&bytes, at);
            crate::bytes::put32(&mut bytes, at, new);
            proptest::prop_assert_eq!(update_u32(before, old, new), checksum(&bytes));
            let words = update_u16(update_u16(before, (old >> 16) as u16, (new >> 16) as u16), old as u16, new as u16);
            proptest::prop_assert_eq!(words, checksum(&bytes));
        }
    }
}
