//! From the located tree to typed values, with every wrong value reported and not only the first.
//!
//! serde stops at the first error. So an error here carries the value it is about; that value is noted, left out,
//! and decoding starts again, until it succeeds or nothing is left to leave out. A container that then misses
//! what was left out is left out silently: that error would be a consequence, not a finding.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor,
    value::StrDeserializer,
};

use crate::error::{ConfigError, Fault, brief};
use crate::tree::{NodeId, ROOT, Step, Tree, Value};

/// After so many errors the rest is not looked for: the file is of another kind.
const MOST_ERRORS: usize = 100;

/// What came of a document: the value, made of all that could be decoded, and what could not.
pub(crate) struct Decoded<T> {
    /// None: even what is left makes no value.
    pub(crate) value: Option<T>,
    pub(crate) errors: Vec<ConfigError>,
}

/// Decodes the whole document. With errors, what they are about is missing in the value, or at its default.
pub(crate) fn decode<T: DeserializeOwned>(tree: &mut Tree) -> Decoded<T> {
    let mut errors = Vec::new();
    loop {
        let error = match T::deserialize(Decoder { tree, id: ROOT }) {
            Ok(value) => {
                return Decoded {
                    value: Some(value),
                    errors,
                };
            }
            Err(error) => error,
        };
        let id = error.node.unwrap_or(ROOT);
        if error.on_key || !tree.has_pruned_child(id) {
            errors.push(error.report(tree, id));
        }
        if !tree.prune(id) || errors.len() >= MOST_ERRORS {
            return Decoded { value: None, errors };
        }
    }
}

/// A decoding error, with the value it is about as soon as that is known.
#[derive(Debug)]
pub(crate) struct DecodeError {
    fault: Fault,
    node: Option<NodeId>,
    /// The key is wrong, not its value.
    on_key: bool,
}

impl DecodeError {
    fn new(fault: Fault) -> DecodeError {
        DecodeError {
            fault,
            node: None,
            on_key: false,
        }
    }

    /// Notes the value; the innermost one counts.
    fn about(mut self, id: NodeId) -> DecodeError {
        self.node.get_or_insert(id);
        self
    }

    fn report(self, tree: &Tree, id: NodeId) -> ConfigError {
        let node = tree.node(id);
        let place = match &node.step {
            Step::Key(_, place) if self.on_key => *place,
            _ => node.place,
        };
        let text = brief(&node.text);
        let fault = match self.fault.shortened(&node.text) {
            // serde's own texts for addresses and the like do not repeat what they could not read.
            // The text of std::net::AddrParseError, which serde passes on.
            Fault::Value { reason } if reason == "invalid IP address syntax" => Fault::Value {
                reason: format!("{text:?} is not an IP address; write it as in 192.0.2.1 or 2001:db8::1"),
            },
            Fault::Value { reason } if !text.is_empty() && !reason.contains(&*text) && !self.on_key => {
                Fault::Value {
                    reason: format!("{text:?}: {reason}"),
                }
            }
            fault => fault,
        };
        ConfigError {
            place: Some(place),
            path: tree.path(id),
            fault,
        }
    }
}

impl Fault {
    /// Values that read themselves repeat what they could not read, as `value` has it or escaped.
    fn shortened(self, value: &str) -> Fault {
        match self {
            Fault::Value { reason } if brief(value) != value => {
                let escaped = |text: &str| text.escape_debug().to_string();
                let short = brief(value);
                let reason = reason.replace(value, &short);
                Fault::Value {
                    reason: reason.replace(&escaped(value), &escaped(&short)),
                }
            }
            other => other,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> DecodeError {
        DecodeError::new(Fault::Value {
            reason: message.to_string(),
        })
    }
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> DecodeError {
        DecodeError::new(Fault::Expected {
            expected: in_words(&expected.to_string()),
            found: named(found),
        })
    }
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> DecodeError {
        DecodeError::invalid_type(found, expected)
    }
    fn invalid_length(length: usize, expected: &dyn Expected) -> DecodeError {
        let found = if length == 1 {
            "1 item".to_string()
        } else {
            format!("{length} items")
        };
        DecodeError::new(Fault::Expected {
            expected: in_words(&expected.to_string()),
            found,
        })
    }
    fn unknown_field(field: &str, expected: &'static [&'static str]) -> DecodeError {
        DecodeError::new(Fault::UnknownKey {
            key: brief(field).into_owned(),
            valid: expected,
        })
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> DecodeError {
        DecodeError::new(Fault::UnknownWord {
            word: brief(variant).into_owned(),
            valid: expected,
        })
    }
    fn missing_field(field: &'static str) -> DecodeError {
        DecodeError::new(Fault::MissingKey {
            key: field.to_string(),
        })
    }
}

/// serde names Rust types; a person reads what may be written.
fn in_words(expected: &str) -> String {
    let bounds = match expected {
        "u8" => Some(u64::from(u8::MAX)),
        "u16" => Some(u64::from(u16::MAX)),
        "u32" => Some(u64::from(u32::MAX)),
        "u64" => Some(u64::MAX),
        _ => None,
    };
    match (expected, bounds) {
        (_, Some(most)) => format!("a whole number from 0 to {most}"),
        ("a boolean", _) => "`true` or `false`".into(),
        ("a string" | "path string", _) => "text".into(),
        ("a sequence", _) => "a list".into(),
        ("a map", _) => "an object (key: value)".into(),
        (other, _) => other.to_string(),
    }
}

fn named(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(v) => v.to_string(),
        Unexpected::Unsigned(v) => v.to_string(),
        Unexpected::Signed(v) => v.to_string(),
        Unexpected::Float(v) => v.to_string(),
        Unexpected::Str(v) => format!("{:?}", brief(v)),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "an object".into(),
        other => other.to_string(),
    }
}

/// Decodes one value of the tree.
#[derive(Clone, Copy)]
struct Decoder<'t> {
    tree: &'t Tree,
    id: NodeId,
}

impl<'t> Decoder<'t> {
    fn list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let mut items = Items {
            tree: self.tree,
            ids: Box::new(self.tree.children(self.id)),
        };
        // A visitor of a fixed number of items stops when it has them; what is left then is too much.
        let words = (&visitor as &dyn Expected).to_string();
        let value = visitor.visit_seq(&mut items)?;
        match items.ids.count() {
            0 => Ok(value),
            _ => Err(de::Error::invalid_length(
                self.tree.children(self.id).count(),
                &words.as_str(),
            )),
        }
    }

    fn map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(Entries {
            tree: self.tree,
            ids: Box::new(self.tree.children(self.id)),
            value: None,
        })
    }

    /// Words and names: whatever a plain scalar looks like to YAML, its text counts.
    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let node = self.tree.node(self.id);
        match &node.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Float(_)
                if !node.text.is_empty() =>
            {
                visitor.visit_str(&node.text)
            }
            _ => self.any(visitor),
        }
    }

    fn any<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.tree.node(self.id).value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(*v),
            Value::Unsigned(v) => visitor.visit_u64(*v),
            Value::Signed(v) => visitor.visit_i64(*v),
            Value::Float(v) => visitor.visit_f64(*v),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(_) => self.list(visitor),
            Value::Map(_) => self.map(visitor),
        }
    }

    fn is_null(self) -> bool {
        self.tree.node(self.id).value == Value::Null
    }
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.any(visitor).map_err(|e| e.about(self.id))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.text(visitor).map_err(|e| e.about(self.id))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
        .map_err(|e: DecodeError| e.about(self.id))
    }

    // A key with nothing behind it (`ports:` and all of its lines commented out) is an empty list or object.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_null() {
            self.list(visitor)
        } else {
            self.any(visitor)
        }
        .map_err(|e| e.about(self.id))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_null() {
            self.map(visitor)
        } else {
            self.any(visitor)
        }
        .map_err(|e| e.about(self.id))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.tree.node(self.id).value {
            Value::Null | Value::Map(_) => self.map(visitor),
            // serde would take a list for a struct, field by field: nobody means that.
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.any(visitor),
        }
        .map_err(|e| e.about(self.id))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let node = self.tree.node(self.id);
        let expected = || format!("one of {}", crate::error::Words(variants));
        match &node.value {
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &expected().as_str())),
            Value::Map(_) => Err(de::Error::invalid_type(Unexpected::Map, &expected().as_str())),
            Value::Null => Err(de::Error::invalid_type(Unexpected::Unit, &expected().as_str())),
            _ => {
                let word: StrDeserializer<'_, DecodeError> = node.text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
        }
        .map_err(|e: DecodeError| e.about(self.id))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self).map_err(|e| e.about(self.id))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

/// The items of a list.
struct Items<'t> {
    tree: &'t Tree,
    ids: Box<dyn Iterator<Item = NodeId> + 't>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some(id) = self.ids.next() else {
            return Ok(None);
        };
        seed.deserialize(Decoder { tree: self.tree, id })
            .map(Some)
            .map_err(|e| e.about(id))
    }
}

/// The entries of an object.
struct Entries<'t> {
    tree: &'t Tree,
    ids: Box<dyn Iterator<Item = NodeId> + 't>,
    value: Option<NodeId>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some(id) = self.ids.next() else {
            return Ok(None);
        };
        self.value = Some(id);
        let Step::Key(key, _) = &self.tree.node(id).step else {
            return Ok(None);
        };
        seed.deserialize(Key(key)).map(Some).map_err(|e| DecodeError {
            on_key: true,
            ..e.about(id)
        })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(id) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Decoder { tree: self.tree, id })
            .map_err(|e| e.about(id))
    }
}

/// A key: text, or a number where the map's keys are numbers.
struct Key<'t>(&'t str);

impl<'de> de::Deserializer<'de> for Key<'_> {
    type Error = DecodeError;
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.0)
    }
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => visitor.visit_str(self.0),
        }
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
