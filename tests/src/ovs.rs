//! Open vSwitch with its userspace datapath as the peer: VLAN ports, trunks and VXLAN tunnels that need no kernel
//! module. Each instance has its own database, run folder and namespace; no service of the host is touched.

use crate::{Netns, Proc, cmd};
use std::time::Duration;

/// Built with DPDK, which need not be initialised: system ports go through AF_PACKET, internal ones through tap.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A running Open vSwitch.
#[derive(Debug)]
pub struct Ovs<'a> {
    ns: &'a Netns,
    dir: tempfile::TempDir,
    // Dropped in this order: the switch before its database.
    _switch: Proc,
    _db: Proc,
}

impl<'a> Ovs<'a> {
    /// Starts a database and a switch in `ns`.
    ///
    /// # Panics
    /// If they do not come up within ten seconds.
    #[track_caller]
    pub fn start(ns: &'a Netns) -> Ovs<'a> {
        let dir =
            tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a folder for Open vSwitch: {e}"));
        let run = dir.path().display().to_string();
        let env = ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"].map(|v| (v, run.as_str()));
        cmd::run(&["ovsdb-tool", "create", &format!("{run}/conf.db"), SCHEMA]).ok();
        let db = Proc::start_with(
            ns,
            &[
                "ovsdb-server",
                &format!("{run}/conf.db"),
                &format!("--remote=punix:{run}/db.sock"),
                &format!("--unixctl={run}/db.ctl"),
                "--no-chdir",
            ],
            &env,
        );
        let socket = dir.path().join("db.sock");
        crate::wait_for("the socket of ovsdb-server", Duration::from_secs(10), || {
            socket.exists().then_some(())
        });
        cmd::command(&format!("ovs-vsctl --db=unix:{run}/db.sock --no-wait init")).ok();
        let switch = Proc::start_with(
            ns,
            &[
                SWITCH,
                &format!("unix:{run}/db.sock"),
                &format!("--unixctl={run}/vs.ctl"),
                "--no-chdir",
            ],
            &env,
        );
        let ovs = Ovs {
            ns,
            dir,
            _switch: switch,
            _db: db,
        };
        let control = ovs.dir.path().join("vs.ctl");
        crate::wait_for("the socket of ovs-vswitchd", Duration::from_secs(10), || {
            control.exists().then_some(())
        });
        ovs
    }

    /// Runs `ovs-vsctl`, and waits until the switch has done it.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn vsctl(&self, args: &str) -> String {
        let db = self.dir.path().display();
        cmd::command(&format!("ovs-vsctl --db=unix:{db}/db.sock --timeout=10 {args}")).ok()
    }

    /// Runs `ovs-appctl` against the switch.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn appctl(&self, args: &str) -> String {
        cmd::command(&format!(
            "ovs-appctl -t {}/vs.ctl {args}",
            self.dir.path().display()
        ))
        .ok()
    }

    /// Adds a learning bridge with the userspace datapath. Its own interface of that name is up.
    #[track_caller]
    pub fn bridge(&self, name: &str) {
        self.vsctl(&format!(
            "add-br {name} -- set bridge {name} datapath_type=netdev"
        ));
        self.ns.run(&format!("ip link set {name} up"));
    }

    /// Adds an interface of the namespace to a bridge. `options` are columns of the port: `tag=10`,
    /// `trunks=10,20`, `vlan_mode=native-untagged`.
    #[track_caller]
    pub fn port(&self, bridge: &str, dev: &str, options: &str) {
        self.vsctl(&format!("add-port {bridge} {dev} {options}"));
    }

    /// Adds an internal interface: the namespace's own stack, attached to the bridge as port options say.
    #[track_caller]
    pub fn internal(&self, bridge: &str, dev: &str, options: &str) {
        self.vsctl(&format!(
            "add-port {bridge} {dev} {options} -- set interface {dev} type=internal"
        ));
        self.ns.run(&format!("ip link set dev {dev} up"));
    }

    /// Adds a VXLAN tunnel port.
    #[track_caller]
    pub fn vxlan(&self, bridge: &str, dev: &str, vni: u32, local: &str, remote: &str, options: &str) {
        self.vsctl(&format!(
            "add-port {bridge} {dev} {options} -- set interface {dev} type=vxlan options:key={vni} \
             options:local_ip={local} options:remote_ip={remote}"
        ));
    }
}
