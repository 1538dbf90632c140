//! The injector of sidecars as a process that an API server asks: certificate, trust, Pods, and what is no question.
#![allow(
    clippy::unwrap_used, // a test fails by it, also in the functions that its parts share
    clippy::expect_used
)]

#[allow(dead_code)]
#[path = "kubernetes_api/server.rs"]
mod server;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use data_encoding::BASE64;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use tidegate::app::{self, Running};
use tidegate::cli::Cli;
use tidegate::config::{AdminSettings, Settings};
use tidegate::inject::Options;
use tidegate::inject::patch::Template;
use tidegate::kubernetes::Access;

use self::server::ApiServer;
use self::support::tls::Authority;
use self::support::{Client, Down, client, soon};

const SECRETS: &str = "/api/v1/secrets";
const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const NAME: &str = "tidegate-inject.default.svc";

/// What the chart installs, as far as it is read; and a namespace that asks for sidecars.
const INSTALLED: &str = "apiVersion: v1
kind: Secret
metadata: {name: tidegate-inject}
type: tidegate.dev/inject
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: tidegate-inject}
webhooks: [{name: inject.tidegate.dev, clientConfig: {service: {name: tidegate-inject, namespace: default}}}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {tidegate.dev/inject: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: quiet}";

struct Scene {
    api: ApiServer,
    directory: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let scene = Self {
            api: ApiServer::start().await,
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(scene.directory.path().join("kubeconfig"), scene.api.kubeconfig()).unwrap();
        scene
    }

    async fn injector(&self) -> Running {
        let settings = Settings {
            workers: Some(1),
            admin: AdminSettings {
                address: Some("127.0.0.1:0".parse().unwrap()),
            },
            ..Settings::default()
        };
        let options = Options {
            address: "127.0.0.1:0".parse().unwrap(),
            access: Access::Kubeconfig(self.directory.path().join("kubeconfig")),
            name: "tidegate-inject".to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            template: Template {
                image: "tidegate:1".to_owned(),
                init_image: Some("tidegate-init:1".to_owned()),
                pull_policy: None,
                own_namespace: String::new(),
                defaults: vec![("grace".to_owned(), "10s".to_owned())],
            },
        };
        app::start_injector(settings, options).await.unwrap()
    }

    /// What the API server trusts, in PEM; nothing as long as nobody has said so.
    fn trusted(&self) -> String {
        let webhook = &self.api.all(WEBHOOKS)[0]["webhooks"][0]["clientConfig"]["caBundle"];
        let bundle = BASE64
            .decode(webhook.as_str().unwrap_or_default().as_bytes())
            .unwrap();
        String::from_utf8(bundle).unwrap()
    }

    /// The certificate in the Secret.
    fn kept(&self) -> Value {
        self.api.all(SECRETS)[0]["data"]["tls.crt"].clone()
    }

    fn edit_secret(&self, edit: impl FnOnce(&mut Value)) {
        let mut secret = self.api.all(SECRETS)[0].clone();
        edit(&mut secret["data"]);
        self.api.put(&secret.to_string());
    }

    /// A connection as the API server makes it, if the certificate is one that it trusts.
    async fn connect(&self, address: SocketAddr) -> Option<http1::SendRequest<Full<bytes::Bytes>>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.trusted().as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        if roots.is_empty() {
            return None;
        }
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::clone(tidegate::model::tls::provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect(ServerName::try_from(NAME).unwrap(), stream)
            .await
            .ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Some(sender)
    }

    async fn reached(&self, running: &Running) -> http1::SendRequest<Full<bytes::Bytes>> {
        let address = running.injector().unwrap();
        soon("the API server to trust the certificate", async {
            loop {
                if let Some(sender) = self.connect(address).await {
                    return sender;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Waits for what the API server knows to be so.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        soon(what, async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

fn pod(edit: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    edit(&mut pod);
    pod
}

fn review(namespace: &str, pod: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0815",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "object": pod,
        },
    })
    .to_string()
    .into_bytes()
}

async fn ask(
    sender: &mut http1::SendRequest<Full<bytes::Bytes>>,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> (u16, Vec<u8>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", NAME)
        .body(Full::from(body))
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes().to_vec(),
    )
}

/// The answer to a question about a Pod, and the operations of its patch.
async fn asked(
    sender: &mut http1::SendRequest<Full<bytes::Bytes>>,
    namespace: &str,
    pod: &Value,
) -> (Value, Value) {
    let (status, body) = ask(sender, "POST", "/inject?timeout=5s", review(namespace, pod)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer: Value = serde_json::from_slice(&body).unwrap();
    let response = answer["response"].clone();
    assert_eq!(
        (&response["uid"], &response["allowed"]),
        (&json!("0815"), &json!(true))
    );
    let patch = response["patch"].as_str().map_or(Value::Null, |patch| {
        serde_json::from_slice(&BASE64.decode(patch.as_bytes()).unwrap()).unwrap()
    });
    (response, patch)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_sidecars_that_can_be_started() {
    let scene = Scene::new().await;
    scene.api.put(INSTALLED);
    let running = scene.injector().await;
    let mut sender = scene.reached(&running).await;
    let (_, patch) = asked(&mut sender, "shop", &pod(|_| {})).await;
    let containers: Vec<Value> = patch
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["path"] == "/spec/initContainers/0")
        .map(|one| one["value"].clone())
        .collect();
    assert_eq!(containers.len(), 2, "{patch}");
    let localhost = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "tidegate.dev/inject": "localhost", "tidegate.dev/outbound": "3001=web:80", "tidegate.dev/inbound": "8080=3000",
            "tidegate.dev/access-log": "true", "tidegate.dev/log-level": "debug",
        });
    });
    let wishes = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "tidegate.dev/skip-inbound-ports": "9100,4567-4568", "tidegate.dev/skip-outbound-ports": "25",
            "tidegate.dev/skip-networks": "10.0.0.0/8", "tidegate.dev/opaque-ports": "3306",
        });
    });
    let known = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "tidegate.dev/identity": "workload-api", "tidegate.dev/mtls": "strict", "tidegate.dev/allow": "/ns/shop/*,/ns/bank/sa/teller",
            "tidegate.dev/plain-ports": "probes,9100", "tidegate.dev/backend-tls": "true",
        });
        pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/", "port": 8090}});
    });
    let off = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "tidegate.dev/inject": "localhost", "tidegate.dev/inbound": "8080=3000", "tidegate.dev/identity": "secret:web",
            "tidegate.dev/mtls": "off", "tidegate.dev/allow": "/*", "tidegate.dev/plain-ports": "1", "tidegate.dev/backend-tls": "true",
        });
    });
    let mut all = containers;
    for (namespace, pod, count) in [
        ("quiet", &localhost, 1),
        ("shop", &wishes, 2),
        ("shop", &known, 2),
        ("quiet", &off, 1),
    ] {
        let (response, patch) = asked(&mut sender, namespace, pod).await;
        assert_eq!(response.get("warnings"), None);
        let of_patch = patch.as_array().unwrap().iter();
        let added: Vec<Value> = of_patch
            .filter(|one| one["path"] == "/spec/initContainers/0")
            .map(|one| one["value"].clone())
            .collect();
        assert_eq!(added.len(), count, "{patch}");
        all.extend(added);
    }
    // The program takes what it is started with there.
    for container in &all {
        let words = ["command", "args"]
            .map(|of| container[of].as_array().unwrap().clone())
            .concat();
        let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words[0], "/tidegate");
        Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    assert!(
        all[0]["args"].as_array().unwrap().contains(&json!("--grace=10s")),
        "{}",
        all[0]
    );

    // What is left as it is.
    let (response, patch) = asked(&mut sender, "quiet", &pod(|_| {})).await;
    assert_eq!((response.get("warnings"), patch), (None, Value::Null));
    let slip = pod(|pod| pod["metadata"]["annotations"] = json!({"tidegate.dev/grace": "soon"}));
    let (response, patch) = asked(&mut sender, "shop", &slip).await;
    assert_eq!(patch, Value::Null);
    assert!(
        response["warnings"][0]
            .as_str()
            .unwrap()
            .contains("tidegate.dev/grace"),
        "{response}"
    );

    // What is no question, and a namespace that nobody knows.
    for (method, path, body, status) in [
        ("POST", "/", review("shop", &pod(|_| {})), 404),
        ("GET", "/inject", Vec::new(), 405),
        ("POST", "/inject", b"{}".to_vec(), 400),
        ("POST", "/inject", vec![b' '; 3 * 1024 * 1024 + 1], 413),
    ] {
        let mut sender = scene.reached(&running).await;
        assert_eq!(
            ask(&mut sender, method, path, body).await.0,
            status,
            "{method} {path}"
        );
    }
    let (status, body) = ask(&mut sender, "POST", "/inject", review("nowhere", &pod(|_| {}))).await;
    assert_eq!(status, 502, "{}", String::from_utf8_lossy(&body));

    let mut admin = Client::connect(Down::H1, running.admin.unwrap()).await;
    let mut request = client::request(http::Method::GET, "/metrics");
    let host = http::HeaderValue::from_static("localhost");
    request.headers_mut().insert(http::header::HOST, host);
    let metrics = admin.send(request).await.text();
    for (result, count) in [
        ("injected", 5),
        ("not_asked", 1),
        ("misunderstood", 1),
        ("failed", 3),
        ("already", 0),
    ] {
        let line = format!("tidegate_inject_reviews_total{{result=\"{result}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} {metrics}");
    }
    let ends = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tidegate_inject_certificate_expiry_timestamp_seconds "));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    assert!(ends.unwrap().parse::<f64>().unwrap() > now, "{ends:?}");
    assert!(running.drain().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_overwritten_is_put_right() {
    let scene = Scene::new().await;
    scene.api.put(INSTALLED);
    let running = scene.injector().await;
    drop(scene.reached(&running).await);
    let first = scene.trusted();
    let mut webhook = scene.api.all(WEBHOOKS)[0].clone();
    webhook["webhooks"][0]["clientConfig"]["caBundle"] = json!(BASE64.encode(b"nonsense"));
    scene.api.put(&webhook.to_string());
    scene
        .until("the bundle to be put right", |scene| scene.trusted() == first)
        .await;

    scene.edit_secret(|data| data["tls.key"] = json!(BASE64.encode(b"nonsense")));
    scene
        .until("a new certificate that is trusted", |scene| {
            scene.trusted().matches("BEGIN").count() == 2 && scene.trusted() != first
        })
        .await;
    drop(scene.reached(&running).await);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_show_one_certificate_and_go_on_for_each_other() {
    let scene = Scene::new().await;
    scene.api.put(INSTALLED);
    let one = scene.injector().await;
    drop(scene.reached(&one).await);
    let first = scene.kept();
    let other = scene.injector().await;
    drop(scene.reached(&other).await);
    assert_eq!(scene.kept(), first);
    assert!(other.gates().ready());
    // The one that held the Lease ends; the other takes the steps from there.
    assert!(one.drain().await);
    scene.edit_secret(|data| data["tls.key"] = json!(BASE64.encode(b"nonsense")));
    scene
        .until("another certificate", |scene| scene.kept() != first)
        .await;
    drop(scene.reached(&other).await);
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_near_its_end_is_replaced_in_steps() {
    let scene = Scene::new().await;
    scene.api.put(INSTALLED);
    // One that ends in ten days.
    let authority = Authority::default();
    let names = [
        NAME,
        "tidegate-inject.default",
        "tidegate-inject.default.svc.cluster.local",
        "127.0.0.1",
    ];
    let old = authority.sign_with(&names, false, |params| {
        params.not_after = (SystemTime::now() + Duration::from_secs(10 * 24 * 3600)).into();
    });
    let long_ago = json!(BASE64.encode(b"1"));
    scene.edit_secret(|data| {
        let encoded = |text: &str| json!(BASE64.encode(text.as_bytes()));
        *data = json!({"tls.crt": encoded(&old.chain), "tls.key": encoded(&old.key), "ca.crt": encoded(&authority.pem)});
    });
    let first = scene.kept();
    let running = scene.injector().await;
    let trusts = |count: usize| move |scene: &Scene| scene.trusted().matches("BEGIN").count() == count;
    scene.until("the next one to be trusted", trusts(2)).await;
    drop(scene.reached(&running).await);
    assert_eq!(scene.kept(), first, "nobody shows the next one yet");
    // Each step is taken when the one before has settled, which nobody waits for here.
    scene.edit_secret(|data| data["since"] = long_ago.clone());
    scene
        .until("the next one to be kept", |scene| scene.kept() != first)
        .await;
    assert!(trusts(2)(&scene), "both are trusted");
    drop(scene.reached(&running).await);
    scene.edit_secret(|data| data["since"] = long_ago.clone());
    scene
        .until("the old one to be trusted no longer", trusts(1))
        .await;
    drop(scene.reached(&running).await);
    assert!(!scene.trusted().contains(authority.pem.trim()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_installed_is_told() {
    let scene = Scene::new().await;
    let running = scene.injector().await;
    let reason = |running: &Running| {
        let all = running.gates().list();
        all.into_iter().find(|gate| gate.name == "inject").unwrap()
    };
    soon("the reason", async {
        while !reason(&running)
            .reason
            .contains("the Secret tidegate-inject is not there")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!running.gates().ready());
    scene.api.put(INSTALLED);
    drop(scene.reached(&running).await);
    soon("it to be ready", async {
        while !reason(&running).open || !reason(&running).reason.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    running.stop().await;
}
