//! What the connections of one worker share, whatever is spoken on them: its view of the snapshot, its clock, timers and
//! chance, its shard of every counter, its end of the access log. Owned by one thread, so nothing here is locked and
//! nothing need be `Send`.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::redirected::Originals;
use crate::balance::{Clock, Micros};
use crate::model::Direction;
use crate::runtime::scratch::Scratch;
use crate::runtime::timers::Timers;
use crate::snapshot::{Current, Reader, Readers};
use crate::telemetry::access_log::AccessLogHandle;
use crate::telemetry::metrics::{BackendMetrics, Metrics};

/// One worker's own, as far as no protocol is concerned.
pub struct Desk {
    /// The worker's number, from 0; its shard of every counter.
    pub index: usize,
    /// The process's clock.
    pub clock: Clock,
    /// Timers not in use.
    pub timers: Rc<Timers>,
    /// The buffer that bytes are passed on through.
    pub scratch: Scratch,
    /// Counters of exchanges that were for no backend.
    pub unrouted: Arc<BackendMetrics>,
    /// Addresses that redirected connections to and from the app were meant for; made when the first such comes.
    originals: [OnceCell<Originals>; 2],
    access_log: RefCell<Option<AccessLogHandle>>,
    reader: Reader,
    random: RefCell<fastrand::Rng>,
    draining: Cell<bool>,
    /// What is still going on is being cut off.
    stopping: Cell<bool>,
    drain: Notify,
    /// Connections numbered so far.
    numbered: Cell<u64>,
    metrics: Arc<Metrics>,
}

impl Desk {
    /// The desk of a worker. Called on its own thread. `seed` is that of its random numbers.
    pub fn new(index: usize, clock: Clock, readers: &Readers, metrics: &Arc<Metrics>, seed: u64) -> Self {
        Self {
            index,
            clock,
            timers: Rc::default(),
            scratch: Scratch::default(),
            unrouted: metrics.no_backend(),
            originals: [OnceCell::new(), OnceCell::new()],
            access_log: RefCell::new(None),
            reader: readers.reader(),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            draining: Cell::new(false),
            stopping: Cell::new(false),
            drain: Notify::new(),
            numbered: Cell::new(0),
            metrics: Arc::clone(metrics),
        }
    }

    /// The world as of now, for a whole exchange.
    pub fn snapshot(&self) -> Current {
        self.reader.current()
    }

    /// Addresses that redirected connections were meant for and that are no backend's.
    pub fn originals(&self, direction: Direction) -> &Originals {
        let name = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "original",
        };
        self.originals[direction as usize].get_or_init(|| Originals::new(name, &self.metrics))
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

    /// Whether exchanges are logged.
    pub fn logs_access(&self) -> bool {
        self.access_log.borrow().is_some()
    }

    /// Where access-log lines go, if anywhere.
    pub fn access_log(&self) -> Option<RefMut<'_, AccessLogHandle>> {
        RefMut::filter_map(self.access_log.borrow_mut(), Option::as_mut).ok()
    }

    /// From now on this access log, or none. Lines before go where they were to go.
    pub fn set_access_log(&self, log: Option<AccessLogHandle>) {
        self.access_log.replace(log);
    }

    /// A number for a connection, from 1.
    pub fn next_number(&self) -> u64 {
        self.numbered.set(self.numbered.get() + 1);
        self.numbered.get()
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
    pub fn count(&self, begins: bool) {
        self.metrics.count_in_flight(self.index, begins);
    }
}
