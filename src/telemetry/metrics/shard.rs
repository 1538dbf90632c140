//! Shards: the cells of one worker. On cache lines of their own, and made at first use.

use std::sync::OnceLock;

use super::super::detection::Detected;
use super::super::histogram::{Cell, HistogramCells};
use super::super::mtls::Came;
use super::super::{HandshakeEnd, Outcome};
use super::{BackendTotals, CLASSES, CRITICALITIES, ListenerTotals, PICKS};

/// One shard for each worker.
#[derive(Debug)]
pub(super) struct Shards<T>(Box<[OnceLock<Box<T>>]>);

impl<T: Default> Shards<T> {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| OnceLock::new()).collect())
    }

    /// The shard of a worker. A number that is no worker's gets the last shard: its counts may be
    /// lost then, which is better than to panic.
    pub(super) fn of(&self, worker: usize) -> &T {
        self.0[worker.min(self.0.len() - 1)].get_or_init(Box::default)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|slot| slot.get().map(|shard| &**shard))
    }
}

/// What one worker counts for a backend. Aligned to two cache lines, because processors fetch them
/// in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct BackendShard {
    pub(super) exchanges: [[Cell; CLASSES.len()]; Outcome::ALL.len()],
    pub(super) duration: HistogramCells,
    pub(super) head: HistogramCells,
    pub(super) request_bytes: Cell,
    pub(super) response_bytes: Cell,
    pub(super) retries: Cell,
    pub(super) retries_denied: Cell,
    pub(super) hedges: Cell,
    pub(super) hedges_won: Cell,
    pub(super) hedges_denied: Cell,
    pub(super) connections_made: Cell,
    pub(super) connections_failed: Cell,
    pub(super) connections_reused: Cell,
    pub(super) picks: [Cell; PICKS.len()],
    pub(super) load_reports: Cell,
    pub(super) load_reports_refused: Cell,
    pub(super) sheds: [Cell; CRITICALITIES.len()],
}

impl Default for BackendShard {
    fn default() -> Self {
        Self {
            exchanges: [const { [Cell::ZERO; CLASSES.len()] }; Outcome::ALL.len()],
            duration: HistogramCells::default(),
            head: HistogramCells::default(),
            request_bytes: Cell::ZERO,
            response_bytes: Cell::ZERO,
            retries: Cell::ZERO,
            retries_denied: Cell::ZERO,
            hedges: Cell::ZERO,
            hedges_won: Cell::ZERO,
            hedges_denied: Cell::ZERO,
            connections_made: Cell::ZERO,
            connections_failed: Cell::ZERO,
            connections_reused: Cell::ZERO,
            picks: [Cell::ZERO; PICKS.len()],
            load_reports: Cell::ZERO,
            load_reports_refused: Cell::ZERO,
            sheds: [Cell::ZERO; CRITICALITIES.len()],
        }
    }
}

impl BackendShard {
    pub(super) fn read_into(&self, totals: &mut BackendTotals) {
        let cells = self.exchanges.iter().flatten();
        for (count, cell) in totals.exchanges.0.iter_mut().flatten().zip(cells) {
            *count += cell.get();
        }
        self.duration.read_into(&mut totals.duration);
        self.head.read_into(&mut totals.head);
        totals.request_bytes += self.request_bytes.get();
        totals.response_bytes += self.response_bytes.get();
        totals.retries += self.retries.get();
        totals.retries_denied += self.retries_denied.get();
        totals.hedges += self.hedges.get();
        totals.hedges_won += self.hedges_won.get();
        totals.hedges_denied += self.hedges_denied.get();
        totals.connections_made += self.connections_made.get();
        totals.connections_failed += self.connections_failed.get();
        totals.connections_reused += self.connections_reused.get();
        totals.load_reports += self.load_reports.get();
        totals.load_reports_refused += self.load_reports_refused.get();
        for (count, cell) in totals.picks.iter_mut().zip(&self.picks) {
            *count += cell.get();
        }
        for (count, cell) in totals.sheds.iter_mut().zip(&self.sheds) {
            *count += cell.get();
        }
    }
}

/// What one worker counts for a listener.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ListenerShard {
    pub(super) opened: Cell,
    pub(super) closed: Cell,
    pub(super) refused: Cell,
    pub(super) handed_off: Cell,
    pub(super) handshakes: [Cell; HandshakeEnd::ALL.len()],
    pub(super) detected: [Cell; Detected::ALL.len()],
    pub(super) came: [Cell; Came::ALL.len()],
}

impl ListenerShard {
    pub(super) fn read_into(&self, totals: &mut ListenerTotals) {
        totals.opened += self.opened.get();
        totals.closed += self.closed.get();
        totals.refused += self.refused.get();
        totals.handed_off += self.handed_off.get();
        for (count, cell) in totals.handshakes.iter_mut().zip(&self.handshakes) {
            *count += cell.get();
        }
        for (count, cell) in totals.detected.iter_mut().zip(&self.detected) {
            *count += cell.get();
        }
        for (count, cell) in totals.came.iter_mut().zip(&self.came) {
            *count += cell.get();
        }
    }
}
