//! ping(8), once and in the background.

use crate::{Netns, Proc};
use nix::sys::signal::Signal;
use std::net::IpAddr;
use std::time::Duration;

/// What ping counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Replies received more than once.
    pub duplicates: u32,
}

impl PingReport {
    /// Requests without a reply.
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

/// A ping to be run.
#[derive(Debug, Clone)]
pub struct Ping {
    to: IpAddr,
    args: String,
}

impl Ping {
    /// Five requests, 50 ms apart, five seconds of patience for each reply.
    pub fn new(to: &str) -> Ping {
        let to = to.parse().unwrap_or_else(|e| panic!("'{to}': {e}"));
        Ping {
            to,
            args: "-c 5 -i 0.05 -W 5".to_owned(),
        }
    }

    /// Adds arguments of ping(8), which override earlier ones: `-c 100 -i 0.01`, `-s 8972 -M do`.
    pub fn args(mut self, args: &str) -> Ping {
        self.args = format!("{} {args}", self.args);
        self
    }

    fn line(&self) -> String {
        let v = if self.to.is_ipv6() { "-6" } else { "-4" };
        format!("ping {v} -n -q {} {}", self.args, self.to)
    }

    /// Runs it in `ns` and counts.
    ///
    /// # Panics
    /// If ping does not run at all (no route is a reason).
    #[track_caller]
    pub fn run(&self, ns: &Netns) -> PingReport {
        let out = ns.try_run(&self.line());
        parse(&out.stdout).unwrap_or_else(|| panic!("`{}`: {}", out.line, out.text()))
    }

    /// Runs it in `ns` and demands a reply to every request, none twice.
    ///
    /// # Panics
    /// If one is missing.
    #[track_caller]
    pub fn all(&self, ns: &Netns) {
        let r = self.run(ns);
        assert!(
            r.received == r.sent && r.duplicates == 0,
            "{} in {}: {r:?}\n{}",
            self.line(),
            ns.name(),
            ns.try_run("ip neigh").text()
        );
    }

    /// Runs it in `ns` and demands that no reply arrives.
    ///
    /// # Panics
    /// If one does.
    #[track_caller]
    pub fn none(&self, ns: &Netns) {
        let r = self.run(ns);
        assert!(
            r.received == 0,
            "{} in {} must not pass: {r:?}",
            self.line(),
            ns.name()
        );
    }

    /// Runs it in `ns` again and again until one reply arrives.
    ///
    /// # Panics
    /// If none does within `limit`.
    #[track_caller]
    pub fn until(&self, ns: &Netns, limit: Duration) {
        let once = self.clone().args("-c 1 -W 0.2");
        crate::wait_for(
            &format!("a reply to `{}` in {}", once.line(), ns.name()),
            limit,
            || (once.run(ns).received == 1).then_some(()),
        );
    }
}

/// A ping that runs until it is stopped.
#[derive(Debug)]
pub struct PingProbe(Proc);

impl PingProbe {
    /// Starts pinging `to` from `ns`, `interval` apart.
    #[track_caller]
    pub fn start(ns: &Netns, to: &str, interval: Duration) -> PingProbe {
        let line = format!("ping -n -q -i {} {to}", interval.as_secs_f64());
        PingProbe(Proc::start(ns, &line.split_whitespace().collect::<Vec<_>>()))
    }

    /// Stops it and counts. A request in its last moment may be without its reply: ask for `lost() <= 1`.
    #[track_caller]
    pub fn stop(mut self) -> PingReport {
        self.0.signal(Signal::SIGINT);
        self.0.wait(Duration::from_secs(3));
        parse(&self.0.log().join("\n")).unwrap_or_else(|| panic!("ping printed:\n{}", self.0.tail()))
    }
}

/// "5 packets transmitted, 5 received, +2 duplicates, 0% packet loss"
fn parse(text: &str) -> Option<PingReport> {
    let line = text.lines().find(|l| l.contains("packets transmitted"))?;
    let number_before = |word: &str| {
        let part = line.split(',').find(|p| p.contains(word))?;
        part.trim()
            .trim_start_matches('+')
            .split(' ')
            .next()?
            .parse::<u32>()
            .ok()
    };
    Some(PingReport {
        sent: number_before("packets transmitted")?,
        received: number_before(" received")?,
        duplicates: number_before("duplicates").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary() {
        let text = "5 packets transmitted, 4 received, +2 duplicates, 20% packet loss, time 204ms";
        assert_eq!(
            parse(text),
            Some(PingReport {
                sent: 5,
                received: 4,
                duplicates: 2
            })
        );
        assert_eq!(parse("ping: connect: Network is unreachable"), None);
    }
}
