//! Copying to and from a guest's memory, which others may change meanwhile: bytes in, bytes out, no references.

use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

/// Copies `len` bytes. Short ones inline, by moves that overlap: a call costs more than they do.
///
/// The two may overlap: a frame that leaves by the port it came from, on another VLAN, is copied within one guest's
/// memory, and nothing keeps that guest from offering the bytes that it sends. It gets a mess, of its own bytes.
///
/// # Safety
/// `from` can be read and `to` written for `len` bytes.
#[inline(always)]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if (16..=128).contains(&len) {
        // SAFETY: as the caller promises; len is in the range.
        unsafe { copy_some(from, to, len) }
    } else {
        // SAFETY: as the caller promises.
        unsafe { std::ptr::copy(from, to, len) }
    }
}

/// 16 to 128 bytes.
#[inline(always)]
unsafe fn copy_some(from: *const u8, to: *mut u8, len: usize) {
    let last = len - 16;
    let mut at = 0;
    // Every 16 bytes from the front, and the last 16.
    while at < last {
        // SAFETY: at + 16 <= len.
        unsafe { copy_16(from, to, at) };
        at += 16;
    }
    // SAFETY: last + 16 = len.
    unsafe { copy_16(from, to, last) };
}

/// 16 bytes at an offset.
#[inline(always)]
unsafe fn copy_16(from: *const u8, to: *mut u8, at: usize) {
    // SAFETY: the caller has at + 16 bytes at either side.
    let from = unsafe { from.add(at) };
    // SAFETY: as above.
    let to = unsafe { to.add(at) };
    // SAFETY: as above; the load takes any alignment.
    let bytes = unsafe { _mm_loadu_si128(from.cast::<__m128i>()) };
    // SAFETY: as above.
    unsafe { _mm_storeu_si128(to.cast::<__m128i>(), bytes) };
}
