//! Endpoints that do as they are told: scripted on the wire, or a service on the HTTP library.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::wire::Wire;
use super::{Boxed, full};
use tidegate::model::BackendProtocol;

pub const H1: BackendProtocol = BackendProtocol::Http1;
pub const H2C: BackendProtocol = BackendProtocol::H2c;

/// What came to an endpoint.
#[derive(Debug, Default)]
pub struct Tally {
    connections: AtomicUsize,
    requests: AtomicUsize,
    lines: Mutex<Vec<String>>,
}

impl Tally {
    /// A request came.
    pub fn saw(&self, line: &str) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.lines.lock().unwrap().push(line.to_owned());
    }
}

/// A running endpoint. It ends when dropped: nobody listens any more and its connections are closed.
pub struct Endpoint {
    pub address: SocketAddr,
    tally: Arc<Tally>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Runs the script for each connection; it is told the connection's number, from 0.
    pub async fn script<F, Run>(script: F) -> Self
    where
        F: Fn(usize, Wire) -> Run + Send + 'static,
        Run: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::script_on(listener, script)
    }

    pub fn script_on<F, Run>(listener: TcpListener, script: F) -> Self
    where
        F: Fn(usize, Wire) -> Run + Send + 'static,
        Run: Future<Output = ()> + Send + 'static,
    {
        Self::accept(listener, move |number, stream, tally| {
            script(number, Wire::new(stream, Some(tally)))
        })
    }

    /// Answers every request with these bytes, after it has come whole.
    pub async fn answering(bytes: &'static str) -> Self {
        Self::script(move |_, mut wire| async move {
            while wire.request().await.is_some() && wire.send(bytes).await {}
        })
        .await
    }

    /// A service on the HTTP library.
    pub async fn serve<F, Answer>(protocol: BackendProtocol, service: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Response<Boxed>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve_on(listener, protocol, service)
    }

    pub fn serve_on<F, Answer>(listener: TcpListener, protocol: BackendProtocol, service: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Response<Boxed>> + Send + 'static,
    {
        Self::accept(listener, move |_, stream, tally| {
            stream.set_nodelay(true).unwrap();
            let service = service.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                tally.saw(&format!("{} {}", request.method(), request.uri()));
                let answer = service(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            async move {
                let io = TokioIo::new(stream);
                let _ = match protocol {
                    BackendProtocol::Http1 | BackendProtocol::Auto => {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .with_upgrades()
                            .await
                    }
                    BackendProtocol::H2c => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .enable_connect_protocol()
                            .serve_connection(io, service)
                            .await
                    }
                };
            }
        })
    }

    /// A service behind TLS, of the version that the client agrees to; `lines` then begin with what was agreed on.
    pub async fn serve_tls<F, Answer>(config: Arc<rustls::ServerConfig>, service: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
        Answer: Future<Output = Response<Boxed>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        Self::accept(listener, move |_, stream, tally| {
            let (acceptor, service) = (acceptor.clone(), service.clone());
            async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let connection = stream.get_ref().1;
                let http2 = connection.alpn_protocol() == Some(b"h2");
                let name = connection.server_name().unwrap_or("none").to_owned();
                let known = connection.peer_certificates().is_some();
                let service = service_fn(move |request: Request<Incoming>| {
                    let version = if http2 { "h2" } else { "h1" };
                    let client = if known { "known" } else { "unknown" };
                    tally.saw(&format!("{version} {name} {client} {}", request.uri()));
                    let answer = service(request);
                    async move { Ok::<_, std::convert::Infallible>(answer.await) }
                });
                let io = TokioIo::new(stream);
                let _ = if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await
                } else {
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .with_upgrades()
                        .await
                };
            }
        })
    }

    fn accept<F, Run>(listener: TcpListener, run: F) -> Self
    where
        F: Fn(usize, tokio::net::TcpStream, Arc<Tally>) -> Run + Send + 'static,
        Run: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let tally = Arc::new(Tally::default());
        let own = Arc::clone(&tally);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let number = own.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(run(number, stream, Arc::clone(&own)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, tally, task }
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.tally.connections.load(Ordering::SeqCst)
    }

    /// Requests whose head has come.
    pub fn requests(&self) -> usize {
        self.tally.requests.load(Ordering::SeqCst)
    }

    /// The first lines of the requests that came.
    pub fn lines(&self) -> Vec<String> {
        self.tally.lines.lock().unwrap().clone()
    }

    /// Ends it and waits until its sockets are gone.
    pub async fn end(self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where nobody listens: connections are refused. Held, so that nobody else gets the port.
pub struct Refusing {
    pub address: SocketAddr,
    _held: socket2::Socket,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        Self {
            address: socket.local_addr().unwrap().as_socket().unwrap(),
            _held: socket,
        }
    }
}

/// An address where connections are neither made nor refused: its queue is full.
pub struct Silent {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Silent {
    pub fn new() -> Self {
        let stream = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = stream();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let queued = (0..8)
            .map(|_| {
                let socket = stream();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address);
                socket
            })
            .collect();
        Self {
            address: address.as_socket().unwrap(),
            _listener: listener,
            _queued: queued,
        }
    }
}

/// Says what request came, as JSON: method, target, version, fields, body.
pub async fn report(request: Request<Incoming>) -> Response<Boxed> {
    let (parts, body) = request.into_parts();
    let fields: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| serde_json::json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let Ok(body) = body.collect().await else {
        return Response::builder().status(400).body(full("broken")).unwrap();
    };
    let trailers: Vec<_> = body
        .trailers()
        .into_iter()
        .flatten()
        .map(|(name, value)| serde_json::json!([name.as_str(), value.to_str().unwrap()]))
        .collect();
    let report = serde_json::json!({
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map(|path| path.as_str()),
        "authority": parts.uri.authority().map(|authority| authority.as_str()),
        "version": format!("{:?}", parts.version),
        "fields": fields,
        "trailers": trailers,
        "body": String::from_utf8_lossy(&body.to_bytes()),
    });
    Response::builder()
        .header("content-type", "application/json")
        .body(full(report.to_string()))
        .unwrap()
}

/// Sends the request's body back as it comes, trailers too.
pub async fn echo(request: Request<Incoming>) -> Response<Boxed> {
    let trailer = request.headers().get("trailer").cloned();
    let mut response = Response::new(request.into_body().map_err(io::Error::other).boxed_unsync());
    if let Some(trailer) = trailer {
        response.headers_mut().insert("trailer", trailer);
    }
    response
}

/// The values of a field in a report.
pub fn reported(report: &serde_json::Value, name: &str) -> Vec<String> {
    report["fields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|field| field[0] == name)
        .map(|field| field[1].as_str().unwrap().to_owned())
        .collect()
}

/// A service that answers with a fixed text.
pub fn saying(text: &'static str) -> impl Fn(Request<Incoming>) -> Says + Clone + Send + Sync + 'static {
    move |request| {
        Box::pin(async move {
            let _ = request.into_body().collect().await;
            Response::new(full(Bytes::from_static(text.as_bytes())))
        })
    }
}

type Says = std::pin::Pin<Box<dyn Future<Output = Response<Boxed>> + Send>>;
