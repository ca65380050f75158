//! The overlay scene: pods at Clearway, and remote hosts behind the kernel's VXLAN device on a shared underlay.
//!
//! ```text
//!   pod0 ── p0 ┐ fwd                sw (kernel bridge)        remote0: eth0 192.0.2.10, vx0 10.0.0.100
//!   pod1 ── p1 ┤ Clearway ── u0 ──── ● ────────────────────── remote1: eth0 192.0.2.11, vx0 10.0.0.101
//!              └ 192.0.2.1
//! ```

use crate::{Mac, Netns, Pods, Veth, Vxlan};

/// The family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// 192.0.2.0/24 (RFC 5737).
    V4,
    /// 2001:db8::/64 (RFC 3849).
    V6,
}

impl Underlay {
    /// Clearway's VTEP: the address of `u0`, which the kernel keeps.
    pub fn local(self) -> &'static str {
        match self {
            Underlay::V4 => "192.0.2.1",
            Underlay::V6 => "2001:db8::1",
        }
    }

    /// A remote's VTEP.
    pub fn remote(self, n: usize) -> String {
        match self {
            Underlay::V4 => format!("192.0.2.{}", 10 + n),
            Underlay::V6 => format!("2001:db8::{:x}", 10 + n),
        }
    }

    /// How much an encapsulated frame is longer than the inner IP packet: outer IP, UDP, VXLAN, inner Ethernet.
    pub fn overhead(self) -> u32 {
        match self {
            Underlay::V4 => 20 + 8 + 8 + 14,
            Underlay::V6 => 40 + 8 + 8 + 14,
        }
    }
}

/// Pods, an underlay switch and remote hosts.
#[derive(Debug)]
pub struct Overlay {
    /// Pods and the namespace of Clearway, which has the uplink `u0` besides.
    pub pods: Pods,
    /// The underlay's switch: bridge `br0` with ports `uplink`, `r0`, `r1`, ….
    pub sw: Netns,
    /// Which family the underlay speaks.
    pub underlay: Underlay,
    remotes: Vec<Netns>,
}

impl Overlay {
    /// Builds it with an underlay of that MTU. Remotes have no VXLAN device yet.
    #[track_caller]
    pub fn new(pods: Pods, remotes: usize, underlay: Underlay, mtu: u32) -> Overlay {
        let sw = Netns::quiet("sw");
        sw.run("ip link add br0 type bridge mcast_snooping 0");
        let remotes: Vec<Netns> = (0..remotes).map(|n| Netns::new(&format!("remote{n}"))).collect();
        let wire = |ns: &Netns, dev: &str, port: &str, address: String, mac: Mac| {
            Veth::new((ns, dev), (&sw, port))
                .mtu(mtu)
                .macs(mac, Mac::local(mac.host() + 0x1000))
                .up();
            ns.sysctl(&format!("net/ipv6/conf/{dev}/disable_ipv6"), "0");
            ns.addr(
                dev,
                &format!("{address}/{}", if underlay == Underlay::V4 { 24 } else { 64 }),
            );
            sw.run(&format!("ip link set {port} master br0"));
        };
        wire(
            &pods.fwd,
            "u0",
            "uplink",
            underlay.local().to_owned(),
            Mac::local(0x400),
        );
        for (n, remote) in remotes.iter().enumerate() {
            wire(
                remote,
                "eth0",
                &format!("r{n}"),
                underlay.remote(n),
                Overlay::remote_mac(n),
            );
        }
        sw.run(&format!("ip link set br0 mtu {mtu} up"));
        Overlay {
            pods,
            sw,
            underlay,
            remotes,
        }
    }

    /// A remote's namespace.
    pub fn remote(&self, n: usize) -> &Netns {
        &self.remotes[n]
    }

    /// The MAC address of a remote on the underlay.
    pub fn remote_mac(n: usize) -> Mac {
        Mac::local(0x500 + n as u32)
    }

    /// Gives remote `n` a VXLAN device `dev` of this VNI towards Clearway, with station address `mac` and addresses
    /// 10.0.0.(100+n) and fd00::(100+n).
    #[track_caller]
    pub fn vxlan(&self, n: usize, dev: &str, vni: u32, mac: Mac, args: &str) {
        let remote = &self.remotes[n];
        let peer = Vxlan::new(vni, &self.underlay.remote(n), self.underlay.local()).args(args);
        peer.up(remote, dev, "eth0");
        remote.run(&format!("ip link set {dev} address {mac}"));
        remote.addr(dev, &format!("{}/24", Overlay::ip4(n)));
        remote.addr(dev, &format!("{}/64", Overlay::ip6(n)));
    }

    /// Gives remote `n` a VXLAN device without addresses, whose kernel sends nothing by itself.
    #[track_caller]
    pub fn vxlan_quiet(&self, n: usize, dev: &str, vni: u32) {
        self.remotes[n].sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        Vxlan::new(vni, &self.underlay.remote(n), self.underlay.local()).up(&self.remotes[n], dev, "eth0");
    }

    /// A remote's address inside the overlay.
    pub fn ip4(n: usize) -> String {
        format!("10.0.0.{}", 100 + n)
    }

    /// A remote's IPv6 address inside the overlay.
    pub fn ip6(n: usize) -> String {
        format!("fd00::{:x}", 100 + n)
    }

    /// The configuration: pods in domain `lan` (VNI 100), flooded to all remotes; `domain` and `vtep` are added to
    /// those objects.
    pub fn config(&self, pods: usize, domain: &str, vtep: &str) -> String {
        let remotes: Vec<String> = (0..self.remotes.len())
            .map(|n| format!("'{}'", self.underlay.remote(n)))
            .collect();
        let mut text = String::from("ports:\n  up: {kind: af-xdp, interface: u0, steering: shared}\n");
        for n in 0..pods {
            text += &format!("  pod{n}: {{kind: af-xdp, interface: p{n}, access: lan}}\n");
        }
        text += &format!(
            "vteps:\n  v: {{local: '{}', port: up{vtep}}}\n",
            self.underlay.local()
        );
        text + &format!(
            "bridge-domains:\n  lan: {{vni: 100, remotes: [{}]{domain}}}\n",
            remotes.join(", ")
        )
    }
}
