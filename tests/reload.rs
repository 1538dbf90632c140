//! Changes of the world under traffic: they are live soon, and they cost no request, no connection and no WebSocket.

// A test that cannot go on fails; what was reached is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use support::endpoint::saying;
use support::proxy::any_port;
use support::{Client, Down, Endpoint, H1, Setup, soon, until};
use tempfile::TempDir;
use tidegate::app::{self, Options, Running, Source};
use tidegate::config::{AdminSettings, Settings};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// A configuration that sends everything to one endpoint.
fn config(endpoint: SocketAddr, more: &str) -> String {
    format!(
        "listeners:\n  http: {{address: \"127.0.0.1:0\"}}\nroutes:\n  - to: web\nbackends:\n  web: {{endpoints: [\"{endpoint}\"]}}\n{more}"
    )
}

/// An app with a file as its source.
struct Filed {
    directory: TempDir,
    running: Running,
    address: SocketAddr,
}

impl Filed {
    fn path(directory: &TempDir) -> PathBuf {
        directory.path().join("tidegate.yaml")
    }

    async fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(Self::path(&directory), text).unwrap();
        let path = Self::path(&directory);
        Self::start_with(directory, path).await
    }

    async fn start_with(directory: TempDir, path: PathBuf) -> Self {
        let options = Options {
            settings: Settings {
                workers: Some(2),
                admin: AdminSettings { address: None },
                ..Settings::default()
            },
            sources: vec![Source::File(path)],
        };
        let running = soon("the app to start", app::start(options)).await.unwrap();
        let address = running.address(any_port()).unwrap();
        Self {
            directory,
            running,
            address,
        }
    }

    /// Writes the file whole under another name and moves it there, as editors do.
    fn put(&self, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, Self::path(&self.directory)).unwrap();
    }

    async fn says(&self) -> String {
        says(self.address).await
    }

    async fn until_says(&self, text: &str) {
        soon(text, async {
            while self.says().await != text {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

async fn says(address: SocketAddr) -> String {
    Client::connect(Down::H1, address).await.get("/").await.text()
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_may_be_known_by_a_name() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let two = Endpoint::serve(H1, saying("two")).await;
    let under = |port| {
        "listeners:\n  http: {address: \"127.0.0.1:0\"}\nroutes:\n  - to: web\nbackends:\n  web: {endpoints: [\"localhost:PORT\"]}\n"
            .replace("PORT", &format!("{port}"))
    };
    let app = Filed::start(&under(one.address.port())).await;
    app.until_says("one").await;
    app.put(&under(two.address.port()));
    app.until_says("two").await;
    // Known already, so no request finds nobody there.
    app.put(
        &under(one.address.port())
            .replace("web:", "other:")
            .replace("to: web", "to: other"),
    );
    soon("the other backend", async {
        loop {
            let mut client = Client::connect(Down::H1, app.address).await;
            let answer = client.get("/").await;
            assert_eq!(answer.status, 200);
            if answer.text() == "one" {
                return;
            }
        }
    })
    .await;
    // A name that nobody has: nobody is there, and the proxy says so.
    app.put(&under(1).replace("localhost", "nobody.invalid"));
    soon("nobody", async {
        while Client::connect(Down::H1, app.address).await.get("/").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_is_live_without_being_asked() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let two = Endpoint::serve(H1, saying("two")).await;
    let app = Filed::start(&config(one.address, "")).await;
    let mut kept = Client::connect(Down::H1, app.address).await;
    assert_eq!(kept.get("/").await.text(), "one");
    app.put(&config(two.address, ""));
    app.until_says("two").await;
    assert_eq!(
        kept.get("/").await.text(),
        "two",
        "the connection from before has the new world"
    );
    // Written in place, too.
    fs::write(Filed::path(&app.directory), config(one.address, "")).unwrap();
    app.until_says("one").await;
    assert_eq!(kept.get("/").await.text(), "one");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_changes_nothing_until_it_is_mended() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let two = Endpoint::serve(H1, saying("two")).await;
    let app = Filed::start(&config(one.address, "")).await;
    let generation = app.running.live().generation();
    for bad in [
        "listeners: {",
        "",
        "routes: [{to: nobody}]\n",
        &config(two.address, "no_such_key: 1\n"),
    ] {
        app.put(bad);
        app.running.reload();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(app.says().await, "one", "{bad:?}");
        assert_eq!(app.running.live().generation(), generation, "{bad:?}");
    }
    fs::remove_file(Filed::path(&app.directory)).unwrap();
    app.running.reload();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.says().await, "one");
    app.put(&config(two.address, ""));
    app.until_says("two").await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_map_is_followed_through_its_symlinks() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let two = Endpoint::serve(H1, saying("two")).await;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    let version = |number: usize, endpoint: &Endpoint| {
        let place = root.join(format!("..v{number}"));
        fs::create_dir(&place).unwrap();
        fs::write(place.join("tidegate.yaml"), config(endpoint.address, "")).unwrap();
        let new = root.join("..data_tmp");
        symlink(format!("..v{number}"), &new).unwrap();
        fs::rename(new, root.join("..data")).unwrap();
    };
    version(1, &one);
    symlink("..data/tidegate.yaml", root.join("tidegate.yaml")).unwrap();
    let app = Filed::start_with(directory, root.join("tidegate.yaml")).await;
    assert_eq!(app.says().await, "one");
    for round in 1..=5 {
        version(2 * round, &two);
        app.until_says("two").await;
        fs::remove_dir_all(root.join(format!("..v{}", 2 * round - 1))).unwrap();
        version(2 * round + 1, &one);
        app.until_says("one").await;
        fs::remove_dir_all(root.join(format!("..v{}", 2 * round))).unwrap();
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_and_the_others_are_left_alone() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let app = Filed::start(&config(one.address, "")).await;
    let mut kept = Client::connect(Down::H1, app.address).await;
    assert_eq!(kept.get("/").await.text(), "one");
    let second = free_address();
    let both = config(one.address, "").replace(
        "routes:",
        &format!("  second: {{address: \"{second}\"}}\nroutes:"),
    );
    for _ in 0..3 {
        app.put(&both);
        soon("the second listener", async {
            while TcpStream::connect(second).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let mut there = Client::connect(Down::H1, second).await;
        assert_eq!(there.get("/").await.text(), "one");
        app.put(&config(one.address, ""));
        soon("the second listener to close", async {
            while TcpStream::connect(second).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        // Who was there already is told that there is nothing any more.
        assert_eq!(there.get("/").await.status.as_u16(), 404);
        assert_eq!(kept.get("/").await.text(), "one");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_an_error_at_the_start_and_harmless_later() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = Filed::path(&directory);
    fs::write(
        &path,
        config(one.address, "").replace("127.0.0.1:0", &address.to_string()),
    )
    .unwrap();
    let options = Options {
        settings: Settings {
            admin: AdminSettings { address: None },
            ..Settings::default()
        },
        sources: vec![Source::File(path)],
    };
    let error = app::start(options).await.err().expect("the address is taken");
    assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
    let app = Filed::start(&config(one.address, "")).await;
    app.put(&config(one.address, "").replace(
        "routes:",
        &format!("  second: {{address: \"{address}\"}}\nroutes:"),
    ));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.says().await, "one");
    // The next change tries again.
    drop(taken);
    app.running.reload();
    let other = Endpoint::serve(H1, saying("other")).await;
    app.put(&config(other.address, "").replace(
        "routes:",
        &format!("  second: {{address: \"{address}\"}}\nroutes:"),
    ));
    app.until_says("other").await;
    assert_eq!(says(address).await, "other");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_directory_is_followed() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let two = Endpoint::serve(H1, saying("two")).await;
    let directory = tempfile::tempdir().unwrap();
    let slice = |endpoint: &Endpoint| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n",
            endpoint.address.port()
        )
    };
    put(directory.path(), "slice.yaml", &slice(&one));
    put(
        directory.path(),
        "web.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\n\
         spec: {ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, namespace: default}\n\
         spec:\n  ingressClassName: tidegate\n  rules:\n    - http:\n        paths:\n          \
         - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}\n",
    );
    let options = Options {
        settings: Settings {
            workers: Some(2),
            admin: AdminSettings { address: None },
            ..Settings::default()
        },
        sources: vec![Source::Manifests(
            directory.path().to_owned(),
            tidegate::kubernetes::Settings {
                ingress_address: any_port(),
                ..tidegate::kubernetes::Settings::default()
            },
        )],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    let address = running.address(any_port()).unwrap();
    assert_eq!(says(address).await, "one");
    for (endpoint, text) in [(&two, "two"), (&one, "one")] {
        put(directory.path(), "slice.yaml", &slice(endpoint));
        soon(text, async {
            while says(address).await != text {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    running.stop().await;
}

fn put(directory: &Path, name: &str, text: &str) {
    let new = directory.join(".new");
    fs::write(&new, text).unwrap();
    fs::rename(new, directory.join(name)).unwrap();
}

/// One load at a time, or they slow each other down on a small machine until descriptors run out.
static ONE_LOAD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Requests per second. A debug build serves about a tenth of what a release build does, and client, proxy and
/// endpoints share the processors here: at 2,000 it would test the machine's queues instead of the changes.
const RATE: u32 = if cfg!(debug_assertions) { 500 } else { 2000 };

/// Requests that may be under way. What would be more is not sent (and told): a machine that stood still must not find
/// minutes of requests waiting, which no limit on descriptors allows.
const MOST_UNDER_WAY: usize = 128;

/// A steady stream of requests, each sent when its time has come whatever became of those before.
struct Load {
    going: Arc<AtomicBool>,
    started: Instant,
    sent: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    /// [`RATE`] requests per second, half of them over HTTP/2, a twentieth on connections of their own.
    fn start(address: SocketAddr) -> Self {
        let going = Arc::new(AtomicBool::new(true));
        let sent = Arc::new(AtomicUsize::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let (go, count, sink) = (Arc::clone(&going), Arc::clone(&sent), Arc::clone(&failures));
        let task = tokio::spawn(async move {
            let idle = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
            let mut requests = tokio::task::JoinSet::new();
            let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
            while go.load(Ordering::SeqCst) {
                tick.tick().await;
                while requests.try_join_next().is_some() {}
                if requests.len() >= MOST_UNDER_WAY {
                    continue;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (idle, sink) = (Arc::clone(&idle), Arc::clone(&sink));
                requests.spawn(async move {
                    let version = number % 2;
                    let kept = match number % 20 {
                        0 => None,
                        _ => idle.lock().unwrap()[version].pop(),
                    };
                    let mut client = match kept {
                        Some(client) => client,
                        None => Client::connect(Down::BOTH[version], address).await,
                    };
                    let asked = match number % 3 {
                        0 => support::client::request(http::Method::POST, "/").map(|_| support::full("body")),
                        _ => support::client::request(http::Method::GET, "/"),
                    };
                    let method = asked.method().clone();
                    match client.try_send(asked).await {
                        Ok(answer) if answer.status == 200 => {
                            if number % 20 != 0 {
                                idle.lock().unwrap()[version].push(client);
                            }
                        }
                        Ok(answer) => {
                            sink.lock()
                                .unwrap()
                                .push(format!("{method} {} {}", answer.status, answer.text()))
                        }
                        Err(error) => sink.lock().unwrap().push(format!("{method} {error:?}")),
                    }
                });
            }
            while requests.join_next().await.is_some() {}
        });
        Self {
            going,
            started: Instant::now(),
            sent,
            failures,
            task,
        }
    }

    /// Ends it: how many were sent, and what went wrong.
    async fn end(self) -> (usize, Vec<String>) {
        self.going.store(false, Ordering::SeqCst);
        let took = self.started.elapsed();
        soon("the last requests", self.task).await.unwrap();
        let failures = self.failures.lock().unwrap().clone();
        let sent = self.sent.load(Ordering::SeqCst);
        println!(
            "{sent} requests in {took:.1?}, {:.0} per second of {RATE}; {} failed",
            sent as f64 / took.as_secs_f64(),
            failures.len()
        );
        (sent, failures)
    }
}

/// Speaks on a WebSocket all the time; gives how many messages came back when told to end.
fn chat(address: SocketAddr, going: Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async("ws://chat.example/chat", stream)
            .await
            .unwrap();
        let mut spoken = 0;
        while going.load(Ordering::SeqCst) {
            let message = Message::text(spoken.to_string());
            socket.send(message.clone()).await.expect("the WebSocket is gone");
            let back = soon("an echo", socket.next()).await;
            assert_eq!(back.unwrap().expect("the WebSocket is gone"), message);
            spoken += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        spoken
    })
}

/// WebSockets that speak while the world changes.
const WEBSOCKETS: usize = 5;

/// Ends the talks; each must have gone on to the end on its first connection.
async fn all_were_kept(talks: Vec<tokio::task::JoinHandle<usize>>, going: &AtomicBool) {
    going.store(false, Ordering::SeqCst);
    let mut messages = 0;
    for talk in talks {
        let spoken = talk.await.expect("a WebSocket was dropped");
        assert!(spoken > 5, "{spoken}");
        messages += spoken;
    }
    println!("{WEBSOCKETS} of {WEBSOCKETS} WebSockets kept, {messages} messages");
}

/// Echoes messages on every connection.
async fn chat_server() -> Endpoint {
    Endpoint::script(|_, wire| async move {
        let (stream, _) = wire.into_parts();
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
            return;
        };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_of_endpoints_and_a_hundred_of_routes_cost_nothing() {
    let _alone = ONE_LOAD.lock().await;
    let mut endpoints = Vec::new();
    for _ in 0..5 {
        endpoints.push(Endpoint::serve(H1, saying("ok")).await);
    }
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let chats = chat_server().await;
    let with_chat = |rule: &mut tidegate::model::Rule| {
        rule.matches[0].path = tidegate::model::PathMatch::prefix("/chat");
        rule.backends = vec![support::proxy::share("chat", 1)];
    };
    let setup = Setup::to(&addresses)
        .backend("chat", &[chats.address], |_| {})
        .path("/chat", with_chat);
    let rules = setup.rules.clone();
    let proxy = setup.start().await;
    let load = Load::start(proxy.address);
    let going = Arc::new(AtomicBool::new(true));
    let talks: Vec<_> = (0..WEBSOCKETS)
        .map(|_| chat(proxy.address, Arc::clone(&going)))
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..1000 {
        // Any of them but none; those who go are still there, as a pod is that ends in good order.
        let mut chosen = addresses.clone();
        random.shuffle(&mut chosen);
        chosen.truncate(random.usize(1..=chosen.len()));
        proxy.set_endpoints("web", &chosen).await;
        if round % 10 == 0 {
            let mut rules = rules.clone();
            rules[0].timeouts.request = Some(Duration::from_secs(60 + round));
            proxy.set_rules(rules).await;
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let (sent, failures) = load.end().await;
    all_were_kept(talks, &going).await;
    assert_eq!(failures, Vec::<String>::new(), "of {sent}");
    assert!(sent > 1000, "{sent}");
    assert!(endpoints.iter().all(|endpoint| endpoint.requests() > 0));
    until("the connections to end", || proxy.running.connections() == 0).await;
    let lines = proxy.stop().await;
    let bad: Vec<_> = lines
        .iter()
        .filter(|line| !["answered", "upgraded"].contains(&line.outcome()))
        .collect();
    assert_eq!((lines.len(), bad.len()), (sent + WEBSOCKETS, 0), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_of_a_file_cost_nothing() {
    let _alone = ONE_LOAD.lock().await;
    let one = Endpoint::serve(H1, saying("ok")).await;
    let two = Endpoint::serve(H1, saying("ok")).await;
    let chats = chat_server().await;
    let config = |endpoint| {
        config(
            endpoint,
            &format!("  chat: {{endpoints: [\"{}\"]}}\n", chats.address),
        )
        .replace("routes:\n", "routes:\n  - match: {prefix: /chat}\n    to: chat\n")
    };
    let app = Filed::start(&config(one.address)).await;
    let load = Load::start(app.address);
    let going = Arc::new(AtomicBool::new(true));
    let talks: Vec<_> = (0..WEBSOCKETS)
        .map(|_| chat(app.address, Arc::clone(&going)))
        .collect();
    let generation = app.running.live().generation();
    let second = free_address();
    for round in 0..100 {
        let endpoint = if round % 2 == 0 { &two } else { &one };
        let mut text = config(endpoint.address);
        if round % 4 < 2 {
            text = text.replace(
                "routes:",
                &format!("  second: {{address: \"{second}\"}}\nroutes:"),
            );
        }
        if round % 10 == 9 {
            text.push_str("no_such_key: 1\n");
        }
        app.put(&text);
        app.running.reload();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let (sent, failures) = load.end().await;
    all_were_kept(talks, &going).await;
    assert_eq!(failures, Vec::<String>::new(), "of {sent}");
    assert!(sent > 1000, "{sent}");
    assert!(one.requests() > 0 && two.requests() > 0);
    assert!(
        app.running.live().generation() > generation,
        "something was taken over"
    );
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_costs_only_what_was_at_work_there() {
    let _alone = ONE_LOAD.lock().await;
    let good = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[good.address])
        .policy(|backend| {
            backend.ejection = Some(tidegate::model::Ejection::default());
            backend.retry_budget.per_second = 1000;
        })
        .start()
        .await;
    let address = proxy.address;
    let load = Load::start(address);
    for _ in 0..5 {
        // It is known before it serves and after it has gone: nobody listens at its address then.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let mortal = Endpoint::serve_on(listener, H1, saying("ok"));
        proxy.set_endpoints("web", &[good.address, there]).await;
        until("it to serve", || mortal.requests() > 20).await;
        mortal.end().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.set_endpoints("web", &[good.address]).await;
    }
    let (sent, failures) = load.end().await;
    // A POST that was at work when its endpoint died cannot be sent again.
    assert!(
        failures.iter().all(|failure| failure.starts_with("POST 502")),
        "{} of {sent}: {failures:?}",
        failures.len()
    );
    // One of three is a POST, and of two endpoints one dies.
    let at_work = 5 * MOST_UNDER_WAY / 3;
    assert!(failures.len() <= at_work, "{} of {sent}", failures.len());
    proxy.stop().await;
}
