//! Finds where a frame's destination address is, within its domain.

use super::Cx;
use crate::fdb::GENERATION_MASK;
use crate::ids::PackedDest;
use crate::packet::{Meta, Verdict};
use crate::{Dest, Domain, DropReason};

/// What is to become of a packet that `domain` takes to its destination.
#[inline(always)]
pub(crate) fn one(cx: &Cx<'_>, domain: &Domain, meta: &Meta) -> Verdict {
    if meta.dst.is_group() {
        return Verdict::Flood;
    }
    let Some(value) = cx.fdb.lookup(meta.dst_line, meta.dst) else {
        return Verdict::Flood;
    };
    let (source, dest) = (meta.origin.source(), value.dest());
    // What was learned from a port or remote that is gone since is void.
    let (generation, refused) = match dest.unpack() {
        Dest::Tunnel(id) => match cx.snapshot.tunnel(id) {
            Some(tunnel) => (tunnel.generation, source.is_tunnel()),
            None => return Verdict::Flood,
        },
        Dest::Member(id) => match domain.member(id) {
            Some(member) => (member.generation, member.isolated || source == dest),
            None => return Verdict::Flood,
        },
    };
    if generation & GENERATION_MASK != value.generation() {
        return Verdict::Flood;
    }
    match refused.then(|| forbidden(domain, source, dest)).flatten() {
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
