//! Active checks: endpoints are asked beside the traffic whether they are well.
//!
//! One prober asks for all workers, on the control plane, so that an endpoint gets one question per interval whatever
//! the number of cores. Questions are spread: the first comes at a random moment of the interval, the next ones ±10 %.
//! An endpoint that has never been asked counts as healthy, so that a start does not wait for checks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::connect::{dial, shake};
use crate::balance::{Clock, EndpointCell};
use crate::model::{ActiveCheck, BackendProtocol, CheckKind, UpstreamTls};

/// An endpoint that wants to be asked.
pub struct Subject {
    /// Where the answer is noted.
    pub cell: Arc<EndpointCell>,
    /// What is asked, and how often.
    pub check: Arc<ActiveCheck>,
    /// Told whenever the checks change their mind, with the new health; by reference, so that many subjects share it.
    pub told: Arc<dyn Fn(bool) + Send + Sync>,
    /// How it is connected to.
    pub tls: Option<Arc<UpstreamTls>>,
}

/// Asks all subjects.
pub struct Prober {
    clock: Clock,
    tallies: HashMap<u64, Tally>,
    slots: Arc<Semaphore>,
    answers: tokio::sync::mpsc::Sender<(u64, bool)>,
    inbox: tokio::sync::mpsc::Receiver<(u64, bool)>,
}

/// Questions under way at once.
const MAX_QUESTIONS: usize = 128;
/// How often the prober looks who is due.
const LOOK: Duration = Duration::from_millis(50);

/// What was answered lately by one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    next: Instant,
    asking: bool,
    healthy: bool,
    /// Answers in a row that speak against `healthy`.
    against: u32,
}

impl Tally {
    fn starting(next: Instant) -> Self {
        Self {
            next,
            asking: false,
            healthy: true,
            against: 0,
        }
    }

    /// Takes an answer; gives the new health if it changes.
    fn answer(&mut self, good: bool, check: &ActiveCheck) -> Option<bool> {
        if good == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = if self.healthy {
            check.unhealthy_after
        } else {
            check.healthy_after
        };
        if self.against < enough.max(1) {
            return None;
        }
        self.healthy = good;
        self.against = 0;
        Some(good)
    }
}

impl Prober {
    /// A prober that has asked nobody.
    pub fn new(clock: Clock) -> Self {
        let (answers, inbox) = tokio::sync::mpsc::channel(MAX_QUESTIONS);
        Self {
            clock,
            tallies: HashMap::new(),
            slots: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            answers,
            inbox,
        }
    }

    /// Asks for ever. `subjects` says who there is now.
    pub async fn run(mut self, subjects: impl Fn() -> Vec<Subject>) {
        let mut known: HashMap<u64, Subject> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut refresh = Instant::now();
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if Instant::now() >= refresh {
                        refresh = Instant::now() + 4 * LOOK;
                        known = subjects().into_iter().map(|subject| (subject.cell.id(), subject)).collect();
                        self.tallies.retain(|id, _| known.contains_key(id));
                    }
                    self.ask_due(&known);
                }
                Some((id, good)) = self.inbox.recv() => self.note(known.get(&id), good),
            }
        }
    }

    fn ask_due(&mut self, known: &HashMap<u64, Subject>) {
        let now = Instant::now();
        for (id, subject) in known {
            let first = || Tally::starting(now + subject.check.interval.mul_f64(fastrand::f64()));
            let tally = self.tallies.entry(*id).or_insert_with(first);
            if tally.asking || now < tally.next {
                continue;
            }
            // All are busy: this one is asked at the next look.
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                return;
            };
            tally.asking = true;
            tally.next = now + subject.check.interval.mul_f64(0.9 + 0.2 * fastrand::f64());
            let (answers, check, tls, address, id) = (
                self.answers.clone(),
                Arc::clone(&subject.check),
                subject.tls.clone(),
                subject.cell.address(),
                *id,
            );
            tokio::spawn(async move {
                let good = tokio::time::timeout(check.timeout, ask(address, &check, tls.as_deref()))
                    .await
                    .unwrap_or(false);
                drop(slot);
                let _ = answers.send((id, good)).await;
            });
        }
    }

    fn note(&mut self, subject: Option<&Subject>, good: bool) {
        let Some(subject) = subject else { return };
        let Some(tally) = self.tallies.get_mut(&subject.cell.id()) else {
            return;
        };
        tally.asking = false;
        if let Some(healthy) = tally.answer(good, &subject.check) {
            tracing::info!(endpoint = %subject.cell.address(), healthy, "an active check changed its mind");
            subject.cell.set_checked_health(healthy, self.clock.now());
            (subject.told)(healthy);
        }
    }
}

/// Asks once. False: no good answer; the caller bounds the time.
async fn ask(endpoint: SocketAddr, check: &ActiveCheck, tls: Option<&UpstreamTls>) -> bool {
    let address = SocketAddr::new(endpoint.ip(), check.port.unwrap_or(endpoint.port()));
    let Ok(stream) = dial(address, check.timeout).await else {
        return false;
    };
    match &check.kind {
        CheckKind::Tcp => true,
        CheckKind::Http { path, host, statuses } => {
            let host = host.as_deref().map_or_else(|| address.to_string(), str::to_owned);
            let status = match tls {
                None => get(stream, path, &host).await,
                Some(tls) => match shake(stream, tls, BackendProtocol::Http1).await {
                    Ok(stream) => get(stream, path, &host).await,
                    Err(_) => None,
                },
            };
            status.is_some_and(|status| statuses.0 <= status && status <= statuses.1)
        }
    }
}

async fn get<S>(stream: S, path: &str, host: &str) -> Option<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .ok()?;
    let request = Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::USER_AGENT, "tidegate-check")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = async { sender.send_request(request).await.ok() };
    tokio::select! {
        response = response => response.map(|response| response.status()),
        _ = connection => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(unhealthy_after: u32, healthy_after: u32) -> ActiveCheck {
        let (interval, timeout) = (Duration::from_millis(20), Duration::from_millis(500));
        ActiveCheck {
            kind: CheckKind::Tcp,
            interval,
            timeout,
            healthy_after,
            unhealthy_after,
            port: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn health_changes_after_so_many_answers_in_a_row() {
        let check = check(3, 2);
        let mut tally = Tally::starting(Instant::now());
        let answers = [
            false, false, true, false, false, false, true, false, true, true, true,
        ];
        let changes: Vec<_> = answers.iter().map(|good| tally.answer(*good, &check)).collect();
        let mut expected = [None; 11];
        expected[5] = Some(false);
        expected[9] = Some(true);
        assert_eq!(changes, expected);
    }

    #[tokio::test]
    async fn an_endpoint_that_nobody_serves_is_noted_and_one_that_comes_back_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let clock = Clock::new();
        let cell = EndpointCell::new(address, clock.now());
        let subject = Arc::clone(&cell);
        let check = Arc::new(check(2, 1));
        let prober = tokio::spawn(Prober::new(clock).run(move || {
            vec![Subject {
                cell: Arc::clone(&subject),
                check: Arc::clone(&check),
                told: Arc::new(|_| {}),
                tls: None,
            }]
        }));
        let wait_for = async |healthy| {
            while cell.view(clock.now()).checked_healthy != healthy {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let deadline = Duration::from_secs(20);
        tokio::time::timeout(deadline, wait_for(false))
            .await
            .expect("it is found to be sick");
        let back = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::time::timeout(deadline, wait_for(true))
            .await
            .expect("it is found to be well");
        drop(back);
        prober.abort();
    }
}
