//! Notifications that lie, and descriptors for them that are none.

use crate::bed::{WHOLE, frame, received};
use crate::scene::{Behaviour, Expect, Kind, Scene};
use clearway_io::Port;
use clearway_virtio_mock::Ring;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Some frames each way, so that there is something to notify of.
fn traffic(s: &mut Scene) {
    for n in 0..5 {
        assert!(s.guest.tx().send(Default::default(), &frame(n, 300), WHOLE));
    }
    s.guest.tx().flush();
    s.turn();
    assert_eq!(s.guest.tx().reap(), 5);
}

fn with_call(s: &mut Scene, fd: impl Fn() -> OwnedFd) {
    s.reopen(|config| {
        for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
            ring.call = Some(fd());
        }
    });
}

/// An eventfd that is not O_NONBLOCK.
fn blocking() -> EventFd {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).expect("eventfd")
}

fn duplicate(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor")
}

/// The open file is the front-end's too: what it sets there holds for everybody.
fn block_again(event: &EventFd) {
    fcntl(event, FcntlArg::F_SETFL(OFlag::empty())).expect("flags");
}

/// Does something that must not wait for an eventfd; after 5 s somebody does to it what ends the waiting, so that the
/// test fails instead of standing still.
fn without_waiting(what: impl FnOnce(), event: &EventFd, end: fn(&OwnedFd)) {
    let done = Arc::new(AtomicBool::new(false));
    let helper = {
        let (done, event) = (done.clone(), duplicate(event));
        std::thread::spawn(move || {
            let last = Instant::now() + Duration::from_secs(5);
            let mut in_time = true;
            while !done.load(Ordering::Relaxed) {
                if Instant::now() > last {
                    in_time = false;
                    end(&event);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            in_time
        })
    };
    what();
    done.store(true, Ordering::Relaxed);
    assert!(helper.join().expect("the helper"), "the worker stood still");
}

fn take(event: &OwnedFd) {
    let _ = nix::unistd::read(event, &mut [0; 8]);
}

fn kick(event: &OwnedFd) {
    let _ = nix::unistd::write(event, &1u64.to_ne_bytes());
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "event_index_lies",
        does: "asks for calls at every index there is",
        expect: Expect::Served(5 * 40),
        kind: Kind::Both,
        act: |s| {
            for round in 0..40u16 {
                let index = round.wrapping_mul(0x1997);
                match &s.guest.tx().ring {
                    Ring::Split(ring) => ring.set_used_event(index),
                    Ring::Packed(ring) => ring.set_driver_event(index, 2),
                }
                traffic(s);
                assert!(s.guest.tx().called() <= 1, "at most a call a batch");
            }
        },
    },
    Behaviour {
        name: "event_flags_that_nobody_knows",
        does: "sets flags of its event suppression that there are not",
        expect: Expect::Served(5 * 16),
        kind: Kind::Both,
        act: |s| {
            for round in 0..16u16 {
                match &s.guest.tx().ring {
                    Ring::Split(ring) => ring.set_avail_flags(0xffff - round),
                    Ring::Packed(ring) => ring.set_driver_event(0xffff - round, 3 + round),
                }
                traffic(s);
            }
        },
    },
    Behaviour {
        name: "device_events_overwritten",
        does: "overwrites what the device says about kicks",
        expect: Expect::Served(5),
        kind: Kind::Both,
        act: |s| {
            let ring = &s.guest.tx().ring;
            let (device, size) = (ring.parts()[2], u64::from(ring.size()));
            let at = if s.packed { device } else { device + 4 + 8 * size };
            let port = s.port.as_mut().expect("a port");
            for byte in 0..=255 {
                s.guest.ram.write(at, &[byte, byte]);
                assert!(!port.arm(), "nothing is there");
            }
            for n in 0..5 {
                assert!(s.guest.tx().send(Default::default(), &frame(n, 300), WHOLE));
            }
            s.guest.tx().flush();
        },
    },
    Behaviour {
        name: "kicks_without_end",
        does: "kicks without ever making a buffer available",
        expect: Expect::Ignored,
        kind: Kind::Both,
        act: |s| {
            for _ in 0..1000 {
                s.guest.tx().kick.write(1).expect("a kick");
                assert!(!s.port.as_mut().expect("a port").arm());
            }
        },
    },
    Behaviour {
        name: "call_that_is_full",
        does: "gives an eventfd to be called on whose counter is at its end, and that would block",
        expect: Expect::Served(5),
        kind: Kind::Both,
        act: |s| {
            let call = blocking();
            call.write(u64::MAX - 1).expect("its end");
            with_call(s, || duplicate(&call));
            without_waiting(|| traffic(s), &call, take);
        },
    },
    Behaviour {
        name: "call_that_is_made_to_block",
        does: "fills the counter of its call, whose O_NONBLOCK it takes away while the port runs, again and again",
        expect: Expect::Served(5 * 20),
        kind: Kind::Both,
        act: |s| {
            let call = blocking();
            with_call(s, || duplicate(&call));
            call.write(u64::MAX - 1).expect("its end");
            without_waiting(
                || {
                    for _ in 0..20 {
                        block_again(&call);
                        assert!(s.guest.rx().post(2000, WHOLE));
                        s.guest.rx().flush();
                        traffic(s);
                        received(s.guest.rx());
                    }
                },
                &call,
                take,
            );
            assert_eq!(
                call.read(),
                Ok(u64::MAX),
                "it was called, and more than the counter holds"
            );
        },
    },
    Behaviour {
        name: "kick_that_blocks",
        does: "takes O_NONBLOCK away from its kick and never kicks",
        expect: Expect::Served(5),
        kind: Kind::Both,
        act: |s| {
            let kick_fd = blocking();
            s.reopen(|config| {
                for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
                    ring.kick = Some(duplicate(&kick_fd));
                }
            });
            block_again(&kick_fd);
            without_waiting(
                || {
                    for _ in 0..20 {
                        s.turn();
                        assert!(!s.port.as_mut().expect("a port").arm());
                    }
                    s.turn();
                    traffic(s);
                },
                &kick_fd,
                kick,
            );
        },
    },
    Behaviour {
        name: "call_that_is_a_full_pipe",
        does: "gives a pipe to be called on, full to its end",
        expect: Expect::Refused("the ring's call can't be used: it sent pipe:["),
        kind: Kind::Both,
        act: |s| {
            let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).expect("a pipe");
            while nix::unistd::write(&write, &[0; 4096]).is_ok() {}
            fcntl(&write, FcntlArg::F_SETFL(OFlag::empty())).expect("flags");
            with_call(s, || duplicate(&write));
            drop(read);
        },
    },
    Behaviour {
        name: "call_on_a_closed_pipe",
        does: "gives a pipe to be called on whose other end is closed",
        expect: Expect::Refused("the ring's call can't be used: it sent pipe:["),
        kind: Kind::Both,
        act: |s| with_call(s, || nix::unistd::pipe().expect("a pipe").1),
    },
    Behaviour {
        name: "call_that_is_a_file",
        does: "gives a file to be called on",
        expect: Expect::Refused("where an eventfd belongs"),
        kind: Kind::Both,
        act: |s| {
            with_call(s, || {
                std::fs::File::open("/proc/self/status").expect("a file").into()
            });
        },
    },
    Behaviour {
        name: "kick_that_is_a_socket",
        does: "gives a socket to be kicked by",
        expect: Expect::Refused("the ring's kick can't be used: it sent socket:["),
        kind: Kind::Both,
        act: |s| {
            s.reopen(|config| {
                for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
                    let (one, _) = std::os::unix::net::UnixStream::pair().expect("a socket");
                    ring.kick = Some(one.into());
                }
            });
        },
    },
];
