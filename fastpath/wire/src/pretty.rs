//! A whole frame in one line of text, layer by layer: for traces, logs and test failures.

use core::fmt;

use crate::arp::ArpPacket;
use crate::ethernet::{EtherType, EthernetFrame};
use crate::icmpv4::Icmpv4Packet;
use crate::icmpv6::Icmpv6Packet;
use crate::ip::{self, protocol};
use crate::ipv4::Ipv4Packet;
use crate::ipv6::Ipv6Packet;
use crate::ndp::Ndp;
use crate::tcp::TcpPacket;
use crate::udp::UdpPacket;
use crate::vlan::parse_tags;
use crate::vxlan::{self, VxlanPacket};

/// Prints an Ethernet frame, layers separated by ` | `. What follows UDP port 4789 prints as VXLAN, once:
/// a frame within a frame within a frame ends with its length.
///
/// ```
/// # use clearway_wire::Pretty;
/// let frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0x20, 10, 0x12, 0x34, 1, 2, 3];
/// let text = Pretty::new(&frame).to_string();
/// assert_eq!(text, "Ethernet 02:00:00:00:00:02 > 02:00:00:00:00:01 802.1Q | vid 10 pcp 1 0x1234 | 3 bytes");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Pretty<'a> {
    frame: &'a [u8],
    /// How many more VXLAN headers to look behind.
    depth: u8,
}

impl<'a> Pretty<'a> {
    /// Any bytes; what can't be read says so.
    pub fn new(frame: &'a [u8]) -> Self {
        Self { frame, depth: 1 }
    }

    fn upper_layer(&self, f: &mut fmt::Formatter<'_>, packet: &[u8]) -> fmt::Result {
        let Some(upper) = ip::upper_layer(packet) else {
            return Ok(());
        };
        let bytes = &packet[upper.offset..][..upper.len];
        match upper.protocol {
            protocol::TCP => write!(f, " | {}", TcpPacket::new_unchecked(bytes)),
            protocol::ICMP => write!(f, " | {}", Icmpv4Packet::new_unchecked(bytes)),
            protocol::ICMPV6 => match Ndp::parse(packet) {
                Ok(ndp) => write!(f, " | {ndp}"),
                Err(_) => write!(f, " | {}", Icmpv6Packet::new_unchecked(bytes)),
            },
            protocol::UDP => {
                let udp = UdpPacket::new_unchecked(bytes);
                write!(f, " | {udp}")?;
                if udp.check_len().is_err() || udp.dst_port() != vxlan::PORT || self.depth == 0 {
                    return Ok(());
                }
                let vxlan = VxlanPacket::new_unchecked(udp.payload());
                write!(f, " | {vxlan}")?;
                match vxlan.check_len() {
                    Ok(()) => write!(
                        f,
                        " | {}",
                        Pretty {
                            frame: vxlan.payload(),
                            depth: self.depth - 1
                        }
                    ),
                    Err(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Pretty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", EthernetFrame::new_unchecked(self.frame))?;
        let tags = parse_tags(self.frame);
        for (tag, next) in [
            (tags.outer, tags.inner.map_or(tags.ethertype, |t| t.tpid)),
            (tags.inner, tags.ethertype),
        ] {
            if let Some(tag) = tag {
                write!(f, " | {} {next}", tag.tci)?;
            }
        }
        let Some(payload) = self.frame.get(tags.l3_offset..).filter(|_| !tags.truncated) else {
            return f.write_str(" | (cut short)");
        };
        match tags.ethertype {
            EtherType::ARP => write!(f, " | {}", ArpPacket::new_unchecked(payload)),
            EtherType::IPV4 => {
                write!(f, " | {}", Ipv4Packet::new_unchecked(payload))?;
                self.upper_layer(f, payload)
            }
            EtherType::IPV6 => {
                write!(f, " | {}", Ipv6Packet::new_unchecked(payload))?;
                self.upper_layer(f, payload)
            }
            _ => write!(f, " | {} bytes", payload.len()),
        }
    }
}
