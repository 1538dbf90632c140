//! What the watches say, and what goes out for it.

use super::*;
use crate::kubernetes::Id;
use crate::kubernetes::testing::{WEB_AND_EDGE, key, object, objects, route_with_rule};
use crate::model::Transport;

fn hub_with(yaml: &str) -> Hub {
    let mut hub = Hub::new(Settings::default(), None);
    let mut all: BTreeMap<Kind, Vec<Read>> = Kind::ALL.iter().map(|kind| (*kind, Vec::new())).collect();
    for object in objects(yaml) {
        all.entry(object.kind()).or_default().push(Read::Good(object));
    }
    for (kind, read) in all {
        assert!(hub.change().is_none(), "nothing before every kind was read");
        hub.take(Said::All(kind, read));
    }
    hub
}

#[test]
fn objects_are_told_where_clients_of_a_service_come_to() {
    let service = |status: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: edge, name: lb}}\nspec: {{type: LoadBalancer}}\n\
                 status: {{loadBalancer: {{ingress: [{status}]}}}}"
        );
        Said::Put(good(&text))
    };
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: shop}\nspec:\n  ingressClassName: tidegate\n  \
                       rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]";
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  \
                       gatewayClassName: tidegate\n  listeners: [{name: http, port: 8080, protocol: HTTP}]";
    let mut hub = Hub::new(
        Settings::default(),
        Some(StatusAddress::Service(Id::new("edge", "lb"))),
    );
    for kind in Kind::ALL {
        hub.take(Said::Missing(*kind));
    }
    for object in [
        ingress,
        gateway,
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}",
    ] {
        hub.take(Said::Put(good(object)));
    }
    hub.lead(true);
    let bound = |port: u16| ((std::net::Ipv4Addr::UNSPECIFIED, port).into(), Transport::Tcp);
    hub.bound(Sockets {
        bound: [bound(80), bound(8080)].into(),
        ..Sockets::default()
    });
    let mut told = |said: Option<Said>| {
        hub.take(said?);
        hub.change();
        let mut all: Vec<String> = Vec::new();
        while let Some((key, status)) = hub.next_status() {
            let next = status::merge(&status, &serde_json::json!({}), "").unwrap_or_default();
            let addresses = match key.kind {
                Kind::Ingress => &next["loadBalancer"]["ingress"],
                Kind::Gateway => &next["addresses"],
                _ => continue,
            };
            all.push(format!("{} {addresses}", key.kind.name()));
        }
        Some(all)
    };
    assert_eq!(
        told(Some(service(""))).unwrap(),
        ["Ingress null", "Gateway []"],
        "its load balancer is not there yet"
    );
    assert_eq!(
        told(Some(service("{hostname: lb.example}, {ip: 192.0.2.1}"))).unwrap(),
        [
            r#"Ingress [{"hostname":"lb.example"},{"ip":"192.0.2.1"}]"#,
            r#"Gateway [{"type":"Hostname","value":"lb.example"},{"type":"IPAddress","value":"192.0.2.1"}]"#,
        ]
    );
    assert_eq!(
        told(Some(service("{hostname: lb.example}, {ip: 192.0.2.1}"))).unwrap(),
        [""; 0],
        "no news"
    );
}

fn good(yaml: &str) -> Read {
    Read::Good(object(yaml))
}

#[test]
fn nothing_before_every_kind_was_read_and_then_everything() {
    let mut hub = hub_with(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    assert!(hub.health().synced);
    let change = hub.change().unwrap();
    assert_eq!(
        (change.delta.routes.len(), change.delta.backends.len()),
        (1, 1),
        "{change:?}"
    );
    assert!(hub.change().is_none());
    let mut empty = Hub::new(Settings::default(), None);
    for kind in Kind::ALL {
        assert!(!empty.health().synced);
        empty.take(Said::Missing(*kind));
    }
    assert!(empty.change().is_some(), "the first is given even when empty");
    assert!(empty.change().is_none());
}

#[test]
fn a_list_read_anew_is_one_difference() {
    let yaml = format!("{WEB_AND_EDGE}---\n{}", route_with_rule(""));
    let mut hub = hub_with(&yaml);
    hub.change();
    let services = || -> Vec<Read> {
        objects(&yaml)
            .into_iter()
            .filter(|object| object.kind() == Kind::Service)
            .map(Read::Good)
            .collect()
    };
    hub.take(Said::All(Kind::Service, services()));
    assert!(hub.change().is_none(), "the same again is no change");
    hub.take(Said::All(Kind::Service, Vec::new()));
    let change = hub.change().unwrap();
    assert_eq!(
        change
            .delta
            .backends
            .values()
            .filter(|gone| gone.is_none())
            .count(),
        1
    );
    assert!(change.rejects[0].reason.contains("BackendNotFound"), "{change:?}");
    hub.take(Said::All(Kind::Service, services()));
    assert_eq!(hub.change().unwrap().rejects, []);
}

#[test]
fn an_object_that_cannot_be_read_stays_as_it_was() {
    let mut hub = hub_with(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    hub.change();
    let web = key(Kind::Service, "default", "web");
    let broken = || Read::Broken(web.clone(), Complaint::new("spec.ports[0].port", "0 is no port"));
    for said in [Said::Put(broken()), Said::All(Kind::Service, vec![broken()])] {
        hub.take(said);
        if let Some(change) = hub.change() {
            assert!(change.delta.is_empty(), "{change:?}");
        }
        assert_eq!(
            hub.all_rejects()[0].to_string(),
            "kubernetes: Service default/web: spec.ports[0].port: Unreadable: 0 is no port; the object cannot be read, and what \
             it was before stays"
        );
    }
    hub.take(Said::Put(good(WEB_AND_EDGE.split("---").next().unwrap())));
    assert_eq!(hub.change().unwrap().rejects, []);
    hub.take(Said::Put(broken()));
    hub.take(Said::Gone(web));
    assert_eq!(
        hub.change().unwrap().rejects.len(),
        1,
        "only the route, which misses it"
    );
}

#[test]
fn what_cannot_be_read_is_told_once_and_shown() {
    let mut hub = hub_with(&format!("{WEB_AND_EDGE}---\n{}", route_with_rule("")));
    hub.change();
    hub.lead(true);
    while hub.next_finding().is_some() {}
    let web = key(Kind::Service, "default", "web");
    let secret = key(Kind::Secret, "default", "s");
    let broken = |key: &Key| Read::Broken(key.clone(), Complaint::new("data", "no map"));
    for key in [&web, &secret] {
        hub.take(Said::Put(broken(key)));
    }
    hub.change();
    assert!(hub.has_finding());
    for (key, stays) in [
        (&web, "what it was before stays"),
        (&secret, "it is as if it were not there"),
    ] {
        let reason = format!("Unreadable: no map; the object cannot be read, and {stays}");
        assert_eq!(
            hub.next_finding(),
            Some((key.clone(), vec![Complaint::new("data", reason)]))
        );
    }
    assert_eq!((hub.next_finding(), hub.has_finding()), (None, false));
    hub.take(Said::Put(broken(&web)));
    assert!(!hub.has_finding(), "the same again is no news");
    // `tidegate status` names both, and what is attached to them as it is.
    let shown: Vec<_> = hub.overview();
    let find = |kind: &str, name: &str| shown.iter().find(|one| one.kind == kind && one.name == name);
    let (service, unread) = (find("Service", "default/web"), find("Secret", "default/s"));
    let (service, unread) = (service.unwrap(), unread.unwrap());
    assert_eq!((service.live.word(), unread.live.word()), ("partly", "no"));
    assert!(
        service.why[0].starts_with("data: Unreadable: no map"),
        "{service:?}"
    );
    // It is told anew whoever tells it, and when it is over.
    hub.lead(false);
    assert!(!hub.has_finding());
    hub.lead(true);
    let told: Vec<Key> = std::iter::from_fn(|| hub.next_finding())
        .map(|(key, _)| key)
        .collect();
    assert!(told.contains(&web) && told.contains(&secret), "{told:?}");
    hub.take(Said::Gone(secret.clone()));
    hub.take(Said::Put(good(WEB_AND_EDGE.split("---").next().unwrap())));
    hub.change();
    let told: Vec<_> = std::iter::from_fn(|| hub.next_finding()).collect();
    assert_eq!(told, [(web, Vec::new()), (secret, Vec::new())]);
}

#[test]
fn what_is_not_well_is_said_in_a_line() {
    let mut hub = Hub::new(Settings::default(), None);
    for kind in Kind::ALL {
        hub.take(Said::Missing(*kind));
    }
    assert_eq!(hub.health().remark(), "");
    for kind in [Kind::Gateway, Kind::Service] {
        assert!(hub.take(Said::Away(kind, "refused".to_owned())));
        assert!(!hub.take(Said::Away(kind, "refused".to_owned())), "no news");
    }
    assert_eq!(hub.health().remark(), "cannot follow Service, Gateway: refused");
    assert!(hub.take(Said::Back(Kind::Service)));
    assert!(!hub.take(Said::Back(Kind::Service)));
    assert_eq!(hub.health().remark(), "cannot follow Gateway: refused");
    assert!(hub.health().synced, "what was read stays");
    assert_eq!(
        Hub::new(Settings::default(), None).health().remark(),
        format!(
            "still reading {}",
            Kind::ALL
                .iter()
                .filter(|kind| **kind != Kind::CustomResourceDefinition)
                .map(|kind| kind.name())
                .collect::<Vec<_>>()
                .join(", ")
        )
    );
}
