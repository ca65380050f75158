//! An interface that nobody sees and nobody uses, for what has to be on some interface.

use super::HostError;
use super::links::{INFO_KIND, LINKINFO, Link, NUM_RX_QUEUES, NUM_TX_QUEUES, RTM_NEWLINK, request};
use super::netlink::{CREATE, ECHO, EXCL, Netlink};
use super::netns::Netns;

/// A veth pair in a network namespace that has no name. Both go when this is dropped, or its process ends.
pub(crate) struct SpareVeth {
    netns: Netns,
    link: Link,
}

impl SpareVeth {
    /// Makes one; both ends are down.
    pub(crate) fn make() -> Result<Self, HostError> {
        let netns = Netns::unnamed()?;
        let link = netns.run(|| {
            let mut rtnl = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
            let message = request(RTM_NEWLINK, CREATE | EXCL | ECHO, 0)
                .attr(NUM_TX_QUEUES, &1u32.to_ne_bytes())
                .attr(NUM_RX_QUEUES, &1u32.to_ne_bytes())
                .nested(LINKINFO, |m| m.text(INFO_KIND, "veth"));
            let attempt = || "making a veth pair in a namespace without a name".to_owned();
            let replies = rtnl
                .transact(message)
                .map_err(|refusal| refusal.during(attempt()))?;
            let link = replies.iter().find_map(Link::parse);
            link.ok_or_else(|| HostError::NoAnswer { attempt: attempt() })
        })?;
        Ok(Self { netns, link })
    }

    /// Runs `work` in its namespace, on a thread of its own, with one end of the pair.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce(&Link) -> T + Send) -> Result<T, HostError> {
        self.netns.run(|| Ok(work(&self.link)))
    }

    /// Its namespace.
    #[cfg(test)]
    pub(super) fn netns(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.netns)
    }
}
