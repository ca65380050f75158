//! The knobs that preferred busy polling needs (Documentation/networking/napi.rst, "Irq mitigation").
//!
//! With `napi_defer_hard_irqs` = N and `gro_flush_timeout` = T, a queue's interrupt stays masked while somebody
//! polls it, and N empty polls and T nanoseconds beyond: that hands the queue to the worker that busy-polls it.
//! They are set for the whole interface through sysfs, so that a NAPI that is started later (a veth starts its own
//! when XDP is attached) has them too. Without CAP_SYS_ADMIN there is no sysfs of our namespace (see
//! [`super::sysfs`]); then the NAPIs that run are set one by one over netlink (Linux 6.13).

use serde::{Deserialize, Serialize};

use super::links::Link;
use super::netdev::Napi;
use super::{Host, HostError};

const DEFER: &str = "napi_defer_hard_irqs";
const FLUSH: &str = "gro_flush_timeout";
const THREADED: &str = "threaded";

/// The interrupt mitigation of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NapiKnobs {
    /// How many empty polls leave the interrupt masked.
    pub(crate) defer_hard_irqs: u32,
    /// Nanoseconds until a masked interrupt is served after all.
    pub(crate) gro_flush_timeout: u64,
}

impl NapiKnobs {
    /// What Documentation/networking/napi.rst and the AF_XDP busy-poll series recommend: 2 polls, 200 µs.
    pub(crate) const BUSY_POLL: Self = Self {
        defer_hard_irqs: 2,
        gro_flush_timeout: 200_000,
    };
}

impl Host {
    /// The knobs of an interface.
    pub(crate) fn napi_knobs(&mut self, link: &Link) -> Result<NapiKnobs, HostError> {
        if self.sysfs.is_some() {
            let number = |text: u64| u32::try_from(text).unwrap_or(u32::MAX);
            return Ok(NapiKnobs {
                defer_hard_irqs: number(self.sysfs_number(link, DEFER)?),
                gro_flush_timeout: self.sysfs_number(link, FLUSH)?,
            });
        }
        let napis = self.napis(link)?;
        let first = napis.first().ok_or_else(|| HostError::NoNapiKnob {
            interface: link.name.clone(),
        })?;
        Ok(NapiKnobs {
            defer_hard_irqs: first.defer_hard_irqs,
            gro_flush_timeout: first.gro_flush_timeout,
        })
    }

    /// Sets them. Through [`super::restore::Changes`] only.
    pub(super) fn set_napi_knobs(&mut self, link: &Link, knobs: NapiKnobs) -> Result<(), HostError> {
        if let Some(sysfs) = &self.sysfs {
            sysfs.write(&link.name, DEFER, &knobs.defer_hard_irqs.to_string())?;
            return sysfs.write(&link.name, FLUSH, &knobs.gro_flush_timeout.to_string());
        }
        let napis = self.napis(link)?;
        let netdev = self.netdev.as_mut().filter(|_| !napis.is_empty());
        let netdev = netdev.ok_or_else(|| HostError::NoNapiKnob {
            interface: link.name.clone(),
        })?;
        napis
            .iter()
            .try_for_each(|n| netdev.set_napi(n.id, knobs.defer_hard_irqs, knobs.gro_flush_timeout))
    }

    /// Whether kernel threads poll the interface (`threaded`, Linux 5.12).
    pub(crate) fn napi_threaded(&mut self, link: &Link) -> Result<u64, HostError> {
        self.sysfs_number(link, THREADED)
    }

    /// Has kernel threads poll the interface (1), or not (0). Through [`super::restore::Changes`] only.
    pub(super) fn set_napi_threaded(&mut self, link: &Link, threaded: u64) -> Result<(), HostError> {
        let out_of_reach = || HostError::NoNapiKnob {
            interface: link.name.clone(),
        };
        self.sysfs
            .as_ref()
            .ok_or_else(out_of_reach)?
            .write(&link.name, THREADED, &threaded.to_string())
    }

    /// The NAPIs that run on an interface now; none where the kernel does not tell (before 6.8).
    pub(crate) fn napis(&mut self, link: &Link) -> Result<Vec<Napi>, HostError> {
        self.netdev
            .as_mut()
            .map_or(Ok(Vec::new()), |netdev| netdev.napis(link.ifindex))
    }

    fn sysfs_number(&self, link: &Link, attribute: &'static str) -> Result<u64, HostError> {
        let sysfs = self.sysfs.as_ref().ok_or_else(|| HostError::NoNapiKnob {
            interface: link.name.clone(),
        })?;
        let value = sysfs.read(&link.name, attribute)?;
        value.parse().map_err(|_| HostError::NotANumber {
            interface: link.name.clone(),
            attribute: attribute.to_owned(),
            value,
        })
    }
}
