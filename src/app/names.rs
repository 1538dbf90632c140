//! Names of endpoints, between the backends of all sources that have them, the resolver, the conductor that makes the
//! answers live, and those who ask how things stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::conductor::Message;
use crate::model::{BackendName, Delta, DnsName, SourceName};
use crate::telemetry::gates::Gates;
use crate::upstream::resolve::{self, News, Standing};

/// The source that says what names mean.
const SOURCE: &str = "dns";
/// The gate that is closed until every name that is wanted at the start was asked for once.
const GATE: &str = "names";
/// News of the resolver that wait for the conductor, at most; the resolver waits with more.
const MAX_NEWS: usize = 64;

/// Collects which names are wanted.
pub(super) struct NameDesk {
    by_backend: Mutex<BTreeMap<(SourceName, BackendName), BTreeSet<DnsName>>>,
    wanted: watch::Sender<BTreeSet<DnsName>>,
    refresh: watch::Sender<Duration>,
}

impl NameDesk {
    /// Each name is asked for again after `refresh`.
    pub(super) fn new(refresh: Duration) -> Self {
        Self {
            by_backend: Mutex::default(),
            wanted: watch::Sender::new(BTreeSet::new()),
            refresh: watch::Sender::new(refresh),
        }
    }

    /// Names are asked for again after another time from now on.
    pub(super) fn set_refresh(&self, refresh: Duration) {
        self.refresh.send_replace(refresh);
    }

    /// Follows the backends of a source.
    pub(super) fn follow(&self, source: &SourceName, delta: &Delta) {
        if delta.backends.is_empty() {
            return;
        }
        let mut by_backend = self.by_backend.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (name, backend) in &delta.backends {
            let key = (source.clone(), name.clone());
            let named = backend.iter().flat_map(|backend| &backend.named);
            let names: BTreeSet<_> = named.map(|endpoint| endpoint.name.clone()).collect();
            changed |= if names.is_empty() {
                by_backend.remove(&key).is_some()
            } else {
                by_backend.insert(key, names.clone()) != Some(names)
            };
        }
        if changed {
            let names = by_backend.values().flatten().cloned().collect();
            self.wanted.send_if_modified(|wanted| {
                let other = *wanted != names;
                *wanted = names;
                other
            });
        }
    }
}

/// Asks for what is wanted, for the life of the process.
pub(super) async fn follow(desk: Arc<NameDesk>, messages: mpsc::Sender<Message>, gates: Arc<Gates>) {
    let (sender, mut news) = mpsc::channel(MAX_NEWS);
    let wanted = desk.wanted.subscribe();
    let mut is_open = wanted.borrow().is_empty();
    if !is_open {
        gates.close(GATE, "names of endpoints are not resolved yet");
    }
    let run = resolve::resolve(wanted, desk.refresh.subscribe(), resolve::system, sender);
    let mut run = std::pin::pin!(run);
    loop {
        tokio::select! {
            () = &mut run => return,
            some = news.recv() => match some {
                Some(News::Means(name, addresses)) => {
                    let change = Message::Change {
                        source: SourceName::new(SOURCE),
                        delta: Delta {
                            names: BTreeMap::from([(name, addresses)]),
                            ..Delta::default()
                        },
                        rejects: None,
                        done: None,
                    };
                    if messages.send(change).await.is_err() {
                        return;
                    }
                }
                Some(News::Stands(standing)) => {
                    is_open |= standing.unasked == 0;
                    if is_open {
                        gates.open_but(GATE, remark(&standing));
                    }
                }
                None => return,
            }
        }
    }
}

/// What is said of names that cannot be resolved; at most three are named.
fn remark(standing: &Standing) -> String {
    let failing = standing.failing.len();
    let named = standing.failing.iter().take(3);
    let mut all: Vec<_> = named
        .map(|(name, problem)| format!("{name} cannot be resolved: {problem}"))
        .collect();
    if failing > all.len() {
        all.push(format!("and {} more", failing - all.len()));
    }
    all.join("; ")
}
