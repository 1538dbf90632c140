//! Interim responses (1xx) on their way to an HTTP/1 client.
//!
//! The HTTP library's server writes final responses only. Interim ones are written as bytes of our own into the
//! connection, between the responses before and the response to come.

use std::cell::RefCell;
use std::fmt::Write;
use std::task::Context;

use http::{HeaderMap, StatusCode};

use super::headers::forward_interim;

/// Bytes of interim responses that may wait for the socket.
const MAX_WAITING: usize = 64 * 1024;

/// Interim responses that wait for a connection's socket.
#[derive(Debug, Default)]
pub struct Interim {
    bytes: RefCell<Vec<u8>>,
}

impl Interim {
    /// Passes an endpoint's interim response on. Called by the task that serves the client's connection, which is
    /// woken to write it.
    pub fn pass(&self, cx: &mut Context<'_>, status: StatusCode, mut headers: HeaderMap) {
        // What the client expects was answered here (RFC 9110 §10.1.1).
        if status != StatusCode::CONTINUE {
            forward_interim(&mut headers);
            self.push(status, &headers);
            cx.waker().wake_by_ref();
        }
    }

    /// Queues a response; one that does not fit is left out (RFC 9110 §15.2: a proxy may discard it).
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut head = String::new();
        let _ = write!(
            head,
            "HTTP/1.1 {} {}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        );
        let mut bytes = self.bytes.borrow_mut();
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
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    /// What waits, to be written.
    pub fn take(&self) -> Vec<u8> {
        self.bytes.take()
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
