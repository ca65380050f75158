//! What changes behind our back: pods change their interfaces, operators delete veths, interrupted removals wait.
//!
//! Every attachment is looked at once in [`ROUND`]; what is not as it should be is put right and logged, and what can't
//! be stands in `get attachments`.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use clearway_config::attach::AttachmentId;

use super::known::Known;
use super::manager::Manager;

/// All attachments are looked at once in this time …
pub(crate) const ROUND: Duration = Duration::from_secs(10);
/// … some of them each time.
const STEP: Duration = Duration::from_millis(500);

/// The thread that looks. Dropping it ends it.
pub(crate) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks from now on.
    pub(crate) fn start(manager: Arc<Manager>) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new()
            .name("attachments".into())
            .spawn(move || {
                let mut round = Vec::new();
                while stopped.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                    step(&manager, &mut round);
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic there has been reported; nothing is left to do here.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Looks at the next few of a round, and begins another one when it is over.
fn step(manager: &Manager, round: &mut Vec<AttachmentId>) {
    manager.finish();
    manager.flush();
    let all = manager.ids(Known::is_ready);
    if round.is_empty() {
        round.clone_from(&all);
    }
    let steps = (ROUND.as_millis() / STEP.as_millis()) as usize;
    let some = all.len().div_ceil(steps).min(round.len());
    for id in round.drain(..some).collect::<Vec<_>>() {
        let found = manager.repair(&id);
        if !found.is_empty() {
            tracing::warn!(attachment = %id, found = found.join("; "), "was not as it should be");
        }
    }
}
