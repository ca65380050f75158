//! An AF_XDP application on xsk-rs and libxdp: the independent counterpart for Clearway's own rings.
//!
//! ```text
//! xsk-peer IFACE QUEUE echo                                      swaps the MAC addresses, sends back, until SIGTERM
//! xsk-peer IFACE QUEUE count N [--timeout SECS]                  receives N frames that `send` made, and checks them
//! xsk-peer IFACE QUEUE send N [--size BYTES] [--dst MAC] [--src MAC] [--pps RATE]
//! ```
//!
//! Prints `ready` when the socket is bound, and one JSON object at its end. libxdp attaches its own program, which
//! takes every frame of the queue: give it an interface that it may own. Copy mode; frames up to 3.5 kB.
//!
//! `send` makes frames of EtherType 0x88b5 (IEEE 802 local experiment) with magic, number and a pattern that depends
//! on the number, so `count` tells lost, duplicate and corrupt frames apart.
//!
//! It uses `unsafe` because xsk-rs's ring calls are unsafe: their one rule is that a frame handed to a ring is not
//! touched until it comes back from the ring's counterpart. [`Peer`] keeps it: descriptors live in `free` (ours), or
//! in a ring, never in both.

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

/// Half of them to receive into: at 20,000 frames a second that is 0.8 s of waiting for a processor.
const FRAMES: u32 = 32768;
const BATCH: usize = 64;
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
const MAGIC: &[u8; 4] = b"xskp";
/// MAC addresses, EtherType, magic, number.
const HEADER: usize = 14 + 4 + 8;

struct Args {
    iface: String,
    queue: u32,
    mode: Mode,
}

enum Mode {
    Echo,
    Count {
        frames: u64,
        timeout: Duration,
    },
    Send {
        frames: u64,
        size: usize,
        dst: [u8; 6],
        src: [u8; 6],
        pps: u64,
    },
}

fn main() -> ExitCode {
    let run = parse(std::env::args().skip(1).collect()).and_then(|args| {
        let peer = Peer::open(&args.iface, args.queue, &args.mode)?;
        println!("ready");
        std::io::stdout()
            .flush()
            .map_err(|e| format!("cannot write to stdout: {e}"))?;
        match args.mode {
            Mode::Echo => peer.echo(),
            Mode::Count { frames, timeout } => peer.count(frames, timeout),
            Mode::Send {
                frames,
                size,
                dst,
                src,
                pps,
            } => peer.send(frames, size, dst, src, pps),
        }
    });
    match run {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("xsk-peer: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: Vec<String>) -> Result<Args, String> {
    let usage = "usage: xsk-peer IFACE QUEUE echo | count N [--timeout SECS] | send N [--size BYTES] [--dst MAC] [--src MAC] [--pps RATE]";
    let [iface, queue, mode, rest @ ..] = words.as_slice() else {
        return Err(usage.into());
    };
    let number = |s: &str| s.parse::<u64>().map_err(|e| format!("'{s}': {e}; {usage}"));
    let mut frames = None;
    let (mut timeout, mut size, mut pps) = (10, 64, 100_000);
    let (mut dst, mut src) = ([0xff; 6], [2, 0, 0, 0, 0x78, 1]);
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{word} needs a value; {usage}"));
        match word.as_str() {
            "--timeout" => timeout = number(value()?)?,
            "--size" => size = number(value()?)? as usize,
            "--pps" => pps = number(value()?)?.max(1),
            "--dst" => dst = mac(value()?)?,
            "--src" => src = mac(value()?)?,
            n => frames = Some(number(n)?),
        }
    }
    if !(60..=3500).contains(&size) {
        return Err(format!("--size {size}: 60 to 3500 bytes"));
    }
    let need = frames.ok_or_else(|| format!("how many frames? {usage}"));
    let mode = match mode.as_str() {
        "echo" => Mode::Echo,
        "count" => Mode::Count {
            frames: need?,
            timeout: Duration::from_secs(timeout),
        },
        "send" => Mode::Send {
            frames: need?,
            size,
            dst,
            src,
            pps,
        },
        other => return Err(format!("no mode '{other}'; {usage}")),
    };
    Ok(Args {
        iface: iface.clone(),
        queue: number(queue)? as u32,
        mode,
    })
}

fn mac(s: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<u8> = s
        .split(':')
        .filter_map(|b| u8::from_str_radix(b, 16).ok())
        .collect();
    bytes
        .try_into()
        .map_err(|_| format!("'{s}' is not a MAC address"))
}

struct Peer {
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Frames in no ring.
    free: Vec<FrameDesc>,
    /// Set by SIGTERM and SIGINT.
    stop: Arc<AtomicBool>,
}

impl Peer {
    fn open(iface: &str, queue: u32, mode: &Mode) -> Result<Peer, String> {
        let ring = QueueSize::new(FRAMES / 2).map_err(|e| e.to_string())?;
        // Who only sends needs no program, and then any interface will do.
        let program = match mode {
            Mode::Send { .. } => LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD,
            Mode::Echo | Mode::Count { .. } => LibxdpFlags::empty(),
        };
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(4096).map_err(|e| e.to_string())?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|e| e.to_string())?;
        let frames = FRAMES.try_into().map_err(|_| "no frames")?;
        let (umem, mut free) = Umem::new(config, frames, false)
            .map_err(|e| format!("cannot make a UMEM of {FRAMES} frames: {e}"))?;
        let name = iface
            .parse()
            .map_err(|e| format!("'{iface}' is not an interface name: {e:?}"))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .libxdp_flags(program)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: the UMEM is this process's alone, and lives in `Peer` beside the rings.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &name, queue) }
            .map_err(|e| format!("cannot bind an AF_XDP socket to {iface} queue {queue}: {e:?}"))?;
        let (mut fill, completion) =
            rings.ok_or("no fill and completion ring for the first socket of a UMEM")?;
        let filled = free.split_off(free.len() / 2);
        // SAFETY: these frames leave `free` here and come back from the receive ring.
        let n = unsafe { fill.produce(&filled) };
        if n != filled.len() {
            return Err(format!("the fill ring took {n} of {} frames", filled.len()));
        }
        Ok(Peer {
            umem,
            rx,
            tx,
            fill,
            completion,
            free,
            stop: catch_signals()?,
        })
    }

    fn echo(mut self) -> Result<serde_json::Value, String> {
        let mut echoed = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let frames = self.receive()?;
            let mut out = Vec::with_capacity(frames.len());
            for mut frame in frames {
                // SAFETY: the frame came out of the receive ring: it is ours until we send it.
                let mut data = unsafe { self.umem.data_mut(&mut frame) };
                if let Some((addresses, _)) = data.contents_mut().split_at_mut_checked(12) {
                    let (dst, src) = addresses.split_at_mut(6);
                    dst.swap_with_slice(src);
                }
                out.push(frame);
            }
            echoed += out.len();
            self.transmit(out)?;
        }
        Ok(serde_json::json!({ "echoed": echoed }))
    }

    fn count(mut self, frames: u64, timeout: Duration) -> Result<serde_json::Value, String> {
        let end = Instant::now() + timeout;
        let mut seen = HashSet::new();
        let (mut corrupt, mut duplicates, mut foreign, mut reordered, mut highest) = (0, 0, 0, 0, 0);
        while (seen.len() as u64) < frames && Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            for frame in self.receive()? {
                // SAFETY: the frame came out of the receive ring.
                let data = unsafe { self.umem.data(&frame) };
                match check(data.contents()) {
                    Check::Foreign => foreign += 1,
                    Check::Corrupt => corrupt += 1,
                    Check::Number(n) if !seen.insert(n) => duplicates += 1,
                    Check::Number(n) => {
                        reordered += u64::from(n < highest);
                        highest = highest.max(n);
                    }
                }
                self.refill(frame);
            }
        }
        let received = seen.len() as u64;
        Ok(serde_json::json!({
            "received": received, "lost": frames.saturating_sub(received), "corrupt": corrupt,
            "duplicates": duplicates, "reordered": reordered, "foreign": foreign,
        }))
    }

    fn send(
        mut self,
        frames: u64,
        size: usize,
        dst: [u8; 6],
        src: [u8; 6],
        pps: u64,
    ) -> Result<serde_json::Value, String> {
        let interval = Duration::from_secs_f64(1.0 / pps as f64);
        let (mut due, mut sent) = (Instant::now(), 0);
        while sent < frames && !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            // Nothing is caught up after a pause of this thread: a veth holds 256 frames (drivers/net/veth.c,
            // VETH_RING_SIZE) and drops what comes at once beyond them.
            due = due.max(now - interval * BATCH as u32);
            let mut out = Vec::new();
            while sent < frames && due <= now && out.len() < BATCH {
                due += interval;
                let Some(mut frame) = self.free.pop() else { break };
                // SAFETY: the frame is in no ring.
                let mut data = unsafe { self.umem.data_mut(&mut frame) };
                data.cursor()
                    .write_all(&build(sent, size, dst, src))
                    .map_err(|e| format!("a frame of {size} bytes: {e}"))?;
                out.push(frame);
                sent += 1;
            }
            if out.is_empty() {
                std::thread::sleep(Duration::from_micros(100));
            }
            self.transmit(out)?;
        }
        // All that was handed over is on the wire when the completion ring has given it back.
        let end = Instant::now() + Duration::from_secs(2);
        while self.free.len() < (FRAMES / 2) as usize && Instant::now() < end {
            self.transmit(Vec::new())?;
        }
        Ok(serde_json::json!({ "sent": sent, "uncompleted": (FRAMES / 2) as usize - self.free.len() }))
    }

    /// Waits up to 50 ms for frames.
    fn receive(&mut self) -> Result<Vec<FrameDesc>, String> {
        let mut frames = vec![FrameDesc::default(); BATCH];
        // SAFETY: descriptors that are written here come from the ring of this UMEM.
        match unsafe { self.rx.poll_and_consume(&mut frames, 50) } {
            Ok(n) => frames.truncate(n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => frames.clear(),
            Err(e) => return Err(format!("poll: {e}")),
        }
        Ok(frames)
    }

    fn refill(&mut self, frame: FrameDesc) {
        // SAFETY: the frame came out of the receive ring and is not used here again. The ring has room for all.
        unsafe { self.fill.produce_one(&frame) };
    }

    /// Hands frames to the transmit ring, kicks the kernel, and takes back what it has sent.
    fn transmit(&mut self, mut out: Vec<FrameDesc>) -> Result<(), String> {
        loop {
            // SAFETY: these frames are ours; those that the ring takes leave `out`.
            let n = unsafe { self.tx.produce(&out) };
            out.drain(..n);
            // EAGAIN and ENOBUFS: the kernel is busy; asked again in the next turn.
            let _ = self.tx.wakeup();
            self.reclaim();
            if out.is_empty() {
                return Ok(());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err("stopped while the transmit ring was full".into());
            }
        }
    }

    /// Takes sent frames back, and keeps the fill ring supplied with half of all frames.
    fn reclaim(&mut self) {
        let mut frames = [FrameDesc::default(); BATCH];
        // SAFETY: descriptors that are written here come from the ring of this UMEM.
        let n = unsafe { self.completion.consume(&mut frames) };
        self.free.extend_from_slice(&frames[..n]);
        while self.free.len() > (FRAMES / 2) as usize {
            let Some(frame) = self.free.pop() else { break };
            self.refill(frame);
        }
    }
}

enum Check {
    Foreign,
    Corrupt,
    Number(u64),
}

fn build(number: u64, size: usize, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    let mut frame = [&dst[..], &src, &ETHER_TYPE, MAGIC, &number.to_be_bytes()].concat();
    frame.extend((HEADER..size).map(|at| pattern(number, at)));
    frame
}

fn check(frame: &[u8]) -> Check {
    if frame.len() < HEADER || frame[12..14] != ETHER_TYPE || &frame[14..18] != MAGIC {
        return Check::Foreign;
    }
    let Some(number) = frame[18..].first_chunk().map(|b| u64::from_be_bytes(*b)) else {
        return Check::Foreign;
    };
    let whole = frame
        .iter()
        .enumerate()
        .skip(HEADER)
        .all(|(at, b)| *b == pattern(number, at));
    if whole {
        Check::Number(number)
    } else {
        Check::Corrupt
    }
}

fn pattern(number: u64, at: usize) -> u8 {
    (number as u8).wrapping_mul(31).wrapping_add(at as u8)
}

/// SIGTERM and SIGINT end the loops, so that the report is printed and libxdp takes its program off.
fn catch_signals() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| format!("cannot catch signal {signal}: {e}"))?;
    }
    Ok(stop)
}
