//! The gradient: how many requests a backend can have at once before its answers become slower. Pure.
//!
//! **Why.** A backend that is given more than it can do answers no faster for it: what it cannot work on waits inside it,
//! until clients have given up on the answers that it still works on. Then it is busy and of no use. A limit on what is in
//! flight keeps the excess out, where it can be refused at once. The right limit changes with every deployment, so it has
//! to find itself. All it needs is the latency of answers.
//!
//! **How.** After Netflix's `Gradient2` (concurrency-limits) and Envoy's adaptive concurrency. At the end of each window:
//!
//! ```text
//! gradient = clamp(tolerance * usual / now, 1/2, 1)                                   tolerance 1.5
//! limit    = limit + weight * (limit * gradient + sqrt(limit) - limit)                weight n / (n + 64)
//! ```
//!
//! `now` is the latency of the last windows, `usual` that of the last minutes, `n` the answers of the window. While answers
//! are as quick as usual, the limit grows by its square root, which is room for chance; when they are slower by more than the
//! tolerance, it falls. It only grows when at least half of it was used. When the backend is full, what is in flight and what an answer
//! takes are proportional (Little's law), so it comes to rest where `now = usual * tolerance / (1 - 1/sqrt(limit))`: with
//! 100 in flight at 1.7 times the usual latency, whatever is asked for.
//!
//! - *Latencies are geometric means* (means of logarithms). A mean is moved by the one answer of a hundred that takes a hundred
//!   times as long; the mean of logarithms is hardly, while a queue moves it as much as any.
//! - *A window lasts two latencies* (100 ms to 5 s), so that it sees what the last step has done; and until it has [`ENOUGH`] answers, up to 5 s.
//!
//! **Drift.** What is usual changes: a slower release, other requests. Envoy measures anew every minute, with the limit pinned to 3: that
//! stalls a busy backend. Gradient2's long mean follows what is now, so under an overload that lasts it drifts up, and the
//! limit with it. Here:
//!
//! - `usual` falls within a second or two (1/16 of the way for each window), because an answer that is quicker is proof.
//! - It rises slowly (1/128), and only by windows in which nobody was kept out: then the limit is not what there is a queue for.
//! - While somebody is kept out, it stands still. Whether answers are slow because of what is in flight is then told by
//!   *what comes of less*: once the limit has fallen by a third, it stays for a window, and a queue would have made answers a third quicker. If they became
//!   quicker by less than a third of that since they were at their slowest, it is not a queue: what is now is usual from now on, and the limit grows again. So a
//!   backend that has become slower by itself costs a third of the limit for some windows and no more.
//! - When somebody has been kept out for [`PATIENCE`] windows on end, half as much again is tried for four windows. If answers take a fifth as much
//!   longer as a queue would have made them, or less, it costs nothing: what is usual rises, by 1/4 of an octave at the most (at `min` by all of it), because chance looks like
//!   that once in a while, too. Otherwise the limit is as before, and what is usual goes back by 1/16, until it is what it was before
//!   anybody was kept out: so what chance has done does not add up.
//!
//! **Start-up**: from [`START`], which is more than most backends need, so that what is usual is learned before anybody is kept out; doubles with
//! each window that uses it, until answers become slower. **Recovery**: the limit grows by its square root in each
//! window that uses it; from 10 to 100 in some 20 windows. **Bounds**: `min` and `max`, which are 10 and 10,000.

use std::time::Duration;

use super::clock::micros;
use crate::model::Concurrency;

/// Where a limit begins, if its bounds allow it.
const START: f32 = 1000.0;
/// Answers of a window that count as much as all that was known: for the limit, and for the latency of now.
const WEIGHT: f32 = 64.0;
const LATENCY_WEIGHT: f32 = 32.0;
/// The least part of itself that a limit is multiplied by.
const LEAST: f32 = 0.5;
/// Part of the way that what is usual falls, and rises, with a window.
const FALL: f32 = 1.0 / 16.0;
const RISE: f32 = 1.0 / 128.0;
/// Part of what is not used that goes with a window, when answers are slow.
const UNUSED: f32 = 1.0 / 16.0;
/// The limit has fallen to this part of itself: time to ask what has come of it.
const TEST: f32 = 2.0 / 3.0;
/// Of what a queue would have given back, this is the least that shows one.
const QUEUE: f32 = 1.0 / 3.0;
/// Windows after which something is known of what is usual.
const YOUNG: u32 = 128;
/// Windows on end in which somebody was kept out, after which more is tried.
const PATIENCE: u32 = 64;
/// So many times the limit is tried, and for so many windows.
const MORE: f32 = 1.5;
const MORE_FOR: u32 = 4;
/// Of what a queue would have cost, this is the least that shows one.
const LONGER: f32 = 0.2;
/// What is usual rises by no more than this, when more has cost nothing.
const STEP: f32 = 0.25;
/// What is usual falls by this, when more has cost time, until it is what it was before anybody was kept out.
const BACK: f32 = 1.0 / 16.0;
/// Answers that a window has, unless it becomes the longest.
pub(super) const ENOUGH: u32 = 64;
/// The shortest and the longest window, and how many latencies it lasts between them.
const SHORTEST_US: u64 = 100_000;
pub(super) const LONGEST_US: u64 = 5_000_000;
const LATENCIES: f32 = 2.0;

/// Between what a limit stays, and what it tolerates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    /// At least 1.
    pub min: f32,
    /// At least `min`.
    pub max: f32,
    /// As a logarithm to the base of 2.
    pub tolerance: f32,
}

/// What was seen in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// Answers; at least 1.
    pub answers: u32,
    /// Mean of the logarithms to the base of 2 of their latencies in microseconds.
    pub latency: f32,
    /// Most in flight.
    pub peak: u32,
    /// Whether somebody was kept out.
    pub full: bool,
}

/// A limit, and what it goes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gradient {
    /// Requests at once; with the fraction that it has grown by.
    pub limit: f32,
    /// The latency of the last windows, as in [`Window::latency`]; none before the first one.
    pub now: Option<f32>,
    /// The latency of the last minutes.
    pub usual: f32,
    /// What was usual when nobody was kept out last.
    pub before_full: f32,
    /// The limit and the latency when the limit began to fall.
    pub fell_from: Option<(f32, f32)>,
    /// Whether it waits for what comes of that.
    pub holds: bool,
    /// Whether it has always grown.
    pub starting: bool,
    /// Windows in which nobody was kept out, up to [`YOUNG`].
    pub seen: u32,
    /// Windows on end in which somebody was kept out; above [`PATIENCE`]: those in which more is tried.
    pub full_for: u32,
}

impl Bounds {
    /// What the configuration says.
    pub fn of(concurrency: Concurrency) -> Self {
        match concurrency {
            // A limit that cannot move.
            Concurrency::Fixed(limit) => Self {
                min: limit.max(1) as f32,
                max: limit.max(1) as f32,
                tolerance: 1.0,
            },
            Concurrency::Adaptive(adaptive) => Self {
                min: adaptive.min.max(1) as f32,
                max: adaptive.max.max(adaptive.min).max(1) as f32,
                tolerance: (adaptive.tolerance_percent.max(101) as f32 / 100.0).log2(),
            },
        }
    }
}

impl Gradient {
    /// Where it begins.
    pub fn new(bounds: &Bounds) -> Self {
        Self {
            limit: START.clamp(bounds.min, bounds.max),
            now: None,
            usual: 0.0,
            before_full: 0.0,
            fell_from: None,
            holds: false,
            starting: true,
            seen: 0,
            full_for: 0,
        }
    }

    /// After one more window.
    pub fn after(self, window: Window, bounds: &Bounds) -> Self {
        let answers = window.answers.max(1) as f32;
        let weight = answers / (answers + WEIGHT);
        let Some(before) = self.now else {
            return Self {
                now: Some(window.latency),
                usual: window.latency,
                before_full: window.latency,
                ..self
            };
        };
        let now = before + answers / (answers + LATENCY_WEIGHT) * (window.latency - before);
        if window.full && self.full_for > PATIENCE {
            return self.with_more(now, bounds);
        }
        if window.full && self.full_for == PATIENCE && self.limit < bounds.max {
            return Self {
                limit: (self.limit * MORE).min(bounds.max),
                now: Some(now),
                fell_from: Some((self.limit, now)),
                holds: false,
                full_for: PATIENCE + 1,
                ..self
            };
        }
        let next = self.learn(now, weight, window, bounds);
        let next = Self {
            before_full: if window.full { self.before_full } else { next.usual },
            full_for: if window.full {
                (self.full_for + 1).min(PATIENCE)
            } else {
                0
            },
            ..next
        };
        let gradient = (bounds.tolerance - (now - next.usual)).exp2().clamp(LEAST, 1.0);
        let used = window.peak as f32;
        let starting = self.starting && now - next.usual < bounds.tolerance / 2.0;
        let wanted = if next.holds {
            self.limit
        } else if gradient < 1.0 {
            let less = self.limit * gradient + self.limit.sqrt();
            // What is not used goes slowly, what is used only if somebody is kept out.
            if window.full {
                less
            } else if self.seen < YOUNG {
                self.limit
            } else {
                let unused = (self.limit - (2.0 * used).max(less)).max(0.0);
                self.limit - unused * UNUSED
            }
        } else if 2.0 * used < self.limit {
            self.limit
        } else if starting {
            2.0 * self.limit
        } else {
            self.limit + self.limit.sqrt()
        };
        Self {
            limit: (self.limit + weight * (wanted - self.limit)).clamp(bounds.min, bounds.max),
            now: Some(now),
            starting,
            ..next
        }
    }

    /// How long the next window lasts, in microseconds.
    pub fn window_us(&self) -> u64 {
        let latency = self.now.map_or(0.0, latency_us);
        ((latency * LATENCIES) as u64).clamp(SHORTEST_US, LONGEST_US)
    }

    /// How many can leave within a time at the pace of now; none before anything is known.
    pub fn leave_within(&self, time: Duration) -> Option<f32> {
        Some(self.limit * micros(time) as f32 / latency_us(self.now?).max(1.0))
    }

    /// After a window in which more is tried.
    fn with_more(self, now: f32, bounds: &Bounds) -> Self {
        let tried = Self {
            now: Some(now),
            full_for: self.full_for + 1,
            ..self
        };
        if tried.full_for <= PATIENCE + MORE_FOR {
            return tried;
        }
        let (from, before) = self.fell_from.unwrap_or((self.limit, now));
        let done = Self {
            fell_from: None,
            full_for: 0,
            ..tried
        };
        if now - before < (self.limit / from).log2() * LONGER {
            // At the least limit there is nothing to lose.
            let step = if from <= bounds.min { f32::MAX } else { STEP };
            let usual = now.min(self.usual + step).max(self.usual);
            return Self { usual, ..done };
        }
        Self {
            limit: from.clamp(bounds.min, bounds.max),
            usual: (self.usual - BACK).max(self.before_full).min(self.usual),
            ..done
        }
    }

    /// What is usual after a window.
    fn learn(self, now: f32, weight: f32, window: Window, bounds: &Bounds) -> Self {
        let excess = now - self.usual;
        let kept = Self {
            fell_from: None,
            holds: false,
            ..self
        };
        if excess <= 0.0 {
            return Self {
                usual: self.usual + weight * FALL * excess,
                ..kept
            };
        }
        if !window.full {
            // The first windows count alike: answers that take long come late, so the very first are quicker than usual.
            let rise = RISE.max(1.0 / (self.seen + 1) as f32);
            return Self {
                usual: self.usual + weight * rise * excess,
                seen: (self.seen + 1).min(YOUNG),
                ..kept
            };
        }
        if excess <= bounds.tolerance {
            return kept;
        }
        // While answers still become slower, nothing can be said.
        let (from, latency) = self
            .fell_from
            .filter(|(_, latency)| now <= *latency)
            .unwrap_or((self.limit, now));
        let is_time = self.limit <= from * TEST;
        let is_queue = latency - now >= (from / self.limit).log2() * QUEUE;
        if self.holds && !is_queue {
            return Self { usual: now, ..kept };
        }
        Self {
            // A queue, so far: what comes of the next third?
            fell_from: Some(if self.holds {
                (self.limit, now)
            } else {
                (from, latency)
            }),
            holds: is_time && !self.holds,
            ..self
        }
    }
}

/// The logarithm to the base of 2 of a latency in microseconds, in units of 1/256: within 0.09 of the true one, because between powers of
/// two it is a straight line. At most 16,383.
pub(super) fn log2(latency_us: u64) -> u64 {
    let bits = (latency_us.clamp(1, 1 << 40) as f32).to_bits();
    u64::from((bits >> 15) - (127 << 8))
}

/// The latency in microseconds that [`log2`] has made this of, in whole units of 1.
pub(super) fn latency_us(log2: f32) -> f32 {
    let octave = log2.floor();
    octave.exp2() * (1.0 + log2 - octave)
}

#[cfg(test)]
mod tests;
