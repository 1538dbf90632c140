//! The record of a relayed connection: what is told about it once, when it ends, however it ends.
//!
//! It is opened with the connection and written when dropped. One that is simply dropped was cut off by the process's end.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use super::arrival::Arrival;
use super::copy::Meter;
use super::desk::Desk;
use super::plan::Forward;
use crate::balance::{InFlight, Micros};
use crate::telemetry::record::{RelayRecord, unix_us};
use crate::telemetry::{BackendMetrics, Outcome};

/// One relayed connection's record.
pub struct Record {
    desk: Rc<Desk>,
    from: Rc<Arrival>,
    started: Micros,
    outcome: Outcome,
    attempts: u8,
    connect_us: Option<u32>,
    answer_us: Option<u32>,
    /// Bytes passed on so far.
    pub meter: Meter,
    forward: Option<Forward>,
    endpoint: Option<SocketAddr>,
}

impl Record {
    /// Opens the record of a connection.
    pub fn open(desk: &Rc<Desk>, from: &Rc<Arrival>) -> Self {
        desk.count(true);
        Self {
            desk: Rc::clone(desk),
            from: Rc::clone(from),
            started: desk.now(),
            outcome: Outcome::Drained,
            attempts: 0,
            connect_us: None,
            answer_us: None,
            meter: Meter::default(),
            forward: None,
            endpoint: None,
        }
    }

    /// When the connection came.
    pub fn started(&self) -> Micros {
        self.started
    }

    /// Where it goes.
    pub fn set_forward(&mut self, forward: &Forward) {
        self.forward = Some(forward.clone());
    }

    /// Another attempt, at this endpoint.
    pub fn attempt(&mut self, in_flight: &InFlight) {
        self.attempts = self.attempts.saturating_add(1);
        self.endpoint = Some(in_flight.cell().address());
    }

    /// The connection to the endpoint is there, after so many microseconds.
    pub fn connected(&mut self, micros: u64) {
        self.connect_us = Some(u32::try_from(micros).unwrap_or(u32::MAX));
    }

    /// The endpoint's first bytes came so many microseconds after it was asked.
    pub fn answered(&mut self, micros: u64) {
        self.answer_us = Some(u32::try_from(micros).unwrap_or(u32::MAX));
    }

    /// Why the connection ends. The last word counts.
    pub fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    fn metrics(&self) -> &BackendMetrics {
        self.forward
            .as_ref()
            .map_or(&self.desk.unrouted, |forward| &forward.backend.metrics)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let desk = &self.desk;
        desk.count(false);
        let duration_us = desk.now().saturating_since(self.started);
        let (forth, back) = (self.meter.forth.get(), self.meter.back.get());
        self.metrics().record(
            desk.index,
            self.outcome,
            0,
            duration_us,
            self.answer_us,
            forth,
            back,
        );
        let Some(mut log) = desk.access_log() else { return };
        let unix_us = unix_us(SystemTime::now());
        let forward = self.forward.as_ref();
        log.write_relay(&RelayRecord {
            outcome: self.outcome,
            protocol: self.from.carrier.word(),
            client: self.from.peer,
            host: self.from.name(),
            listener: forward.map_or("", |forward| forward.listener.as_str()),
            route: forward.map_or("", |forward| forward.rule.route.as_str()),
            backend: forward.map_or("", |forward| forward.backend.name.as_str()),
            identity: self.from.known.as_ref().map_or("", |known| known.id.as_str()),
            endpoint: self.endpoint,
            attempts: self.attempts,
            request_bytes: forth,
            response_bytes: back,
            started_unix_us: unix_us.saturating_sub(duration_us),
            duration_us,
            connect_us: self.connect_us,
            head_us: self.answer_us,
        });
    }
}
