//! How the hosts of an Ingress are served: in clear text, with TLS, or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{LISTENER, TLS_LISTENER, host};
use crate::kubernetes::Settings;
use crate::kubernetes::certificates::{self, Held};
use crate::kubernetes::index::{Findings, Store};
use crate::kubernetes::objects::{Id, Ingress};
use crate::model::{Filter, HostPattern, ListenerName, ManagedName, Match, Redirect, Route, RouteName, Rule};

/// The annotation that lets hosts of `spec.tls` be served in clear text.
const CLEAR_TEXT: &str = "tidegate.dev/clear-text";

/// The TLS of an Ingress.
pub(super) struct Tls {
    /// Whether its hosts may be served in clear text as well.
    pub(super) clear_text: bool,
    /// Each entry of `spec.tls`: its hosts (none: all of the Ingress), and its certificate or why there is none.
    entries: Vec<TlsEntry>,
    /// Those that can be used.
    pub(super) certificates: Vec<Held>,
}

/// An entry of `spec.tls`.
type TlsEntry = (Vec<HostPattern>, Result<Held, String>);

/// How a host is served.
pub(super) enum Service {
    ClearText,
    WithTls,
    /// Not at all, and why.
    No(String),
}

impl Tls {
    /// What it says, and what of that cannot be.
    pub(super) fn of(id: &Id, ingress: &Ingress, store: &Store, findings: &mut Findings) -> Self {
        let clear_text = match ingress.metadata.annotation(CLEAR_TEXT) {
            None => false,
            Some("allow") => true,
            Some(other) => {
                findings.complain(
                    format!("metadata.annotations[{CLEAR_TEXT}]"),
                    format!("{other:?} is not \"allow\"; hosts of spec.tls are not served in clear text"),
                );
                false
            }
        };
        let by_acme = match ingress.metadata.annotation(certificates::ACME) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                findings.complain(
                    format!("metadata.annotations[{}]", certificates::ACME),
                    format!("{other:?} is neither true nor false; no certificates are got"),
                );
                false
            }
        };
        let mut entries = Vec::new();
        for spec in &ingress.spec.tls {
            let hosts = spec.hosts.iter().filter_map(|text| host(Some(text)).ok());
            let certificate = match spec.secret_name.as_deref() {
                None | Some("") => Err("spec.tls names no Secret for it".to_owned()),
                Some(name) => {
                    let secret = Id::new(Arc::clone(&id.namespace), name);
                    findings.on.secrets.insert(secret.clone());
                    certificates::of_secret(&secret, store)
                }
            };
            let certificate = match certificate {
                Err(_) if by_acme => managed(ingress, &spec.hosts).map(Held::Managed),
                given => given.map(Held::Given),
            };
            entries.push((hosts.collect(), certificate));
        }
        let good = entries
            .iter()
            .filter_map(|(_, certificate)| certificate.as_ref().ok());
        Self {
            clear_text,
            certificates: good.cloned().collect(),
            entries,
        }
    }

    /// How a host of it is served.
    pub(super) fn service(&self, host: &HostPattern) -> Service {
        let means = |tls: &HostPattern| match host {
            HostPattern::Exact(name) => tls.matches(name),
            other => tls == other,
        };
        let entry = self
            .entries
            .iter()
            .find(|(hosts, _)| hosts.is_empty() || hosts.iter().any(means));
        let why = match entry {
            None => return Service::ClearText,
            Some((_, Ok(Held::Managed(names)))) => match host {
                HostPattern::Exact(name) if !names.iter().any(|own| own.pattern().matches(name)) => {
                    format!("no certificate is got for {host}")
                }
                _ => return Service::WithTls,
            },
            Some((_, Ok(Held::Given(certificate)))) => match host {
                // Whether it is for a wildcard or for every name is told by each client's name.
                HostPattern::Exact(name) if !certificate.covers(name) => {
                    format!("the certificate of {:?} is not for {host}", certificate.origin)
                }
                _ => return Service::WithTls,
            },
            Some((_, Err(why))) => why.clone(),
        };
        match self.clear_text {
            true => Service::ClearText,
            false => Service::No(format!(
                "{host} is in spec.tls, but {why}, so it is not served; to serve it in clear text, set the annotation \
                 {CLEAR_TEXT}: allow"
            )),
        }
    }

    /// A route on the listeners where its host is served.
    pub(super) fn place(&self, route: Route, host: &HostPattern, settings: &Settings) -> Vec<Route> {
        let on = |names: &[&str], route: Route| Route {
            listeners: names.iter().map(|name| ListenerName::new(*name)).collect(),
            ..route
        };
        match self.service(host) {
            Service::No(_) => Vec::new(),
            Service::ClearText => vec![on(&[LISTENER], route)],
            Service::WithTls if self.clear_text => vec![on(&[LISTENER, TLS_LISTENER], route)],
            Service::WithTls => {
                let name = RouteName::new(format!("{}:https", route.name));
                let redirect = Route {
                    name,
                    rules: vec![Arc::new(to_https(settings))],
                    ..route.clone()
                };
                vec![on(&[TLS_LISTENER], route), on(&[LISTENER], redirect)]
            }
        }
    }
}

/// The names of an entry of `spec.tls` that certificates are got for: its hosts, and if it has none those of all rules.
fn managed(ingress: &Ingress, hosts: &[Arc<str>]) -> Result<Vec<ManagedName>, String> {
    let of_rules = ingress.spec.rules.iter().filter_map(|rule| rule.host.as_ref());
    let wanted: BTreeSet<&str> = match hosts {
        [] => of_rules
            .map(|host| &**host)
            .filter(|host| !host.is_empty())
            .collect(),
        hosts => hosts.iter().map(|host| &**host).collect(),
    };
    if wanted.is_empty() {
        return Err("it has no host that a certificate could be got for".to_owned());
    }
    let names = wanted.into_iter().map(ManagedName::parse);
    names
        .collect::<Result<_, _>>()
        .map_err(|error| format!("no certificate can be got for it: {error}"))
}

/// Sends clients to the same place with TLS.
fn to_https(settings: &Settings) -> Rule {
    let port = settings.ingress_tls_address.port();
    Rule {
        matches: vec![Match::default()],
        filters: vec![Filter::Redirect(Redirect {
            scheme: Some(http::uri::Scheme::HTTPS),
            hostname: None,
            port: (port != 443).then_some(port),
            path: None,
            status: http::StatusCode::PERMANENT_REDIRECT,
        })],
        ..Rule::default()
    }
}
