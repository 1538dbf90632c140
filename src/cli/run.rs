//! `tidegate run`: serves what a configuration file, a directory of manifests or a Kubernetes cluster says, until told to end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::process::{self, Plan};
use crate::app::{Options, Source};
use crate::config::{self, Settings};
use crate::kubernetes;

/// Serve traffic.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The configuration file; read again when it changes, and on SIGHUP.
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["manifests", "kubernetes"])]
    config: Option<PathBuf>,
    /// A directory of Kubernetes objects as YAML files; edits are live.
    #[arg(short, long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Follow a Kubernetes cluster, as its ingress controller: the pod's service account, or the kubeconfig of KUBECONFIG.
    #[arg(short, long)]
    kubernetes: bool,
    /// A kubeconfig instead of these.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,
    /// Whether the replica that holds the lease tells Gateways, routes and Ingresses how they fare.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, requires = "kubernetes")]
    update_status: bool,
    /// The address that they are told, where they are served on every address: the load balancer's.
    #[arg(long, value_name = "IP", requires = "kubernetes")]
    status_address: Option<IpAddr>,
    /// A directory where what the API server says is kept, Secrets with certificates among it, readable by its owner alone. It is served
    /// at the next start if the API server is away then.
    #[arg(long, value_name = "DIR", requires = "kubernetes")]
    snapshot: Option<PathBuf>,
    /// Where Ingresses are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:80")]
    ingress_address: SocketAddr,
    /// Where hosts with TLS of Ingresses are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:443")]
    ingress_tls_address: SocketAddr,
    /// Where Gateways without an address of their own are served.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    gateway_address: IpAddr,
    /// Addresses of this host, of which every Gateway without one gets its own: `10.0.250.0/24`.
    #[arg(long, value_name = "NETWORK", conflicts_with = "gateway_address")]
    gateway_pool: Option<ipnet::IpNet>,
    /// Data-plane threads; as many as there are cores for the process if not given.
    #[arg(short, long)]
    workers: Option<usize>,
    /// The zone that the process is in; goes before TIDEGATE_ZONE of the environment, and that before the file's `zone`.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Where metrics, readiness and the dashboard are; goes before the file's `admin.address`.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// Serves until told to end.
pub fn run(args: &RunArgs) -> ExitCode {
    let mut settings = Settings::default();
    let mut sources = Vec::new();
    if let Some(path) = &args.config {
        match config::load(path) {
            Ok(loaded) => {
                super::complain(&loaded.warnings.human());
                settings = loaded.settings;
            }
            Err(found) => {
                super::complain(&found.human());
                return super::exit_code(&found);
            }
        }
        sources.push(Source::File(path.clone()));
    }
    settings.workers = args.workers.or(settings.workers);
    let of_environment = || {
        std::env::var("TIDEGATE_ZONE")
            .ok()
            .filter(|zone| !zone.is_empty())
    };
    settings.zone = args.zone.clone().or_else(of_environment).or(settings.zone);
    settings.admin.address = args.admin.or(settings.admin.address);
    let kubernetes = kubernetes::Settings {
        ingress_address: args.ingress_address,
        ingress_tls_address: args.ingress_tls_address,
        gateway_address: args.gateway_address,
        gateway_pool: args.gateway_pool,
        ..kubernetes::Settings::default()
    };
    if let Some(directory) = args.manifests.clone().or_else(|| settings.manifests.clone()) {
        sources.push(Source::Manifests(directory, kubernetes.clone()));
    }
    if args.kubernetes {
        let access = match &args.kubeconfig {
            Some(path) => kubernetes::Access::Kubeconfig(path.clone()),
            None => kubernetes::Access::Infer,
        };
        let shared = kubernetes::Settings {
            class_by_name: false, // others may serve that name there
            ..kubernetes
        };
        sources.push(Source::Kubernetes(kubernetes::ClusterOptions {
            access,
            settings: shared,
            update_status: args.update_status,
            status_address: args.status_address,
            snapshot: args.snapshot.clone(),
        }));
    }
    process::run(Plan {
        options: Options { settings, sources },
        greeting: None,
    })
}
