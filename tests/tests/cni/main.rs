//! The CNI plugin with the real daemon, run as a runtime runs it: every verb in every version of the protocol, drift,
//! collection, chains with other plugins, networks of other plugins; after each, nothing is left.

mod limits;
mod others;
mod why;

use clearway_tests::{CniFailure, CniNetwork, Container, Daemon, Netns, Node, Ping, ready, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The daemon looks at all attachments in 10 s.
const REPAIRED: Duration = Duration::from_secs(40);

/// It failed with this code, and says these words.
#[track_caller]
fn failed<T: std::fmt::Debug>(outcome: Result<T, CniFailure>, code: u64, words: &[&str]) {
    match outcome {
        Ok(value) => panic!("it must fail with {code}: {value:?}"),
        Err(failure) => {
            assert_eq!(failure.code, code, "{failure:?}");
            for word in words {
                assert!(
                    failure.text.contains(word),
                    "it does not say {word:?}: {failure:?}"
                );
            }
        }
    }
}

#[track_caller]
fn good<T>(outcome: Result<T, CniFailure>) -> T {
    outcome.unwrap_or_else(|failure| panic!("{failure:#?}"))
}

/// The interface of a result that the container has.
#[track_caller]
fn interface<'a>(result: &'a Value, container: &Container) -> &'a Value {
    let mut all = result["interfaces"].as_array().into_iter().flatten();
    all.find(|i| i["name"] == container.interface.as_str() && i["sandbox"] == container.netns.as_str())
        .unwrap_or_else(|| panic!("no {container:?}: {result}"))
}

/// A pod reaches the addresses of a result.
#[track_caller]
fn talk(from: &Netns, to: &Value) {
    for ip in to["ips"].as_array().into_iter().flatten() {
        let ip = ip["address"]
            .as_str()
            .and_then(|t| t.split('/').next())
            .unwrap_or_default();
        // After the first reply ping waits for the last one only as long as between two requests, whatever -W says.
        Ping::new(ip).args("-c 2 -i 0.1").all(from);
    }
}

#[test]
fn every_verb_in_every_version() {
    if !ready() {
        return;
    }
    let node = Node::new(3);
    let daemon = node.daemon();
    for version in VERSIONS {
        let theirs = if version == "1.1.0" {
            node.host_local_1_1()
        } else {
            node.host_local()
        };
        let ipams = [theirs, json!({"type": "clearway", "pool": "pods"})];
        for ipam in ipams {
            for mode in ["veth", "tap", "vhost-user"] {
                println!("{version} {mode} {}", ipam["type"]);
                let network = |mode| node.network(version, json!({"mode": mode, "ipam": ipam}));
                one_life(&node, &daemon, version, mode, &network(mode), &network("tap"));
                node.assert_clean(&daemon);
            }
        }
    }
    daemon.stop();
}

/// Two pods of a network, and a third one of a network of TAPs; all verbs, each twice where that has a meaning.
#[track_caller]
fn one_life(
    node: &Node,
    daemon: &Daemon<'_>,
    version: &str,
    mode: &str,
    network: &CniNetwork<'_>,
    taps: &CniNetwork<'_>,
) {
    let newest = version == "1.1.0";
    let versions = good(network.versions());
    assert_eq!(versions["supportedVersions"], json!(VERSIONS));
    if newest {
        good(network.status());
    } else {
        failed(network.status(), 1, &["STATUS"]);
        failed(network.gc(&[]), 1, &["GC"]);
    }
    let [a, b, c] = [0, 1, 2].map(|n| node.container(n));
    let results = [good(network.add(&a)), good(network.add(&b)), good(taps.add(&c))];
    for (container, result) in [&a, &b, &c].into_iter().zip(&results) {
        assert_eq!(result["cniVersion"], version);
        let told = interface(result, container);
        assert_eq!(
            result["ips"].as_array().map(Vec::len),
            Some(2),
            "an address of each family: {result}"
        );
        assert_eq!(told.get("mtu").is_some(), newest, "{result}");
        let old = version < "1.0.0";
        assert_eq!(
            result["ips"][0]["version"],
            if old { json!("4") } else { Value::Null },
            "{result}"
        );
    }
    assert_eq!(daemon.get("attachments").as_array().map(Vec::len), Some(3));
    if mode == "vhost-user" {
        let list = daemon.get("attachments");
        let socket = list
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|a| a["socket"].as_str());
        let socket = socket.unwrap_or_else(|| panic!("no socket: {list}"));
        std::os::unix::net::UnixStream::connect(socket).unwrap_or_else(|e| panic!("{socket}: {e}"));
        assert!(node.pod(0).link("net1").is_none(), "there is no interface");
    } else {
        let told = interface(&results[0], &a);
        assert_eq!(
            told["mac"],
            json!(node.pod(0).mac("net1").to_string()),
            "the MAC address it really has"
        );
        for (from, to) in [(0, 1), (0, 2), (2, 1)] {
            talk(node.pod(from), &results[to]);
        }
    }
    let check = |container: &Container| network.check(container);
    if version >= "0.4.0" {
        good(check(&a));
        good(check(&b));
    } else {
        failed(check(&a), 1, &["CHECK"]);
    }
    // A second ADD is an error, and takes nothing from the first.
    let leases = node.leases();
    let known = network.known(&a);
    failed(network.add(&a), 102, &["container0"]);
    assert_eq!((node.leases(), network.known(&a)), (leases, known));
    if version >= "0.4.0" {
        good(check(&a));
    }
    if mode != "vhost-user" {
        talk(node.pod(0), &results[1]);
    }
    good(network.del(&a));
    good(network.del(&a));
    good(network.del(&b.without_netns()));
    good(taps.del(&c));
    good(taps.del(&c.without_netns()));
}

/// Everything that a pod, or an administrator, may change behind the daemon's back.
#[test]
fn drift_is_found_and_put_right() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    let ipams = [node.host_local(), json!({"type": "clearway"})];
    for (mode, ipam, route) in [
        ("veth", &ipams[0], "10.98.0.0/16"),
        ("tap", &ipams[1], "10.99.0.0/16"),
    ] {
        let network = node.network("1.0.0", json!({"mode": mode, "ipam": ipam}));
        let (a, b) = (node.container(0), node.container(1));
        let result = good(network.add(&a));
        let other = good(network.add(&b));
        let v4 = result["ips"][0]["address"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let v6 = result["ips"][1]["address"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let pod = node.pod(0);
        let mut changes = vec![
            (
                pod,
                "ip link set net1 address 02:00:00:00:00:77".to_owned(),
                "02:00:00:00:00:77",
            ),
            (pod, "ip link set net1 mtu 1400".into(), "1400"),
            (pod, "ip link set net1 down".into(), "down"),
            (pod, format!("ip addr del {v4} dev net1"), &v4),
            (pod, format!("ip addr del {v6} dev net1"), &v6),
            (pod, format!("ip route del {route}"), route),
            (pod, "ip link del net1".into(), "net1"),
        ];
        let known = daemon.get("attachments");
        let host = known[0]["host-interface"].as_str();
        if let Some(host) = host {
            changes.push((&node.fwd, format!("ip link set {host} down"), host));
            changes.push((&node.fwd, format!("ip link del {host}"), "net1"));
        }
        for (ns, change, word) in changes {
            println!("{mode}: {change}");
            // The daemon may be quicker.
            let failure = wait_for(&format!("CHECK finds `{change}`"), REPAIRED, || {
                ns.run(&change);
                network.check(&a).err()
            });
            failed::<()>(Err(failure), 103, &[word]);
            wait_for(&format!("`{change}` is put right"), REPAIRED, || {
                network.check(&a).ok()
            });
            talk(pod, &other);
            talk(node.pod(1), &result);
        }
        good(network.check(&b));
        // The network itself has become another one.
        let changed = node.network(
            "1.0.0",
            json!({"mode": mode, "ipam": ipam, "bridgeDomain": "green"}),
        );
        failed(changed.recall(&network).check(&a), 103, &["green"]);
        good(network.del(&a));
        good(network.del(&b));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

/// More room in a pool, and nothing else, is a change like any other.
#[test]
fn a_pool_grows_while_it_is_in_use() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon_of(&node.config_with_pool_of(1));
    let network = node.network("1.1.0", json!({"mode": "veth", "ipam": {"type": "clearway"}}));
    let (a, b) = (node.container(0), node.container(1));
    good(network.add(&a));
    failed(network.add(&b), 102, &["pods", "exhausted"]);
    let larger = node.config_with_pool_of(2);
    let plan = daemon.try_apply(&larger, "--dry-run");
    assert!(
        plan.code == 0 && plan.text().contains("address-pool"),
        "{}",
        plan.text()
    );
    failed(network.add(&b), 102, &["pods", "exhausted"]);
    daemon.apply(&larger);
    let result = good(network.add(&b));
    assert_eq!(result["ips"][0]["address"], "10.7.0.11/16");
    // What is given out stays in.
    let smaller = daemon.try_apply(&node.config_with_pool_of(1), "--dry-run");
    assert!(
        smaller.code != 0 && smaller.text().contains("10.7.0.11"),
        "{}",
        smaller.text()
    );
    good(network.del(&a));
    good(network.del(&b));
    node.assert_clean(&daemon);
    daemon.stop();
}

/// A configuration never leaves a pod without its segment; VLANs move with their domains.
#[test]
fn a_pods_segment_stays() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    let fields = json!({"mode": "veth", "bridgeDomain": null, "vlan": 10, "ipam": node.host_local()});
    let network = node.network("1.0.0", fields);
    let (a, b) = (node.container(0), node.container(1));
    good(network.add(&a));
    let result = good(network.add(&b));
    talk(node.pod(0), &result);
    let out = daemon.try_apply(&node.config().replace("vlan: 10", "vlan: 11"), "");
    assert!(
        out.code != 0 && out.text().contains("/net1 needs"),
        "{}",
        out.text()
    );
    talk(node.pod(0), &result);
    // VLAN 10 by another name.
    daemon.apply(&node.config().replace("red:", "rouge:"));
    talk(node.pod(0), &result);
    good(network.check(&a));
    // In another VLAN it is another segment.
    let elsewhere = node.network(
        "1.0.0",
        json!({"mode": "tap", "bridgeDomain": "green", "ipam": node.host_local()}),
    );
    good(network.del(&b));
    let result = good(elsewhere.add(&b));
    let ip = result["ips"][0]["address"]
        .as_str()
        .and_then(|text| text.split('/').next());
    Ping::new(ip.unwrap_or_default())
        .args("-c 2 -W 0.3")
        .none(node.pod(0));
    good(network.del(&a));
    good(elsewhere.del(&b));
    node.assert_clean(&daemon);
    daemon.stop();
}

#[test]
fn a_foreign_interface_of_the_name_is_let_be() {
    if !ready() {
        return;
    }
    let node = Node::new(1);
    let daemon = node.daemon();
    let pod = node.pod(0);
    for foreign in [
        "ip link add net1 type veth peer name other",
        "ip tuntap add dev net1 mode tap",
    ] {
        pod.run(foreign);
        let before = pod
            .link("net1")
            .map(|link| (link["ifindex"].clone(), link["address"].clone()));
        assert!(before.is_some());
        for mode in ["veth", "tap"] {
            println!("{foreign} {mode}");
            let network = node.network("1.0.0", json!({"mode": mode, "ipam": node.host_local()}));
            failed(network.add(&node.container(0)), 102, &["net1"]);
            let now = pod
                .link("net1")
                .map(|link| (link["ifindex"].clone(), link["address"].clone()));
            assert_eq!(now, before, "it is let be");
            good(network.del(&node.container(0)));
            let now = pod
                .link("net1")
                .map(|link| (link["ifindex"].clone(), link["address"].clone()));
            assert_eq!(now, before, "by DEL too");
        }
        pod.run("ip link del net1");
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

#[test]
fn gc_removes_what_is_not_valid() {
    if !ready() {
        return;
    }
    let node = Node::new(3);
    let daemon = node.daemon();
    let ipams = [node.host_local_1_1(), json!({"type": "clearway", "pool": "pods"})];
    for ipam in ipams {
        let network = node.network("1.1.0", json!({"mode": "tap", "ipam": ipam}));
        let all = [0, 1, 2].map(|n| node.container(n));
        let results = all.each_ref().map(|container| good(network.add(container)));
        // Another network's is not this one's to collect.
        let mut elsewhere = node.network("1.1.0", json!({"mode": "veth", "bridgeDomain": "green"}));
        elsewhere.list_mut()["name"] = "other".into();
        let spared = node.container(0).interface("net2");
        good(elsewhere.add(&spared));
        good(network.gc(&[&all[0], &all[2]]));
        let known = daemon.get("attachments");
        let ids: Vec<_> = known.as_array().into_iter().flatten().map(|a| &a["id"]).collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert!(ids.iter().all(|id| id["container"] != "container1"), "{ids:?}");
        let leases = if ipam["type"] == "leases" { 4 } else { 0 };
        assert_eq!(
            node.leases().len(),
            leases,
            "two pods, two families: {:?}",
            node.leases()
        );
        talk(node.pod(0), &results[2]);
        assert!(node.pod(1).link("net1").is_none());
        // What it has freed may be had again.
        good(network.add(&all[1]));
        talk(node.pod(2), &network.known(&all[1]).unwrap_or_default());
        good(network.gc(&[]));
        good(elsewhere.check(&spared));
        good(elsewhere.gc(&[]));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

#[test]
fn without_the_daemon_nothing_is_lost() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let mut daemon = node.daemon();
    let ipam = node.host_local_1_1();
    let network = node.network("1.1.0", json!({"mode": "veth", "ipam": ipam}));
    let unknown = node.network("1.1.0", json!({"bridgeDomain": "mauve", "ipam": ipam}));
    good(network.status());
    failed(unknown.status(), 50, &["mauve"]);
    failed(unknown.add(&node.container(0)), 7, &["mauve"]);
    let pools = node.network("1.1.0", json!({"ipam": {"type": "clearway", "pool": "none"}}));
    failed(pools.status(), 50, &["none"]);
    failed(pools.add(&node.container(0)), 7, &["none"]);
    let missing = Container {
        netns: "/run/netns/cwt-no-such".into(),
        ..node.container(0)
    };
    failed(network.add(&missing), 4, &["cwt-no-such", "CNI_NETNS"]);
    node.assert_clean(&daemon);
    good(network.add(&node.container(0)));
    let leases = node.leases();
    assert!(daemon.terminate().success());
    failed(network.status(), 50, &["clearway run"]);
    failed(network.add(&node.container(1)), 11, &["clearway run"]);
    failed(network.check(&node.container(0)), 11, &["clearway run"]);
    failed(network.del(&node.container(0)), 11, &["still there"]);
    failed(network.gc(&[&node.container(0)]), 11, &["clearway run"]);
    failed(network.gc(&[]), 11, &["clearway run", "keeps its addresses"]);
    assert_eq!(node.leases(), leases, "its address is still its own");
    let daemon = node.daemon();
    good(network.check(&node.container(0)));
    good(network.del(&node.container(0)));
    node.assert_clean(&daemon);
    daemon.stop();
}

/// To the last address, each to one pod alone, also where daemons end meanwhile.
#[test]
fn a_pool_is_given_out_to_the_last_address() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let config = node.config_with_pool_of(6);
    let mut daemon = node.daemon_of(&config);
    let network = node.network("1.1.0", json!({"mode": "veth", "ipam": {"type": "clearway"}}));
    let jobs: Vec<_> = (0..6)
        .map(|n| node.container(n % 2).interface(&format!("net{n}")))
        .collect();
    for _ in 0..2 {
        let mut seen = BTreeSet::new();
        for (n, container) in jobs.iter().enumerate() {
            let result = good(network.add(container));
            assert!(seen.insert(result["ips"][0]["address"].to_string()), "{result}");
            if n == 2 {
                good(network.status());
                daemon.kill();
                daemon = node.daemon_of(&config);
            }
        }
        let more = node.container(0).interface("more");
        failed(network.add(&more), 102, &["pods", "exhausted"]);
        failed(network.status(), 50, &["pods", "exhausted"]);
        // An address of its own is nobody else's.
        let asking = |ip: &str| Container {
            args: format!("IP={ip}"),
            ..more.clone()
        };
        failed(network.add(&asking("10.7.0.12")), 102, &["10.7.0.12"]);
        for container in &jobs {
            good(network.del(container));
        }
        let result = good(network.add(&asking("10.7.0.12")));
        assert_eq!(result["ips"][0]["address"], "10.7.0.12/16");
        good(network.del(&more));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}
