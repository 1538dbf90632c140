//! HTTPRoutes and GRPCRoutes that want the same hostname of the same listener: which of them is attached.
//!
//! A listener never has both kinds for one hostname. The older route is attached, and where they are of one age the first by
//! `namespace/name` (Gateway API, `GRPCRouteSpec.hostnames`). At the address of a Service GRPCRoutes go first, however young
//! (GEP-1294, "Route types"). So a claim that is refused takes no room itself: claims are decided in their order, and each is
//! refused by the first one of the other kind before it that was not refused and meets one of its hostnames.
//!
//! What a change may decide differently is what comes behind it, is of the other kind, and meets its hostnames; only that is
//! decided anew. Rivals are found by their hostnames with the labels turned round (`com.example.`, `com.example.*`), so that
//! all names below a wildcard stand beside each other. There is nothing here while there are routes of one kind only.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::{Dirty, Index};
use crate::kubernetes::Mesh;
use crate::kubernetes::objects::{Id, Key, Kind};
use crate::kubernetes::routes::services::Clients;
use crate::kubernetes::routes::{self, Surroundings};
use crate::kubernetes::service::Way;
use crate::model::{HostPattern, ListenerName};

/// The kinds that are rivals.
const KINDS: [Kind; 2] = [Kind::HttpRoute, Kind::GrpcRoute];

/// What a route wants of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The place among all claims of the listener.
    pub rank: Rank,
    /// The hostnames, as far as they are the listener's.
    pub hostnames: Vec<HostPattern>,
}

/// Who goes first: the lesser.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// When the route was made, in seconds since 1970, or the place of its kind, where that decides.
    first: u64,
    id: Arc<Id>,
    kind: Kind,
}

impl Rank {
    /// At a listener of a Gateway, where age counts.
    pub fn by_age(route: &Key, created: u64) -> Self {
        Self::new(route, created)
    }

    /// At the address of a Service, where the kind counts.
    pub fn by_kind(route: &Key) -> Self {
        Self::new(route, u64::from(route.kind != Kind::GrpcRoute))
    }

    fn new(route: &Key, first: u64) -> Self {
        Self {
            first,
            id: Arc::new(route.id.clone()),
            kind: route.kind,
        }
    }

    fn key(&self) -> Key {
        Key {
            kind: self.kind,
            id: Id::clone(&self.id),
        }
    }
}

/// All claims, and who refuses whom.
#[derive(Debug, Default)]
pub struct Rivals {
    /// Whether all claims are here; not while there are routes of one kind only.
    are_known: bool,
    claims: BTreeMap<Key, BTreeMap<ListenerName, Claim>>,
    listeners: BTreeMap<ListenerName, Contest>,
    /// What is to be decided again.
    open: BTreeMap<ListenerName, BTreeSet<Rank>>,
}

/// The claims of a listener.
#[derive(Debug, Default)]
struct Contest {
    /// Who claims a hostname, by kind.
    claimed: BTreeMap<Kind, BTreeMap<Box<str>, BTreeSet<Rank>>>,
    /// The claims that are refused, each with the one that refuses it.
    refused: BTreeMap<Rank, Rank>,
}

impl Index {
    /// Decides the claims of routes that are marked, and marks the others that are decided differently now.
    pub(super) fn decide_rivals(&mut self, dirty: &mut Dirty) {
        let has = |kind| self.store.of_kind(kind).next().is_some();
        if !KINDS.into_iter().all(has) {
            let rivals = std::mem::take(&mut self.rivals);
            dirty.routes.extend(rivals.refused());
            return;
        }
        let mut rivals = std::mem::take(&mut self.rivals);
        if rivals.are_known {
            for key in dirty.routes.iter().filter(|key| KINDS.contains(&key.kind)) {
                rivals.put(key, self.claims(key));
            }
        } else {
            let all = KINDS.into_iter().flat_map(|kind| self.store.of_kind(kind));
            for (key, _) in all {
                rivals.put(key, self.claims(key));
            }
            rivals.are_known = true;
        }
        dirty.routes.extend(rivals.settle());
        self.rivals = rivals;
    }

    fn claims(&self, key: &Key) -> BTreeMap<ListenerName, Claim> {
        let mut claims = BTreeMap::new();
        let Some(object) = self.store.get(key) else {
            return claims;
        };
        let none = Rivals::default();
        for clients in asked(&self.settings.mesh) {
            let around = Surroundings {
                store: &self.store,
                gateways: &self.gateways,
                rivals: &none,
                clients,
                way: &Way::REQUESTS,
            };
            claims.append(&mut routes::claims(key, object, around));
        }
        claims
    }
}

/// Whose requests are asked about: those of Gateways, or of Services, or of both.
fn asked(mesh: &Mesh) -> Vec<Option<Clients<'_>>> {
    match mesh {
        Mesh::Off => vec![None],
        Mesh::Tell => vec![None, Some(Clients::All)],
        Mesh::Serve { namespace } => vec![Some(Clients::In(namespace.as_deref()))],
    }
}

impl Rivals {
    /// The route that keeps another from a listener.
    pub fn refuses(&self, route: &Key, listener: &ListenerName) -> Option<Key> {
        let claim = self.claims.get(route)?.get(listener)?;
        let refused = &self.listeners.get(listener)?.refused;
        refused.get(&claim.rank).map(Rank::key)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.listeners.is_empty() && self.open.is_empty()
    }

    /// The routes that are refused somewhere.
    fn refused(&self) -> BTreeSet<Key> {
        let refused = self.listeners.values().flat_map(|contest| contest.refused.keys());
        refused.map(Rank::key).collect()
    }

    /// Takes what a route wants now in the place of what it wanted.
    fn put(&mut self, route: &Key, next: BTreeMap<ListenerName, Claim>) {
        let now = self.claims.remove(route).unwrap_or_default();
        for (listener, gone) in now.iter().filter(|(name, claim)| next.get(*name) != Some(claim)) {
            let open = self.open.entry(listener.clone()).or_default();
            if let Some(contest) = self.listeners.get_mut(listener) {
                open.extend(contest.behind(gone));
                open.remove(&gone.rank);
                contest.remove(gone);
            }
        }
        for (listener, new) in next.iter().filter(|(name, claim)| now.get(*name) != Some(claim)) {
            let contest = self.listeners.entry(listener.clone()).or_default();
            contest.insert(new);
            let open = self.open.entry(listener.clone()).or_default();
            open.insert(new.rank.clone());
            open.extend(contest.behind(new));
        }
        if !next.is_empty() {
            self.claims.insert(route.clone(), next);
        }
    }

    /// Decides what is open; gives the routes for which it came out different.
    fn settle(&mut self) -> BTreeSet<Key> {
        let mut changed = BTreeSet::new();
        for (listener, mut open) in std::mem::take(&mut self.open) {
            let Some(contest) = self.listeners.get_mut(&listener) else {
                continue;
            };
            // Whoever is opened on the way comes behind the one that does it, so nobody is decided before those that matter.
            while let Some(rank) = open.pop_first() {
                let key = rank.key();
                let claim = self.claims.get(&key).and_then(|claims| claims.get(&listener));
                let Some(claim) = claim else {
                    continue;
                };
                let refusing = contest.refusing(claim);
                let before = match &refusing {
                    Some(by) => contest.refused.insert(rank, by.clone()),
                    None => contest.refused.remove(&rank),
                };
                if before.is_some() != refusing.is_some() {
                    open.extend(contest.behind(claim));
                }
                if before != refusing {
                    changed.insert(key);
                }
            }
            if contest.claimed.is_empty() {
                self.listeners.remove(&listener);
            }
        }
        changed
    }
}

impl Contest {
    fn insert(&mut self, claim: &Claim) {
        let claimed = self.claimed.entry(claim.rank.kind).or_default();
        for hostname in &claim.hostnames {
            let ranks = claimed.entry(turned(hostname)).or_default();
            ranks.insert(claim.rank.clone());
        }
    }

    fn remove(&mut self, claim: &Claim) {
        let Some(claimed) = self.claimed.get_mut(&claim.rank.kind) else {
            return;
        };
        for hostname in &claim.hostnames {
            let name = turned(hostname);
            if let Some(ranks) = claimed.get_mut(&name) {
                ranks.remove(&claim.rank);
                if ranks.is_empty() {
                    claimed.remove(&name);
                }
            }
        }
        if claimed.is_empty() {
            self.claimed.remove(&claim.rank.kind);
        }
        self.refused.remove(&claim.rank);
    }

    /// Who refuses a claim: the first rival before it that is not refused itself.
    fn refusing(&self, claim: &Claim) -> Option<Rank> {
        let before = self.rivals(claim).filter(|rival| **rival < claim.rank);
        before
            .filter(|rival| !self.refused.contains_key(rival))
            .min()
            .cloned()
    }

    /// The rivals behind a claim.
    fn behind(&self, claim: &Claim) -> BTreeSet<Rank> {
        let behind = self.rivals(claim).filter(|rival| **rival > claim.rank);
        behind.cloned().collect()
    }

    /// The claims of the other kind that meet a hostname of this one.
    fn rivals<'a>(&'a self, claim: &'a Claim) -> impl Iterator<Item = &'a Rank> {
        let others = self.claimed.iter().filter(|(kind, _)| **kind != claim.rank.kind);
        others.flat_map(|(_, claimed)| {
            let hostnames = claim.hostnames.iter();
            hostnames
                .flat_map(|hostname| meeting(claimed, hostname))
                .flatten()
        })
    }
}

/// What stands at the names that meet a pattern: the pattern itself, the wildcards above it, and, where it is one, all
/// below it.
fn meeting<'a, T>(names: &'a BTreeMap<Box<str>, T>, pattern: &HostPattern) -> impl Iterator<Item = &'a T> {
    let name = turned(pattern);
    // "com.example.*" has "com.example." before all that is below it, and "com.example/" behind.
    let below = name.strip_suffix('*').map(str::to_owned);
    let end = match below.as_deref().map(|below| below.strip_suffix('.')) {
        Some(Some(suffix)) => Bound::Excluded(Box::from(format!("{suffix}/"))),
        _ => Bound::Unbounded,
    };
    let below = below.map(|below| names.range((Bound::Included(Box::from(below)), end)));
    let itself = if below.is_none() { names.get(&name) } else { None };
    let inner = name.trim_end_matches('*').trim_end_matches('.');
    let labels = inner
        .match_indices('.')
        .map(|(dot, _)| format!("{}*", &inner[..=dot]));
    let any = Some("*".to_owned()).filter(|any| **any != *name);
    let above: Vec<String> = labels.chain(any).collect();
    let above = above.into_iter().filter_map(|name| names.get(name.as_str()));
    itself
        .into_iter()
        .chain(above)
        .chain(below.into_iter().flatten().map(|(_, found)| found))
}

/// A pattern with its labels turned round: `com.example.www`, `com.example.*`, `*`.
fn turned(pattern: &HostPattern) -> Box<str> {
    let (name, wildcard) = match pattern {
        HostPattern::Any => ("", true),
        HostPattern::Exact(name) => (&**name, false),
        // Those of one label are Ingresses', which are no rivals of anybody.
        HostPattern::Wildcard(suffix) | HostPattern::SingleLabelWildcard(suffix) => (&**suffix, true),
    };
    let labels = name.rsplit('.').filter(|label| !label.is_empty());
    let all: Vec<&str> = labels.chain(wildcard.then_some("*")).collect();
    Box::from(all.join("."))
}

#[cfg(test)]
mod tests;
