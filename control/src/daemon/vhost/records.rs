//! Files of the state folder that say where packed rings are (decision 0013): one for each socket.
//!
//! By the socket: what else tells that the guests are the same? A file's name has at most 255 bytes and a path of a
//! socket up to 4,095, so the name is a hash of the whole path, and for people its end.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use clearway_io::RingFile;

use crate::daemon::open::OpenError;

const PREFIX: &str = "rings-";
/// Digits of the hash.
const HASH: usize = 16;
/// Bytes of the path that are shown.
const SHOWN: usize = 200;

const _: () = assert!(PREFIX.len() + HASH + 1 + SHOWN <= 255, "NAME_MAX of the kernel");

/// The name of a socket's file: the same in every process, so that the next one finds it.
fn name(socket: &Path) -> String {
    // rapidhash v3 is what its authors keep stable.
    let hash = rapidhash::v3::rapidhash_v3(socket.as_os_str().as_bytes());
    let text = socket.display().to_string().replace('/', "%");
    let start = text.len().saturating_sub(SHOWN);
    let start = (start..).find(|at| text.is_char_boundary(*at)).unwrap_or(start);
    format!("{PREFIX}{hash:0HASH$x}-{}", &text[start..])
}

/// Opens, or makes, the file of a port.
pub(super) fn open(socket: &Path, pairs: u16, state_dir: &Path) -> Result<Arc<RingFile>, OpenError> {
    let path = state_dir.join(name(socket));
    // The folder is made by whoever needs it first.
    let made = std::fs::create_dir_all(state_dir);
    match made.and_then(|()| RingFile::open(&path, 2 * usize::from(pairs))) {
        Ok(file) => Ok(Arc::new(file)),
        Err(error) => Err(OpenError::Fatal(format!(
            "opening {} for the positions of its guest's rings failed: {error}; make the folder writable or choose another --state-dir",
            path.display()
        ))),
    }
}

/// Removes the file of a socket whose guest will not come back.
pub(crate) fn remove(socket: &Path, state_dir: &Path) {
    let path = state_dir.join(name(socket));
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "could not be removed");
    }
}

/// Removes files with names as an earlier Clearway gave them, without a hash: nobody would ever open them again.
pub(crate) fn remove_old(state_dir: &Path) {
    let removed = || -> io::Result<()> {
        for entry in std::fs::read_dir(state_dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(is_old) {
                std::fs::remove_file(entry.path())?;
                tracing::info!(file = %entry.path().display(), "removed the record of an earlier Clearway");
            }
        }
        Ok(())
    };
    match removed() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %state_dir.display(), %error, "looking for records of an earlier Clearway failed");
        }
        _ => {}
    }
}

fn is_old(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let is_hash = |text: &str| text.len() == HASH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    !rest.split_once('-').is_some_and(|(hash, _)| is_hash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_whose_paths_look_alike_have_files_of_their_own() {
        let end = "x".repeat(300);
        let paths = [
            format!("/run/a/{end}"),
            format!("/run/b/{end}"),
            "/run/a%b".to_owned(),
            "/run/a/b".to_owned(),
            format!("/run/ä{}", "ü".repeat(150)),
        ];
        let names: std::collections::BTreeSet<_> = paths.iter().map(|path| name(Path::new(path))).collect();
        assert_eq!(names.len(), paths.len());
        for name in &names {
            assert!(name.len() <= 255 && !name.contains('/'), "{name}");
            assert!(!is_old(name), "{name}");
        }
        // Another process, and the next version of ours, must find it again.
        assert_eq!(
            name(Path::new("/run/vm/a.sock")),
            "rings-8f59b193524cfb59-%run%vm%a.sock"
        );
    }

    #[test]
    fn files_with_names_of_before_are_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = name(Path::new("/run/a.sock"));
        let others = [ours.as_str(), "4026531840-eth0.json", "lock"];
        for file in others.iter().chain(&["rings-%run%a.sock", "rings-xx-yy"]) {
            std::fs::write(dir.path().join(file), "").expect("a file");
        }
        remove_old(dir.path());
        let left: std::collections::BTreeSet<_> = std::fs::read_dir(dir.path())
            .expect("the folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        assert_eq!(left, others.iter().map(|file| (*file).to_owned()).collect());
        remove_old(&dir.path().join("not-there"));
    }
}
