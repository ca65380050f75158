//! Which network namespace a socket is in.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The number of the network namespace of a socket (`SO_NETNS_COOKIE`, Linux 5.14): no other one has it until the host
/// is started anew, whereas the inode of a namespace that has ended is the next one's. `None`: the kernel is older.
///
/// # Errors
/// What getsockopt(2) says, `ENOTSOCK` for example.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie` and the length to `len`; both live until it returns, and
    // eight bytes of any content are a u64.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(Some(cookie));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn sockets_of_one_namespace_say_the_same() {
        let sockets = [(); 2].map(|()| UnixDatagram::unbound().expect("a socket can be made"));
        let [a, b] = sockets.map(|socket| netns_cookie(socket.as_fd()).expect("it is a socket"));
        assert_eq!(a, b);
        assert_ne!(a, Some(0));
        let file = std::fs::File::open("/dev/null").expect("it is there");
        let error = netns_cookie(file.as_fd()).expect_err("it is none");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
