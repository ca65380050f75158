//! Tests of this module against the kernel, in network namespaces of their own and without any outside traffic.
//!
//! They need root, as `make test` has; without it they fail. The test's thread moves into a namespace that dies
//! with it ([`isolate`]); a second host is a named namespace ([`Far`]), as a container runtime would make it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clearway_wire::MacAddr;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::doctor::{Severity, doctor};
use super::facts::{AfXdpMode, Facts};
use super::links::{IfIndex, Link, LinkEvent, LinkState, LinkWatch, XdpMode};
use super::napi::NapiKnobs;
use super::offload::{self, Warning};
use super::promisc::Promiscuous;
use super::restore::{Changes, Leftover, restore_leftovers};
use super::routes::{NextHop, Resolution, Unresolved, Wanted};
use super::watch::{NextHopWatch, Timing};
use super::{Host, HostError};

const SOON: Duration = Duration::from_secs(5);

/// Moves this test's thread into a network namespace of its own.
pub(super) fn isolate() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: run them as `make test` does");
    sh("ip link set lo up");
}

/// Runs a command line in this thread's network namespace.
pub(super) fn sh(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("sh exists");
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("tools print UTF-8")
}

/// A named network namespace, deleted when the test ends, also by a panic.
pub(super) struct Far(String);

impl Far {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "host-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        sh(&format!("ip netns add {name}"));
        Self(name)
    }

    pub(super) fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.0))
    }

    /// A veth pair between us (`near`, 10.9.0.1, fd09::1) and here (`far`, 10.9.0.2, fd09::2).
    pub(super) fn attach(&self) {
        sh(&format!(
            "ip link add near type veth peer name far netns {}",
            self.0
        ));
        for (run, interface, number) in [
            ("", "near", 1),
            (&*format!("ip netns exec {} ", self.0), "far", 2),
        ] {
            sh(&format!("{run}ip address add 10.9.0.{number}/24 dev {interface}"));
            sh(&format!(
                "{run}ip address add fd09::{number}/64 dev {interface} nodad"
            ));
            sh(&format!("{run}ip link set {interface} up"));
        }
    }

    /// Another namespace of the same name; the interfaces in this one are gone.
    fn replaced(self) -> Self {
        sh(&format!("ip netns delete {0} && ip netns add {0}", self.0));
        self
    }

    fn mac(&self) -> MacAddr {
        self.sh("cat /sys/class/net/far/address")
            .trim()
            .parse()
            .expect("sysfs prints a MAC address")
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn vtep(remote: &str) -> Wanted {
    Wanted {
        remote: ip(remote),
        local: None,
        udp_port: 4789,
    }
}

/// `ethtool -k`, by its own names.
fn ethtool(run: &str, interface: &str) -> BTreeMap<String, String> {
    sh(&format!("{run} ethtool -k {interface}"))
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .collect()
}

#[test]
fn the_inventory_is_what_ip_lists() {
    isolate();
    let far = Far::new();
    far.attach();
    sh("ip link add br0 type bridge && ip link add v0 numrxqueues 3 numtxqueues 2 type veth peer name v1");
    sh("ip link set v0 master br0 && ip link set v1 mtu 9000 up");
    let mut host = Host::open().expect("root can open a host");
    let links = host.links().expect("interfaces can be listed");
    let listed: Vec<Value> = serde_json::from_str(&sh("ip -j -d link")).expect("ip prints JSON");
    assert_eq!(links.len(), listed.len());
    for (link, listed) in links.iter().zip(&listed) {
        let flags = listed["flags"].as_array().expect("flags are a list");
        assert_eq!(link.name, listed["ifname"].as_str().unwrap_or_default());
        assert_eq!(u64::from(link.ifindex.0), listed["ifindex"]);
        assert_eq!(u64::from(link.mtu), listed["mtu"]);
        assert_eq!(link.up, flags.iter().any(|flag| flag == "UP"), "{}", link.name);
        assert_eq!(
            link.carrier,
            flags.iter().any(|flag| flag == "LOWER_UP"),
            "{}",
            link.name
        );
        assert_eq!(link.kind.as_deref(), listed["linkinfo"]["info_kind"].as_str());
        assert_eq!(link.ethernet, listed["link_type"] == "ether");
        if link.ethernet {
            assert_eq!(
                link.mac.map(|mac| mac.to_string()).as_deref(),
                listed["address"].as_str()
            );
        }
        assert_eq!(u64::from(link.allocated.rx), listed["num_rx_queues"]);
        assert_eq!(u64::from(link.allocated.tx), listed["num_tx_queues"]);
        assert_eq!(link.lower_netnsid.map(i64::from), listed["link_netnsid"].as_i64());
        assert_eq!(host.link(&link.name).expect("it exists"), *link);
    }
    let named = |name: &str| {
        links
            .iter()
            .find(|link| link.name == name)
            .expect("it was made above")
    };
    assert_eq!(named("v0").master, Some(named("br0").ifindex));
    assert_eq!(
        named("v0").veth_peer().map(|peer| (peer.ifindex, peer.netnsid)),
        Some((named("v1").ifindex, None))
    );
    assert!(
        named("near")
            .veth_peer()
            .is_some_and(|peer| peer.netnsid.is_some())
    );
    let hardware = host.hardware(named("v0")).expect("its hardware can be read");
    assert_eq!(hardware.driver.as_deref(), Some("veth"));
    assert_eq!((hardware.queues.rx, hardware.queues.tx), (3, 2));
    assert!(matches!(host.link("nothing"), Err(HostError::NoInterface(name)) if name == "nothing"));
    assert!(matches!(
        host.link("a name that is far too long"),
        Err(HostError::NoInterface(_))
    ));
}

/// Gathers events until one fulfils the condition.
fn until(watch: &mut LinkWatch, done: impl Fn(&LinkEvent) -> bool) -> Vec<LinkEvent> {
    let end = Instant::now() + SOON;
    let mut seen = Vec::new();
    while Instant::now() < end {
        let events = watch
            .wait(Duration::from_millis(100))
            .expect("events can be read");
        let found = events.iter().any(&done);
        seen.extend(events);
        if found {
            return seen;
        }
    }
    panic!("the event did not come; these did: {seen:?}");
}

fn changed(event: &LinkEvent, name: &str, what: impl Fn(&LinkState) -> bool) -> bool {
    matches!(event, LinkEvent::Changed(state) if state.name == name && what(state))
}

fn gone(event: &LinkEvent, expected: &str) -> bool {
    matches!(event, LinkEvent::Gone { name, .. } if name == expected)
}

#[test]
fn the_watch_tells_the_life_of_an_interface() {
    isolate();
    sh("ip link add w0 type veth peer name w1 && ip link set w0 up && ip link set w1 up");
    let (mut watch, states) = LinkWatch::open().expect("root can watch");
    let first = states
        .iter()
        .find(|state| state.name == "w0")
        .expect("it was made above")
        .clone();
    assert!(first.up && first.carrier);
    sh("ip link set w0 down");
    until(&mut watch, |e| changed(e, "w0", |s| !s.up && !s.carrier));
    sh("ip link set w0 up");
    until(&mut watch, |e| changed(e, "w0", |s| s.up && s.carrier));
    sh("ip link set w1 down");
    until(&mut watch, |e| changed(e, "w0", |s| s.up && !s.carrier));
    sh("ip link set w0 mtu 1400 && ip link set w0 address 02:00:00:00:00:77");
    let mac = MacAddr([2, 0, 0, 0, 0, 0x77]);
    until(&mut watch, |e| {
        changed(e, "w0", |s| s.mtu == 1400 && s.mac == Some(mac))
    });
    sh("ip link set w0 down && ip link set w0 name w2");
    let events = until(&mut watch, |e| changed(e, "w2", |s| s.ifindex == first.ifindex));
    assert!(events.iter().any(|e| gone(e, "w0")), "{events:?}");
    sh("ip link add br0 type bridge && ip link set w2 master br0 && ip link set w2 nomaster");
    let events = until(&mut watch, |e| changed(e, "br0", |_| true));
    assert!(
        !events.iter().any(|e| gone(e, "w2")),
        "leaving a bridge is not a deletion: {events:?}"
    );
    sh("ip link delete w2");
    let events = until(&mut watch, |e| gone(e, "w2"));
    assert!(!events.iter().any(|e| changed(e, "w0", |_| true)), "{events:?}");
    sh("ip link add w0 type veth peer name w1");
    until(&mut watch, |e| changed(e, "w0", |s| s.ifindex != first.ifindex));
}

#[test]
fn a_flood_of_events_loses_no_outcome() {
    isolate();
    sh("ip link add w0 type veth peer name w1 && ip link add w2 type veth peer name w3");
    let (mut watch, _) = LinkWatch::open().expect("root can watch");
    watch.shrink();
    sh(
        "for i in 1 2 3 4 5 6 7 8; do ip link set w0 up; ip link set w0 down; done; ip link set w0 mtu 1300; ip link delete w2",
    );
    let events = watch.wait(SOON).expect("events can be read");
    assert!(
        events.iter().any(|e| changed(e, "w0", |s| s.mtu == 1300)),
        "{events:?}"
    );
    assert!(
        events.iter().any(|e| gone(e, "w2")) && events.iter().any(|e| gone(e, "w3")),
        "{events:?}"
    );
    assert_eq!(watch.wait(Duration::ZERO).expect("events can be read"), []);
}

fn watch() -> NextHopWatch {
    NextHopWatch::open(Timing::default()).expect("root can watch")
}

/// Waits for a remote to come to this state and returns how long that took.
fn comes_to(watch: &mut NextHopWatch, wanted: Wanted, what: impl Fn(&Resolution) -> bool) -> Duration {
    let start = Instant::now();
    let mut seen = Vec::new();
    while start.elapsed() < SOON {
        for (which, resolution) in watch
            .wait(Duration::from_millis(100))
            .expect("events can be read")
        {
            if which == wanted && what(&resolution) {
                return start.elapsed();
            }
            seen.push((which, resolution));
        }
    }
    panic!("{wanted:?} did not come to that; this was reported: {seen:?}");
}

fn leads_to(mac: MacAddr) -> impl Fn(&Resolution) -> bool {
    move |resolution| resolution.as_ref().is_ok_and(|hop| hop.dst_mac == mac)
}

#[test]
fn a_remote_on_link_is_resolved_and_its_move_is_followed() {
    isolate();
    let far = Far::new();
    far.attach();
    far.sh("sysctl -qw net.ipv4.conf.all.arp_notify=1 net.ipv6.conf.all.ndisc_notify=1 net.ipv6.conf.far.ndisc_notify=1");
    let near = Host::open()
        .and_then(|mut host| host.link("near"))
        .expect("it was made above");
    let mut watch = watch();
    for remote in ["10.9.0.2", "fd09::2"] {
        let wanted = vtep(remote);
        let mac = far.mac();
        let first = watch.want(wanted).expect("it can be looked up");
        assert_eq!(
            first,
            Err(Unresolved::Resolving {
                interface: "near".into(),
                neighbour: ip(remote)
            })
        );
        comes_to(&mut watch, wanted, |resolution| {
            *resolution
                == Ok(NextHop {
                    ifindex: near.ifindex,
                    interface: "near".into(),
                    src_mac: near.mac.expect("a veth has a MAC address"),
                    dst_mac: mac,
                    mtu: 1500,
                    gateway: None,
                })
        });
        let moved = MacAddr([2, 0, 0, 0, 9, remote.len() as u8]);
        far.sh(&format!("ip link set far address {moved}"));
        let took = comes_to(&mut watch, wanted, leads_to(moved));
        assert!(
            took < Duration::from_secs(1),
            "a gratuitous announcement is followed at once, not in {took:?}"
        );
    }
    sh("ip link set near address 02:00:00:00:00:55");
    comes_to(&mut watch, vtep("10.9.0.2"), |r| {
        r.as_ref().is_ok_and(|hop| hop.src_mac.0[5] == 0x55)
    });
}

#[test]
fn a_silent_move_is_noticed_by_the_keep_alive() {
    isolate();
    let far = Far::new();
    far.attach();
    let neigh = "net.ipv4.neigh.near";
    sh(&format!(
        "sysctl -qw {neigh}.base_reachable_time_ms=200 {neigh}.delay_first_probe_time=0 {neigh}.retrans_time_ms=50"
    ));
    let timing = Timing {
        keep_alive: Duration::from_millis(300),
        ..Timing::default()
    };
    let mut watch = NextHopWatch::open(timing).expect("root can watch");
    let wanted = vtep("10.9.0.2");
    assert!(watch.want(wanted).expect("it can be looked up").is_err());
    comes_to(&mut watch, wanted, leads_to(far.mac()));
    let moved = MacAddr([2, 0, 0, 0, 9, 9]);
    far.sh(&format!("ip link set far address {moved}"));
    comes_to(&mut watch, wanted, leads_to(moved));
}

#[test]
fn the_kernels_routes_are_followed() {
    isolate();
    let far = Far::new();
    far.attach();
    let (mut watch, mac) = (watch(), far.mac());
    let remotes = [
        ("192.0.2.7", "192.0.2.0/24", "10.9.0.2", ""),
        ("2001:db8::7", "2001:db8::/32", "fd09::2", "-6"),
    ];
    for (remote, net, gateway, family) in remotes {
        let wanted = vtep(remote);
        assert_eq!(
            watch.want(wanted).expect("it can be looked up"),
            Err(Unresolved::NoRoute)
        );
        sh(&format!("ip {family} route add {net} via {gateway} mtu 1400"));
        comes_to(&mut watch, wanted, |r| {
            r.as_ref()
                .is_ok_and(|hop| hop.gateway == Some(ip(gateway)) && hop.dst_mac == mac && hop.mtu == 1400)
        });
        sh("ip link set near mtu 1390");
        comes_to(&mut watch, wanted, |r| {
            r.as_ref().is_ok_and(|hop| hop.mtu == 1390)
        });
        sh("ip link set near mtu 1500");
        sh(&format!("ip {family} route replace unreachable {net} metric 1"));
        sh(&format!("ip {family} route delete {net} via {gateway}"));
        comes_to(&mut watch, wanted, |r| *r == Err(Unresolved::Rejected));
        sh(&format!("ip {family} route delete unreachable {net}"));
        comes_to(&mut watch, wanted, |r| *r == Err(Unresolved::NoRoute));
        watch.unwant(wanted);
    }
}

#[test]
fn policy_rules_are_honoured() {
    isolate();
    let far = Far::new();
    far.attach();
    sh("ip route add 192.0.2.0/24 via 10.9.0.2 table 77 && ip address add 10.9.0.11/24 dev near");
    sh("ip rule add from 10.9.0.11 ipproto udp dport 4789 table 77");
    let mut host = Host::open().expect("root can open a host");
    let from = |local: &str, udp_port| Wanted {
        local: Some(ip(local)),
        udp_port,
        ..vtep("192.0.2.7")
    };
    let mut ask = |wanted| host.next_hop(wanted).expect("it can be looked up");
    assert_eq!(ask(from("10.9.0.1", 4789)), Err(Unresolved::NoRoute));
    assert_eq!(ask(from("10.9.0.11", 8472)), Err(Unresolved::NoRoute));
    let resolving = Unresolved::Resolving {
        interface: "near".into(),
        neighbour: ip("10.9.0.2"),
    };
    assert_eq!(ask(from("10.9.0.11", 4789)), Err(resolving));
}

#[test]
fn an_unresolved_remote_says_why_and_recovers() {
    isolate();
    let far = Far::new();
    far.attach();
    sh("sysctl -qw net.ipv4.neigh.near.retrans_time_ms=50 net.ipv6.neigh.near.retrans_time_ms=50");
    let mut watch = watch();
    for (remote, local, missing) in [
        ("10.9.0.2", "10.9.0.1", "10.8.0.1"),
        ("fd09::2", "fd09::1", "fd08::1"),
    ] {
        let mut ask = |wanted| watch.want(wanted).expect("it can be looked up");
        let local_missing = Wanted {
            local: Some(ip(missing)),
            ..vtep(remote)
        };
        assert_eq!(
            ask(local_missing),
            Err(Unresolved::LocalAddressMissing { local: ip(missing) })
        );
        assert_eq!(ask(vtep(local)), Err(Unresolved::NotUnicast));
        let wanted = vtep(remote);
        assert!(ask(wanted).is_err());
        comes_to(&mut watch, wanted, |r| r.is_ok());
        far.sh("ip link set far down");
        comes_to(&mut watch, wanted, |r| {
            *r == Err(Unresolved::LinkDown {
                interface: "near".into(),
            })
        });
        far.sh("ip link set far up");
        far.sh("ip address replace fd09::2/64 dev far nodad");
        comes_to(&mut watch, wanted, |r| r.is_ok());
        watch.unwant(wanted);
    }
    for remote in ["10.9.0.99", "fd09::99"] {
        let wanted = vtep(remote);
        assert!(watch.want(wanted).expect("it can be looked up").is_err());
        let silent = Unresolved::NoAnswer {
            interface: "near".into(),
            neighbour: ip(remote),
        };
        comes_to(&mut watch, wanted, |r| *r == Err(silent.clone()));
        far.sh(&format!(
            "ip address add {remote}/32 dev far{}",
            if remote.contains(':') { " nodad" } else { "" }
        ));
        comes_to(&mut watch, wanted, leads_to(far.mac()));
    }
}

#[test]
fn next_hops_survive_a_flood_of_events() {
    isolate();
    let far = Far::new();
    far.attach();
    let mut watch = watch();
    let wanted = vtep("192.0.2.7");
    assert_eq!(
        watch.want(wanted).expect("it can be looked up"),
        Err(Unresolved::NoRoute)
    );
    watch.shrink();
    sh(
        "for i in $(seq 40); do echo route add 198.51.100.$i via 10.9.0.2; done | ip -batch - && ip route add 192.0.2.0/24 via 10.9.0.2",
    );
    let took = comes_to(&mut watch, wanted, leads_to(far.mac()));
    assert!(
        took < Duration::from_millis(500),
        "found by chance of a later event, after {took:?}"
    );
}

#[test]
fn addresses_have_their_owner() {
    isolate();
    let far = Far::new();
    far.attach();
    let mut host = Host::open().expect("root can open a host");
    for (address, owner) in [
        ("10.9.0.1", Some("near")),
        ("fd09::1", Some("near")),
        ("127.0.0.1", Some("lo")),
        ("10.9.0.2", None),
    ] {
        assert_eq!(
            host.local_address_owner(ip(address))
                .expect("it can be asked")
                .as_deref(),
            owner,
            "{address}"
        );
    }
}

#[test]
fn namespaces_of_peers_are_remembered_and_made_sure_of() {
    isolate();
    let mut pods: Vec<Far> = (0..3).map(|_| Far::new()).collect();
    let wire = |near: &str, far: &Far, mac: u8| {
        let name = &far.0;
        sh(&format!(
            "ip link add {near} type veth peer name far address 02:00:00:00:00:0{mac} netns {name}"
        ));
    };
    for (n, pod) in pods.iter().enumerate() {
        wire(&format!("near{n}"), pod, 1);
    }
    let mut host = Host::open().expect("root can open a host");
    let mut peer = |near: &str| {
        let link = host.link(near).expect("it was made above");
        let mut peer = host.veth_peer(&link).expect("it can be looked for")?;
        peer.features().expect("the peer is there");
        Some(host.namespaces.learnt())
    };
    let learnt = peer("near0").expect("it is found");
    assert!(learnt >= 3, "one search learns them all: {learnt}");
    for near in ["near1", "near2", "near0"] {
        assert_eq!(peer(near), Some(learnt), "{near} is known already");
    }

    // Numbers and names go to other namespaces.
    let (first, last) = (pods.remove(0).replaced(), pods.remove(1).replaced());
    wire("other2", &last, 2);
    wire("other0", &first, 2);
    for near in ["other0", "other2", "near1"] {
        assert!(peer(near).is_some(), "{near} is found");
    }
    drop((first, last, pods));
}

#[test]
fn offloads_go_off_on_both_ends_of_a_veth_and_come_back() {
    isolate();
    let far = Far::new();
    far.attach();
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let near = host.link("near").expect("it was made above");
    let run = format!("ip netns exec {}", far.0);
    let (before, before_far) = (ethtool("", "near"), ethtool(&run, "far"));
    assert_eq!(
        (
            before["rx-vlan-offload"].as_str(),
            before_far["tx-checksumming"].as_str()
        ),
        ("on", "on")
    );

    let mut changes = Changes::begin(state.path(), &host, &near).expect("nobody else has it");
    assert_eq!(
        offload::prepare(&mut host, &mut changes, &near).expect("a veth lets go of them"),
        []
    );
    let (during, during_far) = (ethtool("", "near"), ethtool(&run, "far"));
    for feature in [
        "rx-vlan-offload",
        "tx-vlan-offload",
        "rx-vlan-stag-hw-parse",
        "tx-vlan-stag-hw-insert",
    ] {
        assert_eq!(during[feature], "off", "{feature}");
    }
    assert_eq!(
        during["tx-checksumming"], "on",
        "our own checksums are not in the way"
    );
    for feature in [
        "tx-checksumming",
        "tx-checksum-ip-generic",
        "tx-vlan-offload",
        "tx-vlan-stag-hw-insert",
    ] {
        assert_eq!(during_far[feature], "off", "{feature} of the peer");
    }
    assert_eq!(during_far["rx-vlan-offload"], "on");
    assert!(matches!(
        changes.set_feature(&mut host, "no-such-feature", true),
        Err(HostError::Feature { feature, .. }) if feature == "no-such-feature"
    ));

    assert!(changes.restore(&mut host).is_empty());
    assert_eq!((ethtool("", "near"), ethtool(&run, "far")), (before, before_far));
    assert_eq!(
        fs::read_dir(state.path()).expect("it exists").count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_peer_in_our_own_namespace_is_prepared_too() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let a = host.link("w0").expect("it was made above");
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    assert_eq!(
        offload::prepare(&mut host, &mut changes, &a).expect("a veth lets go of them"),
        []
    );
    assert_eq!(
        (
            ethtool("", "w1")["tx-checksumming"].as_str(),
            ethtool("", "w0")["tx-checksumming"].as_str()
        ),
        ("off", "on")
    );
}

#[test]
fn a_peer_that_cannot_be_found_is_a_warning() {
    isolate();
    let far = Far::new();
    far.attach();
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let near = host.link("near").expect("it was made above");
    // An open descriptor keeps the namespace alive after its name is gone, and no search can see it.
    let held = fs::File::open(Path::new("/run/netns").join(&far.0)).expect("it was made above");
    drop(far);
    let mut changes = Changes::begin(state.path(), &host, &near).expect("nobody else has it");
    let warnings = offload::prepare(&mut host, &mut changes, &near).expect("our own end can be prepared");
    assert_eq!(
        warnings,
        [Warning::PeerNotFound {
            interface: "near".into()
        }]
    );
    drop(held);
}

#[test]
fn napi_knobs_are_those_of_this_namespace_and_come_back() {
    isolate();
    // The same name in the namespace that /sys shows and in ours: only ours may change.
    sh("ip link add w0 type veth peer name w1");
    assert!(
        !Path::new("/sys/class/net/w0").exists(),
        "/sys shows another namespace, as after nsenter --net"
    );
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let a = host.link("w0").expect("it was made above");
    let before = host.napi_knobs(&a).expect("they can be read");
    assert_eq!(
        before,
        NapiKnobs {
            defer_hard_irqs: 0,
            gro_flush_timeout: 0
        }
    );
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    changes
        .set_napi_knobs(&mut host, NapiKnobs::BUSY_POLL)
        .expect("root can set them");
    let seen = || {
        sh(
            "ip netns attach host-self-$$ $$ && ip netns exec host-self-$$ cat /sys/class/net/w0/napi_defer_hard_irqs /sys/class/net/w0/gro_flush_timeout; ip netns delete host-self-$$",
        )
    };
    assert_eq!(seen(), "2\n200000\n");

    // A NAPI that is started later inherits them, and netlink shows the same.
    sh("ethtool -K w0 gro on && ip link set w0 up && ip link set w1 up");
    let napis = host.napis(&a).expect("they can be listed");
    assert_eq!(napis.len(), 1);
    assert_eq!(
        (napis[0].defer_hard_irqs, napis[0].gro_flush_timeout),
        (2, 200_000)
    );

    // Without a sysfs of our own, netlink has to do.
    host.sysfs = None;
    assert_eq!(host.napi_knobs(&a).expect("netlink tells"), NapiKnobs::BUSY_POLL);
    let other = NapiKnobs {
        defer_hard_irqs: 5,
        gro_flush_timeout: 7_000,
    };
    changes
        .set_napi_knobs(&mut host, other)
        .expect("netlink can set them");
    assert_eq!(host.napi_knobs(&a).expect("netlink tells"), other);

    let mut host = Host::open().expect("root can open a host");
    assert!(changes.restore(&mut host).is_empty());
    assert_eq!(seen(), "0\n0\n");
    assert_eq!(host.napis(&a).expect("they can be listed")[0].defer_hard_irqs, 0);
}

#[test]
fn originals_survive_kill_9() {
    isolate();
    sh("ip link add w0 address 02:00:00:00:00:01 type veth peer name w1 && ip link set w1 up");
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let a = host.link("w0").expect("it was made above");
    let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    let refused = changes
        .set_napi_threaded(&mut host, true)
        .expect_err("a veth without GRO has no NAPI");
    assert!(
        refused.to_string().contains("threaded of interface w0"),
        "{refused}"
    );
    assert!(
        changes.restore(&mut host).is_empty(),
        "what could not be changed needs no restoring"
    );
    sh("ethtool -K w0 gro on && ip link set w0 up");
    for daemon in [7, 8, 9] {
        // A daemon that is killed runs no destructor of ours: the kernel drops its locks, nothing else happens.
        let mut changes = Changes::begin(state.path(), &host, &a).expect("the dead one's lock is gone");
        changes.set_mac(&mut host, mac(daemon)).expect("root can set it");
        changes
            .set_mtu(&mut host, 1200 + u32::from(daemon))
            .expect("root can set it");
        changes
            .set_feature(&mut host, "rx-vlan-hw-parse", false)
            .expect("a veth lets go of it");
        changes
            .set_napi_knobs(&mut host, NapiKnobs::BUSY_POLL)
            .expect("root can set them");
        changes
            .set_napi_threaded(&mut host, true)
            .expect("root can set it");
        let second = Changes::begin(state.path(), &host, &a);
        let said = second.err().expect("the first one holds it").to_string();
        assert!(
            said.contains("w0") && said.contains(&format!("pid {})", std::process::id())),
            "{said}"
        );
        assert!(
            restore_leftovers(state.path(), &mut host, |_| false)
                .expect("it can be read")
                .is_empty()
        );
        drop(changes);
    }
    let changed = host.link("w0").expect("it exists");
    assert_eq!((changed.mac, changed.mtu), (Some(mac(9)), 1209));
    let last = Changes::begin(state.path(), &host, &a).expect("the dead one's lock is gone");
    assert!(last.restore(&mut host).is_empty());
    let restored = host.link("w0").expect("it exists");
    assert_eq!((restored.mac, restored.mtu), (Some(mac(1)), a.mtu));
    assert_eq!(ethtool("", "w0")["rx-vlan-offload"], "on");
    assert_eq!(host.napi_knobs(&a).expect("it exists").defer_hard_irqs, 0);
    assert_eq!(host.napi_threaded(&a).expect("it exists"), 0);
}

#[test]
fn leftovers_are_kept_restored_or_dropped() {
    isolate();
    for name in ["kept", "ended", "remade"] {
        sh(&format!("ip link add {name} type veth peer name {name}-p"));
    }
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    for name in ["kept", "ended", "remade"] {
        let link = host.link(name).expect("it was made above");
        let mut changes = Changes::begin(state.path(), &host, &link).expect("nobody else has it");
        changes.set_mtu(&mut host, 1300).expect("root can set it");
    }
    fs::write(state.path().join("1-elsewhere.json"), "not ours to read").expect("it can be written");
    sh("ip link delete remade && ip link add remade mtu 1350 type veth peer name remade-p");
    let outcomes =
        restore_leftovers(state.path(), &mut host, |name| name != "ended").expect("it can be read");
    let [
        Leftover::Restored(ended),
        Leftover::Kept(kept),
        Leftover::Dropped(remade),
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(
        (ended.as_str(), kept.as_str(), remade.as_str()),
        ("ended", "kept", "remade")
    );
    let mut mtu = |name| host.link(name).expect("it exists").mtu;
    assert_eq!((mtu("ended"), mtu("kept"), mtu("remade")), (1500, 1300, 1350));
    let mut files: Vec<_> = fs::read_dir(state.path())
        .expect("it exists")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "1-elsewhere.json".to_owned(),
            format!("{}-kept.json", host.netns().0)
        ]
    );
}

#[test]
fn an_interface_that_vanished_needs_no_restoring() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let state = tempfile::tempdir().expect("a directory can be made");
    let mut host = Host::open().expect("root can open a host");
    let a = host.link("w0").expect("it was made above");
    let mut changes = Changes::begin(state.path(), &host, &a).expect("nobody else has it");
    changes.set_mtu(&mut host, 1300).expect("root can set it");
    sh("ip link delete w0");
    assert!(changes.restore(&mut host).is_empty());
    assert_eq!(fs::read_dir(state.path()).expect("it exists").count(), 0);
}

#[test]
fn promiscuous_mode_ends_with_its_holder() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let mut host = Host::open().expect("root can open a host");
    let a: Link = host.link("w0").expect("it was made above");
    let mut count = || host.link("w0").expect("it exists").promiscuity;
    assert_eq!(count(), 0);
    let held = Promiscuous::hold(a.ifindex).expect("root can hold it");
    assert_eq!(count(), 1);
    let twice = Promiscuous::hold(a.ifindex).expect("root can hold it");
    assert_eq!(count(), 2);
    drop((held, twice));
    // A test beside this one may just be between fork and exec, and hold copies of our descriptors.
    let end = Instant::now() + SOON;
    while count() != 0 {
        assert!(Instant::now() < end, "it is still promiscuous");
    }
    let error = Promiscuous::hold(IfIndex(9999)).expect_err("there is no such interface");
    assert!(error.to_string().contains("9999"), "{error}");
}

#[test]
fn the_facts_are_those_of_this_host() {
    isolate();
    let far = Far::new();
    far.attach();
    let mut host = Host::open().expect("root can open a host");
    let facts = Facts::gather(&mut host, &["near".into(), "nothing".into()], &[0]);
    assert_eq!(facts.kernel, sh("uname -r").trim());
    assert_eq!(facts.af_xdp_refusal, None);
    assert!(facts.bpf && facts.capabilities["NET_ADMIN"] && facts.capabilities["SYS_ADMIN"]);
    assert_eq!(facts.cores.online.len().to_string(), sh("nproc --all").trim());
    assert!(facts.numa_nodes.values().flatten().eq(&facts.cores.online));
    let [near, nothing] = &facts.interfaces[..] else {
        panic!("{facts:?}")
    };
    assert_eq!(near.af_xdp_mode, Some(AfXdpMode::NativeCopy));
    assert!(near.xdp.is_some_and(|xdp| xdp.multi_buffer && !xdp.zero_copy));
    assert_eq!(near.offloads_in_the_way.len(), 4);
    assert_eq!(
        near.napi,
        Some(NapiKnobs {
            defer_hard_irqs: 0,
            gro_flush_timeout: 0
        })
    );
    assert!(nothing.link.is_none());
    let findings = doctor(&facts);
    let bad: Vec<_> = findings
        .iter()
        .filter(|f| f.severity == Severity::Bad)
        .map(|f| &f.subject)
        .collect();
    assert_eq!(bad, ["nothing"]);
    serde_json::to_string(&facts).expect("facts are data");
}

#[test]
fn an_attached_xdp_program_is_seen_with_its_name() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../fastpath/io/xdp/clearway.bpf.o");
    sh(&format!("ip link set w0 xdpgeneric obj {object} sec xdp.frags"));
    let mut host = Host::open().expect("root can open a host");
    let link = host.link("w0").expect("it was made above");
    let listed: Vec<Value> = serde_json::from_str(&sh("ip -j -d link show w0")).expect("ip prints JSON");
    let id = listed[0]["xdp"]["prog"]["id"]
        .as_u64()
        .expect("ip shows the program");
    let [program] = &link.xdp[..] else {
        panic!("{link:?}")
    };
    assert_eq!((program.mode, u64::from(program.id)), (XdpMode::Generic, id));
    let name: Value = serde_json::from_str(&sh(&format!("bpftool -j prog show id {id}"))).expect("JSON");
    assert_eq!(super::program::name(program.id).as_deref(), name["name"].as_str());
    sh("ip link set w0 xdpgeneric off");
    assert_eq!(host.link("w0").expect("it was made above").xdp, []);
    assert_eq!(super::program::name(u32::MAX), None);
}
