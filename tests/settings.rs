//! Settings of the process when its file changes: what can be applied is, what cannot is told.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use support::endpoint::saying;
use support::proxy::any_port;
use support::{Client, Down, Endpoint, H1, soon, until};
use tempfile::TempDir;
use tidegate::app::{self, Options, Running, Source};
use tidegate::config;

/// An app as `tidegate run` starts it, with its file, and an admin listener on a free port.
struct Filed {
    directory: TempDir,
    world: String,
    running: Running,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Filed {
    async fn start(endpoint: &Endpoint, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = format!(
            "listeners:\n  http: {{address: \"127.0.0.1:0\"}}\nroutes:\n  - match: {{prefix: /web}}\n    to: web\n\
             backends:\n  web: {{endpoints: [\"{}\"]}}\n",
            endpoint.address
        );
        let path = directory.path().join("tidegate.yaml");
        fs::write(&path, format!("{settings}{world}")).unwrap();
        let mut options = Options {
            settings: config::load(&path).unwrap().settings,
            sources: vec![Source::File(path)],
        };
        options.settings.admin.address = Some(any_port());
        let running = soon("the app to start", app::start(options)).await.unwrap();
        let address = running.address(any_port()).unwrap();
        let admin = running.admin.unwrap();
        Self {
            directory,
            world,
            running,
            address,
            admin,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file says this now; true once the process has read it.
    async fn put(&self, settings: &str) {
        let reloads = self.metric("tidegate_reloads_total{result=\"ok\"}").await;
        let new = self.path("new");
        fs::write(&new, format!("{settings}{}", self.world)).unwrap();
        fs::rename(new, self.path("tidegate.yaml")).unwrap();
        soon("the reload", async {
            while self.metric("tidegate_reloads_total{result=\"ok\"}").await == reloads {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}"))
            .trim()
            .parse()
            .unwrap()
    }

    /// The settings that are told as left out, once they are these.
    async fn until_left_out(&self, fields: &[&str]) {
        soon("the rejects", async {
            loop {
                let rejects = self.admin("/rejects").await.json();
                let items = rejects["items"].as_array().unwrap().clone();
                let found: Vec<&str> = items
                    .iter()
                    .map(|item| {
                        assert_eq!(item["object"], "settings");
                        item["field"].as_str().unwrap()
                    })
                    .collect();
                if found == fields {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    async fn admin(&self, path: &str) -> support::client::Answer {
        let mut request = support::client::request(http::Method::GET, path);
        let host = http::HeaderValue::from_static("localhost");
        request.headers_mut().insert("host", host);
        Client::connect(Down::H1, self.admin).await.send(request).await
    }

    async fn ask(&self, path: &str) -> support::client::Answer {
        Client::connect(Down::H1, self.address).await.get(path).await
    }

    fn lines(&self, log: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(log)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_applied_is_and_what_cannot_is_told() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let before = "workers: 1\nlog: {access: {to: ./a.log}}\n";
    let app = Filed::start(&endpoint, before).await;
    assert!(app.ask("/nowhere").await.get("proxy-status").is_some());
    until("the first line", || app.lines("a.log").len() == 1).await;
    app.until_left_out(&[]).await;

    app.put(
        "workers: 7\nadmin: {address: \"127.0.0.1:1\"}\nproxy_status_header: false\nmanifests: ./m\n\
         log: {access: {to: ./b.log, format: text}}\n",
    )
    .await;
    app.until_left_out(&["workers", "admin", "manifests"]).await;
    assert_eq!(app.metric("tidegate_settings_waiting").await, 3.0);
    assert_eq!(app.metric("tidegate_snapshot_rejects").await, 3.0);
    assert_eq!(app.ask("/nowhere").await.get("proxy-status"), None);
    until("a line in the new log", || app.lines("b.log").len() == 1).await;
    assert!(!app.lines("b.log")[0].starts_with('{'), "the new format");
    assert_eq!(
        app.lines("a.log").len(),
        1,
        "nothing more is written to the one before"
    );

    // A log that cannot be opened is told too, and the one before goes on. The rest of the file is applied.
    app.put("workers: 1\nlog: {access: {to: ./not/there.log}}\n")
        .await;
    app.until_left_out(&["log.access"]).await;
    assert_eq!(app.metric("tidegate_settings_waiting").await, 0.0);
    assert!(app.ask("/nowhere").await.get("proxy-status").is_some());
    until("the next line", || app.lines("b.log").len() == 2).await;

    // It is tried again with the next reload, though the file says what it said before.
    fs::create_dir(app.path("not")).unwrap();
    app.put("workers: 1\nlog: {access: {to: ./not/there.log}} # now\n")
        .await;
    app.until_left_out(&[]).await;
    app.ask("/web").await;
    until("a line", || app.lines("not/there.log").len() == 1).await;

    app.put("workers: 1\n").await;
    app.until_left_out(&[]).await;
    assert_eq!(app.ask("/web").await.text(), "ok");
    app.put(before).await;
    app.until_left_out(&[]).await;
    assert_eq!(app.ask("/web").await.text(), "ok");
    until("a line in the first log", || app.lines("a.log").len() == 2).await;
    assert_eq!(app.lines("not/there.log").len(), 1, "no log in between");
    soon("the end", app.running.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_takes_the_times_that_the_file_says_now() {
    let silent = Endpoint::script(|_, mut wire| async move { while wire.request().await.is_some() {} }).await;
    let app = Filed::start(&silent, "drain: {timeout: 1h}\n").await;
    let address = app.address;
    let waiting = tokio::spawn(async move {
        let mut client = Client::connect(Down::H1, address).await;
        client
            .try_send(support::client::request(http::Method::GET, "/web"))
            .await
    });
    until("the request to arrive", || silent.requests() == 1).await;
    app.put("drain: {timeout: 50ms}\n").await;
    app.until_left_out(&[]).await;
    assert!(!soon("the drain", app.running.drain()).await, "it was cut short");
    assert!(soon("the end", waiting).await.unwrap().is_err());
}
