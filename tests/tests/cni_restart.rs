//! Attachments outlive the daemon: stopped or killed, the next one goes on where it was, and pods notice a pause alone.

use clearway_tests::{Daemon, Netns, Node, Ping, TcpProbe, Testpmd, ready, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// How a daemon ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGTERM
    Stopped,
    /// SIGKILL
    Killed,
}

impl End {
    const EACH: [End; 2] = [End::Stopped, End::Killed];

    #[track_caller]
    fn of(self, mut daemon: Daemon<'_>) {
        match self {
            End::Stopped => assert!(daemon.terminate().success()),
            End::Killed => daemon.kill(),
        }
    }
}

/// What a pod has: its interface and the addresses and routes of it.
#[track_caller]
fn possessions(pod: &Netns) -> Vec<Value> {
    let json = |line: &str| -> Value {
        let text = pod.run(line);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
    };
    let mut address = json("ip -j addr show dev net1");
    // A TAP has no carrier while nobody has its other end.
    for key in ["flags", "operstate"] {
        address[0].as_object_mut().map(|link| link.remove(key));
    }
    let mut routes = json("ip -j -4 route show dev net1 scope global");
    routes[0].as_object_mut().map(|route| route.remove("flags"));
    vec![address, routes]
}

#[track_caller]
fn ip(result: &Value, n: usize) -> String {
    let text = result["ips"][n]["address"].as_str().unwrap_or_default();
    text.split('/').next().unwrap_or_default().to_owned()
}

#[test]
fn pods_keep_what_they_have() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let mut daemon = node.daemon();
    let networks =
        ["veth", "tap"].map(|mode| node.network("1.0.0", json!({"mode": mode, "ipam": node.host_local()})));
    let containers = [0, 1].map(|n| node.container(n));
    let results = [0, 1].map(|n| networks[n].add(&containers[n]).expect("attached"));
    Ping::new(&ip(&results[1], 0)).all(node.pod(0));
    let probe = TcpProbe::start(
        node.pod(0),
        node.pod(1),
        &ip(&results[1], 0),
        Duration::from_millis(5),
    );
    let before = [0, 1].map(|n| possessions(node.pod(n)));
    for end in [End::EACH, End::EACH].concat() {
        eprintln!("{end:?}");
        end.of(daemon);
        assert_eq!(
            [0, 1].map(|n| possessions(node.pod(n))),
            before,
            "without a daemon"
        );
        daemon = node.daemon();
        for (from, to) in [(0, 1), (1, 0)] {
            for family in [0, 1] {
                Ping::new(&ip(&results[to], family)).until(node.pod(from), SOON);
            }
        }
        assert_eq!(
            [0, 1].map(|n| possessions(node.pod(n))),
            before,
            "with the next one"
        );
        for n in [0, 1] {
            networks[n].check(&containers[n]).expect("as it was");
        }
    }
    let report = probe.stop();
    assert!(
        report.broken.is_none() && report.exchanges > 0,
        "the connection lives on: {report:?}"
    );
    for n in [0, 1] {
        networks[n].del(&containers[n]).expect("removed");
    }
    node.assert_clean(&daemon);
    daemon.stop();
}

/// What happens to pods while nobody is there.
#[test]
fn what_went_meanwhile_is_found() {
    if !ready() {
        return;
    }
    let mut node = Node::new(3);
    for end in End::EACH {
        let network = |node: &Node, mode: &str| -> Value {
            node.network("1.0.0", json!({"mode": mode, "ipam": node.host_local()}))
                .list()
                .clone()
        };
        let lists = ["veth", "tap", "veth"].map(|mode| network(&node, mode));
        let containers = [0, 1, 2].map(|n| node.container(n));
        let cni = |node: &Node, n: usize, f: &dyn Fn(&clearway_tests::CniNetwork<'_>)| {
            let network = clearway_tests::CniNetwork::new(&node.fwd, &node.bin(), lists[n].clone());
            f(&network);
        };
        let daemon = node.daemon();
        for (n, container) in containers.iter().enumerate() {
            cni(&node, n, &|network| {
                drop(network.add(container).expect("attached"))
            });
        }
        end.of(daemon);
        // A pod goes, an interface goes, an address goes.
        node.pod(1).run("ip link del net1");
        node.pod(0).run("ip addr flush dev net1");
        node.remove_pod(2);
        let daemon = node.daemon();
        // What can be put right is.
        wait_for("pods 0 and 1 talk again", SOON, || {
            let to = daemon.get("attachments")[1]["addresses"]["ips"][0]["address"]
                .as_str()?
                .to_owned();
            let to = to.split('/').next()?.to_owned();
            let out = node.pod(0).try_run(&format!("ping -c 1 -W 0.2 {to}"));
            (out.code == 0).then_some(())
        });
        for (n, container) in containers.iter().enumerate() {
            cni(&node, n, &|network| network.del(container).expect("removed"));
        }
        node.assert_clean(&daemon);
        daemon.stop();
        node.add_pod();
    }
}

/// A pod ends without a DEL, and another one has its namespace's path, as with names of `ip netns` and numbers of
/// processes: the kernel gives it the same inode as well.
#[test]
fn another_pod_at_the_same_path_is_let_be() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    for mode in ["tap", "veth"] {
        let network = node.network("1.0.0", json!({"mode": mode, "ipam": node.host_local()}));
        let (mut old, mut new) = (node.container(0), node.container(1));
        (old.id, new.id) = (format!("{mode}-old"), format!("{mode}-new"));
        network.add(&old).expect("attached");
        let netns = |verb: &str| {
            let name = node.pod(0).name();
            let done = Command::new("ip").args(["netns", verb, name]).status();
            assert!(
                done.is_ok_and(|status| status.success()),
                "ip netns {verb} {name}"
            );
        };
        netns("del");
        wait_for("the daemon sees that it is gone", SOON, || {
            let all = daemon.get("attachments").to_string();
            all.contains("does not exist").then_some(())
        });
        netns("add");
        // Whatever the daemon tries with the old one, it does not do it here.
        std::thread::sleep(Duration::from_secs(3));
        assert!(
            node.pod(0).link("net1").is_none(),
            "{mode}: {:?}",
            node.pod(0).link("net1")
        );
        new.netns = old.netns.clone();
        network.add(&new).expect("attached");
        network.del(&old).expect("removed");
        assert!(node.pod(0).link("net1").is_some(), "{mode}");
        network.check(&new).expect("it is as it was");
        network.del(&new).expect("removed");
    }
    node.assert_clean(&daemon);
    daemon.stop();
}

/// The socket stays where it is: a guest that serves it goes on, one that connects comes again.
#[test]
fn guests_go_on() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let mut daemon = node.daemon();
    let network = |client: bool| {
        let socket = json!({"client": client, "folder": client.then(|| node.folder().join("sockets"))});
        let socket = if client { socket } else { json!({}) };
        node.network("1.1.0", json!({"mode": "vhost-user", "socket": socket}))
    };
    // The first connects to us; the second listens, and we connect.
    let (ours, theirs) = (network(false), network(true));
    let (a, b) = (node.container(0), node.container(1));
    let sockets = [ours.add(&a), theirs.add(&b)].map(|result| {
        let result = result.expect("attached");
        result["interfaces"][0]["socketPath"]
            .as_str()
            .expect("a socket")
            .to_owned()
    });
    let guest = |n: usize| {
        let device = format!("path={},mac=02:00:00:00:00:a{n},server={n}", sockets[n]);
        let mode = ["txonly", "rxonly"][n];
        Testpmd::start(
            node.pod(n),
            &device,
            1,
            &format!("--forward-mode={mode} --txonly-multi-flow"),
        )
    };
    let (mut sender, mut receiver) = (guest(0), guest(1));
    receiver.say("start");
    sender.say("start");
    arrives(&mut receiver);
    for end in End::EACH {
        eprintln!("{end:?}");
        end.of(daemon);
        daemon = node.daemon();
        assert!(Path::new(&sockets[0]).exists(), "{} is served again", sockets[0]);
        // DPDK's virtio_user does not connect again where it is the client.
        sender.kill();
        sender = guest(0);
        sender.say("start");
        arrives(&mut receiver);
        ours.check(&a).expect("as it was");
        theirs.check(&b).expect("as it was");
    }
    sender.quit();
    receiver.quit();
    ours.del(&a).expect("removed");
    theirs.del(&b).expect("removed");
    node.assert_clean(&daemon);
    daemon.stop();
}

/// More frames arrive.
#[track_caller]
fn arrives(receiver: &mut Testpmd) {
    let before = receiver.stats().received;
    wait_for("1000 more frames", SOON, || {
        (receiver.stats().received > before + 1000).then_some(())
    });
}

/// Without its segment a pod waits, and is whole when the segment is back.
#[test]
fn a_segment_that_is_missing_at_a_start_is_waited_for() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    let network = node.network("1.0.0", json!({"mode": "tap", "ipam": node.host_local()}));
    let containers = [0, 1].map(|n| node.container(n));
    let results = containers
        .each_ref()
        .map(|container| network.add(container).expect("attached"));
    End::Stopped.of(daemon);
    let daemon = node.daemon_of(&node.config().replace("red:", "other:"));
    Ping::new(&ip(&results[1], 0))
        .args("-c 1 -W 0.2")
        .none(node.pod(0));
    let failure = network
        .check(&containers[0])
        .expect_err("it is without its segment");
    assert!(failure.code == 103 && failure.text.contains("red"), "{failure:?}");
    daemon.apply(&node.config());
    Ping::new(&ip(&results[1], 0)).until(node.pod(0), SOON);
    network.check(&containers[0]).expect("as it was");
    for container in &containers {
        network.del(container).expect("removed");
    }
    node.assert_clean(&daemon);
    daemon.stop();
}
