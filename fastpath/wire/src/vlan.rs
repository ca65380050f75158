//! VLAN tags (IEEE 802.1Q and 802.1ad): parse, push, pop, rewrite.
//!
//! ```text
//!  0           6           12     14     16     18
//!  | dst MAC   | src MAC   | TPID | TCI  | type | payload …        TCI: PCP 3 bits, DEI 1, VID 12
//! ```
//!
//! Tags sit between the addresses and the EtherType, so pushing and popping moves only the 12 address bytes:
//! the frame grows or shrinks at its *front*, where the packet has headroom.

use core::fmt;

use crate::bytes::{be16, get, put, put16};
use crate::ethernet::{self, EtherType};
use crate::{Pcp, Vid};

/// Bytes of one tag.
pub const TAG_LEN: usize = 4;
/// Bytes of the two addresses in front of the tags.
const ADDRESSES_LEN: usize = 12;

/// Tag control information: priority, drop eligibility, VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tci(pub u16);

impl Tci {
    /// From its parts. `None` as VLAN makes a priority tag (VID 0).
    #[inline]
    pub const fn new(pcp: Pcp, dei: bool, vid: Option<Vid>) -> Self {
        let vid = match vid {
            Some(vid) => vid.get(),
            None => 0,
        };
        Self((pcp.get() as u16) << 13 | (dei as u16) << 12 | vid)
    }

    /// Priority code point.
    #[inline]
    pub const fn pcp(self) -> Pcp {
        Pcp::from_low_bits((self.0 >> 13) as u8)
    }

    /// Drop eligible indicator.
    #[inline]
    pub const fn dei(self) -> bool {
        self.0 & 0x1000 != 0
    }

    /// The 12 bits of the VLAN identifier as they are: 0 in a priority tag, 4095 reserved.
    #[inline]
    pub const fn vid_bits(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The VLAN that is named; `None` in a priority tag and for the reserved 4095.
    #[inline]
    pub const fn vid(self) -> Option<Vid> {
        Vid::new(self.vid_bits())
    }

    /// Whether it carries a priority and no VLAN (VID 0, IEEE 802.1Q §9.6).
    #[inline]
    pub const fn is_priority_tag(self) -> bool {
        self.vid_bits() == 0
    }

    /// The same priority and drop eligibility on another VLAN.
    #[inline]
    pub const fn with_vid(self, vid: Vid) -> Self {
        Self(self.0 & 0xf000 | vid.get())
    }

    /// The same VLAN and drop eligibility with another priority.
    #[inline]
    pub const fn with_pcp(self, pcp: Pcp) -> Self {
        Self(self.0 & 0x1fff | (pcp.get() as u16) << 13)
    }
}

impl fmt::Display for Tci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vid {} pcp {}", self.vid_bits(), self.pcp())?;
        if self.dei() { f.write_str(" dei") } else { Ok(()) }
    }
}

impl fmt::Debug for Tci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tci({self})")
    }
}

/// One tag: which kind, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Tag protocol identifier.
    pub tpid: EtherType,
    /// Tag control information.
    pub tci: Tci,
}

impl Tag {
    /// An 802.1Q tag (TPID 0x8100).
    #[inline]
    pub const fn customer(tci: Tci) -> Self {
        Self {
            tpid: EtherType::VLAN,
            tci,
        }
    }

    /// An 802.1ad tag (TPID 0x88a8).
    #[inline]
    pub const fn service(tci: Tci) -> Self {
        Self {
            tpid: EtherType::QINQ,
            tci,
        }
    }

    /// The four bytes on the wire.
    #[inline]
    pub const fn to_bytes(self) -> [u8; TAG_LEN] {
        let [a, b] = self.tpid.0.to_be_bytes();
        let [c, d] = self.tci.0.to_be_bytes();
        [a, b, c, d]
    }

    #[inline]
    fn from_bytes([a, b, c, d]: [u8; TAG_LEN]) -> Self {
        Self {
            tpid: EtherType(u16::from_be_bytes([a, b])),
            tci: Tci(u16::from_be_bytes([c, d])),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.tpid, self.tci)
    }
}

/// What stands between a frame's addresses and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Complete tags that were read: 0, 1 or 2.
    pub count: u8,
    /// The frame ends within its Ethernet header or a tag: drop it. The other fields describe what is there.
    pub truncated: bool,
    /// What follows the tags that were read. A third tag shows as its TPID; 0 when there is no EtherType at all.
    pub ethertype: EtherType,
    /// Where the payload begins: 14, 18 or 22 in a frame that is not truncated.
    pub l3_offset: usize,
    /// The first tag on the wire.
    pub outer: Option<Tag>,
    /// The second tag on the wire.
    pub inner: Option<Tag>,
}

/// Reads the Ethernet header's type and up to two tags (TPID 0x8100, 0x88a8 or 0x9100, in any order).
#[inline]
pub fn parse_tags(frame: &[u8]) -> Tags {
    let mut tags = Tags {
        count: 0,
        truncated: true,
        ethertype: EtherType(0),
        l3_offset: frame.len(),
        outer: None,
        inner: None,
    };
    let Some(header) = frame.first_chunk::<{ ethernet::HEADER_LEN }>() else {
        return tags;
    };
    tags.ethertype = EtherType(be16(header, 12));
    tags.l3_offset = 14;
    if !tags.ethertype.is_tag() {
        tags.truncated = false;
        return tags;
    }
    let Some(header) = frame.first_chunk::<{ ethernet::HEADER_LEN + TAG_LEN }>() else {
        return tags;
    };
    tags.count = 1;
    tags.outer = Some(Tag {
        tpid: tags.ethertype,
        tci: Tci(be16(header, 14)),
    });
    tags.ethertype = EtherType(be16(header, 16));
    tags.l3_offset = 18;
    if !tags.ethertype.is_tag() {
        tags.truncated = false;
        return tags;
    }
    let Some(header) = frame.first_chunk::<{ ethernet::HEADER_LEN + 2 * TAG_LEN }>() else {
        return tags;
    };
    tags.count = 2;
    tags.inner = Some(Tag {
        tpid: tags.ethertype,
        tci: Tci(be16(header, 18)),
    });
    tags.ethertype = EtherType(be16(header, 20));
    tags.l3_offset = 22;
    tags.truncated = false;
    tags
}

/// Takes the outermost tag off: moves the addresses forward over it and returns it. The frame then begins
/// [`TAG_LEN`] bytes later: the caller advances its offset. `None`, and nothing changed, when there is no complete tag.
#[inline]
pub fn pop_tag(frame: &mut [u8]) -> Option<Tag> {
    let header = frame.first_chunk_mut::<{ ethernet::HEADER_LEN + TAG_LEN }>()?;
    let tag = Tag::from_bytes(get(header, ADDRESSES_LEN));
    if !tag.tpid.is_tag() {
        return None;
    }
    let addresses: [u8; ADDRESSES_LEN] = get(header, 0);
    put(header, TAG_LEN, addresses);
    Some(tag)
}

/// Puts a tag in front of the EtherType. `frame` begins [`TAG_LEN`] bytes *before* the frame (the caller has
/// extended it into the headroom); the addresses move to its front. `false`, and nothing changed, when it is
/// shorter than a tag and an Ethernet header.
#[inline]
#[must_use = "false means that the frame was too short and has no tag"]
pub fn push_tag(frame: &mut [u8], tag: Tag) -> bool {
    let Some(header) = frame.first_chunk_mut::<{ ethernet::HEADER_LEN + TAG_LEN }>() else {
        return false;
    };
    let addresses: [u8; ADDRESSES_LEN] = get(header, TAG_LEN);
    put(header, 0, addresses);
    put(header, ADDRESSES_LEN, tag.to_bytes());
    true
}

/// Overwrites the outermost tag in place. `false`, and nothing changed, when the frame has none.
#[inline]
#[must_use = "false means that the frame had no tag to rewrite"]
pub fn rewrite_tag(frame: &mut [u8], tag: Tag) -> bool {
    let Some(header) = frame.first_chunk_mut::<{ ethernet::HEADER_LEN + TAG_LEN }>() else {
        return false;
    };
    if !EtherType(be16(header, ADDRESSES_LEN)).is_tag() {
        return false;
    }
    put16(header, ADDRESSES_LEN, tag.tpid.0);
    put16(header, ADDRESSES_LEN + 2, tag.tci.0);
    true
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings, reason = "literals are grouped by field")]
mod tests {
    use super::*;

    fn tci(pcp: u8, vid: u16) -> Tci {
        Tci::new(Pcp::new(pcp).unwrap(), false, Vid::new(vid))
    }

    fn frame(middle: &[u8]) -> Vec<u8> {
        [
            &[1u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12][..],
            middle,
            &[0x45, 0x00],
        ]
        .concat()
    }

    #[test]
    fn tci_has_the_bits_of_802_1q() {
        let tci = Tci::new(Pcp::new(5).unwrap(), true, Vid::new(0x123));
        assert_eq!(tci.0, 0b101_1_0001_0010_0011);
        assert_eq!(
            (tci.pcp().get(), tci.dei(), tci.vid()),
            (5, true, Vid::new(0x123))
        );
        assert_eq!(tci.with_vid(Vid::MAX).0, 0b101_1_1111_1111_1110);
        assert_eq!(tci.with_pcp(Pcp::MIN).0, 0b000_1_0001_0010_0011);
        assert_eq!(tci.to_string(), "vid 291 pcp 5 dei");
        let priority = Tci::new(Pcp::MAX, false, None);
        assert_eq!(
            (priority.0, priority.is_priority_tag(), priority.vid()),
            (0xe000, true, None)
        );
        assert_eq!((Tci(0xfff).vid(), Tci(0xfff).is_priority_tag()), (None, false));
    }

    #[test]
    fn no_tag_one_tag_two_tags_three_tags() {
        let untagged = parse_tags(&frame(&[0x08, 0x00]));
        assert_eq!(
            (untagged.count, untagged.truncated, untagged.l3_offset),
            (0, false, 14)
        );
        assert_eq!(
            (untagged.ethertype, untagged.outer, untagged.inner),
            (EtherType::IPV4, None, None)
        );

        let one = parse_tags(&frame(&[0x81, 0x00, 0x60, 0x0a, 0x86, 0xdd]));
        assert_eq!((one.count, one.truncated, one.l3_offset), (1, false, 18));
        assert_eq!(
            (one.ethertype, one.outer, one.inner),
            (EtherType::IPV6, Some(Tag::customer(tci(3, 10))), None)
        );

        let two = parse_tags(&frame(&[0x88, 0xa8, 0, 100, 0x81, 0x00, 0, 7, 0x08, 0x06]));
        assert_eq!((two.count, two.truncated, two.l3_offset), (2, false, 22));
        assert_eq!(two.outer, Some(Tag::service(tci(0, 100))));
        assert_eq!(two.inner, Some(Tag::customer(tci(0, 7))));
        assert_eq!(two.ethertype, EtherType::ARP);

        let three = parse_tags(&frame(&[0x91, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0]));
        assert_eq!(
            (three.count, three.truncated, three.ethertype),
            (2, false, EtherType::VLAN)
        );
    }

    #[test]
    fn a_priority_tag_is_a_tag_without_a_vlan() {
        let tags = parse_tags(&frame(&[0x81, 0x00, 0xe0, 0x00, 0x08, 0x00]));
        assert_eq!(tags.count, 1);
        assert!(
            tags.outer
                .is_some_and(|tag| tag.tci.is_priority_tag() && tag.tci.pcp() == Pcp::MAX)
        );
    }

    #[test]
    fn every_cut_is_reported() {
        let whole = frame(&[0x88, 0xa8, 0, 100, 0x81, 0x00, 0, 7, 0x08, 0x06]);
        for len in 0..22 {
            let tags = parse_tags(&whole[..len]);
            let count = if len < 18 { 0 } else { 1 };
            let at = if len < 14 {
                len
            } else {
                14 + 4 * usize::from(count)
            };
            assert_eq!(
                (tags.truncated, tags.count, tags.l3_offset),
                (true, count, at),
                "{len} bytes"
            );
        }
        assert!(!parse_tags(&whole[..22]).truncated);
    }

    #[test]
    fn push_then_pop_gives_the_frame_back() {
        let plain = frame(&[0x08, 0x00]);
        let mut buffer = [&[0xee; 8][..], &plain].concat();
        let (outer, inner) = (Tag::service(tci(1, 100)), Tag::customer(tci(2, 7)));
        assert!(push_tag(&mut buffer[4..], inner));
        assert!(push_tag(&mut buffer, outer));
        assert_eq!(
            buffer,
            frame(&[0x88, 0xa8, 0x20, 100, 0x81, 0x00, 0x40, 7, 0x08, 0x00])
        );
        assert_eq!(pop_tag(&mut buffer), Some(outer));
        assert_eq!(pop_tag(&mut buffer[4..]), Some(inner));
        assert_eq!(pop_tag(&mut buffer[8..]), None);
        assert_eq!(buffer[8..], plain);
    }

    #[test]
    fn rewrite_changes_the_tag_alone() {
        let mut tagged = frame(&[0x81, 0x00, 0x00, 0x0a, 0x08, 0x00]);
        assert!(rewrite_tag(&mut tagged, Tag::service(tci(7, 20))));
        assert_eq!(tagged, frame(&[0x88, 0xa8, 0xe0, 20, 0x08, 0x00]));
        let mut plain = frame(&[0x08, 0x00, 0, 0, 0, 0]);
        assert!(!rewrite_tag(&mut plain, Tag::service(tci(7, 20))));
        assert_eq!(plain, frame(&[0x08, 0x00, 0, 0, 0, 0]));
    }

    #[test]
    fn short_buffers_stay_as_they_are() {
        let mut short = [0x81u8; 17];
        assert!(!push_tag(&mut short, Tag::customer(tci(0, 1))));
        assert!(!rewrite_tag(&mut short, Tag::customer(tci(0, 1))));
        assert_eq!(pop_tag(&mut short), None);
        assert_eq!(short, [0x81; 17]);
    }
}
