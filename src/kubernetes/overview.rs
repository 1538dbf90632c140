//! How each object fares, in a line and in the words of its conditions: for `tidegate status` and the admin listener.
//!
//! The objects are those that have a status. What they are told there is the answer here as well, whether or not this process is the one
//! that tells them, and complaints that have no place in a status follow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::kubernetes::index::{Complaint, Outcome, STATUS_KINDS};
use crate::kubernetes::manifests::Manifests;
use crate::kubernetes::objects::{Key, Kind, Object};
use crate::kubernetes::status::{self, Serving, Sockets};
use crate::kubernetes::{OpenError, Settings, ingress};
use crate::model::{Socket, Transport};

/// An object and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Its kind: `HTTPRoute`.
    pub kind: &'static str,
    /// Its namespace and name: `default/web`.
    pub name: String,
    /// Whether it is live.
    pub live: Liveness,
    /// What is wrong: `ResolvedRefs=False BackendNotFound: …`, `spec.rules[0].host: …`.
    pub why: Vec<String>,
}

/// Whether an object is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// All of it.
    Yes,
    /// With something left out.
    Partly,
    /// Nothing of it.
    No,
}

impl Liveness {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partly => "partly",
            Self::No => "no",
        }
    }
}

/// How the objects of a directory would fare, if all their addresses could be bound. Reads it once, on the calling thread.
///
/// # Errors
/// A directory that cannot be read.
pub fn of_directory(directory: &Path, settings: Settings) -> Result<Vec<Overview>, OpenError> {
    let (index, problems) = Manifests::read(directory, settings)?;
    let outcome = index.outcome();
    let mut all = all(outcome, &as_if_bound(outcome));
    all.extend(problems.into_iter().map(|problem| Overview {
        kind: "(file)",
        name: problem.object,
        live: Liveness::No,
        why: vec![problem.reason],
    }));
    Ok(all)
}

/// Adds an object that cannot be read. `is_known`: it could be, before, and that stays.
pub(super) fn add_unreadable(all: &mut Vec<Overview>, key: &Key, is_known: bool, why: String) {
    let name = key.id.to_string();
    let known = all
        .iter_mut()
        .find(|one| one.kind == key.kind.name() && one.name == name);
    match known {
        Some(one) => {
            one.live = one.live.max(Liveness::Partly);
            one.why.insert(0, why);
        }
        None => all.push(Overview {
            kind: key.kind.name(),
            name,
            live: if is_known { Liveness::Partly } else { Liveness::No },
            why: vec![why],
        }),
    }
}

/// A complaint in a line.
pub(super) fn complaint(complaint: &Complaint) -> String {
    match complaint.field.as_str() {
        "" => complaint.reason.clone(),
        field => format!("{field}: {}", complaint.reason),
    }
}

/// All objects of ours that have a status, by kind and name. `serving` says what is bound.
pub(super) fn all(outcome: Outcome<'_>, serving: &Serving) -> Vec<Overview> {
    let objects = STATUS_KINDS.iter().flat_map(|kind| outcome.store.of_kind(*kind));
    objects
        .filter_map(|(key, object)| one(key, object, outcome, serving))
        .collect()
}

/// How much of an object is served.
fn one(key: &Key, object: &Object, outcome: Outcome<'_>, serving: &Serving) -> Option<Overview> {
    let status = status::of(key, outcome, serving)?;
    let said = status::merge(&status, &json!({}), "").unwrap_or(Value::Null);
    let mut why = Vec::new();
    let mut parents = 0;
    let mut accepted = 0;
    match key.kind {
        Kind::Ingress => {}
        _ => conditions(&said, "", &mut |place, condition| {
            let (name, is_true) = (text(condition, "type"), condition["status"] == "True");
            parents += usize::from(name == "Accepted");
            accepted += usize::from(name == "Accepted" && is_true);
            // "Conflicted" is the one that is bad when true.
            if is_true == (name == "Conflicted") {
                why.push(format!(
                    "{place}{name}={} {}: {}",
                    text(condition, "status"),
                    text(condition, "reason"),
                    text(condition, "message")
                ));
            }
        }),
    }
    let is_served = match object {
        Object::Ingress(ingress) if ingress::is_part_of_another(ingress) => {
            outcome.complaints(key).is_empty()
        }
        Object::Ingress(_) => !outcome.routes(key).is_empty(),
        Object::Gateway(_) | Object::ListenerSet(_) => {
            let views = outcome.gateways.views.get(key);
            views.into_iter().flatten().any(|view| view.refusal.is_none())
                && !why.iter().any(|why| why.starts_with("Programmed=False"))
        }
        Object::GatewayClass(_) => accepted > 0,
        _ if parents == 0 => return None, // attached to others' Gateways only
        Object::BackendTlsPolicy(_) => accepted > 0,
        _ => !outcome.routes(key).is_empty() && accepted > 0,
    };
    for complaint in outcome.complaints(key) {
        let message = complaint
            .condition()
            .map_or(complaint.reason.as_str(), |(_, message)| message);
        if !why.iter().any(|why| why.contains(message)) {
            why.push(self::complaint(complaint));
        }
    }
    if !is_served && why.is_empty() {
        why.push("nothing of it is served yet".to_owned());
    }
    Some(Overview {
        kind: key.kind.name(),
        name: key.id.to_string(),
        live: match (is_served, why.is_empty()) {
            (true, true) => Liveness::Yes,
            (true, false) => Liveness::Partly,
            (false, _) => Liveness::No,
        },
        why,
    })
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// Every condition in a status, with the place it belongs to: a listener of a Gateway, a parent of a route.
fn conditions(value: &Value, place: &str, found: &mut impl FnMut(&str, &Value)) {
    for condition in value["conditions"].as_array().into_iter().flatten() {
        found(place, condition);
    }
    for listener in value["listeners"].as_array().into_iter().flatten() {
        for condition in listener["conditions"].as_array().into_iter().flatten() {
            // Counted for the Gateway alone.
            if condition["type"] != "Accepted" || condition["status"] != "True" {
                found(&format!("listener {}: ", text(listener, "name")), condition);
            }
        }
    }
    for parent in value["parents"].as_array().into_iter().flatten() {
        for condition in parent["conditions"].as_array().into_iter().flatten() {
            found("", condition);
        }
    }
}

/// All addresses that are wanted, for a world of which nothing is bound.
pub(super) fn as_if_bound(outcome: Outcome<'_>) -> Serving {
    let listeners = outcome.gateways.listeners.values();
    let mut bound: BTreeSet<Socket> = listeners.map(|listener| listener.socket()).collect();
    let settings = outcome.settings;
    bound.extend(
        [settings.ingress_address, settings.ingress_tls_address].map(|address| (address, Transport::Tcp)),
    );
    let failed = BTreeMap::new();
    Serving {
        sockets: Sockets { bound, failed },
        public: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::testing::{Fixture, WEB_AND_EDGE, route, route_with_rule};

    fn lines(yaml: &str) -> Vec<String> {
        let fixture = Fixture::new(yaml);
        let outcome = fixture.index.outcome();
        let all = all(outcome, &as_if_bound(outcome));
        let line = |one: &Overview| {
            format!(
                "{} {} {} {}",
                one.kind,
                one.name,
                one.live.word(),
                one.why.join("; ")
            )
        };
        all.iter().map(line).collect()
    }

    #[test]
    fn each_object_says_whether_it_is_live_and_why_not() {
        let ingress = |name: &str, service: &str| {
            format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec: {{rules: [{{host: 'a b'}}], \
                 defaultBackend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n"
            )
        };
        let yaml = format!(
            "{WEB_AND_EDGE}---\n{}---\n{}---\n{}{}",
            route_with_rule(""),
            route("rules: [{backendRefs: [{name: none, port: 80}]}]").replace("name: r}", "name: s}"),
            route("rules: []")
                .replace("name: edge", "name: other")
                .replace("name: r}", "name: t}"),
            ingress("i", "web")
        );
        let lines = lines(&yaml);
        let find = |start: &str| {
            let found = lines.iter().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("{start}: {lines:#?}")).as_str()
        };
        assert_eq!(find("HTTPRoute default/r"), "HTTPRoute default/r yes ");
        let lost = find("HTTPRoute default/s partly");
        assert!(
            lost.contains("ResolvedRefs=False BackendNotFound: ") && lost.contains("default/none"),
            "{lost}"
        );
        assert!(
            !lines.iter().any(|line| line.starts_with("HTTPRoute default/t")),
            "{lines:#?}"
        );
        assert!(
            find("Ingress default/i partly").contains("spec.rules[0].host"),
            "{lines:#?}"
        );
        assert!(
            find("Gateway default/edge").contains(" no ")
                == lines.iter().any(|line| line.contains("PortUnavailable"))
        );
    }

    #[test]
    fn a_canary_is_live_where_its_main_ingress_is() {
        let ingress = |name: &str, annotations: &str, host: &str| {
            format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}{annotations}}}\nspec: {{rules: [{{host: {host}, \
                 http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}\n"
            )
        };
        let canary = ", annotations: {nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: '5'}";
        let service = WEB_AND_EDGE.split("---").next().unwrap();
        let all = lines(&format!(
            "{service}{}{}{}",
            ingress("a", "", "x.example"),
            ingress("b", canary, "x.example"),
            ingress("c", canary, "y.example")
        ));
        assert_eq!(all[..2], ["Ingress default/a yes ", "Ingress default/b yes "]);
        assert!(
            all[2].starts_with("Ingress default/c no spec.rules: it is a canary"),
            "{all:?}"
        );
    }
}
