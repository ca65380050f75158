//! Ports: how frames enter and leave, and which bridge domains they belong to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clearway_wire::{MacAddr, Vid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{PcpPolicy, Period, Permissions, PortKind, Queues, TrunkItem};
use crate::{Name, schema, yes};

/// One port: a place where frames enter and leave the forwarder.
///
/// Its layer 2 service is exactly one of `access`, `trunk` (with or without `native`), `tunnel`, or an entry of
/// `cross-connects`; a port with none of them carries VXLAN underlay traffic only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "the keys of a port"
)]
pub struct Port {
    /// What the port is attached to.
    pub kind: PortKind,

    /// `af-xdp`: the network interface, in the daemon's network namespace. `tap`: the TAP, which is attached to if it is there and made otherwise. At most 15 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `af-xdp`: which frames of the interface are ours.
    #[serde(default)]
    pub steering: Steering,
    /// `af-xdp`: how frames are exchanged with the driver.
    #[serde(default)]
    pub mode: XdpMode,
    /// `af-xdp`: the receive queues to use: `all`, or a list such as `[0, 2, 3]`.
    #[serde(default)]
    pub queues: Queues,
    /// `af-xdp`: preferred busy polling (the worker runs the driver, interrupts stay quiet). The interface's knobs are given back on exit.
    #[serde(default)]
    pub busy_poll: BusyPoll,
    /// `af-xdp`: frames the kernel handles in one busy poll. Absent: chosen by the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub busy_poll_budget: Option<u16>,
    /// `af-xdp`: entries in each ring of a queue: a power of two. Absent: chosen by the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 32768))]
    pub ring_size: Option<u32>,
    /// `af-xdp`: frame buffers for this port, in chunks. Absent: chosen by the daemon from rings and queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 4_194_304))]
    pub frames: Option<u32>,
    /// `af-xdp`: replace an XDP program that somebody else attached to the interface, instead of refusing the port.
    #[serde(default)]
    pub replace: bool,
    /// `af-xdp`: what to do with checksums that the sender left for its NIC to finish.
    #[serde(default)]
    pub checksum: Checksum,
    /// Which worker serves which queue: queue number → position in `engine.workers`, from 0. Queues not named are assigned by the daemon.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workers: BTreeMap<u16, u16>,

    /// `pcapng`: the file whose frames this port receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<PathBuf>,
    /// `pcapng`: the file into which frames sent to this port are written. It is overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<PathBuf>,
    /// `pcapng`: start `read` again from its beginning at its end.
    #[serde(default, rename = "loop")]
    pub repeat: bool,
    /// `pcapng`: frames a second read from `read`. Absent: as fast as the worker takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub rate: Option<u32>,

    /// `tap`: the network namespace that the TAP is in or made in: its name, as in `ip netns`, or the path of its file. Absent: the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `tap`: the MAC address of the TAP itself. Absent: the one that it has; the kernel gives a new one a random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Mac>")]
    pub mac: Option<MacAddr>,
    /// `tap`: keep the TAP when the port is closed or the daemon ends or dies, with its addresses and routes; it has no carrier meanwhile. One that was there before the port was is kept in any case.
    #[serde(default)]
    pub persistent: bool,

    /// `vhost-user`: the unix socket over which the guest's side (QEMU, DPDK's virtio_user) is told and tells what memory and rings there are. An absolute path. One guest at a time: while one is connected, further ones are turned away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// `vhost-user`: connect to `socket`, where the guest's side listens, and again whenever the connection is lost; else listen there.
    #[serde(default)]
    pub client: bool,
    /// `vhost-user`: the most queue pairs (one to receive, one to transmit) that the guest may use. `tap`: the queue pairs of the TAP. Each is polled by one worker. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub queue_pairs: Option<u16>,
    /// `vhost-user`: the user whom the socket belongs to, by name or number. Not with `client`. Absent: the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `vhost-user`: the group that the socket belongs to, by name or number. Not with `client`. Absent: the daemon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `vhost-user`: who may connect, in octal as for chmod(1): connecting takes the right to write. Not with `client`. Absent: `"0660"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// `vhost-user`: the SELinux label of the socket. Not with `client`. Absent: the one that the host's policy gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
    /// `vhost-user`: the most memory that a guest may share, all its regions together, in MiB: what the daemon has to pay for where that memory is holes. Whoever announces more loses its connection. A change holds from the next connection on. Absent: `engine.max-guest-memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_guest_memory: Option<u32>,

    /// The bridge domain of this port's untagged frames; tagged frames are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Name>,
    /// The bridge domain of every frame of this port, tagged or not: its tags are payload (a QinQ customer port).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Name>,
    /// The VLANs that this port carries tagged: `all`, or a list of `100`, `200-299`, `all` (each VID belongs to the bridge domain whose `vlan` it is) and objects that name the domain.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::values::trunk"
    )]
    #[schemars(schema_with = "crate::values::trunk_schema")]
    pub trunk: Vec<TrunkItem>,
    /// With `trunk`: the bridge domain of untagged frames; its own VID inside a range or `all` is then not carried tagged. Absent: untagged frames are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<Name>,

    /// The priority (PCP) in tags that this port sends: `keep` the frame's, or 0 to 7.
    #[serde(default)]
    pub pcp: PcpPolicy,
    /// Frames between two isolated ports of a bridge domain are dropped.
    #[serde(default)]
    pub isolated: bool,
    /// The only source MAC addresses this port may send from (anti-spoofing). Empty or absent: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::Mac>")]
    pub allowed_macs: Vec<MacAddr>,
    /// Learn source MAC addresses on this port.
    #[serde(default = "yes")]
    pub learning: bool,
    /// The most MAC addresses learned on this port at a time. Absent: only the bridge domain's limit holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub learn_limit: Option<u32>,
    /// Upper limits for traffic that is flooded, received on this port.
    #[serde(default, skip_serializing_if = "StormControl::is_empty")]
    pub storm_control: StormControl,
    /// Upper limits for all that the port receives and sends. What is above is dropped (`police_receive`, `police_transmit`).
    #[serde(default, skip_serializing_if = "RateLimit::is_empty")]
    pub rate_limit: RateLimit,
    /// The largest layer 3 packet that is sent out of this port, in bytes; bigger ones are dropped (`port_mtu`). What arrives is not measured. Absent: the interface's MTU; a TAP is given this one. For `vhost-user` what the guest's side says (host_mtu), else 1500. With `vhost-user` a guest that asks for more is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 9216))]
    pub mtu: Option<u16>,
}

impl Port {
    /// The smallest and the largest `ring-size`, in entries; also a power of two.
    pub const RING_SIZE: std::ops::RangeInclusive<u32> = 64..=32_768;
    /// The smallest and the largest `frames`, in chunks.
    pub const FRAMES: std::ops::RangeInclusive<u32> = 256..=4_194_304;
    /// The smallest and the largest `busy-poll-budget`, in frames.
    pub const BUSY_POLL_BUDGET: std::ops::RangeInclusive<u16> = 1..=1024;
    /// The smallest and the largest `mtu`, in bytes: 576 is what every IPv4 host takes (RFC 791), 9216 the jumbo frame switches agree on.
    pub const MTU: std::ops::RangeInclusive<u16> = 576..=9216;
    /// The fewest and the most `queue-pairs`.
    pub const QUEUE_PAIRS: std::ops::RangeInclusive<u16> = 1..=16;
    /// The smallest and the largest `max-guest-memory`, in MiB: 4 TiB is what one guest may have in any case.
    pub const GUEST_MEMORY: std::ops::RangeInclusive<u32> = 1..=4_194_304;
    /// The longest file name of a `socket` whose path is longer than a unix socket's address: it is then reached
    /// through its folder's descriptor, as `/proc/self/fd/NUMBER/NAME`.
    pub const SOCKET_NAME: usize = 80;
    /// The smallest and the largest `rate`, in frames a second.
    pub const RATE: std::ops::RangeInclusive<u32> = 1..=100_000_000;

    /// A port of this kind with every other key at its default.
    pub fn new(kind: PortKind) -> Port {
        Port {
            kind,
            interface: None,
            steering: Steering::default(),
            mode: XdpMode::default(),
            queues: Queues::default(),
            busy_poll: BusyPoll::default(),
            busy_poll_budget: None,
            ring_size: None,
            frames: None,
            replace: false,
            checksum: Checksum::default(),
            workers: BTreeMap::new(),
            read: None,
            write: None,
            repeat: false,
            rate: None,
            netns: None,
            mac: None,
            persistent: false,
            socket: None,
            client: false,
            queue_pairs: None,
            owner: None,
            group: None,
            permissions: None,
            selinux_label: None,
            max_guest_memory: None,
            access: None,
            tunnel: None,
            trunk: Vec::new(),
            native: None,
            pcp: PcpPolicy::default(),
            isolated: false,
            allowed_macs: Vec::new(),
            learning: true,
            learn_limit: None,
            storm_control: StormControl::default(),
            rate_limit: RateLimit::default(),
            mtu: None,
        }
    }

    /// An `af-xdp` port on an interface, with every other key at its default.
    pub fn af_xdp(interface: impl Into<String>) -> Port {
        Port {
            interface: Some(interface.into()),
            ..Port::new(PortKind::AfXdp)
        }
    }

    /// The most queue pairs of a `vhost-user` port, and the queue pairs of a `tap` port.
    pub fn queue_pairs(&self) -> u16 {
        self.queue_pairs.unwrap_or(1)
    }

    /// The layer 2 service of the port, as far as the port itself says it. In a valid spec exactly one applies;
    /// [`Service::None`] is a cross-connect's end or an uplink that carries only VXLAN.
    pub fn service(&self) -> Service<'_> {
        if let Some(domain) = &self.access {
            Service::Access(domain)
        } else if let Some(domain) = &self.tunnel {
            Service::Tunnel(domain)
        } else if !self.trunk.is_empty() || self.native.is_some() {
            Service::Trunk {
                items: &self.trunk,
                native: self.native.as_ref(),
            }
        } else {
            Service::None
        }
    }
}

/// The layer 2 service of a port: see [`Port::service`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service<'a> {
    /// Untagged frames of one bridge domain.
    Access(&'a Name),
    /// All frames of one bridge domain, tags untouched.
    Tunnel(&'a Name),
    /// Tagged frames of several bridge domains, untagged frames of one.
    Trunk {
        /// What is carried tagged.
        items: &'a [TrunkItem],
        /// The domain of untagged frames.
        native: Option<&'a Name>,
    },
    /// No bridge domain: an end of a cross-connect, or a pure underlay port.
    None,
}

/// Which frames of an interface are ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// Every frame: a pod-facing veth, a VF or a NIC of our own. The kernel's network stack sees none.
    #[default]
    Exclusive,
    /// Our VLANs and our VTEPs' VXLAN: an uplink. All other frames go to the kernel, whose addresses keep working.
    Shared,
}

/// How frames are exchanged with the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// The best that the interface can do: zero copy, else native copy, else generic.
    #[default]
    Auto,
    /// Zero copy or nothing.
    ZeroCopy,
    /// Native XDP with a copy.
    Copy,
    /// Generic XDP: works on every interface, slowest.
    Generic,
}

/// Preferred busy polling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BusyPoll {
    /// On where the driver supports it and it helps.
    #[default]
    Auto,
    /// On; the port reports it when the driver refuses.
    On,
    /// Off.
    Off,
}

/// What to do with checksums that the sender left for its NIC to finish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// `finish` on virtual interfaces whose peer offloads checksums, `trust` elsewhere.
    #[default]
    Auto,
    /// Compute the checksum of frames that carry an unfinished one.
    Finish,
    /// Forward checksums as they are.
    Trust,
}

/// Upper limits for flooded traffic, each in frames a second. Absent: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of `storm-control`"
)]
pub struct StormControl {
    /// Broadcast frames a second. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub broadcast: Option<u32>,
    /// Unicast frames to an unknown MAC address, frames a second. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub unknown: Option<u32>,
    /// Multicast frames a second. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub multicast: Option<u32>,
}

impl StormControl {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == StormControl::default()
    }
}

/// The rate limits of a port, for each direction by itself, over all its queues together. A change gives the port a full burst anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of `rate-limit`"
)]
pub struct RateLimit {
    /// What may arrive on the port (what its guest, pod or wire sends). Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive: Option<Rate>,
    /// What may leave by the port, tags and VXLAN headers included. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transmit: Option<Rate>,
}

impl RateLimit {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == RateLimit::default()
    }
}

/// The rate limit of one direction: `packets`, `bits` or both. Frames count with all their bytes, without FCS; one of 64 KiB that its receiver is to cut up is one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of a rate limit"
)]
pub struct Rate {
    /// Frames a second. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub packets: Option<u32>,
    /// Bits a second. Absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1000, max = 1_000_000_000_000_u64))]
    pub bits: Option<u64>,
    /// As much may come at once as the rate gives in this time: 1ms to 10s; never less than 16 full frames (1514 bytes).
    pub burst: Period,
}

impl Rate {
    /// The smallest and the largest `bits`, a second.
    pub const BITS: std::ops::RangeInclusive<u64> = 1000..=1_000_000_000_000;
    /// The shortest and the longest `burst`.
    pub const BURST: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
}

impl Default for Rate {
    fn default() -> Rate {
        Rate {
            packets: None,
            bits: None,
            burst: Duration::from_millis(20).into(),
        }
    }
}

/// One VLAN of a trunk that the configuration maps to a bridge domain by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrunkMap {
    /// The VID on the wire at this port: of the only tag, or of the outer of two. 1 to 4094.
    #[schemars(with = "u16", range(min = 1, max = 4094))]
    pub vlan: Vid,
    /// The VID of the inner 802.1Q tag (QinQ), 1 to 4094. Absent: one tag; what follows it is payload, but for the inner VIDs that other items take out of the same `vlan`. (Who sends such a tag as payload into the whole one is taken for the other on the far side.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<u16>", range(min = 1, max = 4094))]
    pub inner_vlan: Option<Vid>,
    /// The bridge domain that these frames belong to, whatever its own `vlan` is.
    pub bridge_domain: Name,
    /// The tag protocol of `vlan`. Absent: `802.1ad` when there is an `inner-vlan`, else `802.1q`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<TagProtocol>,
}

impl TrunkMap {
    /// The tag protocol of the (outer) tag, with its default filled in.
    pub fn protocol(&self) -> TagProtocol {
        match (self.protocol, self.inner_vlan) {
            (Some(protocol), _) => protocol,
            (None, Some(_)) => TagProtocol::Dot1ad,
            (None, None) => TagProtocol::Dot1q,
        }
    }
}

/// The protocol of a VLAN tag, as in `ip link … type vlan protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TagProtocol {
    /// Customer tag, TPID 0x8100.
    #[serde(rename = "802.1q")]
    Dot1q,
    /// Service tag, TPID 0x88a8.
    #[serde(rename = "802.1ad")]
    Dot1ad,
}
