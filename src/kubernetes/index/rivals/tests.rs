//! Who is attached where, in tables, and after many changes the same as if all had been decided at once.

use super::*;
use crate::kubernetes::Settings;
use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, key};

/// A route `default/NAME` of Gateway `edge`: kind, name, second of its making, hostnames.
fn route((kind, name, second, hostnames): (&str, &str, u8, &str)) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
         metadata: {{name: {name}, creationTimestamp: '2026-01-01T00:00:{second:02}Z'}}\n\
         spec:\n  parentRefs: [{{name: edge}}]\n  hostnames: {hostnames}\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
    )
}

#[test]
fn of_two_kinds_the_older_is_attached() {
    let http = "HTTPRoute/default/r";
    let grpc = "GRPCRoute/default/r";
    for (listener, routes, expected) in [
        // one hostname: age, then the name, and of one name HTTPRoute
        (
            "",
            vec![("HTTPRoute", "r", 1, "[a.b]"), ("GRPCRoute", "r", 2, "[a.b]")],
            vec![http],
        ),
        (
            "",
            vec![("HTTPRoute", "r", 2, "[a.b]"), ("GRPCRoute", "r", 1, "[a.b]")],
            vec![grpc],
        ),
        (
            "",
            vec![("HTTPRoute", "r", 1, "[a.b]"), ("GRPCRoute", "q", 1, "[a.b]")],
            vec!["GRPCRoute/default/q"],
        ),
        (
            "",
            vec![("HTTPRoute", "r", 1, "[a.b]"), ("GRPCRoute", "r", 1, "[a.b]")],
            vec![http],
        ),
        // hostnames that meet, and those that do not
        (
            "",
            vec![("HTTPRoute", "r", 1, "['*.b']"), ("GRPCRoute", "r", 2, "[x.a.b]")],
            vec![http],
        ),
        (
            "",
            vec![("HTTPRoute", "r", 2, "[x.a.b]"), ("GRPCRoute", "r", 1, "['*.b']")],
            vec![grpc],
        ),
        (
            "",
            vec![
                ("HTTPRoute", "r", 1, "['*.a.b']"),
                ("GRPCRoute", "r", 2, "['*.b']"),
            ],
            vec![http],
        ),
        (
            "",
            vec![("HTTPRoute", "r", 1, "[]"), ("GRPCRoute", "r", 2, "[a.b]")],
            vec![http],
        ),
        (
            "",
            vec![
                ("HTTPRoute", "r", 1, "[a.b, c.d]"),
                ("GRPCRoute", "r", 2, "[e.f, c.d]"),
            ],
            vec![http],
        ),
        (
            "",
            vec![("HTTPRoute", "r", 1, "['*.a.b']"), ("GRPCRoute", "r", 2, "[a.b]")],
            vec![grpc, http],
        ),
        (
            "",
            vec![
                ("HTTPRoute", "r", 1, "['*.a-c.b']"),
                ("GRPCRoute", "r", 2, "['*.a.b']"),
            ],
            vec![grpc, http],
        ),
        // only what is the listener's counts
        (
            "hostname: '*.b'",
            vec![
                ("HTTPRoute", "r", 1, "[a.b, x.d]"),
                ("GRPCRoute", "r", 2, "[c.b, x.d]"),
            ],
            vec![grpc, http],
        ),
        (
            "hostname: a.b",
            vec![("HTTPRoute", "r", 1, "[]"), ("GRPCRoute", "r", 2, "['*.b']")],
            vec![http],
        ),
        // who is refused refuses nobody
        (
            "",
            vec![
                ("HTTPRoute", "r", 1, "[a.b]"),
                ("GRPCRoute", "r", 2, "[a.b, c.d]"),
                ("HTTPRoute", "s", 3, "[c.d]"),
            ],
            vec![http, "HTTPRoute/default/s"],
        ),
        // of one kind there may be many
        (
            "",
            vec![("HTTPRoute", "r", 1, "[a.b]"), ("HTTPRoute", "s", 2, "[a.b]")],
            vec![http, "HTTPRoute/default/s"],
        ),
    ] {
        let edge = WEB_AND_EDGE.replace("protocol: HTTP", &format!("protocol: HTTP, {listener}"));
        let yaml: Vec<String> = routes.iter().map(|one| route(*one)).collect();
        // In whatever order they come, and one after the other.
        for backwards in [false, true] {
            let mut fixture = Fixture::new(&edge);
            let mut yaml: Vec<&String> = yaml.iter().collect();
            if backwards {
                yaml.reverse();
            }
            for one in yaml {
                fixture.apply(one);
            }
            assert_eq!(fixture.routes(), expected, "{listener} {routes:?}");
            assert_eq!(fixture.rejects().len(), routes.len() - expected.len());
            for (kind, name, ..) in &routes {
                let kind = KINDS.into_iter().find(|known| known.name() == *kind).unwrap();
                fixture.delete(kind, "default", name);
            }
            fixture.delete(Kind::Gateway, "default", "edge");
            fixture.delete(Kind::Service, "default", "web");
            assert!(fixture.index.is_idle());
        }
    }
}

#[test]
fn the_other_is_told_and_takes_its_turn() {
    let mut fixture = Fixture::new(&format!(
        "{WEB_AND_EDGE}{}{}",
        route(("HTTPRoute", "r", 1, "[a.b]")),
        route(("GRPCRoute", "g", 2, "[a.b]"))
    ));
    assert_eq!(
        fixture.rejects(),
        [
            "test: GRPCRoute default/g: spec.parentRefs[0]: Conflicted: HTTPRoute default/r goes before it and has a hostname of it \
             at listener http; a hostname of a listener has HTTPRoutes or GRPCRoutes"
        ]
    );
    // The older moves to another hostname, comes back, and goes.
    fixture.apply(&route(("HTTPRoute", "r", 1, "[c.d]")));
    assert_eq!(fixture.routes(), ["GRPCRoute/default/g", "HTTPRoute/default/r"]);
    fixture.apply(&route(("HTTPRoute", "r", 1, "[a.b]")));
    assert_eq!(fixture.routes(), ["HTTPRoute/default/r"]);
    fixture.delete(Kind::HttpRoute, "default", "r");
    assert_eq!(fixture.routes(), ["GRPCRoute/default/g"]);
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn one_that_is_refused_by_one_listener_stays_with_the_others() {
    let edge = WEB_AND_EDGE.replace(
        "[{name: http, port: 80, protocol: HTTP}]",
        "[{name: one, port: 80, protocol: HTTP, hostname: a.b}, {name: two, port: 80, protocol: HTTP, hostname: c.d}]",
    );
    let fixture = Fixture::new(&format!(
        "{edge}{}{}",
        route(("HTTPRoute", "r", 1, "[a.b]")),
        route(("GRPCRoute", "g", 2, "[]"))
    ));
    let route = &fixture.world.routes["GRPCRoute/default/g"];
    let listeners: Vec<_> = route.listeners.iter().map(ListenerName::as_str).collect();
    assert_eq!(listeners.len(), 1, "{listeners:?}");
    assert!(listeners[0].contains("two"), "{listeners:?}");
    let rejects = fixture.rejects();
    assert!(
        rejects[0].contains("spec.parentRefs[0].sectionName: Conflicted: HTTPRoute default/r"),
        "{rejects:?}"
    );
}

#[test]
fn at_a_service_grpc_routes_go_first() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}, {port: 81}]}}\n";
    let of_service = |(kind, name, second): (&str, &str, u8), port: &str| {
        let parent = format!("{{group: '', kind: Service, name: web{port}}}");
        route((kind, name, second, "[]")).replace("{name: edge}", &parent)
    };
    let settings = Settings {
        services_only: true,
        mesh: Mesh::Serve { namespace: None },
        ..Settings::default()
    };
    let old = of_service(("HTTPRoute", "r", 1), "");
    for (port, expected) in [
        ("", &["GRPCRoute/default/g"][..]),
        (", port: 81", &["GRPCRoute/default/g", "HTTPRoute/default/r"]),
    ] {
        let yaml = format!("{service}{old}{}", of_service(("GRPCRoute", "g", 2), port));
        let fixture = Fixture::with(settings.clone(), &yaml);
        assert_eq!(fixture.routes(), expected);
        let rejects = fixture.rejects();
        assert_eq!(rejects.len(), 1);
        assert!(
            rejects[0].contains("Conflicted: GRPCRoute default/g goes before it at Service default/web"),
            "{rejects:?}"
        );
    }
}

/// After each of many changes it is as if all had been decided at once, oldest first.
#[test]
fn changes_come_out_as_the_whole_does() {
    const HOSTNAMES: [&str; 8] = ["*", "*.b", "*.a.b", "a.b", "x.a.b", "y.a.b", "c.d", "*.c.d"];
    let mut random = fastrand::Rng::with_seed(7);
    let mut rivals = Rivals::default();
    let listeners = ["one", "two"].map(ListenerName::new);
    let mut all: BTreeMap<Key, BTreeMap<ListenerName, Claim>> = BTreeMap::new();
    let mut refused = 0;
    for _ in 0..3000 {
        for _ in 0..random.usize(1..4) {
            let route = key(
                KINDS[random.usize(..2)],
                "default",
                ["p", "q", "r", "s"][random.usize(..4)],
            );
            let mut claims = BTreeMap::new();
            for listener in &listeners {
                if random.u8(..3) == 0 {
                    continue;
                }
                let hostnames = (0..random.usize(1..3)).map(|_| HOSTNAMES[random.usize(..8)]);
                let hostnames = hostnames.map(|text| HostPattern::parse(text).unwrap()).collect();
                let claim = Claim {
                    rank: Rank::by_age(&route, random.u64(..4)),
                    hostnames,
                };
                claims.insert(listener.clone(), claim);
            }
            rivals.put(&route, claims.clone());
            all.insert(route, claims);
        }
        rivals.settle();
        for listener in &listeners {
            let mut claims: Vec<&Claim> = all.values().filter_map(|claims| claims.get(listener)).collect();
            claims.sort_by_key(|claim| &claim.rank);
            let mut attached: Vec<&Claim> = Vec::new();
            for claim in claims {
                let meets = |other: &&&Claim| {
                    let mut pairs = other
                        .hostnames
                        .iter()
                        .flat_map(|one| claim.hostnames.iter().map(move |two| (one, two)));
                    other.rank.kind != claim.rank.kind && pairs.any(|(one, two)| one.intersect(two).is_some())
                };
                let by = attached.iter().find(meets).map(|other| other.rank.key());
                assert_eq!(rivals.refuses(&claim.rank.key(), listener), by, "{claim:?}");
                match by {
                    Some(_) => refused += 1,
                    None => attached.push(claim),
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
    for route in all.keys() {
        rivals.put(route, BTreeMap::new());
    }
    assert_eq!(rivals.settle(), BTreeSet::new());
    assert!(rivals.is_empty());
}
