//! Where clients come to: the addresses that objects are told of when they are served on every address of a pod.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Serving;
use crate::kubernetes::objects::{Id, Service};

/// Who knows where clients come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusAddress {
    /// The operator.
    Address(IpAddr),
    /// The Service in front of the pods: its load balancer's addresses and its external ones, else those of the cluster.
    Service(Id),
}

/// An address as statuses have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A name, which is what some clouds have for their load balancers.
    Name(Arc<str>),
}

impl Address {
    /// As a Gateway has it.
    pub(super) fn of_gateway(&self) -> Value {
        match self {
            Self::Ip(address) => json!({"type": "IPAddress", "value": address}),
            Self::Name(name) => json!({"type": "Hostname", "value": name}),
        }
    }

    /// As an Ingress has it.
    pub(super) fn of_ingress(&self) -> Value {
        match self {
            Self::Ip(address) => json!({"ip": address}),
            Self::Name(name) => json!({"hostname": name}),
        }
    }
}

/// Where clients of a Service come to, each address once.
pub fn of_service(service: &Service) -> Vec<Address> {
    let spec = &service.spec;
    let mut all: Vec<Address> = Vec::new();
    let mut add = |address: Address| {
        if !all.contains(&address) {
            all.push(address);
        }
    };
    for entry in &service.status.load_balancer.ingress {
        match (
            entry.ip.as_deref().and_then(|ip| ip.parse().ok()),
            &entry.hostname,
        ) {
            (Some(ip), _) => add(Address::Ip(ip)),
            (None, Some(name)) if !name.is_empty() => add(Address::Name(Arc::clone(name))),
            (None, _) => {}
        }
    }
    let external = spec.external_ips.iter().filter_map(|ip| ip.parse().ok());
    external.for_each(|ip| add(Address::Ip(ip)));
    // One that waits for its load balancer is not reached by anything else meanwhile.
    if all.is_empty() && spec.r#type.as_deref() != Some("LoadBalancer") {
        all.extend(spec.addresses().map(Address::Ip));
    }
    all
}

/// The addresses to tell of one that is bound.
pub(super) fn told(bound: IpAddr, serving: &Serving) -> Vec<Address> {
    match bound.is_unspecified() {
        true => serving
            .public
            .iter()
            .flat_map(|all| all.iter().cloned())
            .collect(),
        false => vec![Address::Ip(bound)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_reached_where_its_load_balancer_is() {
        let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example}, {ip: 192.0.2.1, hostname: x}]}}";
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        for (text, expected) in [
            (
                format!(
                    "spec: {{type: LoadBalancer, clusterIP: 10.0.0.1, externalIPs: [192.0.2.9]}}\n{status}"
                ),
                vec![
                    ip("192.0.2.1"),
                    Address::Name("lb.example".into()),
                    ip("192.0.2.9"),
                ],
            ),
            (
                "spec: {type: LoadBalancer, clusterIP: 10.0.0.1}\nstatus: {loadBalancer: {}}".to_owned(),
                vec![],
            ),
            (
                "spec: {type: NodePort, clusterIP: 10.0.0.1, externalIPs: [192.0.2.9]}".to_owned(),
                vec![ip("192.0.2.9")],
            ),
            (
                "spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1']}".to_owned(),
                vec![ip("10.0.0.1"), ip("fd00::1")],
            ),
            ("spec: {clusterIP: None}".to_owned(), vec![]),
            (
                format!("spec: {{}}\n{}", status.replace("192.0.2.1", "nonsense")),
                vec![Address::Name("lb.example".into()), Address::Name("x".into())],
            ),
        ] {
            let service: Service =
                serde_saphyr::from_str(&format!("metadata: {{name: edge}}\n{text}")).unwrap();
            assert_eq!(of_service(&service), expected, "{text}");
        }
    }
}
