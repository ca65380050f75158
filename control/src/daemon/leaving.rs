//! Ports of pods that are gone, until their interfaces are.
//!
//! ```text
//!   detach ─► out of the tables, queues out of the workers ─► Leaving ─► interface deleted ─► closed on a thread ─► place given back
//!             (the answer)                                               (LinkEvent::Gone)    (some 10 ms each)    (Message::Closed)
//! ```
//!
//! The kernel waits for a grace period of RCU whenever a program leaves an interface, and a socket its queue: after the
//! interface is gone that costs less, and nobody has to wait for it. Until then the program stays, so that nothing that
//! a pod still sends reaches the host.

use clearway_config::Name;
use clearway_io::AnyPort;

use super::Message;
use super::control::Control;
use super::groups::Place;
use super::open::Doomed;
use super::ports::PortState;
use crate::host::links::IfIndex;

/// A port that nobody polls any more.
pub(super) struct Leaving {
    interface: IfIndex,
    doomed: Doomed,
    sockets: Vec<AnyPort>,
    place: Option<Place>,
}

/// Sockets that were closed: where they had their memory.
pub(super) struct Closed {
    place: Option<Place>,
    queues: usize,
}

impl Control {
    /// Has the workers let go of a port that the tables do not have any more, and whose interface is about to be deleted.
    pub(super) fn let_go(&mut self, name: &Name) {
        let Some(entry) = self.ports.remove(name) else {
            return;
        };
        let PortState::Open(mut open) = entry.state else {
            return;
        };
        let mut sockets: Vec<AnyPort> = open.pending.drain(..).map(|(_, io)| io).collect();
        for queue in &open.queues {
            match self.engine.take_queue(entry.id, *queue) {
                Ok(io) => sockets.extend(io.map(|io| *io)),
                Err(error) => tracing::error!(port = %name, queue, %error, "the queue was not given back"),
            }
        }
        tracing::info!(port = %name, "removed");
        match open.wire.take() {
            Some(wire) => self.leaving.push(Leaving {
                interface: wire.state.ifindex,
                doomed: wire.doom(),
                sockets,
                place: open.place,
            }),
            None => {
                drop(sockets);
                self.opener().close(*open);
            }
        }
    }

    /// Closes what was left of an interface that is gone.
    pub(super) fn close_left(&mut self, interface: IfIndex) {
        while let Some(at) = self.leaving.iter().position(|left| left.interface == interface) {
            let Leaving {
                doomed,
                sockets,
                place,
                ..
            } = self.leaving.swap_remove(at);
            let queues = sockets.len();
            let inbox = self.inbox.clone();
            let close = move || {
                drop(doomed);
                drop(sockets);
                if let Some(inbox) = inbox {
                    // The daemon may have ended meanwhile.
                    let _ = inbox.send(Message::Closed(Closed { place, queues }));
                }
            };
            if let Err(error) = std::thread::Builder::new()
                .name("closing".to_owned())
                .spawn(close)
            {
                // What it was to close was closed right here.
                tracing::debug!(%error, "no thread to close sockets");
                self.closed(&Closed { place, queues });
            }
        }
    }

    /// Their memory can be given to others.
    pub(super) fn closed(&mut self, closed: &Closed) {
        if let Some(place) = &closed.place {
            self.opener().leave(place, closed.queues);
        }
    }

    /// Looks for those whose end was not heard of: news of interfaces may be lost when there are too many.
    pub(super) fn look_after_leaving(&mut self) {
        let host = &mut self.host;
        let gone: Vec<_> = self
            .leaving
            .iter()
            .map(|left| left.interface)
            .filter(|interface| matches!(host.link_by_index(*interface), Ok(None)))
            .collect();
        for interface in gone {
            self.close_left(interface);
        }
    }
}
