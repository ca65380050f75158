//! Rate limits of ports, with exact counts: rates so low that a test's own time adds nothing.

mod common;

use clearway_engine::*;
use clearway_io::Offloads;
use common::packet::Packet;
use common::*;
use std::num::NonZeroU64;
use std::sync::Arc;

/// Frames of 60 bytes that pass: all in one burst, the last of them with half of what it takes. At one bit a second
/// the next may follow after four minutes.
const PASS: usize = 501;
const FRAME_BITS: u64 = 480;

fn policer() -> Option<Arc<Policer>> {
    let bits = (PASS as u64 - 1) * FRAME_BITS + FRAME_BITS / 2;
    Some(Arc::new(Policer::new(RateLimit {
        packets: None,
        bits: NonZeroU64::new(1),
        burst_ns: bits * 1_000_000_000,
    })))
}

/// Two stations that the FDB knows, behind the first two ports.
fn acquainted(mut bed: Bed) -> Bed {
    bed.cross(0, &frame(mac(2), mac(1)));
    bed.cross(1, &frame(mac(1), mac(2)));
    bed
}

/// Sends n frames from port 0 to port 1 and as many back; gives what arrived there, and here.
fn both_ways(bed: &mut Bed, n: usize) -> [usize; 2] {
    let mut arrived = [0; 2];
    for i in 0..n {
        bed.send(0, &frame(mac(2), mac(1)));
        bed.send(1, &frame(mac(1), mac(2)));
        if i % 100 == 99 || i + 1 == n {
            bed.turn();
            arrived[0] += bed.recv(1).len();
            arrived[1] += bed.recv(0).len();
        }
    }
    arrived
}

fn drops_of(bed: &Bed, port: u16, reason: DropReason) -> u64 {
    let homes = bed.engine.homes().iter().filter(|home| home.port == PortId(port));
    homes.map(|home| home.counters.drops.of(reason).get()).sum()
}

#[test]
fn what_is_received_above_the_rate_is_dropped_and_nothing_else() {
    let mut bed = acquainted(Bed::new(1, 3).one_domain());
    bed.port(0, |p| p.police_receive = policer());
    bed.publish();
    assert_eq!(both_ways(&mut bed, 800), [PASS, 800]);
    // What arrives above the rate is not learned from either.
    assert!(bed.cross(0, &frame(mac(1), mac(9))).is_empty());
    assert_eq!(bed.cross(2, &frame(mac(9), mac(3))).len(), 2, "unknown: flooded");
    assert_eq!(
        drops_of(&bed, 0, DropReason::PoliceReceive),
        800 - PASS as u64 + 1
    );
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("police_receive", 800 - PASS as u64 + 1)]
    );
    bed.finish();
}

#[test]
fn what_is_to_be_sent_above_the_rate_is_dropped_and_nothing_else() {
    let mut bed = acquainted(Bed::new(1, 3).one_domain());
    bed.port(1, |p| p.police_transmit = policer());
    bed.publish();
    assert_eq!(both_ways(&mut bed, 800), [PASS, 800]);
    // A flood reaches the port that has no limit.
    let flood = bed.cross(0, &frame(mac(99), mac(1)));
    assert_eq!(flood.into_keys().collect::<Vec<_>>(), [2]);
    assert_eq!(
        drops_of(&bed, 1, DropReason::PoliceTransmit),
        800 - PASS as u64 + 1
    );
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("police_transmit", 800 - PASS as u64 + 1)]
    );
    bed.finish();
}

#[test]
fn a_cross_connect_has_limits_too() {
    let mut bed = Bed::new(1, 2);
    bed.port(0, |p| p.service = Service::CrossConnect(PortId(1)));
    bed.port(1, |p| {
        p.service = Service::CrossConnect(PortId(0));
        (p.police_receive, p.police_transmit) = (policer(), policer());
    });
    bed.publish();
    assert_eq!(both_ways(&mut bed, 600), [PASS, PASS]);
    let over = 600 - PASS as u64;
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("police_receive", over), ("police_transmit", over)]
    );
    bed.finish();
}

#[test]
fn frames_from_another_worker_are_limited_once() {
    let mut bed = acquainted(Bed::new(2, 2).one_domain());
    bed.port(0, |p| p.police_transmit = policer());
    bed.port(1, |p| p.police_transmit = policer());
    bed.publish();
    assert_eq!(both_ways(&mut bed, 600), [PASS, PASS]);
    assert_eq!(
        bed.drops().into_iter().collect::<Vec<_>>(),
        [("police_transmit", 2 * (600 - PASS as u64))]
    );
    bed.finish();
}

#[test]
fn tables_change_and_what_is_spent_stays_but_a_new_limit_is_new() {
    let mut bed = acquainted(Bed::new(1, 2).one_domain());
    bed.port(0, |p| p.police_receive = policer());
    bed.publish();
    assert_eq!(both_ways(&mut bed, 300), [300, 300]);
    bed.port(0, |p| p.mtu = 1400);
    bed.publish();
    assert_eq!(both_ways(&mut bed, 300), [PASS - 300, 300]);
    bed.port(0, |p| p.police_receive = policer());
    bed.publish();
    assert_eq!(both_ways(&mut bed, 300), [300, 300]);
    bed.port(0, |p| p.police_receive = None);
    bed.publish();
    assert_eq!(both_ways(&mut bed, 700), [700, 700]);
    bed.finish();
}

/// A packet of 30,000 bytes weighs as much as 500 of 60 bytes, also if most of it is in a guest's memory; and counts by
/// what it is on its way out: whole for a guest, in pieces, of which each has headers, for a wire.
#[test]
fn large_packets_count_with_all_their_bytes() {
    let packet = Packet::tcp(false);
    let payload = vec![7; 30_000 - packet.l4() - packet.l4_header()];
    let bytes = packet.undone(&payload);
    assert_eq!(bytes.len(), 30_000);
    let offload = packet.offload(Offloads::TSO4, 1000);
    for (takes, pieces) in [(Offloads::all(), 1), (Offloads::empty(), 30)] {
        for (receive, held) in [(true, None), (true, Some(200)), (false, Some(200))] {
            let mut bed = Bed::with_offloads(1, &[takes, takes]).one_domain();
            bed.port(0, |p| p.police_receive = policer().filter(|_| receive));
            bed.port(1, |p| p.police_transmit = policer().filter(|_| !receive));
            bed.publish();
            // 240,240 bits may come, and a packet has 240,000 of them: the second overdraws, the third is above. Cut up,
            // 29 more headers of 66 bytes make it 31,914 bytes: of its pieces 28 and one that overdraws pass.
            bed.send_undone(0, &bytes, Some(offload), held);
            bed.turn();
            let first = bed.recv_undone(1).len();
            for _ in 0..2 {
                bed.send_undone(0, &bytes, Some(offload), held);
            }
            bed.turn();
            let later = bed.recv_undone(1).len();
            let (wanted, over) = match (receive, pieces) {
                (true, _) => ((pieces, pieces), 1),
                (false, 1) => ((1, 1), 1),
                (false, _) => ((29, 0), 1 + 60),
            };
            assert_eq!((first, later), wanted, "{takes:?} {receive} {held:?}");
            let name = if receive {
                "police_receive"
            } else {
                "police_transmit"
            };
            assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [(name, over)]);
            bed.finish();
        }
    }
}
