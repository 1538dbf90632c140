//! CORS: what a browser is told about scripts of other origins. Pure.
//!
//! A browser asks before it sends what a plain form could not (the *preflight*, an OPTIONS request with
//! `Access-Control-Request-Method`): that is answered here, and no endpoint sees it. Everything else goes to the endpoint, and
//! its response says whether the script may read it. An origin that is not allowed is told nothing, which browsers take
//! for a no. What the endpoint says about it itself is replaced: the rule decides.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::model::{Allowed, Cors};

/// Whether a request is a preflight.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The fields of a preflight's answer.
pub fn preflight(cors: &Cors, request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(origin) = request.get(ORIGIN).filter(|origin| cors.allows(origin)) else {
        headers.insert(VARY, HeaderValue::from_static("origin"));
        return headers;
    };
    allow(cors, origin, &mut headers);
    // What was asked for is given back rather than `*`: that may not stand beside credentials (Fetch, "CORS protocol
    // and credentials").
    let asked = |name: HeaderName| request.get(name).cloned();
    let methods = match &cors.methods {
        Allowed::All => asked(ACCESS_CONTROL_REQUEST_METHOD),
        Allowed::These(methods) => list(methods.iter().map(Method::as_str)),
    };
    let allowed = match &cors.headers {
        Allowed::All => asked(ACCESS_CONTROL_REQUEST_HEADERS),
        Allowed::These(names) => list(names.iter().map(HeaderName::as_str)),
    };
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, allowed),
    ] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
    headers
}

/// Makes a response's fields say whether a script of this origin may read it.
pub fn on_response(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.remove(name);
    }
    match origin.filter(|origin| cors.allows(origin)) {
        Some(origin) => allow(cors, origin, headers),
        None => {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
    }
}

fn allow(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.append(VARY, HeaderValue::from_static("origin"));
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let exposed = match &cors.expose {
        // Beside credentials it would be the name of a field.
        Allowed::All if cors.credentials => None,
        Allowed::All => Some(HeaderValue::from_static("*")),
        Allowed::These(names) => list(names.iter().map(HeaderName::as_str)),
    };
    if let Some(exposed) = exposed {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

fn list<'text>(names: impl Iterator<Item = &'text str>) -> Option<HeaderValue> {
    let text = names.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::OriginPattern;

    fn cors(origin: &str, credentials: bool, all: bool) -> Cors {
        let name = HeaderName::from_static;
        Cors {
            origins: vec![OriginPattern::parse(origin).unwrap()],
            credentials,
            methods: if all {
                Allowed::All
            } else {
                Allowed::These(vec![Method::PUT, Method::DELETE])
            },
            headers: if all {
                Allowed::All
            } else {
                Allowed::These(vec![name("x-a"), name("x-b")])
            },
            expose: if all {
                Allowed::All
            } else {
                Allowed::These(vec![name("x-c")])
            },
            max_age: Duration::from_secs(7),
        }
    }

    fn request(origin: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (ORIGIN, HeaderValue::from_static(origin)),
            (ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PATCH")),
            (
                ACCESS_CONTROL_REQUEST_HEADERS,
                HeaderValue::from_static("x-q, x-r"),
            ),
        ])
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| {
                let name = name.as_str().trim_start_matches("access-control-");
                format!("{name}: {}", value.to_str().unwrap())
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_preflight_is_answered_with_what_is_allowed() {
        let asked = request("https://a.example");
        assert!(is_preflight(&Method::OPTIONS, &asked) && !is_preflight(&Method::GET, &asked));
        assert!(
            !is_preflight(&Method::OPTIONS, &HeaderMap::new()),
            "a plain OPTIONS is the endpoint's"
        );
        let origin = "allow-origin: https://a.example";
        for (cors, expected) in [
            (
                cors("https://a.example", true, false),
                vec![
                    "allow-credentials: true",
                    "allow-headers: x-a, x-b",
                    "allow-methods: PUT, DELETE",
                    origin,
                    "expose-headers: x-c",
                    "max-age: 7",
                    "vary: origin",
                ],
            ),
            (
                cors("*", true, true),
                vec![
                    "allow-credentials: true",
                    "allow-headers: x-q, x-r",
                    "allow-methods: PATCH",
                    origin,
                    "max-age: 7",
                    "vary: origin",
                ],
            ),
            (
                cors("*", false, true),
                vec![
                    "allow-headers: x-q, x-r",
                    "allow-methods: PATCH",
                    origin,
                    "expose-headers: *",
                    "max-age: 7",
                    "vary: origin",
                ],
            ),
            (cors("https://b.example", true, true), vec!["vary: origin"]),
        ] {
            assert_eq!(shown(&preflight(&cors, &asked)), expected);
        }
    }

    #[test]
    fn a_response_says_what_the_rule_says() {
        let mut headers = HeaderMap::from_iter([
            (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
            (VARY, HeaderValue::from_static("accept")),
        ]);
        let origin = HeaderValue::from_static("https://a.example");
        let cors = cors("https://a.example", false, false);
        on_response(&cors, Some(&origin), &mut headers);
        assert_eq!(
            shown(&headers),
            [
                "allow-origin: https://a.example",
                "expose-headers: x-c",
                "vary: accept",
                "vary: origin"
            ]
        );
        on_response(&cors, None, &mut headers);
        assert_eq!(shown(&headers), ["vary: accept", "vary: origin", "vary: origin"]);
    }
}
