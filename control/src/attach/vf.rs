//! The VFs of this host, as attachments use them: on lease, with what their pods want of them.
//!
//! ```text
//!   take (changes nothing) ─► the attachment's record, with the lease ─► set ─► … ─► give_back: as it was before
//! ```
//!
//! Guarantees: one change after the other, whoever asks; each may be made again after a crash. The leases are those of the
//! records: with the record a lease ends for good, and what is done for a lease that has ended touches nothing.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clearway_config::TagProtocol;
use clearway_config::attach::{Attach, VfSettings};
use clearway_sriov::apply::{ApplyError, Session, StepError, apply_steps};
use clearway_sriov::hardware::{Hardware, Kernel, VfSetting};
use clearway_sriov::inventory::{Netdev, VfState};
use clearway_sriov::plan::{Step, VfChange, VfTarget, VfTargetSetting};
use clearway_sriov::saved::{LeaseError, Leases, VfLease};
use clearway_sriov::{PciAddress, PciAddressError};

use crate::handle::ErrorCode;

/// An interface comes back so much later than its namespace goes.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// Why something with a VF failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VfError {
    /// No netlink.
    #[error("opening a netlink socket failed: {0}; is a seccomp filter in the way?")]
    Open(#[source] io::Error),
    /// No address.
    #[error("{device:?} is no PCI address: {reason}")]
    Address {
        /// What was said.
        device: String,
        /// Why.
        reason: PciAddressError,
    },
    /// It can't be had, or not be given back yet.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// It can't be looked at.
    #[error(transparent)]
    Step(#[from] StepError),
    /// It can't be as the pod wants it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// It is nobody's.
    #[error(
        "VF {0} has no driver: bind the kernel's, for an interface in the pod, or `vfio-pci`, for a program that drives it \
         (`driver` of its range in the section `sriov` of the configuration)"
    )]
    NoDriver(PciAddress),
    /// Nor here, nor in the pod.
    #[error(
        "VF {0} has no interface on the host, and none in the pod: was its driver unbound? Detach the pod and attach it again"
    )]
    NoInterface(PciAddress),
}

impl VfError {
    /// What kind of failure it is.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Address { .. } => ErrorCode::BadRequest,
            Self::Lease(LeaseError::NoSuchVf(_)) => ErrorCode::NotFound,
            Self::Lease(LeaseError::Held { .. }) | Self::NoDriver(_) => ErrorCode::Conflict,
            _ => ErrorCode::Failed,
        }
    }
}

/// The VFs of this host.
pub(super) struct Vfs(Mutex<Functions>);

struct Functions {
    /// Opened when it is needed first: most hosts never do.
    hardware: Option<Box<dyn Hardware + Send>>,
    leases: Leases,
}

impl Functions {
    fn parts(&mut self) -> Result<(&mut dyn Hardware, &mut Leases), VfError> {
        let hardware = match self.hardware.take() {
            Some(hardware) => hardware,
            None => Box::new(Kernel::open().map_err(VfError::Open)?),
        };
        Ok((&mut **self.hardware.insert(hardware), &mut self.leases))
    }
}

impl Vfs {
    /// On this hardware; none: the host's.
    pub(super) fn new(hardware: Option<Box<dyn Hardware + Send>>) -> Self {
        Self(Mutex::new(Functions {
            hardware,
            leases: Leases::default(),
        }))
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut dyn Hardware, &mut Leases) -> Result<T, VfError>,
    ) -> Result<T, VfError> {
        let mut functions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (hardware, leases) = functions.parts()?;
        work(hardware, leases)
    }

    /// Hands out a VF that is free. Nothing is changed.
    pub(super) fn take(&self, device: &str, holder: &str) -> Result<VfLease, VfError> {
        let pci: PciAddress = device.parse().map_err(|reason| VfError::Address {
            device: device.to_owned(),
            reason,
        })?;
        self.with(|hardware, leases| {
            let lease = leases.take(hardware, pci, holder)?.clone();
            if lease.saved.driver.is_none() {
                leases.forget(pci, lease.generation);
                return Err(VfError::NoDriver(pci));
            }
            Ok(lease)
        })
    }

    /// A lease that is on disk.
    pub(super) fn hold(&self, lease: &VfLease) {
        let mut functions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        functions.leases.hold(lease.clone());
    }

    /// A lease that did not get there.
    pub(super) fn forget(&self, lease: &VfLease) {
        let mut functions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        functions.leases.forget(lease.saved.pci, lease.generation);
    }

    /// Whether a lease has not ended.
    pub(super) fn is_held(&self, lease: &VfLease) -> bool {
        let functions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = functions.leases.get(lease.saved.pci);
        held.is_some_and(|held| held.generation == lease.generation)
    }

    /// What is to be changed so that it is as its pod wants it.
    pub(super) fn missing(&self, lease: &VfLease, target: &VfTarget) -> Result<Vec<Step>, VfError> {
        self.with(|hardware, _| Ok(lease.steps(hardware, target)?))
    }

    /// Has it be as its pod wants it; on an error it is as it was.
    pub(super) fn set(&self, lease: &VfLease, target: &VfTarget) -> Result<(), VfError> {
        self.with(|hardware, _| {
            let steps = lease.steps(hardware, target)?;
            apply_steps(hardware, &steps)?;
            Ok(())
        })
    }

    /// Its interface, if it is on the host now.
    pub(super) fn interface(&self, lease: &VfLease) -> Result<Option<Netdev>, VfError> {
        let (pf, index) = (lease.pf, lease.index);
        let look = Step::Vf {
            pf,
            index,
            change: VfChange::Look,
        };
        let now: VfState = self.with(|hardware, _| Ok(Session::new(hardware).state(pf, index, &look)?))?;
        Ok(now.netdev.filter(|_| now.pci == lease.saved.pci))
    }

    /// It is as it was before, and its lease ends; a lease that has ended touches nothing.
    pub(super) fn give_back(&self, lease: &VfLease) -> Result<(), VfError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (pci, generation) = (lease.saved.pci, lease.generation);
            let returned = self.with(|hardware, leases| Ok(leases.give_back(hardware, pci, generation)?));
            match returned {
                Err(VfError::Lease(LeaseError::Away { .. })) if Instant::now() < end => thread::sleep(PAUSE),
                returned => return returned.map(drop),
            }
        }
    }
}

/// What a pod wants of its VF.
pub(super) fn target(wanted: &Attach) -> VfTarget {
    let vf = wanted.vf.clone().unwrap_or_default();
    let vlan = vf.vlan.map(|vlan| VfSetting::Vlan {
        vlan,
        qos: vf.qos.unwrap_or(0),
        proto: vf.vlan_proto.unwrap_or(TagProtocol::Dot1q),
    });
    let whole = [
        wanted.mac.map(VfSetting::Mac),
        vlan,
        vf.trust.map(VfSetting::Trust),
        vf.spoofchk.map(VfSetting::Spoofchk),
        vf.link_state.map(VfSetting::LinkState),
    ];
    let whole = whole.into_iter().flatten().map(VfTargetSetting::Whole);
    let (min, max) = (vf.min_tx_rate, vf.max_tx_rate);
    let rates = (min.is_some() || max.is_some()).then_some(VfTargetSetting::Rates { min, max });
    VfTarget {
        settings: whole.chain(rates).collect(),
        ..VfTarget::default()
    }
}

/// Whether this can be wanted of any VF.
pub(super) fn check(vf: &VfSettings) -> Result<(), String> {
    let VfSettings { vlan, qos, .. } = vf;
    if vlan.is_some_and(|vlan| vlan > 4094) {
        return Err("the VLAN of a VF is 0 to 4094".to_owned());
    }
    if qos.is_some_and(|qos| qos > 7) {
        return Err("the priority of a VF's VLAN is 0 to 7".to_owned());
    }
    if vlan.is_none() && (qos.is_some() || vf.vlan_proto.is_some()) {
        return Err("`qos` and `vlan-proto` are said of a VLAN, and `vlan` names none".to_owned());
    }
    Ok(())
}
