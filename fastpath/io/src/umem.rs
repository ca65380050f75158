//! A UMEM: one memfd-backed region of equal chunks that frames live in.
//!
//! ```text
//!  base                                                         one chunk (2 or 4 KiB)
//!  │ chunk 0 │ chunk 1 │ … │ chunk n-1 │      ┌ HEADROOM 256 ┬──────────── payload ───────────┐
//! ```
//!
//! The region is a memfd, so that a successor process can map the same packets (see the architecture:
//! the process is replaceable). It may be registered with AF_XDP sockets or not: guests' frames live in
//! UMEMs that no socket knows.

use crate::pool::Depot;
use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

/// Bytes in front of a received frame, free for headers that we push. It is the kernel's
/// `XDP_PACKET_HEADROOM` (include/uapi/linux/bpf.h), which every AF_XDP receive leaves free.
pub const HEADROOM: u32 = 256;

const HUGE: usize = 2 << 20;

/// Process-wide number of a UMEM: indexes a worker's [`crate::PoolSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub(crate) u16);

impl RegionId {
    /// The dense index behind the id.
    #[inline(always)]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Whether a UMEM uses 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Use them when enough are free, else normal pages.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Fail without them.
    Require,
}

/// What a UMEM turned out to be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// 2 MiB pages of hugetlbfs.
    HugePages,
    /// Normal 4 KiB pages.
    Pages,
}

/// Size and shape of a UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UmemGeometry {
    /// Bytes of a chunk: 2048 or 4096 (the kernel's aligned mode takes 2048 up to the page size, af_xdp.rst).
    pub chunk_size: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// What pages to use.
    pub huge_pages: HugePages,
}

/// Why a UMEM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// The geometry is not one that AF_XDP's aligned mode allows.
    #[error(
        "a UMEM of {chunks} chunks of {chunk_size} bytes is not possible: the chunk size must be 2048 or 4096 and the number of chunks between 64 and 4194304"
    )]
    Geometry {
        /// Bytes of a chunk asked for.
        chunk_size: u32,
        /// Number of chunks asked for.
        chunks: u32,
    },
    /// Hugepages were required and there are not enough.
    #[error(
        "a UMEM of {bytes} bytes needs {pages} free hugepages of 2 MiB ({source}): raise vm.nr_hugepages, or allow normal pages with `hugepages: auto`"
    )]
    NoHugePages {
        /// Bytes of the region.
        bytes: usize,
        /// Pages needed.
        pages: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {what} for a UMEM of {bytes} bytes: {source}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// Bytes of the region.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// 65,535 UMEMs were made in this process.
    #[error("no region number is left: this process made 65535 UMEMs; restart it")]
    Exhausted,
}

/// Link of a chained frame: what follows a segment. Owned by whoever owns the segment's frame.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Offset of the segment's first byte in its chunk.
    pub(crate) offset: u32,
    /// Bytes of the segment.
    pub(crate) len: u32,
    /// Chunk of the next segment, or [`NO_CHUNK`].
    pub(crate) next: u32,
}

/// "No further segment".
pub(crate) const NO_CHUNK: u32 = u32::MAX;

/// The region itself. Frames point here, so it outlives all of them: see [`Umem`]'s `Drop`.
pub(crate) struct Region {
    pub(crate) id: RegionId,
    pub(crate) base: NonNull<u8>,
    pub(crate) shift: u32,
    pub(crate) chunks: u32,
    pub(crate) depot: Depot,
    segments: Box<[UnsafeCell<Segment>]>,
    bytes: usize,
    file: OwnedFd,
    backing: Backing,
}

// SAFETY: chunk memory and segment links are reached only through the one `Frame` (or ring slot) that owns
// the chunk, so no two threads touch the same bytes; the rest is immutable or synchronised (Depot).
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    #[inline(always)]
    pub(crate) fn chunk_size(&self) -> u32 {
        1 << self.shift
    }

    /// A byte of a chunk, or the one past its end. The caller owns the chunk; an offset behind it is
    /// clamped to its end.
    #[inline(always)]
    pub(crate) fn chunk_at(&self, chunk: u32, offset: u32) -> NonNull<u8> {
        debug_assert!(chunk < self.chunks && offset <= self.chunk_size());
        let offset = offset.min(self.chunk_size()) as usize;
        // SAFETY: chunk < chunks, so the sum stays inside the mapping of `chunks << shift` bytes or one past it.
        unsafe { self.base.add(((chunk as usize) << self.shift) + offset) }
    }

    /// The link of a segment. The caller owns the chunk.
    #[inline]
    pub(crate) fn segment(&self, chunk: u32) -> Segment {
        // SAFETY: the caller owns the chunk, hence nobody writes its link meanwhile.
        unsafe { *self.segments[chunk as usize].get() }
    }

    /// Sets the link of a segment. The caller owns the chunk.
    #[inline]
    pub(crate) fn set_segment(&self, chunk: u32, segment: Segment) {
        // SAFETY: the caller owns the chunk, hence nobody reads or writes its link meanwhile.
        unsafe { *self.segments[chunk as usize].get() = segment }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: base and bytes are what mmap gave; the last handle is gone and all chunks are home, so no
        // frame points into the mapping.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A shared handle to a UMEM. When the last one goes, the memory is unmapped, provided that all chunks are
/// home; a region with a chunk still out (in a frame that was never given back) stays mapped for ever, so
/// that no frame can dangle.
#[derive(Clone)]
pub struct Umem(Arc<Handle>);

struct Handle(NonNull<Region>);

// SAFETY: a Handle is a counted pointer to a Region, which is Send and Sync.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// Regions that could not be unmapped because a chunk was missing: a bug if not zero.
static LEAKED: AtomicU64 = AtomicU64::new(0);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from Box::leak and is freed nowhere else.
        let region = unsafe { self.0.as_ref() };
        if region.depot.chunks() == region.chunks {
            // SAFETY: this is the last handle and all chunks are in the depot: no Frame points here.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        } else {
            LEAKED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Umem {
    /// Makes a region; all its chunks are in the depot.
    ///
    /// # Errors
    /// [`UmemError`] when the geometry is impossible or memory is short.
    pub fn new(geometry: UmemGeometry) -> Result<Self, UmemError> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let UmemGeometry {
            chunk_size,
            chunks,
            huge_pages,
        } = geometry;
        if !matches!(chunk_size, 2048 | 4096) || !(64..=1 << 22).contains(&chunks) {
            return Err(UmemError::Geometry { chunk_size, chunks });
        }
        let used = chunk_size as usize * chunks as usize;
        let (base, bytes, file, backing) = match huge_pages {
            HugePages::Off => Self::map(used, false)?,
            HugePages::Require => Self::map(used, true).map_err(|e| match e {
                UmemError::System { bytes, source, .. } => UmemError::NoHugePages {
                    bytes,
                    pages: bytes / HUGE,
                    source,
                },
                other => other,
            })?,
            HugePages::Auto => Self::map(used, true).or_else(|_| Self::map(used, false))?,
        };
        let id = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1))
            .map_err(|_| UmemError::Exhausted)?;
        let region = Region {
            id: RegionId(id),
            base,
            shift: chunk_size.trailing_zeros(),
            chunks,
            depot: Depot::full(chunks),
            segments: (0..chunks)
                .map(|_| {
                    UnsafeCell::new(Segment {
                        offset: 0,
                        len: 0,
                        next: NO_CHUNK,
                    })
                })
                .collect(),
            bytes,
            file,
            backing,
        };
        Ok(Self(Arc::new(Handle(NonNull::from(Box::leak(Box::new(region)))))))
    }

    fn map(used: usize, huge: bool) -> Result<(NonNull<u8>, usize, OwnedFd, Backing), UmemError> {
        let bytes = if huge {
            used.next_multiple_of(HUGE)
        } else {
            used.next_multiple_of(4096)
        };
        let fail = |what| {
            move || UmemError::System {
                what,
                bytes,
                source: io::Error::last_os_error(),
            }
        };
        let flags = libc::MFD_CLOEXEC
            | if huge {
                libc::MFD_HUGETLB | libc::MFD_HUGE_2MB
            } else {
                0
            };
        // SAFETY: the name is a NUL-terminated constant.
        let fd = unsafe { libc::memfd_create(c"clearway-umem".as_ptr(), flags) };
        if fd < 0 {
            return Err(fail("create a memfd")());
        }
        // SAFETY: memfd_create returned a new descriptor that nobody else owns.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(bytes as u64).map_err(|source| UmemError::System {
            what: "size the memfd",
            bytes,
            source,
        })?;
        // MAP_POPULATE turns a shortage of memory into an error here instead of a SIGBUS later.
        // SAFETY: a fresh shared mapping of a file that we own; the kernel chooses the address.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        let base = match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => base,
            _ => return Err(fail("map memory")()),
        };
        let backing = if huge { Backing::HugePages } else { Backing::Pages };
        Ok((base, bytes, file.into(), backing))
    }

    #[inline(always)]
    pub(crate) fn region(&self) -> &Region {
        // SAFETY: the handle keeps the region alive; it is only ever shared.
        unsafe { self.0.0.as_ref() }
    }

    /// This region's number.
    #[must_use]
    pub fn id(&self) -> RegionId {
        self.region().id
    }

    /// Bytes of a chunk.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        self.region().chunk_size()
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.region().chunks
    }

    /// Chunks that lie in the depot, in no pool, ring or frame.
    #[must_use]
    pub fn depot_chunks(&self) -> u32 {
        self.region().depot.chunks()
    }

    /// What pages it is made of.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.region().backing
    }

    /// Bytes mapped.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.region().bytes
    }

    /// The memfd, for hand-over to a successor process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.region().file.as_fd()
    }

    /// Regions of this process that stayed mapped because chunks were lost. Tests assert that it is 0.
    #[must_use]
    pub fn leaked_regions() -> u64 {
        LEAKED.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Umem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let r = self.region();
        write!(
            f,
            "Umem({}: {} × {} bytes, {:?})",
            r.id.0,
            r.chunks,
            r.chunk_size(),
            r.backing
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(chunk_size: u32, chunks: u32) -> UmemGeometry {
        UmemGeometry {
            chunk_size,
            chunks,
            huge_pages: HugePages::Off,
        }
    }

    #[test]
    fn impossible_geometries_are_refused() {
        for (size, chunks) in [
            (1024, 64),
            (3000, 64),
            (8192, 64),
            (2048, 63),
            (2048, (1 << 22) + 1),
        ] {
            let error = Umem::new(geometry(size, chunks)).expect_err("must be refused");
            assert!(matches!(error, UmemError::Geometry { .. }), "{error}");
        }
    }

    #[test]
    fn all_chunks_start_in_the_depot_and_the_memory_goes_with_the_last_handle() {
        let umem = Umem::new(geometry(2048, 1000)).expect("memory");
        assert_eq!(
            (umem.chunks(), umem.depot_chunks(), umem.chunk_size()),
            (1000, 1000, 2048)
        );
        assert_eq!(umem.backing(), Backing::Pages);
        let second = umem.clone();
        drop(umem);
        assert_eq!(second.depot_chunks(), 1000);
    }
}
