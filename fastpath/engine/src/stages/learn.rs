//! Enters source addresses into the FDB, and keeps out those that a port may not use.

use super::{Cx, egress};
use crate::fdb::{Sighting, Value};
use crate::ids::PackedDest;
use crate::packet::{Meta, Verdict};
use crate::{Dest, Domain, DropReason, Fdb, LearnRules, Learned};

/// Works out where both addresses of a packet are in the table and starts loading those lines, a pass ahead of
/// their use.
#[inline(always)]
pub(crate) fn prefetch(fdb: &Fdb, meta: &mut Meta) {
    let bd = meta.origin.bd();
    meta.src = meta.src.in_domain(bd);
    meta.src_line = fdb.line(meta.src);
    fdb.prefetch(meta.src_line);
    meta.dst = meta.dst.in_domain(bd);
    meta.dst_line = fdb.line(meta.dst);
    fdb.prefetch(meta.dst_line);
}

/// Learns where a source address is. `fresh` is the entry that it makes, none if it is not to be learned; `guarded`:
/// the port has a list of allowed addresses. True if the address is known to be there now; the verdict tells whether
/// the packet may go on.
#[inline(always)]
pub(crate) fn one(
    cx: &Cx<'_>,
    domain: &Domain,
    meta: &mut Meta,
    guarded: bool,
    fresh: Option<Value>,
) -> bool {
    let spoofed = guarded && is_spoofed(cx, meta);
    if !spoofed && fresh.is_some_and(|fresh| cx.fdb.refresh(meta.src_line, meta.src, fresh)) {
        return true;
    }
    // Such an address is never in the table, so this is soon enough.
    let invalid = meta.src.is_group() || meta.src.mac() == 0;
    if invalid || spoofed {
        meta.verdict = Verdict::Drop(if invalid {
            DropReason::InvalidSource
        } else {
            DropReason::SpoofedSource
        });
        return false;
    }
    fresh.is_none() || news(cx, domain, meta)
}

/// The entry that a frame from `source` makes; none: it is not to be learned.
#[inline]
pub(crate) fn fresh(cx: &Cx<'_>, domain: &Domain, source: PackedDest) -> Option<Value> {
    if !domain.learning || !cx.conf.learning {
        return None;
    }
    sighting(cx, domain, source).map(Sighting::value)
}

fn sighting(cx: &Cx<'_>, domain: &Domain, source: PackedDest) -> Option<Sighting> {
    let dest = source.unpack();
    let generation = generation(cx, domain, dest)?;
    Some(Sighting {
        dest,
        generation,
        now: cx.now.s,
    })
}

/// Frames of remotes carry other people's addresses; all others must be on the port's list.
#[inline(never)]
fn is_spoofed(cx: &Cx<'_>, meta: &Meta) -> bool {
    !meta.origin.source().is_tunnel() && !cx.conf.allowed_macs.contains(&meta.src.mac())
}

/// The address is not known, or known to be elsewhere. True if it is now known to be where it was seen.
#[cold]
fn news(cx: &Cx<'_>, domain: &Domain, meta: &Meta) -> bool {
    let Some(seen) = sighting(cx, domain, meta.origin.source()) else {
        return false;
    };
    let rules = LearnRules {
        port_limit: cx.conf.learn_limit,
        ..domain.rules
    };
    let here = egress::port_of(cx, domain, meta.origin.source());
    let same_port = |other| egress::port_of(cx, domain, other) == here;
    match cx
        .fdb
        .learn(meta.src_line, meta.src, seen, &rules, &cx.conf.entries, same_port)
    {
        Learned::Known | Learned::New => return true,
        Learned::Moved => {
            cx.counters.moves.add(1);
            return true;
        }
        Learned::Damped => cx.counters.moves_damped.add(1),
        Learned::Static | Learned::Limit | Learned::Full => cx.counters.learn_refused.add(1),
    }
    false
}

/// The generation that entries of this place carry; none: the place is gone.
fn generation(cx: &Cx<'_>, domain: &Domain, dest: Dest) -> Option<u16> {
    match dest {
        Dest::Member(id) => domain.member(id).map(|member| member.generation),
        Dest::Tunnel(id) => cx.snapshot.tunnel(id).map(|tunnel| tunnel.generation),
    }
}
