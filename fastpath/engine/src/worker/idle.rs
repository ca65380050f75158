//! Queues with nothing to do are parked, and a worker with nothing to do sleeps. Epoll watches for both.

use super::{Queue, WAKE, Worker};
use clearway_io::Port;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::os::fd::AsRawFd;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// A sleeping worker wakes at least this often: for statistics of rings, and so that the FDB's slots become
/// free.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Up to this many queues all are polled every turn. With more, those with nothing to do for
/// [`TURNS_BEFORE_PARKING`] turns are parked: watched by epoll instead. (Queues that take a system call to look at are
/// so in any case.)
const ALWAYS_POLLED: usize = 16;
const TURNS_BEFORE_PARKING: u32 = 512;
/// While it is busy, a worker asks epoll about parked queues every so many turns.
pub(super) const TURNS_BETWEEN_LOOKS: u64 = 16;

impl Queue {
    /// Has epoll watch for arrivals. False: it can't.
    fn watch(&mut self, poll: &Poll, index: usize) -> bool {
        if !self.watched
            && let Some(fd) = self.io.wait_fd()
        {
            let fd = fd.as_raw_fd();
            let registered = poll
                .registry()
                .register(&mut SourceFd(&fd), Token(index), Interest::READABLE);
            self.watched = registered.is_ok();
        }
        self.watched
    }

    pub(super) fn unwatch(&mut self, poll: &Poll) {
        if std::mem::take(&mut self.watched)
            && let Some(fd) = self.io.wait_fd()
        {
            // It fails only for a descriptor that epoll does not know.
            let _ = poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
        }
    }
}

impl Worker {
    #[inline]
    pub(super) fn nothing_there(&mut self, index: usize) {
        let many = self.queues.len() > ALWAYS_POLLED;
        let Some(queue) = self.queues[index].as_mut() else {
            return;
        };
        if queue.io.fault().is_some() && !queue.faulted {
            return self.fault(index);
        }
        queue.idle_turns = queue.idle_turns.saturating_add(1);
        if queue.idle_turns >= TURNS_BEFORE_PARKING
            && (many || queue.io.looks_by_call())
            && queue.watch(&self.poll, index)
        {
            if queue.io.arm() {
                queue.unwatch(&self.poll);
            } else {
                self.park(index);
            }
        }
    }

    pub(super) fn park(&mut self, index: usize) {
        if let Some(queue) = self.queues[index].as_mut() {
            queue.active = false;
        }
        if let Some(at) = self.active.iter().position(|i| *i == index) {
            self.active.swap_remove(at);
        }
    }

    pub(super) fn activate(&mut self, index: usize) {
        if let Some(Some(queue)) = self.queues.get_mut(index)
            && !queue.active
            && !queue.faulted
        {
            queue.active = true;
            queue.idle_turns = 0;
            queue.unwatch(&self.poll);
            self.active.push(index);
        }
    }

    /// Asks epoll which parked queues have something; waits for it if told so.
    pub(super) fn look_at_parked(&mut self, wait: Option<Duration>) {
        // EINTR is as good as nothing there.
        if self.poll.poll(&mut self.poll_events, wait).is_err() {
            return;
        }
        let events = std::mem::replace(&mut self.poll_events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                WAKE => self.status.wake.clear(),
                Token(index) => self.activate(index),
            }
        }
        self.poll_events = events;
    }

    /// Sleeps until a frame, a command or a frame from another worker arrives: ask for the notification,
    /// fence, look again, sleep.
    pub(super) fn sleep(&mut self) {
        self.read_losses(usize::MAX);
        // Release: a control that sees us asleep sees all that we did before.
        self.status.sleeping.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let mut there = !self.commands.is_empty();
        there |= self.peers.iter().flatten().any(|peer| !peer.from.is_empty());
        for index in 0..self.queues.len() {
            let Some(queue) = self.queues[index].as_mut().filter(|queue| !queue.faulted) else {
                continue;
            };
            // A port that can't be waited for keeps its worker awake. A parked one with something to do is polled
            // again: arming it may have taken back the notification that it had sent.
            if !queue.watch(&self.poll, index) || queue.io.arm() {
                there = true;
                self.activate(index);
            }
        }
        if !there {
            self.status.sleeps.fetch_add(1, Ordering::Relaxed);
            self.look_at_parked(Some(LONGEST_SLEEP));
        }
        self.status.sleeping.store(false, Ordering::Relaxed);
        for queue in self.queues.iter_mut().flatten().filter(|queue| queue.active) {
            queue.unwatch(&self.poll);
        }
    }
}
