//! What the API says: the types of every answer, shared by the daemon that fills them in and the command line
//! that shows them.
//!
//! Guarantees: field names are `snake_case`, counters are totals since the daemon started, bytes are counted without
//! FCS, and a field whose name ends in `_percent`, `_s` or `_bytes` has that unit. Fields may be added within `/v1`;
//! none changes its meaning.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use clearway_wire::MacAddr;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::store::{ObjectKind, Owner};

/// Whether something forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// It forwards.
    Up,
    /// It does not; the reason is beside it.
    Down,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A port: what it is attached to, how, and what passed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PortView {
    /// The port's name in the configuration.
    pub(crate) name: String,
    /// Who has said it as it is: `cni` for the port of an attachment.
    pub(crate) owner: Owner,
    /// Times that what is said of it was changed, from 1.
    pub(crate) generation: u64,
    /// Its kind: `af-xdp`, `memory`, `pcapng`, `vhost-user`.
    pub(crate) kind: String,
    /// The network interface, for kinds that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<String>,
    /// Whether it forwards.
    pub(crate) state: State,
    /// Why it is down, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The guest of a `vhost-user` port. The port itself is up as soon as a guest can come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest: Option<GuestView>,
    /// How frames are exchanged with the driver, as found: `zero-copy`, `copy` or `generic`; with a guest, its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    /// What its frame memory lies in: `hugepages` or `pages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backing: Option<String>,
    /// The group of ports that share frame memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) umem_group: Option<String>,
    /// Its queues, each with the worker that polls it.
    pub(crate) queues: Vec<QueueView>,
    /// The interface's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "02:00:00:00:00:01")]
    pub(crate) mac: Option<MacAddr>,
    /// The largest layer 3 packet that the interface takes, in bytes; none while it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// Its layer 2 service in words: `access red`, `trunk 100,200-299 native red`, `cross-connect right`, `underlay v0`.
    pub(crate) service: String,
    /// Frames received.
    pub(crate) rx_packets: u64,
    /// Their bytes.
    pub(crate) rx_bytes: u64,
    /// Frames sent.
    pub(crate) tx_packets: u64,
    /// Their bytes.
    pub(crate) tx_bytes: u64,
    /// Frames dropped, for any reason, that arrived here or could not be sent here.
    pub(crate) drops: u64,
    /// MAC addresses learned behind it.
    pub(crate) learned_macs: u32,
    /// What works, but not as well as it could.
    pub(crate) warnings: Vec<String>,
}

/// The guest of a `vhost-user` port: what its front-end (QEMU, DPDK's virtio_user) has negotiated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct GuestView {
    /// The unix socket.
    pub(crate) socket: String,
    /// Whether the front-end listens there, and the daemon connects.
    pub(crate) client: bool,
    /// Whether one is there.
    pub(crate) state: GuestState,
    /// The virtio features that were negotiated, by the names of the specification.
    pub(crate) features: Vec<String>,
    /// The same as bits, in hexadecimal; absent while there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0x150008000")]
    pub(crate) feature_bits: Option<String>,
    /// The protocol features that were negotiated, by the names of QEMU's vhost-user.rst.
    pub(crate) protocol_features: Vec<String>,
    /// The most queue pairs that it may use; those in use are the port's queues.
    pub(crate) queue_pairs: u16,
    /// Connections since the port was opened.
    pub(crate) connections: u64,
    /// Front-ends that were turned away because one was connected.
    pub(crate) turned_away: u64,
    /// Why the last connection ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_end: Option<String>,
    /// Why there is no connection yet, where the daemon is the one who connects, or where it can't accept one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waiting: Option<String>,
}

/// Whether a guest is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuestState {
    /// The socket is there; nobody is connected.
    Listening,
    /// Nobody listens at the socket yet; it is tried again and again.
    Connecting,
    /// A front-end is connected, and has not started its rings.
    Connected,
    /// Rings are started and polled.
    Running,
}

impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Listening => "listening",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Running => "running",
        })
    }
}

/// One queue of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct QueueView {
    /// The queue's number.
    pub(crate) queue: u16,
    /// The worker that polls it.
    pub(crate) worker: u8,
}

/// A worker: one thread, pinned to one core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct WorkerView {
    /// Its number, which is its position in `engine.workers`.
    pub(crate) id: u8,
    /// The core it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) core: Option<u32>,
    /// What it does when no frame is there: `adaptive` or `spin`.
    pub(crate) idle: String,
    /// The part of the last second (or so) that it spent moving frames, in percent.
    pub(crate) load_percent: f64,
    /// Turns of its loop.
    pub(crate) turns: u64,
    /// Times it went to sleep.
    pub(crate) sleeps: u64,
    /// Whether it sleeps now.
    pub(crate) sleeping: bool,
    /// The queues that it polls, by port.
    pub(crate) queues: BTreeMap<String, Vec<u16>>,
    /// Frames that it received from ports.
    pub(crate) received: u64,
    /// Frames that it passed to other workers.
    pub(crate) handed_out: u64,
    /// The version of the tables that it uses.
    pub(crate) epoch: u64,
}

/// A bridge domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct BridgeDomainView {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// Who has said it as it is.
    pub(crate) owner: Owner,
    /// Times that what is said of it was changed, from 1.
    pub(crate) generation: u64,
    /// The VLAN that trunks carry it as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<u16>,
    /// Its VXLAN network identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vni: Option<u32>,
    /// The local VXLAN tunnel endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vtep: Option<String>,
    /// Its ports, each with the VLAN that carries it there, if any: `pod1`, `up0:100`, `up0:400.20`.
    pub(crate) members: Vec<String>,
    /// The remote VTEPs that flooded frames are copied to.
    #[schema(value_type = Vec<String>)]
    pub(crate) remotes: Vec<IpAddr>,
    /// Whether it learns MAC addresses.
    pub(crate) learning: bool,
    /// When an address that is not seen any more is forgotten, in seconds; 0: never.
    pub(crate) aging_s: u64,
    /// MAC addresses known in it.
    pub(crate) macs: u32,
    /// The most MAC addresses learned in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) learn_limit: Option<u32>,
}

/// One entry of the forwarding database: behind what a station is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FdbView {
    /// The bridge domain.
    pub(crate) bridge_domain: String,
    /// The station's MAC address.
    #[schema(value_type = String, example = "02:00:00:00:00:01")]
    pub(crate) mac: MacAddr,
    /// The port that it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// The VLAN on that port, as a frame carries it: `100`, `400.20`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<String>,
    /// The remote VTEP that it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) remote: Option<IpAddr>,
    /// `dynamic` (learned), `static` (configuration) or `manual` (`clearway fdb add`).
    pub(crate) origin: FdbOrigin,
    /// Seconds since it was seen last; absent for entries that do not age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) age_s: Option<u32>,
}

/// Where an entry of the forwarding database comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FdbOrigin {
    /// Learned from a frame; ages.
    Dynamic,
    /// From the configuration.
    Static,
    /// Added through the API; lost with the daemon.
    Manual,
}

impl fmt::Display for FdbOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Manual => "manual",
        })
    }
}

/// A station to add to the forwarding database: exactly one of `port` and `remote`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FdbAdd {
    /// The port that it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// The VLAN on that port, where the domain is there under several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vlan: Option<u16>,
    /// The remote VTEP that it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) remote: Option<IpAddr>,
}

/// How many addresses were forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FlushReport {
    /// Learned addresses removed; static and manual ones stay.
    pub(crate) removed: u64,
}

/// A tunnel: from one of our VTEPs to a remote one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct TunnelView {
    /// `VTEP/REMOTE`, as in `v0/10.0.0.2`.
    pub(crate) name: String,
    /// The VTEP's owner: a tunnel is no object of its own.
    pub(crate) owner: Owner,
    /// The VTEP's generation.
    pub(crate) generation: u64,
    /// The local VTEP's name.
    pub(crate) vtep: String,
    /// Its address.
    #[schema(value_type = String)]
    pub(crate) local: IpAddr,
    /// The remote VTEP's address.
    #[schema(value_type = String)]
    pub(crate) remote: IpAddr,
    /// Whether frames can be sent: a route is there and the next hop's MAC address known.
    pub(crate) state: State,
    /// Why not, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The port that it leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<String>,
    /// The next hop's address, as the kernel routes it; absent also if the configuration says its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) next_hop: Option<IpAddr>,
    /// The next hop's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) next_hop_mac: Option<MacAddr>,
    /// The underlay's MTU, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// The bridge domains that use it, with their VNI.
    pub(crate) bridge_domains: BTreeMap<String, u32>,
}

/// What was dropped and why, and the proof that nothing else is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct DropsView {
    /// Every reason that has occurred, most frequent first.
    pub(crate) drops: Vec<DropView>,
    /// What became of every frame, over all workers.
    pub(crate) ledger: LedgerView,
    /// The same for each worker.
    pub(crate) workers: Vec<LedgerView>,
}

/// One reason and how often it occurred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct DropView {
    /// The reason's name, as in docs/counters.md.
    pub(crate) reason: String,
    /// Frames dropped for it.
    pub(crate) packets: u64,
    /// What happened.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) advice: String,
    /// The same frames by port; what belongs to no port is under `-`.
    pub(crate) ports: BTreeMap<String, u64>,
}

/// What became of every frame, exact at a turn boundary of each worker:
/// `received + replicated + generated + segments = sent + consumed + dropped + in_flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LedgerView {
    /// The worker; absent in the sum over all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<u8>,
    /// Frames received from ports.
    pub(crate) received: u64,
    /// Copies made to flood.
    pub(crate) replicated: u64,
    /// Frames of our own: ARP and ND replies, ICMP errors.
    pub(crate) generated: u64,
    /// Frames that large ones were cut into.
    pub(crate) segments: u64,
    /// Frames that ports took.
    pub(crate) sent: u64,
    /// Frames that we answered ourselves, and large ones that were cut up.
    pub(crate) consumed: u64,
    /// Frames dropped, for any reason.
    pub(crate) dropped: u64,
    /// Frames passed to other workers less those got from them: in the sum, what is between workers now.
    pub(crate) in_flight: i64,
    /// Whether the equation holds.
    pub(crate) balanced: bool,
}

impl LedgerView {
    /// The view of an engine's ledger; `worker` is `None` for the sum over all workers.
    pub(crate) fn new(worker: Option<u8>, ledger: &clearway_engine::Ledger) -> Self {
        Self {
            worker,
            received: ledger.received,
            replicated: ledger.replicated,
            generated: ledger.generated,
            segments: ledger.segments,
            sent: ledger.sent,
            consumed: ledger.consumed,
            dropped: ledger.dropped(),
            in_flight: ledger.in_flight().cast_signed(),
            balanced: ledger.balanced(),
        }
    }
}

/// All counters of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CounterView {
    /// The port.
    pub(crate) port: String,
    /// Counter → value, by the names of docs/counters.md; drops as `drop_REASON`.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// What a change of the configuration did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ApplyReport {
    /// The steps, in order.
    pub(crate) actions: Vec<ActionView>,
    /// Whether anything is different now (or would be).
    pub(crate) changed: bool,
    /// Whether this was only asked for, not done.
    pub(crate) dry_run: bool,
    /// The version of the tables in use now.
    pub(crate) epoch: u64,
    /// The generation of the configuration in use now, which `If-Match` and `apply --if-generation` take.
    pub(crate) generation: u64,
    /// What works, but not as well as it could.
    pub(crate) warnings: Vec<String>,
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ActionView {
    /// What is done.
    pub(crate) verb: Verb,
    /// To what kind of thing: `engine` (the name is the key's), `port`, `bridge-domain`, `vtep`, `address-pool`, `cross-connect`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// What is different, in words; for a port that is opened anew also what that interrupts.
    pub(crate) detail: String,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verb {
    /// It was not there.
    Add,
    /// It changes without an interruption.
    Change,
    /// It is closed and opened anew: its own traffic is interrupted.
    Reopen,
    /// It goes.
    Remove,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Reopen => "reopen",
            Self::Remove => "remove",
        })
    }
}

/// An object: what is wanted, by whom, and how often that has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ObjectView {
    /// What it is.
    pub(crate) kind: ObjectKind,
    /// Its name among these: that of the configuration, `PORT/PORT` for a pair of ports, `CONTAINER/INTERFACE` for an
    /// attachment.
    pub(crate) name: String,
    /// Who has said it as it is.
    pub(crate) owner: Owner,
    /// Times that it was changed, from 1.
    pub(crate) generation: u64,
    /// When that was last, in seconds since 1970-01-01 UTC; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) changed_s: Option<u64>,
    /// What is wanted: of an object of the configuration as /v1/config/schema describes it, defaults written out; of an
    /// attachment what was asked for.
    #[schema(value_type = Object)]
    pub(crate) spec: serde_json::Value,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct HealthView {
    /// Its version.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// Whether every port of the configuration forwards.
    pub(crate) ready: bool,
    /// Ports that forward.
    pub(crate) ports_up: u32,
    /// Ports in all.
    pub(crate) ports: u32,
    /// The version of the tables in use.
    pub(crate) epoch: u64,
}
