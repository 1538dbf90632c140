//! The store: a directory with the account, the certificates, what is remembered of each name, and the answers that are
//! given right now. Replicas may share it.
//!
//! ```text
//! STORE/ca.example-1f2e3d4c/             one per authority, so that a change of it takes nothing over
//!   account.json                         the account and its key
//!   certificates/shop.example.com.pem    chain and private key, one file, so that they always belong together
//!   notes/shop.example.com.json          failures, when the authority wants a renewal
//!   answers/TOKEN.json                   what authorities are answered, while an order runs
//!   lock                                 held (flock) by who orders
//! ```
//! Files are written beside their place and renamed, so that nobody ever reads half of one. Directories are made 0700 and files
//! 0600; what others may read or write is refused with its place, because a key that was readable is no longer a secret.
//!
//! The lock belongs to an open file, so the kernel takes it away when its process ends, however that happens: it is
//! never stale. On a network file system it needs one that knows `flock` between hosts (NFSv4, CephFS).
//!
//! A Secret and a Lease of Kubernetes could stand where this directory does: [`Store`] is all that the rest knows of it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::{Life, Notes};
use crate::model::acme::DirectoryUrl;
use crate::model::tls::Origin;
use crate::model::{Certificate, ManagedName};

/// Bytes of the largest file that is read: chains are about 5 KB.
const MAX_FILE: u64 = 256 * 1024;
/// Answers that are read; orders that run at once need one each.
const MAX_ANSWERS: usize = 64;
/// Seconds after which an answer that nobody took away is no longer given.
const ANSWER_LIFE: u64 = 3600;
/// The longest token; Let's Encrypt's have 43 characters.
const MAX_TOKEN: usize = 128;

/// How files begin that are being written.
const NEW: &str = ".new-";

/// A store of one authority.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// What is wrong with the store, or a file in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct StoreError {
    /// Where.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub reason: String,
}

/// The right to order, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
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
    stamp: Option<Stamp>,
    /// What is wrong with the certificate's file.
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

/// A file's identity and age: a rename over it changes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    length: u64,
    mode: u32,
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
    /// Opens the store for an authority; makes what is missing.
    ///
    /// # Errors
    /// It cannot be made, or others may look into it.
    pub fn open(base: &Path, directory: &DirectoryUrl) -> Result<Self, StoreError> {
        let hash = digest::digest(&digest::SHA256, directory.as_str().as_bytes());
        let hash = hash.as_ref().first_chunk::<4>().copied().unwrap_or_default();
        let hash = u32::from_be_bytes(hash);
        // A host may have colons (IPv6).
        let host = directory.host().replace(':', "_");
        let root = base.join(format!("{host}-{hash:08x}"));
        make(base, true)?;
        for path in [
            root.clone(),
            root.join("certificates"),
            root.join("notes"),
            root.join("answers"),
        ] {
            make(&path, false)?;
        }
        Ok(Self { root })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Tries to get the right to order; none: another has it.
    ///
    /// # Errors
    /// The file cannot be opened or locked.
    pub fn lock(&self) -> Result<Option<Lock>, StoreError> {
        let path = self.root.join("lock");
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = opened.map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(&path)(error)),
        }
    }

    /// What is there for these names now. What has not changed since `before` is taken from there.
    pub fn read<'a>(
        &self,
        names: impl Iterator<Item = &'a ManagedName>,
        before: &Contents,
        now: SystemTime,
    ) -> Contents {
        let mut contents = Contents::default();
        for name in names {
            let mut stored = self.certificate(name, before.entries.get(name), now);
            contents.broken.extend(stored.wrong.clone());
            match self.json(&self.path("notes", name, "json")) {
                Ok(notes) => stored.notes = notes.unwrap_or_default(),
                Err(error) => contents.broken.push(error),
            }
            contents.entries.insert(name.clone(), stored);
        }
        self.answers(&mut contents, now);
        contents
    }

    /// The account; none: there is none yet.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn account<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        self.json(&self.root.join("account.json"))
    }

    /// Keeps the account.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_account(&self, account: &impl Serialize) -> Result<(), StoreError> {
        self.put_json(&self.root.join("account.json"), account)
    }

    /// Forgets the account, which the authority does not know any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_account(&self) -> Result<(), StoreError> {
        remove(&self.root.join("account.json"))
    }

    /// Keeps a certificate: its chain and its key, both PEM.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_certificate(&self, name: &ManagedName, chain: &str, key: &str) -> Result<(), StoreError> {
        let text = format!("{}\n{}\n", chain.trim_end(), key.trim_end());
        put(&self.path("certificates", name, "pem"), text.as_bytes())
    }

    /// Keeps what is to be remembered of a name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put_notes(&self, name: &ManagedName, notes: &Notes) -> Result<(), StoreError> {
        self.put_json(&self.path("notes", name, "json"), notes)
    }

    /// Has an authority answered, by all replicas.
    ///
    /// # Errors
    /// Its token is none that can be a file's name, or it cannot be written.
    pub fn put_answer(&self, answer: &Answer) -> Result<(), StoreError> {
        let path = self.answer_path(&answer.token)?;
        self.put_json(&path, answer)
    }

    /// Ends an answer.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_answer(&self, token: &str) -> Result<(), StoreError> {
        remove(&self.answer_path(token)?)
    }

    /// Takes away answers that were left behind, and files whose writing never ended. For who holds the lock and has no
    /// order under way.
    pub fn sweep(&self) {
        for path in files(&self.root.join("answers")).unwrap_or_default() {
            let _ = remove(&path);
        }
        for directory in ["", "certificates", "notes", "answers"] {
            let entries = fs::read_dir(self.root.join(directory));
            for entry in entries.into_iter().flatten().flatten() {
                if entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes()) {
                    let _ = remove(&entry.path());
                }
            }
        }
    }

    fn answers(&self, contents: &mut Contents, now: SystemTime) {
        let now = unix(now);
        let paths = match files(&self.root.join("answers")) {
            Ok(paths) => paths,
            Err(error) => return contents.broken.push(error),
        };
        for path in paths.into_iter().take(MAX_ANSWERS * 4) {
            match self.json::<Answer>(&path) {
                // Gone since the directory was read.
                Ok(None) => {}
                Ok(Some(answer)) => {
                    let is_given = answer.since.saturating_add(ANSWER_LIFE) > now;
                    if is_given && contents.answers.len() < MAX_ANSWERS {
                        contents.answers.push(answer);
                    }
                }
                Err(error) => contents.broken.push(error),
            }
        }
        // The order of a directory is any.
        contents.answers.sort_by(|one, other| one.token.cmp(&other.token));
    }

    fn certificate(&self, name: &ManagedName, before: Option<&Stored>, now: SystemTime) -> Stored {
        let path = self.path("certificates", name, "pem");
        let wrong = |error| Stored {
            wrong: Some(error),
            ..Stored::default()
        };
        let stamp = match fs::metadata(&path) {
            Ok(found) => Stamp {
                inode: found.ino(),
                changed: (found.ctime(), found.ctime_nsec()),
                length: found.len(),
                mode: found.mode(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Stored::default(),
            Err(error) => return wrong(at(&path)(error)),
        };
        if let Some(before) = before.filter(|before| before.stamp == Some(stamp)) {
            let mut same = before.clone();
            let ended = |one: &Arc<Certificate>| u64::try_from(one.not_after()).unwrap_or(0) < unix(now);
            if same.certificate.as_ref().is_some_and(ended) {
                same.certificate = None;
            }
            return same;
        }
        let read = read(&path).and_then(|text| {
            let origin = Origin::Named(path.to_string_lossy().into());
            let made = Certificate::from_pem(origin, &text, &text, now);
            let made = made.map_err(|error| StoreError {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            if made.names().contains(name.pattern()) {
                return Ok(made);
            }
            Err(StoreError {
                path: path.clone(),
                reason: format!("it is not for {name}"),
            })
        });
        match read {
            Ok(certificate) => Stored {
                certificate: Some(Arc::new(certificate)),
                stamp: Some(stamp),
                ..Stored::default()
            },
            Err(error) => Stored {
                stamp: Some(stamp),
                ..wrong(error)
            },
        }
    }

    fn path(&self, kind: &str, name: &ManagedName, ending: &str) -> PathBuf {
        // No name that is managed has an underscore.
        let star = if name.is_wildcard() { "_." } else { "" };
        self.root
            .join(kind)
            .join(format!("{star}{}.{ending}", name.base()))
    }

    fn answer_path(&self, token: &str) -> Result<PathBuf, StoreError> {
        // RFC 8555 §8.1: base64url.
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(good) {
            return Err(StoreError {
                path: self.root.join("answers"),
                reason: "the authority's token is none (RFC 8555 §8.1)".to_owned(),
            });
        }
        Ok(self.root.join("answers").join(format!("{token}.json")))
    }

    fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            _ => {}
        }
        let text = read(path)?;
        // The library's message may quote what it has read, which may be a key.
        let parsed = serde_json::from_slice(&text).map_err(|error| StoreError {
            path: path.to_owned(),
            reason: format!(
                "it cannot be understood (line {}, column {}); remove it if it was changed by hand",
                error.line(),
                error.column()
            ),
        })?;
        Ok(Some(parsed))
    }

    fn put_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(value).map_err(|error| StoreError {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        put(path, &text)
    }
}

/// Seconds since 1970.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |error| StoreError {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Makes a directory for the process alone. `shared`: one that is there already may be the user's, open to others.
fn make(path: &Path, shared: bool) -> Result<(), StoreError> {
    if !path.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(at(path))?;
    }
    let found = fs::metadata(path).map_err(at(path))?;
    if !found.is_dir() {
        return Err(StoreError {
            path: path.to_owned(),
            reason: "it is not a directory".to_owned(),
        });
    }
    if shared {
        return Ok(());
    }
    closed(path, found.permissions().mode(), "700")
}

/// Whether nobody else may look into it.
fn closed(path: &Path, mode: u32, wanted: &str) -> Result<(), StoreError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StoreError {
        path: path.to_owned(),
        reason: format!(
            "others may read or write it (mode {:o}); chmod {wanted}, and take keys in it for known",
            mode & 0o7777
        ),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).map_err(at(path))?;
    let mode = file.metadata().map_err(at(path))?.permissions().mode();
    closed(path, mode, "600")?;
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(at(path))?;
    if text.len() as u64 > MAX_FILE {
        return Err(StoreError {
            path: path.to_owned(),
            reason: format!("it is larger than {} KiB", MAX_FILE / 1024),
        });
    }
    Ok(text)
}

/// Writes beside the place and renames. A crash leaves the old file or the new one.
fn put(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let new = path.with_file_name(format!("{NEW}{:016x}", fastrand::u64(..)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| {
            path.parent()
                .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        });
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        at(path)(error)
    })
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// The files of a directory whose writing is over.
fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(directory).map_err(at(directory))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let done = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    Ok(paths.filter(done).collect())
}

#[cfg(test)]
mod tests;
