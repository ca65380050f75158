//! The short form of a configuration: ports on the command line instead of a file.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::ConfigErrors;
use crate::{BridgeDomain, CrossConnect, Name, NameError, PortKind, Spec, Worker};

/// Why a short form is no configuration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ShortFormError {
    /// Nothing to forward between.
    #[error("no port is given; name at least one, as in --port af-xdp:eth1")]
    NoPorts,
    /// Not `KIND:ARG[,key=value…]`.
    #[error(
        "the port {port:?} is not of the form KIND:ARG[,key=value…]: {reason}; an example: af-xdp:eth1,mode=copy"
    )]
    Form {
        /// The port as it was written.
        port: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A port whose argument makes no name.
    #[error("the port {port:?} needs a name of its own, add name=NAME: {source}")]
    Name {
        /// The port as it was written.
        port: String,
        /// Why there is no name.
        source: NameError,
    },
    /// Two ports of one name.
    #[error("two ports are named `{name}`; give one of them another name with name=NAME")]
    NameTwice {
        /// The name.
        name: Name,
    },
    /// A cross-connect of more or fewer than two ports.
    #[error("a cross-connect joins exactly two ports, {found} given")]
    NotAPair {
        /// How many ports there are.
        found: usize,
    },
    /// The ports are well formed; the configuration that they make is not right.
    #[error(transparent)]
    Spec(#[from] ConfigErrors),
}

impl Spec {
    /// The name of the bridge domain that joins the ports of a short form.
    pub const SHORT_FORM_DOMAIN: &'static str = "default";

    /// Makes a spec of ports written as `KIND:ARG[,key=value…]`: all in one learning bridge domain named `default`,
    /// or, with `cross_connect`, exactly two of them connected. `core` is the core of the only worker; without it
    /// the daemon chooses.
    ///
    /// ARG is the interface (`af-xdp`, `tap`), the file to read (`pcapng`, may be empty), the socket (`vhost-user`) or the name
    /// (`memory`). A key that is on or off may stand alone: `client` is `client=true`. The keys
    /// are a port's keys in the configuration file; lists are separated by `;` and pairs in a list by `=`, as in
    /// `queues=0;1` and `workers=0=1;1=0`; a key inside is named after a dot: `rate-limit=receive.bits=1000000000`. `name` is the port's name; it defaults to the interface or file name.
    pub fn short_form(
        ports: &[String],
        core: Option<u16>,
        cross_connect: bool,
    ) -> Result<Spec, ShortFormError> {
        if ports.is_empty() {
            return Err(ShortFormError::NoPorts);
        }
        if cross_connect && ports.len() != 2 {
            return Err(ShortFormError::NotAPair { found: ports.len() });
        }
        let mut names = Vec::new();
        let mut objects: BTreeMap<Name, Value> = BTreeMap::new();
        for text in ports {
            let (name, mut object) = port(text)?;
            let has_service = ["access", "trunk", "tunnel"]
                .iter()
                .any(|&key| object.contains_key(key));
            if !cross_connect && !has_service {
                object.insert("access".into(), Spec::SHORT_FORM_DOMAIN.into());
            }
            names.push(name.clone());
            if objects.insert(name.clone(), Value::Object(object)).is_some() {
                return Err(ShortFormError::NameTwice { name });
            }
        }
        // The same reader as for files: one grammar of keys and values, one set of messages. JSON is YAML.
        let text = json!({ "ports": objects }).to_string();
        let mut spec = Spec::read(&text, "--port").map_err(without_places)?;
        spec.engine.workers.extend(core.map(|core| Worker { core }));
        if let (true, [a, b]) = (cross_connect, names.as_slice()) {
            spec.cross_connects.push(CrossConnect(a.clone(), b.clone()));
        } else if let Ok(name) = Name::new(Spec::SHORT_FORM_DOMAIN) {
            spec.bridge_domains.insert(name, BridgeDomain::default());
        }
        spec.validate()
            .map_err(|findings| ConfigErrors::unplaced("--port", findings))?;
        Ok(spec)
    }
}

/// Lines and columns of the text that was made from the command line tell nobody anything.
fn without_places(mut errors: ConfigErrors) -> ConfigErrors {
    for error in &mut errors.errors {
        error.place = None;
    }
    errors
}

/// Keys that may stand alone, meaning `true`.
const FLAGS: [&str; 5] = ["client", "isolated", "loop", "persistent", "replace"];

/// One port: its name, and its keys as in a configuration file.
fn port(text: &str) -> Result<(Name, Map<String, Value>), ShortFormError> {
    let wrong = |reason: String| ShortFormError::Form {
        port: text.to_string(),
        reason,
    };
    let mut parts = text.split(',');
    let head = parts.next().unwrap_or_default();
    let Some((kind, argument)) = head.split_once(':') else {
        return Err(wrong("there is no `:` after the kind".into()));
    };
    let mut object = Map::new();
    object.insert("kind".into(), kind.into());
    let key_of_argument = match kind {
        _ if kind == PortKind::AfXdp.as_str() || kind == PortKind::Tap.as_str() => Some("interface"),
        _ if kind == PortKind::VhostUser.as_str() => Some("socket"),
        _ if kind == PortKind::Pcapng.as_str() && !argument.is_empty() => Some("read"),
        _ => None,
    };
    if let Some(key) = key_of_argument {
        object.insert(key.into(), argument.into());
    }
    let mut name = None;
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some(pair) => pair,
            None if FLAGS.contains(&part) => (part, "true"),
            None => return Err(wrong(format!("{part:?} is not key=value"))),
        };
        if key == "name" {
            name = Some(value);
        } else if object.insert(key.into(), parse(key, value)).is_some() {
            return Err(wrong(format!("`{key}` is given twice")));
        }
    }
    let file_name = || argument.rsplit('/').next().unwrap_or(argument);
    let name = Name::new(name.unwrap_or_else(file_name)).map_err(|source| ShortFormError::Name {
        port: text.to_string(),
        source,
    })?;
    Ok((name, object))
}

/// A value of the command line as the value of a key.
fn parse(key: &str, value: &str) -> Value {
    let scalar = |text: &str| match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text
            .parse::<u64>()
            .map_or_else(|_| Value::from(text), Value::from),
    };
    let items = || value.split(';').filter(|item| !item.is_empty());
    match key {
        "workers" | "storm-control" => items()
            .map(|item| {
                let (key, value) = item.split_once('=').unwrap_or((item, ""));
                (key.to_string(), scalar(value))
            })
            .collect::<Map<_, _>>()
            .into(),
        "rate-limit" => {
            let mut limits = Map::new();
            for (path, rate) in items().map(|item| item.split_once('=').unwrap_or((item, ""))) {
                let (direction, key) = path.split_once('.').unwrap_or((path, ""));
                limits.entry(direction).or_insert_with(|| json!({}))[key] = scalar(rate);
            }
            limits.into()
        }
        "trunk" | "allowed-macs" => items().map(scalar).collect::<Vec<_>>().into(),
        "queues" if value != "all" => items().map(scalar).collect::<Vec<_>>().into(),
        _ => scalar(value),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests {
    use super::*;
    use crate::{Permissions, Port, Queues, Steering, XdpMode};

    fn short(ports: &[&str], cross_connect: bool) -> Result<Spec, ShortFormError> {
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        Spec::short_form(&ports, Some(2), cross_connect)
    }

    fn message(ports: &[&str], cross_connect: bool) -> String {
        short(ports, cross_connect)
            .map(|spec| format!("accepted: {spec:?}"))
            .unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn ports_share_one_learning_domain() {
        let spec = short(
            &[
                "af-xdp:eth1",
                "af-xdp:eth2,name=b,mode=copy,queues=0;1,ring-size=512",
            ],
            false,
        )
        .unwrap();
        let name = |text: &str| Name::new(text).unwrap();
        let access = Some(name("default"));
        let b = Port {
            mode: XdpMode::Copy,
            queues: Queues::List(vec![0, 1]),
            ring_size: Some(512),
            access: access.clone(),
            ..Port::af_xdp("eth2")
        };
        let mut wanted = Spec::default();
        wanted.engine.workers = vec![Worker { core: 2 }];
        wanted.ports = [
            (
                name("eth1"),
                Port {
                    access,
                    ..Port::af_xdp("eth1")
                },
            ),
            (name("b"), b),
        ]
        .into();
        wanted.bridge_domains = [(name("default"), BridgeDomain::default())].into();
        assert_eq!(spec, wanted);
    }

    #[test]
    fn cross_connects_join_two() {
        let spec = short(&["af-xdp:eth1", "memory:m"], true).unwrap();
        assert_eq!(
            spec.cross_connects,
            [CrossConnect(Name::new("eth1").unwrap(), Name::new("m").unwrap())]
        );
        assert!(spec.bridge_domains.is_empty());
        assert_eq!(spec.ports["eth1"].access, None);
    }

    #[test]
    fn lists_and_objects() {
        let text = "pcapng:dir/in.pcapng,name=p,write=out.pcapng,loop=true,allowed-macs=02:00:00:00:00:01;02:00:00:00:00:02,\
                    storm-control=broadcast=10;unknown=20,rate-limit=receive.bits=5000;receive.burst=5ms;transmit.packets=7";
        let spec = short(&[text], false).unwrap();
        let port = &spec.ports["p"];
        assert_eq!(port.read.as_deref(), Some(std::path::Path::new("dir/in.pcapng")));
        assert_eq!(
            (port.repeat, port.allowed_macs.len(), port.storm_control.unknown),
            (true, 2, Some(20))
        );
        let [receive, transmit] =
            [&port.rate_limit.receive, &port.rate_limit.transmit].map(|r| r.as_ref().unwrap());
        assert_eq!(
            (receive.bits, receive.packets, receive.burst.to_string()),
            (Some(5000), None, "5ms".into())
        );
        assert_eq!(
            (transmit.bits, transmit.packets, transmit.burst.to_string()),
            (None, Some(7), "20ms".into())
        );
        assert_eq!(port.steering, Steering::Exclusive);
        assert_eq!(
            short(&["pcapng:dir/in.pcapng"], false)
                .unwrap()
                .ports
                .keys()
                .next()
                .unwrap()
                .as_str(),
            "in.pcapng"
        );
    }

    #[test]
    fn a_guest_is_its_socket_and_flags_may_stand_alone() {
        let ports = [
            "vhost-user:/run/a.sock,permissions=0600",
            "vhost-user:/run/b.sock,client,queue-pairs=2",
        ];
        let spec = short(&ports, false).unwrap();
        let (a, b) = (&spec.ports["a.sock"], &spec.ports["b.sock"]);
        assert_eq!(a.socket.as_deref(), Some(std::path::Path::new("/run/a.sock")));
        assert_eq!(
            (a.client, a.queue_pairs(), a.permissions),
            (false, 1, Some(Permissions(0o600)))
        );
        assert_eq!((b.client, b.queue_pairs(), b.permissions), (true, 2, None));
        let off = short(&["vhost-user:/run/a.sock,client=false"], false).unwrap();
        assert!(!off.ports["a.sock"].client);
    }

    #[test]
    fn a_tap_is_its_interface() {
        let spec = short(
            &[
                "tap:tap0",
                "tap:tap0,name=b,netns=pod,persistent,mac=02:00:00:00:00:01",
            ],
            false,
        )
        .unwrap();
        let (a, b) = (&spec.ports["tap0"], &spec.ports["b"]);
        assert_eq!(
            (a.interface.as_deref(), a.netns.as_deref(), a.persistent),
            (Some("tap0"), None, false)
        );
        assert_eq!((b.netns.as_deref(), b.persistent), (Some("pod"), true));
        assert_eq!(b.mac.unwrap().to_string(), "02:00:00:00:00:01");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(
            message(&[], false),
            "no port is given; name at least one, as in --port af-xdp:eth1"
        );
        assert_eq!(
            message(&["memory:a"], true),
            "a cross-connect joins exactly two ports, 1 given"
        );
        assert_eq!(
            message(&["eth1"], false),
            "the port \"eth1\" is not of the form KIND:ARG[,key=value…]: there is no `:` after the kind; \
             an example: af-xdp:eth1,mode=copy"
        );
        assert_eq!(
            message(&["af-xdp:e,mode"], false),
            "the port \"af-xdp:e,mode\" is not of the form KIND:ARG[,key=value…]: \"mode\" is not key=value; \
             an example: af-xdp:eth1,mode=copy"
        );
        assert_eq!(
            message(&["memory:a", "memory:a"], false),
            "two ports are named `a`; give one of them another name with name=NAME"
        );
        assert_eq!(
            message(&["memory:"], false),
            "the port \"memory:\" needs a name of its own, add name=NAME: a name is empty; give it 1 to 32 characters"
        );
        assert_eq!(
            message(&["vf:t0"], false),
            "--port: ports.t0.kind: ports of kind `vf` are not in this version; it has `af-xdp`, `memory`, `pcapng`, `tap` and `vhost-user`"
        );
        assert_eq!(
            message(&["af-xdp:e,mod=copy,ring-size=x"], false)
                .lines()
                .map(|line| line.split("; valid keys").next().unwrap_or_default())
                .collect::<Vec<_>>(),
            [
                "--port: ports.e.mod: unknown key `mod` (did you mean `mode`?)",
                "--port: ports.e.ring-size: expected a whole number from 0 to 4294967295, found \"x\"",
            ]
        );
        assert_eq!(
            message(&["af-xdp:e,ring-size=100"], false),
            "--port: ports.e.ring-size: 100 is not a power of two; write 64 or 128"
        );
    }
}
