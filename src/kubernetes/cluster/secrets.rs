//! Secrets of the own namespace as a [vault](crate::acme::vault) of certificates by ACME, so that replicas share them without a volume.
//!
//! ```text
//!            ┌─ follow: list, watch ──► mirror (pure) ──► read: what was there lately
//! API server ┤                            ▲
//!            └─ put, remove ──────────────┘ what was written is there at once
//!   Lease tidegate-acme ──► lock: then all is listed anew, so that nothing is ordered twice
//! ```
//! How a Secret looks is said in [`shape`]. Every write names the version that it changes; where somebody else was quicker, that is read
//! and written over, as long as the lock is ours. Who orders holds a Lease of its own, apart from the one for status: ordering
//! is rare and short, and it is given back after it. Its holder renews it at each third of its duration, and stops writing when two thirds
//! have passed without; a write that was begun before has a third to end, so it has ended when another may begin.
//!
//! While the API server is away what was read stays, and is served; nothing is ordered, because the lock cannot be had. With a directory
//! for it, what was read is kept there ([`last`]) for a start without an API server.

mod follow;
mod last;
mod mirror;
mod shape;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::last::Last;
use self::mirror::{MAX_SECRETS, Mirror};
use self::shape::{Record, Shape};
use super::access::Access;
use super::backoff::Backoff;
use super::identity;
use super::lease::Claim;
use super::wire::{self, Trouble};
use crate::acme::vault::{Asked, Found, HeldUntil, Key, Lock, Stamp, StoreError, Vault, is_held};
use crate::model::acme::DirectoryUrl;

/// The name of the Lease of who orders.
pub const LEASE: &str = "tidegate-acme";

/// How long the API server is waited for at the start, before the rest goes on without.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a write is tried.
const TRIES: u32 = 4;
/// Characters of the API server's words that are told.
const MAX_WORDS: usize = 300;

/// The Secrets of one authority. Dropping it ends the watch.
pub struct Secrets {
    inner: Arc<Inner>,
    _task: JoinSet<()>,
}

struct Inner {
    client: Client,
    namespace: String,
    shape: Shape,
    mirror: Mutex<Mirror>,
    changes: watch::Sender<u64>,
    claim: AsyncMutex<Claim>,
    /// Whether the lock is ours, once it was.
    held: Mutex<Option<HeldUntil>>,
    /// How long a write may take.
    deadline: Duration,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Secrets")
            .field("namespace", &self.inner.namespace)
            .field("shape", &self.inner.shape)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// Begins to follow the Secrets for an authority, in a namespace (the own one, if none is named). `lease`: for how long a
    /// replica that died keeps the lock. `snapshot`: the directory where what is read is kept. Waits for a moment until they are read.
    /// Call it within a runtime.
    ///
    /// # Errors
    /// No access to an API server. One that does not answer is asked again, for ever.
    pub async fn open(
        access: &Access,
        namespace: Option<&str>,
        directory: &DirectoryUrl,
        lease: Duration,
        snapshot: Option<&Path>,
    ) -> Result<Self, StoreError> {
        let directory_hash = directory.short_hash();
        let client = access
            .client()
            .await
            .map_err(|error| StoreError::new("acme.secrets", error.to_string()))?;
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        let claim = Claim::new(client.clone(), identity(), &namespace, LEASE, lease);
        let inner = Arc::new(Inner {
            client,
            namespace,
            shape: Shape::new(directory),
            mirror: Mutex::default(),
            changes: watch::Sender::new(0),
            claim: AsyncMutex::new(claim),
            held: Mutex::default(),
            deadline: lease / 3,
        });
        let mut changes = inner.changes.subscribe();
        let mut task = JoinSet::new();
        task.spawn(follow::follow(Arc::clone(&inner)));
        let is_read = async { while !inner.mirror().is_read && changes.changed().await.is_ok() {} };
        let is_read = timeout(PATIENCE, is_read).await.is_ok();
        if let Some(directory) = snapshot {
            let last = Last::new(directory, directory_hash);
            if !is_read {
                inner.restore(&last).await;
            }
            task.spawn(last::keep(Arc::clone(&inner), last));
        }
        Ok(Self { inner, _task: task })
    }
}

impl Inner {
    /// The path of all Secrets of the namespace.
    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and tells who waits for that.
    fn tell(&self, edit: impl FnOnce(&mut Mirror)) {
        edit(&mut self.mirror());
        self.changes.send_modify(|count| *count += 1);
    }

    /// Serves what was kept on disk, until something else is known.
    async fn restore(&self, last: &Last) {
        let last = last.clone();
        let kept = tokio::task::spawn_blocking(move || last.read()).await;
        match kept.map_err(std::io::Error::other).flatten() {
            Ok(records) => self.tell(|mirror| mirror.restore(records)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("certificates that were kept on disk cannot be read: {error}"),
        }
    }

    fn away(&self, why: String) {
        self.tell(|mirror| mirror.trouble = Some(why));
    }

    fn place(&self, name: &str) -> String {
        format!("Secret {}/{name}", self.namespace)
    }

    /// That the lock is ours.
    fn check_held(&self, name: &str) -> Result<(), StoreError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref().is_some_and(is_held) {
            true => Ok(()),
            false => Err(StoreError::new(
                self.place(name),
                format!(
                    "not written: another replica may hold the Lease {}/{LEASE}",
                    self.namespace
                ),
            )),
        }
    }

    /// Asks, within the time of a write.
    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String, Trouble> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .body(Body::from(
                body.map(Value::to_string).unwrap_or_default().into_bytes(),
            ))
            .map_err(|error| Trouble::Lost(error.to_string()))?;
        let answer = async { wire::whole(wire::send(&self.client, request).await?).await };
        match timeout(self.deadline, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Trouble::Lost("the API server does not answer".to_owned())),
        }
    }

    /// The version of a Secret, asked for; none: it is not there.
    async fn version(&self, path: &str) -> Result<Option<String>, Trouble> {
        match self.ask("GET", path, None).await {
            Ok(text) => {
                let record = Record::read(&text).map_err(|error| Trouble::nonsense(&error))?;
                let version = record.version.clone();
                self.tell(|mirror| mirror.put(record));
                Ok(Some(version))
            }
            Err(Trouble::Refused(404, _)) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    async fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let name = self.shape.name(key);
        let path = format!("{}/{name}", self.collection());
        let mut known = {
            let mirror = self.mirror();
            let known = mirror.get(&name).map(|record| record.version.clone());
            if known.is_none() && mirror.len() >= MAX_SECRETS {
                let reason = format!("not written: there are {MAX_SECRETS} Secrets of Tidegate already");
                return Err(StoreError::new(self.place(&name), reason));
            }
            known
        };
        let mut backoff = Backoff::default();
        let mut last = None;
        for _ in 0..TRIES {
            self.check_held(&name)?;
            let secret = self.shape.secret(key, bytes, known.as_deref());
            let answer = match known {
                Some(_) => self.ask("PATCH", &path, Some(&secret)).await,
                None => self.ask("POST", &self.collection(), Some(&secret)).await,
            };
            let trouble = match answer {
                Ok(text) => {
                    let record =
                        Record::read(&text).map_err(|error| self.error(&name, Trouble::nonsense(&error)))?;
                    self.tell(|mirror| mirror.put(record));
                    return Ok(());
                }
                Err(trouble) => trouble,
            };
            match trouble {
                // Somebody else was quicker.
                Trouble::Refused(404 | 409, _) => {}
                Trouble::Refused(429 | 500.., _) | Trouble::Lost(_) => {
                    tokio::time::sleep(backoff.failed(fastrand::f64())).await;
                }
                Trouble::Refused(..) => return Err(self.error(&name, trouble)),
            }
            last = Some(trouble);
            match self.version(&path).await {
                Ok(version) => known = version,
                Err(trouble) => last = Some(trouble),
            }
        }
        let silent = || Trouble::Lost("the API server does not answer".to_owned());
        Err(self.error(&name, last.unwrap_or_else(silent)))
    }

    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = format!("{}/{name}", self.collection());
        self.check_held(name)?;
        match self.ask("DELETE", &path, None).await {
            Ok(_) | Err(Trouble::Refused(404, _)) => {
                self.tell(|mirror| mirror.gone(name, None));
                Ok(())
            }
            Err(trouble) => Err(self.error(name, trouble)),
        }
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        // Also those whose annotations somebody has taken away.
        let prefix = self.shape.answers();
        let names: Vec<String> = {
            let mirror = self.mirror();
            let names = mirror.records().map(|record| record.name.clone());
            names.filter(|name| name.starts_with(&prefix)).collect()
        };
        for name in names {
            self.remove(&name).await?;
        }
        Ok(())
    }

    async fn lock(&self) -> Result<Option<Lock>, StoreError> {
        let mut claim = self.claim.lock().await;
        let place = format!("Lease {}/{LEASE}", self.namespace);
        let taken = claim
            .take()
            .await
            .map_err(|why| StoreError::new(place, cut(&why)))?;
        let Some(grip) = taken else { return Ok(None) };
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(grip.held.clone());
        let lock = Lock::losable(grip.held, grip.keeps, grip.over);
        // The watch may not have told yet what the last holder has written.
        if let Err(trouble) = follow::list(self).await {
            lock.give_back().await;
            return Err(self.error("*", trouble));
        }
        Ok(Some(lock))
    }

    fn error(&self, name: &str, trouble: Trouble) -> StoreError {
        let reason = match trouble {
            Trouble::Refused(403, why) => format!(
                "the API server does not allow it: {why}; with the chart: acme.enabled=true and rbac.create=true"
            ),
            Trouble::Refused(status, why) => format!("the API server refuses it: HTTP {status}: {why}"),
            Trouble::Lost(why) => why,
        };
        StoreError::new(self.place(name), cut(&reason))
    }
}

impl Vault for Secrets {
    fn place(&self, key: &Key) -> String {
        self.inner.place(&self.inner.shape.name(key))
    }

    fn read(&self, wanted: Vec<(Key, Option<Stamp>)>) -> Asked<'_, Vec<Result<Found, StoreError>>> {
        let found = {
            let mirror = self.inner.mirror();
            let all = wanted.into_iter();
            all.map(|(key, known)| {
                let name = self.inner.shape.name(&key);
                let Some(record) = mirror.get(&name) else {
                    return Ok(Found::Nothing);
                };
                let stamp = Stamp::new(&record.version);
                if known.as_ref() == Some(&stamp) {
                    return Ok(Found::Same);
                }
                let wrong = |reason: &String| StoreError::new(self.inner.place(&name), reason.as_str());
                let bytes = record.bytes.as_ref().map_err(wrong)?;
                Ok(Found::New(stamp, bytes.clone()))
            })
            .collect()
        };
        Box::pin(std::future::ready(found))
    }

    fn answers(&self) -> Asked<'_, Result<Vec<Key>, StoreError>> {
        let keys = {
            let mirror = self.inner.mirror();
            let records = mirror.records();
            let key = |record: &Arc<Record>| {
                let key = Key::Answer(record.token.clone()?);
                // Its name is what counts.
                (self.inner.shape.name(&key) == record.name).then_some(key)
            };
            records.filter_map(key).collect()
        };
        Box::pin(std::future::ready(Ok(keys)))
    }

    fn put(&self, key: Key, bytes: Vec<u8>) -> Asked<'_, Result<(), StoreError>> {
        Box::pin(async move { self.inner.put(&key, &bytes).await })
    }

    fn remove(&self, key: Key) -> Asked<'_, Result<(), StoreError>> {
        Box::pin(async move { self.inner.remove(&self.inner.shape.name(&key)).await })
    }

    fn sweep(&self) -> Asked<'_, Result<(), StoreError>> {
        Box::pin(self.inner.sweep())
    }

    fn lock(&self) -> Asked<'_, Result<Option<Lock>, StoreError>> {
        Box::pin(self.inner.lock())
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.inner.changes.subscribe())
    }

    fn trouble(&self) -> Option<StoreError> {
        let mirror = self.inner.mirror();
        let reason = match (&mirror.trouble, mirror.is_read) {
            (Some(why), true) => format!("cannot be followed: {why}"),
            (Some(why), false) if mirror.is_restored => {
                format!("cannot be read: {why}; serving what was kept on disk")
            }
            (Some(why), false) => format!("cannot be read: {why}"),
            (None, false) => "not read yet".to_owned(),
            (None, true) if mirror.is_full => {
                format!("there are more than {MAX_SECRETS}; those beyond are not seen")
            }
            (None, true) => return None,
        };
        let place = format!("the Secrets for ACME in {}", self.inner.namespace);
        Some(StoreError::new(place, cut(&reason)))
    }
}

/// Without what would break a line of the log, and not longer than a person reads.
fn cut(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(MAX_WORDS).map(plain).collect()
}
