//! Addresses and routes, drift and its repair, announcements.

use super::*;

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
    let link_local = route("-6", "2001:db8::/32");
    assert_eq!(
        (&link_local["gateway"], &link_local["flags"]),
        (&json!("fe80::1"), &json!([]))
    );

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
    let theirs = pod.taken_routes("eth0", &usual()).expect("listed");
    let default = |route: &Route| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4();
    assert!(theirs.len() == 1 && default(&theirs[0]), "{theirs:?}");
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
fn a_tap_of_a_pod_is_looked_at_given_addresses_and_deleted() {
    isolate();
    let container = Container::start();
    container.sh("ip tuntap add eth0 mode tap");
    container.sh(&format!("ip link set eth0 address {MAC} mtu 1450"));
    let addresses = usual();
    let wanted = Wanted {
        kind: "tun",
        mac: MAC,
        mtu: 1450,
        addresses: &addresses,
    };
    let mut pod = enter(&container);
    pod.set_up("eth0", &addresses)
        .expect("it has no carrier, but it can be done");
    let found = pod.look("eth0").expect("it can be looked at");
    assert_eq!(differences(&wanted, found.as_ref()), []);
    assert!(!pod.delete_tap("lo").expect("it is no TAP and stays"));
    assert!(pod.delete_tap("eth0").expect("it can be deleted"));
    assert!(!pod.delete_tap("eth0").expect("it is fine that it is gone"));
    assert_eq!(container.ip("link").len(), 1);
}

#[test]
fn a_pod_that_fills_its_tables_is_not_read_to_the_end() {
    isolate();
    sh("ip link add w0 type veth peer name w1");
    let guarded = |limit| {
        let open = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE);
        let socket = open.and_then(|socket| socket.guarded(limit));
        links::list(&mut socket.expect("sockets can be opened"))
    };
    assert_eq!(guarded(3).expect("there are three").len(), 3);
    let error = guarded(2).expect_err("there is one more").to_string();
    assert!(error.contains("more than 2"), "{error}");
}
