//! Walking the directory: which files there are, without reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Levels of directories below the root that are read.
const MAX_DEPTH: usize = 3;

/// Files and directories that are looked at; more are left out.
const MAX_ENTRIES: usize = 20_000;

/// What a walk saw.
#[derive(Debug, Default)]
pub struct Walk {
    /// The manifest files by path.
    pub files: BTreeMap<Arc<Path>, Entry>,
    /// The same by the path that an event would name.
    pub by_event: BTreeMap<PathBuf, Arc<Path>>,
    /// The directories, in canonical form.
    pub directories: BTreeSet<PathBuf>,
    /// The same with the names by which they were found.
    named: BTreeMap<PathBuf, PathBuf>,
    /// How many more entries would be looked at.
    left: usize,
    /// What could not be looked at. What was known below it is not gone.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Whether any entry is a link, hidden ones included, so that a change may show elsewhere than where it happens.
    pub has_links: bool,
    /// Whether there was more than is looked at.
    pub is_cut: bool,
}

/// A file that was seen.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// How an event would name it: its directory in canonical form.
    pub event_path: PathBuf,
    /// What tells one content from another without reading.
    pub stamp: Stamp,
}

/// What tells one content of a file from another without reading it, as well as that can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds of the last change of content and of the inode.
    times: [i64; 4],
}

impl Stamp {
    /// Of a file.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            times: [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ],
        }
    }
}

impl Walk {
    /// Walks a directory.
    pub fn new(root: &Path) -> Self {
        let mut walk = Self {
            left: MAX_ENTRIES,
            ..Self::default()
        };
        walk.enter(root, MAX_DEPTH);
        walk
    }

    /// Takes in a file that came into a directory that is known; none if it is in no such place or one too many.
    pub fn admit(&mut self, event_path: &Path, stamp: Stamp) -> Option<Arc<Path>> {
        let directory = self.named.get(event_path.parent()?)?;
        let path: Arc<Path> = directory.join(event_path.file_name()?).into();
        self.left = self.left.checked_sub(1)?;
        self.by_event.insert(event_path.to_owned(), Arc::clone(&path));
        let entry = Entry {
            event_path: event_path.to_owned(),
            stamp,
        };
        self.files.insert(Arc::clone(&path), entry);
        Some(path)
    }

    /// Takes out a file that is gone.
    pub fn forget(&mut self, path: &Path) {
        if let Some(entry) = self.files.remove(path) {
            self.by_event.remove(&entry.event_path);
            self.left += 1;
        }
    }

    /// Whether a path is one of the directories or above one.
    pub fn holds_directory(&self, path: &Path) -> bool {
        self.directories
            .iter()
            .any(|directory| directory.starts_with(path))
    }

    fn enter(&mut self, directory: &Path, depth: usize) {
        let listed = fs::read_dir(directory).and_then(|entries| Ok((directory.canonicalize()?, entries)));
        let (canonical, entries) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.unreadable.push((directory.to_owned(), error));
                return;
            }
        };
        if !self.directories.insert(canonical.clone()) {
            return; // a link to where we have been
        }
        self.named.insert(canonical.clone(), directory.to_owned());
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.unreadable.push((directory.to_owned(), error));
                    return;
                }
            };
            let name = entry.file_name();
            self.has_links |= entry.file_type().map_or(true, |kind| kind.is_symlink());
            if name.as_encoded_bytes().first() == Some(&b'.') {
                continue;
            }
            if self.left == 0 {
                self.is_cut = true;
                return;
            }
            self.left -= 1;
            let path = directory.join(&name);
            // through links: the files of a ConfigMap are links into a hidden directory
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if depth > 0 {
                        self.enter(&path, depth - 1);
                    }
                }
                Ok(metadata) if metadata.is_file() && is_manifest(&path) => {
                    let entry = Entry {
                        event_path: canonical.join(&name),
                        stamp: Stamp::of(&metadata),
                    };
                    let path: Arc<Path> = Arc::from(path);
                    self.by_event.insert(entry.event_path.clone(), Arc::clone(&path));
                    self.files.insert(path, entry);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // gone, or a link to nowhere
                Err(error) => self.unreadable.push((path, error)),
            }
        }
    }
}

/// Whether a file of this name is read.
pub fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().first() != Some(&b'.')
        && matches!(
            path.extension().and_then(|extension| extension.to_str()),
            Some("yaml" | "yml" | "json")
        )
}
