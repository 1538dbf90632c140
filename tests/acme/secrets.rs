//! Certificates in Secrets of a cluster: replicas that share them, a holder of the lock that dies or is cut off, Secrets that others
//! have edited, and no API server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::acme::vault::{Found, Key, Vault};
use tidegate::app::Source;
use tidegate::kubernetes::{self, Access, ClusterOptions, Secrets};
use tidegate::model::ManagedName;
use tidegate::model::acme::{Acme, AcmeStore, ChallengeKind, DirectoryUrl};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::authority::{Authority, Behaviour, Places};
use super::orders::Edge;
use super::server::ApiServer;
use super::support::tls::{shake, shown};
use super::support::{soon, until};

const SECRETS: &str = "/api/v1/secrets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
/// How long a Lease holds whose holder died: short enough for a test to wait for it.
const LEASE: Duration = Duration::from_secs(3);

/// A way to an API server that can be cut.
struct Way {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Way {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::over(listener, server)
    }

    fn over(listener: TcpListener, server: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new(); // dropped with the task
            while let Ok((mut near, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut far = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { address, task }
    }

    async fn cut(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    async fn mend(&mut self, server: SocketAddr) {
        *self = Self::over(TcpListener::bind(self.address).await.unwrap(), server);
    }
}

/// A kubeconfig that leads to an address.
fn access(directory: &Path, address: SocketAddr) -> Access {
    let path = directory.join(format!("kubeconfig-{}", address.port()));
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    Access::Kubeconfig(path)
}

fn account(authority: &Authority) -> Acme {
    let mut account = authority.account(ChallengeKind::Http, Path::new("/not-used"));
    account.store = AcmeStore::Secrets { namespace: None };
    account.pace.lease = LEASE;
    account
}

/// A replica that follows the cluster of an API server at an address.
async fn replica(account: Acme, names: &[&str], files: &TempDir, address: SocketAddr) -> Edge {
    replica_keeping(account, names, files, address, None).await
}

/// One that keeps what the API server says in a directory.
async fn replica_keeping(
    account: Acme,
    names: &[&str],
    files: &TempDir,
    address: SocketAddr,
    snapshot: Option<PathBuf>,
) -> Edge {
    let cluster = Source::Kubernetes(ClusterOptions {
        access: access(files.path(), address),
        settings: kubernetes::Settings {
            class_by_name: false,
            ..kubernetes::Settings::default()
        },
        update_status: false,
        status_address: None,
        snapshot,
    });
    Edge::start_with(account, names, vec![cluster]).await
}

/// The Secrets for a use.
fn secrets(server: &ApiServer, what: &str) -> Vec<Value> {
    let all = server.all(SECRETS).into_iter();
    all.filter(|secret| secret["metadata"]["labels"]["tidegate.dev/acme-use"] == what)
        .collect()
}

/// Changes an object, as somebody would by hand.
fn edit(server: &ApiServer, mut object: Value, edit: impl FnOnce(&mut Value)) {
    edit(&mut object);
    server.put(&object.to_string());
}

fn holder(server: &ApiServer) -> String {
    let lease = server.all(LEASES).into_iter().next();
    let holder = lease.map(|lease| lease["spec"]["holderIdentity"].as_str().unwrap().to_owned());
    holder.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_secrets_order_once_and_answer_for_each_other() {
    let (server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let authority = Authority::start(Behaviour::default()).await;
    let names = ["a.example", "b.example", "c.example"];
    let start = || replica(account(&authority), &names, &files, server.address);
    let (one, other) = tokio::join!(start(), start());
    authority.ask_at(Places::Http(vec![one.proxy.address, other.proxy.address]));
    for name in names {
        let first = one.shown(&authority, name).await;
        assert_eq!(first, other.shown(&authority, name).await);
    }
    let ordered = || {
        let mut ordered: Vec<_> = authority.orders().into_iter().map(|(name, _)| name).collect();
        ordered.sort();
        ordered
    };
    assert_eq!(ordered(), names);
    assert_eq!(authority.accounts().0, 1);

    // An operator sees what they are, and other tools can read them.
    let certificates = secrets(&server, "certificate");
    assert_eq!(certificates.len(), 3);
    for (secret, name) in certificates.iter().zip(names) {
        let metadata = &secret["metadata"];
        assert_eq!(secret["type"], "kubernetes.io/tls");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "tidegate");
        assert_eq!(metadata["annotations"]["tidegate.dev/acme-hostname"], name);
        assert!(
            metadata["name"]
                .as_str()
                .unwrap()
                .ends_with(&format!("-cert.{name}"))
        );
        let text = |part: &str| {
            let encoded = secret["data"][part].as_str().unwrap();
            String::from_utf8(BASE64.decode(encoded.as_bytes()).unwrap()).unwrap()
        };
        assert!(text("tls.crt").starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(text("tls.key").starts_with("-----BEGIN PRIVATE KEY-----"));
    }
    // The answers are gone with the orders, and so is the lock.
    until("the end of the answers", || secrets(&server, "answer").is_empty()).await;
    until("the lock to be given back", || holder(&server).is_empty()).await;
    assert!(server.was_asked(&["/api/v1/namespaces/default/secrets?watch=true", "labelSelector="]));

    // Who is left goes on alone, and who comes has everything at once.
    one.stop().await;
    let first = other.shown(&authority, "a.example").await;
    let third = start().await;
    assert_eq!(third.shown(&authority, "a.example").await, first);
    third.told("c.example", |told| told["state"] == "good").await;
    assert_eq!(ordered(), names);
    other.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_in_the_middle_of_an_order_is_followed_by_another() {
    let (server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let authority = Authority::start(Behaviour::default()).await;
    let mut way = Way::to(server.address).await;
    let one = replica(account(&authority), &["a.example"], &files, way.address).await;
    // The authority does not ask yet.
    until("an answer", || !secrets(&server, "answer").is_empty()).await;
    let first = holder(&server);
    let other = replica(account(&authority), &["a.example"], &files, server.address).await;
    other
        .told("a.example", |told| told["why"] == "another replica is ordering")
        .await;
    way.cut().await;
    until("the lock to be another's", || {
        let now = holder(&server);
        now != first && !now.is_empty()
    })
    .await;
    authority.ask_at(Places::Http(vec![other.proxy.address]));
    let certificate = other.shown(&authority, "a.example").await;
    assert_eq!(authority.orders().len(), 2);
    // It has learned that it is no longer its affair, and serves what the other got.
    let ready = one.proxy.admin("/readyz").await.text();
    assert!(
        ready.contains("the Secrets for ACME in default: cannot be followed"),
        "{ready}"
    );
    way.mend(server.address).await;
    assert_eq!(one.shown(&authority, "a.example").await, certificate);
    assert_eq!(authority.orders().len(), 2);
    assert_eq!(secrets(&server, "certificate").len(), 1);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_edited_into_nonsense_is_named_and_what_it_was_is_served_until_there_is_another() {
    let (server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let authority = Authority::start(Behaviour::default()).await;
    let edge = replica(account(&authority), &["a.example"], &files, server.address).await;
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    let first = edge.shown(&authority, "a.example").await;
    until("the lock to be given back", || holder(&server).is_empty()).await;

    authority.behave(|behaviour| (behaviour.limited, behaviour.retry_after) = (1, 2));
    let secret = secrets(&server, "certificate").remove(0);
    let name = format!("default/{}", secret["metadata"]["name"].as_str().unwrap());
    edit(&server, secret, |secret| secret["data"]["tls.crt"] = json!("%%%"));
    soon("the Secret's name", async {
        let told = format!("Secret {name}: tls.crt is not base64");
        while !edge.proxy.admin("/readyz").await.text().contains(&told) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(edge.shown(&authority, "a.example").await, first);
    soon("another certificate", async {
        while edge.shown(&authority, "a.example").await == first {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    soon("that all is well", async {
        while edge.proxy.admin("/readyz").await.text().contains("Secret ") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_certificates_are_served_and_nothing_is_ordered() {
    let (mut server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let authority = Authority::start(Behaviour::default()).await;
    // It is away at the start.
    server.stop().await;
    let edge = replica(account(&authority), &["a.example"], &files, server.address).await;
    let says = async |part: &str, is: bool| {
        soon(part, async {
            while edge.proxy.admin("/readyz").await.text().contains(part) != is {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    says("the Secrets for ACME in default: cannot be read", true).await;
    assert!(authority.orders().is_empty());
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    server.resume().await;
    let first = edge.shown(&authority, "a.example").await;
    until("the lock to be given back", || holder(&server).is_empty()).await;

    // And it goes away later; what was written meanwhile is seen when it is back.
    server.stop().await;
    says("the Secrets for ACME in default: cannot be followed", true).await;
    let config = authority.signer.trusted_by().config();
    assert_eq!(
        shown(&shake(&config, edge.https, "a.example").await.unwrap()),
        first
    );
    server.compact();
    server.resume().await;
    says("the Secrets for ACME", false).await;
    assert_eq!(edge.shown(&authority, "a.example").await, first);
    assert_eq!(authority.orders().len(), 1);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_api_server_serves_what_was_kept() {
    let (mut server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let authority = Authority::start(Behaviour::default()).await;
    let kept = files.path().join("kept");
    let start = |server: &ApiServer| {
        let account = account(&authority);
        replica_keeping(
            account,
            &["a.example"],
            &files,
            server.address,
            Some(kept.clone()),
        )
    };
    let edge = start(&server).await;
    authority.ask_at(Places::Http(vec![edge.proxy.address]));
    let first = edge.shown(&authority, "a.example").await;
    until("the certificate on disk", || {
        let mut files = std::fs::read_dir(&kept).into_iter().flatten().flatten();
        files.any(|file| {
            let is_ours = file.file_name().to_string_lossy().starts_with("acme-");
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            is_ours && text.contains("-cert.a.example")
        })
    })
    .await;
    edge.stop().await;

    server.stop().await;
    let edge = start(&server).await;
    let config = authority.signer.trusted_by().config();
    assert_eq!(
        shown(&shake(&config, edge.https, "a.example").await.unwrap()),
        first
    );
    let ready = edge.proxy.admin("/readyz").await.text();
    assert!(ready.contains("serving what was kept on disk"), "{ready}");
    server.resume().await;
    soon("that all is well", async {
        while edge
            .proxy
            .admin("/readyz")
            .await
            .text()
            .contains("the Secrets for ACME")
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(edge.shown(&authority, "a.example").await, first);
    assert_eq!(authority.orders().len(), 1);
    edge.stop().await;
}

async fn vault(access: &Access) -> Arc<Secrets> {
    let directory = DirectoryUrl::parse("https://ca.example/dir").unwrap();
    let opened = Secrets::open(access, None, &directory, Duration::from_secs(1), None).await;
    Arc::new(opened.unwrap())
}

async fn text(vault: &Secrets, key: &Key) -> Option<String> {
    match vault.read(vec![(key.clone(), None)]).await.remove(0).unwrap() {
        Found::New(_, bytes) => Some(String::from_utf8(bytes).unwrap()),
        Found::Nothing | Found::Same => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_somebody_else_was_quicker_that_is_read_and_written_over() {
    let (server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let vault = vault(&access(files.path(), server.address)).await;
    let key = Key::Notes(ManagedName::parse("*.a.example").unwrap());
    let refused = vault.put(key.clone(), b"{}".to_vec()).await.unwrap_err();
    assert!(refused.to_string().contains("not written"), "{refused}");
    let lock = vault.lock().await.unwrap().unwrap();
    vault.put(key.clone(), b"1".to_vec()).await.unwrap();
    assert_eq!(text(&vault, &key).await.as_deref(), Some("1"), "at once");

    // Nothing is heard of what others do.
    server.set(|world| {
        world.muted.insert(SECRETS);
    });
    let secret = secrets(&server, "notes").remove(0);
    let name = format!("default/{}", secret["metadata"]["name"].as_str().unwrap());
    edit(&server, secret, |secret| {
        secret["metadata"]["labels"]["team"] = json!("edge")
    });
    vault.put(key.clone(), b"2".to_vec()).await.unwrap();
    let secret = secrets(&server, "notes").remove(0);
    assert_eq!(
        secret["metadata"]["labels"]["team"], "edge",
        "what is not ours stays"
    );
    server.delete(SECRETS, &name);
    vault.put(key.clone(), b"3".to_vec()).await.unwrap();
    let other = Key::Account;
    let mut made = secret.clone();
    made["metadata"]["name"] = json!(vault.place(&other).rsplit_once('/').unwrap().1);
    server.put(&made.to_string());
    vault.put(other.clone(), b"4".to_vec()).await.unwrap();
    server.set(|world| world.muted.clear());
    for (key, expected) in [(&key, "3"), (&other, "4")] {
        assert_eq!(text(&vault, key).await.as_deref(), Some(expected));
    }
    vault.remove(key.clone()).await.unwrap();
    vault.remove(key.clone()).await.unwrap();
    assert_eq!(text(&vault, &key).await, None);
    lock.give_back().await;
    let refused = vault.put(key, b"5".to_vec()).await.unwrap_err();
    assert!(refused.to_string().contains("not written"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_has_the_lock_and_who_loses_it_writes_no_more() {
    let (server, files) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let mut way = Way::to(server.address).await;
    let one = vault(&access(files.path(), way.address)).await;
    let other = vault(&access(files.path(), server.address)).await;
    let lock = one.lock().await.unwrap().unwrap();
    for another in [&other, &one] {
        assert!(another.lock().await.unwrap().is_none());
    }
    lock.give_back().await;
    let lock = other.lock().await.unwrap().expect("it was given back");
    drop(lock);
    let mut lock = soon("the lock", async {
        loop {
            if let Some(lock) = one.lock().await.unwrap() {
                return lock;
            }
        }
    })
    .await;
    // No watch tells of what is written now.
    server.set(|world| {
        world.muted.insert(SECRETS);
    });
    let key = Key::Account;
    one.put(key.clone(), b"1".to_vec()).await.unwrap();
    assert_eq!(text(&other, &key).await, None);
    way.cut().await;
    soon("the loss", lock.lost()).await;
    assert!(!lock.is_held());
    let refused = one.put(key.clone(), b"2".to_vec()).await.unwrap_err();
    assert!(refused.to_string().contains("not written"), "{refused}");
    let _lock = soon("another's turn", async {
        loop {
            if let Some(lock) = other.lock().await.unwrap() {
                return lock;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Who has it knows all that was written, or it would be ordered twice.
    assert_eq!(text(&other, &key).await.as_deref(), Some("1"));
}
