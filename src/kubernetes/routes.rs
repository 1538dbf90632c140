//! HTTPRoutes: their listeners, hostnames and rules in the words of the model.
//!
//! What is bad is left out as small as it can be without sending a request astray: a hostname, a match,
//! a mirror; a parent that does not take the route. A filter that cannot be done must not be skipped and
//! a backend that cannot be referred to must not be replaced (Gateway API, `HTTPRouteRule.filters`,
//! `backendRefs`): their share of requests is answered with 500.

mod attach;
mod filters;
mod matches;
mod reference;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::kubernetes::gateway::Gateways;
use crate::kubernetes::index::{Findings, Store};
use crate::kubernetes::objects::{HttpRoute, HttpRouteRule, Id, RouteRetry, RouteTimeouts, parse_duration};
use crate::kubernetes::service::backend_name;
use crate::model::{
    BackendTarget, HostPattern, Match, RetryOn, RetryPolicy, Route, RouteName, Rule, Timeouts,
    WeightedBackend,
};

/// The highest weight, as in the API's schema.
const MAX_WEIGHT: i64 = 1_000_000;

/// The most retries a route may ask for.
const MAX_RETRIES: i64 = 20;

/// What a translation may look at beside the object itself.
#[derive(Clone, Copy)]
pub struct Surroundings<'index> {
    /// All objects.
    pub store: &'index Store,
    /// The Gateways that are ours.
    pub gateways: &'index Gateways,
}

/// The route that an HTTPRoute is, if it is attached to anything that is ours.
pub fn translate(
    id: &Id,
    object: &HttpRoute,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Route> {
    let hostnames = hostnames(object, findings);
    let listeners = attach::listeners(id, object, &hostnames, around, findings);
    if listeners.is_empty() || hostnames.is_empty() {
        // a route that is not attached has no say in what is used
        return None;
    }
    let unsaid = [HttpRouteRule::default()];
    let specs = object.spec.rules.as_deref().unwrap_or(&unsaid);
    let rules: Vec<Arc<Rule>> = specs
        .iter()
        .enumerate()
        .filter_map(|(at, spec)| rule(id, spec, &format!("spec.rules[{at}]"), around, findings))
        .map(Arc::new)
        .collect();
    if rules.is_empty() {
        findings.complain(
            "spec.rules",
            "UnsupportedValue: no rule is left, so the route is left out",
        );
        return None;
    }
    Some(Route {
        name: RouteName::new(format!("HTTPRoute/{id}")),
        listeners,
        hostnames,
        rules,
        created: object.metadata.created,
        order: 0, // the name decides: its order is that of `namespace/name`
    })
}

/// The hostnames of a route; empty when it gives only bad ones (it must not become a route for all).
fn hostnames(object: &HttpRoute, findings: &mut Findings) -> Vec<HostPattern> {
    if object.spec.hostnames.is_empty() {
        return vec![HostPattern::Any];
    }
    let mut found = Vec::with_capacity(object.spec.hostnames.len());
    for (at, text) in object.spec.hostnames.iter().enumerate() {
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

/// A rule, or none when no match of it is left.
fn rule(
    id: &Id,
    spec: &HttpRouteRule,
    field: &str,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Option<Rule> {
    let mut matches = Vec::with_capacity(spec.matches.len().max(1));
    for (at, wanted) in spec.matches.iter().enumerate() {
        match matches::read(wanted) {
            Ok(read) => matches.push(read),
            Err(complaint) => findings.complain(
                format!("{field}.matches[{at}]{}", complaint.field),
                format!("UnsupportedValue: {}; this match is left out", complaint.reason),
            ),
        }
    }
    if spec.matches.is_empty() {
        matches.push(Match::default());
    }
    if matches.is_empty() {
        return None;
    }
    let name = spec.name.clone();
    let filters = match filters::read(
        id,
        &spec.filters,
        &format!("{field}.filters"),
        &matches,
        around,
        findings,
    ) {
        Ok(filters) => filters,
        Err(complaint) => {
            let reason = format!(
                "{}; requests of this rule are answered with 500",
                complaint.reason
            );
            findings.complain(complaint.field, &reason);
            return Some(Rule {
                name,
                matches,
                backends: vec![WeightedBackend {
                    target: BackendTarget::Invalid(Arc::from(reason)),
                    weight: 1,
                    filters: Vec::new(),
                }],
                ..Rule::default()
            });
        }
    };
    let backends = backends(id, spec, field, &matches, around, findings);
    Some(Rule {
        name,
        filters,
        backends,
        timeouts: timeouts(spec.timeouts.as_ref(), field, findings),
        retry: retry(spec.retry.as_ref(), field, findings),
        criticality: None,
        matches,
    })
}

fn backends(
    id: &Id,
    spec: &HttpRouteRule,
    field: &str,
    matches: &[Match],
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<WeightedBackend> {
    let mut found = Vec::with_capacity(spec.backend_refs.len());
    for (at, wanted) in spec.backend_refs.iter().enumerate() {
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
        let resolved = reference::resolve(id, wanted, around.store, findings);
        let (target, filters) = match resolved {
            Ok((service, port)) => {
                let below = format!("{field}.filters");
                match filters::read(id, &wanted.filters, &below, matches, around, findings) {
                    Ok(filters) => {
                        let target = BackendTarget::Backend(backend_name(&service, port));
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

/// Deadlines; `0s` switches one off, and the default of the whole gives way to a longer one of the part.
fn timeouts(spec: Option<&RouteTimeouts>, field: &str, findings: &mut Findings) -> Timeouts {
    let mut timeouts = Timeouts::default();
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
        None => timeouts.request.max(timeouts.per_try),
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
