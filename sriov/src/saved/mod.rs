//! Leases: which VF was handed out to whom, and how it was before.
//!
//! ```text
//!   take ──► VfLease (journal it!) ──► steps to how it shall be ──► … ──► give_back ──► as it was
//!            generation, saved state                               an old generation: nothing happens
//! ```
//!
//! Guarantees: [`Leases::take`] changes nothing of the host, so what it returns can be on disk before the first change; the
//! way back is computed from what is saved and what is there, so it may be begun again after a crash at any step, and what
//! is so already is left alone; a VF that was handed out again since is not touched by who had it before.
//!
//! Left to the caller: to keep [`Leases`] on disk (take → write → change; give back → write), and to bring an interface back
//! from the namespace of a pod that still lives. When a namespace goes, the kernel brings it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::PciAddress;
use crate::apply::{Phase, Session, StepError, changes_back};
use crate::hardware::Hardware;
use crate::inventory::{Holder, Holders, Inventory, InventoryError, VfState};
use crate::plan::{Step, VfTarget};

/// All leases of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Leases {
    /// The generation of the last lease.
    last: u64,
    leases: Vec<VfLease>,
}

/// A VF that was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VfLease {
    /// Which lease of this host that is; each has its own.
    pub generation: u64,
    /// To whom, in words: `pod default/web-0`.
    pub holder: String,
    /// The physical function.
    pub pf: PciAddress,
    /// The number of the VF.
    pub index: u16,
    /// How it was before.
    pub saved: VfState,
    /// It is being given back: nobody has it any more, but it is not yet as it was.
    #[serde(default)]
    pub returning: bool,
}

/// What became of giving back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// The VF is as it was, and free.
    Restored,
    /// There is no such VF any more; the lease is gone.
    NoSuchVf,
    /// This lease ended before; nothing was touched.
    Late,
}

/// Why a VF was not handed out or not given back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The host can't be looked at.
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    /// No VF.
    #[error("there is no VF {0} on this host; `clearway sriov list` shows which there are")]
    NoSuchVf(PciAddress),
    /// Somebody has it.
    #[error("VF {pci} is held: {holder}; it is free when that gives it back")]
    Held {
        /// The VF.
        pci: PciAddress,
        /// Who.
        holder: Holder,
    },
    /// Its interface is still with the pod.
    #[error(
        "the interface of VF {pci} is still in another network namespace, that of {holder}; it is restored when it comes back"
    )]
    Away {
        /// The VF.
        pci: PciAddress,
        /// Who had it.
        holder: String,
    },
    /// Something of it could not be restored.
    #[error("VF {pci} is not as it was before: {}", .left.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotRestored {
        /// The VF.
        pci: PciAddress,
        /// What.
        left: Vec<StepError>,
    },
}

impl Leases {
    /// Hands out a VF that is free: takes down how it is, and changes nothing.
    pub fn take(
        &mut self,
        hardware: &dyn Hardware,
        pci: PciAddress,
        holder: &str,
    ) -> Result<&VfLease, LeaseError> {
        let inventory = Inventory::read(hardware, &self.holders())?;
        let (pf, vf) = inventory.vf(pci).ok_or(LeaseError::NoSuchVf(pci))?;
        if let Some(holder) = &vf.holder {
            let holder = holder.clone();
            return Err(LeaseError::Held { pci, holder });
        }
        self.last += 1;
        self.leases.push(VfLease {
            generation: self.last,
            holder: holder.to_owned(),
            pf: pf.pci,
            index: vf.index,
            saved: vf.state.clone(),
            returning: false,
        });
        Ok(&self.leases[self.leases.len() - 1])
    }

    /// Takes down a lease that was on disk. Of two for one VF the later counts: the other one's end was not written.
    pub fn hold(&mut self, lease: VfLease) {
        self.last = self.last.max(lease.generation);
        let there = self
            .leases
            .iter()
            .position(|held| held.saved.pci == lease.saved.pci);
        match there {
            Some(at) if self.leases[at].generation < lease.generation => self.leases[at] = lease,
            Some(_) => {}
            None => self.leases.push(lease),
        }
    }

    /// Makes a VF as it was before its lease of this generation, and ends that. After an error the lease is still there,
    /// and this may be called again.
    pub fn give_back(
        &mut self,
        hardware: &mut dyn Hardware,
        pci: PciAddress,
        generation: u64,
    ) -> Result<Returned, LeaseError> {
        let wanted = |lease: &VfLease| lease.generation == generation && lease.saved.pci == pci;
        let Some(at) = self.leases.iter().position(wanted) else {
            return Ok(Returned::Late);
        };
        self.leases[at].returning = true;
        let returned = self.leases[at].restore(hardware)?;
        self.leases.remove(at);
        Ok(returned)
    }

    /// Ends a lease without touching the VF: what could not be restored is left to people.
    pub fn forget(&mut self, pci: PciAddress, generation: u64) -> Option<VfLease> {
        let wanted = |lease: &VfLease| lease.generation == generation && lease.saved.pci == pci;
        let at = self.leases.iter().position(wanted)?;
        Some(self.leases.remove(at))
    }

    /// The lease of a VF.
    pub fn get(&self, pci: PciAddress) -> Option<&VfLease> {
        self.iter().find(|lease| lease.saved.pci == pci)
    }

    /// All leases, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &VfLease> {
        self.leases.iter()
    }

    /// Who holds which VF, for [`Inventory::read`].
    pub fn holders(&self) -> Holders {
        let holder = |lease: &VfLease| Holder::Lease {
            holder: lease.holder.clone(),
            generation: lease.generation,
        };
        let all = self.iter().map(|lease| (lease.saved.pci, holder(lease)));
        all.collect::<BTreeMap<_, _>>()
    }
}

impl VfLease {
    /// The steps from how the VF is now to how its holder shall have it, for [`apply_steps`](crate::apply::apply_steps).
    pub fn steps(&self, hardware: &mut dyn Hardware, target: &VfTarget) -> Result<Vec<Step>, StepError> {
        let now = self.now(&mut Session::new(hardware))?;
        Ok(self.of(target.changes(Some(&now))))
    }

    /// The steps back to how it was, as far as they are known now: the interface's come when its driver is back.
    pub fn steps_back(&self, hardware: &mut dyn Hardware) -> Result<Vec<Step>, StepError> {
        let now = self.now(&mut Session::new(hardware))?;
        let function = self.of(changes_back(&self.saved, &now, Phase::Function));
        if !function.is_empty() {
            return Ok(function);
        }
        Ok(self.of(changes_back(&self.saved, &now, Phase::Interface)))
    }

    fn now(&self, session: &mut Session<'_>) -> Result<VfState, StepError> {
        session.state(self.pf, self.index, &Step::look(self.pf, self.index))
    }

    fn of(&self, changes: Vec<crate::plan::VfChange>) -> Vec<Step> {
        let (pf, index) = (self.pf, self.index);
        let step = |change| Step::Vf { pf, index, change };
        changes.into_iter().map(step).collect()
    }

    fn restore(&self, hardware: &mut dyn Hardware) -> Result<Returned, LeaseError> {
        let pci = self.saved.pci;
        let mut session = Session::new(hardware);
        match self.now(&mut session) {
            // The same number, but another function: VFs were made anew on another bus.
            Ok(now) if now.pci == pci => {}
            _ => return Ok(Returned::NoSuchVf),
        }
        let left = crate::apply::restore(&mut session, self.pf, self.index, &self.saved);
        if !left.is_empty() {
            return Err(LeaseError::NotRestored { pci, left });
        }
        let now = self.now(&mut session);
        if self.saved.netdev.is_some() && now.is_ok_and(|now| now.netdev.is_none()) {
            let holder = self.holder.clone();
            return Err(LeaseError::Away { pci, holder });
        }
        Ok(Returned::Restored)
    }
}

#[cfg(test)]
mod tests;
