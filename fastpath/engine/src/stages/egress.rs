//! Puts on every frame what its way out asks for, queues it for its port; counts and frees what was given up. The
//! end of every packet's way through the stages.

use super::{Cx, encap, finish, suppress};
use crate::ids::PackedDest;
use crate::packet::{Batch, Meta, Origin, Verdict};
use crate::{Dest, Domain, DropReason, MemberId, PortId, TagRule};
use clearway_io::{Frame, Leaving};
use clearway_wire::parse_tags;
use clearway_wire::vlan::{TAG_LEN, push_tag};

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    prepare(cx, batch);
    let (mut frames, metas) = batch.leave();
    let mut rest = metas;
    // Frames for one port go in runs, and are moved as such.
    while let Some(first) = rest.first() {
        let n = rest.iter().take_while(|meta| meta.out == first.out).count();
        let (run, later) = rest.split_at(n);
        if first.out == PortId::NONE {
            the_others(cx, &mut frames, run);
        } else if !cx.tx.push_run(first.out, &mut frames, n) {
            one_by_one(cx, &mut frames, run);
        }
        rest = later;
    }
}

/// Tags and outer headers, and the port. In place: moving a frame right after its change would wait for the change.
#[inline(always)]
fn prepare(cx: &mut Cx<'_>, batch: &mut Batch) {
    let snapshot = cx.snapshot;
    let (mut origin, mut domain) = (Origin::UNKNOWN, None);
    let (frames, metas) = batch.split();
    for (frame, meta) in frames.iter_mut().zip(metas) {
        let Verdict::Forward(to) = meta.verdict else {
            continue;
        };
        if !frame.needs().is_empty() {
            // One frame may become many: when it is its turn.
            continue;
        }
        if meta.origin != origin {
            (origin, domain) = (meta.origin, snapshot.domain(meta.origin.bd()));
        }
        let port = match domain {
            Some(domain) => dress(cx, frame, meta, domain, to),
            None => Err(DropReason::NoDomain),
        };
        match port {
            Ok(port) => meta.out = port,
            Err(reason) => meta.verdict = Verdict::Drop(reason),
        }
    }
}

/// Frames that are given up, and those that their sender left undone.
#[inline(never)]
fn the_others(cx: &mut Cx<'_>, frames: &mut Leaving<'_>, metas: &[Meta]) {
    for (meta, frame) in metas.iter().zip(frames) {
        match meta.verdict {
            Verdict::Drop(reason) => cx.drop(frame, reason),
            Verdict::Consumed => consume(cx, frame),
            Verdict::Question => {
                suppress::answer_for_vtep(cx, &frame, meta);
                consume(cx, frame);
            }
            Verdict::Forward(to) => match cx.snapshot.domain(meta.origin.bd()) {
                Some(domain) => emit(cx, frame, meta, domain, to),
                None => cx.drop(frame, DropReason::NoDomain),
            },
            // No stage leaves these; should one, the frame is accounted for all the same.
            Verdict::Next | Verdict::Flood => cx.drop(frame, DropReason::NoDomain),
        }
    }
}

/// Frees a frame that we answered.
fn consume(cx: &mut Cx<'_>, frame: Frame) {
    cx.ledger.consumed += 1;
    cx.pools.free(frame);
}

/// For a port that does not take all of a run.
#[inline(never)]
fn one_by_one(cx: &mut Cx<'_>, frames: &mut Leaving<'_>, metas: &[Meta]) {
    for (meta, frame) in metas.iter().zip(frames) {
        queue(cx, frame, meta.out);
    }
}

/// Makes a frame what its place in the domain gets; gives the port that leads there.
#[inline(always)]
fn dress(
    cx: &mut Cx<'_>,
    frame: &mut Frame,
    meta: &Meta,
    domain: &Domain,
    to: PackedDest,
) -> Result<PortId, DropReason> {
    match to.unpack() {
        Dest::Member(id) => to_member(frame, meta, domain, id),
        Dest::Tunnel(id) => encap::one(cx, frame, meta, domain, id),
    }
}

/// Sends one frame by itself: a copy, one of our own, or one that its sender left undone.
#[inline(never)]
pub(super) fn emit(cx: &mut Cx<'_>, mut frame: Frame, meta: &Meta, domain: &Domain, to: PackedDest) {
    let dressed = match to.unpack() {
        Dest::Tunnel(id) if !frame.needs().is_empty() => {
            return finish::to_tunnel(cx, frame, meta, domain, id);
        }
        _ => dress(cx, &mut frame, meta, domain, to),
    };
    match dressed {
        Ok(port) => queue(cx, frame, port),
        Err(reason) => cx.drop(frame, reason),
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
fn to_member(frame: &mut Frame, meta: &Meta, domain: &Domain, id: MemberId) -> Result<PortId, DropReason> {
    let member = domain.member(id).ok_or(DropReason::NoDomain)?;
    if member.tags.outer.is_some() {
        if !push_tags(frame, &member.tags, meta) {
            return Err(DropReason::NoHeadroom);
        }
    } else if member.tags.native && parse_tags(frame.bytes()).count > 0 {
        return Err(DropReason::VlanNotAllowed);
    }
    Ok(member.port)
}

fn push_tags(frame: &mut Frame, rule: &TagRule, meta: &Meta) -> bool {
    let (outer, inner) = rule.tags(meta.outer_tci, meta.inner_tci);
    [inner, outer]
        .into_iter()
        .flatten()
        .all(|tag| frame.push_front(TAG_LEN as u32) && push_tag(frame.bytes_mut(), tag))
}

/// Queues a frame for a port, finished and cut up if its receiver does not do that.
#[inline]
pub(crate) fn queue(cx: &mut Cx<'_>, frame: Frame, port: PortId) {
    if !frame.needs().is_empty() {
        return finish::to_port(cx, frame, port);
    }
    if let Err((frame, reason)) = cx.tx.push(port, frame) {
        cx.drop(frame, reason);
    }
}
