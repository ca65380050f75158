//! The parts of linux/if_xdp.h and of the socket ABI that the `libc` crate lacks or types awkwardly.

pub(crate) use libc::{
    sockaddr_xdp, xdp_desc, xdp_mmap_offsets, xdp_options, xdp_ring_offset, xdp_statistics,
};

/// setsockopt(SOL_XDP): descriptors that one `sendto` sends in copy mode, 32 unless set (Linux 6.18;
/// include/uapi/linux/if_xdp.h).
pub(crate) const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// setsockopt(SOL_SOCKET): socket(7), Linux 5.11. Asks NAPI to be driven by busy polling, interrupts off.
pub(crate) const SO_PREFER_BUSY_POLL: libc::c_int = 69;
/// setsockopt(SOL_SOCKET): Linux 5.11. Packets that one busy poll may process.
pub(crate) const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// mmap offsets of the four rings of a socket.
pub(crate) const PGOFF_RX: libc::off_t = libc::XDP_PGOFF_RX_RING;
pub(crate) const PGOFF_TX: libc::off_t = libc::XDP_PGOFF_TX_RING;
pub(crate) const PGOFF_FILL: libc::off_t = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
pub(crate) const PGOFF_COMPLETION: libc::off_t = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;

/// `struct xdp_umem_reg` as far as every kernel with AF_XDP flags knows it (before `tx_metadata_len` of 6.8):
/// the kernel takes the longest version that fits the length it is given, and we use no later field.
#[repr(C)]
pub(crate) struct UmemReg {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) chunk_size: u32,
    pub(crate) headroom: u32,
    pub(crate) flags: u32,
}

const _: () = assert!(size_of::<xdp_desc>() == 16);
const _: () = assert!(size_of::<UmemReg>() == 32);
