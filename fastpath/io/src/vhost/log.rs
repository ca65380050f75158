//! The dirty log: which pages of a guest we wrote, while it migrates (vhost-user, "Migration").
//!
//! ```text
//!   bit n of the log (byte n / 8, bit n % 8) ◄── page n of the guest's addresses, of 4096 bytes each, was written
//! ```
//!
//! A page is marked after it was written: whoever takes the mark away and then copies the page has all of it.

use super::memory::{GuestMemory, GuestMemoryError, RegionSpec};
use super::ring::RingPart;
use super::share::GuestShare;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes that one bit stands for, whatever the pages of the host are.
const PAGE: u64 = 4096;

/// The log of SET_LOG_BASE.
pub struct DirtyLog {
    bits: RingPart,
    bytes: u64,
    memory: GuestMemory,
}

impl DirtyLog {
    /// Maps `bytes` at an offset of a file, which is closed, out of a port's share.
    ///
    /// # Errors
    /// [`GuestMemoryError`] if that is impossible.
    pub fn map(share: &GuestShare, bytes: u64, offset: u64, file: OwnedFd) -> Result<Self, GuestMemoryError> {
        let spec = RegionSpec {
            guest_address: 0,
            size: bytes,
            user_address: 0,
            mmap_offset: offset,
        };
        let memory = GuestMemory::map(share, [(spec, file)])?;
        let why = "it is larger than an address space";
        let bits = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| RingPart::find(&memory, 0, bytes, 1))
            .ok_or(GuestMemoryError::Region { spec, why })?;
        Ok(Self { bits, bytes, memory })
    }

    /// The first guest address that has no bit.
    pub(super) fn end(&self) -> u64 {
        self.bytes.saturating_mul(8 * PAGE)
    }

    /// Marks what was written. What is behind the log's end is passed over: a port on such memory was refused.
    #[cold]
    pub(super) fn mark(&self, address: u64, len: u64) {
        if len == 0 || address.checked_add(len).is_none_or(|end| end > self.end()) {
            return;
        }
        for page in address / PAGE..=(address + len - 1) / PAGE {
            // A bit that is set already is set again: to look first could miss that it is just being taken away.
            self.bits
                .u8((page / 8) as usize)
                .fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }

    /// Whether its file was found shorter than it was.
    pub(super) fn is_torn(&self) -> bool {
        self.memory.is_torn()
    }
}

impl std::fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirtyLog({} bytes)", self.bytes)
    }
}

/// What of a ring is marked.
pub(super) struct RingLog {
    pub(super) log: Arc<DirtyLog>,
    /// Guest address and bytes of where buffers are returned: the used ring; the descriptor ring of a packed one.
    pub(super) used: (u64, u64),
    /// Where the device says when it wants to be told: within the used ring; the device's event suppression.
    pub(super) event: (u64, u64),
}

impl RingLog {
    /// All of it: that is a few pages at most, and only while a guest migrates.
    #[cold]
    pub(super) fn used(&self) {
        self.log.mark(self.used.0, self.used.1);
    }

    #[cold]
    pub(super) fn event(&self) {
        self.log.mark(self.event.0, self.event.1);
    }

    /// The first address behind both.
    pub(super) fn end(&self) -> u64 {
        let end = |(address, len): (u64, u64)| address.saturating_add(len);
        end(self.used).max(end(self.event))
    }
}
