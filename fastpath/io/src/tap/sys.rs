//! The system calls of TAPs as safe functions.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What an `ifreq` needs to say here: name and flags.
fn request(name: &[u8], flags: libc::c_int) -> libc::ifreq {
    // SAFETY: plain integers and a union of such: all zeroes is a value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays 0.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    request
}

/// TUNSETIFF: makes the descriptor a queue of the TAP of this name, which is made if there is none.
pub(super) fn attach(fd: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<()> {
    let mut request = request(name.as_bytes(), flags);
    let request: *mut libc::ifreq = &raw mut request;
    // SAFETY: the request is a whole ifreq that lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, request) })
}

/// TUNGETIFF: fails with EBADFD if the descriptor is no queue of a TAP any more.
pub(super) fn is_attached(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = request(&[], 0);
    let request: *mut libc::ifreq = &raw mut request;
    // SAFETY: the request is a whole ifreq that lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, request) })
}

/// An ioctl that takes a number.
pub(super) fn set(fd: BorrowedFd<'_>, what: libc::Ioctl, value: libc::c_uint) -> io::Result<()> {
    // SAFETY: the commands that this module's users give take their argument as a number (tun.c: TUNSETOFFLOAD,
    // TUNSETPERSIST); another would find an invalid pointer and fail.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), what, libc::c_ulong::from(value)) })
}

/// An ioctl that takes a pointer to a number.
pub(super) fn set_by_pointer(fd: BorrowedFd<'_>, what: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
    let value: *const libc::c_int = &raw const value;
    // SAFETY: the value lives through the call, which reads an int (TUNSETVNETHDRSZ, TUNSETVNETLE).
    check(unsafe { libc::ioctl(fd.as_raw_fd(), what, value) })
}

/// Whether there is something to read, or to find out by reading.
pub(super) fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}
