//! What comes along with messages: descriptors are looked at before anything is done with them.

use std::fs::File;
use std::os::fd::OwnedFd;

use clearway_io::{RegionSpec, check_event};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use vhost::vhost_user::Result;
use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::device::wrong;

/// An event descriptor of a front-end. Whatever else it could send may block who reads or writes it.
pub(super) fn event(file: Option<File>) -> Result<Option<OwnedFd>> {
    let Some(file) = file else { return Ok(None) };
    check_event(&file).map_err(wrong)?;
    Ok(Some(file.into()))
}

/// A file to be mapped. Those of other file systems may make whoever touches their memory wait, and that is a worker.
pub(super) fn shared(file: File) -> Result<OwnedFd> {
    let kind = fstatfs(&file)
        .map_err(|error| {
            wrong(format_args!(
                "looking at the file system of its memory failed: {error}"
            ))
        })?
        .filesystem_type();
    if kind != TMPFS_MAGIC && kind != HUGETLBFS_MAGIC {
        return Err(wrong(format_args!(
            "it shares a file of a file system of type {:#x}; memory must be a memfd or on tmpfs or hugetlbfs \
             (QEMU: memory-backend-memfd,share=on)",
            kind.0
        )));
    }
    Ok(file.into())
}

/// A region of memory, in our words.
pub(super) fn spec(region: &VhostUserMemoryRegion) -> RegionSpec {
    RegionSpec {
        guest_address: region.guest_phys_addr,
        size: region.memory_size,
        user_address: region.user_addr,
        mmap_offset: region.mmap_offset,
    }
}
