//! How a policy fares, as seen from each Gateway that leads to its target.

use serde_json::json;

use super::{Condition, Entry};
use crate::kubernetes::GATEWAY_CONTROLLER;
use crate::kubernetes::index::Outcome;
use crate::kubernetes::objects::{BackendTlsPolicy, Id, Key, Kind};

/// Gateways that a policy is told of, as many as the API allows.
const MAX_ANCESTORS: usize = 16;

/// The Gateways that are ours and lead to a target of the policy, with what is to be said to each.
pub(super) fn of_policy(key: &Key, policy: &BackendTlsPolicy, outcome: Outcome<'_>) -> Vec<Entry> {
    let complaints = outcome.complaints(key);
    let find = |reasons: &[&'static str]| {
        complaints.iter().find_map(|complaint| {
            let (reason, message) = complaint.condition()?;
            let reason = reasons.iter().find(|known| **known == reason)?;
            Some((*reason, format!("{}: {message}", complaint.field)))
        })
    };
    let accepted = match find(&["NoValidCACertificate", "Invalid", "Conflicted"]) {
        Some((reason, message)) => Condition::new("Accepted", false, reason, &message),
        None => Condition::new("Accepted", true, "Accepted", "it is used"),
    };
    let resolved = match find(&["InvalidKind", "InvalidCACertificateRef", "RefNotPermitted"]) {
        Some((reason, message)) => Condition::new("ResolvedRefs", false, reason, &message),
        None => Condition::new(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "all references lead somewhere",
        ),
    };
    let mut gateways: Vec<Id> = Vec::new();
    for target in &policy.spec.target_refs {
        let service = Id::new(key.id.namespace.clone(), target.name.clone());
        for parent in outcome.parents_of_service(&service) {
            let gateway = match outcome.gateways.sets.get(&parent) {
                Some(Ok(gateway)) => gateway.clone(),
                Some(Err(_)) => continue,
                None => parent.id.clone(),
            };
            let is_ours = outcome.gateways.views.contains_key(&parent);
            if is_ours && !gateways.contains(&gateway) && gateways.len() < MAX_ANCESTORS {
                gateways.push(gateway);
            }
        }
    }
    let ancestor = |gateway: Id| {
        let reference = json!({
            "group": Kind::Gateway.group(),
            "kind": Kind::Gateway.name(),
            "namespace": gateway.namespace,
            "name": gateway.name,
        });
        Entry {
            reference,
            controller: GATEWAY_CONTROLLER,
            conditions: vec![accepted.clone(), resolved.clone()],
        }
    };
    gateways.into_iter().map(ancestor).collect()
}
