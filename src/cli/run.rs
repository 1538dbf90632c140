//! `tidegate run`: serves what a configuration file, a directory of manifests or a Kubernetes cluster says, until told to end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::process::{self, Plan};
use crate::app::{Options, Source};
use crate::config::{self, Settings};
use crate::kubernetes::{self, FrontKind, GatewayServices, Mesh, PortRange};

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
    /// Give every Gateway a Service of this type, and with it an address of its own. They lead to the endpoints of `--publish-service`.
    #[arg(long, value_name = "TYPE", value_enum, requires_all = ["kubernetes", "publish_service"], conflicts_with = "gateway_pool")]
    gateway_services: Option<FrontArg>,
    /// The ports of the pods that those Services lead to.
    #[arg(long, value_name = "FIRST-LAST", default_value_t = PortRange::DEFAULT, value_parser = PortRange::parse)]
    gateway_ports: PortRange,
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

/// The type of Gateways' Services.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FrontArg {
    /// Each Gateway has an address of a load balancer.
    LoadBalancer,
    /// Each has an address within the cluster.
    ClusterIp,
    /// The same, and a port of every node for each of its own.
    NodePort,
}

/// Serves until told to end.
pub fn run(args: &RunArgs) -> ExitCode {
    if let Err(error) = args.check_ports() {
        process::start_log();
        return process::failed(&error);
    }
    let mut settings = Settings::default();
    let mut sources = Vec::new();
    if let Some(path) = &args.config {
        match config::load(path) {
            Ok(loaded) => {
                super::complain(&loaded.warnings.human());
                if !args.kubernetes && !loaded.wants_cluster.is_empty() {
                    super::complain(&loaded.wants_cluster.human());
                    return super::exit_code(&loaded.wants_cluster);
                }
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
    if let Some(agent) = settings.identity.clone() {
        sources.push(Source::Agent(agent));
    }
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
            gateway_services: args.services(),
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
    /// How Gateways get Services.
    fn services(&self) -> Option<GatewayServices> {
        let kind = match self.gateway_services? {
            FrontArg::LoadBalancer => FrontKind::LoadBalancer,
            FrontArg::ClusterIp => FrontKind::ClusterIp,
            FrontArg::NodePort => FrontKind::NodePort,
        };
        Some(GatewayServices {
            kind,
            ports: self.gateway_ports,
            own: self.publish_service.clone()?,
        })
    }

    /// Whether Gateways' Services can be written, and lead to no port that is taken.
    fn check_ports(&self) -> Result<(), String> {
        if self.gateway_services.is_none() {
            return Ok(());
        }
        if !self.update_status {
            return Err("--gateway-services is for who writes to the API server, and --update-status=false forbids it".to_owned());
        }
        let taken = [
            ("--ingress-address", Some(self.ingress_address)),
            ("--ingress-tls-address", Some(self.ingress_tls_address)),
            ("--admin", self.admin),
        ];
        for (flag, address) in taken {
            if let Some(address) = address.filter(|address| self.gateway_ports.contains(address.port())) {
                return Err(format!(
                    "{flag} {address} is among the ports of Gateways' Services; give others by --gateway-ports, which is {} now",
                    self.gateway_ports
                ));
            }
        }
        Ok(())
    }

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

    #[test]
    fn services_of_gateways_lead_to_ports_that_nobody_else_has() {
        let parse = |line: &str| {
            let words = ["run", "--kubernetes"].into_iter().chain(line.split_whitespace());
            Line::try_parse_from(words).map(|line| line.args)
        };
        let args = parse("--publish-service edge/lb --gateway-services cluster-ip --gateway-ports 5000-5001")
            .unwrap();
        let services = args.services().unwrap();
        assert_eq!(
            (services.kind, services.own),
            (FrontKind::ClusterIp, kubernetes::Id::new("edge", "lb"))
        );
        assert_eq!(
            (services.ports.to_string().as_str(), args.check_ports()),
            ("5000-5001", Ok(()))
        );
        assert_eq!(parse("--publish-service edge/lb").unwrap().services(), None);
        for (line, part) in [
            ("--gateway-services cluster-ip", "--publish-service"),
            (
                "--gateway-services cluster-ip --publish-service a/b --gateway-pool 10.0.0.0/24",
                "cannot be used with",
            ),
            (
                "--gateway-services clusterip --publish-service a/b",
                "load-balancer, cluster-ip, node-port",
            ),
            (
                "--gateway-services node-port --publish-service a/b --gateway-ports 80",
                "write its first and last",
            ),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(part), "{line}: {said}");
        }
        for (line, part) in [
            (
                "--admin 127.0.0.1:20000",
                "--admin 127.0.0.1:20000 is among the ports",
            ),
            (
                "--ingress-address 0.0.0.0:29999",
                "--ingress-address 0.0.0.0:29999",
            ),
            ("--update-status=false", "--update-status=false forbids it"),
        ] {
            let line = format!("--gateway-services load-balancer --publish-service a/b {line}");
            let said = parse(&line).unwrap().check_ports().unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
