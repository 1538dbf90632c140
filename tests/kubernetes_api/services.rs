//! Services in front of Gateways: made, kept as they are to be, taken away; by the holder of the lease, and served by every replica.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate::kubernetes::{FrontKind, GatewayServices, Id, PortRange};

use super::*;

const SLICE: &str = "default/edge-tidegate-";

fn settings() -> kubernetes::Settings {
    kubernetes::Settings {
        class_by_name: false,
        gateway_address: "127.0.0.1".parse().unwrap(),
        gateway_services: Some(GatewayServices {
            kind: FrontKind::LoadBalancer,
            ports: PortRange::DEFAULT,
            own: Id::new("tidegate", "tidegate"),
        }),
        ..kubernetes::Settings::default()
    }
}

/// A class, our own Service with a slice of two endpoints, and a Gateway with this in its `spec`.
fn base(more: &str) -> String {
    let class = BASE.split("---\n").next().unwrap();
    format!(
        "{class}---
apiVersion: v1
kind: Service
metadata: {{name: tidegate, namespace: tidegate}}
spec: {{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{{name: http, port: 80}}]}}
---
{}
---
{}",
        own(&["10.0.0.1", "10.0.0.2"]),
        gateway("edge", more)
    )
}

fn own(addresses: &[&str]) -> String {
    let endpoints: Vec<String> = addresses
        .iter()
        .map(|address| {
            format!("{{addresses: [{address}], conditions: {{ready: true}}, nodeName: n-{address}}}")
        })
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: tidegate-x, namespace: tidegate, labels: \
         {{kubernetes.io/service-name: tidegate}}}}\naddressType: IPv4\nendpoints: [{}]\nports: [{{name: http, port: 80}}]",
        endpoints.join(", ")
    )
}

fn gateway(name: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, uid: u-{name}}}\nspec: {{gatewayClassName: \
         tidegate, listeners: [{{name: http, port: 80, protocol: HTTP}}]{more}}}"
    )
}

fn service(server: &ApiServer) -> Value {
    server.get(SERVICES, "default/edge-tidegate")
}

/// The slice of the Gateway's Service; null while there is none.
fn mirror(server: &ApiServer) -> Value {
    let all = server.all(SLICES);
    let of_edge = |slice: &&Value| {
        let labels = &slice["metadata"]["labels"];
        labels["kubernetes.io/service-name"] == "edge-tidegate"
    };
    let found: Vec<&Value> = all.iter().filter(of_edge).collect();
    assert!(found.len() < 2, "{found:?}");
    found.first().map_or(Value::Null, |slice| (*slice).clone())
}

/// Where the Gateway `edge` is bound by a replica that has made this world.
fn bound(followed: &Followed) -> Option<SocketAddr> {
    let listener = followed.world.listeners.get("default/edge/http");
    listener.map(|listener| {
        assert_eq!(listener.port(), 80);
        listener.address
    })
}

async fn until_listeners(followed: &mut Followed, count: usize) {
    while followed.world.listeners.len() != count {
        followed.change().await;
    }
}

async fn until_bound(followed: &mut Followed) -> SocketAddr {
    loop {
        if let Some(address) = bound(followed) {
            return address;
        }
        followed.change().await;
    }
}

/// The Gateway's condition `Programmed`, as `status reason`, and its addresses.
fn told(server: &ApiServer) -> (String, Value) {
    let status = server.status(GATEWAYS, "default/edge");
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    let programmed = all.iter().find(|condition| condition["type"] == "Programmed");
    let text = |field: &str| programmed.map_or("", |one| one[field].as_str().unwrap_or_default());
    (
        format!("{} {}", text("status"), text("reason")),
        status["addresses"].clone(),
    )
}

#[tokio::test]
async fn a_gateway_gets_a_service_and_what_it_asks_for_is_on_it() {
    let server = ApiServer::start().await;
    server.put(&base(
        ", infrastructure: {labels: {team: a}, annotations: {cost: high}}",
    ));
    let mut first = Followed::open_settled(&server, settings()).await;
    let address = until_bound(&mut first).await;
    until("its slices", || !mirror(&server).is_null()).await;
    let made = service(&server);
    let port = json!({"name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": address.port()});
    assert_eq!(
        made["spec"],
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [port]})
    );
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u-edge");
    let slice = mirror(&server);
    assert_eq!(
        slice["endpoints"],
        server.get(SLICES, "tidegate/tidegate-x")["endpoints"]
    );
    assert_eq!(
        slice["ports"],
        json!([{"name": "tcp-80", "port": address.port(), "protocol": "TCP"}])
    );
    for object in [&made, &slice] {
        let (labels, annotations) = (&object["metadata"]["labels"], &object["metadata"]["annotations"]);
        assert_eq!(
            (&labels["team"], &annotations["cost"]),
            (&json!("a"), &json!("high"))
        );
        assert_eq!(labels["gateway.networking.k8s.io/gateway-name"], "edge");
    }

    // A cloud gives it an address and writes on it what it likes.
    first.cluster.bound(Sockets {
        bound: [(address, Transport::Tcp)].into(),
        ..Sockets::default()
    });
    until("a Gateway without an address", || {
        told(&server).0 == "False AddressNotAssigned"
    })
    .await;
    server.edit(SERVICES, "default/edge-tidegate", |service| {
        service["metadata"]["annotations"]["cloud.example/id"] = json!("x");
        service["metadata"]["finalizers"] = json!(["cloud.example/lb"]);
        service["spec"]["ports"][0]["nodePort"] = json!(30_080);
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    });
    let expected = json!([{"type": "IPAddress", "value": "192.0.2.1"}]);
    until("its address", || {
        told(&server) == ("True Programmed".to_owned(), expected.clone())
    })
    .await;

    // What is asked for no longer goes, and what others wrote stays.
    server.put(&gateway("edge", ", infrastructure: {labels: {zone: b}}"));
    until("other labels", || {
        [service(&server), mirror(&server)]
            .iter()
            .all(|object| object["metadata"]["labels"]["zone"] == "b")
    })
    .await;
    for object in [service(&server), mirror(&server)] {
        let metadata = &object["metadata"];
        assert!(
            metadata["labels"]["team"].is_null() && metadata["annotations"]["cost"].is_null(),
            "{metadata}"
        );
    }
    let made = service(&server);
    assert_eq!(made["metadata"]["annotations"]["cloud.example/id"], "x");
    assert_eq!(made["metadata"]["finalizers"], json!(["cloud.example/lb"]));
    assert_eq!(made["spec"]["ports"][0]["nodePort"], 30_080);

    // What others change of ours is put right, once.
    tokio::time::sleep(QUIET).await;
    let applies = server.applies();
    server.edit(SERVICES, "default/edge-tidegate", |service| {
        service["spec"]["type"] = json!("ClusterIP");
        service["spec"]["ports"][0]["targetPort"] = json!(9900);
    });
    until("its type again", || {
        let spec = &service(&server)["spec"];
        spec["type"] == "LoadBalancer" && spec["ports"][0]["targetPort"] == address.port()
    })
    .await;
    let name = mirror(&server)["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(format!("default/{name}").starts_with(SLICE));
    server.delete(SLICES, &format!("default/{name}"));
    until("its slice again", || !mirror(&server).is_null()).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(server.applies(), applies + 2, "nobody fights");
    assert_eq!(bound(&first), Some(address), "it was served all the time");

    // A listener more and one less.
    let more = gateway("edge", "").replace(
        "protocol: HTTP}",
        "protocol: HTTP}, {name: dns, port: 53, protocol: UDP}",
    );
    server.put(&more);
    until_listeners(&mut first, 2).await;
    let ports = |object: &Value, of: &str| -> Vec<String> {
        let ports = object
            .pointer(of)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        ports
            .iter()
            .map(|port| port["name"].as_str().unwrap().to_owned())
            .collect()
    };
    until("a port more", || {
        ports(&mirror(&server), "/ports") == ["udp-53", "tcp-80"]
    })
    .await;
    assert_eq!(ports(&service(&server), "/spec/ports"), ["tcp-80", "udp-53"]);
    server.put(&gateway("edge", ""));
    until_listeners(&mut first, 1).await;
    until("a port less", || ports(&mirror(&server), "/ports") == ["tcp-80"]).await;
    assert_eq!(ports(&service(&server), "/spec/ports"), ["tcp-80"]);
    assert_eq!(service(&server)["spec"]["ports"][0]["targetPort"], address.port());

    server.delete(GATEWAYS, "default/edge");
    until("it to go", || {
        service(&server).is_null() && mirror(&server).is_null()
    })
    .await;
}

#[tokio::test]
async fn every_replica_binds_what_the_service_says_and_one_writes_it() {
    let server = ApiServer::start().await;
    server.put(&lease("another"));
    server.put(&base(""));
    let mut first = Followed::open_settled(&server, settings()).await;
    first.change().await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(
        (bound(&first), server.applies()),
        (None, 0),
        "it is another's to write"
    );
    // The holder is gone; who was second takes its place.
    server.put(&lease(""));
    let address = until_bound(&mut first).await;
    let mut second = Followed::open_settled(&server, settings()).await;
    assert_eq!(until_bound(&mut second).await, address);
    until("its slices", || !mirror(&server).is_null()).await;
    soon(
        "the lease to be given up",
        first.cluster.resign().unwrap().resign(),
    )
    .await;
    drop(first);

    // Until another holds the lease, pods that come and go are followed all the same.
    server.put(&lease("another"));
    server.put(&own(&["10.0.0.2", "10.0.0.3"]));
    let endpoints = || mirror(&server)["endpoints"].clone();
    until("the slices to be followed", || {
        endpoints() == server.get(SLICES, "tidegate/tidegate-x")["endpoints"]
    })
    .await;
    assert_eq!(holder(&server), "another");
    server.put(&gateway("other", ""));
    tokio::time::sleep(QUIET).await;
    assert!(
        server.get(SERVICES, "default/other-tidegate").is_null(),
        "ports are given out by the holder"
    );

    // The next holder goes on with what is there.
    server.put(&lease(""));
    until("the other's Service", || {
        !server.get(SERVICES, "default/other-tidegate").is_null()
    })
    .await;
    assert_eq!(service(&server)["spec"]["ports"][0]["targetPort"], address.port());
    assert_eq!(bound(&second), Some(address));
}

#[tokio::test]
async fn what_others_made_is_left_alone_and_what_nobody_wants_goes() {
    let server = ApiServer::start().await;
    let theirs =
        "apiVersion: v1\nkind: Service\nmetadata: {name: edge-tidegate}\nspec: {ports: [{port: 80}]}";
    let orphan = "apiVersion: v1\nkind: Service\nmetadata: {name: gone-tidegate, labels: {app.kubernetes.io/managed-by: tidegate, \
                  gateway.networking.k8s.io/gateway-name: gone}}\nspec: {ports: [{port: 80}]}";
    server.put(&format!("{}\n---\n{theirs}\n---\n{orphan}", base("")));
    let mut followed = Followed::open_settled(&server, settings()).await;
    followed.change().await;
    until("what nobody wants to go", || {
        server.get(SERVICES, "default/gone-tidegate").is_null()
    })
    .await;
    until("a word about it", || told(&server).0 == "False NoResources").await;
    assert_eq!((server.applies(), bound(&followed)), (0, None));
    server.delete(SERVICES, "default/edge-tidegate");
    until_bound(&mut followed).await;
    assert_eq!(service(&server)["spec"]["type"], "LoadBalancer");
}

#[tokio::test]
async fn an_address_that_was_asked_for_is_the_one_that_counts() {
    let server = ApiServer::start().await;
    server.put(&base(", addresses: [{value: 192.0.2.7}]"));
    let mut followed = Followed::open_settled(&server, settings()).await;
    let address = until_bound(&mut followed).await;
    followed.cluster.bound(Sockets {
        bound: [(address, Transport::Tcp)].into(),
        ..Sockets::default()
    });
    assert_eq!(service(&server)["spec"]["loadBalancerIP"], "192.0.2.7");
    let give = |address: &str| {
        server.edit(SERVICES, "default/edge-tidegate", |service| {
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
        });
    };
    give("192.0.2.8");
    until("the wrong one", || {
        told(&server) == ("False AddressNotUsable".to_owned(), json!([]))
    })
    .await;
    give("192.0.2.7");
    until("the right one", || told(&server).0 == "True Programmed").await;
    server.put(&gateway("edge", ""));
    until("any one", || {
        service(&server)["spec"].get("loadBalancerIP").is_none()
    })
    .await;
}
