//! Where packed rings are, in a file: so that a daemon that was killed knows where to go on.
//!
//! A split ring says itself how far its device is, in its used index; a packed one does not, and a front-end learns it
//! only from a device that ends in order (GET_VRING_BASE). After a crash it sends the base of the last start, and a
//! device that goes on there waits for ever.
//!
//! ```text
//!   a slot of 64 bytes for each ring: 0 descriptors │ 8 size │ 12 agreed base │ 16 position │ 20 being completed
//! ```
//!
//! The pages of the file outlive the process. What is written there says, at any instant, how to go on: before a batch
//! of buffers is given back, how many descriptors those have; after that, the new position. The driver sees a batch when
//! its first descriptor is marked as used, which is done last, so that mark tells whether that was before or after the
//! crash.

use super::memory::GuestMemory;
use super::packed::PackedRing;
use super::port::{VringConfig, VringError};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release};

const SLOT: usize = 64;

/// A file with a slot for each ring of a port.
#[derive(Debug)]
pub struct RingFile {
    base: NonNull<Slot>,
    rings: usize,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Slot {
    descriptors: AtomicU64,
    size: AtomicU32,
    agreed: AtomicU32,
    /// The position as GET_VRING_BASE gives it; and, shifted by 32, the descriptors of the buffers that are being given
    /// back. One store, so that they always belong together.
    place: AtomicU64,
}

const _: () = assert!(size_of::<Slot>() == SLOT);

// SAFETY: the slots are atomics in a mapping that lives as long as the file.
unsafe impl Send for RingFile {}
// SAFETY: as above.
unsafe impl Sync for RingFile {}

impl RingFile {
    /// Opens, or makes, the file for that many rings. What is in it may be anything: what does not fit a ring is not used.
    ///
    /// # Errors
    /// What open(2), ftruncate(2) or mmap(2) give.
    pub fn open(path: &Path, rings: usize) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let bytes = rings * SLOT;
        // Never shorter: who had the port before may still have it mapped.
        if file.metadata()?.len() < bytes as u64 {
            file.set_len(bytes as u64)?;
        }
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(base.cast::<Slot>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { base, rings }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The record of a ring; none if there are fewer.
    #[must_use]
    pub fn ring(self: &Arc<Self>, index: usize) -> Option<RingRecord> {
        (index < self.rings).then(|| RingRecord {
            file: self.clone(),
            index,
        })
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made; the last record is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.rings * SLOT) };
    }
}

/// The record of one ring.
#[derive(Clone, Debug)]
pub struct RingRecord {
    file: Arc<RingFile>,
    index: usize,
}

impl RingRecord {
    #[inline(always)]
    fn slot(&self) -> &Slot {
        // SAFETY: index < rings, so the slot is in the mapping.
        let slot = unsafe { self.file.base.add(self.index) };
        // SAFETY: the file keeps the mapping, and any bytes are atomics.
        unsafe { slot.as_ref() }
    }

    /// Where a packed ring that a front-end starts goes on: at the base that it names, unless that is one from before a
    /// crash; then where the ring was, and what was being given back is given back. From now on it is recorded.
    ///
    /// # Errors
    /// [`VringError`] if the ring is impossible.
    pub fn resume(&self, config: &VringConfig, memory: &GuestMemory) -> Result<u32, VringError> {
        let slot = self.slot();
        let same = slot.descriptors.load(Relaxed) == config.descriptors
            && slot.size.load(Relaxed) == u32::from(config.size)
            && slot.agreed.load(Relaxed) == config.base;
        let place = slot.place.load(Relaxed);
        let before = VringConfig {
            base: place as u32,
            record: None,
            inflight: None,
            kick: None,
            call: None,
            ..*config
        };
        let mut base = config.base;
        // A driver that began anew meanwhile has cleared its ring.
        if same
            && let Ok(mut ring) = PackedRing::new(&before, memory, 0)
            && ring.is_used()
        {
            ring.settle((place >> 32) as u16);
            base = super::ring::Vring::base(&ring);
        } else {
            PackedRing::new(&VringConfig { base, ..before }, memory, 0)?;
        }
        slot.place.store(base.into(), Relaxed);
        slot.descriptors.store(config.descriptors, Relaxed);
        slot.size.store(config.size.into(), Relaxed);
        slot.agreed.store(config.base, Release);
        Ok(base)
    }

    /// The front-end was told where the ring is.
    pub fn agree(&self, base: u32) {
        self.slot().agreed.store(base, Release);
    }

    /// The ring is at `base`, and buffers of so many descriptors are about to be given back.
    #[inline(always)]
    pub(super) fn begin(&self, base: u32, descriptors: u16) {
        let place = u64::from(base) | u64::from(descriptors) << 32;
        self.slot().place.store(place, Release);
    }

    /// They were given back: the ring is at `base`.
    #[inline(always)]
    pub(super) fn commit(&self, base: u32) {
        self.slot().place.store(base.into(), Release);
    }
}
