//! The table against its specification: tables of precedence here; against a naive reader of the same
//! rules, and against itself from scratch, in `tests/properties.rs`.

mod backends;
mod compile;
mod naive;
mod properties;
mod worlds;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use self::worlds::{Builder, listener, route};
use super::*;
use crate::model::{HeaderMatch, Match, QueryMatch, StringMatch};

const ADDRESS: &str = "127.0.0.1:80";

/// A request to be asked for: `METHOD host/path?query`, with fields.
fn ask(snapshot: &Snapshot, request: &str, fields: &[(&'static str, &str)]) -> Option<String> {
    let (method, rest) = request.split_once(' ').unwrap();
    let slash = rest.find(['/', '*']).unwrap();
    let (host, target) = rest.split_at(slash);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let method: Method = method.parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let head = RequestHead {
        method: &method,
        host,
        path,
        query,
        headers: &headers,
    };
    let found = snapshot.bind(&ADDRESS.parse().unwrap())?.find(&head)?;
    assert_eq!(found.rule.route, found.route.route.name);
    assert!(found.path.matches(path));
    Some(format!("{}/{}", found.route.route.name, found.rule.index))
}

fn header(name: &'static str, value: &str) -> HeaderMatch {
    HeaderMatch {
        name: HeaderName::from_static(name),
        value: StringMatch::Exact(value.into()),
    }
}

fn query(name: &str) -> QueryMatch {
    QueryMatch {
        name: name.into(),
        value: StringMatch::Present,
    }
}

fn exact(path: &str) -> Match {
    Match {
        path: PathMatch::Exact(path.into()),
        ..Match::default()
    }
}

fn prefix(path: &str) -> Match {
    Match {
        path: PathMatch::prefix(path),
        ..Match::default()
    }
}

fn regex(path: &str) -> Match {
    Match {
        path: PathMatch::regex(path).unwrap(),
        ..Match::default()
    }
}

#[test]
fn paths_exact_then_longest() {
    let all = route("r", &["l"], &["*"])
        .rule([prefix("/")])
        .rule([prefix("/a")])
        .rule([prefix("/a/b")])
        .rule([exact("/a/b")])
        .rule([exact("/a/b/")])
        .rule([regex("/a/[^/]+/c")])
        .rule([regex("/.*/z")])
        .rule([prefix("/abcdefgh")]);
    let snapshot = Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(all)
        .snapshot();
    for (request, rule) in [
        ("GET x/", 0),
        ("GET x/other", 0),
        ("GET x/ab", 0),
        ("GET x/a", 1),
        ("GET x/a/", 1),
        ("GET x/a/c", 1),
        ("GET x/a/b", 3),
        ("GET x/a/b/", 4),
        ("GET x/a/b/x", 2),
        ("GET x/a/b/c", 5),      // the expression is longer than /a/b
        ("GET x/a/z", 6),        // /.*/z has 5 characters, /a has 2
        ("GET x/abcdefgh/z", 7), // /abcdefgh has 9
        ("GET x//a", 0),
    ] {
        assert_eq!(
            ask(&snapshot, request, &[]),
            Some(format!("r/{rule}")),
            "{request}"
        );
    }
    assert_eq!(
        ask(&snapshot, "OPTIONS x*", &[]),
        None,
        "an asterisk is no path below /"
    );
}

#[test]
fn a_prefix_comes_before_an_expression_of_equal_length() {
    let both = route("r", &["l"], &["*"])
        .rule([regex("/a.")])
        .rule([prefix("/ab")]);
    let snapshot = Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(both)
        .snapshot();
    assert_eq!(ask(&snapshot, "GET x/ab", &[]).unwrap(), "r/1");
    assert_eq!(ask(&snapshot, "GET x/ac", &[]).unwrap(), "r/0");
}

#[test]
fn very_deep_prefixes_are_found_too() {
    let deep = |depth: usize| "/a".repeat(depth);
    let rules = [0, 1, 62, 63, 64, 65, 100];
    let mut all = route("r", &["l"], &["*"]);
    for depth in rules {
        all = all.rule([prefix(&deep(depth))]);
    }
    let snapshot = Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(all)
        .snapshot();
    for depth in 0..150 {
        let expected = rules.iter().rposition(|rule| *rule <= depth).unwrap();
        let request = format!("GET x{}/", deep(depth));
        assert_eq!(
            ask(&snapshot, &request, &[]),
            Some(format!("r/{expected}")),
            "depth {depth}"
        );
    }
}

#[test]
fn conditions_method_then_fields_then_parameters() {
    let conditions = |method: bool, headers: &[&'static str], queries: &[&str]| Match {
        path: PathMatch::prefix("/a"),
        method: method.then_some(Method::GET),
        headers: headers.iter().map(|name| header(name, "1")).collect(),
        queries: queries.iter().map(|name| query(name)).collect(),
    };
    let all = route("r", &["l"], &["*"])
        .rule([conditions(false, &[], &[])])
        .rule([conditions(false, &[], &["p"])])
        .rule([conditions(false, &[], &["p", "q"])])
        .rule([conditions(false, &["h"], &[])])
        .rule([conditions(false, &["h", "i"], &[])])
        .rule([conditions(false, &["h", "i"], &["p"])])
        .rule([conditions(true, &[], &[])])
        .rule([conditions(true, &["h"], &["p"])]);
    let snapshot = Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(all)
        .snapshot();
    let (h, i) = (("h", "1"), ("i", "1"));
    for (request, fields, rule) in [
        ("POST x/a", &[][..], 0),
        ("POST x/a?p", &[], 1),
        ("POST x/a?p&q", &[], 2),
        ("POST x/a?p&q", &[h], 3),
        ("POST x/a?q", &[h, i], 4),
        ("POST x/a?p&q", &[h, i], 5),
        ("POST x/a?p&q", &[i, ("h", "2")], 2),
        ("GET x/a?p&q", &[i], 6),
        ("GET x/a?p&q", &[h, i], 7),
    ] {
        assert_eq!(
            ask(&snapshot, request, fields),
            Some(format!("r/{rule}")),
            "{request} {fields:?}"
        );
    }
}

#[test]
fn a_path_that_matches_but_for_its_conditions_gives_way_to_the_next() {
    let guarded = |mut matched: Match| {
        matched.headers.push(header("h", "1"));
        matched
    };
    let all = route("r", &["l"], &["*"])
        .rule([guarded(exact("/a/b"))])
        .rule([guarded(prefix("/a/b"))])
        .rule([guarded(regex("/a/b|long"))])
        .rule([prefix("/a")]);
    let snapshot = Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(all)
        .snapshot();
    assert_eq!(ask(&snapshot, "GET x/a/b", &[]).unwrap(), "r/3");
    assert_eq!(ask(&snapshot, "GET x/a/b", &[("h", "1")]).unwrap(), "r/0");
    assert_eq!(ask(&snapshot, "GET x/a/b/c", &[("h", "1")]).unwrap(), "r/1");
}

#[test]
fn ties_go_to_the_older_then_by_order_then_by_name_then_by_place() {
    let made = |name, created, order| {
        let mut made = route(name, &["l"], &["*"])
            .rule([exact("/other"), prefix("/")])
            .rule([prefix("/")]);
        made.created = created;
        made.order = order;
        made
    };
    for (routes, expected) in [
        (vec![made("a", 2, 0), made("b", 1, 9)], "b/0"),
        (vec![made("a", 1, 2), made("b", 1, 1)], "b/0"),
        (vec![made("b", 1, 1), made("a", 1, 1)], "a/0"),
    ] {
        let mut builder = Builder::new().listener(listener("l", ADDRESS, "*"));
        for made in routes {
            builder = builder.route(made);
        }
        assert_eq!(ask(&builder.snapshot(), "GET x/", &[]).unwrap(), expected);
    }
}

#[test]
fn hostnames_the_most_specific_that_has_a_rule() {
    let mut single = route("single", &["l"], &[]).rule([prefix("/")]);
    single.hostnames = vec![HostPattern::SingleLabelWildcard("b.c".into())];
    let snapshot = Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(route("exact", &["l"], &["a.b.c"]).rule([prefix("/e")]))
        .route(single)
        .route(
            route("wide", &["l"], &["*.b.c"])
                .rule([exact("/e")])
                .rule([prefix("/")]),
        )
        .route(route("wider", &["l"], &["*.c"]).rule([prefix("/w")]))
        .route(route("any", &["l"], &["*"]).rule([prefix("/w/any")]))
        .snapshot();
    for (request, expected) in [
        ("GET a.b.c/e", Some("exact/0")),
        ("GET a.b.c/x", Some("single/0")), // falls through: `exact` has no rule for it
        ("GET x.b.c/e", Some("single/0")),
        ("GET x.y.b.c/e", Some("wide/0")),
        ("GET b.c/w", Some("wider/0")),
        ("GET b.c/w/any", Some("wider/0")), // the hostname counts before the path
        ("GET c/w/any", Some("any/0")),
        ("GET /w/any", Some("any/0")),
        ("GET c/w", None),
        ("GET b.c/x", None),
    ] {
        assert_eq!(ask(&snapshot, request, &[]).as_deref(), expected, "{request}");
    }
}

#[test]
fn listeners_are_isolated_and_cut_down_their_routes_hostnames() {
    let snapshot = Builder::new()
        .listener(listener("all", ADDRESS, "*"))
        .listener(listener("shop", ADDRESS, "*.shop.com"))
        .listener(listener("one", ADDRESS, "one.shop.com"))
        .route(route("all", &["all"], &["*"]).rule([prefix("/")]))
        .route(route("shop", &["shop"], &["*"]).rule([prefix("/s")]))
        .route(
            route(
                "one",
                &["one", "shop"],
                &["one.shop.com", "two.shop.com", "other.com"],
            )
            .rule([prefix("/o")]),
        )
        .snapshot();
    for (request, expected) in [
        ("GET other.com/s", Some("all/0")),
        ("GET a.shop.com/s", Some("shop/0")),
        ("GET a.shop.com/x", None), // not `all`: the more specific listener took it
        ("GET one.shop.com/o", Some("one/0")),
        ("GET one.shop.com/s", None),
        ("GET two.shop.com/o", Some("one/0")),
        ("GET two.shop.com/s", Some("shop/0")),
        ("GET other.com/o", Some("all/0")), // no listener of `one` takes it
    ] {
        assert_eq!(ask(&snapshot, request, &[]).as_deref(), expected, "{request}");
    }
    assert!(snapshot.bind(&"127.0.0.1:81".parse().unwrap()).is_none());
}
