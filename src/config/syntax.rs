//! From text to a tree of nodes that know their places; the only part that drives the YAML parser.
//!
//! The tree is what [`super::shape`] checks, so that every unknown key and every wrong type of a
//! file is reported at once, where serde would stop at the first. Files are untrusted: depth,
//! nodes, aliases and sizes are bounded, so that an alias bomb costs a message and no memory.

use std::fmt;
use std::net::Ipv6Addr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error, MessageFormatter, Options, UserMessageFormatter};

use super::diagnostic::{Diagnostic, line_of};
use super::place::{Place, Placed};
use super::raw::RawConfig;

/// What YAML can say, with places.
#[derive(Clone, Debug)]
pub enum Node {
    /// Nothing: an empty value, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float,
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Placed<Node>>),
    /// A mapping, with repeated keys.
    Map(Vec<(Placed<String>, Placed<Node>)>),
}

/// Reads a text into its tree.
pub fn tree(text: &str) -> Result<Placed<Node>, Diagnostic> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(text, &error))
}

/// Reads a text into the file's shape; after [`super::shape::check`] it rarely fails.
pub fn raw(text: &str) -> Result<RawConfig, Diagnostic> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(text, &error))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // 100 000 endpoints, each a mapping with places, fit ten times.
            max_nodes: 5_000_000,
            max_events: 10_000_000,
            // Deepest of a real file: routes > split > filters > headers, about 12.
            max_depth: 32,
            max_documents: 2,
            max_anchors: 10_000,
            max_aliases: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 8,
        },
        // Repeated keys reach the tree, where all of them are reported, each with the first place.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        merge_keys: MergeKeyPolicy::Merge,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// What is said when a bound is passed.
const TOO_MUCH: &str = "the file is too large, too deep or has too many aliases";

/// A parser's error in our words, with what to try.
fn explain(text: &str, error: &Error) -> Diagnostic {
    let place = error.location().and_then(Place::of).unwrap_or(Place::START);
    let error = match error.without_snippet() {
        Error::AliasError { error, .. } => error.without_snippet(),
        other => other,
    };
    let message = match error {
        Error::UnknownAnchor { .. } => {
            "a value that begins with * is a YAML alias, and there is no such anchor".to_owned()
        }
        Error::MultipleDocuments { .. } => "the file has several YAML documents; one is read".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias leads back to itself".to_owned(),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::Budget { .. } => TOO_MUCH.to_owned(),
        other => UserMessageFormatter.format_message(other).into_owned(),
    };
    let message = match message.as_str() {
        "mapping values are not allowed in this context" => {
            "no mapping can begin here: is it indented too far, or does a value with \": \" need quotes?"
                .to_owned()
        }
        "recursion limit exceeded" => TOO_MUCH.to_owned(),
        "invalid indentation in multiline quoted scalar" => {
            "a quoted text before this does not end".to_owned()
        }
        _ => message,
    };
    let hint = match error {
        Error::RecursiveReferencesRequireWeakTypes { .. } => None,
        _ if message == TOO_MUCH => None,
        // An alias that was not meant as one, or what the scanner stumbled over.
        _ => quoting_hint(text, place),
    };
    Diagnostic::error(place, message).maybe_hint(hint)
}

/// What to quote, when an address or a pattern stands there without quotes.
fn quoting_hint(text: &str, place: Place) -> Option<String> {
    let line = line_of(text, place.line);
    let at: String = line
        .chars()
        .skip((place.column as usize).saturating_sub(1))
        .collect();
    let quote = |word: &str| Some(format!("write it in quotes: \"{word}\""));
    if at.starts_with(['*', '@', '`', '%', '&', '!', '|', '>']) {
        let word = at.split([' ', ',', ']', '}']).next()?;
        return quote(word);
    }
    let (before, rest) = line.split_once('[')?;
    let (inside, port) = rest.split_once("]:")?;
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let bare = !before.trim_end().ends_with(['"', '\'']);
    (bare && inside.parse::<Ipv6Addr>().is_ok())
        .then(|| quote(&format!("[{inside}]:{port}")))
        .flatten()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Float)
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}
