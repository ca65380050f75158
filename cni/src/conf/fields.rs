//! The table of every field of a network's configuration, and the reading of single ones.
//!
//! Nothing is read that is not in the table, and all that is in it is read: a test in this file holds the parser to it,
//! and one in `tests/docs.rs` the documentation.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ConfError, Mode, brief, cut};

/// A field of a network's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its path: `socket.folder` is `folder` in the object `socket`.
    pub path: &'static str,
    /// The modes in which it has a meaning.
    pub modes: &'static [Mode],
    /// A value that it may have, as JSON.
    pub example: &'static str,
    /// Whatever its value is, it is let through: it is the runtime's, or for everybody.
    pub opaque: bool,
}

const ALL: &[Mode] = &Mode::ALL;
const PORTS: &[Mode] = &[Mode::Veth, Mode::Tap, Mode::VhostUser];
const VHOST: &[Mode] = &[Mode::VhostUser];
const VF: &[Mode] = &[Mode::Vf];

const fn field(path: &'static str, modes: &'static [Mode], example: &'static str) -> Field {
    Field {
        path,
        modes,
        example,
        opaque: false,
    }
}

const fn opaque(path: &'static str, example: &'static str) -> Field {
    Field {
        path,
        modes: ALL,
        example,
        opaque: true,
    }
}

/// Every field. Beside these, all whose names begin with `cni.dev/` are the runtime's.
pub const FIELDS: &[Field] = &[
    // The protocol's.
    field("cniVersion", ALL, r#""1.0.0""#),
    opaque("cniVersions", r#"["1.0.0", "1.1.0"]"#),
    field("name", ALL, r#""blue""#),
    opaque("type", r#""clearway-cni""#),
    opaque("capabilities", r#"{"ips": true}"#),
    opaque("prevResult", r#"{"cniVersion": "1.0.0"}"#),
    opaque("delegates", "[]"),
    opaque("disableCheck", "true"),
    opaque("disableGC", "true"),
    field("ipMasq", ALL, "false"),
    field("dns", ALL, r#"{"nameservers": ["10.9.0.1"]}"#),
    // Ours.
    field("mode", ALL, r#""auto""#),
    field("bridgeDomain", PORTS, r#""blue""#),
    field("vlan", ALL, "100"),
    field("vni", PORTS, "5000"),
    field("trunk", PORTS, r#"[{"id": 42}, {"minID": 1000, "maxID": 1010}]"#),
    field("trunk.id", PORTS, "42"),
    field("trunk.minID", PORTS, "1000"),
    field("trunk.maxID", PORTS, "1010"),
    field("native", PORTS, r#""blue""#),
    field("mtu", ALL, "1450"),
    field("mac", ALL, r#""02:00:00:00:00:01""#),
    field(
        "rateLimit",
        PORTS,
        r#"{"receive": {"bits": 1000000, "packets": 1000}}"#,
    ),
    field("rateLimit.receive", PORTS, r#"{"bits": 1000000}"#),
    field("rateLimit.transmit", PORTS, r#"{"packets": 1000}"#),
    field("antiSpoof", PORTS, "true"),
    field("socket", VHOST, r#"{"queuePairs": 2}"#),
    field("socket.folder", VHOST, r#""/run/vhost/web""#),
    field("socket.file", VHOST, r#""net1.sock""#),
    field("socket.client", VHOST, "true"),
    field("socket.queuePairs", VHOST, "2"),
    field("socket.owner", VHOST, r#""107""#),
    field("socket.group", VHOST, r#""hugetlbfs""#),
    field("socket.mode", VHOST, r#""0660""#),
    field(
        "socket.selinuxLabel",
        VHOST,
        r#""system_u:object_r:container_file_t:s0""#,
    ),
    field("daemonSocket", ALL, r#""/run/clearway/clearway.sock""#),
    field("logLevel", ALL, r#""info""#),
    field("logFile", ALL, r#""/var/log/clearway-cni.log""#),
    // Addresses. With another plugin's `ipam.type` the rest of `ipam` is that plugin's.
    field("ipam", ALL, r#"{"type": "clearway", "pool": "blue"}"#),
    field("ipam.type", ALL, r#""clearway""#),
    field("ipam.pool", ALL, r#""blue""#),
    field("ipam.addresses", ALL, r#"["10.9.0.5"]"#),
    // What the runtime asks for this one container.
    field("runtimeConfig", ALL, r#"{"mac": "02:00:00:00:00:01"}"#),
    field("runtimeConfig.mac", ALL, r#""02:00:00:00:00:01""#),
    field("runtimeConfig.ips", ALL, r#"["10.9.0.5/24"]"#),
    field(
        "runtimeConfig.bandwidth",
        PORTS,
        r#"{"ingressRate": 1000000, "ingressBurst": 20000}"#,
    ),
    field("runtimeConfig.bandwidth.ingressRate", PORTS, "1000000"),
    field("runtimeConfig.bandwidth.ingressBurst", PORTS, "20000"),
    field("runtimeConfig.bandwidth.egressRate", PORTS, "1000000"),
    field("runtimeConfig.bandwidth.egressBurst", PORTS, "20000"),
    field("runtimeConfig.deviceID", VF, r#""0000:03:02.0""#),
    field(
        "runtimeConfig.CNIDeviceInfoFile",
        ALL,
        r#""/var/run/k8s.cni.cncf.io/devinfo/cni/x.json""#,
    ),
    opaque(
        "args",
        r#"{"cni": {"ips": ["10.9.0.5"], "mac": "02:00:00:00:00:01"}}"#,
    ),
    // sriov-cni's.
    field("deviceID", VF, r#""0000:03:02.0""#),
    field("pciBusID", VF, r#""0000:03:02.0""#),
    field("vlanQoS", VF, "4"),
    field("vlanProto", VF, r#""802.1ad""#),
    field("spoofchk", VF, r#""off""#),
    field("trust", VF, r#""on""#),
    field("link_state", VF, r#""enable""#),
    field("min_tx_rate", VF, "100"),
    field("max_tx_rate", VF, "200"),
    // ovs-cni's.
    field("bridge", PORTS, r#""br0""#),
    // userspace-cni's.
    field("sharedDir", VHOST, r#""/run/vhost""#),
    field("host", VHOST, HOST),
    field("host.engine", VHOST, r#""ovs-dpdk""#),
    field("host.iftype", VHOST, r#""vhostuser""#),
    field("host.netType", VHOST, r#""bridge""#),
    field("host.vhost", VHOST, r#"{"mode": "client"}"#),
    field("host.vhost.mode", VHOST, r#""client""#),
    field("host.vhost.socketfile", VHOST, r#""net1.sock""#),
    field("host.vhost.group", VHOST, r#""hugetlbfs""#),
    field("host.bridge", VHOST, r#"{"bridgeName": "br0"}"#),
    field("host.bridge.bridgeName", VHOST, r#""br0""#),
    field("host.bridge.bridgeId", VHOST, "4"),
    field("host.bridge.vlanId", VHOST, "100"),
    field(
        "container",
        VHOST,
        r#"{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface"}"#,
    ),
    field("container.engine", VHOST, r#""ovs-dpdk""#),
    field("container.iftype", VHOST, r#""vhostuser""#),
    field("container.netType", VHOST, r#""interface""#),
    field("container.vhost", VHOST, r#"{"mode": "server"}"#),
    field("container.vhost.mode", VHOST, r#""server""#),
    field("container.vhost.socketfile", VHOST, r#""net1.sock""#),
    field("container.vhost.group", VHOST, r#""hugetlbfs""#),
    field("container.bridge", VHOST, r#"{"bridgeName": "br0"}"#),
    field("container.bridge.bridgeName", VHOST, r#""br0""#),
    field("container.bridge.bridgeId", VHOST, "4"),
    field("container.bridge.vlanId", VHOST, "100"),
];

const HOST: &str =
    r#"{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge", "bridge": {"bridgeName": "br0"}}"#;

/// Fields of other plugins that have no counterpart here, and what to do instead.
pub const FOREIGN: &[(&str, &str)] = &[
    (
        "kubeconfig",
        "clearway-cni does not talk to Kubernetes: remove it and name the folder of the sockets in `sharedDir` or \
         `socket.folder`",
    ),
    (
        "host.memif",
        "Clearway has no memif: use `iftype: vhostuser` on both sides",
    ),
    (
        "container.memif",
        "Clearway has no memif: use `iftype: vhostuser` on both sides",
    ),
    ("ofport_request", "there are no OpenFlow ports here: remove it"),
    (
        "interface_type",
        "it is Open vSwitch's: say what the container gets with `mode`",
    ),
    ("configuration_path", "there is no ovsdb here: remove it"),
    ("socket_file", "there is no ovsdb here: remove it"),
    ("link_state_check_retries", "there is no ovsdb here: remove it"),
    ("link_state_check_interval", "there is no ovsdb here: remove it"),
    ("master", "name the VF by `deviceID`"),
];

/// The fields of one object of a configuration.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    /// The object's path with a dot behind it; empty for the whole.
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The whole of a configuration.
    pub fn top(map: &'a Map<String, Value>) -> Result<Self, ConfError> {
        Self::of(String::new(), map)
    }

    fn of(prefix: String, map: &'a Map<String, Value>) -> Result<Self, ConfError> {
        let fields = Self { prefix, map };
        for (key, value) in map {
            fields.check_known(key, value)?;
        }
        Ok(fields)
    }

    fn check_known(&self, key: &str, value: &Value) -> Result<(), ConfError> {
        let path = self.path(key);
        let runtimes = self.prefix.is_empty() && key.starts_with("cni.dev/");
        if runtimes || find(&path).is_some() {
            return Ok(());
        }
        if let Some((_, advice)) = FOREIGN.iter().find(|(foreign, _)| *foreign == path) {
            return Err(ConfError::Unsupported {
                field: path,
                value: brief(value),
                advice,
            });
        }
        let siblings = FIELDS.iter().filter_map(|field| {
            let name = field.path.strip_prefix(self.prefix.as_str())?;
            // What is twice as long is no slip, and comparing a megabyte takes seconds.
            let near = !name.contains('.') && key.len() < 2 * name.len() + 2;
            near.then_some((name, field.path))
        });
        let distance = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &key.to_lowercase());
        let nearest = siblings
            .map(|(name, path)| (distance(name), name, path))
            .filter(|(distance, name, _)| *distance <= name.chars().count().div_ceil(2))
            .min_by_key(|(distance, ..)| *distance);
        Err(ConfError::Unknown {
            field: cut(path),
            nearest: nearest.map(|(.., path)| path),
        })
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A field's value, if it is there. `null` is absent: programs in Go write that.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        debug_assert!(
            find(&self.path(key)).is_some(),
            "{} is in the table",
            self.path(key)
        );
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A field's value as what it must be: `expected` says that in words.
    pub fn get<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>, ConfError> {
        let Some(value) = self.raw(key) else {
            return Ok(None);
        };
        let read = T::deserialize(value);
        read.map(Some).map_err(|error| {
            // What an error of the value's own type says; serde's own words are about Rust.
            let reason = match error.to_string() {
                plain if plain.starts_with("invalid type") => format!("write {expected}"),
                own => format!("{}; write {expected}", cut(own)),
            };
            self.wrong(key, reason)
        })
    }

    /// An object in this one.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ConfError> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Self::of(format!("{}{key}.", self.prefix), map).map(Some),
            Some(_) => Err(self.wrong(key, "write an object, {…}".into())),
        }
    }

    /// A list of objects in this one.
    pub fn objects(&self, key: &str) -> Result<Option<Vec<Fields<'a>>>, ConfError> {
        let Some(value) = self.raw(key) else {
            return Ok(None);
        };
        let wrong = || self.wrong(key, "write a list of objects, [{…}]".into());
        let items = value.as_array().ok_or_else(wrong)?;
        let read = |item: &'a Value| match item {
            Value::Object(map) => Self::of(format!("{}{key}.", self.prefix), map),
            _ => Err(wrong()),
        };
        items.iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A field whose value is one of these words.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, ConfError> {
        let expected = || {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            words.join(", ")
        };
        let Some(value) = self.raw(key) else {
            return Ok(None);
        };
        let found = value.as_str().and_then(|text| {
            words
                .iter()
                .find(|(word, _)| text.eq_ignore_ascii_case(word))
                .map(|(_, meaning)| *meaning)
        });
        found
            .map(Some)
            .ok_or_else(|| self.wrong(key, format!("write one of {}", expected())))
    }

    /// A number in a range.
    pub fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        unit: &str,
    ) -> Result<Option<u64>, ConfError> {
        let expected = format!("{} to {}{unit}", range.start(), range.end());
        let number = self.get::<u64>(key, &expected)?;
        match number {
            Some(number) if !range.contains(&number) => Err(self.wrong(key, format!("write {expected}"))),
            number => Ok(number),
        }
    }

    /// The error of a value that the field cannot have.
    pub fn wrong(&self, key: &str, reason: String) -> ConfError {
        ConfError::Value {
            field: self.path(key),
            value: brief(self.map.get(key).unwrap_or(&Value::Null)),
            reason,
        }
    }

    /// The error of a value that means something elsewhere, but not here.
    pub fn unsupported(&self, key: &str, advice: &'static str) -> ConfError {
        ConfError::Unsupported {
            field: self.path(key),
            value: brief(self.map.get(key).unwrap_or(&Value::Null)),
            advice,
        }
    }

    /// The error of two fields that cannot both be there.
    pub fn together(&self, key: &str, other: &str, advice: &'static str) -> ConfError {
        ConfError::Together {
            field: self.path(key),
            other: self.path(other),
            advice,
        }
    }

    /// Every field that is there has a meaning in this mode.
    pub fn check_mode(&self, mode: Mode) -> Result<(), ConfError> {
        for (key, value) in self.map.iter().filter(|(_, value)| !value.is_null()) {
            let Some(field) = find(&self.path(key)) else {
                continue;
            };
            if !field.modes.contains(&mode) {
                return Err(ConfError::NotInMode {
                    field: field.path,
                    value: brief(value),
                    mode,
                    modes: field.modes,
                });
            }
        }
        Ok(())
    }
}

fn find(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.path == path)
}

#[cfg(test)]
mod tests;
