//! From a name to a certificate that clients trust: by each challenge, against an authority that refuses, limits, is slow or
//! away; renewals, restarts, and replicas that share a store.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tidegate::app::{self, Options, Source};
use tidegate::model::acme::{Acme, ChallengeKind, DnsHook};
use tidegate::model::{HostPattern, Listener, ListenerName, ListenerTls, ManagedName};

use super::authority::{Authority, Behaviour, Places};
use super::support::endpoint::report;
use super::support::proxy::{any_port, source};
use super::support::tls::{shake, shown};
use super::support::{Client, Down, Endpoint, H1, Proxy, Setup, soon};

/// A proxy with a listener in clear text and one whose names are left to ACME.
pub struct Edge {
    pub proxy: Proxy,
    pub https: SocketAddr,
    _endpoint: Endpoint,
}

impl Edge {
    async fn start(acme: Acme, names: &[&str]) -> Self {
        Self::start_with(acme, names, Vec::new()).await
    }

    /// With more sources.
    pub async fn start_with(acme: Acme, names: &[&str], more: Vec<Source>) -> Self {
        let endpoint = Endpoint::serve(H1, report).await;
        let setup = Setup::to(&[endpoint.address])
            .with_admin()
            .settings(|settings| settings.acme = Some(Arc::new(acme)));
        let mut world = setup.world();
        let names = names
            .iter()
            .map(|name| ManagedName::parse(name).unwrap())
            .collect();
        let https = Listener {
            name: ListenerName::new("https"),
            // Another address than that in clear text; the kernel chooses the port.
            address: SocketAddr::from(([127, 0, 0, 2], 0)),
            public_port: None,
            hostname: HostPattern::Any,
            tls: Some(Arc::new(ListenerTls::managing(Vec::new(), names).unwrap())),
            ..setup.listener.clone()
        };
        for route in world.routes.values_mut() {
            Arc::make_mut(route).listeners.push(https.name.clone());
        }
        let configured = https.address;
        world.listeners.insert(https.name.clone(), Arc::new(https));
        let mut sources = vec![Source::Given(source(), Box::new(world))];
        sources.extend(more);
        let options = Options {
            settings: setup.settings.clone(),
            sources,
        };
        let running = soon("the app to start", app::start(options)).await.unwrap();
        assert!(running.rejects.is_empty(), "left out: {:?}", running.rejects);
        Self {
            https: running.address(configured).unwrap(),
            proxy: Proxy {
                address: running.address(any_port()).unwrap(),
                running,
                directory: setup.directory,
            },
            _endpoint: endpoint,
        }
    }

    /// The certificate for a name that a client who trusts the authority is shown, once there is one.
    pub async fn shown(&self, authority: &Authority, name: &str) -> CertificateDer<'static> {
        soon(&format!("a certificate for {name}"), async {
            loop {
                let config = authority.signer.trusted_by().config();
                if let Ok(stream) = shake(&config, self.https, name).await {
                    let shown = shown(&stream);
                    let mut client = Client::over(Down::H1, stream).await;
                    assert_eq!(client.get("/").await.status, 200);
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// What the admin listener says of a name, once it is this.
    pub async fn told(&self, name: &str, holds: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        soon(&format!("what is told of {name}"), async {
            loop {
                let page = self.proxy.admin("/certificates").await.json();
                let items = page["items"].as_array().unwrap();
                if let Some(found) = items.iter().find(|item| item["name"] == name)
                    && holds(found)
                {
                    return found.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    pub async fn stop(self) {
        self.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_certificate_comes_by_http_and_outlives_the_process() {
    let store = tempfile::tempdir().unwrap();
    let store = store.path().join("acme");
    let authority = Authority::start(Behaviour {
        bad_nonces: 2,
        processing: 3,
        ..Behaviour::default()
    })
    .await;
    let edge = Edge::start(
        authority.account(ChallengeKind::Http, &store),
        &["a.example", "b.example"],
    )
    .await;
    // Up at once, and says what is not there.
    let config = authority.signer.trusted_by().config();
    assert!(shake(&config, edge.https, "a.example").await.is_err());
    let ready = edge.proxy.admin("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(
        ready.text().contains("2 of 2 certificates are not there yet"),
        "{}",
        ready.text()
    );

    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    let a = edge.shown(&authority, "a.example").await;
    assert_ne!(
        a,
        edge.shown(&authority, "b.example").await,
        "each name has its own"
    );
    edge.proxy
        .until_metric("tidegate_acme_orders_total{result=\"ok\"}", 2.0)
        .await;
    let told = edge.told("a.example", |told| told["state"] == "good").await;
    let end = told["not_after_unix_s"].as_u64().unwrap();
    let metric = "tidegate_acme_certificate_expiry_timestamp_seconds{name=\"a.example\"}";
    assert_eq!(edge.proxy.metric(metric).await, end as f64);
    assert!(told["next_unix_s"].as_u64().unwrap() < end);
    let ready = edge.proxy.admin("/readyz").await.text();
    assert!(!ready.contains("not there yet"), "{ready}");
    // The answer is gone with the order.
    let path = "/.well-known/acme-challenge/token-0";
    soon("the answer's end", async {
        while edge.proxy.get(path).await.text().starts_with("token-0.") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut names: Vec<_> = authority.orders().into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["a.example", "b.example"]);
    assert_eq!(
        authority.accounts(),
        (1, vec!["mailto:ops@example.com".to_owned()])
    );
    private(&store);
    edge.stop().await;

    // What is in the store is served from the first handshake on, and nothing is ordered.
    let edge = Edge::start(
        authority.account(ChallengeKind::Http, &store),
        &["a.example", "b.example"],
    )
    .await;
    let stream = shake(&config, edge.https, "a.example").await.unwrap();
    assert_eq!(shown(&stream), a);
    edge.told("b.example", |told| told["state"] == "good").await;
    assert_eq!(authority.orders().len(), 2);
    edge.stop().await;
}

/// Nobody else may look into it.
fn private(path: &Path) {
    let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let wanted = if path.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(mode, wanted, "{}", path.display());
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            private(&entry.unwrap().path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_certificate_comes_by_a_handshake() {
    let store = tempfile::tempdir().unwrap();
    let authority = Authority::start(Behaviour::default()).await;
    let edge = Edge::start(
        authority.account(ChallengeKind::TlsAlpn, store.path()),
        &["a.example"],
    )
    .await;
    authority.ask_at(Places::Tls(vec![edge.https]));
    edge.shown(&authority, "a.example").await;
    assert_eq!(edge.proxy.handshakes().await.get("acme_challenge"), Some(&1));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_gets_its_certificate_where_that_is_said() {
    let store = tempfile::tempdir().unwrap();
    let authority = Authority::start(Behaviour::default()).await;
    let endpoint = Endpoint::serve(H1, report).await;
    let objects = tempfile::tempdir().unwrap();
    let (address, port) = (endpoint.address.ip(), endpoint.address.port());
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: 80}}]}}\n---\napiVersion: \
         discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: \
         web}}}}\naddressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{{addresses: [{address}]}}]\n---\napiVersion: \
         networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web, annotations: {{tidegate.dev/acme: \"true\"}}}}\nspec:\n  \
         tls: [{{hosts: [test.example], secretName: not-there}}]\n  rules:\n  - host: test.example\n    http: {{paths: \
         [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}\n"
    );
    std::fs::write(objects.path().join("web.yaml"), text).unwrap();
    let acme = authority.account(ChallengeKind::Http, store.path());
    let setup = Setup::to(&[endpoint.address])
        .with_admin()
        .settings(|settings| settings.acme = Some(Arc::new(acme)));
    let known = tidegate::kubernetes::Settings {
        ingress_address: any_port(),
        ingress_tls_address: SocketAddr::from(([127, 0, 0, 2], 0)),
        ..tidegate::kubernetes::Settings::default()
    };
    let options = Options {
        settings: setup.settings.clone(),
        sources: vec![Source::Manifests(objects.path().to_owned(), known.clone())],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    let edge = Edge {
        https: running.address(known.ingress_tls_address).unwrap(),
        proxy: Proxy {
            address: running.address(known.ingress_address).unwrap(),
            running,
            directory: setup.directory,
        },
        _endpoint: endpoint,
    };
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    edge.shown(&authority, "test.example").await;
    // What was asked in clear text was answered there; everything else is sent to TLS.
    assert_eq!(edge.proxy.get("/").await.status, 308);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_comes_by_a_record_that_is_taken_away_again() {
    let store = tempfile::tempdir().unwrap();
    let records = store.path().join("records");
    let script = format!(
        "case $1 in add) echo \"$2 $3\" >> {0};; remove) grep -v \"^$2 $3$\" {0} > {0}.new; mv {0}.new {0};; esac",
        records.display()
    );
    let hook = DnsHook {
        program: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script, "hook".to_owned()],
        timeout: Duration::from_secs(30),
        settle: Duration::ZERO,
    };
    let authority = Authority::start(Behaviour::default()).await;
    authority.ask_at(Places::Records(records.clone()));
    let account = authority.account(ChallengeKind::Dns(hook), &store.path().join("acme"));
    let edge = Edge::start(account, &["*.a.example"]).await;
    edge.shown(&authority, "x.a.example").await;
    assert_eq!(std::fs::read_to_string(&records).unwrap(), "");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_authority_says_is_told_and_it_is_tried_again_when_it_may_be() {
    let store = tempfile::tempdir().unwrap();
    let authority = Authority::start(Behaviour {
        limited: 2,
        retry_after: 1,
        wrong: 1,
        unwell: 1,
        ..Behaviour::default()
    })
    .await;
    let edge = Edge::start(
        authority.account(ChallengeKind::Http, store.path()),
        &["a.example"],
    )
    .await;
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    edge.told("a.example", |told| {
        let why = told["why"].as_str().unwrap_or_default();
        why == "the authority says rateLimited: too many certificates"
    })
    .await;
    edge.shown(&authority, "a.example").await;
    // Its page, twice too many, a wrong answer.
    edge.proxy
        .until_metric("tidegate_acme_orders_total{result=\"ok\"}", 1.0)
        .await;
    assert_eq!(
        edge.proxy
            .metric("tidegate_acme_orders_total{result=\"failed\"}")
            .await,
        4.0
    );
    let refused = authority.refused();
    assert_eq!(refused.len(), 2);
    assert!(
        refused[1] - refused[0] >= Duration::from_millis(900),
        "Retry-After is whole seconds"
    );
    assert_eq!(authority.orders().len(), 2);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_wrong_is_told_in_the_authoritys_words() {
    let store = tempfile::tempdir().unwrap();
    let authority = Authority::start(Behaviour {
        wrong: 1,
        ..Behaviour::default()
    })
    .await;
    let mut account = authority.account(ChallengeKind::Http, store.path());
    account.pace.refused = Duration::from_secs(600);
    let edge = Edge::start(account, &["a.example"]).await;
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    let told = edge.told("a.example", |told| told["why"].is_string()).await;
    assert_eq!(
        told["why"],
        "the authority says unauthorized: the answer is not the expected one"
    );
    assert_eq!(told["state"], "missing");
    let ready = edge.proxy.admin("/readyz").await.text();
    assert!(
        ready.contains("a.example missing: the authority says unauthorized"),
        "{ready}"
    );
    edge.stop().await;

    // A restart does not make it forget that it has to wait.
    let mut account = authority.account(ChallengeKind::Http, store.path());
    account.pace.refused = Duration::from_secs(600);
    let edge = Edge::start(account, &["a.example"]).await;
    let told = edge.told("a.example", |_| true).await;
    assert!(told["why"].is_string(), "{told}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(authority.orders().len(), 1);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_handshakes_go_on() {
    for (life, renewal) in [
        // At two thirds of its life.
        (Duration::from_secs(9), None),
        // When the authority says so.
        (Duration::from_secs(3600 * 4), Some(Duration::ZERO)),
    ] {
        let store = tempfile::tempdir().unwrap();
        let authority = Authority::start(Behaviour {
            life,
            renewal,
            ..Behaviour::default()
        })
        .await;
        let edge = Edge::start(
            authority.account(ChallengeKind::Http, store.path()),
            &["a.example"],
        )
        .await;
        authority.ask_at(Places::Http(vec![edge.proxy.address]));
        let first = edge.shown(&authority, "a.example").await;
        if renewal.is_some() {
            // It began long enough ago to be renewed.
            let told = edge.told("a.example", |told| told["state"] == "good").await;
            let begun = told["not_after_unix_s"].as_u64().unwrap() - life.as_secs();
            // Its two ends are rounded, each for itself.
            let at = begun + 3599..=begun + 3601;
            let next = edge
                .told("a.example", |told| {
                    at.contains(&told["next_unix_s"].as_u64().unwrap())
                })
                .await;
            assert!(next["why"].is_null());
            edge.stop().await;
            continue;
        }
        let config = authority.signer.trusted_by().config();
        soon("another certificate", async {
            loop {
                let stream = shake(&config, edge.https, "a.example").await;
                let stream = stream.expect("there is a certificate all the time");
                if shown(&stream) != first {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(authority.orders().len() >= 2);
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_with_one_store_order_once_and_answer_for_each_other() {
    let store = tempfile::tempdir().unwrap();
    let authority = Authority::start(Behaviour::default()).await;
    let account = || authority.account(ChallengeKind::Http, store.path());
    let names = ["a.example", "b.example", "c.example"];
    let (one, other) = tokio::join!(Edge::start(account(), &names), Edge::start(account(), &names));
    authority.ask_at(Places::Http(vec![one.proxy.address, other.proxy.address]));
    for name in names {
        let first = one.shown(&authority, name).await;
        assert_eq!(first, other.shown(&authority, name).await);
    }
    let mut ordered: Vec<_> = authority.orders().into_iter().map(|(name, _)| name).collect();
    ordered.sort();
    assert_eq!(ordered, names);
    assert_eq!(authority.accounts().0, 1);
    // Who is left goes on alone.
    one.stop().await;
    other.shown(&authority, "a.example").await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_in_the_store_is_told_and_gives_way_to_a_good_one() {
    let store = tempfile::tempdir().unwrap();
    let authority = Authority::start(Behaviour::default()).await;
    let account = || authority.account(ChallengeKind::Http, store.path());
    let edge = Edge::start(account(), &["a.example"]).await;
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    let first = edge.shown(&authority, "a.example").await;
    edge.stop().await;
    let root = std::fs::read_dir(store.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let file = root.join("certificates/a.example.pem");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();

    authority.behave(|behaviour| (behaviour.limited, behaviour.retry_after) = (1, 2));
    let edge = Edge::start(account(), &["a.example"]).await;
    let told = soon("the file's place", async {
        loop {
            let ready = edge.proxy.admin("/readyz").await.text();
            if ready.contains("a.example.pem: ") {
                return ready;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(told.contains(&file.display().to_string()), "{told}");
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    assert_ne!(edge.shown(&authority, "a.example").await, first);
    soon("that all is well", async {
        while edge.proxy.admin("/readyz").await.text().contains("a.example.pem") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    edge.stop().await;
}
