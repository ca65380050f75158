//! The unix socket of a vhost-user port: made with the rights that are configured, and taken over only from the dead;
//! or reached, where the guest's side has made it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use clearway_config::{Api, Port};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::api::{Occupant, Socket, wait_for_turn};
use crate::daemon::open::OpenError;
use crate::host::{accounts, label};

/// Front-ends that may wait while one is turned away.
const BACKLOG: i32 = 16;

/// How a path is written so that it fits into the address of a socket: paths of more than 107 bytes are reached through
/// their folder, for which the kernel has a short name.
pub(super) struct Reach {
    path: PathBuf,
    /// Open as long as `path` is used.
    _folder: Option<OwnedFd>,
}

impl Reach {
    /// The way to a socket.
    pub(super) fn to(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        if path.as_os_str().as_bytes().len() <= Api::MAX_SOCKET {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = open(
            folder,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            path: Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name),
            _folder: Some(folder),
        })
    }

    fn address(&self) -> io::Result<UnixAddr> {
        Ok(UnixAddr::new(&self.path)?)
    }
}

/// Connects to a socket on which the guest's side listens; never waits.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let reach = Reach::to(path)?;
    let socket = stream(SockFlag::SOCK_NONBLOCK)?;
    // EAGAIN: its queue is full.
    nix::sys::socket::connect(socket.as_raw_fd(), &reach.address()?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn stream(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | flags;
    Ok(nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        flags,
        None,
    )?)
}

/// Listens at the port's path. There is no moment in which somebody could connect whom the configuration does not
/// let: who finds the name before the rights are set finds nobody listening.
pub(crate) fn listen(port: &Port, path: &Path) -> Result<Socket, OpenError> {
    let failed = |attempt: &'static str| {
        let shown = path.display().to_string();
        move |error: io::Error| OpenError::Fatal(format!("{attempt} {shown} failed: {error}"))
    };
    let rights = Rights::of(port)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let turn = match File::open(folder) {
        Ok(turn) => turn,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Wait(format!(
                "the folder {} of its socket does not exist; waiting for it",
                folder.display()
            )));
        }
        Err(error) => return Err(failed("opening the folder of the socket")(error)),
    };
    // Two daemons that find the same stale socket must not both replace it.
    wait_for_turn(&turn);
    let reach = Reach::to(path).map_err(failed("opening the folder of the socket"))?;
    make_way(&reach, path)?;
    let socket = stream(SockFlag::empty()).map_err(failed("making the socket"))?;
    reach
        .address()
        .and_then(|address| Ok(nix::sys::socket::bind(socket.as_raw_fd(), &address)?))
        .map_err(failed("making the socket"))?;
    let served = Socket::own(path, &reach.path, UnixListener::from(socket));
    rights
        .give(&reach.path)
        .map_err(failed("setting the rights of"))?;
    let listening =
        Backlog::new(BACKLOG).and_then(|backlog| nix::sys::socket::listen(served.as_listener(), backlog));
    listening
        .map_err(io::Error::from)
        .map_err(failed("listening on"))?;
    served
        .as_listener()
        .set_nonblocking(true)
        .map_err(failed("listening on"))?;
    Ok(served)
}

/// Removes a socket that nobody listens on.
fn make_way(reach: &Reach, path: &Path) -> Result<(), OpenError> {
    let shown = path.display();
    let refuse = |reason: String| Err(OpenError::Fatal(reason));
    match Occupant::of(&reach.path) {
        Ok(Occupant::Nobody) => Ok(()),
        Ok(Occupant::Stale) => {
            tracing::info!(socket = %shown, "replacing a socket that nobody listens on");
            std::fs::remove_file(path)
                .or_else(|error| refuse(format!("removing the stale socket {shown} failed: {error}")))
        }
        Ok(Occupant::File) => refuse(format!(
            "{shown} is there and is no socket; remove it, or name another path"
        )),
        Ok(Occupant::Listener(pid)) => {
            let who = pid.map_or_else(|| "somebody".to_owned(), |pid| format!("process {pid}"));
            refuse(format!(
                "{who} listens on {shown}; end that first, name another path, or write `client: true` if it is the guest's side"
            ))
        }
        Err(error) => refuse(format!("looking at {shown} failed: {error}")),
    }
}

/// Removes what a daemon that was killed has left at this path: a socket that nobody listens on. Anything else is
/// somebody's, and stays; nothing is fine.
pub(crate) fn remove_stale(path: &Path) -> io::Result<()> {
    let remove = || -> io::Result<()> {
        let turn = File::open(path.parent().unwrap_or(Path::new("/")))?;
        // One that is just being made looks the same.
        wait_for_turn(&turn);
        match Occupant::of(&Reach::to(path)?.path)? {
            Occupant::Stale => std::fs::remove_file(path),
            Occupant::Nobody | Occupant::File | Occupant::Listener(_) => Ok(()),
        }
    };
    match remove() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        removed => removed,
    }
}

/// Whom a socket belongs to, who may connect, and its SELinux label.
struct Rights {
    owner: Option<Uid>,
    group: Option<Gid>,
    mode: Mode,
    label: Option<String>,
}

impl Rights {
    fn of(port: &Port) -> Result<Self, OpenError> {
        let none = |what: &str, name: &str| {
            OpenError::Fatal(format!(
                "this host has no {what} `{name}`; create it, or name another one"
            ))
        };
        let owner = port
            .owner
            .as_deref()
            .map(|name| accounts::user(name).ok_or_else(|| none("user", name)));
        let group = port
            .group
            .as_deref()
            .map(|name| accounts::group(name).ok_or_else(|| none("group", name)));
        Ok(Self {
            owner: owner.transpose()?,
            group: group.transpose()?,
            mode: Mode::from_bits_truncate(port.permissions.unwrap_or_default().0.into()),
            label: port.selinux_label.clone(),
        })
    }

    /// Sets them on the very socket that was made, whatever whoever else may write in its folder puts in its place.
    fn give(&self, path: &Path) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let socket = open(path, flags, Mode::empty())?;
        let kind = SFlag::from_bits_truncate(fstat(&socket)?.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFSOCK {
            return Err(io::Error::other("somebody put something else in its place"));
        }
        // First label and mode: a socket of another's takes CAP_FOWNER.
        if let Some(label) = &self.label {
            label::give(&socket, label)?;
        }
        let same = format!("/proc/self/fd/{}", socket.as_raw_fd());
        fchmodat(AT_FDCWD, same.as_str(), self.mode, FchmodatFlags::FollowSymlink)?;
        if self.owner.is_some() || self.group.is_some() {
            fchownat(&socket, "", self.owner, self.group, AtFlags::AT_EMPTY_PATH)?;
        }
        Ok(())
    }
}
