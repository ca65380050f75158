//! The four rings of an AF_XDP socket, mapped from a file descriptor.
//!
//! ```text
//!   fill        we produce addresses ──► kernel      rx          kernel ──► we consume descriptors
//!   tx          we produce descriptors ─► kernel     completion  kernel ──► we consume addresses
//! ```
//!
//! All four are the same ring (af_xdp.rst, "Rings"): free-running 32-bit cursors, a power-of-two array. So
//! there is one [`Producer`] and one [`Consumer`], and a newtype per ring.
//!
//! Guarantees: a cursor that the kernel (or whoever else maps the ring) sets to nonsense makes a ring look
//! empty or full, never an access outside the mapping. Rings are mapped from a descriptor that the caller has,
//! and take up the cursors that they find, so a successor process goes on where its predecessor stopped.
//! Left to the caller: what the entries mean; only one owner per ring.

use super::sys;
use super::uapi::{self, xdp_desc, xdp_mmap_offsets, xdp_ring_offset};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Entries of the four rings; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Entries of the rx ring and of the fill ring.
    pub rx: u32,
    /// Entries of the tx ring and of the completion ring.
    pub tx: u32,
}

struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, bytes: usize, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a fresh shared mapping; the kernel chooses the address and refuses sizes that exceed the ring.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { base, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A field of the ring; an error if the kernel's offset does not lie in the mapping.
    fn at<T>(&self, offset: u64, count: usize) -> io::Result<NonNull<T>> {
        let bytes = size_of::<T>() * count;
        let start = usize::try_from(offset).ok().filter(|start| {
            start.is_multiple_of(align_of::<T>())
                && start.checked_add(bytes).is_some_and(|end| end <= self.bytes)
        });
        let start = start.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: start + bytes ≤ the bytes of the mapping.
        Ok(unsafe { self.base.add(start) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are what mmap gave; the ring that points into it goes with it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// What a ring is made of, whichever side of it we are on.
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _mapping: Mapping,
}

// SAFETY: the pointers lead into the mapping that the struct owns; cursors are atomics, and entries are only
// touched through the one owner of the ring (&mut self).
unsafe impl<T: Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    fn map(fd: BorrowedFd<'_>, size: u32, at: &xdp_ring_offset, offset: libc::off_t) -> io::Result<Self> {
        if !size.is_power_of_two() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let bytes = at.desc as usize + size as usize * size_of::<T>();
        let mapping = Mapping::new(fd, bytes, offset)?;
        Ok(Self {
            producer: mapping.at(at.producer, 1)?,
            consumer: mapping.at(at.consumer, 1)?,
            flags: mapping.at(at.flags, 1)?,
            entries: mapping.at(at.desc, size as usize)?,
            size,
            _mapping: mapping,
        })
    }

    #[inline(always)]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into the mapping, aligned (checked by `at`), alive as long as self.
        unsafe { self.producer.as_ref() }
    }

    #[inline(always)]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    #[inline(always)]
    fn need_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    #[inline(always)]
    fn entry(&self, cursor: u32) -> *mut T {
        let index = (cursor & (self.size - 1)) as usize;
        // SAFETY: index < size, and the mapping holds `size` entries.
        unsafe { self.entries.add(index) }.as_ptr()
    }
}

/// Our side of a ring that the kernel reads.
struct Producer<T> {
    ring: Shared<T>,
    /// Next entry to write; what lies between it and the shared cursor is written but not published.
    next: u32,
    /// Published up to here.
    published: u32,
    /// The kernel's cursor as last seen.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    fn new(ring: Shared<T>) -> Self {
        // Only we write the producer cursor (or a predecessor that has stopped).
        let next = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        Self {
            ring,
            next,
            published: next,
            consumed,
        }
    }

    /// Entries that may be written now, at least `want` if so many are free.
    #[inline]
    fn room(&mut self, want: u32) -> u32 {
        let room = self
            .ring
            .size
            .saturating_sub(self.next.wrapping_sub(self.consumed));
        if room >= want {
            return room;
        }
        // Acquire: the kernel has read the entries before it moved its cursor; we may overwrite them.
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.ring
            .size
            .saturating_sub(self.next.wrapping_sub(self.consumed))
    }

    /// Writes the next entry. The caller has seen room for it.
    #[inline(always)]
    fn push(&mut self, value: T) {
        // SAFETY: `entry` is inside the array; the kernel does not read entries past the published cursor.
        unsafe { self.ring.entry(self.next).write_volatile(value) };
        self.next = self.next.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self) {
        if self.published != self.next {
            // Release: entries and the frames they point to are written before the kernel sees the cursor.
            self.ring.producer().store(self.next, Ordering::Release);
            self.published = self.next;
        }
    }

    /// Published entries that the kernel has not taken yet.
    #[inline]
    fn pending(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.published.wrapping_sub(self.consumed)
    }
}

/// Our side of a ring that the kernel writes.
struct Consumer<T> {
    ring: Shared<T>,
    /// Next entry to read.
    next: u32,
    /// Given back up to here.
    released: u32,
    /// The kernel's cursor as last seen.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    fn new(ring: Shared<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        let produced = ring.producer().load(Ordering::Acquire);
        Self {
            ring,
            next,
            released: next,
            produced,
        }
    }

    /// Entries that can be read now; looks at the kernel's cursor only when none is known.
    #[inline(always)]
    fn available(&mut self) -> u32 {
        let known = self.produced.wrapping_sub(self.next);
        if known != 0 && known <= self.ring.size {
            return known;
        }
        // Acquire: the entries and the frames they point to were written before the cursor moved.
        self.produced = self.ring.producer().load(Ordering::Acquire);
        let known = self.produced.wrapping_sub(self.next);
        if known <= self.ring.size { known } else { 0 }
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        // SAFETY: `entry` is inside the array; T is plain data of the kernel's ABI, any bytes are valid; the
        // kernel does not write entries before our released cursor has passed them.
        let value = unsafe { self.ring.entry(self.next).read_volatile() };
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    #[inline]
    fn release(&mut self) {
        if self.released != self.next {
            // Release: our reads come before the kernel may write the entries again.
            self.ring.consumer().store(self.next, Ordering::Release);
            self.released = self.next;
        }
    }
}

/// Chunks for the kernel to receive into.
pub(crate) struct FillRing(Producer<u64>);
/// What was received.
pub(crate) struct RxRing(Consumer<xdp_desc>);
/// What is to be sent.
pub(crate) struct TxRing(Producer<xdp_desc>);
/// Chunks that were sent.
pub(crate) struct CompletionRing(Consumer<u64>);

impl FillRing {
    /// Free entries, at least `want` if so many are free.
    #[inline]
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        self.0.room(want)
    }

    /// Hands over a chunk by its address; visible to the kernel after [`FillRing::publish`].
    #[inline(always)]
    pub(crate) fn push(&mut self, address: u64) {
        self.0.push(address);
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        self.0.publish();
    }

    /// Whether the kernel wants a system call to go on receiving (XDP_USE_NEED_WAKEUP).
    #[inline]
    pub(crate) fn need_wakeup(&self) -> bool {
        self.0.ring.need_wakeup()
    }
}

impl RxRing {
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<xdp_desc> {
        self.0.pop()
    }

    /// Gives the entries read so far back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.0.release();
    }

    pub(crate) fn is_empty(&mut self) -> bool {
        self.0.available() == 0
    }
}

impl TxRing {
    /// Free entries, at least `want` if so many are free.
    #[inline]
    pub(crate) fn room(&mut self, want: u32) -> u32 {
        self.0.room(want)
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, addr: u64, len: u32, more: bool) {
        self.0.push(xdp_desc {
            addr,
            len,
            options: if more { libc::XDP_PKT_CONTD } else { 0 },
        });
    }

    #[inline]
    pub(crate) fn publish(&mut self) {
        self.0.publish();
    }

    /// Descriptors that the kernel has not taken yet.
    #[inline]
    pub(crate) fn pending(&mut self) -> u32 {
        self.0.pending()
    }

    /// Whether the kernel wants a system call to go on sending. In copy mode it always does.
    #[inline]
    pub(crate) fn need_wakeup(&self) -> bool {
        self.0.ring.need_wakeup()
    }
}

impl CompletionRing {
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Option<u64> {
        self.0.pop()
    }

    /// Gives the entries read so far back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.0.release();
    }
}

/// The rings of one socket.
pub(crate) struct Rings {
    pub(crate) fill: FillRing,
    pub(crate) rx: RxRing,
    pub(crate) tx: TxRing,
    pub(crate) completion: CompletionRing,
    pub(crate) sizes: RingSizes,
}

impl Rings {
    /// Maps the rings of a bound socket, whoever made it. `sizes` is what they were made with: the kernel
    /// does not tell, but refuses to map more than there is.
    pub(crate) fn map(fd: BorrowedFd<'_>, sizes: RingSizes) -> io::Result<Self> {
        let at: xdp_mmap_offsets = sys::get_option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        Ok(Self {
            fill: FillRing(Producer::new(Shared::map(
                fd,
                sizes.rx,
                &at.fr,
                uapi::PGOFF_FILL,
            )?)),
            rx: RxRing(Consumer::new(Shared::map(fd, sizes.rx, &at.rx, uapi::PGOFF_RX)?)),
            tx: TxRing(Producer::new(Shared::map(fd, sizes.tx, &at.tx, uapi::PGOFF_TX)?)),
            completion: CompletionRing(Consumer::new(Shared::map(
                fd,
                sizes.tx,
                &at.cr,
                uapi::PGOFF_COMPLETION,
            )?)),
            sizes,
        })
    }
}

/// The kernel's end of a socket's rings, for tests of what the real kernel never does.
#[cfg(test)]
pub(crate) struct FakeKernel {
    fill: Consumer<u64>,
    rx: Producer<xdp_desc>,
    tx: Consumer<xdp_desc>,
    completion: Producer<u64>,
}

#[cfg(test)]
impl FakeKernel {
    /// Both ends, and the file that they lie in.
    pub(crate) fn new(sizes: RingSizes) -> (Rings, Self, std::fs::File) {
        use std::os::fd::AsFd;
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(4 * 8192).expect("sparse file");
        let at = xdp_ring_offset {
            producer: 0,
            consumer: 64,
            flags: 128,
            desc: 192,
        };
        let fd = file.as_fd();
        let addresses = |index: i64, size| Shared::<u64>::map(fd, size, &at, index * 8192).expect("mapping");
        let descriptors =
            |index: i64, size| Shared::<xdp_desc>::map(fd, size, &at, index * 8192).expect("mapping");
        let rings = Rings {
            fill: FillRing(Producer::new(addresses(0, sizes.rx))),
            rx: RxRing(Consumer::new(descriptors(1, sizes.rx))),
            tx: TxRing(Producer::new(descriptors(2, sizes.tx))),
            completion: CompletionRing(Consumer::new(addresses(3, sizes.tx))),
            sizes,
        };
        let kernel = Self {
            fill: Consumer::new(addresses(0, sizes.rx)),
            rx: Producer::new(descriptors(1, sizes.rx)),
            tx: Consumer::new(descriptors(2, sizes.tx)),
            completion: Producer::new(addresses(3, sizes.tx)),
        };
        (rings, kernel, file)
    }

    pub(crate) fn take_fill(&mut self) -> Option<u64> {
        let address = self.fill.pop();
        self.fill.release();
        address
    }

    pub(crate) fn give_rx(&mut self, addr: u64, len: u32, more: bool) {
        assert!(self.rx.room(1) > 0, "rx ring is full");
        self.rx.push(xdp_desc {
            addr,
            len,
            options: u32::from(more),
        });
        self.rx.publish();
    }

    pub(crate) fn take_tx(&mut self) -> Option<(u64, u32, bool)> {
        let desc = self.tx.pop();
        self.tx.release();
        desc.map(|desc| (desc.addr, desc.len, desc.options == libc::XDP_PKT_CONTD))
    }

    pub(crate) fn give_completion(&mut self, address: u64) {
        assert!(self.completion.room(1) > 0, "completion ring is full");
        self.completion.push(address);
        self.completion.publish();
    }
}

#[cfg(test)]
mod tests;
