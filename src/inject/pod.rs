//! Pods and namespaces, as far as they matter for injection. What else an object has is not kept.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A Pod that is about to be made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its metadata.
    pub metadata: Meta,
    /// What runs in it.
    pub spec: Spec,
}

/// A namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its metadata.
    pub metadata: Meta,
}

/// Names, labels and annotations. Maps are absent rather than empty in what the API server sends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    name: String,
    generate_name: String,
    labels: Option<BTreeMap<String, String>>,
    /// None where there are none: a patch has to make the map first.
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What runs in a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// Whether it is on its node's network.
    pub host_network: bool,
    /// The system that it is for.
    pub os: Option<Os>,
    /// The containers that run all the time.
    pub containers: Vec<Container>,
    /// Those that run before. None where there are none.
    pub init_containers: Option<Vec<Container>>,
    /// None where there are none.
    pub volumes: Option<Vec<serde::de::IgnoredAny>>,
    security_context: Option<Security>,
}

/// An operating system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Os {
    /// `linux` or `windows`.
    pub name: String,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name, which no other of the Pod has.
    pub name: String,
    ports: Option<Vec<Port>>,
    security_context: Option<Security>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    /// Not yet checked by the API server.
    container_port: i64,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Security {
    run_as_user: Option<i64>,
}

impl Meta {
    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        Some(self.annotations.as_ref()?.get(name)?)
    }

    /// The name, or how it will begin.
    pub fn name(&self) -> &str {
        match self.name.as_str() {
            "" => &self.generate_name,
            name => name,
        }
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        Some(self.labels.as_ref()?.get(name)?)
    }

    /// The annotations whose names begin so, without that beginning.
    pub fn annotations_of<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.annotations.iter().flatten();
        all.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }
}

impl Pod {
    /// All containers, those that run before first.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        let init = self.spec.init_containers.iter().flatten();
        init.chain(&self.spec.containers)
    }

    /// The user that a container runs as, if the Pod says it.
    pub fn user_of(&self, container: &Container) -> Option<i64> {
        let of = |security: &Option<Security>| security.as_ref()?.run_as_user;
        of(&container.security_context).or_else(|| of(&self.spec.security_context))
    }
}

impl Container {
    /// The TCP ports that it says it listens on.
    pub fn tcp_ports(&self) -> impl Iterator<Item = i64> {
        let ports = self.ports.iter().flatten();
        ports
            .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
            .map(|port| port.container_port)
    }
}
