//! Injection: the API server asks, before a Pod is made, what to put into it, and gets the sidecar as a patch.
//!
//! ```text
//! API server ─► serve: HTTPS ─► review: AdmissionReview ─► patch: decide ─► review: JSONPatch ─► API server
//!                 ▲ certificate                              ▲ wishes: annotations of Pod and namespace
//!              keeper ◄─► Secret, MutatingWebhookConfiguration
//! ```
//! What becomes of a Pod is decided without I/O ([`patch`], [`wishes`]), and so is the life of the certificate ([`certificate`]). It
//! runs on the control plane's runtime, and in a process of its own (`tidegate inject`): who may say what runs in every Pod is not to
//! be who is reached from outside.

pub mod certificate;
mod keeper;
pub mod patch;
pub mod pod;
mod quantity;
pub mod review;
mod serve;
pub mod wishes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::keeper::{GATE, Keeper};
use self::patch::Template;
use self::serve::Desk;
use crate::kubernetes::{Access, AccessError, Hold, Resign, identity};
use crate::telemetry::gates::Gates;
use crate::telemetry::metrics::Metrics;

/// How an injector is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API server asks.
    pub address: SocketAddr,
    /// Where the API server is.
    pub access: Access,
    /// The name of the Service, the Secret, the Lease and the MutatingWebhookConfiguration.
    pub name: String,
    /// More names and addresses that the API server may look for in the certificate.
    pub names: Vec<String>,
    /// What is put into Pods, but for the namespace of the injector, which is known only with the access.
    pub template: Template,
}

/// Why there is no injector.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The API server cannot be asked at all.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The address is another's.
    #[error("cannot bind the injector's listener {0}: {1}; choose another with --address")]
    Bind(SocketAddr, #[source] io::Error),
    /// The library's word on it.
    #[error("TLS cannot be served: {0}")]
    Tls(#[from] rustls::Error),
}

/// An injector that is asked. Dropping it ends it.
#[derive(Debug)]
pub struct Injector {
    /// Where it listens.
    pub address: SocketAddr,
    resign: Resign,
    end: watch::Sender<bool>,
    served: JoinHandle<()>,
    _tasks: JoinSet<()>,
}

impl Injector {
    /// Listens, and keeps the certificate. It is ready when the gate `inject` is open. Call it within a runtime.
    ///
    /// # Errors
    /// What waiting cannot mend; an API server that does not answer is asked again, for ever.
    pub async fn open(
        options: Options,
        gates: &Arc<Gates>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, InjectError> {
        gates.close(GATE, "the Secret is not read yet");
        metrics.injector_certificate(None);
        let client = options.access.client().await?;
        let listener = TcpListener::bind(options.address).await;
        let listener = listener.map_err(|error| InjectError::Bind(options.address, error))?;
        let address = listener
            .local_addr()
            .map_err(|error| InjectError::Bind(options.address, error))?;
        let namespace = client.default_namespace().to_owned();
        let (shown, certificate) = watch::channel(None);
        let (lead, leading) = watch::channel(false);
        let (hold, resign) = Hold::new(client.clone(), identity(), &options.name, lead);
        let keeper = Keeper {
            client: client.clone(),
            names: names(&options.name, &namespace, options.names),
            name: options.name,
            leading,
            shown,
            gates: Arc::clone(gates),
            metrics: Arc::clone(metrics),
        };
        let desk = Desk {
            client,
            template: Template {
                own_namespace: namespace,
                ..options.template
            },
            metrics: Arc::clone(metrics),
        };
        let (end, ended) = watch::channel(false);
        let config = serve::tls(certificate)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(hold.run());
        tasks.spawn(keeper.run());
        let served = tokio::spawn(serve::serve(listener, config, Arc::new(desk), ended));
        Ok(Self {
            address,
            resign,
            end,
            served,
            _tasks: tasks,
        })
    }

    /// What gives up the lease before the end, so that another replica keeps the certificate at once.
    pub fn resign(&self) -> Resign {
        self.resign.clone()
    }

    /// Takes no new connection, and waits for the answers that are under way, for some seconds at most.
    pub async fn end(&mut self) {
        self.end.send_replace(true);
        let _ = (&mut self.served).await;
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// The names that an API server may look for: a Service's, in the forms that there are, and what is given.
fn names(service: &str, namespace: &str, more: Vec<String>) -> Vec<String> {
    let mut names = vec![
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    names.extend(more);
    names
}
