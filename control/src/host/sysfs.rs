//! `/sys/class/net` of our own network namespace, whatever is mounted on `/sys`.
//!
//! A mounted sysfs shows the interfaces of the namespace of the process that mounted it. A daemon that was moved
//! with `nsenter --net` (or that runs in a container) so sees another namespace's interfaces there, and would turn
//! the knobs of the wrong `eth0`. So this module makes a sysfs of its own (fsopen(2), fsmount(2)): it is tied to
//! the network namespace of the calling thread, attached to no path, seen by nobody else, and gone with its
//! descriptor. It needs CAP_SYS_ADMIN; without it there is no sysfs here, and callers use netlink or say so.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::HostError;

/// A private sysfs.
pub(crate) struct NetSysfs {
    root: OwnedFd,
}

impl NetSysfs {
    /// Makes one for the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, HostError> {
        let open = || -> io::Result<OwnedFd> {
            let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
        };
        open()
            .map(|root| Self { root })
            .map_err(|source| HostError::Sysfs { source })
    }

    fn path(&self, interface: &str, attribute: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/class/net/{interface}/{attribute}",
            self.root.as_raw_fd()
        ))
    }

    /// The value of an attribute of an interface, without its newline.
    pub(crate) fn read(&self, interface: &str, attribute: &str) -> Result<String, HostError> {
        fs::read_to_string(self.path(interface, attribute))
            .map(|text| text.trim_end().to_owned())
            .map_err(|source| HostError::Attribute {
                attempt: "reading",
                interface: interface.into(),
                attribute: attribute.into(),
                source,
            })
    }

    /// Writes an attribute of an interface.
    pub(crate) fn write(&self, interface: &str, attribute: &str, value: &str) -> Result<(), HostError> {
        fs::write(self.path(interface, attribute), value).map_err(|source| HostError::Attribute {
            attempt: "writing",
            interface: interface.into(),
            attribute: attribute.into(),
            source,
        })
    }
}
