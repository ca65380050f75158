//! The doctor on hosts that nobody has at hand.

use std::collections::BTreeMap;

use clearway_wire::MacAddr;

use super::*;
use crate::host::ethtool::Queues;
use crate::host::facts::{AfXdpMode, AttachedProgram, Cores, HugePages, InterfaceFacts, Interrupt};
use crate::host::links::{Hardware, IfIndex, Link, OperState, XdpMode};
use crate::host::napi::NapiKnobs;
use crate::host::netdev::XdpFeatures;
use crate::host::program::Holder;

/// An interface as it should be.
pub(in crate::host) fn link(name: &str) -> Link {
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
