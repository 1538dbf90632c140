//! Backends: endpoints, balancing, health, limits.

mod admission;
mod affinity;
mod check;
mod ejection;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::names::{Names, check_name};
use super::{DAY, Pass, SHORT, filter, mtls, tls};
use crate::config::diagnostic::Diagnostic;
use crate::config::place::{Place, Placed, TextOr};
use crate::config::raw::RawConfig;
use crate::config::raw::backend::{
    RawBackend, RawBackendProtocol, RawBalance, RawEndpoint, RawEndpointLimits, RawEndpointState, RawHedge,
    RawLoadReports, RawLocality, RawProxyVersion, RawRetryBudget, RawSlowStartShape,
};
use crate::config::raw::text::PercentText;
use crate::config::units::{self, EndpointPlace};
use crate::model::backend::MAX_PRIORITY;
use crate::model::{
    Backend, BackendName, BackendProtocol, Balance, Endpoint, EndpointLimits, EndpointState, HedgePolicy,
    LoadReports, Locality, NamedEndpoint, ProxyVersion, RetryBudget, SlowStartShape, World,
};

/// Puts all backends and their endpoints into the world.
pub fn backends(
    pass: &mut Pass,
    raw: &RawConfig,
    identity: &mtls::Known,
    names: &mut Names,
    world: &mut World,
) {
    let mut virtual_addresses: HashMap<SocketAddr, Place> = HashMap::new();
    for (name, raw) in raw.backends.iter().flat_map(|map| &map.0) {
        for text in raw.value.virtual_addresses.iter().flatten() {
            names.use_backend(name);
            let Ok(address) = units::endpoint_address(text.text()) else {
                continue; // said below
            };
            if let Some(first) = virtual_addresses.insert(address, text.place()) {
                pass.say(
                    Diagnostic::error(
                        text.place(),
                        format!("{address} is the virtual address of one backend"),
                    )
                    .hint("take it from one of them")
                    .related(first, "first here"),
                );
            }
        }
        let (endpoints, named) = endpoints(pass, &raw.value, raw.place, raw.value.tls.is_some());
        check_backend_name(pass, name, &endpoints, &named);
        names.define_backend(name);
        let mut backend = backend(pass, identity, name, &raw.value);
        backend.named = named;
        world.endpoints.insert(backend.name.clone(), endpoints.into());
        world.backends.insert(backend.name.clone(), backend.into());
    }
}

/// A name, or where its only endpoint is: that gives a policy to `to: ADDRESS`.
fn check_backend_name(
    pass: &mut Pass,
    name: &Placed<String>,
    endpoints: &[Endpoint],
    named: &[NamedEndpoint],
) {
    let Ok(place) = units::endpoint_place(name.text()) else {
        return check_name(pass, "backend", name);
    };
    let is_there = match (&place, endpoints, named) {
        (EndpointPlace::Address(address), [only], []) => only.address == *address,
        (EndpointPlace::Named(host, port), [], [only]) => only.name == *host && only.port == *port,
        _ => false,
    };
    if place.to_string() != name.text() || !is_there {
        pass.error(
            name.place,
            "a backend that is called like an address has it as its only endpoint",
        );
    }
}

fn backend(pass: &mut Pass, identity: &mtls::Known, name: &Placed<String>, raw: &RawBackend) -> Backend {
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
        mtls: raw
            .mtls
            .as_ref()
            .map(|own| mtls::outbound(pass, identity, own, raw.tls.as_ref().map(|tls| tls.place))),
        proxy_protocol: raw.proxy_protocol.map(|version| match version {
            RawProxyVersion::V1 => ProxyVersion::V1,
            RawProxyVersion::V2 => ProxyVersion::V2,
        }),
        balance: raw.balance.map_or(default.balance, balance),
        hash: raw
            .hash
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::hash_key(text.text())))
            .unwrap_or(default.hash),
        hash_bound: raw
            .hash_bound
            .as_ref()
            .and_then(|text| pass.unit(text.place(), units::excess(text.text())))
            .unwrap_or(default.hash_bound),
        affinity: raw.affinity.as_ref().map(|raw| affinity::affinity(pass, raw)),
        locality: match raw.locality {
            Some(RawLocality::Hints) => Locality::Hints,
            Some(RawLocality::Off) => Locality::Off,
            Some(RawLocality::Zone) => Locality::Zone,
            None => default.locality,
        },
        subset: raw
            .subset
            .as_ref()
            .map(|most| pass.count("subset", Some(most), 1, 1..=100_000)),
        panic_percent: percent(pass, raw.panic.as_ref(), default.panic_percent),
        connect_timeout: pass.duration(
            "connect_timeout",
            raw.connect_timeout.as_ref(),
            default.connect_timeout,
            SHORT..=Duration::from_secs(300),
        ),
        limits: limits(pass, raw.limits.as_ref()),
        concurrency: admission::concurrency(pass, raw.concurrency.as_ref(), raw.concurrency_shape.as_ref()),
        criticality: raw
            .criticality_field
            .as_ref()
            .and_then(|name| filter::header_name(pass, name)),
        ejection: ejection::ejection(pass, raw.ejection.as_ref()),
        check: raw.check.as_ref().map(|raw| check::check(pass, raw)),
        slow_start: pass.duration(
            "slow_start",
            raw.slow_start.as_ref(),
            default.slow_start,
            Duration::ZERO..=DAY,
        ),
        slow_start_shape: slow_start_shape(pass, raw.slow_start_shape.as_ref()),
        retry_budget: retry_budget(pass, raw.retry_budget.as_ref()),
        hedge: raw.hedge.as_ref().map(|hedge| self::hedge(pass, hedge, raw)),
        load_reports: load_reports(raw.load_reports.as_ref()),
        virtual_addresses: raw
            .virtual_addresses
            .iter()
            .flatten()
            .filter_map(|text| pass.unit(text.place(), units::endpoint_address(text.text())))
            .collect(),
        opaque: raw.opaque.as_ref().map_or(default.opaque, |opaque| opaque.value),
        named: Vec::new(), // put in where endpoints are read
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
        RawBalance::Maglev => Balance::Maglev,
        RawBalance::Random => Balance::Random,
        RawBalance::RingHash => Balance::RingHash,
        RawBalance::RoundRobin => Balance::RoundRobin,
    }
}

fn slow_start_shape(pass: &mut Pass, raw: Option<&RawSlowStartShape>) -> SlowStartShape {
    let default = SlowStartShape::default();
    let Some(raw) = raw else { return default };
    SlowStartShape {
        aggression: pass.count("aggression", raw.aggression.as_ref(), default.aggression, 1..=10),
        minimum_percent: percent(pass, raw.minimum.as_ref(), default.minimum_percent),
    }
}

fn percent(pass: &mut Pass, text: Option<&PercentText>, default: u8) -> u8 {
    text.and_then(|text| pass.unit(text.place(), units::whole_percent(text.text())))
        .unwrap_or(default)
}

fn endpoints(
    pass: &mut Pass,
    raw: &RawBackend,
    place: Place,
    is_tls: bool,
) -> (Vec<Endpoint>, Vec<NamedEndpoint>) {
    if raw.endpoints.is_empty() {
        pass.say(Diagnostic::warning(
            place,
            "a backend without endpoints answers every request with 503",
        ));
    }
    let mut seen: HashMap<EndpointPlace, Place> = HashMap::with_capacity(raw.endpoints.len());
    let (mut endpoints, mut named) = (Vec::with_capacity(raw.endpoints.len()), Vec::new());
    for entry in &raw.endpoints {
        let (text_place, text) = match &entry.value {
            TextOr::Text(text) => (entry.place, text.as_str()),
            TextOr::Map(raw) => (raw.address.place(), raw.address.text()),
        };
        let map = match &entry.value {
            TextOr::Text(_) => None,
            TextOr::Map(raw) => Some(raw),
        };
        // Of a map everything is read, so that all mistakes are told at once.
        let common = map.map(|raw| endpoint(pass, raw, is_tls));
        let Some(at) = pass.unit(text_place, units::endpoint_place(text)) else {
            continue;
        };
        if let Some(first) = seen.insert(at.clone(), entry.place) {
            pass.say(
                Diagnostic::error(entry.place, format!("the endpoint {at} is there twice"))
                    .hint("give one of them a weight instead")
                    .related(first, "first here"),
            );
        }
        match (at, common) {
            (EndpointPlace::Address(address), common) => endpoints.push(Endpoint {
                address,
                ..common.unwrap_or_else(|| Endpoint::at(address))
            }),
            (EndpointPlace::Named(name, port), None) => named.push(NamedEndpoint::new(name, port)),
            (EndpointPlace::Named(name, port), Some(common)) => named.push(NamedEndpoint {
                weight: common.weight,
                state: common.state,
                protocol: common.protocol,
                zone: common.zone,
                priority: common.priority,
                label: common.label,
                ..NamedEndpoint::new(name, port)
            }),
        }
    }
    (endpoints, named)
}

/// All of it but where it is.
fn endpoint(pass: &mut Pass, raw: &RawEndpoint, is_tls: bool) -> Endpoint {
    let weight = pass.count("weight", raw.weight.as_ref(), 1, 1..=65_535);
    let priority = pass.count("priority", raw.priority.as_ref(), 0, 0..=u32::from(MAX_PRIORITY));
    let text = |text: &Option<Placed<String>>| text.as_ref().map(|text| Arc::from(text.text()));
    Endpoint {
        weight,
        state: match raw.state {
            Some(RawEndpointState::Draining) => EndpointState::Draining,
            Some(RawEndpointState::Active) | None => EndpointState::Active,
        },
        protocol: raw.protocol.as_ref().map(|raw| protocol(pass, raw, is_tls)),
        zone: text(&raw.zone),
        priority: u8::try_from(priority).unwrap_or(MAX_PRIORITY),
        label: text(&raw.label),
        ..Endpoint::at(SocketAddr::from(([0, 0, 0, 0], 0)))
    }
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
            // More than this a cell cannot count.
            1..=1_000_000,
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

fn hedge(pass: &mut Pass, raw: &Placed<RawHedge>, backend: &RawBackend) -> HedgePolicy {
    if backend.affinity.is_some() {
        pass.say(
            Diagnostic::error(raw.place, "a backend with affinity cannot hedge")
                .hint("hedging sends requests to a second endpoint, affinity keeps them at one: leave one of them out"),
        );
    }
    let (default, raw) = (HedgePolicy::default(), &raw.value);
    HedgePolicy {
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
        least_delay: pass.duration(
            "least_delay",
            raw.least_delay.as_ref(),
            default.least_delay,
            SHORT..=Duration::from_secs(60),
        ),
    }
}

fn load_reports(raw: Option<&RawLoadReports>) -> LoadReports {
    let default = LoadReports::default();
    let Some(raw) = raw else { return default };
    let said = |word: &Option<Placed<bool>>, default| word.as_ref().map_or(default, |word| word.value);
    LoadReports {
        read: said(&raw.read, default.read),
        ask: said(&raw.ask, default.ask),
        pass_on: said(&raw.pass_on, default.pass_on),
    }
}
