//! Packed rings whose flags, ids and wrap counters lie.

use crate::scene::{Behaviour, Expect, Kind, Scene, linked, readable, writable};
use clearway_io::VhostConfig;
use clearway_virtio_mock::{PackedRing, Ring, desc_flag};

fn ring(ring: &mut Ring) -> &mut PackedRing {
    match ring {
        Ring::Packed(ring) => ring,
        Ring::Split(_) => panic!("packed only"),
    }
}

fn tx(s: &mut Scene) -> &mut PackedRing {
    ring(&mut s.guest.tx().ring)
}

fn rx(s: &mut Scene) -> &mut PackedRing {
    ring(&mut s.guest.rx().ring)
}

/// A descriptor for a good buffer at this place, with any id and flags.
fn put(s: &mut Scene, index: u16, id: u16, flags: u16) {
    let at = s.buffer(100);
    tx(s).put_descriptor(index, at, 112, id, flags);
}

fn base(config: &mut VhostConfig, base: u32) {
    for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
        ring.base = base;
    }
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "id_out_of_range",
        does: "sends a buffer with id 65535 on a ring of 64: ids are the driver's own business",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            put(s, 0, 0xffff, desc_flag::AVAIL);
            s.turn();
            let (_, used) = descriptor(s, 0);
            assert_eq!(
                (s.forwarded, used),
                (1, (0xffff, desc_flag::AVAIL | desc_flag::USED))
            );
        },
    },
    Behaviour {
        name: "one_id_ten_times",
        does: "sends ten buffers with one id",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            for index in 0..10 {
                put(s, index, 7, desc_flag::AVAIL);
            }
            s.turn();
            assert_eq!(s.forwarded, 10);
        },
    },
    Behaviour {
        name: "both_flags_set",
        does: "marks a descriptor as used in this lap: there is nothing to do",
        expect: Expect::Ignored,
        kind: Kind::Packed,
        act: |s| put(s, 0, 0, desc_flag::AVAIL | desc_flag::USED),
    },
    Behaviour {
        name: "flags_of_the_other_lap",
        does: "marks a descriptor as available in a lap that is not now",
        expect: Expect::Ignored,
        kind: Kind::Packed,
        act: |s| put(s, 0, 0, desc_flag::USED),
    },
    Behaviour {
        name: "available_behind_a_gap",
        does: "makes the second descriptor available without the first: the device waits for the first",
        expect: Expect::Ignored,
        kind: Kind::Packed,
        act: |s| put(s, 1, 0, desc_flag::AVAIL),
    },
    Behaviour {
        name: "next_lap_at_once",
        does: "makes used descriptors available again for the next lap before it is reached",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            for index in 0..64 {
                put(s, index, index, desc_flag::AVAIL);
            }
            s.turn();
            assert_eq!(s.forwarded, 64);
            for lap in 1..=4 {
                for index in 0..64 {
                    put(s, index, index, PackedRing::available(lap % 2 == 0));
                }
                s.turn();
                assert_eq!(s.forwarded, 64 * (lap + 1));
            }
        },
    },
    Behaviour {
        name: "chains_longer_than_the_ring_together",
        does: "has a chain that begins in the ring's middle go on through its beginning, which is a buffer of its own",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            for index in 0..64 {
                let next = if index < 32 { 0 } else { desc_flag::NEXT };
                put(s, index, index, desc_flag::AVAIL | next);
            }
        },
    },
    Behaviour {
        name: "chain_into_what_is_not_available",
        does: "has a chain go on in a descriptor of the lap before",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            put(s, 1, 3, 0);
            put(s, 0, 0, desc_flag::AVAIL | desc_flag::NEXT);
        },
    },
    Behaviour {
        name: "receive_chain_without_an_end",
        does: "makes every descriptor of what it receives into go on",
        expect: Expect::Fault("longer than the ring's 64 entries"),
        kind: Kind::Packed,
        act: |s| {
            let at = s.buffer(2000);
            for index in 0..64 {
                let flags = desc_flag::AVAIL | desc_flag::NEXT | desc_flag::WRITE;
                rx(s).put_descriptor(index, at, 30, index, flags);
            }
        },
    },
    Behaviour {
        name: "receive_id_out_of_range",
        does: "receives into buffers of ids far outside the ring",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            let at = s.buffer(2000);
            rx(s).put_descriptor(0, at, 2000, 0xfffe, desc_flag::AVAIL | desc_flag::WRITE);
            s.turn();
            assert_eq!(s.delivered, 1);
        },
    },
    Behaviour {
        name: "used_descriptors_taken_back",
        does: "sends one buffer again and again by taking the used mark away",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            for _ in 0..5 {
                put(s, 0, 0, desc_flag::AVAIL);
                s.turn();
            }
            assert_eq!(s.forwarded, 1, "the device is at the second place");
        },
    },
    Behaviour {
        name: "base_behind_the_end",
        does: "starts the ring at a descriptor behind its end",
        expect: Expect::Refused("its base is behind its end"),
        kind: Kind::Packed,
        act: |s| s.reopen(|config| base(config, 0x8040_8040)),
    },
    Behaviour {
        name: "used_base_behind_the_end",
        does: "starts the ring with a used position behind its end",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            s.reopen(|config| base(config, 0xffff_8000));
            let at = s.buffer(100);
            if s.port.is_some() {
                s.sends(&[readable(at, 112)]);
                s.receives(&[writable(at, 112)]);
            }
        },
    },
    Behaviour {
        name: "base_of_the_wrong_lap",
        does: "starts the ring with the wrap counter the wrong way round: a ring of zeros is available then",
        expect: Expect::Harmless,
        kind: Kind::Packed,
        act: |s| {
            s.reopen(|config| base(config, 0));
            let at = s.buffer(100);
            s.sends(&linked(vec![readable(at, 112); 2]));
        },
    },
];

/// Address and length, id and flags of a descriptor.
fn descriptor(s: &mut Scene, index: u64) -> ((u64, u32), (u16, u16)) {
    let at = tx(s).parts()[0] + 16 * index;
    let bytes = s.guest.ram.bytes(at, 16);
    let word = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
    let long = |i: usize| u32::from(word(i)) | u32::from(word(i + 2)) << 16;
    (
        (u64::from(long(0)) | u64::from(long(4)) << 32, long(8)),
        (word(12), word(14)),
    )
}
