//! The conditions of a match beside the path: method, fields, parameters of the query. Nothing is
//! copied or decoded, except a repeated field that meets a regular expression.

use std::cell::RefCell;

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::RequestHead;
use crate::model::{HeaderMatch, Match, QueryMatch, StringMatch};

/// Whether everything but the path holds.
pub(super) fn hold(conditions: &Match, head: &RequestHead<'_>) -> bool {
    conditions
        .method
        .as_ref()
        .is_none_or(|method| method == head.method)
        && conditions
            .headers
            .iter()
            .all(|header| field_holds(header, head.headers))
        && conditions
            .queries
            .iter()
            .all(|query| parameter_holds(query, head.query))
}

/// Several fields of one name are one value, joined by `,` (RFC 9110 §5.3), cookies by `; ` (RFC 9113
/// §8.2.3). A value that is not UTF-8 is there, but equal to nothing.
fn field_holds(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&condition.name).iter();
    let Some(first) = values.next() else {
        return false;
    };
    if matches!(condition.value, StringMatch::Present) {
        return true;
    }
    if values.next().is_none() {
        return str::from_utf8(first.as_bytes()).is_ok_and(|value| condition.value.matches(value));
    }
    let separator = if condition.name == COOKIE { "; " } else { "," };
    joined_holds(
        &condition.value,
        headers.get_all(&condition.name).iter(),
        separator,
    )
}

fn joined_holds<'h>(
    condition: &StringMatch,
    values: impl Iterator<Item = &'h HeaderValue>,
    separator: &str,
) -> bool {
    thread_local! {
        // Grows to the longest joined field that was ever compared: at most a listener's head limit.
        static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    JOINED.with_borrow_mut(|joined| {
        joined.clear();
        for (index, value) in values.enumerate() {
            if index > 0 {
                joined.extend_from_slice(separator.as_bytes());
            }
            joined.extend_from_slice(value.as_bytes());
        }
        str::from_utf8(joined).is_ok_and(|value| condition.matches(value))
    })
}

/// The first parameter of the name counts; one without `=` has the empty value. Compared as sent.
fn parameter_holds(condition: &QueryMatch, query: Option<&str>) -> bool {
    query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == &*condition.name)
        .is_some_and(|(_, value)| condition.value.matches(value))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Method};

    use super::*;

    fn regex(text: &str) -> StringMatch {
        StringMatch::Regex(regex::Regex::new(text).unwrap())
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.into())
    }

    #[test]
    fn fields() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("one", &b"1"[..]),
            ("two", b"a"),
            ("two", b"b"),
            ("cookie", b"a=1"),
            ("cookie", b"b=2"),
            ("bytes", b"\xff"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        for (name, value, expected) in [
            ("one", exact("1"), true),
            ("one", exact("2"), false),
            ("one", exact(""), false),
            ("one", regex("^[0-9]$"), true),
            ("one", StringMatch::Present, true),
            ("none", StringMatch::Present, false),
            ("none", exact(""), false),
            ("two", exact("a,b"), true),
            ("two", exact("a"), false),
            ("two", regex("^a,b$"), true),
            ("two", StringMatch::Present, true),
            ("cookie", exact("a=1; b=2"), true),
            ("bytes", StringMatch::Present, true),
            ("bytes", regex("."), false),
        ] {
            let condition = HeaderMatch {
                name: HeaderName::from_static(name),
                value,
            };
            assert_eq!(field_holds(&condition, &headers), expected, "{condition:?}");
        }
    }

    #[test]
    fn parameters() {
        for (query, name, value, expected) in [
            (Some("a=1&b=2"), "a", exact("1"), true),
            (Some("a=1&b=2"), "b", exact("2"), true),
            (Some("a=1&a=2"), "a", exact("2"), false),
            (Some("a=1&a=2"), "a", exact("1"), true),
            (Some("a"), "a", exact(""), true),
            (Some("a=b=c"), "a", exact("b=c"), true),
            (Some("aa=1"), "a", StringMatch::Present, false),
            (Some(""), "a", StringMatch::Present, false),
            (None, "a", StringMatch::Present, false),
            (Some("a=%31"), "a", exact("1"), false),
            (Some("x&a=77"), "a", regex("^7+$"), true),
        ] {
            let condition = QueryMatch {
                name: name.into(),
                value,
            };
            assert_eq!(
                parameter_holds(&condition, query),
                expected,
                "{query:?} {condition:?}"
            );
        }
    }

    #[test]
    fn all_of_them_must_hold() {
        let conditions = Match {
            method: Some(Method::POST),
            queries: vec![QueryMatch {
                name: "a".into(),
                value: StringMatch::Present,
            }],
            ..Match::default()
        };
        let headers = HeaderMap::new();
        for (method, query, expected) in [
            (Method::POST, Some("a"), true),
            (Method::GET, Some("a"), false),
            (Method::POST, None, false),
        ] {
            let head = RequestHead {
                method: &method,
                host: "",
                path: "/",
                query,
                headers: &headers,
            };
            assert_eq!(hold(&conditions, &head), expected, "{method} {query:?}");
        }
    }
}
