//! SR-IOV: how many VFs each physical function has, and how they are set up.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clearway_wire::MacAddr;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{TagProtocol, schema};

/// The SR-IOV functions of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of `sriov`"
)]
pub struct Sriov {
    /// The physical functions, by the name of their interface, such as `eth1`, or by their PCI address, such as `0000:03:00.0`. Those that are not here are left as they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pfs: BTreeMap<PfName, Pf>,
}

impl Sriov {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Sriov::default()
    }
}

/// One physical function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    default,
    expecting = "the keys of a physical function"
)]
pub struct Pf {
    /// How many VFs there are. The kernel makes another number of them only from none, so all must be free for that. Absent: as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vfs: Option<u16>,
    /// The MTU of the interface, in bytes: the most that its VFs can have with most NICs. Absent: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 9978))]
    pub mtu: Option<u32>,
    /// What becomes of the VFs' ports and of what is offered of them to pods while the interface has no link.
    pub on_link_loss: OnLinkLoss,
    /// How its VFs are set up; each belongs to one range at most. What a range does not say is left as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<VfRange>,
}

impl Pf {
    /// The least and the greatest `mtu`, in bytes.
    pub const MTU: RangeInclusive<u32> = 576..=9978;

    /// The range that a VF belongs to, and its position.
    pub fn range_of(&self, vf: u16) -> Option<(usize, &VfRange)> {
        self.ranges
            .iter()
            .enumerate()
            .find(|(_, range)| range.vfs.contains(vf))
    }
}

/// What becomes of VFs while their physical function has no link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnLinkLoss {
    /// They count as without link too.
    #[default]
    Follow,
    /// Nothing: frames between VFs of one NIC pass without its link.
    Keep,
}

/// VFs of a physical function that are set up in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "VFs such as {vfs: 0-3, trust: true}"
)]
pub struct VfRange {
    /// Which VFs: a number from 0, a range such as `0-3`, or a list of both.
    pub vfs: VfSet,
    /// Which driver they have: the kernel's, so that they are network interfaces, or `vfio-pci`, for programs that drive them themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<VfDriver>,
    /// The MAC address, of a single VF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Mac>")]
    pub mac: Option<MacAddr>,
    /// The VLAN that the NIC puts them into, unseen by them; 0: none, they tag themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan: Option<u16>,
    /// With `vlan`: the priority in its tag. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 7))]
    pub qos: Option<u8>,
    /// With `vlan`: the protocol of its tag. Absent: `802.1q`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan_proto: Option<TagProtocol>,
    /// Whether the NIC drops frames that they send with another MAC address than theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoofchk: Option<bool>,
    /// Whether they may change their MAC address and receive promiscuously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// The rate that each may send at in any case, in Mbit/s; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tx_rate: Option<u32>,
    /// The most that each sends, in Mbit/s; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tx_rate: Option<u32>,
    /// The link that they see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_state: Option<VfLinkState>,
}

impl VfRange {
    /// The greatest `vlan`; 0 is none.
    pub const MAX_VLAN: u16 = 4094;
    /// The greatest `qos`.
    pub const MAX_QOS: u8 = 7;

    /// These VFs, with nothing said of them.
    pub fn new(vfs: VfSet) -> VfRange {
        VfRange {
            vfs,
            driver: None,
            mac: None,
            vlan: None,
            qos: None,
            vlan_proto: None,
            spoofchk: None,
            trust: None,
            min_tx_rate: None,
            max_tx_rate: None,
            link_state: None,
        }
    }
}

/// Who drives a VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VfDriver {
    /// The kernel's own driver: the VF is a network interface.
    Kernel,
    /// A program in userspace, by way of the kernel's `vfio-pci`.
    VfioPci,
}

impl fmt::Display for VfDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            VfDriver::Kernel => "kernel",
            VfDriver::VfioPci => "vfio-pci",
        })
    }
}

/// The link that a VF sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VfLinkState {
    /// That of the physical function.
    #[default]
    Auto,
    /// Always up: VFs of one NIC reach each other without the NIC's link.
    Enable,
    /// Always down.
    Disable,
}

impl fmt::Display for VfLinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            VfLinkState::Auto => "auto",
            VfLinkState::Enable => "enable",
            VfLinkState::Disable => "disable",
        })
    }
}

/// What a physical function is found by: the name of its interface, or its PCI address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PfName(String);

impl PfName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Neither an interface nor a PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither the name of an interface (at most 15 characters, without `/` and spaces) nor a PCI address such as \"0000:03:00.0\""
)]
pub struct PfNameError(String);

impl FromStr for PfName {
    type Err = PfNameError;

    fn from_str(text: &str) -> Result<PfName, PfNameError> {
        let interface = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if interface {
            return Ok(PfName(text.to_owned()));
        }
        if is_pci_address(text) {
            // As sysfs writes them.
            return Ok(PfName(text.to_ascii_lowercase()));
        }
        Err(PfNameError(text.chars().take(80).collect()))
    }
}

/// `0000:03:00.0`
fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|c| c.is_ascii_hexdigit())
    };
    let parts: Vec<_> = text.split([':', '.']).collect();
    let [domain, bus, device, function] = parts[..] else {
        return false;
    };
    text.matches(':').count() == 2
        && text.rfind(':') < text.find('.')
        && hex(domain, 4..=8)
        && hex(bus, 2..=2)
        && hex(device, 2..=2)
        && device.as_bytes()[0] < b'2'
        && hex(function, 1..=1)
        && function.as_bytes()[0] < b'8'
}

impl fmt::Display for PfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for PfName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PfName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PfName, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = PfName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an interface or a PCI address such as \"0000:03:00.0\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PfName, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

impl JsonSchema for PfName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PfName".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The name of an interface, or a PCI address such as `0000:03:00.0`.",
            "type": "string",
            "pattern": "^([^/:\\s]{1,15}|[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\\.[0-7])$"
        })
    }
}

/// Some VFs of a physical function, by their numbers from 0: `5`, `0-3`, `[0, 2, 4-7]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfSet(Vec<RangeInclusive<u16>>);

impl VfSet {
    /// A single VF.
    pub fn one(vf: u16) -> VfSet {
        VfSet(vec![vf..=vf])
    }

    /// From the first to the last.
    pub fn range(vfs: RangeInclusive<u16>) -> VfSet {
        VfSet(vec![vfs])
    }

    /// Whether it is one of these.
    pub fn contains(&self, vf: u16) -> bool {
        self.0.iter().any(|range| range.contains(&vf))
    }

    /// All of them, as they are written.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(Clone::clone)
    }

    /// The greatest number.
    pub fn last(&self) -> Option<u16> {
        self.0.iter().map(|range| *range.end()).max()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0
            .iter()
            .map(|range| usize::from(range.end() - range.start()) + 1)
            .sum()
    }
}

impl fmt::Display for VfSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            fmt::Display::fmt(&Item(range), f)?;
        }
        Ok(())
    }
}

/// One number or one range.
struct Item<'a>(&'a RangeInclusive<u16>);

impl fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            range if range.start() == range.end() => write!(f, "{}", range.start()),
            range => write!(f, "{}-{}", range.start(), range.end()),
        }
    }
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            range if range.start() == range.end() => serializer.serialize_u16(*range.start()),
            _ => serializer.collect_str(self),
        }
    }
}

impl Serialize for VfSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => Item(one).serialize(serializer),
            several => serializer.collect_seq(several.iter().map(Item)),
        }
    }
}

/// One item of a set.
struct OneItem(RangeInclusive<u16>);

impl<'de> Deserialize<'de> for OneItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneItem, D::Error> {
        deserializer.deserialize_any(ItemVisitor).map(OneItem)
    }
}

struct ItemVisitor;

impl Visitor<'_> for ItemVisitor {
    type Value = RangeInclusive<u16>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the number of a VF, from 0, or a range such as 0-3")
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let number =
            u16::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))?;
        Ok(number..=number)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
        let number = |part: &str| {
            let part = part.trim();
            // parse would take a sign.
            let digits = !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
            digits
                .then(|| part.parse::<u16>().ok())
                .flatten()
                .ok_or_else(wrong)
        };
        let Some((first, last)) = text.split_once('-') else {
            return number(text).map(|number| number..=number);
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(E::custom(format_args!(
                "the range `{text}` of VFs ends before it begins; write {last}-{first}"
            )));
        }
        Ok(first..=last)
    }
}

impl<'de> Deserialize<'de> for VfSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VfSet, D::Error> {
        struct SetVisitor;
        impl<'de> Visitor<'de> for SetVisitor {
            type Value = VfSet;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("VFs: a number from 0, a range such as 0-3, or a list of both")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<VfSet, E> {
                ItemVisitor.visit_u64(number).map(VfSet::range)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<VfSet, E> {
                ItemVisitor.visit_str(text).map(VfSet::range)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<VfSet, A::Error> {
                let mut items = Vec::new();
                while let Some(OneItem(range)) = seq.next_element()? {
                    items.push(range);
                }
                Ok(VfSet(items))
            }
        }
        deserializer.deserialize_any(SetVisitor)
    }
}

impl JsonSchema for VfSet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VfSet".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let item = [
            json_schema!({ "type": "integer", "minimum": 0, "maximum": 65535 }),
            json_schema!({ "type": "string", "pattern": "^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$" }),
        ];
        json_schema!({
            "description": "VFs of a physical function: a number from 0, a range such as `0-3`, or a list of both.",
            "oneOf": [item[0], item[1], { "type": "array", "items": { "oneOf": [item[0], item[1]] }, "minItems": 1 }]
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A failed test is what a failed unwrap is for.
mod tests {
    use super::*;

    fn set(json: &str) -> Result<VfSet, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn sets_of_vfs_are_written_as_they_are_read() {
        for (json, all) in [
            ("5", vec![5]),
            ("\"0-3\"", vec![0, 1, 2, 3]),
            ("[0,2,\"4-6\"]", vec![0, 2, 4, 5, 6]),
        ] {
            let set = set(json).unwrap();
            assert_eq!(set.iter().collect::<Vec<_>>(), all);
            assert_eq!(set.count(), all.len());
            assert_eq!(set.last(), all.last().copied());
            assert_eq!(serde_json::to_string(&set).unwrap(), json);
            assert!(all.iter().all(|vf| set.contains(*vf)) && !set.contains(7));
        }
    }

    #[test]
    fn what_is_no_set_of_vfs_is_refused() {
        for json in [
            "-1", "65536", "\"3-0\"", "\"a\"", "\"0-\"", "\"+1\"", "{}", "[[0]]", "true",
        ] {
            assert!(set(json).is_err(), "{json}");
        }
        let text = set("\"3-0\"").unwrap_err().to_string();
        assert!(text.contains("write 0-3"), "{text}");
    }

    #[test]
    fn a_function_is_named_by_its_interface_or_address() {
        for name in ["eth1", "enp3s0f0np0", "0000:03:00.0", "10000:e1:1f.7"] {
            assert_eq!(name.parse::<PfName>().unwrap().as_str(), name);
        }
        assert_eq!("0000:AF:00.0".parse::<PfName>().unwrap().as_str(), "0000:af:00.0");
        for name in [
            "",
            "..",
            "a/b",
            "a b",
            "sixteen-letters-",
            "0000:03:00.8",
            "0000:03:20.0",
            "000:03:00.0",
            "0000.03:00:0",
            "0000:03.00.0",
        ] {
            assert!(name.parse::<PfName>().is_err(), "{name}");
        }
    }
}
