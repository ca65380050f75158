//! The usual scene: some pods, each on a wire to the namespace in which Clearway forwards.

use crate::frame::{self, EXPERIMENT, Mac, Tag};
use crate::{Netns, RawPort, Veth};

/// Pods 0, 1, …: pod n has `eth0`, whose other end is interface `p<n>` of the forwarder's namespace.
#[derive(Debug)]
pub struct Pods {
    /// Where Clearway runs.
    pub fwd: Netns,
    pods: Vec<Netns>,
}

impl Pods {
    /// Pods with stacks: pod n has MAC 02:00:00:00:01:n, addresses 10.0.0.(n+1)/24 and fd00::(n+1)/64.
    #[track_caller]
    pub fn new(count: u32) -> Pods {
        Pods::shaped(count, |wire| wire)
    }

    /// The same, each wire as `shape` makes it (queues, MTU, offloads).
    #[track_caller]
    pub fn shaped(count: u32, shape: impl Fn(Veth<'_>) -> Veth<'_>) -> Pods {
        let pods = Pods::wired(count, Netns::new, shape);
        for (n, pod) in pods.pods.iter().enumerate() {
            pod.addr("eth0", &format!("{}/24", Pods::ip4(n)));
            pod.addr("eth0", &format!("{}/64", Pods::ip6(n)));
        }
        pods
    }

    /// Pods that send nothing by themselves, for tests that name every frame.
    #[track_caller]
    pub fn quiet(count: u32) -> Pods {
        Pods::wired(count, Netns::quiet, |wire| wire)
    }

    #[track_caller]
    fn wired(count: u32, make: impl Fn(&str) -> Netns, shape: impl Fn(Veth<'_>) -> Veth<'_>) -> Pods {
        let fwd = Netns::quiet("fwd");
        let pods: Vec<Netns> = (0..count).map(|n| make(&format!("pod{n}"))).collect();
        for (n, pod) in pods.iter().enumerate() {
            let ours = Mac::local(0x200 + n as u32);
            shape(Veth::new((pod, "eth0"), (&fwd, &format!("p{n}"))).macs(Pods::mac(n), ours)).up();
        }
        Pods { fwd, pods }
    }

    /// A pod's namespace.
    pub fn pod(&self, n: usize) -> &Netns {
        &self.pods[n]
    }

    /// A pod's MAC address.
    pub fn mac(n: usize) -> Mac {
        Mac::local(0x100 + n as u32)
    }

    /// A pod's IPv4 address.
    pub fn ip4(n: usize) -> String {
        format!("10.0.0.{}", n + 1)
    }

    /// A pod's IPv6 address.
    pub fn ip6(n: usize) -> String {
        format!("fd00::{:x}", n + 1)
    }

    /// Every pod's end of the wire, for raw frames.
    #[track_caller]
    pub fn raw(&self) -> Vec<RawPort> {
        self.pods.iter().map(|pod| RawPort::open(pod, "eth0")).collect()
    }
}

/// Frame number `n` from pod `src` to MAC `dst`, which no stack reacts to.
pub fn numbered(n: u32, src: usize, dst: Mac, tags: &[Tag]) -> Vec<u8> {
    frame::ethernet(dst, Pods::mac(src), tags, EXPERIMENT, &frame::payload(n, 100))
}
