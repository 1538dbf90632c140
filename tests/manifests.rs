//! A manifest directory with real files: every way in which files come, change and go.
#![allow(
    clippy::unwrap_used, // a test fails by it, also in the functions that its parts share
    clippy::expect_used
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate::kubernetes::{Manifests, OpenError, Settings};
use tidegate::model::{Delta, Reject, World};

/// Longer than any second look.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long is waited for what must not come.
const QUIET: Duration = Duration::from_millis(300);

struct Watched {
    directory: TempDir,
    manifests: Manifests,
    world: World,
    rejects: Vec<Reject>,
}

impl Watched {
    fn open(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        for (name, text) in files {
            put(&directory.path().join("d").join(name), text);
        }
        let (manifests, delta, rejects) =
            Manifests::open(directory.path().join("d"), Settings::default()).unwrap();
        let mut world = World::default();
        world.apply(&delta);
        Self {
            directory,
            manifests,
            world,
            rejects,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("d").join(name)
    }

    async fn change(&mut self) -> Delta {
        let (delta, rejects) = tokio::time::timeout(PATIENCE, self.manifests.next())
            .await
            .expect("no change came");
        self.world.apply(&delta);
        self.rejects = rejects;
        delta
    }

    /// Takes changes until something holds.
    async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < end,
                "it never came to hold: {:?} {:?}",
                self.routes(),
                self.rejects
            );
            self.change().await;
        }
    }

    async fn stays_quiet(&mut self) {
        if let Ok(change) = tokio::time::timeout(QUIET, self.manifests.next()).await {
            panic!("nothing was expected: {change:?}");
        }
    }

    fn routes(&self) -> Vec<&str> {
        self.world.routes.keys().map(|name| name.as_str()).collect()
    }

    fn rejects(&self) -> Vec<String> {
        self.rejects
            .iter()
            .map(|reject| format!("{}: {}", reject.object, reject.reason))
            .collect()
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoints = self
            .world
            .endpoints
            .get("default/web:80")
            .map(|endpoints| &**endpoints);
        endpoints
            .unwrap_or_default()
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: tidegate
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
";

fn route(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{name: edge}}]\n  rules: \
         [{{backendRefs: [{{name: web, port: 80}}]}}]\n"
    )
}

fn slice(address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: \
         web}}}}\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [{address}]}}]\n"
    )
}

#[test]
fn the_examples_load_without_rejects() {
    let settings = Settings {
        ingress_address: "127.0.0.1:8080".parse().unwrap(),
        ..Settings::default()
    };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let (_manifests, delta, rejects) = Manifests::open(examples, settings).unwrap();
    assert_eq!(rejects, []);
    let names: Vec<_> = delta.listeners.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["default/canary/http", "default/example/http", "ingress"]);
    let names: Vec<_> = delta.routes.keys().map(|name| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "HTTPRoute/default/app",
            "HTTPRoute/default/hello",
            "Ingress/default/shop/*.shop.example",
            "Ingress/default/shop/shop.example",
            "Ingress/default/shop:default",
        ]
    );
    assert_eq!(delta.backends.len(), 4);
    for (name, endpoints) in &delta.endpoints {
        assert!(!endpoints.as_ref().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = Manifests::open(directory.path().join("none"), Settings::default()).unwrap_err();
    assert!(matches!(error, OpenError::Unreadable { .. }));
    assert!(error.to_string().contains("none"));
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut watched = Watched::open(&[("edge.yaml", EDGE)]);
    assert_eq!(watched.rejects(), Vec::<String>::new());
    assert_eq!(watched.world.listeners.len(), 1);

    put(&watched.path("a.yaml"), &route("a"));
    watched.change().await;
    assert_eq!(watched.routes(), ["HTTPRoute/default/a"]);

    put(&watched.path("s.yml"), &slice("10.0.0.1"));
    let delta = watched.change().await;
    assert_eq!(watched.endpoints(), ["10.0.0.1:8080"]);
    assert!(delta.routes.is_empty() && delta.listeners.is_empty() && delta.backends.is_empty());

    put(&watched.path("s.yml"), &slice("10.0.0.2"));
    watched
        .until(|watched| watched.endpoints() == ["10.0.0.2:8080"])
        .await;

    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "j"}, "spec": {"parentRefs": [{"name": "edge"}]}}]}"#;
    put(&watched.path("j.json"), json);
    watched.change().await;
    assert_eq!(watched.routes(), ["HTTPRoute/default/a", "HTTPRoute/default/j"]);

    fs::remove_file(watched.path("a.yaml")).unwrap();
    watched.change().await;
    assert_eq!(watched.routes(), ["HTTPRoute/default/j"]);

    put(&watched.path("s.yml"), &slice("10.0.0.2"));
    put(&watched.path("notes.txt"), &route("n"));
    put(&watched.path(".hidden.yaml"), &route("h"));
    watched.stays_quiet().await;
}

#[tokio::test]
async fn directories_are_read_three_levels_deep() {
    let mut watched = Watched::open(&[
        ("edge.yaml", EDGE),
        ("1/2/3/a.yaml", &route("a")),
        ("1/2/3/4/b.yaml", &route("b")),
        (".x/c.yaml", &route("c")),
    ]);
    assert_eq!(watched.routes(), ["HTTPRoute/default/a"]);
    put(&watched.path("new/deep/d.yaml"), &route("d"));
    watched.until(|watched| watched.routes().len() == 2).await;
    put(&watched.path("new/deep/d.yaml"), &route("e"));
    watched
        .until(|watched| watched.routes() == ["HTTPRoute/default/a", "HTTPRoute/default/e"])
        .await;
    fs::remove_dir_all(watched.path("new")).unwrap();
    watched
        .until(|watched| watched.routes() == ["HTTPRoute/default/a"])
        .await;
}

#[tokio::test]
async fn a_file_renamed_over_another_is_one_change() {
    let mut watched = Watched::open(&[
        ("edge.yaml", EDGE),
        ("a.yaml", &(route("a") + "---\n" + &slice("10.0.0.1"))),
    ]);
    for nth in 2..20 {
        let temporary = watched.path(".a.yaml.tmp");
        put(
            &temporary,
            &(route("a") + "---\n" + &slice(&format!("10.0.0.{nth}"))),
        );
        fs::rename(&temporary, watched.path("a.yaml")).unwrap();
        let delta = watched.change().await;
        assert_eq!(watched.endpoints(), [format!("10.0.0.{nth}:8080")]);
        assert!(delta.routes.is_empty(), "the route never went away");
    }
}

#[tokio::test]
async fn a_configmap_swaps_a_link() {
    let mut watched = Watched::open(&[("..v1/edge.yaml", EDGE), ("..v1/web.yaml", &route("a"))]);
    assert!(watched.routes().is_empty(), "hidden directories are not read");
    symlink("..v1", watched.path("..data")).unwrap();
    symlink("..data/edge.yaml", watched.path("edge.yaml")).unwrap();
    symlink("..data/web.yaml", watched.path("web.yaml")).unwrap();
    watched
        .until(|watched| watched.routes() == ["HTTPRoute/default/a"])
        .await;

    for (from, to, name) in [("..v1", "..v2", "b"), ("..v2", "..v3", "c")] {
        put(&watched.path(&format!("{to}/edge.yaml")), EDGE);
        put(&watched.path(&format!("{to}/web.yaml")), &route(name));
        symlink(to, watched.path("..data_tmp")).unwrap();
        fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
        fs::remove_dir_all(watched.path(from)).unwrap();
        let expected = format!("HTTPRoute/default/{name}");
        watched
            .until(|watched| watched.routes() == [expected.as_str()])
            .await;
        assert_eq!(watched.world.listeners.len(), 1);
    }
    assert_eq!(watched.rejects(), Vec::<String>::new());
}

#[tokio::test]
async fn the_directory_itself_may_be_a_link_that_is_swapped() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    put(&at("v1/edge.yaml"), &(EDGE.to_owned() + "---\n" + &route("a")));
    put(&at("v2/edge.yaml"), &(EDGE.to_owned() + "---\n" + &route("b")));
    symlink("v1", at("now")).unwrap();
    let (mut manifests, delta, _) = Manifests::open(at("now"), Settings::default()).unwrap();
    let mut world = World::default();
    world.apply(&delta);
    symlink("v2", at("next")).unwrap();
    fs::rename(at("next"), at("now")).unwrap();
    let (delta, _) = tokio::time::timeout(PATIENCE, manifests.next()).await.unwrap();
    world.apply(&delta);
    assert_eq!(
        world.routes.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
        ["HTTPRoute/default/b"]
    );

    put(&at("v2/more.yaml"), &route("c"));
    let (delta, _) = tokio::time::timeout(PATIENCE, manifests.next()).await.unwrap();
    assert_eq!(delta.routes.len(), 1, "the new directory is watched");
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects() {
    let mut watched = Watched::open(&[
        ("edge.yaml", EDGE),
        ("a.yaml", &(route("a") + "---\n" + &route("b"))),
    ]);
    let before = watched.world.clone();

    put(&watched.path("a.yaml"), "kind: HTTPRoute\n  bad: [\n");
    watched.change().await;
    assert_eq!(watched.world, before);
    assert_eq!(watched.rejects.len(), 1);
    assert!(
        watched.rejects()[0].starts_with("a.yaml:"),
        "{:?}",
        watched.rejects()
    );

    // a document breaks: it keeps its last good, its neighbour goes live
    let broken = route("b").replace("port: 80", "port: many");
    put(
        &watched.path("a.yaml"),
        &(route("a").replace("[{name: edge}]", "[{name: edge}]\n  hostnames: [x.example]")
            + "---\n"
            + &broken),
    );
    watched
        .until(|watched| watched.world.routes["HTTPRoute/default/a"] != before.routes["HTTPRoute/default/a"])
        .await;
    assert_eq!(
        watched.world.routes["HTTPRoute/default/b"],
        before.routes["HTTPRoute/default/b"]
    );
    assert!(
        watched.rejects()[0].starts_with("a.yaml:14: HTTPRoute: column 44: \"many\" is no port: 1 to 65535"),
        "{:?}",
        watched.rejects()
    );

    put(&watched.path("a.yaml"), &(route("a") + "---\n" + &route("b")));
    watched.until(|watched| watched.rejects.is_empty()).await;
    assert_eq!(watched.world, before);

    fs::write(watched.path("a.yaml"), [0xff, 0xfe, b'\n']).unwrap();
    watched.change().await;
    assert_eq!(watched.world, before);
    assert_eq!(
        watched.rejects(),
        ["a.yaml: is no UTF-8 text (line 1); what was read before stays"]
    );

    fs::remove_file(watched.path("a.yaml")).unwrap();
    watched.until(|watched| watched.routes().is_empty()).await;
    assert_eq!(watched.rejects(), Vec::<String>::new());
}

#[tokio::test]
async fn a_broken_file_at_the_start_harms_only_itself() {
    let watched = Watched::open(&[
        ("edge.yaml", EDGE),
        ("a.yaml", "{"),
        ("b.yaml", "kind: [\n"),
        ("c.yaml", &route("c")),
        ("d.yaml", "apiVersion: apps/v1\nkind: Deployment\n"),
    ]);
    assert_eq!(watched.routes(), ["HTTPRoute/default/c"]);
    let rejects = watched.rejects();
    assert_eq!(rejects.len(), 3, "{rejects:?}");
    assert!(
        rejects[0].starts_with("a.yaml:1: ") && rejects[1].starts_with("b.yaml:"),
        "{rejects:?}"
    );
    assert_eq!(
        rejects[2],
        "d.yaml:1: apps/v1 Deployment is not read; it is left out"
    );
}

#[tokio::test]
async fn rejects_of_objects_say_where_they_stand() {
    let bad = route("a").replace("port: 80", "port: 81");
    let mut watched = Watched::open(&[
        ("edge.yaml", EDGE),
        ("sub/a.yaml", &format!("# a comment\n---\n{bad}")),
    ]);
    assert!(
        watched.rejects()[0].starts_with("HTTPRoute default/a (sub/a.yaml:3): BackendNotFound"),
        "{:?}",
        watched.rejects()
    );
    assert_eq!(
        watched.rejects[0].field.as_deref(),
        Some("spec.rules[0].backendRefs[0]")
    );
    put(&watched.path("sub/a.yaml"), &route("a"));
    watched.until(|watched| watched.rejects.is_empty()).await;
}

#[tokio::test]
async fn an_object_in_two_files_is_taken_from_the_first() {
    let mut watched = Watched::open(&[
        ("edge.yaml", EDGE),
        ("a.yaml", &slice("10.0.0.1")),
        ("b.yaml", &slice("10.0.0.2")),
        ("c.yaml", &(route("r") + "---\n" + &route("r"))),
    ]);
    assert_eq!(watched.endpoints(), ["10.0.0.1:8080"]);
    assert_eq!(
        watched.rejects(),
        [
            "c.yaml:8: HTTPRoute default/r is in line 1 already; this one is left out",
            "b.yaml:1: EndpointSlice default/s is in a.yaml already; this one is left out",
        ]
    );
    fs::remove_file(watched.path("a.yaml")).unwrap();
    watched
        .until(|watched| watched.endpoints() == ["10.0.0.2:8080"])
        .await;
    assert_eq!(watched.rejects.len(), 1);
}

#[tokio::test]
async fn a_directory_that_goes_away_leaves_what_was_read() {
    let mut watched = Watched::open(&[("edge.yaml", EDGE), ("a.yaml", &route("a"))]);
    let elsewhere = watched.directory.path().join("moved");
    fs::rename(watched.path(""), &elsewhere).unwrap();
    watched.until(|watched| !watched.rejects.is_empty()).await;
    assert_eq!(watched.routes(), ["HTTPRoute/default/a"]);
    assert!(
        watched.rejects()[0].contains("cannot be read, what was read before stays"),
        "{:?}",
        watched.rejects()
    );
    put(&elsewhere.join("b.yaml"), &route("b"));
    fs::rename(&elsewhere, watched.path("")).unwrap();
    watched
        .until(|watched| watched.routes().len() == 2 && watched.rejects.is_empty())
        .await;
    put(&watched.path("c.yaml"), &route("c"));
    watched.until(|watched| watched.routes().len() == 3).await;
}

#[tokio::test]
async fn next_may_be_cancelled() {
    let mut watched = Watched::open(&[("edge.yaml", EDGE)]);
    for nth in 0..30 {
        put(&watched.path(&format!("{nth}.yaml")), &route(&format!("r{nth}")));
        for _ in 0..3 {
            if let Ok((delta, _)) =
                tokio::time::timeout(Duration::from_millis(1), watched.manifests.next()).await
            {
                watched.world.apply(&delta);
            }
        }
    }
    watched.until(|watched| watched.routes().len() == 30).await;
}

#[tokio::test]
async fn dropping_ends_the_thread() {
    let watched = Watched::open(&[("edge.yaml", EDGE)]);
    let Watched {
        directory, manifests, ..
    } = watched;
    let watches = || {
        let root = fs::metadata(directory.path().join("d"))
            .map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))
            .unwrap();
        let needle = format!("ino:{root:x} ");
        fs::read_dir("/proc/self/fdinfo")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
            .filter(|text| {
                text.lines()
                    .any(|line| line.starts_with("inotify") && line.contains(&needle))
            })
            .count()
    };
    assert_eq!(watches(), 1);
    drop(manifests);
    let end = Instant::now() + PATIENCE;
    while watches() > 0 {
        assert!(Instant::now() < end, "the watch outlives its owner");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
