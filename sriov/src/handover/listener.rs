//! A socket at a path, and the thread that serves it.
//!
//! ```text
//!   loop   drop who is idle → poll(stop, socket, clients) → accept one → one packet of each client that has one
//! ```
//!
//! Guarantees: one turn takes at most one packet of each client, and none while the [`Limits`]' rate is used up: the
//! clients then wait in the kernel. [`Handover`]'s drop removes the socket, if it is still ours, and closes the clients.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, socket_with};

use super::connection::{Connection, Next};
use super::peer::{Peer, PeerError};
use super::{Authorize, Counters, Counts, Limits};

/// How long a thread may take to end: longer takes only one that waits for what a client has in its hands.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a client is recognised; always [`Peer::of`] but in tests.
pub(super) type Identify = fn(&OwnedFd) -> Result<Peer, PeerError>;

/// Why a socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something else has the path.
    #[error("{} is not a socket; move it away", path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// Somebody serves it.
    #[error("{} is served by another process; stop it, or use another path", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{attempt} {}: {source}", path.display())]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// Where.
        path: PathBuf,
        /// Its refusal.
        source: io::Error,
    },
}

/// A served socket. It ends when this is dropped.
#[derive(Debug)]
pub struct Handover {
    path: PathBuf,
    /// Device and inode, so that only our own socket is removed.
    identity: Option<(u64, u64)>,
    stop: Arc<OwnedFd>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Handover {
    /// Serves a socket at `path`, for all users: clients are known by their cgroup, not by their user. The folder
    /// has to exist; a socket that nobody serves is replaced.
    pub fn listen(path: &Path, authorize: Arc<dyn Authorize>, limits: Limits) -> Result<Self, ListenError> {
        Self::listen_with(path, authorize, limits, |socket| Peer::of(socket))
    }

    pub(super) fn listen_with(
        path: &Path,
        authorize: Arc<dyn Authorize>,
        limits: Limits,
        identify: Identify,
    ) -> Result<Self, ListenError> {
        let failed = |attempt| {
            move |source: io::Error| ListenError::System {
                attempt,
                path: path.to_owned(),
                source,
            }
        };
        remove_stale(path)?;
        let socket = bind(path).map_err(|errno| failed("listening on")(errno.into()))?;
        let identity = identity(path);
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("making a stop signal for")(errno.into()))?;
        let mut handover = Self {
            path: path.to_owned(),
            identity,
            stop: Arc::new(stop),
            counters: Arc::default(),
            thread: None,
        };
        let server = Server {
            socket,
            stop: Arc::clone(&handover.stop),
            authorize,
            limits,
            identify,
            counters: Arc::clone(&handover.counters),
            connections: Vec::new(),
            bucket: Bucket::new(&limits, Instant::now()),
        };
        let thread = std::thread::Builder::new()
            .name("handover".to_owned())
            .stack_size(256 << 10)
            .spawn(move || server.run())
            .map_err(failed("starting a thread for"))?;
        handover.thread = Some(thread);
        Ok(handover)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What its clients did.
    pub fn counts(&self) -> Counts {
        self.counters.counts()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let deadline = Instant::now() + FAREWELL;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!(socket = %self.path.display(), "a client holds up the end of its AF_XDP hand-over");
        }
    }
}

/// What the thread has.
struct Server {
    socket: OwnedFd,
    stop: Arc<OwnedFd>,
    authorize: Arc<dyn Authorize>,
    limits: Limits,
    identify: Identify,
    counters: Arc<Counters>,
    connections: Vec<Connection>,
    bucket: Bucket,
}

/// What there is to do in a turn.
struct Ready {
    stop: bool,
    accept: bool,
    /// Of each connection, in their order.
    serve: Vec<bool>,
}

impl Server {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            self.expire(now);
            let ready = match self.wait(now) {
                Ok(ready) => ready,
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(error) => {
                    tracing::error!(%error, "waiting for AF_XDP clients; the socket is served no longer");
                    return;
                }
            };
            if ready.stop {
                return;
            }
            let now = Instant::now();
            self.serve(&ready.serve, now);
            if ready.accept {
                self.accept(now);
            }
        }
    }

    /// Closes who was silent for too long.
    fn expire(&mut self, now: Instant) {
        let before = self.connections.len();
        let idle = self.limits.idle;
        self.connections
            .retain(|connection| now.duration_since(connection.heard) < idle);
        for _ in self.connections.len()..before {
            self.counters.dropped.add();
        }
    }

    fn wait(&mut self, now: Instant) -> rustix::io::Result<Ready> {
        let pause = self.bucket.pause(now);
        let idle = self.connections.iter().map(|connection| connection.heard).min();
        let idle = idle.map(|heard| (heard + self.limits.idle).saturating_duration_since(now));
        let timeout = [pause, idle].into_iter().flatten().min().map(up_to_a_millisecond);
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        if pause.is_none() {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
            let clients = self.connections.iter().map(Connection::fd);
            fds.extend(clients.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        poll(&mut fds, timeout.as_ref())?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(Ready {
            stop: ready.next().unwrap_or(false),
            accept: ready.next().unwrap_or(false),
            serve: ready.collect(),
        })
    }

    /// One packet of each client that has one.
    fn serve(&mut self, ready: &[bool], now: Instant) {
        let Self {
            authorize,
            limits,
            counters,
            connections,
            bucket,
            ..
        } = self;
        let mut ready = ready.iter();
        connections.retain_mut(|connection| {
            if !ready.next().is_some_and(|&ready| ready) || !bucket.take(now) {
                return true;
            }
            connection.serve(&**authorize, limits, counters, now) == Next::Stay
        });
    }

    fn accept(&mut self, now: Instant) {
        if !self.bucket.take(now) {
            return;
        }
        let socket = match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(error) => {
                // Out of descriptors or memory: it would be the same at once.
                tracing::warn!(%error, "accepting an AF_XDP client");
                self.bucket.empty();
                return;
            }
        };
        self.counters.accepted.add();
        let peer = (self.identify)(&socket);
        if peer.is_err() {
            self.counters.unknown.add();
        }
        if self.connections.len() >= self.limits.connections {
            let silent = (0..self.connections.len()).min_by_key(|&at| self.connections[at].heard);
            if let Some(at) = silent {
                self.connections.swap_remove(at);
                self.counters.dropped.add();
            }
        }
        self.connections.push(Connection::new(socket, peer, now));
    }
}

/// poll's timeout: rounded up, so that what was waited for has come.
fn up_to_a_millisecond(time: Duration) -> Timespec {
    let time = time + Duration::from_millis(1);
    Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// The rate of all clients of a socket together: a token for each connection and each request.
struct Bucket {
    tokens: f64,
    most: f64,
    per_second: f64,
    filled: Instant,
}

impl Bucket {
    fn new(limits: &Limits, now: Instant) -> Self {
        let most = f64::from(limits.burst.max(1));
        Self {
            tokens: most,
            most,
            per_second: f64::from(limits.per_second.max(1)),
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * self.per_second).min(self.most);
        self.filled = now;
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    fn empty(&mut self) {
        self.tokens = 0.0;
    }

    /// How long until there is a token; `None` while there is one.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        (self.tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - self.tokens) / self.per_second))
    }
}

fn bind(path: &Path) -> rustix::io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = unconnected(SocketFlags::NONBLOCK)?;
    rustix::net::bind(&socket, &address)?;
    let made = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        .and_then(|()| rustix::net::listen(socket.as_fd(), 64));
    if let Err(errno) = made {
        let _ = std::fs::remove_file(path);
        return Err(errno);
    }
    Ok(socket)
}

fn unconnected(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | flags,
        None,
    )
}

/// Removes the socket of a server that is gone.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let path_buf = || path.to_owned();
    let system = |attempt, source| ListenError::System {
        attempt,
        path: path_buf(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(system("looking at", source)),
        Ok(data) if !data.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path_buf() });
        }
        Ok(_) => {}
    }
    let answer = SocketAddrUnix::new(path)
        .and_then(|address| rustix::net::connect(unconnected(SocketFlags::NONBLOCK)?, &address));
    match answer {
        Err(Errno::CONNREFUSED) => match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(system("removing the stale", source))
            }
            _ => Ok(()),
        },
        // Taken, full for now, or of another kind: somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(ListenError::InUse { path: path_buf() }),
        Err(errno) => Err(system("looking who serves", errno.into())),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let data = std::fs::symlink_metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}
