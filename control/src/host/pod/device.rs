//! The interface of a device, of a VF: moved into a pod, and back.
//!
//! One message moves it and gives it its name there (rtnetlink(7): `IFLA_NET_NS_FD` with `IFLA_IFNAME`), so nobody finds it in
//! the pod under the name that it has on the host. The kernel takes it down and forgets its addresses and routes with that.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use super::{Pod, PodError, PodNetns};
use crate::host::links::{self, IFNAME, IfIndex, Link, RTM_NEWLINK, request};
use crate::host::{Host, HostError};

/// The kind of such an interface. No host of a test has one: there a VXLAN interface stands in.
pub(crate) const DEVICE: &str = if cfg!(test) { "vxlan" } else { "device" };
/// `IFLA_NET_NS_FD`.
const NET_NS_FD: u16 = 28;
/// On the host, until it gets its own name back: one that nobody has.
const PASSING: &str = "dev%d";

impl Host {
    /// Moves an interface of the host into a pod, under this name.
    pub(crate) fn move_to_pod(
        &mut self,
        ifindex: IfIndex,
        pod: &PodNetns,
        name: &str,
    ) -> Result<(), PodError> {
        let netns = pod.netns()?;
        let message = request(RTM_NEWLINK, 0, ifindex.0)
            .attr(NET_NS_FD, &netns.as_fd().as_raw_fd().to_ne_bytes())
            .text(IFNAME, name);
        let answer = self.rtnl.transact(message);
        answer.map(drop).map_err(|refusal| {
            if refusal.is(Errno::EEXIST) {
                return PodError::PodNameTaken {
                    name: name.to_owned(),
                    netns: pod.path().to_owned(),
                };
            }
            let path = pod.path().display();
            PodError::Host(refusal.during(format!(
                "moving interface {ifindex} into network namespace {path} as {name}"
            )))
        })
    }
}

impl Pod {
    /// Moves the interface of a device from the pod into the calling thread's namespace, under a passing name. It is known by
    /// its PCI address, whatever its name is now; by `name` where the kernel does not tell addresses (before 5.14). Returns
    /// whether it was there.
    pub(crate) fn give_device(&mut self, pci: &str, name: &str) -> Result<bool, PodError> {
        let all = links::list(&mut self.rtnl)?;
        let of_it = |link: &&Link| link.bus.as_ref().is_some_and(|bus| bus.device == pci);
        let named = |link: &&Link| {
            link.name == name && link.bus.is_none() && link.kind.as_deref().unwrap_or("device") == DEVICE
        };
        let found = all.iter().find(of_it).or_else(|| all.iter().find(named));
        let Some(link) = found else { return Ok(false) };
        let host = File::open("/proc/thread-self/ns/net").map_err(HostError::Socket)?;
        let message = request(RTM_NEWLINK, 0, link.ifindex.0)
            .attr(NET_NS_FD, &host.as_raw_fd().to_ne_bytes())
            .text(IFNAME, PASSING);
        self.change(message, || format!("moving {} back to the host", link.name))?;
        Ok(true)
    }
}
