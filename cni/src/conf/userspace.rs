//! userspace-cni's fields: `sharedDir`, `host` and `container`, for a vhost-user socket.

use clearway_config::Name;
use clearway_config::attach::VhostSocket;

use super::network::{VhostConf, absolute, file_name, not_empty};
use super::segment::{Userspace, UserspaceBridge, vlan};
use super::{ConfError, Fields};

/// One side of the socket.
#[derive(Default)]
struct Side {
    /// `vhost.mode`: this side connects.
    connects: Option<bool>,
    socketfile: Option<String>,
    group: Option<String>,
    bridge: UserspaceBridge,
}

/// Reads what is there of them.
pub(super) fn read(fields: &Fields) -> Result<Option<Userspace>, ConfError> {
    let folder = absolute(fields, "sharedDir")?;
    let (host, container) = (fields.object("host")?, fields.object("container")?);
    if folder.is_none() && host.is_none() && container.is_none() {
        return Ok(None);
    }
    let ours = host.as_ref().map(side).transpose()?.unwrap_or_default();
    let theirs = container.as_ref().map(side).transpose()?.unwrap_or_default();
    if let Some(host) = &host {
        let advice = "the host's side is always in a bridge domain: write `bridge`";
        let net = host.word(
            "netType",
            &[
                ("bridge", true),
                ("", true),
                ("interface", false),
                ("none", false),
            ],
        )?;
        if net == Some(false) {
            return Err(host.unsupported("netType", advice));
        }
    }
    if let (Some(ours), Some(theirs)) = (ours.connects, theirs.connects)
        && ours == theirs
    {
        let reason = "one side must be `client` and the other `server`: both say the same".to_owned();
        return Err(fields.wrong("host", reason));
    }
    let socket = VhostSocket {
        folder,
        // What the container's side says is only told to the container there: the host's comes first.
        file: ours.socketfile.or(theirs.socketfile),
        client: ours
            .connects
            .or(theirs.connects.map(|connects| !connects))
            .unwrap_or(false),
        group: ours.group.or(theirs.group),
        ..VhostSocket::default()
    };
    if socket.client && socket.group.is_some() {
        return Err(fields.wrong(
            "host",
            "with `vhost.mode: client` the pod makes the socket, whose group is its own: remove `vhost.group`".into(),
        ));
    }
    Ok(Some(Userspace {
        vhost: VhostConf {
            folder_per_container: socket.folder.is_some(),
            socket,
        },
        bridge: ours.bridge,
    }))
}

fn side(fields: &Fields) -> Result<Side, ConfError> {
    // Which program forwards and which one answers there: here it is always Clearway.
    fields.word("engine", &[("ovs-dpdk", ()), ("vpp", ())])?;
    if fields.word("iftype", &[("vhostuser", true), ("memif", false)])? == Some(false) {
        return Err(fields.unsupported("iftype", "Clearway has no memif: use `vhostuser` on both sides"));
    }
    fields.word(
        "netType",
        &[("bridge", ()), ("", ()), ("interface", ()), ("none", ())],
    )?;
    let mut side = Side::default();
    if let Some(vhost) = fields.object("vhost")? {
        side.connects = vhost.word("mode", &[("client", true), ("server", false)])?;
        side.socketfile = file_name(&vhost, "socketfile")?;
        side.group = not_empty(&vhost, "group")?;
    }
    if let Some(bridge) = fields.object("bridge")? {
        let name: Option<Name> = bridge.get("bridgeName", "the name of a bridge domain")?;
        // Its predecessor, a number that is a name all the same.
        let id: Option<u32> = bridge.get("bridgeId", "a number")?;
        side.bridge = UserspaceBridge {
            name: name.or_else(|| Name::new(id?.to_string()).ok()),
            vlan: vlan(&bridge, "vlanId")?,
        };
    }
    Ok(side)
}
