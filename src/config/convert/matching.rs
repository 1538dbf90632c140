//! Matches: conditions on path, method, fields and query.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, Method};

use super::Pass;
use super::filter;
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed, PlacedMap, TextOr};
use crate::config::raw::route::{RawMatch, RawValueMatch};
use crate::model::{HeaderMatch, Match, PathMatch, QueryMatch, StringMatch};

/// The conditions of one match.
pub fn one_match(pass: &mut Pass, raw: &RawMatch) -> Match {
    let given: Vec<&Placed<String>> = [&raw.prefix, &raw.exact, &raw.regex]
        .into_iter()
        .flatten()
        .collect();
    if let [first, second, ..] = given.as_slice() {
        pass.say(
            Diagnostic::error(second.place, "a match has one condition on the path")
                .hint("use matches for several")
                .related(first.place, "first here"),
        );
    }
    Match {
        path: path(pass, raw),
        method: raw.method.as_ref().and_then(|text| method(pass, text)),
        headers: headers(pass, raw.headers.as_ref()),
        queries: queries(pass, raw.query.as_ref()),
    }
}

fn path(pass: &mut Pass, raw: &RawMatch) -> PathMatch {
    if let Some(text) = &raw.exact {
        filter::check_path(pass, text);
        return PathMatch::Exact(Arc::from(text.text()));
    }
    if let Some(text) = &raw.prefix {
        filter::check_path(pass, text);
        return PathMatch::prefix(text.text());
    }
    match &raw.regex {
        None => PathMatch::default(),
        Some(text) => PathMatch::regex(text.text()).unwrap_or_else(|error| {
            bad_regex(pass, text, &error);
            PathMatch::default()
        }),
    }
}

fn bad_regex(pass: &mut Pass, text: &Placed<String>, error: &regex::Error) {
    let reason = match error {
        regex::Error::CompiledTooBig(_) => "it is larger than 1 MiB when compiled".to_owned(),
        // The parser's last line says what is wrong; those before it draw the pattern.
        other => {
            let all = other.to_string();
            let last = all.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        }
    };
    pass.error(
        text.place,
        format!("{:?} is not a regular expression: {reason}", text.text()),
    );
}

fn method(pass: &mut Pass, text: &Placed<String>) -> Option<Method> {
    const USUAL: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
    ];
    let upper = text.text().to_ascii_uppercase();
    let meant = (upper != text.text() && USUAL.contains(&upper.as_str())).then_some(upper);
    match (Method::from_bytes(text.text().as_bytes()), meant) {
        (Ok(method), None) => Some(method),
        (_, meant) => {
            pass.say(
                Diagnostic::error(text.place, format!("{:?} is not a method", text.text())).maybe_hint(
                    meant.map(|meant| format!("methods are case-sensitive: did you mean {meant}?")),
                ),
            );
            None
        }
    }
}

type ValueMatches = PlacedMap<Placed<TextOr<RawValueMatch>>>;

fn headers(pass: &mut Pass, raw: Option<&ValueMatches>) -> Vec<HeaderMatch> {
    let mut out: Vec<HeaderMatch> = Vec::new();
    let mut places: HashMap<HeaderName, Place> = HashMap::new();
    for (name, value) in raw.iter().flat_map(|map| &map.0) {
        let value = value_match(pass, value);
        let Some(header) = filter::header_name(pass, name) else {
            continue;
        };
        if let Some(first) = places.insert(header.clone(), name.place) {
            filter::header_twice(pass, name, first);
        }
        out.push(HeaderMatch { name: header, value });
    }
    out
}

fn queries(pass: &mut Pass, raw: Option<&ValueMatches>) -> Vec<QueryMatch> {
    raw.iter()
        .flat_map(|map| &map.0)
        .map(|(name, value)| QueryMatch {
            name: Arc::from(name.text()),
            value: value_match(pass, value),
        })
        .collect()
}

fn value_match(pass: &mut Pass, raw: &Placed<TextOr<RawValueMatch>>) -> StringMatch {
    match &raw.value {
        TextOr::Text(text) => StringMatch::Exact(Arc::from(text.as_str())),
        TextOr::Map(RawValueMatch::Present(present)) => {
            if !present.value {
                pass.error(present.place, "present can only be true");
            }
            StringMatch::Present
        }
        TextOr::Map(RawValueMatch::Regex(text)) => {
            match regex::RegexBuilder::new(text.text()).size_limit(1 << 20).build() {
                Ok(regex) => StringMatch::Regex(regex),
                Err(error) => {
                    bad_regex(pass, text, &error);
                    StringMatch::Present
                }
            }
        }
    }
}
