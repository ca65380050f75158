//! The thread that answers: one tokio runtime on one thread, so that the API never has more than one core.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::accept::Patient;
use super::attachments::Attachments;
use super::routes;
use super::socket::{Socket, SocketError};
use crate::handle::{Handle, Request};

/// How long answers that are under way may take once the daemon stops.
const GRACE: Duration = Duration::from_secs(1);

/// The API's socket, taken but not answering yet: clients that connect wait.
#[derive(Debug)]
pub(crate) struct Server {
    socket: Socket,
}

impl Server {
    /// Takes the socket. Do it before anything on the host is changed: it fails if another daemon listens there.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        Socket::bind(path).map(|socket| Self { socket })
    }

    /// Answers from now on, with what the control thread behind `handle` says. `file` is where the configuration is from.
    pub(crate) fn start(
        self,
        handle: Handle,
        attachments: Attachments,
        file: Option<PathBuf>,
    ) -> Result<Running, SocketError> {
        let failed = |source| SocketError::Thread {
            path: self.socket.path().to_owned(),
            source,
        };
        let listener = self.socket.listener().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let router = routes::router(handle.clone(), attachments, file);
        let path = self.socket.path().to_owned();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("api".into())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(listener, path, handle, router, stopped)) {
                    tracing::error!(%error, "the API stopped answering; restart the daemon to get it back");
                }
            })
            .map_err(failed)?;
        tracing::info!(socket = %self.socket.path().display(), "the API answers");
        Ok(Running {
            stop: Some(stop),
            thread: Some(thread),
            _socket: self.socket,
        })
    }
}

/// The API while it answers. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Goes last, and removes its path.
    _socket: Socket,
}

impl Running {
    /// Tells systemd that the daemon stops, takes no more requests, waits a moment for answers that are under way,
    /// removes the socket.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
        // Not sent, if the thread is gone already.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    handle: Handle,
    router: axum::Router,
    stopped: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = Patient::new(tokio::net::UnixListener::from_std(listener)?, path);
    if let Some(period) = watchdog_period() {
        tokio::spawn(feed_watchdog(period, handle.clone()));
    }
    let stop = Arc::new(tokio::sync::Notify::new());
    let told = stop.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { told.notified().await });
    tokio::select! {
        result = server.into_future() => result,
        () = async {
            let _ = stopped.await;
            stop.notify_one();
            tokio::time::sleep(GRACE).await;
        } => Ok(()),
    }
}

/// How often systemd wants to hear from us, if it does.
fn watchdog_period() -> Option<Duration> {
    let mut usec = 0;
    sd_notify::watchdog_enabled(false, &mut usec).then(|| Duration::from_micros(usec) / 2)
}

/// Tells systemd that the daemon lives, as long as both this thread and the control thread do.
async fn feed_watchdog(period: Duration, handle: Handle) {
    let mut tick = tokio::time::interval(period);
    loop {
        tick.tick().await;
        if handle.ask(Request::Health).await.is_ok() {
            let _ = sd_notify::notify(false, &[NotifyState::Watchdog]);
        }
    }
}
