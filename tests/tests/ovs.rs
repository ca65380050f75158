//! Open vSwitch with its userspace datapath as the peer: VLAN trunks and VXLAN tunnels of another implementation.

use clearway_tests::{
    Daemon, Flow, Netns, Ovs, Ping, PingProbe, Pods, Veth, iperf_tcp, ready, tcp_echo, tcp_refused,
};
use std::time::Duration;

/// Pods 0 and 1, and a host with Open vSwitch whose `up0` is on a wire to `u0` of Clearway's namespace.
fn scene(mtu: u32) -> (Pods, Netns) {
    let (pods, host) = (Pods::new(2), Netns::new("ovs"));
    Veth::new((&host, "up0"), (&pods.fwd, "u0")).mtu(mtu).up();
    // The host's kernel must not answer beside its switch.
    host.sysctl("net/ipv6/conf/up0/disable_ipv6", "1");
    (pods, host)
}

#[test]
fn a_trunk() {
    if !ready() {
        return;
    }
    let (pods, host) = scene(1500);
    let ovs = Ovs::start(&host);
    ovs.bridge("br0");
    ovs.port("br0", "up0", "vlan_mode=native-untagged tag=30 trunks=10,20");
    for (dev, vlan) in [("in10", 10), ("in20", 20), ("in30", 30)] {
        ovs.internal("br0", dev, &format!("tag={vlan}"));
        host.offloads_off(dev);
        host.addr(dev, &format!("10.{vlan}.0.9/24"));
        host.addr(dev, &format!("fd00:{vlan}::9/64"));
    }
    // Pod 0 is in VLAN 10; pod 1 is in VLAN 20, and on a trunk besides untagged in the native VLAN of both sides.
    pods.pod(0).addr("eth0", "10.10.0.1/24");
    pods.pod(0).addr("eth0", "fd00:10::1/64");
    pods.pod(1).addr("eth0", "10.20.0.1/24");
    let config = |second: &str| {
        format!(
            "
ports:
  peer: {{kind: af-xdp, interface: u0, trunk: [10, 20], native: plain}}
  pod0: {{kind: af-xdp, interface: p0, access: red}}
  pod1: {{kind: af-xdp, interface: p1, access: {second}}}
bridge-domains:
  red: {{vlan: 10}}
  blue: {{vlan: 20}}
  plain: {{}}
"
        )
    };
    let daemon = Daemon::start(&pods.fwd, &config("blue"));
    let (red, blue) = (pods.pod(0), pods.pod(1));
    Ping::new("10.10.0.9").all(red);
    Ping::new("fd00:10::9").all(red);
    Ping::new("10.20.0.9").all(blue);
    Ping::new("10.10.0.1").args("-s 1472 -M do").all(&host);
    tcp_echo(red, &host, "10.10.0.9", 1_000_000);
    tcp_echo(&host, red, "fd00:10::1", 1_000_000);
    assert!(iperf_tcp(red, &host, "10.10.0.9", 1, "").mbits > 5.0);
    Flow::start(red, &host, "10.10.0.9", 1000, 200)
        .run(Duration::from_millis(500))
        .assert_whole();
    // VLANs are apart: neither through Clearway nor through the peer.
    blue.addr("eth0", "10.10.0.2/24");
    Ping::new("10.10.0.9").args("-c 2 -W 0.3 -I 10.10.0.2").none(blue);
    tcp_refused(blue, red, "10.10.0.1");
    assert_eq!(daemon.fdb_port("red", host.mac("in10")).as_deref(), Some("peer"));
    // The same pod moves to the native VLAN while all runs.
    blue.addr("eth0", "10.30.0.1/24");
    daemon.apply(&config("plain"));
    Ping::new("10.30.0.9").until(blue, Duration::from_secs(3));
    Ping::new("10.30.0.9").all(blue);
    Ping::new("10.20.0.9").args("-c 2 -W 0.3 -I 10.20.0.1").none(blue);
    daemon.assert_ledger();
}

#[test]
fn a_tunnel() {
    if !ready() {
        return;
    }
    for (family, local, remote) in [
        (24, "192.0.2.1", "192.0.2.10"),
        (64, "2001:db8::1", "2001:db8::a"),
    ] {
        let (pods, host) = scene(1600);
        pods.fwd.sysctl("net/ipv6/conf/u0/disable_ipv6", "0");
        pods.fwd.addr("u0", &format!("{local}/{family}"));
        let ovs = Ovs::start(&host);
        ovs.bridge("br-phy");
        ovs.port("br-phy", "up0", "");
        host.addr("br-phy", &format!("{remote}/{family}"));
        ovs.bridge("br-int");
        // Two VLANs at the peer, each a segment of its own in the tunnel.
        for (vlan, vni) in [(10, 100), (20, 200)] {
            ovs.vxlan(
                "br-int",
                &format!("vx{vni}"),
                vni,
                remote,
                local,
                &format!("tag={vlan}"),
            );
            ovs.internal("br-int", &format!("in{vlan}"), &format!("tag={vlan}"));
            host.offloads_off(&format!("in{vlan}"));
            host.addr(&format!("in{vlan}"), &format!("10.{vlan}.0.9/24"));
        }
        pods.pod(0).addr("eth0", "10.10.0.1/24");
        pods.pod(1).addr("eth0", "10.20.0.1/24");
        let config = format!(
            "
ports:
  up: {{kind: af-xdp, interface: u0, steering: shared}}
  pod0: {{kind: af-xdp, interface: p0, access: red}}
  pod1: {{kind: af-xdp, interface: p1, trunk: [{{vlan: 7, bridge-domain: red}}], native: blue}}
vteps:
  v: {{local: '{local}', port: up}}
bridge-domains:
  red: {{vni: 100, remotes: ['{remote}']}}
  blue: {{vni: 200, remotes: ['{remote}']}}
"
        );
        let daemon = Daemon::start(&pods.fwd, &config);
        let probe = PingProbe::start(&host, local, Duration::from_millis(50));
        let (red, blue) = (pods.pod(0), pods.pod(1));
        for (pod, to) in [(red, "10.10.0.9"), (blue, "10.20.0.9")] {
            Ping::new(to).until(pod, Duration::from_secs(10));
            Ping::new(to).args("-M do -s 1472").all(pod);
            tcp_echo(pod, &host, to, 500_000);
        }
        tcp_echo(&host, red, "10.10.0.1", 500_000);
        Flow::start(&host, red, "10.10.0.1", 1000, 200)
            .run(Duration::from_millis(500))
            .assert_whole();
        red.addr("eth0", "10.20.0.5/24");
        Ping::new("10.20.0.9").args("-c 2 -W 0.3").none(red);
        assert_eq!(daemon.fdb_port("red", host.mac("in10")).as_deref(), Some(remote));
        let probe = probe.stop();
        assert!(probe.lost() <= 1, "the uplink's own address: {probe:?}");
        daemon.assert_ledger();
    }
}
