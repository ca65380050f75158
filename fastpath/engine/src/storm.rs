//! Limits of what a port floods, and of what is answered to it: shared by all its queues, whichever workers have them.

use crate::{DropReason, StormLimits};
use std::sync::atomic::{AtomicU64, Ordering};

/// A token bucket as a point in time: up to when its rate is spent (the generic cell rate algorithm, ITU-T I.371). One
/// word, so workers share it without a lock.
#[derive(Debug, Default)]
struct Bucket {
    spent_until_ns: AtomicU64,
}

const SECOND: u64 = 1_000_000_000;
/// A bucket holds what its rate gives in this time, and at least [`MIN_BURST`] tokens.
const BURST_NS: u64 = 100_000_000;
const MIN_BURST: u64 = 16;

impl Bucket {
    /// Takes a token, if there is one.
    fn take(&self, rate: u32, now_ns: u64) -> bool {
        // Relaxed: nothing else is told by it.
        self.spent_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
                Self::spend(rate, now_ns, spent)
            })
            .is_ok()
    }

    fn spent(&self) -> u64 {
        self.spent_until_ns.load(Ordering::Relaxed)
    }

    /// Up to when the rate is spent after one more token; none if there is none.
    fn spend(rate: u32, now_ns: u64, spent: u64) -> Option<u64> {
        let interval = SECOND.checked_div(rate.into())?;
        let latest = now_ns + BURST_NS.max(MIN_BURST * interval);
        Some(spent.max(now_ns) + interval).filter(|spent| *spent <= latest)
    }
}

/// What kind of frame is to be flooded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloodClass {
    Broadcast,
    Multicast,
    Unknown,
}

impl FloodClass {
    #[inline(always)]
    pub(crate) fn of(dst: u64) -> Self {
        if dst == 0xffff_ffff_ffff {
            Self::Broadcast
        } else if dst >> 40 & 1 == 1 {
            Self::Multicast
        } else {
            Self::Unknown
        }
    }
}

/// The buckets of one port.
#[derive(Debug, Default)]
pub struct Storm {
    broadcast: Bucket,
    multicast: Bucket,
    unknown: Bucket,
    errors: Bucket,
}

/// ICMP errors a second that a port's senders get, at most: RFC 4443 §2.4 (f) and RFC 1812 §4.3.2.8 want a limit,
/// and this is the kernel's (`icmp_msgs_per_sec`).
const ERRORS_PER_SECOND: u32 = 1000;

impl Storm {
    /// Whether an ICMP error may be sent now: asked before one is built.
    pub(crate) fn may_report(&self, now_ns: u64) -> bool {
        Bucket::spend(ERRORS_PER_SECOND, now_ns, self.errors.spent()).is_some()
    }

    /// One is sent. False: another worker was quicker to send the last.
    pub(crate) fn report(&self, now_ns: u64) -> bool {
        self.errors.take(ERRORS_PER_SECOND, now_ns)
    }

    /// Whether one more frame of this class may be flooded now; else why not.
    #[inline]
    pub(crate) fn admit(
        &self,
        class: FloodClass,
        limits: &StormLimits,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        let (bucket, limit, reason) = match class {
            FloodClass::Broadcast => (&self.broadcast, limits.broadcast, DropReason::StormBroadcast),
            FloodClass::Multicast => (&self.multicast, limits.multicast, DropReason::StormMulticast),
            FloodClass::Unknown => (&self.unknown, limits.unknown, DropReason::StormUnknown),
        };
        match limit {
            Some(rate) if !bucket.take(rate, now_ns) => Err(reason),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_limit_of_their_own() {
        let storm = Storm::default();
        let count = |now: u64| {
            (0..500)
                .filter(|_| storm.may_report(now) && storm.report(now))
                .count()
        };
        assert_eq!((count(5 * SECOND), count(5 * SECOND + SECOND / 100)), (100, 10));
    }

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let limits = StormLimits {
            broadcast: Some(1000),
            ..StormLimits::default()
        };
        let storm = Storm::default();
        let count = |n: u64, now: u64| {
            (0..n)
                .filter(|_| storm.admit(FloodClass::Broadcast, &limits, now).is_ok())
                .count()
        };
        assert_eq!(count(500, 5 * SECOND), 100, "a tenth of a second's worth at once");
        assert_eq!(count(500, 5 * SECOND + SECOND / 100), 10);
        assert_eq!(count(500, 900 * SECOND), 100, "idle time is not saved up");
        assert!(
            storm.admit(FloodClass::Unknown, &limits, 900 * SECOND).is_ok(),
            "not limited"
        );
    }

    #[test]
    fn classes_follow_the_group_bit() {
        assert_eq!(FloodClass::of(0xffff_ffff_ffff), FloodClass::Broadcast);
        assert_eq!(FloodClass::of(0x0100_5e00_0001), FloodClass::Multicast);
        assert_eq!(FloodClass::of(0x0200_0000_0001), FloodClass::Unknown);
    }
}
