//! A Gateway's Service as it is written, and whether what is there is that already.
//!
//! Objects are written by server-side apply: we say the fields that are ours, and what others wrote (a cloud's annotations and
//! finalizers, node ports, addresses) stays. A label that is asked for no longer goes, because it was ours. To write only what differs
//! without reading who owns which field, an object carries the hash of what was applied last.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{CLASS_NAME, Front, FrontKind, GATEWAY_NAME, hash, label_of};
use crate::kubernetes::objects::{Id, Kind, MANAGED_BY, MANAGER};
use crate::model::Transport;

/// The annotation with the hash of what was applied last.
const APPLIED: &str = "tidegate.dev/applied";

/// Fields that a Gateway's Service has as Tidegate's own does, by the types that have them: how traffic reaches the pods is the operator's to
/// say, once. The flag: it cannot be changed later, so what is there stays.
const AS_OWN: &[(&str, bool, &[FrontKind])] = &[
    ("externalTrafficPolicy", false, OUTSIDE),
    ("internalTrafficPolicy", false, ANY),
    ("trafficDistribution", false, ANY),
    ("loadBalancerSourceRanges", false, &[FrontKind::LoadBalancer]),
    ("loadBalancerClass", true, &[FrontKind::LoadBalancer]),
    ("ipFamilyPolicy", true, ANY),
    ("ipFamilies", true, ANY),
];

const OUTSIDE: &[FrontKind] = &[FrontKind::LoadBalancer, FrontKind::NodePort];
const ANY: &[FrontKind] = &[FrontKind::LoadBalancer, FrontKind::NodePort, FrontKind::ClusterIp];

/// The Service in front of a Gateway, as it is applied. `own` is Tidegate's, `there` the one that is there; null where there is none.
pub fn service(id: &Id, front: &Front, kind: FrontKind, own: &Value, there: &Value) -> Value {
    let ports = front.ports.iter().map(|port| {
        json!({
            "name": port.name(),
            "port": port.port,
            "protocol": protocol(port.transport),
            "targetPort": port.target,
        })
    });
    let mut spec = Map::new();
    spec.insert("type".to_owned(), json!(kind.word()));
    spec.insert("ports".to_owned(), ports.collect());
    if kind == FrontKind::LoadBalancer
        && let Some(address) = front.address
    {
        spec.insert("loadBalancerIP".to_owned(), json!(address));
    }
    for (field, is_fixed, kinds) in AS_OWN {
        let like = match *is_fixed && !there["spec"].is_null() {
            true => there,
            false => own,
        };
        let value = &like["spec"][*field];
        if kinds.contains(&kind) && !value.is_null() {
            spec.insert((*field).to_owned(), value.clone());
        }
    }
    sealed(json!({
        "apiVersion": "v1",
        "kind": Kind::Service.name(),
        "metadata": metadata(&id.namespace, &id.name, front, &[]),
        "spec": spec,
    }))
}

/// The metadata of an object that is made for a Gateway. `labels` are its own beside those that all have; a Gateway cannot ask for others in
/// their place.
pub fn metadata(namespace: &str, name: &str, front: &Front, labels: &[(&str, &str)]) -> Value {
    let text = |map: &BTreeMap<Arc<str>, Arc<str>>| -> Map<String, Value> {
        let pairs = map.iter();
        pairs
            .map(|(key, value)| (key.to_string(), json!(value)))
            .collect()
    };
    let mut all = text(&front.infrastructure.labels);
    let (gateway, class) = (label_of(&front.gateway.name), label_of(&front.class));
    let own = [
        (MANAGED_BY, MANAGER),
        (GATEWAY_NAME, &gateway),
        (CLASS_NAME, &class),
    ];
    for (key, value) in own.iter().chain(labels) {
        all.insert((*key).to_owned(), json!(value));
    }
    let mut metadata = json!({
        "name": name,
        "namespace": namespace,
        "labels": all,
        "annotations": text(&front.infrastructure.annotations),
    });
    if let Some(uid) = &front.uid {
        metadata["ownerReferences"] = json!([{
            "apiVersion": format!("{}/{}", Kind::Gateway.group(), Kind::Gateway.versions()[0]),
            "kind": Kind::Gateway.name(),
            "name": &*front.gateway.name,
            "uid": uid,
            "controller": true,
        }]);
    }
    metadata
}

/// With the hash of itself.
pub fn sealed(mut object: Value) -> Value {
    let hash = hash(object.to_string().as_bytes());
    object["metadata"]["annotations"][APPLIED] = json!(format!("{hash:016x}"));
    object
}

/// Whether an object that is there says all that is applied. What others added to it says nothing. `exact` are its fields of which nothing
/// may be added.
pub fn is_applied(wanted: &Value, there: &Value, exact: &[&str]) -> bool {
    contains(wanted, there) && exact.iter().all(|field| wanted[*field] == there[*field])
}

/// Whether `there` has all of `wanted`; of a list, in any order.
fn contains(wanted: &Value, there: &Value) -> bool {
    match (wanted, there) {
        (Value::Object(wanted), Value::Object(there)) => wanted
            .iter()
            .all(|(name, value)| there.get(name).is_some_and(|there| contains(value, there))),
        (Value::Array(wanted), Value::Array(there)) => wanted
            .iter()
            .all(|value| there.iter().any(|there| contains(value, there))),
        _ => wanted == there,
    }
}

/// Whether an object that is there is one that we made for a Gateway.
pub fn is_ours(there: &Value) -> bool {
    let labels = &there["metadata"]["labels"];
    labels[MANAGED_BY] == MANAGER && labels[GATEWAY_NAME].is_string()
}

/// A transport as Services have it.
pub fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp | Transport::Redirected => "TCP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::front::tests::front;

    fn service_of(front: &Front, kind: FrontKind, own: &Value, there: &Value) -> Value {
        service(&Id::new("shop", "edge-tidegate"), front, kind, own, there)
    }

    #[test]
    fn a_service_says_what_its_gateway_is() {
        let none = Value::Null;
        let mut all = service_of(&front(), FrontKind::LoadBalancer, &none, &none);
        let applied = all["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove(APPLIED);
        assert_eq!(applied.unwrap().as_str().unwrap().len(), 16);
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "edge-tidegate",
                "namespace": "shop",
                "labels": {
                    "team": "a",
                    "app.kubernetes.io/managed-by": "tidegate",
                    "gateway.networking.k8s.io/gateway-name": "edge",
                    "gateway.networking.k8s.io/gateway-class-name": "tidegate",
                },
                "annotations": {"note": "b"},
                "ownerReferences": [{
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "edge", "uid": "u-1",
                    "controller": true,
                }],
            },
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerIP": "192.0.2.7",
                "ports": [
                    {"name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": 20_001},
                    {"name": "udp-53", "port": 53, "protocol": "UDP", "targetPort": 20_002},
                ],
            },
        });
        assert_eq!(all, expected);
    }

    #[test]
    fn it_is_reached_as_tidegates_own_is() {
        let own = json!({"spec": {
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "loadBalancerClass": "a/b",
            "ipFamilies": ["IPv4"], "sessionAffinity": "None", "clusterIP": "10.0.0.1"}});
        let there = json!({"spec": {"externalTrafficPolicy": "Cluster", "ipFamilies": ["IPv6"]}});
        for (kind, there, expected) in [
            (
                FrontKind::LoadBalancer,
                &Value::Null,
                json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "loadBalancerClass": "a/b", "ipFamilies": ["IPv4"]}),
            ),
            (
                FrontKind::LoadBalancer,
                &there,
                json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv6"]}),
            ),
            (
                FrontKind::NodePort,
                &Value::Null,
                json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"]}),
            ),
            (
                FrontKind::ClusterIp,
                &Value::Null,
                json!({"internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"]}),
            ),
        ] {
            let mut spec = service_of(&front(), kind, &own, there)["spec"].take();
            for known in ["type", "ports", "loadBalancerIP"] {
                spec.as_object_mut().unwrap().remove(known);
            }
            assert_eq!(spec, expected, "{kind:?} {there}");
        }
    }

    #[test]
    fn a_gateway_asks_for_no_label_that_is_not_its_own() {
        let mut front = front();
        for key in [MANAGED_BY, GATEWAY_NAME] {
            front.infrastructure.labels.insert(key.into(), "other".into());
        }
        let all = service_of(&front, FrontKind::ClusterIp, &Value::Null, &Value::Null);
        assert!(is_ours(&all));
        assert_eq!(all["metadata"]["labels"][GATEWAY_NAME], "edge");
    }

    #[test]
    fn what_is_there_is_written_again_only_where_it_differs() {
        let kind = FrontKind::LoadBalancer;
        let wanted = service_of(&front(), kind, &Value::Null, &Value::Null);
        // As an API server and a cloud leave it.
        let mut there = wanted.clone();
        there["metadata"]["annotations"]["cloud.example/id"] = json!("x");
        there["metadata"]["finalizers"] = json!(["cloud.example/lb"]);
        there["spec"]["clusterIP"] = json!("10.0.0.1");
        there["spec"]["ports"][0]["nodePort"] = json!(30_000);
        there["spec"]["ports"].as_array_mut().unwrap().reverse();
        there["status"] = json!({"loadBalancer": {}});
        assert!(is_applied(&wanted, &there, &[]));
        for (pointer, value) in [
            ("/metadata/labels/team", json!("other")),
            ("/metadata/ownerReferences", json!([])),
            ("/spec/type", json!("ClusterIP")),
            ("/spec/ports/1/targetPort", json!(9900)),
            ("/spec/ports", json!([])),
        ] {
            let mut edited = there.clone();
            *edited.pointer_mut(pointer).unwrap() = value;
            assert!(!is_applied(&wanted, &edited, &[]), "{pointer}");
        }
        // A label less is something else to apply, though all that is left is there.
        let mut less = front();
        less.infrastructure.labels.clear();
        let less = service_of(&less, kind, &Value::Null, &there);
        assert!(!is_applied(&less, &there, &[]));
    }
}
