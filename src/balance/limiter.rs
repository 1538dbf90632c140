//! The limiter: how many requests of a backend may wait for their response's head at once, over all endpoints and workers.
//!
//! What it goes by is pure and stands elsewhere: `gradient` finds the limit, `shed` says who goes, who waits and who is refused. Here are
//! the numbers that workers share, and the guards that keep them true: a [`Permit`] for each request that goes, a
//! [`Ticket`] for each that waits.
//!
//! A request holds its permit until the response's head comes. What it does afterwards costs the backend little for its
//! length: downloads, streams of events, gRPC streams and WebSockets hold no place, so that none of them has to be excluded.
//! `max_in_flight` bounds those.
//!
//! No locks: counts are atomics on lines of their own. A window is ended by whichever worker ends the first exchange after its time; it
//! wins by a compare-exchange, and the others go on. What an answer adds to a window is one addition to one word: 24 bits of count, 40 of the
//! sum of logarithms (14 bits each), which is room for 16 million answers of at most 5 s.
//!
//! Failures are no measure of how soon a backend answers: they count only as "at least so long", if that is longer than
//! usual. Without that, a backend of which all requests run into their deadline would never look slow, and one that refuses at once fast.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use super::Micros;
use super::gradient::{self, Bounds, Gradient, Window};
use super::shed::{self, Standing, Verdict};
use crate::model::{self, Criticality};

/// The limit of one backend; shared by all workers.
pub struct Limiter {
    bounds: Bounds,
    queue_timeout: Duration,
    counts: Counts,
    window: Sums,
    known: Known,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Entry {
    /// It goes.
    Go(Permit),
    /// It may wait.
    Wait(Ticket),
    /// It is refused.
    Refused,
}

/// How a limit stands, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitView {
    /// How many may go at once.
    pub limit: u32,
    /// How many do.
    pub in_flight: u32,
    /// How many wait.
    pub queued: u32,
    /// How many may.
    pub room: u32,
    /// Whether the queue has not been empty for as long as one may wait.
    pub stands: bool,
    /// Latency of the last windows in microseconds; none before the first.
    pub latency_us: Option<u64>,
    /// What is usual.
    pub usual_us: Option<u64>,
}

impl Limiter {
    /// What a policy asks for; none if it asks for no limit.
    pub fn of(policy: &model::Backend, now: Micros) -> Option<Arc<Self>> {
        let concurrency = policy.concurrency?;
        let bounds = Bounds::of(concurrency);
        let gradient = Gradient::new(&bounds);
        let limiter = Self {
            bounds,
            queue_timeout: policy.limits.queue_timeout,
            counts: Counts::default(),
            window: Sums::default(),
            known: Known::default(),
        };
        limiter.known.limit.store(gradient.limit as u32, Relaxed);
        limiter.known.room.store(shed::room(None), Relaxed);
        limiter.known.set(gradient);
        limiter.counts.last_empty.store(now.0, Relaxed);
        limiter.window.ends.store(now.0 + gradient.window_us(), Relaxed);
        Some(Arc::new(limiter))
    }

    /// A request comes.
    pub fn enter(self: &Arc<Self>, class: Criticality, now: Micros) -> Entry {
        if self.take(class) {
            return Entry::Go(self.permit(now));
        }
        self.note_full();
        let verdict = shed::verdict(class, &self.standing(now), self.queue_timeout);
        match verdict {
            Verdict::Go if self.take(class) => Entry::Go(self.permit(now)),
            Verdict::Wait(patience) => Entry::Wait(self.ticket(class, now, now.plus(patience))),
            Verdict::Go | Verdict::Refuse => Entry::Refused,
        }
    }

    /// A request comes that nobody would wait for.
    pub fn enter_if_idle(self: &Arc<Self>, now: Micros) -> Option<Permit> {
        self.take(Criticality::Sheddable).then(|| self.permit(now))
    }

    /// The numbers at this moment.
    pub fn view(&self, now: Micros) -> LimitView {
        let standing = self.standing(now);
        let known = self.known.now.load(Relaxed) != 0;
        let us =
            |bits: &AtomicU32| known.then(|| gradient::latency_us(f32::from_bits(bits.load(Relaxed))) as u64);
        LimitView {
            limit: standing.limit,
            in_flight: standing.in_flight,
            queued: standing.waiting.iter().sum(),
            room: standing.room,
            stands: standing.stands,
            latency_us: us(&self.known.now),
            usual_us: us(&self.known.usual),
        }
    }

    fn standing(&self, now: Micros) -> Standing {
        let waiting = self.counts.waiting.each_ref().map(|count| count.load(Relaxed));
        let empty = waiting.iter().all(|count| *count == 0);
        let last_empty = Micros(self.counts.last_empty.load(Relaxed));
        Standing {
            in_flight: self.counts.in_flight.load(Relaxed),
            limit: self.known.limit.load(Relaxed),
            waiting,
            room: self.known.room.load(Relaxed),
            stands: !empty && shed::stands(last_empty, now, self.queue_timeout),
        }
    }

    /// Takes a place, if the class may have one.
    fn take(&self, class: Criticality) -> bool {
        let counts = &self.counts;
        let waiting = counts.waiting.each_ref().map(|count| count.load(Relaxed));
        let limit = self.known.limit.load(Relaxed);
        let taken = counts.in_flight.fetch_update(Relaxed, Relaxed, |in_flight| {
            let standing = Standing {
                in_flight,
                limit,
                waiting,
                room: 0,
                stands: false,
            };
            shed::may_go(class, &standing).then(|| in_flight + 1)
        });
        let Ok(before) = taken else { return false };
        // Two workers that write at once may lose the higher of two peaks: it comes again.
        if before >= counts.peak.load(Relaxed) {
            counts.peak.store(before + 1, Relaxed);
        }
        true
    }

    fn note_full(&self) {
        if !self.counts.full.load(Relaxed) {
            self.counts.full.store(true, Relaxed);
        }
    }

    fn permit(self: &Arc<Self>, now: Micros) -> Permit {
        Permit {
            limiter: Arc::clone(self),
            began: now,
        }
    }

    fn ticket(self: &Arc<Self>, class: Criticality, now: Micros, until: Micros) -> Ticket {
        let waiting = &self.counts.waiting;
        if waiting.iter().all(|count| count.load(Relaxed) == 0) {
            self.counts.last_empty.store(now.0, Relaxed);
        }
        if let Some(count) = waiting.get(class.index()) {
            count.fetch_add(1, Relaxed);
        }
        Ticket {
            limiter: Arc::clone(self),
            class,
            until,
        }
    }

    /// An exchange got its head so long after its attempt began, or failed.
    fn learn(&self, began: Micros, now: Micros, answered: bool) {
        let log2 = gradient::log2(now.saturating_since(began));
        if !answered && log2 as f32 / UNITS <= f32::from_bits(self.known.usual.load(Relaxed)) {
            return;
        }
        self.window.add(log2);
        let ends = self.window.ends.load(Relaxed);
        let few = self.window.answers() < u64::from(gradient::ENOUGH);
        if now.0 < ends || (few && now.0 - ends < gradient::LONGEST_US) {
            return;
        }
        // Whoever gets to say that the window is being ended ends it.
        let wins = self.window.ends.compare_exchange(ends, ENDING, Acquire, Relaxed);
        if wins.is_ok() {
            let window = self.end_window();
            let gradient = self.known.get().after(window, &self.bounds);
            self.known.set(gradient);
            self.known.limit.store(gradient.limit as u32, Relaxed);
            let room = shed::room(gradient.leave_within(self.queue_timeout));
            self.known.room.store(room, Relaxed);
            self.window.ends.store(now.0 + gradient.window_us(), Release);
        }
    }

    fn end_window(&self) -> Window {
        let (answers, sum) = self.window.take();
        let in_flight = self.counts.in_flight.load(Relaxed);
        Window {
            answers: u32::try_from(answers).unwrap_or(u32::MAX).max(1),
            latency: sum as f32 / UNITS / answers.max(1) as f32,
            peak: self.counts.peak.swap(in_flight, Relaxed),
            full: self.counts.full.swap(false, Relaxed),
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Limiter");
        debug
            .field("limit", &self.known.limit)
            .field("in_flight", &self.counts.in_flight)
            .finish_non_exhaustive()
    }
}

/// A window's end while it is being ended: later than every moment.
const ENDING: u64 = u64::MAX;
/// Units of a logarithm.
const UNITS: f32 = 256.0;
/// Bits of a window's sum.
const SUM_BITS: u32 = 40;

/// Who is there.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    in_flight: AtomicU32,
    /// The most of this window.
    peak: AtomicU32,
    /// Whether somebody was kept out in this window.
    full: AtomicBool,
    waiting: [AtomicU32; Criticality::ALL.len()],
    /// When somebody came to an empty queue last.
    last_empty: AtomicU64,
}

/// The answers of a window.
#[derive(Default)]
#[repr(align(128))]
struct Sums {
    /// Answers in the high bits, the sum of their logarithms in the low ones.
    word: AtomicU64,
    ends: AtomicU64,
}

impl Sums {
    fn add(&self, log2: u64) {
        self.word.fetch_add((1 << SUM_BITS) + log2, Relaxed);
    }

    fn answers(&self) -> u64 {
        self.word.load(Relaxed) >> SUM_BITS
    }

    /// Count and sum, and begins anew.
    fn take(&self) -> (u64, u64) {
        let word = self.word.swap(0, Relaxed);
        (word >> SUM_BITS, word & ((1 << SUM_BITS) - 1))
    }
}

/// What was learned: read by every request, written once in a window by whoever ends it.
#[derive(Default)]
#[repr(align(128))]
struct Known {
    limit: AtomicU32,
    room: AtomicU32,
    /// The fields of [`Gradient`].
    exact: AtomicU32,
    now: AtomicU32,
    usual: AtomicU32,
    before_full: AtomicU32,
    fell_from: AtomicU32,
    fell_at: AtomicU32,
    full_for: AtomicU32,
    seen: AtomicU32,
    starting: AtomicBool,
    holds: AtomicBool,
}

impl Known {
    fn get(&self) -> Gradient {
        let float = |bits: &AtomicU32| f32::from_bits(bits.load(Relaxed));
        let some = |value: f32| (value != 0.0).then_some(value);
        Gradient {
            limit: float(&self.exact),
            now: some(float(&self.now)),
            usual: float(&self.usual),
            before_full: float(&self.before_full),
            fell_from: some(float(&self.fell_from)).map(|from| (from, float(&self.fell_at))),
            starting: self.starting.load(Relaxed),
            holds: self.holds.load(Relaxed),
            full_for: self.full_for.load(Relaxed),
            seen: self.seen.load(Relaxed),
        }
    }

    fn set(&self, gradient: Gradient) {
        let (from, at) = gradient.fell_from.unwrap_or_default();
        for (cell, value) in [
            (&self.exact, gradient.limit),
            // 0 stands for none; the logarithm of 1 µs is a little more.
            (
                &self.now,
                gradient.now.map_or(0.0, |now| now.max(f32::MIN_POSITIVE)),
            ),
            (&self.usual, gradient.usual),
            (&self.before_full, gradient.before_full),
            (&self.fell_from, from),
            (&self.fell_at, at),
        ] {
            cell.store(value.to_bits(), Relaxed);
        }
        self.full_for.store(gradient.full_for, Relaxed);
        self.seen.store(gradient.seen, Relaxed);
        self.starting.store(gradient.starting, Relaxed);
        self.holds.store(gradient.holds, Relaxed);
    }
}

/// A place among those in flight, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    began: Micros,
}

impl Permit {
    /// Another attempt begins: latency counts from here.
    pub fn begin(&mut self, now: Micros) {
        self.began = now;
    }

    /// The response's head came (answered), or will not come.
    pub fn end(self, now: Micros, answered: bool) {
        self.limiter.learn(self.began, now, answered);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.counts.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    limiter: Arc<Limiter>,
    class: Criticality,
    until: Micros,
}

impl Ticket {
    /// Whether it is its turn now.
    pub fn look(&self, now: Micros) -> Option<Permit> {
        self.limiter.note_full();
        self.limiter.take(self.class).then(|| self.limiter.permit(now))
    }

    /// Until when it waits.
    pub fn until(&self) -> Micros {
        self.until
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(count) = self.limiter.counts.waiting.get(self.class.index()) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
