//! Takes frames out of the VXLAN that is meant for one of our VTEPs (RFC 7348 §4.1). The outer headers stay
//! in the headroom: an offset moves, no byte is copied. Who asks for the address of a VTEP that only we have is answered.

use super::{Cx, parse, suppress};
use crate::packet::{Meta, Origin, Verdict};
use crate::{BdId, Dest, DropReason, Service, TunnelId, Vtep};
use clearway_io::{Frame, Offloads};
use clearway_wire::vxlan::Outer;
use clearway_wire::{EtherType, MappedIp, PlainOuter, Tags, Vni, parse_tags, udp};

/// The remote of the packet before, and whose it was: those of one remote arrive in runs.
#[derive(Default)]
pub(crate) struct LastRemote<'s>(Option<(&'s Vtep, MappedIp, TunnelId)>);

#[inline(always)]
pub(crate) fn one<'s>(cx: &Cx<'s>, frame: &mut Frame, meta: &mut Meta, last: &mut LastRemote<'s>) {
    let inner = match plain(cx, frame, meta) {
        Some((vtep, inner)) => enter(vtep, inner, frame, last),
        None => match addressed(cx, frame, meta) {
            Some((vtep, Some(inner))) => enter(vtep, inner, frame, last),
            Some((_, None)) => Err(DropReason::VxlanMalformed),
            None => return others(cx, frame, meta),
        },
    };
    match inner {
        Ok((bd, tunnel)) => {
            meta.origin = Origin::new(bd, Dest::Tunnel(tunnel).into());
            parse::addresses(frame.bytes(), meta);
        }
        Err(reason) => meta.verdict = Verdict::Drop(reason),
    }
}

/// The frame inside: who sent it, which VNI it is of, where it lies.
struct Inner {
    src: MappedIp,
    vni: Vni,
    offset: usize,
    len: usize,
}

/// The usual case, looked at in one go.
#[inline(always)]
fn plain<'s>(cx: &Cx<'s>, frame: &Frame, meta: &Meta) -> Option<(&'s Vtep, Inner)> {
    let outer = PlainOuter::parse(frame.bytes(), frame.len() as usize)?;
    let vtep = cx
        .conf
        .vteps
        .iter()
        .filter_map(|id| cx.snapshot.vtep(*id))
        .find(|vtep| {
            vtep.local == outer.dst
                && vtep.udp_port == outer.dst_port
                && vtep.mac == meta.dst.0
                && vtep.vid.is_none()
        })?;
    let PlainOuter {
        src, vni, inner_len, ..
    } = outer;
    Some((
        vtep,
        Inner {
            src,
            vni,
            offset: PlainOuter::LEN,
            len: inner_len,
        },
    ))
}

/// Removes the outer headers; gives domain and tunnel of the frame inside.
#[inline(always)]
fn enter<'s>(
    vtep: &'s Vtep,
    inner: Inner,
    frame: &mut Frame,
    last: &mut LastRemote<'s>,
) -> Result<(BdId, TunnelId), DropReason> {
    let tunnel = match last.0 {
        Some((of, src, tunnel)) if src == inner.src && std::ptr::eq(of, vtep) => tunnel,
        _ => *vtep.remotes.get(&inner.src).ok_or(DropReason::UnknownRemote)?,
    };
    last.0 = Some((vtep, inner.src, tunnel));
    let bd = vtep.vnis.get(inner.vni).ok_or(DropReason::UnknownVni)?;
    if !frame.advance(inner.offset as u32) {
        return Err(DropReason::VxlanMalformed);
    }
    if !frame.needs().is_empty() {
        settle(frame)?;
    }
    frame.truncate(inner.len as u32);
    Ok((bd, tunnel))
}

/// What a sender left undone on the frame inside, it still needs. An outer checksum that is gone now needs nobody, but an
/// outer datagram that was to be cut up had many frames inside, or none.
#[cold]
fn settle(frame: &mut Frame) -> Result<(), DropReason> {
    if frame.offload().is_some() {
        return Ok(());
    }
    if frame.needs().intersects(Offloads::GSO) {
        return Err(DropReason::VxlanMalformed);
    }
    frame.clear_offload();
    Ok(())
}

/// The VTEP of this port that a frame is addressed to, and what is inside (none: it is addressed to the VTEP,
/// but broken). None: it is somebody else's.
#[inline(never)]
fn addressed<'s>(cx: &Cx<'s>, frame: &Frame, meta: &Meta) -> Option<(&'s Vtep, Option<Inner>)> {
    let bytes = frame.bytes();
    let tags = parse_tags(bytes);
    if !matches!(tags.ethertype, EtherType::IPV4 | EtherType::IPV6) {
        return None;
    }
    let vid = underlay_vid(&tags)?;
    let datagram = udp::udp_datagram_of(bytes, tags.l3_offset, frame.len() as usize);
    let ours = |vtep: &&Vtep| meta.dst.0 == vtep.mac && vid == vtep.vid.map_or(0, |vid| vid.get());
    for vtep in cx
        .conf
        .vteps
        .iter()
        .filter_map(|id| cx.snapshot.vtep(*id))
        .filter(ours)
    {
        match datagram {
            Ok(datagram) if datagram.dst == vtep.local && datagram.dst_port == vtep.udp_port => {
                let outer = Outer::from_datagram(bytes, datagram).ok();
                let inner = outer.map(|outer| Inner {
                    src: outer.src,
                    vni: outer.vni,
                    offset: outer.inner_offset,
                    len: outer.inner_len,
                });
                return Some((vtep, inner));
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

/// What is not VXLAN may ask for the address of a VTEP of this port.
#[inline(never)]
fn others(cx: &Cx<'_>, frame: &Frame, meta: &mut Meta) {
    if suppress::for_vtep(cx, frame, meta).is_some() {
        meta.verdict = Verdict::Question;
    }
}

/// The VID of a frame as a VTEP's VLAN is compared with it: 0 without a tag. None: no VTEP is there.
#[inline]
pub(super) fn underlay_vid(tags: &Tags) -> Option<u16> {
    match (tags.outer, tags.inner) {
        (None, None) => Some(0),
        (Some(tag), None) if tag.tpid == EtherType::VLAN => Some(tag.tci.vid_bits()),
        _ => None,
    }
}

/// Whether a datagram is damaged, rather than something else.
fn is_broken(error: udp::OuterError) -> bool {
    !matches!(error, udp::OuterError::NotUdp | udp::OuterError::ExtensionHeader)
}
