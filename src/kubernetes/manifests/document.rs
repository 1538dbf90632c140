//! The text of a file as objects: split into documents, each read alone.
//!
//! A line that begins with `---` ends a document wherever it stands (YAML 1.2 §9.1.2 forbids it within
//! one), so a broken document does not take its neighbours along.

use std::marker::PhantomData;

use serde::de::DeserializeSeed;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::kubernetes::objects::{Key, Kind, Object};

/// Parser events and nodes of one document; a list of 16 MiB has about that many.
const MAX_NODES: usize = 4_000_000;

/// Problems kept of one file.
const MAX_PROBLEMS: usize = 64;

/// What is in a file.
#[derive(Debug, Default, PartialEq)]
pub struct Parsed {
    /// The objects with the lines where they begin.
    pub objects: Vec<(Key, Object, u32)>,
    /// What is no object that is read.
    pub problems: Vec<Problem>,
    /// Whether a document is broken, so that what it holds is not known.
    pub is_broken: bool,
}

/// Something in a file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong.
    pub reason: String,
}

/// Reads a file's text.
pub fn parse(text: &str, is_json: bool) -> Parsed {
    let mut parsed = Parsed::default();
    if is_json {
        if !text.trim().is_empty() {
            parsed.document(text, 1, Format::Json);
        }
    } else {
        for (line, document) in split(text.strip_prefix('\u{feff}').unwrap_or(text)) {
            if let Some((skipped, document)) = skip_blank(document) {
                parsed.document(document, line + skipped, Format::Yaml);
            }
        }
    }
    parsed
}

/// The documents of a YAML stream with the lines where they begin.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (line, content) in (1u32..).zip(text.split_inclusive('\n')) {
        let is_end = ["---", "..."].iter().any(|marker| {
            content
                .strip_prefix(marker)
                .is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace))
        });
        if is_end {
            documents.push((start_line, &text[start..offset]));
            start = offset + 3; // what follows the marker on its line belongs to the next document
            start_line = line;
        }
        offset += content.len();
    }
    documents.push((start_line, &text[start..]));
    documents
}

/// A document from its first line that is neither a comment nor a directive, and how many lines go before.
fn skip_blank(document: &str) -> Option<(u32, &str)> {
    let mut offset = 0;
    for (skipped, line) in (0u32..).zip(document.split_inclusive('\n')) {
        let content = line.trim_start();
        if !(content.is_empty() || content.starts_with('#') || content.starts_with('%')) {
            return Some((skipped, &document[offset..]));
        }
        offset += line.len();
    }
    None
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Yaml,
}

/// What says how the rest is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Option<Vec<Value>>,
}

impl Parsed {
    fn document(&mut self, text: &str, line: u32, format: Format) {
        let head = match format {
            Format::Yaml => glance(text).map_or_else(|| read(text, format, PhantomData::<Head>), Ok),
            Format::Json => read(text, format, PhantomData::<Head>),
        };
        let head = match head {
            Ok(head) => head,
            Err(error) => return self.broken(line, error),
        };
        if let Some(kind) = Kind::of(&head.api_version, &head.kind) {
            match read(text, format, OfKind(kind)) {
                Ok(object) => self.object(object, line),
                Err(error) => self.broken(line, (error.0, format!("{}: {}", head.kind, error.1))),
            }
        } else if let Some(item_kind) = head.kind.strip_suffix("List") {
            match read(text, format, PhantomData::<List>) {
                Ok(list) => self.list(list, &head.api_version, item_kind, line),
                Err(error) => self.broken(line, error),
            }
        } else {
            self.unknown(&head.api_version, &head.kind, line, "");
        }
    }

    /// The items of a list; those of a `List` say their kind, those of a `ServiceList` need not.
    fn list(&mut self, list: List, api_version: &str, item_kind: &str, line: u32) {
        for (at, item) in list.items.into_iter().flatten().enumerate() {
            let text = |name: &str, default: &str| {
                item.get(name)
                    .and_then(Value::as_str)
                    .unwrap_or(default)
                    .to_owned()
            };
            let (api_version, kind) = (text("apiVersion", api_version), text("kind", item_kind));
            match Kind::of(&api_version, &kind) {
                Some(known) => match Object::decode(known, item) {
                    Ok(object) => self.object(object, line),
                    Err(error) => self.broken(line, (1, format!("items[{at}]: {kind}: {error}"))),
                },
                None => self.unknown(&api_version, &kind, line, &format!("items[{at}]: ")),
            }
        }
    }

    fn object(&mut self, object: Object, line: u32) {
        self.objects.push((object.key(), object, line));
    }

    fn unknown(&mut self, api_version: &str, kind: &str, line: u32, place: &str) {
        let reason = if kind.is_empty() || api_version.is_empty() {
            format!("{place}it is no object: it needs apiVersion and kind")
        } else {
            format!("{place}{api_version} {kind} is not read; it is left out")
        };
        self.problem(line, reason);
    }

    fn broken(&mut self, line: u32, (below, reason): (u32, String)) {
        self.is_broken = true;
        self.problem(line.saturating_add(below).saturating_sub(1), reason);
    }

    fn problem(&mut self, line: u32, reason: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { line, reason });
        }
    }
}

/// The head of an ordinary document, by its lines `apiVersion:` and `kind:` alone: saves reading it twice.
///
/// Only what is a known kind or a list counts; everything else is read properly.
fn glance(text: &str) -> Option<Head> {
    let first = text
        .lines()
        .find(|line| !line.is_empty() && !line.starts_with(['#', ' ', '\t', '\r']))?;
    if !first.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
        return None; // braces, quotes, tags: not ordinary
    }
    let (mut api_version, mut kind) = (None, None);
    for line in text.lines() {
        let slot = match line.split_once(": ") {
            Some(("apiVersion", value)) => (&mut api_version, value),
            Some(("kind", value)) => (&mut kind, value),
            _ => continue,
        };
        let value = slot.1.trim().trim_matches(['"', '\'']);
        if slot.0.replace(value).is_some() {
            return None; // twice: an error that the parser explains
        }
    }
    let head = Head {
        api_version: api_version?.to_owned(),
        kind: kind?.to_owned(),
    };
    Kind::of(&head.api_version, &head.kind).is_some().then_some(head)
}

/// Reads an object of a kind.
struct OfKind(Kind);

impl<'de> DeserializeSeed<'de> for OfKind {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Object, D::Error> {
        Object::decode(self.0, input)
    }
}

/// Reads one document; an error comes with its line within the document.
fn read<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    format: Format,
    seed: S,
) -> Result<S::Value, (u32, String)> {
    match format {
        Format::Json => {
            let mut input = serde_json::Deserializer::from_str(text);
            let value = seed
                .deserialize(&mut input)
                .and_then(|value| input.end().map(|()| value));
            value.map_err(|error| (u32::try_from(error.line()).unwrap_or(1), error.to_string()))
        }
        Format::Yaml => {
            let options = serde_saphyr::options! {
                with_snippet: false,
                strict_booleans: true, // a port or an object may be called `n`
                budget: serde_saphyr::budget! {
                    max_events: 2 * MAX_NODES,
                    max_nodes: MAX_NODES,
                },
            };
            let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |input| {
                seed.deserialize(input)
            });
            value.map_err(|error| {
                let message = error.to_string();
                let Some(place) = error.location() else {
                    return (1, message);
                };
                let (line, column) = (place.line(), place.column());
                let bare = message.strip_suffix(&format!(" at line {line}, column {column}"));
                let reason = format!("column {column}: {}", bare.unwrap_or(&message));
                (u32::try_from(line).unwrap_or(1), reason)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";

    fn keys(parsed: &Parsed) -> Vec<String> {
        parsed
            .objects
            .iter()
            .map(|(key, _, line)| format!("{key} {line}"))
            .collect()
    }

    fn problems(parsed: &Parsed) -> Vec<String> {
        parsed
            .problems
            .iter()
            .map(|problem| format!("{}: {}", problem.line, problem.reason))
            .collect()
    }

    #[test]
    fn documents_begin_after_each_marker() {
        for (text, documents) in [
            ("", vec![(1, "")]),
            ("a\n---\nb\n", vec![(1, "a\n"), (2, "\nb\n")]),
            (
                "--- # c\na\n...\n---\nb",
                vec![(1, ""), (1, " # c\na\n"), (3, "\n"), (4, "\nb")],
            ),
            (
                "a: |\n  ---\n  x\n--- {b: 1}",
                vec![(1, "a: |\n  ---\n  x\n"), (4, " {b: 1}")],
            ),
            ("a\r\n---\r\nb", vec![(1, "a\r\n"), (2, "\r\nb")]),
            ("----\na", vec![(1, "----\na")]),
        ] {
            assert_eq!(split(text), documents, "{text:?}");
        }
    }

    #[test]
    fn every_document_stands_alone() {
        let text = format!(
            "# first\n---\n{SERVICE}---\napiVersion: v1\nkind: Service\nmetadata: {{name: b}}\nspec:\n  ports:\n  - port: \
             99999\n---\napiVersion: v1\nkind: Service\nmetadata: [\n---\n{{\"kind\": \"Service\", \"apiVersion\": \"v1\", \
             \"metadata\": {{\"name\": \"c\"}}}}\n---\napiVersion: apps/v1\nkind: Deployment\n---\nhello: 1\n"
        );
        let parsed = parse(&text, false);
        assert_eq!(keys(&parsed), ["Service default/a 3", "Service default/c 18"]);
        assert!(parsed.is_broken);
        let problems = problems(&parsed);
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert_eq!(
            problems[0],
            "12: Service: column 11: 99999 is no port: 1 to 65535"
        );
        assert!(problems[1].starts_with("16: "), "{problems:#?}");
        assert_eq!(problems[2], "20: apps/v1 Deployment is not read; it is left out");
        assert_eq!(problems[3], "23: it is no object: it needs apiVersion and kind");
    }

    #[test]
    fn what_is_only_unknown_is_not_broken() {
        let parsed = parse(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n",
            false,
        );
        assert!(!parsed.is_broken && parsed.objects.is_empty());
        assert_eq!(
            problems(&parsed),
            ["1: apps/v1 Deployment is not read; it is left out"]
        );
        let parsed = parse("# nothing\n---\n# here\n", false);
        assert_eq!(parsed, Parsed::default());
    }

    #[test]
    fn lists_give_their_items() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: \
                    v1, kind: Pod, metadata: {name: p}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n";
        let parsed = parse(text, false);
        assert_eq!(keys(&parsed), ["Service default/a 1", "Namespace n 1"]);
        assert_eq!(
            problems(&parsed),
            ["1: items[1]: v1 Pod is not read; it is left out"]
        );
        let json = r#"{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRouteList", "items": [{"metadata": {"name": "r"}}]}"#;
        assert_eq!(keys(&parse(json, true)), ["HTTPRoute default/r 1"]);
        assert_eq!(parse("{", true).problems.len(), 1);
    }

    #[test]
    fn a_glance_agrees_with_the_parser() {
        for (text, is_glanced) in [
            (SERVICE, true),
            ("# c\nkind: \"Service\"\napiVersion: 'v1'\n", true),
            ("metadata:\n  kind: x\nkind: Service\napiVersion: v1", true),
            ("kind: Service # c\napiVersion: v1", false),
            ("{kind: Service,\napiVersion: v1}", false),
            ("kind: Service\nkind: Service\napiVersion: v1", false),
        ] {
            assert_eq!(glance(text).is_some(), is_glanced, "{text:?}");
        }
    }

    #[test]
    fn a_document_of_a_thousand_endpoints_fits_the_budget() {
        let mut text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {name: s, labels: \
                        {kubernetes.io/service-name: a}}\nports: [{port: 80}]\nendpoints:\n"
            .to_owned();
        for nth in 0..1000 {
            text += &format!(
                "- addresses: [\"10.0.{}.{}\"]\n  conditions: {{ready: true, serving: true, terminating: false}}\n  nodeName: n{nth}\n  \
                 targetRef: {{kind: Pod, name: a-{nth}, namespace: default, uid: u{nth}}}\n  zone: z\n",
                nth / 250,
                nth % 250
            );
        }
        let many = "1,".repeat(300_000);
        let list = format!("apiVersion: v1\nkind: List\nx: [{many}]\nitems: []\n");
        assert_eq!(parse(&text, false).problems, []);
        assert_eq!(parse(&list, false).problems, []);
    }

    proptest! {
        #[test]
        fn any_text_is_objects_or_problems(text in "[ -~\n]{0,200}", is_json in any::<bool>()) {
            let _ = parse(&text, is_json);
        }

        /// Good documents with pieces cut out, doubled or exchanged.
        #[test]
        fn damaged_documents_are_objects_or_problems(
            cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..40), 1..6),
        ) {
            let mut text = include_str!("../../../deploy/examples/http-route.yaml").to_owned();
            for (from, to, length) in cuts {
                let piece: String = text.chars().skip(from.index(text.len())).take(length).collect();
                let at = text.char_indices().map(|(at, _)| at).nth(to.index(text.chars().count())).unwrap_or(0);
                let end = text.char_indices().map(|(at, _)| at).find(|end| *end >= at + length).unwrap_or(text.len());
                text.replace_range(at..end, &piece);
            }
            let parsed = parse(&text, false);
            let mut index = crate::kubernetes::Index::new("test".into(), crate::kubernetes::Settings::default());
            for (_, object, _) in parsed.objects {
                index.apply(object);
            }
            let _ = index.take_delta();
        }
    }
}
