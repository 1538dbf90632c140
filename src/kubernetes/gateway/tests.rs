//! Gateways: classes, addresses, conflicts, and what listeners say about routes.

use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, route, route_with_rule};
use crate::kubernetes::{Kind, Settings};

fn gateway(name: &str, rest: &str) -> String {
    let rest: String = rest.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  gatewayClassName: tidegate\n{rest}"
    )
}

fn class(name: &str, controller: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{controllerName: {controller}}}\n"
    )
}

#[test]
fn a_gateway_is_ours_by_its_class() {
    let ours = class("tidegate", "tidegate.dev/gateway-controller");
    let others = class("tidegate", "example.com/other");
    let http = gateway("edge", "listeners: [{name: http, port: 80, protocol: HTTP}]");
    let named = http.replace("gatewayClassName: tidegate", "gatewayClassName: fast");
    let fast = class("fast", "tidegate.dev/gateway-controller");
    let strict = Settings {
        class_by_name: false,
        ..Settings::default()
    };
    for (settings, yaml, is_ours) in [
        (Settings::default(), http.clone(), true),
        (strict.clone(), http.clone(), false),
        (strict.clone(), format!("{ours}{http}"), true),
        (Settings::default(), format!("{others}{http}"), false),
        (Settings::default(), named.clone(), false),
        (strict, format!("{fast}{named}"), true),
    ] {
        let fixture = Fixture::with(settings, &yaml);
        assert_eq!(!fixture.listeners().is_empty(), is_ours, "{yaml}");
        assert_eq!(fixture.rejects(), Vec::<String>::new());
    }
}

#[test]
fn a_class_that_comes_or_goes_takes_its_gateways_along() {
    let yaml = WEB_AND_EDGE.replace("gatewayClassName: tidegate", "gatewayClassName: fast")
        + "---\n"
        + &route_with_rule("");
    let mut fixture = Fixture::new(&yaml);
    assert!(fixture.listeners().is_empty() && fixture.routes().is_empty());
    fixture.apply(&class("fast", "tidegate.dev/gateway-controller"));
    assert_eq!(fixture.listeners(), ["default/edge/http 0.0.0.0:80 *"]);
    assert_eq!(fixture.routes(), ["HTTPRoute/default/r"]);
    assert_eq!(fixture.world.backends.len(), 1);
    fixture.delete(Kind::GatewayClass, "", "fast");
    assert_eq!(fixture.world, Default::default());
}

#[test]
fn addresses_are_the_gateways_own_or_the_settings() {
    let listeners = "listeners: [{name: http, port: 8080, protocol: HTTP}]";
    for (addresses, expected, rejects) in [
        ("", vec!["default/edge/http 0.0.0.0:8080 *"], 0),
        ("addresses: []", vec!["default/edge/http 0.0.0.0:8080 *"], 0),
        (
            "addresses: [{value: 127.0.0.7}]",
            vec!["default/edge/http 127.0.0.7:8080 *"],
            0,
        ),
        (
            "addresses: [{type: IPAddress, value: '::1'}]",
            vec!["default/edge/http [::1]:8080 *"],
            0,
        ),
        (
            "addresses: [{type: IPAddress}]",
            vec!["default/edge/http 0.0.0.0:8080 *"],
            0,
        ),
        (
            "addresses: [{value: 127.0.0.7}, {value: 127.0.0.8}, {value: 127.0.0.7}]",
            vec![
                "default/edge/http 127.0.0.7:8080 *",
                "default/edge/http/127.0.0.8 127.0.0.8:8080 *",
            ],
            0,
        ),
        (
            "addresses: [{value: nonsense}, {value: 127.0.0.8}]",
            vec!["default/edge/http 127.0.0.8:8080 *"],
            1,
        ),
        ("addresses: [{type: Hostname, value: a.b}]", vec![], 2),
    ] {
        let fixture = Fixture::new(&gateway("edge", &format!("{addresses}\n{listeners}")));
        assert_eq!(fixture.listeners(), expected, "{addresses}");
        assert_eq!(
            fixture.rejects().len(),
            rejects,
            "{addresses}: {:?}",
            fixture.rejects()
        );
    }
}

#[test]
fn an_address_and_port_have_one_owner() {
    let http = "listeners: [{name: http, port: 80, protocol: HTTP}]";
    let own = format!("addresses: [{{value: 127.0.0.2}}]\n{http}");
    let older = gateway("b", http).replace(
        "{name: b}",
        "{name: b, creationTimestamp: '2020-01-01T00:00:00Z'}",
    );
    let younger = gateway("a", http).replace(
        "{name: a}",
        "{name: a, creationTimestamp: '2021-01-01T00:00:00Z'}",
    );
    let mut fixture = Fixture::new(&format!("{younger}{older}{}", gateway("c", &own)));
    assert_eq!(
        fixture.listeners(),
        ["default/b/http 0.0.0.0:80 *", "default/c/http 127.0.0.2:80 *"]
    );
    assert_eq!(
        fixture.rejects(),
        [
            "test: Gateway default/a: spec.listeners[0].port: PortUnavailable: 0.0.0.0:80 is taken by Gateway default/b; \
             give this Gateway an address of its own in spec.addresses"
        ]
    );
    fixture.delete(Kind::Gateway, "default", "b");
    assert_eq!(
        fixture.listeners(),
        ["default/a/http 0.0.0.0:80 *", "default/c/http 127.0.0.2:80 *"]
    );
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn listeners_that_do_not_differ_are_all_refused() {
    let fixture = Fixture::new(&gateway(
        "edge",
        "listeners:
- {name: a, port: 80, protocol: HTTP, hostname: a.example.com}
- {name: b, port: 80, protocol: HTTP, hostname: A.example.com}
- {name: c, port: 80, protocol: HTTP, hostname: c.example.com}
- {name: d, port: 81, protocol: HTTP}
- {name: e, port: 81, protocol: HTTPS}
- {name: f, port: 82, protocol: TCP}
- {name: f2, port: 82, protocol: UDP}
- {name: f3, port: 82, protocol: TLS, tls: {mode: Passthrough}}
- {name: g, port: 83, protocol: HTTP, hostname: '*.*'}
- {name: h, port: 84, protocol: SMTP}
- {name: Bad, port: 85, protocol: HTTP}
- {name: i, port: 86, protocol: HTTP}
- {name: i, port: 87, protocol: HTTP}
- {name: j, port: 88, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}}
- {name: k, port: 88, protocol: TLS, hostname: b.example, tls: {mode: Passthrough}}
- {name: l, port: 88, protocol: HTTPS, hostname: a.example}
- {name: m, port: 89, protocol: TLS, tls: {mode: Open}}",
    ));
    assert_eq!(
        fixture.listeners(),
        [
            "default/edge/c 0.0.0.0:80 c.example.com",
            "default/edge/f2 0.0.0.0:82 *",
            "default/edge/k 0.0.0.0:88 b.example",
        ]
    );
    let starts = [
        "spec.listeners[0].hostname: HostnameConflict: listener \"b\"",
        "spec.listeners[1].hostname: HostnameConflict: listener \"a\"",
        "spec.listeners[3].protocol: ProtocolConflict: listener \"e\"",
        "spec.listeners[4].protocol: ProtocolConflict: listener \"d\"",
        "spec.listeners[5].protocol: ProtocolConflict: listener \"f3\" has the same port with TLS",
        "spec.listeners[7].protocol: ProtocolConflict: listener \"f\" has the same port with TCP",
        "spec.listeners[8].hostname: UnsupportedValue: \"*.*\" is not a hostname",
        "spec.listeners[9].protocol: UnsupportedProtocol: \"SMTP\" is not known",
        "spec.listeners[10].name: \"Bad\" is no name",
        "spec.listeners[11].name: listeners[12] has the name \"i\" too",
        "spec.listeners[12].name: listeners[11] has the name \"i\" too",
        "spec.listeners[13].hostname: HostnameConflict: listener \"l\" has the same port and hostname",
        "spec.listeners[15].hostname: HostnameConflict: listener \"j\" has the same port and hostname",
        "spec.listeners[16].tls.mode: UnsupportedValue: \"Open\"; there are Passthrough and Terminate",
    ];
    let rejects = fixture.rejects();
    assert_eq!(rejects.len(), starts.len(), "{rejects:#?}");
    for (reject, start) in rejects.iter().zip(starts) {
        assert!(
            reject.starts_with(&format!("test: Gateway default/edge: {start}")),
            "{reject}\n{start}"
        );
    }
}

#[test]
fn routes_attach_from_allowed_namespaces_only() {
    let namespace =
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a, tier: web}}\n";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n---\n";
    let elsewhere = route_with_rule("")
        .replace("{name: r}", "{name: r, namespace: shop}")
        .replace("{name: edge}", "{name: edge, namespace: default}");
    for (allowed, attaches) in [
        ("", false),
        ("namespaces: {from: Same}", false),
        ("namespaces: {from: All}", true),
        ("namespaces: {from: Selector, selector: {}}", true),
        (
            "namespaces: {from: Selector, selector: {matchLabels: {team: a}}}",
            true,
        ),
        (
            "namespaces: {from: Selector, selector: {matchLabels: {team: b}}}",
            false,
        ),
        (
            "namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: shop}}}",
            true,
        ),
        (
            "namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [b, a]}]}}",
            true,
        ),
        (
            "namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}",
            false,
        ),
        (
            "namespaces: {from: Selector, selector: {matchExpressions: [{key: x, operator: NotIn, values: [a]}]}}",
            true,
        ),
        (
            "namespaces: {from: Selector, selector: {matchExpressions: [{key: tier, operator: Exists}]}}",
            true,
        ),
        (
            "namespaces: {from: Selector, selector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}",
            false,
        ),
        (
            "namespaces: {from: Selector, selector: {matchExpressions: [{key: tier, operator: Like}]}}",
            false,
        ),
        ("namespaces: {from: All}, kinds: [{kind: HTTPRoute}]", true),
        ("namespaces: {from: All}, kinds: [{kind: GRPCRoute}]", false),
        (
            "namespaces: {from: All}, kinds: [{kind: GRPCRoute}, {kind: HTTPRoute}]",
            true,
        ),
        (
            "namespaces: {from: All}, kinds: [{group: example.com, kind: HTTPRoute}]",
            false,
        ),
    ] {
        let edge = gateway(
            "edge",
            &format!("listeners: [{{name: http, port: 80, protocol: HTTP, allowedRoutes: {{{allowed}}}}}]"),
        );
        let fixture = Fixture::new(&format!("{edge}{namespace}{service}{elsewhere}"));
        assert_eq!(
            fixture.routes().len(),
            usize::from(attaches),
            "{allowed}: {:?}",
            fixture.rejects()
        );
        let refusals = fixture
            .rejects()
            .iter()
            .filter(|text| text.contains("NotAllowedByListeners"))
            .count();
        assert_eq!(
            refusals,
            usize::from(!attaches),
            "{allowed}: {:?}",
            fixture.rejects()
        );
    }
}

#[test]
fn a_namespace_that_changes_its_labels_moves_its_routes() {
    let edge = gateway(
        "edge",
        "listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}]",
    );
    let label = |team: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{team: {team}}}}}\n"
        )
    };
    let mut fixture = Fixture::new(&format!(
        "{WEB_AND_EDGE}{edge}{}---\n{}",
        label("b"),
        route_with_rule("")
    ));
    assert!(fixture.routes().is_empty());
    fixture.apply(&label("a"));
    assert_eq!(fixture.routes(), ["HTTPRoute/default/r"]);
    fixture.delete(Kind::Namespace, "", "default");
    assert!(fixture.routes().is_empty());
}

#[test]
fn parents_choose_listeners_by_section_port_and_hostname() {
    let edge = gateway(
        "edge",
        "listeners:
- {name: any, port: 80, protocol: HTTP}
- {name: shop, port: 80, protocol: HTTP, hostname: '*.shop.example'}
- {name: exact, port: 81, protocol: HTTP, hostname: www.example.com}
- {name: tls, port: 443, protocol: TLS}",
    );
    let refused = |reason: &str| Err(reason.to_owned());
    let listeners = |names: &[&str]| {
        Ok(names
            .iter()
            .map(|name| format!("default/edge/{name}"))
            .collect::<Vec<_>>())
    };
    for (parent, hostnames, expected) in [
        ("", "", listeners(&["any", "exact", "shop"])),
        ("sectionName: shop", "", listeners(&["shop"])),
        ("port: 80", "", listeners(&["any", "shop"])),
        (
            "port: 81, sectionName: shop",
            "",
            refused(
                "NoMatchingParent: Gateway default/edge has no such listener; it has any (80), shop (80), exact (81), tls (443)",
            ),
        ),
        ("sectionName: nope", "", refused("NoMatchingParent")),
        ("sectionName: tls", "", refused("NotAllowedByListeners")),
        ("", "a.b.shop.example", listeners(&["any", "shop"])),
        ("", "shop.example", listeners(&["any"])),
        ("", "'*.example.com'", listeners(&["any", "exact"])),
        ("port: 81", "a.example.com", refused("NoMatchingListenerHostname")),
        (
            "namespace: other",
            "",
            refused("NoMatchingParent: there is no Gateway other/edge"),
        ),
        ("kind: Service", "", listeners(&[])),
        ("group: example.com", "", listeners(&[])),
    ] {
        let yaml = route(&format!("hostnames: [{hostnames}]"))
            .replace("{name: edge}", &format!("{{name: edge, {parent}}}"));
        let fixture = Fixture::new(&format!("{edge}---\n{yaml}"));
        let attached = fixture
            .world
            .routes
            .get("HTTPRoute/default/r")
            .map_or(Vec::new(), |route| {
                route.listeners.iter().map(ToString::to_string).collect()
            });
        match expected {
            Ok(expected) => {
                assert_eq!(attached, expected, "{parent} {hostnames}");
                assert!(
                    !fixture.rejects().iter().any(|text| text.contains("HTTPRoute")),
                    "{:?}",
                    fixture.rejects()
                );
            }
            Err(reason) => {
                assert!(attached.is_empty(), "{parent} {hostnames}");
                let rejects = fixture.rejects();
                let start = format!("test: HTTPRoute default/r: spec.parentRefs[0]: {reason}");
                assert!(
                    rejects.iter().any(|text| text.starts_with(&start)),
                    "{start}\n{rejects:#?}"
                );
            }
        }
    }
}

#[test]
fn every_gateway_has_its_own_address_of_the_pool_and_keeps_it() {
    let settings = Settings {
        gateway_pool: Some("10.0.0.0/30".parse().unwrap()),
        ..Settings::default()
    };
    let gateway = |name: &str, more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: \
             tidegate, listeners: [{{name: l, port: 80, protocol: HTTP}}]{more}}}\n"
        )
    };
    let mut fixture = Fixture::with(settings, &gateway("b", ""));
    assert_eq!(fixture.listeners(), ["default/b/l 10.0.0.1:80 *"]);
    fixture.apply(&gateway("a", ""));
    fixture.apply(&gateway("c", ", addresses: [{value: 10.9.9.9}]"));
    let all = [
        "default/a/l 10.0.0.2:80 *",
        "default/b/l 10.0.0.1:80 *",
        "default/c/l 10.9.9.9:80 *",
    ];
    assert_eq!(fixture.listeners(), all);
    fixture.apply(&gateway("d", ""));
    assert_eq!(fixture.listeners(), all);
    assert!(
        fixture.rejects()[0].contains("spec.addresses: AddressNotAssigned: all addresses of 10.0.0.0/30"),
        "{:?}",
        fixture.rejects()
    );
    fixture.delete(Kind::Gateway, "default", "b");
    assert_eq!(fixture.listeners()[0], all[0]);
    assert_eq!(fixture.listeners()[2], "default/d/l 10.0.0.1:80 *");
    assert_eq!(fixture.rejects(), [""; 0]);
}

#[test]
fn after_a_restart_a_gateway_has_the_address_again_that_its_status_says() {
    let settings = Settings {
        gateway_pool: Some("10.0.0.0/29".parse().unwrap()),
        ..Settings::default()
    };
    let gateway = |name: &str, address: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: \
             tidegate, listeners: [{{name: l, port: 80, protocol: HTTP}}]}}\nstatus: {{addresses: [{{value: '{address}'}}]}}\n"
        )
    };
    let before = [
        ("a", "10.0.0.3"),
        ("b", "10.0.0.1"),
        ("c", "10.0.0.3"), // somebody else's now
        ("d", "10.9.9.9"), // of another pool
        ("e", "hostname"),
        ("f", ""),
    ];
    let yaml: String = before
        .iter()
        .map(|(name, address)| gateway(name, address))
        .collect();
    let mut fixture = Fixture::with(settings, &yaml);
    let after = [
        "default/a/l 10.0.0.3:80 *",
        "default/b/l 10.0.0.1:80 *",
        "default/c/l 10.0.0.2:80 *",
        "default/d/l 10.0.0.4:80 *",
        "default/e/l 10.0.0.5:80 *",
        "default/f/l 10.0.0.6:80 *",
    ];
    assert_eq!(fixture.listeners(), after);
    // What is written to a status later changes nothing.
    assert!(fixture.apply(&gateway("a", "10.0.0.4")).is_empty());
    assert_eq!(fixture.listeners(), after);
}
