//! ARP for Ethernet and IPv4 (RFC 826), with probes and announcements of RFC 5227.
//!
//! ```text
//!  0       2        4    5    6    8     14    18    24    28
//!  | htype | ptype  | 6  | 4  | op | sha | spa | tha | tpa |        htype 1, ptype 0x0800
//! ```

use core::fmt;
use core::net::Ipv4Addr;

use crate::bytes::{be16, get, need, put, put16};
use crate::ethernet::EtherType;
use crate::{MacAddr, WireError};

/// Bytes of an ARP packet for Ethernet and IPv4.
pub const PACKET_LEN: usize = 28;

/// What an ARP packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operation(pub u16);

impl Operation {
    /// Who has the target address?
    pub const REQUEST: Self = Self(1);
    /// The sender has the sender address.
    pub const REPLY: Self = Self(2);
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::REQUEST => f.write_str("request"),
            Self::REPLY => f.write_str("reply"),
            Self(other) => write!(f, "op {other}"),
        }
    }
}

view! {
    /// An ARP packet: the payload of an Ethernet frame.
    ArpPacket
}

impl<T: AsRef<[u8]>> ArpPacket<T> {
    /// Whether it is there and about Ethernet and IPv4.
    #[inline]
    pub fn check_len(&self) -> Result<(), WireError> {
        let bytes = self.bytes();
        need("ARP", PACKET_LEN, bytes.len())?;
        let malformed = |field, value: u16, expected| {
            let value = value.into();
            Err(WireError::Malformed {
                layer: "ARP",
                field,
                value,
                expected,
            })
        };
        if be16(bytes, 0) != 1 {
            return malformed("hardware type", be16(bytes, 0), "1 (Ethernet)");
        }
        if be16(bytes, 2) != EtherType::IPV4.0 {
            return malformed("protocol type", be16(bytes, 2), "2048 (IPv4)");
        }
        if be16(bytes, 4) != 0x0604 {
            return malformed("address lengths", be16(bytes, 4), "6 and 4 (1540)");
        }
        Ok(())
    }

    /// Request, reply or something else.
    #[inline]
    pub fn operation(&self) -> Operation {
        Operation(be16(self.bytes(), 6))
    }

    /// Sender's MAC address.
    #[inline]
    pub fn sha(&self) -> MacAddr {
        MacAddr(get(self.bytes(), 8))
    }

    /// Sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227 §2.1.1).
    #[inline]
    pub fn spa(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<4>(self.bytes(), 14))
    }

    /// Target's MAC address; of no meaning in a request.
    #[inline]
    pub fn tha(&self) -> MacAddr {
        MacAddr(get(self.bytes(), 18))
    }

    /// Target's IPv4 address.
    #[inline]
    pub fn tpa(&self) -> Ipv4Addr {
        Ipv4Addr::from(get::<4>(self.bytes(), 24))
    }
}

impl<T: AsRef<[u8]>> fmt::Display for ArpPacket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.check_len() {
            Ok(()) => write!(
                f,
                "ARP {} {} ({}) > {} ({})",
                self.operation(),
                self.spa(),
                self.sha(),
                self.tpa(),
                self.tha()
            ),
            Err(e) => write!(f, "({e})"),
        }
    }
}

/// What an ARP packet says, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// Sender's MAC address.
    pub sha: MacAddr,
    /// Sender's IPv4 address.
    pub spa: Ipv4Addr,
    /// Target's MAC address.
    pub tha: MacAddr,
    /// Target's IPv4 address.
    pub tpa: Ipv4Addr,
}

impl Arp {
    /// Reads a packet; `bytes` may end with padding.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let packet = ArpPacket::new_checked(bytes)?;
        Ok(Self {
            operation: packet.operation(),
            sha: packet.sha(),
            spa: packet.spa(),
            tha: packet.tha(),
            tpa: packet.tpa(),
        })
    }

    /// The packet's bytes.
    pub fn to_bytes(&self) -> [u8; PACKET_LEN] {
        let mut bytes = [0; PACKET_LEN];
        put16(&mut bytes, 0, 1);
        put16(&mut bytes, 2, EtherType::IPV4.0);
        put16(&mut bytes, 4, 0x0604);
        put16(&mut bytes, 6, self.operation.0);
        put(&mut bytes, 8, self.sha.0);
        put(&mut bytes, 14, self.spa.octets());
        put(&mut bytes, 18, self.tha.0);
        put(&mut bytes, 24, self.tpa.octets());
        bytes
    }

    /// The answer to this request when `mac` has the target address. A probe is answered as well (RFC 5227 §2.1.1), which is
    /// what lets duplicate address detection work.
    pub fn reply(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::REPLY,
            sha: mac,
            spa: self.tpa,
            tha: self.sha,
            tpa: self.spa,
        }
    }

    /// Whether the sender announces its own address (RFC 5227 §3, "gratuitous ARP").
    pub fn is_announcement(&self) -> bool {
        self.spa == self.tpa
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; 28] = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ];

    #[test]
    fn reads_and_writes_a_request() {
        let arp = Arp::parse(&[&REQUEST[..], &[0; 18]].concat()).unwrap();
        assert_eq!(
            arp,
            Arp {
                operation: Operation::REQUEST,
                sha: MacAddr([2, 0, 0, 0, 0, 1]),
                spa: Ipv4Addr::new(10, 0, 0, 1),
                tha: MacAddr::ZERO,
                tpa: Ipv4Addr::new(10, 0, 0, 2),
            }
        );
        assert_eq!(arp.to_bytes(), REQUEST);
        assert_eq!(
            ArpPacket::new_checked(REQUEST).unwrap().to_string(),
            "ARP request 10.0.0.1 (02:00:00:00:00:01) > 10.0.0.2 (00:00:00:00:00:00)"
        );
    }

    #[test]
    fn answers_with_the_roles_exchanged() {
        let reply = Arp::parse(&REQUEST).unwrap().reply(MacAddr([2, 0, 0, 0, 0, 2]));
        let expected = [
            0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1,
        ];
        assert_eq!(reply.to_bytes(), expected);
        assert!(!reply.is_announcement());
        assert!(
            Arp {
                tpa: reply.spa,
                ..reply
            }
            .is_announcement()
        );
    }

    #[test]
    fn refuses_other_hardware_and_protocols() {
        for (at, field) in [
            (1, "hardware type"),
            (3, "protocol type"),
            (4, "address lengths"),
            (5, "address lengths"),
        ] {
            let mut bytes = REQUEST;
            bytes[at] = 9;
            assert!(matches!(Arp::parse(&bytes), Err(WireError::Malformed { field: f, .. }) if f == field));
        }
        assert_eq!(
            Arp::parse(&REQUEST[..27]),
            Err(WireError::Truncated {
                layer: "ARP",
                need: 28,
                have: 27
            })
        );
    }
}
