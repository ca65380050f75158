//! VXLAN whose underlay our kernel knows nothing of: the next hop is configured. The uplink is a guest of the mock
//! driver, which sees every byte, an interface, or a TAP.

use clearway_tests::frame::{ARP, EXPERIMENT, Mac, ethernet, payload, vxlan, without_vxlan_flow};
use clearway_tests::{Daemon, Ledger, Netns, Ping, RawPort, Veth, Vxlan, ready, wait_for};
use clearway_virtio_mock::{FrontEnd, Guest, GuestOptions, NetHeader, Queue, Shape, protocol};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Ours in the underlay, and the next hop's.
const OURS: Mac = Mac([2, 0, 0, 0, 0x99, 1]);
const NEXT_HOP: Mac = Mac([2, 0, 0, 0, 0x99, 2]);
const LOCAL: [u8; 4] = [10, 9, 0, 1];
const REMOTE: [u8; 4] = [10, 9, 0, 2];
/// A station at the guest, and one behind the remote.
const HERE: Mac = Mac::local(1);
const THERE: Mac = Mac::local(2);

/// A guest whose driver runs, and its buffers.
struct Machine {
    guest: Guest,
    _front: FrontEnd,
}

impl Machine {
    /// Connects to a socket as soon as somebody listens. Buffers for what arrives are of so many bytes.
    fn new(socket: &Path, buffer: usize) -> Machine {
        let mut front = wait_for("a listening socket", SOON, || FrontEnd::connect(socket).ok());
        let mut guest = Guest::new(&GuestOptions::default());
        front
            .start(&guest, protocol::REPLY_ACK | protocol::MQ)
            .expect("a front-end that is served");
        guest.rx().fill(buffer, Shape::default());
        guest.rx().flush();
        Machine { guest, _front: front }
    }

    fn send(&mut self, frame: &[u8]) {
        let tx = self.guest.tx();
        tx.reap();
        assert!(tx.send(NetHeader::default(), frame, Shape::default()), "room");
        tx.flush();
    }

    fn receive(&mut self) -> Vec<u8> {
        wait_for("a frame", SOON, || self.guest.rx().receive()).frame
    }

    fn is_silent(&mut self) -> bool {
        self.guest.rx().receive().is_none()
    }
}

fn queue_is_free(queue: &mut Queue) -> bool {
    queue.reap();
    queue.ring.outstanding() == 0
}

/// A frame of a station in the overlay, of so many bytes.
fn inner(dst: Mac, src: Mac, len: usize) -> Vec<u8> {
    ethernet(dst, src, &[], EXPERIMENT, &payload(len as u32, len - 14))
}

fn config(uplink: &str, a: &Path, vtep: &str) -> String {
    format!(
        "ports:
  a: {{kind: vhost-user, socket: {a}, access: lan, mtu: 9216}}
  up: {uplink}
bridge-domains:
  lan: {{vni: 100, remotes: [10.9.0.2]}}
vteps:
  v: {{local: 10.9.0.1, port: up, mac: '{OURS}', next-hop: '{NEXT_HOP}'{vtep}}}
",
        a = a.display()
    )
}

#[test]
fn a_guest_is_the_uplink() {
    if !ready() {
        return;
    }
    let ns = Netns::quiet("fwd");
    let dir = tempfile::tempdir().expect("a folder");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let uplink = format!("{{kind: vhost-user, socket: {}, mtu: 9216}}", b.display());
    let daemon = Daemon::start(&ns, &config(&uplink, &a, ""));
    // One takes frames in one buffer each, the other in many.
    let (mut a, mut b) = (Machine::new(&a, 9300), Machine::new(&b, 1500));

    let tunnels = daemon.get("tunnels");
    let tunnel = &tunnels[0];
    assert_eq!(tunnel["state"], "up", "{tunnel}");
    assert_eq!(tunnel["port"], "up", "{tunnel}");
    assert_eq!(tunnel["next_hop_mac"], NEXT_HOP.to_string(), "{tunnel}");
    assert_eq!(tunnel["mtu"], 9216, "{tunnel}");
    let table = daemon.cli("get tunnels");
    assert!(table.contains(" configured "), "{table}");

    let sizes = [60, 1450, 9000];
    for len in sizes {
        let frame = inner(THERE, HERE, len);
        a.send(&frame);
        let wanted = vxlan((NEXT_HOP, REMOTE), (OURS, LOCAL), 0, false, &frame);
        assert_eq!(without_vxlan_flow(b.receive()), wanted, "{len} bytes into VXLAN");
    }
    for len in sizes {
        let frame = inner(HERE, THERE, len);
        let mut sent = vxlan((OURS, LOCAL), (NEXT_HOP, REMOTE), 0, false, &frame);
        sent[34] = 0xc1;
        b.send(&sent);
        assert_eq!(a.receive(), frame, "{len} bytes out of VXLAN");
    }
    assert_eq!(daemon.fdb_port("lan", THERE).as_deref(), Some("10.9.0.2"));

    // Nobody but Clearway has the address; only it can say where it is.
    let arp = |op: u8, sha: Mac, spa: [u8; 4], tha: Mac, tpa: [u8; 4]| {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, op];
        bytes.extend([&sha.0[..], &spa, &tha.0, &tpa].concat());
        bytes.resize(46, 0);
        bytes
    };
    let question = arp(1, NEXT_HOP, REMOTE, Mac([0; 6]), LOCAL);
    b.send(&ethernet(Mac::BROADCAST, NEXT_HOP, &[], ARP, &question));
    let answer = arp(2, OURS, LOCAL, NEXT_HOP, REMOTE);
    assert_eq!(b.receive(), ethernet(NEXT_HOP, OURS, &[], ARP, &answer));

    for machine in [&mut a, &mut b] {
        assert!(machine.is_silent());
        wait_for("all buffers back", SOON, || {
            queue_is_free(machine.guest.tx()).then_some(())
        });
    }
    let wanted = Ledger {
        received: 7,
        generated: 1,
        sent: 7,
        consumed: 1,
        ..Ledger::default()
    };
    assert_eq!(daemon.assert_ledger(), wanted);
    daemon.stop();
}

#[test]
fn an_interface_is_the_uplink_without_a_route_or_an_address() {
    if !ready() {
        return;
    }
    let (ns, wire) = (Netns::quiet("fwd"), Netns::quiet("wire"));
    Veth::new((&ns, "up0"), (&wire, "eth0"))
        .macs(OURS, NEXT_HOP)
        .mtu(9216)
        .up();
    let dir = tempfile::tempdir().expect("a folder");
    let a = dir.path().join("a");
    let uplink = "{kind: af-xdp, interface: up0, steering: shared}";
    let daemon = Daemon::start(&ns, &config(uplink, &a, ", mtu: 1500"));
    let (mut a, mut wire) = (Machine::new(&a, 9300), RawPort::open(&wire, "eth0"));
    let tunnels = daemon.get("tunnels");
    assert_eq!(
        (&tunnels[0]["state"], &tunnels[0]["mtu"]),
        (&"up".into(), &1500.into())
    );

    let frame = inner(THERE, HERE, 1450);
    a.send(&frame);
    let sent = wire.find("a frame in VXLAN", |frame| frame[12..14] == [8, 0]);
    let wanted = vxlan((NEXT_HOP, REMOTE), (OURS, LOCAL), 0, false, &frame);
    assert_eq!(without_vxlan_flow(sent), wanted);
    let frame = inner(HERE, THERE, 1450);
    wire.send(&vxlan((OURS, LOCAL), (NEXT_HOP, REMOTE), 0, false, &frame));
    assert_eq!(a.receive(), frame);
    daemon.stop();
}

/// The kernel at the other end of the uplink, a TAP, asks for the VTEP's address before it sends anything there.
#[test]
fn a_tap_is_the_uplink_to_a_kernel_that_asks_who_we_are() {
    if !ready() {
        return;
    }
    for (local, remote, len) in [("10.9.0.1", "10.9.0.2", 24), ("fd09::1", "fd09::2", 64)] {
        let (ns, pod, peer) = (Netns::quiet("fwd"), Netns::new("pod"), Netns::new("peer"));
        let tap = |ns: &Netns| format!("kind: tap, interface: eth0, netns: {}", ns.name());
        let config = format!(
            "ports:
  pod: {{{}, access: lan}}
  up: {{{}, mac: '{NEXT_HOP}', mtu: 1600}}
bridge-domains:
  lan: {{vni: 100, remotes: ['{remote}']}}
vteps:
  v: {{local: '{local}', port: up, mac: '{OURS}', next-hop: '{NEXT_HOP}'}}
",
            tap(&pod),
            tap(&peer)
        );
        let daemon = Daemon::start(&ns, &config);
        pod.addr("eth0", "10.77.0.1/24");
        peer.addr("eth0", &format!("{remote}/{len}"));
        Vxlan::new(100, remote, local).up(&peer, "vx0", "eth0");
        peer.addr("vx0", "10.77.0.2/24");
        Ping::new("10.77.0.1").args("-M do -s 1400").all(&peer);
        Ping::new("10.77.0.2").all(&pod);
        let known = peer.run(&format!("ip neigh show {local} dev eth0"));
        assert!(known.contains(&OURS.to_string()), "{known}");
        let ledger = daemon.assert_ledger();
        assert!(
            ledger.generated > 0 && ledger.generated == ledger.consumed,
            "{ledger:?}"
        );
        daemon.stop();
    }
}
