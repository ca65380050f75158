//! A port whose other end is in this process: tests, benches, traffic endpoints.
//!
//! ```text
//!   MemoryPeer::send ──► ring of frames ──► MemoryPort::rx_batch      (no byte is copied)
//!   MemoryPeer::recv ◄── ring of frames ◄── MemoryPort::tx_batch
//! ```

use crate::batch::{forget_front, move_out};
use crate::eventfd::EventFd;
use crate::{BATCH, Fault, Frame, FrameBatch, Offloads, PoolSet, Port, RxCounts, TxCounts};
use rtrb::{Consumer, Producer, RingBuffer};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

struct Shared {
    armed: AtomicBool,
    event: EventFd,
}

/// The worker's end.
pub struct MemoryPort {
    rx: Consumer<Frame>,
    tx: Producer<Frame>,
    shared: Arc<Shared>,
    offloads: Offloads,
}

/// The other end. One thread owns it, with pools of its own.
pub struct MemoryPeer {
    tx: Producer<Frame>,
    rx: Consumer<Frame>,
    shared: Arc<Shared>,
}

/// Makes a port with room for `ring` frames in each direction.
///
/// # Errors
/// When no eventfd can be made (EMFILE).
pub fn memory_port(ring: usize) -> io::Result<(MemoryPort, MemoryPeer)> {
    let (peer_tx, port_rx) = RingBuffer::new(ring);
    let (port_tx, peer_rx) = RingBuffer::new(ring);
    let shared = Arc::new(Shared {
        armed: AtomicBool::new(false),
        event: EventFd::new()?,
    });
    let port = MemoryPort {
        rx: port_rx,
        tx: port_tx,
        shared: shared.clone(),
        offloads: Offloads::empty(),
    };
    Ok((
        port,
        MemoryPeer {
            tx: peer_tx,
            rx: peer_rx,
            shared,
        },
    ))
}

impl MemoryPort {
    /// Says what the other end takes undone; nothing, unless this is called.
    pub fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }
}

impl MemoryPeer {
    /// Sends one frame.
    ///
    /// # Errors
    /// Gives the frame back if the ring is full or the port is gone.
    pub fn send(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.is_closed() {
            return Err(frame);
        }
        let result = self.tx.push(frame).map_err(|rtrb::PushError::Full(frame)| frame);
        self.wake();
        result
    }

    /// Sends from the front of `frames` as many as fit; gives their number.
    pub fn send_batch(&mut self, frames: &mut Vec<Frame>) -> usize {
        if self.is_closed() {
            return 0;
        }
        let n = push_batch(&mut self.tx, frames, usize::MAX);
        self.wake();
        n
    }

    /// Takes one frame that the port has sent.
    pub fn recv(&mut self) -> Option<Frame> {
        self.rx.pop().ok()
    }

    /// Takes what the port has sent, at most as much as `batch` has room for; gives the number.
    pub fn recv_batch(&mut self, batch: &mut FrameBatch) -> usize {
        pop_batch(&mut self.rx, batch)
    }

    /// Whether the port's end is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.tx.is_abandoned()
    }

    fn wake(&self) {
        // Pairs with the fence in `arm`: either we see the flag or the port sees the frame.
        fence(Ordering::SeqCst);
        if self.shared.armed.load(Ordering::Relaxed) && self.shared.armed.swap(false, Ordering::Relaxed) {
            self.shared.event.signal();
        }
    }
}

fn push_batch(ring: &mut Producer<Frame>, frames: &mut Vec<Frame>, most: usize) -> usize {
    let n = frames.len().min(ring.slots()).min(most);
    let Ok(mut chunk) = ring.write_chunk_uninit(n) else {
        return 0;
    };
    let (first, second) = chunk.as_mut_slices();
    let (to_first, to_second) = frames[..n].split_at(first.len());
    move_out(to_first, first);
    move_out(to_second, second);
    // SAFETY: all n slots were written just now.
    unsafe { chunk.commit_all() };
    forget_front(frames, n);
    n
}

#[inline]
fn pop_batch(ring: &mut Consumer<Frame>, batch: &mut FrameBatch) -> usize {
    let n = (BATCH - batch.len()).min(ring.slots());
    let Ok(chunk) = ring.read_chunk(n) else { return 0 };
    let (first, second) = chunk.as_slices();
    for part in [first, second] {
        let room = &mut batch.spare_capacity_mut()[..part.len()];
        move_out(part, room);
        let len = batch.len() + part.len();
        // SAFETY: the slots up to len were written just now, and len ≤ BATCH.
        unsafe { batch.set_len(len) };
    }
    // Drops the ring's copies, which for a Frame is nothing: they live on in the batch.
    chunk.commit_all();
    n
}

impl Port for MemoryPort {
    #[inline]
    fn rx_batch(&mut self, _: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        pop_batch(&mut self.rx, batch)
    }

    #[inline]
    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts {
        let (mut n, mut bytes) = (0, 0);
        for frame in frames.iter_mut().take(self.tx.slots()) {
            // The other end reads frames when it likes.
            if !pools.make_own(frame) {
                break;
            }
            n += 1;
            bytes += u64::from(frame.len());
        }
        let packets = push_batch(&mut self.tx, frames, n) as u64;
        TxCounts {
            packets,
            bytes,
            unsendable: 0,
        }
    }

    fn reclaim(&mut self, _: &mut PoolSet) {}

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn fault(&self) -> Option<&Fault> {
        None
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.event.as_fd())
    }

    fn arm(&mut self) -> bool {
        self.shared.event.clear();
        self.shared.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.rx.is_empty()
    }

    fn rx_lost(&mut self) -> RxCounts {
        RxCounts::default()
    }
}

impl Drop for MemoryPort {
    fn drop(&mut self) {
        drain(&mut self.rx);
    }
}

impl Drop for MemoryPeer {
    fn drop(&mut self) {
        drain(&mut self.rx);
    }
}

/// Frames that nobody will read any more go home. Neither end sends into a ring whose other end is gone.
fn drain(ring: &mut Consumer<Frame>) {
    while let Ok(frame) = ring.pop() {
        frame.free_to_depot();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HugePages, Umem, UmemGeometry};

    #[test]
    fn frames_cross_in_order_and_a_full_ring_refuses_the_rest() {
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks: 512,
            huge_pages: HugePages::Off,
        };
        let umem = Umem::new(geometry).expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        let (mut port, mut peer) = memory_port(100).expect("eventfd");
        let mut frames: Vec<Frame> = (0..120u8)
            .filter_map(|i| pools.frame_from(umem.id(), &[i; 60]))
            .collect();
        let counts = port.tx_batch(&mut pools, &mut frames);
        assert_eq!(
            counts,
            TxCounts {
                packets: 100,
                bytes: 6000,
                unsendable: 0
            }
        );
        assert_eq!(
            frames.iter().map(|f| f.bytes()[0]).collect::<Vec<_>>(),
            (100..120).collect::<Vec<_>>()
        );
        assert!(!port.arm(), "nothing has arrived");
        assert_eq!(peer.send_batch(&mut frames), 20);
        assert!(port.arm(), "frames wait");
        let mut batch = FrameBatch::new();
        assert_eq!(port.rx_batch(&mut pools, &mut batch), 20);
        assert_eq!(batch[19].bytes(), [119; 60]);
        batch.drain(..).for_each(|f| pools.free(f));
        // 100 frames wait in the ring to the peer: they go home when both ends do.
        drop((port, peer, pools));
        assert_eq!(umem.depot_chunks(), 512);
    }
}
