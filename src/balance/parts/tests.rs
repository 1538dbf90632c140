//! Tables of parts: priorities, zones, subsets.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::super::InFlight;
use super::super::Observed;
use super::*;
use crate::model::{Backend, BackendName};

const NOW: Micros = Micros(100_000_000);

fn endpoint(port: u16) -> Endpoint {
    Endpoint::at(([10, 0, 0, 1], port).into())
}

fn at_priority(port: u16, priority: u8) -> Endpoint {
    Endpoint {
        priority,
        ..endpoint(port)
    }
}

fn in_zone(port: u16, zone: &str) -> Endpoint {
    Endpoint {
        zone: Some(zone.into()),
        ..endpoint(port)
    }
}

fn hinted(port: u16, zones: &[&str]) -> Endpoint {
    Endpoint {
        hints: (!zones.is_empty()).then(|| zones.iter().map(|zone| Arc::from(*zone)).collect()),
        ..endpoint(port)
    }
}

fn fleet(endpoints: &[Endpoint], zone: Option<&str>, edit: impl FnOnce(&mut Backend)) -> Fleet {
    let mut policy = Backend::new(BackendName::new("web"));
    policy.balance = Balance::Random;
    edit(&mut policy);
    let vantage = Vantage::new(zone, "me");
    Fleet::build_at(&vantage, Arc::new(policy), endpoints, None, Micros(0))
}

fn port_of(candidate: &Candidate) -> u16 {
    candidate.endpoint.address.port()
}

fn cell(fleet: &Fleet, port: u16) -> &Arc<super::super::EndpointCell> {
    let mut candidates = fleet.candidates().iter();
    &candidates
        .find(|candidate| port_of(candidate) == port)
        .unwrap()
        .cell
}

/// The parts of many picks, by port, and how they came about.
fn picks(fleet: &Fleet, tried: &[u64]) -> (BTreeMap<u16, f64>, BTreeSet<&'static str>) {
    let mut rng = Rng::with_seed(9);
    let (mut ports, mut hows) = (BTreeMap::new(), BTreeSet::new());
    for _ in 0..4000 {
        let picked = fleet.pick_keyed(NOW, &mut rng, tried, None);
        let Pick::Endpoint(candidate) = picked.pick else {
            return (BTreeMap::new(), hows);
        };
        *ports.entry(port_of(candidate)).or_default() += 1.0 / 4000.0;
        hows.insert(picked.how.word());
    }
    (ports, hows)
}

fn picked(fleet: &Fleet, tried: &[u64]) -> Vec<u16> {
    picks(fleet, tried).0.into_keys().collect()
}

#[test]
fn levels_share_the_load() {
    // Available and all of the first levels, panic threshold, their loads and panics.
    type Case = (&'static [(u32, u32)], u8, &'static [(f32, bool)]);
    let cases: [Case; 9] = [
        (&[(10, 10), (5, 5)], 50, &[(1.0, false), (0.0, false)]),
        (&[(8, 10), (5, 5)], 50, &[(1.0, false), (0.0, false)]), // 80 % carry all
        (&[(5, 10), (5, 5)], 50, &[(0.7, false), (0.3, false)]),
        (&[(0, 10), (5, 5)], 50, &[(0.0, false), (1.0, false)]),
        (
            &[(0, 10), (5, 10), (10, 10)],
            50,
            &[(0.0, false), (0.7, false), (0.3, false)],
        ),
        (&[(2, 10), (2, 10)], 50, &[(0.5, true), (0.5, true)]),
        (&[(0, 10), (6, 10)], 50, &[(0.0, true), (1.0, false)]),
        (&[(0, 10), (0, 30)], 50, &[(0.25, true), (0.75, true)]),
        (&[(0, 10), (1, 10)], 0, &[(0.0, false), (1.0, false)]),
    ];
    for (given, percent, expected) in cases {
        let mut counts = [(0, 0); MOST_LEVELS];
        counts[..given.len()].copy_from_slice(given);
        let levels = Levels::of_counts(&counts, percent);
        for (level, (load, panic)) in levels.levels.iter().zip(expected) {
            assert!(
                (level.load - load).abs() < 1e-4 && level.panic == *panic,
                "{given:?}: {levels:?}"
            );
        }
    }
}

#[test]
fn endpoints_that_are_alike_are_one_part() {
    for (endpoints, zone) in [
        (vec![endpoint(1), endpoint(2)], Some("a")),
        (vec![in_zone(1, "a"), in_zone(2, "b")], None),
        (vec![in_zone(1, "b"), in_zone(2, "c")], Some("a")),
        (vec![hinted(1, &["a"]), hinted(2, &[])], Some("a")), // one has none
        (vec![hinted(1, &["b"]), hinted(2, &["b"])], Some("a")),
    ] {
        for locality in [Locality::Hints, Locality::Zone, Locality::Off] {
            if locality == Locality::Hints || endpoints[0].hints.is_none() {
                let fleet = fleet(&endpoints, zone, |policy| policy.locality = locality);
                assert!(fleet.parts.is_empty(), "{endpoints:?} {locality:?}");
                assert_eq!(picked(&fleet, &[]), [1, 2]);
            }
        }
    }
}

#[test]
fn later_priorities_take_over() {
    let endpoints: Vec<Endpoint> = (1..=4)
        .map(|port| at_priority(port, 0))
        .chain((5..=8).map(|port| at_priority(port, 1)))
        .chain([at_priority(9, 3)])
        .collect();
    // Sick ones, who is picked then, and how.
    for (sick, expected, hows) in [
        (&[][..], &[1, 2, 3, 4][..], &["policy"][..]),
        (&[1], &[2, 3, 4], &["policy"]),
        (&[1, 2], &[3, 4, 5, 6, 7, 8], &["failover", "policy"]),
        (&[1, 2, 3, 4], &[5, 6, 7, 8], &["failover"]),
        (&[1, 2, 3, 4, 5, 6, 7, 8], &[9], &["failover"]),
        (
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            &["panic"],
        ),
    ] {
        let fleet = fleet(&endpoints, None, |_| {});
        sick.iter()
            .for_each(|port| cell(&fleet, *port).set_checked_health(false, NOW));
        let (ports, how) = picks(&fleet, &[]);
        assert_eq!(ports.into_keys().collect::<Vec<_>>(), expected, "{sick:?}");
        assert_eq!(how.into_iter().collect::<Vec<_>>(), hows, "{sick:?}");
    }
    let fleet = fleet(&endpoints, None, |policy| policy.panic_percent = 0);
    (1..=9).for_each(|port| cell(&fleet, port).set_checked_health(false, NOW));
    assert!(picked(&fleet, &[]).is_empty(), "nobody panics");
}

#[test]
fn full_and_tried_endpoints_lead_to_other_parts() {
    let endpoints = [at_priority(1, 0), at_priority(2, 1)];
    let fleet = fleet(&endpoints, None, |policy| policy.limits.max_in_flight = 1);
    assert_eq!(picked(&fleet, &[cell(&fleet, 1).id()]), [2], "it was tried");
    let both = [cell(&fleet, 1).id(), cell(&fleet, 2).id()];
    assert_eq!(picked(&fleet, &both), [1], "all were tried");
    let _full: InFlight = cell(&fleet, 1).start(NOW);
    assert_eq!(picked(&fleet, &[]), [2], "it is full");
    let _full_too = cell(&fleet, 2).start(NOW);
    let picked = fleet.pick(NOW, &mut Rng::with_seed(1), &[]);
    assert!(matches!(picked, Pick::Saturated));
}

#[test]
fn near_endpoints_go_first() {
    let zones: Vec<Endpoint> = (1..=4)
        .map(|port| in_zone(port, "a"))
        .chain((5..=8).map(|port| in_zone(port, "b")))
        .collect();
    let hints: Vec<Endpoint> = (1..=4)
        .map(|port| hinted(port, &["a", "c"]))
        .chain((5..=8).map(|port| hinted(port, &["b"])))
        .collect();
    for (endpoints, locality) in [(zones, Locality::Zone), (hints, Locality::Hints)] {
        for (sick, far) in [
            (&[][..], 0.0),
            (&[1], 0.0),
            (&[1, 2], 0.3),
            (&[1, 2, 3, 4], 1.0),
            (&[5, 6, 7, 8], 0.0),
            (&[1, 2, 3, 5, 6, 7, 8], 0.0), // panic, and nobody is well elsewhere
        ] {
            let fleet = fleet(&endpoints, Some("a"), |policy| policy.locality = locality);
            sick.iter()
                .for_each(|port| cell(&fleet, *port).set_checked_health(false, NOW));
            let (ports, _) = picks(&fleet, &[]);
            let share: f64 = ports
                .iter()
                .filter(|(port, _)| **port > 4)
                .map(|(_, share)| share)
                .sum();
            assert!((share - far).abs() < 0.05, "{locality:?} {sick:?}: {share}");
        }
    }
}

#[test]
fn requests_spill_over_when_near_endpoints_would_answer_late() {
    let endpoints = [in_zone(1, "a"), in_zone(2, "b")];
    // Latencies near and far, in flight near, whether they spill over.
    for (near_us, far_us, in_flight, spills) in [
        (1000, 1000, 0, false),
        (1900, 1000, 0, false),
        (2100, 1000, 0, true),
        (500, 1000, 2, false),
        (500, 1000, 4, true),
        (100, 1000, 10, false),
    ] {
        let fleet = fleet(&endpoints, Some("a"), |policy| {
            (policy.balance, policy.locality) = (Balance::LeastLatency, Locality::Zone);
        });
        for (port, latency) in [(1, near_us), (2, far_us)] {
            cell(&fleet, port)
                .start(Micros(NOW.0 - latency))
                .head(NOW, Observed::Answered);
        }
        let _flying: Vec<InFlight> = (0..in_flight).map(|_| cell(&fleet, 1).start(NOW)).collect();
        let (ports, _) = picks(&fleet, &[]);
        let far = ports.get(&2).copied().unwrap_or_default();
        // One in 128 goes there to learn.
        assert_eq!(far > 0.5, spills, "{near_us} {far_us} {in_flight}: {far}");
        assert!(spills || far < 0.02, "{near_us} {far_us} {in_flight}: {far}");
    }
}

#[test]
fn a_far_endpoint_of_which_nothing_is_known_draws_nobody() {
    let endpoints = [in_zone(1, "a"), in_zone(2, "b")];
    let fleet = fleet(&endpoints, Some("a"), |policy| {
        (policy.balance, policy.locality) = (Balance::LeastLatency, Locality::Zone);
    });
    cell(&fleet, 1)
        .start(Micros(NOW.0 - 5_000_000))
        .head(NOW, Observed::Answered);
    let (ports, hows) = picks(&fleet, &[]);
    assert!(ports[&2] > 0.0 && ports[&2] < 0.02, "{ports:?}");
    assert_eq!(hows.into_iter().collect::<Vec<_>>(), ["policy", "trial"]);
}

#[test]
fn a_key_stays_with_its_part() {
    let endpoints: Vec<Endpoint> = (1..=4)
        .map(|port| at_priority(port, 0))
        .chain((5..=8).map(|port| at_priority(port, 1)))
        .collect();
    let fleet = fleet(&endpoints, None, |policy| policy.balance = Balance::RingHash);
    cell(&fleet, 1).set_checked_health(false, NOW);
    cell(&fleet, 2).set_checked_health(false, NOW);
    let mut rng = Rng::with_seed(1);
    for key in 0..100 {
        let mut ports = BTreeSet::new();
        for _ in 0..20 {
            let Pick::Endpoint(candidate) = fleet.pick_keyed(NOW, &mut rng, &[], Some(mix(key))).pick else {
                panic!()
            };
            ports.insert(port_of(candidate));
        }
        assert_eq!(ports.len(), 1, "{key}");
    }
}

#[test]
fn parts_are_told() {
    let endpoints = [
        in_zone(1, "a"),
        in_zone(2, "b"),
        Endpoint {
            priority: 1,
            ..in_zone(3, "b")
        },
    ];
    let fleet = fleet(&endpoints, Some("a"), |policy| policy.locality = Locality::Zone);
    let told: Vec<(u8, bool, f32)> = fleet
        .parts(NOW)
        .into_iter()
        .map(|part| (part.priority, part.near, part.share))
        .collect();
    assert_eq!(told, [(0, true, 1.0), (0, false, 0.0), (1, false, 0.0)]);
    assert!(!fleet.is_panicking(NOW));
    (1..=3).for_each(|port| cell(&fleet, port).set_checked_health(false, NOW));
    assert!(fleet.is_panicking(NOW));
}

#[test]
fn cursors_and_cells_pass_from_fleet_to_fleet() {
    let endpoints: Vec<Endpoint> = (1..=6).map(|port| at_priority(port, (port % 2) as u8)).collect();
    let old = fleet(&endpoints, None, |_| {});
    let vantage = Vantage::default();
    let new = Fleet::build_at(
        &vantage,
        Arc::clone(old.policy()),
        &endpoints[1..],
        Some(&old),
        NOW,
    );
    for (before, after) in old.parts.iter().zip(&new.parts) {
        assert!(Arc::ptr_eq(&before.fleet.shared, &after.fleet.shared));
    }
    assert!(Arc::ptr_eq(cell(&old, 4), cell(&new, 4)));
}

fn subset(count: u16, most: u32, identity: &str) -> BTreeSet<u16> {
    let endpoints: Vec<Endpoint> = (1..=count).map(endpoint).collect();
    let mut policy = Backend::new(BackendName::new("web"));
    policy.subset = Some(most);
    let vantage = Vantage::new(None, identity);
    let fleet = Fleet::build_at(&vantage, Arc::new(policy), &endpoints, None, NOW);
    assert_eq!(fleet.candidates().len(), usize::from(count), "all are known");
    fleet
        .lanes
        .iter()
        .map(|lane| lane.cell.address().port())
        .collect()
}

#[test]
fn subsets_spread_evenly_over_processes() {
    let mut counts = BTreeMap::new();
    for process in 0..200 {
        let chosen = subset(50, 10, &format!("pod-{process}"));
        assert_eq!(chosen.len(), 10);
        chosen
            .into_iter()
            .for_each(|port| *counts.entry(port).or_insert(0) += 1);
    }
    assert_eq!(counts.len(), 50);
    // 40 each on the mean; four deviations of a binomial are 23.
    assert!(
        counts.values().all(|count| (17..=63).contains(count)),
        "{counts:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_subset_changes_by_one_when_one_endpoint_comes(count in 1_u16..80, most in 1_u32..30, identity in "[a-z]{1,8}") {
        let (before, after) = (subset(count, most, &identity), subset(count + 1, most, &identity));
        prop_assert_eq!(before.len(), usize::from(count).min(most as usize));
        prop_assert!(before.difference(&after).count() <= 1);
        prop_assert_eq!(&before, &subset(count, most, &identity));
    }
}
