//! The runner: reads the store, gives to the snapshot what is there, and does what the plan says. One task; orders are
//! tasks of their own below it.
//!
//! ```text
//!  ┌► read the store ─► give what is new ─► plan ─► lock (then read again: another may have done it) ─► begin orders ─┐
//!  └── the store says that it changed, a second passes, an answer is to be given, an order has ended, another wish ◄──┘
//! ```
//! A lock that is lost (another takes its holder for dead) ends the orders under way: what they would write is refused anyway. At the
//! end of the process nothing more is begun, what is under way has a little time, and then the lock is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::challenge;
use super::order::{Failed, Office};
use super::plan::{self, Entry, Failure, Notes, Plan, Window};
use super::status::{CertificateStatus, State, Status, span};
use super::store::{Answer, Contents, Lock, Store, StoreError, Stored, unix};
use super::vault::{Asked, Vault};
use crate::model::acme::Acme;
use crate::model::{Certificate, Challenges, Delta, ManagedName};

/// Nothing is begun for so long when the store cannot be written, in seconds: an order whose fruit is lost is counted all the same.
const STORE_PAUSE: u64 = 300;
/// Nothing is begun for so long when the lock cannot be asked for, in seconds: nothing is lost by that.
const LOCK_PAUSE: u64 = 5;
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

/// The work with one account.
struct Session {
    settings: Arc<Acme>,
    store: Arc<Store>,
    office: Arc<Office>,
    contents: Contents,
    /// Says that the store may be another.
    changes: Option<watch::Receiver<u64>>,
    lock: Option<Lock>,
    /// Why the lock cannot be asked for.
    no_lock: Option<StoreError>,
    /// Whether another replica has the lock.
    locked_out: bool,
    tasks: JoinSet<Ended>,
    busy: BTreeMap<Id, (ManagedName, Work)>,
    /// When orders were begun, the last ones.
    begun: Vec<u64>,
    held_until: u64,
    look: Arc<Notify>,
    shown: watch::Sender<BTreeSet<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Order,
    Ask,
}

enum Ended {
    Order(Result<Certificate, Failed>),
    Ask(Window),
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
            if !session.tasks.is_empty() && now < deadline {
                return;
            }
            session.let_go().await;
        }
        self.rested.send_replace(true);
    }

    fn count(&mut self, good: Option<bool>) {
        match good {
            Some(true) => self.orders_ok += 1,
            Some(false) => self.orders_failed += 1,
            None => {}
        }
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
            () = session.look.notified() => return true,
            () = changed(&mut session.changes) => return true,
            () = lost(&mut session.lock) => return true,
            () = tokio::time::sleep(session.settings.pace.look) => return true,
            Some(ended) = session.tasks.join_next_with_id() => ended,
        };
        let good = session.ended(ended).await;
        self.count(good);
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

impl Session {
    fn new(settings: &Arc<Acme>, vault: Arc<dyn Vault>) -> Self {
        let changes = vault.changes();
        let store = Arc::new(Store::new(vault));
        let look = Arc::new(Notify::new());
        let shown = watch::Sender::new(BTreeSet::new());
        let office = Office::new(
            Arc::clone(settings),
            Arc::clone(&store),
            shown.subscribe(),
            Arc::clone(&look),
        );
        Self {
            settings: Arc::clone(settings),
            office: Arc::new(office),
            store,
            contents: Contents::default(),
            changes,
            lock: None,
            no_lock: None,
            locked_out: false,
            tasks: JoinSet::new(),
            busy: BTreeMap::new(),
            begun: Vec::new(),
            held_until: 0,
            look,
            shown,
        }
    }

    async fn read(&mut self, names: &BTreeSet<ManagedName>) {
        if let Some(changes) = &mut self.changes {
            changes.mark_unchanged();
        }
        let before = std::mem::take(&mut self.contents);
        self.contents = self.store.read(names, before, SystemTime::now()).await;
    }

    /// Ends what is under way, and gives the lock back.
    async fn end_now(mut self) {
        self.let_go().await;
    }

    async fn let_go(&mut self) {
        self.tasks.shutdown().await;
        self.busy.clear();
        if let Some(lock) = self.lock.take() {
            if lock.is_held() {
                self.office.end_answers().await;
            }
            lock.give_back().await;
        }
    }

    /// Begins what the plan says. True: the lock was just taken, and the store is to be read again first.
    async fn act(&mut self, names: &BTreeSet<ManagedName>) -> bool {
        if self.lock.as_ref().is_some_and(|lock| !lock.is_held()) {
            if !self.tasks.is_empty() {
                tracing::warn!("the lock of the ACME store is lost; the orders under way are given up");
            }
            self.let_go().await;
        }
        let now = unix(SystemTime::now());
        self.begun.retain(|at| *at + plan::WINDOW > now);
        let plan = self.plan(names, now);
        self.locked_out = false;
        if plan.is_empty() {
            if self.tasks.is_empty()
                && let Some(lock) = self.lock.take()
            {
                // What an order could not take away, whose task had come to grief.
                self.office.end_answers().await;
                lock.give_back().await;
            }
            return false;
        }
        if self.lock.is_none() {
            match self.take_lock().await {
                Ok(is_ours) => {
                    self.no_lock = None;
                    self.locked_out = !is_ours;
                    return is_ours;
                }
                Err(error) => {
                    self.no_lock = Some(error);
                    self.held_until = now + LOCK_PAUSE;
                }
            }
            return false;
        }
        self.begin(plan, now).await;
        false
    }

    async fn take_lock(&mut self) -> Result<bool, StoreError> {
        let vault = self.store.vault();
        let Some(lock) = vault.lock().await? else {
            return Ok(false);
        };
        // Whoever put them there is gone.
        if let Err(error) = vault.sweep().await {
            lock.give_back().await;
            return Err(error);
        }
        self.lock = Some(lock);
        Ok(true)
    }

    fn plan(&self, names: &BTreeSet<ManagedName>, now: u64) -> Plan {
        let none = Stored::default();
        let entries: Vec<_> = names
            .iter()
            .map(|name| (name, self.contents.entries.get(name).unwrap_or(&none)))
            .collect();
        let entries = entries.iter().map(|(name, stored)| Entry {
            name,
            life: stored.life(),
            notes: &stored.notes,
            busy: self.is_busy(name),
        });
        plan::plan(entries, &self.begun, self.held_until, &self.settings.pace, now)
    }

    fn is_busy(&self, name: &ManagedName) -> bool {
        self.busy.values().any(|(busy, _)| busy == name)
    }

    async fn begin(&mut self, plan: Plan, now: u64) {
        for name in plan.order {
            let stored = self.contents.entries.get(&name).cloned().unwrap_or_default();
            // Shows that the store can be written before anything is asked for.
            if !self.note(&name, stored.notes).await {
                return;
            }
            let office = Arc::clone(&self.office);
            let before = stored.certificate;
            let what = if before.is_some() {
                "renewal"
            } else {
                "first certificate"
            };
            tracing::info!(%name, authority = self.settings.directory.host(), "ordering a certificate ({what})");
            self.begun.push(now);
            let wanted = name.clone();
            let task = self
                .tasks
                .spawn(async move { Ended::Order(office.order(&wanted, before.as_deref()).await) });
            self.busy.insert(task.id(), (name, Work::Order));
        }
        for name in plan.ask {
            let Some(certificate) = self.certificate(&name) else {
                continue;
            };
            let office = Arc::clone(&self.office);
            let task = self
                .tasks
                .spawn(async move { Ended::Ask(office.ask(&certificate).await) });
            self.busy.insert(task.id(), (name, Work::Ask));
        }
    }

    fn certificate(&self, name: &ManagedName) -> Option<Arc<Certificate>> {
        self.contents.entries.get(name)?.certificate.clone()
    }

    /// Notes how a task has ended; says whether an order that did was good.
    async fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) -> Option<bool> {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, ended),
            Err(error) => {
                let failed = Failed::unwell(format!("the order was broken off: {error}"));
                (error.id(), Ended::Order(Err(failed)))
            }
        };
        self.end(id, ended).await
    }

    async fn end(&mut self, id: Id, ended: Ended) -> Option<bool> {
        let (name, _) = self.busy.remove(&id)?;
        let now = unix(SystemTime::now());
        let mut notes = self.contents.entries.get(&name)?.notes.clone();
        let good = match ended {
            Ended::Ask(window) => {
                notes.window = Some(window);
                None
            }
            Ended::Order(Ok(certificate)) => {
                let left = u64::try_from(certificate.not_after())
                    .unwrap_or(0)
                    .saturating_sub(now);
                tracing::info!(%name, "a certificate is here; it is good for {}", span(left));
                notes = Notes::default();
                Some(true)
            }
            Ended::Order(Err(failed)) => {
                self.fail(&name, &mut notes, failed, now);
                Some(false)
            }
        };
        self.note(&name, notes.clone()).await;
        if let Some(stored) = self.contents.entries.get_mut(&name) {
            stored.notes = notes;
        }
        good
    }

    fn fail(&mut self, name: &ManagedName, notes: &mut Notes, failed: Failed, now: u64) {
        // `now` is the second that has begun: one more, so that it is never too early.
        let wait = failed.retry_after.map_or(0, |wait| wait.as_secs() + 1);
        notes.failures = notes.failures.saturating_add(1);
        notes.failure = Some(Failure {
            at: now,
            refused: failed.refused,
            why: failed.why.clone(),
            not_before: now + wait,
        });
        if failed.for_all {
            self.held_until = self.held_until.max(now + wait);
        }
        let next = plan::earliest_try(name, notes, &self.settings.pace, now).saturating_sub(now);
        tracing::warn!(
            %name,
            failures = notes.failures,
            "no certificate: {}; next try in {}",
            failed.why,
            span(next)
        );
    }

    /// Keeps notes; false: that was not possible, and nothing is begun for a while.
    async fn note(&mut self, name: &ManagedName, notes: Notes) -> bool {
        let Err(wrong) = self.store.put_notes(name, &notes).await else {
            return true;
        };
        tracing::error!(%name, "ACME store: {wrong}; nothing is ordered for {}", span(STORE_PAUSE));
        self.held_until = unix(SystemTime::now()) + STORE_PAUSE;
        false
    }

    fn status(&self, names: &BTreeSet<ManagedName>, now: u64) -> Vec<CertificateStatus> {
        let none = Stored::default();
        let one = |name: &ManagedName| {
            let stored = self.contents.entries.get(name).unwrap_or(&none);
            let ordering = self
                .busy
                .values()
                .any(|(busy, work)| busy == name && *work == Work::Order);
            let entry = Entry {
                name,
                life: stored.life(),
                notes: &stored.notes,
                busy: ordering,
            };
            let failed = stored.notes.failure.as_ref().map(|failure| failure.why.clone());
            let state = match (ordering, &stored.certificate, &failed) {
                (true, _, _) => State::Ordering,
                (false, None, _) => State::Missing,
                (false, Some(_), Some(_)) => State::RenewalFails,
                (false, Some(_), None) => State::Good,
            };
            let due = entry
                .life
                .map_or(0, |life| plan::renewal(name, life, stored.notes.window));
            let next = due
                .max(plan::earliest_try(name, &stored.notes, &self.settings.pace, now))
                .max(if due <= now { self.held_until } else { 0 });
            let elsewhere =
                || (self.locked_out && due <= now).then(|| "another replica is ordering".to_owned());
            CertificateStatus {
                name: name.to_string(),
                state,
                not_after: entry.life.map(|life| life.until),
                next,
                why: failed.or_else(elsewhere),
            }
        };
        names.iter().map(one).collect()
    }
}

/// Waits until the store says that it may be another, if it ever does.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    let told = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !told {
        // Nobody tells: one looks.
        std::future::pending::<()>().await;
    }
}

/// Waits until the lock is lost.
async fn lost(lock: &mut Option<Lock>) {
    match lock {
        Some(lock) if lock.is_held() => lock.lost().await,
        _ => std::future::pending().await,
    }
}

fn missing(name: &ManagedName) -> CertificateStatus {
    CertificateStatus {
        name: name.to_string(),
        state: State::Missing,
        not_after: None,
        next: 0,
        why: None,
    }
}
