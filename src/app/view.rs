//! What is live, for those who ask: the admin listener, the demo, tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use super::conductor::Bound;
use crate::acme;
use crate::admin::{
    Ask, BackendView, CertificateView, ConcurrencyView, EndpointView, ListenerView, ObjectView, Page,
    RejectView, RouteView, RuleView, TargetView, View,
};
use crate::balance::{Candidate, CellView, Clock, Fleet, LimitView, Micros, PartView};
use crate::kubernetes::{Overview, Overviews, Sockets};
use crate::model::{
    BackendTarget, Balance, Delta, EndpointState, Filter, ListenerKind, Match, PathMatch, Reject, Route,
    RouteName, Rule, StringMatch,
};
use crate::snapshot::{Backend, Readers, Snapshot};
use crate::telemetry::metrics::CRITICALITIES;
use crate::upstream::probe::{Finding, Findings};

/// What is live.
pub struct Live {
    clock: Clock,
    readers: Readers,
    facts: Mutex<Facts>,
    findings: OnceLock<Findings>,
    sockets: watch::Sender<Sockets>,
}

/// What the snapshot does not say.
#[derive(Default)]
struct Facts {
    rejects: Vec<Reject>,
    routes: BTreeMap<RouteName, Arc<Route>>,
    bound: Bound,
    certificates: Vec<acme::CertificateStatus>,
    /// Who knows how Kubernetes objects fare.
    objects: Vec<Overviews>,
}

impl Live {
    pub(super) fn new(clock: Clock, readers: Readers) -> Self {
        Self {
            clock,
            readers,
            facts: Mutex::default(),
            findings: OnceLock::new(),
            sockets: watch::Sender::new(Sockets::default()),
        }
    }

    /// The snapshot that exchanges see now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.readers.load()
    }

    /// Counts the publications of the table.
    pub fn generation(&self) -> u64 {
        self.snapshot().generation
    }

    /// What is left out now, and why.
    pub fn rejected(&self) -> Vec<Reject> {
        self.facts().rejects.clone()
    }

    /// The process's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn set_rejects(&self, rejects: Vec<Reject>) {
        self.facts().rejects = rejects;
    }

    pub(super) fn add_objects(&self, objects: Overviews) {
        self.facts().objects.push(objects);
    }

    pub(super) fn set_findings(&self, findings: Findings) {
        let _ = self.findings.set(findings);
    }

    pub(super) fn set_bound(&self, bound: &Bound, sockets: Sockets) {
        self.facts().bound.clone_from(bound);
        self.sockets.send_if_modified(|now| {
            let is_news = *now != sockets;
            *now = sockets;
            is_news
        });
    }

    pub(super) fn set_certificates(&self, certificates: Vec<acme::CertificateStatus>) {
        self.facts().certificates = certificates;
    }

    /// What became of the sockets, now and later; their addresses as configured.
    pub(super) fn sockets(&self) -> watch::Receiver<Sockets> {
        self.sockets.subscribe()
    }

    pub(super) fn follow(&self, delta: &Delta) {
        let mut facts = self.facts();
        for (name, route) in &delta.routes {
            match route {
                Some(route) => facts.routes.insert(name.clone(), Arc::clone(route)),
                None => facts.routes.remove(name),
            };
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View for Live {
    fn snapshot_generation(&self) -> u64 {
        self.generation()
    }

    fn listeners(&self, ask: &Ask) -> Page<ListenerView> {
        let snapshot = self.snapshot();
        let facts = self.facts();
        let mut entries: Vec<_> = snapshot.binds().flat_map(|bind| bind.listeners()).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        ask.answer(
            entries.into_iter(),
            |entry| entry.name.as_str(),
            |entry| {
                let listener = &entry.listener;
                let spoken = [
                    (listener.protocols.http1, "http/1.1"),
                    (listener.protocols.http2, "h2c"),
                ];
                ListenerView {
                    name: entry.name.to_string(),
                    address: facts
                        .bound
                        .get(&listener.socket())
                        .unwrap_or(&listener.address)
                        .to_string(),
                    hostname: listener.hostname.to_string(),
                    protocols: match listener.kind {
                        ListenerKind::Http => spoken
                            .into_iter()
                            .filter(|(on, _)| *on)
                            .map(|(_, name)| name.to_owned())
                            .collect(),
                        kind => vec![kind.word().to_owned()],
                    },
                }
            },
        )
    }

    fn backends(&self, ask: &Ask) -> Page<BackendView> {
        let snapshot = self.snapshot();
        let now = self.clock.now();
        let mut backends: Vec<_> = snapshot.backends().collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        ask.answer(
            backends.into_iter(),
            |backend| backend.name.as_str(),
            |backend| backend_view(backend, ask, now, self.findings.get()),
        )
    }

    fn routes(&self, ask: &Ask) -> Page<RouteView> {
        let facts = self.facts();
        ask.answer(
            facts.routes.values(),
            |route| route.name.as_str(),
            |route| RouteView {
                name: route.name.to_string(),
                listeners: route.listeners.iter().map(ToString::to_string).collect(),
                hostnames: route.hostnames.iter().map(ToString::to_string).collect(),
                rules: route.rules.iter().map(|rule| rule_view(rule)).collect(),
            },
        )
    }

    fn objects(&self, ask: &Ask) -> Page<ObjectView> {
        let sources = self.facts().objects.clone();
        let all: Vec<_> = sources.iter().flat_map(Overviews::now).map(object_view).collect();
        ask.answer(all.into_iter(), |object| &object.name, |object| object)
    }

    fn rejects(&self, ask: &Ask) -> Page<RejectView> {
        let facts = self.facts();
        ask.answer(
            facts.rejects.iter(),
            |reject| reject.object.as_str(),
            |reject| RejectView {
                source: reject.source.to_string(),
                object: reject.object.clone(),
                field: reject.field.clone(),
                reason: reject.reason.clone(),
            },
        )
    }

    fn certificates(&self, ask: &Ask) -> Page<CertificateView> {
        let facts = self.facts();
        ask.answer(
            facts.certificates.iter(),
            |one| one.name.as_str(),
            certificate_view,
        )
    }
}

fn certificate_view(one: &acme::CertificateStatus) -> CertificateView {
    CertificateView {
        name: one.name.clone(),
        state: one.state.text().to_owned(),
        not_after_unix_s: one.not_after,
        next_unix_s: one.next,
        why: one.why.clone(),
    }
}

/// An object as it is shown.
pub(crate) fn object_view(object: Overview) -> ObjectView {
    ObjectView {
        kind: object.kind.to_owned(),
        name: object.name,
        live: object.live.word().to_owned(),
        why: object.why,
    }
}

fn backend_view(backend: &Backend, ask: &Ask, now: Micros, findings: Option<&Findings>) -> BackendView {
    backend.with_fleet(|fleet| {
        let candidates = fleet.candidates();
        let parts = parts_of(fleet, now);
        BackendView {
            name: backend.name.to_string(),
            policy: fleet.policy().balance.word().to_owned(),
            endpoints_total: candidates.len(),
            endpoints_ready: candidates
                .iter()
                .filter(|candidate| candidate.cell.is_available(now))
                .count(),
            panic: fleet.is_panicking(now),
            retries_left: backend.with_budget(|budget| budget.left(now)),
            concurrency: backend
                .limiter()
                .map(|limiter| concurrency_view(limiter.view(now))),
            shed: shed(backend),
            endpoints: candidates
                .iter()
                .take(ask.endpoints)
                .map(|candidate| endpoint_view(candidate, fleet, now, findings, parts.as_ref()))
                .collect(),
        }
    })
}

fn concurrency_view(view: LimitView) -> ConcurrencyView {
    ConcurrencyView {
        limit: view.limit,
        in_flight: view.in_flight,
        queued: view.queued,
        queue_room: view.room,
        queue_stands: view.stands,
        latency_us: view.latency_us,
        usual_us: view.usual_us,
    }
}

fn shed(backend: &Backend) -> BTreeMap<String, u64> {
    let sheds = CRITICALITIES.iter().zip(backend.metrics.sheds());
    sheds
        .filter(|(_, count)| *count > 0)
        .map(|(class, count)| ((*class).to_owned(), count))
        .collect()
}

fn endpoint_view(
    candidate: &Candidate,
    fleet: &Fleet,
    now: Micros,
    findings: Option<&Findings>,
    parts: Option<&HashMap<u64, PartView>>,
) -> EndpointView {
    let view = candidate.cell.view(now);
    let ejected = view.ejected_until.filter(|until| *until > now);
    let state = match (ejected, view.checked_healthy, candidate.endpoint.state) {
        (Some(_), _, _) => "ejected",
        (None, false, _) => "unhealthy",
        (None, true, EndpointState::Draining) => "draining",
        (None, true, EndpointState::Active) => "active",
    };
    EndpointView {
        address: candidate.endpoint.address.to_string(),
        label: candidate.endpoint.label.as_deref().map(str::to_owned),
        zone: candidate.endpoint.zone.as_deref().map(str::to_owned),
        priority: candidate.endpoint.priority,
        state: state.to_owned(),
        passed_over: passed_over(candidate, fleet, &view, parts),
        weight: candidate.endpoint.weight,
        in_flight: view.in_flight,
        connections: view.connections,
        latency_us: view.latency_us,
        cost: Some(view.cost as f64),
        load_factor: view.load_factor.map(f64::from),
        penalty: (view.penalty > 1.0).then(|| f64::from(view.penalty)),
        failing: f64::from(view.failing),
        slow_start: Some(fleet.slow_start_share(&candidate.cell, now))
            .filter(|share| *share < 1.0)
            .map(f64::from),
        trial_in_ms: view
            .trial_in_us
            .filter(|_| is_latency(fleet))
            .map(|time| time / 1000),
        ejected_because: view.ejected_for.map(|reason| reason.word().to_owned()),
        ejections: view.ejections,
        failed_in_a_row: view.failed_in_a_row,
        check: fleet.policy().check.as_ref().map(|_| {
            let finding = findings.and_then(|findings| findings.of(candidate.cell.id()));
            match finding {
                None => "not asked yet".to_owned(),
                Some(Finding { good: true, .. }) => "good".to_owned(),
                Some(Finding { why, .. }) => why.as_deref().unwrap_or("bad").to_owned(),
            }
        }),
        ejected_for_ms: ejected.map(|until| until.saturating_since(now) / 1000),
        requests: view.requests,
        failures: view.failures,
        share: None,
    }
}

/// The parts of a fleet, by the cells of their members; none when there is one.
fn parts_of(fleet: &Fleet, now: Micros) -> Option<HashMap<u64, PartView>> {
    let parts = fleet.parts(now);
    (!parts.is_empty()).then(|| {
        parts
            .into_iter()
            .flat_map(|mut part| {
                let members = std::mem::take(&mut part.members);
                members.into_iter().map(move |id| (id, part.clone()))
            })
            .collect()
    })
}

/// Why an endpoint gets no requests, or fewer than others, in the order in which the balancer asks.
fn passed_over(
    candidate: &Candidate,
    fleet: &Fleet,
    view: &CellView,
    parts: Option<&HashMap<u64, PartView>>,
) -> Option<String> {
    let part = match parts.map(|parts| parts.get(&candidate.cell.id())) {
        Some(None) if candidate.endpoint.state == EndpointState::Active => {
            return Some("not in the subset of this process".to_owned());
        }
        part => part.flatten(),
    };
    let panics = part.is_some_and(|part| part.panic);
    if let Some(reason) = view.ejected_for.filter(|_| !panics) {
        return Some(format!("ejected: {}", reason.word()));
    }
    if !view.checked_healthy && !panics {
        return Some("active checks go wrong".to_owned());
    }
    let others_active = fleet.candidates().first().map(|first| first.endpoint.state);
    if candidate.endpoint.state == EndpointState::Draining && others_active == Some(EndpointState::Active) {
        return Some("draining, and others are active".to_owned());
    }
    if view.in_flight >= fleet.policy().limits.max_in_flight {
        return Some("at max_in_flight".to_owned());
    }
    if is_latency(fleet) && view.failed_in_a_row > 0 && view.penalty >= AVOIDED {
        return Some(failing(view, fleet));
    }
    let part = part.filter(|part| part.share < 1.0)?;
    let percent = (part.share * 100.0).round();
    Some(match part.near {
        true => format!("priority {} takes {percent} % of requests", part.priority),
        false => format!("not near; those of priority {} take {percent} %", part.priority),
    })
}

/// A cost so many times its latency keeps nearly all requests away.
const AVOIDED: f32 = 1.4;

fn is_latency(fleet: &Fleet) -> bool {
    fleet.policy().balance == Balance::LeastLatency
}

/// Why an endpoint is avoided whose last answers failed, and when it will be set aside for it.
fn failing(view: &CellView, fleet: &Fleet) -> String {
    let failed = match view.failed_in_a_row {
        1 => "its last answer failed".to_owned(),
        count => format!("its last {count} answers failed"),
    };
    let expensive = format!("{failed}: {:.1} times as expensive", view.penalty);
    match &fleet.policy().ejection {
        Some(ejection) if view.failed_in_a_row < ejection.consecutive_failures => {
            format!(
                "{expensive}, ejected after {} in a row",
                ejection.consecutive_failures
            )
        }
        Some(_) => format!("{expensive}, ejected with the next one unless too many are"),
        None => format!("{expensive}, ejection is off"),
    }
}

fn rule_view(rule: &Rule) -> RuleView {
    RuleView {
        name: rule.name.as_deref().map(str::to_owned),
        matches: rule.matches.iter().map(match_line).collect(),
        filters: rule
            .filters
            .iter()
            .map(|filter| filter_line(filter).to_owned())
            .collect(),
        backends: rule
            .backends
            .iter()
            .map(|share| TargetView {
                backend: match &share.target {
                    BackendTarget::Backend(name) => name.to_string(),
                    BackendTarget::Invalid(reason) => format!("none ({reason})"),
                },
                weight: share.weight,
            })
            .collect(),
    }
}

fn match_line(condition: &Match) -> String {
    let value = |value: &StringMatch| match value {
        StringMatch::Exact(text) => format!("={text}"),
        StringMatch::Regex(regex) => format!("~{regex}"),
        StringMatch::Present => String::new(),
    };
    let mut parts: Vec<String> = condition.method.iter().map(ToString::to_string).collect();
    parts.push(match &condition.path {
        PathMatch::Exact(path) => path.to_string(),
        PathMatch::Prefix(path) => format!("{path}/*"),
        PathMatch::Regex(regex) => format!("~{regex}"),
    });
    parts.extend(
        condition
            .headers
            .iter()
            .map(|header| format!("{}{}", header.name, value(&header.value))),
    );
    parts.extend(
        condition
            .queries
            .iter()
            .map(|query| format!("?{}{}", query.name, value(&query.value))),
    );
    parts.join(" ")
}

fn filter_line(filter: &Filter) -> &'static str {
    match filter {
        Filter::Cors(_) => "cross-origin answers",
        Filter::Direct(_) => "direct response",
        Filter::Mirror(_) => "mirror",
        Filter::Redirect(_) => "redirect",
        Filter::RequestHeaders(_) => "request fields",
        Filter::ResponseHeaders(_) => "response fields",
        Filter::Rewrite(_) => "rewrite",
    }
}
