//! Services in front of Gateways: names, addresses that are asked for, and what comes of Gateways and their Services.

use super::*;
use crate::kubernetes::testing::{Fixture, key};
use crate::kubernetes::{Kind, Settings};

/// A Front with all that it can have.
pub fn front() -> Front {
    let map = |key: &str, value: &str| [(Arc::from(key), Arc::from(value))].into();
    Front {
        gateway: Id::new("shop", "edge"),
        uid: Some("u-1".into()),
        class: "tidegate".into(),
        ports: vec![
            FrontPort {
                port: 80,
                transport: Transport::Tcp,
                target: 20_001,
            },
            FrontPort {
                port: 53,
                transport: Transport::Udp,
                target: 20_002,
            },
        ],
        address: Some([192, 0, 2, 7].into()),
        infrastructure: Infrastructure {
            labels: map("team", "a"),
            annotations: map("note", "b"),
            parameters_ref: None,
        },
    }
}

fn settings(kind: FrontKind, ports: &str) -> Settings {
    Settings {
        gateway_services: Some(GatewayServices {
            kind,
            ports: PortRange::parse(ports).unwrap(),
            own: Id::new("tidegate", "tidegate"),
        }),
        ..Settings::default()
    }
}

fn gateway(name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, uid: u-{name}}}\nspec: {{gatewayClassName: \
         tidegate, listeners: [{{name: l, port: 80, protocol: HTTP}}]{more}}}\n"
    )
}

/// A Service of a Gateway, whose port 80 leads to this port, with these further labels and lines.
fn service(gateway: &str, target: u16, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {gateway}-tidegate, labels: {{app.kubernetes.io/managed-by: tidegate, \
         gateway.networking.k8s.io/gateway-name: {gateway}}}}}\nspec: {{type: LoadBalancer, ports: [{{name: tcp-80, port: 80, targetPort: \
         {target}}}]}}\n{more}\n"
    )
}

/// The Services to look at, with the target ports that they are to have; `gone` are to go.
fn works(fixture: &mut Fixture) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(work) = fixture.index.next_front() {
        let ports = work.front.map(|front| {
            front
                .ports
                .iter()
                .map(|port| port.target.to_string())
                .collect::<Vec<_>>()
        });
        let ports = ports.map_or("gone".to_owned(), |ports| ports.join(","));
        all.push(format!("{} {ports}", work.service.name));
    }
    all
}

#[test]
fn a_name_is_one_that_a_service_may_have() {
    let long = "a".repeat(80);
    for (gateway, class, expected) in [
        ("edge", "tidegate", "edge-tidegate".to_owned()),
        ("a.b", "c", format!("a-b-c-{:08x}", hash(b"a.b-c") as u32)),
        ("1st", "c", format!("gw-1st-c-{:08x}", hash(b"1st-c") as u32)),
        (
            &long,
            "c",
            format!(
                "{}-{:08x}",
                "a".repeat(54),
                hash(format!("{long}-c").as_bytes()) as u32
            ),
        ),
    ] {
        let name = service_of(&Id::new("n", gateway), class).name;
        assert_eq!(*name, *expected);
        assert!(name.len() <= MAX_NAME && !name.contains('.'));
    }
    // What differs stays different.
    let name = |gateway: &str| service_of(&Id::new("n", gateway), "c").name;
    assert_ne!(name("a.b"), name("a-b"));
    assert_ne!(name(&format!("{long}1")), name(&format!("{long}2")));
    assert_eq!(label_of("edge.example"), "edge.example");
    assert_eq!(label_of(&long).len(), MAX_NAME);
}

#[test]
fn one_address_can_be_asked_for_and_only_of_a_load_balancer() {
    use FrontKind::{ClusterIp, LoadBalancer, NodePort};
    for (kind, addresses, expected, complaint) in [
        (LoadBalancer, "", None, ""),
        (LoadBalancer, "{type: IPAddress}", None, ""),
        (LoadBalancer, "{value: 192.0.2.1}", Some("192.0.2.1"), ""),
        (
            LoadBalancer,
            "{value: '2001:db8::1'}, {value: '2001:db8::1'}",
            Some("2001:db8::1"),
            "",
        ),
        (
            LoadBalancer,
            "{value: 192.0.2.1}, {value: 192.0.2.2}",
            Some("192.0.2.1"),
            "AddressNotUsable: 192.0.2.2 is one too many",
        ),
        (
            LoadBalancer,
            "{value: nonsense}",
            None,
            "AddressNotUsable: \"nonsense\" is no IP address",
        ),
        (
            LoadBalancer,
            "{type: Hostname, value: a.example}",
            None,
            "UnsupportedAddress: \"Hostname\"",
        ),
        (
            ClusterIp,
            "{value: 192.0.2.1}",
            None,
            "AddressNotUsable: a Service of the type ClusterIP",
        ),
        (
            NodePort,
            "{value: 192.0.2.1}",
            None,
            "AddressNotUsable: a Service of the type NodePort",
        ),
    ] {
        let yaml = gateway("edge", &format!(", addresses: [{addresses}]"));
        let fixture = Fixture::with(settings(kind, "20000-29999"), &yaml);
        let fronts = &fixture.index.outcome().gateways.fronts;
        let front = fronts.services.values().next().unwrap();
        let address = front.address.map(|address| address.to_string());
        assert_eq!(address.as_deref(), expected, "{addresses}");
        let rejects = fixture.rejects();
        assert_eq!(rejects.len(), usize::from(!complaint.is_empty()), "{rejects:?}");
        assert!(
            rejects.iter().all(|reject| reject.contains(complaint)),
            "{rejects:?}"
        );
    }
}

#[test]
fn a_gateway_is_bound_where_its_service_says() {
    let yaml = gateway("a", "") + &gateway("b", "");
    let mut fixture = Fixture::with(settings(FrontKind::LoadBalancer, "20000-20001"), &yaml);
    assert_eq!(fixture.listeners(), [""; 0], "no Service says anything yet");
    let fronts = works(&mut fixture);
    let [first, second] = &fronts[..] else {
        panic!("{fronts:?}")
    };
    assert!(
        first.starts_with("a-tidegate 2000") && second.starts_with("b-tidegate 2000"),
        "{fronts:?}"
    );
    fixture.apply(&service("a", 20_000, ""));
    assert_eq!(fixture.listeners(), ["default/a/l 0.0.0.0:20000 *"]);
    let listener = fixture.world.listeners.values().next().unwrap();
    assert_eq!(listener.port(), 80, "that is what clients know");
    let delta = fixture.apply(&service("b", 20_001, ""));
    assert_eq!(delta.listeners.len(), 1, "others stay as they are");
    assert_eq!(
        fixture.listeners(),
        ["default/a/l 0.0.0.0:20000 *", "default/b/l 0.0.0.0:20001 *"]
    );
    works(&mut fixture);

    // There is none left for a third, which is told; when one goes, it has that.
    fixture.apply(&gateway("c", ""));
    assert!(
        fixture.rejects()[0].contains("NoResources: port 80 leads nowhere"),
        "{:?}",
        fixture.rejects()
    );
    assert_eq!(works(&mut fixture), [""; 0]);
    fixture.delete(Kind::Gateway, "default", "a");
    assert_eq!(works(&mut fixture), ["a-tidegate gone", "c-tidegate 20000"]);
    fixture.delete(Kind::Service, "default", "a-tidegate");
    fixture.apply(&service("c", 20_000, ""));
    assert_eq!(fixture.listeners()[1], "default/c/l 0.0.0.0:20000 *");
    works(&mut fixture);

    // Somebody takes the Service away: what is served stays, and it is made again.
    let delta = fixture.delete(Kind::Service, "default", "b-tidegate");
    assert!(delta.is_empty());
    assert_eq!(works(&mut fixture), ["b-tidegate 20001"]);
}

#[test]
fn a_service_of_others_is_left_alone() {
    let theirs = service("a", 20_000, "").replace("managed-by: tidegate", "managed-by: Helm");
    let mut fixture = Fixture::with(
        settings(FrontKind::ClusterIp, "20000-20009"),
        &(gateway("a", "") + &theirs),
    );
    assert_eq!(fixture.listeners(), [""; 0]);
    assert_eq!(works(&mut fixture), [""; 0]);
    let rejects = fixture.rejects();
    assert!(
        rejects[0].contains("NoResources: Service default/a-tidegate is there"),
        "{rejects:?}"
    );
    fixture.delete(Kind::Service, "default", "a-tidegate");
    assert_eq!(fixture.rejects(), [""; 0]);
    assert_eq!(works(&mut fixture).len(), 1);
}

#[test]
fn what_concerns_a_front_is_looked_at_and_nothing_else() {
    let own = |address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: own-1, namespace: tidegate, labels: \
             {{kubernetes.io/service-name: tidegate}}}}\naddressType: IPv4\nendpoints: [{{addresses: [{address}]}}]\nports: []\n"
        )
    };
    let name = mirror::name_of(&Id::new("default", "a-tidegate"), "own-1");
    let mirrored = |address: &str| {
        own(address)
            .replace("name: own-1, namespace: tidegate", &format!("name: {name}"))
            .replace(
                "service-name: tidegate",
                "service-name: a-tidegate, endpointslice.kubernetes.io/managed-by: tidegate.dev",
            )
            .replace("ports: []", "ports: [{name: tcp-80, port: 20000}]")
    };
    let yaml = gateway("a", "") + &service("a", 20_000, "") + &own("10.0.0.1") + &mirrored("10.0.0.1");
    let mut fixture = Fixture::with(settings(FrontKind::ClusterIp, "20000-20009"), &yaml);
    let agrees = |fixture: &mut Fixture| {
        let work = fixture.index.next_front().expect("something to look at");
        assert_eq!((work.slices.len(), fixture.index.has_front()), (1, false));
        (work.is_whole, work.agrees)
    };
    assert_eq!(agrees(&mut fixture), (true, true));
    fixture.apply(&own("10.0.0.2"));
    assert_eq!(
        agrees(&mut fixture),
        (false, false),
        "the Service itself is as it was"
    );
    fixture.apply(&mirrored("10.0.0.2"));
    assert_eq!(agrees(&mut fixture), (false, true));
    fixture.apply(&gateway("a", ", infrastructure: {labels: {team: x}}"));
    assert_eq!(agrees(&mut fixture), (true, true));
    fixture.apply(&service(
        "a",
        20_000,
        "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}",
    ));
    assert_eq!(agrees(&mut fixture), (true, true));
    fixture.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}");
    assert!(!fixture.index.has_front());
    // A Gateway of another class has a Service of another name, or none.
    fixture.apply(&gateway("a", "").replace("tidegate,", "other,"));
    assert_eq!(works(&mut fixture), ["a-tidegate gone"]);
    assert_eq!(fixture.listeners(), [""; 0]);
    let key = key(Kind::Service, "default", "a-tidegate");
    assert!(fixture.index.get(&key).is_some());
}

#[test]
fn ports_of_a_listener_set_are_those_of_its_gateway() {
    let set = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {name: more}\nspec: {parentRef: {name: a}, \
               listeners: [{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}, {name: dns, port: 53, protocol: UDP}, {name: odd, \
               port: 9, protocol: SCTP}]}\n";
    let yaml = gateway("a", ", allowedListeners: {namespaces: {from: Same}}");
    let mut fixture = Fixture::with(settings(FrontKind::ClusterIp, "20000-20009"), &yaml);
    let ports = |fixture: &Fixture| -> Vec<String> {
        let fronts = &fixture.index.outcome().gateways.fronts;
        let front = fronts.services.values().next().unwrap();
        front.ports.iter().map(FrontPort::name).collect()
    };
    assert_eq!(ports(&fixture), ["tcp-80"]);
    fixture.apply(set);
    assert_eq!(ports(&fixture), ["udp-53", "tcp-80", "tcp-443"]);
    let said = service("a", 20_000, "").replace(
        "targetPort: 20000}",
        "targetPort: 20000}, {name: udp-53, port: 53, protocol: UDP, targetPort: 20000}",
    );
    fixture.apply(&said);
    assert_eq!(
        fixture.listeners(),
        [
            "ListenerSet/default/more/dns 0.0.0.0:20000 *",
            "default/a/l 0.0.0.0:20000 *"
        ]
    );
    fixture.delete(Kind::ListenerSet, "default", "more");
    assert_eq!(ports(&fixture), ["tcp-80"]);
}
