//! Certificates of Secrets: references to them, from Gateways and Ingresses.
//!
//! A Secret is read once, when it comes: its pair is parsed and checked there, and nothing of its data is kept besides. What
//! refers to a Secret that is not there, not granted or of no use says so and goes without it.

use std::sync::Arc;

use crate::kubernetes::gateway::GROUP;
use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{Id, Key, SecretRef};
use crate::model::{Certificate, ManagedName};

/// The annotation of an Ingress, Gateway or ListenerSet by which hosts that no Secret has a certificate for get one by ACME.
pub const ACME: &str = "tidegate.dev/acme";

/// With what hosts of an Ingress are served.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// The certificate of a Secret.
    Given(Arc<Certificate>),
    /// Certificates that are got by ACME, one for each name.
    Managed(Vec<ManagedName>),
}

/// The certificate of a Secret, or why there is none.
pub fn of_secret(id: &Id, store: &Store) -> Result<Arc<Certificate>, String> {
    let secret = store
        .secret(id)
        .ok_or_else(|| format!("Secret {id} is not there"))?;
    match &secret.pair {
        Some(Ok(certificate)) => Ok(Arc::clone(certificate)),
        Some(Err(reason)) => Err(format!("Secret {id} cannot be used: {reason}")),
        None => Err(format!("Secret {id} has no tls.crt and tls.key")),
    }
}

/// The certificate that a listener of a Gateway or ListenerSet refers to, or why it does not get it; the complaint's field is below the
/// reference's.
///
/// Whether it is granted is asked first, so that a refusal says nothing about what there is elsewhere.
pub fn of_listener(owner: &Key, wanted: &SecretRef, store: &Store) -> Result<Arc<Certificate>, Complaint> {
    let (group, kind) = (
        wanted.group.as_deref().unwrap_or(""),
        wanted.kind.as_deref().unwrap_or("Secret"),
    );
    if !group.is_empty() || kind != "Secret" {
        return Err(Complaint::new(
            ".kind",
            format!(
                "InvalidCertificateRef: {kind} of group {group:?} has no certificate; Secret of the core group has"
            ),
        ));
    }
    let namespace = wanted.namespace.as_ref().unwrap_or(&owner.id.namespace);
    let secret = Id::new(Arc::clone(namespace), Arc::clone(&wanted.name));
    if *namespace != owner.id.namespace && !is_granted(owner, &secret, store) {
        return Err(Complaint::new(
            "",
            format!(
                "RefNotPermitted: no ReferenceGrant in namespace {namespace} lets {}s of namespace {} refer to Secret \
                 {}",
                owner.kind.name(),
                owner.id.namespace,
                secret.name
            ),
        ));
    }
    of_secret(&secret, store).map_err(|reason| Complaint::new("", format!("InvalidCertificateRef: {reason}")))
}

fn is_granted(owner: &Key, secret: &Id, store: &Store) -> bool {
    store.grants(&secret.namespace).any(|grant| {
        let from = grant.spec.from.iter().any(|from| {
            *from.group == *GROUP && *from.kind == *owner.kind.name() && from.namespace == owner.id.namespace
        });
        let to = grant.spec.to.iter().any(|to| {
            to.group.is_empty()
                && &*to.kind == "Secret"
                && to.name.as_ref().is_none_or(|name| *name == secret.name)
        });
        from && to
    })
}

#[cfg(test)]
mod tests;
