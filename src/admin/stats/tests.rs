//! Tests of the statistics: what is recent, what is told of many.

use std::sync::Arc;

use super::*;
use crate::admin::CertificateView;
use crate::telemetry::Metrics;

/// A view of these backends, without endpoints.
struct Names(Vec<String>);

impl View for Names {
    fn snapshot_generation(&self) -> u64 {
        7
    }

    fn listeners(&self, ask: &Ask) -> Page<ListenerView> {
        ask.answer(
            ["http"].into_iter(),
            |name| name,
            |name| ListenerView {
                name: name.to_owned(),
                address: "127.0.0.1:80".to_owned(),
                ..ListenerView::default()
            },
        )
    }

    fn backends(&self, ask: &Ask) -> Page<BackendView> {
        ask.answer(
            self.0.iter(),
            |name| name,
            |name| BackendView {
                name: name.clone(),
                ..BackendView::default()
            },
        )
    }

    fn routes(&self, ask: &Ask) -> Page<super::super::RouteView> {
        ask.answer(std::iter::empty::<&str>(), |name| name, |_| Default::default())
    }

    fn rejects(&self, ask: &Ask) -> Page<RejectView> {
        ask.answer(std::iter::empty::<&str>(), |name| name, |_| Default::default())
    }

    fn certificates(&self, ask: &Ask) -> Page<CertificateView> {
        ask.answer(
            std::iter::empty::<&str>(),
            |name| name,
            |_| CertificateView::default(),
        )
    }
}

struct World {
    metrics: Arc<Metrics>,
    window: Window,
    start: Instant,
    gates: Gates,
    view: Names,
}

impl World {
    fn new(names: impl IntoIterator<Item = String>) -> Self {
        let window = Window::default();
        let start = window.0.lock().unwrap().older.at;
        Self {
            metrics: Metrics::new(1),
            window,
            start,
            gates: Gates::closed([("snapshot", "nothing read yet")]),
            view: Names(names.into_iter().collect()),
        }
    }

    fn at(&self, second: u64) -> Stats {
        let present = Present {
            now: self.start + Duration::from_secs(second),
            now_unix_us: (1000 + second) * 1_000_000,
            totals: self.metrics.totals(),
            process: ProcessTotals {
                started_unix_seconds: Some(1000.0),
                ..ProcessTotals::default()
            },
            gates: &self.gates,
            view: &self.view,
        };
        stats(&self.window, present)
    }

    fn record(&self, backend: &str, times: u64, outcome: Outcome, status: u16, duration_us: u64) {
        let backend = self.metrics.backend(backend);
        for _ in 0..times {
            backend.record(0, outcome, status, duration_us, Some(100), 0, 0);
        }
    }
}

fn web(stats: &Stats) -> &Counts {
    let web = stats.backends.iter().find(|backend| backend.live.name == "web");
    web.unwrap().counts.as_ref().unwrap()
}

#[test]
fn what_is_recent_is_told_from_two_samples() {
    let world = World::new(["web".to_owned()]);
    let metrics = Arc::clone(&world.metrics);
    let _held = metrics.backend("web");
    world.record("web", 100, Outcome::Answered, 200, 1_000);

    // The first who looks sees all since the start.
    let first = world.at(10);
    assert_eq!(
        (first.window_seconds, web(&first).recent.requests_per_second),
        (10.0, 10.0)
    );
    // The sample of second 10 is the younger; when it is old enough it becomes the older.
    world.record("web", 20, Outcome::ConnectRefused, 503, 50_000);
    let second = world.at(14);
    assert_eq!(second.window_seconds, 4.0);
    let recent = &web(&second).recent;
    assert_eq!(
        (recent.requests_per_second, recent.failures_per_second),
        (5.0, 5.0)
    );
    let p50 = recent.p50_us.unwrap() as f64;
    assert!(
        (p50 - 50_000.0).abs() <= 50_000.0 * crate::telemetry::histogram::MAX_ERROR,
        "{p50}"
    );
    assert_eq!((web(&second).requests, web(&second).failures), (120, 20));

    // A second look within the window begins with the same sample, and nobody's look spoils another's.
    assert_eq!(world.at(15).window_seconds, 5.0);
    assert_eq!(world.at(17).window_seconds, 7.0);
    let quiet = world.at(18);
    assert_eq!(quiet.window_seconds, 4.0);
    assert_eq!(
        (web(&quiet).recent.requests_per_second, web(&quiet).recent.p50_us),
        (0.0, None)
    );
}

#[test]
fn sums_include_what_has_no_backend_or_is_gone() {
    let world = World::new(["web".to_owned()]);
    let _held = world.metrics.backend("web");
    world.record("web", 1, Outcome::Answered, 200, 1);
    world.record("", 2, Outcome::NoRoute, 404, 1);
    world.record("gone", 4, Outcome::UpstreamReset, 502, 1);
    for _ in 0..3 {
        let exposition = crate::telemetry::Exposition::new(Arc::clone(&world.metrics)).unwrap();
        exposition.text().unwrap();
    }
    assert_eq!(world.metrics.totals().backends.len(), 2);
    let stats = world.at(1);
    assert_eq!((stats.all.requests, stats.all.failures), (7, 4));
    assert_eq!(
        stats
            .outcomes
            .iter()
            .map(|outcome| (&*outcome.outcome, outcome.count, outcome.failure))
            .collect::<Vec<_>>(),
        [
            ("upstream_reset", 4, true),
            ("no_route", 2, false),
            ("answered", 1, false)
        ]
    );
}

#[test]
fn of_many_backends_the_busiest_are_told() {
    let names = || (0..300).map(|number| format!("backend-{number:03}"));
    let world = World::new(names());
    let held: Vec<_> = names().map(|name| world.metrics.backend(&name)).collect();
    for (number, backend) in held.iter().enumerate() {
        for _ in 0..number {
            backend.record(0, Outcome::Answered, 200, 1, None, 0, 0);
        }
    }
    let stats = world.at(1);
    assert_eq!((stats.backends_total, stats.backends.len()), (300, MAX_BACKENDS));
    assert_eq!(stats.backends[0].live.name, "backend-200");
    assert_eq!(stats.backends[99].live.name, "backend-299");
}

#[test]
fn listeners_are_told_with_and_without_traffic_or_life() {
    let world = World::new([]);
    assert_eq!(world.at(1).listeners.len(), 1);
    world.metrics.listener("gone").connection_opened(0);
    world.metrics.listener("http").connection_opened(0);
    let told: Vec<_> = world
        .at(1)
        .listeners
        .into_iter()
        .map(|listener| (listener.name, listener.open, listener.live.is_some()))
        .collect();
    assert_eq!(
        told,
        [("gone".to_owned(), 1, false), ("http".to_owned(), 1, true)]
    );
}

#[test]
fn the_snapshot_and_readiness() {
    let world = World::new([]);
    let stats = world.at(5);
    assert!(!stats.ready);
    assert_eq!((stats.uptime_seconds, stats.snapshot.age_seconds), (5.0, None));
    world.metrics.snapshot_published(7, 0, 1_002_000_000);
    world.gates.open("snapshot");
    let stats = world.at(5);
    assert!(stats.ready);
    assert_eq!(
        (stats.snapshot.generation, stats.snapshot.age_seconds),
        (7, Some(3.0))
    );
    // The terminal view reads what is written here.
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), stats);
}
