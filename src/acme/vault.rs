//! What keeps bytes by key, for the [store](super::store): a directory ([`Files`]), or what a cluster has for it. What the bytes
//! mean is the store's affair; where they are, who may see them and who holds the lock is the vault's.
//!
//! Nothing here blocks a thread of tasks: what waits for a disk does so on a thread of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::model::ManagedName;

mod files;

pub use files::Files;

/// Bytes of the largest thing that is read: chains are about 5 KB.
pub const MAX_BYTES: usize = 256 * 1024;
/// The longest token; Let's Encrypt's have 43 characters.
const MAX_TOKEN: usize = 128;

/// Something that takes its time.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What keeps bytes by key, for the orders of one authority.
///
/// Who writes holds the lock. Reading takes none, and gives what was there lately: who has just taken the lock is given
/// all that was written by who held it before.
pub trait Vault: fmt::Debug + Send + Sync {
    /// Where something is, for messages.
    fn place(&self, key: &Key) -> String;

    /// What is there, in the order of what is asked for. With a stamp: only if it is not what had that stamp.
    fn read(&self, wanted: Vec<(Key, Option<Stamp>)>) -> Asked<'_, Vec<Result<Found, StoreError>>>;

    /// The keys of all answers, with a bound.
    fn answers(&self) -> Asked<'_, Result<Vec<Key>, StoreError>>;

    /// Keeps something, in the place of what was there. Nobody ever reads half of it.
    fn put(&self, key: Key, bytes: Vec<u8>) -> Asked<'_, Result<(), StoreError>>;

    /// Keeps it no longer; no error if it is not there.
    fn remove(&self, key: Key) -> Asked<'_, Result<(), StoreError>>;

    /// Takes away all answers, and what was left of writing that never ended. For who holds the lock and has no order under way.
    fn sweep(&self) -> Asked<'_, Result<(), StoreError>>;

    /// Tries to get the right to write; none: another has it.
    fn lock(&self) -> Asked<'_, Result<Option<Lock>, StoreError>>;

    /// Counts up when something may be different. None: nobody tells, and one has to look.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// What is wrong with the way there, if anything; what was read before stays.
    fn trouble(&self) -> Option<StoreError> {
        None
    }
}

/// What something is kept under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The account and its key.
    Account,
    /// A name's certificate: its chain, then its key, both PEM.
    Certificate(ManagedName),
    /// What is remembered of a name.
    Notes(ManagedName),
    /// What an authority is answered.
    Answer(Token),
}

/// What an authority asks for (RFC 8555 §8.1): base64url, and so good for a file's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(Arc<str>);

impl Token {
    /// None: it is no token.
    pub fn new(text: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_good = !text.is_empty() && text.len() <= MAX_TOKEN && text.bytes().all(good);
        is_good.then(|| Self(text.into()))
    }

    /// As the authority says it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells one state of something from another. Opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Arc<str>);

impl Stamp {
    /// Two states of the same key must have different texts.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }
}

/// What was found under a key.
#[derive(Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// What had the stamp.
    Same,
    /// Something new.
    New(Stamp, Vec<u8>),
}

/// What is wrong with the store, or something in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct StoreError {
    /// Where: a path, or an object's kind and name.
    pub place: String,
    /// What is wrong and what to do. No part of a key.
    pub reason: String,
}

impl StoreError {
    /// At this place, for this reason.
    pub fn new(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            reason: reason.into(),
        }
    }
}

/// Until when a lock is surely ours; none: it is lost.
pub type HeldUntil = watch::Receiver<Option<Instant>>;

/// Whether a lock is ours, now. A process that was halted for a while does not know yet that it has lost one, but it knows how late it is.
pub fn is_held(held: &HeldUntil) -> bool {
    held.borrow().is_some_and(|until| Instant::now() < until)
}

/// The right to write. Dropped, it is given back as soon as that can be done.
pub struct Lock {
    /// None: nobody can take it away.
    held: Option<HeldUntil>,
    keeps: Box<dyn Send + Sync>,
    over: Option<oneshot::Receiver<()>>,
}

impl fmt::Debug for Lock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lock")
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}

impl Lock {
    /// One that is held as long as something is kept: nobody else can take it away.
    pub fn keeping(keeps: impl Send + Sync + 'static) -> Self {
        Self {
            held: None,
            keeps: Box::new(keeps),
            over: None,
        }
    }

    /// One that can be lost. `keeps` is dropped to give it back, which is done when `over` says so.
    pub fn losable(held: HeldUntil, keeps: impl Send + Sync + 'static, over: oneshot::Receiver<()>) -> Self {
        Self {
            held: Some(held),
            keeps: Box::new(keeps),
            over: Some(over),
        }
    }

    /// Whether it is ours still.
    pub fn is_held(&self) -> bool {
        self.held.as_ref().is_none_or(is_held)
    }

    /// Waits until it is lost, which may be never. Cancel-safe.
    pub async fn lost(&mut self) {
        let is_lost = match &mut self.held {
            Some(held) => held.wait_for(Option::is_none).await.is_ok(),
            None => false,
        };
        if !is_lost {
            // Nobody says so.
            std::future::pending::<()>().await;
        }
    }

    /// Gives it back, and waits until that is done.
    pub async fn give_back(self) {
        drop(self.keeps);
        if let Some(over) = self.over {
            let _ = over.await; // an error: whoever would do it is gone
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_held_as_long_as_it_is_sure() {
        let (says, held) = watch::channel(Some(Instant::now() + Duration::from_secs(10)));
        let (_done, over) = oneshot::channel();
        let mut lock = Lock::losable(held, (), over);
        assert!(lock.is_held());
        // Nobody has said that it is lost, but nobody has renewed it either.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!lock.is_held());
        says.send_replace(Some(Instant::now() + Duration::from_secs(10)));
        assert!(lock.is_held());
        says.send_replace(None);
        lock.lost().await;
        assert!(!lock.is_held());
        assert!(Lock::keeping(()).is_held());
    }

    #[test]
    fn tokens_are_such() {
        for (text, is_one) in [("a-Z_9", true), ("", false), ("../a", false), ("a.b", false)] {
            assert_eq!(Token::new(text).is_some(), is_one, "{text}");
        }
        assert!(Token::new(&"x".repeat(MAX_TOKEN)).is_some());
        assert!(Token::new(&"x".repeat(MAX_TOKEN + 1)).is_none());
    }
}
