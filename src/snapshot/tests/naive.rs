//! The specification, read naively: every rule of every route, and the best of those that match; all
//! claims in order of arrival.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::super::{RequestHead, Snapshot};
use crate::model::{
    Backend, BackendName, BackendTarget, Balance, Delta, Endpoint, HostPattern, Listener, ListenerName,
    Match, PathMatch, Route, RouteName,
};

/// A request's head, in parts.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) fields: Vec<(&'static str, &'static str)>,
    pub(super) parameters: Vec<(&'static str, &'static str)>,
}

/// What the specification says.
pub(super) fn naive(
    listeners: &BTreeMap<ListenerName, Arc<Listener>>,
    routes: &BTreeMap<RouteName, Arc<Route>>,
    address: SocketAddr,
    request: &Request,
) -> Option<Answer> {
    let listener = listeners
        .values()
        .filter(|listener| listener.address == address && listener.hostname.matches(&request.host))
        .min_by_key(|listener| specificity(&listener.hostname))?;
    let mut best = None;
    for route in routes
        .values()
        .filter(|route| route.listeners.contains(&listener.name))
    {
        for hostname in route
            .hostnames
            .iter()
            .filter_map(|host| host.intersect(&listener.hostname))
        {
            for (rule_index, rule) in route.rules.iter().enumerate() {
                for (match_index, condition) in rule.matches.iter().enumerate() {
                    if !hostname.matches(&request.host) || !holds(condition, request) {
                        continue;
                    }
                    let (kind, length, text) = match &condition.path {
                        PathMatch::Exact(text) => (0, text.len(), text.to_string()),
                        PathMatch::Prefix(text) => (1, text.len(), text.to_string()),
                        PathMatch::Regex(regex) => (2, regex.as_str().len() - 6, regex.to_string()),
                    };
                    let rank = (
                        specificity(&hostname),
                        (kind != 0, Reverse(length), kind),
                        Reverse(condition.method.is_some()),
                        Reverse(condition.headers.len()),
                        Reverse(condition.queries.len()),
                        (
                            route.created,
                            route.order,
                            route.name.clone(),
                            rule_index,
                            match_index,
                        ),
                    );
                    if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                        let answer = (listener.name.clone(), route.name.clone(), rule_index, text);
                        best = Some((rank, answer));
                    }
                }
            }
        }
    }
    best.map(|(_, answer)| answer)
}

/// Listener, route, place of the rule, text of the path condition.
pub(super) type Answer = (ListenerName, RouteName, usize, String);

fn specificity(pattern: &HostPattern) -> (u8, Reverse<usize>, u8) {
    match pattern {
        HostPattern::Exact(name) => (0, Reverse(name.len()), 0),
        HostPattern::SingleLabelWildcard(suffix) => (1, Reverse(suffix.len()), 0),
        HostPattern::Wildcard(suffix) => (1, Reverse(suffix.len()), 1),
        HostPattern::Any => (2, Reverse(0), 0),
    }
}

fn holds(condition: &Match, request: &Request) -> bool {
    let value_of = |pairs: &[(&'static str, &'static str)], name: &str| {
        pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1)
    };
    condition.path.matches(&request.path)
        && condition
            .method
            .as_ref()
            .is_none_or(|method| *method == request.method)
        && condition.headers.iter().all(|header| {
            value_of(&request.fields, header.name.as_str()).is_some_and(|value| header.value.matches(value))
        })
        && condition.queries.iter().all(|query| {
            value_of(&request.parameters, &query.name).is_some_and(|value| query.value.matches(value))
        })
}

/// What the table says.
pub(super) fn table(snapshot: &Snapshot, address: SocketAddr, request: &Request) -> Option<Answer> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.fields {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let query: Vec<_> = request
        .parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let query = query.join("&");
    let found = snapshot.bind(&address)?.find(&RequestHead {
        method: &request.method,
        host: &request.host,
        path: &request.path,
        query: Some(&query),
        headers: &headers,
    })?;
    let text = match found.path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => text.to_string(),
        PathMatch::Regex(regex) => regex.to_string(),
    };
    let index = found.rule.index as usize;
    Some((
        found.listener.name.clone(),
        found.route.route.name.clone(),
        index,
        text,
    ))
}

/// Who claims what, in order of arrival.
#[derive(Default)]
pub(super) struct Claims {
    listeners: Vec<(ListenerName, usize, Arc<Listener>)>,
    pub(super) routes: Vec<(RouteName, usize, Arc<Route>)>,
    slots: Vec<(ListenerName, SocketAddr, HostPattern)>,
    backends: Vec<(BackendName, usize, Arc<Backend>)>,
    endpoints: Vec<(BackendName, usize, Arc<[Endpoint]>)>,
}

impl Claims {
    pub(super) fn apply(&mut self, source: usize, delta: &Delta) {
        claim(&mut self.listeners, source, &delta.listeners);
        claim(&mut self.routes, source, &delta.routes);
        claim(&mut self.backends, source, &delta.backends);
        claim(&mut self.endpoints, source, &delta.endpoints);
        let held = first(&self.listeners);
        let is_wanted = |(name, address, hostname): &(ListenerName, SocketAddr, HostPattern)| {
            let listener = held.get(name);
            listener.is_some_and(|listener| listener.address == *address && listener.hostname == *hostname)
        };
        self.slots.retain(is_wanted);
        for (name, listener) in &held {
            if !self.slots.iter().any(|slot| slot.0 == *name) {
                self.slots
                    .push((name.clone(), listener.address, listener.hostname.clone()));
            }
        }
    }

    pub(super) fn live(&self) -> BTreeMap<ListenerName, Arc<Listener>> {
        let mut live = first(&self.listeners);
        live.retain(|name, listener| {
            let mut slots = self.slots.iter();
            let holder = slots.find(|slot| slot.1 == listener.address && slot.2 == listener.hostname);
            holder.is_some_and(|holder| holder.0 == *name)
        });
        live
    }

    pub(super) fn conflicts(&self) -> usize {
        let slots = first(&self.listeners).len() - self.live().len();
        slots + waiting(&self.listeners) + waiting(&self.routes) + waiting(&self.backends)
    }

    /// The policy of a backend and the ports of its endpoints, if someone defines it.
    pub(super) fn backend(&self, name: &BackendName) -> Option<(Balance, Vec<u16>)> {
        let (_, source, policy) = self.backends.iter().find(|claim| claim.0 == *name)?;
        let given = self
            .endpoints
            .iter()
            .find(|claim| claim.0 == *name && claim.1 == *source);
        let endpoints = given.into_iter().flat_map(|(_, _, endpoints)| endpoints.iter());
        Some((
            policy.balance,
            endpoints.map(|endpoint| endpoint.address.port()).collect(),
        ))
    }

    pub(super) fn mentions(&self, name: &BackendName) -> bool {
        let routes = first(&self.routes);
        let mut shares = routes
            .values()
            .flat_map(|route| &route.rules)
            .flat_map(|rule| &rule.backends);
        shares.any(|share| share.target == BackendTarget::Backend(name.clone()))
    }
}

fn claim<K: Ord + Clone, V: Clone>(
    line: &mut Vec<(K, usize, V)>,
    source: usize,
    delta: &BTreeMap<K, Option<V>>,
) {
    for (name, value) in delta {
        let place = line
            .iter()
            .position(|claim| claim.0 == *name && claim.1 == source);
        match (place, value) {
            (Some(place), Some(value)) => line[place].2 = value.clone(),
            (Some(place), None) => drop(line.remove(place)),
            (None, Some(value)) => line.push((name.clone(), source, value.clone())),
            (None, None) => {}
        }
    }
}

fn waiting<K: Ord + Clone, V: Clone>(line: &[(K, usize, V)]) -> usize {
    line.len() - first(line).len()
}

/// Whose claim counts.
pub(super) fn first<K: Ord + Clone, V: Clone>(line: &[(K, usize, V)]) -> BTreeMap<K, V> {
    let mut first = BTreeMap::new();
    for (name, _, value) in line {
        first.entry(name.clone()).or_insert_with(|| value.clone());
    }
    first
}
