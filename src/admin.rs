//! Admin: a read-only window for people and machines: a page, metrics, readiness, what is live.
//!
//! Runs on the control plane's runtime, on a listener of its own. It changes nothing, shows no
//! secrets, and takes what it shows about the data plane through [`View`], so that it knows no
//! room but telemetry.
//!
//! | path | what |
//! |---|---|
//! | `/` | a page for people; reads `/stats.json` each second |
//! | `/metrics` | Prometheus text format 0.0.4 |
//! | `/livez` | 200 while the control plane answers |
//! | `/readyz` | 200, or 503 while a gate is closed; `?verbose` lists them |
//! | `/stats.json` | traffic, latency, endpoints: [`Stats`] |
//! | `/backends`, `/routes`, `/listeners`, `/rejects` | what is live, as JSON; `?name=`, `?limit=` |
//! | `/objects` | objects of a Kubernetes cluster: whether they are live, and why not |

mod host;
mod reply;
mod serve;
mod stats;
pub mod view;

use std::sync::Arc;

pub use serve::serve;
pub use stats::{
    BackendStats, Counts, ListenerStats, OutcomeStats, ProcessStats, Recent, SnapshotStats, Stats,
};
pub use view::{
    Ask, BackendView, CertificateView, ConcurrencyView, EndpointView, ListenerView, ObjectView, Page,
    RejectView, RouteView, RuleView, TargetView, View,
};

use crate::telemetry::{Exposition, Gates, Metrics};

/// What the admin listener reads from.
pub struct AdminState {
    metrics: Arc<Metrics>,
    exposition: Exposition,
    gates: Arc<Gates>,
    view: Arc<dyn View>,
    window: stats::Window,
}

impl AdminState {
    /// What is read from.
    pub fn new(
        metrics: Arc<Metrics>,
        gates: Arc<Gates>,
        view: Arc<dyn View>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            exposition: Exposition::new(Arc::clone(&metrics))?,
            metrics,
            gates,
            view,
            window: stats::Window::default(),
        })
    }
}
