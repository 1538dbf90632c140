//! Backends: what lasts when endpoints, policies and definitions change.

use std::sync::Arc;

use super::super::{Backend, Compiler};
use super::worlds::{Builder, compiler, listener, route};
use super::{ADDRESS, prefix};
use crate::balance::Micros;
use crate::model::{self, BackendName, Delta, Endpoint};

fn world() -> Delta {
    let to = |name: &str, backend: &str| route(name, &["l"], &["*"]).rule_to([prefix(name)], &[backend]);
    Builder::new()
        .listener(listener("l", ADDRESS, "*"))
        .route(to("/a", "a"))
        .route(to("/b", "b"))
        .0
}

fn define(name: &str, change: impl FnOnce(&mut model::Backend)) -> Delta {
    let mut policy = model::Backend::new(name.into());
    change(&mut policy);
    let mut delta = Delta::default();
    delta.backends.insert(name.into(), Some(Arc::new(policy)));
    delta
}

fn undefine(name: &str) -> Delta {
    let mut delta = Delta::default();
    delta.backends.insert(name.into(), None);
    delta.endpoints.insert(name.into(), None);
    delta
}

fn endpoints(name: &str, ports: &[u16]) -> Delta {
    let mut delta = Delta::default();
    let endpoints = ports
        .iter()
        .map(|port| Endpoint::at(([10, 0, 0, 1], *port).into()));
    delta.endpoints.insert(name.into(), Some(endpoints.collect()));
    delta
}

fn both(mut first: Delta, second: Delta) -> Delta {
    first.extend(second);
    first
}

fn backend(compiler: &Compiler, name: &str) -> Arc<Backend> {
    Arc::clone(compiler.readers().load().backend(name).unwrap())
}

fn ports(backend: &Backend) -> Vec<u16> {
    backend.with_fleet(|fleet| {
        let mut ports: Vec<_> = fleet
            .candidates()
            .iter()
            .map(|one| one.endpoint.address.port())
            .collect();
        ports.sort_unstable();
        ports
    })
}

fn cells(backend: &Backend) -> Vec<u64> {
    let fleet = backend.fleet();
    fleet.candidates().iter().map(|one| one.cell.id()).collect()
}

#[test]
fn endpoints_come_and_go_without_a_new_table_and_cells_last() {
    let mut compiler = compiler();
    let source = "s".into();
    let mut apply = |delta, at| compiler.apply(&source, delta, Micros(at));
    apply(world(), 0);
    let applied = apply(both(define("a", |_| {}), endpoints("a", &[1, 2])), 1);
    assert_eq!(
        (applied.published, &*applied.backends_changed),
        (None, &[BackendName::from("a")][..])
    );
    let applied = apply(endpoints("a", &[2, 3]), 2);
    assert_eq!((applied.published, applied.backends_changed.len()), (None, 1));
    let equal = apply(endpoints("a", &[2, 3]), 3);
    assert_eq!((equal.published, equal.backends_changed.len()), (None, 0));

    let a = backend(&compiler, "a");
    assert_eq!(ports(&a), [2, 3]);
    let before = cells(&a);
    let fleet = a.fleet();
    let busy = fleet.candidates()[0].cell.start(Micros(4));
    compiler.apply(&source, endpoints("a", &[9, 3, 2]), Micros(5));
    assert_eq!(ports(&a), [2, 3, 9]);
    let after = cells(&a);
    assert!(
        before.iter().all(|cell| after.contains(cell)),
        "{before:?} in {after:?}"
    );
    assert!(!before.is_empty() && after.len() == 3);
    let in_flight = |backend: &Backend| {
        backend.with_fleet(|fleet| {
            fleet
                .candidates()
                .iter()
                .map(|one| one.cell.in_flight())
                .sum::<u32>()
        })
    };
    assert_eq!(in_flight(&a), 1, "what is in flight is known to the new set");
    // Another policy keeps them too.
    let policy = define("a", |policy| policy.balance = model::Balance::Random);
    compiler.apply(&source, policy, Micros(6));
    assert_eq!(in_flight(&a), 1);
    assert_eq!(a.fleet().policy().balance, model::Balance::Random);
    drop(busy);
    assert_eq!(in_flight(&a), 0);
}

#[test]
fn the_budget_begins_anew_only_with_new_bounds() {
    let mut compiler = compiler();
    let source = "s".into();
    compiler.apply(&source, world(), Micros(0));
    let bounds = |per_second| {
        move |policy: &mut model::Backend| {
            policy.retry_budget = model::RetryBudget {
                percent: 0,
                per_second,
            };
        }
    };
    compiler.apply(&source, define("a", bounds(1)), Micros(0));
    let a = backend(&compiler, "a");
    let retries = |now| a.with_budget(|budget| (0..100).filter(|_| budget.try_retry(Micros(now))).count());
    let now = 60_000_000;
    assert_eq!(retries(now), 10, "10 s of one a second");
    compiler.apply(&source, endpoints("a", &[1]), Micros(now));
    let other = define("a", |policy| {
        bounds(1)(policy);
        policy.balance = model::Balance::Random;
    });
    compiler.apply(&source, other, Micros(now));
    assert_eq!(retries(now), 0, "spent is spent");
    compiler.apply(&source, define("a", bounds(2)), Micros(now));
    assert_eq!(retries(now), 20);
}

#[test]
fn a_mentioned_backend_without_definition_has_no_endpoints() {
    let mut compiler = compiler();
    let source = "s".into();
    compiler.apply(&source, world(), Micros(0));
    let a = backend(&compiler, "a");
    assert!(!a.is_defined() && ports(&a).is_empty());
    compiler.apply(&source, endpoints("a", &[1]), Micros(0));
    assert!(
        !a.is_defined() && ports(&a).is_empty(),
        "endpoints without a policy"
    );
    compiler.apply(&source, define("a", |_| {}), Micros(0));
    assert!(a.is_defined() && ports(&a) == [1]);
    compiler.apply(&source, undefine("a"), Micros(0));
    assert!(!a.is_defined() && ports(&a).is_empty());
    assert!(Arc::ptr_eq(&a, &backend(&compiler, "a")), "the rule still has it");
    assert!(Arc::ptr_eq(&a.metrics, &backend(&compiler, "a").metrics));
}

#[test]
fn a_backend_that_goes_with_its_route_is_not_emptied_under_running_exchanges() {
    let mut compiler = compiler();
    let source = "s".into();
    let whole = both(world(), both(define("a", |_| {}), endpoints("a", &[1])));
    compiler.apply(&source, whole, Micros(0));
    let held = backend(&compiler, "a");
    let mut gone = undefine("a");
    gone.routes.insert("/a".into(), None);
    compiler.apply(&source, gone, Micros(0));
    assert!(compiler.readers().load().backend("a").is_none());
    assert_eq!(ports(&held), [1]);
}

#[test]
fn the_endpoints_of_the_source_that_defines_the_backend_count() {
    let mut compiler = compiler();
    let (one, two) = ("one".into(), "two".into());
    compiler.apply(&one, world(), Micros(0));
    compiler.apply(&two, both(define("a", |_| {}), endpoints("a", &[2])), Micros(0));
    assert_eq!(compiler.apply(&one, endpoints("a", &[1]), Micros(0)).rejects, []);
    let a = backend(&compiler, "a");
    assert_eq!(ports(&a), [2]);
    assert_eq!(
        compiler.apply(&one, define("a", |_| {}), Micros(0)).rejects.len(),
        1
    );
    assert_eq!(ports(&a), [2]);
    compiler.apply(&two, undefine("a"), Micros(0));
    assert_eq!(ports(&a), [1]);
    assert_eq!(compiler.rejects(), []);
}
