//! A packet socket (packet(7)) for sending a frame now and then from an interface of the kernel's. For announcements; no
//! port is made of it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

/// A socket of the network namespace of the thread that opened it, on whatever thread it is used.
#[derive(Debug)]
pub struct PacketSocket {
    fd: Option<OwnedFd>,
}

impl PacketSocket {
    /// Opens it. It receives nothing. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) reads and writes no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd: Some(fd) })
    }

    /// Sends a frame, which begins with its Ethernet header, from the interface of this number. Does not wait.
    ///
    /// # Errors
    /// What sendto(2) says: `ENETDOWN` if the interface is down, `ENOBUFS` or `EAGAIN` if it takes no frame now (no
    /// carrier, no room), `ENXIO` if there is none of the number.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let Some(fd) = &self.fd else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENXIO))?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the kernel reads `frame.len()` bytes of a slice and the whole of an initialised sockaddr_ll, both of which
        // live until it returns; it writes nothing, and a frame of any content is refused or sent.
        let sent = unsafe {
            libc::sendto(
                fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        match sent < 0 {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }
}

impl Drop for PacketSocket {
    /// The kernel waits for an RCU grace period when a packet socket is closed (`synchronize_net` in its release: 5 to 200
    /// ms were seen): a thread does that for whoever drops it.
    fn drop(&mut self) {
        let fd = self.fd.take();
        // Without a thread, the closure is dropped here and the descriptor is closed.
        let _ = thread::Builder::new()
            .name("packet-close".into())
            .spawn(move || drop(fd));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_exist_takes_no_frame() {
        let socket = PacketSocket::open().expect("these tests need root");
        for ifindex in [0x7fff_fff0, u32::MAX] {
            let error = socket.send(ifindex, &[0; 60]).expect_err("there is none");
            assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        }
    }
}
