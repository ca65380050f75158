//! The front-end's side of vhost-user (QEMU's docs/interop/vhost-user.rst): every message is written by hand, so that
//! it can be right, wrong, out of order, cut short or without the descriptors that belong to it.

use crate::{Guest, GuestRam, Queue, RamRegion, feature};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Numbers of messages from the front-end.
#[expect(missing_docs, reason = "named as in the specification")]
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_LOG_FD: u32 = 7;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SEND_RARP: u32 = 19;
    pub const NET_SET_MTU: u32 = 20;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const IOTLB_MSG: u32 = 22;
    pub const SET_VRING_ENDIAN: u32 = 23;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const POSTCOPY_ADVISE: u32 = 28;
    pub const POSTCOPY_LISTEN: u32 = 29;
    pub const POSTCOPY_END: u32 = 30;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const SET_STATUS: u32 = 39;
    pub const GET_STATUS: u32 = 40;
}

/// Bits of the protocol features.
#[expect(missing_docs, reason = "named as in the specification")]
pub mod protocol {
    pub const MQ: u64 = 1 << 0;
    pub const LOG_SHMFD: u64 = 1 << 1;
    pub const RARP: u64 = 1 << 2;
    pub const REPLY_ACK: u64 = 1 << 3;
    pub const MTU: u64 = 1 << 4;
    pub const BACKEND_REQ: u64 = 1 << 5;
    pub const PAGEFAULT: u64 = 1 << 8;
    pub const CONFIG: u64 = 1 << 9;
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    pub const RESET_DEVICE: u64 = 1 << 13;
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

/// Bits of a message's flags: the version is 1.
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
/// In the payload of SET_VRING_KICK, CALL and ERR: there is no descriptor.
pub const NO_FD: u64 = 1 << 8;
/// Most descriptors of a message that arrives.
const MAX_FDS: usize = 8;

/// A message from the back-end.
#[derive(Debug)]
pub struct Message {
    /// Its number.
    pub request: u32,
    /// Its flags.
    pub flags: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The payload as one number.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.payload[..].try_into().expect("8 bytes"))
    }
}

/// A payload of several numbers of 64 bits.
#[must_use]
pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A payload of "vring state": an index and a number.
#[must_use]
pub fn state(index: u32, number: u32) -> Vec<u8> {
    [index.to_le_bytes(), number.to_le_bytes()].concat()
}

/// "Memory region description".
#[must_use]
pub fn region(region: &RamRegion) -> Vec<u8> {
    words(&[region.guest, region.size, region.user, region.offset])
}

/// The payload of SET_MEM_TABLE.
#[must_use]
pub fn memory_table(regions: &[RamRegion]) -> Vec<u8> {
    let mut payload = state(regions.len() as u32, 0);
    payload.extend(regions.iter().flat_map(region));
    payload
}

/// The payload of SET_VRING_ADDR.
#[must_use]
pub fn addresses(index: u32, flags: u32, ram: &GuestRam, queue: &Queue, log: u64) -> Vec<u8> {
    let [descriptors, driver, device] = queue.ring.parts().map(|part| ram.user(part));
    let mut payload = state(index, flags);
    payload.extend(words(&[descriptors, device, driver, log]));
    payload
}

/// A connection.
#[derive(Debug)]
pub struct FrontEnd {
    stream: UnixStream,
    /// Protocol features that were agreed on.
    pub protocol: u64,
}

impl FrontEnd {
    /// On a socket that is connected.
    ///
    /// # Panics
    /// When it takes no timeout.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a timeout");
        stream.set_write_timeout(patience).expect("a timeout");
        Self { stream, protocol: 0 }
    }

    /// To a back-end that listens.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path)?))
    }

    /// From a back-end that connects to us.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn accept(listener: &UnixListener) -> io::Result<Self> {
        Ok(Self::new(listener.accept()?.0))
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends any bytes with any descriptors.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len().max(1)))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(
                control.push(SendAncillaryMessage::ScmRights(fds)),
                "room for descriptors"
            );
        }
        let mut sent = sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        while sent < bytes.len() {
            let rest = IoSlice::new(&bytes[sent..]);
            sent += sendmsg(
                &self.stream,
                &[rest],
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            )?;
        }
        Ok(())
    }

    /// The bytes of a message.
    #[must_use]
    pub fn encode(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
        let header = [request, flags, payload.len() as u32];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(payload);
        bytes
    }

    /// Sends a message that nothing answers.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn send(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_bytes(&Self::encode(request, VERSION, payload), fds)
    }

    fn receive_exactly(&self, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes[done..])];
            let got = recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            if got.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            done += got.bytes;
        }
        Ok(())
    }

    /// The next message.
    ///
    /// # Errors
    /// `UnexpectedEof` and `ConnectionReset` if the back-end went, `WouldBlock` if it says nothing for 20 s.
    pub fn receive(&self) -> io::Result<Message> {
        let mut header = [0; 12];
        let mut fds = Vec::new();
        self.receive_exactly(&mut header, &mut fds)?;
        let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let mut payload = vec![0; word(8) as usize];
        self.receive_exactly(&mut payload, &mut fds)?;
        Ok(Message {
            request: word(0),
            flags: word(4),
            payload,
            fds,
        })
    }

    /// Sends a message and gives its reply.
    ///
    /// # Errors
    /// Those of [`FrontEnd::receive`]; `InvalidData` if something else came.
    pub fn ask(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<Message> {
        self.send(request, payload, fds)?;
        self.reply(request)
    }

    fn reply(&self, request: u32) -> io::Result<Message> {
        let reply = self.receive()?;
        if reply.request != request || reply.flags & (REPLY | 3) != REPLY | VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{reply:?} is no reply to {request}"),
            ));
        }
        Ok(reply)
    }

    /// Sends a message, with REPLY_ACK has it acknowledged, and gives the result: 0 is success.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`].
    pub fn tell(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<u64> {
        if self.protocol & protocol::REPLY_ACK == 0 {
            self.send(request, payload, fds)?;
            return Ok(0);
        }
        self.send_bytes(&Self::encode(request, VERSION | NEED_REPLY, payload), fds)?;
        Ok(self.reply(request)?.number())
    }

    /// [`FrontEnd::ask`] for a number.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`].
    pub fn number(&self, request: u32) -> io::Result<u64> {
        Ok(self.ask(request, &[], &[])?.number())
    }

    fn must(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.tell(request, payload, fds)? {
            0 => Ok(()),
            code => Err(io::Error::other(format!(
                "message {request} was refused with {code:#x}"
            ))),
        }
    }

    /// Agrees on features, as far as the back-end offers them; gives virtio's.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`].
    pub fn negotiate(&mut self, features: u64, protocol: u64) -> io::Result<u64> {
        let offered = self.number(request::GET_FEATURES)?;
        if offered & feature::PROTOCOL_FEATURES != 0 {
            let agreed = self.number(request::GET_PROTOCOL_FEATURES)? & protocol;
            self.send(request::SET_PROTOCOL_FEATURES, &words(&[agreed]), &[])?;
            self.protocol = agreed;
        }
        self.must(request::SET_OWNER, &[], &[])?;
        let agreed = features & offered;
        let with_protocol = agreed | offered & feature::PROTOCOL_FEATURES;
        self.must(request::SET_FEATURES, &words(&[with_protocol]), &[])?;
        Ok(agreed)
    }

    /// Shares the guest's memory, by slots if they were agreed on.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`], and a refusal.
    pub fn share(&self, ram: &GuestRam) -> io::Result<()> {
        if self.protocol & protocol::CONFIGURE_MEM_SLOTS != 0 {
            for one in ram.regions() {
                let payload = [words(&[0]), region(one)].concat();
                self.must(request::ADD_MEM_REG, &payload, &[one.file.as_fd()])?;
            }
            return Ok(());
        }
        let fds: Vec<BorrowedFd<'_>> = ram.regions().iter().map(|r| r.file.as_fd()).collect();
        self.must(request::SET_MEM_TABLE, &memory_table(ram.regions()), &fds)
    }

    /// Starts one ring.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`], and a refusal.
    pub fn start_ring(&self, ram: &GuestRam, index: u32, queue: &Queue) -> io::Result<()> {
        self.start_ring_at(ram, index, queue, queue.ring.base())
    }

    /// Starts one ring with this base, whatever the driver knows.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`], and a refusal.
    pub fn start_ring_at(&self, ram: &GuestRam, index: u32, queue: &Queue, base: u32) -> io::Result<()> {
        let size = queue.ring.size().into();
        self.must(request::SET_VRING_NUM, &state(index, size), &[])?;
        self.must(request::SET_VRING_BASE, &state(index, base), &[])?;
        self.must(request::SET_VRING_ADDR, &addresses(index, 0, ram, queue, 0), &[])?;
        let number = words(&[index.into()]);
        self.must(request::SET_VRING_CALL, &number, &[queue.call.as_fd()])?;
        self.must(request::SET_VRING_KICK, &number, &[queue.kick.as_fd()])
    }

    /// Enables or disables one ring.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`], and a refusal.
    pub fn enable(&self, index: u32, on: bool) -> io::Result<()> {
        self.must(request::SET_VRING_ENABLE, &state(index, on.into()), &[])
    }

    /// Stops one ring; gives its base.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`].
    pub fn stop_ring(&self, index: u32) -> io::Result<u32> {
        let reply = self.ask(request::GET_VRING_BASE, &state(index, 0), &[])?;
        Ok((reply.number() >> 32) as u32)
    }

    /// Everything that makes a guest's device run, features included, which are to be the guest's.
    ///
    /// # Errors
    /// Those of [`FrontEnd::ask`], a refusal, and `Unsupported` if the back-end lacks a feature of the guest.
    pub fn start(&mut self, guest: &Guest, protocol: u64) -> io::Result<()> {
        let agreed = self.negotiate(guest.features, protocol)?;
        if agreed != guest.features {
            let missing = guest.features & !agreed;
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the back-end lacks features {missing:#x}"),
            ));
        }
        self.share(&guest.ram)?;
        for (i, pair) in guest.pairs.iter().enumerate() {
            let index = 2 * i as u32;
            self.start_ring(&guest.ram, index, &pair.rx)?;
            self.start_ring(&guest.ram, index + 1, &pair.tx)?;
        }
        for index in 0..2 * guest.pairs.len() as u32 {
            self.enable(index, true)?;
        }
        // Without acknowledgements, a question tells when all before it is done.
        self.number(request::GET_FEATURES).map(drop)
    }

    /// Waits until the back-end closes the connection; false if it does not within 20 s. What it still says is lost.
    #[must_use]
    pub fn closes(&self) -> bool {
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        }
    }
}
