//! What was read last, in a file, for a start without an API server: what is served, not what is being answered.
//!
//! The file has all of it and is written anew, beside its place, when something has changed: there are few changes, and what they are
//! about is small. It is readable by its owner alone (0600), beside the journal of the other objects ([`keep`](crate::kubernetes::cluster)).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::shape::Record;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_secs(2);
/// Bytes of the largest file that is read: ten thousand certificates.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Where it is.
#[derive(Clone, Debug)]
pub struct Last {
    path: PathBuf,
}

/// A Secret, as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    version: String,
    bytes: String,
}

impl Last {
    /// In a directory, for the authority with this hash.
    pub fn new(directory: &Path, hash: String) -> Self {
        let path = directory.join(format!("acme-{hash}.json"));
        Self { path }
    }

    /// What was kept. Waits for a disk.
    ///
    /// # Errors
    /// There is no file, or one that cannot be used.
    pub fn read(&self) -> io::Result<Vec<Record>> {
        let mut text = String::new();
        File::open(&self.path)?.take(MAX_FILE).read_to_string(&mut text)?;
        // The library's message may quote a key.
        let kept: Vec<Kept> = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{}: line {}", self.path.display(), error.line())))?;
        let record = |kept: Kept| Record {
            bytes: BASE64
                .decode(kept.bytes.as_bytes())
                .map_err(|_| "what was kept is not base64".to_owned()),
            name: kept.name,
            version: kept.version,
            token: None,
        };
        Ok(kept.into_iter().map(record).collect())
    }

    /// Keeps these, and nothing else. Waits for a disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, records: &[Arc<Record>]) -> io::Result<()> {
        let kept: Vec<Kept> = records
            .iter()
            .filter_map(|record| {
                let bytes = record.bytes.as_ref().ok()?;
                Some(Kept {
                    name: record.name.clone(),
                    version: record.version.clone(),
                    bytes: BASE64.encode(bytes),
                })
            })
            .collect();
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)
    }
}

/// Keeps what is read, for the life of the store or until the disk fails.
pub async fn keep(inner: Arc<Inner>, last: Last) {
    let mut changes = inner.changes.subscribe();
    let mut written = Vec::new();
    loop {
        let records: Vec<_> = {
            let mirror = inner.mirror();
            let served = mirror.records().filter(|record| record.token.is_none());
            match mirror.is_read {
                true => served.cloned().collect(),
                false => written.clone(),
            }
        };
        if records != written {
            let (to, what) = (last.clone(), records.clone());
            let done = tokio::task::spawn_blocking(move || to.write(&what)).await;
            if let Err(error) = done.map_err(io::Error::other).flatten() {
                tracing::error!(
                    "certificates are kept on disk no more: {}: {error}",
                    last.path.display()
                );
                return;
            }
            written = records;
        }
        if changes.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(GATHER).await;
        changes.mark_unchanged();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_nobody_else_may() {
        let directory = tempfile::tempdir().unwrap();
        let last = Last::new(&directory.path().join("new"), "1f2e3d4c".to_owned());
        assert_eq!(last.read().err().unwrap().kind(), io::ErrorKind::NotFound);
        let record = |name: &str, bytes: Result<Vec<u8>, String>| {
            Arc::new(Record {
                name: name.to_owned(),
                version: "7".to_owned(),
                token: None,
                bytes,
            })
        };
        let good = record("a", Ok(vec![0, 255]));
        for records in [
            vec![good.clone(), record("b", Err("nonsense".to_owned()))],
            vec![good.clone()],
        ] {
            last.write(&records).unwrap();
            let read = last.read().unwrap();
            assert!(read.len() == 1 && read[0] == *good);
        }
        let mode = fs::metadata(&last.path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::write(&last.path, "[{\"name\": \"geheim").unwrap();
        assert!(!last.read().err().unwrap().to_string().contains("geheim"));
    }
}
