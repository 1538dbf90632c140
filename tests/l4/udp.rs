//! Datagrams, by session.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::support::proxy::share;
use super::support::{Proxy, Setup, lines_of, soon, until};
use tidegate::app::{self, Options, Source};
use tidegate::model::{Balance, ListenerKind};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A world whose one listener relays datagrams to `web`.
fn relay(endpoints: &[SocketAddr]) -> Setup {
    let mut setup = Setup::to(endpoints);
    setup.listener.kind = ListenerKind::Udp;
    setup
}

async fn start(setup: Setup) -> Proxy {
    let world = setup.world();
    let options = Options {
        settings: setup.settings.clone(),
        sources: vec![Source::Given(super::support::proxy::source(), Box::new(world))],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    Proxy {
        address: running.datagrams[&setup.listener.address],
        running,
        directory: setup.directory,
    }
}

/// An endpoint of datagrams; it ends when dropped.
struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers each datagram with its name and the datagram, so many times.
async fn server(name: &'static str, times: usize) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut space = vec![0; 65_535];
        while let Ok((length, from)) = socket.recv_from(&mut space).await {
            let answer = [name.as_bytes(), &space[..length]].concat();
            for _ in 0..times {
                let _ = socket.send_to(&answer, from).await;
            }
        }
    });
    Server { address, task }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.local_addr().unwrap()
}

async fn client(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(proxy.address).await.unwrap();
    socket
}

/// The answer to a datagram. A datagram may be lost where sockets are full; on loopback, with one under way, none is.
async fn ask(socket: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    socket.send(datagram).await.unwrap();
    let mut space = vec![0; 65_535];
    let length = soon("an answer", socket.recv(&mut space)).await.unwrap();
    space.truncate(length);
    space
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_datagrams_go_to_one_endpoint_and_back() {
    let (one, other) = (server("1", 1).await, server("2", 1).await);
    let proxy = start(relay(&[one.address, other.address]).limits(|limits| {
        limits.relay_idle = Some(Duration::from_millis(200));
    }))
    .await;
    let mut met = BTreeSet::new();
    for _ in 0..20 {
        let client = client(&proxy).await;
        let answers = [
            ask(&client, b"a").await,
            ask(&client, b"bb").await,
            ask(&client, b"").await,
        ];
        let name = answers[0][0];
        assert_eq!(answers, [vec![name, b'a'], vec![name, b'b', b'b'], vec![name]]);
        met.insert(name);
    }
    assert_eq!(met.len(), 2, "both are used");
    let big = vec![7; 20_000];
    assert_eq!(ask(&client(&proxy).await, &big).await.len(), big.len() + 1);
    let lines = lines_of(proxy, 21).await;
    assert!(
        lines
            .iter()
            .all(|line| line.outcome() == "relay_idle" && line.0["protocol"] == "udp")
    );
    let small = lines.iter().find(|line| line.0["request_bytes"] == 3).unwrap();
    assert_eq!(small.0["response_bytes"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_responses() {
    let endpoint = server("x", 2).await;
    let proxy = start(relay(&[endpoint.address]).limits(|limits| limits.responses = Some(2))).await;
    let client = client(&proxy).await;
    ask(&client, b"a").await;
    soon("the second", client.recv(&mut [0; 10])).await.unwrap();
    until("the session to end", || proxy.running.connections() == 0).await;
    ask(&client, b"b").await;
    let lines = lines_of(proxy, 2).await;
    assert!(lines.iter().all(|line| line.outcome() == "relayed"), "{lines:?}");
    assert!(lines[0].0["head_ms"].is_number());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_datagram_goes_to_another_endpoint() {
    let good = server("good", 1).await;
    let addresses = [nobody().await, nobody().await, good.address];
    let proxy = start(
        relay(&addresses)
            .policy(|backend| backend.balance = Balance::RoundRobin)
            .limits(|limits| limits.responses = Some(1)),
    )
    .await;
    for _ in 0..6 {
        assert_eq!(ask(&client(&proxy).await, b"!").await, b"good!");
    }
    let lines = lines_of(proxy, 6).await;
    assert!(lines.iter().all(|line| line.outcome() == "relayed"));
    assert!(lines.iter().any(|line| line.attempts() > 1));

    let proxy = start(relay(&[nobody().await]).rule(|rule| rule.retry.attempts = 1)).await;
    client(&proxy).await.send(b"x").await.unwrap();
    until("the session to be logged", || proxy.log_has("connect_refused")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_bounded() {
    let endpoint = server("x", 1).await;
    let proxy = start(
        relay(&[endpoint.address])
            .limits(|limits| {
                limits.max_connections = 2;
                limits.relay_idle = Some(Duration::from_secs(30));
            })
            .with_admin(),
    )
    .await;
    let (one, two) = (client(&proxy).await, client(&proxy).await);
    ask(&one, b"a").await;
    ask(&two, b"a").await;
    let three = client(&proxy).await;
    three.send(b"a").await.unwrap();
    // Those who are known are served on.
    ask(&one, b"b").await;
    let refused = format!(
        "tidegate_connections_refused_total{{listener=\"udp {}\"}}",
        proxy.address
    );
    proxy.until_metric(&refused, 1.0).await;
    assert_eq!(proxy.running.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_sessions_end_and_takes_no_new_ones() {
    let endpoint = server("x", 1).await;
    let proxy = start(relay(&[endpoint.address]).rule(|rule| rule.backends = vec![share("web", 1)])).await;
    let known = client(&proxy).await;
    ask(&known, b"a").await;
    let (ended, lines) = proxy.drain().await;
    assert!(ended, "silence ends a session early in a drain");
    assert_eq!((lines.len(), lines[0].outcome()), (1, "relay_idle"));
}
