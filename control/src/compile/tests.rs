//! What specs come to, and what stays the same from one to the next.

use super::*;
use clearway_engine::{Domain, Policer, PortConf, Service, Tunnel};
use clearway_wire::EtherType;
use std::fmt::Write;

fn spec(text: &str) -> Spec {
    Spec::from_yaml(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// A host on which `up` carries VTEP `v` and every remote has a next hop.
fn facts(spec: &Spec) -> Facts {
    let ports = spec.ports.keys().map(|name| {
        let facts = PortFacts {
            mtu: Some(1500),
            finish_checksums: false,
        };
        (name.clone(), facts)
    });
    let vteps = spec.vteps.keys().map(|vtep| {
        let facts = VtepFacts {
            port: name("up"),
            mac: mac(1),
            answers: false,
        };
        (vtep.clone(), facts)
    });
    let path = Path {
        src_mac: mac(1),
        dst_mac: mac(2),
        mtu: 1600,
    };
    let remotes = spec.bridge_domains.values().flat_map(|domain| {
        let vtep = spec.vtep_of(domain).map(|(name, _)| name.clone());
        domain
            .remotes
            .iter()
            .filter_map(move |remote| Some((vtep.clone()?, *remote)))
    });
    Facts {
        ports: ports.collect(),
        vteps: vteps.collect(),
        paths: remotes.map(|end| (end, path)).collect(),
        manual: BTreeMap::new(),
    }
}

/// A compiler and what it published last.
#[derive(Default)]
struct Rig {
    compiler: Compiler,
    tables: Tables,
}

impl Rig {
    fn apply(&mut self, text: &str) -> &Tables {
        let spec = spec(text);
        let facts = facts(&spec);
        self.apply_with(&spec, &facts)
    }

    fn apply_with(&mut self, spec: &Spec, facts: &Facts) -> &Tables {
        let tables = self.compiler.compile(spec, facts, &self.tables).expect("it fits");
        self.compiler.commit(spec, &tables);
        self.tables = tables;
        &self.tables
    }

    fn port(&self, port: &str) -> &Arc<PortConf> {
        let id = self.compiler.port(&name(port)).expect(port);
        self.tables.snapshot.ports[id.index()].as_ref().expect(port)
    }

    fn domain(&self, domain: &str) -> &Arc<Domain> {
        let id = self.compiler.domain(&name(domain)).expect(domain);
        self.tables.snapshot.domains[id.index()].as_ref().expect(domain)
    }

    fn tunnel(&self) -> &Arc<Tunnel> {
        let (id, ..) = self.compiler.tunnels().next().expect("one");
        self.tables.snapshot.tunnels[id.index()].as_ref().expect("there")
    }
}

#[test]
fn a_trunk_has_its_vids_translation_and_two_tags() {
    let mut rig = Rig::default();
    rig.apply(
        "ports:
  t: {kind: af-xdp, interface: e0, trunk: [10-20, {vlan: 77, bridge-domain: b}, {vlan: 400, inner-vlan: 5, bridge-domain: c}], native: n, pcp: 3, isolated: true}
bridge-domains: {a: {vlan: 15}, b: {}, c: {}, n: {}}",
    );
    let Service::Trunk { native, vids } = &rig.port("t").service else {
        panic!("no trunk");
    };
    let bd = |domain: &str| rig.compiler.domain(&name(domain)).expect("there");
    assert_eq!(native.map(|place| place.bd), Some(bd("n")));
    let tag = |tpid, vid: u16| clearway_wire::Tag {
        tpid,
        tci: clearway_wire::Tci(vid),
    };
    let found = |outer, inner| vids.classify(outer, inner).map(|(place, tags)| (place.bd, tags));
    assert_eq!(found(tag(EtherType::VLAN, 15), None), Some((bd("a"), 1)));
    assert_eq!(found(tag(EtherType::VLAN, 16), None), None, "no domain has it");
    assert_eq!(found(tag(EtherType::VLAN, 77), None), Some((bd("b"), 1)));
    let customer = Some(tag(EtherType::VLAN, 5));
    assert_eq!(found(tag(EtherType::QINQ, 400), customer), Some((bd("c"), 2)));
    assert_eq!(
        found(tag(EtherType::VLAN, 400), customer),
        None,
        "an S-tag is wanted"
    );
    let member = rig.domain("c").members[0].expect("one");
    assert!(member.isolated);
    assert_eq!(
        member.tags.outer.map(|(tpid, vid)| (tpid, vid.get())),
        Some((EtherType::QINQ, 400))
    );
    assert_eq!(member.tags.inner.map(|vid| vid.get()), Some(5));
    assert_eq!(member.tags.pcp.map(|pcp| pcp.get()), Some(3));
    let untagged = rig.domain("n").members[0].expect("one");
    assert_eq!((untagged.tags.outer, untagged.tags.inner), (None, None));
}

#[test]
fn one_vid_of_two_protocols_is_two_vlans() {
    let mut rig = Rig::default();
    rig.apply(
        "ports:
  t: {kind: memory, trunk: [100, {vlan: 100, protocol: 802.1ad, bridge-domain: b}, {vlan: 200, inner-vlan: 5, protocol: 802.1q, bridge-domain: c}, {vlan: 200, inner-vlan: 5, bridge-domain: d}]}
bridge-domains: {a: {vlan: 100}, b: {}, c: {}, d: {}}",
    );
    let Service::Trunk { vids, .. } = &rig.port("t").service else {
        panic!("no trunk");
    };
    let tag = |tpid, vid: u16| clearway_wire::Tag {
        tpid,
        tci: clearway_wire::Tci(vid),
    };
    let inner = Some(tag(EtherType::VLAN, 5));
    for (tpid, vid, inner, domain, tags) in [
        (EtherType::VLAN, 100, None, "a", 1),
        (EtherType::QINQ, 100, None, "b", 1),
        (EtherType::VLAN, 200, inner, "c", 2),
        (EtherType::QINQ, 200, inner, "d", 2),
    ] {
        let found = vids
            .classify(tag(tpid, vid), inner)
            .map(|(place, tags)| (place.bd, tags));
        let wanted = rig.compiler.domain(&name(domain)).map(|bd| (bd, tags));
        assert_eq!(found, wanted, "{domain}");
    }
}

#[test]
fn limits_and_services_reach_the_port() {
    let mut rig = Rig::default();
    rig.apply(
        "ports:
  a: {kind: af-xdp, interface: e0, access: r, learn-limit: 7, learning: false, mtu: 1400, allowed-macs: ['02:00:00:00:00:09', '02:00:00:00:00:01'], storm-control: {broadcast: 5, unknown: 6}}
  q: {kind: af-xdp, interface: e1, tunnel: r}
  x: {kind: af-xdp, interface: e2}
  y: {kind: memory}
bridge-domains: {r: {aging: 20s, learn-limit: 9, move-damping: 'off', learning: false}}
cross-connects: [[x, y]]",
    );
    let a = rig.port("a");
    assert!(matches!(a.service, Service::Access(_)));
    assert_eq!((a.learn_limit, a.learning, a.mtu), (7, false, 1400));
    assert_eq!(*a.allowed_macs, [mac(1).to_u64(), mac(9).to_u64()]);
    assert_eq!(
        (a.storm.broadcast, a.storm.multicast, a.storm.unknown),
        (Some(5), None, Some(6))
    );
    assert!(matches!(rig.port("q").service, Service::Tunnel(_)));
    let y = rig.compiler.port(&name("y")).expect("there");
    assert!(matches!(rig.port("x").service, Service::CrossConnect(to) if to == y));
    let r = rig.domain("r");
    assert_eq!(
        (r.aging, r.rules.domain_limit, r.rules.moves, r.learning),
        (20, 9, 0, false)
    );
}

#[test]
fn a_rate_limit_keeps_what_is_spent_until_it_changes() {
    let mut rig = Rig::default();
    let config = |limits: &str, mtu: u32| {
        format!(
            "ports: {{a: {{kind: memory, access: r, mtu: {mtu}, rate-limit: {limits}}}}}\nbridge-domains: {{r: {{}}}}"
        )
    };
    let both = "{receive: {packets: 5, burst: 3ms}, transmit: {bits: 9000}}";
    rig.apply(&config(both, 1500));
    let policers = |rig: &Rig| {
        let a = rig.port("a");
        [a.police_receive.clone(), a.police_transmit.clone()]
    };
    let before = policers(&rig);
    let limits = before
        .each_ref()
        .map(|policer| policer.as_ref().expect("a limit").limit());
    let [receive, transmit] =
        limits.map(|l| (l.packets.map(|n| n.get()), l.bits.map(|n| n.get()), l.burst_ns));
    assert_eq!(receive, (Some(5), None, 3_000_000));
    assert_eq!(transmit, (None, Some(9000), 20_000_000));
    // Another change of the port; a change of one limit; none.
    let same = |a: &Option<Arc<Policer>>, b: &Option<Arc<Policer>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    rig.apply(&config(both, 1400));
    let after = policers(&rig);
    assert!(same(&before[0], &after[0]) && same(&before[1], &after[1]));
    rig.apply(&config(
        "{receive: {packets: 5, burst: 3ms}, transmit: {bits: 9001}}",
        1400,
    ));
    let after = policers(&rig);
    assert!(same(&before[0], &after[0]) && !same(&before[1], &after[1]));
    let limit = after[1]
        .as_ref()
        .map(|policer| policer.limit().bits.map(|n| n.get()));
    assert_eq!(limit, Some(Some(9001)));
    rig.apply(&config("{}", 1400));
    assert!(policers(&rig).iter().all(Option::is_none));
}

const OVERLAY: &str = "ports:
  up: {kind: af-xdp, interface: e0, steering: shared}
  a: {kind: af-xdp, interface: e1, access: red}
vteps: {v: {local: 192.0.2.1, ttl: 9, dscp: 12}}
bridge-domains:
  red: {vni: 5000, remotes: [192.0.2.2], suppress-neighbours: true, hosts: [{ip: 10.0.0.9, mac: '02:00:00:00:00:09'}], static: [{mac: '02:00:00:00:00:05', port: a}, {mac: '02:00:00:00:00:06', remote: 192.0.2.2}]}
";

#[test]
fn an_overlay_has_its_headers_sizes_and_stations() {
    let mut rig = Rig::default();
    rig.apply(OVERLAY);
    let bd = rig.compiler.domain(&name("red")).expect("there");
    let up = rig.compiler.port(&name("up")).expect("there");
    let vtep = rig.tables.snapshot.vtep(rig.port("up").vteps[0]).expect("there");
    assert_eq!((vtep.mac, vtep.udp_port, vtep.vid), (mac(1).to_u64(), 4789, None));
    assert_eq!(vtep.vnis.get(Vni::new(5000).expect("24 bits")), Some(bd));
    let tunnel = rig.tunnel();
    // The port takes 1500 bytes of IP: less 20 for IPv4, 8 for UDP, 8 for VXLAN.
    assert_eq!((tunnel.port, tunnel.max_inner), (up, 1464));
    assert_eq!(
        tunnel.rewrite.as_ref().map(clearway_engine::Rewrite::overhead),
        Some(50)
    );
    let outer = rig.tables.inputs.outer.values().next().expect("one");
    assert_eq!(
        (outer.ttl, outer.checksum, outer.src_mac, outer.dst_mac),
        (9, false, mac(1), mac(2))
    );
    let red = rig.domain("red");
    assert_eq!((red.remotes.len(), red.vni.map(Vni::get)), (1, Some(5000)));
    let hosts = red.hosts.as_ref().expect("suppressed");
    assert_eq!(
        hosts.get(&"10.0.0.9".parse().expect("an address")),
        Some(&mac(9).to_u64())
    );
    let station = |last| {
        rig.tables
            .stations
            .get(&FdbKey::new(bd, mac(last).to_u64()))
            .map(|s| s.dest)
    };
    assert_eq!(station(5), Some(Dest::Member(MemberId(0))));
    assert_eq!(station(6), Some(Dest::Tunnel(TunnelId(0))));
}

#[test]
fn ipv6_and_configured_mtus_count() {
    let mut rig = Rig::default();
    for (local, remote, vtep, port, max_inner, checksum) in [
        ("192.0.2.1", "192.0.2.2", "", "", 1464, false),
        ("192.0.2.1", "192.0.2.2", ", mtu: 1300", "", 1264, false),
        (
            "192.0.2.1",
            "192.0.2.2",
            ", udp-checksum: 'on'",
            ", mtu: 9000",
            1564,
            true,
        ),
        ("2001:db8::1", "2001:db8::2", "", "", 1444, true),
    ] {
        rig.apply(&format!(
            "ports: {{up: {{kind: af-xdp, interface: e0, steering: shared{port}}}}}
vteps: {{v: {{local: '{local}'{vtep}}}}}
bridge-domains: {{red: {{vni: 1, remotes: ['{remote}']}}}}"
        ));
        assert_eq!(rig.tunnel().max_inner, max_inner, "{local} {vtep} {port}");
        assert_eq!(
            rig.tables.inputs.outer.values().next().map(|o| o.checksum),
            Some(checksum)
        );
    }
}

#[test]
fn without_a_next_hop_there_are_no_headers_and_only_that_tunnel_changes() {
    let mut rig = Rig::default();
    let spec = spec(&OVERLAY.replace("[192.0.2.2]", "[192.0.2.2, 192.0.2.3]"));
    let mut facts = facts(&spec);
    rig.apply_with(&spec, &facts);
    let before = rig.tables.snapshot.clone();
    facts
        .paths
        .remove(&(name("v"), "192.0.2.3".parse().expect("an address")));
    rig.apply_with(&spec, &facts);
    let after = &rig.tables.snapshot;
    assert!(after.tunnels[1].as_ref().is_some_and(|t| t.rewrite.is_none()));
    assert!(same_item(&before.tunnels[0], &after.tunnels[0]));
    assert!(same_item(&before.vteps[0], &after.vteps[0]));
    assert!(same_items(&before.ports, &after.ports));
    assert!(same_items(&before.domains, &after.domains));
}

fn same_items<T>(a: &[Option<Arc<T>>], b: &[Option<Arc<T>>]) -> bool {
    a.iter().zip(b).all(|(a, b)| same_item(a, b))
}

fn same_item<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

#[test]
fn a_vtep_that_only_we_have_is_answered_for_on_its_port() {
    let mut rig = Rig::default();
    let spec = spec(OVERLAY);
    let mut facts = facts(&spec);
    let vtep = |rig: &Rig| rig.tables.snapshot.vteps[0].clone().expect("there");
    rig.apply_with(&spec, &facts);
    assert_eq!(vtep(&rig).answers, None);
    facts.vteps.get_mut(&name("v")).expect("there").answers = true;
    rig.apply_with(&spec, &facts);
    assert_eq!(vtep(&rig).answers, rig.compiler.port(&name("up")));
}

#[test]
fn numbers_stay_and_slots_get_new_generations() {
    let config = |ports: &str| format!("ports: {{{ports}}}\nbridge-domains: {{r: {{}}, s: {{}}}}");
    let port = |p: &str, d: &str| format!("{p}: {{kind: memory, access: {d}}}");
    let mut rig = Rig::default();
    rig.apply(&config(
        &[port("a", "r"), port("b", "r"), port("c", "s")].join(", "),
    ));
    let (b, c) = (rig.compiler.port(&name("b")), rig.compiler.port(&name("c")));
    let places = |rig: &Rig| {
        rig.domain("r")
            .members
            .iter()
            .map(|m| m.map(|m| (m.port.0, m.generation)))
            .collect::<Vec<_>>()
    };
    assert_eq!(places(&rig), [Some((0, 0)), Some((1, 0))]);
    let s = rig.domain("s").clone();
    rig.apply(&config(&[port("b", "r"), port("c", "s")].join(", ")));
    assert_eq!(places(&rig), [None, Some((1, 0))]);
    rig.apply(&config(
        &[port("b", "r"), port("c", "s"), port("d", "r")].join(", "),
    ));
    assert_eq!(
        places(&rig),
        [Some((3, 1)), Some((1, 0))],
        "a new generation, and not the number that just became free"
    );
    assert_eq!(
        (rig.compiler.port(&name("b")), rig.compiler.port(&name("c"))),
        (b, c)
    );
    assert!(Arc::ptr_eq(&s, rig.domain("s")), "nothing happened there");
    rig.compiler.settle();
    rig.apply(&config(&[port("b", "r"), port("e", "r")].join(", ")));
    assert_eq!(rig.compiler.port(&name("e")), Some(PortId(0)));
}

#[test]
fn what_was_not_published_leaves_no_trace() {
    let mut rig = Rig::default();
    rig.apply(OVERLAY);
    let more = spec(
        &OVERLAY
            .replace("access: red", "access: blue")
            .replace("  red:", "  blue: {}\n  red:")
            .replace("{mac: '02:00:00:00:00:05', port: a}, ", ""),
    );
    rig.compiler
        .compile(&more, &facts(&more), &rig.tables)
        .expect("it fits");
    let before = rig.tables.snapshot.clone();
    rig.apply(OVERLAY);
    let after = &rig.tables.snapshot;
    assert!(same_items(&before.domains, &after.domains));
    assert_eq!(rig.compiler.domain(&name("blue")), None);
}

#[test]
fn a_station_by_hand_has_a_tunnel_of_its_own_and_yields_to_the_configuration() {
    let mut rig = Rig::default();
    let spec = spec(OVERLAY);
    let mut facts = facts(&spec);
    let remote = "192.0.2.77".parse().expect("an address");
    for last in [5, 7] {
        let station = StaticMac {
            mac: mac(last),
            port: None,
            vlan: None,
            remote: Some(remote),
        };
        facts.manual.insert((name("red"), mac(last)), station);
    }
    rig.apply_with(&spec, &facts);
    let bd = rig.compiler.domain(&name("red")).expect("there");
    let station = |last| rig.tables.stations[&FdbKey::new(bd, mac(last).to_u64())];
    assert!(station(7).manual && !station(5).manual);
    let Dest::Tunnel(tunnel) = station(7).dest else {
        panic!("no tunnel")
    };
    assert_eq!(
        rig.compiler.tunnel(tunnel).map(|(_, remote)| remote),
        Some(remote)
    );
    assert_eq!(rig.domain("red").remotes.len(), 1, "nothing is flooded there");
    facts.manual.clear();
    rig.apply_with(&spec, &facts);
    assert_eq!(rig.compiler.tunnel(tunnel), None);
}

fn big(domains: u32, ports: u32) -> String {
    let mut text = String::from("vteps: {v: {local: 192.0.2.1}}\nbridge-domains:\n");
    for n in 0..domains {
        let _ = writeln!(text, "  d{n}: {{vni: {}, remotes: [192.0.2.2]}}", n + 1);
    }
    text.push_str("ports:\n  up: {kind: af-xdp, interface: u0, steering: shared}\n");
    for n in 0..ports {
        let _ = writeln!(text, "  p{n}: {{kind: af-xdp, interface: p{n}, access: d{n}}}");
    }
    text
}

#[test]
fn with_ten_thousand_domains_one_more_port_rebuilds_one_domain() {
    let mut rig = Rig::default();
    rig.apply(&big(10_000, 500));
    let before = rig.tables.snapshot.clone();
    let (spec, started) = (spec(&big(10_000, 501)), std::time::Instant::now());
    let facts = facts(&spec);
    rig.apply_with(&spec, &facts);
    eprintln!("compiled in {:?}", started.elapsed());
    let after = &rig.tables.snapshot;
    let domains = before
        .domains
        .iter()
        .zip(&after.domains)
        .filter(|(a, b)| !same_item(a, b))
        .count();
    let ports = before
        .ports
        .iter()
        .zip(&after.ports)
        .filter(|(a, b)| !same_item(a, b))
        .count();
    assert_eq!((domains, ports), (1, 0));
    assert_eq!(
        after.ports.iter().flatten().count(),
        before.ports.iter().flatten().count() + 1
    );
    assert!(same_item(&before.vteps[0], &after.vteps[0]) && same_item(&before.tunnels[0], &after.tunnels[0]));
}

#[test]
fn vnis_come_and_go() {
    let mut rig = Rig::default();
    rig.apply(&big(3, 0));
    let vni = |rig: &Rig, vni| {
        rig.tables.snapshot.vteps[0]
            .as_ref()
            .and_then(|v| v.vnis.get(Vni::new(vni).expect("24 bits")))
    };
    assert_eq!(vni(&rig, 3), rig.compiler.domain(&name("d2")));
    rig.apply(&big(2, 0));
    assert_eq!(
        (vni(&rig, 3), vni(&rig, 2)),
        (None, rig.compiler.domain(&name("d1")))
    );
}
