//! What a cell counts, and its guards.

use super::*;

const SECOND: u64 = 1_000_000;

fn cell() -> Arc<EndpointCell> {
    EndpointCell::new("127.0.0.1:80".parse().unwrap(), Micros(0))
}

#[test]
fn what_a_pick_reads_is_one_line() {
    assert_eq!(size_of::<Load>(), 64);
    assert_eq!(size_of::<EndpointCell>() % 64, 0);
}

#[test]
fn ids_are_unique() {
    assert_ne!(cell().id(), cell().id());
}

#[test]
fn an_exchange_waits_until_its_head_and_flies_until_it_drops() {
    let cell = cell();
    let mut exchange = cell.start(Micros(1000));
    let view = cell.view(Micros(3000));
    assert_eq!((view.in_flight, view.waiting, view.requests), (1, 1, 1));
    assert_eq!(view.latency_us, None);
    assert_eq!(view.cost, 4000);

    exchange.head(Micros(6000), Observed::Answered);
    exchange.head(Micros(9000), Observed::Failed);
    let view = cell.view(Micros(SECOND));
    assert_eq!((view.in_flight, view.waiting, view.failures), (1, 0, 0));
    assert_eq!(view.latency_us, Some(5000));
    assert_eq!(view.cost, 10_000);

    exchange.broke();
    drop(exchange);
    let view = cell.view(Micros(SECOND));
    assert_eq!((view.in_flight, view.failures), (0, 1));
}

#[test]
fn a_cancelled_exchange_says_nothing_unless_it_waited_long() {
    let cell = cell();
    drop(cell.start(Micros(0)));
    assert_eq!(cell.view(Micros(0)).latency_us, None);
    cell.start(Micros(0)).head(Micros(1000), Observed::Answered);
    cell.start(Micros(1000)).give_up(Micros(1500));
    assert_eq!(cell.view(Micros(0)).latency_us, Some(1000));
    cell.start(Micros(1000)).give_up(Micros(10_000));
    // Half of 1000 and half of twice 9000.
    let latency = cell.view(Micros(0)).latency_us.unwrap();
    assert!((9400..9600).contains(&latency), "{latency}");
    assert_eq!(cell.in_flight(), 0);
}

#[test]
fn connections_are_bounded() {
    let cell = cell();
    let first = cell.open_connection(2);
    let second = cell.open_connection(2);
    assert!(first.is_some() && second.is_some());
    assert!(cell.open_connection(2).is_none());
    drop(first);
    assert_eq!(cell.connections(), 1);
    assert!(cell.open_connection(2).is_some());
}

#[test]
fn a_good_check_ends_an_ejection() {
    let cell = cell();
    cell.eject(Micros(50 * SECOND), 1, Reason::Failures);
    cell.set_checked_health(true, Micros(SECOND));
    assert!(!cell.is_available(Micros(SECOND)), "nothing changed");
    cell.set_checked_health(false, Micros(2 * SECOND));
    assert!(!cell.is_available(Micros(60 * SECOND)));
    cell.set_checked_health(true, Micros(3 * SECOND));
    assert!(cell.is_available(Micros(3 * SECOND)));
    assert_eq!(cell.ready_us(Micros(4 * SECOND)), SECOND);
}

#[test]
fn an_ejection_that_checks_end_is_followed_by_probation() {
    let cell = cell();
    cell.start(Micros(0)).head(Micros(0), Observed::Failed);
    assert!(!cell.end_ejection(Micros(SECOND)), "there is none");
    cell.eject(Micros(50 * SECOND), 1, Reason::Latency);
    let view = cell.view(Micros(SECOND));
    assert_eq!(view.ejected_for, Some(Reason::Latency));
    assert!(cell.end_ejection(Micros(SECOND)));
    let view = cell.view(Micros(SECOND));
    assert_eq!((view.ejected_for, view.ejected_until), (None, None));
    assert_eq!(view.failed_in_a_row, 1);
    assert_eq!(cell.ready_us(Micros(3 * SECOND)), 2 * SECOND);
}

#[test]
fn failures_that_are_no_answer_are_counted_apart() {
    let cell = cell();
    for (seen, in_a_row, gateway) in [
        (Observed::Failed, 1, 1),
        (Observed::GatewayError, 2, 2),
        (Observed::ServerError, 3, 0),
        (Observed::GatewayError, 4, 1),
        (Observed::Answered, 0, 0),
    ] {
        cell.start(Micros(0)).head(Micros(0), seen);
        assert_eq!(
            (cell.failed_in_a_row(), cell.gateway_in_a_row()),
            (in_a_row, gateway),
            "{seen:?}"
        );
    }
}

#[test]
fn one_worker_gets_the_trial() {
    let cell = cell();
    assert!(!cell.claim_trial(Micros(SECOND - 1)));
    assert!(cell.claim_trial(Micros(SECOND)));
    assert!(!cell.claim_trial(Micros(SECOND)));
    let _waits = cell.start(Micros(SECOND));
    assert!(!cell.claim_trial(Micros(9 * SECOND)), "one is out already");
}

#[test]
fn trials_in_vain_come_less_and_less() {
    let cell = cell();
    let mut trials = Vec::new();
    for second in 1..=22 {
        let now = Micros(second * SECOND);
        if cell.claim_trial(now) {
            trials.push(second);
            cell.start(now).head(now, Observed::Answered);
        }
    }
    assert_eq!(trials, [1, 2, 3, 4, 6, 8, 10, 12, 16, 20]);
    cell.start(Micros(22 * SECOND));
    assert!(cell.claim_trial(Micros(23 * SECOND)), "it had other exchanges");
}

#[test]
fn the_exchange_after_a_claim_is_the_trial_and_its_answer_replaces_what_was_known() {
    let cell = cell();
    for _ in 0..20 {
        cell.start(Micros(0)).head(Micros(2 * SECOND), Observed::Answered);
    }
    assert!(cell.claim_trial(Micros(4 * SECOND)));
    let mut trial = cell.start(Micros(4 * SECOND));
    let mut other = cell.start(Micros(4 * SECOND));
    other.head(Micros(4 * SECOND), Observed::Answered);
    assert!(cell.mean_us() > Some(1_000_000.0));
    trial.head(Micros(4 * SECOND + 500), Observed::Answered);
    assert_eq!(cell.mean_us(), Some(500.0));
}

#[test]
fn workers_lose_no_count() {
    let cell = cell();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for step in 0..10_000 {
                    let mut exchange = cell.start(Micros(step));
                    exchange.head(Micros(step + 100), Observed::Answered);
                }
            });
        }
    });
    let view = cell.view(Micros(SECOND));
    assert_eq!((view.in_flight, view.waiting, view.requests), (0, 0, 40_000));
    assert_eq!(view.latency_us, Some(100));
}
