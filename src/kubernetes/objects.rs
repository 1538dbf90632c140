//! Objects: the Kubernetes kinds that are read, as own types with only the fields that are read.
//!
//! Unknown fields are ignored, because the API server owns the schema. What is read is parsed here:
//! a port is a number from 1 to 65535, an address is an address, a time is seconds since 1970.

mod core;
mod discovery;
mod gateway_api;
mod meta;
mod networking;
mod policy;
mod scalar;
mod secret;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

pub use self::core::{ConfigMap, CustomResourceDefinition, Namespace, Service, ServicePort};
pub use discovery::{EndpointSlice, SERVICE_LABEL, SLICE_MANAGED_BY, SLICE_MANAGER, SliceEndpoint};
pub use gateway_api::{
    BackendRef, ClientValidation, CorsSpec, FrontendTls, Gateway, GatewayClass, GatewayListener,
    GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, HeaderModifier, HeaderValuePair, HttpRoute,
    HttpRouteFilter, HttpRouteMatch, HttpRouteRule, Infrastructure, LabelSelector, ListenerSet,
    ParametersRef, ParentRef, PathModifier, ReferenceGrant, RequestMirror, RequestRedirect, RouteGroupKind,
    RouteNamespaces, RouteRetry, RouteTimeouts, SecretRef, StreamRoute, TcpRoute, TlsRoute, TypedMatch,
    UdpRoute, UrlRewrite,
};
pub use meta::{MANAGED_BY, MANAGER, Meta, is_object_name};
pub use networking::{Ingress, IngressBackend, IngressClass, IngressPath};
pub use policy::{AltName, BackendTlsPolicy, BackendTlsValidation, ObjectRef};
pub use scalar::{PortNumber, PortRef, format_time, parse_duration};
pub use secret::Secret;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal in $group:literal [$($version:literal),+], $namespaced:literal;)*) => {
        /// The kinds that are read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        /// One object, with only what is read of it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $($(#[$doc])* $kind(Arc<$kind>),)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The name of the kind, as in a manifest.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The API group; empty for the core.
            pub const fn group(self) -> &'static str {
                match self { $(Self::$kind => $group,)* }
            }

            /// The versions of the group that are read.
            pub const fn versions(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($version),+],)* }
            }

            /// Whether its objects live in a namespace.
            pub const fn is_namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)* }
            }
        }

        impl Object {
            /// Reads an object of a kind. `apiVersion` and `kind` of the input are not looked at.
            pub fn decode<'de, D: Deserializer<'de>>(kind: Kind, input: D) -> Result<Self, D::Error> {
                match kind {
                    $(Kind::$kind => {
                        let mut object = $kind::deserialize(input)?;
                        object.metadata.prune(kind);
                        // A list that grew while it was read has room for more, four times over if it has one item. Its
                        // clone has not: half of the memory of ten thousand routes.
                        Ok(Self::$kind(Arc::new(object.clone())))
                    })*
                }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Its metadata.
            pub(super) fn metadata(&self) -> &Meta {
                match self { $(Self::$kind(object) => &object.metadata,)* }
            }
        }
    };
}

kinds! {
    /// `v1 Service`.
    Service = "Service" in "" ["v1"], true;
    /// `v1 Namespace`; its labels.
    Namespace = "Namespace" in "" ["v1"], false;
    /// `v1 Secret`; its certificate, and nothing else of its data.
    Secret = "Secret" in "" ["v1"], true;
    /// `v1 ConfigMap`; root certificates in it.
    ConfigMap = "ConfigMap" in "" ["v1"], true;
    /// `apiextensions.k8s.io/v1 CustomResourceDefinition`; its annotations.
    CustomResourceDefinition = "CustomResourceDefinition" in "apiextensions.k8s.io" ["v1"], false;
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice = "EndpointSlice" in "discovery.k8s.io" ["v1"], true;
    /// `networking.k8s.io/v1 Ingress`.
    Ingress = "Ingress" in "networking.k8s.io" ["v1"], true;
    /// `networking.k8s.io/v1 IngressClass`.
    IngressClass = "IngressClass" in "networking.k8s.io" ["v1"], false;
    /// `gateway.networking.k8s.io/v1 GatewayClass`.
    GatewayClass = "GatewayClass" in "gateway.networking.k8s.io" ["v1", "v1beta1"], false;
    /// `gateway.networking.k8s.io/v1 Gateway`.
    Gateway = "Gateway" in "gateway.networking.k8s.io" ["v1", "v1beta1"], true;
    /// `gateway.networking.k8s.io/v1 ListenerSet`.
    ListenerSet = "ListenerSet" in "gateway.networking.k8s.io" ["v1"], true;
    /// `gateway.networking.k8s.io/v1 HTTPRoute`.
    HttpRoute = "HTTPRoute" in "gateway.networking.k8s.io" ["v1", "v1beta1"], true;
    /// `gateway.networking.k8s.io/v1 GRPCRoute`.
    GrpcRoute = "GRPCRoute" in "gateway.networking.k8s.io" ["v1"], true;
    /// `gateway.networking.k8s.io/v1 TLSRoute`.
    TlsRoute = "TLSRoute" in "gateway.networking.k8s.io" ["v1"], true;
    /// `gateway.networking.k8s.io/v1 TCPRoute`.
    TcpRoute = "TCPRoute" in "gateway.networking.k8s.io" ["v1"], true;
    /// `gateway.networking.k8s.io/v1 UDPRoute`.
    UdpRoute = "UDPRoute" in "gateway.networking.k8s.io" ["v1"], true;
    /// `gateway.networking.k8s.io/v1 BackendTLSPolicy`.
    BackendTlsPolicy = "BackendTLSPolicy" in "gateway.networking.k8s.io" ["v1"], true;
    /// `gateway.networking.k8s.io/v1 ReferenceGrant`.
    ReferenceGrant = "ReferenceGrant" in "gateway.networking.k8s.io" ["v1", "v1beta1"], true;
}

impl Kind {
    /// The routes of the Gateway API.
    pub const ROUTES: &'static [Self] = &[
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::UdpRoute,
    ];

    /// The kind that a manifest names, if it is one that is read.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::ALL.iter().copied().find(|known| {
            known.name() == kind && known.group() == group && known.versions().contains(&version)
        })
    }
}

impl Object {
    /// Which object it is.
    pub fn key(&self) -> Key {
        let meta = self.metadata();
        Key {
            kind: self.kind(),
            id: Id {
                namespace: Arc::clone(&meta.namespace),
                name: Arc::clone(&meta.name),
            },
        }
    }
}

/// A namespace and a name; the namespace of a cluster-wide object is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Id {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            formatter.write_str(&self.name)
        } else {
            write!(formatter, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Which object: kind, namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub id: Id,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind.name(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_group_version_and_name() {
        for (api_version, kind, expected) in [
            ("v1", "Service", Some(Kind::Service)),
            ("discovery.k8s.io/v1", "EndpointSlice", Some(Kind::EndpointSlice)),
            ("discovery.k8s.io/v1beta1", "EndpointSlice", None),
            ("gateway.networking.k8s.io/v1", "HTTPRoute", Some(Kind::HttpRoute)),
            (
                "gateway.networking.k8s.io/v1beta1",
                "ReferenceGrant",
                Some(Kind::ReferenceGrant),
            ),
            ("networking.k8s.io/v1", "HTTPRoute", None),
            ("apps/v1", "Deployment", None),
            ("", "", None),
        ] {
            assert_eq!(Kind::of(api_version, kind), expected, "{api_version} {kind}");
        }
    }

    #[test]
    fn null_and_missing_are_the_same() {
        let yaml = "metadata: {name: a, creationTimestamp: null, labels: null}\nspec: null";
        let object =
            serde_saphyr::with_deserializer_from_str(yaml, |input| Object::decode(Kind::HttpRoute, input))
                .unwrap();
        assert_eq!(object.key().to_string(), "HTTPRoute default/a");
        let yaml = "metadata: {name: s, namespace: x}\nendpoints: null\nports: null\naddressType: IPv4";
        let object = serde_saphyr::with_deserializer_from_str(yaml, |input| {
            Object::decode(Kind::EndpointSlice, input)
        })
        .unwrap();
        assert_eq!(object.key().to_string(), "EndpointSlice x/s");
    }

    #[test]
    fn a_name_that_the_api_server_would_refuse_is_refused() {
        for bad in ["", "a/b", "A", "a:80", "-a", "a b"] {
            let yaml = format!("metadata: {{name: '{bad}'}}");
            assert!(
                serde_saphyr::with_deserializer_from_str(&yaml, |input| Object::decode(Kind::Service, input))
                    .is_err(),
                "{bad:?}"
            );
        }
    }
}
