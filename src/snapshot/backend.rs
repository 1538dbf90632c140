//! Backends as rules hold them: an identity that lasts, with content that is swapped inside.
//!
//! A rule is compiled once and holds its backends for as long as it lives; endpoints come and go many
//! times in between. So the [`Backend`] is found by name when the rule is compiled, and an exchange asks
//! it for the [`Fleet`] of this moment. What is known of an endpoint (its cell) passes from one fleet to
//! the next. A name that nobody has defined is a backend too: it has no endpoints until someone does.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::publish::Published;
use super::sharded::Sharded;
use crate::balance::{Fleet, Hedging, Limiter, Micros, RetryBudget, Vantage};
use crate::model::{self, BackendName, Concurrency, Endpoint};
use crate::telemetry::{BackendMetrics, Metrics};

/// The lasting identity of a backend.
pub struct Backend {
    /// Its name.
    pub name: BackendName,
    /// Unique while the process lives: never given to another backend, also not to a later one of the
    /// same name.
    pub id: u64,
    /// What is counted for it.
    pub metrics: Arc<BackendMetrics>,
    fleet: Published<Fleet>,
    budget: Published<RetryBudget>,
    hedging: Published<Option<Hedging>>,
    defined: AtomicBool,
    ties: AtomicBool,
    asks_load: AtomicBool,
    hedges: AtomicBool,
    limiter: Published<Option<Arc<Limiter>>>,
    limited: AtomicBool,
    asks_criticality: AtomicBool,
}

impl Backend {
    /// One that is in no snapshot and has one endpoint for ever.
    pub(super) fn of_one(
        policy: model::Backend,
        metrics: Arc<BackendMetrics>,
        endpoint: Endpoint,
        now: Micros,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = policy.name.clone();
        let budget = RetryBudget::new(&policy.retry_budget);
        let fleet = Fleet::build(Arc::new(policy), &[endpoint], None, now);
        Self {
            name,
            // Those of snapshots count from 1.
            id: u64::MAX - COUNT.fetch_add(1, Ordering::Relaxed),
            metrics,
            budget: Published::new(Arc::new(budget)),
            fleet: Published::new(Arc::new(fleet)),
            hedging: Published::new(Arc::new(None)),
            defined: AtomicBool::new(true),
            ties: AtomicBool::new(false),
            asks_load: AtomicBool::new(false),
            hedges: AtomicBool::new(false),
            limiter: Published::new(Arc::new(None)),
            limited: AtomicBool::new(false),
            asks_criticality: AtomicBool::new(false),
        }
    }

    /// Its policy and endpoints as they are now, owned: for those who keep them across awaits.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.fleet.load()
    }

    /// Reads its policy and endpoints as they are now, without counting a reference.
    pub fn with_fleet<R>(&self, read: impl FnOnce(&Fleet) -> R) -> R {
        self.fleet.with(read)
    }

    /// Reads its retry budget, which begins anew when its bounds are changed.
    pub fn with_budget<R>(&self, read: impl FnOnce(&RetryBudget) -> R) -> R {
        self.budget.with(read)
    }

    /// Reads what is known for hedging, if its policy hedges; it begins anew when the policy's bounds are changed.
    pub fn with_hedging<R>(&self, read: impl FnOnce(&Hedging) -> R) -> Option<R> {
        self.hedging.with(|hedging| hedging.as_ref().map(read))
    }

    /// Whether its policy hedges. Affinity goes before that: a request that belongs to an endpoint is not sent elsewhere.
    pub fn hedges(&self) -> bool {
        self.hedges.load(Ordering::Relaxed)
    }

    /// How many requests may be in flight at once; none without such a limit. Begins anew when its bounds are changed.
    pub fn limiter(&self) -> Option<Arc<Limiter>> {
        self.limiter.with(Clone::clone)
    }

    /// Whether there is a [`Self::limiter`].
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Whether its policy asks how much a request matters.
    pub fn asks_criticality(&self) -> bool {
        self.asks_criticality.load(Ordering::Relaxed)
    }

    /// Whether its policy asks what ties a request to an endpoint.
    pub fn ties(&self) -> bool {
        self.ties.load(Ordering::Relaxed)
    }

    /// Whether its policy has endpoints asked what load they have.
    pub fn asks_load(&self) -> bool {
        self.asks_load.load(Ordering::Relaxed)
    }

    /// Whether some source defines it; one that is only mentioned has no endpoints.
    pub fn is_defined(&self) -> bool {
        self.defined.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Backend");
        debug
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The control plane's side: every backend that is defined or mentioned, and what defines it.
pub(super) struct Backends {
    metrics: Arc<Metrics>,
    vantage: Vantage,
    known: HashMap<BackendName, Known>,
    /// What a snapshot lists.
    listed: Sharded<BackendName, Arc<Backend>>,
    listed_changed: bool,
    next_id: u64,
}

struct Known {
    backend: Arc<Backend>,
    /// Mentions in compiled rules.
    mentions: usize,
    definition: Option<Definition>,
}

#[derive(PartialEq)]
struct Definition {
    policy: Arc<model::Backend>,
    endpoints: Arc<[Endpoint]>,
}

/// New content of a backend, not yet in place.
#[must_use]
pub(super) struct Swap {
    backend: Arc<Backend>,
    fleet: Arc<Fleet>,
    budget: Option<Arc<RetryBudget>>,
    hedging: Option<Arc<Option<Hedging>>>,
    limiter: Option<Option<Arc<Limiter>>>,
    defined: bool,
}

impl Swap {
    /// Puts it in place.
    pub(super) fn make(self) {
        if let Some(budget) = self.budget {
            self.backend.budget.store(budget);
        }
        if let Some(hedging) = self.hedging {
            self.backend.hedging.store(hedging);
        }
        if let Some(limiter) = self.limiter {
            self.backend.limited.store(limiter.is_some(), Ordering::Relaxed);
            self.backend.limiter.store(Arc::new(limiter));
        }
        let policy = self.fleet.policy();
        let hedges = policy.hedge.is_some() && policy.affinity.is_none();
        self.backend.hedges.store(hedges, Ordering::Relaxed);
        let asks = policy.criticality.is_some();
        self.backend.asks_criticality.store(asks, Ordering::Relaxed);
        let ties = policy.affinity.is_some() || policy.balance.hashes();
        self.backend.ties.store(ties, Ordering::Relaxed);
        self.backend
            .asks_load
            .store(policy.load_reports.ask, Ordering::Relaxed);
        self.backend.fleet.store(self.fleet);
        self.backend.defined.store(self.defined, Ordering::Relaxed);
    }

    /// Whether nobody can be reached at the backend after this.
    pub(super) fn empties(&self) -> bool {
        self.fleet.candidates().is_empty()
    }

    /// Whose content it is.
    pub(super) fn backend(&self) -> &BackendName {
        &self.backend.name
    }
}

impl Backends {
    /// None at all.
    pub(super) fn new(metrics: Arc<Metrics>, vantage: Vantage) -> Self {
        Self {
            metrics,
            vantage,
            known: HashMap::new(),
            listed: Sharded::default(),
            listed_changed: false,
            next_id: 1,
        }
    }

    /// The backend of a name, for a rule that mentions it; [`Self::release`] is owed for each call.
    pub(super) fn acquire(&mut self, name: &BackendName) -> Arc<Backend> {
        let known = self.known(name);
        known.mentions += 1;
        Arc::clone(&known.backend)
    }

    /// A rule that mentions the backend is gone.
    pub(super) fn release(&mut self, name: &BackendName) {
        if let Some(known) = self.known.get_mut(name) {
            known.mentions = known.mentions.saturating_sub(1);
            self.forget_if_unused(name);
        }
    }

    /// What a backend is from now on; none if it is that already.
    pub(super) fn define(
        &mut self,
        name: &BackendName,
        policy: &Arc<model::Backend>,
        endpoints: Arc<[Endpoint]>,
        now: Micros,
    ) -> Option<Swap> {
        let vantage = self.vantage.clone();
        let known = self.known(name);
        let definition = Definition {
            policy: Arc::clone(policy),
            endpoints,
        };
        if known.definition.as_ref() == Some(&definition) {
            return None;
        }
        let previous = known.backend.fleet.load();
        let fleet = Fleet::build_at(
            &vantage,
            Arc::clone(policy),
            &definition.endpoints,
            Some(&previous),
            now,
        );
        known.definition = Some(definition);
        Some(Swap {
            backend: Arc::clone(&known.backend),
            fleet: Arc::new(fleet),
            budget: (previous.policy().retry_budget != policy.retry_budget)
                .then(|| Arc::new(RetryBudget::new(&policy.retry_budget))),
            hedging: (previous.policy().hedge != policy.hedge)
                .then(|| Arc::new(policy.hedge.as_ref().map(Hedging::new))),
            limiter: (limit_of(previous.policy()) != limit_of(policy)).then(|| Limiter::of(policy, now)),
            defined: true,
        })
    }

    /// Nobody defines the backend any more. While rules mention it, it has no endpoints; otherwise it is
    /// forgotten, but not emptied, so that exchanges which still hold it end in peace.
    pub(super) fn undefine(&mut self, name: &BackendName) -> Option<Swap> {
        let known = self.known.get_mut(name)?;
        known.definition.take()?;
        let swap = (known.mentions > 0).then(|| Swap {
            backend: Arc::clone(&known.backend),
            fleet: Arc::new(undefined(name)),
            budget: None,
            hedging: None,
            limiter: Some(None),
            defined: false,
        });
        self.forget_if_unused(name);
        swap
    }

    /// All that are defined or mentioned.
    pub(super) fn list(&self) -> &Sharded<BackendName, Arc<Backend>> {
        &self.listed
    }

    /// Whether the list has changed since the last call.
    pub(super) fn take_listed(&mut self) -> bool {
        std::mem::take(&mut self.listed_changed)
    }

    fn known(&mut self, name: &BackendName) -> &mut Known {
        self.known.entry(name.clone()).or_insert_with(|| {
            let fleet = Arc::new(undefined(name));
            let backend = Arc::new(Backend {
                name: name.clone(),
                id: self.next_id,
                metrics: self.metrics.backend(name.as_str()),
                budget: Published::new(Arc::new(RetryBudget::new(&fleet.policy().retry_budget))),
                fleet: Published::new(fleet),
                hedging: Published::new(Arc::new(None)),
                defined: AtomicBool::new(false),
                ties: AtomicBool::new(false),
                asks_load: AtomicBool::new(false),
                hedges: AtomicBool::new(false),
                limiter: Published::new(Arc::new(None)),
                limited: AtomicBool::new(false),
                asks_criticality: AtomicBool::new(false),
            });
            self.next_id += 1;
            self.listed.insert(name.clone(), Arc::clone(&backend));
            self.listed_changed = true;
            Known {
                backend,
                mentions: 0,
                definition: None,
            }
        })
    }

    fn forget_if_unused(&mut self, name: &BackendName) {
        let unused = |known: &Known| known.mentions == 0 && known.definition.is_none();
        if self.known.get(name).is_some_and(unused) {
            self.known.remove(name);
            self.listed.remove(name.as_str());
            self.listed_changed = true;
        }
    }
}

/// What a limiter is made of.
fn limit_of(policy: &model::Backend) -> (Option<Concurrency>, Duration) {
    (policy.concurrency, policy.limits.queue_timeout)
}

fn undefined(name: &BackendName) -> Fleet {
    Fleet::empty(Arc::new(model::Backend::new(name.clone())))
}
