//! A directory as a vault. Replicas may share it.
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

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Asked, Found, Key, Lock, MAX_BYTES, Stamp, StoreError, Token, Vault};
use crate::model::ManagedName;
use crate::model::acme::DirectoryUrl;

/// Answers that are looked at; there are as many as orders that run.
const MAX_LISTED: usize = 256;

/// How files begin that are being written.
const NEW: &str = ".new-";

/// A directory for the orders of one authority.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Opens it for an authority; makes what is missing. Waits for a disk.
    ///
    /// # Errors
    /// It cannot be made, or others may look into it.
    pub fn open(base: &Path, directory: &DirectoryUrl) -> Result<Self, StoreError> {
        // A host may have colons (IPv6).
        let host = directory.host().replace(':', "_");
        let root = base.join(format!("{host}-{}", directory.short_hash()));
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

    fn path(&self, key: &Key) -> PathBuf {
        let of = |kind: &str, name: &ManagedName, ending: &str| {
            // No name that is managed has an underscore.
            let star = if name.is_wildcard() { "_." } else { "" };
            self.root
                .join(kind)
                .join(format!("{star}{}.{ending}", name.base()))
        };
        match key {
            Key::Account => self.root.join("account.json"),
            Key::Certificate(name) => of("certificates", name, "pem"),
            Key::Notes(name) => of("notes", name, "json"),
            Key::Answer(token) => self.root.join("answers").join(format!("{}.json", token.as_str())),
        }
    }

    /// Does what waits for a disk.
    fn off<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Asked<'_, Result<T, StoreError>> {
        let (files, place) = (self.clone(), self.root.join(what));
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || work(&files)).await;
            done.unwrap_or_else(|error| Err(at(&place)(io::Error::other(error))))
        })
    }

    fn try_lock(&self) -> Result<Option<Lock>, StoreError> {
        let path = self.root.join("lock");
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = opened.map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock::keeping(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(&path)(error)),
        }
    }

    fn listed(&self) -> Result<Vec<Key>, StoreError> {
        let directory = self.root.join("answers");
        let entries = fs::read_dir(&directory).map_err(at(&directory))?;
        // What is being written has another ending, and no token has a dot.
        let token = |entry: fs::DirEntry| Token::new(entry.file_name().to_str()?.strip_suffix(".json")?);
        let keys = entries.flatten().filter_map(token).map(Key::Answer);
        Ok(keys.take(MAX_LISTED).collect())
    }

    fn swept(&self) -> Result<(), StoreError> {
        loop {
            let left = self.listed()?;
            for key in &left {
                remove(&self.path(key))?;
            }
            if left.len() < MAX_LISTED {
                break;
            }
        }
        for directory in ["", "certificates", "notes", "answers"] {
            let entries = fs::read_dir(self.root.join(directory));
            for entry in entries.into_iter().flatten().flatten() {
                if entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes()) {
                    let _ = remove(&entry.path());
                }
            }
        }
        Ok(())
    }
}

impl Vault for Files {
    fn place(&self, key: &Key) -> String {
        self.path(key).display().to_string()
    }

    fn read(&self, wanted: Vec<(Key, Option<Stamp>)>) -> Asked<'_, Vec<Result<Found, StoreError>>> {
        let count = wanted.len();
        let all = self.off("", move |files| {
            let found = wanted.iter();
            Ok(found
                .map(|(key, known)| find(&files.path(key), known.as_ref()))
                .collect())
        });
        Box::pin(async move { all.await.unwrap_or_else(|error| vec![Err(error); count]) })
    }

    fn answers(&self) -> Asked<'_, Result<Vec<Key>, StoreError>> {
        self.off("answers", Self::listed)
    }

    fn put(&self, key: Key, bytes: Vec<u8>) -> Asked<'_, Result<(), StoreError>> {
        self.off("", move |files| put(&files.path(&key), &bytes))
    }

    fn remove(&self, key: Key) -> Asked<'_, Result<(), StoreError>> {
        self.off("", move |files| remove(&files.path(&key)))
    }

    fn sweep(&self) -> Asked<'_, Result<(), StoreError>> {
        self.off("answers", Self::swept)
    }

    fn lock(&self) -> Asked<'_, Result<Option<Lock>, StoreError>> {
        self.off("lock", Self::try_lock)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |error| wrong(path, error.to_string())
}

fn wrong(path: &Path, reason: impl Into<String>) -> StoreError {
    StoreError::new(path.display().to_string(), reason)
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
        return Err(wrong(path, "it is not a directory"));
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
    let reason = format!(
        "others may read or write it (mode {:o}); chmod {wanted}, and take keys in it for known",
        mode & 0o7777
    );
    Err(wrong(path, reason))
}

/// What is there, unless it is what had this stamp.
fn find(path: &Path, known: Option<&Stamp>) -> Result<Found, StoreError> {
    let stamp = match fs::metadata(path) {
        Ok(found) => stamp(&found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(at(path)(error)),
    };
    if known == Some(&stamp) {
        return Ok(Found::Same);
    }
    match read(path) {
        Ok(bytes) => Ok(Found::New(stamp, bytes)),
        // Gone since.
        Err(_) if !path.exists() => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

/// A file's identity and age: a rename over it changes both.
fn stamp(found: &fs::Metadata) -> Stamp {
    let parts = (found.ino(), found.ctime(), found.ctime_nsec());
    Stamp::new(&format!("{parts:?} {} {:o}", found.len(), found.mode()))
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = File::open(path).map_err(at(path))?;
    let mode = file.metadata().map_err(at(path))?.permissions().mode();
    closed(path, mode, "600")?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(at(path))?;
    if bytes.len() > MAX_BYTES {
        return Err(wrong(path, format!("it is larger than {} KiB", MAX_BYTES / 1024)));
    }
    Ok(bytes)
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
