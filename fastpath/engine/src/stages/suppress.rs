//! Answers ARP requests (RFC 826) and neighbour solicitations (RFC 4861 §7.2) for known hosts of a domain, so
//! that they are not flooded to every remote.

use super::{Cx, egress};
use crate::packet::Meta;
use crate::{Domain, FdbKey};
use clearway_io::Frame;
use clearway_wire::arp::{self, Arp, Operation};
use clearway_wire::{EtherType, MacAddr, Ndp, ndp, parse_tags};
use std::net::IpAddr;

/// Room for an Ethernet header, IPv6 and an advertisement with its option.
const REPLY: usize = 14 + 40 + 32;

/// Whether `frame` asked for a host that we know, and was answered.
pub(super) fn answered(cx: &mut Cx<'_>, domain: &Domain, frame: &Frame, meta: &Meta) -> bool {
    let Some(hosts) = &domain.hosts else { return false };
    let tags = parse_tags(frame.bytes());
    let (0, Some(packet)) = (tags.count, frame.bytes().get(tags.l3_offset..)) else {
        return false;
    };
    let known = |ip: IpAddr| {
        let mac = *hosts.get(&ip)?;
        // Who asks for itself (duplicate address detection), or sits where the host is, asks the host.
        let there = cx
            .fdb
            .get(FdbKey::new(meta.origin.bd(), mac))
            .map(|entry| entry.dest.into());
        (mac != meta.src.mac() && there != Some(meta.origin.source())).then(|| MacAddr::from_u64(mac))
    };
    let mut bytes = [0; REPLY];
    let len = match tags.ethertype {
        EtherType::ARP => arp_reply(packet, known, &mut bytes[14..]),
        EtherType::IPV6 => advertisement(packet, known, &mut bytes[14..]),
        _ => None,
    };
    let Some((mac, len)) = len else { return false };
    bytes[..6].copy_from_slice(&MacAddr::from_u64(meta.src.mac()).0);
    bytes[6..12].copy_from_slice(&mac.0);
    bytes[12..14].copy_from_slice(&tags.ethertype.0.to_be_bytes());
    // 60 bytes: the least that an Ethernet frame has without FCS.
    let reply = &bytes[..(14 + len).max(60)];
    cx.counters.suppressed.add(1);
    emit_own(cx, reply, meta, domain);
    true
}

/// Sends a frame of our own back to where another came from.
pub(super) fn emit_own(cx: &mut Cx<'_>, bytes: &[u8], meta: &Meta, domain: &Domain) {
    let to = meta.origin.source();
    let region = egress::port_of(cx, domain, to)
        .and_then(|port| cx.tx.region(port))
        .or(cx.region);
    if let Some(frame) = region.and_then(|region| cx.pools.frame_from(region, bytes)) {
        cx.ledger.generated += 1;
        egress::emit(cx, frame, meta, domain, to);
    }
}

fn arp_reply(
    packet: &[u8],
    known: impl Fn(IpAddr) -> Option<MacAddr>,
    out: &mut [u8],
) -> Option<(MacAddr, usize)> {
    let request = Arp::parse(packet).ok()?;
    if request.operation != Operation::REQUEST || request.is_announcement() {
        return None;
    }
    let mac = known(request.tpa.into())?;
    out.get_mut(..arp::PACKET_LEN)?
        .copy_from_slice(&request.reply(mac).to_bytes());
    Some((mac, arp::PACKET_LEN))
}

fn advertisement(
    packet: &[u8],
    known: impl Fn(IpAddr) -> Option<MacAddr>,
    out: &mut [u8],
) -> Option<(MacAddr, usize)> {
    let solicitation = Ndp::parse(packet).ok()?;
    if !matches!(solicitation.message, ndp::Message::Solicitation { .. }) {
        return None;
    }
    let mac = known(solicitation.target.into())?;
    let len = solicitation.advertisement(mac, false)?.emit(out).ok()?;
    Some((mac, len))
}
