//! An HTTP/1.1 connection to an endpoint, with one exchange on it at a time.
//!
//! # Why our own
//! The library's client is made for programs whose requests come from other tasks than the one that reads the socket:
//! each connection is a task, and requests, responses and every piece of a body go through channels. Here the exchange
//! itself drives the connection: it writes the head straight from the fields it has, reads the response in the same
//! task, and keeps the fields for another try without a copy. That saves about a quarter of the user-space time
//! of an exchange, and says exactly whether a byte of a request has left. Heads are still parsed by `httparse`.
//!
//! # Life
//! [`Http1::start`] puts a request on the connection, [`Http1::poll_response`] writes it and reads the response's head,
//! [`Http1::poll_body`] goes on with both bodies. When [`Http1::is_reusable`], the next exchange may begin. Between
//! exchanges nobody drives the connection; the runtime notes when something comes, and [`Http1::is_quiet`] looks at that
//! note, without a system call. Nothing may come: the endpoint has closed, or has said something that nobody asked for.
//!
//! # Bounds
//! Held unread: one read of at most [`MAX_READ`] bytes, or a head of [`MAX_HEAD`]. Held unwritten: the head and one frame.

mod chunked;
mod encode;
mod head;

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use self::chunked::{Chunked, Part};
pub use self::encode::BodyLength;
use self::head::BodyEnd;

/// Bytes of a response's head.
pub const MAX_HEAD: usize = 64 * 1024;
/// Space for one read, at first and when reads keep filling it.
const MIN_READ: usize = 8 * 1024;
/// See [`MIN_READ`].
const MAX_READ: usize = 64 * 1024;
/// Interim responses before the final one.
const MAX_INTERIM: u32 = 100;

/// Why there is no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection ended before a byte of a response.
    #[error("the endpoint closed the connection without an answer")]
    Closed,
    /// The connection ended within a response.
    #[error("the endpoint closed the connection within its answer")]
    Truncated,
    /// The response breaks the protocol.
    #[error("the endpoint's answer cannot be read: {0}")]
    Malformed(&'static str),
    /// The head or the trailers are beyond their bounds.
    #[error("the endpoint's answer has too large a head")]
    TooLarge,
    /// The request's body broke off, or is not as long as was announced.
    #[error("the request's body broke off")]
    RequestBody,
    /// The socket failed in another way.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

/// A request as it is to be written.
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query.
    pub path: &'a PathAndQuery,
    /// Goes instead of a `Host` among the fields.
    pub host: Option<&'a HeaderValue>,
    /// The fields. A length among them is right.
    pub headers: &'a HeaderMap,
    /// How the body is framed.
    pub length: BodyLength,
}

/// A connection to an endpoint.
pub struct Http1<S, B> {
    stream: S,
    /// Space to read into.
    space: BytesMut,
    /// Read and not yet used.
    rest: Bytes,
    /// Bytes of the next read.
    read_size: usize,
    sending: Sending<B>,
    receiving: Receiving,
    to_head_request: bool,
    persistent: bool,
}

/// The request on its way.
struct Sending<B> {
    /// The head, or a chunk's first line; and how much of it is written.
    head: Vec<u8>,
    written_head: usize,
    /// Body bytes that follow.
    data: Bytes,
    /// What follows those.
    tail: &'static [u8],
    /// What is still to come of the body.
    body: Option<B>,
    length: BodyLength,
    /// A byte has left.
    begun: bool,
    /// Nothing that was written is held back by the stream.
    flushed: bool,
    failed: bool,
}

/// The response on its way.
#[derive(Debug)]
enum Receiving {
    /// Nothing is expected.
    Nothing,
    /// A head is. `partial`: its beginning is in `space`. `interim`: so many went before it.
    Head {
        partial: bool,
        interim: u32,
    },
    Sized(u64),
    Chunked(Chunked),
    UntilClose,
    /// Another protocol follows.
    Switched,
}

impl<S, B> Http1<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
{
    /// A connection on which nothing has been said yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            space: BytesMut::new(),
            rest: Bytes::new(),
            read_size: MIN_READ,
            sending: Sending {
                head: Vec::new(),
                written_head: 0,
                data: Bytes::new(),
                tail: b"",
                body: None,
                length: BodyLength::Empty,
                begun: false,
                flushed: true,
                failed: false,
            },
            receiving: Receiving::Nothing,
            to_head_request: false,
            persistent: true,
        }
    }

    /// Puts a request on the connection, which must be new or reusable. Nothing is written yet.
    pub fn start(&mut self, request: &RequestHead<'_>, body: Option<B>) {
        let sending = &mut self.sending;
        sending.head.clear();
        encode::head(
            &mut sending.head,
            request.method,
            request.path,
            request.host,
            request.headers,
            request.length,
        );
        sending.written_head = 0;
        sending.body = body.filter(|_| request.length != BodyLength::Empty);
        sending.length = request.length;
        sending.begun = false;
        sending.flushed = false;
        sending.failed = false;
        self.to_head_request = request.method == Method::HEAD;
        self.receiving = Receiving::Head {
            partial: false,
            interim: 0,
        };
    }

    /// Ready with the response's head. Interim responses are handed over as they come.
    ///
    /// # Errors
    /// After one the connection is of no use; [`Http1::has_sent`] says whether the request had begun to leave.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        mut interim: impl FnMut(&mut Context<'_>, StatusCode, HeaderMap),
    ) -> Poll<Result<Parts, Error>> {
        loop {
            if let Some(head) = self.next_head()? {
                if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
                    self.count_interim()?;
                    interim(cx, head.status, head.headers);
                    continue;
                }
                return Poll::Ready(self.begin_body(head));
            }
            // The endpoint may answer before it has read all; a failed write shows in what is read.
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.has_begun_head() => return Poll::Ready(Err(Error::Truncated)),
                Ok(0) => return Poll::Ready(Err(Error::Closed)),
                Ok(_) => {}
                Err(error) if is_reset(&error) && !self.has_begun_head() => {
                    return Poll::Ready(Err(Error::Closed));
                }
                Err(error) => return Poll::Ready(Err(Error::Io(error))),
            }
        }
    }

    /// Ready with the next frame of the response's body, or its end.
    ///
    /// # Errors
    /// After one the connection is of no use.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self.next_part() {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Part::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Part::End(trailers)) => {
                    self.receiving = Receiving::Nothing;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(Part::More) => {}
            }
            if !self.sending.is_done()
                && let Poll::Ready(Err(error)) = self.poll_send(cx)
            {
                return Poll::Ready(Some(Err(error)));
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if matches!(self.receiving, Receiving::UntilClose) => {
                    self.receiving = Receiving::Nothing;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Error::Truncated))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Error::Io(error)))),
            }
        }
    }

    /// Whether the response has come to its end.
    pub fn is_end_of_body(&self) -> bool {
        matches!(self.receiving, Receiving::Nothing)
    }

    /// Bytes of the response's body still to come, if known.
    pub fn body_left(&self) -> Option<u64> {
        match self.receiving {
            Receiving::Nothing => Some(0),
            Receiving::Sized(left) => Some(left),
            _ => None,
        }
    }

    /// Whether a byte of the request has left.
    pub fn has_sent(&self) -> bool {
        self.sending.begun
    }

    /// Whether another exchange may begin: this one is over on both sides, and nothing else has come.
    pub fn is_reusable(&self) -> bool {
        self.persistent
            && matches!(self.receiving, Receiving::Nothing)
            && self.sending.is_done()
            && self.rest.is_empty()
    }

    /// Whether nothing has come since the last exchange. Costs no system call while that is so.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut cx = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        read.is_pending()
    }

    /// Gives back the memory that an idle connection does not need.
    pub fn trim(&mut self) {
        self.space = BytesMut::new();
        self.rest = Bytes::new();
        self.read_size = MIN_READ;
        self.sending.head = Vec::new();
    }

    /// The socket, after the endpoint has switched protocols, and what was read of what follows.
    pub fn into_stream(self) -> (S, Bytes) {
        (self.stream, self.rest)
    }

    /// Writes what there is of the request; ready when all of it is written, or when writing has no more use.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let sending = &mut self.sending;
        loop {
            let body_waits = sending.gather(cx)?;
            while let Some(parts) = sending.unwritten() {
                let written = match parts.as_slice() {
                    [only] => Pin::new(&mut self.stream).poll_write(cx, only),
                    several => Pin::new(&mut self.stream).poll_write_vectored(cx, several),
                };
                match ready!(written) {
                    Ok(bytes @ 1..) => sending.wrote(bytes),
                    // The response may be there all the same, and says more.
                    Ok(0) | Err(_) => {
                        sending.give_up();
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            // TLS may still hold what it was given; nobody else asks it to go on.
            let flushed = match sending.flushed {
                true => Poll::Ready(Ok(())),
                false => Pin::new(&mut self.stream).poll_flush(cx),
            };
            match flushed {
                Poll::Ready(Ok(())) => sending.flushed = true,
                Poll::Ready(Err(_)) => {
                    sending.give_up();
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if sending.body.is_none() => return Poll::Pending,
                Poll::Pending => {}
            }
            if sending.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if body_waits {
                return Poll::Pending;
            }
        }
    }

    /// One read; gives its length.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.space.capacity() - self.space.len() < self.read_size / 4 {
            self.space.reserve(self.read_size);
        }
        let room = self.space.capacity() - self.space.len();
        let read = ready!(pin!(self.stream.read_buf(&mut self.space)).poll(cx))?;
        if read == room {
            self.read_size = (self.read_size * 2).min(MAX_READ);
        }
        if !matches!(self.receiving, Receiving::Head { partial: true, .. }) {
            // All of `rest` was used, or there would have been no read.
            self.rest = self.space.split().freeze();
        }
        Poll::Ready(Ok(read))
    }

    /// The next head among what was read, if it is whole.
    fn next_head(&mut self) -> Result<Option<head::Head>, Error> {
        let Receiving::Head { partial, .. } = &mut self.receiving else {
            return Err(Error::Malformed("no request is on its way"));
        };
        if *partial && head::is_whole(&self.space) {
            *partial = false;
            self.rest = self.space.split().freeze();
        }
        if *partial || self.rest.is_empty() {
            return if self.space.len() > MAX_HEAD {
                Err(Error::TooLarge)
            } else {
                Ok(None)
            };
        }
        match head::read(&self.rest)? {
            Some(head) if head.bytes > MAX_HEAD => Err(Error::TooLarge),
            Some(head) => {
                bytes::Buf::advance(&mut self.rest, head.bytes);
                Ok(Some(head))
            }
            None => {
                // Rare: the head came in several reads. It is put together in one place.
                *partial = true;
                let begun = std::mem::take(&mut self.rest);
                self.space = BytesMut::with_capacity(begun.len() + MIN_READ);
                self.space.extend_from_slice(&begun);
                Ok(None)
            }
        }
    }

    fn has_begun_head(&self) -> bool {
        matches!(self.receiving, Receiving::Head { partial, interim } if partial || interim > 0)
    }

    fn count_interim(&mut self) -> Result<(), Error> {
        match &mut self.receiving {
            Receiving::Head { interim, .. } if *interim < MAX_INTERIM => {
                *interim += 1;
                Ok(())
            }
            _ => Err(Error::Malformed("interim responses without end")),
        }
    }

    fn begin_body(&mut self, head: head::Head) -> Result<Parts, Error> {
        let (end, persistent) = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.receiving = Receiving::Switched;
            (None, false)
        } else {
            let (end, persistent) = head::framing(&head, self.to_head_request)?;
            (Some(end), persistent)
        };
        self.persistent = persistent;
        match end {
            None => {}
            Some(BodyEnd::Empty) => self.receiving = Receiving::Nothing,
            Some(BodyEnd::Sized(length)) => self.receiving = Receiving::Sized(length),
            Some(BodyEnd::Chunked) => self.receiving = Receiving::Chunked(Chunked::default()),
            Some(BodyEnd::Close) => self.receiving = Receiving::UntilClose,
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        Ok(response.into_parts().0)
    }

    /// The next part of the body among what was read.
    fn next_part(&mut self) -> Result<Part, Error> {
        match &mut self.receiving {
            Receiving::Nothing => Ok(Part::End(None)),
            Receiving::Head { .. } | Receiving::Switched => Err(Error::Malformed("there is no body")),
            Receiving::Chunked(chunked) => chunked.next(&mut self.rest),
            Receiving::Sized(_) | Receiving::UntilClose if self.rest.is_empty() => Ok(Part::More),
            Receiving::UntilClose => Ok(Part::Data(std::mem::take(&mut self.rest))),
            Receiving::Sized(left) => {
                let length = self.rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let data = self.rest.split_to(length);
                *left -= length as u64;
                if *left == 0 {
                    self.receiving = Receiving::Nothing;
                }
                Ok(Part::Data(data))
            }
        }
    }
}

/// What one write is given: head, data, tail, as far as they are there.
struct Unwritten<'a> {
    parts: [io::IoSlice<'a>; 3],
    count: usize,
}

impl<'a> Unwritten<'a> {
    fn as_slice(&self) -> &[io::IoSlice<'a>] {
        &self.parts[..self.count]
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    fn is_done(&self) -> bool {
        !self.failed
            && self.flushed
            && self.body.is_none()
            && self.written_head == self.head.len()
            && self.data.is_empty()
            && self.tail.is_empty()
    }

    /// Takes the body's next frame, if there is room for one; it goes out together with the head. True: the body has
    /// nothing yet.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let Some(body) = &mut self.body else {
            return Ok(false);
        };
        if !self.data.is_empty() || !self.tail.is_empty() {
            return Ok(false);
        }
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return Ok(true),
            Poll::Ready(Some(Err(_))) => return Err(Error::RequestBody),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    let ends = body.is_end_stream();
                    self.take(data)?;
                    if ends {
                        self.end(&HeaderMap::new())?;
                    }
                }
                Err(frame) => self.end(&frame.into_trailers().unwrap_or_default())?,
            },
            Poll::Ready(None) => self.end(&HeaderMap::new())?,
        }
        Ok(false)
    }

    fn take(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.length {
            BodyLength::Sized(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Error::RequestBody)?;
            }
            BodyLength::Chunked => {
                self.drop_written_head();
                encode::chunk_size(&mut self.head, data.len());
                self.tail = b"\r\n";
            }
            BodyLength::Empty => return Err(Error::RequestBody),
        }
        self.data = data;
        Ok(())
    }

    /// The body has ended; fields at its end are for bodies in chunks only.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Error> {
        self.body = None;
        match self.length {
            BodyLength::Chunked if self.data.is_empty() => {
                self.drop_written_head();
                encode::last_chunk(&mut self.head, trailers);
            }
            BodyLength::Chunked => self.tail = b"\r\n0\r\n\r\n",
            BodyLength::Sized(0) | BodyLength::Empty => {}
            BodyLength::Sized(_) => return Err(Error::RequestBody),
        }
        Ok(())
    }

    fn drop_written_head(&mut self) {
        self.head.drain(..self.written_head);
        self.written_head = 0;
    }

    /// What is to be written; none: nothing.
    fn unwritten(&self) -> Option<Unwritten<'_>> {
        let mut unwritten = Unwritten {
            parts: [io::IoSlice::new(&[]); 3],
            count: 0,
        };
        for part in [&self.head[self.written_head..], &self.data, self.tail] {
            if !part.is_empty() {
                unwritten.parts[unwritten.count] = io::IoSlice::new(part);
                unwritten.count += 1;
            }
        }
        (unwritten.count > 0).then_some(unwritten)
    }

    fn wrote(&mut self, mut bytes: usize) {
        self.begun = true;
        self.flushed = false;
        let of_head = bytes.min(self.head.len() - self.written_head);
        self.written_head += of_head;
        bytes -= of_head;
        let of_data = bytes.min(self.data.len());
        bytes::Buf::advance(&mut self.data, of_data);
        bytes -= of_data;
        self.tail = &self.tail[bytes.min(self.tail.len())..];
    }

    fn give_up(&mut self) {
        self.failed = true;
        self.body = None;
        self.written_head = self.head.len();
        self.data = Bytes::new();
        self.tail = b"";
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

#[cfg(test)]
mod tests;
