//! XDP programs that are on interfaces: what they are called, and who keeps them there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde::Serialize;

/// Whether a program of this name, as the kernel shows it, is one of Clearway's: a port's own, or the one that pods share.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(name, "clearway" | "clearway_pod")
}

/// A process that keeps something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Holder {
    /// Its number.
    pub(crate) pid: u32,
    /// Its name (`/proc/PID/comm`), if it still has one.
    pub(crate) command: Option<String>,
}

impl Holder {
    /// The process of this number, which may have ended meanwhile.
    pub(crate) fn new(pid: u32) -> Self {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        Self {
            pid,
            command: command.map(|name| name.trim_end().to_owned()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            Some(command) => write!(f, "{command}, pid {}", self.pid),
            None => write!(f, "pid {}, which has ended", self.pid),
        }
    }
}

/// The name of a loaded BPF program. Needs CAP_SYS_ADMIN.
pub(crate) fn name(id: u32) -> Option<String> {
    let program = libbpf_rs::query::ProgInfoIter::default().find(|program| program.id == id)?;
    Some(program.name.to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

/// The other process whose BPF link keeps a program on an interface; see [`holders`].
pub(crate) fn holder(id: u32) -> Option<Holder> {
    holders().remove(&id)
}

/// The processes whose BPF links keep programs on interfaces, by the program's number, without ourselves. Programs
/// that netlink attached have none, and we may not look at every process. The kernel does not tell, so the descriptors
/// of all processes are looked at: not to be asked often.
pub(crate) fn holders() -> BTreeMap<u32, Holder> {
    let numbers = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    };
    let mut holders = BTreeMap::new();
    for pid in numbers("/proc").filter(|pid| *pid != std::process::id()) {
        let folder = format!("/proc/{pid}/fdinfo");
        let infos = numbers(&folder).filter_map(|fd| fs::read_to_string(format!("{folder}/{fd}")).ok());
        for program in infos.filter_map(|info| linked(&info)) {
            holders.insert(program, Holder::new(pid));
        }
    }
    holders
}

/// The program of an XDP link, if a file of `/proc/PID/fdinfo` is about one (kernel/bpf/syscall.c,
/// `bpf_link_show_fdinfo`).
fn linked(info: &str) -> Option<u32> {
    let value = |key: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(":\t"));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    value("link_type").filter(|kind| *kind == "xdp")?;
    value("prog_id")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_told_from_the_program_itself_and_from_other_links() {
        let link = "pos:\t0\nflags:\t02000000\nlink_type:\txdp\nlink_id:\t7\nprog_tag:\t2b11\nprog_id:\t31270\nifindex:\t2\n";
        assert_eq!(linked(link), Some(31270));
        assert_eq!(linked(&link.replace("xdp", "tcx")), None);
        assert_eq!(linked("pos:\t0\nprog_type:\t6\nprog_id:\t31270\n"), None);
        assert_eq!(linked(""), None);
    }

    #[test]
    fn holders_are_named() {
        let me = Holder::new(std::process::id());
        assert!(me.command.is_some());
        assert_eq!(
            me.to_string(),
            format!("{}, pid {}", me.command.clone().unwrap_or_default(), me.pid)
        );
        assert_eq!(
            Holder::new(u32::MAX).to_string(),
            "pid 4294967295, which has ended"
        );
    }
}
