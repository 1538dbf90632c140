//! Matches of a route's rule.

use std::sync::Arc;

use http::{HeaderName, Method};

use crate::kubernetes::index::Complaint;
use crate::kubernetes::objects::{GrpcMethodMatch, GrpcRouteMatch, HttpRouteMatch, TypedMatch};
use crate::model::{HeaderMatch, Match, PathMatch, QueryMatch, StringMatch};

/// Bytes of a compiled regular expression, as for paths.
const MAX_REGEX: usize = 1 << 20;

/// A match of an HTTPRoute, or what is wrong with it; the complaint's field is below the match's.
///
/// Of several conditions on one header or parameter the first counts (Gateway API, `HTTPHeaderMatch.name`).
pub fn of_http(spec: &HttpRouteMatch) -> Result<Match, Complaint> {
    let mut read = Match {
        path: path(spec)?,
        ..Match::default()
    };
    if let Some(text) = spec.method.as_deref() {
        let method = Method::from_bytes(text.as_bytes())
            .map_err(|_| Complaint::new(".method", format!("{text:?} is no method")))?;
        read.method = Some(method);
    }
    read.headers = headers(&spec.headers)?;
    for (at, wanted) in spec.query_params.iter().enumerate() {
        let field = format!(".queryParams[{at}]");
        if wanted.name.is_empty() {
            return Err(Complaint::new(
                format!("{field}.name"),
                "a parameter needs a name",
            ));
        }
        let value = value(wanted, &field)?;
        if !read.queries.iter().any(|query| query.name == wanted.name) {
            read.queries.push(QueryMatch {
                name: Arc::clone(&wanted.name),
                value,
            });
        }
    }
    Ok(read)
}

/// A match of a GRPCRoute, or what is wrong with it.
///
/// A call's path is `/service/method` (gRPC over HTTP/2, "Requests"), so a condition on both, or on the service alone, is
/// one of the lookups that paths have; what is left open is one element of the path.
pub fn of_grpc(spec: &GrpcRouteMatch) -> Result<Match, Complaint> {
    Ok(Match {
        path: spec
            .method
            .as_ref()
            .map_or_else(|| Ok(PathMatch::default()), method)?,
        headers: headers(&spec.headers)?,
        ..Match::default()
    })
}

fn method(spec: &GrpcMethodMatch) -> Result<PathMatch, Complaint> {
    let given = |text: &Option<Box<str>>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    let (service, method) = (given(&spec.service), given(&spec.method));
    let is_exact = match spec.r#type.as_deref() {
        None | Some("Exact") => true,
        Some("RegularExpression") => false,
        Some(other) => {
            return Err(Complaint::new(
                ".method.type",
                format!("{other:?} is neither Exact nor RegularExpression"),
            ));
        }
    };
    let element = |text: Option<String>| match text {
        Some(text) if is_exact => regex::escape(&text),
        Some(text) => format!("(?:{text})"),
        None => "[^/]+".to_owned(),
    };
    match (service, method) {
        (None, None) => Err(Complaint::new(".method", "a service or a method is needed")),
        (Some(text), _) | (_, Some(text)) if is_exact && text.contains('/') => {
            Err(Complaint::new(".method", format!("{text:?} has a '/' in it")))
        }
        (Some(service), Some(method)) if is_exact => {
            Ok(PathMatch::Exact(Arc::from(format!("/{service}/{method}"))))
        }
        (Some(service), None) if is_exact => Ok(PathMatch::prefix(&format!("/{service}"))),
        (service, method) => PathMatch::regex(&format!("/{}/{}", element(service), element(method)))
            .map_err(|error| Complaint::new(".method", one_line(&error))),
    }
}

fn headers(specs: &[TypedMatch]) -> Result<Vec<HeaderMatch>, Complaint> {
    let mut read: Vec<HeaderMatch> = Vec::with_capacity(specs.len());
    for (at, wanted) in specs.iter().enumerate() {
        let field = format!(".headers[{at}]");
        let name = HeaderName::from_bytes(wanted.name.as_bytes()).map_err(|_| {
            Complaint::new(
                format!("{field}.name"),
                format!("{:?} is no header's name", wanted.name),
            )
        })?;
        let value = value(wanted, &field)?;
        if !read.iter().any(|header| header.name == name) {
            read.push(HeaderMatch { name, value });
        }
    }
    Ok(read)
}

fn path(spec: &HttpRouteMatch) -> Result<PathMatch, Complaint> {
    let Some(path) = &spec.path else {
        return Ok(PathMatch::default());
    };
    let value = path.value.as_deref().unwrap_or("/");
    let kind = path.r#type.as_deref().unwrap_or("PathPrefix");
    if matches!(kind, "Exact" | "PathPrefix") && !value.starts_with('/') {
        return Err(Complaint::new(
            ".path.value",
            format!("{value:?} does not begin with '/'"),
        ));
    }
    match kind {
        "Exact" => Ok(PathMatch::Exact(Arc::from(value))),
        "PathPrefix" => Ok(PathMatch::prefix(value)),
        "RegularExpression" => {
            PathMatch::regex(value).map_err(|error| Complaint::new(".path.value", one_line(&error)))
        }
        other => Err(Complaint::new(
            ".path.type",
            format!("{other:?} is none of Exact, PathPrefix, RegularExpression"),
        )),
    }
}

/// A condition on a value. A regular expression means the whole value, as in the proxies that most
/// implementations of the Gateway API use.
fn value(wanted: &TypedMatch, field: &str) -> Result<StringMatch, Complaint> {
    match wanted.r#type.as_deref() {
        None | Some("Exact") => Ok(StringMatch::Exact(Arc::clone(&wanted.value))),
        Some("RegularExpression") => regex::RegexBuilder::new(&format!("^(?:{})$", wanted.value))
            .size_limit(MAX_REGEX)
            .build()
            .map(StringMatch::Regex)
            .map_err(|error| Complaint::new(format!("{field}.value"), one_line(&error))),
        Some(other) => Err(Complaint::new(
            format!("{field}.type"),
            format!("{other:?} is neither Exact nor RegularExpression"),
        )),
    }
}

/// The last line of a regular expression's error is what is wrong; the others draw where.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    format!("regular expression: {}", last.trim_start_matches("error: "))
}
