//! Making a connection to an endpoint, within its time and its bound.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::balance::{ConnectionSlot, EndpointCell};

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
    /// The protocol's start on the connection failed.
    #[error("the endpoint did not start the protocol: {0}")]
    Handshake(hyper::Error),
    /// Something else: no route, no free port, no free descriptor.
    #[error("the connection could not be made: {0}")]
    Failed(io::Error),
}

/// A probe into a silent connection after this time, then each [`KEEP_ALIVE_INTERVAL`]; a peer that is gone without a
/// word is noticed within about a minute.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A connection, and its place in the count of its endpoint's connections.
pub(super) async fn connect(
    cell: &Arc<EndpointCell>,
    max_connections: u32,
    timeout: Duration,
) -> Result<(TcpStream, ConnectionSlot), ConnectError> {
    let slot = EndpointCell::open_connection(cell, max_connections).ok_or(ConnectError::AtLimit)?;
    let stream = dial(cell.address(), timeout).await?;
    Ok((stream, slot))
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
