//! What of a status is written, beside what is there.

use serde_json::{Map, Value, json};

use super::{Address, Body, Condition, Entry, Listener, Status};

/// What to write, as a merge patch of `status`, where this is there now; none when it says so already. `now` is in RFC 3339.
pub fn merge(status: &Status, there: &Value, now: &str) -> Option<Value> {
    let generation = status.generation;
    let dress = |conditions: &[Condition], before: Option<&Value>| dress(conditions, before, generation, now);
    let mut next = Map::new();
    match &status.body {
        Body::GatewayClass(conditions, features) => {
            next.insert(
                "conditions".to_owned(),
                dress(conditions, there.get("conditions")),
            );
            let features: Vec<Value> = features.iter().map(|name| json!({"name": name})).collect();
            next.insert("supportedFeatures".to_owned(), Value::Array(features));
        }
        Body::Gateway {
            addresses,
            conditions,
            listeners,
            sets,
        } => {
            let addresses: Vec<Value> = addresses.iter().map(Address::of_gateway).collect();
            next.insert("addresses".to_owned(), Value::Array(addresses));
            next.insert(
                "conditions".to_owned(),
                dress(conditions, there.get("conditions")),
            );
            next.insert("listeners".to_owned(), listeners_of(listeners, there, &dress));
            let before = there.get("attachedListenerSets");
            if *sets > 0 || before.is_some_and(|before| *before != 0) {
                next.insert("attachedListenerSets".to_owned(), json!(sets));
            }
        }
        Body::ListenerSet {
            conditions,
            listeners,
        } => {
            next.insert(
                "conditions".to_owned(),
                dress(conditions, there.get("conditions")),
            );
            next.insert("listeners".to_owned(), listeners_of(listeners, there, &dress));
        }
        Body::Route(parents) => {
            let entries = entries("parents", "parentRef", status.controllers, parents, there, &dress);
            next.insert("parents".to_owned(), entries);
        }
        Body::Policy(ancestors) => {
            let entries = entries(
                "ancestors",
                "ancestorRef",
                status.controllers,
                ancestors,
                there,
                &dress,
            );
            next.insert("ancestors".to_owned(), entries);
        }
        Body::Ingress(addresses) => {
            let addresses: Vec<Value> = addresses.iter().map(Address::of_ingress).collect();
            let is_same = match there.pointer("/loadBalancer/ingress").and_then(Value::as_array) {
                Some(known) => {
                    known.len() == addresses.len()
                        && known
                            .iter()
                            .zip(&addresses)
                            .all(|(known, new)| ["ip", "hostname"].iter().all(|of| known[of] == new[of]))
                }
                None => addresses.is_empty(),
            };
            if is_same {
                return None;
            }
            next.insert("loadBalancer".to_owned(), json!({"ingress": addresses}));
        }
    }
    let is_same = next.iter().all(|(name, value)| match there.get(name) {
        Some(known) => known == value,
        None => value.as_array().is_some_and(Vec::is_empty),
    });
    (!is_same).then_some(Value::Object(next))
}

fn listeners_of(
    listeners: &[Listener],
    there: &Value,
    dress: &dyn Fn(&[Condition], Option<&Value>) -> Value,
) -> Value {
    let listeners = listeners.iter().map(|listener| {
        let before = entry(there.get("listeners"), "name", &json!(listener.name));
        let kinds = listener.kinds.iter();
        let kinds: Vec<Value> = kinds
            .map(|kind| json!({"group": kind.group(), "kind": kind.name()}))
            .collect();
        json!({
            "name": listener.name,
            "supportedKinds": kinds,
            "attachedRoutes": listener.attached,
            "conditions": dress(&listener.conditions, before.and_then(|before| before.get("conditions"))),
        })
    });
    listeners.collect()
}

/// A list with an entry for each reference and controller: ours as they are now, those of others as they were.
fn entries(
    list: &str,
    reference: &str,
    controllers: &[&str],
    ours: &[Entry],
    there: &Value,
    dress: &dyn Fn(&[Condition], Option<&Value>) -> Value,
) -> Value {
    let known = there.get(list).and_then(Value::as_array);
    let (before, others): (Vec<&Value>, Vec<&Value>) = known
        .into_iter()
        .flatten()
        .partition(|entry| controllers.iter().any(|name| entry["controllerName"] == *name));
    let mut next: Vec<Value> = others.into_iter().cloned().collect();
    next.extend(ours.iter().map(|our| {
        let is_it =
            |entry: &&&Value| entry[reference] == our.reference && entry["controllerName"] == our.controller;
        let before = before.iter().find(is_it);
        json!({
            reference: our.reference,
            "controllerName": our.controller,
            "conditions": dress(&our.conditions, before.and_then(|entry| entry.get("conditions"))),
        })
    }));
    Value::Array(next)
}

/// Conditions of ours that are not always there: when nothing is to be said, they go.
const PASSING: &[&str] = &[
    "InsecureFrontendValidationMode",
    "PartiallyInvalid",
    "ResolvedRefs",
];

/// Conditions as the API has them, each with the time since when it has its status. Types that are not ours stay.
fn dress(conditions: &[Condition], before: Option<&Value>, generation: i64, now: &str) -> Value {
    let known = before.and_then(Value::as_array);
    let foreign = known.into_iter().flatten().filter(|known| {
        !conditions.iter().any(|condition| known["type"] == condition.kind)
            && !PASSING.iter().any(|kind| known["type"] == *kind)
    });
    let ours = conditions.iter().map(|condition| {
        let status = if condition.is_true { "True" } else { "False" };
        let since = entry(before, "type", &json!(condition.kind))
            .filter(|before| before["status"] == status)
            .and_then(|before| before["lastTransitionTime"].as_str())
            .unwrap_or(now);
        json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        })
    });
    let all: Vec<Value> = ours.collect();
    // The API server's own first word ("Waiting for controller") is among those of the same type, and so goes.
    all.into_iter().chain(foreign.cloned()).collect()
}

fn entry<'value>(list: Option<&'value Value>, name: &str, value: &Value) -> Option<&'value Value> {
    list?.as_array()?.iter().find(|entry| entry[name] == *value)
}
