//! A stand-in for a host's NICs: a folder for sysfs and a table of links, which behave as the kernel does.
//!
//! What it takes over from the kernel: VFs are made only from none (EBUSY), and at most `sriov_totalvfs` (ERANGE); they come
//! with the kernel's driver unless autoprobe is off; `driver_override`, `unbind` and `drivers_probe` bind them; an admin
//! MAC reaches the VF's interface only when its driver is bound anew, and forbids it another; an interface is renamed only
//! while it is down. Beyond that a test says what is refused ([`Double::refuse`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clearway_wire::MacAddr;
use nix::errno::Errno;
use tempfile::TempDir;

use super::kernel::{list, read, target};
use super::{Hardware, Link, LinkChange, Process, Refusal, VfAdmin, VfSetting};
use crate::PciAddress;

const DEVICES: &str = "bus/pci/devices";
const DRIVERS: &str = "bus/pci/drivers";

/// A physical function to be put into a [`Double`].
#[derive(Debug, Clone)]
pub struct PfModel {
    /// Its address. Its VFs are on the same bus: one function for each.
    pub pci: PciAddress,
    /// Its interface.
    pub name: String,
    /// The most VFs.
    pub total_vfs: u16,
    /// Its driver.
    pub driver: String,
    /// The driver of its VFs.
    pub vf_driver: String,
    /// Where it hangs; -1: nowhere in particular.
    pub numa_node: i32,
    /// Whether its VFs have representors on the host (switchdev).
    pub switchdev: bool,
}

impl PfModel {
    /// An igb, on the bus of this number.
    pub fn igb(name: &str, bus: u8) -> Self {
        Self {
            pci: PciAddress {
                domain: 0,
                bus,
                device: 0,
                function: 0,
            },
            name: name.to_owned(),
            total_vfs: 7,
            driver: "igb".into(),
            vf_driver: "igbvf".into(),
            numa_node: 0,
            switchdev: false,
        }
    }
}

/// What is about to be changed, for [`Double::refuse`].
#[derive(Debug)]
pub enum Change<'a> {
    /// An attribute is written.
    Write(&'a Path, &'a str),
    /// A link is changed; its name.
    Link(&'a str, &'a LinkChange),
    /// A VF is set up.
    Vf(u16, &'a VfSetting),
}

type Refuses = Box<dyn Fn(&Change<'_>) -> bool + Send>;

/// The stand-in.
pub struct Double {
    root: TempDir,
    pfs: Vec<PfModel>,
    links: BTreeMap<u32, Link>,
    /// Links in other network namespaces.
    elsewhere: BTreeMap<u32, Link>,
    next_ifindex: u32,
    refusals: Vec<(Refuses, Errno)>,
    vfio_users: BTreeMap<PathBuf, Vec<Process>>,
    /// How many changes are carried out before everything fails, as if the caller were killed.
    life: Option<usize>,
    /// What was changed, in words.
    pub log: Vec<String>,
}

impl Double {
    /// A host with these physical functions, without any VF.
    pub fn new(pfs: Vec<PfModel>) -> io::Result<Self> {
        let mut double = Self {
            root: tempfile::tempdir()?,
            pfs: Vec::new(),
            links: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            next_ifindex: 2,
            refusals: Vec::new(),
            vfio_users: BTreeMap::new(),
            life: None,
            log: Vec::new(),
        };
        fs::create_dir_all(double.path(DEVICES))?;
        fs::create_dir_all(double.path(DRIVERS).join("vfio-pci"))?;
        for pf in pfs {
            double.add_pf(pf)?;
        }
        Ok(double)
    }

    /// Where its sysfs is.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Refuses what `which` says, with this errno.
    pub fn refuse(&mut self, which: impl Fn(&Change<'_>) -> bool + Send + 'static, errno: Errno) {
        self.refusals.push((Box::new(which), errno));
    }

    /// Refuses nothing any more, and lives.
    pub fn relent(&mut self) {
        self.refusals.clear();
        self.life = None;
    }

    /// Everything after this many changes fails, as if the caller had been killed.
    pub fn die_after(&mut self, changes: usize) {
        self.life = Some(changes);
    }

    /// Moves an interface into another network namespace.
    pub fn send_away(&mut self, name: &str) {
        let here = self.links.values().find(|link| link.name == name);
        let ifindex = here.map(|link| link.ifindex);
        if let Some(link) = ifindex.and_then(|ifindex| self.links.remove(&ifindex)) {
            self.elsewhere.insert(link.ifindex, link);
        }
    }

    /// What the kernel does with an interface when its namespace goes: it comes back as it was there, but down, with
    /// another name if its own is taken. A closure may change it before.
    pub fn come_back(&mut self, pci: PciAddress, change: impl FnOnce(&mut Link)) {
        let away = self.elsewhere.values().find(|link| link.pci == Some(pci));
        let ifindex = away.map(|link| link.ifindex);
        if let Some(mut link) = ifindex.and_then(|ifindex| self.elsewhere.remove(&ifindex)) {
            change(&mut link);
            link.up = false;
            if self.links.values().any(|other| other.name == link.name) {
                link.name = format!("dev{}", link.ifindex);
            }
            self.links.insert(link.ifindex, link);
        }
    }

    /// A link by its name, to be changed behind everybody's back.
    pub fn link_mut(&mut self, name: &str) -> Option<&mut Link> {
        self.links.values_mut().find(|link| link.name == name)
    }

    /// Another link, of no PCI function.
    pub fn add_link(&mut self, name: &str) -> u32 {
        self.insert(Link {
            name: name.to_owned(),
            ..Link::default()
        })
    }

    /// Says that a process has a device file of vfio open.
    pub fn open_vfio(&mut self, file: &str, process: Process) {
        self.vfio_users.entry(file.into()).or_default().push(process);
    }

    /// The address of a VF.
    pub fn vf(pf: PciAddress, vf: u16) -> PciAddress {
        // Routing IDs from 0x80 on: device and function are their upper five and lower three bits.
        let id = 0x80 + (vf & 0x7f);
        let byte = |value: u16| u8::try_from(value).unwrap_or(u8::MAX);
        PciAddress {
            device: byte(id >> 3),
            function: byte(id & 7),
            ..pf
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(path)
    }

    fn device(&self, pci: PciAddress) -> PathBuf {
        self.path(DEVICES).join(pci.to_string())
    }

    fn insert(&mut self, mut link: Link) -> u32 {
        link.ifindex = self.next_ifindex;
        self.next_ifindex += 1;
        let ifindex = link.ifindex;
        self.links.insert(ifindex, link);
        ifindex
    }

    fn add_pf(&mut self, pf: PfModel) -> io::Result<()> {
        let device = self.device(pf.pci);
        fs::create_dir_all(&device)?;
        let attributes = [
            ("class", "0x020000".to_owned()),
            ("vendor", "0x8086".to_owned()),
            ("device", "0x10c9".to_owned()),
            ("numa_node", pf.numa_node.to_string()),
            ("sriov_totalvfs", pf.total_vfs.to_string()),
            ("sriov_numvfs", "0".to_owned()),
            ("sriov_vf_device", "10ca".to_owned()),
            ("sriov_drivers_autoprobe", "1".to_owned()),
            ("driver_override", "(null)".to_owned()),
        ];
        for (name, value) in attributes {
            fs::write(device.join(name), value + "\n")?;
        }
        for driver in [&pf.driver, &pf.vf_driver] {
            fs::create_dir_all(self.path(DRIVERS).join(driver))?;
        }
        symlink(Path::new("../../drivers").join(&pf.driver), device.join("driver"))?;
        self.insert(Link {
            name: pf.name.clone(),
            mac: Some(MacAddr([0x52, 0, 0, 0, 0, pf.pci.bus])),
            mtu: 1500,
            up: true,
            carrier: true,
            pci: Some(pf.pci),
            port_name: pf.switchdev.then(|| "p0".to_owned()),
            switch: pf.switchdev.then(|| vec![pf.pci.bus]),
            ..Link::default()
        });
        self.pfs.push(pf);
        Ok(())
    }

    /// Whether this change is refused, or comes after the end.
    fn judge(&mut self, change: &Change<'_>) -> Result<(), Refusal> {
        if let Some(life) = &mut self.life {
            *life = life.checked_sub(1).ok_or(Errno::EOWNERDEAD)?;
        }
        self.log.push(match change {
            Change::Write(path, value) => format!("{} = {}", path.display(), value.trim_end()),
            Change::Link(name, change) => format!("{name}: {change}"),
            Change::Vf(vf, setting) => format!("vf {vf}: {setting}"),
        });
        match self.refusals.iter().find(|(refuses, _)| refuses(change)) {
            Some((_, errno)) => Err((*errno).into()),
            None => Ok(()),
        }
    }

    fn set_num_vfs(&mut self, pf: &PfModel, value: &str) -> Result<(), Refusal> {
        let wanted: u16 = value.trim().parse().map_err(|_| Errno::EINVAL)?;
        let device = self.device(pf.pci);
        let now: u16 = read(&device.join("sriov_numvfs"))?
            .parse()
            .map_err(|_| Errno::EIO)?;
        if wanted > pf.total_vfs {
            return Err(Errno::ERANGE.into());
        }
        match (now, wanted) {
            (now, wanted) if now == wanted => return Ok(()),
            (0, wanted) => {
                for vf in 0..wanted {
                    self.create_vf(pf, vf)?;
                }
            }
            (now, 0) => {
                for vf in 0..now {
                    self.destroy_vf(pf, vf)?;
                }
            }
            _ => return Err(Errno::EBUSY.into()),
        }
        Ok(fs::write(device.join("sriov_numvfs"), format!("{wanted}\n"))?)
    }

    fn create_vf(&mut self, pf: &PfModel, vf: u16) -> Result<(), Refusal> {
        let pci = Self::vf(pf.pci, vf);
        let device = self.device(pci);
        fs::create_dir_all(&device)?;
        let attributes = [
            ("class", "0x020000"),
            ("vendor", "0x8086"),
            ("device", "0x10ca"),
            ("driver_override", "(null)"),
        ];
        for (name, value) in attributes {
            fs::write(device.join(name), format!("{value}\n"))?;
        }
        fs::write(device.join("numa_node"), format!("{}\n", pf.numa_node))?;
        symlink(Path::new("..").join(pf.pci.to_string()), device.join("physfn"))?;
        let group = format!("../../../kernel/iommu_groups/{}", group_of(pci));
        symlink(group, device.join("iommu_group"))?;
        symlink(
            Path::new("..").join(pci.to_string()),
            self.device(pf.pci).join(format!("virtfn{vf}")),
        )?;
        if let Some(link) = self.links.values_mut().find(|link| link.name == pf.name) {
            let admin = VfAdmin {
                spoofchk: Some(true),
                trust: Some(false),
                ..VfAdmin::default()
            };
            link.vfs.insert(vf, admin);
        }
        if pf.switchdev {
            self.insert(Link {
                name: format!("{}_{vf}", pf.name),
                mtu: 1500,
                pci: Some(pf.pci),
                port_name: Some(format!("pf0vf{vf}")),
                switch: Some(vec![pf.pci.bus]),
                ..Link::default()
            });
        }
        self.probe(pci)
    }

    fn destroy_vf(&mut self, pf: &PfModel, vf: u16) -> Result<(), Refusal> {
        let pci = Self::vf(pf.pci, vf);
        self.unbind(pci)?;
        fs::remove_dir_all(self.device(pci))?;
        fs::remove_file(self.device(pf.pci).join(format!("virtfn{vf}")))?;
        if let Some(link) = self.links.values_mut().find(|link| link.name == pf.name) {
            link.vfs.remove(&vf);
        }
        let port = format!("pf0vf{vf}");
        self.links
            .retain(|_, link| link.pci != Some(pf.pci) || link.port_name.as_ref() != Some(&port));
        Ok(())
    }

    /// The physical function of a VF, and its number.
    fn owner(&self, pci: PciAddress) -> Option<(PfModel, u16)> {
        let pf = self.pfs.iter().find(|pf| pf.pci.bus == pci.bus)?;
        let vf = (0..pf.total_vfs).find(|vf| Self::vf(pf.pci, *vf) == pci)?;
        Some((pf.clone(), vf))
    }

    fn unbind(&mut self, pci: PciAddress) -> Result<(), Refusal> {
        match fs::remove_file(self.device(pci).join("driver")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        self.links.retain(|_, link| link.pci != Some(pci));
        self.elsewhere.retain(|_, link| link.pci != Some(pci));
        Ok(())
    }

    fn probe(&mut self, pci: PciAddress) -> Result<(), Refusal> {
        let device = self.device(pci);
        let Some((pf, vf)) = self.owner(pci) else {
            return Ok(());
        };
        if device.join("driver").exists() {
            return Ok(());
        }
        let wanted = read(&device.join("driver_override"))?;
        let autoprobe = read(&self.device(pf.pci).join("sriov_drivers_autoprobe"))? == "1";
        let driver = match wanted.as_str() {
            "(null)" if autoprobe => pf.vf_driver.clone(),
            "(null)" => return Ok(()),
            wanted => wanted.to_owned(),
        };
        if !self.path(DRIVERS).join(&driver).is_dir() {
            return Ok(());
        }
        symlink(Path::new("../../drivers").join(&driver), device.join("driver"))?;
        if driver == pf.vf_driver {
            let parent = self.links.values().find(|link| link.name == pf.name);
            let admin = parent.and_then(|link| link.vfs.get(&vf)).map(|admin| admin.mac);
            let mac = admin
                .filter(|mac| !mac.is_zero())
                .unwrap_or(MacAddr([2, 0, 0, pci.bus, 0, vf as u8]));
            self.insert(Link {
                name: format!("{}v{vf}", pf.name),
                mac: Some(mac),
                mtu: 1500,
                pci: Some(pci),
                ..Link::default()
            });
        }
        Ok(())
    }
}

/// The IOMMU group of a function: each has its own.
fn group_of(pci: PciAddress) -> u32 {
    u32::from(pci.bus) << 8 | u32::from(pci.device) << 3 | u32::from(pci.function)
}

impl Hardware for Double {
    fn read(&self, path: &Path) -> io::Result<String> {
        read(&self.path(path))
    }

    fn write(&mut self, path: &Path, value: &str) -> Result<(), Refusal> {
        self.judge(&Change::Write(path, value))?;
        // What a link leads to, as in sysfs: `virtfn0/driver/unbind`.
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let address = |text: &str| {
            text.trim()
                .parse::<PciAddress>()
                .map_err(|_| Refusal::from(Errno::ENODEV))
        };
        match name {
            "sriov_numvfs" => {
                let pci = path
                    .parent()
                    .and_then(Path::file_name)
                    .and_then(|name| name.to_str());
                let pf = self
                    .pfs
                    .iter()
                    .find(|pf| pci == Some(&pf.pci.to_string()))
                    .cloned();
                self.set_num_vfs(&pf.ok_or(Errno::ENOENT)?, value)
            }
            "unbind" => {
                let pci = address(value)?;
                let bound = path.parent().is_some_and(|driver| self.path(driver).is_dir());
                if !bound {
                    return Err(Errno::ENOENT.into());
                }
                self.unbind(pci)
            }
            "drivers_probe" => {
                let pci = address(value)?;
                if !self.device(pci).is_dir() {
                    return Err(Errno::ENODEV.into());
                }
                self.probe(pci)
            }
            _ if !self.path(path).exists() => Err(Errno::ENOENT.into()),
            "driver_override" if value.trim().is_empty() => Ok(fs::write(self.path(path), "(null)\n")?),
            _ => Ok(fs::write(self.path(path), format!("{}\n", value.trim_end()))?),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        list(&self.path(path))
    }

    fn target(&self, path: &Path) -> io::Result<String> {
        target(&self.path(path))
    }

    fn links(&self) -> Result<Vec<Link>, Refusal> {
        Ok(self.links.values().cloned().collect())
    }

    fn change_link(&mut self, ifindex: u32, change: &LinkChange) -> Result<(), Refusal> {
        let link = self.links.get(&ifindex).ok_or(Errno::ENODEV)?.clone();
        self.judge(&Change::Link(&link.name, change))?;
        let taken = |name: &String| {
            let mut others = self.links.values();
            others.any(|link| link.name == *name || link.altnames.contains(name))
        };
        let pf = |pci| self.owner(pci).map(|(pf, vf)| (pf.name, vf));
        let parent = link.pci.and_then(pf).and_then(|(name, vf)| {
            let parent = self.links.values().find(|link| link.name == name)?;
            Some((parent.mtu, parent.vfs.get(&vf).copied().unwrap_or_default()))
        });
        let mut next = link.clone();
        match change {
            LinkChange::Up(up) => next.up = *up,
            LinkChange::Name(_) if link.up => return Err(Errno::EBUSY.into()),
            LinkChange::Name(name) | LinkChange::AddAltname(name) if taken(name) => {
                return Err(Errno::EEXIST.into());
            }
            LinkChange::Name(name) => {
                for pf in self.pfs.iter_mut().filter(|pf| pf.name == link.name) {
                    pf.name.clone_from(name);
                }
                next.name.clone_from(name);
            }
            LinkChange::AddAltname(name) => next.altnames.push(name.clone()),
            LinkChange::RemoveAltname(name) if !link.altnames.contains(name) => {
                return Err(Errno::EINVAL.into());
            }
            LinkChange::RemoveAltname(name) => next.altnames.retain(|other| other != name),
            LinkChange::Mac(mac) => {
                if parent.is_some_and(|(_, admin)| !admin.mac.is_zero() && admin.mac != *mac) {
                    return Err(Errno::EADDRNOTAVAIL.into());
                }
                next.mac = Some(*mac);
            }
            LinkChange::Mtu(mtu) => {
                if *mtu > parent.map_or(9978, |(most, _)| most) {
                    return Err(Errno::EINVAL.into());
                }
                next.mtu = *mtu;
            }
        }
        self.links.insert(ifindex, next);
        Ok(())
    }

    fn set_vf(&mut self, ifindex: u32, vf: u16, setting: &VfSetting) -> Result<(), Refusal> {
        self.judge(&Change::Vf(vf, setting))?;
        let link = self.links.get_mut(&ifindex).ok_or(Errno::ENODEV)?;
        let admin = link.vfs.get_mut(&vf).ok_or(Errno::EINVAL)?;
        let wrong = match *setting {
            VfSetting::Mac(mac) => mac.is_multicast(),
            VfSetting::Vlan { vlan, qos, .. } => vlan > 4094 || qos > 7,
            VfSetting::Rate { min, max } => max != 0 && min > max,
            _ => false,
        };
        if wrong {
            return Err(Errno::EINVAL.into());
        }
        setting.take_effect(admin);
        Ok(())
    }

    fn vfio_users(&self) -> BTreeMap<PathBuf, Vec<Process>> {
        self.vfio_users.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numvfs(double: &mut Double, value: &str) -> Result<(), Errno> {
        let path = Path::new("bus/pci/devices/0000:03:00.0/sriov_numvfs");
        double.write(path, value).map_err(|refusal| refusal.errno)
    }

    #[test]
    fn it_counts_vfs_as_the_kernel_does() {
        let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
        assert_eq!(numvfs(&mut double, "8"), Err(Errno::ERANGE));
        assert_eq!(numvfs(&mut double, "4"), Ok(()));
        assert_eq!(numvfs(&mut double, "4"), Ok(()));
        assert_eq!(numvfs(&mut double, "3"), Err(Errno::EBUSY));
        assert_eq!(numvfs(&mut double, "x"), Err(Errno::EINVAL));
        assert_eq!(double.links().unwrap().len(), 5);
        assert_eq!(
            double
                .target(Path::new("bus/pci/devices/0000:03:00.0/virtfn3"))
                .unwrap(),
            "0000:03:10.3"
        );
        assert_eq!(numvfs(&mut double, "0"), Ok(()));
        assert_eq!(double.links().unwrap().len(), 1);
        assert_eq!(double.list(Path::new(DEVICES)).unwrap(), ["0000:03:00.0"]);
    }

    #[test]
    fn drivers_are_bound_as_the_kernel_does() {
        let mut double = Double::new(vec![PfModel::igb("eth1", 3)]).unwrap();
        numvfs(&mut double, "1").unwrap();
        let vf = Path::new("bus/pci/devices/0000:03:10.0");
        double.write(&vf.join("driver_override"), "vfio-pci").unwrap();
        double.write(&vf.join("driver/unbind"), "0000:03:10.0").unwrap();
        assert!(double.write(&vf.join("driver/unbind"), "0000:03:10.0").is_err());
        assert_eq!(double.links().unwrap().len(), 1);
        double
            .write(Path::new("bus/pci/drivers_probe"), "0000:03:10.0")
            .unwrap();
        assert_eq!(double.target(&vf.join("driver")).unwrap(), "vfio-pci");
        double.write(&vf.join("driver_override"), "\n").unwrap();
        assert_eq!(double.read(&vf.join("driver_override")).unwrap(), "(null)");
    }
}
