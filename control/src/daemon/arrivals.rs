//! What comes to the control thread, in the order in which it is dealt with: the guests' threads and all others (API,
//! netlink, signals) take turns, so that neither waits for more than one question of the other's.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Message;

/// The control thread's inbox.
pub(super) struct Arrivals {
    from: Receiver<Message>,
    /// A port's thread waits for its answer, so there is no more than one of each.
    guests: VecDeque<Message>,
    others: VecDeque<Message>,
    guests_next: bool,
}

impl Arrivals {
    pub(super) fn new(from: Receiver<Message>) -> Self {
        Self {
            from,
            guests: VecDeque::new(),
            others: VecDeque::new(),
            guests_next: false,
        }
    }

    /// The next message; waits for it until then.
    pub(super) fn next(&mut self, until: Instant) -> Result<Message, RecvTimeoutError> {
        let mut wait = until.saturating_duration_since(Instant::now());
        loop {
            while let Ok(message) = self.from.try_recv() {
                self.sort_in(message);
            }
            if let Some(message) = self.take() {
                return Ok(message);
            }
            let message = self.from.recv_timeout(wait)?;
            self.sort_in(message);
            wait = Duration::ZERO;
        }
    }

    fn sort_in(&mut self, message: Message) {
        match message {
            Message::Guest(_) => self.guests.push_back(message),
            Message::Request(_) | Message::Host | Message::Closed(_) | Message::Stop(_) => {
                self.others.push_back(message);
            }
        }
    }

    fn take(&mut self) -> Option<Message> {
        let lines = [&mut self.others, &mut self.guests];
        let first = usize::from(self.guests_next);
        let message = [first, 1 - first]
            .into_iter()
            .find_map(|line| lines[line].pop_front().map(|message| (line, message)));
        let (line, message) = message?;
        self.guests_next = line == 0;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::vhost::{Ask, Question};
    use std::sync::mpsc::{Sender, channel, sync_channel};

    fn guest(send: &Sender<Message>) {
        let question = Question {
            port: "a".parse().expect("a name"),
            guest: 0,
            ask: Ask::Changed,
            reply: sync_channel(1).0,
        };
        send.send(Message::Guest(question)).expect("a receiver");
    }

    fn order(arrivals: &mut Arrivals) -> String {
        let mut order = String::new();
        while let Ok(message) = arrivals.next(Instant::now()) {
            order.push(match message {
                Message::Guest(_) => 'g',
                Message::Host => 'h',
                Message::Request(_) | Message::Closed(_) | Message::Stop(_) => 's',
            });
        }
        order
    }

    #[test]
    fn guests_and_all_others_take_turns() {
        let (send, messages) = channel();
        let mut arrivals = Arrivals::new(messages);
        for _ in 0..5 {
            guest(&send);
        }
        let first = arrivals.next(Instant::now());
        assert!(matches!(first, Ok(Message::Guest(_))), "nobody else is there");
        send.send(Message::Host).expect("a receiver");
        send.send(Message::Stop("SIGTERM")).expect("a receiver");
        assert_eq!(order(&mut arrivals), "hgsggg");
        for _ in 0..3 {
            send.send(Message::Host).expect("a receiver");
        }
        guest(&send);
        assert_eq!(order(&mut arrivals), "hghh");
        drop(send);
        let end = arrivals.next(Instant::now());
        assert!(matches!(end, Err(RecvTimeoutError::Disconnected)));
    }
}
