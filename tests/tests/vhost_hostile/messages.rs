//! Messages that are malformed, in disorder, or without end.

use crate::scene::{Behaviour, Expect, Hostile, PROTOCOL};
use clearway_virtio_mock::{FrontEnd, feature, protocol, request, state, words};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Sends a message that is as it is.
fn raw(h: &Hostile, request: u32, flags: u32, payload: &[u8]) {
    let _ = h
        .front
        .send_bytes(&FrontEnd::encode(request, flags, payload), &[]);
}

/// Sends a good message, whatever becomes of it.
fn send(h: &Hostile, request: u32, payload: &[u8]) {
    raw(h, request, 1, payload);
}

/// Features and owner, as at every beginning.
fn greet(h: &mut Hostile) {
    let features = h.guest.features;
    h.front.negotiate(features, PROTOCOL).expect("a good beginning");
}

/// What the daemon says of a good message, if the connection lasts.
fn told(h: &Hostile, request: u32, payload: &[u8]) -> Option<u64> {
    h.front.tell(request, payload, &[]).ok()
}

/// Ends the first connection: while it is there, others are turned away.
fn leave(h: &Hostile) {
    let both = std::net::Shutdown::Both;
    h.front.stream().shutdown(both).expect("an end");
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "nothing",
        does: "connects and closes",
        expect: Expect::Ends("closed the connection"),
        act: |h| leave(h),
    },
    Behaviour {
        name: "half_a_header_and_gone",
        does: "sends half a header and closes",
        expect: Expect::Ends("closed the connection"),
        act: |h| {
            let mut stream = h.front.stream();
            stream.write_all(&[1, 0, 0, 0, 1]).expect("a few bytes");
            stream.shutdown(std::net::Shutdown::Both).expect("an end");
        },
    },
    Behaviour {
        name: "half_a_header",
        does: "sends half a header and stalls",
        expect: Expect::Ends("stopped in the middle of a message"),
        act: |h| h.front.stream().write_all(&[1, 0, 0, 0, 1]).expect("a few bytes"),
    },
    Behaviour {
        name: "half_a_body",
        does: "sends a header and half its body, and stalls",
        expect: Expect::Ends("stopped in the middle of a message"),
        act: |h| {
            let bytes = FrontEnd::encode(request::SET_FEATURES, 1, &[0; 8]);
            h.front.stream().write_all(&bytes[..15]).expect("a few bytes");
        },
    },
    Behaviour {
        name: "byte_by_byte",
        does: "sends its messages byte by byte: slow is allowed",
        expect: Expect::GoesOn,
        act: |h| {
            for byte in FrontEnd::encode(request::GET_FEATURES, 1, &[]) {
                h.front.stream().write_all(&[byte]).expect("a byte");
                std::thread::sleep(Duration::from_millis(20));
            }
            h.front.receive().expect("the reply");
        },
    },
    Behaviour {
        name: "body_of_4_gib",
        does: "says that its message has 4294967295 bytes",
        expect: Expect::Ends("are the most"),
        act: |h| {
            let mut bytes = FrontEnd::encode(request::SET_FEATURES, 1, &[]);
            bytes[8..12].copy_from_slice(&[0xff; 4]);
            let _ = h.front.send_bytes(&bytes, &[]);
        },
    },
    Behaviour {
        name: "body_of_64_kib",
        does: "sends a message of 64 KiB",
        expect: Expect::Ends("are the most"),
        act: |h| raw(h, request::SET_CONFIG, 1, &[7; 65_536]),
    },
    Behaviour {
        name: "request_zero",
        does: "sends request 0",
        expect: Expect::Ends("no such request"),
        act: |h| send(h, 0, &[]),
    },
    Behaviour {
        name: "request_unknown",
        does: "sends request 4294967295",
        expect: Expect::Ends("no such request"),
        act: |h| send(h, u32::MAX, &[0; 8]),
    },
    Behaviour {
        name: "version_zero",
        does: "sends a message of version 0",
        expect: Expect::Ends("GET_FEATURES: invalid message"),
        act: |h| raw(h, request::GET_FEATURES, 0, &[]),
    },
    Behaviour {
        name: "version_two",
        does: "sends a message of version 2",
        expect: Expect::Ends("GET_FEATURES: invalid message"),
        act: |h| raw(h, request::GET_FEATURES, 2, &[]),
    },
    Behaviour {
        name: "a_reply",
        does: "sends a reply that nobody waits for",
        expect: Expect::Ends("GET_FEATURES: invalid message"),
        act: |h| raw(h, request::GET_FEATURES, 5, &[0; 8]),
    },
    Behaviour {
        name: "body_where_none_belongs",
        does: "sends GET_FEATURES with a body",
        expect: Expect::Ends("GET_FEATURES: invalid message"),
        act: |h| send(h, request::GET_FEATURES, &[0; 100]),
    },
    Behaviour {
        name: "no_body_where_one_belongs",
        does: "sends SET_FEATURES without features",
        expect: Expect::Ends("SET_FEATURES: invalid message"),
        act: |h| send(h, request::SET_FEATURES, &[]),
    },
    Behaviour {
        name: "body_too_long",
        does: "sends SET_VRING_NUM with more than belongs there",
        expect: Expect::Ends("SET_VRING_NUM: invalid message"),
        act: |h| {
            greet(h);
            send(h, request::SET_VRING_NUM, &[1; 64]);
        },
    },
    Behaviour {
        name: "features_not_offered",
        does: "takes every feature there is",
        expect: Expect::Ends("which were not offered"),
        act: |h| {
            h.front.number(request::GET_FEATURES).expect("features");
            send(h, request::SET_FEATURES, &[0xff; 8]);
        },
    },
    Behaviour {
        name: "protocol_features_not_offered",
        does: "takes every protocol feature there is",
        expect: Expect::Ends("which were not offered"),
        act: |h| {
            h.front.number(request::GET_FEATURES).expect("features");
            h.front.number(request::GET_PROTOCOL_FEATURES).expect("features");
            send(h, request::SET_PROTOCOL_FEATURES, &[0xff; 8]);
        },
    },
    Behaviour {
        name: "features_twice",
        does: "takes features, and then others, with rings that run",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            let fewer = h.guest.features & !feature::EVENT_IDX | feature::PROTOCOL_FEATURES;
            told(h, request::SET_FEATURES, &words(&[fewer])).expect("an answer");
        },
    },
    Behaviour {
        name: "owner_twice",
        does: "becomes owner again and again, and not",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for _ in 0..20 {
                told(h, request::SET_OWNER, &[]);
                told(h, request::RESET_OWNER, &[]);
            }
        },
    },
    Behaviour {
        name: "rings_before_anything",
        does: "describes and enables rings before it said what features it takes",
        expect: Expect::GoesOn,
        act: |h| {
            for index in 0..2 {
                send(h, request::SET_VRING_NUM, &state(index, 64));
                send(h, request::SET_VRING_BASE, &state(index, 0));
                send(h, request::SET_VRING_ENABLE, &state(index, 1));
            }
        },
    },
    Behaviour {
        name: "unacknowledged",
        does: "asks for acknowledgements that were not agreed on",
        expect: Expect::GoesOn,
        act: |h| {
            for _ in 0..10 {
                raw(h, request::SET_OWNER, 9, &[]);
            }
        },
    },
    Behaviour {
        name: "mtu_of_nothing",
        does: "sets MTUs of 0, 1, 65535 and 2^64 - 1",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for mtu in [0, 1, u64::MAX] {
                assert_ne!(
                    told(h, request::NET_SET_MTU, &words(&[mtu])),
                    Some(0),
                    "an MTU of {mtu}"
                );
            }
        },
    },
    Behaviour {
        name: "mtu_without_body",
        does: "sets an MTU without saying which",
        expect: Expect::Ends("invalid message"),
        act: |h| send(h, request::NET_SET_MTU, &[]),
    },
    Behaviour {
        name: "rarp_without_body",
        does: "announces a guest without its address",
        expect: Expect::Ends("invalid message"),
        act: |h| send(h, request::SEND_RARP, &[1, 2]),
    },
    Behaviour {
        name: "status_garbage",
        does: "sets every device status there is, also the one that resets",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for status in [0xff, u64::MAX, 0, 0x80, 0, 4] {
                told(h, request::SET_STATUS, &words(&[status])).expect("an answer");
            }
        },
    },
    Behaviour {
        name: "postcopy",
        does: "begins a postcopy migration, which was not offered",
        expect: Expect::Ends("postcopy"),
        act: |h| {
            greet(h);
            send(h, request::POSTCOPY_ADVISE, &[]);
        },
    },
    Behaviour {
        name: "address_translation",
        does: "sends an update of an IOMMU, which was not offered",
        expect: Expect::Ends("IOTLB_MSG: invalid message"),
        act: |h| {
            greet(h);
            send(h, request::IOTLB_MSG, &[0; 32]);
        },
    },
    Behaviour {
        name: "configuration_space",
        does: "reads and writes a configuration space that was not offered",
        expect: Expect::Ends("GET_CONFIG: "),
        act: |h| {
            greet(h);
            send(h, request::GET_CONFIG, &[&[0; 12][..], &[0; 60]].concat());
            send(h, request::SET_CONFIG, &[&[0xff; 12][..], &[0; 60]].concat());
        },
    },
    Behaviour {
        name: "endianness",
        does: "sets the endianness of a ring, which was not offered",
        expect: Expect::Ends("SET_VRING_ENDIAN: invalid message"),
        act: |h| {
            greet(h);
            send(h, request::SET_VRING_ENDIAN, &state(0, 1));
        },
    },
    Behaviour {
        name: "inflight_of_nothing",
        does: "asks for a buffer of descriptors in flight for 65535 queues of 65535 entries",
        expect: Expect::Ends("65535 rings of 65535 entries in flight"),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL | protocol::INFLIGHT_SHMFD)
                .expect("a good beginning");
            let payload = [words(&[0, 0]), vec![0xff; 8]].concat();
            send(h, request::GET_INFLIGHT_FD, &payload);
        },
    },
    Behaviour {
        name: "inflight_of_everything",
        does: "sets a buffer of descriptors in flight of 2^64 - 1 bytes in a small file",
        expect: Expect::Ends("SET_INFLIGHT_FD: "),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL | protocol::INFLIGHT_SHMFD)
                .expect("a good beginning");
            let fd = h.guest.ram.regions()[0].fd();
            let payload = [words(&[u64::MAX, u64::MAX]), vec![0xff; 8]].concat();
            let _ = h.front.send(request::SET_INFLIGHT_FD, &payload, &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "log_of_nothing",
        does: "sets a dirty log that is longer than its file",
        expect: Expect::Ends("SET_LOG_BASE: memory region"),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL | protocol::LOG_SHMFD)
                .expect("a good beginning");
            let fd = h.guest.ram.regions()[0].fd();
            let _ = h
                .front
                .send(request::SET_LOG_BASE, &words(&[1 << 50, 0]), &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "log_without_a_file",
        does: "sets a dirty log without a file",
        expect: Expect::Ends("SET_LOG_BASE: wrong number of attached fds"),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL | protocol::LOG_SHMFD)
                .expect("a good beginning");
            send(h, request::SET_LOG_BASE, &words(&[4096, 0]));
        },
    },
    Behaviour {
        name: "log_event_without_a_descriptor",
        does: "sets no descriptor as the one that tells of the dirty log",
        expect: Expect::GoesOn,
        act: |h| {
            greet(h);
            send(h, request::SET_LOG_FD, &[]);
        },
    },
    Behaviour {
        name: "replies_never_read",
        does: "asks 200000 times and reads no reply",
        expect: Expect::Ends("did not read its replies"),
        act: |h| {
            h.front.stream().set_nonblocking(true).expect("a socket");
            let end = Instant::now() + Duration::from_secs(3);
            let bytes = FrontEnd::encode(request::GET_FEATURES, 1, &[]);
            for _ in 0..200_000 {
                if h.front.send_bytes(&bytes, &[]).is_err() && Instant::now() > end {
                    break;
                }
            }
            // Not a byte is read before the daemon has given up.
            std::thread::sleep(Duration::from_secs(7));
            h.front.stream().set_nonblocking(false).expect("a socket");
        },
    },
    Behaviour {
        name: "descriptors_without_end",
        does: "sends 250 descriptors with one message",
        expect: Expect::GoesOn,
        act: |h| {
            let fd = h.guest.tx().kick_fd();
            let fds: Vec<BorrowedFd<'_>> = std::iter::repeat_n(fd.as_fd(), 250).collect();
            let bytes = FrontEnd::encode(request::GET_FEATURES, 1, &[]);
            let _ = h.front.send_bytes(&bytes, &fds);
        },
    },
    Behaviour {
        name: "descriptors_where_none_belong",
        does: "sends descriptors with a message that takes none",
        expect: Expect::Ends("SET_OWNER: invalid message"),
        act: |h| {
            let fd = h.guest.tx().kick_fd();
            let _ = h.front.send(request::SET_OWNER, &[], &[fd.as_fd(), fd.as_fd()]);
        },
    },
    Behaviour {
        name: "descriptors_with_numbers",
        does: "sends descriptors with numbers, which take none: they are closed",
        expect: Expect::GoesOn,
        act: |h| {
            greet(h);
            let fd = h.guest.tx().kick_fd();
            for _ in 0..10 {
                for request in [request::NET_SET_MTU, request::SET_STATUS] {
                    let fds = [fd.as_fd(), fd.as_fd()];
                    h.front.send(request, &[0; 8], &fds).expect("a message");
                }
            }
        },
    },
    Behaviour {
        name: "its_own_socket",
        does: "sends its own end of the connection as memory, so that the connection holds itself",
        expect: Expect::Ends("memory must be a memfd"),
        act: |h| {
            greet(h);
            let payload = clearway_virtio_mock::memory_table(&h.guest.ram.regions()[..1]);
            let own = h.front.stream().as_fd();
            let _ = h.front.send(request::SET_MEM_TABLE, &payload, &[own]);
        },
    },
    Behaviour {
        name: "a_second_front_end",
        does: "connects twice: the second one is turned away",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            let second = FrontEnd::connect(&h.path).expect("a socket");
            assert!(second.closes(), "one guest at a time");
        },
    },
    Behaviour {
        name: "a_hundred_connections",
        does: "connects and goes a hundred times, at any moment of its beginning",
        expect: Expect::Ends("closed the connection"),
        act: |h| {
            leave(h);
            for n in 0..100u32 {
                let Ok(front) = FrontEnd::connect(&h.path) else {
                    continue;
                };
                for request in [
                    request::GET_FEATURES,
                    request::SET_OWNER,
                    request::GET_PROTOCOL_FEATURES,
                ] {
                    if n % 4 > 0 {
                        let _ = front.send(request, &[], &[]);
                    }
                }
            }
        },
    },
    Behaviour {
        name: "random_messages",
        does: "sends messages of random requests, bodies and descriptors, on one connection after the other, for 8 s",
        // Of the last one that was served.
        expect: Expect::Ends(""),
        act: |h| {
            leave(h);
            let mut seed = 0x2545_f491_4f6c_dd1du64;
            let mut next = || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed
            };
            let fds = [
                h.guest.ram.regions()[0].fd(),
                h.guest.tx().kick_fd(),
                h.guest.rx().call_fd(),
            ];
            let end = Instant::now() + Duration::from_secs(8);
            let mut sent = 0;
            while sent < 3000 && Instant::now() < end {
                let Ok(front) = FrontEnd::connect(&h.path) else {
                    continue;
                };
                front.stream().set_nonblocking(true).expect("a socket");
                if next() % 2 == 0 {
                    let _ = front.send(request::SET_FEATURES, &words(&[h.guest.features]), &[]);
                    sent += 1;
                }
                for _ in 0..next() % 20 {
                    let length = [0, 8, 8, 8, 16, 40, 40, 72, next() % 300][(next() % 9) as usize];
                    let small = |n: u64| if n.is_multiple_of(3) { n >> 32 } else { n >> 60 };
                    let body: Vec<u8> = (0..length.div_ceil(4))
                        .flat_map(|_| (small(next()) as u32).to_le_bytes())
                        .take(length as usize)
                        .collect();
                    let n = next();
                    let fds: Vec<BorrowedFd<'_>> = (0..n % 3)
                        .map(|i| fds[((n >> 8) + i) as usize % 3].as_fd())
                        .collect();
                    let flags = if next() % 4 == 0 { 9 } else { 1 };
                    let bytes = FrontEnd::encode((next() % 46) as u32, flags, &body);
                    sent += 1;
                    if front.send_bytes(&bytes, &fds).is_err() {
                        break;
                    }
                }
            }
            // They are served, and a port pauses after a connection that failed.
            assert!(sent > 100, "{sent} messages");
        },
    },
];
