//! Tests of what is exposed: the grammar, by a parser of our own, and the names and labels.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Outcome;
use super::super::histogram::EXPOSED;
use super::super::metrics::Concurrency;
use super::*;

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Families by name with their type, and all samples. Panics on what the text format 0.0.4 does not allow.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let mut families = BTreeMap::new();
    let mut samples = Vec::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(
                families.insert(name.to_owned(), kind.to_owned()),
                None,
                "twice: {line}"
            );
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(
                rest.split_once(' ').is_some_and(|(_, help)| !help.is_empty()),
                "{line}"
            );
        } else {
            samples.push(sample(line));
        }
    }
    (families, samples)
}

fn sample(line: &str) -> Sample {
    let name_end = line.find(['{', ' ']).unwrap();
    let name = line[..name_end].to_owned();
    assert!(
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
        "{line}"
    );
    let mut labels = BTreeMap::new();
    let mut rest = &line[name_end..];
    if let Some(mut inside) = rest.strip_prefix('{') {
        while !inside.starts_with('}') {
            inside = inside.strip_prefix(',').unwrap_or(inside);
            let (key, after) = inside.split_once("=\"").unwrap();
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            labels.insert(key.to_owned(), value);
            inside = &after[end + 1..];
        }
        rest = &inside[1..];
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
    Sample { name, labels, value }
}

fn with_traffic() -> (Arc<Metrics>, Exposition) {
    let metrics = Metrics::new(2);
    let exposition = Exposition::new(Arc::clone(&metrics)).unwrap();
    let web = metrics.backend("we\"b\n");
    for duration_us in [90, 100, 101, 2_000, 70_000_000] {
        web.record(1, Outcome::Answered, 200, duration_us, Some(80), 1, 2);
    }
    web.record(0, Outcome::ConnectRefused, 503, 500, None, 0, 0);
    web.connection_made(0);
    web.load_report(0, true);
    web.picked(1, 2);
    web.shed(1, 3);
    web.concurrency(Some(Concurrency {
        limit: 40,
        in_flight: 30,
        queued: 2,
    }));
    metrics
        .no_backend()
        .record(0, Outcome::NoRoute, 404, 30, None, 0, 0);
    let listener = metrics.listener("http");
    listener.connection_opened(0);
    listener.connection_opened(1);
    listener.connection_closed(1);
    metrics.snapshot_published(7, 2, 1_700_000_000_500_000);
    metrics.reload(false);
    metrics.access_log_dropped(3);
    metrics.kubernetes(super::super::metrics::Kubernetes::default());
    // Handles are kept by the snapshot; here nobody keeps them, and they are told one last time.
    (metrics, exposition)
}

#[test]
fn what_is_told_is_what_was_counted() {
    let (_metrics, exposition) = with_traffic();
    let (_, samples) = parse(&exposition.text().unwrap());
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let found: Vec<_> = samples
            .iter()
            .filter(|sample| sample.name == name && sample.labels == labels)
            .collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0].value
    };
    let web = ("backend", "we\"b\n");
    for (name, labels, expected) in [
        (
            "tidegate_requests_total",
            &[web, ("outcome", "answered"), ("class", "2xx")][..],
            5.0,
        ),
        (
            "tidegate_requests_total",
            &[web, ("outcome", "connect_refused"), ("class", "5xx")],
            1.0,
        ),
        (
            "tidegate_requests_total",
            &[("backend", ""), ("outcome", "no_route"), ("class", "4xx")],
            1.0,
        ),
        (
            "tidegate_request_duration_seconds_bucket",
            &[web, ("le", "0.0001")],
            2.0,
        ),
        (
            "tidegate_request_duration_seconds_bucket",
            &[web, ("le", "0.00025")],
            3.0,
        ),
        (
            "tidegate_request_duration_seconds_bucket",
            &[web, ("le", "0.0005")],
            4.0,
        ),
        (
            "tidegate_request_duration_seconds_bucket",
            &[web, ("le", "50")],
            5.0,
        ),
        (
            "tidegate_request_duration_seconds_bucket",
            &[web, ("le", "+Inf")],
            6.0,
        ),
        ("tidegate_request_duration_seconds_count", &[web], 6.0),
        ("tidegate_request_duration_seconds_sum", &[web], 70.002791),
        ("tidegate_upstream_head_seconds_count", &[web], 5.0),
        ("tidegate_request_bytes_total", &[web], 5.0),
        ("tidegate_response_bytes_total", &[web], 10.0),
        (
            "tidegate_upstream_connections_total",
            &[web, ("how", "made")],
            1.0,
        ),
        ("tidegate_shed_total", &[web, ("criticality", "sheddable")], 1.0),
        ("tidegate_shed_total", &[web, ("criticality", "critical")], 0.0),
        ("tidegate_concurrency_limit", &[web], 40.0),
        ("tidegate_concurrency_in_flight", &[web], 30.0),
        ("tidegate_concurrency_queued", &[web], 2.0),
        ("tidegate_connections", &[("listener", "http")], 1.0),
        ("tidegate_connections_total", &[("listener", "http")], 2.0),
        ("tidegate_snapshot_generation", &[], 7.0),
        ("tidegate_snapshot_rejects", &[], 2.0),
        (
            "tidegate_snapshot_published_timestamp_seconds",
            &[],
            1_700_000_000.5,
        ),
        ("tidegate_reloads_total", &[("result", "failed")], 1.0),
        ("tidegate_last_reload_ok", &[], 0.0),
        ("tidegate_access_log_dropped_total", &[], 3.0),
    ] {
        assert_eq!(value(name, labels), expected, "{name} {labels:?}");
    }
}

#[test]
fn histograms_are_cumulative() {
    let (_metrics, exposition) = with_traffic();
    let (_, samples) = parse(&exposition.text().unwrap());
    let buckets: Vec<f64> = samples
        .iter()
        .filter(|sample| sample.name == "tidegate_request_duration_seconds_bucket")
        .map(|sample| sample.value)
        .collect();
    assert_eq!(buckets.len(), EXPOSED.len() + 1);
    assert!(buckets.is_sorted());
}

/// Dashboards and alerts of users hang on these. To add one is no harm; to change one is a breaking change.
#[test]
fn names_and_labels_are_stable() {
    let (_metrics, exposition) = with_traffic();
    let (families, samples) = parse(&exposition.text().unwrap());
    let told: Vec<String> = families
        .iter()
        .map(|(name, kind)| {
            let of_it = samples.iter().filter(|sample| {
                sample
                    .name
                    .strip_prefix(name)
                    .is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
            });
            let labels: BTreeSet<&str> = of_it
                .flat_map(|sample| sample.labels.keys().map(String::as_str))
                .collect();
            format!("{kind} {name}{labels:?}").replace('"', "")
        })
        .collect();
    assert_eq!(
        told,
        [
            "counter process_cpu_seconds_total{}",
            "gauge process_max_fds{}",
            "gauge process_open_fds{}",
            "gauge process_resident_memory_bytes{}",
            "gauge process_start_time_seconds{}",
            "gauge process_threads{}",
            "counter tidegate_access_log_dropped_total{}",
            "gauge tidegate_build_info{version}",
            "gauge tidegate_concurrency_in_flight{backend}",
            "gauge tidegate_concurrency_limit{backend}",
            "gauge tidegate_concurrency_queued{backend}",
            "gauge tidegate_connections{listener}",
            "counter tidegate_connections_handed_off_total{listener}",
            "counter tidegate_connections_refused_total{listener}",
            "counter tidegate_connections_total{listener}",
            "counter tidegate_ejections_total{backend, reason}",
            "counter tidegate_hedges_denied_total{backend}",
            "counter tidegate_hedges_total{backend}",
            "counter tidegate_hedges_won_total{backend}",
            "gauge tidegate_kubernetes_away{}",
            "counter tidegate_kubernetes_events_total{}",
            "counter tidegate_kubernetes_failures_total{}",
            "counter tidegate_kubernetes_lists_total{}",
            "gauge tidegate_kubernetes_synced{}",
            "gauge tidegate_last_reload_ok{}",
            "counter tidegate_load_reports_total{backend, result}",
            "counter tidegate_panics_total{backend}",
            "counter tidegate_picks_total{backend, how}",
            "counter tidegate_reloads_total{result}",
            "counter tidegate_request_bytes_total{backend}",
            "histogram tidegate_request_duration_seconds{backend, le}",
            "gauge tidegate_requests_in_flight{}",
            "counter tidegate_requests_total{backend, class, outcome}",
            "counter tidegate_response_bytes_total{backend}",
            "counter tidegate_retries_denied_total{backend}",
            "counter tidegate_retries_total{backend}",
            "gauge tidegate_settings_waiting{}",
            "counter tidegate_shed_total{backend, criticality}",
            "gauge tidegate_snapshot_generation{}",
            "gauge tidegate_snapshot_published_timestamp_seconds{}",
            "gauge tidegate_snapshot_rejects{}",
            "counter tidegate_upstream_connections_total{backend, how}",
            "histogram tidegate_upstream_head_seconds{backend, le}",
        ]
    );
}
