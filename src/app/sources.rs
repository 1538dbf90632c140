//! Sources: where parts of the world come from, read at the start and followed after.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::conductor::Message;
use super::identity;
use super::process::Process;
use super::view::Live;
use crate::config::{self, IdentityFiles, Settings, watch};
use crate::downstream::workers::Workers;
use crate::kubernetes::{self, Cluster, Manifests};
use crate::model::tls::AgentAddress;
use crate::model::{Delta, Identity, Reject, SourceName, World};
use crate::telemetry::gates::Gates;
use crate::telemetry::metrics::{Kubernetes, Metrics};

/// Where a part of the world comes from.
#[derive(Debug)]
pub enum Source {
    /// A configuration file, read again when it changes.
    File(PathBuf),
    /// A world that is given, from the command line or a test.
    Given(SourceName, Box<World>),
    /// A directory of Kubernetes objects, followed.
    Manifests(PathBuf, kubernetes::Settings),
    /// A Kubernetes cluster, followed.
    Kubernetes(kubernetes::ClusterOptions),
    /// Who we are towards other sidecars: files, read again when they change. They need not be there yet; without them the
    /// process is not ready.
    Identity(IdentityFiles),
    /// The same from an agent on this host, by SPIFFE's Workload API.
    Agent(AgentAddress),
}

/// What is left to do for a source once it was read.
pub(super) enum Follow {
    Nothing,
    File {
        path: PathBuf,
        watch: watch::Watch,
        world: Box<World>,
        settings: Box<Settings>,
    },
    Manifests(Manifests),
    Kubernetes(Cluster),
    Identity {
        files: IdentityFiles,
        watch: watch::Watch,
        /// Who we are, or why we are nobody.
        now: Result<Arc<Identity>, String>,
    },
    Agent(AgentAddress),
}

/// A source as it was opened: its name, all it has, what of it was left out, and how it is followed.
pub(super) type Opened = (SourceName, Delta, Vec<Reject>, Follow);

/// Reads a source for the first time. Waits for disks; call it within a runtime, but not on a thread of its tasks.
pub(super) fn open(source: Source) -> anyhow::Result<Opened> {
    match source {
        Source::Given(name, world) => {
            let delta = World::default().delta_to(&world);
            Ok((name, delta, Vec::new(), Follow::Nothing))
        }
        Source::File(path) => {
            // Watched before it is read, so that no change falls between.
            let watch = watch::Watch::start(&path, watch::DEBOUNCE)?;
            let loaded = config::load(&path).map_err(|refused| anyhow::anyhow!("{}", refused.human()))?;
            watch.follow(&loaded.files);
            let delta = World::default().delta_to(&loaded.world);
            let name = SourceName::new(super::shown(&path));
            Ok((
                name,
                delta,
                Vec::new(),
                Follow::File {
                    path,
                    watch,
                    world: Box::new(loaded.world),
                    settings: Box::new(loaded.settings),
                },
            ))
        }
        Source::Manifests(path, settings) => {
            let name = SourceName::new(super::shown(&path));
            let (manifests, delta, rejects) = Manifests::open(&path, settings)
                .with_context(|| format!("cannot use {} as manifests", path.display()))?;
            Ok((name, delta, rejects, Follow::Manifests(manifests)))
        }
        Source::Identity(files) => {
            // Watched before it is read, so that no change falls between.
            let watch = watch::Watch::start(&files.cert, watch::DEBOUNCE)?;
            let read = files.read();
            watch.follow(&read.files);
            let name = SourceName::new(super::shown(&files.cert));
            let mut delta = Delta::default();
            match &read.identity {
                Ok(identity) => delta.identity = Some(Some(Arc::clone(identity))),
                Err(why) => tracing::warn!("there is no identity yet: {why}"),
            }
            let now = read.identity;
            Ok((name, delta, Vec::new(), Follow::Identity { files, watch, now }))
        }
        // What it says comes later, as the first change: it may be away, and nothing but readiness waits for it.
        Source::Agent(agent) => {
            let name = SourceName::new(agent.to_string());
            Ok((name, Delta::default(), Vec::new(), Follow::Agent(agent)))
        }
        // What is there comes later, as the first change: the API server may be away, and nothing else waits for it.
        Source::Kubernetes(options) => {
            let cluster = tokio::runtime::Handle::current().block_on(Cluster::open(&options))?;
            let name = SourceName::new(kubernetes::SOURCE);
            Ok((name, Delta::default(), Vec::new(), Follow::Kubernetes(cluster)))
        }
    }
}

/// What following a source takes.
pub(super) struct Follower {
    /// Asks a file to be read again without a change seen.
    pub(super) reread: tokio::sync::watch::Receiver<u64>,
    /// Where changes go.
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) process: Arc<Process>,
    pub(super) workers: Arc<Workers>,
    pub(super) gates: Arc<Gates>,
    pub(super) live: Arc<Live>,
}

/// Follows a source for the life of the process.
pub(super) async fn follow(name: SourceName, follow: Follow, with: Follower) {
    let Follower {
        mut reread,
        messages,
        metrics,
        process,
        workers,
        gates,
        live: live_view,
    } = with;
    match follow {
        Follow::Nothing => {}
        Follow::Identity { files, watch, now } => {
            let (now, why) = match now {
                Ok(identity) => (Some(identity), None),
                Err(why) => (None, Some(why)),
            };
            let with = identity::Follower {
                name,
                messages,
                metrics,
                gates,
                now,
            };
            identity::of_files(with, files, watch, why, reread).await;
        }
        Follow::Agent(agent) => {
            let with = identity::Follower {
                name,
                messages,
                metrics,
                gates,
                now: None,
            };
            identity::of_agent(with, agent, reread).await;
        }
        Follow::Manifests(mut manifests) => loop {
            let (delta, rejects) = manifests.next().await;
            let change = Message::Change {
                source: name.clone(),
                delta,
                rejects: Some(rejects),
                done: None,
            };
            if messages.send(change).await.is_err() {
                return;
            }
        },
        Follow::Kubernetes(mut cluster) => {
            let mut health = cluster.health();
            let mut is_live = false;
            let mut sockets = live_view.sockets();
            sockets.mark_changed();
            loop {
                let now = health.borrow_and_update().clone();
                report(&now, is_live, &gates, &metrics);
                tokio::select! {
                    changed = health.changed() => if changed.is_err() { return },
                    changed = sockets.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        cluster.bound(sockets.borrow_and_update().clone());
                    }
                    change = cluster.next() => {
                        let Some(kubernetes::Change { delta, rejects }) = change else {
                            return;
                        };
                        let (done, live) = oneshot::channel();
                        let change = Message::Change {
                            source: name.clone(),
                            delta,
                            rejects: Some(rejects),
                            done: Some(done),
                        };
                        if messages.send(change).await.is_err() || live.await.is_err() {
                            return;
                        }
                        is_live = true;
                    }
                }
            }
        }
        Follow::File {
            path,
            mut watch,
            mut world,
            settings: started,
        } => {
            let mut live = started.clone();
            loop {
                tokio::select! {
                    () = watch.changed() => {}
                    asked = reread.changed() => if asked.is_err() { return },
                }
                let read = path.clone();
                // Reading waits for a disk, and a large file takes a while to convert.
                let loaded = match tokio::task::spawn_blocking(move || config::load(read)).await {
                    Ok(Ok(loaded)) => loaded,
                    Ok(Err(refused)) => {
                        metrics.reload(false);
                        if !refused.files().is_empty() {
                            watch.follow(refused.files());
                        }
                        tracing::error!(
                            "{} was not taken over, the configuration before stays:\n{}",
                            path.display(),
                            refused.human()
                        );
                        continue;
                    }
                    Err(error) => {
                        metrics.reload(false);
                        tracing::error!("{} cannot be read again: {error}", path.display());
                        continue;
                    }
                };
                metrics.reload(true);
                watch.follow(&loaded.files);
                let delta = world.delta_to(&loaded.world);
                tracing::info!(file = %path.display(), changed = !delta.is_empty(), "configuration read again");
                *world = loaded.world;
                let rejects = process
                    .apply(&workers, &name, &started, &mut live, &loaded.settings)
                    .await;
                let change = Message::Change {
                    source: name.clone(),
                    delta,
                    rejects: Some(rejects),
                    done: None,
                };
                if messages.send(change).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The gate of a cluster: `/readyz` says by this name whether it was read, and what is not well with it.
pub(super) const KUBERNETES_GATE: &str = "kubernetes";

/// Tells readiness and metrics how things stand with the API server. Once its world is live, that stays, and so does
/// readiness.
fn report(health: &kubernetes::Health, is_live: bool, gates: &Gates, metrics: &Metrics) {
    let remark = health.remark();
    if is_live {
        gates.open_but(KUBERNETES_GATE, remark);
    } else {
        gates.close(KUBERNETES_GATE, remark);
    }
    metrics.kubernetes(Kubernetes {
        synced: is_live && !health.restored,
        away: health.away.len() as u64,
        events: health.events,
        lists: health.lists,
        failures: health.failures,
    });
}
