//! The system calls of AF_XDP sockets as safe functions.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: socket returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option<T>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let value: *const T = value;
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: value points to `len` readable bytes that live through the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.cast(), len) })
}

/// What the kernel may write any bytes into.
pub(crate) trait Plain: Copy {}
impl Plain for libc::c_int {}
impl Plain for libc::xdp_mmap_offsets {}
impl Plain for libc::xdp_options {}
impl Plain for libc::xdp_statistics {}

pub(crate) fn get_option<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
    // SAFETY: T is integers only (Plain), for which all zeroes is a value.
    let mut value: T = unsafe { std::mem::zeroed() };
    let target: *mut T = &raw mut value;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: target points to `len` writable bytes that live through the call, and T takes any bytes.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, target.cast(), &raw mut len) })?;
    Ok(value)
}

pub(crate) fn bind(fd: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> io::Result<()> {
    let address: *const libc::sockaddr_xdp = address;
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: address points to `len` readable bytes that live through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.cast(), len) })
}

/// `poll(2)` that does not wait: the kernel wakes the driver if it asked for that. What it says is of no interest.
#[inline]
pub(crate) fn poll(fd: BorrowedFd<'_>) {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
}

/// The empty `sendto` that makes the kernel look at the tx ring (af_xdp.rst); errno on failure.
#[inline]
pub(crate) fn kick_tx(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: no bytes are sent and no address is given.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent < 0 { Err(errno()) } else { Ok(()) }
}

/// The empty `recvfrom` that makes the kernel look at the fill ring or drives its busy polling; errno on failure.
#[inline]
pub(crate) fn kick_rx(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: no bytes are received and no address is asked for.
    let received = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if received < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
