//! The SR-IOV functions of a host: what there is, how it is set up, and which pod has which.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")
)]

pub mod plugin;
