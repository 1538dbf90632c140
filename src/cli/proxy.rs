//! `tidegate proxy`: a load balancer in a line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;

use super::process::{self, Plan};
use crate::app::{Options, Source};
use crate::config::units::EndpointPlace;
use crate::config::{AccessLogFormat, AccessLogSettings, AccessLogTarget, Settings, units};
use crate::model::tls::{Origin, Part};
use crate::model::{
    Backend, BackendName, BackendProtocol, BackendTarget, Balance, Certificate, HostPattern, Listener,
    ListenerKind, ListenerLimits, ListenerName, ListenerTls, Match, Protocols, Route, RouteName, Rule,
    SourceName, WeightedBackend, World,
};

/// Balance one address over others.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    /// Where to listen: `:8080`, `127.0.0.1:8080`, `[::1]:8080`; with `tcp://` before it to relay bytes as they come, with
    /// `udp://` datagrams, with `tls://` to pass TLS on unopened, or to relay what is in it where a certificate is given.
    #[arg(long, value_name = "ADDRESS", value_parser = listen_arg)]
    from: ListenArg,
    /// An endpoint, by address or by name: `10.0.0.1:3000`, `app.internal:3000`; give it once for each.
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = endpoint_place)]
    to: Vec<EndpointPlace>,
    /// What the endpoints speak.
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Protocol,
    /// How an endpoint is chosen.
    #[arg(long, value_enum, default_value = "least-latency")]
    balance: BalanceArg,
    /// Data-plane threads; as many as there are cores for the process if not given.
    #[arg(short, long)]
    workers: Option<usize>,
    /// Where metrics, readiness and the dashboard are; nowhere if not given.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// One line per exchange on standard output.
    #[arg(long)]
    access_log: bool,
    /// Ends TLS with this certificate: a chain in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM; it may be the same file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Ends TLS with a certificate made for this run, for localhost and the address; for trying things out.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"])]
    tls_self_signed: bool,
}

/// Where to listen, and for what.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ListenArg {
    kind: ListenerKind,
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Protocol {
    Http1,
    H2c,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum BalanceArg {
    LeastLatency,
    LeastRequest,
    Maglev,
    Random,
    RingHash,
    RoundRobin,
}

/// Serves until told to end.
pub fn run(args: &ProxyArgs) -> ExitCode {
    let mut settings = Settings {
        workers: args.workers,
        ..Settings::default()
    };
    settings.admin.address = args.admin;
    if args.access_log {
        settings.access_log = Some(AccessLogSettings {
            format: AccessLogFormat::Text,
            to: AccessLogTarget::Stdout,
        });
    }
    let tls = match tls(args, SystemTime::now()) {
        Ok(tls) => tls,
        Err(error) => {
            process::start_log();
            return process::failed(&format!("{error:#}"));
        }
    };
    let endpoints: Vec<_> = args.to.iter().map(EndpointPlace::to_string).collect();
    let mut greeting = format!("balancing over {}", endpoints.join(", "));
    if tls.is_some() {
        greeting.push_str(", with TLS to clients");
    }
    let sources = vec![Source::Given(
        SourceName::new("command line"),
        Box::new(world(args, tls)),
    )];
    process::run(Plan {
        options: Options { settings, sources },
        greeting: Some(greeting),
    })
}

fn world(args: &ProxyArgs, tls: Option<ListenerTls>) -> World {
    let (listener, route, backend) = (
        ListenerName::new("http"),
        RouteName::new("all"),
        BackendName::new("endpoints"),
    );
    let rule = Rule {
        matches: vec![Match::default()],
        backends: vec![WeightedBackend {
            target: BackendTarget::Backend(backend.clone()),
            weight: 1,
            filters: Vec::new(),
        }],
        ..Rule::default()
    };
    let mut policy = Backend::new(backend.clone());
    policy.protocol = match args.protocol {
        Protocol::Http1 => BackendProtocol::Http1,
        Protocol::H2c => BackendProtocol::H2c,
    };
    policy.balance = match args.balance {
        BalanceArg::LeastLatency => Balance::LeastLatency,
        BalanceArg::LeastRequest => Balance::LeastRequest,
        BalanceArg::Maglev => Balance::Maglev,
        BalanceArg::Random => Balance::Random,
        BalanceArg::RingHash => Balance::RingHash,
        BalanceArg::RoundRobin => Balance::RoundRobin,
    };
    let mut endpoints = Vec::with_capacity(args.to.len());
    for place in &args.to {
        place.clone().put_into(&mut policy, &mut endpoints);
    }
    let mut world = World::default();
    world.listeners.insert(
        listener.clone(),
        Arc::new(Listener {
            name: listener.clone(),
            address: args.from.address,
            public_port: None,
            hostname: HostPattern::Any,
            kind: args.from.kind,
            protocols: Protocols::default(),
            tls: tls.map(Arc::new),
            limits: ListenerLimits {
                relay_idle: ListenerLimits::relay_idle_of(args.from.kind),
                ..ListenerLimits::default()
            },
        }),
    );
    world.routes.insert(
        route.clone(),
        Arc::new(Route {
            name: route,
            listeners: vec![listener],
            hostnames: vec![HostPattern::Any],
            rules: vec![Arc::new(rule)],
            created: 0,
            order: 0,
        }),
    );
    world.backends.insert(backend.clone(), Arc::new(policy));
    world.endpoints.insert(backend, endpoints.into());
    world
}

/// The TLS that the command line asks for.
fn tls(args: &ProxyArgs, now: SystemTime) -> anyhow::Result<Option<ListenerTls>> {
    let certificate = match (&args.tls_cert, &args.tls_key) {
        (Some(chain), Some(key)) => from_files(chain, key, now)?,
        _ if args.tls_self_signed => self_signed(args.from.address, now)?,
        _ => return Ok(None),
    };
    anyhow::ensure!(
        matches!(args.from.kind, ListenerKind::Http | ListenerKind::Tls),
        "tcp:// and udp:// relay bytes as they come; write --from tls:// to end TLS and relay what is in it"
    );
    Ok(ListenerTls::new(vec![Arc::new(certificate)]))
}

fn from_files(chain: &Path, key: &Path, now: SystemTime) -> anyhow::Result<Certificate> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let origin = Origin::Files {
        certificate: chain.to_owned(),
        key: key.to_owned(),
    };
    Certificate::from_pem(origin, &read(chain)?, &read(key)?, now).map_err(|error| {
        let blamed = match error.part() {
            Part::Certificate => chain,
            Part::Key => key,
        };
        anyhow::anyhow!("cannot use {}: {error}", blamed.display())
    })
}

/// A certificate for localhost and the address that is listened on.
fn self_signed(from: SocketAddr, now: SystemTime) -> anyhow::Result<Certificate> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !from.ip().is_unspecified() && !from.ip().is_loopback() {
        names.push(from.ip().to_string());
    }
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let origin = Origin::Named("self-signed".into());
    Ok(Certificate::from_pem(
        origin,
        chain.as_bytes(),
        key.as_bytes(),
        now,
    )?)
}

fn listen_arg(text: &str) -> Result<ListenArg, String> {
    let (scheme, address) = text.split_once("://").unwrap_or(("http", text));
    let kind = match scheme {
        "http" | "https" => ListenerKind::Http,
        "tcp" => ListenerKind::Tcp,
        "tls" => ListenerKind::Tls,
        "udp" => ListenerKind::Udp,
        _ => {
            return Err(format!(
                "{scheme}:// is not known here; tcp://, tls:// and udp:// are"
            ));
        }
    };
    let address = units::listen_address(address).map_err(|error| error.to_string())?;
    Ok(ListenArg { kind, address })
}

fn endpoint_place(text: &str) -> Result<EndpointPlace, String> {
    units::endpoint_place(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ProxyArgs,
    }

    fn parse(more: &[&str]) -> Result<ProxyArgs, clap::Error> {
        let line = ["tidegate", "--from", ":0", "--to", "127.0.0.1:1"];
        Line::try_parse_from(line.iter().chain(more)).map(|line| line.args)
    }

    #[test]
    fn what_is_listened_for_stands_before_the_address() {
        for (text, kind, port) in [
            (":80", ListenerKind::Http, 80),
            ("http://:81", ListenerKind::Http, 81),
            ("tcp://:5432", ListenerKind::Tcp, 5432),
            ("tls://[::1]:443", ListenerKind::Tls, 443),
            ("udp://:53", ListenerKind::Udp, 53),
        ] {
            let from = listen_arg(text).unwrap();
            assert_eq!((from.kind, from.address.port()), (kind, port));
        }
        assert!(listen_arg("tpc://:1").unwrap_err().contains("tcp://"));
        assert!(listen_arg("tcp://nowhere").is_err());
    }

    #[test]
    fn tls_is_asked_for_with_files_or_made() {
        let now = SystemTime::now();
        assert_eq!(tls(&parse(&[]).unwrap(), now).unwrap(), None);
        let made = tls(&parse(&["--tls-self-signed"]).unwrap(), now)
            .unwrap()
            .unwrap();
        assert!(made.certificates[0].covers("localhost"));

        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = crate::model::tls::test_pair(&["a.example"], false);
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("crt"), chain).unwrap();
        std::fs::write(path("key"), key).unwrap();
        let (crt, key) = (path("crt"), path("key"));
        let read = tls(&parse(&["--tls-cert", &crt, "--tls-key", &key]).unwrap(), now).unwrap();
        assert!(read.unwrap().certificates[0].covers("a.example"));

        let swapped = tls(&parse(&["--tls-cert", &key, "--tls-key", &crt]).unwrap(), now).unwrap_err();
        assert!(
            swapped
                .to_string()
                .contains(&format!("cannot use {key}: there is a private key")),
            "{swapped}"
        );
        let gone = tls(&parse(&["--tls-cert", "/none", "--tls-key", &key]).unwrap(), now).unwrap_err();
        assert!(gone.to_string().contains("cannot read /none"), "{gone}");
        assert!(parse(&["--tls-cert", &crt]).is_err());
        assert!(parse(&["--tls-cert", &crt, "--tls-key", &key, "--tls-self-signed"]).is_err());
    }
}
