//! Who we are, out of the mouth of an agent on this host: the client of SPIFFE's Workload API (`FetchX509SVID`).
//!
//! One call whose answer is a stream: the agent says at once who we are, and again whenever that or the trust bundle is
//! another, each time all of it (Workload API §4.3). When the stream ends, for whatever reason, it is asked anew, after pauses that
//! grow up to half a minute. What was said last is believed until then: an agent is restarted more often than a workload loses its
//! identity, and an identity has a short life of its own. So it is when the agent says that there is none for us, too; that is what
//! one says that has just begun (Workload Endpoint §6).
//!
//! gRPC is a POST over HTTP/2 whose bodies have a length before each message, and a status at the end. That and the reading of
//! one message (`agent/message.rs`) is all that is needed of it.

mod message;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::message::{MessageError, Messages, default_svid};
use crate::model::tls::{AgentAddress, Origin, SpiffeId, TrustBundle, certificate};
use crate::model::{Certificate, Identity};

/// The call. The service has no package.
const CALL: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";

/// A message without fields, uncompressed: the request.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// For a connection, and then for the agent's first words, which come at once (Workload API §4.3).
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that an agent may say about a refusal, as they are shown.
const MAX_WORDS: usize = 500;

/// Why an agent is not heard, or not any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// Its socket cannot be reached.
    #[error("it cannot be reached: {0}")]
    Away(io::Error),
    /// The connection is lost, or what is spoken on it is not HTTP/2.
    #[error("the connection is lost: {0}")]
    Lost(hyper::Error),
    /// It says nothing.
    #[error("it has said nothing within 30 s")]
    Silent,
    /// It is no agent.
    #[error("it is no agent: {0}")]
    NotAnAgent(String),
    /// It refuses, with a status of gRPC.
    #[error("it refuses: {0}")]
    Refused(String),
    /// It has ended the stream.
    #[error("it has ended the stream")]
    Ended,
    /// What it says is no message.
    #[error("what it says cannot be read: {0}")]
    Garbled(#[from] MessageError),
}

/// An agent that is listened to.
pub(super) struct Stream {
    agent: AgentAddress,
    body: Incoming,
    messages: Messages,
    has_spoken: bool,
    driver: JoinHandle<Result<(), hyper::Error>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Stream {
    /// Asks an agent.
    pub(super) async fn open(agent: &AgentAddress) -> Result<Self, AgentError> {
        timeout(PATIENCE, Self::ask(agent))
            .await
            .map_err(|_elapsed| AgentError::Silent)?
    }

    async fn ask(agent: &AgentAddress) -> Result<Self, AgentError> {
        match agent {
            AgentAddress::Unix(path) => Self::over(agent, connect(path).await).await,
            AgentAddress::Tcp(address) => Self::over(agent, TcpStream::connect(address).await).await,
        }
    }

    async fn over<S>(agent: &AgentAddress, stream: io::Result<S>) -> Result<Self, AgentError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream.map_err(AgentError::Away)?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .map_err(AgentError::Lost)?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request()).await;
        let (head, body) = answer
            .inspect_err(|_| driver.abort())
            .map_err(AgentError::Lost)?
            .into_parts();
        let stream = Self {
            agent: agent.clone(),
            body,
            messages: Messages::default(),
            has_spoken: false,
            driver,
        };
        check(&Response::from_parts(head, ()))?;
        Ok(stream)
    }

    /// What the agent says next: who we are, or why that cannot be used. Waits for as long as it takes.
    pub(super) async fn next(&mut self) -> Result<Result<Identity, String>, AgentError> {
        let message = if self.has_spoken {
            self.message().await?
        } else {
            timeout(PATIENCE, self.message())
                .await
                .map_err(|_elapsed| AgentError::Silent)??
        };
        self.has_spoken = true;
        Ok(identity(&self.agent, &message, SystemTime::now()))
    }

    async fn message(&mut self) -> Result<Bytes, AgentError> {
        loop {
            if let Some(message) = self.messages.next()? {
                return Ok(message);
            }
            let frame = self.body.frame().await.ok_or(AgentError::Ended)?;
            let frame = frame.map_err(AgentError::Lost)?;
            match frame.into_data() {
                Ok(data) => self.messages.push(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Err(refusal(&trailers).unwrap_or(AgentError::Ended));
                }
            }
        }
    }
}

/// The path is looked up as it is written, so that a socket that an agent makes anew is found.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await;
    stream.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn request() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(EMPTY_MESSAGE)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(CALL);
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    // Nobody who makes another program send requests sends this (Workload Endpoint §3).
    headers.insert(
        HeaderName::from_static("workload.spiffe.io"),
        HeaderValue::from_static("true"),
    );
    request
}

/// Whether an answer's head is that of a stream.
fn check(head: &Response<()>) -> Result<(), AgentError> {
    if let Some(refused) = refusal(head.headers()) {
        return Err(refused);
    }
    let content_type = head.headers().get(CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    match (head.status().as_u16(), is_grpc) {
        (200, true) => Ok(()),
        (200, false) => Err(AgentError::NotAnAgent("its answer is not gRPC".to_owned())),
        (status, _) => Err(AgentError::NotAnAgent(format!("it answers with {status}"))),
    }
}

/// What a status of gRPC says; none where there is none, or all is well.
fn refusal(fields: &HeaderMap) -> Option<AgentError> {
    let code = fields.get("grpc-status")?.to_str().unwrap_or("?");
    let name = match code {
        "0" => return None,
        "3" => "InvalidArgument",
        "7" => "PermissionDenied",
        "12" => "Unimplemented",
        "14" => "Unavailable",
        other => other,
    };
    let said = fields.get("grpc-message").map(HeaderValue::as_bytes);
    let said = String::from_utf8_lossy(said.unwrap_or_default());
    let said: String = said.chars().take(MAX_WORDS).collect();
    Some(AgentError::Refused(match said.is_empty() {
        true => name.to_owned(),
        false => format!("{name}: {said}"),
    }))
}

/// The identity that a message gives, or why it gives none.
fn identity(agent: &AgentAddress, message: &[u8], now: SystemTime) -> Result<Identity, String> {
    let svid = default_svid(message).map_err(|error| error.to_string())?;
    let blame = |what: &str, error: &dyn std::fmt::Display| format!("{what} of {}: {error}", svid.id);
    let id = SpiffeId::parse(svid.id).map_err(|error| error.to_string())?;
    let origin: Arc<str> = agent.to_string().into();
    let chain = certificate::split_der(svid.chain).map_err(|error| blame("the certificate", &error))?;
    let roots = certificate::split_der(svid.bundle).map_err(|error| blame("the trust bundle", &error))?;
    let key = PrivatePkcs8KeyDer::from(svid.key.to_vec()).into();
    let certificate = Certificate::from_der(Origin::Named(Arc::clone(&origin)), chain, key, now)
        .map_err(|error| blame("the certificate", &error))?;
    let trust = TrustBundle::from_der(&origin, roots).map_err(|error| blame("the trust bundle", &error))?;
    let identity =
        Identity::new(Arc::new(certificate), trust).map_err(|error| blame("the certificate", &error))?;
    match identity.id == id {
        true => Ok(identity),
        false => Err(blame("the certificate", &format!("it says {}", identity.id))),
    }
}
