//! A lease: the right to send one request on a connection, and the connection's way back to the pool.
//!
//! An HTTP/1 connection carries one exchange at a time: the lease owns it and gives it back at the response's end. An
//! HTTP/2 connection carries many: the lease holds a place among its streams.

use std::fmt;
use std::rc::Rc;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::pool::{Lane, Stream};

/// One request's place on a connection.
pub enum Lease<B> {
    /// A whole HTTP/1 connection.
    Exclusive(Exclusive<B>),
    /// A stream of an HTTP/2 connection.
    Shared(Stream<B>),
}

/// A whole HTTP/1 connection.
pub struct Exclusive<B> {
    pub(super) sender: hyper::client::conn::http1::SendRequest<B>,
    /// The socket, when the connection's driver ends in good order: after an upgrade.
    pub(super) socket: oneshot::Receiver<Socket>,
    pub(super) lane: Rc<Lane<B>>,
    pub(super) reused: bool,
}

/// What is left of a connection after HTTP.
pub struct Socket {
    /// The connection.
    pub stream: TcpStream,
    /// What was read of what follows.
    pub read: bytes::Bytes,
    /// Its place in the count of connections, until dropped.
    pub slot: crate::balance::ConnectionSlot,
}

/// Why there is no response.
pub struct SendError<B> {
    /// The request, if it provably never left.
    pub unsent: Option<Request<B>>,
    /// What went wrong.
    pub error: hyper::Error,
}

impl<B> SendError<B> {
    /// Whether the endpoint says that it has done nothing with the request (RFC 9113 §8.7): it refused the stream, or
    /// ends the connection in good order and has not looked at the stream.
    pub fn untouched(&self) -> bool {
        let source = std::error::Error::source(&self.error);
        let reason = source
            .and_then(|source| source.downcast_ref::<h2::Error>())
            .filter(|error| error.is_remote() && (error.is_reset() || error.is_go_away()))
            .map(|error| (error.is_go_away(), error.reason()));
        matches!(
            reason,
            Some((false, Some(h2::Reason::REFUSED_STREAM)) | (true, Some(h2::Reason::NO_ERROR)))
        )
    }
}

impl<B> Lease<B>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends the request; ready with the response's head.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let result = match self {
            Self::Exclusive(exclusive) => exclusive.send(request).await,
            Self::Shared(stream) => stream.send(request).await,
        };
        result.map_err(SendError::from)
    }

    /// Whether the connection had carried other exchanges before.
    pub fn reused(&self) -> bool {
        match self {
            Self::Exclusive(exclusive) => exclusive.reused,
            Self::Shared(stream) => stream.reused,
        }
    }

    /// Whether an error is most likely that of a kept HTTP/1 connection that the endpoint closed while the request was on
    /// its way: the connection ended without a byte of a response.
    pub fn closed_while_kept(&self, error: &hyper::Error) -> bool {
        let ended = error.is_incomplete_message() || error.is_closed() || is_reset(error);
        matches!(self, Self::Exclusive(exclusive) if exclusive.reused) && ended
    }

    /// Gives the connection back after a whole response. Without this call an HTTP/1 connection is closed, for nobody
    /// knows what is still on it.
    pub fn finish(self) {
        match self {
            Self::Exclusive(exclusive) => {
                let lane = Rc::clone(&exclusive.lane);
                lane.put_back(exclusive.sender, exclusive.socket);
            }
            Self::Shared(stream) => drop(stream),
        }
    }

    /// The socket below an HTTP/1 connection whose endpoint has switched protocols.
    pub async fn into_socket(self) -> Option<Socket> {
        match self {
            Self::Exclusive(exclusive) => {
                // The driver ends once it knows that nobody will send on the connection again.
                drop(exclusive.sender);
                exclusive.socket.await.ok()
            }
            Self::Shared(_) => None,
        }
    }
}

impl<B: Body + 'static> Exclusive<B> {
    /// Sends the request; ready with the response's head.
    ///
    /// Not an `async fn`: that would keep the request in the future after it has gone to the connection, and the
    /// futures of an exchange are copied when it begins.
    pub fn send(&mut self, request: Request<B>) -> impl Future<Output = Sent<B>> + use<B> {
        self.sender.try_send_request(request)
    }
}

impl<B: Body + 'static> Stream<B> {
    /// Sends the request; ready with the response's head.
    pub fn send(&mut self, request: Request<B>) -> impl Future<Output = Sent<B>> + use<B> {
        self.sender.try_send_request(request)
    }
}

/// What the library gives for a request.
type Sent<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

impl<B> From<TrySendError<Request<B>>> for SendError<B> {
    fn from(mut error: TrySendError<Request<B>>) -> Self {
        Self {
            unsent: error.take_message(),
            error: error.into_error(),
        }
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| {
        matches!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
        )
    })
}

impl<B> fmt::Debug for Lease<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Exclusive(_) => "Exclusive",
            Self::Shared(_) => "Shared",
        })
    }
}

/// The socket below a connection's parts.
pub(super) fn socket_of(
    io: TokioIo<TcpStream>,
    read: bytes::Bytes,
    slot: crate::balance::ConnectionSlot,
) -> Socket {
    Socket {
        stream: io.into_inner(),
        read,
        slot,
    }
}
