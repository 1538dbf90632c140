//! Worlds of any size for benches: what a large cluster gives the compiler.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tidegate::model::{
    Backend, BackendName, BackendTarget, Delta, Endpoint, HostPattern, Listener, ListenerLimits,
    ListenerName, Match, PathMatch, Protocols, Route, RouteName, Rule, WeightedBackend,
};

/// Where the worlds' listener is.
pub fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 80))
}

/// One listener for all hostnames.
pub fn listener() -> Delta {
    let name = ListenerName::from("http");
    let mut delta = Delta::default();
    let listener = Listener {
        name: name.clone(),
        address: address(),
        public_port: None,
        hostname: HostPattern::Any,
        kind: tidegate::model::ListenerKind::Http,
        protocols: Protocols::default(),
        tls: None,
        limits: ListenerLimits::default(),
    };
    delta.listeners.insert(name, Some(Arc::new(listener)));
    delta
}

/// The hostname of route `index` when each has its own.
pub fn host(index: usize) -> String {
    format!("app-{index}.team-{}.example.com", index % 97)
}

/// The path of route `index` when all share a hostname.
pub fn path(index: usize) -> String {
    format!("/api/team-{}/service-{index}", index % 97)
}

/// A route with one rule that leads to backend `index`.
pub fn route(index: usize, hostname: HostPattern, path: PathMatch) -> (RouteName, Arc<Route>) {
    let name = RouteName::new(format!("HTTPRoute/default/route-{index}"));
    let rule = Rule {
        matches: vec![Match {
            path,
            ..Match::default()
        }],
        backends: vec![WeightedBackend {
            target: BackendTarget::Backend(backend_name(index)),
            weight: 1,
            filters: Vec::new(),
        }],
        ..Rule::default()
    };
    let route = Route {
        name: name.clone(),
        listeners: vec![ListenerName::from("http")],
        hostnames: vec![hostname],
        rules: vec![Arc::new(rule)],
        created: 1_700_000_000 + index as u64,
        order: 0,
    };
    (name, Arc::new(route))
}

/// Routes with a hostname each.
pub fn many_hosts(count: usize) -> Delta {
    let mut delta = listener();
    delta.routes = (0..count)
        .map(|index| {
            let hostname = HostPattern::Exact(host(index).into());
            let (name, route) = route(index, hostname, PathMatch::default());
            (name, Some(route))
        })
        .collect();
    delta
}

/// Routes that share a hostname and have a path each: in turn a prefix and an exact one.
pub fn many_paths(count: usize) -> Delta {
    let mut delta = listener();
    delta.routes = (0..count)
        .map(|index| {
            let path = match index % 2 {
                0 => PathMatch::prefix(&path(index)),
                _ => PathMatch::Exact(path(index).into()),
            };
            let (name, route) = route(index, HostPattern::Exact("example.com".into()), path);
            (name, Some(route))
        })
        .collect();
    delta
}

/// The name of backend `index`.
pub fn backend_name(index: usize) -> BackendName {
    BackendName::new(format!("default/service-{index}:8080"))
}

/// Endpoints of a backend; `port` tells one generation from the next.
pub fn endpoints(backend: usize, count: usize, port: u16) -> Arc<[Endpoint]> {
    (0..count)
        .map(|index| {
            let number = (backend * count + index) as u32;
            let address = Ipv4Addr::from(0x0a00_0000 + number);
            let mut endpoint = Endpoint::at(SocketAddr::from((address, port)));
            endpoint.label = Some(format!("service-{backend}-{index}").into());
            endpoint
        })
        .collect()
}

/// Backends with so many endpoints each.
pub fn backends(delta: &mut Delta, count: usize, endpoints_each: usize) {
    for index in 0..count {
        let name = backend_name(index);
        delta
            .backends
            .insert(name.clone(), Some(Arc::new(Backend::new(name.clone()))));
        delta
            .endpoints
            .insert(name, Some(endpoints(index, endpoints_each, 8080)));
    }
}
