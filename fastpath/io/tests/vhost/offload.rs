//! What a guest leaves undone crosses to another guest untouched.

use super::bed::{Bed, GuestOptions, WHOLE, frame, received};
use clearway_io::{FrameBatch, Offload, Offloads, Port};
use clearway_virtio_mock::{NetHeader, Shape, feature, gso, header_flag};

/// Ethernet, IPv4 or IPv6, TCP or UDP, as far as the header is checked against them.
fn packet(version: u8, protocol: u8, len: usize) -> (Vec<u8>, u16) {
    let mut packet = frame(usize::from(version), len);
    let start = if version == 4 { 34 } else { 54 };
    packet[12..14].copy_from_slice(if version == 4 { &[8, 0] } else { &[0x86, 0xdd] });
    packet[14] = if version == 4 { 0x45 } else { 0x60 };
    packet[if version == 4 { 23 } else { 20 }] = protocol;
    packet[start + 12] = 8 << 4;
    (packet, start as u16)
}

struct Case {
    what: &'static str,
    version: u8,
    protocol: u8,
    gso_type: u8,
    gso_size: u16,
    field: u16,
    needs: Offloads,
    hdr_len: u16,
}

fn cases() -> Vec<Case> {
    let case = |what, version, protocol, gso_type, gso_size, kind: Offloads| {
        let (field, l4) = if protocol == 6 { (16, 32) } else { (6, 8) };
        let start = if version == 4 { 34 } else { 54 };
        Case {
            what,
            version,
            protocol,
            gso_type,
            gso_size,
            field,
            needs: Offloads::CHECKSUM | kind,
            hdr_len: if gso_type == gso::NONE { 0 } else { start + l4 },
        }
    };
    vec![
        case("TCP checksum", 4, 6, gso::NONE, 0, Offloads::empty()),
        case("UDP checksum", 6, 17, gso::NONE, 0, Offloads::empty()),
        case("TSO4", 4, 6, gso::TCPV4, 1448, Offloads::TSO4),
        case("TSO6", 6, 6, gso::TCPV6, 1428, Offloads::TSO6),
        case(
            "TSO4 with ECN",
            4,
            6,
            gso::TCPV4 | gso::ECN,
            1448,
            Offloads::TSO4 | Offloads::ECN,
        ),
        case("UFO over IPv4", 4, 17, gso::UDP, 1480, Offloads::UFO),
        case("UFO over IPv6", 6, 17, gso::UDP, 1448, Offloads::UFO),
        case("USO4", 4, 17, gso::UDP_L4, 1472, Offloads::USO4),
        case("USO6", 6, 17, gso::UDP_L4, 1452, Offloads::USO6),
    ]
}

#[test]
fn every_kind_of_work_crosses_untouched() {
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(256);
        let features =
            feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | feature::OFFLOADS | packed;
        let options = GuestOptions {
            features,
            ..GuestOptions::default()
        };
        let (mut a, mut from) = bed.guest(&options);
        let (mut b, mut to) = bed.guest(&options);
        let all = Offloads::GSO | Offloads::CHECKSUM | Offloads::ECN;
        assert_eq!(to.offloads(), all);
        for case in cases() {
            for len in [100, 1514, 9000, 65_549] {
                for shape in [
                    WHOLE,
                    Shape { header: 12, ..WHOLE },
                    Shape {
                        header: 4,
                        data: 3000,
                        indirect: true,
                    },
                ] {
                    let (sent, start) = packet(case.version, case.protocol, len);
                    let header = NetHeader {
                        flags: header_flag::NEEDS_CSUM,
                        gso_type: case.gso_type,
                        hdr_len: case.hdr_len,
                        gso_size: case.gso_size,
                        csum_start: start,
                        csum_offset: case.field,
                        num_buffers: 0,
                    };
                    let what = format!("{} of {len} bytes in {shape:?}", case.what);
                    // Seen by a stage…
                    assert!(a.tx().send(header, &sent, shape));
                    a.tx().flush();
                    let mut batch = FrameBatch::new();
                    assert_eq!(from.rx_batch(&mut bed.pools, &mut batch), 1, "{what}");
                    let offload = Offload {
                        needs: case.needs,
                        start,
                        field: case.field,
                        gso_size: case.gso_size,
                    };
                    assert_eq!(batch[0].offload(), Some(offload), "{what}");
                    assert!(super::bed::bytes(&batch[0]) == sent, "{what}");
                    batch.drain(..).for_each(|frame| bed.pools.free(frame));
                    from.rx_done();
                    // …and by the other guest.
                    b.rx().fill(2000, WHOLE);
                    b.rx().flush();
                    assert!(a.tx().send(header, &sent, shape));
                    a.tx().flush();
                    assert_eq!(bed.forward(&mut from, &mut to).1.packets, 1, "{what}");
                    assert_eq!(a.tx().reap(), 2, "{what}");
                    let got = received(b.rx()).pop().expect("a frame");
                    assert!(got.frame == sent, "{what}: other bytes");
                    let num_buffers = got.buffers as u16;
                    assert_eq!(
                        got.header,
                        NetHeader {
                            num_buffers,
                            ..header
                        },
                        "{what}"
                    );
                }
            }
        }
        assert_eq!(from.rx_lost(), Default::default());
        drop((from, to));
        bed.finish();
    }
}

#[test]
fn a_checksum_that_is_valid_is_nothing_undone() {
    let mut bed = Bed::new(64);
    let (mut guest, mut port) = bed.guest(&GuestOptions::default());
    let header = NetHeader {
        flags: header_flag::DATA_VALID,
        csum_start: 7,
        csum_offset: 9,
        ..NetHeader::default()
    };
    assert!(guest.tx().send(header, &frame(1, 60), WHOLE));
    guest.tx().flush();
    let mut batch = FrameBatch::new();
    assert_eq!(port.rx_batch(&mut bed.pools, &mut batch), 1);
    assert_eq!((batch[0].offload(), batch[0].needs()), (None, Offloads::empty()));
    batch.drain(..).for_each(|frame| bed.pools.free(frame));
    drop(port);
    bed.finish();
}

#[test]
fn a_receiver_takes_what_it_said_and_nothing_without_checksums() {
    let bed = Bed::new(64);
    let offers = [
        (0, Offloads::empty()),
        (feature::GUEST_CSUM, Offloads::CHECKSUM),
        (
            feature::GUEST_CSUM | feature::GUEST_TSO4,
            Offloads::CHECKSUM | Offloads::TSO4,
        ),
        (
            feature::GUEST_CSUM | feature::GUEST_USO6,
            Offloads::CHECKSUM | Offloads::USO6,
        ),
        (feature::GUEST_TSO4 | feature::GUEST_UFO, Offloads::empty()),
        (feature::CSUM | feature::HOST_TSO4, Offloads::empty()),
    ];
    for (features, offloads) in offers {
        let options = GuestOptions {
            features: features | feature::VERSION_1,
            ..GuestOptions::default()
        };
        let (_guest, port) = bed.guest(&options);
        assert_eq!(port.offloads(), offloads, "{features:#x}");
    }
    bed.finish();
}

/// Buffers of the guest hold the headers of what it received before: what is not undone says so.
#[test]
fn old_headers_do_not_shine_through() {
    let mut bed = Bed::new(64);
    let (mut guest, mut port) = bed.guest(&GuestOptions::default());
    for round in 0..3u8 {
        let at = guest.ram.alloc(512);
        guest.ram.write(at, &[0xff - round; 512]);
        let segment = clearway_virtio_mock::Segment {
            addr: at,
            len: 512,
            writable: true,
        };
        guest.rx().ring.add(&[segment], false).expect("room");
        guest.rx().flush();
        assert_eq!(bed.transmit(&mut port, &[frame(1, 60)]).0.packets, 1);
        assert!(guest.rx().ring.used().is_some());
        assert_eq!(guest.ram.bytes(at, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(guest.ram.bytes(at + 12, 60), frame(1, 60));
        assert_eq!(
            guest.ram.bytes(at + 72, 440),
            vec![0xff - round; 440],
            "behind the frame"
        );
    }
    drop(port);
    bed.finish();
}
