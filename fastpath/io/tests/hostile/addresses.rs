//! Descriptors that point to what is not theirs.

use crate::bed::frame;
use crate::scene::{Behaviour, Expect, Kind, Scene, linked, readable, writable};
use clearway_io::{GuestMemory, GuestShare, VhostConfig};
use std::sync::Arc;

const OUTSIDE: Expect = Expect::Fault("which are not in the guest's memory");

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "transmit_address_nowhere",
        does: "sends a buffer at an address below all memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.sends(&[readable(0x10, 100)]),
    },
    Behaviour {
        name: "transmit_address_behind_the_end",
        does: "sends a buffer that begins at the first byte behind all memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let end = s.guest.ram.end();
            s.sends(&[readable(end, 100)]);
        },
    },
    Behaviour {
        name: "transmit_buffer_over_the_end",
        does: "sends a buffer whose last byte is behind all memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let end = s.guest.ram.end();
            s.sends(&[readable(end - 99, 100)]);
        },
    },
    Behaviour {
        name: "transmit_buffer_at_the_very_end",
        does: "sends a buffer whose last byte is the last of all memory: that is allowed",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| {
            let end = s.guest.ram.end();
            s.guest.ram.write(end - 100, &[0; 100]);
            s.sends(&[readable(end - 100, 100)]);
        },
    },
    Behaviour {
        name: "transmit_address_wraps_around",
        does: "sends a buffer that goes from the last address to the first",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.sends(&[readable(u64::MAX - 50, 100)]),
    },
    Behaviour {
        name: "transmit_last_address",
        does: "sends a buffer at the last address there is",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.sends(&[readable(u64::MAX, 1)]),
    },
    Behaviour {
        name: "transmit_length_of_4_gib",
        does: "sends a buffer of 4294967295 bytes at a good address",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&[readable(at, u32::MAX)]);
        },
    },
    Behaviour {
        name: "transmit_length_zero",
        does: "sends a buffer of no bytes",
        expect: Expect::Dropped(1),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&[readable(at, 0)]);
        },
    },
    Behaviour {
        name: "transmit_length_zero_nowhere",
        does: "sends a buffer of no bytes outside its memory",
        expect: Expect::Dropped(1),
        kind: Kind::Both,
        act: |s| _ = s.sends(&[readable(u64::MAX, 0)]),
    },
    Behaviour {
        name: "transmit_front_end_address",
        does: "sends a buffer at an address of the front-end's process",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            let user = s.guest.ram.user(at);
            s.sends(&[readable(user, 112)]);
        },
    },
    Behaviour {
        name: "transmit_chain_with_one_part_outside",
        does: "sends a chain of which the last part is outside",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let (at, end) = (s.buffer(600), s.guest.ram.end());
            s.sends(&linked(vec![readable(at, 612), readable(end, 4)]));
        },
    },
    Behaviour {
        name: "transmit_from_a_hole",
        does: "sends a buffer in a region that was not shared",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| hole(s, |s, hole| _ = s.sends(&[readable(hole + 10, 200)])),
    },
    Behaviour {
        name: "transmit_across_a_hole",
        does: "sends a buffer from one region over a hole into another",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| hole(s, |s, hole| _ = s.sends(&[readable(hole - 100, (1 << 20) + 200)])),
    },
    Behaviour {
        name: "receive_into_a_hole",
        does: "has a frame written into a region that was not shared",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| hole(s, |s, hole| _ = s.receives(&[writable(hole - 40, 2000)])),
    },
    Behaviour {
        name: "receive_address_nowhere",
        does: "has a frame written below all memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.receives(&[writable(0, 2000)]),
    },
    Behaviour {
        name: "receive_buffer_over_the_end",
        does: "has a frame written over the end of all memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let end = s.guest.ram.end();
            s.receives(&[writable(end - 1999, 2000)]);
        },
    },
    Behaviour {
        name: "receive_address_wraps_around",
        does: "has a frame written from the last address to the first",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.receives(&[writable(u64::MAX - 50, 2000)]),
    },
    Behaviour {
        name: "receive_length_of_4_gib",
        does: "offers a buffer of 4294967295 bytes at a good address",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.receives(&[writable(at, u32::MAX)]);
        },
    },
    Behaviour {
        name: "receive_into_the_rings",
        does: "has frames written over its own rings",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            let parts = [s.guest.tx().ring.parts(), s.guest.rx().ring.parts()];
            for part in parts.into_iter().flatten() {
                s.receives(&[writable(part, 2000)]);
            }
        },
    },
    Behaviour {
        name: "transmit_the_rings",
        does: "sends its own rings",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            for part in s.guest.tx().ring.parts() {
                s.sends(&[readable(part, 1500)]);
            }
        },
    },
    Behaviour {
        name: "receive_into_what_it_sends",
        does: "offers one buffer for sending and for receiving at once",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(1000);
            for _ in 0..4 {
                s.sends(&[readable(at, 1012)]);
                s.receives(&[writable(at, 1012)]);
            }
        },
    },
    Behaviour {
        name: "receive_into_what_is_being_sent_to_itself",
        does: "sends to itself, by way of another VLAN, into the very bytes that it sends",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            // Below, at and above the frame, which is held but for its head.
            for shift in [0, 1, 100, 300, 1000] {
                let at = s.guest.ram.take(20_000, 64) + 2000;
                for to in [at - shift, at + shift] {
                    s.guest.ram.write(at, &[&[0; 12][..], &frame(1, 6000)].concat());
                    s.sends(&[readable(at, 6012)]);
                    s.receives(&linked(vec![writable(to, 700), writable(to + 700, 6000)]));
                    s.hairpin();
                }
            }
            assert_eq!(s.forwarded, 10);
        },
    },
];

/// Shares all regions but the second, whose address is given.
fn hole(s: &mut Scene, act: impl FnOnce(&mut Scene, u64)) {
    let regions: Vec<_> = [0, 2]
        .iter()
        .map(|&i| &s.guest.ram.regions()[i])
        .map(|r| (crate::bed::region(r), r.fd()))
        .collect();
    let memory = Arc::new(GuestMemory::map(&GuestShare::new(), regions).expect("memory"));
    s.reopen(|config: &mut VhostConfig| config.memory = memory);
    let hole = s.guest.ram.regions()[1].guest;
    act(s, hole);
}
