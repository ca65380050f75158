//! Guests that give bad buffers to receive into, or none.

use crate::bed::{GuestOptions, WHOLE};
use crate::scene::{Behaviour, Expect, FEATURES, Kind, Scene, indirect, linked, options, readable, writable};
use clearway_virtio_mock::{Shape, feature};

const SMALL: Expect = Expect::Fault("not even the header fits");

/// Without mergeable buffers.
fn one_buffer_each(s: &mut Scene) {
    let packed = options(s.packed).features & feature::RING_PACKED;
    let features = FEATURES & !feature::MRG_RXBUF | packed;
    s.restart(&GuestOptions {
        features,
        ..options(s.packed)
    });
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "receive_buffer_of_no_bytes",
        does: "offers a buffer of no bytes",
        expect: SMALL,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.receives(&[writable(at, 0)]);
        },
    },
    Behaviour {
        name: "receive_buffer_too_small_for_a_header",
        does: "offers a buffer of 11 bytes",
        expect: SMALL,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.receives(&[writable(at, 11)]);
        },
    },
    Behaviour {
        name: "second_buffer_too_small_for_a_header",
        does: "offers a good but short buffer and then one of 3 bytes, for one frame",
        expect: SMALL,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.receives(&[writable(at, 50)]);
            s.receives(&[writable(at + 50, 3)]);
            s.turn();
            assert_eq!(s.delivered, 0);
            assert!(s.guest.rx().ring.used().is_none(), "the frame is in no buffer");
        },
    },
    Behaviour {
        name: "receive_chain_of_no_bytes",
        does: "offers a chain of empty descriptors",
        expect: SMALL,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.receives(&linked(vec![writable(at, 0); 5]));
        },
    },
    Behaviour {
        name: "receive_buffers_of_one_byte_each",
        does: "offers buffers that hold a header and one byte: a frame takes as many as it needs",
        expect: Expect::Delivered,
        kind: Kind::Both,
        act: |s| {
            for _ in 0..60 {
                assert!(s.guest.rx().post(1, WHOLE));
            }
            s.guest.rx().flush();
        },
    },
    Behaviour {
        name: "receive_buffers_of_a_header_each",
        does: "offers buffers of 12 bytes",
        expect: Expect::Delivered,
        kind: Kind::Both,
        act: |s| {
            for _ in 0..60 {
                assert!(s.guest.rx().post(0, WHOLE));
            }
            s.guest.rx().flush();
        },
    },
    Behaviour {
        name: "receive_buffers_that_never_suffice",
        does: "offers fewer bytes in all its buffers than a frame has, and no more ever",
        expect: Expect::Ignored,
        kind: Kind::Both,
        act: |s| {
            for _ in 0..5 {
                assert!(s.guest.rx().post(0, WHOLE));
            }
            s.guest.rx().flush();
        },
    },
    Behaviour {
        name: "receive_buffers_too_small_for_frames",
        does: "offers buffers smaller than any frame, and frames may not span buffers",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            one_buffer_each(s);
            for _ in 0..5 {
                assert!(s.guest.rx().post(60, WHOLE));
            }
            s.guest.rx().flush();
            for _ in 0..5 {
                s.turn();
            }
            assert_eq!((s.delivered, s.fault()), (0, None));
        },
    },
    Behaviour {
        name: "receive_header_in_single_bytes",
        does: "offers buffers whose header is twelve descriptors: that is allowed",
        expect: Expect::Delivered,
        kind: Kind::Both,
        act: |s| {
            for _ in 0..20 {
                let shape = Shape {
                    header: 1,
                    data: 300,
                    indirect: true,
                };
                assert!(s.guest.rx().post(2000, shape));
            }
            s.guest.rx().flush();
        },
    },
    Behaviour {
        name: "receive_indirect_in_indirect",
        does: "offers an indirect table that points to a table",
        expect: Expect::Fault("an indirect descriptor within an indirect table"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(2000);
            let inner = s.table(&[writable(at, 2000)]);
            let outer = s.table(&[indirect(inner, 16)]);
            s.receives(&[indirect(outer, 16)]);
        },
    },
    Behaviour {
        name: "receive_indirect_nowhere",
        does: "offers an indirect table outside its memory",
        expect: Expect::Fault("which are not in the guest's memory"),
        kind: Kind::Both,
        act: |s| _ = s.receives(&[indirect(0x3000, 64)]),
    },
    Behaviour {
        name: "receive_one_buffer_many_times",
        does: "offers one buffer as many: it gets the last frame in it",
        expect: Expect::Delivered,
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(2000);
            for _ in 0..20 {
                s.receives(&[writable(at, 2000)]);
            }
        },
    },
    Behaviour {
        name: "receive_nothing",
        does: "never offers a buffer",
        expect: Expect::Ignored,
        kind: Kind::Both,
        act: |_| {},
    },
    Behaviour {
        name: "buffers_that_change_before_they_are_used",
        does: "offers a good buffer and points its descriptor elsewhere before a frame comes",
        expect: Expect::Fault("which are not in the guest's memory"),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(2000);
            let places = s.receives(&[writable(at, 2000)]);
            s.guest.rx().ring.rewrite(places[0], writable(0x10, 2000));
        },
    },
    Behaviour {
        name: "flood",
        does: "sends as fast as its ring goes round, for 500 turns, and never looks at what it receives",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            s.restart(&GuestOptions {
                tx_size: 256,
                rx_size: 64,
                ..options(s.packed)
            });
            s.guest.rx().fill(2000, WHOLE);
            s.guest.rx().flush();
            let at = s.buffer(60);
            for _ in 0..200 {
                s.sends(&[readable(at, 72)]);
            }
            for turn in 0..500u64 {
                s.turn();
                assert!(s.forwarded <= (turn + 1) * 128, "a batch a turn");
                for _ in 0..s.guest.tx().reap() {
                    s.sends(&[readable(at, 72)]);
                }
            }
            assert!(s.forwarded >= 499 * 100, "{} frames", s.forwarded);
            assert_eq!(s.delivered, 64);
        },
    },
];
