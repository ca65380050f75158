//! The CNI plugin: what a container runtime asks for, asked of the daemon.
//!
//! ```text
//!   runtime ── CNI_* and stdin ──► environment, conf ──► IPAM delegate ──► daemon ──► result ── stdout ──► runtime
//!                                  (checks)              (host-local, …)   (PUT …)    (down-converted)
//! ```
//!
//! CNI 1.1.0 and down to 0.3.0 (<https://github.com/containernetworking/cni>, `SPEC.md`). Guarantees: whatever arrives, the
//! answer is a result or an error object of the protocol; an ADD that failed has left nothing behind that its error does
//! not name. All work on the host and in the container's namespace is the daemon's; this program touches neither, but for
//! the device information file. One process serves one call on one thread.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")
)]

pub mod args;
pub mod conf;
pub mod daemon;
pub mod delegate;
pub mod devinfo;
pub mod environment;
pub mod error;
pub mod log;
pub mod result;
pub mod turn;
pub mod verbs;
pub mod version;

pub use error::{CniError, Code};
pub use version::CniVersion;
