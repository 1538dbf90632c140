//! Identities from an agent: a fake one that speaks SPIFFE's Workload API on a real socket, is replaced, falls silent, says
//! nonsense and refuses.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::app::{self, Options, Source};
use tidegate::model::tls::AgentAddress;
use tidegate::model::{Identity, Inner, MtlsMode};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::support::endpoint::report;
use super::support::proxy::source;
use super::support::tls::{Authority, Pair, shown};
use super::support::{Endpoint, H1, Proxy, soon, until};
use super::{APP, WEB, as_sidecar, identity, inbound};

#[derive(Clone, PartialEq, prost::Message)]
struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

fn der(pem: &str) -> Vec<u8> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes());
    all.flat_map(|one| one.unwrap().to_vec()).collect()
}

fn svid(id: &str, pair: &Pair, authority: &Authority) -> X509Svid {
    X509Svid {
        spiffe_id: id.to_owned(),
        x509_svid: der(&pair.chain),
        x509_svid_key: PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .unwrap()
            .secret_der()
            .to_vec(),
        bundle: der(&authority.pem),
        hint: String::new(),
    }
}

/// A message of the stream, with these identities.
fn said(svids: Vec<X509Svid>) -> Says {
    let federated_bundles = HashMap::from([("spiffe://other.org".to_owned(), vec![1, 2, 3])]);
    Says::Message(
        X509SvidResponse {
            svids,
            federated_bundles,
        }
        .encode_to_vec(),
    )
}

/// What an agent has to say.
#[derive(Clone, Debug)]
enum Says {
    /// A message.
    Message(Vec<u8>),
    /// Bytes that are no message.
    Bytes(&'static [u8]),
    /// A refusal, with which the stream ends.
    Refusal(&'static str, &'static str),
}

/// An agent on a socket. Streams say what it says now, and whatever it says later.
struct Agent {
    path: PathBuf,
    says: watch::Sender<Says>,
    asked: Arc<AtomicU64>,
    task: Option<JoinHandle<()>>,
}

impl Agent {
    /// One that is not there yet.
    fn new(path: PathBuf, says: Says) -> Self {
        Self {
            path,
            says: watch::Sender::new(says),
            asked: Arc::default(),
            task: None,
        }
    }

    /// The socket is made, as if for the first time.
    fn begin(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).unwrap();
        let (says, asked) = (self.says.clone(), Arc::clone(&self.asked));
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (says, asked) = (says.clone(), Arc::clone(&asked));
                connections.spawn(async move {
                    let answer = service_fn(|request: Request<Incoming>| {
                        asked.fetch_add(1, Ordering::SeqCst);
                        std::future::ready(Ok::<_, Infallible>(answer(&request, says.subscribe())))
                    });
                    let server = http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        }));
    }

    /// It is killed, with all its connections.
    async fn end(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(request: &Request<Incoming>, mut says: watch::Receiver<Says>) -> Response<Stream> {
    let (pieces, stream) = mpsc::channel(1);
    let mut response = Response::new(Stream(stream));
    let field = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
    assert_eq!(field("content-type"), Some(&b"application/grpc"[..]));
    assert_eq!(field("te"), Some(&b"trailers"[..]));
    assert_eq!(field("workload.spiffe.io"), Some(&b"true"[..]));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    let first = says.borrow_and_update().clone();
    if let Says::Refusal(code, message) = first {
        // With nothing before it the status is in the head (gRPC, "Trailers-Only").
        headers.extend(status(code, message));
        return response;
    }
    tokio::spawn(async move {
        let mut next = first;
        loop {
            let (frame, is_last) = match next {
                Says::Message(message) => {
                    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                    (Frame::data([&[0][..], &length, &message].concat().into()), false)
                }
                Says::Bytes(bytes) => (Frame::data(Bytes::from_static(bytes)), false),
                Says::Refusal(code, message) => (Frame::trailers(status(code, message)), true),
            };
            if pieces.send(frame).await.is_err() || is_last || says.changed().await.is_err() {
                return;
            }
            next = says.borrow_and_update().clone();
        }
    });
    response
}

fn status(code: &'static str, message: &'static str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_static(code));
    fields.insert("grpc-message", HeaderValue::from_static(message));
    fields
}

/// A body whose frames come when they come.
struct Stream(mpsc::Receiver<Frame<Bytes>>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// The sidecar of an app that asks an agent who it is.
async fn start(endpoint: &Endpoint, spare: &Arc<Identity>, agent: &Agent) -> Proxy {
    let mut setup = inbound(endpoint, spare, MtlsMode::Strict, &["/*"]);
    setup.identity = None;
    let options = Options {
        settings: setup.settings.clone(),
        sources: vec![
            Source::Agent(AgentAddress::Unix(agent.path.clone())),
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

/// Whether the process is ready as far as its identity goes, and what is said of that.
fn gate(proxy: &Proxy) -> (bool, String) {
    let gates = proxy.running.gates().list();
    let gate = gates.into_iter().find(|gate| gate.name == "identity").unwrap();
    (gate.open, gate.reason)
}

/// Waits until a sidecar that connects is shown this certificate.
async fn shows(proxy: &Proxy, client: &Identity, pair: &Pair) {
    soon("the identity", async {
        loop {
            let shaken = as_sidecar(client, Inner::Http1, proxy).await;
            if shaken.is_ok_and(|stream| shown(&stream) == pair.der()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_who_we_are_and_says_it_anew() {
    let authority = Authority::default();
    let web = identity(&authority, WEB);
    let directory = tempfile::tempdir().unwrap();
    let none = Says::Refusal("7", "no identity issued");
    let mut agent = Agent::new(directory.path().join("agent.sock"), none);
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = start(&endpoint, &web, &agent).await;

    // It is not there, and then it knows of nobody.
    until("the absence to be told", || {
        gate(&proxy).1.contains("cannot be reached")
    })
    .await;
    assert!(!gate(&proxy).0);
    agent.begin();
    until("the refusal", || {
        gate(&proxy).1.contains("PermissionDenied: no identity issued")
    })
    .await;
    assert!(!gate(&proxy).0 && !proxy.running.gates().ready());
    as_sidecar(&web, Inner::Http1, &proxy).await.unwrap_err();

    // Of several the first is who we are.
    let pairs: Vec<Pair> = (0..5).map(|_| authority.sign(&[APP])).collect();
    let other = svid(WEB, &authority.sign(&[WEB]), &authority);
    agent
        .says
        .send_replace(said(vec![svid(APP, &pairs[0], &authority), other]));
    shows(&proxy, &web, &pairs[0]).await;
    until("readiness", || gate(&proxy) == (true, String::new())).await;
    let ends = proxy.metric("tidegate_identity_expiry_timestamp_seconds").await;
    assert!(ends > 1.7e9, "{ends}");

    // Replaced on the same stream, and what cannot be used is told and not taken.
    let streams = agent.asked();
    agent
        .says
        .send_replace(said(vec![svid(APP, &pairs[1], &authority)]));
    shows(&proxy, &web, &pairs[1]).await;
    let mut mixed = svid(APP, &pairs[2], &authority);
    mixed.x509_svid_key = svid(APP, &pairs[3], &authority).x509_svid_key;
    let mut cut = svid(APP, &pairs[2], &authority);
    cut.bundle.pop();
    for (bad, told) in [
        (said(vec![]), "there is no identity in it"),
        (said(vec![X509Svid::default()]), "there is no name in it"),
        (said(vec![mixed]), "the private key does not belong"),
        (said(vec![cut]), "the trust bundle of"),
        (
            said(vec![svid(WEB, &pairs[2], &authority)]),
            "it says spiffe://example.org/ns/shop/sa/app",
        ),
        (Says::Message(vec![0x0a, 200, 1, 2]), "ends within a field"),
    ] {
        agent.says.send_replace(bad);
        until(told, || gate(&proxy).1.contains(told)).await;
        assert!(gate(&proxy).0, "who we are stays");
        shows(&proxy, &web, &pairs[1]).await;
    }
    agent
        .says
        .send_replace(said(vec![svid(APP, &pairs[2], &authority)]));
    shows(&proxy, &web, &pairs[2]).await;
    assert_eq!(agent.asked(), streams, "all of it on one stream");

    // What is no message ends the stream, and so does a refusal; it is asked anew.
    for (bad, told) in [
        (Says::Bytes(b"\x01\x00\x00\x00\x00"), "it is compressed"),
        (Says::Bytes(b"\x00\xff\xff\xff\xff"), "longer than 4 MiB"),
        (Says::Refusal("14", "shutting down"), "Unavailable: shutting down"),
    ] {
        let streams = agent.asked();
        agent.says.send_replace(bad);
        until(told, || gate(&proxy).1.contains(told)).await;
        until("another try", || agent.asked() > streams).await;
        assert!(gate(&proxy).0);
        shows(&proxy, &web, &pairs[2]).await;
    }

    // It is restarted: while it is away all is as it was.
    agent.end().await;
    std::fs::remove_file(&agent.path).unwrap();
    until("its absence", || gate(&proxy).1.contains("cannot be reached")).await;
    shows(&proxy, &web, &pairs[2]).await;
    assert!(proxy.running.gates().ready());
    agent
        .says
        .send_replace(said(vec![svid(APP, &pairs[4], &authority)]));
    agent.begin();
    shows(&proxy, &web, &pairs[4]).await;
    until("health", || gate(&proxy) == (true, String::new())).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_agent_gives_no_identity() {
    let authority = Authority::default();
    let web = identity(&authority, WEB);
    let endpoint = Endpoint::serve(H1, report).await;
    let directory = tempfile::tempdir().unwrap();
    // A server of another protocol, and a file where a socket should be.
    let path = directory.path().join("http1");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (path, told) in [(path, "the connection is lost"), (file, "cannot be reached")] {
        let agent = Agent::new(path, Says::Refusal("0", ""));
        let proxy = start(&endpoint, &web, &agent).await;
        until(told, || gate(&proxy).1.contains(told)).await;
        assert!(!gate(&proxy).0);
        proxy.stop().await;
    }
    server.abort();
}
