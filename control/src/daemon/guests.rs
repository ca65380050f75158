//! What the threads of vhost-user ports ask of the control thread: queue pairs come and go with the rings of a guest.

use clearway_config::Name;
use clearway_engine::{PortId, QueueEvent};
use clearway_io::AnyPort;

use super::control::Control;
use super::ports::{Entry, PortState};
use super::vhost::{Answer, Ask, Guest, Question};

impl Control {
    pub(super) fn guest_asks(&mut self, question: Question) {
        let Question {
            port,
            guest,
            ask,
            reply,
        } = question;
        let is_there = self.guest(&port).is_some_and(|there| there.id() == guest);
        let answer = if is_there {
            self.answer_guest(&port, ask)
        } else {
            Err("the port was closed".to_owned())
        };
        // Who asked may have given up.
        let _ = reply.send(answer);
    }

    pub(super) fn guest(&self, port: &Name) -> Option<&Guest> {
        self.ports.get(port)?.opened()?.guest.as_ref()
    }

    fn answer_guest(&mut self, name: &Name, ask: Ask) -> Result<Answer, String> {
        match ask {
            Ask::Add(pair, io) => {
                self.add_pair(name, pair, AnyPort::Vhost(io))?;
                Ok(Answer::Done)
            }
            Ask::Take(pair) => match self.take_pair(name, pair)? {
                Some(AnyPort::Vhost(io)) => Ok(Answer::Taken(Some(io))),
                _ => Ok(Answer::Taken(None)),
            },
            Ask::Changed => {
                self.republish();
                Ok(Answer::Done)
            }
            Ask::Gone => {
                self.flush_port(name);
                self.republish();
                Ok(Answer::Done)
            }
        }
    }

    fn add_pair(&mut self, name: &Name, pair: u16, io: AnyPort) -> Result<(), String> {
        let Some(port) = self.spec.ports.get(name).cloned() else {
            return Err("the port is gone".to_owned());
        };
        let worker = self.assign(&port, &[pair]).first().copied().unwrap_or_default();
        let Some((id, entry)) = self.ports.get_mut(name).map(|entry| (entry.id, entry)) else {
            return Err("the port is gone".to_owned());
        };
        let region = io.region();
        let added = self.engine.add_queue(worker, id, pair, io, region);
        let counters = added.map_err(|error| error.to_string())?;
        entry.totals.add(counters);
        // The front-end has its reply when frames reach it, from whichever worker.
        let applied = self.engine.wait_applied();
        if let PortState::Open(open) = &mut entry.state {
            let at = open.queues.partition_point(|queue| *queue < pair);
            open.queues.insert(at, pair);
            entry.workers.insert(at, worker);
        }
        tracing::debug!(port = %name, pair, worker = worker.0, "polled");
        applied.map_err(|error| error.to_string())
    }

    fn take_pair(&mut self, name: &Name, pair: u16) -> Result<Option<AnyPort>, String> {
        let Some(id) = self.ports.get(name).map(|entry| entry.id) else {
            return Ok(None);
        };
        let is_it = |port: PortId, queue: u16| (port, queue) == (id, pair);
        let home = self
            .engine
            .homes()
            .iter()
            .find(|home| is_it(home.port, home.queue));
        let counters = home.map(|home| home.counters.clone());
        let io = self
            .engine
            .take_queue(id, pair)
            .map_err(|error| error.to_string())?;
        // A fault of a queue that is gone must not be taken for one of its successor.
        let stale = |event: &QueueEvent| matches!(event, QueueEvent::Fault { port, queue, .. } if is_it(*port, *queue));
        self.unread.retain(|event| !stale(event));
        let news = self.engine.events();
        self.unread.extend(news.into_iter().filter(|event| !stale(event)));
        if let Some(Entry {
            state: PortState::Open(open),
            workers,
            totals,
            ..
        }) = self.ports.get_mut(name)
        {
            if let Some(at) = open.queues.iter().position(|queue| *queue == pair) {
                open.queues.remove(at);
                workers.remove(at);
            }
            if let Some(counters) = counters {
                totals.retire_one(&counters);
            }
        }
        Ok(io.map(|io| *io))
    }
}
