//! Finds where a frame's destination address is, within its domain.

use super::{Cx, learn};
use crate::fdb::GENERATION_MASK;
use crate::packet::{Meta, Verdict};
use crate::{BdId, Dest, Domain, DropReason, FdbKey, Snapshot};

/// The domain of the packet before: most batches are of one.
#[derive(Default)]
pub(crate) struct LastDomain<'s>(Option<(BdId, &'s Domain)>);

impl<'s> LastDomain<'s> {
    /// The domain of a packet; a packet without one is dropped.
    #[inline(always)]
    pub(crate) fn get(&mut self, snapshot: &'s Snapshot, meta: &mut Meta) -> Option<&'s Domain> {
        match self.0 {
            Some((bd, domain)) if bd == meta.bd => return Some(domain),
            _ => {}
        }
        match snapshot.domain(meta.bd) {
            Some(domain) => {
                self.0 = Some((meta.bd, domain));
                Some(domain)
            }
            None => {
                meta.verdict = Verdict::Drop(DropReason::NoDomain);
                None
            }
        }
    }
}

/// What was found last: frames of one flow arrive in runs.
#[derive(Default)]
pub(crate) struct Last(Option<(FdbKey, Dest, Verdict)>);

#[inline(always)]
pub(crate) fn one(cx: &Cx<'_>, domain: &Domain, meta: &mut Meta, last: &mut Last) {
    let (key, source) = (meta.dst_key(), meta.source);
    meta.verdict = match last.0 {
        Some((k, s, verdict)) if (k, s) == (key, source) => verdict,
        _ => {
            let verdict = find(cx, domain, meta);
            last.0 = Some((key, source, verdict));
            verdict
        }
    };
}

#[inline(always)]
fn find(cx: &Cx<'_>, domain: &Domain, meta: &Meta) -> Verdict {
    if meta.dst >> 40 & 1 == 1 {
        return Verdict::Flood;
    }
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
