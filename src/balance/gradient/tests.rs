//! The gradient with backends in virtual time: it finds their limit, and loses it again.

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
