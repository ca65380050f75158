//! Real sockets; real processes in real cgroups where two pods are needed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};
use tempfile::TempDir;

use super::*;
use crate::handover::cgroup::CgroupError;

mod exchange;
mod hostile;
mod pods;
mod restart;

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";

fn pod(uid: &str) -> Peer {
    Peer {
        pid: 1,
        uid: 1000,
        gid: 1000,
        workload: Workload::Pod {
            uid: uid.to_owned(),
            container: None,
        },
    }
}

fn is_a(_: &OwnedFd) -> Result<Peer, PeerError> {
    Ok(pod(A))
}

fn is_b(_: &OwnedFd) -> Result<Peer, PeerError> {
    Ok(pod(B))
}

fn is_nobody(_: &OwnedFd) -> Result<Peer, PeerError> {
    Err(PeerError::Workload {
        pid: 1,
        source: CgroupError::NoWorkload,
    })
}

/// Which pod holds what; files stand for the maps.
#[derive(Default)]
struct Devices {
    held: Mutex<HashMap<(String, String), File>>,
    fails: AtomicBool,
    polled: Mutex<Vec<BusyPoll>>,
}

impl Devices {
    fn new(held: &[(&str, &str)]) -> Arc<Self> {
        let devices = Arc::new(Self::default());
        for (uid, device) in held {
            devices.give(uid, device);
        }
        devices
    }

    fn give(&self, uid: &str, device: &str) {
        let map = tempfile::tempfile().expect("a file");
        self.held
            .lock()
            .expect("the table")
            .insert((uid.to_owned(), device.to_owned()), map);
    }

    fn take(&self, uid: &str, device: &str) {
        let key = (uid.to_owned(), device.to_owned());
        self.held.lock().expect("the table").remove(&key).expect("held");
    }

    fn inode(&self, uid: &str, device: &str) -> u64 {
        let key = (uid.to_owned(), device.to_owned());
        self.held.lock().expect("the table")[&key]
            .metadata()
            .expect("its data")
            .ino()
    }

    fn check(&self) -> io::Result<()> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the table is gone")),
            false => Ok(()),
        }
    }
}

fn uid(peer: &Peer) -> &str {
    match &peer.workload {
        Workload::Pod { uid, .. } => uid,
        Workload::Container { id } => id,
    }
}

impl Authorize for Devices {
    fn admit(&self, peer: &Peer) -> io::Result<bool> {
        self.check()?;
        let held = self.held.lock().expect("the table");
        Ok(held.keys().any(|(holder, _)| holder == uid(peer)))
    }

    fn xskmap(&self, peer: &Peer, device: &str) -> io::Result<Option<OwnedFd>> {
        self.check()?;
        let held = self.held.lock().expect("the table");
        let map = held.get(&(uid(peer).to_owned(), device.to_owned()));
        map.map(|map| map.try_clone().map(OwnedFd::from)).transpose()
    }

    fn busy_poll(&self, _: &Peer, _: BorrowedFd<'_>, how: BusyPoll) -> io::Result<()> {
        self.check()?;
        self.polled.lock().expect("the list").push(how);
        Ok(())
    }
}

/// A served socket in a folder of its own.
struct Site {
    handover: Handover,
    folder: TempDir,
}

fn socket_in(folder: &TempDir) -> PathBuf {
    folder.path().join("afxdp.sock")
}

impl Site {
    fn new(devices: &Arc<Devices>, limits: Limits, identify: listener::Identify) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authorize = Arc::clone(devices) as Arc<dyn Authorize>;
        let handover =
            Handover::listen_with(&socket_in(&folder), authorize, limits, identify).expect("a socket");
        Self { handover, folder }
    }

    fn client(&self) -> Client {
        Client::connect(self.handover.path())
    }

    fn counts(&self, wanted: Counts) {
        counts_become(&self.handover, wanted);
    }
}

/// An answer is counted after it was sent, so it may take a moment.
fn counts_become(handover: &Handover, wanted: Counts) {
    for _ in 0..1000 {
        if handover.counts() == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(handover.counts(), wanted);
}

/// One of pod A, which holds net1, and a client that said `/connect`.
fn admitted(limits: Limits) -> (Arc<Devices>, Site, Client) {
    let devices = Devices::new(&[(A, "net1")]);
    let site = Site::new(&devices, limits, is_a);
    let client = site.client();
    assert_eq!(client.ask("/connect,pod-a"), "/host_ok");
    (devices, site, client)
}

struct Client(OwnedFd);

impl Client {
    fn try_connect(path: &Path) -> rustix::io::Result<Self> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    fn connect(path: &Path) -> Self {
        Self::try_connect(path).expect("a connection")
    }

    fn try_send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(packet)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    fn send(&self, packet: impl AsRef<[u8]>, descriptors: &[BorrowedFd<'_>]) {
        self.try_send(packet.as_ref(), descriptors)
            .expect("a packet's way");
    }

    /// The next answer; none once the server closed the connection.
    fn answer(&self) -> Option<(String, Vec<OwnedFd>)> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let long = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        assert_ne!(poll(&mut fds, Some(&long)).expect("poll"), 0, "no answer");
        let mut buffer = [0; 512];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::CONNRESET) => return None,
            Err(error) => panic!("{error}"),
        };
        let descriptors = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        let text = std::str::from_utf8(&buffer[..received.bytes]).expect("text");
        (received.bytes > 0).then(|| (text.to_owned(), descriptors))
    }

    /// The answer to a request; it comes without a descriptor.
    fn ask(&self, request: impl AsRef<[u8]>) -> String {
        self.ask_with(request, &[])
    }

    fn ask_with(&self, request: impl AsRef<[u8]>, descriptors: &[BorrowedFd<'_>]) -> String {
        self.send(request, descriptors);
        let (text, descriptors) = self.answer().expect("an answer");
        assert!(descriptors.is_empty(), "{text}");
        text
    }

    /// The inode of the map that comes for a device.
    fn map(&self, device: &str) -> u64 {
        self.send(format!("/xsk_map_fd,{device}"), &[]);
        let (text, descriptors) = self.answer().expect("an answer");
        assert_eq!(text, "/fd_ack");
        let [map] = <[OwnedFd; 1]>::try_from(descriptors).expect("one descriptor");
        File::from(map).metadata().expect("its data").ino()
    }

    fn is_closed(&self) -> bool {
        self.answer().is_none()
    }
}

/// A test that can't run here: an error in CI, a note elsewhere.
fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "missing: {what}");
    eprintln!("skipped: {what} is missing");
}

/// An AF_XDP socket, bound to nothing.
fn xsk() -> Option<OwnedFd> {
    match socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(socket) => Some(socket),
        Err(error) => {
            missing(&format!("AF_XDP sockets ({error})"));
            None
        }
    }
}
