//! Active checks: what is asked, how often, and what a good answer is.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::config::convert::{DAY, Pass, SHORT, filter};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::Placed;
use crate::config::raw::backend::{RawCheck, RawHttpCheck};
use crate::config::units;
use crate::model::{ActiveCheck, CheckKind, HttpCheck};

/// What a check is when nothing more is said.
const CHECK: (Duration, Duration, u32, u32) = (Duration::from_secs(2), Duration::from_secs(1), 2, 3);

/// An active check.
pub fn check(pass: &mut Pass, raw: &Placed<RawCheck>) -> ActiveCheck {
    let (place, raw) = (raw.place, &raw.value);
    let (interval, timeout, healthy_after, unhealthy_after) = CHECK;
    let asked = [raw.http.is_some(), raw.grpc.is_some(), raw.tcp.is_some()];
    if asked.iter().filter(|asked| **asked).count() > 1 {
        pass.error(place, "a check asks by one of http, grpc and tcp");
    }
    let kind = match (&raw.http, &raw.grpc, &raw.tcp) {
        (Some(http), _, _) => CheckKind::Http(http_check(pass, http)),
        (None, Some(grpc), _) => CheckKind::Grpc {
            service: grpc.service.as_ref().map_or("", |service| service.text()).into(),
        },
        (None, None, Some(_)) => CheckKind::Tcp,
        (None, None, None) => {
            pass.say(
                Diagnostic::error(place, "a check needs http, grpc or tcp")
                    .hint("write {http: {path: /healthz}}, {grpc: {}} or {tcp: {}}"),
            );
            CheckKind::Tcp
        }
    };
    let port = raw.port.as_ref().map(|port| {
        if port.value == 0 {
            pass.error(port.place, "port must be from 1 to 65535, not 0");
        }
        port.value
    });
    ActiveCheck {
        kind,
        interval: pass.duration(
            "interval",
            raw.interval.as_ref(),
            interval,
            Duration::from_millis(10)..=DAY,
        ),
        timeout: pass.duration(
            "timeout",
            raw.timeout.as_ref(),
            timeout,
            SHORT..=Duration::from_secs(300),
        ),
        healthy_after: pass.count(
            "healthy_after",
            raw.healthy_after.as_ref(),
            healthy_after,
            1..=1000,
        ),
        unhealthy_after: pass.count(
            "unhealthy_after",
            raw.unhealthy_after.as_ref(),
            unhealthy_after,
            1..=1000,
        ),
        port,
        before_use: raw.before_use.as_ref().is_some_and(|before| before.value),
    }
}

fn http_check(pass: &mut Pass, raw: &RawHttpCheck) -> HttpCheck {
    let good = (
        StatusCode::OK,
        StatusCode::from_u16(299).unwrap_or(StatusCode::OK),
    );
    let path = raw.path.text();
    if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() || path.contains('#') {
        let hint = (!path.starts_with('/')).then(|| "it begins with /".to_owned());
        pass.say(Diagnostic::error(raw.path.place, format!("{path:?} is not a path")).maybe_hint(hint));
    }
    if let Some(host) = &raw.host
        && filter::authority(host.text()).is_none()
    {
        pass.error(host.place, format!("{:?} is not a hostname", host.text()));
    }
    let headers = raw.headers.as_ref();
    for (name, _) in headers.iter().flat_map(|map| &map.0) {
        if let Some(header) = filter::header_name(pass, name)
            && (filter::FRAMING.contains(&header.as_str()) || header == http::header::HOST)
        {
            let hint = (header == http::header::HOST).then(|| "use host".to_owned());
            let wrong = format!("{header} is the proxy's own and cannot be set");
            pass.say(Diagnostic::error(name.place, wrong).maybe_hint(hint));
        }
    }
    if let Some(body) = &raw.body
        && (body.text().is_empty() || body.text().len() > MAX_BODY)
    {
        pass.error(body.place, format!("body must have 1 to {MAX_BODY} bytes"));
    }
    HttpCheck {
        headers: filter::fields(pass, headers),
        body: raw.body.as_ref().map(|body| Arc::from(body.text())),
        path: Arc::from(path),
        host: raw.host.as_ref().map(|host| Arc::from(host.text())),
        statuses: raw
            .statuses
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::status_ranges(text.text())))
            .unwrap_or_else(|| vec![good]),
    }
}

/// Longest text that an answer is searched for, in bytes.
const MAX_BODY: usize = 1024;
