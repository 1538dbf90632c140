//! Root certificates that objects refer to: `ca.crt` of a ConfigMap.

use std::sync::Arc;

use crate::kubernetes::gateway::GROUP;
use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{Id, Key, ObjectRef};
use crate::model::tls::TrustBundle;

/// All that some references lead to, as one bundle.
#[derive(Debug, Default)]
pub struct Gathered {
    /// What they have together; none when no reference is of use.
    pub bundle: Option<TrustBundle>,
    /// What is wrong with the others, by their place.
    pub complaints: Vec<(usize, Complaint)>,
}

/// What the references of an object lead to. `kind_reason` is the condition reason for a kind that has no certificates.
///
/// Whether it is granted is asked first, so that a refusal says nothing about what there is elsewhere.
pub fn gather(from: &Key, refs: &[ObjectRef], kind_reason: &str, store: &Store) -> Gathered {
    let mut gathered = Gathered::default();
    let (mut text, mut origins) = (String::new(), Vec::new());
    for (at, wanted) in refs.iter().enumerate() {
        match one(from, wanted, kind_reason, store) {
            Ok((id, pem)) => {
                text.push_str(&pem);
                text.push('\n');
                origins.push(format!("ConfigMap {id}"));
            }
            Err(complaint) => gathered.complaints.push((at, complaint)),
        }
    }
    if !origins.is_empty() {
        match TrustBundle::from_pem(&origins.join(", "), text.as_bytes()) {
            Ok(bundle) => gathered.bundle = Some(bundle),
            Err(error) => gathered
                .complaints
                .push((0, Complaint::new("", error.to_string()))),
        }
    }
    gathered
}

fn one(
    from: &Key,
    wanted: &ObjectRef,
    kind_reason: &str,
    store: &Store,
) -> Result<(Id, Arc<str>), Complaint> {
    if !wanted.group.is_empty() || &*wanted.kind != "ConfigMap" {
        return Err(Complaint::new(
            ".kind",
            format!(
                "{kind_reason}: {} of group {:?} has no root certificates; ConfigMap of the core group has",
                wanted.kind, wanted.group
            ),
        ));
    }
    let namespace = wanted.namespace.as_ref().unwrap_or(&from.id.namespace);
    let id = Id::new(Arc::clone(namespace), Arc::clone(&wanted.name));
    if *namespace != from.id.namespace && !is_granted(from, &id, store) {
        return Err(Complaint::new(
            "",
            format!(
                "RefNotPermitted: no ReferenceGrant in namespace {namespace} lets {}s of namespace {} refer to ConfigMap {}",
                from.kind.name(),
                from.id.namespace,
                id.name
            ),
        ));
    }
    let fail = |reason: String| Complaint::new("", format!("InvalidCACertificateRef: {reason}"));
    let map = store
        .config_map(&id)
        .ok_or_else(|| fail(format!("ConfigMap {id} is not there")))?;
    let text = map
        .data
        .ca
        .as_ref()
        .ok_or_else(|| fail(format!("ConfigMap {id} has no ca.crt")))?;
    TrustBundle::from_pem("", text.as_bytes())
        .map_err(|error| fail(format!("ConfigMap {id} cannot be used: ca.crt: {error}")))?;
    Ok((id, Arc::clone(text)))
}

fn is_granted(from: &Key, map: &Id, store: &Store) -> bool {
    store.grants(&map.namespace).any(|grant| {
        let by = grant.spec.from.iter().any(|by| {
            *by.group == *GROUP && *by.kind == *from.kind.name() && by.namespace == from.id.namespace
        });
        let to = grant.spec.to.iter().any(|to| {
            to.group.is_empty()
                && &*to.kind == "ConfigMap"
                && to.name.as_ref().is_none_or(|name| *name == map.name)
        });
        by && to
    })
}
