//! Wishes: what annotations ask of a sidecar, read strictly.
//!
//! A wish is an annotation `tidegate.dev/NAME`. The Pod's goes before its namespace's, and that before `--default NAME=VALUE`. What
//! cannot be understood is never guessed: all complaints are given at once, and the Pod is left as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::quantity::Quantity;
use crate::config::units;
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
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(Place, &str, &str)]) -> Result<Wishes, Vec<String>> {
        Wishes::read(given.iter().copied())
    }

    #[test]
    fn the_pod_goes_before_its_namespace_and_that_before_defaults() {
        let wishes = read(&[
            (Place::Default, "grace", "1s"),
            (Place::Default, "proxy-cpu-request", "10m"),
            (Place::Default, "log-level", "warn"),
            (Place::Namespace, "log-level", "info"),
            (Place::Namespace, "grace", "nonsense that nobody reads"),
            (Place::Namespace, "something-else", "x"),
            (Place::Pod, "grace", "3s"),
        ])
        .unwrap();
        assert_eq!(wishes.grace, Some(Duration::from_secs(3)));
        assert_eq!(wishes.log_level.as_deref(), Some("info"));
        assert_eq!(wishes.cpu_request, Some("10m".parse().unwrap()));
    }

    #[test]
    fn every_wish_is_read() {
        let wishes = read(&[
            (Place::Pod, "skip-inbound-ports", "9100, 4567-4568,"),
            (Place::Pod, "skip-outbound-ports", "25"),
            (Place::Pod, "skip-networks", "10.0.0.0/8,fd00::/8"),
            (Place::Pod, "opaque-ports", "3306,5432"),
            (Place::Pod, "proxy-cpu-request", "100m"),
            (Place::Pod, "proxy-cpu-limit", "1"),
            (Place::Pod, "proxy-memory-request", "32Mi"),
            (Place::Pod, "proxy-memory-limit", "32Mi"),
            (Place::Pod, "log-level", "info,tidegate=debug"),
            (Place::Pod, "grace", "1m30s"),
            (Place::Pod, "access-log", "true"),
            (Place::Pod, "outbound", "3001=shop/web:80, 3002=cart:8080"),
            (Place::Pod, "inbound", "8080=3000"),
        ])
        .unwrap();
        assert_eq!(
            wishes.skip_inbound_ports,
            ["9100".parse().unwrap(), "4567-4568".parse().unwrap()]
        );
        assert_eq!(
            (wishes.skip_networks.len(), wishes.opaque_ports),
            (2, Some(vec![3306, 5432]))
        );
        assert_eq!(
            (wishes.access_log, wishes.grace),
            (true, Some(Duration::from_secs(90)))
        );
        let targets: Vec<_> = wishes
            .outbound
            .iter()
            .map(|one| {
                (
                    one.port,
                    one.namespace.as_deref(),
                    one.service.as_str(),
                    one.service_port,
                )
            })
            .collect();
        assert_eq!(
            targets,
            [(3001, Some("shop"), "web", 80), (3002, None, "cart", 8080)]
        );
        assert_eq!(
            wishes.inbound,
            [Inbound {
                port: 8080,
                app: 3000
            }]
        );
    }

    #[test]
    fn what_cannot_be_understood_is_explained_all_at_once() {
        for (name, value, part) in [
            ("skip-outbound-port", "25", "did you mean skip-outbound-ports?"),
            ("x", "25", "known are skip-inbound-ports, "),
            ("skip-inbound-ports", "9-3", "ends before it begins"),
            ("skip-networks", "10.0.0.1", "is no network"),
            ("opaque-ports", "http", "is no port"),
            ("proxy-memory-limit", "64MB", "is no amount"),
            ("log-level", "loud", "is no level"),
            ("log-level", "[", "is no level"),
            ("grace", "30", "write 30s"),
            ("access-log", "yes", "neither true nor false"),
            ("outbound", "3001=http://shop", "leads nowhere"),
            ("outbound", "3001=Shop:80", "leads nowhere"),
            ("outbound", "0=shop:80", "is no port"),
            ("outbound", "1=a:1,1=b:1", "port 1 stands there twice"),
            ("inbound", "8080", "leads nowhere"),
            ("inbound", "80=80", "leads to itself"),
        ] {
            let said = read(&[(Place::Pod, name, value)]).unwrap_err().join(" ");
            assert!(said.contains(part), "{name}: {said}");
            assert!(
                said.contains(&format!("the annotation tidegate.dev/{name}")),
                "{said}"
            );
        }
        let two = read(&[(Place::Pod, "grace", "x"), (Place::Namespace, "log-level", "x")]).unwrap_err();
        assert!(
            two.len() == 2 && two[1].starts_with("the namespace's annotation tidegate.dev/log-level"),
            "{two:?}"
        );
        let said = read(&[
            (Place::Default, "proxy-cpu-request", "2"),
            (Place::Pod, "proxy-cpu-limit", "1"),
        ]);
        assert_eq!(
            said.unwrap_err(),
            ["proxy-cpu-request 2 is more than proxy-cpu-limit 1"]
        );
    }
}
