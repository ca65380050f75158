//! Split rings whose indices lie.

use crate::scene::{Behaviour, Expect, Kind, Scene, readable, writable};
use clearway_virtio_mock::{Ring, SplitRing};

fn tx(s: &mut Scene) -> &mut SplitRing {
    match &mut s.guest.tx().ring {
        Ring::Split(ring) => ring,
        Ring::Packed(_) => panic!("split only"),
    }
}

fn rx(s: &mut Scene) -> &mut SplitRing {
    match &mut s.guest.rx().ring {
        Ring::Split(ring) => ring,
        Ring::Packed(_) => panic!("split only"),
    }
}

const JUMP: Expect = Expect::Fault("the available index jumped");

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "transmit_index_jumps",
        does: "moves the available index of what it sends one further than the ring is long",
        expect: JUMP,
        kind: Kind::Split,
        act: |s| tx(s).set_avail_index(65),
    },
    Behaviour {
        name: "transmit_index_backwards",
        does: "moves the available index of what it sends back by one",
        expect: JUMP,
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&[readable(at, 112)]);
            s.turn();
            tx(s).set_avail_index(0);
        },
    },
    Behaviour {
        name: "transmit_index_half_way_round",
        does: "moves the available index by 32768",
        expect: JUMP,
        kind: Kind::Split,
        act: |s| tx(s).set_avail_index(0x8000),
    },
    Behaviour {
        name: "receive_index_jumps",
        does: "moves the available index of what it receives into further than the ring is long",
        expect: Expect::Fault("its receive queue: the available index jumped"),
        kind: Kind::Split,
        act: |s| rx(s).set_avail_index(65),
    },
    Behaviour {
        name: "receive_index_backwards",
        does: "takes buffers back that it had made available",
        expect: Expect::Fault("its receive queue: the available index jumped"),
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(2000);
            s.receives(&[writable(at, 2000)]);
            s.turn();
            rx(s).set_avail_index(0);
        },
    },
    Behaviour {
        name: "transmit_head_is_the_size",
        does: "names the first descriptor behind the table as available",
        expect: Expect::Fault("names descriptor 64 of a ring of 64"),
        kind: Kind::Split,
        act: |s| {
            tx(s).put_head(64);
            tx(s).set_avail_index(1);
        },
    },
    Behaviour {
        name: "transmit_head_far_outside",
        does: "names descriptor 65535 as available, behind a good one",
        expect: Expect::Fault("names descriptor 65535 of a ring of 64"),
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&[readable(at, 112)]);
            tx(s).put_head(65_535);
            tx(s).set_avail_index(2);
        },
    },
    Behaviour {
        name: "receive_head_outside",
        does: "names descriptor 40000 as available to receive into",
        expect: Expect::Fault("its receive queue: the available ring names descriptor 40000"),
        kind: Kind::Split,
        act: |s| {
            rx(s).put_head(40_000);
            rx(s).set_avail_index(1);
        },
    },
    Behaviour {
        name: "one_head_ten_times",
        does: "makes one descriptor available ten times at once",
        expect: Expect::Harmless,
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            let places = s.sends(&[readable(at, 112)]);
            for _ in 1..10 {
                tx(s).put_head(places[0]);
            }
            tx(s).set_avail_index(10);
            s.turn();
            assert_eq!((s.forwarded, tx(s).used_index()), (10, 10), "each time is a time");
        },
    },
    Behaviour {
        name: "receive_head_ten_times",
        does: "makes one descriptor available ten times to receive into",
        expect: Expect::Harmless,
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(2000);
            let places = s.receives(&[writable(at, 2000)]);
            for _ in 1..10 {
                rx(s).put_head(places[0]);
            }
            rx(s).set_avail_index(10);
            s.turn();
            assert_eq!((s.delivered, rx(s).used_index()), (1, 1));
        },
    },
    Behaviour {
        name: "heads_in_the_middle_of_chains",
        does: "makes the second descriptor of a chain available as well",
        expect: Expect::Harmless,
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            let places = s.sends(&crate::scene::linked(vec![readable(at, 112); 3]));
            tx(s).put_head(places[1]);
            tx(s).set_avail_index(2);
            s.turn();
            assert_eq!(s.forwarded, 2);
        },
    },
    Behaviour {
        name: "index_without_entries",
        does: "makes a whole ring available in which nothing was written",
        expect: Expect::Harmless,
        kind: Kind::Split,
        act: |s| {
            tx(s).set_avail_index(64);
            s.turn();
            let lost = s
                .port
                .as_mut()
                .map(clearway_io::Port::rx_lost)
                .unwrap_or_default();
            assert_eq!((s.forwarded, lost.invalid, tx(s).used_index()), (0, 64, 64));
        },
    },
    Behaviour {
        name: "used_index_overwritten",
        does: "writes the device's used index: the device knows its own",
        expect: Expect::Harmless,
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            let used = tx(s).parts()[2];
            for n in 1..=3u16 {
                s.guest.ram.write(used + 2, &[0x77, 0x77]);
                s.sends(&[readable(at, 112)]);
                s.turn();
                assert_eq!((s.forwarded, tx(s).used_index()), (n.into(), n));
            }
        },
    },
    Behaviour {
        name: "used_ring_overwritten",
        does: "fills the device's used ring with garbage",
        expect: Expect::Served(1),
        kind: Kind::Split,
        act: |s| {
            let (at, used) = (s.buffer(100), tx(s).parts()[2]);
            s.guest.ram.write(used + 4, &[0xee; 8 * 64]);
            s.sends(&[readable(at, 112)]);
        },
    },
    Behaviour {
        name: "starts_with_a_used_index_of_its_own",
        does: "has another used than available index when the ring is started",
        expect: JUMP,
        kind: Kind::Split,
        act: |s| {
            let used = tx(s).parts()[2];
            s.guest.ram.write(used + 2, &[0x34, 0x12]);
            s.reopen(|_| {});
        },
    },
];
