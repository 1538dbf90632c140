//! `tidegate sidecar`: beside an app, in its pod.

pub mod init;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::process::{self, Plan};
use crate::app::{Options, Source};
use crate::config::units::EndpointPlace;
use crate::config::{AccessLogFormat, AccessLogSettings, AccessLogTarget, IdentityFiles, Settings, units};
use crate::kubernetes::{self, Mesh};
use crate::model::tls::AgentAddress;
use crate::model::tls::agent::ENDPOINT_VARIABLE;
use crate::model::{
    Backend, BackendName, BackendTarget, Direction, HostPattern, InboundMtls, Listener, ListenerKind,
    ListenerLimits, ListenerName, Match, MtlsMode, PeerName, Peers, Protocols, Route, RouteName, Rule,
    SourceName, WeightedBackend, World,
};

/// Serve beside an app.
///
/// Transparent: the kernel redirects the app's connections (`tidegate sidecar init`). Or the app is told to speak with
/// addresses on this host, which takes no privileges.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SidecarArgs {
    #[command(subcommand)]
    verb: Option<SidecarVerb>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum SidecarVerb {
    Init(init::InitArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct ServeArgs {
    /// Serve connections that the kernel redirects: from elsewhere on port 4143, from the app on port 4140.
    #[arg(long)]
    transparent: bool,
    /// Ports to which the app's connections are relayed without a look [default: 25,587,3306,4444,5432,6379,9300,11211].
    #[arg(long, value_name = "PORTS", value_delimiter = ',', requires = "transparent")]
    opaque_ports: Vec<u16>,
    /// What the app asks for at an address of this host, and where that is: `127.0.0.1:3000=10.0.0.1:80,10.0.0.2:80`, or a
    /// Service: `127.0.0.1:3000=default/web:80`. Once for each.
    #[arg(long, value_name = "ADDRESS=TARGET", value_parser = forward)]
    outbound: Vec<Forward>,
    /// What others ask for, and where the app is: `:8080=127.0.0.1:3000`. Once for each.
    #[arg(long, value_name = "ADDRESS=TARGET", value_parser = forward)]
    inbound: Vec<Forward>,
    /// Know the Services of the cluster: the pod's service account, or the kubeconfig of KUBECONFIG.
    #[arg(short, long)]
    kubernetes: bool,
    /// A kubeconfig instead of these.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Know the Services of a directory of Kubernetes objects as YAML files; edits are live.
    #[arg(short, long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Speak TLS with the endpoints of Services where a BackendTLSPolicy says so. Its role has to let it read those, and ConfigMaps.
    #[arg(long)]
    backend_tls: bool,
    /// Who this sidecar is towards others: a directory with `tls.crt`, `tls.key` and `ca.crt` of a SPIFFE certificate, watched.
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// The chain instead of the directory's.
    #[arg(long, value_name = "FILE")]
    identity_cert: Option<PathBuf>,
    /// The private key instead of the directory's.
    #[arg(long, value_name = "FILE")]
    identity_key: Option<PathBuf>,
    /// The trust bundle instead of the directory's.
    #[arg(long, value_name = "FILE")]
    identity_ca: Option<PathBuf>,
    /// Ask an agent on this host who this sidecar is, by SPIFFE's Workload API, instead of reading files:
    /// `unix:///run/spire/agent.sock`. Without a value SPIFFE_ENDPOINT_SOCKET of the environment says where it is.
    #[arg(
        long,
        value_name = "SOCKET",
        num_args = 0..=1,
        default_missing_value = OF_ENVIRONMENT,
        value_parser = agent,
        conflicts_with_all = ["identity", "identity_cert", "identity_key", "identity_ca"]
    )]
    workload_api: Option<AgentAddress>,
    /// Whether those who connect to the app show who they are. Without it: permissive with an identity, else off.
    #[arg(long, value_enum, value_name = "MODE")]
    mtls: Option<Mtls>,
    /// Who may connect by mTLS: `spiffe://example.org/ns/shop/sa/web`, `/ns/shop/*`. Once for each; without it all of our own
    /// trust domain.
    #[arg(long, value_name = "ID", value_parser = peer)]
    allow: Vec<PeerName>,
    /// Ports of the app on which nobody is asked: those of probes.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    plain_ports: Vec<NonZeroU16>,
    /// The namespace of the app, whose own routes of Services count for it. Else POD_NAMESPACE of the environment says it, or the
    /// service account.
    #[arg(long, value_name = "NAME", requires = "transparent")]
    namespace: Option<String>,
    /// Data-plane threads.
    #[arg(short, long, default_value_t = 1)]
    workers: usize,
    /// The zone that the process is in; goes before TIDEGATE_ZONE of the environment.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Where metrics, readiness and the dashboard are.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4191")]
    admin: SocketAddr,
    /// One line per exchange on standard output.
    #[arg(long)]
    access_log: bool,
    /// How long the app may keep it busy after SIGTERM. It ends at once when the app does not.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    grace: Duration,
}

/// Whether those who connect show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mtls {
    /// Nobody is asked.
    Off,
    /// Clear text is taken too.
    Permissive,
    /// Only mTLS is taken.
    Strict,
}

/// Stands for what the environment says.
const OF_ENVIRONMENT: &str = "environment";

/// Where Kubernetes tells a pod its namespace.
const SERVICE_ACCOUNT_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// An address that is listened on, and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Forward {
    listen: SocketAddr,
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Endpoints(Vec<EndpointPlace>),
    /// A Service's port, as its backend is called.
    Service(BackendName),
}

/// Does what the command line says.
pub fn run(args: &SidecarArgs) -> ExitCode {
    match &args.verb {
        Some(SidecarVerb::Init(args)) => init::run(args),
        None => serve(&args.serve),
    }
}

fn serve(args: &ServeArgs) -> ExitCode {
    if let Err(why) = check(args) {
        super::complain(&format!("{why}\n"));
        return ExitCode::from(super::UNREADABLE);
    }
    let mut settings = Settings {
        workers: Some(args.workers),
        zone: args.zone.clone().or_else(process::zone),
        ..Settings::default()
    };
    settings.admin.address = Some(args.admin);
    settings.drain.while_busy = true;
    settings.drain.timeout = args.grace;
    if args.access_log {
        settings.access_log = Some(AccessLogSettings {
            format: AccessLogFormat::Json,
            to: AccessLogTarget::Stdout,
        });
    }
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    let mut sources = vec![Source::Given(
        SourceName::new("command line"),
        Box::new(world(args, has_ipv6)),
    )];
    if let Some(files) = identity_files(args) {
        sources.push(Source::Identity(files));
    }
    if let Some(agent) = args.workload_api.clone() {
        sources.push(Source::Agent(agent));
    }
    let known = kubernetes::Settings {
        services_only: true,
        backend_tls: args.backend_tls,
        // Where nothing is redirected, nobody is known to have asked for a Service's address.
        mesh: match args.transparent {
            true => Mesh::Serve {
                namespace: namespace(args).map(Arc::from),
            },
            false => Mesh::Off,
        },
        ..kubernetes::Settings::default()
    };
    if let Some(directory) = &args.manifests {
        sources.push(Source::Manifests(directory.clone(), known.clone()));
    }
    if args.kubernetes {
        sources.push(Source::Kubernetes(kubernetes::ClusterOptions {
            access: match &args.kubeconfig {
                Some(path) => kubernetes::Access::Kubeconfig(path.clone()),
                None => kubernetes::Access::Infer,
            },
            settings: known,
            update_status: false,
            status_address: None,
            snapshot: None,
        }));
    }
    process::run(Plan {
        options: Options { settings, sources },
        greeting: None,
    })
}

/// Where the identity is, if there is to be one.
fn identity_files(args: &ServeArgs) -> Option<IdentityFiles> {
    let directory = args.identity.as_deref().map(IdentityFiles::of_directory);
    let pick = |own: &Option<PathBuf>, of: fn(&IdentityFiles) -> &PathBuf| {
        own.clone().or_else(|| directory.as_ref().map(of).cloned())
    };
    Some(IdentityFiles {
        cert: pick(&args.identity_cert, |files| &files.cert)?,
        key: pick(&args.identity_key, |files| &files.key)?,
        ca: pick(&args.identity_ca, |files| &files.ca)?,
    })
}

/// Where the agent is that is asked.
fn agent(text: &str) -> Result<AgentAddress, String> {
    let read = match text {
        OF_ENVIRONMENT => AgentAddress::of_environment()
            .ok_or_else(|| format!("{ENDPOINT_VARIABLE} does not say where the agent is"))?,
        text => AgentAddress::parse(text),
    };
    read.map_err(|error| error.to_string())
}

/// Whether this sidecar is to be somebody.
fn has_identity(args: &ServeArgs) -> bool {
    args.workload_api.is_some() || identity_files(args).is_some()
}

/// What is asked of those who connect to the app.
fn inbound_mtls(args: &ServeArgs) -> Option<InboundMtls> {
    let mode = match args.mtls {
        Some(Mtls::Off) => return None,
        Some(Mtls::Permissive) => MtlsMode::Permissive,
        Some(Mtls::Strict) => MtlsMode::Strict,
        None if has_identity(args) => MtlsMode::Permissive,
        None => return None,
    };
    Some(InboundMtls {
        mode,
        peers: match args.allow.is_empty() {
            true => Peers::default(),
            false => Peers(args.allow.clone()),
        },
        plain_ports: args.plain_ports.iter().map(|port| port.get()).collect(),
    })
}

/// The app's namespace, if anybody says it.
fn namespace(args: &ServeArgs) -> Option<String> {
    let given = args.namespace.clone();
    let given = given.or_else(|| std::env::var("POD_NAMESPACE").ok());
    let given = given.or_else(|| std::fs::read_to_string(SERVICE_ACCOUNT_NAMESPACE).ok());
    given
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
}

/// What clap cannot see.
fn check(args: &ServeArgs) -> Result<(), String> {
    if !args.transparent && args.outbound.is_empty() && args.inbound.is_empty() {
        return Err("there is nothing to serve; give --transparent, --outbound or --inbound".to_owned());
    }
    let names_files = [&args.identity_cert, &args.identity_key, &args.identity_ca];
    if identity_files(args).is_none() && names_files.iter().any(|file| file.is_some()) {
        return Err(
            "an identity is a chain, a key and a trust bundle; give --identity DIR, or --identity-cert, \
             --identity-key and --identity-ca"
                .to_owned(),
        );
    }
    if !has_identity(args) && matches!(args.mtls, Some(Mtls::Permissive | Mtls::Strict)) {
        return Err("mTLS needs an identity; give --identity DIR, or --workload-api".to_owned());
    }
    if inbound_mtls(args).is_none() && !(args.allow.is_empty() && args.plain_ports.is_empty()) {
        return Err(
            "--allow and --plain-ports say something of mTLS, which is off; give --identity DIR, or --workload-api".to_owned(),
        );
    }
    let knows_services = args.kubernetes || args.manifests.is_some();
    if args.backend_tls && !knows_services {
        return Err("--backend-tls is for Services, and nobody says which there are; give --kubernetes or --manifests DIR".to_owned());
    }
    let mut all = args.outbound.iter().chain(&args.inbound);
    if let Some(forward) = all.find(|forward| matches!(forward.target, Target::Service(_)))
        && !knows_services
    {
        let Target::Service(name) = &forward.target else {
            return Ok(());
        };
        return Err(format!(
            "nobody says where the Service {name} is; give --kubernetes or --manifests DIR, or addresses"
        ));
    }
    Ok(())
}

fn world(args: &ServeArgs, has_ipv6: bool) -> World {
    let mut world = World::default();
    if args.transparent {
        let mut limits = ListenerLimits::default();
        if !args.opaque_ports.is_empty() {
            limits.opaque_ports.clone_from(&args.opaque_ports);
        }
        let inbound_limits = ListenerLimits {
            mtls: inbound_mtls(args),
            ..limits.clone()
        };
        let inbound = match has_ipv6 {
            true => SocketAddr::from((Ipv6Addr::UNSPECIFIED, init::INBOUND)),
            false => SocketAddr::from((Ipv4Addr::UNSPECIFIED, init::INBOUND)),
        };
        listen(
            &mut world,
            "inbound",
            inbound,
            ListenerKind::Redirected(Direction::Inbound),
            &inbound_limits,
        );
        // What a pod's own processes send is redirected to its loopback interface; nobody else gets there.
        let outbound = ListenerKind::Redirected(Direction::Outbound);
        listen(
            &mut world,
            "outbound",
            (Ipv4Addr::LOCALHOST, init::OUTBOUND).into(),
            outbound,
            &limits,
        );
        if has_ipv6 {
            listen(
                &mut world,
                "outbound-ipv6",
                (Ipv6Addr::LOCALHOST, init::OUTBOUND).into(),
                outbound,
                &limits,
            );
        }
    }
    for (direction, forwards, mtls) in [
        ("outbound", &args.outbound, None),
        ("inbound", &args.inbound, inbound_mtls(args)),
    ] {
        for forward in forwards {
            let name = format!("{direction}-{}", forward.listen);
            put(&mut world, &name, forward, mtls.clone());
        }
    }
    world
}

fn listen(world: &mut World, name: &str, address: SocketAddr, kind: ListenerKind, limits: &ListenerLimits) {
    let name = ListenerName::new(name);
    let listener = Listener {
        name: name.clone(),
        address,
        public_port: None,
        hostname: HostPattern::Any,
        kind,
        protocols: Protocols::default(),
        tls: None,
        limits: limits.clone(),
    };
    world.listeners.insert(name, Arc::new(listener));
}

/// A listener, a route and, unless it is a Service's, a backend.
fn put(world: &mut World, name: &str, forward: &Forward, mtls: Option<InboundMtls>) {
    let limits = ListenerLimits {
        mtls,
        ..ListenerLimits::default()
    };
    listen(world, name, forward.listen, ListenerKind::Http, &limits);
    let backend = match &forward.target {
        Target::Service(backend) => backend.clone(),
        Target::Endpoints(places) => {
            let backend = BackendName::new(name);
            let (mut policy, mut endpoints) = (Backend::new(backend.clone()), Vec::new());
            for place in places {
                place.clone().put_into(&mut policy, &mut endpoints);
            }
            world.backends.insert(backend.clone(), Arc::new(policy));
            world.endpoints.insert(backend.clone(), endpoints.into());
            backend
        }
    };
    let rule = Rule {
        matches: vec![Match::default()],
        backends: vec![WeightedBackend {
            target: BackendTarget::Backend(backend),
            weight: 1,
            filters: Vec::new(),
        }],
        ..Rule::default()
    };
    let route = Route {
        name: RouteName::new(name),
        listeners: vec![ListenerName::new(name)],
        hostnames: vec![HostPattern::Any],
        rules: vec![Arc::new(rule)],
        created: 0,
        order: 0,
    };
    world.routes.insert(route.name.clone(), Arc::new(route));
}

fn forward(text: &str) -> Result<Forward, String> {
    let Some((listen, target)) = text.split_once('=') else {
        return Err("write where it listens and where that goes: 127.0.0.1:3000=10.0.0.1:80".to_owned());
    };
    let listen = units::listen_address(listen).map_err(|error| error.to_string())?;
    Ok(Forward {
        listen,
        target: self::target(target)?,
    })
}

/// Addresses, or a Service's port.
fn target(text: &str) -> Result<Target, String> {
    if let Some((namespace, rest)) = text.split_once('/') {
        let port = rest
            .rsplit_once(':')
            .filter(|(service, port)| !service.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        return match port {
            Some(_) if !namespace.is_empty() => Ok(Target::Service(BackendName::new(text))),
            _ => Err(format!("{text:?} is no port of a Service; write default/web:80")),
        };
    }
    let addresses = text.split(',').map(|text| units::endpoint_place(text.trim()));
    let addresses: Result<Vec<_>, _> = addresses.collect();
    addresses
        .map(Target::Endpoints)
        .map_err(|error| format!("{error}: {}", error.hint))
}

fn peer(text: &str) -> Result<PeerName, String> {
    PeerName::parse(text).map_err(|error| error.to_string())
}

fn time(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
