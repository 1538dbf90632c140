//! BackendTLSPolicies: what a Service's backends come out as, and what policies are told.

use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, route_with_rule};
use crate::kubernetes::{Kind, Mesh, Settings};
use crate::model::BackendProtocol;
use crate::model::tls::{SubjectName, test_pair};

const SLICE: &str = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
";

fn map(name: &str, pem: &str) -> String {
    let pem: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  other: x\n  ca.crt: |\n{pem}"
    )
}

fn policy(name: &str, target: &str, validation: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: web{target}}}]\n  validation: {{hostname: web.example, {validation}}}\n"
    )
}

const CA: &str = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";

fn fixture(more: &str) -> Fixture {
    Fixture::new(&format!(
        "{WEB_AND_EDGE}{SLICE}---\n{}{more}",
        route_with_rule("")
    ))
}

fn root() -> String {
    test_pair(&["web.example"], true).0
}

#[test]
fn a_service_with_a_policy_is_spoken_with_over_tls() {
    let names = "subjectAltNames: [{type: Hostname, hostname: a.example}, {type: URI, uri: 'spiffe://x/y'}]";
    let yaml = map("ca", &root()) + &policy("p", ", sectionName: http", &format!("{CA}, {names}"));
    let mut fixture = fixture(&yaml);
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    let backend = &fixture.world.backends["default/web:80"];
    let tls = backend.tls.as_ref().unwrap();
    assert_eq!(backend.protocol, BackendProtocol::Auto);
    assert_eq!(
        tls.names,
        [
            SubjectName::parse("dns:a.example").unwrap(),
            SubjectName::Uri("spiffe://x/y".into())
        ]
    );
    assert_eq!(fixture.endpoints("default/web:80").len(), 1);
    let id = tls.id();
    let delta = fixture.apply(&policy("q", ", sectionName: other", CA));
    assert!(delta.backends.is_empty(), "{delta:?}");
    assert_eq!(
        fixture.world.backends["default/web:80"]
            .tls
            .as_ref()
            .unwrap()
            .id(),
        id
    );
    fixture.delete(Kind::BackendTlsPolicy, "default", "p");
    assert!(fixture.world.backends["default/web:80"].tls.is_none());
    fixture.delete(Kind::BackendTlsPolicy, "default", "q");
}

#[test]
fn the_port_goes_before_the_service_and_the_older_before_the_younger() {
    let all = policy("all", "", CA).replace("web.example", "all.example");
    let port = policy("port", ", sectionName: http", CA).replace("web.example", "port.example");
    let late = policy("zlate", "", CA);
    let mut fixture = fixture(&(map("ca", &root()) + &all + &port + &late));
    let hostname = |fixture: &Fixture| {
        let tls = fixture.world.backends["default/web:80"].tls.clone().unwrap();
        tls.hostname.to_str().into_owned()
    };
    assert_eq!(hostname(&fixture), "port.example");
    assert_eq!(
        fixture.rejects(),
        [
            "test: BackendTLSPolicy default/zlate: spec.targetRefs[0]: Conflicted: BackendTLSPolicy default/all is for it already"
        ]
    );
    fixture.delete(Kind::BackendTlsPolicy, "default", "port");
    assert_eq!(hostname(&fixture), "all.example");
    fixture.delete(Kind::BackendTlsPolicy, "default", "all");
    assert_eq!(hostname(&fixture), "web.example");
    assert_eq!(fixture.rejects(), Vec::<String>::new());
}

#[test]
fn a_policy_that_cannot_be_used_lets_no_request_through() {
    for (validation, reasons) in [
        (
            CA,
            vec![
                "caCertificateRefs[0]: InvalidCACertificateRef",
                ": NoValidCACertificate",
            ],
        ),
        (
            "caCertificateRefs: [{group: x.y, kind: Z, name: ca}]",
            vec!["caCertificateRefs[0].kind: InvalidKind", ": NoValidCACertificate"],
        ),
        (
            "wellKnownCACertificates: Mine",
            vec![".wellKnownCACertificates: Invalid: "],
        ),
        ("", vec![".wellKnownCACertificates: Invalid: "]),
    ] {
        let fixture = fixture(&policy("p", "", validation));
        assert_eq!(
            fixture.endpoints("default/web:80"),
            Vec::<String>::new(),
            "{validation}"
        );
        let rejects = fixture.rejects();
        for reason in reasons {
            assert!(
                rejects.iter().any(|text| text.contains(reason)),
                "{reason}: {rejects:#?}"
            );
        }
    }
}

#[test]
fn a_config_map_that_comes_or_changes_is_noticed() {
    let mut fixture = fixture(&policy("p", "", CA));
    assert!(fixture.endpoints("default/web:80").is_empty());
    fixture.apply(&map("ca", &root()));
    assert_eq!(fixture.rejects(), Vec::<String>::new());
    assert_eq!(fixture.endpoints("default/web:80").len(), 1);
    fixture.apply(&map("ca", "nothing"));
    assert!(fixture.endpoints("default/web:80").is_empty());
    fixture.apply(&map("ca", &root()));
    assert_eq!(fixture.endpoints("default/web:80").len(), 1);
    fixture.delete(Kind::ConfigMap, "default", "ca");
    assert!(fixture.endpoints("default/web:80").is_empty());
}

#[test]
fn a_sidecar_looks_at_policies_where_it_is_told_to() {
    let service = |annotations: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{{annotations}}}}}\n\
             spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
        )
    };
    let own = map("ca", &root()) + &policy("p", "", CA);
    let lost = policy("p", "", CA);
    for (backend_tls, annotations, policy, has_tls, endpoints) in [
        (false, "", &own, false, 1),
        (true, "", &own, true, 1),
        (true, "", &lost, false, 0),
        (false, "", &lost, false, 1),
        // mTLS between sidecars goes before; a policy that cannot be used is no way out all the same.
        (true, "tidegate.dev/mtls: 'true'", &own, false, 1),
        (true, "tidegate.dev/mtls: 'true'", &lost, false, 0),
    ] {
        let settings = Settings {
            services_only: true,
            backend_tls,
            mesh: Mesh::Serve { namespace: None },
            ..Settings::default()
        };
        let fixture = Fixture::with(settings, &format!("{}{SLICE}{policy}", service(annotations)));
        let backend = &fixture.world.backends["default/web:80"];
        assert_eq!(
            backend.tls.is_some(),
            has_tls,
            "{backend_tls} {annotations} {policy}"
        );
        assert_eq!(backend.mtls.is_some(), !annotations.is_empty());
        assert_eq!(fixture.endpoints("default/web:80").len(), endpoints);
    }
}
