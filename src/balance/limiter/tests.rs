//! How many may be in flight, by what answers took: tables and runs in virtual time.

use super::*;
use crate::model::{AdaptiveConcurrency, Backend, BackendName, Concurrency};
use Criticality::{Critical, CriticalPlus, Sheddable};

const SECOND: u64 = 1_000_000;
const NOW: Micros = Micros(100 * SECOND);

fn limiter(concurrency: Concurrency) -> Arc<Limiter> {
    let mut policy = Backend::new(BackendName::new("web"));
    policy.concurrency = Some(concurrency);
    Limiter::of(&policy, NOW).unwrap()
}

fn go(limiter: &Arc<Limiter>, class: Criticality) -> Permit {
    match limiter.enter(class, NOW) {
        Entry::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn wait(limiter: &Arc<Limiter>, class: Criticality) -> Ticket {
    match limiter.enter(class, NOW) {
        Entry::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn counts(limiter: &Limiter) -> (u32, u32) {
    let view = limiter.view(NOW);
    (view.in_flight, view.queued)
}

#[test]
fn a_policy_without_a_limit_has_no_limiter() {
    assert!(Limiter::of(&Backend::new(BackendName::new("web")), NOW).is_none());
}

#[test]
fn places_are_taken_waited_for_and_given_back() {
    let limiter = limiter(Concurrency::Fixed(2));
    let first = go(&limiter, Critical);
    assert!(limiter.enter_if_idle(NOW).is_none(), "80 % of two is one");
    let second = go(&limiter, CriticalPlus);
    let low = wait(&limiter, Critical);
    let high = wait(&limiter, CriticalPlus);
    assert!(matches!(limiter.enter(Sheddable, NOW), Entry::Refused));
    assert_eq!(counts(&limiter), (2, 2));
    assert_eq!(high.until(), NOW.plus(Duration::from_secs(1)));
    assert!(low.look(NOW).is_none() && high.look(NOW).is_none());
    drop(first);
    assert!(low.look(NOW).is_none(), "another one goes first");
    let third = high.look(NOW).unwrap();
    drop(high);
    assert_eq!(counts(&limiter), (2, 1));
    drop((second, third));
    drop(low.look(NOW).unwrap());
    drop(low);
    assert_eq!(counts(&limiter), (0, 0));
}

#[test]
fn a_queue_stands_when_it_was_not_empty_for_as_long_as_one_may_wait() {
    let limiter = limiter(Concurrency::Fixed(1));
    let _inside = go(&limiter, Critical);
    let first = wait(&limiter, Critical);
    let later = Micros(NOW.0 + 1_100_000);
    assert!(limiter.view(later).stands);
    let Entry::Wait(second) = limiter.enter(Critical, later) else {
        panic!()
    };
    assert_eq!(second.until(), later.plus(Duration::from_millis(50)));
    drop((first, second));
    assert!(!limiter.view(later).stands);
    let Entry::Wait(third) = limiter.enter(Critical, later) else {
        panic!()
    };
    assert_eq!(third.until(), later.plus(Duration::from_secs(1)));
}

#[test]
fn answers_are_learned_from_and_quick_failures_are_not() {
    let limiter = limiter(Concurrency::Adaptive(AdaptiveConcurrency::default()));
    let end = |nth: u64, latency_us: u64, answered: bool| {
        let mut permit = go(&limiter, Critical);
        permit.begin(Micros(NOW.0 + nth * 1000));
        permit.end(Micros(NOW.0 + nth * 1000 + latency_us), answered);
    };
    (0..200).for_each(|nth| end(nth, 10_000, true));
    let near = |us: Option<u64>, expected: u64| us.is_some_and(|us| us.abs_diff(expected) < expected / 50);
    let view = limiter.view(NOW);
    assert!(
        near(view.latency_us, 10_000) && near(view.usual_us, 10_000),
        "{view:?}"
    );
    (200..2000).for_each(|nth| end(nth, 100, false));
    assert!(
        near(limiter.view(NOW).latency_us, 10_000),
        "refusals are not fast answers"
    );
    (2000..4000).for_each(|nth| end(nth, 1_000_000, false));
    let view = limiter.view(NOW);
    assert!(view.latency_us.unwrap() > 500_000, "deadlines are slow: {view:?}");
    assert_eq!(counts(&limiter), (0, 0));
}

#[test]
fn what_was_learned_is_kept_between_windows() {
    let known = Known::default();
    let gradient = Gradient {
        limit: 33.5,
        now: Some(14.25),
        usual: 13.5,
        before_full: 13.0,
        fell_from: Some((50.0, 15.0)),
        holds: true,
        starting: false,
        seen: 12,
        full_for: 7,
    };
    known.set(gradient);
    assert_eq!(known.get(), gradient);
    let fresh = Gradient::new(&Bounds::of(Concurrency::Fixed(3)));
    known.set(fresh);
    assert_eq!(known.get(), fresh);
}

#[test]
fn many_threads_never_have_more_than_the_limit() {
    let limiter = limiter(Concurrency::Fixed(3));
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (limiter, inside) = (&limiter, &inside);
            scope.spawn(move || {
                for nth in 0..5000_u64 {
                    let now = Micros(NOW.0 + nth * 100 + thread);
                    match limiter.enter(Critical, now) {
                        Entry::Go(permit) => {
                            assert!(inside.fetch_add(1, Relaxed) < 3);
                            inside.fetch_sub(1, Relaxed);
                            permit.end(Micros(now.0 + 50), true);
                        }
                        Entry::Wait(ticket) => drop(ticket.look(now)),
                        Entry::Refused => {}
                    }
                }
            });
        }
    });
    assert_eq!(counts(&limiter), (0, 0));
    assert_eq!(limiter.view(NOW).limit, 3);
}
