//! Puts frames that go to a remote VTEP into VXLAN (RFC 7348 §5): the tunnel's precomputed headers, the VNI
//! of the domain, a source port from the inner flow.

use super::{Cx, too_big};
use crate::packet::Meta;
use crate::{Domain, DropReason, PortId, TunnelId};
use clearway_io::Frame;

/// Encapsulates one frame; gives the port that leads to the remote.
#[inline(always)]
pub(super) fn one(
    cx: &mut Cx<'_>,
    frame: &mut Frame,
    meta: &Meta,
    domain: &Domain,
    id: TunnelId,
) -> Result<PortId, DropReason> {
    let snapshot = cx.snapshot;
    let (Some(tunnel), Some(vni)) = (snapshot.tunnel(id), domain.vni) else {
        return Err(DropReason::NoDomain);
    };
    let Some(rewrite) = &tunnel.rewrite else {
        return Err(DropReason::TunnelUnresolved);
    };
    if frame.len() > tunnel.max_inner {
        too_big::report(cx, frame, meta, domain, tunnel.max_inner);
        return Err(DropReason::TunnelMtu);
    }
    if !rewrite.push(frame, vni) {
        return Err(DropReason::NoHeadroom);
    }
    Ok(tunnel.port)
}
