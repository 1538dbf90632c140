//! BackendTLSPolicies: TLS towards the endpoints of Services, by namespace.
//!
//! A policy is for a Service or for one of its ports; the one for the port goes before. Of two for the same the older one
//! counts, then the name, and the other one is told that it is in conflict. A Service whose policy has no root certificate that
//! can be used gets no request at all: in clear text it would be served without what was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{AltName, BackendTlsPolicy, BackendTlsValidation, Id, Key, Kind, Object};
use crate::kubernetes::trust;
use crate::model::tls::{Roots, SubjectName, TlsVersions, UpstreamTls};

/// The policies of one namespace.
#[derive(Debug, Default, PartialEq)]
pub struct Policies {
    /// By the name of the Service, then the name of the port; none: all of its ports.
    targets: BTreeMap<Arc<str>, BTreeMap<Option<Arc<str>>, Target>>,
    /// What is wrong, by policy.
    pub complaints: BTreeMap<Key, Vec<Complaint>>,
}

/// What counts for a Service or port.
#[derive(Clone, Debug, PartialEq)]
struct Target {
    policy: Id,
    /// None: it cannot be used, and no request may be sent.
    tls: Option<Arc<UpstreamTls>>,
}

impl Policies {
    /// All of a namespace. `before` are those that were made last, whose TLS is kept where it is the same.
    pub fn of_namespace(namespace: &str, store: &Store, before: Option<&Self>) -> Self {
        let mut all = Self::default();
        let mut policies: Vec<(&Key, &Arc<BackendTlsPolicy>)> = store
            .in_namespace(Kind::BackendTlsPolicy, namespace)
            .filter_map(|(key, object)| match object {
                Object::BackendTlsPolicy(policy) => Some((key, policy)),
                _ => None,
            })
            .collect();
        policies.sort_by_key(|(key, policy)| (policy.metadata.created, &key.id));
        for (key, policy) in policies {
            let mut complaints = Vec::new();
            let tls = upstream_tls(key, &policy.spec.validation, store, &mut complaints).map(|tls| {
                before
                    .and_then(|before| before.same(&tls))
                    .unwrap_or_else(|| Arc::new(tls))
            });
            for (at, target) in policy.spec.target_refs.iter().enumerate() {
                let field = format!("spec.targetRefs[{at}]");
                if !target.group.is_empty() || &*target.kind != "Service" {
                    let reason = format!("Invalid: {} is no Service of the core group", target.kind);
                    complaints.push(Complaint::new(format!("{field}.kind"), reason));
                    continue;
                }
                let ports = all.targets.entry(Arc::clone(&target.name)).or_default();
                if let Some(first) = ports.get(&target.section_name) {
                    let reason = format!("Conflicted: BackendTLSPolicy {} is for it already", first.policy);
                    complaints.push(Complaint::new(field, reason));
                    continue;
                }
                let tls = tls.clone();
                let policy = key.id.clone();
                ports.insert(target.section_name.clone(), Target { policy, tls });
            }
            if !complaints.is_empty() {
                all.complaints.insert(key.clone(), complaints);
            }
        }
        all
    }

    /// What counts for a port of a Service: TLS, or that it cannot be had; none: clear text.
    pub fn of_port(&self, service: &str, port: &str) -> Option<Result<&Arc<UpstreamTls>, &Id>> {
        let ports = self.targets.get(service)?;
        let for_port = ports.iter().find(|(name, _)| name.as_deref() == Some(port));
        let target = for_port.map(|(_, target)| target).or_else(|| ports.get(&None))?;
        Some(target.tls.as_ref().ok_or(&target.policy))
    }

    /// The Services for which these and others differ.
    pub fn changed<'all>(&'all self, other: &'all Self) -> impl Iterator<Item = &'all Arc<str>> {
        let names = self.targets.keys().chain(other.targets.keys());
        names.filter(|name| self.targets.get(*name) != other.targets.get(*name))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.complaints.is_empty()
    }

    fn same(&self, tls: &UpstreamTls) -> Option<Arc<UpstreamTls>> {
        let all = self.targets.values().flat_map(BTreeMap::values);
        all.filter_map(|target| target.tls.as_ref())
            .find(|known| ***known == *tls)
            .map(Arc::clone)
    }
}

/// The TLS that a policy asks for; none when it cannot be had, with the reason among the complaints.
fn upstream_tls(
    key: &Key,
    spec: &BackendTlsValidation,
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> Option<UpstreamTls> {
    let mut fail = |field: &str, reason: String| {
        complaints.push(Complaint::new(format!("spec.validation{field}"), reason));
    };
    let roots = match (&spec.ca_certificate_refs[..], spec.well_known.as_deref()) {
        ([], Some("System")) => Roots::System,
        ([], other) => {
            let other = other.unwrap_or_default();
            fail(
                ".wellKnownCACertificates",
                format!("Invalid: {other:?} is not known; System is, or caCertificateRefs"),
            );
            return None;
        }
        (refs, _) => {
            let gathered = trust::gather(key, refs, "InvalidKind", store);
            for (at, complaint) in gathered.complaints {
                fail(
                    &format!(".caCertificateRefs[{at}]{}", complaint.field),
                    complaint.reason,
                );
            }
            match gathered.bundle {
                Some(bundle) => Roots::Bundle(bundle),
                None => {
                    let reason =
                        "NoValidCACertificate: no root certificate is left; the Service gets no requests";
                    fail("", reason.to_owned());
                    return None;
                }
            }
        }
    };
    let mut names = Vec::with_capacity(spec.subject_alt_names.len());
    for (at, name) in spec.subject_alt_names.iter().enumerate() {
        match alt_name(name) {
            Ok(name) => names.push(name),
            Err(reason) => {
                // A name that is left out would let in fewer; all left out would let in others.
                fail(&format!(".subjectAltNames[{at}]"), format!("Invalid: {reason}"));
                return None;
            }
        }
    }
    UpstreamTls::new(&spec.hostname, roots, names, None, TlsVersions::default())
        .map_err(|error| fail(".hostname", format!("Invalid: {error}")))
        .ok()
}

fn alt_name(name: &AltName) -> Result<SubjectName, String> {
    match (&*name.r#type, &name.hostname, &name.uri) {
        ("Hostname", Some(hostname), _) => SubjectName::parse(&format!("dns:{hostname}")),
        ("URI", _, Some(uri)) => Ok(SubjectName::Uri(Arc::from(&**uri))),
        (kind, _, _) => Err(format!("{kind:?} is neither a Hostname nor a URI that is given")),
    }
}

#[cfg(test)]
mod tests;
