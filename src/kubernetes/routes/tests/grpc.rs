//! GRPCRoutes: methods as paths, what is spoken with the endpoints, and what becomes of bad parts.

use std::time::Duration;

use http::HeaderName;

use crate::kubernetes::Kind;
use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, route_with_rule};
use crate::model::{BackendProtocol, Filter, PathMatch, Rule};

/// A GRPCRoute `default/g` of Gateway `edge` with one rule: these lines and a backend `web`.
fn grpc(rule: &str) -> String {
    route_with_rule(rule)
        .replace("kind: HTTPRoute", "kind: GRPCRoute")
        .replace("{name: r}", "{name: g}")
}

fn fixture(rule: &str) -> Fixture {
    Fixture::new(&format!("{WEB_AND_EDGE}---\n{}", grpc(rule)))
}

fn rule(fixture: &Fixture) -> Rule {
    let route = fixture.world.routes.get("GRPCRoute/default/g");
    let route = route.unwrap_or_else(|| panic!("{:?}", fixture.rejects()));
    Rule::clone(&route.rules[0])
}

#[test]
fn methods_are_paths() {
    let takes = |path: &PathMatch, call: &str| path.matches(call);
    for (method, good, bad) in [
        (
            "{service: a.B, method: C}",
            vec!["/a.B/C"],
            vec!["/a.B/D", "/aXB/C", "/a.B/C/D"],
        ),
        (
            "{type: Exact, service: a.B}",
            vec!["/a.B/C", "/a.B/D"],
            vec!["/a.BC/D", "/a/B"],
        ),
        (
            "{method: C}",
            vec!["/a.B/C", "/x/C"],
            vec!["/a.B/D", "/a/b/C", "//C"],
        ),
        (
            "{type: RegularExpression, service: 'a\\.(B|C)', method: '[DE].*'}",
            vec!["/a.B/Do", "/a.C/E"],
            vec!["/aXB/D", "/a.B/F", "/a.D/D"],
        ),
        (
            "{type: RegularExpression, service: 'a|b'}",
            vec!["/a/x", "/b/y"],
            vec!["/ab/x", "/a"],
        ),
        (
            "{type: RegularExpression, method: 'C|D'}",
            vec!["/x/C", "/y/D"],
            vec!["/x/CD"],
        ),
    ] {
        let fixture = fixture(&format!("matches: [{{method: {method}}}]"));
        assert_eq!(fixture.rejects(), Vec::<String>::new(), "{method}");
        let path = rule(&fixture).matches[0].path.clone();
        for call in good {
            assert!(takes(&path, call), "{method} {call}");
        }
        for call in bad {
            assert!(!takes(&path, call), "{method} {call}");
        }
    }
}

#[test]
fn headers_filters_and_deadlines() {
    let fixture = fixture(
        "name: one
matches: [{headers: [{name: version, value: two}, {name: Version, value: three}]}]
filters:
- {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}
- {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [c]}}
- {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}",
    );
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    let rule = rule(&fixture);
    assert_eq!(rule.name.as_deref(), Some("one"));
    assert_eq!(rule.matches[0].path, PathMatch::default());
    let [header] = &rule.matches[0].headers[..] else {
        panic!("{rule:?}")
    };
    assert_eq!(header.name, HeaderName::from_static("version"));
    assert!(matches!(
        rule.filters[..],
        [
            Filter::RequestHeaders(_),
            Filter::ResponseHeaders(_),
            Filter::Mirror(_)
        ]
    ));
    assert_eq!(rule.timeouts.request, None, "a call brings its own deadline");
    assert_eq!(rule.timeouts.idle, Some(Duration::from_secs(3600)));
}

#[test]
fn what_a_grpc_route_cannot_have_is_refused() {
    for (part, reason) in [
        (
            "matches: [{method: {type: Glob, service: a}}]",
            "matches[0].method.type: UnsupportedValue: \"Glob\" is neither",
        ),
        (
            "matches: [{method: {service: a/b}}]",
            "matches[0].method: UnsupportedValue: \"a/b\" has a '/' in it",
        ),
        (
            "matches: [{method: {}}]",
            "matches[0].method: UnsupportedValue: a service or a method",
        ),
        (
            "matches: [{method: {type: RegularExpression, service: '('}}]",
            "matches[0].method: UnsupportedValue: regular expression",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a.b}}]",
            "filters[0].type: UnsupportedValue: filter \"URLRewrite\"",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]",
            "filters[0].type: UnsupportedValue: filter \"RequestRedirect\"",
        ),
    ] {
        let rejects = fixture(part).rejects();
        let start = format!("test: GRPCRoute default/g: spec.rules[0].{reason}");
        assert!(rejects[0].starts_with(&start), "{rejects:#?}\n{start}");
    }
}

#[test]
fn http2_is_spoken_where_grpc_leads() {
    let mut fixture = Fixture::new(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    let protocol = |fixture: &Fixture| fixture.world.backends["default/web:80"].protocol;
    assert_eq!(protocol(&fixture), BackendProtocol::Http1);
    fixture.apply(&grpc(""));
    assert_eq!(protocol(&fixture), BackendProtocol::H2c);
    fixture.apply(&grpc("matches: [{headers: [{name: a, value: b}]}]"));
    assert_eq!(protocol(&fixture), BackendProtocol::H2c);
    fixture.delete(Kind::GrpcRoute, "default", "g");
    assert_eq!(protocol(&fixture), BackendProtocol::Http1);
    fixture.apply(&grpc(""));
    fixture.delete(Kind::HttpRoute, "default", "r");
    assert_eq!(protocol(&fixture), BackendProtocol::H2c);
    fixture.delete(Kind::GrpcRoute, "default", "g");
    assert!(fixture.world.backends.is_empty());
}

#[test]
fn listeners_take_the_kinds_that_they_allow() {
    for (kinds, http, grpc_) in [
        ("", true, true),
        ("allowedRoutes: {kinds: [{kind: HTTPRoute}]}", true, false),
        ("allowedRoutes: {kinds: [{kind: GRPCRoute}]}", false, true),
        (
            "allowedRoutes: {kinds: [{kind: GRPCRoute}, {kind: HTTPRoute}]}",
            true,
            true,
        ),
        ("allowedRoutes: {kinds: [{kind: TCPRoute}]}", false, false),
    ] {
        let edge = WEB_AND_EDGE.replace("protocol: HTTP", &format!("protocol: HTTP, {kinds}"));
        let fixture = Fixture::new(&format!(
            "{edge}---\n{}---\n{}",
            route_with_rule("").replace("spec:\n", "spec:\n  hostnames: [r.example]\n"),
            grpc("").replace("spec:\n", "spec:\n  hostnames: [g.example]\n")
        ));
        let routes = fixture.routes();
        assert_eq!(
            routes.contains(&"HTTPRoute/default/r"),
            http,
            "{kinds} {routes:?}"
        );
        assert_eq!(
            routes.contains(&"GRPCRoute/default/g"),
            grpc_,
            "{kinds} {routes:?}"
        );
    }
}
