//! Into VXLAN and out of it.

use crate::common::packet::Packet;
use crate::common::*;
use crate::{ALL, MSS, NONE, bed, large, payload, since};
use clearway_engine::*;
use clearway_io::{Offload, Offloads};
use clearway_wire::checksum::{L4Checksum, l4_checksum};
use clearway_wire::{Ipv4Packet, MappedIp, icmpv4, vxlan_datagram};
use std::net::IpAddr;
use std::sync::Arc;

/// Port 0 is in a domain with a remote, port 1 is the uplink, whose frames may be this much undone.
fn tunnel(offloads: Offloads, max_inner: u32) -> Bed {
    let mut bed = Bed::with_offloads(1, &[ALL, offloads]);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    bed.port(1, |p| {
        p.vteps = Box::new([VtepId(0)]);
        p.mtu = 1550;
    });
    bed.domain(
        1,
        Domain {
            members: vec![Some(member(0))],
            remotes: Box::new([TunnelId(0)]),
            vni: Some(vni(5001)),
            ..Domain::default()
        },
    );
    let (local, remote) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let mut vnis = VniTable::default();
    vnis.insert(vni(5001), bd(1));
    let mut remotes = Remotes::default();
    remotes.insert(MappedIp::from(remote), TunnelId(0));
    bed.conf.vteps = vec![Some(Arc::new(Vtep {
        local: local.into(),
        mac: mac(8).to_u64(),
        udp_port: 4789,
        vid: None,
        answers: None,
        vnis,
        remotes,
    }))];
    bed.conf.tunnels = vec![Some(Arc::new(Tunnel {
        port: PortId(1),
        generation: 0,
        max_inner,
        rewrite: Rewrite::new(&outer(8, 9, local, remote)),
    }))];
    bed.publish();
    bed
}

fn outer(src: u8, dst: u8, local: IpAddr, remote: IpAddr) -> OuterSpec {
    OuterSpec {
        src_mac: mac(src),
        dst_mac: mac(dst),
        vid: None,
        local,
        remote,
        udp_port: 4789,
        ttl: 64,
        dscp: OuterDscp::Copy,
        checksum: false,
    }
}

#[test]
fn into_a_tunnel_all_is_finished_whatever_the_uplink_takes() {
    let mut bed = tunnel(ALL, 1500);
    let (packet, payload, pieces) = large();
    bed.send_undone(
        0,
        &packet.undone(&payload),
        Some(packet.offload(packet.tso(), MSS)),
        Some(90),
    );
    bed.send_undone(
        0,
        &packet.undone(&payload[..90]),
        Some(packet.offload(NONE, 0)),
        Some(90),
    );
    bed.turn();
    let mut expected = packet.cut(&payload, MSS.into());
    expected.push(packet.whole(&payload[..90]));
    let got = bed.recv_undone(1);
    assert_eq!(got.len(), expected.len());
    for ((frame, undone), expected) in got.into_iter().zip(expected) {
        let outer = vxlan_datagram(&frame, 14).expect("VXLAN");
        assert_eq!((&frame[outer.inner_offset..], undone), (&expected[..], None));
    }
    assert_eq!(
        since(&mut bed, &Ledger::default()),
        [2, 0, pieces, 1 + pieces, 1, 0]
    );
    bed.finish();
}

#[test]
fn a_sender_of_pieces_that_do_not_fit_a_tunnel_is_told_once() {
    let mut bed = tunnel(NONE, 1450);
    let (packet, payload, _) = large();
    // 14 + 20 + 32 + 1384 = 1450.
    let mut bytes = packet.undone(&payload);
    bytes[20] |= 0x40; // DF: it wants to know
    bytes[24..26].fill(0);
    let sum = clearway_wire::checksum::checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bed.send_undone(0, &bytes, Some(packet.offload(packet.tso(), 1384)), Some(256));
    bed.turn();
    assert_eq!(bed.recv(1).len(), 65_000usize.div_ceil(1384));
    assert!(bed.recv(0).is_empty());
    bed.send_undone(0, &bytes, Some(packet.offload(packet.tso(), 1385)), Some(256));
    bed.turn();
    assert!(bed.recv(1).is_empty());
    let told = bed.recv(0);
    assert_eq!(told.len(), 1);
    let ip = Ipv4Packet::new_checked(&told[0][14..]).expect("IPv4");
    let icmp = clearway_wire::Icmpv4Packet::new_checked(ip.payload()).expect("ICMP");
    assert!(icmp.verify_checksum());
    assert_eq!((ip.payload()[0], ip.payload()[1]), (3, 4), "fragmentation needed");
    assert_eq!(u16::from_be_bytes([ip.payload()[6], ip.payload()[7]]), 1436);
    assert!(icmpv4::may_be_answered_with_error(&bytes[14..]));
    assert_eq!(
        (bed.drops(), bed.ledger().generated),
        ([("tunnel_mtu", 1)].into(), 1)
    );
    bed.finish();
}

/// What arrives in VXLAN, as a guest with an uplink of its own (or a peer on this host) leaves it.
#[test]
fn out_of_a_tunnel_what_was_undone_outside_is_forgotten() {
    let mut bed = tunnel(NONE, 1450);
    let inner = Packet::udp(false);
    let rewrite = Rewrite::new(&outer(
        9,
        8,
        IpAddr::from([10, 0, 0, 2]),
        IpAddr::from([10, 0, 0, 1]),
    ));
    let wrap = |bed: &mut Bed, inner: &[u8]| {
        let region = bed.umem.id();
        let mut frame = bed.pools.frame_from(region, inner).expect("chunk");
        assert!(rewrite.as_ref().expect("one family").push(&mut frame, vni(5001)));
        let bytes: Vec<u8> = frame.segments().flatten().copied().collect();
        bed.pools.free(frame);
        bytes
    };
    let payload = payload(600);
    let needs = Offloads::CHECKSUM;
    let undone = |start, kind: Offloads| Offload {
        needs: needs | kind,
        start,
        field: 6,
        gso_size: 500,
    };
    for held in [None, Some(160)] {
        let whole = inner.whole(&payload);
        let bytes = wrap(&mut bed, &whole);
        // The outer UDP checksum: it goes with its header.
        bed.send_undone(1, &bytes, Some(undone(34, NONE)), held);
        bed.turn();
        assert_eq!(bed.recv_undone(0), [(whole, None)]);
        // The inner one is still to be done.
        let partial = inner.undone(&payload);
        let bytes = wrap(&mut bed, &partial);
        bed.send_undone(1, &bytes, Some(undone(50 + 34, NONE)), held);
        bed.turn();
        assert_eq!(bed.recv_undone(0), [(partial, Some(undone(34, NONE)))]);
        // An outer datagram to be cut up is no frame in VXLAN.
        for kind in [Offloads::USO4, Offloads::UFO] {
            bed.send_undone(1, &bytes, Some(undone(34, kind)), held);
        }
        bed.turn();
        assert!(bed.recv_undone(0).is_empty());
    }
    assert_eq!(bed.drops(), [("vxlan_malformed", 4)].into());
    bed.finish();
}

/// The checksum of any protocol can be left undone: here of what a guest has put into a tunnel of its own.
#[test]
fn a_checksum_inside_a_guests_own_tunnel_is_finished() {
    let mut bed = bed(&[NONE, NONE]);
    let inner = Packet::tcp(true);
    let mut bytes = Packet::udp(false).whole(&inner.undone(&payload(301)));
    bytes[40..42].fill(0);
    let before = 14 + 20 + 8;
    let mut offload = inner.offload(NONE, 0);
    offload.start += before;
    bed.send_undone(0, &bytes, Some(offload), Some(250));
    bed.turn();
    let got = bed.recv(1);
    let inside = &got[0][usize::from(before)..];
    assert_eq!(inside, inner.whole(&payload(301)));
    assert_eq!(l4_checksum(&inside[14..]), Some(L4Checksum::Correct));
    bed.finish();
}
