//! Names of endpoints, between the conductor, which knows the wanted ones and makes the answers live, the resolver, and those
//! who ask how things stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::conductor::Message;
use crate::model::{Delta, DnsName, SourceName};
use crate::telemetry::gates::Gates;
use crate::upstream::resolve::{self, News, Standing};

/// The source that says what names mean.
const SOURCE: &str = "dns";
/// The gate that is closed until every name that is wanted at the start was asked for once.
const GATE: &str = "names";
/// News of the resolver that wait for the conductor, at most; the resolver waits with more.
const MAX_NEWS: usize = 64;

/// Which names are wanted, and how often they are asked for.
pub(super) struct NameDesk {
    wanted: watch::Sender<BTreeSet<DnsName>>,
    refresh: watch::Sender<Duration>,
}

impl NameDesk {
    /// Each name is asked for again after `refresh`.
    pub(super) fn new(refresh: Duration) -> Self {
        Self {
            wanted: watch::Sender::new(BTreeSet::new()),
            refresh: watch::Sender::new(refresh),
        }
    }

    /// Names are asked for again after another time from now on.
    pub(super) fn set_refresh(&self, refresh: Duration) {
        self.refresh.send_replace(refresh);
    }

    /// These are wanted from now on, and no others.
    pub(super) fn want(&self, names: BTreeSet<DnsName>) {
        self.wanted.send_replace(names);
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
