//! The watch: which paths changed, as the kernel says.
//!
//! Directories are watched, not files, because editors and ConfigMaps replace files by renaming.
//! What changed is kept by path, not in a queue, so it is bounded however long nobody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// Changed paths that are kept apart; beyond that everything counts as changed.
const MAX_CHANGED: usize = 10_000;

/// What changed since it was last asked.
#[derive(Debug, PartialEq)]
pub enum Changed {
    /// Possibly everything.
    All,
    /// These paths, each with its directory in canonical form, and what happened there last.
    Paths(BTreeMap<PathBuf, How>),
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It came under its name, whole: renamed.
    Placed,
    /// It is being written, or was; nobody knows whether that is all.
    Written,
    /// It went away under another name, as editors do with what they are about to write anew.
    MovedAway,
    /// It was deleted.
    Deleted,
}

impl Changed {
    /// Whether a path is among them.
    pub fn names(&self, path: &Path) -> bool {
        match self {
            Self::All => true,
            Self::Paths(paths) => paths.contains_key(path),
        }
    }

    /// Whether it is known to have been deleted, and nothing has come in its place.
    pub fn is_deleted(&self, path: &Path) -> bool {
        matches!(self, Self::Paths(paths) if paths.get(path) == Some(&How::Deleted))
    }
}

/// Wakes the thread that looks.
#[derive(Clone, Debug)]
pub struct Waker(SyncSender<()>);

impl Waker {
    /// Wakes it; one wake-up is kept when it is awake.
    pub fn wake(&self) {
        let _ = self.0.try_send(()); // full: it will wake anyway
    }
}

/// Watches a set of directories.
#[derive(Debug)]
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// The directories by canonical path, with the inode that is watched.
    watched: BTreeMap<PathBuf, u64>,
    /// Directories that could not be watched, to say so once.
    failed: BTreeSet<PathBuf>,
    /// Where the root's own name stands: seen when the root is replaced.
    parent: Option<PathBuf>,
    changed: Arc<Mutex<Changed>>,
}

impl Watch {
    /// A watch for a root directory that watches nothing yet, and the two ends of its wake-up.
    pub fn new(root: &Path) -> (Self, Waker, Receiver<()>) {
        let (sender, awake) = sync_channel(1);
        let waker = Waker(sender);
        let changed = Arc::new(Mutex::new(Changed::All));
        let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
        let own_name = absolute.file_name().map(OsString::from);
        let handler = {
            let (changed, waker, parent) = (Arc::clone(&changed), waker.clone(), parent.clone());
            move |event: notify::Result<notify::Event>| {
                let is_elsewhere = |path: &PathBuf| {
                    parent.is_some()
                        && path.parent() == parent.as_deref()
                        && path.file_name() != own_name.as_deref()
                };
                let mut changed = changed.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    // reading opens files too: only the end of writing counts
                    Ok(event) if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) =>
                    {
                        return;
                    }
                    Ok(event) if event.need_rescan() || event.paths.is_empty() => *changed = Changed::All,
                    Ok(event) if event.paths.iter().all(is_elsewhere) => return,
                    Ok(event) => match &mut *changed {
                        Changed::Paths(paths) if paths.len() < MAX_CHANGED => paths.extend(named(event)),
                        Changed::Paths(_) => *changed = Changed::All,
                        Changed::All => {}
                    },
                    Err(_) => *changed = Changed::All,
                }
                waker.wake();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| {
                tracing::warn!("manifests are not watched but looked through each second: {error}")
            })
            .ok();
        let watch = Self {
            watcher,
            watched: BTreeMap::new(),
            failed: BTreeSet::new(),
            parent,
            changed,
        };
        (watch, waker, awake)
    }

    /// A watch that sees nothing: every look goes through the directory.
    #[cfg(test)]
    pub fn blind() -> Self {
        Self {
            watcher: None,
            watched: BTreeMap::new(),
            failed: BTreeSet::new(),
            parent: None,
            changed: Arc::new(Mutex::new(Changed::All)),
        }
    }

    /// Whether the kernel tells of changes.
    pub fn is_watching(&self) -> bool {
        self.watcher.is_some() && !self.watched.is_empty()
    }

    /// What changed since the last call; everything in the first.
    pub fn take_changed(&self) -> Changed {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *changed, Changed::Paths(BTreeMap::new()))
    }

    /// Whether what changed was done in one stroke, so that there is nothing to wait for: a rename into place or a
    /// deletion, and no file that is being written.
    pub fn is_settled(&self) -> bool {
        match &*self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            Changed::All => false,
            Changed::Paths(paths) => {
                let any = |wanted: &[How]| paths.values().any(|how| wanted.contains(how));
                any(&[How::Placed, How::Deleted]) && !any(&[How::Written])
            }
        }
    }

    /// As if the kernel had told.
    #[cfg(test)]
    pub fn tell(&self, path: PathBuf, how: How) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Changed::Paths(paths) = &mut *changed {
            paths.insert(path, how);
        }
    }

    /// Watches exactly these directories (canonical paths) and the root's parent; gives whether any is new.
    pub fn follow(&mut self, directories: &BTreeSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        let wanted: BTreeMap<PathBuf, u64> = directories
            .iter()
            .chain(&self.parent)
            .filter_map(|path| Some((path.clone(), std::fs::metadata(path).ok()?.ino())))
            .collect();
        if wanted == self.watched {
            return false;
        }
        self.watched.retain(|path, inode| {
            let stays = wanted.get(path) == Some(inode);
            if !stays {
                let _ = watcher.unwatch(path); // gone already, most likely
            }
            stays
        });
        let mut is_any_new = false;
        for (path, inode) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, inode);
                    is_any_new = true;
                }
                Err(error) if self.failed.insert(path.clone()) => {
                    tracing::warn!("{} is not watched, only looked through: {error}", path.display());
                }
                Err(_) => {}
            }
        }
        is_any_new
    }
}

/// The paths of an event, with what it says of each.
fn named(event: notify::Event) -> impl Iterator<Item = (PathBuf, How)> {
    let kind = event.kind;
    let last = event.paths.len().saturating_sub(1);
    event.paths.into_iter().enumerate().map(move |(nth, path)| {
        let how = match kind {
            EventKind::Remove(_) => How::Deleted,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => How::MovedAway,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => How::Placed,
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) if nth < last => How::MovedAway,
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => How::Placed,
            _ => How::Written,
        };
        (path, how)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_in_one_stroke_need_not_be_waited_for() {
        let cases: [(&[How], bool); 8] = [
            (&[], false),
            (&[How::Placed], true),
            (&[How::Deleted], true),
            (&[How::MovedAway, How::Placed], true), // a rename
            (&[How::MovedAway], false),             // an editor's backup: more is to come
            (&[How::Written], false),
            (&[How::Written, How::Placed], false), // one file is ready, another is not
            (&[How::Written, How::Deleted], false),
        ];
        for (told, settled) in cases {
            let watch = Watch::blind();
            assert!(!watch.is_settled(), "nothing is known at first");
            watch.take_changed();
            for (nth, how) in told.iter().enumerate() {
                watch.tell(PathBuf::from(nth.to_string()), *how);
            }
            assert_eq!(watch.is_settled(), settled, "{told:?}");
        }
    }
}
