//! iperf3 between two namespaces.

use crate::{Netns, Proc};
use serde_json::Value;
use std::time::Duration;

/// A TCP run.
#[derive(Debug, Clone, Copy)]
pub struct TcpRate {
    /// What the receiver got, in Mbit/s.
    pub mbits: f64,
    /// Segments that the sender sent again.
    pub retransmits: u64,
}

/// A UDP run.
#[derive(Debug, Clone, Copy)]
pub struct UdpRate {
    /// What the sender sent, in Mbit/s.
    pub mbits: f64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that did not arrive: without those that iperf3 itself did not read in time.
    pub lost: u64,
}

/// TCP from `client` to `to` in `server` for some seconds; `args` are added to the client's (`-R`, `-P 4`, `-6`).
///
/// # Panics
/// If the run fails or nothing arrives.
#[track_caller]
pub fn iperf_tcp(client: &Netns, server: &Netns, to: &str, secs: u32, args: &str) -> TcpRate {
    let end = run(client, server, to, secs, args);
    let mbits = end["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
    assert!(mbits > 0.0, "iperf3 to {to}: nothing arrived: {end}");
    TcpRate {
        mbits,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    }
}

/// UDP of `mbits` from `client` to `to` in `server` for some seconds.
///
/// # Panics
/// If the run fails or nothing is sent.
#[track_caller]
pub fn iperf_udp(client: &Netns, server: &Netns, to: &str, secs: u32, mbits: u32, args: &str) -> UdpRate {
    let before = overflowed(server);
    // -l: a datagram that fits an inner MTU of 1450; iperf3 would take the path's from TCP.
    let end = run(
        client,
        server,
        to,
        secs,
        &format!("-u -b {mbits}M -l 1350 {args}"),
    );
    let sum = &end["sum"];
    let field = |name: &str| {
        sum[name]
            .as_u64()
            .unwrap_or_else(|| panic!("iperf3 reported no {name}: {end}"))
    };
    let sent = field("packets");
    assert!(sent > 0, "iperf3 to {to}: nothing sent: {end}");
    let unread = overflowed(server) - before;
    UdpRate {
        mbits: sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6,
        sent,
        lost: field("lost_packets").saturating_sub(unread),
    }
}

/// Datagrams that the kernel of a namespace has dropped because a socket's buffer was full: they arrived, and the program
/// that they were for was not running. (Documentation/networking/snmp_counter.rst, UdpRcvbufErrors)
#[track_caller]
fn overflowed(ns: &Netns) -> u64 {
    let text = ns.run("cat /proc/net/snmp /proc/net/snmp6");
    // IPv4: a line of names and one of values. IPv6: a name and a value.
    let mut udp = text.lines().filter(|line| line.starts_with("Udp: "));
    let (names, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
    let v4 = names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "RcvbufErrors");
    let v6 = text
        .lines()
        .find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    let number = |value: Option<&str>| -> u64 {
        let value = value.and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no RcvbufErrors in {text}"))
    };
    number(v4.map(|(_, value)| value)) + number(v6)
}

#[track_caller]
fn run(client: &Netns, server: &Netns, to: &str, secs: u32, args: &str) -> Value {
    let mut listening = Proc::start(server, &["iperf3", "-s", "-1", "--forceflush"]);
    listening.wait_line("that it listens", Duration::from_secs(5), |l| {
        l.contains("listening")
    });
    // A lost control connection must not hang the suite.
    let limit = secs + 15;
    let out = client.try_run(&format!(
        "timeout {limit} iperf3 -c {to} -t {secs} -J --connect-timeout 3000 {args}"
    ));
    let report: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    assert!(
        out.code == 0 && report["end"].is_object(),
        "`{}`: {}",
        out.line,
        out.text()
    );
    report["end"].clone()
}
