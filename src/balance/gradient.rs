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
mod tests {
    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;
    use crate::model::AdaptiveConcurrency;

    /// A backend that works on so many at once, each taking so long; the rest waits inside it.
    #[derive(Clone, Copy, Debug)]
    struct Backend {
        cores: f32,
        service_us: f32,
        noise: Noise,
    }

    /// How answers differ from their mean.
    #[derive(Clone, Copy, Debug)]
    enum Noise {
        Exponential,
        /// By the deviation of the logarithm.
        LogNormal(f32),
        /// One in fifty takes a hundred times as long.
        Rare,
    }

    impl Noise {
        fn draw(self, rng: &mut Rng) -> f32 {
            match self {
                Self::Exponential => -(1.0 - rng.f32()).ln(),
                Self::LogNormal(deviation) => {
                    let normal =
                        (-2.0 * (1.0 - rng.f32()).ln()).sqrt() * (std::f32::consts::TAU * rng.f32()).cos();
                    (deviation * normal - deviation * deviation / 2.0).exp()
                }
                Self::Rare if rng.u8(..50) == 0 => 100.0,
                Self::Rare => 1.0,
            }
        }
    }

    impl Backend {
        fn new(cores: f32, service_us: f32) -> Self {
            Self {
                cores,
                service_us,
                noise: Noise::Exponential,
            }
        }

        /// Answers per second at the most.
        fn capacity(self) -> f32 {
            self.cores * 1e6 / self.service_us
        }

        /// A window of so much demand, with the limit as it is.
        fn window(self, gradient: &Gradient, demand: f32, rng: &mut Rng) -> Window {
            let limit = gradient.limit.floor();
            let wanted = demand * self.service_us / 1e6;
            // In flight is what Little's law says; without a limit, an overload fills any.
            let in_flight = if demand < self.capacity() {
                wanted
            } else {
                f32::MAX
            };
            let kept = in_flight.min(limit).max(1.0);
            let latency_us = self.service_us * (kept / self.cores).max(1.0);
            let rate = kept * 1e6 / latency_us;
            let answers = ((rate * gradient.window_us() as f32 / 1e6) as u32).max(ENOUGH);
            let seen = answers.min(3000);
            let sum: u64 = (0..seen)
                .map(|_| log2((latency_us * self.noise.draw(rng)) as u64))
                .sum();
            Window {
                answers,
                latency: sum as f32 / 256.0 / seen as f32,
                peak: kept.ceil() as u32,
                full: in_flight > limit,
            }
        }

        /// So many seconds of so much demand; the least and the greatest limit of the second half of it.
        fn play(self, gradient: &mut Gradient, demand: f32, seconds: f32, rng: &mut Rng) -> (f32, f32) {
            let (mut least, mut most, mut time) = (f32::MAX, 0.0_f32, 0.0);
            while time < seconds {
                time += gradient.window_us() as f32 / 1e6;
                let window = self.window(gradient, demand, rng);
                *gradient = gradient.after(window, &bounds());
                if time > seconds / 2.0 {
                    least = least.min(gradient.limit);
                    most = most.max(gradient.limit);
                }
            }
            (least, most)
        }
    }

    fn bounds() -> Bounds {
        Bounds::of(Concurrency::Adaptive(AdaptiveConcurrency::default()))
    }

    fn started(backend: Backend, rng: &mut Rng) -> Gradient {
        let mut gradient = Gradient::new(&bounds());
        backend.play(&mut gradient, backend.capacity() * 0.5, 20.0, rng);
        gradient
    }

    #[test]
    fn logarithms_are_monotone_and_come_back() {
        let mut last = 0;
        for latency in (1..100_000).chain([1 << 30, 1 << 40, u64::MAX]) {
            let log = log2(latency);
            assert!(log >= last && log < 1 << 14, "{latency}");
            last = log;
            let back = latency_us(log as f32 / 256.0);
            let latency = latency.min(1 << 40) as f32;
            assert!((back / latency - 1.0).abs() < 0.005, "{latency}: {back}");
        }
        assert_eq!(log2(0), 0);
    }

    #[test]
    fn a_fixed_limit_stays() {
        let bounds = Bounds::of(Concurrency::Fixed(7));
        let mut gradient = Gradient::new(&bounds);
        for latency in [10.0, 10.0, 20.0, 30.0, 5.0] {
            let window = Window {
                answers: 1000,
                latency,
                peak: 7,
                full: true,
            };
            gradient = gradient.after(window, &bounds);
            assert_eq!(gradient.limit, 7.0);
        }
    }

    #[test]
    fn the_limit_is_found_under_any_overload() {
        // Cores, service in ms, times its capacity.
        for (cores, service, overload) in [
            (4.0, 10.0, 1.2),
            (40.0, 10.0, 2.0),
            (40.0, 10.0, 10.0),
            (40.0, 1000.0, 2.0),
            (200.0, 5.0, 2.0),
            (2000.0, 50.0, 1.5),
        ] {
            let mut rng = Rng::with_seed(1);
            let backend = Backend::new(cores, service * 1000.0);
            let mut gradient = started(backend, &mut rng);
            let (least, most) = backend.play(&mut gradient, backend.capacity() * overload, 120.0, &mut rng);
            // Not idle, and not slower by much more than the tolerance.
            let case = format!("{cores} cores, {service} ms, {overload}: {least}..{most}");
            assert!(least >= cores * 0.95, "{case}");
            // Half as much again is tried once in a while.
            assert!(most <= (cores * 2.1).max(32.0) * MORE, "{case}");
        }
    }

    #[test]
    fn an_overload_of_an_hour_moves_nothing() {
        let mut rng = Rng::with_seed(2);
        let backend = Backend::new(50.0, 20_000.0);
        let mut gradient = started(backend, &mut rng);
        let before = gradient.usual;
        let (least, most) = backend.play(&mut gradient, backend.capacity() * 3.0, 3600.0, &mut rng);
        assert!(least > 50.0 && most < 110.0 * MORE, "{least}..{most}");
        assert!(
            (gradient.usual - before).abs() < 0.6,
            "{before} {}",
            gradient.usual
        );
    }

    #[test]
    fn noise_does_not_make_it_collapse() {
        for noise in [
            Noise::Exponential,
            Noise::LogNormal(1.0),
            Noise::LogNormal(1.5),
            Noise::Rare,
        ] {
            let mut rng = Rng::with_seed(3);
            let backend = Backend {
                noise,
                ..Backend::new(1000.0, 20_000.0)
            };
            let mut gradient = started(backend, &mut rng);
            // Demand of 200 in flight, far below what it can do.
            let (least, _) = backend.play(&mut gradient, 10_000.0, 600.0, &mut rng);
            assert!(least >= 200.0, "{noise:?}: {least}");
        }
    }

    #[test]
    fn a_backend_that_became_slower_by_itself_is_not_strangled() {
        let mut rng = Rng::with_seed(4);
        let mut backend = Backend::new(10_000.0, 20_000.0);
        let mut gradient = started(backend, &mut rng);
        // 200 in flight.
        backend.play(&mut gradient, 10_000.0, 60.0, &mut rng);
        // Three times as slow, so 600 in flight; nothing of it is a queue.
        backend.service_us *= 3.0;
        let (least, _) = backend.play(&mut gradient, 10_000.0, 20.0, &mut rng);
        assert!(least >= 600.0, "{least}");
    }

    #[test]
    fn half_of_the_backend_gone_is_an_overload_and_its_return_is_used() {
        let mut rng = Rng::with_seed(5);
        let backend = Backend::new(100.0, 10_000.0);
        let mut gradient = started(backend, &mut rng);
        let demand = backend.capacity() * 0.8;
        backend.play(&mut gradient, demand, 60.0, &mut rng);
        let half = Backend {
            cores: 50.0,
            ..backend
        };
        let (least, most) = half.play(&mut gradient, demand, 60.0, &mut rng);
        assert!(least >= 47.0 && most <= 105.0 * MORE, "{least}..{most}");
        let (least, _) = backend.play(&mut gradient, demand, 10.0, &mut rng);
        assert!(least >= 80.0, "{least}");
    }

    #[test]
    fn a_start_under_load_does_not_take_long() {
        let mut rng = Rng::with_seed(6);
        let backend = Backend::new(5000.0, 100_000.0);
        let mut gradient = Gradient::new(&bounds());
        // 2000 in flight are wanted from the first moment.
        backend.play(&mut gradient, 20_000.0, 3.0, &mut rng);
        assert!(gradient.limit >= 2000.0, "{gradient:?}");
    }

    proptest! {
        // Each plays three minutes of traffic.
        #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_limit_stays_within_its_bounds_and_recovers(
            windows in prop::collection::vec((1_u32..10_000, 0.0_f32..30.0, 0_u32..20_000, any::<bool>()), 1..300),
        ) {
            let bounds = bounds();
            let mut gradient = Gradient::new(&bounds);
            for (answers, latency, peak, full) in windows {
                gradient = gradient.after(Window { answers, latency, peak, full }, &bounds);
                prop_assert!((bounds.min..=bounds.max).contains(&gradient.limit), "{gradient:?}");
                prop_assert!((SHORTEST_US..=LONGEST_US).contains(&gradient.window_us()));
            }
            // Whatever was, a backend that answers evenly is given what is asked for.
            let backend = Backend::new(100_000.0, 10_000.0);
            let mut rng = Rng::with_seed(7);
            backend.play(&mut gradient, 50_000.0, 180.0, &mut rng);
            prop_assert!(gradient.limit >= 500.0, "{gradient:?}");
        }
    }
}
