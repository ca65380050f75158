//! Tells the sender of an IP packet that it does not fit a tunnel: ICMP "fragmentation needed" (RFC 1191) or
//! ICMPv6 "packet too big" (RFC 8201), with the addresses of the packet exchanged, as the kernel's VXLAN
//! device does for bridged traffic (`skb_tunnel_check_pmtu`).

use super::{Cx, suppress};
use crate::Domain;
use crate::packet::Meta;
use clearway_io::Frame;
use clearway_wire::vlan::TAG_LEN;
use clearway_wire::{EtherType, Ipv4Packet, MacAddr, checksum, icmpv4, icmpv6, parse_tags};

/// `max_inner` is the largest frame that would have fitted.
pub(super) fn report(cx: &mut Cx<'_>, frame: &Frame, meta: &Meta, domain: &Domain, max_inner: u32) {
    if !cx.conf.storm_buckets.may_report(cx.now.ns) {
        return;
    }
    let tags = parse_tags(frame.bytes());
    let l3 = tags.l3_offset;
    let (Some(header), Some(original)) = (frame.bytes().get(..l3), frame.bytes().get(l3..)) else {
        return;
    };
    let mtu = max_inner.saturating_sub(l3 as u32);
    let mut bytes = [0; 14 + 2 * TAG_LEN + icmpv6::MAX_ERROR_LEN];
    bytes[..l3].copy_from_slice(header);
    bytes[..6].copy_from_slice(&MacAddr::from_u64(meta.src.mac()).0);
    bytes[6..12].copy_from_slice(&MacAddr::from_u64(meta.dst.mac()).0);
    let out = &mut bytes[l3..];
    let mut quote = Quote::new(original);
    let len = match tags.ethertype {
        EtherType::IPV4 => quote.of_ipv4(out, mtu.min(u16::MAX.into()) as u16),
        EtherType::IPV6 => quote.of_ipv6(out, mtu),
        _ => None,
    };
    if let Some(len) = len
        && cx.conf.storm_buckets.report(cx.now.ns)
    {
        suppress::emit_own(cx, &bytes[..(l3 + len).max(60)], meta, domain);
    }
}

/// The start of the packet that is too big: as much of it as an error may quote. Of a chained frame only the
/// first segment is at hand, so its length field is made to fit for the builders and put right in the quote.
struct Quote {
    bytes: [u8; icmpv6::MAX_ERROR_LEN],
    len: usize,
}

impl Quote {
    fn new(original: &[u8]) -> Self {
        let mut bytes = [0; icmpv6::MAX_ERROR_LEN];
        let len = original.len().min(bytes.len());
        bytes[..len].copy_from_slice(&original[..len]);
        Self { bytes, len }
    }

    /// Builds an error from the quote with its length field (at `at`) lowered to `fits`; then puts the true
    /// length into the quote, which begins at `headers`, and into the checksum (RFC 1624) before it.
    fn build(
        &mut self,
        out: &mut [u8],
        (at, fits): (usize, u16),
        headers: usize,
        emit: impl FnOnce(&mut [u8], &[u8]) -> Option<usize>,
    ) -> Option<usize> {
        let field = self.bytes.get_mut(at..at + 2)?;
        let true_len = u16::from_be_bytes([field[0], field[1]]);
        let shown = true_len.min(fits);
        field.copy_from_slice(&shown.to_be_bytes());
        let len = emit(out, &self.bytes[..self.len])?;
        out.get_mut(headers + at..headers + at + 2)?
            .copy_from_slice(&true_len.to_be_bytes());
        let sum = out.get_mut(headers - 6..headers - 4)?;
        let fixed = checksum::update_u16(u16::from_be_bytes([sum[0], sum[1]]), shown, true_len);
        sum.copy_from_slice(&fixed.to_be_bytes());
        Some(len)
    }

    /// A bridge can't fragment: a packet without DF is lost as well, but its sender did not ask to be told.
    fn of_ipv4(&mut self, out: &mut [u8], mtu: u16) -> Option<usize> {
        let fits = self.len as u16;
        self.build(out, (2, fits), 28, |out, quote| {
            let asked = Ipv4Packet::new_checked(quote).ok()?.dont_fragment();
            let may = asked && icmpv4::may_be_answered_with_error(quote);
            if may {
                icmpv4::emit_fragmentation_needed(out, quote, mtu).ok()
            } else {
                None
            }
        })
    }

    fn of_ipv6(&mut self, out: &mut [u8], mtu: u32) -> Option<usize> {
        let fits = self.len.checked_sub(40)? as u16;
        self.build(out, (4, fits), 48, |out, quote| {
            let may = icmpv6::may_be_answered_with_too_big(quote);
            if may {
                icmpv6::emit_packet_too_big(out, quote, mtu, None).ok()
            } else {
                None
            }
        })
    }
}
