//! Following an API server: first lists, watches, what is too old, what is missing, and what happens without one.
#![allow(
    clippy::unwrap_used, // a test fails by it, also in the functions that its parts share
    clippy::expect_used
)]

#[path = "kubernetes_api/server.rs"]
mod server;
#[path = "kubernetes_api/services.rs"]
mod services;
mod support;

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tidegate::app::{self, Options, Source};
use tidegate::config::{AdminSettings, Settings};
use tidegate::kubernetes::{self, Access, Change, Cluster, ClusterOptions, Kind, Sockets};
use tidegate::model::{Delta, Transport, World};

use self::server::ApiServer;
use self::support::{Client, Down, Endpoint, client, soon, until};

/// How long is waited for what must not come.
const QUIET: Duration = Duration::from_millis(200);

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SERVICES: &str = "/api/v1/services";
const CLASSES: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/gateways";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
const EVENTS: &str = "/apis/events.k8s.io/v1/events";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";

const BASE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: tidegate}
spec: {controllerName: tidegate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: tidegate
  addresses: [{value: 127.0.0.1}]
  listeners: [{name: http, port: 8080, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: third}
spec: {ports: [{port: 80}]}";

fn route(backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: \
         edge}}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]"
    )
}

fn slice(name: &str, port: u16, addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| format!("{{addresses: [{address}]}}"))
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{}]",
        endpoints.join(", ")
    )
}

/// A cluster that is followed, with the world its changes made.
struct Followed {
    cluster: Cluster,
    world: World,
    rejects: Vec<String>,
    _directory: TempDir,
}

impl Followed {
    async fn open(server: &ApiServer) -> Self {
        Self::open_with(server, false).await
    }

    async fn open_with(server: &ApiServer, update_status: bool) -> Self {
        Self::open_keeping(server, update_status, None).await
    }

    async fn open_settled(server: &ApiServer, settings: kubernetes::Settings) -> Self {
        let (directory, access) = access(server);
        let options = ClusterOptions {
            settings,
            ..options(access, true)
        };
        Self {
            cluster: Cluster::open(&options).await.unwrap(),
            world: World::default(),
            rejects: Vec::new(),
            _directory: directory,
        }
    }

    async fn open_keeping(server: &ApiServer, update_status: bool, snapshot: Option<&Path>) -> Self {
        let (directory, access) = access(server);
        let options = ClusterOptions {
            snapshot: snapshot.map(Path::to_owned),
            ..options(access, update_status)
        };
        Self {
            cluster: Cluster::open(&options).await.unwrap(),
            world: World::default(),
            rejects: Vec::new(),
            _directory: directory,
        }
    }

    async fn change(&mut self) -> Delta {
        let change = soon("a change", self.cluster.next()).await;
        let Change { delta, rejects } = change.expect("it goes on");
        self.world.apply(&delta);
        self.rejects = rejects.iter().map(ToString::to_string).collect();
        delta
    }

    async fn stays_quiet(&mut self) {
        if let Ok(change) = tokio::time::timeout(QUIET, self.cluster.next()).await {
            panic!("nothing was expected: {change:?}");
        }
    }

    /// Takes changes until the endpoints of `web` are these.
    async fn until_endpoints(&mut self, expected: &[&str]) {
        while self.endpoints() != expected {
            self.change().await;
        }
    }

    fn endpoints(&self) -> Vec<String> {
        let endpoints = self.world.endpoints.get("default/web:80").into_iter();
        let endpoints = endpoints.flat_map(|endpoints| endpoints.iter());
        endpoints.map(|endpoint| endpoint.address.to_string()).collect()
    }

    async fn until_health(&self, holds: impl Fn(&kubernetes::Health) -> bool) {
        let mut health = self.cluster.health();
        soon("the health", health.wait_for(|health| holds(health)))
            .await
            .unwrap();
    }
}

fn access(server: &ApiServer) -> (TempDir, Access) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, server.kubeconfig()).unwrap();
    (directory, Access::Kubeconfig(path))
}

fn options(access: Access, update_status: bool) -> ClusterOptions {
    ClusterOptions {
        access,
        settings: kubernetes::Settings {
            class_by_name: false,
            ..kubernetes::Settings::default()
        },
        update_status,
        status_address: None,
        snapshot: None,
    }
}

#[tokio::test]
async fn all_there_is_comes_as_one_change_and_then_what_changes() {
    for streams in [true, false] {
        let server = ApiServer::start().await;
        server.set(|world| world.streams = streams);
        server.put(BASE);
        server.put(&route("web"));
        server.put(&slice("a", 8080, &["10.0.0.1"]));
        server.put(&slice("b", 8080, &["10.0.0.2"]));
        server.put(&slice("c", 8080, &["10.0.0.3"]));
        let mut followed = Followed::open(&server).await;
        let delta = followed.change().await;
        assert_eq!(
            (delta.listeners.len(), delta.routes.len(), delta.backends.len()),
            (1, 1, 1),
            "streams: {streams}, {:?}",
            followed.rejects
        );
        assert_eq!(
            followed.endpoints(),
            ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
        );
        assert_eq!(followed.rejects, [""; 0]);
        assert!(server.was_asked(&["/api/v1/secrets?", "fieldSelector=type%3Dkubernetes.io%2Ftls"]));
        assert_eq!(server.was_asked(&[SLICES, "continue=2"]), !streams);

        server.put(&slice("a", 8080, &["10.0.0.9"]));
        followed
            .until_endpoints(&["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.9:8080"])
            .await;
        server.delete(SLICES, "default/b");
        followed
            .until_endpoints(&["10.0.0.3:8080", "10.0.0.9:8080"])
            .await;
        server.put(&route("other"));
        followed.change().await;
        assert!(followed.world.backends.contains_key("default/other:80"));
        server.delete(ROUTES, "default/r");
        followed.change().await;
        assert!(followed.world.routes.is_empty() && followed.world.backends.is_empty());
    }
}

#[tokio::test]
async fn nothing_comes_before_every_kind_was_read() {
    let server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("web"));
    server.put(&slice("a", 8080, &["10.0.0.1"]));
    server.set(|world| {
        world.held.insert(SLICES);
    });
    let mut followed = Followed::open(&server).await;
    followed
        .until_health(|health| health.unread.iter().eq([&Kind::EndpointSlice]))
        .await;
    followed.stays_quiet().await;
    server.set(|world| world.held.clear());
    followed.change().await;
    assert_eq!(followed.endpoints(), ["10.0.0.1:8080"]);
    followed.until_health(|health| health.synced).await;
}

#[tokio::test]
async fn what_is_too_old_is_read_anew_as_one_difference() {
    for streams in [true, false] {
        let server = ApiServer::start().await;
        server.set(|world| world.streams = streams);
        server.put(BASE);
        server.put(&route("web"));
        for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
            server.put(&slice(name, 8080, &[address]));
        }
        let mut followed = Followed::open(&server).await;
        followed.change().await;
        let lists = followed.cluster.health().borrow().lists;
        server.compact();
        followed.until_health(|health| health.lists >= lists + 10).await;
        followed.stays_quiet().await;

        // What changed meanwhile comes, and nothing else.
        server.set(|world| {
            world.held.insert(SLICES);
        });
        server.compact();
        server.delete(SLICES, "default/b");
        server.put(&slice("a", 8081, &["10.0.0.1"]));
        server.compact();
        server.set(|world| world.held.clear());
        while followed.endpoints() != ["10.0.0.1:8081", "10.0.0.3:8080"] {
            let delta = followed.change().await;
            let emptied = delta
                .endpoints
                .values()
                .any(|endpoints| endpoints.as_ref().is_none_or(|endpoints| endpoints.is_empty()));
            assert!(!emptied, "{delta:?}");
            assert!(delta.routes.is_empty() && delta.backends.is_empty() && delta.listeners.is_empty());
        }
    }
}

#[tokio::test]
async fn without_the_api_server_everything_stays() {
    let mut server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("web"));
    server.put(&slice("a", 8080, &["10.0.0.1"]));
    let mut followed = Followed::open(&server).await;
    followed.change().await;
    for compacted in [false, true] {
        server.stop().await;
        followed
            .until_health(|health| health.away.len() == Kind::ALL.len())
            .await;
        followed.stays_quiet().await;
        assert!(followed.cluster.health().borrow().synced);
        assert!(
            followed
                .cluster
                .health()
                .borrow()
                .remark()
                .contains("cannot follow Service")
        );
        let (address, expected) = match compacted {
            false => ("10.0.0.2", "10.0.0.2:8080"),
            true => ("10.0.0.3", "10.0.0.3:8080"),
        };
        server.put(&slice("a", 8080, &[address]));
        if compacted {
            server.compact();
        }
        server.resume().await;
        followed.until_endpoints(&[expected]).await;
        followed.until_health(|health| health.away.is_empty()).await;
        assert_eq!(followed.cluster.health().borrow().remark(), "");
    }
    assert_eq!(
        (followed.world.routes.len(), followed.world.backends.len()),
        (1, 1)
    );
}

#[tokio::test]
async fn an_api_server_that_comes_late_is_waited_for() {
    let mut server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("web"));
    server.stop().await;
    let mut followed = Followed::open(&server).await;
    followed.until_health(|health| !health.away.is_empty()).await;
    assert!(!followed.cluster.health().borrow().synced);
    server.resume().await;
    assert_eq!(followed.change().await.routes.len(), 1);
}

#[tokio::test]
async fn kinds_that_are_missing_are_looked_for_again() {
    let server = ApiServer::start().await;
    server.set(|world| {
        world.missing.insert(ROUTES);
    });
    server.put(BASE);
    let mut followed = Followed::open(&server).await;
    followed.change().await;
    assert!(
        followed
            .cluster
            .health()
            .borrow()
            .missing
            .iter()
            .eq([&Kind::HttpRoute])
    );
    assert_eq!(followed.cluster.health().borrow().remark(), "", "no error");
    server.put(&route("web"));
    server.set(|world| world.missing.clear());
    followed.change().await;
    assert_eq!(followed.world.routes.len(), 1);
    followed.until_health(|health| health.missing.is_empty()).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_harms_itself_alone() {
    let server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("web"));
    server.put(&slice("a", 8080, &["10.0.0.1"]));
    let mut followed = Followed::open(&server).await;
    followed.change().await;
    server.put("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 70000}]}");
    let delta = followed.change().await;
    assert!(delta.is_empty(), "{delta:?}");
    assert!(
        followed.rejects[0]
            .starts_with("kubernetes: Service default/web: spec.ports[0].port: Unreadable: 70000"),
        "{:?}",
        followed.rejects
    );
    server.put(&slice("a", 8080, &["10.0.0.2"]));
    followed.until_endpoints(&["10.0.0.2:8080"]).await;
    server.delete(SERVICES, "default/web");
    followed.change().await;
    assert!(followed.world.backends.is_empty());
}

/// The lease as of somebody, or of nobody.
fn lease(holder: &str) -> String {
    format!(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: tidegate}}\nspec: {{holderIdentity: '{holder}', \
         renewTime: '2026-01-01T00:00:00.000000Z', leaseDurationSeconds: 15}}"
    )
}

#[tokio::test]
async fn who_holds_the_lease_says_how_objects_fare() {
    let server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("none"));
    server.put(&lease("another"));
    let mut followed = Followed::open_with(&server, true).await;
    followed.change().await;
    until("the lease to be looked at", || {
        server.was_asked(&["/leases/tidegate"])
    })
    .await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(server.written(), [""; 0], "it is another's to say");

    let said = |collection: &str, name: &str, pointer: &str| -> String {
        let status = server.status(collection, name);
        let conditions = status.pointer(pointer).and_then(serde_json::Value::as_array);
        let texts = conditions.into_iter().flatten().map(|condition| {
            let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
            format!("{}={}", text("type"), text("status"))
        });
        texts.collect::<Vec<_>>().join(" ")
    };
    server.put(&lease(""));
    until("a Gateway that waits", || {
        said(GATEWAYS, "default/edge", "/conditions") == "Accepted=True Programmed=False"
    })
    .await;
    let socket = ("127.0.0.1:8080".parse().unwrap(), Transport::Tcp);
    followed.cluster.bound(Sockets {
        failed: [(socket, "no interface has this address".to_owned())].into(),
        ..Sockets::default()
    });
    until("a Gateway that cannot be served", || {
        let reason = server
            .status(GATEWAYS, "default/edge")
            .pointer("/conditions/1/reason")
            .cloned();
        reason.is_some_and(|reason| reason == "AddressNotUsable")
    })
    .await;
    followed.cluster.bound(Sockets {
        bound: [socket].into(),
        ..Sockets::default()
    });
    until("a Gateway that is served", || {
        said(GATEWAYS, "default/edge", "/conditions") == "Accepted=True Programmed=True"
    })
    .await;
    until("a route without its backend", || {
        said(ROUTES, "default/r", "/parents/0/conditions") == "Accepted=True ResolvedRefs=False"
    })
    .await;
    server.put(&route("web"));
    until("a route with one", || {
        said(ROUTES, "default/r", "/parents/0/conditions") == "Accepted=True ResolvedRefs=True"
    })
    .await;
    until("the class", || {
        said(CLASSES, "/tidegate", "/conditions") == "Accepted=True"
    })
    .await;

    // What is said already is not said again.
    tokio::time::sleep(QUIET).await;
    let written = server.written();
    server.put(&slice("a", 8080, &["10.0.0.1"]));
    followed.until_endpoints(&["10.0.0.1:8080"]).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(server.written(), written);
}

/// Who holds the lease.
fn holder(server: &ApiServer) -> String {
    let leases = server.all(LEASES);
    let holder = leases
        .first()
        .map(|lease| lease["spec"]["holderIdentity"].clone());
    holder
        .and_then(|holder| holder.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[tokio::test]
async fn what_is_wrong_is_said_by_events_once_and_by_one_replica() {
    let server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("none"));
    server.put("apiVersion: v1\nkind: Service\nmetadata: {name: third, annotations: {tidegate.dev/balance: best}}\nspec: {ports: [{port: 80}]}");
    server.put(&route("third").replace("name: r}", "name: s}"));
    let mut first = Followed::open_with(&server, true).await;
    first.change().await;
    let events = || -> Vec<String> {
        let mut texts: Vec<String> = server
            .all(EVENTS)
            .iter()
            .map(|event| {
                let regarding = &event["regarding"];
                format!(
                    "{} {}/{} {} {}",
                    event["type"].as_str().unwrap(),
                    regarding["kind"].as_str().unwrap(),
                    regarding["name"].as_str().unwrap(),
                    event["reason"].as_str().unwrap(),
                    event["series"]["count"].as_u64().unwrap_or(1)
                )
            })
            .collect();
        texts.sort();
        texts
    };
    let said = [
        "Warning HTTPRoute/r BackendNotFound 1",
        "Warning Service/third NotValid 1",
    ];
    until("two events", || events() == said).await;

    // What cannot be read at all is told, too, and is told of other kinds than those that have a status.
    server.put("apiVersion: v1\nkind: Service\nmetadata: {name: torn}\nspec: {ports: [{port: 70000}]}");
    server.put("apiVersion: v1\nkind: Namespace\nmetadata: {name: torn, labels: 7}");
    let said = [
        "Warning HTTPRoute/r BackendNotFound 1",
        "Warning Namespace/torn Unreadable 1",
        "Warning Service/third NotValid 1",
        "Warning Service/torn Unreadable 1",
    ];
    until("events of what cannot be read", || events() == said).await;

    // A second replica says nothing while the first holds the lease; nor does the first say it again.
    let mut second = Followed::open_with(&server, true).await;
    second.change().await;
    server.put(&slice("a", 8080, &["10.0.0.1"]));
    tokio::time::sleep(QUIET).await;
    assert_eq!(events(), said);

    // The next holder finds them there, and counts on.
    let me = holder(&server);
    assert!(!me.is_empty());
    soon(
        "the lease to be given up",
        first.cluster.resign().unwrap().resign(),
    )
    .await;
    assert_eq!(holder(&server), "");
    drop(first);
    until("another to hold it", || !["", &*me].contains(&&*holder(&server))).await;
    let again = [
        "Warning HTTPRoute/r BackendNotFound 2",
        "Warning Namespace/torn Unreadable 2",
        "Warning Service/third NotValid 2",
        "Warning Service/torn Unreadable 2",
    ];
    until("the events to be counted on", || events() == again).await;
}

#[tokio::test]
async fn a_lease_of_anothers_is_left_to_it() {
    let server = ApiServer::start().await;
    server.put(BASE);
    server.put(&lease("another"));
    let mut followed = Followed::open_with(&server, true).await;
    followed.change().await;
    soon("the end", followed.cluster.resign().unwrap().resign()).await;
    assert_eq!(holder(&server), "another");
    assert!(
        Followed::open(&server).await.cluster.resign().is_none(),
        "who never writes gives nothing up"
    );
}

#[tokio::test]
async fn without_the_api_server_what_was_kept_on_disk_is_served() {
    for streams in [true, false] {
        let mut server = ApiServer::start().await;
        server.set(|world| world.streams = streams);
        server.put(BASE);
        server.put(&route("web"));
        server.put(&slice("a", 8080, &["10.0.0.1"]));
        server.put(&slice("b", 8080, &["10.0.0.2"]));
        let directory = tempfile::tempdir().unwrap();
        let kept = || std::fs::read_to_string(directory.path().join("objects")).unwrap_or_default();
        let mut first = Followed::open_keeping(&server, false, Some(directory.path())).await;
        first.change().await;
        server.delete(SLICES, "default/b");
        server.put(&slice("c", 8080, &["10.0.0.3"]));
        first.until_endpoints(&["10.0.0.1:8080", "10.0.0.3:8080"]).await;
        until("what changed to be kept", || {
            kept().contains("+ EndpointSlice default/c {") && kept().contains("- EndpointSlice default/b\n")
                || kept().contains("+ EndpointSlice default/c {") && !kept().contains("default/b {")
        })
        .await;
        let world = first.world.clone();
        drop(first);

        // It starts without an API server, which later comes back with another world.
        server.stop().await;
        let mut second = Followed::open_keeping(&server, true, Some(directory.path())).await;
        second.change().await;
        assert_eq!(second.world, world, "streams: {streams}");
        let health = second.cluster.health().borrow().clone();
        assert!(health.restored && !health.synced, "{health:?}");
        assert!(
            health
                .remark()
                .starts_with("serving what was kept on disk; cannot follow"),
            "{}",
            health.remark()
        );
        server.delete(SLICES, "default/a");
        server.resume().await;
        second.until_endpoints(&["10.0.0.3:8080"]).await;
        second
            .until_health(|health| health.synced && !health.restored)
            .await;
    }
}

#[tokio::test]
async fn where_nothing_can_be_kept_the_api_server_is_followed_all_the_same() {
    let server = ApiServer::start().await;
    server.put(BASE);
    server.put(&route("web"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut followed = Followed::open_keeping(&server, false, Some(&file.join("below"))).await;
    assert_eq!(followed.change().await.routes.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_serves_what_the_cluster_says_and_stays_ready_without_it() {
    let mut server = ApiServer::start().await;
    let endpoint = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    let mut base = BASE.to_owned();
    // Port 0 is none for a Gateway: an address of the loopback that nobody else has.
    let address = std::net::SocketAddr::from(([127, 83, 0, 1], 8080));
    base = base.replace("127.0.0.1", &address.ip().to_string());
    server.put(&base);
    server.put(&route("web"));
    server.set(|world| {
        world.held.insert(SERVICES);
    });
    server.put(&slice("a", endpoint.address.port(), &["127.0.0.1"]));
    let (_directory, access) = access(&server);
    let running = app::start(Options {
        settings: Settings {
            workers: Some(1),
            admin: AdminSettings {
                address: Some("127.0.0.1:0".parse().unwrap()),
            },
            ..Settings::default()
        },
        sources: vec![Source::Kubernetes(options(access, false))],
    })
    .await
    .unwrap();
    let admin = running.admin.unwrap();
    let ask_admin = async |path: &str| {
        let mut request = client::request(http::Method::GET, path);
        let host = http::HeaderValue::from_static("localhost");
        request.headers_mut().insert("host", host);
        let answer = Client::connect(Down::H1, admin).await.send(request).await;
        (answer.status.as_u16(), answer.text())
    };
    let ready = async || ask_admin("/readyz").await;
    assert!(!running.gates().ready());
    let (status, text) = ready().await;
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("[-] kubernetes: "), "{text}");

    server.set(|world| world.held.clear());
    until("the process to be ready", || running.gates().ready()).await;
    let answer = Client::connect(Down::H1, address).await.get("/").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "hello"));

    server.stop().await;
    until("a word about it", || {
        let gates = running.gates().list();
        gates
            .iter()
            .any(|gate| gate.name == "kubernetes" && gate.open && !gate.reason.is_empty())
    })
    .await;
    let (status, text) = ready().await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("[+] kubernetes: cannot follow"), "{text}");
    let answer = Client::connect(Down::H1, address).await.get("/").await;
    assert_eq!(answer.status.as_u16(), 200);
    let (_, metrics) = ask_admin("/metrics").await;
    assert!(metrics.contains("\ntidegate_kubernetes_synced 1\n"), "{metrics}");
    soon("the end", running.stop()).await;
}
