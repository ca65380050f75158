//! A counted flow: numbered UDP datagrams at a steady rate, and what became of each.

use crate::Netns;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Datagrams that the receiver's socket can hold: 64 MiB are minutes of any rate used here, so that a receiver that
/// waits for its processor is not taken for a network that loses.
const RCVBUF: usize = 64 << 20;

/// A flow that runs until it is stopped.
#[derive(Debug)]
pub struct Flow {
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Received>,
}

/// What became of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Different datagrams received.
    pub received: u64,
    /// Datagrams sent and never received.
    pub lost: u64,
    /// Datagrams received once more.
    pub duplicates: u64,
    /// Datagrams received after a later one.
    pub reordered: u64,
    /// The longest silence between two datagrams.
    pub longest_gap: Duration,
}

#[derive(Debug, Default)]
struct Received {
    /// One bit for each number seen.
    seen: Vec<u64>,
    unique: u64,
    duplicates: u64,
    reordered: u64,
    longest_gap: Duration,
}

impl Flow {
    /// Starts `pps` datagrams a second of `size` bytes from `from` to address `to` in `at`.
    ///
    /// # Panics
    /// If a socket cannot be opened.
    #[track_caller]
    pub fn start(from: &Netns, at: &Netns, to: &str, pps: u32, size: usize) -> Flow {
        Flow::start_skipping(from, at, to, pps, size, |_| false)
    }

    /// The same, leaving out the numbers for which `skip` holds: they count as sent, and are lost for certain.
    #[track_caller]
    pub fn start_skipping(
        from: &Netns,
        at: &Netns,
        to: &str,
        pps: u32,
        size: usize,
        skip: impl Fn(u64) -> bool + Send + 'static,
    ) -> Flow {
        let ip: IpAddr = to.parse().unwrap_or_else(|e| panic!("'{to}': {e}"));
        let rx = at.enter(|| UdpSocket::bind((ip, 0)));
        let rx = rx.unwrap_or_else(|e| panic!("cannot bind {ip} in {}: {e}", at.name()));
        setsockopt(&rx, sockopt::RcvBufForce, &RCVBUF).unwrap_or_else(|e| panic!("SO_RCVBUFFORCE: {e}"));
        rx.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap_or_else(|e| panic!("{e}"));
        let dst = rx.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let any: SocketAddr = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }
            .parse()
            .expect("a literal");
        let tx = from.enter(|| UdpSocket::bind(any).and_then(|s| s.connect(dst).map(|()| s)));
        let tx = tx.unwrap_or_else(|e| panic!("cannot reach {dst} from {}: {e}", from.name()));

        let (stop_sending, stop_receiving) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (s, r) = (Arc::clone(&stop_sending), Arc::clone(&stop_receiving));
        let sender = std::thread::spawn(move || send(&tx, pps, size.max(8), &skip, &s));
        let receiver = std::thread::spawn(move || receive(&rx, &r));
        Flow {
            stop_sending,
            stop_receiving,
            sender,
            receiver,
        }
    }

    /// Stops sending, waits until all that is on its way has arrived, and counts.
    pub fn stop(self) -> FlowReport {
        self.stop_sending.store(true, Ordering::Relaxed);
        let sent = self
            .sender
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p));
        std::thread::sleep(Duration::from_millis(300));
        self.stop_receiving.store(true, Ordering::Relaxed);
        let r = self
            .receiver
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p));
        FlowReport {
            sent,
            received: r.unique,
            lost: sent - r.unique,
            duplicates: r.duplicates,
            reordered: r.reordered,
            longest_gap: r.longest_gap,
        }
    }

    /// Runs it for `time`, then stops it.
    pub fn run(self, time: Duration) -> FlowReport {
        std::thread::sleep(time);
        self.stop()
    }
}

impl FlowReport {
    /// Demands that every datagram arrived, once and in order.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert!(self.sent > 0, "the flow did not run");
        assert!(
            self.lost == 0 && self.duplicates == 0 && self.reordered == 0,
            "{self:?}"
        );
    }
}

/// Sends in steps of a millisecond: a sleep for every datagram would be longer than its interval.
fn send(tx: &UdpSocket, pps: u32, size: usize, skip: &dyn Fn(u64) -> bool, stop: &AtomicBool) -> u64 {
    let (start, mut next, mut buf) = (Instant::now(), 0u64, vec![0; size]);
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(pps)) as u64;
        // A sender that was held up does not make up for it in one burst: that would test the receiver's buffers.
        let burst = due.saturating_sub(next).min(64);
        for _ in 0..burst {
            buf[..8].copy_from_slice(&next.to_be_bytes());
            if !skip(next) && tx.send(&buf).is_err() {
                // Refused on this side (ENOBUFS, or ECONNREFUSED reported late): not sent, same number again.
                continue;
            }
            next += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    next
}

fn receive(rx: &UdpSocket, stop: &AtomicBool) -> Received {
    let (mut r, mut buf, mut highest, mut last) =
        (Received::default(), vec![0; 65536], None, None::<Instant>);
    loop {
        let Ok(len) = rx.recv(&mut buf) else {
            // Silence, and nothing more will be sent: what waited in the socket has been read.
            if stop.load(Ordering::Relaxed) {
                return r;
            }
            continue;
        };
        let Some(number) = buf[..len].first_chunk::<8>().map(|b| u64::from_be_bytes(*b)) else {
            continue;
        };
        let now = Instant::now();
        if let Some(last) = last {
            r.longest_gap = r.longest_gap.max(now - last);
        }
        last = Some(now);
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if word >= r.seen.len() {
            r.seen.resize(word + 1, 0);
        }
        if r.seen[word] & bit != 0 {
            r.duplicates += 1;
            continue;
        }
        r.seen[word] |= bit;
        r.unique += 1;
        if highest.is_some_and(|h| number < h) {
            r.reordered += 1;
        }
        highest = highest.max(Some(number));
    }
}
