//! What counts at an endpoint until it is dropped: an attempt in flight, an open connection.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{EndpointCell, Observed};
use crate::balance::Micros;
use crate::balance::estimate::Sample;
use crate::balance::load::LoadReport;

/// An attempt in flight. Dropping it ends the flight; dropped before [`InFlight::head`] it says nothing of the
/// endpoint.
#[derive(Debug)]
pub struct InFlight {
    pub(super) cell: Arc<EndpointCell>,
    pub(super) started: Micros,
    pub(super) waiting: bool,
    /// Its answer replaces what was known.
    pub(super) trial: bool,
    /// What was in flight there when it began.
    pub(super) load: u32,
}

impl InFlight {
    /// The response's head came, or will not come: takes the latency sample. Only the first call counts.
    pub fn head(&mut self, now: Micros, seen: Observed) {
        if self.end_wait() {
            self.cell.observe(self.sample(now), seen);
        }
    }

    /// The endpoint said what load it has. To be told before [`InFlight::head`], or with the response's end.
    pub fn report(&self, report: &LoadReport) {
        self.cell.load.reported.set(report);
    }

    /// The response broke off after its head: a failure without a latency sample.
    pub fn broke(&mut self) {
        self.cell.load.estimate.broke();
        self.cell.count_failure();
    }

    /// Nothing is asked of the endpoint for now: waiting pauses, without a sample. For connections that are there before
    /// anybody speaks on them.
    pub fn hold(&mut self) {
        self.end_wait();
    }

    /// Something is asked after [`InFlight::hold`]: waiting goes on as if it had begun at `since`, from where the next
    /// sample counts.
    pub fn resume(&mut self, since: Micros) {
        self.end_wait();
        self.started = since;
        self.waiting = true;
        self.cell.load.waiting.begin(since);
    }

    /// Whoever asked did not wait for the head any longer. If that was longer than the endpoint usually
    /// takes, it is a sample of "at least so long": without it, an endpoint whose clients give up would
    /// never look slow.
    pub fn give_up(mut self, now: Micros) {
        self.wait_no_longer(now);
    }

    /// As [`InFlight::give_up`], of something that stays in flight.
    pub fn wait_no_longer(&mut self, now: Micros) {
        if self.end_wait() {
            self.cell.load.estimate.given_up(self.sample(now));
        }
    }

    /// The endpoint's cell.
    pub fn cell(&self) -> &Arc<EndpointCell> {
        &self.cell
    }

    /// When the attempt began.
    pub fn started(&self) -> Micros {
        self.started
    }

    fn sample(&self, now: Micros) -> Sample {
        Sample {
            now,
            latency_us: now.saturating_since(self.started),
            load: self.load,
            is_trial: self.trial,
        }
    }

    fn end_wait(&mut self) -> bool {
        let waited = std::mem::take(&mut self.waiting);
        if waited {
            self.cell.load.waiting.end(self.started);
        }
        waited
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end_wait();
        self.cell.load.in_flight.fetch_sub(1, Relaxed);
    }
}

/// An open connection; dropping it gives the place back.
#[derive(Debug)]
pub struct ConnectionSlot {
    pub(super) cell: Arc<EndpointCell>,
}

impl ConnectionSlot {
    /// The endpoint's cell.
    pub fn cell(&self) -> &Arc<EndpointCell> {
        &self.cell
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.cell.connections.fetch_sub(1, Relaxed);
    }
}
