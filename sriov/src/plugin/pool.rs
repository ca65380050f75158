//! A pool: devices that pods ask for by one name.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::candidate::Candidate;

/// One resource of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `intel.com`.
    pub prefix: String,
    /// `sriov_net_a`.
    pub name: String,
    /// What is in it.
    pub kind: Kind,
    /// The kubelet is not told NUMA nodes.
    pub exclude_topology: bool,
    /// For `_INFO`: by PCI address, or `*` for every device.
    pub additional_info: BTreeMap<String, BTreeMap<String, String>>,
    /// Which devices are preferred.
    pub policy: Policy,
}

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PCI network functions: VFs with a kernel driver, for a userspace driver, or PFs.
    Net(Vec<Selector>),
    /// Network functions with a kernel driver whose queues an unprivileged pod opens itself, through the hand-over socket.
    AfXdp {
        /// Which functions.
        selectors: Vec<Selector>,
        /// The folder of the hand-over socket in the container.
        mount: PathBuf,
    },
    /// Places for vhost-user ports of the fast path: a folder for each, in which the daemon makes the socket.
    VhostUser {
        /// How many.
        count: u32,
        /// The folder above the folders, in the container.
        mount: PathBuf,
    },
}

/// Which devices a pod gets if there is a choice, all on one NUMA node wherever that is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Of as few PFs as possible, the fullest first: others stay free for larger requests.
    #[default]
    Packed,
    /// Of as many PFs as possible, the emptiest first: bandwidth is shared with fewer.
    Spread,
}

/// What a device must have. An empty list asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// PCI vendors.
    pub vendors: Vec<u16>,
    /// PCI devices.
    pub devices: Vec<u16>,
    /// Drivers.
    pub drivers: Vec<String>,
    /// PCI addresses.
    pub pci_addresses: Vec<String>,
    /// The firmware's indexes.
    pub acpi_indexes: Vec<u32>,
    /// PFs by the name of their interface.
    pub pf_names: Vec<Functions>,
    /// PFs by PCI address.
    pub root_devices: Vec<Functions>,
    /// `ether`, `infiniband`.
    pub link_types: Vec<String>,
    /// It has RDMA, whose files the pod gets.
    pub rdma: bool,
    /// The pod gets /dev/vhost-net and /dev/net/tun.
    pub vhost_net: bool,
}

/// Functions of one PF: all of them, or VFs with these indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Functions {
    /// The PF: its interface or its PCI address.
    pub of: String,
    /// The VFs.
    pub vfs: Option<Vec<RangeInclusive<u32>>>,
}

impl Pool {
    /// What pods ask for: `intel.com/sriov_net_a`.
    pub fn resource(&self) -> String {
        format!("{}/{}", self.prefix, self.name)
    }

    /// The resource's name in environment variables: `INTEL_COM_SRIOV_NET_A`. As with sriov-network-device-plugin, `.` and `/` become `_`
    /// and nothing else does.
    pub fn in_environment(&self) -> String {
        self.resource().replace(['.', '/'], "_").to_uppercase()
    }

    /// The resource's name in names of files.
    pub fn in_files(&self) -> String {
        self.resource().replace('/', "_")
    }

    /// The selectors, for the kinds that have some.
    pub fn selectors(&self) -> &[Selector] {
        match &self.kind {
            Kind::Net(selectors) | Kind::AfXdp { selectors, .. } => selectors,
            Kind::VhostUser { .. } => &[],
        }
    }

    /// Its devices are places for ports, not functions.
    pub(super) fn has_places(&self) -> bool {
        matches!(self.kind, Kind::VhostUser { .. })
    }

    /// The device of a vhost-user pool, by its number.
    pub fn place(&self, number: u32) -> String {
        format!("{}-{number}", self.name)
    }

    /// Whether this is a device's name in this pool of places.
    pub(super) fn is_place(&self, id: &str) -> bool {
        let number = id
            .strip_prefix(&self.name)
            .and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok_and(|of| of.to_string() == number))
    }
}

/// The folder of one place of a vhost-user pool on the host: `ROOT/PREFIX_NAME/ID`.
pub fn place_folder(root: &Path, pool: &Pool, id: &str) -> PathBuf {
    root.join(pool.in_files()).join(id)
}

impl Selector {
    /// Whether it selects this device.
    pub fn selects(&self, device: &Candidate) -> bool {
        fn among<T>(list: &[T], is: impl Fn(&T) -> bool) -> bool {
            list.is_empty() || list.iter().any(is)
        }
        among(&self.vendors, |of| *of == device.vendor)
            && among(&self.devices, |of| *of == device.device)
            && among(&self.drivers, |of| device.driver.as_ref() == Some(of))
            && among(&self.pci_addresses, |of| *of == device.pci)
            && among(&self.acpi_indexes, |of| device.acpi_index == Some(*of))
            && among(&self.pf_names, |of| of.has(&device.pf_names, device.vf_index))
            && among(&self.root_devices, |of| {
                of.has(device.root_device.as_slice(), device.vf_index)
            })
            && among(&self.link_types, |of| device.link_type.as_ref() == Some(of))
            && (!self.rdma || device.rdma.is_some())
    }
}

impl Functions {
    fn has(&self, names: &[String], vf: Option<u32>) -> bool {
        names.iter().any(|name| name.eq_ignore_ascii_case(&self.of))
            && match &self.vfs {
                None => true,
                Some(ranges) => vf.is_some_and(|vf| ranges.iter().any(|range| range.contains(&vf))),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> Pool {
        Pool {
            prefix: "intel.com".into(),
            name: name.into(),
            kind: Kind::Net(Vec::new()),
            exclude_topology: false,
            additional_info: BTreeMap::new(),
            policy: Policy::Packed,
        }
    }

    fn vf(index: u32) -> Candidate {
        Candidate {
            pci: format!("0000:3b:02.{index}"),
            vendor: 0x8086,
            device: 0x154c,
            driver: Some("iavf".into()),
            pf_names: vec!["enp2s2f0".into(), "uplink".into()],
            root_device: Some("0000:3b:00.0".into()),
            vf_index: Some(index),
            link_type: Some("ether".into()),
            ..Candidate::default()
        }
    }

    #[test]
    fn names_are_those_that_pods_know() {
        assert_eq!(pool("sriov_A").in_environment(), "INTEL_COM_SRIOV_A");
        assert_eq!(pool("dpdk-nic").in_environment(), "INTEL_COM_DPDK-NIC");
        let places = pool("ports");
        assert!(places.is_place("ports-0") && places.is_place(&places.place(12)));
        for id in ["ports-", "ports-01", "ports-x", "ports-+1", "other-1", "ports"] {
            assert!(!places.is_place(id), "{id}");
        }
    }

    #[test]
    fn each_list_narrows() {
        assert!(Selector::default().selects(&vf(0)), "nothing is asked for");
        let wrong: [fn(&mut Selector); 9] = [
            |s| s.vendors = vec![0x15b3],
            |s| s.devices = vec![1, 2],
            |s| s.drivers = vec!["vfio-pci".into()],
            |s| s.pci_addresses = vec!["0000:3b:02.7".into()],
            |s| s.acpi_indexes = vec![101],
            |s| s.link_types = vec!["infiniband".into()],
            |s| s.rdma = true,
            |s| s.pf_names = vec![functions("enp2s2f1", None)],
            |s| s.root_devices = vec![functions("0000:3b:00.1", None)],
        ];
        for change in wrong {
            let mut selector = Selector {
                vendors: vec![0x15b3, 0x8086],
                ..Selector::default()
            };
            assert!(selector.selects(&vf(0)));
            change(&mut selector);
            assert!(!selector.selects(&vf(0)), "{selector:?}");
        }
    }

    fn functions(of: &str, vfs: Option<Vec<RangeInclusive<u32>>>) -> Functions {
        Functions { of: of.into(), vfs }
    }

    #[test]
    fn ranges_are_of_vfs_and_both_ends_belong_to_them() {
        let selector = Selector {
            pf_names: vec![functions("UPLINK", Some(vec![0..=0, 3..=5]))],
            ..Selector::default()
        };
        let selected: Vec<u32> = (0..8).filter(|index| selector.selects(&vf(*index))).collect();
        assert_eq!(selected, [0, 3, 4, 5]);
        let pf = Candidate {
            vf_index: None,
            ..vf(0)
        };
        assert!(!selector.selects(&pf), "a PF is no VF 0");
        let all = Selector {
            pf_names: vec![functions("uplink", None)],
            ..Selector::default()
        };
        assert!(all.selects(&pf));
    }
}
