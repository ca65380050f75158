//! Whatever can be read can be written and read again; whatever text comes, nothing panics.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::time::Duration;

use clearway_config::{
    AddressPool, AddressRange, Api, BridgeDomain, BusyPoll, Checksum, CrossConnect, Damping, DscpPolicy,
    Engine, Host, Hugepages, Idle, MoveDamping, Name, OnLinkLoss, PcpPolicy, Period, Permissions, Pf, PfName,
    PoolRoute, PoolSubnet, Port, PortKind, Queues, Rate, RateLimit, Reservation, RouteScope, Spec, Sriov,
    StaticMac, Steering, StormControl, TagProtocol, TrunkItem, TrunkMap, UdpChecksum, VfDriver, VfLinkState,
    VfRange, VfSet, Vtep, Worker, XdpMode,
};
use clearway_wire::{Dscp, MacAddr, Pcp, Vid, Vni};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Name> {
    // Names that YAML could take for something else belong to the game.
    prop_oneof![
        "[A-Za-z0-9][A-Za-z0-9_.-]{0,31}",
        Just("true".to_string()),
        Just("null".to_string()),
        Just("0x10".to_string()),
        Just("1e3".to_string()),
        Just("off".to_string()),
        Just("1_000".to_string()),
        Just("007".to_string()),
        Just("2001-01-01".to_string()),
    ]
    .prop_map(|text| Name::new(text).unwrap())
}

fn vid() -> impl Strategy<Value = Vid> {
    (1..=4094u16).prop_map(|n| Vid::new(n).unwrap())
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn period() -> impl Strategy<Value = Period> {
    prop_oneof![
        (0..100_000u64).prop_map(Period::from_secs),
        (0..5_000u64).prop_map(|ms| Duration::from_millis(ms).into())
    ]
}

fn trunk_item() -> impl Strategy<Value = TrunkItem> {
    let protocol = option::of(prop_oneof![Just(TagProtocol::Dot1q), Just(TagProtocol::Dot1ad)]);
    let map = (vid(), option::of(vid()), name(), protocol).prop_map(
        |(vlan, inner_vlan, bridge_domain, protocol)| {
            TrunkItem::Map(TrunkMap {
                vlan,
                inner_vlan,
                bridge_domain,
                protocol,
            })
        },
    );
    let range = (vid(), vid()).prop_map(|(a, b)| TrunkItem::Range(a.min(b), a.max(b)));
    prop_oneof![Just(TrunkItem::All), vid().prop_map(TrunkItem::Vid), range, map]
}

prop_compose! {
    fn attachment()(
        kind in prop::sample::select(PortKind::ALL.to_vec()),
        interface in option::of("[ -~]{0,20}"),
        steering in prop_oneof![Just(Steering::Exclusive), Just(Steering::Shared)],
        mode in prop::sample::select(vec![XdpMode::Auto, XdpMode::ZeroCopy, XdpMode::Copy, XdpMode::Generic]),
        queues in prop_oneof![Just(Queues::All), vec(any::<u16>(), 0..4).prop_map(Queues::List)],
        busy_poll in prop::sample::select(vec![BusyPoll::Auto, BusyPoll::On, BusyPoll::Off]),
        checksum in prop::sample::select(vec![Checksum::Auto, Checksum::Finish, Checksum::Trust]),
        (busy_poll_budget, ring_size, frames, rate) in any::<(Option<u16>, Option<u32>, Option<u32>, Option<u32>)>(),
        (replace, repeat) in any::<(bool, bool)>(),
        workers in btree_map(any::<u16>(), any::<u16>(), 0..3),
        read in option::of("[ -~é]{0,12}"),
        write in option::of("[ -~é]{0,12}"),
        (owner, group, socket) in (option::of("[ -~]{0,8}"), option::of("[ -~]{0,8}"), option::of("[ -~é]{0,12}")),
        (client, queue_pairs) in any::<(bool, Option<u16>)>(),
        permissions in option::of((0..=0o777u16).prop_map(Permissions)),
        (netns, mac, persistent) in (option::of("[ -~]{0,8}"), option::of(any::<[u8; 6]>().prop_map(MacAddr)), any::<bool>()),
    ) -> Port {
        Port {
            netns, mac, persistent, owner, group, socket: socket.map(Into::into), client, queue_pairs, permissions,
            interface, steering, mode, queues, busy_poll, busy_poll_budget, ring_size, frames, replace, checksum, workers,
            read: read.map(Into::into), write: write.map(Into::into), repeat, rate, ..Port::new(kind)
        }
    }
}

prop_compose! {
    fn rate()((packets, bits) in any::<(Option<u32>, Option<u64>)>(), burst in period()) -> Rate {
        Rate { packets, bits, burst }
    }
}

prop_compose! {
    fn port()(
        attachment in attachment(),
        access in option::of(name()),
        tunnel in option::of(name()),
        native in option::of(name()),
        trunk in vec(trunk_item(), 0..4),
        pcp in option::of((0..=7u8).prop_map(|n| Pcp::new(n).unwrap())),
        allowed_macs in vec(mac(), 0..3),
        (isolated, learning) in any::<(bool, bool)>(),
        (learn_limit, mtu) in any::<(Option<u32>, Option<u16>)>(),
        (broadcast, unknown, multicast) in any::<(Option<u32>, Option<u32>, Option<u32>)>(),
        (receive, transmit) in (option::of(rate()), option::of(rate())),
    ) -> Port {
        Port {
            access, tunnel, native, trunk, pcp: pcp.map_or(PcpPolicy::Keep, PcpPolicy::Set), allowed_macs, isolated,
            learning, learn_limit, mtu, storm_control: StormControl { broadcast, unknown, multicast },
            rate_limit: RateLimit { receive, transmit }, ..attachment
        }
    }
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    (any::<IpAddr>(), any::<u8>()).prop_map(|(ip, length)| {
        let most = if ip.is_ipv4() { 33 } else { 129 };
        ipnet::IpNet::new(ip, length % most).unwrap()
    })
}

fn range() -> impl Strategy<Value = AddressRange> {
    prop_oneof![
        (any::<IpAddr>(), any::<IpAddr>())
            .prop_map(|(a, b)| AddressRange::new(a, b).unwrap_or(AddressRange::one(a))),
        net().prop_map(AddressRange::of),
    ]
}

prop_compose! {
    fn address_pool()(
        subnets in vec((net(), vec(range(), 0..3), vec(range(), 0..3), option::of(any::<IpAddr>())), 0..3),
        routes in vec((net(), option::of(any::<IpAddr>()), any::<[Option<u32>; 4]>(), option::of(any::<bool>())), 0..3),
        reservations in vec(("[a-z0-9]{1,4}/[a-z0-9]{1,4}", option::of("[ -~]{0,8}"), vec(any::<IpAddr>(), 0..3)), 0..3),
    ) -> AddressPool {
        AddressPool {
            subnets: subnets.into_iter()
                .map(|(subnet, ranges, exclude, gateway)| PoolSubnet { subnet, ranges, exclude, gateway })
                .collect(),
            routes: routes.into_iter()
                .map(|(to, via, [mtu, advmss, priority, table], link)| PoolRoute {
                    to, via, mtu, advmss, priority, table,
                    scope: link.map(|link| if link { RouteScope::Link } else { RouteScope::Global }),
                })
                .collect(),
            reservations: reservations.into_iter()
                .map(|(pod, interface, addresses)| Reservation { pod: pod.parse().unwrap(), interface, addresses })
                .collect(),
        }
    }
}

prop_compose! {
    fn bridge_domain()(
        vlan in option::of(vid()),
        vni in option::of((0..=0xff_ffffu32).prop_map(|n| Vni::new(n).unwrap())),
        vtep in option::of(name()),
        remotes in vec(any::<IpAddr>(), 0..3),
        statics in vec((mac(), option::of(name()), option::of(vid()), any::<Option<IpAddr>>()), 0..3),
        hosts in vec((any::<IpAddr>(), mac()), 0..3),
        (suppress_neighbours, learning, learn_limit) in any::<(bool, bool, u32)>(),
        aging in period(),
        damping in option::of((any::<u16>(), period(), period())),
    ) -> BridgeDomain {
        let statics = statics.into_iter().map(|(mac, port, vlan, remote)| StaticMac { mac, port, vlan, remote });
        let damping = damping.map(|(moves, window, hold)| MoveDamping::On(Damping { moves, window, hold }));
        BridgeDomain {
            vlan, vni, vtep, remotes, statics: statics.collect(),
            hosts: hosts.into_iter().map(|(ip, mac)| Host { ip, mac }).collect(),
            suppress_neighbours, learning, aging, learn_limit, move_damping: damping.unwrap_or(MoveDamping::Off),
        }
    }
}

prop_compose! {
    fn vtep()(
        local in any::<IpAddr>(),
        port in option::of(name()),
        (udp_port, ttl, mtu) in any::<(u16, u8, Option<u16>)>(),
        dscp in option::of((0..=63u8).prop_map(|n| Dscp::new(n).unwrap())),
        udp_checksum in prop::sample::select(vec![UdpChecksum::Auto, UdpChecksum::On, UdpChecksum::Off]),
        vlan in option::of(vid()),
        (own, next_hop) in (option::of(mac()), option::of(mac())),
    ) -> Vtep {
        Vtep { mac: own, next_hop, local, port, udp_port, ttl, dscp: dscp.map_or(DscpPolicy::Copy, DscpPolicy::Set), udp_checksum, vlan, mtu }
    }
}

fn vf_set() -> impl Strategy<Value = VfSet> {
    prop_oneof![
        (0..20u16).prop_map(VfSet::one),
        (0..20u16, 0..5u16).prop_map(|(first, more)| VfSet::range(first..=first + more)),
        vec((0..200u16, 0..5u16), 0..4).prop_map(|all| {
            let all: Vec<_> = all
                .into_iter()
                .map(|(first, more)| format!("{first}-{}", first + more))
                .collect();
            serde_json::from_value(serde_json::json!(all)).unwrap()
        }),
    ]
}

prop_compose! {
    fn vf_range()(
        vfs in vf_set(),
        driver in option::of(prop_oneof![Just(VfDriver::Kernel), Just(VfDriver::VfioPci)]),
        mac in option::of(mac()),
        (vlan, qos, spoofchk, trust) in any::<(Option<u16>, Option<u8>, Option<bool>, Option<bool>)>(),
        vlan_proto in option::of(prop_oneof![Just(TagProtocol::Dot1q), Just(TagProtocol::Dot1ad)]),
        (min_tx_rate, max_tx_rate) in any::<(Option<u32>, Option<u32>)>(),
        link_state in option::of(prop::sample::select(vec![VfLinkState::Auto, VfLinkState::Enable, VfLinkState::Disable])),
    ) -> VfRange {
        VfRange { vfs, driver, mac, vlan, qos, vlan_proto, spoofchk, trust, min_tx_rate, max_tx_rate, link_state }
    }
}

prop_compose! {
    fn pf()(
        vfs in option::of(0..300u16),
        mtu in any::<Option<u32>>(),
        keep in any::<bool>(),
        ranges in vec(vf_range(), 0..3),
    ) -> Pf {
        let on_link_loss = if keep { OnLinkLoss::Keep } else { OnLinkLoss::Follow };
        Pf { vfs, mtu, on_link_loss, ranges }
    }
}

fn pf_name() -> impl Strategy<Value = PfName> {
    let names = prop_oneof![
        "[a-z0-9_.-]{0,14}[a-z0-9]",
        "[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]"
    ];
    names.prop_map(|name| name.parse().unwrap())
}

prop_compose! {
    fn spec()(
        idle in prop_oneof![Just(Idle::Adaptive), Just(Idle::Spin)],
        hugepages in prop::sample::select(vec![Hugepages::Auto, Hugepages::Off, Hugepages::Require]),
        workers in vec(any::<u16>().prop_map(|core| Worker { core }), 0..3),
        fdb_capacity in any::<u32>(),
        socket in "[ -~é]{0,12}",
        ports in btree_map(name(), port(), 0..3),
        bridge_domains in btree_map(name(), bridge_domain(), 0..3),
        vteps in btree_map(name(), vtep(), 0..3),
        address_pools in btree_map(name(), address_pool(), 0..3),
        cross_connects in vec((name(), name()).prop_map(|(a, b)| CrossConnect(a, b)), 0..2),
        pfs in btree_map(pf_name(), pf(), 0..3),
    ) -> Spec {
        let engine = Engine { idle, workers, fdb_capacity, hugepages };
        let api = Api { socket: socket.into() };
        Spec { version: Spec::VERSION, engine, api, ports, bridge_domains, vteps, address_pools, cross_connects, sriov: Sriov { pfs } }
    }
}

proptest! {
    /// The types hold it, valid or not, so the text must: what a daemon refuses it must be able to show.
    #[test]
    fn any_spec_survives_yaml_and_json(spec in spec()) {
        let yaml = spec.to_yaml().unwrap();
        let read = Spec::from_yaml(&yaml, "again");
        match spec.validate() {
            Ok(()) => prop_assert_eq!(read.as_ref(), Ok(&spec), "{}", yaml),
            Err(findings) => {
                // The same findings, now with their places: so the text was read to the same spec.
                let mut found: Vec<_> = read.unwrap_err().errors.iter().map(ToString::to_string).collect();
                let mut wanted: Vec<_> = findings.iter().map(ToString::to_string).collect();
                found.sort();
                wanted.sort();
                prop_assert_eq!(found, wanted, "{}", yaml);
            }
        }
        let as_written: Spec = serde_saphyr::from_str(&yaml).unwrap();
        prop_assert_eq!(&as_written, &spec, "{}", yaml);
        let json = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Spec>(&json).unwrap(), &spec, "{}", json);
    }
}

/// No text panics, and what is accepted survives the round trip. Seeds are the examples, cut and glued at random.
#[test]
fn any_text_is_accepted_or_refused() {
    let examples: Vec<&[u8]> = vec![
        include_bytes!("../examples/full.yaml"),
        include_bytes!("../examples/qinq.yaml"),
        include_bytes!("../examples/vxlan-v6.yaml"),
    ];
    bolero::check!()
        .with_type::<(u8, u16, u16, Vec<u8>)>()
        .with_iterations(4000)
        .cloned()
        .for_each(|(which, at, length, insert)| {
            let mut text = examples
                .get(usize::from(which))
                .copied()
                .unwrap_or_default()
                .to_vec();
            let at = usize::from(at).min(text.len());
            let end = (at + usize::from(length) % 64).min(text.len());
            text.splice(at..end, insert);
            let text = String::from_utf8_lossy(&text);
            match Spec::from_yaml(&text, "fuzz.yaml") {
                Ok(spec) => {
                    let yaml = spec.to_yaml().unwrap();
                    assert_eq!(Spec::from_yaml(&yaml, "again"), Ok(spec));
                }
                Err(errors) => {
                    assert!(!errors.errors.is_empty());
                    assert!(errors.to_string().starts_with("fuzz.yaml:"));
                }
            }
        });
}

/// The short form takes what a shell passes on: any text.
#[test]
fn any_short_form_is_accepted_or_refused() {
    bolero::check!()
        .with_type::<(Vec<String>, bool, bool)>()
        .with_iterations(2000)
        .cloned()
        .for_each(|(ports, cross_connect, prefix)| {
            let ports: Vec<_> = ports
                .into_iter()
                .map(|port| if prefix { format!("af-xdp:{port}") } else { port })
                .collect();
            if let Ok(spec) = Spec::short_form(&ports, None, cross_connect) {
                assert_eq!(spec.validate(), Ok(()));
            }
        });
}
