//! What is known of an attachment, and what follows from it. Pure: nothing here asks anybody.

use std::path::PathBuf;

use clearway_config::attach::{
    Addresses, Attach, AttachKind, AttachedVf, Attachment, AttachmentId, AttachmentOwner, AttachmentState,
    Ipam, Segment, VhostSocket,
};
use clearway_config::{Name, Port, PortKind};
use clearway_sriov::inventory::VfState;
use clearway_sriov::saved::VfLease;
use clearway_wire::MacAddr;
use serde::{Deserialize, Serialize};

use super::vf;
use crate::daemon::AttachedPort;
use crate::host::pod::{DEVICE, PodNetns, Wanted};

/// The MTU of a pod's interface when nobody says another.
const MTU: u16 = 1500;
/// The file name of a vhost-user socket when nobody says another.
const SOCKET: &str = "vhost.sock";

/// What is known of an attachment: a record's value in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Known {
    pub(crate) attachment: Attachment,
    /// The namespace that it is in: another may have its path one day.
    pub(crate) netns: PodNetns,
    /// Its VF: how that was before, and is to be after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vf: Option<VfLease>,
}

impl Known {
    /// What is to be made of a request.
    pub(super) fn new(
        id: &AttachmentId,
        wanted: Attach,
        netns: PodNetns,
        domain: Option<Name>,
        addresses: Addresses,
        vf: Option<VfLease>,
        vhost_folder: impl FnOnce(&Name) -> PathBuf,
    ) -> Self {
        let port = port_name(id);
        let saved = vf.as_ref().map(|lease| &lease.saved);
        let mac = wanted.mac.unwrap_or_else(|| match saved {
            Some(vf) => own_mac(vf),
            None => mac_of(&wanted, id),
        });
        let mtu = wanted.mtu.unwrap_or_else(|| match saved {
            Some(vf) => {
                let mtu = vf.netdev.as_ref().map_or(0, |netdev| netdev.mtu);
                u16::try_from(mtu).unwrap_or(u16::MAX)
            }
            None => MTU,
        });
        let socket = (wanted.kind == AttachKind::VhostUser).then(|| {
            let socket = wanted.vhost.clone().unwrap_or_default();
            let folder = socket.folder.unwrap_or_else(|| vhost_folder(&port));
            folder.join(socket.file.as_deref().unwrap_or(SOCKET))
        });
        let attachment = Attachment {
            id: id.clone(),
            state: AttachmentState::Adding,
            domain,
            host_interface: (wanted.kind == AttachKind::Veth).then(|| port.to_string()),
            mac,
            mtu,
            addresses,
            socket,
            vf: vf.as_ref().map(attached),
            problems: Vec::new(),
            owner: AttachmentOwner::Cni,
            generation: 1,
            port: (wanted.kind != AttachKind::Vf).then_some(port),
            wanted,
        };
        Self {
            attachment,
            netns,
            vf,
        }
    }

    /// The same a step further.
    pub(super) fn at(&self, state: AttachmentState) -> Self {
        let mut next = self.clone();
        next.attachment.state = state;
        next.attachment.generation += 1;
        next
    }

    /// The name of its port, and what the control thread is to know of it; none: it is a VF, and has no port.
    pub(super) fn port(&self) -> Option<(Name, AttachedPort)> {
        let port = AttachedPort {
            id: self.attachment.id.clone(),
            port: port_of(&self.attachment)?,
            segment: self.attachment.wanted.segment.clone(),
            netns: self.netns.clone(),
        };
        Some((self.attachment.port.clone()?, port))
    }

    /// Its VF, if that has an interface which goes to the pod.
    pub(super) fn vf_with_interface(&self) -> Option<&VfLease> {
        self.vf.as_ref().filter(|lease| lease.saved.netdev.is_some())
    }

    /// The interface in the pod as it should be; none: there is none.
    pub(super) fn interface(&self) -> Option<Wanted<'_>> {
        let kind = match self.attachment.wanted.kind {
            AttachKind::Veth => "veth",
            AttachKind::Tap => "tun",
            AttachKind::VhostUser => return None,
            AttachKind::Vf => self.vf_with_interface().map(|_| DEVICE)?,
        };
        Some(Wanted {
            kind,
            mac: self.attachment.mac,
            mtu: u32::from(self.attachment.mtu),
            addresses: &self.attachment.addresses,
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.attachment.state == AttachmentState::Ready
    }
}

/// What can be known to be wrong without asking anybody.
pub(super) fn check(id: &AttachmentId, wanted: &Attach) -> Result<(), String> {
    let name = &id.interface;
    let printable = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':');
    if name.is_empty()
        || name.len() > 15
        || matches!(name.as_str(), "." | "..")
        || !name.chars().all(printable)
    {
        return Err(format!(
            "{name:?} is no interface name: 1 to 15 bytes without white space, `/` and `:`"
        ));
    }
    let mut container = id.container.chars();
    let first = container.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || !container.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
        return Err(format!(
            "{:?} is no container ID: a letter or a digit, then these, `_`, `.` and `-`",
            id.container
        ));
    }
    if id.container.len() > AttachmentId::MAX_CONTAINER {
        return Err(format!(
            "a container ID of {} bytes is too long: it may have {}",
            id.container.len(),
            AttachmentId::MAX_CONTAINER
        ));
    }
    if let Some(mtu) = wanted.mtu
        && !Port::MTU.contains(&mtu)
    {
        let (min, max) = (Port::MTU.start(), Port::MTU.end());
        return Err(format!("an MTU of {mtu} bytes is not between {min} and {max}"));
    }
    if let Some(mac) = wanted.mac
        && !mac.is_unicast()
    {
        return Err(format!("{mac} is no station's MAC address"));
    }
    if wanted.vhost.is_some() && wanted.kind != AttachKind::VhostUser {
        return Err(format!(
            "a socket has no meaning for an attachment of kind {}",
            wanted.kind
        ));
    }
    if wanted.ipam.comes_later() && wanted.kind == AttachKind::VhostUser {
        return Err(
            "addresses are awaited by an interface, and a socket has none in the pod: give them with the request".to_owned(),
        );
    }
    if let Some(socket) = &wanted.vhost {
        check_socket(socket)?;
    }
    check_vf(wanted)?;
    if !wanted.netns.is_absolute() {
        return Err(format!(
            "{} is no absolute path of a network namespace",
            wanted.netns.display()
        ));
    }
    Ok(())
}

/// Whether what belongs to a VF is there for one, and for nothing else.
fn check_vf(wanted: &Attach) -> Result<(), String> {
    let kind = wanted.kind;
    let is_vf = kind == AttachKind::Vf;
    if is_vf != wanted.vf.is_some() || is_vf != (wanted.segment == Segment::Pf) {
        return Err(format!(
            "an attachment of kind vf has `vf` and the segment `pf`, and no other has: this one is of kind {kind}"
        ));
    }
    if is_vf && (wanted.anti_spoof || !wanted.rate_limit.is_empty()) {
        return Err(
            "the frames of a VF do not pass here: say `spoofchk` and `max-tx-rate` in place of anti-spoofing and a rate limit"
                .to_owned(),
        );
    }
    wanted.vf.as_ref().map_or(Ok(()), vf::check)
}

/// What a VF without an interface can't have.
pub(super) fn check_interface(wanted: &Attach, lease: &VfLease) -> Result<(), String> {
    if lease.saved.netdev.is_some() {
        return Ok(());
    }
    let what = match wanted {
        Attach { mtu: Some(_), .. } => "an MTU (`mtu`)",
        Attach {
            ipam: Ipam::Awaited, ..
        } => "addresses of a plugin that asks through an interface (`dhcp`)",
        _ => return Ok(()),
    };
    let (pci, driver) = (lease.saved.pci, driver_of(&lease.saved));
    Err(format!(
        "VF {pci} has no interface, {driver} drives it, so it can't have {what}: take that out of the network"
    ))
}

/// Whether the path of a socket is one, wherever the daemon was started.
fn check_socket(socket: &VhostSocket) -> Result<(), String> {
    if let Some(folder) = &socket.folder
        && !folder.is_absolute()
    {
        return Err(format!(
            "the folder of a vhost-user socket is an absolute path, and {:?} is none",
            folder.display().to_string()
        ));
    }
    if socket.own_folder && socket.folder.is_none() {
        return Err("`own-folder` is said of a `folder`, and there is none: remove it".to_owned());
    }
    match socket.file.as_deref() {
        Some(file) if file.contains(['/', '\0']) || matches!(file, "" | "." | "..") => Err(format!(
            "the file of a vhost-user socket is a name without `/`, and {file:?} is none"
        )),
        _ => Ok(()),
    }
}

/// The port of an attachment, and our end of its veth pair: 14 characters that only this one has.
fn port_name(id: &AttachmentId) -> Name {
    let hash = rapidhash::v3::rapidhash_v3(id.to_string().as_bytes());
    let text = format!("cw{:012x}", hash >> 16);
    Name::new(text).expect("letters and digits")
}

/// A locally administered address, the same whenever the same pod comes back.
fn mac_of(wanted: &Attach, id: &AttachmentId) -> MacAddr {
    let whose = match &wanted.pod {
        Some(pod) => format!("{pod} {} {}", wanted.network, id.interface),
        None => id.to_string(),
    };
    let [a, b, c, d, e, f, ..] = rapidhash::v3::rapidhash_v3(whose.as_bytes()).to_be_bytes();
    MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// The address that a VF has by itself; zero where none can be known.
fn own_mac(vf: &VfState) -> MacAddr {
    let interfaces = vf.netdev.as_ref().and_then(|netdev| netdev.mac);
    let admin = vf.admin.map(|admin| admin.mac);
    interfaces.or(admin).unwrap_or(MacAddr::ZERO)
}

fn driver_of(vf: &VfState) -> String {
    vf.driver.clone().unwrap_or_else(|| "none".to_owned())
}

/// What everybody may know of a lease.
fn attached(lease: &VfLease) -> AttachedVf {
    AttachedVf {
        pci: lease.saved.pci.to_string(),
        pf: lease.pf.to_string(),
        index: lease.index,
        driver: driver_of(&lease.saved),
        interface: lease.saved.netdev.as_ref().map(|netdev| netdev.name.clone()),
        generation: lease.generation,
    }
}

/// What the engine is to have; none: nothing of it.
fn port_of(attachment: &Attachment) -> Option<Port> {
    let wanted = &attachment.wanted;
    let kind = match wanted.kind {
        AttachKind::Veth => PortKind::AfXdp,
        AttachKind::Tap => PortKind::Tap,
        AttachKind::VhostUser => PortKind::VhostUser,
        AttachKind::Vf => return None,
    };
    let mut port = Port::new(kind);
    port.mtu = Some(attachment.mtu);
    port.rate_limit = wanted.rate_limit.clone();
    if wanted.anti_spoof {
        port.allowed_macs = vec![attachment.mac];
    }
    match wanted.kind {
        AttachKind::Veth => port.interface = attachment.host_interface.clone(),
        AttachKind::Tap => {
            port.interface = Some(attachment.id.interface.clone());
            port.netns = Some(wanted.netns.display().to_string());
            port.mac = Some(attachment.mac);
            port.persistent = true;
        }
        AttachKind::VhostUser => {
            let socket = wanted.vhost.clone().unwrap_or_default();
            port.socket.clone_from(&attachment.socket);
            port.client = socket.client;
            port.queue_pairs = socket.queue_pairs;
            if !socket.client {
                port.owner = socket.owner;
                port.group = socket.group;
                port.permissions = socket.permissions;
                port.selinux_label = socket.selinux_label;
            }
        }
        AttachKind::Vf => {}
    }
    Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pod::testbed::Container;
    use crate::host::testing::isolate;

    fn told(container: &str, vhost: serde_json::Value) -> Result<(), String> {
        let id = AttachmentId {
            container: container.to_owned(),
            interface: "net1".to_owned(),
        };
        let wanted = serde_json::json!({
            "network": "n", "netns": "/run/netns/a", "kind": "vhost-user", "segment": {"domain": "red"}, "vhost": vhost
        });
        let wanted = serde_json::from_value(wanted).map_err(|error| error.to_string())?;
        check(&id, &wanted)
    }

    fn socket(folder: &str, file: &str) -> serde_json::Value {
        serde_json::json!({"folder": folder, "file": file, "client": false})
    }

    #[test]
    fn a_sockets_path_is_checked() {
        for (folder, file) in [("/run/a", "s"), ("/", "..."), ("/run/../a", "a.sock")] {
            assert_eq!(told("c", socket(folder, file)), Ok(()), "{folder} {file}");
        }
        for (folder, file, named) in [
            ("run/a", "s", "\"run/a\""),
            ("", "s", "\"\""),
            ("/run/a", "", "\"\""),
            ("/run/a", ".", "\".\""),
            ("/run/a", "..", "\"..\""),
            ("/run/a", "../b", "\"../b\""),
            ("/run/a", "a\0b", "\"a\\0b\""),
        ] {
            let told = told("c", socket(folder, file)).expect_err("it is no path of a socket");
            assert!(told.contains(named), "{folder:?} {file:?}: {told}");
        }
        let told = told("c", serde_json::json!({"own-folder": true})).expect_err("there is no folder");
        assert!(told.contains("own-folder"), "{told}");
    }

    fn port(wanted: serde_json::Value) -> Port {
        let id = AttachmentId {
            container: "c".to_owned(),
            interface: "net1".to_owned(),
        };
        let mut whole =
            serde_json::json!({"network": "n", "netns": "/run/netns/a", "segment": {"domain": "red"}});
        if let (Some(whole), serde_json::Value::Object(more)) = (whole.as_object_mut(), wanted) {
            whole.extend(more);
        }
        let wanted = serde_json::from_value(whole).expect("a request");
        let pod = Container::start();
        let netns = PodNetns::open(&pod.path()).expect("a namespace");
        let folder = |port: &Name| PathBuf::from("/run/vhost").join(port.as_str());
        let known = Known::new(&id, wanted, netns, None, Addresses::default(), None, folder);
        known.port().expect("it has one").1.port
    }

    #[test]
    fn what_is_asked_for_reaches_the_port() {
        isolate();
        let (receive, transmit) = (
            serde_json::json!({"packets": 1000, "burst": "5ms"}),
            serde_json::json!({"bits": 1_000_000, "burst": "20ms"}),
        );
        let limit = serde_json::json!({"receive": receive, "transmit": transmit});
        let common = serde_json::json!({
            "mtu": 1400, "mac": "02:00:00:00:00:07", "rate-limit": limit, "anti-spoof": true
        });
        let own: MacAddr = "02:00:00:00:00:07".parse().expect("a MAC address");
        for (kind, more) in [
            ("veth", serde_json::json!({})),
            ("tap", serde_json::json!({})),
            (
                "vhost-user",
                serde_json::json!({
                    "owner": "107", "group": "108", "permissions": "0660", "selinux-label": "u:r:t", "queue-pairs": 2
                }),
            ),
            (
                "vhost-user",
                serde_json::json!({
                    "owner": "107", "group": "108", "permissions": "0660", "selinux-label": "u:r:t", "client": true
                }),
            ),
        ] {
            let mut wanted = common.clone();
            wanted["kind"] = kind.into();
            if kind == "vhost-user" {
                wanted["vhost"] = more.clone();
            }
            let port = port(wanted);
            assert_eq!(
                serde_json::to_value(&port.rate_limit).expect("JSON"),
                limit,
                "{kind}"
            );
            assert_eq!((port.mtu, &port.allowed_macs), (Some(1400), &vec![own]), "{kind}");
            match kind {
                "veth" => assert!(port.interface.is_some_and(|name| name.starts_with("cw"))),
                "tap" => {
                    assert_eq!(port.interface.as_deref(), Some("net1"));
                    assert_eq!(port.netns.as_deref(), Some("/run/netns/a"));
                    assert!(port.persistent && port.mac == Some(own));
                }
                _ => {
                    // What the guest's side makes is the guest's.
                    let ours = more.get("client").is_none();
                    let rights = (port.owner.as_deref(), port.group.as_deref());
                    assert_eq!(
                        rights,
                        if ours {
                            (Some("107"), Some("108"))
                        } else {
                            (None, None)
                        }
                    );
                    assert_eq!((port.permissions.is_some(), port.client), (ours, !ours));
                    assert_eq!(port.selinux_label.as_deref(), ours.then_some("u:r:t"));
                    assert_eq!(port.queue_pairs, ours.then_some(2));
                    let socket = port.socket.expect("a socket");
                    assert!(socket.starts_with("/run/vhost") && socket.ends_with("vhost.sock"));
                }
            }
        }
        // Nobody has asked for it.
        let plain = port(serde_json::json!({"kind": "veth"}));
        assert_eq!((plain.mtu, plain.allowed_macs), (Some(MTU), vec![]));
    }

    #[test]
    fn a_containers_id_has_an_end() {
        let most = "c".repeat(AttachmentId::MAX_CONTAINER);
        assert_eq!(told(&most, socket("/a", "s")), Ok(()));
        let told = told(&(most + "c"), socket("/a", "s")).expect_err("it is too long");
        assert!(told.contains("256 bytes") && told.len() < 100, "{told}");
    }
}
