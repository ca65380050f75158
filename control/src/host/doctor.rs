//! What the facts about a host mean for Clearway: what is good, what costs speed, what will not work, what to do.
//!
//! A pure function of [`Facts`], so that a finding can be tested for hosts that nobody has at hand. Every finding
//! that is not [`Severity::Ok`] says why it matters, and those that a user can do something about name the command.

mod interfaces;

use std::fmt;

use serde::Serialize;

use super::facts::{Facts, KernelVersion};

/// Files that 250 vhost-user ports of one queue pair take.
const FEW_FILES: u64 = 4096;
/// 64 MiB: what a port with a few queues asks the kernel to pin.
const SMALL_MEMLOCK: u64 = 64 << 20;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// Works, but slower or less safely than it could.
    Warn,
    /// Will not work.
    Bad,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Bad => "bad",
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How much it matters.
    pub(crate) severity: Severity,
    /// What it is about: `kernel`, `memory`, `cores`, or the name of an interface.
    pub(crate) subject: String,
    /// What was found.
    pub(crate) what: String,
    /// Why it matters; empty where that is plain.
    pub(crate) why: String,
    /// The command or step that changes it.
    pub(crate) fix: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {}: {}", self.severity, self.subject, self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n      why: {}", self.why)?;
        }
        self.fix
            .as_ref()
            .map_or(Ok(()), |fix| write!(f, "\n      do:  {fix}"))
    }
}

struct Findings {
    subject: String,
    list: Vec<Finding>,
}

impl Findings {
    fn about(&mut self, subject: &str) -> &mut Self {
        subject.clone_into(&mut self.subject);
        self
    }

    fn add(&mut self, severity: Severity, what: impl Into<String>, why: &str, fix: Option<String>) {
        let subject = self.subject.clone();
        self.list.push(Finding {
            severity,
            subject,
            what: what.into(),
            why: why.to_owned(),
            fix,
        });
    }

    fn ok(&mut self, what: impl Into<String>) {
        self.add(Severity::Ok, what, "", None);
    }
}

/// Judges the host and the interfaces that the facts are about.
pub(crate) fn doctor(facts: &Facts) -> Vec<Finding> {
    let mut findings = Findings {
        subject: String::new(),
        list: Vec::new(),
    };
    kernel(facts, findings.about("kernel"));
    privileges(facts, findings.about("privileges"));
    memory(facts, findings.about("memory"));
    cores(facts, findings.about("cores"));
    for interface in &facts.interfaces {
        interfaces::judge(facts, interface, findings.about(&interface.name));
    }
    findings.list
}

fn kernel(facts: &Facts, out: &mut Findings) {
    match &facts.af_xdp_refusal {
        None => out.ok(format!("Linux {}, AF_XDP sockets can be opened", facts.kernel)),
        Some(refusal) => out.add(
            Severity::Bad,
            format!(
                "Linux {}: an AF_XDP socket can't be opened: {refusal}",
                facts.kernel
            ),
            "AF_XDP ports need it: CONFIG_XDP_SOCKETS=y, CAP_NET_RAW, and no seccomp filter in the way",
            Some("grep XDP_SOCKETS /boot/config-$(uname -r)".into()),
        ),
    }
    if !facts.bpf {
        out.add(
            Severity::Bad,
            "this kernel has no bpf(2)",
            "the program that hands frames to AF_XDP can't be loaded without CONFIG_BPF_SYSCALL=y",
            Some("grep BPF_SYSCALL /boot/config-$(uname -r)".into()),
        );
    }
    if facts.unprivileged_bpf_disabled == Some(0) {
        out.add(
            Severity::Info,
            "unprivileged users may load BPF programs",
            "Clearway does not need that, and it widens what a local attacker can reach",
            Some("sysctl -w kernel.unprivileged_bpf_disabled=1".into()),
        );
    }
    for (since, feature, why) in [
        (
            KernelVersion(5, 11),
            "preferred busy polling",
            "without it interrupts compete with the workers for each queue",
        ),
        (
            KernelVersion(5, 18),
            "multi-buffer XDP",
            "without it frames beyond one page (about 3,500 bytes) do not pass",
        ),
        (
            KernelVersion(6, 6),
            "multi-buffer AF_XDP",
            "without it frames beyond one chunk do not pass AF_XDP ports",
        ),
        (
            KernelVersion(6, 17),
            "XDP_MAX_TX_SKB_BUDGET",
            "without it a sendto() in copy mode sends at most 32 frames",
        ),
    ] {
        if facts.kernel_version >= since {
            out.ok(format!("{feature} (since {}.{})", since.0, since.1));
        } else {
            let severity = if feature.starts_with("XDP_MAX") {
                Severity::Info
            } else {
                Severity::Warn
            };
            let fix = format!("run Linux {}.{} or later", since.0, since.1);
            out.add(
                severity,
                format!("no {feature}: Linux {} is older than it", facts.kernel),
                why,
                Some(fix),
            );
        }
    }
}

fn privileges(facts: &Facts, out: &mut Findings) {
    let holds = |name: &str| facts.capabilities.get(name).copied().unwrap_or(false);
    let all = |names: &[&'static str]| {
        names
            .iter()
            .copied()
            .filter(|name| !holds(name))
            .collect::<Vec<_>>()
    };
    let missing = all(&["NET_ADMIN", "NET_RAW"]);
    if !missing.is_empty() {
        out.add(
            Severity::Bad,
            format!("CAP_{} missing", missing.join(" and CAP_")),
            "AF_XDP sockets, XDP programs and interface settings need them",
            Some("run clearway as root, or under systemd with AmbientCapabilities=".into()),
        );
    }
    if !holds("BPF") && !holds("SYS_ADMIN") {
        out.add(
            Severity::Bad,
            "neither CAP_BPF nor CAP_SYS_ADMIN is held",
            "loading the XDP program needs one of them",
            Some("AmbientCapabilities=CAP_BPF in the systemd unit".into()),
        );
    }
    if !holds("SYS_ADMIN") {
        out.add(
            Severity::Warn,
            "CAP_SYS_ADMIN is not held",
            "the offloads of veth peers in other namespaces can't be turned off, and NAPI knobs only over netlink",
            Some("AmbientCapabilities=CAP_SYS_ADMIN, or `ethtool -K PEER tx off txvlan off` in each pod".into()),
        );
    } else if missing.is_empty() {
        out.ok("all capabilities that Clearway can use are held");
    }
}

fn memory(facts: &Facts, out: &mut Findings) {
    let may_lock = facts.capabilities.get("IPC_LOCK").copied().unwrap_or(false);
    match facts.memlock {
        Some(limit) if !may_lock => out.add(
            if limit < SMALL_MEMLOCK {
                Severity::Bad
            } else {
                Severity::Warn
            },
            format!("at most {} KiB may be locked", limit >> 10),
            "the kernel pins the frame buffers of AF_XDP ports and counts them against this limit",
            Some("LimitMEMLOCK=infinity in the systemd unit, `ulimit -l unlimited`, or CAP_IPC_LOCK".into()),
        ),
        _ => out.ok("memory may be locked without limit"),
    }
    match facts.open_files {
        Some(limit) if limit < FEW_FILES => out.add(
            Severity::Info,
            format!("at most {limit} files may be open"),
            "a vhost-user port takes about 8, and 8 for each of its queue pairs",
            Some("LimitNOFILE=65536 in the systemd unit, or `ulimit -n 65536`".into()),
        ),
        _ => {}
    }
    let free: u64 = facts.huge_pages.iter().map(|pages| pages.free * pages.kib).sum();
    if free == 0 {
        out.add(
            Severity::Warn,
            "no free huge pages: frame buffers lie in normal pages",
            "each frame then costs TLB misses; huge pages save a few nanoseconds a packet",
            Some("sysctl -w vm.nr_hugepages=512".into()),
        );
    } else {
        out.ok(format!("{} MiB of free huge pages", free >> 10));
    }
    let bare: Vec<_> = facts
        .numa_nodes
        .keys()
        .filter(|node| free != 0 && !facts.huge_pages.iter().any(|p| p.node == **node && p.free > 0))
        .map(ToString::to_string)
        .collect();
    if !bare.is_empty() {
        out.add(
            Severity::Warn,
            format!("no free huge pages on NUMA node {}", bare.join(", ")),
            "ports of that node would keep their frames on another node",
            Some(format!(
                "echo 512 > /sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages",
                bare[0]
            )),
        );
    }
    if let Some(mode) = facts
        .transparent_huge_pages
        .as_deref()
        .filter(|mode| *mode == "always")
    {
        out.add(
            Severity::Info,
            format!("transparent huge pages: {mode}"),
            "the kernel's compaction may stall a worker for a moment",
            Some("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".into()),
        );
    }
}

fn cores(facts: &Facts, out: &mut Findings) {
    let cores = &facts.cores;
    out.ok(format!(
        "{} cores online, {} NUMA nodes",
        cores.online.len(),
        facts.numa_nodes.len().max(1)
    ));
    let workers = &facts.worker_cores;
    let among = |set: &[u32]| list(workers.iter().filter(|core| !set.contains(core)));
    let offline = among(&cores.online);
    if !offline.is_empty() {
        out.add(
            Severity::Bad,
            format!("worker core {offline} is not online"),
            "its worker can't be pinned",
            Some(format!("choose from cores {}", list(cores.online.iter()))),
        );
    }
    let shared = among(&cores.isolated);
    if !shared.is_empty() {
        out.add(
            Severity::Info,
            format!("worker core {shared} is not isolated"),
            "other processes are scheduled there too, and each visit costs latency and, when rings are full, frames",
            Some(format!("boot with isolcpus={0} nohz_full={0} rcu_nocbs={0}", list(workers.iter()))),
        );
    }
    if !workers.is_empty() && cores.online.len() == 1 {
        out.add(
            Severity::Warn,
            "there is one core only",
            "a spinning worker leaves nothing for the kernel and the other programs",
            Some("`idle: adaptive` in the config".into()),
        );
    }
    for (core, governor) in cores.governors.iter().filter(|(core, _)| workers.contains(core)) {
        if governor != "performance" {
            out.add(
                Severity::Warn,
                format!("core {core} runs the frequency governor {governor}"),
                "a worker that has just woken up runs at a low clock",
                Some(format!("cpupower -c {core} frequency-set -g performance")),
            );
        }
    }
    for group in &cores.siblings {
        let both: Vec<_> = group.iter().filter(|core| workers.contains(core)).collect();
        if both.len() > 1 {
            out.add(
                Severity::Warn,
                format!("workers share a physical core: {}", list(both.into_iter())),
                "hardware threads of one core share its execution units: two workers get little more than one",
                Some("give each worker a core of its own in the config".into()),
            );
        }
    }
}

/// Numbers with commas between them.
fn list<'a>(numbers: impl Iterator<Item = &'a u32>) -> String {
    numbers.map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub(super) mod tests;
