//! `gateway.networking.k8s.io`: GatewayClass, Gateway, the kinds of routes, ReferenceGrant.
//!
//! Fields that later versions of the API may give more values (types of filters, matches, listeners)
//! stay text here, so that a new value harms its rule and not the whole object.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::scalar::or_default;
use super::{Meta, ObjectRef, PortNumber};

/// `GatewayClass`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct GatewayClass {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: GatewayClassSpec,
}

/// What is read of a GatewayClass's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassSpec {
    pub controller_name: Option<Box<str>>,
    pub parameters_ref: Option<ParametersRef>,
}

/// A reference to an object with parameters of somebody's own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ParametersRef {
    #[serde(deserialize_with = "or_default")]
    pub group: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub kind: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub name: Box<str>,
}

/// `Gateway`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Gateway {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: GatewaySpec,
    #[serde(default, deserialize_with = "or_default")]
    pub status: GatewayStatus,
}

/// What is read of a Gateway's `status`: what was said before a restart.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GatewayStatus {
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<GatewayAddress>,
}

/// Statuses are written by us: a Gateway with another one is the same Gateway.
impl PartialEq for GatewayStatus {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What is read of a Gateway's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    #[serde(deserialize_with = "or_default")]
    pub gateway_class_name: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<GatewayAddress>,
    #[serde(deserialize_with = "or_default")]
    pub listeners: Vec<GatewayListener>,
    /// Not said: no ListenerSet may attach.
    pub allowed_listeners: Option<AllowedListeners>,
    #[serde(deserialize_with = "or_default")]
    pub tls: GatewayTlsSpec,
    #[serde(deserialize_with = "or_default")]
    pub infrastructure: Infrastructure,
}

/// What is put on the objects that are made for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Infrastructure {
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    pub parameters_ref: Option<ParametersRef>,
}

/// Which ListenerSets may attach to a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedListeners {
    pub namespaces: Option<RouteNamespaces>,
}

/// The TLS of a Gateway as a whole.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayTlsSpec {
    #[serde(deserialize_with = "or_default")]
    pub frontend: FrontendTls,
    #[serde(deserialize_with = "or_default")]
    pub backend: GatewayBackendTls,
}

/// How a Gateway shows endpoints who it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayBackendTls {
    /// A Secret, with what is shown to endpoints that ask.
    pub client_certificate_ref: Option<SecretRef>,
}

/// How clients of HTTPS listeners identify themselves: of all, or of those with a port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FrontendTls {
    #[serde(deserialize_with = "or_default")]
    pub default: FrontendValidation,
    #[serde(deserialize_with = "or_default")]
    pub per_port: Vec<FrontendPort>,
}

/// How clients of the listeners with a port identify themselves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FrontendPort {
    pub port: PortNumber,
    #[serde(default, deserialize_with = "or_default")]
    pub tls: FrontendValidation,
}

/// How clients identify themselves, if they do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FrontendValidation {
    pub validation: Option<ClientValidation>,
}

/// Whose certificates are taken.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClientValidation {
    #[serde(rename = "caCertificateRefs", deserialize_with = "or_default")]
    pub ca_certificate_refs: Vec<ObjectRef>,
    /// `AllowValidOnly` when not said, or `AllowInsecureFallback`.
    pub mode: Option<Box<str>>,
}

/// `ListenerSet`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ListenerSet {
    pub metadata: Meta,
    pub spec: ListenerSetSpec,
}

/// What is read of a ListenerSet's `spec`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetSpec {
    pub parent_ref: ParentRef,
    #[serde(default, deserialize_with = "or_default")]
    pub listeners: Vec<GatewayListener>,
}

/// An address that a Gateway asks for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GatewayAddress {
    /// `IPAddress` when not said.
    pub r#type: Option<Box<str>>,
    /// Empty: any, ours to choose.
    #[serde(deserialize_with = "or_default")]
    pub value: Box<str>,
}

/// A listener of a Gateway.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayListener {
    pub name: Arc<str>,
    #[serde(default)]
    pub hostname: Option<Arc<str>>,
    pub port: PortNumber,
    pub protocol: Box<str>,
    #[serde(default)]
    pub tls: Option<GatewayTls>,
    #[serde(default, deserialize_with = "or_default")]
    pub allowed_routes: AllowedRoutes,
}

/// The TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTls {
    /// `Terminate` when not said.
    pub mode: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub certificate_refs: Vec<SecretRef>,
}

/// A reference to a Secret.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SecretRef {
    #[serde(default)]
    pub group: Option<Box<str>>,
    #[serde(default)]
    pub kind: Option<Box<str>>,
    pub name: Arc<str>,
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    pub namespaces: Option<RouteNamespaces>,
    #[serde(deserialize_with = "or_default")]
    pub kinds: Vec<RouteGroupKind>,
}

/// From which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// `Same` when not said, `All` or `Selector`.
    pub from: Option<Box<str>>,
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteGroupKind {
    pub group: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub kind: Box<str>,
}

/// A condition on labels; everything in it must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(deserialize_with = "or_default")]
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub match_expressions: Vec<LabelExpression>,
}

/// A condition on one label.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct LabelExpression {
    #[serde(deserialize_with = "or_default")]
    pub key: Arc<str>,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(deserialize_with = "or_default")]
    pub operator: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<Arc<str>>,
}

/// `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HttpRoute {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: HttpRouteSpec,
}

/// What is read of an HTTPRoute's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    #[serde(deserialize_with = "or_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "or_default")]
    pub hostnames: Vec<Arc<str>>,
    /// Not said: one rule that matches everything and goes nowhere (as the API server fills in).
    pub rules: Option<Vec<HttpRouteRule>>,
}

/// `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct GrpcRoute {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: GrpcRouteSpec,
}

/// What is read of a GRPCRoute's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    #[serde(deserialize_with = "or_default")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "or_default")]
    pub hostnames: Vec<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<GrpcRouteRule>,
}

/// A rule of a GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GrpcRouteRule {
    pub name: Option<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub matches: Vec<GrpcRouteMatch>,
    #[serde(deserialize_with = "or_default")]
    pub filters: Vec<HttpRouteFilter>,
    #[serde(deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
}

/// A match of a GRPCRoute's rule; everything in it must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcRouteMatch {
    pub method: Option<GrpcMethodMatch>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<TypedMatch>,
}

/// A condition on service and method.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcMethodMatch {
    /// `Exact` when not said, or `RegularExpression`.
    pub r#type: Option<Box<str>>,
    /// Not said: every one.
    pub service: Option<Box<str>>,
    /// Not said: every one.
    pub method: Option<Box<str>>,
}

/// `TLSRoute`.
pub type TlsRoute = StreamRoute;

/// `TCPRoute`.
pub type TcpRoute = StreamRoute;

/// `UDPRoute`.
pub type UdpRoute = StreamRoute;

/// A route for what is not read: a TLSRoute, TCPRoute or UDPRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct StreamRoute {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: StreamRouteSpec,
}

/// What is read of its `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StreamRouteSpec {
    #[serde(deserialize_with = "or_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Names that clients ask for in their TLS handshake; of a TLSRoute alone.
    #[serde(deserialize_with = "or_default")]
    pub hostnames: Vec<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<StreamRouteRule>,
}

/// A rule: there is nothing to match, so the first is for everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StreamRouteRule {
    pub name: Option<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
}

/// What a route wants to attach to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(default)]
    pub group: Option<Box<str>>,
    #[serde(default)]
    pub kind: Option<Box<str>>,
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    #[serde(default)]
    pub section_name: Option<Arc<str>>,
    #[serde(default)]
    pub port: Option<PortNumber>,
}

/// A rule of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteRule {
    pub name: Option<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub matches: Vec<HttpRouteMatch>,
    #[serde(deserialize_with = "or_default")]
    pub filters: Vec<HttpRouteFilter>,
    #[serde(deserialize_with = "or_default")]
    pub backend_refs: Vec<BackendRef>,
    pub timeouts: Option<RouteTimeouts>,
    pub retry: Option<RouteRetry>,
}

/// A match of a rule; everything in it must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteMatch {
    pub path: Option<PathMatchSpec>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<TypedMatch>,
    #[serde(deserialize_with = "or_default")]
    pub query_params: Vec<TypedMatch>,
    pub method: Option<Box<str>>,
}

/// A condition on the path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathMatchSpec {
    /// `PathPrefix` when not said, `Exact` or `RegularExpression`.
    pub r#type: Option<Box<str>>,
    /// `/` when not said.
    pub value: Option<Box<str>>,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TypedMatch {
    /// `Exact` when not said, or `RegularExpression`.
    pub r#type: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub name: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub value: Arc<str>,
}

/// A filter; `type` says which of the others is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteFilter {
    #[serde(deserialize_with = "or_default")]
    pub r#type: Box<str>,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_mirror: Option<RequestMirror>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewrite>,
    pub cors: Option<CorsSpec>,
}

/// What scripts of other origins may do; `*` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsSpec {
    #[serde(deserialize_with = "or_default")]
    pub allow_origins: Vec<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub allow_credentials: bool,
    #[serde(deserialize_with = "or_default")]
    pub allow_methods: Vec<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub allow_headers: Vec<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    pub expose_headers: Vec<Box<str>>,
    /// In seconds; 5 when not said.
    pub max_age: Option<i64>,
}

/// Edits of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    #[serde(deserialize_with = "or_default")]
    pub set: Vec<HeaderValuePair>,
    #[serde(deserialize_with = "or_default")]
    pub add: Vec<HeaderValuePair>,
    #[serde(deserialize_with = "or_default")]
    pub remove: Vec<Box<str>>,
}

/// A header and its value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderValuePair {
    #[serde(deserialize_with = "or_default")]
    pub name: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub value: Box<str>,
}

/// A copy of the request for another backend.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    pub backend_ref: BackendRef,
    #[serde(default)]
    pub percent: Option<i64>,
    #[serde(default)]
    pub fraction: Option<MirrorFraction>,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MirrorFraction {
    pub numerator: i64,
    /// 100 when not said.
    #[serde(default)]
    pub denominator: Option<i64>,
}

/// A redirection.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestRedirect {
    pub scheme: Option<Box<str>>,
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
    pub port: Option<PortNumber>,
    pub status_code: Option<i64>,
}

/// A rewrite of host and path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct UrlRewrite {
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathModifier>,
}

/// Another path; `type` says which of the others is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathModifier {
    #[serde(deserialize_with = "or_default")]
    pub r#type: Box<str>,
    pub replace_full_path: Option<Arc<str>>,
    pub replace_prefix_match: Option<Arc<str>>,
}

/// A reference to a backend.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BackendRef {
    /// Empty (the core) when not said.
    #[serde(default)]
    pub group: Option<Box<str>>,
    /// `Service` when not said.
    #[serde(default)]
    pub kind: Option<Box<str>>,
    #[serde(default)]
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    #[serde(default)]
    pub port: Option<PortNumber>,
    /// 1 when not said.
    #[serde(default)]
    pub weight: Option<i64>,
    #[serde(default, deserialize_with = "or_default")]
    pub filters: Vec<HttpRouteFilter>,
}

/// Deadlines, as GEP-2257 durations.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteTimeouts {
    pub request: Option<Box<str>>,
    pub backend_request: Option<Box<str>>,
}

/// Retries (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteRetry {
    #[serde(deserialize_with = "or_default")]
    pub codes: Vec<i64>,
    pub attempts: Option<i64>,
    pub backoff: Option<Box<str>>,
}

/// `ReferenceGrant`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ReferenceGrant {
    pub metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ReferenceGrantSpec,
}

/// What is read of a ReferenceGrant's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrantSpec {
    #[serde(deserialize_with = "or_default")]
    pub from: Vec<GrantFrom>,
    #[serde(deserialize_with = "or_default")]
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrantFrom {
    #[serde(deserialize_with = "or_default")]
    pub group: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub kind: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub namespace: Arc<str>,
}

/// To what.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrantTo {
    #[serde(deserialize_with = "or_default")]
    pub group: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub kind: Box<str>,
    /// Not said: all of them.
    pub name: Option<Arc<str>>,
}
