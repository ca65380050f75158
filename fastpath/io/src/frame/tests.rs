use super::*;
use crate::{HugePages, PoolSet, Umem, UmemGeometry};
use proptest::prelude::*;

fn setup(chunks: u32) -> (Umem, PoolSet) {
    let geometry = UmemGeometry {
        chunk_size: 2048,
        chunks,
        huge_pages: HugePages::Off,
    };
    let umem = Umem::new(geometry).expect("memory");
    let mut pools = PoolSet::new();
    pools.add(&umem);
    (umem, pools)
}

#[test]
fn an_empty_frame_owns_nothing_and_refuses_everything() {
    let mut frame = Frame::default();
    assert_eq!((frame.len(), frame.headroom(), frame.region()), (0, 0, None));
    assert!(!frame.push_front(1) && !frame.advance(1));
    assert_eq!(frame.bytes(), b"");
    frame.free_to_depot();
}

#[test]
fn headers_are_pushed_and_pulled_in_place() {
    let (umem, mut pools) = setup(64);
    let mut frame = pools.frame_from(umem.id(), &[7; 60]).expect("chunk");
    assert_eq!(frame.headroom(), HEADROOM);
    assert!(frame.push_front(50));
    frame.bytes_mut()[..50].fill(9);
    assert_eq!((frame.len(), frame.headroom()), (110, HEADROOM - 50));
    assert!(!frame.push_front(HEADROOM - 49), "headroom is a hard limit");
    assert!(frame.advance(50));
    assert_eq!(frame.bytes(), [7; 60]);
    assert!(!frame.advance(61));
    frame.truncate(40);
    frame.truncate(4000);
    assert_eq!(frame.bytes(), [7; 40]);
    pools.free(frame);
    drop(pools);
    assert_eq!(umem.depot_chunks(), 64);
}

#[test]
fn a_held_frame_is_cut_wherever_that_is() {
    const REST: [&[u8]; 4] = [&[1; 100], &[], &[2; 50], &[3; 7]];
    let whole = [&[7; 90][..], &[1; 100], &[2; 50], &[3; 7]].concat();
    let (umem, mut pools) = setup(64);
    for n in 0..=300 {
        let mut frame = pools.frame_from(umem.id(), &[7; 100]).expect("chunk");
        assert!(frame.hold_static(&REST));
        // As decapsulation does it.
        assert!(frame.advance(10));
        frame.truncate(n);
        let expected = &whole[..whole.len().min(n as usize)];
        assert_eq!((frame.len() as usize, frame.is_held()), (expected.len(), n > 90));
        let mut bytes = vec![0; 300];
        let read = frame.reader().read(&mut bytes);
        assert_eq!(&bytes[..read], expected);
        // Once more, and what was given up is not there any more.
        frame.truncate(n / 2);
        assert_eq!(
            frame.reader().read(&mut bytes),
            expected.len().min(n as usize / 2)
        );
        pools.free(frame);
    }
    drop(pools);
    assert_eq!(umem.depot_chunks(), 64);
}

#[test]
fn a_frame_pulled_to_the_end_of_its_chunk_stays_in_it() {
    let (umem, mut pools) = setup(64);
    let mut frame = pools.frame_from(umem.id(), &[7; 1792]).expect("chunk");
    let mut neighbour: Vec<Frame> = std::iter::from_fn(|| pools.alloc(umem.id())).collect();
    assert!(frame.advance(1792));
    assert_eq!((frame.len(), frame.headroom()), (0, 2048));
    assert!(frame.push_front(1792));
    assert_eq!((frame.bytes(), frame.headroom()), (&[7; 1792][..], 256));
    assert!(frame.advance(1792));
    pools.free(neighbour.pop().expect("63 of them"));
    assert!(frame.append(pools.get(umem.id()).expect("pool"), &[1, 2, 3]));
    assert_eq!(frame.segments().collect::<Vec<_>>(), [&[][..], &[1, 2, 3]]);
    neighbour
        .into_iter()
        .chain([frame])
        .for_each(|frame| pools.free(frame));
    drop(pools);
    assert_eq!(umem.depot_chunks(), 64);
}

proptest! {
    #[test]
    fn push_pull_and_append_are_a_byte_deque(ops in prop::collection::vec((0u8..3, 0usize..3000), 1..20)) {
        let (umem, mut pools) = setup(256);
        let mut frame = pools.alloc(umem.id()).expect("chunk");
        let mut model: std::collections::VecDeque<u8> = Default::default();
        let mut first = 0usize; // bytes in the first chunk
        let mut room = HEADROOM as usize;
        for (op, n) in ops {
            match op {
                0 => {
                    let bytes: Vec<u8> = (0..n).map(|i| i as u8).collect();
                    let pool = pools.get(umem.id()).expect("pool");
                    if frame.is_linear() { first = (first + n).min(2048 - room); }
                    prop_assert!(frame.append(pool, &bytes));
                    model.extend(bytes);
                }
                1 => {
                    let ok = frame.advance(n as u32);
                    prop_assert_eq!(ok, n <= first);
                    if ok { first -= n; room += n; model.drain(..n); }
                }
                _ => {
                    let ok = frame.push_front(n as u32);
                    prop_assert_eq!(ok, n <= room);
                    if ok {
                        first += n; room -= n;
                        frame.bytes_mut()[..n].fill(3);
                        for _ in 0..n { model.push_front(3); }
                    }
                }
            }
            prop_assert_eq!(frame.len() as usize, model.len());
            prop_assert_eq!(frame.segments().flatten().copied().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
        }
        pools.free(frame);
        drop(pools);
        prop_assert_eq!(umem.depot_chunks(), 256);
    }
}
