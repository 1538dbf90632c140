//! Canaries: Ingresses that take a part of what another one with the same host and path has.

use super::{is_ours, target};
use crate::kubernetes::Settings;
use crate::kubernetes::index::{Findings, Store};
use crate::kubernetes::nginx::{Wishes, is_canary};
use crate::kubernetes::objects::{Id, Ingress, IngressPath, Kind, Object};
use crate::model::Rule;

/// The path of an Ingress with the same host and path as one of another.
fn same_path<'a>(
    ingress: &'a Ingress,
    host: Option<&str>,
    path: &IngressPath,
) -> Option<(String, &'a IngressPath)> {
    let rules = ingress.spec.rules.iter().enumerate();
    let of_host = rules.filter(|(_, rule)| rule.host.as_deref().unwrap_or("") == host.unwrap_or(""));
    let mut paths = of_host.flat_map(|(at, rule)| {
        let paths = rule.http.iter().flat_map(|http| http.paths.iter().enumerate());
        paths.map(move |(path_at, path)| (format!("spec.rules[{at}].http.paths[{path_at}]"), path))
    });
    paths.find(|(_, other)| other.path == path.path)
}

/// A rule with the part that a canary takes of it: the first by name that has its host and path.
pub(super) fn divide(
    rule: Rule,
    (id, host, path): (&Id, Option<&str>, &IngressPath),
    store: &Store,
    settings: &Settings,
    findings: &mut Findings,
) -> Vec<Rule> {
    let mut canaries = store
        .canaries(&id.namespace)
        .filter(|(_, canary)| is_ours(canary, store, settings));
    let Some((canary, (_, path))) =
        canaries.find_map(|(_, canary)| Some((canary, same_path(canary, host, path)?)))
    else {
        return vec![rule];
    };
    // Its own complaints are told of itself.
    let mut of_canary = Findings::default();
    let wishes = Wishes::of(&canary.metadata, &mut of_canary);
    let target = target(id, &path.backend, "", store, &mut of_canary);
    findings.on.services.append(&mut of_canary.on.services);
    findings.on.uses.append(&mut of_canary.on.uses);
    match wishes.canary {
        Some(division) if wishes.unguarded.is_empty() && !rule.backends.is_empty() => {
            division.divide(rule, target)
        }
        _ => vec![rule],
    }
}

/// A canary has no routes of its own; says what is wrong with it.
pub(super) fn look_for_main(
    id: &Id,
    canary: &Ingress,
    store: &Store,
    settings: &Settings,
    findings: &mut Findings,
) {
    for rule in &canary.spec.rules {
        for path in rule.http.iter().flat_map(|http| &http.paths) {
            let mut all = store.in_namespace(Kind::Ingress, &id.namespace);
            let is_main = |object: &Object| match object {
                Object::Ingress(other) => {
                    !is_canary(other)
                        && is_ours(other, store, settings)
                        && same_path(other, rule.host.as_deref(), path).is_some()
                }
                _ => false,
            };
            if !all.any(|(_, object)| is_main(object)) {
                findings.complain(
                    "spec.rules",
                    format!(
                        "it is a canary, and there is no Ingress with the same host and path ({}{}) in its namespace",
                        rule.host.as_deref().unwrap_or("*"),
                        path.path.as_deref().unwrap_or("/")
                    ),
                );
            }
            let field = match same_path(canary, rule.host.as_deref(), path) {
                Some((field, _)) => field + ".backend",
                None => "spec.rules".to_owned(),
            };
            // Asked for here, so that it is said here when its Service is missing.
            target(id, &path.backend, &field, store, findings);
        }
    }
    findings.on.uses.clear(); // what uses it is the other Ingress
}
