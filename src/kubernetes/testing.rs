//! For tests: plain objects from a few lines of YAML, and an index with its world.

use crate::kubernetes::index::Index;
use crate::kubernetes::manifests::parse_for_tests;
use crate::kubernetes::objects::{Key, Object};
use crate::kubernetes::{Id, Kind, Settings};
use crate::model::{Delta, SourceName, World};

/// The objects of a YAML stream. Everything in it must be good.
pub fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse_for_tests(yaml);
    assert_eq!(parsed.problems, [], "{yaml}");
    parsed.objects.into_iter().map(|(_, object, _)| object).collect()
}

/// The only object of a YAML text.
pub fn object(yaml: &str) -> Object {
    let mut objects = objects(yaml);
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

/// A key from its parts.
pub fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    Key {
        kind,
        id: Id::new(namespace, name),
    }
}

/// An index and the world its deltas made.
pub struct Fixture {
    pub index: Index,
    pub world: World,
}

impl Fixture {
    /// With the objects of a YAML stream, in manifest mode.
    pub fn new(yaml: &str) -> Self {
        Self::with(Settings::default(), yaml)
    }

    /// With the objects of a YAML stream.
    pub fn with(settings: Settings, yaml: &str) -> Self {
        let mut fixture = Self {
            index: Index::new(SourceName::new("test"), settings),
            world: World::default(),
        };
        fixture.apply(yaml);
        fixture
    }

    /// Applies objects; gives what changed.
    pub fn apply(&mut self, yaml: &str) -> Delta {
        for object in objects(yaml) {
            self.index.apply(object);
        }
        self.settle()
    }

    /// Deletes an object; gives what changed.
    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> Delta {
        self.index.delete(&key(kind, namespace, name));
        self.settle()
    }

    /// Takes the delta into the world.
    pub fn settle(&mut self) -> Delta {
        let delta = self.index.take_delta();
        self.world.apply(&delta);
        delta
    }

    /// What is wrong, as one text each.
    pub fn rejects(&self) -> Vec<String> {
        self.index.rejects().iter().map(ToString::to_string).collect()
    }

    /// The listeners of the world as `name address host`.
    pub fn listeners(&self) -> Vec<String> {
        let listeners = self.world.listeners.values();
        listeners
            .map(|listener| format!("{} {} {}", listener.name, listener.address, listener.hostname))
            .collect()
    }

    /// The names of the routes.
    pub fn routes(&self) -> Vec<&str> {
        self.world.routes.keys().map(|name| name.as_str()).collect()
    }

    /// The endpoints of a backend as `address state`.
    pub fn endpoints(&self, backend: &str) -> Vec<String> {
        let endpoints = self.world.endpoints.get(backend).map(|endpoints| &**endpoints);
        let endpoints =
            endpoints.unwrap_or_else(|| panic!("no endpoints of {backend}: {:?}", self.world.endpoints));
        endpoints
            .iter()
            .map(|endpoint| format!("{} {:?}", endpoint.address, endpoint.state))
            .collect()
    }
}

/// A Service `default/web` with port 80 to 8080 named http, and a Gateway `default/edge` with a listener `http`.
pub const WEB_AND_EDGE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: tidegate
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

/// An HTTPRoute `default/r` of Gateway `edge` with these further lines of `spec`.
pub fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: edge}}]\n{}\n",
        spec.lines().map(|line| format!("  {line}\n")).collect::<String>()
    )
}

/// An HTTPRoute `default/r` of Gateway `edge` with one rule: these lines and a backend `web`.
pub fn route_with_rule(rule: &str) -> String {
    let rule: String = rule.lines().map(|line| format!("  {line}\n")).collect();
    route(&format!(
        "rules:\n- backendRefs: [{{name: web, port: 80}}]\n{rule}"
    ))
}
