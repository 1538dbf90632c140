//! References of a route to a backend: may it, and is it there?

use std::sync::Arc;

use super::Surroundings;
use crate::kubernetes::gateway::GROUP;
use crate::kubernetes::index::{Complaint, Findings, Store};
use crate::kubernetes::objects::{BackendRef, Id, Key, PortRef};
use crate::kubernetes::service::{PortUse, find_port};

/// The Service and port that are meant, or why they are not to be had; the complaint's field is below
/// the reference's.
///
/// Whether it is granted is asked first, so that a refusal says nothing about what there is elsewhere. Routes of Services
/// need no grant: their clients may ask any other Service themselves (GEP-1294).
pub fn resolve(
    route: &Key,
    wanted: &BackendRef,
    around: Surroundings<'_>,
    findings: &mut Findings,
) -> Result<(Id, PortUse), Complaint> {
    let (group, kind) = (
        wanted.group.as_deref().unwrap_or(""),
        wanted.kind.as_deref().unwrap_or("Service"),
    );
    if !group.is_empty() || kind != "Service" {
        return Err(Complaint::new(
            ".kind",
            format!("InvalidKind: {kind} of group {group:?} is no backend; Service of the core group is"),
        ));
    }
    let namespace = wanted.namespace.as_ref().unwrap_or(&route.id.namespace);
    let service = Id::new(Arc::clone(namespace), Arc::clone(&wanted.name));
    let Surroundings { store, way, .. } = around;
    if *namespace != route.id.namespace && around.clients.is_none() {
        findings.on.granting.insert(Arc::clone(namespace));
        if !is_granted(route, &service, store) {
            return Err(Complaint::new(
                "",
                format!(
                    "RefNotPermitted: no ReferenceGrant in namespace {namespace} lets {}s of namespace {} refer to \
                     Service {}",
                    route.kind.name(),
                    route.id.namespace,
                    service.name
                ),
            ));
        }
    }
    let Some(port) = wanted.port else {
        return Err(Complaint::new(
            ".port",
            "UnsupportedValue: a reference to a Service needs a port",
        ));
    };
    findings.on.services.insert(service.clone());
    find_port(store, &service, &PortRef::Number(port.0), way.traffic)
        .map(|found| {
            let port = found.port.0;
            let way = way.clone();
            (service, PortUse { port, way })
        })
        .map_err(|reason| Complaint::new("", reason))
}

fn is_granted(route: &Key, service: &Id, store: &Store) -> bool {
    store.grants(&service.namespace).any(|grant| {
        let from = grant.spec.from.iter().any(|from| {
            *from.group == *GROUP && *from.kind == *route.kind.name() && from.namespace == route.id.namespace
        });
        let to = grant.spec.to.iter().any(|to| {
            to.group.is_empty()
                && &*to.kind == "Service"
                && to.name.as_ref().is_none_or(|name| *name == service.name)
        });
        from && to
    })
}
