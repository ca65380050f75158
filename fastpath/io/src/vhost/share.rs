//! What mappings of guests may take up of the process's addresses and of the regions that are watched, port by port.
//!
//! ```text
//!   each port's own:  12 regions │ 32 GiB of addresses      whatever other ports do; 1,024 ports
//!   beyond that:      4,096      │ 64 TiB                   for all: one port has at most a sixteenth of what others leave
//! ```
//!
//! Without addresses left, the next allocation would end the process. A file of holes costs who shares it nothing, so
//! front-ends may ask for any amount. A sixteenth of what is left: the first that does gets 4 TiB, and when fifty others
//! have done the same there are still 160 GiB for the next, not only what is its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ports that have something of their own. Those beyond share what is for all.
const PORTS: usize = 1024;
/// What such a port has: the 8 regions of SET_MEM_TABLE, dirty log and buffer for descriptors in flight, and one of
/// these twice while it is replaced.
const OWN: Amount = Amount {
    addresses: 32 << 30,
    regions: 12,
};
/// What is for all beyond that.
const FOR_ALL: Amount = Amount {
    addresses: 64 << 40,
    regions: 4096,
};
/// What a port may have of what others leave: one in so many.
const PART: u64 = 16;

/// Regions that there may be at a time. Each is a mapping, or two where its file was cut short: half of what the kernel
/// gives a process by default (65,530).
pub(super) const MOST_REGIONS: usize = PORTS * OWN.regions as usize + FOR_ALL.regions as usize;
const _: () = assert!(2 * MOST_REGIONS <= 32_768);
/// Three quarters of what a process has (2^47 bytes).
const _: () = assert!(PORTS as u64 * OWN.addresses + FOR_ALL.addresses <= 96 << 40);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    /// Bytes.
    addresses: u64,
    regions: u64,
}

impl Amount {
    /// Both, by a function of both.
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            addresses: f(self.addresses, other.addresses),
            regions: f(self.regions, other.regions),
        }
    }

    fn is_within(self, other: Self) -> bool {
        self.addresses <= other.addresses && self.regions <= other.regions
    }
}

/// Why a port may not have a mapping more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoShare {
    /// Of addresses.
    #[error(
        "the port's guest would take up {wanted} bytes of addresses, and may {most}: {} GiB and a sixteenth of what is left of \
         {} TiB for all guests; give it less memory, or stop guests with much",
        OWN.addresses >> 30, FOR_ALL.addresses >> 40
    )]
    Addresses {
        /// Bytes that it would have.
        wanted: u64,
        /// Bytes that it may have.
        most: u64,
    },
    /// Of regions.
    #[error(
        "the port's guest would have {wanted} regions mapped, and may {most}: {} and a sixteenth of what is left of {} for all \
         guests; give it memory in fewer pieces, or stop guests with many",
        OWN.regions, FOR_ALL.regions
    )]
    Regions {
        /// Regions that it would have.
        wanted: u64,
        /// Regions that it may have.
        most: u64,
    },
}

/// What there is, and how much of it is gone.
struct Pool {
    /// Ports that have something of their own.
    ports: usize,
    /// What ports have beyond that.
    taken: Amount,
}

impl Pool {
    const fn new() -> Self {
        let taken = Amount {
            addresses: 0,
            regions: 0,
        };
        Self { ports: 0, taken }
    }
}

/// The process's.
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// What a port's guests may map: made with the port, and the same for one guest after the other.
#[derive(Clone)]
pub struct GuestShare(Arc<Port>);

struct Port {
    pool: &'static Mutex<Pool>,
    own: Amount,
    /// Changed by whoever has the pool.
    has: Mutex<Amount>,
}

/// Nobody leaves these half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for GuestShare {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestShare {
    /// A port's.
    #[must_use]
    pub fn new() -> Self {
        Self::of(&POOL)
    }

    fn of(pool: &'static Mutex<Pool>) -> Self {
        let mut there = lock(pool);
        let own = if there.ports < PORTS {
            there.ports += 1;
            OWN
        } else {
            Amount::default()
        };
        drop(there);
        let has = Mutex::default();
        Self(Arc::new(Port { pool, own, has }))
    }

    /// Takes a region of so many bytes of addresses.
    ///
    /// # Errors
    /// [`NoShare`] if the port may not have it.
    pub(super) fn take(&self, bytes: u64) -> Result<Taken, NoShare> {
        let port = &*self.0;
        let mut pool = lock(port.pool);
        let mut has = lock(&port.has);
        let amount = Amount {
            addresses: bytes,
            regions: 1,
        };
        let wanted = has.zip(amount, u64::saturating_add);
        let beyond = has.zip(port.own, u64::saturating_sub);
        let others = pool.taken.zip(beyond, |taken, beyond| taken - beyond);
        let part = FOR_ALL.zip(others, |all, others| (all - others) / PART);
        let most = port.own.zip(part, |own, part| own + part);
        if !wanted.is_within(most) {
            return Err(if wanted.addresses > most.addresses {
                NoShare::Addresses {
                    wanted: wanted.addresses,
                    most: most.addresses,
                }
            } else {
                NoShare::Regions {
                    wanted: wanted.regions,
                    most: most.regions,
                }
            });
        }
        pool.taken = others.zip(wanted.zip(port.own, u64::saturating_sub), |others, own| {
            others + own
        });
        *has = wanted;
        Ok(Taken {
            share: self.clone(),
            amount,
        })
    }
}

impl std::fmt::Debug for GuestShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestShare({:?})", *lock(&self.0.has))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.own != Amount::default() {
            lock(self.pool).ports -= 1;
        }
    }
}

/// What is taken until it is dropped.
pub(super) struct Taken {
    share: GuestShare,
    amount: Amount,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let port = &*self.share.0;
        let mut pool = lock(port.pool);
        let mut has = lock(&port.has);
        let left = has.zip(self.amount, |has, amount| has - amount);
        let given = has
            .zip(port.own, u64::saturating_sub)
            .zip(left.zip(port.own, u64::saturating_sub), |before, after| {
                before - after
            });
        pool.taken = pool.taken.zip(given, |taken, given| taken - given);
        *has = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> &'static Mutex<Pool> {
        Box::leak(Box::new(Mutex::new(Pool::new())))
    }

    /// All that a port gets, in pieces of half the size of those before.
    fn all(share: &GuestShare) -> Vec<Taken> {
        let pieces = (12..=46).rev().flat_map(|shift| [shift, shift]);
        pieces.filter_map(|shift| share.take(1 << shift).ok()).collect()
    }

    /// Whatever other ports take, whether they came before or come after.
    #[test]
    fn every_port_has_its_own() {
        let pool = pool();
        let shares: Vec<_> = (0..PORTS).map(|_| GuestShare::of(pool)).collect();
        let greedy: Vec<_> = shares[1..].iter().map(all).collect();
        let own = |share: &GuestShare| -> Vec<_> {
            let bytes = OWN.addresses / OWN.regions;
            let taken = (0..OWN.regions).map(|_| share.take(bytes));
            taken.collect::<Result<_, _>>().expect("its own")
        };
        let mine = own(&shares[0]);
        drop(greedy);
        let theirs: Vec<_> = shares[1..].iter().map(own).collect();
        drop((mine, theirs));
        assert_eq!(lock(pool).taken, Amount::default());
        drop(shares);
        assert_eq!(lock(pool).ports, 0);
    }

    #[test]
    fn fifty_greedy_guests_leave_room_for_one_of_160_gib() {
        let pool = pool();
        let shares: Vec<_> = (0..51).map(|_| GuestShare::of(pool)).collect();
        let greedy: Vec<_> = shares[1..].iter().map(all).collect();
        let first: u64 = greedy[0].iter().map(|taken| taken.amount.addresses).sum();
        assert!(first >= 4 << 40, "{first}");
        assert!(shares[0].take(160 << 30).is_ok());
    }

    #[test]
    fn fifty_guests_of_64_regions_leave_as_many_to_the_next() {
        let pool = pool();
        let shares: Vec<_> = (0..51).map(|_| GuestShare::of(pool)).collect();
        let taken: Vec<_> = shares
            .iter()
            .flat_map(|share| (0..66).map(|_| share.take(4096)))
            .collect();
        assert!(taken.iter().all(Result::is_ok));
    }

    /// Those beyond the ports that have their own live on what is for all, and the sum is never more than there is.
    #[test]
    fn the_sum_is_bounded_and_comes_back() {
        let pool = pool();
        let shares: Vec<_> = (0..PORTS + 500).map(|_| GuestShare::of(pool)).collect();
        let greedy: Vec<Vec<_>> = shares.iter().map(all).collect();
        let sum = |f: fn(&Taken) -> u64| greedy.iter().flatten().map(f).sum::<u64>();
        assert!(sum(|taken| taken.amount.addresses) <= 96 << 40);
        assert!(sum(|taken| taken.amount.regions) <= MOST_REGIONS as u64);
        assert!(lock(pool).taken.is_within(FOR_ALL));
        assert!(shares[0].take(u64::MAX).is_err());
        drop(greedy);
        assert_eq!(lock(pool).taken, Amount::default());
    }

    #[test]
    fn a_refusal_says_how_much_there_is() {
        let share = GuestShare::of(pool());
        let most = OWN.addresses + (4 << 40);
        assert!(share.take(most).is_ok());
        let error = share.take(most + 1).err().expect("too much");
        assert_eq!(
            error.to_string(),
            "the port's guest would take up 4432406249473 bytes of addresses, and may 4432406249472: 32 GiB and a sixteenth of what \
             is left of 64 TiB for all guests; give it less memory, or stop guests with much"
        );
        let kept: Vec<_> = (0..OWN.regions + 256)
            .map(|_| share.take(1).expect("room"))
            .collect();
        let error = share.take(1).err().expect("too many");
        assert_eq!(
            error.to_string(),
            "the port's guest would have 269 regions mapped, and may 268: 12 and a sixteenth of what is left of 4096 for all \
             guests; give it memory in fewer pieces, or stop guests with many"
        );
        drop(kept);
    }
}
