//! Packet formats as typed views over bytes.
//!
//! ```text
//!  bytes ──► XxxPacket::new_checked(bytes)? ──► getters, setters, Display
//!  bytes ──► parse_tags · udp_datagram · vxlan_datagram · flow_hash      (the hot path's one-call parsers)
//! ```
//!
//! One file per protocol, all with the same anatomy: a view over `T: AsRef<[u8]>`, `check_len`, getters,
//! setters for `T: AsMut<[u8]>`, `Display`, tests.
//!
//! Guarantees:
//!
//! * After `new_checked` (or `check_len`) succeeded, no accessor panics; not even when a setter has since
//!   changed a length field: the part that such a field describes then reads as empty. `T` must hand out
//!   the same bytes each time.
//! * Functions over plain byte slices take any bytes and never panic.
//! * Nothing here allocates, except error values and the printing of text.
//!
//! Left to the caller: everything that needs more than the bytes at hand (reassembly, which UDP port is
//! VXLAN, what a tag means on a port). All functions are pure and may be called from any thread.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")
)]

#[macro_use]
mod bytes;
mod error;
mod ids;
mod mac;

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod icmpv4;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod pretty;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

pub use arp::{Arp, ArpPacket};
pub use error::WireError;
pub use ethernet::{EtherType, EthernetFrame};
pub use flow::{flow_hash, flow_hash_and_tos, source_port};
pub use icmpv4::Icmpv4Packet;
pub use icmpv6::Icmpv6Packet;
pub use ids::{Dscp, NumberError, Pcp, Vid, Vni};
pub use ip::MappedIp;
pub use ipv4::Ipv4Packet;
pub use ipv6::Ipv6Packet;
pub use mac::{MacAddr, MacAddrError};
pub use ndp::Ndp;
pub use pretty::Pretty;
pub use tcp::TcpPacket;
pub use udp::{Datagram, OuterError, UdpPacket, udp_datagram};
pub use vlan::{Tag, Tags, Tci, parse_tags};
pub use vxlan::{Outer, PlainOuter, VxlanPacket, vxlan_datagram};
