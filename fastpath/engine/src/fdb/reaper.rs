//! Freeing slots: what control does with entries that aged out, and how it learns that no worker looks at them any more.

use super::{AtomicU64, Fdb, FdbEntry, FdbKey, GONE, SLOTS, TOMB, Value};
use std::sync::atomic::Ordering;

/// Tells control when a worker has let go of what it found before a sweep. One per worker.
#[derive(Debug, Default)]
pub(crate) struct Grace {
    /// Number of the last sweep; control writes it.
    swept: AtomicU64,
    /// The last sweep that the worker has begun a turn after.
    passed: AtomicU64,
}

impl Grace {
    /// The worker begins a turn: it holds nothing that it found in an earlier one.
    #[inline(always)]
    pub(crate) fn begin_turn(&self) {
        // Acquire: what this turn reads is at least as new as that sweep. Release: all reads of the turns before
        // are done.
        let swept = self.swept.load(Ordering::Acquire);
        self.passed.store(swept, Ordering::Release);
    }

    /// Control has swept for the `sweep`th time.
    pub(crate) fn ask(&self, sweep: u64) {
        self.swept.store(sweep, Ordering::Release);
    }

    /// Whether the worker has begun a turn since that sweep, which was the last.
    pub(crate) fn passed(&self, sweep: u64) -> bool {
        self.passed.load(Ordering::Acquire) == sweep
    }
}

/// The control thread's part: ages entries out and makes their slots free again.
#[derive(Default)]
pub struct Reaper {
    /// Slots that lost their key.
    gone: Vec<usize>,
    counts: Vec<u32>,
}

impl Reaper {
    /// Kills every dynamic entry that `keep` does not want, and recounts what is left. Dead slots
    /// lose their key; [`Reaper::clear`] frees them once every worker has begun a new turn.
    pub fn sweep(&mut self, fdb: &Fdb, mut keep: impl FnMut(FdbKey, &FdbEntry) -> bool) {
        self.counts.clear();
        self.counts.resize(fdb.per_domain.len(), 0);
        let mut dynamic = 0;
        for (index, slot) in fdb.slots().enumerate() {
            let key = FdbKey(slot.key.load(Ordering::Acquire));
            if matches!(key.0, 0 | GONE) {
                continue;
            }
            let value = Value(slot.value.load(Ordering::Acquire));
            if value.live() {
                let swap = |new| {
                    slot.value
                        .compare_exchange(value.0, new, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                };
                if (keep(key, &value.entry()) || !swap(0)) && !value.is_static() {
                    dynamic += 1;
                    self.counts[key.bd().index()] += 1;
                }
            } else if slot
                .value
                .compare_exchange(0, TOMB, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                // Only after the tombstone: a learner that has found the key must not bring it to life now.
                slot.key.store(GONE, Ordering::Release);
                self.gone.push(index);
            }
        }
        fdb.dynamic.store(dynamic, Ordering::Relaxed);
        for (count, shared) in self.counts.iter().zip(&fdb.per_domain) {
            if shared.load(Ordering::Relaxed) != *count {
                shared.store(*count, Ordering::Relaxed);
            }
        }
    }

    /// Frees the slots that lost their key in earlier sweeps. Only after every worker has begun a new turn
    /// since the last sweep.
    pub fn clear(&mut self, fdb: &Fdb) {
        for index in self.gone.drain(..) {
            let slot = &fdb.lines[index / SLOTS].0[index % SLOTS];
            // The key last: who finds the slot free finds it without a value too.
            slot.value.store(0, Ordering::Release);
            slot.key.store(0, Ordering::Release);
        }
    }

    /// Slots that wait to be cleared.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gone.len()
    }
}
