//! Manifests: a directory of YAML and JSON files plays the API server.
//!
//! The directory is read three levels deep; names that begin with a dot are left out, so that the
//! hidden directories of a mounted ConfigMap do not count twice. Every file stands alone: one that
//! cannot be read keeps its last good objects and is a [`Reject`] with file and line.
//!
//! A thread of its own owns files, index and watch, and reads only what changed. What was renamed into place or deleted after
//! a quiet moment is read at once; what is written in place, or follows closely, is gathered for 5 ms. Its channel holds one change: while nobody takes it, further edits gather where they are,
//! in the directory, so nothing here can pile up.

mod directory;
mod document;
mod walk;
mod watch;

use std::future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::kubernetes::Settings;
use crate::kubernetes::index::Index;
use crate::model::{Delta, Reject};
use directory::Directory;
use watch::{Waker, Watch};

/// How long events are gathered: an editor makes several for one edit, a rollout makes many edits.
const GATHER: Duration = Duration::from_millis(5);

/// How often the directory is looked through without an event: file systems over a network send none.
const LOOK_THROUGH: Duration = Duration::from_secs(10);

/// The same, when the kernel gives no watch at all.
const LOOK_THROUGH_UNWATCHED: Duration = Duration::from_secs(1);

/// A directory that is read and watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Manifests {
    changes: mpsc::Receiver<(Delta, Vec<Reject>)>,
    waker: Waker,
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, is no directory, or may not be read.
    #[error("cannot read the manifest directory {}: {error}", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The thread that watches it cannot be started.
    #[error("cannot start the thread that watches manifests: {0}")]
    Thread(#[source] io::Error),
}

impl Manifests {
    /// Reads a directory once: the index of what is in it, and what of its files cannot be read. Reads on the calling thread.
    pub(super) fn read(directory: &Path, settings: Settings) -> Result<(Index, Vec<Reject>), OpenError> {
        std::fs::read_dir(directory).map_err(|error| OpenError::Unreadable {
            path: directory.to_owned(),
            error,
        })?;
        let (mut watch, ..) = Watch::new(directory);
        let mut directory = Directory::new(directory.to_owned(), settings);
        directory.look(Instant::now(), &mut watch);
        let problems = directory.problems();
        Ok((directory.into_index(), problems))
    }

    /// Reads a directory and begins to watch it: the watch, all there is in it, and what of that is rejected.
    ///
    /// Reads files on the calling thread; some hundred thousand lines take seconds.
    pub fn open(
        directory: impl AsRef<Path>,
        settings: Settings,
    ) -> Result<(Self, Delta, Vec<Reject>), OpenError> {
        let path = directory.as_ref();
        let unreadable = |error| OpenError::Unreadable {
            path: path.to_owned(),
            error,
        };
        std::fs::read_dir(path).map_err(unreadable)?;
        let mut directory = Directory::new(path.to_owned(), settings);
        let (mut watch, waker, awake) = Watch::new(path);
        let seen = directory.look(Instant::now(), &mut watch);
        let (delta, rejects) = seen.change.unwrap_or_default();

        let (sender, changes) = mpsc::channel(1);
        let mut look_again = seen.look_again;
        let mut quiet_until = Instant::now();
        thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || {
                while !sender.is_closed() {
                    let pause = if watch.is_watching() {
                        LOOK_THROUGH
                    } else {
                        LOOK_THROUGH_UNWATCHED
                    };
                    let until =
                        look_again.map_or(pause, |at: Instant| at.saturating_duration_since(Instant::now()));
                    match awake.recv_timeout(until) {
                        Ok(()) => gather(&watch, &awake, quiet_until),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    let seen = directory.look(Instant::now(), &mut watch);
                    look_again = seen.look_again;
                    if seen.change.is_some() {
                        quiet_until = Instant::now() + GATHER;
                    }
                    if let Some(change) = seen.change
                        && sender.blocking_send(change).is_err()
                    {
                        return;
                    }
                }
            })
            .map_err(OpenError::Thread)?;
        Ok((Self { changes, waker }, delta, rejects))
    }

    /// Waits for the next change: what is different, and all that is rejected now.
    ///
    /// The delta is empty when only the rejects changed. Cancel-safe: a change is given or kept.
    pub async fn next(&mut self) -> (Delta, Vec<Reject>) {
        match self.changes.recv().await {
            Some(change) => change,
            None => {
                tracing::error!("the thread that watches manifests ended; what it read last stays");
                future::pending().await
            }
        }
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        self.changes.close();
        self.waker.wake();
    }
}

/// Waits after an event for those that belong to it: for [`GATHER`], or if there is nothing to wait for, until the
/// moment before which no further look is wanted.
fn gather(watch: &Watch, awake: &Receiver<()>, quiet_until: Instant) {
    let latest = Instant::now() + GATHER;
    loop {
        let until = if watch.is_settled() { quiet_until } else { latest };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || awake.recv_timeout(left).is_err() {
            return;
        }
    }
}

#[cfg(test)]
pub(super) fn parse_for_tests(text: &str) -> document::Parsed {
    document::parse(text, false)
}
