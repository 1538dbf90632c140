//! Notices that a file may have changed.
//!
//! The parent directory is watched, not the file: editors replace files by renaming, and Kubernetes
//! swaps the `..data` symlink beside a ConfigMap's files, so that the file itself never sees an
//! event. Where the file is a symlink, the directory it leads to is watched too. After an event that
//! may concern the file the content is read and compared by hash: a swap to equal content is no
//! change. What is written into neighbours, a log perhaps many times a second, wakes nobody, and
//! neither does our own reading. A slow look without an event covers file systems that send none.
//!
//! Files that the file names (certificates) are followed in the same way, from the content with which they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Quiet after the last event before the file is read; a rename or swap is several events.
pub const DEBOUNCE: Duration = Duration::from_millis(100);
/// Longest wait when events never stop.
const MAX_DEBOUNCE: Duration = Duration::from_secs(1);
/// Time between two looks without an event.
const SLOW_LOOK: Duration = Duration::from_secs(30);

/// Why a file cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be watched: {source}")]
pub struct WatchError {
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    pub source: notify::Error,
}

/// A watched file. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<()>,
    others: watch::Sender<Files>,
    task: JoinHandle<()>,
}

/// Files, each with the fingerprint of its content.
type Files = BTreeMap<PathBuf, Option<u64>>;

impl Watch {
    /// Watches a file from its present content on. The file need not exist, its directory must.
    /// Call it within a tokio runtime, before the file is first loaded: then no change is missed.
    ///
    /// # Errors
    /// The directory does not exist or the system has no watches left.
    pub fn start(path: impl AsRef<Path>, debounce: Duration) -> Result<Self, WatchError> {
        let path = path.as_ref().to_owned();
        let fail = |source| WatchError {
            path: path.clone(),
            source,
        };
        // One event waiting says all that many would.
        let (event, events) = mpsc::channel(1);
        let names = Arc::new(Mutex::new(BTreeSet::new()));
        let own_names = Arc::clone(&names);
        let watcher = notify::recommended_watcher(move |seen: notify::Result<Event>| {
            let names = own_names.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.is_err() || seen.is_ok_and(|seen| concerns(&seen, &names)) {
                // Full: an event is waiting already. Closed: nobody listens any more.
                let _ = event.try_send(());
            }
        })
        .map_err(fail)?;
        let mut directories = Directories {
            watcher,
            watched: BTreeSet::new(),
            names,
        };
        let parent = parent_of(&path);
        directories.watch(&parent).map_err(fail)?;
        directories.follow(&path, &Files::new());
        let last = fingerprint(&path);
        let (change, changes) = mpsc::channel(1);
        let (others, named) = watch::channel(Files::new());
        let followed = Followed {
            path,
            directories,
            last,
            named,
            others: Files::new(),
        };
        let task = tokio::spawn(run(followed, debounce, events, change));
        Ok(Self {
            changes,
            others,
            task,
        })
    }

    /// Follows these files too, instead of those named before: any content but the one given is a change.
    pub fn follow(&self, files: &Files) {
        self.others.send_if_modified(|before| {
            let other = before != files;
            if other {
                before.clone_from(files);
            }
            other
        });
    }

    /// Waits until the content may have changed; changes while nobody waits are one.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The task ends only with this value; never say "changed" for nothing.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is followed, and how it was last seen.
struct Followed {
    path: PathBuf,
    directories: Directories,
    last: Option<u64>,
    named: watch::Receiver<Files>,
    others: Files,
}

async fn run(
    mut followed: Followed,
    debounce: Duration,
    mut events: mpsc::Receiver<()>,
    change: mpsc::Sender<()>,
) {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                // The watcher is gone, which only dropping it does.
                None => return,
                Some(()) => quiet(&mut events, debounce).await,
            },
            named = followed.named.changed() => {
                if named.is_err() {
                    return;
                }
                followed.named.mark_changed();
            }
            () = sleep_until(Instant::now() + SLOW_LOOK) => {}
        }
        if followed.named.has_changed().unwrap_or(false) {
            followed.others = followed.named.borrow_and_update().clone();
        }
        // The directories first, so that what changes after the look is an event.
        followed.directories.follow(&followed.path, &followed.others);
        let (path, others) = (followed.path.clone(), followed.others.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let now = others.keys().map(|other| (other.clone(), fingerprint(other)));
            (fingerprint(&path), now.collect::<Files>())
        });
        let Ok((now, others)) = looked.await else {
            continue;
        };
        if now != followed.last || others != followed.others {
            followed.last = now;
            followed.others = others;
            // Full: the receiver has not yet taken the last change, and will read the newest content.
            if let Err(mpsc::error::TrySendError::Closed(())) = change.try_send(()) {
                return;
            }
        }
    }
}

/// Waits until no event has come for `debounce`, at most [`MAX_DEBOUNCE`].
async fn quiet(events: &mut mpsc::Receiver<()>, debounce: Duration) {
    let end = Instant::now() + MAX_DEBOUNCE;
    loop {
        let until = (Instant::now() + debounce).min(end);
        tokio::select! {
            () = sleep_until(until) => return,
            event = events.recv() => if event.is_none() { return },
        }
    }
}

/// Whether an event in a watched directory may concern the file, which goes by these names there. Names that come and
/// go always may: a directory or a symlink on the way may be one of them.
fn concerns(event: &Event, names: &BTreeSet<OsString>) -> bool {
    let is_own = || {
        let mut file_names = event.paths.iter().filter_map(|path| path.file_name());
        file_names.any(|name| names.contains(name))
    };
    match event.kind {
        _ if event.need_rescan() => true,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => is_own(),
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => is_own(),
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The directories that are watched.
struct Directories {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    /// The names of the files: their own, and those of what they lead to.
    names: Arc<Mutex<BTreeSet<OsString>>>,
}

impl Directories {
    fn watch(&mut self, directory: &Path) -> Result<(), notify::Error> {
        if !self.watched.contains(directory) {
            self.watcher.watch(directory, RecursiveMode::NonRecursive)?;
            self.watched.insert(directory.to_owned());
        }
        Ok(())
    }

    /// Watches where the file leads to now, and no longer where it led to before.
    fn follow(&mut self, path: &Path, others: &Files) {
        let mut wanted = BTreeSet::new();
        let mut names = BTreeSet::new();
        for path in others.keys().map(PathBuf::as_path).chain([path]) {
            wanted.insert(parent_of(path));
            names.extend(path.file_name().map(OsString::from));
            if let Ok(target) = path.canonicalize() {
                wanted.insert(parent_of(&target));
                names.extend(target.file_name().map(OsString::from));
            }
        }
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let stale: Vec<PathBuf> = self.watched.difference(&wanted).cloned().collect();
        for directory in stale {
            // The directory may be gone, and its watch with it.
            let _ = self.watcher.unwatch(&directory);
            self.watched.remove(&directory);
        }
        for directory in &wanted {
            // Without this watch the slow look still finds the change.
            if let Err(error) = self.watch(directory) {
                tracing::warn!(directory = %directory.display(), %error, "directory cannot be watched");
            }
        }
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The content in eight bytes; none when it cannot be read.
fn fingerprint(path: &Path) -> Option<u64> {
    super::fingerprint_of(super::read(path).ok().as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tokio::time::timeout;

    const QUICK: Duration = Duration::from_millis(20);

    async fn changes(watch: &mut Watch) -> bool {
        timeout(Duration::from_secs(5), watch.changed()).await.is_ok()
    }

    async fn stays(watch: &mut Watch) -> bool {
        timeout(Duration::from_millis(300), watch.changed())
            .await
            .is_err()
    }

    #[tokio::test]
    async fn a_write_and_a_rename_are_changes_and_equal_content_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::start(&file, QUICK).unwrap();

        fs::write(&file, "two").unwrap();
        assert!(changes(&mut watch).await, "a write");
        fs::write(&file, "two").unwrap();
        assert!(stays(&mut watch).await, "equal content");
        fs::write(directory.path().join("other"), "x").unwrap();
        assert!(stays(&mut watch).await, "a neighbour");
        fs::write(directory.path().join("new"), "three").unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        assert!(changes(&mut watch).await, "a rename");
        fs::remove_file(&file).unwrap();
        assert!(changes(&mut watch).await, "a removal");
        fs::write(&file, "four").unwrap();
        assert!(changes(&mut watch).await, "a return");
    }

    #[tokio::test]
    async fn the_swap_of_a_config_map_is_a_change() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let version = |name: &str, content: &str| {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("tidegate.yaml"), content).unwrap();
        };
        let swap = |name: &str| {
            symlink(name, root.join("..data_tmp")).unwrap();
            fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        };
        version("..1", "one");
        swap("..1");
        symlink("..data/tidegate.yaml", root.join("tidegate.yaml")).unwrap();
        let mut watch = Watch::start(root.join("tidegate.yaml"), QUICK).unwrap();

        for (name, content) in [("..2", "two"), ("..3", "three")] {
            version(name, content);
            swap(name);
            assert!(changes(&mut watch).await, "{content}");
        }
        version("..4", "three");
        swap("..4");
        assert!(stays(&mut watch).await, "a swap to equal content");
    }

    #[tokio::test]
    async fn a_symlink_out_of_the_directory_is_followed() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = there.path().join("real.yaml");
        fs::write(&target, "one").unwrap();
        symlink(&target, here.path().join("a.yaml")).unwrap();
        let mut watch = Watch::start(here.path().join("a.yaml"), QUICK).unwrap();

        fs::write(&target, "two").unwrap();
        assert!(changes(&mut watch).await);
    }

    #[test]
    fn chatter_of_neighbours_and_our_own_reading_concern_nobody() {
        use notify::event::{CreateKind, DataChange, Flag, RemoveKind, RenameMode};
        let names = BTreeSet::from([OsString::from("a.yaml")]);
        let event = |kind, name: &str| Event::new(kind).add_path(Path::new("/etc/tidegate").join(name));
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for (kind, name, expected) in [
            (written, "a.yaml", true),
            (data, "a.yaml", true),
            (written, "access.log", false),
            (data, "access.log", false),
            (
                EventKind::Access(AccessKind::Open(AccessMode::Any)),
                "a.yaml",
                false,
            ),
            (
                EventKind::Access(AccessKind::Close(AccessMode::Read)),
                "a.yaml",
                false,
            ),
            (EventKind::Create(CreateKind::File), "..data", true),
            (EventKind::Remove(RemoveKind::File), "a.yaml", true),
            (
                EventKind::Modify(ModifyKind::Name(RenameMode::To)),
                "..data",
                true,
            ),
        ] {
            assert_eq!(concerns(&event(kind, name), &names), expected, "{kind:?} {name}");
        }
        let lost = event(data, "access.log").set_flag(Flag::Rescan);
        assert!(concerns(&lost, &names), "events were lost");
    }

    #[tokio::test]
    async fn files_that_are_named_are_followed_from_the_content_that_was_read() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, key) = (here.path().join("a.yaml"), there.path().join("tls.key"));
        fs::write(&file, "one").unwrap();
        fs::write(&key, "one").unwrap();
        let read = Files::from([(key.clone(), fingerprint(&key))]);
        let mut watch = Watch::start(&file, QUICK).unwrap();
        watch.follow(&read);
        assert!(stays(&mut watch).await, "nothing has changed");
        fs::write(&key, "two").unwrap();
        assert!(changes(&mut watch).await, "a write");

        watch.follow(&Files::from([(key.clone(), fingerprint(&key))]));
        assert!(stays(&mut watch).await, "as it was read");
        watch.follow(&read);
        assert!(changes(&mut watch).await, "it was read before it changed");
        fs::remove_file(&key).unwrap();
        assert!(changes(&mut watch).await, "it is gone");
        watch.follow(&Files::new());
        fs::write(&key, "three").unwrap();
        assert!(stays(&mut watch).await, "it is no longer named");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let error = Watch::start("/nonexistent/a.yaml", QUICK).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("/nonexistent/a.yaml cannot be watched")
        );
    }
}
