//! The device information file (device-info-spec 1.1.0): what a pod's application must know of its vhost-user socket, or of
//! its VF.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clearway_config::attach::AttachedVf;
use serde_json::{Value, json};

/// The version of the specification.
pub const VERSION: &str = "1.1.0";

/// Why there is no file, or still one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the device information file {path:?} (runtimeConfig.CNIDeviceInfoFile) could not be {what}: {source}"
)]
pub struct DevInfoError {
    path: PathBuf,
    what: &'static str,
    source: io::Error,
}

/// A vhost-user socket. `daemon_connects`: the pod's side listens. The words of the specification (§3.1.5.1) are the
/// application's: `client` connects to a socket that the host has made.
pub fn vhost_user(socket: &Path, daemon_connects: bool) -> Value {
    json!({
        "type": "vhost-user",
        "version": VERSION,
        "vhost-user": {
            "mode": if daemon_connects { "server" } else { "client" },
            "path": socket.display().to_string(),
        }
    })
}

/// A VF (§3.1.1).
pub fn pci(vf: &AttachedVf) -> Value {
    json!({
        "type": "pci",
        "version": VERSION,
        "pci": {"pci-address": vf.pci, "pf-pci-address": vf.pf},
    })
}

/// Whether a file is there that tells of this PCI device.
pub fn is_of_pci(path: &Path, address: &str) -> bool {
    let text = fs::read(path).unwrap_or_default();
    let info: Value = serde_json::from_slice(&text).unwrap_or_default();
    info["type"] == "pci" && info["pci"]["pci-address"] == address
}

/// Writes the file and its folders (§5.1.2): whoever looks sees all of it or none.
pub fn write(path: &Path, info: &Value) -> Result<(), DevInfoError> {
    let attempt = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let (Some(folder), Some(name)) = (folder, path.file_name()) else {
            return Err(io::Error::other(
                "it is not the path of a file; the runtime must give one",
            ));
        };
        fs::create_dir_all(folder)?;
        let hidden = hidden(folder, name);
        let written = fs::File::create(&hidden)
            .and_then(|mut file| file.write_all(info.to_string().as_bytes()))
            .and_then(|()| fs::rename(&hidden, path));
        if written.is_err() {
            let _ = fs::remove_file(&hidden);
        }
        written
    };
    attempt().map_err(|source| DevInfoError {
        path: path.into(),
        what: "written",
        source,
    })
}

/// What the file is called while it is written. The same for every call: each is of one interface, and the DEL of one that
/// was killed finds it.
fn hidden(folder: &Path, name: &OsStr) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".part");
    folder.join(hidden)
}

/// Removes the file, and what a call that was killed has left of it; that neither is there is fine.
pub fn remove(path: &Path) -> Result<(), DevInfoError> {
    let part = path.parent().zip(path.file_name());
    let part = part.map(|(folder, name)| hidden(folder, name));
    for path in part.iter().map(PathBuf::as_path).chain([path]) {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(DevInfoError {
                    path: path.into(),
                    what: "removed",
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_with_its_folders_and_goes_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devinfo/cni/x.json");
        let info = vhost_user(Path::new("/run/a.sock"), false);
        write(&path, &info).unwrap();
        let read: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, info);
        assert_eq!(read["vhost-user"]["mode"], "client");
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "nothing is left of the writing");
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn the_mode_is_that_of_the_application() {
        assert_eq!(vhost_user(Path::new("/s"), true)["vhost-user"]["mode"], "server");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let error = write(Path::new("/"), &json!({})).unwrap_err().to_string();
        assert!(error.contains("CNIDeviceInfoFile"), "{error}");
    }
}
