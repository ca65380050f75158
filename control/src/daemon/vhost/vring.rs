//! What the messages have said of one ring.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use clearway_io::{InflightRegion, VringConfig};

/// Where a ring is, in addresses of the front-end's process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) log: Option<u64>,
}

/// What is known of a ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) size: Option<u16>,
    pub(super) addresses: Option<Addresses>,
    pub(super) base: u32,
    /// SET_VRING_ENABLE; none: it was never sent.
    pub(super) enabled: Option<bool>,
    pub(super) started: bool,
    /// The base is the front-end's, and no port has used it yet.
    pub(super) told: bool,
    pub(super) kick: Option<OwnedFd>,
    pub(super) call: Option<OwnedFd>,
}

impl Ring {
    pub(super) fn stop(&mut self) {
        self.started = false;
        self.kick = None;
    }

    /// Has the driver look at its ring: who had it before may have ended, or been killed, between using buffers and
    /// saying so.
    pub(super) fn call_once(&self) {
        if let Some(call) = &self.call {
            // A counter that is full has the driver look anyway.
            clearway_io::call(call.as_fd());
        }
    }

    /// The ring for a port; none: it is not started yet.
    pub(super) fn config(
        &self,
        enabled_by_itself: bool,
        inflight: Option<InflightRegion>,
    ) -> io::Result<Option<VringConfig>> {
        let (Some(size), Some(addresses), true) = (self.size, self.addresses, self.started) else {
            return Ok(None);
        };
        Ok(Some(VringConfig {
            size,
            descriptors: addresses.descriptors,
            driver: addresses.driver,
            device: addresses.device,
            base: self.base,
            enabled: self.enabled.unwrap_or(enabled_by_itself),
            kick: self.kick.as_ref().map(OwnedFd::try_clone).transpose()?,
            call: self.call.as_ref().map(OwnedFd::try_clone).transpose()?,
            record: None,
            log_address: addresses.log,
            inflight,
        }))
    }
}
