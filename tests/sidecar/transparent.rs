//! Redirected connections: they come to where they should, and what is spoken on them is seen.

use super::scene::Scene;

const OUTBOUND: &str = r#"
listeners:
  out4: {address: "127.0.0.1:4140", transparent: outbound}
  out6: {address: "[::1]:4140", transparent: outbound}
backends:
  web:
    balance: round-robin
    virtual_addresses: ["10.96.0.10:80", "[fd96::10]:80"]
    endpoints: ["10.77.0.11:8080", "10.77.0.12:8080"]
  files:
    virtual_addresses: ["10.96.0.20:80"]
    opaque: true
    endpoints: ["10.77.0.11:8080"]
"#;

/// Connects, says what is given, and gives what comes until a line's end.
pub fn talk(address: &str, port: u16, say: &[u8]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sidecar/talk.py");
    format!("python3 {script} {address} {port} {}", hex(say))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_an_app_sends_goes_to_backends_or_on() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(
        |scene| &scene.world,
        "http 10.77.0.11 8080 http 10.77.0.12 8080 http 10.77.0.50 8080 http fd77::11 8080 \
         banner 10.77.0.50 3306 banner 10.77.0.50 2525 echo 10.77.0.50 7000",
    );
    scene.tidegate(OUTBOUND);
    scene.pod.run("$TIDEGATE sidecar init --only outbound");

    // To a Service's address, of either family: request by request to its endpoints, on one connection of the client's.
    let said = scene.app(
        "curl -s -H X-Forwarded-For:1.2.3.4 http://10.96.0.10/a/../b?c http://10.96.0.10/b --path-as-is",
    );
    let mut who: Vec<_> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
    who.sort_unstable();
    assert_eq!(who, ["10.77.0.11:8080", "10.77.0.12:8080"], "{said}");
    assert!(
        said.contains("host=10.96.0.10 for=['1.2.3.4, 10.77.0.1'] path=/a/../b?c"),
        "{said}"
    );
    let said = scene.app("curl -s http://[fd96::10]/");
    assert!(said.contains("host=[fd96::10]"), "{said}");
    let lines = scene.lines(3);
    for line in &lines {
        assert_eq!(
            (&line["outcome"], &line["backend"]),
            (&"answered".into(), &"web".into()),
            "{line}"
        );
    }
    assert_eq!(lines[0]["listener"], "out4");
    assert_eq!(lines[2]["listener"], "out6");

    // To an address that is nobody's: on to it.
    let said = scene.app("curl -s http://10.77.0.50:8080/ http://[fd77::11]:8080/");
    assert!(
        said.contains("10.77.0.50:8080 host=") && said.contains("fd77::11:8080 host="),
        "{said}"
    );
    let lines = scene.lines(5);
    assert_eq!(lines[3]["backend"], "original");
    assert_eq!(lines[3]["endpoint"], "10.77.0.50:8080");
    assert_eq!(lines[4]["endpoint"], "[fd77::11]:8080");
    assert_eq!(
        scene.metric("tidegate_detected_protocols_total{listener=\"127.0.0.1:4140\",protocol=\"http1\"}"),
        2.0
    );

    // Other protocols, whoever speaks first.
    for (port, say, answer, found) in [
        (3306, &b""[..], &b"hello\n"[..], "not_asked"),
        (2525, b"", b"hello\n", "silent"),
        (7000, b"*1\n", b"*1\n", "other"),
        (7000, &[22, 3, 1, b'\n'], &[22, 3, 1, b'\n'], "tls"),
    ] {
        let said = scene.app(&talk("10.77.0.50", port, say));
        assert_eq!(said.trim_end(), hex(answer), "{port}");
        let name =
            format!("tidegate_detected_protocols_total{{listener=\"127.0.0.1:4140\",protocol=\"{found}\"}}");
        assert_eq!(scene.metric(&name), 1.0, "{name}");
    }
    let lines = scene.lines(9);
    for line in &lines[5..] {
        assert_eq!(
            (&line["outcome"], &line["backend"]),
            (&"relayed".into(), &"original".into()),
            "{line}"
        );
    }
    assert_eq!(lines[8]["protocol"], "tls-passthrough");
    // HTTP for a backend that is opaque is relayed, too.
    assert!(
        scene
            .app("curl -s http://10.96.0.20/")
            .contains("10.77.0.11:8080")
    );
    let lines = scene.lines(10);
    assert_eq!(
        (&lines[9]["protocol"], &lines[9]["backend"]),
        (&"tcp".into(), &"files".into())
    );

    // Nobody there: the client sees it as it would without Tidegate, or is told.
    let output = scene
        .pod
        .output("curl -s -o /dev/null -w %{http_code} http://10.77.0.50:1/");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "502");
    assert_eq!(scene.lines(11)[10]["outcome"], "connect_refused");

    // The loop guard: what comes to the listener itself is refused, and what Tidegate's user sends is not redirected.
    assert!(
        !scene
            .pod
            .output("curl -s http://127.0.0.1:4140/")
            .status
            .success()
    );
    assert!(
        !scene
            .pod
            .output("curl -s http://10.77.0.1:4140/")
            .status
            .success()
    );
    assert_eq!(scene.lines(12)[11]["outcome"], "redirect_loop");
    let own = "setpriv --reuid 2102 --clear-groups curl -s http://10.77.0.50:8080/";
    assert!(scene.pod.run(own).contains("10.77.0.50:8080 host="));
    scene.app("curl -s http://10.96.0.10/");
    assert_eq!(scene.lines(13)[12]["backend"], "web");
}

#[test]
fn what_others_send_reaches_the_app() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(
        |scene| &scene.pod,
        "http 10.77.0.1 8000 http fd77::1 8000 banner 10.77.0.1 2525 http 127.0.0.1 8001",
    );
    scene.tidegate(
        "listeners:\n  in: {address: \"[::]:4143\", transparent: inbound, limits: {detect: 100ms}}\n",
    );
    scene
        .pod
        .run("$TIDEGATE sidecar init --with iptables --only inbound");

    let said = scene
        .world
        .run("curl -s http://10.77.0.1:8000/ http://[fd77::1]:8000/");
    assert!(
        said.contains("10.77.0.1:8000 host=10.77.0.1:8000 for=['10.77.0.254'] path=/"),
        "{said}"
    );
    assert!(said.contains("fd77::1:8000 host=[fd77::1]:8000"), "{said}");
    let said = scene.world.run(&talk("10.77.0.1", 2525, b""));
    assert_eq!(said.trim_end(), hex(b"hello\n"));
    let lines = scene.lines(3);
    for line in &lines {
        assert_eq!(line["backend"], "inbound", "{line}");
    }
    assert_eq!(lines[1]["endpoint"], "[fd77::1]:8000");

    // What listens on the loopback interface alone stays unreachable, as it is without Tidegate.
    let status = scene
        .world
        .run("curl -s -o /dev/null -w %{http_code} http://10.77.0.1:8001/");
    assert_eq!(status, "502");
    assert_eq!(scene.lines(4)[3]["outcome"], "connect_refused");
    // The admin listener is let be; the listener itself is nobody's destination.
    scene.world.run("curl -sf http://10.77.0.1:4191/readyz");
    assert!(
        !scene
            .world
            .output("curl -s http://10.77.0.1:4143/")
            .status
            .success()
    );
    assert_eq!(scene.lines(5)[4]["outcome"], "redirect_loop");
}

#[test]
fn services_are_known_by_their_addresses() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(
        |scene| &scene.world,
        "http 10.77.0.11 8080 banner 10.77.0.12 7000 http 10.77.0.50 80",
    );
    let objects = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: own, port: 81, targetPort: 7000, appProtocol: tcp}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.77.0.11]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: own, port: 7000}]
endpoints: [{addresses: [10.77.0.12]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: not-here, namespace: shop}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
"#;
    let directory = scene.directory.path().join("objects");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("shop.yaml"), objects).unwrap();
    scene.pod.run("$TIDEGATE sidecar init");
    scene.sidecar(&format!("--transparent --manifests {}", directory.display()));

    assert!(
        scene
            .app("curl -s http://10.96.0.10/ http://[fd96::10]/")
            .contains("10.77.0.11:8080")
    );
    assert_eq!(
        scene.app(&talk("10.96.0.10", 81, b"")).trim_end(),
        hex(b"hello\n")
    );
    assert!(scene.app("curl -s http://10.77.0.50/").contains("10.77.0.50:80"));
    let lines = scene.lines(4);
    let backends: Vec<_> = lines
        .iter()
        .map(|line| line["backend"].as_str().unwrap())
        .collect();
    assert_eq!(
        backends,
        ["shop/web:80", "shop/web:80", "shop/web:81", "original"]
    );
    let name = "tidegate_detected_protocols_total{listener=\"127.0.0.1:4140\",protocol=\"not_asked\"}";
    assert_eq!(scene.metric(name), 1.0);
    // A sidecar serves no Ingress.
    let listeners = scene.pod.run("curl -s http://127.0.0.1:4191/listeners");
    assert!(!listeners.contains(":80\""), "{listeners}");
}
