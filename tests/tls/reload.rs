//! Certificates in files that are replaced while the proxy serves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidegate::app::{self, Options, Running, Source};
use tidegate::config::{AdminSettings, Settings};

use super::support::endpoint::report;
use super::support::tls::{Authority, Pair, shake, shown};
use super::support::{Client, Down, Endpoint, H1, soon};

fn write(directory: &Path, name: &str, pair: &Pair) {
    // As a rename, so that no half of a file is ever seen; the two files still change one after the other.
    for (ending, text) in [("crt", &pair.chain), ("key", &pair.key)] {
        let new = directory.join(format!("new.{ending}"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, directory.join(format!("{name}.{ending}"))).unwrap();
    }
}

async fn start(directory: &Path, endpoint: &Endpoint) -> Running {
    let text = format!(
        "listeners:\n  https:\n    address: 127.0.0.1:0\n    tls:\n      certificates:\n        - {{cert: keys/a.crt, \
         key: keys/a.key}}\nroutes:\n  - to: web\nbackends:\n  web:\n    endpoints: [\"{}\"]\n",
        endpoint.address
    );
    let file = directory.join("tidegate.yaml");
    std::fs::write(&file, text).unwrap();
    let options = Options {
        settings: Settings {
            workers: Some(2),
            admin: AdminSettings { address: None },
            ..Settings::default()
        },
        sources: vec![Source::File(file)],
    };
    soon("the app to start", app::start(options)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_handshakes_run() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let authority = Authority::default();
    write(&keys, "a", &authority.sign(&["a.example"]));
    let endpoint = Endpoint::serve(H1, report).await;
    let running = start(directory.path(), &endpoint).await;
    let address = *running.addresses.values().next().unwrap();

    let config = authority.trusted_by().config();
    let kept = shake(&config, address, "a.example").await.unwrap();
    let mut kept = Client::over(Down::H1, kept).await;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            // Without sessions: each handshake is a full one.
            let mut config = (*config).clone();
            config.resumption = rustls::client::Resumption::disabled();
            let config = Arc::new(config);
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    shake(&config, address, "a.example")
                        .await
                        .expect("no handshake fails");
                    made.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let next = authority.sign(&["a.example"]);
        let before = made.load(Ordering::SeqCst);
        write(&keys, "a", &next);
        soon("the new certificate", async {
            let fresh = authority.trusted_by().config();
            while shown(&shake(&fresh, address, "a.example").await.unwrap()) != next.der() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert!(made.load(Ordering::SeqCst) > before);
        assert_eq!(kept.get("/").await.status, 200);
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pair_is_not_taken_and_a_mended_one_is() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let authority = Authority::default();
    let first = authority.sign(&["a.example"]);
    write(&keys, "a", &first);
    let endpoint = Endpoint::serve(H1, report).await;
    let running = start(directory.path(), &endpoint).await;
    let address = *running.addresses.values().next().unwrap();
    let get = async || {
        shown(
            &shake(&authority.trusted_by().config(), address, "a.example")
                .await
                .unwrap(),
        )
    };

    let next = authority.sign(&["a.example"]);
    std::fs::write(keys.join("a.key"), &next.key).unwrap();
    // Read again for certain, whatever the watch has seen: the answer to a reload is there before the next change.
    running.reload();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(get().await, first.der(), "the key is another's");
    std::fs::write(keys.join("a.crt"), &next.chain).unwrap();
    soon("the mended pair", async {
        while get().await != next.der() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    std::fs::remove_file(keys.join("a.crt")).unwrap();
    running.reload();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(get().await, next.der(), "the file is gone");
    running.stop().await;
}
