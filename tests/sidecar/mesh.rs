//! Routes of Services together with TLS to their endpoints: mTLS between sidecars, and BackendTLSPolicies.

use std::fs;
use std::path::Path;

use super::mtls::{identity, in_the_world};
use super::scene::Scene;
use super::transparent::talk;

/// A Service of namespace `shop` with ports 80 and 443, and its endpoint.
fn service(name: &str, address: &str, endpoint: &str, port: u16, metadata: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop{metadata}}}\n\
         spec: {{clusterIP: {address}, ports: [{{name: http, port: 80}}, {{name: https, port: 443}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {port}}}, {{name: https, port: {port}}}]\n\
         endpoints: [{{addresses: [{endpoint}]}}]\n"
    )
}

const BY_MTLS: &str = ", annotations: {tidegate.dev/mtls: 'true'}";

/// Writes the objects that a sidecar knows; gives their directory.
fn objects(scene: &Scene, yaml: &str) -> String {
    let directory = scene.directory.path().join("objects");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("all.yaml"), yaml).unwrap();
    directory.display().to_string()
}

/// Requests for `web` go by field to `web-v2`, and otherwise half to `web-v1` and half to `web-v2`.
const ROUTES: &str = r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{headers: [{name: x-to, value: two}]}]
    backendRefs: [{name: web-v2, port: 80}]
  - matches: [{path: {value: /bank}}]
    backendRefs: [{name: bank, port: 80}]
  - matches: [{path: {value: /open}}]
    backendRefs: [{name: open, port: 80}]
  - backendRefs: [{name: web-v1, port: 80, weight: 1}, {name: web-v2, port: 80, weight: 1}]
"#;

#[test]
fn routes_of_services_go_by_mtls() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(|scene| &scene.world, "http 127.0.0.1 8001 http 127.0.0.1 8002");
    let identity = identity(&scene);
    let log = scene.directory.path().join("world.log");
    // Four sidecars in the world. The bank lets only its own in.
    let _world = in_the_world(
        &scene,
        &format!(
            "log: {{access: {{to: {}}}}}\nidentity: {{directory: {identity}}}\nlisteners:\n  \
             one: {{address: \"10.77.0.11:8080\", mtls: {{mode: strict, allow: [/ns/shop/*]}}}}\n  \
             two: {{address: \"10.77.0.12:8080\", mtls: {{mode: strict, allow: [/ns/shop/*]}}}}\n  \
             bank: {{address: \"10.77.0.50:8080\", mtls: {{mode: permissive, allow: [/ns/bank/*]}}}}\n  \
             open: {{address: \"10.77.0.254:8080\", mtls: {{mode: permissive}}}}\n\
             routes: [{{listeners: [one, bank, open], to: first}}, {{listeners: [two], to: second}}]\n\
             backends: {{first: {{endpoints: [\"127.0.0.1:8001\"]}}, second: {{endpoints: [\"127.0.0.1:8002\"]}}}}\n",
            log.display()
        ),
    );
    let services = [
        service("web", "10.96.0.10", "10.77.0.11", 8080, BY_MTLS),
        service("web-v1", "10.96.0.11", "10.77.0.11", 8080, BY_MTLS),
        service("web-v2", "10.96.0.12", "10.77.0.12", 8080, BY_MTLS),
        service("bank", "10.96.0.20", "10.77.0.50", 8080, BY_MTLS),
        service("open", "10.96.0.30", "10.77.0.254", 8080, ""),
        service("open-by-mtls", "10.96.0.31", "10.77.0.254", 8080, BY_MTLS),
    ];
    let objects = objects(&scene, &(services.concat() + ROUTES));
    scene.pod.run("$TIDEGATE sidecar init --only outbound");
    scene.sidecar(&format!(
        "--transparent --namespace shop --identity {identity} --manifests {objects}"
    ));

    for _ in 0..3 {
        let said = scene.app("curl -s -H x-to:two http://10.96.0.10/");
        assert!(said.contains("127.0.0.1:8002 host=10.96.0.10"), "{said}");
    }
    let urls = "http://10.96.0.10/s ".repeat(40);
    let said = scene.app(&format!("curl -s {urls}"));
    let to = |port: &str| {
        said.lines()
            .filter(|line| line.starts_with(&format!("127.0.0.1:{port} ")))
            .count()
    };
    // Either gets none of forty once in 2^39.
    assert_eq!(to("8001") + to("8002"), 40, "{said}");
    assert!(to("8001") > 0 && to("8002") > 0, "{said}");

    // Who does not let us in gets no request. Permissive: in clear text where nothing is said, by mTLS where it is.
    let status = scene.app("curl -s -o /dev/null -w %{http_code} http://10.96.0.10/bank");
    assert_eq!(status, "502");
    for url in [
        "http://10.96.0.10/open",
        "http://10.96.0.30/",
        "http://10.96.0.31/",
    ] {
        let said = scene.app(&format!("curl -s {url}"));
        assert!(said.starts_with("127.0.0.1:8001 "), "{url}: {said}");
    }
    let ours = scene.lines(47);
    for line in &ours[..43] {
        assert_eq!(line["outcome"], "answered", "{line}");
        assert!(
            line["backend"].as_str().unwrap().starts_with("shop/web-v"),
            "{line}"
        );
    }
    let refused = ours[43]["outcome"].as_str().unwrap();
    assert!(
        refused.starts_with("connect_") || refused.starts_with("upstream_"),
        "{refused}"
    );

    // The others know who has asked, but for clear text; and the bank says whom it does not take.
    let theirs = scene.soon("the others' log", || {
        let text = fs::read_to_string(&log).ok()?;
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).ok())
            .collect::<Option<_>>()?;
        let has_bank = lines.iter().any(|line| line["outcome"] == "mtls_not_allowed");
        (has_bank && lines.iter().filter(|line| line["outcome"] == "answered").count() == 46).then_some(lines)
    });
    let known = theirs.iter().filter(|line| {
        line["outcome"] == "answered" && line["identity"] == "spiffe://example.com/ns/shop/sa/web"
    });
    assert_eq!(
        known.count(),
        44,
        "forty-three of the route, and one of the Service by mTLS"
    );
    let unknown = theirs
        .iter()
        .filter(|line| line["outcome"] == "answered" && line["identity"].is_null());
    assert_eq!(unknown.count(), 2);
}

/// A policy for a Service of namespace `shop`, with roots from a ConfigMap.
fn policy(service: &str, roots: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {service}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: {service}}}]\n  validation: {{hostname: shop.example.com, \
         caCertificateRefs: [{{group: '', kind: ConfigMap, name: {roots}}}]}}\n"
    )
}

#[test]
fn services_with_a_policy_are_reached_by_its_tls() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(|scene| &scene.world, "http 127.0.0.1 8001");
    let identity = identity(&scene);
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tls");
    let _world = in_the_world(
        &scene,
        &format!(
            "identity: {{directory: {identity}}}\nlisteners:\n  \
             tls: {{address: \"10.77.0.11:8443\", tls: {{certificates: [{{cert: {tls}/shop.crt, key: {tls}/shop.key}}]}}}}\n  \
             strict: {{address: \"10.77.0.12:8080\", mtls: {{mode: strict}}}}\n\
             routes: [{{listeners: [tls, strict], to: app}}]\nbackends: {{app: {{endpoints: [\"127.0.0.1:8001\"]}}}}\n",
            tls = tls.display()
        ),
    );
    let authority = fs::read_to_string(tls.join("ca.crt")).unwrap();
    let roots: String = authority.lines().map(|line| format!("    {line}\n")).collect();
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: front, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: '', kind: Service, name: front, port: 80}]\n  rules: [{backendRefs: [{name: web, port: 80}]}]\n";
    let all = [
        service("web", "10.96.0.10", "10.77.0.11", 8443, ""),
        service("front", "10.96.0.20", "10.77.0.50", 8080, ""),
        service("inner", "10.96.0.30", "10.77.0.12", 8080, BY_MTLS),
        service("lost", "10.96.0.40", "10.77.0.11", 8443, ""),
        policy("web", "roots"),
        policy("inner", "roots"),
        policy("lost", "nowhere"),
        route.to_owned(),
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: shop}}\ndata:\n  ca.crt: |\n{roots}"
        ),
    ];
    let objects = objects(&scene, &all.concat());
    scene.pod.run("$TIDEGATE sidecar init --only outbound");
    scene.sidecar(&format!(
        "--transparent --backend-tls --namespace shop --identity {identity} --manifests {objects}"
    ));

    // The Service itself, and a route of another one that leads there; HTTP/1.1 and HTTP/2 alike.
    for url in [
        "-H Host:shop.example.com http://10.96.0.10/",
        "-H Host:shop.example.com http://10.96.0.20/",
        "--http2-prior-knowledge -H Host:shop.example.com http://10.96.0.10/",
    ] {
        let said = scene.app(&format!("curl -s {url}"));
        assert!(
            said.contains("127.0.0.1:8001 host=shop.example.com"),
            "{url}: {said}"
        );
    }
    // TLS of the app's own is passed on, and none is put around it.
    let own = format!(
        "curl -s --cacert {}/ca.crt --resolve shop.example.com:443:10.96.0.10 https://shop.example.com/own",
        tls.display()
    );
    let said = scene.app(&own);
    assert!(said.contains("path=/own"), "{said}");
    // What is neither goes by the policy's TLS: the other side reads it as a bad request.
    let said = scene.app(&talk("10.96.0.10", 80, b"*1\n"));
    assert!(
        said.starts_with("485454502f312e3120343030"),
        "HTTP/1.1 400: {said}"
    );
    // mTLS between sidecars goes before; a policy that cannot be used is no way into clear text.
    let said = scene.app("curl -s http://10.96.0.30/");
    assert!(said.contains("127.0.0.1:8001 host=10.96.0.30"), "{said}");
    let status = scene.app("curl -s -o /dev/null -w %{http_code} http://10.96.0.40/");
    assert_eq!(status, "503");
}
