//! A NIC with VFs that pods can be given: what its driver knows is the sriov crate's stand-in, and each VF's interface is one
//! of the kernel's, of another kind, that goes into namespaces and comes back as a device's does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use clearway_sriov::PciAddress;
use clearway_sriov::hardware::double::{Double, PfModel};
use clearway_sriov::hardware::{Hardware, Link, LinkChange, Process, Refusal, VfSetting};
use clearway_sriov::inventory::{Holders, Inventory, VfState};
use nix::errno::Errno;

use crate::host::pod::DEVICE;
use crate::host::pod::testbed::ip;
use crate::host::testing::sh;

/// Outlives daemons.
#[derive(Clone)]
pub(super) struct Nic(Arc<Mutex<Double>>);

impl Nic {
    /// With two VFs of the kernel's and one that is a program's, each already set up by somebody.
    pub(super) fn new() -> Self {
        let double = Double::new(vec![PfModel::igb("eth1", 3)]).expect("a folder");
        let mut nic = Self(Arc::new(Mutex::new(double)));
        let pf = "bus/pci/devices/0000:03:00.0/sriov_numvfs";
        nic.write(Path::new(pf), "3").expect("none is there");
        let program = Path::new("bus/pci/devices/0000:03:10.2");
        for (file, value) in [
            ("driver_override", "vfio-pci"),
            ("driver/unbind", "0000:03:10.2"),
            ("../../drivers_probe", "0000:03:10.2"),
        ] {
            nic.write(&program.join(file), value).expect("it is bound");
        }
        for index in 0..3 {
            let rates = VfSetting::Rate { min: 0, max: 700 };
            nic.lock().set_vf(2, index, &rates).expect("it is there");
        }
        sh("ip link set eth1v0 mtu 1450 && ip link set eth1v0 up");
        nic
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Double> {
        self.0.lock().expect("no panic")
    }

    pub(super) fn pci(index: u16) -> String {
        Double::vf(PfModel::igb("", 3).pci, index).to_string()
    }

    /// All that a lease gives back.
    pub(super) fn state(&self, index: u16) -> VfState {
        let inventory = Inventory::read(self, &Holders::new()).expect("it can be read");
        let pci = Self::pci(index).parse().expect("an address");
        let mut state = inventory.vf(pci).expect("it is there").1.state.clone();
        if let Some(netdev) = &mut state.netdev {
            (netdev.ifindex, netdev.carrier) = (0, false);
        }
        state
    }

    /// What the kernel does with a device's interface when its namespace goes, and not with one of this kind.
    pub(super) fn comes_back(&self, index: u16, name: &str) {
        make(name, &Self::pci(index), "02:00:00:00:00:77");
    }

    /// The links of VFs that the stand-in has, by their address.
    fn known(&self) -> BTreeMap<PciAddress, Link> {
        let links = self.lock().links().expect("a table");
        let vfs = links.into_iter().filter(|link| link.vfs.is_empty());
        let vfs = vfs.filter(|link| link.name != "eth1");
        vfs.filter_map(|link| Some((link.pci?, link))).collect()
    }
}

fn make(name: &str, pci: &str, mac: &str) {
    // The kernel wants another number for each, and one that has just gone may still have its own.
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    sh(&format!(
        "ip link add {name} address {mac} mtu 1500 type {DEVICE} id {number} dstport 4799 && ip link set {name} alias {pci}"
    ));
}

/// The interfaces of VFs in this namespace.
fn here() -> Vec<Link> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let links = ip("link show").into_iter().filter_map(|link| {
        Some(Link {
            pci: Some(text(&link["ifalias"])?.parse().ok()?),
            ifindex: link["ifindex"].as_u64()?.try_into().ok()?,
            name: text(&link["ifname"])?,
            altnames: serde_json::from_value(link["altnames"].clone()).unwrap_or_default(),
            mac: text(&link["address"])?.parse().ok(),
            mtu: link["mtu"].as_u64()?.try_into().ok()?,
            up: link["flags"].as_array()?.iter().any(|flag| flag == "UP"),
            ..Link::default()
        })
    });
    links.collect()
}

impl Hardware for Nic {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.lock().read(path)
    }

    fn write(&mut self, path: &Path, value: &str) -> Result<(), Refusal> {
        let before = self.known();
        let written = self.lock().write(path, value);
        let after = self.known();
        // An interface goes and comes with its driver.
        let gone = |link: &&Link| {
            let pci = link.pci.expect("it is a VF's");
            after.get(&pci).map(|link| link.ifindex) != before.get(&pci).map(|link| link.ifindex)
        };
        for link in here().iter().filter(gone) {
            sh(&format!("ip link delete {}", link.name));
        }
        for (pci, link) in &after {
            if before.get(pci).map(|link| link.ifindex) != Some(link.ifindex) {
                let mac = link.mac.expect("it is Ethernet").to_string();
                make(&link.name, &pci.to_string(), &mac);
            }
        }
        written
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.lock().list(path)
    }

    fn target(&self, path: &Path) -> io::Result<String> {
        self.lock().target(path)
    }

    fn links(&self) -> Result<Vec<Link>, Refusal> {
        let mut links = self.lock().links()?;
        links.retain(|link| link.name == "eth1");
        links.extend(here());
        Ok(links)
    }

    fn change_link(&mut self, ifindex: u32, change: &LinkChange) -> Result<(), Refusal> {
        let Some(real) = here().into_iter().find(|link| link.ifindex == ifindex) else {
            return self.lock().change_link(ifindex, change);
        };
        let pci = real.pci.expect("it is a VF's");
        let known = self.known().remove(&pci).ok_or(Errno::ENODEV)?;
        {
            let mut double = self.lock();
            let link = double.link_mut(&known.name).ok_or(Errno::ENODEV)?;
            (link.mac, link.mtu, link.up) = (real.mac, real.mtu, real.up);
            (link.name, link.altnames) = (real.name.clone(), real.altnames);
            double.change_link(known.ifindex, change)?;
        }
        let change = match change {
            LinkChange::Up(true) => "up".to_owned(),
            LinkChange::Up(false) => "down".to_owned(),
            LinkChange::Name(name) => format!("name {name}"),
            LinkChange::Mac(mac) => format!("address {mac}"),
            LinkChange::Mtu(mtu) => format!("mtu {mtu}"),
            LinkChange::AddAltname(_) | LinkChange::RemoveAltname(_) => return Err(Errno::EOPNOTSUPP.into()),
        };
        let changed = Command::new("sh")
            .args(["-c", &format!("ip link set {} {change}", real.name)])
            .output();
        match changed.expect("sh exists").status.success() {
            true => Ok(()),
            false => Err(Errno::EEXIST.into()),
        }
    }

    fn set_vf(&mut self, ifindex: u32, vf: u16, setting: &VfSetting) -> Result<(), Refusal> {
        self.lock().set_vf(ifindex, vf, setting)
    }

    fn vfio_users(&self) -> BTreeMap<PathBuf, Vec<Process>> {
        self.lock().vfio_users()
    }
}
