//! Tells the sender of an IP packet that it does not fit a tunnel: ICMP "fragmentation needed" (RFC 1191) or
//! ICMPv6 "packet too big" (RFC 8201), with the addresses of the packet exchanged, as the kernel's VXLAN
//! device does for bridged traffic (`skb_tunnel_check_pmtu`).

use super::{Cx, suppress};
use crate::Domain;
use crate::packet::Meta;
use clearway_io::Frame;
use clearway_wire::vlan::TAG_LEN;
use clearway_wire::{EtherType, Ipv4Packet, MacAddr, icmpv4, icmpv6, parse_tags};

/// `max_inner` is the largest frame that would have fitted.
pub(super) fn report(cx: &mut Cx<'_>, frame: &Frame, meta: &Meta, domain: &Domain, max_inner: u32) {
    let tags = parse_tags(frame.bytes());
    let l3 = tags.l3_offset;
    let (Some(header), Some(original)) = (frame.bytes().get(..l3), frame.bytes().get(l3..)) else {
        return;
    };
    let mtu = max_inner.saturating_sub(l3 as u32);
    let mut bytes = [0; 14 + 2 * TAG_LEN + icmpv6::MAX_ERROR_LEN];
    bytes[..l3].copy_from_slice(header);
    bytes[..6].copy_from_slice(&MacAddr::from_u64(meta.src).0);
    bytes[6..12].copy_from_slice(&MacAddr::from_u64(meta.dst).0);
    let out = &mut bytes[l3..];
    let len = match tags.ethertype {
        EtherType::IPV4 if must_not_fragment(original) && icmpv4::may_be_answered_with_error(original) => {
            icmpv4::emit_fragmentation_needed(out, original, mtu.min(u16::MAX.into()) as u16)
        }
        EtherType::IPV6 if icmpv6::may_be_answered_with_too_big(original) => {
            icmpv6::emit_packet_too_big(out, original, mtu, None)
        }
        _ => return,
    };
    let Ok(len) = len else { return };
    suppress::emit_own(cx, &bytes[..(l3 + len).max(60)], meta, domain);
}

/// A bridge can't fragment: a packet without DF is lost as well, but its sender did not ask to be told.
fn must_not_fragment(original: &[u8]) -> bool {
    Ipv4Packet::new_unchecked(original).dont_fragment()
}
