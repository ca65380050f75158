//! Other plugins: beside ours in a chain, and those whose networks it understands.

use crate::{failed, good, interface, talk};
use clearway_tests::frame::Tag;
use clearway_tests::{Mac, Node, RawPort, numbered, ready};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// `loopback` before, `tuning` behind. (`bandwidth` needs ifb, which not every kernel has.)
#[test]
fn between_other_plugins() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    let mac = json!("02:00:00:00:00:42");
    for (version, mode) in [("0.3.1", "veth"), ("0.4.0", "tap"), ("1.0.0", "veth")] {
        let ours =
            json!({"mode": mode, "mtu": 1400, "ipam": node.host_local(), "capabilities": {"mac": true}});
        let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.net1.arp_filter": "1"}});
        let network = node.chain(version, &[json!({"type": "loopback"}), node.plugin(ours), tuning]);
        let (a, b) = (
            node.container(0).capability("mac", mac.clone()),
            node.container(1),
        );
        let result = good(network.add(&a));
        let other = good(network.add(&b));
        let names: Vec<_> = result["interfaces"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|i| &i["name"])
            .collect();
        assert_eq!(
            names.first(),
            Some(&&json!("lo")),
            "what was made before comes first: {result}"
        );
        assert_eq!(interface(&result, &a)["mac"], mac);
        assert_eq!(
            node.pod(0).link("net1").map(|l| l["mtu"].clone()),
            Some(json!(1400))
        );
        assert_eq!(
            node.pod(0)
                .run("cat /proc/sys/net/ipv4/conf/net1/arp_filter")
                .trim(),
            "1"
        );
        talk(node.pod(1), &result);
        talk(node.pod(0), &other);
        if version >= "0.4.0" {
            good(network.check(&a));
            node.pod(0).sysctl("net/ipv4/conf/net1/arp_filter", "0");
            let failure = network.check(&a).expect_err("a later plugin's setting is gone");
            assert_eq!(failure.plugin, "tuning", "{failure:?}");
            good(network.check(&b));
        }
        good(network.del(&a));
        good(network.del(&b));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

#[test]
fn published_ports_lead_to_our_addresses() {
    if !ready() {
        return;
    }
    let node = Node::new(1);
    let daemon = node.daemon();
    for version in ["0.3.1", "1.0.0"] {
        let ours = node.plugin(json!({"mode": "tap", "ipam": node.host_local()}));
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": false});
        let network = node.chain(version, &[ours, portmap]);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let a = node.container(0).capability("portMappings", ports);
        let result = good(network.add(&a));
        let to = result["ips"][0]["address"]
            .as_str()
            .and_then(|text| text.split('/').next());
        let to = format!("--to-destination {}:80", to.unwrap_or_default());
        assert!(node.fwd.run("iptables-save -t nat").contains(&to), "{to}");
        // No CHECK: that of Debian's portmap looks for the rules of IPv4 in those of IPv6, whatever is before it.
        good(network.del(&a));
        assert!(!node.fwd.run("iptables-save -t nat").contains(&to));
        node.assert_clean(&daemon);
    }
    daemon.stop();
}

/// Networks of sriov-cni, ovs-cni and userspace-cni as their users have them; `type` is another, and the daemon's socket.
#[test]
fn networks_of_other_plugins() {
    if !ready() {
        return;
    }
    let node = Node::new(2);
    let daemon = node.daemon();
    let conf = |fields: Value| {
        let mut fields = fields;
        fields["bridgeDomain"] = Value::Null;
        node.network("0.3.1", fields)
    };
    let (a, b) = (node.container(0), node.container(1));
    // ovs-cni: a bridge, a VLAN.
    for fields in [
        json!({"bridge": "red", "ipam": node.host_local()}),
        json!({"bridge": "br1", "vlan": 20, "ipam": node.host_local()}),
    ] {
        let network = conf(fields);
        good(network.add(&a));
        let result = good(network.add(&b));
        talk(node.pod(0), &result);
        good(network.del(&a));
        good(network.del(&b));
        node.assert_clean(&daemon);
    }
    // ovs-cni: a trunk, whose tags the pod makes and takes off; no address.
    let trunk = json!([{"id": 10}, {"minID": 20, "maxID": 29}]);
    let network = conf(json!({"bridge": "br1", "mode": "veth", "trunk": trunk}));
    good(network.add(&a));
    good(network.add(&b));
    let mut from = RawPort::open(node.pod(0), "net1");
    let mut to = RawPort::open(node.pod(1), "net1");
    for (vid, passes) in [(10, true), (20, true), (30, false)] {
        let frame = numbered(vid.into(), 0, Mac::BROADCAST, &[Tag::c(vid)]);
        from.send(&frame);
        if passes {
            to.find("the tagged frame", |got| got == frame);
        } else {
            let others = to.all(Duration::from_millis(300));
            assert!(!others.contains(&frame), "VLAN {vid} is not of the trunk");
        }
    }
    drop((from, to));
    good(network.del(&a));
    good(network.del(&b));
    node.assert_clean(&daemon);
    // userspace-cni: both roles of the socket.
    let shared = node.folder().join("shared");
    for (ours, theirs) in [("server", "client"), ("client", "server")] {
        let network = conf(json!({
            "sharedDir": shared, "logLevel": "debug", "logFile": node.folder().join("log"),
            "host": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge", "vhost": {"mode": ours},
                     "bridge": {"bridgeName": "red"}},
            "container": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface", "vhost": {"mode": theirs}},
            "ipam": node.host_local()
        }));
        good(network.add(&a));
        let known = daemon.get("attachments");
        let socket = known[0]["socket"].as_str().unwrap_or_default().to_owned();
        assert!(Path::new(&socket).starts_with(&shared), "{known}");
        assert_eq!(
            Path::new(&socket).exists(),
            ours == "server",
            "who listens makes it: {socket}"
        );
        good(network.del(&a));
        assert!(!Path::new(&socket).exists(), "{socket}");
        node.assert_clean(&daemon);
    }
    // sriov-cni: all of it is understood; this host has no such VF.
    let network = conf(json!({
        "deviceID": "0000:03:02.0", "vlan": 1000, "vlanQoS": 4, "vlanProto": "802.1ad", "min_tx_rate": 100, "max_tx_rate": 200,
        "spoofchk": "off", "trust": "on", "link_state": "enable", "mac": "CA:FE:C0:FF:EE:00", "ipam": node.host_local()
    }));
    failed(
        network.add(&a),
        7,
        &["no VF 0000:03:02.0 on this host", "nothing is left"],
    );
    good(network.del(&a));
    node.assert_clean(&daemon);
    daemon.stop();
}
