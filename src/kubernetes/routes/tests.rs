//! HTTPRoutes: every part in the words of the model, and what becomes of bad parts.

mod filters;
mod grpc;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use crate::kubernetes::Kind;
use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, route, route_with_rule};
use crate::model::{BackendTarget, HostPattern, PathMatch, Route, Rule, StringMatch};

fn fixture(route: &str) -> Fixture {
    Fixture::new(&format!("{WEB_AND_EDGE}---\n{route}"))
}

fn the_route(fixture: &Fixture) -> Arc<Route> {
    Arc::clone(
        fixture
            .world
            .routes
            .get("HTTPRoute/default/r")
            .unwrap_or_else(|| panic!("{:?}", fixture.rejects())),
    )
}

/// The rule of a route with one rule that has nothing wrong with it.
fn good_rule(rule: &str) -> Rule {
    let fixture = fixture(&route_with_rule(rule));
    assert_eq!(fixture.rejects(), Vec::<String>::new(), "{rule}");
    Rule::clone(&the_route(&fixture).rules[0])
}

/// The only reject of a route with one rule, without its beginning.
fn only_reject(rule: &str) -> (Fixture, String) {
    let fixture = fixture(&route_with_rule(rule));
    let rejects = fixture.rejects();
    assert_eq!(rejects.len(), 1, "{rule}: {rejects:#?}");
    let text = rejects[0]
        .strip_prefix("test: HTTPRoute default/r: spec.rules[0].")
        .unwrap_or(&rejects[0]);
    let text = text.to_owned();
    (fixture, text)
}

#[test]
fn an_empty_route_takes_everything_and_goes_nowhere() {
    let fixture = fixture(&route(""));
    let route = the_route(&fixture);
    assert_eq!(route.hostnames, [HostPattern::Any]);
    assert_eq!(route.rules.len(), 1);
    assert_eq!(route.rules[0].matches, [Default::default()]);
    assert!(route.rules[0].backends.is_empty());
    assert!(fixture.world.backends.is_empty());
}

#[test]
fn matches() {
    let rule = good_rule(
        "name: first
matches:
- path: {type: Exact, value: /a/}
- path: {value: /b/}
  method: DELETE
- path: {type: RegularExpression, value: '/v[0-9]+'}
  headers:
  - {name: X-Test, value: one}
  - {name: x-test, value: two}
  - {name: version, value: '1\\..*', type: RegularExpression}
  queryParams:
  - {name: q, value: '1'}
  - {name: q, value: '2'}
  - {name: Q, value: '3'}",
    );
    assert_eq!(rule.name.as_deref(), Some("first"));
    let [exact, prefix, regex] = &rule.matches[..] else {
        panic!("{rule:?}");
    };
    assert_eq!(exact.path, PathMatch::Exact("/a/".into()));
    assert_eq!(
        (&prefix.path, &prefix.method),
        (&PathMatch::prefix("/b"), &Some(Method::DELETE))
    );
    assert!(regex.path.matches("/v12") && !regex.path.matches("/v12/a"));
    assert_eq!(regex.headers.len(), 2, "the first of equal names counts");
    assert_eq!(regex.headers[0].name, HeaderName::from_static("x-test"));
    assert_eq!(regex.headers[0].value, StringMatch::Exact("one".into()));
    assert!(
        regex.headers[1].value.matches("1.2") && !regex.headers[1].value.matches("v1.2"),
        "the whole value"
    );
    let queries: Vec<_> = regex.queries.iter().map(|query| &*query.name).collect();
    assert_eq!(queries, ["q", "Q"]);
    assert_eq!(regex.queries[0].value, StringMatch::Exact("1".into()));
}

#[test]
fn a_bad_match_is_left_out_alone() {
    for (bad, complaint) in [
        (
            "path: {type: Exact, value: a}",
            ".path.value: UnsupportedValue: \"a\" does not begin with '/'",
        ),
        (
            "path: {type: Glob, value: /a}",
            ".path.type: UnsupportedValue: \"Glob\" is none of",
        ),
        (
            "path: {type: RegularExpression, value: '/('}",
            ".path.value: UnsupportedValue: regular expression: unclosed group",
        ),
        (
            "path: {type: RegularExpression, value: '\\w{500}{500}'}",
            ".path.value: UnsupportedValue: regular expression: Compiled regex exceeds size limit",
        ),
        ("method: 'A B'", ".method: UnsupportedValue: \"A B\" is no method"),
        (
            "headers: [{name: 'a b', value: x}]",
            ".headers[0].name: UnsupportedValue: \"a b\" is no header's name",
        ),
        (
            "headers: [{name: a, value: '[', type: RegularExpression}]",
            ".headers[0].value: UnsupportedValue: regular expression",
        ),
        (
            "queryParams: [{name: '', value: x}]",
            ".queryParams[0].name: UnsupportedValue: a parameter needs a name",
        ),
        (
            "queryParams: [{name: a, value: x, type: Fuzzy}]",
            ".queryParams[0].type: UnsupportedValue: \"Fuzzy\" is neither",
        ),
    ] {
        let (fixture, text) = only_reject(&format!("matches: [{{{bad}}}, {{path: {{value: /good}}}}]"));
        assert!(
            text.starts_with(&format!("matches[0]{complaint}")),
            "{text}\n{complaint}"
        );
        assert_eq!(the_route(&fixture).rules[0].matches.len(), 1);
    }
    let fixture = fixture(&route_with_rule("matches: [{path: {value: bad}}]"));
    assert!(
        fixture.world.routes.is_empty(),
        "a rule without a match must not become one for everything"
    );
    assert_eq!(fixture.rejects().len(), 2);
}

#[test]
fn references_that_cannot_be_followed_are_answered_with_500() {
    let more = "---
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {ports: [{port: 53, protocol: UDP}, {port: 54, name: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
";
    for (reference, complaint) in [
        (
            "name: none, port: 80",
            ": BackendNotFound: there is no Service default/none",
        ),
        (
            "name: web, port: 81",
            ": BackendNotFound: Service default/web has no port 81; it has 80 (http)",
        ),
        (
            "name: web",
            ".port: UnsupportedValue: a reference to a Service needs a port",
        ),
        (
            "name: web, port: 80, kind: Pod",
            ".kind: InvalidKind: Pod of group \"\" is no backend",
        ),
        ("name: web, port: 80, group: example.com", ".kind: InvalidKind"),
        (
            "name: web, port: 80, namespace: other",
            ": RefNotPermitted: no ReferenceGrant in namespace other",
        ),
        (
            "name: dns, port: 53",
            ": UnsupportedProtocol: port 53 of Service default/dns is not a TCP port",
        ),
        (
            "name: outside, port: 80",
            ": UnsupportedValue: Service default/outside is of type ExternalName",
        ),
    ] {
        let spec = format!("rules:\n- backendRefs: [{{{reference}, weight: 3}}, {{name: web, port: 80}}]");
        let fixture = Fixture::new(&format!("{WEB_AND_EDGE}{more}{}", route(&spec)));
        let rejects = fixture.rejects();
        assert_eq!(rejects.len(), 1, "{rejects:?}");
        let start = format!("test: HTTPRoute default/r: spec.rules[0].backendRefs[0]{complaint}");
        assert!(rejects[0].starts_with(&start), "{}\n{start}", rejects[0]);
        let backends = &the_route(&fixture).rules[0].backends;
        assert!(
            matches!(backends[0].target, BackendTarget::Invalid(_)),
            "{reference}"
        );
        assert_eq!(
            (backends[0].weight, backends[1].weight),
            (3, 1),
            "the share stays what it was"
        );
        assert_eq!(
            backends[1].target,
            BackendTarget::Backend("default/web:80".into())
        );
    }
}

#[test]
fn a_backend_that_comes_or_goes_changes_the_route() {
    let mut fixture = fixture(&route_with_rule(""));
    let web = WEB_AND_EDGE.split("---").next().unwrap();
    assert!(fixture.world.backends.contains_key("default/web:80"));
    fixture.delete(Kind::Service, "default", "web");
    assert!(matches!(
        the_route(&fixture).rules[0].backends[0].target,
        BackendTarget::Invalid(_)
    ));
    assert!(fixture.world.backends.is_empty() && fixture.world.endpoints.is_empty());
    fixture.apply(web);
    assert!(matches!(
        the_route(&fixture).rules[0].backends[0].target,
        BackendTarget::Backend(_)
    ));
    assert!(fixture.world.backends.contains_key("default/web:80"));
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn grants_let_routes_refer_to_other_namespaces() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{port: 80}]}\n---\n";
    let route = route("rules: [{backendRefs: [{name: cart, namespace: shop, port: 80}]}]");
    let grant = |version: &str, namespace: &str, from: &str, to: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {namespace}}}\nspec: {{from: [{{{from}}}], to: [{{{to}}}]}}\n"
        )
    };
    let from = "group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default";
    let to = "group: '', kind: Service";
    for (version, namespace, from, to, is_granted) in [
        ("v1", "shop", from, to, true),
        ("v1beta1", "shop", from, to, true),
        ("v1", "shop", from, "group: '', kind: Service, name: cart", true),
        ("v1", "shop", from, "group: '', kind: Service, name: till", false),
        ("v1", "shop", from, "group: '', kind: Secret", false),
        ("v1", "default", from, to, false),
        (
            "v1",
            "shop",
            "group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other",
            to,
            false,
        ),
        (
            "v1",
            "shop",
            "group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: default",
            to,
            false,
        ),
        (
            "v1",
            "shop",
            "group: '', kind: HTTPRoute, namespace: default",
            to,
            false,
        ),
    ] {
        let mut fixture = Fixture::new(&format!("{WEB_AND_EDGE}{service}{route}"));
        assert!(fixture.world.backends.is_empty());
        fixture.apply(&grant(version, namespace, from, to));
        assert_eq!(
            fixture.world.backends.contains_key("shop/cart:80"),
            is_granted,
            "{from} {to}"
        );
        assert_eq!(fixture.rejects().is_empty(), is_granted);
        fixture.delete(Kind::ReferenceGrant, namespace, "g");
        assert!(
            fixture.world.backends.is_empty(),
            "what was granted can be taken back"
        );
    }
}

#[test]
fn weights_and_filters_of_backends() {
    let spec = "rules:
- backendRefs:
  - {name: web, port: 80, weight: 0}
  - {name: web, port: 80, weight: 9, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}]}
  - {name: web, port: 80, weight: -1}
  - {name: web, port: 80, weight: 5, filters: [{type: Nonsense}]}";
    let fixture = fixture(&route(spec));
    let route = the_route(&fixture);
    let backends = &route.rules[0].backends;
    assert_eq!(
        backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(),
        [0, 9, 0, 5]
    );
    assert_eq!(backends[1].filters.len(), 1);
    assert!(matches!(backends[3].target, BackendTarget::Invalid(_)));
    let rejects = fixture.rejects();
    assert_eq!(rejects.len(), 2, "{rejects:?}");
    assert!(
        rejects[0].contains("backendRefs[2].weight: UnsupportedValue: -1"),
        "{rejects:?}"
    );
    assert!(
        rejects[1].contains("backendRefs[3].filters[0].type: UnsupportedValue"),
        "{rejects:?}"
    );
}

#[test]
fn timeouts() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (spec, request, per_try) in [
        ("{}", seconds(60), None),
        ("{request: 10s}", seconds(10), None),
        ("{request: 0s}", None, None),
        ("{request: 10s, backendRequest: 2s}", seconds(10), seconds(2)),
        ("{backendRequest: 2s}", seconds(60), seconds(2)),
        ("{backendRequest: 2m}", seconds(120), seconds(120)),
        ("{request: 0s, backendRequest: 2m}", None, seconds(120)),
        ("{request: 10s, backendRequest: 0s}", seconds(10), None),
    ] {
        let timeouts = good_rule(&format!("timeouts: {spec}")).timeouts;
        assert_eq!((timeouts.request, timeouts.per_try), (request, per_try), "{spec}");
    }
    for (spec, field, request) in [
        (
            "{request: ten}",
            "timeouts.request: UnsupportedValue",
            seconds(60),
        ),
        (
            "{request: 1s, backendRequest: 2s}",
            "timeouts.backendRequest: UnsupportedValue: it is longer",
            seconds(1),
        ),
    ] {
        let (fixture, text) = only_reject(&format!("timeouts: {spec}"));
        assert!(text.starts_with(field), "{text}");
        let timeouts = &the_route(&fixture).rules[0].timeouts;
        assert_eq!((timeouts.request, timeouts.per_try), (request, None));
    }
}

#[test]
fn retries() {
    let retry = good_rule("retry: {attempts: 2, backoff: 100ms, codes: [503, 502, 503]}").retry;
    assert_eq!(
        (retry.attempts, retry.backoff),
        (3, Some(Duration::from_millis(100)))
    );
    assert_eq!(
        retry.on.statuses,
        [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE]
    );
    assert!(retry.on.timeout && retry.on.reset && retry.on.connect_failure);
    assert_eq!(good_rule("retry: {attempts: 0}").retry.attempts, 1);
    assert!(!good_rule("").retry.on.timeout);
    for (spec, complaint) in [
        (
            "{attempts: 21}",
            "retry.attempts: UnsupportedValue: 21 is not from 0 to 20; 2 is used",
        ),
        (
            "{codes: [200]}",
            "retry.codes[0]: UnsupportedValue: 200 is no status from 400 to 599",
        ),
        ("{codes: [70000]}", "retry.codes[0]: UnsupportedValue"),
        ("{backoff: soon}", "retry.backoff: UnsupportedValue"),
    ] {
        assert!(
            only_reject(&format!("retry: {spec}")).1.starts_with(complaint),
            "{spec}"
        );
    }
}

#[test]
fn bad_hostnames_never_make_a_route_for_all() {
    let fixture_one = fixture(&route("hostnames: [a.example, 'b:80', '*.c.example', a.example]"));
    let hostnames: Vec<_> = the_route(&fixture_one)
        .hostnames
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(hostnames, ["a.example", "*.c.example"]);
    assert!(
        fixture_one.rejects()[0].contains("spec.hostnames[1]: UnsupportedValue: \"b:80\" is not a hostname")
    );
    let fixture_none = fixture(&route("hostnames: ['b:80']"));
    assert!(fixture_none.world.routes.is_empty());
    assert_eq!(fixture_none.rejects().len(), 1);
}

#[test]
fn age_goes_along_and_names_decide_the_rest() {
    let old = route("").replace(
        "{name: r}",
        "{name: r, creationTimestamp: '2024-01-01T00:00:00Z'}",
    );
    let route = the_route(&fixture(&old));
    assert_eq!((route.created, route.order), (1_704_067_200, 0));
}

#[test]
fn a_complaint_list_is_bounded() {
    let spec = format!("hostnames: [{}]", "'a b',".repeat(100));
    assert_eq!(fixture(&route(&spec)).rejects().len(), 16);
}
