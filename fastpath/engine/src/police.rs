//! Rate limits of a port, one policer for each direction: what is above the rate is dropped, nothing waits. Shared by
//! all queues and snapshots of the port, whichever workers have them.

use clearway_io::Frame;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicU64, Ordering};

/// What may pass in one direction of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RateLimit {
    /// Frames a second; none: any number. A large frame that is yet to be cut up is one.
    pub packets: Option<NonZeroU32>,
    /// Bits a second of whole frames, without FCS; none: any number.
    pub bits: Option<NonZeroU64>,
    /// What the rate gives in this time, in nanoseconds, may come at once; never less than 16 full frames.
    pub burst_ns: u64,
}

const SECOND: u64 = 1_000_000_000;
/// Frames that may come at once at any rate, and the bits of as many full Ethernet frames: a sender's window of ten
/// (RFC 6928) and some. With less, TCP would not get near a low rate.
const LEAST_FRAMES: u64 = 16;
const LEAST_BITS: u64 = LEAST_FRAMES * 1514 * 8;

/// `a * b / c`, rounded up.
fn scale(a: u64, b: u64, c: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    u64::try_from(product.div_ceil(c.max(1).into())).unwrap_or(u64::MAX)
}

/// A token bucket as a point in time, as in `storm.rs`; but it may be overdrawn by the last frame, so that it makes no
/// difference to small frames whether large ones are among them, and the largest passes at any rate.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    burst_ns: u64,
    spent_until_ns: AtomicU64,
}

impl Bucket {
    fn new(rate: u64, burst_ns: u64, least: u64) -> Self {
        Self {
            rate,
            burst_ns: burst_ns.max(scale(least, SECOND, rate)),
            spent_until_ns: AtomicU64::new(0),
        }
    }

    /// Tokens that are left.
    fn left(&self, now_ns: u64) -> u64 {
        let spent = self.spent_until_ns.load(Ordering::Relaxed).max(now_ns);
        let time = (now_ns + self.burst_ns).saturating_sub(spent);
        scale(time, self.rate, SECOND)
    }

    /// Takes tokens. Two workers may both have seen the last ones: what is spent twice is missing afterwards.
    fn spend(&self, tokens: u64, now_ns: u64) {
        let time = scale(tokens, SECOND, self.rate);
        // Relaxed: nothing else is told by it. It never fails.
        let _ = self
            .spent_until_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
                Some(spent.max(now_ns).saturating_add(time))
            });
    }
}

/// A limit and what is spent of it.
#[derive(Debug)]
pub struct Policer {
    limit: RateLimit,
    packets: Option<Bucket>,
    bits: Option<Bucket>,
}

impl Policer {
    /// A policer of which nothing is spent yet.
    #[must_use]
    pub fn new(limit: RateLimit) -> Self {
        let bucket = |rate, least| Bucket::new(rate, limit.burst_ns, least);
        Self {
            limit,
            packets: limit.packets.map(|rate| bucket(rate.get().into(), LEAST_FRAMES)),
            bits: limit.bits.map(|rate| bucket(rate.get(), LEAST_BITS)),
        }
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// How many of these frames may pass now, from the first on; the others are above the rate.
    pub(crate) fn admit(&self, frames: &[Frame], now_ns: u64) -> usize {
        self.pass(frames.iter().map(Frame::len), now_ns)
    }

    fn pass(&self, lengths: impl Iterator<Item = u32>, now_ns: u64) -> usize {
        let left = |bucket: &Option<Bucket>| bucket.as_ref().map_or(u64::MAX, |bucket| bucket.left(now_ns));
        let (packets_left, bits_left) = (left(&self.packets), left(&self.bits));
        let (mut packets, mut bits) = (0, 0);
        for length in lengths {
            if packets >= packets_left || bits >= bits_left {
                break;
            }
            packets += 1;
            bits += 8 * u64::from(length);
        }
        for (bucket, tokens) in [(&self.packets, packets), (&self.bits, bits)] {
            if let Some(bucket) = bucket.as_ref().filter(|_| tokens > 0) {
                bucket.spend(tokens, now_ns);
            }
        }
        packets as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn policer(packets: u32, bits: u64, burst_ms: u64) -> Policer {
        Policer::new(RateLimit {
            packets: NonZeroU32::new(packets),
            bits: NonZeroU64::new(bits),
            burst_ns: burst_ms * MS,
        })
    }

    fn pass(policer: &Policer, n: usize, length: u32, now_ns: u64) -> usize {
        policer.pass(std::iter::repeat_n(length, n), now_ns)
    }

    #[test]
    fn the_burst_at_once_then_the_rate() {
        let police = policer(100_000, 0, 10);
        assert_eq!(
            pass(&police, 1500, 60, 5 * SECOND),
            1000,
            "10 ms of 100,000 a second"
        );
        assert_eq!(pass(&police, 1500, 60, 5 * SECOND), 0);
        assert_eq!(
            pass(&police, 1500, 1514, 5 * SECOND + MS),
            100,
            "bits do not count"
        );
        assert_eq!(
            pass(&police, 1500, 60, 900 * SECOND),
            1000,
            "idle time is not saved up"
        );
    }

    #[test]
    fn bits_are_those_of_whole_frames() {
        let police = policer(0, 1_000_000_000, 10);
        // 10,000,000 bits: 833.3 frames of 12,000 bits. The last may overdraw.
        assert_eq!(pass(&police, 2000, 1500, SECOND), 834);
        // 8,000 overdrawn: 1,000,000 - 8,000 bits are 82.67 frames.
        assert_eq!(pass(&police, 2000, 1500, SECOND + MS), 83);
    }

    #[test]
    fn batches_of_any_size_come_to_the_rate() {
        for (batch, length) in [(1, 60), (7, 1514), (128, 60), (3, 65_550)] {
            let police = policer(1_000_000, 2_000_000_000, 1);
            let (mut frames, mut now) = (0, 0);
            while now < SECOND {
                frames += pass(&police, batch, length, now);
                now += 100;
            }
            let most = (2_000_000_000 / (8 * u64::from(length))).min(1_000_000);
            let (frames, burst) = (frames as u64, most / 1000 + 16);
            assert!(
                (most..=most + burst).contains(&frames),
                "{frames} of {most}, {batch} x {length}"
            );
        }
    }

    #[test]
    fn whichever_limit_is_reached_first() {
        let police = policer(1000, 1_000_000_000, 100);
        assert_eq!(pass(&police, 200, 60, 0), 100, "packets");
        let police = policer(1000, 1_000_000, 100);
        // 16 full frames are more than 100 ms of it: 193,792 bits, which are 2.4 frames of 80,000.
        assert_eq!(pass(&police, 200, 10_000, 0), 3, "bits");
    }

    #[test]
    fn low_rates_let_some_frames_through_at_once_and_the_largest() {
        let police = policer(1, 0, 0);
        assert_eq!(pass(&police, 100, 60, 0), 16);
        assert_eq!(pass(&police, 100, 60, SECOND), 1);
        let police = policer(0, 1000, 0);
        assert_eq!(pass(&police, 100, 65_550, 0), 1);
        // 524,400 bits at 1,000 a second, less the 193.792 s that may be owed.
        assert_eq!(pass(&police, 1, 60, 330 * SECOND), 0);
        assert_eq!(pass(&police, 1, 60, 331 * SECOND), 1);
    }

    #[test]
    fn no_rate_and_no_clock_overflows() {
        let police = policer(u32::MAX, u64::MAX, u64::MAX / MS / 4);
        assert_eq!(pass(&police, 4096, u32::MAX, u64::MAX / 2), 4096);
        let police = policer(1, 1, 0);
        assert_eq!(pass(&police, 4096, u32::MAX, u64::MAX / 2), 1);
        assert_eq!(pass(&police, 4096, u32::MAX, u64::MAX / 2), 0);
    }
}
