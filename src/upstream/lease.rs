//! A lease: the right to carry one exchange on a connection, and the connection's way back to the pool.
//!
//! An HTTP/1 connection carries one exchange at a time: the lease owns it and gives it back at the response's end. An
//! HTTP/2 connection carries many: the lease holds a place among its streams. Either way the response's body is read
//! from the lease.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::connect;
use super::http1::{self, Http1, RequestHead};
use super::pool::{Lane, Stream};
use crate::balance::ConnectionSlot;
use crate::model::BackendProtocol;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::TrySendError;

/// One exchange's place on a connection.
pub enum Lease<B> {
    /// A whole HTTP/1 connection.
    Exclusive(Exclusive<B>),
    /// A stream of an HTTP/2 connection.
    Shared(Stream<B>),
}

/// A whole HTTP/1 connection.
pub struct Exclusive<B> {
    pub(super) kept: Box<Kept<B>>,
    pub(super) lane: Rc<Lane<B>>,
    pub(super) reused: bool,
}

/// An HTTP/1 connection with its place in the count of its endpoint's connections.
pub(super) struct Kept<B> {
    pub(super) connection: Http1<connect::Stream, B>,
    pub(super) slot: ConnectionSlot,
}

/// What is left of a connection after HTTP.
pub struct Socket {
    /// The connection.
    pub stream: connect::Stream,
    /// What was read of what follows.
    pub read: Bytes,
    /// Its place in the count of connections, until dropped.
    pub slot: ConnectionSlot,
}

/// Why there is no response.
#[derive(Debug)]
pub enum SendError<B> {
    /// On an HTTP/1 connection.
    Http1 {
        /// What went wrong.
        error: http1::Error,
        /// Whether the request had begun to leave.
        sent: bool,
        /// Whether the connection had carried other exchanges before.
        reused: bool,
    },
    /// On an HTTP/2 connection.
    Http2 {
        /// What went wrong.
        error: hyper::Error,
        /// The request, if it provably never left.
        unsent: Option<Box<Request<B>>>,
        /// Whether the connection had carried other exchanges before.
        reused: bool,
    },
}

/// What a failed sending means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never left, because a kept connection was dead: no fault of the endpoint's.
    UnsentOnKept,
    /// It never left, though the connection was new.
    Unsent,
    /// It left on a kept connection that the endpoint closed in that moment, most likely without having seen it.
    ClosedWhileKept,
    /// The endpoint says that it has done nothing with it (RFC 9113 §8.7): it refused the stream, or ends the connection
    /// in good order and has not looked at the stream.
    Untouched,
    /// It left, and the answer breaks the protocol.
    Malformed,
    /// It left, and the connection broke.
    Broken,
}

impl<B> SendError<B> {
    /// What it means for the request.
    pub fn fate(&self) -> Fate {
        match self {
            Self::Http1 {
                sent: false, reused, ..
            }
            | Self::Http2 {
                unsent: Some(_),
                reused,
                ..
            } => {
                if *reused {
                    Fate::UnsentOnKept
                } else {
                    Fate::Unsent
                }
            }
            Self::Http1 { error, reused, .. } => match error {
                http1::Error::Closed if *reused => Fate::ClosedWhileKept,
                http1::Error::Malformed(_) | http1::Error::TooLarge => Fate::Malformed,
                _ => Fate::Broken,
            },
            Self::Http2 { error, .. } if says_untouched(error) => Fate::Untouched,
            Self::Http2 { error, .. } if error.is_parse() || error.is_parse_too_large() => Fate::Malformed,
            Self::Http2 { .. } => Fate::Broken,
        }
    }
}

fn says_untouched(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let reason = source
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .filter(|error| error.is_remote() && (error.is_reset() || error.is_go_away()))
        .map(|error| (error.is_go_away(), error.reason()));
    matches!(
        reason,
        Some((false, Some(h2::Reason::REFUSED_STREAM)) | (true, Some(h2::Reason::NO_ERROR)))
    )
}

/// Why a response's body breaks off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// On an HTTP/1 connection.
    #[error(transparent)]
    Http1(#[from] http1::Error),
    /// On an HTTP/2 connection.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// What is spoken on it: never [`BackendProtocol::Auto`].
    pub fn protocol(&self) -> BackendProtocol {
        match self {
            Self::Exclusive(_) => BackendProtocol::Http1,
            Self::Shared(_) => BackendProtocol::H2c,
        }
    }

    /// Whether the connection had carried other exchanges before.
    pub fn reused(&self) -> bool {
        match self {
            Self::Exclusive(exclusive) => exclusive.reused,
            Self::Shared(stream) => stream.reused,
        }
    }

    /// Ready with the next frame of the response's body, or its end.
    ///
    /// # Errors
    /// The body broke off.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Exclusive(exclusive) => {
                let frame = exclusive.kept.connection.poll_body(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Self::Shared(stream) => match &mut stream.incoming {
                Some(incoming) => {
                    let frame = Pin::new(incoming).poll_frame(cx);
                    frame.map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
                }
                None => Poll::Ready(None),
            },
        }
    }

    /// Whether the response has come to its end. False may turn out to be the end too.
    pub fn is_end_of_body(&self) -> bool {
        match self {
            Self::Exclusive(exclusive) => exclusive.kept.connection.is_end_of_body(),
            Self::Shared(stream) => stream.incoming.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    /// How much of the response's body is still to come.
    pub fn body_left(&self) -> SizeHint {
        match self {
            Self::Exclusive(exclusive) => match exclusive.kept.connection.body_left() {
                Some(bytes) => SizeHint::with_exact(bytes),
                None => SizeHint::new(),
            },
            Self::Shared(stream) => match &stream.incoming {
                Some(incoming) => incoming.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }

    /// Gives the connection back after a whole response. Without this call an HTTP/1 connection is closed, for nobody
    /// knows what is still on it.
    pub fn finish(self) {
        match self {
            Self::Exclusive(exclusive) => {
                if exclusive.kept.connection.is_reusable() {
                    exclusive.lane.keep(exclusive.kept);
                }
            }
            Self::Shared(stream) => drop(stream),
        }
    }

    /// The socket below an HTTP/1 connection whose endpoint has switched protocols.
    pub fn into_socket(self) -> Option<Socket> {
        match self {
            Self::Exclusive(exclusive) => {
                let Kept { connection, slot } = *exclusive.kept;
                let (stream, read) = connection.into_stream();
                Some(Socket { stream, read, slot })
            }
            Self::Shared(_) => None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Exclusive<B> {
    /// Sends the request; ready with the response's head. Interim responses are handed over as they come.
    ///
    /// # Errors
    /// There is no response; the lease is of no more use.
    pub fn send<'s, F>(
        &'s mut self,
        request: &RequestHead<'_>,
        body: Option<B>,
        mut interim: F,
    ) -> impl Future<Output = Result<Parts, SendError<B>>> + use<'s, B, F>
    where
        F: FnMut(&mut Context<'_>, StatusCode, HeaderMap),
    {
        self.kept.connection.start(request, body);
        poll_fn(move |cx| {
            let connection = &mut self.kept.connection;
            connection
                .poll_response(cx, &mut interim)
                .map_err(|error| SendError::Http1 {
                    error,
                    sent: connection.has_sent(),
                    reused: self.reused,
                })
        })
    }
}

impl<B: Body + 'static> Stream<B> {
    /// Sends the request; ready with the response's head.
    ///
    /// Not an `async fn`: that would keep the request in the future after it has gone to the connection, and the
    /// futures of an exchange are copied when it begins.
    ///
    /// # Errors
    /// There is no response; the lease is of no more use.
    pub fn send(&mut self, request: Request<B>) -> impl Future<Output = Result<Parts, SendError<B>>> {
        let sent = self.sender.try_send_request(request);
        async move {
            match sent.await {
                Ok(response) => {
                    let (parts, incoming) = response.into_parts();
                    self.incoming = Some(incoming);
                    Ok(parts)
                }
                Err(error) => Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, mut error: TrySendError<Request<B>>) -> SendError<B> {
        SendError::Http2 {
            unsent: error.take_message().map(Box::new),
            error: error.into_error(),
            reused: self.reused,
        }
    }
}

impl<B> fmt::Debug for Lease<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Exclusive(_) => "Exclusive",
            Self::Shared(_) => "Shared",
        })
    }
}
