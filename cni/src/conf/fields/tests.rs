//! The table holds the parser, and the parser the table.

use serde_json::json;

use super::*;
use crate::conf::Network;
use crate::error::CniError;

/// A configuration of this mode that `path` may be added to.
fn base(mode: Mode, path: &str) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "clearway-cni", "mode": mode.as_str()});
    if mode == Mode::Vf {
        conf["deviceID"] = "0000:03:02.0".into();
    }
    match path {
        "bridgeDomain" | "vlan" | "vni" | "bridge" | "host" => {}
        _ if path.starts_with("trunk") || path.starts_with("host.bridge") => {}
        "native" if mode != Mode::Vf => conf["trunk"] = json!([{"id": 1}]),
        "vlanQoS" | "vlanProto" => conf["vlan"] = 100.into(),
        // A VF is in the segment of its NIC.
        _ if mode == Mode::Vf => {}
        _ => conf["bridge"] = "blue".into(),
    }
    if path == "runtimeConfig.ips" || path == "args" || path.starts_with("ipam.") {
        conf["ipam"] = json!({"type": "clearway"});
    }
    conf
}

/// The configuration with `value` at `path`.
fn with(mut conf: Value, path: &str, value: Value) -> Value {
    let parts: Vec<_> = path.split('.').collect();
    if let ["trunk", key] = parts[..] {
        let other = match key {
            "minID" => json!({"maxID": 4000}),
            "maxID" => json!({"minID": 1}),
            _ => json!({}),
        };
        conf["trunk"] = json!([other]);
        conf["trunk"][0][key] = value;
        return conf;
    }
    let mut place = &mut conf;
    for part in parts {
        place = &mut place[part];
    }
    *place = value;
    conf
}

fn read(conf: &Value) -> Result<Network, CniError> {
    Network::read(conf.as_object().unwrap()).map_err(CniError::from)
}

#[test]
fn every_example_is_accepted_in_its_modes_and_named_in_others() {
    for field in FIELDS {
        for mode in Mode::ALL {
            let example = match field.path {
                "mode" => json!(mode.as_str()),
                _ => serde_json::from_str(field.example).unwrap(),
            };
            let conf = with(base(mode, field.path), field.path, example);
            let read = read(&conf);
            match read {
                Ok(_) => assert!(field.modes.contains(&mode), "{conf}"),
                Err(error) => {
                    assert!(!field.modes.contains(&mode), "{conf}: {error}");
                    assert_eq!(error.code, 2, "{conf}: {error}");
                    // The field, or the object that it is in: with its value, and the mode.
                    let mut named = field
                        .path
                        .match_indices('.')
                        .map(|(i, _)| &field.path[..i])
                        .chain([field.path]);
                    let in_object = |path: &&str| error.msg.contains(&format!("`{path}` (its value is "));
                    assert!(named.any(|path| in_object(&path)), "{error}");
                    assert!(error.msg.contains(&format!("`{mode}`")), "{error}");
                }
            }
        }
    }
}

/// A value that the field cannot have is found: the field is looked at.
#[test]
fn every_field_is_read() {
    for field in FIELDS.iter().filter(|field| !field.opaque) {
        let example: Value = serde_json::from_str(field.example).unwrap();
        let wrong = if example.is_object() {
            json!(7)
        } else {
            json!({"no such": 1})
        };
        let mode = field.modes[0];
        let conf = with(base(mode, field.path), field.path, wrong);
        let error = read(&conf).map(|_| conf.clone()).expect_err(field.path);
        assert_eq!(error.code, 7, "{conf}: {error}");
        assert!(error.msg.contains(field.path), "{conf}: {error}");
    }
}

#[test]
fn null_is_absent() {
    for field in FIELDS
        .iter()
        .filter(|field| !field.path.starts_with("trunk.") && field.path != "mode")
    {
        let mode = field.modes[0];
        let conf = base(mode, "mtu");
        let top = field.path.split('.').next().unwrap();
        if conf.get(top).is_none() {
            assert!(read(&with(conf, top, Value::Null)).is_ok(), "{}", field.path);
        }
    }
}

#[test]
fn unknown_fields_are_named_with_the_nearest() {
    for (path, nearest) in [
        ("bridgedomain", Some("bridgeDomain")),
        ("MTU", Some("mtu")),
        ("ratelimit", Some("rateLimit")),
        ("vlanqos", Some("vlanQoS")),
        ("zzzzzzzzzzzz", None),
        ("socket.filder", Some("socket.folder")),
        ("socket.queuepairs", Some("socket.queuePairs")),
        ("runtimeConfig.portMappings", None),
        ("runtimeConfig.MAC", Some("runtimeConfig.mac")),
        ("ipam.subnet", None),
        ("ipam.adresses", Some("ipam.addresses")),
        ("host.vhost.mod", Some("host.vhost.mode")),
    ] {
        let conf = with(base(Mode::VhostUser, path), path, json!(1));
        let error = read(&conf).unwrap_err();
        assert_eq!(error.code, 7, "{error}");
        assert!(error.msg.contains(&format!("`{path}`")), "{error}");
        match nearest {
            Some(nearest) => assert!(
                error.msg.contains(&format!("did you mean `{nearest}`")),
                "{error}"
            ),
            None => assert!(!error.msg.contains("did you mean"), "{error}"),
        }
    }
}

#[test]
fn foreign_fields_have_advice() {
    for (path, advice) in FOREIGN {
        assert!(find(path).is_none(), "{path} is ours");
        let error = read(&with(base(Mode::VhostUser, path), path, json!(1))).unwrap_err();
        assert_eq!(error.code, 2, "{error}");
        assert!(error.msg.contains(path) && error.msg.contains(advice), "{error}");
    }
}

#[test]
fn errors_do_not_repeat_a_megabyte() {
    let long = "x".repeat(1 << 20);
    let wrong = [
        with(base(Mode::Tap, "mtu"), "mtu", json!(long)),
        with(base(Mode::Tap, "mtu"), &long, json!(1)),
        with(base(Mode::Tap, "mtu"), "socket", json!({"file": long})),
        with(base(Mode::Tap, "mtu"), "mac", json!(long)),
        with(base(Mode::Tap, "mtu"), "bridge", json!(long)),
        with(base(Mode::Tap, "ipam.type"), "ipam", json!({"type": [long]})),
        with(
            base(Mode::Tap, "ipam.type"),
            "ipam",
            json!({"type": "clearway", "addresses": [long]}),
        ),
        with(base(Mode::Vf, "mtu"), "deviceID", json!(long)),
    ];
    for conf in wrong {
        let error = read(&conf).unwrap_err().to_string();
        assert!(error.len() < 2000, "{} bytes: {}", error.len(), &error[..300]);
    }
}

#[test]
fn what_runtimes_add_is_let_through() {
    let mut conf = base(Mode::Tap, "mtu");
    for key in [
        "cni.dev/valid-attachments",
        "cni.dev/attachments",
        "cni.dev/something-new",
    ] {
        conf[key] = json!([]);
    }
    assert!(read(&conf).is_ok());
}
