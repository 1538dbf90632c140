//! Identities in files that are replaced while they are used.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidegate::app::{self, Options, Running, Source};
use tidegate::config::IdentityFiles;
use tidegate::model::{Identity, Inner, MtlsMode};

use super::support::endpoint::report;
use super::support::proxy::source;
use super::support::tls::{Authority, Pair, shown};
use super::support::{Endpoint, H1, Proxy, Setup, soon, until};
use super::{APP, WEB, as_sidecar, identity, inbound, outbound};

/// As cert-manager's driver does it: a directory of its own for each, and a link that is swapped.
fn put(directory: &Path, pair: &Pair, ca: &str) {
    let name = format!("..{}", pair.serial);
    let own = directory.join(&name);
    std::fs::create_dir_all(&own).unwrap();
    for (file, text) in [
        ("tls.crt", pair.chain.as_str()),
        ("tls.key", &pair.key),
        ("ca.crt", ca),
    ] {
        std::fs::write(own.join(file), text).unwrap();
        let link = directory.join(file);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), link).unwrap();
        }
    }
    let new = directory.join("..new");
    std::os::unix::fs::symlink(&name, &new).unwrap();
    std::fs::rename(new, directory.join("..data")).unwrap();
}

async fn start(setup: Setup, identity: &Path) -> Proxy {
    let files = IdentityFiles::of_directory(identity);
    let options = Options {
        settings: setup.settings.clone(),
        sources: vec![
            Source::Identity(files),
            Source::Given(source(), Box::new(setup.world())),
        ],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    Proxy {
        address: running.address(setup.listener.address).unwrap(),
        running,
        directory: setup.directory,
    }
}

/// A sidecar whose identity is in a directory.
fn asking(endpoint: &Endpoint, spare: &Arc<Identity>) -> Setup {
    let mut setup = inbound(endpoint, spare, MtlsMode::Strict, &["/*"]);
    setup.identity = None;
    setup
}

fn is_ready(running: &Running) -> bool {
    running.gates().ready()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_replaced_while_handshakes_run_and_none_fails() {
    let (authority, next) = (Authority::default(), Authority::new("next"));
    let both = format!("{}{}", authority.pem, next.pem);
    let identities = tempfile::tempdir().unwrap();
    put(identities.path(), &authority.sign(&[APP]), &both);
    let web = identity(&authority, WEB);
    let endpoint = Endpoint::serve(H1, report).await;
    let there = start(asking(&endpoint, &web), identities.path()).await;
    until("readiness", || is_ready(&there.running)).await;

    // The client's own is replaced, too: under a load of requests.
    let own = tempfile::tempdir().unwrap();
    put(own.path(), &authority.sign(&[WEB]), &both);
    let mut setup = outbound(&there, None, &[APP]);
    // Without connections that are kept each request is a handshake.
    setup = setup.policy(|backend| backend.limits.max_idle = 0);
    let here = start(setup, own.path()).await;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, made, address) = (Arc::clone(&stop), Arc::clone(&made), here.address);
            tokio::spawn(async move {
                let mut client = super::Client::connect(super::Down::H1, address).await;
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(client.get("/").await.status, 200, "no handshake fails");
                    made.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    // By another authority, too, once both are believed.
    for (at, signer) in [&authority, &next, &next].into_iter().enumerate() {
        let before = made.load(Ordering::SeqCst);
        let (server, client) = (signer.sign(&[APP]), signer.sign(&[WEB]));
        put(identities.path(), &server, &both);
        put(own.path(), &client, &both);
        let seen = of_both(&authority, &next);
        soon("the new identity", async {
            loop {
                let stream = as_sidecar(&seen, Inner::Http1, &there).await.unwrap();
                if shown(&stream) == server.der() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        until("more requests", || made.load(Ordering::SeqCst) > before + 10).await;
        assert!(is_ready(&there.running), "{at}");
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    here.stop().await;
    there.stop().await;
}

/// A client that believes both authorities.
fn of_both(authority: &Authority, next: &Authority) -> Identity {
    let both = format!("{}{}", authority.pem, next.pem);
    let trust = tidegate::model::tls::TrustBundle::from_pem("both", both.as_bytes()).unwrap();
    Identity::new(authority.sign(&[WEB]).certificate(), trust).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_identity_is_not_taken_and_without_one_nothing_is_ready() {
    let authority = Authority::default();
    let web = identity(&authority, WEB);
    let identities = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = start(asking(&endpoint, &web), identities.path()).await;
    assert!(!is_ready(&proxy.running), "there is no identity yet");
    as_sidecar(&web, Inner::Http1, &proxy).await.unwrap_err();

    let first = authority.sign(&[APP]);
    put(identities.path(), &first, &authority.pem);
    until("readiness", || is_ready(&proxy.running)).await;
    let now = async || shown(&as_sidecar(&web, Inner::Http1, &proxy).await.unwrap());
    assert_eq!(now().await, first.der());

    let mut mixed = authority.sign(&[APP]);
    mixed.key = authority.sign(&[APP]).key;
    let no_workload = authority.sign(&["app.example"]);
    for bad in [mixed, no_workload] {
        put(identities.path(), &bad, &authority.pem);
        // Read again for certain, whatever the watch has seen.
        proxy.running.reload();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(now().await, first.der());
        assert!(is_ready(&proxy.running));
    }
    let mended = authority.sign(&[APP]);
    put(identities.path(), &mended, &authority.pem);
    soon("the mended identity", async {
        while now().await != mended.der() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
