//! What was found, for people: tables, goals, and where least-latency is not the best.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::measure::{Figure, Figures, Metric, figure};
use super::scenario::{Bound, Goal, Scenario};

/// A scenario's runs, by contestant, in their order.
pub struct Played {
    pub scenario: Scenario,
    pub rows: Vec<Row>,
}

/// A contestant's runs, one for each seed.
pub struct Row {
    pub name: &'static str,
    pub ours: bool,
    pub runs: Vec<Figures>,
}

/// Who is meant by "least-latency".
pub const SUBJECT: &str = "least-latency";
/// A difference up to this is none.
const ALIKE: f64 = 1.02;

impl Played {
    /// A contestant's figure.
    pub fn figure(&self, name: &str, metric: Metric) -> Option<Figure> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        Some(figure(&row.runs, metric))
    }

    /// The best of the others by the scenario's measure; all of these are better when they are lower.
    fn best_other(&self) -> Option<(&'static str, Figure)> {
        let others = self.rows.iter().filter(|row| !row.ours);
        others
            .map(|row| (row.name, figure(&row.runs, self.scenario.by)))
            .min_by(|a, b| worth(self.scenario.by, a.1.mean).total_cmp(&worth(self.scenario.by, b.1.mean)))
    }

    /// A table of all figures.
    pub fn table(&self) -> String {
        let scenario = &self.scenario;
        let mut table = format!(
            "#### `{}`: {}\n\n{}\n\n",
            scenario.name, scenario.title, scenario.note
        );
        let _ = write!(
            table,
            "| | p50 ms | p99 ms (least–most) | p99.9 ms | within 1 s % | errors % | extra % |"
        );
        for watch in &scenario.watches {
            let _ = write!(table, " share of {} % |", watch.label);
        }
        table.push_str("\n|---|---:|---:|---:|---:|---:|---:|");
        table.push_str(&"---:|".repeat(scenario.watches.len()));
        table.push('\n');
        for row in &self.rows {
            let mean = |metric| figure(&row.runs, metric).mean;
            let p99 = figure(&row.runs, Metric::P99);
            let name = if row.ours {
                format!("**{}**", row.name)
            } else {
                row.name.to_owned()
            };
            let _ = write!(
                table,
                "| {name} | {} | {} ({}–{}) | {} | {:.3} | {:.3} | {:.2} |",
                short(mean(Metric::P50)),
                short(p99.mean),
                short(p99.least),
                short(p99.most),
                short(mean(Metric::P999)),
                mean(Metric::Within1s),
                mean(Metric::Errors),
                mean(Metric::Extra),
            );
            for watch in 0..scenario.watches.len() {
                let _ = write!(table, " {:.1} |", mean(Metric::Share(watch)));
            }
            table.push('\n');
        }
        table
    }
}

/// One line for each scenario: least-latency beside the best of the others.
pub fn summary(all: &[Played]) -> String {
    let mut table = String::from(
        "| scenario | by | least-latency | best of the others | which | ratio | |\n|---|---|---:|---:|---|---:|---|\n",
    );
    for played in all {
        let by = played.scenario.by;
        let (Some(ours), Some((name, best))) = (played.figure(SUBJECT, by), played.best_other()) else {
            continue;
        };
        // Of what is close to 100 %, what is missing is compared.
        let (own, other) = (worth(by, ours.mean), worth(by, best.mean));
        let ratio = if own == other { 1.0 } else { own / other };
        let verdict = match ratio {
            ratio if ratio > ALIKE => "**not the best**",
            ratio if ratio < 1.0 / ALIKE => "better",
            _ => "alike",
        };
        let ratio = if ratio.is_finite() {
            format!("{ratio:.2}")
        } else {
            "–".to_owned()
        };
        let _ = writeln!(
            table,
            "| `{}`: {} | {} | {} | {} | {name} | {ratio} | {verdict} |",
            played.scenario.name,
            played.scenario.title,
            label(by),
            short(ours.mean),
            short(best.mean),
        );
    }
    table
}

/// A line for each goal, and how many were missed.
pub fn goals(all: &[Played]) -> (String, usize) {
    let mut table =
        String::from("| scenario | of | figure | found | goal | |\n|---|---|---|---:|---:|---|\n");
    let mut missed = 0;
    let named: BTreeMap<&str, &Played> = all.iter().map(|played| (played.scenario.name, played)).collect();
    for played in all {
        for goal in &played.scenario.goals {
            let Some(found) = played.figure(goal.of, goal.metric) else {
                continue;
            };
            let Some((sign, bound)) = bound(played, goal, &named) else {
                continue;
            };
            let held = if sign == "≤" {
                found.mean <= bound
            } else {
                found.mean >= bound
            };
            missed += usize::from(!held);
            let what = match goal.metric {
                Metric::Share(watch) => played.scenario.watches.get(watch).map_or("", |watch| watch.label),
                metric => label(metric),
            };
            let _ = writeln!(
                table,
                "| `{}` | {} | {what} | {} | {sign} {} | {} |",
                played.scenario.name,
                goal.of,
                exact(found.mean),
                exact(bound),
                if held { "held" } else { "**missed**" },
            );
        }
    }
    (table, missed)
}

fn bound(played: &Played, goal: &Goal, named: &BTreeMap<&str, &Played>) -> Option<(&'static str, f64)> {
    match goal.bound {
        Bound::AtMost(most) => Some(("≤", most)),
        Bound::AtLeast(least) => Some(("≥", least)),
        Bound::TimesThat(times, scenario) => {
            let other = named.get(scenario)?.figure(goal.of, goal.metric)?;
            Some(("≤", times * other.mean))
        }
        Bound::TimesOf(times, name) => Some(("≤", times * played.figure(name, goal.metric)?.mean)),
    }
}

/// Lower is better.
fn worth(metric: Metric, value: f64) -> f64 {
    match metric {
        Metric::Within1s => 100.0 - value,
        _ => value,
    }
}

fn label(metric: Metric) -> &'static str {
    match metric {
        Metric::P50 => "p50 ms",
        Metric::P99 => "p99 ms",
        Metric::P999 => "p99.9 ms",
        Metric::Within1s => "within 1 s %",
        Metric::Errors => "errors %",
        Metric::Extra => "extra %",
        Metric::Share(_) => "share %",
    }
}

fn short(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.3}"),
        value if value < 1000.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn exact(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
