//! What the exchanges of one worker share: its desk, its connections to HTTP endpoints, what responses of its own look
//! like. Owned by one thread, so nothing here is locked and nothing need be `Send`.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tokio::time::Instant;

use super::upload::RequestBody;
use crate::balance::Clock;
use crate::l4::desk::Desk;
use crate::runtime::allocator;
use crate::snapshot::Readers;
use crate::telemetry::access_log::AccessLogHandle;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Pool;

/// One data-plane thread's own. What is not of HTTP alone is on its [`Desk`].
pub struct Worker {
    /// Connections to endpoints.
    pub pool: Pool<RequestBody>,
    desk: Rc<Desk>,
    proxy_status: Cell<bool>,
    date: RefCell<(u64, HeaderValue)>,
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
        let desk = Desk::new(
            parts.index,
            parts.clock,
            &parts.readers,
            &parts.metrics,
            parts.seed,
        );
        let worker = Self {
            pool: Pool::new(),
            desk: Rc::new(desk),
            proxy_status: Cell::new(false),
            date: RefCell::new((0, HeaderValue::from_static(""))),
        };
        worker.set(parts.settings);
        Rc::new(worker)
    }

    /// What it shares with connections on which no HTTP is spoken.
    pub fn desk(&self) -> &Rc<Desk> {
        &self.desk
    }

    /// Whether responses that Tidegate made say why, in `Proxy-Status`.
    pub fn proxy_status(&self) -> bool {
        self.proxy_status.get()
    }

    /// From now on these settings. Lines of the access log before go where they were to go.
    pub fn set(&self, settings: WorkerSettings) {
        self.proxy_status.set(settings.proxy_status);
        self.desk.set_access_log(settings.access_log);
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

    /// What is done a few times a second: idle connections closed, log lines handed on, memory given back.
    pub fn tick(&self) {
        self.pool.sweep(Instant::now());
        allocator::give_back();
        if let Some(mut log) = self.access_log() {
            log.flush();
        }
    }
}

impl Deref for Worker {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}
