//! The client of the demo: an even stream of requests over a few HTTP/1.1 connections.
//!
//! Each connection has its own times to send at, evenly spread between those of the others. A connection that waits for an
//! answer leaves out the times that pass: the rate is a wish, and what counts is that no request fails.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::telemetry::histogram::Histogram;

/// What the client has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that were answered with anything but 200, or not at all.
    pub failures: u64,
    /// From sending a request to the last byte of its answer.
    pub latency: Histogram,
}

/// A running client.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    connections: JoinSet<()>,
}

/// Requests per second that one connection is good for, should each take 25 ms.
const PER_CONNECTION: u32 = 40;
/// The longest wait for an answer: longer than any deadline of the route.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause after a connection that could not be made.
const PAUSE: Duration = Duration::from_millis(100);

impl Load {
    /// Begins to send `rate` requests per second. Needs a runtime.
    pub fn start(target: SocketAddr, rate: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let count = (rate / PER_CONNECTION).clamp(4, 64);
        let period = Duration::from_secs(1) * count / rate.max(1);
        let begin = Instant::now();
        let mut connections = JoinSet::new();
        for number in 0..count {
            let first = begin + period * number / count;
            connections.spawn(send(target, first, period, Arc::clone(&tally), stopped.clone()));
        }
        Self {
            tally,
            stop,
            connections,
        }
    }

    /// What was seen until now.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Sends nothing more, waits for the answers that are due, and closes.
    pub async fn stop(mut self) -> Tally {
        let _ = self.stop.send(true);
        while self.connections.join_next().await.is_some() {}
        self.tally()
    }
}

async fn send(
    target: SocketAddr,
    first: Instant,
    period: Duration,
    tally: Arc<Mutex<Tally>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut open: Option<Connection> = None;
    let mut next = first;
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return,
            () = sleep_until(next) => {}
        }
        let started = Instant::now();
        let answered = timeout(PATIENCE, ask(&mut open, target)).await;
        let ok = matches!(answered, Ok(Ok(StatusCode::OK)));
        if !ok {
            open = None;
        }
        {
            let mut tally = lock(&tally);
            tally.requests += 1;
            tally.failures += u64::from(!ok);
            let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            tally.latency.record(us);
        }
        let now = Instant::now();
        next = (next + period).max(if ok { now } else { now + PAUSE });
    }
}

/// One request, over the open connection or a new one. A kept connection that the other side closed before the request
/// was sent is no failure (RFC 9112 §9.3.1 leaves it the right to).
async fn ask(open: &mut Option<Connection>, target: SocketAddr) -> Result<StatusCode, LoadError> {
    if let Some(connection) = open
        && connection.is_ready().await
    {
        match connection.get().await {
            Err(LoadError::Unsent) => {}
            answered => return answered,
        }
    }
    open.insert(Connection::open(target).await?).get().await
}

/// One HTTP/1.1 connection of the client.
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: HeaderValue,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection was closed before the request was sent.
    #[error("the connection was closed")]
    Unsent,
    /// The connection ended before the answer did, or the answer is no HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
}

impl Connection {
    /// Connects.
    pub async fn open(target: SocketAddr) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; what goes wrong is told to whoever waits for an answer.
        tokio::spawn(async move { drop(driver.await) });
        let host = HeaderValue::try_from(target.to_string()).unwrap_or(HeaderValue::from_static("localhost"));
        Ok(Self { sender, host })
    }

    /// Whether it can take a request.
    pub async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Asks once, and reads the whole answer.
    pub async fn get(&mut self) -> Result<StatusCode, LoadError> {
        let mut request = Request::new(Empty::new());
        request.headers_mut().insert(HOST, self.host.clone());
        let mut response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                return Err(if unsent {
                    LoadError::Unsent
                } else {
                    LoadError::Broken(error.into_error())
                });
            }
        };
        while let Some(frame) = response.body_mut().frame().await {
            frame?;
        }
        Ok(response.status())
    }
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::pod::{Behaviour, Pod};

    #[tokio::test]
    async fn counts_what_is_answered_and_what_is_not() {
        let pod = Pod::start("checkout-1").await.unwrap();
        let load = Load::start(pod.address(), 400);
        while load.tally().requests < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(load.tally().failures, 0);
        pod.behave(Behaviour::Failing);
        while load.tally().failures < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let tally = load.stop().await;
        assert_eq!(tally.requests, pod.requests(), "none is lost, none asked twice");
        assert_eq!(tally.latency.count(), tally.requests);
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure() {
        let pod = Pod::start("checkout-1").await.unwrap();
        let nowhere = pod.address();
        drop(pod);
        let load = Load::start(nowhere, 100);
        while load.tally().failures < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        load.stop().await;
    }
}
