//! Deleting an interface, without waiting for what the kernel does after it.
//!
//! `RTM_DELLINK` first takes the interface out of the kernel's lists, says so (to `RTNLGRP_LINK`), and then waits for
//! grace periods of RCU and whoever still holds it (net/core/dev.c, `netdev_run_todo`): some 15 ms, in which nobody can
//! find the interface any more. Its name is free: who makes another one waits for as long as that is not so.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::HostError;
use super::links::{GROUP_LINK, IFINFO_LEN, IfIndex, RTM_DELLINK, request};
use super::netlink::{Events, Netlink, Received, Refusal, Reply};

/// What it takes, opened in the namespace of the interface.
pub(super) struct Unlinker {
    events: Events,
    rtnl: Netlink,
}

impl Unlinker {
    /// For interfaces of the thread's network namespace.
    pub(super) fn open() -> Result<Self, HostError> {
        Ok(Self {
            events: Events::join(&[GROUP_LINK])?,
            rtnl: Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?,
        })
    }

    /// Deletes an interface; nobody finds it any more when this returns. Returns whether it was there.
    pub(super) fn delete(self, ifindex: IfIndex) -> Result<bool, HostError> {
        let Self { mut events, mut rtnl } = self;
        let failed =
            |source: io::Error| Refusal::from(source).during(format!("deleting interface {ifindex}"));
        let (send, verdict) = mpsc::channel();
        // Its other end is closed when the kernel is through with it.
        let (through, end) = io::pipe().map_err(failed)?;
        thread::Builder::new()
            .name("unlink".to_owned())
            .spawn(move || {
                // Nobody listens any more when the news were quicker.
                let _ = send.send(delete(&mut rtnl, ifindex));
                drop(end);
            })
            .map_err(failed)?;
        while wait(&events, &through).map_err(failed)? == Woken::ByNews {
            match events.receive()? {
                Received::Messages(messages) if messages.iter().any(|m| is_gone(m, ifindex)) => {
                    return Ok(true);
                }
                Received::Messages(_) | Received::Overrun | Received::Empty => {}
            }
        }
        verdict
            .recv()
            .unwrap_or_else(|_| Err(failed(io::Error::other("its thread ended without a word"))))
    }
}

#[derive(PartialEq)]
enum Woken {
    ByNews,
    ByEnd,
}

fn wait(events: &Events, through: &PipeReader) -> io::Result<Woken> {
    let mut of = [
        PollFd::new(events.as_fd(), PollFlags::POLLIN),
        PollFd::new(through.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut of, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    // The end says whether it worked, and comes last.
    let ended = of[1].revents().is_some_and(|events| !events.is_empty());
    Ok(if ended { Woken::ByEnd } else { Woken::ByNews })
}

/// Whether a message says that the interface is gone, and not that it left a bridge (`AF_BRIDGE`).
fn is_gone(message: &Reply, ifindex: IfIndex) -> bool {
    let header = message.fixed::<IFINFO_LEN>();
    message.kind == RTM_DELLINK
        && header.is_some_and(|header| {
            header[0] == libc::AF_UNSPEC as u8 && header[4..8] == ifindex.0.to_ne_bytes()
        })
}

/// Deletes an interface. Returns whether it was there.
pub(super) fn delete(rtnl: &mut Netlink, ifindex: IfIndex) -> Result<bool, HostError> {
    match rtnl.transact(request(RTM_DELLINK, 0, ifindex.0)) {
        Ok(_) => Ok(true),
        // It went with its pod, between the look and the deletion.
        Err(refusal) if refusal.is(Errno::ENODEV) => Ok(false),
        Err(refusal) => Err(refusal.during(format!("deleting interface {ifindex}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{isolate, sh};

    fn names() -> String {
        sh("ip -br link")
    }

    #[test]
    fn nobody_finds_it_when_it_returns() {
        isolate();
        sh(
            "ip link add doomed type veth peer name peer && ip link add br0 type bridge && ip link set doomed master br0",
        );
        let ifindex = sh("ip -o link show doomed | cut -d: -f1");
        let ifindex = IfIndex(ifindex.trim().parse().expect("a number"));
        let unlink = || Unlinker::open().expect("sockets").delete(ifindex);
        assert!(unlink().expect("it can be deleted"));
        let left = names();
        assert!(
            !left.contains("doomed") && !left.contains("peer") && left.contains("br0"),
            "{left}"
        );
        assert!(!unlink().expect("it is fine that it is gone"));
    }

    #[test]
    fn news_that_are_lost_are_not_waited_for() {
        isolate();
        sh("ip link add doomed type veth peer name peer");
        let ifindex = sh("ip -o link show doomed | cut -d: -f1");
        let ifindex = IfIndex(ifindex.trim().parse().expect("a number"));
        let unlinker = Unlinker::open().expect("sockets");
        unlinker.events.shrink().expect("it can be smaller");
        // Full before anything is deleted: the kernel drops what it says of that.
        for _ in 0..3 {
            sh("ip link set lo down && ip link set lo up");
        }
        assert!(unlinker.delete(ifindex).expect("it can be deleted"));
        let left = names();
        assert!(!left.contains("doomed") && !left.contains("peer"), "{left}");
    }

    #[test]
    fn what_the_kernel_refuses_is_told() {
        isolate();
        let loopback = Unlinker::open().expect("sockets").delete(IfIndex(1));
        let error = loopback.expect_err("there is always one").to_string();
        assert!(error.contains("deleting interface 1 failed"), "{error}");
    }
}
