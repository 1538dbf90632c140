//! The peers benchmark: Tidegate beside nginx, HAProxy and Envoy, one core each, the same work, round by round.
//!
//! `benches/peers/run.sh` installs the peers and runs this; what is measured and how is told in `benches/README.md`.
// The tables are what this program is for, and standard output is where they go.
#![allow(clippy::print_stdout)]

mod backend;
mod bulk;
mod load;
mod measure;
mod poll;
mod proxies;
mod report;
mod rounds;
mod tls;
mod wire;

use std::fs;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

use measure::Counter;
use proxies::{Proxy, Scenario};
use report::Results;
use rounds::Plan;

/// Compares Tidegate with other proxies, side by side on this machine.
#[derive(Parser)]
#[command(name = "peers")]
struct Arguments {
    /// How often every proxy is visited; the order turns around each time
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measured window (there are two in a visit)
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only these (default: all that are installed)
    #[arg(long, value_delimiter = ',')]
    only: Vec<Proxy>,
    /// Only these
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "h1,h2c,h2c-both,h1-tls,h2-tls,handshakes,tcp,tcp-bulk,tcp-connections"
    )]
    scenarios: Vec<Scenario>,
    /// Requests per second of the open loop (default: half of what the slowest but Envoy does in a closed loop)
    #[arg(long)]
    rate: Option<f64>,
    /// Idle connections whose memory is measured; 0 leaves it out
    #[arg(long, default_value_t = 2000)]
    idle: usize,
    /// Whose ratios to the others are told
    #[arg(long, value_enum, default_value_t = Proxy::Tidegate)]
    subject: Proxy,
    /// Without access logs
    #[arg(long)]
    no_access_log: bool,
    /// The core for the proxy
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    /// The core for the client and the backend
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Also writes the tables to this file
    #[arg(long)]
    out: Option<PathBuf>,
    /// A short look at whether it works: one round of one second, Tidegate only unless --only says otherwise
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    // `cargo test --benches` starts benchmarks with no argument at all; that is no wish for a quarter of an hour of load.
    if std::env::args_os().len() == 1 {
        println!("peers: nothing measured; `cargo bench --bench peers` does that");
        return ExitCode::SUCCESS;
    }
    match run(Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("peers: {failed} requests failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does everything; returns how many requests failed.
fn run(mut arguments: Arguments) -> Result<u64> {
    if arguments.smoke {
        arguments.rounds = 1;
        arguments.seconds = 1.0;
        arguments.idle = arguments.idle.min(200);
        if arguments.only.is_empty() {
            arguments.only = vec![Proxy::Tidegate];
        }
    }
    let sensible = arguments.seconds > 0.0 && arguments.seconds <= 600.0;
    if !sensible || !(1..=1000).contains(&arguments.rounds) {
        bail!("--seconds is between 0 and 600, --rounds between 1 and 1000");
    }
    stay_on(arguments.load_core)?;
    let installed = installed(&arguments.only)?;
    let folder = tempfile::Builder::new()
        .prefix("tidegate-peers-")
        .tempdir()
        .context("no temporary folder")?;
    tls::write_certificate(folder.path()).context("no certificate")?;
    let seconds = Duration::from_secs_f64(arguments.seconds);
    let plan = Plan {
        folder: folder.path(),
        proxy_core: arguments.proxy_core,
        load_core: arguments.load_core,
        access_log: !arguments.no_access_log,
        window: seconds,
        warm_up: seconds.min(Duration::from_secs(2)) / 2,
        idle_connections: arguments.idle,
        counter: Counter::find(),
    };

    let mut failed = 0;
    let mut tables = preamble(&arguments, &plan, &installed);
    println!("{tables}");
    for &scenario in &arguments.scenarios {
        let proxies: Vec<_> = installed
            .iter()
            .copied()
            .filter(|proxy| proxy.can(scenario))
            .collect();
        let results = compare(&arguments, &plan, scenario, proxies)?;
        failed += results
            .rounds
            .iter()
            .flatten()
            .map(|sample| sample.failed)
            .sum::<u64>();
        let table = results.markdown();
        println!("{table}");
        tables.push_str(&table);
        // After each scenario, so that a long run that fails late leaves what it found.
        if let Some(out) = &arguments.out {
            fs::write(out, &tables).with_context(|| format!("cannot write {}", out.display()))?;
        }
    }
    Ok(failed)
}

/// All rounds of one scenario.
fn compare(
    arguments: &Arguments,
    plan: &Plan<'_>,
    scenario: Scenario,
    proxies: Vec<Proxy>,
) -> Result<Results> {
    let (rate, reason) = match arguments.rate {
        _ if scenario.is_counted() => (0.0, "none: one after the other".to_owned()),
        Some(rate) if rate > 0.0 => (rate, "as asked".to_owned()),
        Some(_) => bail!("--rate is above 0"),
        None => half_of_slowest(plan, scenario, &proxies)?,
    };
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let mut order = proxies.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut samples = Vec::new();
        for proxy in order {
            let place = format!("{}, round {}, {}", scenario.name(), round + 1, proxy.name());
            let seed = round as u64;
            let sample = match rounds::visit(plan, scenario, proxy, rate, seed) {
                Ok(sample) => sample,
                // Once may be a hiccup of the machine; it is told, and tried again.
                Err(error) => {
                    eprintln!("{place}: {error:#}; once more");
                    rounds::visit(plan, scenario, proxy, rate, seed).with_context(|| place.clone())?
                }
            };
            eprintln!(
                "{place}: {:.0} requests/s, CPU {} µs/request, p50 {} p99 {} µs, {} failed",
                sample.rate,
                report::cell(sample.cpu, 2),
                report::cell(sample.p50, 0),
                report::cell(sample.p99, 0),
                sample.failed
            );
            samples.push(sample);
        }
        rounds.push(samples);
    }
    let notes = vec![format!("open loop: {rate:.0} requests/s ({reason})")];
    Ok(Results {
        title: scenario.name().to_owned(),
        notes,
        subject: arguments.subject,
        proxies,
        rounds,
    })
}

/// Half of the closed-loop rate of the slowest, so that all are compared at one rate below their knee. Envoy does not
/// count unless it is alone: it would set a rate at which the others are idle.
fn half_of_slowest(plan: &Plan<'_>, scenario: Scenario, proxies: &[Proxy]) -> Result<(f64, String)> {
    let mut candidates: Vec<_> = proxies
        .iter()
        .copied()
        .filter(|p| !matches!(p, Proxy::Direct | Proxy::Envoy))
        .collect();
    if candidates.is_empty() {
        candidates = proxies.to_vec();
    }
    let mut slowest: Option<(f64, Proxy)> = None;
    for proxy in candidates {
        let rate = rounds::closed_rate(plan, scenario, proxy).with_context(|| proxy.name())?;
        if slowest.is_none_or(|(least, _)| rate < least) {
            slowest = Some((rate, proxy));
        }
    }
    let (rate, proxy) = slowest.context("nothing to measure")?;
    // Round figures are easier to repeat with --rate.
    let half = (rate / 2.0 / 500.0).floor().max(1.0) * 500.0;
    Ok((
        half,
        format!("half of {}'s {rate:.0} in a closed loop", proxy.name()),
    ))
}

/// What is installed of what was asked for.
fn installed(only: &[Proxy]) -> Result<Vec<Proxy>> {
    let all = [
        Proxy::Direct,
        Proxy::Tidegate,
        Proxy::Nginx,
        Proxy::Haproxy,
        Proxy::Envoy,
    ];
    let mut installed = Vec::new();
    for proxy in all {
        let asked = only.contains(&proxy);
        if !asked && !only.is_empty() {
            continue;
        }
        if proxy == Proxy::Direct || proxy.binary().is_some_and(|path| path.exists()) {
            installed.push(proxy);
        } else if asked {
            bail!(
                "{} is not installed (benches/peers/run.sh does that)",
                proxy.name()
            );
        } else {
            eprintln!("peers: {} is not installed and left out", proxy.name());
        }
    }
    Ok(installed)
}

/// Keeps this program, threads to come included, on one core, and lets its waits be as short as they say.
fn stay_on(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core} (--load-core)"))?;
    // The kernel otherwise adds up to 50 µs to each wait of an open loop.
    set_current_timer_slack(NonZeroU64::new(1)).context("cannot set the timer slack")?;
    Ok(())
}

/// What the tables are of.
fn preamble(arguments: &Arguments, plan: &Plan<'_>, installed: &[Proxy]) -> String {
    let versions: Vec<_> = installed
        .iter()
        .filter_map(|proxy| Some(format!("{} {}", proxy.name(), proxy.version()?)))
        .collect();
    let counter = match plan.counter {
        Some(Counter::Perf) => "perf",
        Some(Counter::Strace) => "strace",
        None => "nothing (neither perf nor strace works here)",
    };
    format!(
        "{}; {} rounds, windows of {} s, access log {}, system calls counted by {counter}.\n\n",
        versions.join(", "),
        arguments.rounds,
        arguments.seconds,
        if plan.access_log { "on" } else { "off" },
    )
}
