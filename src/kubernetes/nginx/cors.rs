//! `enable-cors` and the `cors-…` beside it, with the defaults of ingress-nginx.
//!
//! Where all origins are allowed, which is the default, credentials are not, whatever `cors-allow-credentials` says: ingress-nginx
//! answers with `*`, and beside that browsers take no credentials (Fetch, "CORS protocol and credentials"). The filter here
//! answers with the origin that asked, so it must not give them either. A wildcard stands for one label.

use std::time::Duration;

use http::{HeaderName, Method};

use super::values;
use crate::model::{Allowed, Cors, OriginPattern};

/// `cors-allow-methods` where it is not given.
const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";

/// `cors-allow-headers` where it is not given.
const HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";

/// `cors-max-age` where it is not given: twenty days.
const MAX_AGE: Duration = Duration::from_secs(1_728_000);

/// What the annotations ask for; none: nothing. A bad value is told, and the default is in its place.
pub fn read<'v>(
    value_of: &dyn Fn(&str) -> Option<&'v str>,
    complain: &mut dyn FnMut(&str, String),
) -> Option<Cors> {
    if value_of("enable-cors") != Some("true") {
        return None;
    }
    let origins = match value_of("cors-allow-origin") {
        None => vec![OriginPattern::Any],
        Some(text) => origins(text, complain),
    };
    let asked = match value_of("cors-allow-credentials").map(values::boolean) {
        None => true,
        Some(Ok(said)) => said,
        // In doubt fewer may read it.
        Some(Err(reason)) => {
            complain("cors-allow-credentials", format!("{reason}; there are none"));
            false
        }
    };
    let credentials = asked && !origins.contains(&OriginPattern::Any);
    let mut list = |name: &str, default: &str| match value_of(name) {
        None => headers(default).unwrap_or_default(),
        Some(text) => headers(text).unwrap_or_else(|bad| {
            complain(
                name,
                format!("{bad:?} is no name of a field; the default is used"),
            );
            headers(default).unwrap_or_default()
        }),
    };
    let allowed = list("cors-allow-headers", HEADERS);
    let exposes_all = value_of("cors-expose-headers").is_some_and(|text| words(text).any(|word| word == "*"));
    let expose = match exposes_all {
        true => Allowed::All,
        false => Allowed::These(list("cors-expose-headers", "")),
    };
    let methods = match value_of("cors-allow-methods").map(methods) {
        Some(Ok(methods)) => methods,
        None => methods(METHODS).unwrap_or_default(),
        Some(Err(bad)) => {
            complain(
                "cors-allow-methods",
                format!("{bad:?} is no method; {METHODS} are used"),
            );
            methods(METHODS).unwrap_or_default()
        }
    };
    let max_age = match value_of("cors-max-age").map(str::parse::<u32>) {
        None => MAX_AGE,
        Some(Ok(seconds)) => Duration::from_secs(seconds.into()),
        Some(Err(_)) => {
            complain(
                "cors-max-age",
                format!("it is no number of seconds; {} is used", MAX_AGE.as_secs()),
            );
            MAX_AGE
        }
    };
    Some(Cors {
        origins,
        credentials,
        methods: Allowed::These(methods),
        headers: Allowed::These(allowed),
        expose,
        max_age,
    })
}

/// The origins that can be read; those that cannot are left out, be it all of them.
fn origins(text: &str, complain: &mut dyn FnMut(&str, String)) -> Vec<OriginPattern> {
    let mut origins = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        // A scheme's every host is not what ingress-nginx takes, and would have credentials.
        let is_too_wide = word.ends_with("://*") || word.contains("://*:");
        match OriginPattern::parse(word).filter(|_| !is_too_wide) {
            Some(OriginPattern::Any) => return vec![OriginPattern::Any],
            Some(origin) => origins.push(origin.of_one_label()),
            None => complain(
                "cors-allow-origin",
                format!("{word:?} is neither '*' nor an origin like https://*.example.com; it is left out"),
            ),
        }
    }
    origins
}

/// The methods of a list, or what is none.
fn methods(text: &str) -> Result<Vec<Method>, String> {
    let read = |word: &str| match word.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        true => Method::from_bytes(word.to_ascii_uppercase().as_bytes()).map_err(|_| word.to_owned()),
        false => Err(word.to_owned()),
    };
    words(text).map(read).collect()
}

/// The names of a list, or what is none. `*` is none: ingress-nginx does not take it here.
fn headers(text: &str) -> Result<Vec<HeaderName>, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let read = |word: &str| match word.bytes().all(is_name) {
        true => HeaderName::from_bytes(word.as_bytes()).map_err(|_| word.to_owned()),
        false => Err(word.to_owned()),
    };
    words(text).map(read).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).filter(|word| !word.is_empty())
}
