//! A guest's memory: regions that follow each other in the guest's addresses, each a memfd of its own.
//!
//! ```text
//!   guest:  GUEST_BASE │ region 0 │ region 1 │ …        file of a region: │ canary │ region │ canary │
//!   user:   somewhere else, in the opposite order
//! ```

use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

const GUEST_BASE: u64 = 0x4000_0000;
const PAGE: u64 = 4096;
/// Fills what the device has no business with.
const CANARY: u8 = 0xc5;

/// One region.
#[derive(Debug)]
pub struct RamRegion {
    /// Guest address of its first byte.
    pub guest: u64,
    /// Address of its first byte in the front-end's process; nothing is there in truth.
    pub user: u64,
    /// Bytes.
    pub size: u64,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// The file.
    pub file: File,
}

impl RamRegion {
    /// A region of `size` bytes, a multiple of 4096, in a new file, with a page of canaries on both sides.
    #[must_use]
    pub fn new(guest: u64, user: u64, size: u64) -> Self {
        let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).expect("memfd"));
        file.set_len(size + 2 * PAGE).expect("memory for a guest");
        for offset in [0, PAGE + size] {
            file.write_all_at(&[CANARY; PAGE as usize], offset)
                .expect("a page");
        }
        Self {
            guest,
            user,
            size,
            offset: PAGE,
            file,
        }
    }

    /// The file once more, to be sent or mapped.
    #[must_use]
    pub fn fd(&self) -> OwnedFd {
        self.file.try_clone().expect("a descriptor").into()
    }
}

/// All memory of a guest, and who has what of it.
#[derive(Debug)]
pub struct GuestRam {
    regions: Vec<RamRegion>,
    heap: Mutex<Heap>,
}

#[derive(Debug, Default)]
struct Heap {
    next: u64,
    /// Blocks given back, by their size, which is a power of two.
    free: BTreeMap<u64, Vec<u64>>,
}

impl GuestRam {
    /// Regions of these sizes in bytes, multiples of 4096.
    #[must_use]
    pub fn new(sizes: &[u64]) -> Self {
        let mut guest = GUEST_BASE;
        let regions = sizes
            .iter()
            .enumerate()
            .map(|(i, &size)| {
                let user = 0x7f00_0000_0000 - (i as u64 + 1) * 0x10_0000_0000;
                let region = RamRegion::new(guest, user, size);
                guest += size;
                region
            })
            .collect();
        let heap = Heap {
            next: GUEST_BASE,
            free: BTreeMap::new(),
        };
        Self {
            regions,
            heap: Mutex::new(heap),
        }
    }

    /// The regions, by guest address.
    #[must_use]
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// The first guest address behind all regions.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.regions.last().map_or(GUEST_BASE, |r| r.guest + r.size)
    }

    /// Whether no byte around the regions was written.
    #[must_use]
    pub fn canaries_live(&self) -> bool {
        self.regions.iter().all(|region| {
            [0, region.offset + region.size].into_iter().all(|offset| {
                let mut page = [0; PAGE as usize];
                region.file.read_exact_at(&mut page, offset).is_err() || page == [CANARY; PAGE as usize]
            })
        })
    }

    fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that lies in one region and that nothing else has, for good.
    ///
    /// # Panics
    /// When there is not that much.
    #[must_use]
    pub fn take(&self, len: u64, align: u64) -> u64 {
        let mut heap = self.heap();
        for region in &self.regions {
            let at = heap.next.max(region.guest).next_multiple_of(align);
            if at + len <= region.guest + region.size {
                heap.next = at + len;
                return at;
            }
        }
        panic!("the guest has no {len} bytes left");
    }

    /// A buffer of at least `len` bytes in one region, until [`GuestRam::free`].
    #[must_use]
    pub fn alloc(&self, len: u64) -> u64 {
        let size = len.next_power_of_two().max(64);
        let used = self.heap().free.get_mut(&size).and_then(Vec::pop);
        used.unwrap_or_else(|| self.take(size, 64))
    }

    /// Gives a buffer of `len` bytes back.
    pub fn free(&self, at: u64, len: u64) {
        let size = len.next_power_of_two().max(64);
        self.heap().free.entry(size).or_default().push(at);
    }

    /// Address in the front-end's process of a guest address; what is in no region gets an address in none.
    #[must_use]
    pub fn user(&self, guest: u64) -> u64 {
        let inside = |r: &&RamRegion| (r.guest..r.guest + r.size).contains(&guest);
        match self.regions.iter().find(inside) {
            Some(region) => region.user + (guest - region.guest),
            None => guest | 1 << 60,
        }
    }

    fn each(&self, mut at: u64, len: usize, mut part: impl FnMut(&RamRegion, u64, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let inside = |r: &&RamRegion| (r.guest..r.guest + r.size).contains(&at);
            let Some(region) = self.regions.iter().find(inside) else {
                panic!("the guest has no memory at {at:#x}");
            };
            let offset = at - region.guest;
            let n = (len - done).min((region.size - offset) as usize);
            part(region, region.offset + offset, done..done + n);
            done += n;
            at += n as u64;
        }
    }

    /// Reads bytes, across regions where need be.
    pub fn read(&self, at: u64, to: &mut [u8]) {
        self.each(at, to.len(), |region, offset, range| {
            region
                .file
                .read_exact_at(&mut to[range], offset)
                .expect("guest memory");
        });
    }

    /// Writes bytes, across regions where need be.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.each(at, bytes.len(), |region, offset, range| {
            region
                .file
                .write_all_at(&bytes[range], offset)
                .expect("guest memory");
        });
    }

    /// Bytes at an address.
    #[must_use]
    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes);
        bytes
    }

    /// Eight bytes, read until they are seen the same twice.
    #[must_use]
    pub fn word(&self, at: u64) -> [u8; 8] {
        let read = || {
            let mut word = [0; 8];
            self.read(at, &mut word);
            word
        };
        let mut last = read();
        loop {
            let now = read();
            if now == last {
                return now;
            }
            last = now;
        }
    }

    /// A 16-bit number.
    #[must_use]
    pub fn u16(&self, at: u64) -> u16 {
        let word = self.word(at & !7);
        let i = (at & 7) as usize;
        u16::from_le_bytes([word[i], word[i + 1]])
    }

    /// Sets a 16-bit number, together with the rest of its aligned eight bytes, which are the driver's as well.
    pub fn set_u16(&self, at: u64, value: u16) {
        let mut word = self.word(at & !7);
        let i = (at & 7) as usize;
        word[i..i + 2].copy_from_slice(&value.to_le_bytes());
        self.write(at & !7, &word);
    }
}
