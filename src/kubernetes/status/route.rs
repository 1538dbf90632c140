//! How a route fares with each of its parents.

use serde_json::{Map, Value};

use super::{Condition, Entry};
use crate::kubernetes::index::{Complaint, Outcome};
use crate::kubernetes::objects::{Key, ParentRef};
use crate::kubernetes::routes::{parent_key, service_of};
use crate::kubernetes::{GATEWAY_CONTROLLER, MESH_CONTROLLER};

/// Reasons of a route's `ResolvedRefs`.
const UNRESOLVED: &[&str] = &[
    "RefNotPermitted",
    "InvalidKind",
    "BackendNotFound",
    "UnsupportedProtocol",
];

/// The parents of a route that are ours, with what is to be said to each: Gateways and ListenerSets, and Services where
/// sidecars serve them.
pub(super) fn of_route(key: &Key, refs: &[ParentRef], outcome: Outcome<'_>) -> Vec<Entry> {
    let is_gateways = |parent: &ParentRef| is_our_parent(key, parent, outcome);
    let is_served = !outcome.routes(key).is_empty();
    let complaints = outcome.complaints(key);
    let mut entries = entries(GATEWAY_CONTROLLER, is_gateways, is_served, complaints, refs);
    if let Some(meshed) = outcome.meshed(key) {
        let is_service = |parent: &ParentRef| service_of(&key.id, parent).is_some();
        let (is_attached, complaints) = (meshed.is_attached, &meshed.complaints);
        entries.extend(self::entries(
            MESH_CONTROLLER,
            is_service,
            is_attached,
            complaints,
            refs,
        ));
    }
    entries
}

/// What is to be said to parents of one sort.
fn entries(
    controller: &'static str,
    is_ours: impl Fn(&ParentRef) -> bool,
    is_served: bool,
    complaints: &[Complaint],
    refs: &[ParentRef],
) -> Vec<Entry> {
    let of = |is_wanted: &dyn Fn(&Complaint, &str) -> bool| {
        complaints.iter().find_map(|complaint| {
            let (reason, message) = complaint.condition()?;
            is_wanted(complaint, reason).then(|| (reason, format!("{}: {message}", complaint.field)))
        })
    };
    let is_of_rules = |complaint: &Complaint| !complaint.field.starts_with("spec.parentRefs");
    let unresolved = of(&|complaint, reason| is_of_rules(complaint) && UNRESOLVED.contains(&reason));
    let partial = of(&|complaint, reason| is_of_rules(complaint) && !UNRESOLVED.contains(&reason));
    let mut parents = Vec::new();
    for (at, parent) in refs.iter().enumerate() {
        if !is_ours(parent) {
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
        parents.push(Entry {
            reference: parent_ref(parent),
            controller,
            conditions,
        });
    }
    parents
}

fn is_our_parent(key: &Key, parent: &ParentRef, outcome: Outcome<'_>) -> bool {
    parent_key(&key.id, parent).is_some_and(|parent| outcome.gateways.views.contains_key(&parent))
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
