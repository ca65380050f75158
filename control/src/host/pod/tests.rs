//! Against the kernel, with `ip` as the witness.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clearway_config::attach::{Addresses, InterfaceAddress, Route};
use clearway_wire::MacAddr;
use ipnet::IpNet;
use serde_json::json;

use super::testbed::{Container, ip};
use super::*;
use crate::host::Host;
use crate::host::offload;
use crate::host::restore::Changes;
use crate::host::testing::{isolate, sh};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 5]);
const ALIAS: &str = "clearway default/0123456789abcdef/eth0";

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn host() -> Host {
    Host::open().expect("root can open a host")
}

fn veth(host_name: &'static str) -> Veth<'static> {
    Veth {
        host_name,
        host_mac: None,
        pod_name: "eth0",
        mac: MAC,
        mtu: 1450,
        alias: ALIAS,
    }
}

fn with(ips: &[(&str, Option<&str>)], routes: Vec<Route>) -> Addresses {
    let ips = ips.iter().map(|(ip, gateway)| InterfaceAddress {
        address: net(ip),
        gateway: gateway.map(address),
    });
    Addresses {
        ips: ips.collect(),
        routes,
    }
}

fn to(dst: &str) -> Route {
    Route {
        dst: net(dst),
        gw: None,
        mtu: None,
        advmss: None,
        priority: None,
        table: None,
        scope: None,
    }
}

/// Two families, with a default route in each.
fn usual() -> Addresses {
    with(
        &[("10.9.0.5/24", Some("10.9.0.1")), ("fd09::5/64", Some("fd09::1"))],
        vec![to("0.0.0.0/0"), to("::/0")],
    )
}

/// A pod with its interface; the host's end is up too.
fn attached(host: &mut Host) -> Container {
    let container = Container::start();
    let link = host
        .create_veth(&container.netns(), &veth("cw0"))
        .expect("it can be made");
    host.set_link_up(link.ifindex).expect("it can be set up");
    container
}

fn enter(container: &Container) -> Pod {
    container.netns().enter().expect("root can enter it")
}

/// Waits until something holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}: it did not come to that");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_namespace_is_told_from_everything_else() {
    isolate();
    let container = Container::start();
    let netns = container.netns();
    assert_eq!(netns.path(), container.path());
    netns.still_there().expect("its process lives");
    let open = |path: &Path| PodNetns::open(path).expect_err("it is no pod's namespace");

    assert!(matches!(
        open(Path::new("/proc/thread-self/ns/net")),
        PodError::Own(_)
    ));
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let file = scratch.path().join("net:[1]");
    fs::write(&file, "").expect("a file can be made");
    let fifo = scratch.path().join("fifo");
    sh(&format!("mkfifo {}", fifo.display()));
    for path in [
        &*file,
        &fifo,
        scratch.path(),
        Path::new("/proc/thread-self/ns/mnt"),
        Path::new("/dev/null"),
    ] {
        assert!(matches!(open(path), PodError::NoNetns(_)), "{}", path.display());
    }
    assert!(matches!(open(&scratch.path().join("none")), PodError::Gone(_)));
    assert!(matches!(open(&file.join("below")), PodError::Gone(_)));

    // A path that leads to another namespace now, as when an identifier of a process is used again.
    let link = scratch.path().join("pod");
    std::os::unix::fs::symlink(container.path(), &link).expect("a link can be made");
    let linked = PodNetns::open(&link).expect("it leads to a namespace");
    let other = Container::start();
    fs::remove_file(&link).expect("it is ours");
    std::os::unix::fs::symlink(other.path(), &link).expect("a link can be made");
    assert!(matches!(linked.still_there(), Err(PodError::Replaced(path)) if path == link));

    drop(container);
    assert!(matches!(netns.still_there(), Err(PodError::Gone(_))));
    assert!(matches!(netns.enter().map(drop), Err(PodError::Gone(_))));
}

#[test]
fn a_veth_is_born_with_all_that_it_needs() {
    isolate();
    let (mut host, container) = (host(), Container::start());
    let host_mac = MacAddr([2, 0, 0, 0, 9, 1]);
    let wanted = Veth {
        host_mac: Some(host_mac),
        ..veth("cw0")
    };
    let made = host
        .create_veth(&container.netns(), &wanted)
        .expect("it can be made");
    let ours = &ip("-d link show cw0")[0];
    let theirs = &container.ip("-d link show eth0")[0];
    assert_eq!(made.name, "cw0");
    assert_eq!(json!(made.ifindex.0), ours["ifindex"]);
    let peer = made.veth_peer().expect("it is a veth");
    assert_eq!(json!(peer.ifindex.0), theirs["ifindex"]);
    assert_eq!(json!(peer.netnsid), ours["link_netnsid"]);
    assert_eq!(ours["address"], host_mac.to_string());
    assert_eq!(theirs["address"], MAC.to_string());
    assert_eq!(ours["ifalias"], ALIAS);
    assert_eq!(
        ours["inet6_addr_gen_mode"], "none",
        "the host's stack is silent on it"
    );
    for end in [ours, theirs] {
        assert_eq!(end["linkinfo"]["info_kind"], "veth");
        assert_eq!(end["mtu"], 1450);
        assert_eq!(end["operstate"], "DOWN");
        let flags = end["flags"].as_array().expect("flags are a list");
        assert!(!flags.contains(&json!("UP")), "{flags:?}");
        assert_eq!(
            (&end["num_tx_queues"], &end["num_rx_queues"]),
            (&json!(1), &json!(1))
        );
    }
    host.set_link_up(made.ifindex).expect("it can be set up");
    assert!(
        ip("link show cw0")[0]["flags"]
            .as_array()
            .is_some_and(|f| f.contains(&json!("UP")))
    );
}

#[test]
fn a_name_that_is_taken_is_told_with_its_side() {
    isolate();
    let (mut host, container) = (host(), Container::start());
    let netns = container.netns();
    host.create_veth(&netns, &veth("cw0")).expect("it can be made");
    let here = ip("link").len();

    let again = host.create_veth(&netns, &veth("cw0")).expect_err("both exist");
    assert!(
        matches!(&again, PodError::HostNameTaken { name, alias } if name == "cw0" && alias.as_deref() == Some(ALIAS)),
        "{again}"
    );
    let other_name = host.create_veth(&netns, &veth("cw1")).expect_err("eth0 exists");
    assert!(
        matches!(&other_name, PodError::PodNameTaken { name, netns } if name == "eth0" && *netns == container.path()),
        "{other_name}"
    );
    let bad = Veth {
        pod_name: "a/b",
        ..veth("cw1")
    };
    let bad = host
        .create_veth(&netns, &bad)
        .expect_err("there can be no such name");
    assert!(bad.to_string().contains("a/b"), "{bad}");
    let unmarked = "x".repeat(300);
    let unmarked = Veth {
        pod_name: "eth1",
        alias: &unmarked,
        ..veth("cw1")
    };
    host.create_veth(&netns, &unmarked)
        .expect_err("an alias has 255 bytes");
    assert_eq!(ip("link").len(), here, "nothing is left of what failed");
    assert_eq!(container.ip("link").len(), 2);
}

#[test]
fn an_mtu_below_that_of_ipv6_is_no_obstacle() {
    isolate();
    let (mut host, container) = (host(), Container::start());
    let small = Veth {
        mtu: 1000,
        ..veth("cw0")
    };
    host.create_veth(&container.netns(), &small)
        .expect("IPv4 is content with it");
    assert_eq!(ip("link show cw0")[0]["ifalias"], ALIAS);
}

#[test]
fn leftovers_are_found_by_their_alias_and_deleted() {
    isolate();
    let (mut host, container) = (host(), attached(&mut host()));
    sh("ip link add other type veth peer name other1 && ip link set other alias 'somebody else'");
    sh("ip link add br0 type bridge && ip link set br0 alias 'clearway bridge'");
    let names = |host: &mut Host, prefix: &str| -> Vec<_> {
        let ends = host.marked(prefix).expect("they can be listed").into_iter();
        ends.map(|HostEnd { link, alias }| (link.name, alias)).collect()
    };
    assert_eq!(names(&mut host, "clearway "), [("cw0".into(), ALIAS.into())]);
    assert_eq!(names(&mut host, "clearway other"), []);

    let bridge = host.delete_veth("br0").expect_err("it is not ours");
    assert!(
        matches!(&bridge, PodError::NotVeth { kind, .. } if kind == "bridge"),
        "{bridge}"
    );
    assert!(host.delete_veth("cw0").expect("it can be deleted"));
    assert!(!host.delete_veth("cw0").expect("it is fine that it is gone"));
    assert_eq!(container.ip("link").len(), 1, "the pod's end went with it");
    assert_eq!(names(&mut host, "clearway"), []);

    // A pod that ends takes its interface along, and so ours.
    host.create_veth(&container.netns(), &veth("cw0"))
        .expect("it can be made again");
    drop(container);
    eventually("the kernel clears up", || {
        names(&mut host, "clearway ").is_empty()
    });
    assert!(!host.delete_veth("cw0").expect("it is fine that it is gone"));
}

#[test]
fn addresses_and_routes_are_given_and_usable_at_once() {
    isolate();
    let container = attached(&mut host());
    let mut wanted = usual();
    wanted.routes.extend([
        Route {
            gw: Some(address("10.9.0.77")),
            mtu: Some(1300),
            advmss: Some(1200),
            priority: Some(7),
            ..to("192.0.2.9/24")
        },
        Route {
            table: Some(1000),
            scope: Some(253),
            ..to("198.51.100.0/24")
        },
        Route {
            gw: Some(address("fe80::1")),
            mtu: Some(1300),
            priority: Some(5),
            ..to("2001:db8::/32")
        },
    ]);
    let mut pod = enter(&container);
    for _ in 0..2 {
        pod.set_up("eth0", &wanted).expect("it can be done, and again");
    }

    let listed = &container.ip("address show eth0")[0];
    let found = |family: &str, local: &str| {
        let all = listed["addr_info"].as_array().expect("a list").clone();
        let mut of_it = all.into_iter().filter(|a| a["local"] == local);
        let it = of_it.next().expect("it was given");
        assert_eq!(it["family"], family);
        assert!(of_it.next().is_none(), "once");
        it
    };
    let v4 = found("inet", "10.9.0.5");
    assert_eq!(
        (&v4["prefixlen"], &v4["broadcast"]),
        (&json!(24), &json!("10.9.0.255"))
    );
    let v6 = found("inet6", "fd09::5");
    assert_eq!(
        (&v6["prefixlen"], &v6["tentative"], &v6["nodad"]),
        (&json!(64), &json!(null), &json!(true))
    );
    assert!(
        listed["flags"]
            .as_array()
            .is_some_and(|f| f.contains(&json!("UP")))
    );

    let route = |family: &str, show: &str| {
        let routes = container.ip(&format!("{family} -d route show {show}"));
        assert_eq!(routes.len(), 1, "{show}: {routes:?}");
        assert_eq!(routes[0]["dev"], "eth0");
        routes[0].clone()
    };
    assert_eq!(route("", "default")["gateway"], "10.9.0.1");
    assert_eq!(route("-6", "default")["gateway"], "fd09::1");
    let rich = route("", "192.0.2.0/24");
    assert_eq!(rich["gateway"], "10.9.0.77");
    assert_eq!(rich["metric"], 7);
    assert_eq!(
        (&rich["metrics"][0]["mtu"], &rich["metrics"][0]["advmss"]),
        (&json!(1300), &json!(1200))
    );
    let local = route("", "table 1000");
    assert_eq!(
        (&local["dst"], &local["scope"]),
        (&json!("198.51.100.0/24"), &json!("link"))
    );
    assert_eq!(local["gateway"], json!(null), "it ends on the link");
    assert_eq!(route("-6", "2001:db8::/32")["gateway"], "fe80::1");

    let as_wanted = Wanted {
        kind: "veth",
        mac: MAC,
        mtu: 1450,
        addresses: &wanted,
    };
    let found = pod.look("eth0").expect("it can be looked at");
    assert_eq!(differences(&as_wanted, found.as_ref()), []);
    assert!(matches!(
        pod.set_up("eth9", &wanted),
        Err(PodError::NoInterface { name, .. }) if name == "eth9"
    ));

    // Usable: the host answers a ping from the pod without any wait.
    sh("ip address add 10.9.0.1/24 dev cw0 && ip address add fd09::1/64 dev cw0 nodad");
    for target in ["10.9.0.1", "fd09::1"] {
        container.sh(&format!("ping -c 1 -w 30 {target}"));
    }
}

#[test]
fn a_gateway_outside_of_all_subnets_is_on_the_link() {
    isolate();
    let container = attached(&mut host());
    let wanted = with(
        &[
            ("10.9.0.5/32", Some("169.254.1.1")),
            ("fd09::5/128", Some("fd00::1")),
        ],
        vec![
            to("0.0.0.0/0"),
            to("::/0"),
            Route {
                gw: Some(address("fd00::1")),
                ..to("192.0.2.0/24")
            },
        ],
    );
    let mut pod = enter(&container);
    for _ in 0..2 {
        pod.set_up("eth0", &wanted).expect("it can be done, and again");
    }
    for (family, show, gateway) in [
        ("", "default", json!("169.254.1.1")),
        ("-6", "default", json!("fd00::1")),
    ] {
        let routes = container.ip(&format!("{family} route show {show}"));
        assert_eq!(routes[0]["gateway"], gateway);
        let flags = routes[0]["flags"].as_array().expect("a list");
        assert!(flags.contains(&json!("onlink")), "{flags:?}");
    }
    let other_family = &container.ip("route show 192.0.2.0/24")[0];
    assert_eq!(other_family["via"], json!({"family": "inet6", "host": "fd00::1"}));
    let info = &container.ip("address show eth0")[0]["addr_info"];
    assert_eq!(info[0]["local"], "10.9.0.5");
    assert_eq!(info[0]["broadcast"], json!(null), "a single address has none");
}

#[test]
fn what_stands_in_the_way_is_named() {
    isolate();
    let container = attached(&mut host());
    container.sh("ip link add other type veth peer name other1");
    container.sh("ip link set other up");
    container.sh("ip address add 172.16.0.5/24 dev other");
    container.sh("ip route add default via 172.16.0.1");
    container.sh("ip route add blackhole 192.0.2.0/24");
    let mut pod = enter(&container);
    let taken = pod
        .set_up("eth0", &usual())
        .expect_err("there is a default route");
    assert!(
        matches!(&taken, PodError::RouteTaken { found, wanted, .. }
            if found == "0.0.0.0/0 via 172.16.0.1 dev other" && wanted == "0.0.0.0/0 via 10.9.0.1"),
        "{taken}"
    );
    let refused = with(&[("10.9.0.5/24", None)], vec![to("192.0.2.0/24")]);
    let refused = pod.set_up("eth0", &refused).expect_err("there is a blackhole");
    assert!(
        matches!(&refused, PodError::RouteTaken { found, .. } if found.contains("no plain unicast")),
        "{refused}"
    );
    let beside = Route {
        priority: Some(10),
        ..to("0.0.0.0/0")
    };
    let beside = with(&[("10.9.0.5/24", Some("10.9.0.1"))], vec![beside]);
    pod.set_up("eth0", &beside)
        .expect("with another metric it is fine");

    container.sh("ip address delete fd09::5/64 dev eth0");
    container.sh("ip address add fd09::5/48 dev eth0 nodad");
    let taken = pod
        .set_up("eth0", &with(&[("fd09::5/64", None)], Vec::new()))
        .expect_err("it has another length");
    assert!(
        matches!(&taken, PodError::AddressTaken { found, wanted, .. }
            if *found == net("fd09::5/48") && *wanted == net("fd09::5/64")),
        "{taken}"
    );
    let unreachable = with(
        &[("10.9.0.5/24", None)],
        vec![Route {
            gw: Some(address("10.9.0.1")),
            scope: Some(254),
            ..to("203.0.113.0/24")
        }],
    );
    let refused = pod
        .set_up("eth0", &unreachable)
        .expect_err("a gateway has no host scope");
    assert!(
        refused
            .to_string()
            .contains("203.0.113.0/24 via 10.9.0.1 scope host"),
        "{refused}"
    );
}

#[test]
fn ipv6_is_turned_on_where_an_address_wants_it() {
    isolate();
    let container = attached(&mut host());
    container.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.eth0.disable_ipv6=1");
    let mut pod = enter(&container);
    pod.set_up("eth0", &with(&[("10.9.0.5/24", None)], Vec::new()))
        .expect("IPv4 does not need it");
    let sysctl = "sysctl -n net.ipv6.conf.eth0.disable_ipv6";
    assert_eq!(container.sh(sysctl).trim(), "1", "it is left as it is");
    pod.set_up("eth0", &usual()).expect("it is turned on");
    assert_eq!(container.sh(sysctl).trim(), "0");
    assert_eq!(
        container.sh("sysctl -n net.ipv6.conf.all.disable_ipv6").trim(),
        "1"
    );
    assert_eq!(sh("sysctl -n net.ipv6.conf.all.disable_ipv6").trim(), "0");
    assert_eq!(container.ip("-6 route show default")[0]["gateway"], "fd09::1");
}

#[test]
fn drift_is_seen_told_and_repaired() {
    isolate();
    let container = attached(&mut host());
    let addresses = usual();
    let wanted = Wanted {
        kind: "veth",
        mac: MAC,
        mtu: 1450,
        addresses: &addresses,
    };
    let mut pod = enter(&container);
    pod.set_up("eth0", &addresses).expect("it can be done");
    let texts = |pod: &mut Pod| -> Vec<_> {
        let found = pod.look("eth0").expect("it can be looked at");
        differences(&wanted, found.as_ref())
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(texts(&mut pod), [""; 0]);
    assert_eq!(pod.repair("eth0", &wanted).expect("nothing is wrong"), []);

    container.sh("ip address add 172.16.0.5/24 dev eth0");
    container.sh("ip link set eth0 down");
    container.sh("ip link set eth0 address 02:00:00:00:00:99 mtu 1400");
    assert_eq!(
        texts(&mut pod),
        [
            "its MAC address is 02:00:00:00:00:99, it should be 02:00:00:00:09:05",
            "its MTU is 1400, it should be 1450",
            "it is down, it should be up",
            "its address fd09::5/64 is missing",
            "its route 0.0.0.0/0 via 10.9.0.1 is missing",
            "its route ::/0 via fd09::1 is missing",
        ]
    );
    assert_eq!(pod.repair("eth0", &wanted).expect("it can be repaired").len(), 6);
    assert_eq!(texts(&mut pod), [""; 0]);
    let listed = container.ip("address show eth0")[0].to_string();
    assert!(listed.contains("172.16.0.5"), "what others added stays: {listed}");
    assert_eq!(container.ip("link show eth0")[0]["address"], MAC.to_string());

    container.sh("ip address delete 10.9.0.5/24 dev eth0");
    container.sh("ip route flush default");
    container.sh("ip -6 route replace default via fd09::77 dev eth0");
    assert_eq!(
        texts(&mut pod),
        [
            "its address 10.9.0.5/24 is missing",
            "its route 0.0.0.0/0 via 10.9.0.1 is missing",
            "its route ::/0 via fd09::1 is another one, ::/0 via fd09::77",
        ]
    );
    pod.repair("eth0", &wanted).expect("it can be repaired");
    assert_eq!(texts(&mut pod), [""; 0]);
    let defaults = container.ip("-6 route show default");
    assert_eq!(defaults.len(), 1, "{defaults:?}");
    assert_eq!(defaults[0]["gateway"], "fd09::1");

    // A route that others brought through another interface is not overrun.
    container.sh("ip link add other type veth peer name other1");
    container.sh("ip link set other up");
    container.sh("ip route replace default dev other");
    let refused = pod.repair("eth0", &wanted).expect_err("it is somebody's");
    assert!(matches!(refused, PodError::RouteTaken { .. }), "{refused}");
    container.sh("ip route delete default");
    pod.repair("eth0", &wanted).expect("now there is room");

    container.sh("ip link delete eth0");
    assert_eq!(texts(&mut pod), ["its interface is not in the pod any more"]);
    assert!(matches!(
        pod.repair("eth0", &wanted),
        Err(PodError::NoInterface { .. })
    ));
    container.sh("ip link add eth0 type bridge");
    assert_eq!(
        texts(&mut pod),
        ["the interface of its name is a bridge, not the veth that it was"]
    );
    assert!(matches!(
        pod.repair("eth0", &wanted),
        Err(PodError::OtherKind { .. })
    ));
}

#[test]
fn neighbours_learn_of_an_announcement() {
    isolate();
    let container = attached(&mut host());
    let mut pod = enter(&container);
    pod.set_up("eth0", &usual()).expect("it can be done");
    sh("ip address add 10.9.0.1/24 dev cw0 && ip address add fd09::1/64 dev cw0 nodad");
    let ips = ["10.9.0.5", "fd09::5"];
    for ip in ips {
        sh(&format!(
            "ip neighbour replace {ip} lladdr 02:00:00:00:00:99 dev cw0 nud stale"
        ));
    }
    eventually("the carrier", || ip("link show cw0")[0]["operstate"] == "UP");
    pod.announce("eth0", MAC, &ips.map(address))
        .expect("there is a carrier");
    for address in ips {
        eventually(address, || {
            ip(&format!("neighbour show {address} dev cw0"))[0]["lladdr"] == MAC.to_string()
        });
    }
    assert!(matches!(
        pod.announce("eth9", MAC, &[address("10.9.0.5")]),
        Err(PodError::NoInterface { .. })
    ));
    // Nobody there to hear it: an error at once.
    sh("ip link set cw0 down");
    container.sh("ip link set eth0 down");
    let silent = pod
        .announce("eth0", MAC, &[address("10.9.0.5")])
        .expect_err("it is down");
    assert!(matches!(&silent, PodError::Announce { .. }), "{silent}");
}

#[test]
fn a_socket_that_is_dropped_lets_the_namespace_go() {
    isolate();
    let (mut host, container) = (host(), Container::start());
    host.create_veth(&container.netns(), &veth("cw0"))
        .expect("it can be made");
    let mut pod = enter(&container);
    drop(container);
    assert!(pod.look("eth0").expect("the socket answers").is_some());
    assert_eq!(host.marked("clearway").expect("they can be listed").len(), 1);
    drop(pod);
    eventually("the namespace goes", || {
        host.marked("clearway").expect("they can be listed").is_empty()
    });
}

#[test]
fn a_peer_known_by_its_process_alone_is_prepared_without_a_search() {
    isolate();
    let (mut host, containers) = (host(), [Container::start(), Container::start()]);
    let state = tempfile::tempdir().expect("a directory can be made");
    for (number, container) in containers.iter().enumerate() {
        let name = ["cw0", "cw1"][number];
        let netns = container.netns();
        let link = host.create_veth(&netns, &veth(name)).expect("it can be made");
        host.remember_netns(&netns).expect("it is there");
        let mut changes = Changes::begin(state.path(), &host, &link).expect("nobody else has it");
        let warnings = offload::prepare(&mut host, &mut changes, &link).expect("a veth lets go of them");
        assert_eq!(warnings, []);
        assert_eq!(
            host.namespaces.learnt(),
            number + 1,
            "no other one was looked for"
        );
        let features = container.sh("ethtool -k eth0");
        assert!(features.contains("tx-checksumming: off"), "{features}");
        assert!(features.contains("tx-vlan-offload: off"), "{features}");
    }
    // The same without being told: the search through all processes finds it.
    let mut other = self::host();
    let link = other.link("cw1").expect("it was made above");
    assert!(other.veth_peer(&link).expect("it can be looked for").is_some());
}
