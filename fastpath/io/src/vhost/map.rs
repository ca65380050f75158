//! From guest addresses to ours: every address that a guest names goes through here.

use super::memory::GuestMemory;
use super::ring::Violation;

#[derive(Clone, Copy)]
struct Range {
    start: u64,
    size: u64,
    base: *mut u8,
}

/// A guest's memory as one queue uses it. The port that has the queue keeps the memory mapped.
pub(super) struct GuestMap {
    /// The region of the last address: nearly always that of the next one too.
    last: Range,
    ranges: Box<[Range]>,
}

// SAFETY: the pointers lead to memory that is mapped as long as the port is there, on whatever thread.
unsafe impl Send for GuestMap {}

impl GuestMap {
    pub(super) fn new(memory: &GuestMemory) -> Self {
        let ranges: Box<[Range]> = memory
            .regions
            .iter()
            .map(|region| Range {
                start: region.spec.guest_address,
                size: region.spec.size,
                base: region.base.as_ptr(),
            })
            .collect();
        let none = Range {
            start: 0,
            size: 0,
            base: std::ptr::null_mut(),
        };
        Self {
            last: ranges.first().copied().unwrap_or(none),
            ranges,
        }
    }

    /// Where `len` bytes at a guest address are; none if they are not all in one region.
    #[inline(always)]
    pub(super) fn at(&mut self, address: u64, len: u32) -> Option<*mut u8> {
        let offset = address.wrapping_sub(self.last.start);
        if offset < self.last.size && u64::from(len) <= self.last.size - offset {
            // SAFETY: offset < size: inside the mapping.
            return Some(unsafe { self.last.base.add(offset as usize) });
        }
        self.find(address, len)
    }

    #[cold]
    fn find(&mut self, address: u64, len: u32) -> Option<*mut u8> {
        let (data, n) = self.part(address, len)?;
        (n == len).then_some(data)
    }

    /// Where the bytes at a guest address begin, and how many of `len` there are in that region.
    pub(super) fn part(&mut self, address: u64, len: u32) -> Option<(*mut u8, u32)> {
        let within = |range: &&Range| address.wrapping_sub(range.start) < range.size;
        let range = *self.ranges.iter().find(within)?;
        self.last = range;
        let offset = address - range.start;
        let n = (range.size - offset).min(u64::from(len)) as u32;
        // SAFETY: offset < size: inside the mapping.
        Some((unsafe { range.base.add(offset as usize) }, n))
    }

    /// The guest address of a place that `part` found.
    pub(super) fn guest_address(&self, at: *const u8) -> Option<u64> {
        self.ranges.iter().find_map(|range| {
            let offset = (at as u64).wrapping_sub(range.base as u64);
            (offset < range.size).then(|| range.start + offset)
        })
    }

    /// An entry of an indirect table: its two halves. Read once, whatever its alignment.
    pub(super) fn descriptor(&mut self, table: u64, index: u16) -> Result<(u64, u64), Violation> {
        let address = table.wrapping_add(u64::from(index) * 16);
        let from = self
            .at(address, 16)
            .ok_or(Violation::Address { address, len: 16 })?;
        let mut entry = [0u64; 2];
        // SAFETY: 16 bytes of the guest's memory, copied.
        unsafe { std::ptr::copy_nonoverlapping(from, entry.as_mut_ptr().cast::<u8>(), 16) };
        Ok((entry[0], entry[1]))
    }
}
