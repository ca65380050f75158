//! Who asks for the address of a VTEP that only we have is answered, in ARP (RFC 826) and in neighbour discovery (RFC
//! 4861 §7.2), with exact accounts.

mod common;

use clearway_engine::*;
use clearway_wire::{Arp, EtherType, MacAddr, Ndp, arp, ndp};
use common::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

const UPLINK: u16 = 1;
const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0x99, 1]);
const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0x99, 2]);
const LOCAL: [u8; 4] = [10, 9, 0, 1];
const IN_VLAN: [u8; 4] = [10, 9, 30, 1];
const LOCAL6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x99, 1);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x99, 2);

/// Port 0 is in domain 1; port 1 is the uplink of three VTEPs: one of each family untagged, one in VLAN 30.
fn bed(answers: bool) -> Bed {
    let mut bed = Bed::new(1, 2);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    bed.port(UPLINK, |p| p.vteps = (0..3).map(VtepId).collect());
    let members = vec![Some(member(0))];
    bed.domain(
        1,
        Domain {
            members,
            ..Domain::default()
        },
    );
    let vtep = |local: IpAddr, vlan: Option<u16>| {
        Some(Arc::new(Vtep {
            local: local.into(),
            mac: OURS.to_u64(),
            udp_port: 4789,
            vid: vlan.map(vid),
            answers: answers.then_some(PortId(UPLINK)),
            vnis: VniTable::default(),
            remotes: Remotes::default(),
        }))
    };
    bed.conf.vteps = vec![
        vtep(LOCAL.into(), None),
        vtep(LOCAL6.into(), None),
        vtep(IN_VLAN.into(), Some(30)),
    ];
    bed.publish();
    bed
}

/// An ARP packet from ASKER for `target`, with tags.
fn asked(dst: MacAddr, tags: &[(u16, u16)], target: [u8; 4], change: impl FnOnce(&mut Arp)) -> Vec<u8> {
    let mut arp = Arp {
        operation: arp::Operation::REQUEST,
        sha: ASKER,
        spa: [10, 9, 0, 2].into(),
        tha: MacAddr::ZERO,
        tpa: target.into(),
    };
    change(&mut arp);
    let mut bytes = tagged(dst, ASKER, tags);
    let l3 = 14 + 4 * tags.len();
    bytes[l3 - 2..l3].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
    bytes[l3..].fill(0);
    bytes[l3..l3 + arp::PACKET_LEN].copy_from_slice(&arp.to_bytes());
    bytes
}

fn request(target: [u8; 4]) -> Vec<u8> {
    asked(MacAddr::BROADCAST, &[], target, |_| {})
}

fn solicitation() -> Ndp {
    Ndp {
        src: ASKER6,
        dst: ndp::solicited_node(LOCAL6),
        target: LOCAL6,
        message: ndp::Message::Solicitation {
            source_mac: Some(ASKER),
        },
    }
}

fn ndp_frame(dst: MacAddr, ndp: &Ndp) -> Vec<u8> {
    let mut bytes = frame(dst, ASKER);
    bytes.resize(14 + ndp::MAX_PACKET_LEN, 0);
    bytes[12..14].copy_from_slice(&EtherType::IPV6.0.to_be_bytes());
    let len = ndp.emit(&mut bytes[14..]).expect("room");
    bytes.truncate(14 + len);
    bytes
}

/// The one frame that comes out, at the uplink.
#[track_caller]
fn answer(bed: &mut Bed, question: &[u8]) -> Vec<u8> {
    let mut out = bed.cross(UPLINK, question);
    let mut answers = out.remove(&UPLINK).expect("an answer");
    assert!(out.is_empty(), "elsewhere: {out:?}");
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// The ledger when so many questions were answered and so many frames dropped for want of a service.
#[track_caller]
fn accounts(mut bed: Bed, answered: u64, dropped: u64) {
    let mut wanted = Ledger {
        received: answered + dropped,
        generated: answered,
        sent: answered,
        consumed: answered,
        ..Ledger::default()
    };
    wanted.drops[DropReason::NoService as usize] = dropped;
    assert_eq!(bed.ledger(), wanted);
    bed.finish();
}

#[test]
fn an_arp_request_for_the_vtep_is_answered() {
    let mut bed = bed(true);
    let mut wanted = vec![2, 0, 0, 0, 0x99, 2, 2, 0, 0, 0, 0x99, 1, 8, 6];
    wanted.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    wanted.extend([2, 0, 0, 0, 0x99, 1, 10, 9, 0, 1]);
    wanted.extend([2, 0, 0, 0, 0x99, 2, 10, 9, 0, 2]);
    wanted.resize(60, 0);
    assert_eq!(answer(&mut bed, &request(LOCAL)), wanted);
    // Who knows us asks whether we are still there, without bothering the others.
    assert_eq!(answer(&mut bed, &asked(OURS, &[], LOCAL, |_| {})), wanted);
    // A probe (RFC 5227 §2.1.1): the address is taken.
    let probe = asked(MacAddr::BROADCAST, &[], LOCAL, |arp| {
        arp.spa = Ipv4Addr::UNSPECIFIED
    });
    wanted[38..42].fill(0);
    assert_eq!(answer(&mut bed, &probe), wanted);
    accounts(bed, 3, 0);
}

#[test]
fn in_a_vlan_it_is_answered_with_the_tag() {
    let mut bed = bed(true);
    // The priority of who asks is not ours.
    let question = asked(MacAddr::BROADCAST, &[(0x8100, 0xe01e)], IN_VLAN, |_| {});
    let reply = answer(&mut bed, &question);
    assert_eq!(reply.len(), 64);
    assert_eq!(reply[..12], [ASKER.0, OURS.0].concat());
    assert_eq!(reply[12..18], [0x81, 0, 0, 30, 8, 6]);
    let arp = Arp::parse(&reply[18..]).expect("arp");
    assert_eq!(
        (arp.operation, arp.sha, arp.spa, arp.tha),
        (arp::Operation::REPLY, OURS, IN_VLAN.into(), ASKER)
    );
    // A priority tag is none (IEEE 802.1Q §6.9).
    let question = asked(MacAddr::BROADCAST, &[(0x8100, 0xe000)], LOCAL, |_| {});
    assert_eq!(answer(&mut bed, &question)[12..14], [8, 6]);
    accounts(bed, 2, 0);
}

#[test]
fn a_solicitation_for_the_vtep_is_answered() {
    let mut bed = bed(true);
    let group = ndp::multicast_mac(solicitation().dst);
    let reply = answer(&mut bed, &ndp_frame(group, &solicitation()));
    assert_eq!(reply[..14], [&ASKER.0[..], &OURS.0, &[0x86, 0xdd]].concat());
    let wanted = Ndp {
        src: LOCAL6,
        dst: ASKER6,
        target: LOCAL6,
        message: ndp::Message::Advertisement {
            target_mac: Some(OURS),
            router: false,
            solicited: true,
            override_cache: true,
        },
    };
    assert_eq!(Ndp::parse(&reply[14..]).expect("valid"), wanted);
    assert_eq!(reply.len(), 14 + ndp::MAX_PACKET_LEN);
    assert_eq!(answer(&mut bed, &ndp_frame(OURS, &solicitation())), reply);
    accounts(bed, 2, 0);
}

#[test]
fn what_is_not_asked_of_the_vtep_is_not_answered() {
    let mut bed = bed(true);
    let to_all = |tags: &[(u16, u16)], target| asked(MacAddr::BROADCAST, tags, target, |_| {});
    let group = ndp::multicast_mac(solicitation().dst);
    let mut from_a_group = request(LOCAL);
    from_a_group[6] |= 1;
    let mut from_us = request(LOCAL);
    from_us[6..12].copy_from_slice(&OURS.0);
    let mut routed = ndp_frame(group, &solicitation());
    routed[21] = 64;
    let advertisement = solicitation().advertisement(ASKER, false).expect("one");
    let frames = [
        ("another address", to_all(&[], [10, 9, 0, 3])),
        ("another VLAN's address", to_all(&[], IN_VLAN)),
        ("in a VLAN", to_all(&[(0x8100, 30)], LOCAL)),
        ("in no VTEP's VLAN", to_all(&[(0x8100, 31)], IN_VLAN)),
        ("in a service VLAN", to_all(&[(0x88a8, 30)], IN_VLAN)),
        ("two tags", to_all(&[(0x8100, 30), (0x8100, 30)], IN_VLAN)),
        ("somebody else", asked(mac(7), &[], LOCAL, |_| {})),
        (
            "a reply",
            asked(MacAddr::BROADCAST, &[], LOCAL, |arp| {
                arp.operation = arp::Operation::REPLY;
            }),
        ),
        (
            "an announcement",
            asked(MacAddr::BROADCAST, &[], LOCAL, |arp| arp.spa = LOCAL.into()),
        ),
        ("from a group", from_a_group),
        ("from us", from_us),
        ("cut short", request(LOCAL)[..41].to_vec()),
        ("a routed solicitation", routed),
        ("an advertisement", ndp_frame(group, &advertisement)),
    ];
    let n = frames.len() as u64;
    for (what, frame) in frames {
        let out = bed.cross(UPLINK, &frame);
        assert!(out.is_empty(), "{what}: {out:?}");
    }
    // Its end is in a guest's memory, beyond what headers may take.
    bed.send_undone(UPLINK, &request(LOCAL), None, Some(30));
    bed.turn();
    assert!(bed.recv(UPLINK).is_empty());
    accounts(bed, 0, n + 1);
}

#[test]
fn where_somebody_else_has_the_address_it_is_for_them_to_answer() {
    let mut bed = bed(false);
    let group = ndp::multicast_mac(solicitation().dst);
    for question in [request(LOCAL), ndp_frame(group, &solicitation())] {
        assert!(bed.cross(UPLINK, &question).is_empty());
    }
    accounts(bed, 0, 2);
}

#[test]
fn an_uplink_that_is_a_trunk_too_switches_the_other_questions() {
    let mut bed = bed(true);
    let mut vids = VidTable::default();
    vids.entry_mut(EtherType::VLAN, vid(100)).single = Some(place(1, 1));
    let vids = Arc::new(vids);
    bed.port(UPLINK, |p| p.service = Service::Trunk { native: None, vids });
    let trunk = Member {
        tags: TagRule {
            outer: Some((EtherType::VLAN, vid(100))),
            ..TagRule::default()
        },
        ..member(UPLINK)
    };
    bed.domain(
        1,
        Domain {
            members: vec![Some(member(0)), Some(trunk)],
            ..Domain::default()
        },
    );
    bed.publish();
    answer(&mut bed, &request(LOCAL));
    let other = asked(MacAddr::BROADCAST, &[(0x8100, 100)], LOCAL, |_| {});
    let out = bed.cross(UPLINK, &other);
    assert_eq!(out.into_keys().collect::<Vec<_>>(), [0]);
    let ledger = bed.ledger();
    assert_eq!((ledger.consumed, ledger.generated, ledger.dropped()), (1, 1, 0));
    bed.finish();
}
