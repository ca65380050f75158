//! The way of a batch through the stages. Read top to bottom.

use crate::packet::Batch;
use crate::stages::{Cx, decap, egress, encap, flood, learn, lookup, parse, vlan};
use crate::{PortId, Service};

/// Takes every frame of a batch to where it belongs; the batch is empty afterwards.
#[inline]
pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    if let Service::CrossConnect(to) = cx.conf.service {
        return cross_connect(cx, batch, to);
    }
    parse::run(cx, batch);
    if !cx.conf.vteps.is_empty() {
        decap::run(cx, batch);
    }
    vlan::run(cx, batch);
    learn::run(cx, batch);
    lookup::run(cx, batch);
    flood::run(cx, batch);
    encap::run(cx, batch);
    egress::run(cx, batch);
}

/// The shortest path: port to port, nothing looked at.
fn cross_connect(cx: &mut Cx<'_>, batch: &mut Batch, to: PortId) {
    for frame in batch.frames.drain(..) {
        if let Err((frame, reason)) = cx.tx.push(to, frame) {
            cx.drop(frame, reason);
        }
    }
}
