//! DPDK's testpmd on virtio_user: a guest of a vhost-user port whose driver we did not write.

use crate::{Netns, Proc, wait_for};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than it takes to start here, also when two cores are shared with another test.
const START: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(15);

/// A running testpmd with one virtio_user device, told what to do by its own commands.
#[derive(Debug)]
pub struct Testpmd {
    proc: Proc,
    files: Option<Files>,
}

/// Capture files that its second device reads and writes.
#[derive(Debug)]
struct Files {
    /// Of each queue.
    read: Vec<PathBuf>,
    written: Vec<PathBuf>,
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

    /// Starts one that, at each `start`, sends the frames of [`Testpmd::write`] in their order, and keeps what it receives
    /// for [`Testpmd::take`]: a second device, libpcap's, is joined with the first, queue by queue. `folder` is for the files.
    ///
    /// # Panics
    /// If it does not take commands within 30 seconds; with its log.
    #[track_caller]
    pub fn with_files(ns: &Netns, device: &str, queues: u16, folder: &Path, args: &str) -> Testpmd {
        let of = |what: &str| -> Vec<PathBuf> {
            let one = |queue| folder.join(format!("{what}-{queue}.pcap"));
            (0..queues).map(one).collect()
        };
        let (read, written) = (of("sent"), of("received"));
        let mut files = String::from("net_pcap0");
        for (read, written) in read.iter().zip(&written) {
            write(read, &[]);
            files += &format!(",rx_pcap={},tx_pcap={}", read.display(), written.display());
        }
        // Before forwarding starts it would throw away what its devices have already, the file.
        let args = format!("--forward-mode=io --no-flush-rx {args}");
        let mut guest = Testpmd::launch(ns, device, Some(&files), queues, &args);
        guest.files = Some(Files { read, written });
        guest.wait_started();
        guest
    }

    /// Starts it and does not wait.
    #[track_caller]
    pub fn spawn(ns: &Netns, device: &str, queues: u16, args: &str) -> Testpmd {
        Testpmd::launch(ns, device, None, queues, args)
    }

    #[track_caller]
    fn launch(ns: &Netns, device: &str, second: Option<&str>, queues: u16, args: &str) -> Testpmd {
        let device = format!("net_virtio_user0,{device},queues={queues}");
        let queues = format!("--rxq={queues} --txq={queues}");
        // Memory is a memfd of plain pages: huge ones may be scarce. Its threads run wherever there is time. Output to a
        // pipe would come in blocks.
        let mut words = vec!["stdbuf", "-oL", "dpdk-testpmd", "--lcores", "0@(0,1),1@(0,1)"];
        words.extend("--no-pci --no-huge --no-shconf --no-telemetry -m 128".split(' '));
        for device in [Some(&*device), second].into_iter().flatten() {
            words.extend(["--vdev", device]);
        }
        words.extend(["--", "-i", "--nb-cores=1", "--total-num-mbufs=8192"]);
        words.extend(queues.split(' '));
        words.extend(args.split_whitespace());
        Testpmd {
            proc: Proc::start_fed(ns, &words),
            files: None,
        }
    }

    /// What one of [`Testpmd::with_files`] is to send next, at its next `start`, the first frame on the first queue, the next
    /// one on the next. Nothing of before is sent again, nor kept.
    ///
    /// # Panics
    /// If it is another, or has ended.
    #[track_caller]
    pub fn write(&mut self, frames: &[Vec<u8>]) {
        let files = self.files.as_ref().expect("one with files");
        let queues = files.read.len();
        for (queue, file) in files.read.iter().enumerate() {
            let its: Vec<_> = frames.iter().skip(queue).step_by(queues).collect();
            write(file, &its);
        }
        // The files are opened when the device starts.
        self.say("port stop 1");
        self.say("port start 1");
    }

    /// Ends forwarding, and gives what has been received since the last [`Testpmd::write`]: the first frame of each queue,
    /// the second one of each, and so on.
    ///
    /// # Panics
    /// If it is one without files, or has ended.
    #[track_caller]
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.say("stop");
        self.say("port stop 1");
        // Commands are done one after the other: the file is closed when this one is answered.
        self.stats();
        let files = self.files.as_ref().expect("one with files");
        let mut queues: Vec<_> = files.written.iter().map(|file| read(file).into_iter()).collect();
        let mut all = Vec::new();
        loop {
            let before = all.len();
            all.extend(queues.iter_mut().filter_map(Iterator::next));
            if all.len() == before {
                return all;
            }
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

/// Writes frames into a capture file, with libpcap.
#[track_caller]
fn write(file: &Path, frames: &[&Vec<u8>]) {
    let capture = pcap::Capture::dead_with_precision(pcap::Linktype::ETHERNET, pcap::Precision::Micro);
    let mut to = capture
        .and_then(|c| c.savefile(file))
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
    let ts = nix::libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    for frame in frames {
        let len = frame.len() as u32;
        let header = pcap::PacketHeader { ts, caplen: len, len };
        to.write(&pcap::Packet::new(&header, frame));
    }
    to.flush()
        .unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
}

/// The frames of a capture file, as libpcap reads them.
#[track_caller]
fn read(file: &Path) -> Vec<Vec<u8>> {
    let mut capture = pcap::Capture::from_file(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut frames = Vec::new();
    loop {
        match capture.next_packet() {
            Ok(packet) => {
                assert_eq!(packet.header.caplen, packet.header.len, "a frame is cut off");
                frames.push(packet.data.to_vec());
            }
            Err(pcap::Error::NoMorePackets) => return frames,
            Err(e) => panic!("{}: {e}", file.display()),
        }
    }
}
