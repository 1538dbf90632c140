//! Random small worlds: the table answers as a naive reader of the specification does, and a world that
//! came in pieces, with conflicts, is the same as one that came at once.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::super::{RequestHead, Snapshot};
use super::worlds::compiler;
use crate::balance::Micros;
use crate::model::{
    Delta, HeaderMatch, HostPattern, Listener, ListenerLimits, ListenerName, Match, PathMatch, Protocols,
    QueryMatch, Route, RouteName, Rule, SourceName, StringMatch,
};

// ---- The specification, read naively: every rule of every route, and the best of those that match.

fn naive(
    listeners: &BTreeMap<ListenerName, Arc<Listener>>,
    routes: &BTreeMap<RouteName, Arc<Route>>,
    address: SocketAddr,
    request: &Request,
) -> Option<Answer> {
    let listener = listeners
        .values()
        .filter(|listener| listener.address == address && listener.hostname.matches(request.host))
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
                    if !hostname.matches(request.host) || !holds(condition, request) {
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
type Answer = (ListenerName, RouteName, usize, String);

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
    condition.path.matches(request.path)
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

// ---- Random pieces, from small alphabets so that they meet often.

const ADDRESSES: [&str; 2] = ["127.0.0.1:80", "127.0.0.1:81"];
const HOSTS: [&str; 7] = ["", "x", "a.x", "b.x", "a.b.x", "c.a.b.x", "y"];
const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "//a", "*"];

#[derive(Clone, Debug)]
struct Request {
    method: Method,
    host: &'static str,
    path: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    parameters: Vec<(&'static str, &'static str)>,
}

fn pick<T: Clone + std::fmt::Debug + 'static>(from: &[T]) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(from.to_vec())
}

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    proptest::sample::subsequence(vec![("p", "1"), ("q", "2")], 0..=2)
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let request = (
        pick(&[Method::GET, Method::POST]),
        pick(&HOSTS),
        pick(&PATHS),
        pairs(),
        pairs(),
    )
        .prop_map(|(method, host, path, fields, parameters)| Request {
            method,
            host,
            path,
            fields,
            parameters,
        });
    proptest::collection::vec(request, 30)
}

fn hostname() -> impl Strategy<Value = HostPattern> {
    let single = |suffix: &str| HostPattern::SingleLabelWildcard(suffix.into());
    let parse = |text| HostPattern::parse(text).unwrap();
    pick(&[
        HostPattern::Any,
        parse("x"),
        parse("a.x"),
        parse("*.x"),
        single("x"),
        parse("*.b.x"),
        single("b.x"),
        parse("a.b.x"),
        parse("y"),
    ])
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        pick(&PATHS).prop_map(|path| PathMatch::Exact(path.into())),
        pick(&PATHS).prop_map(PathMatch::prefix),
        pick(&["/a.*", "/[ab]", ".*", "/a/[^/]+", "/a/b/c|x"])
            .prop_map(|text| PathMatch::regex(text).unwrap()),
    ]
}

fn condition() -> impl Strategy<Value = Match> {
    let value = |value: &'static str| {
        pick(&[
            StringMatch::Present,
            StringMatch::Exact(value.into()),
            StringMatch::Regex(regex::Regex::new("^[2-9]$").unwrap()),
        ])
    };
    let plain = path().prop_map(|path| Match {
        path,
        ..Match::default()
    });
    let method = proptest::option::of(pick(&[Method::GET, Method::POST]));
    let value = (value("1"), value("2"));
    let full =
        (path(), method, pairs(), pairs(), value).prop_map(|(path, method, headers, queries, value)| {
            let value = |name| match name {
                "p" => value.0.clone(),
                _ => value.1.clone(),
            };
            Match {
                path,
                method,
                headers: headers
                    .iter()
                    .map(|(name, _)| HeaderMatch {
                        name: HeaderName::from_static(name),
                        value: value(name),
                    })
                    .collect(),
                queries: queries
                    .iter()
                    .map(|(name, _)| QueryMatch {
                        name: (*name).into(),
                        value: value(name),
                    })
                    .collect(),
            }
        });
    prop_oneof![plain, full]
}

const LISTENERS: [&str; 4] = ["la", "lb", "lc", "ld"];
const ROUTES: [&str; 4] = ["ra", "rb", "rc", "rd"];

fn listener(name: &'static str) -> impl Strategy<Value = Arc<Listener>> {
    (pick(&ADDRESSES), hostname()).prop_map(move |(address, hostname)| {
        Arc::new(Listener {
            name: name.into(),
            address: address.parse().unwrap(),
            hostname,
            protocols: Protocols::default(),
            limits: ListenerLimits::default(),
        })
    })
}

fn route(name: &'static str) -> impl Strategy<Value = Arc<Route>> {
    let rule = proptest::collection::vec(condition(), 1..4).prop_map(|matches| {
        Arc::new(Rule {
            matches,
            ..Rule::default()
        })
    });
    (
        proptest::sample::subsequence(LISTENERS.to_vec(), 1..=4),
        proptest::collection::vec(hostname(), 1..3),
        proptest::collection::vec(rule, 1..4),
        0..2_u64,
        0..2_u32,
    )
        .prop_map(move |(listeners, hostnames, rules, created, order)| {
            Arc::new(Route {
                name: name.into(),
                listeners: listeners.into_iter().map(ListenerName::from).collect(),
                hostnames,
                rules,
                created,
                order,
            })
        })
}

/// A few things put, changed or taken away.
fn delta() -> impl Strategy<Value = Delta> {
    let listeners = proptest::sample::subsequence(LISTENERS.to_vec(), 0..=4)
        .prop_flat_map(|names| {
            let entry = |name| {
                (
                    Just(ListenerName::from(name)),
                    proptest::option::weighted(0.75, listener(name)),
                )
            };
            names.into_iter().map(entry).collect::<Vec<_>>()
        })
        .prop_map(|entries| entries.into_iter().collect());
    let routes = proptest::sample::subsequence(ROUTES.to_vec(), 0..=4)
        .prop_flat_map(|names| {
            let entry = |name| {
                (
                    Just(RouteName::from(name)),
                    proptest::option::weighted(0.75, route(name)),
                )
            };
            names.into_iter().map(entry).collect::<Vec<_>>()
        })
        .prop_map(|entries| entries.into_iter().collect());
    (listeners, routes).prop_map(|(listeners, routes)| Delta {
        listeners,
        routes,
        ..Delta::default()
    })
}

// ---- Who holds what, kept naively: all claims in order of arrival.

#[derive(Default)]
struct Claims {
    listeners: Vec<(ListenerName, usize, Arc<Listener>)>,
    routes: Vec<(RouteName, usize, Arc<Route>)>,
    slots: Vec<(ListenerName, SocketAddr, HostPattern)>,
}

impl Claims {
    fn apply(&mut self, source: usize, delta: &Delta) {
        claim(&mut self.listeners, source, &delta.listeners);
        claim(&mut self.routes, source, &delta.routes);
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

    fn live(&self) -> BTreeMap<ListenerName, Arc<Listener>> {
        let mut live = first(&self.listeners);
        live.retain(|name, listener| {
            let mut slots = self.slots.iter();
            let holder = slots.find(|slot| slot.1 == listener.address && slot.2 == listener.hostname);
            holder.is_some_and(|holder| holder.0 == *name)
        });
        live
    }

    fn conflicts(&self) -> usize {
        let held = first(&self.listeners).len();
        let names = self.listeners.len() - held + self.routes.len() - first(&self.routes).len();
        names + held - self.live().len()
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

fn first<K: Ord + Clone, V: Clone>(line: &[(K, usize, V)]) -> BTreeMap<K, V> {
    let mut first = BTreeMap::new();
    for (name, _, value) in line {
        first.entry(name.clone()).or_insert_with(|| value.clone());
    }
    first
}

fn table(snapshot: &Snapshot, address: SocketAddr, request: &Request) -> Option<Answer> {
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
        host: request.host,
        path: request.path,
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn pieces_with_conflicts_make_the_world_that_the_specification_describes(
        steps in proptest::collection::vec((0..3_usize, delta()), 1..8),
        requests in requests(),
    ) {
        let sources: Vec<SourceName> = ["s0", "s1", "s2"].map(SourceName::from).into();
        let mut pieces = compiler();
        let mut claims = Claims::default();
        for (source, delta) in steps {
            claims.apply(source, &delta);
            pieces.apply(&sources[source], delta, Micros(0));

            let (live, routes) = (claims.live(), first(&claims.routes));
            let whole = Delta {
                listeners: live.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
                routes: routes.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
                ..Delta::default()
            };
            let mut scratch = compiler();
            prop_assert_eq!(scratch.apply(&sources[0], whole, Micros(0)).rejects, []);
            prop_assert_eq!(pieces.rejects().len(), claims.conflicts());

            let (pieces, scratch) = (pieces.readers().load(), scratch.readers().load());
            prop_assert_eq!(pieces.binds().count(), scratch.binds().count());
            for address in ADDRESSES.map(|address| address.parse().unwrap()) {
                for request in &requests {
                    let expected = naive(&live, &routes, address, request);
                    prop_assert_eq!(&table(&scratch, address, request), &expected, "{:?}", request);
                    prop_assert_eq!(&table(&pieces, address, request), &expected, "{:?}", request);
                }
            }
        }
    }
}
