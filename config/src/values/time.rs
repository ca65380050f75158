//! Durations, and the limits of move damping, which are made of them.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: text with units such as `300s`, `5m` or `1h 30m`, or a whole number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Period {
    fn from(duration: Duration) -> Period {
        Period(duration)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
        struct PeriodVisitor;
        impl Visitor<'_> for PeriodVisitor {
            type Value = Period;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 300s, 5m or 1h, or a whole number of seconds")
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Period, E> {
                Ok(Period::from_secs(seconds))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                humantime::parse_duration(text)
                    .map(Period)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(PeriodVisitor)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration such as `300s`, `5m` or `1h`; a number is seconds.",
            "oneOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }]
        })
    }
}

/// What happens to a MAC address that moves between ports again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveDamping {
    /// It moves each time.
    Off,
    /// It stays where it is for a while.
    On(Damping),
}

impl Default for MoveDamping {
    fn default() -> MoveDamping {
        MoveDamping::On(Damping::default())
    }
}

/// The limits of move damping: after `moves` moves within `window`, the address stays put for `hold`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Damping {
    /// So many moves within `window` are too many.
    #[schemars(range(min = 1, max = 14))]
    pub moves: u16,
    /// The time over which moves are counted: 1s to 1h.
    pub window: Period,
    /// How long the address then stays where it is: 1s to 1h.
    pub hold: Period,
}

impl Damping {
    /// The smallest and the largest `moves`: an entry of the forwarding table has four bits for them.
    pub const MOVES: RangeInclusive<u16> = 1..=14;
    /// The shortest and the longest `window` and `hold`.
    pub const TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
}

impl Default for Damping {
    fn default() -> Damping {
        Damping {
            moves: 5,
            window: Period::from_secs(10),
            hold: Period::from_secs(30),
        }
    }
}

impl Serialize for MoveDamping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MoveDamping::Off => serializer.serialize_str("off"),
            MoveDamping::On(limits) => limits.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MoveDamping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MoveDamping, D::Error> {
        struct DampingVisitor;
        impl<'de> Visitor<'de> for DampingVisitor {
            type Value = MoveDamping;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off` or limits such as {moves: 5, window: 10s, hold: 30s}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<MoveDamping, E> {
                match text {
                    "off" => Ok(MoveDamping::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MoveDamping, A::Error> {
                Damping::deserialize(MapAccessDeserializer::new(map)).map(MoveDamping::On)
            }
        }
        deserializer.deserialize_any(DampingVisitor)
    }
}

impl JsonSchema for MoveDamping {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MoveDamping".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let limits = generator.subschema_for::<Damping>();
        json_schema!({ "description": "`off` or its limits.", "oneOf": [{ "const": "off" }, limits] })
    }
}
