//! `discovery.k8s.io/v1 EndpointSlice`, kept small: there may be a hundred thousand endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::core::transport;
use super::scalar::or_default;
use super::{Meta, PortNumber};
use crate::model::Transport;

/// The label that says whose endpoints a slice holds.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The label that says who writes a slice.
pub const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Its value where that is us.
pub const SLICE_MANAGER: &str = "tidegate.dev";

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSlice {
    pub metadata: Meta,
    /// The Service it belongs to, by its label. Who manages the slice does not matter.
    pub service: Option<Arc<str>>,
    /// Whether it is one of those that we write.
    pub is_ours: bool,
    /// Its endpoints; none when its addresses are names (`FQDN` has no defined meaning).
    pub endpoints: Vec<SliceEndpoint>,
    /// Its TCP and UDP ports.
    pub ports: Vec<SlicePort>,
    /// The first text in the place of an address that is none; such endpoints are left out.
    pub bad_address: Option<Box<str>>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// The first address; the others have no meaning.
    pub address: IpAddr,
    /// Takes new requests. Not said: it does.
    pub ready: bool,
    /// Answers, be it terminating or not. Not said: it does.
    pub serving: bool,
    /// Is ending. Not said: it is not.
    pub terminating: bool,
    pub zone: Option<Arc<str>>,
    /// The zones that it is meant for, if there are hints.
    pub hints: Option<Arc<[Arc<str>]>>,
    /// The name of what it is, most often a pod.
    pub target: Option<Arc<str>>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicePort {
    /// Empty for an unnamed one.
    pub name: Arc<str>,
    pub transport: Transport,
    /// None: every port; the Service says which.
    pub port: Option<u16>,
    pub app_protocol: Option<Box<str>>,
}

impl<'de> Deserialize<'de> for EndpointSlice {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Raw::deserialize(input).map(Self::from)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    metadata: Meta,
    #[serde(default)]
    address_type: Option<Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<RawPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default, deserialize_with = "or_default")]
    addresses: Vec<Box<str>>,
    #[serde(default, deserialize_with = "or_default")]
    conditions: RawConditions,
    #[serde(default)]
    zone: Option<Arc<str>>,
    #[serde(default)]
    hints: Option<RawHints>,
    #[serde(default)]
    target_ref: Option<RawTarget>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHints {
    #[serde(default, deserialize_with = "or_default")]
    for_zones: Vec<RawForZone>,
}

#[derive(Deserialize)]
struct RawForZone {
    name: Arc<str>,
}

#[derive(Deserialize)]
struct RawTarget {
    #[serde(default)]
    name: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default, deserialize_with = "or_default")]
    name: Arc<str>,
    #[serde(default)]
    port: Option<PortNumber>,
    #[serde(default)]
    protocol: Option<Box<str>>,
    #[serde(default)]
    app_protocol: Option<Box<str>>,
}

impl From<Raw> for EndpointSlice {
    fn from(raw: Raw) -> Self {
        let mut slice = Self {
            service: raw.metadata.labels.get(SERVICE_LABEL).cloned(),
            is_ours: raw
                .metadata
                .labels
                .get(SLICE_MANAGED_BY)
                .is_some_and(|by| **by == *SLICE_MANAGER),
            metadata: raw.metadata,
            endpoints: Vec::with_capacity(raw.endpoints.len()),
            ports: raw
                .ports
                .into_iter()
                .filter_map(|port| {
                    Some(SlicePort {
                        transport: transport(port.protocol.as_deref())?,
                        name: port.name,
                        port: port.port.map(|PortNumber(number)| number),
                        app_protocol: port.app_protocol,
                    })
                })
                .collect(),
            bad_address: None,
        };
        if raw.address_type.as_deref() == Some("FQDN") {
            return slice;
        }
        // They repeat: one text, and one list, for all that share it.
        let (mut zones, mut lists) = (Vec::new(), Vec::new());
        for endpoint in raw.endpoints {
            let Some(text) = endpoint.addresses.into_iter().next() else {
                continue;
            };
            let address = match text.parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() && !address.is_multicast() => address,
                Ok(_) | Err(_) => {
                    slice.bad_address.get_or_insert(text);
                    continue;
                }
            };
            let zone = endpoint.zone.map(|zone| shared(zone, &mut zones));
            let hints = endpoint.hints.filter(|hints| !hints.for_zones.is_empty());
            let hints = hints.map(|hints| {
                let list = hints
                    .for_zones
                    .into_iter()
                    .map(|zone| shared(zone.name, &mut zones));
                shared(list.collect(), &mut lists)
            });
            slice.endpoints.push(SliceEndpoint {
                hints,
                address,
                ready: endpoint.conditions.ready.unwrap_or(true),
                serving: endpoint.conditions.serving.unwrap_or(true),
                terminating: endpoint.conditions.terminating.unwrap_or(false),
                zone,
                target: endpoint.target_ref.and_then(|target| target.name),
            });
        }
        slice
    }
}

/// Zones of a slice, and lists of them, that are remembered; a region has a handful.
const MAX_ZONES: usize = 16;

/// The value as it was seen first.
fn shared<T: PartialEq + ?Sized>(value: Arc<T>, seen: &mut Vec<Arc<T>>) -> Arc<T> {
    if let Some(same) = seen.iter().find(|other| **other == value) {
        return Arc::clone(same);
    }
    if seen.len() < MAX_ZONES {
        seen.push(Arc::clone(&value));
    }
    value
}
