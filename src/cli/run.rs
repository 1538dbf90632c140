//! `tidegate run`: serves what a configuration file, a directory of manifests or a Kubernetes cluster says, until told to end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::process::{self, Plan};
use crate::app::{Options, Source};
use crate::config::{self, Settings};
use crate::kubernetes::{self, Mesh};

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
    /// The Service in front, whose addresses they are told instead, as they come: its load balancer's and external ones, else its cluster's.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "kubernetes", conflicts_with = "status_address", value_parser = service)]
    publish_service: Option<kubernetes::Id>,
    /// Sidecars serve routes whose parents are Services: tell those routes how they fare, as well.
    #[arg(long, requires = "kubernetes")]
    mesh: bool,
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
    /// Follow Services of the type ExternalName. Who may write one then reaches whatever Tidegate reaches.
    #[arg(long)]
    external_names: bool,
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
    settings.zone = args.zone.clone().or_else(process::zone).or(settings.zone);
    settings.admin.address = args.admin.or(settings.admin.address);
    let kubernetes = kubernetes::Settings {
        ingress_address: args.ingress_address,
        ingress_tls_address: args.ingress_tls_address,
        gateway_address: args.gateway_address,
        gateway_pool: args.gateway_pool,
        external_names: args.external_names,
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
            mesh: if args.mesh { Mesh::Tell } else { Mesh::Off },
            ..kubernetes
        };
        sources.push(Source::Kubernetes(kubernetes::ClusterOptions {
            access,
            settings: shared,
            update_status: args.update_status,
            status_address: args.told(),
            snapshot: args.snapshot.clone(),
        }));
    }
    process::run(Plan {
        options: Options { settings, sources },
        greeting: None,
    })
}

impl RunArgs {
    /// Where clients come to.
    fn told(&self) -> Option<kubernetes::StatusAddress> {
        let service = self
            .publish_service
            .clone()
            .map(kubernetes::StatusAddress::Service);
        service.or(self.status_address.map(kubernetes::StatusAddress::Address))
    }
}

fn service(text: &str) -> Result<kubernetes::Id, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(kubernetes::Id::new(namespace, name))
        }
        _ => Err(format!(
            "{text:?} is no Service; write its namespace and name: tidegate/tidegate"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    #[test]
    fn where_clients_come_to_is_an_address_or_a_service() {
        let told = |line: &str| {
            let words = ["run", "--kubernetes"].into_iter().chain(line.split_whitespace());
            Line::try_parse_from(words).map(|line| line.args.told())
        };
        let service = kubernetes::StatusAddress::Service(kubernetes::Id::new("edge", "lb"));
        assert_eq!(told("--publish-service edge/lb").unwrap(), Some(service));
        let address = kubernetes::StatusAddress::Address("192.0.2.1".parse().unwrap());
        assert_eq!(told("--status-address 192.0.2.1").unwrap(), Some(address));
        assert_eq!(told("").unwrap(), None);
        for (line, part) in [
            ("--publish-service lb", "write its namespace and name"),
            ("--publish-service a/b/c", "write its namespace and name"),
            (
                "--publish-service a/b --status-address 192.0.2.1",
                "cannot be used with",
            ),
        ] {
            let said = told(line).unwrap_err().to_string();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
