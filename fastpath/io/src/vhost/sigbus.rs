//! Guests' files that get shorter while they are mapped here: the kernel answers an access behind the new end with
//! SIGBUS, which would end the process.
//!
//! The handler maps a page of zeros over the one that is gone and notes that the range is torn; the access then goes
//! on, and the port that finds the note faults. It calls nothing but mmap(2), which is safe in a handler, and looks
//! only at atomics. A SIGBUS anywhere else ends the process as it would have without us.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Ranges that can be watched at a time: 1,000 guests of 64 regions would be more, of the usual one to three not.
const SLOTS: usize = 4096;

struct Slot {
    /// First address; 0: free. Claimed with 1, which no mapping has.
    start: AtomicUsize,
    end: AtomicUsize,
    torn: AtomicBool,
}

static WATCHED: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        torn: AtomicBool::new(false),
    }
}; SLOTS];

/// A range that is watched; none: there was no slot left, and a cut file ends the process.
pub(super) struct Watched(Option<&'static Slot>);

/// Begins to watch a range of mapped memory.
pub(super) fn watch(start: usize, bytes: usize) -> Watched {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
    let claimed = WATCHED.iter().find(|slot| {
        slot.start
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    });
    if let Some(slot) = claimed {
        slot.torn.store(false, Ordering::Relaxed);
        slot.end.store(start + bytes, Ordering::Relaxed);
        // Release: a handler that sees the start sees the end.
        slot.start.store(start, Ordering::Release);
    }
    Watched(claimed)
}

impl Watched {
    /// Whether the file behind the range turned out to be shorter.
    #[inline]
    pub(super) fn is_torn(&self) -> bool {
        self.0.is_some_and(|slot| slot.torn.load(Ordering::Relaxed))
    }

    /// Ends watching, before the range is unmapped.
    pub(super) fn end(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.start.store(0, Ordering::Release);
        }
    }
}

fn install() {
    // SAFETY: sigaction is a plain struct for which zeros are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for.
    unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the union holds the address.
    let address = unsafe { info.si_addr() } as usize;
    let hit = WATCHED.iter().find(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start > 1 && (start..slot.end.load(Ordering::Relaxed)).contains(&address)
    });
    if let Some(slot) = hit {
        slot.torn.store(true, Ordering::Relaxed);
        // A page of hugetlbfs can't be replaced in part: the rest of the range goes with it.
        let start = slot.start.load(Ordering::Relaxed);
        let end = slot.end.load(Ordering::Relaxed);
        for unit in [4096usize, 2 << 20, 1 << 30] {
            let page = address & !(unit - 1);
            if page < start && unit > 4096 {
                break;
            }
            let len = unit
                .min(end.next_multiple_of(4096).saturating_sub(page))
                .max(4096);
            // SAFETY: replaces pages of a guest's mapping, which is reached by copying only, by zeros.
            let zeros = unsafe {
                libc::mmap(
                    page as *mut libc::c_void,
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                    -1,
                    0,
                )
            };
            if zeros != libc::MAP_FAILED {
                return;
            }
        }
    }
    // Not ours: what SIGBUS does by default, at the same instruction.
    // SAFETY: resets the disposition; the access is repeated and ends the process.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
