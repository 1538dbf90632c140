//! Filters of a route's rule or backend. A GRPCRoute has those that do not know paths.

use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{Surroundings, cors, reference};
use crate::kubernetes::index::{Complaint, Findings};
use crate::kubernetes::objects::{
    HeaderModifier, HeaderValuePair, HttpRouteFilter, Key, Kind, PathModifier, RequestMirror,
    RequestRedirect, UrlRewrite,
};
use crate::kubernetes::service::backend_name;
use crate::model::{
    Filter, Fraction, HeaderEdits, HostPattern, Match, Mirror, PathMatch, PathRewrite, Redirect, Rewrite,
};

/// All filters in their order, or what is wrong with the first that cannot be done. `field` is where
/// they stand; `matches` are those of the rule.
///
/// A mirror whose backend is wrong is left out with a complaint, and the others go on (Gateway API,
/// `HTTPRequestMirrorFilter.backendRef`).
pub fn read(
    route: &Key,
    specs: &[HttpRouteFilter],
    field: &str,
    matches: &[Match],
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Result<Vec<Filter>, Complaint> {
    let of_http = route.kind == Kind::HttpRoute;
    let mut filters = Vec::with_capacity(specs.len());
    for (at, spec) in specs.iter().enumerate() {
        let below = |complaint: Complaint| complaint.under(&format!("{field}[{at}]"));
        let filter = match &*spec.r#type {
            "RequestHeaderModifier" => {
                let spec =
                    given(spec.request_header_modifier.as_ref(), "requestHeaderModifier").map_err(below)?;
                let edits = header_edits(spec, true);
                Filter::RequestHeaders(edits.map_err(|error| below(error.under(".requestHeaderModifier")))?)
            }
            "ResponseHeaderModifier" => {
                let spec =
                    given(spec.response_header_modifier.as_ref(), "responseHeaderModifier").map_err(below)?;
                let edits = header_edits(spec, false);
                Filter::ResponseHeaders(edits.map_err(|error| below(error.under(".responseHeaderModifier")))?)
            }
            "RequestRedirect" if of_http => {
                let spec = given(spec.request_redirect.as_ref(), "requestRedirect").map_err(below)?;
                let read = redirect(spec, matches);
                Filter::Redirect(read.map_err(|error| below(error.under(".requestRedirect")))?)
            }
            "URLRewrite" if of_http => {
                let spec = given(spec.url_rewrite.as_ref(), "urlRewrite").map_err(below)?;
                let read = rewrite(spec, matches);
                Filter::Rewrite(read.map_err(|error| below(error.under(".urlRewrite")))?)
            }
            "CORS" if of_http => {
                let spec = given(spec.cors.as_ref(), "cors").map_err(below)?;
                Filter::Cors(cors::read(spec).map_err(|error| below(error.under(".cors")))?)
            }
            "RequestMirror" => {
                let spec = given(spec.request_mirror.as_ref(), "requestMirror").map_err(below)?;
                match mirror(route, spec, around, findings) {
                    Ok(mirror) => Filter::Mirror(mirror),
                    Err(complaint) => {
                        let complaint = below(complaint.under(".requestMirror"));
                        findings.complain(
                            complaint.field,
                            format!("{}; nothing is mirrored", complaint.reason),
                        );
                        continue;
                    }
                }
            }
            other => {
                return Err(Complaint::new(
                    format!("{field}[{at}].type"),
                    format!("UnsupportedValue: filter {other:?} is not available in this version"),
                ));
            }
        };
        filters.push(filter);
    }
    let redirects = filters
        .iter()
        .filter(|filter| matches!(filter, Filter::Redirect(_)))
        .count();
    let rewrites = filters
        .iter()
        .filter(|filter| matches!(filter, Filter::Rewrite(_)))
        .count();
    if redirects + rewrites > 1 {
        return Err(Complaint::new(
            field,
            "IncompatibleFilters: one RequestRedirect or one URLRewrite, not several of them",
        ));
    }
    Ok(filters)
}

impl Complaint {
    fn under(self, field: &str) -> Self {
        Self::new(format!("{field}{}", self.field), self.reason)
    }
}

fn given<'spec, T>(field: Option<&'spec T>, name: &str) -> Result<&'spec T, Complaint> {
    field.ok_or_else(|| {
        Complaint::new(
            format!(".{name}"),
            "UnsupportedValue: the filter's type needs this field",
        )
    })
}

/// Fields that belong to one connection or to the framing of one message, not to the exchange.
fn is_off_limits(name: &HeaderName, of_request: bool) -> bool {
    *name == header::CONNECTION
        || *name == header::CONTENT_LENGTH
        || *name == header::TE
        || *name == header::TRAILER
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || name.as_str() == "keep-alive"
        || name.as_str() == "proxy-connection"
        || (of_request && *name == header::HOST)
}

fn header_edits(spec: &HeaderModifier, of_request: bool) -> Result<HeaderEdits, Complaint> {
    let name = |text: &str, field: &str, at: usize| {
        let fail =
            |reason: String| Complaint::new(format!(".{field}[{at}]"), format!("UnsupportedValue: {reason}"));
        let name = HeaderName::from_bytes(text.as_bytes())
            .map_err(|_| fail(format!("{text:?} is no header's name")))?;
        if is_off_limits(&name, of_request) {
            return Err(fail(if name == header::HOST {
                "the Host is changed with URLRewrite.hostname".to_owned()
            } else {
                format!("{name} belongs to the connection and cannot be edited")
            }));
        }
        Ok(name)
    };
    let pairs = |pairs: &[HeaderValuePair], field: &str| {
        pairs
            .iter()
            .enumerate()
            .map(|(at, pair)| {
                let name = name(&pair.name, field, at)?;
                let value = HeaderValue::from_str(&pair.value).map_err(|_| {
                    Complaint::new(
                        format!(".{field}[{at}].value"),
                        "UnsupportedValue: a header's value has visible ASCII characters and spaces only",
                    )
                })?;
                Ok((name, value))
            })
            .collect::<Result<Vec<_>, Complaint>>()
    };
    Ok(HeaderEdits {
        remove: spec
            .remove
            .iter()
            .enumerate()
            .map(|(at, text)| name(text, "remove", at))
            .collect::<Result<_, Complaint>>()?,
        set: pairs(&spec.set, "set")?,
        add: pairs(&spec.add, "add")?,
    })
}

fn redirect(spec: &RequestRedirect, matches: &[Match]) -> Result<Redirect, Complaint> {
    let scheme = match spec.scheme.as_deref() {
        None => None,
        Some("http") => Some(Scheme::HTTP),
        Some("https") => Some(Scheme::HTTPS),
        Some(other) => {
            return Err(Complaint::new(
                ".scheme",
                format!("UnsupportedValue: {other:?} is neither http nor https"),
            ));
        }
    };
    let status = match spec.status_code {
        None => StatusCode::FOUND,
        Some(301) => StatusCode::MOVED_PERMANENTLY,
        Some(302) => StatusCode::FOUND,
        Some(303) => StatusCode::SEE_OTHER,
        Some(307) => StatusCode::TEMPORARY_REDIRECT,
        Some(308) => StatusCode::PERMANENT_REDIRECT,
        Some(other) => {
            return Err(Complaint::new(
                ".statusCode",
                format!("UnsupportedValue: {other} is none of 301, 302, 303, 307, 308"),
            ));
        }
    };
    Ok(Redirect {
        scheme,
        hostname: spec.hostname.as_ref().map(precise_hostname).transpose()?,
        port: spec.port.map(|port| port.0),
        path: spec
            .path
            .as_ref()
            .map(|path| path_rewrite(path, matches))
            .transpose()?,
        status,
    })
}

fn rewrite(spec: &UrlRewrite, matches: &[Match]) -> Result<Rewrite, Complaint> {
    let hostname = match spec.hostname.as_ref().map(precise_hostname).transpose()? {
        Some(hostname) => Some(
            HeaderValue::from_str(&hostname)
                .map_err(|error| Complaint::new(".hostname", format!("UnsupportedValue: {error}")))?,
        ),
        None => None,
    };
    Ok(Rewrite {
        hostname,
        path: spec
            .path
            .as_ref()
            .map(|path| path_rewrite(path, matches))
            .transpose()?,
    })
}

fn precise_hostname(text: &Arc<str>) -> Result<Arc<str>, Complaint> {
    match HostPattern::parse(text) {
        Ok(HostPattern::Exact(name)) => Ok(name),
        Ok(_) => Err(Complaint::new(
            ".hostname",
            "UnsupportedValue: a wildcard is no precise hostname",
        )),
        Err(error) => Err(Complaint::new(".hostname", format!("UnsupportedValue: {error}"))),
    }
}

/// Another path. A prefix can only be replaced where a prefix was matched; it is kept without trailing
/// slashes, like the prefix it replaces.
fn path_rewrite(spec: &PathModifier, matches: &[Match]) -> Result<PathRewrite, Complaint> {
    let fail = |field: &str, reason: &str| {
        Complaint::new(format!(".path.{field}"), format!("UnsupportedValue: {reason}"))
    };
    match &*spec.r#type {
        "ReplaceFullPath" => match &spec.replace_full_path {
            Some(path) if is_path(path) => Ok(PathRewrite::Full(Arc::clone(path))),
            _ => Err(fail(
                "replaceFullPath",
                "a path begins with '/' and has no spaces, '?' or '#'",
            )),
        },
        "ReplacePrefixMatch" => {
            let all_prefixes = matches
                .iter()
                .all(|wanted| matches!(wanted.path, PathMatch::Prefix(_)));
            if !all_prefixes {
                return Err(fail(
                    "replacePrefixMatch",
                    "every match of the rule must be a PathPrefix",
                ));
            }
            match &spec.replace_prefix_match {
                Some(path) if path.is_empty() || is_path(path) => {
                    Ok(PathRewrite::Prefix(Arc::from(path.trim_end_matches('/'))))
                }
                _ => Err(fail(
                    "replacePrefixMatch",
                    "a path begins with '/' and has no spaces, '?' or '#'",
                )),
            }
        }
        other => Err(fail(
            "type",
            &format!("{other:?} is neither ReplaceFullPath nor ReplacePrefixMatch"),
        )),
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
}

fn mirror(
    route: &Key,
    spec: &RequestMirror,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Result<Mirror, Complaint> {
    let fraction = match (spec.percent, &spec.fraction) {
        (None, None) => Fraction::ALL,
        (Some(_), Some(_)) => {
            return Err(Complaint::new(
                "",
                "UnsupportedValue: percent or fraction, not both",
            ));
        }
        (Some(percent), None) => fraction(percent, 100, ".percent")?,
        (None, Some(spec)) => fraction(spec.numerator, spec.denominator.unwrap_or(100), ".fraction")?,
    };
    let wanted = &spec.backend_ref;
    let (service, port) = reference::resolve(route, wanted, around, findings)
        .map_err(|complaint| complaint.under(".backendRef"))?;
    let backend = backend_name(&service, &port);
    findings.on.uses.insert((service, port));
    Ok(Mirror { backend, fraction })
}

fn fraction(numerator: i64, denominator: i64, field: &str) -> Result<Fraction, Complaint> {
    let fail = || {
        Complaint::new(
            field,
            format!("UnsupportedValue: {numerator} of {denominator} is no share of the requests"),
        )
    };
    let fraction = Fraction {
        numerator: u32::try_from(numerator).map_err(|_| fail())?,
        denominator: u32::try_from(denominator).map_err(|_| fail())?,
    };
    if fraction.denominator == 0 || fraction.numerator > fraction.denominator {
        return Err(fail());
    }
    Ok(fraction)
}
