//! Bridge domains: learning, flooding, limits, isolation, with exact counts.

mod common;

use clearway_engine::*;
use clearway_wire::MacAddr;
use common::*;
use std::sync::Arc;

#[test]
fn unknown_floods_known_goes_to_one_port_and_everything_is_accounted_for() {
    let mut bed = Bed::new(1, 3).one_domain();
    let first = frame(mac(2), mac(1));
    let out = bed.cross(0, &first);
    assert_eq!(out.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(out[&1], std::slice::from_ref(&first));
    let back = frame(mac(1), mac(2));
    assert_eq!(
        bed.cross(1, &back).into_iter().collect::<Vec<_>>(),
        [(0, vec![back])]
    );
    assert_eq!(
        bed.cross(0, &first).into_iter().collect::<Vec<_>>(),
        [(1, vec![first])]
    );
    // Back to where its destination is: dropped.
    assert!(bed.cross(1, &frame(mac(2), mac(3))).is_empty());
    let ledger = bed.ledger();
    assert_eq!(
        (ledger.received, ledger.replicated, ledger.sent, ledger.dropped()),
        (4, 1, 4, 1)
    );
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("same_port", 1)]);
    let home = &bed.engine.homes()[0];
    let c = &home.counters;
    assert_eq!(
        (
            c.rx_packets.get(),
            c.rx_bytes.get(),
            c.tx_packets.get(),
            c.tx_bytes.get()
        ),
        (2, 120, 1, 60)
    );
    bed.finish();
}

#[test]
fn domains_do_not_see_one_another() {
    let mut bed = Bed::new(1, 4);
    for port in 0..4 {
        bed.port(port, |p| {
            p.service = Service::Access(place(1 + port / 2, port % 2))
        });
    }
    bed.domain(
        1,
        Domain {
            members: vec![Some(member(0)), Some(member(1))],
            ..Domain::default()
        },
    );
    bed.domain(
        2,
        Domain {
            members: vec![Some(member(2)), Some(member(3))],
            ..Domain::default()
        },
    );
    bed.publish();
    let broadcast = frame(MacAddr::BROADCAST, mac(1));
    assert_eq!(bed.cross(0, &broadcast).into_keys().collect::<Vec<_>>(), [1]);
    assert_eq!(bed.cross(2, &broadcast).into_keys().collect::<Vec<_>>(), [3]);
    // The same address in both domains is two entries.
    assert_eq!(
        bed.cross(1, &frame(mac(1), mac(9)))
            .into_keys()
            .collect::<Vec<_>>(),
        [0]
    );
    assert_eq!(
        bed.cross(3, &frame(mac(1), mac(9)))
            .into_keys()
            .collect::<Vec<_>>(),
        [2]
    );
    bed.finish();
}

#[test]
fn isolated_ports_reach_the_others_but_not_one_another() {
    let mut bed = Bed::new(1, 3).one_domain();
    let isolated = |port| {
        Some(Member {
            isolated: true,
            ..member(port)
        })
    };
    bed.domain(
        1,
        Domain {
            members: vec![isolated(0), isolated(1), Some(member(2))],
            ..Domain::default()
        },
    );
    bed.publish();
    assert_eq!(
        bed.cross(0, &frame(MacAddr::BROADCAST, mac(1)))
            .into_keys()
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        bed.cross(2, &frame(mac(1), mac(3)))
            .into_keys()
            .collect::<Vec<_>>(),
        [0]
    );
    assert!(bed.cross(1, &frame(mac(1), mac(2))).is_empty());
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("isolated", 1)]);
    bed.finish();
}

#[test]
fn frames_that_no_bridge_forwards_are_dropped_each_for_its_reason() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.port(0, |p| {
        p.allowed_macs = Box::new([mac(1).to_u64(), mac(5).to_u64()])
    });
    bed.publish();
    for bytes in [
        vec![0; 13],
        frame(MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]), mac(1)),
        frame(mac(2), MacAddr([3, 0, 0, 0, 0, 1])),
        frame(mac(2), MacAddr::ZERO),
        frame(mac(2), mac(9)),
        tagged(mac(2), mac(1), &[(0x8100, 5)]),
    ] {
        assert!(bed.cross(0, &bytes).is_empty());
    }
    let drops: Vec<_> = bed.drops().into_iter().collect();
    let expected = [
        ("invalid_source", 2),
        ("link_local", 1),
        ("spoofed_source", 1),
        ("truncated", 1),
        ("vlan_not_allowed", 1),
    ];
    assert_eq!(drops, expected);
    assert_eq!(
        bed.cross(0, &frame(mac(2), mac(5))).len(),
        1,
        "an allowed one passes"
    );
    bed.finish();
}

#[test]
fn limits_stop_learning_not_forwarding() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.port(0, |p| p.learn_limit = 3);
    bed.publish();
    for n in 1..=5 {
        assert_eq!(
            bed.cross(0, &frame(mac(100), mac(n)))
                .into_keys()
                .collect::<Vec<_>>(),
            [1]
        );
    }
    assert_eq!(bed.engine.fdb().entries().count(), 3);
    assert_eq!(bed.engine.homes()[0].counters.learn_refused.get(), 2);
    bed.finish();
}

#[test]
fn storm_control_limits_each_class_by_itself() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.port(0, |p| {
        p.storm = StormLimits {
            broadcast: Some(100),
            unknown: Some(200),
            multicast: None,
        }
    });
    bed.publish();
    for _ in 0..100 {
        bed.send(0, &frame(MacAddr::BROADCAST, mac(1)));
        bed.send(0, &frame(mac(77), mac(1)));
        bed.send(0, &frame(MacAddr([1, 0, 0x5e, 0, 0, 1]), mac(1)));
    }
    bed.turn();
    let drops = bed.drops();
    assert_eq!(
        drops.keys().copied().collect::<Vec<_>>(),
        ["storm_broadcast", "storm_unknown"]
    );
    // Bursts of 16 and 20, and what the test's own time adds.
    assert!((70..=84).contains(&drops["storm_broadcast"]), "{drops:?}");
    assert!((60..=80).contains(&drops["storm_unknown"]), "{drops:?}");
    bed.finish();
}

#[test]
fn static_entries_hold_and_void_generations_flood() {
    let mut bed = Bed::new(1, 3).one_domain();
    let key = FdbKey::new(bd(1), mac(9).to_u64());
    assert!(bed.engine.fdb().set_static(key, Dest::Member(MemberId(2)), 0));
    assert_eq!(
        bed.cross(0, &frame(mac(9), mac(1)))
            .into_keys()
            .collect::<Vec<_>>(),
        [2]
    );
    bed.cross(1, &frame(mac(1), mac(9)));
    assert_eq!(
        bed.cross(0, &frame(mac(9), mac(1)))
            .into_keys()
            .collect::<Vec<_>>(),
        [2]
    );
    // The slot of member 2 is used anew: what was said of it no longer holds.
    let mut domain = Domain::clone(bed.conf.domains[1].as_ref().expect("domain"));
    domain.members[2] = Some(Member {
        generation: 1,
        ..member(2)
    });
    bed.domain(1, domain).publish();
    assert_eq!(
        bed.cross(0, &frame(mac(9), mac(1)))
            .into_keys()
            .collect::<Vec<_>>(),
        [1, 2]
    );
    bed.finish();
}

#[test]
fn addresses_age_out_and_those_of_removed_members_go_at_once() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.cross(0, &frame(mac(100), mac(1)));
    bed.cross(1, &frame(mac(100), mac(2)));
    bed.engine.age();
    assert_eq!(bed.engine.fdb().entries().count(), 2, "fresh entries stay");
    let mut domain = Domain::clone(bed.conf.domains[1].as_ref().expect("domain"));
    domain.members[1] = None;
    domain.aging = 1;
    bed.domain(1, domain).publish();
    bed.engine.age();
    assert_eq!(bed.engine.fdb().entries().count(), 1);
    std::thread::sleep(std::time::Duration::from_millis(3100));
    bed.engine.age();
    assert_eq!(bed.engine.fdb().entries().count(), 0);
    bed.finish();
}

#[test]
fn a_cross_connect_passes_everything_both_ways() {
    let mut bed = Bed::new(1, 2);
    bed.port(0, |p| p.service = Service::CrossConnect(PortId(1)));
    bed.port(1, |p| p.service = Service::CrossConnect(PortId(0)));
    bed.publish();
    for bytes in [
        frame(MacAddr([1, 0x80, 0xc2, 0, 0, 2]), mac(1)),
        vec![7; 9],
        tagged(mac(1), mac(2), &[(0x88a8, 9)]),
    ] {
        assert_eq!(
            bed.cross(0, &bytes).into_iter().collect::<Vec<_>>(),
            [(1, vec![bytes.clone()])]
        );
        assert_eq!(
            bed.cross(1, &bytes).into_iter().collect::<Vec<_>>(),
            [(0, vec![bytes])]
        );
    }
    assert_eq!(bed.engine.fdb().entries().count(), 0);
    bed.finish();
}

#[test]
fn workers_hand_frames_over_in_order_and_balance() {
    let mut bed = Bed::new(2, 4).one_domain();
    bed.cross(1, &frame(mac(100), mac(2)));
    bed.cross(0, &frame(mac(100), mac(1)));
    // Port 0 is worker 0's, port 1 worker 1's.
    for n in 0..200u8 {
        let mut bytes = frame(mac(2), mac(1));
        bytes[20] = n;
        bed.send(0, &bytes);
    }
    bed.turn();
    let order: Vec<u8> = bed.recv(1).iter().map(|f| f[20]).collect();
    assert_eq!(order, (0..200).collect::<Vec<_>>());
    let ledger = bed.ledger();
    // Two floods crossed to two ports of the other worker each; 200 frames to one.
    assert_eq!(
        (ledger.handed_out, ledger.handed_in, ledger.in_flight()),
        (204, 204, 0)
    );
    bed.finish();
}

#[test]
fn a_full_ring_drops_counts_and_frees() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.cross(1, &frame(mac(100), mac(2)));
    // Port 1's ring takes 512 frames.
    for _ in 0..2 {
        (0..400).for_each(|_| bed.send(0, &frame(mac(2), mac(1))));
        bed.turn();
    }
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("tx_full", 288)]);
    assert_eq!(bed.recv(1).len(), 512);
    bed.finish();
}

#[test]
fn removing_a_port_drops_only_what_was_for_it() {
    let mut bed = Bed::new(1, 3).one_domain();
    bed.cross(0, &frame(mac(100), mac(1)));
    bed.cross(2, &frame(mac(100), mac(3)));
    bed.engine.remove_queue(PortId(2), 0).expect("remove");
    bed.turn();
    let retired = bed.engine.events();
    assert!(matches!(
        &retired[..],
        [QueueEvent::Retired {
            port: PortId(2),
            queue: 0,
            ..
        }]
    ));
    drop(retired);
    bed.peers[2] = None;
    assert!(bed.cross(0, &frame(mac(3), mac(1))).is_empty());
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("tx_down", 1)]);
    assert_eq!(
        bed.cross(1, &frame(mac(1), mac(2)))
            .into_keys()
            .collect::<Vec<_>>(),
        [0]
    );
    // Floods pass it over, and end when nobody is left.
    let flooded = bed.cross(0, &frame(mac(200), mac(1)));
    assert_eq!(flooded.into_keys().collect::<Vec<_>>(), [1]);
    bed.engine.remove_queue(PortId(1), 0).expect("remove");
    bed.turn();
    drop(bed.engine.events());
    bed.peers[1] = None;
    assert!(bed.cross(0, &frame(mac(200), mac(1))).is_empty());
    let drops: Vec<_> = bed.drops().into_iter().collect();
    assert_eq!(drops, [("no_destination", 1), ("tx_down", 1)]);
    bed.finish();
}

#[test]
fn old_tables_come_back_to_control() {
    let mut bed = Bed::new(2, 2).one_domain();
    let old = Arc::downgrade(bed.engine.snapshot());
    bed.publish();
    bed.engine.wait_applied().expect("applied");
    bed.engine.events();
    assert!(old.upgrade().is_none(), "nobody holds the old tables");
    assert_eq!(bed.engine.applied_epoch(), 2);
    bed.finish();
}

#[test]
fn the_zero_address_is_refused_also_behind_one_that_was_not_learned() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.port(0, |p| p.learn_limit = 0).publish();
    bed.send(0, &frame(mac(100), mac(1)));
    bed.send(0, &frame(mac(100), MacAddr([0; 6])));
    bed.turn();
    assert_eq!(bed.recv(1), [frame(mac(100), mac(1))]);
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("invalid_source", 1)]
    );
    bed.finish();
}

fn unfinished() -> Vec<u8> {
    use clearway_wire::checksum::pseudo_header_v4;
    let mut b = [mac(2).0, mac(1).0].concat();
    b.extend([
        8, 0, 0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80, 0,
        108,
    ]);
    b.extend(
        pseudo_header_v4([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 108)
            .fold()
            .to_be_bytes(),
    );
    b.extend((0..100).map(|i| i as u8));
    b
}
#[test]
fn cross_connect_finishes_checksums() {
    use clearway_wire::checksum::{L4Checksum, l4_checksum};
    let mut bed = Bed::new(1, 2);
    bed.port(0, |p| {
        p.service = Service::CrossConnect(PortId(1));
        p.finish_checksums = true;
    });
    bed.publish();
    bed.send(0, &unfinished());
    bed.turn();
    let out = bed.recv(1);
    assert_eq!(l4_checksum(&out[0][14..]), Some(L4Checksum::Correct));
}
#[test]
fn addresses_that_move_to_a_port_count_for_its_limit() {
    let mut bed = Bed::new(1, 2).one_domain();
    bed.port(1, |p| p.learn_limit = 1);
    bed.publish();
    for i in 10..30 {
        bed.send(0, &frame(mac(99), mac(i)));
    }
    bed.turn();
    for _ in 0..3 {
        for i in 10..30 {
            bed.send(1, &frame(mac(99), mac(i)));
        }
        bed.turn();
        bed.engine.age();
        bed.turn();
    }
    let n = bed
        .engine
        .fdb()
        .entries()
        .filter(|(_, e)| e.dest == Dest::Member(MemberId(1)))
        .count();
    assert!(n <= 1, "{n} addresses on a port with learn-limit 1");
}
