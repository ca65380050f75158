//! `clearway why`: the daemon's own view of an attachment, from its namespace to its last drop.

use crate::{REPAIRED, good, talk};
use clearway_tests::frame::{self, EXPERIMENT};
use clearway_tests::{Container, Daemon, Mac, Node, RawPort, ready, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// Its causes, as programs get them.
#[track_caller]
fn causes(daemon: &Daemon<'_>, name: &str) -> Vec<String> {
    let text = daemon.cli(&format!("why {name} -o json"));
    let story: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let causes = serde_json::from_value(story["causes"].clone());
    causes.unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn why_a_pod_gets_no_packets_is_told() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    for mode in ["veth", "tap"] {
        let fields = json!({"mode": mode, "antiSpoof": true, "ipam": node.host_local()});
        let network = node.network("1.0.0", fields);
        let pods = [0, 1].map(|n| Container {
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{n}"),
            ..node.container(n)
        });
        let results = pods.each_ref().map(|pod| good(network.add(pod)));
        talk(node.pod(0), &results[1]);
        let mac = node.pod(0).mac("net1");
        let story = daemon.cli("why web-0");
        let address = results[0]["ips"][0]["address"].as_str().unwrap_or_default();
        for line in [
            "attachment  container0/net1 (ready)\n".to_owned(),
            "pod         shop/web-0\n".into(),
            format!("network     {}\n", Node::NETWORK),
            format!("netns       {}\n", node.pod(0).path().display()),
            format!("interface   net1 ({mode}, {mac}, MTU 1500)\n"),
            format!("addresses   {address}"),
            format!("seen        {mac} in red behind cw"),
            "\n\nNothing is wrong that can be seen from here.\n".into(),
        ] {
            assert!(story.contains(&line), "{line:?} is missing:\n{story}");
        }
        assert!(!story.contains("spoofed_source"), "{story}");
        a_dropped_frame_is_named(&node, &daemon, mac);
        a_deleted_interface_is_named(&node, &daemon, &pods[0]);
        for (name, words) in [
            (
                "nobody",
                vec![
                    "no attachment is \"nobody\"; there are 2",
                    "clearway get attachments",
                ],
            ),
            (
                "container",
                vec!["may be any of container0/net1, container1/net1: say which"],
            ),
        ] {
            let out = daemon.try_cli(&format!("why {name} -o json"));
            assert!(out.code == 1 && out.stdout.is_empty(), "{}", out.text());
            for word in words {
                assert!(out.stderr.contains(word), "{word:?} is missing: {}", out.stderr);
            }
        }
        good(network.del(&pods[0]));
        let out = daemon.try_cli("why web-0");
        assert!(
            out.code == 1 && out.stderr.contains("there are 1"),
            "{}",
            out.text()
        );
        good(network.del(&pods[1]));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

/// Three frames with a foreign MAC address: their reason, how many, and what to do, for this port and no other.
#[track_caller]
fn a_dropped_frame_is_named(node: &Node, daemon: &Daemon<'_>, mac: Mac) {
    let before = daemon.dropped("spoofed_source");
    let mut wire = RawPort::open(node.pod(0), "net1");
    for n in 0..3 {
        let payload = frame::payload(n, 100);
        wire.send(&frame::ethernet(
            Mac::BROADCAST,
            Mac::local(7),
            &[],
            EXPERIMENT,
            &payload,
        ));
    }
    wait_for("the frames to be dropped", SOON, || {
        (daemon.dropped("spoofed_source") == before + 3).then_some(())
    });
    let story = daemon.cli("why shop/web-0/net1");
    let line = "dropped     3 spoofed_source: The source MAC address is not among the port's allowed ones.";
    let found = story.lines().find(|told| told.starts_with(line));
    let advice = found.map(|told| told[line.len()..].trim());
    assert!(advice.is_some_and(|advice| !advice.is_empty()), "{story}");
    let text = daemon.cli("why container0 -o json");
    let story: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(story["attachment"]["mac"], mac.to_string(), "{text}");
    let drops = story["drops"].as_array().into_iter().flatten();
    // What it sent while it was alone had nowhere to go.
    let drops = drops.filter(|drop| drop["reason"] != "no_destination");
    let drops: Vec<_> = drops.map(|drop| (&drop["reason"], &drop["packets"])).collect();
    assert_eq!(drops, [(&json!("spoofed_source"), &json!(3))], "{text}");
    assert_eq!(story["causes"], json!([]), "{text}");
    assert!(
        !daemon.cli("why web-1").contains("spoofed_source"),
        "it is the other's"
    );
}

/// Until the daemon has made it anew.
#[track_caller]
fn a_deleted_interface_is_named(node: &Node, daemon: &Daemon<'_>, pod: &Container) {
    // The daemon may be quicker.
    let found = wait_for("what is wrong", REPAIRED, || {
        node.pod(0).run("ip link del net1");
        Some(causes(daemon, &pod.id)).filter(|found| !found.is_empty())
    });
    assert!(
        found
            .iter()
            .any(|cause| cause == "its interface is not in the pod any more"),
        "{found:?}"
    );
    wait_for("it to be put right", REPAIRED, || {
        let left = causes(daemon, &pod.id);
        // The new one may not have sent anything yet.
        left.iter()
            .all(|cause| cause.contains("never received"))
            .then_some(())
    });
    assert!(node.pod(0).link("net1").is_some());
}
