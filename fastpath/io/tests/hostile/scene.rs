//! One worker with a hostile guest's port, a witness's port and a port in memory.
//!
//! ```text
//!   hostile guest ──► witness guest ◄──► memory port          each turn: witness → memory, memory → witness, and one
//!        ▲────────────────────────────────────┘               to the hostile guest
//! ```

use crate::bed::{Bed, Guest, GuestOptions, WHOLE, config, frame, received};
use clearway_io::{
    Fault, FrameBatch, HugePages, MemoryPeer, MemoryPort, PoolSet, Port, Umem, UmemGeometry, VhostConfig,
    VhostPort, memory_port,
};
use clearway_virtio_mock::{Raw, desc_flag, feature};

/// What a hostile guest does.
pub struct Behaviour {
    /// Its name.
    pub name: &'static str,
    /// In words.
    pub does: &'static str,
    /// What becomes of it.
    pub expect: Expect,
    /// On what rings.
    pub kind: Kind,
    /// Does it.
    pub act: fn(&mut Scene),
}

/// On what rings a behaviour is possible.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Split,
    Packed,
    Both,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The port faults, with these words in the reason.
    Fault(&'static str),
    /// So many of its frames are dropped and counted; the port goes on.
    Dropped(u64),
    /// So many frames are received, as if nothing were wrong; the port goes on.
    Served(u64),
    /// Nothing happens at all; the port goes on.
    Ignored,
    /// Its receive queue takes every frame; the port goes on.
    Delivered,
    /// There is no port: it is refused, with these words in the reason.
    Refused(&'static str),
    /// It gets garbage or a fault, and has only itself to blame.
    Harmless,
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(why) => write!(f, "fault: {why}"),
            Self::Dropped(n) => write!(f, "{n} dropped and counted"),
            Self::Served(n) => write!(f, "{n} received"),
            Self::Ignored => f.write_str("ignored"),
            Self::Delivered => f.write_str("delivered"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Harmless => f.write_str("garbage or a fault, for itself alone"),
        }
    }
}

/// Turns that a behaviour is watched.
const TURNS: usize = 4;

pub struct Scene {
    pub bed: Bed,
    pub packed: bool,
    /// The hostile guest and its port.
    pub guest: Guest,
    pub port: Option<VhostPort>,
    /// Why there is no port.
    pub refusal: Option<String>,
    /// Frames that came from it, and those that went to it.
    pub forwarded: u64,
    pub delivered: u64,
    pub turns: u64,
    witness: Guest,
    witness_port: VhostPort,
    memory: MemoryPort,
    peer: MemoryPeer,
    peer_pools: PoolSet,
    peer_umem: Umem,
}

/// Features of the hostile guest, but for the ring's format.
pub const FEATURES: u64 =
    feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | feature::EVENT_IDX | feature::OFFLOADS;

pub fn options(packed: bool) -> GuestOptions {
    GuestOptions {
        features: FEATURES | if packed { feature::RING_PACKED } else { 0 },
        tx_size: 64,
        rx_size: 64,
        ram: vec![4 << 20, 1 << 20, 1 << 20],
        ..GuestOptions::default()
    }
}

/// Addresses that tell the witnesses' frames from all others.
fn marked(by: u8, number: u64) -> Vec<u8> {
    let mut bytes = frame(number as usize, 100 + number as usize % 1000);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, by, by]);
    bytes
}

const WITNESS: u8 = 0xbb;
const PEER: u8 = 0xaa;
const FLOODED: u8 = 0xcc;

impl Scene {
    pub fn new(packed: bool) -> Self {
        let bed = Bed::new(1024);
        let (guest, port) = bed.guest(&options(packed));
        // The witness's ring is of the other kind.
        let (witness, witness_port) = bed.guest(&GuestOptions {
            rx_size: 1024,
            ..options(!packed)
        });
        let (memory, peer) = memory_port(64).expect("eventfd");
        let geometry = UmemGeometry {
            chunk_size: 2048,
            chunks: 128,
            huge_pages: HugePages::Off,
        };
        let peer_umem = Umem::new(geometry).expect("memory");
        let mut peer_pools = PoolSet::new();
        peer_pools.add(&peer_umem);
        Self {
            bed,
            packed,
            guest,
            port: Some(port),
            refusal: None,
            forwarded: 0,
            delivered: 0,
            turns: 0,
            witness,
            witness_port,
            memory,
            peer,
            peer_pools,
            peer_umem,
        }
    }

    /// Ends the port and makes another of what it was made of, changed.
    pub fn reopen(&mut self, change: impl FnOnce(&mut VhostConfig)) {
        self.port = None;
        let mut config = config(&self.guest);
        change(&mut config);
        match VhostPort::new(config, &self.bed.umem) {
            Ok(port) => self.port = Some(port),
            Err(error) => self.refusal = Some(error.to_string()),
        }
    }

    /// A new driver in new memory, and a port for it: the guest was started anew.
    pub fn restart(&mut self, options: &GuestOptions) {
        self.guest = Guest::new(options);
        self.reopen(|_| {});
    }

    pub fn fault(&self) -> Option<&Fault> {
        self.port.as_ref().and_then(|port| port.fault())
    }

    /// Memory with a good header and a frame of `len` bytes behind it.
    pub fn buffer(&mut self, len: usize) -> u64 {
        let at = self.guest.ram.take(len as u64 + 12, 64);
        let bytes = [&[0; 12][..], &frame(1, len)].concat();
        self.guest.ram.write(at, &bytes);
        at
    }

    /// Offers a chain for transmission.
    pub fn sends(&mut self, chain: &[Raw]) -> Vec<u16> {
        self.guest.tx().ring.offer_raw(chain)
    }

    /// Offers a chain for reception.
    pub fn receives(&mut self, chain: &[Raw]) -> Vec<u16> {
        self.guest.rx().ring.offer_raw(chain)
    }

    /// An indirect table of these descriptors; links go to the next one.
    pub fn table(&mut self, entries: &[Raw]) -> u64 {
        let at = self.guest.ram.take(16 * entries.len().max(1) as u64, 16);
        for (i, raw) in entries.iter().enumerate() {
            self.entry(at, i as u64, *raw, i as u16 + 1);
        }
        at
    }

    /// One entry of a table.
    pub fn entry(&self, table: u64, index: u64, raw: Raw, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&raw.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&raw.len.to_le_bytes());
        // A packed ring's table has an id where a split one has flags.
        let last = if self.packed {
            [next, raw.flags]
        } else {
            [raw.flags, next]
        };
        bytes[12..14].copy_from_slice(&last[0].to_le_bytes());
        bytes[14..].copy_from_slice(&last[1].to_le_bytes());
        self.guest.ram.write(table + 16 * index, &bytes);
    }

    /// One turn of the worker: all ports, witnesses counted exactly.
    pub fn turn(&mut self) {
        self.turns += 1;
        let pools = &mut self.bed.pools;
        self.witness.rx().fill(2000, WHOLE);
        self.witness.rx().flush();
        let (to_peer, to_witness) = (marked(WITNESS, self.turns), marked(PEER, self.turns));
        assert!(self.witness.tx().send(Default::default(), &to_peer, WHOLE));
        self.witness.tx().flush();
        let own = self.peer_pools.frame_from(self.peer_umem.id(), &to_witness);
        self.peer.send(own.expect("a chunk")).expect("room");

        let mut batch = FrameBatch::new();
        assert_eq!(self.memory.rx_batch(pools, &mut batch), 1);
        if let Some(port) = &mut self.port {
            let flooded = marked(FLOODED, self.turns);
            let copy = pools.frame_from(self.bed.umem.id(), &flooded);
            let mut list: Vec<_> = copy.into_iter().collect();
            self.delivered += port.tx_batch(pools, &mut list).packets;
            list.drain(..).for_each(|frame| pools.free(frame));
            assert_eq!(
                port.is_down(),
                port.fault().is_some(),
                "what is refused is counted so"
            );
        }
        let mut list: Vec<_> = batch.drain(..).collect();
        assert_eq!(self.witness_port.tx_batch(pools, &mut list).packets, 1);

        assert_eq!(self.witness_port.rx_batch(pools, &mut batch), 1);
        let mut list: Vec<_> = batch.drain(..).collect();
        assert!(pools.make_own(&mut list[0]));
        assert_eq!(self.memory.tx_batch(pools, &mut list).packets, 1);
        self.witness_port.rx_done();

        if let Some(port) = &mut self.port {
            let gone = port.fault().is_some();
            let n = port.rx_batch(pools, &mut batch);
            assert_eq!(n, batch.len(), "the number of frames added");
            assert!(!gone || n == 0, "a port with a fault gives no frame");
            self.forwarded += n as u64;
            let mut list: Vec<_> = batch.drain(..).collect();
            self.witness_port.tx_batch(pools, &mut list);
            list.drain(..).for_each(|frame| pools.free(frame));
            port.rx_done();
            port.reclaim(pools);
            port.rx_lost();
        }

        let got = self.peer.recv().expect("the witness's frame");
        assert!(
            crate::bed::bytes(&got) == to_peer,
            "the witness's frame arrives as it was"
        );
        // From our pool to the UMEM's depot, as from another worker.
        got.free_to_depot();
        let mine = |bytes: &[u8]| bytes.len() >= 12 && bytes[10..12] == [PEER; 2];
        let got: Vec<Vec<u8>> = received(self.witness.rx())
            .into_iter()
            .map(|one| one.frame)
            .filter(|bytes| mine(bytes))
            .collect();
        assert!(got == [to_witness], "the peer's frame arrives as it was, once");
        assert_eq!(self.witness.tx().reap(), 1);
        assert_eq!(self.witness_port.fault(), None);
        assert_eq!(self.witness_port.rx_lost(), Default::default());
    }

    /// Has what the hostile guest sends go back to it.
    pub fn hairpin(&mut self) {
        let Some(port) = &mut self.port else { return };
        let mut batch = FrameBatch::new();
        self.forwarded += port.rx_batch(&mut self.bed.pools, &mut batch) as u64;
        let mut list: Vec<_> = batch.drain(..).collect();
        port.tx_batch(&mut self.bed.pools, &mut list);
        list.drain(..).for_each(|frame| self.bed.pools.free(frame));
        port.rx_done();
    }

    /// The port serves its guest: frames in both directions.
    fn works(&mut self, name: &str) {
        let (forwarded, delivered) = (self.forwarded, self.delivered);
        // What the guest still has out is nobody's business any more.
        for number in 0..10 {
            assert!(
                self.guest
                    .tx()
                    .send(Default::default(), &frame(number, 700), WHOLE),
                "{name}"
            );
            assert!(self.guest.rx().post(2000, WHOLE), "{name}");
        }
        self.guest.tx().flush();
        self.guest.rx().flush();
        self.turn();
        assert_eq!((self.fault(), self.refusal.as_ref()), (None, None), "{name}");
        assert_eq!(
            (self.forwarded, self.delivered),
            (forwarded + 10, delivered + 1),
            "{name}: goes on"
        );
    }

    /// Everything that must be so at the end, whatever happened.
    pub fn finish(mut self, name: &str) {
        assert!(self.witness.ram.canaries_live(), "{name}: the witness's canaries");
        // A guest that starts anew is served like any other.
        self.refusal = None;
        self.restart(&options(self.packed));
        self.works(name);
        let ram = self.guest.ram.clone();
        drop((
            self.port,
            self.witness_port,
            self.memory,
            self.peer,
            self.peer_pools,
        ));
        assert_eq!(self.peer_umem.depot_chunks(), 128, "{name}");
        assert!(ram.canaries_live());
        self.bed.finish();
    }
}

/// Does it on each kind of ring that it is possible on, and judges.
pub fn run(behaviour: &Behaviour) {
    for packed in [false, true] {
        let possible = match behaviour.kind {
            Kind::Both => true,
            Kind::Split => !packed,
            Kind::Packed => packed,
        };
        if !possible {
            continue;
        }
        let name = format!("{} ({})", behaviour.name, if packed { "packed" } else { "split" });
        let mut scene = Scene::new(packed);
        (behaviour.act)(&mut scene);
        for _ in 0..TURNS {
            scene.turn();
        }
        judge(&mut scene, behaviour.expect, &name);
        assert!(scene.guest.ram.canaries_live(), "{name}: canaries");
        scene.finish(&name);
    }
}

fn judge(scene: &mut Scene, expect: Expect, name: &str) {
    let lost = scene.port.as_mut().map_or(0, |port| {
        let lost = port.rx_lost();
        lost.invalid + lost.missed
    });
    let fault = scene.fault().map(ToString::to_string);
    let counts = (scene.forwarded, lost);
    match expect {
        Expect::Fault(why) => {
            let fault = fault.unwrap_or_else(|| panic!("{name}: no fault; received and lost: {counts:?}"));
            assert!(fault.contains(why), "{name}: {fault}");
            return;
        }
        Expect::Refused(why) => {
            let refusal = scene.refusal.clone().unwrap_or_default();
            assert!(scene.port.is_none() && refusal.contains(why), "{name}: {refusal}");
            return;
        }
        Expect::Harmless => return,
        _ => {}
    }
    assert_eq!(fault, None, "{name}");
    match expect {
        Expect::Dropped(n) => assert_eq!(counts, (0, n), "{name}: received and lost"),
        Expect::Served(n) => assert_eq!(counts, (n, 0), "{name}: received and lost"),
        Expect::Delivered => assert_eq!((counts, scene.delivered), ((0, 0), scene.turns), "{name}"),
        _ => assert_eq!(
            (counts, scene.delivered),
            ((0, 0), 0),
            "{name}: received, lost, delivered"
        ),
    }
    while scene.guest.tx().ring.used().is_some() {}
    while scene.guest.rx().ring.used().is_some() {}
    scene.works(name);
}

/// A descriptor that the device reads.
pub fn readable(addr: u64, len: u32) -> Raw {
    Raw { addr, len, flags: 0 }
}

/// One that it writes.
pub fn writable(addr: u64, len: u32) -> Raw {
    Raw {
        addr,
        len,
        flags: desc_flag::WRITE,
    }
}

/// Descriptors that go on, all but the last.
pub fn linked(mut chain: Vec<Raw>) -> Vec<Raw> {
    let last = chain.len() - 1;
    chain[..last]
        .iter_mut()
        .for_each(|raw| raw.flags |= desc_flag::NEXT);
    chain
}

/// One that points to a table.
pub fn indirect(table: u64, len: u32) -> Raw {
    Raw {
        addr: table,
        len,
        flags: desc_flag::INDIRECT,
    }
}
