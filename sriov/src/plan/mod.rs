//! What has to be done so that the host's functions are as the configuration has them.
//!
//! ```text
//!   Sriov (desired) × Inventory (actual, with holders) ──► Plan: steps · what is refused · what waits
//! ```
//!
//! [`plan`] is a pure function: it looks at nothing and changes nothing, so its result is the dry run. The kernel goes from
//! one number of VFs to another only by way of none, so that is refused while one of them is held, with all who hold one.
//! The settings of a VF that somebody holds are that holder's: what the configuration wants of it waits until it is free.
//! VFs that are there are taken as they are: only what differs becomes a step.

mod step;

use std::collections::BTreeMap;
use std::fmt;

use clearway_config::{PfName, Sriov};
use serde::Serialize;

use crate::PciAddress;
use crate::hardware::{LinkChange, VfSetting};
use crate::inventory::{Holder, Inventory, Pf, Vf};

pub use step::{Driver, Step, VfChange, VfTarget, VfTargetSetting};

/// What has to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Planned>,
    /// What cannot be done; with one of these the plan is not carried out.
    pub refused: Vec<PlanRefusal>,
    /// What waits for a VF to be given back.
    pub waiting: Vec<Waiting>,
}

/// A step, for people too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Planned {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// The physical function as people call it.
    pub name: String,
    /// How it is now, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Who notices it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub affects: Vec<Held>,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.step)?;
        if let Some(was) = &self.was {
            write!(f, " (now: {was})")?;
        }
        match &self.affects[..] {
            [] => Ok(()),
            affected => write!(f, "; affects {}", Listed(affected)),
        }
    }
}

/// A VF that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// Its number.
    pub vf: u16,
    /// Its address.
    pub pci: PciAddress,
    /// Who.
    pub holder: Holder,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VF {} by {}", self.vf, self.holder)
    }
}

/// `VF 0 by pod a/b, VF 3 by member of br0`
struct Listed<'a>(&'a [Held]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, held) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{held}")?;
        }
        Ok(())
    }
}

/// Changes that wait for a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Waiting {
    /// The physical function.
    pub name: String,
    /// The VF, and who holds it.
    #[serde(flatten)]
    pub held: Held,
    /// What waits.
    pub changes: Vec<VfChange>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { vf, holder, .. } = &self.held;
        write!(f, "{}: VF {vf} waits for {holder}: ", self.name)?;
        for (i, change) in self.changes.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{change}")?;
        }
        Ok(())
    }
}

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum PlanRefusal {
    /// Nothing of this name.
    #[error(
        "{name} is no physical function of this host with SR-IOV, or its interface is in another network namespace: `clearway sriov list` shows them; is SR-IOV on in the BIOS?"
    )]
    NoSuchPf {
        /// The name.
        name: String,
    },
    /// Two entries for one function.
    #[error("{name} is the physical function {pci}, which {other} is too: keep one of the two")]
    SamePf {
        /// The name.
        name: String,
        /// The other one.
        other: String,
        /// The function.
        pci: PciAddress,
    },
    /// More VFs than the NIC has.
    #[error("{name} has {most} VFs at most, not {wanted}")]
    TooMany {
        /// The physical function.
        name: String,
        /// How many are wanted.
        wanted: u16,
        /// How many there may be.
        most: u16,
    },
    /// A range of VFs that are not there.
    #[error("{name} has {count} VFs, so there is no VF {vf}: write `vfs`, or another range")]
    NoSuchVf {
        /// The physical function.
        name: String,
        /// The VF.
        vf: u16,
        /// How many there are.
        count: u16,
    },
    /// VFs would have to go that somebody holds.
    #[error(
        "{name} has {from} VFs and gets {to} only by way of none, which {} held forbid: {}; delete these pods or end these programs first",
        .held.len(), Listed(.held)
    )]
    Held {
        /// The physical function.
        name: String,
        /// How many there are.
        from: u16,
        /// How many are wanted.
        to: u16,
        /// Those that are held.
        held: Vec<Held>,
    },
    /// Settings of VFs are made through the interface of their physical function.
    #[error(
        "{name} has no interface in this network namespace, so {what} can't be changed: bind its kernel driver, or bring its interface back"
    )]
    NoInterface {
        /// The physical function.
        name: String,
        /// What.
        what: &'static str,
    },
}

/// The steps for all physical functions of the configuration.
pub fn plan(desired: &Sriov, inventory: &Inventory) -> Plan {
    let mut plan = Plan::default();
    let mut seen: BTreeMap<PciAddress, &PfName> = BTreeMap::new();
    for (name, desired) in &desired.pfs {
        let Some(pf) = inventory.pf(name.as_str()) else {
            let name = name.to_string();
            plan.refused.push(PlanRefusal::NoSuchPf { name });
            continue;
        };
        if let Some(other) = seen.insert(pf.pci, name) {
            plan.refused.push(PlanRefusal::SamePf {
                name: name.to_string(),
                other: other.to_string(),
                pci: pf.pci,
            });
            continue;
        }
        let one = plan_pf(desired, pf);
        plan.steps.extend(one.steps);
        plan.refused.extend(one.refused);
        plan.waiting.extend(one.waiting);
    }
    plan
}

/// The steps for one physical function.
pub fn plan_pf(desired: &clearway_config::Pf, pf: &Pf) -> Plan {
    let mut maker = Maker {
        pf,
        plan: Plan::default(),
    };
    maker.make(desired);
    maker.plan
}

struct Maker<'a> {
    pf: &'a Pf,
    plan: Plan,
}

impl Maker<'_> {
    fn make(&mut self, desired: &clearway_config::Pf) {
        let (name, pf) = (self.pf.name(), self.pf.pci);
        let from = u16::try_from(self.pf.vfs.len()).unwrap_or(u16::MAX);
        let to = desired.vfs.unwrap_or(from);
        let again = from != to;
        let held: Vec<_> = self.pf.vfs.iter().filter_map(held).collect();
        let most = self.pf.total_vfs;
        if to > most {
            return self.refuse(PlanRefusal::TooMany {
                name,
                wanted: to,
                most,
            });
        }
        if again && !held.is_empty() {
            return self.refuse(PlanRefusal::Held { name, from, to, held });
        }
        if again && from > 0 {
            self.step(Step::NumVfs { pf, from, to: 0 }, None);
        }
        if let Some(mtu) = desired.mtu {
            self.mtu(mtu, held);
        }
        if again && to > 0 {
            self.step(Step::NumVfs { pf, from: 0, to }, None);
        }
        for range in &desired.ranges {
            let target = VfTarget::from(range);
            if let Some(vf) = range.vfs.last().filter(|last| *last >= to) {
                let name = name.clone();
                self.refuse(PlanRefusal::NoSuchVf { name, vf, count: to });
                continue;
            }
            if self.pf.netdev.is_none() && !target.settings.is_empty() {
                let (name, what) = (name.clone(), "the settings of its VFs");
                self.refuse(PlanRefusal::NoInterface { name, what });
                continue;
            }
            for index in range.vfs.iter() {
                self.vf(index, &target, !again);
            }
        }
    }

    fn mtu(&mut self, mtu: u32, held: Vec<Held>) {
        let Some(netdev) = &self.pf.netdev else {
            let (name, what) = (self.pf.name(), "its MTU");
            return self.refuse(PlanRefusal::NoInterface { name, what });
        };
        if netdev.mtu != mtu {
            let step = Step::Pf {
                pf: self.pf.pci,
                change: LinkChange::Mtu(mtu),
            };
            self.step(step, Some(netdev.mtu.to_string()));
            if let Some(planned) = self.plan.steps.last_mut() {
                planned.affects = held;
            }
        }
    }

    /// `there`: it is the VF that is there now, not one that is made.
    fn vf(&mut self, index: u16, target: &VfTarget, there: bool) {
        let vf = self.pf.vfs.iter().find(|vf| there && vf.index == index);
        let state = vf.map(|vf| &vf.state);
        let mut changes = target.changes(state);
        // A new VF gets the kernel's driver by itself.
        if state.is_none() && self.pf.autoprobe {
            changes.retain(|change| *change != VfChange::Driver(Driver::Kernel));
        }
        if changes.is_empty() {
            return;
        }
        if let Some(held) = vf.and_then(held) {
            let name = self.pf.name();
            return self.plan.waiting.push(Waiting { name, held, changes });
        }
        for change in changes {
            let was = state.and_then(|state| match &change {
                VfChange::Set(setting) => {
                    let was: VfSetting = setting.as_it_is(&state.admin?)?;
                    Some(was.to_string())
                }
                VfChange::Driver(_) => Some(Driver::of(state).to_string()),
                _ => None,
            });
            let pf = self.pf.pci;
            self.step(Step::Vf { pf, index, change }, was);
        }
    }

    fn step(&mut self, step: Step, was: Option<String>) {
        self.plan.steps.push(Planned {
            step,
            name: self.pf.name(),
            was,
            affects: Vec::new(),
        });
    }

    fn refuse(&mut self, refusal: PlanRefusal) {
        self.plan.refused.push(refusal);
    }
}

fn held(vf: &Vf) -> Option<Held> {
    Some(Held {
        vf: vf.index,
        pci: vf.state.pci,
        holder: vf.holder.clone()?,
    })
}

#[cfg(test)]
mod tests;
