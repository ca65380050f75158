//! The kernel's netdev family (Documentation/netlink/specs/netdev.yaml): what XDP a driver can do, and its NAPIs.

use serde::Serialize;

use super::genl::Genl;
use super::links::{IfIndex, Link};
use super::netlink::DUMP;
use super::{Host, HostError};

const DEV_GET: u8 = 1;
const NAPI_GET: u8 = 11;
const NAPI_SET: u8 = 14;
/// `NETDEV_A_DEV_*`.
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const DEV_ZC_MAX_SEGS: u16 = 4;
/// `NETDEV_A_NAPI_*`.
const NAPI_IFINDEX: u16 = 1;
const NAPI_ID: u16 = 2;
const NAPI_IRQ: u16 = 3;
const NAPI_DEFER: u16 = 5;
const NAPI_FLUSH: u16 = 6;
const NAPI_THREADED: u16 = 8;

/// `enum netdev_xdp_act`.
const ACT_BASIC: u64 = 1 << 0;
const ACT_REDIRECT: u64 = 1 << 1;
const ACT_ZEROCOPY: u64 = 1 << 3;
const ACT_RX_SG: u64 = 1 << 5;

/// What a driver promises of XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct XdpFeatures {
    /// Runs XDP programs itself.
    pub(crate) basic: bool,
    /// Can redirect, as AF_XDP needs.
    pub(crate) redirect: bool,
    /// Offers AF_XDP without a copy.
    pub(crate) zero_copy: bool,
    /// Hands frames of several buffers to XDP (jumbo frames).
    pub(crate) multi_buffer: bool,
    /// Buffers per frame in zero-copy mode.
    pub(crate) zero_copy_segments: u32,
}

/// One NAPI instance and its knobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Napi {
    /// The NAPI ID.
    pub(crate) id: u32,
    /// Its interrupt, for hardware.
    pub(crate) irq: Option<u32>,
    /// How often the interrupt stays masked after an empty poll.
    pub(crate) defer_hard_irqs: u32,
    /// Nanoseconds until a masked interrupt is served after all.
    pub(crate) gro_flush_timeout: u64,
    /// Polled by a kernel thread (1), by the softirq (0), or by a spinning thread (2, since 6.18).
    pub(crate) threaded: Option<u32>,
}

impl Host {
    /// What XDP the driver of an interface can do; `None` where the kernel does not tell (before 6.3).
    pub(crate) fn xdp_features(&mut self, link: &Link) -> Option<XdpFeatures> {
        self.netdev.as_mut()?.xdp_features(link.ifindex).ok()
    }
}

/// A socket to the netdev family of one network namespace.
pub(crate) struct Netdev {
    genl: Genl,
}

impl Netdev {
    /// Opens it in the thread's network namespace; Linux 6.3 and later have the family.
    pub(crate) fn open() -> Result<Self, HostError> {
        Ok(Self {
            genl: Genl::open("netdev", 1)?,
        })
    }

    /// What XDP the driver can do in its present configuration.
    pub(crate) fn xdp_features(&mut self, ifindex: IfIndex) -> Result<XdpFeatures, HostError> {
        let attempt = format!("reading the XDP features of interface {ifindex}");
        let request = self
            .genl
            .message(DEV_GET, 0)
            .attr(DEV_IFINDEX, &ifindex.0.to_ne_bytes());
        let replies = self.genl.transact(request).map_err(|r| r.during(&attempt))?;
        let attrs = Genl::attrs(replies.first().ok_or(HostError::NoAnswer { attempt })?);
        let act = attrs.uint(DEV_XDP_FEATURES).unwrap_or(0);
        Ok(XdpFeatures {
            basic: act & ACT_BASIC != 0,
            redirect: act & ACT_REDIRECT != 0,
            zero_copy: act & ACT_ZEROCOPY != 0,
            multi_buffer: act & ACT_RX_SG != 0,
            zero_copy_segments: attrs.u32(DEV_ZC_MAX_SEGS).unwrap_or(0),
        })
    }

    /// The NAPIs that an interface runs now; a veth has none before XDP or GRO starts them.
    pub(crate) fn napis(&mut self, ifindex: IfIndex) -> Result<Vec<Napi>, HostError> {
        let request = self
            .genl
            .message(NAPI_GET, DUMP)
            .attr(NAPI_IFINDEX, &ifindex.0.to_ne_bytes());
        let replies = self
            .genl
            .transact(request)
            .map_err(|r| r.during(format!("listing the NAPIs of interface {ifindex}")))?;
        Ok(replies
            .iter()
            .filter_map(|reply| {
                let attrs = Genl::attrs(reply);
                Some(Napi {
                    id: attrs.u32(NAPI_ID)?,
                    irq: attrs.u32(NAPI_IRQ),
                    defer_hard_irqs: attrs.u32(NAPI_DEFER).unwrap_or(0),
                    gro_flush_timeout: attrs.uint(NAPI_FLUSH).unwrap_or(0),
                    threaded: attrs.u32(NAPI_THREADED),
                })
            })
            .collect())
    }

    /// Sets the busy-poll knobs of one NAPI (Linux 6.13).
    pub(crate) fn set_napi(&mut self, id: u32, defer: u32, flush: u64) -> Result<(), HostError> {
        let request = self
            .genl
            .message(NAPI_SET, 0)
            .attr(NAPI_ID, &id.to_ne_bytes())
            .attr(NAPI_DEFER, &defer.to_ne_bytes())
            .attr(NAPI_FLUSH, &flush.to_ne_bytes());
        self.genl
            .transact(request)
            .map(drop)
            .map_err(|r| r.during(format!("setting the knobs of NAPI {id}")))
    }
}
