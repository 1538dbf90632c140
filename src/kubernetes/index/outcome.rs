//! What the objects came out as, for those who tell it: statuses, and all that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Complaint, Dependents, Index, Store};
use crate::kubernetes::Settings;
use crate::kubernetes::gateway::Gateways;
use crate::kubernetes::objects::{Id, Key, Kind};
use crate::model::{ListenerName, Reject, Route};

/// The rejects that are given out; what is beyond is only counted.
const MAX_REJECTS: usize = 1000;

/// The kinds whose objects are told how they fare.
pub const STATUS_KINDS: &[Kind] = &[
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
    Kind::BackendTlsPolicy,
    Kind::Ingress,
];

/// How a route fares with the Services among its parents.
#[derive(Debug, PartialEq)]
pub struct Meshed {
    /// Whether some Service takes it, and a rule of it can be used.
    pub is_attached: bool,
    /// What is wrong with it there.
    pub complaints: Vec<Complaint>,
}

/// What the objects came out as.
#[derive(Clone, Copy)]
pub struct Outcome<'index> {
    pub store: &'index Store,
    pub settings: &'index Settings,
    pub gateways: &'index Gateways,
    routes: &'index BTreeMap<Key, Vec<Arc<Route>>>,
    dependents: &'index Dependents,
    complaints: &'index BTreeMap<Key, Vec<Complaint>>,
    meshed: &'index BTreeMap<Key, Meshed>,
}

impl<'index> Outcome<'index> {
    /// The routes of a route object or Ingress.
    pub fn routes(&self, key: &Key) -> &'index [Arc<Route>] {
        self.routes.get(key).map_or(&[], Vec::as_slice)
    }

    /// How a route fares with the Services among its parents; none when it has none, or others tell it.
    pub fn meshed(&self, key: &Key) -> Option<&'index Meshed> {
        self.meshed.get(key)
    }

    /// What is wrong with an object.
    pub fn complaints(&self, key: &Key) -> &'index [Complaint] {
        self.complaints.get(key).map_or(&[], Vec::as_slice)
    }

    /// The parents of the routes that ask for a Service.
    pub fn parents_of_service(&self, service: &Id) -> BTreeSet<Key> {
        let routes = self.dependents.of_service(service);
        routes
            .iter()
            .flat_map(|route| self.dependents.parents_of(route))
            .collect()
    }

    /// How many routes are attached to a listener of a parent, served or not.
    pub fn attached(&self, parent: &Key, listener: &ListenerName) -> usize {
        let wanting = self.dependents.of_parent(parent);
        let attached = wanting.iter().filter(|key| {
            let mut routes = self.routes(key).iter();
            routes.any(|route| route.listeners.contains(listener))
        });
        attached.count()
    }
}

impl Index {
    /// From now on notes objects whose status may be different, beginning with all that have one, and objects of which something
    /// else is wrong, beginning with all that are not well; or no longer does.
    pub fn note_statuses(&mut self, notes: bool) {
        self.news = notes.then(|| self.complaints.keys().cloned().collect());
        self.touched = notes.then(|| {
            let all = STATUS_KINDS.iter().flat_map(|kind| self.store.of_kind(*kind));
            all.map(|(key, _)| key.clone()).collect()
        });
    }

    /// An object whose status may be different since it was last given here. Ask after [`take_delta`](Self::take_delta).
    pub fn next_touched(&mut self) -> Option<Key> {
        self.touched.as_mut()?.pop_first()
    }

    /// An object of which something else is wrong than when it was last given here, and what. Ask after
    /// [`take_delta`](Self::take_delta).
    pub fn next_news(&mut self) -> Option<(Key, Vec<Complaint>)> {
        let key = self.news.as_mut()?.pop_first()?;
        let complaints = self.complaints.get(&key).cloned().unwrap_or_default();
        Some((key, complaints))
    }

    /// What is wrong with an object.
    pub fn complaints_of(&self, key: &Key) -> &[Complaint] {
        self.complaints.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether there is one.
    pub fn has_news(&self) -> bool {
        self.news.as_ref().is_some_and(|news| !news.is_empty())
    }

    /// Whether there is one.
    pub fn is_touched(&self) -> bool {
        self.touched.as_ref().is_some_and(|touched| !touched.is_empty())
    }

    /// Notes that an object's status may be different.
    pub fn touch_status(&mut self, key: &Key) {
        if let Some(touched) = &mut self.touched
            && STATUS_KINDS.contains(&key.kind)
        {
            touched.insert(key.clone());
        }
    }

    /// The same for all objects of some kinds.
    pub fn touch_statuses(&mut self, kinds: &[Kind]) {
        if let Some(touched) = &mut self.touched {
            let all = kinds.iter().flat_map(|kind| self.store.of_kind(*kind));
            touched.extend(all.map(|(key, _)| key.clone()));
        }
    }

    /// All objects, and what they came out as: for statuses.
    pub(in crate::kubernetes) fn outcome(&self) -> Outcome<'_> {
        Outcome {
            store: &self.store,
            settings: &self.settings,
            gateways: &self.gateways,
            routes: &self.routes,
            dependents: &self.dependents,
            complaints: &self.complaints,
            meshed: &self.meshed,
        }
    }

    /// All that is wrong now, by object; at most 1000 entries, the last of which then counts the others.
    pub fn rejects(&self) -> Vec<Reject> {
        self.rejects_with(|key| key.to_string())
    }

    /// All that is wrong now, with a way to name an object.
    pub(in crate::kubernetes) fn rejects_with(&self, name: impl Fn(&Key) -> String) -> Vec<Reject> {
        let all = || {
            let each = self.complaints.iter();
            each.flat_map(|(key, complaints)| complaints.iter().map(move |complaint| (key, complaint)))
        };
        let mut rejects: Vec<Reject> = all()
            .take(MAX_REJECTS)
            .map(|(key, complaint)| Reject {
                source: self.source.clone(),
                object: name(key),
                field: Some(complaint.field.clone()).filter(|field| !field.is_empty()),
                reason: complaint.reason.clone(),
            })
            .collect();
        let others = all().count().saturating_sub(MAX_REJECTS);
        if others > 0 {
            rejects.truncate(MAX_REJECTS - 1);
            rejects.push(Reject {
                source: self.source.clone(),
                object: "other objects".to_owned(),
                field: None,
                reason: format!("{} more complaints are not shown", others + 1),
            });
        }
        rejects
    }
}
