//! The files of the directory and what was last good in each.
//!
//! When is a file believed? A writer that does not rename can be caught in the middle, and half a file
//! may well parse: it then lacks objects, or ends within a line. So what parses, takes nothing away and
//! ends with a line's end is believed at once; everything else is looked at again 50 ms later and
//! believed when it has not changed since. That goes for a file that is gone as well, because many
//! editors move a file away before they write it anew. A file that the kernel says was deleted, under its
//! own name, is looked at again after 10 ms already: who means to write it anew does so in the next system call.
//! But if that look comes late, the machine is busy, and may have kept the writer waiting too; then the 50 ms stand.
//!
//! A file with a broken document keeps the objects it had, for nobody knows which of them that
//! document was; its good documents go live. An object in several files is taken from the first by path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File as OpenFile};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::document::{Parsed, Problem, parse};
use super::walk::{Stamp, Walk, is_manifest};
use super::watch::{Changed, Watch};
use crate::kubernetes::Settings;
use crate::kubernetes::index::{Index, compact};
use crate::kubernetes::objects::{Key, Object};
use crate::model::{Delta, Reject, SourceName};

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The most objects of a directory.
const MAX_OBJECTS: usize = 100_000;

/// When a file that is not believed at once is looked at again.
const SECOND_LOOK: Duration = Duration::from_millis(50);

/// The same for a file that was deleted, if that look is not late: in twice the time at the most.
const LOOK_AFTER_DELETION: Duration = Duration::from_millis(10);

/// What a look gave.
#[derive(Debug)]
pub struct Seen {
    /// What changed, with all that is rejected now; none when neither did.
    pub change: Option<(Delta, Vec<Reject>)>,
    /// When a second look is due.
    pub look_again: Option<Instant>,
}

/// A directory's files and the index they feed.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    source: SourceName,
    index: Index,
    files: BTreeMap<Arc<Path>, File>,
    /// The files in which an object is, by path; nearly always one, for which a set would take twelve times the room.
    definitions: BTreeMap<Key, Box<[Arc<Path>]>>,
    /// Those in several files.
    duplicates: BTreeSet<Key>,
    rejects: Vec<Reject>,
    /// What the last walk saw.
    walk: Walk,
    /// Whether the first look is over. In it everything is believed: nothing can be lost.
    is_opened: bool,
}

/// A file as it was last believed.
#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    content: Option<Content>,
    objects: BTreeMap<Key, (Object, u32)>,
    problems: Vec<Problem>,
    doubt: Option<Doubt>,
}

/// What is not believed yet.
#[derive(Clone, Debug)]
struct Doubt {
    content: Content,
    since: Instant,
    /// How long it must stay so.
    patience: Duration,
}

impl Doubt {
    fn due(&self) -> Instant {
        self.since + self.patience
    }
}

/// What a look at one file found.
enum State {
    There(Stamp),
    /// Not there; perhaps because it was deleted, as the kernel says.
    Gone {
        is_deleted: bool,
    },
}

/// What tells one content from another.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Gone,
    Hash(u64),
    /// It cannot be read as text.
    Unreadable(String),
}

impl Directory {
    /// What its objects are.
    pub fn into_index(self) -> Index {
        self.index
    }

    /// A directory of which nothing is known yet.
    pub fn new(root: PathBuf, settings: Settings) -> Self {
        let source = SourceName::new(root.to_string_lossy());
        Self {
            index: Index::new(source.clone(), settings),
            source,
            root,
            files: BTreeMap::new(),
            definitions: BTreeMap::new(),
            duplicates: BTreeSet::new(),
            rejects: Vec::new(),
            walk: Walk::default(),
            is_opened: false,
        }
    }

    /// Looks what changed. `now` decides about second looks only.
    pub fn look(&mut self, now: Instant, watch: &mut Watch) -> Seen {
        // first, so that what comes from now on wakes the next look
        let changed = watch.take_changed();
        let mut touched = BTreeSet::new();
        match self.only_known(&changed, now) {
            Some(files) => {
                for (path, state) in files {
                    match state {
                        State::There(stamp) => self.visit(&path, stamp, true, now, &mut touched),
                        State::Gone { is_deleted } => self.miss(&path, is_deleted, now, &mut touched),
                    }
                }
            }
            None => self.look_through(&changed, now, watch, &mut touched),
        }
        self.feed(touched);
        let delta = self.index.take_delta();
        if !self.is_opened {
            self.index.compact();
            compact(&mut self.definitions);
            self.is_opened = true;
        }
        let rejects = self.all_rejects();
        let look_again = self.doubts().map(|(_, doubt)| doubt.due()).min();
        if delta.is_empty() && rejects == self.rejects {
            return Seen {
                change: None,
                look_again,
            };
        }
        self.rejects.clone_from(&rejects);
        Seen {
            change: Some((delta, rejects)),
            look_again,
        }
    }

    /// The files that changed or are due for a second look, when it is certain that nothing else did: an edit in a
    /// large directory costs no walk through it.
    fn only_known(&mut self, changed: &Changed, now: Instant) -> Option<Vec<(Arc<Path>, State)>> {
        let Changed::Paths(paths) = changed else {
            return None;
        };
        if self.walk.has_links || !self.walk.unreadable.is_empty() {
            return None;
        }
        let mut events: BTreeSet<PathBuf> = paths.keys().cloned().collect();
        for (path, _) in self.doubts().filter(|(_, doubt)| doubt.due() <= now) {
            events.insert(self.walk.files.get(path)?.event_path.clone());
        }
        if events.is_empty() {
            return None; // looked through for what no event told of
        }
        let mut files = Vec::new();
        for event_path in &events {
            let known = self.walk.by_event.get(event_path).cloned();
            match (known, fs::symlink_metadata(event_path)) {
                (Some(path), Ok(metadata)) if metadata.is_file() => {
                    files.push((path, State::There(Stamp::of(&metadata))));
                }
                // its directory as well: then nobody knows what became of it
                (Some(path), Err(error))
                    if error.kind() == io::ErrorKind::NotFound
                        && event_path.parent().is_some_and(Path::is_dir) =>
                {
                    let is_deleted = changed.is_deleted(event_path);
                    files.push((path, State::Gone { is_deleted }));
                }
                // an editor's temporary file, that came and went or is there still
                (None, Err(error))
                    if error.kind() == io::ErrorKind::NotFound && !self.walk.holds_directory(event_path) => {}
                (None, Ok(metadata)) if metadata.is_file() && !is_manifest(event_path) => {}
                (None, Ok(metadata)) if metadata.is_file() => {
                    let stamp = Stamp::of(&metadata);
                    let path = self.walk.admit(event_path, stamp.clone())?;
                    files.push((path, State::There(stamp)));
                }
                _ => return None,
            }
        }
        Some(files)
    }

    fn doubts(&self) -> impl Iterator<Item = (&Arc<Path>, &Doubt)> {
        self.files
            .iter()
            .filter_map(|(path, file)| Some((path, file.doubt.as_ref()?)))
    }

    /// Walks through the directory for what came, changed and went.
    fn look_through(
        &mut self,
        changed: &Changed,
        now: Instant,
        watch: &mut Watch,
        touched: &mut BTreeSet<Key>,
    ) {
        let mut walk = Walk::new(&self.root);
        while watch.follow(&walk.directories) {
            walk = Walk::new(&self.root); // what came between the walk and the watch
        }
        for (path, entry) in &walk.files {
            let is_named = changed.names(&entry.event_path);
            self.visit(path, entry.stamp.clone(), is_named, now, touched);
        }
        let is_unreadable = |path: &Path| walk.unreadable.iter().any(|(place, _)| path.starts_with(place));
        let gone: Vec<Arc<Path>> = self
            .files
            .keys()
            .filter(|path| !walk.files.contains_key(*path) && !is_unreadable(path) && !walk.is_cut)
            .cloned()
            .collect();
        let deleted: BTreeSet<&Arc<Path>> = gone
            .iter()
            .filter(|path| {
                let before = self.walk.files.get(*path);
                before.is_some_and(|entry| changed.is_deleted(&entry.event_path))
            })
            .collect();
        for path in &gone {
            self.miss(path, deleted.contains(path), now, touched);
        }
        self.walk = walk;
    }

    /// Reads a file if it may have changed, and takes its objects if they are believed.
    fn visit(
        &mut self,
        path: &Arc<Path>,
        stamp: Stamp,
        is_named: bool,
        now: Instant,
        touched: &mut BTreeSet<Key>,
    ) {
        if !self.files.contains_key(path) {
            self.files.insert(Arc::clone(path), File::default());
        }
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        if !is_named && file.doubt.is_none() && file.stamp.as_ref() == Some(&stamp) {
            return;
        }
        file.stamp = Some(stamp);
        let text = read_text(path);
        let content = match &text {
            Ok(text) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                Content::Hash(hasher.finish())
            }
            Err(reason) => Content::Unreadable(reason.clone()),
        };
        if file.content.as_ref() == Some(&content) {
            file.doubt = None;
            return;
        }
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let parsed = match &text {
            Ok(text) => parse(text, is_json),
            Err(reason) => Parsed {
                problems: vec![Problem {
                    line: 0,
                    reason: reason.clone(),
                }],
                is_broken: true,
                ..Parsed::default()
            },
        };
        let keys: BTreeSet<&Key> = parsed.objects.iter().map(|(key, ..)| key).collect();
        let is_whole = !parsed.is_broken
            && file.objects.keys().all(|key| keys.contains(key))
            && (is_json || text.is_ok_and(|text| text.ends_with('\n')));
        if is_whole || !self.is_opened || file.is_confirmed(&content, SECOND_LOOK, now) {
            let room = MAX_OBJECTS.saturating_sub(self.definitions.len());
            self.take(path, content, parsed, room, touched);
        }
    }

    /// A file that is gone loses its objects at the second look.
    fn miss(&mut self, path: &Arc<Path>, is_deleted: bool, now: Instant, touched: &mut BTreeSet<Key>) {
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        let patience = if is_deleted {
            LOOK_AFTER_DELETION
        } else {
            SECOND_LOOK
        };
        if file.objects.is_empty() || file.is_confirmed(&Content::Gone, patience, now) {
            self.take(path, Content::Gone, Parsed::default(), 0, touched);
            self.files.remove(path);
            self.walk.forget(path);
        }
    }

    /// Takes what a file holds now for true.
    fn take(
        &mut self,
        path: &Arc<Path>,
        content: Content,
        parsed: Parsed,
        room: usize,
        touched: &mut BTreeSet<Key>,
    ) {
        let Some(file) = self.files.get_mut(path) else {
            return;
        };
        let old = std::mem::take(&mut file.objects);
        file.content = Some(content);
        file.doubt = None;
        file.problems = parsed.problems;
        let mut left = room + old.len();
        for (key, object, line) in parsed.objects {
            let problem = if let Some((_, first)) = file.objects.get(&key) {
                format!("{key} is in line {first} already; this one is left out")
            } else if left == 0 {
                format!("there are more than {MAX_OBJECTS} objects in the directory; {key} is left out")
            } else {
                left -= 1;
                file.objects.insert(key, (object, line));
                continue;
            };
            if file.problems.len() < 64 {
                file.problems.push(Problem {
                    line,
                    reason: problem,
                });
            }
        }
        if parsed.is_broken {
            for (key, kept) in &old {
                file.objects.entry(key.clone()).or_insert_with(|| kept.clone());
            }
        }
        for key in old.keys().filter(|key| !file.objects.contains_key(*key)) {
            if let Some(paths) = self.definitions.get_mut(key) {
                *paths = paths.iter().filter(|other| *other != path).cloned().collect();
                if paths.len() < 2 {
                    self.duplicates.remove(key);
                }
                if paths.is_empty() {
                    self.definitions.remove(key);
                }
            }
            touched.insert(key.clone());
        }
        for key in file.objects.keys() {
            let paths = self.definitions.entry(key.clone()).or_default();
            if let Err(at) = paths.binary_search(path) {
                let (before, after) = paths.split_at(at);
                *paths = [before, &[Arc::clone(path)], after].concat().into();
            }
            if paths.len() > 1 {
                self.duplicates.insert(key.clone());
            }
            touched.insert(key.clone());
        }
    }

    /// Gives the index what became of the touched objects.
    fn feed(&mut self, touched: BTreeSet<Key>) {
        for key in touched {
            match self.definition(&key) {
                Some((_, object, _)) => {
                    let object = object.clone();
                    self.index.apply(object);
                }
                None => self.index.delete(&key),
            }
        }
    }

    /// The file that counts for an object, the object, and its line.
    fn definition(&self, key: &Key) -> Option<(&Path, &Object, u32)> {
        let path = self.definitions.get(key)?.first()?;
        let (object, line) = self.files.get(path)?.objects.get(key)?;
        Some((path, object, *line))
    }

    /// All that is rejected: what the walk, the files and the index say.
    fn all_rejects(&self) -> Vec<Reject> {
        let mut rejects = self.problems();
        rejects.extend(self.index.rejects_with(|key| match self.definition(key) {
            Some((path, _, line)) => format!("{key} ({})", self.place(path, line)),
            None => key.to_string(),
        }));
        rejects
    }

    /// What the walk and the files say, each with its place.
    pub fn problems(&self) -> Vec<Reject> {
        let reject = |object: String, reason: String| Reject {
            source: self.source.clone(),
            object,
            field: None,
            reason,
        };
        let mut rejects = Vec::new();
        for (path, error) in &self.walk.unreadable {
            rejects.push(reject(
                self.place(path, 0),
                format!("cannot be read, what was read before stays: {error}"),
            ));
        }
        if self.walk.is_cut {
            rejects.push(reject(
                self.place(&self.root, 0),
                "there are too many files; some are left out".to_owned(),
            ));
        }
        for (path, file) in &self.files {
            for problem in &file.problems {
                rejects.push(reject(self.place(path, problem.line), problem.reason.clone()));
            }
        }
        for key in &self.duplicates {
            let Some((paths, first)) = self
                .definitions
                .get(key)
                .and_then(|paths| Some((paths, paths.first()?)))
            else {
                continue;
            };
            for path in paths.iter().skip(1) {
                let line = self
                    .files
                    .get(path)
                    .and_then(|file| file.objects.get(key))
                    .map_or(0, |(_, line)| *line);
                rejects.push(reject(
                    self.place(path, line),
                    format!(
                        "{key} is in {} already; this one is left out",
                        self.place(first, 0)
                    ),
                ));
            }
        }
        rejects.truncate(1000);
        rejects
    }

    /// A file, and a line if it is not 0, as a user would name it.
    fn place(&self, path: &Path, line: u32) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        let path = if path.as_os_str().is_empty() {
            &self.root
        } else {
            path
        };
        match line {
            0 => path.display().to_string(),
            _ => format!("{}:{line}", path.display()),
        }
    }
}

impl File {
    /// Whether a doubted content has been the same for long enough; begins to doubt it if not.
    fn is_confirmed(&mut self, content: &Content, patience: Duration, now: Instant) -> bool {
        match &mut self.doubt {
            Some(doubt) if doubt.content == *content => {
                let stayed = now.saturating_duration_since(doubt.since);
                let is_late = stayed >= 2 * doubt.patience && stayed < SECOND_LOOK;
                if is_late {
                    doubt.patience = SECOND_LOOK;
                }
                stayed >= doubt.patience
            }
            _ => {
                self.doubt = Some(Doubt {
                    content: content.clone(),
                    since: now,
                    patience,
                });
                false
            }
        }
    }
}

/// The text of a file, or why there is none.
fn read_text(path: &Path) -> Result<String, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        OpenFile::open(path)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| format!("cannot be read, what was read before stays: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("is larger than 16 MiB; what was read before stays".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("is no UTF-8 text (line {line}); what was read before stays")
    })
}

#[cfg(test)]
mod tests;
