//! Making a connection to an endpoint, within its time and its bound.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::balance::{ConnectionSlot, EndpointCell};
use crate::model::{Backend, BackendProtocol, Inner, UpstreamTls};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("the endpoint refused the connection")]
    Refused,
    /// It took longer than allowed.
    #[error("the connection was not made in time")]
    TimedOut,
    /// As many are open as the endpoint may have.
    #[error("the endpoint has as many connections as it may")]
    AtLimit,
    /// It is to be made by mTLS, and it is not known who we are.
    #[error("mTLS is to be spoken, and there is no identity")]
    NoIdentity,
    /// The protocol's start on the connection failed.
    #[error("the endpoint did not start the protocol: {0}")]
    Handshake(hyper::Error),
    /// The endpoint's certificate is not trusted, or not for the name.
    #[error("the endpoint's certificate was refused: {0}")]
    Untrusted(rustls::Error),
    /// There is no TLS with the endpoint for another reason.
    #[error("no TLS with the endpoint: {0}")]
    Tls(io::Error),
    /// Something else: no route, no free port, no free descriptor.
    #[error("the connection could not be made: {0}")]
    Failed(io::Error),
}

/// A probe into a silent connection after this time, then each [`KEEP_ALIVE_INTERVAL`]; a peer that is gone without a
/// word is noticed within about a minute.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A connection to an endpoint.
pub type Stream = crate::runtime::stream::Stream<TlsStream<TcpStream>>;

/// A connection in a protocol, and its place in the count of its endpoint's connections. `header` goes before everything
/// else, TLS too (the PROXY protocol).
pub(super) async fn connect(
    cell: &Arc<EndpointCell>,
    protocol: BackendProtocol,
    policy: &Backend,
    header: &[u8],
) -> Result<(Stream, ConnectionSlot), ConnectError> {
    let tls = tls_of(policy)?;
    let slot =
        EndpointCell::open_connection(cell, policy.limits.max_connections).ok_or(ConnectError::AtLimit)?;
    let deadline = Instant::now() + policy.connect_timeout;
    let mut stream = dial(cell.address(), policy.connect_timeout).await?;
    introduce(&mut stream, header).await?;
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let shaken = tokio::time::timeout_at(deadline, shake(stream, tls, protocol)).await;
            Stream::Tls(Box::new(shaken.map_err(|_elapsed| ConnectError::TimedOut)??))
        }
    };
    Ok((stream, slot))
}

/// A connection on which bytes are relayed, and its place in the count of its endpoint's connections. `header` goes before
/// everything else, TLS too (the PROXY protocol). `may_be_tls`: what is relayed has TLS of its own, so that only mTLS is
/// put around it.
pub async fn connect_opaque(
    cell: &Arc<EndpointCell>,
    policy: &Backend,
    header: &[u8],
    may_be_tls: bool,
) -> Result<(Stream, ConnectionSlot), ConnectError> {
    let tls = tls_of(policy)?.filter(|_| !may_be_tls || policy.mtls.is_some());
    let slot =
        EndpointCell::open_connection(cell, policy.limits.max_connections).ok_or(ConnectError::AtLimit)?;
    let deadline = Instant::now() + policy.connect_timeout;
    let mut stream = dial(cell.address(), policy.connect_timeout).await?;
    introduce(&mut stream, header).await?;
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let shaken = tokio::time::timeout_at(deadline, shake_with(stream, tls, tls.opaque())).await;
            Stream::Tls(Box::new(shaken.map_err(|_elapsed| ConnectError::TimedOut)??))
        }
    };
    Ok((stream, slot))
}

/// Writes what comes first. A new connection's buffer has room for it, so this does not wait.
pub(super) async fn introduce(stream: &mut TcpStream, header: &[u8]) -> Result<(), ConnectError> {
    match header {
        [] => Ok(()),
        header => stream.write_all(header).await.map_err(ConnectError::Failed),
    }
}

/// The TLS handshake with an endpoint. Nothing that the endpoint sends is taken for HTTP before it is over.
pub async fn shake(
    stream: TcpStream,
    tls: &UpstreamTls,
    protocol: BackendProtocol,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let stream = shake_with(stream, tls, tls.config(protocol)).await?;
    if protocol == BackendProtocol::H2c && !speaks_http2(&stream) {
        return Err(ConnectError::Tls(io::Error::other("it does not speak HTTP/2")));
    }
    Ok(stream)
}

async fn shake_with(
    stream: TcpStream,
    tls: &UpstreamTls,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let connector = TlsConnector::from(Arc::clone(config));
    let shaken = connector.connect(tls.hostname.clone(), stream).await;
    let stream = shaken.map_err(|error| {
        let own = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match own {
            Some(refused @ rustls::Error::InvalidCertificate(_)) => ConnectError::Untrusted(refused.clone()),
            _ => ConnectError::Tls(error),
        }
    })?;
    // Whoever did not agree to ours would take what is inside for its own.
    if tls.peers.is_some() && stream.get_ref().1.alpn_protocol().is_none() {
        return Err(ConnectError::Tls(io::Error::other("it is no sidecar")));
    }
    Ok(stream)
}

/// How a backend's connections use TLS. Where mTLS was asked for there is nothing without it.
fn tls_of(policy: &Backend) -> Result<Option<&UpstreamTls>, ConnectError> {
    match (&policy.tls, &policy.mtls) {
        (None, Some(_)) => Err(ConnectError::NoIdentity),
        (tls, _) => Ok(tls.as_deref()),
    }
}

/// Whether HTTP/2 was agreed on.
pub(super) fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    let agreed = stream.get_ref().1.alpn_protocol();
    agreed == Some(b"h2") || agreed == Some(Inner::Http2.alpn())
}

/// A plain connection to an address, with the options that all upstream sockets have.
pub async fn dial(address: SocketAddr, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Err(_elapsed) => return Err(ConnectError::TimedOut),
        Ok(Err(error)) => {
            return Err(match error.kind() {
                io::ErrorKind::ConnectionRefused => ConnectError::Refused,
                io::ErrorKind::TimedOut => ConnectError::TimedOut,
                _ => ConnectError::Failed(error),
            });
        }
        Ok(Ok(stream)) => stream,
    };
    stream.set_nodelay(true).map_err(ConnectError::Failed)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_AFTER)
        .with_interval(KEEP_ALIVE_INTERVAL);
    SockRef::from(&stream)
        .set_tcp_keepalive(&keep_alive)
        .map_err(ConnectError::Failed)?;
    Ok(stream)
}
