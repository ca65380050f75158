//! A guest's memory: regions of its files, mapped here (vhost-user protocol, "Memory region description").
//!
//! ```text
//!   front-end: guest address ─┐                      file: │ mmap_offset │ size │
//!              user address  ─┴─ region {base, size} ──────────────────► mapping here
//! ```
//!
//! Everything in it is hostile: the guest, and other processes that share the file, change it at any time. So nobody
//! ever gets a reference to it, only checked addresses to copy from and to. A file that is cut short behind our back
//! answers with SIGBUS: see `sigbus.rs`.

use super::share::{GuestShare, NoShare, Taken};
use super::sigbus::{self, Watched};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Most regions of a guest: what SET_MEM_TABLE carries at most is 8; memory slots are added one by one.
pub const MAX_REGIONS: usize = 64;

/// A region as the front-end describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest physical address of its first byte: what descriptors carry.
    pub guest_address: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the front-end's process: what SET_VRING_ADDR carries.
    pub user_address: u64,
    /// Offset of its first byte in the file.
    pub mmap_offset: u64,
}

/// Why a guest's memory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GuestMemoryError {
    /// The region is empty, wraps around, or overlaps another.
    #[error("memory region {spec:?} is not possible: {why}")]
    Region {
        /// The region.
        spec: RegionSpec,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file has fewer bytes.
    #[error("memory region {spec:?} ends behind its file of {file} bytes")]
    Short {
        /// The region.
        spec: RegionSpec,
        /// The file's size in bytes.
        file: u64,
    },
    /// The port may not have so much.
    #[error("memory region {spec:?} is too much: {source}")]
    Share {
        /// The region.
        spec: RegionSpec,
        /// How much it may have.
        source: NoShare,
    },
    /// The kernel refused.
    #[error("mapping memory region {spec:?} failed: {source}")]
    Map {
        /// The region.
        spec: RegionSpec,
        /// What the kernel said.
        source: io::Error,
    },
}

/// One region, mapped as long as somebody uses it.
pub(crate) struct Mapping {
    pub(crate) spec: RegionSpec,
    /// The region's first byte.
    pub(crate) base: NonNull<u8>,
    /// The mapping: whole pages.
    start: NonNull<u8>,
    bytes: usize,
    watched: Watched,
    /// Given back last, when nothing is mapped there any more.
    _taken: Taken,
}

// SAFETY: the memory is shared with the guest anyway and is only reached by copying through raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(share: &GuestShare, spec: RegionSpec, file: &OwnedFd) -> Result<Self, GuestMemoryError> {
        let wrong = |why| GuestMemoryError::Region { spec, why };
        if spec.size == 0 {
            return Err(wrong("it is empty"));
        }
        for address in [spec.guest_address, spec.user_address, spec.mmap_offset] {
            if address.checked_add(spec.size).is_none() {
                return Err(wrong("it ends behind the last address"));
            }
        }
        let end = spec.mmap_offset + spec.size;
        let length = file_size(file).map_err(|source| GuestMemoryError::Map { spec, source })?;
        if length < end {
            return Err(GuestMemoryError::Short { spec, file: length });
        }
        let page = page_size(file).map_err(|source| GuestMemoryError::Map { spec, source })?;
        // The kernel maps whole pages.
        let first = spec.mmap_offset - spec.mmap_offset % page as u64;
        let bytes = usize::try_from(end - first)
            .ok()
            .and_then(|bytes| bytes.checked_next_multiple_of(page));
        let bytes = bytes.ok_or(wrong("it is larger than an address space"))?;
        let offset = libc::off_t::try_from(first).map_err(|_| wrong("it is larger than a file can be"))?;
        let taken = share
            .take(bytes as u64)
            .map_err(|source| GuestMemoryError::Share { spec, source })?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                offset,
            )
        };
        let start = match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => start,
            _ => {
                let source = io::Error::last_os_error();
                return Err(GuestMemoryError::Map { spec, source });
            }
        };
        // SAFETY: less than a page into it, and the region has bytes behind.
        let base = unsafe { start.add((spec.mmap_offset - first) as usize) };
        let Some(watched) = sigbus::watch(start.as_ptr() as usize, bytes, page) else {
            // SAFETY: the mapping was made just now, and nobody has an address in it.
            unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
            return Err(wrong("as many regions as can be watched are mapped already"));
        };
        Ok(Self {
            spec,
            base,
            start,
            bytes,
            watched,
            _taken: taken,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watched.end();
        // SAFETY: the mapping that `new` made; nobody has an address in it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Bytes of a page of a mapping of the file.
fn page_size(file: &OwnedFd) -> io::Result<usize> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: fstatfs fills in what it is given.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatfs succeeded.
    let stat = unsafe { stat.assume_init() };
    Ok(if stat.f_type == libc::HUGETLBFS_MAGIC {
        stat.f_bsize as usize
    } else {
        4096
    })
}

fn file_size(file: &OwnedFd) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills in what it is given.
    if unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat succeeded.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.st_size as u64)
}

/// All memory of a guest. It never changes: regions that are added or removed make a new one, which shares the others.
#[derive(Clone)]
pub struct GuestMemory {
    share: GuestShare,
    pub(crate) regions: Vec<Arc<Mapping>>,
}

impl GuestMemory {
    /// None, out of a port's share.
    #[must_use]
    pub fn new(share: &GuestShare) -> Self {
        Self {
            share: share.clone(),
            regions: Vec::new(),
        }
    }

    /// Maps regions out of a port's share; their descriptors are closed.
    ///
    /// # Errors
    /// [`GuestMemoryError`] if one is impossible, overlaps another or can't be mapped.
    pub fn map(
        share: &GuestShare,
        regions: impl IntoIterator<Item = (RegionSpec, OwnedFd)>,
    ) -> Result<Self, GuestMemoryError> {
        let mut memory = Self::new(share);
        for (spec, file) in regions {
            memory = memory.with(spec, file)?;
        }
        Ok(memory)
    }

    /// The same with one more region (ADD_MEM_REG).
    ///
    /// # Errors
    /// As for [`GuestMemory::map`].
    pub fn with(&self, spec: RegionSpec, file: OwnedFd) -> Result<Self, GuestMemoryError> {
        if self.regions.len() >= MAX_REGIONS {
            let why = "there are 64 regions already";
            return Err(GuestMemoryError::Region { spec, why });
        }
        let mapping = Mapping::new(&self.share, spec, &file)?;
        let overlap = |a: u64, b: u64, size: u64| a < b + size && b < a + spec.size;
        if self.regions.iter().any(|region| {
            let other = region.spec;
            overlap(spec.guest_address, other.guest_address, other.size)
                || overlap(spec.user_address, other.user_address, other.size)
        }) {
            let why = "it overlaps another region";
            return Err(GuestMemoryError::Region { spec, why });
        }
        let mut regions = self.regions.clone();
        regions.push(Arc::new(mapping));
        regions.sort_by_key(|region| region.spec.guest_address);
        let share = self.share.clone();
        Ok(Self { share, regions })
    }

    /// The same without a region (REM_MEM_REG). None if there is none with this guest address, user address and size.
    #[must_use]
    pub fn without(&self, spec: RegionSpec) -> Option<Self> {
        let key = |spec: &RegionSpec| (spec.guest_address, spec.user_address, spec.size);
        let mut regions = self.regions.clone();
        regions.retain(|region| key(&region.spec) != key(&spec));
        let share = self.share.clone();
        (regions.len() < self.regions.len()).then_some(Self { share, regions })
    }

    /// Number of regions.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// Bytes of all regions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let sizes = self.regions.iter().map(|region| region.spec.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// Where `len` bytes at an address of the front-end's process are here; none if they are not all in one region.
    pub(crate) fn at_user(&self, address: u64, len: u64) -> Option<NonNull<u8>> {
        self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.spec.user_address)?;
            let fits = offset < region.spec.size && len <= region.spec.size - offset;
            // SAFETY: offset < size, so the sum is inside the mapping.
            fits.then(|| unsafe { region.base.add(offset as usize) })
        })
    }

    /// The guest address of what is at an address of the front-end's process.
    pub(crate) fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.spec.user_address)?;
            (offset < region.spec.size).then(|| region.spec.guest_address + offset)
        })
    }

    /// The first guest address behind all regions.
    pub(crate) fn end(&self) -> u64 {
        let end = |spec: RegionSpec| spec.guest_address + spec.size;
        self.regions
            .iter()
            .map(|region| end(region.spec))
            .max()
            .unwrap_or(0)
    }

    /// Whether a file was found shorter than its mapping: what was read there was zeros.
    pub(crate) fn is_torn(&self) -> bool {
        self.regions.iter().any(|region| region.watched.is_torn())
    }
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.regions.iter().map(|region| region.spec))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;

    /// A process has 65,530 mappings by default. Without one the handler could not go on.
    #[test]
    fn what_is_cut_short_is_not_one_mapping_for_each_page() {
        let page = 4096_u64;
        let file = memfd_create(c"cut", MFdFlags::empty()).expect("memfd");
        ftruncate(&file, (100 * page) as i64).expect("size");
        let spec = RegionSpec {
            guest_address: 0,
            size: 100 * page,
            user_address: 0,
            mmap_offset: 0,
        };
        let memory = GuestMemory::map(
            &GuestShare::new(),
            [(spec, file.try_clone().expect("descriptor"))],
        )
        .expect("memory");
        let at = |page_index| memory.at_user(page_index * page, 8).expect("in the region");
        let range = at(0).as_ptr() as usize..at(0).as_ptr() as usize + spec.size as usize;
        ftruncate(&file, 10 * page as i64).expect("shorter");
        for index in (11..100).rev().step_by(2).chain([5]) {
            // SAFETY: inside the mapping.
            assert_eq!(unsafe { at(index).as_ptr().read_volatile() }, 0);
        }
        assert!(memory.is_torn());
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let within = maps.lines().filter(|line| {
            let start = line
                .split('-')
                .next()
                .and_then(|hex| usize::from_str_radix(hex, 16).ok());
            start.is_some_and(|start| range.contains(&start))
        });
        // What is left of the file, and the zeros behind it.
        assert_eq!(within.count(), 2, "{maps}");
    }
}
