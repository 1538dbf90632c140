//! Exposition: the metrics in Prometheus' text format, through the `prometheus` crate's registry. Names and labels
//! are a promise to dashboards; the test at the end holds them.

mod families;
mod samples;

use std::collections::HashMap;
use std::sync::Arc;

use families::FAMILIES;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::Metrics;
use super::metrics::Totals;
use super::process::ProcessTotals;

/// The content type of [`Exposition::text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Gives the metrics out.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Everything in `metrics`, and what the kernel says of the process.
    pub fn new(metrics: Arc<Metrics>) -> Result<Self, prometheus::Error> {
        let descriptions = FAMILIES
            .iter()
            .map(|family| {
                let labels = family.labels.iter().map(|label| (*label).to_owned()).collect();
                Desc::new(
                    family.name.to_owned(),
                    family.help.to_owned(),
                    labels,
                    HashMap::new(),
                )
            })
            .collect::<Result<_, _>>()?;
        let registry = Registry::new();
        registry.register(Box::new(AllMetrics {
            metrics,
            descriptions,
        }))?;
        Ok(Self { registry })
    }

    /// The text of a scrape. Backends and listeners that are gone are given one last time.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

struct AllMetrics {
    metrics: Arc<Metrics>,
    descriptions: Vec<Desc>,
}

impl Collector for AllMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let reading = Reading {
            totals: self.metrics.scrape(),
            process: ProcessTotals::read(),
        };
        FAMILIES
            .iter()
            .filter_map(|family| {
                let metrics = (family.samples)(&reading);
                if metrics.is_empty() {
                    return None;
                }
                let mut out = MetricFamily::default();
                out.set_name(family.name.to_owned());
                out.set_help(family.help.to_owned());
                out.set_field_type(family.kind);
                out.set_metric(metrics);
                Some(out)
            })
            .collect()
    }
}

/// What a scrape has found, of which all samples are taken.
struct Reading {
    totals: Totals,
    process: ProcessTotals,
}

#[cfg(test)]
mod tests;
