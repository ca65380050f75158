//! Memory that is not what it was said to be, or goes while it is used.

use crate::bed::{WHOLE, bytes, frame, region};
use crate::scene::{Behaviour, Expect, Kind, Scene, readable, writable};
use clearway_io::{FrameBatch, GuestMemory, GuestShare, Port, RegionSpec};
use clearway_virtio_mock::RamRegion;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const TORN: Expect = Expect::Fault("backed by a file that became shorter");

/// Cuts a region's file off at an offset in the region.
fn cut(s: &Scene, region: usize, at: u64) {
    let region = &s.guest.ram.regions()[region];
    region.file.set_len(region.offset + at).expect("a shorter file");
}

/// Tries to map a region like the second, changed, beside the first.
fn maps(s: &mut Scene, change: impl Fn(&mut RegionSpec, &RamRegion), file: OwnedFd) {
    let [first, second, ..] = s.guest.ram.regions() else {
        panic!("two")
    };
    let mut spec = region(second);
    change(&mut spec, first);
    let result = GuestMemory::map(&GuestShare::new(), [(region(first), first.fd()), (spec, file)]);
    s.refusal = result.err().map(|error| error.to_string());
    s.port = None;
}

fn second(s: &Scene) -> OwnedFd {
    s.guest.ram.regions()[1].fd()
}

pub const ALL: &[Behaviour] = &[
    Behaviour {
        name: "file_cut_under_what_is_sent",
        does: "cuts its memory's file off before a buffer that it sends",
        expect: TORN,
        kind: Kind::Both,
        act: |s| {
            let at = s.guest.ram.regions()[2].guest + 0x8000;
            cut(s, 2, 0x8000);
            s.sends(&[readable(at, 1500)]);
        },
    },
    Behaviour {
        name: "file_cut_under_what_it_receives_into",
        does: "cuts its memory's file off before a buffer that it receives into",
        expect: TORN,
        kind: Kind::Both,
        act: |s| {
            let at = s.guest.ram.regions()[2].guest + 0x8000;
            cut(s, 2, 0x8000);
            s.receives(&[writable(at, 2000)]);
        },
    },
    Behaviour {
        name: "file_cut_under_an_indirect_table",
        does: "cuts its memory's file off before an indirect table",
        expect: TORN,
        kind: Kind::Both,
        act: |s| {
            let at = s.guest.ram.regions()[2].guest + 0x8000;
            cut(s, 2, 0x8000);
            s.sends(&[crate::scene::indirect(at, 32)]);
        },
    },
    Behaviour {
        name: "file_cut_under_the_rings",
        does: "cuts off the file that its rings are in",
        expect: Expect::Fault(""),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            s.sends(&[readable(at, 112)]);
            s.turn();
            s.sends(&[readable(at, 112)]);
            s.guest.ram.regions()[0].file.set_len(0).expect("an empty file");
        },
    },
    Behaviour {
        name: "file_cut_under_a_held_frame",
        does: "cuts its memory's file off between the frame's headers being read and its end being copied",
        expect: TORN,
        kind: Kind::Both,
        act: |s| {
            let at = s.guest.ram.regions()[2].guest + 0x8000;
            s.guest.ram.write(at, &[&[0; 12][..], &frame(1, 9000)].concat());
            s.sends(&[readable(at, 9012)]);
            let port = s.port.as_mut().expect("a port");
            let mut batch = FrameBatch::new();
            assert_eq!(port.rx_batch(&mut s.bed.pools, &mut batch), 1);
            let file = &s.guest.ram.regions()[2];
            file.file.set_len(file.offset + 0x8000).expect("a shorter file");
            let read = bytes(&batch[0]);
            assert_eq!(read[..256], frame(1, 9000)[..256]);
            assert!(
                read[256..].iter().all(|byte| *byte == 0),
                "zeros where nothing is"
            );
            batch.drain(..).for_each(|frame| s.bed.pools.free(frame));
            port.rx_done();
        },
    },
    Behaviour {
        name: "file_cut_and_made_long_again",
        does: "cuts its memory's file off and makes it as long as before",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| {
            let size = s.guest.ram.regions()[2].size;
            let at = s.guest.ram.regions()[2].guest + 0x8000;
            cut(s, 2, 0x8000);
            cut(s, 2, size);
            s.sends(&[readable(at, 1500)]);
        },
    },
    Behaviour {
        name: "file_cut_where_nobody_looks",
        does: "cuts its memory's file off behind everything that is used",
        expect: Expect::Served(5),
        kind: Kind::Both,
        act: |s| {
            cut(s, 2, 0x8000);
            for n in 0..5 {
                assert!(s.guest.tx().send(Default::default(), &frame(n, 900), WHOLE));
            }
            s.guest.tx().flush();
        },
    },
    Behaviour {
        name: "region_empty",
        does: "shares a region of no bytes",
        expect: Expect::Refused("it is empty"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, _| spec.size = 0, second(s)),
    },
    Behaviour {
        name: "region_behind_its_file",
        does: "shares a region that is longer than its file",
        expect: Expect::Refused("ends behind its file"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, _| spec.size = 1 << 40, second(s)),
    },
    Behaviour {
        name: "region_offset_behind_its_file",
        does: "shares a region that begins behind its file",
        expect: Expect::Refused("ends behind its file"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, _| spec.mmap_offset = 1 << 50, second(s)),
    },
    Behaviour {
        name: "region_offset_wraps_around",
        does: "shares a region whose offset and size add up to little",
        expect: Expect::Refused("it ends behind the last address"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, _| spec.mmap_offset = u64::MAX - 4095, second(s)),
    },
    Behaviour {
        name: "region_address_wraps_around",
        does: "shares a region that ends behind the last guest address",
        expect: Expect::Refused("it ends behind the last address"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, _| spec.guest_address = u64::MAX - 4095, second(s)),
    },
    Behaviour {
        name: "region_user_address_wraps_around",
        does: "shares a region that ends behind the last address of the front-end",
        expect: Expect::Refused("it ends behind the last address"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, _| spec.user_address = u64::MAX - 4095, second(s)),
    },
    Behaviour {
        name: "regions_overlap",
        does: "shares two regions at one guest address",
        expect: Expect::Refused("it overlaps another region"),
        kind: Kind::Split,
        act: |s| {
            maps(
                s,
                |spec, first| spec.guest_address = first.guest + 4096,
                second(s),
            )
        },
    },
    Behaviour {
        name: "regions_overlap_for_the_front_end",
        does: "shares two regions at one address of the front-end",
        expect: Expect::Refused("it overlaps another region"),
        kind: Kind::Split,
        act: |s| maps(s, |spec, first| spec.user_address = first.user + 4096, second(s)),
    },
    Behaviour {
        name: "region_around_another",
        does: "shares a region that another one lies inside",
        expect: Expect::Refused("it overlaps another region"),
        kind: Kind::Split,
        act: |s| {
            maps(s, |spec, first| spec.guest_address = first.guest - 4096, {
                let region = &s.guest.ram.regions()[1];
                region.file.set_len(1 << 30).expect("a long file");
                region.fd()
            })
        },
    },
    Behaviour {
        name: "region_of_no_file",
        does: "shares a region of an eventfd",
        expect: Expect::Refused("ends behind its file of 0 bytes"),
        kind: Kind::Split,
        act: |s| {
            let file = s.guest.tx().kick_fd();
            maps(s, |_, _| {}, file);
        },
    },
    Behaviour {
        name: "region_that_cannot_be_written",
        does: "shares a region of a file that is open for reading only",
        expect: Expect::Refused("mapping memory region"),
        kind: Kind::Split,
        act: |s| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("memory");
            std::fs::write(&path, vec![0; 2 << 20]).expect("a file");
            let file = std::fs::File::open(&path).expect("the file");
            maps(s, |_, _| {}, file.into());
        },
    },
    Behaviour {
        name: "regions_without_end",
        does: "shares 65 regions",
        expect: Expect::Refused("there are 64 regions already"),
        kind: Kind::Split,
        act: |s| {
            let mut memory = GuestMemory::new(&GuestShare::new());
            s.port = None;
            for i in 0..65u64 {
                let one = RegionSpec {
                    guest_address: i << 32,
                    user_address: i << 32,
                    size: 4096,
                    mmap_offset: 0,
                };
                match memory.with(one, second(s)) {
                    Ok(more) => memory = more,
                    Err(error) => s.refusal = Some(error.to_string()),
                }
            }
            assert_eq!(memory.regions(), 64);
        },
    },
    Behaviour {
        name: "rings_in_no_region",
        does: "puts its rings where there is no memory",
        expect: Expect::Refused("is not in the memory that the front-end shared"),
        kind: Kind::Both,
        act: |s| {
            let regions = s.guest.ram.regions()[1..].iter().map(|r| (region(r), r.fd()));
            let memory = Arc::new(GuestMemory::map(&GuestShare::new(), regions).expect("memory"));
            s.reopen(|config| config.memory = memory);
        },
    },
    Behaviour {
        name: "all_parts_of_the_rings_in_one_place",
        does: "puts descriptors, available and used ring of both queues at one address",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            s.reopen(|config| {
                let place = config.transmit.as_ref().map_or(0, |ring| ring.descriptors);
                for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
                    (ring.descriptors, ring.driver, ring.device) = (place, place, place);
                }
            });
            for n in 0..40 {
                s.turn();
                let at = s.guest.tx().ring.parts()[0];
                s.guest.ram.write(at, &frame(n, 64));
            }
        },
    },
    Behaviour {
        name: "one_ring_for_both_ways",
        does: "gives one ring as the queue to send from and to receive into",
        expect: Expect::Harmless,
        kind: Kind::Both,
        act: |s| {
            s.reopen(|config| {
                if let (Some(tx), Some(rx)) = (&config.transmit, &mut config.receive) {
                    (rx.descriptors, rx.driver, rx.device) = (tx.descriptors, tx.driver, tx.device);
                }
            });
            let at = s.buffer(1000);
            for _ in 0..20 {
                s.sends(&[readable(at, 1012)]);
                s.turn();
            }
        },
    },
    Behaviour {
        name: "closes_its_files",
        does: "closes its memory's files after they were shared: the mapping stays",
        expect: Expect::Served(1),
        kind: Kind::Both,
        act: |s| {
            let at = s.buffer(100);
            let copy = s.guest.ram.regions()[0].file.as_fd().try_clone_to_owned();
            drop(copy);
            s.sends(&[readable(at, 112)]);
        },
    },
];
