//! What the facts about a host mean for Clearway: what is good, what costs speed, what will not work, what to do.
//!
//! A pure function of [`Facts`], so that a finding can be tested for hosts that nobody has at hand. Every finding
//! that is not [`Severity::Ok`] says why it matters, and those that a user can do something about name the command.

use std::fmt;

use serde::Serialize;

use super::facts::{AfXdpMode, AttachedProgram, Facts, InterfaceFacts, KernelVersion};
use super::links::Link;
use super::napi::NapiKnobs;

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
        judge_interface(facts, interface, findings.about(&interface.name));
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

fn judge_interface(facts: &Facts, interface: &InterfaceFacts, out: &mut Findings) {
    let Some(link) = &interface.link else {
        return out.add(
            Severity::Bad,
            "there is no such interface in this network namespace",
            "its port stays down until it appears",
            Some("ip link".into()),
        );
    };
    state(interface, link, out);
    mode(interface, link, out);
    for program in &interface.programs {
        attached(program, link, out);
    }
    if !interface.offloads_in_the_way.is_empty() {
        out.add(
            Severity::Info,
            format!("{} on", interface.offloads_in_the_way.join(", ")),
            "VLAN tags travel beside the frame; Clearway turns this off while it runs and gives it back",
            None,
        );
    }
    let untouched = NapiKnobs {
        defer_hard_irqs: 0,
        gro_flush_timeout: 0,
    };
    let ours = interface.programs.iter().any(AttachedProgram::is_ours);
    let expected = |knobs: &NapiKnobs| *knobs == untouched || ours && *knobs == NapiKnobs::BUSY_POLL;
    if let Some(knobs) = interface.napi.filter(|knobs| !expected(knobs)) {
        out.add(
            Severity::Info,
            format!(
                "napi_defer_hard_irqs {}, gro_flush_timeout {}",
                knobs.defer_hard_irqs, knobs.gro_flush_timeout
            ),
            "somebody has tuned interrupt mitigation; busy-polled ports set their own while they run",
            None,
        );
    }
    placement(facts, interface, out);
}

fn attached(program: &AttachedProgram, link: &Link, out: &mut Findings) {
    let (id, interface) = (program.id, &link.name);
    let holder = program.holder.as_ref().map(|holder| format!(", by {holder}"));
    let holder = holder.unwrap_or_default();
    if program.is_ours() {
        return out.ok(format!(
            "it is a port of Clearway{holder}: its XDP program (id {id}) is attached"
        ));
    }
    let name = program.name.as_deref().unwrap_or("?");
    let fix = match program.holder {
        Some(_) => "stop that program".to_owned(),
        None => format!("ip link set dev {interface} xdp off"),
    };
    out.add(
        Severity::Warn,
        format!("XDP program {name} (id {id}) is attached{holder}"),
        "a port refuses an interface that carries a program which is not Clearway's",
        Some(format!("{fix}, or `replace` in the config")),
    );
}

fn state(interface: &InterfaceFacts, link: &Link, out: &mut Findings) {
    let hardware = interface.hardware.as_ref();
    let driver = hardware.and_then(|h| h.driver.as_deref()).unwrap_or("unknown");
    let (rx, tx) = hardware.map_or((0, 0), |h| (h.queues.rx, h.queues.tx));
    out.ok(format!(
        "driver {driver}, {rx} rx and {tx} tx queues, MTU {}",
        link.mtu
    ));
    if !link.ethernet {
        out.add(
            Severity::Bad,
            "it is no Ethernet interface",
            "there are no MAC addresses to switch by",
            None,
        );
    }
    if !link.up {
        let fix = Some(format!("ip link set {} up", link.name));
        out.add(Severity::Bad, "it is down", "no frame passes", fix);
    } else if !link.carrier {
        out.add(
            Severity::Warn,
            "it has no carrier",
            "check the cable, the switch, or the veth's other end",
            None,
        );
    }
    if link.master.is_some() {
        out.add(
            Severity::Warn,
            "it belongs to a bridge, bond or VRF",
            "frames that Clearway takes never reach its master",
            Some(format!("ip link set {} nomaster", link.name)),
        );
    }
}

fn mode(interface: &InterfaceFacts, link: &Link, out: &mut Findings) {
    let jumbo = interface.xdp.is_some_and(|xdp| xdp.multi_buffer);
    match interface.af_xdp_mode {
        Some(AfXdpMode::ZeroCopy) => out.ok("the driver promises AF_XDP without a copy"),
        Some(AfXdpMode::NativeCopy) => out.add(
            Severity::Info,
            "the driver promises native AF_XDP, with one copy",
            "the kernel copies each frame and takes a system call per 32 frames to send",
            None,
        ),
        Some(AfXdpMode::Generic) => out.add(
            Severity::Warn,
            "the driver has no XDP: AF_XDP runs in generic mode",
            "each frame becomes a socket buffer first, at a fraction of the native rate",
            None,
        ),
        None => out.add(
            Severity::Info,
            "this kernel does not tell what XDP the driver can do",
            "the best mode is found by trying when the port is made",
            None,
        ),
    }
    // A page less headroom and the kernel's own room at its end: what a single-buffer native XDP frame can hold.
    if link.mtu > 3498 && interface.af_xdp_mode == Some(AfXdpMode::NativeCopy) && !jumbo {
        out.add(
            Severity::Warn,
            format!(
                "MTU {}, but the driver's XDP takes frames of one page only",
                link.mtu
            ),
            "the driver refuses XDP at this MTU, so that the port falls back to generic mode",
            Some(format!("ip link set {} mtu 3498", link.name)),
        );
    }
}

fn placement(facts: &Facts, interface: &InterfaceFacts, out: &mut Findings) {
    let node = interface
        .hardware
        .as_ref()
        .and_then(|hardware| hardware.numa_node);
    if let Some(local) = node
        .and_then(|node| facts.numa_nodes.get(&node))
        .filter(|_| facts.numa_nodes.len() > 1)
    {
        let far = list(facts.worker_cores.iter().filter(|core| !local.contains(core)));
        if !far.is_empty() {
            out.add(
                Severity::Warn,
                format!(
                    "it hangs on NUMA node {}, worker core {far} does not",
                    node.unwrap_or(0)
                ),
                "each frame crosses the link between the sockets",
                Some(format!("choose worker cores from {}", list(local.iter()))),
            );
        }
    }
    let on_workers: Vec<_> = interface
        .interrupts
        .iter()
        .filter(|irq| irq.cores.iter().any(|core| facts.worker_cores.contains(core)))
        .collect();
    let others: Vec<_> = facts
        .cores
        .online
        .iter()
        .filter(|core| !facts.worker_cores.contains(core))
        .collect();
    if let (Some(first), false) = (on_workers.first(), others.is_empty()) {
        let numbers = list(on_workers.iter().map(|irq| &irq.number));
        out.add(
            Severity::Info,
            format!("interrupt {numbers} is served on worker cores"),
            "without busy polling the driver's softirq takes the core from the worker; on another core both run",
            Some(format!("echo {} > /proc/irq/{}/smp_affinity_list", list(others.into_iter()), first.number)),
        );
    }
}

/// Numbers with commas between them.
fn list<'a>(numbers: impl Iterator<Item = &'a u32>) -> String {
    numbers.map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use clearway_wire::MacAddr;

    use super::super::ethtool::Queues;
    use super::super::facts::{Cores, HugePages, Interrupt};
    use super::super::links::{Hardware, IfIndex, OperState, XdpMode};
    use super::super::netdev::XdpFeatures;
    use super::super::program::Holder;
    use super::*;

    /// An interface as it should be.
    pub(in super::super) fn link(name: &str) -> Link {
        Link {
            name: name.to_owned(),
            ifindex: IfIndex(2),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            ethernet: true,
            mtu: 1500,
            up: true,
            carrier: true,
            oper_state: OperState::Up,
            kind: None,
            allocated: Queues { rx: 2, tx: 2 },
            bus: None,
            master: None,
            lower: None,
            lower_netnsid: None,
            promiscuity: 0,
            xdp: Vec::new(),
        }
    }

    /// A host on which there is nothing to complain about.
    fn healthy() -> Facts {
        Facts {
            kernel: "6.18.0".into(),
            kernel_version: KernelVersion(6, 18),
            af_xdp_refusal: None,
            bpf: true,
            unprivileged_bpf_disabled: Some(2),
            capabilities: ["NET_ADMIN", "NET_RAW", "IPC_LOCK", "SYS_ADMIN", "BPF"]
                .map(|name| (name, true))
                .into(),
            memlock: None,
            open_files: None,
            huge_pages: vec![HugePages {
                node: 0,
                kib: 2048,
                total: 512,
                free: 512,
            }],
            transparent_huge_pages: Some("madvise".into()),
            cores: Cores {
                online: vec![0, 1, 2, 3],
                isolated: vec![2, 3],
                nohz_full: vec![2, 3],
                governors: BTreeMap::new(),
                siblings: vec![vec![0, 2], vec![1, 3]],
            },
            worker_cores: vec![2, 3],
            numa_nodes: BTreeMap::from([(0, vec![0, 1, 2, 3])]),
            interfaces: vec![InterfaceFacts {
                name: "eth1".into(),
                link: Some(link("eth1")),
                hardware: Some(Hardware {
                    driver: Some("ice".into()),
                    queues: Queues { rx: 2, tx: 2 },
                    numa_node: Some(0),
                }),
                xdp: Some(XdpFeatures {
                    basic: true,
                    redirect: true,
                    zero_copy: true,
                    multi_buffer: true,
                    zero_copy_segments: 8,
                }),
                af_xdp_mode: Some(AfXdpMode::ZeroCopy),
                offloads_in_the_way: Vec::new(),
                programs: Vec::new(),
                napi: Some(NapiKnobs {
                    defer_hard_irqs: 0,
                    gro_flush_timeout: 0,
                }),
                interrupts: vec![Interrupt {
                    number: 30,
                    name: "eth1-TxRx-0".into(),
                    cores: vec![0],
                }],
            }],
        }
    }

    #[test]
    fn a_healthy_host_has_nothing_to_complain_about() {
        let complaints: Vec<_> = doctor(&healthy())
            .into_iter()
            .filter(|f| f.severity != Severity::Ok)
            .collect();
        assert_eq!(complaints, []);
    }

    /// A way to make a host ill, and the one finding that it must lead to.
    type Illness = (&'static str, Severity, &'static str, fn(&mut Facts));

    const ILLNESSES: &[Illness] = &[
        ("kernel", Severity::Bad, "can't be opened: denied", |f| {
            f.af_xdp_refusal = Some("denied".into())
        }),
        ("kernel", Severity::Bad, "no bpf(2)", |f| f.bpf = false),
        ("kernel", Severity::Info, "unprivileged users", |f| {
            f.unprivileged_bpf_disabled = Some(0)
        }),
        ("kernel", Severity::Info, "no XDP_MAX_TX_SKB_BUDGET", |f| {
            f.kernel_version = KernelVersion(6, 12)
        }),
        ("privileges", Severity::Bad, "CAP_NET_RAW missing", |f| {
            f.capabilities.insert("NET_RAW", false);
        }),
        ("privileges", Severity::Warn, "CAP_SYS_ADMIN is not", |f| {
            f.capabilities.insert("SYS_ADMIN", false);
        }),
        ("memory", Severity::Bad, "at most 8192 KiB", |f| {
            f.memlock = Some(8 << 20);
            f.capabilities.insert("IPC_LOCK", false);
        }),
        ("memory", Severity::Info, "at most 1024 files", |f| {
            f.open_files = Some(1024)
        }),
        ("memory", Severity::Warn, "no free huge pages: ", |f| {
            f.huge_pages[0].free = 0
        }),
        ("memory", Severity::Warn, "on NUMA node 1", |f| {
            drop(f.numa_nodes.insert(1, vec![4]))
        }),
        ("memory", Severity::Info, "always", |f| {
            f.transparent_huge_pages = Some("always".into())
        }),
        ("cores", Severity::Bad, "core 3 is not online", |f| {
            f.cores.online = vec![0, 1, 2]
        }),
        ("cores", Severity::Info, "core 3 is not isolated", |f| {
            f.cores.isolated = vec![2]
        }),
        ("cores", Severity::Warn, "governor powersave", |f| {
            f.cores.governors = [(2, "powersave".into())].into()
        }),
        ("cores", Severity::Warn, "share a physical core: 2,3", |f| {
            f.cores.siblings = vec![vec![2, 3]]
        }),
        ("eth1", Severity::Bad, "no such interface", |f| {
            f.interfaces[0].link = None
        }),
        ("eth1", Severity::Bad, "it is down", |f| {
            edit(f, |link| link.up = false)
        }),
        ("eth1", Severity::Warn, "no carrier", |f| {
            edit(f, |link| link.carrier = false)
        }),
        ("eth1", Severity::Warn, "belongs to a bridge", |f| {
            edit(f, |link| link.master = Some(IfIndex(9)))
        }),
        ("eth1", Severity::Bad, "no Ethernet", |f| {
            edit(f, |link| link.ethernet = false)
        }),
        ("eth1", Severity::Info, "with one copy", |f| {
            f.interfaces[0].af_xdp_mode = Some(AfXdpMode::NativeCopy)
        }),
        ("eth1", Severity::Warn, "generic mode", |f| {
            f.interfaces[0].af_xdp_mode = Some(AfXdpMode::Generic)
        }),
        ("eth1", Severity::Info, "does not tell", |f| {
            f.interfaces[0].af_xdp_mode = None
        }),
        ("eth1", Severity::Info, "rx-vlan-hw-parse on", |f| {
            f.interfaces[0].offloads_in_the_way = vec!["rx-vlan-hw-parse".into()];
        }),
        ("eth1", Severity::Warn, "XDP program lb (id 7)", |f| {
            f.interfaces[0].programs = vec![program("lb", None)];
        }),
        (
            "eth1",
            Severity::Warn,
            "XDP program lb (id 7) is attached, by balancer, pid 9",
            |f| f.interfaces[0].programs = vec![program("lb", Some("balancer"))],
        ),
        ("eth1", Severity::Warn, "XDP program clearway (id 7)", |f| {
            f.interfaces[0].programs = vec![program("clearway", None)];
        }),
        ("eth1", Severity::Info, "gro_flush_timeout 200000", |f| {
            f.interfaces[0].napi = Some(NapiKnobs::BUSY_POLL)
        }),
        ("eth1", Severity::Info, "interrupt 30 is served", |f| {
            f.interfaces[0].interrupts[0].cores = vec![2]
        }),
    ];

    fn program(name: &str, held_by: Option<&str>) -> AttachedProgram {
        AttachedProgram {
            mode: XdpMode::Native,
            id: 7,
            name: Some(name.to_owned()),
            holder: held_by.map(|command| Holder {
                pid: 9,
                command: Some(command.to_owned()),
            }),
        }
    }

    #[test]
    fn a_port_of_a_running_clearway_is_as_it_should_be() {
        let mut facts = healthy();
        facts.interfaces[0].programs = vec![program("clearway", Some("clearway"))];
        facts.interfaces[0].napi = Some(NapiKnobs::BUSY_POLL);
        let findings = doctor(&facts);
        assert!(
            findings.iter().all(|f| f.severity == Severity::Ok),
            "{findings:#?}"
        );
        let said = |f: &Finding| f.what.contains("a port of Clearway, by clearway, pid 9");
        assert!(findings.iter().any(said), "{findings:#?}");
    }

    fn edit(facts: &mut Facts, change: impl FnOnce(&mut Link)) {
        change(
            facts.interfaces[0]
                .link
                .as_mut()
                .expect("the healthy host has it"),
        );
    }

    #[test]
    fn each_illness_is_found_and_no_other() {
        for (subject, severity, what, make_ill) in ILLNESSES {
            let mut facts = healthy();
            make_ill(&mut facts);
            let found: Vec<_> = doctor(&facts)
                .into_iter()
                .filter(|f| f.severity != Severity::Ok)
                .collect();
            let [finding] = &found[..] else {
                panic!("{what}: {found:#?}")
            };
            assert!(finding.what.contains(what), "{what}: {finding}");
            assert_eq!(
                (finding.subject.as_str(), finding.severity),
                (*subject, *severity),
                "{finding}"
            );
            assert!(!finding.why.is_empty(), "{finding}");
        }
    }

    #[test]
    fn a_far_node_is_found() {
        let mut facts = healthy();
        facts.numa_nodes = BTreeMap::from([(0, vec![0, 1]), (1, vec![2, 3])]);
        facts.huge_pages.push(HugePages {
            node: 1,
            kib: 2048,
            total: 8,
            free: 8,
        });
        let found: Vec<_> = doctor(&facts)
            .into_iter()
            .filter(|f| f.severity != Severity::Ok)
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].to_string(),
            "warn  eth1: it hangs on NUMA node 0, worker core 2,3 does not\n      why: each frame crosses the link between the sockets\n      do:  choose worker cores from 0,1"
        );
    }
}
