//! A cluster: the API server feeds the index.
//!
//! One task per kind lists and watches ([`watch`]), what it does next being decided by a pure state machine ([`follow`]). What it
//! reads goes straight into the index, as the pruned types of [`objects`](crate::kubernetes::objects); there is no cache of
//! whole objects beside it. One task owns the index ([`hub`]): it gathers what comes closely together and gives it out as one
//! change.
//!
//! ```text
//! API server ─► watch (one task per kind) ─► hub: index, gather ─► Change ─► conductor
//!                  └ follow: pure               └ Health ─► readiness, metrics, log
//! ```
//!
//! Nothing is given out before every kind was read once. After that the last good world stays whatever becomes of the API
//! server: a list that is read anew is compared with what is known and gives the difference, and nothing is emptied in between.
//!
//! The replica that holds the lease ([`lease`]) tells the objects how they fare, in their status ([`writer`]) and by Events
//! ([`report`]); every replica serves.
//!
//! Where Gateways get Services ([`fronts`]), the same replica writes those.
//!
//! With a directory for it, what the API server says is kept on disk ([`keep`]) and served at the next start if it is away then.
//!
//! Certificates by ACME may be kept there too, in Secrets of our own namespace ([`secrets`]), so that replicas share them.
//!
//! Kinds of the Gateway API may be missing, or be there in an older version: that is asked of the API server, and asked again.

mod access;
mod backoff;
mod events;
mod follow;
mod fronts;
mod hub;
mod keep;
mod lease;
mod report;
mod reports;
mod requests;
mod secrets;
mod watch;
mod wire;
mod writer;

use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot, watch as latest};
use tokio::task::JoinSet;

pub use access::{Access, AccessError};
pub use backoff::Backoff;
pub use hub::{Change, Health};
use hub::{Hub, Wake};
use keep::{Journal, Keeper};
pub use lease::{Hold, Resign, ask};
pub use secrets::{LEASE as ACME_LEASE, Secrets};

use crate::kubernetes::overview::Overview;
use crate::kubernetes::status::{Sockets, StatusAddress};
use crate::kubernetes::{Object, Settings};

/// What was read and waits for the index; then its readers wait, and with them the API server.
const MAX_WAITING: usize = 1024;

/// Which cluster is followed, and how.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Where its API server is.
    pub access: Access,
    /// What the objects do not say.
    pub settings: Settings,
    /// Whether objects are told how they fare.
    pub update_status: bool,
    /// Where clients come to, which Gateways and Ingresses are told when they are bound on every address.
    pub status_address: Option<StatusAddress>,
    /// The directory where what the API server says is kept, for a start without it.
    pub snapshot: Option<PathBuf>,
}

/// Tells how each object of a cluster fares.
#[derive(Clone, Debug)]
pub struct Overviews(mpsc::Sender<hub::Told>);

impl Overviews {
    /// Now. Waits for the owner of the index: call it on a thread that may wait, not on one of tasks.
    pub fn now(&self) -> Vec<Overview> {
        let (reply, all) = oneshot::channel();
        match self.0.blocking_send(hub::Told::Overview(reply)) {
            Ok(()) => all.blocking_recv().unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

/// A cluster that is followed. Dropping it ends that.
#[derive(Debug)]
pub struct Cluster {
    changes: mpsc::Receiver<Change>,
    health: latest::Receiver<Health>,
    sockets: latest::Sender<Sockets>,
    resign: Option<Resign>,
    overviews: Overviews,
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// Finds the API server's address and our identity there, and begins to follow it. Call it within a runtime.
    ///
    /// # Errors
    /// Only what waiting cannot mend: no configuration, or one that cannot be used. An API server that does not answer is
    /// asked again, for ever.
    pub async fn open(options: &ClusterOptions) -> Result<Self, AccessError> {
        let client = options.access.client().await?;
        let mut tasks = JoinSet::new();
        let (said, inbox) = mpsc::channel(MAX_WAITING);
        let (keeper, kept) = keeper(options.snapshot.clone(), &mut tasks).await;
        for kind in options.settings.kinds() {
            tasks.spawn(watch::follow(client.clone(), *kind, said.clone(), keeper.clone()));
        }
        let (sender, changes) = mpsc::channel(1);
        let (tell, health) = latest::channel(Health::default());
        let mut hub = Hub::new(options.settings.clone(), options.status_address.clone());
        hub.restore(kept);
        let wake = Wake::default();
        let (sockets, became) = latest::channel(Sockets::default());
        tasks.spawn(hub::run(hub, inbox, sender, tell, wake.clone(), became));
        let overviews = Overviews(said.clone());
        let mut resign = None;
        if options.update_status {
            let me = identity();
            let (lead, leading) = latest::channel(false);
            let (hold, handle) = Hold::new(client.clone(), me.clone(), lease::NAME, lead);
            resign = Some(handle);
            tasks.spawn(hold.run());
            if let Some(services) = &options.settings.gateway_services {
                tasks.spawn(fronts::write(
                    client.clone(),
                    services.clone(),
                    said.clone(),
                    leading.clone(),
                    wake.fronts,
                ));
            }
            tasks.spawn(writer::write(
                client.clone(),
                said.clone(),
                leading.clone(),
                wake.statuses,
            ));
            tasks.spawn(report::report(client, me, said.clone(), leading, wake.findings));
        }
        Ok(Self {
            changes,
            health,
            sockets,
            resign,
            overviews,
            _tasks: tasks,
        })
    }

    /// What gives up the lease before the end, so that another replica writes at once; none where nothing is written.
    pub fn resign(&self) -> Option<Resign> {
        self.resign.clone()
    }

    /// Waits for the next change; the first is all there is. None: it has ended. Cancel-safe: a change is given or kept.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }

    /// Says what became of the sockets: what is served on those that are bound may be called so.
    pub fn bound(&self, sockets: Sockets) {
        self.sockets.send_replace(sockets);
    }

    /// What tells how each object fares.
    pub fn overviews(&self) -> Overviews {
        self.overviews.clone()
    }

    /// How things stand with the API server, now and later.
    pub fn health(&self) -> latest::Receiver<Health> {
        self.health.clone()
    }
}

/// What keeps objects in a directory, and those that were kept there. A directory that cannot be used is told and done without:
/// there may be an API server.
async fn keeper(directory: Option<PathBuf>, tasks: &mut JoinSet<()>) -> (Keeper, Vec<Object>) {
    let Some(directory) = directory else {
        return (Keeper::default(), Vec::new());
    };
    let path = directory.clone();
    let opened = tokio::task::spawn_blocking(move || Journal::open(&directory)).await;
    match opened.map_err(std::io::Error::other).flatten() {
        Ok((journal, kept)) => {
            tracing::info!(
                objects = kept.len(),
                "what was kept in {} is read",
                path.display()
            );
            let (keeper, writer) = Keeper::new(journal);
            tasks.spawn(writer.run());
            (keeper, kept)
        }
        Err(error) => {
            tracing::error!("nothing is kept on disk: {}: {error}", path.display());
            (Keeper::default(), Vec::new())
        }
    }
}

/// A name for this replica that no other has: the pod's, and a number, because a pod's name may come again.
pub fn identity() -> String {
    let host = rustix::system::uname();
    format!("{}_{:016x}", host.nodename().to_string_lossy(), fastrand::u64(..))
}
