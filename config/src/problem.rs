//! The table of all that can be wrong with a well-formed configuration: one reason, one text that says what to do.

mod pool;
mod sriov;

use std::net::IpAddr;
use std::path::PathBuf;

use clearway_wire::{MacAddr, Vid, Vni};

use crate::error::{Words, brief, brief_path};
use crate::path::Path;
use crate::values::PortKind;
use crate::{Name, NameError};

pub use self::pool::PoolProblem;
pub use self::sriov::SriovProblem;

/// One thing that is wrong with a well-formed configuration. The path in front of it
/// ([`SemanticError`](crate::SemanticError)) says where.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    // --- the document, the engine, the API ---
    /// A version of the file format that this release does not read.
    #[error("version {found} of the configuration format is not supported; this release reads version 1")]
    Version {
        /// The version asked for.
        found: u64,
    },
    /// A number or a duration out of its range.
    #[error("{found} is out of range; write {min} to {max}")]
    Range {
        /// What is written.
        found: String,
        /// The least.
        min: String,
        /// The most.
        max: String,
    },
    /// A number that must be a power of two.
    #[error("{found} is not a power of two; write {below} or {above}")]
    NotPowerOfTwo {
        /// What is written.
        found: u32,
        /// The next power of two below it.
        below: u32,
        /// The next power of two above it.
        above: u32,
    },
    /// Two workers on one core.
    #[error("core {core} already has a worker ({other}); give each worker a core of its own")]
    CoreTwice {
        /// The core.
        core: u16,
        /// The first worker that has it.
        other: Path,
    },
    /// A core that the host has not, or that the daemon may not use.
    #[error("core {core} cannot be used on this host; the cores that can: {usable}")]
    NoSuchCore {
        /// The core.
        core: u16,
        /// The usable ones, as ranges.
        usable: String,
    },
    /// More workers than the engine has room for.
    #[error("{found} workers are configured, {most} are the most; remove some")]
    TooManyWorkers {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A socket path that is not absolute.
    #[error("the socket path {:?} is not absolute; begin it with `/`", brief_path(.path))]
    SocketRelative {
        /// The path.
        path: PathBuf,
    },
    /// A socket path that does not fit `sockaddr_un`.
    #[error(
        "the socket path has {length} bytes, {most} are the most that unix sockets take; choose a shorter one"
    )]
    SocketTooLong {
        /// Its length in bytes.
        length: usize,
        /// The longest one, in bytes.
        most: usize,
    },
    /// A socket path that names no file.
    #[error("the socket path {:?} names a folder; add the socket's own name", brief_path(.path))]
    SocketFolder {
        /// The path.
        path: PathBuf,
    },
    /// A socket path that is too long, whose name is too long for the way around.
    #[error(
        "the socket's file name has {length} bytes; in a path of more than 107 bytes {most} are the most: choose a shorter one"
    )]
    SocketNameTooLong {
        /// Its length in bytes.
        length: usize,
        /// The longest one, in bytes.
        most: usize,
    },
    /// Two things at one socket path.
    #[error("the socket {:?} is already that of `{other}`; give each a path of its own", brief_path(.path))]
    SocketTwice {
        /// The path.
        path: PathBuf,
        /// What has it.
        other: Path,
    },
    /// Rights for a socket that is somebody else's.
    #[error(
        "with `client` the socket is made by who listens there, and so are its rights; remove this key or `client`"
    )]
    ClientSocket,

    // --- names ---
    /// A name that nothing has.
    #[error("there is no {what} `{name}`{hint}; add it under `{section}` or correct the name", hint = mean(.nearest))]
    NoSuch {
        /// What the name should name.
        what: &'static str,
        /// The section where such things are.
        section: &'static str,
        /// The name.
        name: Name,
        /// The name that was probably meant.
        nearest: Option<Name>,
    },

    // --- ports: their kind ---
    /// A key without which a port of this kind cannot be.
    #[error("a port of kind `{kind}` needs {keys}")]
    PortNeeds {
        /// The kind.
        kind: PortKind,
        /// The key or keys that are missing.
        keys: &'static str,
    },
    /// A key that another kind of port has.
    #[error("this key belongs to ports of kind `{owner}`, this port is of kind `{kind}`; remove it")]
    OtherKind {
        /// The kind that has the key.
        owner: PortKind,
        /// The kind of this port.
        kind: PortKind,
    },
    /// A key that means nothing without another.
    #[error("this key means nothing without `{other}`; add `{other}` or remove this key")]
    Without {
        /// The key that it needs.
        other: &'static str,
    },
    /// A rate limit without a rate.
    #[error("this limits nothing; add `packets`, `bits` or both (a second), or remove this key")]
    NoRate,
    /// Not a name that a network interface can have.
    #[error("{:?} is not the name of a network interface: {reason}", brief(.name))]
    Interface {
        /// The name.
        name: String,
        /// Why, and what a name may be.
        reason: &'static str,
    },
    /// Two ports on one interface.
    #[error("the interface `{}` already belongs to the port `{other}`; an interface is one port", brief(.interface))]
    InterfaceTwice {
        /// The interface.
        interface: String,
        /// The other port.
        other: Name,
    },
    /// Neither a name nor an absolute path.
    #[error(
        "{:?} is no network namespace: write its name, as `ip netns` lists it, or the absolute path of its file", brief(.netns)
    )]
    Netns {
        /// What was written.
        netns: String,
    },
    /// A list of queues with nothing in it.
    #[error("the list of queues is empty; name at least one or write `all`")]
    NoQueues,
    /// A queue twice in the list.
    #[error("queue {queue} is listed twice; remove one")]
    QueueTwice {
        /// The queue.
        queue: u16,
    },
    /// A queue given to a worker though the port does not use it.
    #[error("queue {queue} is not in this port's `queues`; add it there or remove it here")]
    QueueNotUsed {
        /// The queue.
        queue: u16,
    },
    /// A queue pair given to a worker though the port has fewer.
    #[error("there is no queue pair {queue}; `queue-pairs` is {pairs}, and they are counted from 0")]
    PairNotUsed {
        /// The queue pair.
        queue: u16,
        /// How many there are.
        pairs: u16,
    },
    /// A queue given to a worker when workers are chosen by the daemon.
    #[error("worker {worker} is named, but `engine.workers` is not set; list the workers there first")]
    WorkersAutomatic {
        /// The worker's position.
        worker: u16,
    },
    /// A queue given to a worker that is not there.
    #[error("there is no worker {worker}; `engine.workers` has {count}, counted from 0")]
    NoSuchWorker {
        /// The worker's position.
        worker: u16,
        /// How many there are.
        count: usize,
    },
    /// Fewer buffers than one ring has entries.
    #[error(
        "{frames} frames cannot fill a ring of {ring_size} entries; write at least {ring_size}, or leave `frames` out"
    )]
    FewFrames {
        /// The buffers.
        frames: u32,
        /// The entries of a ring.
        ring_size: u32,
    },
    /// A file that two keys would use at the same time.
    #[error("the file {:?} is already used by `{other}`; name another file", brief_path(.file))]
    FileTwice {
        /// The file.
        file: PathBuf,
        /// Where it is used first.
        other: Path,
    },
    /// A MAC address that no single station can have.
    #[error("{mac} is not the address of one station (it is {why}); write a unicast address")]
    MacNotUnicast {
        /// The address.
        mac: MacAddr,
        /// `multicast`, `broadcast` or `all zero`.
        why: &'static str,
    },
    /// A MAC address twice in one list.
    #[error("{mac} is listed twice, first at `{other}`; remove one")]
    MacTwice {
        /// The address.
        mac: MacAddr,
        /// Where it is first.
        other: Path,
    },

    // --- ports: their service ---
    /// Two layer 2 services on one port.
    #[error("{} exclude each other; a port has one of `access`, `trunk` and `tunnel`: remove the others", Words(.keys))]
    Services {
        /// The keys that are set.
        keys: Vec<&'static str>,
    },
    /// `native` without a trunk.
    #[error("`native` needs a `trunk`; for a port with untagged frames alone write `access: {domain}`")]
    NativeAlone {
        /// The domain.
        domain: Name,
    },
    /// Untagged frames of a port that the kernel keeps.
    #[error(
        "a port with `steering: shared` carries only VLANs and VTEPs, its untagged frames stay with the kernel; use \
         `trunk`, or `steering: exclusive` if the interface is ours alone"
    )]
    SharedUntagged,
    /// A VID that a trunk lists twice.
    #[error("VLAN {vlan} is already carried by `{other}`; remove it from one of them")]
    TrunkOverlap {
        /// The VID, or the first of several.
        vlan: Vid,
        /// The item that has it.
        other: Path,
    },
    /// A VID on a trunk that belongs to no bridge domain.
    #[error(
        "no bridge domain has VLAN {vlan}; add `vlan: {vlan}` to one, or write {{vlan: {vlan}, bridge-domain: NAME}}"
    )]
    TrunkNoDomain {
        /// The VID.
        vlan: Vid,
    },
    /// The native domain is carried tagged as well.
    #[error(
        "the bridge domain `{domain}` is the port's `native` one, so its frames leave untagged; remove it here or there"
    )]
    NativeTagged {
        /// The domain.
        domain: Name,
    },

    /// A key of bridge domains' frames on a port that has none.
    #[error(
        "this key does nothing here: the port belongs to no bridge domain and only carries VXLAN; remove it, or add \
         `access`, `trunk` or `tunnel`"
    )]
    UnderlayKey,

    // --- bridge domains ---
    /// A VID that two bridge domains have.
    #[error("VLAN {vlan} already belongs to the bridge domain `{other}`; each VLAN belongs to one")]
    VlanTwice {
        /// The VID.
        vlan: Vid,
        /// The other domain.
        other: Name,
    },
    /// A VNI that two bridge domains of one VTEP have.
    #[error(
        "VNI {vni} already belongs to the bridge domain `{other}` on the VTEP `{vtep}`; choose another VNI or VTEP"
    )]
    VniTwice {
        /// The VNI.
        vni: Vni,
        /// The VTEP.
        vtep: Name,
        /// The other domain.
        other: Name,
    },
    /// A VNI without any VTEP.
    #[error("a VNI needs a VTEP and none is configured; add one under `vteps`")]
    NoVtep,
    /// A VNI that does not say which of several VTEPs carries it.
    #[error("several VTEPs are configured; say with `vtep` which one carries the VNI: {}", Words(.vteps))]
    WhichVtep {
        /// Their names.
        vteps: Vec<Name>,
    },
    /// A tunnel address of the other family than the VTEP's.
    #[error("{remote} is {}, the VTEP `{vtep}` has the {} address {local}; both ends need the same family", family(.remote), family(.local))]
    RemoteFamily {
        /// The remote VTEP.
        remote: IpAddr,
        /// The local VTEP.
        vtep: Name,
        /// Its address.
        local: IpAddr,
    },
    /// A tunnel to ourselves.
    #[error("{remote} is the address of our own VTEP `{vtep}`; name the VTEPs of other hosts only")]
    RemoteLocal {
        /// The address.
        remote: IpAddr,
        /// The VTEP that has it.
        vtep: Name,
    },
    /// A tunnel address twice.
    #[error("{remote} is listed twice; remove one")]
    RemoteTwice {
        /// The address.
        remote: IpAddr,
    },
    /// An address that no single host can have.
    #[error("{ip} is not the address of one host (it is {why}); write a unicast address")]
    IpNotUnicast {
        /// The address.
        ip: IpAddr,
        /// `multicast`, `broadcast`, `unspecified` or `loopback`.
        why: &'static str,
    },
    /// A host's IP address twice.
    #[error("{ip} is listed twice, first at `{other}`; remove one")]
    HostTwice {
        /// The address.
        ip: IpAddr,
        /// Where it is first.
        other: Path,
    },
    /// A static MAC that does not say where it is.
    #[error("a static MAC needs a place: add `port` (behind a local port) or `remote` (behind another VTEP)")]
    StaticNowhere,
    /// A static MAC with two places.
    #[error("a static MAC has one place; remove `port` or `remote`")]
    StaticTwoPlaces,
    /// A static MAC on a port that does not carry the domain.
    #[error(
        "the port `{port}` does not carry the bridge domain `{domain}`; name a port that does, or add the domain to it"
    )]
    StaticElsewhere {
        /// The port.
        port: Name,
        /// The domain.
        domain: Name,
    },
    /// A static MAC with a VID by which the port does not carry the domain.
    #[error("the port `{port}` does not carry the bridge domain `{domain}` as VLAN {vlan}; {carried}")]
    StaticVlan {
        /// The port.
        port: Name,
        /// The domain.
        domain: Name,
        /// The VID.
        vlan: Vid,
        /// As what it does.
        carried: String,
    },
    /// A static MAC on a port that carries the domain several times.
    #[error(
        "the port `{port}` carries the bridge domain `{domain}` several times; say with `vlan` which is meant: {carried}"
    )]
    StaticWhichVlan {
        /// The port.
        port: Name,
        /// The domain.
        domain: Name,
        /// The VIDs.
        carried: String,
    },
    /// A domain that may learn more than the table holds.
    #[error(
        "{limit} MAC addresses are more than the forwarding table holds ({capacity}); raise `engine.fdb-capacity` or lower this"
    )]
    LimitOverCapacity {
        /// The limit.
        limit: u32,
        /// `engine.fdb-capacity`.
        capacity: u32,
    },

    // --- VTEPs ---
    /// Two VTEPs that the same packets would reach.
    #[error(
        "the VTEP `{other}` already has the address {local} with UDP port {udp_port}; change one of them"
    )]
    VtepTwice {
        /// The address.
        local: IpAddr,
        /// The UDP port.
        udp_port: u16,
        /// The other VTEP.
        other: Name,
    },
    /// A VTEP on a port from which the kernel gets no frames.
    #[error(
        "the port `{port}` is exclusive, so the kernel could not answer ARP or neighbour requests for the VTEP; set \
         `steering: shared` on that port"
    )]
    VtepExclusive {
        /// The port.
        port: Name,
    },
    /// A VTEP on a port of which the kernel knows no routes.
    #[error(
        "the kernel knows no way to a remote through the port `{port}` of kind `{kind}`; add `mac`, the VTEP's own MAC address, and \
         `next-hop`, the MAC address that its packets go to"
    )]
    VtepNoInterface {
        /// The port.
        port: Name,
        /// Its kind.
        kind: PortKind,
    },
    /// A VTEP that is its own next hop.
    #[error(
        "{mac} is already the VTEP's own address (`mac`); write the address of the router or of the remote"
    )]
    VtepNextHopIsOurs {
        /// The address.
        mac: MacAddr,
    },
    /// A VTEP whose underlay frames belong to a bridge domain.
    #[error(
        "{frames} of the port `{port}` belong to the bridge domain `{domain}`; put the VTEP on another port or VLAN"
    )]
    VtepInDomain {
        /// `the untagged frames` or `the frames of VLAN 30`.
        frames: String,
        /// The port.
        port: Name,
        /// The domain that has them.
        domain: Name,
    },

    /// What is wrong with an address pool.
    #[error(transparent)]
    Pool(#[from] PoolProblem),

    /// What is wrong with an SR-IOV function.
    #[error(transparent)]
    Sriov(#[from] SriovProblem),

    // --- cross-connects ---
    /// A port connected to itself.
    #[error("the port `{port}` cannot be connected to itself; name two ports")]
    CrossConnectSelf {
        /// The port.
        port: Name,
    },
    /// A port in two cross-connects.
    #[error("the port `{port}` is already an end of `{other}`; a port has one cross-connect")]
    CrossConnectTwice {
        /// The port.
        port: Name,
        /// The first cross-connect.
        other: Path,
    },
    /// A port in a cross-connect that also serves bridge domains.
    #[error(
        "the port `{port}` also has `{key}`; a port of a cross-connect belongs to no bridge domain: remove one of them"
    )]
    CrossConnectService {
        /// The port.
        port: Name,
        /// The key of its service.
        key: &'static str,
    },
    /// A shared port in a cross-connect.
    #[error(
        "the port `{port}` has `steering: shared`, so most of its frames stay with the kernel; a cross-connect needs `exclusive`"
    )]
    CrossConnectShared {
        /// The port.
        port: Name,
    },
    /// A port in a cross-connect that carries a VTEP.
    #[error("the port `{port}` carries the VTEP `{vtep}`; a port of a cross-connect carries nothing else")]
    CrossConnectVtep {
        /// The port.
        port: Name,
        /// The VTEP.
        vtep: Name,
    },
    /// A key on a port of a cross-connect, which changes, checks and learns nothing.
    #[error(
        "this key does nothing in a cross-connect, which passes every frame as it is; remove it, or join the ports by \
         `access` to one bridge domain instead"
    )]
    CrossConnectKey,
    /// A name made from something else is not one.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Problem {
    /// Whether this is wrong by what is written alone, so that nothing written besides could put it right. (Not
    /// [`NoSuch`](Problem::NoSuch), which another entry puts right.)
    pub(crate) fn stands_alone(&self) -> bool {
        if let Problem::Pool(problem) = self {
            return problem.stands_alone();
        }
        if let Problem::Sriov(problem) = self {
            return problem.stands_alone();
        }
        matches!(
            self,
            Problem::Range { .. }
                | Problem::NotPowerOfTwo { .. }
                | Problem::CoreTwice { .. }
                | Problem::NoSuchCore { .. }
                | Problem::TooManyWorkers { .. }
                | Problem::SocketRelative { .. }
                | Problem::SocketTooLong { .. }
                | Problem::SocketFolder { .. }
                | Problem::SocketNameTooLong { .. }
                | Problem::SocketTwice { .. }
                | Problem::Interface { .. }
                | Problem::InterfaceTwice { .. }
                | Problem::Netns { .. }
                | Problem::QueueTwice { .. }
                | Problem::FewFrames { .. }
                | Problem::FileTwice { .. }
                | Problem::MacNotUnicast { .. }
                | Problem::MacTwice { .. }
                | Problem::Services { .. }
                | Problem::TrunkOverlap { .. }
                | Problem::VlanTwice { .. }
                | Problem::RemoteLocal { .. }
                | Problem::RemoteTwice { .. }
                | Problem::IpNotUnicast { .. }
                | Problem::HostTwice { .. }
                | Problem::StaticTwoPlaces
                | Problem::CrossConnectSelf { .. }
                | Problem::CrossConnectTwice { .. }
                | Problem::CrossConnectService { .. }
        )
    }
}

fn mean(nearest: &Option<Name>) -> String {
    nearest
        .as_ref()
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
