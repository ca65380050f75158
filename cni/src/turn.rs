//! One call at a time for an interface of a container.
//!
//! The specification forbids a runtime to do otherwise ("must not invoke parallel operations for the same container"), but
//! a runtime that loses patience kills its call, or only forgets it, and asks again. While the first ADD is at its IPAM
//! plugin the daemon knows nothing of it: a second one would fail at the IPAM plugin, and with its DEL free the first
//! one's addresses.
//!
//! All calls share one file beside the daemon's socket, and each locks a byte of it: nothing is left to be cleaned up, and
//! whoever is killed has let go. An IPAM plugin inherits the lock: it goes on when this program is killed, and what it hands
//! out then must be there when the DEL asks for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clearway_config::attach::AttachmentId;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;

/// The file, in the folder of the daemon's socket.
const FILE: &str = "cni.lock";
/// As long as any other call may take: the daemon a minute, and the IPAM plugin another one.
const LIMIT: Duration = Duration::from_secs(130);
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(10);

/// Why it is not this call's turn.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// The file can't be used: there is no daemon, or it is not ours.
    #[error("{path} can't be locked ({source})")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Another call has not ended.
    #[error("another call for this interface has not ended within {} s", LIMIT.as_secs())]
    Busy,
}

/// Nobody else's, until it is dropped; if this program is killed, until the IPAM plugin that it started has ended.
#[derive(Debug)]
pub struct Turn {
    file: File,
    place: i64,
}

impl Turn {
    /// Waits until no other call for this interface is under way.
    pub fn wait(folder: &Path, id: &AttachmentId) -> Result<Self, TurnError> {
        let path = folder.join(FILE);
        let failed = |source| TurnError::File {
            path: path.display().to_string(),
            source,
        };
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).mode(0o600);
        let file = options.open(&path).map_err(failed)?;
        let turn = Self {
            place: place(id),
            file,
        };
        let end = Instant::now() + LIMIT;
        loop {
            match turn.lock(libc::F_WRLCK) {
                Ok(_) => {
                    let inherited = fcntl(&turn.file, FcntlArg::F_SETFD(FdFlag::empty()));
                    return inherited.map(|_| turn).map_err(|errno| failed(errno.into()));
                }
                Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < end => sleep(AGAIN),
                Err(Errno::EAGAIN | Errno::EACCES) => return Err(TurnError::Busy),
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

impl Turn {
    fn lock(&self, kind: libc::c_int) -> Result<libc::c_int, Errno> {
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: self.place,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock))
    }
}

impl Drop for Turn {
    /// Closing alone would not do where an IPAM plugin has left a process behind.
    fn drop(&mut self) {
        let _ = self.lock(libc::F_UNLCK);
    }
}

/// The byte of an interface: FNV-1a, without the bits that a place in a file has not. Two that share one wait in vain.
fn place(id: &AttachmentId) -> i64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = id.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, step);
    (hash >> 2) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container: &str) -> AttachmentId {
        AttachmentId {
            container: container.into(),
            interface: "net1".into(),
        }
    }

    #[test]
    fn each_interface_has_a_turn_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let first = Turn::wait(folder.path(), &id("a")).unwrap();
        let _other = Turn::wait(folder.path(), &id("b")).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Turn::wait(folder.path(), &id("a")).unwrap());
            sleep(10 * AGAIN);
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
        let missing = Turn::wait(&folder.path().join("none"), &id("a")).unwrap_err();
        assert!(matches!(missing, TurnError::File { .. }), "{missing}");
        assert!((0..1000).all(|n| place(&id(&n.to_string())) >= 0));
    }
}
