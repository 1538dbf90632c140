//! A pod of the demo: a small HTTP/1.1 server on a free port of the loopback, well or sick as it is told.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How a pod answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Behaviour {
    /// After some 2 to 5 ms.
    Healthy,
    /// 40 ms later than that.
    Slow,
    /// With 500, and sooner than a healthy one: the trap for a balancer that looks only at latency.
    Failing,
    /// Not at all.
    Hanging,
}

impl Behaviour {
    /// In a word or two, for a table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Failing => "500s",
            Self::Hanging => "hangs",
        }
    }

    const ALL: [Self; 4] = [Self::Healthy, Self::Slow, Self::Failing, Self::Hanging];
}

/// A running pod; dropping it is its sudden end: its port is closed and its connections break.
#[derive(Debug)]
pub struct Pod {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    behaviour: AtomicU8,
    requests: AtomicU64,
}

/// Connections that a pod serves at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a pod that hangs keeps a request that nobody gives up.
const HANG: Duration = Duration::from_secs(60);

impl Pod {
    /// Starts a healthy pod. Needs a runtime.
    ///
    /// # Errors
    /// The loopback has no free port.
    pub async fn start(name: &'static str) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            name,
            behaviour: AtomicU8::new(Behaviour::Healthy as u8),
            requests: AtomicU64::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it answers from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.behaviour.store(behaviour as u8, Relaxed);
    }

    /// How it answers now.
    pub fn behaviour(&self) -> Behaviour {
        self.shared.behaviour()
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn behaviour(&self) -> Behaviour {
        let number = usize::from(self.behaviour.load(Relaxed));
        Behaviour::ALL.get(number).copied().unwrap_or(Behaviour::Healthy)
    }
}

/// Connections are this task's own: they end with it.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(stream, Arc::clone(&shared)))),
                // No descriptors, most likely: others must end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true); // it works without, only later
    let service = service_fn(|request| answer(request, &shared));
    // An error is the other side's going away; a hanging pod's clients do.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(_: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    shared.requests.fetch_add(1, Relaxed);
    let behaviour = shared.behaviour();
    tokio::time::sleep(service_time(behaviour, fastrand::f64())).await;
    let (status, says) = match behaviour {
        Behaviour::Healthy | Behaviour::Slow => (StatusCode::OK, "answers"),
        Behaviour::Failing | Behaviour::Hanging => (StatusCode::INTERNAL_SERVER_ERROR, "is sick"),
    };
    let mut response = Response::new(Full::from(format!("{} {says}\n", shared.name)));
    *response.status_mut() = status;
    Ok(response)
}

/// How long an answer takes. `chance` is uniform from 0 to 1.
fn service_time(behaviour: Behaviour, chance: f64) -> Duration {
    // Exponential noise of 1 ms on 2 ms, cut off at 8 ms: most answers take 2 to 5 ms.
    let noise = (-(1.0 - chance.clamp(0.0, 1.0)).ln()).min(8.0);
    let healthy = Duration::from_millis(2) + Duration::from_micros((noise * 1000.0) as u64);
    match behaviour {
        Behaviour::Healthy => healthy,
        Behaviour::Slow => healthy + Duration::from_millis(40),
        Behaviour::Failing => Duration::from_millis(1),
        Behaviour::Hanging => HANG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::load::Connection;

    #[test]
    fn service_times_are_those_that_the_story_tells() {
        let ms = Duration::from_millis;
        for (behaviour, least, most) in [
            (Behaviour::Healthy, ms(2), ms(10)),
            (Behaviour::Slow, ms(42), ms(50)),
            (Behaviour::Failing, ms(1), ms(1)),
            (Behaviour::Hanging, HANG, HANG),
        ] {
            for chance in [0.0, 0.5, 0.999_999, 1.0, 7.0] {
                let time = service_time(behaviour, chance);
                assert!((least..=most).contains(&time), "{behaviour:?} {chance}: {time:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_pod_answers_as_told_until_it_is_gone() {
        let pod = Pod::start("checkout-1").await.unwrap();
        let mut connection = Connection::open(pod.address()).await.unwrap();
        assert_eq!(connection.get().await.unwrap(), StatusCode::OK);
        pod.behave(Behaviour::Failing);
        assert_eq!(connection.get().await.unwrap(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!((pod.requests(), pod.behaviour()), (2, Behaviour::Failing));

        let address = pod.address();
        drop(pod);
        assert!(connection.get().await.is_err(), "its connections break");
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await; // the abort takes a turn of the runtime
        }
    }
}
