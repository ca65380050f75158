//! Frames as bytes, put together by etherparse: an encoder that Clearway does not use.

use etherparse::PacketBuilder;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// IEEE 802.1Q tag protocol identifier.
pub const TPID_8021Q: u16 = 0x8100;
/// IEEE 802.1ad (service tag) tag protocol identifier.
pub const TPID_8021AD: u16 = 0x88a8;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// An EtherType for experiments (IEEE 802 local): no stack reacts to it.
pub const EXPERIMENT: u16 = 0x88b5;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All ones.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// A locally administered unicast address: 02:00:00:00:00:n, for n below 2^32.
    pub const fn local(n: u32) -> Mac {
        let b = n.to_be_bytes();
        Mac([2, 0, b[0], b[1], b[2], b[3]])
    }

    /// The last 32 bits: the number that [`Mac::local`] was given.
    pub const fn host(self) -> u32 {
        let m = self.0;
        u32::from_be_bytes([m[2], m[3], m[4], m[5]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(
            f,
            "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            m[0], m[1], m[2], m[3], m[4], m[5]
        )
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(s: &str) -> Result<Mac, String> {
        let bytes: Vec<u8> = s
            .split(':')
            .filter_map(|b| u8::from_str_radix(b, 16).ok())
            .collect();
        bytes
            .try_into()
            .map(Mac)
            .map_err(|_| format!("'{s}' is not a MAC address"))
    }
}

/// A VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Tag protocol identifier.
    pub tpid: u16,
    /// Priority, 0-7.
    pub pcp: u8,
    /// Drop eligible.
    pub dei: bool,
    /// VLAN id, 0-4095.
    pub vid: u16,
}

impl Tag {
    /// An 802.1Q tag of priority 0.
    pub const fn c(vid: u16) -> Tag {
        Tag {
            tpid: TPID_8021Q,
            pcp: 0,
            dei: false,
            vid,
        }
    }

    /// An 802.1ad service tag of priority 0.
    pub const fn s(vid: u16) -> Tag {
        Tag {
            tpid: TPID_8021AD,
            pcp: 0,
            dei: false,
            vid,
        }
    }

    /// The same tag with a priority.
    pub const fn pcp(self, pcp: u8) -> Tag {
        Tag { pcp, ..self }
    }
}

/// An Ethernet frame, padded to the minimum of 60 bytes.
pub fn ethernet(dst: Mac, src: Mac, tags: &[Tag], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    for tag in tags {
        frame.extend(tag.tpid.to_be_bytes());
        let tci = u16::from(tag.pcp) << 13 | u16::from(tag.dei) << 12 | (tag.vid & 0xfff);
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The tags of a frame, outermost first, and where the EtherType behind them lies.
///
/// # Panics
/// If the frame ends among them.
pub fn tags(frame: &[u8]) -> (Vec<Tag>, usize) {
    let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (mut found, mut at) = (Vec::new(), 12);
    while [TPID_8021Q, TPID_8021AD].contains(&be16(at)) {
        let tci = be16(at + 2);
        found.push(Tag {
            tpid: be16(at),
            pcp: (tci >> 13) as u8,
            dei: tci & 0x1000 != 0,
            vid: tci & 0xfff,
        });
        at += 4;
    }
    (found, at)
}

/// The EtherType behind the tags.
pub fn ether_type(frame: &[u8]) -> u16 {
    let (_, at) = tags(frame);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// An IPv4 or IPv6 packet with a UDP datagram, checksums done.
///
/// # Panics
/// If the two addresses are not of one family.
pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let builder = match (src.0, dst.0) {
        (IpAddr::V4(s), IpAddr::V4(d)) => PacketBuilder::ipv4(s.octets(), d.octets(), 64),
        (IpAddr::V6(s), IpAddr::V6(d)) => PacketBuilder::ipv6(s.octets(), d.octets(), 64),
        _ => panic!("{} and {} are not of one family", src.0, dst.0),
    };
    let builder = builder.udp(src.1, dst.1);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, payload)
        .expect("writing to a Vec cannot fail and test payloads fit a datagram");
    packet
}

/// A payload that is recognised again: `n`, then bytes that depend on it.
pub fn payload(n: u32, len: usize) -> Vec<u8> {
    let mut bytes = n.to_be_bytes().to_vec();
    let mut x = n | 1;
    while bytes.len() < len {
        // xorshift32 (Marsaglia 2003)
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        bytes.push(x as u8);
    }
    bytes.truncate(len.max(4));
    bytes
}

/// A frame in VXLAN with VNI 100 (RFC 7348 §5), from and to a host's MAC and IPv4 address; 0 is the UDP source port of
/// what [`without_vxlan_flow`] gives.
pub fn vxlan(dst: (Mac, [u8; 4]), src: (Mac, [u8; 4]), port: u16, checksum: bool, inner: &[u8]) -> Vec<u8> {
    // The I flag, and the VNI.
    let payload = [&[8, 0, 0, 0, 0, 0, 100, 0], inner].concat();
    let builder = PacketBuilder::ethernet2(src.0.0, dst.0.0)
        .ipv4(src.1, dst.1, 64)
        .udp(port, 4789);
    let mut bytes = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut bytes, &payload).expect("a frame that fits");
    if !checksum {
        bytes[40..42].fill(0);
    }
    bytes
}

/// Takes the UDP source port out of a frame in VXLAN over IPv4: it is the inner flow's, of the range for that.
#[track_caller]
pub fn without_vxlan_flow(mut frame: Vec<u8>) -> Vec<u8> {
    let port = u16::from_be_bytes([frame[34], frame[35]]);
    assert!(port >= 49152, "source port {port}");
    frame[34..36].fill(0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_read_back() {
        let want = [
            Tag::s(100).pcp(5),
            Tag {
                dei: true,
                ..Tag::c(4095)
            },
        ];
        let frame = ethernet(Mac::BROADCAST, Mac::local(1), &want, EXPERIMENT, &[1, 2, 3]);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[12..20], [0x88, 0xa8, 0xa0, 100, 0x81, 0x00, 0x1f, 0xff]);
        assert_eq!(tags(&frame), (want.to_vec(), 20));
        assert_eq!(ether_type(&frame), EXPERIMENT);
    }

    #[test]
    fn mac_reads_back() {
        assert_eq!("02:00:00:00:01:02".parse::<Mac>(), Ok(Mac::local(258)));
        assert!("02:00:00".parse::<Mac>().is_err());
    }
}
