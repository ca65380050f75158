//! The way of a batch through the stages. Read top to bottom.
//!
//! Three passes: over the headers, over the tables, out. Each takes a packet through several stages while its
//! lines are warm; between the first two, the table lines of the whole batch are on their way from memory.

use crate::fdb::Value;
use crate::packet::{Batch, Meta, Origin, Verdict};
use crate::police::Policer;
use crate::stages::{Cx, decap, egress, flood, learn, lookup, parse, vlan};
use crate::{Domain, DropReason, FdbKey, PortId, Service};
use clearway_io::{Frame, Leaving};

/// Takes every frame of a batch to where it belongs; the batch is empty afterwards.
#[inline]
pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    let conf = cx.conf;
    if let Some(policer) = &conf.police_receive {
        police(cx, batch, policer);
    }
    match &conf.service {
        Service::CrossConnect(to) => return cross_connect(cx, batch, *to),
        Service::Access(place) => headers(cx, batch, |frame, meta| vlan::access(frame, meta, *place)),
        Service::Tunnel(place) => headers(cx, batch, |_, meta| vlan::enter(meta, *place)),
        Service::Trunk { native, vids } => {
            headers(cx, batch, |frame, meta| vlan::trunk(frame, meta, *native, vids));
        }
        Service::None => headers(cx, batch, |_, meta| vlan::no_service(meta)),
    }
    if tables(cx, batch) {
        flood::run(cx, batch);
    }
    egress::run(cx, batch);
}

/// Gives up what is above the port's rate, before any work is done for it.
#[inline(never)]
fn police(cx: &mut Cx<'_>, batch: &mut Batch, policer: &Policer) {
    let pass = policer.admit(&batch.frames, cx.now.ns);
    for frame in batch.frames.drain(pass..) {
        cx.drop(frame, DropReason::PoliceReceive);
    }
}

/// parse → decap → vlan: which domain is each frame in? Then asks memory for what its addresses need.
#[inline(always)]
fn headers(cx: &mut Cx<'_>, batch: &mut Batch, classify: impl Fn(&mut Frame, &mut Meta)) {
    if cx.conf.finish_checksums {
        parse::finish_checksums(batch);
    }
    let uplink = !cx.conf.vteps.is_empty();
    let mut remote = decap::LastRemote::default();
    let (frames, metas) = batch.split();
    for (frame, meta) in frames.iter_mut().zip(metas) {
        *meta = Meta::UNKNOWN;
        parse::addresses(frame.bytes(), meta);
        if uplink && meta.undecided() {
            decap::one(cx, frame, meta, &mut remote);
        }
        // Frames out of a tunnel have their domain already.
        if meta.undecided() && meta.origin == Origin::UNKNOWN {
            classify(frame, meta);
        }
        if meta.undecided() {
            learn::prefetch(cx.fdb, meta);
        }
    }
}

/// What packets of one origin have in common, and what the last of them was found to need: those of one sender,
/// and of one flow, arrive in runs.
struct Run<'s> {
    origin: Origin,
    domain: Option<&'s Domain>,
    /// The FDB entry that its sources make, if they are to be learned.
    fresh: Option<Value>,
    /// The source learned last.
    learned: FdbKey,
    /// The destination looked up last, and what came of it.
    found: FdbKey,
    verdict: Verdict,
}

impl<'s> Run<'s> {
    #[inline(never)]
    fn new(cx: &Cx<'s>, origin: Origin) -> Self {
        let domain = cx.snapshot.domain(origin.bd());
        Self {
            origin,
            domain,
            fresh: domain.and_then(|domain| learn::fresh(cx, domain, origin.source())),
            learned: FdbKey(0),
            found: FdbKey(0),
            verdict: Verdict::Next,
        }
    }
}

/// learn → lookup: where does each frame go? True if some are to be flooded.
#[inline(always)]
fn tables(cx: &Cx<'_>, batch: &mut Batch) -> bool {
    let guarded = !cx.conf.allowed_macs.is_empty();
    let mut floods = false;
    let mut run = Run::new(cx, Origin::UNKNOWN);
    let (_, metas) = batch.split();
    for meta in metas {
        if !meta.undecided() {
            continue;
        }
        if meta.origin != run.origin {
            run = Run::new(cx, meta.origin);
        }
        let Some(domain) = run.domain else {
            meta.verdict = Verdict::Drop(DropReason::NoDomain);
            continue;
        };
        if meta.src != run.learned {
            let known = learn::one(cx, domain, meta, guarded, run.fresh);
            // An address that was not taken is offered again with its next frame.
            run.learned = if known { meta.src } else { FdbKey(0) };
            if !meta.undecided() {
                continue;
            }
        }
        if meta.dst != run.found {
            (run.found, run.verdict) = (meta.dst, lookup::one(cx, domain, meta));
        }
        meta.verdict = run.verdict;
        floods |= meta.verdict == Verdict::Flood;
    }
    floods
}

/// The shortest path: port to port, nothing looked at but what a sender left unfinished.
fn cross_connect(cx: &mut Cx<'_>, batch: &mut Batch, to: PortId) {
    if cx.conf.finish_checksums {
        parse::finish_checksums(batch);
    }
    let n = batch.frames.len();
    let mut frames = Leaving::new(&mut batch.frames);
    if cx.tx.push_run(to, &mut frames, n) {
        return;
    }
    for frame in frames {
        egress::queue(cx, frame, to);
    }
}
