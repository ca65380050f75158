//! A test bed: workers turned by hand, memory ports, exact accounts.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes it and uses a part"
)]

pub mod packet;

use clearway_engine::*;
use clearway_io::{HugePages, MemoryPeer, Offload, Offloads, PoolSet, Umem, UmemGeometry, memory_port};
use clearway_wire::{MacAddr, Vid, Vni};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const CHUNKS: u32 = 8192;

/// Engine, workers and the other ends of all ports.
pub struct Bed {
    pub engine: Engine,
    pub workers: Vec<Worker>,
    pub umem: Umem,
    pub peers: Vec<Option<MemoryPeer>>,
    pub pools: PoolSet,
    pub conf: Snapshot,
}

pub fn bd(n: u16) -> BdId {
    BdId(n)
}

pub fn place(bd: u16, member: u16) -> Place {
    Place {
        bd: BdId(bd),
        member: MemberId(member),
    }
}

pub fn member(port: u16) -> Member {
    Member {
        port: PortId(port),
        generation: 0,
        tags: TagRule::default(),
        isolated: false,
    }
}

pub fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

pub fn vid(n: u16) -> Vid {
    Vid::new(n).expect("vid")
}

pub fn vni(n: u32) -> Vni {
    Vni::new(n).expect("vni")
}

/// An untagged frame of 60 bytes.
pub fn frame(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    tagged(dst, src, &[])
}

/// A frame with tags (TPID, TCI) and the ethertype for local experiments, of 60 bytes and the tags.
pub fn tagged(dst: MacAddr, src: MacAddr, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend([0x88, 0xb5]);
    bytes.extend((0..46).map(|i| i as u8));
    bytes
}

impl Bed {
    /// `workers` workers and memory ports 0..ports, all polled by worker `port % workers`.
    pub fn new(workers: usize, ports: u16) -> Self {
        Self::with_offloads(workers, &vec![Offloads::empty(); usize::from(ports)])
    }

    /// The same, with what the receiver behind each port does itself.
    pub fn with_offloads(workers: usize, offloads: &[Offloads]) -> Self {
        let ports = offloads.len() as u16;
        let config = EngineConfig {
            cores: vec![None; workers],
            idle: Idle::Spin,
            fdb_capacity: 4096,
            fdb_seed: 7,
        };
        let (mut engine, mut workers) = Engine::manual(&config).expect("engine");
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks: CHUNKS,
            huge_pages: HugePages::Off,
        };
        let umem = Umem::new(geometry).expect("memory");
        let mut pools = PoolSet::new();
        pools.add(&umem);
        engine.add_region(&umem).expect("region");
        let mut peers = Vec::new();
        for port in 0..ports {
            let (mut io, peer) = memory_port(512).expect("eventfd");
            io.set_offloads(offloads[usize::from(port)]);
            let worker = WorkerId((usize::from(port) % workers.len()) as u8);
            let io = clearway_io::AnyPort::Memory(io);
            engine
                .add_queue(worker, PortId(port), 0, io, Some(umem.id()))
                .expect("queue");
            peers.push(Some(peer));
        }
        let conf = Snapshot {
            ports: (0..ports).map(|_| Some(Arc::new(PortConf::default()))).collect(),
            ..Snapshot::default()
        };
        workers.iter_mut().for_each(|w| {
            w.turn();
        });
        Self {
            engine,
            workers,
            umem,
            peers,
            pools,
            conf,
        }
    }

    pub fn port(&mut self, port: u16, change: impl FnOnce(&mut PortConf)) -> &mut Self {
        let slot = self.conf.ports[usize::from(port)].as_mut().expect("port");
        change(Arc::make_mut(slot));
        self
    }

    pub fn domain(&mut self, bd: u16, domain: Domain) -> &mut Self {
        let bd = usize::from(bd);
        if self.conf.domains.len() <= bd {
            self.conf.domains.resize(bd + 1, None);
        }
        self.conf.domains[bd] = Some(Arc::new(domain));
        self
    }

    /// All ports as access ports of domain 1.
    pub fn one_domain(mut self) -> Self {
        let n = self.peers.len() as u16;
        for port in 0..n {
            self.port(port, |p| p.service = Service::Access(place(1, port)));
        }
        self.domain(
            1,
            Domain {
                members: (0..n).map(|p| Some(member(p))).collect(),
                ..Domain::default()
            },
        );
        self.publish();
        self
    }

    pub fn publish(&mut self) {
        self.engine.publish(self.conf.clone()).expect("publish");
        self.turn();
    }

    pub fn send(&mut self, port: u16, bytes: &[u8]) {
        let frame = self.pools.frame_from(self.umem.id(), bytes).expect("chunk");
        let peer = self.peers[usize::from(port)].as_mut().expect("port");
        peer.send(frame).expect("room");
    }

    /// Sends a frame that its sender left undone; `held`: all but its first bytes are outside, in three parts, one empty.
    pub fn send_undone(&mut self, port: u16, bytes: &[u8], offload: Option<Offload>, held: Option<usize>) {
        let (head, rest) = bytes.split_at(held.unwrap_or(bytes.len()));
        let mut frame = self.pools.frame_from(self.umem.id(), head).expect("chunk");
        if let Some(offload) = offload {
            assert!(frame.set_offload(offload), "{offload:?}");
        }
        if held.is_some() {
            let rest: &'static [u8] = Box::leak(rest.into());
            let (first, second) = rest.split_at(rest.len() / 3);
            assert!(
                frame.hold_static(&[first, &[], second]),
                "a head of at most 256 bytes"
            );
        }
        let peer = self.peers[usize::from(port)].as_mut().expect("port");
        peer.send(frame).expect("room");
    }

    /// What came out of a port, with what is left undone.
    pub fn recv_undone(&mut self, port: u16) -> Vec<(Vec<u8>, Option<Offload>)> {
        let peer = self.peers[usize::from(port)].as_mut().expect("port");
        let pools = &mut self.pools;
        std::iter::from_fn(|| peer.recv())
            .map(|frame| {
                let mut bytes = vec![0; frame.len() as usize];
                assert_eq!(frame.reader().read(&mut bytes), bytes.len());
                let offload = frame.offload();
                pools.free(frame);
                (bytes, offload)
            })
            .collect()
    }

    /// Turns all workers until nothing moves.
    pub fn turn(&mut self) {
        while self.workers.iter_mut().map(Worker::turn).sum::<usize>() > 0 {}
    }

    /// What came out of a port.
    pub fn recv(&mut self, port: u16) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let Some(peer) = self.peers[usize::from(port)].as_mut() else {
            return out;
        };
        while let Some(frame) = peer.recv() {
            out.push(frame.segments().flatten().copied().collect());
            self.pools.free(frame);
        }
        out
    }

    /// Sends one frame into a port and gives what came out, by port.
    pub fn cross(&mut self, port: u16, bytes: &[u8]) -> BTreeMap<u16, Vec<Vec<u8>>> {
        self.send(port, bytes);
        self.turn();
        (0..self.peers.len() as u16)
            .map(|p| (p, self.recv(p)))
            .filter(|(_, frames)| !frames.is_empty())
            .collect()
    }

    /// The sum of all ledgers; asserts that each balances.
    pub fn ledger(&mut self) -> Ledger {
        // Workers answer in their turns: ask from another thread.
        let Self { engine, workers, .. } = self;
        let ledgers = std::thread::scope(|s| {
            let asked = s.spawn(|| engine.ledgers().expect("ledgers"));
            while !asked.is_finished() {
                workers.iter_mut().for_each(|w| {
                    w.turn();
                });
            }
            asked.join().expect("thread")
        });
        let mut sum = Ledger::default();
        for ledger in ledgers {
            assert!(ledger.balanced(), "{ledger:?}");
            sum.add(&ledger);
        }
        sum
    }

    /// Drops by name; asserts that no other reason counted.
    pub fn drops(&mut self) -> BTreeMap<&'static str, u64> {
        let ledger = self.ledger();
        DropReason::ALL
            .iter()
            .map(|r| (r.name(), ledger.drops[*r as usize]))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// Ends everything; asserts that every chunk came home.
    pub fn finish(mut self) {
        let ledger = self.ledger();
        assert_eq!(ledger.in_flight(), 0, "{ledger:?}");
        (0..self.peers.len() as u16).for_each(|p| {
            self.recv(p);
        });
        let Self {
            engine,
            workers,
            umem,
            peers,
            pools,
            ..
        } = self;
        drop((workers, engine, peers, pools));
        assert_eq!(umem.depot_chunks(), CHUNKS, "a chunk was lost");
    }
}
