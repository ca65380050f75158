//! Waiting for a driver to let go of a queue's zero-copy memory.
//!
//! Closing a socket returns at once; the driver's rings are torn down by a work item that waits for the kernel's
//! network lock (net/xdp/xsk_buff_pool.c, `xp_put_pool`, `xp_release_deferred`), and until then the device may write
//! into chunks that it was given. The kernel does not tell when that is done. But it lets nobody else bind to the
//! queue before, so that is tried: with a socket of the smallest rings, in copy mode, of which no driver hears.

use super::socket::Interface;
use super::sys;
use super::uapi::{UmemReg, sockaddr_xdp};
use crate::Umem;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Longer than any release takes while the network lock is not stuck. Also how long another program that has taken
/// the queue meanwhile makes us wait for nothing.
const LIMIT: Duration = Duration::from_secs(5);

/// Returns when the kernel has released a queue whose zero-copy socket was closed. For control threads.
pub(super) fn wait(umem: &Umem, interface: &Interface, queue: u32) {
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        match try_bind(umem, interface, queue) {
            Ok(()) => return,
            // The interface is gone, which has released it too.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            // It is busy; or it can't be tried for want of descriptors or memory, and then time must do.
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn try_bind(umem: &Umem, interface: &Interface, queue: u32) -> io::Result<()> {
    let fd = sys::socket()?;
    let region = umem.region();
    // A page of the very memory: nothing is lent, so nothing is written to it.
    let page = UmemReg {
        addr: region.base.as_ptr() as u64,
        len: 4096,
        chunk_size: region.chunk_size(),
        headroom: 0,
        flags: 0,
    };
    sys::set_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_UMEM_REG, &page)?;
    for ring in [
        libc::XDP_UMEM_FILL_RING,
        libc::XDP_UMEM_COMPLETION_RING,
        libc::XDP_RX_RING,
    ] {
        sys::set_option(fd.as_fd(), libc::SOL_XDP, ring, &1u32)?;
    }
    let address = sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: interface.index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    sys::bind(fd.as_fd(), &address)
}
