//! How objects fare, and what of it is written.

use serde_json::json;

use super::*;
use crate::kubernetes::gateway::GROUP;
use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, key, route, route_with_rule};
use crate::kubernetes::{Kind, MESH_CONTROLLER, Mesh, Settings};

const NOW: &str = "2026-01-01T00:00:00Z";

fn fixture(yaml: &str) -> Fixture {
    let settings = Settings {
        gateway_address: "10.0.0.1".parse().unwrap(),
        ingress_address: "10.0.0.2:80".parse().unwrap(),
        ingress_tls_address: "10.0.0.2:443".parse().unwrap(),
        ..Settings::default()
    };
    let mut fixture = Fixture::with(settings, yaml);
    fixture.index.note_statuses(true);
    fixture
}

fn bound(addresses: &[&str]) -> Serving {
    let sockets = Sockets {
        bound: addresses.iter().map(|address| socket(address)).collect(),
        ..Sockets::default()
    };
    Serving {
        sockets,
        public: None,
    }
}

fn socket(address: &str) -> Socket {
    (address.parse().unwrap(), Transport::Tcp)
}

/// What is written where nothing is yet.
fn written(fixture: &Fixture, kind: Kind, name: &str, serving: &Serving) -> Value {
    let namespace = if kind.is_namespaced() { "default" } else { "" };
    let status = of(&key(kind, namespace, name), fixture.index.outcome(), serving).unwrap();
    merge(&status, &json!({}), NOW).unwrap_or_default()
}

/// Conditions as `Type=Status Reason`.
fn conditions(value: &Value) -> Vec<String> {
    let conditions = value["conditions"].as_array().unwrap().iter();
    conditions
        .map(|condition| {
            let text = |name: &str| condition[name].as_str().unwrap().to_owned();
            format!("{}={} {}", text("type"), text("status"), text("reason"))
        })
        .collect()
}

#[test]
fn a_gateway_is_programmed_when_it_is_bound() {
    let fixture = fixture(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    let pending = written(&fixture, Kind::Gateway, "edge", &bound(&[]));
    assert_eq!(
        conditions(&pending),
        ["Accepted=True Accepted", "Programmed=False Pending"]
    );
    let served = written(&fixture, Kind::Gateway, "edge", &bound(&["10.0.0.1:80"]));
    assert_eq!(
        conditions(&served),
        ["Accepted=True Accepted", "Programmed=True Programmed"]
    );
    assert_eq!(
        served["addresses"],
        json!([{"type": "IPAddress", "value": "10.0.0.1"}])
    );
    let listener = &served["listeners"][0];
    assert_eq!(
        (&listener["name"], &listener["attachedRoutes"]),
        (&json!("http"), &json!(1))
    );
    assert_eq!(
        listener["supportedKinds"],
        json!([{"group": GROUP, "kind": "HTTPRoute"}, {"group": GROUP, "kind": "GRPCRoute"}])
    );
    assert_eq!(
        conditions(listener),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "ResolvedRefs=True ResolvedRefs",
            "Conflicted=False NoConflicts"
        ]
    );
}

#[test]
fn routes_are_counted_where_no_certificate_is_yet() {
    let edge = WEB_AND_EDGE.replace(
        "protocol: HTTP",
        "protocol: HTTPS, tls: {certificateRefs: [{name: none}]}",
    );
    let fixture = fixture(&format!("{edge}---\n{}", route_with_rule("")));
    let status = written(&fixture, Kind::Gateway, "edge", &bound(&[]));
    assert_eq!(status["listeners"][0]["attachedRoutes"], json!(1));
    let parents = &written(&fixture, Kind::HttpRoute, "r", &bound(&[]))["parents"];
    assert_eq!(
        conditions(&parents[0]),
        ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
    );
    let other = format!("{edge}---\n{}", route("hostnames: [a.example]"))
        .replace("name: http, port", "name: http, hostname: b.example, port");
    let mut fixture = self::fixture(&other);
    fixture.index.note_statuses(true);
    let status = written(&fixture, Kind::Gateway, "edge", &bound(&[]));
    assert_eq!(
        status["listeners"][0]["attachedRoutes"],
        json!(0),
        "the hostnames do not meet"
    );
}

#[test]
fn an_address_that_cannot_be_bound_is_told_and_left_out() {
    let yaml = WEB_AND_EDGE.replace(
        "listeners:",
        "addresses: [{value: 10.0.0.1}, {value: 192.0.2.1}]\n  listeners:",
    );
    let fixture = fixture(&yaml);
    let mut serving = bound(&["10.0.0.1:80"]);
    let pending = written(&fixture, Kind::Gateway, "edge", &serving);
    assert_eq!(
        conditions(&pending),
        ["Accepted=True Accepted", "Programmed=False Pending"]
    );
    let why = "cannot listen on 192.0.2.1:80: no interface has this address";
    serving
        .sockets
        .failed
        .insert(socket("192.0.2.1:80"), why.to_owned());
    let status = written(&fixture, Kind::Gateway, "edge", &serving);
    assert_eq!(
        conditions(&status),
        ["Accepted=True Accepted", "Programmed=False AddressNotUsable"]
    );
    assert_eq!(status["conditions"][1]["message"], why);
    assert_eq!(
        status["addresses"],
        json!([{"type": "IPAddress", "value": "10.0.0.1"}])
    );
    let listener = &status["listeners"][0];
    assert_eq!(
        conditions(listener)[..2],
        ["Accepted=True Accepted", "Programmed=False Invalid"]
    );
    assert_eq!(listener["conditions"][1]["message"], why);
}

#[test]
fn parameters_that_nobody_knows_are_refused_with_what_refers_to_them() {
    let class = |parameters: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: tidegate}}\nspec: \
             {{controllerName: tidegate.dev/gateway-controller{parameters}}}\n"
        )
    };
    let wanted = "parametersRef: {group: invalid.io, kind: Sizes, name: large}";
    let own = WEB_AND_EDGE.replace(
        "  listeners:",
        &format!("  infrastructure: {{{wanted}}}\n  listeners:"),
    );
    let by_class = class(&format!(", {wanted}"));
    for (yaml, of_class) in [
        (own + &class(""), "True Accepted"),
        (WEB_AND_EDGE.to_owned() + &by_class, "False InvalidParameters"),
    ] {
        let fixture = fixture(&format!("{yaml}---\n{}", route_with_rule("")));
        assert_eq!(fixture.listeners(), [""; 0], "it is not served");
        let written = |kind, name| written(&fixture, kind, name, &bound(&[]));
        let gateway = written(Kind::Gateway, "edge");
        assert_eq!(
            conditions(&gateway),
            ["Accepted=False InvalidParameters", "Programmed=False Invalid"]
        );
        let message = gateway["conditions"][0]["message"].as_str().unwrap();
        assert!(message.contains("Sizes of \"invalid.io\""), "{message}");
        assert_eq!(
            conditions(&written(Kind::GatewayClass, "tidegate"))[0],
            format!("Accepted={of_class}")
        );
    }
}

#[test]
fn what_a_gateway_shows_endpoints_is_told_while_there_is_something() {
    let with = WEB_AND_EDGE.replace(
        "  listeners:",
        "  tls: {backend: {clientCertificateRef: {name: none}}}\n  listeners:",
    );
    let mut fixture = fixture(&with);
    let serving = bound(&["10.0.0.1:80"]);
    let status = written(&fixture, Kind::Gateway, "edge", &serving);
    assert_eq!(
        conditions(&status),
        [
            "Accepted=True Accepted",
            "Programmed=True Programmed",
            "ResolvedRefs=False InvalidClientCertificateRef",
        ]
    );
    fixture.apply(WEB_AND_EDGE);
    let next = of(
        &key(Kind::Gateway, "default", "edge"),
        fixture.index.outcome(),
        &serving,
    )
    .unwrap();
    let next = merge(&next, &status, NOW).unwrap();
    assert_eq!(
        conditions(&next),
        ["Accepted=True Accepted", "Programmed=True Programmed"]
    );
}

#[test]
fn listeners_that_cannot_be_served_say_why() {
    for (listeners, gateway, first) in [
        (
            "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]",
            ["Accepted=False ListenersNotValid", "Programmed=False Invalid"],
            [
                "Accepted=False HostnameConflict",
                "Programmed=False HostnameConflict",
                "ResolvedRefs=True ResolvedRefs",
                "Conflicted=True HostnameConflict",
            ],
        ),
        (
            "[{name: a, port: 80, protocol: SCTP}, {name: b, port: 81, protocol: HTTP}]",
            ["Accepted=True ListenersNotValid", "Programmed=False Pending"],
            [
                "Accepted=False UnsupportedProtocol",
                "Programmed=False Invalid",
                "ResolvedRefs=True ResolvedRefs",
                "Conflicted=False NoConflicts",
            ],
        ),
        (
            "[{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}]}}]",
            ["Accepted=True Accepted", "Programmed=False Pending"],
            [
                "Accepted=True Accepted",
                "Programmed=False Pending",
                "ResolvedRefs=False InvalidRouteKinds",
                "Conflicted=False NoConflicts",
            ],
        ),
    ] {
        let yaml = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: \
             tidegate, listeners: {listeners}}}"
        );
        let status = written(&fixture(&yaml), Kind::Gateway, "g", &bound(&[]));
        assert_eq!(conditions(&status), gateway, "{listeners}");
        assert_eq!(conditions(&status["listeners"][0]), first, "{listeners}");
    }
}

#[test]
fn routes_say_to_each_parent_how_they_fare() {
    for (spec, expected) in [
        (
            "rules: [{backendRefs: [{name: web, port: 80}]}]",
            vec!["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"],
        ),
        (
            "rules: [{backendRefs: [{name: none, port: 80}]}]",
            vec!["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"],
        ),
        (
            "rules: [{backendRefs: [{name: web, namespace: far, port: 80}]}]",
            vec!["Accepted=True Accepted", "ResolvedRefs=False RefNotPermitted"],
        ),
        (
            "rules: [{matches: [{path: {value: bad}}]}]",
            vec![
                "Accepted=False UnsupportedValue",
                "ResolvedRefs=True ResolvedRefs",
            ],
        ),
        (
            "rules: [{matches: [{path: {value: bad}}, {path: {value: /good}}]}]",
            vec![
                "Accepted=True Accepted",
                "ResolvedRefs=True ResolvedRefs",
                "PartiallyInvalid=True UnsupportedValue",
            ],
        ),
    ] {
        let fixture = fixture(&format!("{WEB_AND_EDGE}---\n{}", route(spec)));
        let status = written(&fixture, Kind::HttpRoute, "r", &bound(&[]));
        let parent = &status["parents"][0];
        assert_eq!(parent["parentRef"], json!({"name": "edge"}));
        assert_eq!(parent["controllerName"], GATEWAY_CONTROLLER);
        assert_eq!(conditions(parent), expected, "{spec}");
    }
    let yaml = format!("{WEB_AND_EDGE}---\n{}", route("hostnames: [a.example]")).replace(
        "[{name: edge}]",
        "[{name: edge, sectionName: no}, {name: edge, port: 80}, {name: not-ours}]",
    );
    let status = written(&fixture(&yaml), Kind::HttpRoute, "r", &bound(&[]));
    let parents = status["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 2, "{status}");
    assert_eq!(conditions(&parents[0])[0], "Accepted=False NoMatchingParent");
    assert_eq!(conditions(&parents[1])[0], "Accepted=True Accepted");
    assert_eq!(parents[1]["parentRef"], json!({"name": "edge", "port": 80}));
}

/// A route of a Gateway and of a Service: each is told by the one who serves it, and a Service's only where sidecars do.
#[test]
fn routes_of_services_are_told_under_another_name() {
    let service = "{group: '', kind: Service, name: web}";
    let spec = "rules: [{backendRefs: [{name: web, namespace: far, port: 80}]}]";
    let yaml = format!("{WEB_AND_EDGE}---\n{}", route(spec))
        .replace(
            "[{name: edge}]",
            &format!("[{{name: edge}}, {service}, {{group: '', kind: Service, name: none}}]"),
        )
        .replace("spec: {ports", "spec: {clusterIP: 10.96.0.1, ports")
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: far}, spec: {ports: [{port: 80}]}}";
    let with = |mesh| {
        let settings = Settings {
            mesh,
            ..Settings::default()
        };
        Fixture::with(settings, &yaml)
    };
    let status = written(&with(Mesh::Off), Kind::HttpRoute, "r", &bound(&[]));
    assert_eq!(status["parents"].as_array().map(Vec::len), Some(1), "{status}");
    let status = written(&with(Mesh::Tell), Kind::HttpRoute, "r", &bound(&[]));
    let parents = status["parents"].as_array().unwrap();
    let told: Vec<_> = parents
        .iter()
        .map(|parent| (parent["controllerName"].as_str().unwrap(), conditions(parent)))
        .collect();
    let (accepted, resolved) = ("Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs");
    assert_eq!(
        told,
        [
            // A Gateway's routes need a grant, a Service's do not.
            (
                GATEWAY_CONTROLLER,
                vec![
                    accepted.to_owned(),
                    "ResolvedRefs=False RefNotPermitted".to_owned()
                ]
            ),
            (MESH_CONTROLLER, vec![accepted.to_owned(), resolved.to_owned()]),
            (
                MESH_CONTROLLER,
                vec!["Accepted=False NoMatchingParent".to_owned(), resolved.to_owned()]
            ),
        ]
    );
    assert_eq!(
        parents[1]["parentRef"],
        json!({"group": "", "kind": "Service", "name": "web"})
    );
    // What stands under that name is another's where nothing is told; else it goes with the parent.
    for (mesh, kept) in [(Mesh::Off, 3), (Mesh::Tell, 1)] {
        let settings = Settings {
            mesh,
            ..Settings::default()
        };
        let fixture = Fixture::with(settings, &format!("{WEB_AND_EDGE}---\n{}", route(spec)));
        let status = of(
            &key(Kind::HttpRoute, "default", "r"),
            fixture.index.outcome(),
            &bound(&[]),
        )
        .unwrap();
        let merged = merge(&status, &json!({"parents": parents}), NOW);
        let there = merged.map_or(parents.len(), |merged| {
            merged["parents"].as_array().unwrap().len()
        });
        assert_eq!(there, kept);
    }
}

#[test]
fn only_what_differs_is_written_and_times_stay() {
    let mut fixture = fixture(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    let route_key = key(Kind::HttpRoute, "default", "r");
    let status = |fixture: &Fixture| of(&route_key, fixture.index.outcome(), &bound(&[])).unwrap();
    let foreign =
        json!({"controllerName": "example.com/other", "parentRef": {"name": "x"}, "conditions": []});
    let before = json!({"parents": [foreign.clone()]});
    let first = merge(&status(&fixture), &before, NOW).unwrap();
    assert_eq!(first["parents"][0], foreign, "others' entries stay");
    assert_eq!(merge(&status(&fixture), &first, "later"), None);
    fixture.delete(Kind::Service, "default", "web");
    let second = merge(&status(&fixture), &first, "later").unwrap();
    let since = |at: usize| {
        second["parents"][1]["conditions"][at]["lastTransitionTime"]
            .as_str()
            .unwrap()
    };
    assert_eq!(
        (since(0), since(1)),
        (NOW, "later"),
        "only what turned has a new time"
    );
    // Of another class now: ours goes, the other's stays.
    fixture.delete(Kind::Gateway, "default", "edge");
    assert_eq!(
        merge(&status(&fixture), &second, "later").unwrap(),
        json!({"parents": [foreign]})
    );
}

#[test]
fn classes_and_ingresses() {
    let yaml = format!(
        "{WEB_AND_EDGE}---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: ours, generation: 7}}
spec: {{controllerName: tidegate.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: theirs}}
spec: {{controllerName: example.com/other}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: i}}
spec: {{defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: theirs}}
spec: {{ingressClassName: other, defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}}}"
    );
    let fixture = fixture(&yaml);
    let class = written(&fixture, Kind::GatewayClass, "ours", &bound(&[]));
    // What is installed is not known: nothing is said of it.
    assert_eq!(conditions(&class), ["Accepted=True Accepted"]);
    assert_eq!(class["conditions"][0]["observedGeneration"], 7);
    assert!(
        class["supportedFeatures"]
            .as_array()
            .unwrap()
            .contains(&json!({"name": "HTTPRoute"}))
    );
    for (kind, namespace) in [(Kind::GatewayClass, ""), (Kind::Ingress, "default")] {
        assert_eq!(
            of(
                &key(kind, namespace, "theirs"),
                fixture.index.outcome(),
                &bound(&[])
            ),
            None
        );
    }
    assert_eq!(
        written(&fixture, Kind::Ingress, "i", &bound(&[])),
        Value::Null,
        "not bound"
    );
    assert_eq!(
        written(&fixture, Kind::Ingress, "i", &bound(&["10.0.0.2:80"])),
        json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}]}})
    );
}

#[test]
fn what_may_fare_differently_is_asked_for() {
    let mut fixture = fixture(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    let touched = |fixture: &mut Fixture| -> Vec<String> {
        std::iter::from_fn(|| fixture.index.next_touched())
            .map(|key| key.to_string())
            .collect()
    };
    assert_eq!(
        touched(&mut fixture),
        ["Gateway default/edge", "HTTPRoute default/r"]
    );
    fixture.delete(Kind::Service, "default", "web");
    assert_eq!(
        touched(&mut fixture),
        ["Gateway default/edge", "HTTPRoute default/r"]
    );
    fixture.delete(Kind::HttpRoute, "default", "r");
    assert_eq!(
        touched(&mut fixture),
        ["Gateway default/edge", "HTTPRoute default/r"]
    );
    fixture.apply("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}");
    assert_eq!(touched(&mut fixture), [""; 0]);
    fixture.index.note_statuses(false);
    fixture.apply(&route_with_rule(""));
    assert!(!fixture.index.is_touched());
}
