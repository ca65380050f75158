//! Finds where a frame's destination address is, within its domain.

use super::Cx;
use crate::fdb::GENERATION_MASK;
use crate::ids::PackedDest;
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
pub(crate) struct Last {
    key: FdbKey,
    source: PackedDest,
    verdict: Verdict,
}

impl Default for Last {
    fn default() -> Self {
        Self {
            key: FdbKey(0),
            source: PackedDest::NONE,
            verdict: Verdict::Next,
        }
    }
}

#[inline(always)]
pub(crate) fn one(cx: &Cx<'_>, domain: &Domain, meta: &mut Meta, last: &mut Last) {
    let key = meta.dst_key();
    if (last.key, last.source) != (key, meta.source) {
        *last = Last {
            key,
            source: meta.source,
            verdict: find(cx, domain, meta, key),
        };
    }
    meta.verdict = last.verdict;
}

#[inline(always)]
fn find(cx: &Cx<'_>, domain: &Domain, meta: &Meta, key: FdbKey) -> Verdict {
    if meta.dst >> 40 & 1 == 1 {
        return Verdict::Flood;
    }
    let Some(value) = cx.fdb.lookup(meta.dst_line, key) else {
        return Verdict::Flood;
    };
    let dest = value.dest();
    // What was learned from a port or remote that is gone since is void.
    let (generation, refused) = match dest.unpack() {
        Dest::Tunnel(id) => match cx.snapshot.tunnel(id) {
            Some(tunnel) => (tunnel.generation, meta.source.is_tunnel()),
            None => return Verdict::Flood,
        },
        Dest::Member(id) => match domain.member(id) {
            Some(member) => (member.generation, member.isolated || meta.source == dest),
            None => return Verdict::Flood,
        },
    };
    if generation & GENERATION_MASK != value.generation() {
        return Verdict::Flood;
    }
    match refused.then(|| forbidden(domain, meta.source, dest)).flatten() {
        None => Verdict::Forward(dest),
        Some(reason) => Verdict::Drop(reason),
    }
}

/// Why a frame may not go from one place of a domain to another, if so.
#[inline(never)]
pub(super) fn forbidden(domain: &Domain, from: PackedDest, to: PackedDest) -> Option<DropReason> {
    if from == to {
        return Some(DropReason::SamePort);
    }
    if from.is_tunnel() && to.is_tunnel() {
        return Some(DropReason::SplitHorizon);
    }
    let isolated = |at: PackedDest| match at.unpack() {
        Dest::Member(id) => domain.member(id).is_some_and(|member| member.isolated),
        Dest::Tunnel(_) => false,
    };
    (isolated(to) && isolated(from)).then_some(DropReason::Isolated)
}
