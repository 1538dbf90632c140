//! Interim responses (1xx) on their way to an HTTP/1 client.
//!
//! The HTTP library's server writes final responses only. Interim ones are written as bytes of our own into the
//! connection, between the responses before and the response to come. The library's client hands them to a callback
//! that must be able to cross threads, though it never does here: hence a lock, which nobody ever waits for and which
//! is taken only when there is something.

use std::fmt::Write;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use http::{HeaderMap, Request, StatusCode};

use super::headers::forward_interim;

/// Bytes of interim responses that may wait for the socket.
const MAX_WAITING: usize = 64 * 1024;

/// Interim responses that wait for a connection's socket.
#[derive(Debug, Default)]
pub struct Interim {
    bytes: Mutex<Vec<u8>>,
    /// Whether there are any, for the many times that there are none.
    waiting: AtomicBool,
}

/// Has interim responses to a request passed on. Called by the task that serves the client's connection, which is woken
/// when there is something to write. About 60 ns per request.
pub async fn pass_on<B>(request: &mut Request<B>, interim: &Arc<Interim>) {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let interim = Arc::clone(interim);
    hyper::ext::on_informational(request, move |response| {
        // What the client expects was answered here (RFC 9110 §10.1.1).
        if response.status() != StatusCode::CONTINUE {
            let mut headers = response.headers().clone();
            forward_interim(&mut headers);
            interim.push(response.status(), &headers);
            waker.wake_by_ref();
        }
    });
}

impl Interim {
    /// Queues a response; one that does not fit is left out (RFC 9110 §15.2: a proxy may discard it).
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut head = String::new();
        let _ = write!(
            head,
            "HTTP/1.1 {} {}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        );
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let length = head.len()
            + headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + 4)
                .sum::<usize>()
            + 2;
        if bytes.len() + length > MAX_WAITING {
            return;
        }
        bytes.extend_from_slice(head.as_bytes());
        for (name, value) in headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        self.waiting.store(true, Ordering::Relaxed);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        !self.waiting.load(Ordering::Relaxed)
    }

    /// What waits, to be written.
    pub fn take(&self) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        self.waiting.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_a_head() {
        let interim = Interim::default();
        let headers = HeaderMap::from_iter([(http::header::LINK, "</a.css>; rel=preload".parse().unwrap())]);
        interim.push(StatusCode::EARLY_HINTS, &headers);
        assert_eq!(
            interim.take(),
            b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        );
        let large = HeaderMap::from_iter([(http::header::LINK, "a".repeat(MAX_WAITING).parse().unwrap())]);
        interim.push(StatusCode::EARLY_HINTS, &large);
        assert!(interim.is_empty());
    }
}
