//! What one guest may take of a worker's time, and what its memory may do to the process.

use super::bed::{Bed, GuestOptions, WHOLE, config, frame, region};
use clearway_io::{Frame, FrameBatch, GuestMemory, GuestShare, Port, RegionSpec, VhostPort};
use clearway_virtio_mock::{Guest, Raw, Shape, desc_flag, feature};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::sync::Arc;

/// Else whoever waits for the port is woken at once, for ever.
#[test]
fn a_kick_is_forgotten_when_all_was_taken() {
    let mut bed = Bed::new(256);
    let (mut guest, mut port) = bed.guest(&GuestOptions::default());
    let readable = |port: &VhostPort| {
        let fd = port.wait_fd().expect("a kick");
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).expect("poll") == 1
    };
    assert!(!port.arm() && !readable(&port));
    assert!(guest.tx().send(Default::default(), &frame(1, 60), WHOLE));
    assert!(guest.tx().flush() && readable(&port));
    assert_eq!(bed.receive(&mut port).len(), 1);
    assert!(!port.arm() && !readable(&port));
}

#[test]
fn large_packets_come_a_few_at_a_time_whatever_their_buffers() {
    let in_two = |indirect| Shape {
        header: 12,
        data: 0,
        indirect,
    };
    for shape in [WHOLE, in_two(false), in_two(true)] {
        let mut bed = Bed::new(1024);
        let (mut guest, mut port) = bed.guest(&GuestOptions {
            features: feature::VERSION_1 | feature::INDIRECT_DESC,
            tx_size: 256,
            ram: vec![64 << 20],
            ..Default::default()
        });
        for i in 0..60 {
            assert!(guest.tx().send(Default::default(), &frame(i, 60_000), shape));
        }
        guest.tx().flush();
        // 256 KiB, and the frame that goes beyond.
        let got: Vec<usize> = (0..12).map(|_| bed.receive(&mut port).len()).collect();
        assert_eq!(got, [5; 12], "{shape:?}");
    }
}

/// A port's part of a turn is shared by its queues that one worker serves; each gives a packet, and 32 small ones, all the
/// same.
#[test]
fn queues_of_one_port_share_its_part_of_a_turn() {
    let large = [(1, 5), (2, 3), (4, 2), (16, 1), (1, 5)];
    let small = [(1, 128), (2, 64), (4, 32), (16, 32), (1, 128)];
    for (len, wanted) in [(60_000, large), (60, small)] {
        let mut bed = Bed::new(1024);
        let (mut guest, mut port) = bed.guest(&GuestOptions {
            features: feature::VERSION_1,
            tx_size: 512,
            ram: vec![64 << 20],
            ..Default::default()
        });
        for i in 0..if len == 60 { 500 } else { 60 } {
            assert!(guest.tx().send(Default::default(), &frame(i, len), WHOLE));
        }
        guest.tx().flush();
        for (queues, frames) in wanted {
            port.share_turn(queues);
            let got = bed.receive(&mut port).len();
            assert_eq!(got, frames, "{len} bytes, one of {queues}");
        }
    }
}

/// An indirect table of this many entries: the first as given, the others empty.
fn table(guest: &Guest, entries: u16, first: (u64, u32), flags: u16) -> u64 {
    let at = guest.ram.take(16 * u64::from(entries), 16);
    let mut all = Vec::new();
    for i in 0..entries {
        let len = if i == 0 { first.1 } else { 0 };
        let next = if i + 1 == entries { 0 } else { desc_flag::NEXT };
        all.extend(first.0.to_le_bytes());
        all.extend(len.to_le_bytes());
        all.extend((next | flags).to_le_bytes());
        all.extend((i + 1).to_le_bytes());
    }
    guest.ram.write(at, &all);
    at
}

fn long_rings() -> GuestOptions {
    GuestOptions {
        features: feature::VERSION_1 | feature::INDIRECT_DESC | feature::MRG_RXBUF,
        tx_size: 32768,
        rx_size: 32768,
        ram: vec![64 << 20],
        ..Default::default()
    }
}

#[test]
fn chains_longer_than_any_driver_makes_end_the_connection() {
    for transmit in [true, false] {
        let mut bed = Bed::new(256);
        let (mut guest, mut port) = bed.guest(&long_rings());
        let data = guest.ram.take(4096, 64);
        let flags = if transmit { 0 } else { desc_flag::WRITE };
        let addr = table(&guest, 1200, (data, 100), flags);
        let raw = Raw {
            addr,
            len: 16 * 1200,
            flags: desc_flag::INDIRECT,
        };
        let queue = if transmit { guest.tx() } else { guest.rx() };
        queue.ring.offer_raw(&[raw]);
        queue.flush();
        if transmit {
            assert_eq!(bed.receive(&mut port).len(), 0);
        } else {
            let mut list = vec![bed.pools.frame_from(bed.umem.id(), &frame(1, 60)).expect("chunk")];
            port.tx_batch(&mut bed.pools, &mut list);
            list.drain(..).for_each(|frame| bed.pools.free(frame));
        }
        let fault = port.fault().expect("a fault").to_string();
        assert!(fault.contains("longer than"), "{fault}");
    }
}

/// Buffers of a thousand parts, in which there is nothing: a part costs as much as 64 bytes.
#[test]
fn buffers_of_many_parts_come_a_few_at_a_time() {
    let mut bed = Bed::new(4096);
    let (mut guest, mut port) = bed.guest(&long_rings());
    let data = guest.ram.take(4096, 64);
    let addr = table(&guest, 1000, (data, 100), 0);
    let raw = Raw {
        addr,
        len: 16 * 1000,
        flags: desc_flag::INDIRECT,
    };
    for _ in 0..128 {
        guest.tx().ring.offer_raw(&[raw]);
    }
    guest.tx().flush();
    let mut batch = FrameBatch::new();
    assert_eq!(port.rx_batch(&mut bed.pools, &mut batch), 5);
    batch.drain(..).for_each(|frame| bed.pools.free(frame));
    port.rx_done();

    let addr = table(&guest, 1000, (data, 12), desc_flag::WRITE);
    for _ in 0..128 {
        guest.rx().ring.offer_raw(&[Raw { addr, ..raw }]);
    }
    guest.rx().flush();
    let frames = |bed: &mut Bed, n| -> Vec<Frame> {
        let one = |i| {
            bed.pools
                .frame_from(bed.umem.id(), &frame(i, 9000))
                .expect("chunks")
        };
        (0..n).map(one).collect()
    };
    // None of them fits into what is there. Some are found out at the price of a thousand parts each, the others wait.
    let mut list = frames(&mut bed, 100);
    let counts = port.tx_batch(&mut bed.pools, &mut list);
    assert!(
        counts.packets == 0 && list.len() > 80,
        "{counts:?}, {} left",
        list.len()
    );
    list.drain(..).for_each(|frame| bed.pools.free(frame));
    assert_eq!(port.fault(), None);
}

/// Of a mapping of huge pages nothing smaller can be replaced, also where a region ends in the middle of one.
#[test]
fn a_file_of_huge_pages_that_is_cut_ends_a_connection_and_not_the_process() {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create(c"huge", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB).expect("memfd");
    let file = File::from(file);
    file.set_len(4 << 20).expect("size");
    let mut bed = Bed::new(64);
    let mut guest = Guest::new(&GuestOptions::default());
    let mut config = config(&guest);
    let extra = RegionSpec {
        guest_address: 1 << 40,
        size: 65536,
        user_address: 1 << 45,
        mmap_offset: (2 << 20) + 65536,
    };
    let own = guest.ram.regions().iter().map(|r| (region(r), r.fd()));
    let all = own.chain([(extra, file.try_clone().expect("descriptor").into())]);
    config.memory = Arc::new(GuestMemory::map(&GuestShare::new(), all).expect("memory"));
    let mut port = VhostPort::new(config, &bed.umem).expect("port");
    file.set_len(0).expect("cut");
    let raw = Raw {
        addr: 1 << 40,
        len: 100,
        flags: 0,
    };
    guest.tx().ring.offer_raw(&[raw]);
    guest.tx().flush();
    bed.receive(&mut port);
    bed.receive(&mut port);
    let fault = port.fault().expect("a fault").to_string();
    assert!(fault.contains("shorter"), "{fault}");
}
