//! Exact bytes on the wire: frames sent and captured through libpcap.
//!
//! The kernel takes a VLAN tag out of a received frame and keeps it beside it (PACKET_AUXDATA, packet(7)); libpcap
//! puts it back, so what a test sees is what was on the wire, and the code that does it is not ours.

use crate::Netns;
use pcap::{Active, Capture, Direction};
use std::time::{Duration, Instant};

/// One end of a wire in a namespace, for frames as bytes.
pub struct RawPort {
    capture: Capture<Active>,
    name: String,
}

impl std::fmt::Debug for RawPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawPort")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl RawPort {
    /// Opens `dev` in `ns`; from now on what arrives there is kept. What the namespace itself sends is not seen.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[track_caller]
    pub fn open(ns: &Netns, dev: &str) -> RawPort {
        RawPort::open_with(ns, dev, Some(Direction::In))
    }

    /// The same for both directions: to watch another's traffic.
    #[track_caller]
    pub fn watch(ns: &Netns, dev: &str) -> RawPort {
        RawPort::open_with(ns, dev, None)
    }

    #[track_caller]
    fn open_with(ns: &Netns, dev: &str, direction: Option<Direction>) -> RawPort {
        let name = format!("{dev} in {}", ns.name());
        let open = || -> Result<Capture<Active>, pcap::Error> {
            let c = Capture::from_device(dev)?
                .promisc(true)
                .immediate_mode(true)
                .timeout(20)
                .snaplen(65535)
                .buffer_size(64 << 20)
                .open()?;
            if let Some(direction) = direction {
                c.direction(direction)?;
            }
            c.setnonblock()
        };
        let capture = ns
            .enter(open)
            .unwrap_or_else(|e| panic!("cannot capture on {name}: {e}"));
        RawPort { capture, name }
    }

    /// Sends one frame, tags and all, as it is.
    ///
    /// # Panics
    /// If the kernel refuses it.
    #[track_caller]
    pub fn send(&mut self, frame: &[u8]) {
        self.capture
            .sendpacket(frame)
            .unwrap_or_else(|e| panic!("cannot send {} bytes on {}: {e}", frame.len(), self.name));
    }

    /// The next frame, if one arrives within `limit`.
    pub fn next(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        loop {
            match self.capture.next_packet() {
                Ok(packet) => return Some(packet.data.to_vec()),
                Err(pcap::Error::TimeoutExpired | pcap::Error::NoMorePackets) => {}
                Err(e) => panic!("capture on {} failed: {e}", self.name),
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All frames that arrive within `time`.
    pub fn all(&mut self, time: Duration) -> Vec<Vec<u8>> {
        let end = Instant::now() + time;
        let mut frames = Vec::new();
        while let Some(frame) = self.next(end.saturating_duration_since(Instant::now())) {
            frames.push(frame);
        }
        frames
    }

    /// Forgets what has arrived.
    pub fn clear(&mut self) {
        while self.next(Duration::ZERO).is_some() {}
    }

    /// The first frame for which `wanted` holds; others are passed over.
    ///
    /// # Panics
    /// If none arrives within two seconds; with those that did.
    #[track_caller]
    pub fn find(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(2);
        let mut others = Vec::new();
        while let Some(frame) = self.next(end.saturating_duration_since(Instant::now())) {
            if wanted(&frame) {
                return frame;
            }
            others.push(hex(&frame));
        }
        panic!(
            "{what} did not arrive on {}; what did:\n{}",
            self.name,
            others.join("\n")
        );
    }

    /// Demands that the next frame is exactly this one.
    ///
    /// # Panics
    /// If another arrives, or none within two seconds.
    #[track_caller]
    pub fn expect(&mut self, frame: &[u8]) {
        match self.next(Duration::from_secs(2)) {
            Some(got) if got == frame => {}
            Some(got) => panic!(
                "on {}\nexpected {}\n     got {}",
                self.name,
                hex(frame),
                hex(&got)
            ),
            None => panic!("on {}\nexpected {}\n     got nothing", self.name, hex(frame)),
        }
    }

    /// Demands silence for `time`.
    ///
    /// # Panics
    /// If a frame arrives.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        if let Some(frame) = self.next(time) {
            panic!("on {} nothing must arrive, but did: {}", self.name, hex(&frame));
        }
    }
}

/// The first bytes, for messages.
fn hex(frame: &[u8]) -> String {
    let shown: Vec<String> = frame.iter().take(96).map(|b| format!("{b:02x}")).collect();
    format!("{} bytes: {}", frame.len(), shown.join(" "))
}
