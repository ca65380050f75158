//! Generic netlink: finds a family by its name and talks to it.
//!
//! Families are numbered when they are loaded, so the number is asked for once per socket.

use super::HostError;
use super::netlink::{Attrs, Message, Netlink, Refusal, Reply};

/// `GENL_ID_CTRL`.
const CONTROLLER: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const HEADER_LEN: usize = 4;

/// A socket to one generic netlink family.
pub(super) struct Genl {
    netlink: Netlink,
    family: u16,
    version: u8,
}

impl Genl {
    /// Opens a socket in the thread's network namespace and looks the family up.
    pub(super) fn open(name: &'static str, version: u8) -> Result<Self, HostError> {
        let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_GENERIC)?;
        let request = Message::new(CONTROLLER, 0, &[GET_FAMILY, 1, 0, 0]).text(FAMILY_NAME, name);
        let family = match netlink.transact(request) {
            Ok(replies) => replies.iter().find_map(|r| r.attrs(HEADER_LEN).uint(FAMILY_ID)),
            Err(refusal) if refusal.is(nix::errno::Errno::ENOENT) => None,
            Err(refusal) => {
                return Err(refusal.during(format!("looking up the generic netlink family {name}")));
            }
        };
        let family = family
            .and_then(|id| u16::try_from(id).ok())
            .ok_or(HostError::NoFamily { name })?;
        Ok(Self {
            netlink,
            family,
            version,
        })
    }

    /// Begins a request.
    pub(super) fn message(&self, command: u8, flags: u16) -> Message {
        Message::new(self.family, flags, &[command, self.version, 0, 0])
    }

    /// Sends it; see [`Netlink::transact`].
    pub(super) fn transact(&mut self, message: Message) -> Result<Vec<Reply>, Refusal> {
        self.netlink.transact(message)
    }

    /// The attributes of an answer.
    pub(super) fn attrs(reply: &Reply) -> Attrs<'_> {
        reply.attrs(HEADER_LEN)
    }
}
