//! Container runtimes that run the plugin themselves: podman, and containerd with ctr. Their containers reach each other
//! across Clearway, and a host behind the kernel's VXLAN device.

use clearway_tests::{Containerd, Daemon, Netns, Node, Podman, Veth, Vxlan, ready, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A node with an uplink to a host whose kernel speaks VXLAN.
struct Scene {
    node: Node,
    remote: Netns,
}

/// The remote's addresses inside the overlay: in host-local's subnet, and in the pool's.
const REMOTE: [&str; 2] = ["10.8.200.1", "10.7.200.1"];

impl Scene {
    fn new() -> Scene {
        let (node, remote) = (Node::new(0), Netns::new("remote"));
        Veth::new((&node.fwd, "u0"), (&remote, "eth0")).up();
        node.fwd.addr("u0", "192.0.2.1/24");
        remote.addr("eth0", "192.0.2.10/24");
        Vxlan::new(100, "192.0.2.10", "192.0.2.1").up(&remote, "vx0", "eth0");
        for address in REMOTE {
            remote.addr("vx0", &format!("{address}/16"));
        }
        Scene { node, remote }
    }

    fn daemon(&self) -> Daemon<'_> {
        let config = self
            .node
            .config()
            .replace("red: {vlan: 10}", "red: {vni: 100, remotes: ['192.0.2.10']}");
        self.node.daemon_of(&format!(
            "{config}ports:\n  up: {{kind: af-xdp, interface: u0, steering: shared}}\n\
             vteps:\n  v: {{local: 192.0.2.1, port: up}}\n"
        ))
    }

    /// A network of VNI 100, with an MTU that fits into the underlay's. Addresses of veths are from host-local, those of TAPs from
    /// the daemon.
    fn network(&self, mode: &str) -> Value {
        let ipam = match mode {
            "veth" => self.node.host_local(),
            _ => json!({"type": "clearway"}),
        };
        let fields = json!({"mode": mode, "bridgeDomain": null, "vni": 100, "mtu": 1450, "ipam": ipam});
        json!({"cniVersion": "1.0.0", "name": Node::NETWORK, "plugins": [self.node.plugin(fields)]})
    }

    fn plugins(&self) -> [PathBuf; 2] {
        [
            clearway_tests::cni_binary(),
            PathBuf::from("/usr/lib/cni/host-local"),
        ]
    }

    /// The address of an attachment whose container's identifier has this in it.
    #[track_caller]
    fn address(&self, daemon: &Daemon<'_>, container: &str) -> String {
        let known = daemon.get("attachments");
        let mut all = known.as_array().into_iter().flatten();
        let found = all.find(|a| {
            a["id"]["container"]
                .as_str()
                .is_some_and(|id| id.contains(container))
        });
        let found = found.unwrap_or_else(|| panic!("no {container}: {known}"));
        let address = found["addresses"]["ips"][0]["address"]
            .as_str()
            .unwrap_or_default();
        address.split('/').next().unwrap_or_default().to_owned()
    }

    /// All that is left is the uplink.
    #[track_caller]
    fn assert_clean(&self, daemon: &Daemon<'_>) {
        let left = self.node.left(daemon);
        let ours = |text: &&String| **text != "port \"up\"" && !text.starts_with("interface u0 ");
        let left: Vec<_> = left.iter().filter(ours).collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

#[test]
fn podman() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let daemon = scene.daemon();
    for (mode, remote) in ["veth", "tap"].into_iter().zip(REMOTE) {
        let podman = Podman::new(&scene.node.fwd, &scene.network(mode), &scene.plugins());
        for name in ["one", "two"] {
            podman.start(name, Node::NETWORK);
        }
        let id = |name: &str| {
            podman
                .podman(&format!("inspect --format {{{{.Id}}}} {name}"))
                .ok()
                .trim()
                .to_owned()
        };
        let [one, two] = ["one", "two"].map(|name| scene.address(&daemon, &id(name)));
        podman.exec("one", &format!("ping -c 2 -i 0.2 -W 5 {two}")).ok();
        podman.exec("two", &format!("ping -c 2 -i 0.2 -W 5 {one}")).ok();
        podman
            .exec("one", &format!("ping -c 2 -i 0.2 -W 5 -s 1400 {remote}"))
            .ok();
        scene.remote.run(&format!("ping -c 3 -i 0.2 -W 5 {two}"));
        podman.podman("rm -f -t 0 one").ok();
        assert_eq!(daemon.get("attachments").as_array().map(Vec::len), Some(1));
        podman.exec("two", &format!("ping -c 1 -W 5 {remote}")).ok();
        podman.podman("rm -f -t 0 two").ok();
        scene.assert_clean(&daemon);
    }
    daemon.stop();
}

#[test]
fn containerd() {
    if !ready() {
        return;
    }
    let scene = Scene::new();
    let daemon = scene.daemon();
    for (mode, remote) in ["veth", "tap"].into_iter().zip(REMOTE) {
        let mut containerd = Containerd::start(&scene.node.fwd, &scene.network(mode), &scene.plugins());
        for name in ["one", "two"] {
            containerd.run(&scene.node.fwd, name);
        }
        // ctr has the network made beside the start of the container.
        wait_for("both are attached", SOON, || {
            (daemon.get("attachments").as_array().map(Vec::len) == Some(2)).then_some(())
        });
        let [one, two] = ["one", "two"].map(|name| scene.address(&daemon, name));
        containerd
            .exec("one", &format!("ping -c 2 -i 0.2 -W 5 {two}"))
            .ok();
        containerd
            .exec("two", &format!("ping -c 2 -i 0.2 -W 5 {one}"))
            .ok();
        containerd
            .exec("one", &format!("ping -c 2 -i 0.2 -W 5 -s 1400 {remote}"))
            .ok();
        scene.remote.run(&format!("ping -c 3 -i 0.2 -W 5 {two}"));
        for name in ["one", "two"] {
            containerd.stop(name);
        }
        drop(containerd);
        scene.assert_clean(&daemon);
    }
    daemon.stop();
}
