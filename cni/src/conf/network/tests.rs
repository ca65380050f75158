//! What each field comes to.

use serde_json::json;

use super::*;
use clearway_config::TrunkItem;
use clearway_config::attach::{AttachKind, AttachmentId};

fn read(fields: Value) -> Result<Network, ConfError> {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "clearway-cni"});
    for (key, value) in fields.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Network::read(conf.as_object().unwrap())
}

fn target() -> Target {
    Target {
        id: AttachmentId {
            container: "0123456789abcdef".into(),
            interface: "net1".into(),
        },
        netns: "/run/netns/a".into(),
        args: Default::default(),
    }
}

fn attach(fields: Value) -> Attach {
    let shown = fields.to_string();
    let network = read(fields).unwrap_or_else(|error| panic!("{shown}: {error}"));
    network.attach("n", &target(), Addresses::default())
}

fn refused(fields: Value) -> String {
    read(fields.clone()).map(|_| fields).unwrap_err().to_string()
}

#[test]
fn auto_is_decided_by_what_is_there() {
    for (fields, mode) in [
        (json!({"vlan": 1}), AUTO),
        (json!({"vlan": 1, "mode": "auto"}), AUTO),
        (json!({"deviceID": "0000:03:02.0"}), Mode::Vf),
        (
            json!({"mode": "vf", "runtimeConfig": {"deviceID": "0000:03:02.0"}}),
            Mode::Vf,
        ),
        (json!({"runtimeConfig": {"deviceID": "0000:03:02.0"}}), Mode::Vf),
        (json!({"vlan": 1, "sharedDir": "/run/x"}), Mode::VhostUser),
        (json!({"vlan": 1, "host": {}}), Mode::VhostUser),
        (json!({"vlan": 1, "mode": "veth"}), Mode::Veth),
    ] {
        assert_eq!(read(fields).unwrap().mode, mode);
    }
}

#[test]
fn segments_are_named_once() {
    let domain = |name: &str| Segment::Domain(Name::new(name).unwrap());
    for (fields, segment) in [
        (json!({"bridgeDomain": "blue"}), domain("blue")),
        (json!({"bridge": "br0"}), domain("br0")),
        (json!({"bridge": "br0", "vlan": 0}), domain("br0")),
        (
            json!({"bridge": "br0", "vlan": 7}),
            Segment::Vlan(7u64.try_into().unwrap()),
        ),
        (json!({"vni": 5000}), Segment::Vni(5000u64.try_into().unwrap())),
        (
            json!({"bridge": "br0", "trunk": [{"id": 42}, {"minID": 100, "maxID": 110}], "native": "blue"}),
            Segment::Trunk {
                items: vec![
                    TrunkItem::Vid(42u64.try_into().unwrap()),
                    TrunkItem::Range(100u64.try_into().unwrap(), 110u64.try_into().unwrap()),
                ],
                native: Some(Name::new("blue").unwrap()),
            },
        ),
        (
            json!({"host": {"bridge": {"bridgeName": "br-4"}}}),
            domain("br-4"),
        ),
        (json!({"host": {"bridge": {"bridgeId": 4}}}), domain("4")),
        (
            json!({"host": {"bridge": {"bridgeName": "br-4", "vlanId": 9}}}),
            Segment::Vlan(9u64.try_into().unwrap()),
        ),
    ] {
        assert_eq!(attach(fields.clone()).segment, segment, "{fields}");
    }
    for (fields, named) in [
        (json!({}), "bridgeDomain"),
        (json!({"vlan": 0}), "bridgeDomain"),
        (json!({"vlan": 1, "vni": 1}), "`vlan` and `vni`"),
        (
            json!({"bridgeDomain": "a", "bridge": "b"}),
            "`bridgeDomain` and `bridge`",
        ),
        (json!({"vlan": 1, "trunk": [{"id": 1}]}), "`vlan` and `trunk`"),
        (json!({"vlan": 1, "native": "a"}), "native"),
        (json!({"vlan": 4095}), "vlan"),
        (json!({"vni": 16777216}), "vni"),
        (json!({"trunk": []}), "trunk"),
        (json!({"trunk": [{}]}), "trunk.id"),
        (json!({"trunk": [{"minID": 5, "maxID": 4}]}), "trunk.maxID"),
        (json!({"trunk": [{"minID": 5}]}), "trunk.minID"),
        (json!({"trunk": [{"id": 1, "maxID": 4}]}), "trunk.id"),
        (json!({"trunk": [7]}), "trunk"),
        (json!({"bridgeDomain": "no good"}), "bridgeDomain"),
        (
            json!({"vlan": 1, "host": {"bridge": {"vlanId": 9}}}),
            "host.bridge",
        ),
    ] {
        let error = refused(fields.clone());
        assert!(error.contains(named), "{fields}: {error}");
    }
}

#[test]
fn what_is_asked_for_one_pod_comes_first() {
    let mac = |last| Some(MacAddr([2, 0, 0, 0, 0, last]));
    let with = |runtime: Value, args: Value, env: Option<MacAddr>| {
        let fields = json!({"vlan": 1, "mac": "02:00:00:00:00:01", "runtimeConfig": runtime, "args": args});
        let mut target = target();
        target.args.mac = env;
        read(fields).unwrap().mac(&target)
    };
    let (runtime, args) = (
        json!({"mac": "02:00:00:00:00:04"}),
        json!({"cni": {"mac": "02:00:00:00:00:03"}}),
    );
    assert_eq!(with(json!({}), json!({}), None), mac(1));
    assert_eq!(with(json!({}), json!({}), mac(2)), mac(2));
    assert_eq!(with(json!({}), args.clone(), mac(2)), mac(3));
    assert_eq!(with(runtime, args, mac(2)), mac(4));
    for wrong in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "2"] {
        assert!(refused(json!({"vlan": 1, "mac": wrong})).contains("mac"));
    }
}

#[test]
fn addresses_come_from_where_the_network_says() {
    let wanted = |fields: Value, env: &[IpAddr]| {
        let mut target = target();
        target.args.ips = env.to_vec();
        match read(fields).unwrap().addresses(&target, Addresses::default()) {
            Ipam::Pool { pool, wanted } => (pool.map(|pool| pool.to_string()), wanted),
            other => panic!("{other:?}"),
        }
    };
    let ip = |last| IpAddr::from([10, 9, 0, last]);
    let own = |more: Value| {
        let mut fields =
            json!({"vlan": 1, "ipam": {"type": "clearway", "pool": "p", "addresses": ["10.9.0.1"]}});
        fields["runtimeConfig"] = more["runtime"].clone();
        fields["args"] = more["args"].clone();
        fields
    };
    assert_eq!(wanted(own(json!({})), &[]), (Some("p".into()), vec![ip(1)]));
    assert_eq!(wanted(own(json!({})), &[ip(2)]).1, [ip(2)]);
    let args = json!({"cni": {"ips": ["10.9.0.3/24"]}});
    assert_eq!(wanted(own(json!({"args": args})), &[ip(2)]).1, [ip(3)]);
    let runtime = json!({"ips": ["10.9.0.4/24", "2001:db8::4"]});
    assert_eq!(
        wanted(own(json!({"args": args, "runtime": runtime})), &[ip(2)])
            .1
            .len(),
        2
    );

    let none = |ipam: Value| read(json!({"vlan": 1, "ipam": ipam})).unwrap().ipam;
    for empty in [json!({}), json!({"type": ""}), Value::Null] {
        assert_eq!(none(empty), IpamConf::None);
    }
    let other = none(json!({"type": "host-local", "subnet": "10.0.0.0/24"}));
    assert_eq!(other, IpamConf::Delegate("host-local".into()));
    assert!(refused(json!({"vlan": 1, "ipam": {"subnet": "x"}})).contains("ipam.type"));
    let dhcp = json!({"vlan": 1, "mode": "vhost-user", "ipam": {"type": "dhcp"}});
    assert!(refused(dhcp).contains("vhost-user"));
    assert!(refused(json!({"vlan": 1, "runtimeConfig": {"ips": ["10.0.0.1"]}})).contains("ipam"));
    assert!(
        refused(json!({"vlan": 1, "ipam": {"type": "clearway"}, "runtimeConfig": {"ips": ["x"]}}))
            .contains("ips")
    );
}

#[test]
fn bandwidth_is_seen_from_the_container() {
    let attach = attach(json!({
        "vlan": 1,
        "rateLimit": {"receive": {"packets": 500, "bits": 9000}, "transmit": {"packets": 7}},
        "runtimeConfig": {"bandwidth": {
            "ingressRate": 1_000_000, "ingressBurst": 100_000, "egressRate": 2_000_000, "egressBurst": 2_147_483_647_u64
        }}
    }));
    let RateLimit {
        receive: Some(receive),
        transmit: Some(transmit),
    } = attach.rate_limit
    else {
        panic!()
    };
    // Ingress is what the container is sent: what our port transmits.
    assert_eq!((transmit.bits, transmit.packets), (Some(1_000_000), Some(7)));
    assert_eq!(transmit.burst.get().as_millis(), 100);
    assert_eq!((receive.bits, receive.packets), (Some(2_000_000), Some(500)));
    assert_eq!(receive.burst.get(), *Rate::BURST.end());
    for wrong in [
        json!({"rateLimit": {"receive": {}}}),
        json!({"rateLimit": {"receive": {"bits": 999}}}),
        json!({"rateLimit": {"receive": {"packets": 0}}}),
        json!({"rateLimit": {"receive": {"bits": 1000, "burst": "1h"}}}),
        json!({"runtimeConfig": {"bandwidth": {"ingressRate": 10}}}),
        json!({"runtimeConfig": {"bandwidth": {"ingressRate": -1}}}),
    ] {
        let mut fields = wrong.clone();
        fields["vlan"] = 1.into();
        assert!(read(fields).is_err(), "{wrong}");
    }
    let none = json!({"vlan": 1, "runtimeConfig": {"bandwidth": {"ingressRate": 0, "egressRate": 0}}});
    assert!(self::attach(none).rate_limit.is_empty());
}

#[test]
fn sockets_have_paths_of_their_own() {
    let vhost = |fields: Value| attach(fields).vhost.unwrap();
    let plain = vhost(json!({"vlan": 1, "mode": "vhost-user"}));
    assert_eq!(plain, VhostSocket::default(), "the daemon chooses");
    let folder = vhost(json!({"vlan": 1, "mode": "vhost-user", "socket": {"folder": "/run/v"}}));
    assert_eq!(folder.file.as_deref(), Some("0123456789ab-net1"));
    let all = vhost(json!({"vlan": 1, "mode": "vhost-user", "socket": {
        "folder": "/run/v", "file": "x", "queuePairs": 4, "owner": "107", "group": "kvm", "mode": "0600",
        "selinuxLabel": "l"}}));
    assert_eq!(all.permissions, Some(Permissions(0o600)));
    assert_eq!((all.file.as_deref(), all.queue_pairs), (Some("x"), Some(4)));
    let users = vhost(json!({"vlan": 1, "sharedDir": "/run/s/", "host": {"vhost": {"mode": "client"}}}));
    assert_eq!(users.folder, Some("/run/s/0123456789ab".into()));
    assert!(users.client);
    assert!(users.own_folder && !folder.own_folder && !all.own_folder);
    assert_eq!(attach(json!({"vlan": 1, "mode": "tap"})).vhost, None);
    for wrong in [
        json!({"mode": "vhost-user", "socket": {"folder": "run"}}),
        json!({"mode": "vhost-user", "socket": {"file": "a/b"}}),
        json!({"mode": "vhost-user", "socket": {"file": ".."}}),
        json!({"mode": "vhost-user", "socket": {"queuePairs": 17}}),
        json!({"mode": "vhost-user", "socket": {"mode": "0999"}}),
        json!({"mode": "vhost-user", "socket": {"mode": 660}}),
        json!({"mode": "vhost-user", "socket": {"client": true, "group": "kvm"}}),
        json!({"mode": "vhost-user", "socket": {}, "sharedDir": "/run/s"}),
        json!({"mode": "tap", "socket": {}}),
    ] {
        let mut fields = wrong.clone();
        fields["vlan"] = 1.into();
        assert!(read(fields).is_err(), "{wrong}");
    }
}

#[test]
fn userspace_cnis_two_sides_fit() {
    let client = |host: Value, container: Value| {
        let network = read(json!({"vlan": 1, "host": {"vhost": host}, "container": {"vhost": container}}));
        network.map(|network| {
            network
                .attach("n", &target(), Addresses::default())
                .vhost
                .unwrap()
                .client
        })
    };
    assert_eq!(client(json!({}), json!({})), Ok(false));
    assert_eq!(
        client(json!({"mode": "client"}), json!({"mode": "server"})),
        Ok(true)
    );
    assert_eq!(client(json!({}), json!({"mode": "server"})), Ok(true));
    assert_eq!(client(json!({"mode": "server"}), json!({})), Ok(false));
    assert!(client(json!({"mode": "server"}), json!({"mode": "server"})).is_err());
    assert!(client(json!({"mode": "client", "group": "kvm"}), json!({})).is_err());
    for wrong in [
        json!({"iftype": "memif"}),
        json!({"netType": "interface"}),
        json!({"engine": "snabb"}),
        json!({"memif": {"role": "master"}}),
    ] {
        assert!(read(json!({"vlan": 1, "host": wrong})).is_err());
    }
}

#[test]
fn a_vfs_settings_are_checked() {
    let vf = |more: Value| {
        let mut fields = json!({"deviceID": "0000:03:02.0"});
        for (key, value) in more.as_object().unwrap() {
            fields[key] = value.clone();
        }
        read(fields)
    };
    let network = vf(json!({
        "mac": "CA:FE:C0:FF:EE:00", "vlan": 1000, "vlanQoS": 4, "vlanProto": "802.1AD", "min_tx_rate": 100,
        "max_tx_rate": 200, "spoofchk": "off", "trust": "on", "link_state": "enable", "pciBusID": "0000:03:02.0"
    }));
    let asked = network.unwrap().attach("n", &target(), Addresses::default());
    assert_eq!(
        serde_json::to_value(asked.vf).unwrap(),
        json!({"device": "0000:03:02.0", "vlan": 1000, "qos": 4, "vlan-proto": "802.1ad", "spoofchk": false, "trust": true,
               "link-state": "enable", "min-tx-rate": 100, "max-tx-rate": 200})
    );
    assert_eq!(
        (asked.kind, asked.segment, asked.mac.unwrap().to_string()),
        (AttachKind::Vf, Segment::Pf, "ca:fe:c0:ff:ee:00".to_owned())
    );
    // What is not said stays as it is.
    let asked = vf(json!({}))
        .unwrap()
        .attach("n", &target(), Addresses::default());
    assert_eq!(
        serde_json::to_value(asked.vf).unwrap(),
        json!({"device": "0000:03:02.0"})
    );
    for wrong in [
        json!({"deviceID": ""}),
        json!({"deviceID": "eth0"}),
        json!({"vlanQoS": 1}),
        json!({"vlan": 0, "vlanQoS": 1}),
        json!({"vlan": 1, "vlanQoS": 8}),
        json!({"vlan": 0, "vlanProto": "802.1ad"}),
        json!({"vlan": 1, "vlanProto": "QinQ"}),
        json!({"spoofchk": true}),
        json!({"link_state": "up"}),
        json!({"min_tx_rate": 2, "max_tx_rate": 1}),
        json!({"antiSpoof": true}),
        json!({"mode": "tap"}),
        json!({"trunk": [{"id": 1}]}),
        json!({"bridge": "br0"}),
    ] {
        assert!(vf(wrong.clone()).is_err(), "{wrong}");
    }
    assert!(refused(json!({"mode": "vf"})).contains("deviceID"));
    let error = refused(json!({"deviceID": ""}));
    assert!(error.contains("no device left"), "{error}");
    assert!(vf(json!({"vlan": 0, "vlanQoS": 0})).is_ok());
    assert_eq!(AttachKind::Veth, Mode::Veth.kind());
}

#[test]
fn mtu_has_a_range_and_0_is_none() {
    assert_eq!(attach(json!({"vlan": 1, "mtu": 9000})).mtu, Some(9000));
    assert_eq!(attach(json!({"vlan": 1, "mtu": 0})).mtu, None);
    for wrong in [json!(1), json!(70000), json!(-1), json!("1500"), json!(1500.5)] {
        assert!(refused(json!({"vlan": 1, "mtu": wrong})).contains("mtu"));
    }
    assert!(refused(json!({"vlan": 1, "ipMasq": true})).contains("ipMasq"));
}
