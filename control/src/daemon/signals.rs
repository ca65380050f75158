//! What reaches the control thread from outside: signals, and the news of netlink.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::{DaemonError, Message};

/// Stops listening when it is dropped.
pub(super) struct Listening(Handle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Has SIGTERM, SIGINT and SIGHUP end the daemon in an orderly way.
pub(super) fn listen(to: Sender<Message>) -> Result<Listening, DaemonError> {
    let failed = |source| DaemonError::Thread {
        attempt: "listening for signals",
        source,
    };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let handle = signals.handle();
    let listen = move || {
        for signal in signals.forever() {
            let name = match signal {
                SIGTERM => "SIGTERM",
                SIGINT => "SIGINT",
                _ => "SIGHUP",
            };
            if to.send(Message::Stop(name)).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .map_err(failed)?;
    Ok(Listening(handle))
}

/// Wakes the control thread when one of its netlink sockets is readable. The sockets stay the control thread's: it
/// reads them, and then says [`Poller::done`].
pub(super) struct Poller(SyncSender<()>);

impl Poller {
    pub(super) fn start(watched: Vec<OwnedFd>, to: Sender<Message>) -> Result<Self, DaemonError> {
        let (done, wait) = sync_channel(1);
        std::thread::Builder::new()
            .name("netlink".into())
            .spawn(move || run(&watched, &to, &wait))
            .map_err(|source| DaemonError::Thread {
                attempt: "starting the thread that waits for netlink",
                source,
            })?;
        Ok(Self(done))
    }

    /// The sockets were read.
    pub(super) fn done(&self) {
        // It is gone, or has been told already: either is fine.
        let _ = self.0.try_send(());
    }
}

fn run(watched: &[OwnedFd], to: &Sender<Message>, wait: &Receiver<()>) {
    loop {
        let mut fds: Vec<_> = watched
            .iter()
            .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
            .collect();
        // An interrupted wait is as good as nothing there.
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if to.send(Message::Host).is_err() || wait.recv().is_err() {
            return;
        }
    }
}
