//! What becomes of a Pod: the decision, and the patch that puts the sidecar in. Pure.
//!
//! # What is put in
//! ```text
//! init containers: tidegate-init ─► tidegate (restartPolicy: Always, ready before it goes on) ─► the Pod's own ─► containers
//! ```
//! In this order, so that all that the Pod runs finds its connections served, its own init containers too; at the end the kubelet stops the
//! containers first, and native sidecars last. `tidegate-init` writes the rules by which the kernel redirects, once, and is the only part with a
//! capability. A Pod that speaks with addresses of its own (`localhost`) needs no rules, and nothing in it has a privilege: a namespace
//! of level `restricted` takes it (Kubernetes, Pod Security Standards).
//!
//! The sidecar reads Services with the Pod's service account, through a token of its own: whether the Pod's containers have one is the
//! Pod's business.
//!
//! # What is never done
//! A Pod is never refused, and never half done. Where the sidecar would make it one that cannot run (its node's network, a port or
//! user that is taken, a namespace whose level forbids the rules) it is left as it is, and who made it is warned.

mod identity;

use serde_json::{Value, json};

use super::pod::{Container, Namespace, Pod};
use super::wishes::{INJECT, INJECTED, PREFIX, Place, Wishes, is_label};
use crate::telemetry::metrics::Injection;

/// What is the same for all Pods.
#[derive(Clone, Debug)]
pub struct Template {
    /// The image of the sidecar.
    pub image: String,
    /// The image of what writes the rules, which has nft or iptables; none: transparent sidecars cannot be had.
    pub init_image: Option<String>,
    /// When the images are pulled; none: as Kubernetes chooses.
    pub pull_policy: Option<String>,
    /// The namespace of the injector, whose Pods are let be.
    pub own_namespace: String,
    /// Wishes that hold where neither Pod nor namespace says something else, by name.
    pub defaults: Vec<(String, String)>,
}

/// What becomes of a Pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets a sidecar, by these operations (RFC 6902).
    Inject(Vec<Value>),
    /// It stays as it is.
    Leave(Why),
}

/// Why a Pod stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody asks for a sidecar, or the Pod says no.
    NotAsked,
    /// It has one.
    Already,
    /// It cannot have one. What is said to who made it; none: others asked for it, and it is no surprise.
    Impossible(Option<String>),
    /// What is asked cannot be understood.
    Misunderstood(Vec<String>),
}

/// How the app's connections come to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The kernel redirects them.
    Transparent,
    /// The app speaks with addresses of its own Pod.
    Localhost,
}

/// The user that the sidecar runs as, which the rules let be.
const USER: i64 = 2102;
/// Where connections of the Pod's own go that are redirected, and those to it.
const REDIRECTED: [u16; 2] = [4140, 4143];
/// Where metrics and readiness are.
const ADMIN: u16 = 4191;
/// The name of the sidecar's container, and of what writes the rules.
const NAMES: [&str; 2] = ["tidegate", "tidegate-init"];
/// The name of the volume with the sidecar's token.
const TOKEN: &str = "tidegate-token";
/// Where programs look for their service account.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a token lives; the kubelet renews it.
const TOKEN_SECONDS: u64 = 3600;
/// What the sidecar has unless something else is asked for.
const REQUESTS: [(&str, &str); 2] = [("proxy-cpu-request", "10m"), ("proxy-memory-request", "16Mi")];
/// Namespaces whose Pods the cluster needs to run at all.
const NEVER: [&str; 2] = ["kube-system", "kube-node-lease"];
/// The mark of Pods that a kubelet made by itself; nothing of them can be changed.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The label by which a namespace says what its Pods may do.
const LEVEL: &str = "pod-security.kubernetes.io/enforce";
/// The version that is in the mark of injected Pods.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whether asking for a Pod's namespace is of any use: whatever it says, the answer is the same.
pub fn is_settled(pod: &Pod, namespace: &str, template: &Template) -> Option<Why> {
    let is_no = |value: Option<&str>| value == Some("disabled");
    let own = pod.metadata.annotation(INJECT).or(pod.metadata.label(INJECT));
    if is_no(own) || NEVER.contains(&namespace) || namespace == template.own_namespace || !is_label(namespace)
    {
        return Some(Why::NotAsked);
    }
    pod.containers()
        .any(|container| NAMES.contains(&container.name.as_str()))
        .then_some(Why::Already)
}

/// What becomes of a Pod that is about to be made in a namespace.
pub fn decide(pod: &Pod, namespace: &str, of: &Namespace, template: &Template) -> Decision {
    if let Some(why) = is_settled(pod, namespace, template) {
        return Decision::Leave(why);
    }
    let (mode, pod_asks) = match asked(pod, of) {
        Ok(Some(asked)) => asked,
        Ok(None) => return Decision::Leave(Why::NotAsked),
        Err(complaint) => return Decision::Leave(Why::Misunderstood(vec![complaint])),
    };
    if let Some(what) = elsewhere(pod) {
        let said = pod_asks.then(|| format!("no sidecar was injected: {what}"));
        return Decision::Leave(Why::Impossible(said));
    }
    let wishes = match wishes(pod, of, template) {
        Ok(wishes) => wishes,
        Err(complaints) => return Decision::Leave(Why::Misunderstood(complaints)),
    };
    let contradictions = wishes.contradictions();
    if !contradictions.is_empty() {
        return Decision::Leave(Why::Misunderstood(contradictions));
    }
    if let Some(what) = obstacle(pod, of, mode, &wishes, template) {
        let said = format!("no sidecar was injected: {what}");
        return Decision::Leave(Why::Impossible(Some(said)));
    }
    Decision::Inject(operations(pod, namespace, mode, &wishes, template))
}

/// Reads the defaults, so that a slip is found at the start and not with every Pod.
///
/// # Errors
/// Every complaint.
pub fn check_defaults(template: &Template) -> Result<(), Vec<String>> {
    wishes(&Pod::default(), &Namespace::default(), template).map(drop)
}

impl Why {
    /// What who made the Pod is told, one line each.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::NotAsked | Self::Already | Self::Impossible(None) => Vec::new(),
            Self::Impossible(Some(said)) => vec![said.clone()],
            Self::Misunderstood(complaints) => complaints
                .iter()
                .map(|one| format!("no sidecar was injected: {one}"))
                .collect(),
        }
    }
}

impl Decision {
    /// As it is counted.
    pub fn injection(&self) -> Injection {
        match self {
            Self::Inject(_) => Injection::Injected,
            Self::Leave(Why::NotAsked) => Injection::NotAsked,
            Self::Leave(Why::Already) => Injection::Already,
            Self::Leave(Why::Impossible(_)) => Injection::Impossible,
            Self::Leave(Why::Misunderstood(_)) => Injection::Misunderstood,
        }
    }
}

/// Which kind of sidecar is asked for, if any, and whether the Pod itself asks. The Pod goes before its namespace, an annotation before a
/// label.
fn asked(pod: &Pod, of: &Namespace) -> Result<Option<(Mode, bool)>, String> {
    let own = pod.metadata.annotation(INJECT).or(pod.metadata.label(INJECT));
    let its = of.metadata.annotation(INJECT).or(of.metadata.label(INJECT));
    let (value, pod_asks) = match (own, its) {
        (Some(value), _) => (value, true),
        (None, Some(value)) => (value, false),
        (None, None) => return Ok(None),
    };
    match value {
        "enabled" => Ok(Some((Mode::Transparent, pod_asks))),
        "localhost" => Ok(Some((Mode::Localhost, pod_asks))),
        "disabled" => Ok(None),
        other => {
            let whose = if pod_asks { "" } else { "the namespace's " };
            Err(format!(
                "{whose}{INJECT} is {other:?}; write enabled, localhost or disabled"
            ))
        }
    }
}

/// Why a Pod is none of those that have a network of their own here.
fn elsewhere(pod: &Pod) -> Option<&'static str> {
    let is_windows = pod.spec.os.as_ref().is_some_and(|os| os.name == "windows");
    match () {
        () if pod.spec.host_network => Some("the Pod is on its node's network"),
        () if pod.metadata.annotation(MIRROR).is_some() => Some("the Pod is made by its node's kubelet"),
        () if is_windows => Some("the Pod is for Windows"),
        () => None,
    }
}

fn wishes(pod: &Pod, of: &Namespace, template: &Template) -> Result<Wishes, Vec<String>> {
    let is_wish = |name: &str| {
        ![INJECT, INJECTED]
            .iter()
            .any(|one| one.strip_prefix(PREFIX) == Some(name))
    };
    let built_in = REQUESTS.iter().copied();
    let defaults = template
        .defaults
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let its = of
        .metadata
        .annotations_of(PREFIX)
        .filter(|(name, _)| is_wish(name));
    let own = pod
        .metadata
        .annotations_of(PREFIX)
        .filter(|(name, _)| is_wish(name));
    let of_place = |place: Place| move |(name, value)| (place, name, value);
    Wishes::read(
        built_in
            .chain(defaults)
            .map(of_place(Place::Default))
            .chain(its.map(of_place(Place::Namespace)))
            .chain(own.map(of_place(Place::Pod))),
    )
}

/// What would keep the Pod from running with the sidecar that is asked for.
fn obstacle(pod: &Pod, of: &Namespace, mode: Mode, wishes: &Wishes, template: &Template) -> Option<String> {
    let mut taken: Vec<u16> = match mode {
        Mode::Transparent => {
            if let Some(level @ ("baseline" | "restricted")) = of.metadata.label(LEVEL) {
                return Some(format!(
                    "the namespace's level {level:?} forbids the capability NET_ADMIN, which redirection takes; {INJECT}: localhost needs none"
                ));
            }
            if template.init_image.is_none() {
                return Some(format!(
                    "the injector has no --init-image, which redirection takes; {INJECT}: localhost needs none"
                ));
            }
            let is_users = |container: &&Container| pod.user_of(container) == Some(USER);
            if let Some(container) = pod.containers().find(is_users) {
                return Some(format!(
                    "the container {:?} runs as user {USER}, whose connections are not redirected because they are the sidecar's",
                    container.name
                ));
            }
            REDIRECTED.into()
        }
        Mode::Localhost => {
            if wishes.outbound.is_empty() && wishes.inbound.is_empty() {
                return Some(format!(
                    "there is nothing for it to serve; say {PREFIX}outbound: 3001=default/shop:80 or {PREFIX}inbound: 8080=3000"
                ));
            }
            let outbound = wishes.outbound.iter().map(|one| one.port);
            outbound
                .chain(wishes.inbound.iter().map(|one| one.port))
                .collect()
        }
    };
    if let Some(what) = identity::obstacle(pod, mode, wishes) {
        return Some(what);
    }
    taken.push(ADMIN);
    let taken: Vec<i64> = taken.into_iter().map(i64::from).collect();
    pod.containers().find_map(|container| {
        let mut ports = container.tcp_ports();
        let port = ports.find(|port| taken.contains(port))?;
        Some(format!(
            "the container {:?} has port {port}, which the sidecar needs",
            container.name
        ))
    })
}

/// Operations that put the sidecar in, each to be done on what the ones before have left.
fn operations(pod: &Pod, namespace: &str, mode: Mode, wishes: &Wishes, template: &Template) -> Vec<Value> {
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let mut operations = Vec::new();
    match pod.metadata.annotations {
        Some(_) => {
            let name = INJECTED.replace('/', "~1"); // RFC 6901, section 3
            operations.push(add(&format!("/metadata/annotations/{name}"), json!(VERSION)));
        }
        None => operations.push(add("/metadata/annotations", json!({INJECTED: VERSION}))),
    }
    let its_token = wishes_services(mode, wishes).then(token);
    let volumes: Vec<Value> = its_token
        .into_iter()
        .chain(wishes.identity.as_ref().and_then(identity::volume))
        .collect();
    match pod.spec.volumes {
        Some(_) => operations.extend(volumes.into_iter().map(|volume| add("/spec/volumes/-", volume))),
        None if volumes.is_empty() => {}
        None => operations.push(add("/spec/volumes", Value::Array(volumes))),
    }
    if pod.spec.init_containers.is_none() {
        operations.push(add("/spec/initContainers", json!([])));
    }
    operations.push(add(
        "/spec/initContainers/0",
        sidecar(pod, namespace, mode, wishes, template),
    ));
    if let (Mode::Transparent, Some(image)) = (mode, &template.init_image) {
        operations.push(add("/spec/initContainers/0", rules(image, wishes, template)));
    }
    operations
}

/// Whether the sidecar has to know Services.
fn wishes_services(mode: Mode, wishes: &Wishes) -> bool {
    mode == Mode::Transparent || !wishes.outbound.is_empty()
}

fn sidecar(pod: &Pod, namespace: &str, mode: Mode, wishes: &Wishes, template: &Template) -> Value {
    let mut args = vec!["sidecar".to_owned()];
    match mode {
        Mode::Transparent => {
            args.push("--transparent".to_owned());
            if let Some(ports) = &wishes.opaque_ports {
                args.push(format!("--opaque-ports={}", joined(ports)));
            }
        }
        Mode::Localhost => {
            args.extend(wishes.outbound.iter().map(|one| {
                let namespace = one.namespace.as_deref().unwrap_or(namespace);
                format!(
                    "--outbound=127.0.0.1:{}={namespace}/{}:{}",
                    one.port, one.service, one.service_port
                )
            }));
            let inbound = wishes.inbound.iter();
            args.extend(inbound.map(|one| format!("--inbound=:{}=127.0.0.1:{}", one.port, one.app)));
        }
    }
    let knows_services = wishes_services(mode, wishes);
    if knows_services {
        args.push("--kubernetes".to_owned());
        if wishes.backend_tls {
            args.push("--backend-tls".to_owned());
        }
    }
    args.extend(identity::args(pod, mode, wishes));
    args.push(format!("--admin=0.0.0.0:{ADMIN}"));
    if let Some(grace) = wishes.grace {
        args.push(format!("--grace={}", crate::config::units::show_duration(grace)));
    }
    if wishes.access_log {
        args.push("--access-log".to_owned());
    }
    let from_field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("POD_NAMESPACE", "metadata.namespace"),
        from_field("POD_IP", "status.podIP"),
        from_field("NODE_NAME", "spec.nodeName"),
        // Empty where the cluster does not copy it from the node (Kubernetes 1.35 on; KEP-4742).
        from_field("TIDEGATE_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
    ];
    if let Some(level) = &wishes.log_level {
        env.push(json!({"name": "TIDEGATE_LOG", "value": level}));
    }
    let probe = |path: &str, every: u64, failures: u64| json!({"httpGet": {"path": path, "port": ADMIN}, "periodSeconds": every, "failureThreshold": failures, "timeoutSeconds": 2});
    let mut container = json!({
        "name": NAMES[0],
        "image": template.image,
        "command": ["/tidegate"],
        "args": args,
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "tidegate-admin", "containerPort": ADMIN, "protocol": "TCP"}],
        // What comes after it in the Pod waits for this.
        "startupProbe": probe("/readyz", 1, 120),
        "livenessProbe": probe("/livez", 10, 5),
        "resources": resources(wishes),
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    let its_token = knows_services.then(|| json!({"name": TOKEN, "mountPath": TOKEN_PATH, "readOnly": true}));
    let mounts: Vec<Value> = its_token
        .into_iter()
        .chain(wishes.identity.as_ref().map(identity::mount))
        .collect();
    if !mounts.is_empty() {
        container["volumeMounts"] = Value::Array(mounts);
    }
    pulled(container, template)
}

/// What writes the rules by which the kernel redirects.
fn rules(image: &str, wishes: &Wishes, template: &Template) -> Value {
    let mut inbound = vec![ADMIN.to_string()];
    inbound.extend(wishes.skip_inbound_ports.iter().map(|range| range.with('-')));
    let mut args = vec![
        format!("--proxy-uid={USER}"),
        format!("--skip-inbound-ports={}", inbound.join(",")),
    ];
    if !wishes.skip_outbound_ports.is_empty() {
        let ports: Vec<String> = wishes
            .skip_outbound_ports
            .iter()
            .map(|range| range.with('-'))
            .collect();
        args.push(format!("--skip-outbound-ports={}", ports.join(",")));
    }
    if !wishes.skip_networks.is_empty() {
        args.push(format!("--skip-networks={}", joined(&wishes.skip_networks)));
    }
    let container = json!({
        "name": NAMES[1],
        "image": image,
        "command": ["/tidegate", "sidecar", "init"],
        "args": args,
        "resources": resources(wishes),
        "securityContext": {
            // The Pod may say otherwise for all its containers.
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    pulled(container, template)
}

fn pulled(mut container: Value, template: &Template) -> Value {
    if let Some(policy) = &template.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

fn resources(wishes: &Wishes) -> Value {
    let mut resources = json!({});
    for (kind, name, amount) in [
        ("requests", "cpu", &wishes.cpu_request),
        ("requests", "memory", &wishes.memory_request),
        ("limits", "cpu", &wishes.cpu_limit),
        ("limits", "memory", &wishes.memory_limit),
    ] {
        if let Some(amount) = amount {
            resources[kind][name] = json!(amount.to_string());
        }
    }
    resources
}

/// What a pod's service account usually has, for the sidecar alone.
fn token() -> Value {
    json!({"name": TOKEN, "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn joined<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(T::to_string).collect();
    all.join(",")
}

#[cfg(test)]
mod tests;
