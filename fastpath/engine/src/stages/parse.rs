//! Reads the addresses of every frame and refuses what no bridge forwards.

use super::Cx;
use crate::DropReason;
use crate::packet::{Batch, Meta, Verdict};
use clearway_wire::{checksum, ethernet, parse_tags};

/// 01:80:c2:00:00:00 to 0f, without the last four bits.
const LINK_LOCAL: u64 = 0x0180_c200_0000;

pub(crate) fn run(cx: &mut Cx<'_>, batch: &mut Batch) {
    for (frame, meta) in batch.all() {
        *meta = Meta::UNKNOWN;
        read_addresses(frame.bytes(), meta);
    }
    if cx.conf.finish_checksums {
        finish_checksums(batch);
    }
}

/// Sets addresses and, if the frame can't go on, the verdict. Also for frames that were inside VXLAN.
#[inline(always)]
pub(super) fn read_addresses(bytes: &[u8], meta: &mut Meta) {
    let Some((dst, src)) = ethernet::addresses(bytes) else {
        meta.verdict = Verdict::Drop(DropReason::Truncated);
        return;
    };
    (meta.dst, meta.src) = (dst, src);
    if dst & !0xf == LINK_LOCAL {
        meta.verdict = Verdict::Drop(DropReason::LinkLocal);
    }
}

/// A veth peer with checksum offload leaves the L4 checksum of what its own stack sent unfinished, and XDP is
/// not told. Such a packet carries the sum of its pseudo header; finishing one that by chance was finished
/// already gives the same bytes.
fn finish_checksums(batch: &mut Batch) {
    for (frame, _) in batch.undecided() {
        let l3 = parse_tags(frame.bytes()).l3_offset;
        // A chained frame's payload is not in one piece; its sender must finish (`doctor` says so).
        if frame.is_linear()
            && let Some(packet) = frame.bytes_mut().get_mut(l3..)
            && checksum::l4_checksum_is_partial(packet)
        {
            checksum::fill_l4_checksum(packet);
        }
    }
}
