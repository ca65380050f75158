//! What this crate asks of the host: sysfs, and links with their VFs. Nothing else of it touches the kernel.
//!
//! ```text
//!   inventory, apply, saved ──► Hardware ──┬─► Kernel: /sys and a netlink socket
//!                                          └─► double::Double: a folder and a table that behave alike, for tests
//! ```
//!
//! Everything changes one thing at a time, so that a refusal has one errno that belongs to one thing. Links are those of
//! one network namespace: with [`Kernel`] that of the thread that opened it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clearway_config::{TagProtocol, VfLinkState};
use clearway_wire::MacAddr;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::PciAddress;

#[cfg(any(test, feature = "double"))]
pub mod double;
mod kernel;
mod netlink;

pub use kernel::Kernel;

/// What the host has and what can be changed of it. Paths are relative to the root of sysfs.
pub trait Hardware {
    /// The text of an attribute, without the end of its line.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Writes an attribute, in one call. Waits for the driver: creating VFs takes seconds.
    fn write(&mut self, path: &Path, value: &str) -> Result<(), Refusal>;

    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// The last part of what a symbolic link points to: the name of a driver, the address of a function.
    fn target(&self, path: &Path) -> io::Result<String>;

    /// All links of the network namespace, with the settings of their VFs.
    fn links(&self) -> Result<Vec<Link>, Refusal>;

    /// Changes one thing of a link.
    fn change_link(&mut self, ifindex: u32, change: &LinkChange) -> Result<(), Refusal>;

    /// Changes one thing of a VF by way of the link of its physical function.
    fn set_vf(&mut self, ifindex: u32, vf: u16, setting: &VfSetting) -> Result<(), Refusal>;

    /// The processes that have device files of vfio open, by the file's path below `/dev/vfio`: `12`, `devices/vfio0`.
    fn vfio_users(&self) -> BTreeMap<PathBuf, Vec<Process>>;
}

/// A process, as people look for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its other names.
    pub altnames: Vec<String>,
    /// Its MAC address, if it is an Ethernet interface.
    pub mac: Option<MacAddr>,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a link.
    pub carrier: bool,
    /// The number of the bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// The PCI function that it belongs to.
    pub pci: Option<PciAddress>,
    /// The name of its port on a switch: `p0`, `pf0vf3`.
    pub port_name: Option<String>,
    /// Which switch that is: ports of one switch have the same.
    pub switch: Option<Vec<u8>>,
    /// The settings of its VFs, by their numbers. Only of a physical function.
    pub vfs: BTreeMap<u16, VfAdmin>,
}

/// What a physical function says of one of its VFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VfAdmin {
    /// The MAC address; zero: none is set, the VF's driver chooses.
    pub mac: MacAddr,
    /// The VLAN that the NIC puts it into; 0: none.
    pub vlan: u16,
    /// The priority in that tag.
    pub qos: u8,
    /// The protocol of that tag.
    pub vlan_proto: TagProtocol,
    /// Whether sources are checked; `None`: the driver doesn't say.
    pub spoofchk: Option<bool>,
    /// Whether it is trusted; `None`: the driver doesn't say.
    pub trust: Option<bool>,
    /// Mbit/s that it may send at in any case; 0: none.
    pub min_tx_rate: u32,
    /// The most Mbit/s that it sends; 0: no limit.
    pub max_tx_rate: u32,
    /// The link that it sees.
    pub link_state: VfLinkState,
}

impl Default for VfAdmin {
    fn default() -> Self {
        Self {
            mac: MacAddr::ZERO,
            vlan: 0,
            qos: 0,
            vlan_proto: TagProtocol::Dot1q,
            spoofchk: None,
            trust: None,
            min_tx_rate: 0,
            max_tx_rate: 0,
            link_state: VfLinkState::Auto,
        }
    }
}

/// One setting of a VF: what one request to the kernel changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfSetting {
    /// The MAC address; zero: none.
    Mac(MacAddr),
    /// The VLAN.
    #[serde(rename_all = "kebab-case")]
    Vlan {
        /// 0: none.
        vlan: u16,
        /// Its priority.
        qos: u8,
        /// Its protocol.
        proto: TagProtocol,
    },
    /// Whether sources are checked.
    Spoofchk(bool),
    /// Whether it is trusted.
    Trust(bool),
    /// Rates in Mbit/s, 0: none.
    Rate {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// The link that it sees.
    LinkState(VfLinkState),
}

impl VfSetting {
    /// What this sets, as it is now; `None`: the driver doesn't say.
    pub fn as_it_is(&self, now: &VfAdmin) -> Option<VfSetting> {
        Some(match self {
            VfSetting::Mac(_) => VfSetting::Mac(now.mac),
            VfSetting::Vlan { .. } => VfSetting::Vlan {
                vlan: now.vlan,
                qos: now.qos,
                proto: now.vlan_proto,
            },
            VfSetting::Spoofchk(_) => VfSetting::Spoofchk(now.spoofchk?),
            VfSetting::Trust(_) => VfSetting::Trust(now.trust?),
            VfSetting::Rate { .. } => VfSetting::Rate {
                min: now.min_tx_rate,
                max: now.max_tx_rate,
            },
            VfSetting::LinkState(_) => VfSetting::LinkState(now.link_state),
        })
    }

    /// What the settings are with this one.
    pub(crate) fn take_effect(&self, admin: &mut VfAdmin) {
        match *self {
            VfSetting::Mac(mac) => admin.mac = mac,
            VfSetting::Vlan { vlan, qos, proto } => {
                (admin.vlan, admin.qos, admin.vlan_proto) = (vlan, qos, proto);
            }
            VfSetting::Spoofchk(on) => admin.spoofchk = Some(on),
            VfSetting::Trust(on) => admin.trust = Some(on),
            VfSetting::Rate { min, max } => (admin.min_tx_rate, admin.max_tx_rate) = (min, max),
            VfSetting::LinkState(state) => admin.link_state = state,
        }
    }
}

impl fmt::Display for VfSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: &bool| if *on { "on" } else { "off" };
        match self {
            VfSetting::Mac(mac) if mac.is_zero() => f.write_str("no MAC of its own"),
            VfSetting::Mac(mac) => write!(f, "MAC {mac}"),
            VfSetting::Vlan { vlan: 0, .. } => f.write_str("no VLAN"),
            VfSetting::Vlan { vlan, qos, proto } => {
                write!(f, "VLAN {vlan}")?;
                if *qos != 0 {
                    write!(f, " qos {qos}")?;
                }
                match proto {
                    TagProtocol::Dot1q => Ok(()),
                    TagProtocol::Dot1ad => f.write_str(" proto 802.1ad"),
                }
            }
            VfSetting::Spoofchk(set) => write!(f, "spoofchk {}", on(set)),
            VfSetting::Trust(set) => write!(f, "trust {}", on(set)),
            VfSetting::Rate { min, max } => write!(f, "min-tx-rate {min} max-tx-rate {max} Mbit/s"),
            VfSetting::LinkState(state) => write!(f, "link-state {state}"),
        }
    }
}

/// One change of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkChange {
    /// Administratively up or down.
    Up(bool),
    /// Another name; older kernels take it only while the link is down.
    Name(String),
    /// One more name.
    AddAltname(String),
    /// One name less.
    RemoveAltname(String),
    /// Another MAC address.
    Mac(MacAddr),
    /// Another MTU.
    Mtu(u32),
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkChange::Up(true) => f.write_str("up"),
            LinkChange::Up(false) => f.write_str("down"),
            LinkChange::Name(name) => write!(f, "name {name}"),
            LinkChange::AddAltname(name) => write!(f, "altname {name}"),
            LinkChange::RemoveAltname(name) => write!(f, "no altname {name}"),
            LinkChange::Mac(mac) => write!(f, "MAC {mac}"),
            LinkChange::Mtu(mtu) => write!(f, "MTU {mtu}"),
        }
    }
}

/// What the kernel answered instead of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub errno: Errno,
    /// The kernel's own words (netlink's extended acknowledgement), if it gave any.
    pub explanation: Option<String>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            explanation: None,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            // Without a number it is an error of ours: text where there should be text.
            errno: error.raw_os_error().map_or(Errno::EBADMSG, Errno::from_raw),
            explanation: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.errno.desc(), self.errno)?;
        match &self.explanation {
            Some(text) => write!(f, ", the kernel says: {text}"),
            None => Ok(()),
        }
    }
}
