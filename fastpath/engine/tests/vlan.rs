//! VLAN services, byte by byte.

mod common;

use clearway_engine::*;
use clearway_wire::{EtherType, MacAddr, Pcp, Vid};
use common::*;
use std::collections::HashMap;
use std::sync::Arc;

fn push(vid_: u16) -> TagRule {
    TagRule {
        outer: Some((EtherType::VLAN, vid(vid_))),
        ..TagRule::default()
    }
}

fn single(table: &mut VidTable, vid: Vid, tpid: EtherType, to: Place) {
    table.entry_mut(tpid, vid).single = Some(to);
}

/// Port 0: access to domain 1. Port 1: trunk, VID 100 → domain 1, native → domain 2. Port 2: trunk with
/// translation, VID 300 → domain 1. Port 3: QinQ 400.20 → domain 1, tunnel-like 802.1ad 500 → domain 2.
fn bed() -> Bed {
    let mut bed = Bed::new(1, 5);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    let mut vids = VidTable::default();
    single(&mut vids, vid(100), EtherType::VLAN, place(1, 1));
    let trunk = Service::Trunk {
        native: Some(place(2, 0)),
        vids: Arc::new(vids),
    };
    bed.port(1, |p| p.service = trunk);
    let mut vids = VidTable::default();
    single(&mut vids, vid(300), EtherType::VLAN, place(1, 2));
    bed.port(2, |p| {
        p.service = Service::Trunk {
            native: None,
            vids: Arc::new(vids),
        }
    });
    let mut vids = VidTable::default();
    vids.entry_mut(EtherType::QINQ, vid(400)).inner = Some(Arc::new(HashMap::from([(20, place(1, 3))])));
    single(&mut vids, vid(500), EtherType::QINQ, place(2, 1));
    bed.port(3, |p| {
        p.service = Service::Trunk {
            native: None,
            vids: Arc::new(vids),
        }
    });
    bed.port(4, |p| p.service = Service::Tunnel(place(2, 2)));
    let with = |port, tags| Some(Member { tags, ..member(port) });
    let qinq = TagRule {
        outer: Some((EtherType::QINQ, vid(400))),
        inner: Some(vid(20)),
        pcp: None,
        ..TagRule::default()
    };
    let service = TagRule {
        outer: Some((EtherType::QINQ, vid(500))),
        ..TagRule::default()
    };
    bed.domain(
        1,
        Domain {
            members: vec![
                Some(member(0)),
                with(1, push(100)),
                with(2, push(300)),
                with(3, qinq),
            ],
            ..Domain::default()
        },
    );
    bed.domain(
        2,
        Domain {
            members: vec![Some(member(1)), with(3, service), Some(member(4))],
            ..Domain::default()
        },
    );
    bed.publish();
    bed
}

const BC: MacAddr = MacAddr::BROADCAST;

#[test]
fn an_untagged_frame_gets_each_ports_tags() {
    let mut bed = bed();
    let out = bed.cross(0, &frame(BC, mac(1)));
    assert_eq!(out.len(), 3);
    assert_eq!(out[&1], [tagged(BC, mac(1), &[(0x8100, 100)])]);
    assert_eq!(out[&2], [tagged(BC, mac(1), &[(0x8100, 300)])]);
    assert_eq!(out[&3], [tagged(BC, mac(1), &[(0x88a8, 400), (0x8100, 20)])]);
    bed.finish();
}

#[test]
fn tags_are_translated_and_priorities_kept() {
    let mut bed = bed();
    // PCP 5, DEI set.
    let tci = 0xb000 | 100;
    let out = bed.cross(1, &tagged(BC, mac(2), &[(0x8100, tci)]));
    assert_eq!(out.len(), 3);
    assert_eq!(out[&0], [frame(BC, mac(2))]);
    assert_eq!(out[&2], [tagged(BC, mac(2), &[(0x8100, 0xb000 | 300)])]);
    assert_eq!(
        out[&3],
        [tagged(
            BC,
            mac(2),
            &[(0x88a8, 0xb000 | 400), (0x8100, 0xb000 | 20)]
        )]
    );
    // QinQ in: both priorities are its own.
    let out = bed.cross(
        3,
        &tagged(mac(2), mac(3), &[(0x88a8, 0x2000 | 400), (0x8100, 0x6000 | 20)]),
    );
    assert_eq!(
        out.into_iter().collect::<Vec<_>>(),
        [(1, vec![tagged(mac(2), mac(3), &[(0x8100, 0x2000 | 100)])])]
    );
    bed.finish();
}

#[test]
fn native_tunnel_and_service_tags_share_a_domain() {
    let mut bed = bed();
    // A tunnel port's tags are payload.
    let customer = tagged(BC, mac(4), &[(0x8100, 7), (0x8100, 8)]);
    let out = bed.cross(4, &customer);
    assert_eq!(out.len(), 2);
    assert_eq!(out[&1], [customer]);
    assert_eq!(
        out[&3],
        [tagged(BC, mac(4), &[(0x88a8, 500), (0x8100, 7), (0x8100, 8)])]
    );
    // Back: the service tag goes, the customer's stays.
    let out = bed.cross(3, &tagged(mac(4), mac(5), &[(0x88a8, 500), (0x8100, 7)]));
    assert_eq!(
        out.into_iter().collect::<Vec<_>>(),
        [(4, vec![tagged(mac(4), mac(5), &[(0x8100, 7)])])]
    );
    // A priority tag on a trunk is as good as none.
    let out = bed.cross(1, &tagged(mac(4), mac(6), &[(0x8100, 0xe000)]));
    assert_eq!(
        out.into_iter().collect::<Vec<_>>(),
        [(4, vec![frame(mac(4), mac(6))])]
    );
    bed.finish();
}

#[test]
fn the_inner_vid_comes_before_the_outer_one_alone() {
    let mut bed = bed();
    // Port 3 carries 802.1ad 400 whole, too: for domain 2.
    let mut vids = VidTable::default();
    vids.entry_mut(EtherType::QINQ, vid(400)).inner = Some(Arc::new(HashMap::from([(20, place(1, 3))])));
    single(&mut vids, vid(400), EtherType::QINQ, place(2, 1));
    let trunk = Service::Trunk {
        native: None,
        vids: Arc::new(vids),
    };
    bed.port(3, |p| p.service = trunk);
    bed.publish();
    let out = bed.cross(3, &tagged(BC, mac(1), &[(0x88a8, 400), (0x8100, 20)]));
    assert_eq!(out.keys().collect::<Vec<_>>(), [&0, &1, &2]);
    assert_eq!(out[&0], [frame(BC, mac(1))]);
    for payload in [&[(0x8100, 21)][..], &[(0x88a8, 21)], &[]] {
        let mut tags = vec![(0x88a8, 400)];
        tags.extend(payload);
        let out = bed.cross(3, &tagged(BC, mac(2), &tags));
        assert_eq!(out.keys().collect::<Vec<_>>(), [&1, &4], "{payload:?}");
        assert_eq!(out[&4], [tagged(BC, mac(2), payload)]);
    }
    bed.finish();
}

#[test]
fn a_set_priority_replaces_what_came() {
    let mut bed = bed();
    let mut domain = Domain::clone(bed.conf.domains[1].as_ref().expect("domain"));
    let tags = TagRule {
        pcp: Pcp::new(3),
        ..push(100)
    };
    domain.members[1] = Some(Member { tags, ..member(1) });
    bed.domain(1, domain).publish();
    let out = bed.cross(2, &tagged(BC, mac(1), &[(0x8100, 0xe000 | 300)]));
    assert_eq!(out[&1], [tagged(BC, mac(1), &[(0x8100, 0x6000 | 100)])]);
    bed.finish();
}

#[test]
fn what_a_port_does_not_carry_is_dropped() {
    let mut bed = bed();
    for (port, bytes) in [
        (1, tagged(BC, mac(1), &[(0x8100, 101)])),
        // The right VID under the wrong TPID.
        (1, tagged(BC, mac(1), &[(0x88a8, 100)])),
        (3, tagged(BC, mac(1), &[(0x88a8, 400), (0x8100, 21)])),
        (3, tagged(BC, mac(1), &[(0x88a8, 400)])),
        (0, tagged(BC, mac(1), &[(0x8100, 100)])),
    ] {
        assert!(bed.cross(port, &bytes).is_empty(), "port {port}");
    }
    assert!(bed.cross(2, &frame(BC, mac(1))).is_empty());
    let mut cut = tagged(BC, mac(1), &[(0x8100, 100)]);
    cut.truncate(16);
    assert!(bed.cross(1, &cut).is_empty());
    let drops: Vec<_> = bed.drops().into_iter().collect();
    assert_eq!(
        drops,
        [
            ("truncated", 1),
            ("untagged_not_allowed", 1),
            ("vlan_not_allowed", 5)
        ]
    );
    bed.finish();
}

#[test]
fn a_second_tag_does_not_carry_a_pod_into_a_vlan_of_a_trunk() {
    let mut bed = Bed::new(1, 3);
    let trunk = |vid_here, place_there| {
        let mut vids = VidTable::default();
        vids.entry_mut(EtherType::VLAN, vid(vid_here)).single = Some(place_there);
        Arc::new(vids)
    };
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    bed.port(1, |p| {
        p.service = Service::Trunk {
            native: Some(place(1, 1)),
            vids: trunk(100, place(2, 0)),
        }
    });
    bed.port(2, |p| {
        p.service = Service::Trunk {
            native: None,
            vids: trunk(10, place(1, 2)),
        }
    });
    let with = |port, tags| Some(Member { tags, ..member(port) });
    let native = TagRule {
        native: true,
        ..TagRule::default()
    };
    let members = vec![Some(member(0)), with(1, native), with(2, push(10))];
    bed.domain(
        1,
        Domain {
            members,
            ..Domain::default()
        },
    );
    let members = vec![with(1, push(100))];
    bed.domain(
        2,
        Domain {
            members,
            ..Domain::default()
        },
    );
    bed.publish();
    // Behind a priority tag of an access port: not even taken.
    let hidden = tagged(MacAddr::BROADCAST, mac(1), &[(0x8100, 0), (0x8100, 100)]);
    assert!(bed.cross(0, &hidden).is_empty());
    // Behind the tag of a trunk: it reaches the access port, as payload, but no trunk's native VLAN.
    let carried = tagged(MacAddr::BROADCAST, mac(1), &[(0x8100, 10), (0x8100, 100)]);
    assert_eq!(bed.cross(2, &carried).into_keys().collect::<Vec<_>>(), [0]);
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("vlan_not_allowed", 2)]
    );
    // Untagged frames go everywhere as ever.
    let plain = frame(MacAddr::BROADCAST, mac(1));
    assert_eq!(bed.cross(0, &plain).into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn one_vid_of_two_protocols_is_two_vlans() {
    let mut bed = Bed::new(1, 4);
    let mut vids = VidTable::default();
    single(&mut vids, vid(100), EtherType::VLAN, place(1, 0));
    single(&mut vids, vid(100), EtherType::QINQ, place(2, 0));
    for (tpid, domain) in [(EtherType::VLAN, 3), (EtherType::QINQ, 4)] {
        vids.entry_mut(tpid, vid(200)).inner = Some(Arc::new(HashMap::from([(7, place(domain, 0))])));
    }
    let trunk = Service::Trunk {
        native: None,
        vids: Arc::new(vids),
    };
    bed.port(0, |p| p.service = trunk);
    let rules = [
        (EtherType::VLAN, 100, None),
        (EtherType::QINQ, 100, None),
        (EtherType::VLAN, 200, Some(7)),
        (EtherType::QINQ, 200, Some(7)),
    ];
    bed.port(1, |p| p.service = Service::Access(place(1, 1)));
    bed.port(2, |p| p.service = Service::Access(place(2, 1)));
    bed.port(3, |p| p.service = Service::Access(place(4, 1)));
    for (n, (tpid, outer, inner)) in rules.into_iter().enumerate() {
        let tags = TagRule {
            outer: Some((tpid, vid(outer))),
            inner: inner.map(vid),
            ..TagRule::default()
        };
        let access = [Some(member(1)), Some(member(2)), None, Some(member(3))];
        let members = vec![Some(Member { tags, ..member(0) }), access[n]];
        let n = u16::try_from(n).expect("few");
        bed.domain(
            n + 1,
            Domain {
                members,
                ..Domain::default()
            },
        );
    }
    bed.publish();
    for (port, tags) in [
        (1, vec![(0x8100, 100)]),
        (2, vec![(0x88a8, 100)]),
        (3, vec![(0x88a8, 200), (0x8100, 7)]),
    ] {
        let wire = tagged(BC, mac(1), &tags);
        let out: Vec<_> = bed.cross(0, &wire).into_iter().collect();
        assert_eq!(out, [(port, vec![frame(BC, mac(1))])], "{tags:?}");
        let out: Vec<_> = bed.cross(port, &frame(BC, mac(2))).into_iter().collect();
        assert_eq!(out, [(0, vec![tagged(BC, mac(2), &tags)])], "{tags:?}");
    }
    // Two 802.1Q tags are another domain's, which has no other member here.
    assert!(
        bed.cross(0, &tagged(BC, mac(1), &[(0x8100, 200), (0x8100, 7)]))
            .is_empty()
    );
    let drops: Vec<_> = bed.drops().into_iter().collect();
    assert_eq!(drops, [("no_destination", 1)]);
    bed.finish();
}
