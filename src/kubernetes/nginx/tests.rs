//! Annotations of ingress-nginx: each value, what it becomes, and what is said of what it cannot become.

use std::time::Duration;

use crate::kubernetes::Settings;
use crate::kubernetes::testing::Fixture;
use crate::model::{
    AffinityBy, Allowed, BackendProtocol, BackendTarget, Balance, Cors, Filter, HashKey, OriginPattern,
    PathMatch, Route, Rule,
};

use super::*;

/// Services `main` and `next`, and an Ingress for them with these annotations.
fn world(annotations: &str, path: &str) -> String {
    format!(
        "{SERVICES}{}",
        ingress("i", annotations, "shop.example", path, "main")
    )
}

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: main}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: next}
spec: {ports: [{port: 80}]}
---
";

fn ingress(name: &str, annotations: &str, host: &str, path: &str, service: &str) -> String {
    let annotations: String = annotations
        .lines()
        .map(|line| format!("    {PREFIX}{line}\n"))
        .collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n    a: b\n{annotations}spec:\n  \
         rules: [{{host: {host}, http: {{paths: [{{path: '{path}', pathType: ImplementationSpecific, backend: {{service: {{name: \
         {service}, port: {{number: 80}}}}}}}}]}}}}]\n---\n"
    )
}

fn served(annotations: &str, path: &str) -> Fixture {
    let fixture = Fixture::with(Settings::default(), &world(annotations, path));
    assert_eq!(fixture.rejects(), [""; 0], "{annotations}");
    fixture
}

fn route(fixture: &Fixture) -> &Route {
    fixture
        .world
        .routes
        .get("Ingress/default/i")
        .unwrap_or_else(|| panic!("{:?}", fixture.rejects()))
}

fn rule(fixture: &Fixture) -> Rule {
    let rules = &route(fixture).rules;
    assert_eq!(rules.len(), 1, "{rules:?}");
    (*rules[0]).clone()
}

#[test]
fn the_table_can_be_searched_and_every_entry_can_be_read() {
    assert!(ANNOTATIONS.is_sorted_by(|a, b| a.name < b.name));
    assert!(ANNOTATIONS.len() > 125, "{}", ANNOTATIONS.len());
    for known in ANNOTATIONS {
        assert_eq!(annotation(known.name), Some(known));
        assert!(!known.text.is_empty() && !known.text.contains('|'), "{known:?}");
    }
    assert_eq!(annotation("rewrite"), None);
}

#[test]
fn a_path_is_rewritten_with_what_was_captured() {
    for (target, path, request, expected) in [
        ("/$2", "/something(/|$)(.*)", "/something", Some("/")),
        ("/$2", "/something(/|$)(.*)", "/something/new?", Some("/new?")),
        ("/$2", "/something(/|$)(.*)", "/SOMETHING/new", Some("/new")),
        ("/$2", "/something(/|$)(.*)", "/somethingelse", None),
        ("/", "/api", "/api/v1", Some("/")),
        ("/x$1y", "/(a+)", "/aab", Some("/xaay")),
        ("$1/z", "/a(/b)", "/a/b", Some("/b/z")),
        ("/a$", "/b", "/b", Some("/a$")),
    ] {
        let fixture = served(&format!("rewrite-target: '{target}'"), path);
        let rule = rule(&fixture);
        let matched = &rule.matches[0].path;
        assert_eq!(matched.matches(request), expected.is_some(), "{path} {request}");
        let [Filter::Rewrite(rewrite)] = &rule.filters[..] else {
            panic!("{rule:?}");
        };
        if let Some(expected) = expected {
            let PathMatch::Regex(regex) = matched else {
                panic!("{matched:?}");
            };
            let Some(PathRewrite::Captures(template)) = &rewrite.path else {
                panic!("{rewrite:?}");
            };
            let mut out = String::new();
            regex.captures(request).unwrap().expand(template, &mut out);
            assert_eq!(out, expected, "{target} {path} {request}");
        }
    }
    let plain = served("", "/api");
    assert_eq!(rule(&plain).matches[0].path, PathMatch::prefix("/api"));
}

#[test]
fn what_belongs_to_a_rule() {
    let rule = rule(&served(
        "proxy-read-timeout: '3600'\nproxy-send-timeout: 2h\nupstream-vhost: a.internal\nx-forwarded-prefix: /shop\n\
         proxy-next-upstream: error timeout http_502\nproxy-next-upstream-tries: '2'\nproxy-buffering: 'off'",
        "/",
    ));
    let hour = Duration::from_secs(3600);
    assert_eq!(
        rule.timeouts,
        Timeouts {
            request: None,
            per_try: Some(hour),
            idle: Some(hour),
            upgrade_idle: Some(2 * hour),
        }
    );
    assert_eq!((rule.retry.attempts, rule.retry.on.timeout), (2, true));
    assert_eq!(rule.retry.on.statuses, [StatusCode::BAD_GATEWAY]);
    let [Filter::RequestHeaders(edits), Filter::Rewrite(rewrite)] = &rule.filters[..] else {
        panic!("{:?}", rule.filters);
    };
    assert_eq!(edits.set[0].1, "/shop");
    assert_eq!(rewrite.hostname, Some(HeaderValue::from_static("a.internal")));
}

#[test]
fn redirections() {
    for (annotations, scheme, host, port, path, status) in [
        (
            "permanent-redirect: https://new.example/x",
            Some("https"),
            Some("new.example"),
            None,
            Some("/x"),
            301,
        ),
        (
            "permanent-redirect: https://new.example$request_uri\npermanent-redirect-code: '308'",
            Some("https"),
            Some("new.example"),
            None,
            None,
            308,
        ),
        (
            "temporal-redirect: http://new.example:81",
            Some("http"),
            Some("new.example"),
            Some(81),
            Some("/"),
            302,
        ),
        (
            "temporal-redirect: /here\ntemporal-redirect-code: '307'",
            None,
            None,
            None,
            Some("/here"),
            307,
        ),
    ] {
        let rule = rule(&served(annotations, "/"));
        let [Filter::Redirect(redirect)] = &rule.filters[..] else {
            panic!("{rule:?}");
        };
        assert_eq!(
            redirect.scheme.as_ref().map(|scheme| scheme.as_str()),
            scheme,
            "{annotations}"
        );
        assert_eq!(
            (redirect.hostname.as_deref(), redirect.port),
            (host, port),
            "{annotations}"
        );
        let full = match &redirect.path {
            None => None,
            Some(PathRewrite::Full(path)) => Some(&**path),
            other => panic!("{other:?}"),
        };
        assert_eq!((full, redirect.status.as_u16()), (path, status), "{annotations}");
        assert!(rule.backends.is_empty());
    }
    let fixture = served("app-root: /login", "/shop");
    let rules = &route(&fixture).rules;
    let app_root = rules.iter().find(|rule| rule.backends.is_empty()).unwrap();
    assert_eq!(app_root.matches[0].path, PathMatch::Exact("/".into()));
}

#[test]
fn what_belongs_to_connections_is_the_services() {
    let fixture = served(
        "backend-protocol: GRPC\nload-balance: round_robin\nproxy-connect-timeout: '7'\naffinity: cookie\n\
         session-cookie-name: route\nsession-cookie-max-age: '60'\nsession-cookie-secure: 'true'\nsession-cookie-samesite: Strict",
        "/",
    );
    let backend = &fixture.world.backends["default/main:80"];
    assert_eq!(
        (backend.protocol, backend.balance, backend.connect_timeout),
        (BackendProtocol::H2c, Balance::RoundRobin, Duration::from_secs(7))
    );
    let Some(AffinityBy::Cookie(cookie)) = backend.affinity.as_ref().map(|affinity| &affinity.by) else {
        panic!("{:?}", backend.affinity);
    };
    assert_eq!(
        (&*cookie.name, cookie.ttl, cookie.secure, cookie.same_site),
        ("route", Some(Duration::from_secs(60)), true, SameSite::Strict)
    );
    for (by, key) in [
        ("$remote_addr", HashKey::Source),
        ("$request_uri", HashKey::Path),
        ("${http_x_user_id}", HashKey::parse("header:x-user-id").unwrap()),
        ("$cookie_sid", HashKey::parse("cookie:sid").unwrap()),
    ] {
        let fixture = served(&format!("upstream-hash-by: '{by}'"), "/");
        let backend = &fixture.world.backends["default/main:80"];
        assert_eq!(
            (&backend.hash, backend.balance),
            (&key, Balance::RingHash),
            "{by}"
        );
    }
}

#[test]
fn wishes_come_and_go_and_the_first_by_name_has_its_own() {
    let a = |wish: &str| ingress("a", wish, "a.example", "/", "main");
    let b = |wish: &str| ingress("b", wish, "b.example", "/", "main");
    let balance = |fixture: &Fixture| fixture.world.backends["default/main:80"].balance;
    let mut fixture = Fixture::new(&format!("{SERVICES}{}", b("load-balance: round_robin")));
    assert_eq!(balance(&fixture), Balance::RoundRobin);
    fixture.apply(&a("upstream-hash-by: $remote_addr"));
    assert_eq!(balance(&fixture), Balance::RingHash);
    let rejects = fixture.rejects();
    assert!(
        rejects.len() == 1 && rejects[0].contains("Service default/main") && rejects[0].contains("default/a"),
        "{rejects:?}"
    );
    fixture.apply(&a("upstream-vhost: x"));
    assert_eq!(
        (balance(&fixture), fixture.rejects().len()),
        (Balance::RoundRobin, 0)
    );
    fixture.delete(crate::kubernetes::Kind::Ingress, "default", "b");
    assert_eq!(balance(&fixture), Balance::LeastLatency);
    // The Service's own word goes before.
    fixture.apply(&a("load-balance: round_robin"));
    fixture.apply("apiVersion: v1\nkind: Service\nmetadata: {name: main, annotations: {tidegate.dev/balance: random}}\nspec: {ports: [{port: 80}]}");
    assert_eq!(balance(&fixture), Balance::Random);
}

#[test]
fn what_guards_and_cannot_be_had_is_not_served_without() {
    for guard in [
        "whitelist-source-range: 10.0.0.0/8",
        "auth-url: http://auth.example/",
        "auth-type: basic",
        "configuration-snippet: deny all;",
        "backend-protocol: HTTPS",
        "ssl-passthrough: 'true'",
        "permanent-redirect: 'https://a.example/?x=1'",
        "force-ssl-redirect: 'true'",
    ] {
        let fixture = Fixture::new(&world(guard, "/"));
        assert_eq!(fixture.routes(), [""; 0], "{guard}");
        let name = guard.split(':').next().unwrap();
        let rejects = fixture.rejects();
        assert!(
            rejects
                .iter()
                .any(|reject| reject.contains(&format!("{PREFIX}{name}")) && reject.contains("not served")),
            "{rejects:?}"
        );
        let without = world(&format!("{guard}\nx: y"), "/").replace(
            &format!("    {PREFIX}x: y\n"),
            &format!("    {IGNORE}: 'limit-rps, {name}'\n"),
        );
        let fixture = Fixture::new(&without);
        assert_eq!(
            (fixture.routes().len(), fixture.rejects()),
            (1, Vec::new()),
            "{guard}"
        );
    }
    // Turned off it guards nothing.
    for off in [
        "ssl-passthrough: 'false'",
        "enable-modsecurity: 'false'",
        "whitelist-source-range: ''",
    ] {
        served(off, "/");
    }
}

#[test]
fn scripts_of_other_origins_may_do_what_they_could_with_nginx() {
    let cors = |annotations: &str| match &rule(&served(annotations, "/")).filters[..] {
        [] => None,
        [Filter::Cors(cors)] => Some(cors.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        cors("enable-cors: 'false'\ncors-allow-origin: https://a.example"),
        None
    );
    assert_eq!(cors("cors-allow-origin: https://a.example"), None);
    let names = |names: &[&str]| Allowed::These(names.iter().map(|name| name.parse().unwrap()).collect());
    let methods =
        |methods: &[&str]| Allowed::These(methods.iter().map(|method| method.parse().unwrap()).collect());
    // The defaults: all origins, and so no credentials.
    let default = Cors {
        origins: vec![OriginPattern::Any],
        credentials: false,
        methods: methods(&["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"]),
        headers: names(&[
            "dnt",
            "keep-alive",
            "user-agent",
            "x-requested-with",
            "if-modified-since",
            "cache-control",
            "content-type",
            "range",
            "authorization",
        ]),
        expose: Allowed::These(Vec::new()),
        max_age: Duration::from_secs(1_728_000),
    };
    assert_eq!(cors("enable-cors: 'true'"), Some(default.clone()));
    assert_eq!(
        cors(
            "enable-cors: 'true'\ncors-allow-credentials: 'true'\ncors-allow-origin: 'https://a.example, *'"
        ),
        Some(default.clone())
    );
    let given = cors(
        "enable-cors: 'true'\ncors-allow-origin: 'https://a.example, http://*.b.example:8080'\ncors-allow-methods: 'get,PURGE'\n\
         cors-allow-headers: 'X-One, x_two'\ncors-expose-headers: '*, x-three'\ncors-max-age: '0'",
    );
    let origins = ["https://a.example", "http://*.b.example:8080"];
    let expected = Cors {
        origins: origins
            .map(|origin| OriginPattern::parse(origin).unwrap().of_one_label())
            .into(),
        credentials: true,
        methods: methods(&["GET", "PURGE"]),
        headers: names(&["x-one", "x_two"]),
        expose: Allowed::All,
        max_age: Duration::ZERO,
    };
    assert_eq!(given, Some(expected.clone()));
    let without =
        cors("enable-cors: 'true'\ncors-allow-origin: https://a.example\ncors-allow-credentials: 'false'");
    assert!(!without.unwrap().credentials);
    // An origin that cannot be read allows nobody, rather than all.
    let fixture = Fixture::new(&world("enable-cors: 'true'\ncors-allow-origin: app://a", "/"));
    let Filter::Cors(nobody) = &rule(&fixture).filters[0] else {
        panic!("{fixture:?}", fixture = fixture.rejects());
    };
    assert!(nobody.origins.is_empty());
}

#[test]
fn what_cannot_be_had_is_told_and_served_without() {
    for (annotation, told) in [
        (
            "proxy-body-size: 8m",
            "AnnotationNotSupported: bodies are streamed",
        ),
        (
            "limit-rps: '5'",
            "AnnotationNotSupported: there are no limits of rates",
        ),
        ("enable-cors: 'yes'", "\"yes\" is neither"),
        (
            "enable-cors: 'true'\ncors-allow-origin: app.example",
            "\"app.example\" is neither '*' nor an origin",
        ),
        (
            "enable-cors: 'true'\ncors-allow-origin: https://*",
            "\"https://*\" is neither '*' nor an origin",
        ),
        (
            "enable-cors: 'true'\ncors-allow-methods: GET, X-1",
            "\"X-1\" is no method; GET, PUT,",
        ),
        (
            "enable-cors: 'true'\ncors-allow-headers: '*'",
            "\"*\" is no name of a field; the default is used",
        ),
        (
            "enable-cors: 'true'\ncors-expose-headers: 'a: b'",
            "\"a:\" is no name of a field; the default is used",
        ),
        (
            "enable-cors: 'true'\ncors-max-age: 1d",
            "it is no number of seconds; 1728000 is used",
        ),
        (
            "enable-cors: 'true'\ncors-allow-credentials: x",
            "\"x\" is neither \"true\" nor \"false\"; there are none",
        ),
        (
            "rewrite-targte: /",
            "did you mean nginx.ingress.kubernetes.io/rewrite-target?",
        ),
        ("made-up-by-nobody: x", "ingress-nginx has no such annotation"),
        ("rewrite-target: /$host", "of nginx's variables only $1 to $9"),
        ("rewrite-target: /a?b=c", "the query stays"),
        ("use-regex: maybe", "\"maybe\" is neither"),
        ("proxy-read-timeout: soon", "no time like 60"),
        ("load-balance: least", "neither round_robin nor ewma"),
        ("upstream-hash-by: $request_body", "there is no hash"),
        ("affinity: ip", "not \"cookie\""),
        ("proxy-next-upstream: error non_idempotent", "never sent twice"),
    ] {
        let fixture = Fixture::new(&world(annotation, "/"));
        let rejects = fixture.rejects();
        assert!(
            rejects.len() == 1 && rejects[0].contains(told),
            "{annotation}: {rejects:?}"
        );
        assert_eq!(fixture.routes().len(), 1, "{annotation}");
    }
    let fixture = Fixture::new(&world("use-regex: 'true'", "/(a"));
    assert!(
        fixture.rejects()[0].contains("is no regular expression"),
        "{:?}",
        fixture.rejects()
    );
}

/// Where the rules of `shop.example` lead, as `fields: target weight, …`.
fn division(fixture: &Fixture) -> Vec<String> {
    let rules = route(fixture).rules.iter().map(|rule| {
        let fields: Vec<String> = rule.matches[0]
            .headers
            .iter()
            .map(|field| match &field.value {
                crate::model::StringMatch::Exact(value) => format!("{}={value}", field.name),
                _ => format!("{}~", field.name),
            })
            .collect();
        let shares: Vec<String> = rule
            .backends
            .iter()
            .map(|backend| match &backend.target {
                BackendTarget::Backend(name) => format!("{name} {}", backend.weight),
                BackendTarget::Invalid(_) => "nowhere".to_owned(),
            })
            .collect();
        format!("{}: {}", fields.join(" "), shares.join(", "))
    });
    rules.collect()
}

#[test]
fn a_canary_takes_its_part() {
    let canary = |annotations: &str| {
        ingress(
            "z",
            &format!("canary: 'true'\n{annotations}"),
            "shop.example",
            "/",
            "next",
        )
    };
    let (main, next) = ("default/main:80", "default/next:80");
    let mut fixture = served("", "/");
    for (annotations, expected) in [
        ("canary-weight: '10'", vec![format!(": {main} 90, {next} 10")]),
        (
            "canary-weight: '1'\ncanary-weight-total: '1000'",
            vec![format!(": {main} 999, {next} 1")],
        ),
        ("canary-weight: '200'", vec![format!(": {main} 0, {next} 100")]),
        (
            "canary-by-header: X-Canary\ncanary-weight: '5'",
            vec![
                format!("x-canary=always: {next} 1"),
                format!("x-canary=never: {main} 1"),
                format!(": {main} 95, {next} 5"),
            ],
        ),
        (
            "canary-by-header: X-Canary\ncanary-by-header-value: eu",
            vec![format!("x-canary=eu: {next} 1"), format!(": {main} 1")],
        ),
        (
            "canary-by-header: X-Canary\ncanary-by-header-pattern: 'e.*'\ncanary-by-cookie: beta",
            vec![
                format!("x-canary~: {next} 1"),
                format!("cookie~: {next} 1"),
                format!("cookie~: {main} 1"),
                format!(": {main} 1"),
            ],
        ),
    ] {
        fixture.apply(&canary(annotations));
        assert_eq!(fixture.rejects(), [""; 0]);
        assert_eq!(division(&fixture), expected, "{annotations}");
        assert_eq!(
            fixture.routes(),
            ["Ingress/default/i"],
            "a canary has no routes of its own"
        );
        assert!(fixture.world.backends.contains_key(next));
    }
    // It comes, goes, and follows the main one.
    fixture.delete(crate::kubernetes::Kind::Ingress, "default", "z");
    assert_eq!(division(&fixture), [format!(": {main} 1")]);
    assert!(!fixture.world.backends.contains_key(next));
    fixture.apply(&canary("canary-weight: '10'").replace("shop.example", "other.example"));
    assert_eq!(division(&fixture), [format!(": {main} 1")]);
    assert!(
        fixture.rejects()[0].contains("no Ingress with the same host and path"),
        "{:?}",
        fixture.rejects()
    );
    fixture.apply(&ingress("o", "", "other.example", "/", "main"));
    assert_eq!(fixture.rejects(), [""; 0]);
    let other = &fixture.world.routes["Ingress/default/o"];
    assert_eq!(other.rules[0].backends.len(), 2);
}

#[test]
fn a_cookie_is_found_among_others() {
    let canary = Canary::of(
        &|name| (name == "canary-by-cookie").then_some("beta"),
        &mut |name, reason| panic!("{name}: {reason}"),
    );
    let rules = canary.divide(
        Rule {
            matches: vec![crate::model::Match::default()],
            ..Rule::default()
        },
        BackendTarget::Backend("b".into()),
    );
    let always = &rules[0].matches[0].headers[0].value;
    for (cookies, is_meant) in [
        ("beta=always", true),
        ("a=b; beta=always; c=d", true),
        ("a=b;beta=always", true),
        ("xbeta=always", false),
        ("beta=alwaysnot", false),
        ("beta=never", false),
    ] {
        assert_eq!(always.matches(cookies), is_meant, "{cookies}");
    }
}
