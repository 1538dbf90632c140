//! The conductor: the one task that changes the world. Deltas of the sources come in, are gathered for a moment,
//! compiled, published, and the sockets follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::certificates::Desk;
use super::names::NameDesk;
use super::view::Live;
use crate::balance::Clock;
use crate::downstream::workers::Workers;
use crate::kubernetes::Sockets;
use crate::model::{Delta, Reject, SourceName, Transport};
use crate::runtime::pace::Pace;
use crate::snapshot::Compiler;
use crate::telemetry::metrics::Metrics;

/// What the conductor is told.
pub(super) enum Message {
    /// A source changed.
    Change {
        /// Which.
        source: SourceName,
        /// What.
        delta: Delta,
        /// All that the source leaves out now; none: as before.
        rejects: Option<Vec<Reject>>,
        /// Told when it is live.
        done: Option<oneshot::Sender<()>>,
    },
}

/// When an address that could not be bound is tried again, if nothing changes before.
const BIND_AGAIN: Duration = Duration::from_secs(10);

/// Sockets by what was configured: where they are.
pub(super) type Bound = BTreeMap<(SocketAddr, Transport), SocketAddr>;

pub(super) struct Conductor {
    clock: Clock,
    metrics: Arc<Metrics>,
    compiler: Compiler,
    workers: Arc<Workers>,
    live: Arc<Live>,
    desk: Arc<Desk>,
    names: Arc<NameDesk>,
    /// What each source left out by itself.
    source_rejects: BTreeMap<SourceName, Vec<Reject>>,
    bound: Bound,
    /// Whether some address could not be bound.
    has_failed: bool,
}

impl Conductor {
    pub(super) fn new(
        compiler: Compiler,
        clock: Clock,
        metrics: Arc<Metrics>,
        workers: Arc<Workers>,
        live: Arc<Live>,
        desk: Arc<Desk>,
        names: Arc<NameDesk>,
    ) -> Self {
        Self {
            clock,
            compiler,
            metrics,
            workers,
            live,
            desk,
            names,
            source_rejects: BTreeMap::new(),
            bound: BTreeMap::new(),
            has_failed: false,
        }
    }

    /// Takes a source's change; it is live when this returns.
    pub(super) fn take(&mut self, source: &SourceName, delta: Delta, rejects: Option<Vec<Reject>>) {
        self.live.follow(&delta);
        self.desk.follow(source, &delta);
        let may_be_another = delta.identity.is_some();
        let applied = self.compiler.apply(source, delta, self.clock.now());
        if may_be_another {
            let identity = self.compiler.identity();
            let ends = identity.and_then(|identity| u64::try_from(identity.certificate.not_after()).ok());
            self.metrics.identity(ends);
        }
        if let Some(names) = applied.names {
            self.names.want(names);
        }
        let news = applied.rejects.iter().chain(rejects.iter().flatten());
        news.for_each(|reject| tracing::warn!("left out: {reject}"));
        if let Some(rejects) = rejects {
            self.source_rejects.insert(source.clone(), rejects);
        }
    }

    /// Tells the counters and the admin listener where things stand.
    pub(super) fn report(&mut self) {
        let rejects = self.rejects();
        let now = crate::telemetry::record::unix_us(std::time::SystemTime::now());
        self.metrics
            .snapshot_published(self.live.generation(), rejects.len(), now);
        self.live.set_rejects(rejects);
    }

    /// Everything that is left out now.
    pub(super) fn rejects(&self) -> Vec<Reject> {
        self.source_rejects
            .values()
            .flatten()
            .cloned()
            .chain(self.compiler.rejects())
            .collect()
    }

    /// Binds what is new and closes what is gone. At the start an address that cannot be bound is an error, later it is
    /// reported and tried again: with the next change, and every ten seconds.
    pub(super) async fn bind(&mut self) -> Result<Bound, BindError> {
        let snapshot = self.live.snapshot();
        let wanted: BTreeSet<_> = snapshot
            .binds()
            .map(|bind| (bind.address, bind.transport))
            .filter(|(_, transport)| transport.is_bound())
            .collect();
        let gone: Vec<_> = self
            .bound
            .keys()
            .filter(|address| !wanted.contains(address))
            .copied()
            .collect();
        for (address, transport) in gone {
            self.workers.close(address, transport).await;
            self.bound.remove(&(address, transport));
            tracing::info!(%address, transport = transport.word(), "closed");
        }
        let mut failed = None;
        let mut sockets = Sockets::default();
        for (address, transport) in wanted {
            if self.bound.contains_key(&(address, transport)) {
                continue;
            }
            match self.workers.listen(address, transport, &self.metrics).await {
                Ok(bound) => {
                    tracing::info!(address = %bound, transport = transport.word(), "listening");
                    self.bound.insert((address, transport), bound);
                }
                Err(error) => {
                    let error = BindError { address, error };
                    sockets.failed.insert((address, transport), error.to_string());
                    failed = Some(error);
                }
            }
        }
        sockets.bound.extend(self.bound.keys());
        self.has_failed = !sockets.failed.is_empty();
        self.live.set_bound(&self.bound, sockets);
        match failed {
            Some(error) => Err(error),
            None => Ok(self.bound.clone()),
        }
    }

    /// Follows the sources for the life of the process.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        // A rollout of many pods is few publications.
        let mut pace = Pace::new();
        loop {
            let patience = match self.has_failed {
                true => BIND_AGAIN,
                false => Duration::MAX,
            };
            let mut gathered = Vec::new();
            match tokio::time::timeout(patience, inbox.recv()).await {
                Ok(Some(message)) => gathered.push(message),
                Ok(None) => return,
                Err(_elapsed) => {
                    if let Err(error) = self.bind().await {
                        tracing::debug!("still: {error}");
                    }
                    continue;
                }
            }
            pace.ready().await;
            let began = Instant::now();
            while let Ok(message) = inbox.try_recv() {
                gathered.push(message);
            }
            let mut waiting = Vec::new();
            for Change {
                source,
                delta,
                rejects,
                done,
            } in gather(gathered)
            {
                self.take(&source, delta, rejects);
                waiting.extend(done);
            }
            self.report();
            if let Err(error) = self.bind().await {
                tracing::error!("{error}");
            }
            pace.ended(began);
            for done in waiting {
                let _ = done.send(());
            }
        }
    }
}

/// What one source has said since the last publication, as one change.
struct Change {
    source: SourceName,
    delta: Delta,
    rejects: Option<Vec<Reject>>,
    done: Vec<oneshot::Sender<()>>,
}

/// One change per source, in the order of their first messages.
fn gather(messages: Vec<Message>) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for Message::Change {
        source,
        delta,
        rejects,
        done,
    } in messages
    {
        match changes.iter_mut().find(|change| change.source == source) {
            Some(change) => {
                change.delta.extend(delta);
                change.rejects = rejects.or(change.rejects.take());
                change.done.extend(done);
            }
            None => changes.push(Change {
                source,
                delta,
                rejects,
                done: done.into_iter().collect(),
            }),
        }
    }
    changes
}

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}{}", hint(error))]
pub(super) struct BindError {
    address: SocketAddr,
    error: std::io::Error,
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process listens there (see: ss -ltnp)",
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start"
        }
        std::io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    }
}
