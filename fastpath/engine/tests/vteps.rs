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
