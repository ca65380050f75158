//! The SR-IOV functions of a host: what there is, how it is set up, and which pod has which.
//!
//! ```text
//!   sysfs, netlink ──► Hardware ──► Inventory ──┐
//!   Sriov (config) ─────────────────────────────┼─► plan ──► steps ──► apply (undoes all when one is refused)
//!   Leases (who holds which VF) ────────────────┘
//! ```
//!
//! Guarantees: nothing is changed except by [`apply`] and [`saved`], both through the one trait [`hardware::Hardware`];
//! a request that is refused in the middle leaves what it found. Left to the caller: to keep [`saved::Leases`] on disk
//! before it changes a VF, and to run everything that changes functions on one thread.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")
)]

pub mod apply;
pub mod hardware;
pub mod inventory;
mod pci;
pub mod plan;
pub mod saved;

pub use pci::{PciAddress, PciAddressError};
