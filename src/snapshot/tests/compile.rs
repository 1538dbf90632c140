//! What a delta costs and keeps: conflicts, life and death of listeners, routes and backends.

use std::sync::Arc;

use super::super::{Compiler, Target};
use super::worlds::{Builder, RouteBuilder, compiler, listener, route};
use super::{ADDRESS, ask, prefix};
use crate::balance::Micros;
use crate::model::{BackendName, Delta, ListenerName, Reject, RouteName, SourceName};

const OTHER: &str = "127.0.0.1:81";

fn apply(compiler: &mut Compiler, source: &str, builder: Builder) -> super::Applied {
    compiler.apply(&SourceName::from(source), builder.0, Micros(0))
}

fn world(routes: impl IntoIterator<Item = RouteBuilder>) -> Builder {
    let listener = listener("l", ADDRESS, "*");
    routes
        .into_iter()
        .fold(Builder::new().listener(listener), Builder::route)
}

fn to(name: &str, backends: &[&str]) -> RouteBuilder {
    route(name, &["l"], &["*"]).rule_to([prefix(&format!("/{name}"))], backends)
}

fn without_route(name: &str) -> Builder {
    let mut delta = Delta::default();
    delta.routes.insert(RouteName::from(name), None);
    Builder(delta)
}

fn without_listener(name: &str) -> Builder {
    let mut delta = Delta::default();
    delta.listeners.insert(ListenerName::from(name), None);
    Builder(delta)
}

fn found(compiler: &Compiler, request: &str) -> Option<String> {
    ask(&compiler.readers().load(), request, &[])
}

fn texts(rejects: &[Reject]) -> Vec<String> {
    rejects.iter().map(Reject::to_string).collect()
}

#[test]
fn of_two_sources_with_one_name_the_first_stays_until_it_goes() {
    let mut compiler = compiler();
    let ours = |path: &str| route("r", &["l"], &["*"]).rule([prefix(path)]);
    assert_eq!(
        apply(&mut compiler, "one.yaml", world([ours("/one")])).rejects,
        []
    );
    let applied = apply(&mut compiler, "two.yaml", Builder::new().route(ours("/two")));
    assert_eq!(
        texts(&applied.rejects),
        [
            "two.yaml: route r: name: one.yaml has a route of this name already, which stays; rename one of them"
        ]
    );
    assert_eq!(applied.published, None, "what waits makes no new table");
    assert_eq!(compiler.rejects(), applied.rejects);
    assert_eq!(found(&compiler, "GET x/one").as_deref(), Some("r/0"));
    assert_eq!(found(&compiler, "GET x/two"), None);

    let applied = apply(&mut compiler, "one.yaml", without_route("r"));
    assert_eq!((applied.rejects, compiler.rejects()), (vec![], vec![]));
    assert_eq!(found(&compiler, "GET x/one"), None);
    assert_eq!(found(&compiler, "GET x/two").as_deref(), Some("r/0"));
}

#[test]
fn of_two_listeners_with_one_address_and_hostname_the_first_stays_until_it_goes() {
    let mut compiler = compiler();
    let first = Builder::new()
        .listener(listener("z", ADDRESS, "*.x"))
        .route(route("first", &["z"], &["*"]).rule([prefix("/")]));
    apply(&mut compiler, "one.yaml", first);
    let second = Builder::new()
        .listener(listener("a", ADDRESS, "*.x"))
        .route(route("second", &["a"], &["*"]).rule([prefix("/")]));
    let applied = apply(&mut compiler, "two.yaml", second);
    assert_eq!(
        texts(&applied.rejects),
        [
            "two.yaml: listener a: hostname: listener z of one.yaml has the address 127.0.0.1:80 and the \
          hostname *.x already, and stays; change one of them"
        ]
    );
    assert_eq!(compiler.rejects(), applied.rejects);
    assert_eq!(found(&compiler, "GET a.x/").as_deref(), Some("first/0"));

    let applied = apply(&mut compiler, "one.yaml", without_listener("z"));
    assert_eq!((applied.rejects, compiler.rejects()), (vec![], vec![]));
    assert_eq!(found(&compiler, "GET a.x/").as_deref(), Some("second/0"));

    // Back again, it is the later one.
    let applied = apply(
        &mut compiler,
        "one.yaml",
        Builder::new().listener(listener("z", ADDRESS, "*.x")),
    );
    assert_eq!(applied.rejects.len(), 1);
    assert_eq!(found(&compiler, "GET a.x/").as_deref(), Some("second/0"));
    // At another place, it is alive, with the route that waited for it.
    let moved = Builder::new().listener(listener("z", ADDRESS, "*.y"));
    assert_eq!(apply(&mut compiler, "one.yaml", moved).rejects, []);
    assert_eq!(found(&compiler, "GET a.y/").as_deref(), Some("first/0"));
}

#[test]
fn a_route_waits_for_its_listeners() {
    let mut compiler = compiler();
    let early = Builder::new().route(route("r", &["late"], &["*"]).rule([prefix("/")]));
    let applied = apply(&mut compiler, "s", early);
    assert_eq!(applied.rejects, []);
    assert!(!applied.listeners_changed);
    let applied = apply(
        &mut compiler,
        "s",
        Builder::new().listener(listener("late", ADDRESS, "a.b")),
    );
    assert!(applied.listeners_changed);
    assert_eq!(found(&compiler, "GET a.b/").as_deref(), Some("r/0"));
    assert_eq!(found(&compiler, "GET a.c/"), None);
    // Another hostname, another address: the routes follow.
    let applied = apply(
        &mut compiler,
        "s",
        Builder::new().listener(listener("late", ADDRESS, "a.c")),
    );
    assert!(!applied.listeners_changed, "the socket is as before");
    assert_eq!(found(&compiler, "GET a.b/"), None);
    assert_eq!(found(&compiler, "GET a.c/").as_deref(), Some("r/0"));
    let applied = apply(
        &mut compiler,
        "s",
        Builder::new().listener(listener("late", OTHER, "a.c")),
    );
    assert!(applied.listeners_changed);
    assert_eq!(found(&compiler, "GET a.c/"), None);
    let snapshot = compiler.readers().load();
    assert_eq!(snapshot.binds().count(), 1);
    assert_eq!(
        snapshot
            .bind(&OTHER.parse().unwrap())
            .unwrap()
            .listeners()
            .count(),
        1
    );
    assert!(apply(&mut compiler, "s", without_listener("late")).listeners_changed);
    assert_eq!(compiler.readers().load().binds().count(), 0);
}

#[test]
fn sockets_follow_addresses_protocols_and_limits_only() {
    let mut compiler = compiler();
    apply(&mut compiler, "s", world([to("a", &[])]));
    let before = compiler.readers().load();
    let bind = |snapshot: &super::Snapshot| Arc::clone(snapshot.bind(&ADDRESS.parse().unwrap()).unwrap());

    // A second listener on the address, later by name: limits and protocols are as before.
    let mut second = listener("m", ADDRESS, "a.b");
    second.limits.max_headers = 7;
    assert!(!apply(&mut compiler, "s", Builder::new().listener(second.clone())).listeners_changed);
    let after = compiler.readers().load();
    assert!(Arc::ptr_eq(&bind(&before).limits, &bind(&after).limits));

    // An earlier one: its limits count.
    second.name = "k".into();
    second.hostname = crate::model::HostPattern::parse("a.c").unwrap();
    assert!(apply(&mut compiler, "s", Builder::new().listener(second.clone())).listeners_changed);
    assert_eq!(bind(&compiler.readers().load()).limits.max_headers, 7);

    // What any listener speaks is spoken.
    second.protocols.http2 = false;
    assert!(!apply(&mut compiler, "s", Builder::new().listener(second)).listeners_changed);
    assert!(bind(&compiler.readers().load()).protocols.http2);
}

#[test]
fn an_equal_delta_changes_nothing_and_a_route_leaves_the_others_as_they_are() {
    let mut compiler = compiler();
    let routes = || (0..300).map(|index| to(&format!("r{index}"), &["b"]));
    assert_eq!(apply(&mut compiler, "s", world(routes())).published, Some(1));
    assert_eq!(apply(&mut compiler, "s", world(routes())).published, None);

    let before = compiler.readers().load();
    let changed = to("r7", &["c"]);
    assert_eq!(
        apply(&mut compiler, "s", Builder::new().route(changed)).published,
        Some(2)
    );
    let after = compiler.readers().load();
    let rule = |snapshot: &super::Snapshot, name: &str| {
        let listener = Arc::clone(snapshot.binds().next().unwrap().listeners().next().unwrap());
        let headers = http::HeaderMap::new();
        let head = super::RequestHead {
            method: &http::Method::GET,
            host: "",
            path: &format!("/{name}"),
            query: None,
            headers: &headers,
        };
        let entry = listener.hosts.walk("", |table| table.find(&head)).unwrap();
        Arc::clone(&entry.rule)
    };
    for index in 0..300 {
        let name = format!("r{index}");
        let same = Arc::ptr_eq(&rule(&before, &name), &rule(&after, &name));
        assert_eq!(same, index != 7, "{name}");
    }
    assert_eq!(found(&compiler, "GET x/r7").as_deref(), Some("r7/0"));
}

#[test]
fn a_backend_is_known_while_it_is_mentioned_or_defined() {
    let mut compiler = compiler();
    let names = |compiler: &Compiler| {
        let snapshot = compiler.readers().load();
        let mut names: Vec<_> = snapshot
            .backends()
            .map(|backend| backend.name.to_string())
            .collect();
        names.sort();
        names
    };
    let id = |compiler: &Compiler, name: &str| compiler.readers().load().backend(name).unwrap().id;
    apply(&mut compiler, "s", world([to("a", &["x", "y"]), to("b", &["y"])]));
    assert_eq!(names(&compiler), ["x", "y"]);
    let y = id(&compiler, "y");

    apply(&mut compiler, "s", Builder::new().route(to("a", &["z"])));
    assert_eq!(names(&compiler), ["y", "z"]);
    assert_eq!(id(&compiler, "y"), y, "another rule still has it");
    apply(&mut compiler, "s", without_route("b"));
    assert_eq!(names(&compiler), ["z"]);
    apply(&mut compiler, "s", Builder::new().route(to("b", &["y"])));
    assert_ne!(id(&compiler, "y"), y, "ids are not given twice");

    let mut define = Delta::default();
    let name = BackendName::from("y");
    let policy = Arc::new(crate::model::Backend::new(name.clone()));
    define.backends.insert(name.clone(), Some(policy));
    compiler.apply(&"s".into(), define, Micros(0));
    apply(&mut compiler, "s", without_route("b"));
    assert_eq!(
        names(&compiler),
        ["y", "z"],
        "defined, though no rule mentions it"
    );
    let mut undefine = Delta::default();
    undefine.backends.insert(name, None);
    compiler.apply(&"s".into(), undefine, Micros(0));
    assert_eq!(names(&compiler), ["z"]);
}

#[test]
fn shares_follow_their_weights() {
    let mut built = route("r", &["l"], &["*"])
        .rule_to([prefix("/")], &["a", "b", "c", "d"])
        .build();
    let inner = Arc::make_mut(&mut built);
    let rule = Arc::make_mut(&mut inner.rules[0]);
    for (backend, weight) in rule.backends.iter_mut().zip([1, 0, 2, u32::MAX]) {
        backend.weight = weight;
    }
    let mut delta = world([]).0;
    delta.routes.insert("r".into(), Some(built));
    let mut compiler = compiler();
    compiler.apply(&"s".into(), delta, Micros(0));
    let snapshot = compiler.readers().load();
    let headers = http::HeaderMap::new();
    let head = super::RequestHead {
        method: &http::Method::GET,
        host: "",
        path: "/",
        query: None,
        headers: &headers,
    };
    let split = &snapshot
        .bind(&ADDRESS.parse().unwrap())
        .unwrap()
        .find(&head)
        .unwrap()
        .rule
        .split;
    let weights: Vec<_> = split
        .shares()
        .map(|(share, weight)| (share.target.to_string(), weight))
        .collect();
    let weight = u64::from(u32::MAX);
    assert_eq!(weights, [("a".into(), 1), ("c".into(), 2), ("d".into(), weight)]);
    let step = (u128::from(u64::MAX) + 1) / u128::from(weight + 3);
    for (point, expected) in [(0, "a"), (1, "c"), (2, "c"), (3, "d"), (weight + 2, "d")] {
        let random = (u128::from(point) * step + step / 2) as u64;
        assert_eq!(split.choose(|| random).target.to_string(), expected, "{point}");
    }
    assert_eq!(split.choose(|| u64::MAX).target.to_string(), "d");
}

#[test]
fn one_share_or_none_needs_no_chance() {
    let compiled = |backends: &[&str]| {
        let mut compiler = compiler();
        apply(&mut compiler, "s", world([to("a", backends)]));
        let route = Arc::clone(&compiler.compiled[&RouteName::from("a")]);
        Arc::clone(&route.rules[0])
    };
    let never = || unreachable!("there is no choice");
    assert_eq!(compiled(&["x"]).split.choose(never).target.to_string(), "x");
    assert!(matches!(compiled(&[]).split.choose(never).target, Target::None));
}
