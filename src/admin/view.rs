//! The view: what the admin listener is told of the data plane, as plain data made for showing.
//! The shapes are those of the JSON that is served.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Who knows what is live. Called on the control plane, at most a few times a second; an answer should be
/// of one snapshot.
pub trait View: Send + Sync + 'static {
    /// The number of the live snapshot; 0: none yet.
    fn snapshot_generation(&self) -> u64;

    /// Listeners, by name.
    fn listeners(&self, ask: &Ask) -> Page<ListenerView>;

    /// Backends and their endpoints, by name.
    fn backends(&self, ask: &Ask) -> Page<BackendView>;

    /// Routes, by name.
    fn routes(&self, ask: &Ask) -> Page<RouteView>;

    /// Kubernetes objects and how they fare, by kind and name. May wait; called on a thread that may.
    fn objects(&self, ask: &Ask) -> Page<ObjectView> {
        ask.answer(std::iter::empty::<ObjectView>(), |_| "", |object| object) // where no cluster is followed
    }

    /// What was left out of the snapshot, and why.
    fn rejects(&self, ask: &Ask) -> Page<RejectView>;

    /// Certificates that are got by ACME, by name.
    fn certificates(&self, ask: &Ask) -> Page<CertificateView>;
}

/// Which part is asked for, so that a large world is not copied for a small question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Only what has one of these names.
    pub names: Option<BTreeSet<String>>,
    /// Entries at the most.
    pub limit: usize,
    /// Endpoints at the most, per backend.
    pub endpoints: usize,
}

impl Ask {
    /// Everything within a bound.
    pub fn up_to(limit: usize) -> Self {
        Self {
            names: None,
            limit,
            endpoints: limit,
        }
    }

    /// Whether a name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.contains(name))
    }

    /// Answers from all entries, their names and what makes a view of one, which is called only for what is asked for.
    pub fn answer<T, V>(
        &self,
        entries: impl Iterator<Item = T>,
        name: impl Fn(&T) -> &str,
        view: impl Fn(T) -> V,
    ) -> Page<V> {
        let mut page = Page {
            total: 0,
            items: Vec::new(),
        };
        for entry in entries {
            if !self.wants(name(&entry)) {
                continue;
            }
            page.total += 1;
            if page.items.len() < self.limit {
                page.items.push(view(entry));
            }
        }
        page
    }
}

/// Part of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// Entries that were asked for, with those beyond the limit.
    pub total: usize,
    /// The first of them.
    pub items: Vec<T>,
}

/// A backend as it is live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// How an endpoint is chosen: `least-latency`.
    pub policy: String,
    /// Endpoints there are, with those left out of `endpoints`.
    pub endpoints_total: usize,
    /// Of all of them, those that take requests now.
    pub endpoints_ready: usize,
    /// Whether so few are available that this is ignored.
    pub panic: bool,
    /// Retries that its budget has left now.
    pub retries_left: u32,
    /// Its limit on concurrency. None: it has none.
    pub concurrency: Option<ConcurrencyView>,
    /// Requests refused because of what they are, by how much they matter; without what never happened.
    pub shed: BTreeMap<String, u64>,
    /// The first of them, by address.
    pub endpoints: Vec<EndpointView>,
}

/// A backend's limit on concurrency as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConcurrencyView {
    /// Requests that may wait for their response's head at once.
    pub limit: u32,
    /// Those that do.
    pub in_flight: u32,
    /// Requests that wait for their turn.
    pub queued: u32,
    /// Those that may.
    pub queue_room: u32,
    /// Whether the queue has not been empty for as long as one may wait: then one waits much shorter.
    pub queue_stands: bool,
    /// Latency of the last windows, in microseconds (a geometric mean). None: nothing known yet.
    pub latency_us: Option<u64>,
    /// What is usual.
    pub usual_us: Option<u64>,
}

/// An endpoint as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Address and port.
    pub address: String,
    /// Its name (a pod's), if it has one.
    pub label: Option<String>,
    /// Its zone, if known.
    pub zone: Option<String>,
    /// Its priority; 0 is used first.
    pub priority: u8,
    /// `active`, `draining`, `ejected`, `unhealthy`: one word, lower case.
    pub state: String,
    /// Why it gets no requests now, or fewer than others. None: it is chosen like all others.
    pub passed_over: Option<String>,
    /// Its share beside the others.
    pub weight: u32,
    /// Exchanges in flight.
    pub in_flight: u32,
    /// Open connections to it.
    pub connections: u32,
    /// What the balancer takes for its latency now, in microseconds. None: nothing known yet.
    pub latency_us: Option<u64>,
    /// What the balancer compares: lower is better. None: the policy has no such number.
    pub cost: Option<f64>,
    /// What its latency is multiplied by in the choice for what it said of its load; 1: as usual. None: it says nothing.
    pub load_factor: Option<f64>,
    /// By what failures multiply the cost. None: by nothing.
    pub penalty: Option<f64>,
    /// Share of failures among its last answers, 0 to 1.
    pub failing: f64,
    /// The part of its weight that its slow start leaves it. None: it is over.
    pub slow_start: Option<f64>,
    /// Under `least-latency`, time until an idle endpoint is tried again, in milliseconds; 0: with one of the next requests. None: it is
    /// not idle.
    pub trial_in_ms: Option<u64>,
    /// Time until it is tried again, in milliseconds. None: it is not set aside.
    pub ejected_for_ms: Option<u64>,
    /// Why it is set aside: `failures`, `success-rate`. None: it is not.
    pub ejected_because: Option<String>,
    /// How often it was set aside.
    pub ejections: u32,
    /// Failures since its last success.
    pub failed_in_a_row: u32,
    /// What came of the last active check: `good`, or what was wrong. None: there are none.
    pub check: Option<String>,
    /// Requests sent to it since it is known.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Its part of the backend's recent requests, 0 to 1. None: not measured.
    pub share: Option<f64>,
}

/// A route as it is live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// The listeners it is attached to.
    pub listeners: Vec<String>,
    /// Its hostnames; `*` stands for all.
    pub hostnames: Vec<String>,
    /// Its rules.
    pub rules: Vec<RuleView>,
}

/// A rule of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Each match in one line: `GET /api/* x-canary=1`.
    pub matches: Vec<String>,
    /// Each filter in one line. Values of fields are left out: they may be secret.
    pub filters: Vec<String>,
    /// Where to.
    pub backends: Vec<TargetView>,
}

/// A share of a rule's requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetView {
    /// The backend's name.
    pub backend: String,
    /// Its part of the sum of all weights.
    pub weight: u32,
}

/// A listener as it is live.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// Where it is bound (with the port that the kernel chose).
    pub address: String,
    /// Its hostname; `*` stands for all.
    pub hostname: String,
    /// What is spoken: `http/1.1`, `h2c`.
    pub protocols: Vec<String>,
}

/// A Kubernetes object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectView {
    /// Its kind: `HTTPRoute`.
    pub kind: String,
    /// Its namespace and name.
    pub name: String,
    /// `yes`, `partly` or `no`.
    pub live: String,
    /// What is wrong, in the words of its conditions.
    pub why: Vec<String>,
}

/// Something that was left out of the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectView {
    /// Where it came from.
    pub source: String,
    /// What it is.
    pub object: String,
    /// The field, if one is to blame.
    pub field: Option<String>,
    /// What is wrong and what to try.
    pub reason: String,
}

/// A certificate that is got by ACME.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// The name that it is for.
    pub name: String,
    /// `good`, `renewal fails`, `being ordered`, `missing`.
    pub state: String,
    /// Its end, in seconds since 1970. None: there is none.
    pub not_after_unix_s: Option<u64>,
    /// When something is done for it next, in seconds since 1970.
    pub next_unix_s: u64,
    /// Why the last order came to nothing. None: it did not.
    pub why: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_and_says_what_there_is() {
        let names = ["a", "b", "c"];
        let answer = |ask: Ask| ask.answer(names.iter(), |name| name, |name| name.to_string());
        let page = answer(Ask::up_to(2));
        assert_eq!(
            (page.total, page.items),
            (3, vec!["a".to_owned(), "b".to_owned()])
        );
        let page = answer(Ask {
            names: Some(BTreeSet::from(["c".to_owned()])),
            ..Ask::up_to(2)
        });
        assert_eq!((page.total, page.items), (1, vec!["c".to_owned()]));
    }
}
