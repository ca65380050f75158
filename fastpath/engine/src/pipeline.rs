//! The way of a batch through the stages. Read top to bottom.
//!
//! Three passes: over the headers, over the tables, out. Each takes a packet through several stages while its
//! lines are warm; between the first two, the table lines of the whole batch are on their way from memory.

use crate::packet::{Batch, Meta, Verdict};
use crate::stages::{Cx, decap, egress, flood, learn, lookup, parse, vlan};
use crate::{PortId, Service};
use clearway_io::Frame;

/// Takes every frame of a batch to where it belongs; the batch is empty afterwards.
#[inline]
pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    let conf = cx.conf;
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
        if meta.undecided() && meta.bd.0 == 0 {
            classify(frame, meta);
        }
        if meta.undecided() {
            learn::prefetch(cx.fdb, meta);
        }
    }
}

/// learn → lookup: where does each frame go? True if some are to be flooded.
#[inline(always)]
fn tables(cx: &Cx<'_>, batch: &mut Batch) -> bool {
    let mut domain = lookup::LastDomain::default();
    let (mut learner, mut finder) = (learn::Last::default(), lookup::Last::default());
    let guarded = !cx.conf.allowed_macs.is_empty();
    let mut floods = false;
    let (_, metas) = batch.split();
    for meta in metas {
        if !meta.undecided() {
            continue;
        }
        let Some(domain) = domain.get(cx.snapshot, meta) else {
            continue;
        };
        learn::one(cx, domain, meta, guarded, &mut learner);
        if meta.undecided() {
            lookup::one(cx, domain, meta, &mut finder);
            floods |= matches!(meta.verdict, Verdict::Flood);
        }
    }
    floods
}

/// The shortest path: port to port, nothing looked at.
fn cross_connect(cx: &mut Cx<'_>, batch: &mut Batch, to: PortId) {
    if cx.tx.push_all(to, &mut batch.frames) {
        return;
    }
    for frame in batch.frames.drain(..) {
        if let Err((frame, reason)) = cx.tx.push(to, frame) {
            cx.drop(frame, reason);
        }
    }
}
