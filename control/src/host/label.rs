//! SELinux labels of files (`security.selinux`, selinux(8)).
//!
//! They are set on what is there, not said beforehand (`setfscreatecon`): that works the same whether the host's kernel
//! knows SELinux or not, takes no state of the thread that other files would get as well, and who gives a socket its
//! label before it listens leaves no moment in which somebody else gets in.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

const SELINUX: &str = "security.selinux";
/// Longer than labels are; of a longer one it is not known whether it is there, and it is set.
const MAX_LABEL: usize = 512;

/// Gives a file its label. The descriptor may be one of `O_PATH`: it is this very file, whatever has its name by now. One
/// that has the label already is left alone, as it may be another's by now.
pub(crate) fn give(file: impl AsFd, label: &str) -> io::Result<()> {
    // The attributes of a file that is open as a path alone (open(2), `O_PATH`).
    let same = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let mut found = [0; MAX_LABEL];
    if let Ok(length) = getxattr(&same, SELINUX, &mut found)
        // The kernel's end in a zero byte.
        && found[..length].strip_suffix(&[0]).unwrap_or(&found[..length]) == label.as_bytes()
    {
        return Ok(());
    }
    setxattr(&same, SELINUX, label.as_bytes(), XattrFlags::empty()).map_err(|errno| told(errno, label))
}

fn told(errno: Errno, label: &str) -> io::Error {
    let advice = match errno {
        Errno::INVAL => ": the host's policy has no such label",
        Errno::OPNOTSUPP => ": the file system has no labels",
        _ => "",
    };
    let errno = io::Error::from(errno);
    io::Error::new(
        errno.kind(),
        format!("the SELinux label {label:?}: {errno}{advice}"),
    )
}
