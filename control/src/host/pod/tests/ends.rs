//! The namespace, the two ends of a veth, and how they go.

use super::*;

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

    // One that has ended gives its inode to the next one: this is what is known of it then.
    let entered = netns.enter().expect("its process lives").netns().clone();
    let later = PodNetns {
        path: other.path(),
        inode: other.netns().inode,
        ..entered
    };
    later.still_there().expect("path and inode say so");
    assert!(matches!(later.enter().map(drop), Err(PodError::Replaced(path)) if path == other.path()));

    drop(container);
    let gone = netns.still_there().expect_err("its process has ended");
    assert!(
        matches!(gone, PodError::Gone(_)) && gone.is_of_netns() && !gone.is_in_the_way(),
        "{gone}"
    );
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
    assert!(bad.to_string().contains("a/b") && !bad.is_in_the_way(), "{bad}");
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

/// The host's veths whose alias begins like this.
fn marked(prefix: &str) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    ip("-details link")
        .iter()
        .filter(|link| link["linkinfo"]["info_kind"] == "veth")
        .map(|link| (text(&link["ifname"]), text(&link["ifalias"])))
        .filter(|(_, alias)| alias.starts_with(prefix))
        .collect()
}

#[test]
fn leftovers_are_told_by_their_alias_and_deleted() {
    isolate();
    let (mut host, container) = (host(), attached(&mut host()));
    sh("ip link add other type veth peer name other1 && ip link set other alias 'somebody else'");
    sh("ip link add br0 type bridge && ip link set br0 alias 'clearway bridge'");
    assert_eq!(marked("clearway "), [("cw0".into(), ALIAS.into())]);
    assert_eq!(marked("clearway other"), []);

    let bridge = host.delete_veth("br0").expect_err("it is not ours");
    assert!(
        matches!(&bridge, PodError::NotVeth { kind, .. } if kind == "bridge"),
        "{bridge}"
    );
    assert!(host.delete_veth("cw0").expect("it can be deleted"));
    assert!(!host.delete_veth("cw0").expect("it is fine that it is gone"));
    assert_eq!(container.ip("link").len(), 1, "the pod's end went with it");
    assert_eq!(marked("clearway"), []);

    // A pod that ends takes its interface along, and so ours.
    host.create_veth(&container.netns(), &veth("cw0"))
        .expect("it can be made again");
    drop(container);
    eventually("the kernel clears up", || marked("clearway ").is_empty());
    assert!(!host.delete_veth("cw0").expect("it is fine that it is gone"));
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
    assert_eq!(marked("clearway").len(), 1);
    drop(pod);
    eventually("the namespace goes", || marked("clearway").is_empty());
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
        assert_eq!(
            host.namespaces.learnt(),
            number + 1,
            "whoever makes it says where"
        );
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
    // After a restart: told, or found by a search through all processes.
    let link = host.link("cw1").expect("it was made above");
    let [mut told, mut searching] = [self::host(), self::host()];
    told.remember_netns(&containers[1].netns()).expect("it is there");
    let found = |host: &mut Host| host.veth_peer(&link).expect("it can be looked for").is_some();
    assert!(found(&mut told) && found(&mut searching));
    assert_eq!(told.namespaces.learnt(), 1);
    assert!(searching.namespaces.learnt() >= 2);
}
