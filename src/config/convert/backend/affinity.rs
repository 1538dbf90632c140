//! Affinity: what requests have in common that go to one endpoint, and the cookie that says where.

use std::sync::Arc;
use std::time::Duration;

use crate::config::convert::{DAY, Pass};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::Placed;
use crate::config::raw::backend::{RawAffinity, RawAffinityCookie, RawAffinityMode, RawSameSite};
use crate::config::raw::text::AffinityText;
use crate::model::affinity::{is_cookie_name, is_cookie_path};
use crate::model::{Affinity, AffinityBy, AffinityCookie, AffinityMode, HashKey, SameSite};

/// Affinity as it is said.
pub fn affinity(pass: &mut Pass, raw: &RawAffinity) -> Affinity {
    let by = by(pass, raw.by.as_ref(), raw.cookie.as_ref());
    if let (AffinityBy::Header(_) | AffinityBy::Source, Some(cookie)) = (&by, &raw.cookie) {
        pass.say(
            Diagnostic::error(cookie.place, "a cookie is only set when affinity is by cookie")
                .hint("leave it out, or write {by: cookie}"),
        );
    }
    Affinity {
        by,
        mode: match raw.mode {
            Some(RawAffinityMode::Balanced) => AffinityMode::Balanced,
            Some(RawAffinityMode::Strong) | None => AffinityMode::Strong,
        },
    }
}

fn by(pass: &mut Pass, text: Option<&AffinityText>, raw: Option<&Placed<RawAffinityCookie>>) -> AffinityBy {
    match text.map(|text| (text, text.text(), HashKey::parse(text.text()))) {
        Some((_, _, Some(HashKey::Source))) => AffinityBy::Source,
        Some((_, _, Some(HashKey::Header(name)))) => AffinityBy::Header(name),
        Some((text, word, _)) if word != "cookie" => {
            pass.say(
                Diagnostic::error(
                    text.place(),
                    format!("{word:?} is nothing that requests can be tied by"),
                )
                .hint("write cookie, source or header:NAME; the cookie's name stands in cookie.name"),
            );
            AffinityBy::Source
        }
        _ => AffinityBy::Cookie(raw.map_or_else(AffinityCookie::default, |raw| cookie(pass, &raw.value))),
    }
}

fn cookie(pass: &mut Pass, raw: &RawAffinityCookie) -> AffinityCookie {
    let default = AffinityCookie::default();
    if let Some(name) = &raw.name
        && !is_cookie_name(name.text())
    {
        pass.error(name.place, format!("{:?} is not a cookie's name", name.text()));
    }
    if let Some(path) = &raw.path
        && !is_cookie_path(path.text())
    {
        let hint = (!path.text().starts_with('/')).then(|| "it begins with /".to_owned());
        let wrong = format!("{:?} is not a cookie's path", path.text());
        pass.say(Diagnostic::error(path.place, wrong).maybe_hint(hint));
    }
    let text = |text: &Option<Placed<String>>, default: Arc<str>| {
        text.as_ref().map_or(default, |text| Arc::from(text.text()))
    };
    AffinityCookie {
        name: text(&raw.name, default.name),
        ttl: pass.duration_or_none(
            "ttl",
            raw.ttl.as_ref(),
            default.ttl,
            Duration::from_secs(1)..=DAY * 365,
        ),
        path: text(&raw.path, default.path),
        secure: raw.secure.as_ref().map_or(default.secure, |secure| secure.value),
        same_site: match raw.same_site {
            Some(RawSameSite::Lax) => SameSite::Lax,
            Some(RawSameSite::None) => SameSite::None,
            Some(RawSameSite::Strict) => SameSite::Strict,
            None => default.same_site,
        },
    }
}
