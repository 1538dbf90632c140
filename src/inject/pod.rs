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
    pub volumes: Option<Vec<Volume>>,
    security_context: Option<Security>,
}

/// A volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Its name, which no other of the Pod has.
    pub name: String,
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
    startup_probe: Option<Handler>,
    liveness_probe: Option<Handler>,
    readiness_probe: Option<Handler>,
    lifecycle: Option<Lifecycle>,
    security_context: Option<Security>,
}

/// What the kubelet asks at the begin and at the end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Lifecycle {
    post_start: Option<Handler>,
    pre_stop: Option<Handler>,
}

/// How the kubelet asks: by one of these, or by a command, which takes no connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Handler {
    http_get: Option<Asked>,
    tcp_socket: Option<Asked>,
    grpc: Option<Asked>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    port: NamedPort,
    /// Somebody else than the Pod is asked.
    host: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum NamedPort {
    /// Not yet checked by the API server.
    Number(i64),
    /// One of the container's.
    Name(String),
}

impl Default for NamedPort {
    fn default() -> Self {
        Self::Number(0)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    /// Not yet checked by the API server.
    container_port: i64,
    name: Option<String>,
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

    /// The ports of the Pod that the kubelet connects to, by probes and hooks.
    pub fn ports_of_kubelet(&self) -> impl Iterator<Item = i64> {
        let hooks = self.lifecycle.iter();
        let hooks = hooks.flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
        let probes = [&self.startup_probe, &self.liveness_probe, &self.readiness_probe];
        let all = probes.into_iter().chain(hooks).flatten();
        all.flat_map(|handler| [&handler.http_get, &handler.tcp_socket, &handler.grpc])
            .flatten()
            .filter(|asked| asked.host.as_deref().unwrap_or_default().is_empty())
            .filter_map(|asked| match &asked.port {
                NamedPort::Number(number) => Some(*number),
                NamedPort::Name(name) => self
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_ref() == Some(name))
                    .map(|port| port.container_port),
            })
    }
}
