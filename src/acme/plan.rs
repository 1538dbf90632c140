//! What to do now, and when to look again: pure, `now` is an argument (seconds since 1970).
//!
//! # When a certificate is renewed
//! Where the authority says when (RFC 9773): at a point of its window that is chosen evenly. Else at 2/3 of its life, less
//! up to 1/30 of it, so that what was got together is not renewed together. The point is drawn from the name and the
//! certificate itself ([`spread`]), so that replicas and restarts agree on it. Two bounds hold whatever the window says: a
//! certificate is renewed before the last tenth of its life, and not within its first hour (or third, if it lives for
//! less), so that a window which lies in the past for every new certificate leads to no storm.
//!
//! # After a failure
//! Two kinds. *Unwell*: the authority cannot be reached or has an error of its own; nothing was counted there, so the pause
//! begins short and ends at 15 min. *Refused*: it has said no, and counts that; the pause begins at 5 min and ends at 6 h.
//! Both double with each failure in a row and are stretched by up to a quarter. `Retry-After` goes before both if it is
//! later; one that comes with a refusal for too many requests holds back all names, because such limits are per account.
//!
//! # How many
//! At most [`MAX_RUNNING`] orders at once, [`MAX_PER_WINDOW`] begun in [`WINDOW`] seconds. Names without a certificate go
//! first, then those whose certificate ends first.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::model::ManagedName;
use crate::model::acme::Pace;

/// Orders at once.
pub const MAX_RUNNING: usize = 4;
/// Orders begun in [`WINDOW`]; Let's Encrypt allows 300 in three hours.
pub const MAX_PER_WINDOW: usize = 50;
/// The time over which begun orders are counted, in seconds.
pub const WINDOW: u64 = 1800;
/// The longest pause after a failure of the authority's own.
const LONGEST_UNWELL: Duration = Duration::from_secs(900);
/// The longest pause after a refusal.
const LONGEST_REFUSED: Duration = Duration::from_secs(6 * 3600);
/// A failure that lies further ahead than this, in seconds, was noted by a clock that was wrong, and counts no more.
const SKEW: u64 = 3600;
/// The longest that an authority's `Retry-After` holds, in seconds.
const LONGEST_TOLD: u64 = 86_400 + 1;
/// A certificate that was just got is not renewed, whatever the authority's window says. In seconds.
const FRESH: u64 = 3600;

/// From when to when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// From.
    pub from: u64,
    /// Until.
    pub until: u64,
}

/// What is remembered of a name beside its certificate; it is in the store, and so outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notes {
    /// Failures in a row.
    pub failures: u32,
    /// The last one.
    pub failure: Option<Failure>,
    /// When the authority wants the certificate renewed.
    pub window: Option<Window>,
}

/// An order that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// When.
    pub at: u64,
    /// Whether the authority has said no, and not only failed or been away.
    pub refused: bool,
    /// In words.
    pub why: String,
    /// Nothing is tried before this.
    pub not_before: u64,
}

/// When the authority wants a certificate renewed (RFC 9773).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The end of the certificate that it is about: of another one it says nothing.
    pub about: u64,
    /// The first moment.
    pub start: u64,
    /// The last moment. Before `start`: the authority says nothing of this certificate.
    pub end: u64,
    /// When to ask again.
    pub ask_again: u64,
}

/// A name, as it stands.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a ManagedName,
    /// Of its certificate; none: there is none that is good.
    pub life: Option<Life>,
    /// What is remembered.
    pub notes: &'a Notes,
    /// Whether something is under way for it.
    pub busy: bool,
}

/// What to do for one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Order a certificate.
    Order,
    /// Ask when to renew.
    Ask,
    /// Nothing, until then.
    Wait(u64),
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names to order for.
    pub order: Vec<ManagedName>,
    /// Names to ask for when to renew.
    pub ask: Vec<ManagedName>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty() && self.ask.is_empty()
    }
}

/// What to do now for all names. `held_until`: the account is to be quiet until then. `begun`: when orders were begun.
pub fn plan<'a>(
    entries: impl Iterator<Item = Entry<'a>>,
    begun: &[u64],
    held_until: u64,
    pace: &Pace,
    now: u64,
) -> Plan {
    if now < held_until {
        return Plan::default();
    }
    let mut plan = Plan::default();
    let mut running = 0;
    let mut due: BTreeSet<(u64, &ManagedName)> = BTreeSet::new();
    for entry in entries {
        if entry.busy {
            running += 1;
            continue;
        }
        match next(&entry, pace, now) {
            Next::Order => {
                due.insert((entry.life.map_or(0, |life| life.until), entry.name));
            }
            Next::Ask => plan.ask.push(entry.name.clone()),
            Next::Wait(_) => {}
        }
    }
    let recent = begun.iter().filter(|at| **at + WINDOW > now).count();
    let room = MAX_RUNNING
        .saturating_sub(running)
        .min(MAX_PER_WINDOW.saturating_sub(recent));
    plan.order = due.into_iter().map(|(_, name)| name.clone()).take(room).collect();
    plan.ask
        .truncate(MAX_RUNNING.saturating_sub(running + plan.order.len()));
    plan
}

/// What to do for one name.
pub fn next(entry: &Entry<'_>, pace: &Pace, now: u64) -> Next {
    let due = entry
        .life
        .map_or(0, |life| renewal(entry.name, life, entry.notes.window));
    let at = due.max(earliest_try(entry.name, entry.notes, pace, now));
    if at <= now {
        return Next::Order;
    }
    let Some(life) = entry.life else {
        return Next::Wait(at);
    };
    let known = entry.notes.window.filter(|window| window.about == life.until);
    let ask = known.map_or(0, |window| window.ask_again);
    match ask.min(now.saturating_add(LONGEST_TOLD)) {
        ask if ask <= now => Next::Ask,
        ask => Next::Wait(at.min(ask)),
    }
}

/// Before when nothing is tried because the last try has failed.
pub fn earliest_try(name: &ManagedName, notes: &Notes, pace: &Pace, now: u64) -> u64 {
    let failure = notes.failure.as_ref();
    let failure = failure.filter(|failure| failure.at <= now.saturating_add(SKEW));
    failure.map_or(0, |failure| {
        let told = failure.not_before.min(failure.at.saturating_add(LONGEST_TOLD));
        let share = spread(name, failure.at);
        let pause = pause(notes.failures, failure.refused, pace, share);
        failure.at.saturating_add(pause).max(told)
    })
}

/// When a certificate is renewed.
pub fn renewal(name: &ManagedName, life: Life, window: Option<Window>) -> u64 {
    let length = life.until.saturating_sub(life.from);
    let share = spread(name, life.from);
    let own = life.from + length / 3 * 2 - scaled(length / 30, share);
    let told = window.filter(|window| window.about == life.until && window.start <= window.end);
    let Some(told) = told else {
        return own;
    };
    let wanted = told
        .start
        .saturating_add(scaled(told.end.saturating_sub(told.start), share));
    let earliest = life.from + FRESH.min(length / 3);
    let latest = life.until.saturating_sub(length / 10);
    wanted.clamp(earliest.min(latest), latest)
}

/// How long nothing is tried after so many failures in a row, in seconds.
pub fn pause(failures: u32, refused: bool, pace: &Pace, share: f64) -> u64 {
    let (first, longest) = match refused {
        true => (pace.refused, LONGEST_REFUSED),
        false => (pace.unwell, LONGEST_UNWELL),
    };
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let seconds = doubled.min(longest).as_secs();
    seconds + scaled(seconds / 4, share)
}

/// A number from 0 to 1 that is the same wherever it is asked for, and another for each name and moment.
pub fn spread(name: &ManagedName, at: u64) -> f64 {
    let hash = digest::digest(&digest::SHA256, format!("{name} {at}").as_bytes());
    let bytes = hash.as_ref().first_chunk::<4>().copied().unwrap_or_default();
    f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

fn scaled(seconds: u64, share: f64) -> u64 {
    (seconds as f64 * share) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const LIFE: Life = Life {
        from: 1000 * DAY,
        until: 1090 * DAY,
    };

    fn name(text: &str) -> ManagedName {
        ManagedName::parse(text).unwrap()
    }

    fn window(start: u64, end: u64) -> Window {
        Window {
            about: LIFE.until,
            start,
            end,
            ask_again: u64::MAX,
        }
    }

    #[test]
    fn renewal_is_at_two_thirds_or_when_the_authority_says_so() {
        let of_another = Window {
            about: 7,
            ..window(0, 5)
        };
        for (told, from, to) in [
            (None, 1057 * DAY, 1060 * DAY),
            (Some(window(1030 * DAY, 1032 * DAY)), 1030 * DAY, 1032 * DAY),
            // In the past: at once, but not within the first hour.
            (Some(window(0, 5)), 1000 * DAY + 3600, 1000 * DAY + 3600),
            // Too late: before the last tenth.
            (Some(window(2000 * DAY, u64::MAX)), 1081 * DAY, 1081 * DAY),
            // It says nothing, or is about another certificate.
            (Some(window(5, 0)), 1057 * DAY, 1060 * DAY),
            (Some(of_another), 1057 * DAY, 1060 * DAY),
        ] {
            for name in ["a.example", "b.example", "c.example"].map(name) {
                let at = renewal(&name, LIFE, told);
                assert!((from..=to).contains(&at), "{told:?}: {at} not in {from}..={to}");
                assert_eq!(
                    at,
                    renewal(&name, LIFE, told),
                    "the same wherever it is asked for"
                );
            }
        }
        let short = Life { from: 0, until: 60 };
        let past = Window {
            about: 60,
            start: 0,
            end: 0,
            ask_again: 0,
        };
        assert_eq!(renewal(&name("a.example"), short, Some(past)), 20);
    }

    #[test]
    fn pauses_double_within_bounds_and_by_kind() {
        let pace = Pace::default();
        for (failures, refused, least, most) in [
            (1, false, 10, 12),
            (2, false, 20, 25),
            (30, false, 900, 1125),
            (u32::MAX, false, 900, 1125),
            (1, true, 300, 375),
            (3, true, 1200, 1500),
            (u32::MAX, true, 21_600, 27_000),
        ] {
            for share in [0.0, 0.5, 0.999] {
                let pause = pause(failures, refused, &pace, share);
                assert!((least..=most).contains(&pause), "{failures} {refused}: {pause}");
            }
        }
        // No more than five refusals of a name in an hour.
        let (mut at, mut tries) = (0, 0);
        while at < 3600 {
            tries += 1;
            at += pause(tries, true, &pace, 0.0);
        }
        assert!(tries <= 5, "{tries}");
    }

    fn failed(at: u64, not_before: u64) -> Notes {
        Notes {
            failures: 1,
            failure: Some(Failure {
                at,
                refused: true,
                why: String::new(),
                not_before,
            }),
            window: None,
        }
    }

    #[test]
    fn what_is_next_for_a_name() {
        let none = Notes::default();
        let told = Notes {
            window: Some(window(1060 * DAY, 1060 * DAY)),
            ..Notes::default()
        };
        let now = 1010 * DAY;
        for (life, notes, now, expected) in [
            (None, &none, now, "order"),
            (Some(LIFE), &none, now, "ask"),
            (Some(LIFE), &told, now, "wait"),
            (Some(LIFE), &told, 1060 * DAY, "order"),
            (Some(LIFE), &none, 1061 * DAY, "order"),
            (None, &failed(now, 0), now + 299, "wait"),
            (None, &failed(now, 0), now + 376, "order"),
            (None, &failed(now, now + 5000), now + 4999, "wait"),
            (None, &failed(now, now + 5000), now + 5000, "order"),
            // Nobody is held back for ever, and no failure of the future counts.
            (None, &failed(now, u64::MAX), now + DAY, "wait"),
            (None, &failed(now, u64::MAX), now + DAY + 1, "order"),
            (None, &failed(now + 3600, 0), now, "wait"),
            (None, &failed(now + 3601, 0), now, "order"),
            // While a renewal that failed waits for its next try, the authority may still be asked when it is wanted.
            (Some(LIFE), &failed(1060 * DAY, 0), 1060 * DAY + 1, "ask"),
        ] {
            let entry = Entry {
                name: &name("a.example"),
                life,
                notes,
                busy: false,
            };
            let found = match next(&entry, &Pace::default(), now) {
                Next::Order => "order",
                Next::Ask => "ask",
                Next::Wait(until) => {
                    assert!(until > now);
                    "wait"
                }
            };
            assert_eq!(found, expected, "{life:?} {notes:?} {now}");
        }
    }

    #[test]
    fn few_at_once_the_most_urgent_first_and_none_while_held() {
        let none = Notes::default();
        let names: Vec<_> = (0..9).map(|number| name(&format!("n{number}.example"))).collect();
        let order = |busy: usize, begun: &[u64], held| {
            let entries = names.iter().enumerate().map(|(at, name)| Entry {
                name,
                // The last one has no certificate, the others end one after the other, and all are due.
                life: (at < 8).then(|| Life {
                    from: 0,
                    until: 100 - at as u64,
                }),
                notes: &none,
                busy: at < busy,
            });
            let plan = plan(entries, begun, held, &Pace::default(), 1_000_000);
            assert!(plan.ask.is_empty());
            plan.order.iter().map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            order(0, &[], 0),
            ["n8.example", "n7.example", "n6.example", "n5.example"]
        );
        assert_eq!(order(3, &[], 0), ["n8.example"]);
        assert_eq!(order(4, &[], 0), [""; 0]);
        assert_eq!(order(0, &[], 1_000_001), [""; 0]);
        assert_eq!(order(0, &[999_999; MAX_PER_WINDOW - 1], 0), ["n8.example"]);
        assert_eq!(order(0, &[1; MAX_PER_WINDOW], 0).len(), 4, "long ago");
    }
}
