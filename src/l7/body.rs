//! The response's body on its way to the client, and what ends with it: the lease of the endpoint's connection, the
//! place among exchanges in flight, the record.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::downstream::StallPlace;
use super::headers::forward_trailers;
use super::record::Record;
use super::upload::{RequestBody, UploadFailure};
use crate::runtime::timers::Timer;
use crate::telemetry::Outcome;
use crate::upstream::Lease;

/// A response's body.
#[derive(Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// One of Tidegate's own.
    Full(Bytes),
    /// An endpoint's.
    Relay(Box<Relay>),
}

/// An endpoint's response body, streamed.
pub struct Relay {
    /// The connection that the body comes from; given back with its end.
    lease: Option<Lease<RequestBody>>,
    record: Record,
    place: Option<StallPlace>,
    timer: Option<Timer>,
    idle: Option<Duration>,
    waiting_since: Option<Instant>,
    finished: bool,
}

/// Why a response body breaks off.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum BodyError {
    /// The endpoint's body broke off.
    #[error("the endpoint's response broke off")]
    Truncated,
    /// The endpoint's body stopped for too long.
    #[error("the endpoint's response stopped for too long")]
    Stalled,
}

impl Relay {
    /// Takes over from the exchange: the lease ends with the body, the record is written then.
    pub fn new(lease: Lease<RequestBody>, record: Record, idle: Option<Duration>) -> Box<Self> {
        let ends = lease.is_end_of_body();
        let mut relay = Box::new(Self {
            lease: Some(lease),
            record,
            place: None,
            timer: None,
            idle,
            waiting_since: None,
            finished: false,
        });
        if ends {
            relay.finish();
        }
        relay
    }

    fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            self.record.end(Outcome::Answered);
            if let Some(lease) = self.lease.take() {
                lease.finish();
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(lease) = &mut self.lease else {
            return Poll::Ready(None);
        };
        match lease.poll_body(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(self.pass(frame)))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(
                self.fail(Outcome::UpstreamTruncated, BodyError::Truncated)
            ))),
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(place) = &self.place {
                    place.taken();
                }
                let Some(idle) = self.idle else {
                    return Poll::Pending;
                };
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                let timer = self
                    .timer
                    .get_or_insert_with(|| self.record.worker().timers.lease());
                ready!(timer.poll_passed(cx, since + idle));
                Poll::Ready(Some(Err(self.fail(Outcome::UpstreamStalled, BodyError::Stalled))))
            }
        }
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.waiting_since = None;
        let frame = match frame.into_data() {
            Ok(data) => {
                self.record.passed(data.len() as u64);
                Frame::data(data)
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                forward_trailers(&mut trailers);
                self.record.trailers(&mut trailers);
                Frame::trailers(trailers)
            }
        };
        if self.lease.as_ref().is_none_or(Lease::is_end_of_body) {
            self.finish();
        } else {
            let worker = self.record.worker();
            let place = self
                .place
                .get_or_insert_with(|| self.record.from().stalls.enter());
            place.given(worker.now());
        }
        frame
    }

    fn fail(&mut self, outcome: Outcome, error: BodyError) -> BodyError {
        self.finished = true;
        self.lease = None;
        // The client's own failure shows first at the endpoint when the request's body was still on its way.
        let client = self.record.upload_failure().map(|failure| match failure {
            UploadFailure::Stalled => Outcome::ClientStalled,
            UploadFailure::Broken => Outcome::ClientBody,
        });
        if client.is_none()
            && let Some(in_flight) = self.record.in_flight()
        {
            in_flight.broke();
        }
        self.record.end(client.unwrap_or(outcome));
        error
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let body = self.get_mut();
        match body {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Relay(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Relay(relay) => relay.finished,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relay(relay) => match &relay.lease {
                Some(lease) => lease.body_left(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}
