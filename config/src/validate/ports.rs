//! Ports and cross-connects.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path as FilePath;

use clearway_wire::Vid;

use super::{BRIDGE_DOMAIN, Findings, PORT, entry};
use crate::carried::Frames;
use crate::path::Path;
use crate::port::{BusyPoll, Checksum, Service, Steering, XdpMode};
use crate::problem::Problem;
use crate::values::{PcpPolicy, Period, PortKind, Queues, TrunkItem};
use crate::{Api, BridgeDomain, Name, Port, Rate, Spec, TagProtocol};

pub(super) fn check(spec: &Spec, findings: &mut Findings) {
    let mut interfaces: BTreeMap<(Option<&str>, &str), &Name> = BTreeMap::new();
    let mut files: BTreeMap<&FilePath, Path> = BTreeMap::new();
    let mut sockets: BTreeMap<&FilePath, Path> =
        [(spec.api.socket.as_path(), Path::root("api").at("socket"))].into();
    let by_vlan = spec.domains_by_vlan();
    for (name, port) in &spec.ports {
        let path = entry(PORT, name);
        kind(port, &path, findings);
        if let Some(interface) = &port.interface {
            interface_name(interface, port.kind, path.at("interface"), findings);
            // Two ways to name one namespace are found when the second port is opened.
            let place = (port.netns.as_deref(), interface.as_str());
            if let Some(&other) = interfaces.get(&place) {
                let (interface, other) = (interface.clone(), other.clone());
                findings.add(path.at("interface"), Problem::InterfaceTwice { interface, other });
            } else {
                interfaces.insert(place, name);
            }
        }
        for (key, file) in [("read", &port.read), ("write", &port.write)] {
            let Some(file) = file else { continue };
            // Reading one capture through several ports is fine.
            if let Some(other) = files.get(file.as_path()).filter(|_| key == "write") {
                findings.add(
                    path.at(key),
                    Problem::FileTwice {
                        file: file.clone(),
                        other: other.clone(),
                    },
                );
            } else {
                files.insert(file, path.at(key));
            }
        }
        if let Some(socket) = &port.socket {
            let at = path.at("socket");
            socket_path(socket, &at, findings);
            if let Some(other) = sockets.get(socket.as_path()) {
                let (path, other) = (socket.clone(), other.clone());
                findings.add(at, Problem::SocketTwice { path, other });
            } else {
                sockets.insert(socket, at);
            }
        }
        if let Some(netns) = &port.netns {
            namespace(netns, path.at("netns"), findings);
        }
        numbers(port, &path, findings);
        queues(spec, port, &path, findings);
        addresses(port, &path, findings);
        service(spec, port, &path, &by_vlan, findings);
        if port.service() == Service::None {
            without_effect(spec, name, port, &path, findings);
        }
    }
}

/// Keys that do nothing on a port of no bridge domain: a cross-connect's end, or an uplink for VXLAN alone.
fn without_effect(spec: &Spec, name: &Name, port: &Port, path: &Path, findings: &mut Findings) {
    let mut ends = spec.cross_connects.iter().flat_map(|pair| [&pair.0, &pair.1]);
    let crossed = ends.any(|end| end == name);
    let any = [
        ("pcp", port.pcp != PcpPolicy::default()),
        ("isolated", port.isolated),
        ("allowed-macs", !port.allowed_macs.is_empty()),
    ];
    // What comes out of a tunnel is learned and flooded as other frames are.
    let crossed_only = [
        ("learning", !port.learning),
        ("learn-limit", port.learn_limit.is_some()),
        ("storm-control", !port.storm_control.is_empty()),
    ];
    let keys = any.iter().chain(crossed_only.iter().filter(|_| crossed));
    for (key, _) in keys.filter(|(_, set)| *set) {
        let problem = if crossed {
            Problem::CrossConnectKey
        } else {
            Problem::UnderlayKey
        };
        findings.add(path.at(*key), problem);
    }
}

/// The keys that ports of one kind have, and whether they are set.
fn keys_of_kinds(port: &Port) -> [(PortKind, Vec<(&'static str, bool)>); 4] {
    let plain = Port::new(port.kind);
    let af_xdp = vec![
        ("interface", port.interface.is_some()),
        ("steering", port.steering != Steering::default()),
        ("mode", port.mode != XdpMode::default()),
        ("queues", port.queues != Queues::default()),
        ("busy-poll", port.busy_poll != BusyPoll::default()),
        ("busy-poll-budget", port.busy_poll_budget.is_some()),
        ("ring-size", port.ring_size.is_some()),
        ("frames", port.frames.is_some()),
        ("replace", port.replace != plain.replace),
        ("checksum", port.checksum != Checksum::default()),
    ];
    let pcapng = vec![
        ("read", port.read.is_some()),
        ("write", port.write.is_some()),
        ("loop", port.repeat),
        ("rate", port.rate.is_some()),
    ];
    let tap = vec![
        ("netns", port.netns.is_some()),
        ("mac", port.mac.is_some()),
        ("persistent", port.persistent),
    ];
    let mut vhost_user = vec![
        ("socket", port.socket.is_some()),
        ("client", port.client),
        ("queue-pairs", port.queue_pairs.is_some()),
        ("max-guest-memory", port.max_guest_memory.is_some()),
    ];
    vhost_user.extend(socket_rights(port));
    [
        (PortKind::AfXdp, af_xdp),
        (PortKind::Pcapng, pcapng),
        (PortKind::Tap, tap),
        (PortKind::VhostUser, vhost_user),
    ]
}

/// The keys for the rights of a socket that we make.
fn socket_rights(port: &Port) -> [(&'static str, bool); 4] {
    [
        ("owner", port.owner.is_some()),
        ("group", port.group.is_some()),
        ("permissions", port.permissions.is_some()),
        ("selinux-label", port.selinux_label.is_some()),
    ]
}

/// Keys of another kind than the port's, keys that its kind needs.
fn kind(port: &Port, path: &Path, findings: &mut Findings) {
    let kind = port.kind;
    for (owner, keys) in keys_of_kinds(port) {
        for (key, _) in keys.into_iter().filter(|(_, set)| *set) {
            let shared = kind == PortKind::Tap && ["interface", "queue-pairs"].contains(&key);
            if owner != kind && !shared {
                findings.add(path.at(key), Problem::OtherKind { owner, kind });
            }
        }
    }
    let needs = |keys| Problem::PortNeeds { kind, keys };
    match kind {
        PortKind::AfXdp | PortKind::Tap if port.interface.is_none() => {
            findings.add(path.clone(), needs("the key `interface`"))
        }
        PortKind::Pcapng if port.read.is_none() && port.write.is_none() => {
            findings.add(path.clone(), needs("the key `read`, `write` or both"));
        }
        PortKind::Pcapng if port.read.is_none() => {
            for (key, set) in [("loop", port.repeat), ("rate", port.rate.is_some())] {
                if set {
                    findings.add(path.at(key), Problem::Without { other: "read" });
                }
            }
        }
        PortKind::VhostUser if port.socket.is_none() => {
            findings.add(path.clone(), needs("the key `socket`"));
        }
        PortKind::VhostUser if port.client => {
            for (key, _) in socket_rights(port).into_iter().filter(|(_, set)| *set) {
                findings.add(path.at(key), Problem::ClientSocket);
            }
        }
        _ => {}
    }
}

/// A path that a socket can be made at or reached by.
fn socket_path(socket: &FilePath, path: &Path, findings: &mut Findings) {
    if !socket.is_absolute() {
        let socket = socket.to_owned();
        findings.add(path.clone(), Problem::SocketRelative { path: socket });
        return;
    }
    let whole = socket.as_os_str().as_bytes();
    let name = socket.file_name().filter(|_| !whole.ends_with(b"/"));
    let Some(name) = name else {
        let path_written = socket.to_owned();
        findings.add(path.clone(), Problem::SocketFolder { path: path_written });
        return;
    };
    if whole.len() > Api::MAX_SOCKET && name.len() > Port::SOCKET_NAME {
        let problem = Problem::SocketNameTooLong {
            length: name.len(),
            most: Port::SOCKET_NAME,
        };
        findings.add(path.clone(), problem);
    }
}

/// A network namespace: a name below /run/netns, or an absolute path.
fn namespace(netns: &str, path: Path, findings: &mut Findings) {
    let is_name = !netns.contains('/') && !matches!(netns, "" | "." | "..");
    if !is_name && !netns.starts_with('/') {
        let netns = netns.to_owned();
        findings.add(path, Problem::Netns { netns });
    }
}

/// The rules of the kernel for interface names: dev_valid_name() in net/core/dev.c.
pub(super) fn interface_name(name: &str, kind: PortKind, path: Path, findings: &mut Findings) {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it has more than 15 bytes, the most that the kernel takes"
    } else if name == "." || name == ".." {
        "the kernel does not take `.` and `..`"
    } else if name
        .chars()
        .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
    {
        "it has a `/`, a `:` or a space, which the kernel does not take"
    } else if kind == PortKind::Tap && name.contains('%') {
        "it has a `%`, which the kernel would put a number for"
    } else {
        return;
    };
    findings.add(
        path,
        Problem::Interface {
            name: name.to_string(),
            reason,
        },
    );
}

fn numbers(port: &Port, path: &Path, findings: &mut Findings) {
    if let Some(size) = port.ring_size {
        let path = path.at("ring-size");
        if Port::RING_SIZE.contains(&size) && !size.is_power_of_two() {
            // In the range, so that both neighbours exist.
            let above = size.next_power_of_two();
            findings.add(
                path,
                Problem::NotPowerOfTwo {
                    found: size,
                    below: above / 2,
                    above,
                },
            );
        } else {
            findings.range(path, &size, &Port::RING_SIZE);
        }
    }
    if let Some(frames) = port.frames {
        findings.range(path.at("frames"), &frames, &Port::FRAMES);
        if let Some(ring_size) = port
            .ring_size
            .filter(|&size| frames < size && Port::FRAMES.contains(&frames))
        {
            findings.add(path.at("frames"), Problem::FewFrames { frames, ring_size });
        }
    }
    if let Some(budget) = port.busy_poll_budget {
        findings.range(path.at("busy-poll-budget"), &budget, &Port::BUSY_POLL_BUDGET);
    }
    if let Some(pairs) = port.queue_pairs {
        findings.range(path.at("queue-pairs"), &pairs, &Port::QUEUE_PAIRS);
    }
    if let Some(memory) = port.max_guest_memory {
        findings.range(path.at("max-guest-memory"), &memory, &Port::GUEST_MEMORY);
    }
    if let Some(rate) = port.rate {
        findings.range(path.at("rate"), &rate, &Port::RATE);
    }
    if let Some(mtu) = port.mtu {
        findings.range(path.at("mtu"), &mtu, &Port::MTU);
    }
    if let Some(limit) = port.learn_limit {
        findings.range(path.at("learn-limit"), &limit, &BridgeDomain::LEARN_LIMIT);
    }
    let storm = &port.storm_control;
    for (key, rate) in [
        ("broadcast", storm.broadcast),
        ("unknown", storm.unknown),
        ("multicast", storm.multicast),
    ] {
        if let Some(rate) = rate {
            findings.range(path.at("storm-control").at(key), &rate, &(1..=u32::MAX));
        }
    }
    let limits = &port.rate_limit;
    for (key, rate) in [("receive", &limits.receive), ("transmit", &limits.transmit)] {
        if let Some(rate) = rate {
            rate_limit(rate, &path.at("rate-limit").at(key), findings);
        }
    }
}

fn rate_limit(rate: &Rate, path: &Path, findings: &mut Findings) {
    if let Some(packets) = rate.packets {
        findings.range(path.at("packets"), &packets, &(1..=u32::MAX));
    }
    if let Some(bits) = rate.bits {
        findings.range(path.at("bits"), &bits, &Rate::BITS);
    }
    if rate.packets.is_none() && rate.bits.is_none() {
        findings.add(path.clone(), Problem::NoRate);
    }
    let time = Period::from(*Rate::BURST.start())..=Period::from(*Rate::BURST.end());
    findings.range(path.at("burst"), &rate.burst, &time);
}

/// `queues`, and which worker serves which.
fn queues(spec: &Spec, port: &Port, path: &Path, findings: &mut Findings) {
    if let Queues::List(list) = &port.queues {
        if list.is_empty() {
            findings.add(path.at("queues"), Problem::NoQueues);
        }
        for (i, queue) in list.iter().enumerate() {
            if list[..i].contains(queue) {
                findings.add(path.at("queues").at(i), Problem::QueueTwice { queue: *queue });
            }
        }
    }
    let count = spec.engine.workers.len();
    for (&queue, &worker) in &port.workers {
        let path = path.at("workers").at(queue.to_string().as_str());
        if count == 0 {
            findings.add(path.clone(), Problem::WorkersAutomatic { worker });
        } else if usize::from(worker) >= count {
            findings.add(path.clone(), Problem::NoSuchWorker { worker, count });
        }
        if matches!(&port.queues, Queues::List(list) if !list.contains(&queue)) {
            findings.add(path, Problem::QueueNotUsed { queue });
        } else if matches!(port.kind, PortKind::VhostUser | PortKind::Tap) && queue >= port.queue_pairs() {
            let pairs = port.queue_pairs();
            findings.add(path, Problem::PairNotUsed { queue, pairs });
        }
    }
}

fn addresses(port: &Port, path: &Path, findings: &mut Findings) {
    if let Some(mac) = port.mac {
        findings.unicast_mac(path.at("mac"), mac);
    }
    let path = path.at("allowed-macs");
    for (i, &mac) in port.allowed_macs.iter().enumerate() {
        findings.unicast_mac(path.at(i), mac);
        if let Some(first) = port.allowed_macs[..i].iter().position(|&other| other == mac) {
            findings.add(
                path.at(i),
                Problem::MacTwice {
                    mac,
                    other: path.at(first),
                },
            );
        }
    }
}

/// The keys of a port's layer 2 service that are set.
fn service_keys(port: &Port) -> Vec<&'static str> {
    let keys = [
        ("access", port.access.is_some()),
        ("trunk", !port.trunk.is_empty()),
        ("tunnel", port.tunnel.is_some()),
        ("native", port.native.is_some()),
    ];
    keys.into_iter()
        .filter(|(_, set)| *set)
        .map(|(key, _)| key)
        .collect()
}

fn service(spec: &Spec, port: &Port, path: &Path, by_vlan: &BTreeMap<Vid, &Name>, findings: &mut Findings) {
    let keys = service_keys(port);
    let conflict = keys.iter().filter(|&&key| key != "native").count() > 1
        || (port.native.is_some() && (port.access.is_some() || port.tunnel.is_some()));
    if conflict {
        findings.add(path.clone(), Problem::Services { keys: keys.clone() });
    } else if let Some(domain) = port.native.as_ref().filter(|_| port.trunk.is_empty()) {
        findings.add(
            path.at("native"),
            Problem::NativeAlone {
                domain: domain.clone(),
            },
        );
    }
    for (key, domain) in [
        ("access", &port.access),
        ("tunnel", &port.tunnel),
        ("native", &port.native),
    ] {
        let Some(domain) = domain else { continue };
        findings.exists(path.at(key), domain, BRIDGE_DOMAIN, &spec.bridge_domains);
        if port.kind == PortKind::AfXdp && port.steering == Steering::Shared {
            findings.add(path.at(key), Problem::SharedUntagged);
        }
    }
    for (i, item) in port.trunk.iter().enumerate() {
        trunk_item(spec, port, i, item, path, by_vlan, findings);
    }
}

/// The outer tag of an item with one (protocol, first and last VID, inner VID).
fn span(item: &TrunkItem) -> (TagProtocol, Vid, Vid, Option<Vid>) {
    match item {
        TrunkItem::All => (TagProtocol::Dot1q, Vid::MIN, Vid::MAX, None),
        TrunkItem::Vid(vid) => (TagProtocol::Dot1q, *vid, *vid, None),
        TrunkItem::Range(first, last) => (TagProtocol::Dot1q, *first, *last, None),
        TrunkItem::Map(map) => (map.protocol(), map.vlan, map.vlan, map.inner_vlan),
    }
}

/// One item of a trunk: what it names, and whether an earlier item has the same frames.
fn trunk_item(
    spec: &Spec,
    port: &Port,
    i: usize,
    item: &TrunkItem,
    path: &Path,
    by_vlan: &BTreeMap<Vid, &Name>,
    findings: &mut Findings,
) {
    let at = path.at("trunk").at(i);
    let domain = match item {
        TrunkItem::Map(map) => {
            let path = at.at("bridge-domain");
            findings.exists(path, &map.bridge_domain, BRIDGE_DOMAIN, &spec.bridge_domains);
            Some(&map.bridge_domain)
        }
        TrunkItem::Vid(vlan) => {
            let domain = by_vlan.get(vlan).copied();
            if domain.is_none() {
                findings.add(at.clone(), Problem::TrunkNoDomain { vlan: *vlan });
            }
            domain
        }
        // New bridge domains join a range or `all` as they come.
        TrunkItem::All | TrunkItem::Range(..) => None,
    };
    if let Some(domain) = domain.filter(|&domain| port.native.as_ref() == Some(domain)) {
        findings.add(
            at.clone(),
            Problem::NativeTagged {
                domain: domain.clone(),
            },
        );
    }
    let (protocol, first, last, inner) = span(item);
    for (j, other) in port.trunk[..i].iter().enumerate() {
        let (other_protocol, other_first, other_last, other_inner) = span(other);
        // An object takes its VID out of `all`: that is how one VLAN of many is translated.
        let carved = matches!(
            (item, other),
            (TrunkItem::All, TrunkItem::Map(_)) | (TrunkItem::Map(_), TrunkItem::All)
        );
        // Of frames with two tags, an item with the inner VID takes its own, and one without it the others.
        let apart = protocol != other_protocol || inner != other_inner;
        if carved || apart || last < other_first || other_last < first {
            continue;
        }
        let (vlan, other) = (first.max(other_first), path.at("trunk").at(j));
        findings.add(at.clone(), Problem::TrunkOverlap { vlan, other });
        return;
    }
}

pub(super) fn cross_connects(spec: &Spec, findings: &mut Findings) {
    let section = Path::root("cross-connects");
    let mut ends: BTreeMap<&Name, Path> = BTreeMap::new();
    for (i, pair) in spec.cross_connects.iter().enumerate() {
        if pair.0 == pair.1 {
            findings.add(section.at(i), Problem::CrossConnectSelf { port: pair.0.clone() });
            continue;
        }
        for (end, name) in [&pair.0, &pair.1].into_iter().enumerate() {
            let path = section.at(i).at(end);
            findings.exists(path.clone(), name, PORT, &spec.ports);
            if let Some(other) = ends.get(name) {
                let problem = Problem::CrossConnectTwice {
                    port: name.clone(),
                    other: other.clone(),
                };
                findings.add(path.clone(), problem);
            } else {
                ends.insert(name, section.at(i));
            }
            let Some(port) = spec.ports.get(name) else {
                continue;
            };
            if let Some(&key) = service_keys(port).first() {
                findings.add(
                    path.clone(),
                    Problem::CrossConnectService {
                        port: name.clone(),
                        key,
                    },
                );
            }
            if port.steering == Steering::Shared {
                findings.add(path.clone(), Problem::CrossConnectShared { port: name.clone() });
            }
            let vtep = spec
                .vteps
                .iter()
                .find(|(_, vtep)| vtep.port.as_ref() == Some(name));
            if let Some((vtep, _)) = vtep {
                findings.add(
                    path,
                    Problem::CrossConnectVtep {
                        port: name.clone(),
                        vtep: vtep.clone(),
                    },
                );
            }
        }
    }
}

/// Whether these frames of a port have the VID of an underlay, or no tag when the underlay has none.
pub(super) fn is_underlay(frames: Frames, underlay: Option<Vid>) -> bool {
    match (frames, underlay) {
        (Frames::Every, _) | (Frames::Untagged, None) => true,
        (Frames::Tagged { protocol, vlan, .. }, Some(underlay)) => {
            protocol == TagProtocol::Dot1q && vlan == underlay
        }
        _ => false,
    }
}
