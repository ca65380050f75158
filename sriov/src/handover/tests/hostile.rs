//! Clients that mean no good.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;

/// The write end of a pipe, and how to tell that every copy of it is closed.
fn tracked() -> (std::io::PipeReader, std::io::PipeWriter) {
    std::io::pipe().expect("a pipe")
}

/// The server closed all copies that it got.
fn all_are_closed(mut reader: std::io::PipeReader, writer: std::io::PipeWriter) {
    drop(writer);
    let mut left = Vec::new();
    reader.read_to_end(&mut left).expect("the end");
    assert!(left.is_empty());
}

#[test]
fn garbage_is_refused_and_then_not_listened_to() {
    let limits = Limits {
        refusals: 100,
        ..Limits::default()
    };
    let (devices, site, client) = admitted(limits);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for length in 1..100 {
        let garbage: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8 | 0x80
        })
        .take(length)
        .collect();
        assert_eq!(client.ask(&garbage), "/nak");
    }
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    assert_eq!(client.ask([0xff]), "/nak");
    assert!(client.is_closed());
    site.counts(Counts {
        accepted: 1,
        handed: 1,
        refused: 100,
        dropped: 1,
        ..Counts::default()
    });
}

#[test]
fn too_long_a_packet_ends_the_connection() {
    let (_, site, client) = admitted(Limits::default());
    let fits = format!("/connect,{}", "a".repeat(protocol::MAX_REQUEST - 9));
    assert_eq!(client.ask(fits), "/host_ok");
    // Cut off it would be a request.
    let mut long = b"/fin".to_vec();
    long.resize(100_000, 0);
    assert_eq!(client.ask(long), "/nak");
    assert!(client.is_closed());
    site.counts(Counts {
        accepted: 1,
        refused: 1,
        dropped: 1,
        ..Counts::default()
    });
}

#[test]
fn an_empty_packet_ends_the_connection() {
    let (_, _site, client) = admitted(Limits::default());
    client.send(b"", &[]);
    assert!(client.is_closed());
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let (devices, site, client) = admitted(Limits::default());
    let (reader, writer) = tracked();
    for request in [
        "/connect,pod-a",
        "/version",
        "/xsk_map_fd,net1",
        "/fin",
        "garbage",
    ] {
        assert_eq!(client.ask_with(request, &[writer.as_fd()]), "/nak", "{request}");
    }
    assert_eq!(
        client.ask_with("/config_busy_poll,20,64", &[writer.as_fd()]),
        "/config_busy_poll_nak"
    );
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    // More than there is room for.
    let many = [writer.as_fd(); 253];
    assert_eq!(client.ask_with("/config_busy_poll,20,64", &many), "/nak");
    assert!(client.is_closed());
    // With a packet that is too long, and one that nobody takes from the socket any more.
    let client = site.client();
    client.send([b'x'; 1000], &many[..2]);
    let _ = client.try_send(b"/version", &many[..2]);
    drop(client);
    all_are_closed(reader, writer);
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let limits = Limits {
        burst: 1_000_000,
        ..Limits::default()
    };
    let (devices, site, client) = admitted(limits);
    let mut sent = 0;
    let refused = loop {
        match client.try_send(b"/xsk_map_fd,net1", &[]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000, "the server takes everything");
    };
    assert!(matches!(refused, Errno::PIPE | Errno::CONNRESET), "{refused}");
    let other = site.client();
    assert_eq!(other.ask("/connect,pod-a"), "/host_ok");
    assert_eq!(other.map("net1"), devices.inode(A, "net1"));
    assert_eq!(site.handover.counts().dropped, 1);
}

#[test]
fn a_flood_is_slowed_down_and_others_are_not() {
    let limits = Limits {
        burst: 4,
        per_second: 10,
        ..Limits::default()
    };
    let (devices, slow, flood) = admitted(limits);
    let quick = Site::new(&devices, Limits::default(), is_a);
    let start = Instant::now();
    for _ in 0..12 {
        flood.send("/version", &[]);
    }
    // While it waits for its turn, others don't: neither another socket's clients nor the end of its own.
    let other = quick.client();
    for _ in 0..100 {
        assert_eq!(other.ask("/version"), "0.1");
    }
    for _ in 0..12 {
        assert_eq!(flood.answer().expect("an answer").0, "0.1");
    }
    // Two of the four were for the connection and /connect.
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    drop(slow);
    assert!(flood.is_closed());
}

#[test]
fn connections_are_limited_and_the_newest_has_a_place() {
    let limits = Limits {
        connections: 3,
        burst: 10_000,
        ..Limits::default()
    };
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, limits, is_a);
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..100 {
        let client = site.client();
        assert_eq!(client.ask("/connect,pod-a"), "/host_ok", "{number}");
        clients.push(client);
    }
    for client in &clients[..97] {
        assert!(client.is_closed());
    }
    for client in &clients[97..] {
        assert_eq!(client.map("net1"), devices.inode(A, "net1"));
    }
    site.counts(Counts {
        accepted: 100,
        handed: 3,
        dropped: 97,
        ..Counts::default()
    });
}

#[test]
fn silent_connections_are_closed() {
    let limits = Limits {
        idle: Duration::from_millis(300),
        ..Limits::default()
    };
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, limits, is_a);
    let (silent, spoke) = (site.client(), site.client());
    let start = Instant::now();
    assert_eq!(spoke.ask("/connect,pod-a"), "/host_ok");
    assert!(silent.is_closed() && spoke.is_closed());
    assert!(
        start.elapsed() >= Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
    site.counts(Counts {
        accepted: 2,
        dropped: 2,
        ..Counts::default()
    });
}

#[test]
fn a_descriptor_that_takes_long_to_close_holds_up_nobody_else() {
    // The packet lies in the socket for a second: by then the server's copy of the descriptor is the last.
    let limits = Limits {
        burst: 1,
        per_second: 1,
        ..Limits::default()
    };
    let devices = Devices::new(&[(A, "net1"), (B, "net2")]);
    let hostile = Site::new(&devices, limits, is_a);
    let other = Site::new(&devices, Limits::default(), is_b);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let mut stream = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (_never_reads, _) = listener.accept().expect("a client");
    stream.set_nonblocking(true).expect("a socket");
    while stream.write(&[0; 65536]).is_ok() {}
    let minute = Some(Duration::from_secs(60));
    rustix::net::sockopt::set_socket_linger(&stream, minute).expect("SO_LINGER");

    let client = hostile.client();
    client.send("/config_busy_poll,20,64", &[stream.as_fd()]);
    drop(stream);
    assert_eq!(client.answer().expect("an answer").0, "/config_busy_poll_nak");
    // Now it closes the descriptor, for a minute.
    let start = Instant::now();
    let victim = other.client();
    assert_eq!(victim.ask("/connect,pod-b"), "/host_ok");
    assert_eq!(victim.map("net2"), devices.inode(B, "net2"));
    let served = start.elapsed();
    assert!(served < Duration::from_secs(20), "{served:?}");
    drop(hostile);
    let stopped = start.elapsed() - served;
    assert!(
        stopped >= Duration::from_millis(900),
        "it was not held up: {stopped:?}"
    );
    assert!(stopped < Duration::from_secs(20), "{stopped:?}");
}
