//! Counters: per port (shared, relaxed) and the worker's ledger (exact at turn boundaries).
//!
//! A [`PortCounters`] block has one writer, the worker, and any number of readers, so an addition is a load
//! and a store, without a bus lock. A [`Ledger`] is the worker's own; control gets copies through an event.

use crate::DropReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of drop reasons.
pub const REASONS: usize = DropReason::ALL.len();

/// One worker's counters of one port. Bytes are counted without FCS.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: Counter,
    /// Their bytes.
    pub rx_bytes: Counter,
    /// Frames that the port's ring took.
    pub tx_packets: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames lost before we could read them: the port's ring or its supply of chunks was exhausted.
    pub rx_missed: Counter,
    /// Descriptors from the kernel or a guest that were not valid.
    pub rx_invalid: Counter,
    /// Drops by reason, of frames that arrived here; `tx_full`, `tx_unsendable` and
    /// `police_transmit` also, or only, of frames that this port was to send.
    pub drops: Reasons,
    /// New addresses refused because of a limit of the port, the domain or the table.
    pub learn_refused: Counter,
    /// Address moves seen; damped ones are not followed.
    pub moves: Counter,
    /// Address moves not followed.
    pub moves_damped: Counter,
    /// ARP requests and neighbour solicitations answered on behalf of a known host.
    pub suppressed: Counter,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces the value; only the owning worker may.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter per drop reason.
#[derive(Debug)]
pub struct Reasons([Counter; REASONS]);

impl Default for Reasons {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Reasons {
    /// The counter of a reason.
    #[inline(always)]
    #[must_use]
    pub fn of(&self, reason: DropReason) -> &Counter {
        &self.0[reason as usize]
    }
}

/// What became of every frame. At a turn boundary, for one worker:
/// `received + replicated + generated + segments + handed_in = sent + consumed + dropped + handed_out`;
/// over all workers `handed_out - handed_in` is what is in flight between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Frames received from ports.
    pub received: u64,
    /// Copies made to flood.
    pub replicated: u64,
    /// Frames of our own (ARP and ND replies, ICMP errors).
    pub generated: u64,
    /// Frames that large ones were cut into.
    pub segments: u64,
    /// Frames from other workers.
    pub handed_in: u64,
    /// Frames that a port's ring took.
    pub sent: u64,
    /// Frames that we answered ourselves, and those that were cut up.
    pub consumed: u64,
    /// Frames passed to other workers.
    pub handed_out: u64,
    /// Drops by reason.
    pub drops: [u64; REASONS],
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            received: 0,
            replicated: 0,
            generated: 0,
            segments: 0,
            handed_in: 0,
            sent: 0,
            consumed: 0,
            handed_out: 0,
            drops: [0; REASONS],
        }
    }
}

impl Ledger {
    /// All drops.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Frames that came in or were made.
    #[must_use]
    pub fn credit(&self) -> u64 {
        self.received + self.replicated + self.generated + self.segments + self.handed_in
    }

    /// Frames that went out or were given up.
    #[must_use]
    pub fn debit(&self) -> u64 {
        self.sent + self.consumed + self.dropped() + self.handed_out
    }

    /// Frames between workers, if this is the sum over all of them.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.handed_out.wrapping_sub(self.handed_in)
    }

    /// Whether every frame is accounted for.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.credit() == self.debit()
    }

    /// Adds another worker's ledger.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.replicated += other.replicated;
        self.generated += other.generated;
        self.segments += other.segments;
        self.handed_in += other.handed_in;
        self.sent += other.sent;
        self.consumed += other.consumed;
        self.handed_out += other.handed_out;
        for (sum, n) in self.drops.iter_mut().zip(&other.drops) {
            *sum += n;
        }
    }
}
