//! A YAML document as a tree of values that know their line and column.
//!
//! Decoding goes through this tree, not straight from the parser, so that one pass can report every wrong value
//! and not only the first, and so that checks made on the finished spec can still say where a key was written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::MergeKeyPolicy;
use serde_saphyr::{Spanned, options};

use crate::error::{ConfigError, Fault, Place, brief};

/// Index of a value in its [`Tree`].
pub(crate) type NodeId = usize;

/// What leads from a container to one of its values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// The whole document.
    Root,
    /// A mapping's key, and where it is written.
    Key(String, Place),
    /// A position in a list, from 0.
    Index(usize),
}

/// A value without its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<NodeId>),
    Map(Vec<NodeId>),
}

/// One value of the document.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// A scalar as it is written, so that `access: 100` can mean the name "100".
    pub(crate) text: String,
    pub(crate) place: Place,
    pub(crate) step: Step,
    parent: NodeId,
    /// Left out of decoding, because an error in it is already reported.
    pruned: bool,
}

/// The document.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

/// The root's index: it is pushed first.
pub(crate) const ROOT: NodeId = 0;

impl Tree {
    /// Parses one YAML 1.2 document.
    pub(crate) fn parse(text: &str) -> Result<Tree, Box<ConfigError>> {
        let options = options! {
            // Ten thousand bridge domains with their remotes are a big but honest configuration.
            budget: serde_saphyr::budget! { max_events: 16_000_000, max_nodes: 8_000_000, max_documents: 2 },
            merge_keys: MergeKeyPolicy::Merge,
            // `busy-poll: on` is a word here, as YAML 1.2 says.
            strict_booleans: true,
            emit_comments: false,
            with_snippet: false,
        };
        let root: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(refused)?;
        let mut tree = Tree { nodes: Vec::new() };
        tree.add(text, root, Step::Root, ROOT);
        Ok(tree)
    }

    fn add(&mut self, source: &str, raw: Spanned<Raw>, step: Step, parent: NodeId) -> NodeId {
        let id = self.nodes.len();
        let place = place(&raw.referenced);
        let written = source_of(source, &raw);
        self.nodes.push(Node {
            value: Value::Null,
            text: written,
            place,
            step,
            parent,
            pruned: false,
        });
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(v) => Value::Bool(v),
            Raw::Unsigned(v) => Value::Unsigned(v),
            Raw::Signed(v) => Value::Signed(v),
            Raw::Float(v) => Value::Float(v),
            Raw::Text(v) => {
                self.nodes[id].text.clone_from(&v);
                Value::Text(v)
            }
            Raw::List(items) => Value::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(i, item)| self.add(source, item, Step::Index(i), id))
                    .collect(),
            ),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let at = place_of_key(&key);
                        self.add(source, value, Step::Key(key.value, at), id)
                    })
                    .collect(),
            ),
        };
        self.nodes[id].value = value;
        id
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Whether the document has no key at all: it is empty, or all of it is comments.
    pub(crate) fn is_blank(&self) -> bool {
        match &self.nodes[ROOT].value {
            Value::Null => true,
            Value::Map(ids) => ids.is_empty(),
            _ => false,
        }
    }

    /// The document's `version` and where it is written, when there is one and it is a number.
    pub(crate) fn version(&self) -> Option<(u64, Place)> {
        self.children(ROOT)
            .find_map(|id| match (&self.nodes[id].step, &self.nodes[id].value) {
                (Step::Key(key, place), Value::Unsigned(version)) if key == "version" => {
                    Some((*version, *place))
                }
                _ => None,
            })
    }

    /// The children of a container that decoding still looks at.
    pub(crate) fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let ids: &[NodeId] = match &self.nodes[id].value {
            Value::List(ids) | Value::Map(ids) => ids,
            _ => &[],
        };
        ids.iter().copied().filter(|&child| !self.nodes[child].pruned)
    }

    /// Leaves a value out of decoding. False for the root, which nothing can do without.
    pub(crate) fn prune(&mut self, id: NodeId) -> bool {
        self.nodes[id].pruned = true;
        id != ROOT
    }

    /// Whether decoding was made to leave out something in this container.
    pub(crate) fn has_pruned_child(&self, id: NodeId) -> bool {
        match &self.nodes[id].value {
            Value::List(ids) | Value::Map(ids) => ids.iter().any(|&child| self.nodes[child].pruned),
            _ => false,
        }
    }

    /// Whether something in this section, or all of it, was left out of decoding.
    pub(crate) fn has_pruned_in(&self, section: &str) -> bool {
        let Value::Map(ids) = &self.nodes[ROOT].value else {
            return false;
        };
        let mut named = ids
            .iter()
            .filter(|&&id| matches!(&self.nodes[id].step, Step::Key(key, _) if key == section));
        named.any(|&id| self.nodes[id].pruned || self.has_pruned_child(id))
    }

    /// The path of a value, such as `ports.up0.trunk[2]`; empty for the document.
    pub(crate) fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut at = id;
        while at != ROOT {
            steps.push(&self.nodes[at].step);
            at = self.nodes[at].parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key, _) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(&brief(key));
                }
                Step::Index(i) => path.push_str(&format!("[{i}]")),
            }
        }
        path
    }

    /// Whether something was left out of decoding in a list that this path goes through, or in one of its items.
    pub(crate) fn has_pruned_list(&self, path: &[crate::path::Step]) -> bool {
        let mut at = ROOT;
        for step in path {
            if let Value::List(items) = &self.nodes[at].value
                && (self.has_pruned_child(at) || items.iter().any(|&item| self.has_pruned_child(item)))
            {
                return true;
            }
            match self.child(at, step) {
                Some(child) => at = child,
                None => return false,
            }
        }
        false
    }

    fn child(&self, at: NodeId, step: &crate::path::Step) -> Option<NodeId> {
        self.children(at)
            .find(|&child| match (&self.nodes[child].step, step) {
                (Step::Key(key, _), crate::path::Step::Key(wanted)) => key == wanted,
                (Step::Index(i), crate::path::Step::Index(wanted)) => i == wanted,
                _ => false,
            })
    }

    /// Where the value of this path is written: its key, or the nearest container that the document has.
    pub(crate) fn locate(&self, path: &[crate::path::Step]) -> Place {
        let mut at = ROOT;
        for step in path {
            match self.child(at, step) {
                Some(child) => at = child,
                None => break,
            }
        }
        match &self.nodes[at].step {
            Step::Key(_, place) => *place,
            _ => self.nodes[at].place,
        }
    }
}

fn place(location: &serde_saphyr::Location) -> Place {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        line: small(location.line()),
        column: small(location.column()),
    }
}

fn place_of_key(key: &Spanned<String>) -> Place {
    place(&key.referenced)
}

/// The source text of a plain scalar (`0x10`, `1_000`); empty where the parser gives no byte range.
fn source_of(source: &str, raw: &Spanned<Raw>) -> String {
    if matches!(raw.value, Raw::List(_) | Raw::Map(_)) {
        return String::new();
    }
    let span = raw.defined.span();
    let range = (span.byte_offset(), span.byte_len());
    let (Some(start), Some(length)) = range else {
        return String::new();
    };
    let (Ok(start), Ok(length)) = (usize::try_from(start), usize::try_from(length)) else {
        return String::new();
    };
    source
        .get(start..start.saturating_add(length))
        .unwrap_or_default()
        .to_string()
}

/// A syntax error in our words.
fn refused(error: serde_saphyr::Error) -> Box<ConfigError> {
    let place = error.location().map(|location| place(&location));
    let fault = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => Fault::DuplicateKey {
            key: brief(key.as_deref().unwrap_or_default()).into_owned(),
        },
        serde_saphyr::Error::MultipleDocuments { .. } => Fault::SeveralDocuments,
        other => {
            let text = other.to_string();
            // The place is shown in front, like everywhere else.
            let reason = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(reason, _)| reason);
            Fault::Syntax {
                reason: reason.to_string(),
            }
        }
    };
    Box::new(ConfigError {
        place,
        path: String::new(),
        fault,
    })
}

/// A value as the parser gives it.
enum Raw {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        struct RawVisitor;
        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
                Ok(Raw::Unsigned(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
                Ok(u64::try_from(v).map_or(Raw::Signed(v), Raw::Unsigned))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
                Ok(Raw::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
                Ok(Raw::Text(v.to_string()))
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Raw, D::Error> {
                Raw::deserialize(d)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }
        deserializer.deserialize_any(RawVisitor)
    }
}
