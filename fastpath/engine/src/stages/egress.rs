//! Tags frames for their port and queues them there; counts and frees what was given up. The end of every
//! packet's way through the stages.

use super::lookup::LastDomain;
use super::{Cx, encap};
use crate::ids::PackedDest;
use crate::packet::{Batch, Meta, Verdict};
use crate::{Dest, Domain, DropReason, MemberId, PortId, TagRule};
use clearway_io::Frame;
use clearway_wire::vlan::{TAG_LEN, push_tag};

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    let mut domain = LastDomain::default();
    let snapshot = cx.snapshot;
    let (frames, metas) = batch.split();
    for (frame, meta) in frames.iter_mut().zip(metas) {
        let frame = std::mem::take(frame);
        if let Verdict::Forward(to) = meta.verdict {
            match domain.get(snapshot, meta) {
                Some(domain) => emit(cx, frame, meta, domain, to),
                None => cx.drop(frame, DropReason::NoDomain),
            }
        } else {
            give_up(cx, frame, meta.verdict);
        }
    }
    batch.frames.clear();
}

#[inline(never)]
fn give_up(cx: &mut Cx<'_>, frame: Frame, verdict: Verdict) {
    match verdict {
        Verdict::Drop(reason) => cx.drop(frame, reason),
        Verdict::Consumed => {
            cx.ledger.consumed += 1;
            cx.pools.free(frame);
        }
        // No stage leaves these; should one, the frame is accounted for all the same.
        Verdict::Next | Verdict::Flood | Verdict::Forward(_) => cx.drop(frame, DropReason::NoDomain),
    }
}

/// Sends one frame to a place of its domain.
#[inline(always)]
pub(super) fn emit(cx: &mut Cx<'_>, mut frame: Frame, meta: &Meta, domain: &Domain, to: PackedDest) {
    match to.unpack() {
        Dest::Member(id) => to_member(cx, frame, meta, domain, id),
        Dest::Tunnel(id) => match encap::one(cx, &mut frame, meta, domain, id) {
            Ok(port) => queue(cx, frame, port),
            Err(reason) => cx.drop(frame, reason),
        },
    }
}

/// The port that leads to a place.
pub(super) fn port_of(cx: &Cx<'_>, domain: &Domain, to: PackedDest) -> Option<PortId> {
    match to.unpack() {
        Dest::Member(id) => domain.member(id).map(|member| member.port),
        Dest::Tunnel(id) => cx.snapshot.tunnel(id).map(|tunnel| tunnel.port),
    }
}

#[inline(always)]
fn to_member(cx: &mut Cx<'_>, mut frame: Frame, meta: &Meta, domain: &Domain, id: MemberId) {
    let Some(member) = domain.member(id) else {
        return cx.drop(frame, DropReason::NoDomain);
    };
    if member.tags.outer.is_some() && !push_tags(&mut frame, &member.tags, meta) {
        return cx.drop(frame, DropReason::NoHeadroom);
    }
    queue(cx, frame, member.port);
}

fn push_tags(frame: &mut Frame, rule: &TagRule, meta: &Meta) -> bool {
    let (outer, inner) = rule.tags(meta.outer_tci, meta.inner_tci);
    [inner, outer]
        .into_iter()
        .flatten()
        .all(|tag| frame.push_front(TAG_LEN as u32) && push_tag(frame.bytes_mut(), tag))
}

#[inline(always)]
fn queue(cx: &mut Cx<'_>, frame: Frame, port: PortId) {
    if let Err((frame, reason)) = cx.tx.push(port, frame) {
        cx.drop(frame, reason);
    }
}
