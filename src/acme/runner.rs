//! The runner: reads the store, gives to the snapshot what is there, and does what the plan says. One task; orders are
//! tasks of their own below it.
//!
//! ```text
//!  ┌► read the store ─► give what is new ─► plan ─► lock (then read again: another may have done it) ─► begin orders ─┐
//!  └── the store says that it changed, a second passes, an answer is to be given, an order has ended, another wish ◄──┘
//! ```
//! A lock that is lost (another takes its holder for dead) ends the orders under way: what they would write is refused anyway. At the
//! end of the process nothing more is begun, what is under way has a little time, and then the lock is given back.

mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::session::{Session, missing};
use super::challenge;
use super::status::{CertificateStatus, Status};
use super::store::{Answer, Contents, StoreError, unix};
use super::vault::{Asked, Vault};
use crate::model::acme::Acme;
use crate::model::{Certificate, Challenges, Delta, ManagedName};

/// How long orders that are under way have at the end of the process.
const LAST_ORDERS: Duration = Duration::from_secs(5);

/// Opens what an account keeps its things in.
pub type Vaults = Arc<dyn Fn(Arc<Acme>) -> Asked<'static, Result<Arc<dyn Vault>, StoreError>> + Send + Sync>;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// How certificates are got; none: not at all.
    pub acme: Option<Arc<Acme>>,
    /// For which names.
    pub names: BTreeSet<ManagedName>,
    /// Whether the process ends, and nothing more is to be begun.
    pub ends: bool,
}

/// What is to go into the snapshot.
#[derive(Debug)]
pub struct Change {
    /// Certificates and answers.
    pub delta: Delta,
    /// To be told when it is live.
    pub live: oneshot::Sender<()>,
}

/// Gets certificates for the life of the process.
pub struct Runner {
    wanted: watch::Receiver<Wanted>,
    vaults: Vaults,
    /// True when the process ends and the lock is given back.
    rested: watch::Sender<bool>,
    /// When orders under way are given up, at the end.
    last_orders: Option<Instant>,
    status: watch::Sender<Status>,
    session: Option<Session>,
    /// Certificates that were given to the snapshot.
    given: BTreeMap<ManagedName, Arc<Certificate>>,
    /// Answers that were given to the snapshot.
    answered: Vec<Answer>,
    orders_ok: u64,
    orders_failed: u64,
    /// What was last said about the store.
    problem: Option<String>,
}

impl Runner {
    /// Reads what is in the store, so that the first snapshot has it.
    pub async fn open(wanted: watch::Receiver<Wanted>, vaults: Vaults) -> (Self, Delta) {
        let mut runner = Self {
            status: watch::Sender::new(Status::default()),
            rested: watch::Sender::new(false),
            last_orders: None,
            session: None,
            given: BTreeMap::new(),
            answered: Vec::new(),
            orders_ok: 0,
            orders_failed: 0,
            problem: None,
            wanted,
            vaults,
        };
        let wanted = runner.wanted.borrow().clone();
        runner.session = runner.start(&wanted).await;
        if let Some(session) = &mut runner.session {
            session.read(&wanted.names).await;
        }
        let delta = runner.news(&wanted.names);
        runner.report(&wanted.names);
        (runner, delta)
    }

    /// How things stand, and what comes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// True once the process ends ([`Wanted::ends`]) and the lock is given back.
    pub fn rested(&self) -> watch::Receiver<bool> {
        self.rested.subscribe()
    }

    /// Runs until nobody takes changes any more.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if self.session.as_ref().map(|session| &session.settings) != wanted.acme.as_ref()
                && let Some(session) = self.session.take()
            {
                // Orders under way end with it.
                session.end_now().await;
            }
            if self.session.is_none() && wanted.acme.is_some() {
                self.session = self.start(&wanted).await;
            }
            if let Some(session) = &mut self.session {
                session.read(&wanted.names).await;
            }
            if !self.give(&wanted.names, &changes).await {
                return;
            }
            if wanted.ends {
                self.rest().await;
            }
            let again = match &mut self.session {
                Some(session) if !wanted.ends => session.act(&wanted.names).await,
                _ => false,
            };
            self.report(&wanted.names);
            if !again && !self.wait().await {
                return;
            }
        }
    }

    async fn start(&mut self, wanted: &Wanted) -> Option<Session> {
        let settings = wanted.acme.as_ref()?;
        match (self.vaults)(Arc::clone(settings)).await {
            Ok(vault) => {
                self.say(None);
                Some(Session::new(settings, vault))
            }
            Err(problem) => {
                self.say(Some(problem.to_string()));
                None
            }
        }
    }

    /// Gives the lock back once no order is under way, or they have had their time. What is in the store is served on.
    async fn rest(&mut self) {
        let now = Instant::now();
        let deadline = *self.last_orders.get_or_insert(now + LAST_ORDERS);
        if let Some(session) = &mut self.session {
            if session.is_working() && now < deadline {
                return;
            }
            session.let_go().await;
        }
        self.rested.send_replace(true);
    }

    /// Gives to the snapshot what is new. False: nobody takes it any more.
    async fn give(&mut self, names: &BTreeSet<ManagedName>, changes: &mpsc::Sender<Change>) -> bool {
        let delta = self.news(names);
        if !delta.is_empty() {
            let (live, done) = oneshot::channel();
            if changes.send(Change { delta, live }).await.is_err() || done.await.is_err() {
                return false;
            }
        }
        if let Some(session) = &self.session {
            let tokens = self.answered.iter().map(|answer| answer.token.clone()).collect();
            session.shown.send_if_modified(|before| {
                let other = *before != tokens;
                *before = tokens;
                other
            });
        }
        true
    }

    /// What the store has that the snapshot does not, and the other way round.
    fn news(&mut self, names: &BTreeSet<ManagedName>) -> Delta {
        let none = Contents::default();
        let contents = self.session.as_ref().map_or(&none, |session| &session.contents);
        let mut delta = Delta::default();
        for name in names {
            let certificate = contents
                .entries
                .get(name)
                .and_then(|one| one.certificate.as_ref());
            let Some(certificate) = certificate else { continue };
            if self.given.get(name) != Some(certificate) {
                self.given.insert(name.clone(), Arc::clone(certificate));
                delta
                    .certificates
                    .insert(name.clone(), Some(Arc::clone(certificate)));
            }
        }
        // One that has ended, or cannot be read any more, is served on while there is no other: better late than never.
        let gone: Vec<_> = self
            .given
            .keys()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.given.remove(&name);
            delta.certificates.insert(name, None);
        }
        if self.answered != contents.answers {
            self.answered.clone_from(&contents.answers);
            delta.challenges = Some(Arc::new(match self.answered.is_empty() {
                true => Challenges::default(),
                false => challenge::challenges(&self.answered),
            }));
        }
        delta
    }

    /// Waits until there may be something to do. False: the process ends.
    async fn wait(&mut self) -> bool {
        let Some(session) = &mut self.session else {
            let pause = self.wanted.borrow().acme.as_ref().map(|acme| acme.pace.look);
            return tokio::select! {
                changed = self.wanted.changed() => changed.is_ok(),
                // The store could not be opened.
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => true,
            };
        };
        let ended = tokio::select! {
            changed = self.wanted.changed() => return changed.is_ok(),
            ended = session.next() => ended,
        };
        if let Some(ended) = ended {
            match session.ended(ended).await {
                Some(true) => self.orders_ok += 1,
                Some(false) => self.orders_failed += 1,
                None => {}
            }
        }
        true
    }

    fn report(&mut self, names: &BTreeSet<ManagedName>) {
        let now = unix(SystemTime::now());
        let certificates;
        let mut problem = self.problem.clone();
        if let Some(session) = &self.session {
            certificates = session.status(names, now);
            let broken = session.contents.broken.first();
            problem = broken.or(session.no_lock.as_ref()).map(ToString::to_string);
        } else {
            let has_account = self.wanted.borrow().acme.is_some();
            let why = || "there is no account: write acme in the configuration file".to_owned();
            certificates = names
                .iter()
                .map(|name| CertificateStatus {
                    why: (!has_account).then(why),
                    ..missing(name)
                })
                .collect();
        }
        self.say(problem.clone());
        let status = Status {
            certificates,
            orders_ok: self.orders_ok,
            orders_failed: self.orders_failed,
            problem,
        };
        self.status.send_if_modified(|before| {
            let other = *before != status;
            *before = status;
            other
        });
    }

    /// Logs what is wrong with the store when it changes.
    fn say(&mut self, problem: Option<String>) {
        if self.problem != problem {
            match &problem {
                Some(problem) => tracing::error!("ACME store: {problem}"),
                None => tracing::info!("ACME store: all is well again"),
            }
            self.problem = problem;
        }
    }
}
