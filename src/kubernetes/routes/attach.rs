//! Attachment: which listeners take a route, by its parents, its namespace and its hostnames.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Surroundings;
use crate::kubernetes::gateway::{GROUP, ListenerView};
use crate::kubernetes::index::{Claim, Findings, Rank};
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
                Ok(taking) => {
                    let (won, lost) = contest(route, taking, around);
                    let Some(lost) = lost else {
                        attached.extend(won);
                        continue;
                    };
                    if !won.is_empty() {
                        attached.extend(won);
                        findings.complain(format!("spec.parentRefs[{at}].sectionName"), lost);
                        continue;
                    }
                    lost
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

/// What a route claims of the listeners that take it.
pub fn claims(
    route: &Key,
    parents: &[ParentRef],
    hostnames: &[HostPattern],
    created: u64,
    around: Surroundings<'_>,
) -> BTreeMap<ListenerName, Claim> {
    let mut claims = BTreeMap::new();
    for parent in parents {
        let key = parent_key(&route.id, parent);
        let views = key
            .as_ref()
            .and_then(|key| Some((key, around.gateways.views.get(key)?)));
        let Some((key, views)) = views else {
            continue;
        };
        for view in taking(route, key, parent, views, hostnames, around).unwrap_or_default() {
            let claim = Claim {
                rank: Rank::by_age(route, created),
                hostnames: hostnames
                    .iter()
                    .filter_map(|hostname| view.hostname.intersect(hostname))
                    .collect(),
            };
            claims.extend(view.names.iter().map(|name| (name.clone(), claim.clone())));
        }
    }
    claims
}

/// Of the listeners that would take a route those that do, as no rival keeps it from them; and what is to be said of the
/// others.
fn contest(
    route: &Key,
    taking: Vec<&ListenerView>,
    around: Surroundings<'_>,
) -> (Vec<(ListenerName, Way)>, Option<String>) {
    let mut won = Vec::with_capacity(taking.len());
    let mut lost = None;
    for view in taking {
        for name in &view.names {
            match around.rivals.refuses(route, name) {
                None => won.push((name.clone(), view.way.clone())),
                Some(rival) => {
                    lost.get_or_insert_with(|| {
                        format!(
                            "Conflicted: {rival} goes before it and has a hostname of it at listener {}; a hostname of a \
                             listener has HTTPRoutes or GRPCRoutes",
                            view.section
                        )
                    });
                }
            }
        }
    }
    (won, lost)
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
fn taking<'a>(
    route: &Key,
    key: &Key,
    parent: &ParentRef,
    views: &'a [ListenerView],
    hostnames: &[HostPattern],
    around: Surroundings<'_>,
) -> Result<Vec<&'a ListenerView>, String> {
    let named: Vec<&'a ListenerView> = views
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
    let allowed: Vec<&'a ListenerView> = named
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
    let taking: Vec<&'a ListenerView> = allowed
        .into_iter()
        .filter(|view| {
            hostnames
                .iter()
                .any(|hostname| view.hostname.intersect(hostname).is_some())
        })
        .collect();
    if taking.is_empty() && !hostnames.is_empty() {
        return Err(format!(
            "NoMatchingListenerHostname: no listener of {key} is for a hostname of the route"
        ));
    }
    Ok(taking)
}
