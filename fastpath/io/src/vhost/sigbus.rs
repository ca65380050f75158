//! Guests' files that get shorter while they are mapped here: the kernel answers an access behind the new end with
//! SIGBUS, which would end the process.
//!
//! The handler maps zeros over the page that is gone and all behind it, and notes that the range is torn; the access
//! then goes on, and the port that finds the note faults. All behind it, as it is gone too, and page by page each would be
//! a mapping of its own, of which a process has 65,530 (vm.max_map_count): a guest could use them up within a turn or
//! two, and the handler would have none. It calls nothing but mmap(2), which is safe in a handler, and looks only at
//! atomics. A SIGBUS anywhere else ends the process as it would have without us.

use super::share::MOST_REGIONS;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Ranges that can be watched at a time: all that ports may have.
const SLOTS: usize = MOST_REGIONS;

struct Slot {
    /// First address; 0: free. Claimed with 1, which no mapping has.
    start: AtomicUsize,
    end: AtomicUsize,
    /// Bytes of a page of the mapping.
    page: AtomicUsize,
    torn: AtomicBool,
}

static WATCHED: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        torn: AtomicBool::new(false),
    }
}; SLOTS];

/// Whether any file was ever cut short: then it is worth asking whose.
static ANY: AtomicBool = AtomicBool::new(false);

/// Whether any range that is or was watched is torn.
#[inline(always)]
pub(super) fn any_torn() -> bool {
    ANY.load(Ordering::Relaxed)
}

/// A range that is watched.
pub(super) struct Watched(&'static Slot);

/// Begins to watch a mapping: all of its pages, of `page` bytes each. None if as many are watched as can be.
pub(super) fn watch(start: usize, bytes: usize, page: usize) -> Option<Watched> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(install);
    let claimed = WATCHED.iter().find(|slot| {
        slot.start
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    });
    let slot = claimed?;
    slot.torn.store(false, Ordering::Relaxed);
    slot.page.store(page, Ordering::Relaxed);
    slot.end.store(start + bytes, Ordering::Relaxed);
    // Release: a handler that sees the start sees the rest.
    slot.start.store(start, Ordering::Release);
    Some(Watched(slot))
}

impl Watched {
    /// Whether the file behind the range turned out to be shorter.
    #[inline]
    pub(super) fn is_torn(&self) -> bool {
        self.0.torn.load(Ordering::Relaxed)
    }

    /// Ends watching, before the range is unmapped.
    pub(super) fn end(&mut self) {
        self.0.start.store(0, Ordering::Release);
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
    let hit = WATCHED.iter().find_map(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        let (end, page) = (
            slot.end.load(Ordering::Relaxed),
            slot.page.load(Ordering::Relaxed),
        );
        // The same before and after: what was read belongs together.
        let same = slot.start.load(Ordering::Acquire) == start;
        (start > 1 && same && (start..end).contains(&address)).then_some((slot, end, page))
    });
    if let Some((slot, end, page)) = hit {
        slot.torn.store(true, Ordering::Relaxed);
        ANY.store(true, Ordering::Relaxed);
        // The code that was interrupted may be about to read it.
        // SAFETY: it only says where the thread has it.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the thread's own, which nobody else touches.
        let before = unsafe { errno.read() };
        // A whole page of the mapping: of hugetlbfs nothing smaller can be replaced. A mapping begins at a page's start.
        let first = address & !(page - 1);
        // One page if the kernel counts what is reserved (vm.overcommit_memory = 2) and that is too much.
        let replaced = zeros(first, end - first) || zeros(first, page);
        // SAFETY: as above.
        unsafe { errno.write(before) };
        if replaced {
            return;
        }
    }
    // Not ours: what SIGBUS does by default, at the same instruction.
    // SAFETY: resets the disposition; the access is repeated and ends the process.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// Replaces pages of a guest's mapping by zeros. False if the kernel refuses.
fn zeros(start: usize, bytes: usize) -> bool {
    // SAFETY: the pages are of a mapping that is watched, and is reached by copying only.
    let zeros = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    zeros != libc::MAP_FAILED
}
