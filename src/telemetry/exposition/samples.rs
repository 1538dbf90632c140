//! Samples of a reading: one value with its labels, or one for each backend or listener.

use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric};

use super::Reading;
use crate::telemetry::histogram::{EXPOSED, Histogram};
use crate::telemetry::metrics::{BackendTotals, Concurrency, Kubernetes, ListenerTotals};

pub(super) fn of_backends(reading: &Reading, count: fn(&BackendTotals) -> u64) -> Vec<Metric> {
    named_backends(reading)
        .map(|backend| counter(&[("backend", &*backend.name)], count(backend) as f64))
        .collect()
}

/// Only of backends that have a limit.
pub(super) fn of_limits(reading: &Reading, value: fn(&Concurrency) -> u64) -> Vec<Metric> {
    named_backends(reading)
        .filter_map(|backend| {
            let now = backend.concurrency.as_ref()?;
            Some(gauge(&[("backend", &*backend.name)], value(now) as f64))
        })
        .collect()
}

pub(super) fn of_backends_with_traffic(
    reading: &Reading,
    of: fn(&BackendTotals) -> &Histogram,
) -> Vec<Metric> {
    named_backends(reading)
        .filter(|backend| of(backend).count() > 0)
        .map(|backend| histogram(&[("backend", &*backend.name)], of(backend)))
        .collect()
}

/// Without the one for exchanges that never had a backend, of which only requests are told.
pub(super) fn named_backends(reading: &Reading) -> impl Iterator<Item = &BackendTotals> {
    reading
        .totals
        .backends
        .iter()
        .filter(|backend| !backend.name.is_empty())
}

pub(super) fn of_listeners(
    reading: &Reading,
    kind: fn(&[(&str, &str)], f64) -> Metric,
    count: fn(&ListenerTotals) -> u64,
) -> Vec<Metric> {
    let listeners = reading.totals.listeners.iter();
    listeners
        .map(|listener| kind(&[("listener", &*listener.name)], count(listener) as f64))
        .collect()
}

/// Only where a cluster is followed.
pub(super) fn of_kubernetes(
    reading: &Reading,
    kind: fn(&[(&str, &str)], f64) -> Metric,
    value: fn(&Kubernetes) -> u64,
) -> Vec<Metric> {
    let now = reading.totals.kubernetes.iter();
    now.map(|now| kind(&[], value(now) as f64)).collect()
}

pub(super) fn known(value: Option<f64>, kind: fn(&[(&str, &str)], f64) -> Metric) -> Vec<Metric> {
    value.map(|value| kind(&[], value)).into_iter().collect()
}

pub(super) fn counter(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

pub(super) fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(labels: &[(&str, &str)], of: &Histogram) -> Metric {
    let mut histogram = prometheus::proto::Histogram::default();
    let buckets = EXPOSED
        .into_iter()
        .map(|bound_us| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound_us as f64 / 1e6);
            bucket.set_cumulative_count(of.at_most(bound_us));
            bucket
        })
        .collect();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(of.count());
    histogram.set_sample_sum(of.sum_us() as f64 / 1e6);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let labels = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    Metric::from_label(labels)
}
