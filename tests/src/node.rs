//! A node on which a runtime attaches pods: the daemon's namespace, the pods' namespaces, and the folders of plugins.
//!
//! ```text
//!   runtime ── CniNetwork ──► clearway-cni ──► Daemon (fwd)          pod0, pod1, …: empty but for `lo`
//!                                └► host-local (leases in a folder of the node)
//! ```

use crate::{CniNetwork, Container, Daemon, DaemonBuilder, Netns};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A node.
#[derive(Debug)]
pub struct Node {
    /// The daemon's namespace, and the one in which plugins run.
    pub fwd: Netns,
    pods: Vec<Netns>,
    dir: tempfile::TempDir,
}

impl Node {
    /// The name of its network.
    pub const NETWORK: &str = "blue";

    /// A node with so many pods.
    ///
    /// # Panics
    /// If a namespace or a folder cannot be made.
    #[track_caller]
    pub fn new(pods: usize) -> Node {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a folder for the node: {e}"));
        for folder in ["bin", "leases"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        }
        Node {
            fwd: Netns::quiet("fwd"),
            pods: (0..pods).map(|n| Netns::new(&format!("pod{n}"))).collect(),
            dir,
        }
    }

    /// A pod's namespace.
    pub fn pod(&self, n: usize) -> &Netns {
        &self.pods[n]
    }

    /// Deletes a pod's namespace, as a runtime does before or after DEL.
    pub fn remove_pod(&mut self, n: usize) {
        drop(self.pods.remove(n));
    }

    /// One more pod, in its place.
    #[track_caller]
    pub fn add_pod(&mut self) {
        let n = self.pods.len();
        self.pods.push(Netns::new(&format!("pod{n}")));
    }

    /// The container of pod `n`.
    pub fn container(&self, n: usize) -> Container {
        Container::new(&format!("container{n}"), &self.pods[n])
    }

    /// Its configuration: domains `red` (VLAN 10) and `green` (VLAN 20), a pool `pods` for each family.
    pub fn config(&self) -> String {
        format!(
            "api: {{socket: '{}'}}\n\
             bridge-domains:\n  red: {{vlan: 10}}\n  green: {{vlan: 20}}\n\
             address-pools:\n  pods:\n    subnets:\n    - {{subnet: 10.7.0.0/16, gateway: 10.7.0.1}}\n    \
             - {{subnet: 'fd07::/64'}}\n    routes: [{{to: 10.99.0.0/16}}]\n",
            self.socket().display()
        )
    }

    /// The same with so many addresses of IPv4 in the pool, and no routes: a pod has each only once, through one of its
    /// interfaces.
    pub fn config_with_pool_of(&self, addresses: u8) -> String {
        let subnet = "subnet: 10.7.0.0/16";
        let ranges = format!(
            "{subnet}, ranges: [10.7.0.10-10.7.0.{}]",
            9 + u32::from(addresses)
        );
        let config = self.config().replace(subnet, &ranges);
        config.replace("routes: [{to: 10.99.0.0/16}]", "routes: []")
    }

    /// A daemon; the next one takes over what it leaves.
    #[track_caller]
    pub fn daemon(&self) -> Daemon<'_> {
        self.daemon_of(&self.config())
    }

    /// The same with another configuration.
    #[track_caller]
    pub fn daemon_of(&self, config: &str) -> Daemon<'_> {
        DaemonBuilder::config(&self.fwd, config)
            .socket_of_config(&self.socket())
            .start()
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// The folder of plugins.
    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// A folder for whatever a test writes.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Our plugin's configuration with these fields, and without what is null: domain `red`, unless they say another segment.
    pub fn plugin(&self, fields: Value) -> Value {
        let mut plugin =
            json!({"type": "clearway-cni", "bridgeDomain": "red", "daemonSocket": self.socket()});
        for (key, value) in fields.as_object().into_iter().flatten() {
            plugin[key] = value.clone();
        }
        if let Some(plugin) = plugin.as_object_mut() {
            plugin.retain(|_, value| !value.is_null());
        }
        plugin
    }

    /// A network of our plugin alone.
    #[track_caller]
    pub fn network(&self, version: &str, fields: Value) -> CniNetwork<'_> {
        self.chain(version, &[self.plugin(fields)])
    }

    /// A network of these plugins.
    #[track_caller]
    pub fn chain(&self, version: &str, plugins: &[Value]) -> CniNetwork<'_> {
        let list = json!({"cniVersion": version, "name": Node::NETWORK, "plugins": plugins});
        CniNetwork::new(&self.fwd, &self.bin(), list)
    }

    /// Debian's host-local, with an address of each family.
    pub fn host_local(&self) -> Value {
        json!({
            "type": "host-local", "dataDir": self.dir.path().join("leases"), "routes": [{"dst": "10.98.0.0/16"}],
            "ranges": [[{"subnet": "10.8.0.0/16", "gateway": "10.8.0.1"}], [{"subnet": "fd08::/64"}]]
        })
    }

    /// The same as `leases`, a plugin that speaks CNI 1.1.0: Debian 12's does not. Its GC is our own, for that reason.
    #[track_caller]
    pub fn host_local_1_1(&self) -> Value {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.dir.path().join("leases").join(Node::NETWORK);
        let text = format!(
            "#!/bin/sh\n\
             conf=$(sed 's/\"1\\.1\\.0\"/\"1.0.0\"/g')\n\
             case $CNI_COMMAND in\n\
             GC) cd {} || exit 1\n\
             \tfor lease in *[.:]*; do\n\
             \t\tcase $lease in last_*) continue ;; esac\n\
             \t\tid=$(head -n 1 \"$lease\" | tr -d '\\r')\n\
             \t\tcase $conf in *\"\\\"$id\\\"\"*) ;; *) rm \"$lease\" ;; esac\n\
             \tdone ;;\n\
             STATUS) ;;\n\
             *) printf %s \"$conf\" | /usr/lib/cni/host-local ;;\n\
             esac\n",
            folder.display()
        );
        let file = self.bin().join("leases");
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut ipam = self.host_local();
        ipam["type"] = "leases".into();
        ipam
    }

    /// The addresses that host-local has given away.
    pub fn leases(&self) -> Vec<String> {
        names(&self.dir.path().join("leases").join(Node::NETWORK))
            .into_iter()
            .filter(|name| name != "lock" && !name.starts_with("last_reserved_ip"))
            .collect()
    }

    /// What is there of attachments: in the daemon, on the host, in the pods, in host-local's folder; nothing: all is gone.
    #[track_caller]
    pub fn left(&self, daemon: &Daemon<'_>) -> Vec<String> {
        let mut left = Vec::new();
        let known = daemon.get("attachments");
        let list = known.as_array().unwrap_or_else(|| panic!("not a list: {known}"));
        left.extend(list.iter().map(|a| format!("attachment {}", a["id"])));
        let ports = daemon.get("ports");
        let list = ports.as_array().unwrap_or_else(|| panic!("not a list: {ports}"));
        left.extend(list.iter().map(|p| format!("port {}", p["name"])));
        for ns in std::iter::once(&self.fwd).chain(&self.pods) {
            let links = links(ns).into_iter().filter(|name| name != "lo");
            left.extend(links.map(|name| format!("interface {name} in {}", ns.name())));
        }
        let sockets = names(&self.fwd.state_dir().join("vhost"));
        left.extend(sockets.iter().map(|name| format!("socket folder {name}")));
        let sockets = names(&self.folder().join("shared"));
        left.extend(
            sockets
                .iter()
                .map(|name| format!("socket or folder {name} in the network's")),
        );
        let records = names(&self.fwd.state_dir().join("restore")).into_iter();
        let records = records.filter(|name| name.starts_with("rings-"));
        left.extend(records.map(|name| format!("record {name} of rings")));
        left.extend(self.leases().iter().map(|name| format!("lease {name}")));
        left
    }

    /// Demands that nothing is left of any attachment.
    ///
    /// # Panics
    /// With what is.
    #[track_caller]
    pub fn assert_clean(&self, daemon: &Daemon<'_>) {
        let left = self.left(daemon);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// The names of a namespace's interfaces.
#[track_caller]
fn links(ns: &Netns) -> Vec<String> {
    let text = ns.run("ip -j link");
    let links: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("ip -j link: {e}: {text}"));
    let names = links.as_array().into_iter().flatten();
    names
        .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
        .collect()
}

/// The names in a folder; none if there is no folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
