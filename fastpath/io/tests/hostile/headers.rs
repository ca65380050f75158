//! Headers that contradict themselves or their frames.

use crate::bed::{GuestOptions, WHOLE, frame};
use crate::scene::{Behaviour, Expect, Kind, Scene, options, readable};
use clearway_virtio_mock::{NetHeader, Shape, gso, header_flag};

/// A good TCP frame over IPv4 of this length.
fn tcp(len: usize) -> Vec<u8> {
    let mut packet = frame(3, len);
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    packet[23] = 6;
    packet[46] = 5 << 4;
    packet
}

/// What belongs before it, if it is to be cut up.
const TSO: NetHeader = NetHeader {
    flags: header_flag::NEEDS_CSUM,
    gso_type: gso::TCPV4,
    hdr_len: 54,
    gso_size: 1000,
    csum_start: 34,
    csum_offset: 16,
    num_buffers: 0,
};

fn sends(s: &mut Scene, header: NetHeader, frame: &[u8], shape: Shape) {
    assert!(s.guest.tx().send(header, frame, shape));
    s.guest.tx().flush();
}

/// One frame behind each header.
fn all(s: &mut Scene, len: usize, headers: &[NetHeader]) {
    for header in headers {
        sends(s, *header, &tcp(len), WHOLE);
        sends(s, *header, &tcp(len), Shape { header: 12, ..WHOLE });
    }
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "header_cut_short",
        does: "sends buffers of 1, 10 and 11 bytes, which hold no header",
        expect: Expect::Dropped(3),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            for len in [1, 10, 11] {
                s.sends(&[readable(at, len)]);
            }
        },
    },
    Behaviour {
        name: "header_and_no_frame",
        does: "sends a header with nothing behind it",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            sends(s, NetHeader::default(), &[], WHOLE);
            sends(s, NetHeader::default(), &[], Shape { header: 5, ..WHOLE });
        },
    },
    Behaviour {
        name: "frame_of_one_byte",
        does: "sends a frame of one byte: the engine drops it as truncated",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| sends(s, NetHeader::default(), &[1], WHOLE),
    },
    Behaviour {
        name: "header_in_single_bytes",
        does: "sends a header in twelve descriptors: that is allowed",
        expect: Expect::Served(2),
        kind: Kind::Both,
        act: |s| {
            sends(
                s,
                NetHeader::default(),
                &frame(1, 300),
                Shape { header: 1, ..WHOLE },
            );
            sends(
                s,
                TSO,
                &tcp(3000),
                Shape {
                    header: 1,
                    data: 100,
                    indirect: true,
                },
            );
        },
    },
    Behaviour {
        name: "header_flags_that_nobody_knows",
        does: "sets all flags of the header but the known one: they are passed over",
        expect: Expect::Served(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                300,
                &[NetHeader {
                    flags: 0xfe,
                    ..NetHeader::default()
                }],
            )
        },
    },
    Behaviour {
        name: "header_numbers_that_mean_nothing",
        does: "fills in sizes that count only with flags that are not set, and num_buffers",
        expect: Expect::Served(2),
        kind: Kind::Both,
        act: |s| {
            let header = NetHeader {
                hdr_len: 0xffff,
                gso_size: 0xffff,
                csum_start: 0xffff,
                csum_offset: 0xffff,
                num_buffers: 0xffff,
                ..NetHeader::default()
            };
            all(s, 300, &[header]);
        },
    },
    Behaviour {
        name: "header_length_lies",
        does: "says that a large packet's headers are 0 or 65535 bytes long: nobody believes it",
        expect: Expect::Served(4),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[
                    NetHeader { hdr_len: 0, ..TSO },
                    NetHeader {
                        hdr_len: 0xffff,
                        ..TSO
                    },
                ],
            )
        },
    },
    Behaviour {
        name: "gso_type_unknown",
        does: "sends large packets of kinds that there are not",
        expect: Expect::Dropped(6),
        kind: Kind::Both,
        act: |s| {
            let kind = |gso_type| NetHeader { gso_type, ..TSO };
            all(s, 3000, &[kind(2), kind(0x7f), kind(gso::ECN)]);
        },
    },
    Behaviour {
        name: "gso_size_zero",
        does: "sends large packets to be cut into pieces of 0 bytes",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| all(s, 3000, &[NetHeader { gso_size: 0, ..TSO }]),
    },
    Behaviour {
        name: "gso_size_of_the_kernels_own",
        does: "sends large packets to be cut into pieces of 65535 bytes, which Linux takes for something else",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[NetHeader {
                    gso_size: 0xffff,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "gso_without_a_checksum",
        does: "sends large packets that do not say where their checksum is",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| all(s, 3000, &[NetHeader { flags: 0, ..TSO }]),
    },
    Behaviour {
        name: "gso_of_the_other_ip",
        does: "says that an IPv4 packet is a large one of IPv6",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[NetHeader {
                    gso_type: gso::TCPV6,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "gso_of_no_ip",
        does: "says that a frame of another EtherType is a large TCP packet",
        expect: Expect::Dropped(1),
        kind: Kind::Both,
        act: |s| sends(s, TSO, &frame(1, 3000), WHOLE),
    },
    Behaviour {
        name: "gso_with_tcp_marks_on_udp",
        does: "sends a large UDP packet with TCP's congestion mark",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[NetHeader {
                    gso_type: gso::UDP_L4 | gso::ECN,
                    csum_offset: 6,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "gso_checksum_elsewhere",
        does: "says that a large TCP packet's checksum is where UDP has its",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[NetHeader {
                    csum_offset: 6,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "gso_without_its_headers",
        does: "sends a large packet that ends in its TCP header",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| all(s, 53, &[TSO]),
    },
    Behaviour {
        name: "checksum_in_the_ip_header",
        does: "has a large packet's L4 header begin inside its IP header",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[NetHeader {
                    csum_start: 20,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "checksum_behind_the_frame",
        does: "has a checksum to be written behind the frame, by one byte and by far",
        expect: Expect::Dropped(8),
        kind: Kind::Both,
        act: |s| {
            let at = |csum_start, csum_offset| NetHeader {
                flags: header_flag::NEEDS_CSUM,
                csum_start,
                csum_offset,
                ..NetHeader::default()
            };
            all(
                s,
                100,
                &[at(34, 65), at(99, 0), at(60_000, 16), at(0xffff, 0xffff)],
            );
        },
    },
    Behaviour {
        name: "checksum_in_the_ethernet_header",
        does: "has a checksum begin in the Ethernet header",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                300,
                &[NetHeader {
                    csum_start: 13,
                    gso_type: 0,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "checksum_behind_all_headers",
        does: "has a checksum written further back than any header is",
        expect: Expect::Dropped(2),
        kind: Kind::Both,
        act: |s| {
            all(
                s,
                3000,
                &[NetHeader {
                    csum_start: 250,
                    csum_offset: 16,
                    gso_type: 0,
                    ..TSO
                }],
            )
        },
    },
    Behaviour {
        name: "every_header_there_is",
        does: "sends 4096 headers of random bytes",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            s.restart(&GuestOptions {
                tx_size: 128,
                ..options(s.packed)
            });
            for round in 0..64 {
                for i in 0..64 {
                    let bytes = frame(round * 64 + i, 26);
                    let header = NetHeader::from_bytes(&bytes[14..]);
                    sends(s, header, &tcp(60 + i * 20), WHOLE);
                }
                let before = s.forwarded;
                s.turn();
                let lost = s
                    .port
                    .as_mut()
                    .map(clearway_io::Port::rx_lost)
                    .unwrap_or_default();
                assert!(s.forwarded - before <= 64);
                assert_eq!(
                    s.forwarded + lost.invalid,
                    64 * (round as u64 + 1),
                    "each received or counted"
                );
                assert_eq!(s.guest.tx().reap(), 64);
            }
        },
    },
];
