//! One queue pair of a guest as a port.

use super::call::{NoEvent, call, calls_never_wait, check_event};
use super::map::GuestMap;
use super::packed::PackedRing;
use super::receive::Receive;
use super::record::RingRecord;
use super::ring::{F_RING_PACKED, Violation, Vring};
use super::sigbus;
use super::split::SplitRing;
use super::transmit::Transmit;
use super::{DirtyLog, GuestMemory, InflightRegion};
use crate::{Fault, Frame, FrameBatch, Offloads, PoolSet, Port, RegionId, RxCounts, TxCounts, Umem};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
    /// Where the device goes on: the value of SET_VRING_BASE and of GET_VRING_BASE's reply. A split ring goes on at its
    /// used index, whatever this says.
    pub base: u32,
    /// SET_VRING_ENABLE: a ring that is disabled supplies no frames to the guest, and what it sends is discarded.
    pub enabled: bool,
    /// An eventfd, readable when the guest has made buffers available; none: the front-end wants to be polled.
    pub kick: Option<OwnedFd>,
    /// An eventfd, to be signalled when buffers were used; none: the front-end polls.
    pub call: Option<OwnedFd>,
    /// Where a packed ring's position is kept for the case that this process is killed.
    pub record: Option<RingRecord>,
    /// Guest address that stands for the used ring in the dirty log (VHOST_VRING_F_LOG).
    pub log_address: Option<u64>,
    /// SET_INFLIGHT_FD: where the ring's position is kept for whoever goes on after a crash.
    pub inflight: Option<InflightRegion>,
}

/// What a queue pair is made of.
#[derive(Debug)]
pub struct VhostConfig {
    /// The guest's memory.
    pub memory: Arc<GuestMemory>,
    /// The features that were negotiated: virtio's and VHOST_F_LOG_ALL.
    pub features: u64,
    /// SET_LOG_BASE: used if VHOST_F_LOG_ALL was negotiated.
    pub log: Option<Arc<DirtyLog>>,
    /// The queue that the guest transmits on.
    pub transmit: Option<VringConfig>,
    /// The queue that the guest receives from.
    pub receive: Option<VringConfig>,
}

/// Why a ring can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VringError {
    /// The size, or the base, is not one that the ring's format allows.
    #[error(
        "a ring of {0} entries is not possible, or its base is behind its end: a split ring takes a power of two up to 32768, a packed one 1 to 32768"
    )]
    Size(u16),
    /// The buffer for descriptors in flight has no region for it, or holds what no back-end could have left there.
    #[error("the buffer for descriptors in flight does not fit a ring of {0} entries")]
    Inflight(u16),
    /// Something that we write has no bit in the dirty log.
    #[error("the dirty log ends at guest address {log:#x}, and what is to be logged at {end:#x}")]
    Log {
        /// The first address without a bit.
        log: u64,
        /// The first address behind what is written.
        end: u64,
    },
    /// The kick or the call is no eventfd.
    #[error("the ring's {part} can't be used: {why}")]
    Event {
        /// Which of them.
        part: &'static str,
        /// What it is.
        why: NoEvent,
    },
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

/// virtio 1.2 §5.1.3, and 1.3 for USO.
mod feature {
    pub(super) const CSUM: u64 = 1;
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const GUEST_ECN: u64 = 1 << 9;
    pub(super) const GUEST_UFO: u64 = 1 << 10;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    pub(super) const HOST_ECN: u64 = 1 << 13;
    pub(super) const HOST_UFO: u64 = 1 << 14;
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    pub(super) const ANY_LAYOUT: u64 = 1 << 27;
    pub(super) const VERSION_1: u64 = 1 << 32;
    pub(super) const GUEST_USO4: u64 = 1 << 54;
    pub(super) const GUEST_USO6: u64 = 1 << 55;
    pub(super) const HOST_USO: u64 = 1 << 56;
}

/// VHOST_F_LOG_ALL: what we write to the guest's memory is marked in the dirty log.
const F_LOG_ALL: u64 = 1 << 26;

/// What a receiver takes untouched, by feature; all of it needs GUEST_CSUM (§5.1.3.1).
const OFFLOADS: [(u64, Offloads); 7] = [
    (feature::GUEST_CSUM, Offloads::CHECKSUM),
    (feature::GUEST_TSO4, Offloads::TSO4),
    (feature::GUEST_TSO6, Offloads::TSO6),
    (feature::GUEST_ECN, Offloads::ECN),
    (feature::GUEST_UFO, Offloads::UFO),
    (feature::GUEST_USO4, Offloads::USO4),
    (feature::GUEST_USO6, Offloads::USO6),
];

enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

impl Ring {
    fn new(
        config: &VringConfig,
        memory: &GuestMemory,
        features: u64,
        log: Option<&Arc<DirtyLog>>,
    ) -> Result<Self, VringError> {
        let mut ring = if features & F_RING_PACKED != 0 {
            Self::Packed(PackedRing::new(config, memory, features)?)
        } else {
            Self::Split(SplitRing::new(config, memory, features)?)
        };
        if let (Some(log), Some(address)) = (log, config.log_address) {
            let marked = match &mut ring {
                Self::Split(ring) => ring.log_to(log.clone(), address),
                Self::Packed(ring) => {
                    let descriptors = memory.guest_address(config.descriptors).unwrap_or(u64::MAX);
                    ring.log_to(log.clone(), address, descriptors)
                }
            };
            check_log(log, marked.end())?;
        }
        ring.ask_for_kicks(false);
        Ok(ring)
    }

    fn ask_for_kicks(&mut self, yes: bool) {
        match self {
            Self::Split(ring) => ring.ask_for_kicks(yes),
            Self::Packed(ring) => ring.ask_for_kicks(yes),
        }
    }

    fn has_some(&mut self) -> bool {
        0 < match self {
            Self::Split(ring) => ring.available(1),
            Self::Packed(ring) => ring.available(1),
        }
    }

    fn base(&self) -> u32 {
        match self {
            Self::Split(ring) => ring.base(),
            Self::Packed(ring) => ring.base(),
        }
    }
}

fn check_log(log: &DirtyLog, end: u64) -> Result<(), VringError> {
    let log = log.end();
    if end > log {
        return Err(VringError::Log { log, end });
    }
    Ok(())
}

/// A ring, its descriptors, and what its direction needs.
struct Queue<T> {
    ring: Ring,
    way: T,
    config: VringConfig,
}

impl<T> Queue<T> {
    /// Tells a driver that waits for what was completed.
    #[inline]
    fn call_if_wanted(&mut self) {
        let Some(fd) = &self.config.call else { return };
        let wanted = match &mut self.ring {
            Ring::Split(ring) => ring.must_call(),
            Ring::Packed(ring) => ring.must_call(),
        };
        if wanted {
            call(fd.as_fd());
        }
    }

    /// Empties the kick: else who waits for it is woken at once, for ever. Never waits itself, whatever the front-end has
    /// made of the descriptor that it shares.
    fn forget_kicks(&self) {
        let Some(fd) = &self.config.kick else { return };
        let mut count = [0u8; 8];
        let part = libc::iovec {
            iov_base: count.as_mut_ptr().cast(),
            iov_len: count.len(),
        };
        // SAFETY: one buffer of 8 bytes that lives through the call; -1: the file has no offset.
        unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    }

    fn close(self) -> VringConfig {
        VringConfig {
            base: self.ring.base(),
            ..self.config
        }
    }
}

/// Only eventfds are signalled, read and waited for: anything else may make whoever does so wait.
fn check_events(config: &VringConfig) -> Result<(), VringError> {
    // Makes it ready before a worker needs it.
    let _ = calls_never_wait();
    for (part, fd) in [("kick", &config.kick), ("call", &config.call)] {
        if let Some(fd) = fd {
            check_event(fd).map_err(|why| VringError::Event { part, why })?;
        }
    }
    Ok(())
}

/// A request for the IP address of a guest, sent to all by itself; padded to Ethernet's least.
fn rarp(mac: [u8; 6]) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    // Ethertype; Ethernet and IPv4 addresses of 6 and 4 bytes; "request reverse".
    frame[12..22].copy_from_slice(&[0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

/// See the module's text.
pub struct VhostPort {
    transmit: Option<Queue<Transmit>>,
    receive: Option<Queue<Receive>>,
    memory: Arc<GuestMemory>,
    features: u64,
    offloads: Offloads,
    umem: Umem,
    log: Option<Arc<DirtyLog>>,
    /// Handed out next, before anything of the guest's.
    announcement: Option<[u8; 6]>,
    armed: bool,
    fault: Option<Fault>,
}

impl VhostPort {
    /// The virtio features that the rings know.
    pub const FEATURES: u64 = feature::CSUM
        | feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::GUEST_ECN
        | feature::GUEST_UFO
        | feature::HOST_TSO4
        | feature::HOST_TSO6
        | feature::HOST_ECN
        | feature::HOST_UFO
        | feature::MRG_RXBUF
        | feature::ANY_LAYOUT
        | feature::VERSION_1
        | feature::GUEST_USO4
        | feature::GUEST_USO6
        | feature::HOST_USO
        | F_LOG_ALL
        | super::ring::F_INDIRECT_DESC
        | super::ring::F_EVENT_IDX
        | super::ring::F_RING_PACKED
        | super::ring::F_IN_ORDER;

    /// A port on started rings. Its frames are made of chunks of `umem`.
    ///
    /// # Errors
    /// [`VringError`] if a ring is impossible.
    pub fn new(config: VhostConfig, umem: &Umem) -> Result<Self, VringError> {
        let VhostConfig {
            memory,
            features,
            log,
            transmit,
            receive,
        } = config;
        let logged = log.as_ref().filter(|_| features & F_LOG_ALL != 0);
        if let Some(log) = logged {
            check_log(log, memory.end())?;
        }
        // §5.1.6.1: without VERSION_1, num_buffers is there only for mergeable buffers.
        let mergeable = features & feature::MRG_RXBUF != 0;
        let header = if mergeable || features & feature::VERSION_1 != 0 {
            12
        } else {
            10
        };
        let has = |(bit, offload): &(u64, Offloads)| {
            if features & bit != 0 {
                *offload
            } else {
                Offloads::empty()
            }
        };
        let offloads = OFFLOADS.iter().map(has).fold(Offloads::empty(), Offloads::union);
        let transmit = transmit.map(|config| {
            check_events(&config)?;
            let ring = Ring::new(&config, &memory, features, logged)?;
            let way = Transmit::new(GuestMap::new(&memory), header, config.size);
            Ok(Queue { ring, way, config })
        });
        let receive = receive.map(|config| {
            check_events(&config)?;
            let ring = Ring::new(&config, &memory, features, logged)?;
            let mut way = Receive::new(GuestMap::new(&memory), header, mergeable, config.size);
            way.log = logged.cloned();
            Ok(Queue { ring, way, config })
        });
        Ok(Self {
            transmit: transmit.transpose()?,
            receive: receive.transpose()?,
            memory,
            features,
            offloads: if offloads.contains(Offloads::CHECKSUM) {
                offloads
            } else {
                Offloads::empty()
            },
            umem: umem.clone(),
            log: log.clone(),
            announcement: None,
            armed: false,
            fault: None,
        })
    }

    /// What it was made of, with the bases as they are now: what GET_VRING_BASE replies, and what its successor needs.
    #[must_use]
    pub fn into_config(mut self) -> VhostConfig {
        self.rx_done();
        VhostConfig {
            memory: self.memory,
            features: self.features,
            log: self.log,
            transmit: self.transmit.map(Queue::close),
            receive: self.receive.map(Queue::close),
        }
    }

    /// Has a RARP request (RFC 903) for a guest's address arrive, as if the guest had sent it: whoever hears it learns
    /// where the guest is now (SEND_RARP, after a migration).
    pub fn announce(&mut self, mac: [u8; 6]) {
        self.announcement = Some(mac);
    }

    /// The announcement, alone in its batch.
    #[cold]
    fn hand_out(&mut self, mac: [u8; 6], pools: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        let Some(frame) = pools.frame_from(self.umem.id(), &rarp(mac)) else {
            // No chunk is left now.
            self.announcement = Some(mac);
            return 0;
        };
        batch.push(frame);
        1
    }

    /// The region of its frames.
    #[must_use]
    pub fn region(&self) -> RegionId {
        self.umem.id()
    }

    #[cold]
    fn violated(&mut self, queue: &str, violation: Violation) {
        self.fault = Some(Fault(format!(
            "the guest broke the rules of its {queue} queue: {violation}"
        )));
    }

    /// Whether a file of the front-end's was found shorter than it was.
    fn is_torn(&self) -> bool {
        let inflight = |config: &VringConfig| config.inflight.as_ref().is_some_and(|r| r.buffer.is_torn());
        self.memory.is_torn()
            || self.log.as_ref().is_some_and(|log| log.is_torn())
            || self
                .transmit
                .as_ref()
                .is_some_and(|queue| inflight(&queue.config))
            || self.receive.as_ref().is_some_and(|queue| inflight(&queue.config))
    }

    #[cold]
    fn look_for_tears(&mut self) {
        if self.memory.is_torn() && self.fault.is_none() {
            self.violated("transmit or receive", Violation::TornMemory);
        }
    }

    #[cold]
    fn disarm(&mut self) {
        self.armed = false;
        if let Some(queue) = &mut self.transmit {
            queue.ring.ask_for_kicks(false);
        }
    }
}

impl Port for VhostPort {
    #[inline]
    fn rx_batch(&mut self, pools: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        if self.armed {
            self.disarm();
        }
        if let Some(mac) = self.announcement.take() {
            return self.hand_out(mac, pools, batch);
        }
        if sigbus::any_torn() {
            self.look_for_tears();
        }
        let (Some(queue), None) = (&mut self.transmit, &self.fault) else {
            return 0;
        };
        let Some(pool) = pools.get(self.umem.id()) else {
            return 0;
        };
        let before = batch.len();
        let result = match &mut queue.ring {
            Ring::Split(ring) => queue.way.receive(ring, pool, batch),
            Ring::Packed(ring) => queue.way.receive(ring, pool, batch),
        };
        let enabled = queue.config.enabled;
        let n = match result {
            Ok(n) => n,
            Err(violation) => {
                self.violated("transmit", violation);
                batch.len() - before
            }
        };
        if !enabled {
            // What a disabled ring carries is taken and discarded (vhost-user, "Ring states").
            batch.drain(before..).for_each(|frame| pools.free(frame));
        }
        if n == 0 || !enabled {
            // Buffers that held no frame go back all the same.
            self.rx_done();
            return 0;
        }
        n
    }

    fn share_turn(&mut self, queues: usize) {
        if let Some(queue) = &mut self.transmit {
            queue.way.share_turn(queues);
        }
    }

    #[inline]
    fn rx_done(&mut self) {
        let Some(queue) = &mut self.transmit else { return };
        let taken = &mut queue.way.taken;
        if taken.is_empty() {
            return;
        }
        match &mut queue.ring {
            Ring::Split(ring) => ring.complete_transmitted(taken),
            Ring::Packed(ring) => ring.complete_transmitted(taken),
        }
        taken.clear();
        queue.call_if_wanted();
    }

    #[inline]
    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts {
        let (Some(queue), None) = (&mut self.receive, &self.fault) else {
            return TxCounts::default();
        };
        if !queue.config.enabled {
            return TxCounts::default();
        }
        let (counts, done, result) = match &mut queue.ring {
            Ring::Split(ring) => queue.way.send(ring, frames),
            Ring::Packed(ring) => queue.way.send(ring, frames),
        };
        if counts.packets > 0 {
            queue.call_if_wanted();
        }
        if let Err(violation) = result {
            self.violated("receive", violation);
        }
        pools.free_front(frames, done);
        counts
    }

    fn reclaim(&mut self, _: &mut PoolSet) {}

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn sends(&self) -> bool {
        self.receive.as_ref().is_some_and(|queue| queue.config.enabled)
    }

    fn is_down(&self) -> bool {
        self.fault.is_some() || !self.sends()
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.transmit.as_ref()?.config.kick.as_ref().map(AsFd::as_fd)
    }

    fn arm(&mut self) -> bool {
        let Some(queue) = &mut self.transmit else {
            return false;
        };
        self.armed = true;
        queue.forget_kicks();
        queue.ring.ask_for_kicks(true);
        queue.ring.has_some()
    }

    fn rx_lost(&mut self) -> RxCounts {
        if self.is_torn() && self.fault.is_none() {
            self.violated("transmit or receive", Violation::TornMemory);
        }
        RxCounts {
            missed: 0,
            invalid: self.transmit.as_ref().map_or(0, |queue| queue.way.invalid),
        }
    }
}
