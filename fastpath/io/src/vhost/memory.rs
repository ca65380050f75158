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

use super::sigbus::{self, Watched};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Most regions of a guest: what SET_MEM_TABLE carries at most is 8; memory slots are added one by one.
pub const MAX_REGIONS: usize = 64;

/// Most addresses that mappings of one guest take up. A file can be sparse: it costs who shares it nothing.
const MOST_OF_A_GUEST: usize = 4 << 40;
/// Most that those of all guests do: half of what a process has. Without addresses left, the next allocation would end
/// the process.
const MOST_OF_ALL: usize = 64 << 40;
/// What they do now.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

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
    /// The kernel refused.
    #[error("mapping memory region {spec:?} failed: {source}")]
    Map {
        /// The region.
        spec: RegionSpec,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Addresses that are taken up until it is dropped.
struct Addresses {
    of: &'static AtomicUsize,
    bytes: usize,
}

impl Addresses {
    /// None if it would be more than there may be.
    fn take(of: &'static AtomicUsize, bytes: usize) -> Option<Self> {
        let within = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= MOST_OF_ALL);
        of.fetch_update(Relaxed, Relaxed, within).ok()?;
        Some(Self { of, bytes })
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

/// One region, mapped as long as somebody uses it.
pub(crate) struct Mapping {
    pub(crate) spec: RegionSpec,
    /// The region's first byte.
    pub(crate) base: NonNull<u8>,
    /// The mapping: whole pages from the file's start.
    start: NonNull<u8>,
    bytes: usize,
    watched: Watched,
    /// Given back last, when nothing is mapped there any more.
    _addresses: Addresses,
}

// SAFETY: the memory is shared with the guest anyway and is only reached by copying through raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `mapped` bytes are the guest's already.
    fn new(spec: RegionSpec, file: &OwnedFd, mapped: usize) -> Result<Self, GuestMemoryError> {
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
        let bytes = usize::try_from(end)
            .ok()
            .and_then(|end| end.checked_next_multiple_of(page));
        let bytes = bytes.ok_or(wrong("it is larger than an address space"))?;
        if bytes > MOST_OF_A_GUEST.saturating_sub(mapped) {
            return Err(wrong(
                "with the guest's other regions it takes up more than 4 TiB of addresses, counted from the start of each file",
            ));
        }
        let addresses = Addresses::take(&TAKEN, bytes).ok_or(wrong(
            "guests take up 64 TiB of addresses already, half of what the daemon has; stop one with that much",
        ))?;
        // From the file's start: a hugetlbfs file takes offsets of whole huge pages only.
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        let start = match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => start,
            _ => {
                let source = io::Error::last_os_error();
                return Err(GuestMemoryError::Map { spec, source });
            }
        };
        // SAFETY: mmap_offset < bytes.
        let base = unsafe { start.add(spec.mmap_offset as usize) };
        let Some(watched) = sigbus::watch(start.as_ptr() as usize, bytes, page) else {
            // SAFETY: the mapping was made just now, and nobody has an address in it.
            unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
            return Err(wrong(
                "4,096 regions of guests are mapped already, which is the most",
            ));
        };
        Ok(Self {
            spec,
            base,
            start,
            bytes,
            watched,
            _addresses: addresses,
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
#[derive(Clone, Default)]
pub struct GuestMemory {
    pub(crate) regions: Vec<Arc<Mapping>>,
}

impl GuestMemory {
    /// Maps regions; their descriptors are closed.
    ///
    /// # Errors
    /// [`GuestMemoryError`] if one is impossible, overlaps another or can't be mapped.
    pub fn map(regions: impl IntoIterator<Item = (RegionSpec, OwnedFd)>) -> Result<Self, GuestMemoryError> {
        let mut memory = Self::default();
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
        let mapped = self.regions.iter().map(|region| region.bytes).sum();
        let mapping = Mapping::new(spec, &file, mapped)?;
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
        Ok(Self { regions })
    }

    /// The same without a region (REM_MEM_REG). None if there is none with this guest address, user address and size.
    #[must_use]
    pub fn without(&self, spec: RegionSpec) -> Option<Self> {
        let key = |spec: &RegionSpec| (spec.guest_address, spec.user_address, spec.size);
        let mut regions = self.regions.clone();
        regions.retain(|region| key(&region.spec) != key(&spec));
        (regions.len() < self.regions.len()).then_some(Self { regions })
    }

    /// Number of regions.
    #[must_use]
    pub fn regions(&self) -> usize {
        self.regions.len()
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

    #[test]
    fn addresses_are_bounded_and_come_back() {
        static ALL: AtomicUsize = AtomicUsize::new(0);
        let take = |bytes| Addresses::take(&ALL, bytes);
        let guests: Vec<_> = (0..16).map_while(|_| take(MOST_OF_A_GUEST)).collect();
        assert_eq!(guests.len(), 16);
        assert!(take(1).is_none() && take(usize::MAX).is_none());
        drop(guests);
        assert_eq!(ALL.load(Relaxed), 0);
        assert!(take(MOST_OF_ALL).is_some());
    }
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
        let memory = GuestMemory::map([(spec, file.try_clone().expect("descriptor"))]).expect("memory");
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
