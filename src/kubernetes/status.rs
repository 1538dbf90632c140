//! Status: how an object fares, in the conditions of the Gateway API, and how that is put into what the API server has.
//!
//! Both are pure: [`of`] reads what the index came out with, [`merge`] compares with what is there and gives nothing when nothing
//! differs. A condition keeps the time of its last transition as long as its status stays; other controllers' entries in a
//! route's `parents` stay as they are. Reasons are those that complaints begin with, which are the API's own.
//!
//! `Programmed` is said of a listener when its address is bound, and not before.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use crate::kubernetes::GATEWAY_CONTROLLER;
use crate::kubernetes::gateway::{self, GROUP, ListenerView};
use crate::kubernetes::index::{Complaint, Outcome, condition};
use crate::kubernetes::ingress;
use crate::kubernetes::objects::{Gateway, HttpRoute, Id, Key, Kind, Object, ParentRef};

/// What is supported of the Gateway API, as its conformance tests name it; sorted.
const FEATURES: &[&str] = &["Gateway", "HTTPRoute", "ReferenceGrant"];

/// Reasons of a route's `ResolvedRefs`.
const UNRESOLVED: &[&str] = &[
    "RefNotPermitted",
    "InvalidKind",
    "BackendNotFound",
    "UnsupportedProtocol",
];

/// Longer messages are cut: the API allows 32 KiB, people less.
const MAX_MESSAGE: usize = 1024;

/// What is known beside the objects.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// Addresses that are bound.
    pub bound: BTreeSet<SocketAddr>,
    /// The address that is told of what is bound on every address.
    pub public: Option<IpAddr>,
}

/// How an object fares: its status, without times and generations in conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    generation: i64,
    body: Body,
}

#[derive(Clone, Debug, PartialEq)]
enum Body {
    GatewayClass(Vec<Condition>),
    Gateway {
        addresses: Vec<IpAddr>,
        conditions: Vec<Condition>,
        listeners: Vec<Listener>,
    },
    /// Parents that are ours.
    HttpRoute(Vec<(Value, Vec<Condition>)>),
    Ingress(Vec<IpAddr>),
}

#[derive(Clone, Debug, PartialEq)]
struct Listener {
    name: String,
    takes_http_routes: bool,
    attached: usize,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    kind: &'static str,
    is_true: bool,
    reason: String,
    message: String,
}

impl Condition {
    fn new(kind: &'static str, is_true: bool, reason: &str, message: &str) -> Self {
        let end = (0..=MAX_MESSAGE.min(message.len()))
            .rev()
            .find(|at| message.is_char_boundary(*at));
        Self {
            kind,
            is_true,
            reason: reason.to_owned(),
            message: message[..end.unwrap_or(0)].to_owned(),
        }
    }
}

/// How an object fares; none when that is not ours to say.
pub(super) fn of(key: &Key, outcome: Outcome<'_>, serving: &Serving) -> Option<Status> {
    let (generation, body) = match outcome.store.get(key)? {
        Object::GatewayClass(class) => {
            if class.spec.controller_name.as_deref() != Some(GATEWAY_CONTROLLER) {
                return None;
            }
            let accepted = Condition::new("Accepted", true, "Accepted", "it is served by Tidegate");
            (class.metadata.generation, Body::GatewayClass(vec![accepted]))
        }
        Object::Gateway(gateway) => {
            if !gateway::is_ours(outcome.store, outcome.settings, gateway) {
                return None;
            }
            (
                gateway.metadata.generation,
                of_gateway(key, gateway, outcome, serving),
            )
        }
        Object::HttpRoute(route) => (
            route.metadata.generation,
            Body::HttpRoute(of_route(key, route, outcome)),
        ),
        Object::Ingress(ingress) => {
            if !ingress::is_ours(ingress, outcome.store, outcome.settings) {
                return None;
            }
            let settings = outcome.settings;
            let served = [settings.ingress_address, settings.ingress_tls_address]
                .into_iter()
                .filter(|address| !outcome.routes(key).is_empty() && serving.bound.contains(address));
            let mut addresses: Vec<IpAddr> = served
                .filter_map(|address| public(address.ip(), serving))
                .collect();
            addresses.dedup();
            (ingress.metadata.generation, Body::Ingress(addresses))
        }
        _ => return None,
    };
    Some(Status { generation, body })
}

/// What to write, as a merge patch of `status`, where this is there now; none when it says so already. `now` is in RFC 3339.
pub fn merge(status: &Status, there: &Value, now: &str) -> Option<Value> {
    let generation = status.generation;
    let dress = |conditions: &[Condition], before: Option<&Value>| dress(conditions, before, generation, now);
    let mut next = Map::new();
    match &status.body {
        Body::GatewayClass(conditions) => {
            next.insert(
                "conditions".to_owned(),
                dress(conditions, there.get("conditions")),
            );
            let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
            next.insert("supportedFeatures".to_owned(), Value::Array(features));
        }
        Body::Gateway {
            addresses,
            conditions,
            listeners,
        } => {
            let addresses: Vec<Value> = addresses
                .iter()
                .map(|address| json!({"type": "IPAddress", "value": address}))
                .collect();
            next.insert("addresses".to_owned(), Value::Array(addresses));
            next.insert(
                "conditions".to_owned(),
                dress(conditions, there.get("conditions")),
            );
            let listeners = listeners.iter().map(|listener| {
                let before = entry(there.get("listeners"), "name", &json!(listener.name));
                let kinds: &[Value] = &[json!({"group": GROUP, "kind": Kind::HttpRoute.name()})];
                json!({
                    "name": listener.name,
                    "supportedKinds": if listener.takes_http_routes { kinds } else { &[] },
                    "attachedRoutes": listener.attached,
                    "conditions": dress(&listener.conditions, before.and_then(|before| before.get("conditions"))),
                })
            });
            next.insert("listeners".to_owned(), listeners.collect());
        }
        Body::HttpRoute(parents) => {
            let known = there.get("parents").and_then(Value::as_array);
            let (ours, others): (Vec<&Value>, Vec<&Value>) = known
                .into_iter()
                .flatten()
                .partition(|parent| parent["controllerName"] == GATEWAY_CONTROLLER);
            let mut next_parents: Vec<Value> = others.into_iter().cloned().collect();
            next_parents.extend(parents.iter().map(|(parent, conditions)| {
                let before = ours.iter().find(|before| before["parentRef"] == *parent);
                json!({
                    "parentRef": parent,
                    "controllerName": GATEWAY_CONTROLLER,
                    "conditions": dress(conditions, before.and_then(|before| before.get("conditions"))),
                })
            }));
            next.insert("parents".to_owned(), Value::Array(next_parents));
        }
        Body::Ingress(addresses) => {
            let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
            let is_same = match there.pointer("/loadBalancer/ingress").and_then(Value::as_array) {
                Some(known) => {
                    known.len() == addresses.len()
                        && known
                            .iter()
                            .zip(&addresses)
                            .all(|(known, new)| known["ip"] == new["ip"])
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

/// Conditions as the API has them, each with the time since when it has its status. Types that are not ours stay.
fn dress(conditions: &[Condition], before: Option<&Value>, generation: i64, now: &str) -> Value {
    let known = before.and_then(Value::as_array);
    let foreign = known.into_iter().flatten().filter(|known| {
        !conditions.iter().any(|condition| known["type"] == condition.kind)
            && known["type"] != "PartiallyInvalid"
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

/// The address to tell of one that is bound.
fn public(address: IpAddr, serving: &Serving) -> Option<IpAddr> {
    match address.is_unspecified() {
        true => serving.public,
        false => Some(address),
    }
}

fn of_gateway(key: &Key, gateway: &Gateway, outcome: Outcome<'_>, serving: &Serving) -> Body {
    let views = outcome.gateways.views.get(&key.id).map_or(&[][..], Vec::as_slice);
    let complaints = outcome.complaints(key);
    let listeners: Vec<Listener> = views
        .iter()
        .enumerate()
        .map(|(at, view)| of_listener(&key.id, at, view, complaints, outcome, serving))
        .collect();
    let said = |listener: &Listener, kind: &str| {
        let mut conditions = listener.conditions.iter();
        conditions.any(|condition| condition.kind == kind && condition.is_true)
    };
    let addressed = |reason: &str| {
        complaints.iter().find_map(|complaint| {
            let (found, message) = complaint.condition()?;
            (complaint.field.starts_with("spec.addresses") && found == reason).then_some(message)
        })
    };
    let good = listeners
        .iter()
        .filter(|listener| said(listener, "Accepted"))
        .count();
    let accepted = match (addressed("UnsupportedAddress"), good) {
        (Some(message), _) => Condition::new("Accepted", false, "UnsupportedAddress", message),
        (None, 0) => Condition::new(
            "Accepted",
            false,
            "ListenersNotValid",
            "no listener can be served",
        ),
        (None, good) if good < listeners.len() => Condition::new(
            "Accepted",
            true,
            "ListenersNotValid",
            "some listeners cannot be served",
        ),
        (None, _) => Condition::new("Accepted", true, "Accepted", "all listeners can be served"),
    };
    let unaddressed = ["AddressNotUsable", "AddressNotAssigned"]
        .into_iter()
        .find_map(|reason| Some((reason, addressed(reason)?)));
    let programmed = match unaddressed {
        Some((reason, message)) => Condition::new("Programmed", false, reason, message),
        None if listeners.iter().any(|listener| said(listener, "Programmed")) => {
            Condition::new("Programmed", true, "Programmed", "it is served")
        }
        None if good == 0 => Condition::new("Programmed", false, "Invalid", "no listener can be served"),
        None => Condition::new("Programmed", false, "Pending", "no listener is bound yet"),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for view in views {
        for name in view.names.iter().flatten() {
            let bound = outcome
                .gateways
                .listeners
                .get(name)
                .map(|listener| listener.address.ip());
            if let Some(address) = bound.and_then(|address| public(address, serving))
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
    }
    debug_assert_eq!(gateway.spec.listeners.len(), views.len());
    Body::Gateway {
        addresses,
        conditions: vec![accepted, programmed],
        listeners,
    }
}

fn of_listener(
    gateway: &Id,
    at: usize,
    view: &ListenerView,
    complaints: &[Complaint],
    outcome: Outcome<'_>,
    serving: &Serving,
) -> Listener {
    let field = format!("spec.listeners[{at}]");
    let unresolved = complaints.iter().find_map(|complaint| {
        let (reason, message) = complaint.condition()?;
        let is_here = complaint
            .field
            .strip_prefix(&field)
            .is_some_and(|below| below.starts_with('.'));
        let known = ["InvalidRouteKinds", "InvalidCertificateRef", "RefNotPermitted"];
        (is_here && known.contains(&reason)).then_some((reason, message))
    });
    let refusal = view.names.as_ref().err().map(|text| match condition(text) {
        Some((reason, message)) => (reason, message),
        None => ("Invalid", text.as_str()),
    });
    let resolved = match unresolved {
        Some((reason, message)) => Condition::new("ResolvedRefs", false, reason, message),
        None => Condition::new(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "all references lead somewhere",
        ),
    };
    let conflict = refusal.filter(|(reason, _)| reason.ends_with("Conflict"));
    let conflicted = match conflict {
        Some((reason, message)) => Condition::new("Conflicted", true, reason, message),
        None => Condition::new(
            "Conflicted",
            false,
            "NoConflicts",
            "it shares its port with no other in the same way",
        ),
    };
    // A listener whose certificates cannot be had is accepted for what it is, and not programmed.
    let accepted = match refusal {
        Some((reason, message)) if unresolved.is_none() => Condition::new("Accepted", false, reason, message),
        _ => Condition::new("Accepted", true, "Accepted", "it can be served"),
    };
    let is_bound = |name| {
        let listener = outcome.gateways.listeners.get(name);
        listener.is_some_and(|listener| serving.bound.contains(&listener.address))
    };
    let programmed = match &view.names {
        Err(_) => Condition::new("Programmed", false, "Invalid", "it cannot be served as it is"),
        Ok(names) if !names.is_empty() && names.iter().all(is_bound) => {
            Condition::new("Programmed", true, "Programmed", "its address is bound")
        }
        Ok(_) => Condition::new("Programmed", false, "Pending", "its address is not bound yet"),
    };
    let first = view.names.iter().flatten().next();
    Listener {
        name: view.section.to_string(),
        takes_http_routes: view.takes_http_routes,
        attached: first.map_or(0, |name| outcome.attached(gateway, name)),
        conditions: vec![accepted, programmed, resolved, conflicted],
    }
}

/// The parents of a route that are ours, with what is to be said to each.
fn of_route(key: &Key, route: &HttpRoute, outcome: Outcome<'_>) -> Vec<(Value, Vec<Condition>)> {
    let complaints = outcome.complaints(key);
    let of = |is_wanted: &dyn Fn(&Complaint, &str) -> bool| {
        complaints.iter().find_map(|complaint| {
            let (reason, message) = complaint.condition()?;
            is_wanted(complaint, reason).then(|| (reason, format!("{}: {message}", complaint.field)))
        })
    };
    let is_of_rules = |complaint: &Complaint| !complaint.field.starts_with("spec.parentRefs");
    let unresolved = of(&|complaint, reason| is_of_rules(complaint) && UNRESOLVED.contains(&reason));
    let partial = of(&|complaint, reason| is_of_rules(complaint) && !UNRESOLVED.contains(&reason));
    let is_served = !outcome.routes(key).is_empty();
    let mut parents = Vec::new();
    for (at, parent) in route.spec.parent_refs.iter().enumerate() {
        if !is_our_parent(key, parent, outcome) {
            continue;
        }
        let field = format!("spec.parentRefs[{at}]");
        let refusal = of(&|complaint, _| complaint.field == field);
        let accepted = match (&refusal, is_served, &partial) {
            (Some((reason, message)), _, _) => Condition::new("Accepted", false, reason, message),
            (None, false, Some((_, message))) => {
                Condition::new("Accepted", false, "UnsupportedValue", message)
            }
            (None, false, None) => Condition::new("Accepted", false, "Pending", "it is not served yet"),
            (None, true, _) => Condition::new("Accepted", true, "Accepted", "it is attached"),
        };
        let mut conditions = vec![accepted];
        conditions.push(match &unresolved {
            Some((reason, message)) => Condition::new("ResolvedRefs", false, reason, message),
            None => Condition::new(
                "ResolvedRefs",
                true,
                "ResolvedRefs",
                "all references lead somewhere",
            ),
        });
        if let (None, true, Some((_, message))) = (&refusal, is_served, &partial) {
            conditions.push(Condition::new(
                "PartiallyInvalid",
                true,
                "UnsupportedValue",
                message,
            ));
        }
        parents.push((parent_ref(parent), conditions));
    }
    parents
}

fn is_our_parent(key: &Key, parent: &ParentRef, outcome: Outcome<'_>) -> bool {
    let namespace = parent.namespace.as_ref().unwrap_or(&key.id.namespace);
    parent.group.as_deref().unwrap_or(GROUP) == GROUP
        && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        && outcome
            .gateways
            .views
            .contains_key(&Id::new(namespace.clone(), parent.name.clone()))
}

/// The reference as the route has it: the entry is found by it.
fn parent_ref(parent: &ParentRef) -> Value {
    let mut json = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            json.insert(name.to_owned(), value);
        }
    };
    put("group", parent.group.as_deref().map(Value::from));
    put("kind", parent.kind.as_deref().map(Value::from));
    put("namespace", parent.namespace.as_deref().map(Value::from));
    put("name", Some(Value::from(&*parent.name)));
    put("sectionName", parent.section_name.as_deref().map(Value::from));
    put("port", parent.port.map(|port| Value::from(port.0)));
    Value::Object(json)
}

#[cfg(test)]
mod tests;
