//! The SR-IOV functions of a host: what there is, how it is set up, and which pod has which.
#![forbid(unsafe_code)]

pub mod handover;
