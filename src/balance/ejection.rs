//! When an endpoint is set aside for what it does to requests, and for how long.
//!
//! After `consecutive_failures` in a row it goes for `base`; the n-th time in a row for n times as
//! long, `max` at the most (Envoy's outlier detection). Each `base` that it then serves without being
//! sent out again takes one off the count. When it comes back it is on probation: its failures in a
//! row are not forgotten, so that the first one sends it out again, and a success clears them. Its cost
//! still remembers the failures, so that under least-latency only a few requests try it.
//!
//! Failures that are no answer of the endpoint itself (no connection, a deadline, 502, 503, 504) can be given a bound of
//! their own (`gateway_failures`). Endpoints that fail or lag now and then, but more than others, are found by comparing
//! them (`outlier`); the way out and back is the same for all. Active checks that go well end an ejection before its time
//! (`ends_on_check`, as Envoy has it); the probation stays.
//!
//! Never more than `max_percent` of the endpoints are out, but one may always go if another is
//! available: setting all aside helps nobody. Failures that all endpoints share (a bad deployment, a bad
//! client) then stay what they are, answers.

use std::time::Duration;

use super::Micros;
use crate::model::Ejection;

/// Why an endpoint is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Failures in a row.
    Failures,
    /// Failures in a row that are no answer of the endpoint itself.
    GatewayFailures,
    /// It succeeds clearly less often than the others.
    SuccessRate,
    /// It fails too large a share of its requests.
    FailureShare,
    /// It is slower than the others by a factor.
    Latency,
    /// Active checks go wrong.
    Check,
}

impl Reason {
    /// All of them, by place.
    pub const ALL: [Self; 6] = [
        Self::Failures,
        Self::GatewayFailures,
        Self::SuccessRate,
        Self::FailureShare,
        Self::Latency,
        Self::Check,
    ];

    /// The word for it in metrics and views.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::GatewayFailures => "gateway-failures",
            Self::SuccessRate => "success-rate",
            Self::FailureShare => "failure-share",
            Self::Latency => "latency",
            Self::Check => "check",
        }
    }

    pub(super) fn of_place(place: u8) -> Option<Self> {
        Self::ALL.get(usize::from(place)).copied()
    }
}

/// Whether one more may go, when `fleet` endpoints take requests, `out` of them are ejected, and `left`
/// others are available.
pub(super) fn may_go(policy: &Ejection, fleet: usize, out: usize, left: usize) -> bool {
    left > 0 && (out == 0 || (out + 1) * 100 <= usize::from(policy.max_percent) * fleet)
}

/// Until when it goes, and the count of times in a row to remember.
pub(super) fn sentence(policy: &Ejection, strikes: u32, last_return: Micros, now: Micros) -> (Micros, u32) {
    let served = Duration::from_micros(now.saturating_since(last_return));
    let made_up = if policy.base.is_zero() {
        u128::from(strikes)
    } else {
        served.as_nanos() / policy.base.as_nanos()
    };
    let strikes = strikes.saturating_sub(u32::try_from(made_up).unwrap_or(u32::MAX));
    let strikes = strikes.saturating_add(1);
    let time = policy.base.saturating_mul(strikes).min(policy.max);
    (now.plus(time), strikes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{EndpointCell, Fleet, Observed};
    use super::*;
    use crate::model::{Backend, BackendName, Endpoint};

    const NOW: Micros = Micros(100 * SECOND);
    const SECOND: u64 = 1_000_000;

    #[test]
    fn the_share_that_may_go_is_bounded() {
        let policy = Ejection {
            max_percent: 50,
            ..Ejection::default()
        };
        // Endpoints, out, others available, whether one more may go.
        for (fleet, out, left, may) in [
            (1, 0, 0, false), // the only one
            (2, 0, 1, true),
            (2, 0, 0, false), // the other is sick
            (2, 1, 1, false),
            (3, 0, 2, true), // one may always go
            (3, 1, 1, false),
            (4, 1, 2, true),
            (4, 2, 1, false),
            (11, 4, 6, true),
            (11, 5, 5, false),
        ] {
            assert_eq!(may_go(&policy, fleet, out, left), may, "{fleet} {out} {left}");
        }
        let none = Ejection {
            max_percent: 0,
            ..policy
        };
        assert!(may_go(&none, 10, 0, 9));
        assert!(!may_go(&none, 10, 1, 8));
    }

    #[test]
    fn time_out_grows_and_good_conduct_shrinks_it() {
        let policy = Ejection {
            base: Duration::from_secs(10),
            max: Duration::from_secs(35),
            ..Ejection::default()
        };
        let at = |seconds: u64| Micros(seconds * SECOND);
        // Strikes, last return, now, expected end and strikes.
        for (strikes, last_return, now, end, then) in [
            (0, 0, 5, 15, 1),
            (1, 15, 16, 36, 2),
            (2, 36, 37, 67, 3),
            (3, 67, 68, 103, 4), // bounded by `max`
            (4, 103, 124, 154, 3),
            (3, 154, 1000, 1010, 1),
        ] {
            assert_eq!(
                sentence(&policy, strikes, at(last_return), at(now)),
                (at(end), then)
            );
        }
    }

    #[test]
    fn failures_in_a_row_eject_within_the_bound() {
        // Endpoints, how many of them fail, how many are ejected.
        for (size, failing, expected) in [
            (1, 1, 0),
            (2, 2, 1),
            (3, 3, 1),
            (4, 4, 2),
            (11, 3, 3),
            (11, 11, 5),
            (40, 40, 20),
        ] {
            let fleet = fleet(1..=size);
            for port in 1..=failing {
                fail(&fleet, port, 4, NOW);
            }
            assert_eq!(ejected(&fleet, NOW), 0);
            for port in 1..=failing {
                fail(&fleet, port, 3, NOW);
            }
            assert_eq!(ejected(&fleet, NOW), expected, "{failing} of {size}");
        }
    }

    #[test]
    fn failures_that_are_no_answer_have_a_bound_of_their_own() {
        let mut policy = policy();
        policy.ejection = Some(Ejection {
            consecutive_failures: 100,
            gateway_failures: Some(3),
            ..Ejection::default()
        });
        let fleet = Fleet::build(Arc::new(policy), &[endpoint(1), endpoint(2)], None, NOW);
        let seen = |port, seen| {
            let mut exchange = cell(&fleet, port).start(NOW);
            exchange.head(NOW, seen);
            fleet.judge(exchange.cell(), NOW)
        };
        for _ in 0..9 {
            assert_eq!(seen(1, Observed::ServerError), None);
        }
        assert_eq!(seen(1, Observed::Failed), None);
        assert_eq!(seen(1, Observed::GatewayError), None);
        assert_eq!(seen(1, Observed::GatewayError), Some(Reason::GatewayFailures));
        assert_eq!(seen(1, Observed::GatewayError), None, "it is out already");
        let view = cell(&fleet, 1).view(NOW);
        assert_eq!(view.ejected_for, Some(Reason::GatewayFailures));
    }

    #[test]
    fn an_endpoint_that_returns_is_on_probation() {
        let fleet = fleet(1..=3);
        fail(&fleet, 1, 5, NOW);
        let back = NOW.plus(Duration::from_secs(10));
        assert!(cell(&fleet, 1).is_ejected(Micros(back.0 - 1)));
        assert!(!cell(&fleet, 1).is_ejected(back));
        fail(&fleet, 1, 1, back);
        assert!(
            cell(&fleet, 1).is_ejected(Micros(back.0 + 20 * SECOND - 1)),
            "twice as long"
        );
        let back = Micros(back.0 + 20 * SECOND);
        assert!(!cell(&fleet, 1).is_ejected(back));
        cell(&fleet, 1).start(back).head(back, Observed::Answered);
        fail(&fleet, 1, 4, back);
        assert!(!cell(&fleet, 1).is_ejected(back), "a success ends the probation");
    }

    #[test]
    fn the_share_out_holds_when_workers_judge_at_once() {
        for _ in 0..20 {
            let fleet = fleet(1..=8);
            std::thread::scope(|scope| {
                for port in 1..=8 {
                    let fleet = &fleet;
                    scope.spawn(move || fail(fleet, port, 200, NOW));
                }
            });
            assert!(ejected(&fleet, NOW) <= 4);
        }
    }

    #[test]
    fn without_a_policy_nobody_is_ejected() {
        let mut policy = policy();
        policy.ejection = None;
        let fleet = Fleet::build(Arc::new(policy.clone()), &[endpoint(1), endpoint(2)], None, NOW);
        fail(&fleet, 1, 100, NOW);
        assert_eq!(ejected(&fleet, NOW), 0);
        policy.ejection = Some(Ejection::default());
        let fleet = Fleet::build(Arc::new(policy), &[endpoint(1), endpoint(2)], Some(&fleet), NOW);
        fail(&fleet, 1, 1, NOW);
        assert_eq!(ejected(&fleet, NOW), 1);
    }

    fn fail(fleet: &Fleet, port: u16, times: u32, now: Micros) {
        for _ in 0..times {
            let mut exchange = cell(fleet, port).start(now);
            exchange.head(now, Observed::Failed);
            fleet.judge(exchange.cell(), now);
        }
    }

    fn ejected(fleet: &Fleet, now: Micros) -> usize {
        let candidates = fleet.candidates().iter();
        candidates
            .filter(|candidate| candidate.cell.is_ejected(now))
            .count()
    }

    fn policy() -> Backend {
        Backend::new(BackendName::new("web"))
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::at(([10, 0, 0, 1], port).into())
    }

    fn fleet(ports: std::ops::RangeInclusive<u16>) -> Fleet {
        let endpoints: Vec<Endpoint> = ports.map(endpoint).collect();
        Fleet::build(Arc::new(policy()), &endpoints, None, Micros(0))
    }

    fn cell(fleet: &Fleet, port: u16) -> &Arc<EndpointCell> {
        &fleet.candidates()[usize::from(port) - 1].cell
    }
}
