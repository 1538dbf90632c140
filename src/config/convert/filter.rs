//! Filters: edits, rewrites, redirections, copies, direct responses.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, StatusCode};

use super::Pass;
use super::names::Names;
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed, PlacedMap};
use crate::config::raw::filter::{
    RawDirect, RawFilter, RawHeaderEdits, RawMirror, RawPathRewrite, RawRedirect, RawRewrite, RawScheme,
};
use crate::config::units;
use crate::model::{
    DirectResponse, Filter, Fraction, HeaderEdits, HostPattern, Match, Mirror, PathMatch, PathRewrite,
    Redirect, Rewrite, World,
};

/// Longest body of a direct response, in bytes.
const MAX_DIRECT_BODY: usize = 64 * 1024;

/// Fields that frame a message or belong to one connection: the proxy's own (RFC 9110 §7.6.1).
pub const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A filter that answers by itself.
pub struct Answer {
    /// Its key.
    pub name: &'static str,
    /// Its place.
    pub place: Place,
}

/// The first filter that answers by itself.
pub fn answer(raw: &[Placed<RawFilter>]) -> Option<Answer> {
    raw.iter().find_map(|raw| {
        let name = match raw.value {
            RawFilter::Redirect(_) => "redirect",
            RawFilter::Direct(_) => "direct",
            RawFilter::RequestHeaders(_)
            | RawFilter::ResponseHeaders(_)
            | RawFilter::Rewrite(_)
            | RawFilter::Mirror(_) => return None,
        };
        let place = raw.place;
        Some(Answer { name, place })
    })
}

/// The filters, for requests of these matches.
pub fn filters(
    pass: &mut Pass,
    raw: &[Placed<RawFilter>],
    matches: &[Match],
    names: &mut Names,
    world: &mut World,
) -> Vec<Filter> {
    refuse_repeated(pass, raw);
    raw.iter()
        .map(|raw| {
            let place = raw.place;
            match &raw.value {
                RawFilter::RequestHeaders(edits) => Filter::RequestHeaders(header_edits(pass, edits, true)),
                RawFilter::ResponseHeaders(edits) => {
                    Filter::ResponseHeaders(header_edits(pass, edits, false))
                }
                RawFilter::Rewrite(raw) => Filter::Rewrite(rewrite(pass, raw, place, matches)),
                RawFilter::Redirect(raw) => Filter::Redirect(redirect(pass, raw, place, matches)),
                RawFilter::Mirror(raw) => Filter::Mirror(mirror(pass, raw, names, world)),
                RawFilter::Direct(raw) => Filter::Direct(direct(pass, raw)),
            }
        })
        .collect()
}

/// A second rewrite or a second answer would undo or never follow the first.
fn refuse_repeated(pass: &mut Pass, raw: &[Placed<RawFilter>]) {
    let mut first: HashMap<&str, Place> = HashMap::new();
    for filter in raw {
        let kind = match filter.value {
            RawFilter::Rewrite(_) => "rewrites",
            RawFilter::Redirect(_) | RawFilter::Direct(_) => "answers",
            RawFilter::RequestHeaders(_) | RawFilter::ResponseHeaders(_) | RawFilter::Mirror(_) => continue,
        };
        if let Some(first) = first.insert(kind, filter.place) {
            pass.say(
                Diagnostic::error(filter.place, format!("one filter {kind} already"))
                    .related(first, "this one"),
            );
        }
    }
}

fn header_edits(pass: &mut Pass, raw: &RawHeaderEdits, of_request: bool) -> HeaderEdits {
    let mut editable = |name: &Placed<String>| {
        let header = header_name(pass, name)?;
        if FRAMING.contains(&header.as_str()) {
            pass.error(
                name.place,
                format!("{header} is the proxy's own and cannot be edited"),
            );
        }
        if of_request && header == http::header::HOST {
            pass.say(
                Diagnostic::error(name.place, "host is not edited as a field")
                    .hint("use rewrite: {hostname: ...}"),
            );
        }
        Some(header)
    };
    let remove = raw.remove.iter().flatten().filter_map(&mut editable).collect();
    for (name, _) in raw.set.iter().chain(&raw.add).flat_map(|map| &map.0) {
        editable(name);
    }
    HeaderEdits {
        remove,
        set: fields(pass, raw.set.as_ref()),
        add: fields(pass, raw.add.as_ref()),
    }
}

/// Names and values of fields; wrong names are left to [`header_name`], which has said so.
pub fn fields(pass: &mut Pass, raw: Option<&PlacedMap<Placed<String>>>) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = Vec::new();
    let mut places: HashMap<HeaderName, Place> = HashMap::new();
    for (name, value) in raw.iter().flat_map(|map| &map.0) {
        let Ok(header) = HeaderName::from_bytes(name.text().as_bytes()) else {
            continue;
        };
        if let Some(first) = places.insert(header.clone(), name.place) {
            header_twice(pass, name, first);
        }
        match HeaderValue::from_str(value.text()) {
            Ok(value) => out.push((header, value)),
            Err(_) => pass.error(
                value.place,
                "the value of a field has no control characters but tabs",
            ),
        }
    }
    out
}

/// The name of a field; says when it is none.
pub fn header_name(pass: &mut Pass, name: &Placed<String>) -> Option<HeaderName> {
    let read = HeaderName::from_bytes(name.text().as_bytes()).ok();
    if read.is_none() {
        pass.error(
            name.place,
            format!("{:?} is not the name of a field", name.text()),
        );
    }
    read
}

/// Two spellings of one field.
pub fn header_twice(pass: &mut Pass, name: &Placed<String>, first: Place) {
    pass.say(
        Diagnostic::error(
            name.place,
            format!("the field {:?} is there twice; case does not matter", name.text()),
        )
        .related(first, "first here"),
    );
}

fn rewrite(pass: &mut Pass, raw: &RawRewrite, place: Place, matches: &[Match]) -> Rewrite {
    if raw.hostname.is_none() && raw.path.is_none() {
        pass.error(place, "a rewrite changes the hostname or the path");
    }
    let hostname = raw.hostname.as_ref().and_then(|text| {
        let read = authority(text.text());
        if read.is_none() {
            pass.error(text.place, format!("{:?} is not a hostname", text.text()));
        }
        read
    });
    Rewrite {
        hostname,
        path: raw.path.as_ref().map(|raw| path_rewrite(pass, raw, matches)),
    }
}

/// A hostname, also with a port, as the value of a `Host` field.
pub fn authority(text: &str) -> Option<HeaderValue> {
    let authority = text.parse::<Authority>().ok().filter(|_| !text.contains('@'))?;
    let host = authority.host();
    let numeric = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    if !numeric && !matches!(HostPattern::parse(host), Ok(HostPattern::Exact(_))) {
        return None;
    }
    // A colon without a port is not a port.
    (!text.ends_with(':'))
        .then(|| HeaderValue::from_str(text).ok())
        .flatten()
}

fn redirect(pass: &mut Pass, raw: &RawRedirect, place: Place, matches: &[Match]) -> Redirect {
    if raw.scheme.is_none() && raw.hostname.is_none() && raw.port.is_none() && raw.path.is_none() {
        pass.say(
            Diagnostic::error(place, "a redirection to the same place never ends")
                .hint("give it a scheme, hostname, port or path"),
        );
    }
    let status = raw.status.as_ref().map_or(StatusCode::FOUND, |status| {
        let good = [301, 302, 303, 307, 308].contains(&status.value);
        if !good {
            pass.error(
                status.place,
                format!("status must be 301, 302, 303, 307 or 308, not {}", status.value),
            );
        }
        StatusCode::from_u16(status.value).unwrap_or(StatusCode::FOUND)
    });
    let hostname = raw.hostname.as_ref().map(|text| {
        match HostPattern::parse(text.text()) {
            Ok(HostPattern::Exact(_)) => {}
            Ok(_) => pass.error(
                text.place,
                format!("{:?} is a pattern, not a hostname", text.text()),
            ),
            Err(error) => pass.error(text.place, error.to_string()),
        }
        Arc::from(text.text())
    });
    let port = raw.port.as_ref().map(|port| {
        if port.value == 0 {
            pass.error(port.place, "port must be from 1 to 65535, not 0");
        }
        port.value
    });
    Redirect {
        scheme: raw.scheme.map(|scheme| match scheme {
            RawScheme::Http => Scheme::HTTP,
            RawScheme::Https => Scheme::HTTPS,
        }),
        hostname,
        port,
        path: raw.path.as_ref().map(|raw| path_rewrite(pass, raw, matches)),
        status,
    }
}

fn path_rewrite(pass: &mut Pass, raw: &Placed<RawPathRewrite>, matches: &[Match]) -> PathRewrite {
    match &raw.value {
        RawPathRewrite::Full(text) => {
            check_path(pass, text);
            PathRewrite::Full(Arc::from(text.text()))
        }
        RawPathRewrite::Prefix(text) => {
            check_path(pass, text);
            if !matches.iter().all(|one| matches!(one.path, PathMatch::Prefix(_))) {
                pass.error(text.place, "prefix is only for rules that match by prefix");
            }
            PathRewrite::Prefix(Arc::from(text.text()))
        }
        RawPathRewrite::Captures(text) => {
            // What a capture puts in is not known yet, so that the first character may be one.
            check_path(
                pass,
                &text.with(
                    text.text()
                        .replacen('$', "/$", usize::from(text.text().starts_with('$'))),
                ),
            );
            check_captures(pass, text, matches);
            PathRewrite::Captures(Arc::from(text.text()))
        }
    }
}

/// Every group that is named must be in every match's regular expression.
fn check_captures(pass: &mut Pass, text: &Placed<String>, matches: &[Match]) {
    for one in matches {
        let PathMatch::Regex(regex) = &one.path else {
            return pass.error(text.place, "captures is only for rules that match by regex");
        };
        for group in groups(text.text()) {
            let known = match group.parse::<usize>() {
                Ok(number) => number < regex.captures_len(),
                Err(_) => regex.capture_names().flatten().any(|name| name == group),
            };
            if !known {
                pass.say(
                    Diagnostic::error(text.place, format!("the path's regex has no group {group:?}"))
                        .maybe_hint(
                            group
                                .contains('_')
                                .then(|| "end a name with braces: ${1}_x".to_owned()),
                        ),
                );
            }
        }
    }
}

/// The groups that a template names: `$1`, `$name`, `${name}`; `$$` is a dollar (regex's `Captures::expand`).
fn groups(template: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        if let Some((group, after)) = braced {
            out.push(group);
            rest = after;
            continue;
        }
        let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let end = after.find(|character| !word(character)).unwrap_or(after.len());
        if end > 0 {
            out.push(&after[..end]);
        }
        rest = &after[end..];
    }
    out
}

/// Says when a text is not the path of a request: `/` first, no query, nothing that a request cannot have.
pub fn check_path(pass: &mut Pass, text: &Placed<String>) {
    let path = text.text();
    let not_a_path = format!("{path:?} is not a path");
    let hint = if !path.starts_with('/') {
        format!("it begins with /: did you mean \"/{path}\"?")
    } else if path.contains(['?', '#']) {
        "it has no query and no fragment".to_owned()
    } else if path.split('/').any(|segment| segment == "." || segment == "..") {
        "paths are compared without . and .. in them".to_owned()
    } else if path.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        "write other than visible ASCII characters as %XX".to_owned()
    } else {
        return;
    };
    pass.say(Diagnostic::error(text.place, not_a_path).hint(hint));
}

fn mirror(pass: &mut Pass, raw: &RawMirror, names: &mut Names, world: &mut World) -> Mirror {
    Mirror {
        backend: names.backend(pass, &raw.to, world),
        fraction: raw
            .percent
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::percent(text.text())))
            .unwrap_or(Fraction::ALL),
    }
}

fn direct(pass: &mut Pass, raw: &RawDirect) -> DirectResponse {
    let status = raw.status.as_ref().map_or(StatusCode::OK, |status| {
        if !(200..=599).contains(&status.value) {
            pass.error(
                status.place,
                format!("status must be from 200 to 599, not {}", status.value),
            );
        }
        StatusCode::from_u16(status.value).unwrap_or(StatusCode::OK)
    });
    for (name, _) in raw.headers.iter().flat_map(|map| &map.0) {
        if let Some(header) = header_name(pass, name)
            && FRAMING.contains(&header.as_str())
        {
            pass.error(
                name.place,
                format!("{header} is the proxy's own and cannot be given"),
            );
        }
    }
    let body = raw.body.as_ref().map_or("", |body| {
        let length = body.text().len();
        if length > MAX_DIRECT_BODY {
            pass.error(
                body.place,
                format!("the body has {length} bytes; at most 64KiB fit"),
            );
        }
        body.text()
    });
    DirectResponse {
        status,
        headers: fields(pass, raw.headers.as_ref()),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}
