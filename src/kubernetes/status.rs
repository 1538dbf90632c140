//! Status: how an object fares, in the conditions of the Gateway API, and how that is put into what the API server has.
//!
//! Both are pure: [`of`] reads what the index came out with, [`merge()`] compares with what is there and gives nothing when nothing
//! differs. A condition keeps the time of its last transition as long as its status stays; other controllers' entries in a
//! route's `parents` stay as they are. Reasons are those that complaints begin with, which are the API's own.
//!
//! `Programmed` is said of a listener when its address is bound, and not before.

mod address;
mod gateway;
mod merge;
mod policy;
mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use address::told;
pub use address::{Address, StatusAddress, of_service};
pub use merge::merge;
use serde_json::Value;

use crate::kubernetes::features::Installed;
use crate::kubernetes::index::{Outcome, condition};
use crate::kubernetes::objects::{Key, Kind, Object};
use crate::kubernetes::{GATEWAY_CONTROLLER, MESH_CONTROLLER, Mesh, gateway as gateways, ingress};
use crate::model::{Socket, Transport};

/// Longer messages are cut: the API allows 32 KiB, people less.
const MAX_MESSAGE: usize = 1024;

/// What became of the sockets that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Those that are bound.
    pub bound: BTreeSet<Socket>,
    /// Those that cannot be bound, and why. They are tried again.
    pub failed: BTreeMap<Socket, String>,
}

/// What is known beside the objects.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// What became of the sockets.
    pub sockets: Sockets,
    /// The addresses that are told of what is bound on every address; none: nobody knows any.
    pub public: Option<Arc<[Address]>>,
}

/// How an object fares: its status, without times and generations in conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    generation: i64,
    /// The names under which entries of routes and policies are ours.
    controllers: &'static [&'static str],
    body: Body,
}

#[derive(Clone, Debug, PartialEq)]
enum Body {
    /// And the features that are supported.
    GatewayClass(Vec<Condition>, Vec<&'static str>),
    Gateway {
        addresses: Vec<Address>,
        conditions: Vec<Condition>,
        listeners: Vec<Listener>,
        /// ListenerSets that are attached.
        sets: usize,
    },
    ListenerSet {
        conditions: Vec<Condition>,
        listeners: Vec<Listener>,
    },
    /// Parents that are ours.
    Route(Vec<Entry>),
    /// Gateways that are ours.
    Policy(Vec<Entry>),
    Ingress(Vec<Address>),
}

#[derive(Clone, Debug, PartialEq)]
struct Listener {
    name: String,
    kinds: Vec<Kind>,
    attached: usize,
    conditions: Vec<Condition>,
}

/// What is said to one parent of a route, or ancestor of a policy.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// The parent, as the object refers to it.
    reference: Value,
    /// Under which name.
    controller: &'static str,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    kind: &'static str,
    is_true: bool,
    reason: String,
    message: String,
}

impl Condition {
    fn new(kind: &'static str, is_true: bool, reason: &str, message: &str) -> Self {
        let end = (0..=MAX_MESSAGE.min(message.len()))
            .rev()
            .find(|at| message.is_char_boundary(*at));
        Self {
            kind,
            is_true,
            reason: reason.to_owned(),
            message: message[..end.unwrap_or(0)].to_owned(),
        }
    }
}

/// How an object fares; none when that is not ours to say.
pub(super) fn of(key: &Key, outcome: Outcome<'_>, serving: &Serving) -> Option<Status> {
    let (generation, body) = match outcome.store.get(key)? {
        Object::GatewayClass(class) => {
            if class.spec.controller_name.as_deref() != Some(GATEWAY_CONTROLLER) {
                return None;
            }
            let unknown = class
                .spec
                .parameters_ref
                .as_ref()
                .map(gateways::unknown_parameters);
            let accepted = match unknown.as_deref().and_then(condition) {
                Some((reason, message)) => Condition::new("Accepted", false, reason, message),
                None => Condition::new("Accepted", true, "Accepted", "it is served by Tidegate"),
            };
            let installed = Installed::of(outcome.store);
            let mut conditions = vec![accepted];
            conditions.extend(match &installed.unknown {
                _ if installed.is_unknown() => None,
                Some(message) => Some(Condition::new(
                    "SupportedVersion",
                    false,
                    "UnsupportedVersion",
                    message,
                )),
                None => Some(Condition::new(
                    "SupportedVersion",
                    true,
                    "SupportedVersion",
                    "the Gateway API that is installed is known",
                )),
            });
            (
                class.metadata.generation,
                Body::GatewayClass(
                    conditions,
                    installed.features(outcome.settings.gateway_services.as_ref()),
                ),
            )
        }
        Object::Gateway(gateway) => {
            if !gateways::is_ours(outcome.store, outcome.settings, gateway) {
                return None;
            }
            (
                gateway.metadata.generation,
                gateway::of_gateway(key, gateway, outcome, serving),
            )
        }
        Object::ListenerSet(set) => (set.metadata.generation, gateway::of_set(key, outcome, serving)?),
        Object::HttpRoute(route) => (
            route.metadata.generation,
            Body::Route(route::of_route(key, &route.spec.parent_refs, outcome)),
        ),
        Object::GrpcRoute(route) => (
            route.metadata.generation,
            Body::Route(route::of_route(key, &route.spec.parent_refs, outcome)),
        ),
        Object::TlsRoute(route) | Object::TcpRoute(route) | Object::UdpRoute(route) => (
            route.metadata.generation,
            Body::Route(route::of_route(key, &route.spec.parent_refs, outcome)),
        ),
        Object::BackendTlsPolicy(policy) => (
            policy.metadata.generation,
            Body::Policy(policy::of_policy(key, policy, outcome)),
        ),
        Object::Ingress(ingress) => {
            if !ingress::is_ours(ingress, outcome.store, outcome.settings) {
                return None;
            }
            let settings = outcome.settings;
            let served = [settings.ingress_address, settings.ingress_tls_address]
                .into_iter()
                .filter(|address| {
                    !outcome.routes(key).is_empty()
                        && serving.sockets.bound.contains(&(*address, Transport::Tcp))
                });
            let mut addresses: Vec<Address> = Vec::new();
            for address in served.flat_map(|address| told(address.ip(), serving)) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            (ingress.metadata.generation, Body::Ingress(addresses))
        }
        _ => return None,
    };
    let controllers = match outcome.settings.mesh {
        Mesh::Tell => &[GATEWAY_CONTROLLER, MESH_CONTROLLER][..],
        Mesh::Off | Mesh::Serve { .. } => &[GATEWAY_CONTROLLER],
    };
    Some(Status {
        generation,
        controllers,
        body,
    })
}

#[cfg(test)]
mod tests;
