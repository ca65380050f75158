//! The guests: the control side of vhost-user ports (QEMU's docs/interop/vhost-user.rst).
//!
//! ```text
//!   front-end ── unix socket ──► thread of the port ── Ask ──► control thread ──► Engine::add_queue, take_queue
//!   (QEMU, DPDK)                 link · device         ◄── Answer ──┘
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `socket` | the unix socket: made with its rights, or reached |
//! | `guest` | a port's thread: waits for a front-end, serves it, waits for the next |
//! | `link` | one connection: whole messages only, and those that crate `vhost` does not know |
//! | `pace` | how much work a port's front-ends may give us |
//! | `features` | names of features |
//! | `files` | descriptors that come with messages: what they must be |
//! | `records` | files that say where packed rings are |
//! | `device`, `vring` | what the messages make of the rings; what they said of one |
//!
//! Guarantees: a front-end that sends nonsense, stalls or leaves at any moment harms its own connection alone, and can
//! connect again. It gets a reply to a change only after no worker uses what was before. The guest's memory is mapped and
//! unmapped on the port's thread, as long as a ring needs it.

mod device;
mod features;
mod files;
#[cfg(test)]
mod fuzz;
mod guest;
mod link;
mod pace;
mod records;
mod socket;
#[cfg(test)]
mod tests;
mod vring;

pub(super) use guest::Guest;
pub(super) use records::{remove as remove_record, remove_old as remove_old_records};
pub(crate) use socket::remove_stale as remove_stale_socket;

use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::Duration;

use clearway_config::Name;
use clearway_io::VhostPort;

use super::Message;

/// The control thread has answered by then, or never will.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a port's thread wants of the control thread.
pub(super) enum Ask {
    /// Have a worker poll a queue pair.
    Add(u16, Box<VhostPort>),
    /// Take a queue pair from its worker, if one has it.
    Take(u16),
    /// Something that the tables are made of is different.
    Changed,
    /// The guest has gone.
    Gone,
}

/// What the control thread says.
pub(super) enum Answer {
    /// It is done.
    Done,
    /// The queue pair, if a worker had it.
    Taken(Option<Box<VhostPort>>),
}

/// A question on its way.
pub(super) struct Question {
    pub(super) port: Name,
    /// Which of the guests that the port had: one that was closed has nothing to say any more.
    pub(super) guest: u64,
    pub(super) ask: Ask,
    pub(super) reply: SyncSender<Result<Answer, String>>,
}

/// The control thread, as a port's thread sees it.
struct Control {
    port: Name,
    guest: u64,
    send: Sender<Message>,
}

impl Control {
    fn ask(&self, ask: Ask) -> Result<Answer, String> {
        let (reply, answer) = sync_channel(1);
        let question = Question {
            port: self.port.clone(),
            guest: self.guest,
            ask,
            reply,
        };
        let gone = || "the daemon is ending".to_owned();
        self.send.send(Message::Guest(question)).map_err(|_| gone())?;
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(gone()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(format!(
                "the control thread did not answer within {} s; its log says what it is doing",
                PATIENCE.as_secs()
            )),
        }
    }
}
