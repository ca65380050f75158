//! Guests' frames through a whole engine.

mod common;
#[path = "../../io/tests/vhost/bed.rs"]
mod guests;

use clearway_engine::*;
use clearway_io::{AnyPort, Frame, HugePages, PoolSet, Umem, UmemGeometry, VhostPort};
use clearway_virtio_mock::{NetHeader, Received, feature, gso, header_flag};
use common::{Bed, frame, mac, member, place};
use etherparse::PacketBuilder;
use guests::{Guest, GuestOptions, WHOLE, config, received};

/// A bridge domain of two guests, with a UMEM in which a large frame has no room: it crosses all the same, straight from
/// one guest's memory into the other's, with what was left undone.
#[test]
fn large_frames_between_guests_need_no_memory_of_ours() {
    for packed in [0, feature::RING_PACKED] {
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks: 64,
            huge_pages: HugePages::Off,
        };
        let umem = Umem::new(geometry).expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        let taken: Vec<Frame> = (0..56).filter_map(|_| pools.alloc(umem.id())).collect();
        // What the pool has beyond those goes back.
        drop(pools);
        assert_eq!(umem.depot_chunks(), 8);
        let mut bed = Bed::new(1, 0);
        bed.engine.add_region(&umem).expect("region");
        let features = feature::VERSION_1 | feature::MRG_RXBUF | feature::OFFLOADS | packed;
        let mut guests = [0, 1].map(|port| {
            let mut guest = Guest::new(&GuestOptions {
                features,
                ..GuestOptions::default()
            });
            // Before anything is offered: that is where a device begins.
            let io = VhostPort::new(config(&guest), &umem).expect("a port");
            let io = AnyPort::Vhost(Box::new(io));
            bed.engine
                .add_queue(WorkerId(0), PortId(port), 0, io, Some(umem.id()))
                .expect("queue");
            guest.rx().fill(4000, WHOLE);
            guest.rx().flush();
            bed.conf.ports.push(Some(Default::default()));
            bed.port(port, |conf| conf.service = Service::Access(place(1, port)));
            guest
        });
        bed.domain(
            1,
            Domain {
                members: (0..2).map(|port| Some(member(port))).collect(),
                ..Domain::default()
            },
        );
        bed.publish();
        // Who is where is known before: what is flooded is copied.
        let [a, b] = &mut guests;
        assert!(b.tx().send(NetHeader::default(), &frame(mac(1), mac(2)), WHOLE));
        b.tx().flush();
        assert_eq!(arrived(&mut bed, a).len(), 1, "{:?}", bed.drops());

        let header = NetHeader {
            flags: header_flag::NEEDS_CSUM,
            gso_type: gso::TCPV4,
            hdr_len: 54,
            gso_size: 1448,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        };
        for n in 0..6 {
            let sent = segment(n);
            assert!(a.tx().send(header, &sent, WHOLE));
            a.tx().flush();
            let got = arrived(&mut bed, b);
            assert_eq!(got.len(), 1, "frame {n}: {:?}", bed.drops());
            assert!(got[0].frame == sent, "frame {n}: other bytes");
            assert_eq!(
                (got[0].header.gso_type, got[0].header.gso_size),
                (gso::TCPV4, 1448)
            );
            assert_eq!(a.tx().reap(), 1);
            b.rx().fill(4000, WHOLE);
            b.rx().flush();
        }
        assert_eq!(bed.drops(), Default::default());
        bed.finish();
        taken.into_iter().for_each(Frame::free_to_depot);
        assert_eq!(umem.depot_chunks(), 64, "a chunk was lost");
    }
}

/// However many queue pairs a guest has on a worker: in a turn they give what one would. Other ports give no less, nor does
/// a pair that is left alone.
#[test]
fn pairs_of_a_port_on_one_worker_share_a_turn() {
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks: 2048,
        huge_pages: HugePages::Off,
    };
    let umem = Umem::new(geometry).expect("memory");
    let mut bed = Bed::new(1, 0);
    bed.engine.add_region(&umem).expect("region");
    let mut guests: Vec<_> = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
        .into_iter()
        .map(|(port, queue)| {
            let guest = Guest::new(&GuestOptions {
                tx_size: 1024,
                ..GuestOptions::default()
            });
            let io = VhostPort::new(config(&guest), &umem).expect("a port");
            let io = AnyPort::Vhost(Box::new(io));
            let added = bed
                .engine
                .add_queue(WorkerId(0), PortId(port), queue, io, Some(umem.id()));
            added.expect("queue");
            guest
        })
        .collect();
    bed.publish();
    for guest in &mut guests {
        for _ in 0..1000 {
            assert!(
                guest
                    .tx()
                    .send(NetHeader::default(), &frame(mac(1), mac(2)), WHOLE)
            );
        }
        guest.tx().flush();
    }
    let mut given = |bed: &mut Bed| -> Vec<usize> {
        bed.workers[0].turn();
        guests.iter_mut().map(|guest| guest.tx().reap()).collect()
    };
    assert_eq!(given(&mut bed), [32, 32, 32, 32, 128]);
    assert_eq!(given(&mut bed), [32, 32, 32, 32, 128]);
    for queue in 1..4 {
        bed.engine.remove_queue(PortId(0), queue).expect("there");
    }
    assert_eq!(given(&mut bed), [128, 0, 0, 0, 128]);
    bed.finish();
}

/// What arrives at a guest. Queues that had nothing for a while are not looked at in every turn.
fn arrived(bed: &mut Bed, guest: &mut Guest) -> Vec<Received> {
    for _ in 0..1000 {
        bed.turn();
        let got = received(guest.rx());
        if !got.is_empty() {
            return got;
        }
    }
    Vec::new()
}

/// 64,000 bytes of TCP over IPv4 from station 1 to station 2, to be cut up by whoever has to.
fn segment(n: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac(1).0, mac(2).0)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(1000, 2000, n as u32, 1024);
    let mut bytes = Vec::new();
    builder
        .write(&mut bytes, &guests::frame(n, 64_000))
        .expect("a packet");
    bytes
}
