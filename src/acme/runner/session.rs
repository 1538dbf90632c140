//! The work with one account: what is in its store, the lock on that, and the orders under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinError, JoinSet};

use crate::acme::order::{Failed, Office};
use crate::acme::plan::{self, Entry, Failure, Notes, Plan, Window};
use crate::acme::status::{CertificateStatus, State, span};
use crate::acme::store::{Contents, Lock, Store, StoreError, Stored, unix};
use crate::acme::vault::Vault;
use crate::model::acme::Acme;
use crate::model::{Certificate, ManagedName};

/// Nothing is begun for so long when the store cannot be written, in seconds: an order whose fruit is lost is counted all the same.
const STORE_PAUSE: u64 = 300;
/// Nothing is begun for so long when the lock cannot be asked for, in seconds: nothing is lost by that.
const LOCK_PAUSE: u64 = 5;
/// The work with one account.
pub(super) struct Session {
    pub(super) settings: Arc<Acme>,
    store: Arc<Store>,
    office: Arc<Office>,
    pub(super) contents: Contents,
    /// Says that the store may be another.
    changes: Option<watch::Receiver<u64>>,
    lock: Option<Lock>,
    /// Why the lock cannot be asked for.
    pub(super) no_lock: Option<StoreError>,
    /// Whether another replica has the lock.
    locked_out: bool,
    tasks: JoinSet<Ended>,
    busy: BTreeMap<Id, (ManagedName, Work)>,
    /// When orders were begun, the last ones.
    begun: Vec<u64>,
    held_until: u64,
    look: Arc<Notify>,
    pub(super) shown: watch::Sender<BTreeSet<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Order,
    Ask,
}

/// How a task has ended.
pub(super) type TaskEnd = Result<(Id, Ended), JoinError>;

/// What it led to.
pub(super) enum Ended {
    Order(Result<Certificate, Failed>),
    Ask(Window),
}

impl Session {
    /// Nothing is read yet.
    pub(super) fn new(settings: &Arc<Acme>, vault: Arc<dyn Vault>) -> Self {
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

    /// Reads what is in the store for these names.
    pub(super) async fn read(&mut self, names: &BTreeSet<ManagedName>) {
        if let Some(changes) = &mut self.changes {
            changes.mark_unchanged();
        }
        let before = std::mem::take(&mut self.contents);
        self.contents = self.store.read(names, before, SystemTime::now()).await;
    }

    /// Ends what is under way, and gives the lock back.
    pub(super) async fn end_now(mut self) {
        self.let_go().await;
    }

    /// The same; what is in the store is there still.
    pub(super) async fn let_go(&mut self) {
        self.tasks.shutdown().await;
        self.busy.clear();
        if let Some(lock) = self.lock.take() {
            if lock.is_held() {
                self.office.end_answers().await;
            }
            lock.give_back().await;
        }
    }

    /// Whether something is under way.
    pub(super) fn is_working(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Waits until there may be something to do: perhaps with how a task has ended, which [`ended`](Self::ended) takes. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<TaskEnd> {
        tokio::select! {
            () = self.look.notified() => None,
            () = changed(&mut self.changes) => None,
            () = lost(&mut self.lock) => None,
            () = tokio::time::sleep(self.settings.pace.look) => None,
            Some(ended) = self.tasks.join_next_with_id() => Some(ended),
        }
    }

    /// Begins what the plan says. True: the lock was just taken, and the store is to be read again first.
    pub(super) async fn act(&mut self, names: &BTreeSet<ManagedName>) -> bool {
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
    pub(super) async fn ended(&mut self, ended: TaskEnd) -> Option<bool> {
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

    /// How things stand with each name.
    pub(super) fn status(&self, names: &BTreeSet<ManagedName>, now: u64) -> Vec<CertificateStatus> {
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

/// A name of which nothing is known.
pub(super) fn missing(name: &ManagedName) -> CertificateStatus {
    CertificateStatus {
        name: name.to_string(),
        state: State::Missing,
        not_after: None,
        next: 0,
        why: None,
    }
}
