//! Fuzz targets: any bytes on stdin, and good configurations with some values changed, never panic, and what is accepted
//! keeps its promises. Each runs briefly as a test; under a fuzzer (`cargo bolero test`) as long as one likes.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use clearway_cni::args::Args;
use clearway_cni::conf::{Conf, FIELDS, Mode, Network};
use clearway_cni::environment::Target;
use clearway_cni::result::CniResult;
use clearway_cni::version::{self, CniVersion};
use clearway_config::attach::{Addresses, Attach};
use serde_json::{Value, json};

/// All that is done with a configuration before anybody else is asked.
fn read(stdin: &[u8]) {
    let Ok(map) = Conf::object(stdin) else { return };
    let version = CniVersion::of(&map).unwrap_or(CniVersion::NEWEST);
    let Ok(conf) = Conf::read(map, version) else {
        return;
    };
    let _ = (
        conf.daemon_socket(),
        conf.log_file(),
        conf.log_level(),
        conf.delegate(),
        conf.device_info_file(),
    );
    let _ = conf.valid_attachments();
    if let Ok(Some(result)) = conf.prev_result() {
        told(&result);
    }
    if let Ok(network) = conf.network() {
        promises(&network);
    }
}

/// What is accepted can be asked of the daemon, in words that it reads.
fn promises(network: &Network) {
    let asked = network.attach("n", &Target::nobody(), Addresses::default());
    assert_eq!(asked.vf.is_some(), network.mode == Mode::Vf);
    let text = serde_json::to_string(&asked).unwrap();
    assert_eq!(serde_json::from_str::<Attach>(&text).unwrap(), asked, "{text}");
    assert!(asked.mac.is_none_or(|mac| mac.is_unicast()));
}

/// A result is read again as it was told, in every version.
fn told(result: &CniResult) {
    for version in CniVersion::ALL {
        let told = result.in_version(version);
        let again = CniResult::read(&told).unwrap();
        assert_eq!(again.in_version(version), told);
        assert_eq!(
            (again.ips.len(), again.interfaces.len()),
            (result.ips.len(), result.interfaces.len())
        );
    }
}

#[test]
fn any_bytes() {
    bolero::check!().for_each(|bytes: &[u8]| {
        read(bytes);
        version::answer(bytes);
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = Args::parse(text);
        }
    });
}

/// Some fields with their examples, or with values that others have, or with nonsense.
#[test]
fn fields_in_any_company() {
    type Choices = Vec<(u8, u8, i64)>;
    bolero::check!().with_type::<Choices>().for_each(|choices| {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "clearway-cni"});
        for (which, how, number) in choices {
            let field = FIELDS[usize::from(*which) % FIELDS.len()];
            let other = FIELDS[usize::from(*how) % FIELDS.len()];
            let value = match how % 8 {
                0..4 => serde_json::from_str(field.example).unwrap(),
                4 => serde_json::from_str(other.example).unwrap(),
                5 => json!(number),
                6 => json!(number.to_string()),
                _ => Value::Null,
            };
            put(&mut conf, field.path, value);
        }
        read(conf.to_string().as_bytes());
    });
}

fn put(conf: &mut Value, path: &str, value: Value) {
    let mut place = conf;
    for part in path.split('.') {
        if place.is_array() {
            place = &mut place[0];
        }
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[part];
    }
    *place = value;
}

#[test]
fn any_result() {
    type Choices = (Vec<(u8, [u8; 4], u8, Option<u8>)>, Vec<([u8; 16], u8, u32)>, u8);
    bolero::check!().with_type::<Choices>().for_each(|(ips, routes, interfaces)| {
        let ip = |(kind, ip, prefix, interface): &(u8, [u8; 4], u8, Option<u8>)| {
            let address = format!("{}/{prefix}", std::net::Ipv4Addr::from(*ip));
            let gateway = ["", "10.0.0.1", "::1", "x"][usize::from(kind % 4)];
            json!({"address": address, "gateway": gateway, "interface": interface, "version": "4"})
        };
        let route = |(ip, prefix, number): &([u8; 16], u8, u32)| {
            json!({"dst": format!("{}/{prefix}", std::net::Ipv6Addr::from(*ip)), "mtu": number, "scope": number % 300})
        };
        let result = json!({
            "interfaces": vec![json!({"name": "e", "mac": "x"}); usize::from(interfaces % 4)],
            "ips": ips.iter().map(ip).collect::<Vec<_>>(),
            "routes": routes.iter().map(route).collect::<Vec<_>>(),
        });
        if let Ok(result) = CniResult::read(&result) {
            told(&result);
        }
    });
}
