//! The composition root: everything is wired here, and nobody uses this room but `main`, the commands and the tests.
//!
//! ```text
//! sources ──deltas──► conductor ──snapshot──► workers
//!    ▲                    │ binds sockets, reports
//!  files, manifests       ▼
//!                     admin: metrics, readiness, what is served
//! ```
//! [`start`] brings a process up in the order in which nothing can be missed: sources are read, the first snapshot is
//! compiled, sockets are bound, and only then is the process ready.

mod agent;
mod certificates;
mod conductor;
mod identity;
mod names;
mod process;
mod review;
mod sources;
mod view;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::certificates::Desk;
use self::conductor::{Conductor, Message};
use self::names::NameDesk;
use self::process::Process;
pub use self::sources::Source;
pub use self::view::Live;
pub(crate) use self::view::object_view;
use crate::acme;
use crate::admin::{self, AdminState};
use crate::balance::{Clock, Reason, Vantage};
use crate::config::Settings;
use crate::downstream::workers::Workers;
use crate::inject::{self, Injector};
use crate::kubernetes;
use crate::l7::worker::WorkerParts;
use crate::model::{Reject, SourceName, Transport};
use crate::snapshot::Compiler;
use crate::telemetry::gates::Gates;
use crate::telemetry::metrics::{BackendMetrics, Metrics};
use crate::upstream::probe::{Change, Prober, Subject};

/// What a process is started with.
#[derive(Debug, Default)]
pub struct Options {
    /// How the process shall be.
    pub settings: Settings,
    /// Where its world comes from.
    pub sources: Vec<Source>,
}

/// A running process.
pub struct Running {
    /// Where it listens: the address as configured, and as bound.
    pub addresses: BTreeMap<SocketAddr, SocketAddr>,
    /// The same of where it takes datagrams.
    pub datagrams: BTreeMap<SocketAddr, SocketAddr>,
    /// Where the admin listener is, if anywhere.
    pub admin: Option<SocketAddr>,
    /// What was left out of the sources at the start.
    pub rejects: Vec<Reject>,
    process: Arc<Process>,
    gates: Arc<Gates>,
    live: Arc<Live>,
    messages: mpsc::Sender<Message>,
    reread: watch::Sender<u64>,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    tasks: Vec<JoinHandle<()>>,
    /// What is given up before the end.
    resign: Vec<kubernetes::Resign>,
    desk: Arc<Desk>,
    /// Whether the lock of the ACME store is given back.
    rested: watch::Receiver<bool>,
    injector: Option<Injector>,
}

/// Messages that may wait for the conductor; sources wait when it is full.
const MAX_MESSAGES: usize = 64;
/// How long the lock of the ACME store may take to be given back, its last orders included.
const REST: Duration = Duration::from_secs(12);
/// How often a drain looks whether everything has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Starts a process: reads the sources, compiles, binds, serves. Call it within a multi-thread runtime.
///
/// # Errors
/// A source that cannot be read, an address that cannot be bound, a log that cannot be opened.
pub async fn start(options: Options) -> anyhow::Result<Running> {
    bring_up(options, None).await
}

/// Starts a process that injects sidecars, and serves nothing else but its admin listener.
///
/// # Errors
/// An address that cannot be bound, an access to the API server that cannot be used.
pub async fn start_injector(settings: Settings, injector: inject::Options) -> anyhow::Result<Running> {
    let options = Options {
        settings,
        sources: Vec::new(),
    };
    bring_up(options, Some(injector)).await
}

async fn bring_up(options: Options, injector: Option<inject::Options>) -> anyhow::Result<Running> {
    let Options { settings, sources } = options;
    let worker_count = settings.workers.unwrap_or_else(available_workers).max(1);
    let clock = Clock::new();
    let metrics = Metrics::new(worker_count);
    let gates = Arc::new(Gates::closed([
        ("snapshot", "nothing is compiled yet"),
        ("listeners", "nothing is bound yet"),
    ]));
    let desk = Arc::new(Desk::new(settings.acme.clone()));
    let names = Arc::new(NameDesk::new(settings.dns_refresh));
    let process = Arc::new(Process::start(&settings, &metrics, &desk, &names)?);
    let vantage = Vantage::new(settings.zone.as_deref(), &host_name());
    let compiler = Compiler::at(vantage, Arc::clone(&metrics));
    let readers = compiler.readers();

    let parts = (0..worker_count).map(|index| WorkerParts {
        index,
        clock,
        readers: readers.clone(),
        metrics: Arc::clone(&metrics),
        settings: process.for_worker(&settings),
        seed: fastrand::u64(..),
    });
    let workers = Arc::new(Workers::start(parts.collect()).context("cannot start the worker threads")?);

    let (messages, inbox) = mpsc::channel(MAX_MESSAGES);
    let live = Arc::new(Live::new(clock, readers));
    let mut conductor = Conductor::new(
        compiler,
        clock,
        Arc::clone(&metrics),
        Arc::clone(&workers),
        Arc::clone(&live),
        Arc::clone(&desk),
        Arc::clone(&names),
    );
    let mut opened = Vec::new();
    if sources
        .iter()
        .any(|source| matches!(source, Source::Kubernetes(_)))
    {
        gates.close(sources::KUBERNETES_GATE, "nothing is read yet");
    }
    let is_identity = |source: &Source| matches!(source, Source::Identity(_) | Source::Agent(_));
    if sources.iter().any(is_identity) {
        gates.close(identity::GATE, "nothing is read yet");
    }
    let cluster = sources.iter().find_map(|source| match source {
        Source::Kubernetes(options) => Some(options.clone()),
        _ => None,
    });
    for source in sources {
        let (name, delta, rejects, follow) =
            tokio::task::spawn_blocking(move || sources::open(source)).await??;
        conductor.take(&name, delta, Some(rejects));
        opened.push((name, follow));
    }
    let wanted = desk.wanted();
    let (runner, delta) = acme::Runner::open(wanted, certificates::vaults(cluster)).await;
    let rested = runner.rested();
    if !delta.is_empty() {
        conductor.take(&SourceName::new(acme::SOURCE), delta, None);
    }
    conductor.report();
    gates.open("snapshot");
    let bound = conductor.bind().await?;
    let bound_for = |wanted| {
        let sockets = bound
            .iter()
            .filter(move |((_, transport), _)| *transport == wanted);
        sockets
            .map(|((configured, _), bound)| (*configured, *bound))
            .collect()
    };
    let (addresses, datagrams) = (bound_for(Transport::Tcp), bound_for(Transport::Udp));
    gates.open("listeners");
    let rejects = conductor.rejects();

    let (reread, asked) = watch::channel(0);
    let mut tasks = vec![tokio::spawn(conductor.run(inbox))];
    let mut resign = Vec::new();
    for (name, follow) in opened {
        if let sources::Follow::Kubernetes(cluster) = &follow {
            resign.extend(cluster.resign());
            live.add_objects(cluster.overviews());
        }
        tasks.push(tokio::spawn(sources::follow(
            name,
            follow,
            sources::Follower {
                reread: asked.clone(),
                messages: messages.clone(),
                metrics: Arc::clone(&metrics),
                process: Arc::clone(&process),
                workers: Arc::clone(&workers),
                gates: Arc::clone(&gates),
                live: Arc::clone(&live),
            },
        )));
    }
    tasks.push(tokio::spawn(certificates::follow(
        runner,
        certificates::Follower {
            messages: messages.clone(),
            metrics: Arc::clone(&metrics),
            gates: Arc::clone(&gates),
            live: Arc::clone(&live),
        },
    )));
    tasks.push(tokio::spawn(names::follow(
        names,
        messages.clone(),
        Arc::clone(&gates),
    )));
    let injector = match injector {
        Some(options) => {
            let injector = Injector::open(options, &gates, &metrics).await?;
            resign.push(injector.resign());
            Some(injector)
        }
        None => None,
    };
    let prober = Prober::new(clock);
    live.set_findings(prober.findings());
    let asked = Arc::clone(&live);
    tasks.push(tokio::spawn(prober.run(
        move || subjects(&asked),
        |subject, change| {
            if change == Change::Sick {
                subject.owner.ejected(Reason::Check as usize);
            }
        },
    )));
    tasks.push(tokio::spawn(review::review(Arc::clone(&live))));
    let admin = match settings.admin.address {
        Some(address) => {
            let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
                format!(
                    "cannot bind the admin listener {address}; choose another with admin.address or --admin"
                )
            })?;
            let bound = listener.local_addr()?;
            let view: Arc<dyn admin::View> = Arc::clone(&live) as _;
            let state = Arc::new(AdminState::new(Arc::clone(&metrics), Arc::clone(&gates), view)?);
            tasks.push(tokio::spawn(admin::serve(
                listener,
                state,
                std::future::pending(),
            )));
            Some(bound)
        }
        None => None,
    };
    Ok(Running {
        addresses,
        datagrams,
        admin,
        rejects,
        process,
        gates,
        live,
        messages,
        reread,
        workers,
        metrics,
        tasks,
        resign,
        desk,
        rested,
        injector,
    })
}

impl Running {
    /// Where the listener that was configured for an address is.
    pub fn address(&self, configured: SocketAddr) -> Option<SocketAddr> {
        self.addresses.get(&configured).copied()
    }

    /// Where the API server asks about sidecars, if it does.
    pub fn injector(&self) -> Option<SocketAddr> {
        self.injector.as_ref().map(|injector| injector.address)
    }

    /// What is served, now.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether it is ready for traffic.
    pub fn gates(&self) -> &Arc<Gates> {
        &self.gates
    }

    /// Has every file source read again, as on SIGHUP; the access log is opened anew.
    pub fn reload(&self) {
        self.process.reopen_access_log();
        self.reread.send_modify(|count| *count += 1);
    }

    /// Takes a source's change as if it had come from the source, and waits until it is live.
    pub async fn change(&self, source: &crate::model::SourceName, delta: crate::model::Delta) {
        let (done, wait) = tokio::sync::oneshot::channel();
        let change = Message::Change {
            source: source.clone(),
            delta,
            rejects: None,
            done: Some(done),
        };
        if self.messages.send(change).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Connections open downstream.
    pub fn connections(&self) -> usize {
        self.workers.connections()
    }

    /// Ends in good order: not ready, still accepting for the lag, then no new connections, exchanges finish, at most
    /// for the timeout. True: everything had ended by itself.
    pub async fn drain(mut self) -> bool {
        self.gates.close("draining", "the process is ending");
        let times = self.process.drain();
        self.desk.end();
        let resign: JoinSet<()> = self.resign.drain(..).map(kubernetes::Resign::resign).collect();
        tokio::time::sleep(times.lag).await;
        if let Some(injector) = &mut self.injector {
            injector.end().await;
        }
        let deadline = tokio::time::Instant::now() + times.timeout;
        while times.while_busy && self.is_busy() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        self.workers.drain().await;
        while self.workers.connections() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let ended = self.workers.connections() == 0;
        resign.join_all().await;
        let _ = tokio::time::timeout(REST, self.rested.wait_for(|rested| *rested)).await;
        self.stop().await;
        ended
    }

    /// Whether an app beside may still have work for us: an exchange is under way, or a connection of its own is open. Its
    /// own are those to the loopback interface, and those that the kernel redirected on their way out.
    fn is_busy(&self) -> bool {
        if self.metrics.in_flight() > 0 {
            return true;
        }
        let snapshot = self.live.snapshot();
        snapshot.binds().any(|bind| {
            let is_its_own = bind.address.ip().is_loopback()
                || bind.opening == crate::model::Opening::Redirected(crate::model::Direction::Outbound);
            is_its_own && self.workers.connections_at(bind.address) > 0
        })
    }

    /// Ends at once.
    pub async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            let _ = task.await;
        }
        if let Ok(workers) = Arc::try_unwrap(self.workers).map_err(|_| ()) {
            workers.stop().await;
        }
        self.process.close().await;
    }
}

/// The endpoints that want to be asked how they are.
fn subjects(live: &Live) -> Vec<Subject<Arc<BackendMetrics>>> {
    let mut subjects = Vec::new();
    for backend in live.snapshot().backends() {
        backend.with_fleet(|fleet| {
            let policy = fleet.policy();
            let Some(check) = &policy.check else {
                return;
            };
            // Without an identity there is no way to ask whom mTLS was asked for.
            if policy.mtls.is_some() && policy.tls.is_none() {
                return;
            }
            let check = Arc::new(check.clone());
            subjects.extend(fleet.candidates().iter().map(|candidate| {
                Subject {
                    cell: Arc::clone(&candidate.cell),
                    check: Arc::clone(&check),
                    protocol: candidate.endpoint.protocol.unwrap_or(policy.protocol),
                    ends_ejection: policy
                        .ejection
                        .as_ref()
                        .is_some_and(|ejection| ejection.ends_on_check),
                    owner: Arc::clone(&backend.metrics),
                    tls: policy.tls.clone(),
                    proxy: policy.proxy_protocol,
                }
            }));
        });
    }
    subjects
}

/// The host's name, which is the pod's in Kubernetes; empty if the kernel does not say.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The cores that the process may use: its affinity, and its cgroup's share rounded up.
fn available_workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A path to a configuration file or a directory of manifests, for messages.
pub(crate) fn shown(path: &std::path::Path) -> String {
    PathBuf::from(path).display().to_string()
}
