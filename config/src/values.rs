//! Values with a grammar of their own: `keep` or a number, lists or `all`, ranges, durations, `off` or an object.
//!
//! Each reads the same from YAML and from the API's JSON, and writes the text that it would read.

mod time;

pub use time::{Damping, MoveDamping, Period};

use std::fmt;
use std::ops::RangeInclusive;

use clearway_wire::{Dscp, Pcp, Vid};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{
    self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::port::TrunkMap;

/// What a port is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// A network interface, through AF_XDP sockets.
    AfXdp,
    /// A port inside the process, for tests and benchmarks.
    Memory,
    /// Capture files: frames are read from one and written to another.
    Pcapng,
    /// A TAP: an interface of the kernel whose other end is this port, such as a pod's. Checksums and segmentation may stay undone both ways.
    Tap,
    /// A virtual machine or a DPDK application, through shared memory; messages go over a unix socket.
    VhostUser,
}

impl PortKind {
    /// Every kind of this version.
    pub const ALL: [PortKind; 5] = [
        PortKind::AfXdp,
        PortKind::Memory,
        PortKind::Pcapng,
        PortKind::Tap,
        PortKind::VhostUser,
    ];
    /// Kinds that the design has and this version has not: asking for one deserves a better answer than "unknown".
    const PLANNED: [&'static str; 1] = ["vf"];

    /// The word of the configuration for it.
    pub fn as_str(self) -> &'static str {
        match self {
            PortKind::AfXdp => "af-xdp",
            PortKind::Memory => "memory",
            PortKind::Pcapng => "pcapng",
            PortKind::Tap => "tap",
            PortKind::VhostUser => "vhost-user",
        }
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PortKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PortKind, D::Error> {
        struct KindVisitor;
        impl Visitor<'_> for KindVisitor {
            type Value = PortKind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port kind: `af-xdp`, `memory`, `pcapng`, `tap` or `vhost-user`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortKind, E> {
                if let Some(kind) = PortKind::ALL.into_iter().find(|kind| kind.as_str() == text) {
                    return Ok(kind);
                }
                if PortKind::PLANNED.contains(&text) {
                    return Err(E::custom(format_args!(
                        "ports of kind `{text}` are not in this version; it has `af-xdp`, `memory`, `pcapng`, `tap` and `vhost-user`"
                    )));
                }
                Err(E::unknown_variant(
                    text,
                    &["af-xdp", "memory", "pcapng", "tap", "vhost-user"],
                ))
            }
        }
        deserializer.deserialize_str(KindVisitor)
    }
}

/// Who may connect to a socket: the mode bits of its file, in octal as for chmod(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(pub u16);

impl Default for Permissions {
    fn default() -> Permissions {
        Permissions(0o660)
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Permissions, D::Error> {
        struct OctalVisitor;
        impl Visitor<'_> for OctalVisitor {
            type Value = Permissions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("permissions in octal, 0000 to 0777, such as \"0660\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Permissions, E> {
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                // from_str_radix would take a sign.
                if !text.bytes().all(|digit| digit.is_ascii_digit()) {
                    return Err(wrong());
                }
                let bits = u16::from_str_radix(text, 8).map_err(|_| wrong())?;
                if bits > 0o777 {
                    Err(wrong())
                } else {
                    Ok(Permissions(bits))
                }
            }
        }
        deserializer.deserialize_str(OctalVisitor)
    }
}

impl JsonSchema for Permissions {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Permissions".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Permissions in octal, such as `\"0660\"`.",
            "type": "string",
            "pattern": "^0*[0-7]{1,3}$"
        })
    }
}

/// The receive queues that a port uses: `all` or a list of queue numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// Every queue that the interface has.
    #[default]
    All,
    /// These.
    List(Vec<u16>),
}

impl Serialize for Queues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Queues::All => serializer.serialize_str("all"),
            Queues::List(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Queues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queues, D::Error> {
        struct QueuesVisitor;
        impl<'de> Visitor<'de> for QueuesVisitor {
            type Value = Queues;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all` or a list of queue numbers such as [0, 2, 3]")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Queues, E> {
                match text {
                    "all" => Ok(Queues::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Queues, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Queues::List)
            }
        }
        deserializer.deserialize_any(QueuesVisitor)
    }
}

impl JsonSchema for Queues {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Queues".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`all` or a list of queue numbers.",
            "oneOf": [
                { "const": "all" },
                { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 65535 }, "minItems": 1 }
            ]
        })
    }
}

/// Reads a word or a number in a range, and says both when it is neither.
struct WordOrNumber {
    word: &'static str,
    range: RangeInclusive<u64>,
}

impl Visitor<'_> for WordOrNumber {
    /// `None` is the word.
    type Value = Option<u8>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` or a whole number from {} to {}",
            self.word,
            self.range.start(),
            self.range.end()
        )
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<u8>, E> {
        if text == self.word {
            Ok(None)
        } else {
            Err(E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<u8>, E> {
        u8::try_from(number)
            .ok()
            .filter(|_| self.range.contains(&number))
            .map(Some)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }
}

/// The priority in tags that a port sends: `keep` or 0 to 7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PcpPolicy {
    /// The priority with which the frame came; 0 when it came untagged.
    #[default]
    Keep,
    /// This priority.
    Set(Pcp),
}

impl Serialize for PcpPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PcpPolicy::Keep => serializer.serialize_str("keep"),
            PcpPolicy::Set(pcp) => serializer.serialize_u8(pcp.get()),
        }
    }
}

impl<'de> Deserialize<'de> for PcpPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PcpPolicy, D::Error> {
        let number = deserializer.deserialize_any(WordOrNumber {
            word: "keep",
            range: 0..=7,
        })?;
        // The visitor holds the range, so a number always is a PCP.
        Ok(number.and_then(Pcp::new).map_or(PcpPolicy::Keep, PcpPolicy::Set))
    }
}

impl JsonSchema for PcpPolicy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PcpPolicy".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`keep` or a priority.",
            "oneOf": [{ "const": "keep" }, { "type": "integer", "minimum": 0, "maximum": 7 }]
        })
    }
}

/// The outer DSCP of tunnel packets: `copy` or 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DscpPolicy {
    /// The inner packet's; 0 when it is not IP.
    #[default]
    Copy,
    /// This one.
    Set(Dscp),
}

impl Serialize for DscpPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DscpPolicy::Copy => serializer.serialize_str("copy"),
            DscpPolicy::Set(dscp) => serializer.serialize_u8(dscp.get()),
        }
    }
}

impl<'de> Deserialize<'de> for DscpPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DscpPolicy, D::Error> {
        let number = deserializer.deserialize_any(WordOrNumber {
            word: "copy",
            range: 0..=63,
        })?;
        // The visitor holds the range, so a number always is a DSCP.
        Ok(number
            .and_then(Dscp::new)
            .map_or(DscpPolicy::Copy, DscpPolicy::Set))
    }
}

impl JsonSchema for DscpPolicy {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DscpPolicy".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`copy` or a DSCP.",
            "oneOf": [{ "const": "copy" }, { "type": "integer", "minimum": 0, "maximum": 63 }]
        })
    }
}

/// One item of a port's `trunk` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrunkItem {
    /// `all`: every VID that a bridge domain has, on this port unless it is mapped by another item.
    All,
    /// `100`: this VID, for the bridge domain whose `vlan` it is.
    Vid(Vid),
    /// `200-299`: these VIDs, first and last included; those that no bridge domain has are not carried.
    Range(Vid, Vid),
    /// An object that names the bridge domain: translation and QinQ.
    Map(TrunkMap),
}

impl fmt::Display for TrunkItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrunkItem::All => f.write_str("all"),
            TrunkItem::Vid(vid) => write!(f, "{}", vid.get()),
            TrunkItem::Range(first, last) => write!(f, "{}-{}", first.get(), last.get()),
            TrunkItem::Map(map) => match map.inner_vlan {
                Some(inner) => write!(f, "{}.{}", map.vlan.get(), inner.get()),
                None => write!(f, "{}", map.vlan.get()),
            },
        }
    }
}

impl Serialize for TrunkItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TrunkItem::Vid(vid) => serializer.serialize_u16(vid.get()),
            TrunkItem::Map(map) => map.serialize(serializer),
            TrunkItem::All | TrunkItem::Range(..) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for TrunkItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TrunkItem, D::Error> {
        struct ItemVisitor;
        impl ItemVisitor {
            fn vid<E: de::Error>(&self, number: u64) -> Result<Vid, E> {
                u16::try_from(number).ok().and_then(Vid::new).ok_or_else(|| {
                    E::invalid_value(de::Unexpected::Unsigned(number), &"a VLAN id from 1 to 4094")
                })
            }
        }
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = TrunkItem;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a VLAN id, a range such as 200-299, `all`, or {vlan: 300, bridge-domain: NAME}")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TrunkItem, E> {
                self.vid(number).map(TrunkItem::Vid)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TrunkItem, E> {
                if text == "all" {
                    return Ok(TrunkItem::All);
                }
                let wrong = || E::invalid_value(de::Unexpected::Str(text), &self);
                let number = |part: &str| part.trim().parse::<u64>().map_err(|_| wrong());
                match text.split_once('-') {
                    None => self.vid(number(text)?).map(TrunkItem::Vid),
                    Some((first, last)) => {
                        let (first, last) = (self.vid(number(first)?)?, self.vid(number(last)?)?);
                        if first > last {
                            return Err(E::custom(format_args!(
                                "the VLAN range `{text}` ends before it begins; write {}-{}",
                                last.get(),
                                first.get()
                            )));
                        }
                        Ok(TrunkItem::Range(first, last))
                    }
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TrunkItem, A::Error> {
                TrunkMap::deserialize(MapAccessDeserializer::new(map)).map(TrunkItem::Map)
            }
        }
        deserializer.deserialize_any(ItemVisitor)
    }
}

impl JsonSchema for TrunkItem {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TrunkItem".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<TrunkMap>();
        json_schema!({
            "description": "A VLAN id, a range of them, `all`, or an object that names the bridge domain.",
            "oneOf": [
                { "type": "integer", "minimum": 1, "maximum": 4094 },
                { "type": "string", "pattern": "^(all|[0-9]{1,4}( *- *[0-9]{1,4})?)$" },
                map
            ]
        })
    }
}

/// A port's `trunk`: a list, or the word `all` for the list of it alone.
pub(crate) fn trunk<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TrunkItem>, D::Error> {
    struct TrunkVisitor;
    impl<'de> Visitor<'de> for TrunkVisitor {
        type Value = Vec<TrunkItem>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`all` or a list such as [100, 200-299]")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<TrunkItem>, E> {
            match text {
                "all" => Ok(vec![TrunkItem::All]),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }
        // The key with nothing behind it.
        fn visit_unit<E: de::Error>(self) -> Result<Vec<TrunkItem>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<TrunkItem>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(TrunkVisitor)
}

pub(crate) fn trunk_schema(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<TrunkItem>();
    json_schema!({ "oneOf": [{ "const": "all" }, { "type": "array", "items": item }] })
}
