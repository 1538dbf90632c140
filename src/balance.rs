//! stub
#![allow(missing_docs)]
use crate::model;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::*;
use std::time::Duration;
use tokio::time::Instant;
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Micros(pub u64);
impl Micros {
    pub fn saturating_since(self, e: Micros) -> u64 {
        self.0.saturating_sub(e.0)
    }
}
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);
impl Clock {
    pub fn new() -> Self {
        Clock(Instant::now())
    }
    pub fn now(&self) -> Micros {
        Micros(self.0.elapsed().as_micros() as u64)
    }
    pub fn instant_of(&self, m: Micros) -> Instant {
        self.0 + Duration::from_micros(m.0)
    }
}
pub struct EndpointCell {
    id: u64,
    address: SocketAddr,
    conns: AtomicU32,
    inflight: AtomicU32,
}
pub struct ConnectionSlot(Arc<EndpointCell>);
impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.conns.fetch_sub(1, Ordering::Relaxed);
    }
}
pub struct InFlight(Arc<EndpointCell>);
impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}
impl InFlight {
    pub fn head(&mut self, _n: Micros, _o: Observed) {}
    pub fn cell(&self) -> &Arc<EndpointCell> {
        &self.0
    }
}
static IDS: AtomicU64 = AtomicU64::new(1);
impl EndpointCell {
    pub fn new(address: SocketAddr, _n: Micros) -> Arc<Self> {
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            address,
            conns: AtomicU32::new(0),
            inflight: AtomicU32::new(0),
        })
    }
    pub fn id(&self) -> u64 {
        self.id
    }
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    pub fn start(self: &Arc<Self>, _n: Micros) -> InFlight {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }
    pub fn open_connection(self: &Arc<Self>, limit: u32) -> Option<ConnectionSlot> {
        if self.conns.fetch_add(1, Ordering::Relaxed) >= limit {
            self.conns.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionSlot(self.clone()))
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observed {
    Answered,
    ServerError,
    Failed,
}
pub struct Candidate {
    pub cell: Arc<EndpointCell>,
    pub endpoint: model::Endpoint,
}
pub struct Fleet {
    policy: Arc<model::Backend>,
    candidates: Vec<Candidate>,
}
pub enum Pick<'a> {
    Endpoint(&'a Candidate),
    Saturated,
    None,
}
impl Fleet {
    pub fn empty(policy: Arc<model::Backend>) -> Self {
        Self {
            policy,
            candidates: vec![],
        }
    }
    pub fn build(
        policy: Arc<model::Backend>,
        e: &[model::Endpoint],
        prev: Option<&Fleet>,
        now: Micros,
    ) -> Self {
        let candidates = e
            .iter()
            .map(|e| {
                let old = prev
                    .and_then(|p| p.candidates.iter().find(|c| c.endpoint.address == e.address))
                    .map(|c| c.cell.clone());
                Candidate {
                    cell: old.unwrap_or_else(|| EndpointCell::new(e.address, now)),
                    endpoint: e.clone(),
                }
            })
            .collect();
        Self { policy, candidates }
    }
    pub fn policy(&self) -> &Arc<model::Backend> {
        &self.policy
    }
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
    pub fn pick(&self, _n: Micros, rng: &mut fastrand::Rng, tried: &[u64]) -> Pick<'_> {
        let left: Vec<_> = self
            .candidates
            .iter()
            .filter(|c| !tried.contains(&c.cell.id))
            .collect();
        if left.is_empty() {
            return Pick::None;
        }
        Pick::Endpoint(left[rng.usize(..left.len())])
    }
    pub fn judge(&self, _c: &EndpointCell, _n: Micros) {}
}
pub struct RetryBudget;
impl RetryBudget {
    pub fn new(_b: &model::RetryBudget) -> Self {
        Self
    }
    pub fn on_request(&self, _n: Micros) {}
    pub fn try_retry(&self, _n: Micros) -> bool {
        true
    }
}
