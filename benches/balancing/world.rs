//! The event loop: virtual time, one thread, one seed, one result.
//!
//! Clients, proxies, endpoints. A request comes to any of the proxies, whose balancer chooses an endpoint; the endpoint says when and
//! how it ends. Events at the same time happen in the order in which they were caused.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use tidegate::balance::{Hedging, Micros, RetryBudget};
use tidegate::model::{self, HedgePolicy};

use super::balancer::{Admission, Attempt, Balancer, Probed};
use super::contestants::Contestant;
use super::scenario::{Arrivals, Scenario};
use super::server::{Ending, Fault, MILLISECOND, SECOND, Seen, Server, Time};

/// A request that waits for its turn is asked for again after this time, as the proxy does.
const LOOK: Time = 2 * MILLISECOND;
/// From a probe's sending to its answer.
const PROBE: Time = MILLISECOND / 2;

/// What came of a run.
pub struct Trace {
    pub requests: Vec<Request>,
    /// When each attempt began, and where.
    pub attempts: Vec<(Time, u32)>,
    pub retries: usize,
    pub hedges: usize,
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub at: Time,
    /// Until its answer; the deadline, if it failed.
    pub latency: Time,
    pub good: bool,
}

/// Plays a scenario.
pub fn run(scenario: &Scenario, contestant: &Contestant, seed: u64) -> Trace {
    let mut world = World::new(scenario, contestant, seed);
    world.run();
    Trace {
        requests: world
            .requests
            .iter()
            .map(|request| Request {
                at: request.at,
                latency: request.ended.map_or(scenario.deadline, |end| end - request.at),
                good: request.ended.is_some(),
            })
            .collect(),
        attempts: world
            .attempts
            .iter()
            .map(|attempt| (attempt.began, attempt.endpoint))
            .collect(),
        retries: world.retries,
        hedges: world.hedges,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Change(u32),
    Arrival,
    Enter(u32),
    End(u32),
    Deadline(u32),
    Probed(u32, u32),
    Hedge(u32),
}

struct Proxy {
    balancer: Box<dyn Balancer>,
    budget: RetryBudget,
    hedging: Option<Hedging>,
    rng: Rng,
}

struct Open {
    at: Time,
    proxy: u32,
    /// When the answer came.
    ended: Option<Time>,
    over: bool,
    flying: u8,
    tried: [u32; 4],
    attempts: [u32; 4],
    tries: u8,
}

struct Try {
    request: u32,
    endpoint: u32,
    began: Time,
    seen: Seen,
    /// Whether the proxy still waits for it.
    open: bool,
    /// Whether the endpoint works on it or will.
    inside: bool,
    /// What was in flight at the endpoint when it came.
    load: u32,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Time,
    rng: Rng,
    nth: u64,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    servers: Vec<Server>,
    proxies: Vec<Proxy>,
    requests: Vec<Open>,
    attempts: Vec<Try>,
    reports: bool,
    arrived: u64,
    retries: usize,
    hedges: usize,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, contestant: &Contestant, seed: u64) -> Self {
        let proxy = |number: usize| Proxy {
            balancer: (contestant.make)(scenario),
            budget: RetryBudget::new(&model::RetryBudget::default()),
            hedging: contestant.hedges.then(|| Hedging::new(&HedgePolicy::default())),
            rng: Rng::with_seed(seed * 1_000_003 + number as u64),
        };
        Self {
            scenario,
            now: 0,
            rng: Rng::with_seed(seed),
            nth: 0,
            events: BinaryHeap::new(),
            servers: scenario.endpoints.iter().map(Server::new).collect(),
            proxies: (0..scenario.proxies).map(proxy).collect(),
            requests: Vec::new(),
            attempts: Vec::new(),
            reports: contestant.reports,
            arrived: 0,
            retries: 0,
            hedges: 0,
        }
    }

    fn run(&mut self) {
        for (index, (from, _)) in (0..).zip(&self.scenario.members) {
            self.at(*from, Event::Change(index));
        }
        let clients = match self.scenario.arrivals {
            Arrivals::Closed(clients) => clients,
            Arrivals::Even(_) | Arrivals::Poisson(_) | Arrivals::Surge(..) => 1,
        };
        for _ in 0..clients {
            self.at(0, Event::Arrival);
        }
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            self.now = time;
            match event {
                Event::Change(index) => self.change(index),
                Event::Arrival => self.arrive(),
                Event::Enter(request) => self.enter(request),
                Event::End(attempt) => self.end(attempt),
                Event::Deadline(attempt) => self.close(attempt, Seen::Failed),
                Event::Hedge(request) => self.hedge(request),
                Event::Probed(proxy, endpoint) => self.probed(proxy, endpoint),
            }
        }
    }

    fn at(&mut self, time: Time, event: Event) {
        self.nth += 1;
        self.events.push(Reverse((time, self.nth, event)));
    }

    fn change(&mut self, index: u32) {
        let (_, members) = &self.scenario.members[index as usize];
        for proxy in &mut self.proxies {
            proxy.balancer.members(members, self.now);
        }
    }

    fn arrive(&mut self) {
        if self.now >= self.scenario.seconds * SECOND {
            return;
        }
        self.arrived += 1;
        match self.scenario.arrivals {
            Arrivals::Even(rate) => self.at((self.arrived as f64 * 1e6 / rate) as Time, Event::Arrival),
            Arrivals::Poisson(_) | Arrivals::Surge(..) => {
                let rate = self.scenario.arrivals.rate_at(self.now);
                let pause = -(1.0 - self.rng.f64()).ln() * 1e6 / rate;
                // Fractions of a microsecond matter at 50,000 a second.
                let pause = pause as Time + u64::from(self.rng.f64() < pause.fract());
                self.at(self.now + pause, Event::Arrival);
            }
            Arrivals::Closed(_) => {}
        }
        let proxy = self.rng.usize(..self.proxies.len());
        let request = self.requests.len() as u32;
        self.requests.push(Open {
            at: self.now,
            proxy: proxy as u32,
            ended: None,
            over: false,
            flying: 0,
            tried: [0; 4],
            attempts: [0; 4],
            tries: 0,
        });
        let now = Micros(self.now);
        self.proxies[proxy].budget.on_request(now);
        if let Some(hedging) = &self.proxies[proxy].hedging {
            hedging.on_request(now);
            if let Some(delay) = hedging.delay() {
                self.at(now.plus(delay).0, Event::Hedge(request));
            }
        }
        self.enter(request);
    }

    /// A request comes, or has waited.
    fn enter(&mut self, request: u32) {
        let proxy = self.requests[request as usize].proxy;
        match self.proxies[proxy as usize].balancer.admit(request, self.now) {
            Admission::Goes => self.begin(request),
            Admission::Waits => self.at(self.now + LOOK, Event::Enter(request)),
            Admission::Refused => self.over(request),
        }
    }

    fn begin(&mut self, request: u32) {
        let open = &mut self.requests[request as usize];
        let proxy = &mut self.proxies[open.proxy as usize];
        let tried = &open.tried[..usize::from(open.tries)];
        let Some(endpoint) = proxy.balancer.pick(self.now, tried, &mut proxy.rng) else {
            self.over(request);
            return;
        };
        open.tried[usize::from(open.tries)] = endpoint;
        let id = self.attempts.len() as u32;
        open.attempts[usize::from(open.tries)] = id;
        open.tries += 1;
        open.flying += 1;
        proxy.balancer.begin(Attempt {
            id,
            endpoint,
            began: self.now,
        });
        let probes = proxy.balancer.probes(&mut proxy.rng);
        let number = open.proxy;
        self.attempts.push(Try {
            request,
            endpoint,
            began: self.now,
            seen: Seen::Answered,
            open: true,
            inside: false,
            load: self.servers[endpoint as usize].in_flight(),
        });
        for probed in probes {
            self.at(self.now + PROBE, Event::Probed(number, probed));
        }
        let deadline = self.now + self.scenario.deadline;
        let ending = self.servers[endpoint as usize].take(id, self.now, &mut self.rng);
        if ending.is_none_or(|(end, _)| end > deadline) {
            self.at(deadline, Event::Deadline(id));
        }
        if let Some(ending) = ending {
            self.ends(id, ending);
        }
    }

    /// The delay has passed: another attempt beside the first, if there is need.
    fn hedge(&mut self, request: u32) {
        let open = &self.requests[request as usize];
        let hedging = &self.proxies[open.proxy as usize].hedging;
        let waits = !open.over && open.tries == 1;
        if waits
            && hedging
                .as_ref()
                .is_some_and(|hedging| hedging.try_hedge(Micros(self.now)))
        {
            self.hedges += 1;
            self.begin(request);
        }
    }

    fn ends(&mut self, attempt: u32, (time, seen): Ending) {
        let inside = &mut self.attempts[attempt as usize];
        inside.seen = seen;
        inside.inside = seen == Seen::Answered;
        self.at(time, Event::End(attempt));
    }

    fn end(&mut self, attempt: u32) {
        let Try {
            endpoint,
            began,
            seen,
            inside,
            load,
            ..
        } = self.attempts[attempt as usize];
        if inside {
            let next = self.servers[endpoint as usize].done(began, load, self.now, &mut self.rng);
            if let Some((next, ending)) = next {
                self.ends(next, ending);
            }
        }
        self.close(attempt, seen);
    }

    /// An attempt is over for the proxy.
    fn close(&mut self, attempt: u32, seen: Seen) {
        let closed = &mut self.attempts[attempt as usize];
        if !std::mem::take(&mut closed.open) {
            return;
        }
        let request = closed.request;
        let ended = Attempt {
            id: attempt,
            endpoint: closed.endpoint,
            began: closed.began,
        };
        let open = &mut self.requests[request as usize];
        open.flying -= 1;
        let proxy = &mut self.proxies[open.proxy as usize];
        let said =
            (self.reports && seen == Seen::Answered).then(|| self.servers[ended.endpoint as usize].says());
        proxy.balancer.end(ended, self.now, seen, said.as_deref());
        if open.over {
            return;
        }
        match seen {
            Seen::Answered => {
                open.ended = Some(self.now);
                if let Some(hedging) = &proxy.hedging {
                    hedging.on_answer(Micros(self.now), self.now - open.at);
                }
                let (attempts, tries) = (open.attempts, open.tries);
                self.over(request);
                for other in &attempts[..usize::from(tries)] {
                    self.close(*other, Seen::GivenUp);
                }
            }
            Seen::ServerError | Seen::Failed if open.flying > 0 => {}
            Seen::ServerError | Seen::Failed => {
                let may = usize::from(open.tries) < self.scenario.attempts.min(open.tried.len());
                if may && proxy.budget.try_retry(Micros(self.now)) {
                    self.retries += 1;
                    self.begin(request);
                } else {
                    self.over(request);
                }
            }
            Seen::GivenUp => {}
        }
    }

    fn over(&mut self, request: u32) {
        let open = &mut self.requests[request as usize];
        open.over = true;
        let answered = open.ended.is_some();
        let proxy = &mut self.proxies[open.proxy as usize];
        proxy.balancer.over(request, self.now, answered);
        if matches!(self.scenario.arrivals, Arrivals::Closed(_)) {
            self.at(self.now + 1, Event::Arrival);
        }
    }

    fn probed(&mut self, proxy: u32, endpoint: u32) {
        let silent = self.scenario.endpoints[endpoint as usize]
            .faults
            .iter()
            .any(|(times, fault)| {
                let gone = matches!(fault, Fault::Hangs)
                    || matches!(fault, Fault::Fails(share, _, Seen::Failed) if *share >= 1.0);
                gone && times.contains(&self.now)
            });
        if silent {
            return;
        }
        let server = &self.servers[endpoint as usize];
        let probed = Probed {
            endpoint,
            in_flight: server.in_flight(),
            latency: server.median_latency(),
        };
        self.proxies[proxy as usize].balancer.probed(probed, self.now);
    }
}
