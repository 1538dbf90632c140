//! The balancing benchmark: whole scenarios in virtual time, Tidegate's picker beside the others' formulas.
//!
//! `cargo bench --bench balancing` plays all, prints the tables and writes them and the plots into `docs/balancing`; with names of
//! scenarios only those, and nothing is written. `-- --test` is a quick check that it works, repeats itself and holds its first goals.
// The tables are what this program is for, and standard output is where they go.
#![allow(clippy::print_stdout)]
// A benchmark that cannot go on fails, and its indexes are its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod balancer;
mod catalogue;
mod contestants;
mod measure;
mod peers;
mod plot;
mod report;
mod scenario;
mod server;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use contestants::{CONTESTANTS, Contestant};
use measure::{Figures, Metric};
use plot::{Curve, Plot};
use report::{Played, Row, SUBJECT};
use scenario::Scenario;

/// Compares ways to balance in virtual time.
#[derive(Parser)]
#[command(name = "balancing")]
struct Arguments {
    /// Only scenarios whose names begin so; nothing is written then
    scenarios: Vec<String>,
    /// How often each is played, with other chances
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Only Tidegate's own
    #[arg(long)]
    ours: bool,
    /// A quick check instead
    #[arg(long)]
    test: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.test {
        check()?;
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let wanted = |scenario: &Scenario| {
        let names = &arguments.scenarios;
        names.is_empty() || names.iter().any(|name| scenario.name.starts_with(name.as_str()))
    };
    let mut all = Vec::new();
    for scenario in catalogue::all().into_iter().filter(wanted) {
        let played = play(scenario, arguments.seeds, arguments.ours);
        println!("{}", played.table());
        all.push(played);
    }
    let (goals, missed) = report::goals(&all);
    let summary = report::summary(&all);
    println!(
        "{summary}\n{goals}\n{missed} goals missed; {} s",
        began.elapsed().as_secs()
    );
    if arguments.scenarios.is_empty() && !arguments.ours {
        write(&all, arguments.seeds, &summary, &goals)?;
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn play(scenario: Scenario, seeds: u64, ours: bool) -> Played {
    let takes_part = |contestant: &&Contestant| {
        (contestant.ours || !ours)
            && (scenario.limited || !contestant.limited)
            && (scenario.hedged || !contestant.hedges)
            && (scenario.reports || !contestant.reports)
    };
    let row = |contestant: &Contestant| Row {
        name: contestant.name,
        ours: contestant.ours,
        runs: (1..=seeds)
            .map(|seed| Figures::of(&scenario, &world::run(&scenario, contestant, seed)))
            .collect(),
    };
    let rows = CONTESTANTS.iter().filter(takes_part).map(row).collect();
    Played { scenario, rows }
}

/// Replaces the results in the document, and draws.
fn write(all: &[Played], seeds: u64, summary: &str, goals: &str) -> Result<()> {
    let folder = folder();
    let path = folder.join("README.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    const BEGIN: &str = "<!-- results: written by `cargo bench --bench balancing` -->\n";
    const END: &str = "<!-- end of results -->";
    let (Some((before, rest)), Some((_, after))) = (text.split_once(BEGIN), text.split_once(END)) else {
        bail!("{}: no place for results", path.display());
    };
    ensure!(rest.contains(END), "{}: no end of results", path.display());
    let tables: Vec<String> = all.iter().map(Played::table).collect();
    let results = format!(
        "\n### At a glance\n\nMeans of {seeds} seeds.\n\n{summary}\n### Goals\n\n{goals}\n### All figures\n\n{}\n",
        tables.join("\n")
    );
    fs::write(&path, format!("{before}{BEGIN}{results}{END}{after}"))?;
    for scenario in catalogue::all() {
        draw(&scenario, &folder)?;
    }
    Ok(())
}

/// Those whose curves are drawn.
const DRAWN: [&str; 5] = [
    SUBJECT,
    "peak-EWMA of 2 (Finagle, linkerd)",
    "least_time inflight (nginx)",
    "hot-cold with probes (Prequal)",
    "least request of 2",
];

fn draw(scenario: &Scenario, folder: &Path) -> Result<()> {
    let Some((who, endpoint)) = scenario.plot else {
        return Ok(());
    };
    let (mut latency, mut share) = (Vec::new(), Vec::new());
    for name in DRAWN {
        let contestant = CONTESTANTS.iter().find(|contestant| contestant.name == name);
        let contestant = contestant.with_context(|| format!("nobody is called {name}"))?;
        let trace = world::run(scenario, contestant, 1);
        latency.push(Curve {
            name,
            values: measure::p99_by_second(scenario, &trace),
        });
        share.push(Curve {
            name,
            values: measure::share_by_second(scenario, &trace, endpoint),
        });
    }
    let title = format!("{}: 99th percentile of each second", scenario.title);
    let plot = Plot {
        title: &title,
        unit: "ms",
        decades: true,
        curves: latency,
    };
    fs::write(folder.join(format!("{}-latency.svg", scenario.name)), plot.svg())?;
    let title = format!("{}: what {who} gets of a fair share", scenario.title);
    let plot = Plot {
        title: &title,
        unit: "%",
        decades: false,
        curves: share,
    };
    fs::write(folder.join(format!("{}-share.svg", scenario.name)), plot.svg())?;
    Ok(())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/balancing")
}

/// A quick run: everybody plays something small twice and alike, and least-latency holds some of its goals.
fn check() -> Result<()> {
    let find = |name: &str| {
        catalogue::all()
            .into_iter()
            .find(|scenario| scenario.name == name)
            .expect(name)
    };
    let mut small = find("size-5");
    small.seconds = 6;
    (small.limited, small.hedged, small.reports) = (true, true, true);
    for contestant in CONTESTANTS {
        let run = || world::run(&small, contestant, 1);
        let (first, second) = (run(), run());
        let figures = Figures::of(&small, &first);
        ensure!(
            figures == Figures::of(&small, &second),
            "{}: not repeated",
            contestant.name
        );
        ensure!(
            first.requests.len() > 2500,
            "{}: {} requests",
            contestant.name,
            first.requests.len()
        );
        ensure!(
            figures.get(Metric::P50) > 5.0,
            "{}: too good to be true",
            contestant.name
        );
    }
    let names = [
        "one-slow",
        "heals-200ms",
        "heals-2s",
        "500s-retries",
        "overload",
        "overload-after",
    ];
    // As many as in the whole run: goals are about means, and one run alone may miss what the mean holds.
    let all: Vec<Played> = names.map(|name| play(find(name), 5, true)).into_iter().collect();
    let (goals, missed) = report::goals(&all);
    println!("{goals}");
    ensure!(missed == 0, "{missed} goals missed");
    Ok(())
}
