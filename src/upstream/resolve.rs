//! Names of endpoints, asked of the system's resolver again and again.
//!
//! It is the resolver that every program of the machine uses: the hosts file, search domains and servers as they are
//! configured there, also when they change. It does not tell for how long an answer holds, so each name is asked again after
//! a fixed time. What a name meant stays when it cannot be resolved any more: an endpoint that is gone shows itself, a
//! resolver that is gone does not take endpoints away.
//!
//! Where a name has IPv4 addresses, those are its endpoints, else the IPv6 ones. Both would be two addresses of one
//! program, of which a host without IPv6 reaches one.
//!
//! Bounds: [`MAX_LOOKUPS`] at once, [`MAX_ADDRESSES`] of a name. The resolver ends a lookup by itself (by default after 5 s per server and
//! attempt); until then the name is not asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::model::DnsName;

/// Lookups under way. Each takes a thread of the control plane's while it lasts.
pub const MAX_LOOKUPS: usize = 8;
/// Addresses of a name that are used, the lowest ones.
pub const MAX_ADDRESSES: usize = 128;
/// After how long a name is asked again that was never resolved.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Something is known that was not.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// What a name means from now on; none: nobody wants it any more.
    Means(DnsName, Option<Arc<[IpAddr]>>),
    /// How things stand, when that is new.
    Stands(Standing),
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Names that nobody has an answer to yet, be it a bad one.
    pub unasked: usize,
    /// Names that could not be resolved when they were last asked for, and why. What they meant before stays.
    pub failing: BTreeMap<DnsName, String>,
}

/// Asks for names for the life of the process. `lookup` is [`system`], or a test's.
pub async fn resolve<L, F>(
    mut wanted: watch::Receiver<BTreeSet<DnsName>>,
    mut refresh: watch::Receiver<Duration>,
    lookup: L,
    news: mpsc::Sender<News>,
) where
    L: Fn(DnsName) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let mut book = Book::default();
    let mut lookups = JoinSet::new();
    let mut stood = Standing::default();
    loop {
        let now = Instant::now();
        let names = wanted.borrow_and_update().clone();
        for gone in book.follow(&names, now) {
            if news.send(News::Means(gone, None)).await.is_err() {
                return;
            }
        }
        let stands = book.standing();
        if stands != stood {
            stood = stands.clone();
            if news.send(News::Stands(stands)).await.is_err() {
                return;
            }
        }
        let free = MAX_LOOKUPS.saturating_sub(lookups.len());
        for name in book.begin(now, free) {
            let lookup = lookup(name.clone());
            lookups.spawn(async move { (name, lookup.await) });
        }
        let due = book.due().filter(|_| lookups.len() < MAX_LOOKUPS);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            changed = refresh.changed() => if changed.is_err() { return },
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            Some(ended) = lookups.join_next(), if !lookups.is_empty() => {
                let Ok((name, answer)) = ended else { continue };
                let every = *refresh.borrow_and_update();
                if let Some(addresses) = book.answer(&name, answer, Instant::now(), every)
                    && news.send(News::Means(name, Some(addresses))).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// Asks the system's resolver.
pub async fn system(name: DnsName) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// What is known of each name.
#[derive(Default)]
struct Book(BTreeMap<DnsName, Entry>);

struct Entry {
    addresses: Option<Arc<[IpAddr]>>,
    /// When it is asked next; none while it is being asked.
    due: Option<Instant>,
    problem: Option<String>,
}

impl Book {
    /// Begins with names that are new and forgets those that nobody wants; returns of these the ones that meant something.
    fn follow(&mut self, wanted: &BTreeSet<DnsName>, now: Instant) -> Vec<DnsName> {
        let mut gone = Vec::new();
        self.0.retain(|name, entry| {
            let stays = wanted.contains(name);
            if !stays && entry.addresses.is_some() {
                gone.push(name.clone());
            }
            stays
        });
        for name in wanted {
            self.0.entry(name.clone()).or_insert(Entry {
                addresses: None,
                due: Some(now),
                problem: None,
            });
        }
        gone
    }

    /// When the next name is to be asked for.
    fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|entry| entry.due).min()
    }

    /// The names to ask for now, those first that have waited longest.
    fn begin(&mut self, now: Instant, most: usize) -> Vec<DnsName> {
        let mut due: Vec<_> = self
            .0
            .iter_mut()
            .filter(|(_, entry)| entry.due.is_some_and(|due| due <= now))
            .collect();
        due.sort_by_key(|(_, entry)| entry.due);
        let due = due.into_iter().take(most).map(|(name, entry)| {
            entry.due = None;
            name.clone()
        });
        due.collect()
    }

    /// Takes an answer; returns what the name means, if that is new.
    fn answer(
        &mut self,
        name: &DnsName,
        answer: io::Result<Vec<IpAddr>>,
        now: Instant,
        refresh: Duration,
    ) -> Option<Arc<[IpAddr]>> {
        let entry = self.0.get_mut(name)?;
        let found = answer.map_err(|error| error.to_string()).and_then(|found| {
            let chosen = choose(found);
            (!chosen.is_empty())
                .then_some(chosen)
                .ok_or_else(|| "it has no address".to_owned())
        });
        match found {
            Ok(found) => {
                if entry.problem.take().is_some() {
                    tracing::info!(%name, addresses = ?found, "resolved again");
                }
                entry.due = Some(now + refresh);
                if entry.addresses.as_deref() == Some(&found) {
                    return None;
                }
                tracing::debug!(%name, addresses = ?found, "resolved");
                let found: Arc<[IpAddr]> = found.into();
                entry.addresses = Some(Arc::clone(&found));
                Some(found)
            }
            Err(problem) => {
                let again = if entry.addresses.is_some() {
                    refresh
                } else {
                    IMPATIENT.min(refresh)
                };
                entry.due = Some(now + again);
                if entry.problem.is_none() {
                    let stays = entry.addresses.is_some();
                    tracing::warn!(%name, %problem, stays, "cannot be resolved");
                }
                entry.problem = Some(problem);
                None
            }
        }
    }

    fn standing(&self) -> Standing {
        let failing = self.0.iter().filter_map(|(name, entry)| {
            let problem = entry.problem.clone()?;
            Some((name.clone(), problem))
        });
        Standing {
            unasked: self
                .0
                .values()
                .filter(|entry| entry.addresses.is_none() && entry.problem.is_none())
                .count(),
            failing: failing.collect(),
        }
    }
}

/// Of what was found, what is used: one family, each address once, in an order that does not depend on the answer's.
fn choose(mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    if found.iter().any(IpAddr::is_ipv4) {
        found.retain(IpAddr::is_ipv4);
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).unwrap()
    }

    fn addresses(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn one_family_is_used_whatever_the_order() {
        for (found, expected) in [
            (
                &["10.0.0.2", "::1", "10.0.0.1", "10.0.0.2"][..],
                &["10.0.0.1", "10.0.0.2"][..],
            ),
            (&["fd00::2", "fd00::1"], &["fd00::1", "fd00::2"]),
            (&[], &[]),
        ] {
            assert_eq!(choose(addresses(found)), addresses(expected));
        }
        let many = (0..200).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        assert_eq!(choose(many).len(), MAX_ADDRESSES);
    }

    /// A resolver that answers what a test says, and counts.
    #[derive(Clone, Default)]
    struct Scripted(Arc<Mutex<Script>>);

    #[derive(Default)]
    struct Script {
        answers: BTreeMap<DnsName, Vec<IpAddr>>,
        asked: usize,
    }

    impl Scripted {
        fn say(&self, text: &str, found: &[&str]) {
            self.0
                .lock()
                .unwrap()
                .answers
                .insert(name(text), addresses(found));
        }

        fn asked(&self) -> usize {
            self.0.lock().unwrap().asked
        }

        async fn lookup(self, wanted: DnsName) -> io::Result<Vec<IpAddr>> {
            let mut inner = self.0.lock().unwrap();
            inner.asked += 1;
            match inner.answers.get(&wanted) {
                Some(found) => Ok(found.clone()),
                None => Err(io::Error::other("no such name")),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_asked_again_and_what_they_meant_stays() {
        let resolver = Scripted::default();
        let (wanted, names) = watch::channel(BTreeSet::from([name("app")]));
        let (_every, refresh) = watch::channel(Duration::from_secs(5));
        let (sender, mut news) = mpsc::channel(8);
        let asked = resolver.clone();
        tokio::spawn(resolve(
            names,
            refresh,
            move |name| asked.clone().lookup(name),
            sender,
        ));
        let means = |text, found: &[&str]| News::Means(name(text), Some(addresses(found).into()));
        let stands = |unasked, failing: &[&str]| {
            let failing = failing.iter().map(|text| (name(text), "no such name".to_owned()));
            News::Stands(Standing {
                unasked,
                failing: failing.collect(),
            })
        };

        assert_eq!(news.recv().await, Some(stands(1, &[])));
        assert_eq!(news.recv().await, Some(stands(0, &["app"])));
        let began = Instant::now();
        resolver.say("app", &["10.0.0.1"]);
        assert_eq!(news.recv().await, Some(means("app", &["10.0.0.1"])));
        assert_eq!(
            began.elapsed().as_secs(),
            1,
            "a name without an answer is not waited for"
        );
        assert_eq!(news.recv().await, Some(stands(0, &[])));

        resolver.say("app", &["10.0.0.2", "10.0.0.1"]);
        assert_eq!(news.recv().await, Some(means("app", &["10.0.0.1", "10.0.0.2"])));
        assert_eq!(began.elapsed().as_secs(), 6);
        let before = resolver.asked();
        tokio::time::sleep(Duration::from_secs(52)).await;
        assert_eq!(resolver.asked() - before, 10);

        resolver.0.lock().unwrap().answers.clear();
        assert_eq!(
            news.recv().await,
            Some(stands(0, &["app"])),
            "and it still means what it meant"
        );
        resolver.say("other", &["::1"]);
        wanted.send_replace(BTreeSet::from([name("other")]));
        assert_eq!(news.recv().await, Some(News::Means(name("app"), None)));
        assert_eq!(news.recv().await, Some(stands(1, &[])));
        assert_eq!(news.recv().await, Some(means("other", &["::1"])));
        assert_eq!(news.recv().await, Some(stands(0, &[])));
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_are_bounded_and_slow_ones_do_not_pile_up() {
        let all: BTreeSet<_> = (0..100).map(|number| name(&format!("n{number}"))).collect();
        let (_wanted, names) = watch::channel(all);
        let (_every, refresh) = watch::channel(Duration::from_secs(5));
        let (sender, mut news) = mpsc::channel(256);
        let busy = Arc::new(Mutex::new((0_usize, 0_usize)));
        let counted = Arc::clone(&busy);
        let lookup = move |_| {
            let busy = Arc::clone(&counted);
            async move {
                {
                    let mut busy = busy.lock().unwrap();
                    busy.0 += 1;
                    busy.1 = busy.1.max(busy.0);
                }
                tokio::time::sleep(Duration::from_secs(30)).await;
                busy.lock().unwrap().0 -= 1;
                Ok(addresses(&["10.0.0.1"]))
            }
        };
        tokio::spawn(resolve(names, refresh, lookup, sender));
        let mut resolved = 0;
        while resolved < 100 {
            if let Some(News::Means(..)) = news.recv().await {
                resolved += 1;
            }
        }
        assert_eq!(busy.lock().unwrap().1, MAX_LOOKUPS);
    }
}
