//! How much work a port's front-ends may give us: so much at once, then so much a second. Who wants more is not told
//! off, but waits: its messages stay in its socket.

use std::time::{Duration, Instant};

/// What a message counts for, and each question that it has the port's thread ask of the control thread.
pub(super) const MESSAGE: u32 = 1;
/// What a line in the log counts for.
pub(super) const LINE: u32 = 50;

/// What may be spent for as long as it takes.
pub(super) const PER_SECOND: u32 = 1000;
/// Time in which one may be spent.
const EACH: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);
/// What may be spent at once: a device of 16 queue pairs is started with 500 or so, and started anew.
const AT_ONCE: u32 = 4096;
/// Waiting takes as long at least, so that a thread that has to wait does not wake for each message.
const NAP: Duration = Duration::from_millis(10);

/// What a port's front-ends have spent.
pub(super) struct Pace {
    /// When all of it is paid for.
    paid: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    pub(super) fn spend(&mut self, now: Instant, what: u32) {
        self.paid = self.paid.max(now) + EACH * what;
    }

    /// How long to wait before more is done for them; none: they have something left.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let owed = self.paid.saturating_duration_since(now);
        let over = owed.checked_sub(EACH * AT_ONCE)?;
        Some(over + NAP)
    }

    /// Whether there is nothing to pay for.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.paid <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages that are handled in some seconds, by a front-end that always has another one.
    fn handled(pace: &mut Pace, from: Instant, seconds: u64) -> u32 {
        let (mut now, mut n) = (from, 0);
        let end = from + Duration::from_secs(seconds);
        loop {
            while let Some(wait) = pace.wait(now) {
                now += wait;
            }
            if now > end {
                return n;
            }
            pace.spend(now, MESSAGE);
            now += Duration::from_micros(5);
            n += 1;
        }
    }

    #[test]
    fn a_start_is_not_held_up_and_a_flood_is() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let n = handled(&mut pace, now, 10);
        assert!((13_900..=14_200).contains(&n), "{n}");
        // What was spent is paid for by and by, and no more than that is saved.
        let later = now + Duration::from_secs(3600);
        assert!(pace.is_idle(later));
        let n = handled(&mut pace, later, 1);
        assert!((4_900..=5_200).contains(&n), "{n}");
    }
}
