//! Routes: their listeners, hostnames and rules in the words of the model. HTTPRoutes and GRPCRoutes are read here, the others in
//! `routes/stream.rs`.
//!
//! What is bad is left out as small as it can be without sending a request astray: a hostname, a match,
//! a mirror; a parent that does not take the route. A filter that cannot be done must not be skipped and
//! a backend that cannot be referred to must not be replaced (Gateway API, `HTTPRouteRule.filters`,
//! `backendRefs`): their share of requests is answered with 500.

mod attach;
mod cors;
mod filters;
mod matches;
mod reference;
pub mod services;
mod stream;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

pub use attach::parent_key;
use http::StatusCode;
use services::Clients;
pub use services::service_of;
pub use stream::of_stream;

use crate::kubernetes::gateway::Gateways;
use crate::kubernetes::index::{Claim, Complaint, Findings, Rivals, Store};
use crate::kubernetes::objects::{
    BackendRef, GrpcRoute, GrpcRouteRule, HttpRoute, HttpRouteFilter, HttpRouteRule, Key, Kind, Object,
    ParentRef, RouteRetry, RouteTimeouts, parse_duration,
};
use crate::kubernetes::service::{Traffic, Way, backend_name};
use crate::model::{
    BackendTarget, HostPattern, ListenerName, Match, RetryOn, RetryPolicy, Route, RouteName, Rule, Timeouts,
    WeightedBackend,
};

/// The highest weight, as in the API's schema.
const MAX_WEIGHT: i64 = 1_000_000;

/// Silence allowed within the response of a call.
const GRPC_IDLE: Duration = Duration::from_secs(3600);

/// The most retries a route may ask for.
const MAX_RETRIES: i64 = 20;

/// What a translation may look at beside the object itself.
#[derive(Clone, Copy)]
pub struct Surroundings<'index> {
    /// All objects.
    pub store: &'index Store,
    /// The Gateways that are ours.
    pub gateways: &'index Gateways,
    /// Which of HTTPRoutes and GRPCRoutes are attached where both want to be.
    pub rivals: &'index Rivals,
    /// Whose requests to Services are asked about; none: parents are Gateways and ListenerSets.
    pub clients: Option<Clients<'index>>,
    /// How the listeners in question lead to endpoints.
    pub way: &'index Way,
}

/// The route that an HTTPRoute is, if it is attached to anything that is ours.
pub fn of_http(
    key: &Key,
    object: &HttpRoute,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<Route> {
    let unsaid = [HttpRouteRule::default()];
    let specs = object.spec.rules.as_deref().unwrap_or(&unsaid);
    let wish = Wish {
        parents: &object.spec.parent_refs,
        hostnames: &object.spec.hostnames,
        created: object.metadata.created,
    };
    route(key, wish, around, findings, |around, findings| {
        let rules = specs.iter().enumerate();
        rules
            .filter_map(|(at, spec)| http_rule(key, spec, &format!("spec.rules[{at}]"), around, findings))
            .map(Arc::new)
            .collect()
    })
}

/// The route that a GRPCRoute is, if it is attached to anything that is ours.
pub fn of_grpc(
    key: &Key,
    object: &GrpcRoute,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<Route> {
    let wish = Wish {
        parents: &object.spec.parent_refs,
        hostnames: &object.spec.hostnames,
        created: object.metadata.created,
    };
    route(key, wish, around, findings, |around, findings| {
        let rules = object.spec.rules.iter().enumerate();
        rules
            .filter_map(|(at, spec)| grpc_rule(key, spec, &format!("spec.rules[{at}]"), around, findings))
            .map(Arc::new)
            .collect()
    })
}

/// What an HTTPRoute or GRPCRoute claims of the listeners that take it.
pub fn claims(key: &Key, object: &Object, around: Surroundings<'_>) -> BTreeMap<ListenerName, Claim> {
    let (parents, texts, created) = match object {
        Object::HttpRoute(route) => (
            &route.spec.parent_refs,
            &route.spec.hostnames,
            route.metadata.created,
        ),
        Object::GrpcRoute(route) => (
            &route.spec.parent_refs,
            &route.spec.hostnames,
            route.metadata.created,
        ),
        _ => return BTreeMap::new(),
    };
    match around.clients {
        None => {
            let hostnames = hostnames(texts, &mut Findings::default());
            attach::claims(key, parents, &hostnames, created, around)
        }
        Some(clients) => services::claims(key, parents, clients, around),
    }
}

/// What every kind of route says of itself.
struct Wish<'object> {
    parents: &'object [ParentRef],
    hostnames: &'object [Arc<str>],
    created: u64,
}

/// The routes that a route object is: one for each way in which its listeners lead to endpoints, nearly always one.
fn route(
    key: &Key,
    wish: Wish<'_>,
    around: Surroundings<'_>,
    findings: &mut Findings,
    rules: impl Fn(Surroundings<'_>, &mut Findings) -> Vec<Arc<Rule>>,
) -> Vec<Route> {
    let (hostnames, listeners) = match around.clients {
        None => {
            let hostnames = hostnames(wish.hostnames, findings);
            let listeners = attach::listeners(key, wish.parents, &hostnames, around, findings);
            (hostnames, attach::by_way(listeners))
        }
        Some(clients) => {
            let listeners = services::listeners(key, wish.parents, clients, around, findings);
            let found = Some((Way::REQUESTS, listeners)).filter(|(_, listeners)| !listeners.is_empty());
            (vec![HostPattern::Any], found.into_iter().collect())
        }
    };
    if listeners.is_empty() || hostnames.is_empty() {
        // a route that is not attached has no say in what is used
        return Vec::new();
    }
    let mut routes = Vec::with_capacity(1);
    for (way, listeners) in listeners {
        let rules = rules(Surroundings { way: &way, ..around }, findings);
        if rules.is_empty() {
            findings.complain(
                "spec.rules",
                "UnsupportedValue: no rule is left, so the route is left out",
            );
            return Vec::new();
        }
        routes.push(Route {
            name: route_name(key, &way),
            listeners,
            hostnames: hostnames.clone(),
            rules,
            created: wish.created,
            order: 0, // the name decides: its order is that of `namespace/name`
        });
    }
    routes
}

/// What a route object is called in the model. What comes behind its name begins with a space, which is before all that names may
/// have, so that the order stays that of names.
fn route_name(key: &Key, way: &Way) -> RouteName {
    let mut name = format!("{}/{}", key.kind.name(), key.id);
    if (key.kind, way.traffic) == (Kind::TlsRoute, Traffic::Bytes) {
        name.push_str(" (terminated)");
    }
    if let Some(gateway) = &way.identity {
        let _ = write!(name, " as {gateway}"); // a String takes everything
    }
    RouteName::new(name)
}

/// The hostnames of a route; empty when it gives only bad ones (it must not become a route for all).
fn hostnames(texts: &[Arc<str>], findings: &mut Findings) -> Vec<HostPattern> {
    if texts.is_empty() {
        return vec![HostPattern::Any];
    }
    let mut found = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        match HostPattern::parse(text) {
            Ok(hostname) => found.push(hostname),
            Err(error) => findings.complain(
                format!("spec.hostnames[{at}]"),
                format!("UnsupportedValue: {error}"),
            ),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// A rule of an HTTPRoute, or none when no match of it is left.
fn http_rule(
    key: &Key,
    spec: &HttpRouteRule,
    field: &str,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Rule> {
    let rule = Rule {
        name: spec.name.clone(),
        matches: matches(spec.matches.iter().map(matches::of_http), field, findings)?,
        timeouts: timeouts(spec.timeouts.as_ref(), unsaid(around), field, findings),
        retry: retry(spec.retry.as_ref(), field, findings),
        ..Rule::default()
    };
    Some(lead(
        rule,
        key,
        &spec.filters,
        &spec.backend_refs,
        field,
        around,
        findings,
    ))
}

/// A rule of a GRPCRoute, or none when no match of it is left. Calls bring their own deadline (`grpc-timeout`), and streams
/// may rightly be silent for long.
fn grpc_rule(
    key: &Key,
    spec: &GrpcRouteRule,
    field: &str,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Rule> {
    let rule = Rule {
        name: spec.name.clone(),
        matches: matches(spec.matches.iter().map(matches::of_grpc), field, findings)?,
        timeouts: match around.clients {
            None => Timeouts {
                request: None,
                idle: Some(GRPC_IDLE),
                ..Timeouts::default()
            },
            Some(_) => Timeouts::NONE,
        },
        ..Rule::default()
    };
    Some(lead(
        rule,
        key,
        &spec.filters,
        &spec.backend_refs,
        field,
        around,
        findings,
    ))
}

/// The matches that can be used, one for everything where there is none; none when none is left.
fn matches(
    specs: impl ExactSizeIterator<Item = Result<Match, Complaint>>,
    field: &str,
    findings: &mut Findings,
) -> Option<Vec<Match>> {
    if specs.len() == 0 {
        return Some(vec![Match::default()]);
    }
    let mut matches = Vec::with_capacity(specs.len());
    for (at, read) in specs.enumerate() {
        match read {
            Ok(read) => matches.push(read),
            Err(complaint) => findings.complain(
                format!("{field}.matches[{at}]{}", complaint.field),
                format!("UnsupportedValue: {}; this match is left out", complaint.reason),
            ),
        }
    }
    (!matches.is_empty()).then_some(matches)
}

/// The rule with what it does: its filters, and where it leads.
fn lead(
    mut rule: Rule,
    key: &Key,
    filters: &[HttpRouteFilter],
    backend_refs: &[BackendRef],
    field: &str,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Rule {
    let below = format!("{field}.filters");
    match filters::read(key, filters, &below, &rule.matches, around, findings) {
        Ok(filters) => {
            rule.filters = filters;
            rule.backends = backends(key, backend_refs, field, &rule.matches, around, findings);
        }
        Err(complaint) => {
            let reason = format!(
                "{}; requests of this rule are answered with 500",
                complaint.reason
            );
            findings.complain(complaint.field, &reason);
            rule.backends = vec![WeightedBackend {
                target: BackendTarget::Invalid(Arc::from(reason)),
                weight: 1,
                filters: Vec::new(),
            }];
        }
    }
    rule
}

fn backends(
    key: &Key,
    backend_refs: &[BackendRef],
    field: &str,
    matches: &[Match],
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<WeightedBackend> {
    let mut found = Vec::with_capacity(backend_refs.len());
    for (at, wanted) in backend_refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{at}]");
        let weight = match wanted.weight {
            None => 1,
            Some(weight @ 0..=MAX_WEIGHT) => u32::try_from(weight).unwrap_or(0),
            Some(weight) => {
                findings.complain(
                    format!("{field}.weight"),
                    format!("UnsupportedValue: {weight} is not from 0 to {MAX_WEIGHT}; this backend gets no requests"),
                );
                0
            }
        };
        let resolved = reference::resolve(key, wanted, around, findings);
        let (target, filters) = match resolved {
            Ok((service, port)) => {
                let below = format!("{field}.filters");
                match filters::read(key, &wanted.filters, &below, matches, around, findings) {
                    Ok(filters) => {
                        let target = BackendTarget::Backend(backend_name(&service, &port));
                        findings.on.uses.insert((service, port));
                        (target, filters)
                    }
                    Err(complaint) => {
                        let reason = format!(
                            "{}; requests of this backend are answered with 500",
                            complaint.reason
                        );
                        findings.complain(complaint.field, &reason);
                        (BackendTarget::Invalid(Arc::from(reason)), Vec::new())
                    }
                }
            }
            Err(complaint) => {
                let reason = complaint.reason;
                findings.complain(format!("{field}{}", complaint.field), &reason);
                (BackendTarget::Invalid(Arc::from(reason)), Vec::new())
            }
        };
        found.push(WeightedBackend {
            target,
            weight,
            filters,
        });
    }
    found
}

/// The deadlines of rules that say nothing of them. Clients of a Service do not know that anybody stands between, and
/// have their own.
fn unsaid(around: Surroundings<'_>) -> Timeouts {
    match around.clients {
        None => Timeouts::default(),
        Some(_) => Timeouts::NONE,
    }
}

/// Deadlines; `0s` switches one off, and the default of the whole gives way to a longer one of the part.
fn timeouts(
    spec: Option<&RouteTimeouts>,
    unsaid: Timeouts,
    field: &str,
    findings: &mut Findings,
) -> Timeouts {
    let mut timeouts = unsaid;
    let Some(spec) = spec else {
        return timeouts;
    };
    let mut read = |text: &Option<Box<str>>, name: &str| -> Option<Duration> {
        match parse_duration(text.as_deref()?) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                let reason = format!("UnsupportedValue: {reason}; the default is used");
                findings.complain(format!("{field}.timeouts.{name}"), reason);
                None
            }
        }
    };
    let request = read(&spec.request, "request");
    let per_try = read(&spec.backend_request, "backendRequest");
    timeouts.per_try = per_try.filter(|timeout| !timeout.is_zero());
    timeouts.request = match request {
        Some(Duration::ZERO) => None,
        Some(request) => Some(request),
        None => timeouts
            .request
            .map(|request| request.max(per_try.unwrap_or_default())),
    };
    if let (Some(request), Some(per_try)) = (timeouts.request, timeouts.per_try)
        && per_try > request
    {
        findings.complain(
            format!("{field}.timeouts.backendRequest"),
            "UnsupportedValue: it is longer than timeouts.request, which is used for both",
        );
        timeouts.per_try = None;
    }
    timeouts
}

/// Retries (GEP-1731): `attempts` counts those after the first; lost connections are retried as well as the codes.
fn retry(spec: Option<&RouteRetry>, field: &str, findings: &mut Findings) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    let Some(spec) = spec else {
        return policy;
    };
    policy.on = RetryOn {
        timeout: true,
        ..RetryOn::default()
    };
    match spec.attempts {
        None => {}
        Some(attempts @ 0..=MAX_RETRIES) => policy.attempts = u8::try_from(attempts + 1).unwrap_or(1),
        Some(attempts) => findings.complain(
            format!("{field}.retry.attempts"),
            format!(
                "UnsupportedValue: {attempts} is not from 0 to {MAX_RETRIES}; {} is used",
                policy.attempts - 1
            ),
        ),
    }
    for (at, code) in spec.codes.iter().enumerate() {
        match u16::try_from(*code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
        {
            Some(status) if (400..600).contains(&status.as_u16()) => policy.on.statuses.push(status),
            _ => findings.complain(
                format!("{field}.retry.codes[{at}]"),
                format!("UnsupportedValue: {code} is no status from 400 to 599; it is left out"),
            ),
        }
    }
    policy.on.statuses.sort_unstable();
    policy.on.statuses.dedup();
    match spec.backoff.as_deref().map(parse_duration) {
        None => {}
        Some(Ok(backoff)) => policy.backoff = (!backoff.is_zero()).then_some(backoff),
        Some(Err(reason)) => findings.complain(
            format!("{field}.retry.backoff"),
            format!("UnsupportedValue: {reason}; there is no pause"),
        ),
    }
    policy
}

#[cfg(test)]
mod tests;
