//! Finds where a frame's destination address is, within its domain.

use super::{Cx, learn};
use crate::fdb::GENERATION_MASK;
use crate::packet::{Batch, Meta, Verdict};
use crate::{Dest, Domain, DropReason, FdbKey};

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    let mut last: Option<(FdbKey, Dest, Verdict)> = None;
    for (_, meta) in batch.undecided() {
        let this = (meta.dst_key(), meta.source);
        meta.verdict = match last {
            Some((key, source, verdict)) if (key, source) == this => verdict,
            _ => {
                let verdict = find(cx, meta);
                last = Some((this.0, this.1, verdict));
                verdict
            }
        };
    }
}

#[inline(always)]
fn find(cx: &Cx<'_>, meta: &Meta) -> Verdict {
    if meta.dst >> 40 & 1 == 1 {
        return Verdict::Flood;
    }
    let Some(domain) = cx.snapshot.domain(meta.bd) else {
        return Verdict::Drop(DropReason::NoDomain);
    };
    let Some(entry) = cx.fdb.lookup(meta.dst_line, meta.dst_key()) else {
        return Verdict::Flood;
    };
    match learn::generation(cx, domain, entry.dest) {
        Some(generation) if generation & GENERATION_MASK == entry.generation => {}
        // Learned from a port or remote that is gone since.
        _ => return Verdict::Flood,
    }
    match forbidden(domain, meta.source, entry.dest) {
        None => Verdict::Forward(entry.dest),
        Some(reason) => Verdict::Drop(reason),
    }
}

/// Why a frame may not go from one place of a domain to another, if so.
#[inline(always)]
pub(super) fn forbidden(domain: &Domain, from: Dest, to: Dest) -> Option<DropReason> {
    if from == to {
        return Some(DropReason::SamePort);
    }
    match (from, to) {
        (Dest::Tunnel(_), Dest::Tunnel(_)) => Some(DropReason::SplitHorizon),
        (Dest::Member(from), Dest::Member(to)) => {
            let isolated = |id| domain.member(id).is_some_and(|member| member.isolated);
            (isolated(from) && isolated(to)).then_some(DropReason::Isolated)
        }
        _ => None,
    }
}
