//! The typed configuration of Clearway: what a YAML file says, with defaults, checks and a JSON schema.
//!
//! ```text
//!   YAML text ──► tree (values with their places) ──► Spec ──► validate ──► a Spec that control can compile
//!   JSON (API) ───────────────────────────────────────┘  │
//!   --port KIND:ARG ──► short form ──────────────────────┘
//! ```
//!
//! The types are inert: nothing here reads a file, opens a socket or looks at the host. Reading a file's text is
//! left to the caller, and so is everything that only the host knows (whether an interface exists, its queues,
//! which port carries a VTEP's address).
#![forbid(unsafe_code)]

mod addresses;
pub mod attach;
mod bridge;
mod carried;
mod decode;
mod error;
mod name;
pub mod path;
mod pool;
mod port;
mod problem;
mod read;
mod reference;
mod schema;
mod short;
mod spec;
mod sriov;
mod tree;
mod url;
mod validate;
mod values;

pub use addresses::{AddressRange, next_address};
pub use bridge::{BridgeDomain, Host, StaticMac, UdpChecksum, Vtep};
pub use carried::{Carried, Frames};
pub use error::{ConfigError, ConfigErrors, Fault, Place, SemanticError};
pub use name::{Name, NameError};
pub use path::Path;
pub use pool::{AddressPool, PodName, PoolRoute, PoolSubnet, Reservation, RouteScope};
pub use port::{
    BusyPoll, Checksum, Port, Rate, RateLimit, Service, Steering, StormControl, TagProtocol, TrunkMap,
    XdpMode,
};
pub use problem::{PoolProblem, Problem, SriovProblem};
pub use read::WriteError;
pub use reference::reference_markdown;
pub use schema::json_schema;
pub use short::ShortFormError;
pub use spec::{Api, CrossConnect, Engine, Hugepages, Idle, Spec, Worker};
pub use sriov::{OnLinkLoss, Pf, PfName, PfNameError, Sriov, VfDriver, VfLinkState, VfRange, VfSet};
pub use url::path_segment;
pub use validate::HostFacts;
pub use values::{
    Damping, DscpPolicy, MoveDamping, PcpPolicy, Period, Permissions, PortKind, Queues, TrunkItem,
};

/// For keys that are on unless the configuration turns them off.
fn yes() -> bool {
    true
}
