//! Ranges of IP addresses and subnets, as text and as numbers. Nothing here goes through the addresses of a range one
//! by one: a /8 and a /64 cost what a /30 costs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Addresses from one to another, both included and of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// From `first` to `last`. `None`: these are of two families, or the wrong way round.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<AddressRange> {
        let right = first.is_ipv4() == last.is_ipv4() && first <= last;
        right.then_some(AddressRange { first, last })
    }

    /// One address.
    pub fn one(ip: IpAddr) -> AddressRange {
        AddressRange { first: ip, last: ip }
    }

    /// All addresses of a subnet, its network and broadcast addresses included.
    pub fn of(net: IpNet) -> AddressRange {
        AddressRange {
            first: net.network(),
            last: net.broadcast(),
        }
    }

    /// The addresses of a subnet that hosts may have. Of IPv4 all but the network and the broadcast address, of /31 both
    /// (RFC 3021). Of IPv6 all but the subnet-router anycast address, which is the first (RFC 4291 §2.6.1), of /127 both
    /// (RFC 6164).
    pub fn hosts(net: IpNet) -> AddressRange {
        let all = AddressRange::of(net);
        if net.max_prefix_len() - net.prefix_len() < 2 {
            return all;
        }
        AddressRange {
            first: next_address(all.first).unwrap_or(all.first),
            last: if net.network().is_ipv4() {
                before(all.last).unwrap_or(all.last)
            } else {
                all.last
            },
        }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether the address is one of these.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// Whether all addresses of the other are among these.
    pub fn contains_range(&self, other: &AddressRange) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// The addresses that both have.
    pub fn both(&self, other: &AddressRange) -> Option<AddressRange> {
        let same = self.first.is_ipv4() == other.first.is_ipv4();
        AddressRange::new(self.first.max(other.first), self.last.min(other.last)).filter(|_| same)
    }

    /// How many addresses it has; `u128::MAX` for all of IPv6, which are one more.
    pub fn count(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }

    /// The addresses of `ranges` without those of `without`, in order and without overlaps.
    pub fn difference(ranges: &[AddressRange], without: &[AddressRange]) -> Vec<AddressRange> {
        let mut holes = without.to_vec();
        holes.sort();
        let mut left = Vec::new();
        for range in merged(ranges) {
            let mut from = Some(range.first);
            for hole in holes.iter().filter_map(|hole| hole.both(&range)) {
                let Some(start) = from else { break };
                if let Some(end) = before(hole.first).filter(|_| start < hole.first) {
                    left.push(AddressRange {
                        first: start,
                        last: end,
                    });
                }
                from = next_address(hole.last).map(|next| next.max(start));
            }
            left.extend(from.and_then(|start| AddressRange::new(start, range.last)));
        }
        left
    }
}

/// In order, those that overlap as one.
fn merged(ranges: &[AddressRange]) -> Vec<AddressRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort();
    let mut merged: Vec<AddressRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if last.both(&range).is_some() => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address after this one; none after the last one of the family.
pub fn next_address(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into()),
    }
}

fn before(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits().checked_sub(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().checked_sub(1)?).into()),
    }
}

/// As it may be written: `10.9.0.5`, `10.9.0.32/28`, `10.9.0.10-10.9.0.99`.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        let mut nets = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::from(Ipv4Subnets::new(first, last, 0)),
            (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::from(Ipv6Subnets::new(first, last, 0)),
            _ => return write!(f, "{}-{}", self.first, self.last),
        };
        match (nets.next(), nets.next()) {
            (Some(net), None) => net.fmt(f),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddressRange {
    type Err = String;
    fn from_str(text: &str) -> Result<AddressRange, String> {
        let wrong = || {
            format!(
                "{text:?} is no address and no range; write 192.0.2.1, 192.0.2.1-192.0.2.9 or 192.0.2.0/28, or likewise \
                 in IPv6"
            )
        };
        if let Some((first, last)) = text.split_once('-') {
            let read = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| wrong());
            let (first, last) = (read(first)?, read(last)?);
            return AddressRange::new(first, last).ok_or_else(|| {
                format!("{text:?} is no range; write two addresses of one family, the lower one first")
            });
        }
        if text.contains('/') {
            let net = subnet_of(text).map_err(|_| wrong())?;
            return match net.trunc() {
                trunc if trunc == net => Ok(AddressRange::of(net)),
                trunc => Err(format!(
                    "{text:?} does not begin at the start of a subnet; write {trunc}, or a range"
                )),
            };
        }
        text.parse().map(AddressRange::one).map_err(|_| wrong())
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AddressRange, D::Error> {
        deserializer.deserialize_str(Text(
            "an address or a range such as 192.0.2.1-192.0.2.9",
            str::parse,
        ))
    }
}

impl JsonSchema for AddressRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AddressRange".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An address, a range such as `192.0.2.1-192.0.2.9`, or a subnet.",
            "type": "string",
            "format": "ip-range"
        })
    }
}

/// Reads a subnet; serde's own reader says of a text without a length that it is no address.
pub(crate) fn subnet<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    deserializer.deserialize_str(Text("a subnet such as 192.0.2.0/24", subnet_of))
}

fn subnet_of(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no subnet; write it as in 192.0.2.0/24 or 2001:db8::/64"))
}

/// The schema of a subnet, whose crate knows nothing of schemas.
pub(crate) struct Subnet;

impl JsonSchema for Subnet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Subnet".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A subnet such as `192.0.2.0/24` or `2001:db8::/64`.",
            "type": "string",
            "format": "subnet"
        })
    }
}

/// A value that reads itself from text: what is expected, and how it is read.
pub(crate) struct Text<T>(pub(crate) &'static str, pub(crate) fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_of_subnets() {
        for (net, hosts) in [
            ("10.9.0.0/24", "10.9.0.1-10.9.0.254"),
            ("10.9.0.0/30", "10.9.0.1-10.9.0.2"),
            ("10.9.0.2/31", "10.9.0.2-10.9.0.3"),
            ("10.9.0.3/32", "10.9.0.3"),
            ("10.0.0.0/8", "10.0.0.1-10.255.255.254"),
            ("fd00::/64", "fd00::1-fd00::ffff:ffff:ffff:ffff"),
            ("fd00::/126", "fd00::1-fd00::3"),
            ("fd00::2/127", "fd00::2-fd00::3"),
            ("fd00::2/128", "fd00::2"),
            ("::/0", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("0.0.0.0/0", "0.0.0.1-255.255.255.254"),
        ] {
            assert_eq!(AddressRange::hosts(net.parse().unwrap()), range(hosts), "{net}");
        }
    }

    #[test]
    fn what_is_written_is_what_would_be_read() {
        for (text, written) in [
            ("10.9.0.5", "10.9.0.5"),
            ("10.9.0.5-10.9.0.5", "10.9.0.5"),
            ("10.9.0.32/28", "10.9.0.32/28"),
            ("10.9.0.32 - 10.9.0.47", "10.9.0.32/28"),
            ("10.9.0.32-10.9.0.48", "10.9.0.32-10.9.0.48"),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"),
            ("fd00::1-fd00::2", "fd00::1-fd00::2"),
        ] {
            assert_eq!(range(text).to_string(), written);
            assert_eq!(range(written), range(text));
        }
        for wrong in [
            "",
            "-",
            "10.9.0.1-",
            "10.9.0.2-10.9.0.1",
            "10.9.0.1-fd00::1",
            "10.9.0.1/24",
            "10.9.0.0/33",
            "x",
        ] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts() {
        assert_eq!(range("10.9.0.0/24").count(), 256);
        assert_eq!(range("fd00::/64").count(), 1 << 64);
        assert_eq!(range("::/0").count(), u128::MAX);
    }

    fn small() -> impl Strategy<Value = Vec<AddressRange>> {
        // Both ends of the address space belong to the game.
        let byte = |n: u8| IpAddr::from(if n < 128 { [0, 0, 0, n] } else { [255, 255, 255, n] });
        let one = (any::<u8>(), any::<u8>())
            .prop_map(move |(a, b)| AddressRange::new(byte(a.min(b)), byte(a.max(b))).unwrap());
        vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn a_difference_is_what_sets_say(ranges in small(), without in small()) {
            let left = AddressRange::difference(&ranges, &without);
            let has = |all: &[AddressRange], ip| all.iter().any(|range| range.contains(ip));
            for n in 0..=255u8 {
                for ip in [IpAddr::from([0, 0, 0, n]), IpAddr::from([255, 255, 255, n])] {
                    prop_assert_eq!(has(&left, ip), has(&ranges, ip) && !has(&without, ip), "{} in {:?}", ip, left);
                }
            }
            prop_assert!(left.is_sorted());
            for pair in left.windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
            }
        }
    }
}
