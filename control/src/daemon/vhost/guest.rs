//! A vhost-user port as the control thread has it, and the thread that serves its guests, one after the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clearway_config::{GuestMemoryLimit, Name, Port};
use clearway_io::{EventFd, GuestShare, RingFile, Umem};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::device::Device;
use super::features;
use super::link::{Link, Turn};
use super::pace::{self, Pace};
use super::records;
use super::socket;
use super::{Ask, Control};
use crate::api::types::{GuestState, GuestView};
use crate::api::{ACCEPT_AGAIN, Socket, cannot_accept};
use crate::daemon::Message;
use crate::daemon::open::OpenError;

/// After a connection that failed, the next one is waited for or tried after this time, and then twice as long …
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// … up to this.
const LAST_RETRY: Duration = Duration::from_secs(1);
/// A connection that lasted so long begins anew with the first.
const LASTED: Duration = Duration::from_secs(10);
/// Front-ends are turned away this often at most: each is a line in the log.
const BETWEEN_OTHERS: Duration = Duration::from_millis(50);

/// What is known of a port's guests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// A front-end is connected.
    pub(crate) connected: bool,
    /// The virtio features that were negotiated; none: not yet.
    pub(crate) features: Option<u64>,
    /// The protocol features that were negotiated.
    pub(crate) protocol: u64,
    /// NET_SET_MTU of this connection.
    pub(crate) mtu: Option<u16>,
    /// Connections so far.
    pub(crate) connections: u64,
    /// Front-ends that were turned away, as there was one.
    pub(crate) turned_away: u64,
    /// Why the last connection ended.
    pub(crate) last: Option<String>,
    /// Why there is no connection yet: with `client`, and where connections can't be accepted.
    pub(crate) waiting: Option<String>,
}

/// What the control thread and the port's thread both see.
pub(super) struct Shared {
    status: Mutex<Status>,
    /// Why the port's thread is to drop its connection.
    fault: Mutex<Option<String>>,
    mtu_limit: Mutex<Option<u16>>,
    memory_limit: Mutex<Option<GuestMemoryLimit>>,
    /// Where packed rings are.
    pub(super) records: Arc<RingFile>,
    /// What its guests may map.
    pub(super) share: GuestShare,
    /// Questions to the control thread that the front-end was not charged for yet.
    asked: AtomicU32,
    ended: std::sync::atomic::AtomicBool,
    wake: EventFd,
}

impl Shared {
    pub(super) fn new(mtu_limit: Option<u16>, records: Arc<RingFile>, wake: EventFd) -> Self {
        Self {
            status: Mutex::default(),
            fault: Mutex::default(),
            mtu_limit: Mutex::new(mtu_limit),
            memory_limit: Mutex::default(),
            records,
            share: GuestShare::new(),
            asked: AtomicU32::new(0),
            ended: false.into(),
            wake,
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }

    /// The largest MTU that a guest may ask for, where the configuration says one.
    pub(super) fn mtu_limit(&self) -> Option<u16> {
        *lock(&self.mtu_limit)
    }

    /// The most memory that the next guest may share, where the configuration says so.
    pub(super) fn memory_limit(&self) -> Option<GuestMemoryLimit> {
        *lock(&self.memory_limit)
    }

    fn is_waiting(&self) -> bool {
        lock(&self.status).waiting.is_some()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Nobody leaves these half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the guest's side is.
enum Place {
    Server(Socket),
    Client(PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Server(served) => served.path(),
            Self::Client(path) => path,
        }
    }
}

/// A vhost-user port, as the control thread has it. Its thread ends soon after it is dropped.
pub(crate) struct Guest {
    id: u64,
    place: Place,
    pairs: u16,
    umem: Umem,
    shared: Arc<Shared>,
}

impl Guest {
    /// Makes the socket, if it is ours to make; nobody is served yet.
    pub(crate) fn new(port: &Port, umem: Umem, state_dir: &Path) -> Result<Self, OpenError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(path) = port.socket.clone() else {
            return Err(OpenError::Fatal("a vhost-user port without a socket".to_owned()));
        };
        let wake = EventFd::new().map_err(|error| {
            OpenError::Fatal(format!("making an eventfd failed: {error}; raise `ulimit -n`"))
        })?;
        let records = records::open(&path, port.queue_pairs(), state_dir)?;
        let place = if port.client {
            Place::Client(path)
        } else {
            Place::Server(socket::listen(port, &path)?)
        };
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            place,
            pairs: port.queue_pairs(),
            umem,
            shared: Arc::new(Shared::new(port.mtu, records, wake)),
        })
    }

    /// Starts the thread that serves guests.
    pub(crate) fn start(&self, name: &Name, send: Sender<Message>) -> io::Result<()> {
        let place = match &self.place {
            Place::Server(served) => Wait::Listen(served.listener()?),
            Place::Client(_) => Wait::Connect,
        };
        let thread = Thread {
            control: Control {
                port: name.clone(),
                guest: self.id,
                send,
            },
            place,
            path: self.place.path().to_owned(),
            pairs: self.pairs,
            umem: self.umem.clone(),
            shared: self.shared.clone(),
            backoff: FIRST_RETRY,
            pace: Pace::new(Instant::now()),
            is_slowed: false,
            deaf_until: Instant::now(),
        };
        std::thread::Builder::new()
            .name("vhost-user".into())
            .spawn(move || thread.run())
            .map(drop)
    }

    /// Tells it from those that the port had before.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What is known of its guests.
    pub(crate) fn status(&self) -> Status {
        lock(&self.shared.status).clone()
    }

    /// The same for the API.
    pub(crate) fn view(&self, running: bool) -> GuestView {
        let status = self.status();
        let client = matches!(self.place, Place::Client(_));
        GuestView {
            socket: self.place.path().display().to_string(),
            client,
            state: match (status.connected, running) {
                (true, true) => GuestState::Running,
                (true, false) => GuestState::Connected,
                (false, _) if client => GuestState::Connecting,
                (false, _) => GuestState::Listening,
            },
            features: features::virtio(status.features.unwrap_or(0)),
            feature_bits: status.features.map(|bits| format!("{bits:#x}")),
            protocol_features: features::protocol(status.protocol),
            queue_pairs: self.pairs,
            connections: status.connections,
            turned_away: status.turned_away,
            last_end: status.last,
            waiting: status.waiting,
        }
    }

    /// The largest MTU that a guest may ask for from now on.
    pub(crate) fn limit_mtu(&self, limit: Option<u16>) {
        *lock(&self.shared.mtu_limit) = limit;
    }

    /// The most memory that guests may share from the next connection on.
    pub(crate) fn limit_memory(&self, limit: Option<GuestMemoryLimit>) {
        *lock(&self.shared.memory_limit) = limit;
    }

    /// A ring has failed: the connection ends.
    pub(crate) fn fault(&self, reason: String) {
        lock(&self.shared.fault).get_or_insert(reason);
        self.shared.wake.signal();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.wake.signal();
    }
}

/// How a port gets its connections.
enum Wait {
    Listen(UnixListener),
    Connect,
}

struct Thread {
    control: Control,
    place: Wait,
    path: PathBuf,
    pairs: u16,
    umem: Umem,
    shared: Arc<Shared>,
    backoff: Duration,
    /// What front-ends have had done, all of them together: who connects anew is not another one.
    pace: Pace,
    /// The log says that front-ends have to wait.
    is_slowed: bool,
    /// Nobody else is accepted before.
    deaf_until: Instant,
}

impl Thread {
    fn run(mut self) {
        let mut next = None;
        while !self.shared.has_ended() {
            let Some(stream) = next.take().or_else(|| self.connection()) else {
                continue;
            };
            let begun = Instant::now();
            let (result, waiting) = self.serve(stream);
            next = waiting;
            let port = &self.control.port;
            let failed = result.is_err();
            let reason = match result {
                _ if self.shared.has_ended() => return,
                Ok(()) => {
                    tracing::info!(%port, "the guest has disconnected");
                    "the guest's side closed the connection".to_owned()
                }
                Err(reason) => {
                    tracing::warn!(%port, reason, "the connection to the guest was closed");
                    reason
                }
            };
            self.shared.update(|status| status.last = Some(reason));
            // It came and went: two lines.
            self.spend(2 * pace::LINE);
            if !failed || begun.elapsed() >= LASTED {
                self.backoff = FIRST_RETRY;
            }
            if failed || (next.is_none() && matches!(self.place, Wait::Connect)) {
                self.pause();
            }
        }
    }

    /// Notes what a front-end has had done, and waits if that is too much. What is more urgent ends the waiting.
    fn spend(&mut self, what: u32) {
        let now = Instant::now();
        if self.pace.is_idle(now) {
            self.is_slowed = false;
        }
        let asked = self.shared.asked.swap(0, Ordering::Relaxed);
        self.pace.spend(now, what + asked * pace::MESSAGE);
        let Some(wait) = self.pace.wait(now) else { return };
        if !std::mem::replace(&mut self.is_slowed, true) {
            let port = &self.control.port;
            tracing::warn!(%port, "the guest's side wants more than {} messages a second, and is held to that; see what it does", pace::PER_SECOND);
        }
        self.wait(&[], Some(wait));
    }

    /// Waits a while, or until it is woken.
    fn pause(&mut self) {
        self.wait(&[], Some(self.backoff));
        self.backoff = (self.backoff * 2).min(LAST_RETRY);
    }

    /// Waits until one of these is readable, it is woken, or the time is over. Says which are readable.
    fn wait(&self, sockets: &[BorrowedFd<'_>], time: Option<Duration>) -> Vec<bool> {
        let mut fds: Vec<_> = sockets
            .iter()
            .copied()
            .chain([self.shared.wake.as_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let time = time.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut fds, time);
        let readable: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if readable.last() == Some(&true) {
            self.shared.wake.clear();
        }
        readable
    }

    /// The next connection; none: look whether it is to end.
    fn connection(&mut self) -> Option<UnixStream> {
        match &self.place {
            Wait::Listen(listener) => {
                let deaf = self.deaf_until.saturating_duration_since(Instant::now());
                if deaf.is_zero() {
                    self.wait(&[listener.as_fd()], None);
                    return self.accept();
                }
                self.wait(&[], Some(deaf));
                None
            }
            Wait::Connect => match socket::connect(&self.path) {
                Ok(stream) => Some(stream),
                Err(error) => {
                    let reason = cannot_connect(&self.path, &error);
                    self.shared.update(|status| status.waiting = Some(reason));
                    self.pause();
                    None
                }
            },
        }
    }

    /// Accepts who is waiting. If that fails, nobody is for a while.
    fn accept(&mut self) -> Option<UnixStream> {
        let Wait::Listen(served) = &self.place else {
            return None;
        };
        let accepted = served.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        match accepted {
            Ok(stream) => {
                if self.shared.is_waiting() {
                    tracing::info!(port = %self.control.port, "connections are accepted again");
                    self.shared.update(|status| status.waiting = None);
                }
                Some(stream)
            }
            Err(error) => {
                if let Some(reason) = cannot_accept(&self.path, &error) {
                    if !self.shared.is_waiting() {
                        tracing::error!(port = %self.control.port, "{reason}");
                    }
                    self.shared.update(|status| status.waiting = Some(reason));
                    self.deaf_until = Instant::now() + ACCEPT_AGAIN;
                }
                None
            }
        }
    }

    /// Serves a connection until it ends. One that came meanwhile is turned away, unless it came after the end.
    fn serve(&mut self, stream: UnixStream) -> (Result<(), String>, Option<UnixStream>) {
        // A fault of the connection before is not this one's.
        lock(&self.shared.fault).take();
        self.shared.update(|status| {
            *status = Status {
                connected: true,
                connections: status.connections + 1,
                turned_away: status.turned_away,
                last: status.last.take(),
                ..Status::default()
            };
        });
        tracing::info!(port = %self.control.port, "a guest has connected");
        let control = Control {
            port: self.control.port.clone(),
            guest: self.control.guest,
            send: self.control.send.clone(),
        };
        let shared = self.shared.clone();
        let ask = Box::new(move |ask: Ask| {
            shared.asked.fetch_add(1, Ordering::Relaxed);
            control.ask(ask)
        });
        let device = Device::new(ask, self.shared.clone(), self.umem.clone(), self.pairs);
        let (result, waiting) = match Link::new(stream, device) {
            Ok(mut link) => {
                let (result, waiting) = self.messages(&mut link);
                link.close();
                (result, waiting)
            }
            Err(error) => (
                Err(format!(
                    "duplicating its socket failed: {error}; raise `ulimit -n`"
                )),
                None,
            ),
        };
        self.shared.update(|status| {
            *status = Status {
                connections: status.connections,
                turned_away: status.turned_away,
                last: status.last.take(),
                ..Status::default()
            };
        });
        (result, waiting)
    }

    fn messages(&mut self, link: &mut Link) -> (Result<(), String>, Option<UnixStream>) {
        loop {
            if self.shared.has_ended() {
                return (Ok(()), None);
            }
            if let Some(reason) = lock(&self.shared.fault).take() {
                return (Err(reason), None);
            }
            match link.turn() {
                Ok(Turn::Handled) => self.spend(pace::MESSAGE),
                Ok(Turn::Refused) => self.spend(pace::LINE),
                Ok(Turn::Idle) => {
                    if let Some(other) = self.idle(link) {
                        return (Ok(()), Some(other));
                    }
                }
                Ok(Turn::Closed) => return (Ok(()), None),
                Err(reason) => return (Err(reason), None),
            }
        }
    }

    /// Waits for the next message. Who connects meanwhile is turned away, unless nobody is there any more.
    fn idle(&mut self, link: &Link) -> Option<UnixStream> {
        let deaf = self.deaf_until.saturating_duration_since(Instant::now());
        let listener = match &self.place {
            Wait::Listen(listener) if deaf.is_zero() => listener,
            place => {
                let time = matches!(place, Wait::Listen(_)).then_some(deaf);
                self.wait(&[link.stream().as_fd()], time);
                return None;
            }
        };
        let readable = self.wait(&[link.stream().as_fd(), listener.as_fd()], None);
        let other = readable[1].then(|| self.accept()).flatten()?;
        if link.is_closed() {
            return Some(other);
        }
        self.deaf_until = Instant::now() + BETWEEN_OTHERS;
        self.shared.update(|status| status.turned_away += 1);
        tracing::warn!(port = %self.control.port, "turned a second guest away: one is connected");
        None
    }
}

fn cannot_connect(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("there is no {path} yet; waiting for the guest's side to make it"),
        io::ErrorKind::ConnectionRefused => format!("nobody listens on {path}; waiting for the guest's side"),
        io::ErrorKind::WouldBlock => {
            format!("{path} is busy: the guest's side has not taken earlier connections")
        }
        _ => format!("connecting to {path} failed: {error}"),
    }
}
