//! `clearway demo`: packets of real network stacks cross Clearway, in namespaces made for that.
//!
//! ```text
//!   ┌ pod-a ┐        ┌ host ─────────────────────────────────┐             ┌ remote ──────────────┐
//!   │ eth0 ─┼─ veth ─┼─ pod-a ─┐                             │             │                      │
//!   └───────┘        │         ├─ bridge domain ── VXLAN ────┼─ uplink ════┼─ eth0 ── vxlan0      │
//!   ┌ pod-b ┐        │         │  "pods"           VNI 42    │  192.0.2.0  │  (the kernel's VXLAN │
//!   │ eth0 ─┼─ veth ─┼─ pod-b ─┘                             │             │   device)            │
//!   └───────┘        └───────────────────────────────────────┘             └──────────────────────┘
//!       10.42.0.1, .2                  Clearway                                10.42.0.3
//! ```
//!
//! Guarantees: no interface outside its own namespaces is touched, and whether it succeeds, fails or is interrupted,
//! namespaces, processes and files are gone afterwards; what a killed demo left, the next one removes.

mod lab;
mod story;
mod traffic;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{Demo, Format, Get, Output, What};
use super::client::Client;
use super::get;
use lab::{Lab, Place};
use story::Story;
use traffic::FAMILIES;

/// Why the demonstration ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// Namespaces are root's business.
    #[error("network namespaces and AF_XDP need root; run `sudo clearway demo`")]
    NotRoot,
    /// A program is not installed.
    #[error("the program `{program}` is missing; install it: apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// Ctrl-C.
    #[error("interrupted; everything was cleaned up")]
    Interrupted,
    /// A program of the demonstration failed.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        reason: String,
    },
    /// A program could not be run.
    #[error("running `{command}` failed: {source}")]
    Start {
        /// What was to be run.
        command: String,
        /// The errno.
        source: io::Error,
    },
    /// The demonstration's own files.
    #[error("{attempt} {} failed: {source}", .path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The signal handlers.
    #[error("watching for Ctrl-C failed: {0}")]
    Signals(#[source] io::Error),
    /// The daemon.
    #[error("the daemon {what}; its log:\n{log}")]
    Daemon {
        /// What it did.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// No answer to a ping.
    #[error("no answer to {sent} pings from {from} to {to}; the daemon's log:\n{log}")]
    NoAnswer {
        /// How many.
        sent: u32,
        /// From where.
        from: &'static str,
        /// To where.
        to: String,
        /// The end of the daemon's log.
        log: String,
    },
    /// The daemon's tables could not be shown.
    #[error("{0}")]
    Show(#[source] Box<super::error::CliError>),
}

/// The daemon's configuration in the demonstration.
const CONFIG: &str = "\
ports:
  pod-a:  {kind: af-xdp, interface: pod-a, access: pods}
  pod-b:  {kind: af-xdp, interface: pod-b, access: pods}
  uplink: {kind: af-xdp, interface: uplink, steering: shared}
vteps:
  v0: {local: 192.0.2.1, port: uplink}
bridge-domains:
  pods: {vni: 42, vtep: v0, remotes: [192.0.2.2]}
";

/// Shows it all.
pub(crate) fn demo(args: &Demo) -> Result<(), DemoError> {
    if !rustix::process::geteuid().is_root() {
        return Err(DemoError::NotRoot);
    }
    traffic::require("ip", "iproute2")?;
    traffic::require("ping", "iputils-ping")?;
    let story = Story::new()?;
    story.say("Two pods, a remote host and Clearway between them, each in a network namespace of its own.");
    story.say(PICTURE);
    let mut lab = Lab::new(&story)?;
    let shown = play(&story, &mut lab, args);
    story.say("");
    // Also when something failed or was interrupted.
    let left = story.step(
        "Cleaning up: the daemon gives the interfaces back, then the namespaces go",
        || lab.tear_down(),
    );
    match (shown, left) {
        (Err(_), _) if story.interrupted() => Err(DemoError::Interrupted),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => {
            story.say("\nThat was real traffic of real network stacks. Next: `clearway doctor` says what your host can do, config/examples shows configurations.");
            Ok(())
        }
    }
}

const PICTURE: &str = "
  pod-a 10.42.0.1 ── veth ─┐
                           ├─ Clearway: domain \"pods\" ── VXLAN 42 ── uplink ══ remote 10.42.0.3
  pod-b 10.42.0.2 ── veth ─┘                               192.0.2.1    192.0.2.2  (kernel's VXLAN)
";

fn play(story: &Story, lab: &mut Lab, args: &Demo) -> Result<(), DemoError> {
    story.step(
        "Making four namespaces, joined by veth pairs; the remote host gets the kernel's own VXLAN device",
        || lab.build(),
    )?;
    story.say("\nThis is the whole configuration; workers, cores, rings and memory are chosen by Clearway:");
    story.say(&format!("{}\n", indented(CONFIG)));
    story.step(
        "Starting `clearway run` in the host's namespace, until every port forwards",
        || lab.start_daemon(CONFIG),
    )?;
    let client = Client::new(lab.socket());
    show(
        story,
        &client,
        What::Ports,
        "What the ports are, and how frames are exchanged with the kernel:",
    )?;
    pings(story, lab)?;
    if traffic::installed("iperf3") {
        let seconds = args.seconds.into();
        traffic::throughput(
            story,
            lab,
            &client,
            "TCP, pod-a to pod-b, inside the host",
            Place::PodB,
            seconds,
        )?;
        traffic::throughput(
            story,
            lab,
            &client,
            "TCP, pod-a to the remote host, through VXLAN",
            Place::Remote,
            seconds,
        )?;
    } else {
        story.say("iperf3 is not installed: no throughput is shown (apt-get install iperf3)");
    }
    show(
        story,
        &client,
        What::Fdb,
        "What was learned: behind which port or remote host each station is:",
    )?;
    show(
        story,
        &client,
        What::Tunnels,
        "How the remote host is reached; the kernel's routes and neighbours say it:",
    )?;
    show(story, &client, What::Ports, "What passed the ports:")?;
    show(
        story,
        &client,
        What::Drops,
        "Every frame is accounted for, those dropped with their reason:",
    )
}

fn pings(story: &Story, lab: &Lab) -> Result<(), DemoError> {
    story.say("");
    for (from, to, why) in [
        (Place::PodA, Place::PodB, "one bridge domain"),
        (Place::PodA, Place::Remote, "through VXLAN"),
        (Place::PodB, Place::Remote, "through VXLAN"),
        (Place::Remote, Place::PodB, "and back: learned from VXLAN"),
    ] {
        for family in FAMILIES {
            let text = format!("{} → {}, {}: {why}", from.name(), to.name(), family.name());
            story.report(&format!("ping {text}"), || {
                traffic::ping(lab, from, &lab::address(to, family))
            })?;
        }
    }
    story.report(
        "ping host → remote outside of the tunnel: the kernel keeps its own address on the uplink",
        || traffic::ping(lab, Place::Host, lab::UNDERLAY_REMOTE),
    )
}

fn show(story: &Story, client: &Client, what: What, text: &str) -> Result<(), DemoError> {
    let get = Get {
        what,
        name: None,
        output: Output {
            format: Format::Table,
        },
        watch: None,
    };
    let table = get::fetch(client, &get).map_err(|error| DemoError::Show(Box::new(error)))?;
    story.say(&format!("\n{text}\n{}", indented(&table)));
    Ok(())
}

fn indented(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// How often anything that is waited for is looked at.
const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests {
    use super::*;

    #[test]
    fn its_configuration_is_valid() {
        let spec = clearway_config::Spec::from_yaml(CONFIG, "demo").unwrap();
        assert_eq!(spec.ports.len(), 3);
    }
}
