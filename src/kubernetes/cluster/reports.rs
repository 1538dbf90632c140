//! What is said of objects that are not well, and when: the decisions behind Events, without I/O.
//!
//! A complaint about an object is said once. While it stays it is said again every 30 min, because the API server forgets Events
//! after an hour. One that goes and comes back is said again, but no sooner than a minute after the last time, and as a
//! repetition of the same Event: an object that flaps has one Event with a count, not a thousand.
//!
//! How many there may be at once, and per second ([`report`](super::report)), has a bound. What is beyond is not said as an Event; it is on
//! the admin listener and in the metrics all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::kubernetes::index::Complaint;
use crate::kubernetes::objects::Key;

/// When a complaint that stays is said again.
const REPEAT: Duration = Duration::from_secs(30 * 60);

/// The least time from one saying to the next.
const APART: Duration = Duration::from_secs(60);

/// Complaints that are kept in mind.
const MAX_KNOWN: usize = 4096;

/// What to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of which object.
    pub key: Key,
    /// What is wrong with it.
    pub complaint: Complaint,
    /// How often it was said, this time included.
    pub count: u32,
}

/// What was said, and what is to be said.
#[derive(Debug, Default)]
pub struct Reports {
    known: BTreeMap<Key, Vec<Known>>,
    len: usize,
}

#[derive(Debug)]
struct Known {
    complaint: Complaint,
    /// Whether it is so now.
    holds: bool,
    /// When it was said last, and how often.
    said: Option<(Instant, u32)>,
    /// It went and came back since.
    is_back: bool,
}

impl Known {
    /// When it is to be said; none: not as things are.
    fn due(&self) -> Option<Option<Instant>> {
        self.holds.then(|| {
            self.said
                .map(|(at, _)| at + if self.is_back { APART } else { REPEAT })
        })
    }
}

impl Reports {
    /// This, and nothing else, is wrong with an object now.
    pub fn found(&mut self, key: Key, complaints: &[Complaint], now: Instant) {
        let known = self.known.entry(key.clone()).or_default();
        let before = known.len();
        for one in known.iter_mut() {
            let holds = complaints.contains(&one.complaint);
            one.is_back |= holds && !one.holds;
            one.holds = holds;
        }
        known.retain(|one| one.holds || one.said.is_some_and(|(at, _)| now < at + REPEAT));
        for complaint in complaints {
            let is_known = known.iter().any(|one| one.complaint == *complaint);
            if !is_known && self.len + known.len() < MAX_KNOWN + before {
                known.push(Known {
                    complaint: complaint.clone(),
                    holds: true,
                    said: None,
                    is_back: false,
                });
            }
        }
        self.len = self.len + known.len() - before;
        if known.is_empty() {
            self.known.remove(&key);
        }
    }

    /// What to say now, if anything. It stays to be said until [`said`](Self::said).
    pub fn next(&mut self, now: Instant) -> Option<Report> {
        self.known.iter().find_map(|(key, known)| {
            let one = known
                .iter()
                .find(|one| one.due().is_some_and(|due| due.is_none_or(|due| due <= now)))?;
            Some(Report {
                key: key.clone(),
                complaint: one.complaint.clone(),
                count: one.said.map_or(1, |(_, count)| count.saturating_add(1)),
            })
        })
    }

    /// A report was said.
    pub fn said(&mut self, report: &Report, now: Instant) {
        for one in self.known.get_mut(&report.key).into_iter().flatten() {
            if one.complaint == report.complaint {
                one.said = Some((now, report.count));
                one.is_back = false;
            }
        }
    }

    /// When there is something to say again, if nothing is found until then.
    pub fn wait(&self) -> Option<Instant> {
        let all = self.known.values().flatten();
        all.filter_map(|one| one.due().flatten()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Kind;
    use crate::kubernetes::testing::key;

    fn complaint(text: &str) -> Complaint {
        Complaint::new("spec", text)
    }

    /// Says all there is to say; gives the texts with their counts.
    fn say(reports: &mut Reports, now: Instant) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(report) = reports.next(now) {
            said.push(format!("{} {}", report.complaint.reason, report.count));
            reports.said(&report, now);
        }
        said
    }

    #[test]
    fn what_is_wrong_is_said_once_and_again_while_it_stays() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut reports, web) = (Reports::default(), key(Kind::Ingress, "n", "web"));
        reports.found(web.clone(), &[complaint("a"), complaint("b")], start);
        assert_eq!(say(&mut reports, start), ["a 1", "b 1"]);
        reports.found(web.clone(), &[complaint("a"), complaint("b")], at(1));
        assert_eq!(say(&mut reports, at(1)), [""; 0], "the same again is no news");
        reports.found(web.clone(), &[complaint("a"), complaint("c")], at(2));
        assert_eq!(say(&mut reports, at(2)), ["c 1"]);
        assert_eq!(reports.wait(), Some(start + REPEAT));
        assert_eq!(say(&mut reports, start + REPEAT), ["a 2"]);
        reports.found(web, &[], at(4000));
        assert_eq!((say(&mut reports, at(9000)).len(), reports.wait()), (0, None));
    }

    #[test]
    fn what_flaps_is_one_report_that_is_repeated_with_measure() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut reports, web) = (Reports::default(), key(Kind::Ingress, "n", "web"));
        let mut said = Vec::new();
        for second in 0..120 {
            let wrong = [complaint("a")];
            reports.found(
                web.clone(),
                if second % 2 == 0 { &wrong } else { &[] },
                at(second),
            );
            said.extend(say(&mut reports, at(second)));
        }
        assert_eq!(said, ["a 1", "a 2"]);
    }

    #[test]
    fn what_is_not_said_is_tried_again_and_what_is_gone_is_forgotten() {
        let now = Instant::now();
        let (mut reports, web) = (Reports::default(), key(Kind::Ingress, "n", "web"));
        reports.found(web.clone(), &[complaint("a")], now);
        assert_eq!(reports.next(now), reports.next(now));
        reports.found(web.clone(), &[], now);
        assert_eq!(
            (reports.next(now), reports.known.len(), reports.len),
            (None, 0, 0)
        );
        for number in 0..2 * MAX_KNOWN {
            let key = key(Kind::Ingress, "n", &format!("i{number}"));
            reports.found(key, &[complaint("a")], now);
        }
        assert_eq!(reports.len, MAX_KNOWN);
    }
}
