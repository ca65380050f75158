//! Any bytes in a guest's rings, between any calls of a worker: nothing panics, nothing is written around the guest's
//! memory, every chunk comes home. Runs briefly as a test, and as long as one likes with `make fuzz`.

#[path = "vhost/bed.rs"]
mod bed;

use bed::{Bed, Guest, GuestOptions, WHOLE, bytes, config, frame};
use clearway_io::{BATCH, Frame, FrameBatch, Port, VhostPort};
use clearway_virtio_mock::{NetHeader, Raw, Shape, feature};
use std::sync::{Mutex, PoisonError};

const CHUNKS: u32 = 512;

/// What a guest or the worker does next: which, and with what.
type Op = (u8, u16, u32);

/// The guest and the port that it has, until a fault.
struct Run<'b> {
    bed: &'b mut Bed,
    guest: Guest,
    port: Option<VhostPort>,
}

impl Run<'_> {
    /// A number near one that means something.
    fn number(&self, b: u32) -> u64 {
        let ram = &self.guest.ram;
        let near = u64::from(b >> 8 & 0xff);
        match b & 31 {
            0 => near,
            1 => u64::MAX - near,
            2 => ram.end().wrapping_sub(near),
            3 => ram.regions()[1].guest.wrapping_sub(near),
            4 => 1 << (b >> 3 & 63),
            _ => ram.regions()[0].guest + u64::from(b >> 3) % (1 << 16),
        }
    }

    fn chain(&self, a: u16, b: u32) -> Vec<Raw> {
        let links = usize::from(a % 5) + 1;
        let one = |i: usize| Raw {
            addr: self.number(b.rotate_left(7 * i as u32)),
            len: (self.number(b.rotate_left(11 * i as u32 + 3)) as u32) >> 15 >> (a >> 8 & 7),
            // Mostly of the right direction.
            flags: u16::from(i + 1 < links)
                | match b.rotate_left(13 * i as u32) & 15 {
                    flags @ 0..4 => flags as u16 * 2,
                    _ => (a >> 5 & 1) * 2,
                },
        };
        (0..links).map(one).collect()
    }

    fn step(&mut self, (kind, a, b): Op) {
        let shape = Shape {
            header: usize::from(a & 15),
            data: (b & 0x3ff) as usize,
            indirect: a & 16 != 0,
        };
        let queue = if a & 32 == 0 {
            &mut self.guest.pairs[0].tx
        } else {
            &mut self.guest.pairs[0].rx
        };
        match kind % 12 {
            // The guest behaves…
            0 => _ = queue.post(usize::from(a >> 6), shape),
            1 => {
                let mut bytes = frame(a.into(), 12 + usize::from(a >> 4));
                let frame = bytes.split_off(12);
                let header = match b & 1 {
                    0 => NetHeader::default(),
                    _ => NetHeader::from_bytes(&bytes),
                };
                _ = queue.send(header, &frame, shape);
                _ = queue.flush();
            }
            2 => _ = queue.flush(),
            // …or not: its rings, an indirect table, anything.
            3 => {
                let part = queue.ring.parts()[usize::from(a >> 6) % 3];
                let at = part + u64::from(a >> 8) * 2 % 512;
                self.guest.ram.write(at, &(b as u16).to_le_bytes());
            }
            4 => {
                let part = queue.ring.parts()[0];
                let at = part + u64::from(a >> 6) % 64 * 8;
                let number = if b & 0x100 == 0 {
                    self.number(b)
                } else {
                    u64::from(b) << 16
                };
                self.guest.ram.write(at, &number.to_le_bytes());
            }
            5 => {
                let at = self.guest.ram.regions()[0].guest + u64::from(a) % (1 << 16);
                self.guest.ram.write(at & !7, &self.number(b).to_le_bytes());
            }
            6 => {
                let chain = self.chain(a, b);
                let queue = if a & 32 == 0 {
                    self.guest.tx()
                } else {
                    self.guest.rx()
                };
                if queue.ring.free() >= chain.len() {
                    queue.ring.offer_raw(&chain);
                }
            }
            // The worker.
            7 | 8 => self.receive(),
            9 => self.transmit(a, b),
            10 => {
                if let Some(port) = &mut self.port {
                    port.arm();
                    port.rx_lost();
                    port.rx_done();
                    port.reclaim(&mut self.bed.pools);
                }
            }
            _ => self.reopen(b),
        }
    }

    fn receive(&mut self) {
        let Some(port) = &mut self.port else { return };
        let faulty = port.fault().is_some();
        let mut batch = FrameBatch::new();
        let n = port.rx_batch(&mut self.bed.pools, &mut batch);
        assert!(n == batch.len() && n <= BATCH && (n == 0 || !faulty));
        // Back to the guest that it came from: held frames are copied.
        let mut list: Vec<Frame> = Vec::new();
        for frame in batch.drain(..) {
            assert_eq!(bytes(&frame).len(), frame.len() as usize);
            list.push(frame);
        }
        port.tx_batch(&mut self.bed.pools, &mut list);
        list.drain(..).for_each(|frame| self.bed.pools.free(frame));
        port.rx_done();
    }

    fn transmit(&mut self, a: u16, b: u32) {
        let Some(port) = &mut self.port else { return };
        let faulty = port.fault().is_some();
        let frames: Vec<Vec<u8>> = (0..1 + a as usize % 7)
            .map(|i| frame(i, 14 + (b as usize >> (3 * i)) % 5000))
            .collect();
        let (counts, left) = self.bed.transmit(port, &frames);
        let all = counts.packets + counts.unsendable + left as u64;
        assert_eq!(all, frames.len() as u64, "each sent, freed or refused");
        assert!(!faulty || counts.packets == 0);
    }

    /// Taken from its worker, and built again with what the front-end remembers, or not quite.
    fn reopen(&mut self, b: u32) {
        let config = match self.port.take() {
            Some(port) if port.fault().is_none() => port.into_config(),
            _ => config(&self.guest),
        };
        let mut config = config;
        for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
            match b % 8 {
                0 => ring.base ^= b >> 3,
                1 => ring.device ^= u64::from(b >> 3 & 0xfff),
                2 => ring.enabled = !ring.enabled,
                3 => ring.size = (b >> 3) as u16,
                _ => {}
            }
        }
        self.port = VhostPort::new(config, &self.bed.umem).ok();
    }
}

#[test]
fn fuzz_vhost_rings() {
    // One for all runs, and after a failure another, for those that look for a shorter one.
    let beds = Mutex::new(None);
    bolero::check!()
        .with_type::<(u8, Vec<Op>)>()
        .with_iterations(3000)
        .for_each(|(kind, ops)| {
            let lock = || beds.lock().unwrap_or_else(PoisonError::into_inner);
            let mut bed = lock().take().unwrap_or_else(|| Bed::new(CHUNKS));
            let bit = |n: u8, feature: u64| if kind >> n & 1 == 1 { feature } else { 0 };
            let options = GuestOptions {
                features: feature::VERSION_1
                    | bit(0, feature::RING_PACKED)
                    | bit(1, feature::EVENT_IDX)
                    | bit(2, feature::IN_ORDER)
                    | bit(3, feature::INDIRECT_DESC)
                    | bit(4, feature::MRG_RXBUF),
                tx_size: 1 << (kind >> 5 & 3) << 2,
                rx_size: 16,
                ram: vec![1 << 20, 4096],
                ..GuestOptions::default()
            };
            let guest = Guest::new(&options);
            let port = Some(bed.port(&guest));
            let mut run = Run {
                bed: &mut bed,
                guest,
                port,
            };
            run.guest.rx().fill(300, WHOLE);
            run.guest.rx().flush();
            for op in ops.iter().take(200) {
                run.step(*op);
            }
            assert!(run.guest.ram.canaries_live());
            drop(run);
            let home = bed.pools.chunks() + bed.umem.depot_chunks();
            assert_eq!(home, CHUNKS, "chunks that came home");
            *lock() = Some(bed);
        });
}
