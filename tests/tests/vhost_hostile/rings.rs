//! Rings that are set up wrongly, or break their rules while they run.

use crate::scene::{Behaviour, Expect, Hostile, PROTOCOL};
use clearway_tests::wait_for;
use clearway_virtio_mock::{NO_FD, Raw, Shape, addresses, protocol, request, state, words};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Everything but rings.
fn greet(h: &mut Hostile) {
    h.front
        .negotiate(h.guest.features, PROTOCOL)
        .expect("a good beginning");
    h.front.share(&h.guest.ram).expect("memory");
}

fn tell(h: &Hostile, request: u32, payload: &[u8]) {
    let _ = h.front.tell(request, payload, &[]);
}

/// A descriptor as the kick, call or error of a ring.
fn event(h: &mut Hostile, request: u32, fd: OwnedFd) {
    greet(h);
    let _ = h.front.tell(request, &words(&[0]), &[fd.as_fd()]);
}

/// Starts a ring where there is no memory.
fn start_nowhere(h: &mut Hostile) {
    tell(h, request::SET_VRING_NUM, &state(0, 64));
    let payload = [state(0, 0), words(&[0x1000, 0x2000, 0x3000, 0])].concat();
    tell(h, request::SET_VRING_ADDR, &payload);
    let fd = h.guest.tx().kick_fd();
    let _ = h.front.tell(request::SET_VRING_KICK, &words(&[0]), &[fd.as_fd()]);
    tell(h, request::SET_VRING_ENABLE, &state(0, 1));
}

fn pipe() -> OwnedFd {
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    write.into()
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "ring_of_no_entries",
        does: "sets a ring's size to 0",
        expect: Expect::Ends("1 to 32768 are possible"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_NUM, &state(0, 0));
        },
    },
    Behaviour {
        name: "ring_of_65536_entries",
        does: "sets a ring's size to 65536",
        expect: Expect::Ends("1 to 32768 are possible"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_NUM, &state(0, 65_536));
        },
    },
    Behaviour {
        name: "ring_that_is_not_there",
        does: "describes ring 77",
        expect: Expect::Ends("there is no ring 77"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_NUM, &state(77, 64));
        },
    },
    Behaviour {
        name: "ring_of_the_last_number",
        does: "enables ring 4294967295",
        expect: Expect::Ends("SET_VRING_ENABLE: there is no ring"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_ENABLE, &state(u32::MAX, 1));
        },
    },
    Behaviour {
        name: "kick_of_a_ring_that_is_not_there",
        does: "gives a kick for ring 255",
        expect: Expect::Ends("there is no ring 255"),
        act: |h| {
            greet(h);
            let fd = h.guest.tx().kick_fd();
            let _ = h
                .front
                .tell(request::SET_VRING_KICK, &words(&[255]), &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "base_of_a_ring_that_is_not_there",
        does: "asks for the base of ring 200",
        expect: Expect::Ends("there is no ring 200"),
        act: |h| {
            greet(h);
            let _ = h.front.send(request::GET_VRING_BASE, &state(200, 0), &[]);
        },
    },
    Behaviour {
        name: "base_of_a_ring_that_was_never_started",
        does: "stops rings that never started, many times",
        expect: Expect::GoesOn,
        act: |h| {
            greet(h);
            for _ in 0..50 {
                h.front.stop_ring(0).expect("a base");
                h.front.stop_ring(1).expect("a base");
            }
        },
    },
    Behaviour {
        name: "enabled_by_two",
        does: "enables a ring with a number that is neither 0 nor 1",
        expect: Expect::Ends("neither on nor off"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_ENABLE, &state(0, 2));
        },
    },
    Behaviour {
        name: "addresses_nowhere",
        does: "puts a ring where there is no memory",
        expect: Expect::Ends("is not in the memory that the front-end shared"),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL & !protocol::CONFIGURE_MEM_SLOTS)
                .expect("a good beginning");
            h.front.share(&h.guest.ram).expect("memory");
            start_nowhere(h);
        },
    },
    Behaviour {
        name: "addresses_in_no_slot",
        does: "puts a ring where there is no memory, which may come with another slot: it waits",
        expect: Expect::GoesOn,
        act: |h| {
            greet(h);
            start_nowhere(h);
        },
    },
    Behaviour {
        name: "addresses_that_are_not_aligned",
        does: "puts a ring at odd addresses",
        expect: Expect::Ends("SET_VRING_ADDR: invalid message"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_NUM, &state(0, 64));
            let queue = &h.guest.pairs[0].rx;
            let mut payload = addresses(0, 0, &h.guest.ram, queue, 0);
            for at in [8, 16, 24] {
                payload[at] |= 1;
            }
            tell(h, request::SET_VRING_ADDR, &payload);
            let fd = h.guest.tx().kick_fd();
            let _ = h.front.tell(request::SET_VRING_KICK, &words(&[0]), &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "addresses_with_unknown_flags",
        does: "sets flags of a ring's addresses that there are not",
        expect: Expect::Ends("SET_VRING_ADDR: invalid message"),
        act: |h| {
            greet(h);
            let payload = addresses(0, 0xffff_fff0, &h.guest.ram, &h.guest.pairs[0].rx, 0);
            tell(h, request::SET_VRING_ADDR, &payload);
        },
    },
    Behaviour {
        name: "kick_that_is_a_pipe",
        does: "gives a pipe to be kicked by",
        expect: Expect::Ends("where an eventfd belongs"),
        act: |h| event(h, request::SET_VRING_KICK, pipe()),
    },
    Behaviour {
        name: "call_that_is_a_pipe",
        does: "gives a pipe to be called on",
        expect: Expect::Ends("where an eventfd belongs"),
        act: |h| event(h, request::SET_VRING_CALL, pipe()),
    },
    Behaviour {
        name: "call_that_is_a_file",
        does: "gives its memory to be called on",
        expect: Expect::Ends("where an eventfd belongs"),
        act: |h| {
            let file = h.guest.ram.regions()[0].fd();
            event(h, request::SET_VRING_CALL, file);
        },
    },
    Behaviour {
        name: "error_that_is_a_socket",
        does: "gives a socket for errors",
        expect: Expect::Ends("where an eventfd belongs"),
        act: |h| {
            let socket = h.front.stream().try_clone().expect("a descriptor").into();
            event(h, request::SET_VRING_ERR, socket);
        },
    },
    Behaviour {
        name: "kick_without_a_descriptor",
        does: "gives a kick and sends no descriptor, nor says that there is none",
        expect: Expect::Ends("SET_VRING_KICK: invalid message"),
        act: |h| {
            greet(h);
            tell(h, request::SET_VRING_KICK, &words(&[0]));
        },
    },
    Behaviour {
        name: "kick_with_three_descriptors",
        does: "sends three descriptors as one kick",
        expect: Expect::Ends("SET_VRING_KICK: invalid message"),
        act: |h| {
            greet(h);
            let fd = h.guest.tx().kick_fd();
            let _ = h
                .front
                .tell(request::SET_VRING_KICK, &words(&[0]), &[fd.as_fd(); 3]);
        },
    },
    Behaviour {
        name: "kick_that_is_none_and_one",
        does: "says that there is no descriptor, and sends one",
        expect: Expect::Ends("SET_VRING_KICK: invalid message"),
        act: |h| {
            greet(h);
            let fd = h.guest.tx().kick_fd();
            let _ = h
                .front
                .tell(request::SET_VRING_KICK, &words(&[NO_FD]), &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "rings_on_and_off",
        does: "enables and disables its rings 500 times while it sends",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for n in 0..500 {
                if h.guest
                    .tx()
                    .send(Default::default(), &[n as u8; 60], Shape::default())
                {
                    h.guest.tx().flush();
                }
                h.guest.tx().reap();
                h.front.enable(n % 2, n / 2 % 2 == 1).expect("an answer");
            }
        },
    },
    Behaviour {
        name: "rings_stopped_and_started",
        does: "stops and starts its rings 100 times with frames under way",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for n in 0..100u8 {
                for _ in 0..10 {
                    if h.guest.tx().send(Default::default(), &[n; 600], Shape::default()) {
                        h.guest.tx().flush();
                    }
                }
                let base = h.front.stop_ring(1).expect("a base");
                h.guest.tx().reap();
                h.front
                    .tell(request::SET_VRING_BASE, &state(1, base), &[])
                    .expect("an answer");
                let kick = h.guest.tx().kick_fd();
                h.front
                    .tell(request::SET_VRING_KICK, &words(&[1]), &[kick.as_fd()])
                    .expect("an answer");
            }
        },
    },
    Behaviour {
        name: "size_changed_while_it_runs",
        does: "makes a running ring larger than it is",
        // It ends when a frame is flooded to it, which is a matter of when.
        expect: Expect::Either,
        act: |h| {
            h.start();
            tell(h, request::SET_VRING_NUM, &state(0, 32_768));
        },
    },
    Behaviour {
        name: "base_changed_while_it_runs",
        does: "sets the base of a running split ring anew: its used index says where it goes on",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for base in [1, 0xffff, 0xffff_ffff, 0x7fff] {
                tell(h, request::SET_VRING_BASE, &state(1, base));
            }
        },
    },
    Behaviour {
        name: "gone_with_frames_under_way",
        does: "closes the connection while it sends and receives",
        expect: Expect::Ends("closed the connection"),
        act: |h| {
            h.start();
            h.guest.rx().fill(1000, Shape::default());
            h.guest.rx().flush();
            for n in 0..50 {
                let _ = h
                    .guest
                    .tx()
                    .send(Default::default(), &[n; 1000], Shape::default());
            }
            h.guest.tx().flush();
            h.front
                .stream()
                .shutdown(std::net::Shutdown::Both)
                .expect("an end");
        },
    },
    Behaviour {
        name: "descriptor_outside",
        does: "sends a buffer outside its memory",
        expect: Expect::Ends("which are not in the guest's memory"),
        act: |h| {
            h.start();
            let raw = Raw {
                addr: 0x10,
                len: 1000,
                flags: 0,
            };
            h.guest.tx().ring.offer_raw(&[raw]);
            h.guest.tx().kick.write(1).expect("a kick");
        },
    },
    Behaviour {
        name: "receive_descriptor_outside",
        does: "has what is flooded written outside its memory",
        expect: Expect::Ends("which are not in the guest's memory"),
        act: |h| {
            h.start();
            let raw = Raw {
                addr: u64::MAX - 100,
                len: 1000,
                flags: clearway_virtio_mock::desc_flag::WRITE,
            };
            h.guest.rx().ring.offer_raw(&[raw]);
            // A guest of another port that nobody knows yet: its frame is flooded to this one.
            crate::scene::flood(h);
        },
    },
    Behaviour {
        name: "calls_made_to_block",
        does: "has its calls block, their counters full, and sends",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for queue in [&h.guest.pairs[0].rx, &h.guest.pairs[0].tx] {
                // The daemon may have called, or call in between: then there is no room.
                while queue.call.write(u64::MAX - 1).is_err() {
                    let _ = queue.called();
                }
                fcntl(&queue.call, FcntlArg::F_SETFL(OFlag::empty())).expect("flags");
            }
            for n in 0..20 {
                let sent = h.guest.tx().send(Default::default(), &[n; 60], Shape::default());
                assert!(sent, "room");
                h.guest.tx().flush();
                wait_for("the device takes a frame", Duration::from_secs(30), || {
                    (h.guest.tx().reap() > 0).then_some(())
                });
            }
        },
    },
    Behaviour {
        name: "never_consumes",
        does: "offers no buffer to receive into, ever, and takes nothing back",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for n in 0..60 {
                let _ = h.guest.tx().send(Default::default(), &[n; 60], Shape::default());
            }
            h.guest.tx().flush();
            std::thread::sleep(std::time::Duration::from_millis(300));
        },
    },
];
