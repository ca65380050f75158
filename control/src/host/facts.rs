//! What there is to know about this host: data without judgement, for [`super::doctor`], bug reports and the API.
//!
//! Everything is read, nothing is tried out but `socket(AF_XDP)`; a fact that cannot be had (an old kernel, a
//! missing privilege, a container without /sys) is absent, never an error. `/sys/class/net` is not used here,
//! because it may show another namespace's interfaces (see [`super::sysfs`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Host;
use super::links::{Hardware, Link, XdpMode};
use super::napi::NapiKnobs;
use super::netdev::XdpFeatures;
use super::program::Holder;
use super::{offload, program};

/// The capabilities that Clearway can make use of, by their bit (capabilities(7)).
const CAPABILITIES: [(&str, u32); 5] = [
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("IPC_LOCK", 14),
    ("SYS_ADMIN", 21),
    ("BPF", 39),
];

/// Everything about the host.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Facts {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// Its first two numbers.
    pub(crate) kernel_version: KernelVersion,
    /// Why `socket(AF_XDP)` does not work, or nothing.
    pub(crate) af_xdp_refusal: Option<String>,
    /// The kernel has bpf(2).
    pub(crate) bpf: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub(crate) unprivileged_bpf_disabled: Option<u8>,
    /// Effective capabilities, of those that matter.
    pub(crate) capabilities: BTreeMap<&'static str, bool>,
    /// RLIMIT_MEMLOCK in bytes; `None`: unlimited.
    pub(crate) memlock: Option<u64>,
    /// RLIMIT_NOFILE: files that may be open at a time; `None`: unlimited.
    pub(crate) open_files: Option<u64>,
    /// Reserved huge pages by size and node.
    pub(crate) huge_pages: Vec<HugePages>,
    /// The mode of transparent huge pages: always, madvise, never.
    pub(crate) transparent_huge_pages: Option<String>,
    /// Cores, by what they are for.
    pub(crate) cores: Cores,
    /// The cores that workers run on, or will.
    pub(crate) worker_cores: Vec<u32>,
    /// NUMA nodes and their cores.
    pub(crate) numa_nodes: BTreeMap<u32, Vec<u32>>,
    /// The interfaces that were asked about.
    pub(crate) interfaces: Vec<InterfaceFacts>,
}

/// Major and minor number of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct KernelVersion(pub(crate) u16, pub(crate) u16);

/// Huge pages of one size on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HugePages {
    /// The NUMA node.
    pub(crate) node: u32,
    /// Size of a page in KiB.
    pub(crate) kib: u64,
    /// Reserved.
    pub(crate) total: u64,
    /// Not yet in use.
    pub(crate) free: u64,
}

/// The host's cores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cores {
    /// Running.
    pub(crate) online: Vec<u32>,
    /// Kept free of the scheduler (`isolcpus=`).
    pub(crate) isolated: Vec<u32>,
    /// Kept free of the timer tick (`nohz_full=`).
    pub(crate) nohz_full: Vec<u32>,
    /// The frequency governor of each core that has one.
    pub(crate) governors: BTreeMap<u32, String>,
    /// Groups of cores that are hardware threads of one another.
    pub(crate) siblings: Vec<Vec<u32>>,
}

/// How AF_XDP will run on an interface, as its driver promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AfXdpMode {
    /// Frames are received into our memory.
    ZeroCopy,
    /// The driver runs XDP; frames are copied once.
    NativeCopy,
    /// XDP runs on socket buffers.
    Generic,
}

/// What there is to know about an interface.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct InterfaceFacts {
    /// The name that was asked about.
    pub(crate) name: String,
    /// `None`: there is no such interface in this namespace.
    pub(crate) link: Option<Link>,
    /// Driver, queues, NUMA node.
    pub(crate) hardware: Option<Hardware>,
    /// The driver's promises; `None` before Linux 6.3.
    pub(crate) xdp: Option<XdpFeatures>,
    /// What they mean for AF_XDP.
    pub(crate) af_xdp_mode: Option<AfXdpMode>,
    /// Offloads that keep a part of the frame outside of it.
    pub(crate) offloads_in_the_way: Vec<String>,
    /// The XDP programs attached: hook, number, name.
    pub(crate) programs: Vec<AttachedProgram>,
    /// Interrupt mitigation.
    pub(crate) napi: Option<NapiKnobs>,
    /// The device's interrupts.
    pub(crate) interrupts: Vec<Interrupt>,
}

/// An XDP program that is on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AttachedProgram {
    /// Its hook.
    pub(crate) mode: XdpMode,
    /// Its number.
    pub(crate) id: u32,
    /// Its name, if we may know it.
    pub(crate) name: Option<String>,
    /// The process whose link keeps it there, if one does and we may know it.
    pub(crate) holder: Option<Holder>,
}

impl AttachedProgram {
    /// Whether it is that of a Clearway that runs.
    pub(crate) fn is_ours(&self) -> bool {
        self.name.as_deref().is_some_and(program::is_ours) && self.holder.is_some()
    }
}

/// An interrupt and where it is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Interrupt {
    /// Its number (`/proc/irq/N`).
    pub(crate) number: u32,
    /// Its name in /proc/interrupts.
    pub(crate) name: String,
    /// The cores that may serve it.
    pub(crate) cores: Vec<u32>,
}

impl Facts {
    /// Gathers the facts about the host and about these interfaces of the `Host`'s namespace.
    pub(crate) fn gather(host: &mut Host, interfaces: &[String], worker_cores: &[u32]) -> Self {
        let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let interrupts = parse_interrupts(&interrupts);
        let holders = program::holders();
        let unprivileged = read("/proc/sys/kernel/unprivileged_bpf_disabled");
        Self {
            kernel_version: parse_version(&kernel),
            kernel,
            af_xdp_refusal: try_af_xdp(),
            // The setting exists if and only if the kernel was built with bpf(2).
            bpf: unprivileged.is_some(),
            unprivileged_bpf_disabled: unprivileged.and_then(|text| text.parse().ok()),
            capabilities: capabilities(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default()),
            memlock: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            huge_pages: huge_pages(Path::new("/sys/devices/system/node")),
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .as_deref()
                .and_then(chosen),
            cores: cores(Path::new("/sys/devices/system/cpu")),
            worker_cores: worker_cores.to_vec(),
            numa_nodes: numa_nodes(Path::new("/sys/devices/system/node")),
            interfaces: interfaces
                .iter()
                .map(|name| InterfaceFacts::gather(host, name, &interrupts, &holders))
                .collect(),
        }
    }
}

impl InterfaceFacts {
    fn gather(
        host: &mut Host,
        name: &str,
        interrupts: &[(u32, String)],
        holders: &BTreeMap<u32, Holder>,
    ) -> Self {
        let link = host.link(name).ok();
        let Some(of) = link.clone() else {
            return Self::missing(name);
        };
        let xdp = host.xdp_features(&of);
        let napi_irqs = host
            .napis(&of)
            .unwrap_or_default()
            .iter()
            .filter_map(|napi| napi.irq)
            .collect();
        Self {
            name: name.to_owned(),
            hardware: host.hardware(&of).ok(),
            xdp,
            af_xdp_mode: xdp.map(promised_mode),
            offloads_in_the_way: host
                .features(&of)
                .map(|f| offload::in_the_way(&f))
                .unwrap_or_default(),
            programs: of
                .xdp
                .iter()
                .map(|program| AttachedProgram {
                    mode: program.mode,
                    id: program.id,
                    name: program::name(program.id),
                    holder: holders.get(&program.id).cloned(),
                })
                .collect(),
            napi: host.napi_knobs(&of).ok(),
            interrupts: interrupts_of(&of, napi_irqs, interrupts),
            link,
        }
    }

    fn missing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            link: None,
            hardware: None,
            xdp: None,
            af_xdp_mode: None,
            offloads_in_the_way: Vec::new(),
            programs: Vec::new(),
            napi: None,
            interrupts: Vec::new(),
        }
    }
}

fn promised_mode(xdp: XdpFeatures) -> AfXdpMode {
    match xdp {
        XdpFeatures { zero_copy: true, .. } => AfXdpMode::ZeroCopy,
        XdpFeatures {
            basic: true,
            redirect: true,
            ..
        } => AfXdpMode::NativeCopy,
        _ => AfXdpMode::Generic,
    }
}

fn try_af_xdp() -> Option<String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let outcome = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    outcome.err().map(|errno| std::io::Error::from(errno).to_string())
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn parse_version(release: &str) -> KernelVersion {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    KernelVersion(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Reads `CapEff` of /proc/self/status.
fn capabilities(status: &str) -> BTreeMap<&'static str, bool> {
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .into_iter()
        .map(|(name, bit)| (name, effective >> bit & 1 == 1))
        .collect()
}

/// The kernel's list format: `0-3,8`.
fn parse_list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// The word in brackets of a sysfs choice: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// The directories `PREFIX<number>` in a directory, by number.
fn numbered(directory: &Path, prefix: &str) -> BTreeMap<u32, PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect()
}

fn huge_pages(nodes: &Path) -> Vec<HugePages> {
    let mut found = Vec::new();
    for (node, path) in numbered(nodes, "node") {
        for entry in fs::read_dir(path.join("hugepages"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let kib = name
                .to_str()
                .and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
            let number = |file: &str| read(entry.path().join(file)).and_then(|text| text.parse().ok());
            if let (Some(kib), Some(total), Some(free)) =
                (kib, number("nr_hugepages"), number("free_hugepages"))
            {
                found.push(HugePages {
                    node,
                    kib,
                    total,
                    free,
                });
            }
        }
    }
    found.sort_by_key(|pages| (pages.node, pages.kib));
    found
}

fn numa_nodes(nodes: &Path) -> BTreeMap<u32, Vec<u32>> {
    numbered(nodes, "node")
        .into_iter()
        .map(|(node, path)| {
            (
                node,
                read(path.join("cpulist"))
                    .as_deref()
                    .map(parse_list)
                    .unwrap_or_default(),
            )
        })
        .collect()
}

fn cores(cpus: &Path) -> Cores {
    let list = |file: &str| {
        read(cpus.join(file))
            .as_deref()
            .map(parse_list)
            .unwrap_or_default()
    };
    let each = numbered(cpus, "cpu");
    let governors = each
        .iter()
        .filter_map(|(core, path)| Some((*core, read(path.join("cpufreq/scaling_governor"))?)))
        .collect();
    let siblings: BTreeSet<_> = each
        .values()
        .filter_map(|path| Some(parse_list(&read(path.join("topology/thread_siblings_list"))?)))
        .filter(|group| group.len() > 1)
        .collect();
    Cores {
        online: list("online"),
        isolated: list("isolated"),
        nohz_full: list("nohz_full"),
        governors,
        siblings: siblings.into_iter().collect(),
    }
}

/// Number and name of each interrupt in /proc/interrupts: `24:  1  0  IO-APIC  5-edge  ACPI:Ged`.
fn parse_interrupts(text: &str) -> Vec<(u32, String)> {
    let cores = text
        .lines()
        .next()
        .map_or(0, |head| head.split_whitespace().count());
    text.lines()
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let words: Vec<_> = rest.split_whitespace().skip(cores).collect();
            Some((number.trim().parse().ok()?, words.join(" ")))
        })
        .collect()
}

/// The interrupts of an interface: those that its NAPIs name, those of its device, those that bear its name.
fn interrupts_of(link: &Link, napi_irqs: BTreeSet<u32>, interrupts: &[(u32, String)]) -> Vec<Interrupt> {
    let mut numbers = napi_irqs;
    if let Some(bus) = &link.bus {
        let device = Path::new("/sys/bus")
            .join(&bus.bus)
            .join("devices")
            .join(&bus.device);
        // A virtio device's vectors hang on the PCI function above it.
        let vectors = device.canonicalize().ok().and_then(|device| {
            device
                .ancestors()
                .map(|path| path.join("msi_irqs"))
                .find(|path| path.is_dir())
        });
        numbers.extend(
            vectors
                .into_iter()
                .flat_map(|path| numbered(&path, "").into_keys()),
        );
    }
    // Drivers name vectors `eth0`, `eth0-TxRx-0`, `i40e-eth0-rx-1`: the name between two separators.
    let bears_name = |text: &str| {
        text.split([' ', '-', '@', ':', ','])
            .any(|word| word == link.name)
    };
    interrupts
        .iter()
        .filter(|(number, name)| numbers.contains(number) || bears_name(name))
        .map(|(number, name)| Interrupt {
            number: *number,
            name: name.clone(),
            cores: read(format!("/proc/irq/{number}/effective_affinity_list"))
                .or_else(|| read(format!("/proc/irq/{number}/smp_affinity_list")))
                .as_deref()
                .map(parse_list)
                .unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_formats_are_read() {
        assert_eq!(parse_version("6.18.44-fc-v669"), KernelVersion(6, 18));
        assert_eq!(parse_version("5.4"), KernelVersion(5, 4));
        assert_eq!(parse_version(""), KernelVersion(0, 0));
        assert!(KernelVersion(5, 18) < KernelVersion(6, 1));
        assert_eq!(parse_list("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(parse_list(""), Vec::<u32>::new());
        assert_eq!(parse_list("(null)"), Vec::<u32>::new());
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        let held = capabilities("Name:\tx\nCapEff:\t0000008000003000\n");
        assert!(held["NET_ADMIN"] && held["NET_RAW"] && held["BPF"]);
        assert!(!held["SYS_ADMIN"] && !held["IPC_LOCK"]);
    }

    #[test]
    fn interrupts_are_found_by_their_name() {
        let text = "           CPU0       CPU1\n  1:  3  4  IO-APIC  1-edge  i8042\n 30:  5  0  PCI-MSI 524288-edge  eth1-TxRx-0\n 31: 0 0 PCI-MSI 524289-edge eth10-TxRx-0\nNMI:  0  0  Non-maskable interrupts\n";
        let all = parse_interrupts(text);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], (1, "IO-APIC 1-edge i8042".to_owned()));
        let link = super::super::doctor::tests::link("eth1");
        let found = interrupts_of(&link, BTreeSet::new(), &all);
        assert_eq!(found.iter().map(|irq| irq.number).collect::<Vec<_>>(), [30]);
        let found = interrupts_of(&link, BTreeSet::from([1]), &all);
        assert_eq!(found.iter().map(|irq| irq.number).collect::<Vec<_>>(), [1, 30]);
    }
}
