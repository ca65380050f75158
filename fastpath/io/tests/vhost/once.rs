//! The bytes of a frame are copied once, from one guest's buffers into the other's; headers are parsed in a private copy.

use crate::bed::*;
use clearway_io::{Frame, FrameBatch, Port};
use clearway_virtio_mock::{Segment, feature};

/// Bytes of a frame that are copied when it is received: as many as any headers have.
const HEAD: usize = 256;

/// Frames of these lengths, received and then changed by the guest that sent them. Gives what the other guest got.
fn change_before_they_are_sent(features: u64, lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut bed = Bed::new(64);
    let options = GuestOptions {
        features,
        ..GuestOptions::default()
    };
    let (mut a, mut from) = bed.guest(&options);
    let (mut b, mut to) = bed.guest(&options);
    let places: Vec<u64> = lengths
        .iter()
        .map(|len| a.ram.take(12 + *len as u64, 64))
        .collect();
    for (n, (len, at)) in lengths.iter().zip(&places).enumerate() {
        a.ram.write(*at, &[&[0; 12][..], &frame(n, *len)].concat());
        let whole = Segment {
            addr: *at,
            len: 12 + *len as u32,
            writable: false,
        };
        a.tx().ring.add(&[whole], false).expect("room");
    }
    a.tx().flush();
    b.rx().fill(10_000, WHOLE);
    b.rx().flush();

    let mut batch = FrameBatch::new();
    assert_eq!(from.rx_batch(&mut bed.pools, &mut batch), lengths.len());
    let mut frames: Vec<Frame> = batch.drain(..).collect();
    for frame in &frames {
        assert_eq!(
            frame.segment_count(),
            1,
            "chunks of a frame of {} bytes",
            frame.len()
        );
        assert_eq!(frame.is_held(), frame.len() as usize > HEAD);
    }
    // Whatever the guest does now: the headers are decided upon, and the rest is its own.
    for (n, (len, at)) in lengths.iter().zip(&places).enumerate() {
        a.ram.write(at + 12, &changed(n, *len));
        assert_eq!(a.tx().reap(), 0, "it is not the guest's again");
    }
    assert_eq!(
        to.tx_batch(&mut bed.pools, &mut frames).packets,
        lengths.len() as u64
    );
    frames.drain(..).for_each(|frame| bed.pools.free(frame));
    from.rx_done();
    from.reclaim(&mut bed.pools);
    to.reclaim(&mut bed.pools);
    assert_eq!(a.tx().reap(), lengths.len());
    let got = plain_frames(b.rx());
    drop((from, to));
    bed.finish();
    got
}

fn changed(n: usize, len: usize) -> Vec<u8> {
    frame(n, len).iter().map(|byte| !byte).collect()
}

#[test]
fn what_is_sent_is_what_lies_in_the_senders_buffer_then() {
    let lengths = [60, HEAD, HEAD + 1, HEAD + 20, 1514, 2048, 9000];
    for features in kinds() {
        let got = change_before_they_are_sent(features, &lengths);
        assert_eq!(got.len(), lengths.len(), "{features:#x}");
        for (n, (got, len)) in got.iter().zip(lengths).enumerate() {
            let head = len.min(HEAD);
            assert!(
                got[..head] == frame(n, len)[..head],
                "{features:#x}: the first {head} bytes of {len} are those that were parsed"
            );
            assert!(
                got[head..] == changed(n, len)[head..],
                "{features:#x}: what follows {head} bytes of {len} was copied before it was sent"
            );
        }
    }
}

/// A frame of 64 KiB has no room in the worker's memory, and needs none.
#[test]
fn a_pool_needs_no_room_for_what_guests_send_one_another() {
    for packed in [0, feature::RING_PACKED] {
        let mut bed = Bed::new(64);
        let taken: Vec<Frame> = (0..60).filter_map(|_| bed.pools.alloc(bed.umem.id())).collect();
        assert_eq!(bed.pools.chunks() + bed.umem.depot_chunks(), 4);
        let options = GuestOptions {
            features: feature::VERSION_1 | feature::MRG_RXBUF | packed,
            ..GuestOptions::default()
        };
        let (mut a, mut from) = bed.guest(&options);
        let (mut b, mut to) = bed.guest(&options);
        b.rx().fill(2000, WHOLE);
        b.rx().flush();
        for n in 0..4 {
            assert!(a.tx().send(Default::default(), &frame(n, 65_000), WHOLE));
            a.tx().flush();
            assert_eq!(bed.forward(&mut from, &mut to).1.packets, 1);
            assert!(plain_frames(b.rx()) == [frame(n, 65_000)]);
            b.rx().fill(2000, WHOLE);
            b.rx().flush();
        }
        drop((from, to));
        taken.into_iter().for_each(|frame| bed.pools.free(frame));
        bed.finish();
    }
}
