//! Backends with every default filled in.

use std::net::IpAddr;

use super::yaml::{Fields, Yaml};
use super::{fields, list, mtls, text, time, time_or_none, tls, word};
use crate::config::units::{show_concurrency, show_excess, show_status_ranges};
use crate::model::{
    ActiveCheck, Affinity, AffinityBy, AffinityMode, Backend, BackendProtocol, CheckKind, Comparable,
    Concurrency, Ejection, Endpoint, EndpointState, HedgePolicy, NamedEndpoint,
};

fn protocol(protocol: BackendProtocol, is_tls: bool) -> Yaml {
    word(match (protocol, is_tls) {
        (BackendProtocol::H2c, true) => "h2",
        (BackendProtocol::H2c, false) => "h2c",
        (BackendProtocol::Http1, _) | (BackendProtocol::Auto, false) => "h1",
        (BackendProtocol::Auto, true) => "auto",
    })
}

/// A backend with everything that it is.
pub fn backend(backend: &Backend, endpoints: &[Endpoint]) -> Yaml {
    let given = endpoints.iter().map(|one| (one.address.to_string(), one.clone()));
    // Whatever the address: what they have in common is shown.
    let shape = |one: &NamedEndpoint| one.at(IpAddr::from([0, 0, 0, 0]));
    let named = backend.named.iter().map(|one| (one.to_string(), shape(one)));
    let all: Vec<_> = given.chain(named).collect();
    let limits = Fields::default()
        .with("max_connections", word(backend.limits.max_connections))
        .with("max_in_flight", word(backend.limits.max_in_flight))
        .with("queue_timeout", time(backend.limits.queue_timeout))
        .with("max_idle", word(backend.limits.max_idle))
        .with("idle_timeout", time(backend.limits.idle_timeout))
        .with("max_streams", word(backend.limits.max_streams));
    let budget = Fields::default()
        .with("percent", word(format!("{}%", backend.retry_budget.percent)))
        .with("per_second", word(backend.retry_budget.per_second));
    let load_reports = Fields::default()
        .with("read", word(backend.load_reports.read))
        .with("ask", word(backend.load_reports.ask))
        .with("pass_on", word(backend.load_reports.pass_on));
    let shape = Fields::default()
        .with("aggression", word(backend.slow_start_shape.aggression))
        .with("minimum", percent(backend.slow_start_shape.minimum_percent));
    Fields::default()
        .with(
            "endpoints",
            list(&all, |(place, one)| endpoint(place, one, backend.tls.is_some())),
        )
        .with("protocol", protocol(backend.protocol, backend.tls.is_some()))
        .maybe("tls", backend.tls.as_deref().map(tls::upstream))
        .maybe("mtls", backend.mtls.as_ref().map(mtls::outbound))
        .maybe(
            "proxy_protocol",
            backend.proxy_protocol.map(|version| word(version.word())),
        )
        .with("balance", word(backend.balance.word()))
        .with("hash", text(backend.hash.to_string()))
        .with("hash_bound", word(show_excess(backend.hash_bound)))
        .maybe("affinity", backend.affinity.as_ref().map(affinity))
        .with("panic", percent(backend.panic_percent))
        .with("locality", word(backend.locality.word()))
        .maybe("subset", backend.subset.map(word))
        .with("connect_timeout", time(backend.connect_timeout))
        .with("limits", limits.yaml())
        .with("concurrency", word(show_concurrency(backend.concurrency)))
        .maybe(
            "concurrency_shape",
            backend.concurrency.and_then(concurrency_shape),
        )
        .maybe("criticality_field", backend.criticality.as_ref().map(text))
        .with("ejection", ejection(backend.ejection.as_ref()))
        .maybe("check", backend.check.as_ref().map(check))
        .with("slow_start", time(backend.slow_start))
        .with("slow_start_shape", shape.yaml())
        .with("retry_budget", budget.yaml())
        .maybe("hedge", backend.hedge.as_ref().map(hedge))
        .with("load_reports", load_reports.yaml())
        .maybe(
            "virtual_addresses",
            (!backend.virtual_addresses.is_empty())
                .then(|| list(&backend.virtual_addresses, |address| text(address.to_string()))),
        )
        .with("opaque", word(backend.opaque))
        .yaml()
}

fn hedge(hedge: &HedgePolicy) -> Yaml {
    Fields::default()
        .with("percent", word(format!("{}%", hedge.percent)))
        .with("per_second", word(hedge.per_second))
        .with("least_delay", time(hedge.least_delay))
        .yaml()
}

fn percent(percent: u8) -> Yaml {
    word(format!("{percent}%"))
}

fn concurrency_shape(concurrency: Concurrency) -> Option<Yaml> {
    let Concurrency::Adaptive(adaptive) = concurrency else {
        return None;
    };
    let shape = Fields::default()
        .with("min", word(adaptive.min))
        .with("max", word(adaptive.max))
        .with("tolerance", word(show_excess(Some(adaptive.tolerance_percent))));
    Some(shape.yaml())
}

fn affinity(affinity: &Affinity) -> Yaml {
    let (by, cookie) = match &affinity.by {
        AffinityBy::Cookie(cookie) => ("cookie".to_owned(), Some(cookie)),
        AffinityBy::Header(name) => (format!("header:{name}"), None),
        AffinityBy::Source => ("source".to_owned(), None),
    };
    let mode = match affinity.mode {
        AffinityMode::Strong => "strong",
        AffinityMode::Balanced => "balanced",
    };
    let cookie = cookie.map(|cookie| {
        Fields::default()
            .with("name", text(&cookie.name))
            .with("ttl", time_or_none(cookie.ttl))
            .with("path", text(&cookie.path))
            .with("secure", word(cookie.secure))
            .with("same_site", word(cookie.same_site.word().to_ascii_lowercase()))
            .yaml()
    });
    Fields::default()
        .with("by", text(by))
        .with("mode", word(mode))
        .maybe("cookie", cookie)
        .yaml()
}

fn endpoint(place: &str, endpoint: &Endpoint, is_tls: bool) -> Yaml {
    let state = match endpoint.state {
        EndpointState::Active => "active",
        EndpointState::Draining => "draining",
    };
    Fields::default()
        .with("address", text(place))
        .with("weight", word(endpoint.weight))
        .with("state", word(state))
        .with("priority", word(endpoint.priority))
        .maybe("protocol", endpoint.protocol.map(|one| protocol(one, is_tls)))
        .maybe("zone", endpoint.zone.as_ref().map(text))
        .maybe("label", endpoint.label.as_ref().map(text))
        .yaml()
}

fn ejection(ejection: Option<&Ejection>) -> Yaml {
    let Some(ejection) = ejection else {
        return off();
    };
    let success_rate = ejection.success_rate.as_ref().map(|outlier| {
        among(&outlier.among)
            .with("deviation", word(outlier.deviation))
            .yaml()
    });
    let failure_share = ejection.failure_share.as_ref().map(|outlier| {
        among(&outlier.among)
            .with("percent", percent(outlier.percent))
            .yaml()
    });
    let latency = ejection
        .latency
        .as_ref()
        .map(|outlier| among(&outlier.among).with("times", word(outlier.times)).yaml());
    Fields::default()
        .with("enabled", word(true))
        .with("consecutive_failures", word(ejection.consecutive_failures))
        .maybe("gateway_failures", ejection.gateway_failures.map(word))
        .with("interval", time(ejection.interval))
        .with("success_rate", success_rate.unwrap_or_else(off))
        .with("failure_share", failure_share.unwrap_or_else(off))
        .with("latency", latency.unwrap_or_else(off))
        .with("ends_on_check", word(ejection.ends_on_check))
        .with("base", time(ejection.base))
        .with("max", time(ejection.max))
        .with("max_percent", percent(ejection.max_percent))
        .yaml()
}

fn among(among: &Comparable) -> Fields {
    Fields::default()
        .with("enabled", word(true))
        .with("min_endpoints", word(among.min_endpoints))
        .with("min_requests", word(among.min_requests))
}

fn off() -> Yaml {
    Fields::default().with("enabled", word(false)).yaml()
}

fn check(check: &ActiveCheck) -> Yaml {
    let (kind, asked) = match &check.kind {
        CheckKind::Tcp => ("tcp", Fields::default()),
        CheckKind::Grpc { service } => ("grpc", Fields::default().with("service", text(service))),
        CheckKind::Http(http) => (
            "http",
            Fields::default()
                .with("path", text(&http.path))
                .maybe("host", http.host.as_ref().map(text))
                .maybe(
                    "headers",
                    (!http.headers.is_empty()).then(|| fields(&http.headers)),
                )
                .with("statuses", word(show_status_ranges(&http.statuses)))
                .maybe("body", http.body.as_ref().map(text)),
        ),
    };
    Fields::default()
        .with(kind, asked.yaml())
        .with("interval", time(check.interval))
        .with("timeout", time(check.timeout))
        .with("healthy_after", word(check.healthy_after))
        .with("unhealthy_after", word(check.unhealthy_after))
        .maybe("port", check.port.map(word))
        .with("before_use", word(check.before_use))
        .yaml()
}
