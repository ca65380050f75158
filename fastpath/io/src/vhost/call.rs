//! Calls: a front-end is told by an eventfd of its own that buffers were used, and nobody here ever waits for it.
//!
//! The front-end has the same open file. It can take O_NONBLOCK away at any time and fill the counter, and then whoever
//! writes to it waits until somebody reads: a worker with all of its ports. An eventfd has no write that does not wait
//! whatever its flags (RWF_NOWAIT is for files with `write_iter`, EOPNOTSUPP for others). The kernel itself
//! (`eventfd_signal`) never waits; a counter at its end stays there. Native AIO has it do that:
//!
//! ```text
//!   io_submit: read nothing of /dev/null, then signal this eventfd (IOCB_FLAG_RESFD) ──► done when the call returns
//!   ring of events, mapped: head = tail ──► the event is seen; no system call
//! ```
//!
//! One context serves the whole process: it is made before the first ring runs, so that no front-end can use up
//! fs.aio-max-nr first, and stays until the process ends (io_destroy waits for an RCU grace period). Any thread may call.
//! One that is held up between reading the tail and writing the head, while others go around the ring, puts the head back
//! where the kernel takes the ring for full; who finds it so moves the head and tries again. Only if that happens twice to
//! the same call, that call is a write, with what that means above.
//!
//! Where there is no AIO (no CONFIG_AIO, a seccomp filter, fs.aio-max-nr used up) calls are writes, as they are in other
//! back-ends; [`calls_never_wait`] says why, so that an operator hears of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Operations of a context: what it takes of fs.aio-max-nr. The kernel makes it at least 8 for each CPU.
const OPERATIONS: libc::c_long = 64;

/// The kernel's linux/aio_abi.h: what is to be done.
#[repr(C)]
struct Iocb {
    data: u64,
    /// The kernel writes it.
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    signalled: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64);

const PREAD: u16 = 0;
const SIGNAL: u32 = 1;

/// The head of the ring that the kernel maps (`struct aio_ring` of fs/aio.c). QEMU and fio rely on it as well.
#[repr(C)]
struct Ring {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    header_bytes: u32,
}

const MAGIC: u32 = 0xa10a_10a1;

/// An AIO context that lives as long as the process.
struct Context {
    ring: NonNull<Ring>,
    /// /dev/null.
    nothing: File,
}

// SAFETY: the ring stays mapped as long as the process lives; what is accessed of it are atomics.
unsafe impl Send for Context {}
// SAFETY: as above, and any thread may submit.
unsafe impl Sync for Context {}

/// Why calls are writes, which a front-end that means harm can make wait.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is nothing to read nothing from.
    #[error("opening /dev/null failed: {0}")]
    Null(io::Error),
    /// io_setup(2) failed.
    #[error("io_setup failed: {0}; allow io_setup and io_submit, or raise the sysctl fs.aio-max-nr")]
    Setup(io::Error),
    /// The context's ring is not one that can be read in memory.
    #[error("the kernel's ring of AIO events is of an unknown kind ({magic:#x}, {incompatible:#x})")]
    Ring {
        /// What it begins with.
        magic: u32,
        /// Features that whoever reads it must know.
        incompatible: u32,
    },
}

impl Context {
    fn new() -> Result<Self, CallError> {
        let nothing = File::open("/dev/null").map_err(CallError::Null)?;
        let mut id: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, OPERATIONS, &raw mut id) };
        let ring = match NonNull::new(id as *mut Ring) {
            Some(ring) if made == 0 => ring,
            _ => return Err(CallError::Setup(io::Error::last_os_error())),
        };
        // SAFETY: a context's name is the address of its ring, which is mapped, whole pages long and aligned.
        let Ring {
            magic, incompatible, ..
        } = unsafe { ring.as_ref() };
        if (*magic, *incompatible) != (MAGIC, 0) {
            let (magic, incompatible) = (*magic, *incompatible);
            return Err(CallError::Ring { magic, incompatible });
        }
        Ok(Self { ring, nothing })
    }

    /// Signals an eventfd; false if the kernel takes nothing more.
    fn signal(&self, event: BorrowedFd<'_>) -> bool {
        // If there is no room the first time, since another thread has just turned the head back, there is now, unless a
        // further one does the same meanwhile.
        self.submit(event) || self.submit(event)
    }

    fn submit(&self, event: BorrowedFd<'_>) -> bool {
        let mut iocb = Iocb {
            data: 0,
            key: 0,
            rw_flags: 0,
            opcode: PREAD,
            priority: 0,
            file: self.nothing.as_raw_fd() as u32,
            buffer: 0,
            bytes: 0,
            offset: 0,
            reserved: 0,
            flags: SIGNAL,
            signalled: event.as_raw_fd() as u32,
        };
        let list = [&raw mut iocb];
        let one: libc::c_long = 1;
        // SAFETY: a list of one operation, both of which live through the call. Reading of /dev/null ends within it, and
        // has no bytes to write anywhere.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.ring.as_ptr(), one, list.as_ptr()) };
        self.forget_events();
        taken == 1
    }

    /// Room for the next ones. Whether an operation succeeded is of no interest: the signal comes in any case.
    fn forget_events(&self) {
        // SAFETY: mapped as long as the process lives.
        let ring = unsafe { self.ring.as_ref() };
        let tail = ring.tail.load(Ordering::Acquire);
        ring.head.store(tail, Ordering::Release);
    }
}

fn context() -> &'static Result<Context, CallError> {
    static CONTEXT: OnceLock<Result<Context, CallError>> = OnceLock::new();
    CONTEXT.get_or_init(Context::new)
}

/// Makes ready for calls, once for the process.
///
/// # Errors
/// [`CallError`] if calls are writes here, which wait for a front-end that means harm.
pub fn calls_never_wait() -> Result<(), &'static CallError> {
    context().as_ref().map(|_| ())
}

/// Adds one to the counter of an eventfd that a front-end shares; one at its end stays there. Never waits, but see
/// [`calls_never_wait`]. The descriptor has passed [`check_event`]: to anything else it may be a write.
pub fn call(event: BorrowedFd<'_>) {
    match context() {
        Ok(context) if context.signal(event) => {}
        _ => write(event),
    }
}

/// A call where there is nothing better: [`check_event`] has taken care that it does not wait, unless a front-end undid it.
#[cold]
fn write(event: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the buffer is 8 bytes long and lives through the call. A counter that is full is readable anyway.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// A descriptor that is no eventfd: whoever writes to it, reads it or waits for it may wait for somebody else.
#[derive(Debug, thiserror::Error)]
pub enum NoEvent {
    /// It is something else.
    #[error("it sent {0} where an eventfd belongs")]
    Other(String),
    /// There is no telling.
    #[error("looking at {link} failed: {error}; is /proc mounted?")]
    Look {
        /// What was looked at.
        link: String,
        /// What readlink(2) gave.
        error: io::Error,
    },
}

/// Whether a front-end's descriptor is an eventfd; has writes to it not wait.
///
/// # Errors
/// [`NoEvent`] if it is something else.
pub fn check_event(fd: impl AsFd) -> Result<(), NoEvent> {
    let fd = fd.as_fd().as_raw_fd();
    let link = format!("/proc/self/fd/{fd}");
    let kind = match std::fs::read_link(&link) {
        Ok(kind) => kind,
        Err(error) => return Err(NoEvent::Look { link, error }),
    };
    if kind.as_os_str() != "anon_inode:[eventfd]" {
        return Err(NoEvent::Other(kind.display().to_string()));
    }
    // SAFETY: no pointers are involved.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // It names the eventfd, but can be neither signalled nor waited for: open(2).
    if flags & libc::O_PATH != 0 {
        return Err(NoEvent::Other("an eventfd opened with O_PATH".to_owned()));
    }
    if flags >= 0 && flags & libc::O_NONBLOCK == 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    fn event() -> EventFd {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).expect("eventfd");
        check_event(&event).expect("an eventfd");
        event
    }

    fn read(event: &EventFd) -> Option<u64> {
        event.read().ok()
    }

    #[test]
    fn every_call_counts_once() {
        calls_never_wait().expect("AIO");
        let event = event();
        assert_eq!(read(&event), None);
        // Several times around the ring of events.
        for n in [1, 2, 1000, 5000] {
            (0..n).for_each(|_| call(event.as_fd()));
            assert_eq!(read(&event), Some(n));
        }
    }

    #[test]
    fn calls_of_several_threads_count_all() {
        let event = event();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20_000).for_each(|_| call(event.as_fd())));
            }
        });
        assert_eq!(read(&event), Some(80_000));
    }

    #[test]
    fn a_counter_at_its_end_stays_there_and_nobody_waits() {
        let event = event();
        event.write(u64::MAX - 1).expect("its end");
        fcntl(&event, FcntlArg::F_SETFL(OFlag::empty())).expect("blocking again");
        let (done, wait) = channel();
        let caller = std::thread::spawn({
            let event = event.as_fd().try_clone_to_owned().expect("a descriptor");
            move || {
                (0..3).for_each(|_| call(event.as_fd()));
                done.send(()).expect("somebody waits");
            }
        });
        let waited = wait.recv_timeout(Duration::from_secs(30));
        // Frees it, so that the test fails instead of standing still.
        let value = event.read();
        caller.join().expect("the caller");
        assert_eq!((waited, value), (Ok(()), Ok(u64::MAX)));
    }

    #[test]
    fn without_aio_a_call_is_a_write() {
        let event = event();
        write(event.as_fd());
        assert_eq!(read(&event), Some(1));
        event.write(u64::MAX - 1).expect("its end");
        write(event.as_fd());
        assert_eq!(read(&event), Some(u64::MAX - 1));
    }

    #[test]
    fn a_descriptor_that_only_names_an_eventfd_is_refused() {
        let event = event();
        let link = format!("/proc/self/fd/{}", event.as_fd().as_raw_fd());
        let named = nix::fcntl::open(link.as_str(), OFlag::O_PATH, nix::sys::stat::Mode::empty());
        let error = check_event(named.expect("a descriptor")).expect_err("O_PATH");
        assert_eq!(
            error.to_string(),
            "it sent an eventfd opened with O_PATH where an eventfd belongs"
        );
    }

    #[test]
    fn what_is_no_eventfd_is_refused_by_name() {
        let (read, _write) = nix::unistd::pipe().expect("a pipe");
        let error = check_event(read).expect_err("a pipe").to_string();
        assert!(error.starts_with("it sent pipe:["), "{error}");
        let error = check_event(File::open("/dev/null").expect("a file")).expect_err("a file");
        assert_eq!(error.to_string(), "it sent /dev/null where an eventfd belongs");
    }
}
