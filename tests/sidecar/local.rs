//! Without privileges: the app asks addresses of its own host. And the end: when the app has no more work.

use rustix::process::Signal;

use super::scene::Scene;
use super::transparent::talk;

const BOTH: &str =
    "--outbound 127.0.0.1:3001=10.77.0.11:8080,10.77.0.12:8080 --inbound :8080=127.0.0.1:3000 --grace 10m";

fn scene() -> Option<Scene> {
    let mut scene = Scene::new()?;
    scene.serve(|scene| &scene.world, "http 10.77.0.11 8080 http 10.77.0.12 8080");
    scene.serve(|scene| &scene.pod, "http 127.0.0.1 3000");
    scene.sidecar(BOTH);
    Some(scene)
}

#[test]
fn addresses_of_the_host_lead_out_and_in() {
    let Some(mut scene) = scene() else { return };
    let said = scene.app("curl -s http://127.0.0.1:3001/x");
    assert!(said.contains("10.77.0.1") && said.contains("path=/x"), "{said}");
    let said = scene.world.run("curl -s http://10.77.0.1:8080/y");
    assert!(
        said.contains("127.0.0.1:3000 host=10.77.0.1:8080 for=['10.77.0.254'] path=/y"),
        "{said}"
    );
    let lines = scene.lines(2);
    assert_eq!(lines[0]["backend"], "outbound-127.0.0.1:3001");
    assert_eq!(lines[1]["backend"], "inbound-0.0.0.0:8080");
    // Others' idle connections keep nothing alive.
    scene.signal(Signal::TERM);
    assert_eq!(scene.end(), Some(0));
}

#[test]
fn it_stays_as_long_as_the_app_holds_a_connection() {
    let Some(mut scene) = scene() else { return };
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut app = scene.hold(&talk("127.0.0.1", 3001, request));
    scene.signal(Signal::TERM);
    scene.soon("the end of readiness", || {
        let asked = "curl -s -o /dev/null -w %{http_code} http://127.0.0.1:4191/readyz";
        (scene.pod.run(asked) == "503").then_some(())
    });
    // Both ways, on new connections.
    assert!(scene.app("curl -s http://127.0.0.1:3001/").contains("path=/"));
    assert!(
        scene
            .world
            .run("curl -s http://10.77.0.1:8080/")
            .contains("path=/")
    );
    assert!(scene.runs());
    drop(app.stdin.take());
    app.wait().unwrap();
    assert_eq!(scene.end(), Some(0));
    assert_eq!(scene.lines(3)[2]["outcome"], "answered");
}
