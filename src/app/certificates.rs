//! Certificates by ACME, between those who want them (listeners of all sources), the runner that gets them, the conductor
//! that makes them live, and those who ask how things stand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

use super::conductor::Message;
use super::view::Live;
use crate::acme::store::unix;
use crate::acme::vault::{Files, StoreError, Vault};
use crate::acme::{self, Runner, Status, Wanted};
use crate::kubernetes::{ClusterOptions, Secrets};
use crate::model::acme::AcmeStore;
use crate::model::{Acme, Delta, ListenerName, ManagedName, SourceName};
use crate::telemetry::gates::Gates;
use crate::telemetry::metrics::{self, Metrics};

/// The gate by which `/readyz` says what is not well with certificates. It is never closed: the other names are served.
const GATE: &str = "certificates";
/// How often the gate's remark, which has times in it, is made anew.
const RENEW_REMARK: Duration = Duration::from_secs(10);

/// Collects what is wanted.
pub(super) struct Desk {
    by_listener: Mutex<BTreeMap<(SourceName, ListenerName), Vec<ManagedName>>>,
    wanted: watch::Sender<Wanted>,
}

impl Desk {
    /// With the account that the process starts with.
    pub(super) fn new(acme: Option<Arc<Acme>>) -> Self {
        let wanted = Wanted {
            acme,
            ..Wanted::default()
        };
        Self {
            by_listener: Mutex::default(),
            wanted: watch::Sender::new(wanted),
        }
    }

    /// What is wanted, now and later.
    pub(super) fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// The account is another one from now on.
    pub(super) fn set_acme(&self, acme: Option<Arc<Acme>>) {
        self.wanted.send_modify(|wanted| wanted.acme = acme);
    }

    /// The process ends: nothing more is ordered.
    pub(super) fn end(&self) {
        self.wanted.send_modify(|wanted| wanted.ends = true);
    }

    /// Follows the listeners of a source.
    pub(super) fn follow(&self, source: &SourceName, delta: &Delta) {
        if delta.listeners.is_empty() {
            return;
        }
        let mut by_listener = self.by_listener.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, listener) in &delta.listeners {
            let key = (source.clone(), name.clone());
            let tls = listener.as_ref().and_then(|listener| listener.tls.as_ref());
            match tls.filter(|tls| !tls.managed.is_empty()) {
                Some(tls) => by_listener.insert(key, tls.managed.clone()),
                None => by_listener.remove(&key),
            };
        }
        let names = by_listener.values().flatten().cloned().collect();
        self.wanted.send_if_modified(|wanted| {
            let other = wanted.names != names;
            wanted.names = names;
            other
        });
    }
}

/// Where accounts keep their things: in a directory, or in Secrets of the cluster that is followed, if there is one.
pub(super) fn vaults(cluster: Option<ClusterOptions>) -> acme::Vaults {
    Arc::new(move |acme| Box::pin(open(cluster.clone(), acme)))
}

async fn open(cluster: Option<ClusterOptions>, acme: Arc<Acme>) -> Result<Arc<dyn Vault>, StoreError> {
    match &acme.store {
        AcmeStore::Directory(path) => {
            let (path, directory) = (path.clone(), acme.directory.clone());
            let opened = tokio::task::spawn_blocking(move || Files::open(&path, &directory)).await;
            let files = opened.unwrap_or_else(|error| Err(StoreError::new("store", error.to_string())))?;
            Ok(Arc::new(files))
        }
        AcmeStore::Secrets { namespace } => {
            let cluster = cluster.ok_or_else(|| {
                StoreError::new(
                    "acme.secrets",
                    "no cluster is followed; run it with --kubernetes, or write acme.store instead",
                )
            })?;
            let secrets = Secrets::open(
                &cluster.access,
                namespace.as_deref(),
                &acme.directory,
                acme.pace.lease,
                cluster.snapshot.as_deref(),
            );
            Ok(Arc::new(secrets.await?))
        }
    }
}

/// What following the runner takes.
pub(super) struct Follower {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gates: Arc<Gates>,
    pub(super) live: Arc<Live>,
}

/// Lets the runner run, for the life of the process.
pub(super) async fn follow(runner: Runner, with: Follower) {
    let (changes, mut inbox) = mpsc::channel(1);
    let mut status = runner.status();
    let mut is_known = false;
    let mut run = std::pin::pin!(runner.run(changes));
    loop {
        let now = status.borrow_and_update().clone();
        is_known |= now != Status::default();
        if is_known {
            with.report(now);
        }
        tokio::select! {
            () = &mut run => return,
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RENEW_REMARK), if is_known => {}
            change = inbox.recv() => {
                let Some(acme::Change { delta, live }) = change else { return };
                let change = Message::Change {
                    source: SourceName::new(acme::SOURCE),
                    delta,
                    rejects: None,
                    done: Some(live),
                };
                if with.messages.send(change).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Follower {
    fn report(&self, status: Status) {
        self.gates.open_but(GATE, status.remark(unix(SystemTime::now())));
        let certificates = status.certificates.iter();
        self.metrics.acme(metrics::Acme {
            certificates: certificates
                .map(|one| (one.name.clone(), one.not_after))
                .collect(),
            orders_ok: status.orders_ok,
            orders_failed: status.orders_failed,
        });
        self.live.set_certificates(status.certificates);
    }
}
