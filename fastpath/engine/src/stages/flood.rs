//! Replicates broadcast, multicast and unknown frames to the members and remotes of their domain (head-end
//! replication, RFC 7348 §4.2). Copies go out at once; the last destination gets the original.

use super::{Cx, egress, lookup, suppress};
use crate::ids::PackedDest;
use crate::packet::{Batch, Meta, Verdict};
use crate::storm::FloodClass;
use crate::tx::Route;
use crate::{Dest, Domain, DropReason, MemberId};
use clearway_io::Frame;

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    let (frames, metas) = batch.split();
    for (frame, meta) in frames.iter_mut().zip(metas) {
        if meta.verdict == Verdict::Flood {
            meta.verdict = one(cx, frame, meta);
        }
    }
}

fn one(cx: &mut Cx<'_>, frame: &mut Frame, meta: &Meta) -> Verdict {
    let snapshot = cx.snapshot;
    let Some(domain) = snapshot.domain(meta.origin.bd()) else {
        return Verdict::Drop(DropReason::NoDomain);
    };
    let limits = &cx.conf.storm;
    if let Err(reason) = cx
        .conf
        .storm_buckets
        .admit(FloodClass::of(meta.dst.mac()), limits, cx.now.ns)
    {
        return Verdict::Drop(reason);
    }
    if suppress::answered(cx, domain, frame, meta) {
        return Verdict::Consumed;
    }
    let mut last = None;
    for target in targets(domain, meta.origin.source()) {
        // What is down gets no copy: nobody waits for it there.
        let up = egress::port_of(cx, domain, target).is_some_and(|port| cx.tx.route(port) != Route::None);
        if up && let Some(earlier) = last.replace(target) {
            // A guest's memory is read once: all copies are of the same.
            if !cx.pools.make_own(frame) {
                return Verdict::Drop(DropReason::NoChunks);
            }
            copy_to(cx, frame, meta, domain, earlier);
        }
    }
    last.map_or(Verdict::Drop(DropReason::NoDestination), Verdict::Forward)
}

/// Everywhere but back.
fn targets(domain: &Domain, source: PackedDest) -> impl Iterator<Item = PackedDest> {
    let members = (0..domain.members.len() as u16)
        .filter(|id| domain.members[usize::from(*id)].is_some())
        .map(|id| Dest::Member(MemberId(id)).into());
    members
        .chain(domain.remotes.iter().map(|id| Dest::Tunnel(*id).into()))
        .filter(move |to| lookup::forbidden(domain, source, *to).is_none())
}

fn copy_to(cx: &mut Cx<'_>, frame: &Frame, meta: &Meta, domain: &Domain, target: PackedDest) {
    let region = egress::port_of(cx, domain, target).and_then(|port| cx.tx.region(port));
    // A port without a queue here copies for itself, if it must.
    let region = region.or(frame.region());
    // A copy that there is no chunk for counts as made and dropped: the ledger shows what was lost.
    cx.ledger.replicated += 1;
    match region.and_then(|region| cx.pools.copy(frame, region)) {
        Some(copy) => egress::emit(cx, copy, meta, domain, target),
        None => cx.drop(Frame::default(), DropReason::NoChunks),
    }
}
