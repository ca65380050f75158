//! A port's thread with a front-end that was written from the specification, and a control thread that only keeps what
//! it is given. What a front-end that means harm does is tested against the daemon, in `tests/tests`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use clearway_config::{GuestMemoryLimit, Name, Port as PortSpec, Spec};
use clearway_io::{FrameBatch, HugePages, PoolSet, Port, Umem, UmemGeometry, VhostPort};
use clearway_virtio_mock::{
    FrontEnd, Guest as Driver, GuestOptions, RamRegion, Shape, addresses, feature, memory_table, protocol,
    region, request, state, words,
};

use super::guest::{Guest, Status};
use super::socket::listen;
use super::{Answer, Ask};
use crate::daemon::Message;
use crate::daemon::open::OpenError;

const LOG_ALL: u64 = 1 << 26;

type Pairs = Arc<Mutex<BTreeMap<u16, Box<VhostPort>>>>;

/// A port that serves guests, and the queue pairs that its thread has given away.
struct Rig {
    guest: Guest,
    pairs: Pairs,
    pools: PoolSet,
    umem: Umem,
    dir: tempfile::TempDir,
}

fn port(dir: &Path, more: &str) -> PortSpec {
    let socket = dir.join("a.sock").display().to_string();
    let text = format!(
        "ports: {{a: {{kind: vhost-user, socket: '{socket}', access: lan{more}}}}}\nbridge-domains: {{lan: {{}}}}\n"
    );
    let spec = Spec::from_yaml(&text, "test").expect("a configuration");
    spec.ports.into_values().next().expect("a port")
}

fn answer(pairs: &Pairs, ask: Ask) -> Answer {
    let mut pairs = pairs.lock().expect("pairs");
    match ask {
        Ask::Add(pair, port) => {
            assert!(
                pairs.insert(pair, port).is_none(),
                "a pair that is polled already"
            );
            Answer::Done
        }
        Ask::Take(pair) => Answer::Taken(pairs.remove(&pair)),
        Ask::Changed | Ask::Gone => Answer::Done,
    }
}

impl Rig {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks: 64,
            huge_pages: HugePages::Off,
        };
        let umem = Umem::new(geometry).expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        let guest = Guest::new(&port(dir.path(), more), umem.clone(), dir.path()).expect("a port");
        let pairs = Pairs::default();
        let (send, messages) = mpsc::channel();
        let theirs = pairs.clone();
        std::thread::spawn(move || {
            for message in messages {
                let Message::Guest(question) = message else {
                    panic!("only guests ask here")
                };
                let _ = question.reply.send(Ok(answer(&theirs, question.ask)));
            }
        });
        let name: Name = "a".parse().expect("a name");
        guest.start(&name, send).expect("a thread");
        Self {
            guest,
            pairs,
            pools,
            umem,
            dir,
        }
    }

    fn front(&self) -> FrontEnd {
        FrontEnd::connect(&self.dir.path().join("a.sock")).expect("a connection")
    }

    #[track_caller]
    fn until(&self, what: &str, check: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.guest.status();
            if check(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what}: {status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn polled(&self) -> Vec<u16> {
        self.pairs.lock().expect("pairs").keys().copied().collect()
    }

    /// One turn of a worker: what pair 0 has sent.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut pairs = self.pairs.lock().expect("pairs");
        let port = pairs.get_mut(&0).expect("a pair");
        let mut batch = FrameBatch::new();
        port.rx_batch(&mut self.pools, &mut batch);
        let bytes = |frame: clearway_io::Frame| {
            let mut bytes = vec![0; frame.len() as usize];
            frame.reader().read(&mut bytes);
            self.pools.free(frame);
            bytes
        };
        let frames = batch.drain(..).map(bytes).collect();
        port.rx_done();
        frames
    }

    /// A frame to the guest.
    fn send(&mut self, bytes: &[u8]) -> u64 {
        let mut pairs = self.pairs.lock().expect("pairs");
        let port = pairs.get_mut(&0).expect("a pair");
        let frame = self.pools.frame_from(self.umem.id(), bytes).expect("a chunk");
        let mut frames = vec![frame];
        let sent = port.tx_batch(&mut self.pools, &mut frames);
        frames.drain(..).for_each(|frame| self.pools.free(frame));
        sent.packets
    }
}

fn driver(features: u64, pairs: usize) -> Driver {
    Driver::new(&GuestOptions {
        features: feature::VERSION_1 | features,
        pairs,
        ..GuestOptions::default()
    })
}

const WHOLE: Shape = Shape {
    header: 0,
    data: 0,
    indirect: false,
};

const PROTOCOL: u64 = protocol::MQ
    | protocol::REPLY_ACK
    | protocol::MTU
    | protocol::RARP
    | protocol::LOG_SHMFD
    | protocol::INFLIGHT_SHMFD
    | protocol::STATUS;

#[test]
fn a_guest_comes_and_goes_with_other_features_each_time() {
    let mut rig = Rig::new(", queue-pairs: 2");
    for (round, features) in [0, feature::RING_PACKED, feature::MRG_RXBUF]
        .into_iter()
        .enumerate()
    {
        let mut front = rig.front();
        let mut guest = driver(features | feature::MQ, 2);
        front.start(&guest, PROTOCOL).expect("a start");
        assert_eq!(rig.polled(), [0, 1]);
        let status = rig.guest.status();
        assert_eq!(status.connections, round as u64 + 1);
        assert_eq!(status.features.map(|all| all & features), Some(features));
        assert!(guest.tx().send(Default::default(), &[7; 60], WHOLE));
        guest.tx().flush();
        assert_eq!(rig.receive(), [vec![7; 60]]);
        // Both rings of a pair have stopped: nobody polls it any more.
        front.stop_ring(2).expect("a base");
        assert_eq!(rig.polled(), [0, 1]);
        front.stop_ring(3).expect("a base");
        assert_eq!(rig.polled(), [0]);
        drop(front);
        rig.until("the guest is gone", |status| !status.connected);
        assert_eq!(rig.polled(), Vec::<u16>::new());
    }
}

#[test]
fn a_status_is_kept_and_that_of_a_reset_stops_all_rings() {
    let rig = Rig::new("");
    let mut front = rig.front();
    let guest = driver(0, 1);
    front.start(&guest, PROTOCOL).expect("a start");
    let set = |status: u64| {
        let told = front.tell(request::SET_STATUS, &words(&[status]), &[]);
        assert_eq!(told.expect("an answer"), 0, "status {status}");
        front.number(request::GET_STATUS).expect("a status")
    };
    // All that a driver says when it is ready (virtio 1.2 §2.1).
    assert_eq!(set(0xf), 0xf);
    assert_eq!(rig.polled(), [0]);
    assert_eq!(set(0), 0);
    assert_eq!(rig.polled(), Vec::<u16>::new());
}

#[test]
fn a_channel_for_requests_is_kept_open_and_nothing_is_said_there() {
    let rig = Rig::new("");
    let mut front = rig.front();
    let guest = driver(0, 1);
    front
        .start(&guest, PROTOCOL | protocol::BACKEND_REQ)
        .expect("a start");
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let told = front.tell(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    assert_eq!(told.expect("an answer"), 0);
    drop(theirs);
    ours.set_nonblocking(true).expect("a socket");
    let silent = ours.read(&mut [0; 1]).expect_err("nothing is there");
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
    drop(front);
    ours.set_nonblocking(false).expect("a socket");
    assert_eq!(ours.read(&mut [0; 1]).expect("its end"), 0);
}

#[test]
fn a_second_front_end_is_turned_away() {
    let rig = Rig::new("");
    let mut first = rig.front();
    first.start(&driver(0, 1), PROTOCOL).expect("a start");
    assert!(rig.front().closes());
    rig.until("it was counted", |status| status.turned_away == 1);
    assert_eq!(first.number(request::GET_QUEUE_NUM).expect("a number"), 1);
    drop(first);
    // One that comes right behind the first is not.
    let next = rig.front();
    assert_ne!(next.number(request::GET_FEATURES).expect("a number"), 0);
    assert_eq!(rig.guest.status().turned_away, 1);
}

#[test]
fn an_mtu_is_taken_up_to_the_configured_one() {
    let rig = Rig::new(", mtu: 1400");
    let mut front = rig.front();
    front.negotiate(feature::VERSION_1, PROTOCOL).expect("features");
    let ask = |mtu: u64| {
        front
            .tell(request::NET_SET_MTU, &words(&[mtu]), &[])
            .expect("a reply")
    };
    assert_eq!([1400, 1401, 67, 1 << 40, 68].map(ask), [0, 1, 1, 1, 0]);
    assert_eq!(rig.guest.status().mtu, Some(68));
}

#[test]
fn a_guest_that_has_migrated_is_announced() {
    let mut rig = Rig::new("");
    let mut front = rig.front();
    let mut guest = driver(0, 1);
    front.start(&guest, PROTOCOL).expect("a start");
    let mac = [2, 0, 0, 0, 7, 9, 0, 0];
    assert_eq!(front.tell(request::SEND_RARP, &mac, &[]).expect("a reply"), 0);
    let got = rig.receive();
    assert_eq!(
        (got.len(), &got[0][..14]),
        (1, &[&[0xff; 6][..], &mac[..6], &[0x80, 0x35]].concat()[..])
    );
    assert!(rig.receive().is_empty(), "once");
    // A group's address is nobody's.
    assert_eq!(front.tell(request::SEND_RARP, &[1; 8], &[]).expect("a reply"), 1);
    assert!(rig.receive().is_empty());
    // Rings that have not started are waited for.
    front.stop_ring(0).expect("a base");
    front.stop_ring(1).expect("a base");
    assert_eq!(front.tell(request::SEND_RARP, &mac, &[]).expect("a reply"), 0);
    let pair = &guest.pairs[0];
    front.start_ring(&guest.ram, 1, &pair.tx).expect("a ring");
    assert_eq!(rig.receive().len(), 1);
    assert_eq!(guest.tx().reap(), 0);
}

#[test]
fn pages_are_logged_while_a_guest_migrates() {
    let mut rig = Rig::new("");
    let mut front = rig.front();
    let mut guest = driver(0, 1);
    front.start(&guest, PROTOCOL).expect("a start");
    guest.rx().fill(1514, WHOLE);
    guest.rx().flush();
    let log = RamRegion::new(0, 0, (guest.ram.end() / 4096 / 8).next_multiple_of(4096));
    let count = || {
        let mut bits = vec![0; log.size as usize];
        log.file.read_exact_at(&mut bits, log.offset).expect("the log");
        bits.iter().map(|byte: &u8| byte.count_ones()).sum::<u32>()
    };
    // As QEMU begins a migration: the log, the features, the rings.
    let place = words(&[log.size, log.offset]);
    let reply = front.ask(request::SET_LOG_BASE, &place, &[log.file.as_fd()]);
    assert_eq!(reply.expect("a reply").payload, place);
    assert_eq!((rig.send(&[1; 60]), count()), (1, 0), "not asked for yet");
    let features = guest.features | feature::PROTOCOL_FEATURES | LOG_ALL;
    assert_eq!(
        front
            .tell(request::SET_FEATURES, &words(&[features]), &[])
            .expect("a reply"),
        0
    );
    for (index, queue) in [(0, &guest.pairs[0].rx), (1, &guest.pairs[0].tx)] {
        let payload = addresses(index, 1, &guest.ram, queue, queue.ring.parts()[2]);
        assert_eq!(
            front
                .tell(request::SET_VRING_ADDR, &payload, &[])
                .expect("a reply"),
            0
        );
    }
    let before = count();
    // Two buffers to a page.
    for number in 2..6 {
        assert_eq!(rig.send(&[number; 60]), 1);
    }
    assert!(count() > before, "the buffers' pages");
    // And as it ends one.
    let features = features & !LOG_ALL;
    assert_eq!(
        front
            .tell(request::SET_FEATURES, &words(&[features]), &[])
            .expect("a reply"),
        0
    );
    let before = count();
    assert_eq!((rig.send(&[6; 60]), count()), (1, before));
    let got: Vec<_> = std::iter::from_fn(|| guest.rx().receive())
        .map(|one| one.frame[0])
        .collect();
    assert_eq!(got, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_log_that_is_too_short_ends_the_connection() {
    let rig = Rig::new("");
    let mut front = rig.front();
    let guest = driver(0, 1);
    front.start(&guest, PROTOCOL).expect("a start");
    let log = RamRegion::new(0, 0, 4096);
    let place = words(&[log.size, log.offset]);
    front
        .ask(request::SET_LOG_BASE, &place, &[log.file.as_fd()])
        .expect("a reply");
    let features = guest.features | feature::PROTOCOL_FEATURES | LOG_ALL;
    front
        .send(request::SET_FEATURES, &words(&[features]), &[])
        .expect("sent");
    assert!(front.closes());
    let status = rig.until("it is said why", |status| status.last.is_some());
    assert!(status.last.expect("why").contains("the dirty log ends at"));
}

#[test]
fn buffers_in_flight_at_a_crash_are_taken_again() {
    let mut rig = Rig::new("");
    let mut guest = driver(feature::RING_PACKED, 1);
    let mut front = rig.front();
    front.negotiate(guest.features, PROTOCOL).expect("features");
    let mut asked = words(&[0, 0]);
    asked.extend([2u16, 256, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    let given = front
        .ask(request::GET_INFLIGHT_FD, &asked, &[])
        .expect("a buffer");
    let [file] = &given.fds[..] else {
        panic!("a descriptor")
    };
    let connect = |front: &mut FrontEnd, guest: &Driver, base: u32| {
        front.negotiate(guest.features, PROTOCOL).expect("features");
        let set = front.tell(request::SET_INFLIGHT_FD, &given.payload, &[file.as_fd()]);
        assert_eq!(set.expect("a reply"), 0);
        front.share(&guest.ram).expect("memory");
        front
            .start_ring(&guest.ram, 1, &guest.pairs[0].tx)
            .expect("a ring");
        // What the front-end remembers of it is old.
        let old = state(1, base);
        assert_eq!(
            front.tell(request::SET_VRING_BASE, &old, &[]).expect("a reply"),
            0
        );
        front.enable(1, true).expect("enabled");
    };
    let base = guest.tx().ring.base();
    connect(&mut front, &guest, base);
    for number in 0..3 {
        assert!(guest.tx().send(Default::default(), &[number; 60], WHOLE));
        guest.tx().flush();
    }
    assert_eq!(rig.receive().len(), 3);
    assert!(guest.tx().send(Default::default(), &[9; 60], WHOLE));
    guest.tx().flush();
    // A worker takes the frame, and all is gone before it is given back.
    let port = rig.pairs.lock().expect("pairs").remove(&0);
    let mut port = port.expect("a pair");
    let mut batch = FrameBatch::new();
    assert_eq!(port.rx_batch(&mut rig.pools, &mut batch), 1);
    batch.drain(..).for_each(|frame| rig.pools.free(frame));
    drop(port);
    drop(front);
    rig.until("the guest is gone", |status| !status.connected);
    let mut front = rig.front();
    connect(&mut front, &guest, base);
    assert_eq!(rig.receive(), [vec![9; 60]]);
    assert_eq!(guest.tx().reap(), 4);
}

#[test]
fn memory_that_may_make_a_worker_wait_is_refused() {
    let rig = Rig::new("");
    let mut front = rig.front();
    front.negotiate(feature::VERSION_1, PROTOCOL).expect("features");
    let file = File::open("/proc/version").expect("a file of another file system");
    let table = [state(1, 0), words(&[0, 4096, 0, 0])].concat();
    front
        .send(request::SET_MEM_TABLE, &table, &[file.as_fd()])
        .expect("sent");
    assert!(front.closes());
    let status = rig.until("it is said why", |status| status.last.is_some());
    assert!(status.last.expect("why").contains("memfd"));
}

/// A front-end that adds memory in slots, up to so many bytes, in pieces of 512 KiB; what the last answer was.
fn add_slots(front: &FrontEnd, bytes: u64) -> u64 {
    let piece = 512 << 10;
    let answers = (0..bytes.div_ceil(piece)).map(|slot| {
        let one = RamRegion::new(slot << 30, slot << 40, piece.min(bytes - slot * piece));
        let payload = [words(&[0]), region(&one)].concat();
        front.tell(request::ADD_MEM_REG, &payload, &[one.file.as_fd()])
    });
    let answers: Vec<u64> = answers.collect::<Result<_, _>>().expect("answers");
    let (last, before) = answers.split_last().expect("a slot");
    assert!(before.iter().all(|answer| *answer == 0), "{answers:?}");
    *last
}

#[test]
fn a_guest_that_shares_more_than_it_may_is_refused() {
    const MIB: u64 = 1 << 20;
    let rig = Rig::new("");
    let limit = |mib| {
        let key = "`engine.max-guest-memory`";
        rig.guest.limit_memory(Some(GuestMemoryLimit { mib, key }));
    };
    let connect = |protocol| {
        let mut front = rig.front();
        front.negotiate(feature::VERSION_1, protocol).expect("features");
        front
    };
    let slots = PROTOCOL | protocol::CONFIGURE_MEM_SLOTS;
    let refused = |front: FrontEnd, connections: u64| {
        assert!(front.closes());
        drop(front);
        let why = "its memory regions have 1052672 bytes in all, more than the 1048576 (1 MiB) of `engine.max-guest-memory`";
        rig.until(why, |status| {
            let last = status.last.as_deref().unwrap_or_default();
            !status.connected && status.connections == connections && last.contains(why)
        });
    };
    limit(1);
    let front = connect(slots);
    assert_eq!(add_slots(&front, MIB), 0, "all that it may");
    drop(front);
    rig.until("the guest is gone", |status| !status.connected);

    let front = connect(slots);
    assert_ne!(add_slots(&front, MIB + 4096), 0);
    refused(front, 2);

    // Each region by itself would do.
    let front = connect(PROTOCOL);
    let regions = [
        RamRegion::new(0, 0, MIB / 2),
        RamRegion::new(MIB, MIB, MIB / 2 + 4096),
    ];
    let files = [regions[0].file.as_fd(), regions[1].file.as_fd()];
    let table = memory_table(&regions);
    let answer = front.tell(request::SET_MEM_TABLE, &table, &files);
    assert_ne!(answer.expect("an answer"), 0);
    refused(front, 3);

    // A guest that is there keeps what it was promised; the next one has what holds by then.
    limit(2);
    let front = connect(slots);
    limit(1);
    assert_eq!(add_slots(&front, MIB + 4096), 0);
    drop(front);
    rig.until("the guest is gone", |status| !status.connected);
    let front = connect(slots);
    assert_ne!(add_slots(&front, MIB + 4096), 0);
    refused(front, 5);
    rig.guest.limit_memory(None);
    let front = connect(slots);
    assert_eq!(add_slots(&front, 3 * MIB), 0);
}

/// Memory that comes in slots may still come; a ring that no memory makes right is none to wait for.
#[test]
fn a_ring_that_is_impossible_is_refused_with_memory_in_slots_too() {
    for format in [0, feature::RING_PACKED] {
        let rig = Rig::new("");
        let mut front = rig.front();
        let guest = driver(format, 1);
        front
            .start(&guest, PROTOCOL | protocol::CONFIGURE_MEM_SLOTS)
            .expect("a start");
        assert_eq!(rig.polled(), [0]);
        // No power of two; and a base behind the end of a packed ring.
        let (what, number) = if format == 0 {
            (request::SET_VRING_NUM, 48)
        } else {
            (request::SET_VRING_BASE, 0x7fff_7fff)
        };
        let answer = front.tell(what, &state(1, number), &[]).expect("an answer");
        assert_ne!(answer, 0);
        assert!(front.closes());
        let status = rig.until("it is said why", |status| status.last.is_some());
        let last = status.last.expect("why");
        assert!(last.contains("entries is not possible"), "{last}");
    }
}

fn refused(port: &PortSpec) -> String {
    let path = port.socket.clone().expect("a socket");
    match listen(port, &path) {
        Err(OpenError::Fatal(reason)) => reason,
        Err(OpenError::Wait(reason)) => format!("waiting: {reason}"),
        Ok(_) => panic!("{} was served", path.display()),
    }
}

#[test]
fn a_socket_has_the_configured_rights_and_goes_with_its_port() {
    let dir = tempfile::tempdir().expect("a folder");
    for (more, mode) in [
        ("", 0o660),
        (", permissions: '0600'", 0o600),
        (", permissions: '0666'", 0o666),
    ] {
        let port = port(dir.path(), more);
        let path = port.socket.clone().expect("a socket");
        let served = listen(&port, &path).expect("a socket");
        let there = std::fs::metadata(&path).expect("it is there");
        assert_eq!(there.permissions().mode() & 0o777, mode);
        UnixStream::connect(&path).expect("somebody listens");
        drop(served);
        assert!(!path.exists());
    }
    let mine = std::fs::metadata(dir.path()).expect("a folder");
    let port = port(
        dir.path(),
        &format!(", owner: '{}', group: '{}'", mine.uid(), mine.gid()),
    );
    let path = port.socket.clone().expect("a socket");
    let _served = listen(&port, &path).expect("a socket");
    let there = std::fs::metadata(&path).expect("it is there");
    assert_eq!((there.uid(), there.gid()), (mine.uid(), mine.gid()));
}

/// Also where a long path is reached through its folder, and of another's.
#[test]
fn a_socket_has_the_configured_label() {
    let dir = tempfile::tempdir().expect("a folder");
    let long = dir.path().join("x".repeat(150));
    std::fs::create_dir(&long).expect("a folder");
    let label = "system_u:object_r:svirt_image_t:s0:c1,c2";
    for folder in [dir.path(), &long] {
        for more in ["", ", owner: '12345', group: '23456'"] {
            let port = port(folder, &format!(", selinux-label: '{label}'{more}"));
            let path = port.socket.clone().expect("a socket");
            let _served = listen(&port, &path).expect("a socket");
            let mut found = [0_u8; 100];
            let length = rustix::fs::lgetxattr(&path, "security.selinux", &mut found[..]).expect("a label");
            assert_eq!(found[..length].trim_ascii_end(), label.as_bytes());
        }
    }
    // Where nobody asks for one it is the policy's.
    let port = port(dir.path(), "");
    let path = port.socket.clone().expect("a socket");
    let _served = listen(&port, &path).expect("a socket");
    let found = rustix::fs::lgetxattr(&path, "security.selinux", &mut [0_u8; 100][..]);
    assert_eq!(found, Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_label_that_can_not_be_given_is_told_and_leaves_no_socket() {
    // No file system takes one of that length (xattr(7)).
    let dir = tempfile::tempdir().expect("a folder");
    let port = port(dir.path(), &format!(", selinux-label: '{}'", "x".repeat(70_000)));
    let told = refused(&port);
    assert!(
        told.contains("setting the rights of") && told.contains("SELinux label"),
        "{}",
        &told[..100]
    );
    assert!(!port.socket.expect("a socket").exists());
}

#[test]
fn only_a_socket_of_the_dead_is_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = port(dir.path(), "");
    let path = port.socket.clone().expect("a socket");
    // A listener whose process has ended leaves its name.
    drop(UnixListener::bind(&path).expect("a socket"));
    drop(listen(&port, &path).expect("the stale one is replaced"));
    let alive = UnixListener::bind(&path).expect("a socket");
    let said = refused(&port);
    let us = format!("process {} listens on", std::process::id());
    assert!(said.contains(&us) && said.contains("client: true"), "{said}");
    drop(alive);
    std::fs::remove_file(&path).expect("it was there");
    std::fs::write(&path, "mine").expect("a file");
    assert!(refused(&port).contains("is no socket"));
    assert_eq!(std::fs::read(&path).expect("it is still there"), b"mine");
}

#[test]
fn what_took_its_place_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = port(dir.path(), "");
    let path = port.socket.clone().expect("a socket");
    let served = listen(&port, &path).expect("a socket");
    std::fs::remove_file(&path).expect("it is there");
    let _other = UnixListener::bind(&path).expect("another's");
    drop(served);
    assert!(path.exists());
}

#[test]
fn a_folder_that_is_missing_is_waited_for_and_a_user_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = port(&dir.path().join("later"), "");
    assert!(refused(&missing).starts_with("waiting: the folder"));
    let nobody = port(dir.path(), ", owner: nobody-of-this-name");
    assert!(refused(&nobody).contains("no user `nobody-of-this-name`"));
}

#[test]
fn paths_longer_than_an_address_are_reached_through_their_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    // One that just fits, one that does not, and one far beyond.
    for bytes in [107, 108, 250] {
        let mut folder = PathBuf::from(dir.path());
        while folder.as_os_str().len() + 60 < bytes {
            folder.push("x".repeat(40));
        }
        std::fs::create_dir_all(&folder).expect("folders");
        let name = "s".repeat(bytes - folder.as_os_str().len() - 1);
        let path = folder.join(name);
        assert_eq!(path.as_os_str().len(), bytes);
        let mut port = port(dir.path(), "");
        port.socket = Some(path.clone());
        let served = listen(&port, &path).expect("a socket");
        super::socket::connect(&path).expect("a connection");
        assert!(
            refused(&port).contains("listens on"),
            "{bytes} bytes, while it is served"
        );
        drop(served);
        assert!(!path.exists());
    }
}
