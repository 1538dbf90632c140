//! Statistics for people: what `/stats.json` says, for the page and the terminal.
//!
//! Counters since the start say little about now, so everything that moves is also given for the recent
//! past. Whoever asks makes the samples: two are kept, and when the younger is [`WINDOW`] old it becomes the older.
//! What is recent is the difference to the older one: the last one to two [`WINDOW`]s while somebody looks,
//! more for the first who looks after a while (`window_seconds` says how much). No timer runs when nobody does.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::view::{Ask, BackendView, ListenerView, Page, RejectView, View};
use crate::telemetry::gates::GateView;
use crate::telemetry::metrics::{BackendTotals, ListenerTotals, Totals};
use crate::telemetry::process::ProcessTotals;
use crate::telemetry::{Gates, Outcome};

/// Age at which the younger sample becomes the older.
const WINDOW: Duration = Duration::from_secs(4);

/// Backends that are told; of more, the busiest.
const MAX_BACKENDS: usize = 100;

/// Endpoints that are told of each backend.
const MAX_ENDPOINTS: usize = 64;

/// Rejects that are told.
const MAX_REJECTS: usize = 50;

/// Everything at one moment. Durations are in microseconds or seconds, as the names say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Tidegate's version.
    pub version: String,
    /// Since the process started.
    pub uptime_seconds: f64,
    /// The length of the recent past in this answer.
    pub window_seconds: f64,
    /// Whether all gates are open.
    pub ready: bool,
    /// What readiness depends on.
    pub gates: Vec<GateView>,
    /// The live snapshot.
    pub snapshot: SnapshotStats,
    /// The process.
    pub process: ProcessStats,
    /// All exchanges together, also those without a backend and of backends that are gone.
    pub all: Counts,
    /// How exchanges ended, most often first; without what never happened.
    pub outcomes: Vec<OutcomeStats>,
    /// Listeners, by name.
    pub listeners: Vec<ListenerStats>,
    /// Backends that are live.
    pub backends_total: usize,
    /// At most 100 of them, by name; the busiest, if there are more.
    pub backends: Vec<BackendStats>,
}

/// The live snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStats {
    /// Its number; 0: none yet.
    pub generation: u64,
    /// Since it went live.
    pub age_seconds: Option<f64>,
    /// Configurations taken and refused since the start.
    pub reloads_ok: u64,
    /// See `reloads_ok`.
    pub reloads_failed: u64,
    /// Whether the last configuration was taken.
    pub last_reload_ok: bool,
    /// What was left out of it.
    pub rejects: Page<RejectView>,
}

/// What the kernel says of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessStats {
    /// Processor time since the start.
    pub cpu_seconds: Option<f64>,
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// File descriptors that may be open.
    pub max_fds: Option<u64>,
    /// Lines of the access log thrown away since the start.
    pub access_log_dropped: u64,
}

/// What is counted of exchanges.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Ended exchanges since the start.
    pub requests: u64,
    /// Those that failed through no fault of the client.
    pub failures: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Retries that the budget did not allow.
    pub retries_denied: u64,
    /// Endpoints set aside.
    pub ejections: u64,
    /// Connections made to endpoints.
    pub connections_made: u64,
    /// Attempts over connections which were there already.
    pub connections_reused: u64,
    /// The recent past.
    pub recent: Recent,
}

/// The recent past; latencies are None when nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// Requests per second.
    pub requests_per_second: f64,
    /// Failures per second.
    pub failures_per_second: f64,
    /// Attempts after the first, per second.
    pub retries_per_second: f64,
    /// From the request's head to the response's end: median.
    pub p50_us: Option<u64>,
    /// 99 of 100 are no longer.
    pub p99_us: Option<u64>,
    /// From the request's head to the head of an endpoint's response: median.
    pub head_p50_us: Option<u64>,
    /// 99 of 100 are no longer.
    pub head_p99_us: Option<u64>,
}

/// How often exchanges ended for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutcomeStats {
    /// Its code.
    pub outcome: String,
    /// Whether it is a failure.
    pub failure: bool,
    /// Since the start.
    pub count: u64,
    /// In the recent past.
    pub per_second: f64,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerStats {
    /// Its name.
    pub name: String,
    /// Connections that are open.
    pub open: u64,
    /// Connections taken since the start.
    pub opened: u64,
    /// Connections closed at once, because a bound was reached.
    pub refused: u64,
    /// Connections given to another worker.
    pub handed_off: u64,
    /// As it is live.
    pub live: Option<ListenerView>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStats {
    /// As it is live.
    pub live: BackendView,
    /// Its exchanges. None: it is beyond the bound on names and counted under `_other`.
    pub counts: Option<Counts>,
}

/// The samples that the recent past is told from.
#[derive(Debug)]
pub(super) struct Window(Mutex<Samples>);

#[derive(Debug)]
struct Samples {
    older: Sample,
    younger: Sample,
}

#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    /// None: everything was zero.
    totals: Option<Totals>,
}

impl Default for Window {
    fn default() -> Self {
        let start = Sample {
            at: Instant::now(),
            totals: None,
        };
        Self(Mutex::new(Samples {
            older: start.clone(),
            younger: start,
        }))
    }
}

impl Window {
    /// Puts in the present; gives the sample that the recent past begins with.
    fn turn(&self, now: Instant, totals: &Totals) -> Sample {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(samples.younger.at) >= WINDOW {
            let next = Sample {
                at: now,
                totals: Some(totals.clone()),
            };
            samples.older = std::mem::replace(&mut samples.younger, next);
        }
        samples.older.clone()
    }
}

/// What is read for one answer.
pub(super) struct Present<'a> {
    pub(super) now: Instant,
    pub(super) now_unix_us: u64,
    pub(super) totals: Totals,
    pub(super) process: ProcessTotals,
    pub(super) gates: &'a Gates,
    pub(super) view: &'a dyn View,
}

/// The answer.
pub(super) fn stats(window: &Window, present: Present<'_>) -> Stats {
    let Present {
        now, totals, view, ..
    } = &present;
    let older = window.turn(*now, totals);
    let seconds = now.duration_since(older.at).as_secs_f64();
    let before: HashMap<&str, &BackendTotals> = older
        .totals
        .iter()
        .flat_map(|totals| &totals.backends)
        .map(|backend| (&*backend.name, backend))
        .collect();
    let zero = BackendTotals::default();
    let counts = |backend: &BackendTotals| {
        let before = before.get(&*backend.name).copied().unwrap_or(&zero);
        Counts::of(backend, before, seconds)
    };

    let (all, all_before) = (sum(Some(totals)), sum(older.totals.as_ref()));
    let page = view.backends(&Ask {
        names: busiest(totals, &before),
        limit: MAX_BACKENDS,
        endpoints: MAX_ENDPOINTS,
    });
    let own: HashMap<&str, &BackendTotals> = totals
        .backends
        .iter()
        .map(|backend| (&*backend.name, backend))
        .collect();
    let live_listeners = view.listeners(&Ask::up_to(MAX_BACKENDS)).items;
    Stats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: present.process.started_unix_seconds.map_or(0.0, |started| {
            (present.now_unix_us as f64 / 1e6 - started).max(0.0)
        }),
        window_seconds: seconds,
        ready: present.gates.ready(),
        gates: present.gates.list(),
        snapshot: SnapshotStats {
            generation: view.snapshot_generation(),
            age_seconds: (totals.snapshot_published_unix_us > 0).then(|| {
                present
                    .now_unix_us
                    .saturating_sub(totals.snapshot_published_unix_us) as f64
                    / 1e6
            }),
            reloads_ok: totals.reloads_ok,
            reloads_failed: totals.reloads_failed,
            last_reload_ok: totals.last_reload_ok,
            rejects: view.rejects(&Ask::up_to(MAX_REJECTS)),
        },
        process: ProcessStats {
            cpu_seconds: present.process.cpu_seconds,
            resident_bytes: present.process.resident_bytes,
            open_fds: present.process.open_fds,
            max_fds: present.process.max_fds,
            access_log_dropped: totals.access_log_dropped,
        },
        outcomes: outcomes(&all, &all_before, seconds),
        all: Counts::of(&all, &all_before, seconds),
        listeners: listeners(&totals.listeners, live_listeners),
        backends_total: view.backends(&Ask::up_to(0)).total,
        backends: page
            .items
            .into_iter()
            .map(|live| BackendStats {
                counts: own.get(&*live.name).map(|totals| counts(totals)),
                live,
            })
            .collect(),
    }
}

impl Counts {
    fn of(now: &BackendTotals, before: &BackendTotals, seconds: f64) -> Self {
        let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), seconds);
        let duration = now.duration.since(&before.duration);
        let head = now.head.since(&before.head);
        let (requests, failures) = (now.requests(), now.failures());
        Self {
            requests,
            failures,
            retries: now.retries,
            retries_denied: now.retries_denied,
            ejections: now.ejections(),
            connections_made: now.connections_made,
            connections_reused: now.connections_reused,
            recent: Recent {
                requests_per_second: rate(requests, before.requests()),
                failures_per_second: rate(failures, before.failures()),
                retries_per_second: rate(now.retries, before.retries),
                p50_us: duration.quantile(0.5),
                p99_us: duration.quantile(0.99),
                head_p50_us: head.quantile(0.5),
                head_p99_us: head.quantile(0.99),
            },
        }
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// The sum over all backends, also those that are gone.
fn sum(totals: Option<&Totals>) -> BackendTotals {
    let mut sum = BackendTotals::default();
    if let Some(totals) = totals {
        sum.merge(&totals.retired);
        totals.backends.iter().for_each(|backend| sum.merge(backend));
    }
    sum
}

/// The names to tell of: None (all) while they are few.
fn busiest(totals: &Totals, before: &HashMap<&str, &BackendTotals>) -> Option<BTreeSet<String>> {
    if totals.backends.len() <= MAX_BACKENDS {
        return None;
    }
    let mut by_requests: Vec<(u64, &str)> = totals
        .backends
        .iter()
        .map(|backend| {
            let before = before.get(&*backend.name).map_or(0, |before| before.requests());
            (backend.requests().saturating_sub(before), &*backend.name)
        })
        .filter(|(_, name)| !name.is_empty())
        .collect();
    by_requests.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let names = by_requests.into_iter().take(MAX_BACKENDS);
    Some(names.map(|(_, name)| name.to_owned()).collect())
}

fn outcomes(now: &BackendTotals, before: &BackendTotals, seconds: f64) -> Vec<OutcomeStats> {
    let count = |totals: &BackendTotals, wanted: Outcome| -> u64 {
        let of_it = totals
            .exchanges
            .iter()
            .filter(|(outcome, _, _)| *outcome == wanted);
        of_it.map(|(_, _, count)| count).sum()
    };
    let mut outcomes: Vec<OutcomeStats> = Outcome::ALL
        .iter()
        .map(|outcome| {
            let total = count(now, *outcome);
            OutcomeStats {
                outcome: outcome.code().to_owned(),
                failure: outcome.is_failure(),
                count: total,
                per_second: per_second(total.saturating_sub(count(before, *outcome)), seconds),
            }
        })
        .filter(|outcome| outcome.count > 0)
        .collect();
    outcomes.sort_by_key(|outcome| std::cmp::Reverse(outcome.count));
    outcomes
}

/// Those that have counts, and those that are live and have none yet.
fn listeners(totals: &[ListenerTotals], live: Vec<ListenerView>) -> Vec<ListenerStats> {
    let mut live: Vec<Option<ListenerView>> = live.into_iter().map(Some).collect();
    let mut listeners: Vec<ListenerStats> = totals
        .iter()
        .map(|totals| ListenerStats {
            name: totals.name.to_string(),
            open: totals.open(),
            opened: totals.opened,
            refused: totals.refused,
            handed_off: totals.handed_off,
            live: live
                .iter_mut()
                .find(|view| view.as_ref().is_some_and(|view| *view.name == *totals.name))
                .and_then(Option::take),
        })
        .collect();
    listeners.extend(live.into_iter().flatten().map(|view| ListenerStats {
        name: view.name.clone(),
        open: 0,
        opened: 0,
        refused: 0,
        handed_off: 0,
        live: Some(view),
    }));
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    listeners
}

#[cfg(test)]
mod tests;
