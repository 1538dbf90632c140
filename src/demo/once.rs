//! `tidegate demo --once`: a short story with a verdict, for scripts and for the doubtful.
//!
//! A phase is plain data: steps, how long to wait for them to settle, how long to measure, and what is then expected. The
//! expectations are far from what is usual, and waiting is by event where it can be, so that a loaded machine passes too.
//! Requests are counted by the pods, not by the proxy: who is judged does not count.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::pod::Behaviour;
use super::stage::{Done, Stage};
use super::story::{EXTRA_POD, FIRST_CAST, NEXT_POD, Step};
use super::{Options, Signals};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether no request failed and every phase was as expected.
    pub ok: bool,
    /// Requests that the client made.
    pub requests: u64,
    /// Those that were not answered with 200.
    pub failures: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Times that an endpoint was set aside.
    pub ejections: u64,
    /// Files of the folder that were written or removed while the proxy ran.
    pub changes: u64,
    /// The longest time from a file's change to its being live, in milliseconds.
    pub slowest_change_ms: Option<f64>,
    /// The client's median latency, in microseconds.
    pub p50_us: Option<u64>,
    /// The client's 99th percentile, in microseconds.
    pub p99_us: Option<u64>,
    /// By name.
    pub endpoints: Vec<EndpointVerdict>,
    /// In order.
    pub phases: Vec<PhaseVerdict>,
}

/// What a pod did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointVerdict {
    /// Its name.
    pub label: String,
    /// Requests that arrived there, retries included.
    pub requests: u64,
    /// Its part of all, 0 to 1.
    pub share: f64,
}

/// What came of a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseVerdict {
    /// Its name.
    pub name: &'static str,
    /// Whether it was as expected.
    pub ok: bool,
    /// What was seen, in words.
    pub found: String,
}

/// A part of the short story.
#[derive(Clone, Copy, Debug)]
struct Phase {
    name: &'static str,
    steps: &'static [Step],
    /// From the last step's being live to the begin of measuring.
    settle: Duration,
    /// How long is measured, at least.
    measure: Duration,
    /// Then the phase goes on for so long at the most, until what is expected is so.
    patience: Duration,
    expect: Expect,
}

/// What is expected of a phase.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    /// Every pod of the first Service is asked.
    AllServe,
    /// A pod has less than half of an even share.
    Avoided(&'static str),
    /// An endpoint is set aside, requests are tried again.
    Ejected(&'static str),
    /// A pod is asked nothing.
    Silent(&'static str),
    /// A pod is asked.
    Serves(&'static str),
    /// A pod is asked, but has less than half of all.
    Minority(&'static str),
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const PHASES: &[Phase] = &[
    Phase {
        name: "all healthy",
        steps: &[],
        settle: Duration::ZERO,
        measure: ms(1500),
        patience: ms(8000),
        expect: Expect::AllServe,
    },
    Phase {
        name: "slow endpoint avoided",
        steps: &[Step::Behave("checkout-4", Behaviour::Slow)],
        settle: ms(700),
        measure: ms(1500),
        patience: Duration::ZERO,
        expect: Expect::Avoided("checkout-4"),
    },
    Phase {
        name: "sick endpoint ejected",
        steps: &[Step::Behave("checkout-5", Behaviour::Failing)],
        settle: Duration::ZERO,
        measure: ms(1000),
        patience: ms(20_000),
        expect: Expect::Ejected("checkout-5"),
    },
    Phase {
        name: "endpoint removed",
        steps: &[
            Step::Behave("checkout-5", Behaviour::Healthy),
            Step::Terminate("checkout-3"),
            Step::Remove("checkout-3"),
        ],
        settle: ms(1000),
        measure: ms(1500),
        patience: Duration::ZERO,
        expect: Expect::Silent("checkout-3"),
    },
    Phase {
        name: "endpoint added",
        steps: &[Step::Start(EXTRA_POD)],
        settle: Duration::ZERO,
        measure: ms(1000),
        patience: ms(8000),
        expect: Expect::Serves(EXTRA_POD),
    },
    Phase {
        name: "canary by weight",
        steps: &[Step::Weights { stable: 80, next: 20 }],
        settle: ms(100),
        measure: ms(1400),
        patience: Duration::ZERO,
        expect: Expect::Minority(NEXT_POD),
    },
];

/// How often is looked whether a phase is as expected.
const LOOK: Duration = ms(50);

/// Plays the short story; `progress` hears of each phase. None: a signal ended it. Call it within a multi-thread runtime.
///
/// # Errors
/// What keeps the stage from being set, or a step from being carried out.
pub async fn play(options: &Options, progress: impl FnMut(&PhaseVerdict)) -> anyhow::Result<Option<Verdict>> {
    let mut signals = Signals::new()?;
    let stage = Stage::open(options).await?;
    tokio::select! {
        verdict = play_out(stage, progress) => verdict.map(Some),
        () = signals.any() => Ok(None),
    }
}

async fn play_out(mut stage: Stage, mut progress: impl FnMut(&PhaseVerdict)) -> anyhow::Result<Verdict> {
    let mut phases = Vec::new();
    for phase in PHASES {
        let verdict = play_phase(&mut stage, phase).await?;
        progress(&verdict);
        phases.push(verdict);
    }
    let counts = Counts::of(&stage);
    let slowest_change_ms = stage
        .slowest_change()
        .map(|slowest| (slowest.as_secs_f64() * 1e4).round() / 10.0);
    let ending = stage.close().await;
    let all: u64 = counts.requests.values().sum();
    let endpoints = counts.requests.iter().map(|(label, requests)| EndpointVerdict {
        label: (*label).to_owned(),
        requests: *requests,
        share: (*requests as f64 / all.max(1) as f64 * 1e4).round() / 1e4,
    });
    Ok(Verdict {
        ok: ending.tally.failures == 0 && phases.iter().all(|phase| phase.ok),
        requests: ending.tally.requests,
        failures: ending.tally.failures,
        retries: ending.sample.retries,
        ejections: counts.ejections,
        changes: ending.changes,
        slowest_change_ms,
        p50_us: ending.tally.latency.quantile(0.5),
        p99_us: ending.tally.latency.quantile(0.99),
        endpoints: endpoints.collect(),
        phases,
    })
}

async fn play_phase(stage: &mut Stage, phase: &Phase) -> anyhow::Result<PhaseVerdict> {
    let mut stuck = None;
    let before_steps = Counts::of(stage);
    for step in phase.steps {
        match stage.perform(*step).await? {
            Done::Plainly | Done::Live(_) => {}
            Done::NotLive => stuck = Some(format!("not live in time: {step}")),
            Done::LeftAlone => stuck = Some(format!("the file was edited by someone else: {step}")),
        }
    }
    sleep(phase.settle).await;
    // What has no time to settle is measured from before the steps.
    let begin = if phase.settle.is_zero() {
        before_steps
    } else {
        Counts::of(stage)
    };
    let started = Instant::now();
    sleep(phase.measure).await;
    let mut found = judge(phase.expect, &Counts::of(stage).since(&begin));
    while found.is_err() && started.elapsed() < phase.measure + phase.patience {
        sleep(LOOK).await;
        found = judge(phase.expect, &Counts::of(stage).since(&begin));
    }
    let found = match stuck {
        Some(stuck) => Err(stuck),
        None => found,
    };
    Ok(PhaseVerdict {
        name: phase.name,
        ok: found.is_ok(),
        found: found.unwrap_or_else(|found| found),
    })
}

/// What is counted, at a moment or between two.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    /// By pod.
    requests: BTreeMap<&'static str, u64>,
    failures: u64,
    retries: u64,
    ejections: u64,
    /// Pods that are set aside at the end.
    ejected: Vec<String>,
}

impl Counts {
    fn of(stage: &Stage) -> Self {
        let sample = stage.sample();
        let ejected = sample
            .endpoints
            .values()
            .filter(|endpoint| endpoint.ejected_for.is_some());
        Self {
            requests: stage
                .roles()
                .iter()
                .map(|(name, role)| (*name, role.requests()))
                .collect(),
            failures: stage.tally().failures,
            retries: sample.retries,
            ejections: sample
                .endpoints
                .values()
                .map(|endpoint| u64::from(endpoint.ejections))
                .sum(),
            ejected: ejected.filter_map(|endpoint| endpoint.label.clone()).collect(),
        }
    }

    fn since(&self, begin: &Self) -> Self {
        let before = |name: &str| begin.requests.get(name).copied().unwrap_or(0);
        Self {
            requests: self
                .requests
                .iter()
                .map(|(name, requests)| (*name, requests.saturating_sub(before(name))))
                .collect(),
            failures: self.failures.saturating_sub(begin.failures),
            retries: self.retries.saturating_sub(begin.retries),
            ejections: self.ejections.saturating_sub(begin.ejections),
            ejected: self.ejected.clone(),
        }
    }
}

/// Whether a phase was as expected; what was seen, in words, either way.
fn judge(expect: Expect, counts: &Counts) -> Result<String, String> {
    let of = |pod: &str| counts.requests.get(pod).copied().unwrap_or(0);
    let all: u64 = counts.requests.values().sum();
    let percent = |pod: &str| of(pod) as f64 * 100.0 / all.max(1) as f64;
    let stable = || FIRST_CAST.into_iter().filter(|pod| *pod != NEXT_POD);
    let (ok, mut found) = match expect {
        Expect::AllServe => {
            let asked = stable().filter(|pod| of(pod) > 0).count();
            (
                asked == stable().count(),
                format!("{asked} of {} pods answered {all} requests", stable().count()),
            )
        }
        Expect::Avoided(pod) => {
            let even = 100.0 / stable().count() as f64;
            (
                all > 0 && percent(pod) < even / 2.0,
                format!(
                    "{pod} got {:.1} % of the requests, an even share is {even:.0} %",
                    percent(pod)
                ),
            )
        }
        Expect::Ejected(pod) => {
            let out = counts.ejected.iter().any(|ejected| ejected == pod);
            (
                out && counts.retries > 0,
                format!(
                    "{pod} is {}; {} requests were tried elsewhere",
                    if out { "ejected" } else { "not ejected" },
                    counts.retries
                ),
            )
        }
        Expect::Silent(pod) => (
            of(pod) == 0 && all > 0,
            format!("{pod} got {} of {all} requests", of(pod)),
        ),
        Expect::Serves(pod) => (of(pod) > 0, format!("{pod} got {} of {all} requests", of(pod))),
        Expect::Minority(pod) => (
            of(pod) > 0 && percent(pod) < 50.0,
            format!("{pod} got {:.1} % of the requests", percent(pod)),
        ),
    };
    if counts.failures > 0 {
        found += &format!("; {} requests FAILED", counts.failures);
    }
    if ok && counts.failures == 0 {
        Ok(found)
    } else {
        Err(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: &[(&'static str, u64)]) -> Counts {
        Counts {
            requests: requests.iter().copied().collect(),
            ..Counts::default()
        }
    }

    #[test]
    fn phases_are_judged_by_what_was_counted() {
        let even = counts(&[
            ("checkout-1", 20),
            ("checkout-2", 20),
            ("checkout-3", 20),
            ("checkout-4", 20),
            ("checkout-5", 20),
        ]);
        let uneven = counts(&[("checkout-1", 95), ("checkout-4", 5)]);
        let nothing = counts(&[("checkout-1", 0)]);
        let failed = Counts {
            failures: 1,
            ..even.clone()
        };
        let ejected = Counts {
            retries: 3,
            ejected: vec!["checkout-5".to_owned()],
            ..even.clone()
        };
        let not_retried = Counts {
            retries: 0,
            ..ejected.clone()
        };
        for (expect, counts, ok) in [
            (Expect::AllServe, &even, true),
            (Expect::AllServe, &uneven, false),
            (Expect::AllServe, &failed, false),
            (Expect::Avoided("checkout-4"), &uneven, true),
            (Expect::Avoided("checkout-4"), &even, false),
            (Expect::Avoided("checkout-4"), &nothing, false),
            (Expect::Ejected("checkout-5"), &ejected, true),
            (Expect::Ejected("checkout-4"), &ejected, false),
            (Expect::Ejected("checkout-5"), &not_retried, false),
            (Expect::Ejected("checkout-5"), &even, false),
            (Expect::Silent("checkout-3"), &uneven, true),
            (Expect::Silent("checkout-3"), &even, false),
            (Expect::Silent("checkout-3"), &nothing, false),
            (Expect::Serves("checkout-3"), &even, true),
            (Expect::Serves("checkout-3"), &uneven, false),
            (Expect::Minority("checkout-4"), &uneven, true),
            (Expect::Minority("checkout-1"), &uneven, false),
            (Expect::Minority("checkout-2"), &uneven, false),
        ] {
            let found = judge(expect, counts);
            assert_eq!(found.is_ok(), ok, "{expect:?}: {found:?}");
        }
        assert!(
            judge(Expect::AllServe, &failed)
                .unwrap_err()
                .contains("1 requests FAILED")
        );
    }

    #[test]
    fn the_short_story_is_short() {
        let least: Duration = PHASES.iter().map(|phase| phase.settle + phase.measure).sum();
        assert!(least <= Duration::from_secs(12), "{least:?}");
    }
}
