//! One queue pair of a guest as a port.

use super::GuestMemory;
use crate::{Fault, Frame, FrameBatch, Offloads, PoolSet, Port, RegionId, RxCounts, TxCounts, Umem};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A ring as the messages of the front-end describe it.
#[derive(Debug)]
pub struct VringConfig {
    /// Entries: a power of two up to 32768; with a packed ring any number up to that (virtio 1.2 §2.7, §2.8).
    pub size: u16,
    /// SET_VRING_ADDR: the descriptor table or ring, an address of the front-end's process, as are the next two.
    pub descriptors: u64,
    /// The available ring; with a packed ring the driver's event suppression.
    pub driver: u64,
    /// The used ring; with a packed ring the device's event suppression.
    pub device: u64,
    /// Where the device goes on: the value of SET_VRING_BASE and of GET_VRING_BASE's reply.
    pub base: u32,
    /// SET_VRING_ENABLE: a ring that is disabled supplies no frames to the guest, and what it sends is discarded.
    pub enabled: bool,
    /// Readable when the guest has made buffers available; none: the front-end wants to be polled.
    pub kick: Option<OwnedFd>,
    /// To be signalled when buffers were used; none: the front-end polls.
    pub call: Option<OwnedFd>,
    /// Guest address that stands for the used ring in the dirty log (VHOST_VRING_F_LOG).
    pub log_address: Option<u64>,
}

/// What a queue pair is made of.
#[derive(Debug)]
pub struct VhostConfig {
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// The features that were negotiated: virtio's and VHOST_F_LOG_ALL.
    pub features: u64,
    /// The queue that the guest transmits on.
    pub transmit: Option<VringConfig>,
    /// The queue that the guest receives from.
    pub receive: Option<VringConfig>,
}

/// Why a ring can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VringError {
    /// The size is not one that the ring's format allows.
    #[error(
        "a ring of {0} entries is not possible: a split ring takes a power of two up to 32768, a packed one 1 to 32768"
    )]
    Size(u16),
    /// A part of the ring is not in the guest's memory, or not aligned.
    #[error(
        "the {part} of the ring at {address:#x} ({bytes} bytes) is not in the memory that the front-end shared, or not aligned"
    )]
    Address {
        /// What part.
        part: &'static str,
        /// Its address in the front-end's process.
        address: u64,
        /// Its size.
        bytes: u64,
    },
}

/// See the module's text.
pub struct VhostPort {
    config: VhostConfig,
    umem: Umem,
}

impl VhostPort {
    /// The virtio features that the rings know.
    pub const FEATURES: u64 = 1 << 32;

    /// A port on started rings. Its frames are made of chunks of `umem`.
    ///
    /// # Errors
    /// [`VringError`] if a ring is impossible.
    pub fn new(config: VhostConfig, umem: &Umem) -> Result<Self, VringError> {
        Ok(Self {
            config,
            umem: umem.clone(),
        })
    }

    /// What it was made of, with the bases as they are now: what GET_VRING_BASE replies, and what its successor needs.
    #[must_use]
    pub fn into_config(self) -> VhostConfig {
        self.config
    }

    /// The region of its frames.
    #[must_use]
    pub fn region(&self) -> RegionId {
        self.umem.id()
    }
}

impl Port for VhostPort {
    fn rx_batch(&mut self, _: &mut PoolSet, _: &mut FrameBatch) -> usize {
        0
    }

    fn tx_batch(&mut self, _: &mut PoolSet, _: &mut Vec<Frame>) -> TxCounts {
        TxCounts::default()
    }

    fn reclaim(&mut self, _: &mut PoolSet) {}

    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }

    fn fault(&self) -> Option<&Fault> {
        None
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.config.transmit.as_ref()?.kick.as_ref().map(AsFd::as_fd)
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn rx_lost(&mut self) -> RxCounts {
        RxCounts::default()
    }
}
