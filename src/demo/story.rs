//! The story: what happens on the demo's stage and when, as plain data.
//!
//! It is told in laps. A lap ends with the stage as it began, so that it can be told for ever, and whoever looks sees
//! something happen within twelve seconds.

use std::fmt;
use std::time::Duration;

use super::pod::Behaviour;

/// The pods that are there from the start: those of the Service `checkout`, and the one of `checkout-next`.
pub const FIRST_CAST: [&str; 6] = [
    "checkout-1",
    "checkout-2",
    "checkout-3",
    "checkout-4",
    "checkout-5",
    NEXT_POD,
];

/// The pod that comes and goes.
pub const EXTRA_POD: &str = "checkout-6";

/// The pod of the canary's Service.
pub const NEXT_POD: &str = "checkout-v2";

/// What is done to the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// From now on a pod behaves like this.
    Behave(&'static str, Behaviour),
    /// A pod is started, and its EndpointSlice says so. A pod of that name that has crashed is replaced.
    Start(&'static str),
    /// A pod's EndpointSlice says that it is ending.
    Terminate(&'static str),
    /// A pod's EndpointSlice is removed. The pod still runs.
    Remove(&'static str),
    /// A pod that is not listed ends.
    End(&'static str),
    /// A pod ends at once, with its connections. Its EndpointSlice knows nothing of it.
    Crash(&'static str),
    /// The HTTPRoute's weights.
    Weights {
        /// Of the Service `checkout`.
        stable: u32,
        /// Of the Service `checkout-next`.
        next: u32,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behave(pod, Behaviour::Healthy) => write!(formatter, "{pod} is well again"),
            Self::Behave(pod, Behaviour::Slow) => write!(formatter, "{pod} becomes slow: 40 ms more"),
            Self::Behave(pod, Behaviour::Failing) => write!(formatter, "{pod} turns sick: it answers 500"),
            Self::Behave(pod, Behaviour::Hanging) => write!(formatter, "{pod} hangs: it answers nothing"),
            Self::Start(pod) => write!(formatter, "EndpointSlice: {pod} added"),
            Self::Terminate(pod) => write!(formatter, "EndpointSlice: {pod} is terminating"),
            Self::Remove(pod) => write!(formatter, "EndpointSlice: {pod} removed"),
            Self::End(pod) => write!(formatter, "{pod} has ended"),
            Self::Crash(pod) => write!(formatter, "{pod} crashes; its EndpointSlice still lists it"),
            Self::Weights { stable, next } => write!(formatter, "HTTPRoute: weights {stable} : {next}"),
        }
    }
}

/// A part of the story, explained in a line.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// Seconds from the lap's start.
    pub at: u64,
    /// What there is to see; fits on a terminal's line.
    pub says: &'static str,
    /// Each with its seconds from the act's start.
    pub steps: &'static [(u64, Step)],
}

/// The lap.
pub const ACTS: &[Act] = &[
    Act {
        at: 0,
        says: "checkout-4 answers 40 ms later than the others: it is only tried now and then.",
        steps: &[(0, Step::Behave("checkout-4", Behaviour::Slow))],
    },
    Act {
        at: 9,
        says: "checkout-5 is sick: its requests are answered by others, then it is ejected.",
        steps: &[
            (0, Step::Behave("checkout-5", Behaviour::Failing)),
            (9, Step::Behave("checkout-5", Behaviour::Healthy)),
        ],
    },
    Act {
        at: 22,
        says: "A pod is added: its EndpointSlice is written, and it gets requests at once.",
        steps: &[(0, Step::Start(EXTRA_POD))],
    },
    Act {
        at: 30,
        says: "A canary: the HTTPRoute's weights change, and no request notices.",
        steps: &[
            (0, Step::Weights { stable: 80, next: 20 }),
            (5, Step::Weights { stable: 50, next: 50 }),
            (10, Step::Weights { stable: 100, next: 0 }),
        ],
    },
    Act {
        at: 44,
        says: "checkout-2 hangs: after 500 ms its requests go elsewhere, then it is ejected.",
        steps: &[
            (0, Step::Behave("checkout-2", Behaviour::Hanging)),
            (9, Step::Behave("checkout-2", Behaviour::Healthy)),
        ],
    },
    Act {
        at: 58,
        says: "A pod ends: first it is terminating and gets nothing new, then it is gone.",
        steps: &[
            (0, Step::Terminate(EXTRA_POD)),
            (4, Step::Remove(EXTRA_POD)),
            (6, Step::End(EXTRA_POD)),
        ],
    },
    Act {
        at: 68,
        says: "checkout-4 is as fast as the others again: within seconds it has its share.",
        steps: &[(0, Step::Behave("checkout-4", Behaviour::Healthy))],
    },
    Act {
        at: 77,
        says: "checkout-3 crashes: refused requests go elsewhere until a new pod is listed.",
        steps: &[(0, Step::Crash("checkout-3")), (6, Step::Start("checkout-3"))],
    },
];

/// How long a lap takes.
pub const LAP: Duration = Duration::from_secs(90);

/// The act that is being played at a time since the start.
pub fn act(time: Duration) -> &'static Act {
    let within = time.as_secs() % LAP.as_secs();
    ACTS.iter().rev().find(|act| act.at <= within).unwrap_or(&ACTS[0])
}

/// The steps that fall into a span of time since the start, its begin excluded and its end included, in order. `None` as
/// the begin includes the start itself. A span of several laps (the process was stopped meanwhile) gives the last one.
pub fn due(after: Option<Duration>, until: Duration) -> Vec<Step> {
    let lap_of = |time: Duration| time.as_secs() / LAP.as_secs();
    let first = after.map_or(0, lap_of).max(lap_of(until).saturating_sub(1));
    let steps = (first..=lap_of(until)).flat_map(|lap| {
        lap_steps().map(move |(second, step)| (Duration::from_secs(lap * LAP.as_secs() + second), step))
    });
    steps
        .filter(|(time, _)| after.is_none_or(|after| *time > after) && *time <= until)
        .map(|(_, step)| step)
        .collect()
}

/// All steps of a lap with their seconds, in order: acts do not overlap.
fn lap_steps() -> impl Iterator<Item = (u64, Step)> {
    ACTS.iter()
        .flat_map(|act| act.steps.iter().map(|(after, step)| (act.at + after, *step)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What the steps say that the stage is: the pods, whether each is listed, and the weights.
    #[derive(Clone, Debug, PartialEq)]
    struct World {
        pods: BTreeMap<&'static str, (Option<Behaviour>, bool)>,
        weights: (u32, u32),
    }

    impl World {
        fn first() -> Self {
            Self {
                pods: FIRST_CAST
                    .into_iter()
                    .map(|pod| (pod, (Some(Behaviour::Healthy), true)))
                    .collect(),
                weights: (100, 0),
            }
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Behave(pod, behaviour) => {
                    let pod = self.pods.get_mut(pod).unwrap();
                    assert_ne!(pod.0, Some(behaviour), "nothing changes");
                    pod.0 = Some(behaviour);
                }
                Step::Start(pod) => {
                    let before = self.pods.insert(pod, (Some(Behaviour::Healthy), true));
                    assert!(before.is_none_or(|(runs, _)| runs.is_none()), "it runs already");
                }
                Step::Terminate(pod) => assert!(self.pods[pod].1, "it is not listed"),
                Step::Remove(pod) => assert!(std::mem::take(&mut self.pods.get_mut(pod).unwrap().1)),
                Step::End(pod) => {
                    let (runs, listed) = self.pods.remove(pod).unwrap();
                    assert!(runs.is_some() && !listed);
                }
                Step::Crash(pod) => assert!(self.pods.get_mut(pod).unwrap().0.take().is_some()),
                Step::Weights { stable, next } => self.weights = (stable, next),
            }
        }
    }

    #[test]
    fn a_lap_ends_as_it_began() {
        let mut world = World::first();
        due(None, LAP - Duration::from_secs(1))
            .into_iter()
            .for_each(|step| world.take(step));
        assert_eq!(world, World::first());
    }

    #[test]
    fn something_happens_soon_whenever_one_looks() {
        let lap = LAP.as_secs();
        let times: Vec<u64> = (0..2)
            .flat_map(|number| lap_steps().map(move |(second, _)| number * lap + second))
            .collect();
        for pair in times.windows(2) {
            let quiet = pair[1].checked_sub(pair[0]).expect("steps are in order");
            assert!(quiet <= 12, "{pair:?}");
        }
    }

    #[test]
    fn every_step_comes_once_however_time_is_cut() {
        let whole = due(None, LAP * 2 - Duration::from_millis(1));
        assert_eq!(whole.len(), 2 * lap_steps().count());
        for tick in [Duration::from_millis(250), Duration::from_millis(7300)] {
            let mut cut = Vec::new();
            let (mut after, mut time) = (None, Duration::ZERO);
            while time < LAP * 2 {
                cut.extend(due(after, time));
                after = Some(time);
                time += tick;
            }
            assert_eq!(
                cut[..whole.len().min(cut.len())],
                whole[..whole.len().min(cut.len())]
            );
            assert!(whole.len().abs_diff(cut.len()) <= 4, "{tick:?}");
        }
        let long_stopped = due(Some(LAP), LAP * 50);
        assert!(long_stopped.len() <= 2 * lap_steps().count());
    }

    #[test]
    fn the_act_is_the_last_that_began() {
        for (second, at) in [(0, 0), (8, 0), (9, 9), (89, 77), (90, 0), (99, 9)] {
            assert_eq!(act(Duration::from_secs(second)).at, at, "{second}");
        }
    }

    #[test]
    fn explanations_fit_on_a_line() {
        for act in ACTS {
            assert!(act.says.len() <= 78, "{}", act.says);
        }
        for (_, step) in lap_steps() {
            assert!(step.to_string().len() <= 60, "{step}");
        }
    }
}
