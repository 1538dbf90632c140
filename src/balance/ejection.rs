//! When an endpoint is set aside for what it does to requests, and for how long.
//!
//! After `consecutive_failures` in a row it goes for `base`; the n-th time in a row for n times as
//! long, `max` at the most (Envoy's outlier detection). Each `base` that it then serves without being
//! sent out again takes one off the count. When it comes back it is on probation: its failures in a
//! row are not forgotten, so that the first one sends it out again, and a success clears them. Its cost
//! still remembers the failures, so that under least-latency only a few requests try it.
//!
//! Never more than `max_percent` of the endpoints are out, but one may always go if another is
//! available: setting all aside helps nobody. Failures that all endpoints share (a bad deployment, a bad
//! client) then stay what they are, answers.

use std::time::Duration;

use super::Micros;
use crate::model::Ejection;

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
    use super::*;

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
}
