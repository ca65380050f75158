//! Any messages in any order, with any descriptors: nothing panics, nobody is waited for, and when the connection is
//! over, no worker has a ring of it. Runs briefly as a test, and as long as one likes with `make fuzz`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clearway_io::{
    EventFd, FrameBatch, HugePages, PoolSet, Port, RegionId, RingFile, Umem, UmemGeometry, VhostPort,
};
use clearway_virtio_mock::{
    FrontEnd, Guest, GuestOptions, Shape, addresses, feature, memory_table, protocol, region, request, state,
    words,
};

use super::device::Device;
use super::guest::Shared;
use super::link::{Link, Turn};
use super::{Answer, Ask};

const CHUNKS: u32 = 128;

/// What a front-end sends next: what, of which ring, and two numbers.
type Op = (u8, u8, u16, u64);

/// A worker as the control thread sees it: it has queue pairs, and looks at each that it gets.
struct Worker {
    ports: BTreeMap<u16, Box<VhostPort>>,
    pools: PoolSet,
    region: RegionId,
}

impl Worker {
    fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Add(pair, mut port) => {
                self.look(&mut port);
                assert!(self.ports.insert(pair, port).is_none(), "one port a pair");
                Answer::Done
            }
            Ask::Take(pair) => {
                let mut port = self.ports.remove(&pair);
                if let Some(port) = &mut port {
                    self.look(port);
                }
                // Where a ring has failed, the port is gone.
                Answer::Taken(port.filter(|port| port.fault().is_none()))
            }
            Ask::Changed | Ask::Gone => Answer::Done,
        }
    }

    fn look(&mut self, port: &mut VhostPort) {
        let mut batch = FrameBatch::new();
        port.rx_batch(&mut self.pools, &mut batch);
        batch.drain(..).for_each(|frame| self.pools.free(frame));
        port.rx_done();
        let mut list: Vec<_> = self
            .pools
            .frame_from(self.region, &[1; 100])
            .into_iter()
            .collect();
        port.tx_batch(&mut self.pools, &mut list);
        list.drain(..).for_each(|frame| self.pools.free(frame));
        port.rx_lost();
    }
}

/// A front-end: what it has to send.
struct Sender {
    guest: Guest,
    front: FrontEnd,
    files: [OwnedFd; 3],
}

impl Sender {
    /// A message that is right or nearly so.
    fn message(&self, (what, index, a, b): Op) -> (u32, Vec<u8>, Vec<BorrowedFd<'_>>) {
        let ram = &self.guest.ram;
        let ring = u32::from(index % 5);
        let pair = &self.guest.pairs[usize::from(index / 2 % 2)];
        let queue = if index % 2 == 0 { &pair.rx } else { &pair.tx };
        let slot = &ram.regions()[usize::from(index % 2)];
        let fds = |n: usize| self.files.iter().map(AsFd::as_fd).take(n).collect::<Vec<_>>();
        let number = if a & 1 == 0 { b } else { b & 0xf };
        match what % 32 {
            0 | 1 => {
                let good = self.guest.features | feature::PROTOCOL_FEATURES;
                (
                    request::SET_FEATURES,
                    words(&[good & !(b & u64::from(a))]),
                    Vec::new(),
                )
            }
            2 => {
                let some =
                    protocol::MQ | protocol::REPLY_ACK | protocol::CONFIGURE_MEM_SLOTS | protocol::STATUS;
                (request::SET_PROTOCOL_FEATURES, words(&[some & b]), Vec::new())
            }
            3 | 4 => {
                let regions = &ram.regions()[..1 + usize::from(a % 2)];
                let files = regions.iter().map(|region| region.file.as_fd()).collect();
                (request::SET_MEM_TABLE, memory_table(regions), files)
            }
            5 | 6 => {
                let payload = [words(&[0]), region(slot)].concat();
                (request::ADD_MEM_REG, payload, vec![slot.file.as_fd()])
            }
            7 => (
                request::REM_MEM_REG,
                [words(&[0]), region(slot)].concat(),
                Vec::new(),
            ),
            8 | 9 => {
                let size = if a & 3 == 0 {
                    b as u32
                } else {
                    queue.ring.size().into()
                };
                (request::SET_VRING_NUM, state(ring, size), Vec::new())
            }
            10..=12 => {
                let mut payload = addresses(ring, 0, ram, queue, 0);
                if a & 7 == 0 {
                    payload[8 + usize::from(a >> 8) % 32] ^= b as u8;
                }
                (request::SET_VRING_ADDR, payload, Vec::new())
            }
            13 => {
                let base = if a & 3 == 0 { b as u32 } else { queue.ring.base() };
                (request::SET_VRING_BASE, state(ring, base), Vec::new())
            }
            14 => (request::GET_VRING_BASE, state(ring, 0), Vec::new()),
            15..=17 => (
                request::SET_VRING_KICK,
                words(&[ring.into()]),
                vec![queue.kick.as_fd()],
            ),
            18 => (
                request::SET_VRING_CALL,
                words(&[ring.into()]),
                vec![queue.call.as_fd()],
            ),
            19..=21 => (
                request::SET_VRING_ENABLE,
                state(ring, u32::from(a & 3 != 0)),
                Vec::new(),
            ),
            22 => (request::SET_STATUS, words(&[number]), Vec::new()),
            23 => (request::NET_SET_MTU, words(&[number]), Vec::new()),
            24 => (request::SEND_RARP, words(&[b]), fds(usize::from(a & 1))),
            // A number where one belongs, of any request.
            25 | 26 => (u32::from(a % 48), words(&[number]), fds(usize::from(a >> 8 & 3))),
            27 | 28 => (u32::from(a % 48), Vec::new(), fds(usize::from(a >> 8 & 3))),
            // Any bytes.
            _ => {
                let length = usize::from(a >> 6) % 300;
                let bytes = b.to_le_bytes().into_iter().cycle().take(length).collect();
                (u32::from(a % 48), bytes, fds(usize::from(index & 3)))
            }
        }
    }
}

/// Features, memory by table or by slots, and the rings of one pair or two.
fn beginning(kind: u8) -> Vec<Op> {
    let mut ops = vec![(2, 0, 0, u64::MAX), (0, 0, 0, 0)];
    if kind & 8 == 0 {
        ops.push((3, 0, 1, 0));
    } else {
        ops.extend([(5, 0, 0, 0), (5, 1, 0, 0)]);
    }
    for ring in 0..if kind & 16 == 0 { 2 } else { 4 } {
        // Number, base, addresses, call, kick, on: each right.
        ops.extend([8, 13, 10, 18, 15, 19].map(|what| (what, ring, 1, 0)));
    }
    ops
}

/// Handles what is there. None: the connection is over.
fn handle(link: &mut Link) -> Option<()> {
    loop {
        match link.turn() {
            Ok(Turn::Handled | Turn::Refused) => {}
            Ok(Turn::Idle) => return Some(()),
            Ok(Turn::Closed) | Err(_) => return None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connection(umem: &Umem, file: &Path, kind: u8, ops: &[Op]) {
    let options = GuestOptions {
        features: VhostPort::FEATURES
            & if kind & 1 == 0 {
                !feature::RING_PACKED
            } else {
                u64::MAX
            },
        tx_size: 16,
        rx_size: 16,
        pairs: 2,
        ram: vec![1 << 16, 1 << 16],
        ..GuestOptions::default()
    };
    let mut guest = Guest::new(&options);
    for pair in &mut guest.pairs {
        assert!(pair.tx.send(Default::default(), &[1; 100], Shape::default()));
        assert!(pair.rx.post(200, Shape::default()));
        pair.tx.flush();
        pair.rx.flush();
    }
    let mut pools = PoolSet::new();
    pools.add(umem);
    let worker = Arc::new(Mutex::new(Worker {
        ports: BTreeMap::new(),
        pools,
        region: umem.id(),
    }));
    let asked = worker.clone();
    let records = Arc::new(RingFile::open(file, 4).expect("a file"));
    // What a daemon that crashed left behind: what the last run did, or other places in the same rings.
    if let (true, Some((_, _, _, place))) = (kind & 32 != 0, ops.first()) {
        let file = File::options().write(true).open(file).expect("the file");
        for ring in 0..4 {
            let place = place.rotate_left(11 * ring) & 0x001f_001f_800f_800f;
            file.write_all_at(&place.to_le_bytes(), u64::from(ring) * 64 + 16)
                .expect("a place");
        }
    }
    let wake = EventFd::new().expect("an eventfd");
    let shared = Arc::new(Shared::new(None, records, wake));
    let control = Box::new(move |ask| Ok(lock(&asked).answer(ask)));
    let device = Device::new(control, shared, umem.clone(), 2);
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    let mut link = Link::new(ours, device).expect("a link");
    let sender = Sender {
        files: [
            guest.ram.regions()[0].fd(),
            guest.tx().kick_fd(),
            guest.rx().call_fd(),
        ],
        guest,
        front: FrontEnd::new(theirs),
    };
    sender.front.stream().set_nonblocking(true).expect("a socket");
    let mut replies = [0; 4096];
    // Most begin well, since nothing but a good beginning leads to rings.
    let begin = if kind >> 1 & 3 == 0 {
        Vec::new()
    } else {
        beginning(kind)
    };
    for op in begin.iter().chain(ops).take(100) {
        let (request, payload, fds) = sender.message(*op);
        // Mostly as it should be; now and then a reply, another version, or to be acknowledged.
        let flags = match op.1 >> 3 {
            31 => u32::from(op.2 & 15),
            20..31 => 9,
            _ => 1,
        };
        let bytes = FrontEnd::encode(request, flags, &payload);
        if sender.front.send_bytes(&bytes, &fds).is_err() || handle(&mut link).is_none() {
            break;
        }
        let _ = sender.front.stream().read(&mut replies);
    }
    link.close();
    assert!(lock(&worker).ports.is_empty(), "a worker still has a ring");
    assert!(sender.guest.ram.canaries_live());
    drop(worker);
    assert_eq!(umem.depot_chunks(), CHUNKS);
}

#[test]
fn fuzz_vhost_messages() {
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks: CHUNKS,
        huge_pages: HugePages::Off,
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rings");
    // A mutex, since that is what may be seen by what comes after a panic.
    let umem = Mutex::new(Umem::new(geometry).expect("memory"));
    bolero::check!()
        .with_type::<(u8, Vec<Op>)>()
        .with_iterations(2000)
        .for_each(|(kind, ops)| connection(&lock(&umem).clone(), &file, *kind, ops));
}
