//! The load: a closed loop, an open loop, and idle connections.
//!
//! *Closed loop*: every slot (an HTTP/1.1 connection, or one of several streams of an HTTP/2 connection) sends its next
//! request when the last one is answered. It finds the rate at which something is full; its latencies say only
//! `slots / rate`.
//!
//! *Open loop*: requests have planned times (a Poisson process with a fixed seed, the same for every proxy of a round)
//! that do not depend on answers. A latency runs from the planned time, also when the request had to wait for a free slot:
//! what a stall does to the requests behind it is counted, not omitted.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use crate::poll::Poller;
use crate::tls::{Tls, Wire};
use crate::wire::{self, h2};

/// With no answer for so long the run is over: every loop here ends.
const STALL: Duration = Duration::from_secs(5);

/// How long after its end an open loop may go on to send what it is late with.
const GRACE: Duration = Duration::from_secs(1);

/// A proxy that closes connections may do so this often in one run.
const RECONNECTS: u32 = 256;

/// What the client speaks (HTTP/2: with prior knowledge in the clear, by ALPN behind TLS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Where to, how, behind which TLS, and over how many connections and streams of each.
#[derive(Clone, Copy)]
pub struct Target {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub tls: Tls,
    pub connections: usize,
    pub streams: usize,
}

/// When the next request is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    Closed,
    Open { per_second: f64, seed: u64 },
}

/// When a run ends; what is in flight then is waited for.
#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    Requests(u64),
}

/// What a run came to.
pub struct Outcome {
    /// Good answers.
    pub completed: u64,
    /// Answers that were not the backend's, requests that got none, and planned requests that were never sent.
    pub failed: u64,
    /// Planned requests that were still unsent when an open loop gave up: the rate was too high.
    pub unsent: u64,
    /// Connections that the other side closed between two requests.
    pub reconnects: u32,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    /// Of a run in which nothing has happened yet.
    pub fn empty() -> Result<Self> {
        Ok(Self {
            completed: 0,
            failed: 0,
            unsent: 0,
            reconnects: 0,
            elapsed: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, 100_000_000_000, 3).context("the histogram's bounds")?,
        })
    }
}

/// A set of open connections to one target; several runs may use it.
pub struct Load {
    target: Target,
    poller: Poller,
    connections: Vec<Connection>,
    /// One entry, the index of the connection, for each slot that has nothing in flight.
    free: VecDeque<usize>,
    scratch: Vec<u8>,
    epoch: Instant,
}

impl Load {
    /// Opens all connections.
    pub fn open(target: Target) -> Result<Self> {
        let poller = Poller::new()?;
        let mut connections = Vec::new();
        for token in 0..target.connections {
            let connection = Connection::open(&target)?;
            poller.add(connection.stream.socket(), token)?;
            connections.push(connection);
        }
        // Interleaved, so that few requests in flight spread over all connections.
        let free = (0..target.streams).flat_map(|_| 0..target.connections).collect();
        Ok(Self {
            target,
            poller,
            connections,
            free,
            scratch: vec![0; 64 * 1024],
            epoch: Instant::now(),
        })
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Sends requests at `pace` until `until`.
    pub fn run(&mut self, pace: Pace, until: Until) -> Result<Outcome> {
        let begin = self.now();
        let (end, mut left) = match until {
            Until::Elapsed(time) => (begin + time.as_nanos() as u64, u64::MAX),
            Until::Requests(count) => (u64::MAX, count),
        };
        let mut schedule = Schedule::new(pace, begin, end);
        let mut outcome = Outcome {
            completed: 0,
            failed: 0,
            unsent: 0,
            reconnects: 0,
            elapsed: Duration::ZERO,
            // From 1 ns to 100 s with three digits: nothing is outside.
            latency: Histogram::new_with_bounds(1, 100_000_000_000, 3).context("the histogram's bounds")?,
        };
        let mut in_flight = 0_usize;
        let mut last_answer = begin;
        let mut touched = Vec::new();
        let mut ready = Vec::new();
        let mut started = Vec::new();
        loop {
            let now = self.now();
            schedule.advance(now);
            let over = now >= end.saturating_add(schedule.grace());
            while left > 0 && !over && !self.free.is_empty() {
                let Some(planned) = schedule.next(now) else { break };
                let Some(index) = self.free.pop_front() else { break };
                self.connections[index].request(planned);
                touched.push(index);
                in_flight += 1;
                left -= 1;
            }
            for index in touched.drain(..) {
                // A failed write shows as the end of the connection at its next read.
                self.connections[index].flush();
            }
            if in_flight == 0 && (left == 0 || over || schedule.is_done(now)) {
                break;
            }
            if in_flight > 0 && now > last_answer + STALL.as_nanos() as u64 {
                bail!("no answer for {STALL:?}, {in_flight} requests in flight");
            }

            self.poller
                .wait(schedule.pause(now, self.free.is_empty()), &mut ready)?;
            if ready.is_empty() {
                continue;
            }
            for &index in &ready {
                let connection = &mut self.connections[index];
                let alive = connection.receive(&mut self.scratch, &mut started);
                let now = self.epoch.elapsed().as_nanos() as u64;
                for Done { planned, good } in started.drain(..) {
                    in_flight -= 1;
                    last_answer = now;
                    self.free.push_back(index);
                    if good {
                        outcome.completed += 1;
                        outcome.latency.saturating_record(now - planned);
                    } else {
                        outcome.failed += 1;
                    }
                }
                if let Err(why) = alive {
                    let lost = connection.in_flight.len();
                    in_flight -= lost;
                    outcome.failed += lost as u64;
                    outcome.reconnects += 1;
                    if outcome.reconnects > RECONNECTS {
                        bail!("{RECONNECTS} connections were closed in one run; the last: {why}");
                    }
                    *connection = Connection::open(&self.target)?;
                    self.poller.add(connection.stream.socket(), index)?;
                    self.free.extend(std::iter::repeat_n(index, lost));
                    last_answer = now;
                }
            }
            if in_flight == 0 {
                last_answer = self.now(); // an idle open loop does not stall
            }
        }
        outcome.elapsed = Duration::from_nanos(self.now() - begin);
        outcome.unsent = schedule.unsent();
        outcome.failed += outcome.unsent;
        Ok(outcome)
    }
}

/// The planned times of a run.
struct Schedule {
    pace: Pace,
    end: u64,
    random: fastrand::Rng,
    due: u64,
    /// Planned times that have come and whose request is not sent yet. Bounded by rate × length of the run.
    late: VecDeque<u64>,
}

impl Schedule {
    fn new(pace: Pace, begin: u64, end: u64) -> Self {
        let seed = if let Pace::Open { seed, .. } = pace {
            seed
        } else {
            0
        };
        Self {
            pace,
            end,
            random: fastrand::Rng::with_seed(seed),
            due: begin,
            late: VecDeque::new(),
        }
    }

    /// Plans everything up to `now`.
    fn advance(&mut self, now: u64) {
        let Pace::Open { per_second, .. } = self.pace else {
            return;
        };
        while self.due <= now && self.due < self.end {
            self.late.push_back(self.due);
            // Exponential gaps; 1 - u is never 0.
            let gap = -(1.0 - self.random.f64()).ln() / per_second;
            self.due += (gap * 1e9) as u64 + 1;
        }
    }

    /// The planned time of the request to send now.
    fn next(&mut self, now: u64) -> Option<u64> {
        match self.pace {
            Pace::Closed => (now < self.end).then_some(now),
            Pace::Open { .. } => self.late.pop_front(),
        }
    }

    fn is_done(&self, now: u64) -> bool {
        match self.pace {
            Pace::Closed => now >= self.end,
            Pace::Open { .. } => self.due >= self.end && self.late.is_empty(),
        }
    }

    /// How long to wait for input.
    fn pause(&self, now: u64, full: bool) -> Duration {
        match self.pace {
            Pace::Open { .. } if !full && self.due < self.end => {
                Duration::from_nanos(self.due.saturating_sub(now).min(STALL.as_nanos() as u64))
            }
            _ => Duration::from_millis(100),
        }
    }

    fn grace(&self) -> u64 {
        match self.pace {
            Pace::Closed => 0,
            Pace::Open { .. } => GRACE.as_nanos() as u64,
        }
    }

    fn unsent(&self) -> u64 {
        self.late.len() as u64
    }
}

/// One request that has its answer.
struct Done {
    planned: u64,
    good: bool,
}

struct InFlight {
    /// 0 for HTTP/1.1.
    stream: u32,
    planned: u64,
    good: bool,
    body: usize,
}

struct Connection {
    stream: Wire,
    protocol: Protocol,
    input: Vec<u8>,
    output: Vec<u8>,
    in_flight: Vec<InFlight>,
    next_stream: u32,
    /// HTTP/2 body bytes since the last WINDOW_UPDATE of the connection.
    unacknowledged: u32,
}

impl Connection {
    fn open(target: &Target) -> Result<Self> {
        let stream = Wire::open(target.address, target.tls, STALL)?;
        stream.socket().set_nonblocking(true)?;
        let mut output = Vec::new();
        if target.protocol == Protocol::Http2 {
            h2::write_client_opening(&mut output);
        }
        Ok(Self {
            stream,
            protocol: target.protocol,
            input: Vec::new(),
            output,
            in_flight: Vec::new(),
            next_stream: 1,
            unacknowledged: 0,
        })
    }

    /// Puts a request into the output.
    fn request(&mut self, planned: u64) {
        let stream = match self.protocol {
            Protocol::Http1 => {
                self.output.extend_from_slice(wire::H1_REQUEST);
                0
            }
            Protocol::Http2 => {
                let stream = self.next_stream;
                self.next_stream += 2;
                let flags = h2::END_STREAM | h2::END_HEADERS;
                if stream == 1 {
                    h2::write(&mut self.output, h2::HEADERS, flags, stream, &h2::first_request());
                } else {
                    h2::write(&mut self.output, h2::HEADERS, flags, stream, h2::NEXT_REQUEST);
                }
                stream
            }
        };
        self.in_flight.push(InFlight {
            stream,
            planned,
            good: false,
            body: 0,
        });
    }

    /// Writes the output. There is never more than a few hundred bytes of it, so that a full send buffer means that the
    /// other side reads no more; the run then ends as stalled.
    fn flush(&mut self) {
        if self.output.is_empty() {
            return;
        }
        if self.stream.write_all(&self.output).is_err() {
            let _ = self.stream.socket().shutdown(std::net::Shutdown::Both);
        }
        self.output.clear();
    }

    /// Reads what is there and puts the requests that it answers into `done`. An error says why the connection is of no
    /// more use.
    fn receive(&mut self, scratch: &mut [u8], done: &mut Vec<Done>) -> Result<(), String> {
        let read = match self.stream.read(scratch) {
            Ok(0) => return Err("closed by the other side".into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        self.input.extend_from_slice(&scratch[..read]);
        let result = match self.protocol {
            Protocol::Http1 => self.receive_http1(done),
            Protocol::Http2 => self.receive_http2(done),
        };
        self.flush();
        result
    }

    fn receive_http1(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        while let Some(answer) = wire::read_h1_answer(&self.input)? {
            self.input.drain(..answer.length);
            let Some(request) = self.in_flight.pop() else {
                return Err("an answer nobody asked for".into());
            };
            done.push(Done {
                planned: request.planned,
                good: answer.good,
            });
        }
        Ok(())
    }

    fn receive_http2(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        let mut used = 0;
        while let Some((frame, length)) = h2::read(&self.input[used..]) {
            used += length;
            match frame.kind {
                h2::HEADERS | h2::DATA | h2::RST_STREAM => {
                    let Some(at) = self
                        .in_flight
                        .iter()
                        .position(|request| request.stream == frame.stream)
                    else {
                        return Err(format!("a frame for stream {}, which is not open", frame.stream));
                    };
                    let request = &mut self.in_flight[at];
                    if frame.kind == h2::HEADERS {
                        request.good = h2::is_ok(frame.payload);
                    } else if frame.kind == h2::DATA {
                        request.body += frame.payload.len();
                        self.unacknowledged += frame.payload.len() as u32;
                    }
                    if frame.kind == h2::RST_STREAM || frame.flags & h2::END_STREAM != 0 {
                        let request = self.in_flight.swap_remove(at);
                        let good = request.good && request.body == wire::BODY && frame.kind != h2::RST_STREAM;
                        done.push(Done {
                            planned: request.planned,
                            good,
                        });
                    }
                }
                h2::CONTINUATION => return Err("a CONTINUATION frame".into()),
                h2::GOAWAY => {
                    let code = frame.payload.get(4..8).unwrap_or_default();
                    return Err(format!("GOAWAY {code:?}"));
                }
                h2::SETTINGS if frame.flags & h2::ACK == 0 => {
                    h2::write(&mut self.output, h2::SETTINGS, h2::ACK, 0, &[]);
                }
                h2::PING if frame.flags & h2::ACK == 0 => {
                    h2::write(&mut self.output, h2::PING, h2::ACK, 0, frame.payload);
                }
                _ => {}
            }
        }
        self.input.drain(..used);
        if self.unacknowledged > 1 << 30 {
            h2::write_window_update(&mut self.output, self.unacknowledged);
            self.unacknowledged = 0;
        }
        Ok(())
    }
}

/// Makes handshakes, one after the other, each on a connection of its own that is reset after it.
pub fn handshakes(address: SocketAddr, until: Duration) -> Result<Outcome> {
    let begin = Instant::now();
    let mut outcome = Outcome::empty()?;
    while begin.elapsed() < until {
        let wire = Wire::open(address, Tls::Http1, STALL)?;
        // Otherwise the client's port is kept for a minute, and they run out.
        socket2::SockRef::from(wire.socket()).set_linger(Some(Duration::ZERO))?;
        outcome.completed += 1;
    }
    outcome.elapsed = begin.elapsed();
    Ok(outcome)
}

/// One HTTP/1.1 exchange on a connection that stays open.
fn once(stream: &mut Wire) -> Result<()> {
    stream.write_all(wire::H1_REQUEST)?;
    let mut input = Vec::new();
    let mut scratch = [0; 4096];
    loop {
        let read = stream.read(&mut scratch).context("no answer")?;
        if read == 0 {
            bail!("closed before an answer came");
        }
        input.extend_from_slice(&scratch[..read]);
        match wire::read_h1_answer(&input) {
            Ok(None) => {}
            Ok(Some(answer)) if answer.good => return Ok(()),
            Ok(Some(_)) => bail!("not the backend's answer: {}", String::from_utf8_lossy(&input)),
            Err(why) => bail!(why),
        }
    }
}

/// Opens `count` connections, one after the other, with one HTTP/1.1 exchange on each, and keeps them open.
pub fn idle_http1(address: SocketAddr, tls: Tls, count: usize) -> Result<Vec<Wire>> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = Wire::open(address, tls, STALL)?;
        once(&mut stream).with_context(|| format!("idle connection {number}"))?;
        streams.push(stream);
    }
    Ok(streams)
}

/// Opens `count` HTTP/2 connections with one exchange on each, and keeps them open.
pub fn idle_http2(address: SocketAddr, tls: Tls, count: usize) -> Result<Vec<Load>> {
    let target = Target {
        address,
        protocol: Protocol::Http2,
        tls,
        connections: 1,
        streams: 1,
    };
    let mut loads = Vec::with_capacity(count);
    for number in 0..count {
        let mut load = Load::open(target)?;
        let outcome = load
            .run(Pace::Closed, Until::Requests(1))
            .with_context(|| format!("idle connection {number}"))?;
        if outcome.failed > 0 {
            bail!("idle connection {number} got no good answer");
        }
        load.scratch = Vec::new(); // 64 KiB that an idle connection does not need
        loads.push(load);
    }
    Ok(loads)
}

/// One exchange on a connection of its own; for a look whether a proxy is ready.
pub fn ask_once(target: &Target) -> Result<()> {
    let mut load = Load::open(Target {
        connections: 1,
        streams: 1,
        ..*target
    })?;
    let outcome = load.run(Pace::Closed, Until::Requests(1))?;
    if outcome.failed > 0 {
        bail!("not the backend's answer");
    }
    Ok(())
}
