//! Neighbour discovery: solicitations and advertisements (RFC 4861 §4.3, §4.4), with the checks of §7.1.
//!
//! ```text
//!  0           1   2      4            8        24
//!  | 135 / 136 | 0 | csum | 0 / R|S|O  | target | options …        option: type, length in units of 8, content
//! ```

use core::fmt;
use core::net::Ipv6Addr;

use crate::bytes::{get, need, put};
use crate::icmpv6::Icmpv6Packet;
use crate::ip::protocol;
use crate::ipv6::{self, Ipv6Packet};
use crate::{MacAddr, WireError};

/// ICMPv6 type: neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 type: neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The hop limit that proves that no router has forwarded the message (RFC 4861 §7.1).
pub const HOP_LIMIT: u8 = 255;
/// Bytes of an IPv6 packet with a message and one link-layer address option: the most that [`Ndp::emit`] writes.
pub const MAX_PACKET_LEN: usize = ipv6::HEADER_LEN + MESSAGE_LEN + OPTION_LEN;

/// Bytes of a message without options.
const MESSAGE_LEN: usize = 24;
/// Bytes of a link-layer address option for Ethernet.
const OPTION_LEN: usize = 8;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// ff02::1, all nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The multicast group that solicitations for `target` go to (RFC 4291 §2.7.1).
pub const fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let last = target.to_bits() as u32 & 0xff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | last as u128)
}

/// The MAC address of a multicast group (RFC 2464 §7).
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// What the message is and says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Who has the target address?
    Solicitation {
        /// The sender's MAC address, absent when the sender has no IPv6 address yet.
        source_mac: Option<MacAddr>,
    },
    /// Somebody has the target address.
    Advertisement {
        /// The target's MAC address.
        target_mac: Option<MacAddr>,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It overrides what a cache holds.
        override_cache: bool,
    },
}

/// A neighbour solicitation or advertisement with the addresses of its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ndp {
    /// Source address; unspecified in a duplicate address detection.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// The address that the message is about.
    pub target: Ipv6Addr,
    /// What it says about it.
    pub message: Message,
}

impl Ndp {
    /// Reads the message in an IPv6 packet (`packet` begins with the IPv6 header and may end with padding) and applies every
    /// check of RFC 4861 §7.1.1 and §7.1.2. Options that are not known are skipped, as §4.6 wants.
    pub fn parse(packet: &[u8]) -> Result<Self, WireError> {
        let malformed = |field, value: u32, expected| WireError::Malformed {
            layer: "NDP",
            field,
            value,
            expected,
        };
        let ip = Ipv6Packet::new_checked(packet)?;
        if ip.next_header() != protocol::ICMPV6 {
            return Err(malformed("next header", ip.next_header().into(), "58 (ICMPv6)"));
        }
        let bytes = ip.payload();
        let icmp = Icmpv6Packet::new_checked(bytes)?;
        let icmp_type = icmp.icmp_type();
        if !matches!(icmp_type, NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT) {
            return Err(malformed("type", icmp_type.into(), "135 or 136"));
        }
        need("NDP", MESSAGE_LEN, bytes.len())?;
        if ip.hop_limit() != HOP_LIMIT {
            return Err(malformed(
                "hop limit",
                ip.hop_limit().into(),
                "255: a router has forwarded it",
            ));
        }
        if icmp.code() != 0 {
            return Err(malformed("code", icmp.code().into(), "0"));
        }
        let (src, dst, target) = (ip.src(), ip.dst(), Ipv6Addr::from(get::<16>(bytes, 8)));
        if !icmp.verify_checksum(src, dst) {
            return Err(malformed(
                "checksum",
                icmp.checksum().into(),
                "the sum over pseudo header and message",
            ));
        }
        if target.is_multicast() {
            return Err(malformed("target", 0xff, "a unicast address"));
        }
        let solicitation = icmp_type == NEIGHBOUR_SOLICITATION;
        let wanted = if solicitation {
            SOURCE_LINK_LAYER
        } else {
            TARGET_LINK_LAYER
        };
        let mac = link_layer_option(&bytes[MESSAGE_LEN..], wanted)?;
        let flags = bytes[4];
        let message = if solicitation {
            if src.is_unspecified() && (dst != solicited_node(target) || mac.is_some()) {
                let expected = "a solicited-node group and no source address option when the source is ::";
                return Err(malformed("destination", 0, expected));
            }
            Message::Solicitation { source_mac: mac }
        } else {
            let solicited = flags & 0x40 != 0;
            if solicited && dst.is_multicast() {
                return Err(malformed(
                    "flags",
                    flags.into(),
                    "without S (0x40) when sent to a group",
                ));
            }
            let (router, override_cache) = (flags & 0x80 != 0, flags & 0x20 != 0);
            Message::Advertisement {
                target_mac: mac,
                router,
                solicited,
                override_cache,
            }
        };
        Ok(Self {
            src,
            dst,
            target,
            message,
        })
    }

    /// Writes the IPv6 packet into `out` and returns its length, [`MAX_PACKET_LEN`] or eight bytes less.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let (icmp_type, flags, mac, option) = match self.message {
            Message::Solicitation { source_mac } => {
                (NEIGHBOUR_SOLICITATION, 0, source_mac, SOURCE_LINK_LAYER)
            }
            Message::Advertisement {
                target_mac,
                router,
                solicited,
                override_cache,
            } => {
                let flags = u8::from(router) << 7 | u8::from(solicited) << 6 | u8::from(override_cache) << 5;
                (NEIGHBOUR_ADVERTISEMENT, flags, target_mac, TARGET_LINK_LAYER)
            }
        };
        let len = if mac.is_some() {
            MAX_PACKET_LEN
        } else {
            MAX_PACKET_LEN - OPTION_LEN
        };
        need("NDP packet", len, out.len())?;
        let (header, message) = out[..len].split_at_mut(ipv6::HEADER_LEN);
        let mut ip = Ipv6Packet::new_unchecked(header);
        ip.set_version_class_label(0, 0);
        ip.set_payload_len(message.len() as u16);
        ip.set_next_header(protocol::ICMPV6);
        ip.set_hop_limit(HOP_LIMIT);
        ip.set_src(self.src);
        ip.set_dst(self.dst);

        message.fill(0);
        message[4] = flags;
        put(message, 8, self.target.octets());
        if let Some(mac) = mac {
            message[MESSAGE_LEN..MESSAGE_LEN + 2].copy_from_slice(&[option, 1]);
            put(message, MESSAGE_LEN + 2, mac.0);
        }
        let mut icmp = Icmpv6Packet::new_unchecked(message);
        icmp.set_type_and_code(icmp_type, 0);
        icmp.fill_checksum(self.src, self.dst);
        Ok(len)
    }

    /// The advertisement that answers this solicitation when `mac` has the target address (RFC 4861 §7.2.4); a duplicate
    /// address detection is answered to all nodes. `None` for an advertisement.
    pub fn advertisement(&self, mac: MacAddr, router: bool) -> Option<Self> {
        let Message::Solicitation { .. } = self.message else {
            return None;
        };
        let solicited = !self.src.is_unspecified();
        let message = Message::Advertisement {
            target_mac: Some(mac),
            router,
            solicited,
            override_cache: true,
        };
        let dst = if solicited { self.src } else { ALL_NODES };
        Some(Self {
            src: self.target,
            dst,
            target: self.target,
            message,
        })
    }
}

impl fmt::Display for Ndp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = match self.message {
            Message::Solicitation { source_mac } => {
                write!(f, "NDP who has {}? tell {}", self.target, self.src)?;
                source_mac
            }
            Message::Advertisement {
                target_mac,
                router,
                solicited,
                override_cache,
            } => {
                write!(f, "NDP {} is here", self.target)?;
                let flags = [
                    (router, " router"),
                    (solicited, " solicited"),
                    (override_cache, " override"),
                ];
                for (_, name) in flags.iter().filter(|(set, _)| *set) {
                    f.write_str(name)?;
                }
                target_mac
            }
        };
        mac.map_or(Ok(()), |mac| write!(f, " ({mac})"))
    }
}

/// Walks all options and returns the first link-layer address of the wanted type. An option of length zero, and one that
/// exceeds the message, spoils the whole message (§7.1.1).
fn link_layer_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, WireError> {
    let mut mac = None;
    while !options.is_empty() {
        need("NDP option", OPTION_LEN, options.len())?;
        let (kind, len) = (options[0], usize::from(options[1]) * 8);
        if len == 0 {
            let expected = "at least 1";
            return Err(WireError::Malformed {
                layer: "NDP",
                field: "option length",
                value: 0,
                expected,
            });
        }
        need("NDP option", len, options.len())?;
        if kind == wanted && len == OPTION_LEN && mac.is_none() {
            mac = Some(MacAddr(get(options, 2)));
        }
        options = &options[len..];
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn address(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
    }

    fn solicitation() -> Ndp {
        let target = address(2);
        let message = Message::Solicitation {
            source_mac: Some(MAC),
        };
        Ndp {
            src: address(1),
            dst: solicited_node(target),
            target,
            message,
        }
    }

    fn emitted(ndp: &Ndp) -> Vec<u8> {
        let mut out = vec![0xee; 100];
        let len = ndp.emit(&mut out).unwrap();
        out.truncate(len);
        out
    }

    /// The packet with a byte changed and its checksum made correct again.
    fn broken(ndp: &Ndp, at: usize, value: u8) -> Result<Ndp, WireError> {
        let mut bytes = emitted(ndp);
        bytes[at] = value;
        let ip = Ipv6Packet::new_unchecked(&bytes[..]);
        let (src, dst) = (ip.src(), ip.dst());
        Icmpv6Packet::new_unchecked(&mut bytes[40..]).fill_checksum(src, dst);
        Ndp::parse(&bytes)
    }

    #[test]
    fn a_solicitation_as_rfc_4861_draws_it() {
        let bytes = emitted(&solicitation());
        assert_eq!(bytes[..8], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(
            bytes[24..40],
            [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2]
        );
        assert_eq!(bytes[40..42], [135, 0]);
        assert_eq!(bytes[44..48], [0; 4]);
        assert_eq!(bytes[48..64], address(2).octets());
        assert_eq!(bytes[64..], [1, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(
            multicast_mac(solicitation().dst),
            MacAddr([0x33, 0x33, 0xff, 0, 0, 2])
        );
        assert_eq!(
            solicitation().to_string(),
            "NDP who has 2001:db8::2? tell 2001:db8::1 (02:00:00:00:00:01)"
        );
    }

    #[test]
    fn messages_round_trip_and_padding_does_not_matter() {
        let answer = solicitation().advertisement(MAC, true).unwrap();
        let plain = Ndp {
            message: Message::Solicitation { source_mac: None },
            ..solicitation()
        };
        for ndp in [solicitation(), plain, answer] {
            let padded = [&emitted(&ndp)[..], &[0; 9]].concat();
            assert_eq!(Ndp::parse(&padded), Ok(ndp));
        }
        assert_eq!((answer.src, answer.dst), (address(2), address(1)));
        assert_eq!(emitted(&answer)[44], 0b1110_0000);
        assert_eq!(
            answer.to_string(),
            "NDP 2001:db8::2 is here router solicited override (02:00:00:00:00:01)"
        );
        assert_eq!(answer.advertisement(MAC, true), None);
        assert!(solicitation().emit(&mut [0; 71]).is_err());
    }

    #[test]
    fn duplicate_address_detection_is_answered_to_all() {
        let probe = Ndp {
            src: Ipv6Addr::UNSPECIFIED,
            message: Message::Solicitation { source_mac: None },
            ..solicitation()
        };
        assert_eq!(Ndp::parse(&emitted(&probe)), Ok(probe));
        let answer = probe.advertisement(MAC, false).unwrap();
        assert_eq!(answer.dst, ALL_NODES);
        assert!(matches!(
            answer.message,
            Message::Advertisement {
                solicited: false,
                router: false,
                ..
            }
        ));
        let with_mac = Ndp {
            src: Ipv6Addr::UNSPECIFIED,
            ..solicitation()
        };
        assert!(Ndp::parse(&emitted(&with_mac)).is_err());
        let to_host = Ndp {
            dst: address(2),
            ..probe
        };
        assert!(Ndp::parse(&emitted(&to_host)).is_err());
    }

    #[test]
    fn every_check_of_section_7_1_is_applied() {
        let answer = solicitation().advertisement(MAC, false).unwrap();
        let field = |result: Result<Ndp, WireError>| match result {
            Err(WireError::Malformed { field, .. }) => field,
            Err(WireError::Truncated { .. }) => "truncated",
            Ok(_) => "accepted",
        };
        assert_eq!(field(broken(&solicitation(), 7, 254)), "hop limit");
        assert_eq!(field(broken(&solicitation(), 6, 17)), "next header");
        assert_eq!(field(broken(&solicitation(), 40, 133)), "type");
        assert_eq!(field(broken(&solicitation(), 41, 1)), "code");
        assert_eq!(field(broken(&solicitation(), 48, 0xff)), "target");
        assert_eq!(field(broken(&solicitation(), 65, 0)), "option length");
        assert_eq!(field(broken(&solicitation(), 65, 2)), "truncated");
        assert_eq!(field(broken(&answer, 24, 0xff)), "flags");
        assert_eq!(
            field(broken(&solicitation(), 64, 14)),
            "accepted",
            "an unknown option is skipped"
        );
        let mut wrong = emitted(&solicitation());
        wrong[70] ^= 1;
        assert_eq!(field(Ndp::parse(&wrong)), "checksum");
        let mut short = emitted(&solicitation());
        short[5] = 23;
        assert_eq!(field(Ndp::parse(&short)), "truncated");
    }
}
