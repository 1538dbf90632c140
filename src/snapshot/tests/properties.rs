//! Random small worlds: the table answers as a naive reader of the specification does, and a world that
//! came in pieces, with conflicts, is the same as one that came at once.

use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::prelude::*;

use super::naive::{Claims, Request, first, naive, table};
use super::worlds::compiler;
use crate::balance::Micros;
use crate::model::{
    Backend, BackendName, BackendTarget, Balance, Delta, Endpoint, HeaderMatch, HostPattern, Listener,
    ListenerLimits, ListenerName, Match, PathMatch, Protocols, QueryMatch, Route, RouteName, Rule,
    SourceName, StringMatch, WeightedBackend,
};

const ADDRESSES: [&str; 2] = ["127.0.0.1:80", "127.0.0.1:81"];
const HOSTS: [&str; 7] = ["", "x", "a.x", "b.x", "a.b.x", "c.a.b.x", "y"];
const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "//a", "*"];

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
            host: host.to_owned(),
            path: path.to_owned(),
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
const BACKENDS: [&str; 3] = ["ba", "bb", "bc"];

fn listener(name: &'static str) -> impl Strategy<Value = Arc<Listener>> {
    (pick(&ADDRESSES), hostname()).prop_map(move |(address, hostname)| {
        Arc::new(Listener {
            name: name.into(),
            address: address.parse().unwrap(),
            public_port: None,
            hostname,
            kind: crate::model::ListenerKind::Http,
            protocols: Protocols::default(),
            tls: None,
            limits: ListenerLimits::default(),
        })
    })
}

fn route(name: &'static str) -> impl Strategy<Value = Arc<Route>> {
    let matches = proptest::collection::vec(condition(), 1..4);
    let backends = proptest::sample::subsequence(BACKENDS.to_vec(), 0..=2);
    let rule = (matches, backends).prop_map(|(matches, backends)| {
        let share = |name| WeightedBackend {
            target: BackendTarget::Backend(BackendName::from(name)),
            weight: 1,
            filters: Vec::new(),
        };
        Arc::new(Rule {
            matches,
            backends: backends.into_iter().map(share).collect(),
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
    let policy = |name: &'static str| {
        pick(&[Balance::Random, Balance::LeastLatency]).prop_map(move |balance| {
            let mut policy = Backend::new(name.into());
            policy.balance = balance;
            Arc::new(policy)
        })
    };
    let backends = proptest::sample::subsequence(BACKENDS.to_vec(), 0..=3)
        .prop_flat_map(move |names| {
            let entry = |name| {
                (
                    Just(BackendName::from(name)),
                    proptest::option::weighted(0.75, policy(name)),
                )
            };
            names.into_iter().map(entry).collect::<Vec<_>>()
        })
        .prop_map(|entries| entries.into_iter().collect());
    let ports = proptest::sample::subsequence(vec![1_u16, 2, 3], 0..=3).prop_map(|ports| {
        let endpoints = ports
            .into_iter()
            .map(|port| Endpoint::at(([10, 0, 0, 1], port).into()));
        endpoints.collect::<Arc<[Endpoint]>>()
    });
    let ports = proptest::option::weighted(0.75, ports).boxed();
    let endpoints = proptest::sample::subsequence(BACKENDS.to_vec(), 0..=3)
        .prop_flat_map(move |names| {
            let entry = |name| (Just(BackendName::from(name)), ports.clone());
            names.into_iter().map(entry).collect::<Vec<_>>()
        })
        .prop_map(|entries| entries.into_iter().collect());
    (listeners, routes, backends, endpoints).prop_map(|(listeners, routes, backends, endpoints)| Delta {
        listeners,
        routes,
        backends,
        endpoints,
        ..Delta::default()
    })
}

/// The policy of a backend and the ports of its endpoints, if someone defines it.
fn content(backend: &super::Backend) -> Option<(Balance, Vec<u16>)> {
    let fleet = backend.fleet();
    let mut ports: Vec<_> = fleet
        .candidates()
        .iter()
        .map(|one| one.endpoint.address.port())
        .collect();
    ports.sort_unstable();
    assert!(backend.is_defined() || ports.is_empty());
    backend.is_defined().then(|| (fleet.policy().balance, ports))
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
            for name in BACKENDS.map(BackendName::from) {
                let expected = claims.backend(&name);
                let backend = pieces.backend(name.as_str());
                prop_assert_eq!(backend.is_some(), expected.is_some() || claims.mentions(&name));
                prop_assert_eq!(backend.and_then(|backend| content(backend)), expected);
            }
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

#[test]
fn a_large_world_that_changes_is_answered_as_specified() {
    const ROUTES: usize = 500;
    let mut random = fastrand::Rng::with_seed(5);
    let host = |random: &mut fastrand::Rng| format!("h{}.z{}.x", random.u32(..60), random.u32(..4));
    let path = |random: &mut fastrand::Rng| format!("/{}/p{}", random.u32(..3), random.u32(..200));
    let mut delta = Delta::default();
    let listener = Listener {
        name: "l".into(),
        address: ADDRESSES[0].parse().unwrap(),
        public_port: None,
        hostname: HostPattern::Any,
        kind: crate::model::ListenerKind::Http,
        protocols: Protocols::default(),
        tls: None,
        limits: ListenerLimits::default(),
    };
    delta.listeners.insert("l".into(), Some(Arc::new(listener)));
    let mut compiler = compiler();
    let mut claims = Claims::default();
    let mut answered = 0;
    for step in 0..40 {
        // Grows to half the names, turns over, and shrinks again; all the time some busy hostnames.
        for _ in 0..50 {
            let name = RouteName::new(format!("r{}", random.usize(..ROUTES)));
            let value = (random.usize(..40) > step).then(|| {
                let hostname = match random.u32(..8) {
                    0 => HostPattern::parse("busy.x").unwrap(),
                    1 => HostPattern::Wildcard(format!("z{}.x", random.u32(..4)).into()),
                    2 => HostPattern::SingleLabelWildcard(format!("z{}.x", random.u32(..4)).into()),
                    3 => HostPattern::Any,
                    _ => HostPattern::Exact(host(&mut random).into()),
                };
                let matches = (0..random.usize(1..6)).map(|_| Match {
                    path: match random.u32(..10) {
                        0 => PathMatch::prefix("/"),
                        1 => PathMatch::regex(&format!("/[12]/p{}.*", random.u32(..20))).unwrap(),
                        2..6 => PathMatch::prefix(&path(&mut random)),
                        _ => PathMatch::Exact(path(&mut random).into()),
                    },
                    method: random.bool().then_some(Method::GET),
                    ..Match::default()
                });
                let rule = Rule {
                    matches: matches.collect(),
                    ..Rule::default()
                };
                Arc::new(Route {
                    name: name.clone(),
                    listeners: vec!["l".into()],
                    hostnames: vec![hostname],
                    rules: vec![Arc::new(rule)],
                    created: random.u64(..10),
                    order: 0,
                })
            });
            delta.routes.insert(name, value);
        }
        claims.apply(0, &delta);
        compiler.apply(&"s".into(), std::mem::take(&mut delta), Micros(0));
        let (live, routes, snapshot) = (claims.live(), first(&claims.routes), compiler.readers().load());
        for _ in 0..40 {
            let request = Request {
                method: if random.bool() { Method::GET } else { Method::POST },
                host: match random.u32(..3) {
                    0 => "busy.x".to_owned(),
                    1 => format!("a.{}", host(&mut random)),
                    _ => host(&mut random),
                },
                path: path(&mut random) + random.choice(["", "/more"]).unwrap(),
                fields: Vec::new(),
                parameters: Vec::new(),
            };
            let expected = naive(&live, &routes, ADDRESSES[0].parse().unwrap(), &request);
            let found = table(&snapshot, ADDRESSES[0].parse().unwrap(), &request);
            assert_eq!(found, expected, "step {step} {request:?}");
            answered += usize::from(expected.is_some());
        }
    }
    assert!(answered > 1_000, "only {answered} of 1600 requests had an answer");
}
