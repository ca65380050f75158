//! Bridge domains and the VXLAN tunnel endpoints that join them to other hosts.

use std::net::IpAddr;
use std::time::Duration;

use clearway_wire::{MacAddr, Vid, Vni};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{DscpPolicy, MoveDamping, Period};
use crate::{Name, schema, yes};

/// A bridge domain: one learning layer 2 segment over ports, VLANs and tunnels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of a bridge domain"
)]
pub struct BridgeDomain {
    /// Its VID on trunks, 1 to 4094. Each VID belongs to one bridge domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u16>", range(min = 1, max = 4094))]
    pub vlan: Option<Vid>,
    /// Its VXLAN network identifier, 0 to 16777215. Each VNI belongs to one bridge domain of a VTEP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u32>", range(min = 0, max = 16_777_215))]
    pub vni: Option<Vni>,
    /// The local VTEP that carries `vni`. May be left out when exactly one VTEP is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtep: Option<Name>,
    /// The remote VTEPs that get a copy of each flooded frame (head-end replication); addresses of the VTEP's family. A remote is known to the VTEP, not to the domain: it may send into every VNI of the same VTEP. Give domains whose remotes must be kept apart a VTEP (`local` or `udp-port`) each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<IpAddr>,
    /// MAC addresses whose place is known: never learned elsewhere, never aged.
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    pub statics: Vec<StaticMac>,
    /// Hosts whose ARP requests and neighbour solicitations are answered here when `suppress-neighbours` is on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
    /// Answer ARP and IPv6 neighbour requests for known `hosts` instead of flooding them.
    pub suppress_neighbours: bool,
    /// Learn source MAC addresses in this domain.
    #[serde(default = "yes")]
    pub learning: bool,
    /// How long a learned MAC address stays without traffic from it: 10s to 18h, or 0 for never forgotten. A number without a unit is seconds.
    pub aging: Period,
    /// The most MAC addresses learned in this domain at a time.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub learn_limit: u32,
    /// What happens to a MAC address that moves between ports again and again: limits, or `off`.
    pub move_damping: MoveDamping,
}

impl BridgeDomain {
    /// The shortest and the longest `aging` other than 0 (never). The longest is what fits the FDB's 16-bit clock of seconds.
    pub const AGING: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(10)..=Duration::from_secs(18 * 3600);
    /// The smallest and the largest `learn-limit`, in MAC addresses, here and on ports.
    pub const LEARN_LIMIT: std::ops::RangeInclusive<u32> = 1..=16_777_216;

    /// After how long without traffic a learned MAC address is forgotten; `None` is never.
    pub fn aging(&self) -> Option<Duration> {
        Some(self.aging.get()).filter(|time| !time.is_zero())
    }
}

impl Default for BridgeDomain {
    fn default() -> BridgeDomain {
        BridgeDomain {
            vlan: None,
            vni: None,
            vtep: None,
            remotes: Vec::new(),
            statics: Vec::new(),
            hosts: Vec::new(),
            suppress_neighbours: false,
            learning: true,
            aging: Period::from_secs(300),
            learn_limit: 8192,
            move_damping: MoveDamping::default(),
        }
    }
}

/// A MAC address whose place is configured: behind a local `port` or behind a `remote` VTEP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a static MAC such as {mac: 02:00:00:00:00:01, port: a}"
)]
pub struct StaticMac {
    /// The address, a unicast one.
    #[schemars(with = "schema::Mac")]
    pub mac: MacAddr,
    /// The local port behind which it is. Either `port` or `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// With `port`: the VID there, needed only when the port carries this bridge domain more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u16>", range(min = 1, max = 4094))]
    pub vlan: Option<Vid>,
    /// The remote VTEP behind which it is. Either `port` or `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
}

/// A host of a bridge domain whose addresses are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a host such as {ip: 192.0.2.1, mac: 02:00:00:00:00:01}"
)]
pub struct Host {
    /// Its IPv4 or IPv6 address.
    pub ip: IpAddr,
    /// Its MAC address.
    #[schemars(with = "schema::Mac")]
    pub mac: MacAddr,
}

/// A local VXLAN tunnel endpoint (RFC 7348).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "the keys of a VTEP"
)]
pub struct Vtep {
    /// The outer source address, IPv4 or IPv6. The kernel's interface keeps it and answers ARP, ND and ping for it; on ports that are not of kind `af-xdp` ARP and ND are answered here.
    pub local: IpAddr,
    /// The port that carries the tunnels. Absent: the port whose interface has the address `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// Our MAC address in the underlay, with `port` and `next-hop`: the kernel is not asked for the way to the remotes. Needed on ports that are not of kind `af-xdp`; on those, that of the interface. Absent: that of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Mac>")]
    pub mac: Option<MacAddr>,
    /// The MAC address that the packets for all remotes are sent to, with `port` and `mac`: a router's, or that of the only remote. Absent: as the kernel's routes and neighbours say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Mac>")]
    pub next_hop: Option<MacAddr>,
    /// The outer UDP destination port, sent and received.
    #[serde(default = "Vtep::default_udp_port")]
    #[schemars(range(min = 1))]
    pub udp_port: u16,
    /// The outer TTL or hop limit.
    #[serde(default = "Vtep::default_ttl")]
    #[schemars(range(min = 1))]
    pub ttl: u8,
    /// The outer DSCP: `copy` the inner packet's, or 0 to 63.
    #[serde(default)]
    pub dscp: DscpPolicy,
    /// The outer UDP checksum of what is sent. Received tunnels may have one or not.
    #[serde(default)]
    pub udp_checksum: UdpChecksum,
    /// The VID of the underlay on the port, 1 to 4094. Absent: untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u16>", range(min = 1, max = 4094))]
    pub vlan: Option<Vid>,
    /// The largest outer IP packet, in bytes; 1280 or more over IPv6. Absent: the MTU of the port, or the route's when that is smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 9216))]
    pub mtu: Option<u16>,
}

impl Vtep {
    /// The UDP port that IANA assigned to VXLAN (RFC 7348 §5).
    pub const UDP_PORT: u16 = 4789;
    /// The outer TTL when the configuration names none.
    pub const TTL: u8 = 64;

    /// A VTEP with this local address and every other key at its default.
    pub fn new(local: IpAddr) -> Vtep {
        Vtep {
            local,
            port: None,
            mac: None,
            next_hop: None,
            udp_port: Vtep::UDP_PORT,
            ttl: Vtep::TTL,
            dscp: DscpPolicy::default(),
            udp_checksum: UdpChecksum::default(),
            vlan: None,
            mtu: None,
        }
    }

    /// The smallest and the largest `mtu` of a VTEP with this address, in bytes: what every host of the family takes
    /// (RFC 791, RFC 8200 §5) up to a jumbo frame.
    pub fn mtu_range(local: IpAddr) -> std::ops::RangeInclusive<u16> {
        if local.is_ipv4() { 576..=9216 } else { 1280..=9216 }
    }

    fn default_udp_port() -> u16 {
        Vtep::UDP_PORT
    }

    fn default_ttl() -> u8 {
        Vtep::TTL
    }
}

/// The outer UDP checksum of tunnel packets that are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UdpChecksum {
    /// Zero over IPv4 (RFC 7348 §5), computed over IPv6 (RFC 8200 §8.1).
    #[default]
    Auto,
    /// Computed.
    On,
    /// Zero; over IPv6 only where the remote end accepts it (RFC 6935).
    Off,
}
