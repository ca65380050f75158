//! Files beside the kubelet's API: device information for Multus, CDI specifications for the runtime.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::assign::Devices;
use super::give::{cdi, device_info};
use super::pool::{Kind, Pool};
use super::pools::is_pci_address;

/// The files of one pool, and what is in them.
#[derive(Default)]
pub(super) struct Files {
    information: BTreeMap<PathBuf, Value>,
    specification: Option<Value>,
}

/// A file that could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} could not be {what}: {source}")]
pub(super) struct FileError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

impl Files {
    /// Writes what is new or other than before. What belongs to devices that are gone stays until [`Files::remove_gone`].
    pub(super) fn write(
        &mut self,
        pool: &Pool,
        devices: &Devices,
        information: &Path,
        specifications: Option<&Path>,
    ) -> Vec<FileError> {
        let mut errors = Vec::new();
        for (id, device) in devices {
            let path = information.join(information_name(pool, id));
            let value = device_info(pool, id, device);
            if self.information.get(&path) != Some(&value) {
                match write(&path, &value) {
                    Ok(()) => _ = self.information.insert(path, value),
                    Err(error) => errors.push(error),
                }
            }
        }
        if let Some(folder) = specifications {
            let path = folder.join(format!("clearway-{}.json", pool.in_files()));
            let value = cdi(pool, devices);
            if self.specification != value {
                let done = match &value {
                    Some(value) => write(&path, value),
                    None => remove(&path),
                };
                match done {
                    Ok(()) => self.specification = value,
                    Err(error) => errors.push(error),
                }
            }
        }
        errors
    }

    /// Removes device information of devices that the pool has no more, also what a run before this one has left.
    pub(super) fn remove_gone(
        &mut self,
        pool: &Pool,
        devices: &Devices,
        information: &Path,
    ) -> Vec<FileError> {
        let entries = fs::read_dir(information).into_iter().flatten().flatten();
        let gone = entries.map(|entry| entry.file_name()).filter(|name| {
            let id = name.to_str().and_then(|name| id_of(pool, name));
            id.is_some_and(|id| !devices.contains_key(id))
        });
        let mut errors = Vec::new();
        for name in gone {
            let path = information.join(name);
            errors.extend(remove(&path).err());
            self.information.remove(&path);
        }
        errors
    }

    /// Removes device information. CDI specifications stay: the runtime reads them whenever a container starts again.
    pub(super) fn end(&mut self) {
        for path in std::mem::take(&mut self.information).into_keys() {
            _ = remove(&path);
        }
    }
}

/// The specification's name of the file (§4.1).
fn information_name(pool: &Pool, id: &str) -> String {
    format!("{}-{id}-device.json", pool.resource().replace('/', "-"))
}

/// The device that a file is about, if it is one of the pool's.
fn id_of<'a>(pool: &Pool, name: &'a str) -> Option<&'a str> {
    let id = name
        .strip_prefix(&pool.resource().replace('/', "-"))?
        .strip_prefix('-')?;
    let id = id.strip_suffix("-device.json")?;
    let ours = match pool.kind {
        Kind::VhostUser { .. } => pool.is_place(id),
        Kind::Net(_) | Kind::AfXdp { .. } => is_pci_address(id),
    };
    ours.then_some(id)
}

/// Whoever looks sees all of it or none. Neither Multus nor runtimes read files that begin with a dot or do not end in `.json`.
fn write(path: &Path, value: &Value) -> Result<(), FileError> {
    let attempt = || {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        fs::create_dir_all(folder)?;
        let hidden = folder.join(format!(".{}.new", name.display()));
        let written = fs::File::create(&hidden)
            .and_then(|mut file| file.write_all(value.to_string().as_bytes()))
            .and_then(|()| fs::rename(&hidden, path));
        if written.is_err() {
            _ = fs::remove_file(&hidden);
        }
        written
    };
    attempt().map_err(|source| FileError {
        path: path.into(),
        what: "written",
        source,
    })
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FileError {
            path: path.into(),
            what: "removed",
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::pools::{self, DEFAULT_PREFIX};
    use crate::plugin::{Candidate, Held, IommuGroup, assign};

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_come_and_go_with_the_devices() {
        let folder = tempfile::tempdir().unwrap();
        let (information, specifications) = (folder.path().join("devinfo/dp"), folder.path().join("cdi"));
        let text = r#"{"resourceList": [{"resourceName": "a"}]}"#;
        let pools = pools::read(text, DEFAULT_PREFIX).unwrap();
        let vf = |index: u32| Candidate {
            pci: format!("0000:3b:02.{index}"),
            driver: Some("vfio-pci".into()),
            iommu_group: Some(IommuGroup {
                number: index,
                unprotected: false,
            }),
            ..Candidate::default()
        };
        let devices = |vfs: &[Candidate]| assign(&pools, vfs, Some(&Held::default()), &[]).remove(0);
        let two = devices(&[vf(1), vf(2)]);
        let mut files = Files::default();
        assert!(
            files
                .write(&pools[0], &two, &information, Some(&specifications))
                .is_empty()
        );
        let (first, second) = (
            "intel.com-a-0000:3b:02.1-device.json",
            "intel.com-a-0000:3b:02.2-device.json",
        );
        assert_eq!(names(&information), [first, second]);
        assert_eq!(names(&specifications), ["clearway-intel.com_a.json"]);

        // Of another pool, of another plugin, and one that a run before left.
        let others = ["intel.com-a-b-0000:3b:02.9-device.json", "other.json"];
        for name in others.iter().chain(&["intel.com-a-0000:3b:02.9-device.json"]) {
            fs::write(information.join(name), "{}").unwrap();
        }
        let one = devices(&[vf(2)]);
        assert!(
            files
                .write(&pools[0], &one, &information, Some(&specifications))
                .is_empty()
        );
        assert!(files.remove_gone(&pools[0], &one, &information).is_empty());
        assert_eq!(names(&information), [second, others[0], others[1]]);
        let text = fs::read_to_string(specifications.join("clearway-intel.com_a.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["devices"].as_array().unwrap().len(), 1);

        assert!(
            files
                .write(&pools[0], &devices(&[]), &information, Some(&specifications))
                .is_empty()
        );
        assert_eq!(names(&specifications), [""; 0]);
        files.end();
        assert_eq!(names(&information), others);
    }
}
