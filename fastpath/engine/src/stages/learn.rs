//! Enters source addresses into the FDB, and keeps out those that a port may not use.

use super::Cx;
use crate::fdb::{Sighting, Value};
use crate::ids::PackedDest;
use crate::packet::{Meta, Verdict};
use crate::{Dest, Domain, DropReason, Fdb, FdbKey, LearnRules, Learned};

/// What was learned last, and the entry that frames from its place make: those of one sender, and of one port
/// or remote, arrive in runs.
pub(crate) struct Last {
    key: FdbKey,
    source: PackedDest,
    fresh: Option<Value>,
}

impl Default for Last {
    fn default() -> Self {
        Self {
            key: FdbKey(0),
            source: PackedDest::NONE,
            fresh: None,
        }
    }
}

/// Works out where both addresses of a packet are in the table and starts loading those lines, a pass ahead of
/// their use.
#[inline(always)]
pub(crate) fn prefetch(fdb: &Fdb, meta: &mut Meta) {
    meta.src_line = fdb.line(meta.src_key());
    fdb.prefetch(meta.src_line);
    meta.dst_line = fdb.line(meta.dst_key());
    fdb.prefetch(meta.dst_line);
}

/// `guarded`: the port has a list of allowed addresses.
#[inline(always)]
pub(crate) fn one(cx: &Cx<'_>, domain: &Domain, meta: &mut Meta, guarded: bool, last: &mut Last) {
    let key = meta.src_key();
    if (last.key, last.source) == (key, meta.source) {
        return;
    }
    if meta.src >> 40 & 1 == 1 || meta.src == 0 {
        meta.verdict = Verdict::Drop(DropReason::InvalidSource);
        return;
    }
    if guarded && is_spoofed(cx, meta) {
        meta.verdict = Verdict::Drop(DropReason::SpoofedSource);
        return;
    }
    if last.source != meta.source || last.key.bd() != meta.bd {
        last.fresh = fresh(cx, domain, meta.source);
    }
    last.source = meta.source;
    let known = match last.fresh {
        Some(fresh) => cx.fdb.refresh(meta.src_line, key, fresh) || news(cx, domain, meta),
        None => true,
    };
    // An address that was not taken is offered again with its next frame.
    last.key = if known { key } else { FdbKey(0) };
}

/// The entry that a frame from `source` makes; none: it is not to be learned.
#[inline(always)]
fn fresh(cx: &Cx<'_>, domain: &Domain, source: PackedDest) -> Option<Value> {
    if !domain.learning || !cx.conf.learning {
        return None;
    }
    sighting(cx, domain, source).map(Sighting::value)
}

#[inline(always)]
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
    !meta.source.is_tunnel() && !cx.conf.allowed_macs.contains(&meta.src)
}

/// The address is not known, or known to be elsewhere. True if it is now known to be where it was seen.
#[cold]
fn news(cx: &Cx<'_>, domain: &Domain, meta: &Meta) -> bool {
    let Some(seen) = sighting(cx, domain, meta.source) else {
        return false;
    };
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
fn generation(cx: &Cx<'_>, domain: &Domain, dest: Dest) -> Option<u16> {
    match dest {
        Dest::Member(id) => domain.member(id).map(|member| member.generation),
        Dest::Tunnel(id) => cx.snapshot.tunnel(id).map(|tunnel| tunnel.generation),
    }
}
