//! `tidegate demo`: the proxy at work, with nothing else installed.
//!
//! Some pods (small servers in this process), a folder of real Kubernetes objects, the real proxy that follows the folder,
//! and a client. A story makes pods slow, sick and gone, and edits the objects; the view shows what the proxy makes of it.
//! With [`once`] the story is short and its end is a verdict.
//!
//! ```text
//! story (when) ─steps─► stage (pods, folder, proxy, client) ─samples─► view (lines) ─► screen
//! ```
//! Everything listens on the loopback only, and the folder goes with the process.

mod folder;
mod load;
pub mod once;
mod pod;
mod sample;
mod screen;
mod stage;
mod story;
mod view;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::load::Tally;
use self::sample::{Mood, Sample};
use self::screen::Screen;
use self::stage::{Done, Ending, Role, Stage};
use self::story::Step;
use self::view::{Event, Frame, Row, Standing, Totals, millis};

/// How the demo is set.
#[derive(Clone, Debug)]
pub struct Options {
    /// The proxy's port on the loopback; 0 is any that is free.
    pub port: u16,
    /// Where the dashboard is; if not given, on port 9901, or on any when that is taken.
    pub admin: Option<SocketAddr>,
    /// Requests per second.
    pub rate: u32,
    /// Data-plane threads; as many as there are cores if not given.
    pub workers: Option<usize>,
    /// Whether the folder stays.
    pub keep: bool,
}

/// How often the view is painted anew.
const FRAME: Duration = Duration::from_millis(250);
/// Frames from one line to the next, on a pipe.
const FRAMES_PER_LINE: u64 = 4;
/// Figures "of late" are those of so many frames: 3 s.
const LATELY: usize = 12;
/// Events that are kept; the view shows what it has room for.
const MAX_EVENTS: usize = 64;

/// Tells the story until a signal comes or nobody watches any more. Call it within a multi-thread runtime.
///
/// # Errors
/// What keeps the stage from being set: a port that is taken, a folder that cannot be written.
pub async fn play(options: &Options) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut screen = Screen::open();
    let stage = Stage::open(options).await?;
    let mut play = Play::new(stage);
    tokio::select! {
        told = play.tell(&mut screen) => told?,
        () = signals.any() => {}
    }
    let _ = screen.say("\nending: the client first, then the proxy, the pods last\n");
    tokio::select! {
        ending = play.stage.close() => {
            let _ = screen.say(&farewell(&ending));
        }
        () = signals.any() => {}
    }
    Ok(())
}

/// The signals that end the demo.
pub(crate) struct Signals([Signal; 3]);

impl Signals {
    /// From now on these signals no longer end the process by themselves: what is open can be closed.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot wait for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them.
    pub(crate) async fn any(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The story being told.
struct Play {
    stage: Stage,
    started: Instant,
    told_until: Option<Duration>,
    before: Sample,
    /// Of the last frames, the oldest first.
    late: VecDeque<(Duration, Sample, Tally)>,
    ejections: u64,
    events: VecDeque<Event>,
}

impl Play {
    fn new(stage: Stage) -> Self {
        Self {
            before: stage.sample(),
            stage,
            started: Instant::now(),
            told_until: None,
            late: VecDeque::new(),
            ejections: 0,
            events: VecDeque::new(),
        }
    }

    /// Returns only when there is nobody to tell it to, or a step cannot be carried out.
    async fn tell(&mut self, screen: &mut Screen) -> anyhow::Result<()> {
        let mut ticks = interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fresh = Vec::new();
        for number in 0_u64.. {
            ticks.tick().await;
            fresh.extend(self.go_on().await?);
            if !screen.is_terminal() && number % FRAMES_PER_LINE != 0 {
                continue;
            }
            let frame = self.frame();
            if screen.show(&frame, &fresh).is_err() {
                break; // the reader has seen enough
            }
            fresh.clear();
        }
        Ok(())
    }

    /// Carries out what is due, and gathers what is new.
    async fn go_on(&mut self) -> anyhow::Result<Vec<Event>> {
        let now = self.started.elapsed();
        let mut fresh = Vec::new();
        for step in story::due(self.told_until, now) {
            let done = self.stage.perform(step).await?;
            fresh.push(event(self.started.elapsed(), step, done));
            let after = self.stage.sample();
            self.before = sample::without_story(&self.before, &after);
        }
        self.told_until = Some(now);

        let at = self.started.elapsed();
        let sample = self.stage.sample();
        self.ejections += sample.ejections_since(&self.before);
        for (mood, text) in sample::news(&self.before, &sample) {
            fresh.push(Event { at, mood, text });
        }
        self.events.extend(fresh.iter().cloned());
        let surplus = self.events.len().saturating_sub(MAX_EVENTS);
        self.events.drain(..surplus);
        self.before = sample.clone();
        self.late.push_back((at, sample, self.stage.tally()));
        if self.late.len() > LATELY {
            self.late.pop_front();
        }
        Ok(fresh)
    }

    fn frame(&self) -> Frame {
        let elapsed = self.started.elapsed();
        let (mut rows, mut totals) = (Vec::new(), Totals::default());
        if let (Some(first), Some(last)) = (self.late.front(), self.late.back()) {
            let seconds = (last.0.saturating_sub(first.0)).as_secs_f64();
            rows = table(self.stage.roles(), &first.1, &last.1, seconds);
            totals = figures(&first.2, &last.2, seconds);
            totals.retries = last.1.retries;
            totals.generation = last.1.generation;
        }
        totals.ejections = self.ejections;
        totals.changes = self.stage.changes();
        totals.slowest_change = self.stage.slowest_change();
        Frame {
            elapsed,
            proxy: self.stage.proxy(),
            admin: self.stage.admin(),
            folder: self.stage.folder().display().to_string(),
            says: story::act(elapsed).says,
            rows,
            totals,
            events: self.events.iter().cloned().collect(),
        }
    }
}

fn event(at: Duration, step: Step, done: Done) -> Event {
    let text = match done {
        Done::Plainly => step.to_string(),
        Done::Live(took) => format!("{step}; live after {}", millis(took)),
        Done::NotLive => format!("{step}; not live yet"),
        Done::LeftAlone => format!("(not done, the file is yours now) {step}"),
    };
    let mood = match step {
        Step::Behave(_, pod::Behaviour::Healthy) => Mood::Good,
        Step::Behave(..) | Step::Crash(_) => Mood::Bad,
        _ => Mood::Plain,
    };
    Event { at, mood, text }
}

/// The pods of the story in their order, then whatever else the proxy has: rates are those between two samples.
fn table(
    roles: &std::collections::BTreeMap<&'static str, Role>,
    first: &Sample,
    last: &Sample,
    seconds: f64,
) -> Vec<Row> {
    let attempts = |address: &SocketAddr| {
        let Some(now) = last.endpoints.get(address) else {
            return 0;
        };
        let before = first.endpoints.get(address).filter(|before| before.id == now.id);
        now.requests - before.map_or(0, |before| before.requests).min(now.requests)
    };
    let all: u64 = last.endpoints.keys().map(attempts).sum();
    let row = |name: String, address: Option<SocketAddr>, pod: &'static str| {
        let endpoint = address.and_then(|address| last.endpoints.get(&address));
        let attempts = address.map_or(0, |address| attempts(&address)) as f64;
        Row {
            name,
            address,
            pod,
            standing: match endpoint {
                None => Standing::Unlisted,
                Some(endpoint) => match endpoint.ejected_for {
                    Some(left) => Standing::Ejected(left),
                    None if endpoint.draining => Standing::Draining,
                    None => Standing::InUse,
                },
            },
            per_second: if seconds > 0.0 { attempts / seconds } else { 0.0 },
            share: attempts / (all.max(1)) as f64,
            latency_us: endpoint.and_then(|endpoint| endpoint.latency_us),
            in_flight: endpoint.map_or(0, |endpoint| endpoint.in_flight),
            failures: endpoint.map_or(0, |endpoint| endpoint.failures),
        }
    };
    let mut rows: Vec<Row> = roles
        .iter()
        .map(|(name, role)| {
            let pod = role.pod().map_or("gone", |pod| pod.behaviour().word());
            row((*name).to_owned(), role.address, pod)
        })
        .collect();
    for (address, endpoint) in &last.endpoints {
        if !roles.values().any(|role| role.address == Some(*address)) {
            let name = endpoint.label.clone().unwrap_or_else(|| "(no name)".to_owned());
            rows.push(row(name, Some(*address), "?"));
        }
    }
    rows
}

/// What the client saw between two tallies, and in all.
fn figures(first: &Tally, last: &Tally, seconds: f64) -> Totals {
    let late = last.latency.since(&first.latency);
    let requests = last.requests.saturating_sub(first.requests);
    Totals {
        requests: last.requests,
        failures: last.failures,
        per_second: if seconds > 0.0 {
            requests as f64 / seconds
        } else {
            0.0
        },
        p50_us: late.quantile(0.5),
        p99_us: late.quantile(0.99),
        ..Totals::default()
    }
}

fn farewell(ending: &Ending) -> String {
    let folder = match &ending.kept {
        Some(path) => format!("the manifests are in {}", path.display()),
        None => "the folder is removed".to_owned(),
    };
    format!(
        "{} requests, {} failed; {} retries, {} files changed; {folder}\n",
        ending.tally.requests, ending.tally.failures, ending.sample.retries, ending.changes
    )
}

#[cfg(test)]
mod tests;
