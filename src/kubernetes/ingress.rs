//! Ingresses: which are ours, and their hosts, paths and default backends as routes.
//!
//! Rules of `networking.k8s.io/v1`: `Exact` is equality, `Prefix` goes by elements of the path,
//! `ImplementationSpecific` is `Prefix` here; `*.example.com` stands for exactly one label; the longest
//! path wins, `Exact` before `Prefix`, the older Ingress before the younger.
//!
//! All hosts are served on one listener, those of `spec.tls` on another one, with the certificates of all Ingresses,
//! chosen by name. In clear text a host of `spec.tls` is only sent there by a redirection (308): what was meant to be
//! encrypted must not go in clear text without a word. The annotation `tidegate.dev/clear-text: allow` says that word, for a
//! proxy behind something that ends TLS. A host whose certificate cannot be used is not served at all. One host makes one route, named `Ingress/namespace/name`;
//! when there are several, each has its host behind that. The default backend is a route of its own,
//! younger than every other, so that it has only what nobody else wants.

mod canary;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::tls::{Service, Tls};
use crate::kubernetes::certificates::Held;
use crate::kubernetes::index::{Findings, Store};
use crate::kubernetes::nginx::{self, Wishes, is_canary};
use crate::kubernetes::objects::{Id, Ingress, IngressBackend, IngressPath, Key, Kind, Object, PortRef};
use crate::kubernetes::service::{PortUse, Traffic, backend_name, find_port};
use crate::kubernetes::{CLASS_NAME, INGRESS_CONTROLLER, Settings};
use crate::model::{
    BackendTarget, Certificate, Filter, HostPattern, Listener, ListenerLimits, ListenerName, ListenerTls,
    Match, PathMatch, PathRewrite, Protocols, Redirect, Route, RouteName, Rule, WeightedBackend,
};

/// The name of the listener that all Ingresses share.
pub const LISTENER: &str = "ingress";
/// The name of the one for their hosts with TLS.
pub const TLS_LISTENER: &str = "ingress-tls";

/// The annotation that was used before `ingressClassName`, and goes before it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// The annotation of a class that takes Ingresses without one.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

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
    let wishes = Wishes::of(&ingress.metadata, findings);
    if wishes.canary.is_some() {
        canary::look_for_main(id, ingress, store, settings, findings);
        return Vec::new();
    }
    if !wishes.unguarded.is_empty() {
        return Vec::new();
    }
    let mut tls = Tls::of(id, ingress, store, findings);
    tls.clear_text |= wishes.clear_text;
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
        if let Service::No(reason) = tls.service(&host) {
            findings.complain(format!("{field}.host"), reason);
            continue;
        }
        if wishes.force_tls && matches!(tls.service(&host), Service::ClearText) && !tls.clear_text {
            findings.complain(
                "metadata.annotations[nginx.ingress.kubernetes.io/force-ssl-redirect]",
                format!("{host} is not in spec.tls: a redirection would lead nowhere, so it is not served"),
            );
            continue;
        }
        let rules = hosts.entry(host).or_default();
        if let Some(to) = &wishes.app_root {
            rules.push(Arc::new(app_root(to)));
        }
        for (at, path) in spec.http.iter().flat_map(|http| http.paths.iter().enumerate()) {
            let field = format!("{field}.http.paths[{at}]");
            let Some(mut rule) = rule(id, path, &field, &wishes, store, findings) else {
                continue;
            };
            wishes.dress(&mut rule);
            let of = (id, spec.host.as_deref(), path);
            rules.extend(
                canary::divide(rule, of, store, settings, findings)
                    .into_iter()
                    .map(Arc::new),
            );
        }
    }
    if ingress.spec.rules.is_empty() && ingress.spec.default_backend.is_none() {
        findings.complain("spec", "it has neither rules nor a defaultBackend");
    }

    let default = default_route(id, ingress, &tls, &wishes, store, findings);
    hosts.retain(|_, rules| !rules.is_empty());
    let is_one = hosts.len() == 1;
    let mut routes = Vec::new();
    for (host, rules) in hosts {
        let name = if is_one {
            format!("Ingress/{id}")
        } else {
            format!("Ingress/{id}/{host}")
        };
        let base = Route {
            name: RouteName::new(&name),
            listeners: Vec::new(),
            hostnames: vec![host.clone()],
            rules,
            created: ingress.metadata.created,
            order: 0, // the name decides
        };
        routes.extend(tls.place(base, &host, settings));
    }
    if let Some(default) = default {
        routes.extend(tls.place(default, &HostPattern::Any, settings));
    }
    findings.certificates = tls.certificates;
    findings.upstream = wishes.upstream;
    routes
}

/// Whether an Ingress has no routes of its own, because it is a canary.
pub fn is_part_of_another(ingress: &Ingress) -> bool {
    is_canary(ingress)
}

/// Whether two Ingresses have a host in common.
pub fn share_a_host(a: &Ingress, b: &Ingress) -> bool {
    let mut hosts = a.spec.rules.iter().map(|rule| rule.host.as_deref().unwrap_or(""));
    hosts.any(|host| {
        b.spec
            .rules
            .iter()
            .any(|rule| rule.host.as_deref().unwrap_or("") == host)
    })
}

/// `/` and nothing else is sent elsewhere.
fn app_root(to: &Arc<str>) -> Rule {
    Rule {
        matches: vec![Match {
            path: PathMatch::Exact("/".into()),
            ..Match::default()
        }],
        filters: vec![Filter::Redirect(Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: Some(PathRewrite::Full(Arc::clone(to))),
            status: http::StatusCode::FOUND,
        })],
        ..Rule::default()
    }
}

/// The listeners of all Ingresses, in clear text and with TLS, as far as there is something for them.
pub fn listeners<'a>(
    serves: bool,
    held: impl Iterator<Item = &'a Held>,
    settings: &Settings,
) -> [Option<Listener>; 2] {
    let listener = |name, address, tls| Listener {
        name: ListenerName::new(name),
        address,
        public_port: None,
        hostname: HostPattern::Any,
        kind: crate::model::ListenerKind::Http,
        protocols: Protocols::default(),
        tls,
        limits: ListenerLimits::default(),
    };
    let mut distinct: Vec<Arc<Certificate>> = Vec::new();
    let mut managed = BTreeSet::new();
    for held in held {
        match held {
            Held::Given(certificate) if !distinct.contains(certificate) => {
                distinct.push(Arc::clone(certificate));
            }
            Held::Given(_) => {}
            Held::Managed(names) => managed.extend(names.iter().cloned()),
        }
    }
    let tls = ListenerTls::managing(distinct, managed.into_iter().collect()).map(|mut tls| {
        // Nobody's certificate is everybody's default.
        tls.strict_sni = true;
        Arc::new(tls)
    });
    [
        serves.then(|| listener(LISTENER, settings.ingress_address, None)),
        tls.filter(|_| serves)
            .map(|tls| listener(TLS_LISTENER, settings.ingress_tls_address, Some(tls))),
    ]
}

/// Whether an Ingress is ours, by the old annotation, its class, or the default class.
pub fn is_ours(ingress: &Ingress, store: &Store, settings: &Settings) -> bool {
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
fn rule(
    id: &Id,
    spec: &IngressPath,
    field: &str,
    wishes: &Wishes,
    store: &Store,
    findings: &mut Findings,
) -> Option<Rule> {
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
        _ if wishes.regex => match nginx::path_regex(text) {
            Ok(path) => path,
            Err(reason) => {
                findings.complain(format!("{field}.path"), format!("{reason}; the path is left out"));
                return None;
            }
        },
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
    match find_port(store, &service, &port, Traffic::Requests) {
        Ok(found) => {
            let port = PortUse::requests(found.port.0);
            let name = backend_name(&service, &port);
            findings.on.uses.insert((service, port));
            BackendTarget::Backend(name)
        }
        Err(reason) if reason.starts_with("BackendNotFound") => {
            findings.complain(
                format!("{field}.service"),
                format!("{reason}; its requests are answered with 503"),
            );
            BackendTarget::Backend(match port {
                PortRef::Number(number) => backend_name(&service, &PortUse::requests(number)),
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
    tls: &Tls,
    wishes: &Wishes,
    store: &Store,
    findings: &mut Findings,
) -> Option<Route> {
    let backend = ingress.spec.default_backend.as_ref()?;
    if let Service::No(reason) = tls.service(&HostPattern::Any) {
        findings.complain("spec.defaultBackend", reason);
        return None;
    }
    let target = target(id, backend, "spec.defaultBackend", store, findings);
    let mut rule = rule_to(Match::default(), target);
    let whole = Wishes {
        rewrite: None, // there is no path to capture of
        ..wishes.clone()
    };
    whole.dress(&mut rule);
    Some(Route {
        name: RouteName::new(if ingress.spec.rules.is_empty() {
            format!("Ingress/{id}")
        } else {
            format!("Ingress/{id}:default")
        }),
        listeners: Vec::new(),
        hostnames: vec![HostPattern::Any],
        rules: vec![Arc::new(rule)],
        created: AFTER_ALL_OTHERS + ingress.metadata.created,
        order: 0, // the name decides
    })
}

#[cfg(test)]
mod tests;
