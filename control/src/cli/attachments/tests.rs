//! What `clearway why` makes of what the daemon says.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::cli::args::Format;

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("as the daemon writes it")
}

/// `base` with these fields instead of its own.
fn with(mut base: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
    base
}

/// Attachment `container`/net1 of pod default/web-1: all is well with it.
fn attachment(fields: Value) -> Attachment {
    let wanted = json!({
        "network": "blue", "netns": "/run/netns/pod2", "kind": "veth", "segment": {"domain": "red"},
        "pod": {"namespace": "default", "name": "web-1"}, "ipam": {"pool": {}}
    });
    let base = json!({
        "id": {"container": "8810ce55a2f7", "interface": "net1"}, "wanted": wanted, "state": "ready", "port": "cw1",
        "mac": "02:00:00:00:00:01", "mtu": 1500, "addresses": {"ips": [{"address": "10.7.0.3/24"}]}, "generation": 2
    });
    read(with(base, fields))
}

fn port(name: &str, fields: Value) -> PortView {
    let base = json!({
        "name": name, "owner": "cni", "generation": 1, "kind": "af-xdp", "state": "up", "queues": [], "service": "access red",
        "rx_packets": 1234, "rx_bytes": 9, "tx_packets": 5, "tx_bytes": 9, "drops": 0, "learned_macs": 1, "warnings": []
    });
    read(with(base, fields))
}

fn domain(name: &str, fields: Value) -> BridgeDomainView {
    let base = json!({
        "name": name, "owner": "file", "generation": 1, "members": ["cw1", "cw2"], "remotes": [], "learning": true,
        "aging_s": 300, "macs": 2
    });
    read(with(base, fields))
}

fn tunnel(domains: Value, fields: Value) -> TunnelView {
    let base = json!({
        "name": "v0/10.0.0.2", "owner": "file", "generation": 1, "vtep": "v0", "local": "10.0.0.1", "remote": "10.0.0.2",
        "state": "up", "bridge_domains": domains
    });
    read(with(base, fields))
}

fn station(mac: &str, domain: &str, place: Value) -> FdbView {
    read(with(
        json!({"bridge_domain": domain, "mac": mac, "origin": "dynamic"}),
        place,
    ))
}

fn dropped(reason: &str, packets: u64, ports: Value) -> DropView {
    let (text, advice) = (format!("It is {reason}."), format!("Undo {reason}."));
    read(json!({"reason": reason, "packets": packets, "text": text, "advice": advice, "ports": ports}))
}

/// A daemon of which nothing bad can be said.
fn well() -> Seen {
    Seen {
        ports: vec![port("cw1", json!({})), port("cw2", json!({}))],
        domains: vec![domain("red", json!({}))],
        ..Seen::default()
    }
}

#[track_caller]
fn shown(story: &Story) -> String {
    output::render(story, Format::Table).expect("a text")
}

#[test]
fn of_one_that_is_well_nothing_bad_is_said() {
    let story = Story::tell(attachment(json!({})), well());
    assert_eq!(
        shown(&story),
        "attachment  8810ce55a2f7/net1 (ready)\n\
         pod         default/web-1\n\
         network     blue\n\
         netns       /run/netns/pod2\n\
         interface   net1 (veth, 02:00:00:00:00:01, MTU 1500)\n\
         addresses   10.7.0.3/24\n\
         port        cw1 (up), 1,234 frames from the pod, 5 to it\n\
         domain      red (members cw1, cw2; 2 MACs)\n\
         \n\
         Nothing is wrong that can be seen from here.\n"
    );
}

/// A VF in the VLAN 100 of its NIC.
fn vf(interface: Value, fields: Value) -> Attachment {
    let wanted = json!({
        "network": "blue", "netns": "/run/netns/pod2", "kind": "vf", "segment": "pf", "ipam": {"pool": {}},
        "vf": {"device": "0000:03:10.2", "vlan": 100}
    });
    let vf =
        json!({"pci": "0000:03:10.2", "pf": "0000:03:00.0", "index": 2, "driver": "igbvf", "generation": 7});
    let vf = with(vf, interface);
    let base = json!({"wanted": wanted, "vf": vf, "port": null});
    attachment(with(base, fields))
}

#[test]
fn a_vf_has_no_port_and_misses_none() {
    let story = Story::tell(vf(json!({"interface": "eth1v2"}), json!({})), well());
    assert_eq!(
        shown(&story),
        "attachment  8810ce55a2f7/net1 (ready)\n\
         network     blue\n\
         netns       /run/netns/pod2\n\
         interface   net1 (vf, 02:00:00:00:00:01, MTU 1500)\n\
         addresses   10.7.0.3/24\n\
         vf          0000:03:10.2 (VF 2 of 0000:03:00.0, igbvf, eth1v2 on the host, lease 7)\n\
         \n\
         Nothing is wrong that can be seen from here.\n"
    );
    // A program's needs no address.
    let fields = json!({"mac": "00:00:00:00:00:00", "mtu": 0, "addresses": {}});
    let of_program = vf(json!({"driver": "vfio-pci"}), fields);
    let text = shown(&Story::tell(of_program.clone(), well()));
    assert!(
        text.contains("interface   none: a program drives the VF\n")
            && text.contains("vf          0000:03:10.2 (VF 2 of 0000:03:00.0, vfio-pci, lease 7)\n")
            && text.contains("Nothing is wrong"),
        "{text}"
    );
    let list = listed(&[of_program], false);
    let row: Vec<_> = list.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(
        row,
        [
            "8810ce55a2f7",
            "net1",
            "-",
            "ready",
            "vf",
            "vlan",
            "100",
            "0000:03:10.2",
            "-",
            "-"
        ]
    );
    // What its NIC lost is a cause.
    let lost = json!({"problems": ["its NIC has not: VF 2: trust on"]});
    let text = shown(&Story::tell(vf(json!({"interface": "eth1v2"}), lost), well()));
    assert!(text.ends_with("\n- its NIC has not: VF 2: trust on\n"), "{text}");
}

#[test]
fn all_that_its_frames_depend_on_is_told_and_nothing_else() {
    let mut seen = well();
    seen.domains = vec![
        domain("red", json!({"members": ["cw1:10", "up0:10"]})),
        // One whose name begins in the same way is another.
        domain("green", json!({"members": ["cw11", "cw12:20"]})),
    ];
    seen.tunnels = vec![
        tunnel(json!({"red": 100, "green": 200}), json!({})),
        tunnel(
            json!({"green": 200}),
            json!({"name": "v0/10.0.0.3", "remote": "10.0.0.3"}),
        ),
    ];
    seen.stations = vec![
        station("02:00:00:00:00:01", "red", json!({"port": "cw1"})),
        station("02:00:00:00:00:01", "green", json!({"remote": "10.0.0.2"})),
        station("02:00:00:00:00:02", "red", json!({"port": "cw2"})),
    ];
    let story = Story::tell(attachment(json!({})), seen);
    assert_eq!(
        shown(&story).lines().skip(7).collect::<Vec<_>>(),
        [
            "domain      red (members cw1:10, up0:10; 2 MACs)",
            "tunnel      v0/10.0.0.2 (up)",
            "seen        02:00:00:00:00:01 in red behind cw1",
            "seen        02:00:00:00:00:01 in green behind 10.0.0.2",
            "",
            "Nothing is wrong that can be seen from here.",
        ]
    );
}

#[test]
fn drops_of_its_port_are_told_the_most_frequent_first() {
    let mut seen = well();
    let counters = |port: &str, counters: Value| read(json!({"port": port, "counters": counters}));
    seen.counters = vec![
        counters("cw2", json!({"drop_spoofed_source": 99, "drop_same_port": 99})),
        counters(
            "cw1",
            json!({"drop_spoofed_source": 3, "drop_police_receive": 12_000, "drop_same_port": 0, "rx_packets": 7}),
        ),
    ];
    // Of all ports together; the port's own counters are the newest.
    seen.drops = vec![
        dropped("spoofed_source", 101, json!({"cw1": 2, "cw2": 99})),
        dropped("same_port", 99, json!({"cw2": 99})),
        dropped("police_receive", 12_000, json!({"cw1": 12_000})),
    ];
    let story = Story::tell(attachment(json!({})), seen);
    let text = shown(&story);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("dropped")).collect();
    assert_eq!(
        lines,
        [
            "dropped     12,000 police_receive: It is police_receive. Undo police_receive.",
            "dropped     3 spoofed_source: It is spoofed_source. Undo spoofed_source.",
        ]
    );
}

/// Each alone, so that each is told for its own reason.
#[test]
fn each_cause_is_told() {
    let wanted = |fields| {
        with(
            serde_json::to_value(attachment(json!({})).wanted).expect("JSON"),
            fields,
        )
    };
    let of_ports = |fields| Seen {
        ports: vec![port("cw1", fields)],
        ..well()
    };
    let without = || json!({"ips": []});
    let cases = [
        (
            json!({"problems": ["its interface is not in the pod any more"]}),
            well(),
            "its interface is not in the pod any more",
        ),
        (json!({"state": "removing"}), well(), "it is removing"),
        (
            json!({"addresses": without(), "wanted": wanted(json!({"ipam": "none"}))}),
            well(),
            "it has no IP address: its network has no `ipam`",
        ),
        (
            json!({"addresses": without(), "wanted": wanted(json!({"ipam": {"given": {}}}))}),
            well(),
            "it has no IP address: the IPAM plugin of its network has not given it one",
        ),
        (
            json!({}),
            Seen {
                ports: Vec::new(),
                ..well()
            },
            "the engine has no port cw1",
        ),
        (
            json!({}),
            of_ports(json!({"state": "down", "reason": "its interface is gone"})),
            "port cw1: its interface is gone",
        ),
        (
            // The same once.
            json!({"problems": ["port cw1: its interface is gone"]}),
            of_ports(json!({"state": "down", "reason": "its interface is gone"})),
            "port cw1: its interface is gone",
        ),
        (
            json!({}),
            of_ports(json!({"warnings": ["generic mode is slow"]})),
            "port cw1: generic mode is slow",
        ),
        (
            json!({}),
            of_ports(json!({"rx_packets": 0})),
            "port cw1 has never received a frame from the pod",
        ),
        (
            json!({}),
            Seen {
                domains: vec![domain("red", json!({"members": ["cw1"]}))],
                ..well()
            },
            "bridge domain red has no other member",
        ),
        (
            json!({}),
            Seen {
                tunnels: vec![tunnel(
                    json!({"red": 100}),
                    json!({"state": "down", "reason": "no route"}),
                )],
                ..well()
            },
            "tunnel v0/10.0.0.2 is down: no route",
        ),
        (
            json!({}),
            Seen {
                tunnels: vec![tunnel(json!({"red": 100}), json!({"state": "down"}))],
                ..well()
            },
            "tunnel v0/10.0.0.2 is down: no reason is known",
        ),
    ];
    for (fields, seen, cause) in cases {
        let story = Story::tell(attachment(fields), seen);
        assert_eq!(story.causes, [cause]);
        let end = format!("\n\n- {cause}\n");
        assert!(shown(&story).ends_with(&end), "{}", shown(&story));
    }
}

#[test]
fn what_is_no_cause_is_not_told() {
    // Behind a socket there is no interface that could have an address; across a tunnel there is another member.
    let fields = json!({"addresses": {}, "socket": "/run/clearway/vhost/cw1/vhost.sock"});
    let mut seen = well();
    seen.domains = vec![domain(
        "red",
        json!({"members": ["cw1"], "remotes": ["10.0.0.2"]}),
    )];
    seen.tunnels = vec![tunnel(json!({"red": 100}), json!({}))];
    let story = Story::tell(attachment(fields), seen);
    assert_eq!(story.causes, [""; 0]);
    let text = shown(&story);
    assert!(
        text.contains("\nsocket      /run/clearway/vhost/cw1/vhost.sock\naddresses   -\n")
            && !text.contains("interface"),
        "{text}"
    );
    // One that is down can't have received anything: that is no other cause.
    let mut seen = well();
    seen.ports = vec![port(
        "cw1",
        json!({"state": "down", "reason": "it waits", "rx_packets": 0}),
    )];
    assert_eq!(
        Story::tell(attachment(json!({})), seen).causes,
        ["port cw1: it waits"]
    );
    // A tunnel to one station is a way out as well.
    let mut seen = well();
    seen.domains = vec![domain("red", json!({"members": ["cw1"]}))];
    seen.tunnels = vec![tunnel(json!({"red": 100}), json!({}))];
    let story = Story::tell(attachment(json!({})), seen);
    assert_eq!((story.tunnels.len(), &story.causes[..]), (1, &[][..]));
}

#[test]
fn programs_get_all_of_it() {
    let mut seen = well();
    seen.ports.clear();
    seen.drops = vec![dropped("spoofed_source", 3, json!({"cw1": 3}))];
    let story = Story::tell(attachment(json!({})), seen);
    let text = output::render(&story, Format::Json).expect("JSON");
    let read: Value = serde_json::from_str(&text).expect("JSON");
    let keys: Vec<_> = read
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    let expected = [
        "attachment",
        "causes",
        "domains",
        "drops",
        "port",
        "stations",
        "tunnels",
    ];
    assert_eq!(
        keys.iter().collect::<std::collections::BTreeSet<_>>(),
        expected.iter().collect()
    );
    assert_eq!(read["attachment"]["id"]["container"], "8810ce55a2f7");
    assert_eq!(
        (&read["port"], &read["domains"][0]["name"]),
        (&Value::Null, &json!("red"))
    );
    assert_eq!(
        read["drops"],
        json!([dropped("spoofed_source", 3, json!({"cw1": 3}))])
    );
    assert_eq!(read["causes"], json!(["the engine has no port cw1"]));
}

#[test]
fn it_is_found_by_every_name() {
    let other = json!({"id": {"container": "8810ffffffff", "interface": "net2"}, "port": "cw2"});
    let all = || vec![attachment(json!({})), attachment(other.clone())];
    let names =
        |name: &str| of_name(all(), name).map(|found| found.iter().map(|a| a.id.to_string()).collect());
    for (name, found) in [
        ("8810ce55a2f7", vec!["8810ce55a2f7/net1"]),
        ("8810c", vec!["8810ce55a2f7/net1"]),
        ("8810/net2", vec!["8810ffffffff/net2"]),
        ("cw2", vec!["8810ffffffff/net2"]),
        ("web-1/net1", vec!["8810ce55a2f7/net1"]),
        ("default/web-1/net2", vec!["8810ffffffff/net2"]),
        ("web-1", vec!["8810ce55a2f7/net1", "8810ffffffff/net2"]),
        ("default/web-1", vec!["8810ce55a2f7/net1", "8810ffffffff/net2"]),
        ("8810", vec!["8810ce55a2f7/net1", "8810ffffffff/net2"]),
    ] {
        let got: Vec<String> = names(name).expect("it is there");
        assert_eq!(got, found, "{name}");
    }
    for name in [
        "",
        "/net1",
        "other",
        "other/web-1",
        "cw",
        "8810ce55a2f7/net2",
        "10ce",
    ] {
        let refused: Result<Vec<String>, _> = names(name);
        let told = refused.expect_err(name).to_string();
        assert!(told.contains(&format!("{name:?}; there are 2")), "{told}");
    }
    let told = the_one(all(), "web-1").expect_err("there are two").to_string();
    assert_eq!(
        told,
        "\"web-1\" may be any of 8810ce55a2f7/net1, 8810ffffffff/net2: say which"
    );
    let one = of_name(all(), "8810c").and_then(|found| the_one(found, "8810c"));
    assert_eq!(one.expect("it is one").container, "8810ce55a2f7");
}
