//! A worker turned by hand between memory ports: what the benchmarks of the pipeline measure.
//!
//! ```text
//!   refill: 64 frames back to what they were, new addresses ──► port 0 ─► Worker::turn() ─► port n ──► taken
//!   └───────────────────────── not timed ─────────────────────┘ └──── timed: rx, stages, tx ────┘
//! ```

use clearway_engine::{
    BdId, Dest, Domain, Engine, EngineConfig, FdbKey, Idle, Member, MemberId, OuterDscp, OuterSpec, Place,
    PortConf, PortId, Remotes, Rewrite, Service, Snapshot, TagRule, Tunnel, TunnelId, VniTable, Vtep, VtepId,
    Worker, WorkerId,
};
use clearway_io::{
    AnyPort, Frame, FrameBatch, HugePages, MemoryPeer, PoolSet, Umem, UmemGeometry, memory_port,
};
use clearway_wire::{MacAddr, MappedIp, Vni};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Packets of a batch.
pub const BATCH: usize = 64;
/// Bytes of an outer Ethernet, IPv4, UDP and VXLAN header.
const OUTER: u32 = 50;

/// Which way the packets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Access port → learn → lookup → VXLAN encapsulation.
    Encap,
    /// VXLAN decapsulation → learn → lookup → access port.
    Decap,
    /// Access port → learn → lookup → access port.
    Bridge,
    /// Port → port.
    CrossConnect,
}

/// What is configured and sent.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The way.
    pub path: Path,
    /// FDB entries, half sources, half destinations, used at random.
    pub entries: u32,
    /// Ports in all; at least 2.
    pub ports: u16,
    /// Bridge domains (and VNIs) in all; at least 1. Traffic uses the first.
    pub domains: u16,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            path: Path::Encap,
            entries: 65_536,
            ports: 2,
            domains: 1,
        }
    }
}

/// What the documentation gives figures of, by name.
#[must_use]
pub fn scenarios() -> Vec<(String, Scenario)> {
    let base = Scenario::default();
    let mut all = vec![(
        "cross-connect".to_owned(),
        Scenario {
            path: Path::CrossConnect,
            entries: 2,
            ..base
        },
    )];
    for path in [Path::Bridge, Path::Encap, Path::Decap] {
        for entries in [2, 2048, 65_536, 1 << 20] {
            all.push((
                format!("{path:?}/{entries}").to_lowercase(),
                Scenario {
                    path,
                    entries,
                    ..base
                },
            ));
        }
    }
    for sources in [1, 1024, 8192] {
        let scenario = Scenario {
            path: Path::Bridge,
            entries: 2 * sources,
            ports: 3,
            ..base
        };
        all.push((format!("bridge-3-ports/{sources}-sources"), scenario));
    }
    all.push((
        "encap-10-ports-10000-domains/65536".into(),
        Scenario {
            ports: 10,
            domains: 10_000,
            ..base
        },
    ));
    let decap = Scenario {
        path: Path::Decap,
        ports: 10,
        domains: 10_000,
        ..base
    };
    all.push(("decap-10-ports-10000-domains/65536".into(), decap));
    all
}

/// The worker and the far ends of its ports.
pub struct Rig {
    scenario: Scenario,
    worker: Worker,
    peers: Vec<MemoryPeer>,
    pools: PoolSet,
    frames: Vec<Frame>,
    taken: FrameBatch,
    random: u64,
    /// Kept: its end of the queues.
    _engine: Engine,
}

fn local_mac(n: u32) -> u64 {
    0x0200_0000_0000 | u64::from(n)
}

fn remote_mac(n: u32) -> u64 {
    0x0600_0000_0000 | u64::from(n)
}

const UPLINK: u16 = 1;
const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const THEIRS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

impl Rig {
    /// Builds engine, tables and frames; every address is in the FDB before the first turn.
    ///
    /// # Panics
    /// If the machine is out of memory or descriptors: there is nothing to measure then.
    #[must_use]
    #[allow(
        clippy::unwrap_used,
        reason = "a benchmark that can't be set up has nothing to say"
    )]
    pub fn new(scenario: Scenario) -> Self {
        let config = EngineConfig {
            cores: vec![None],
            idle: Idle::Spin,
            fdb_capacity: scenario.entries.max(1024),
            fdb_seed: 1,
        };
        let (mut engine, mut workers) = Engine::manual(&config).unwrap();
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks: 4096,
            huge_pages: HugePages::Auto,
        };
        let umem = Umem::new(geometry).unwrap();
        engine.add_region(&umem).unwrap();
        let mut peers = Vec::new();
        for port in 0..scenario.ports {
            let (io, peer) = memory_port(512).unwrap();
            engine
                .add_queue(WorkerId(0), PortId(port), 0, AnyPort::Memory(io), Some(umem.id()))
                .unwrap();
            peers.push(peer);
        }
        engine.publish(snapshot(scenario)).unwrap();
        let mut worker = workers.remove(0);
        worker.turn();
        let half = scenario.entries / 2;
        for n in 0..half {
            let (local, remote) = (local_mac(n), remote_mac(n));
            let there = match scenario.path {
                Path::Encap | Path::Decap => Dest::Tunnel(TunnelId(0)),
                Path::Bridge | Path::CrossConnect => {
                    // Over the ports other than the one that sends.
                    Dest::Member(MemberId(1 + (n % u32::from(scenario.ports - 1)) as u16))
                }
            };
            let key = |mac| FdbKey::new(BdId(1), mac);
            engine
                .fdb()
                .learn_for_bench(key(local), Dest::Member(MemberId(0)));
            engine.fdb().learn_for_bench(key(remote), there);
        }
        let mut pools = PoolSet::new();
        pools.add(&umem);
        let frames = (0..BATCH)
            .map(|_| pools.frame_from(umem.id(), &template()).unwrap())
            .collect();
        Self {
            scenario,
            worker,
            peers,
            pools,
            frames,
            taken: FrameBatch::new(),
            random: 1,
            _engine: engine,
        }
    }

    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }

    /// Moves `batches` batches; gives the time inside the worker's turns.
    ///
    /// # Panics
    /// If a packet does not come out: the figure would be of something else.
    pub fn run(&mut self, batches: u64) -> Duration {
        let mut time = Duration::ZERO;
        for _ in 0..batches {
            self.refill();
            let into = usize::from(if self.scenario.path == Path::Decap {
                UPLINK
            } else {
                0
            });
            self.peers[into].send_batch(&mut self.frames);
            let begin = Instant::now();
            self.worker.turn();
            time += begin.elapsed();
            for peer in &mut self.peers {
                peer.recv_batch(&mut self.taken);
                self.frames.extend(self.taken.drain(..));
            }
            assert_eq!(self.frames.len(), BATCH, "every packet comes out");
        }
        time
    }

    /// Brings the frames back to what arrives: right length, addresses of the next random pair.
    fn refill(&mut self) {
        let half = (self.scenario.entries / 2).max(1);
        let mut frames = std::mem::take(&mut self.frames);
        for frame in &mut frames {
            match self.scenario.path {
                // It left with outer headers.
                Path::Encap if frame.len() > 60 => assert!(frame.advance(OUTER)),
                // It left without; they are still in the headroom.
                Path::Decap if frame.len() == 60 => assert!(frame.push_front(OUTER)),
                _ => {}
            }
            let (local, remote) = (local_mac(self.random() % half), remote_mac(self.random() % half));
            let (at, src, dst) = match self.scenario.path {
                Path::Decap => {
                    frame.bytes_mut()[..OUTER as usize].copy_from_slice(&outer());
                    (OUTER as usize, remote, local)
                }
                _ => (0, local, remote),
            };
            let bytes = frame.bytes_mut();
            bytes[at..at + 6].copy_from_slice(&MacAddr::from_u64(dst).0);
            bytes[at + 6..at + 12].copy_from_slice(&MacAddr::from_u64(src).0);
        }
        self.frames = frames;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.frames.drain(..).for_each(|frame| self.pools.free(frame));
    }
}

/// A UDP packet of 60 bytes (64 with FCS).
fn template() -> Vec<u8> {
    let mut bytes = vec![0; 60];
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17]);
    bytes[26..34].copy_from_slice(&[192, 168, 0, 1, 192, 168, 0, 2]);
    bytes[34..40].copy_from_slice(&[0x30, 0, 0x40, 0, 0, 26]);
    bytes
}

fn rewrite(from: IpAddr, to: IpAddr) -> Option<Rewrite> {
    Rewrite::new(&OuterSpec {
        src_mac: MacAddr([2, 0xee, 0, 0, 0, 1]),
        dst_mac: MacAddr([2, 0xee, 0, 0, 0, 1]),
        vid: None,
        local: from,
        remote: to,
        udp_port: 4789,
        ttl: 64,
        dscp: OuterDscp::Copy,
        checksum: false,
    })
}

/// Outer headers of a 60-byte frame from the remote, VNI 1.
fn outer() -> [u8; OUTER as usize] {
    let mut bytes = [0; OUTER as usize];
    bytes[..12].copy_from_slice(&[2, 0xee, 0, 0, 0, 1, 2, 0xee, 0, 0, 0, 2]);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..24].copy_from_slice(&[0x45, 0, 0, 96, 0, 0, 0x40, 0, 64, 17]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    let sum = clearway_wire::checksum::checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34..42].copy_from_slice(&[0xc0, 0, 0x12, 0xb5, 0, 76, 0, 0]);
    bytes[42..50].copy_from_slice(&[8, 0, 0, 0, 0, 0, 1, 0]);
    bytes
}

fn snapshot(scenario: Scenario) -> Snapshot {
    let Scenario {
        path, ports, domains, ..
    } = scenario;
    let vxlan = matches!(path, Path::Encap | Path::Decap);
    let place = |bd, member| Place {
        bd: BdId(bd),
        member: MemberId(member),
    };
    let conf = |port: u16| {
        let service = match (path, port) {
            (Path::CrossConnect, 0) => Service::CrossConnect(PortId(1)),
            (Path::CrossConnect, _) => Service::CrossConnect(PortId(0)),
            (_, UPLINK) if vxlan => Service::None,
            // Ports beyond the first few each have a domain of their own, if there are enough.
            _ => Service::Access(place(1, port)),
        };
        let vteps = if vxlan && port == UPLINK {
            Box::from([VtepId(0)])
        } else {
            Box::default()
        };
        Some(Arc::new(PortConf {
            service,
            vteps,
            ..PortConf::default()
        }))
    };
    let member = |port| Member {
        port: PortId(port),
        generation: 0,
        tags: TagRule::default(),
        isolated: false,
    };
    let members: Vec<_> = (0..ports)
        .map(|p| (!vxlan || p != UPLINK).then(|| member(p)))
        .collect();
    let mut vnis = VniTable::default();
    let mut domain_table = vec![None];
    for bd in 1..=domains {
        let vni = Vni::new(u32::from(bd));
        if let Some(vni) = vni {
            vnis.insert(vni, BdId(bd));
        }
        let members = if bd == 1 { members.clone() } else { Vec::new() };
        let remotes = if vxlan {
            Box::from([TunnelId(0)])
        } else {
            Box::default()
        };
        domain_table.push(Some(Arc::new(Domain {
            members,
            remotes,
            vni,
            ..Domain::default()
        })));
    }
    let mut remotes = Remotes::default();
    remotes.insert(MappedIp::from(THEIRS), TunnelId(0));
    let vtep = Vtep {
        local: OURS.into(),
        mac: MacAddr([2, 0xee, 0, 0, 0, 1]).to_u64(),
        udp_port: 4789,
        vid: None,
        answers: None,
        vnis,
        remotes,
    };
    let tunnel = Tunnel {
        port: PortId(UPLINK),
        generation: 0,
        max_inner: 1450,
        rewrite: rewrite(OURS, THEIRS),
    };
    Snapshot {
        epoch: 0,
        ports: (0..ports).map(conf).collect(),
        domains: domain_table,
        vteps: vec![Some(Arc::new(vtep))],
        tunnels: vec![Some(Arc::new(tunnel))],
    }
}
