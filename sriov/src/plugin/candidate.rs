//! What a pool may select: one PCI network function, as the inventory knows it.

use std::path::PathBuf;

/// A network function of the host. Whoever makes these leaves out what no pod may get: a PF that has VFs, and the interface that the
/// host's own default route goes through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// `0000:3b:02.1`, in lower case. It is the device's ID at the kubelet.
    pub pci: String,
    /// The PCI vendor.
    pub vendor: u16,
    /// The PCI device.
    pub device: u16,
    /// The driver that is bound, if one is.
    pub driver: Option<String>,
    /// The names of its PF's interface, alternative names too; of a PF its own. Known although the VF is in a pod.
    pub pf_names: Vec<String>,
    /// The PCI address of its PF; of a PF its own.
    pub root_device: Option<String>,
    /// Which VF of the PF, from 0. `None` for a PF.
    pub vf_index: Option<u32>,
    /// `ether` or `infiniband`: of its own interface, or of the PF's where that is in a pod or has no kernel driver.
    pub link_type: Option<String>,
    /// The firmware's index of the slot.
    pub acpi_index: Option<u32>,
    /// The NUMA node, if the host has several.
    pub numa: Option<u32>,
    /// With `vfio-pci`: the group that a pod opens.
    pub iommu_group: Option<IommuGroup>,
    /// With a UIO driver: its file, `/dev/uio0`.
    pub uio: Option<PathBuf>,
    /// Its RDMA devices.
    pub rdma: Option<Rdma>,
    /// It has a link, or the policy for its PF says that it does not matter.
    pub healthy: bool,
}

/// An IOMMU group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuGroup {
    /// Its number.
    pub number: u32,
    /// There is no IOMMU: the host's file has another name.
    pub unprotected: bool,
}

/// What of RDMA belongs to a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// `mlx5_2`.
    pub name: String,
    /// `/dev/infiniband/uverbs2` and the like.
    pub files: Vec<PathBuf>,
}

/// Drivers of UIO: the pod opens a file of its own.
pub(super) fn is_uio(driver: Option<&str>) -> bool {
    matches!(driver, Some("uio" | "igb_uio" | "uio_pci_generic"))
}
