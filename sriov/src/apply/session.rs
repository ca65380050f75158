//! Single steps, one after the other, with what is known of the links in between.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::StepError;
use crate::PciAddress;
use crate::hardware::{Hardware, Link, LinkChange, Refusal, VfSetting};
use crate::inventory::{Netdev, VfState, device_path, netdev_of, vf_state};
use crate::plan::{Driver, Step, VfChange};

/// Drivers that reset a VF after its creation refuse settings for so long (EAGAIN), and some make its interface later than
/// the driver is bound.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Steps on one host. Links are listed again only after a step that may have changed which there are.
pub struct Session<'a> {
    hardware: &'a mut dyn Hardware,
    links: Option<Vec<Link>>,
}

impl<'a> Session<'a> {
    /// Begins.
    pub fn new(hardware: &'a mut dyn Hardware) -> Self {
        Self {
            hardware,
            links: None,
        }
    }

    /// Carries out one step.
    pub fn carry_out(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::NumVfs { pf, to, .. } => {
                self.links = None;
                let path = device_path(*pf).join("sriov_numvfs");
                self.write(&path, &to.to_string(), step)
            }
            Step::Pf { pf, change } => {
                let ifindex = self.interface(*pf, step)?.ifindex;
                self.links = None;
                let done = self.hardware.change_link(ifindex, change);
                done.map_err(|refusal| refused(step, refusal))
            }
            Step::Vf { pf, index, change } => match change {
                VfChange::Set(setting) => self.set(*pf, *index, setting, step),
                VfChange::Driver(driver) => self.bind(*pf, *index, driver, step),
                VfChange::Rebind => self.rebind(*pf, *index, step),
                VfChange::Netdev(change) => self.netdev(*pf, *index, change, step),
                VfChange::Look => self.state(*pf, *index, step).map(drop),
            },
        }
    }

    /// How a VF is now.
    pub fn state(&mut self, pf: PciAddress, index: u16, step: &Step) -> Result<VfState, StepError> {
        let pci = self.vf(pf, index, step)?;
        let admin = netdev_of(self.links(step)?, pf).and_then(|link| link.vfs.get(&index).copied());
        let netdev = netdev_of(self.links(step)?, pci).map(Netdev::from);
        Ok(vf_state(self.hardware, pci, admin, netdev))
    }

    /// The change that brings a link back to how it is.
    pub(super) fn link_as_it_is(
        &mut self,
        pci: PciAddress,
        change: &LinkChange,
        step: &Step,
    ) -> Result<Option<LinkChange>, StepError> {
        let link = self.interface(pci, step)?;
        Ok(match change {
            LinkChange::Up(_) => Some(LinkChange::Up(link.up)),
            LinkChange::Name(_) => Some(LinkChange::Name(link.name.clone())),
            LinkChange::Mac(_) => link.mac.map(LinkChange::Mac),
            LinkChange::Mtu(_) => Some(LinkChange::Mtu(link.mtu)),
            LinkChange::AddAltname(name) => Some(LinkChange::RemoveAltname(name.clone())),
            LinkChange::RemoveAltname(name) => Some(LinkChange::AddAltname(name.clone())),
        })
    }

    fn links(&mut self, step: &Step) -> Result<&[Link], StepError> {
        if self.links.is_none() {
            let links = self.hardware.links().map_err(|refusal| refused(step, refusal))?;
            self.links = Some(links);
        }
        Ok(self.links.as_deref().unwrap_or_default())
    }

    /// The interface of a physical function.
    fn interface(&mut self, pf: PciAddress, step: &Step) -> Result<Link, StepError> {
        let link = netdev_of(self.links(step)?, pf).cloned();
        link.ok_or_else(|| gone(step, "the interface of the physical function"))
    }

    /// The address of a VF.
    fn vf(&self, pf: PciAddress, index: u16, step: &Step) -> Result<PciAddress, StepError> {
        let link = device_path(pf).join(format!("virtfn{index}"));
        let target = self.hardware.target(&link).ok().and_then(|pci| pci.parse().ok());
        target.ok_or_else(|| gone(step, "the VF"))
    }

    fn set(&mut self, pf: PciAddress, index: u16, setting: &VfSetting, step: &Step) -> Result<(), StepError> {
        let ifindex = self.interface(pf, step)?.ifindex;
        let end = Instant::now() + PATIENCE;
        let done = loop {
            match self.hardware.set_vf(ifindex, index, setting) {
                Err(refusal) if refusal.errno == Errno::EAGAIN && Instant::now() < end => {
                    thread::sleep(PAUSE)
                }
                done => break done,
            }
        };
        let links = self.links.iter_mut().flatten();
        for link in links.filter(|link| link.ifindex == ifindex) {
            if let (Ok(()), Some(admin)) = (&done, link.vfs.get_mut(&index)) {
                setting.take_effect(admin);
            }
        }
        done.map_err(|refusal| refused(step, refusal))
    }

    fn bind(&mut self, pf: PciAddress, index: u16, driver: &Driver, step: &Step) -> Result<(), StepError> {
        let now = self.state(pf, index, step)?;
        if driver.is_of(&now) {
            return Ok(());
        }
        match driver {
            Driver::VfioPci => {
                self.only(now.pci, Some("vfio-pci"), step)?;
                self.unbind(&now, step)?;
                self.probe(now.pci, step)?;
            }
            Driver::Kernel => {
                self.only(now.pci, None, step)?;
                self.unbind(&now, step)?;
                // Without autoprobe the kernel binds a VF only to the driver that driver_override names.
                let autoprobe = device_path(pf).join("sriov_drivers_autoprobe");
                let off = self.hardware.read(&autoprobe).is_ok_and(|probe| probe == "0");
                if off {
                    self.write(&autoprobe, "1", step)?;
                }
                let probed = self.probe(now.pci, step);
                if off {
                    self.write(&autoprobe, "0", step)?;
                }
                probed?;
            }
            Driver::Saved { driver, only } => {
                if now.driver != *driver {
                    // By its name: the kernel's choice may be another one, or none without autoprobe.
                    self.only(now.pci, driver.as_deref().or(only.as_deref()), step)?;
                    self.unbind(&now, step)?;
                    if driver.is_some() {
                        self.probe(now.pci, step)?;
                    }
                }
                self.only(now.pci, only.as_deref(), step)?;
            }
        }
        self.bound(pf, index, driver, step)
    }

    /// Makes sure that a driver was bound, and waits for its interface.
    fn bound(&mut self, pf: PciAddress, index: u16, driver: &Driver, step: &Step) -> Result<(), StepError> {
        let now = self.state(pf, index, step)?;
        if !driver.is_of(&now) {
            let advice = match driver {
                Driver::VfioPci => {
                    "`modprobe vfio-pci` (the module must be loaded, and the IOMMU be on: intel_iommu=on or amd_iommu=on)"
                }
                _ => "is the module of its driver loaded? `dmesg` tells whether the driver failed",
            };
            return Err(StepError::NotBound {
                pf,
                step: step.clone(),
                pci: now.pci,
                found: Driver::of(&now).to_string(),
                advice,
            });
        }
        let end = Instant::now() + PATIENCE;
        let has_interface = now.driver.is_some() && !now.in_userspace();
        while has_interface && netdev_of(self.links(step)?, now.pci).is_none() && Instant::now() < end {
            thread::sleep(PAUSE);
            self.links = None;
        }
        Ok(())
    }

    /// Unbinds and binds the driver, unless the interface has the MAC already that was set.
    fn rebind(&mut self, pf: PciAddress, index: u16, step: &Step) -> Result<(), StepError> {
        let now = self.state(pf, index, step)?;
        let mac = now.admin.map(|admin| admin.mac);
        let (Some(netdev), Some(driver)) = (&now.netdev, &now.driver) else {
            return Ok(());
        };
        if netdev.mac == mac {
            return Ok(());
        }
        self.only(now.pci, Some(driver), step)?;
        self.unbind(&now, step)?;
        self.probe(now.pci, step)?;
        self.only(now.pci, now.driver_override.as_deref(), step)?;
        self.bound(pf, index, &Driver::of(&now), step)
    }

    fn netdev(
        &mut self,
        pf: PciAddress,
        index: u16,
        change: &LinkChange,
        step: &Step,
    ) -> Result<(), StepError> {
        let pci = self.vf(pf, index, step)?;
        let link = netdev_of(self.links(step)?, pci);
        let ifindex = link.ok_or_else(|| gone(step, "the interface of the VF"))?.ifindex;
        self.links = None;
        let done = self.hardware.change_link(ifindex, change);
        done.map_err(|refusal| refused(step, refusal))
    }

    fn only(&mut self, pci: PciAddress, driver: Option<&str>, step: &Step) -> Result<(), StepError> {
        let path = device_path(pci).join("driver_override");
        let now = self
            .hardware
            .read(&path)
            .ok()
            .filter(|now| !now.is_empty() && now != "(null)");
        if now.as_deref() == driver {
            return Ok(());
        }
        // An empty line clears it.
        self.write(&path, driver.unwrap_or("\n"), step)
    }

    fn unbind(&mut self, state: &VfState, step: &Step) -> Result<(), StepError> {
        self.links = None;
        let path = device_path(state.pci).join("driver/unbind");
        // It may have been unbound since.
        match self.hardware.write(&path, &state.pci.to_string()) {
            Err(refusal) if [Errno::ENOENT, Errno::ENODEV].contains(&refusal.errno) => Ok(()),
            done => done.map_err(|refusal| refused(step, refusal)),
        }
    }

    fn probe(&mut self, pci: PciAddress, step: &Step) -> Result<(), StepError> {
        self.links = None;
        self.write(Path::new("bus/pci/drivers_probe"), &pci.to_string(), step)
    }

    fn write(&mut self, path: &Path, value: &str, step: &Step) -> Result<(), StepError> {
        let done = self.hardware.write(path, value);
        done.map_err(|refusal| refused(step, refusal))
    }
}

fn refused(step: &Step, refusal: Refusal) -> StepError {
    StepError::Refused {
        pf: step.pf(),
        step: step.clone(),
        refusal,
    }
}

fn gone(step: &Step, what: &'static str) -> StepError {
    StepError::Gone {
        pf: step.pf(),
        step: step.clone(),
        what,
    }
}

/// The changes from how an interface is to how it was, in an order that the kernel takes: renamed while it is down.
pub(super) fn netdev_changes(saved: &Netdev, now: &Netdev) -> Vec<LinkChange> {
    let mut changes = Vec::new();
    let renamed = now.name != saved.name;
    let mac = saved.mac.filter(|_| now.mac != saved.mac);
    let mut up = now.up;
    if up && (renamed || mac.is_some()) {
        changes.push(LinkChange::Up(false));
        up = false;
    }
    // An altname that is to be the name again, before it is that.
    let extra = now.altnames.iter().filter(|name| !saved.altnames.contains(name));
    changes.extend(extra.cloned().map(LinkChange::RemoveAltname));
    if renamed {
        changes.push(LinkChange::Name(saved.name.clone()));
    }
    let missing = saved.altnames.iter().filter(|name| !now.altnames.contains(name));
    changes.extend(missing.cloned().map(LinkChange::AddAltname));
    changes.extend(mac.map(LinkChange::Mac));
    if now.mtu != saved.mtu {
        changes.push(LinkChange::Mtu(saved.mtu));
    }
    if up != saved.up {
        changes.push(LinkChange::Up(saved.up));
    }
    changes
}
