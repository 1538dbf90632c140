//! The values of annotations: times, redirections, templates of paths, as nginx writes them.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, StatusCode, Uri};

use crate::model::{HashKey, PathMatch, PathRewrite, Redirect, RetryOn};

/// Tries where nginx has no bound of its own.
pub const MOST_TRIES: u8 = 10;

/// The longest time that is taken.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// `true` or `false`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither \"true\" nor \"false\"")),
    }
}

/// Seconds, or nginx's `60s`, `5m`, `500ms`, `1h`.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no time like 60 or 60s"))?;
    let time = match &text[digits.len()..] {
        "" | "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        "h" => Duration::from_secs(number.saturating_mul(3600)),
        unit => return Err(format!("{unit:?} is none of ms, s, m, h")),
    };
    match time.is_zero() {
        true => Err("no time at all is too short".to_owned()),
        false => Ok(time.min(MAX_TIME)),
    }
}

/// What a path becomes: `$1` to `$9` for what was captured, in the form that the regular expressions here have.
pub fn template(text: &str) -> Result<Arc<str>, String> {
    if text.contains("://") {
        return Err(
            "AnnotationNotSupported: another host takes permanent-redirect or temporal-redirect".to_owned(),
        );
    }
    if text.contains('?') {
        return Err("AnnotationNotSupported: the query stays as it is and cannot be changed".to_owned());
    }
    let mut out = String::with_capacity(text.len() + 8);
    if !text.starts_with(['/', '$']) {
        out.push('/');
    }
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            ('$', Some(digit @ '1'..='9')) => {
                out.push_str(&format!("${{{digit}}}"));
                letters.next();
            }
            ('$', Some(next)) if next.is_ascii_alphabetic() || *next == '{' => {
                return Err(
                    "AnnotationNotSupported: of nginx's variables only $1 to $9 are known".to_owned(),
                );
            }
            ('$', _) => out.push_str("$$"),
            (letter, _) => out.push(letter),
        }
    }
    Ok(out.into())
}

/// A path of an Ingress as a regular expression: it begins so, in upper or lower case, as nginx's `location ~*` has it.
pub fn path_regex(path: &str) -> Result<PathMatch, String> {
    let pattern = path.strip_prefix('^').unwrap_or(path);
    PathMatch::regex(&format!("(?i:{pattern}).*")).map_err(|error| {
        format!(
            "{path:?} is no regular expression: {error} (neither look-around nor back-references are there)"
        )
    })
}

/// A path.
pub fn path(text: &str) -> Result<Arc<str>, String> {
    match text.starts_with('/') && !text.contains(['$', '?']) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no path that begins with '/'")),
    }
}

/// The value of a field.
pub fn field(text: &str) -> Result<HeaderValue, String> {
    if text.contains('$') {
        return Err("AnnotationNotSupported: nginx's variables are not known".to_owned());
    }
    HeaderValue::from_str(text).map_err(|_| format!("{text:?} cannot stand in a field"))
}

/// `$remote_addr`, `$uri`, `$http_x_user`, `$cookie_session`.
pub fn hash(text: &str) -> Result<HashKey, String> {
    let name = text.trim_matches(['"', ' ']);
    let name = name
        .trim_start_matches("${")
        .trim_start_matches('$')
        .trim_end_matches('}');
    let key = match name {
        "remote_addr" | "binary_remote_addr" | "the_real_ip" => Some(HashKey::Source),
        "uri" | "request_uri" | "document_uri" => Some(HashKey::Path),
        _ => match name.split_once('_') {
            Some(("http", field)) => HashKey::parse(&format!("header:{}", field.replace('_', "-"))),
            Some(("cookie", cookie)) => HashKey::parse(&format!("cookie:{cookie}")),
            _ => None,
        },
    };
    key.ok_or_else(|| {
        format!(
            "AnnotationNotSupported: {text:?} is none of $remote_addr, $uri, $request_uri, $http_NAME, $cookie_NAME; there is no \
             hash"
        )
    })
}

/// Where everything is redirected to. `$request_uri` at the end is the path as it came.
pub fn redirect(text: &str, status: StatusCode) -> Result<Redirect, String> {
    let fail = |why: &str| {
        Err(format!(
            "AnnotationNotSupported: {text:?} {why}; the Ingress is not served"
        ))
    };
    let (base, keeps_path) = match text.strip_suffix("$request_uri") {
        Some(base) => (base, true),
        None => (text, false),
    };
    if base.contains('$') {
        return fail("has variables of nginx; only $request_uri at the end is known");
    }
    let Ok(uri) = base.parse::<Uri>() else {
        return fail("is no URL");
    };
    if uri.query().is_some() || base.contains('#') {
        return fail("has a query or a fragment, which cannot be given");
    }
    let is_absolute = uri.authority().is_some();
    if is_absolute && uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
        return fail("is not of http or https");
    }
    if keeps_path && !matches!(uri.path(), "" | "/") {
        return fail("has a path before $request_uri");
    }
    Ok(Redirect {
        scheme: uri.scheme().cloned(),
        hostname: uri.host().map(Arc::from),
        port: uri.port_u16(),
        path: (!keeps_path).then(|| PathRewrite::Full(uri.path().into())),
        status,
    })
}

/// What `proxy-next-upstream` lists; none: nothing is tried again.
pub fn retry_on(text: &str) -> Result<Option<RetryOn>, String> {
    let mut on = RetryOn::nothing();
    for word in text.split_ascii_whitespace() {
        match word {
            "off" => return Ok(None),
            "error" | "invalid_header" => (on.connect_failure, on.reset) = (true, true),
            "timeout" => on.timeout = true,
            "non_idempotent" => {
                return Err(
                    "AnnotationNotSupported: non_idempotent: a request that may have done something is never sent twice".to_owned(),
                );
            }
            _ => {
                let status = word.strip_prefix("http_").and_then(|status| status.parse().ok());
                match status.filter(|status: &StatusCode| status.as_u16() >= 400) {
                    Some(status) => on.statuses.push(status),
                    None => return Err(format!("{word:?} is none of nginx's words")),
                }
            }
        }
    }
    Ok(Some(on))
}
