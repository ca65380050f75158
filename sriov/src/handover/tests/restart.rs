//! Containers and servers that start anew, and what is at the path then.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;

fn listen(path: &Path) -> Result<Handover, ListenError> {
    let devices = Devices::new(&[(A, "net1")]);
    Handover::listen_with(path, devices, Limits::default(), is_a)
}

#[test]
fn a_container_that_starts_anew_gets_its_device_again() {
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, Limits::default(), is_a);
    for round in 0..20 {
        let client = site.client();
        assert_eq!(client.ask("/connect,pod-a"), "/host_ok");
        assert_eq!(client.map("net1"), devices.inode(A, "net1"));
        if round % 2 == 0 {
            assert_eq!(client.ask("/fin"), "/fin_ack");
        }
    }
    site.counts(Counts {
        accepted: 20,
        handed: 20,
        ..Counts::default()
    });
}

#[test]
fn a_server_that_starts_anew_is_found_at_the_same_path() {
    let (devices, site, client) = admitted(Limits::default());
    let Site { handover, folder } = site;
    drop(handover);
    assert!(client.is_closed());
    assert!(!socket_in(&folder).exists());
    assert!(Client::try_connect(&socket_in(&folder)).is_err());

    let authorize = Arc::clone(&devices) as Arc<dyn Authorize>;
    let handover =
        Handover::listen_with(&socket_in(&folder), authorize, Limits::default(), is_a).expect("a socket");
    let client = Client::connect(handover.path());
    assert_eq!(client.ask("/connect,pod-a"), "/host_ok");
    assert_eq!(client.map("net1"), devices.inode(A, "net1"));
}

#[test]
fn the_socket_of_a_killed_server_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = socket_in(&folder);
    let killed = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    rustix::net::bind(&killed, &SocketAddrUnix::new(&path).expect("an address")).expect("its path");
    rustix::net::listen(&killed, 1).expect("a server");
    drop(killed);
    let handover = listen(&path).expect("a socket");
    assert_eq!(Client::connect(&path).ask("/version"), "0.1");
    drop(handover);
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_living_server_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = socket_in(&folder);
    let first = listen(&path).expect("a socket");
    assert!(matches!(listen(&path), Err(ListenError::InUse { .. })));
    assert_eq!(Client::connect(&path).ask("/version"), "0.1");
    drop(first);
    let stream = UnixListener::bind(&path).expect("a socket of another kind");
    assert!(matches!(listen(&path), Err(ListenError::InUse { .. })));
    drop(stream);
    listen(&path).expect("a stale one");
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = socket_in(&folder);
    std::fs::write(&path, "mine").expect("a file");
    assert!(matches!(listen(&path), Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).expect("it"), b"mine");
    std::fs::remove_file(&path).expect("its end");
    // A link to a socket is none either: it may lead anywhere.
    let elsewhere = folder.path().join("elsewhere");
    drop(UnixListener::bind(&elsewhere).expect("a socket"));
    std::os::unix::fs::symlink(&elsewhere, &path).expect("a link");
    assert!(matches!(listen(&path), Err(ListenError::NotASocket { .. })));
    assert!(elsewhere.exists());
}

#[test]
fn a_socket_that_took_the_path_since_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = socket_in(&folder);
    let first = listen(&path).expect("a socket");
    std::fs::remove_file(&path).expect("its end");
    let second = listen(&path).expect("a socket");
    drop(first);
    assert_eq!(Client::connect(&path).ask("/version"), "0.1");
    drop(second);
    assert!(!path.exists());
}

#[test]
fn every_user_may_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    let _handover = listen(&socket_in(&folder)).expect("a socket");
    let mode = std::fs::metadata(socket_in(&folder))
        .expect("its data")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o666);
}

#[test]
fn paths_that_can_t_be_listened_on_say_why() {
    let missing = listen(Path::new("/nonexistent/afxdp.sock")).expect_err("no folder");
    assert!(
        missing
            .to_string()
            .contains("/nonexistent/afxdp.sock: No such file"),
        "{missing}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let long = folder.path().join("x".repeat(110));
    assert!(
        listen(&long)
            .expect_err("too long")
            .to_string()
            .contains("name too long")
    );
}
