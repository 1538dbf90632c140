//! What the tests of the data plane share: the real app in the test's process, endpoints that do as they are told, and
//! clients that say exactly which bytes they send.
//!
//! Nothing here measures time. [`soon`] ends a test that hangs; what takes less is never judged by its duration.

// Each test binary is compiled with this room and uses a part of it.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod client;
pub mod endpoint;
pub mod frames;
pub mod proxy;
pub mod tls;
pub mod wire;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::mpsc;

pub use client::{Client, Down};
pub use endpoint::{Endpoint, H1, H2C};
pub use proxy::{Line, Proxy, Setup, lines_of};
pub use wire::{Message, Wire};

/// Longer than anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The future's result; a test that would wait for ever fails instead.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("nothing came of: {what}"),
    }
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A body of any kind.
pub type Boxed = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// No body.
pub fn empty() -> Boxed {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is known whole.
pub fn full(bytes: impl Into<Bytes>) -> Boxed {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes frame by frame; one frame waits at the most. Dropping the sender ends it.
pub fn fed() -> (mpsc::Sender<io::Result<Frame<Bytes>>>, Boxed) {
    let (sender, frames) = mpsc::channel(1);
    (sender, Fed { frames }.boxed_unsync())
}

struct Fed {
    frames: mpsc::Receiver<io::Result<Frame<Bytes>>>,
}

impl Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.frames.poll_recv(cx)
    }
}

/// A frame of data.
pub fn data(bytes: impl Into<Bytes>) -> io::Result<Frame<Bytes>> {
    Ok(Frame::data(bytes.into()))
}

/// Bytes that are not all the same, so that a piece that is lost or moved shows.
pub fn pattern(length: usize) -> Bytes {
    (0..length)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8)
        .collect::<Vec<_>>()
        .into()
}
