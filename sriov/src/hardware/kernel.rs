//! The host itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::netlink::Rtnl;
use super::{Hardware, Link, LinkChange, Process, Refusal, VfSetting};

/// sysfs and netlink of the network namespace of the thread that opened it.
pub struct Kernel {
    sysfs: PathBuf,
    rtnl: RefCell<Rtnl>,
}

impl Kernel {
    /// Opens it. Needs no privilege to look; to change something, CAP_NET_ADMIN and a sysfs that may be written.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            sysfs: PathBuf::from("/sys"),
            rtnl: RefCell::new(Rtnl::open()?),
        })
    }
}

impl Hardware for Kernel {
    fn read(&self, path: &Path) -> io::Result<String> {
        read(&self.sysfs.join(path))
    }

    fn write(&mut self, path: &Path, value: &str) -> Result<(), Refusal> {
        // One write: sysfs takes each for a whole value. Not made if it isn't there.
        let mut file = fs::OpenOptions::new().write(true).open(self.sysfs.join(path))?;
        Ok(file.write_all(value.as_bytes())?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        list(&self.sysfs.join(path))
    }

    fn target(&self, path: &Path) -> io::Result<String> {
        target(&self.sysfs.join(path))
    }

    fn links(&self) -> Result<Vec<Link>, Refusal> {
        self.rtnl.borrow_mut().links()
    }

    fn change_link(&mut self, ifindex: u32, change: &LinkChange) -> Result<(), Refusal> {
        self.rtnl.get_mut().change_link(ifindex, change)
    }

    fn set_vf(&mut self, ifindex: u32, vf: u16, setting: &VfSetting) -> Result<(), Refusal> {
        self.rtnl.get_mut().set_vf(ifindex, vf, setting)
    }

    fn vfio_users(&self) -> BTreeMap<PathBuf, Vec<Process>> {
        let mut users: BTreeMap<PathBuf, Vec<Process>> = BTreeMap::new();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Of other users' processes only root sees the files; processes end while we look.
            let open = fs::read_dir(process.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let mut files: Vec<PathBuf> = open
                .filter_map(|fd| {
                    fs::read_link(fd.path())
                        .ok()?
                        .strip_prefix("/dev/vfio")
                        .ok()
                        .map(Path::to_owned)
                })
                // The container is no device.
                .filter(|file| file != Path::new("vfio"))
                .collect();
            files.sort();
            files.dedup();
            for file in files {
                let name = read(&process.path().join("comm")).unwrap_or_default();
                users.entry(file).or_default().push(Process { pid, name });
            }
        }
        users
    }
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = fs::read_to_string(path)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

pub(super) fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

pub(super) fn target(path: &Path) -> io::Result<String> {
    let target = fs::read_link(path)?;
    let name = target.file_name().ok_or(io::ErrorKind::InvalidData)?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_read() {
        let kernel = Kernel::open().unwrap();
        let links = kernel.links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((lo.ifindex, lo.pci, lo.vfs.len()), (1, None, 0));
        assert!(
            kernel
                .list(Path::new("class/net"))
                .unwrap()
                .contains(&"lo".into())
        );
        let missing = kernel.read(Path::new("class/net/lo/none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        kernel.vfio_users();
    }

    #[test]
    fn what_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut kernel = Kernel {
            sysfs: dir.path().to_owned(),
            rtnl: RefCell::new(Rtnl::open().unwrap()),
        };
        let refusal = kernel.write(Path::new("a"), "1").unwrap_err();
        assert_eq!(refusal.errno, nix::errno::Errno::ENOENT);
        assert_eq!(kernel.list(Path::new("")).unwrap(), Vec::<String>::new());
    }
}
