//! Notifications that lie, and descriptors for them that are none.

use crate::bed::{WHOLE, frame};
use crate::scene::{Behaviour, Expect, Kind, Scene};
use clearway_io::Port;
use clearway_virtio_mock::Ring;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::OwnedFd;
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
            let call = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).expect("eventfd");
            call.write(u64::MAX - 1).expect("its end");
            let fd = || {
                std::os::fd::AsFd::as_fd(&call)
                    .try_clone_to_owned()
                    .expect("a descriptor")
            };
            with_call(s, fd);
            // Unblocks the worker in the end, so that the test fails instead of standing still.
            let done = Arc::new(AtomicBool::new(false));
            let helper = {
                let (done, call) = (done.clone(), fd());
                std::thread::spawn(move || {
                    let end = Instant::now() + Duration::from_secs(5);
                    while !done.load(Ordering::Relaxed) {
                        if Instant::now() > end {
                            let _ = nix::unistd::read(&call, &mut [0; 8]);
                            return false;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    true
                })
            };
            traffic(s);
            done.store(true, Ordering::Relaxed);
            assert!(
                helper.join().expect("the helper"),
                "the worker stood still in a call"
            );
        },
    },
    Behaviour {
        name: "call_on_a_closed_pipe",
        does: "gives a pipe to be called on whose other end is closed",
        expect: Expect::Served(5),
        kind: Kind::Both,
        act: |s| {
            with_call(s, || nix::unistd::pipe().expect("a pipe").1);
            traffic(s);
        },
    },
    Behaviour {
        name: "call_that_cannot_be_written",
        does: "gives a descriptor to be called on that is for reading only",
        expect: Expect::Served(5),
        kind: Kind::Both,
        act: |s| {
            with_call(s, || {
                std::fs::File::open("/proc/self/status").expect("a file").into()
            });
            traffic(s);
        },
    },
];
