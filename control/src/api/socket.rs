//! The unix socket on which the daemon listens: made for root alone, and taken over only from the dead.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, socket, sockopt};
use nix::sys::stat::Mode;

/// Longer than another daemon looks and binds.
const TURN: Duration = Duration::from_secs(2);

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Somebody answers there.
    #[error(
        "another daemon{} listens on {}; stop it first, or give this one a socket of its own with --socket",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens, if the kernel can tell.
        pid: Option<i32>,
    },
    /// Something else has the name.
    #[error("{} is there and is no socket; remove it, or name another path with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("{attempt} {} failed: {source}{}", .path.display(), hint(.source))]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The thread that answers could not be made.
    #[error("starting the thread that answers on {} failed: {source}; check the limit of processes (ulimit -u)", .path.display())]
    Thread {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run clearway as root, or name a socket where you may write with --socket"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotFound => {
            "; name a socket in a folder that can be written with --socket"
        }
        _ => "",
    }
}

/// A listening socket at a path; the path goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Device and inode, so that only our own socket is removed.
    identity: Option<(u64, u64)>,
    listener: UnixListener,
}

impl Socket {
    /// Listens at `path`, for root (the daemon's user) alone. A socket that nobody listens on is replaced; its
    /// folder is made if it is missing.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| SocketError::Io {
                attempt,
                path,
                source,
            }
        };
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(failed("making the folder", folder))?;
        let turn = File::open(folder).map_err(failed("opening the folder", folder))?;
        wait_for_turn(&turn);
        remove_stale(path)?;
        let listener = listen(path).map_err(failed("listening on", path))?;
        Ok(Self::own(path, path, listener))
    }

    /// One that was bound just now; `reach` is how the kernel takes a path that is too long for an address.
    pub(crate) fn own(path: &Path, reach: &Path, listener: UnixListener) -> Self {
        Self {
            path: path.to_owned(),
            identity: identity(reach),
            listener,
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket.
    pub(crate) fn as_listener(&self) -> &UnixListener {
        &self.listener
    }

    /// A second handle on the listening socket.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = identity(&self.path);
        if now.is_some() && now == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Two daemons that find the same stale socket must not both replace it: one looks and binds at a time. Anybody who
/// may read the folder may lock it as well, so nobody is waited for for ever: the turn is a moment long.
pub(crate) fn wait_for_turn(folder: &File) {
    let deadline = Instant::now() + TURN;
    while folder.try_lock().is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The permissions are the socket's before it has a name, so that there is no moment in which others could
/// connect: the kernel's `unix_bind` takes them from the socket's inode.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    nix::sys::stat::fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    nix::sys::socket::listen(&socket, Backlog::new(128)?)?;
    Ok(UnixListener::from(socket))
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io = |attempt| {
        move |source| SocketError::Io {
            attempt,
            path: path.to_owned(),
            source,
        }
    };
    match Occupant::of(path).map_err(io("looking at"))? {
        Occupant::Nobody => Ok(()),
        Occupant::File => Err(SocketError::NotASocket(path.to_owned())),
        Occupant::Listener(pid) => Err(SocketError::InUse {
            path: path.to_owned(),
            pid,
        }),
        Occupant::Stale => {
            tracing::info!(socket = %path.display(), "replacing the socket of a daemon that is gone");
            std::fs::remove_file(path).map_err(io("removing the stale socket"))
        }
    }
}

/// Who has a path at which a socket is to be made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// It is free.
    Nobody,
    /// Something that is no socket.
    File,
    /// Somebody who listens: the process, if the kernel can tell.
    Listener(Option<i32>),
    /// A socket on which nobody listens any more.
    Stale,
}

impl Occupant {
    /// Looks, and if it is a socket, knocks.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nobody),
            Err(error) => return Err(error),
            Ok(meta) if !meta.file_type().is_socket() => return Ok(Self::File),
            Ok(_) => {}
        }
        match knock(path) {
            // The credentials of who called listen(2), unix(7); 0 if it is in a PID namespace that we can't see.
            Ok(stream) => Ok(Self::Listener(
                nix::sys::socket::getsockopt(&stream, sockopt::PeerCredentials)
                    .ok()
                    .map(|peer| peer.pid())
                    .filter(|pid| *pid != 0),
            )),
            // Its queue is full: somebody listens, and is busy.
            Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => Ok(Self::Listener(None)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Self::Stale),
            Err(error) => Err(error),
        }
    }
}

/// Connects without waiting for a place in a full queue, which might never become free.
fn knock(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Device and inode of what is at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn made_for_the_owner_alone_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o755);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn taken_over_only_from_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let first = Socket::bind(&path).unwrap();
        let refusal = Socket::bind(&path).unwrap_err().to_string();
        assert_eq!(
            refusal,
            format!(
                "another daemon (pid {}) listens on {}; stop it first, or give this one a socket of its own with --socket",
                std::process::id(),
                path.display()
            )
        );
        UnixStream::connect(&path).unwrap();
        // As after kill -9: the name is still there, nobody listens.
        let mut dead = first;
        dead.identity = None;
        drop(dead);
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
    }

    #[test]
    fn a_stranger_with_the_lock_does_not_keep_it_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let stranger = File::open(dir.path()).unwrap();
        stranger.lock().unwrap();
        let begun = Instant::now();
        Socket::bind(&dir.path().join("api.sock")).unwrap();
        assert!(begun.elapsed() >= TURN);
    }

    #[test]
    fn somebody_elses_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let socket = Socket::bind(&path).unwrap();
        std::fs::rename(&path, dir.path().join("old.sock")).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(theirs);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let below = path.join("api.sock");
        let message = Socket::bind(&below).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("making the folder {} failed: ", path.display())),
            "{message}"
        );
    }
}
