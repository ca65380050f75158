//! The kubelet: whether it is there, whether it is another one than before, and the registration at it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use rustix::fs::inotify;
use tokio::net::unix::pipe;
use tonic::transport::{Channel, Endpoint};

use super::api::v1beta1::registration_client::RegistrationClient;
use super::api::v1beta1::{KUBELET_SOCKET, RegisterRequest, VERSION};
use super::pool::Pool;
use super::server::{Resource, Serving};

/// How long one registration may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run of the kubelet: it makes its socket anew each time. The time is there because inode numbers come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl Run {
    /// The one that has its socket in this folder.
    pub(super) fn now(folder: &Path) -> Option<Self> {
        let socket = fs::metadata(folder.join(KUBELET_SOCKET)).ok()?;
        Some(Self {
            device: socket.dev(),
            inode: socket.ino(),
            made: (socket.mtime(), socket.mtime_nsec()),
        })
    }
}

/// Why a resource is not registered.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    #[error("{0} cannot be reached: {1}")]
    Unreachable(PathBuf, tonic::transport::Error),
    #[error("the kubelet refused it: {0}")]
    Refused(String),
    #[error("the kubelet did not answer in {PATIENCE:?}")]
    Silent,
}

/// A connection to a unix socket.
pub(super) async fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    Endpoint::try_from(format!("unix://{}", socket.display()))?
        .connect()
        .await
}

/// Registers a resource, whose server runs already: the kubelet calls back.
pub(super) async fn register(folder: &Path, pool: &Pool) -> Result<(), RegisterError> {
    let socket = folder.join(KUBELET_SOCKET);
    let request = RegisterRequest {
        version: VERSION.into(),
        endpoint: Serving::name(pool),
        resource_name: pool.resource(),
        options: Some(Resource::options()),
    };
    let asked = async {
        let channel = channel(&socket).await;
        let channel = channel.map_err(|error| RegisterError::Unreachable(socket.clone(), error))?;
        let answer = RegistrationClient::new(channel).register(request).await;
        answer.map_err(|status| RegisterError::Refused(format!("{} ({:?})", status.message(), status.code())))
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(RegisterError::Silent),
    }
}

/// Wakes when files come to a folder or go from it. What they are is for the caller to look at.
pub(super) struct Watch {
    folder: PathBuf,
    /// No pipe, but read like one: the safe way to wait for a descriptor of any kind.
    inotify: pipe::Receiver,
    /// The folder that is watched: another one may have come in its place.
    watched: Option<(u64, u64)>,
}

impl Watch {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let mut watch = Self {
            folder: folder.into(),
            inotify: pipe::Receiver::from_owned_fd_unchecked(inotify::init(flags)?)?,
            watched: None,
        };
        watch.look();
        Ok(watch)
    }

    /// Watches the folder, if there is one (again).
    pub(super) fn look(&mut self) {
        let now = fs::metadata(&self.folder)
            .ok()
            .map(|folder| (folder.dev(), folder.ino()));
        if now == self.watched {
            return;
        }
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF
            | inotify::WatchFlags::ONLYDIR;
        let added = now.is_some() && inotify::add_watch(&self.inotify, &self.folder, flags).is_ok();
        self.watched = now.filter(|_| added);
    }

    /// Returns when something has changed.
    pub(super) async fn changed(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            if self.inotify.readable().await.is_err() {
                return std::future::pending().await;
            }
            let mut read = false;
            while self.inotify.try_read(&mut bytes).is_ok_and(|length| length > 0) {
                read = true;
            }
            if read {
                return;
            }
        }
    }
}
