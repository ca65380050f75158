//! One client: its packets in, one answer each, and what it may ask when.
//!
//! Guarantees: never waits. A client that does not read its answers, sends too long a packet, is refused too often
//! or is done is closed. Descriptors that nobody asked for are closed with the packet that they came with.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};

use super::peer::{Peer, PeerError};
use super::protocol::{BusyPoll, MAX_REQUEST, Reply, Request};
use super::{Authorize, Counters, Limits};

/// A client's connection.
pub(super) struct Connection {
    socket: OwnedFd,
    peer: Result<Peer, PeerError>,
    /// Whether the last `/connect` was accepted.
    admitted: bool,
    refusals: u32,
    /// When it sent its last request.
    pub(super) heard: Instant,
}

/// Whether a client stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    Close,
}

/// One packet and what came with it.
struct Packet {
    length: usize,
    descriptors: Vec<OwnedFd>,
    /// It was longer than a request can be, or had more descriptors than there is room for.
    cut: bool,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd, peer: Result<Peer, PeerError>, now: Instant) -> Self {
        Self {
            socket,
            peer,
            admitted: false,
            refusals: 0,
            heard: now,
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one packet, if there is one, and answers it.
    pub(super) fn serve(
        &mut self,
        authorize: &dyn Authorize,
        limits: &Limits,
        counters: &Counters,
        now: Instant,
    ) -> Next {
        let mut buffer = [0; MAX_REQUEST];
        let packet = match self.receive(&mut buffer) {
            Ok(packet) => packet,
            Err(Errno::AGAIN | Errno::INTR) => return Next::Stay,
            Err(_) => return Next::Close,
        };
        // The end of the connection; a packet of no bytes looks the same and is no request either.
        if packet.length == 0 {
            return Next::Close;
        }
        self.heard = now;
        let (reply, map) = if packet.cut {
            (Reply::Nak, None)
        } else {
            match Request::parse(&buffer[..packet.length]) {
                Ok(request) => self.answer(request, &packet.descriptors, authorize, limits),
                Err(refusal) => (refusal, None),
            }
        };
        if let Err(error) = self.send(reply, map.as_ref()) {
            tracing::debug!(client = %self.name(), %error, "a client does not take its answers");
            counters.dropped.add();
            return Next::Close;
        }
        self.account(reply, limits, counters, packet.cut)
    }

    /// What a request is worth.
    fn answer(
        &mut self,
        request: Request<'_>,
        descriptors: &[OwnedFd],
        authorize: &dyn Authorize,
        limits: &Limits,
    ) -> (Reply, Option<OwnedFd>) {
        if let Request::BusyPoll(wanted) = request {
            return (self.busy_poll(wanted, descriptors, authorize, limits), None);
        }
        if !descriptors.is_empty() {
            return (Reply::Nak, None);
        }
        match request {
            Request::Connect { host } => (self.connect(host, authorize), None),
            Request::Version => (Reply::Version, None),
            Request::XskMap { device } => self.xskmap(device, authorize),
            Request::BusyPoll(_) => (Reply::BusyPollNak, None),
            Request::Fin => (Reply::FinAck, None),
        }
    }

    fn connect(&mut self, host: &str, authorize: &dyn Authorize) -> Reply {
        self.admitted = false;
        let peer = match &self.peer {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(host, %error, "an AF_XDP client is refused");
                return Reply::HostNak;
            }
        };
        match authorize.admit(peer) {
            Ok(true) => {
                self.admitted = true;
                Reply::HostOk
            }
            Ok(false) => {
                tracing::warn!(client = %self.name(), host, "an AF_XDP client holds no device");
                Reply::HostNak
            }
            Err(error) => {
                tracing::error!(client = %self.name(), host, %error, "looking for an AF_XDP client's devices");
                Reply::Error
            }
        }
    }

    /// The client, once it said `/connect` and was accepted.
    fn admitted(&self) -> Option<&Peer> {
        self.peer.as_ref().ok().filter(|_| self.admitted)
    }

    fn xskmap(&self, device: &str, authorize: &dyn Authorize) -> (Reply, Option<OwnedFd>) {
        let Some(peer) = self.admitted() else {
            return (Reply::FdNak, None);
        };
        match authorize.xskmap(peer, device) {
            Ok(Some(map)) => {
                tracing::info!(client = %peer.workload, device, "an AF_XDP device is handed over");
                (Reply::FdAck, Some(map))
            }
            Ok(None) => {
                tracing::warn!(client = %peer.workload, device, "an AF_XDP device is not the client's");
                (Reply::FdNak, None)
            }
            Err(error) => {
                tracing::error!(client = %peer.workload, device, %error, "handing over an AF_XDP device");
                (Reply::Error, None)
            }
        }
    }

    fn busy_poll(
        &self,
        wanted: BusyPoll,
        descriptors: &[OwnedFd],
        authorize: &dyn Authorize,
        limits: &Limits,
    ) -> Reply {
        let (Some(peer), [socket]) = (self.admitted(), descriptors) else {
            return Reply::BusyPollNak;
        };
        let BusyPoll { micros, budget } = limits.busy_poll;
        if !(1..=micros).contains(&wanted.micros) || !(1..=budget).contains(&wanted.budget) {
            tracing::warn!(client = %peer.workload, ?wanted, most = ?limits.busy_poll, "busy polling is refused");
            return Reply::BusyPollNak;
        }
        // Our privilege is for AF_XDP sockets alone.
        if sockopt::socket_domain(socket) != Ok(AddressFamily::XDP) {
            tracing::warn!(client = %peer.workload, "busy polling is refused: not an AF_XDP socket");
            return Reply::BusyPollNak;
        }
        match authorize.busy_poll(peer, socket.as_fd(), wanted) {
            Ok(()) => Reply::BusyPollAck,
            Err(error) => {
                tracing::warn!(client = %peer.workload, ?wanted, %error, "busy polling is refused");
                Reply::BusyPollNak
            }
        }
    }

    /// Counts an answer that was sent, and says whether the client may ask more.
    fn account(&mut self, reply: Reply, limits: &Limits, counters: &Counters, cut: bool) -> Next {
        match reply {
            Reply::HostOk | Reply::Version => {}
            Reply::FdAck => counters.handed.add(),
            Reply::BusyPollAck => counters.busy_polled.add(),
            Reply::FinAck => return Next::Close,
            Reply::Error => counters.failed.add(),
            Reply::HostNak | Reply::FdNak | Reply::BusyPollNak | Reply::Nak => {
                counters.refused.add();
                self.refusals += 1;
                if cut || self.refusals >= limits.refusals {
                    counters.dropped.add();
                    return Next::Close;
                }
            }
        }
        Next::Stay
    }

    fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<Packet> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        )?;
        let descriptors = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        Ok(Packet {
            length: received.bytes,
            descriptors,
            cut: received
                .flags
                .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC),
        })
    }

    fn send(&self, reply: Reply, map: Option<&OwnedFd>) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = map.map(AsFd::as_fd).into_iter().collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::NOBUFS);
        }
        sendmsg(
            &self.socket,
            &[IoSlice::new(reply.text().as_bytes())],
            &mut control,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    fn name(&self) -> String {
        match &self.peer {
            Ok(peer) => peer.workload.to_string(),
            Err(_) => "unknown".to_owned(),
        }
    }
}
