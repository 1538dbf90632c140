//! Certificates of Secrets at Gateways and Ingresses, with plain objects.

use data_encoding::BASE64;

use crate::kubernetes::Kind;
use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE};
use crate::model::tls::test_pair;
use crate::model::{BackendTarget, Filter};

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i}
spec:
  tls: [{hosts: [shop.example], secretName: shop}]
  rules:
  - host: shop.example
    http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}
  - host: open.example
    http: {paths: [{path: /, backend: {service: {name: web, port: {number: 80}}}}]}
";

fn secret(namespace: &str, name: &str, host: &str) -> String {
    let (chain, key) = test_pair(&[host], false);
    data(
        namespace,
        name,
        &BASE64.encode(chain.as_bytes()),
        &BASE64.encode(key.as_bytes()),
    )
}

fn data(namespace: &str, name: &str, chain: &str, key: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: \
         kubernetes.io/tls\ndata:\n  tls.crt: {chain}\n  tls.key: {key}\n"
    )
}

fn web() -> &'static str {
    WEB_AND_EDGE.split("---").next().unwrap()
}

fn edge(tls: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  \
         gatewayClassName: tidegate\n  listeners:\n  - {{name: https, port: 443, protocol: HTTPS, hostname: \
         shop.example, tls: {tls}}}\n  - {{name: http, port: 80, protocol: HTTP}}\n"
    )
}

/// The names of the certificates of a listener; none without TLS.
fn certificates(fixture: &Fixture, listener: &str) -> Option<Vec<String>> {
    let tls = fixture.world.listeners.get(listener)?.tls.as_ref()?;
    let names = tls.certificates.iter().flat_map(|one| one.names());
    Some(names.map(ToString::to_string).collect())
}

#[test]
fn an_ingress_is_served_with_its_certificate_and_clear_text_is_sent_there() {
    let mut fixture = Fixture::new(&format!("{}---{INGRESS}", web()));
    assert_eq!(fixture.listeners(), ["ingress 0.0.0.0:80 *"]);
    assert!(
        fixture.rejects()[0].contains("Secret default/shop is not there"),
        "{:?}",
        fixture.rejects()
    );
    assert_eq!(fixture.routes(), ["Ingress/default/i"], "the other host");

    fixture.apply(&secret("default", "shop", "shop.example"));
    assert_eq!(fixture.rejects(), [""; 0]);
    assert_eq!(
        fixture.listeners(),
        ["ingress 0.0.0.0:80 *", "ingress-tls 0.0.0.0:443 *"]
    );
    assert_eq!(certificates(&fixture, "ingress-tls").unwrap(), ["shop.example"]);
    let listeners_of = |name: &str| -> Vec<&str> {
        let route = &fixture.world.routes[name];
        route.listeners.iter().map(|listener| listener.as_str()).collect()
    };
    assert_eq!(listeners_of("Ingress/default/i/open.example"), ["ingress"]);
    assert_eq!(listeners_of("Ingress/default/i/shop.example"), ["ingress-tls"]);
    assert_eq!(listeners_of("Ingress/default/i/shop.example:https"), ["ingress"]);
    let redirect = &fixture.world.routes["Ingress/default/i/shop.example:https"].rules[0].filters[0];
    assert!(matches!(redirect, Filter::Redirect(to) if to.status == 308 && to.port.is_none()));

    // Another certificate is a change of the listener and of nothing else.
    let delta = fixture.apply(&secret("default", "shop", "shop.example"));
    assert_eq!(
        (delta.listeners.len(), delta.routes.len(), delta.backends.len()),
        (1, 0, 0)
    );
    for bad in [
        secret("default", "shop", "other.example"),
        data("default", "shop", "'###'", "AAAA"),
        data("default", "shop", "AAAA", "AAAA"),
        data("default", "shop", "null", "AAAA"),
    ] {
        fixture.apply(&bad);
        assert_eq!(fixture.routes(), ["Ingress/default/i"], "{bad}");
        assert_eq!(fixture.rejects().len(), 1);
    }
    fixture.apply(&secret("default", "shop", "*.example"));
    assert_eq!(fixture.routes().len(), 3);
    fixture.delete(Kind::Secret, "default", "shop");
    assert_eq!(fixture.listeners(), ["ingress 0.0.0.0:80 *"]);
    fixture.delete(Kind::Ingress, "default", "i");
    assert!(fixture.listeners().is_empty() && fixture.routes().is_empty());
}

#[test]
fn clear_text_beside_tls_has_to_be_asked_for() {
    let allowed = INGRESS.replace(
        "{name: i}",
        "{name: i, annotations: {tidegate.dev/clear-text: allow}}",
    );
    let mut fixture = Fixture::new(&format!(
        "{}---{allowed}{}",
        web(),
        secret("default", "shop", "shop.example")
    ));
    let route = &fixture.world.routes["Ingress/default/i/shop.example"];
    let listeners: Vec<_> = route.listeners.iter().map(|listener| listener.as_str()).collect();
    assert_eq!(listeners, ["ingress", "ingress-tls"]);
    fixture.delete(Kind::Secret, "default", "shop");
    assert_eq!(fixture.routes().len(), 2, "it may be served in clear text alone");
}

#[test]
fn a_gateway_listener_has_the_certificates_that_it_may_have() {
    let mut fixture = Fixture::new(&format!("{}{}", web(), edge("{certificateRefs: [{name: shop}]}")));
    assert_eq!(fixture.listeners(), ["default/edge/http 0.0.0.0:80 *"]);
    let rejects = fixture.rejects();
    assert!(
        rejects[0].contains(
            "spec.listeners[0].tls.certificateRefs[0]: InvalidCertificateRef: Secret default/shop is not there"
        ),
        "{rejects:?}"
    );
    fixture.apply(&secret("default", "shop", "shop.example"));
    assert_eq!(fixture.rejects(), [""; 0]);
    assert_eq!(
        certificates(&fixture, "default/edge/https").unwrap(),
        ["shop.example"]
    );
    assert_eq!(certificates(&fixture, "default/edge/http"), None);

    let other = edge("{certificateRefs: [{name: shop}, {name: far, namespace: keys}]}");
    fixture.apply(&format!("{other}{}", secret("keys", "far", "far.example")));
    assert!(
        fixture.rejects()[0].contains("certificateRefs[1]: RefNotPermitted"),
        "{:?}",
        fixture.rejects()
    );
    assert_eq!(
        certificates(&fixture, "default/edge/https").unwrap(),
        ["shop.example"]
    );
    let grant = |kind: &str, name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: \
             keys}}\nspec:\n  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}]\n  to: \
             [{{group: '', kind: Secret, name: {name}}}]\n"
        )
    };
    for (kind, name) in [("HTTPRoute", "far"), ("Gateway", "near")] {
        fixture.apply(&grant(kind, name));
        assert_eq!(fixture.rejects().len(), 1, "{kind} {name}");
    }
    fixture.apply(&grant("Gateway", "far"));
    assert_eq!(fixture.rejects(), [""; 0]);
    assert_eq!(
        certificates(&fixture, "default/edge/https").unwrap(),
        ["shop.example", "far.example"]
    );
    fixture.delete(Kind::ReferenceGrant, "keys", "g");
    assert_eq!(fixture.rejects().len(), 1);
}

#[test]
fn what_a_listener_cannot_have_keeps_it_from_being_served() {
    for (tls, reason) in [
        ("null", "InvalidCertificateRef: HTTPS needs certificateRefs"),
        (
            "{certificateRefs: []}",
            "InvalidCertificateRef: HTTPS needs certificateRefs",
        ),
        (
            "{mode: Passthrough}",
            "UnsupportedValue: \"Passthrough\"; Terminate is what HTTPS has",
        ),
        (
            "{certificateRefs: [{kind: ConfigMap, name: shop}]}",
            "InvalidCertificateRef: ConfigMap of group \"\" has no certificate",
        ),
    ] {
        let fixture = Fixture::new(&format!(
            "{}{}",
            edge(tls),
            secret("default", "shop", "shop.example")
        ));
        assert_eq!(fixture.listeners(), ["default/edge/http 0.0.0.0:80 *"], "{tls}");
        assert!(fixture.rejects()[0].contains(reason), "{:?}", fixture.rejects());
    }
}

#[test]
fn nothing_of_a_secret_is_kept_or_shown_but_its_certificate() {
    let (chain, key) = test_pair(&["a.example"], false);
    let text = data(
        "default",
        "s",
        &BASE64.encode(chain.as_bytes()),
        &BASE64.encode(key.as_bytes()),
    );
    let object = crate::kubernetes::testing::object(&text);
    let shown = format!("{object:?}");
    assert!(shown.contains("a.example"), "{shown}");
    assert!(!shown.contains("PRIVATE") && !shown.contains(key.lines().nth(1).unwrap()));
    assert!(!shown.contains(&BASE64.encode(key.as_bytes())));
}

#[test]
fn a_gateway_gets_certificates_by_acme_where_that_is_said() {
    let names = |fixture: &Fixture| -> Option<Vec<String>> {
        let tls = fixture.world.listeners.get("default/edge/https")?.tls.as_ref()?;
        Some(tls.managed.iter().map(ToString::to_string).collect())
    };
    let refers = "{certificateRefs: [{name: shop}]}";
    let plain = edge(refers);
    let asking = plain.replace(
        "{name: edge}",
        "{name: edge, annotations: {tidegate.dev/acme: 'true'}}",
    );
    assert_ne!(plain, asking);
    let mut fixture = Fixture::new(&format!("{}{asking}", web()));
    assert_eq!(names(&fixture).unwrap(), ["shop.example"]);
    assert_eq!(fixture.rejects(), [""; 0]);
    // A Secret that comes goes before it.
    fixture.apply(&secret("default", "shop", "shop.example"));
    assert_eq!(names(&fixture).unwrap(), [""; 0]);
    assert_eq!(
        certificates(&fixture, "default/edge/https").unwrap(),
        ["shop.example"]
    );
    fixture.delete(Kind::Secret, "default", "shop");
    assert_eq!(names(&fixture).unwrap(), ["shop.example"]);
    fixture.apply(&asking.replace("shop.example,", "'*.example',"));
    assert_eq!(names(&fixture).unwrap(), ["*.example"]);
    // For every name there is none; and without the word nobody gets one.
    fixture.apply(&asking.replace("hostname: shop.example,", ""));
    assert_eq!(names(&fixture), None);
    assert!(
        fixture
            .rejects()
            .iter()
            .any(|said| said.contains("for a hostname")),
        "{:?}",
        fixture.rejects()
    );
    fixture.apply(&plain);
    assert_eq!(names(&fixture), None);
}

#[test]
fn a_gateway_shows_endpoints_its_certificate_and_others_do_not() {
    let policy = "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {wellKnownCACertificates: System, hostname: web.example}
";
    let gateway = |name: &str, address: &str, tls: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  \
             gatewayClassName: tidegate\n  addresses: [{{value: {address}}}]\n  tls: {tls}\n  listeners: [{{name: http, port: 80, protocol: HTTP}}]\n"
        )
    };
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: known}, {name: plain}], rules: [{backendRefs: [{name: web, port: 80}]}]}
";
    let shows = "{backend: {clientCertificateRef: {name: me}}}";
    let mut fixture = Fixture::new(
        &(web().to_owned()
            + policy
            + route
            + &secret("default", "me", "me.example")
            + &gateway("known", "127.0.0.1", shows)
            + &gateway("plain", "127.0.0.2", "null")),
    );
    assert_eq!(fixture.rejects(), [""; 0]);
    assert_eq!(
        fixture.routes(),
        ["HTTPRoute/default/r", "HTTPRoute/default/r as default/known"]
    );
    let shown = |fixture: &Fixture, backend: &str| -> Option<String> {
        let tls = fixture.world.backends[backend].tls.as_ref().unwrap();
        tls.certificate.as_ref().map(|shown| shown.names()[0].to_string())
    };
    assert_eq!(shown(&fixture, "default/web:80"), None);
    let own = "default/web:80@default/known";
    assert_eq!(shown(&fixture, own).as_deref(), Some("me.example"));
    let leads = |route: &str| fixture.world.routes[route].rules[0].backends[0].target.clone();
    assert_eq!(
        leads("HTTPRoute/default/r as default/known"),
        BackendTarget::Backend(own.into())
    );

    // Another certificate is shown at once, and only what shows it changes.
    let delta = fixture.apply(&secret("default", "me", "new.example"));
    assert_eq!((delta.backends.len(), delta.routes.len()), (1, 0));
    assert_eq!(shown(&fixture, own).as_deref(), Some("new.example"));
    let delta = fixture.apply(&secret("default", "other", "other.example"));
    assert!(delta.is_empty(), "{delta:?}");

    // Without it the Gateway goes on as one that has none.
    fixture.delete(Kind::Secret, "default", "me");
    assert_eq!(
        fixture.rejects(),
        [
            "test: Gateway default/known: spec.tls.backend.clientCertificateRef: InvalidClientCertificateRef: Secret \
          default/me is not there"
        ]
    );
    assert_eq!(fixture.routes(), ["HTTPRoute/default/r"]);
    assert_eq!(fixture.world.backends.len(), 1);
}
