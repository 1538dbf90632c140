//! The questions asked of the API server, as paths.

use std::fmt::Write as _;

use crate::kubernetes::{Key, Kind};

/// Objects asked for per page, where lists come in pages.
const PAGE: u32 = 250;

/// How long the API server keeps a watch open, in seconds. A connection that went dead without a word is noticed after it.
pub const WATCH_SECONDS: u64 = 120;

/// Where the objects of a kind are, in a version of its group.
pub fn collection(kind: Kind, version: &str) -> String {
    match kind.group() {
        "" => format!("/api/{version}/{}", plural(kind)),
        group => format!("/apis/{group}/{version}/{}", plural(kind)),
    }
}

/// Where an object is, in the first version of its group that is read.
pub fn object(key: &Key) -> String {
    let (kind, name) = (key.kind, &key.id.name);
    let collection = collection(kind, kind.versions()[0]);
    match collection.rsplit_once('/') {
        Some((group, plural)) if kind.is_namespaced() => {
            format!("{group}/namespaces/{}/{plural}/{name}", key.id.namespace)
        }
        _ => format!("{collection}/{name}"),
    }
}

/// Where the API server says what a version of a group has.
pub fn resources(kind: Kind, version: &str) -> String {
    match kind.group() {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    }
}

/// The name of a kind in paths.
pub fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::Namespace => "namespaces",
        Kind::Secret => "secrets",
        Kind::ConfigMap => "configmaps",
        Kind::CustomResourceDefinition => "customresourcedefinitions",
        Kind::EndpointSlice => "endpointslices",
        Kind::Ingress => "ingresses",
        Kind::IngressClass => "ingressclasses",
        Kind::GatewayClass => "gatewayclasses",
        Kind::Gateway => "gateways",
        Kind::ListenerSet => "listenersets",
        Kind::HttpRoute => "httproutes",
        Kind::GrpcRoute => "grpcroutes",
        Kind::TlsRoute => "tlsroutes",
        Kind::TcpRoute => "tcproutes",
        Kind::UdpRoute => "udproutes",
        Kind::BackendTlsPolicy => "backendtlspolicies",
        Kind::ReferenceGrant => "referencegrants",
    }
}

/// A page of a list: the first, or the one that a token continues with.
pub fn page(kind: Kind, version: &str, token: Option<&str>) -> String {
    let mut path = format!("{}?limit={PAGE}", collection(kind, version));
    select(kind, &mut path);
    if let Some(token) = token {
        path.push_str("&continue=");
        escape(token, &mut path);
    }
    path
}

/// The form of the answers: of definitions, which are large, only their metadata.
pub fn accept(kind: Kind) -> &'static str {
    match kind {
        Kind::CustomResourceDefinition => {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
             application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
        }
        _ => "application/json",
    }
}

/// All objects, and then what becomes of them, in one stream (Kubernetes 1.34 on; KEP-3157).
pub fn stream(kind: Kind, version: &str) -> String {
    watch(kind, version) + "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
}

/// What became of the objects since a version.
pub fn watch_from(kind: Kind, version: &str, since: &str) -> String {
    let mut path = watch(kind, version) + "&resourceVersion=";
    escape(since, &mut path);
    path
}

fn watch(kind: Kind, version: &str) -> String {
    let mut path = format!(
        "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}",
        collection(kind, version)
    );
    select(kind, &mut path);
    path
}

/// Of the Secrets of a cluster only those that can hold a certificate are read.
fn select(kind: Kind, path: &mut String) {
    if kind == Kind::Secret {
        path.push_str("&fieldSelector=type%3Dkubernetes.io%2Ftls");
    }
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3).
pub fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            let _ = write!(into, "%{byte:02X}"); // a String takes everything
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::testing::key;

    #[test]
    fn paths() {
        for (path, expected) in [
            (page(Kind::Service, "v1", None), "/api/v1/services?limit=250"),
            (
                page(Kind::Secret, "v1", Some("a+/=")),
                "/api/v1/secrets?limit=250&fieldSelector=type%3Dkubernetes.io%2Ftls&continue=a%2B%2F%3D",
            ),
            (
                stream(Kind::ReferenceGrant, "v1beta1"),
                "/apis/gateway.networking.k8s.io/v1beta1/referencegrants?watch=true&allowWatchBookmarks=true&\
                 timeoutSeconds=120&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            ),
            (
                watch_from(Kind::EndpointSlice, "v1", "12"),
                "/apis/discovery.k8s.io/v1/endpointslices?watch=true&allowWatchBookmarks=true&timeoutSeconds=120&\
                 resourceVersion=12",
            ),
            (
                object(&key(Kind::Ingress, "n", "i")),
                "/apis/networking.k8s.io/v1/namespaces/n/ingresses/i",
            ),
            (
                object(&key(Kind::GatewayClass, "", "c")),
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses/c",
            ),
            (
                resources(Kind::Gateway, "v1"),
                "/apis/gateway.networking.k8s.io/v1",
            ),
            (resources(Kind::Service, "v1"), "/api/v1"),
        ] {
            assert_eq!(path, expected);
        }
    }
}
