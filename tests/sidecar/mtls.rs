//! mTLS of redirected connections, with the kernel's own rules: a pod with its sidecar, and another sidecar in the world.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use super::scene::Scene;
use super::transparent::{hex, talk};

/// Ends a program with the test.
pub struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example's identity, readable by the user that the rules let be.
pub fn identity(scene: &Scene) -> String {
    let own = scene.directory.path().join("identity");
    fs::create_dir(&own).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/tls/identity");
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        fs::copy(example.join(file), own.join(file)).unwrap();
        std::os::unix::fs::chown(own.join(file), Some(2102), Some(2102)).unwrap();
    }
    own.display().to_string()
}

/// Tidegate in the world, with a configuration.
pub fn in_the_world(scene: &Scene, configuration: &str) -> Program {
    let file = scene.directory.path().join("world.yaml");
    fs::write(
        &file,
        format!("workers: 1\nadmin: {{address: \"127.0.0.1:4191\"}}\n{configuration}"),
    )
    .unwrap();
    let mut command = scene.world.command(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["run", "--config"]).arg(file).stdin(Stdio::null());
    let program = Program(command.spawn().unwrap());
    scene.soon("the world's readiness", || {
        let asked = "curl -sf -o /dev/null http://127.0.0.1:4191/readyz";
        scene.world.output(asked).status.success().then_some(())
    });
    program
}

const ID: &str = "spiffe://example.com/ns/shop/sa/web";

#[test]
fn what_others_send_has_to_come_by_mtls() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(
        |scene| &scene.pod,
        "http 10.77.0.1 8000 http 10.77.0.1 8090 banner 10.77.0.1 2525 echo 10.77.0.1 7000",
    );
    let identity = identity(&scene);
    scene.pod.run("$TIDEGATE sidecar init --only inbound");
    scene.sidecar(&format!(
        "--transparent --identity {identity} --mtls strict --allow /ns/shop/* --plain-ports 8090"
    ));
    let _world = in_the_world(
        &scene,
        &format!(
            "identity: {{directory: {identity}}}\nlisteners:\n  http: {{address: \"127.0.0.1:3001\"}}\n  smtp: {{address: \
             \"127.0.0.1:3002\", protocol: tcp, to: smtp}}\n  echo: {{address: \"127.0.0.1:3003\", protocol: tcp, to: \
             echo}}\nroutes: [{{listeners: [http], to: app}}]\nbackends:\n  app: {{endpoints: [\"10.77.0.1:8000\"], \
             mtls: {{peers: [{ID}]}}}}\n  smtp: {{endpoints: [\"10.77.0.1:2525\"], mtls: {{}}}}\n  echo: {{endpoints: \
             [\"10.77.0.1:7000\"], mtls: {{}}}}\n"
        ),
    );
    // Requests, a server that speaks first, bytes of any kind: each to the address that the client has asked for.
    let said = scene
        .world
        .run("curl -s http://127.0.0.1:3001/a http://127.0.0.1:3001/b");
    assert!(
        said.contains("10.77.0.1:8000") && said.contains("path=/b"),
        "{said}"
    );
    assert_eq!(
        scene.world.run(&talk("127.0.0.1", 3002, b"")).trim_end(),
        hex(b"hello\n")
    );
    assert_eq!(
        scene.world.run(&talk("127.0.0.1", 3003, b"*1\n")).trim_end(),
        hex(b"*1\n")
    );
    let lines = scene.lines(4);
    for (line, endpoint) in lines.iter().zip(["8000", "8000", "2525", "7000"]) {
        assert_eq!(line["identity"], ID, "{line}");
        assert_eq!(line["endpoint"], format!("10.77.0.1:{endpoint}"));
    }
    assert_eq!(lines[2]["protocol"], "mtls");
    // In clear text nothing comes through, but for probes.
    for asked in ["http://10.77.0.1:8000/", "https://10.77.0.1:8000/"] {
        let output = scene.world.output(&format!("curl -sk {asked}"));
        assert!(!output.status.success(), "{asked}");
    }
    for line in &scene.lines(6)[4..] {
        assert_eq!(line["outcome"], "mtls_plain", "{line}");
    }
    assert!(
        scene
            .world
            .run("curl -s http://10.77.0.1:8090/")
            .contains("10.77.0.1:8090")
    );
    assert_eq!(scene.lines(7)[6]["outcome"], "answered");
    for (came, count) in [("mtls", 3.0), ("refused", 2.0), ("not_asked", 1.0)] {
        let name = format!("tidegate_mtls_connections_total{{listener=\"[::]:4143\",came=\"{came}\"}}");
        assert_eq!(scene.metric(&name), count, "{came}");
    }
}

#[test]
fn what_an_app_sends_goes_by_mtls_where_it_is_said() {
    let Some(mut scene) = Scene::new() else { return };
    scene.serve(
        |scene| &scene.world,
        "http 127.0.0.1 8000 http 10.77.0.50 8080 echo 127.0.0.1 7000",
    );
    let identity = identity(&scene);
    let _world = in_the_world(
        &scene,
        &format!(
            "identity: {{directory: {identity}}}\nlisteners:\n  web: {{address: \"10.77.0.11:8080\", mtls: {{mode: \
             strict}}}}\n  other: {{address: \"10.77.0.12:8080\", mtls: {{mode: permissive}}, protocol: tcp, to: \
             echo}}\nroutes: [{{listeners: [web], to: app}}]\nbackends:\n  app: {{endpoints: [\"127.0.0.1:8000\"]}}\n  \
             echo: {{endpoints: [\"127.0.0.1:7000\"]}}\n"
        ),
    );
    scene.tidegate(&format!(
        "identity: {{directory: {identity}}}\nlisteners:\n  out: {{address: \"127.0.0.1:4140\", transparent: \
         outbound}}\nbackends:\n  web:\n    virtual_addresses: [\"10.96.0.10:80\"]\n    endpoints: \
         [\"10.77.0.11:8080\"]\n    mtls: {{peers: [/ns/shop/*]}}\n  bank:\n    virtual_addresses: \
         [\"10.96.0.20:80\"]\n    endpoints: [\"10.77.0.11:8080\"]\n    mtls: {{peers: [/ns/bank/*]}}\n  echo:\n    \
         virtual_addresses: [\"10.96.0.30:80\"]\n    endpoints: [\"10.77.0.12:8080\"]\n    mtls: {{}}\n"
    ));
    scene.pod.run("$TIDEGATE sidecar init --only outbound");
    let said = scene.app("curl -s http://10.96.0.10/a; curl -s --http2-prior-knowledge -o /dev/null -w %{http_code} http://10.96.0.10/b");
    assert!(said.contains("127.0.0.1:8000 host=10.96.0.10"), "{said}");
    // TLS of the app's own goes inside, and what is no HTTP.
    for say in [&[22, 3, 1, b'\n'][..], b"*1\n"] {
        assert_eq!(scene.app(&talk("10.96.0.30", 80, say)).trim_end(), hex(say));
    }
    // Somebody else is there: nothing is sent.
    let status = scene.app("curl -s -o /dev/null -w %{http_code} http://10.96.0.20/");
    assert_eq!(status, "502");
    // Of whom it is not said, as before.
    assert!(
        scene
            .app("curl -s http://10.77.0.50:8080/")
            .contains("10.77.0.50:8080")
    );
    let outcomes: Vec<_> = scene
        .lines(6)
        .iter()
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(
        outcomes,
        [
            "answered",
            "answered",
            "relayed",
            "relayed",
            "connect_untrusted",
            "answered"
        ]
    );
    let metrics = scene.world.run("curl -s http://127.0.0.1:4191/metrics");
    for line in [
        "tidegate_mtls_connections_total{listener=\"10.77.0.12:8080\",came=\"mtls\"} 2",
        "tidegate_mtls_connections_total{listener=\"10.77.0.11:8080\",came=\"mtls\"}",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
