//! Attachment: which listeners take a route, by its parents, its namespace and its hostnames.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Surroundings;
use crate::kubernetes::gateway::{GROUP, ListenerView};
use crate::kubernetes::index::Findings;
use crate::kubernetes::objects::{HttpRoute, Id, ParentRef};
use crate::model::{HostPattern, ListenerName};

/// The listeners that take a route, each once, by name.
///
/// Parents that are not ours are left alone. One of ours that does not take the route is a complaint
/// with the reason that the Gateway API gives the route's `Accepted` condition.
pub fn listeners(
    id: &Id,
    object: &HttpRoute,
    hostnames: &[HostPattern],
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<ListenerName> {
    let mut attached = BTreeSet::new();
    for (at, parent) in object.spec.parent_refs.iter().enumerate() {
        if parent.group.as_deref().unwrap_or(GROUP) != GROUP
            || parent.kind.as_deref().unwrap_or("Gateway") != "Gateway"
        {
            continue;
        }
        let namespace = parent.namespace.as_ref().unwrap_or(&id.namespace);
        let gateway = Id::new(Arc::clone(namespace), Arc::clone(&parent.name));
        findings.on.gateways.insert(gateway.clone());
        let refusal = match around.gateways.views.get(&gateway) {
            Some(views) => match taking(id, &gateway, parent, views, hostnames, around) {
                Ok(names) => {
                    attached.extend(names);
                    continue;
                }
                Err(refusal) => refusal,
            },
            None if around.store.gateway(&gateway).is_some() => continue, // of another class
            None => format!("NoMatchingParent: there is no Gateway {gateway}"),
        };
        findings.complain(format!("spec.parentRefs[{at}]"), refusal);
    }
    attached.into_iter().collect()
}

/// The listeners of one Gateway that take the route, or why none does.
///
/// Each listener is asked in the same order of questions; the answer of the one that got furthest is given.
fn taking(
    id: &Id,
    gateway: &Id,
    parent: &ParentRef,
    views: &[ListenerView],
    hostnames: &[HostPattern],
    around: Surroundings<'_>,
) -> Result<Vec<ListenerName>, String> {
    let named: Vec<&ListenerView> = views
        .iter()
        .filter(|view| {
            parent
                .section_name
                .as_ref()
                .is_none_or(|name| *name == view.section)
        })
        .filter(|view| parent.port.is_none_or(|port| port.0 == view.port))
        .collect();
    if named.is_empty() {
        let known: Vec<_> = views
            .iter()
            .map(|view| format!("{} ({})", view.section, view.port))
            .collect();
        return Err(format!(
            "NoMatchingParent: Gateway {gateway} has no such listener; it has {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        ));
    }
    let allowed: Vec<&ListenerView> = named
        .into_iter()
        .filter(|view| view.takes_http_routes)
        .filter(|view| {
            view.namespaces
                .allow(&gateway.namespace, &id.namespace, around.store)
        })
        .collect();
    if allowed.is_empty() {
        return Err(format!(
            "NotAllowedByListeners: the listeners of Gateway {gateway} do not take HTTPRoutes of namespace {}; see \
             allowedRoutes there",
            id.namespace
        ));
    }
    let served: Vec<(&ListenerView, &Vec<ListenerName>)> = allowed
        .iter()
        .filter_map(|view| Some((*view, view.names.as_ref().ok()?)))
        .collect();
    if served.is_empty() {
        let reason = allowed.iter().find_map(|view| view.names.as_ref().err());
        return Err(format!(
            "NoMatchingParent: the listener of Gateway {gateway} is not served: {}",
            reason.map_or("", String::as_str)
        ));
    }
    let names: Vec<ListenerName> = served
        .into_iter()
        .filter(|(view, _)| {
            hostnames
                .iter()
                .any(|hostname| view.hostname.intersect(hostname).is_some())
        })
        .flat_map(|(_, names)| names.iter().cloned())
        .collect();
    if names.is_empty() && !hostnames.is_empty() {
        return Err(format!(
            "NoMatchingListenerHostname: no listener of Gateway {gateway} is for a hostname of the route"
        ));
    }
    Ok(names)
}
