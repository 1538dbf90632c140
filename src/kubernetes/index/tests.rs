//! The index itself: what a change touches, relists, order of events, random input.

use std::sync::LazyLock;

use proptest::prelude::*;

use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, key, object, objects, route_with_rule};
use crate::kubernetes::{Index, Kind, Object, Settings};
use crate::model::{SourceName, World};

fn slice(name: &str, service: &str, addresses: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: {service}}}}}\nports: [{{name: http, port: 8080}}]\nendpoints: [{addresses}]\n"
    )
}

fn at(address: &str) -> String {
    format!("{{addresses: [{address}]}},")
}

fn web_with_route() -> Fixture {
    Fixture::new(&format!(
        "{WEB_AND_EDGE}---\n{}{}",
        route_with_rule(""),
        slice("a", "web", &at("10.0.0.1"))
    ))
}

#[test]
fn a_slice_changes_the_endpoints_of_its_service_and_nothing_else() {
    let mut fixture = web_with_route();
    assert_eq!(fixture.endpoints("default/web:80"), ["10.0.0.1:8080 Active"]);

    let delta = fixture.apply(&slice("b", "web", &at("10.0.0.2")));
    assert_eq!(delta.endpoints.len(), 1);
    assert!(delta.listeners.is_empty() && delta.routes.is_empty() && delta.backends.is_empty());
    assert_eq!(
        fixture.endpoints("default/web:80"),
        ["10.0.0.1:8080 Active", "10.0.0.2:8080 Active"]
    );

    assert!(
        fixture.apply(&slice("b", "web", &at("10.0.0.2"))).is_empty(),
        "the same again is no change"
    );
    assert!(
        fixture.apply(&slice("c", "web", "")).is_empty(),
        "nor is an empty slice"
    );
    assert!(
        fixture.apply(&slice("d", "other", &at("10.0.0.3"))).is_empty(),
        "nor one that nobody uses"
    );

    let delta = fixture.apply(&slice("b", "other", &at("10.0.0.2")));
    assert_eq!(delta.endpoints.len(), 1, "a slice may change its service");
    assert_eq!(fixture.endpoints("default/web:80"), ["10.0.0.1:8080 Active"]);

    fixture.delete(Kind::EndpointSlice, "default", "a");
    assert_eq!(fixture.endpoints("default/web:80"), Vec::<String>::new());
    assert!(fixture.delete(Kind::EndpointSlice, "default", "a").is_empty());
}

#[test]
fn only_used_ports_are_backends() {
    let mut fixture = Fixture::new(&format!("{WEB_AND_EDGE}{}", slice("a", "web", &at("10.0.0.1"))));
    assert!(fixture.world.backends.is_empty() && fixture.world.endpoints.is_empty());
    fixture.apply(&route_with_rule(""));
    assert_eq!(fixture.endpoints("default/web:80"), ["10.0.0.1:8080 Active"]);
    fixture.apply(&route_with_rule("").replace("{name: r}", "{name: r2}"));
    fixture.delete(Kind::HttpRoute, "default", "r");
    assert_eq!(fixture.world.backends.len(), 1, "another route uses it");
    fixture.delete(Kind::HttpRoute, "default", "r2");
    assert!(fixture.world.backends.is_empty() && fixture.world.endpoints.is_empty());
}

#[test]
fn a_change_is_the_difference_only() {
    let mut fixture = web_with_route();
    let annotated = WEB_AND_EDGE.replace(
        "{name: web}",
        "{name: web, annotations: {tidegate.dev/balance: random}}",
    );
    let delta = fixture.apply(&annotated);
    assert_eq!(delta.backends.len(), 1);
    assert!(delta.routes.is_empty() && delta.endpoints.is_empty() && delta.listeners.is_empty());
    let delta = fixture.apply(&WEB_AND_EDGE.replace("targetPort: 8080", "targetPort: 8081"));
    assert_eq!(
        delta.backends.len(),
        1,
        "the annotation is gone, and the slice says the port"
    );
    assert!(delta.endpoints.is_empty());
}

#[test]
fn a_relist_is_one_difference() {
    let mut fixture = web_with_route();
    let before = fixture.world.clone();
    let list = |text: &str| objects(text);
    fixture
        .index
        .reset(Kind::EndpointSlice, list(&slice("a", "web", &at("10.0.0.1"))));
    assert!(fixture.settle().is_empty(), "the same list");

    // pod 10.0.0.1 is now in another slice: its endpoint never goes away in between
    fixture
        .index
        .reset(Kind::EndpointSlice, list(&slice("z", "web", &at("10.0.0.1"))));
    assert!(fixture.settle().is_empty());

    fixture.index.reset(Kind::EndpointSlice, Vec::new());
    assert_eq!(
        fixture.endpoints("default/web:80").len(),
        1,
        "not before the delta is taken"
    );
    fixture.settle();
    assert_eq!(fixture.endpoints("default/web:80").len(), 0);

    fixture
        .index
        .reset(Kind::EndpointSlice, list(&slice("a", "web", &at("10.0.0.1"))));
    fixture.settle();
    assert_eq!(fixture.world, before);

    let stray = list(WEB_AND_EDGE);
    fixture.index.reset(Kind::HttpRoute, stray);
    fixture.settle();
    assert!(
        fixture.world.routes.is_empty(),
        "objects of other kinds are no part of the list"
    );
    assert_eq!(fixture.world.listeners.len(), 1);
}

#[test]
fn a_burst_is_one_delta() {
    let mut fixture = web_with_route();
    for nth in 0..50 {
        fixture.index.apply(object(
            slice("a", "web", &at(&format!("10.0.1.{nth}"))).trim_start_matches("---\n"),
        ));
    }
    let delta = fixture.settle();
    assert_eq!(delta.endpoints.len(), 1);
    assert_eq!(fixture.endpoints("default/web:80"), ["10.0.1.49:8080 Active"]);
    fixture.index.delete(&key(Kind::HttpRoute, "default", "r"));
    fixture.index.apply(object(&route_with_rule("")));
    assert!(fixture.settle().is_empty(), "gone and back is no change");
}

#[test]
fn a_bad_address_is_named_and_the_others_stay() {
    let mut fixture = web_with_route();
    fixture.apply(&slice(
        "a",
        "web",
        &format!("{}{}", at("10.0.0.999"), at("10.0.0.1")),
    ));
    assert_eq!(fixture.endpoints("default/web:80"), ["10.0.0.1:8080 Active"]);
    assert_eq!(
        fixture.rejects(),
        [
            "test: EndpointSlice default/a: endpoints.addresses: \"10.0.0.999\" is no address of an endpoint; such endpoints are left out"
        ]
    );
    fixture.apply(&slice("a", "web", &at("10.0.0.1")));
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn rejects_are_bounded() {
    let mut index = Index::new(SourceName::new("test"), Settings::default());
    for nth in 0..1500 {
        index.apply(object(
            &route_with_rule("").replace("{name: r}", &format!("{{name: r{nth}}}")),
        ));
    }
    let _ = index.take_delta();
    let rejects = index.rejects();
    assert_eq!(rejects.len(), 1000);
    assert_eq!(rejects[999].reason, "501 more complaints are not shown");
}

/// Objects that refer to each other, good and bad, for random orders of events.
fn pool() -> &'static [Object] {
    static POOL: LazyLock<Vec<Object>> = LazyLock::new(make_pool);
    &POOL
}

fn make_pool() -> Vec<Object> {
    let texts = vec![
        WEB_AND_EDGE.to_owned(),
        slice("a", "web", &at("10.0.0.1")),
        slice("a", "web", &at("10.0.0.2")),
        slice("b", "web", &at("10.0.0.1")),
        slice("b", "api", &at("nonsense")),
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: {tidegate.dev/protocol: h2c}}\nspec: {ports: [{name: http, port: 80}, {name: x, port: 81}]}".to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {team: a}}".to_owned(),
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}".to_owned(),
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: tidegate}\nspec: {controllerName: other}".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: tidegate}\nspec: {controllerName: tidegate.dev/gateway-controller}".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: tidegate, addresses: [{value: 127.0.0.1}], listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}]}".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: second}\nspec: {gatewayClassName: tidegate, listeners: [{name: http, port: 80, protocol: HTTP}]}".to_owned(),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: shop}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{kind: Service}]}".to_owned(),
        route_with_rule(""),
        route_with_rule("matches: [{path: {value: bad}}]"),
        route_with_rule("").replace("{name: web, port: 80}", "{name: web, port: 81}, {name: api, namespace: shop, port: 80}"),
        route_with_rule("").replace("{name: edge}", "{name: edge}, {name: second}").replace("{name: r}", "{name: q}"),
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: tidegate}\nspec: {controller: other}".to_owned(),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {ingressClassName: tidegate, defaultBackend: {service: {name: web, port: {name: http}}}}".to_owned(),
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {rules: [{host: a.b, http: {paths: [{path: /, backend: {service: {name: web, port: {number: 81}}}}]}}]}".to_owned(),
    ];
    texts.iter().flat_map(|text| objects(text)).collect()
}

proptest! {
    /// Whatever the order of events, the world is that of an index that was only told how it ended.
    #[test]
    fn the_way_does_not_matter(steps in prop::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<bool>()), 1..60)) {
        let pool = pool();
        let mut fixture = Fixture::new("");
        let mut known = std::collections::BTreeMap::new();
        for (which, action, settles) in steps {
            let object = &pool[which.index(pool.len())];
            match action {
                0 => {
                    known.remove(&object.key());
                    fixture.index.delete(&object.key());
                }
                1 => {
                    let kind = object.kind();
                    known.retain(|key: &crate::kubernetes::Key, _| key.kind != kind);
                    known.insert(object.key(), object.clone());
                    fixture.index.reset(kind, vec![object.clone()]);
                }
                _ => {
                    known.insert(object.key(), object.clone());
                    fixture.index.apply(object.clone());
                }
            }
            if settles {
                fixture.settle();
            }
        }
        fixture.settle();
        let mut fresh = Fixture::new("");
        for object in known.into_values() {
            fresh.index.apply(object);
        }
        fresh.settle();
        prop_assert_eq!(&fixture.world, &fresh.world);
        prop_assert_eq!(fixture.rejects(), fresh.rejects());
        prop_assert!(fixture.settle().is_empty());

        for kind in Kind::ALL {
            fixture.index.reset(*kind, Vec::new());
        }
        fixture.settle();
        prop_assert_eq!(&fixture.world, &World::default());
        prop_assert_eq!(fixture.rejects(), Vec::<String>::new());
        prop_assert!(fixture.index.is_idle());
    }
}
