//! How a Gateway fares, and each of its listeners.

use std::net::IpAddr;

use super::{Address, Body, Condition, Listener, Serving, of_service, told};
use crate::kubernetes::gateway::ListenerView;
use crate::kubernetes::index::{Complaint, Outcome, condition};
use crate::kubernetes::objects::{Gateway, Key};
use crate::model;

pub(super) fn of_gateway(key: &Key, gateway: &Gateway, outcome: Outcome<'_>, serving: &Serving) -> Body {
    let views = outcome.gateways.views.get(key).map_or(&[][..], Vec::as_slice);
    let complaints = outcome.complaints(key);
    let listeners: Vec<Listener> = views
        .iter()
        .enumerate()
        .map(|(at, view)| of_listener(key, at, view, complaints, outcome, serving))
        .collect();
    let addressed = |reason: &str| {
        complaints.iter().find_map(|complaint| {
            let (found, message) = complaint.condition()?;
            let is_of_address = ["spec.addresses", "spec.infrastructure"]
                .iter()
                .any(|field| complaint.field.starts_with(field));
            (is_of_address && found == reason).then_some(message)
        })
    };
    let good = listeners
        .iter()
        .filter(|listener| listener.is("Accepted"))
        .count();
    let parameters = complaints.iter().find_map(|complaint| {
        let condition = complaint.condition();
        condition.filter(|(reason, _)| *reason == "InvalidParameters")
    });
    let unacceptable = parameters.or_else(|| Some(("UnsupportedAddress", addressed("UnsupportedAddress")?)));
    let accepted = match (unacceptable, good) {
        (Some((reason, message)), _) => Condition::new("Accepted", false, reason, message),
        (None, 0) => Condition::new(
            "Accepted",
            false,
            "ListenersNotValid",
            "no listener can be served",
        ),
        (None, good) if good < listeners.len() => Condition::new(
            "Accepted",
            true,
            "ListenersNotValid",
            "some listeners cannot be served",
        ),
        (None, _) => Condition::new("Accepted", true, "Accepted", "all listeners can be served"),
    };
    let front = front(key, outcome);
    let unaddressed = ["AddressNotUsable", "AddressNotAssigned", "NoResources"]
        .into_iter()
        .find_map(|reason| Some((reason, addressed(reason)?.to_owned())));
    let bound = |name| {
        let listener = outcome.gateways.listeners.get(name)?;
        Some((listener.address.ip(), failure(listener, serving)))
    };
    let names = views.iter().flat_map(|view| &view.names);
    let failed: Vec<(IpAddr, &str)> = names
        .clone()
        .filter_map(|name| bound(name).and_then(|(address, failure)| Some((address, failure?))))
        .collect();
    let unusable = || Some(("AddressNotUsable", failed.first()?.1.to_owned()));
    let unanswered = || match &front {
        Some(Err((reason, message))) if good > 0 => Some((*reason, message.clone())),
        _ => None,
    };
    let programmed = match unaddressed.or_else(unusable).or_else(unanswered) {
        Some((reason, message)) => Condition::new("Programmed", false, reason, &message),
        None if listeners.iter().any(|listener| listener.is("Programmed")) => {
            Condition::new("Programmed", true, "Programmed", "it is served")
        }
        None if good == 0 => Condition::new("Programmed", false, "Invalid", "no listener can be served"),
        None => Condition::new("Programmed", false, "Pending", "no listener is bound yet"),
    };
    let mut addresses: Vec<Address> = match &front {
        Some(Ok(addresses)) if failed.is_empty() => addresses.clone(),
        _ => Vec::new(),
    };
    let is_behind = front.is_some();
    for (address, _) in names.filter_map(bound).filter(|_| !is_behind) {
        if failed.iter().any(|(failed, _)| *failed == address) {
            continue; // all listeners are to be at every address that is told
        }
        for address in told(address, serving) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    debug_assert_eq!(gateway.spec.listeners.len(), views.len());
    let mut conditions = vec![accepted, programmed];
    if gateway.spec.tls.backend.client_certificate_ref.is_some() {
        let complaint = complaints
            .iter()
            .find(|complaint| complaint.field.starts_with("spec.tls.backend"));
        conditions.push(match complaint.and_then(Complaint::condition) {
            Some((reason, message)) => Condition::new("ResolvedRefs", false, reason, message),
            None => Condition::new(
                "ResolvedRefs",
                true,
                "ResolvedRefs",
                "what it shows endpoints is there",
            ),
        });
    }
    if outcome.gateways.insecure.contains(&key.id) {
        conditions.push(Condition::new(
            "InsecureFrontendValidationMode",
            true,
            "ConfigurationChanged",
            "clients may come with any certificate or none",
        ));
    }
    Body::Gateway {
        addresses,
        conditions,
        listeners,
        sets: outcome.gateways.attached_sets.get(&key.id).copied().unwrap_or(0),
    }
}

/// Where the Service in front of a Gateway is reached, or why it is not, with a reason of the API; none where nothing stands in front.
fn front(key: &Key, outcome: Outcome<'_>) -> Option<Result<Vec<Address>, (&'static str, String)>> {
    let services = outcome.settings.gateway_services.as_ref()?;
    let none = |message: String| Some(Err(("AddressNotAssigned", message)));
    let fronts = &outcome.gateways.fronts;
    let id = fronts.names.get(&key.id);
    let Some((id, service)) = id.and_then(|id| Some((id, outcome.store.service(id)?))) else {
        return none("its Service is not there yet".to_owned());
    };
    let kind = services.kind.word();
    if service.spec.r#type.as_deref() != Some(kind) {
        return none(format!("Service {id} is not of the type {kind} yet"));
    }
    let addresses = of_service(service);
    let asked = fronts.services.get(id).and_then(|front| front.address);
    match (asked, addresses.is_empty()) {
        (_, true) => none(format!(
            "Service {id} has no address yet; see its Events, and who is to give it one"
        )),
        (Some(asked), _) if !addresses.contains(&Address::Ip(asked)) => {
            let message = format!("{asked} was asked for, and Service {id} has another address");
            Some(Err(("AddressNotUsable", message)))
        }
        _ => Some(Ok(addresses)),
    }
}

/// A ListenerSet of a Gateway that is ours.
pub(super) fn of_set(key: &Key, outcome: Outcome<'_>, serving: &Serving) -> Option<Body> {
    let attached = outcome.gateways.sets.get(key)?;
    let views = outcome.gateways.views.get(key).map_or(&[][..], Vec::as_slice);
    let complaints = outcome.complaints(key);
    let listeners: Vec<Listener> = views
        .iter()
        .enumerate()
        .map(|(at, view)| of_listener(key, at, view, complaints, outcome, serving))
        .collect();
    let is_bound = listeners.iter().any(|listener| listener.is("Programmed"));
    let good = views.iter().filter(|view| view.refusal.is_none()).count();
    let conditions = match attached {
        Err(text) => {
            let (reason, message) = condition(text).unwrap_or(("Invalid", text));
            ["Accepted", "Programmed"].map(|kind| Condition::new(kind, false, reason, message))
        }
        Ok(_) if good == 0 => ["Accepted", "Programmed"]
            .map(|kind| Condition::new(kind, false, "ListenersNotValid", "no listener can be served")),
        Ok(_) => [
            match good < listeners.len() {
                true => Condition::new(
                    "Accepted",
                    true,
                    "ListenersNotValid",
                    "some listeners cannot be served",
                ),
                false => Condition::new("Accepted", true, "Accepted", "all listeners can be served"),
            },
            match is_bound {
                false => Condition::new("Programmed", false, "Pending", "no listener is bound yet"),
                true => Condition::new("Programmed", true, "Programmed", "it is served"),
            },
        ],
    };
    Some(Body::ListenerSet {
        conditions: conditions.into(),
        listeners,
    })
}

/// Why the socket of a listener cannot be bound, if it cannot.
fn failure<'serving>(listener: &model::Listener, serving: &'serving Serving) -> Option<&'serving str> {
    serving.sockets.failed.get(&listener.socket()).map(String::as_str)
}

impl Listener {
    /// Whether a condition of this type is true.
    fn is(&self, kind: &str) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|condition| condition.kind == kind && condition.is_true)
    }
}

fn of_listener(
    parent: &Key,
    at: usize,
    view: &ListenerView,
    complaints: &[Complaint],
    outcome: Outcome<'_>,
    serving: &Serving,
) -> Listener {
    let field = format!("spec.listeners[{at}]");
    let unresolved = complaints.iter().find_map(|complaint| {
        let (reason, message) = complaint.condition()?;
        let is_here = complaint
            .field
            .strip_prefix(&field)
            .is_some_and(|below| below.starts_with('.'));
        let known = [
            "InvalidRouteKinds",
            "InvalidCertificateRef",
            "InvalidCACertificateRef",
            "InvalidCACertificateKind",
            "RefNotPermitted",
        ];
        (is_here && known.contains(&reason)).then_some((reason, message))
    });
    let refusal = view.refusal.as_ref().map(|text| match condition(text) {
        Some((reason, message)) => (reason, message),
        None => ("Invalid", text.as_str()),
    });
    let resolved = match unresolved {
        Some((reason, message)) => Condition::new("ResolvedRefs", false, reason, message),
        None => Condition::new(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "all references lead somewhere",
        ),
    };
    let conflict = refusal.filter(|(reason, _)| reason.ends_with("Conflict"));
    let conflicted = match conflict {
        Some((reason, message)) => Condition::new("Conflicted", true, reason, message),
        None => Condition::new(
            "Conflicted",
            false,
            "NoConflicts",
            "it shares its port with no other in the same way",
        ),
    };
    // A listener whose certificates cannot be had is accepted for what it is, and not programmed.
    let accepted = match refusal {
        Some((reason, message)) if unresolved.is_none() || reason == "NoValidCACertificate" => {
            Condition::new("Accepted", false, reason, message)
        }
        _ => Condition::new("Accepted", true, "Accepted", "it can be served"),
    };
    let is_bound = |name| {
        let listener = outcome.gateways.listeners.get(name);
        listener.is_some_and(|listener| serving.sockets.bound.contains(&listener.socket()))
    };
    let programmed = match &view.refusal {
        Some(_) => {
            let reason = conflict.map_or("Invalid", |(reason, _)| reason);
            Condition::new("Programmed", false, reason, "it cannot be served as it is")
        }
        None if view.names.iter().all(is_bound) => {
            Condition::new("Programmed", true, "Programmed", "its address is bound")
        }
        None => {
            let listeners = view
                .names
                .iter()
                .filter_map(|name| outcome.gateways.listeners.get(name));
            match listeners
                .into_iter()
                .find_map(|listener| failure(listener, serving))
            {
                Some(why) => Condition::new("Programmed", false, "Invalid", why),
                None => Condition::new("Programmed", false, "Pending", "its address is not bound yet"),
            }
        }
    };
    Listener {
        name: view.section.to_string(),
        kinds: view.kinds.clone(),
        attached: view
            .names
            .first()
            .map_or(0, |name| outcome.attached(parent, name)),
        conditions: vec![accepted, programmed, resolved, conflicted],
    }
}
