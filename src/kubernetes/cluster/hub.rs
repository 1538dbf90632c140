//! The owner of the index: takes what the watches say, gathers, gives out changes.
//!
//! A change after a quiet moment goes out at once; what follows closely is gathered for as long as the change before took to
//! translate. While nobody takes a change (the conductor has a pace of its own), what comes gathers in the index, where the same
//! object counts once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch as latest};
use tokio::time::{Instant, sleep_until};

use super::events::Read;
use super::follow::Said;
use crate::kubernetes::index::{Complaint, FrontWork, Index, STATUS_KINDS};
use crate::kubernetes::objects::{Id, Key, Kind, Object};
use crate::kubernetes::overview::{self, Overview};
use crate::kubernetes::status::{self, Address, Serving, Sockets, Status, StatusAddress};
use crate::kubernetes::{SOURCE, Settings};
use crate::model::{Delta, Reject, SourceName};
use crate::runtime::pace::Pace;

/// How long the API server is waited for at the start, before what was kept is served.
const PATIENCE: Duration = Duration::from_secs(2);

/// The objects that cannot be read of which the reason is kept; of later ones nothing is said.
const MAX_BROKEN: usize = 1000;

/// The kinds of which is told what is wrong with them, beside those that have a status.
const REPORTED: &[Kind] = &[Kind::Service];

/// What changed in the cluster.
#[derive(Debug, Default)]
pub struct Change {
    /// What is different.
    pub delta: Delta,
    /// All that is left out now.
    pub rejects: Vec<Reject>,
}

/// How things stand with the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether every kind was read once: from then on there is a world that stays.
    pub synced: bool,
    /// Whether what is served was kept on disk, because the API server was not read since the start.
    pub restored: bool,
    /// Kinds that were not read yet.
    pub unread: BTreeSet<Kind>,
    /// Kinds that cannot be followed at the moment, and why.
    pub away: BTreeMap<Kind, String>,
    /// Kinds that the API server does not have.
    pub missing: BTreeSet<Kind>,
    /// Changes of single objects that came so far.
    pub events: u64,
    /// Lists that were read whole so far.
    pub lists: u64,
    /// Questions that failed so far.
    pub failures: u64,
}

impl Health {
    /// In a line, what is not well; empty when all is.
    pub fn remark(&self) -> String {
        let mut parts = Vec::new();
        if self.restored {
            parts.push("serving what was kept on disk".to_owned());
        }
        // They are often all away for one reason.
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, why) in &self.away {
            reasons.entry(why).or_default().push(kind.name());
        }
        for (why, kinds) in reasons {
            parts.push(format!("cannot follow {}: {why}", kinds.join(", ")));
        }
        let unread: Vec<_> = self
            .unread
            .iter()
            .filter(|kind| !self.away.contains_key(kind))
            .map(|kind| kind.name())
            .collect();
        if !unread.is_empty() {
            parts.push(format!("still reading {}", unread.join(", ")));
        }
        parts.join("; ")
    }
}

/// What the owner of the index is told and asked.
#[derive(Debug)]
pub enum Told {
    /// A watch says something.
    Said(Said),
    /// Whether statuses are written here; from the moment they are, those of all objects.
    Leading(bool),
    /// The next object whose status may be different, with its status.
    Next(oneshot::Sender<Option<(Key, Status)>>),
    /// That status was not written.
    Again(Key),
    /// The next Service in front of a Gateway to look at.
    NextFront(oneshot::Sender<Option<FrontWork>>),
    /// Such a Service is to be looked at again; the flag: as a whole.
    FrontAgain(Id, bool),
    /// All of them are.
    Fronts,
    /// How each object fares.
    Overview(oneshot::Sender<Vec<Overview>>),
    /// The next object of which something else is wrong than before, with all that is.
    NextFinding(oneshot::Sender<Option<Finding>>),
}

/// An object and all that is wrong with it.
pub type Finding = (Key, Vec<Complaint>);

/// The index and what is known about how complete it is.
#[derive(Debug)]
pub struct Hub {
    index: Index,
    health: Health,
    /// Objects that cannot be read; the last good ones stay in the index.
    broken: BTreeMap<Key, Complaint>,
    /// Those of them that became so, or no longer are, since it was last told; none: nobody asks.
    broken_news: Option<BTreeSet<Key>>,
    /// What was rejected when last said; none: nothing was said yet.
    rejects: Option<Vec<Reject>>,
    serving: Serving,
    status_address: Option<StatusAddress>,
    /// Whether the Service that was to say where clients come to is not there.
    is_astray: bool,
}

impl Hub {
    /// With nothing read. `status_address` is what statuses name for what is bound on every address.
    pub fn new(settings: Settings, status_address: Option<StatusAddress>) -> Self {
        // Definitions only say which features there are: nothing waits for them.
        let kinds = settings.kinds().iter().copied();
        let unread = kinds
            .filter(|kind| *kind != Kind::CustomResourceDefinition)
            .collect();
        Self {
            index: Index::new(SourceName::new(SOURCE), settings),
            health: Health {
                unread,
                ..Health::default()
            },
            broken: BTreeMap::new(),
            broken_news: None,
            rejects: None,
            serving: Serving::default(),
            status_address,
            is_astray: false,
        }
    }

    /// Takes what was kept on disk. It is given out when [`use_kept`](Self::use_kept) says so and the API server was not read before.
    pub fn restore(&mut self, objects: Vec<Object>) {
        for object in objects {
            self.index.apply(object);
        }
    }

    /// The API server does not answer: from now on what was kept is served. True: something was kept.
    pub fn use_kept(&mut self) -> bool {
        let uses = !self.health.synced && !self.index.is_empty();
        self.health.restored |= uses;
        uses
    }

    /// Begins or ends to note objects whose status may be different.
    pub fn lead(&mut self, leads: bool) {
        self.index.note_statuses(leads);
        self.broken_news = leads.then(|| self.broken.keys().cloned().collect());
    }

    /// Whether there is an object whose status may be different.
    pub fn has_status(&self) -> bool {
        self.health.synced && self.index.is_touched()
    }

    /// The next of them that has a status.
    pub fn next_status(&mut self) -> Option<(Key, Status)> {
        if !self.health.synced {
            return None;
        }
        while let Some(key) = self.index.next_touched() {
            if let Some(status) = status::of(&key, self.index.outcome(), &self.serving) {
                return Some((key, status));
            }
        }
        None
    }

    /// How each object fares.
    pub fn overview(&self) -> Vec<Overview> {
        let mut all = overview::all(self.index.outcome(), &self.serving);
        for (key, why) in &self.broken {
            let is_known = self.index.get(key).is_some();
            overview::add_unreadable(
                &mut all,
                key,
                is_known,
                overview::complaint(&unreadable(why, is_known)),
            );
        }
        all
    }

    /// Whether there is an object of which something else is wrong.
    pub fn has_finding(&self) -> bool {
        let news = self.broken_news.as_ref();
        self.health.synced && (self.index.has_news() || news.is_some_and(|news| !news.is_empty()))
    }

    /// The next of them that can be told.
    pub fn next_finding(&mut self) -> Option<Finding> {
        if !self.health.synced {
            return None;
        }
        if let Some(key) = self.broken_news.as_mut().and_then(BTreeSet::pop_first) {
            let complaints = self.index.complaints_of(&key).to_vec();
            return Some(self.finding(key, complaints));
        }
        while let Some((key, complaints)) = self.index.next_news() {
            if is_reported(key.kind) || self.broken.contains_key(&key) {
                return Some(self.finding(key, complaints));
            }
        }
        None
    }

    /// What is wrong with an object: what the index complains of, and that it cannot be read.
    fn finding(&self, key: Key, complaints: Vec<Complaint>) -> Finding {
        let mut all = complaints;
        all.retain(|_| is_reported(key.kind));
        let is_known = self.index.get(&key).is_some();
        all.extend(self.broken.get(&key).map(|why| unreadable(why, is_known)));
        (key, all)
    }

    /// Whether there is a Service in front of a Gateway to look at.
    pub fn has_front(&self) -> bool {
        self.health.synced && self.index.has_front()
    }

    /// The next of them.
    pub fn next_front(&mut self) -> Option<FrontWork> {
        match self.health.synced {
            true => self.index.next_front(),
            false => None,
        }
    }

    /// An object's status was not written.
    pub fn again(&mut self, key: &Key) {
        self.index.touch_status(key);
    }

    /// This is what became of the sockets.
    pub fn bound(&mut self, sockets: Sockets) {
        if self.serving.sockets != sockets {
            self.serving.sockets = sockets;
            self.index
                .touch_statuses(&[Kind::Gateway, Kind::ListenerSet, Kind::Ingress]);
        }
    }

    /// Takes what a watch says. True: how things stand is different from before.
    pub fn take(&mut self, said: Said) -> bool {
        match said {
            Said::All(kind, read) => {
                self.mend_kind(kind);
                let mut objects = Vec::with_capacity(read.len());
                for read in read {
                    match read {
                        Read::Good(object) => objects.push(object),
                        Read::Broken(key, why) => {
                            objects.extend(self.index.get(&key).cloned());
                            self.breaks(key, why);
                        }
                    }
                }
                self.index.reset(kind, objects);
                self.health.lists += 1;
                self.health.missing.remove(&kind);
                self.read(kind);
                true
            }
            Said::Missing(kind) => {
                self.mend_kind(kind);
                self.index.reset(kind, Vec::new());
                self.health.away.remove(&kind);
                let is_news = self.health.missing.insert(kind);
                self.read(kind) || is_news
            }
            Said::Put(Read::Good(object)) => {
                self.mend(&object.key());
                self.index.apply(object);
                self.health.events += 1;
                false
            }
            Said::Put(Read::Broken(key, why)) => {
                self.health.events += 1;
                self.breaks(key, why);
                false
            }
            Said::Gone(key) => {
                self.mend(&key);
                self.index.delete(&key);
                self.health.events += 1;
                false
            }
            Said::Away(kind, why) => {
                self.health.failures += 1;
                self.health.away.insert(kind, why.clone()) != Some(why)
            }
            Said::Back(kind) => self.health.away.remove(&kind).is_some(),
        }
    }

    /// An object cannot be read.
    fn breaks(&mut self, key: Key, why: Complaint) {
        if self.broken.len() >= MAX_BROKEN && !self.broken.contains_key(&key) {
            return;
        }
        if let Some(news) = &mut self.broken_news
            && self.broken.get(&key) != Some(&why)
        {
            news.insert(key.clone());
        }
        self.broken.insert(key, why);
    }

    /// An object can be read, or is gone.
    fn mend(&mut self, key: &Key) {
        if self.broken.remove(key).is_some()
            && let Some(news) = &mut self.broken_news
        {
            news.insert(key.clone());
        }
    }

    /// All objects of a kind are read anew.
    fn mend_kind(&mut self, kind: Kind) {
        let all = self.broken.keys().filter(|key| key.kind == kind);
        for key in all.cloned().collect::<Vec<_>>() {
            self.mend(&key);
        }
    }

    /// What changed since the last call, if anything did and everything was read once.
    pub fn change(&mut self) -> Option<Change> {
        self.look_for_clients();
        if !self.health.synced && !self.health.restored {
            return None;
        }
        let delta = self.index.take_delta();
        let rejects = self.all_rejects();
        match &self.rejects {
            None => self.index.compact(),
            Some(before) if delta.is_empty() && *before == rejects => return None,
            Some(_) => {}
        }
        self.rejects = Some(rejects.clone());
        Some(Change { delta, rejects })
    }

    /// Looks where clients come to. Where that is another place than before, objects are told.
    fn look_for_clients(&mut self) {
        let public: Option<Arc<[Address]>> = match &self.status_address {
            None => None,
            Some(StatusAddress::Address(address)) => Some([Address::Ip(*address)].into()),
            Some(StatusAddress::Service(id)) => match self.index.get(&Key {
                kind: Kind::Service,
                id: id.clone(),
            }) {
                Some(Object::Service(service)) => Some(status::of_service(service).into()),
                _ => None,
            },
        };
        let is_astray = self.health.synced && self.status_address.is_some() && public.is_none();
        if let (false, true, Some(StatusAddress::Service(id))) =
            (self.is_astray, is_astray, &self.status_address)
        {
            tracing::warn!("there is no Service {id} to say where clients come to; no address is told");
        }
        self.is_astray = is_astray;
        if self.serving.public != public {
            self.serving.public = public;
            self.index
                .touch_statuses(&[Kind::Gateway, Kind::ListenerSet, Kind::Ingress]);
        }
    }

    /// How things stand.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// A kind was read.
    fn read(&mut self, kind: Kind) -> bool {
        let is_news = self.health.unread.remove(&kind);
        self.health.synced |= self.health.unread.is_empty();
        self.health.restored &= !self.health.synced;
        is_news
    }

    fn all_rejects(&self) -> Vec<Reject> {
        let mut rejects = self.index.rejects();
        rejects.extend(self.broken.iter().map(|(key, why)| {
            let Complaint { field, reason } = unreadable(why, self.index.get(key).is_some());
            Reject {
                source: SourceName::new(SOURCE),
                object: key.to_string(),
                field: Some(field).filter(|field| !field.is_empty()),
                reason,
            }
        }));
        rejects
    }
}

/// Whether is told what is wrong with objects of a kind. That they cannot be read is told of all kinds.
fn is_reported(kind: Kind) -> bool {
    REPORTED.contains(&kind) || STATUS_KINDS.contains(&kind)
}

/// What is said of an object that cannot be read. `is_known`: it could be, before.
fn unreadable(why: &Complaint, is_known: bool) -> Complaint {
    let stays = match is_known {
        true => "what it was before stays",
        false => "it is as if it were not there",
    };
    let reason = format!(
        "Unreadable: {}; the object cannot be read, and {stays}",
        why.reason
    );
    Complaint::new(why.field.as_str(), reason)
}

/// Who is woken when there is something to ask for.
#[derive(Clone, Debug, Default)]
pub struct Wake {
    /// Statuses.
    pub statuses: Arc<Notify>,
    /// Findings.
    pub findings: Arc<Notify>,
    /// Services in front of Gateways.
    pub fronts: Arc<Notify>,
}

/// Runs until nobody takes changes.
pub async fn run(
    mut hub: Hub,
    mut inbox: mpsc::Receiver<Told>,
    changes: mpsc::Sender<Change>,
    tell: latest::Sender<Health>,
    wake: Wake,
    mut sockets: latest::Receiver<Sockets>,
) {
    let mut pace = Pace::new();
    // When what was kept is used, if the API server was not read by then.
    let mut patience = Some(Instant::now() + PATIENCE);
    let mut asked = Asked::default();
    tell.send_replace(hub.health().clone());
    loop {
        tokio::select! {
            told = inbox.recv() => match told {
                Some(told) => hear(&mut hub, told, &tell, &mut asked),
                None => return,
            },
            () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                patience = None;
                if hub.use_kept() {
                    tracing::warn!("the API server was not read; what was kept on disk is served until it is");
                    tell.send_replace(hub.health().clone());
                }
            }
            Ok(()) = sockets.changed() => {
                let sockets = sockets.borrow_and_update().clone();
                hub.bound(sockets);
            }
        }
        pace.ready().await;
        let began = Instant::now();
        while let Ok(told) = inbox.try_recv() {
            hear(&mut hub, told, &tell, &mut asked);
        }
        let change = hub.change();
        tell.send_if_modified(|health| {
            health.clone_from(hub.health());
            false // nobody waits for counts
        });
        // Answered after the change was translated, so that what is said belongs to what is known.
        for reply in asked.statuses.drain(..) {
            let _ = reply.send(hub.next_status());
        }
        for reply in asked.overviews.drain(..) {
            let _ = reply.send(hub.overview());
        }
        for reply in asked.findings.drain(..) {
            let _ = reply.send(hub.next_finding());
        }
        for reply in asked.fronts.drain(..) {
            let _ = reply.send(hub.next_front());
        }
        if hub.has_front() {
            wake.fronts.notify_one();
        }
        if hub.has_status() {
            wake.statuses.notify_one();
        }
        if hub.has_finding() {
            wake.findings.notify_one();
        }
        if let Some(change) = change {
            pace.ended(began);
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// What was asked and not answered yet; each asker asks one thing at a time.
#[derive(Default)]
struct Asked {
    overviews: Vec<oneshot::Sender<Vec<Overview>>>,
    statuses: Vec<oneshot::Sender<Option<(Key, Status)>>>,
    findings: Vec<oneshot::Sender<Option<Finding>>>,
    fronts: Vec<oneshot::Sender<Option<FrontWork>>>,
}

fn hear(hub: &mut Hub, told: Told, tell: &latest::Sender<Health>, asked: &mut Asked) {
    match told {
        Told::Said(said) => take(hub, said, tell),
        Told::Leading(leads) => hub.lead(leads),
        Told::Overview(reply) => asked.overviews.push(reply),
        Told::Next(reply) => asked.statuses.push(reply),
        Told::NextFinding(reply) => asked.findings.push(reply),
        Told::Again(key) => hub.again(&key),
        Told::NextFront(reply) => asked.fronts.push(reply),
        Told::FrontAgain(service, is_whole) => hub.index.note_front(service, is_whole),
        Told::Fronts => hub.index.note_fronts(),
    }
}

fn take(hub: &mut Hub, said: Said, tell: &latest::Sender<Health>) {
    match &said {
        Said::Away(kind, why) => {
            let is_known = hub.health().away.get(kind) == Some(why);
            if is_known {
                tracing::debug!(kind = kind.name(), "the API server cannot be followed: {why}");
            } else {
                tracing::warn!(
                    kind = kind.name(),
                    "the API server cannot be followed, what is known stays: {why}"
                );
            }
        }
        Said::Back(kind) => tracing::info!(kind = kind.name(), "the API server is followed again"),
        Said::Missing(kind) if !hub.health().missing.contains(kind) => {
            tracing::info!(kind = kind.name(), "the API server does not have this kind");
        }
        Said::All(kind, objects) => {
            tracing::info!(kind = kind.name(), objects = objects.len(), "read");
        }
        _ => {}
    }
    if hub.take(said) {
        tell.send_replace(hub.health().clone());
    }
}

#[cfg(test)]
mod tests;
