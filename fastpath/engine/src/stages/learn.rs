//! Enters source addresses into the FDB, and keeps out those that a port may not use.

use super::Cx;
use crate::fdb::Sighting;
use crate::packet::{Meta, Verdict};
use crate::{Dest, Domain, DropReason, Fdb, FdbKey, LearnRules, Learned};

/// What was learned last and where: frames of one sender arrive in runs.
#[derive(Default)]
pub(crate) struct Last(Option<(FdbKey, Dest)>);

/// Works out where both addresses of a packet are in the table and starts loading those lines, a pass ahead of
/// their use.
#[inline(always)]
pub(crate) fn prefetch(fdb: &Fdb, meta: &mut Meta) {
    meta.src_line = fdb.line(meta.src_key());
    fdb.prefetch(meta.src_line);
    meta.dst_line = fdb.line(meta.dst_key());
    fdb.prefetch(meta.dst_line);
}

#[inline(always)]
pub(crate) fn one(cx: &Cx<'_>, domain: &Domain, meta: &mut Meta, last: &mut Last) {
    let this = (meta.src_key(), meta.source);
    if last.0 == Some(this) {
        return;
    }
    if let Some(reason) = refused(cx, meta) {
        meta.verdict = Verdict::Drop(reason);
    } else if !domain.learning || !cx.conf.learning || learn(cx, domain, meta) {
        last.0 = Some(this);
    }
}

/// Why a source address may not be used, if so.
#[inline(always)]
fn refused(cx: &Cx<'_>, meta: &Meta) -> Option<DropReason> {
    if meta.src >> 40 & 1 == 1 || meta.src == 0 {
        return Some(DropReason::InvalidSource);
    }
    let allowed = &cx.conf.allowed_macs;
    // Frames of remotes carry other people's addresses.
    if !allowed.is_empty() && !meta.source.is_tunnel() && !allowed.contains(&meta.src) {
        return Some(DropReason::SpoofedSource);
    }
    None
}

/// Learns one address. True if it is now known to be where it came from.
#[inline(always)]
fn learn(cx: &Cx<'_>, domain: &Domain, meta: &Meta) -> bool {
    let Some(generation) = generation(cx, domain, meta.source) else {
        return false;
    };
    let seen = Sighting {
        dest: meta.source,
        generation,
        now: cx.now.s,
    };
    cx.fdb.refresh(meta.src_line, meta.src_key(), seen) || news(cx, domain, meta, seen)
}

/// The address is not known, or known to be elsewhere.
#[cold]
fn news(cx: &Cx<'_>, domain: &Domain, meta: &Meta, seen: Sighting) -> bool {
    let rules = LearnRules {
        port_limit: cx.conf.learn_limit,
        ..domain.rules
    };
    match cx
        .fdb
        .learn(meta.src_line, meta.src_key(), seen, &rules, &cx.conf.entries)
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
#[inline(always)]
pub(super) fn generation(cx: &Cx<'_>, domain: &Domain, dest: Dest) -> Option<u16> {
    match dest {
        Dest::Member(id) => domain.member(id).map(|member| member.generation),
        Dest::Tunnel(id) => cx.snapshot.tunnel(id).map(|tunnel| tunnel.generation),
    }
}
