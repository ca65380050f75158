//! `ipam: {type: dhcp}`: Debian's plugin and its daemon ask busybox's DHCP server through a pod's new interface, across
//! Clearway; the lease is the pod's until it goes, and what fails or is killed on the way leaves nothing.

use clearway_tests::{CniFailure, CniNetwork, Container, Daemon, Netns, Node, Ping, Proc, ready, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// The daemon looks at all attachments in 10 s.
const REPAIRED: Duration = Duration::from_secs(40);
const DHCP: &str = "/usr/lib/cni/dhcp";
/// The server is pod 0; pods 1 and 2 are its clients.
const SERVER: usize = 0;
const GATEWAY: &str = "10.9.0.1";
/// All that it has to give: one address for each client, so that one that is not given back is missed.
const ADDRESSES: [&str; 2] = ["10.9.0.10", "10.9.0.11"];

/// The server's segment: a pod with an address of its own, and udhcpd in it.
struct Site<'a> {
    node: &'a Node,
    server: Proc,
    plugins: Option<Proc>,
    /// Where a test holds the plugin.
    gate: PathBuf,
}

impl<'a> Site<'a> {
    #[track_caller]
    fn start(node: &'a Node) -> Site<'a> {
        let folder = node.folder();
        good(network_of_server(node).add(&node.container(SERVER)));
        std::fs::write(folder.join("udhcpd.leases"), "").expect("a file of leases");
        let mut site = Site {
            node,
            server: start_server(node),
            plugins: None,
            gate: folder.join("gate"),
        };
        site.start_plugins_daemon();
        site
    }

    /// The part of the dhcp plugin that keeps the leases.
    #[track_caller]
    fn start_plugins_daemon(&mut self) {
        let socket = self.socket();
        // One that was killed leaves it, and the next one does not start.
        let _ = std::fs::remove_file(&socket);
        let pid = text(&self.node.folder().join("dhcp.pid"));
        let words = [DHCP, "daemon", "-socketpath", &text(&socket), "-pidfile", &pid];
        let limits = ["-timeout", "2s", "-resendmax", "1s"];
        let daemon = Proc::start(&self.node.fwd, &[&words[..], &limits[..]].concat());
        wait_for("the dhcp plugin's daemon", SOON, || socket.exists().then_some(()));
        self.plugins = Some(daemon);
    }

    fn socket(&self) -> PathBuf {
        self.node.folder().join("dhcp.sock")
    }

    fn network(&self, mode: &str) -> CniNetwork<'a> {
        let ipam = json!({"type": "dhcp", "daemonSocketPath": self.socket()});
        self.node.network("1.0.0", json!({"mode": mode, "ipam": ipam}))
    }

    /// The leases that live, as the server has them.
    #[track_caller]
    fn leases(&self) -> Vec<String> {
        self.server.signal(Signal::SIGUSR1);
        // It writes the file when it sees the signal.
        std::thread::sleep(Duration::from_millis(100));
        let file = self.node.folder().join("udhcpd.leases");
        let out = clearway_tests::command(&format!("busybox dumpleases -r -f {}", file.display())).ok();
        let live = out
            .lines()
            .skip(1)
            .filter(|line| !line.trim_end().ends_with("expired"));
        live.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
            .collect()
    }

    /// The server has these leases now, and no others.
    #[track_caller]
    fn await_leases(&self, wanted: &[&str]) {
        wait_for(&format!("the server's leases are {wanted:?}"), SOON, || {
            let mut leases = self.leases();
            leases.sort();
            (leases == wanted).then_some(())
        });
    }

    /// From now on the plugin stops where `when` says, before or after it asks the server, until the gate is opened.
    #[track_caller]
    fn hold(&self, when: &str) {
        let (gate, real) = (self.gate.display(), DHCP);
        let wait = format!("touch {gate}.reached; while [ ! -e {gate}.open ]; do sleep 0.05; done");
        let steps = match when {
            "before" => format!("{wait}; exec {real}"),
            _ => format!("answer=$({real}); code=$?; {wait}; printf %s \"$answer\"; exit $code"),
        };
        let text = format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exec {real}\n{steps}\n");
        // Found before Debian's.
        let file = self.node.bin().join("dhcp");
        std::fs::write(&file, text).expect("a program");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it may be run");
        for end in ["reached", "open"] {
            let _ = std::fs::remove_file(self.gate.with_extension(end));
        }
    }

    #[track_caller]
    fn await_held(&self) {
        let reached = self.gate.with_extension("reached");
        wait_for("the dhcp plugin is asked", SOON, || {
            reached.exists().then_some(())
        });
    }

    #[track_caller]
    fn open_gate(&self) {
        std::fs::write(self.gate.with_extension("open"), "").expect("the gate");
    }

    /// All of the clients is gone; the server's own attachment is there.
    #[track_caller]
    fn assert_only_server(&self, daemon: &Daemon<'_>) {
        let known = daemon.get("attachments");
        let ids: Vec<_> = known
            .as_array()
            .into_iter()
            .flatten()
            .map(|a| &a["id"]["container"])
            .collect();
        assert_eq!(ids, ["container0"], "{known}");
        for n in [1, 2] {
            assert!(self.node.pod(n).link("net1").is_none(), "interface in pod {n}");
        }
        let ports = daemon.get("ports");
        assert_eq!(ports.as_array().map(Vec::len), Some(1), "{ports}");
    }

    /// The end: nothing at all is left.
    #[track_caller]
    fn end(self, daemon: Daemon<'_>) {
        let node = self.node;
        drop(self);
        good(network_of_server(node).del(&node.container(SERVER)));
        node.assert_clean(&daemon);
        daemon.stop();
    }
}

#[track_caller]
fn start_server(node: &Node) -> Proc {
    let folder = node.folder();
    let [first, last] = ADDRESSES;
    let conf = format!(
        "interface net1\nstart {first}\nend {last}\nmax_leases 2\nlease_file {}\npidfile {}\n\
         option subnet 255.255.255.0\noption router {GATEWAY}\noption lease 3600\noption dns {GATEWAY}\n",
        folder.join("udhcpd.leases").display(),
        folder.join("udhcpd.pid").display()
    );
    let file = folder.join("udhcpd.conf");
    std::fs::write(&file, conf).expect("the server's configuration");
    // -a: how long it waits for an answer from somebody who has the address already.
    let words = ["busybox", "udhcpd", "-f", "-a", "100", &text(&file)];
    let mut server = Proc::start(node.pod(SERVER), &words);
    server.wait_line("that it has started", SOON, |line| line.contains("started"));
    server
}

fn network_of_server(node: &Node) -> CniNetwork<'_> {
    let address = format!("{GATEWAY}/24");
    let ipam = json!({"type": "static", "addresses": [{"address": address}]});
    node.network("1.0.0", json!({"mode": "veth", "ipam": ipam}))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[track_caller]
fn good<T>(outcome: Result<T, CniFailure>) -> T {
    outcome.unwrap_or_else(|failure| panic!("{failure:#?}"))
}

/// The address that a pod was given, without the length of its prefix.
#[track_caller]
fn address(result: &Value) -> String {
    let text = result["ips"][0]["address"].as_str().unwrap_or_default();
    let (address, length) = text
        .split_once('/')
        .unwrap_or_else(|| panic!("no address: {result}"));
    assert_eq!(length, "24", "{result}");
    assert!(ADDRESSES.contains(&address), "{result}");
    address.to_owned()
}

/// The IPv4 addresses of `net1`, and where the default route leads.
#[track_caller]
fn possessions(pod: &Netns) -> (Vec<String>, String) {
    let link: Value = serde_json::from_str(&pod.run("ip -j -4 addr show dev net1")).expect("JSON");
    let ips = link[0]["addr_info"].as_array().into_iter().flatten();
    let ips = ips.filter_map(|ip| ip["local"].as_str().map(str::to_owned));
    let default = pod.run("ip -4 route show default");
    // A TAP has no carrier while nobody has its other end.
    let default = default.trim().trim_end_matches(" linkdown");
    (ips.collect(), default.to_owned())
}

fn attachment(daemon: &Daemon<'_>, container: &Container) -> Value {
    let known = daemon.get("attachments");
    let mut all = known.as_array().into_iter().flatten();
    all.find(|a| a["id"]["container"] == container.id.as_str())
        .cloned()
        .unwrap_or_default()
}

#[track_caller]
fn wait_end(mut plugin: Child) -> Value {
    wait_for("the plugin to end", SOON, || plugin.try_wait().ok().flatten());
    let output = plugin.wait_with_output().expect("its output");
    assert!(!output.status.success(), "it must fail");
    serde_json::from_slice(&output.stdout).expect("an error object")
}

#[test]
fn pods_have_leases_as_long_as_they_live() {
    if !ready() {
        return;
    }
    let node = Node::new(3);
    let mut daemon = node.daemon();
    let site = Site::start(&node);
    let networks = ["veth", "tap"].map(|mode| site.network(mode));
    let pods = [1, 2];
    let containers = pods.map(|n| node.container(n));
    // Twice: what is given back is there to be had.
    for round in 0..2 {
        // A pod with another interface, which has the default route already.
        let other = round == 1;
        if other {
            let pod = node.pod(1);
            for line in [
                "ip link add eth0 type veth peer name eth1",
                "ip addr add 10.200.0.2/24 dev eth0",
                "ip link set dev eth0 up",
                "ip link set dev eth1 up",
                "ip route add default via 10.200.0.1",
            ] {
                pod.run(line);
            }
        }
        let results = [0, 1].map(|n| good(networks[n].add(&containers[n])));
        let given = results.each_ref().map(address);
        site.await_leases(&ADDRESSES);
        for n in [0, 1] {
            let (result, pod) = (&results[n], node.pod(pods[n]));
            let through_other = other && n == 0;
            assert_eq!(result["ips"][0]["gateway"], GATEWAY, "{result}");
            let last = result["interfaces"].as_array().map_or(0, Vec::len) - 1;
            assert_eq!(result["ips"][0]["interface"], last, "{result}");
            let known = attachment(&daemon, &containers[n]);
            assert_eq!(known["state"], "ready", "{known}");
            let ip = &known["addresses"]["ips"][0];
            assert_eq!(ip["address"], result["ips"][0]["address"], "{known}");
            let (ips, default) = possessions(pod);
            assert_eq!(ips, [given[n].as_str()]);
            if through_other {
                assert!(
                    default.starts_with("default via 10.200.0.1 dev eth0"),
                    "{default}"
                );
                assert_eq!(result.get("routes"), None, "it has no route of the server's");
            } else {
                assert!(
                    default.starts_with(&format!("default via {GATEWAY} dev net1")),
                    "{default}"
                );
                assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": GATEWAY}]));
            }
            Ping::new(GATEWAY).all(pod);
            Ping::new(&given[n]).all(node.pod(SERVER));
        }
        Ping::new(&given[1]).all(node.pod(1));
        // What a pod loses is found, and put right.
        for n in [0, 1] {
            let pod = node.pod(pods[n]);
            good(networks[n].check(&containers[n]));
            let failure = wait_for("CHECK misses the address", REPAIRED, || {
                pod.run(&format!("ip addr del {}/24 dev net1", given[n]));
                networks[n].check(&containers[n]).err()
            });
            assert!(
                failure.code == 103 && failure.text.contains(&given[n]),
                "{failure:?}"
            );
            wait_for("the address is put right", REPAIRED, || {
                networks[n].check(&containers[n]).ok()
            });
            Ping::new(GATEWAY).all(pod);
        }
        let before = pods.map(|n| possessions(node.pod(n)));
        // The next daemon takes them over.
        if round == 0 {
            assert!(daemon.terminate().success());
        } else {
            daemon.kill();
        }
        assert_eq!(pods.map(|n| possessions(node.pod(n))), before, "without a daemon");
        daemon = node.daemon();
        for n in [0, 1] {
            Ping::new(GATEWAY).until(node.pod(pods[n]), SOON);
            good(networks[n].check(&containers[n]));
        }
        assert_eq!(
            pods.map(|n| possessions(node.pod(n))),
            before,
            "with the next one"
        );
        site.await_leases(&ADDRESSES);
        // A second ADD is an error, and takes nothing from the first.
        let failure = networks[0].add(&containers[0]).expect_err("it is there");
        assert_eq!(failure.code, 102, "{failure:?}");
        good(networks[0].check(&containers[0]));
        good(networks[0].del(&containers[0]));
        site.await_leases(&[given[1].as_str()]);
        good(networks[1].del(&containers[1]));
        good(networks[1].del(&containers[1]));
        site.await_leases(&[]);
        site.assert_only_server(&daemon);
        if other {
            node.pod(1).run("ip link del eth0");
        }
    }
    site.end(daemon);
}

#[test]
fn what_fails_leaves_nothing() {
    if !ready() {
        return;
    }
    let node = Node::new(3);
    let daemon = node.daemon();
    let mut site = Site::start(&node);
    for mode in ["veth", "tap"] {
        println!("{mode}");
        let network = site.network(mode);
        let container = node.container(1);
        // The lease is there, and cannot be used: the pod does not want the route.
        node.pod(1).run("ip route add blackhole default");
        let failure = network.add(&container).expect_err("its place is taken");
        assert!(failure.text.contains("0.0.0.0/0"), "{failure:?}");
        node.pod(1).run("ip route del blackhole default");
        site.await_leases(&[]);
        site.assert_only_server(&daemon);
        good(network.del(&container));
        // Nobody answers.
        site.server.kill();
        let failure = network.add(&container).expect_err("no server");
        assert!(failure.code == 999, "the dhcp plugin's own: {failure:?}");
        site.assert_only_server(&daemon);
        good(network.del(&container));
        site.server = start_server(&node);
        // Its daemon is gone after ADD: DEL says so, and the interface goes all the same.
        good(network.add(&container));
        site.plugins = None;
        let failure = network
            .del(&container)
            .expect_err("nobody to give the lease back");
        assert!(failure.text.contains("dhcp"), "{failure:?}");
        site.assert_only_server(&daemon);
        let failure = network.add(&container).expect_err("nobody to ask");
        assert!(failure.text.contains("dhcp"), "{failure:?}");
        site.assert_only_server(&daemon);
        site.start_plugins_daemon();
        good(network.del(&container));
        // The server knows the client again, and gives it what it had.
        good(network.add(&container));
        good(network.del(&container));
        site.await_leases(&[]);
        site.assert_only_server(&daemon);
    }
    site.end(daemon);
}

/// The daemon, or the plugin, is killed after the interface is made and before its addresses are known.
#[test]
fn what_is_killed_on_the_way_leaves_nothing() {
    if !ready() {
        return;
    }
    let node = Node::new(3);
    let mut daemon = node.daemon();
    let site = Site::start(&node);
    let container = node.container(1);
    for mode in ["veth", "tap"] {
        for when in ["before", "after"] {
            println!("{mode}, {when} the server is asked");
            let network = site.network(mode);
            site.hold(when);
            let plugin = network.start("ADD", &container);
            site.await_held();
            let known = attachment(&daemon, &container);
            assert_eq!(known["state"], "adding", "{known}");
            assert!(node.pod(1).link("net1").is_some(), "the interface is there first");
            // It is let be as long as the daemon lives, and it is nobody else's.
            std::thread::sleep(Duration::from_millis(1500));
            let failure = network.add(&container).expect_err("it is there");
            assert_eq!(failure.code, 102, "{failure:?}");
            daemon.kill();
            daemon = node.daemon();
            wait_for("what was not complete is taken back", SOON, || {
                attachment(&daemon, &container).is_null().then_some(())
            });
            site.assert_only_server(&daemon);
            site.open_gate();
            let error = wait_end(plugin);
            let code = if when == "before" { 999 } else { 11 };
            assert_eq!(error["code"], code, "{error}");
            site.assert_only_server(&daemon);
            good(network.del(&container));
            // The plugin: DEL gives back what it got.
            site.hold(when);
            let mut plugin = network.start("ADD", &container);
            site.await_held();
            plugin.kill().expect("killed");
            plugin.wait().expect("its end");
            good(network.del(&container));
            site.open_gate();
            if when == "after" {
                site.await_leases(&[]);
            }
            site.assert_only_server(&daemon);
        }
    }
    site.end(daemon);
}
