//! The request's body on its way to an endpoint, and again to another one if it must be.
//!
//! The client's body belongs to the exchange, not to an attempt: an attempt borrows it through [`RequestBody`]. Frames
//! that passed are kept while they fit the rule's bound, so that the next attempt can send them again before it goes on
//! with the rest. Nothing is collected that is not wanted for that, and the client is read only as fast as the endpoint
//! takes.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::headers::forward_trailers;
use crate::runtime::timers::{Timer, Timers};

/// A client's request body.
pub struct Upload {
    incoming: RefCell<Incoming>,
    timer: RefCell<Timer>,
    idle: Duration,
    /// Since when the client has been waited for.
    waiting_since: Cell<Option<Instant>>,
    kept: RefCell<Kept>,
    bytes: Cell<u64>,
    /// The end was met. A body of unknown length does not know beforehand.
    ended: Cell<bool>,
    failure: Cell<Option<UploadFailure>>,
}

/// Frames kept for another attempt.
#[derive(Debug, Default)]
struct Kept {
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    /// Bytes that may be kept; 0 once more than that has passed.
    bound: usize,
    /// Frames have passed that were not kept.
    lost: bool,
}

/// Frames kept at the most; tiny ones cost more than their bytes.
const MAX_KEPT_FRAMES: usize = 1024;

/// Why a request body did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadFailure {
    /// The client stopped sending for too long.
    #[error("the client's body stopped for too long")]
    Stalled,
    /// The client went away or broke the framing.
    #[error("the client's body broke off")]
    Broken,
}

impl Upload {
    /// A body to be sent, of which `keep` bytes may be kept for another attempt.
    pub fn new(incoming: Incoming, timers: &Rc<Timers>, idle: Duration, keep: u32) -> Rc<Self> {
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            timer: RefCell::new(timers.lease()),
            idle,
            waiting_since: Cell::new(None),
            kept: RefCell::new(Kept {
                bound: keep as usize,
                lost: keep == 0,
                ..Kept::default()
            }),
            bytes: Cell::new(0),
            ended: Cell::new(false),
            failure: Cell::new(None),
        })
    }

    /// Bytes taken from the client so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Why the client's body ended before its end, if it did.
    pub fn failure(&self) -> Option<UploadFailure> {
        self.failure.get()
    }

    /// Whether an attempt can send it from its start.
    pub fn replayable(&self) -> bool {
        self.bytes.get() == 0 || !self.kept.borrow().lost
    }

    /// The whole body, if it has come to its end and was kept.
    pub fn whole(&self) -> Option<Vec<Bytes>> {
        self.is_whole().then(|| self.kept.borrow().frames.clone())
    }

    /// Whether the body has come to its end and was kept.
    pub fn is_whole(&self) -> bool {
        let ended = self.ended.get() || self.incoming.borrow().is_end_stream();
        ended && !self.kept.borrow().lost
    }

    /// Whether everything that passed was kept.
    pub fn keeps(&self) -> bool {
        !self.kept.borrow().lost
    }

    fn poll_client(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFailure>>> {
        if let Some(failure) = self.failure.get() {
            return Poll::Ready(Some(Err(failure)));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting_since.set(None);
                Poll::Ready(Some(Ok(self.pass(frame))))
            }
            Poll::Ready(Some(Err(_))) => self.fail(UploadFailure::Broken),
            Poll::Ready(None) => {
                self.ended.set(true);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let since = self.waiting_since.get().unwrap_or_else(Instant::now);
                self.waiting_since.set(Some(since));
                ready!(self.timer.borrow_mut().poll_passed(cx, since + self.idle));
                self.fail(UploadFailure::Stalled)
            }
        }
    }

    fn fail(&self, failure: UploadFailure) -> Poll<Option<Result<Frame<Bytes>, UploadFailure>>> {
        self.failure.set(Some(failure));
        Poll::Ready(Some(Err(failure)))
    }

    fn pass(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut kept = self.kept.borrow_mut();
        match frame.into_data() {
            Ok(data) => {
                self.bytes.set(self.bytes.get() + data.len() as u64);
                if kept.size + data.len() <= kept.bound && kept.frames.len() < MAX_KEPT_FRAMES {
                    kept.size += data.len();
                    kept.frames.push(data.clone());
                } else {
                    kept.lost = true;
                    kept.frames = Vec::new();
                    kept.bound = 0;
                }
                Frame::data(data)
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                forward_trailers(&mut trailers);
                self.ended.set(true);
                if !kept.lost {
                    kept.trailers = Some(trailers.clone());
                }
                Frame::trailers(trailers)
            }
        }
    }
}

/// The body of one attempt.
#[derive(Default)]
pub struct RequestBody {
    from: From,
    /// Kept frames sent so far by this attempt.
    replayed: usize,
    /// Whether this attempt has sent trailers, which come last.
    trailed: bool,
}

#[derive(Default)]
enum From {
    /// No body.
    #[default]
    Nothing,
    /// The client's.
    Client(Rc<Upload>),
    /// One that is known whole.
    Whole(Vec<Bytes>),
}

impl RequestBody {
    /// The client's body, from its start.
    pub fn of(upload: &Rc<Upload>) -> Self {
        Self {
            from: From::Client(Rc::clone(upload)),
            ..Self::default()
        }
    }

    /// A body that is known whole.
    pub fn whole(frames: Vec<Bytes>) -> Self {
        Self {
            from: From::Whole(frames),
            ..Self::default()
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let body = self.get_mut();
        match &body.from {
            From::Nothing => Poll::Ready(None),
            From::Whole(frames) => {
                let next = frames.get(body.replayed).cloned();
                body.replayed += 1;
                Poll::Ready(next.map(|data| Ok(Frame::data(data))))
            }
            From::Client(upload) => {
                let again = upload.kept.borrow().frames.get(body.replayed).cloned();
                if let Some(data) = again {
                    body.replayed += 1;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                if body.trailed {
                    return Poll::Ready(None);
                }
                let frame = ready!(upload.poll_client(cx));
                let kept = upload.kept.borrow();
                body.replayed = kept.frames.len();
                let frame = match frame {
                    // An attempt before this one met the end already, with trailers.
                    None => kept
                        .trailers
                        .clone()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                    other => other,
                };
                body.trailed = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Nothing => true,
            From::Whole(frames) => self.replayed >= frames.len(),
            From::Client(upload) => {
                let kept = upload.kept.borrow();
                self.replayed >= kept.frames.len()
                    && (self.trailed || kept.trailers.is_none())
                    && upload.incoming.borrow().is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Nothing => SizeHint::with_exact(0),
            From::Whole(frames) => SizeHint::with_exact(
                frames
                    .iter()
                    .skip(self.replayed)
                    .map(|data| data.len() as u64)
                    .sum(),
            ),
            From::Client(upload) => {
                let kept = upload.kept.borrow();
                let again: u64 = kept
                    .frames
                    .iter()
                    .skip(self.replayed)
                    .map(|data| data.len() as u64)
                    .sum();
                match upload.incoming.borrow().size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(again + rest),
                    None => SizeHint::new(),
                }
            }
        }
    }
}
