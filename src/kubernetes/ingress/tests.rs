//! Ingresses: classes, hosts, paths, default backends, TLS that is not there.

use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE};
use crate::kubernetes::{Kind, Settings};
use crate::model::{BackendTarget, HostPattern, PathMatch, Route};

const WEB: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 9000}]}
---
";

fn ingress(metadata: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i{metadata}}}\nspec:\n{spec}"
    )
}

fn class(name: &str, controller: &str, is_default: bool) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}, annotations: \
         {{ingressclass.kubernetes.io/is-default-class: '{is_default}'}}}}\nspec: {{controller: {controller}}}\n"
    )
}

const OURS: &str = "tidegate.dev/ingress-controller";
const DEFAULT: &str = "defaultBackend: {service: {name: web, port: {number: 80}}}";

/// A rule with one path to port 80 of `web`.
fn rule(host: &str, path: &str) -> String {
    format!(
        "{{host: '{host}', http: {{paths: [{{path: '{path}', pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}"
    )
}

fn route<'a>(fixture: &'a Fixture, name: &str) -> &'a Route {
    fixture
        .world
        .routes
        .get(name)
        .unwrap_or_else(|| panic!("{:?} {:?}", fixture.routes(), fixture.rejects()))
}

#[test]
fn an_ingress_is_ours_by_its_class() {
    let strict = || Settings {
        class_by_name: false,
        ..Settings::default()
    };
    let named = |name: &str| format!("ingressClassName: {name}\n{DEFAULT}");
    let annotated = |name: &str| format!(", annotations: {{kubernetes.io/ingress.class: {name}}}");
    for (settings, classes, metadata, spec, is_ours) in [
        // a directory: by name, or without any class
        (
            Settings::default(),
            String::new(),
            String::new(),
            DEFAULT.to_owned(),
            true,
        ),
        (
            Settings::default(),
            String::new(),
            String::new(),
            named("tidegate"),
            true,
        ),
        (
            Settings::default(),
            String::new(),
            String::new(),
            named("nginx"),
            false,
        ),
        (
            Settings::default(),
            class("nginx", "k8s.io/ingress-nginx", true),
            String::new(),
            DEFAULT.to_owned(),
            true,
        ),
        // a cluster: by the class object
        (strict(), String::new(), String::new(), DEFAULT.to_owned(), false),
        (strict(), String::new(), String::new(), named("tidegate"), false),
        (
            strict(),
            class("fast", OURS, false),
            String::new(),
            named("fast"),
            true,
        ),
        (
            strict(),
            class("fast", OURS, false),
            String::new(),
            DEFAULT.to_owned(),
            false,
        ),
        (
            strict(),
            class("fast", OURS, true),
            String::new(),
            DEFAULT.to_owned(),
            true,
        ),
        (
            strict(),
            class("tidegate", "example.com/other", true),
            String::new(),
            named("tidegate"),
            false,
        ),
        (
            strict(),
            class("other", "example.com/other", true),
            String::new(),
            DEFAULT.to_owned(),
            false,
        ),
        // the old annotation goes first and needs no object
        (
            strict(),
            String::new(),
            annotated("tidegate"),
            DEFAULT.to_owned(),
            true,
        ),
        (
            strict(),
            class("fast", OURS, false),
            annotated("fast"),
            DEFAULT.to_owned(),
            true,
        ),
        (
            strict(),
            class("fast", OURS, true),
            annotated("nginx"),
            named("fast"),
            false,
        ),
    ] {
        let yaml = format!("{WEB}{classes}{}", ingress(&metadata, &spec));
        let fixture = Fixture::with(settings, &yaml);
        assert_eq!(
            !fixture.routes().is_empty(),
            is_ours,
            "{classes}{metadata}\n{spec}"
        );
        let listeners: &[&str] = if is_ours { &["ingress 0.0.0.0:80 *"] } else { &[] };
        assert_eq!(fixture.listeners(), listeners);
        assert_eq!(fixture.rejects(), Vec::<String>::new());
    }
}

#[test]
fn a_class_that_comes_later_is_noticed() {
    let strict = Settings {
        class_by_name: false,
        ..Settings::default()
    };
    let mut fixture = Fixture::with(
        strict,
        &format!(
            "{WEB}{}",
            ingress("", &format!("ingressClassName: fast\n{DEFAULT}"))
        ),
    );
    assert!(fixture.routes().is_empty());
    fixture.apply(&class("fast", OURS, false));
    assert_eq!(fixture.routes(), ["Ingress/default/i"]);
    fixture.delete(Kind::IngressClass, "", "fast");
    assert_eq!(fixture.world, Default::default());
}

#[test]
fn path_types() {
    let path = |path: &str, kind: &str| {
        format!(
            "{{path: {path}, pathType: {kind}, backend: {{service: {{name: web, port: {{name: admin}}}}}}}}"
        )
    };
    let spec = format!(
        "rules:\n- http:\n    paths: [{}, {}, {}, {}]",
        path("/foo", "Exact"),
        path("/foo/", "Prefix"),
        path("/bar", "ImplementationSpecific"),
        path("''", "Prefix"),
    );
    let fixture = Fixture::new(&format!("{WEB}{}", ingress("", &spec)));
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    let route = route(&fixture, "Ingress/default/i");
    let paths: Vec<_> = route
        .rules
        .iter()
        .map(|rule| rule.matches[0].path.clone())
        .collect();
    assert_eq!(
        paths,
        [
            PathMatch::Exact("/foo".into()),
            PathMatch::prefix("/foo"),
            PathMatch::prefix("/bar"),
            PathMatch::prefix("/"),
        ]
    );
    for rule in &route.rules {
        assert_eq!(
            rule.backends[0].target,
            BackendTarget::Backend("default/web:9000".into()),
            "by name"
        );
    }
    assert_eq!(fixture.world.backends.len(), 1);
}

#[test]
fn hosts_make_routes() {
    let spec = format!(
        "rules: [{}, {}, {}, {}]",
        rule("a.example", "/1"),
        rule("*.b.example", "/2"),
        rule("A.example", "/3"),
        rule("", "/4")
    );
    let fixture = Fixture::new(&format!("{WEB}{}", ingress("", &spec)));
    assert_eq!(
        fixture.routes(),
        [
            "Ingress/default/i/*",
            "Ingress/default/i/*.b.example",
            "Ingress/default/i/a.example"
        ]
    );
    assert_eq!(
        route(&fixture, "Ingress/default/i/a.example").rules.len(),
        2,
        "one host in two rules is one route"
    );
    let single = route(&fixture, "Ingress/default/i/*.b.example");
    assert_eq!(
        single.hostnames,
        [HostPattern::SingleLabelWildcard("b.example".into())]
    );
    assert!(single.hostnames[0].matches("x.b.example") && !single.hostnames[0].matches("x.y.b.example"));
    assert_eq!(
        route(&fixture, "Ingress/default/i/*").hostnames,
        [HostPattern::Any]
    );

    let fixture = Fixture::new(&format!(
        "{WEB}{}",
        ingress("", &format!("rules: [{}]", rule("a.example", "/")))
    ));
    assert_eq!(
        fixture.routes(),
        ["Ingress/default/i"],
        "one host needs no telling apart"
    );
}

#[test]
fn the_default_backend_comes_after_all_others() {
    let spec = format!("{DEFAULT}\nrules: [{}]", rule("a.example", "/1"));
    let yaml = format!(
        "{WEB}{}",
        ingress(", creationTimestamp: '2020-01-01T00:00:00Z'", &spec)
    );
    let fixture = Fixture::new(&yaml);
    assert_eq!(
        fixture.routes(),
        ["Ingress/default/i", "Ingress/default/i:default"]
    );
    let default = route(&fixture, "Ingress/default/i:default");
    assert_eq!(default.hostnames, [HostPattern::Any]);
    assert_eq!(default.rules[0].matches, [Default::default()]);
    assert!(default.created > 4_000_000_000, "younger than any real route");
}

#[test]
fn what_is_wrong_with_an_ingress() {
    let path = |rest: &str| format!("rules: [{{host: a.example, http: {{paths: [{{path: /, {rest}}}]}}}}]");
    let web = "backend: {service: {name: web, port: {number: 80}}}";
    for (spec, complaint, routes) in [
        (
            "{}".to_owned(),
            "spec: it has neither rules nor a defaultBackend",
            0,
        ),
        (
            path("backend: {resource: {kind: Bucket, name: b}}"),
            "spec.rules[0].http.paths[0].backend: InvalidKind",
            1,
        ),
        (
            path("backend: {service: {name: none, port: {number: 80}}}"),
            "spec.rules[0].http.paths[0].backend.service: BackendNotFound: there is no Service default/none; its requests are answered with 503",
            1,
        ),
        (
            path("backend: {service: {name: web, port: {name: nope}}}"),
            "spec.rules[0].http.paths[0].backend.service: BackendNotFound: Service default/web has no port \"nope\"; it has 80 (http), 9000 (admin)",
            1,
        ),
        (
            path("backend: {service: {name: web}}"),
            "spec.rules[0].http.paths[0].backend.service.port: it needs a number or a name",
            1,
        ),
        (
            path(&format!("pathType: Regex, {web}")),
            "spec.rules[0].http.paths[0].pathType: \"Regex\" is none of",
            0,
        ),
        (
            format!("rules: [{}]", rule("a.example", "x")),
            "spec.rules[0].http.paths[0].path: \"x\" does not begin with '/'",
            0,
        ),
        (
            format!("rules: [{}, {}]", rule("a:80", "/"), rule("b", "/")),
            "spec.rules[0].host: \"a:80\" is not a hostname",
            1,
        ),
    ] {
        let fixture = Fixture::new(&format!("{WEB}{}", ingress("", &spec)));
        let rejects = fixture.rejects();
        assert_eq!(rejects.len(), 1, "{spec}: {rejects:?}");
        let start = format!("test: Ingress default/i: {complaint}");
        assert!(rejects[0].starts_with(&start), "{}\n{start}", rejects[0]);
        assert_eq!(fixture.routes().len(), routes, "{spec}");
    }
}

#[test]
fn a_missing_service_is_a_backend_without_endpoints() {
    let mut fixture = Fixture::new(&ingress("", &format!("rules: [{}]", rule("a.example", "/"))));
    let target = |fixture: &Fixture| {
        route(fixture, "Ingress/default/i").rules[0].backends[0]
            .target
            .clone()
    };
    assert_eq!(target(&fixture), BackendTarget::Backend("default/web:80".into()));
    assert!(fixture.world.backends.is_empty());
    fixture.apply(WEB);
    assert_eq!(target(&fixture), BackendTarget::Backend("default/web:80".into()));
    assert!(fixture.world.backends.contains_key("default/web:80"));
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn hosts_with_tls_are_not_served_in_clear_text_unless_that_is_said() {
    let rules = format!(
        "rules: [{}, {}, {}]",
        rule("a.example", "/"),
        rule("b.example", "/"),
        rule("x.c.example", "/")
    );
    let allowed = ", annotations: {tidegate.dev/clear-text: allow}";
    for (metadata, tls, served, rejects) in [
        ("", "tls: []", vec!["a.example", "b.example", "x.c.example"], 0),
        (
            "",
            "tls: [{hosts: [A.example], secretName: s}]",
            vec!["b.example", "x.c.example"],
            1,
        ),
        (
            "",
            "tls: [{hosts: ['*.c.example']}, {hosts: [b.example]}]",
            vec!["a.example"],
            2,
        ),
        ("", "tls: [{secretName: s}]", vec![], 3),
        (
            allowed,
            "tls: [{secretName: s}]",
            vec!["a.example", "b.example", "x.c.example"],
            0,
        ),
        (
            ", annotations: {tidegate.dev/clear-text: 'yes'}",
            "tls: [{hosts: [a.example]}]",
            vec!["b.example", "x.c.example"],
            2,
        ),
    ] {
        let fixture = Fixture::new(&format!("{WEB}{}", ingress(metadata, &format!("{tls}\n{rules}"))));
        let names = fixture.routes();
        let hosts: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_prefix("Ingress/default/i/"))
            .collect();
        let is_one = served.len() == 1;
        assert_eq!(hosts, if is_one { vec![] } else { served.clone() }, "{tls}");
        assert_eq!(names.len(), served.len());
        assert_eq!(fixture.rejects().len(), rejects, "{tls}: {:?}", fixture.rejects());
    }
    let fixture = Fixture::new(&format!(
        "{WEB}{}",
        ingress("", &format!("tls: [{{}}]\n{DEFAULT}"))
    ));
    assert!(fixture.routes().is_empty() && fixture.listeners().is_empty());
    assert!(fixture.rejects()[0].contains("set the annotation tidegate.dev/clear-text: allow"));
}

#[test]
fn hosts_with_tls_get_certificates_by_acme_where_that_is_said() {
    let rules = format!(
        "rules: [{}, {}]",
        rule("a.example", "/"),
        rule("x.c.example", "/")
    );
    let wanted = ", annotations: {tidegate.dev/acme: 'true'}";
    for (metadata, tls, names, rejects) in [
        (
            wanted,
            "tls: [{hosts: [A.example, x.c.example]}]",
            "a.example x.c.example",
            0,
        ),
        (wanted, "tls: [{}]", "a.example x.c.example", 0),
        (
            wanted,
            "tls: [{hosts: [a.example], secretName: gone}, {hosts: ['*.c.example']}]",
            "a.example *.c.example",
            0,
        ),
        (wanted, "tls: [{hosts: [a_b.example]}]", "", 0),
        (
            ", annotations: {tidegate.dev/acme: 'false'}",
            "tls: [{hosts: [a.example]}]",
            "",
            1,
        ),
        (
            ", annotations: {tidegate.dev/acme: yes please}",
            "tls: [{hosts: [a.example]}]",
            "",
            2,
        ),
    ] {
        let fixture = Fixture::new(&format!("{WEB}{}", ingress(metadata, &format!("{tls}\n{rules}"))));
        let listener = fixture.world.listeners.get("ingress-tls");
        let tls_of = listener.and_then(|listener| listener.tls.as_ref());
        let managed = tls_of.map_or(&[][..], |tls| &tls.managed);
        let shown: Vec<_> = managed.iter().map(ToString::to_string).collect();
        assert_eq!(shown.join(" "), names, "{tls}");
        assert_eq!(fixture.rejects().len(), rejects, "{tls}: {:?}", fixture.rejects());
        if !names.is_empty() {
            assert!(tls_of.is_some_and(|tls| tls.strict_sni && tls.certificates.is_empty()));
            let led: Vec<_> = fixture.routes();
            assert!(led.iter().any(|name| name.ends_with(":https")), "{tls}: {led:?}");
        }
    }
}

#[test]
fn the_ingress_listener_goes_before_a_gateway() {
    let mut fixture = Fixture::new(WEB_AND_EDGE);
    assert_eq!(fixture.listeners(), ["default/edge/http 0.0.0.0:80 *"]);
    let ingress = ingress("", DEFAULT);
    fixture.apply(&ingress);
    assert_eq!(fixture.listeners(), ["ingress 0.0.0.0:80 *"]);
    assert!(fixture.rejects()[0].contains("PortUnavailable: 0.0.0.0:80 is taken by the Ingresses"));
    fixture.delete(Kind::Ingress, "default", "i");
    assert_eq!(fixture.listeners(), ["default/edge/http 0.0.0.0:80 *"]);

    let elsewhere = Settings {
        ingress_address: "127.0.0.1:8080".parse().unwrap(),
        ..Settings::default()
    };
    let fixture = Fixture::with(elsewhere, &format!("{WEB_AND_EDGE}{ingress}"));
    assert_eq!(
        fixture.listeners(),
        ["default/edge/http 0.0.0.0:80 *", "ingress 127.0.0.1:8080 *"]
    );
}
