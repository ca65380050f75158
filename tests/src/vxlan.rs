//! The kernel's own VXLAN device as the peer (drivers/net/vxlan).

use crate::Netns;
use std::net::IpAddr;

/// A VXLAN device to be made.
#[derive(Debug, Clone)]
pub struct Vxlan {
    vni: u32,
    local: IpAddr,
    remotes: Vec<IpAddr>,
    port: u16,
    args: String,
}

impl Vxlan {
    /// VNI `vni` from `local` to `remote`, UDP port 4789 (RFC 7348 §5).
    pub fn new(vni: u32, local: &str, remote: &str) -> Vxlan {
        let ip = |s: &str| s.parse().unwrap_or_else(|e| panic!("'{s}': {e}"));
        Vxlan {
            vni,
            local: ip(local),
            remotes: vec![ip(remote)],
            port: 4789,
            args: String::new(),
        }
    }

    /// One more remote that broadcast, unknown unicast and multicast are sent to (head-end replication).
    pub fn remote(mut self, remote: &str) -> Self {
        self.remotes
            .push(remote.parse().unwrap_or_else(|e| panic!("'{remote}': {e}")));
        self
    }

    /// Another UDP port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Adds arguments of `ip link add type vxlan` (`noudpcsum`, `ttl 5`, `tos inherit`).
    pub fn args(mut self, args: &str) -> Self {
        self.args = format!("{} {args}", self.args);
        self
    }

    /// Makes it as `dev` over `under` in `ns`, up, with an MTU that fits `under`'s.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[track_caller]
    pub fn up(&self, ns: &Netns, dev: &str, under: &str) {
        let Vxlan {
            vni,
            local,
            port,
            args,
            ..
        } = self;
        ns.run(&format!(
            "ip link add {dev} type vxlan id {vni} local {local} dstport {port} dev {under} {args}"
        ));
        for remote in &self.remotes {
            ns.run(&format!(
                "bridge fdb append 00:00:00:00:00:00 dev {dev} dst {remote}"
            ));
        }
        // Outer headers: IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14.
        let mtu = ns.link(under).and_then(|l| l["mtu"].as_u64()).unwrap_or(1500);
        let mtu = mtu - if local.is_ipv6() { 70 } else { 50 };
        ns.offloads_off(dev);
        ns.run(&format!("ip link set {dev} mtu {mtu} up"));
    }
}
