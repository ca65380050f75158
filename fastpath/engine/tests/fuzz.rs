//! Any frames into any port: nothing panics, every frame is accounted for, every chunk comes home.

mod common;

use clearway_engine::*;
use clearway_io::{Offload, Offloads};
use clearway_wire::{EtherType, MacAddr, MappedIp};
use common::*;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex};

/// Few frames, or one large packet, pass it.
fn policer() -> Option<Arc<Policer>> {
    Some(Arc::new(Policer::new(RateLimit {
        packets: NonZeroU32::new(1000),
        bits: NonZeroU64::new(100_000),
        burst_ns: 0,
    })))
}

/// One port of every service: access, trunk with native and QinQ, tunnel, an uplink with a VTEP, a
/// cross-connect, one without service, one isolated access port with storm control and rate limits.
fn bed() -> Bed {
    // Two ports take frames undone, one of them only checksums.
    let mut offloads = [Offloads::empty(); 8];
    offloads[0] = Offloads::all();
    offloads[2] = Offloads::CHECKSUM;
    let mut bed = Bed::with_offloads(1, &offloads);
    bed.port(0, |p| p.service = Service::Access(place(1, 0)));
    let mut vids = VidTable::default();
    vids.entry_mut(EtherType::VLAN, vid(100)).single = Some(place(1, 1));
    vids.entry_mut(EtherType::QINQ, vid(200)).inner =
        Some(Arc::new([(7, place(2, 0))].into_iter().collect()));
    bed.port(1, |p| {
        p.service = Service::Trunk {
            native: Some(place(2, 1)),
            vids: Arc::new(vids),
        }
    });
    bed.port(2, |p| p.service = Service::Tunnel(place(2, 2)));
    bed.port(3, |p| p.vteps = Box::new([VtepId(0)]));
    bed.port(4, |p| p.service = Service::CrossConnect(PortId(6)));
    bed.port(7, |p| {
        p.service = Service::Access(place(1, 2));
        p.finish_checksums = true;
        p.storm.broadcast = Some(10);
        p.police_receive = policer();
        p.police_transmit = policer();
    });
    bed.port(2, |p| p.police_transmit = policer());
    let tags = |outer: (EtherType, u16), inner: Option<u16>| TagRule {
        outer: Some((outer.0, vid(outer.1))),
        inner: inner.map(vid),
        pcp: None,
        ..TagRule::default()
    };
    let with = |port, tags| Some(Member { tags, ..member(port) });
    let base = |n, members| Domain {
        members,
        remotes: Box::new([TunnelId(0)]),
        vni: Some(vni(n)),
        hosts: Some(Arc::new(
            [(IpAddr::from([10, 9, 9, 9]), 0x0200_0000_0001)]
                .into_iter()
                .collect(),
        )),
        ..Domain::default()
    };
    let isolated = Some(Member {
        isolated: true,
        ..member(7)
    });
    bed.domain(
        1,
        base(
            1,
            vec![
                Some(member(0)),
                with(1, tags((EtherType::VLAN, 100), None)),
                isolated,
            ],
        ),
    );
    let qinq = with(1, tags((EtherType::QINQ, 200), Some(7)));
    bed.domain(2, base(2, vec![qinq, Some(member(1)), Some(member(2))]));
    let mut vnis = VniTable::default();
    vnis.insert(vni(1), bd(1));
    vnis.insert(vni(2), bd(2));
    let (local, remote) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let mut remotes = Remotes::default();
    remotes.insert(MappedIp::from(remote), TunnelId(0));
    bed.conf.vteps = vec![Some(Arc::new(Vtep {
        local: local.into(),
        mac: mac(1).to_u64(),
        udp_port: 4789,
        vid: None,
        answers: Some(PortId(3)),
        vnis,
        remotes,
    }))];
    let spec = OuterSpec {
        src_mac: mac(1),
        dst_mac: mac(2),
        vid: None,
        local,
        remote,
        udp_port: 4789,
        ttl: 64,
        dscp: OuterDscp::Copy,
        checksum: true,
    };
    let tunnel = Tunnel {
        port: PortId(3),
        generation: 0,
        max_inner: 1450,
        rewrite: Rewrite::new(&spec),
    };
    bed.conf.tunnels = vec![Some(Arc::new(tunnel))];
    bed.publish();
    bed
}

/// Bytes that look like something: an Ethernet header from a few addresses, tags and ethertypes, and for the
/// uplink a VXLAN header around it.
fn dress(raw: &[u8], port: u16) -> Vec<u8> {
    let [a, b, c, rest @ ..] = raw else {
        return raw.to_vec();
    };
    if a % 8 == 0 {
        return rest.to_vec();
    }
    let addresses = [
        mac(1),
        mac(2),
        mac(3),
        MacAddr::BROADCAST,
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
    ];
    let mut inner = [
        addresses[usize::from(b % 5)].0,
        addresses[usize::from(b / 5 % 5)].0,
    ]
    .concat();
    let kinds: [&[u8]; 8] = [
        &[8, 0],
        &[8, 6],
        &[0x86, 0xdd],
        &[0x81, 0, 0, 100, 8, 0],
        &[0x88, 0xa8, 0, 200, 0x81, 0, 0, 7, 8, 0],
        &[0x81, 0, 0xe0, 0, 8, 6],
        &[0x88, 0xa8, 0, 200],
        &[],
    ];
    inner.extend(kinds[usize::from(c % 8)]);
    // Long ones now and then: over the tunnel's MTU, over one chunk.
    inner.extend(rest.iter().cycle().take(if c / 8 % 8 == 0 && !rest.is_empty() {
        2500
    } else {
        rest.len()
    }));
    if port != 3 || a % 4 == 0 {
        return inner;
    }
    let udp_len = (inner.len() + 16) as u16;
    let mut outer = [mac(1).0, mac(2).0].concat();
    outer.extend([8, 0, 0x45, 0]);
    outer.extend((udp_len + 20).to_be_bytes());
    outer.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let sum = clearway_wire::checksum::checksum(&outer[14..34]);
    outer[24..26].copy_from_slice(&sum.to_be_bytes());
    outer.extend([0xc0, 0, 0x12, 0xb5]);
    outer.extend(udp_len.to_be_bytes());
    outer.extend([0, 0, 8, 0, 0, 0, 0, 0, 1 + (a / 4 % 3), 0]);
    outer.extend(inner);
    outer
}

/// What a sender leaves undone on every second frame, and how much of a frame is outside: any numbers that a port
/// could hand over.
fn undone(raw: [u8; 6], len: usize) -> (Option<Offload>, Option<usize>) {
    let [what, kinds, start, field, high, low] = raw;
    let held = (what % 4 > 1).then_some(len.min(256).min(usize::from(high) * 2));
    let offload = Offload {
        needs: Offloads::from_bits_truncate(kinds.into()),
        start: start.into(),
        field: (field % 24).into(),
        gso_size: u16::from_be_bytes([high, low]),
    };
    let end = usize::from(offload.start + offload.field) + 2;
    let possible = what % 2 == 1 && end <= held.unwrap_or(len.min(1700));
    (possible.then_some(offload), held)
}

#[test]
fn fuzz_pipeline() {
    let bed = Mutex::new(Some(bed()));
    bolero::check!()
        .with_type::<Vec<(u8, [u8; 6], Vec<u8>)>>()
        .with_iterations(1000)
        .for_each(|frames| {
            let mut slot = bed.lock().expect("not poisoned");
            let bed = slot.as_mut().expect("bed");
            for (port, state, raw) in frames.iter().take(64) {
                let port = u16::from(port % 8);
                let bytes = dress(raw, port);
                // An empty frame is none; more than a port's MTU does not arrive from a kernel device.
                if !bytes.is_empty() && bytes.len() < 9000 {
                    let (offload, held) = undone(*state, bytes.len());
                    bed.send_undone(port, &bytes, offload, held);
                }
            }
            bed.turn();
            (0..8).for_each(|port| {
                bed.recv(port);
            });
            assert_eq!(bed.ledger().in_flight(), 0);
        });
    let bed = bed.into_inner().expect("not poisoned").expect("bed");
    bed.finish();
}
