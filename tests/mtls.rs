//! mTLS between sidecars: two of them with an app behind one, clients that are not what they should be, and identities that
//! are replaced.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "mtls/agent.rs"]
mod agent;
#[path = "mtls/probing.rs"]
mod probing;
#[path = "mtls/replaced.rs"]
mod replaced;
mod support;

use std::sync::Arc;

use http::Method;
use support::client::request;
use support::endpoint::{report, reported};
use support::tls::{Authority, Pair, server, shake};
use support::{Client, Down, Endpoint, H1, H2C, Proxy, Setup, lines_of, soon};
use tidegate::model::{Identity, InboundMtls, Inner, ListenerKind, MtlsMode, PeerName, Peers, UpstreamTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";
const APP: &str = "spiffe://example.org/ns/shop/sa/app";
const FIELD: &str = "x-forwarded-client-cert";

/// An identity that an authority has signed and believes in.
fn identity(authority: &Authority, id: &str) -> Arc<Identity> {
    of_pair(authority, &authority.sign(&[id]))
}

fn of_pair(authority: &Authority, pair: &Pair) -> Arc<Identity> {
    Arc::new(Identity::new(pair.certificate(), authority.bundle()).unwrap())
}

fn peers(names: &[&str]) -> Peers {
    Peers(names.iter().map(|name| PeerName::parse(name).unwrap()).collect())
}

/// The sidecar of an app: it asks those who connect.
fn inbound(app: &Endpoint, identity: &Arc<Identity>, mode: MtlsMode, allow: &[&str]) -> Setup {
    let mut setup = Setup::to(&[app.address]).with_admin();
    setup.identity = Some(Arc::clone(identity));
    setup.limits(|limits| {
        limits.mtls = Some(InboundMtls {
            mode,
            peers: peers(allow),
            plain_ports: Vec::new(),
        });
    })
}

/// The sidecar of a client: it goes by mTLS to another sidecar.
fn outbound(to: &Proxy, identity: Option<&Arc<Identity>>, expected: &[&str]) -> Setup {
    let mut setup = Setup::to(&[to.address]).policy(|backend| backend.mtls = Some(peers(expected)));
    setup.identity = identity.cloned();
    setup
}

/// What connections came, as the metric has it.
async fn came(proxy: &Proxy, how: &str) -> f64 {
    let address = proxy.address;
    let name = format!("tidegate_mtls_connections_total{{listener=\"{address}\",came=\"{how}\"}}");
    let text = proxy.admin("/metrics").await.text();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_speak_through_two_sidecars_as_if_there_were_none() {
    let authority = Authority::default();
    let (web, app) = (identity(&authority, WEB), identity(&authority, APP));
    for protocol in [H1, H2C] {
        let endpoint = Endpoint::serve(protocol, report).await;
        let there = inbound(&endpoint, &app, MtlsMode::Strict, &["/ns/shop/*"]);
        let there = there.speaking(protocol).start().await;
        let here = outbound(&there, Some(&web), &[APP])
            .speaking(protocol)
            .start()
            .await;
        for down in Down::BOTH {
            let mut client = here.client(down).await;
            for _ in 0..3 {
                let big = "x".repeat(300_000);
                let mut asked = request(Method::POST, "/a").map(|_| support::full(big.clone()));
                let forged = "Hash=00;URI=spiffe://example.org/ns/bank/sa/root";
                asked.headers_mut().insert(FIELD, forged.try_into().unwrap());
                let seen = client.send(asked).await.json();
                assert!(seen["body"] == *big);
                assert_eq!(
                    reported(&seen, "x-forwarded-proto"),
                    ["http"],
                    "as the client has it"
                );
                let told = reported(&seen, FIELD);
                assert_eq!(told.len(), 1, "{told:?}");
                assert!(told[0].ends_with(&format!("URI={WEB}")), "{told:?}");
            }
        }
        // Requests share connections as they would in clear text.
        assert!(came(&there, "mtls").await <= 2.0);
        assert_eq!(came(&there, "plain").await, 0.0);
        for line in here.stop().await {
            assert_eq!((line.outcome(), line.0.get("identity")), ("answered", None));
        }
        for line in lines_of(there, 6).await {
            assert_eq!((line.outcome(), &line.0["identity"]), ("answered", &WEB.into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_nobody_knows_go_through_two_sidecars() {
    let authority = Authority::default();
    let (web, app) = (identity(&authority, WEB), identity(&authority, APP));
    // A server that speaks first, and then says everything back.
    let endpoint = Endpoint::script(|_, mut wire| async move {
        wire.send("hello\n").await;
        while wire.fill().await.is_ok() {
            let bytes = wire.take_all();
            wire.send(bytes).await;
        }
        wire.finish().await;
    })
    .await;
    let mut there = inbound(&endpoint, &app, MtlsMode::Strict, &["/*"]);
    there.listener.kind = ListenerKind::Tcp;
    let there = there.start().await;
    let mut here = outbound(&there, Some(&web), &["/*"]);
    here.listener.kind = ListenerKind::Tcp;
    let here = here.start().await;
    let mut wire = plain(&here).await;
    let sent = support::pattern(300_000);
    let (mut read, mut write) = tokio::io::split(&mut wire);
    let mut got = vec![0; 6 + sent.len()];
    let (read, written) = soon("the echo", async {
        tokio::join!(read.read_exact(&mut got), write.write_all(&sent))
    })
    .await;
    read.unwrap();
    written.unwrap();
    assert!(got.starts_with(b"hello\n") && got[6..] == sent);
    drop(wire);
    let lines = lines_of(there, 1).await;
    let line = &lines[0].0;
    assert_eq!(
        (lines[0].outcome(), &line["protocol"]),
        ("relayed", &"mtls".into())
    );
    assert_eq!(line["identity"], WEB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permissive_listener_takes_what_came_before() {
    let authority = Authority::default();
    let app = identity(&authority, APP);
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = inbound(&endpoint, &app, MtlsMode::Permissive, &["/*"])
        .start()
        .await;
    for down in Down::BOTH {
        let mut asked = request(Method::GET, "/");
        asked
            .headers_mut()
            .insert(FIELD, "URI=forged".try_into().unwrap());
        let seen = proxy.client(down).await.send(asked).await.json();
        assert_eq!(reported(&seen, FIELD), [""; 0], "nobody is known");
    }
    assert_eq!(came(&proxy, "plain").await, 2.0);
    let here = outbound(&proxy, Some(&identity(&authority, WEB)), &[APP])
        .start()
        .await;
    assert_eq!(here.get("/").await.status, 200);
    assert_eq!(came(&proxy, "mtls").await, 1.0);

    // TLS of the app's own is the app's, with whatever names it asks for.
    let pair = authority.sign(&["app.example"]);
    let own = Endpoint::serve_tls(server(&pair, &["h2", "http/1.1"], None), report).await;
    let mut setup = inbound(&own, &app, MtlsMode::Permissive, &["/*"]);
    setup.listener.kind = ListenerKind::Tcp;
    let proxy = setup.start().await;
    for alpn in [&["http/1.1"][..], &["istio", "http/1.1"], &[]] {
        let config = authority.trusted_by().speaking(alpn).config();
        let stream = shake(&config, proxy.address, "app.example").await.unwrap();
        let answer = Client::over(Down::H1, stream).await.get("/").await;
        assert_eq!(answer.status, 200);
    }
    assert!(own.lines().iter().all(|line| line.starts_with("h1 app.example")));
    assert_eq!(came(&proxy, "plain").await, 3.0);
    // Half of a hello, and what only looks like one, reach the app too.
    let echo = Endpoint::script(|_, mut wire| async move {
        while wire.fill().await.is_ok() {
            let bytes = wire.take_all();
            wire.send(bytes).await;
        }
    })
    .await;
    let mut setup = inbound(&echo, &app, MtlsMode::Permissive, &["/*"]).limits(|limits| {
        limits.handshake_deadline = std::time::Duration::from_millis(50);
    });
    setup.listener.kind = ListenerKind::Tcp;
    let proxy = setup.start().await;
    for said in [&[22, 3, 1, 2, 0][..], &[22, 3, 1, 0, 4, 99, 0, 0, 0], &[22], b"x"] {
        let mut wire = plain(&proxy).await;
        wire.write_all(said).await.unwrap();
        let mut got = vec![0; said.len()];
        soon("the echo", wire.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_of_a_permissive_listener_hears_its_server() {
    let app = identity(&Authority::default(), APP);
    let endpoint = Endpoint::script(|_, mut wire| async move {
        wire.send("hello\n").await;
        wire.finish().await;
    })
    .await;
    let mut setup = inbound(&endpoint, &app, MtlsMode::Permissive, &["/*"]);
    setup.listener.kind = ListenerKind::Tcp;
    let proxy = setup
        .limits(|limits| limits.detect = std::time::Duration::from_millis(1))
        .start()
        .await;
    let mut got = String::new();
    soon("the banner", plain(&proxy).await.read_to_string(&mut got))
        .await
        .unwrap();
    assert_eq!(got, "hello\n");
    assert_eq!(came(&proxy, "plain").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_probes_are_as_without_mtls() {
    let app = identity(&Authority::default(), APP);
    let endpoint = Endpoint::serve(H1, report).await;
    // The port has to be known before.
    let free = support::endpoint::Refusing::new();
    let address = free.address;
    drop(free);
    let mut setup = inbound(&endpoint, &app, MtlsMode::Strict, &["/*"]).limits(|limits| {
        limits.mtls.as_mut().unwrap().plain_ports = vec![address.port()];
    });
    setup.listener.address = address;
    let proxy = setup.start().await;
    assert_eq!(proxy.get("/").await.status, 200);
    let name = format!("tidegate_mtls_connections_total{{listener=\"{address}\",came=\"not_asked\"}}");
    assert_eq!(proxy.metric(&name).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_go_by_mtls_goes_no_other_way() {
    let (authority, strangers) = (Authority::default(), Authority::new("strangers"));
    let (web, app) = (identity(&authority, WEB), identity(&authority, APP));
    let endpoint = Endpoint::serve(H1, report).await;
    let there = inbound(&endpoint, &app, MtlsMode::Strict, &["/*"]).start().await;
    for (identity, expected, status, outcome) in [
        (None, &["/*"][..], 503, "no_identity"),
        (Some(&web), &["/ns/bank/*"], 502, "connect_untrusted"),
        (Some(&web), &[], 502, "connect_untrusted"),
        (
            Some(&identity(&strangers, WEB)),
            &["/*"],
            502,
            "connect_untrusted",
        ),
    ] {
        let setup = outbound(&there, identity, expected).rule(|rule| rule.retry.attempts = 1);
        let here = start_with_rejects(setup, usize::from(identity.is_none())).await;
        assert_eq!(here.get("/").await.status, status, "{outcome}");
        assert_eq!(lines_of(here, 1).await[0].outcome(), outcome);
    }
    // An endpoint without a sidecar gets a ClientHello, and nothing in clear text; one with TLS of its own has no name for it.
    let pair = authority.sign(&[APP]);
    let secured = Endpoint::serve_tls(server(&pair, &[], None), report).await;
    for (to, requests) in [(&endpoint, 0), (&secured, 0)] {
        let mut setup = Setup::to(&[to.address])
            .policy(|backend| backend.mtls = Some(Peers::default()))
            .rule(|rule| rule.retry.attempts = 1);
        setup.identity = Some(Arc::clone(&web));
        let here = setup.start().await;
        assert_eq!(here.get("/").await.status, 502);
        assert_eq!(lines_of(here, 1).await[0].outcome(), "connect_tls");
        assert_eq!(to.requests(), requests);
    }
}

/// Starts a setup of which so much is left out.
async fn start_with_rejects(setup: Setup, count: usize) -> Proxy {
    use tidegate::app::{self, Options, Source};
    let options = Options {
        settings: setup.settings.clone(),
        sources: vec![Source::Given(support::proxy::source(), Box::new(setup.world()))],
    };
    let running = soon("the app to start", app::start(options)).await.unwrap();
    let rejects: Vec<_> = running.rejects.iter().map(ToString::to_string).collect();
    assert_eq!(rejects.len(), count, "{rejects:?}");
    assert!(
        rejects
            .iter()
            .all(|reject| reject.contains("mTLS needs an identity")),
        "{rejects:?}"
    );
    Proxy {
        address: running.address(setup.listener.address).unwrap(),
        running,
        directory: setup.directory,
    }
}

/// A connection in clear text.
async fn plain(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address).await.unwrap()
}

/// A handshake as a sidecar makes it, for who we are.
async fn as_sidecar(
    identity: &Identity,
    inner: Inner,
    proxy: &Proxy,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tls = UpstreamTls::between_sidecars(identity, &Peers::default()).unwrap();
    let config = match inner {
        Inner::Http1 => tls.config(H1),
        Inner::Http2 => tls.config(H2C),
        Inner::Opaque => tls.opaque(),
    };
    shake(config, proxy.address, "peer.invalid").await
}
