//! Attachment: which listeners take a route, by its parents, its namespace and its hostnames.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Surroundings;
use crate::kubernetes::gateway::{GROUP, ListenerView};
use crate::kubernetes::index::Findings;
use crate::kubernetes::objects::{Id, Key, Kind, ParentRef};
use crate::kubernetes::service::Way;
use crate::model::{HostPattern, ListenerName};

/// The listeners that take a route, and how they lead on.
///
/// Parents that are not ours are left alone. One of ours that does not take the route is a complaint
/// with the reason that the Gateway API gives the route's `Accepted` condition.
pub fn listeners(
    route: &Key,
    parents: &[ParentRef],
    hostnames: &[HostPattern],
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> BTreeMap<ListenerName, Way> {
    let mut attached = BTreeMap::new();
    for (at, parent) in parents.iter().enumerate() {
        let Some(key) = parent_key(&route.id, parent) else {
            continue;
        };
        findings.on.parents.insert(key.clone());
        let refusal = match around.gateways.views.get(&key) {
            Some(views) => match taking(route, &key, parent, views, hostnames, around) {
                Ok(names) => {
                    attached.extend(names);
                    continue;
                }
                Err(refusal) => refusal,
            },
            None if around.store.get(&key).is_some() => continue, // of another class
            None => format!("NoMatchingParent: there is no {key}"),
        };
        findings.complain(format!("spec.parentRefs[{at}]"), refusal);
    }
    attached
}

/// The listeners by the way in which they lead on.
pub fn by_way(listeners: BTreeMap<ListenerName, Way>) -> BTreeMap<Way, Vec<ListenerName>> {
    let mut by_way: BTreeMap<Way, Vec<ListenerName>> = BTreeMap::new();
    for (name, way) in listeners {
        by_way.entry(way).or_default().push(name);
    }
    by_way
}

/// What a route wants to attach to, if it is of a kind that has listeners.
pub fn parent_key(route: &Id, parent: &ParentRef) -> Option<Key> {
    if parent.group.as_deref().unwrap_or(GROUP) != GROUP {
        return None;
    }
    let kind = match parent.kind.as_deref() {
        None | Some("Gateway") => Kind::Gateway,
        Some("ListenerSet") => Kind::ListenerSet,
        Some(_) => return None,
    };
    let namespace = parent.namespace.as_ref().unwrap_or(&route.namespace);
    let id = Id::new(Arc::clone(namespace), Arc::clone(&parent.name));
    Some(Key { kind, id })
}

/// The listeners of one parent that take the route, or why none does.
///
/// Each listener is asked in the same order of questions; the answer of the one that got furthest is given. Whether the
/// listener is served is not among them: a route attaches to one that waits for its certificate (Gateway API,
/// `ListenerStatus.attachedRoutes`).
fn taking(
    route: &Key,
    key: &Key,
    parent: &ParentRef,
    views: &[ListenerView],
    hostnames: &[HostPattern],
    around: Surroundings<'_>,
) -> Result<Vec<(ListenerName, Way)>, String> {
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
            "NoMatchingParent: {key} has no such listener; it has {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        ));
    }
    let allowed: Vec<&ListenerView> = named
        .into_iter()
        .filter(|view| view.kinds.contains(&route.kind))
        .filter(|view| {
            view.namespaces
                .allow(&key.id.namespace, &route.id.namespace, around.store)
        })
        .collect();
    if allowed.is_empty() {
        return Err(format!(
            "NotAllowedByListeners: the listeners of {key} do not take {}s of namespace {}; see allowedRoutes there",
            route.kind.name(),
            route.id.namespace
        ));
    }
    let names: Vec<(ListenerName, Way)> = allowed
        .into_iter()
        .filter(|view| {
            hostnames
                .iter()
                .any(|hostname| view.hostname.intersect(hostname).is_some())
        })
        .flat_map(|view| view.names.iter().map(|name| (name.clone(), view.way.clone())))
        .collect();
    if names.is_empty() && !hostnames.is_empty() {
        return Err(format!(
            "NoMatchingListenerHostname: no listener of {key} is for a hostname of the route"
        ));
    }
    Ok(names)
}
