//! Promiscuous mode that ends with its holder.
//!
//! A packet socket can hold an interface promiscuous (`PACKET_ADD_MEMBERSHIP`, packet(7)): the kernel counts the
//! holders and lets go when the descriptor is closed, also by kill -9, so there is nothing to restore and no other
//! user of promiscuous mode (tcpdump, a bridge) is disturbed.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket};
use nix::{setsockopt_impl, sockopt_impl};

use super::HostError;
use super::links::IfIndex;

sockopt_impl!(
    /// `PACKET_ADD_MEMBERSHIP` of `SOL_PACKET`.
    AddMembership,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_ADD_MEMBERSHIP,
    libc::packet_mreq
);

/// Holds an interface promiscuous while it exists.
#[derive(Debug)]
pub(crate) struct Promiscuous {
    _socket: OwnedFd,
}

impl Promiscuous {
    /// Turns promiscuous mode on, in the network namespace of the calling thread. Needs CAP_NET_RAW.
    pub(crate) fn hold(ifindex: IfIndex) -> Result<Self, HostError> {
        let open = || -> nix::Result<OwnedFd> {
            // Protocol 0: the socket itself receives no frame.
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            let membership = libc::packet_mreq {
                mr_ifindex: i32::try_from(ifindex.0).map_err(|_| nix::errno::Errno::ENODEV)?,
                mr_type: libc::PACKET_MR_PROMISC as u16,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            setsockopt(&socket.as_fd(), AddMembership, &membership)?;
            Ok(socket)
        };
        open()
            .map(|socket| Self { _socket: socket })
            .map_err(|errno| HostError::Promiscuous {
                ifindex,
                source: errno.into(),
            })
    }
}
