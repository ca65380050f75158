//! Follows the underlay's next hops while routes, neighbours, links, addresses and rules change.
//!
//! ```text
//!   want(remote) ──► look-up ──► answer at once            multicast event ─► which remotes? ─► debounce ─┐
//!                      ▲                                                                                  │
//!                      └──────────────── retry (no answer) · keep-alive (stale) ◄─────────────────────────┘
//! ```
//!
//! Guarantees: [`NextHopWatch::process`] reports a remote only when its answer has changed; an event is acted upon
//! within the debounce time; events that the kernel had to drop, and changes that it does not announce (a
//! discovered path MTU, a dead next hop revived), are found at the latest by the next keep-alive.
//!
//! The kernel does not see the frames that we send, so it lets the entries that only we use go stale and would
//! keep an address that has moved for ever. Each keep-alive therefore makes it verify the stale ones among ours.
//!
//! Left to the caller: to call [`NextHopWatch::process`] when the descriptor is readable and when
//! [`NextHopWatch::deadline`] has passed, on one thread.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::links::{self, GROUP_LINK, IfIndex, Link, LinkState, RTM_DELLINK, RTM_NEWLINK};
use super::netlink::{Events, Received, Reply};
use super::routes::{
    Lookup, NDA_DST, NDMSG_LEN, Probe, RTA_DST, RTM_NEWNEIGH, RTMSG_LEN, Resolution, Unresolved, Wanted,
};
use super::{Host, HostError};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
/// `RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NEXTHOP`.
const GROUPS: [u32; 9] = [GROUP_LINK, 3, 5, 7, 8, 9, 11, 19, 32];

/// How fast and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// How long changes are gathered before they are looked at.
    pub(crate) debounce: Duration,
    /// How often a neighbour that does not answer is asked again.
    pub(crate) retry: Duration,
    /// How often everything is looked at again and stale neighbours are verified.
    pub(crate) keep_alive: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(10),
            retry: Duration::from_secs(1),
            keep_alive: Duration::from_secs(30),
        }
    }
}

struct Entry {
    resolution: Resolution,
    via: Option<(IfIndex, IpAddr)>,
    /// Something happened that may concern it.
    dirty: bool,
}

/// Follows a set of remotes in the network namespace in which it was opened.
pub(crate) struct NextHopWatch {
    host: Host,
    events: Events,
    timing: Timing,
    wanted: BTreeMap<Wanted, Entry>,
    links: BTreeMap<IfIndex, LinkState>,
    /// When the dirty ones are looked at; set by the first event, not pushed back by later ones.
    due: Option<Instant>,
    next_retry: Instant,
    next_keep_alive: Instant,
}

impl NextHopWatch {
    /// Starts watching, for nothing yet.
    pub(crate) fn open(timing: Timing) -> Result<Self, HostError> {
        let events = Events::join(&GROUPS)?;
        let mut host = Host::open()?;
        let links = host
            .links()?
            .iter()
            .map(|link| (link.ifindex, link.state()))
            .collect();
        let now = Instant::now();
        Ok(Self {
            host,
            events,
            timing,
            wanted: BTreeMap::new(),
            links,
            due: None,
            next_retry: now + timing.retry,
            next_keep_alive: now + timing.keep_alive,
        })
    }

    /// Adds a remote and returns what is known of it now; changes are reported from then on.
    pub(crate) fn want(&mut self, wanted: Wanted) -> Result<Resolution, HostError> {
        if let Some(entry) = self.wanted.get(&wanted) {
            return Ok(entry.resolution.clone());
        }
        let found = self.host.look_up(wanted)?;
        if found.probe != Probe::No {
            nudge(&mut self.host, &found)?;
        }
        let resolution = found.resolution.clone();
        self.wanted.insert(
            wanted,
            Entry {
                resolution: found.resolution,
                via: found.via,
                dirty: false,
            },
        );
        Ok(resolution)
    }

    /// Forgets a remote. The kernel's neighbour entry stays: it ages like any other.
    pub(crate) fn unwant(&mut self, wanted: Wanted) {
        self.wanted.remove(&wanted);
    }

    /// When [`NextHopWatch::process`] wants to be called even if nothing has happened.
    pub(crate) fn deadline(&self) -> Instant {
        let retry = self.wanted.values().any(awaits_answer).then_some(self.next_retry);
        [self.due, retry]
            .into_iter()
            .flatten()
            .fold(self.next_keep_alive, Instant::min)
    }

    /// Takes in what has happened, does what is due, and reports the remotes whose answer changed.
    /// Does not wait for anything but the kernel's own answers.
    pub(crate) fn process(&mut self) -> Result<Vec<(Wanted, Resolution)>, HostError> {
        self.take_events()?;
        let now = Instant::now();
        let mut keep_alive = false;
        if now >= self.next_retry {
            self.next_retry = now + self.timing.retry;
            if self.mark_if(|_, entry| awaits_answer(entry)) {
                self.due = Some(now);
            }
        }
        if now >= self.next_keep_alive {
            self.next_keep_alive = now + self.timing.keep_alive;
            keep_alive = true;
            self.all_dirty();
            self.due = Some(now);
        }
        if self.due.is_none_or(|due| now < due) {
            return Ok(Vec::new());
        }
        self.due = None;
        self.refresh(keep_alive)
    }

    #[cfg(test)]
    /// Calls [`NextHopWatch::process`] until it has something to report, at most this long.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Vec<(Wanted, Resolution)>, HostError> {
        let end = Instant::now() + timeout;
        loop {
            let changes = self.process()?;
            let now = Instant::now();
            if !changes.is_empty() || now >= end {
                return Ok(changes);
            }
            let until = self.deadline().min(end);
            links::wait_readable(self.events.as_fd(), until.saturating_duration_since(now));
        }
    }

    fn refresh(&mut self, keep_alive: bool) -> Result<Vec<(Wanted, Resolution)>, HostError> {
        let mut changes = Vec::new();
        for (wanted, entry) in self.wanted.iter_mut().filter(|(_, entry)| entry.dirty) {
            let found = self.host.look_up(*wanted)?;
            entry.dirty = false;
            if found.probe == Probe::Now || (keep_alive && found.probe == Probe::WhenIdle) {
                nudge(&mut self.host, &found)?;
            }
            entry.via = found.via;
            if !same(&entry.resolution, &found.resolution) {
                entry.resolution = found.resolution;
                changes.push((*wanted, entry.resolution.clone()));
            }
        }
        Ok(changes)
    }

    fn take_events(&mut self) -> Result<(), HostError> {
        let mut news = false;
        loop {
            match self.events.receive()? {
                Received::Empty => break,
                Received::Messages(messages) => {
                    for message in &messages {
                        news |= self.mark(message);
                    }
                }
                Received::Overrun => {
                    self.links = self
                        .host
                        .links()?
                        .iter()
                        .map(|link| (link.ifindex, link.state()))
                        .collect();
                    self.all_dirty();
                    news = true;
                }
            }
        }
        if news && self.due.is_none() {
            self.due = Some(Instant::now() + self.timing.debounce);
        }
        Ok(())
    }

    /// Marks the remotes that a message may concern; tells whether there are any.
    fn mark(&mut self, message: &Reply) -> bool {
        match message.kind {
            RTM_NEWNEIGH | RTM_DELNEIGH => {
                let Some(neighbour) = neighbour_of(message) else {
                    return false;
                };
                self.mark_if(|_, entry| entry.via == Some(neighbour))
            }
            RTM_NEWROUTE | RTM_DELROUTE => {
                let Some(fixed) = message.fixed::<RTMSG_LEN>() else {
                    return false;
                };
                let destination = message.attrs(RTMSG_LEN).ip(RTA_DST);
                self.mark_if(|wanted, _| {
                    fixed[0] == super::netlink::family(wanted.remote)
                        && destination.is_none_or(|net| covers(net, fixed[1], wanted.remote))
                })
            }
            RTM_NEWLINK => {
                // Interfaces announce themselves for reasons that do not touch a route, and often.
                let Some(state) = Link::parse(message).map(|link| link.state()) else {
                    return false;
                };
                let news = self.links.get(&state.ifindex) != Some(&state);
                self.links.insert(state.ifindex, state);
                news && self.all_dirty()
            }
            RTM_DELLINK => {
                let Some((ifindex, _, _)) = links::header(message) else {
                    return false;
                };
                self.links.remove(&ifindex);
                self.all_dirty()
            }
            RTM_NEWADDR | RTM_DELADDR | RTM_NEWRULE | RTM_DELRULE | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
                self.all_dirty()
            }
            _ => false,
        }
    }

    fn all_dirty(&mut self) -> bool {
        self.mark_if(|_, _| true)
    }

    fn mark_if(&mut self, concerns: impl Fn(&Wanted, &Entry) -> bool) -> bool {
        let mut any = false;
        for (wanted, entry) in &mut self.wanted {
            if concerns(wanted, entry) {
                entry.dirty = true;
                any = true;
            }
        }
        any
    }

    /// Makes the event socket too small, so that a test can overrun it.
    #[cfg(test)]
    pub(super) fn shrink(&self) {
        self.events
            .shrink()
            .expect("the buffer of our own socket can be made smaller");
    }
}

impl AsFd for NextHopWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn awaits_answer(entry: &Entry) -> bool {
    matches!(
        entry.resolution,
        Err(Unresolved::Resolving { .. } | Unresolved::NoAnswer { .. })
    )
}

/// Asks for the neighbour of a look-up. One that cannot be asked for (its interface has just gone) stays as it is:
/// the event of what happened to the interface follows.
fn nudge(host: &mut Host, found: &Lookup) -> Result<(), HostError> {
    let Some((ifindex, neighbour)) = found.via else {
        return Ok(());
    };
    match host.probe(ifindex, neighbour) {
        Err(HostError::Kernel { source, .. })
            if matches!(
                source.raw_os_error().map(nix::errno::Errno::from_raw),
                Some(nix::errno::Errno::ENODEV | nix::errno::Errno::ENETDOWN | nix::errno::Errno::ENOBUFS)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// While a neighbour that did not answer is being asked again, nothing has changed.
fn same(before: &Resolution, now: &Resolution) -> bool {
    match (before, now) {
        (
            Err(Unresolved::NoAnswer { interface, neighbour }),
            Err(Unresolved::Resolving {
                interface: i,
                neighbour: n,
            }),
        ) => interface == i && neighbour == n,
        _ => before == now,
    }
}

fn neighbour_of(message: &Reply) -> Option<(IfIndex, IpAddr)> {
    let fixed = message.fixed::<NDMSG_LEN>()?;
    let ifindex = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    Some((IfIndex(ifindex), message.attrs(NDMSG_LEN).ip(NDA_DST)?))
}

/// Whether `net`/`len` contains `ip`.
fn covers(net: IpAddr, len: u8, ip: IpAddr) -> bool {
    let len = u32::from(len);
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => (net.to_bits() ^ ip.to_bits()).leading_zeros() >= len,
        (IpAddr::V6(net), IpAddr::V6(ip)) => (net.to_bits() ^ ip.to_bits()).leading_zeros() >= len,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_prefix_covers_its_addresses_and_no_others() {
        let ip = |text: &str| text.parse().expect("a literal address");
        for (net, len, address, expected) in [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.1", false),
            ("0.0.0.0", 0, "1.2.3.4", true),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("fd00::", 64, "fd00::1", true),
            ("fd00::", 64, "fd00:0:0:1::1", false),
            ("::", 0, "10.0.0.1", false),
        ] {
            assert_eq!(
                covers(ip(net), len, ip(address)),
                expected,
                "{net}/{len} and {address}"
            );
        }
    }
}
