//! Puts frames that go to a remote VTEP into VXLAN (RFC 7348 §5): the tunnel's precomputed headers, the VNI
//! of the domain, a source port from the inner flow.

use super::{Cx, too_big};
use crate::packet::Meta;
use crate::{Domain, DropReason, PortId, Rewrite, Tunnel, TunnelId};
use clearway_io::Frame;
use clearway_wire::Vni;

/// The way to a remote, which is open.
pub(super) struct Way<'s> {
    tunnel: &'s Tunnel,
    rewrite: &'s Rewrite,
    vni: Vni,
}

impl Way<'_> {
    /// The port that leads to the remote.
    pub(super) fn port(&self) -> PortId {
        self.tunnel.port
    }

    /// Puts the outer headers in front of a frame; gives the port that leads to the remote.
    #[inline(always)]
    pub(super) fn push(&self, cx: &mut Cx<'_>, frame: &mut Frame) -> Result<PortId, DropReason> {
        if self.rewrite.reads_payload() && !cx.pools.make_own(frame) {
            return Err(DropReason::NoChunks);
        }
        if !self.rewrite.push(frame, self.vni) {
            return Err(DropReason::NoHeadroom);
        }
        Ok(self.tunnel.port)
    }
}

/// Encapsulates one frame; gives the port that leads to the remote.
#[inline(always)]
pub(super) fn one(
    cx: &mut Cx<'_>,
    frame: &mut Frame,
    meta: &Meta,
    domain: &Domain,
    id: TunnelId,
) -> Result<PortId, DropReason> {
    way(cx, frame, frame.len(), meta, domain, id)?.push(cx, frame)
}

/// The way to a remote for frames of up to `len` bytes that are, or come of, `frame`. Whom a larger one is from is told.
#[inline(always)]
pub(super) fn way<'s>(
    cx: &mut Cx<'s>,
    frame: &Frame,
    len: u32,
    meta: &Meta,
    domain: &Domain,
    id: TunnelId,
) -> Result<Way<'s>, DropReason> {
    let snapshot = cx.snapshot;
    let (Some(tunnel), Some(vni)) = (snapshot.tunnel(id), domain.vni) else {
        return Err(DropReason::NoDomain);
    };
    let Some(rewrite) = &tunnel.rewrite else {
        return Err(DropReason::TunnelUnresolved);
    };
    if len > tunnel.max_inner {
        too_big::report(cx, frame, meta, domain, tunnel.max_inner);
        return Err(DropReason::TunnelMtu);
    }
    Ok(Way { tunnel, rewrite, vni })
}
