//! Shedding: who goes, who waits and who is refused when a backend is near its limit. Pure.
//!
//! **Classes** are those of Google's "Site Reliability Engineering" (chapter 21): critical-plus, critical, sheddable-plus,
//! sheddable. Lower classes lose first:
//!
//! | class | goes while in flight is below | else |
//! |---|---|---|
//! | critical-plus | the limit | waits |
//! | critical | the limit, and no critical-plus waits | waits, while less than half of the queue is taken |
//! | sheddable-plus | 90 % of the limit, and nobody waits | is refused |
//! | sheddable | 80 % of the limit, and nobody waits | is refused |
//!
//! Under overload, what is in flight stays at the limit, so all that can be refused is refused before anything waits.
//!
//! **The queue** is as long as it can be of use: it holds as many as leave the backend within `queue_timeout` at its pace of now,
//! at least [`LEAST_ROOM`] and never more than [`MOST_ROOM`]. A queue is for bursts. One that has not been empty for `queue_timeout` stands: it
//! serves nobody sooner, and all later. So while it stands, critical requests wait only a twentieth of `queue_timeout`, 50 ms of 1 s
//! (Facebook's controlled delay: 5 ms of 100 ms, "Fail at Scale", ACM Queue 2015, after CoDel). The few that are critical-plus wait as long as ever.

use std::time::Duration;

use super::Micros;
use crate::model::Criticality;

/// Places in a queue at the least and at the most.
const LEAST_ROOM: f32 = 16.0;
const MOST_ROOM: f32 = 10_000.0;
/// The part of `queue_timeout` that is waited in a queue that stands.
const STANDING: u32 = 20;

/// How a backend stands when a request comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Requests in flight.
    pub in_flight: u32,
    /// How many may be.
    pub limit: u32,
    /// Requests that wait, by the place of their class.
    pub waiting: [u32; Criticality::ALL.len()],
    /// How many may wait.
    pub room: u32,
    /// Whether the queue has not been empty for as long as one may wait.
    pub stands: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes.
    Go,
    /// It waits for so long at the most.
    Wait(Duration),
    /// It is refused.
    Refuse,
}

/// What becomes of a request of a class that could wait for `queue_timeout`.
pub(super) fn verdict(class: Criticality, standing: &Standing, queue_timeout: Duration) -> Verdict {
    if may_go(class, standing) {
        return Verdict::Go;
    }
    let taken: u32 = standing.waiting.iter().sum();
    let patience = match class {
        Criticality::CriticalPlus if taken < standing.room => queue_timeout,
        Criticality::Critical if taken < standing.room / 2 => match standing.stands {
            true => queue_timeout / STANDING,
            false => queue_timeout,
        },
        Criticality::CriticalPlus
        | Criticality::Critical
        | Criticality::SheddablePlus
        | Criticality::Sheddable => return Verdict::Refuse,
    };
    match patience {
        Duration::ZERO => Verdict::Refuse,
        patience => Verdict::Wait(patience),
    }
}

/// Whether a request of a class goes now.
pub(super) fn may_go(class: Criticality, standing: &Standing) -> bool {
    let (percent, before) = match class {
        Criticality::CriticalPlus => (100, 0),
        Criticality::Critical => (100, class.index()),
        Criticality::SheddablePlus => (90, class.index()),
        Criticality::Sheddable => (80, class.index()),
    };
    let bound = (u64::from(standing.limit) * percent / 100).max(1);
    let waits = |waiting: &[u32]| waiting.iter().any(|count| *count > 0);
    u64::from(standing.in_flight) < bound && !standing.waiting.get(..before).is_some_and(waits)
}

/// How many may wait, when so many can leave within the time that one may wait; none: it is not known.
pub(super) fn room(leaving: Option<f32>) -> u32 {
    leaving.map_or(MOST_ROOM, |leaving| leaving.clamp(LEAST_ROOM, MOST_ROOM)) as u32
}

/// After how long a refused client may come again, at random between one and three times its class's pause: lower
/// classes come back later, and not all at once. `chance` is evenly spread over all of `u64`.
pub fn pause(class: Criticality, chance: u64) -> Duration {
    let least_ms: u64 = match class {
        Criticality::CriticalPlus | Criticality::Critical => 1000,
        Criticality::SheddablePlus => 2000,
        Criticality::Sheddable => 4000,
    };
    Duration::from_millis(least_ms + chance % (2 * least_ms + 1))
}

/// Whether the queue has not been empty for as long as one may wait.
pub(super) fn stands(last_empty: Micros, now: Micros, queue_timeout: Duration) -> bool {
    Duration::from_micros(now.saturating_since(last_empty)) > queue_timeout
}

#[cfg(test)]
mod tests {
    use super::Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WAIT: Verdict = Verdict::Wait(SECOND);

    #[test]
    fn lower_classes_lose_first() {
        use Verdict::{Go, Refuse};
        // In flight of 100, waiting by class (of a room for 20): what becomes of each class.
        for (in_flight, waiting, expected) in [
            (0, [0, 0], [Go, Go, Go, Go]),
            (79, [0, 0], [Go, Go, Go, Go]),
            (80, [0, 0], [Go, Go, Go, Refuse]),
            (90, [0, 0], [Go, Go, Refuse, Refuse]),
            (99, [0, 0], [Go, Go, Refuse, Refuse]),
            (100, [0, 0], [WAIT, WAIT, Refuse, Refuse]),
            (100, [0, 9], [WAIT, WAIT, Refuse, Refuse]),
            (100, [0, 10], [WAIT, Refuse, Refuse, Refuse]),
            (100, [10, 10], [Refuse, Refuse, Refuse, Refuse]),
            // Who waits goes first.
            (99, [1, 0], [Go, WAIT, Refuse, Refuse]),
            (50, [0, 1], [Go, Go, Refuse, Refuse]),
        ] {
            let standing = Standing {
                in_flight,
                limit: 100,
                waiting: [waiting[0], waiting[1], 0, 0],
                room: 20,
                stands: false,
            };
            let found = Criticality::ALL.map(|class| verdict(class, &standing, SECOND));
            assert_eq!(found, expected, "{in_flight} {waiting:?}");
        }
    }

    #[test]
    fn every_class_has_a_place_where_limits_are_small() {
        let standing = Standing {
            in_flight: 0,
            limit: 1,
            waiting: [0; 4],
            room: 16,
            stands: false,
        };
        for class in Criticality::ALL {
            assert!(may_go(class, &standing), "{class:?}");
        }
    }

    #[test]
    fn a_queue_that_stands_is_left_soon() {
        let full = Standing {
            in_flight: 10,
            limit: 10,
            waiting: [0, 3, 0, 0],
            room: 16,
            stands: true,
        };
        let short = Verdict::Wait(Duration::from_millis(50));
        assert_eq!(verdict(Critical, &full, SECOND), short);
        assert_eq!(verdict(CriticalPlus, &full, SECOND), WAIT);
        assert_eq!(verdict(Critical, &full, Duration::ZERO), Verdict::Refuse);
        let at = |seconds: u64| Micros(seconds * 1_000_000);
        for (empty, now, expected) in [(5, 5, false), (5, 6, false), (5, 7, true), (9, 7, false)] {
            assert_eq!(stands(at(empty), at(now), SECOND), expected, "{empty} {now}");
        }
    }

    #[test]
    fn a_queue_has_room_for_those_who_can_be_served() {
        for (leaving, expected) in [
            (None, 10_000),
            (Some(0.5), 16),
            (Some(400.0), 400),
            (Some(1e9), 10_000),
        ] {
            assert_eq!(room(leaving), expected);
        }
    }

    #[test]
    fn clients_are_sent_away_for_a_while_that_is_not_the_same_for_all() {
        for (class, least, most) in [
            (CriticalPlus, 1, 3),
            (Critical, 1, 3),
            (SheddablePlus, 2, 6),
            (Sheddable, 4, 12),
        ] {
            let pauses: Vec<Duration> = (0..100_000).map(|chance| pause(class, chance)).collect();
            assert_eq!(pauses.iter().min(), Some(&Duration::from_secs(least)));
            assert_eq!(pauses.iter().max(), Some(&Duration::from_secs(most)));
        }
    }
}
