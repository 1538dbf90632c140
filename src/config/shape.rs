//! Checks a tree of nodes against the JSON schema: every unknown or repeated key, every wrong type
//! and every unknown word of a file at once, each with its place and a suggestion.
//!
//! Only what our own schema uses is understood: `$ref`, `anyOf`/`oneOf`/`allOf`, `type`, `enum`,
//! `const`, `properties`, `required`, `additionalProperties`, `items`, `minimum`, `maximum`.
//! Patterns are for editors; texts are read by [`super::units`], which explains better.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::diagnostic::{Diagnostic, Findings, suggestion, text_at};
use super::place::{Place, Placed};
use super::syntax::Node;

/// What is wrong with the shape of a tree, the text of which is given for showing values.
pub fn check(text: &str, tree: &Placed<Node>, schema: &Value) -> Vec<Diagnostic> {
    let mut check = Check {
        text,
        schema,
        found: Findings::default(),
    };
    check.node(tree, schema, "the file");
    check.found.into_items()
}

/// Words of other products for our keys.
const OTHER_WORDS: [(&str, &str); 23] = [
    ("host", "hostname"),
    ("address", "to"),
    ("bind", "address"),
    ("upstream", "to"),
    ("upstreams", "backends"),
    ("clusters", "backends"),
    ("services", "backends"),
    ("backend", "to"),
    ("servers", "endpoints"),
    ("targets", "endpoints"),
    ("hosts", "hostnames"),
    ("host", "hostnames"),
    ("domains", "hostnames"),
    ("path", "prefix"),
    ("path_prefix", "prefix"),
    ("timeout", "timeouts"),
    ("retries", "retry"),
    ("health_check", "check"),
    ("healthcheck", "check"),
    ("health", "check"),
    ("outlier_detection", "ejection"),
    ("load_balancing", "balance"),
    ("weighted", "split"),
];

/// How an entry of a list is called.
const ENTRY_OF: &str = "an entry of ";

struct Check<'a> {
    text: &'a str,
    schema: &'a Value,
    found: Findings,
}

type Alternative<'a> = &'a Map<String, Value>;

impl<'a> Check<'a> {
    fn node(&mut self, node: &Placed<Node>, schema: &'a Value, name: &str) {
        let mut alternatives = Vec::new();
        self.alternatives(schema, &mut alternatives);
        match &node.value {
            Node::Map(entries) => self.map(
                entries,
                node.place,
                &of_type(&alternatives, "object"),
                &alternatives,
                name,
            ),
            Node::List(nodes) => match of_type(&alternatives, "array")
                .first()
                .and_then(|list| list.get("items"))
            {
                Some(items) => {
                    for node in nodes {
                        self.node(node, items, &entry_of(name));
                    }
                }
                None => self.wrong_type(node, &alternatives, name),
            },
            Node::Text(text) => self.text(text, node, &alternatives, name),
            Node::Int(number) => match of_type(&alternatives, "integer").first() {
                Some(integer) => self.bounds(*number, node.place, integer, name),
                // A text with units: its reader knows better what is missing.
                None if has_units(&alternatives).is_some() => {}
                None => self.wrong_type(node, &alternatives, name),
            },
            Node::Bool(_) if of_type(&alternatives, "boolean").is_empty() => {
                self.wrong_type(node, &alternatives, name)
            }
            Node::Null if of_type(&alternatives, "null").is_empty() => {
                self.wrong_type(node, &alternatives, name)
            }
            Node::Bool(_) | Node::Null => {}
            Node::Float => self.wrong_type(node, &alternatives, name),
        }
    }

    /// The schemas that a value may follow, with references and choices resolved.
    fn alternatives(&self, schema: &'a Value, into: &mut Vec<Alternative<'a>>) {
        let Value::Object(fields) = schema else { return };
        if let Some(Value::String(reference)) = fields.get("$ref")
            && let Some(schema) = self.schema.pointer(reference.trim_start_matches('#'))
        {
            return self.alternatives(schema, into);
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            if let Some(Value::Array(schemas)) = fields.get(choice) {
                for schema in schemas {
                    self.alternatives(schema, into);
                }
                return;
            }
        }
        into.push(fields);
    }

    fn map(
        &mut self,
        entries: &[(Placed<String>, Placed<Node>)],
        place: Place,
        objects: &[Alternative<'a>],
        alternatives: &[Alternative<'a>],
        name: &str,
    ) {
        self.repeated(entries);
        let Some(first) = objects.first() else {
            return self.wrong(place, "a mapping", alternatives, name, None);
        };
        if let Some(values @ Value::Object(_)) = first.get("additionalProperties") {
            for (key, value) in entries {
                self.node(value, values, &key.value);
            }
            return;
        }
        let properties: Vec<(&str, &Value)> = objects
            .iter()
            .filter_map(|object| object.get("properties")?.as_object())
            .flat_map(|properties| properties.iter().map(|(key, schema)| (key.as_str(), schema)))
            .collect();
        let mut known = Vec::new();
        for (key, value) in entries {
            match properties.iter().find(|(name, _)| *name == key.value) {
                Some((name, schema)) => {
                    known.push(key);
                    self.node(value, schema, name);
                }
                None => self.unknown_key(key, properties.iter().map(|(name, _)| *name)),
            }
        }
        if objects.len() > 1 {
            self.exactly_one(&known, entries.is_empty(), place, &properties, name);
        } else {
            self.required(entries, place, first, name);
        }
    }

    fn repeated(&mut self, entries: &[(Placed<String>, Placed<Node>)]) {
        let mut seen: HashMap<&str, Place> = HashMap::with_capacity(entries.len());
        for (key, _) in entries {
            if let Some(first) = seen.get(key.value.as_str()) {
                self.found.say(
                    Diagnostic::error(key.place, format!("the key {:?} is there twice", key.value))
                        .related(*first, "first here"),
                );
            } else {
                seen.insert(&key.value, key.place);
            }
        }
    }

    fn unknown_key<'k>(&mut self, key: &Placed<String>, known: impl Iterator<Item = &'k str> + Clone) {
        if self.found.is_full() {
            return;
        }
        let foreign = OTHER_WORDS
            .iter()
            .filter(|(other, _)| *other == key.value)
            .map(|(_, ours)| *ours)
            .find(|ours| known.clone().any(|known| known == *ours))
            .map(|ours| format!("did you mean {ours:?}?"));
        let hint = foreign.or_else(|| suggestion(&key.value, known));
        self.found
            .say(Diagnostic::error(key.place, format!("unknown key {:?}", key.value)).maybe_hint(hint));
    }

    /// A value that is one of several kinds, told by its only key.
    fn exactly_one(
        &mut self,
        known: &[&Placed<String>],
        empty: bool,
        place: Place,
        properties: &[(&str, &Value)],
        name: &str,
    ) {
        let all = || {
            properties
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        match known {
            [first, second, ..] => self.found.say(
                Diagnostic::error(
                    second.place,
                    format!("{name} has one key, and {:?} is there already", first.value),
                )
                .maybe_hint(
                    name.starts_with(ENTRY_OF)
                        .then(|| "give each its own entry in the list".to_owned()),
                )
                .related(first.place, "first here"),
            ),
            [] if empty => self.found.say(Diagnostic::error(
                place,
                format!("{name} needs one of: {}", all()),
            )),
            _ => {}
        }
    }

    fn required(
        &mut self,
        entries: &[(Placed<String>, Placed<Node>)],
        place: Place,
        object: Alternative<'a>,
        name: &str,
    ) {
        let required = object.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if !entries.iter().any(|(entry, _)| entry.value == key) {
                self.found
                    .say(Diagnostic::error(place, format!("{key:?} is missing in {name}")));
            }
        }
    }

    fn text(&mut self, text: &str, node: &Placed<Node>, alternatives: &[Alternative<'a>], name: &str) {
        let texts = of_type(alternatives, "string");
        if texts.is_empty() {
            return self.wrong_type(node, alternatives, name);
        }
        let mut words = Vec::new();
        for alternative in texts {
            match (alternative.get("enum"), alternative.get("const")) {
                (Some(Value::Array(some)), _) => words.extend(some.iter().filter_map(Value::as_str)),
                (_, Some(Value::String(one))) => words.push(one.as_str()),
                _ => return,
            }
        }
        if !words.contains(&text) {
            let hint = suggestion(text, words.iter().copied());
            self.found.say(
                Diagnostic::error(node.place, format!("{text:?} is no value of {name}")).maybe_hint(hint),
            );
        }
    }

    fn bounds(&mut self, number: i128, place: Place, integer: Alternative<'a>, name: &str) {
        let bound = |key: &str, size: i128| integer.get(key).and_then(Value::as_i64).map_or(size, i128::from);
        let (low, high) = (bound("minimum", 0), bound("maximum", i128::from(u32::MAX)));
        // A bare number of bytes may be larger; its reader says how large.
        let high = if of_type(&[integer], "string").is_empty() {
            high
        } else {
            i128::from(u64::MAX)
        };
        if !(low..=high).contains(&number) {
            self.found.say(Diagnostic::error(
                place,
                format!("{name} must be from {low} to {high}, not {number}"),
            ));
        }
    }

    fn wrong_type(&mut self, node: &Placed<Node>, alternatives: &[Alternative<'a>], name: &str) {
        let source = text_at(self.text, node.place);
        let wants = |kind| !of_type(alternatives, kind).is_empty();
        let hint = match &node.value {
            Node::Bool(_) | Node::Int(_) | Node::Float if wants("string") => {
                Some(has_units(alternatives).map_or_else(
                    || format!("write it in quotes: \"{source}\""),
                    |usage| format!("write {usage}"),
                ))
            }
            Node::Bool(_) | Node::Int(_) | Node::Float | Node::Text(_) if wants("array") => {
                Some(format!("write a list: [{source}]"))
            }
            Node::Text(text) if wants("integer") && text.parse::<i64>().is_ok() => {
                Some(format!("write it without quotes: {text}"))
            }
            Node::Text(text) if wants("boolean") => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" => Some("did you mean true?".to_owned()),
                "no" | "off" | "false" => Some("did you mean false?".to_owned()),
                _ => None,
            },
            Node::Text(_) | Node::Bool(_) if source == "off" || source == "false" => {
                Some("did you mean {enabled: false}?".to_owned())
            }
            _ => None,
        };
        let found = match &node.value {
            Node::Null => "nothing".to_owned(),
            Node::Map(_) => "a mapping".to_owned(),
            Node::List(_) => "a list".to_owned(),
            Node::Text(_) => "a text".to_owned(),
            Node::Bool(value) => value.to_string(),
            Node::Int(number) => format!("the number {number}"),
            Node::Float => format!("the number {source}"),
        };
        self.wrong(node.place, &found, alternatives, name, hint);
    }

    fn wrong(
        &mut self,
        place: Place,
        found: &str,
        alternatives: &[Alternative<'a>],
        name: &str,
        hint: Option<String>,
    ) {
        const KINDS: [(&str, &str); 5] = [
            ("object", "a mapping"),
            ("array", "a list"),
            ("string", "a text"),
            ("integer", "a whole number"),
            ("boolean", "true or false"),
        ];
        let wanted: Vec<&str> = KINDS
            .iter()
            .filter(|(kind, _)| !of_type(alternatives, kind).is_empty())
            .map(|(_, word)| *word)
            .collect();
        self.found.say(
            Diagnostic::error(
                place,
                format!("{name} must be {}, not {found}", wanted.join(" or ")),
            )
            .maybe_hint(hint),
        );
    }
}

fn of_type<'a>(alternatives: &[Alternative<'a>], kind: &str) -> Vec<Alternative<'a>> {
    let is = |schema: &&Alternative<'a>| match schema.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(some)) => some.iter().any(|one| one == kind),
        _ => false,
    };
    alternatives.iter().filter(is).copied().collect()
}

/// How a text with units is written, if one is wanted: its description, from its second word on.
fn has_units<'a>(alternatives: &[Alternative<'a>]) -> Option<&'a str> {
    of_type(alternatives, "string")
        .iter()
        .find(|text| text.contains_key("pattern"))?
        .get("description")?
        .as_str()
        .map(|usage| usage.trim_end_matches('.'))
}

fn entry_of(name: &str) -> String {
    if name.starts_with(ENTRY_OF) {
        name.to_owned()
    } else {
        format!("{ENTRY_OF}{name}")
    }
}
