//! The document: what a configuration file holds from top to bottom.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AddressPool, BridgeDomain, Name, Port, Sriov, Vtep};

/// The desired state of a Clearway: everything that one configuration file says.
// Maps are sorted by name, so equal specs serialize to equal text and a difference of two specs is stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of a configuration"
)]
pub struct Spec {
    /// Version of this file format. This release reads version 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Workers, tables and memory of the forwarder.
    pub engine: Engine,
    /// Where the command line and other programs reach the daemon.
    pub api: Api,
    /// The ports, by name: 1 to 32 characters, letters, digits, `_`, `.`, `-`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Name, Port>,
    /// The bridge domains (learning layer 2 segments), by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bridge_domains: BTreeMap<Name, BridgeDomain>,
    /// The local VXLAN tunnel endpoints, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vteps: BTreeMap<Name, Vtep>,
    /// The address pools, from which pods get their addresses, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub address_pools: BTreeMap<Name, AddressPool>,
    /// Pairs of ports whose frames go from one to the other unchanged, without learning or lookup.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cross_connects: Vec<CrossConnect>,
    /// The SR-IOV functions of the host's NICs.
    #[serde(skip_serializing_if = "Sriov::is_empty")]
    pub sriov: Sriov,
}

impl Spec {
    /// The version of the file format that this release reads and writes.
    pub const VERSION: u32 = 1;
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            version: Spec::VERSION,
            engine: Engine::default(),
            api: Api::default(),
            ports: BTreeMap::new(),
            bridge_domains: BTreeMap::new(),
            vteps: BTreeMap::new(),
            address_pools: BTreeMap::new(),
            cross_connects: Vec::new(),
            sriov: Sriov::default(),
        }
    }
}

/// Workers, tables and memory of the forwarder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of `engine`"
)]
pub struct Engine {
    /// What a worker does when no frame is there.
    pub idle: Idle,
    /// The workers, one thread each. Empty or absent: the daemon chooses how many and on which cores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<Worker>,
    /// How many MAC addresses the forwarding table holds, over all bridge domains, in entries.
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub fdb_capacity: u32,
    /// Whether frame memory lies in hugepages.
    pub hugepages: Hugepages,
}

impl Engine {
    /// The smallest and the largest `fdb-capacity`, in entries.
    pub const FDB_CAPACITY: std::ops::RangeInclusive<u32> = 1024..=16_777_216;
    /// The most workers that one daemon runs.
    pub const MAX_WORKERS: usize = 64;
}

impl Default for Engine {
    fn default() -> Engine {
        Engine {
            idle: Idle::default(),
            workers: Vec::new(),
            fdb_capacity: 65_536,
            hugepages: Hugepages::default(),
        }
    }
}

/// What a worker does when no frame is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// Sleep in the kernel after a short while without frames; wake up when one arrives.
    #[default]
    Adaptive,
    /// Poll for ever: one whole core for each worker, lowest latency.
    Spin,
}

/// Whether frame memory lies in hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hugepages {
    /// Hugepages when the host has free ones, normal pages otherwise.
    #[default]
    Auto,
    /// Normal pages.
    Off,
    /// Hugepages; a port whose memory cannot have them stays down and says so.
    Require,
}

/// One worker: a thread pinned to a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a worker such as {core: 1}"
)]
pub struct Worker {
    /// The core, as the kernel numbers its CPUs from 0. Each worker needs a core of its own.
    pub core: u16,
}

/// Where the command line and other programs reach the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of `api`"
)]
pub struct Api {
    /// Path of the unix socket on which the daemon listens: absolute, at most 107 bytes.
    pub socket: PathBuf,
}

impl Api {
    /// The socket when the configuration names none.
    pub const DEFAULT_SOCKET: &'static str = "/run/clearway/clearway.sock";
    /// The longest socket path, in bytes: `sun_path` of `sockaddr_un` less its closing zero, unix(7).
    pub const MAX_SOCKET: usize = 107;
}

impl Default for Api {
    fn default() -> Api {
        Api {
            socket: PathBuf::from(Api::DEFAULT_SOCKET),
        }
    }
}

/// Two ports whose frames go from one to the other, written as a list of two names: `[a, b]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(expecting = "a list of two port names such as [a, b]")]
pub struct CrossConnect(
    /// One end.
    pub Name,
    /// The other end.
    pub Name,
);
