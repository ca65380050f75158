//! What is to be said of one interface.

use super::{Findings, Severity, list};
use crate::host::facts::{AfXdpMode, AttachedProgram, Facts, InterfaceFacts};
use crate::host::links::Link;
use crate::host::napi::NapiKnobs;

pub(super) fn judge(facts: &Facts, interface: &InterfaceFacts, out: &mut Findings) {
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
