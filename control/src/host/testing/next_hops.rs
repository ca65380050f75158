//! Routes, neighbours, and the addresses of this host.

use std::time::{Duration, Instant};

use clearway_wire::MacAddr;

use super::{Far, SOON, ip, isolate, sh, vtep};
use crate::host::Host;
use crate::host::routes::{NextHop, Resolution, Unresolved, Wanted};
use crate::host::watch::{NextHopWatch, Timing};

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
