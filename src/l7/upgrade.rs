//! Upgrades: an exchange that turns into bytes both ways (WebSocket).
//!
//! From HTTP/1.1 it is `Upgrade: websocket` (RFC 6455), from HTTP/2 an extended CONNECT (RFC 8441). To the endpoint it
//! is always HTTP/1.1. Nothing of the client's is read as part of the new protocol before the endpoint has agreed to it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite};

use super::record::Record;
use crate::l4::copy::{CopyEnd, CopyPlan, Meter, copy_both};
use crate::l4::prefixed::Prefixed;
use crate::telemetry::Outcome;
use crate::upstream::lease::Socket;

/// An upgraded exchange that waits for the client's side of the connection.
pub struct Tunnel {
    /// The endpoint's side.
    pub upstream: Socket,
    /// Silence allowed.
    pub idle: Option<Duration>,
    /// The exchange's record.
    pub record: Record,
}

impl Tunnel {
    /// Carries bytes until both sides have ended. `early` is what the client sent behind its request.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, client: S, early: Bytes) {
        let worker = self.record.worker();
        let meter = Meter::default();
        let plan = CopyPlan {
            idle: self.idle,
            timer: worker.timers.lease(),
            scratch: &worker.scratch,
            meter: &meter,
            on_first: |_| {},
        };
        let mut client = Prefixed::new(early, client);
        let Socket { stream, read, slot } = self.upstream;
        let mut endpoint = Prefixed::new(read, stream);
        let end = copy_both(&mut client, &mut endpoint, plan).await;
        drop(slot);
        self.record.passed(meter.back.get());
        self.record.took(meter.forth.get());
        self.record.end(match end {
            // A WebSocket whose peer closes without ceremony has ended all the same.
            CopyEnd::Finished(_) | CopyEnd::Broken(_) => Outcome::Upgraded,
            CopyEnd::Idle => Outcome::UpgradeIdle,
        });
    }
}

/// Adds what asks an endpoint for an upgrade.
pub fn ask(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Adds what an HTTP/2 client leaves out, because its stream needs no proof that the endpoint understands (RFC 8441 §5).
pub fn ask_for_stream(headers: &mut HeaderMap, random: &mut fastrand::Rng) {
    ask(headers, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_KEY, nonce(random));
    if !headers.contains_key(SEC_WEBSOCKET_VERSION) {
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
}

/// Takes away what an HTTP/2 client has no use for.
pub fn answer_stream(headers: &mut HeaderMap) {
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        headers.remove(name);
    }
}

/// 16 random bytes in base64: 21 free characters, one that carries two bits, and the padding.
fn nonce(random: &mut fastrand::Rng) -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    for place in &mut text[..21] {
        *place = ALPHABET[random.usize(..64)];
    }
    text[21] = b"AQgw"[random.usize(..4)];
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_sixteen_bytes_of_base64() {
        let mut random = fastrand::Rng::with_seed(1);
        let text = nonce(&mut random);
        assert!(text.to_str().unwrap().ends_with("==") && text.len() == 24);
        assert_ne!(nonce(&mut random), text);
    }
}
