//! DPDK's testpmd on virtio_user: a guest of a vhost-user port whose driver we did not write.

use crate::{Netns, Proc, wait_for};
use std::time::Duration;

/// Longer than it takes to start here, also when two cores are shared with another test.
const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(15);

/// A running testpmd with one virtio_user device, told what to do by its own commands.
#[derive(Debug)]
pub struct Testpmd {
    proc: Proc,
}

/// What its device has counted since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub received: u64,
    /// Frames that were put into a ring.
    pub sent: u64,
}

impl Testpmd {
    /// Starts it with a device of these arguments (`path=…,queues=1,packed_vq=0,…`, those of DPDK's virtio_user), and
    /// waits until it takes commands: a device that is `server=1` is connected by then.
    ///
    /// # Panics
    /// If it does not within 30 seconds; with its log.
    #[track_caller]
    pub fn start(ns: &Netns, device: &str, queues: u16, args: &str) -> Testpmd {
        let mut guest = Testpmd::spawn(ns, device, queues, args);
        guest.wait_started();
        guest
    }

    /// Starts it and does not wait.
    #[track_caller]
    pub fn spawn(ns: &Netns, device: &str, queues: u16, args: &str) -> Testpmd {
        let device = format!("net_virtio_user0,{device},queues={queues}");
        let queues = format!("--rxq={queues} --txq={queues}");
        // Memory is a memfd of plain pages: huge ones may be scarce. Its threads run wherever there is time. Output to a
        // pipe would come in blocks.
        let mut words = vec!["stdbuf", "-oL", "dpdk-testpmd", "--lcores", "0@(0,1),1@(0,1)"];
        words.extend("--no-pci --no-huge --no-shconf --no-telemetry -m 128".split(' '));
        words.extend([
            "--vdev",
            &device,
            "--",
            "-i",
            "--nb-cores=1",
            "--total-num-mbufs=8192",
        ]);
        words.extend(queues.split(' '));
        words.extend(args.split_whitespace());
        Testpmd {
            proc: Proc::start_fed(ns, &words),
        }
    }

    /// Waits until it takes commands.
    ///
    /// # Panics
    /// If it does not within 30 seconds; with its log.
    #[track_caller]
    pub fn wait_started(&mut self) {
        self.proc
            .wait_line("its device's address", START, |line| line.starts_with("Port 0: "));
        self.stats();
    }

    /// One of its commands.
    #[track_caller]
    pub fn say(&mut self, command: &str) {
        self.proc.say(command);
    }

    /// What its device has counted.
    ///
    /// # Panics
    /// If it does not say so within 15 seconds; with its log.
    #[track_caller]
    pub fn stats(&mut self) -> PortStats {
        let before = self.proc.log().len();
        self.say("show port stats all");
        let got = wait_for("testpmd's statistics", ANSWER, || {
            let log = self.proc.log();
            let new = &log[before..];
            let start = new.iter().position(|line| line.contains("NIC statistics"))?;
            let field = |name: &str| {
                let line = new[start..]
                    .iter()
                    .find_map(|line| line.trim().strip_prefix(name))?;
                line.split_whitespace().next()?.parse().ok()
            };
            Some(PortStats {
                received: field("RX-packets:")?,
                sent: field("TX-packets:")?,
            })
        });
        assert!(
            self.proc.ended().is_none(),
            "testpmd ended:\n{}",
            self.proc.tail()
        );
        got
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.proc.kill();
    }

    /// Has it end by itself.
    ///
    /// # Panics
    /// If it has not after 15 seconds, or failed.
    #[track_caller]
    pub fn quit(mut self) {
        self.say("quit");
        let status = self.proc.wait(ANSWER);
        assert!(
            status.success(),
            "testpmd ended with {status}:\n{}",
            self.proc.tail()
        );
    }
}
