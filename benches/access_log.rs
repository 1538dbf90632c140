//! What telemetry costs an exchange: its line in the access log, and its counts.
//!
//! Targets on the reference machine: a line at most 400 ns, the counts at most 20 ns.

#![allow(missing_docs)] // criterion's macros

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate::telemetry::access_log::line::{Format, LineWriter};
use tidegate::telemetry::record::Hedge;
use tidegate::telemetry::{AccessLog, ExchangeRecord, Metrics, Outcome, access_log::Target};

/// Lines written without a pause: what 100 000 a second are in 5 ms.
const ROUND: u64 = 500;

fn record() -> ExchangeRecord<'static> {
    ExchangeRecord {
        outcome: Outcome::Answered,
        status: 200,
        version: http::Version::HTTP_11,
        client: ([203, 0, 113, 7], 54321).into(),
        method: &http::Method::GET,
        host: "shop.example.com",
        path: "/api/v2/products/8721/reviews?page=3&sort=newest",
        listener: "default/edge/https",
        route: "HTTPRoute/shop/reviews",
        backend: "shop/reviews:8080",
        identity: "",
        endpoint: Some(([10, 0, 12, 7], 8080).into()),
        attempts: 1,
        hedge: Hedge::None,
        request_bytes: 0,
        response_bytes: 5120,
        started_unix_us: 1_767_607_872_123_456,
        duration_us: 2311,
        head_us: Some(1204),
        user_agent: Some(
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
        ),
        request_id: Some("0198f2c5-7d1f-7b7e-b9a1-64f0c2a4d9e3"),
    }
}

fn lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access_log");
    group.throughput(Throughput::Elements(1));
    for (name, format) in [("json", Format::Json), ("text", Format::Text)] {
        group.bench_function(name, |bencher| {
            let mut writer = LineWriter::new(format);
            let mut out = Vec::with_capacity(32 * 1024);
            let mut record = record();
            bencher.iter(|| {
                if out.len() > 16 * 1024 {
                    out.clear();
                }
                record.started_unix_us += 10;
                writer.write(black_box(&record), &mut out);
            });
        });
    }
    group.bench_function("json_hostile_path", |bencher| {
        let mut writer = LineWriter::new(Format::Json);
        let mut out = Vec::with_capacity(32 * 1024);
        let record = ExchangeRecord {
            path: "/a\"b\\c\u{202e}/\u{1b}[31m/grün/\n127.0.0.1 - - \"GET / HTTP/1.1\" 200",
            ..record()
        };
        bencher.iter(|| {
            if out.len() > 16 * 1024 {
                out.clear();
            }
            writer.write(black_box(&record), &mut out);
        });
    });
    // With the hand-over to the writer, which throws away: what a worker pays in all. The writer gets
    // time between rounds, so that it is not the dropping of lines that is measured.
    group.bench_function("json_handed_over", |bencher| {
        let metrics = Metrics::new(1);
        let target = Target::File("/dev/null".into());
        let Ok(log) = AccessLog::start(Format::Json, target, Arc::clone(&metrics)) else {
            return;
        };
        let mut handle = log.handle();
        let record = record();
        bencher.iter_custom(|lines| {
            let mut spent = Duration::ZERO;
            for _ in 0..lines.div_ceil(ROUND) {
                let start = Instant::now();
                for _ in 0..ROUND {
                    handle.write(black_box(&record));
                }
                spent += start.elapsed();
                std::thread::sleep(Duration::from_millis(5));
            }
            spent.mul_f64(lines as f64 / (lines.div_ceil(ROUND) * ROUND) as f64)
        });
        assert_eq!(metrics.totals().access_log_dropped, 0);
    });
    group.finish();
}

fn counts(criterion: &mut Criterion) {
    let metrics = Metrics::new(2);
    let backend = metrics.backend("web");
    let mut group = criterion.benchmark_group("metrics");
    group.throughput(Throughput::Elements(1));
    group.bench_function("record", |bencher| {
        let mut duration_us = 50;
        bencher.iter(|| {
            duration_us = (duration_us * 5 / 4) % 1_000_000 + 50;
            backend.record(
                black_box(1),
                Outcome::Answered,
                200,
                black_box(duration_us),
                Some(400),
                0,
                5120,
            );
        });
    });
    group.finish();

    let metrics = Metrics::new(2);
    let exposition = match tidegate::telemetry::Exposition::new(Arc::clone(&metrics)) {
        Ok(exposition) => exposition,
        Err(error) => panic!("{error}"),
    };
    let held: Vec<_> = (0..1000)
        .map(|number| metrics.backend(&format!("backend-{number}")))
        .collect();
    for backend in &held {
        backend.record(0, Outcome::Answered, 200, 1000, Some(400), 0, 5120);
    }
    criterion.bench_function("metrics/scrape_1000_backends", |bencher| {
        bencher.iter(|| exposition.text())
    });
}

criterion_group!(benches, lines, counts);
criterion_main!(benches);
