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
    /// Datagrams that the receiver missed.
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
    UdpRate {
        mbits: sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6,
        sent,
        lost: field("lost_packets"),
    }
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
