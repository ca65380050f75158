//! Connections that can't be accepted: said once, with what to do, and tried again by and by. As long as a connection
//! waits, poll(2) says at once that one is there; who asks again at once has a core to himself.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

/// Accepting is tried again after this time.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

/// Why nobody is accepted at a socket, and what to do; none: nothing is wrong with us, only that one is gone.
pub(crate) fn cannot_accept(socket: &Path, error: &io::Error) -> Option<String> {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    if let ConnectionAborted | ConnectionReset | Interrupted | WouldBlock = error.kind() {
        return None;
    }
    let advice = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => format!(
            "; raise the daemon's limit of open files: `prlimit --pid {} --nofile=NUMBER` now, LimitNOFILE= in its systemd unit or `ulimit -n` for good",
            std::process::id()
        ),
        Some(Errno::ENFILE) => "; the host has no more open files: raise `sysctl fs.file-max`".to_owned(),
        _ => String::new(),
    };
    Some(format!(
        "accepting a connection on {} failed: {error}{advice}; it is tried again every second",
        socket.display()
    ))
}

/// A listener for axum.
pub(super) struct Patient {
    listener: UnixListener,
    path: PathBuf,
    is_failing: bool,
}

impl Patient {
    pub(super) fn new(listener: UnixListener, path: PathBuf) -> Self {
        Self {
            listener,
            path,
            is_failing: false,
        }
    }
}

impl axum::serve::Listener for Patient {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => {
                    self.is_failing = false;
                    return accepted;
                }
                Err(error) => error,
            };
            let Some(reason) = cannot_accept(&self.path, &error) else {
                continue;
            };
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::error!("{reason}");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
