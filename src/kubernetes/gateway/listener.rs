//! One listener of a Gateway or ListenerSet: how routes see it, and what there is to bind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{AllowedNamespaces, GROUP, ListenerView};
use crate::kubernetes::index::{Complaint, Store};
use crate::kubernetes::objects::{
    ClientValidation, FrontendTls, GatewayListener, Id, Key, Kind, RouteGroupKind,
};
use crate::kubernetes::service::{Traffic, Way};
use crate::kubernetes::{certificates, trust};
use crate::model::tls::{ClientAuth, ClientAuthMode};
use crate::model::{
    HostPattern, Listener, ListenerKind, ListenerLimits, ListenerName, ListenerTls, ManagedName, Opening,
    Protocols, Transport,
};

/// Whose listeners are looked at, and what there is around them.
#[derive(Clone, Copy)]
pub(super) struct Owner<'all> {
    /// A Gateway or ListenerSet.
    pub key: &'all Key,
    /// The Gateway's id, if it shows endpoints a certificate.
    pub identity: Option<&'all Arc<Id>>,
    /// All of its listeners.
    pub listeners: &'all [GatewayListener],
    /// How clients of HTTPS listeners identify themselves.
    pub frontend: &'all FrontendTls,
    /// The Gateway, whose the above is.
    pub gateway: &'all Key,
    /// The addresses of the Gateway.
    pub addresses: &'all [IpAddr],
    /// Addresses that others have.
    pub owners: &'all BTreeMap<(SocketAddr, Transport), String>,
    /// Whether the Gateway as a whole is not served.
    pub is_refused: bool,
}

/// A listener that others may be in conflict with.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    /// Who has it.
    owner: String,
    port: u16,
    protocol: Box<str>,
    hostname: HostPattern,
}

/// What two listeners cannot have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conflict {
    /// The port, with what has to come first there.
    Protocol,
    /// Port and hostname.
    Hostname,
}

impl Claim {
    pub fn of(owner: &Key, spec: &GatewayListener) -> Option<Self> {
        Some(Self {
            owner: owner.to_string(),
            port: spec.port.0,
            protocol: spec.protocol.clone(),
            hostname: hostname(spec).ok()?,
        })
    }

    /// What this and another cannot have both. A hostname tells requests apart, and TLS by the name that clients ask for; what is
    /// not read cannot be told apart. A protocol that is not known is in nobody's way.
    fn conflict(&self, protocol: &str, port: u16, hostname: Option<&HostPattern>) -> Option<Conflict> {
        let opening = |protocol: &str| match protocol {
            "HTTP" => Some((Transport::Tcp, Opening::Http)),
            "HTTPS" | "TLS" => Some((Transport::Tcp, Opening::Tls)),
            "TCP" => Some((Transport::Tcp, Opening::Anything)),
            "UDP" => Some((Transport::Udp, Opening::Anything)),
            _ => None,
        };
        let (ours, theirs) = (opening(&self.protocol)?, opening(protocol)?);
        if self.port != port || ours.0 != theirs.0 {
            None
        } else if ours != theirs || ours.1 == Opening::Anything {
            Some(Conflict::Protocol)
        } else {
            (Some(&self.hostname) == hostname).then_some(Conflict::Hostname)
        }
    }
}

/// One listener of a Gateway or ListenerSet: how routes see it, and what there is to bind.
pub(super) fn listener(
    owner: Owner<'_>,
    at: usize,
    claims: &[Claim],
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> (ListenerView, Vec<(ListenerName, Arc<Listener>)>) {
    let spec = &owner.listeners[at];
    let addresses = owner.addresses;
    let field = format!("spec.listeners[{at}]");
    // A Gateway and a ListenerSet may have the same name.
    let id = match owner.key.kind {
        Kind::Gateway => owner.key.id.to_string(),
        kind => format!("{}/{}", kind.name(), owner.key.id),
    };
    let hostname = hostname(spec);
    let (namespaces, kinds) = allowed(spec, &field, complaints);
    let name = |nth: usize| match (nth, addresses.get(nth)) {
        (1.., Some(address)) => ListenerName::new(format!("{id}/{}/{address}", spec.name)),
        _ => ListenerName::new(format!("{id}/{}", spec.name)),
    };
    let mut view = ListenerView {
        section: Arc::clone(&spec.name),
        port: spec.port.0,
        hostname: hostname.clone().unwrap_or(HostPattern::Any),
        namespaces,
        kinds,
        way: Way {
            traffic: traffic(spec),
            identity: owner.identity.filter(|_| traffic(spec).may_have_tls()).cloned(),
        },
        names: (0..addresses.len().max(1)).map(name).collect(),
        refusal: None,
    };
    let served = served(owner, at, claims)
        .and_then(|hostname| Ok((hostname, tls(owner, spec, &field, store, complaints)?)));
    match served {
        Err(complaint) => {
            view.refusal = Some(complaint.reason.clone());
            complaints.push(Complaint::new(field + &complaint.field, complaint.reason));
            (view, Vec::new())
        }
        Ok((hostname, tls)) => {
            let named = view.names.iter().zip(addresses);
            let listeners = named.map(|(name, address)| {
                let kind = kind(spec);
                let listener = Listener {
                    name: name.clone(),
                    address: SocketAddr::new(*address, spec.port.0),
                    public_port: None,
                    hostname: hostname.clone(),
                    kind,
                    protocols: Protocols::default(),
                    tls: tls.clone(),
                    limits: ListenerLimits {
                        relay_idle: ListenerLimits::relay_idle_of(kind),
                        ..ListenerLimits::default()
                    },
                };
                (name.clone(), Arc::new(listener))
            });
            let listeners = listeners.collect();
            (view, listeners)
        }
    }
}

/// What is done with what clients send to a listener. Its protocol is one that is known.
fn kind(spec: &GatewayListener) -> ListenerKind {
    match &*spec.protocol {
        "TLS" => ListenerKind::Tls,
        "TCP" => ListenerKind::Tcp,
        "UDP" => ListenerKind::Udp,
        _ => ListenerKind::Http,
    }
}

fn traffic(spec: &GatewayListener) -> Traffic {
    match kind(spec) {
        ListenerKind::Http | ListenerKind::Redirected(_) | ListenerKind::Destination => Traffic::Requests,
        ListenerKind::Tls if passes_tls(spec) => Traffic::Tls,
        ListenerKind::Tls | ListenerKind::Tcp => Traffic::Bytes,
        ListenerKind::Udp => Traffic::Datagrams,
    }
}

/// Whether TLS is passed on unopened.
fn passes_tls(spec: &GatewayListener) -> bool {
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_deref());
    &*spec.protocol == "TLS" && mode == Some("Passthrough")
}

/// The TLS of a listener: none in clear text, or where it is passed on. Certificates that cannot be had are complained about; without any, the
/// listener is not served.
fn tls(
    owner: Owner<'_>,
    spec: &GatewayListener,
    field: &str,
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> Result<Option<Arc<ListenerTls>>, Complaint> {
    let is_https = match &*spec.protocol {
        "HTTPS" => true,
        "TLS" if !passes_tls(spec) => false,
        _ => return Ok(None),
    };
    let none = || {
        let reason = format!("InvalidCertificateRef: {} needs certificateRefs", spec.protocol);
        Complaint::new(".tls", reason)
    };
    let by_acme = is_by_acme(owner.key, store);
    let tls = spec.tls.as_ref().ok_or_else(none)?;
    match tls.mode.as_deref() {
        None | Some("Terminate") => {}
        Some(other) => {
            let modes = match is_https {
                true => "Terminate is what HTTPS has",
                false => "there are Passthrough and Terminate",
            };
            return Err(Complaint::new(
                ".tls.mode",
                format!("UnsupportedValue: {other:?}; {modes}"),
            ));
        }
    }
    let mut certificates = Vec::new();
    let mut last = none();
    for (at, wanted) in tls.certificate_refs.iter().enumerate() {
        match certificates::of_listener(owner.key, wanted, store) {
            Ok(certificate) => certificates.push(certificate),
            // One is got in its place.
            Err(_) if by_acme => {}
            Err(complaint) => {
                let below = format!(".tls.certificateRefs[{at}]{}", complaint.field);
                let complaint = Complaint::new(below, complaint.reason);
                complaints.push(Complaint::new(
                    format!("{field}{}", complaint.field),
                    complaint.reason.clone(),
                ));
                last = Complaint::new("", "it has no certificate, and is not served");
            }
        }
    }
    let managed = match by_acme && certificates.is_empty() {
        true => vec![managed(spec)?],
        false => Vec::new(),
    };
    let mut tls = ListenerTls::managing(certificates, managed).ok_or(last)?;
    // What a Gateway says of clients' certificates is for HTTPS alone.
    if let Some(validation) = validation(owner.frontend, spec.port.0).filter(|_| is_https) {
        tls.client_auth = Some(Arc::new(client_auth(
            owner, validation, field, store, complaints,
        )?));
    }
    Ok(Some(Arc::new(tls)))
}

/// Whether listeners of a Gateway or ListenerSet get certificates by ACME where they refer to none that can be used.
fn is_by_acme(owner: &Key, store: &Store) -> bool {
    let object = store.get(owner);
    object.is_some_and(|object| object.metadata().annotation(certificates::ACME) == Some("true"))
}

/// The name that a listener's certificate is got for.
fn managed(spec: &GatewayListener) -> Result<ManagedName, Complaint> {
    let refused = |why: String| Complaint::new(".hostname", format!("InvalidCertificateRef: {why}"));
    match spec.hostname.as_deref() {
        None | Some("") => Err(refused(format!(
            "{} gets a certificate for a hostname, and there is none",
            certificates::ACME
        ))),
        Some(name) => ManagedName::parse(name).map_err(|error| refused(error.to_string())),
    }
}

/// How clients of a port identify themselves, if they do.
fn validation(frontend: &FrontendTls, port: u16) -> Option<&ClientValidation> {
    let own = frontend.per_port.iter().find(|own| own.port.0 == port);
    own.map_or(&frontend.default, |own| &own.tls).validation.as_ref()
}

/// Whether clients may come without a good certificate.
pub(super) fn is_insecure(frontend: &FrontendTls) -> bool {
    let all = frontend
        .per_port
        .iter()
        .map(|own| &own.tls)
        .chain([&frontend.default]);
    all.filter_map(|tls| tls.validation.as_ref())
        .any(|validation| validation.mode.as_deref() == Some(INSECURE))
}

/// The mode in which a client may come with any certificate or none.
const INSECURE: &str = "AllowInsecureFallback";

fn client_auth(
    owner: Owner<'_>,
    spec: &ClientValidation,
    field: &str,
    store: &Store,
    complaints: &mut Vec<Complaint>,
) -> Result<ClientAuth, Complaint> {
    let mode = match spec.mode.as_deref() {
        None | Some("AllowValidOnly") => ClientAuthMode::Required,
        Some(INSECURE) => ClientAuthMode::Unverified,
        Some(other) => {
            return Err(Complaint::new(
                ".tls",
                format!("UnsupportedValue: mode {other:?} of the Gateway's frontend is not known"),
            ));
        }
    };
    let gathered = trust::gather(
        owner.gateway,
        &spec.ca_certificate_refs,
        "InvalidCACertificateKind",
        store,
    );
    for (at, complaint) in gathered.complaints {
        let (reason, message) = complaint
            .condition()
            .unwrap_or(("InvalidCACertificateRef", &complaint.reason));
        let message = format!("{reason}: the Gateway's tls.frontend, caCertificateRefs[{at}]: {message}");
        complaints.push(Complaint::new(format!("{field}.tls"), message));
    }
    let none = || {
        Complaint::new(
            ".tls",
            "NoValidCACertificate: no root certificate for clients is left",
        )
    };
    let bundle = gathered.bundle.ok_or_else(none)?;
    ClientAuth::new(mode, bundle, Vec::new(), Vec::new())
        .map_err(|error| Complaint::new(".tls", format!("NoValidCACertificate: {error}")))
}

/// The hostname of a listener that can be served, or why it cannot; the complaint's field is below the listener's.
fn served(owner: Owner<'_>, at: usize, claims: &[Claim]) -> Result<HostPattern, Complaint> {
    let fail = |field: &str, reason: String| Err(Complaint::new(field, reason));
    if owner.is_refused {
        return fail("", "the Gateway is not accepted, so it is not served".to_owned());
    }
    let spec = &owner.listeners[at];
    if !crate::kubernetes::objects::is_object_name(&spec.name) {
        return fail(
            ".name",
            format!(
                "{:?} is no name: lower-case letters, digits, '-' and '.'",
                spec.name
            ),
        );
    }
    let hostname = hostname(spec);
    if owner.key.kind != Kind::Gateway {
        for claim in claims {
            let owner = &claim.owner;
            match claim.conflict(&spec.protocol, spec.port.0, hostname.as_ref().ok()) {
                Some(Conflict::Protocol) => {
                    let reason = format!(
                        "ProtocolConflict: {owner} has the same port with {}",
                        claim.protocol
                    );
                    return fail(".protocol", reason);
                }
                Some(Conflict::Hostname) => {
                    let reason = format!("HostnameConflict: {owner} has the same port and hostname");
                    return fail(".hostname", reason);
                }
                None => {}
            }
        }
    }
    match &*spec.protocol {
        "HTTP" | "HTTPS" | "TLS" | "TCP" | "UDP" => {}
        other => {
            return fail(
                ".protocol",
                format!("UnsupportedProtocol: {other:?} is not known; HTTP, HTTPS, TLS, TCP and UDP are"),
            );
        }
    }
    let hostname = hostname.map_err(|reason| Complaint::new(".hostname", reason))?;
    for (other_at, other) in owner.listeners.iter().enumerate() {
        if other_at == at {
            continue;
        }
        if other.name == spec.name {
            return fail(
                ".name",
                format!("listeners[{other_at}] has the name {:?} too", spec.name),
            );
        }
        // Of a Gateway's own listeners none goes before; of a ListenerSet's the first does, see above.
        let other_claim = Claim::of(owner.key, other).filter(|_| owner.key.kind == Kind::Gateway);
        match other_claim.and_then(|claim| claim.conflict(&spec.protocol, spec.port.0, Some(&hostname))) {
            Some(Conflict::Hostname) => {
                return fail(
                    ".hostname",
                    format!(
                        "HostnameConflict: listener {:?} has the same port and hostname; neither is served",
                        other.name
                    ),
                );
            }
            Some(Conflict::Protocol) => {
                return fail(
                    ".protocol",
                    format!(
                        "ProtocolConflict: listener {:?} has the same port with {}",
                        other.name, other.protocol
                    ),
                );
            }
            None => {}
        }
    }
    if owner.addresses.is_empty() {
        return fail(
            "",
            "AddressNotUsable: the Gateway has no address that can be bound".to_owned(),
        );
    }
    for address in owner.addresses {
        let address = SocketAddr::new(*address, spec.port.0);
        if let Some(owner) = owner.owners.get(&(address, kind(spec).transport())) {
            return fail(
                ".port",
                format!(
                    "PortUnavailable: {address} is taken by {owner}; give this Gateway an address of its own in \
                     spec.addresses"
                ),
            );
        }
    }
    Ok(hostname)
}

fn hostname(spec: &GatewayListener) -> Result<HostPattern, String> {
    match spec.hostname.as_deref() {
        // It means nothing where nobody reads a name.
        _ if matches!(&*spec.protocol, "TCP" | "UDP") => Ok(HostPattern::Any),
        None | Some("") => Ok(HostPattern::Any),
        Some(text) => HostPattern::parse(text).map_err(|error| format!("UnsupportedValue: {error}")),
    }
}

/// From where routes may come, and of which kinds.
fn allowed(
    spec: &GatewayListener,
    field: &str,
    complaints: &mut Vec<Complaint>,
) -> (AllowedNamespaces, Vec<Kind>) {
    let namespaces = match AllowedNamespaces::read(spec.allowed_routes.namespaces.as_ref(), "Same") {
        Ok(namespaces) => namespaces,
        Err((below, reason)) => {
            complaints.push(Complaint::new(
                format!("{field}.allowedRoutes.namespaces{below}"),
                format!("{reason}; no route may attach"),
            ));
            AllowedNamespaces::None
        }
    };
    (namespaces, kinds(spec, field, complaints))
}

/// The kinds of routes that may attach: those that the protocol can carry, or of them those that are asked for.
fn kinds(spec: &GatewayListener, field: &str, complaints: &mut Vec<Complaint>) -> Vec<Kind> {
    let carried: &[Kind] = match &*spec.protocol {
        "HTTP" | "HTTPS" => &[Kind::HttpRoute, Kind::GrpcRoute],
        "TLS" => &[Kind::TlsRoute],
        "TCP" => &[Kind::TcpRoute],
        "UDP" => &[Kind::UdpRoute],
        _ => &[],
    };
    let asked = &spec.allowed_routes.kinds;
    if asked.is_empty() {
        return carried.to_vec();
    }
    let is_meant = |kind: &Kind, asked: &RouteGroupKind| {
        asked.group.as_deref().unwrap_or(GROUP) == kind.group() && *asked.kind == *kind.name()
    };
    let unknown: BTreeSet<&str> = asked
        .iter()
        .filter(|asked| !carried.iter().any(|kind| is_meant(kind, asked)))
        .map(|asked| &*asked.kind)
        .collect();
    if !unknown.is_empty() {
        let unknown: Vec<_> = unknown.into_iter().collect();
        let carried: Vec<_> = carried.iter().map(|kind| kind.name()).collect();
        complaints.push(Complaint::new(
            format!("{field}.allowedRoutes.kinds"),
            format!(
                "InvalidRouteKinds: {} cannot attach to a listener with protocol {}; {} can",
                unknown.join(", "),
                spec.protocol,
                if carried.is_empty() {
                    "none".to_owned()
                } else {
                    carried.join(", ")
                }
            ),
        ));
    }
    let is_asked = |kind: &&Kind| asked.iter().any(|asked| is_meant(kind, asked));
    carried.iter().filter(is_asked).copied().collect()
}
