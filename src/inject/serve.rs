//! The listener that the API server asks: HTTPS, few connections, each request under one deadline.
//!
//! HTTP/1 alone: over one connection of HTTP/2 an API server would ask the same replica for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::patch::{Decision, Template, decide, is_settled};
use super::pod::{Namespace, Pod};
use super::review::{self, Question};
use crate::kubernetes::ask;
use crate::model::tls::{TlsVersions, provider};
use crate::telemetry::metrics::{Injection, Metrics};

/// Where the API server asks.
pub const PATH: &str = "/inject";

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// Bytes of a question: what an API server takes as a request, and so the largest Pod.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a request's head, and for the silence before it.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Time for a request from its head to its answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// A connection takes no new request after this, so that replicas that come get their share.
const LIFETIME: Duration = Duration::from_secs(300);
/// Time for answers to end when a connection or the process does.
const FAREWELL: Duration = Duration::from_secs(6);
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What questions are answered with.
pub struct Desk {
    /// Where namespaces are asked for.
    pub client: Client,
    /// What is the same for all Pods.
    pub template: Template,
    /// Where answers are counted.
    pub metrics: Arc<Metrics>,
}

/// Shows the certificate that there is at the moment.
#[derive(Debug)]
struct Shown(watch::Receiver<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

/// TLS with the certificate that there is at the moment.
///
/// # Errors
/// The library's.
pub fn tls(shown: watch::Receiver<Option<Arc<CertifiedKey>>>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(TlsVersions::default().supported())?;
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(shown)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session would outlive its certificate.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Answers until told to end; then no new connection is taken, and what is under way gets its answer.
pub async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    desk: Arc<Desk>,
    mut ended: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            _ = ended.wait_for(|ended| *ended) => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, desk, ended) = (acceptor.clone(), Arc::clone(&desk), ended.clone());
                connections.spawn(async move {
                    connection(stream, acceptor, desk, ended).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the injector cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(FAREWELL, all).await;
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    desk: Arc<Desk>,
    mut ended: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake with the injector failed");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, std::convert::Infallible>(desk.reply(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // How a connection ends is of no interest here.
        _ = served.as_mut() => return,
        () = tokio::time::sleep(LIFETIME) => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, served).await;
}

/// Why a question gets no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("there is nothing at this path; questions go to {PATH}")]
    Path,
    #[error("questions come as POST")]
    Method,
    #[error("it is larger than {MAX_BODY} bytes, or was cut short")]
    Body,
    #[error(transparent)]
    Question(#[from] review::BadQuestion),
    #[error("the namespace {0} cannot be read: {1}")]
    Namespace(String, kube::Error),
    #[error("it took longer than {} s", DEADLINE.as_secs())]
    Late,
}

impl Failed {
    fn status(&self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Question(_) => StatusCode::BAD_REQUEST,
            Self::Namespace(..) => StatusCode::BAD_GATEWAY,
            Self::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl Desk {
    async fn reply(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answered = timeout(DEADLINE, self.answer(request)).await;
        let (status, kind, body) = match answered.unwrap_or(Err(Failed::Late)) {
            Ok(body) => (StatusCode::OK, "application/json", body),
            Err(failed) => {
                if !matches!(failed, Failed::Path | Failed::Method) {
                    self.metrics.injection(Injection::Failed);
                    tracing::warn!("a question of the API server was not answered: {failed}");
                }
                (
                    failed.status(),
                    "text/plain; charset=utf-8",
                    format!("{failed}\n").into_bytes(),
                )
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let kind = http::HeaderValue::from_static(kind);
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Vec<u8>, Failed> {
        if request.uri().path() != PATH {
            return Err(Failed::Path);
        }
        if request.method() != Method::POST {
            return Err(Failed::Method);
        }
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|_| Failed::Body)?.to_bytes();
        match review::read(&body)? {
            Question::Other { uid } => Ok(review::answer(&uid, None)),
            Question::Pod { uid, namespace, pod } => {
                let decision = self.decide(&namespace, &pod).await?;
                self.metrics.injection(decision.injection());
                // Who made it may be a controller, which keeps warnings to itself.
                if let Decision::Leave(why) = &decision {
                    for warning in why.warnings() {
                        tracing::info!(namespace, pod = ?pod.metadata.name(), "{warning}");
                    }
                }
                Ok(review::answer(&uid, Some(&decision)))
            }
        }
    }

    async fn decide(&self, namespace: &str, pod: &Pod) -> Result<Decision, Failed> {
        if let Some(why) = is_settled(pod, namespace, &self.template) {
            return Ok(Decision::Leave(why));
        }
        let failed = |error| Failed::Namespace(namespace.to_owned(), error);
        // Not remembered: a label that was set a moment ago counts.
        let path = format!("/api/v1/namespaces/{namespace}");
        let question = ask("GET", &path, None).map_err(failed)?;
        let of: Namespace = self.client.request(question).await.map_err(failed)?;
        Ok(decide(pod, namespace, &of, &self.template))
    }
}
