//! What the proxy says of itself at one moment, and what is new since the moment before, in words.
//!
//! The only file of the demo that looks into the proxy. It sees no more than the admin listener shows to anyone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::folder;
use crate::app::Live;
use crate::model::{EndpointState, Reject};

/// The proxy at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// By address.
    pub endpoints: BTreeMap<SocketAddr, EndpointSample>,
    /// Attempts after the first, since the start.
    pub retries: u64,
    /// Counts the changes of listeners and routes that went live.
    pub generation: u64,
    /// What is left out of the manifests, and why.
    pub rejects: Vec<String>,
}

/// An endpoint at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSample {
    /// Its identity: an address that comes again is another endpoint.
    pub id: u64,
    /// The pod's name, if the slice has one.
    pub label: Option<String>,
    /// Whether it is ending and takes nothing new.
    pub draining: bool,
    /// How long it is set aside yet.
    pub ejected_for: Option<Duration>,
    /// How often it was set aside.
    pub ejections: u32,
    /// Mean latency in microseconds.
    pub latency_us: Option<u64>,
    /// Exchanges that began and did not end.
    pub in_flight: u32,
    /// Attempts ever begun.
    pub requests: u64,
    /// Attempts that failed or were answered with a 5xx.
    pub failures: u64,
}

impl EndpointSample {
    fn name(&self, address: &SocketAddr) -> String {
        self.label.clone().unwrap_or_else(|| address.to_string())
    }
}

impl Sample {
    /// Endpoints set aside since a sample before.
    pub fn ejections_since(&self, before: &Self) -> u64 {
        let of = |address: &SocketAddr, endpoint: &EndpointSample| {
            let old = before.endpoints.get(address).filter(|old| old.id == endpoint.id);
            u64::from(endpoint.ejections)
                - old.map_or(0, |old| u64::from(old.ejections).min(endpoint.ejections.into()))
        };
        self.endpoints
            .iter()
            .map(|(address, endpoint)| of(address, endpoint))
            .sum()
    }
}

/// Takes a sample.
pub fn take(live: &Live) -> Sample {
    let snapshot = live.snapshot();
    let now = live.clock().now();
    let mut sample = Sample {
        generation: snapshot.generation,
        rejects: live.rejected().iter().map(words).collect(),
        ..Sample::default()
    };
    for backend in snapshot.backends() {
        sample.retries += backend.metrics.totals().retries;
        for candidate in backend.fleet().candidates() {
            let view = candidate.cell.view(now);
            let endpoint = EndpointSample {
                id: candidate.cell.id(),
                label: candidate.endpoint.label.as_deref().map(str::to_owned),
                draining: candidate.endpoint.state == EndpointState::Draining,
                ejected_for: view
                    .ejected_until
                    .map(|until| Duration::from_micros(until.saturating_since(now))),
                ejections: view.ejections,
                latency_us: view.latency_us,
                in_flight: view.in_flight,
                requests: view.requests,
                failures: view.failures,
            };
            sample.endpoints.insert(candidate.endpoint.address, endpoint);
        }
    }
    sample
}

/// A reject without its source, which is always the folder.
fn words(reject: &Reject) -> String {
    let field = reject.field.iter().map(|field| format!(": {field}"));
    format!(
        "{}{}: {}",
        reject.object,
        field.collect::<String>(),
        reject.reason
    )
}

/// Whether an endpoint is live as something: in its set and taking requests, in its set and ending, or not there.
pub fn standing(live: &Live, address: SocketAddr) -> Option<folder::Condition> {
    let snapshot = live.snapshot();
    snapshot.backends().find_map(|backend| {
        let fleet = backend.fleet();
        let candidate = fleet
            .candidates()
            .iter()
            .find(|candidate| candidate.endpoint.address == address)?;
        Some(match candidate.endpoint.state {
            EndpointState::Active => folder::Condition::Ready,
            EndpointState::Draining => folder::Condition::Terminating,
        })
    })
}

/// How a piece of news is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Something was done.
    Plain,
    /// Something went wrong.
    Bad,
    /// Something is good again.
    Good,
}

/// What is new between two samples, in words.
pub fn news(before: &Sample, after: &Sample) -> Vec<(Mood, String)> {
    let mut news = Vec::new();
    for (address, endpoint) in &before.endpoints {
        if !after.endpoints.contains_key(address) {
            news.push((Mood::Plain, format!("{} has left", endpoint.name(address))));
        }
    }
    for (address, endpoint) in &after.endpoints {
        let name = endpoint.name(address);
        let Some(old) = before.endpoints.get(address).filter(|old| old.id == endpoint.id) else {
            news.push((Mood::Plain, format!("{name} has joined")));
            continue;
        };
        if endpoint.ejections > old.ejections {
            let seconds = endpoint.ejected_for.unwrap_or_default().as_secs_f64().ceil();
            news.push((
                Mood::Bad,
                format!("{name} ejected for {seconds:.0} s: failures in a row"),
            ));
        } else if old.ejected_for.is_some() && endpoint.ejected_for.is_none() {
            news.push((Mood::Good, format!("{name} is back, on trial")));
        }
        if endpoint.draining && !old.draining {
            news.push((Mood::Plain, format!("{name} is draining")));
        }
    }
    if after.generation != before.generation && before.generation != 0 {
        news.push((
            Mood::Plain,
            format!("routes changed: snapshot {}", after.generation),
        ));
    }
    for reject in &after.rejects {
        if !before.rejects.contains(reject) {
            news.push((Mood::Bad, format!("left out: {reject}")));
        }
    }
    if after.rejects.is_empty() && !before.rejects.is_empty() {
        news.push((Mood::Good, "nothing is left out any more".to_owned()));
    }
    news
}

/// A sample in which all that steps of the story change is as in `after`, and the rest as in `before`: the difference
/// to it is what others did.
pub fn without_story(before: &Sample, after: &Sample) -> Sample {
    let mut base = after.clone();
    base.rejects.clone_from(&before.rejects);
    for (address, endpoint) in &mut base.endpoints {
        if let Some(old) = before.endpoints.get(address).filter(|old| old.id == endpoint.id) {
            let draining = endpoint.draining;
            endpoint.clone_from(old);
            endpoint.draining = draining;
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn sample(endpoints: &[(u16, EndpointSample)]) -> Sample {
        Sample {
            endpoints: endpoints
                .iter()
                .map(|(port, endpoint)| (address(*port), endpoint.clone()))
                .collect(),
            generation: 1,
            ..Sample::default()
        }
    }

    fn pod(id: u64) -> EndpointSample {
        EndpointSample {
            id,
            label: Some(format!("pod-{id}")),
            draining: false,
            ejected_for: None,
            ejections: 0,
            latency_us: None,
            in_flight: 0,
            requests: 0,
            failures: 0,
        }
    }

    #[test]
    fn news_are_the_differences_in_words() {
        let ejected = EndpointSample {
            ejected_for: Some(Duration::from_millis(9_900)),
            ejections: 1,
            ..pod(1)
        };
        let returned = EndpointSample {
            ejections: 1,
            ..pod(1)
        };
        let ending = EndpointSample {
            draining: true,
            ..pod(1)
        };
        let nameless = EndpointSample {
            label: None,
            ..pod(2)
        };
        let rejecting = Sample {
            rejects: vec!["d: HTTPRoute a: no".to_owned()],
            ..sample(&[])
        };
        let routed = Sample {
            generation: 2,
            ..sample(&[])
        };
        let well = || sample(&[(1, pod(1))]);
        for (before, after, expected) in [
            (well(), well(), vec![]),
            (
                well(),
                sample(&[(1, ejected.clone())]),
                vec!["pod-1 ejected for 10 s: failures in a row"],
            ),
            (
                sample(&[(1, ejected.clone())]),
                sample(&[(1, ejected.clone())]),
                vec![],
            ),
            (
                sample(&[(1, ejected)]),
                sample(&[(1, returned)]),
                vec!["pod-1 is back, on trial"],
            ),
            (well(), sample(&[(1, ending)]), vec!["pod-1 is draining"]),
            (
                well(),
                sample(&[(2, nameless)]),
                vec!["pod-1 has left", "127.0.0.1:2 has joined"],
            ),
            // The same address, another endpoint.
            (well(), sample(&[(1, pod(3))]), vec!["pod-3 has joined"]),
            (
                sample(&[]),
                rejecting.clone(),
                vec!["left out: d: HTTPRoute a: no"],
            ),
            (rejecting, sample(&[]), vec!["nothing is left out any more"]),
            (sample(&[]), routed, vec!["routes changed: snapshot 2"]),
        ] {
            let found: Vec<_> = news(&before, &after).into_iter().map(|(_, text)| text).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_the_story_did_is_no_news_but_what_happened_meanwhile_is() {
        let before = sample(&[(1, pod(1)), (2, pod(2))]);
        let ejected = EndpointSample {
            ejected_for: Some(Duration::from_secs(10)),
            ejections: 1,
            draining: true,
            ..pod(1)
        };
        let mut after = sample(&[(1, ejected), (3, pod(3))]);
        after.generation = 5;
        let base = without_story(&before, &after);
        let found: Vec<_> = news(&base, &after).into_iter().map(|(_, text)| text).collect();
        assert_eq!(found, ["pod-1 ejected for 10 s: failures in a row"]);
    }
}
