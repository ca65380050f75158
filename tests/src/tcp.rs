//! TCP between two namespaces with every byte checked, and a connection that is watched.

use crate::Netns;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CONNECT: Duration = Duration::from_secs(3);
/// Longer than a few retransmissions with their back-off (RFC 6298).
const STALL: Duration = Duration::from_secs(10);

/// Sends `bytes` from `client` to an echo server at `to` in `server`, and checks what comes back byte by byte.
/// Returns how long that took.
///
/// # Panics
/// If the connection fails, stalls, or a byte differs.
#[track_caller]
pub fn tcp_echo(client: &Netns, server: &Netns, to: &str, bytes: usize) -> Duration {
    let (addr, echo) = echo_server(server, to);
    let started = Instant::now();
    let mut stream = connect(client, addr);
    let mut writing = stream
        .try_clone()
        .unwrap_or_else(|e| panic!("cannot clone a socket: {e}"));
    std::thread::scope(|s| {
        s.spawn(move || {
            let mut pattern = Pattern::default();
            let mut left = bytes;
            while left > 0 {
                let chunk = pattern.take(left.min(16384));
                left -= chunk.len();
                if let Err(e) = writing.write_all(&chunk) {
                    eprintln!("writing to {addr} stopped with {left} bytes left: {e}");
                    return;
                }
            }
            let _ = writing.shutdown(std::net::Shutdown::Write);
        });
        let (mut pattern, mut got, mut buf) = (Pattern::default(), 0, vec![0; 65536]);
        loop {
            match stream.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => {
                    assert!(
                        pattern.take(n) == buf[..n],
                        "wrong bytes from {addr} after byte {got}"
                    );
                    got += n;
                }
                Err(e) => panic!("echo from {addr} stopped after {got} of {bytes} bytes: {e}"),
            }
        }
        assert_eq!(got, bytes, "echo from {addr} ended early");
    });
    let took = started.elapsed();
    drop(stream);
    echo.stop();
    took
}

/// Demands that no TCP connection from `client` to `to`, where `server` listens, comes about within a second.
///
/// # Panics
/// If one does.
#[track_caller]
pub fn tcp_refused(client: &Netns, server: &Netns, to: &str) {
    let (addr, echo) = echo_server(server, to);
    let result = client.enter(|| TcpStream::connect_timeout(&addr, Duration::from_secs(1)));
    echo.stop();
    assert!(
        result.is_err(),
        "a TCP connection from {} to {addr} must not come about",
        client.name()
    );
}

/// A TCP connection that makes one small exchange every few milliseconds until it is stopped.
#[derive(Debug)]
pub struct TcpProbe {
    echo: Echo,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<TcpProbeReport>,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct TcpProbeReport {
    /// Exchanges that came back.
    pub exchanges: u64,
    /// The longest that one took.
    pub longest: Duration,
    /// Why the connection broke, if it did.
    pub broken: Option<String>,
}

impl TcpProbe {
    /// Connects from `client` to `to` in `server`; exchanges are `interval` apart.
    ///
    /// # Panics
    /// If it cannot connect.
    #[track_caller]
    pub fn start(client: &Netns, server: &Netns, to: &str, interval: Duration) -> TcpProbe {
        let (addr, echo) = echo_server(server, to);
        let mut stream = connect(client, addr);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut report = TcpProbeReport {
                exchanges: 0,
                longest: Duration::ZERO,
                broken: None,
            };
            while !stopped.load(Ordering::Relaxed) {
                let (asked, mut reply) = (Instant::now(), [0; 8]);
                let question = report.exchanges.to_be_bytes();
                let result = stream
                    .write_all(&question)
                    .and_then(|()| stream.read_exact(&mut reply));
                report.longest = report.longest.max(asked.elapsed());
                match result {
                    Ok(()) if reply == question => report.exchanges += 1,
                    Ok(()) => report.broken = Some(format!("{reply:?} came back for {question:?}")),
                    Err(e) => report.broken = Some(e.to_string()),
                }
                if report.broken.is_some() {
                    break;
                }
                std::thread::sleep(interval);
            }
            report
        });
        TcpProbe { echo, stop, thread }
    }

    /// Ends it.
    #[track_caller]
    pub fn stop(self) -> TcpProbeReport {
        self.stop.store(true, Ordering::Relaxed);
        let report = self
            .thread
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p));
        self.echo.stop();
        report
    }
}

#[derive(Debug)]
struct Echo {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Echo {
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

/// Serves one connection at a time at a port of the kernel's choice.
#[track_caller]
fn echo_server(ns: &Netns, ip: &str) -> (SocketAddr, Echo) {
    let ip: IpAddr = ip.parse().unwrap_or_else(|e| panic!("'{ip}': {e}"));
    let listener = ns.enter(|| TcpListener::bind((ip, 0)));
    let listener = listener.unwrap_or_else(|e| panic!("cannot listen at {ip} in {}: {e}", ns.name()));
    let addr = listener
        .local_addr()
        .unwrap_or_else(|e| panic!("a listener without an address: {e}"));
    listener
        .set_nonblocking(true)
        .unwrap_or_else(|e| panic!("{addr}: {e}"));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, _)) => {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_nodelay(true);
                    let _ = stream.set_read_timeout(Some(STALL));
                    let _ = stream.set_write_timeout(Some(STALL));
                    let mut buf = vec![0; 65536];
                    while let Ok(n) = stream.read(&mut buf) {
                        if n == 0 || stream.write_all(&buf[..n]).is_err() {
                            break;
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        }
    });
    (addr, Echo { stop, thread })
}

#[track_caller]
fn connect(ns: &Netns, addr: SocketAddr) -> TcpStream {
    let stream = ns.enter(|| TcpStream::connect_timeout(&addr, CONNECT));
    let stream = stream.unwrap_or_else(|e| panic!("cannot connect from {} to {addr}: {e}", ns.name()));
    let set = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(STALL)))
        .and_then(|()| stream.set_write_timeout(Some(STALL)));
    set.unwrap_or_else(|e| panic!("{addr}: {e}"));
    stream
}

/// An endless stream of bytes without a short period.
struct Pattern(u64);

impl Default for Pattern {
    fn default() -> Self {
        Pattern(0x9e37_79b9_7f4a_7c15)
    }
}

impl Pattern {
    fn take(&mut self, n: usize) -> Vec<u8> {
        let mut next = || {
            // xorshift64 (Marsaglia 2003)
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 as u8
        };
        (0..n).map(|_| next()).collect()
    }
}
