//! The live view: a frame of plain data becomes lines for a terminal. Pure; the screen paints them.
//!
//! It tells both sides: what a pod is (the demo knows, it plays it) and what the proxy makes of it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::sample::Mood;

/// All that is shown at one moment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Since the start.
    pub elapsed: Duration,
    /// Where the proxy is.
    pub proxy: SocketAddr,
    /// Where its dashboard is.
    pub admin: Option<SocketAddr>,
    /// Where the manifests are.
    pub folder: String,
    /// What there is to see now.
    pub says: &'static str,
    /// The pods.
    pub rows: Vec<Row>,
    /// The client's and the proxy's figures.
    pub totals: Totals,
    /// What happened, the newest last.
    pub events: Vec<Event>,
}

/// A pod, and what the proxy makes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The pod's name, or the address when it has none.
    pub name: String,
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// What it is, in a word.
    pub pod: &'static str,
    /// What the proxy makes of it.
    pub standing: Standing,
    /// Attempts per second.
    pub per_second: f64,
    /// Its part of all attempts, 0 to 1.
    pub share: f64,
    /// Mean latency in microseconds.
    pub latency_us: Option<u64>,
    /// Exchanges that began and did not end.
    pub in_flight: u32,
    /// Attempts that failed.
    pub failures: u64,
}

/// What the proxy makes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests.
    InUse,
    /// It is set aside for so long yet.
    Ejected(Duration),
    /// It is ending and takes nothing new.
    Draining,
    /// No EndpointSlice lists it.
    Unlisted,
}

/// The client's and the proxy's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Requests that the client made.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Requests per second, lately.
    pub per_second: f64,
    /// Median latency of late, in microseconds, as the client sees it.
    pub p50_us: Option<u64>,
    /// The latency of late that 99 % of requests stay below.
    pub p99_us: Option<u64>,
    /// Attempts after the first.
    pub retries: u64,
    /// Times that an endpoint was set aside.
    pub ejections: u64,
    /// Files written and removed.
    pub changes: u64,
    /// The longest time from a file's change to its being live.
    pub slowest_change: Option<Duration>,
    /// Counts the changes of listeners and routes.
    pub generation: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Since the start.
    pub at: Duration,
    /// How it is to be taken.
    pub mood: Mood,
    /// In words.
    pub text: String,
}

/// How a piece of text is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// Of little weight.
    Dim,
    /// A heading.
    Bold,
    /// All is well.
    Good,
    /// Something to look at.
    Notable,
    /// Something is wrong.
    Bad,
}

/// A line, in pieces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line(pub Vec<(Paint, String)>);

/// What the terminal is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Characters per line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// Whether it can show more than ASCII.
    pub unicode: bool,
}

/// The width from which whole addresses are shown, not only ports.
const WIDE: usize = 100;
/// The width without the bar, with ports and with whole addresses.
const COLUMNS: usize = 71;
const WIDE_COLUMNS: usize = COLUMNS + 9;
/// The longest bar.
const MAX_BAR: usize = 30;

/// The lines of a frame; not more than the terminal has, and none longer than it is wide.
pub fn lines(frame: &Frame, looks: Looks) -> Vec<Line> {
    let mut lines = head(frame, looks.width);
    lines.push(Line::default());
    lines.push(Line::of(Paint::Notable, format!(" {}", frame.says)));
    lines.push(Line::default());
    lines.push(Line::of(Paint::Bold, table_head(looks)));
    lines.extend(frame.rows.iter().map(|row| table_row(row, looks)));
    lines.push(Line::default());
    lines.extend(totals(&frame.totals));
    lines.push(Line::default());
    // The last line of the terminal stays empty: to write into its corner would scroll.
    let room = looks.height.saturating_sub(lines.len() + 1);
    let first = frame.events.len().saturating_sub(room);
    lines.extend(frame.events[first..].iter().map(event_line));
    lines.truncate(looks.height.saturating_sub(1));
    lines.iter_mut().for_each(|line| line.cut(looks.width));
    lines
}

/// The frame on one line, for a pipe.
pub fn one_line(frame: &Frame) -> String {
    let totals = &frame.totals;
    let mut line = format!(
        "{:>5} {:>4.0} req/s  failed {}  p50 {}  p99 {}  retries {}  ejections {} ",
        clock(frame.elapsed),
        totals.per_second,
        totals.failures,
        duration_us(totals.p50_us),
        duration_us(totals.p99_us),
        totals.retries,
        totals.ejections,
    );
    for row in &frame.rows {
        if row.standing == Standing::Unlisted {
            continue;
        }
        let _ = write!(line, " {} {:.0}%", row.name, row.share * 100.0);
        match row.standing {
            Standing::InUse | Standing::Unlisted => {}
            Standing::Ejected(_) | Standing::Draining => {
                let _ = write!(line, " ({})", standing(row.standing));
            }
        }
    }
    line
}

/// An event on one line, for a pipe.
pub fn event_text(event: &Event) -> String {
    format!(
        "{:>5} {}",
        clock(event.at),
        event.text.replace(char::is_control, " ")
    )
}

fn head(frame: &Frame, width: usize) -> Vec<Line> {
    let title = " tidegate demo: proxy, pods, client, Kubernetes objects; Ctrl-C ends it";
    let since = clock(frame.elapsed);
    let gap = width.saturating_sub(title.len() + since.len() + 1);
    let mut first = Line::of(Paint::Bold, title);
    if gap > 0 {
        first.push(Paint::Dim, format!("{:gap$}{since}", ""));
    }
    let labelled = |label: &str, text: String, hint: String| {
        let mut line = Line::of(Paint::Dim, format!(" {label:<11}"));
        line.push(Paint::Plain, text);
        line.push(Paint::Dim, hint);
        line
    };
    let mut lines = vec![
        first,
        labelled(
            "proxy",
            format!("http://{}", frame.proxy),
            format!("   curl -i http://{}/", frame.proxy),
        ),
    ];
    if let Some(admin) = frame.admin {
        lines.push(labelled(
            "dashboard",
            format!("http://{admin}"),
            "   open it in a browser".to_owned(),
        ));
    }
    lines.push(labelled(
        "manifests",
        frame.folder.clone(),
        "   edit these files and watch".to_owned(),
    ));
    lines
}

fn bar_width(looks: Looks) -> usize {
    let columns = if looks.width >= WIDE {
        WIDE_COLUMNS
    } else {
        COLUMNS
    };
    looks.width.saturating_sub(columns).min(MAX_BAR)
}

fn table_head(looks: Looks) -> String {
    let bar = bar_width(looks);
    let (address, place) = if looks.width >= WIDE {
        ("ADDRESS", 15)
    } else {
        ("PORT", 6)
    };
    format!(
        " {:<11} {address:<place$} {:<7} {:<11} {:>5} {:>4} {:bar$} {:>7} {:>4} {:>6}",
        "POD", "IT IS", "PROXY SAYS", "REQ/S", "", "SHARE", "LATENCY", "BUSY", "FAILED"
    )
}

fn table_row(row: &Row, looks: Looks) -> Line {
    let wide = looks.width >= WIDE;
    let address = match row.address {
        None => "-".to_owned(),
        Some(address) if wide => address.to_string(),
        Some(address) => format!(":{}", address.port()),
    };
    let place = if wide { 15 } else { 6 };
    let quiet = row.standing == Standing::Unlisted;
    let base = if quiet { Paint::Dim } else { Paint::Plain };
    let mut line = Line::of(base, format!(" {:<11} {address:<place$} ", row.name));
    let pod = match row.pod {
        "healthy" => Paint::Good,
        "slow" => Paint::Notable,
        "gone" | "?" => Paint::Dim,
        _ => Paint::Bad,
    };
    line.push(pod, format!("{:<7} ", row.pod));
    let said = match row.standing {
        Standing::InUse => Paint::Good,
        Standing::Ejected(_) => Paint::Bad,
        Standing::Draining => Paint::Notable,
        Standing::Unlisted => Paint::Dim,
    };
    line.push(said, format!("{:<11} ", standing(row.standing)));
    if quiet && row.per_second == 0.0 {
        return line;
    }
    line.push(
        base,
        format!(
            "{:>5} {:>3.0}% ",
            rate(row.per_second),
            (row.share * 100.0).clamp(0.0, 100.0)
        ),
    );
    line.push(Paint::Good, bar(row.share, bar_width(looks), looks.unicode));
    line.push(
        base,
        format!(" {:>7} {:>4} ", duration_us(row.latency_us), row.in_flight),
    );
    let failed = if row.failures > 0 { Paint::Notable } else { base };
    line.push(failed, format!("{:>6}", row.failures));
    line
}

fn totals(totals: &Totals) -> [Line; 2] {
    let mut client = Line::of(Paint::Bold, " client  ");
    client.push(
        Paint::Plain,
        format!("{:.0} req/s, {} requests, ", totals.per_second, totals.requests),
    );
    let failed = match totals.failures {
        0 => (Paint::Good, "0 failed".to_owned()),
        number => (Paint::Bad, format!("{number} FAILED")),
    };
    client.push(failed.0, failed.1);
    client.push(
        Paint::Plain,
        format!(
            "; p50 {}, p99 {}",
            duration_us(totals.p50_us),
            duration_us(totals.p99_us)
        ),
    );
    let mut proxy = Line::of(Paint::Bold, " proxy   ");
    let slowest = totals
        .slowest_change
        .map_or_else(String::new, |slowest| format!(", live in {}", millis(slowest)));
    proxy.push(
        Paint::Plain,
        format!(
            "retries {}, ejections {}, file changes {}{slowest}; snapshot {}",
            totals.retries, totals.ejections, totals.changes, totals.generation
        ),
    );
    [client, proxy]
}

fn event_line(event: &Event) -> Line {
    let mut line = Line::of(Paint::Dim, format!(" {:>6}  ", clock(event.at)));
    let paint = match event.mood {
        Mood::Plain => Paint::Plain,
        Mood::Bad => Paint::Bad,
        Mood::Good => Paint::Good,
    };
    line.push(paint, event.text.as_str());
    line
}

fn standing(standing: Standing) -> String {
    match standing {
        Standing::InUse => "in use".to_owned(),
        Standing::Ejected(left) => format!("ejected {:.0}s", left.as_secs_f64().ceil()),
        Standing::Draining => "draining".to_owned(),
        Standing::Unlisted => "unlisted".to_owned(),
    }
}

/// A full bar is half of all requests, so that a fifth and a third are told apart in ten characters.
fn bar(share: f64, width: usize, unicode: bool) -> String {
    let filled = (((share * 2.0).clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
    let mark = if unicode { "█" } else { "#" };
    format!("{}{}", mark.repeat(filled), " ".repeat(width - filled))
}

/// A rate: whole, but one that is rare with a digit.
fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 9.95 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

fn duration_us(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| millis(Duration::from_micros(us)))
}

/// A duration in milliseconds, with a digit while it is short.
pub fn millis(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    if ms < 99.95 {
        format!("{ms:.1}ms")
    } else {
        format!("{ms:.0}ms")
    }
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

impl Line {
    fn of(paint: Paint, text: impl Into<String>) -> Self {
        Self(vec![(paint, text.into())])
    }

    fn push(&mut self, paint: Paint, text: impl Into<String>) {
        self.0.push((paint, text.into()));
    }

    /// Cuts off what is beyond a number of characters. What is shown is ASCII and the bar's blocks, each one column wide;
    /// a foreign text in a message may still wrap. Names and messages may come from a file: control characters go.
    fn cut(&mut self, width: usize) {
        let mut left = width;
        for (_, text) in &mut self.0 {
            if text.contains(char::is_control) {
                *text = text.replace(char::is_control, " ");
            }
            let end = text.char_indices().nth(left).map_or(text.len(), |(at, _)| at);
            text.truncate(end);
            left -= text.chars().count().min(left);
        }
    }

    /// Without paint.
    pub fn plain(&self) -> String {
        let text: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests;
