//! `tidegate proxy`: a load balancer in a line.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use super::process::{self, Plan};
use crate::app::{Options, Source};
use crate::config::{AccessLogFormat, AccessLogSettings, AccessLogTarget, Settings, units};
use crate::model::{
    Backend, BackendName, BackendProtocol, BackendTarget, Balance, Endpoint, HostPattern, Listener,
    ListenerLimits, ListenerName, Match, Protocols, Route, RouteName, Rule, SourceName, WeightedBackend,
    World,
};

/// Balance one address over others.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    /// Where to listen: `:8080`, `127.0.0.1:8080`, `[::1]:8080`.
    #[arg(long, value_name = "ADDRESS", value_parser = listen_address)]
    from: SocketAddr,
    /// An endpoint; give it once for each.
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = endpoint_address)]
    to: Vec<SocketAddr>,
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
    let endpoints: Vec<_> = args.to.iter().map(SocketAddr::to_string).collect();
    let greeting = format!("balancing over {}", endpoints.join(", "));
    let sources = vec![Source::Given(
        SourceName::new("command line"),
        Box::new(world(args)),
    )];
    process::run(Plan {
        options: Options { settings, sources },
        greeting: Some(greeting),
    })
}

fn world(args: &ProxyArgs) -> World {
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
    let endpoints: Arc<[Endpoint]> = args.to.iter().map(|address| Endpoint::at(*address)).collect();
    let mut world = World::default();
    world.listeners.insert(
        listener.clone(),
        Arc::new(Listener {
            name: listener.clone(),
            address: args.from,
            hostname: HostPattern::Any,
            protocols: Protocols::default(),
            limits: ListenerLimits::default(),
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
    world.endpoints.insert(backend, endpoints);
    world
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    units::listen_address(text).map_err(|error| error.to_string())
}

fn endpoint_address(text: &str) -> Result<SocketAddr, String> {
    units::endpoint_address(text).map_err(|error| error.to_string())
}
