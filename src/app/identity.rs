//! Who we are towards other sidecars, out of a source that is followed: files, or an agent. Whatever becomes of the source,
//! an identity that is there stays; until there is one the process is not ready.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::agent::{AgentError, Stream};
use super::conductor::Message;
use crate::config::IdentityFiles;
use crate::config::watch::Watch;
use crate::kubernetes::Backoff;
use crate::model::tls::AgentAddress;
use crate::model::{Delta, Identity, SourceName};
use crate::telemetry::gates::Gates;
use crate::telemetry::metrics::Metrics;

/// The gate of an identity: not ready before there is one.
pub(super) const GATE: &str = "identity";

/// Who is told what a source says.
pub(super) struct Follower {
    /// The source.
    pub(super) name: SourceName,
    /// Where changes go.
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) gates: Arc<Gates>,
    /// Who we are, as far as it is known.
    pub(super) now: Option<Arc<Identity>>,
}

/// Nobody wants to know any more: the process ends.
pub(super) struct Over;

/// Follows files. `why` we are nobody at the start, if we are.
pub(super) async fn of_files(
    mut with: Follower,
    files: IdentityFiles,
    mut watch: Watch,
    why: Option<String>,
    mut reread: watch::Receiver<u64>,
) {
    with.remark(why.unwrap_or_default());
    loop {
        tokio::select! {
            () = watch.changed() => {}
            asked = reread.changed() => if asked.is_err() { return },
        }
        let wanted = files.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || wanted.read()).await else {
            continue;
        };
        watch.follow(&read.files);
        if with.take(read.identity).await.is_err() {
            return;
        }
    }
}

/// Follows an agent.
pub(super) async fn of_agent(mut with: Follower, agent: AgentAddress, mut reread: watch::Receiver<u64>) {
    let mut backoff = Backoff::default();
    let mut said = String::new();
    with.remark(format!("{agent} was not asked yet"));
    loop {
        let why = match listen(&mut with, &agent, &mut backoff).await {
            Ok(never) => match never {},
            Err(Ended::Over) => return,
            Err(Ended::Agent(error)) => format!("the agent {agent} gives no identity: {error}"),
        };
        // Of one reason one line tells, however often it comes.
        if said == why {
            tracing::debug!("{why}");
        } else {
            tracing::warn!("{why}; who we are stays as it is, and it is asked again");
            said.clone_from(&why);
        }
        with.remark(why);
        tokio::select! {
            () = tokio::time::sleep(backoff.failed(fastrand::f64())) => {}
            asked = reread.changed() => if asked.is_err() { return },
        }
    }
}

/// Why a stream is over.
enum Ended {
    /// The agent.
    Agent(AgentError),
    /// The process.
    Over,
}

impl From<Over> for Ended {
    fn from(Over: Over) -> Self {
        Self::Over
    }
}

impl From<AgentError> for Ended {
    fn from(error: AgentError) -> Self {
        Self::Agent(error)
    }
}

/// Listens to an agent for as long as it speaks.
async fn listen(
    with: &mut Follower,
    agent: &AgentAddress,
    backoff: &mut Backoff,
) -> Result<Infallible, Ended> {
    let mut stream = Stream::open(agent).await?;
    loop {
        let said = stream.next().await?;
        if said.is_ok() {
            backoff.succeeded();
        }
        with.take(said.map(Arc::new)).await?;
    }
}

impl Follower {
    /// Takes what the source says; without anything to use, who we are stays as it is.
    async fn take(&mut self, read: Result<Arc<Identity>, String>) -> Result<(), Over> {
        let identity = match (read, &self.now) {
            (Ok(identity), Some(before)) if identity == *before => {
                self.remark(String::new());
                return Ok(());
            }
            (Ok(identity), _) => identity,
            (Err(why), Some(before)) => {
                self.metrics.reload(false);
                tracing::error!(id = %before.id, "the identity was not taken over, the one before stays: {why}");
                self.remark(why);
                return Ok(());
            }
            (Err(why), None) => {
                self.remark(why);
                return Ok(());
            }
        };
        self.metrics.reload(true);
        tracing::info!(id = %identity.id, until = identity.certificate.not_after(), "a new identity");
        self.now = Some(Arc::clone(&identity));
        let (done, live) = oneshot::channel();
        let change = Message::Change {
            source: self.name.clone(),
            delta: Delta {
                identity: Some(Some(identity)),
                ..Delta::default()
            },
            rejects: None,
            done: Some(done),
        };
        if self.messages.send(change).await.is_err() || live.await.is_err() {
            return Err(Over);
        }
        self.remark(String::new());
        Ok(())
    }

    /// Tells readiness what is not well; empty: all is.
    fn remark(&self, why: String) {
        match self.now {
            Some(_) => self.gates.open_but(GATE, why),
            None => self.gates.close(GATE, why),
        }
    }
}
