//! The store: the account, the certificates, what is remembered of each name, and the answers that are given right now, of one
//! authority. It knows what the bytes mean that a [vault](super::vault) keeps: a directory, or Secrets of a cluster. Replicas may
//! share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::{Life, Notes};
use super::vault::{Found, Key, Stamp, Token, Vault};
pub use super::vault::{Lock, StoreError};
use crate::model::tls::Origin;
use crate::model::{Certificate, ManagedName};

/// Answers that are given; orders that run at once need one each.
const MAX_ANSWERS: usize = 64;
/// Seconds after which an answer that nobody took away is no longer given.
const ANSWER_LIFE: u64 = 3600;

/// A store of one authority.
#[derive(Clone, Debug)]
pub struct Store {
    vault: Arc<dyn Vault>,
}

/// What is there for the names that are wanted.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// By name.
    pub entries: BTreeMap<ManagedName, Stored>,
    /// What authorities are answered now.
    pub answers: Vec<Answer>,
    /// What cannot be used.
    pub broken: Vec<StoreError>,
}

/// What is there for a name.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// A certificate that is good.
    pub certificate: Option<Arc<Certificate>>,
    /// What is remembered.
    pub notes: Notes,
    /// What was read of the certificate, and of the notes.
    of_certificate: Seen,
    of_notes: Seen,
}

/// What was read last, and what is wrong with it.
#[derive(Clone, Debug, Default)]
struct Seen {
    stamp: Option<Stamp>,
    wrong: Option<StoreError>,
}

impl Stored {
    /// From when to when its certificate is good.
    pub fn life(&self) -> Option<Life> {
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        self.certificate.as_ref().map(|certificate| Life {
            from: seconds(certificate.not_before()),
            until: seconds(certificate.not_after()),
        })
    }
}

/// What an authority is answered about a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// How it asks: `http-01`, `tls-alpn-01`, `dns-01`.
    pub kind: String,
    /// The name, without `*.`.
    pub name: String,
    /// What it asks for.
    pub token: String,
    /// The token and who we are (RFC 8555 §8.1).
    pub key_authorization: String,
    /// When it was put here, in seconds since 1970.
    pub since: u64,
}

impl Store {
    /// What a vault keeps.
    pub fn new(vault: Arc<dyn Vault>) -> Self {
        Self { vault }
    }

    /// What keeps it.
    pub fn vault(&self) -> &dyn Vault {
        &*self.vault
    }

    /// What is there for these names now. What has not changed since `before` is taken from there.
    pub async fn read(&self, names: &BTreeSet<ManagedName>, before: Contents, now: SystemTime) -> Contents {
        let stamp = |name: &ManagedName, of: fn(&Stored) -> &Seen| {
            let stored = before.entries.get(name)?;
            of(stored).stamp.clone()
        };
        let mut wanted = Vec::new();
        for name in names {
            let certificate = stamp(name, |stored| &stored.of_certificate);
            wanted.push((Key::Certificate(name.clone()), certificate));
            wanted.push((Key::Notes(name.clone()), stamp(name, |stored| &stored.of_notes)));
        }
        let mut broken: Vec<_> = self.vault.trouble().into_iter().collect();
        match self.vault.answers().await {
            Ok(keys) => wanted.extend(keys.into_iter().map(|key| (key, None))),
            Err(error) => broken.push(error),
        }
        let keys: Vec<Key> = wanted.iter().map(|(key, _)| key.clone()).collect();
        let found = self.vault.read(wanted).await;
        // Certificates are parsed there.
        let vault = Arc::clone(&self.vault);
        let read = move || {
            let mut contents = Contents {
                broken,
                ..Contents::default()
            };
            for (key, found) in keys.into_iter().zip(found) {
                contents.take(&*vault, key, found, &before, unix(now));
            }
            contents.finish()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the ACME store was not read");
            Contents::default()
        })
    }

    /// The account; none: there is none yet.
    ///
    /// # Errors
    /// It cannot be used.
    pub async fn account<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        let found = self.vault.read(vec![(Key::Account, None)]).await;
        match found.into_iter().next().unwrap_or(Ok(Found::Nothing))? {
            Found::New(_, text) => parse(&*self.vault, &Key::Account, &text).map(Some),
            Found::Nothing | Found::Same => Ok(None),
        }
    }

    /// Keeps the account.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn put_account(&self, account: &impl Serialize) -> Result<(), StoreError> {
        self.put_json(Key::Account, account).await
    }

    /// Forgets the account, which the authority does not know any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove_account(&self) -> Result<(), StoreError> {
        self.vault.remove(Key::Account).await
    }

    /// Keeps a certificate: its chain and its key, both PEM.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn put_certificate(
        &self,
        name: &ManagedName,
        chain: &str,
        key: &str,
    ) -> Result<(), StoreError> {
        let text = format!("{}\n{}\n", chain.trim_end(), key.trim_end());
        self.vault
            .put(Key::Certificate(name.clone()), text.into_bytes())
            .await
    }

    /// Keeps what is to be remembered of a name.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn put_notes(&self, name: &ManagedName, notes: &Notes) -> Result<(), StoreError> {
        self.put_json(Key::Notes(name.clone()), notes).await
    }

    /// Has an authority answered, by all replicas.
    ///
    /// # Errors
    /// Its token is none, or it cannot be written.
    pub async fn put_answer(&self, answer: &Answer) -> Result<(), StoreError> {
        self.put_json(answer_key(&answer.token)?, answer).await
    }

    /// Ends an answer.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn remove_answer(&self, token: &str) -> Result<(), StoreError> {
        self.vault.remove(answer_key(token)?).await
    }

    async fn put_json(&self, key: Key, value: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(value)
            .map_err(|error| StoreError::new(self.vault.place(&key), error.to_string()))?;
        self.vault.put(key, text).await
    }
}

impl Contents {
    /// Takes what was found under a key.
    fn take(
        &mut self,
        vault: &dyn Vault,
        key: Key,
        found: Result<Found, StoreError>,
        before: &Self,
        now: u64,
    ) {
        let known = |name: &ManagedName| before.entries.get(name).cloned().unwrap_or_default();
        match &key {
            Key::Certificate(name) => {
                let before = known(name);
                let stored = self.entries.entry(name.clone()).or_default();
                let read = |text: &[u8]| certificate(vault, &key, name, text, now).map(Arc::new);
                let before_it = (before.certificate, before.of_certificate);
                let (certificate, seen) = renewed(found, before_it, read);
                let ends = |one: &Arc<Certificate>| u64::try_from(one.not_after()).unwrap_or(0);
                stored.certificate = certificate.filter(|one| ends(one) >= now);
                stored.of_certificate = seen;
            }
            Key::Notes(name) => {
                let before = known(name);
                let stored = self.entries.entry(name.clone()).or_default();
                let before_it = (Some(before.notes), before.of_notes);
                let (notes, seen) = renewed(found, before_it, |text| parse(vault, &key, text));
                stored.notes = notes.unwrap_or_default();
                stored.of_notes = seen;
            }
            Key::Answer(_) => match found {
                Ok(Found::New(_, text)) => match parse::<Answer>(vault, &key, &text) {
                    Ok(answer) => {
                        let is_given = answer.since.saturating_add(ANSWER_LIFE) > now;
                        if is_given && self.answers.len() < MAX_ANSWERS {
                            self.answers.push(answer);
                        }
                    }
                    Err(error) => self.broken.push(error),
                },
                // Gone since the list was made.
                Ok(Found::Nothing | Found::Same) => {}
                Err(error) => self.broken.push(error),
            },
            Key::Account => {}
        }
    }

    fn finish(mut self) -> Self {
        // They come in any order.
        self.answers.sort_by(|one, other| one.token.cmp(&other.token));
        for stored in self.entries.values() {
            let wrong = [&stored.of_certificate, &stored.of_notes].map(|seen| seen.wrong.clone());
            self.broken.extend(wrong.into_iter().flatten());
        }
        self
    }
}

/// What is there now, of what was there before and what was found.
fn renewed<T>(
    found: Result<Found, StoreError>,
    before: (Option<T>, Seen),
    read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> (Option<T>, Seen) {
    let (stamp, read) = match found {
        Ok(Found::Same) => return before,
        Ok(Found::Nothing) => return (None, Seen::default()),
        Ok(Found::New(stamp, text)) => (Some(stamp), read(&text)),
        Err(error) => (None, Err(error)),
    };
    let (value, wrong) = match read {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    };
    (value, Seen { stamp, wrong })
}

fn certificate(
    vault: &dyn Vault,
    key: &Key,
    name: &ManagedName,
    text: &[u8],
    now: u64,
) -> Result<Certificate, StoreError> {
    let place = vault.place(key);
    let origin = Origin::Named(place.as_str().into());
    let now = UNIX_EPOCH + std::time::Duration::from_secs(now);
    let made = Certificate::from_pem(origin, text, text, now)
        .map_err(|error| StoreError::new(place.clone(), error.to_string()))?;
    if made.names().contains(name.pattern()) {
        return Ok(made);
    }
    Err(StoreError::new(place, format!("it is not for {name}")))
}

fn parse<T: DeserializeOwned>(vault: &dyn Vault, key: &Key, text: &[u8]) -> Result<T, StoreError> {
    // The library's message may quote what it has read, which may be a key.
    serde_json::from_slice(text).map_err(|error| {
        let reason = format!(
            "it cannot be understood (line {}, column {}); remove it if it was changed by hand",
            error.line(),
            error.column()
        );
        StoreError::new(vault.place(key), reason)
    })
}

fn answer_key(token: &str) -> Result<Key, StoreError> {
    let wrong = || StoreError::new("answers", "the authority's token is none (RFC 8555 §8.1)");
    Token::new(token).map(Key::Answer).ok_or_else(wrong)
}

/// Seconds since 1970.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
