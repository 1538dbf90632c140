//! What is known of one endpoint, and the guards that keep it true.
//!
//! A cell is written by every worker at once. What a pick reads lies together on one line of 64
//! bytes, what is only counted on another; no cell shares a line with its neighbour. (Processors fetch
//! lines in pairs, but a pair for each would cost 100,000 endpoints 19 MB more.) All accesses are `Relaxed`: a pick is a guess about the
//! future, and a number that is some nanoseconds old makes it no worse.

mod guards;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

pub use self::guards::{ConnectionSlot, InFlight};
use super::estimate::{Estimate, Sample};
use super::load::Reported;
use super::waiting::{Waiting, WaitingNow};
use super::{Micros, Reason};

/// What is known of one endpoint; shared by all workers, outlives the fleets it is part of.
#[repr(align(64))]
pub struct EndpointCell {
    load: Load,
    id: u64,
    address: SocketAddr,
    connections: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU32,
    /// How many times in a row it was ejected, less what good conduct has made up for.
    strikes: AtomicU32,
    /// Failures in a row that were not the endpoint's own answers.
    gateway_in_a_row: AtomicU32,
    /// Why it was ejected last: the place of a [`Reason`].
    ejected_for: AtomicU8,
}

/// The part that a pick reads.
#[repr(align(64))]
struct Load {
    waiting: Waiting,
    estimate: Estimate,
    last_start: AtomicU64,
    /// 0 when it never was.
    ejected_until: AtomicU64,
    /// Since when it takes requests: slow start counts from here.
    ready_since: AtomicU64,
    in_flight: AtomicU32,
    failed_in_a_row: AtomicU32,
    reported: Reported,
    sick: AtomicBool,
    /// Whether the next exchange is a trial.
    trial: AtomicBool,
    /// How many trials there were since it last had other exchanges.
    trials: AtomicU8,
}

/// An endpoint idle for this long is tried again, in microseconds.
const TRIAL_PAUSE_US: u64 = 1_000_000;
/// After so many trials in vain the pause is twice as long.
const TRIALS_ALIKE: u8 = 4;
/// An endpoint to which nothing was sent for this long is told to be idle, in microseconds.
const IDLE_US: u64 = 100_000;
/// How often the pause is doubled at the most.
const TRIAL_DOUBLINGS: u8 = 2;
/// An endpoint whose last answers failed is asked again when it was idle for this long, in microseconds.
const SUSPECT_PAUSE_US: u64 = 100_000;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The response's head came, with a status below 500.
    Answered,
    /// The response's head came, with a status of 500 or above that is the endpoint's own.
    ServerError,
    /// The response's head came, with 502, 503 or 504: somebody behind the endpoint could not be reached.
    GatewayError,
    /// No response: refused, reset, or the deadline passed.
    Failed,
}

/// A cell's numbers at one moment, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CellView {
    /// Exchanges that began and did not end, over all workers.
    pub in_flight: u32,
    /// Those of them whose response's head has not come.
    pub waiting: u32,
    /// Open connections, over all workers.
    pub connections: u32,
    /// Mean latency up to the response's head, in microseconds; none before the first sample.
    pub latency_us: Option<u64>,
    /// What least-latency reckons with for the next exchange at weight 1, in microseconds.
    pub cost: u64,
    /// By what failures multiply it; 1 without.
    pub penalty: f32,
    /// Share of failures among its last answers, 0 to 1.
    pub failing: f32,
    /// Time until it is due for a trial, in microseconds; none while something waits there, or was sent just now.
    pub trial_in_us: Option<u64>,
    /// What the latency is multiplied by for what the endpoint said of its load; none if it never said anything.
    pub load_factor: Option<f32>,
    /// Until when it is set aside.
    pub ejected_until: Option<Micros>,
    /// Why it is set aside.
    pub ejected_for: Option<Reason>,
    /// How often it was set aside.
    pub ejections: u32,
    /// Failures since the last success.
    pub failed_in_a_row: u32,
    /// What active checks say; healthy when there are none.
    pub checked_healthy: bool,
    /// Attempts ever begun.
    pub requests: u64,
    /// Attempts that failed or were answered with a 5xx.
    pub failures: u64,
}

impl EndpointCell {
    /// An endpoint of which nothing is known. Its id is unique while the process lives.
    pub fn new(address: SocketAddr, now: Micros) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            load: Load {
                waiting: Waiting::default(),
                estimate: Estimate::default(),
                last_start: AtomicU64::new(now.0),
                ejected_until: AtomicU64::new(0),
                ready_since: AtomicU64::new(now.0),
                in_flight: AtomicU32::new(0),
                failed_in_a_row: AtomicU32::new(0),
                reported: Reported::default(),
                sick: AtomicBool::new(false),
                trial: AtomicBool::new(false),
                trials: AtomicU8::new(0),
            },
            id: NEXT.fetch_add(1, Relaxed),
            address,
            connections: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
            gateway_in_a_row: AtomicU32::new(0),
            ejected_for: AtomicU8::new(0),
        })
    }

    /// Unique while the process lives, also after the endpoint is gone.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Counts an exchange in flight until the guard drops.
    pub fn start(self: &Arc<Self>, now: Micros) -> InFlight {
        let load = self.load.in_flight.fetch_add(1, Relaxed);
        self.load.waiting.begin(now);
        self.load.last_start.store(now.0, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        // Read first: a swap would cost each exchange what few need.
        let trial = self.load.trial.load(Relaxed) && self.load.trial.swap(false, Relaxed);
        if !trial && self.load.trials.load(Relaxed) != 0 {
            self.load.trials.store(0, Relaxed);
        }
        InFlight {
            cell: Arc::clone(self),
            started: now,
            waiting: true,
            trial,
            load,
        }
    }

    /// Counts a connection until the slot drops; none when `limit` are open over all workers.
    pub fn open_connection(self: &Arc<Self>, limit: u32) -> Option<ConnectionSlot> {
        self.connections
            .fetch_update(Relaxed, Relaxed, |open| {
                (open < limit).then(|| open.saturating_add(1))
            })
            .ok()
            .map(|_| ConnectionSlot {
                cell: Arc::clone(self),
            })
    }

    /// Open connections, over all workers.
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }

    /// What active checks say. Becoming healthy ends an ejection, too, and begins a slow start.
    pub fn set_checked_health(&self, healthy: bool, now: Micros) {
        let was_sick = self.load.sick.swap(!healthy, Relaxed);
        if was_sick && healthy {
            self.load.failed_in_a_row.store(0, Relaxed);
            self.load.ejected_until.store(0, Relaxed);
            self.load.ready_since.store(now.0, Relaxed);
        }
    }

    /// Ends an ejection before its time, because active checks go well: true if there was one. It is on probation all the
    /// same: the next failure sends it out again, for longer.
    pub fn end_ejection(&self, now: Micros) -> bool {
        let is_out = self.is_ejected(now);
        if is_out {
            self.load.ejected_until.store(now.0, Relaxed);
            self.load.ready_since.store(now.0, Relaxed);
        }
        is_out
    }

    /// What active checks said last.
    pub fn is_checked_healthy(&self) -> bool {
        !self.is_sick()
    }

    /// The numbers at this moment.
    pub fn view(&self, now: Micros) -> CellView {
        let in_flight = self.in_flight();
        let waiting = self.waiting(now);
        let latency = self.mean_us().unwrap_or(0.0).max(waiting.mean_age_us());
        let raised = self.raise(latency);
        let idle = self.idle_us(now);
        CellView {
            in_flight,
            waiting: waiting.count,
            connections: self.connections(),
            latency_us: self.mean_us().map(|mean| mean as u64),
            cost: (raised * (in_flight as f32 + 1.0)) as u64,
            load_factor: self.load.reported.is_known().then(|| self.reported_factor(now)),
            penalty: if latency > 0.0 { raised / latency } else { 1.0 },
            failing: self.load.estimate.failing(),
            trial_in_us: (waiting.count == 0 && idle >= IDLE_US)
                .then(|| self.trial_pause_us().saturating_sub(idle)),
            ejected_until: Some(self.ejected_until()).filter(|until| *until > now),
            ejected_for: Reason::of_place(self.ejected_for.load(Relaxed)).filter(|_| self.is_ejected(now)),
            ejections: self.ejections.load(Relaxed),
            failed_in_a_row: self.failed_in_a_row(),
            checked_healthy: !self.is_sick(),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }

    /// By what to multiply its latency for what it said of its load.
    pub(super) fn reported_factor(&self, now: Micros) -> f32 {
        self.load.reported.factor(|| self.load.estimate.age_us(now))
    }

    /// Exchanges that began and did not end, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight.load(Relaxed)
    }

    /// Whether it is neither ejected nor sick by active checks.
    pub fn is_available(&self, now: Micros) -> bool {
        self.load.ejected_until.load(Relaxed) <= now.0 && !self.is_sick()
    }

    /// Whether it is set aside for what it did to requests.
    pub(super) fn is_ejected(&self, now: Micros) -> bool {
        self.ejected_until() > now
    }

    fn is_sick(&self) -> bool {
        self.load.sick.load(Relaxed)
    }

    pub(super) fn ejected_until(&self) -> Micros {
        Micros(self.load.ejected_until.load(Relaxed))
    }

    /// Mean latency in microseconds, if an answer or failure was ever seen. At least 1.
    pub(super) fn mean_us(&self) -> Option<f32> {
        self.load.estimate.mean()
    }

    /// What waits for its response's head.
    pub(super) fn waiting(&self, now: Micros) -> WaitingNow {
        self.load.waiting.get(now)
    }

    /// A latency in microseconds, raised for failures.
    pub(super) fn raise(&self, latency_us: f32) -> f32 {
        self.load.estimate.raise(latency_us)
    }

    /// Microseconds since the last exchange began (or the cell was made).
    pub(super) fn idle_us(&self, now: Micros) -> u64 {
        now.0.saturating_sub(self.load.last_start.load(Relaxed))
    }

    /// Whether an idle endpoint is due for a trial, and since when it has been idle, in microseconds.
    pub(super) fn trial_due(&self, now: Micros) -> Option<u64> {
        let idle = self.idle_us(now);
        let due = idle >= self.trial_pause_us() && self.waiting(now).count == 0;
        due.then_some(idle)
    }

    fn trial_pause_us(&self) -> u64 {
        let doublings = (self.load.trials.load(Relaxed) / TRIALS_ALIKE).min(TRIAL_DOUBLINGS);
        TRIAL_PAUSE_US << doublings
    }

    /// Takes the right to try an idle endpoint again: one worker gets it. The next exchange is the trial.
    pub(super) fn claim_trial(&self, now: Micros) -> bool {
        let last = self.load.last_start.load(Relaxed);
        let claimed = self.trial_due(now).is_some()
            && self
                .load
                .last_start
                .compare_exchange(last, now.0, Relaxed, Relaxed)
                .is_ok();
        if claimed {
            self.load.trial.store(true, Relaxed);
            let trials = self.load.trials.load(Relaxed);
            self.load.trials.store(trials.saturating_add(1), Relaxed);
        }
        claimed
    }

    /// Whether its last answers failed, too few of them to judge it by, and nothing is on the way there that will say more;
    /// and since when it has been idle, in microseconds.
    pub(super) fn suspect_due(&self, now: Micros, judged_after: u32) -> Option<u64> {
        let failed = self.failed_in_a_row();
        let idle = self.idle_us(now);
        let due = failed > 0 && failed < judged_after && idle >= SUSPECT_PAUSE_US;
        (due && self.waiting(now).count == 0).then_some(idle)
    }

    /// Takes the right to ask a suspect again: one worker gets it. What it answers is one answer among others.
    pub(super) fn claim_suspect(&self, now: Micros) -> bool {
        let last = self.load.last_start.load(Relaxed);
        let due = now.0.saturating_sub(last) >= SUSPECT_PAUSE_US;
        due && self
            .load
            .last_start
            .compare_exchange(last, now.0, Relaxed, Relaxed)
            .is_ok()
    }

    /// Microseconds since it has been taking requests; 0 while it does not.
    pub(super) fn ready_us(&self, now: Micros) -> u64 {
        now.0.saturating_sub(self.load.ready_since.load(Relaxed))
    }

    pub(super) fn failed_in_a_row(&self) -> u32 {
        self.load.failed_in_a_row.load(Relaxed)
    }

    pub(super) fn gateway_in_a_row(&self) -> u32 {
        self.gateway_in_a_row.load(Relaxed)
    }

    /// Attempts that ended, and those of them that failed; ever.
    pub(super) fn ended(&self) -> (u64, u64) {
        let ended = self
            .requests
            .load(Relaxed)
            .saturating_sub(u64::from(self.in_flight()));
        (ended, self.failures.load(Relaxed))
    }

    pub(super) fn strikes(&self) -> u32 {
        self.strikes.load(Relaxed)
    }

    /// Sets it aside. Failures in a row are kept, so that one more failure after its return sends it
    /// out again; slow start counts from its return.
    pub(super) fn eject(&self, until: Micros, strikes: u32, reason: Reason) {
        self.ejected_for.store(reason as u8, Relaxed);
        self.strikes.store(strikes, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        self.load.ready_since.store(until.0, Relaxed);
        self.load.ejected_until.store(until.0, Relaxed);
    }

    fn observe(&self, sample: Sample, seen: Observed) {
        match seen {
            Observed::Answered => {
                self.load.estimate.answered(sample);
                // Read first: a store would take the line from the other workers each time.
                if self.load.failed_in_a_row.load(Relaxed) != 0 {
                    self.load.failed_in_a_row.store(0, Relaxed);
                    self.gateway_in_a_row.store(0, Relaxed);
                }
            }
            Observed::ServerError | Observed::GatewayError | Observed::Failed => {
                self.load.estimate.failed(sample);
                self.count_failure();
                match seen {
                    Observed::ServerError => self.gateway_in_a_row.store(0, Relaxed),
                    _ => _ = self.gateway_in_a_row.fetch_add(1, Relaxed),
                }
            }
        }
    }

    fn count_failure(&self) {
        self.load.failed_in_a_row.fetch_add(1, Relaxed);
        self.failures.fetch_add(1, Relaxed);
    }
}

impl fmt::Debug for EndpointCell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("EndpointCell");
        debug.field("id", &self.id).field("address", &self.address);
        debug
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
