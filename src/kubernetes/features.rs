//! What is supported of the Gateway API, by the names that its conformance tests give (`pkg/features` there).
//!
//! A name stands here when the tests that belong to it pass (tests/cluster/reports), and not before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::front::{FrontKind, GatewayServices};
use super::gateway::GROUP;
use super::index::Store;
use super::objects::{Key, Kind, Object};

/// The names, sorted, as a GatewayClass is told.
pub const FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// The names of what sidecars do, sorted. A GatewayClass is told none of them: the tests take them from elsewhere.
#[cfg(test)]
const MESH_FEATURES: &[&str] = &[
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// Those whose fields only the experimental channel has. (TLSRouteModeMixed is experimental too, and has no fields.)
const EXPERIMENTAL: &[&str] = &[
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
];

/// Whether a feature is there as Gateways are given addresses.
fn is_given(feature: &str, services: Option<&GatewayServices>) -> bool {
    match feature {
        // Where nothing is made for a Gateway, labels can be put on nothing.
        "GatewayInfrastructure" => services.is_some(),
        "GatewayStaticAddresses" => services.is_none_or(|services| services.kind == FrontKind::LoadBalancer),
        _ => true,
    }
}

/// The last minor version of 1 that is known.
const NEWEST: u32 = 6;

/// What the cluster has of the Gateway API, by the definitions of its kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The definitions by their plural, and whether they are of the experimental channel.
    channels: BTreeMap<Arc<str>, bool>,
    /// Why a definition is not one that is known.
    pub unknown: Option<String>,
}

impl Installed {
    /// As the definitions say.
    pub fn of(store: &Store) -> Self {
        let mut installed = Self::default();
        for (key, object) in store.of_kind(Kind::CustomResourceDefinition) {
            let Object::CustomResourceDefinition(definition) = object else {
                continue;
            };
            let annotation = |name: &str| definition.metadata.annotation(&format!("{GROUP}/{name}"));
            let version = annotation("bundle-version");
            if !version.is_some_and(is_known) {
                let version = version.unwrap_or("no version");
                let reason = format!("{} is of {version}; v1.0 to v1.{NEWEST} are known", key.id.name);
                installed.unknown.get_or_insert(reason);
            }
            let plural = key.id.name.split('.').next().unwrap_or_default();
            let is_experimental = annotation("channel") == Some("experimental");
            installed.channels.insert(plural.into(), is_experimental);
        }
        installed
    }

    /// Whether no definition is known, as in a directory of manifests.
    pub fn is_unknown(&self) -> bool {
        self.channels.is_empty()
    }

    /// The features that can be used with what is there, as Gateways are given addresses.
    pub fn features(&self, services: Option<&GatewayServices>) -> Vec<&'static str> {
        let is_usable = |name: &&&str| match self.channels.get(definition(name)) {
            Some(is_experimental) => *is_experimental || !EXPERIMENTAL.contains(*name),
            None => self.channels.is_empty(),
        };
        let usable = FEATURES.iter().filter(is_usable);
        usable.filter(|name| is_given(name, services)).copied().collect()
    }
}

/// Whether an object is the definition of a kind that is none of the Gateway API's.
pub fn is_of_others(key: &Key) -> bool {
    let ours = || {
        key.id
            .name
            .strip_suffix(GROUP)
            .is_some_and(|rest| rest.ends_with('.'))
    };
    key.kind == Kind::CustomResourceDefinition && !ours()
}

fn is_known(version: &str) -> bool {
    let mut parts = version.strip_prefix('v').unwrap_or_default().split('.');
    let minor = (parts.next() == Some("1")).then(|| parts.next()).flatten();
    minor
        .and_then(|minor| minor.parse().ok())
        .is_some_and(|minor: u32| minor <= NEWEST)
}

/// The plural of the kind whose definition a feature needs.
fn definition(feature: &str) -> &'static str {
    let kinds = [
        ("BackendTLSPolicy", "backendtlspolicies"),
        ("GRPCRoute", "grpcroutes"),
        ("HTTPRoute", "httproutes"),
        ("ListenerSet", "listenersets"),
        ("ReferenceGrant", "referencegrants"),
        ("TCPRoute", "tcproutes"),
        ("TLSRoute", "tlsroutes"),
        ("UDPRoute", "udproutes"),
    ];
    let found = kinds.into_iter().find(|(prefix, _)| feature.starts_with(prefix));
    found.map_or("gateways", |(_, plural)| plural)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Id;
    use crate::kubernetes::front::ports::PortRange;
    use crate::kubernetes::testing::Fixture;

    fn definition(plural: &str, version: &str, channel: &str) -> String {
        format!(
            "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: {plural}\n  \
             annotations: {{gateway.networking.k8s.io/bundle-version: {version}, gateway.networking.k8s.io/channel: {channel}}}\n"
        )
    }

    #[test]
    fn what_is_installed_says_what_can_be_used() {
        let of = |yaml: &str| Installed::of(Fixture::new(yaml).index.outcome().store);
        let services = |kind| GatewayServices {
            kind,
            ports: PortRange::DEFAULT,
            own: Id::new("edge", "tidegate"),
        };
        let balanced = services(FrontKind::LoadBalancer);
        let all = of("").features(Some(&balanced));
        assert_eq!(all, FEATURES, "nothing is known of it");
        let without = |given: Option<&GatewayServices>| -> Vec<&str> {
            let given = of("").features(given);
            FEATURES
                .iter()
                .filter(|name| !given.contains(name))
                .copied()
                .collect()
        };
        assert_eq!(without(None), ["GatewayInfrastructure"]);
        let inside = services(FrontKind::ClusterIp);
        assert_eq!(without(Some(&inside)), ["GatewayStaticAddresses"]);
        let http = |version, channel| definition("httproutes.gateway.networking.k8s.io", version, channel);
        let others = definition("things.example.com", "v9.9.9", "standard");
        let standard = of(&(http("v1.5.1", "standard") + &others));
        assert_eq!(standard.unknown, None);
        assert!(standard.features(None).contains(&"HTTPRouteCORS"));
        assert!(!standard.features(None).contains(&"HTTPRouteRetry"));
        assert!(!standard.features(None).contains(&"GRPCRoute"));
        let experimental = of(&http("v1.6.3", "experimental"));
        assert!(experimental.features(None).contains(&"HTTPRouteRetry"));
        for (version, is_known) in [
            ("v1.6.0", true),
            ("v1.0.0", true),
            ("v1.7.0", false),
            ("v0.8.0", false),
            ("x", false),
        ] {
            let unknown = of(&http(version, "standard")).unknown;
            assert_eq!(unknown.is_none(), is_known, "{version}: {unknown:?}");
        }
    }

    #[test]
    fn the_names_are_sorted_and_the_documents_have_them() {
        assert!(FEATURES.is_sorted() && MESH_FEATURES.is_sorted());
        let page = include_str!("../../docs/gateway-api.md");
        for name in FEATURES.iter().chain(MESH_FEATURES) {
            assert!(page.contains(&format!("| `{name}` | yes |")), "{name}");
        }
        for line in page.lines().filter(|line| line.contains("` | yes |")) {
            let name = line.split('`').nth(1).unwrap_or_default();
            assert!(
                FEATURES.contains(&name) || MESH_FEATURES.contains(&name),
                "{name}"
            );
        }
    }
}
