//! What control does with the forwarding database: it forgets what is old or gone, and counts what is left.

use super::Engine;
use crate::{Dest, Fdb, FdbEntry, FdbKey, PortId, Snapshot};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

impl Engine {
    /// The forwarding database.
    #[must_use]
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// The engine's clock in seconds, as FDB entries carry it.
    #[must_use]
    pub fn now_s(&self) -> u16 {
        self.started.elapsed().as_secs() as u16
    }

    /// Whether an entry's place is still what it was when the entry was made.
    #[must_use]
    pub fn is_current(&self, key: FdbKey, entry: &FdbEntry) -> bool {
        is_current(&self.snapshot, key, entry)
    }

    /// Forgets addresses that were not seen for their domain's aging time or whose place is gone, and makes
    /// room. Call it once a second.
    pub fn age(&mut self) {
        // Until every worker began a new turn, one may still look at a slot that lost its key. (One that sleeps
        // wakes more often than we are called.)
        if self.workers.iter().all(|w| w.status.grace.passed(self.sweeps)) {
            self.reaper.clear(&self.fdb);
        }
        let (snapshot, now) = (self.snapshot.clone(), self.now_s());
        let mut per_port: HashMap<PortId, u32> = HashMap::new();
        self.reaper.sweep(&self.fdb, |key, entry| {
            if entry.is_static {
                return true;
            }
            let Some(domain) = snapshot.domain(key.bd()) else {
                return false;
            };
            let unseen = now.wrapping_sub(entry.seen);
            // A worker's clock may be a second ahead of ours.
            let fresh = domain.aging == 0 || unseen <= domain.aging || unseen > u16::MAX - 2;
            let keep = fresh && is_current(&snapshot, key, entry);
            let port = match entry.dest {
                Dest::Member(id) => domain.member(id).map(|member| member.port),
                Dest::Tunnel(id) => snapshot.tunnel(id).map(|tunnel| tunnel.port),
            };
            if let (true, Some(port)) = (keep, port) {
                *per_port.entry(port).or_default() += 1;
            }
            keep
        });
        for (index, conf) in snapshot.ports.iter().enumerate() {
            let Some(conf) = conf else { continue };
            let n = per_port.get(&PortId(index as u16)).copied().unwrap_or(0);
            store_if_changed(&conf.entries, n);
        }
        self.sweeps += 1;
        for worker in &self.workers {
            worker.status.grace.ask(self.sweeps);
        }
    }
}

fn store_if_changed(counter: &AtomicU32, n: u32) {
    if counter.load(Ordering::Relaxed) != n {
        counter.store(n, Ordering::Relaxed);
    }
}

fn is_current(snapshot: &Snapshot, key: FdbKey, entry: &FdbEntry) -> bool {
    let generation = match entry.dest {
        Dest::Member(id) => snapshot
            .domain(key.bd())
            .and_then(|d| d.member(id))
            .map(|m| m.generation),
        Dest::Tunnel(id) => snapshot.tunnel(id).map(|t| t.generation),
    };
    generation.is_some_and(|g| g & crate::fdb::GENERATION_MASK == entry.generation)
}
