//! One visit to one proxy: start it, load it, read what it took, stop it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::backend::Backend;
use crate::bulk;
use crate::load::{self, Load, Outcome, Pace, Protocol, Target, Until};
use crate::measure::{self, Counter, Usage};
use crate::proxies::{Job, Proxy, Running, Scenario};
use crate::tls::Tls;

/// Requests over which system calls are counted.
const COUNTED: u64 = 20_000;

/// Requests before the memory of idle connections is measured, so that what a first request allocates is there already.
const FIRST_REQUESTS: u64 = 500;

/// How long connections stay idle before memory is read: a proxy may give memory back only after a while.
const IDLE: Duration = Duration::from_secs(5);

/// How every visit of a run is made.
pub struct Plan<'a> {
    pub folder: &'a Path,
    pub proxy_core: usize,
    pub load_core: usize,
    pub access_log: bool,
    pub window: Duration,
    pub warm_up: Duration,
    pub idle_connections: usize,
    pub counter: Option<Counter>,
}

/// What one visit found. Times in µs, memory in KB; NaN: not measured.
#[derive(Clone, Copy)]
pub struct Sample {
    pub proxy: Proxy,
    /// Closed loop: requests per second, the share of its core that the proxy used, CPU time per request.
    pub rate: f64,
    pub busy: f64,
    pub cpu: f64,
    pub cpu_user: f64,
    pub cpu_kernel: f64,
    pub switches: f64,
    pub calls: f64,
    /// Open loop at the fixed rate.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub cpu_open: f64,
    pub switches_open: f64,
    /// The proxy is too slow for that rate; it has no latencies then, for they would only tell how long the window was.
    pub overloaded: bool,
    pub memory_start: f64,
    pub memory_load: f64,
    pub memory_idle: f64,
    pub failed: u64,
    /// Share of either core that something else used during the closed loop (the larger of the two).
    pub foreign: f64,
}

/// The connections and streams of the load: 32 requests in flight in either protocol.
fn target(scenario: Scenario, running: &Running) -> Target {
    let (connections, streams) = match scenario.downstream() {
        Protocol::Http1 => (32, 1),
        Protocol::Http2 => (4, 8),
    };
    Target {
        address: running.address(),
        protocol: scenario.downstream(),
        tls: scenario.tls(),
        connections,
        streams,
    }
}

/// The closed-loop rate of a proxy; to choose the rate of the open loop.
pub fn closed_rate(plan: &Plan<'_>, scenario: Scenario, proxy: Proxy) -> Result<f64> {
    let backend = Backend::start()?;
    let running = proxy.start(&job(plan, scenario, &backend))?;
    let mut load = Load::open(target(scenario, &running))?;
    load.run(Pace::Closed, Until::Elapsed(plan.warm_up))?;
    let outcome = load.run(
        Pace::Closed,
        Until::Elapsed(plan.window.min(Duration::from_secs(3))),
    )?;
    Ok(outcome.completed as f64 / outcome.elapsed.as_secs_f64())
}

/// One round's visit to one proxy. `seed` decides the arrivals of the open loop: give all proxies of a round the same.
pub fn visit(plan: &Plan<'_>, scenario: Scenario, proxy: Proxy, open_rate: f64, seed: u64) -> Result<Sample> {
    let backend = Backend::start()?;
    let mut job = job(plan, scenario, &backend);
    if scenario == Scenario::TcpBulk {
        job.backend = bulk::serve()?;
    }
    let running = proxy.start(&job)?;
    if proxy != Proxy::Direct && scenario != Scenario::H2cBoth && !scenario.is_relay() && !scenario.is_pair()
    {
        same_work(&backend, scenario)?;
    }
    let processes = running.processes()?;
    let memory_start = resident(&processes)?;
    if scenario.is_counted() {
        return counted(plan, scenario, proxy, &running, memory_start);
    }

    let mut load = Load::open(target(scenario, &running))?;
    let warm = load
        .run(Pace::Closed, Until::Elapsed(plan.warm_up))
        .context("warm-up")?;

    let quiet = Quiet::begin(plan)?;
    let (closed, usage) =
        under(&processes, || load.run(Pace::Closed, Until::Elapsed(plan.window))).context("closed loop")?;
    let foreign = quiet.end(plan, usage.cpu, closed.elapsed)?;

    let pace = Pace::Open {
        per_second: open_rate,
        seed,
    };
    let (open, usage_open) =
        under(&processes, || load.run(pace, Until::Elapsed(plan.window))).context("open loop")?;
    let memory_load = resident(&processes)?;

    let calls = match plan.counter {
        Some(counter) if !processes.is_empty() => {
            let counting = counter.start(&processes, plan.folder.join("calls.txt"))?;
            let counted = load
                .run(Pace::Closed, Until::Requests(COUNTED))
                .context("counted requests")?;
            counting.finish()? as f64 / counted.completed.max(1) as f64
        }
        _ => f64::NAN,
    };
    drop(load);
    drop(running);

    let memory_idle = if plan.idle_connections > 0 && proxy != Proxy::Direct {
        idle_memory(plan, &job, proxy).context("idle connections")?
    } else {
        f64::NAN
    };

    let per_request = |what: f64, outcome: &Outcome| {
        if processes.is_empty() {
            f64::NAN
        } else {
            what / outcome.completed.max(1) as f64
        }
    };
    // A backlog that takes longer than this to work off is one of a proxy that cannot follow, not of a hiccup.
    let overloaded = open.unsent > 0 || open.elapsed > plan.window.mul_f64(1.05);
    let quantile = |share| {
        if overloaded {
            f64::NAN
        } else {
            open.latency.value_at_quantile(share) as f64 / 1e3
        }
    };
    let cpu = per_request(micros(usage.cpu), &closed);
    let elapsed = closed.elapsed.as_secs_f64();
    Ok(Sample {
        proxy,
        rate: closed.completed as f64 / elapsed,
        busy: usage.cpu.as_secs_f64() / elapsed,
        cpu,
        cpu_user: cpu * usage.user_share(),
        cpu_kernel: cpu * (1.0 - usage.user_share()),
        switches: per_request(usage.switches as f64, &closed),
        calls,
        p50: quantile(0.5),
        p99: quantile(0.99),
        p999: quantile(0.999),
        cpu_open: per_request(micros(usage_open.cpu), &open),
        switches_open: per_request(usage_open.switches as f64, &open),
        overloaded,
        memory_start,
        memory_load,
        memory_idle,
        failed: warm.failed + closed.failed + (open.failed - open.unsent),
        foreign,
    })
}

/// A visit of which only is measured how much is done at what cost.
fn counted(
    plan: &Plan<'_>,
    scenario: Scenario,
    proxy: Proxy,
    running: &Running,
    memory_start: f64,
) -> Result<Sample> {
    let processes = running.processes()?;
    let run = match scenario {
        Scenario::TcpBulk => bulk::take,
        Scenario::TcpConnections => bulk::connections,
        _ => load::handshakes,
    };
    run(running.address(), plan.warm_up).context("warm-up")?;
    let quiet = Quiet::begin(plan)?;
    let (closed, usage) = under(&processes, || run(running.address(), plan.window))?;
    let foreign = quiet.end(plan, usage.cpu, closed.elapsed)?;
    let each = |what: f64| what / closed.completed.max(1) as f64;
    let elapsed = closed.elapsed.as_secs_f64();
    let cpu = each(micros(usage.cpu));
    Ok(Sample {
        proxy,
        rate: closed.completed as f64 / elapsed,
        busy: usage.cpu.as_secs_f64() / elapsed,
        cpu,
        cpu_user: cpu * usage.user_share(),
        cpu_kernel: cpu * (1.0 - usage.user_share()),
        switches: each(usage.switches as f64),
        calls: f64::NAN,
        p50: f64::NAN,
        p99: f64::NAN,
        p999: f64::NAN,
        cpu_open: f64::NAN,
        switches_open: f64::NAN,
        overloaded: false,
        memory_start,
        memory_load: resident(&processes)?,
        memory_idle: f64::NAN,
        failed: closed.failed,
        foreign,
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Watches for work on the two cores that is none of this benchmark's.
struct Quiet {
    proxy: Duration,
    load: Duration,
    own: Usage,
}

impl Quiet {
    fn begin(plan: &Plan<'_>) -> Result<Self> {
        Ok(Self {
            proxy: measure::core_busy(plan.proxy_core)?,
            load: measure::core_busy(plan.load_core)?,
            own: Usage::read(&[std::process::id()])?,
        })
    }

    /// The larger of the two shares of a core that went to something else.
    fn end(self, plan: &Plan<'_>, proxy_cpu: Duration, elapsed: Duration) -> Result<f64> {
        let now = Self::begin(plan)?;
        let proxy = (now.proxy - self.proxy).saturating_sub(proxy_cpu);
        let load = (now.load - self.load).saturating_sub(now.own.since(self.own).cpu);
        Ok(proxy.max(load).as_secs_f64() / elapsed.as_secs_f64())
    }
}

fn job<'a>(plan: &'a Plan<'_>, scenario: Scenario, backend: &Backend) -> Job<'a> {
    Job {
        scenario,
        backend: backend.address(),
        access_log: plan.access_log,
        core: plan.proxy_core,
        folder: plan.folder,
    }
}

/// Runs `what` and tells what the processes used meanwhile.
fn under(processes: &[u32], what: impl FnOnce() -> Result<Outcome>) -> Result<(Outcome, Usage)> {
    let before = Usage::read(processes)?;
    let outcome = what()?;
    let usage = Usage::read(processes)?.since(before);
    Ok((outcome, usage))
}

fn resident(processes: &[u32]) -> Result<f64> {
    if processes.is_empty() {
        Ok(f64::NAN)
    } else {
        measure::resident_kb(processes)
    }
}

/// Comparing is fair only if each proxy tells the backend the same: look at what arrived. (Of a pair the second has the first for its client
/// and says what it thinks of it; that each does its part by itself is seen without a pair.)
fn same_work(backend: &Backend, scenario: Scenario) -> Result<()> {
    let head = backend.last_head();
    // Envoy tells its own address instead of a client's on the loopback, so the value is free.
    for field in [
        "x-forwarded-for: ",
        match scenario.tls() {
            Tls::None => "x-forwarded-proto: http\r\n",
            Tls::Http1 | Tls::Http2 => "x-forwarded-proto: https\r\n",
        },
        "x-forwarded-host: bench.test\r\n",
    ] {
        if !head.contains(field) {
            bail!("the backend did not get {}, but:\n{head}", field.trim_end());
        }
    }
    Ok(())
}

/// KB of resident memory that one idle downstream connection costs a freshly started proxy.
fn idle_memory(plan: &Plan<'_>, job: &Job<'_>, proxy: Proxy) -> Result<f64> {
    let running = proxy.start(job)?;
    let processes = running.processes()?;
    let count = plan.idle_connections;
    let mut load = Load::open(Target {
        connections: 1,
        streams: 1,
        ..target(job.scenario, &running)
    })?;
    load.run(Pace::Closed, Until::Requests(FIRST_REQUESTS))?;
    drop(load);

    let before = measure::resident_kb(&processes)?;
    let after = match job.scenario.downstream() {
        Protocol::Http1 => settled(
            &processes,
            load::idle_http1(running.address(), job.scenario.tls(), count)?,
        )?,
        Protocol::Http2 => settled(
            &processes,
            load::idle_http2(running.address(), job.scenario.tls(), count)?,
        )?,
    };
    Ok((after - before) / count as f64)
}

/// Memory after the connections have been idle for a while; they are held meanwhile.
fn settled<T>(processes: &[u32], _held: Vec<T>) -> Result<f64> {
    thread::sleep(IDLE);
    measure::resident_kb(processes)
}
