//! Active checks: endpoints are asked beside the traffic whether they are well.
//!
//! One prober asks for all workers, on the control plane, so that an endpoint gets one question per interval whatever
//! the number of cores. Questions are spread: the first comes at a random moment of the interval, the next ones ±10 %.
//! An endpoint that has never been asked counts as healthy, so that a start does not wait for checks; one that comes
//! later may be told to wait (`before_use`): it is asked at once, and one good answer is enough.
//!
//! `healthy_after` good answers in a row also end an ejection before its time, if the backend's policy says so.

mod ask;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::ask::ask;
use crate::balance::{Clock, EndpointCell};
use crate::model::{ActiveCheck, BackendProtocol, ProxyVersion, UpstreamTls};

/// An endpoint that wants to be asked.
pub struct Subject<T> {
    /// Where the answer is noted.
    pub cell: Arc<EndpointCell>,
    /// What is asked, and how often.
    pub check: Arc<ActiveCheck>,
    /// What is spoken with it.
    pub protocol: BackendProtocol,
    /// How it is connected to.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What connections to it begin with.
    pub proxy: Option<ProxyVersion>,
    /// Whether good answers end an ejection.
    pub ends_ejection: bool,
    /// Who is told of changes.
    pub owner: T,
}

/// What an answer has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It takes no requests any more.
    Sick,
    /// It takes requests again.
    Well,
    /// It was ejected, and is not any more.
    Pardoned,
}

/// The last word on an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the last answer was good.
    pub good: bool,
    /// Why it was not.
    pub why: Option<Arc<str>>,
}

/// The last word on each endpoint, for those who ask.
#[derive(Clone, Debug, Default)]
pub struct Findings(Arc<Mutex<HashMap<u64, Finding>>>);

impl Findings {
    /// The last word on the endpoint with this cell; none when it was not asked yet.
    pub fn of(&self, id: u64) -> Option<Finding> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Finding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all subjects.
pub struct Prober {
    clock: Clock,
    tallies: HashMap<u64, Tally>,
    findings: Findings,
    slots: Arc<Semaphore>,
    answers: tokio::sync::mpsc::Sender<Answer>,
    inbox: tokio::sync::mpsc::Receiver<Answer>,
}

/// Questions under way at once.
const MAX_QUESTIONS: usize = 128;
/// How often the prober looks who is due.
const LOOK: Duration = Duration::from_millis(50);

struct Answer {
    id: u64,
    result: Result<(), String>,
}

/// What was answered lately by one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    next: Instant,
    asking: bool,
    healthy: bool,
    /// Answers in a row that speak against `healthy`.
    against: u32,
    /// Good answers in a row while it was ejected.
    good_while_out: u32,
}

impl Tally {
    fn starting(next: Instant) -> Self {
        Self {
            next,
            asking: false,
            healthy: true,
            against: 0,
            good_while_out: 0,
        }
    }

    /// One that takes no requests before its first good answer.
    fn waiting(now: Instant, check: &ActiveCheck) -> Self {
        Self {
            healthy: false,
            against: check.healthy_after.saturating_sub(1),
            ..Self::starting(now)
        }
    }

    /// Takes an answer; gives what it changes. `is_out`: the endpoint is ejected, and good answers may end that.
    fn answer(&mut self, good: bool, is_out: bool, check: &ActiveCheck) -> Option<Change> {
        self.good_while_out = if good && is_out {
            self.good_while_out + 1
        } else {
            0
        };
        if good == self.healthy {
            self.against = 0;
            return (self.good_while_out >= check.healthy_after.max(1)).then_some(Change::Pardoned);
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
        Some(if good { Change::Well } else { Change::Sick })
    }
}

impl Prober {
    /// A prober that has asked nobody.
    pub fn new(clock: Clock) -> Self {
        let (answers, inbox) = tokio::sync::mpsc::channel(MAX_QUESTIONS);
        Self {
            clock,
            tallies: HashMap::new(),
            findings: Findings::default(),
            slots: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            answers,
            inbox,
        }
    }

    /// Where its findings are to be read.
    pub fn findings(&self) -> Findings {
        self.findings.clone()
    }

    /// Asks for ever. `subjects` says who there is now, `told` hears of changes.
    pub async fn run<T>(
        mut self,
        subjects: impl Fn() -> Vec<Subject<T>>,
        told: impl Fn(&Subject<T>, Change),
    ) {
        let mut known: HashMap<u64, Subject<T>> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut refresh = Instant::now();
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if Instant::now() >= refresh {
                        refresh = Instant::now() + 4 * LOOK;
                        let now = subjects().into_iter().map(|subject| (subject.cell.id(), subject)).collect();
                        let before = std::mem::replace(&mut known, now);
                        self.forget(before, &known);
                    }
                    self.ask_due(&known);
                }
                Some(answer) = self.inbox.recv() => {
                    if let Some(subject) = known.get(&answer.id)
                        && let Some(change) = self.note(subject, answer.result)
                    {
                        told(subject, change);
                    }
                }
            }
        }
    }

    /// Nobody is sick whom nobody asks any more.
    fn forget<T>(&mut self, before: HashMap<u64, Subject<T>>, known: &HashMap<u64, Subject<T>>) {
        for (id, subject) in before {
            if !known.contains_key(&id) {
                self.tallies.remove(&id);
                self.findings.lock().remove(&id);
                subject.cell.set_checked_health(true, self.clock.now());
            }
        }
    }

    fn ask_due<T>(&mut self, known: &HashMap<u64, Subject<T>>) {
        let now = Instant::now();
        for (id, subject) in known {
            let first = || match subject.cell.is_checked_healthy() {
                true => Tally::starting(now + subject.check.interval.mul_f64(fastrand::f64())),
                false => Tally::waiting(now, &subject.check),
            };
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
            let (answers, check) = (self.answers.clone(), Arc::clone(&subject.check));
            let (address, protocol, id) = (subject.cell.address(), subject.protocol, *id);
            let (tls, proxy) = (subject.tls.clone(), subject.proxy);
            tokio::spawn(async move {
                let asking = ask(address, protocol, &check, tls.as_deref(), proxy);
                let asked = tokio::time::timeout(check.timeout, asking).await;
                let result = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                drop(slot);
                let _ = answers.send(Answer { id, result }).await;
            });
        }
    }

    fn note<T>(&mut self, subject: &Subject<T>, result: Result<(), String>) -> Option<Change> {
        let id = subject.cell.id();
        let tally = self.tallies.get_mut(&id)?;
        tally.asking = false;
        let now = self.clock.now();
        let good = result.is_ok();
        let why = result.err();
        let is_out = subject.ends_ejection && subject.cell.view(now).ejected_until.is_some();
        let change = tally.answer(good, is_out, &subject.check);
        match change {
            Some(Change::Sick) => {
                let why = why.as_deref().unwrap_or_default();
                tracing::info!(endpoint = %subject.cell.address(), why, "active checks go wrong");
                subject.cell.set_checked_health(false, now);
            }
            Some(Change::Well) => {
                tracing::info!(endpoint = %subject.cell.address(), "active checks go well");
                subject.cell.set_checked_health(true, now);
            }
            Some(Change::Pardoned) => {
                tracing::info!(endpoint = %subject.cell.address(), "active checks go well: not ejected any more");
                subject.cell.end_ejection(now);
            }
            None => {}
        }
        let why = why.map(Arc::from);
        self.findings.lock().insert(id, Finding { good, why });
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckKind;

    fn check(unhealthy_after: u32, healthy_after: u32) -> ActiveCheck {
        let (interval, timeout) = (Duration::from_millis(20), Duration::from_millis(500));
        ActiveCheck {
            kind: CheckKind::Tcp,
            interval,
            timeout,
            healthy_after,
            unhealthy_after,
            port: None,
            before_use: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn health_changes_after_so_many_answers_in_a_row() {
        let check = check(3, 2);
        let mut tally = Tally::starting(Instant::now());
        let answers = [
            false, false, true, false, false, false, true, false, true, true, true,
        ];
        let changes: Vec<_> = answers
            .iter()
            .map(|good| tally.answer(*good, false, &check))
            .collect();
        let mut expected = [None; 11];
        expected[5] = Some(Change::Sick);
        expected[9] = Some(Change::Well);
        assert_eq!(changes, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn good_answers_in_a_row_end_an_ejection() {
        let check = check(3, 2);
        let mut tally = Tally::starting(Instant::now());
        // Answers, whether it is ejected, what changes.
        for (good, is_out, change) in [
            (true, false, None),
            (true, true, None),
            (false, true, None),
            (true, true, None),
            (true, true, Some(Change::Pardoned)),
            (true, false, None),
            (true, true, None),
        ] {
            assert_eq!(tally.answer(good, is_out, &check), change);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_good_answer_is_enough_for_an_endpoint_that_waits() {
        let check = check(3, 2);
        let mut tally = Tally::waiting(Instant::now(), &check);
        assert_eq!(tally.answer(true, false, &check), Some(Change::Well));
        let mut tally = Tally::waiting(Instant::now(), &check);
        assert_eq!(tally.answer(false, false, &check), None);
        assert_eq!(tally.answer(true, false, &check), None, "then as usual");
        assert_eq!(tally.answer(true, false, &check), Some(Change::Well));
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
        let prober = Prober::new(clock);
        let findings = prober.findings();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&changes);
        let prober = tokio::spawn(prober.run(
            move || {
                vec![Subject {
                    cell: Arc::clone(&subject),
                    check: Arc::clone(&check),
                    protocol: BackendProtocol::Http1,
                    proxy: None,
                    tls: None,
                    ends_ejection: true,
                    owner: (),
                }]
            },
            move |_, change| told.lock().unwrap().push(change),
        ));
        let wait_for = async |healthy| {
            while changes.lock().unwrap().last() != Some(if healthy { &Change::Well } else { &Change::Sick })
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(cell.is_checked_healthy(), healthy);
        };
        let deadline = Duration::from_secs(20);
        tokio::time::timeout(deadline, wait_for(false))
            .await
            .expect("it is found to be sick");
        let finding = findings.of(cell.id()).unwrap();
        assert_eq!(
            finding.why.as_deref(),
            Some("the endpoint refused the connection")
        );
        let back = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::time::timeout(deadline, wait_for(true))
            .await
            .expect("it is found to be well");
        drop(back);
        prober.abort();
    }
}
