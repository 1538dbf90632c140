//! TLSRoutes, TCPRoutes and UDPRoutes: where they attach, what is done there, and what becomes of bad parts.

use std::time::Duration;

use data_encoding::BASE64;

use crate::kubernetes::Kind;
use crate::kubernetes::testing::Fixture;
use crate::model::tls::test_pair;
use crate::model::{BackendTarget, ListenerKind, Route};

/// A Service `db` with ports for connections and datagrams of the same number, and endpoints that differ.
const DB: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  ports:
  - {name: q, port: 53, protocol: TCP, appProtocol: https}
  - {name: d, port: 53, protocol: UDP}
  - {name: s, port: 99, protocol: SCTP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: db, labels: {kubernetes.io/service-name: db}}
endpoints: [{addresses: [10.0.0.1]}]
ports:
- {name: q, port: 1001, protocol: TCP}
- {name: d, port: 1002, protocol: UDP}
- {name: s, port: 1003, protocol: SCTP}
";

fn edge(listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  gatewayClassName: tidegate\n  \
         listeners:\n{listeners}\n"
    )
}

fn stream(kind: &str, name: &str, created: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, creationTimestamp: '{created}'}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n  {rest}\n"
    )
}

fn certificate() -> String {
    let (certificate, key) = test_pair(&["a.example"], false);
    let encode = |pem: &str| BASE64.encode(pem.as_bytes());
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: {}, tls.key: {}}}\n",
        encode(&certificate),
        encode(&key)
    )
}

const OLD: &str = "2026-01-01T00:00:00Z";
const TO_DB: &str = "rules: [{backendRefs: [{name: db, port: 53}]}]";

fn shown(route: &Route) -> String {
    let targets = route.rules.iter().flat_map(|rule| &rule.backends);
    let targets: Vec<String> = targets
        .map(|backend| match &backend.target {
            BackendTarget::Backend(name) => format!("{name}*{}", backend.weight),
            BackendTarget::Invalid(_) => format!("invalid*{}", backend.weight),
        })
        .collect();
    let listeners: Vec<&str> = route.listeners.iter().map(|name| name.as_str()).collect();
    let hostnames: Vec<String> = route.hostnames.iter().map(ToString::to_string).collect();
    format!(
        "{} at {} for {} to {}",
        route.name,
        listeners.join("+"),
        hostnames.join("+"),
        targets.join("+")
    )
}

fn routes(fixture: &Fixture) -> Vec<String> {
    fixture.world.routes.values().map(|route| shown(route)).collect()
}

#[test]
fn connections_and_datagrams_go_to_ports_of_their_own() {
    let listeners = "  - {name: t, port: 53, protocol: TCP}\n  - {name: u, port: 53, protocol: UDP}";
    let fixture = Fixture::new(
        &(DB.to_owned()
            + &edge(listeners)
            + &stream("TCPRoute", "r", OLD, TO_DB)
            + &stream("UDPRoute", "r", OLD, TO_DB)),
    );
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    assert_eq!(
        routes(&fixture),
        [
            "TCPRoute/default/r at default/edge/t for * to default/db:53/tcp*1",
            "UDPRoute/default/r at default/edge/u for * to default/db:53/udp*1",
        ]
    );
    assert_eq!(fixture.endpoints("default/db:53/tcp"), ["10.0.0.1:1001 Active"]);
    assert_eq!(fixture.endpoints("default/db:53/udp"), ["10.0.0.1:1002 Active"]);
    let kinds: Vec<_> = fixture
        .world
        .listeners
        .values()
        .map(|listener| listener.kind)
        .collect();
    assert_eq!(kinds, [ListenerKind::Tcp, ListenerKind::Udp]);
    let listeners = fixture.world.listeners.values();
    let idle: Vec<_> = listeners.map(|listener| listener.limits.relay_idle).collect();
    assert_eq!(
        idle,
        [Some(Duration::from_secs(3600)), Some(Duration::from_secs(60))]
    );
}

#[test]
fn tls_is_ended_or_passed_on_as_the_listener_says() {
    let listeners = "  - {name: open, port: 443, protocol: TLS, hostname: a.example, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}
  - {name: pass, port: 443, protocol: TLS, hostname: '*.b.example', tls: {mode: Passthrough}}
  - {name: web, port: 443, protocol: HTTPS, hostname: c.example, tls: {certificateRefs: [{name: cert}]}}";
    let hosts = |hosts: &str| format!("hostnames: [{hosts}]\n  {TO_DB}");
    let fixture = Fixture::new(
        &(DB.to_owned()
            + &certificate()
            + &edge(listeners)
            + &stream("TLSRoute", "both", OLD, &hosts("a.example, x.b.example"))
            + &stream("TLSRoute", "one", OLD, &hosts("'*.b.example'"))),
    );
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    assert_eq!(
        routes(&fixture),
        [
            "TLSRoute/default/both at default/edge/pass for a.example+x.b.example to default/db:53/tls*1",
            "TLSRoute/default/both (terminated) at default/edge/open for a.example+x.b.example to default/db:53/tcp*1",
            "TLSRoute/default/one at default/edge/pass for *.b.example to default/db:53/tls*1",
        ]
    );
    let listeners = fixture.world.listeners.values();
    let listeners: Vec<_> = listeners
        .map(|listener| (listener.name.as_str(), listener.kind, listener.tls.is_some()))
        .collect();
    assert_eq!(
        listeners,
        [
            ("default/edge/open", ListenerKind::Tls, true),
            ("default/edge/pass", ListenerKind::Tls, false),
            ("default/edge/web", ListenerKind::Http, true),
        ]
    );
}

#[test]
fn a_policy_of_tls_is_for_connections_that_are_ours() {
    let policy = "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: '', kind: Service, name: db}]
  validation: {wellKnownCACertificates: System, hostname: db.example}
";
    let listeners = "  - {name: t, port: 53, protocol: TCP}\n  - {name: u, port: 53, protocol: UDP}
  - {name: pass, port: 443, protocol: TLS, tls: {mode: Passthrough}}";
    let mut fixture = Fixture::new(
        &(DB.to_owned()
            + &edge(listeners)
            + &stream("TCPRoute", "t", OLD, TO_DB)
            + &stream("UDPRoute", "u", OLD, TO_DB)
            + &stream("TLSRoute", "p", OLD, TO_DB)
            + policy),
    );
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    let with_tls = |fixture: &Fixture| -> Vec<String> {
        let backends = fixture.world.backends.values();
        let secured = backends.filter(|backend| backend.tls.is_some());
        secured.map(|backend| backend.name.to_string()).collect()
    };
    assert_eq!(with_tls(&fixture), ["default/db:53/tcp"]);
    // One that cannot be used takes the endpoints of those for which it counts, and of no others.
    fixture.apply(&policy.replace("System", "Moon"));
    assert_eq!(fixture.endpoints("default/db:53/tcp"), [""; 0]);
    assert_eq!(fixture.endpoints("default/db:53/udp").len(), 1);
    assert_eq!(fixture.endpoints("default/db:53/tls").len(), 1);
    fixture.delete(Kind::Gateway, "default", "edge");
    assert!(fixture.world.backends.is_empty() && fixture.world.routes.is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    let listeners = "  - {name: t, port: 53, protocol: TCP}\n  - {name: u, port: 54, protocol: UDP}";
    for (kind, rest, reject, becomes) in [
        (
            "TCPRoute",
            "rules: [{backendRefs: [{name: none, port: 1, weight: 4}, {name: db, port: 53}]}]",
            "spec.rules[0].backendRefs[0]: BackendNotFound: there is no Service default/none",
            Some("invalid*4+default/db:53/tcp*1"),
        ),
        (
            "UDPRoute",
            "rules: [{backendRefs: [{name: db, port: 99}]}]",
            "spec.rules[0].backendRefs[0]: UnsupportedProtocol: port 99 of Service default/db is not a UDP port",
            Some("invalid*1"),
        ),
        (
            "TCPRoute",
            "rules: [{backendRefs: [{name: db, port: 53, namespace: other}]}]",
            "spec.rules[0].backendRefs[0]: RefNotPermitted: no ReferenceGrant",
            Some("invalid*1"),
        ),
        (
            "TCPRoute",
            "rules: [{backendRefs: [{name: db, port: 53}]}, {backendRefs: [{name: none, port: 1}]}]",
            "spec.rules: UnsupportedValue: nothing tells connections apart, so only the first rule counts",
            Some("default/db:53/tcp*1"),
        ),
        (
            "UDPRoute",
            "rules: []",
            "spec.rules: UnsupportedValue: there is no rule, so the route is left out",
            None,
        ),
        (
            "TLSRoute",
            TO_DB,
            "spec.parentRefs[0]: NotAllowedByListeners: the listeners of Gateway default/edge do not take TLSRoutes",
            None,
        ),
    ] {
        let fixture = Fixture::new(&(DB.to_owned() + &edge(listeners) + &stream(kind, "r", OLD, rest)));
        let rejects = fixture.rejects();
        assert_eq!(rejects.len(), 1, "{rejects:#?}");
        let begin = format!("test: {kind} default/r: {reject}");
        assert!(rejects[0].starts_with(&begin), "{}\n{begin}", rejects[0]);
        let becomes = becomes.map(ToOwned::to_owned);
        let now = fixture.world.routes.values().next();
        assert_eq!(
            now.map(|route| shown(route).rsplit(" to ").next().map(ToOwned::to_owned)),
            becomes.map(Some)
        );
    }
}
