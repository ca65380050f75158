//! Cache prefetch as safe functions: a hint can't fault, whatever the address.

use core::arch::asm;
use core::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};

/// Starts loading the cache line of `value`.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    // SAFETY: PREFETCHT0 is a hint: it neither faults nor changes what the program can observe.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast()) }
}

/// Starts loading the cache line of `value` for writing.
#[inline(always)]
pub fn prefetch_write<T: ?Sized>(value: &T) {
    prefetch_address_write(core::ptr::from_ref(value).cast());
}

/// [`prefetch_read`] for memory that nobody has a reference to.
#[inline(always)]
pub(crate) fn prefetch_address(at: *const u8) {
    // SAFETY: PREFETCHT0 is a hint: it neither faults nor changes what the program can observe.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

/// [`prefetch_write`] for memory that nobody has a reference to.
#[inline(always)]
pub(crate) fn prefetch_address_write(at: *const u8) {
    // The compiler makes a PREFETCHT0 of its own intrinsic for writing, unless told that the CPU has PREFETCHW: which
    // those for x86-64 have, or take for a NOP.
    // SAFETY: PREFETCHW is a hint: it neither faults nor changes what the program can observe.
    unsafe { asm!("prefetchw [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
}

/// Starts loading the second and all further cache lines of `bytes`, as far as the second-level cache: a batch of
/// whole packets does not fit the first.
#[inline(always)]
pub(crate) fn prefetch_lines(bytes: &[u8]) {
    for line in bytes.chunks(64).skip(1) {
        // SAFETY: PREFETCHT1 is a hint: it neither faults nor changes what the program can observe.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
}
