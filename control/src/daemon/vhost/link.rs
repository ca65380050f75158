//! One connection: hands whole messages to crate `vhost`, and handles those that it does not know.
//!
//! The crate reads header and body in two calls that wait for ever, and passes over a socket's timeout. So a message is
//! only handed to it when all of it has arrived, and the socket has room for any reply.
//! Its `BackendReqHandler` does not have SEND_RARP, NET_SET_MTU, SET_STATUS, GET_STATUS and SET_LOG_FD (version 0.18),
//! and its SET_VRING_ENABLE comes too late for some: these are read and answered here.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use std::os::fd::AsRawFd;
use vhost::vhost_user::message::{FrontendReq, MAX_MSG_SIZE, VhostUserProtocolFeatures};
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserBackendReqHandlerMut};

use super::device::Device;

/// A message that has begun is whole by then, and a reply is read.
const STALL: Duration = Duration::from_secs(5);
/// How often the rest of a message is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// Size of a header: request, flags and size of the body, of 32 bits each.
const HEADER: usize = 12;
/// Flags: version 1 of the protocol in the lowest two bits.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// What became of a look at the socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A message was handled.
    Handled,
    /// A message was not done as it says, and the log says so.
    Refused,
    /// Nothing is there.
    Idle,
    /// The front-end has closed the connection.
    Closed,
}

struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

impl Header {
    fn of(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            request: word(0),
            flags: word(4),
            size: word(8),
        }
    }

    fn name(&self) -> String {
        FrontendReq::try_from(self.request).map_or_else(
            |()| format!("request {}", self.request),
            |request| format!("{request:?}"),
        )
    }
}

/// A connection to a front-end.
pub(super) struct Link {
    stream: UnixStream,
    handler: BackendReqHandler<Mutex<Device>>,
    device: Arc<Mutex<Device>>,
}

impl Link {
    pub(super) fn new(stream: UnixStream, device: Device) -> io::Result<Self> {
        let device = Arc::new(Mutex::new(device));
        Ok(Self {
            handler: BackendReqHandler::from_stream(stream.try_clone()?, device.clone()),
            stream,
            device,
        })
    }

    /// To wait on.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether the front-end's end is closed.
    pub(super) fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// Handles the next message, if one is there.
    pub(super) fn turn(&mut self) -> Result<Turn, String> {
        let begun = Instant::now();
        let header = loop {
            match self.peek()? {
                Peek::Whole(header) => break header,
                Peek::Nothing => return Ok(Turn::Idle),
                Peek::Closed => return Ok(Turn::Closed),
                Peek::Part if begun.elapsed() > STALL => {
                    return Err(format!(
                        "it stopped in the middle of a message, and {} s later the rest was not there",
                        STALL.as_secs()
                    ));
                }
                Peek::Part => std::thread::sleep(LOOK),
            }
        };
        self.wait_for_room()?;
        let name = header.name();
        tracing::trace!(message = name, size = header.size, "received");
        self.handle(&header).map_err(|reason| format!("{name}: {reason}"))
    }

    fn peek(&self) -> Result<Peek, String> {
        let failed = |error: io::Error| format!("reading its socket failed: {error}");
        let mut bytes = [0; HEADER];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let read = match recv(self.stream.as_raw_fd(), &mut bytes, flags) {
            Ok(0) => return Ok(Peek::Closed),
            Ok(read) => read,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(Peek::Nothing),
            Err(nix::Error::ECONNRESET) => return Ok(Peek::Closed),
            Err(error) => return Err(failed(error.into())),
        };
        // The rest of what it says will not come.
        let or_closed = |peek| if self.is_closed() { Peek::Closed } else { peek };
        if read < HEADER {
            return Ok(or_closed(Peek::Part));
        }
        let header = Header::of(&bytes);
        if header.size as usize > MAX_MSG_SIZE {
            let (name, size) = (header.name(), header.size);
            return Err(format!(
                "{name}: a message of {size} bytes; {MAX_MSG_SIZE} are the most"
            ));
        }
        let there = rustix::io::ioctl_fionread(&self.stream).map_err(|error| failed(error.into()))?;
        if there < u64::from(header.size) + HEADER as u64 {
            return Ok(or_closed(Peek::Part));
        }
        Ok(Peek::Whole(header))
    }

    fn wait_for_room(&self) -> Result<(), String> {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
        let patience = PollTimeout::try_from(STALL).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, patience) {
            Ok(0) => Err(format!("it did not read its replies for {} s", STALL.as_secs())),
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(format!("waiting for its socket failed: {error}")),
        }
    }

    fn handle(&mut self, header: &Header) -> Result<Turn, String> {
        match FrontendReq::try_from(header.request) {
            Ok(
                request @ (FrontendReq::SEND_RARP
                | FrontendReq::NET_SET_MTU
                | FrontendReq::SET_STATUS
                | FrontendReq::GET_STATUS
                | FrontendReq::SET_LOG_FD
                | FrontendReq::SET_VRING_ENABLE),
            ) => self.own(header, request),
            Ok(FrontendReq::POSTCOPY_ADVISE | FrontendReq::POSTCOPY_LISTEN | FrontendReq::POSTCOPY_END) => {
                Err("postcopy migration is not supported here, and was not offered; use precopy".to_owned())
            }
            Ok(_) => match self.handler.handle_request() {
                Ok(()) => Ok(Turn::Handled),
                Err(error) => Err(reason(error)),
            },
            Err(()) => Err("no such request is known here".to_owned()),
        }
    }

    /// A message with a body of 64 bits or none, and an answer of 64 bits or none.
    fn own(&mut self, header: &Header, request: FrontendReq) -> Result<Turn, String> {
        let wanted = match request {
            FrontendReq::GET_STATUS | FrontendReq::SET_LOG_FD => 0,
            _ => 8,
        };
        // SET_LOG_FD has no body of any use, but some send 64 bits.
        let fits = header.size == wanted || (request == FrontendReq::SET_LOG_FD && header.size == 8);
        if !fits || header.flags & 3 != VERSION || header.flags & REPLY != 0 {
            return Err("invalid message".to_owned());
        }
        let failed = |error: io::Error| format!("reading its socket failed: {error}");
        let mut bytes = [0; HEADER + 8];
        let whole = &mut bytes[..HEADER + header.size as usize];
        // All of it is there. A descriptor that comes along is closed by the kernel.
        self.stream.read_exact(whole).map_err(failed)?;
        let mut body = [0; 8];
        body.copy_from_slice(&bytes[HEADER..]);
        let value = u64::from_ne_bytes(body);
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match request {
            FrontendReq::SEND_RARP => device.send_rarp(value),
            FrontendReq::NET_SET_MTU => device.set_mtu(value),
            FrontendReq::SET_STATUS => device.set_status(value),
            FrontendReq::GET_STATUS => device.status().map(Some),
            FrontendReq::SET_VRING_ENABLE => enable(&mut device, value),
            _ => Ok(None),
        };
        let acks =
            device.has_protocol(VhostUserProtocolFeatures::REPLY_ACK) && header.flags & NEED_REPLY != 0;
        drop(device);
        match result {
            Ok(Some(value)) => self.reply(header, value)?,
            Ok(None) if acks => self.reply(header, 0)?,
            Ok(None) => {}
            Err(Refusal::Told(reason)) if acks => {
                tracing::warn!(message = header.name(), reason, "refused");
                self.reply(header, 1)?;
                return Ok(Turn::Refused);
            }
            Err(Refusal::Told(reason)) => {
                tracing::warn!(message = header.name(), reason, "disregarded");
                return Ok(Turn::Refused);
            }
            Err(Refusal::Fatal(reason)) => return Err(reason),
        }
        Ok(Turn::Handled)
    }

    fn reply(&mut self, header: &Header, value: u64) -> Result<(), String> {
        let mut bytes = Vec::with_capacity(HEADER + 8);
        for word in [header.request, VERSION | REPLY, 8] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&value.to_ne_bytes());
        self.stream
            .write_all(&bytes)
            .map_err(|error| format!("replying failed: {error}"))
    }

    /// Ends the connection: no ring is used any more.
    pub(super) fn close(self) {
        self.device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .release();
    }
}

/// QEMU, and DPDK's virtio_user when it connects again, send this before SET_FEATURES. The crate refuses it then, and
/// sends no reply, for which QEMU waits.
fn enable(device: &mut Device, value: u64) -> Result<Option<u64>, Refusal> {
    let (index, enable) = (value as u32, value >> 32);
    match enable {
        0 | 1 => device
            .set_vring_enable(index, enable == 1)
            .map(|()| None)
            .map_err(|error| Refusal::Fatal(reason(error))),
        _ => Err(Refusal::Fatal(format!("{enable} is neither on nor off"))),
    }
}

/// Our own words without the crate's.
pub(super) fn reason(error: Error) -> String {
    match error {
        Error::ReqHandlerError(ours) => ours.to_string(),
        error => error.to_string(),
    }
}

/// Why a message is not done as it says.
pub(super) enum Refusal {
    /// The front-end is told, and may go on.
    Told(String),
    /// The connection ends.
    Fatal(String),
}

enum Peek {
    Nothing,
    Part,
    Whole(Header),
    Closed,
}
