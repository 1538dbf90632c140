//! Tests of what is counted.

use super::*;

fn record(backend: &BackendMetrics, worker: usize, outcome: Outcome, status: u16) {
    backend.record(worker, outcome, status, 1000, Some(400), 10, 20);
}

#[test]
fn shards_add_up_over_threads() {
    const WORKERS: usize = 4;
    const EACH: u64 = 20_000;
    let metrics = Metrics::new(WORKERS);
    let backend = metrics.backend("web");
    let listener = metrics.listener("http");
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (backend, listener) = (&backend, &listener);
            scope.spawn(move || {
                for number in 0..EACH {
                    let (outcome, status) = if number % 4 == 0 {
                        (Outcome::ConnectRefused, 503)
                    } else {
                        (Outcome::Answered, 200)
                    };
                    record(backend, worker, outcome, status);
                    backend.retry(worker);
                    backend.ejected(2);
                    listener.connection_opened(worker);
                    if number % 2 == 0 {
                        // Connections may end on another worker than they began.
                        listener.connection_closed(worker);
                    }
                }
            });
        }
        // Readers meanwhile see sums that only grow.
        let mut last = 0;
        while last < WORKERS as u64 * EACH {
            let now = backend.totals().requests();
            assert!(now >= last);
            last = now;
        }
    });
    let all = WORKERS as u64 * EACH;
    let totals = backend.totals();
    assert_eq!((totals.requests(), totals.failures()), (all, all / 4));
    assert_eq!(
        totals.exchanges.iter().filter(|(_, _, count)| *count > 0).count(),
        2
    );
    assert_eq!(
        (totals.duration.count(), totals.duration.sum_us()),
        (all, all * 1000)
    );
    assert_eq!((totals.head.count(), totals.head.sum_us()), (all, all * 400));
    assert_eq!(
        (totals.request_bytes, totals.response_bytes),
        (all * 10, all * 20)
    );
    assert_eq!((totals.retries, totals.ejections()), (all, all));
    assert_eq!(
        (listener.totals().opened, listener.totals().open()),
        (all, all / 2)
    );
}

#[test]
fn a_class_for_every_status() {
    for (status, class) in [
        (0, "none"),
        (99, "none"),
        (101, "1xx"),
        (204, "2xx"),
        (304, "3xx"),
        (499, "4xx"),
        (599, "5xx"),
        (600, "5xx"),
        (u16::MAX, "5xx"),
    ] {
        assert_eq!(CLASSES[class_of(status)], class, "{status}");
    }
}

#[test]
fn a_5xx_of_an_endpoint_is_a_failure_and_a_client_that_left_is_none() {
    let metrics = Metrics::new(1);
    let backend = metrics.backend("web");
    for (outcome, status, failures) in [
        (Outcome::Answered, 200, 0),
        (Outcome::Answered, 404, 0),
        (Outcome::Answered, 500, 1),
        (Outcome::ClientGone, 200, 1),
        (Outcome::UpstreamTruncated, 200, 2),
        (Outcome::Internal, 0, 3),
    ] {
        record(&backend, 0, outcome, status);
        assert_eq!(backend.totals().failures(), failures, "{outcome:?} {status}");
    }
}

#[test]
fn one_handle_per_name() {
    let metrics = Metrics::new(2);
    assert!(Arc::ptr_eq(&metrics.backend("a"), &metrics.backend("a")));
    assert!(!Arc::ptr_eq(&metrics.backend("a"), &metrics.backend("b")));
    assert!(Arc::ptr_eq(&metrics.backend(""), &metrics.no_backend()));
    assert!(Arc::ptr_eq(&metrics.listener("a"), &metrics.listener("a")));
}

#[test]
fn names_are_bounded_and_room_comes_back() {
    let metrics = Metrics::new(1);
    let mut held: Vec<_> = (0..MAX_CHILDREN)
        .map(|number| metrics.backend(&format!("backend-{number}")))
        .collect();
    let (one_more, another) = (metrics.backend("one-more"), metrics.backend("another"));
    assert_eq!((one_more.name(), another.name()), (OTHER, OTHER));
    assert_eq!(metrics.totals().backends.len(), 1 + MAX_CHILDREN + 1);
    // A name that has a child keeps it.
    assert_eq!(metrics.backend("backend-7").name(), "backend-7");

    record(&held[3], 0, Outcome::Answered, 200);
    held.remove(3);
    assert_eq!(metrics.backend("one-more").name(), "one-more");
    assert_eq!(metrics.totals().retired.requests(), 1);
}

#[test]
fn what_nobody_holds_is_told_once_more_and_then_gone() {
    let metrics = Metrics::new(1);
    let names = |totals: &Totals| {
        totals
            .backends
            .iter()
            .map(|backend| backend.name.to_string())
            .collect::<Vec<_>>()
    };
    let backend = metrics.backend("gone");
    let kept = metrics.backend("kept");
    record(&backend, 0, Outcome::Answered, 200);
    assert_eq!(names(&metrics.scrape()), ["", "gone", "kept"]);
    record(&backend, 0, Outcome::Answered, 200);
    drop(backend);

    let last = metrics.scrape();
    assert_eq!(names(&last), ["", "gone", "kept"]);
    assert_eq!(last.backends[1].requests(), 2);
    // Who only looks drops nothing.
    assert_eq!(names(&metrics.totals()), ["", "gone", "kept"]);

    let after = metrics.scrape();
    assert_eq!(names(&after), ["", "kept"]);
    assert_eq!(after.retired.requests(), 2);
    drop(kept);
}

#[test]
fn one_that_comes_back_in_time_keeps_its_counts() {
    let metrics = Metrics::new(1);
    record(&metrics.backend("web"), 0, Outcome::Answered, 200);
    metrics.scrape();
    let again = metrics.backend("web");
    metrics.scrape();
    metrics.scrape();
    assert_eq!(again.totals().requests(), 1);
}

#[test]
fn a_backend_without_traffic_has_no_shards() {
    let metrics = Metrics::new(64);
    let backend = metrics.backend("idle");
    assert_eq!(backend.shards.each().count(), 0);
    record(&backend, 63, Outcome::Answered, 200);
    assert_eq!(backend.shards.each().count(), 1);
    // No worker has this number; it is counted, not a panic.
    record(&backend, 64, Outcome::Answered, 200);
    assert_eq!(
        (backend.shards.each().count(), backend.totals().requests()),
        (1, 2)
    );
    assert!(
        size_of::<shard::BackendShard>() <= 5120,
        "{}",
        size_of::<shard::BackendShard>()
    );
}
