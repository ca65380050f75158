//! Enters source addresses into the FDB, and keeps out those that a port may not use.

use super::Cx;
use crate::fdb::Sighting;
use crate::packet::{Batch, Meta, Verdict};
use crate::{Dest, Domain, DropReason, FdbKey, LearnRules, Learned};

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    // Ahead of everything that needs them: both lines of every packet are on their way from memory.
    for (_, meta) in batch.undecided() {
        meta.src_line = cx.fdb.line(meta.src_key());
        cx.fdb.prefetch(meta.src_line);
        meta.dst_line = cx.fdb.line(meta.dst_key());
        cx.fdb.prefetch(meta.dst_line);
    }
    let mut last: Option<(FdbKey, Dest)> = None;
    for (_, meta) in batch.undecided() {
        if let Some(reason) = refused(cx, meta) {
            meta.verdict = Verdict::Drop(reason);
            continue;
        }
        let this = (meta.src_key(), meta.source);
        if last != Some(this) && learn(cx, meta) {
            last = Some(this);
        }
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
fn learn(cx: &Cx<'_>, meta: &Meta) -> bool {
    let Some(domain) = cx.snapshot.domain(meta.bd) else {
        return false;
    };
    if !domain.learning || !cx.conf.learning {
        return false;
    }
    let Some(generation) = generation(cx, domain, meta.source) else {
        return false;
    };
    let rules = LearnRules {
        port_limit: cx.conf.learn_limit,
        ..domain.rules
    };
    let seen = Sighting {
        dest: meta.source,
        generation,
        now: cx.now.s,
    };
    let learned = cx
        .fdb
        .learn(meta.src_line, meta.src_key(), seen, &rules, &cx.conf.entries);
    match learned {
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
