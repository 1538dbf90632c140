//! Wishes: what annotations ask of a sidecar, read strictly.
//!
//! A wish is an annotation `tidegate.dev/NAME`. The Pod's goes before its namespace's, and that before `--default NAME=VALUE`. What
//! cannot be understood is never guessed: all complaints are given at once, and the Pod is left as it is.

mod identity;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

pub use self::identity::{Identity, Mtls, PlainPorts};
use super::quantity::Quantity;
use crate::config::units;
use crate::model::PeerName;
use crate::sidecar::redirect::PortRange;

/// What the names of our labels and annotations begin with.
pub const PREFIX: &str = "tidegate.dev/";

/// Whether a sidecar is asked for, and of which kind; a label too.
pub const INJECT: &str = "tidegate.dev/inject";

/// Which version has injected a sidecar.
pub const INJECTED: &str = "tidegate.dev/injected";

/// What is asked of a sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Ports of the Pod that are reached as if there were no sidecar.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Ports elsewhere that are reached so.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Networks of which that is true.
    pub skip_networks: Vec<IpNet>,
    /// Ports elsewhere whose connections nobody looks into; none: the usual ones.
    pub opaque_ports: Option<Vec<u16>>,
    /// What is set aside for the sidecar, and what it may have at most.
    pub cpu_request: Option<Quantity>,
    /// At most so much CPU.
    pub cpu_limit: Option<Quantity>,
    /// So much memory is set aside.
    pub memory_request: Option<Quantity>,
    /// At most so much memory.
    pub memory_limit: Option<Quantity>,
    /// The level of the sidecar's own log.
    pub log_level: Option<String>,
    /// How long the app may keep it busy at the end.
    pub grace: Option<Duration>,
    /// One line per exchange.
    pub access_log: bool,
    /// What the app asks for at addresses of its own Pod.
    pub outbound: Vec<Outbound>,
    /// What others ask for, and where the app is.
    pub inbound: Vec<Inbound>,
    /// Who the sidecar is towards others; none: nobody.
    pub identity: Option<Identity>,
    /// What is asked of those who connect to the app; none: as a sidecar does by itself.
    pub mtls: Option<Mtls>,
    /// Who may connect by mTLS; nobody named: all of the own trust domain.
    pub allow: Vec<PeerName>,
    /// Ports of the app on which nobody is asked.
    pub plain_ports: PlainPorts,
    /// Whether BackendTLSPolicies are followed.
    pub backend_tls: bool,
}

/// `3001=default/shop:80`: a port of the loopback interface that leads to a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Where the app asks.
    pub port: u16,
    /// The Service's namespace; none: the Pod's.
    pub namespace: Option<String>,
    /// The Service's name.
    pub service: String,
    /// The Service's port.
    pub service_port: u16,
}

/// `8080=3000`: a port of the Pod, and the app's on the loopback interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Where others ask.
    pub port: u16,
    /// Where the app is.
    pub app: u16,
}

type Read = fn(&mut Wishes, &str) -> Result<(), String>;

/// Every wish by its name, and how it is read.
pub const KEYS: &[(&str, Read)] = &[
    ("skip-inbound-ports", |all, text| {
        put(&mut all.skip_inbound_ports, list(text))
    }),
    ("skip-outbound-ports", |all, text| {
        put(&mut all.skip_outbound_ports, list(text))
    }),
    ("skip-networks", |all, text| {
        put(&mut all.skip_networks, networks(text))
    }),
    ("opaque-ports", |all, text| {
        put(&mut all.opaque_ports, ports(text).map(Some))
    }),
    ("proxy-cpu-request", |all, text| {
        put(&mut all.cpu_request, text.parse().map(Some))
    }),
    ("proxy-cpu-limit", |all, text| {
        put(&mut all.cpu_limit, text.parse().map(Some))
    }),
    ("proxy-memory-request", |all, text| {
        put(&mut all.memory_request, text.parse().map(Some))
    }),
    ("proxy-memory-limit", |all, text| {
        put(&mut all.memory_limit, text.parse().map(Some))
    }),
    ("log-level", |all, text| {
        put(&mut all.log_level, log_level(text).map(Some))
    }),
    ("grace", |all, text| put(&mut all.grace, grace(text).map(Some))),
    ("access-log", |all, text| put(&mut all.access_log, truth(text))),
    ("outbound", |all, text| {
        put(&mut all.outbound, forwards(text, outbound, |one| one.port))
    }),
    ("inbound", |all, text| {
        put(&mut all.inbound, forwards(text, inbound, |one| one.port))
    }),
    ("identity", |all, text| {
        put(&mut all.identity, identity::identity(text))
    }),
    ("mtls", |all, text| {
        put(&mut all.mtls, identity::mtls(text).map(Some))
    }),
    ("allow", |all, text| put(&mut all.allow, peers(text))),
    ("plain-ports", |all, text| {
        put(&mut all.plain_ports, identity::plain_ports(text))
    }),
    ("backend-tls", |all, text| put(&mut all.backend_tls, truth(text))),
];

/// Where a wish stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The command line of the injector.
    Default,
    /// The namespace.
    Namespace,
    /// The Pod.
    Pod,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "--default ",
            Self::Namespace => "the namespace's annotation tidegate.dev/",
            Self::Pod => "the annotation tidegate.dev/",
        })
    }
}

impl Wishes {
    /// Reads wishes by place, name and value; what comes later goes before what comes first. Names that nobody knows are complained of where
    /// they are a slip for sure: namespaces may have annotations of other parts.
    ///
    /// # Errors
    /// Every complaint, each with its place.
    pub fn read<'a>(given: impl Iterator<Item = (Place, &'a str, &'a str)>) -> Result<Self, Vec<String>> {
        let mut wishes = Self::default();
        let mut complaints = Vec::new();
        let mut last: BTreeMap<&str, (Place, &str)> = BTreeMap::new();
        for (place, name, value) in given {
            last.insert(name, (place, value));
        }
        for (name, (place, value)) in last {
            let read = KEYS.iter().find(|(known, _)| *known == name);
            let said = match read {
                Some((_, read)) => read(&mut wishes, value).map_err(|why| format!("{place}{name}: {why}")),
                None if place == Place::Namespace => Ok(()),
                None => Err(format!("{place}{name} is not known{}", suggestion(name))),
            };
            complaints.extend(said.err());
        }
        for (what, request, limit) in [
            ("cpu", &wishes.cpu_request, &wishes.cpu_limit),
            ("memory", &wishes.memory_request, &wishes.memory_limit),
        ] {
            if let (Some(request), Some(limit)) = (request, limit)
                && request > limit
            {
                complaints.push(format!(
                    "proxy-{what}-request {request} is more than proxy-{what}-limit {limit}"
                ));
            }
        }
        match complaints.is_empty() {
            true => Ok(wishes),
            false => Err(complaints),
        }
    }

    /// Whether those who connect by mTLS are asked who they are.
    pub fn asks_who(&self) -> bool {
        self.identity.is_some() && self.mtls != Some(Mtls::Off)
    }

    /// What says mTLS where there can be none. Apart from reading: defaults may leave it to Pods to say who they are.
    pub fn contradictions(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.identity.is_some() || self.mtls == Some(Mtls::Off) {
            return complaints;
        }
        let wanted = format!("which takes an identity; say {PREFIX}identity: workload-api or secret:NAME");
        if let Some(mode) = self.mtls {
            complaints.push(format!("mtls {} asks for mTLS, {wanted}", mode.as_str()));
        }
        if !self.allow.is_empty() {
            complaints.push(format!(
                "allow says who may connect by mTLS, {wanted}, or mtls: off"
            ));
        }
        complaints
    }
}

/// The name that was probably meant.
pub fn suggestion(name: &str) -> String {
    let near = KEYS
        .iter()
        .map(|(known, _)| (strsim::jaro_winkler(name, known), *known))
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match near {
        Some((likeness, known)) if likeness > 0.8 => format!("; did you mean {known}?"),
        _ => {
            let all: Vec<&str> = KEYS.iter().map(|(known, _)| *known).collect();
            format!("; known are {}", all.join(", "))
        }
    }
}

fn put<T>(place: &mut T, read: Result<T, String>) -> Result<(), String> {
    *place = read?;
    Ok(())
}

/// What stands between commas.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn list<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<Vec<T>, String> {
    parts(text)
        .map(|part| part.parse().map_err(|error: T::Err| error.to_string()))
        .collect()
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let wrong =
        |part: &str| format!("{part:?} is no network; write 10.0.0.0/8, or 10.0.0.1/32 for one address");
    parts(text)
        .map(|part| part.parse().map_err(|_| wrong(part)))
        .collect()
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    parts(text).map(port).collect()
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{text:?} is no port from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

fn peers(text: &str) -> Result<Vec<PeerName>, String> {
    parts(text)
        .map(|part| PeerName::parse(part).map_err(|error| error.to_string()))
        .collect()
}

fn truth(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

fn grace(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|error| format!("{error}; {}", error.hint))
}

fn log_level(text: &str) -> Result<String, String> {
    let usage = || format!("{text:?} is no level of the log; write info, debug, or tidegate=debug");
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for part in parts(text) {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if !levels.contains(&level) {
            return Err(usage());
        }
    }
    EnvFilter::try_new(text).map_err(|_| usage())?;
    Ok(text.to_owned())
}

fn forwards<T>(
    text: &str,
    read: fn(&str) -> Result<T, String>,
    port: fn(&T) -> u16,
) -> Result<Vec<T>, String> {
    let all = parts(text).map(read).collect::<Result<Vec<T>, _>>()?;
    for (at, one) in all.iter().enumerate() {
        if all[..at].iter().any(|before| port(before) == port(one)) {
            return Err(format!("port {} stands there twice", port(one)));
        }
    }
    Ok(all)
}

fn outbound(text: &str) -> Result<Outbound, String> {
    let usage = || format!("{text:?} leads nowhere; write PORT=NAMESPACE/SERVICE:PORT: 3001=default/shop:80");
    let (at, target) = text.split_once('=').ok_or_else(usage)?;
    let (name, service_port) = target.rsplit_once(':').ok_or_else(usage)?;
    let (namespace, service) = match name.split_once('/') {
        Some((namespace, service)) => (Some(namespace), service),
        None => (None, name),
    };
    if !is_label(service) || namespace.is_some_and(|namespace| !is_label(namespace)) {
        return Err(usage());
    }
    Ok(Outbound {
        port: port(at.trim())?,
        namespace: namespace.map(str::to_owned),
        service: service.to_owned(),
        service_port: port(service_port).map_err(|_| usage())?,
    })
}

fn inbound(text: &str) -> Result<Inbound, String> {
    let usage = || format!("{text:?} leads nowhere; write PORT=PORT of the app: 8080=3000");
    let (at, app) = text.split_once('=').ok_or_else(usage)?;
    let inbound = Inbound {
        port: port(at.trim())?,
        app: port(app.trim())?,
    };
    match inbound.port == inbound.app {
        true => Err(format!(
            "{text:?} leads to itself; the app has to listen on another port of 127.0.0.1"
        )),
        false => Ok(inbound),
    }
}

/// A name of a namespace or Service (RFC 1123, a label).
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_word(text)
}

/// What stands between the dots of a name.
fn is_word(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests;
