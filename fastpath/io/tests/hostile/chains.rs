//! Chains and indirect tables that are none.

use crate::bed::{Guest, GuestOptions};
use crate::scene::{Behaviour, Expect, FEATURES, Kind, Scene, indirect, linked, options, readable, writable};
use clearway_virtio_mock::{Raw, Ring, desc_flag, feature};

const TOO_LONG: Expect = Expect::Fault("longer than the ring's 64 entries");
const OUTSIDE: Expect = Expect::Fault("which are not in the guest's memory");
const LENGTH: Expect = Expect::Fault("it must be of 16 bytes for each of at least one entry");

/// Has a split ring's descriptor go on at another.
fn link(s: &Scene, from: u16, raw: Raw, to: u16) {
    if let Ring::Split(ring) = &s.guest.pairs[0].tx.ring {
        ring.put_descriptor(from, raw.addr, raw.len, raw.flags | desc_flag::NEXT, to);
    }
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "chain_to_itself",
        does: "sends a descriptor whose next one is itself",
        expect: TOO_LONG,
        kind: Kind::Split,
        act: |s| {
            let raw = readable(s.buffer(100), 112);
            let places = s.sends(&[raw]);
            link(s, places[0], raw, places[0]);
        },
    },
    Behaviour {
        name: "chain_in_a_circle",
        does: "sends three descriptors of which the last goes on at the second",
        expect: TOO_LONG,
        kind: Kind::Split,
        act: |s| {
            let raw = readable(s.buffer(100), 112);
            let places = s.sends(&linked(vec![raw; 3]));
            link(s, places[2], raw, places[1]);
        },
    },
    Behaviour {
        name: "chain_in_a_circle_of_no_bytes",
        does: "sends empty descriptors in a circle",
        expect: TOO_LONG,
        kind: Kind::Split,
        act: |s| {
            let raw = readable(s.buffer(100), 0);
            let places = s.sends(&linked(vec![raw; 2]));
            link(s, places[1], raw, places[0]);
        },
    },
    Behaviour {
        name: "receive_chain_in_a_circle",
        does: "offers a buffer to receive into that goes round in circles",
        expect: TOO_LONG,
        kind: Kind::Split,
        act: |s| {
            let raw = writable(s.buffer(100), 20);
            let places = s.receives(&linked(vec![raw; 2]));
            if let Ring::Split(ring) = &s.guest.pairs[0].rx.ring {
                ring.put_descriptor(
                    places[1],
                    raw.addr,
                    raw.len,
                    raw.flags | desc_flag::NEXT,
                    places[0],
                );
            }
        },
    },
    Behaviour {
        name: "chain_without_an_end",
        does: "makes every descriptor of the ring go on",
        expect: TOO_LONG,
        kind: Kind::Packed,
        act: |s| {
            let raw = Raw {
                flags: desc_flag::NEXT,
                ..readable(s.buffer(100), 112)
            };
            s.sends(&[raw; 64]);
        },
    },
    Behaviour {
        name: "chain_next_is_the_size",
        does: "has a descriptor go on at the first one behind the table",
        expect: Expect::Fault("goes on at 64 in a table of 64"),
        kind: Kind::Split,
        act: |s| {
            let raw = readable(s.buffer(100), 112);
            let places = s.sends(&[raw]);
            link(s, places[0], raw, 64);
        },
    },
    Behaviour {
        name: "chain_next_far_outside",
        does: "has a descriptor go on at 65535",
        expect: Expect::Fault("goes on at 65535 in a table of 64"),
        kind: Kind::Split,
        act: |s| {
            let raw = readable(s.buffer(100), 112);
            let places = s.sends(&linked(vec![raw; 2]));
            link(s, places[1], raw, 65_535);
        },
    },
    Behaviour {
        name: "indirect_not_negotiated",
        does: "uses an indirect table without having said so",
        expect: Expect::Fault("an indirect descriptor, which was not negotiated"),
        kind: Kind::Both,
        act: |s| {
            let features = FEATURES & !feature::INDIRECT_DESC;
            let packed = options(s.packed).features & feature::RING_PACKED;
            s.restart(&GuestOptions {
                features: features | packed,
                ..options(s.packed)
            });
            let part = readable(s.buffer(100), 112);
            let table = s.table(&[part]);
            s.sends(&[indirect(table, 16)]);
        },
    },
    Behaviour {
        name: "indirect_in_indirect",
        does: "has an indirect table's entry point to another table",
        expect: Expect::Fault("an indirect descriptor within an indirect table"),
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 112);
            let inner = s.table(&[part]);
            let outer = s.table(&[indirect(inner, 16)]);
            s.sends(&[indirect(outer, 16)]);
        },
    },
    Behaviour {
        name: "indirect_table_of_itself",
        does: "has an indirect table's entry point to the table itself",
        expect: Expect::Fault("an indirect descriptor within an indirect table"),
        kind: Kind::Both,
        act: |s| {
            let table = s.table(&[indirect(0, 16)]);
            s.entry(table, 0, indirect(table, 16), 0);
            s.sends(&[indirect(table, 16)]);
        },
    },
    Behaviour {
        name: "indirect_length_not_of_16",
        does: "gives an indirect table 24 bytes",
        expect: LENGTH,
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 112);
            let table = s.table(&[part, part]);
            s.sends(&[indirect(table, 24)]);
        },
    },
    Behaviour {
        name: "indirect_length_zero",
        does: "gives an indirect table no bytes",
        expect: LENGTH,
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 112);
            let table = s.table(&[part]);
            s.sends(&[indirect(table, 0)]);
        },
    },
    Behaviour {
        name: "indirect_length_of_4_gib",
        does: "gives an indirect table 4294967280 bytes",
        expect: TOO_LONG,
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 112);
            let table = s.table(&[part]);
            s.sends(&[indirect(table, u32::MAX - 15)]);
        },
    },
    Behaviour {
        name: "indirect_longer_than_the_ring",
        does: "gives an indirect table one entry more than the ring has",
        expect: TOO_LONG,
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 1);
            let table = s.table(&linked(vec![part; 65]));
            s.sends(&[indirect(table, 65 * 16)]);
        },
    },
    Behaviour {
        name: "indirect_and_next",
        does: "has a descriptor that points to a table go on as well",
        expect: Expect::Fault("an indirect descriptor that has a next one"),
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 112);
            let table = s.table(&[part]);
            s.sends(&linked(vec![indirect(table, 16), part]));
        },
    },
    Behaviour {
        name: "indirect_table_nowhere",
        does: "points to an indirect table outside its memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.sends(&[indirect(0x1000, 32)]),
    },
    Behaviour {
        name: "indirect_table_over_the_end",
        does: "points to an indirect table whose second entry is outside",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let (part, end) = (readable(s.buffer(100), 112), s.guest.ram.end());
            s.entry(
                end - 16,
                0,
                Raw {
                    flags: desc_flag::NEXT,
                    ..part
                },
                1,
            );
            s.sends(&[indirect(end - 16, 32)]);
        },
    },
    Behaviour {
        name: "indirect_table_wraps_around",
        does: "points to an indirect table at the last address",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| _ = s.sends(&[indirect(u64::MAX - 15, 32)]),
    },
    Behaviour {
        name: "indirect_table_in_a_circle",
        does: "has an indirect table's second entry go on at the first",
        expect: TOO_LONG,
        kind: Kind::Split,
        act: |s| {
            let part = readable(s.buffer(100), 50);
            let table = s.table(&linked(vec![part; 2]));
            s.entry(
                table,
                1,
                Raw {
                    flags: desc_flag::NEXT,
                    ..part
                },
                0,
            );
            s.sends(&[indirect(table, 32)]);
        },
    },
    Behaviour {
        name: "indirect_next_outside_the_table",
        does: "has an indirect table's entry go on behind the table",
        expect: Expect::Fault("goes on at 2 in a table of 2"),
        kind: Kind::Split,
        act: |s| {
            let part = readable(s.buffer(100), 50);
            let table = s.table(&linked(vec![part; 3]));
            s.sends(&[indirect(table, 32)]);
        },
    },
    Behaviour {
        name: "indirect_entry_nowhere",
        does: "has an indirect table's entry point outside its memory",
        expect: OUTSIDE,
        kind: Kind::Both,
        act: |s| {
            let table = s.table(&[readable(0x1000, 100)]);
            s.sends(&[indirect(table, 16)]);
        },
    },
    Behaviour {
        name: "chain_of_no_bytes",
        does: "sends a chain of five empty descriptors",
        expect: Expect::Dropped(1),
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.buffer(100), 0);
            s.sends(&linked(vec![part; 5]));
        },
    },
    Behaviour {
        name: "empty_descriptors_among_others",
        does: "sends a frame with empty descriptors before, in and behind it: that is allowed",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(1000);
            let (none, some) = (readable(at, 0), |from, len| readable(at + from, len));
            s.sends(&linked(vec![
                none,
                some(0, 7),
                none,
                none,
                some(7, 300),
                some(307, 705),
                none,
            ]));
        },
    },
    Behaviour {
        name: "writable_in_transmit",
        does: "sends a buffer that the device is to write",
        expect: Expect::Fault("a buffer to transmit that the device is to write"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&[writable(at, 112)]);
        },
    },
    Behaviour {
        name: "writable_behind_readable_in_transmit",
        does: "sends a chain whose end the device is to write",
        expect: Expect::Fault("a buffer to transmit that the device is to write"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&linked(vec![readable(at, 112), writable(at, 10)]));
        },
    },
    Behaviour {
        name: "writable_in_an_indirect_table_of_transmit",
        does: "sends an indirect table with an entry that the device is to write",
        expect: Expect::Fault("a buffer to transmit that the device is to write"),
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            let table = s.table(&linked(vec![readable(at, 112), writable(at, 10)]));
            s.sends(&[indirect(table, 32)]);
        },
    },
    Behaviour {
        name: "writable_in_a_packed_indirect_table_of_transmit",
        does: "sends an indirect table with an entry that the device is to write, as DPDK does",
        expect: Expect::Served(1),
        kind: Kind::Packed,
        act: |s| {
            let at = s.buffer(100);
            let table = s.table(&linked(vec![readable(at, 112), writable(at, 10)]));
            s.sends(&[indirect(table, 32)]);
        },
    },
    Behaviour {
        name: "readable_in_receive",
        does: "offers a buffer to receive into that the device must not write",
        expect: Expect::Fault("a buffer to receive into that the device must not write"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(2000);
            s.receives(&[readable(at, 2000)]);
        },
    },
    Behaviour {
        name: "readable_before_writable_in_receive",
        does: "offers a chain to receive into whose first part the device must not write",
        expect: Expect::Fault("a buffer to receive into that the device must not write"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(2000);
            s.receives(&linked(vec![readable(at, 12), writable(at + 12, 1988)]));
        },
    },
    Behaviour {
        name: "readable_behind_writable_in_receive",
        does: "offers a chain to receive into whose last part the device must not write",
        expect: Expect::Fault("a buffer to receive into that the device must not write"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(2000);
            s.receives(&linked(vec![writable(at, 12), readable(at + 12, 1988)]));
        },
    },
    Behaviour {
        name: "one_buffer_sixty_times",
        does: "sends one buffer as all parts of a chain: that is allowed",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| {
            let part = readable(s.guest.ram.take(64, 64), 60);
            s.guest.ram.write(part.addr, &[0; 60]);
            s.sends(&linked(vec![part; 60]));
        },
    },
    Behaviour {
        name: "frame_of_200_kib",
        does: "sends a chain of 200 KiB",
        expect: Expect::Dropped(1),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(65_000);
            s.sends(&linked(vec![readable(at, 51_200); 4]));
        },
    },
    Behaviour {
        name: "frame_of_4_gib_and_a_bit",
        does: "sends a chain whose lengths add up to 100 bytes more than 32 bits hold",
        expect: Expect::Dropped(1),
        kind: Kind::Both,
        act: |s| {
            s.restart(&GuestOptions {
                ram: vec![70 << 20],
                tx_size: 128,
                ..options(s.packed)
            });
            let at = s.buffer(100);
            let mut chain = vec![readable(at, 64 << 20); 64];
            chain.push(readable(at, 100));
            s.sends(&linked(chain));
        },
    },
    Behaviour {
        name: "flags_that_nobody_knows",
        does: "sets all flags of a descriptor that mean nothing: they are passed over",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| {
            let unknown = !(desc_flag::NEXT
                | desc_flag::WRITE
                | desc_flag::INDIRECT
                | desc_flag::AVAIL
                | desc_flag::USED);
            let raw = Raw {
                flags: unknown,
                ..readable(s.buffer(100), 112)
            };
            s.sends(&[raw]);
        },
    },
    Behaviour {
        name: "chain_into_an_indirect_table",
        does: "sends a chain that ends in an indirect table: that is allowed (virtio 1.2 §2.7.5.3.2)",
        expect: Expect::Served(1),
        kind: Kind::Split,
        act: |s| {
            let at = s.buffer(100);
            let table = s.table(&linked(vec![readable(at + 12, 50), readable(at + 62, 50)]));
            s.sends(&linked(vec![readable(at, 12), indirect(table, 32)]));
        },
    },
    Behaviour {
        name: "a_ring_of_one_that_goes_on",
        does: "has the only descriptor of a ring go on",
        expect: Expect::Fault("longer than the ring's 1 entries"),
        kind: Kind::Both,
        act: |s| {
            s.guest = Guest::new(&GuestOptions {
                tx_size: 1,
                ..options(s.packed)
            });
            s.reopen(|_| {});
            let raw = Raw {
                flags: desc_flag::NEXT,
                ..readable(s.buffer(100), 112)
            };
            s.sends(&[raw]);
        },
    },
];
