//! TLSRoutes, TCPRoutes and UDPRoutes: where connections and datagrams go that nobody reads.
//!
//! Nothing in them tells one rule from another, so a route has one. Of several TCPRoutes or UDPRoutes of a listener the oldest
//! counts, and of TLSRoutes the oldest of each hostname (Gateway API, "Conflicts"); the others are accepted and counted all the
//! same, and their turn comes when it goes.
//!
//! A TLSRoute may be attached to listeners that end TLS and to others that pass it on. To the endpoints that is something else,
//! so it is two routes of the model then, with backends of their own.

use std::sync::Arc;

use super::{Surroundings, attach, backends, hostnames, route_name};
use crate::kubernetes::index::Findings;
use crate::kubernetes::objects::{Key, StreamRoute};
use crate::model::{Match, Route, Rule};

/// The routes that a TLSRoute, TCPRoute or UDPRoute is: one for each way in which its listeners lead to endpoints.
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
    let route = |(way, listeners)| {
        let around = Surroundings { way: &way, ..around };
        let backends = backends(key, &first.backend_refs, "spec.rules[0]", &[], around, findings);
        let rule = Rule {
            name: first.name.clone(),
            matches: vec![Match::default()],
            backends,
            ..Rule::default()
        };
        Route {
            name: route_name(key, &way),
            listeners,
            hostnames: hostnames.clone(),
            rules: vec![Arc::new(rule)],
            created: object.metadata.created,
            order: 0, // the name decides: its order is that of `namespace/name`
        }
    };
    attach::by_way(attached).into_iter().map(route).collect()
}
