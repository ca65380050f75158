//! The forwarding database: (bridge domain, MAC) → member or tunnel. One table, read and written by all
//! workers without a lock.
//!
//! ```text
//!   line = hash(key) → ┌ 64 bytes: 4 × (key, value) ┐ then the next lines, PROBE in all
//!   key   = domain 16 │ MAC 48                            0 = empty
//!   value = live 1 │ static 1 │ dest 17 │ generation 9 │ moves 4 │ move window 16 │ seen 16
//! ```
//!
//! A slot's life (the key decides whose slot it is, the value whether it lives):
//!
//! ```text
//!   (0,0) ─key→ (K,0) ─value→ (K,live) ─value→ (K,0) dead ─value→ (K,TOMB) ─key→ (GONE,TOMB) ┄ every ┄→ (0,0)
//!        learner      learner          control   ▲  │ learner   control        control           worker begins
//!                                                └──┘ revives                                     a turn
//! ```
//!
//! Guarantees: a lookup never blocks and gives either a value that was stored for exactly this key or
//! nothing. A slot first loses its key, so that no search finds it any more; it gets a new one only after
//! every worker has begun a turn since ([`Grace`]), so that no search that found it earlier is still on its
//! way to the value. Two workers that learn one address at a time may leave it twice in its lines for a
//! moment: the first in probe order counts, the other ages out. The hash is seeded: MAC addresses are chosen
//! by attackers. Left to the caller: one [`Reaper`], on the control thread. `fdb_model.rs` has loom try what
//! the threads may do to one another.

mod reaper;
mod value;

pub(crate) use reaper::Grace;
pub use reaper::Reaper;
pub use value::FdbEntry;
pub(crate) use value::{GENERATION_MASK, Value};

use crate::ids::PackedDest;
use crate::{BdId, Dest};
use clearway_io::{TableMemory, prefetch_read};
use rapidhash::v3::{RapidSecrets, rapidhash_v3_nano_inline};
use std::sync::atomic::{AtomicU32, Ordering};

// In a model of the threads (feature `loom`) the slots are made of loom's atomics.
#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicU64;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::AtomicU64;

/// (bridge domain, MAC) in one word. Never 0, since no domain has the number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdbKey(pub u64);

impl FdbKey {
    /// Packs a key; `mac` is in the low 48 bits.
    #[inline(always)]
    #[must_use]
    pub fn new(bd: BdId, mac: u64) -> Self {
        debug_assert!(mac >> 48 == 0);
        Self(u64::from(bd.0) << 48 | mac)
    }

    /// The bridge domain.
    #[inline(always)]
    #[must_use]
    pub fn bd(self) -> BdId {
        BdId((self.0 >> 48) as u16)
    }

    /// The same address in a domain; `self` was of none.
    #[inline(always)]
    pub(crate) fn in_domain(self, bd: BdId) -> Self {
        Self(u64::from(bd.0) << 48 | self.0)
    }

    /// Whether the address is of a group (IEEE 802 §8.2.1, the I/G bit).
    #[inline(always)]
    pub(crate) fn is_group(self) -> bool {
        self.0 >> 40 & 1 == 1
    }

    /// The MAC address, in the low 48 bits.
    #[inline(always)]
    #[must_use]
    pub fn mac(self) -> u64 {
        self.0 & 0xffff_ffff_ffff
    }
}

const SLOTS: usize = 4;
/// Lines that a key may be in, from its own on.
const PROBE: usize = if MODEL { 1 } else { 8 };
/// Bridge domains that entries are counted for.
const DOMAINS: usize = if MODEL { 4 } else { 1 << 16 };
/// A model tries every order of the threads' steps: one line shows all that can happen between keys.
const MODEL: bool = cfg!(feature = "loom");

/// Value of a slot that is being freed: nobody revives it.
const TOMB: u64 = 1;
/// Key of a slot that is being freed: nobody looks for it, since no domain has the number 0.
const GONE: u64 = 1;

#[derive(Default)]
struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Line([Slot; SLOTS]);

const _: () = assert!(MODEL || size_of::<Line>() == 64);

/// How a learned address may behave.
#[derive(Clone, Copy, Debug)]
pub struct LearnRules {
    /// Most dynamic addresses of the domain.
    pub domain_limit: u32,
    /// Most dynamic addresses of the port.
    pub port_limit: u32,
    /// Moves allowed within `move_window` seconds (1 to [`MOST_MOVES`]); one more, and the address stays where
    /// it is for `hold` seconds. 0: no damping.
    pub moves: u8,
    /// Seconds.
    pub move_window: u16,
    /// Seconds.
    pub hold: u16,
}

/// Most moves that damping can count up to.
pub const MOST_MOVES: u8 = 14;

/// Count of moves of an address that is held where it is.
const HELD: u8 = 15;

/// Where and when an address was seen as a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) dest: Dest,
    /// Generation of that member or tunnel.
    pub(crate) generation: u16,
    /// Engine second.
    pub(crate) now: u16,
}

impl Sighting {
    /// The value of an entry that says so.
    #[inline(always)]
    pub(crate) fn value(self) -> Value {
        let Self {
            dest,
            generation,
            now,
        } = self;
        Value::new(FdbEntry {
            dest,
            generation,
            is_static: false,
            seen: now,
        })
    }
}

/// What learning did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Known where it is.
    Known,
    /// A new entry.
    New,
    /// Now at another place.
    Moved,
    /// Moves too often: stays where it was.
    Damped,
    /// Configured to be elsewhere.
    Static,
    /// Not entered: a limit of the port or domain.
    Limit,
    /// Not entered: no slot is free in its lines.
    Full,
}

/// The table.
pub struct Fdb {
    lines: TableMemory<Line>,
    mask: usize,
    secrets: RapidSecrets,
    capacity: u32,
    /// Dynamic entries, all domains.
    dynamic: AtomicU32,
    per_domain: Box<[AtomicU32]>,
}

impl Fdb {
    /// A table for `capacity` entries (twice as many slots, rounded up to a power of two), with a hash that
    /// `seed` decides.
    #[must_use]
    pub fn new(capacity: u32, seed: u64) -> Self {
        let lines = if MODEL { 1 } else { capacity as usize * 2 / SLOTS };
        let lines = lines.next_power_of_two().max(PROBE);
        Self {
            lines: TableMemory::new(lines),
            mask: lines - 1,
            secrets: RapidSecrets::seed(seed),
            capacity,
            dynamic: AtomicU32::new(0),
            per_domain: std::iter::repeat_with(|| AtomicU32::new(0))
                .take(DOMAINS)
                .collect(),
        }
    }

    /// The line where a key's search starts.
    #[inline(always)]
    pub(crate) fn line(&self, key: FdbKey) -> u32 {
        // 8 bytes only: the "nano" form, which without the final avalanche is one folded multiplication of
        // secret-masked halves. Its low bits depend on all of the key, which is all that a table asks.
        let hash = rapidhash_v3_nano_inline::<false, false>(&key.0.to_le_bytes(), &self.secrets);
        (hash as usize & self.mask) as u32
    }

    /// Starts loading a key's first line.
    #[inline(always)]
    pub(crate) fn prefetch(&self, line: u32) {
        prefetch_read(&self.lines[line as usize]);
    }

    #[inline(always)]
    fn probe(&self, line: u32) -> impl Iterator<Item = &Slot> {
        (0..PROBE).flat_map(move |i| &self.lines[(line as usize + i) & self.mask].0)
    }

    #[inline(always)]
    fn find(&self, line: u32, key: FdbKey) -> Option<(&Slot, Value)> {
        // The first line by itself: nearly every hit is there. Which of its slots it is can't be predicted,
        // so it is computed, not branched on.
        let slots = &self.lines[line as usize].0;
        let key_of = |i: usize| slots[i].key.load(Ordering::Acquire);
        let mut hit = 0;
        // From the last to the first: the first of two counts.
        for i in (0..SLOTS).rev() {
            hit = if key_of(i) == key.0 { i } else { hit };
        }
        let slot = &slots[hit];
        if slot.key.load(Ordering::Acquire) == key.0 {
            let value = Value(slot.value.load(Ordering::Acquire));
            if value.live() {
                return Some((slot, value));
            }
        }
        self.find_far(line, key)
    }

    /// The whole search. Also when the first line has the key twice, dead and alive.
    #[cold]
    fn find_far(&self, line: u32, key: FdbKey) -> Option<(&Slot, Value)> {
        self.probe(line).find_map(|slot| {
            if slot.key.load(Ordering::Acquire) != key.0 {
                return None;
            }
            let value = Value(slot.value.load(Ordering::Acquire));
            value.live().then_some((slot, value))
        })
    }

    /// What is known of an address.
    #[inline(always)]
    pub(crate) fn lookup(&self, line: u32, key: FdbKey) -> Option<Value> {
        self.find(line, key).map(|(_, value)| value)
    }

    /// What is known of an address; for callers off the hot path.
    #[must_use]
    pub fn get(&self, key: FdbKey) -> Option<FdbEntry> {
        self.lookup(self.line(key), key).map(Value::entry)
    }

    /// A frame from `key`'s address was seen, which would make an entry of value `fresh`. True if it was known
    /// to be there.
    #[inline(always)]
    pub(crate) fn refresh(&self, line: u32, key: FdbKey, fresh: Value) -> bool {
        let Some((slot, value)) = self.find(line, key) else {
            return false;
        };
        value.is_as(fresh) || Self::touch(slot, value, fresh)
    }

    /// Once a second and address; and what is news.
    #[cold]
    fn touch(slot: &Slot, value: Value, fresh: Value) -> bool {
        if value.place() != fresh.place() {
            return false;
        }
        if !value.is_static() {
            // Lost to another worker: it wrote the same second.
            let new = value.with_seen(fresh.seen()).0;
            let _ = slot
                .value
                .compare_exchange(value.0, new, Ordering::AcqRel, Ordering::Relaxed);
        }
        true
    }

    /// The same for an address that is not known there: enter or move it. `port_entries` counts the dynamic
    /// entries of its port; `same_port` tells whether another place is on that port too.
    pub(crate) fn learn(
        &self,
        line: u32,
        key: FdbKey,
        seen: Sighting,
        rules: &LearnRules,
        port_entries: &AtomicU32,
        same_port: impl Fn(PackedDest) -> bool,
    ) -> Learned {
        match self.find(line, key) {
            Some((_, value)) if value.place() == seen.value().place() => Learned::Known,
            Some((slot, value)) => {
                let counted = (!same_port(value.dest())).then_some(port_entries);
                Self::relocate(slot, value, seen, rules, counted)
            }
            None => self.enter(line, key, seen.value(), rules, port_entries),
        }
    }

    /// The address is known at another place. `counted`: the entries of the port that it is new on, if it is.
    #[cold]
    fn relocate(
        slot: &Slot,
        old: Value,
        seen: Sighting,
        rules: &LearnRules,
        counted: Option<&AtomicU32>,
    ) -> Learned {
        if old.is_static() {
            return Learned::Static;
        }
        let (fresh, now) = (seen.value(), seen.now);
        let age = now.wrapping_sub(old.window());
        // An entry of a port that is gone or was flushed does not "move": it is simply stale. Only control
        // knows generations; here a different generation of the same place is no move either.
        let same_dest = old.entry().dest == fresh.entry().dest;
        let (moves, window) = match old.moves() {
            _ if same_dest => (0, now),
            HELD if age < rules.hold => return Learned::Damped,
            HELD => (1, now),
            moves if age < rules.move_window => (moves + 1, old.window()),
            _ => (1, now),
        };
        // It stays where it was: who may not have more addresses may not take one from another port either.
        if counted.is_some_and(|entries| entries.load(Ordering::Relaxed) >= rules.port_limit) {
            return Learned::Limit;
        }
        let swap = |new: Value| {
            slot.value
                .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed)
        };
        if rules.moves > 0 && moves > rules.moves {
            // Where it was, and for how long: from now. Lost to another worker: it saw the same.
            let _ = swap(old.with_moves(HELD, now));
            return Learned::Damped;
        }
        match swap(fresh.with_moves(moves, window)) {
            Ok(_) if !same_dest => {
                // The port that it left counts again at the next sweep.
                if let Some(entries) = counted {
                    entries.fetch_add(1, Ordering::Relaxed);
                }
                Learned::Moved
            }
            _ => Learned::Known,
        }
    }

    /// The address is not known: take a slot, if the limits allow.
    #[cold]
    fn enter(
        &self,
        line: u32,
        key: FdbKey,
        fresh: Value,
        rules: &LearnRules,
        port_entries: &AtomicU32,
    ) -> Learned {
        let domain_entries = &self.per_domain[key.bd().index()];
        if domain_entries.load(Ordering::Relaxed) >= rules.domain_limit
            || port_entries.load(Ordering::Relaxed) >= rules.port_limit
        {
            return Learned::Limit;
        }
        if self.dynamic.load(Ordering::Relaxed) >= self.capacity {
            return Learned::Full;
        }
        if !self.store(line, key, fresh) {
            return Learned::Full;
        }
        self.dynamic.fetch_add(1, Ordering::Relaxed);
        domain_entries.fetch_add(1, Ordering::Relaxed);
        port_entries.fetch_add(1, Ordering::Relaxed);
        Learned::New
    }

    /// Brings `fresh` to life in a slot of `key`: one that is dead, or an empty one. False: none is free,
    /// or another worker was quicker.
    fn store(&self, line: u32, key: FdbKey, fresh: Value) -> bool {
        for slot in self.probe(line) {
            let mut found = slot.key.load(Ordering::Acquire);
            if found == 0 {
                found = match slot
                    .key
                    .compare_exchange(0, key.0, Ordering::AcqRel, Ordering::Acquire)
                {
                    Ok(_) => key.0,
                    Err(theirs) => theirs,
                };
            }
            if found != key.0 {
                continue;
            }
            match slot
                .value
                .compare_exchange(0, fresh.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(value) if Value(value).live() => return false,
                Err(_) => {} // a tombstone: its key is about to go, so this slot is not ours
            }
        }
        false
    }

    /// Enters or replaces a configured entry. False if no slot is free in its lines.
    #[must_use]
    pub fn set_static(&self, key: FdbKey, dest: Dest, generation: u16) -> bool {
        let line = self.line(key);
        let value = Value::new(FdbEntry {
            dest,
            generation,
            is_static: true,
            seen: 0,
        });
        loop {
            let Some((slot, old)) = self.find(line, key) else {
                if self.store(line, key, value) {
                    return true;
                }
                if self.find(line, key).is_none() {
                    return false;
                }
                continue; // learned meanwhile: replace it
            };
            if slot
                .value
                .compare_exchange(old.0, value.0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }

    /// Enters an address as if a frame from it had been seen now; for benchmarks that need a full table.
    pub fn learn_for_bench(&self, key: FdbKey, dest: Dest) {
        let rules = LearnRules {
            domain_limit: u32::MAX,
            port_limit: u32::MAX,
            moves: 0,
            move_window: 0,
            hold: 0,
        };
        let seen = Sighting {
            dest,
            generation: 0,
            now: 0,
        };
        self.learn(self.line(key), key, seen, &rules, &AtomicU32::new(0), |_| false);
    }

    /// Kills an entry, also where two workers entered it twice; gives what it was.
    pub fn remove(&self, key: FdbKey) -> Option<FdbEntry> {
        let mut removed = None;
        while let Some((slot, value)) = self.find(self.line(key), key) {
            let killed = slot
                .value
                .compare_exchange(value.0, 0, Ordering::AcqRel, Ordering::Relaxed);
            if killed.is_ok() {
                removed.get_or_insert(value.entry());
            }
        }
        removed
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.lines.iter().flat_map(|line| &line.0)
    }

    /// All entries, in no order. An address being learned twice at this moment may show twice.
    pub fn entries(&self) -> impl Iterator<Item = (FdbKey, FdbEntry)> {
        self.slots().filter_map(|slot| {
            let key = slot.key.load(Ordering::Acquire);
            let value = Value(slot.value.load(Ordering::Acquire));
            (key != 0 && value.live()).then(|| (FdbKey(key), value.entry()))
        })
    }

    /// Most dynamic entries.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Dynamic entries, as of the last sweep plus what was learned since.
    #[must_use]
    pub fn dynamic_entries(&self) -> u32 {
        self.dynamic.load(Ordering::Relaxed)
    }

    /// Dynamic entries of a domain, likewise.
    #[must_use]
    pub fn domain_entries(&self, bd: BdId) -> u32 {
        self.per_domain[bd.index()].load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
