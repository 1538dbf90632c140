//! The conductor: the one task that changes the world. Deltas of the sources come in, are gathered for a moment,
//! compiled, published, and the sockets follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::view::Live;
use crate::balance::Clock;
use crate::downstream::workers::Workers;
use crate::model::{Delta, Reject, SourceName};
use crate::snapshot::{Compiler, Publisher};
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

/// How long changes are gathered after the first. A rollout of many pods is then few publications; a single change is
/// live well within ten milliseconds.
const GATHER: Duration = Duration::from_millis(2);

pub(super) struct Conductor {
    clock: Clock,
    metrics: Arc<Metrics>,
    compiler: Compiler,
    publisher: Publisher,
    workers: Arc<Workers>,
    live: Arc<Live>,
    /// What each source left out by itself.
    source_rejects: BTreeMap<SourceName, Vec<Reject>>,
    /// What the union of the sources left out.
    union_rejects: Vec<Reject>,
    bound: BTreeMap<SocketAddr, SocketAddr>,
}

impl Conductor {
    pub(super) fn new(
        clock: Clock,
        metrics: Arc<Metrics>,
        publisher: Publisher,
        workers: Arc<Workers>,
        live: Arc<Live>,
    ) -> Self {
        Self {
            clock,
            compiler: Compiler::new(Arc::clone(&metrics), clock),
            metrics,
            publisher,
            workers,
            live,
            source_rejects: BTreeMap::new(),
            union_rejects: Vec::new(),
            bound: BTreeMap::new(),
        }
    }

    /// Takes a source's change; it is live after [`publish`](Self::publish).
    pub(super) fn take(&mut self, source: &SourceName, delta: Delta, rejects: Option<Vec<Reject>>) {
        let applied = self.compiler.apply(source, delta, self.clock.now());
        self.union_rejects = applied.rejects;
        if let Some(rejects) = rejects {
            for reject in &rejects {
                tracing::warn!("left out: {reject}");
            }
            self.source_rejects.insert(source.clone(), rejects);
        }
    }

    /// Makes everything taken so far live.
    pub(super) fn publish(&mut self) {
        let generation = self.compiler.publish(&self.publisher);
        let rejects = self.rejects();
        self.live.set_rejects(rejects.clone());
        let now = crate::telemetry::record::unix_us(std::time::SystemTime::now());
        self.metrics.snapshot_published(generation, rejects.len(), now);
    }

    /// Everything that is left out now.
    pub(super) fn rejects(&self) -> Vec<Reject> {
        self.source_rejects.values().flatten().chain(&self.union_rejects).cloned().collect()
    }

    /// Binds what is new and closes what is gone. At the start an address that cannot be bound is an error, later it is
    /// reported and tried again with the next change.
    pub(super) async fn bind(&mut self) -> Result<BTreeMap<SocketAddr, SocketAddr>, BindError> {
        let wanted: BTreeSet<SocketAddr> = self.compiler.addresses().collect();
        let gone: Vec<_> = self.bound.keys().filter(|address| !wanted.contains(address)).copied().collect();
        for address in gone {
            self.workers.close(address).await;
            self.bound.remove(&address);
            tracing::info!(%address, "closed");
        }
        let mut failed = None;
        for address in wanted {
            if self.bound.contains_key(&address) {
                continue;
            }
            match self.workers.listen(address, &self.metrics).await {
                Ok(bound) => {
                    tracing::info!(address = %bound, "listening");
                    self.bound.insert(address, bound);
                }
                Err(error) => failed = Some(BindError { address, error }),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(self.bound.clone()),
        }
    }

    /// Follows the sources for the life of the process.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        while let Some(message) = inbox.recv().await {
            let mut waiting = Vec::new();
            self.handle(message, &mut waiting);
            tokio::time::sleep(GATHER).await;
            while let Ok(message) = inbox.try_recv() {
                self.handle(message, &mut waiting);
            }
            self.publish();
            if let Err(error) = self.bind().await {
                tracing::error!("{error}");
            }
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    fn handle(&mut self, message: Message, waiting: &mut Vec<oneshot::Sender<()>>) {
        let Message::Change { source, delta, rejects, done } = message;
        self.take(&source, delta, rejects);
        waiting.extend(done);
    }
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
