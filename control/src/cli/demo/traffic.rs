//! The traffic of the demonstration: ping and iperf3, and what they say.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::lab::{self, Lab, Place};
use super::story::Story;
use super::{DemoError, TICK};
use crate::api::types::PortView;
use crate::cli::client::Client;

/// Pings sent at a time.
const PINGS: u32 = 3;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Both.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Whether a program is on the PATH.
pub(super) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// An error if a program is not on the PATH.
pub(super) fn require(program: &'static str, package: &'static str) -> Result<(), DemoError> {
    match installed(program) {
        true => Ok(()),
        false => Err(DemoError::Missing { program, package }),
    }
}

/// Pings an address; gives how many answers there were and how long they took.
pub(super) fn ping(lab: &Lab<'_>, from: Place, to: &str) -> Result<String, DemoError> {
    let count = PINGS.to_string();
    let mut command = lab.command(from, &["ping", "-n", "-c", &count, "-i", "0.1", "-W", "2", to]);
    let output = run(lab, &mut command, &format!("ping {to}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers = answers(&text);
    if answers == 0 {
        return Err(DemoError::NoAnswer {
            sent: PINGS,
            from: from.name(),
            to: to.into(),
            log: lab.log(),
        });
    }
    let time = average(&text)
        .map(|ms| format!(", {ms} ms on average"))
        .unwrap_or_default();
    Ok(format!("{answers} of {PINGS} answered{time}"))
}

/// From "3 packets transmitted, 3 received, 0% packet loss, time 201ms".
fn answers(text: &str) -> u32 {
    let summary = text.lines().find(|line| line.contains("packets transmitted"));
    summary
        .and_then(|line| line.split(", ").nth(1)?.split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// From "rtt min/avg/max/mdev = 0.041/0.060/0.090/0.021 ms".
fn average(text: &str) -> Option<&str> {
    let times = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))?;
    times.split('/').nth(1)
}

/// Runs iperf3 from pod-a to `to`, showing the daemon's own rates while it runs, and tells what it measured.
pub(super) fn throughput(
    story: &Story,
    lab: &Lab<'_>,
    client: &Client,
    text: &str,
    to: Place,
    seconds: u64,
) -> Result<(), DemoError> {
    story.go_on()?;
    let mut server = Running::start(lab.command(to, &["iperf3", "-s", "-1"]), "iperf3 -s")?;
    wait_listening(lab, to)?;
    let address = lab::address(to, Family::V4);
    let time = seconds.to_string();
    let command = lab.command(Place::PodA, &["iperf3", "-c", &address, "-t", &time, "-J"]);
    let mut running = Running::start(command, "iperf3 -c")?;
    let bar = story.bar(text, Duration::from_secs(seconds));
    let (begun, mut last) = (Instant::now(), None);
    while running
        .child
        .try_wait()
        .map_err(|source| running.failed(source))?
        .is_none()
    {
        story.go_on()?;
        if begun.elapsed() > Duration::from_secs(seconds + 10) {
            return Err(running.command_error("it did not end; is the path broken?"));
        }
        // Four times a second: often enough for the eye, and no load.
        if !bar.is_hidden() && begun.elapsed().as_millis() % 250 < TICK.as_millis() {
            last = Some(live(client, &bar, last));
        }
        bar.set_position(begun.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
        std::thread::sleep(TICK);
    }
    bar.finish_and_clear();
    let report = running.output()?;
    server.end();
    let measured = measured(&report).ok_or_else(|| running.command_error(report.trim()))?;
    story.report(&format!("iperf3 {text}"), || Ok(measured))
}

/// Shows the rate on pod-a's port since the last look.
fn live(
    client: &Client,
    bar: &indicatif::ProgressBar,
    last: Option<(Instant, u64, u64)>,
) -> (Instant, u64, u64) {
    let now = Instant::now();
    let Ok(port) = client.get::<PortView>("/v1/ports/pod-a") else {
        return last.unwrap_or((now, 0, 0));
    };
    if let Some((then, packets, bytes)) = last {
        let seconds = now.duration_since(then).as_secs_f64();
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        bar.set_message(format!(
            "{:.2} Gbit/s, {:.0} thousand frames/s",
            rate(port.rx_bytes, bytes) * 8.0 / 1e9,
            rate(port.rx_packets, packets) / 1e3
        ));
    }
    (now, port.rx_packets, port.rx_bytes)
}

/// What iperf3's report says.
fn measured(report: &str) -> Option<String> {
    let report: serde_json::Value = serde_json::from_str(report).ok()?;
    let end = report.get("end")?;
    let rate = end.get("sum_received")?.get("bits_per_second")?.as_f64()?;
    let again = end
        .get("sum_sent")?
        .get("retransmits")
        .and_then(serde_json::Value::as_u64);
    let again = again
        .map(|n| format!(", {n} segments sent again"))
        .unwrap_or_default();
    Some(format!("{:.2} Gbit/s{again}", rate / 1e9))
}

/// Waits until iperf3's port is open, by the kernel's table: a connection would be taken for the test.
fn wait_listening(lab: &Lab<'_>, place: Place) -> Result<(), DemoError> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let mut command = lab.command(place, &["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
        let output = run(lab, &mut command, "cat /proc/net/tcp")?;
        // Local address, remote address, state: port 5201, LISTEN (proc_net_tcp in the kernel's documentation).
        let listening = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(":1451")) && words.nth(1) == Some("0A")
        };
        if String::from_utf8_lossy(&output.stdout).lines().any(listening) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(DemoError::Command {
                command: "iperf3 -s".into(),
                reason: "it did not listen within 3 s".into(),
            });
        }
        lab.story().go_on()?;
        std::thread::sleep(TICK);
    }
}

/// Runs a short program to its end, or until interrupted.
fn run(lab: &Lab<'_>, command: &mut Command, name: &str) -> Result<Output, DemoError> {
    let output = command.output().map_err(|source| DemoError::Start {
        command: name.into(),
        source,
    })?;
    lab.story().go_on()?;
    Ok(output)
}

/// A program that runs; killed when dropped.
struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    fn start(mut command: Command, name: &'static str) -> Result<Self, DemoError> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|source| DemoError::Start {
            command: name.into(),
            source,
        })?;
        Ok(Self { name, child })
    }

    /// What it printed, once it has ended.
    fn output(&mut self) -> Result<String, DemoError> {
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout
                .read_to_string(&mut text)
                .map_err(|source| self.failed(source))?;
        }
        Ok(text)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn failed(&self, source: std::io::Error) -> DemoError {
        DemoError::Start {
            command: self.name.into(),
            source,
        }
    }

    fn command_error(&self, reason: &str) -> DemoError {
        DemoError::Command {
            command: self.name.into(),
            reason: reason.into(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &str = "\
PING 10.42.0.2 (10.42.0.2) 56(84) bytes of data.
64 bytes from 10.42.0.2: icmp_seq=1 ttl=64 time=0.090 ms

--- 10.42.0.2 ping statistics ---
3 packets transmitted, 2 received, 33.3333% packet loss, time 201ms
rtt min/avg/max/mdev = 0.041/0.060/0.090/0.021 ms
";

    #[test]
    fn ping_is_understood() {
        assert_eq!((answers(PING), average(PING)), (2, Some("0.060")));
        let none = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2ms\n";
        assert_eq!((answers(none), average(none)), (0, None));
    }

    #[test]
    fn iperf3_is_understood() {
        let report =
            r#"{"end": {"sum_received": {"bits_per_second": 2345000000.0}, "sum_sent": {"retransmits": 3}}}"#;
        assert_eq!(
            measured(report).as_deref(),
            Some("2.35 Gbit/s, 3 segments sent again")
        );
        assert_eq!(measured(r#"{"error": "unable to connect"}"#), None);
    }
}
