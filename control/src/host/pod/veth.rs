//! Veth pairs with one end in a pod.
//!
//! One `RTM_NEWLINK` makes both ends, each in its namespace with its final name, MAC address and MTU (rtnetlink(7);
//! `VETH_INFO_PEER` in linux/veth.h), so there is no moment at which one is there half: no end of a passing name, none
//! in the wrong namespace. Only the alias takes a second message, because the kernel ignores it in the first; who
//! crashes in between finds the pair by the name in the journal.

use std::os::fd::{AsFd, AsRawFd};

use clearway_wire::MacAddr;
use nix::errno::Errno;

use super::{PodError, PodNetns};
use crate::host::links::{
    ADDRESS, IFF_UP, IFINFO_LEN, IFNAME, INFO_DATA, INFO_KIND, IfIndex, LINKINFO, Link, MTU, NUM_RX_QUEUES,
    NUM_TX_QUEUES, RTM_NEWLINK, by_name, flags_request, request,
};
use crate::host::netlink::{CREATE, ECHO, EXCL, Message};
use crate::host::unlink::{Unlinker, delete};
use crate::host::{Host, HostError};

/// `IFLA_*`.
const IFALIAS: u16 = 20;
const AF_SPEC: u16 = 26;
const NET_NS_FD: u16 = 28;
/// `VETH_INFO_PEER`.
const PEER: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE`, `IN6_ADDR_GEN_MODE_NONE`.
const ADDR_GEN_MODE: u16 = 8;
const NO_ADDRESS: u8 = 1;
/// The generic XDP hook apart, XDP on a veth wants as many receive queues as its peer has transmit queues, and our port
/// is one AF_XDP socket: one queue.
const QUEUES: u32 = 1;

/// A veth pair that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Veth<'a> {
    /// Our end's name.
    pub(crate) host_name: &'a str,
    /// Our end's MAC address; none: the kernel makes one up.
    pub(crate) host_mac: Option<MacAddr>,
    /// The name in the pod.
    pub(crate) pod_name: &'a str,
    /// The MAC address in the pod.
    pub(crate) mac: MacAddr,
    /// Bytes of the largest L3 packet, on both ends.
    pub(crate) mtu: u32,
    /// What our end is called (`IFLA_IFALIAS`, shown by `ip link`): at most 255 bytes.
    pub(crate) alias: &'a str,
}

impl Host {
    /// Makes a veth pair whose one end is in the pod; both are down. Returns our end. On an error there is none.
    pub(crate) fn create_veth(&mut self, pod: &PodNetns, veth: &Veth<'_>) -> Result<Link, PodError> {
        let netns = pod.netns()?;
        let common = |m: Message, name: &str, mac: Option<MacAddr>| {
            let m = m
                .text(IFNAME, name)
                .attr(MTU, &veth.mtu.to_ne_bytes())
                .attr(NUM_TX_QUEUES, &QUEUES.to_ne_bytes())
                .attr(NUM_RX_QUEUES, &QUEUES.to_ne_bytes());
            mac.into_iter().fold(m, |m, mac| m.attr(ADDRESS, &mac.0))
        };
        let begin = request(RTM_NEWLINK, CREATE | EXCL | ECHO, 0);
        let message = common(begin, veth.host_name, veth.host_mac).nested(LINKINFO, |m| {
            m.text(INFO_KIND, "veth").nested(INFO_DATA, |m| {
                m.nested(PEER, |m| {
                    common(m.fixed(&[0; IFINFO_LEN]), veth.pod_name, Some(veth.mac))
                        .attr(NET_NS_FD, &netns.as_fd().as_raw_fd().to_ne_bytes())
                })
            })
        });
        let replies = self.rtnl.transact(message).map_err(|refusal| {
            if refusal.is(Errno::EEXIST) {
                return self.name_taken(pod, veth);
            }
            let (ours, theirs, path) = (veth.host_name, veth.pod_name, pod.path().display());
            PodError::Host(refusal.during(format!(
                "making the veth pair {ours} (on the host) and {theirs} (in {path})"
            )))
        })?;
        let made = match replies.iter().find_map(Link::parse) {
            Some(link) => link,
            None => self.link(veth.host_name)?,
        };
        self.mark(&made, veth.alias).inspect_err(|_| {
            // The error that is told is the first one.
            let _ = delete(&mut self.rtnl, made.ifindex);
        })?;
        if let Some(netnsid) = made.veth_peer().and_then(|peer| peer.netnsid) {
            self.namespaces.remember(netnsid, pod);
        }
        Ok(made)
    }

    /// Sets an interface up.
    pub(crate) fn set_link_up(&mut self, ifindex: IfIndex) -> Result<(), HostError> {
        let answer = self.rtnl.transact(flags_request(ifindex, IFF_UP));
        answer
            .map(drop)
            .map_err(|refusal| refusal.during(format!("setting interface {ifindex} up")))
    }

    /// Deletes a veth pair by the name of our end; nobody finds it any more when this returns. Returns whether it was there.
    pub(crate) fn delete_veth(&mut self, host_name: &str) -> Result<bool, PodError> {
        let Some(link) = by_name(&mut self.rtnl, host_name)?.as_ref().and_then(Link::parse) else {
            return Ok(false);
        };
        if link.kind.as_deref() != Some("veth") {
            return Err(PodError::NotVeth {
                name: link.name,
                kind: link.kind.unwrap_or_else(|| "device".to_owned()),
            });
        }
        Ok(Unlinker::open()?.delete(link.ifindex)?)
    }

    /// Gives our end its alias, and keeps the host's own stack silent on it: an IPv6 address that it made up for itself
    /// would solicit routers and report groups in the pod's segment.
    fn mark(&mut self, link: &Link, alias: &str) -> Result<(), HostError> {
        let message = || request(RTM_NEWLINK, 0, link.ifindex.0).text(IFALIAS, alias);
        let silent = message().nested(AF_SPEC, |m| {
            m.nested(libc::AF_INET6 as u16, |m| m.attr(ADDR_GEN_MODE, &[NO_ADDRESS]))
        });
        let answer = match self.rtnl.transact(silent) {
            // No IPv6 in this kernel, or none on an MTU below 1280.
            Err(refusal) if refusal.is(Errno::EAFNOSUPPORT) => self.rtnl.transact(message()),
            other => other,
        };
        let attempt = || format!("giving interface {} the alias {alias:?}", link.name);
        answer.map(drop).map_err(|refusal| refusal.during(attempt()))
    }

    /// Which of the two names exists.
    fn name_taken(&mut self, pod: &PodNetns, veth: &Veth<'_>) -> PodError {
        match by_name(&mut self.rtnl, veth.host_name) {
            Ok(Some(reply)) => PodError::HostNameTaken {
                name: veth.host_name.to_owned(),
                alias: reply.attrs(IFINFO_LEN).text(IFALIAS),
            },
            Ok(None) => PodError::PodNameTaken {
                name: veth.pod_name.to_owned(),
                netns: pod.path().to_owned(),
            },
            Err(error) => error.into(),
        }
    }
}
