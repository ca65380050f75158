//! The SR-IOV functions that the host has: physical ones, their VFs, and who holds each.
//!
//! ```text
//!   bus/pci/devices/*/sriov_totalvfs ─► Pf ─► virtfn* ─► Vf ◄─ links (by PCI address, by switch port)
//!                                                         ◄─ Leases, other namespaces, /dev/vfio: Holder
//! ```
//!
//! Guarantees: it is a picture, it changes nothing; a function that goes while it is read is left out. The interfaces are
//! those of one network namespace: that of the [`Hardware`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clearway_wire::MacAddr;
use serde::{Deserialize, Serialize};

use crate::PciAddress;
use crate::hardware::{Hardware, Link, Process, Refusal, VfAdmin};

/// Where sysfs has PCI functions.
pub(crate) const DEVICES: &str = "bus/pci/devices";
/// Programs drive functions themselves by these drivers.
const USERSPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// The first byte of the class of network controllers.
const NETWORK: &str = "0x02";

/// All physical functions for networks, in the order of their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// They.
    pub pfs: Vec<Pf>,
}

/// A physical function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pf {
    /// Its address.
    pub pci: PciAddress,
    /// Who made it, in hexadecimal: `8086`.
    pub vendor: String,
    /// What it is, in hexadecimal: `10c9`.
    pub device: String,
    /// Its driver.
    pub driver: Option<String>,
    /// The NUMA node that it hangs on.
    pub numa_node: Option<u32>,
    /// The most VFs.
    pub total_vfs: u16,
    /// Whether new VFs get the kernel's driver by themselves.
    pub autoprobe: bool,
    /// Whether its VFs have representors on the host (switchdev).
    pub switchdev: bool,
    /// Its interface; `None`: it has none, or in another network namespace.
    pub netdev: Option<Netdev>,
    /// Its VFs, by their numbers.
    pub vfs: Vec<Vf>,
}

/// A virtual function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vf {
    /// Its number on its physical function.
    pub index: u16,
    /// What it is, in hexadecimal.
    pub device: String,
    /// What is known of it without asking who holds it.
    #[serde(flatten)]
    pub state: VfState,
    /// The port of the NIC's switch that leads to it.
    pub representor: Option<Netdev>,
    /// Who has it; `None`: it is free.
    pub holder: Option<Holder>,
}

/// How a VF is set up: all that a lease saves, and gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VfState {
    /// Its address.
    pub pci: PciAddress,
    /// Its driver.
    pub driver: Option<String>,
    /// The only driver that may bind it.
    pub driver_override: Option<String>,
    /// Its IOMMU group: `/dev/vfio/GROUP`.
    pub iommu_group: Option<u32>,
    /// Its settings; `None`: its physical function has no interface here that could tell.
    pub admin: Option<VfAdmin>,
    /// Its interface; `None`: it has none, or in another network namespace.
    pub netdev: Option<Netdev>,
}

impl VfState {
    /// Whether a program of its own drives it.
    pub fn in_userspace(&self) -> bool {
        self.driver
            .as_deref()
            .is_some_and(|driver| USERSPACE.contains(&driver))
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Netdev {
    /// Its name.
    pub name: String,
    /// Its other names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub altnames: Vec<String>,
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a link.
    pub carrier: bool,
}

impl From<&Link> for Netdev {
    fn from(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            altnames: link.altnames.clone(),
            ifindex: link.ifindex,
            mac: link.mac,
            mtu: link.mtu,
            up: link.up,
            carrier: link.carrier,
        }
    }
}

/// Who has a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Holder {
    /// It is on lease.
    #[serde(rename_all = "kebab-case")]
    Lease {
        /// To whom, in words: `pod default/web-0`.
        holder: String,
        /// Which lease of it that is.
        generation: u64,
    },
    /// A port of the forwarder.
    Port {
        /// Its name.
        port: String,
    },
    /// Its interface is in another network namespace, and not by a lease.
    Namespace,
    /// A program has its device file open.
    Programs {
        /// They.
        programs: Vec<Process>,
    },
    /// Its interface belongs to a bridge or bond of the host.
    Master {
        /// Its name.
        master: String,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Lease { holder, .. } => f.write_str(holder),
            Holder::Port { port } => write!(f, "port {port}"),
            Holder::Namespace => f.write_str("another network namespace"),
            Holder::Programs { programs } => {
                for (i, Process { pid, name }) in programs.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{name} (pid {pid})")?;
                }
                Ok(())
            }
            Holder::Master { master } => write!(f, "member of {master}"),
        }
    }
}

/// Who holds what, as the caller knows it: leases and ports.
pub type Holders = BTreeMap<PciAddress, Holder>;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// No sysfs.
    #[error("listing the PCI functions in sysfs (bus/pci/devices) failed: {0}; is /sys mounted?")]
    Devices(#[source] std::io::Error),
    /// No netlink.
    #[error("listing the interfaces failed: {0}")]
    Links(Refusal),
}

impl Inventory {
    /// Looks at the host.
    pub fn read(hardware: &dyn Hardware, holders: &Holders) -> Result<Self, InventoryError> {
        let functions = match hardware.list(Path::new(DEVICES)) {
            Ok(functions) => functions,
            // A host without PCI.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(InventoryError::Devices(error)),
        };
        let links = hardware.links().map_err(InventoryError::Links)?;
        let picture = Picture {
            hardware,
            links: Links::new(&links),
            holders,
        };
        let functions = functions.iter().filter_map(|name| name.parse().ok());
        let mut pfs: Vec<_> = functions.filter_map(|pci| picture.pf(pci)).collect();
        pfs.sort_by_key(|pf| pf.pci);
        let vfs = || pfs.iter().flat_map(|pf| &pf.vfs);
        // Looking through all processes takes long; mostly nobody drives a VF by itself.
        if vfs().any(|vf| vf.holder.is_none() && vf.state.in_userspace()) {
            let users = hardware.vfio_users();
            for vf in pfs.iter_mut().flat_map(|pf| &mut pf.vfs) {
                if vf.holder.is_none() {
                    vf.holder = picture.programs(&vf.state, &users);
                }
            }
        }
        Ok(Self { pfs })
    }

    /// A physical function by its interface's name or altname, or by its address.
    pub fn pf(&self, name: &str) -> Option<&Pf> {
        let pci = name.parse::<PciAddress>().ok();
        self.pfs.iter().find(|pf| {
            let named = |netdev: &Netdev| netdev.name == name || netdev.altnames.iter().any(|n| n == name);
            pci == Some(pf.pci) || pf.netdev.as_ref().is_some_and(named)
        })
    }

    /// A VF, and its physical function.
    pub fn vf(&self, pci: PciAddress) -> Option<(&Pf, &Vf)> {
        let mut all = self
            .pfs
            .iter()
            .flat_map(|pf| pf.vfs.iter().map(move |vf| (pf, vf)));
        all.find(|(_, vf)| vf.state.pci == pci)
    }
}

impl Pf {
    /// What people call it: its interface, else its address.
    pub fn name(&self) -> String {
        match &self.netdev {
            Some(netdev) => netdev.name.clone(),
            None => self.pci.to_string(),
        }
    }
}

/// The folder of a function in sysfs.
pub(crate) fn device_path(pci: PciAddress) -> PathBuf {
    Path::new(DEVICES).join(pci.to_string())
}

/// The interface of a function itself. With switchdev, representors hang on the physical function too.
pub(crate) fn netdev_of(links: &[Link], pci: PciAddress) -> Option<&Link> {
    links
        .iter()
        .find(|link| link.pci == Some(pci) && vf_port(link).is_none())
}

/// What sysfs says of a VF, with what links say of it.
pub(crate) fn vf_state(
    hardware: &dyn Hardware,
    pci: PciAddress,
    admin: Option<VfAdmin>,
    netdev: Option<Netdev>,
) -> VfState {
    let path = device_path(pci);
    let group = hardware.target(&path.join("iommu_group")).ok();
    let only = hardware.read(&path.join("driver_override")).ok();
    VfState {
        pci,
        driver: hardware.target(&path.join("driver")).ok(),
        driver_override: only.filter(|driver| !driver.is_empty() && driver != "(null)"),
        iommu_group: group.and_then(|group| group.parse().ok()),
        admin,
        netdev,
    }
}

/// The links, by what they are looked for.
struct Links<'a> {
    by_index: BTreeMap<u32, &'a Link>,
    by_pci: BTreeMap<PciAddress, Vec<&'a Link>>,
}

impl<'a> Links<'a> {
    fn new(links: &'a [Link]) -> Self {
        let mut by_pci: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for link in links {
            if let Some(pci) = link.pci {
                by_pci.entry(pci).or_default().push(link);
            }
        }
        Self {
            by_index: links.iter().map(|link| (link.ifindex, link)).collect(),
            by_pci,
        }
    }

    /// As [`netdev_of`].
    fn of(&self, pci: PciAddress) -> Option<&'a Link> {
        let mut links = self.by_pci.get(&pci)?.iter();
        links.find(|link| vf_port(link).is_none()).copied()
    }

    /// The representors of a physical function, by the numbers of their VFs.
    fn representors(&self, pf: PciAddress) -> BTreeMap<u16, &'a Link> {
        let links = self.by_pci.get(&pf).into_iter().flatten();
        links.filter_map(|link| Some((vf_port(link)?, *link))).collect()
    }
}

/// The VF that a port of the NIC's switch leads to: `pf0vf3`, with `c1` before it if it is another host's. `p0` and `pf0`,
/// and interfaces of NICs without a switch, lead to none.
fn vf_port(link: &Link) -> Option<u16> {
    link.switch.as_ref()?;
    let name = link.port_name.as_deref()?;
    name.rsplit_once("vf")?.1.parse().ok()
}

struct Picture<'a> {
    hardware: &'a dyn Hardware,
    links: Links<'a>,
    holders: &'a Holders,
}

impl Picture<'_> {
    fn pf(&self, pci: PciAddress) -> Option<Pf> {
        let path = device_path(pci);
        let read = |name: &str| self.hardware.read(&path.join(name)).ok();
        let total_vfs = read("sriov_totalvfs")?.parse().ok().filter(|n| *n > 0)?;
        if !read("class")?.starts_with(NETWORK) {
            return None;
        }
        let netdev = self.links.of(pci);
        let representors = self.links.representors(pci);
        let mut pf = Pf {
            pci,
            vendor: hex(read("vendor")),
            device: hex(read("device")),
            driver: self.hardware.target(&path.join("driver")).ok(),
            // -1: none in particular.
            numa_node: read("numa_node").and_then(|node| node.parse().ok()),
            total_vfs,
            autoprobe: read("sriov_drivers_autoprobe").is_none_or(|probe| probe != "0"),
            switchdev: !representors.is_empty(),
            netdev: netdev.map(Netdev::from),
            vfs: Vec::new(),
        };
        let count: u16 = read("sriov_numvfs").and_then(|n| n.parse().ok()).unwrap_or(0);
        let device = hex(read("sriov_vf_device"));
        pf.vfs = (0..count)
            .filter_map(|index| {
                let pci = self.hardware.target(&path.join(format!("virtfn{index}"))).ok()?;
                let admin = netdev.and_then(|link| link.vfs.get(&index)).copied();
                let pci = pci.parse().ok()?;
                let own = self.links.of(pci).map(Netdev::from);
                let state = vf_state(self.hardware, pci, admin, own);
                Some(Vf {
                    index,
                    device: device.clone(),
                    representor: representors.get(&index).map(|link| Netdev::from(*link)),
                    holder: self.holder(&state),
                    state,
                })
            })
            .collect();
        Some(pf)
    }

    fn holder(&self, state: &VfState) -> Option<Holder> {
        if let Some(holder) = self.holders.get(&state.pci) {
            return Some(holder.clone());
        }
        let Some(netdev) = &state.netdev else {
            // The kernel's driver makes an interface; it is not here.
            let elsewhere = state.driver.is_some() && !state.in_userspace();
            return elsewhere.then_some(Holder::Namespace);
        };
        let master = self.links.by_index.get(&netdev.ifindex)?.master?;
        let master = self.links.by_index.get(&master).map(|link| link.name.clone());
        Some(Holder::Master {
            master: master.unwrap_or_else(|| "an interface of another namespace".to_owned()),
        })
    }

    /// The programs that have a device open: by its group, or by its own file (Linux 6.6).
    fn programs(&self, state: &VfState, users: &BTreeMap<PathBuf, Vec<Process>>) -> Option<Holder> {
        if !state.in_userspace() {
            return None;
        }
        let group = state.iommu_group.map(|group| PathBuf::from(group.to_string()));
        let own = self.hardware.list(&device_path(state.pci).join("vfio-dev"));
        let own = own.unwrap_or_default();
        let own = own.iter().map(|name| Path::new("devices").join(name));
        let files: Vec<_> = group.into_iter().chain(own).collect();
        let programs: Vec<_> = files
            .iter()
            .filter_map(|file| users.get(file))
            .flatten()
            .cloned()
            .collect();
        (!programs.is_empty()).then_some(Holder::Programs { programs })
    }
}

/// `0x8086` and `10ca` alike as `8086`, `10ca`.
fn hex(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    text.strip_prefix("0x").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests;
