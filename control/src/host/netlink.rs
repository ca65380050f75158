//! Netlink messages and a blocking request socket: the ground under every question to the kernel.
//!
//! ```text
//!   Message (builder) ──► Netlink::transact ──► Vec<Reply> ──► Attrs (tolerant reader)
//! ```
//!
//! The reader takes the attributes it is asked for and steps over all others, because each kernel release adds
//! some: a message is never refused for an attribute that nobody here reads. Accessors return `None` for an
//! attribute that is absent or too short; nothing here panics on what the kernel sends.
//! Sockets belong to the network namespace of the thread that opened them, for good (namespaces(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

use super::HostError;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: every request asks for one, so that every exchange has a definite end.
const ACK: u16 = 0x4;
/// `NLM_F_ECHO`: what the request has made comes back before the acknowledgement (of links: since Linux 6.2).
pub(super) const ECHO: u16 = 0x8;
/// `NLM_F_REPLACE`.
pub(super) const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub(super) const EXCL: u16 = 0x200;
/// `NLM_F_DUMP`.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_DUMP_INTR`: the tables changed while the kernel listed them.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_ACK_TLVS`: the error carries attributes, among them the kernel's own words.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
/// `NLA_TYPE_MASK`: the two top bits say "nested" and "big endian".
const TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// A listing that the kernel interrupts this often is taken as it is: the watchers hear of the rest.
const DUMP_ATTEMPTS: usize = 8;
/// Room for bursts (a full BGP feed, a thousand pods): beyond it the kernel reports ENOBUFS and we list again.
const EVENT_BUFFER_BYTES: usize = 4 << 20;
/// The kernel's own port: netlink(7).
const KERNEL: u32 = 0;

/// A request that is being written: header, fixed part, attributes.
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of type `kind` that begins with the fixed part `fixed` (a struct of the kernel's uapi).
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self { bytes }
    }

    /// Appends an attribute.
    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        // Every value written by this module is a number, an address or a name of a few bytes.
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a string attribute, terminated by NUL as the kernel's `NLA_NUL_STRING` wants it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute that holds attributes.
    pub(super) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let len = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        filled
    }

    /// Appends bytes that are no attribute: the fixed part of what is inside an attribute.
    pub(super) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]])
    }

    /// Fills in length, sequence number and, unless the message lists, the wish for an acknowledgement.
    fn seal(mut self, sequence: u32) -> Vec<u8> {
        let flags = if self.flags() & DUMP == DUMP {
            self.flags()
        } else {
            self.flags() | ACK
        };
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message from the kernel, without its netlink header.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    /// The message type, e.g. `RTM_NEWLINK`.
    pub(super) kind: u16,
    body: Vec<u8>,
}

impl Reply {
    /// The fixed part, if the message is long enough to hold one of `N` bytes.
    pub(super) fn fixed<const N: usize>(&self) -> Option<[u8; N]> {
        self.body.get(..N)?.try_into().ok()
    }

    /// The attributes behind a fixed part of `fixed_len` bytes.
    pub(super) fn attrs(&self, fixed_len: usize) -> Attrs<'_> {
        Attrs(self.body.get(fixed_len.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// A sequence of netlink attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attrs<'a>(pub(super) &'a [u8]);

impl<'a> Attrs<'a> {
    /// All attributes in order; ends at the first that does not fit.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let len = usize::from(u16::from_ne_bytes(rest.get(0..2)?.try_into().ok()?));
            let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & TYPE_MASK;
            let value = rest.get(4..len)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of the first attribute of this kind.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// Whether the attribute is there (the kernel's flags carry no value).
    pub(super) fn has(self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    /// The attributes inside an attribute; none if it is absent.
    pub(super) fn nested(self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// An unsigned number of one, two, four or eight bytes (the kernel's `uint` is four or eight).
    pub(super) fn uint(self, kind: u16) -> Option<u64> {
        let value = self.get(kind)?;
        match value.len() {
            1 => Some(u64::from(value[0])),
            2 => Some(u64::from(u16::from_ne_bytes(value.try_into().ok()?))),
            4 => Some(u64::from(u32::from_ne_bytes(value.try_into().ok()?))),
            8 => Some(u64::from_ne_bytes(value.try_into().ok()?)),
            _ => None,
        }
    }

    /// A 32-bit number.
    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        self.uint(kind).and_then(|value| u32::try_from(value).ok())
    }

    /// A signed 32-bit number.
    pub(super) fn i32(self, kind: u16) -> Option<i32> {
        Some(i32::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// A string, up to its NUL.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// An IPv4 or IPv6 address, told apart by its length.
    pub(super) fn ip(self, kind: u16) -> Option<IpAddr> {
        parse_ip(self.get(kind)?)
    }
}

/// An address of 4 or 16 bytes in network order.
pub(super) fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

/// The bytes of an address in network order.
pub(super) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// What the kernel answered instead of what was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The errno.
    pub(super) error: io::Error,
    /// The kernel's own explanation (extended acknowledgement), if it gave one.
    pub(super) explanation: Option<String>,
}

impl Refusal {
    /// Whether the kernel answered with this errno.
    pub(super) fn is(&self, errno: nix::errno::Errno) -> bool {
        self.error.raw_os_error() == Some(errno as i32)
    }

    /// The error of the module, naming what was attempted.
    pub(super) fn during(self, attempt: impl Into<String>) -> HostError {
        HostError::Kernel {
            attempt: attempt.into(),
            source: self.error,
            explanation: self.explanation,
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            explanation: None,
        }
    }
}

/// A blocking netlink socket for requests.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    /// The most messages that an answer may have.
    limit: usize,
}

impl Netlink {
    /// Opens a socket of this protocol (`NETLINK_ROUTE`, `NETLINK_GENERIC`) in the thread's network namespace.
    pub(super) fn open(protocol: isize) -> Result<Self, HostError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(HostError::Socket)?,
            sequence: 0,
            limit: usize::MAX,
        })
    }

    /// For a namespace that others fill: the kernel lists only what is asked for (`NETLINK_GET_STRICT_CHK`), and more
    /// than `limit` entries are an error, after which the socket is of no more use.
    pub(super) fn guarded(mut self, limit: usize) -> Result<Self, HostError> {
        self.socket
            .set_netlink_get_strict_chk(true)
            .map_err(HostError::Socket)?;
        self.limit = limit;
        Ok(self)
    }

    /// Which network namespace this socket is in, for good; `None`: the kernel can't tell.
    pub(super) fn netns_cookie(&self) -> Result<Option<u64>, HostError> {
        clearway_io::netns_cookie(self.socket.as_fd()).map_err(HostError::Socket)
    }

    /// Sends a request and returns what the kernel answers, up to its acknowledgement or the end of the list.
    /// A list that changed while it was read is read again.
    pub(super) fn transact(&mut self, message: Message) -> Result<Vec<Reply>, Refusal> {
        let bytes = message.bytes;
        for _ in 1..DUMP_ATTEMPTS {
            let (replies, interrupted) = self.exchange(Message { bytes: bytes.clone() })?;
            if !interrupted {
                return Ok(replies);
            }
        }
        self.exchange(Message { bytes }).map(|(replies, _)| replies)
    }

    fn exchange(&mut self, message: Message) -> Result<(Vec<Reply>, bool), Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message.seal(self.sequence), 0)?;
        let mut replies = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = match self.socket.recv_from_full() {
                // A signal whose handler does not restart system calls.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for raw in split(&datagram).filter(|raw| raw.sequence == self.sequence) {
                interrupted |= raw.flags & DUMP_INTERRUPTED != 0;
                match raw.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        finish(raw)?;
                        return Ok((replies, interrupted));
                    }
                    _ if replies.len() == self.limit => {
                        let text = format!("there are more than {} entries", self.limit);
                        return Err(io::Error::other(text).into());
                    }
                    kind => replies.push(Reply {
                        kind,
                        body: raw.body.to_vec(),
                    }),
                }
            }
        }
    }
}

/// The verdict at the end of an exchange: a negative errno, or zero.
fn finish(raw: RawMessage<'_>) -> Result<(), Refusal> {
    let code = raw
        .body
        .get(..4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    if code >= 0 {
        return Ok(());
    }
    let explanation = (raw.kind == NLMSG_ERROR && raw.flags & ACK_TLVS != 0)
        .then(|| Attrs(raw.body.get(4 + HEADER_LEN..).unwrap_or_default()).text(ERROR_TEXT))
        .flatten();
    Err(Refusal {
        error: io::Error::from_raw_os_error(-code),
        explanation,
    })
}

struct RawMessage<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The netlink messages of a datagram.
fn split(datagram: &[u8]) -> impl Iterator<Item = RawMessage<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = usize::try_from(u32::from_ne_bytes(rest.get(0..4)?.try_into().ok()?)).ok()?;
        let message = RawMessage {
            kind: u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(rest.get(6..8)?.try_into().ok()?),
            sequence: u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?),
            body: rest.get(HEADER_LEN..len)?,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// What an event socket had to say.
pub(super) enum Received {
    /// Messages, in the kernel's order.
    Messages(Vec<Reply>),
    /// The kernel dropped messages for want of room (ENOBUFS): what is known must be read anew.
    Overrun,
    /// Nothing is waiting.
    Empty,
}

/// A non-blocking socket that is a member of rtnetlink's multicast groups.
pub(super) struct Events {
    socket: Socket,
}

impl Events {
    /// Joins the groups (`RTNLGRP_*`) in the thread's network namespace.
    pub(super) fn join(groups: &[u32]) -> Result<Self, HostError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            // Needs CAP_NET_ADMIN; without it the buffer stays as it is, which only means more overruns.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &EVENT_BUFFER_BYTES);
            for group in groups {
                socket.add_membership(*group)?;
            }
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(HostError::Socket)?,
        })
    }

    /// Takes one datagram. What is not from the kernel is no news: who has CAP_NET_ADMIN in the namespace, as a pod may in its
    /// own, can send to the groups as well (net/netlink/af_netlink.c, `netlink_sendmsg`).
    pub(super) fn receive(&mut self) -> Result<Received, HostError> {
        match self.socket.recv_from_full() {
            Ok((_, from)) if from.port_number() != KERNEL => Ok(Received::Messages(Vec::new())),
            Ok((datagram, _)) => Ok(Received::Messages(
                split(&datagram)
                    .map(|raw| Reply {
                        kind: raw.kind,
                        body: raw.body.to_vec(),
                    })
                    .collect(),
            )),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Empty),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Received::Messages(Vec::new())),
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => Ok(Received::Overrun),
            Err(e) => Err(Refusal::from(e).during("reading the kernel's interface events")),
        }
    }

    /// Shrinks the buffer so that a test can overrun it.
    #[cfg(test)]
    pub(super) fn shrink(&self) -> io::Result<()> {
        self.socket.set_rx_buf_sz(1)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::links::{GROUP_LINK, IFINFO_LEN, RTM_DELLINK, RTM_NEWLINK};
    use crate::host::testing::{isolate, sh};

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = Message::new(18, 0, &[1, 2, 3])
            .attr(7, &9u32.to_ne_bytes())
            .nested(8, |m| m.text(1, "eth0").attr(2, &[5]))
            .attr(9, &[]);
        let bytes = message.seal(77);
        let raw: Vec<_> = split(&bytes).collect();
        assert_eq!(raw.len(), 1);
        assert_eq!(
            (raw[0].kind, raw[0].sequence, raw[0].flags),
            (18, 77, REQUEST | ACK)
        );
        let reply = Reply {
            kind: raw[0].kind,
            body: raw[0].body.to_vec(),
        };
        assert_eq!(reply.fixed::<3>(), Some([1, 2, 3]));
        let attrs = reply.attrs(3);
        assert_eq!(attrs.u32(7), Some(9));
        assert_eq!(attrs.nested(8).text(1).as_deref(), Some("eth0"));
        assert_eq!(attrs.nested(8).uint(2), Some(5));
        assert!(attrs.has(9) && !attrs.has(10));
    }

    #[test]
    fn damaged_messages_end_the_reading_and_nothing_more() {
        assert_eq!(split(&[200, 0, 0, 0, 1]).count(), 0);
        assert_eq!(split(&[0; 64]).count(), 0);
        assert_eq!(Attrs(&[3, 0, 1, 0, 9]).iter().count(), 0);
        assert_eq!(Attrs(&[8, 0, 1, 0, 9]).iter().count(), 0);
        assert_eq!(Attrs(&[0xff; 9]).iter().count(), 0);
        assert_eq!(Attrs(&[6, 0, 1, 0, 9, 9]).uint(1), Some(0x0909));
    }

    #[test]
    fn only_the_kernel_is_believed() {
        isolate();
        let mut events = Events::join(&[GROUP_LINK]).expect("a socket");
        let mut ours = SocketAddr::new(0, 0);
        events.socket.get_address(&mut ours).expect("it is bound");
        let mut liar = Socket::new(netlink_sys::protocols::NETLINK_ROUTE).expect("a socket");
        liar.bind_auto().expect("a port");
        let mut header = [0; IFINFO_LEN];
        header[4] = 1;
        let lie = Message::new(RTM_DELLINK, 0, &header).seal(1);
        let sent = liar.send_to(&lie, &ours, 0).expect("root may");
        assert_eq!(sent, lie.len());
        let received = events.receive().expect("a datagram");
        assert!(matches!(received, Received::Messages(news) if news.is_empty()));
        assert!(matches!(events.receive(), Ok(Received::Empty)));
        sh("ip link set lo down");
        let received = events.receive().expect("a datagram");
        assert!(matches!(received, Received::Messages(news) if news.iter().any(|m| m.kind == RTM_NEWLINK)));
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut body = (-22i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER_LEN]);
        body.extend_from_slice(&[8, 0, 1, 0]);
        body.extend_from_slice(b"bad\0");
        let refusal = finish(RawMessage {
            kind: NLMSG_ERROR,
            flags: ACK_TLVS,
            sequence: 1,
            body: &body,
        })
        .expect_err("a negative code is a refusal");
        assert!(refusal.is(nix::errno::Errno::EINVAL));
        assert_eq!(refusal.explanation.as_deref(), Some("bad"));
    }
}
