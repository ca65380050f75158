//! Where the rings are, kept in memory of the front-end's that outlives us (vhost-user, "Inflight I/O tracking").
//!
//! ```text
//!   split:  features 8 │ version 2 │ size 2 │ last batch 2 │ used index 2                              │ 16 for each descriptor
//!   packed: features 8 │ version 2 │ size 2 │ free 2 │ old 2 │ used 2 │ old 2 │ wrap 1 │ old 1 │ 10 unused │ 32 for each
//! ```
//!
//! Our ports give back in the order in which they took, so one position tells all: what is behind it was done before a
//! crash, what is before it is done again. A split ring's is its used index; a packed ring's is only here. So nothing is
//! ever marked as in flight by us. What another back-end marked, which may be out of that order, is given back with a
//! length of 0: frames that are lost.

use super::memory::{GuestMemory, GuestMemoryError, RegionSpec};
use super::ring::{RingPart, Used};
use super::share::GuestShare;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

const VERSION: usize = 8;
const SIZE: usize = 10;
const SPLIT_USED: usize = 14;
const SPLIT_HEADER: usize = 16;
const SPLIT_ENTRY: usize = 16;
/// `used_idx`, `old_used_idx`, `used_wrap_counter`, `old_used_wrap_counter`: written in one go.
const PACKED_POSITION: usize = 16;
const PACKED_HEADER: usize = 32;
const PACKED_ENTRY: usize = 32;
/// The version that the specification describes; 0: nobody has used it yet.
const CURRENT: u16 = 1;

/// The buffer of SET_INFLIGHT_FD.
pub struct Inflight {
    memory: GuestMemory,
    queues: u16,
    queue_size: u16,
}

fn region_bytes(queue_size: u16, packed: bool) -> usize {
    let (header, entry) = if packed {
        (PACKED_HEADER, PACKED_ENTRY)
    } else {
        (SPLIT_HEADER, SPLIT_ENTRY)
    };
    (header + entry * usize::from(queue_size)).next_multiple_of(64)
}

impl Inflight {
    /// Bytes for so many rings of up to so many entries, of either format.
    #[must_use]
    pub fn bytes(queues: u16, queue_size: u16) -> u64 {
        (usize::from(queues) * region_bytes(queue_size, true)) as u64
    }

    /// Maps `bytes` at an offset of a file, which is closed, out of a port's share.
    ///
    /// # Errors
    /// [`GuestMemoryError`] if that is impossible.
    pub fn map(
        share: &GuestShare,
        bytes: u64,
        offset: u64,
        queues: u16,
        queue_size: u16,
        file: OwnedFd,
    ) -> Result<Self, GuestMemoryError> {
        let spec = RegionSpec {
            guest_address: 0,
            size: bytes,
            user_address: 0,
            mmap_offset: offset,
        };
        Ok(Self {
            memory: GuestMemory::map(share, [(spec, file)])?,
            queues,
            queue_size,
        })
    }

    pub(super) fn is_torn(&self) -> bool {
        self.memory.is_torn()
    }

    /// The region of a ring; none if it is not in there.
    fn region(&self, index: u16, size: u16, packed: bool) -> Option<RingPart> {
        let bytes = region_bytes(self.queue_size, packed);
        let fits = index < self.queues && size <= self.queue_size;
        let at = usize::from(index) * bytes;
        let part = RingPart::find(&self.memory, at as u64, bytes, 8).filter(|_| fits)?;
        // Zeros are new.
        if part.u16(VERSION).load(Relaxed) == 0 {
            part.u16(SIZE).store(size, Relaxed);
        }
        (part.u16(SIZE).load(Relaxed) == size).then_some(part)
    }
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inflight({} rings of {})", self.queues, self.queue_size)
    }
}

/// Which region of which buffer a ring has.
#[derive(Debug, Clone)]
pub struct InflightRegion {
    /// The buffer.
    pub buffer: Arc<Inflight>,
    /// The ring's number.
    pub index: u16,
}

/// A split ring's region.
pub(super) struct SplitInflight(RingPart);

impl SplitInflight {
    /// What a ring of `size` entries has, and what another back-end took and did not give back, in the order in which it
    /// took it. None if the buffer does not fit.
    pub(super) fn open(region: &InflightRegion, size: u16, used: u16) -> Option<(Self, Vec<Used>)> {
        let part = region.buffer.region(region.index, size, false)?;
        let fresh = part.u16(VERSION).load(Relaxed) == 0;
        // A crash between giving a batch back and noting it: what was in flight last is not any more.
        if !fresh && part.u16(SPLIT_USED).load(Relaxed) != used {
            let last = part.u16(12).load(Relaxed).min(size - 1);
            part.u8(SPLIT_HEADER + usize::from(last) * SPLIT_ENTRY)
                .store(0, Relaxed);
        }
        let mut left = Vec::new();
        for id in 0..size {
            let at = SPLIT_HEADER + usize::from(id) * SPLIT_ENTRY;
            if !fresh && part.u8(at).swap(0, Relaxed) != 0 {
                let used = Used {
                    id,
                    descriptors: 1,
                    len: 0,
                };
                left.push((part.u64(at + 8).load(Relaxed), used));
            }
        }
        left.sort_by_key(|(counter, _)| *counter);
        part.u16(SPLIT_USED).store(used, Relaxed);
        part.u16(VERSION).store(CURRENT, Release);
        Some((Self(part), left.into_iter().map(|(_, used)| used).collect()))
    }

    /// The used index is out.
    #[cold]
    pub(super) fn used(&self, index: u16) {
        self.0.u16(SPLIT_USED).store(index, Release);
    }
}

/// A packed ring's region. Positions are an index, and a wrap counter as the highest bit.
pub(super) struct PackedInflight(RingPart);

const WRAP: u16 = 1 << 15;

/// What was in it.
pub(super) struct PackedOpened {
    pub(super) inflight: PackedInflight,
    /// Where the ring was, and where it is once what was being given back is: nearly always the same.
    pub(super) old: u16,
    pub(super) new: u16,
    /// What another back-end took and did not give back, in the order in which it took it.
    pub(super) left: Vec<Used>,
}

impl PackedInflight {
    /// What a ring of `size` entries has; it begins at `base` if the region is new. None if the buffer does not fit.
    pub(super) fn open(region: &InflightRegion, size: u16, base: u16) -> Option<PackedOpened> {
        let part = region.buffer.region(region.index, size, true)?;
        if part.u16(VERSION).load(Relaxed) == 0 {
            // Every entry leads to the next: the list of free ones.
            for i in 0..size {
                let next = part.u16(PACKED_HEADER + usize::from(i) * PACKED_ENTRY + 2);
                next.store(i + 1, Relaxed);
            }
            let inflight = Self(part);
            inflight.given(base);
            inflight.0.u16(VERSION).store(CURRENT, Release);
            return Some(PackedOpened {
                inflight,
                old: base,
                new: base,
                left: Vec::new(),
            });
        }
        let word = part.u64(PACKED_POSITION).load(Relaxed);
        let position = |index: u16, wrap: u8| {
            let wrap = if wrap != 0 { WRAP } else { 0 };
            (index < size).then_some(index | wrap)
        };
        Some(PackedOpened {
            new: position(word as u16, (word >> 32) as u8)?,
            old: position((word >> 16) as u16, (word >> 40) as u8)?,
            left: Self::left(&part, size)?,
            inflight: Self(part),
        })
    }

    /// What another back-end had, in the order in which it took it. None if that makes no sense.
    fn left(part: &RingPart, size: u16) -> Option<Vec<Used>> {
        let mut left = Vec::new();
        for i in 0..usize::from(size) {
            let at = PACKED_HEADER + i * PACKED_ENTRY;
            if part.u8(at).swap(0, Relaxed) != 0 {
                let used = Used {
                    id: part.u16(at + 16).load(Relaxed),
                    descriptors: part.u16(at + 6).load(Relaxed),
                    len: 0,
                };
                left.push((part.u64(at + 8).load(Relaxed), used));
            }
        }
        left.sort_by_key(|(counter, _)| *counter);
        let taken: u64 = left.iter().map(|(_, used)| u64::from(used.descriptors)).sum();
        let whole = left.iter().all(|(_, used)| used.descriptors > 0) && taken <= size.into();
        whole.then(|| left.into_iter().map(|(_, used)| used).collect())
    }

    fn write(&self, new: u16, old: u16) {
        let [index, old_index] = [new, old].map(|at| u64::from(at & !WRAP));
        let [wrap, old_wrap] = [new, old].map(|at| u64::from(at >> 15));
        let word = index | old_index << 16 | wrap << 32 | old_wrap << 40;
        self.0.u64(PACKED_POSITION).store(word, SeqCst);
    }

    /// A batch from `old` to `new` is about to be given back.
    #[cold]
    pub(super) fn giving(&self, old: u16, new: u16) {
        self.write(new, old);
    }

    /// It is.
    #[cold]
    pub(super) fn given(&self, new: u16) {
        self.write(new, new);
    }
}
