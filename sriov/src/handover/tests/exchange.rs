//! Every request and every answer.

use super::*;

#[test]
fn the_exchange_of_dpdk() {
    let (devices, site, client) = admitted(Limits::default());
    assert_eq!(client.ask("/version"), "0.1");
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    assert_eq!(client.ask("/fin"), "/fin_ack");
    assert!(client.is_closed());
    site.counts(Counts {
        accepted: 1,
        handed: 1,
        ..Counts::default()
    });
}

#[test]
fn the_exchange_of_cndp() {
    let Some(xsk) = xsk() else { return };
    let (devices, site, client) = admitted(Limits::default());
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    assert_eq!(
        client.ask_with("/config_busy_poll,20,64", &[xsk.as_fd()]),
        "/config_busy_poll_ack"
    );
    assert_eq!(client.ask("/fin\0"), "/fin_ack");
    assert!(client.is_closed());
    let (micros, budget) = (20, 64);
    assert_eq!(
        *devices.polled.lock().expect("the list"),
        [BusyPoll { micros, budget }]
    );
    site.counts(Counts {
        accepted: 1,
        handed: 1,
        busy_polled: 1,
        ..Counts::default()
    });
}

#[test]
fn what_comes_before_connect_is_refused() {
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, Limits::default(), is_a);
    let client = site.client();
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/fd_nak");
    let file = tempfile::tempfile().expect("a file");
    assert_eq!(
        client.ask_with("/config_busy_poll,20,64", &[file.as_fd()]),
        "/config_busy_poll_nak"
    );
    assert_eq!(client.ask("/version"), "0.1");
    // And is in order once it comes after.
    assert_eq!(client.ask("/connect,pod-a"), "/host_ok");
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    site.counts(Counts {
        accepted: 1,
        handed: 1,
        refused: 2,
        ..Counts::default()
    });
}

#[test]
fn requests_may_be_repeated() {
    let (devices, site, client) = admitted(Limits::default());
    devices.give(A, "net2");
    for _ in 0..3 {
        assert_eq!(client.ask("/connect,another-name"), "/host_ok");
        assert_eq!(client.map("net1"), devices.inode(A, "net1"));
        assert_eq!(client.map("net2"), devices.inode(A, "net2"));
    }
    site.counts(Counts {
        accepted: 1,
        handed: 6,
        ..Counts::default()
    });
}

#[test]
fn fin_is_in_order_at_any_time() {
    let devices = Devices::new(&[]);
    let site = Site::new(&devices, Limits::default(), is_nobody);
    let client = site.client();
    assert_eq!(client.ask("/fin"), "/fin_ack");
    assert!(client.is_closed());
}

#[test]
fn unknown_requests() {
    let (_, site, client) = admitted(Limits::default());
    for request in ["/xsk_socket", "/nak", "hello", "\0", "/version,2", "/fin,now"] {
        assert_eq!(client.ask(request), "/nak", "{request:?}");
    }
    assert_eq!(client.ask("/xsk_map_fd"), "/fd_nak");
    assert_eq!(client.ask("/connect"), "/host_nak");
    assert_eq!(client.ask("/config_busy_poll"), "/config_busy_poll_nak");
    site.counts(Counts {
        accepted: 1,
        refused: 9,
        ..Counts::default()
    });
}

#[test]
fn clients_outside_of_pods_get_nothing() {
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, Limits::default(), is_nobody);
    let client = site.client();
    assert_eq!(client.ask(format!("/connect,{A}")), "/host_nak");
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/fd_nak");
    site.counts(Counts {
        accepted: 1,
        unknown: 1,
        refused: 2,
        ..Counts::default()
    });
}

#[test]
fn a_pod_without_a_device_is_not_admitted() {
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, Limits::default(), is_b);
    let client = site.client();
    assert_eq!(client.ask("/connect,pod-a"), "/host_nak");
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/fd_nak");
    // It may be given one while it is connected.
    devices.give(B, "net1");
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/fd_nak");
    assert_eq!(client.ask("/connect,pod-b"), "/host_ok");
    assert_eq!(client.map("net1"), devices.inode(B, "net1"));
}

#[test]
fn another_pod_s_device_is_refused() {
    let devices = Devices::new(&[(A, "net1"), (B, "net2")]);
    let a = Site::new(&devices, Limits::default(), is_a);
    let b = Site::new(&devices, Limits::default(), is_b);
    for (site, name, own, other) in [(&a, A, "net1", "net2"), (&b, B, "net2", "net1")] {
        let client = site.client();
        // Whatever it calls itself.
        assert_eq!(
            client.ask(format!("/connect,{}", if name == A { B } else { A })),
            "/host_ok"
        );
        assert_eq!(client.ask(format!("/xsk_map_fd,{other}")), "/fd_nak");
        assert_eq!(client.map(own), devices.inode(name, own));
    }
}

#[test]
fn a_device_that_was_taken_away_is_refused_on_the_same_connection() {
    let (devices, _site, client) = admitted(Limits::default());
    devices.give(A, "net2");
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    devices.take(A, "net1");
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/fd_nak");
    assert_eq!(client.map("net2"), devices.inode(A, "net2"));
}

#[test]
fn our_own_failure_is_an_error_and_no_refusal() {
    let (devices, site, client) = admitted(Limits::default());
    devices.fails.store(true, Ordering::Relaxed);
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/error");
    assert_eq!(client.ask("/connect,pod-a"), "/error");
    // Which leaves it not admitted.
    devices.fails.store(false, Ordering::Relaxed);
    assert_eq!(client.ask("/xsk_map_fd,net1"), "/fd_nak");
    assert_eq!(client.ask("/connect,pod-a"), "/host_ok");
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    site.counts(Counts {
        accepted: 1,
        handed: 1,
        refused: 1,
        failed: 2,
        ..Counts::default()
    });
}

#[test]
fn busy_polling_is_for_one_af_xdp_socket_within_the_limits() {
    let Some(xsk) = xsk() else { return };
    let (devices, _site, client) = admitted(Limits::default());
    let xsk = xsk.as_fd();
    let nak = "/config_busy_poll_nak";
    let asked = |numbers: &str, descriptors: &[BorrowedFd<'_>]| {
        client.ask_with(format!("/config_busy_poll,{numbers}"), descriptors)
    };
    for numbers in ["0,64", "20,0", "1000001,64", "20,65", "4294967295,1", "x,1"] {
        assert_eq!(asked(numbers, &[xsk]), nak, "{numbers}");
    }
    let file = tempfile::tempfile().expect("a file");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    for other in [file.as_fd(), tcp.as_fd(), reader.as_fd(), client.0.as_fd()] {
        assert_eq!(asked("20,64", &[other]), nak);
    }
    assert_eq!(asked("20,64", &[]), nak);
    assert_eq!(asked("20,64", &[xsk, xsk]), nak);
    assert!(devices.polled.lock().expect("the list").is_empty());
    assert_eq!(asked("1,1", &[xsk]), "/config_busy_poll_ack");
    assert_eq!(asked("1000000,64", &[xsk]), "/config_busy_poll_ack");
    assert_eq!(devices.polled.lock().expect("the list").len(), 2);
    devices.fails.store(true, Ordering::Relaxed);
    assert_eq!(asked("20,64", &[xsk]), nak);
}
