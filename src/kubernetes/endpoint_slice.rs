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
//! - Hints for zones are taken as they are; whether they count is decided where the zone is known (`balance`).
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
        let Some(slice_port) = slice
            .ports
            .iter()
            .find(|candidate| candidate.name == port.name && Some(candidate.transport) == port.transport())
        else {
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
                hints: endpoint.hints.clone(),
                priority: 0,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Object;
    use crate::kubernetes::testing::{object, objects};

    fn port(yaml: &str) -> ServicePort {
        let service = object(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{{yaml}}}]}}"
        ));
        match service {
            Object::Service(service) => service.spec.ports[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    fn slice(rest: &str) -> String {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: a}}}}\n{rest}\n"
        )
    }

    fn merged(slices: &[String], port: &ServicePort) -> Vec<Endpoint> {
        let objects = objects(&slices.concat());
        let slices = objects.iter().map(|object| match object {
            Object::EndpointSlice(slice) => &**slice,
            other => panic!("{other:?}"),
        });
        endpoints(slices, port, BackendProtocol::Http1, false).to_vec()
    }

    fn shown(endpoints: &[Endpoint]) -> Vec<String> {
        let show = |endpoint: &Endpoint| {
            let state = match endpoint.state {
                EndpointState::Active => "",
                EndpointState::Draining => " draining",
            };
            format!("{}{state}", endpoint.address)
        };
        endpoints.iter().map(show).collect()
    }

    #[test]
    fn conditions_are_read_as_kube_proxy_reads_them() {
        for (conditions, state) in [
            ("", Some(EndpointState::Active)),
            ("conditions: null", Some(EndpointState::Active)),
            ("conditions: {}", Some(EndpointState::Active)),
            ("conditions: {ready: null}", Some(EndpointState::Active)),
            ("conditions: {ready: true}", Some(EndpointState::Active)),
            ("conditions: {ready: false}", None),
            (
                "conditions: {ready: false, serving: true, terminating: false}",
                None,
            ),
            (
                "conditions: {ready: false, serving: true, terminating: true}",
                Some(EndpointState::Draining),
            ),
            (
                "conditions: {ready: false, terminating: true}",
                Some(EndpointState::Draining),
            ),
            (
                "conditions: {ready: false, serving: false, terminating: true}",
                None,
            ),
            // publishNotReadyAddresses: always ready
            (
                "conditions: {ready: true, serving: false, terminating: true}",
                Some(EndpointState::Active),
            ),
            (
                "conditions: {ready: true, serving: true, terminating: true}",
                Some(EndpointState::Active),
            ),
        ] {
            let text = slice(&format!(
                "ports: [{{port: 80}}]\nendpoints: [{{addresses: [10.0.0.1], {conditions}}}]"
            ));
            let states: Vec<_> = merged(&[text], &port("port: 80"))
                .iter()
                .map(|endpoint| endpoint.state)
                .collect();
            assert_eq!(states, state.into_iter().collect::<Vec<_>>(), "{conditions}");
        }
    }

    #[test]
    fn slices_are_united_and_an_address_counts_once() {
        let gone = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}, targetRef: {name: old}}";
        let here = "{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {name: new}}";
        let other = "{addresses: [10.0.0.2, 10.0.0.9]}";
        let ports = "ports: [{port: 80}]";
        for pair in [[gone, here], [here, gone]] {
            let slices: Vec<_> = [pair[0], pair[1], other]
                .iter()
                .map(|endpoint| slice(&format!("{ports}\nendpoints: [{endpoint}]")))
                .collect();
            let merged = merged(&slices, &port("port: 80"));
            assert_eq!(shown(&merged), ["10.0.0.1:80", "10.0.0.2:80"]);
            assert_eq!(merged[0].label.as_deref(), Some("new"));
        }
    }

    #[test]
    fn the_port_is_that_of_the_same_name_in_each_slice() {
        let one = slice(
            "ports: [{name: http, port: 8080}, {name: metrics, port: 9}]\nendpoints: [{addresses: [10.0.0.1]}]",
        );
        let two = slice("ports: [{name: http, port: 8081}]\nendpoints: [{addresses: [10.0.0.2]}]");
        let udp =
            slice("ports: [{name: http, port: 1, protocol: UDP}]\nendpoints: [{addresses: [10.0.0.3]}]");
        let none = slice("ports: []\nendpoints: [{addresses: [10.0.0.4]}]");
        let null = slice("ports: null\nendpoints: [{addresses: [10.0.0.5]}]");
        let slices = [one, two, udp, none, null];
        assert_eq!(
            shown(&merged(&slices, &port("name: http, port: 80"))),
            ["10.0.0.1:8080", "10.0.0.2:8081"]
        );
        assert_eq!(
            shown(&merged(&slices, &port("name: metrics, port: 80"))),
            ["10.0.0.1:9"]
        );
        assert_eq!(shown(&merged(&slices, &port("port: 80"))), Vec::<String>::new());
    }

    #[test]
    fn a_port_without_a_number_is_the_services_own() {
        let text = slice("ports: [{}]\nendpoints: [{addresses: [10.0.0.1]}]");
        for (service_port, address) in [
            ("port: 80", "10.0.0.1:80"),
            ("port: 80, targetPort: 8080", "10.0.0.1:8080"),
            ("port: 80, targetPort: web", "10.0.0.1:80"),
        ] {
            assert_eq!(
                shown(&merged(std::slice::from_ref(&text), &port(service_port))),
                [address]
            );
        }
    }

    #[test]
    fn address_families_and_names() {
        let six = slice("ports: [{port: 80}]\nendpoints: [{addresses: ['fd00::1'], zone: z1}]")
            .replace("IPv4", "IPv6");
        let four = slice(
            "ports: [{port: 80}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: []}, {addresses: [x]}, {addresses: [0.0.0.0]}]",
        );
        let name =
            slice("ports: [{port: 80}]\nendpoints: [{addresses: [example.com]}]").replace("IPv4", "FQDN");
        let merged = merged(&[six, four, name], &port("port: 80"));
        assert_eq!(shown(&merged), ["10.0.0.1:80", "[fd00::1]:80"]);
        assert_eq!(merged[1].zone.as_deref(), Some("z1"));
    }

    #[test]
    fn a_slice_may_say_what_is_spoken() {
        for (app_protocol, forced, protocol) in [
            ("kubernetes.io/h2c", false, Some(BackendProtocol::H2c)),
            ("kubernetes.io/h2c", true, None),
            ("kubernetes.io/ws", false, None),
            ("http", false, None),
            ("example.com/x", false, None),
        ] {
            let text = slice(&format!(
                "ports: [{{port: 80, appProtocol: {app_protocol}}}]\nendpoints: [{{addresses: [10.0.0.1]}}]"
            ));
            let objects = objects(&text);
            let Object::EndpointSlice(slice) = &objects[0] else {
                panic!("{objects:?}");
            };
            let endpoints = endpoints(
                std::iter::once(&**slice),
                &port("port: 80"),
                BackendProtocol::Http1,
                forced,
            );
            assert_eq!(endpoints[0].protocol, protocol, "{app_protocol}");
        }
    }

    #[test]
    fn hints_are_taken_over() {
        let hinted = slice(
            "ports: [{port: 80}]\nendpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: b}]}}, \
             {addresses: [10.0.0.2], hints: {forZones: []}}, {addresses: [10.0.0.3], hints: null}]",
        );
        let merged = merged(&[hinted], &port("port: 80"));
        let hints: Vec<_> = merged.iter().map(|endpoint| endpoint.hints.as_deref()).collect();
        assert_eq!(hints, [Some(&["a".into(), "b".into()][..]), None, None]);
    }
}
