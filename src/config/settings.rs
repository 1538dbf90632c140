//! What a file says about the process, not about the world it serves.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::Acme;
use crate::model::tls::AgentAddress;

/// Settings of the process.
///
/// Read at the start and with every reload; what [`Settings::needs_restart`] names is built into the process and
/// takes effect at the next start.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Data-plane threads. None: the cores that the process may use.
    pub workers: Option<usize>,
    /// The read-only listener.
    pub admin: AdminSettings,
    /// One line per exchange. None: none.
    pub access_log: Option<AccessLogSettings>,
    /// Whether responses that Tidegate made itself carry a `Proxy-Status` field (RFC 9209).
    pub proxy_status_header: bool,
    /// What happens between SIGTERM and the end.
    pub drain: DrainSettings,
    /// The zone that the process is in, if known.
    pub zone: Option<String>,
    /// A directory of Kubernetes objects as YAML files.
    pub manifests: Option<PathBuf>,
    /// The agent that says who this process is, if not files.
    pub identity: Option<AgentAddress>,
    /// How certificates are got by ACME.
    pub acme: Option<Arc<Acme>>,
    /// After how long a name of endpoints is resolved again.
    pub dns_refresh: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: None,
            admin: AdminSettings::default(),
            access_log: None,
            proxy_status_header: true,
            drain: DrainSettings::default(),
            zone: None,
            manifests: None,
            identity: None,
            acme: None,
            dns_refresh: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// The keys that differ in `next` and take effect only at a restart, as they stand in the file.
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        [
            ("workers", self.workers != next.workers),
            ("admin", self.admin != next.admin),
            ("zone", self.zone != next.zone),
            ("manifests", self.manifests != next.manifests),
            ("identity.workload_api", self.identity != next.identity),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// The read-only listener for metrics, readiness and the dashboard.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminSettings {
    /// Where it listens. None: nowhere.
    pub address: Option<SocketAddr>,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
        }
    }
}

/// The access log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLogSettings {
    /// How a line looks.
    pub format: AccessLogFormat,
    /// Where lines go.
    pub to: AccessLogTarget,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// Words separated by spaces.
    Text,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AccessLogTarget {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// The end of a file.
    File(PathBuf),
}

/// What happens between SIGTERM and the end.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainSettings {
    /// New connections are still accepted for this long, with readiness already failing, so that
    /// load balancers in front can take notice.
    pub lag: Duration,
    /// Then exchanges have this long to end.
    pub timeout: Duration,
    /// Within that time, connections are accepted as long as an exchange is under way or the app beside holds a
    /// connection; after it, what is open is cut.
    pub while_busy: bool,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            lag: Duration::ZERO,
            timeout: Duration::from_secs(30),
            while_busy: false,
        }
    }
}
