//! Memory of big tables that are read at random: on transparent huge pages where the kernel gives them.
//!
//! A table of 2 MiB on normal pages has 512 of them, one of 32 MiB 8,192: more than the TLB holds, so that every
//! access first walks the page tables. (Documentation/admin-guide/mm/transhuge.rst)

use std::ops::Deref;
use std::ptr::NonNull;

/// The size of a huge page on x86-64.
const HUGE_PAGE: usize = 2 << 20;

/// A slice whose memory starts at a huge page's boundary, advised to be of huge pages. Its length never changes.
pub struct TableMemory<T> {
    entries: NonNull<[T]>,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its entries like a Box<[T]>.
unsafe impl<T: Send> Send for TableMemory<T> {}
// SAFETY: it gives out only what a shared Box<[T]> gives out.
unsafe impl<T: Sync> Sync for TableMemory<T> {}

impl<T: Default> TableMemory<T> {
    /// `len` default entries. Without memory for them the process ends, as with any allocation.
    #[must_use]
    pub fn new(len: usize) -> Self {
        const { assert!(align_of::<T>() <= HUGE_PAGE && size_of::<T>() > 0) };
        let layout = std::alloc::Layout::array::<T>(len.max(1)).and_then(|layout| layout.align_to(HUGE_PAGE));
        let Ok(layout) = layout else { std::process::abort() };
        // Whole huge pages, and room to start at the boundary of one.
        let bytes = layout.pad_to_align().size() + HUGE_PAGE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let base = match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => base,
            _ => std::alloc::handle_alloc_error(layout),
        };
        // SAFETY: less than HUGE_PAGE is added, which the mapping has to spare.
        let start = unsafe { base.add(base.as_ptr().align_offset(HUGE_PAGE)) };
        // SAFETY: the range lies in the mapping. A kernel without huge pages refuses, and normal ones do.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes - HUGE_PAGE, libc::MADV_HUGEPAGE) };
        let first = start.cast::<T>();
        for i in 0..len {
            // SAFETY: the mapping has room for len entries behind `start`.
            let entry = unsafe { first.add(i) };
            // SAFETY: `start`, and so every entry, is aligned for T.
            unsafe { entry.write(T::default()) };
        }
        Self {
            entries: NonNull::slice_from_raw_parts(first, len),
            base,
            bytes,
        }
    }
}

impl<T> Deref for TableMemory<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: all entries were written by `new`, and live as long as self.
        unsafe { self.entries.as_ref() }
    }
}

impl<T> Drop for TableMemory<T> {
    fn drop(&mut self) {
        // SAFETY: the entries are ours alone and are not used again.
        unsafe { std::ptr::drop_in_place(self.entries.as_ptr()) };
        // SAFETY: the mapping that `new` made, of which nothing is used any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn entries_are_there_aligned_and_dropped() {
        #[derive(Default)]
        struct Entry(Option<Arc<()>>);
        let table = TableMemory::<std::sync::Mutex<Entry>>::new(1000);
        assert_eq!((table.len(), table.as_ptr().addr() % HUGE_PAGE), (1000, 0));
        let shared = Arc::new(());
        for entry in &*table {
            entry.lock().expect("no panic").0 = Some(shared.clone());
        }
        assert_eq!(Arc::strong_count(&shared), 1001);
        drop(table);
        assert_eq!(Arc::strong_count(&shared), 1);
        assert!(TableMemory::<u64>::new(0).is_empty());
    }

    /// What the kernel was asked for; whether it has huge pages left is another matter.
    #[test]
    fn a_table_is_advised_to_be_on_huge_pages() {
        let table = TableMemory::<AtomicU64>::new(4 * HUGE_PAGE / 8);
        table.iter().for_each(|entry| entry.store(1, Ordering::Relaxed));
        let start = format!("{:x}-", table.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut ours = maps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = ours.find(|line| line.starts_with("VmFlags:")).expect("flags");
        assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
    }
}
