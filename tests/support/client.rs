//! Clients on the HTTP library, of either version.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Boxed, empty, full, soon};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    H1,
    H2,
}

impl Down {
    pub const BOTH: [Self; 2] = [Self::H1, Self::H2];
}

/// A connection to the proxy.
pub enum Client {
    H1(http1::SendRequest<Boxed>),
    H2(http2::SendRequest<Boxed>),
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {:?} {}", self.status, self.text()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Client {
    pub async fn connect(down: Down, address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(down, stream).await
    }

    /// Over a connection that is there.
    pub async fn over<S>(down: Down, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        match down {
            Down::H1 => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Self::H1(sender)
            }
            Down::H2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .handshake(io)
                    .await
                    .unwrap();
                tokio::spawn(connection);
                Self::H2(sender)
            }
        }
    }

    /// Sends a request whose target is a path, for `test.example` unless it names a host.
    pub async fn start(&mut self, mut request: Request<Boxed>) -> Result<Response<Incoming>, hyper::Error> {
        let host = request.headers_mut().remove("host");
        let host = host.unwrap_or_else(|| http::HeaderValue::from_static("test.example"));
        match self {
            Self::H1(sender) => {
                request.headers_mut().insert("host", host);
                sender.ready().await?;
                soon("a response", sender.send_request(request)).await
            }
            Self::H2(sender) => {
                let path = request.uri().path_and_query().unwrap().clone();
                *request.uri_mut() = Uri::builder()
                    .scheme("http")
                    .authority(host.as_bytes())
                    .path_and_query(path)
                    .build()
                    .unwrap();
                *request.version_mut() = http::Version::HTTP_2;
                sender.ready().await?;
                soon("a response", sender.send_request(request)).await
            }
        }
    }

    /// A request, and its whole response.
    pub async fn try_send(&mut self, request: Request<Boxed>) -> Result<Answer, hyper::Error> {
        let (parts, body) = self.start(request).await?.into_parts();
        let body = soon("a response's body", body.collect()).await?;
        let trailers = body.trailers().cloned();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
            trailers,
        })
    }

    pub async fn send(&mut self, request: Request<Boxed>) -> Answer {
        self.try_send(request).await.expect("no whole response came")
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(request(Method::GET, path)).await
    }

    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::POST, path).map(|_| full(body))).await
    }
}

/// A request without a body.
pub fn request(method: Method, path: &str) -> Request<Boxed> {
    Request::builder().method(method).uri(path).body(empty()).unwrap()
}
