//! What the exchanges of one worker share: its view of the snapshot, its connections, its counters. Owned by one
//! thread, so nothing here is locked and nothing need be `Send`.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::upload::RequestBody;
use crate::balance::{Clock, Micros};
use crate::runtime::allocator;
use crate::runtime::timers::Timers;
use crate::snapshot::{Current, Reader, Readers};
use crate::telemetry::access_log::AccessLogHandle;
use crate::telemetry::metrics::{BackendMetrics, Metrics};
use crate::upstream::Pool;

/// One data-plane thread's own.
pub struct Worker {
    /// Its number, from 0; its shard of every counter.
    pub index: usize,
    /// The process's clock.
    pub clock: Clock,
    /// Connections to endpoints.
    pub pool: Pool<RequestBody>,
    /// Timers not in use.
    pub timers: Rc<Timers>,
    /// Counters of exchanges that were for no backend.
    pub unrouted: Arc<BackendMetrics>,
    settings: RefCell<WorkerSettings>,
    reader: Reader,
    random: RefCell<fastrand::Rng>,
    date: RefCell<(u64, HeaderValue)>,
    draining: Cell<bool>,
    /// What is still going on is being cut off.
    stopping: Cell<bool>,
    drain: Notify,
    metrics: Arc<Metrics>,
}

/// What a worker is made with.
pub struct WorkerParts {
    /// Its number.
    pub index: usize,
    /// The process's clock.
    pub clock: Clock,
    /// Where it gets its view of the snapshot.
    pub readers: Readers,
    /// The process's counters.
    pub metrics: Arc<Metrics>,
    /// What may change while it runs.
    pub settings: WorkerSettings,
    /// Seed of its random numbers.
    pub seed: u64,
}

/// Settings of the process that a worker follows.
pub struct WorkerSettings {
    /// Whether responses that Tidegate made say why, in `Proxy-Status`.
    pub proxy_status: bool,
    /// Its end of the access log, if there is one.
    pub access_log: Option<AccessLogHandle>,
}

impl Worker {
    /// A worker with empty pools. Called on its own thread.
    pub fn new(parts: WorkerParts) -> Rc<Self> {
        Rc::new(Self {
            index: parts.index,
            clock: parts.clock,
            pool: Pool::new(),
            timers: Rc::default(),
            unrouted: parts.metrics.no_backend(),
            settings: RefCell::new(parts.settings),
            reader: parts.readers.reader(),
            random: RefCell::new(fastrand::Rng::with_seed(parts.seed)),
            date: RefCell::new((0, HeaderValue::from_static(""))),
            draining: Cell::new(false),
            stopping: Cell::new(false),
            drain: Notify::new(),
            metrics: parts.metrics,
        })
    }

    /// The world as of now, for a whole exchange.
    pub fn snapshot(&self) -> Current {
        self.reader.current()
    }

    /// Now.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// A random number, evenly spread.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// With the worker's random numbers.
    pub fn with_random<T>(&self, use_it: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        use_it(&mut self.random.borrow_mut())
    }

    /// Whether responses that Tidegate made say why, in `Proxy-Status`.
    pub fn proxy_status(&self) -> bool {
        self.settings.borrow().proxy_status
    }

    /// Whether exchanges are logged.
    pub fn logs_access(&self) -> bool {
        self.settings.borrow().access_log.is_some()
    }

    /// Where access-log lines go, if anywhere.
    pub fn access_log(&self) -> Option<RefMut<'_, AccessLogHandle>> {
        let settings = self.settings.borrow_mut();
        RefMut::filter_map(settings, |settings| settings.access_log.as_mut()).ok()
    }

    /// From now on these settings. Lines of the access log before go where they were to go.
    pub fn set(&self, settings: WorkerSettings) {
        self.settings.replace(settings);
    }

    /// The `Date` field of this second (RFC 9110 §5.6.7).
    pub fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(now);
            date.0 = second;
            date.1 = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
        }
        date.1.clone()
    }

    /// Whether connections are asked to end after the exchange at hand.
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// From now on connections end after the exchange at hand.
    pub fn start_draining(&self) {
        self.draining.set(true);
        self.drain.notify_waiters();
    }

    /// From now on exchanges that end without a word of their own are cut off by the process's end.
    pub fn start_stopping(&self) {
        self.stopping.set(true);
    }

    /// Whether they are.
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Ready once the worker is draining.
    pub async fn drained(&self) {
        while !self.draining.get() {
            self.drain.notified().await;
        }
    }

    /// Exchanges that have begun and not ended, over all workers.
    pub fn in_flight(&self) -> u64 {
        self.metrics.in_flight()
    }

    /// Counts an exchange in (true) or out (false).
    pub(super) fn count(&self, begins: bool) {
        self.metrics.count_in_flight(self.index, begins);
    }

    /// What is done a few times a second: idle connections closed, log lines handed on, memory given back.
    pub fn tick(&self) {
        self.pool.sweep(Instant::now());
        allocator::give_back();
        if let Some(mut log) = self.access_log() {
            log.flush();
        }
    }
}
