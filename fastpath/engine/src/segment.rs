//! Does what the sender of a frame left to its device: finishes a checksum, cuts a large packet into those that go out on
//! a wire (virtio 1.2 §5.1.6.2; the kernel's `CHECKSUM_PARTIAL` and GSO).
//!
//! ```text
//!   │ Ethernet, tags, IP, TCP or UDP │▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ payload ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│
//!   └──────────── before ────────────┴─── size ───┬─── size ───┬─── size ───┬── rest ─┘
//!   piece:  │ before, with its own lengths, sequence number, flags, checksums │▒ size ▒│
//! ```
//!
//! Guarantees: nothing panics, whatever headers and offload state say; every byte of the frame is read once (but for UDP
//! that is cut into fragments, see [`Cut::reads_ahead`]); checksums are computed over the pieces, which are ours, from the
//! start: what the sender left in the field is not trusted.

use crate::rewrite::segments_sum;
use clearway_io::{Frame, FramePool, FrameReader, Offload, Offloads, PoolSet, RegionId};
use clearway_wire::checksum::{Sum, pseudo_header};
use clearway_wire::ip::{Headers, protocol};
use clearway_wire::{EtherType, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket, ipv4, ipv6, tcp, udp};

/// Most bytes before the payload: more than any sender puts there, less than the first chunk of a frame holds.
const MOST_BEFORE: usize = 512;

/// Most pieces of a frame. A guest names their size, and nothing in virtio (1.2 §5.1.6.2) keeps it from naming one byte: then
/// one buffer would be 64,000 frames for whoever sends them. Linux's senders make no more than 128 datagrams of a
/// packet (`UDP_MAX_SEGMENTS`), and of TCP at most 131 segments where the path's MTU is the smallest that it believes (552)
/// and 268 where its peer advertises the least that Linux does (`min_adv_mss`, 256); some NICs stop at 100 (`gso_max_segs`).
/// The kernel itself has no bound but a segment of 8 bytes (`TCP_MIN_GSO_SIZE`) for its own sockets, and Open vSwitch none.
pub(crate) const MOST_PIECES: usize = 512;

/// Bytes of an IPv6 fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER: usize = 8;

/// The largest number that the length field of an IP packet holds.
const LONGEST_PACKET: usize = u16::MAX as usize;

/// What is left undone on a frame, and can be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// A checksum, over all from `start` on, whatever protocol that is.
    Checksum(Offload),
    /// The frame is to be cut up.
    Cut(Cut),
}

impl Work {
    /// What a frame with unfinished work needs. None: what it says does not fit its headers.
    pub(crate) fn of(frame: &Frame) -> Option<Self> {
        let offload = frame.offload()?;
        let end = usize::from(offload.start) + usize::from(offload.field) + 2;
        if !offload.needs.contains(Offloads::CHECKSUM) || end > frame.bytes().len() {
            return None;
        }
        if offload.needs.intersects(Offloads::GSO) {
            return Cut::of(frame, offload).map(Self::Cut);
        }
        Some(Self::Checksum(offload))
    }

    /// Bytes of the largest frame that comes of it.
    pub(crate) fn largest(&self, frame: &Frame) -> u32 {
        match self {
            Self::Checksum(_) => frame.len(),
            Self::Cut(cut) => cut.largest() as u32,
        }
    }
}

/// Finishes the checksum of a frame that is not held.
pub(crate) fn finish_checksum(frame: &mut Frame, offload: Offload) {
    let start = usize::from(offload.start);
    // With the sum of the pseudo header, which is in the field. A result of zero means "none" in UDP, and for any
    // protocol the other zero is as good (the kernel's skb_checksum_help does the same).
    let checksum = match segments_sum(frame, start).finish() {
        0 => 0xffff,
        checksum => checksum,
    };
    let field = start + usize::from(offload.field);
    if let Some(field) = frame.bytes_mut().get_mut(field..field + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
    frame.clear_offload();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// TCP segments (RFC 9293).
    Tcp,
    /// UDP datagrams.
    Datagrams,
    /// IP fragments of one UDP datagram (RFC 791 §3.2, RFC 8200 §4.5).
    Fragments,
}

/// How a frame is to be cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    kind: Kind,
    is_ipv6: bool,
    /// Offset of the IP header.
    l3: usize,
    /// Offset of what follows IP.
    l4: usize,
    /// Offset of the number that says what that is.
    protocol_at: usize,
    /// Bytes that every piece begins with.
    before: usize,
    /// Bytes to be cut up.
    payload: usize,
    /// How many of them a piece gets.
    size: usize,
}

impl Cut {
    fn of(frame: &Frame, offload: Offload) -> Option<Self> {
        let (head, l4) = (frame.bytes(), usize::from(offload.start));
        let (l3, ethertype) = l3_of(head.get(..l4)?)?;
        let ip = Headers::find(head.get(l3..)?)?;
        let expected = if ip.is_ipv6 {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        };
        let len = frame.len() as usize;
        let whole = ip.packet_len.is_none_or(|packet_len| l3 + packet_len == len);
        if ethertype != expected || l3 + ip.len != l4 || !whole {
            return None;
        }
        let (kind, field) = match (offload.needs & Offloads::GSO, ip.is_ipv6, ip.protocol) {
            (Offloads::TSO4, false, protocol::TCP) | (Offloads::TSO6, true, protocol::TCP) => (Kind::Tcp, 16),
            (Offloads::USO4, false, protocol::UDP) | (Offloads::USO6, true, protocol::UDP) => {
                (Kind::Datagrams, 6)
            }
            (Offloads::UFO, _, protocol::UDP) => (Kind::Fragments, 6),
            _ => return None,
        };
        let l4_header = match kind {
            Kind::Tcp => TcpPacket::new_checked(head.get(l4..)?).ok()?.header_len(),
            Kind::Datagrams | Kind::Fragments => head.get(l4..l4 + udp::HEADER_LEN)?.len(),
        };
        let (before, size) = match kind {
            // The UDP header is part of what is cut up, and all parts but the last are multiples of 8 bytes.
            Kind::Fragments => (l4, usize::from(offload.gso_size & !7)),
            Kind::Tcp | Kind::Datagrams => (l4 + l4_header, usize::from(offload.gso_size)),
        };
        let payload = len.checked_sub(before)?;
        let mut cut = Self {
            kind,
            is_ipv6: ip.is_ipv6,
            l3,
            l4,
            protocol_at: l3 + ip.protocol_at,
            before,
            payload,
            size,
        };
        if kind == Kind::Fragments {
            // What is reassembled is a packet again.
            let fits = len - l3 <= LONGEST_PACKET;
            cut.before += if ip.is_ipv6 && payload > size {
                FRAGMENT_HEADER
            } else {
                0
            };
            (fits && size > 0).then_some(())?;
        }
        let possible = usize::from(offload.field) == field
            && size > 0
            && cut.before <= MOST_BEFORE
            && cut.largest() - l3 <= LONGEST_PACKET;
        possible.then_some(cut)
    }

    /// Number of pieces.
    pub(crate) fn pieces(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    fn largest(&self) -> usize {
        self.before + self.payload.min(self.size)
    }

    /// Whether the checksum of all of the payload must be known before the first piece is complete: such a frame may not
    /// be held, since it is read twice.
    pub(crate) fn reads_ahead(&self) -> bool {
        self.kind == Kind::Fragments
    }
}

/// Offset of what follows the tags, and its EtherType: behind any number of tags, since `head` ends at L4.
fn l3_of(head: &[u8]) -> Option<(usize, EtherType)> {
    let mut at = 12;
    loop {
        let [high, low] = *head.get(at..)?.first_chunk()?;
        let ethertype = EtherType(u16::from_be_bytes([high, low]));
        if !ethertype.is_tag() {
            return Some((at + 2, ethertype));
        }
        at += 4;
    }
}

/// The pieces of a frame, made one after the other.
pub(crate) struct Pieces<'f> {
    cut: Cut,
    head: &'f [u8],
    reader: FrameReader<'f>,
    /// Pieces made or given up.
    made: usize,
    /// Fragments: the checksum of the datagram, and the identification of all its parts (IPv6).
    checksum: u16,
    identification: u32,
}

/// Where a piece is in the payload.
struct Part {
    number: usize,
    /// Bytes before it, and its own.
    offset: usize,
    len: usize,
    is_last: bool,
}

impl<'f> Pieces<'f> {
    /// Pieces of `frame`, as `cut` found it; `identification` should differ from that of other packets between the same
    /// hosts.
    pub(crate) fn new(frame: &'f Frame, cut: Cut, identification: u32) -> Self {
        let mut reader = frame.reader();
        let read_from = if cut.kind == Kind::Fragments {
            cut.l4
        } else {
            cut.before
        };
        reader.skip(read_from);
        let mut pieces = Self {
            cut,
            head: frame.bytes(),
            reader,
            made: 0,
            checksum: 0,
            identification,
        };
        if cut.reads_ahead() {
            let field = cut.l4 + 6;
            let [high, low] = pieces
                .head
                .get(field..)
                .and_then(<[u8]>::first_chunk)
                .copied()
                .unwrap_or_default();
            // Without what is in the field now.
            let datagram = segments_sum(frame, cut.l4) + Sum::of_word(!u16::from_be_bytes([high, low]));
            pieces.checksum = pieces.finish(pieces.head, cut.payload, datagram);
        }
        pieces
    }

    /// Pieces that are still to come.
    pub(crate) fn left(&self) -> usize {
        self.cut.pieces() - self.made
    }

    /// The next piece, in chunks of `region`. None when those are short.
    pub(crate) fn next(&mut self, pools: &mut PoolSet, region: RegionId) -> Option<Frame> {
        let Cut { size, payload, .. } = self.cut;
        let (number, offset) = (self.made, self.made * size);
        let part = Part {
            number,
            offset,
            len: size.min(payload.saturating_sub(offset)),
            is_last: offset + size >= payload,
        };
        self.made += 1;
        let pool = pools.get(region)?;
        let mut piece = pool.alloc()?;
        if !self.copy(&mut piece, pool, &part) {
            pools.free(piece);
            return None;
        }
        match self.cut.kind {
            Kind::Tcp => self.tcp(&mut piece, &part),
            Kind::Datagrams => self.datagram(&mut piece, &part),
            Kind::Fragments => self.fragment(&mut piece, &part),
        }
        Some(piece)
    }

    /// The bytes of a piece, as they are in the frame, and a fragment header.
    fn copy(&mut self, piece: &mut Frame, pool: &mut FramePool, part: &Part) -> bool {
        let Cut { kind, l4, before, .. } = self.cut;
        let copied = if kind == Kind::Fragments { l4 } else { before };
        piece.append(pool, self.head.get(..copied).unwrap_or_default())
            && piece.append(pool, &[0; FRAGMENT_HEADER][..before - copied])
            && piece.append_with(pool, part.len, |to| {
                self.reader.read(to);
            })
    }

    /// The IP header of a piece: its length, and for IPv4 what else differs.
    fn ip(&self, piece: &mut Frame, part: &Part) {
        let Cut {
            kind, l3, is_ipv6, ..
        } = self.cut;
        let len = piece.len() as usize - l3;
        let Some(packet) = piece.bytes_mut().get_mut(l3..) else {
            return;
        };
        if is_ipv6 {
            Ipv6Packet::new_unchecked(packet).set_payload_len((len - ipv6::HEADER_LEN) as u16);
            return;
        }
        let mut packet = Ipv4Packet::new_unchecked(packet);
        packet.set_total_len(len as u16);
        if kind == Kind::Fragments {
            let more = if part.is_last { 0 } else { ipv4::MORE_FRAGMENTS };
            packet.set_flags_and_offset((part.offset / 8) as u16 | more);
        } else {
            // Each is a packet of its own (RFC 6864 §4.2).
            packet.set_identification(packet.identification().wrapping_add(part.number as u16));
        }
        packet.fill_checksum();
    }

    fn tcp(&self, piece: &mut Frame, part: &Part) {
        self.ip(piece, part);
        if let Some(bytes) = piece.bytes_mut().get_mut(self.cut.l4..) {
            let mut segment = TcpPacket::new_unchecked(bytes);
            segment.set_seq(segment.seq().wrapping_add(part.offset as u32));
            let mut flags = segment.flags();
            if !part.is_last {
                flags = flags.without(tcp::Flags::FIN).without(tcp::Flags::PSH);
            }
            if part.number > 0 {
                // RFC 3168 §6.1.2: on the first packet after the window was reduced.
                flags = flags.without(tcp::Flags::CWR);
            }
            segment.set_flags(flags);
            segment.set_checksum(0);
        }
        let checksum = self.l4_checksum(piece);
        if let Some(bytes) = piece.bytes_mut().get_mut(self.cut.l4..) {
            TcpPacket::new_unchecked(bytes).set_checksum(checksum);
        }
    }

    fn datagram(&self, piece: &mut Frame, part: &Part) {
        self.ip(piece, part);
        let len = (piece.len() as usize - self.cut.l4) as u16;
        if let Some(bytes) = piece.bytes_mut().get_mut(self.cut.l4..) {
            let mut datagram = UdpPacket::new_unchecked(bytes);
            datagram.set_len(len);
            datagram.set_checksum(0);
        }
        let checksum = self.l4_checksum(piece);
        if let Some(bytes) = piece.bytes_mut().get_mut(self.cut.l4..) {
            UdpPacket::new_unchecked(bytes).set_checksum(checksum);
        }
    }

    /// A datagram that fits one piece is no fragment.
    fn fragment(&self, piece: &mut Frame, part: &Part) {
        self.ip(piece, part);
        let Cut {
            is_ipv6,
            l4,
            protocol_at,
            before,
            ..
        } = self.cut;
        let bytes = piece.bytes_mut();
        if part.number == 0
            && let Some(datagram) = bytes.get_mut(before..before + udp::HEADER_LEN)
        {
            UdpPacket::new_unchecked(datagram).set_checksum(self.checksum);
        }
        if is_ipv6
            && let Some(header) = bytes
                .get_mut(l4..before)
                .and_then(<[u8]>::first_chunk_mut::<FRAGMENT_HEADER>)
        {
            let offset = part.offset as u16 | u16::from(!part.is_last);
            *header = [protocol::UDP, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&offset.to_be_bytes());
            header[4..].copy_from_slice(&self.identification.to_be_bytes());
            bytes[protocol_at] = ipv6::FRAGMENT;
        }
    }

    /// The checksum of a piece whose field is zero: summed while it is in the cache.
    fn l4_checksum(&self, piece: &Frame) -> u16 {
        let len = piece.len() as usize - self.cut.l4;
        self.finish(piece.bytes(), len, segments_sum(piece, self.cut.l4))
    }

    /// The checksum of `len` bytes with this sum, with the pseudo header from a frame's first bytes.
    fn finish(&self, head: &[u8], len: usize, sum: Sum) -> u16 {
        let (protocol, none) = match self.cut.kind {
            Kind::Tcp => (protocol::TCP, 0),
            // RFC 768: zero means "none", so UDP sends the other zero of ones' complement.
            Kind::Datagrams | Kind::Fragments => (protocol::UDP, 0xffff),
        };
        let packet = head.get(self.cut.l3..).unwrap_or_default();
        let pseudo = pseudo_header(packet, protocol, len).unwrap_or_default();
        match (pseudo + sum).finish() {
            0 => none,
            checksum => checksum,
        }
    }
}
