//! Reads the addresses of every frame and refuses what no bridge forwards.

use crate::packet::{Batch, Meta, Verdict};
use crate::{DropReason, FdbKey};
use clearway_wire::{checksum, ethernet, parse_tags};

/// 01:80:c2:00:00:00 to 0f, without the last four bits.
const LINK_LOCAL: u64 = 0x0180_c200_0000;

/// Sets addresses and, if the frame can't go on, the verdict. Also for frames that were inside VXLAN.
#[inline(always)]
pub(crate) fn addresses(bytes: &[u8], meta: &mut Meta) {
    let Some((dst, src)) = ethernet::addresses(bytes) else {
        meta.verdict = Verdict::Drop(DropReason::Truncated);
        return;
    };
    (meta.dst, meta.src) = (FdbKey(dst), FdbKey(src));
    if dst & !0xf == LINK_LOCAL {
        meta.verdict = Verdict::Drop(DropReason::LinkLocal);
    }
}

/// A veth peer with checksum offload leaves the L4 checksum of what its own stack sent unfinished, and XDP is
/// not told. Such a packet carries the sum of its pseudo header; finishing one that by chance was finished
/// already gives the same bytes.
#[cold]
pub(crate) fn finish_checksums(batch: &mut Batch) {
    for frame in &mut batch.frames {
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
