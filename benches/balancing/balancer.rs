//! What the simulator asks of a way to balance, and the product's own, which is the code that serves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use foldhash::fast::FixedState;
use tidegate::balance::{
    EndpointCell, Entry, Fleet, InFlight, Limiter, LoadReport, Micros, Observed, Permit, Pick, Ticket,
};
use tidegate::model::{self, AdaptiveConcurrency, Backend, BackendName, Balance, Concurrency, Criticality};

use super::server::{Seen, Time};

/// An endpoint that takes requests: its number, and its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub endpoint: u32,
    pub weight: u32,
}

/// An attempt that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub id: u32,
    pub endpoint: u32,
    pub began: Time,
}

/// What an endpoint says of itself when it is probed.
#[derive(Clone, Copy, Debug)]
pub struct Probed {
    pub endpoint: u32,
    pub in_flight: u32,
    pub latency: f64,
}

/// What becomes of a request when it comes, before an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Goes,
    /// It is asked for again.
    Waits,
    Refused,
}

/// A way to balance, as one proxy runs it.
pub trait Balancer {
    /// Whether a request may go, which came now or waits.
    fn admit(&mut self, _request: u32, _now: Time) -> Admission {
        Admission::Goes
    }

    /// A request that may go is over: answered or not.
    fn over(&mut self, _request: u32, _now: Time, _answered: bool) {}

    /// The endpoints from now on; those that were there before keep what is known of them.
    fn members(&mut self, members: &[Member], now: Time);

    /// Chooses an endpoint; none if there is none.
    fn pick(&mut self, now: Time, tried: &[u32], rng: &mut Rng) -> Option<u32>;

    fn begin(&mut self, attempt: Attempt);

    /// How an attempt ended, with what the endpoint said of its load, if it said anything.
    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, load: Option<&str>);

    /// Endpoints to be probed now, with a request.
    fn probes(&mut self, _rng: &mut Rng) -> Vec<u32> {
        Vec::new()
    }

    fn probed(&mut self, _probed: Probed, _now: Time) {}
}

/// Tidegate's own: nothing here decides anything.
pub struct Tidegate {
    fleet: Fleet,
    cells: HashMap<u32, Arc<EndpointCell>, FixedState>,
    flying: HashMap<u32, InFlight, FixedState>,
    /// So long a pick is not seen by the others: workers that pick at the same moment.
    blind: Time,
    unseen: Vec<Attempt>,
    limiter: Option<Arc<Limiter>>,
    permits: HashMap<u32, Permit, FixedState>,
    tickets: HashMap<u32, Ticket, FixedState>,
}

impl Tidegate {
    pub fn new(balance: Balance, slow_start: Duration, blind: Time) -> Self {
        let mut policy = Backend::new(BackendName::new("simulated"));
        policy.balance = balance;
        policy.slow_start = slow_start;
        policy.limits.max_in_flight = u32::MAX;
        Self {
            fleet: Fleet::empty(Arc::new(policy)),
            cells: HashMap::default(),
            flying: HashMap::default(),
            blind,
            unseen: Vec::new(),
            limiter: None,
            permits: HashMap::default(),
            tickets: HashMap::default(),
        }
    }

    /// With an adaptive limit on concurrency.
    pub fn limited(mut self) -> Self {
        let mut policy = Backend::clone(self.fleet.policy());
        policy.concurrency = Some(Concurrency::Adaptive(AdaptiveConcurrency::default()));
        self.limiter = Limiter::of(&policy, Micros(0));
        self
    }

    fn start(&mut self, attempt: Attempt) {
        if let Some(cell) = self.cells.get(&attempt.endpoint) {
            self.flying.insert(attempt.id, cell.start(Micros(attempt.began)));
        }
    }
}

impl Balancer for Tidegate {
    fn admit(&mut self, request: u32, now: Time) -> Admission {
        let Some(limiter) = &self.limiter else {
            return Admission::Goes;
        };
        if let Some(ticket) = self.tickets.get(&request) {
            let Some(permit) = ticket.look(Micros(now)) else {
                if Micros(now) < ticket.until() {
                    return Admission::Waits;
                }
                self.tickets.remove(&request);
                return Admission::Refused;
            };
            self.tickets.remove(&request);
            self.permits.insert(request, permit);
            return Admission::Goes;
        }
        match limiter.enter(Criticality::Critical, Micros(now)) {
            Entry::Go(permit) => {
                self.permits.insert(request, permit);
                Admission::Goes
            }
            Entry::Wait(ticket) => {
                self.tickets.insert(request, ticket);
                Admission::Waits
            }
            Entry::Refused => Admission::Refused,
        }
    }

    fn over(&mut self, request: u32, now: Time, answered: bool) {
        if let Some(permit) = self.permits.remove(&request) {
            permit.end(Micros(now), answered);
        }
    }

    fn members(&mut self, members: &[Member], now: Time) {
        let endpoints: Vec<model::Endpoint> = members
            .iter()
            .map(|member| model::Endpoint {
                weight: member.weight,
                ..model::Endpoint::at(address(member.endpoint))
            })
            .collect();
        let policy = Arc::clone(self.fleet.policy());
        self.fleet = Fleet::build(policy, &endpoints, Some(&self.fleet), Micros(now));
        let cells = self.fleet.candidates().iter().map(|candidate| &candidate.cell);
        self.cells
            .extend(cells.map(|cell| (endpoint(cell.address()), Arc::clone(cell))));
    }

    fn pick(&mut self, now: Time, tried: &[u32], rng: &mut Rng) -> Option<u32> {
        while self
            .unseen
            .first()
            .is_some_and(|unseen| unseen.began + self.blind <= now)
        {
            let seen = self.unseen.remove(0);
            self.start(seen);
        }
        let mut cells = [0; 8];
        for (id, endpoint) in cells.iter_mut().zip(tried) {
            *id = self.cells.get(endpoint)?.id();
        }
        match self.fleet.pick(Micros(now), rng, &cells[..tried.len()]) {
            Pick::Endpoint(candidate) => Some(endpoint(candidate.cell.address())),
            Pick::Saturated | Pick::None => None,
        }
    }

    fn begin(&mut self, attempt: Attempt) {
        self.unseen.push(attempt);
    }

    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, load: Option<&str>) {
        if let Some(place) = self.unseen.iter().position(|unseen| unseen.id == attempt.id) {
            let late = self.unseen.remove(place);
            self.start(late);
        }
        let Some(mut exchange) = self.flying.remove(&attempt.id) else {
            return;
        };
        if let Some(Ok(report)) = load.map(|load| LoadReport::of_field(load.as_bytes())) {
            exchange.report(&report);
        }
        let now = Micros(now);
        let observed = match seen {
            Seen::Answered => Observed::Answered,
            Seen::ServerError => Observed::ServerError,
            Seen::Failed => Observed::Failed,
            Seen::GivenUp => return exchange.give_up(now),
        };
        exchange.head(now, observed);
        if observed != Observed::Answered {
            self.fleet.judge(exchange.cell(), now);
        }
    }
}

fn address(endpoint: u32) -> std::net::SocketAddr {
    let [_, a, b, c] = endpoint.to_be_bytes();
    ([10, a, b, c], 80).into()
}

fn endpoint(address: std::net::SocketAddr) -> u32 {
    match address.ip() {
        std::net::IpAddr::V4(address) => address.to_bits() & 0x00ff_ffff,
        std::net::IpAddr::V6(_) => 0,
    }
}
