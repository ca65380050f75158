//! Frames that their sender left undone: to a port whose receiver takes them so, as they are; to all others and into
//! tunnels, finished and cut up (see `segment.rs`). In the order of the batch, like all others.

use super::{Cx, encap};
use crate::packet::Meta;
use crate::segment::{Cut, MOST_PIECES, Pieces, Work, finish_checksum};
use crate::{Domain, DropReason, PortId, TunnelId};
use clearway_io::{Frame, RegionId};

/// What came of queueing one frame.
type Queued = Result<(), (Frame, DropReason)>;

/// Queues a frame with unfinished work for a port.
#[inline(never)]
pub(super) fn to_port(cx: &mut Cx<'_>, frame: Frame, port: PortId) {
    let Some(work) = Work::of(&frame) else {
        return cx.drop(frame, DropReason::OffloadMalformed);
    };
    let largest = work.largest(&frame);
    if cx.tx.takes(port, frame.needs()) {
        if let Err((frame, reason)) = cx.tx.push_as(port, frame, largest) {
            cx.drop(frame, reason);
        }
        return;
    }
    // Before any work is done in vain.
    if let Some(reason) = cx.tx.refusal(port, largest) {
        return cx.drop(frame, reason);
    }
    let region = cx.tx.region(port).or(frame.region());
    finish(cx, frame, work, region, |cx, piece| cx.tx.push(port, piece));
}

/// Puts a frame with unfinished work into a tunnel: finished, since nobody looks for it behind the outer headers.
#[inline(never)]
pub(super) fn to_tunnel(cx: &mut Cx<'_>, frame: Frame, meta: &Meta, domain: &Domain, id: TunnelId) {
    let Some(work) = Work::of(&frame) else {
        return cx.drop(frame, DropReason::OffloadMalformed);
    };
    let way = match encap::way(cx, &frame, work.largest(&frame), meta, domain, id) {
        Ok(way) => way,
        Err(reason) => return cx.drop(frame, reason),
    };
    let region = cx.tx.region(way.port()).or(frame.region());
    finish(cx, frame, work, region, |cx, mut piece| {
        match way.push(cx, &mut piece) {
            Ok(port) => cx.tx.push(port, piece),
            Err(reason) => Err((piece, reason)),
        }
    });
}

fn finish(
    cx: &mut Cx<'_>,
    mut frame: Frame,
    work: Work,
    region: Option<RegionId>,
    out: impl Fn(&mut Cx<'_>, Frame) -> Queued,
) {
    let offload = match work {
        Work::Cut(cut) if cut.pieces() > MOST_PIECES => return cx.drop(frame, DropReason::OffloadTooMany),
        Work::Cut(cut) => return cut_up(cx, frame, cut, region, out),
        Work::Checksum(offload) => offload,
    };
    if frame.is_held() {
        let copy = region.and_then(|region| cx.pools.copy(&frame, region));
        let Some(copy) = copy else {
            return cx.drop(frame, DropReason::NoChunks);
        };
        cx.pools.free(std::mem::replace(&mut frame, copy));
    }
    finish_checksum(&mut frame, offload);
    if let Err((frame, reason)) = out(cx, frame) {
        cx.drop(frame, reason);
    }
}

/// Sends the pieces of a frame, in the order of their payload.
fn cut_up(
    cx: &mut Cx<'_>,
    mut frame: Frame,
    cut: Cut,
    region: Option<RegionId>,
    out: impl Fn(&mut Cx<'_>, Frame) -> Queued,
) {
    if cut.reads_ahead() && !cx.pools.make_own(&mut frame) {
        return cx.drop(frame, DropReason::NoChunks);
    }
    cx.ledger.consumed += 1;
    cx.ledger.segments += cut.pieces() as u64;
    // A count of our own, which begins elsewhere for every flow (RFC 7739 §5.3).
    let flow = clearway_wire::flow_hash(frame.bytes());
    let identification = (cx.ledger.segments as u32).wrapping_add(flow as u32);
    let mut pieces = Pieces::new(&frame, cut, identification);
    while pieces.left() > 0 {
        let queued = match region.and_then(|region| pieces.next(cx.pools, region)) {
            Some(piece) => out(cx, piece),
            None => Err((Frame::default(), DropReason::NoChunks)),
        };
        if let Err((piece, reason)) = queued {
            cx.drop(piece, reason);
            // What is left of a packet with a hole is worth no more work.
            cx.count_drops(reason, pieces.left() as u64);
            break;
        }
    }
    cx.pools.free(frame);
}
