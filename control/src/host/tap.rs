//! TAPs: made, or found where they are, given their settings, and followed.
//!
//! A TAP lives in the network namespace in which its first queue was opened, and its queues hold that namespace open:
//! a pod's would outlive the pod. So [`Tap::look`] also looks whether the namespace is still the one of its name; who
//! is told that it is not closes the queues. Everything in another namespace is done by a thread of its own that enters
//! it; a netlink socket from there stays, and answers for that namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clearway_config::Port;
use clearway_io::{TapDevice, TapError};
use clearway_wire::MacAddr;

use super::HostError;
use super::links::{
    ADDRESS, IFF_UP, IFINFO_LEN, INFO_DATA, IfIndex, LINKINFO, Link, LinkState, MTU, by_name, flags_request,
};
use super::netlink::Netlink;
use super::netns::Netns;

/// `IFLA_TUN_NUM_QUEUES`: only of one with several.
const TUN_QUEUES: u16 = 8;

/// A TAP as it is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: String,
    /// The name of its network namespace or the path of its file; none: that of the calling thread.
    pub(crate) netns: Option<String>,
    /// Its queues.
    pub(crate) queues: u16,
    /// Its MAC address; none: as it is.
    pub(crate) mac: Option<MacAddr>,
    /// Bytes of its largest L3 packet; none: as it is.
    pub(crate) mtu: Option<u32>,
    /// It stays when its queues are closed.
    pub(crate) persistent: bool,
}

impl Wanted {
    /// The one of a port.
    pub(crate) fn of(port: &Port) -> Self {
        Self {
            name: port.interface.clone().unwrap_or_default(),
            netns: port.netns.clone(),
            queues: port.queue_pairs(),
            mac: port.mac,
            mtu: port.mtu.map(u32::from),
            persistent: port.persistent,
        }
    }
}

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Netlink, or the namespace.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The kernel refuses the TAP.
    #[error(transparent)]
    Device(#[from] TapError),
    /// Its namespace is not there.
    #[error("network namespace {0} does not exist; waiting for it")]
    NoNetns(String),
    /// Something else has the name.
    #[error("the interface {name} is there and is no TAP but a {kind}; choose another name or delete it")]
    NotTap {
        /// The interface.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// Somebody else has it.
    #[error(
        "the TAP {name} is in use by another program, which has {queues} of its queues; waiting for it to let go"
    )]
    InUse {
        /// The interface.
        name: String,
        /// The queues that are open.
        queues: u32,
    },
}

impl OpenError {
    /// Whether it may become better by itself.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::NoNetns(_) | Self::InUse { .. } => true,
            Self::Device(TapError::Attach { source, .. }) => source.raw_os_error() == Some(libc::EBUSY),
            _ => false,
        }
    }
}

/// What became of a TAP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is as it was.
    Same,
    /// Something of [`Tap::state`] has changed.
    Changed,
    /// Its namespace is gone, for this reason.
    Gone(String),
}

/// A TAP whose queues are ours.
pub(crate) struct Tap {
    /// The interface as it was last seen.
    pub(crate) state: LinkState,
    rtnl: Netlink,
    netns: Option<Place>,
}

/// A namespace that has a name.
#[derive(Debug, Clone)]
struct Place {
    /// As the configuration names it.
    name: String,
    path: PathBuf,
    inode: u64,
}

impl Tap {
    /// Opens a TAP: makes it if it is not there, gives it its settings and sets it up.
    pub(crate) fn open(wanted: &Wanted) -> Result<(TapDevice, Self), OpenError> {
        let Some(name) = &wanted.netns else {
            return open_here(wanted, None);
        };
        let path = match name.starts_with('/') {
            true => PathBuf::from(name),
            false => Path::new("/run/netns").join(name),
        };
        let gone = || OpenError::NoNetns(name.clone());
        let inode = fs::metadata(&path).map_err(|_| gone())?.ino();
        let netns = Netns::open(&path).map_err(|_| gone())?;
        let name = name.clone();
        netns.run(|| Ok(open_here(wanted, Some(Place { name, path, inode }))))?
    }

    /// Gives it an address or another size.
    pub(crate) fn set(&mut self, mac: Option<MacAddr>, mtu: Option<u32>) -> Result<(), HostError> {
        set(&mut self.rtnl, &self.state, mac, mtu)?;
        self.look();
        Ok(())
    }

    /// Looks what became of it. What was moved to another namespace stays as it was last seen; what was deleted, its
    /// queues notice.
    pub(crate) fn look(&mut self) -> Look {
        if let Some(Place { name, path, inode }) = &self.netns
            && fs::metadata(path).map(|file| file.ino()).ok() != Some(*inode)
        {
            return Look::Gone(format!(
                "network namespace {name} was deleted or is another one now; waiting for it"
            ));
        }
        match by_index(&mut self.rtnl, self.state.ifindex) {
            Ok(Some(link)) if link.state() != self.state => {
                self.state = link.state();
                Look::Changed
            }
            _ => Look::Same,
        }
    }

    /// Why nothing goes through it; none: it does.
    pub(crate) fn why_down(&self) -> Option<String> {
        let name = &self.state.name;
        let within = self
            .netns
            .as_ref()
            .map_or(String::new(), |place| match place.name.starts_with('/') {
                true => format!("nsenter --net={} ", place.name),
                false => format!("ip netns exec {} ", place.name),
            });
        (!self.state.up).then(|| format!("the TAP {name} is down (`{within}ip link set {name} up`)"))
    }
}

/// In the calling thread's network namespace.
fn open_here(wanted: &Wanted, netns: Option<Place>) -> Result<(TapDevice, Tap), OpenError> {
    let mut rtnl = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let name = &wanted.name;
    if let Some(reply) = by_name(&mut rtnl, name)?
        && let Some(link) = Link::parse(&reply)
    {
        if link.kind.as_deref() != Some("tun") {
            let name = name.clone();
            let kind = link.kind.unwrap_or_else(|| "device".to_owned());
            return Err(OpenError::NotTap { name, kind });
        }
        let data = reply.attrs(IFINFO_LEN).nested(LINKINFO).nested(INFO_DATA);
        // The kernel would share its frames out between that program and us.
        if let Some(queues) = data.u32(TUN_QUEUES).filter(|queues| *queues > 0) {
            let name = name.clone();
            return Err(OpenError::InUse { name, queues });
        }
    }
    let device = TapDevice::open(name, wanted.queues)?;
    let gone = || HostError::NoInterface(name.clone());
    let found = by_name(&mut rtnl, name)?.as_ref().and_then(Link::parse);
    let state = found.ok_or_else(gone)?.state();
    set(&mut rtnl, &state, wanted.mac, wanted.mtu)?;
    up(&mut rtnl, state.ifindex)?;
    let state = by_index(&mut rtnl, state.ifindex)?.ok_or_else(gone)?.state();
    // Last, so that nothing stays of what failed.
    if wanted.persistent {
        device.keep()?;
    }
    let tap = Tap { state, rtnl, netns };
    Ok((device, tap))
}

fn by_index(rtnl: &mut Netlink, ifindex: IfIndex) -> Result<Option<Link>, HostError> {
    super::links::get(rtnl, ifindex)
}

fn up(rtnl: &mut Netlink, ifindex: IfIndex) -> Result<(), HostError> {
    let answer = rtnl.transact(flags_request(ifindex, IFF_UP));
    answer
        .map(drop)
        .map_err(|refusal| refusal.during(format!("setting interface {ifindex} up")))
}

/// Sets what is wanted and different.
fn set(
    rtnl: &mut Netlink,
    state: &LinkState,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
) -> Result<(), HostError> {
    let name = &state.name;
    if let Some(mac) = mac.filter(|mac| state.mac != Some(*mac)) {
        rtnl.transact(flags_request(state.ifindex, 0).attr(ADDRESS, &mac.0))
            .map_err(|refusal| refusal.during(format!("giving the TAP {name} the MAC {mac}")))?;
    }
    if let Some(mtu) = mtu.filter(|mtu| state.mtu != *mtu) {
        rtnl.transact(flags_request(state.ifindex, 0).attr(MTU, &mtu.to_ne_bytes()))
            .map_err(|refusal| refusal.during(format!("giving the TAP {name} the MTU {mtu}")))?;
    }
    Ok(())
}
