//! What an endpoint is expected to cost the next exchange: least-latency and least-request.
//!
//! **Least-latency**: the time in microseconds until the endpoint answers, if it is given one more:
//!
//! ```text
//! latency = max(mean, half the mean age of what waits for its head), or mean / (1 + idle/5 s) if nothing waits
//! load    = (in flight + chance) / weight
//! cost    = latency raised for failures * factor of its load reports * (1 + load + typical/2)
//! ```
//!
//! - `latency * (1 + load)` is Finagle's and nginx's estimate: what is in flight stands in the way of what comes. But where endpoints work
//!   on many at once that is too much: with 16 in flight everywhere, an idle endpoint that takes 2 s would be as good as one
//!   that takes 120 ms. `typical` is the mean load of the endpoints that are compared; half of it stands in the way of all of them
//!   alike. (Of it all would let noise between equal endpoints weigh more than what they have to do.) What is in flight counts up to its
//!   last byte, what waits up to its head.
//! - The age of what waits notices a stall before any slow answer has come (nginx `least_time inflight`). Half, because what has been in
//!   a queue for a while is older than most and no sign of a stall. Mean and age are compared, not added.
//! - What is in flight is divided by the weight, the latency is not: a weight says how much an endpoint
//!   can carry, an idle one answers no sooner for it. Weights are relative to their mean, so that a
//!   weight of 100 for all changes nothing.
//! - `idle` is the time since the last exchange began there. An estimate that nobody renews is worth less
//!   by the second: an endpoint that was a little slower is tried again soon. For one that was much slower see below.
//! - `factor`: see `load`. 1 without reports.
//! - `chance` is drawn anew for each endpoint and pick, exponential with mean 1/8. It breaks ties, so that
//!   neither workers nor other proxies run to the same endpoint, in proportion to weights (the least of
//!   exponential draws divided by weights falls on each by its weight); and it lets endpoints whose
//!   latencies are within some 10 % share what one could carry alone. It is part of a request, so it
//!   matters when little is in flight, and not when much is.
//!
//! **Start-up**: an endpoint without a sample costs nothing as long as nothing is in flight there: it is
//! tried once, at once. While that first answer is out, it counts as one of 30 ms (linkerd's default) or
//! the age of what waits. **Recovery**: of all picks one in 255 is a trial (`EndpointCell::claim_trial`): it goes to the endpoint that
//! has been idle longest, if that is a second or more and nothing waits there, and its answer replaces what was known. So an
//! endpoint that was too slow for any traffic is seen again within about a second under load, while trials never are 1 %
//! of requests: a 99th percentile does not see them. After four trials in vain the pause is 2 s, after eight 4 s.
//!
//! **Suspicion**: one failure makes an endpoint half as expensive again, and then hardly anybody goes there: it would be a long time until
//! it has failed often enough to be ejected, and each of these failures is a client's. So an endpoint whose last answers failed, fewer
//! than `consecutive_failures`, is asked again 100 ms after the last time, by one pick in eight, until it has answered or
//! is ejected. That costs four requests, and judges an endpoint half a second after its first failure at 300 requests a second, in some
//! seconds at 10. Where ejection is off, or has been refused because too many are out, nobody is suspected.
//!
//! **Least-request**: `cost = (in flight + chance/128) / weight`: the fewest in flight for the weight;
//! between equals by chance, in proportion to weights.
//!
//! What each of these is worth is measured in `docs/balancing`.

use super::choose::Cost;
use super::estimate::UNKNOWN_US;
use super::waiting::signed;
use super::{EndpointCell, Micros};

/// Of this many picks one is a trial.
pub(super) const TRIAL_ONE_IN: u8 = 255;
/// Idle time after which a mean counts half, in microseconds.
const FADE_US: f32 = 5_000_000.0;
/// Idle time that changes next to nothing (0.2 %) and is not reckoned with.
const SHORT_IDLE_US: u64 = 10_000;
/// Part of the mean age of what waits that counts as latency.
const AGE: f32 = 0.5;
/// "Latency" of an endpoint that was never tried: less than any real one.
const UNTRIED_US: f32 = 1e-6;
/// Mean of the chance in least-latency, in requests.
const LATENCY_CHANCE: f32 = 1.0 / 8.0;
/// Mean of the chance in least-request: below one request even at its largest (22 times the mean).
const REQUEST_CHANCE: f32 = 1.0 / 128.0;

/// Expected microseconds until an answer, and the load. `per_weight` is 1 by the weight, `chance` is exponential with mean 1.
#[inline(always)] // into the loop over all endpoints: a call for each is a tenth more
pub(super) fn least_latency(cell: &EndpointCell, per_weight: f32, now: Micros, chance: f32) -> Cost {
    let in_flight = cell.in_flight() as f32;
    Cost {
        latency: cell.raise(expected_us(cell, now)) * cell.reported_factor(now),
        load: (in_flight + chance * LATENCY_CHANCE) * per_weight,
    }
}

/// Requests in flight for the weight. `per_weight` is 1 by the weight, `chance` is exponential with mean 1.
pub(super) fn least_request(cell: &EndpointCell, per_weight: f32, chance: f32) -> Cost {
    Cost {
        latency: (cell.in_flight() as f32 + chance * REQUEST_CHANCE) * per_weight,
        load: 0.0,
    }
}

fn expected_us(cell: &EndpointCell, now: Micros) -> f32 {
    let waiting = cell.waiting(now);
    match cell.mean_us() {
        Some(mean) if waiting.count == 0 => faded(mean, cell.idle_us(now)),
        // Divided only where the age counts: a scan does this for every endpoint.
        Some(mean) if waiting.ages_us * AGE <= mean * signed(waiting.count.into()) => mean,
        Some(_) => waiting.mean_age_us() * AGE,
        None if cell.in_flight() == 0 => UNTRIED_US,
        None => waiting.mean_age_us().max(UNKNOWN_US),
    }
}

fn faded(mean: f32, idle_us: u64) -> f32 {
    if idle_us < SHORT_IDLE_US {
        mean
    } else {
        mean * FADE_US / (FADE_US + signed(idle_us))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LoadReport, Observed};
    use super::*;

    const NOW: Micros = Micros(100_000_000);

    #[test]
    fn what_the_next_exchange_costs() {
        // Latency of past answers in microseconds, ages of what waits, time since the last answer, expected latency.
        let cases: [(Option<u64>, &[u64], u64, f32); 8] = [
            (None, &[], 0, UNTRIED_US),
            (None, &[1000], 0, UNKNOWN_US),
            (None, &[50_000, 70_000], 0, 60_000.0),
            (Some(1000), &[], 0, 1000.0),
            (Some(1000), &[1500, 1500], 0, 1000.0),
            (Some(1000), &[4000, 6000], 0, 2500.0),
            (Some(1000), &[], 5_000_000, 500.0),
            (Some(1000), &[100], 5_000_000, 1000.0), // not idle
        ];
        for (latency, ages, idle, expected) in cases {
            let cell = EndpointCell::new(([127, 0, 0, 1], 80).into(), Micros(0));
            if let Some(latency) = latency {
                let start = Micros(NOW.0 - idle);
                cell.start(start)
                    .head(Micros(start.0 + latency), Observed::Answered);
            }
            let _waits: Vec<_> = ages.iter().map(|age| cell.start(Micros(NOW.0 - age))).collect();
            let expected = Cost {
                latency: expected,
                load: ages.len() as f32,
            };
            let cost = least_latency(&cell, 1.0, NOW, 0.0);
            assert_eq!(cost, expected, "{latency:?} {ages:?} {idle}");
        }
    }

    #[test]
    fn weight_divides_what_is_in_flight_and_not_the_latency() {
        let cell = EndpointCell::new(([127, 0, 0, 1], 80).into(), Micros(0));
        cell.start(NOW).head(Micros(NOW.0 + 1000), Observed::Answered);
        let cost = |load| Cost {
            latency: 1000.0,
            load,
        };
        assert_eq!(least_latency(&cell, 0.25, NOW, 0.0), cost(0.0));
        let _four = [cell.start(NOW), cell.start(NOW), cell.start(NOW), cell.start(NOW)];
        assert_eq!(least_latency(&cell, 0.25, NOW, 0.0), cost(1.0));
        assert_eq!(least_request(&cell, 0.25, 0.0).latency, 1.0);
    }

    #[test]
    fn what_an_endpoint_says_of_its_load_changes_its_latency() {
        let cell = EndpointCell::new(([127, 0, 0, 1], 80).into(), Micros(0));
        for in_flight in [3.0, 15.0] {
            let mut exchange = cell.start(NOW);
            exchange.report(&LoadReport {
                in_flight: Some(in_flight),
                ..LoadReport::default()
            });
            exchange.head(Micros(NOW.0 + 1000), Observed::Answered);
        }
        let latency = |age_us| least_latency(&cell, 1.0, Micros(NOW.0 + 1000 + age_us), 0.0).latency;
        assert!((1900.0..2000.0).contains(&latency(0)), "{}", latency(0));
        assert!(latency(10_000_000) < 1000.0);
    }
}
