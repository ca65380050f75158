//! Steps: what one request changes, one thing each.

use std::fmt;

use clearway_config::{VfDriver, VfRange};
use serde::{Deserialize, Serialize};

use crate::PciAddress;
use crate::hardware::{LinkChange, VfAdmin, VfSetting};
use crate::inventory::VfState;

/// One change of the host. Done twice, it changes nothing the second time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Another number of VFs; one of the two is 0.
    #[serde(rename_all = "kebab-case")]
    NumVfs {
        /// Of which physical function.
        pf: PciAddress,
        /// How many there are.
        from: u16,
        /// How many there will be.
        to: u16,
    },
    /// A change of a physical function's interface.
    #[serde(rename_all = "kebab-case")]
    Pf {
        /// Which.
        pf: PciAddress,
        /// What.
        change: LinkChange,
    },
    /// A change of a VF.
    #[serde(rename_all = "kebab-case")]
    Vf {
        /// Of which physical function.
        pf: PciAddress,
        /// Which.
        index: u16,
        /// What.
        change: VfChange,
    },
}

impl Step {
    /// Looks at a VF: changes nothing of it, but may be what failed.
    pub(crate) fn look(pf: PciAddress, index: u16) -> Step {
        let change = VfChange::Look;
        Step::Vf { pf, index, change }
    }

    /// The physical function that it is about.
    pub fn pf(&self) -> PciAddress {
        match self {
            Step::NumVfs { pf, .. } | Step::Pf { pf, .. } | Step::Vf { pf, .. } => *pf,
        }
    }
}

/// A change of a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfChange {
    /// A setting that its physical function keeps.
    Set(VfSetting),
    /// Another driver.
    Driver(Driver),
    /// The same driver anew, so that the VF sees the MAC address that was set.
    Rebind,
    /// A change of its interface.
    Netdev(LinkChange),
    /// None: it is only looked at.
    Look,
}

/// A driver for a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// The one that the kernel chooses for it.
    Kernel,
    /// `vfio-pci`.
    VfioPci,
    /// As it was.
    #[serde(rename_all = "kebab-case")]
    Saved {
        /// Its name; `None`: none.
        driver: Option<String>,
        /// `driver_override`.
        only: Option<String>,
    },
}

impl Driver {
    /// As the VF has it now.
    pub fn of(state: &VfState) -> Driver {
        Driver::Saved {
            driver: state.driver.clone(),
            only: state.driver_override.clone(),
        }
    }

    /// Whether a VF has it.
    pub fn is_of(&self, state: &VfState) -> bool {
        match self {
            Driver::Kernel => state.driver.is_some() && !state.in_userspace(),
            Driver::VfioPci => state.driver.as_deref() == Some("vfio-pci"),
            saved => *saved == Driver::of(state),
        }
    }
}

impl From<VfDriver> for Driver {
    fn from(driver: VfDriver) -> Self {
        match driver {
            VfDriver::Kernel => Driver::Kernel,
            VfDriver::VfioPci => Driver::VfioPci,
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Driver::Kernel => f.write_str("the kernel's driver"),
            Driver::VfioPci => f.write_str("driver vfio-pci"),
            Driver::Saved { driver: None, .. } => f.write_str("no driver"),
            Driver::Saved {
                driver: Some(driver), ..
            } => write!(f, "driver {driver}"),
        }
    }
}

impl fmt::Display for VfChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VfChange::Set(setting) => setting.fmt(f),
            VfChange::Driver(driver) => driver.fmt(f),
            VfChange::Rebind => f.write_str("bind its driver anew, for the MAC"),
            VfChange::Netdev(change) => write!(f, "interface: {change}"),
            VfChange::Look => f.write_str("look at it"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::NumVfs { from, to: 0, .. } => write!(f, "remove {from} VFs"),
            Step::NumVfs { to, .. } => write!(f, "create {to} VFs"),
            Step::Pf { change, .. } => change.fmt(f),
            Step::Vf { index, change, .. } => write!(f, "VF {index}: {change}"),
        }
    }
}

/// How a VF shall be set up; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct VfTarget {
    /// Settings of the physical function.
    pub settings: Vec<VfTargetSetting>,
    /// The driver.
    pub driver: Option<Driver>,
    /// The interface.
    pub netdev: Vec<LinkChange>,
}

/// A setting, of which a part may stay as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfTargetSetting {
    /// The whole.
    Whole(VfSetting),
    /// One or both rates.
    #[serde(rename_all = "kebab-case")]
    Rates {
        /// The least.
        min: Option<u32>,
        /// The most.
        max: Option<u32>,
    },
}

impl VfTarget {
    /// The changes that are needed; `None`: of a VF that does not exist yet.
    pub fn changes(&self, now: Option<&VfState>) -> Vec<VfChange> {
        let admin = now.and_then(|state| state.admin);
        let mut changes: Vec<_> = self
            .settings
            .iter()
            .filter_map(|setting| setting.needed(now.map(|_| admin.unwrap_or_default()).as_ref()))
            .map(VfChange::Set)
            .collect();
        let driver = self.driver.as_ref().filter(|driver| match now {
            Some(state) => !driver.is_of(state),
            None => true,
        });
        let mac = |change: &VfChange| matches!(change, VfChange::Set(VfSetting::Mac(mac)) if !mac.is_zero());
        match driver {
            Some(driver) => changes.push(VfChange::Driver(driver.clone())),
            None if changes.iter().any(mac) && now.is_none_or(|state| state.netdev.is_some()) => {
                changes.push(VfChange::Rebind);
            }
            None => {}
        }
        changes.extend(self.netdev.iter().cloned().map(VfChange::Netdev));
        changes
    }
}

impl VfTargetSetting {
    /// The setting, unless it is so already.
    fn needed(&self, now: Option<&VfAdmin>) -> Option<VfSetting> {
        let rates = now.map_or((0, 0), |now| (now.min_tx_rate, now.max_tx_rate));
        let wanted = match *self {
            VfTargetSetting::Whole(setting) => setting,
            VfTargetSetting::Rates { min, max } => VfSetting::Rate {
                min: min.unwrap_or(rates.0),
                max: max.unwrap_or(rates.1),
            },
        };
        let is = wanted.as_it_is(&now.copied().unwrap_or_default());
        (is != Some(wanted)).then_some(wanted)
    }
}

impl From<&VfRange> for VfTarget {
    fn from(range: &VfRange) -> Self {
        let vlan = range.vlan.map(|vlan| VfSetting::Vlan {
            vlan,
            qos: range.qos.unwrap_or(0),
            proto: range.vlan_proto.unwrap_or(clearway_config::TagProtocol::Dot1q),
        });
        let whole = [
            range.mac.map(VfSetting::Mac),
            vlan,
            range.trust.map(VfSetting::Trust),
            range.spoofchk.map(VfSetting::Spoofchk),
            range.link_state.map(VfSetting::LinkState),
        ];
        let mut settings: Vec<_> = whole.into_iter().flatten().map(VfTargetSetting::Whole).collect();
        if range.min_tx_rate.is_some() || range.max_tx_rate.is_some() {
            settings.push(VfTargetSetting::Rates {
                min: range.min_tx_rate,
                max: range.max_tx_rate,
            });
        }
        Self {
            settings,
            driver: range.driver.map(Driver::from),
            netdev: Vec::new(),
        }
    }
}
