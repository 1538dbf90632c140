//! The admin listener's connections: HTTP/1, few at once, none for ever.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time;

use super::AdminState;
use super::reply::reply;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;

/// Time for a request's head, and for the silence before it.
const HEAD_DEADLINE: Duration = Duration::from_secs(20);

/// A connection takes no new request after this …
const LIFETIME: Duration = Duration::from_secs(120);

/// … and ends after this, whatever it does (a reader that has stopped reading).
const LAST_REPLY: Duration = Duration::from_secs(20);

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Time for replies to end after the shutdown.
const FAREWELL: Duration = Duration::from_secs(1);

/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready; replies that are under way get a second to end.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    let loopback = listener
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let (state, ended) = (Arc::clone(&state), ended.clone());
                connections.spawn(async move {
                    connection(stream, state, loopback, ended).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot take a connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    // What is still there after that ends with the set.
    let _ = time::timeout(FAREWELL, all).await;
}

async fn connection(
    stream: TcpStream,
    state: Arc<AdminState>,
    loopback: bool,
    mut ended: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (head, _) = request.into_parts();
            // On a thread that may be kept busy: a large world takes milliseconds to write down.
            // If that panics, the connection is closed.
            tokio::task::spawn_blocking(move || reply(&state, loopback, &head)).await
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    tokio::select! {
        // How a connection ends is of no interest here.
        _ = served.as_mut() => return,
        () = time::sleep(LIFETIME) => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = time::timeout(LAST_REPLY, served).await;
}

#[cfg(test)]
mod tests;
