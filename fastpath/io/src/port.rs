//! What every port kind keeps to, and the enum that a worker holds.
//!
//! A `Port` here is one queue of an interface (or the whole of a port that has one queue): the thing that
//! exactly one worker polls. An interface with four queues is four of them.

use crate::memory::MemoryPort;
use crate::{AfXdpPort, Frame, FrameBatch, Offloads, PcapngPort, PoolSet, RegionId, TapPort, VhostPort};
use std::os::fd::BorrowedFd;

/// Why a port stopped moving frames, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// What a transmit call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxCounts {
    /// Frames accepted.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// Frames that can't be sent by this port at all, whenever it is tried: taken from the list and freed.
    pub unsendable: u64,
}

/// Frames that a port lost before it could hand them over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxCounts {
    /// No chunk, ring full or fill ring empty: as the kernel or device counts it.
    pub missed: u64,
    /// Descriptors that were not valid.
    pub invalid: u64,
}

/// The contract of a port. The contract tests run every kind through it.
///
/// All calls come from the one worker that owns the port. None blocks, allocates memory or panics; faults
/// are reported by [`Port::fault`], after which the port takes and gives no frame.
pub trait Port {
    /// Appends what has arrived to `batch`, at most as much as it has room for, in order of arrival; gives
    /// the number of frames added. Frames come from this port's region in `pools` (or are owned already).
    fn rx_batch(&mut self, pools: &mut PoolSet, batch: &mut FrameBatch) -> usize;

    /// Frames may be held (see [`Frame`]): who keeps them beyond the call makes them its own first.
    ///
    /// Sends from the front of `frames`, in order; what it takes (or frees, as unsendable) is removed from
    /// `frames`, what is left was refused (ring full) and stays the caller's. A frame of another region is copied, which also may fail.
    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts;

    /// Takes back what was sent (completion → pool) and replenishes what can be received into (pool → fill).
    /// Called once a turn, also when nothing moves.
    fn reclaim(&mut self, pools: &mut PoolSet);

    /// So many queues of its port are served by the same worker, this one among them: together they give no more in a turn
    /// than one alone would, if what it gives is bounded.
    fn share_turn(&mut self, queues: usize) {
        let _ = queues;
    }

    /// The frames of the last `rx_batch` are gone: what was held for them can go back to whom it belongs.
    fn rx_done(&mut self) {}

    /// What its receiver does itself; frames that need more than that are finished before they are sent here.
    fn offloads(&self) -> Offloads {
        Offloads::empty()
    }

    /// Whether it sends at all: a queue of a guest that is not enabled does not. It stays so as long as the port is polled.
    fn sends(&self) -> bool {
        true
    }

    /// Whether what the last `tx_batch` refused was refused because the receiver is down, and not because it is full.
    fn is_down(&self) -> bool {
        false
    }

    /// Why the port stopped, if it did.
    fn fault(&self) -> Option<&Fault>;

    /// Whether looking for arrivals takes a system call: then epoll is asked as soon as nothing came for a while.
    fn looks_by_call(&self) -> bool {
        false
    }

    /// The descriptor that becomes readable when a frame arrives; none: the port can't be slept on.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Before the worker sleeps: asks for a wake-up on arrival. True if something is there already.
    fn arm(&mut self) -> bool;

    /// Frames lost before this port could hand them over, since it was opened.
    fn rx_lost(&mut self) -> RxCounts;
}

/// Every kind of port. A worker matches once per batch, not per packet (measured equal to a generic worker at
/// batches of 32 and more).
pub enum AnyPort {
    /// Frames from and to another part of this process.
    Memory(MemoryPort),
    /// One queue of an interface, through an AF_XDP socket.
    AfXdp(Box<AfXdpPort>),
    /// A capture file.
    Pcapng(Box<PcapngPort>),
    /// One queue pair of a guest.
    Vhost(Box<VhostPort>),
    /// One queue of a TAP.
    Tap(Box<TapPort>),
}

impl AnyPort {
    /// The region that its frames arrive in and that it sends from without a copy; none for a port without a UMEM.
    #[must_use]
    pub fn region(&self) -> Option<RegionId> {
        match self {
            AnyPort::Memory(_) => None,
            AnyPort::AfXdp(port) => Some(port.umem().id()),
            AnyPort::Pcapng(port) => Some(port.region()),
            AnyPort::Vhost(port) => Some(port.region()),
            AnyPort::Tap(port) => Some(port.region()),
        }
    }
}

macro_rules! each {
    ($self:ident, $port:ident => $call:expr) => {
        match $self {
            AnyPort::Memory($port) => $call,
            AnyPort::AfXdp($port) => $call,
            AnyPort::Pcapng($port) => $call,
            AnyPort::Vhost($port) => $call,
            AnyPort::Tap($port) => $call,
        }
    };
}

impl Port for AnyPort {
    #[inline]
    fn rx_batch(&mut self, pools: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        each!(self, port => port.rx_batch(pools, batch))
    }

    #[inline]
    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts {
        each!(self, port => port.tx_batch(pools, frames))
    }

    #[inline]
    fn reclaim(&mut self, pools: &mut PoolSet) {
        each!(self, port => port.reclaim(pools));
    }

    fn share_turn(&mut self, queues: usize) {
        each!(self, port => port.share_turn(queues));
    }

    #[inline]
    fn rx_done(&mut self) {
        each!(self, port => port.rx_done());
    }

    fn offloads(&self) -> Offloads {
        each!(self, port => port.offloads())
    }

    fn sends(&self) -> bool {
        each!(self, port => port.sends())
    }

    fn is_down(&self) -> bool {
        each!(self, port => port.is_down())
    }

    fn fault(&self) -> Option<&Fault> {
        each!(self, port => port.fault())
    }

    fn looks_by_call(&self) -> bool {
        each!(self, port => port.looks_by_call())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, port => port.wait_fd())
    }

    fn arm(&mut self) -> bool {
        each!(self, port => port.arm())
    }

    fn rx_lost(&mut self) -> RxCounts {
        each!(self, port => port.rx_lost())
    }
}
