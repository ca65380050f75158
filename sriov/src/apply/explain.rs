//! What an errno means for the thing that was refused.

use clearway_config::{TagProtocol, VfLinkState};
use nix::errno::Errno;

use crate::hardware::{LinkChange, VfSetting};
use crate::plan::{Step, VfChange};

/// Why this step was probably refused with this errno, and what to do.
pub fn meaning(step: &Step, errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            return "run clearway as root, with CAP_NET_ADMIN and a /sys that may be written";
        }
        Errno::EROFS => {
            return "/sys is mounted read-only: a container needs it writable (privileged, or a mount of its own)";
        }
        Errno::ENODEV | Errno::ENXIO => return "the device is gone",
        Errno::EAGAIN => return "the VF is still being reset: try again",
        _ => {}
    }
    match step {
        Step::NumVfs { .. } => num_vfs(errno),
        Step::Pf { change, .. } => link(change, errno),
        Step::Vf { change, .. } => match change {
            VfChange::Set(setting) => vf(setting, errno),
            VfChange::Driver(_) | VfChange::Rebind => driver(errno),
            VfChange::Netdev(change) => link(change, errno),
            VfChange::Look => "`dmesg` may tell more",
        },
    }
}

fn num_vfs(errno: Errno) -> &'static str {
    match errno {
        Errno::EBUSY => {
            "there are VFs already, or a virtual machine has one: the kernel makes another number only from none"
        }
        Errno::ERANGE => "the NIC has fewer VFs (sriov_totalvfs), or its firmware is set to fewer",
        Errno::ENOMEM | Errno::ENOSPC => {
            "no room for the VFs on the bus: turn on SR-IOV (and ARI, large BARs) in the BIOS, or boot with pci=realloc"
        }
        Errno::ENOENT | Errno::ENOSYS | Errno::EOPNOTSUPP => {
            "the driver of the physical function has no SR-IOV"
        }
        Errno::EINVAL => {
            "the driver does not take this number; some need SR-IOV turned on in the NIC's firmware first"
        }
        _ => "`dmesg` may tell more",
    }
}

fn vf(setting: &VfSetting, errno: Errno) -> &'static str {
    match (setting, errno) {
        (
            VfSetting::Vlan {
                proto: TagProtocol::Dot1ad,
                ..
            },
            Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP,
        ) => "this NIC has no 802.1ad for VFs: leave out `vlan-proto`",
        (VfSetting::Vlan { .. }, Errno::EINVAL | Errno::ERANGE) => {
            "this NIC does not take this VLAN or priority; some take none beside a port VLAN of another kind"
        }
        (VfSetting::Rate { min: 1.., .. }, Errno::EINVAL | Errno::EOPNOTSUPP) => {
            "this NIC guarantees no rate, or not so much: leave out `min-tx-rate`; it can't be more than `max-tx-rate` or than the link's rate"
        }
        (VfSetting::Rate { .. }, Errno::EINVAL | Errno::EOPNOTSUPP) => {
            "the NIC does not limit VFs, or the rate is above the link's; many take a rate only while the link is up"
        }
        (VfSetting::LinkState(VfLinkState::Auto), Errno::EOPNOTSUPP) => {
            "this NIC's VFs always have the link of the NIC: leave out `link-state`"
        }
        (VfSetting::LinkState(_), Errno::EOPNOTSUPP) => {
            "this NIC can't give its VFs a link of their own: leave out `link-state`"
        }
        (VfSetting::Mac(_), Errno::EINVAL | Errno::EADDRNOTAVAIL) => {
            "the NIC does not take this address: it must be a unicast one"
        }
        (VfSetting::Mac(_), Errno::EADDRINUSE | Errno::EEXIST) => {
            "another function of this NIC has this address"
        }
        (_, Errno::EOPNOTSUPP) => "this NIC's driver does not have this setting: leave it out",
        (_, Errno::EINVAL) => "the NIC does not take this value, or has no such VF",
        (_, Errno::EBUSY) => "the NIC is busy with this VF, or a virtual machine has it: try again",
        _ => "`dmesg` may tell more",
    }
}

fn driver(errno: Errno) -> &'static str {
    match errno {
        Errno::EBUSY => "a program still uses the VF: end it first",
        Errno::EINVAL | Errno::ENOENT => "there is no such driver: load its module",
        _ => "`dmesg` may tell more",
    }
}

fn link(change: &LinkChange, errno: Errno) -> &'static str {
    match (change, errno) {
        (LinkChange::Name(_) | LinkChange::AddAltname(_), Errno::EEXIST) => "another interface has this name",
        (LinkChange::Name(_), Errno::EBUSY) => {
            "the interface is up; this kernel renames only while it is down"
        }
        (LinkChange::Mtu(_), Errno::EINVAL | Errno::ERANGE) => {
            "the interface takes no such MTU; a VF's is at most that of its physical function"
        }
        (LinkChange::Mtu(_), Errno::EBUSY) => {
            "the driver does not change the MTU now: an XDP program or VFs forbid it"
        }
        (LinkChange::Mac(_), Errno::EADDRNOTAVAIL) => {
            "its physical function has set another address and does not trust it"
        }
        (_, Errno::EBUSY) => "something else uses the interface: try again",
        (_, Errno::EOPNOTSUPP) => "its driver can't do that",
        _ => "`dmesg` may tell more",
    }
}
