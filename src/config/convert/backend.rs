//! Backends: endpoints, balancing, health, limits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::names::{Names, check_name};
use super::{DAY, Pass, SHORT, tls};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed, TextOr};
use crate::config::raw::RawConfig;
use crate::config::raw::backend::{
    RawBackend, RawBackendProtocol, RawBalance, RawCheck, RawEjection, RawEndpoint, RawEndpointLimits,
    RawEndpointState, RawHttpCheck, RawRetryBudget,
};
use crate::config::units;
use crate::model::{
    ActiveCheck, Backend, BackendName, BackendProtocol, Balance, CheckKind, Ejection, Endpoint,
    EndpointLimits, EndpointState, RetryBudget, World,
};

/// Puts all backends and their endpoints into the world.
pub fn backends(pass: &mut Pass, raw: &RawConfig, names: &mut Names, world: &mut World) {
    for (name, raw) in raw.backends.iter().flat_map(|map| &map.0) {
        let endpoints = endpoints(pass, &raw.value, raw.place, raw.value.tls.is_some());
        check_backend_name(pass, name, &endpoints);
        names.define_backend(name);
        let backend = backend(pass, name, &raw.value);
        world.endpoints.insert(backend.name.clone(), endpoints.into());
        world.backends.insert(backend.name.clone(), backend.into());
    }
}

/// A name, or the address of its only endpoint: that gives a policy to `to: ADDRESS`.
fn check_backend_name(pass: &mut Pass, name: &Placed<String>, endpoints: &[Endpoint]) {
    let Ok(address) = name.text().parse::<SocketAddr>() else {
        return check_name(pass, "backend", name);
    };
    if address.to_string() != name.text() || endpoints.len() != 1 || endpoints[0].address != address {
        pass.error(
            name.place,
            "a backend that is called like an address has it as its only endpoint",
        );
    }
}

fn backend(pass: &mut Pass, name: &Placed<String>, raw: &RawBackend) -> Backend {
    let default = Backend::new(BackendName::new(name.text()));
    Backend {
        protocol: match (&raw.protocol, &raw.tls) {
            (Some(raw_protocol), tls) => protocol(pass, raw_protocol, tls.is_some()),
            (None, Some(_)) => BackendProtocol::Auto,
            (None, None) => default.protocol,
        },
        tls: raw
            .tls
            .as_ref()
            .and_then(|raw| tls::upstream(pass, raw))
            .map(Arc::new),
        balance: raw.balance.map_or(default.balance, balance),
        connect_timeout: pass.duration(
            "connect_timeout",
            raw.connect_timeout.as_ref(),
            default.connect_timeout,
            SHORT..=Duration::from_secs(300),
        ),
        limits: limits(pass, raw.limits.as_ref()),
        ejection: ejection(pass, raw.ejection.as_ref()),
        check: raw.check.as_ref().map(|raw| check(pass, raw)),
        slow_start: pass.duration(
            "slow_start",
            raw.slow_start.as_ref(),
            default.slow_start,
            Duration::ZERO..=DAY,
        ),
        retry_budget: retry_budget(pass, raw.retry_budget.as_ref()),
        name: default.name,
    }
}

fn protocol(pass: &mut Pass, raw: &Placed<RawBackendProtocol>, is_tls: bool) -> BackendProtocol {
    match (raw.value, is_tls) {
        (RawBackendProtocol::H2c, true) => pass.say(
            Diagnostic::error(raw.place, "h2c is clear text, and this backend has TLS").hint("write h2"),
        ),
        (RawBackendProtocol::H2, false) => pass.say(
            Diagnostic::error(raw.place, "h2 needs TLS, and this backend has none")
                .hint("write h2c for HTTP/2 in clear text, or give it tls: {hostname: ..}"),
        ),
        (RawBackendProtocol::Auto, false) => pass.say(
            Diagnostic::error(raw.place, "auto needs TLS, where endpoints say what they speak")
                .hint("write h1 or h2c, or give it tls: {hostname: ..}"),
        ),
        _ => {}
    }
    match raw.value {
        RawBackendProtocol::H1 => BackendProtocol::Http1,
        RawBackendProtocol::H2c | RawBackendProtocol::H2 => BackendProtocol::H2c,
        RawBackendProtocol::Auto => BackendProtocol::Auto,
    }
}

fn balance(raw: RawBalance) -> Balance {
    match raw {
        RawBalance::LeastLatency => Balance::LeastLatency,
        RawBalance::LeastRequest => Balance::LeastRequest,
        RawBalance::Random => Balance::Random,
        RawBalance::RoundRobin => Balance::RoundRobin,
    }
}

fn endpoints(pass: &mut Pass, raw: &RawBackend, place: Place, is_tls: bool) -> Vec<Endpoint> {
    if raw.endpoints.is_empty() {
        pass.say(Diagnostic::warning(
            place,
            "a backend without endpoints answers every request with 503",
        ));
    }
    let mut seen: HashMap<SocketAddr, Place> = HashMap::with_capacity(raw.endpoints.len());
    let mut endpoints = Vec::with_capacity(raw.endpoints.len());
    for entry in &raw.endpoints {
        let endpoint = match &entry.value {
            TextOr::Text(text) => pass
                .unit(entry.place, units::endpoint_address(text))
                .map(Endpoint::at),
            TextOr::Map(raw) => endpoint(pass, raw, is_tls),
        };
        let Some(endpoint) = endpoint else { continue };
        if let Some(first) = seen.insert(endpoint.address, entry.place) {
            pass.say(
                Diagnostic::error(
                    entry.place,
                    format!("the endpoint {} is there twice", endpoint.address),
                )
                .hint("give one of them a weight instead")
                .related(first, "first here"),
            );
        }
        endpoints.push(endpoint);
    }
    endpoints
}

fn endpoint(pass: &mut Pass, raw: &RawEndpoint, is_tls: bool) -> Option<Endpoint> {
    let weight = pass.count("weight", raw.weight.as_ref(), 1, 1..=65_535);
    let text = |text: &Option<Placed<String>>| text.as_ref().map(|text| Arc::from(text.text()));
    let address = pass.unit(raw.address.place(), units::endpoint_address(raw.address.text()))?;
    Some(Endpoint {
        weight,
        state: match raw.state {
            Some(RawEndpointState::Draining) => EndpointState::Draining,
            Some(RawEndpointState::Active) | None => EndpointState::Active,
        },
        protocol: raw.protocol.as_ref().map(|raw| protocol(pass, raw, is_tls)),
        zone: text(&raw.zone),
        label: text(&raw.label),
        ..Endpoint::at(address)
    })
}

fn limits(pass: &mut Pass, raw: Option<&RawEndpointLimits>) -> EndpointLimits {
    let default = EndpointLimits::default();
    let Some(raw) = raw else { return default };
    EndpointLimits {
        max_connections: pass.count(
            "max_connections",
            raw.max_connections.as_ref(),
            default.max_connections,
            1..=1_000_000,
        ),
        max_in_flight: pass.count(
            "max_in_flight",
            raw.max_in_flight.as_ref(),
            default.max_in_flight,
            1..=10_000_000,
        ),
        queue_timeout: pass.duration(
            "queue_timeout",
            raw.queue_timeout.as_ref(),
            default.queue_timeout,
            Duration::ZERO..=Duration::from_secs(300),
        ),
        max_idle: pass.count("max_idle", raw.max_idle.as_ref(), default.max_idle, 0..=1_000_000),
        idle_timeout: pass.duration(
            "idle_timeout",
            raw.idle_timeout.as_ref(),
            default.idle_timeout,
            SHORT..=DAY,
        ),
        max_streams: pass.count(
            "max_streams",
            raw.max_streams.as_ref(),
            default.max_streams,
            1..=10_000,
        ),
    }
}

fn ejection(pass: &mut Pass, raw: Option<&RawEjection>) -> Option<Ejection> {
    let default = Ejection::default();
    let Some(raw) = raw else { return Some(default) };
    let ejection = Ejection {
        consecutive_failures: pass.count(
            "consecutive_failures",
            raw.consecutive_failures.as_ref(),
            default.consecutive_failures,
            1..=1_000_000,
        ),
        base: pass.duration("base", raw.base.as_ref(), default.base, SHORT..=DAY),
        max: pass.duration("max", raw.max.as_ref(), default.max, SHORT..=DAY),
        max_percent: raw
            .max_percent
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::whole_percent(text.text())))
            .unwrap_or(default.max_percent),
    };
    if let Some(text) = raw.base.as_ref().or(raw.max.as_ref())
        && ejection.base > ejection.max
    {
        let (base, max) = (ejection.base, ejection.max);
        let show = units::show_duration;
        pass.error(
            text.place(),
            format!("base ({}) is longer than max ({})", show(base), show(max)),
        );
    }
    let enabled = raw.enabled.as_ref().is_none_or(|enabled| enabled.value);
    enabled.then_some(ejection)
}

/// What a check is when nothing more is said.
pub const CHECK: (Duration, Duration, u32, u32) = (Duration::from_secs(2), Duration::from_secs(1), 2, 3);

fn check(pass: &mut Pass, raw: &Placed<RawCheck>) -> ActiveCheck {
    let (place, raw) = (raw.place, &raw.value);
    let (interval, timeout, healthy_after, unhealthy_after) = CHECK;
    let kind = match (&raw.http, &raw.tcp) {
        (Some(http), None) => http_check(pass, http),
        (None, Some(_)) => CheckKind::Tcp,
        (Some(_), Some(_)) => {
            pass.error(place, "a check asks by http or by tcp, not both");
            CheckKind::Tcp
        }
        (None, None) => {
            pass.say(
                Diagnostic::error(place, "a check needs http or tcp")
                    .hint("write {http: {path: /healthz}} or {tcp: {}}"),
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
    }
}

fn http_check(pass: &mut Pass, raw: &RawHttpCheck) -> CheckKind {
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
        && super::filter::authority(host.text()).is_none()
    {
        pass.error(host.place, format!("{:?} is not a hostname", host.text()));
    }
    CheckKind::Http {
        path: Arc::from(path),
        host: raw.host.as_ref().map(|host| Arc::from(host.text())),
        statuses: raw
            .statuses
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::status_range(text.text())))
            .unwrap_or(good),
    }
}

fn retry_budget(pass: &mut Pass, raw: Option<&RawRetryBudget>) -> RetryBudget {
    let default = RetryBudget::default();
    let Some(raw) = raw else { return default };
    RetryBudget {
        percent: raw
            .percent
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::whole_percent(text.text())))
            .map_or(default.percent, u32::from),
        per_second: pass.count(
            "per_second",
            raw.per_second.as_ref(),
            default.per_second,
            0..=1_000_000,
        ),
    }
}
