//! Metrics: what the workers count, and what the control plane notes.
//!
//! Handles ([`BackendMetrics`], [`ListenerMetrics`]) are resolved when a snapshot is compiled and kept in
//! it, so that an exchange looks nothing up. Behind a handle each worker has its own shard, made at
//! its first use: 10 000 backends without traffic cost a few pointers each, a busy one about 4.5 KiB per
//! worker. A shard has one writer and needs no read-modify-write; readers add the shards up.
//!
//! Label sets are bounded: the first [`MAX_CHILDREN`] names get their own children, later ones share
//! `_other`. A child that no snapshot holds any more is exposed once more, with its last counts,
//! and then dropped; its counts stay in the totals of the process.

mod shard;
mod totals;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use self::shard::{BackendShard, ListenerShard, Shards};
pub use self::totals::{
    Acme, BackendTotals, Concurrency, Exchanges, Injection, Injections, Kubernetes, ListenerTotals, Totals,
};
use super::detection::Detected;
use super::histogram::Cell;
use super::mtls::Came;
use super::{HandshakeEnd, Outcome};

/// Names with children of their own, per kind.
pub const MAX_CHILDREN: usize = 1000;

/// The name shared by all that came after the first [`MAX_CHILDREN`].
pub const OTHER: &str = "_other";

/// Classes of statuses: none sent, 1xx to 5xx.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How endpoints were chosen. In the order of the balancer's own list, which a test compares.
pub const PICKS: [&str; 8] = [
    "policy",
    "stuck",
    "moved",
    "failover",
    "spill-over",
    "panic",
    "trial",
    "key",
];

/// How much requests matter, in the order of the model's own list, which a test compares.
pub const CRITICALITIES: [&str; 4] = ["critical-plus", "critical", "sheddable-plus", "sheddable"];

/// Why endpoints are set aside, in the order of the balancer's own list, which a test compares.
pub const EJECTIONS: [&str; 6] = [
    "failures",
    "gateway-failures",
    "success-rate",
    "failure-share",
    "latency",
    "check",
];

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    workers: usize,
    backends: Mutex<Children<BackendMetrics>>,
    listeners: Mutex<Children<ListenerMetrics>>,
    no_backend: Arc<BackendMetrics>,
    /// Counts of backends that were dropped.
    retired: Mutex<BackendTotals>,
    snapshot_generation: AtomicU64,
    snapshot_published_unix_us: AtomicU64,
    snapshot_rejects: AtomicU64,
    reloads_ok: AtomicU64,
    reloads_failed: AtomicU64,
    last_reload_failed: AtomicU64,
    settings_waiting: AtomicU64,
    kubernetes: Mutex<Option<Kubernetes>>,
    /// The end of our identity, in seconds since 1970; 0: there is none.
    identity_ends: AtomicU64,
    acme: Mutex<Option<Acme>>,
    injections: Mutex<Option<Injections>>,
    access_log_dropped: AtomicU64,
    /// One count per worker.
    in_flight: Box<[InFlight]>,
}

/// Exchanges in flight at one worker. On a line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct InFlight(Cell);

impl Metrics {
    /// Metrics for this many workers, whose numbers are 0 to `workers` - 1.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers,
            backends: Mutex::default(),
            listeners: Mutex::default(),
            no_backend: Arc::new(BackendMetrics::new("".into(), workers)),
            retired: Mutex::default(),
            snapshot_generation: AtomicU64::new(0),
            snapshot_published_unix_us: AtomicU64::new(0),
            snapshot_rejects: AtomicU64::new(0),
            reloads_ok: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            last_reload_failed: AtomicU64::new(0),
            settings_waiting: AtomicU64::new(0),
            kubernetes: Mutex::new(None),
            identity_ends: AtomicU64::new(0),
            acme: Mutex::new(None),
            injections: Mutex::new(None),
            access_log_dropped: AtomicU64::new(0),
            in_flight: (0..workers).map(|_| InFlight::default()).collect(),
        })
    }

    /// The handle of a backend, made when new. Control plane only: takes a lock.
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        if name.is_empty() {
            return Arc::clone(&self.no_backend);
        }
        let mut retired = Vec::new();
        let handle =
            lock(&self.backends).child(name, |name| BackendMetrics::new(name, self.workers), &mut retired);
        self.retire(&retired);
        handle
    }

    /// The handle for exchanges that ended before a backend was chosen; its name is empty.
    pub fn no_backend(&self) -> Arc<BackendMetrics> {
        Arc::clone(&self.no_backend)
    }

    /// The handle of a listener, made when new. Control plane only: takes a lock.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        lock(&self.listeners).child(
            name,
            |name| ListenerMetrics::new(name, self.workers),
            &mut Vec::new(),
        )
    }

    /// Notes that a snapshot went live, with the number of objects that were left out of it.
    pub fn snapshot_published(&self, generation: u64, rejects: usize, now_unix_us: u64) {
        self.snapshot_generation.store(generation, Relaxed);
        self.snapshot_rejects.store(rejects as u64, Relaxed);
        self.snapshot_published_unix_us.store(now_unix_us, Relaxed);
    }

    /// Notes that a configuration was read again and taken, or refused as a whole.
    pub fn reload(&self, ok: bool) {
        let counter = if ok {
            &self.reloads_ok
        } else {
            &self.reloads_failed
        };
        counter.fetch_add(1, Relaxed);
        self.last_reload_failed.store(u64::from(!ok), Relaxed);
    }

    /// Notes how many settings of the file wait for a restart.
    pub fn settings_waiting(&self, settings: usize) {
        self.settings_waiting.store(settings as u64, Relaxed);
    }

    /// Notes how things stand with the API server of a Kubernetes cluster.
    pub fn kubernetes(&self, now: Kubernetes) {
        *self.kubernetes.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Counts what became of a Pod that an injector of sidecars was asked about.
    pub fn injection(&self, what: Injection) {
        let mut all = self.injections.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        let counts = Injection::ALL.iter().zip(&mut all.reviews);
        for (_, count) in counts.filter(|(one, _)| **one == what) {
            *count += 1;
        }
    }

    /// Notes when the certificate of an injector of sidecars ends, in seconds since 1970.
    pub fn injector_certificate(&self, ends: Option<u64>) {
        let mut all = self.injections.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_or_insert_default().certificate_ends = ends;
    }

    /// Notes when the identity towards other sidecars ends, in seconds since 1970.
    pub fn identity(&self, ends: Option<u64>) {
        self.identity_ends.store(ends.unwrap_or(0), Relaxed);
    }

    /// Notes how things stand with certificates by ACME. Names beyond [`MAX_CHILDREN`] are not exposed.
    pub fn acme(&self, mut now: Acme) {
        now.certificates.truncate(MAX_CHILDREN);
        *self.acme.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Notes lines of the access log that were thrown away because the writer could not keep up or failed.
    pub fn access_log_dropped(&self, lines: u64) {
        self.access_log_dropped.fetch_add(lines, Relaxed);
    }

    /// Counts an exchange in or out, at the worker that calls.
    pub fn count_in_flight(&self, worker: usize, begins: bool) {
        if let Some(count) = self.in_flight.get(worker) {
            count.0.add(if begins { 1 } else { u64::MAX });
        }
    }

    /// Exchanges that have begun and not ended, over all workers.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
            .iter()
            .fold(0_u64, |sum, count| sum.wrapping_add(count.0.get()))
    }

    /// Everything as it stands. Drops nothing.
    pub fn totals(&self) -> Totals {
        self.read(false)
    }

    /// Everything as it stands, for one who remembers (Prometheus): children that nobody holds are
    /// given a last time and are gone from the next call on.
    pub(super) fn scrape(&self) -> Totals {
        self.read(true)
    }

    fn read(&self, sweep: bool) -> Totals {
        let mut gone = Vec::new();
        let mut backends = vec![self.no_backend.totals()];
        {
            let mut children = lock(&self.backends);
            if sweep {
                children.sweep(&mut gone);
            }
            backends.extend(children.each().map(|child| child.totals()));
        }
        self.retire(&gone);
        let listeners = {
            let mut children = lock(&self.listeners);
            if sweep {
                children.sweep(&mut Vec::new());
            }
            children.each().map(|child| child.totals()).collect()
        };
        Totals {
            backends,
            retired: lock(&self.retired).clone(),
            listeners,
            snapshot_generation: self.snapshot_generation.load(Relaxed),
            snapshot_published_unix_us: self.snapshot_published_unix_us.load(Relaxed),
            snapshot_rejects: self.snapshot_rejects.load(Relaxed),
            reloads_ok: self.reloads_ok.load(Relaxed),
            reloads_failed: self.reloads_failed.load(Relaxed),
            last_reload_ok: self.last_reload_failed.load(Relaxed) == 0,
            settings_waiting: self.settings_waiting.load(Relaxed),
            identity_ends: Some(self.identity_ends.load(Relaxed)).filter(|ends| *ends > 0),
            acme: self.acme.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            injections: *self.injections.lock().unwrap_or_else(PoisonError::into_inner),
            kubernetes: *self.kubernetes.lock().unwrap_or_else(PoisonError::into_inner),
            access_log_dropped: self.access_log_dropped.load(Relaxed),
            in_flight: self.in_flight(),
        }
    }

    fn retire(&self, gone: &[Arc<BackendMetrics>]) {
        if gone.is_empty() {
            return;
        }
        let mut retired = lock(&self.retired);
        for backend in gone {
            retired.merge(&backend.totals());
        }
    }
}

/// What is counted for one backend. Methods that take a worker's number may only be called on that
/// worker's thread: each shard has one writer.
#[derive(Debug)]
pub struct BackendMetrics {
    name: Arc<str>,
    shards: Shards<BackendShard>,
    ejections: [AtomicU64; EJECTIONS.len()],
    panics: AtomicU64,
    concurrency: Mutex<Option<Concurrency>>,
}

impl BackendMetrics {
    fn new(name: Arc<str>, workers: usize) -> Self {
        Self {
            name,
            shards: Shards::new(workers),
            ejections: [const { AtomicU64::new(0) }; EJECTIONS.len()],
            panics: AtomicU64::new(0),
            concurrency: Mutex::new(None),
        }
    }

    /// The name it is exposed under: the backend's, [`OTHER`], or empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts an ended exchange. `status` 0: none was sent. Durations as in
    /// [`ExchangeRecord`](super::ExchangeRecord), bytes of the bodies.
    pub fn record(
        &self,
        worker: usize,
        outcome: Outcome,
        status: u16,
        duration_us: u64,
        head_us: Option<u32>,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let shard = self.shards.of(worker);
        shard.exchanges[outcome.index()][class_of(status)].add(1);
        shard.duration.record(duration_us);
        if let Some(head_us) = head_us {
            shard.head.record(u64::from(head_us));
        }
        shard.request_bytes.add(request_bytes);
        shard.response_bytes.add(response_bytes);
    }

    /// Counts an attempt after the first.
    pub fn retry(&self, worker: usize) {
        self.shards.of(worker).retries.add(1);
    }

    /// Counts a retry that the budget did not allow.
    pub fn retry_denied(&self, worker: usize) {
        self.shards.of(worker).retries_denied.add(1);
    }

    /// Counts a second attempt beside a slow one.
    pub fn hedge(&self, worker: usize) {
        self.shards.of(worker).hedges.add(1);
    }

    /// Counts a second attempt that was the one to count.
    pub fn hedge_won(&self, worker: usize) {
        self.shards.of(worker).hedges_won.add(1);
    }

    /// Counts a second attempt that the budget did not allow.
    pub fn hedge_denied(&self, worker: usize) {
        self.shards.of(worker).hedges_denied.add(1);
    }

    /// Counts a connection made to an endpoint.
    pub fn connection_made(&self, worker: usize) {
        self.shards.of(worker).connections_made.add(1);
    }

    /// Counts a connection to an endpoint that could not be made.
    pub fn connection_failed(&self, worker: usize) {
        self.shards.of(worker).connections_failed.add(1);
    }

    /// Counts an attempt that went over a connection which was there already.
    pub fn connection_reused(&self, worker: usize) {
        self.shards.of(worker).connections_reused.add(1);
    }

    /// Counts a request refused because of what it is; `class` is a place in [`CRITICALITIES`].
    pub fn shed(&self, worker: usize, class: usize) {
        if let Some(cell) = self.shards.of(worker).sheds.get(class) {
            cell.add(1);
        }
    }

    /// Requests refused because of what they are, by place in [`CRITICALITIES`], over all workers.
    pub fn sheds(&self) -> [u64; CRITICALITIES.len()] {
        let mut sheds = [0; CRITICALITIES.len()];
        for shard in self.shards.each() {
            for (count, cell) in sheds.iter_mut().zip(&shard.sheds) {
                *count += cell.get();
            }
        }
        sheds
    }

    /// Counts a pick; `how` is a place in [`PICKS`].
    pub fn picked(&self, worker: usize, how: usize) {
        if let Some(cell) = self.shards.of(worker).picks.get(how) {
            cell.add(1);
        }
    }

    /// Counts a load report that was read, or that could not be.
    pub fn load_report(&self, worker: usize, readable: bool) {
        let shard = self.shards.of(worker);
        match readable {
            true => shard.load_reports.add(1),
            false => shard.load_reports_refused.add(1),
        }
    }

    /// Counts an endpoint set aside; `reason` is a place in [`EJECTIONS`]. From any thread.
    pub fn ejected(&self, reason: usize) {
        if let Some(count) = self.ejections.get(reason) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Notes that availability began to be ignored. From any thread.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// Notes how the limit on concurrency stands; none where there is none. Control plane only: takes a lock.
    pub fn concurrency(&self, now: Option<Concurrency>) {
        *lock(&self.concurrency) = now;
    }

    /// The sum over all workers.
    pub fn totals(&self) -> BackendTotals {
        let mut totals = BackendTotals {
            concurrency: *lock(&self.concurrency),
            name: Arc::clone(&self.name),
            panics: self.panics.load(Relaxed),
            ejections_by: self.ejections.each_ref().map(|count| count.load(Relaxed)),
            ..BackendTotals::default()
        };
        self.shards.each().for_each(|shard| shard.read_into(&mut totals));
        totals
    }
}

/// What is counted for one listener; worker numbers as in [`BackendMetrics`].
#[derive(Debug)]
pub struct ListenerMetrics {
    name: Arc<str>,
    shards: Shards<ListenerShard>,
}

impl ListenerMetrics {
    fn new(name: Arc<str>, workers: usize) -> Self {
        Self {
            name,
            shards: Shards::new(workers),
        }
    }

    /// The name it is exposed under: the listener's, or [`OTHER`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a connection taken.
    pub fn connection_opened(&self, worker: usize) {
        self.shards.of(worker).opened.add(1);
    }

    /// Counts the end of a connection, on whichever worker it ends.
    pub fn connection_closed(&self, worker: usize) {
        self.shards.of(worker).closed.add(1);
    }

    /// Counts a connection that was closed at once, because a bound was reached.
    pub fn refused(&self, worker: usize) {
        self.shards.of(worker).refused.add(1);
    }

    /// Counts a connection given to another worker.
    pub fn handed_off(&self, worker: usize) {
        self.shards.of(worker).handed_off.add(1);
    }

    /// Counts an ended TLS handshake.
    pub fn handshake(&self, worker: usize, end: HandshakeEnd) {
        self.shards.of(worker).handshakes[end.index()].add(1);
    }

    /// Counts what was found on a redirected connection.
    pub fn detected(&self, worker: usize, found: Detected) {
        self.shards.of(worker).detected[found.index()].add(1);
    }

    /// Counts how a connection came where mTLS is asked for.
    pub fn came(&self, worker: usize, came: Came) {
        self.shards.of(worker).came[came.index()].add(1);
    }

    /// The sum over all workers.
    pub fn totals(&self) -> ListenerTotals {
        let mut totals = ListenerTotals {
            name: Arc::clone(&self.name),
            ..ListenerTotals::default()
        };
        self.shards.each().for_each(|shard| shard.read_into(&mut totals));
        totals
    }
}

/// Handles by name, at most [`MAX_CHILDREN`] and the one of all others.
#[derive(Debug)]
struct Children<T> {
    by_name: BTreeMap<Arc<str>, Child<T>>,
    other: Option<Arc<T>>,
}

#[derive(Debug)]
struct Child<T> {
    handle: Arc<T>,
    /// Nobody held it when it was last exposed.
    exposed_unheld: bool,
}

impl<T> Children<T> {
    fn child(&mut self, name: &str, new: impl Fn(Arc<str>) -> T, gone: &mut Vec<Arc<T>>) -> Arc<T> {
        if let Some(child) = self.by_name.get_mut(name) {
            child.exposed_unheld = false;
            return Arc::clone(&child.handle);
        }
        if self.by_name.len() >= MAX_CHILDREN {
            self.drop_where(gone, |_| true);
        }
        if name == OTHER || self.by_name.len() >= MAX_CHILDREN {
            return Arc::clone(self.other.get_or_insert_with(|| Arc::new(new(OTHER.into()))));
        }
        let name: Arc<str> = name.into();
        let handle = Arc::new(new(Arc::clone(&name)));
        let child = Child {
            handle: Arc::clone(&handle),
            exposed_unheld: false,
        };
        self.by_name.insert(name, child);
        handle
    }

    /// Drops what was exposed when nobody held it any more; marks what is about to be.
    fn sweep(&mut self, gone: &mut Vec<Arc<T>>) {
        self.drop_where(gone, |child| child.exposed_unheld);
        for child in self.by_name.values_mut() {
            child.exposed_unheld = Arc::strong_count(&child.handle) == 1;
        }
    }

    /// Drops what nobody holds and `which` is true of. No handle can be cloned meanwhile but
    /// through this map, which is borrowed.
    fn drop_where(&mut self, gone: &mut Vec<Arc<T>>, which: impl Fn(&Child<T>) -> bool) {
        self.by_name.retain(|_, child| {
            let drop = Arc::strong_count(&child.handle) == 1 && which(child);
            if drop {
                gone.push(Arc::clone(&child.handle));
            }
            !drop
        });
    }

    fn each(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_name
            .values()
            .map(|child| &child.handle)
            .chain(&self.other)
    }
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            other: None,
        }
    }
}

/// The place of a status in [`CLASSES`]. What is beyond 5xx counts with it.
fn class_of(status: u16) -> usize {
    usize::from(status / 100).min(CLASSES.len() - 1)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
