//! Tables in Markdown: medians for each proxy, and ratios between the subject (Tidegate) and each peer.
//!
//! A ratio is taken within each round, where both ran within seconds of each other, and then the median over rounds: a
//! machine that gets slower between rounds then changes both sides of a ratio alike.

use std::fmt::Write;

use crate::proxies::Proxy;
use crate::rounds::Sample;

/// A row of the tables.
struct Metric {
    name: &'static str,
    get: fn(&Sample) -> f64,
    decimals: usize,
    /// Whether a ratio between two proxies says something.
    compared: bool,
}

const fn metric(name: &'static str, get: fn(&Sample) -> f64, decimals: usize, compared: bool) -> Metric {
    Metric {
        name,
        get,
        decimals,
        compared,
    }
}

const METRICS: &[Metric] = &[
    metric("CPU µs/request", |s| s.cpu, 2, true),
    metric("… in user space", |s| s.cpu_user, 2, true),
    metric("… in the kernel", |s| s.cpu_kernel, 2, true),
    metric("CPU µs/request, open loop", |s| s.cpu_open, 2, true),
    metric("requests/s, closed loop", |s| s.rate, 0, true),
    metric("share of its core used, %", |s| s.busy * 100.0, 0, false),
    metric("system calls/request", |s| s.calls, 2, true),
    metric("context switches/request", |s| s.switches, 3, false),
    metric("… in the open loop", |s| s.switches_open, 3, false),
    metric("p50 µs, open loop", |s| s.p50, 0, true),
    metric("p99 µs, open loop", |s| s.p99, 0, true),
    metric("p99.9 µs, open loop", |s| s.p999, 0, true),
    metric("MB resident after start", |s| s.memory_start / 1024.0, 1, true),
    metric("MB resident after load", |s| s.memory_load / 1024.0, 1, true),
    metric("KB per idle connection", |s| s.memory_idle, 2, true),
];

/// All samples of one scenario: `rounds[r]` are those of round r.
pub struct Results {
    pub title: String,
    pub notes: Vec<String>,
    pub subject: Proxy,
    pub proxies: Vec<Proxy>,
    pub rounds: Vec<Vec<Sample>>,
}

impl Results {
    fn of(&self, proxy: Proxy) -> Vec<Sample> {
        self.rounds
            .iter()
            .flatten()
            .filter(|sample| sample.proxy == proxy)
            .copied()
            .collect()
    }

    /// Both tables and what a reader has to know to trust them.
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        for note in &self.notes {
            line(&mut text, &format!("- {note}"));
        }
        for warning in self.warnings() {
            line(&mut text, &format!("- **{warning}**"));
        }
        text.push('\n');
        self.medians(&mut text);
        let peers: Vec<_> = self
            .proxies
            .iter()
            .copied()
            .filter(|p| *p != self.subject && *p != Proxy::Direct)
            .collect();
        if self.proxies.contains(&self.subject) && !peers.is_empty() {
            self.ratios(&mut text, &peers);
        }
        text
    }

    fn medians(&self, text: &mut String) {
        head(
            text,
            "median of rounds",
            self.proxies.iter().map(|proxy| proxy.name().to_owned()),
        );
        for metric in METRICS {
            let cells = self.proxies.iter().map(|&proxy| {
                let values: Vec<_> = self.of(proxy).iter().map(metric.get).collect();
                cell(median(&values), metric.decimals)
            });
            row(text, metric.name, cells);
        }
        text.push('\n');
    }

    fn ratios(&self, text: &mut String, peers: &[Proxy]) {
        let subject = self.subject.name();
        let names = peers.iter().map(|peer| format!("{subject} / {}", peer.name()));
        head(text, "median of the rounds' ratios (smallest–largest)", names);
        for metric in METRICS.iter().filter(|metric| metric.compared) {
            let cells = peers.iter().map(|&peer| {
                let ratios = self.round_ratios(peer, metric.get);
                let (low, high) = range(&ratios);
                match median(&ratios) {
                    middle if middle.is_finite() => format!("{middle:.2} ({low:.2}–{high:.2})"),
                    _ => "–".to_owned(),
                }
            });
            row(text, metric.name, cells);
        }
        text.push('\n');
    }

    fn round_ratios(&self, peer: Proxy, get: fn(&Sample) -> f64) -> Vec<f64> {
        let find = |round: &[Sample], proxy| round.iter().find(|sample| sample.proxy == proxy).map(get);
        let ratios = self
            .rounds
            .iter()
            .filter_map(|round| Some(find(round, self.subject)? / find(round, peer)?));
        ratios.filter(|ratio| ratio.is_finite()).collect()
    }

    /// Signs that the figures should not be believed.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for &proxy in &self.proxies {
            let samples = self.of(proxy);
            let name = proxy.name();
            let failed: u64 = samples.iter().map(|sample| sample.failed).sum();
            if failed > 0 {
                warnings.push(format!("{name}: {failed} requests failed"));
            }
            if samples.iter().any(|sample| sample.overloaded) {
                warnings.push(format!("{name} cannot do the open loop's rate: no latencies"));
            }
            let cpu: Vec<_> = samples.iter().map(|sample| sample.cpu).collect();
            let (low, high) = range(&cpu);
            if high > low * 1.1 {
                warnings.push(format!(
                    "{name}: CPU/request moved by {:.0} % between rounds: a noisy machine",
                    (high / low - 1.0) * 100.0
                ));
            }
            let foreign = samples.iter().map(|sample| sample.foreign).fold(0.0, f64::max);
            if foreign > 0.05 {
                let share = foreign * 100.0;
                warnings.push(format!(
                    "{name}: up to {share:.0} % of a core went to something else"
                ));
            }
            let busy = median(&samples.iter().map(|sample| sample.busy).collect::<Vec<_>>());
            if proxy != Proxy::Direct && foreign <= 0.05 && busy < 0.9 {
                warnings.push(format!(
                    "{name}: the load was full first: its requests/s are not its limit"
                ));
            }
        }
        warnings
    }
}

fn line(text: &mut String, what: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{what}");
}

fn head(text: &mut String, first: &str, names: impl Iterator<Item = String>) {
    let names: Vec<_> = names.collect();
    line(text, &format!("| {first} | {} |", names.join(" | ")));
    line(text, &format!("|---|{}", "---:|".repeat(names.len())));
}

fn row(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    line(
        text,
        &format!("| {first} | {} |", cells.collect::<Vec<_>>().join(" | ")),
    );
}

/// A figure, or a dash for one that was not measured.
pub fn cell(value: f64, decimals: usize) -> String {
    if value.is_finite() {
        format!("{value:.decimals$}")
    } else {
        "–".to_owned()
    }
}

/// NaN if there is nothing to take it of.
fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<_> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| {
            (low.min(value), high.max(value))
        })
}
