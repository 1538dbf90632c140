//! Ingresses: which are ours, and their hosts, paths and default backends as routes.
//!
//! Rules of `networking.k8s.io/v1`: `Exact` is equality, `Prefix` goes by elements of the path,
//! `ImplementationSpecific` is `Prefix` here; `*.example.com` stands for exactly one label; the longest
//! path wins, `Exact` before `Prefix`, the older Ingress before the younger.
//!
//! All hosts are served on one listener. One host makes one route, named `Ingress/namespace/name`;
//! when there are several, each has its host behind that. The default backend is a route of its own,
//! younger than every other, so that it has only what nobody else wants.
//!
//! TLS is not available in this version. A host of `spec.tls` is then *not served*: what was meant to be
//! encrypted must not go in clear text without a word. The annotation
//! `tidegate.dev/clear-text: allow` says that word, for a proxy behind something that ends TLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kubernetes::index::{Findings, Store};
use crate::kubernetes::objects::{Id, Ingress, IngressBackend, IngressPath, Key, Kind, Object, PortRef};
use crate::kubernetes::service::{backend_name, find_port};
use crate::kubernetes::{CLASS_NAME, INGRESS_CONTROLLER, Settings};
use crate::model::{
    BackendTarget, HostPattern, ListenerName, Match, PathMatch, Route, RouteName, Rule, WeightedBackend,
};

/// The name of the listener that all Ingresses share.
pub const LISTENER: &str = "ingress";

/// The annotation that was used before `ingressClassName`, and goes before it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// The annotation of a class that takes Ingresses without one.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// The annotation that lets hosts of `spec.tls` be served in clear text.
const CLEAR_TEXT: &str = "tidegate.dev/clear-text";

/// Added to the age of default backends: later than any real time, so that all other routes go first.
const AFTER_ALL_OTHERS: u64 = 1 << 62;

/// The routes that an Ingress is; none when it is not ours.
pub fn translate(
    id: &Id,
    ingress: &Ingress,
    store: &Store,
    settings: &Settings,
    findings: &mut Findings,
) -> Vec<Route> {
    if !is_ours(ingress, store, settings) {
        return Vec::new();
    }
    let clear_text = ClearText::of(ingress, findings);
    let mut hosts: BTreeMap<HostPattern, Vec<Arc<Rule>>> = BTreeMap::new();
    for (at, spec) in ingress.spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{at}]");
        let host = match host(spec.host.as_deref()) {
            Ok(host) => host,
            Err(reason) => {
                findings.complain(format!("{field}.host"), reason);
                continue;
            }
        };
        if clear_text.forbids(&host) {
            findings.complain(
                format!("{field}.host"),
                format!(
                    "{host} is in spec.tls, but TLS is not available in this version, so it is not served; to serve it \
                     in clear text, set the annotation {CLEAR_TEXT}: allow"
                ),
            );
            continue;
        }
        let rules = hosts.entry(host).or_default();
        for (at, spec) in spec.http.iter().flat_map(|http| http.paths.iter().enumerate()) {
            let field = format!("{field}.http.paths[{at}]");
            rules.extend(rule(id, spec, &field, store, findings).map(Arc::new));
        }
    }
    if ingress.spec.rules.is_empty() && ingress.spec.default_backend.is_none() {
        findings.complain("spec", "it has neither rules nor a defaultBackend");
    }

    let default = default_route(id, ingress, &clear_text, store, findings);
    hosts.retain(|_, rules| !rules.is_empty());
    let is_one = hosts.len() == 1;
    let mut routes: Vec<Route> = hosts
        .into_iter()
        .map(|(host, rules)| Route {
            name: RouteName::new(if is_one {
                format!("Ingress/{id}")
            } else {
                format!("Ingress/{id}/{host}")
            }),
            listeners: vec![ListenerName::new(LISTENER)],
            hostnames: vec![host],
            rules,
            created: ingress.metadata.created,
            order: 0, // the name decides
        })
        .collect();
    routes.extend(default);
    routes
}

/// Whether an Ingress is ours, by the old annotation, its class, or the default class.
fn is_ours(ingress: &Ingress, store: &Store, settings: &Settings) -> bool {
    let annotation = ingress.metadata.annotation(OLD_CLASS);
    let named = annotation.or(ingress.spec.ingress_class_name.as_deref());
    match named {
        Some(name) => {
            let key = Key {
                kind: Kind::IngressClass,
                id: Id::new("", name),
            };
            match store.get(&key) {
                Some(object) => is_our_class(object),
                // the old annotation never needed an object
                None => name == CLASS_NAME && (settings.class_by_name || annotation.is_some()),
            }
        }
        None => {
            settings.class_by_name
                || store.of_kind(Kind::IngressClass).any(|(_, class)| {
                    is_our_class(class) && class.metadata().annotation(DEFAULT_CLASS) == Some("true")
                })
        }
    }
}

fn is_our_class(object: &Object) -> bool {
    match object {
        Object::IngressClass(class) => class.spec.controller.as_deref() == Some(INGRESS_CONTROLLER),
        _ => false,
    }
}

/// The hosts that must not be served in clear text.
enum ClearText {
    Allowed,
    ForbiddenFor(Vec<HostPattern>),
    ForbiddenForAll,
}

impl ClearText {
    fn of(ingress: &Ingress, findings: &mut Findings) -> Self {
        match ingress.metadata.annotation(CLEAR_TEXT) {
            None => {}
            Some("allow") => return Self::Allowed,
            Some(other) => findings.complain(
                format!("metadata.annotations[{CLEAR_TEXT}]"),
                format!("{other:?} is not \"allow\"; hosts of spec.tls are not served"),
            ),
        }
        let tls = &ingress.spec.tls;
        if tls.is_empty() {
            return Self::Allowed;
        }
        if tls.iter().any(|tls| tls.hosts.is_empty()) {
            return Self::ForbiddenForAll;
        }
        let hosts = tls.iter().flat_map(|tls| &tls.hosts);
        Self::ForbiddenFor(hosts.filter_map(|text| host(Some(text)).ok()).collect())
    }

    fn forbids(&self, host: &HostPattern) -> bool {
        match self {
            Self::Allowed => false,
            Self::ForbiddenForAll => true,
            Self::ForbiddenFor(hosts) => hosts.iter().any(|tls| match host {
                HostPattern::Exact(name) => tls.matches(name),
                other => tls == other,
            }),
        }
    }
}

/// A rule's host; a wildcard stands for exactly one label.
fn host(text: Option<&str>) -> Result<HostPattern, String> {
    match text {
        None | Some("") => Ok(HostPattern::Any),
        Some(text) => match HostPattern::parse(text) {
            Ok(HostPattern::Wildcard(suffix)) => Ok(HostPattern::SingleLabelWildcard(suffix)),
            Ok(host) => Ok(host),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// One path as a rule; none when it cannot be understood.
fn rule(id: &Id, spec: &IngressPath, field: &str, store: &Store, findings: &mut Findings) -> Option<Rule> {
    let text = match spec.path.as_deref() {
        None | Some("") => "/",
        Some(text) => text,
    };
    if !text.starts_with('/') {
        findings.complain(
            format!("{field}.path"),
            format!("{text:?} does not begin with '/'; it is left out"),
        );
        return None;
    }
    let path = match spec.path_type.as_deref() {
        Some("Exact") => PathMatch::Exact(Arc::from(text)),
        None | Some("Prefix" | "ImplementationSpecific") => PathMatch::prefix(text),
        Some(other) => {
            findings.complain(
                format!("{field}.pathType"),
                format!("{other:?} is none of Exact, Prefix, ImplementationSpecific; the path is left out"),
            );
            return None;
        }
    };
    let target = target(id, &spec.backend, &format!("{field}.backend"), store, findings);
    Some(rule_to(
        Match {
            path,
            ..Match::default()
        },
        target,
    ))
}

fn rule_to(wanted: Match, target: BackendTarget) -> Rule {
    Rule {
        matches: vec![wanted],
        backends: vec![WeightedBackend {
            target,
            weight: 1,
            filters: Vec::new(),
        }],
        ..Rule::default()
    }
}

/// The Service's port. One that is not there is a backend without endpoints (503), as users of Ingress know it.
fn target(
    id: &Id,
    backend: &IngressBackend,
    field: &str,
    store: &Store,
    findings: &mut Findings,
) -> BackendTarget {
    let mut invalid = |field: &str, reason: String| {
        findings.complain(field, &reason);
        BackendTarget::Invalid(Arc::from(reason))
    };
    let Some(wanted) = &backend.service else {
        return invalid(field, "InvalidKind: only a service can be a backend".to_owned());
    };
    let port = match (&wanted.port.number, &wanted.port.name) {
        (Some(number), None) => PortRef::Number(number.0),
        (None, Some(name)) => PortRef::Name(Arc::clone(name)),
        (None, None) | (Some(_), Some(_)) => {
            return invalid(
                &format!("{field}.service.port"),
                "it needs a number or a name, not both".to_owned(),
            );
        }
    };
    let service = Id::new(Arc::clone(&id.namespace), Arc::clone(&wanted.name));
    findings.on.services.insert(service.clone());
    match find_port(store, &service, &port) {
        Ok(found) => {
            let name = backend_name(&service, found.port.0);
            findings.on.uses.insert((service, found.port.0));
            BackendTarget::Backend(name)
        }
        Err(reason) if reason.starts_with("BackendNotFound") => {
            findings.complain(
                format!("{field}.service"),
                format!("{reason}; its requests are answered with 503"),
            );
            BackendTarget::Backend(match port {
                PortRef::Number(number) => backend_name(&service, number),
                PortRef::Name(name) => format!("{service}:{name}").as_str().into(),
            })
        }
        Err(reason) => {
            findings.complain(format!("{field}.service"), &reason);
            BackendTarget::Invalid(Arc::from(reason))
        }
    }
}

/// The default backend: for every host, after all rules of all Ingresses.
fn default_route(
    id: &Id,
    ingress: &Ingress,
    clear_text: &ClearText,
    store: &Store,
    findings: &mut Findings,
) -> Option<Route> {
    let backend = ingress.spec.default_backend.as_ref()?;
    if matches!(clear_text, ClearText::ForbiddenForAll) {
        findings.complain(
            "spec.defaultBackend",
            format!(
                "spec.tls is for all hosts, but TLS is not available in this version, so it is not served; to serve it \
                 in clear text, set the annotation {CLEAR_TEXT}: allow"
            ),
        );
        return None;
    }
    let target = target(id, backend, "spec.defaultBackend", store, findings);
    Some(Route {
        name: RouteName::new(if ingress.spec.rules.is_empty() {
            format!("Ingress/{id}")
        } else {
            format!("Ingress/{id}:default")
        }),
        listeners: vec![ListenerName::new(LISTENER)],
        hostnames: vec![HostPattern::Any],
        rules: vec![Arc::new(rule_to(Match::default(), target))],
        created: AFTER_ALL_OTHERS + ingress.metadata.created,
        order: 0, // the name decides
    })
}

#[cfg(test)]
mod tests;
