//! Takes frames out of the VXLAN that is meant for one of our VTEPs (RFC 7348 §4.1). The outer headers stay
//! in the headroom: an offset moves, no byte is copied.

use super::{Cx, parse};
use crate::packet::{Meta, Verdict};
use crate::{BdId, Dest, DropReason, Service, TunnelId, Vtep};
use clearway_io::Frame;
use clearway_wire::vxlan::Outer;
use clearway_wire::{EtherType, MappedIp, parse_tags, udp};

/// The remote of the packet before: those of one remote arrive in runs.
#[derive(Default)]
pub(crate) struct LastRemote(Option<(MappedIp, TunnelId)>);

#[inline(always)]
pub(crate) fn one(cx: &Cx<'_>, frame: &mut Frame, meta: &mut Meta, last: &mut LastRemote) {
    let Some((vtep, datagram)) = addressed(cx, frame, meta) else {
        return;
    };
    match unwrap(vtep, datagram, frame, last) {
        Ok((bd, tunnel)) => {
            meta.bd = bd;
            meta.source = Dest::Tunnel(tunnel);
            parse::addresses(frame.bytes(), meta);
        }
        Err(reason) => meta.verdict = Verdict::Drop(reason),
    }
}

/// Removes the outer headers; gives domain and tunnel of the frame inside.
#[inline(always)]
fn unwrap(
    vtep: &Vtep,
    datagram: Option<udp::Datagram>,
    frame: &mut Frame,
    last: &mut LastRemote,
) -> Result<(BdId, TunnelId), DropReason> {
    let datagram = datagram.ok_or(DropReason::VxlanMalformed)?;
    let outer = Outer::from_datagram(frame.bytes(), datagram).map_err(|_| DropReason::VxlanMalformed)?;
    let tunnel = match last.0 {
        Some((src, tunnel)) if src == outer.src => tunnel,
        _ => *vtep.remotes.get(&outer.src).ok_or(DropReason::UnknownRemote)?,
    };
    last.0 = Some((outer.src, tunnel));
    let bd = vtep.vnis.get(outer.vni).ok_or(DropReason::UnknownVni)?;
    if !frame.advance(outer.inner_offset as u32) {
        return Err(DropReason::VxlanMalformed);
    }
    frame.truncate(outer.inner_len as u32);
    Ok((bd, tunnel))
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
