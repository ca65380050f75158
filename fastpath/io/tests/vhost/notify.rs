//! Notifications, exactly as many as were asked for (virtio 1.2 §2.7.7, §2.7.10, §2.8.10).

use super::bed::{Bed, GuestOptions, WHOLE, frame, kinds, received};
use clearway_io::{Port, VhostPort};
use clearway_virtio_mock::{Calls, Guest, feature};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn start(bed: &Bed, features: u64) -> (Guest, VhostPort) {
    // Not at 0, where a split ring's event index is before anybody set it.
    let options = GuestOptions {
        features,
        start: (100, true),
        ..GuestOptions::default()
    };
    bed.guest(&options)
}

fn send(guest: &mut Guest, n: usize) -> bool {
    for i in 0..n {
        assert!(guest.tx().send(Default::default(), &frame(i, 60), WHOLE));
    }
    guest.tx().flush()
}

fn is_readable(port: &VhostPort) -> bool {
    let fd = port.wait_fd().expect("a descriptor");
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).expect("poll") == 1
}

#[test]
fn a_kick_is_wanted_once_after_each_arming() {
    for features in kinds() {
        let mut bed = Bed::new(256);
        let (mut guest, mut port) = start(&bed, features);
        let what = format!("{features:#x}");
        let event_idx = features & feature::EVENT_IDX != 0;
        // The receive queue is never slept on.
        assert!(guest.rx().post(100, WHOLE));
        assert!(!guest.rx().flush(), "{what}");
        assert!(
            !send(&mut guest, 1),
            "{what}: a port that is polled wants no kick"
        );
        assert!(port.arm(), "{what}: there is something");
        assert_eq!(bed.receive(&mut port).len(), 1, "{what}");
        assert!(!send(&mut guest, 2), "{what}: armed no more");
        assert_eq!(bed.receive(&mut port).len(), 2, "{what}");
        for _ in 0..5 {
            assert!(!port.arm(), "{what}: there is nothing");
            assert!(send(&mut guest, 3), "{what}: the kick that was asked for");
            assert!(is_readable(&port), "{what}");
            // With EVENT_IDX one suffices; without it the flag stays until the port looks.
            assert_eq!(send(&mut guest, 2), !event_idx, "{what}");
            assert_eq!(bed.receive(&mut port).len(), 5, "{what}");
            assert!(!send(&mut guest, 1), "{what}");
            assert_eq!(bed.receive(&mut port).len(), 1, "{what}");
            guest.tx().reap();
        }
        drop(port);
        bed.finish();
    }
}

#[test]
fn a_call_for_each_batch_or_none() {
    for features in kinds() {
        let mut bed = Bed::new(512);
        let (mut guest, mut port) = start(&bed, features);
        let what = format!("{features:#x}");
        guest.rx().fill(200, WHOLE);
        guest.rx().flush();
        for round in 0..20 {
            let calls = if round % 2 == 0 {
                Calls::Always
            } else {
                Calls::Never
            };
            let expected = u64::from(calls == Calls::Always);
            guest.tx().calls(calls);
            guest.rx().calls(calls);
            send(&mut guest, 7);
            assert_eq!(bed.receive(&mut port).len(), 7, "{what}");
            assert_eq!(guest.tx().called(), expected, "{what}, sent, round {round}");
            assert!(bed.receive(&mut port).is_empty());
            assert_eq!(guest.tx().called(), 0, "{what}, nothing was sent, round {round}");
            let frames: Vec<Vec<u8>> = (0..5).map(|n| frame(n, 100)).collect();
            assert_eq!(bed.transmit(&mut port, &frames).0.packets, 5);
            assert_eq!(guest.rx().called(), expected, "{what}, received, round {round}");
            assert_eq!((guest.tx().reap(), received(guest.rx()).len()), (7, 5));
        }
        drop(port);
        bed.finish();
    }
}

/// With EVENT_IDX a call comes when the device gets past the place that the driver named, and at no other time.
#[test]
fn a_call_after_as_many_as_were_asked_for() {
    for features in kinds().filter(|features| features & feature::EVENT_IDX != 0) {
        let mut bed = Bed::new(512);
        let (mut guest, mut port) = start(&bed, features);
        guest.rx().fill(200, WHOLE);
        guest.rx().flush();
        // Through several laps of the rings.
        for round in 0..60u16 {
            let (after, first, second) = [
                (1, 1, 1),
                (3, 2, 1),
                (3, 2, 4),
                (10, 9, 1),
                (10, 10, 3),
                (20, 5, 6),
            ][usize::from(round % 6)];
            let what = format!("{features:#x}, round {round}: {after} of {first} and {second}");
            guest.tx().calls(Calls::After(after));
            guest.rx().calls(Calls::After(after));
            let mut before = 0;
            for burst in [first, second] {
                let expected = u64::from(before < usize::from(after) && before + burst >= usize::from(after));
                send(&mut guest, burst);
                assert_eq!(bed.receive(&mut port).len(), burst, "{what}");
                assert_eq!(guest.tx().called(), expected, "{what}: sent");
                let frames: Vec<Vec<u8>> = (0..burst).map(|n| frame(n, 100)).collect();
                assert_eq!(bed.transmit(&mut port, &frames).0.packets, burst as u64, "{what}");
                assert_eq!(guest.rx().called(), expected, "{what}: received");
                before += burst;
            }
            assert_eq!(
                (guest.tx().reap(), received(guest.rx()).len()),
                (before, before),
                "{what}"
            );
            guest.rx().fill(200, WHOLE);
            guest.rx().flush();
        }
        drop(port);
        bed.finish();
    }
}

#[test]
fn a_front_end_that_polls_is_not_called_and_can_be_polled_only() {
    let mut bed = Bed::new(64);
    let mut guest = Guest::new(&GuestOptions::default());
    let mut config = super::bed::config(&guest);
    for ring in [&mut config.transmit, &mut config.receive].into_iter().flatten() {
        (ring.kick, ring.call) = (None, None);
    }
    let mut port = VhostPort::new(config, &bed.umem).expect("a port");
    assert!(port.wait_fd().is_none());
    guest.rx().fill(200, WHOLE);
    guest.rx().flush();
    send(&mut guest, 3);
    assert_eq!(bed.receive(&mut port).len(), 3);
    assert_eq!(bed.transmit(&mut port, &[frame(0, 60)]).0.packets, 1);
    assert_eq!((guest.tx().reap(), received(guest.rx()).len()), (3, 1));
    assert_eq!(guest.tx().called() + guest.rx().called(), 0);
    drop(port);
    bed.finish();
}
