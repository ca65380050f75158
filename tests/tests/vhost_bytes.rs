//! Every byte of frames from 60 to 9000 bytes between two of DPDK's virtio_user, in every shape of ring: through a bridge
//! domain, with a VLAN tag pushed and popped, into VXLAN and out of it; through the bridge domain also with two queues, and
//! with DPDK's end of the socket listening. What is sent and what arrives are capture files of testpmd's, compared frame by
//! frame, in their order; none may be missing.
//!
//! ```text
//!   file ─► testpmd ─ virtio_user ═ a ─ Clearway ─ b ═ virtio_user ─ testpmd ─► file        both directions at once
//! ```

use clearway_tests::frame::{self, EXPERIMENT, IPV4, Mac, Tag, ethernet};
use clearway_tests::{Daemon, Ledger, Netns, Testpmd, ready};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Stations behind the two ports, and the ends of the tunnel.
const A: Mac = Mac::local(1);
const B: Mac = Mac::local(2);
const OURS: Mac = Mac([2, 0, 0, 0, 0x99, 1]);
const NEXT_HOP: Mac = Mac([2, 0, 0, 0, 0x99, 2]);
const LOCAL: [u8; 4] = [10, 9, 0, 1];
const REMOTE: [u8; 4] = [10, 9, 0, 2];

/// Around minima, maxima and powers of two, and around what fits a buffer of DPDK's (2048 bytes with the header of 12, or
/// without it) once or several times.
const SIZES: [usize; 32] = [
    60, 61, 63, 64, 65, 127, 128, 255, 256, 257, 268, 511, 512, 513, 1023, 1024, 1500, 1514, 1518, 2035,
    2036, 2037, 2047, 2048, 2049, 4083, 4085, 4096, 6000, 8191, 8999, 9000,
];
/// Rounds over all sizes: rings of 256 entries come around.
const ROUNDS: u32 = 3;

/// What two guests send, and what becomes of it.
struct Way {
    config: fn(a: &str, b: &str) -> String,
    /// What the guest at `b` sends or receives for this frame of the guest at `a`.
    at_b: fn(frame: &[u8], sent: bool) -> Vec<u8>,
    /// Takes out what is Clearway's choice, once it is within its limits.
    seen_at_b: fn(frame: Vec<u8>) -> Vec<u8>,
}

/// How the guests are joined with Clearway.
#[derive(Clone, Copy)]
struct Ends {
    queues: u16,
    /// The guests listen, and Clearway connects.
    guests_listen: bool,
}

const PLAIN: Ends = Ends {
    queues: 1,
    guests_listen: false,
};

/// The frames of one round from a station, as they are at `a`.
fn frames(round: u32, dst: Mac, src: Mac) -> Vec<Vec<u8>> {
    let one = |(n, len): (usize, &usize)| {
        let number = 1000 * round + 2 * n as u32 + 1;
        let bytes = frame::payload(number, len - 14);
        if n % 2 == 0 || *len < 64 {
            return ethernet(dst, src, &[], EXPERIMENT, &bytes);
        }
        let hosts = [1, 2].map(|n| (std::net::IpAddr::from([10, 0, 0, n]), 7000));
        ethernet(dst, src, &[], IPV4, &frame::udp(hosts[0], hosts[1], &bytes[28..]))
    };
    SIZES.iter().enumerate().map(one).collect()
}

/// In every shape of ring at `a`; at `b` packed rings are split ones, and the other way round.
#[track_caller]
fn every_byte(way: &Way, ends: Ends) {
    let ns = Netns::quiet("fwd");
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let Ends {
        queues,
        guests_listen,
    } = ends;
    let keys = format!("mtu: 9216, queue-pairs: {queues}, client: {guests_listen}");
    let config = (way.config)(&path("a"), &path("b")).replace("mtu: 9216", &keys);
    let daemon = Daemon::start(&ns, &config);
    for shape in 0..8 {
        let guest = |port: &str, packed: bool| {
            let (in_order, mergeable) = (shape & 2 != 0, shape & 4 != 0);
            let device = format!(
                "path={},mac=02:00:00:00:00:ff,packed_vq={},in_order={},mrg_rxbuf={},server={}",
                path(port),
                u8::from(packed),
                u8::from(in_order),
                u8::from(mergeable),
                u8::from(guests_listen),
            );
            let folder = dir.path().join(format!("{port}-files"));
            std::fs::create_dir_all(&folder).expect("a folder for files");
            // Without mergeable buffers each must hold the largest frame; with them that lies in five.
            let size = if mergeable { 2048 } else { 10240 } + 128;
            let args = format!("--mbuf-size={size} --total-num-mbufs=4096");
            Testpmd::with_files(&ns, &device, queues, &folder, &args)
        };
        let (mut a, mut b) = (guest("a", shape & 1 != 0), guest("b", shape & 1 == 0));
        for round in 0..ROUNDS {
            let what = format!("shape {shape:03b}, round {round}");
            exchange(way, &daemon, &mut a, &mut b, round, &what);
        }
        a.quit();
        b.quit();
    }
    let all = u64::from(8 * ROUNDS) * 2 * SIZES.len() as u64;
    let wanted = Ledger {
        received: all,
        sent: all,
        ..Ledger::default()
    };
    assert_eq!(daemon.assert_ledger(), wanted);
    daemon.stop();
}

#[track_caller]
fn exchange(way: &Way, daemon: &Daemon<'_>, a: &mut Testpmd, b: &mut Testpmd, round: u32, what: &str) {
    let (from_a, to_a) = (frames(round, B, A), frames(round + 100, A, B));
    let at_b = |frames: &[Vec<u8>], sent| frames.iter().map(|f| (way.at_b)(f, sent)).collect::<Vec<_>>();
    let (to_b, from_b) = (at_b(&from_a, false), at_b(&to_a, true));
    let before = [a.stats().received, b.stats().received];
    a.write(&from_a);
    b.write(&from_b);
    for guest in [&mut *a, &mut *b] {
        guest.say("start");
    }
    let end = Instant::now() + PATIENCE;
    let all = SIZES.len() as u64;
    while [a.stats().received, b.stats().received] != before.map(|n| n + all) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let got_b: Vec<_> = b.take().into_iter().map(way.seen_at_b).collect();
    same(&got_b, &to_b, &format!("{what}, from a to b"), daemon);
    same(&a.take(), &to_a, &format!("{what}, from b to a"), daemon);
}

#[track_caller]
fn same(got: &[Vec<u8>], wanted: &[Vec<u8>], what: &str, daemon: &Daemon<'_>) {
    for (n, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let at = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
        assert!(
            got == wanted,
            "{what}: frame {n} of {} bytes arrived with {}, byte {at:?} differs",
            wanted.len(),
            got.len(),
        );
    }
    assert_eq!(got.len(), wanted.len(), "{what}: frames\n{}", daemon.explain());
}

fn unchanged(frame: Vec<u8>) -> Vec<u8> {
    frame
}

const BRIDGED: Way = Way {
    config: |a, b| {
        format!(
            "ports:
  a: {{kind: vhost-user, socket: '{a}', access: lan, mtu: 9216}}
  b: {{kind: vhost-user, socket: '{b}', access: lan, mtu: 9216}}
bridge-domains:
  lan: {{}}
"
        )
    },
    at_b: |frame, _| frame.to_vec(),
    seen_at_b: unchanged,
};

#[test]
fn through_a_bridge_domain() {
    if ready() {
        every_byte(&BRIDGED, PLAIN);
    }
}

/// What comes from one queue of a guest goes to that of the other, in order.
#[test]
fn through_a_bridge_domain_on_two_queues() {
    if ready() {
        every_byte(&BRIDGED, Ends { queues: 2, ..PLAIN });
    }
}

#[test]
fn through_a_bridge_domain_between_guests_that_listen() {
    if ready() {
        let guests_listen = true;
        every_byte(
            &BRIDGED,
            Ends {
                guests_listen,
                ..PLAIN
            },
        );
    }
}

#[test]
fn between_an_access_port_and_a_trunk() {
    if !ready() {
        return;
    }
    let way = Way {
        config: |a, b| {
            format!(
                "ports:
  a: {{kind: vhost-user, socket: '{a}', access: lan, mtu: 9216}}
  b: {{kind: vhost-user, socket: '{b}', trunk: [1234], mtu: 9216}}
bridge-domains:
  lan: {{vlan: 1234}}
"
            )
        },
        at_b: |frame, _| {
            let tag = Tag::c(1234);
            let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
            let mac = |at: usize| Mac(frame[at..at + 6].try_into().expect("six bytes"));
            ethernet(mac(0), mac(6), &[tag], ether_type, &frame[14..])
        },
        seen_at_b: unchanged,
    };
    every_byte(&way, PLAIN);
}

#[test]
fn into_vxlan_and_out_of_it() {
    if !ready() {
        return;
    }
    let way = Way {
        config: |a, b| {
            format!(
                "ports:
  a: {{kind: vhost-user, socket: '{a}', access: lan, mtu: 9216}}
  b: {{kind: vhost-user, socket: '{b}', mtu: 9216}}
bridge-domains:
  lan: {{vni: 100, remotes: [10.9.0.2]}}
vteps:
  v: {{local: 10.9.0.1, port: b, mac: '{OURS}', next-hop: '{NEXT_HOP}'}}
"
            )
        },
        at_b: |frame, sent| {
            let ends = [
                ((OURS, LOCAL), (NEXT_HOP, REMOTE)),
                ((NEXT_HOP, REMOTE), (OURS, LOCAL)),
            ];
            let (src, dst) = ends[usize::from(sent)];
            // A sender may have a checksum; ours has none unless it is told to.
            frame::vxlan(dst, src, if sent { 50000 } else { 0 }, sent, frame)
        },
        seen_at_b: frame::without_vxlan_flow,
    };
    every_byte(&way, PLAIN);
}
