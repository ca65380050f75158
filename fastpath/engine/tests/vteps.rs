//! Several VTEPs on one uplink: what is known of one is not believed of the other.

mod common;

use clearway_engine::*;
use clearway_wire::{MacAddr, MappedIp};
use common::*;
use std::net::IpAddr;
use std::sync::Arc;

const OUR: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 1]);
const NH: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 2]);
fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}
fn rw(from: (MacAddr, u8), to: (MacAddr, u8)) -> Rewrite {
    Rewrite::new(&OuterSpec {
        src_mac: from.0,
        dst_mac: to.0,
        vid: None,
        local: ip(from.1),
        remote: ip(to.1),
        udp_port: 4789,
        ttl: 64,
        dscp: OuterDscp::Copy,
        checksum: false,
    })
    .expect("there")
}
fn outer(bed: &mut Bed, r: &Rewrite, id: u32, inner: &[u8]) -> Vec<u8> {
    let region = bed.umem.id();
    let mut f = bed.pools.frame_from(region, inner).expect("there");
    assert!(r.push(&mut f, vni(id)));
    let b = f.segments().flatten().copied().collect();
    bed.pools.free(f);
    b
}
/// VTEPs .1 and .4 on one uplink, domain 1 on the first, 2 on the second. The first knows remote .2, the second
/// perhaps.
fn vbed(second_knows: bool) -> Bed {
    let mut bed = Bed::new(1, 3);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    bed.port(1, |p| p.service = Service::Access(place(2, 0)));
    bed.port(2, |p| {
        p.vteps = Box::new([VtepId(0), VtepId(1)]);
    });
    let d = |port, t: u16, id| Domain {
        members: vec![Some(member(port))],
        remotes: Box::new([TunnelId(t)]),
        vni: Some(vni(id)),
        ..Domain::default()
    };
    bed.domain(1, d(0, 0, 5001));
    bed.domain(2, d(1, 1, 5002));
    let vtep = |n: u8, id: u32, b: u16, t: Option<u16>| {
        let mut vnis = VniTable::default();
        vnis.insert(vni(id), bd(b));
        let mut remotes = Remotes::default();
        if let Some(t) = t {
            remotes.insert(MappedIp::from(ip(2)), TunnelId(t));
        }
        Some(Arc::new(Vtep {
            local: ip(n).into(),
            mac: OUR.to_u64(),
            udp_port: 4789,
            vid: None,
            answers: None,
            vnis,
            remotes,
        }))
    };
    bed.conf.vteps = vec![
        vtep(1, 5001, 1, Some(0)),
        vtep(4, 5002, 2, second_knows.then_some(1)),
    ];
    let t = |n| {
        Some(Arc::new(Tunnel {
            port: PortId(2),
            generation: 0,
            max_inner: 1450,
            rewrite: Some(rw((OUR, n), (NH, 2))),
        }))
    };
    bed.conf.tunnels = vec![t(1), t(4)];
    bed.publish();
    bed
}
#[test]
fn addresses_are_learned_behind_the_tunnel_of_their_own_vtep() {
    let mut bed = vbed(true);
    let a = {
        let r = rw((NH, 2), (OUR, 1));
        outer(&mut bed, &r, 5001, &frame(mac(1), mac(21)))
    };
    let b = {
        let r = rw((NH, 2), (OUR, 4));
        outer(&mut bed, &r, 5002, &frame(mac(2), mac(22)))
    };
    bed.send(2, &a);
    bed.send(2, &b);
    bed.turn();
    let e = bed
        .engine
        .fdb()
        .get(FdbKey::new(bd(2), mac(22).to_u64()))
        .expect("there");
    assert_eq!(
        e.dest,
        Dest::Tunnel(TunnelId(1)),
        "learned behind the other VTEP's tunnel"
    );
}
#[test]
fn a_remote_of_one_vtep_is_none_of_another() {
    let mut bed = vbed(false);
    let a = {
        let r = rw((NH, 2), (OUR, 1));
        outer(&mut bed, &r, 5001, &frame(mac(1), mac(21)))
    };
    let b = {
        let r = rw((NH, 2), (OUR, 4));
        outer(&mut bed, &r, 5002, &frame(mac(2), mac(22)))
    };
    bed.send(2, &a);
    bed.send(2, &b);
    bed.turn();
    assert_eq!(
        bed.recv(1).len(),
        0,
        "frame of a remote that VTEP .4 does not know was delivered"
    );
}

#[test]
fn a_vtep_in_a_vlan_is_not_in_the_service_vlan_of_that_number() {
    let mut bed = vbed(true);
    let mut vtep = Vtep::clone(bed.conf.vteps[0].as_ref().expect("there"));
    vtep.vid = Some(vid(7));
    bed.conf.vteps[0] = Some(Arc::new(vtep));
    bed.publish();
    let bare = {
        let r = rw((NH, 2), (OUR, 1));
        outer(&mut bed, &r, 5001, &frame(mac(1), mac(21)))
    };
    let tagged = |tpid: u16| [&bare[..12], &tpid.to_be_bytes(), &[0, 7], &bare[12..]].concat();
    assert_eq!(bed.cross(2, &tagged(0x8100)).into_keys().collect::<Vec<_>>(), [0]);
    assert!(bed.cross(2, &tagged(0x88a8)).is_empty());
    assert_eq!(bed.drops().into_iter().collect::<Vec<_>>(), [("no_service", 1)]);
}

#[test]
fn an_address_moves_between_remotes_of_one_uplink_also_at_its_limit() {
    let mut bed = vbed(true);
    let mut vnis = VniTable::default();
    vnis.insert(vni(5001), bd(1));
    let mut remotes = Remotes::default();
    remotes.insert(MappedIp::from(ip(2)), TunnelId(0));
    remotes.insert(MappedIp::from(ip(3)), TunnelId(1));
    bed.conf.vteps = vec![Some(Arc::new(Vtep {
        local: ip(1).into(),
        mac: OUR.to_u64(),
        udp_port: 4789,
        vid: None,
        answers: None,
        vnis,
        remotes,
    }))];
    bed.port(2, |p| {
        p.vteps = Box::new([VtepId(0)]);
        p.learn_limit = 1;
    });
    bed.domain(
        1,
        Domain {
            members: vec![Some(member(0))],
            remotes: Box::new([TunnelId(0), TunnelId(1)]),
            vni: Some(vni(5001)),
            ..Domain::default()
        },
    );
    bed.publish();
    let r2 = rw((NH, 2), (OUR, 1));
    let r3 = rw((NH, 3), (OUR, 1));
    let a = outer(&mut bed, &r2, 5001, &frame(mac(1), mac(21)));
    let b = outer(&mut bed, &r3, 5001, &frame(mac(1), mac(21)));
    bed.send(2, &a);
    bed.turn();
    let key = FdbKey::new(bd(1), mac(21).to_u64());
    assert_eq!(
        bed.engine.fdb().get(key).expect("there").dest,
        Dest::Tunnel(TunnelId(0))
    );
    bed.send(2, &b);
    bed.turn();
    bed.engine.age();
    bed.send(2, &b);
    bed.turn();
    assert_eq!(
        bed.engine.fdb().get(key).expect("there").dest,
        Dest::Tunnel(TunnelId(1)),
        "did not move"
    );
}

/// Answers to a packet too big for the tunnel, after so many frames too big that nobody answers.
fn too_big_answers(junk: usize) -> usize {
    let mut bed = vbed(true);
    let r2 = rw((NH, 2), (OUR, 1));
    let a = outer(&mut bed, &r2, 5001, &frame(mac(1), mac(21)));
    bed.send(2, &a);
    bed.turn();
    bed.recv(0);
    let base = frame(mac(21), mac(1));
    let mut j = base[..12].to_vec();
    j.extend([0x88, 0xb5]);
    j.resize(1500, 0);
    for _ in 0..junk {
        bed.send(0, &j);
    }
    bed.turn();
    bed.turn();
    let mut d = base[..12].to_vec();
    d.extend([
        8, 0, 0x45, 0, 5, 0xc8, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2,
    ]);
    d.resize(14 + 1480, 0);
    let sum = clearway_wire::checksum::checksum(&d[14..34]);
    d[24..26].copy_from_slice(&sum.to_be_bytes());
    bed.send(0, &d);
    bed.turn();
    bed.recv(0).len()
}
#[test]
fn what_is_not_answered_does_not_spend_the_limit_of_answers() {
    assert_eq!((too_big_answers(0), too_big_answers(120)), (1, 1));
}
