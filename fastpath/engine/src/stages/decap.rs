//! Takes frames out of the VXLAN that is meant for one of our VTEPs (RFC 7348 §4.1). The outer headers stay
//! in the headroom: an offset moves, no byte is copied.

use super::{Cx, parse};
use crate::packet::{Batch, Meta, Verdict};
use crate::{Dest, DropReason, Service, TunnelId, Vtep};
use clearway_io::Frame;
use clearway_wire::vxlan::Outer;
use clearway_wire::{EtherType, MappedIp, parse_tags, udp};

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    // Frames of one remote arrive in runs.
    let mut last: Option<(MappedIp, TunnelId)> = None;
    for (frame, meta) in batch.undecided() {
        let Some((vtep, datagram)) = addressed(cx, frame, meta) else {
            continue;
        };
        let outer = match datagram.map(|datagram| Outer::from_datagram(frame.bytes(), datagram)) {
            Some(Ok(outer)) => outer,
            Some(Err(_)) | None => {
                meta.verdict = Verdict::Drop(DropReason::VxlanMalformed);
                continue;
            }
        };
        let tunnel = match last {
            Some((src, tunnel)) if src == outer.src => Some(tunnel),
            _ => vtep.remotes.get(&outer.src).copied(),
        };
        let Some(tunnel) = tunnel else {
            meta.verdict = Verdict::Drop(DropReason::UnknownRemote);
            continue;
        };
        last = Some((outer.src, tunnel));
        let Some(bd) = vtep.vnis.get(outer.vni) else {
            meta.verdict = Verdict::Drop(DropReason::UnknownVni);
            continue;
        };
        if !frame.advance(outer.inner_offset as u32) {
            meta.verdict = Verdict::Drop(DropReason::VxlanMalformed);
            continue;
        }
        frame.truncate(outer.inner_len as u32);
        meta.bd = bd;
        meta.source = Dest::Tunnel(tunnel);
        parse::read_addresses(frame.bytes(), meta);
    }
}

/// The VTEP of this port that a frame is addressed to, and the datagram (none: it is addressed to the VTEP,
/// but broken). None: it is somebody else's.
#[inline]
fn addressed<'s>(cx: &Cx<'s>, frame: &Frame, meta: &Meta) -> Option<(&'s Vtep, Option<udp::Datagram>)> {
    let bytes = frame.bytes();
    let tags = parse_tags(bytes);
    if !matches!(tags.ethertype, EtherType::IPV4 | EtherType::IPV6) || tags.inner.is_some() {
        return None;
    }
    let vid = tags.outer.map_or(0, |tag| tag.tci.vid_bits());
    let datagram = udp::udp_datagram_of(bytes, tags.l3_offset, frame.len() as usize);
    for id in &cx.conf.vteps {
        let Some(vtep) = cx.snapshot.vtep(*id) else {
            continue;
        };
        if meta.dst != vtep.mac || vid != vtep.vid.map_or(0, |vid| vid.get()) {
            continue;
        }
        match datagram {
            Ok(datagram) if datagram.dst == vtep.local && datagram.dst_port == vtep.udp_port => {
                return Some((vtep, Some(datagram)));
            }
            // On a port that carries nothing but VXLAN, what was sent to us and is broken was meant as such.
            Err(error) if is_broken(error) && matches!(cx.conf.service, Service::None) => {
                return Some((vtep, None));
            }
            _ => {}
        }
    }
    None
}

/// Whether a datagram is damaged, rather than something else.
fn is_broken(error: udp::OuterError) -> bool {
    !matches!(error, udp::OuterError::NotUdp | udp::OuterError::ExtensionHeader)
}
