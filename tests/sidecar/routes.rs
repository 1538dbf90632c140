//! Routes of Services: which requests of an app they are for, and from when on.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use super::scene::Scene;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, "fd96::10"], ports: [{name: http, port: 80}, {name: alt, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: shop}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: alt, port: 8080}]
endpoints: [{addresses: [10.77.0.11]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v2-1, namespace: shop, labels: {kubernetes.io/service-name: web-v2}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.77.0.12]}]
"#;

/// A route of `web`'s port 80: `/v2` goes to `web-v2` as `/two`, `/away` somewhere else, `/own` to the Service itself.
const PRODUCERS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: producers, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /v2}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /two}}}]
    backendRefs: [{name: web-v2, port: 80}]
  - matches: [{path: {value: /away}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /own}}]
    backendRefs: [{name: web, port: 80}]
"#;

/// A route of clients in the namespace `office`: everything goes to `web-v2`, of another namespace, without a grant.
const CONSUMERS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: consumers, namespace: office}
spec:
  parentRefs: [{group: "", kind: Service, name: web, namespace: shop}]
  rules: [{backendRefs: [{name: web-v2, namespace: shop, port: 80}]}]
"#;

/// An app's client of 10.96.0.10:80, on one connection.
struct App(Child);

impl App {
    fn new(scene: &Scene) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sidecar/ask.py");
        let mut command = scene.pod.command("setpriv");
        let line = format!("exec python3 {script} 10.96.0.10 80");
        command
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "sh",
                "-c",
                &line,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn ask(&mut self, path: &str) -> String {
        writeln!(self.0.stdin.as_mut().unwrap(), "{path}").unwrap();
        let mut said = String::new();
        // One line is written for each that is read, so nothing is lost with what was read ahead.
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        said
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_services_requests_go_as_its_routes_say() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(|scene| &scene.world, "http 10.77.0.11 8080 http 10.77.0.12 8080");
    let directory = scene.directory.path().join("objects");
    std::fs::create_dir(&directory).unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("services.yaml", OBJECTS);
    scene.pod.run("$TIDEGATE sidecar init");
    scene.sidecar(&format!(
        "--transparent --namespace office --manifests {}",
        directory.display()
    ));

    let (one, two) = ("200 10.77.0.11:8080", "200 10.77.0.12:8080");
    let mut app = App::new(&scene);
    let said = app.ask("/v2/a");
    assert!(said.starts_with(one), "{said}");

    // The Service's own routes, on the connection that was there before them.
    write("producers.yaml", PRODUCERS);
    let said = scene.soon("the route", || {
        let said = App::new(&scene).ask("/v2/a");
        said.starts_with(two).then_some(said)
    });
    assert!(said.contains("host=whatever.example"), "{said}");
    assert!(said.contains("path=/two/a"), "{said}");
    for (path, start) in [("/v2/b", two), ("/own", one), ("/away", "302"), ("/", "404")] {
        let said = app.ask(path);
        assert!(said.starts_with(start), "{path}: {said}");
        assert!(!said.contains("another connection"), "{path}: {said}");
    }
    let location = scene.app("curl -s -o /dev/null -w %{redirect_url} http://10.96.0.10/away");
    assert_eq!(location, "https://10.96.0.10/away");
    // Of either family; but not the other port, nor the endpoint itself, nor another Service with that host.
    for (url, found) in [
        ("http://[fd96::10]/v2", "10.77.0.12:8080"),
        ("http://10.96.0.10:81/v2", "10.77.0.11:8080"),
        ("http://10.77.0.11:8080/v2", "10.77.0.11:8080"),
        ("-H Host:web http://10.96.0.20/own", "10.77.0.12:8080"),
    ] {
        let said = scene.app(&format!("curl -s {url}"));
        assert!(said.contains(found), "{url}: {said}");
    }

    // What clients of this namespace wish goes before; without it the Service's own counts again, and then nothing.
    write("consumers.yaml", CONSUMERS);
    scene.soon("the consumers' route", || {
        app.ask("/own").starts_with(two).then_some(())
    });
    assert!(app.ask("/").starts_with(two));
    std::fs::remove_file(directory.join("consumers.yaml")).unwrap();
    scene.soon("its end", || app.ask("/").starts_with("404").then_some(()));
    std::fs::remove_file(directory.join("producers.yaml")).unwrap();
    scene.soon("the end of all", || app.ask("/v2").starts_with(one).then_some(()));

    // Nothing is bound for a Service's address.
    let metrics = scene.pod.run("curl -s http://127.0.0.1:4191/metrics");
    assert!(!metrics.contains("10.96.0.10"), "{metrics}");
}
