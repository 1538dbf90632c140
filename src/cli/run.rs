//! `tidegate run`: serves what a configuration file or a directory of manifests says, until told to end.

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
    #[arg(short, long, value_name = "FILE", required_unless_present = "manifests")]
    config: Option<PathBuf>,
    /// A directory of Kubernetes objects as YAML files; edits are live.
    #[arg(short, long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Where Ingresses of the manifests are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:80")]
    ingress_address: SocketAddr,
    /// Where hosts with TLS of the manifests' Ingresses are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:443")]
    ingress_tls_address: SocketAddr,
    /// Where Gateways of the manifests without an address of their own are served.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    gateway_address: IpAddr,
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
    if let Some(directory) = args.manifests.clone().or_else(|| settings.manifests.clone()) {
        let kubernetes = kubernetes::Settings {
            ingress_address: args.ingress_address,
            ingress_tls_address: args.ingress_tls_address,
            gateway_address: args.gateway_address,
            ..kubernetes::Settings::default()
        };
        sources.push(Source::Manifests(directory, kubernetes));
    }
    process::run(Plan {
        options: Options { settings, sources },
        greeting: None,
    })
}
