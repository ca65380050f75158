//! Answers ARP requests (RFC 826) and neighbour solicitations (RFC 4861 §7.2): for known hosts of a domain, so
//! that they are not flooded to every remote, and for a VTEP whose address nobody else has on its port.

use super::{Cx, decap, egress};
use crate::packet::Meta;
use crate::{Domain, FdbKey, PortId, Vtep};
use clearway_io::Frame;
use clearway_wire::arp::{self, Arp, Operation};
use clearway_wire::vlan::TAG_LEN;
use clearway_wire::{EtherType, MacAddr, Ndp, Tag, Tags, Tci, ndp, parse_tags};
use std::net::IpAddr;

/// Room for an Ethernet header, a tag, IPv6 and an advertisement with its option.
const REPLY: usize = 14 + TAG_LEN + 40 + 32;

/// Whether `frame` asked for a host that we know, and was answered.
pub(super) fn answered(cx: &mut Cx<'_>, domain: &Domain, frame: &Frame, meta: &Meta) -> bool {
    let Some(hosts) = &domain.hosts else { return false };
    let tags = parse_tags(frame.bytes());
    if tags.count > 0 {
        return false;
    }
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
    let Some(len) = reply(frame, &tags, None, known, &mut bytes) else {
        return false;
    };
    cx.counters.suppressed.add(1);
    emit_own(cx, &bytes[..len], meta, domain);
    true
}

/// An answer to who asks for the address of a VTEP that only we have: the port that it goes back to, its bytes and their
/// number.
type Answer = (PortId, [u8; REPLY], usize);

/// What answers a frame that asks for the address of a VTEP of this port; none: it does not, or somebody else answers.
pub(super) fn for_vtep(cx: &Cx<'_>, frame: &Frame, meta: &Meta) -> Option<Answer> {
    let vteps = cx.conf.vteps.iter().filter_map(|id| cx.snapshot.vtep(*id));
    vteps
        .filter_map(|vtep| Some((vtep, vtep.answers?)))
        // Whoever has asked before asks again without bothering the others (RFC 1122 §2.3.2.1, RFC 4861 §7.3.1).
        .filter(|(vtep, _)| meta.dst.is_group() || meta.dst.0 == vtep.mac)
        .find_map(|(vtep, port)| vtep_reply(vtep, port, frame, meta))
}

fn vtep_reply(vtep: &Vtep, port: PortId, frame: &Frame, meta: &Meta) -> Option<Answer> {
    let tags = parse_tags(frame.bytes());
    if decap::underlay_vid(&tags)? != vtep.vid.map_or(0, |vid| vid.get()) || meta.src.is_group() {
        return None;
    }
    let known = |ip: IpAddr| {
        let asked = vtep.local == ip.into() && meta.src.0 != vtep.mac;
        asked.then(|| MacAddr::from_u64(vtep.mac))
    };
    let tag = vtep.vid.map(|vid| Tag::customer(Tci(0).with_vid(vid)));
    let mut bytes = [0; REPLY];
    let len = reply(frame, &tags, tag, known, &mut bytes)?;
    Some((port, bytes, len))
}

/// Sends what [`for_vtep`] found.
pub(super) fn answer_for_vtep(cx: &mut Cx<'_>, frame: &Frame, meta: &Meta) {
    let Some((port, bytes, len)) = for_vtep(cx, frame, meta) else {
        return;
    };
    let region = cx.tx.region(port).or(cx.region);
    if let Some(frame) = region.and_then(|region| cx.pools.frame_from(region, &bytes[..len])) {
        cx.ledger.generated += 1;
        egress::queue(cx, frame, port);
    }
}

/// The frame, with this tag, that answers one which asks for an address that `known` has; its length.
fn reply(
    frame: &Frame,
    tags: &Tags,
    tag: Option<Tag>,
    known: impl Fn(IpAddr) -> Option<MacAddr>,
    out: &mut [u8; REPLY],
) -> Option<usize> {
    let request = frame.bytes();
    let packet = request.get(tags.l3_offset..)?;
    let l3 = 14 + if tag.is_some() { TAG_LEN } else { 0 };
    let (mac, len) = match tags.ethertype {
        EtherType::ARP => arp_reply(packet, known, &mut out[l3..])?,
        EtherType::IPV6 => advertisement(packet, known, &mut out[l3..])?,
        _ => return None,
    };
    out[..6].copy_from_slice(request.get(6..12)?);
    out[6..12].copy_from_slice(&mac.0);
    if let Some(tag) = tag {
        out[12..14].copy_from_slice(&tag.tpid.0.to_be_bytes());
        out[14..16].copy_from_slice(&tag.tci.0.to_be_bytes());
    }
    out[l3 - 2..l3].copy_from_slice(&tags.ethertype.0.to_be_bytes());
    // 60 bytes: the least that an Ethernet frame has without FCS; a tag comes on top.
    Some(l3 + len.max(46))
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
