//! The runner: reads the store, gives to the snapshot what is there, and does what the plan says. One task; orders are
//! tasks of their own below it.
//!
//! ```text
//!  ┌► read the store ─► give what is new ─► plan ─► lock (then read again: another may have done it) ─► begin orders ─┐
//!  └───────── a second passes, an answer is to be given, an order has ended, something else is wanted ◄───────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};

use super::challenge;
use super::order::{Failed, Office};
use super::plan::{self, Entry, Failure, Notes, Plan, Window};
use super::status::{CertificateStatus, State, Status, span};
use super::store::{Answer, Contents, Lock, Store, Stored, unix};
use crate::model::acme::Acme;
use crate::model::{Certificate, Challenges, Delta, ManagedName};

/// Nothing is begun for so long when the store cannot be written: an order whose fruit is lost is counted all the same.
const STORE_PAUSE: u64 = 300;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// How certificates are got; none: not at all.
    pub acme: Option<Arc<Acme>>,
    /// For which names.
    pub names: BTreeSet<ManagedName>,
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
    lock: Option<Lock>,
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
    /// Reads what is in the store, so that the first snapshot has it. Waits for disks.
    pub fn open(wanted: watch::Receiver<Wanted>) -> (Self, Delta) {
        let mut runner = Self {
            status: watch::Sender::new(Status::default()),
            session: None,
            given: BTreeMap::new(),
            answered: Vec::new(),
            orders_ok: 0,
            orders_failed: 0,
            problem: None,
            wanted,
        };
        let wanted = runner.wanted.borrow().clone();
        runner.session = runner.start(&wanted);
        if let Some(session) = &mut runner.session {
            session.read_now(&wanted.names);
        }
        let delta = runner.news(&wanted.names);
        runner.report(&wanted.names);
        (runner, delta)
    }

    /// How things stand, and what comes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs until nobody takes changes any more.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if self.session.as_ref().map(|session| &session.settings) != wanted.acme.as_ref() {
                // Orders under way end with it.
                self.session = None;
            }
            if self.session.is_none() && wanted.acme.is_some() {
                self.session = tokio::task::block_in_place(|| self.start(&wanted));
            }
            if let Some(session) = &mut self.session {
                session.read(&wanted.names).await;
            }
            if !self.give(&wanted.names, &changes).await {
                return;
            }
            let again = match &mut self.session {
                Some(session) => session.act(&wanted.names).await,
                None => false,
            };
            self.report(&wanted.names);
            if !again && !self.wait().await {
                return;
            }
        }
    }

    fn start(&mut self, wanted: &Wanted) -> Option<Session> {
        let settings = wanted.acme.as_ref()?;
        match Session::open(settings) {
            Ok(session) => {
                self.say(None);
                Some(session)
            }
            Err(problem) => {
                self.say(Some(problem));
                None
            }
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
        tokio::select! {
            changed = self.wanted.changed() => return changed.is_ok(),
            () = session.look.notified() => {}
            () = tokio::time::sleep(session.settings.pace.look) => {}
            Some(ended) = session.tasks.join_next_with_id() => {
                let (id, ended) = match ended {
                    Ok((id, ended)) => (id, ended),
                    Err(error) => {
                        let failed = Failed::unwell(format!("the order was broken off: {error}"));
                        (error.id(), Ended::Order(Err(failed)))
                    }
                };
                match session.end(id, ended).await {
                    Some(true) => self.orders_ok += 1,
                    Some(false) => self.orders_failed += 1,
                    None => {}
                }
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
            problem = session.contents.broken.first().map(ToString::to_string);
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
    fn open(settings: &Arc<Acme>) -> Result<Self, String> {
        let store = Store::open(&settings.store, &settings.directory).map_err(|error| error.to_string())?;
        let store = Arc::new(store);
        let look = Arc::new(Notify::new());
        let shown = watch::Sender::new(BTreeSet::new());
        let office = Office::new(
            Arc::clone(settings),
            Arc::clone(&store),
            shown.subscribe(),
            Arc::clone(&look),
        );
        Ok(Self {
            settings: Arc::clone(settings),
            office: Arc::new(office),
            store,
            contents: Contents::default(),
            lock: None,
            locked_out: false,
            tasks: JoinSet::new(),
            busy: BTreeMap::new(),
            begun: Vec::new(),
            held_until: 0,
            look,
            shown,
        })
    }

    fn read_now(&mut self, names: &BTreeSet<ManagedName>) {
        self.contents = self.store.read(names.iter(), &self.contents, SystemTime::now());
    }

    async fn read(&mut self, names: &BTreeSet<ManagedName>) {
        let (store, names) = (Arc::clone(&self.store), names.clone());
        let before = std::mem::take(&mut self.contents);
        let read = move || store.read(names.iter(), &before, SystemTime::now());
        match tokio::task::spawn_blocking(read).await {
            Ok(contents) => self.contents = contents,
            Err(error) => tracing::error!(%error, "the ACME store was not read"),
        }
    }

    /// Begins what the plan says. True: the lock was just taken, and the store is to be read again first.
    async fn act(&mut self, names: &BTreeSet<ManagedName>) -> bool {
        let now = unix(SystemTime::now());
        self.begun.retain(|at| *at + plan::WINDOW > now);
        let plan = self.plan(names, now);
        self.locked_out = false;
        if plan.is_empty() {
            if self.tasks.is_empty() {
                self.lock = None;
            }
            return false;
        }
        if self.lock.is_none() {
            match self.store.lock() {
                Ok(Some(lock)) => {
                    self.lock = Some(lock);
                    // Whoever put them there is gone.
                    self.store.sweep();
                    return true;
                }
                Ok(None) => self.locked_out = true,
                Err(error) => {
                    tracing::error!("ACME store: {error}");
                    self.held_until = now + STORE_PAUSE;
                }
            }
            return false;
        }
        self.begin(plan, now).await;
        false
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

    /// Notes how something has ended; says whether an order that did was good.
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
        let (store, kept) = (Arc::clone(&self.store), name.clone());
        let put = tokio::task::spawn_blocking(move || store.put_notes(&kept, &notes)).await;
        let wrong = match put {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
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

fn missing(name: &ManagedName) -> CertificateStatus {
    CertificateStatus {
        name: name.to_string(),
        state: State::Missing,
        not_after: None,
        next: 0,
        why: None,
    }
}
