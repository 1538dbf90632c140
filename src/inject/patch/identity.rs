//! Who a sidecar is: the volume that says it, the arguments, and what a kubelet asks where only mTLS is taken. Pure.
//!
//! # Probes
//! A kubelet has no identity and asks in clear text, which `strict` resets: the Pod would never be ready. Which of its ports are for
//! probes alone cannot be seen, and a port that is let be is open to everybody, so nothing is opened unasked: the Pod's maker
//! is told what to write. `plain-ports: probes` is the word for all ports that probes ask; where clear text is taken anyway it opens none.

use serde_json::{Value, json};

use super::{ADMIN, Mode};
use crate::inject::pod::Pod;
use crate::inject::wishes::{Identity, Mtls, PREFIX, Wishes};

/// The name of the volume.
const VOLUME: &str = "tidegate-identity";
/// Where the sidecar finds the agent's socket; SPIFFE's CSI driver is documented with this path.
const SOCKET_PATH: &str = "/spiffe-workload-api";
/// SPIFFE's CSI driver.
const DRIVER: &str = "csi.spiffe.io";
/// Where the sidecar finds its files.
const FILES_PATH: &str = "/var/run/secrets/spiffe";

/// The volume that the Pod has to get. None is of the node's file system: the level `restricted` takes them.
pub(super) fn volume(identity: &Identity) -> Option<Value> {
    match identity {
        Identity::WorkloadApi(_) => {
            Some(json!({"name": VOLUME, "csi": {"driver": DRIVER, "readOnly": true}}))
        }
        Identity::Secret(secret) => Some(json!({"name": VOLUME, "secret": {"secretName": secret}})),
        Identity::Volume(_) => None,
    }
}

/// How the sidecar has it; no other container of the Pod does.
pub(super) fn mount(identity: &Identity) -> Value {
    let (name, path) = match identity {
        Identity::WorkloadApi(_) => (VOLUME, SOCKET_PATH),
        Identity::Secret(_) => (VOLUME, FILES_PATH),
        Identity::Volume(volume) => (volume.as_str(), FILES_PATH),
    };
    json!({"name": name, "mountPath": path, "readOnly": true})
}

/// What the sidecar is told.
pub(super) fn args(pod: &Pod, mode: Mode, wishes: &Wishes) -> Vec<String> {
    let mut args = Vec::new();
    match &wishes.identity {
        Some(Identity::WorkloadApi(socket)) => {
            args.push(format!("--workload-api=unix://{SOCKET_PATH}/{socket}"));
        }
        Some(Identity::Secret(_) | Identity::Volume(_)) => args.push(format!("--identity={FILES_PATH}")),
        None => {}
    }
    if let Some(mtls) = wishes.mtls {
        args.push(format!("--mtls={}", mtls.as_str()));
    }
    if wishes.asks_who() {
        args.extend(wishes.allow.iter().map(|peer| format!("--allow={peer}")));
        let plain = plain_ports(pod, mode, wishes);
        if !plain.is_empty() {
            args.push(format!("--plain-ports={}", super::joined(&plain)));
        }
    }
    args
}

/// What would keep the Pod from being who it is to be, or from being ready.
pub(super) fn obstacle(pod: &Pod, mode: Mode, wishes: &Wishes) -> Option<String> {
    if let Some(Identity::Volume(name)) = &wishes.identity {
        let mut volumes = pod.spec.volumes.iter().flatten();
        if !volumes.any(|volume| volume.name == *name) {
            return Some(format!(
                "{PREFIX}identity is of the volume {name:?}, which the Pod does not have"
            ));
        }
    }
    if wishes.mtls != Some(Mtls::Strict) {
        return None;
    }
    if mode == Mode::Localhost && wishes.inbound.is_empty() {
        return Some(format!(
            "{PREFIX}mtls: strict is for those who connect to the app, whom the sidecar does not see; say {PREFIX}inbound: 8080=3000"
        ));
    }
    if !wishes.skip_networks.is_empty() {
        return None; // the nodes may be in them
    }
    let plain = plain_ports(pod, mode, wishes);
    let mut refused = asked_by_kubelet(pod, mode, wishes);
    refused.retain(|port| !plain.contains(port));
    (!refused.is_empty()).then(|| {
        format!(
            "probes of the Pod ask port {} in clear text, which {PREFIX}mtls: strict does not take; give them a port of their own, and say \
             {PREFIX}plain-ports: probes, which leaves that port open to everybody",
            super::joined(&refused)
        )
    })
}

/// The ports on which nobody is asked, in order.
fn plain_ports(pod: &Pod, mode: Mode, wishes: &Wishes) -> Vec<u16> {
    let mut ports = wishes.plain_ports.ports.clone();
    if wishes.plain_ports.probes && wishes.mtls == Some(Mtls::Strict) {
        ports.extend(asked_by_kubelet(pod, mode, wishes));
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The ports on which a kubelet's connections come to the sidecar, in order.
fn asked_by_kubelet(pod: &Pod, mode: Mode, wishes: &Wishes) -> Vec<u16> {
    let is_served = |port: &u16| match mode {
        Mode::Transparent => {
            *port != ADMIN
                && !wishes
                    .skip_inbound_ports
                    .iter()
                    .any(|range| range.contains(*port))
        }
        Mode::Localhost => wishes.inbound.iter().any(|inbound| inbound.port == *port),
    };
    let all = pod
        .containers()
        .flat_map(|container| container.ports_of_kubelet());
    let mut ports: Vec<u16> = all
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .filter(is_served)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
