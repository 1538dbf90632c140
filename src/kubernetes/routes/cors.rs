//! The CORS filter of a rule or backend (GEP-1767).

use std::time::Duration;

use http::{HeaderName, Method};

use crate::kubernetes::index::Complaint;
use crate::kubernetes::objects::CorsSpec;
use crate::model::{Allowed, Cors, OriginPattern};

/// When `maxAge` is not said, in seconds.
const MAX_AGE: i64 = 5;

/// What the filter says, or what is wrong with it; the complaint's field is below the filter's.
pub fn read(spec: &CorsSpec) -> Result<Cors, Complaint> {
    let bad = |field: String, reason: String| Complaint::new(field, format!("UnsupportedValue: {reason}"));
    let origins = spec.allow_origins.iter().enumerate().map(|(at, text)| {
        OriginPattern::parse(text).ok_or_else(|| {
            bad(
                format!(".allowOrigins[{at}]"),
                format!("{text:?} is neither '*' nor an origin like https://*.example.com"),
            )
        })
    });
    let max_age = spec.max_age.unwrap_or(MAX_AGE);
    Ok(Cors {
        origins: origins.collect::<Result<_, _>>()?,
        credentials: spec.allow_credentials,
        methods: allowed(&spec.allow_methods, "allowMethods", "method", |text| {
            Method::from_bytes(text.as_bytes()).ok()
        })?,
        headers: allowed(&spec.allow_headers, "allowHeaders", "header's name", name)?,
        expose: allowed(&spec.expose_headers, "exposeHeaders", "header's name", name)?,
        max_age: u32::try_from(max_age)
            .map(|seconds| Duration::from_secs(seconds.into()))
            .map_err(|_| bad(".maxAge".to_owned(), format!("{max_age} is no time in seconds")))?,
    })
}

fn name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

fn allowed<T>(
    texts: &[Box<str>],
    field: &str,
    what: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Allowed<T>, Complaint> {
    if texts.iter().any(|text| &**text == "*") {
        return Ok(Allowed::All);
    }
    let read = texts.iter().enumerate().map(|(at, text)| {
        read(text).ok_or_else(|| {
            Complaint::new(
                format!(".{field}[{at}]"),
                format!("UnsupportedValue: {text:?} is no {what}"),
            )
        })
    });
    Ok(Allowed::These(read.collect::<Result<_, _>>()?))
}
