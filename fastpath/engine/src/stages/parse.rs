//! Reads the addresses of every frame and refuses what no bridge forwards.

use crate::packet::{Batch, Meta, Verdict};
use crate::rewrite::segments_sum;
use crate::{DropReason, FdbKey};
use clearway_io::Frame;
use clearway_wire::checksum::Unfinished;
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
        if !frame.is_linear() {
            finish_pieces(frame, l3);
        } else if let Some(packet) = frame.bytes_mut().get_mut(l3..)
            && checksum::l4_checksum_is_partial(packet)
        {
            checksum::fill_l4_checksum(packet);
        }
    }
}

fn finish_pieces(frame: &mut Frame, l3: usize) {
    let len = (frame.len() as usize).saturating_sub(l3);
    let head = frame.bytes().get(l3..).unwrap_or_default();
    let Some(unfinished) = Unfinished::find(head, len) else {
        return;
    };
    let checksum = unfinished.checksum(segments_sum(frame, l3 + unfinished.start));
    let field = l3 + unfinished.field;
    frame.bytes_mut()[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clearway_io::{HugePages, PoolSet, Umem, UmemGeometry};
    use clearway_wire::checksum::{L4Checksum, l4_checksum, pseudo_header_v4};

    #[test]
    fn unfinished_checksums_are_finished_in_one_piece_and_in_several() {
        let umem = Umem::new(UmemGeometry {
            chunk_size: 2048,
            chunks: 64,
            huge_pages: HugePages::Off,
        })
        .expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        let mut batch = Batch::default();
        for payload in [100u16, 8961] {
            let (ip, udp) = (28 + payload, 8 + payload);
            let mut bytes = vec![2; 12];
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend(ip.to_be_bytes());
            bytes.extend([
                0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80,
            ]);
            bytes.extend(udp.to_be_bytes());
            let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            bytes.extend(pseudo_header_v4(src, dst, 17, udp).fold().to_be_bytes());
            bytes.extend((0..payload).map(|i| i as u8));
            batch
                .frames
                .push(pools.frame_from(umem.id(), &bytes).expect("chunks"));
        }
        assert!(batch.frames[0].is_linear() && !batch.frames[1].is_linear());
        finish_checksums(&mut batch);
        for frame in batch.frames.drain(..) {
            let bytes: Vec<u8> = frame.segments().flatten().copied().collect();
            assert_eq!(l4_checksum(&bytes[14..]), Some(L4Checksum::Correct));
            pools.free(frame);
        }
    }
}
