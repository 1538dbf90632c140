//! The endpoints of a Service's port: the union of its slices, exactly as kube-proxy reads them.
//!
//! - All slices with the Service's label count, whoever manages them: two IP families, mirrored and
//!   hand-made ones (`discovery/v1`, type comments).
//! - An endpoint is used when it is *ready*. When no endpoint of any slice is, those that are *serving
//!   and terminating* are used (kube-proxy, `pkg/proxy/topology.go`, `CategorizeEndpoints`). The model
//!   says that by state: ready is [`EndpointState::Active`], serving and terminating is
//!   [`EndpointState::Draining`], which a balancer uses only when nothing is active.
//! - The same address may be in two slices while a pod moves from one to the other. The ready,
//!   not terminating entry wins, whatever the order (kubernetes PR 135334).
//! - The port is the slice's own port of the same name as the Service's: slices of one Service may give
//!   one name different numbers. A port without a number means all of them; then it is the Service's
//!   `targetPort`, or its own number when that is a name.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::kubernetes::objects::{EndpointSlice, PortRef, ServicePort, SliceEndpoint};
use crate::kubernetes::service::{AppProtocol, app_protocol};
use crate::model::{BackendProtocol, Endpoint, EndpointState};

/// The endpoints of a Service's port, by address, each address once.
///
/// `spoken` is what the backend speaks; a slice's `appProtocol` may say otherwise, unless `forced`.
pub fn endpoints<'slices>(
    slices: impl Iterator<Item = &'slices EndpointSlice>,
    port: &ServicePort,
    spoken: BackendProtocol,
    forced: bool,
) -> Arc<[Endpoint]> {
    let mut found: Vec<(Standing, Endpoint)> = Vec::new();
    for slice in slices {
        let Some(slice_port) = slice.ports.iter().find(|candidate| candidate.name == port.name) else {
            continue;
        };
        let number = slice_port.port.unwrap_or(match port.target_port {
            Some(PortRef::Number(number)) => number,
            Some(PortRef::Name(_)) | None => port.port.0,
        });
        let protocol = match app_protocol(slice_port.app_protocol.as_deref()) {
            AppProtocol::Speak(protocol) if protocol != spoken && !forced => Some(protocol),
            _ => None,
        };
        found.extend(slice.endpoints.iter().filter_map(|endpoint| {
            let standing = Standing::of(endpoint)?;
            let endpoint = Endpoint {
                address: SocketAddr::new(endpoint.address, number),
                weight: 1,
                state: standing.state(),
                protocol,
                zone: endpoint.zone.clone(),
                label: endpoint.target.clone(),
            };
            Some((standing, endpoint))
        }));
    }
    found.sort_by_key(|(standing, endpoint)| (endpoint.address, *standing));
    found.dedup_by_key(|(_, endpoint)| endpoint.address);
    found.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// How good an entry is; of two with the same address the lower wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Ready,
    /// Only with `publishNotReadyAddresses`, which calls everything ready.
    ReadyTerminating,
    ServingTerminating,
}

impl Standing {
    fn of(endpoint: &SliceEndpoint) -> Option<Self> {
        match (endpoint.ready, endpoint.serving, endpoint.terminating) {
            (true, _, false) => Some(Self::Ready),
            (true, _, true) => Some(Self::ReadyTerminating),
            (false, true, true) => Some(Self::ServingTerminating),
            (false, _, _) => None,
        }
    }

    fn state(self) -> EndpointState {
        match self {
            Self::Ready | Self::ReadyTerminating => EndpointState::Active,
            Self::ServingTerminating => EndpointState::Draining,
        }
    }
}
