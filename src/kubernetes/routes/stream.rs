//! TLSRoutes, TCPRoutes and UDPRoutes: where connections and datagrams go that nobody reads.
//!
//! Nothing in them tells one rule from another, so a route has one. Of several TCPRoutes or UDPRoutes of a listener the oldest
//! counts, and of TLSRoutes the oldest of each hostname (Gateway API, "Conflicts"); the others are accepted and counted all the
//! same, and their turn comes when it goes.
//!
//! A TLSRoute may be attached to listeners that end TLS and to others that pass it on. To the endpoints that is something else,
//! so it is two routes of the model then, with backends of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Surroundings, attach, backends, hostnames};
use crate::kubernetes::index::Findings;
use crate::kubernetes::objects::{Key, Kind, StreamRoute};
use crate::kubernetes::service::Traffic;
use crate::model::{ListenerName, Match, Route, RouteName, Rule};

/// The routes that a TLSRoute, TCPRoute or UDPRoute is: one for each way in which its listeners carry what comes.
pub fn of_stream(
    key: &Key,
    object: &StreamRoute,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<Route> {
    let spec = &object.spec;
    let hostnames = hostnames(&spec.hostnames, findings);
    let attached = attach::listeners(key, &spec.parent_refs, &hostnames, around, findings);
    if attached.is_empty() || hostnames.is_empty() {
        // a route that is not attached has no say in what is used
        return Vec::new();
    }
    let Some(first) = spec.rules.first() else {
        findings.complain(
            "spec.rules",
            "UnsupportedValue: there is no rule, so the route is left out",
        );
        return Vec::new();
    };
    if spec.rules.len() > 1 {
        findings.complain(
            "spec.rules",
            "UnsupportedValue: nothing tells connections apart, so only the first rule counts",
        );
    }
    let mut listeners: BTreeMap<Traffic, Vec<ListenerName>> = BTreeMap::new();
    for (name, traffic) in attached {
        listeners.entry(traffic).or_default().push(name);
    }
    let route = |(traffic, listeners)| {
        let backends = backends(
            key,
            &first.backend_refs,
            "spec.rules[0]",
            &[],
            traffic,
            around,
            findings,
        );
        let rule = Rule {
            name: first.name.clone(),
            matches: vec![Match::default()],
            backends,
            ..Rule::default()
        };
        Route {
            name: name(key, traffic),
            listeners,
            hostnames: hostnames.clone(),
            rules: vec![Arc::new(rule)],
            created: object.metadata.created,
            order: 0, // the name decides: its order is that of `namespace/name`
        }
    };
    listeners.into_iter().map(route).collect()
}

fn name(key: &Key, traffic: Traffic) -> RouteName {
    let suffix = match (key.kind, traffic) {
        (Kind::TlsRoute, Traffic::Bytes) => "/terminated",
        _ => "",
    };
    RouteName::new(format!("{}/{}{suffix}", key.kind.name(), key.id))
}
