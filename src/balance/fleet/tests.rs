//! Picks, and what is learned of endpoints that fail or are idle.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{InFlight, Observed, Reason};
use super::*;
use crate::model::{Backend, BackendName};

const SECOND: u64 = 1_000_000;
const NOW: Micros = Micros(100 * SECOND);

const ALL: [Balance; 6] = Balance::ALL;

fn policy(balance: Balance) -> Backend {
    let mut policy = Backend::new(BackendName::new("web"));
    policy.balance = balance;
    policy
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::at(([10, 0, 0, 1], port).into())
}

fn fleet(balance: Balance, ports: std::ops::RangeInclusive<u16>) -> Fleet {
    let endpoints: Vec<Endpoint> = ports.map(endpoint).collect();
    Fleet::build(Arc::new(policy(balance)), &endpoints, None, Micros(0))
}

fn cell(fleet: &Fleet, port: u16) -> &Arc<EndpointCell> {
    let mut candidates = fleet.candidates().iter();
    &candidates
        .find(|candidate| candidate.endpoint.address.port() == port)
        .unwrap()
        .cell
}

/// What many picks come to, by port.
fn picks(fleet: &Fleet, tried: &[u64]) -> BTreeMap<u16, usize> {
    let mut rng = Rng::with_seed(7);
    let mut ports = BTreeMap::new();
    for _ in 0..3000 {
        match fleet.pick(NOW, &mut rng, tried) {
            Pick::Endpoint(candidate) => *ports.entry(candidate.endpoint.address.port()).or_default() += 1,
            other => panic!("{other:?}"),
        }
    }
    ports
}

fn picked(fleet: &Fleet, tried: &[u64]) -> Vec<u16> {
    picks(fleet, tried).into_keys().collect()
}

#[test]
fn an_empty_fleet_has_nobody() {
    for balance in ALL {
        let fleet = Fleet::empty(Arc::new(policy(balance)));
        assert!(matches!(fleet.pick(NOW, &mut Rng::with_seed(1), &[]), Pick::None));
    }
}

#[test]
fn who_may_be_picked() {
    // Of four endpoints: sick, ejected, full, tried; who is picked then.
    let cases: [[&[u16]; 5]; 10] = [
        [&[], &[], &[], &[], &[1, 2, 3, 4]],
        [&[1], &[], &[], &[], &[2, 3, 4]],
        [&[], &[1], &[], &[], &[2, 3, 4]],
        [&[1], &[2], &[], &[], &[3, 4]],
        [&[1, 2], &[3], &[], &[], &[1, 2, 3, 4]], // panic
        [&[], &[], &[1, 2], &[], &[3, 4]],
        [&[], &[], &[], &[1, 2], &[3, 4]],
        [&[], &[], &[], &[1, 2, 3, 4], &[1, 2, 3, 4]],
        [&[1], &[], &[2], &[3], &[4]],
        [&[1], &[2], &[], &[3, 4], &[3, 4]], // tried, but well
    ];
    for balance in ALL {
        for [sick, out, full, tried, expected] in cases {
            let mut policy = policy(balance);
            policy.limits.max_in_flight = 1;
            let endpoints: Vec<Endpoint> = (1..=4).map(endpoint).collect();
            let fleet = Fleet::build(Arc::new(policy), &endpoints, None, Micros(0));
            sick.iter()
                .for_each(|port| cell(&fleet, *port).set_checked_health(false, NOW));
            out.iter().for_each(|port| {
                cell(&fleet, *port).eject(NOW.plus(Duration::from_secs(9)), 1, Reason::Failures)
            });
            let _full: Vec<InFlight> = full.iter().map(|port| cell(&fleet, *port).start(NOW)).collect();
            let tried: Vec<u64> = tried.iter().map(|port| cell(&fleet, *port).id()).collect();
            let case = format!("{balance:?}: sick {sick:?} out {out:?} full {full:?} tried {tried:?}");
            assert_eq!(picked(&fleet, &tried), expected, "{case}");
        }
    }
}

#[test]
fn full_endpoints_are_waited_for() {
    for balance in ALL {
        for size in [2, 40] {
            let mut policy = policy(balance);
            policy.limits.max_in_flight = 1;
            let endpoints: Vec<Endpoint> = (1..=size).map(endpoint).collect();
            let fleet = Fleet::build(Arc::new(policy), &endpoints, None, Micros(0));
            let mut full: Vec<InFlight> = (1..=size).map(|port| cell(&fleet, port).start(NOW)).collect();
            let mut rng = Rng::with_seed(1);
            assert!(matches!(fleet.pick(NOW, &mut rng, &[]), Pick::Saturated));
            let tried = [cell(&fleet, size).id()];
            assert!(matches!(fleet.pick(NOW, &mut rng, &tried), Pick::Saturated));
            full.pop();
            assert!(
                matches!(fleet.pick(NOW, &mut rng, &tried), Pick::Saturated),
                "the free one was tried"
            );
            assert_eq!(picked(&fleet, &[]), [size]);
        }
    }
}

#[test]
fn a_large_fleet_finds_the_few_that_are_left_and_ignores_health_when_most_are_sick() {
    for balance in ALL {
        let fleet = fleet(balance, 1..=40);
        (1..=20).for_each(|port| cell(&fleet, port).set_checked_health(false, NOW));
        assert_eq!(picked(&fleet, &[]), (21..=40).collect::<Vec<_>>(), "{balance:?}");
        let tried: Vec<u64> = (22..=40).map(|port| cell(&fleet, port).id()).collect();
        assert_eq!(picked(&fleet, &tried), [21], "{balance:?}");

        cell(&fleet, 21).set_checked_health(false, NOW);
        let later = NOW.plus(Duration::from_secs(2));
        let mut rng = Rng::with_seed(3);
        let sick = |_: &u32| match fleet.pick(later, &mut rng, &[]) {
            Pick::Endpoint(candidate) => candidate.endpoint.address.port() <= 21,
            _ => false,
        };
        let sick = (0..1000).filter(sick).count();
        assert!((300..700).contains(&sick), "{balance:?}: {sick}");
    }
}

#[test]
fn round_robin_goes_round_and_gives_the_share_of_the_absent_to_all() {
    let fleet = fleet(Balance::RoundRobin, 1..=4);
    assert!(picks(&fleet, &[]).into_values().all(|count| count == 750));
    cell(&fleet, 1).set_checked_health(false, NOW);
    for (port, count) in picks(&fleet, &[]) {
        assert!((940..1060).contains(&count), "{port}: {count}");
    }
}

#[test]
fn an_untried_endpoint_is_tried_once_and_then_judged() {
    let fleet = fleet(Balance::LeastLatency, 1..=3);
    for port in [1, 2] {
        cell(&fleet, port)
            .start(NOW)
            .head(Micros(NOW.0 + 5000), Observed::Answered);
    }
    assert_eq!(picked(&fleet, &[]), [3]);
    let mut first = cell(&fleet, 3).start(NOW);
    assert_eq!(picked(&fleet, &[]), [1, 2], "its first is on the way");
    first.head(Micros(NOW.0 + 50_000), Observed::Answered);
    assert_eq!(picked(&fleet, &[]), [1, 2], "it was slow");
}

/// Plays requests at a rate, of which the first endpoint fails all from the first second on. When it was ejected, in
/// milliseconds after its first failure, and how often it had failed.
fn until_ejected(size: u16, rate: u64, seed: u64) -> (u64, u32) {
    let fleet = fleet(Balance::LeastLatency, 1..=size);
    let mut rng = Rng::with_seed(seed);
    let (mut failures, mut first) = (0, None);
    for nth in 0..100 * rate {
        let now = Micros(NOW.0 + nth * SECOND / rate);
        let Pick::Endpoint(candidate) = fleet.pick(now, &mut rng, &[]) else {
            panic!()
        };
        let mut exchange = candidate.cell.start(now);
        if candidate.endpoint.address.port() != 1 || now.0 < NOW.0 + SECOND {
            exchange.head(Micros(now.0 + 5000), Observed::Answered);
            continue;
        }
        exchange.head(Micros(now.0 + 300), Observed::ServerError);
        failures += 1;
        let since = *first.get_or_insert(now);
        if fleet.judge(exchange.cell(), now).is_some() {
            return (now.saturating_since(since) / 1000, failures);
        }
    }
    panic!("{size} endpoints, {rate}/s: not ejected after {failures} failures");
}

#[test]
fn an_endpoint_that_fails_is_ejected_soon_and_after_no_more_failures_than_it_takes() {
    // Endpoints, requests per second, milliseconds on average.
    for (size, rate, most) in [
        (20, 300, 700),
        (20, 1000, 550),
        (3, 100, 900),
        (20, 10, 5000),
        (200, 1000, 600),
    ] {
        let runs = (1..=20).map(|seed| until_ejected(size, rate, seed));
        let times: Vec<u64> = runs
            .map(|(time, failures)| {
                assert_eq!(failures, 5, "{size} endpoints, {rate}/s");
                time
            })
            .collect();
        let mean = times.iter().sum::<u64>() / times.len() as u64;
        assert!(mean <= most, "{size} endpoints, {rate}/s: {mean} ms");
    }
}

#[test]
fn nobody_is_suspected_where_nothing_can_come_of_it() {
    for off in [true, false] {
        let mut policy = policy(Balance::LeastLatency);
        if off {
            policy.ejection = None;
        } else {
            policy.balance = Balance::LeastRequest;
        }
        let endpoints: Vec<Endpoint> = (1..=4).map(endpoint).collect();
        let fleet = Fleet::build(Arc::new(policy), &endpoints, None, Micros(0));
        let mut exchange = cell(&fleet, 1).start(NOW);
        exchange.head(NOW, Observed::ServerError);
        fleet.judge(exchange.cell(), NOW);
        drop(exchange);
        assert!(!fleet.has_suspects(NOW));
    }
}

#[test]
fn an_idle_endpoint_gets_a_trial_a_second() {
    for size in [4, 40] {
        let fleet = fleet(Balance::LeastLatency, 1..=size);
        for port in 1..=size {
            let latency = if port == 1 { 500_000 } else { 1000 };
            let mut exchange = cell(&fleet, port).start(Micros(NOW.0 - latency));
            exchange.head(NOW, Observed::Answered);
        }
        let mut rng = Rng::with_seed(5);
        let mut trials = 0;
        for step in 0..20_000 {
            // 2000 requests a second for ten seconds, each answered at once.
            let now = Micros(NOW.0 + step * 500);
            let Pick::Endpoint(candidate) = fleet.pick(now, &mut rng, &[]) else {
                panic!()
            };
            trials += usize::from(candidate.endpoint.address.port() == 1);
            let mut exchange = candidate.cell.start(now);
            let latency = if candidate.endpoint.address.port() == 1 {
                500_000
            } else {
                1000
            };
            exchange.head(Micros(now.0 + latency), Observed::Answered);
        }
        assert!((3..=10).contains(&trials), "{size}: {trials}");
    }
}
