//! Destinations: the addresses of Services that routes are for, each a listener that nothing is bound for.
//!
//! A Service without routes has none: what is meant for it goes to its endpoints. With routes, what no rule takes goes
//! nowhere. Where consumers in our namespace have routes for an address, those count and the producer's do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Index;
use crate::kubernetes::Mesh;
use crate::kubernetes::objects::{Id, Key, Kind, Object, Service};
use crate::kubernetes::routes::service_of;
use crate::kubernetes::routes::services::name;
use crate::model::{Delta, HostPattern, Listener, ListenerKind, ListenerLimits, ListenerName, Protocols};

/// The listeners of a Service, by name.
pub(super) type Destinations = BTreeMap<ListenerName, Arc<Listener>>;

impl Index {
    /// Whether an object concerns us: a sidecar keeps only routes of Services.
    pub(super) fn concerns_us(&self, object: &Object) -> bool {
        let (route, parents) = match object {
            Object::HttpRoute(route) => (object.key(), &route.spec.parent_refs),
            Object::GrpcRoute(route) => (object.key(), &route.spec.parent_refs),
            _ => return true,
        };
        let mut parents = parents.iter();
        !matches!(self.settings.mesh, Mesh::Serve { .. })
            || parents.any(|parent| service_of(&route.id, parent).is_some())
    }

    /// The listeners of a Service's addresses into the delta, as far as they came out different.
    pub(super) fn decide_destinations(&mut self, id: &Id, delta: &mut Delta) {
        let Mesh::Serve { namespace } = &self.settings.mesh else {
            return;
        };
        let next = match self.store.service(id) {
            Some(service) => self.destinations_of(id, service, namespace.as_deref()),
            None => Destinations::new(),
        };
        let now = self.destinations.remove(id).unwrap_or_default();
        for gone in now.keys().filter(|name| !next.contains_key(*name)) {
            delta.listeners.insert(gone.clone(), None);
        }
        for (name, listener) in &next {
            if now.get(name) != Some(listener) {
                delta.listeners.insert(name.clone(), Some(Arc::clone(listener)));
            }
        }
        if !next.is_empty() {
            self.destinations.insert(id.clone(), next);
        }
    }

    fn destinations_of(&self, id: &Id, service: &Service, namespace: Option<&str>) -> Destinations {
        let key = Key {
            kind: Kind::Service,
            id: id.clone(),
        };
        let routes = self.dependents.of_parent(&key);
        let attached = routes.iter().filter_map(|route| self.routes.get(route));
        let wanted: BTreeSet<&ListenerName> = attached.flatten().flat_map(|route| &route.listeners).collect();
        let mut found = Destinations::new();
        if wanted.is_empty() {
            return found;
        }
        for port in service.spec.ports.iter().filter(|port| port.is_tcp()) {
            for address in service.spec.addresses() {
                let address = SocketAddr::new(address, port.port.0);
                let consumers = namespace.map(|namespace| name(id, address, Some(namespace)));
                let both = consumers.into_iter().chain([name(id, address, None)]);
                if let Some(name) = both.into_iter().find(|name| wanted.contains(name)) {
                    found.insert(name.clone(), Arc::new(destination(name, address)));
                }
            }
        }
        found
    }
}

fn destination(name: ListenerName, address: SocketAddr) -> Listener {
    Listener {
        name,
        address,
        public_port: None,
        hostname: HostPattern::Any,
        kind: ListenerKind::Destination,
        protocols: Protocols::default(),
        tls: None,
        limits: ListenerLimits::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Settings;
    use crate::kubernetes::testing::{Fixture, object};
    use crate::model::BackendTarget;

    const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIPs: [10.96.0.1, 'fd96::1'], ports: [{name: http, port: 80}, {name: admin, port: 81}, {name: log, port: 82, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v2, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
";

    fn sidecar(namespace: Option<&str>, yaml: &str) -> Fixture {
        let settings = Settings {
            services_only: true,
            mesh: Mesh::Serve {
                namespace: namespace.map(Arc::from),
            },
            ..Settings::default()
        };
        Fixture::with(settings, yaml)
    }

    /// An HTTPRoute with one rule, to `cart-v2`; `parent` are further lines of its reference to `cart`.
    fn route(name: &str, namespace: &str, parent: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec:\n  hostnames: [elsewhere.example]\n  parentRefs: [{{group: '', kind: Service, name: cart, namespace: shop{parent}}}]\n\
             \x20 rules: [{{backendRefs: [{{name: cart-v2, namespace: shop, port: 80}}]}}]\n---\n"
        )
    }

    /// The addresses that routes are for.
    fn addresses(fixture: &Fixture) -> Vec<String> {
        let listeners = fixture.world.listeners.values();
        listeners
            .map(|listener| {
                assert_eq!(listener.kind, ListenerKind::Destination);
                listener.address.to_string()
            })
            .collect()
    }

    #[test]
    fn a_route_is_for_each_port_of_its_service_or_for_one() {
        for (parent, expected) in [
            (
                "",
                &["10.96.0.1:80", "10.96.0.1:81", "[fd96::1]:80", "[fd96::1]:81"][..],
            ),
            (", port: 81", &["10.96.0.1:81", "[fd96::1]:81"]),
            (", sectionName: http", &["10.96.0.1:80", "[fd96::1]:80"]),
            (", sectionName: http, port: 81", &[]),
            (", port: 82", &[]),
        ] {
            let fixture = sidecar(None, &(SHOP.to_owned() + &route("r", "shop", parent)));
            assert_eq!(addresses(&fixture), expected, "{parent}");
            let complaints = fixture.rejects();
            assert_eq!(complaints.is_empty(), !expected.is_empty(), "{complaints:?}");
            let Some(route) = fixture.world.routes.get("HTTPRoute/shop/r") else {
                assert_eq!(expected.len(), 0);
                continue;
            };
            // Hostnames say nothing, and what is not said of time is not added.
            assert_eq!(route.hostnames, [HostPattern::Any]);
            assert_eq!(route.rules[0].timeouts, crate::model::Timeouts::NONE);
            let target = &route.rules[0].backends[0].target;
            assert_eq!(*target, BackendTarget::Backend("shop/cart-v2:80".into()));
        }
    }

    #[test]
    fn consumers_routes_count_for_them_alone_and_go_first() {
        let producers = route("p", "shop", ", port: 80");
        let consumers = route("c", "office", "");
        for (namespace, yaml, live) in [
            (Some("office"), vec![&consumers], " from office"),
            (Some("office"), vec![&consumers, &producers], " from office"),
            (Some("office"), vec![&producers], ""),
            (Some("shop"), vec![&consumers, &producers], ""),
            (None, vec![&consumers, &producers], ""),
        ] {
            let yaml: String = yaml.into_iter().map(String::as_str).collect();
            let fixture = sidecar(namespace, &(SHOP.to_owned() + &yaml));
            let listener = format!("Service/shop/cart 10.96.0.1:80{live}");
            let names: Vec<_> = fixture.world.listeners.keys().map(ListenerName::as_str).collect();
            assert!(names.contains(&&*listener), "{namespace:?}: {names:?}");
            let wanted = |fixture: &Fixture, route: &str| {
                let route = fixture.world.routes.get(route);
                route.is_some_and(|route| route.listeners.contains(&ListenerName::new(&listener)))
            };
            assert_eq!(wanted(&fixture, "HTTPRoute/office/c"), !live.is_empty());
            assert!(!wanted(&fixture, "HTTPRoute/shop/p") || live.is_empty());
            assert_eq!(fixture.rejects(), Vec::<String>::new());
        }
        let none = sidecar(Some("shop"), &(SHOP.to_owned() + &consumers));
        assert!(none.world.listeners.is_empty() && none.world.routes.is_empty());
    }

    #[test]
    fn what_comes_and_goes_leaves_nothing() {
        let mut fixture = sidecar(Some("shop"), &route("r", "shop", ""));
        assert_eq!(
            fixture.rejects(),
            ["test: HTTPRoute shop/r: spec.parentRefs[0]: NoMatchingParent: there is no Service shop/cart"]
        );
        fixture.apply(SHOP);
        assert_eq!(addresses(&fixture).len(), 4);
        assert_eq!(fixture.rejects(), Vec::<String>::new());
        // Its address is another one.
        fixture.apply("{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}");
        assert_eq!(addresses(&fixture), ["10.96.0.9:80"]);
        // It is no parent any more: nothing is kept of the route, and the Service is served as if there had been none.
        let other = route("r", "shop", "").replace("group: '', kind: Service", "kind: Gateway");
        fixture.apply(&other);
        assert!(addresses(&fixture).is_empty() && fixture.world.routes.is_empty());
        assert_eq!(fixture.index.get(&object(&other).key()), None);
        fixture.apply(&route("r", "shop", ""));
        assert_eq!(addresses(&fixture), ["10.96.0.9:80"]);
        fixture.delete(Kind::HttpRoute, "shop", "r");
        for name in ["cart", "cart-v2", "headless"] {
            fixture.delete(Kind::Service, "shop", name);
        }
        assert!(fixture.world.listeners.is_empty() && fixture.index.is_idle());
    }

    #[test]
    fn a_service_without_an_address_takes_no_routes() {
        let headless = route("r", "shop", "").replace("name: cart,", "name: headless,");
        let fixture = sidecar(None, &(SHOP.to_owned() + &headless));
        assert_eq!(
            fixture.rejects(),
            [
                "test: HTTPRoute shop/r: spec.parentRefs[0]: UnsupportedValue: Service shop/headless has no cluster address by which \
              its clients could be known"
            ]
        );
    }

    #[test]
    fn an_ingress_controller_serves_none_of_it() {
        for mesh in [Mesh::Off, Mesh::Tell] {
            let settings = Settings {
                mesh,
                ..Settings::default()
            };
            let fixture = Fixture::with(settings, &(SHOP.to_owned() + &route("r", "shop", "")));
            let world = &fixture.world;
            assert!(world.listeners.is_empty() && world.routes.is_empty() && world.backends.is_empty());
        }
    }
}
