//! The EndpointSlices of a Gateway's Service: those of Tidegate's own Service, with the Gateway's ports.
//!
//! Each slice of our own has one mirror for each Gateway, whose name follows from both. Endpoints are taken over as the API server has them
//! (addresses, conditions, node, zone, hints, target), so that what reads slices (kube-proxy, a mesh, another proxy) sees the same
//! as at our own Service.

use serde_json::{Value, json};

use super::objects::{metadata, protocol, sealed};
use super::{Front, hash};
use crate::kubernetes::objects::{EndpointSlice, Id, Kind, SERVICE_LABEL, SLICE_MANAGED_BY, SLICE_MANAGER};

/// Fields of a slice of which others have no say.
pub const EXACT: &[&str] = &["endpoints", "ports", "addressType"];

/// The name of the mirror of one of our own slices.
pub fn name_of(service: &Id, own: &str) -> String {
    format!("{}-{:08x}", service.name, hash(own.as_bytes()) as u32)
}

/// The mirror of one of our own slices, as it is applied. None: of names, which have no meaning.
pub fn slice(service: &Id, front: &Front, own: &Value) -> Option<Value> {
    let kind = own["addressType"].as_str().filter(|kind| *kind != "FQDN")?;
    let name = name_of(service, own["metadata"]["name"].as_str()?);
    let labels = [(SERVICE_LABEL, &*service.name), (SLICE_MANAGED_BY, SLICE_MANAGER)];
    let ports = front
        .ports
        .iter()
        .map(|port| json!({"name": port.name(), "port": port.target, "protocol": protocol(port.transport)}));
    let endpoints = own["endpoints"].as_array().cloned().unwrap_or_default();
    Some(sealed(json!({
        "apiVersion": format!("{}/{}", Kind::EndpointSlice.group(), Kind::EndpointSlice.versions()[0]),
        "kind": Kind::EndpointSlice.name(),
        "metadata": metadata(&service.namespace, &name, front, &labels),
        "addressType": kind,
        "endpoints": endpoints,
        "ports": ports.collect::<Vec<_>>(),
    })))
}

/// Whether the mirrors that are there are those of our own slices, as far as can be seen from what is kept of them.
pub fn agree(service: &Id, front: &Front, own: &[&EndpointSlice], mirrors: &[&EndpointSlice]) -> bool {
    let is_mirrored = |own: &&EndpointSlice| {
        let name = name_of(service, &own.metadata.name);
        let mirror = mirrors.iter().find(|mirror| *mirror.metadata.name == *name);
        mirror.is_some_and(|mirror| {
            mirror.endpoints == own.endpoints
                && mirror.ports.len() == front.ports.len()
                && mirror.ports.iter().zip(&front.ports).all(|(there, port)| {
                    (there.port, there.transport) == (Some(port.target), port.transport)
                        && *there.name == *port.name()
                })
        })
    };
    own.len() == mirrors.len() && own.iter().all(is_mirrored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::front::objects::{is_applied, is_ours};
    use crate::kubernetes::front::tests::front;
    use crate::kubernetes::objects::Object;

    fn own() -> Value {
        json!({
            "metadata": {"name": "tidegate-x7", "namespace": "tidegate", "labels": {SERVICE_LABEL: "tidegate"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": "n1",
                 "zone": "a", "hints": {"forZones": [{"name": "a"}]}, "targetRef": {"kind": "Pod", "name": "p", "namespace": "tidegate"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}, "nodeName": "n2"},
            ],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        })
    }

    fn read(slice: &Value) -> EndpointSlice {
        match Object::decode(Kind::EndpointSlice, slice.clone()).unwrap() {
            Object::EndpointSlice(slice) => (*slice).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slice_has_the_same_endpoints_and_other_ports() {
        let service = Id::new("shop", "edge-tidegate");
        let mirror = slice(&service, &front(), &own()).unwrap();
        assert_eq!(mirror["endpoints"], own()["endpoints"]);
        assert_eq!(
            mirror["ports"],
            json!([{"name": "tcp-80", "port": 20_001, "protocol": "TCP"}, {"name": "udp-53", "port": 20_002, "protocol": "UDP"}])
        );
        let labels = &mirror["metadata"]["labels"];
        assert_eq!(labels[SERVICE_LABEL], "edge-tidegate");
        assert_eq!(
            (&labels["team"], &labels[SLICE_MANAGED_BY]),
            (&json!("a"), &json!(SLICE_MANAGER))
        );
        assert!(is_ours(&mirror) && read(&mirror).is_ours);
        assert_eq!(mirror["metadata"]["namespace"], "shop");
        assert_eq!(mirror["metadata"]["ownerReferences"][0]["name"], "edge");
        let mut names = own();
        names["addressType"] = json!("FQDN");
        assert_eq!(slice(&service, &front(), &names), None);
    }

    #[test]
    fn an_endpoint_more_is_a_difference() {
        let service = Id::new("shop", "edge-tidegate");
        let wanted = slice(&service, &front(), &own()).unwrap();
        let mut more = wanted.clone();
        more["endpoints"]
            .as_array_mut()
            .unwrap()
            .push(json!({"addresses": ["10.0.0.9"]}));
        assert!(is_applied(&wanted, &wanted.clone(), EXACT) && !is_applied(&wanted, &more, EXACT));

        let (ours, mirror, more) = (read(&own()), read(&wanted), read(&more));
        let agreed =
            |own: &[&EndpointSlice], mirrors: &[&EndpointSlice]| agree(&service, &front(), own, mirrors);
        assert!(agreed(&[&ours], &[&mirror]) && agreed(&[], &[]));
        assert!(!agreed(&[&ours], &[]) && !agreed(&[], &[&mirror]) && !agreed(&[&ours], &[&more]));
        let mut moved = front();
        moved.ports[0].target = 20_009;
        assert!(!agree(&service, &moved, &[&ours], &[&mirror]));
    }
}
