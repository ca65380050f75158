//! Every field of a network's configuration, looked at.

use std::net::IpAddr;
use std::path::PathBuf;

use clearway_config::attach::{Addresses, Attach, Ipam, Segment, VfSettings, VhostSocket};
use clearway_config::{Name, Permissions, Port, Rate, RateLimit};
use clearway_wire::MacAddr;
use serde_json::{Map, Value};

use super::runtime::Runtime;
use super::segment::{self, Userspace};
use super::{AUTO, ConfError, Fields, Mode, NEEDS_INTERFACE, brief, sriov, userspace};
use crate::args;
use crate::environment::Target;
use crate::log::Level;
use crate::result::Dns;

/// The IPAM plugin that is the daemon's.
pub(super) const OWN_IPAM: &str = "clearway";

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamConf {
    /// There are none.
    None,
    /// This IPAM plugin.
    Delegate(String),
    /// A pool of the daemon.
    Own {
        /// Which.
        pool: Option<Name>,
        /// `ipam.addresses`
        addresses: Vec<IpAddr>,
    },
}

/// A network's configuration, without what is wrong with it.
#[derive(Clone, Debug)]
pub struct Network {
    /// What a container gets. Never `auto`: that is decided here.
    pub mode: Mode,
    /// Its segment.
    pub segment: Segment,
    /// `mtu`
    pub mtu: Option<u16>,
    /// The MAC address of `runtimeConfig` or of `args`.
    asked_mac: Option<MacAddr>,
    /// `mac`
    mac: Option<MacAddr>,
    /// The addresses of `runtimeConfig` or of `args`.
    asked_ips: Vec<IpAddr>,
    /// `rateLimit`, with what the runtime asks for.
    pub rate_limit: RateLimit,
    /// `antiSpoof`
    pub anti_spoof: bool,
    /// With mode `vhost-user`.
    vhost: Option<VhostConf>,
    /// `ipam`
    pub ipam: IpamConf,
    /// `dns`
    pub dns: Dns,
    /// With mode `vf`: which, and its settings.
    pub vf: Option<VfSettings>,
}

/// A vhost-user socket, whose path may depend on the container.
#[derive(Clone, Debug, Default)]
pub(super) struct VhostConf {
    /// What is said of it.
    pub(super) socket: VhostSocket,
    /// Below `socket.folder` each container has a folder of its own, named after its identifier.
    pub(super) folder_per_container: bool,
}

impl Network {
    /// Reads a configuration. The first thing that is wrong with it is the error.
    pub fn read(map: &Map<String, Value>) -> Result<Self, ConfError> {
        let fields = Fields::top(map)?;
        let runtime = Runtime::read(&fields)?;
        let mode = mode(&fields, &runtime)?;
        fields.check_mode(mode)?;
        runtime.check_mode(mode)?;
        let userspace = userspace::read(&fields)?;
        let (segment, vf) = match mode {
            Mode::Vf => (
                Some(Segment::Pf),
                Some(sriov::read(&fields, runtime.device.as_deref())?),
            ),
            _ => {
                let bridge = userspace.as_ref().map(|userspace| &userspace.bridge);
                (segment::read(&fields, bridge)?, None)
            }
        };
        let segment = segment.ok_or(ConfError::Missing {
            field: "bridgeDomain",
            advice: "say which layer 2 segment it is: `bridgeDomain`, `vlan`, `vni` or `trunk`",
        })?;
        let ipam = ipam(&fields, mode)?;
        if ipam == IpamConf::None && !runtime.ips.is_empty() {
            return Err(ConfError::Missing {
                field: "ipam",
                advice: "the runtime asks for addresses, and nothing in the network gives any: add `ipam`, or take them \
                         out of the pod",
            });
        }
        if fields.get("ipMasq", "true or false")? == Some(true) {
            return Err(fields.unsupported("ipMasq", "Clearway translates no addresses; remove it"));
        }
        common(&fields)?;
        Ok(Self {
            mode,
            segment,
            mtu: mtu(&fields)?,
            asked_mac: runtime.mac,
            mac: mac(&fields, "mac")?,
            asked_ips: runtime.ips.clone(),
            rate_limit: runtime.limited(rate_limit(&fields)?),
            anti_spoof: fields.get("antiSpoof", "true or false")?.unwrap_or(false),
            vhost: vhost(&fields, mode, userspace)?,
            ipam,
            dns: fields
                .get("dns", "an object as the CNI specification has it")?
                .unwrap_or_default(),
            vf,
        })
    }

    /// What the daemon is asked for. `given` is what an IPAM plugin has chosen that needs no interface.
    pub fn attach(&self, network: &str, target: &Target, given: Addresses) -> Attach {
        Attach {
            network: network.into(),
            netns: target.netns.clone(),
            pod: target.args.pod.clone(),
            kind: self.mode.kind(),
            segment: self.segment.clone(),
            mac: self.mac(target),
            mtu: self.mtu,
            rate_limit: self.rate_limit.clone(),
            anti_spoof: self.anti_spoof,
            vhost: self.vhost.as_ref().map(|vhost| vhost.of(target)),
            vf: self.vf.clone(),
            ipam: self.addresses(target, given),
        }
    }

    /// The MAC address: what is asked for this one container comes before what is said of all.
    pub fn mac(&self, target: &Target) -> Option<MacAddr> {
        self.asked_mac.or(target.args.mac).or(self.mac)
    }

    /// Where the daemon takes addresses from. `args` of the configuration goes before `CNI_ARGS` (CONVENTIONS.md).
    pub fn addresses(&self, target: &Target, given: Addresses) -> Ipam {
        match &self.ipam {
            IpamConf::None => Ipam::None,
            IpamConf::Delegate(name) if NEEDS_INTERFACE.contains(&name.as_str()) => Ipam::Awaited,
            IpamConf::Delegate(_) if self.mode == Mode::VhostUser => Ipam::Given(given),
            IpamConf::Delegate(_) => Ipam::Delegated,
            IpamConf::Own { pool, addresses } => {
                let wanted = [&self.asked_ips, &target.args.ips, addresses];
                let wanted = wanted.into_iter().find(|wanted| !wanted.is_empty());
                Ipam::Pool {
                    pool: pool.clone(),
                    wanted: wanted.cloned().unwrap_or_default(),
                }
            }
        }
    }
}

impl VhostConf {
    /// The socket of one container's interface. Two of one network must not share a path.
    fn of(&self, target: &Target) -> VhostSocket {
        let mut socket = self.socket.clone();
        // userspace-cni's way: folders and files are named after the beginning of the identifier.
        let container = &target.id.container;
        let short = container.get(..12).unwrap_or(container);
        if let Some(folder) = &mut socket.folder {
            if self.folder_per_container {
                folder.push(short);
                socket.own_folder = true;
            }
            socket
                .file
                .get_or_insert_with(|| format!("{short}-{}", target.id.interface));
        }
        socket
    }
}

/// The mode; `auto` is decided by what else is there.
fn mode(fields: &Fields, runtime: &Runtime) -> Result<Mode, ConfError> {
    let words = Mode::ALL.map(|mode| (mode.as_str(), Some(mode)));
    let words = [&words[..], &[("auto", None)]].concat();
    let has = |keys: &[&str]| keys.iter().any(|key| fields.raw(key).is_some());
    Ok(match fields.word("mode", &words)?.flatten() {
        Some(mode) => mode,
        None if runtime.device.is_some() || has(&["deviceID"]) => Mode::Vf,
        None if has(&["host", "container", "sharedDir"]) => Mode::VhostUser,
        None => AUTO,
    })
}

/// What has the same meaning in every mode, and is read for itself elsewhere.
fn common(fields: &Fields) -> Result<(), ConfError> {
    for key in ["daemonSocket", "logFile"] {
        absolute(fields, key)?;
    }
    fields.word("logLevel", &Level::WORDS)?;
    fields.get::<String>("name", "text")?;
    fields.get::<String>("cniVersion", "text").map(|_| ())
}

fn ipam(fields: &Fields, mode: Mode) -> Result<IpamConf, ConfError> {
    let Some(Value::Object(map)) = fields.raw("ipam") else {
        // Absent, or something else than an object: then this is the error.
        fields.object("ipam")?;
        return Ok(IpamConf::None);
    };
    let name = match map.get("type").filter(|name| !empty(name)) {
        Some(Value::String(name)) => name.as_str(),
        Some(other) => {
            return Err(ConfError::Value {
                field: "ipam.type".into(),
                value: brief(other),
                reason: "write the name of an IPAM plugin".into(),
            });
        }
        None if map.values().all(empty) => return Ok(IpamConf::None),
        None => {
            return Err(ConfError::Missing {
                field: "ipam.type",
                advice: "name the IPAM plugin, or write `clearway` for a pool of the daemon",
            });
        }
    };
    if mode == Mode::VhostUser && NEEDS_INTERFACE.contains(&name) {
        return Err(ConfError::Unsupported {
            field: "ipam.type".into(),
            value: format!("{name:?}"),
            advice: "it speaks through an interface, and mode `vhost-user` has none in the container's namespace: choose \
                     another IPAM plugin",
        });
    }
    if name != OWN_IPAM {
        return Ok(IpamConf::Delegate(name.into()));
    }
    let Some(ipam) = fields.object("ipam")? else {
        return Ok(IpamConf::None);
    };
    let texts: Vec<String> = ipam
        .get("addresses", "a list of IP addresses")?
        .unwrap_or_default();
    let addresses = args::addresses(texts.iter().map(String::as_str))
        .map_err(|reason| ipam.wrong("addresses", reason))?;
    Ok(IpamConf::Own {
        pool: ipam.get("pool", "the name of an address pool")?,
        addresses,
    })
}

fn empty(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

fn mtu(fields: &Fields) -> Result<Option<u16>, ConfError> {
    // ovs-cni's "as the bridge has it".
    if fields.raw("mtu").and_then(Value::as_u64) == Some(0) {
        return Ok(None);
    }
    let range = u64::from(*Port::MTU.start())..=u64::from(*Port::MTU.end());
    let mtu = fields.number("mtu", range, " (bytes)")?;
    Ok(mtu.and_then(|mtu| mtu.try_into().ok()))
}

/// The MAC address of one interface.
pub(super) fn mac(fields: &Fields, key: &str) -> Result<Option<MacAddr>, ConfError> {
    let expected = "a MAC address such as 02:00:00:00:00:01";
    let mac: Option<MacAddr> = fields.get(key, expected)?;
    match mac {
        Some(mac) if !mac.is_unicast() => Err(fields.wrong(
            key,
            "an interface's own address is neither zero nor a group's".into(),
        )),
        mac => Ok(mac),
    }
}

fn rate_limit(fields: &Fields) -> Result<RateLimit, ConfError> {
    let Some(both) = fields.object("rateLimit")? else {
        return Ok(RateLimit::default());
    };
    let expected = "an object with `packets`, `bits` (a second) and, if wanted, `burst` (such as \"20ms\")";
    let one = |key: &str| {
        let rate: Option<Rate> = both.get(key, expected)?;
        let Some(rate) = rate else { return Ok(None) };
        let bits = rate.bits.is_none_or(|bits| Rate::BITS.contains(&bits));
        let something = rate.bits.is_some() || rate.packets.is_some();
        let reason = if !something {
            "it limits nothing: write `packets`, `bits` or both"
        } else if rate.packets == Some(0) || !bits {
            "write 1 or more `packets`, and 1000 to 1000000000000 `bits`"
        } else if !Rate::BURST.contains(&rate.burst.get()) {
            "write a `burst` of 1ms to 10s"
        } else {
            return Ok(Some(rate));
        };
        Err(both.wrong(key, reason.into()))
    };
    Ok(RateLimit {
        receive: one("receive")?,
        transmit: one("transmit")?,
    })
}

fn vhost(fields: &Fields, mode: Mode, userspace: Option<Userspace>) -> Result<Option<VhostConf>, ConfError> {
    let socket = fields.object("socket")?;
    match (socket, userspace) {
        (Some(_), Some(_)) => Err(fields.together(
            "socket",
            if fields.raw("host").is_some() {
                "host"
            } else {
                "sharedDir"
            },
            "each says where the socket is; remove one",
        )),
        (None, Some(userspace)) => Ok(Some(userspace.vhost)),
        (Some(socket), None) => read_socket(&socket).map(Some),
        (None, None) if mode == Mode::VhostUser => Ok(Some(VhostConf::default())),
        (None, None) => Ok(None),
    }
}

fn read_socket(fields: &Fields) -> Result<VhostConf, ConfError> {
    let pairs = u64::from(*Port::QUEUE_PAIRS.start())..=u64::from(*Port::QUEUE_PAIRS.end());
    let permissions: Option<Permissions> = fields.get("mode", "permissions in octal such as \"0660\"")?;
    let socket = VhostSocket {
        folder: absolute(fields, "folder")?,
        own_folder: false,
        file: file_name(fields, "file")?,
        client: fields.get("client", "true or false")?.unwrap_or(false),
        queue_pairs: fields
            .number("queuePairs", pairs, "")?
            .and_then(|pairs| pairs.try_into().ok()),
        owner: not_empty(fields, "owner")?,
        group: not_empty(fields, "group")?,
        permissions,
        selinux_label: not_empty(fields, "selinuxLabel")?,
    };
    if socket.client {
        for key in ["owner", "group", "mode"] {
            if fields.raw(key).is_some() {
                return Err(fields.together(
                    key,
                    "client",
                    "a socket that the pod listens at is the pod's, and so are its rights; remove one",
                ));
            }
        }
    }
    Ok(VhostConf {
        socket,
        folder_per_container: false,
    })
}

/// An absolute path.
pub(super) fn absolute(fields: &Fields, key: &str) -> Result<Option<PathBuf>, ConfError> {
    let path: Option<PathBuf> = fields.get(key, "an absolute path")?;
    match path {
        Some(path) if !path.is_absolute() => Err(fields.wrong(key, "write an absolute path".into())),
        path => Ok(path),
    }
}

/// The name of a file, without a folder.
pub(super) fn file_name(fields: &Fields, key: &str) -> Result<Option<String>, ConfError> {
    let name = not_empty(fields, key)?;
    match name {
        Some(name) if name.contains(['/', '\0']) || matches!(name.as_str(), "." | "..") => {
            Err(fields.wrong(key, "write the name of a file, without a folder".into()))
        }
        name => Ok(name),
    }
}

pub(super) fn not_empty(fields: &Fields, key: &str) -> Result<Option<String>, ConfError> {
    let text: Option<String> = fields.get(key, "text")?;
    match text {
        Some(text) if text.is_empty() => {
            Err(fields.wrong(key, "it is empty; write something or remove it".into()))
        }
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests;
