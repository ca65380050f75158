//! Every verb in every version against a daemon that only remembers: results, errors, and what the daemon is asked.
#![allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod common;

use std::fs;
use std::path::Path;

use common::{CONTAINER, FakeDaemon, NETNS, VERSIONS, call, call_with, plugin, remembering};
use serde_json::{Value, json};

const PATH: &str = "/v1/attachments/0123456789abcdef/net1";

#[test]
fn add_and_del_in_every_version() {
    let daemon = FakeDaemon::start();
    for version in VERSIONS {
        let conf = daemon.network(
            version,
            json!({"mode": "veth", "ipam": {"type": "clearway"}, "mtu": 1450}),
        );
        let result = call("ADD", &conf).good();
        assert_eq!(result["cniVersion"], version);
        let newest = version == "1.1.0";
        let host = json!({"name": "cw0001"});
        let pod = json!({"name": "net1", "mac": "02:00:00:00:00:07", "sandbox": NETNS});
        let with_mtu = |mut interface: Value| {
            interface["mtu"] = 1450.into();
            interface
        };
        let wanted = if newest {
            json!([with_mtu(host), with_mtu(pod)])
        } else {
            json!([host, pod])
        };
        assert_eq!(result["interfaces"], wanted, "{version}");
        let mut ips = json!([{"address": "10.7.0.5/24", "gateway": "10.7.0.1", "interface": 1},
                             {"address": "2001:db8::5/64", "interface": 1}]);
        if version < "1.0.0" {
            ips[0]["version"] = "4".into();
            ips[1]["version"] = "6".into();
        }
        assert_eq!(result["ips"], ips, "{version}");
        let mut route = json!({"dst": "0.0.0.0/0", "gw": "10.7.0.1"});
        if newest {
            route["mtu"] = 1400.into();
            route["priority"] = 5.into();
        }
        assert_eq!(result["routes"], json!([route]), "{version}");

        let put = format!("PUT {PATH}");
        assert_eq!(daemon.requests(), [put], "one request makes an attachment");
        assert_eq!(call("DEL", &remembering(&conf, &result)).good(), Value::Null);
        assert_eq!(daemon.requests(), [format!("DELETE {PATH}")]);
        assert!(daemon.state().attachments.is_empty());
        // Again, with nothing there, without a namespace and without a memory.
        assert_eq!(call_with("DEL", &conf, &[("CNI_NETNS", "")]).good(), Value::Null);
        assert_eq!(daemon.requests(), [format!("DELETE {PATH}")]);
    }
}

#[test]
fn the_daemon_is_asked_for_what_the_network_says() {
    let daemon = FakeDaemon::start();
    daemon.requests();
    let conf = daemon.network("1.0.0", json!({
        "mode": "tap", "vlan": null, "bridgeDomain": "blue", "mac": "02:00:00:00:00:09", "antiSpoof": true,
        "rateLimit": {"receive": {"packets": 1000}},
        "ipam": {"type": "clearway", "pool": "p1"}
    }));
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u;IP=10.7.0.9/24";
    call_with("ADD", &conf, &[("CNI_ARGS", args)]).good();
    assert_eq!(
        daemon.state().body,
        json!({
            "network": "blue", "netns": NETNS, "pod": {"namespace": "default", "name": "web-0", "uid": "u"},
            "kind": "tap", "segment": {"domain": "blue"}, "mac": "02:00:00:00:00:09",
            "rate-limit": {"receive": {"packets": 1000, "burst": "20ms"}}, "anti-spoof": true,
            "ipam": {"pool": {"pool": "p1", "wanted": ["10.7.0.9"]}}
        })
    );
}

#[test]
fn a_chain_keeps_its_results() {
    let daemon = FakeDaemon::start();
    for version in VERSIONS {
        let mut earlier = json!({
            "cniVersion": version,
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": NETNS}],
            "ips": [{"address": "10.1.0.2/16", "interface": 1}],
            "routes": [{"dst": "10.0.0.0/8", "gw": "10.1.0.1"}],
            "dns": {"nameservers": ["10.1.0.1"]}
        });
        if version < "1.0.0" {
            earlier["ips"][0]["version"] = "4".into();
        }
        let conf = daemon.network(version, json!({"mode": "veth", "ipam": {"type": "clearway"}}));
        let result = call("ADD", &remembering(&conf, &earlier)).good();
        for key in ["interfaces", "ips", "routes"] {
            assert_eq!(result[key][0], earlier[key][0], "{version} {key}");
        }
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
        assert_eq!(
            result["ips"][1]["interface"], 3,
            "the container's end is the fourth"
        );
        assert_eq!(result["dns"], earlier["dns"]);
        call("DEL", &conf).good();
        // The interface that we are asked for is an earlier plugin's.
        earlier["interfaces"][1]["name"] = "net1".into();
        daemon.requests();
        let error = call("ADD", &remembering(&conf, &earlier)).failed(102);
        assert!(error.contains("net1"), "{error}");
        assert!(daemon.requests().is_empty(), "nobody was bothered");
        let error = call("ADD", &remembering(&conf, &json!({"ips": "none"}))).failed(7);
        assert!(error.contains("prevResult"), "{error}");
    }
}

#[test]
fn a_second_add_is_an_error() {
    let daemon = FakeDaemon::start();
    let conf = daemon.network("1.0.0", json!({}));
    call("ADD", &conf).good();
    let error = call("ADD", &conf).failed(102);
    assert!(error.contains("net1") && error.contains("already"), "{error}");
    assert_eq!(daemon.state().attachments.len(), 1, "the first is untouched");
    call_with("ADD", &conf, &[("CNI_IFNAME", "net2")]).good();
}

#[test]
fn vhost_user_sockets_are_told() {
    let daemon = FakeDaemon::start();
    let info = daemon.folder.path().join("devinfo/cni/x.json");
    for (client, mode) in [(false, "client"), (true, "server")] {
        let conf = daemon.network(
            "1.1.0",
            json!({
                "mode": "vhost-user", "socket": {"folder": "/run/v", "client": client},
                "runtimeConfig": {"CNIDeviceInfoFile": info}
            }),
        );
        let result = call("ADD", &conf).good();
        assert_eq!(
            result["interfaces"],
            json!([{"name": "net1", "mac": "02:00:00:00:00:07", "mtu": 1500, "sandbox": NETNS,
                    "socketPath": "/run/v/0123456789ab-net1"}])
        );
        let written: Value = serde_json::from_slice(&std::fs::read(&info).unwrap()).unwrap();
        assert_eq!(
            written,
            json!({"type": "vhost-user", "version": "1.1.0",
                   "vhost-user": {"mode": mode, "path": "/run/v/0123456789ab-net1"}})
        );
        call("CHECK", &remembering(&conf, &result)).good();
        call("DEL", &conf).good();
        assert!(!info.exists());
        call("DEL", &conf).good();
    }
    // Older versions have no such field.
    let result = call("ADD", &daemon.network("1.0.0", json!({"mode": "vhost-user"}))).good();
    assert_eq!(result["interfaces"][0].get("socketPath"), None);
}

#[test]
fn a_device_information_file_that_cannot_be_written_takes_all_back() {
    let daemon = FakeDaemon::start();
    // A folder of that name is in the way.
    let info = daemon.folder.path();
    let fields = json!({"mode": "vhost-user", "runtimeConfig": {"CNIDeviceInfoFile": info}});
    let error = call("ADD", &daemon.network("1.0.0", fields.clone())).failed(5);
    assert!(error.contains("CNIDeviceInfoFile"), "{error}");
    assert!(daemon.state().attachments.is_empty());
    // A pod with a kernel stack has no device to tell of.
    let mut tap = fields;
    tap["mode"] = "tap".into();
    call("ADD", &daemon.network("1.0.0", tap)).good();
}

#[test]
fn a_vf_is_attached_and_told() {
    let daemon = FakeDaemon::start();
    let info = daemon.folder.path().join("devinfo/net1.json");
    let told = |info: &Path| serde_json::from_slice::<Value>(&fs::read(info).unwrap()).unwrap();
    for (device, mac, mtu) in [
        ("0000:03:02.0", json!("02:00:00:00:00:07"), json!(1500)),
        // A program drives it: it has its MAC address and MTU from there.
        ("0000:03:02.7", Value::Null, Value::Null),
    ] {
        let conf = daemon.network(
            "1.1.0",
            json!({"spoofchk": "on", "runtimeConfig": {"deviceID": device, "CNIDeviceInfoFile": info}}),
        );
        call("STATUS", &conf).good();
        let result = call("ADD", &conf).good();
        let asked = daemon.state().body.clone();
        assert_eq!(
            (&asked["kind"], &asked["segment"], &asked["vf"]),
            (
                &json!("vf"),
                &json!("pf"),
                &json!({"device": device, "vlan": 100, "spoofchk": true})
            )
        );
        let interface = &result["interfaces"][0];
        assert_eq!(
            (&interface["pciID"], &interface["mac"], &interface["mtu"]),
            (&json!(device), &mac, &mtu)
        );
        assert_eq!(
            told(&info),
            json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": device, "pf-pci-address": "0000:03:00.0"}})
        );
        call("CHECK", &remembering(&conf, &result)).good();
        let mut other = conf.clone();
        other["trust"] = "on".into();
        let error = call("CHECK", &remembering(&other, &result)).failed(103);
        assert!(error.contains("its VF"), "{error}");
        call("DEL", &conf).good();
        assert!(!info.exists());
    }
    // Which VF a pod has is not the network's.
    call("STATUS", &daemon.network("1.1.0", json!({"mode": "vf"}))).good();
    assert_eq!(daemon.state().body, json!({"segment": "pf", "ipam": "none"}));
    // What the device plugin says of it is not less.
    fs::create_dir_all(info.parent().unwrap()).unwrap();
    for (device, kept) in [("0000:03:02.0", true), ("0000:03:02.1", false)] {
        let more = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": device, "rdma-device": "mlx5_2"}});
        fs::write(&info, more.to_string()).unwrap();
        let fields = json!({"runtimeConfig": {"deviceID": "0000:03:02.0", "CNIDeviceInfoFile": info}});
        let conf = daemon.network("1.1.0", fields);
        call("ADD", &conf).good();
        assert_eq!(told(&info) == more, kept);
        call("DEL", &conf).good();
    }
}

/// Networks as their users have them, but for `type` (and, here, the daemon's socket).
#[test]
fn other_plugins_networks_work() {
    let daemon = FakeDaemon::start();
    let network = |fields| {
        let mut conf = daemon.network("0.3.1", fields);
        if conf.get("keep").is_none() {
            conf["vlan"] = Value::Null;
        }
        conf.as_object_mut().unwrap().remove("keep");
        conf
    };
    // ovs-cni
    call("ADD", &network(json!({"bridge": "mynet0", "vlan": 7, "keep": 1}))).good();
    assert_eq!(daemon.state().body["segment"], json!({"vlan": 7}));
    let trunk = json!([{"id": 42}, {"minID": 1000, "maxID": 1010}]);
    let conf = network(json!({"bridge": "mynet1", "mtu": 9000, "trunk": trunk}));
    call_with("ADD", &conf, &[("CNI_IFNAME", "net2")]).good();
    assert_eq!(
        daemon.state().body["segment"],
        json!({"trunk": {"items": [42, "1000-1010"]}})
    );
    assert_eq!(daemon.state().body["mtu"], 9000);
    // userspace-cni
    let conf = network(json!({
        "sharedDir": "/run/openvswitch", "logLevel": "verbose", "logFile": daemon.folder.path().join("log"),
        "host": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge", "vhost": {"mode": "client"},
                 "bridge": {"bridgeName": "br-4"}},
        "container": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface", "vhost": {"mode": "server"}}
    }));
    call_with("ADD", &conf, &[("CNI_IFNAME", "net3")]).good();
    let asked = daemon.state().body.clone();
    assert_eq!(asked["kind"], "vhost-user");
    assert_eq!(asked["segment"], json!({"domain": "br-4"}));
    assert_eq!(
        asked["vhost"],
        json!({"folder": "/run/openvswitch/0123456789ab", "own-folder": true, "file": "0123456789ab-net3", "client": true})
    );
    // sriov-cni
    let conf = network(json!({
        "deviceID": "0000:03:02.0", "pciBusID": "0000:03:02.0", "mac": "CA:FE:C0:FF:EE:00", "vlan": 1000, "keep": 1,
        "vlanQoS": 4, "vlanProto": "802.1ad", "min_tx_rate": 100, "max_tx_rate": 200, "spoofchk": "off", "trust": "on",
        "link_state": "enable", "logLevel": "debug", "logFile": daemon.folder.path().join("log")
    }));
    call_with("ADD", &conf, &[("CNI_IFNAME", "net4")]).good();
    let asked = daemon.state().body.clone();
    assert_eq!(
        asked["vf"],
        json!({"device": "0000:03:02.0", "vlan": 1000, "qos": 4, "vlan-proto": "802.1ad", "spoofchk": false, "trust": true,
               "link-state": "enable", "min-tx-rate": 100, "max-tx-rate": 200})
    );
    assert_eq!(asked["mac"], "ca:fe:c0:ff:ee:00");
}

/// What the network, or the runtime for this one container, names now, against what the daemon has; what it leaves to the
/// daemon is the daemon's.
#[test]
fn check_compares_with_the_network() {
    let daemon = FakeDaemon::start();
    let limit = |packets: u32| json!({"receive": {"packets": packets, "burst": "200ms"}, "transmit": {"bits": 1_000_000}});
    let all = || json!({"mode": "veth", "mtu": 1400, "mac": "02:00:00:00:00:21", "rateLimit": limit(2000), "antiSpoof": true});
    let check = |result: &Value, fields: &Value, more: &[(&str, &str)]| {
        call_with(
            "CHECK",
            &remembering(&daemon.network("1.0.0", fields.clone()), result),
            more,
        )
    };
    let named = call("ADD", &daemon.network("1.0.0", all())).good();
    assert_eq!(check(&named, &all(), &[]).good(), Value::Null);
    for (key, value, words) in [
        ("mtu", json!(1450), ["its MTU is 1400", "the network's is 1450"]),
        (
            "mac",
            json!("02:00:00:00:00:22"),
            [
                "its MAC address is 02:00:00:00:00:21",
                "the network's is 02:00:00:00:00:22",
            ],
        ),
        (
            "rateLimit",
            limit(3000),
            [
                "its rate limit is {\"receive\":{\"packets\":2000,",
                "\"packets\":3000,",
            ],
        ),
        (
            "rateLimit",
            json!({"receive": limit(2000)["receive"]}),
            ["its rate limit is", "\"transmit\":{\"bits\":1000000,"],
        ),
        (
            "rateLimit",
            Value::Null,
            ["its rate limit is", "the network's is none"],
        ),
        (
            "antiSpoof",
            json!(false),
            ["`antiSpoof` is true", "the network's is false"],
        ),
        (
            "antiSpoof",
            Value::Null,
            ["`antiSpoof` is true", "the network's is false"],
        ),
    ] {
        let mut other = all();
        other[key] = value;
        other.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let error = check(&named, &other, &[]).failed(103);
        for word in words {
            assert!(error.contains(word), "{key}: {error}");
        }
        // Nothing but that.
        assert!(!error.contains("; "), "{key}: {error}");
    }
    // What the network leaves to the daemon may be anything.
    for key in ["mtu", "mac"] {
        let mut other = all();
        other.as_object_mut().unwrap().remove(key);
        check(&named, &other, &[]).good();
    }
    // Of two findings each is told.
    let both = json!({"mode": "veth", "mtu": 1450, "rateLimit": limit(2000), "antiSpoof": false});
    let error = check(&named, &both, &[]).failed(103);
    assert!(error.contains("MTU") && error.contains("antiSpoof"), "{error}");
    call("DEL", &daemon.network("1.0.0", all())).good();

    // What the runtime asks for comes before the network's, here as at ADD.
    let mut asking = all();
    asking["runtimeConfig"] =
        json!({"mac": "02:00:00:00:00:31", "bandwidth": {"egressRate": 3_000_000, "egressBurst": 100_001}});
    let result = call("ADD", &daemon.network("1.0.0", asking.clone())).good();
    check(&result, &asking, &[]).good();
    let error = check(&result, &all(), &[]).failed(103);
    assert!(
        error.contains("02:00:00:00:00:31") && error.contains("rate limit"),
        "{error}"
    );
    call("DEL", &daemon.network("1.0.0", asking)).good();
    let variables = [("CNI_ARGS", "MAC=02:00:00:00:00:41")];
    let result = call_with("ADD", &daemon.network("1.0.0", all()), &variables).good();
    check(&result, &all(), &variables).good();
    let error = check(&result, &all(), &[]).failed(103);
    assert!(error.contains("02:00:00:00:00:41"), "{error}");
    call("DEL", &daemon.network("1.0.0", all())).good();

    // Nobody has named anything: a limit that the network has now is not the container's.
    let plain = json!({"mode": "veth"});
    let result = call("ADD", &daemon.network("1.0.0", plain.clone())).good();
    check(&result, &plain, &[]).good();
    check(
        &result,
        &json!({"mode": "veth", "mtu": 1500, "antiSpoof": false}),
        &[],
    )
    .good();
    let error = check(&result, &json!({"mode": "veth", "rateLimit": limit(1)}), &[]).failed(103);
    assert!(error.contains("its rate limit is none"), "{error}");
    check(&result, &json!({"mode": "veth", "antiSpoof": true}), &[]).failed(103);
    check(&result, &json!({"mode": "veth", "mtu": 9000}), &[]).failed(103);
}

#[test]
fn check_compares() {
    let daemon = FakeDaemon::start();
    let fields = json!({"mode": "veth", "ipam": {"type": "clearway"}});
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let conf = daemon.network(version, fields.clone());
        let result = call("ADD", &conf).good();
        let good = remembering(&conf, &result);
        assert_eq!(call("CHECK", &good).good(), Value::Null);
        call("CHECK", &conf).failed(7);

        let remembered = |path: &str, value: Value| {
            let mut conf = good.clone();
            *conf.pointer_mut(&format!("/prevResult{path}")).unwrap() = value;
            conf
        };
        for (wrong, named) in [
            (remembered("/interfaces/1/mac", json!("02:00:00:00:00:08")), "MAC"),
            (remembered("/interfaces/1/name", json!("net2")), "net1"),
            (
                remembered("/interfaces/1/sandbox", json!("/run/netns/other")),
                "net1",
            ),
            (remembered("/ips/0/address", json!("10.7.0.6/24")), "10.7.0.6"),
            (remembered("/ips/0/gateway", json!("10.7.0.2")), "gateway"),
            (remembered("/ips/1/interface", json!(0)), "2001:db8::5"),
            (remembered("/routes", json!([])), "0.0.0.0/0"),
        ] {
            let error = call("CHECK", &wrong).failed(103);
            assert!(error.contains(named), "{error}");
        }
        if version == "1.1.0" {
            let error = call("CHECK", &remembered("/interfaces/1/mtu", json!(1400))).failed(103);
            assert!(error.contains("MTU"), "{error}");
        }
        // A later plugin of the chain may add a route, or change one.
        let mut later = result["routes"].clone();
        later
            .as_array_mut()
            .unwrap()
            .push(json!({"dst": "10.0.0.0/8", "gw": "10.7.0.1"}));
        later[0]["gw"] = "10.7.0.254".into();
        call("CHECK", &remembered("/routes", later)).good();
        // The network has become another.
        for (key, value) in [("vlan", json!(200)), ("mode", json!("tap"))] {
            let mut other = good.clone();
            other[key] = value;
            call("CHECK", &other).failed(103);
        }
        // What the daemon found out.
        for (key, value, named) in [
            (
                "problems",
                json!(["the veth pair cw0001 is gone; it is made anew"]),
                "cw0001",
            ),
            ("state", json!("removing"), "removing"),
        ] {
            let key_of = format!("{CONTAINER}/net1");
            let before = daemon.state().attachments.get_mut(&key_of).unwrap()[key].take();
            daemon.state().attachments.get_mut(&key_of).unwrap()[key] = value;
            let error = call("CHECK", &good).failed(103);
            assert!(error.contains(named), "{error}");
            daemon.state().attachments.get_mut(&key_of).unwrap()[key] = before;
        }
        call("DEL", &conf).good();
        call("CHECK", &good).failed(3);
    }
}

#[test]
fn gc_removes_what_is_not_valid() {
    let daemon = FakeDaemon::start();
    let conf = daemon.network("1.1.0", json!({}));
    for interface in ["net1", "net2"] {
        call_with("ADD", &conf, &[("CNI_IFNAME", interface)]).good();
    }
    let mut valid = conf.clone();
    valid["cni.dev/valid-attachments"] = json!([{"containerID": CONTAINER, "ifname": "net2"}]);
    daemon.requests();
    assert_eq!(call("GC", &valid).good(), Value::Null);
    assert_eq!(daemon.requests(), ["POST /v1/attachments/gc"]);
    assert_eq!(
        daemon.state().body,
        json!({"network": "blue", "valid": [{"container": CONTAINER, "interface": "net2"}]})
    );
    let left: Vec<_> = daemon.state().attachments.keys().cloned().collect();
    assert_eq!(left, [format!("{CONTAINER}/net2")]);
    let error = call("GC", &conf).failed(7);
    assert!(error.contains("cni.dev/valid-attachments"), "{error}");
    assert_eq!(daemon.state().attachments.len(), 1);
    valid["cni.dev/valid-attachments"] = Value::Null;
    call("GC", &valid).good();
    assert!(daemon.state().attachments.is_empty());
}

#[test]
fn status_asks_for_what_an_add_would_need() {
    let daemon = FakeDaemon::start();
    let conf = daemon.network("1.1.0", json!({"ipam": {"type": "clearway", "pool": "p1"}}));
    assert_eq!(call("STATUS", &conf).good(), Value::Null);
    assert_eq!(
        daemon.state().body,
        json!({"segment": {"vlan": 100}, "ipam": {"pool": {"pool": "p1"}}})
    );
    daemon.refuse("POST", 409, "conflict");
    let error = call("STATUS", &conf).failed(50);
    assert!(error.contains("conflict, it is so"), "{error}");
    let mut nobody = conf;
    nobody["daemonSocket"] = "/run/clearway-no-such.sock".into();
    let error = call("STATUS", &nobody).failed(50);
    assert!(
        error.contains("/run/clearway-no-such.sock") && error.contains("start the daemon"),
        "{error}"
    );
}

#[test]
fn verbs_are_only_where_the_version_has_them() {
    let daemon = FakeDaemon::start();
    for version in VERSIONS {
        for (verb, since) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
            let ran = call(
                verb,
                &daemon.network(version, json!({"cni.dev/valid-attachments": []})),
            );
            if version < since {
                let error = ran.failed(1);
                assert!(error.contains(verb) && error.contains(since), "{error}");
            } else {
                assert_ne!(ran.out["code"], 1, "{ran:?}");
            }
        }
    }
    assert!(!daemon.requests().iter().any(|request| request.starts_with("PUT")));
}

/// The verbs that ask the daemon, with what they ask it by, where this version has them.
fn asking(version: &str) -> Vec<(&'static str, &'static str)> {
    let mut verbs = vec![("ADD", "PUT"), ("DEL", "DELETE")];
    if version >= "0.4.0" {
        verbs.push(("CHECK", "GET"));
    }
    if version >= "1.1.0" {
        verbs.extend([("GC", "POST"), ("STATUS", "POST")]);
    }
    verbs
}

#[test]
fn the_daemons_refusals_have_codes_in_every_version() {
    let daemon = FakeDaemon::start();
    for version in VERSIONS {
        let conf = daemon.network(version, json!({"cni.dev/valid-attachments": []}));
        let result = call("ADD", &conf).good();
        for (status, code, number) in [
            (400, "bad_request", 7),
            (422, "invalid_config", 7),
            (404, "not_found", 7),
            (500, "failed", 100),
            (503, "shutting_down", 11),
            (504, "timeout", 11),
        ] {
            for (verb, method) in asking(version) {
                let number = match (verb, code) {
                    ("CHECK", "not_found") => 3,
                    ("STATUS", _) => 50,
                    _ => number,
                };
                daemon.refuse(method, status, code);
                let other: &[_] = if verb == "ADD" {
                    &[("CNI_IFNAME", "net9")]
                } else {
                    &[]
                };
                let ran = call_with(verb, &remembering(&conf, &result), other);
                assert_eq!(ran.out["cniVersion"], version, "{verb} {code}");
                let error = ran.failed(number);
                assert!(
                    error.contains("it is so") || number == 3,
                    "{verb} {code}: {error}"
                );
                daemon.state().refuse.clear();
            }
        }
        assert_eq!(daemon.state().attachments.len(), 1);
        call("DEL", &conf).good();
    }
}

#[test]
fn without_the_daemon_the_runtime_tries_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    for version in VERSIONS {
        for (verb, _) in asking(version) {
            let conf = json!({"cniVersion": version, "name": "n", "type": "x", "vlan": 1, "daemonSocket": socket,
                              "prevResult": {"cniVersion": version}, "cni.dev/valid-attachments": []});
            let ran = call(verb, &conf);
            assert_eq!(ran.out["cniVersion"], version);
            let error = ran.failed(if verb == "STATUS" { 50 } else { 11 });
            assert!(
                error.contains("none.sock") && error.contains("clearway run"),
                "{verb}: {error}"
            );
            assert!(verb != "DEL" || error.contains("still there"), "{error}");
        }
    }
    // Nobody behind a socket that is there.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "x", "vlan": 1, "daemonSocket": socket});
    call("DEL", &conf).failed(11);
}

#[test]
fn wrong_fields_are_found_by_the_verbs_that_read_them() {
    let daemon = FakeDaemon::start();
    for version in VERSIONS {
        for (verb, _) in asking(version) {
            for (field, value, code) in [
                ("bogus", json!(1), 7),
                ("mtu", json!(1), 7),
                ("spoofchk", json!("on"), 2),
            ] {
                let mut conf = daemon.network(
                    version,
                    json!({"cni.dev/valid-attachments": [], "prevResult": {}}),
                );
                conf[field] = value;
                let ran = call(verb, &conf);
                if matches!(verb, "DEL" | "GC") {
                    ran.good();
                } else {
                    let error = ran.failed(code);
                    assert!(error.contains(field), "{verb} {version}: {error}");
                }
            }
        }
    }
    assert!(!daemon.requests().iter().any(|request| request.starts_with("PUT")));
}

/// The answer is lost: what may have been made is taken back.
#[test]
fn an_attachment_whose_answer_is_lost_is_removed() {
    let daemon = FakeDaemon::start();
    daemon.state().refuse.insert("PUT", (0, Value::Null));
    call("ADD", &daemon.network("1.0.0", json!({}))).failed(11);
    assert_eq!(
        daemon.requests(),
        [format!("PUT {PATH}"), format!("DELETE {PATH}")]
    );
    // A refusal is clear: what is there is not ours.
    daemon.refuse("PUT", 409, "conflict");
    call("ADD", &daemon.network("1.0.0", json!({}))).failed(102);
    assert_eq!(daemon.requests(), [format!("PUT {PATH}")]);
}

#[test]
fn an_answer_that_is_none_is_named() {
    let daemon = FakeDaemon::start();
    for (status, answer) in [(200, json!({"id": 1})), (502, json!("what?"))] {
        daemon.state().refuse.insert("PUT", (status, answer));
        let error = call("ADD", &daemon.network("1.0.0", json!({}))).failed(11);
        assert!(error.contains("clearway.sock"), "{error}");
    }
}

#[test]
fn version_needs_nothing() {
    for asked in ["", "{\"cniVersion\": \"0.4.0\"}"] {
        let answer = plugin(&[("CNI_COMMAND", "VERSION")], asked.as_bytes()).good();
        assert_eq!(answer["supportedVersions"], json!(VERSIONS));
        assert_eq!(
            answer["cniVersion"],
            if asked.is_empty() { "1.1.0" } else { "0.4.0" }
        );
    }
}

#[test]
fn calls_that_are_none_are_refused() {
    let daemon = FakeDaemon::start();
    let good = daemon.network("1.0.0", json!({}));
    let text = good.to_string();
    let error = plugin(&[], text.as_bytes());
    assert!(error.stderr.contains("CNI plugin"), "{error:?}");
    assert!(error.failed(4).contains("CNI_COMMAND"));
    assert!(
        plugin(&[("CNI_COMMAND", "UPDATE")], b"{}")
            .failed(4)
            .contains("UPDATE")
    );
    for variable in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let error = call_with("ADD", &good, &[(variable, "")]).failed(4);
        assert!(error.contains(variable), "{error}");
    }
    for (variable, value) in [
        ("CNI_CONTAINERID", "../x"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a-name-that-is-too-long"),
        ("CNI_ARGS", "FOO=BAR"),
        ("CNI_NETNS", "/proc/self/ns/net"),
    ] {
        let error = call_with("ADD", &good, &[(variable, value)]).failed(4);
        assert!(error.contains(variable) && error.contains(value), "{error}");
    }
    for (stdin, code) in [
        ("", 6),
        ("{", 6),
        ("[]", 6),
        ("{}", 1),
        (r#"{"cniVersion": "1.0.0"}"#, 7),
        (r#"{"cniVersion": "9.0.0", "name": "n"}"#, 1),
    ] {
        for verb in ["ADD", "DEL"] {
            let variables = [
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", "c"),
                ("CNI_NETNS", NETNS),
                ("CNI_IFNAME", "e"),
            ];
            plugin(&variables, stdin.as_bytes()).failed(code);
        }
    }
    assert_eq!(
        call("ADD", &daemon.network("0.4.0", json!({"bogus": 1}))).out["cniVersion"],
        "0.4.0"
    );
    assert!(daemon.requests().is_empty());
}

/// What an older or a newer plugin accepted must not keep a container from being removed.
#[test]
fn a_removal_does_not_mind_the_fields() {
    let daemon = FakeDaemon::start();
    let conf = daemon.network(
        "1.1.0",
        json!({"bogus": 1, "mtu": "x", "mode": "quantum", "prevResult": 7}),
    );
    call("ADD", &conf).failed(7);
    call("DEL", &conf).good();
    assert_eq!(daemon.requests(), [format!("DELETE {PATH}")]);
}

#[test]
fn lines_for_the_administrator_go_where_they_should() {
    let daemon = FakeDaemon::start();
    let file = daemon.folder.path().join("cni.log");
    let conf = daemon.network("1.0.0", json!({"logFile": file, "logLevel": "info"}));
    let ran = call("ADD", &conf);
    assert_eq!(ran.stderr, "");
    call("ADD", &conf).failed(102);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].contains("info clearway-cni ADD blue 0123456789abcdef/net1: done"),
        "{text}"
    );
    assert!(lines[1].contains(" error clearway-cni ADD blue "), "{text}");
    let quiet = call("DEL", &daemon.network("1.0.0", json!({})));
    assert_eq!(quiet.stderr, "", "nothing to say");
    let lost = call(
        "DEL",
        &daemon.network("1.0.0", json!({"logFile": "/no/such/folder/x"})),
    );
    assert!(lost.stderr.contains("/no/such/folder/x"), "{lost:?}");
    lost.good();
}
