//! What an endpoint is expected to cost the next exchange: least-latency and least-request.
//!
//! **Least-latency**: the time in microseconds until the endpoint answers, if it is given one more:
//!
//! ```text
//! latency = max(mean, mean age of what waits for its head), or mean / (1 + idle/5 s) if nothing waits
//! cost    = latency raised for failures * (1 + (in flight + chance) / weight)
//! ```
//!
//! - `latency * (1 + in flight)` is Finagle's and nginx's estimate: what is in flight stands in the way
//!   of what comes. What is in flight counts up to its last byte, what waits up to its head.
//! - The age of what waits notices a stall before any slow answer has come (nginx `least_time
//!   inflight`). Mean and age are compared, not added: the age of a healthy endpoint's exchanges is
//!   about half its latency.
//! - What is in flight is divided by the weight, the latency is not: a weight says how much an endpoint
//!   can carry, an idle one answers no sooner for it. Weights are relative to their mean, so that a
//!   weight of 100 for all changes nothing.
//! - `idle` is the time since the last exchange began there. An estimate that nobody renews is worth less
//!   by the second: an endpoint that was a little slower is tried again soon, one that was ten times
//!   slower in 45 s. For the sooner return of such a one see [`TRIAL_IDLE_US`].
//! - `chance` is drawn anew for each endpoint and pick, exponential with mean 1/8. It breaks ties, so that
//!   neither workers nor other proxies run to the same endpoint, in proportion to weights (the least of
//!   exponential draws divided by weights falls on each by its weight); and it lets endpoints whose
//!   latencies are within some 10 % share what one could carry alone. It is part of a request, so it
//!   matters when little is in flight, and not when much is.
//!
//! **Start-up**: an endpoint without a sample costs nothing as long as nothing is in flight there: it is
//! tried once, at once. While that first answer is out, it counts as one of 30 ms (linkerd's default) or
//! the age of what waits. **Recovery**: of all picks one in 128 is a trial: it goes to the endpoint that
//! has been idle longest, if that is a second or more and nothing waits there. So an endpoint that was
//! too slow for any traffic is seen again within about a second under load, while trials never are 1 %
//! of requests: a 99th percentile does not see them.
//!
//! **Least-request**: `cost = (in flight + chance/128) / weight`: the fewest in flight for the weight;
//! between equals by chance, in proportion to weights.

use super::estimate::UNKNOWN_US;
use super::waiting::signed;
use super::{EndpointCell, Micros};

/// Of this many picks one is a trial.
pub(super) const TRIAL_ONE_IN: u8 = 128;
/// An endpoint idle for this long is tried again, in microseconds.
pub(super) const TRIAL_IDLE_US: u64 = 1_000_000;

/// Idle time after which a mean counts half, in microseconds.
const FADE_US: f32 = 5_000_000.0;
/// "Latency" of an endpoint that was never tried: less than any real one.
const UNTRIED_US: f32 = 1e-6;
/// Mean of the chance in least-latency, in requests.
const LATENCY_CHANCE: f32 = 1.0 / 8.0;
/// Mean of the chance in least-request: below one request even at its largest (22 times the mean).
const REQUEST_CHANCE: f32 = 1.0 / 128.0;

/// Expected microseconds until an answer. `per_weight` is 1 by the weight, `chance` is exponential with mean 1.
pub(super) fn least_latency(cell: &EndpointCell, per_weight: f32, now: Micros, chance: f32) -> f32 {
    let in_flight = cell.in_flight() as f32;
    let load = 1.0 + (in_flight + chance * LATENCY_CHANCE) * per_weight;
    cell.raise(expected_us(cell, now)) * load
}

/// Requests in flight for the weight. `per_weight` is 1 by the weight, `chance` is exponential with mean 1.
pub(super) fn least_request(cell: &EndpointCell, per_weight: f32, chance: f32) -> f32 {
    (cell.in_flight() as f32 + chance * REQUEST_CHANCE) * per_weight
}

fn expected_us(cell: &EndpointCell, now: Micros) -> f32 {
    let waiting = cell.waiting(now);
    match cell.mean_us() {
        Some(mean) if waiting.count == 0 => mean * FADE_US / (FADE_US + signed(cell.idle_us(now))),
        Some(mean) => mean.max(waiting.mean_age_us),
        None if cell.in_flight() == 0 => UNTRIED_US,
        None => waiting.mean_age_us.max(UNKNOWN_US),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Observed;
    use super::*;

    const NOW: Micros = Micros(100_000_000);

    #[test]
    fn what_the_next_exchange_costs() {
        // Latency of past answers in microseconds, ages of what waits, time since the last answer, expected cost.
        let cases: [(Option<u64>, &[u64], u64, f32); 8] = [
            (None, &[], 0, UNTRIED_US),
            (None, &[1000], 0, 2.0 * UNKNOWN_US),
            (None, &[50_000, 70_000], 0, 3.0 * 60_000.0),
            (Some(1000), &[], 0, 1000.0),
            (Some(1000), &[500, 500], 0, 3.0 * 1000.0),
            (Some(1000), &[4000, 6000], 0, 3.0 * 5000.0),
            (Some(1000), &[], 5_000_000, 500.0),
            (Some(1000), &[100], 5_000_000, 2.0 * 1000.0), // not idle
        ];
        for (latency, ages, idle, expected) in cases {
            let cell = EndpointCell::new(([127, 0, 0, 1], 80).into(), Micros(0));
            if let Some(latency) = latency {
                let start = Micros(NOW.0 - idle);
                cell.start(start)
                    .head(Micros(start.0 + latency), Observed::Answered);
            }
            let _waits: Vec<_> = ages.iter().map(|age| cell.start(Micros(NOW.0 - age))).collect();
            let cost = least_latency(&cell, 1.0, NOW, 0.0);
            assert_eq!(cost, expected, "{latency:?} {ages:?} {idle}");
        }
    }

    #[test]
    fn weight_divides_what_is_in_flight_and_not_the_latency() {
        let cell = EndpointCell::new(([127, 0, 0, 1], 80).into(), Micros(0));
        cell.start(NOW).head(Micros(NOW.0 + 1000), Observed::Answered);
        assert_eq!(least_latency(&cell, 0.25, NOW, 0.0), 1000.0);
        let _four = [cell.start(NOW), cell.start(NOW), cell.start(NOW), cell.start(NOW)];
        assert_eq!(least_latency(&cell, 0.25, NOW, 0.0), 2000.0);
        assert_eq!(least_request(&cell, 0.25, 0.0), 1.0);
    }
}
