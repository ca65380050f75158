//! A port's counters over all its lives: a queue's block ends with the queue, the port's sums go on.

use std::sync::Arc;

use clearway_engine::{DropReason, PortCounters};

/// The counters of one port.
#[derive(Default)]
pub(super) struct Totals {
    /// Of queues that are closed.
    past: PortCounters,
    /// Of queues that are polled.
    live: Vec<Arc<PortCounters>>,
}

impl Totals {
    /// A queue was added.
    pub(super) fn add(&mut self, counters: Arc<PortCounters>) {
        self.live.push(counters);
    }

    /// All queues are closed, and count no more.
    pub(super) fn retire(&mut self) {
        for counters in std::mem::take(&mut self.live) {
            self.bury(&counters);
        }
    }

    /// One queue is closed.
    pub(super) fn retire_one(&mut self, counters: &Arc<PortCounters>) {
        self.live.retain(|live| !Arc::ptr_eq(live, counters));
        self.bury(counters);
    }

    fn bury(&mut self, gone: &PortCounters) {
        let past = &self.past;
        for (sum, n) in [
            (&past.rx_packets, &gone.rx_packets),
            (&past.rx_bytes, &gone.rx_bytes),
            (&past.tx_packets, &gone.tx_packets),
            (&past.tx_bytes, &gone.tx_bytes),
            (&past.rx_missed, &gone.rx_missed),
            (&past.rx_invalid, &gone.rx_invalid),
            (&past.learn_refused, &gone.learn_refused),
            (&past.moves, &gone.moves),
            (&past.moves_damped, &gone.moves_damped),
            (&past.suppressed, &gone.suppressed),
        ] {
            sum.add(n.get());
        }
        for reason in DropReason::ALL {
            past.drops.of(reason).add(gone.drops.of(reason).get());
        }
    }

    /// All blocks: what is asked for is the sum over them.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &PortCounters> {
        std::iter::once(&self.past).chain(self.live.iter().map(Arc::as_ref))
    }

    /// The sum of one counter.
    pub(super) fn sum(&self, read: impl Fn(&PortCounters) -> u64) -> u64 {
        self.blocks().map(read).sum()
    }

    /// Drops for one reason.
    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|block| block.drops.of(reason).get())
    }

    /// All drops.
    pub(super) fn all_drops(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.dropped(*reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_on_when_queues_end() {
        let mut totals = Totals::default();
        let (a, b) = (Arc::<PortCounters>::default(), Arc::<PortCounters>::default());
        totals.add(a.clone());
        totals.add(b.clone());
        a.rx_packets.add(3);
        b.drops.of(DropReason::TxFull).add(2);
        totals.retire_one(&a);
        assert_eq!(totals.sum(|c| c.rx_packets.get()), 3);
        totals.retire();
        let c = Arc::<PortCounters>::default();
        c.rx_packets.add(4);
        totals.add(c);
        assert_eq!(totals.sum(|c| c.rx_packets.get()), 7);
        assert_eq!((totals.dropped(DropReason::TxFull), totals.all_drops()), (2, 2));
        assert_eq!(totals.blocks().count(), 2);
    }
}
