//! Attachments: a port that a pod or a guest was given by its container runtime, through the CNI plugin.
//!
//! ```text
//!   clearway-cni ── Attach ──► daemon: journal, addresses, interface, port ──► Attachment ──► CNI result
//! ```
//!
//! The words between the plugin and the daemon (JSON on the daemon's socket). An attachment is known by the container's
//! identifier and the name of the interface in it, as CNI knows it (`CNI_CONTAINERID`, `CNI_IFNAME`).

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clearway_wire::{MacAddr, Vid, Vni};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::values::{Permissions, TrunkItem};
use crate::{Name, RateLimit, TagProtocol, VfLinkState, path_segment};

/// Which attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AttachmentId {
    /// The container's identifier (`CNI_CONTAINERID`): begins with a letter or a digit, goes on with these, `_`, `.` and `-`;
    /// at most [`AttachmentId::MAX_CONTAINER`] bytes.
    pub container: String,
    /// The name of the interface in the container (`CNI_IFNAME`).
    pub interface: String,
}

impl AttachmentId {
    /// The longest identifier of a container, in bytes; runtimes' have 64.
    pub const MAX_CONTAINER: usize = 255;

    /// Its path in the daemon's API.
    pub fn api_path(&self) -> String {
        let (container, interface) = (path_segment(&self.container), path_segment(&self.interface));
        format!("/v1/attachments/{container}/{interface}")
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.interface)
    }
}

/// What is asked for: the body of `PUT /v1/attachments/{container}/{interface}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Attach {
    /// The name of the CNI network.
    pub network: String,
    /// The file of the pod's network namespace, as the daemon sees it.
    pub netns: PathBuf,
    /// Who it is for, where a Kubernetes runtime says so (`K8S_POD_…` of `CNI_ARGS`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// How the pod gets its frames.
    pub kind: AttachKind,
    /// The layer 2 segment.
    pub segment: Segment,
    /// Its MAC address. Absent: one that the daemon makes up, the same for the same pod and interface; with kind `vf` the one
    /// that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The MTU of its interface, in bytes. Absent: 1500, or with kind `vf` as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Upper limits of what it sends (`receive`) and is sent (`transmit`).
    #[serde(default, skip_serializing_if = "RateLimit::is_empty")]
    pub rate_limit: RateLimit,
    /// It may send from its own MAC address alone.
    #[serde(default)]
    pub anti_spoof: bool,
    /// With kind `vhost-user`: its socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<VhostSocket>,
    /// With kind `vf`: which VF, and how it is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf: Option<VfSettings>,
    /// Where its addresses come from.
    #[serde(default)]
    pub ipam: Ipam,
}

/// A pod, by the names that Kubernetes gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How a pod gets its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachKind {
    /// A veth pair; the daemon's end is an AF_XDP port.
    Veth,
    /// A TAP in the pod's namespace, with offloads.
    Tap,
    /// A unix socket over which a virtio-net driver in the pod (DPDK, QEMU) shares its memory.
    VhostUser,
    /// A virtual function of a NIC: its interface in the pod's namespace, or, where a program drives it (`vfio-pci`), as it
    /// is. The engine has no part in it.
    Vf,
}

impl fmt::Display for AttachKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Veth => "veth",
            Self::Tap => "tap",
            Self::VhostUser => "vhost-user",
            Self::Vf => "vf",
        })
    }
}

/// The layer 2 segment of an attachment: an existing bridge domain, by its name or by what it is on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Segment {
    /// Untagged frames of this bridge domain.
    Domain(Name),
    /// Untagged frames of the bridge domain whose `vlan` this is.
    Vlan(Vid),
    /// Untagged frames of the bridge domain whose `vni` this is.
    Vni(Vni),
    /// Tagged frames of several bridge domains, untagged ones of `native`; as in `ports.NAME`.
    #[serde(rename_all = "kebab-case")]
    Trunk {
        /// What is carried tagged.
        items: Vec<TrunkItem>,
        /// The bridge domain of untagged frames.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        native: Option<Name>,
    },
    /// That of the physical function of a VF, behind it in the NIC.
    Pf,
}

/// The socket of a vhost-user attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct VhostSocket {
    /// The folder for the socket. Absent: one of its own below the daemon's `vhost` folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// With `folder`: it is this container's alone, and goes with its last socket. Nothing else in it is removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own_folder: bool,
    /// The socket's file name. Absent: `vhost.sock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The pod's side listens; the daemon connects.
    pub client: bool,
    /// The most queue pairs. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_pairs: Option<u16>,
    /// The user whom folder and socket belong to, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Their group, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The socket's permissions, in octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// The SELinux label of folder and socket; with `client` of the folder alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
}

/// A VF, and what its physical function is told of it; what is absent stays as it is until it is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VfSettings {
    /// Its PCI address: `0000:03:10.2`.
    pub device: String,
    /// The VLAN that the NIC puts it into, unseen by it; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The priority in that VLAN's tag. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// The protocol of that VLAN's tag. Absent: `802.1q`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan_proto: Option<TagProtocol>,
    /// Whether the NIC drops frames that it sends with another MAC address than its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoofchk: Option<bool>,
    /// Whether it may change its MAC address and receive promiscuously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// The link that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_state: Option<VfLinkState>,
    /// The rate that it may send at in any case, in Mbit/s; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tx_rate: Option<u32>,
    /// The most that it sends, in Mbit/s; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tx_rate: Option<u32>,
}

/// Where the addresses of an attachment come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipam {
    /// It has none.
    #[default]
    None,
    /// Another IPAM plugin has chosen them, or the configuration of the network.
    Given(Addresses),
    /// Another IPAM plugin finds them out through the interface, which is made first: the attachment is not complete until
    /// `PUT /v1/attachments/{container}/{interface}/addresses` brings them, and is then as one with `given`.
    ///
    /// A route whose place is another interface's in the pod is left out. Nobody has chosen it for this pod: a DHCP server
    /// gives everyone a default route, and a pod with several interfaces has one already.
    Awaited,
    /// Another IPAM plugin chooses them while the interface is made, and they come as with `awaited`; a route whose place is
    /// another interface's is an error, as with `given`.
    Delegated,
    /// The daemon chooses them from one of its address pools.
    #[serde(rename_all = "kebab-case")]
    Pool {
        /// The pool. May be left out where there is exactly one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<Name>,
        /// These and no others, each of the pool.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        wanted: Vec<IpAddr>,
    },
}

impl Ipam {
    /// Whether the interface is made first, and `PUT …/addresses` makes it complete.
    pub fn comes_later(&self) -> bool {
        matches!(self, Self::Awaited | Self::Delegated)
    }
}

/// The layer 3 settings of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Addresses {
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<InterfaceAddress>,
    /// The routes through it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InterfaceAddress {
    /// The address and its subnet's length: `10.9.0.5/24`.
    pub address: IpNet,
    /// The gateway of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route through an interface; the fields of CNI 1.1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The next hop. Absent: the gateway of the first address of its family; none: on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The MTU along it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The TCP maximal segment size to advertise, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// The metric; less is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table. Absent: main.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope, as in `RTN(7)`: 0 global, 253 link, 254 host. Absent: global with a next hop, link without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// An attachment as it is: the answer to `PUT` and `GET`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attachment {
    /// Which.
    pub id: AttachmentId,
    /// What was asked for.
    pub wanted: Attach,
    /// Whether it is complete.
    pub state: AttachmentState,
    /// The port in the engine. Of a VF there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Name>,
    /// The bridge domain of its untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Name>,
    /// Our end of the veth pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
    /// Its MAC address; zero: that of a VF whose program chooses it.
    pub mac: MacAddr,
    /// The MTU of its interface, in bytes; 0: a VF's without an interface.
    pub mtu: u16,
    /// Its layer 3 settings.
    pub addresses: Addresses,
    /// The vhost-user socket, as the daemon sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The VF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf: Option<AttachedVf>,
    /// What is not as it should be: each with what it is, what it should be, and what is done about it.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Who wants it to be there.
    #[serde(default)]
    pub owner: AttachmentOwner,
    /// Times that it was changed.
    pub generation: u64,
}

/// The VF of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttachedVf {
    /// Its PCI address.
    pub pci: String,
    /// That of its physical function.
    pub pf: String,
    /// Its number there.
    pub index: u16,
    /// Its driver.
    pub driver: String,
    /// Its interface's name on the host, which it gets back. Absent: it has none, a program drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Which of the host's leases that is.
    pub generation: u64,
}

/// Who wants an attachment to be there, in the words of `GET /v1/objects`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentOwner {
    /// A container runtime, through the CNI plugin.
    #[default]
    Cni,
}

/// Whether an attachment is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// It is being made, or its addresses are awaited; found so at a start, or three minutes later, it is taken back.
    Adding,
    /// It is there.
    Ready,
    /// It is being removed; found so at a start, that goes on.
    Removing,
}

impl fmt::Display for AttachmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Adding => "adding",
            Self::Ready => "ready",
            Self::Removing => "removing",
        })
    }
}

/// Which attachments of a network still have a container: the body of `POST /v1/attachments/gc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Collect {
    /// The name of the CNI network.
    pub network: String,
    /// All others of this network are removed.
    pub valid: Vec<AttachmentId>,
}

/// What `POST /v1/attachments/gc` has removed, and what `DELETE` of one has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Removed {
    /// Those that were there.
    pub removed: Vec<AttachmentId>,
}

/// What an ADD would need: the body of `POST /v1/attachments/status`; an answer without an error says that it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Need {
    /// The layer 2 segment.
    pub segment: Segment,
    /// Where addresses come from; of `given`, `awaited` and `delegated`, nothing is asked.
    #[serde(default)]
    pub ipam: Ipam,
}
