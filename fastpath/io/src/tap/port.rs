//! One queue of a TAP as a port.

use super::sys;
use crate::frame::{HELD_HEAD, MAX_PIECES, Piece};
use crate::vnet::{self, VnetHeader};
use crate::{
    Fault, Frame, FrameBatch, HEADROOM, Offloads, PoolSet, Port, RegionId, RxCounts, TxCounts, Umem,
};
use arrayvec::ArrayVec;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// The longest frame that arrives: the kernel's GSO packets have up to 65536 bytes behind the Ethernet header, which may
/// have two tags (GSO_LEGACY_MAX_SIZE).
const LONGEST: usize = 65536 + 14 + 8;

/// Bytes of an arena. A batch ends when the next frame might not fit: small enough to stay in a core's cache.
const ARENA: usize = 4 * LONGEST.next_multiple_of(LINE);

const LINE: usize = 64;

/// Header, segments and pieces of a frame.
type Vector = ArrayVec<libc::iovec, { MAX_PIECES + 2 }>;

/// What frames of one batch have that does not fit their chunks.
struct Arena {
    base: NonNull<[u8]>,
    used: usize,
}

// SAFETY: it owns its memory alone; what points into it are pieces of frames that are gone before it moves on.
unsafe impl Send for Arena {}

impl Arena {
    fn new() -> Self {
        let memory = Box::leak(vec![0; ARENA].into_boxed_slice());
        Self {
            base: NonNull::from(memory),
            used: 0,
        }
    }

    /// Room for the longest frame, if there is.
    fn room(&self) -> Option<NonNull<u8>> {
        // SAFETY: `used` is never more than the length.
        (ARENA - self.used >= LONGEST).then(|| unsafe { self.base.cast::<u8>().add(self.used) })
    }

    fn take(&mut self, bytes: usize) {
        self.used = (self.used + bytes).next_multiple_of(LINE).min(ARENA);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the pointer is that of a leaked box, and no frame is left that points there: they live no longer than
        // the turn that received them, and ports are dropped between turns.
        drop(unsafe { Box::from_raw(self.base.as_ptr()) });
    }
}

/// What one read gave.
enum Read {
    Frame(Frame),
    /// Not one that makes sense.
    Invalid,
    Nothing,
}

/// What became of a frame that was to be sent.
enum Write {
    Sent,
    Unsendable,
    Refused,
}

/// See the module's text.
pub struct TapPort {
    fd: OwnedFd,
    name: String,
    umem: Umem,
    arena: Arena,
    takes: Offloads,
    invalid: u64,
    /// The interface was down when something was last sent.
    down: bool,
    fault: Option<Fault>,
}

impl TapPort {
    pub(super) fn new(fd: OwnedFd, name: &str, takes: Offloads, umem: &Umem) -> Self {
        Self {
            fd,
            name: name.to_owned(),
            umem: umem.clone(),
            arena: Arena::new(),
            takes,
            invalid: 0,
            down: false,
            fault: None,
        }
    }

    /// The region of its frames.
    #[must_use]
    pub fn region(&self) -> RegionId {
        self.umem.id()
    }

    /// Reads a frame into a chunk, and what is too long for that into the arena behind it.
    fn read(&mut self, chunk: u32, arena: NonNull<u8>) -> Read {
        let region = self.umem.region();
        let mut header: VnetHeader = [0; size_of::<VnetHeader>()];
        // A held frame's pieces are named at the chunk's end.
        let room = (region.chunk_size() - HEADROOM) as usize - 2 * size_of::<Piece>();
        let data = region.chunk_at(chunk, HEADROOM);
        let vector = [
            part(header.as_mut_ptr(), header.len()),
            part(data.as_ptr(), room),
            part(arena.as_ptr(), LONGEST),
        ];
        // SAFETY: the parts are a local array, a chunk that the caller owns alone, of which `room` bytes are behind the
        // headroom, and the arena's rest, which has LONGEST bytes; all outlive the call.
        let n = unsafe { libc::readv(self.fd.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int) };
        let Ok(n) = usize::try_from(n) else {
            return self.read_failed(&io::Error::last_os_error());
        };
        let len = n.saturating_sub(header.len());
        // What fills all of it was cut short.
        if len == 0 || len >= room + LONGEST {
            return Read::Invalid;
        }
        let frame = if len <= room {
            Frame::from_chunk(region, chunk, HEADROOM, len as u32)
        } else {
            let mut frame = Frame::from_chunk(region, chunk, HEADROOM, HELD_HEAD);
            let pieces = [
                Piece {
                    data: region.chunk_at(chunk, HEADROOM + HELD_HEAD).as_ptr(),
                    len: room as u32 - HELD_HEAD,
                },
                Piece {
                    data: arena.as_ptr(),
                    len: (len - room) as u32,
                },
            ];
            frame.hold(&pieces);
            self.arena.take(len - room);
            frame
        };
        finish(frame, &header)
    }

    fn read_failed(&mut self, error: &io::Error) -> Read {
        match error.raw_os_error() {
            // A signal: the next turn comes.
            Some(libc::EAGAIN | libc::EINTR) => {}
            _ => self.fail(error),
        }
        Read::Nothing
    }

    #[cold]
    fn fail(&mut self, error: &io::Error) {
        let name = &self.name;
        let text = match error.raw_os_error() {
            Some(libc::EBADFD) => format!("the TAP {name} was deleted, perhaps with its network namespace"),
            _ => format!("the TAP {name} can't be used any more: {error}"),
        };
        self.fault.get_or_insert(Fault(text));
    }

    fn write(&mut self, frame: &mut Frame) -> Write {
        let mut header = vnet::encode(frame.offload(), frame.bytes());
        let mut vector = Vector::new();
        // Most frames are one part then, which the kernel takes up in less time.
        let in_front = frame.push_front(header.len() as u32);
        if in_front {
            frame.bytes_mut()[..header.len()].copy_from_slice(&header);
        } else {
            vector.push(part(header.as_mut_ptr(), header.len()));
        }
        let segments = frame
            .segments()
            .map(|bytes| part(bytes.as_ptr().cast_mut(), bytes.len()));
        let pieces = frame.pieces().iter();
        let pieces = pieces.map(|piece| part(piece.data.cast_mut(), piece.len as usize));
        let fits = segments.chain(pieces).all(|part| vector.try_push(part).is_ok());
        let result = if fits {
            self.write_all(&vector)
        } else {
            Write::Unsendable
        };
        if in_front {
            let pulled = frame.advance(header.len() as u32);
            debug_assert!(pulled, "it was pushed just now");
        }
        result
    }

    /// Hands the parts of one frame to the kernel. They can be read through the call.
    fn write_all(&mut self, vector: &[libc::iovec]) -> Write {
        // SAFETY: the caller's parts are its header, segments that its frame owns and pieces that can be read while that
        // lives; the call only reads them, and takes what a guest changes meanwhile as it comes.
        let n = unsafe { libc::writev(self.fd.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int) };
        if n >= 0 {
            return Write::Sent;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS) => Write::Refused,
            // It may come up again.
            Some(libc::EIO) => {
                self.down = true;
                Write::Refused
            }
            Some(libc::EBADFD) => {
                self.fail(&error);
                Write::Refused
            }
            // EINVAL: shorter than an Ethernet header, or work left undone that makes no sense to the kernel. EFAULT: a
            // guest took memory away.
            _ => Write::Unsendable,
        }
    }
}

fn part(data: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: data.cast(),
        iov_len: len,
    }
}

/// Says of a frame what its header says.
fn finish(mut frame: Frame, header: &VnetHeader) -> Read {
    let head = frame.bytes();
    let said = match vnet::decode(header, &head[..head.len().min(HELD_HEAD as usize)]) {
        Ok(None) => true,
        Ok(Some(offload)) => frame.set_offload(offload),
        Err(vnet::Malformed) => false,
    };
    if said { Read::Frame(frame) } else { Read::Invalid }
}

impl Port for TapPort {
    fn rx_batch(&mut self, pools: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        let before = batch.len();
        if self.fault.is_some() {
            return 0;
        }
        let Some(pool) = pools.get(self.umem.id()) else {
            return 0;
        };
        while !batch.is_full()
            && let Some(arena) = self.arena.room()
            && let Some(chunk) = pool.take_chunk()
        {
            match self.read(chunk, arena) {
                Read::Frame(frame) => batch.push(frame),
                Read::Invalid => {
                    self.invalid += 1;
                    pool.put_chunk(chunk);
                }
                Read::Nothing => {
                    pool.put_chunk(chunk);
                    break;
                }
            }
        }
        if batch.is_empty() {
            // Nobody holds any of it, and nobody will say so.
            self.arena.used = 0;
        }
        batch.len() - before
    }

    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts {
        let mut counts = TxCounts::default();
        let mut taken = 0;
        self.down = false;
        for slot in frames.iter_mut() {
            if self.fault.is_some() {
                break;
            }
            match self.write(slot) {
                Write::Sent => {
                    counts.packets += 1;
                    counts.bytes += u64::from(slot.len());
                }
                Write::Unsendable => counts.unsendable += 1,
                Write::Refused => break,
            }
            taken += 1;
            pools.free(std::mem::take(slot));
        }
        frames.drain(..taken);
        counts
    }

    fn reclaim(&mut self, _: &mut PoolSet) {}

    fn rx_done(&mut self) {
        self.arena.used = 0;
    }

    fn offloads(&self) -> Offloads {
        self.takes
    }

    fn is_down(&self) -> bool {
        self.down || self.fault.is_some()
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn looks_by_call(&self) -> bool {
        true
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn arm(&mut self) -> bool {
        sys::readable(self.fd.as_fd())
    }

    fn rx_lost(&mut self) -> RxCounts {
        if self.fault.is_none()
            && let Err(error) = sys::is_attached(self.fd.as_fd())
        {
            self.fail(&error);
        }
        // What the kernel has no room for it counts itself, as dropped by the interface.
        RxCounts {
            missed: 0,
            invalid: self.invalid,
        }
    }
}
