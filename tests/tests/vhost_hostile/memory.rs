//! Memory that a front-end shares and should not have.

use crate::scene::{BOUNDED, Behaviour, Expect, Hostile, PROTOCOL, Scene};
use clearway_virtio_mock::{RamRegion, memory_table, protocol, region, request, state, words};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Negotiates, without slots for memory.
fn greet(h: &mut Hostile) {
    let protocol = PROTOCOL & !protocol::CONFIGURE_MEM_SLOTS;
    h.front
        .negotiate(h.guest.features, protocol)
        .expect("a good beginning");
}

/// Shares regions with these files.
fn share(h: &Hostile, regions: &[RamRegion], files: &[BorrowedFd<'_>]) {
    let _ = h
        .front
        .send(request::SET_MEM_TABLE, &memory_table(regions), files);
}

/// Shares one region, changed.
fn share_one(h: &mut Hostile, change: impl FnOnce(&mut RamRegion)) {
    greet(h);
    let mut one = RamRegion::new(1 << 30, 1 << 40, 1 << 20);
    change(&mut one);
    let fd = one.fd();
    share(h, &[one], &[fd.as_fd()]);
}

/// Shares one region in a file of another kind.
fn share_file(h: &mut Hostile, file: BorrowedFd<'_>) {
    greet(h);
    share(h, &[RamRegion::new(1 << 30, 1 << 40, 1 << 20)], &[file]);
}

fn slot(h: &Hostile, request: u32, one: &RamRegion) -> Option<u64> {
    let payload = [words(&[0]), region(one)].concat();
    let fd = one.fd();
    let fds = if request == request::ADD_MEM_REG {
        vec![fd.as_fd()]
    } else {
        Vec::new()
    };
    h.front.tell(request, &payload, &fds).ok()
}

/// A front-end that has so many addresses mapped of an empty file, and stays.
pub fn holds(scene: &Scene, port: &str, bytes: u64) -> Hostile {
    let mut h = scene.hostile(port, false);
    h.front
        .negotiate(h.guest.features, PROTOCOL)
        .expect("a good beginning");
    let mut one = RamRegion::new(1 << 50, 1 << 50, 4096);
    one.size = bytes / 4096 * 4096;
    one.file.set_len(one.offset + one.size).expect("a sparse file");
    assert_eq!(slot(&h, request::ADD_MEM_REG, &one), Some(0), "{port}: {bytes}");
    h
}

/// A region of an empty file.
fn holes(at: u64, size: u64) -> RamRegion {
    let mut one = RamRegion::new(at << 40, at << 40, 4096);
    one.size = size;
    one.file.set_len(one.offset + size).expect("a sparse file");
    one
}

const BOUND: u64 = (BOUNDED.1 as u64) << 20;
const BEYOND: &str = "(8 MiB) of the port's `max-guest-memory`";

/// What is possible elsewhere, and not on a port with a bound for what a guest shares.
pub const BEYOND_A_BOUND: &[Behaviour] = &[
    Behaviour {
        name: "holes_beyond_the_bound",
        does: "shares an empty file of a terabyte, for the daemon to touch page after page of it",
        expect: Expect::Ends(BEYOND),
        act: |h| {
            greet(h);
            let one = holes(1, 1 << 40);
            let fd = one.fd();
            share(h, &[one], &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "regions_beyond_the_bound_together",
        does: "shares two regions, each within the port's bound, and a page more in all",
        expect: Expect::Ends(BEYOND),
        act: |h| {
            greet(h);
            let regions = [holes(1, BOUND), holes(2, 4096)];
            let fds = [regions[0].fd(), regions[1].fd()];
            share(h, &regions, &[fds[0].as_fd(), fds[1].as_fd()]);
        },
    },
    Behaviour {
        name: "slots_beyond_the_bound_while_rings_run",
        does: "adds slot after slot of holes under its rings, until the port's bound is passed",
        expect: Expect::Ends(BEYOND),
        act: |h| {
            h.start();
            let has: u64 = h.guest.ram.regions().iter().map(|one| one.size).sum();
            let most = (BOUND - has) >> 20;
            for i in 1..=most {
                assert_eq!(slot(h, request::ADD_MEM_REG, &holes(i, 1 << 20)), Some(0), "{i}");
            }
            let result = slot(h, request::ADD_MEM_REG, &holes(100, 4096));
            assert_ne!(result, Some(0), "a page beyond");
        },
    },
    Behaviour {
        name: "slots_replaced_within_the_bound",
        does: "removes and adds slots all the time, and never has more than the port's bound",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for _ in 0..20 {
                let one = holes(1, 2 << 20);
                assert_eq!(slot(h, request::ADD_MEM_REG, &one), Some(0));
                assert_eq!(slot(h, request::REM_MEM_REG, &one), Some(0));
            }
        },
    },
];

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "no_regions",
        does: "shares no memory at all",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| {
            greet(h);
            share(h, &[], &[]);
        },
    },
    Behaviour {
        name: "regions_without_files",
        does: "shares a region and sends no file",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| {
            greet(h);
            share(h, &h.guest.ram.regions()[..1], &[]);
        },
    },
    Behaviour {
        name: "fewer_files_than_regions",
        does: "shares two regions and sends one file",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| {
            greet(h);
            let fd = h.guest.ram.regions()[0].fd();
            share(h, h.guest.ram.regions(), &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "more_files_than_regions",
        does: "shares one region and sends three files",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| {
            greet(h);
            let fd = h.guest.ram.regions()[0].fd();
            share(h, &h.guest.ram.regions()[..1], &[fd.as_fd(); 3]);
        },
    },
    Behaviour {
        name: "more_regions_than_there_may_be",
        does: "shares 33 regions in one table",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| {
            greet(h);
            let regions: Vec<RamRegion> = (1..34).map(|i| RamRegion::new(i << 32, i << 40, 4096)).collect();
            let fds: Vec<_> = regions.iter().map(RamRegion::fd).collect();
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            share(h, &regions, &fds);
        },
    },
    Behaviour {
        name: "regions_that_are_not_there",
        does: "says that its table has 4294967295 regions",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| {
            greet(h);
            let fd = h.guest.ram.regions()[0].fd();
            let mut payload = memory_table(&h.guest.ram.regions()[..1]);
            payload[..4].copy_from_slice(&[0xff; 4]);
            let _ = h.front.send(request::SET_MEM_TABLE, &payload, &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "region_of_no_bytes",
        does: "shares a region of no bytes",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| share_one(h, |one| one.size = 0),
    },
    Behaviour {
        name: "region_longer_than_its_file",
        does: "shares a region of a terabyte of a small file",
        expect: Expect::Ends("ends behind its file"),
        act: |h| share_one(h, |one| one.size = 1 << 40),
    },
    Behaviour {
        name: "region_that_wraps_around",
        does: "shares a region that ends behind the last address",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| share_one(h, |one| one.guest = u64::MAX - 4095),
    },
    Behaviour {
        name: "region_with_an_offset_that_wraps",
        does: "shares a region whose offset and size add up to little",
        expect: Expect::Ends("SET_MEM_TABLE: invalid message"),
        act: |h| share_one(h, |one| one.offset = u64::MAX - 4095),
    },
    Behaviour {
        name: "regions_on_top_of_each_other",
        does: "shares one region twice",
        expect: Expect::Ends("overlaps"),
        act: |h| {
            greet(h);
            let regions = [
                RamRegion::new(1 << 30, 1 << 40, 1 << 20),
                RamRegion::new(1 << 30, 2 << 40, 1 << 20),
            ];
            let fds = [regions[0].fd(), regions[1].fd()];
            share(h, &regions, &[fds[0].as_fd(), fds[1].as_fd()]);
        },
    },
    Behaviour {
        name: "region_of_half_an_address_space",
        does: "shares a sparse file of 2^46 bytes, which costs it nothing",
        expect: Expect::Ends("32 GiB and a sixteenth of what is left of 64 TiB"),
        act: |h| {
            share_one(h, |one| {
                one.size = 1 << 46;
                let _ = one.file.set_len(one.offset + one.size);
            });
        },
    },
    Behaviour {
        name: "slots_of_a_whole_address_space",
        does: "adds sparse files of a terabyte until the daemon has no address left for anything else",
        expect: Expect::Ends("32 GiB and a sixteenth of what is left of 64 TiB"),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL)
                .expect("a good beginning");
            // 4 TiB and 32 GiB, but for a sixteenth of what other ports have.
            for i in 1..=4 {
                let mut one = RamRegion::new(i << 40, i << 40, 4096);
                one.size = (1 << 40) - one.offset;
                one.file.set_len(1 << 40).expect("a sparse file");
                let result = slot(h, request::ADD_MEM_REG, &one);
                assert_eq!(result, Some(0), "terabyte {i}");
            }
            let mut one = RamRegion::new(1 << 50, 1 << 50, 4096);
            one.size = 33 << 30;
            one.file.set_len(one.offset + one.size).expect("a sparse file");
            assert_ne!(
                slot(h, request::ADD_MEM_REG, &one),
                Some(0),
                "more than 4 TiB and 32 GiB"
            );
        },
    },
    Behaviour {
        name: "memory_in_an_eventfd",
        does: "shares an eventfd as memory",
        expect: Expect::Ends("memory must be a memfd"),
        act: |h| {
            let fd = h.guest.tx().kick_fd();
            share_file(h, fd.as_fd());
        },
    },
    Behaviour {
        name: "memory_in_another_file_system",
        does: "shares a file whose pages may have to be fetched",
        expect: Expect::Ends("memory must be a memfd"),
        act: |h| {
            let file = std::fs::File::open("/proc/version").expect("a file");
            share_file(h, file.as_fd());
        },
    },
    Behaviour {
        name: "memory_in_a_folder",
        does: "shares a folder as memory",
        expect: Expect::Ends("memory must be a memfd"),
        act: |h| {
            let folder = std::fs::File::open("/proc/self").expect("a folder");
            share_file(h, folder.as_fd());
        },
    },
    Behaviour {
        name: "memory_that_is_read_only",
        does: "shares a file that is open for reading only",
        expect: Expect::Ends("mapping memory region"),
        act: |h| {
            let one = RamRegion::new(1 << 50, 1 << 50, 4 << 20);
            let path = format!("/proc/self/fd/{}", one.file.as_raw_fd());
            let file = std::fs::File::open(path).expect("the file");
            share_file(h, file.as_fd());
        },
    },
    Behaviour {
        name: "memory_replaced_while_rings_run",
        does: "shares other memory, without its rings, while they run",
        expect: Expect::Ends("not in the memory that the front-end shared"),
        act: |h| {
            h.start_with(PROTOCOL & !protocol::CONFIGURE_MEM_SLOTS);
            let one = RamRegion::new(1 << 50, 1 << 50, 1 << 20);
            let fd = one.fd();
            share(h, &[one], &[fd.as_fd()]);
        },
    },
    Behaviour {
        name: "the_same_memory_a_hundred_times",
        does: "shares the same memory again and again while its rings run",
        expect: Expect::GoesOn,
        act: |h| {
            h.start_with(PROTOCOL & !protocol::CONFIGURE_MEM_SLOTS);
            for _ in 0..100 {
                h.front.share(&h.guest.ram).expect("the same memory");
            }
        },
    },
    Behaviour {
        name: "slots_without_having_said_so",
        does: "adds memory by slots, which were not agreed on",
        expect: Expect::Ends("ADD_MEM_REG: inactive protocol operation"),
        act: |h| {
            greet(h);
            slot(h, request::ADD_MEM_REG, &h.guest.ram.regions()[0]);
        },
    },
    Behaviour {
        name: "slots_without_end",
        does: "adds memory until there are no slots left",
        expect: Expect::Ends("there are 64 regions already"),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL)
                .expect("a good beginning");
            let most = h.front.number(request::GET_MAX_MEM_SLOTS).expect("a number");
            for i in 1..=most + 1 {
                let result = slot(h, request::ADD_MEM_REG, &RamRegion::new(i << 32, i << 40, 4096));
                assert_eq!(result == Some(0), i <= most, "slot {i}: {result:?}");
            }
        },
    },
    Behaviour {
        name: "slot_that_is_not_there",
        does: "removes memory that it never added",
        expect: Expect::Ends("REM_MEM_REG: there is no memory region"),
        act: |h| {
            h.start();
            let other = RamRegion::new(1 << 50, 1 << 50, 4096);
            assert_ne!(slot(h, request::REM_MEM_REG, &other), Some(0));
        },
    },
    Behaviour {
        name: "all_slots_gone_while_rings_run",
        does: "removes all memory under its rings, and adds it again: they wait, and go on",
        expect: Expect::GoesOn,
        act: |h| {
            h.start();
            for _ in 0..5 {
                for one in h.guest.ram.regions() {
                    assert_eq!(slot(h, request::REM_MEM_REG, one), Some(0));
                }
                for one in h.guest.ram.regions() {
                    assert_eq!(slot(h, request::ADD_MEM_REG, one), Some(0));
                }
            }
        },
    },
    Behaviour {
        name: "slot_twice",
        does: "adds the same memory twice",
        expect: Expect::Ends("it overlaps another region"),
        act: |h| {
            h.start();
            assert_ne!(slot(h, request::ADD_MEM_REG, &h.guest.ram.regions()[0]), Some(0));
        },
    },
    Behaviour {
        name: "file_cut_while_rings_run",
        does: "cuts its memory's file off while its rings run",
        expect: Expect::Ends(""),
        act: |h| {
            h.start();
            h.guest.ram.regions()[0].file.set_len(0).expect("an empty file");
            h.guest.ram.regions()[1].file.set_len(0).expect("an empty file");
        },
    },
    Behaviour {
        name: "file_cut_before_rings_start",
        does: "cuts its memory's file off between sharing it and starting its rings",
        expect: Expect::Ends(""),
        act: |h| {
            h.front
                .negotiate(h.guest.features, PROTOCOL)
                .expect("a good beginning");
            h.front.share(&h.guest.ram).expect("memory");
            let sizes = state(0, 64);
            h.guest.ram.regions()[0].file.set_len(0).expect("an empty file");
            let _ = h.front.tell(request::SET_VRING_NUM, &sizes, &[]);
            for index in 0..2 {
                let pair = &h.guest.pairs[0];
                let queue = if index == 0 { &pair.rx } else { &pair.tx };
                let _ = h.front.start_ring(&h.guest.ram, index, queue);
                let _ = h.front.enable(index, true);
            }
        },
    },
];
